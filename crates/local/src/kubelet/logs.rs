//! What containers write, kept on disk by run, in the line format of Kubernetes' container runtimes:
//! `TIME STREAM TAG TEXT` (tag F: a whole line, P: a piece of one).

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use k8s_openapi::jiff::Timestamp;
use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe;
use tokio::sync::watch;

/// A file is put aside when it has grown to this many bytes; one such file is kept beside the current one.
const ROTATE_AT: u64 = 10 << 20;
/// The longest piece of a line, in bytes; containerd's limit.
const LINE_LIMIT: usize = 16 * 1024;
/// Bytes read from a container at once.
const PIECE: usize = 64 * 1024;

/// A pod's uid and a container's name.
type LogKey = (String, String);

/// The logs of all containers.
#[derive(Debug, Clone)]
pub struct Logs {
    root: PathBuf,
    known: Arc<Mutex<HashMap<LogKey, Arc<ContainerLog>>>>,
}

/// The log of one container of one pod.
#[derive(Debug)]
pub struct ContainerLog {
    directory: PathBuf,
    writing: Mutex<Option<Writing>>,
    progress: watch::Sender<Progress>,
}

#[derive(Debug)]
struct Writing {
    file: File,
    length: u64,
}

/// How far a log has come: readers wait for it to change.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Progress {
    run: u32,
    /// Files put aside in this run.
    rotations: u32,
    /// Bytes in the current file.
    length: u64,
    ended: bool,
}

/// Which stream a line came from.
#[derive(Debug, Clone, Copy)]
pub enum Stream {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
}

impl Logs {
    /// Logs under this directory.
    pub fn new(root: PathBuf) -> Self {
        Self { root, known: Arc::default() }
    }

    /// The log of a container, made if it has none.
    pub fn of(&self, uid: &str, container: &str) -> Arc<ContainerLog> {
        let key = (uid.to_owned(), container.to_owned());
        let made = || {
            let directory = self.root.join(safe(uid)).join(safe(container));
            Arc::new(ContainerLog { directory, writing: Mutex::default(), progress: watch::Sender::default() })
        };
        locked(&self.known).entry(key).or_insert_with(made).clone()
    }

    /// Forgets a pod and deletes its files.
    pub fn remove_pod(&self, uid: &str) {
        locked(&self.known).retain(|(pod, _), _| pod != uid);
        match std::fs::remove_dir_all(self.root.join(safe(uid))) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                tracing::warn!(%error, "cannot delete the logs of a pod");
            }
            _ => {}
        }
    }
}

/// Names come from manifests that were validated; nothing but a plain file name is ever used all the same.
fn safe(name: &str) -> String {
    name.replace(['/', '\0'], "_").trim_start_matches('.').to_owned()
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl ContainerLog {
    /// Begins the log of a run (counted from 0); the run before is kept, earlier ones are deleted.
    ///
    /// # Errors
    /// When the file cannot be made.
    pub fn begin(&self, run: u32) -> io::Result<()> {
        std::fs::create_dir_all(&self.directory)?;
        let file = File::create(self.path(run))?;
        *locked(&self.writing) = Some(Writing { file, length: 0 });
        if let Some(old) = run.checked_sub(2) {
            let _ = std::fs::remove_file(self.path(old));
            let _ = std::fs::remove_file(aside(&self.path(old)));
        }
        self.progress.send_replace(Progress { run, ..Progress::default() });
        Ok(())
    }

    /// Ends the run: readers that follow it come to an end.
    pub fn end(&self) {
        self.progress.send_modify(|progress| progress.ended = true);
    }

    /// Copies what a container writes until it closes its end.
    pub async fn copy(self: Arc<Self>, mut from: pipe::Receiver, stream: Stream) {
        let mut pending = Vec::with_capacity(PIECE);
        while let Ok(1..) = from.read_buf(&mut pending).await {
            let whole = pending.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
            let taken = if whole == 0 && pending.len() >= LINE_LIMIT { pending.len() } else { whole };
            if taken > 0 {
                self.append(pending.get(..taken).unwrap_or_default(), stream);
                pending.drain(..taken);
            }
        }
        if !pending.is_empty() {
            self.append(&pending, stream);
        }
    }

    fn append(&self, text: &[u8], stream: Stream) {
        let time = crate::clock::now();
        let name = match stream {
            Stream::Stdout => "stdout",
            Stream::Stderr => "stderr",
        };
        let mut lines = Vec::with_capacity(text.len() + 64);
        for line in text.split_inclusive(|byte| *byte == b'\n') {
            let (line, ended) = line.strip_suffix(b"\n").map_or((line, false), |line| (line, true));
            let pieces = line.len().div_ceil(LINE_LIMIT).max(1);
            for index in 0..pieces {
                let piece =
                    line.get(index * LINE_LIMIT..((index + 1) * LINE_LIMIT).min(line.len())).unwrap_or_default();
                let tag = if index + 1 == pieces && ended { 'F' } else { 'P' };
                // The precision is fixed, as readers sort these.
                let _ = write!(lines, "{time:.9} {name} {tag} ");
                lines.extend_from_slice(piece);
                lines.push(b'\n');
            }
        }
        let mut writing = locked(&self.writing);
        let Some(current) = writing.as_mut() else { return };
        let mut progress = *self.progress.borrow();
        if current.length > ROTATE_AT {
            let path = self.path(progress.run);
            if let Ok(file) = std::fs::rename(&path, aside(&path)).and_then(|()| File::create(&path)) {
                *current = Writing { file, length: 0 };
                progress.rotations += 1;
            }
        }
        match current.file.write_all(&lines) {
            Ok(()) => current.length += lines.len() as u64,
            Err(error) => tracing::warn!(%error, directory = %self.directory.display(), "cannot keep a log"),
        }
        progress.length = current.length;
        self.progress.send_modify(|told| *told = Progress { ended: told.ended, ..progress });
    }

    fn path(&self, run: u32) -> PathBuf {
        self.directory.join(format!("{run}.log"))
    }

    /// Opens the log for reading.
    ///
    /// # Errors
    /// When there is no such run yet.
    pub fn read(&self, previous: bool, follow: bool) -> io::Result<LogReader> {
        let progress = self.progress.subscribe();
        let now = *progress.borrow();
        let run = if previous { now.run.checked_sub(1).ok_or(io::ErrorKind::NotFound)? } else { now.run };
        let path = self.path(run);
        let file = File::open(&path)?;
        let before = File::open(aside(&path)).ok();
        let follow = (follow && !previous).then_some((progress, now));
        Ok(LogReader { path, before, file, follow })
    }
}

fn aside(path: &Path) -> PathBuf {
    path.with_extension("log.old")
}

/// Reads the lines of one run.
#[derive(Debug)]
pub struct LogReader {
    path: PathBuf,
    before: Option<File>,
    file: File,
    follow: Option<(watch::Receiver<Progress>, Progress)>,
}

impl LogReader {
    /// Everything there is now.
    ///
    /// # Errors
    /// When a file cannot be read.
    pub fn now(&mut self) -> io::Result<Vec<u8>> {
        let mut text = Vec::new();
        if let Some(mut before) = self.before.take() {
            before.read_to_end(&mut text)?;
        }
        self.file.read_to_end(&mut text)?;
        Ok(text)
    }

    /// What comes after; `None` when the run has ended, or at once if nobody asked to follow.
    ///
    /// # Errors
    /// When a file cannot be read.
    pub async fn more(&mut self) -> io::Result<Option<Vec<u8>>> {
        let Some((progress, seen)) = &mut self.follow else { return Ok(None) };
        loop {
            let now = *progress.borrow_and_update();
            let mut text = Vec::new();
            self.file.read_to_end(&mut text)?;
            if now.run == seen.run && now.rotations != seen.rotations {
                self.file = File::open(&self.path)?;
                self.file.read_to_end(&mut text)?;
            }
            let over = now.run != seen.run || now.ended;
            seen.rotations = now.rotations;
            if !text.is_empty() {
                return Ok(Some(text));
            }
            if over || progress.changed().await.is_err() {
                return Ok(None);
            }
        }
    }
}

/// The text of stored lines as the container wrote it, or with the time before each line.
pub fn plain(stored: &[u8], timestamps: bool) -> Vec<u8> {
    let mut text = Vec::with_capacity(stored.len());
    let mut continued = false;
    for line in stored.split_inclusive(|byte| *byte == b'\n') {
        let line = line.strip_suffix(b"\n").unwrap_or(line);
        let mut parts = line.splitn(4, |byte| *byte == b' ');
        let (Some(time), Some(_), Some(tag), Some(rest)) = (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            continue;
        };
        if timestamps && !continued {
            text.extend_from_slice(time);
            text.push(b' ');
        }
        text.extend_from_slice(rest);
        continued = tag == b"P";
        if !continued {
            text.push(b'\n');
        }
    }
    text
}

/// The part of stored text that was written at that time or later.
pub fn since(stored: &[u8], time: Timestamp) -> &[u8] {
    let earlier = |line: &&[u8]| {
        let written = line.split(|byte| *byte == b' ').next().and_then(|text| std::str::from_utf8(text).ok());
        written.and_then(|text| text.parse::<Timestamp>().ok()).is_none_or(|written| written < time)
    };
    let skipped: usize = stored.split_inclusive(|byte| *byte == b'\n').take_while(earlier).map(<[u8]>::len).sum();
    stored.get(skipped..).unwrap_or_default()
}

/// The last so many whole lines of stored text.
pub fn tail(stored: &[u8], lines: u64) -> &[u8] {
    let mut left = lines;
    let mut start = stored.len();
    // From the end, each line's beginning; pieces belong to the line that ends after them.
    for line in stored.split_inclusive(|byte| *byte == b'\n').rev() {
        let whole = line.splitn(4, |byte| *byte == b' ').nth(2) == Some(b"F".as_slice());
        if whole {
            if left == 0 {
                break;
            }
            left -= 1;
        }
        start -= line.len();
    }
    stored.get(start..).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(bytes: Vec<u8>) -> String {
        String::from_utf8(bytes).unwrap()
    }

    #[tokio::test]
    async fn a_run_is_read_followed_and_kept_as_the_previous_one() {
        let directory = tempfile::tempdir().unwrap();
        let logs = Logs::new(directory.path().to_owned());
        let log = logs.of("uid", "app");
        assert!(log.read(false, false).is_err(), "nothing ran yet");
        log.begin(0).unwrap();
        log.append(b"one\ntwo\n", Stream::Stdout);
        let mut reader = log.read(false, true).unwrap();
        let stored = reader.now().unwrap();
        assert_eq!(text(plain(&stored, false)), "one\ntwo\n");
        assert_eq!(text(plain(tail(&stored, 1), false)), "two\n");
        let hour = k8s_openapi::jiff::SignedDuration::from_hours(1);
        assert_eq!(text(plain(since(&stored, crate::clock::now() - hour), false)), "one\ntwo\n");
        assert_eq!(since(&stored, crate::clock::now() + hour), b"");
        assert!(text(plain(&stored, true)).lines().all(|line| line.contains("Z ")));
        log.append(b"three\n", Stream::Stderr);
        assert_eq!(text(plain(&reader.more().await.unwrap().unwrap(), false)), "three\n");
        log.end();
        assert_eq!(reader.more().await.unwrap(), None);
        log.begin(1).unwrap();
        log.append(b"again\n", Stream::Stdout);
        assert_eq!(text(plain(&log.read(false, false).unwrap().now().unwrap(), false)), "again\n");
        let previous = log.read(true, false).unwrap().now().unwrap();
        assert_eq!(text(plain(&previous, false)), "one\ntwo\nthree\n");
        logs.remove_pod("uid");
        assert!(!directory.path().join("uid").exists());
    }

    #[test]
    fn long_lines_come_back_whole_and_large_files_are_put_aside() {
        let directory = tempfile::tempdir().unwrap();
        let log = Logs::new(directory.path().to_owned()).of("uid", "app");
        log.begin(0).unwrap();
        let long = "x".repeat(3 * LINE_LIMIT + 5) + "\n";
        log.append(long.as_bytes(), Stream::Stdout);
        assert_eq!(text(plain(&log.read(false, false).unwrap().now().unwrap(), false)), long);
        let megabyte = ("y".repeat(99) + "\n").repeat(10_000);
        for _ in 0..12 {
            log.append(megabyte.as_bytes(), Stream::Stdout);
        }
        assert!(aside(&log.path(0)).exists());
        let all = log.read(false, false).unwrap().now().unwrap();
        assert!(all.len() as u64 <= 2 * (ROTATE_AT + 2_000_000));
        assert!(text(plain(&all, false)).ends_with("y\n"));
    }
}
