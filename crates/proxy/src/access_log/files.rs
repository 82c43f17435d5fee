//! The files behind access logs: opened once, written by a thread each.

use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::os::fd::AsFd as _;
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use lateen_traffic::access_log::Sink;

use crate::stats::Stats;

/// Buffers that may wait for a file's thread; more are refused.
const QUEUE: usize = 32;

/// A file that cannot be opened is tried again after this time.
const RETRY: Duration = Duration::from_secs(1);

/// All open access-log files.
#[derive(Debug)]
pub struct LogFiles {
    open: Mutex<HashMap<Sink, Weak<LogFile>>>,
    /// Under way to any file, also to one that its workers have let go of.
    queue: Arc<Queue>,
    stats: Arc<Stats>,
}

impl LogFiles {
    /// None open yet.
    pub fn new(stats: Arc<Stats>) -> Arc<Self> {
        Arc::new(Self { open: Mutex::default(), queue: Arc::default(), stats })
    }

    /// Closes and opens all files by name, as after a log rotation. Lines passed on before go to the old file.
    pub fn reopen(&self) {
        let open: Vec<_> = lock(&self.open).values().filter_map(Weak::upgrade).collect();
        for file in open {
            if !file.send(Message::Reopen) {
                self.stats.filesystem.reopen_failed.inc();
            }
        }
    }

    /// Waits until all that was passed on is written; false if that took longer. Blocks the thread: meant for the end
    /// of the process.
    pub fn settle(&self, timeout: Duration) -> bool {
        self.queue.wait_empty(timeout)
    }

    pub(super) fn stats(&self) -> &Stats {
        &self.stats
    }

    pub(super) fn get(&self, sink: &Sink) -> Arc<LogFile> {
        // Opened by name these would have an offset of their own, and overwrite what goes to the descriptor.
        let sink = match sink {
            Sink::File(path) if &**path == "/dev/stdout" => &Sink::Stdout,
            Sink::File(path) if &**path == "/dev/stderr" => &Sink::Stderr,
            sink => sink,
        };
        let mut open = lock(&self.open);
        if let Some(file) = open.get(sink).and_then(Weak::upgrade) {
            return file;
        }
        open.retain(|_, file| file.strong_count() > 0);
        let file = LogFile::open(sink.clone(), self.queue.clone(), self.stats.clone());
        open.insert(sink.clone(), Arc::downgrade(&file));
        file
    }
}

enum Message {
    Lines(String),
    Reopen,
}

/// A file's thread does not keep up: the lines back.
pub(super) struct Refused(pub String);

/// One open file. Its thread ends when the last handle is gone and all is written.
#[derive(Debug)]
pub(super) struct LogFile {
    sender: SyncSender<Message>,
    queue: Arc<Queue>,
    stats: Arc<Stats>,
}

impl LogFile {
    fn open(sink: Sink, queue: Arc<Queue>, stats: Arc<Stats>) -> Arc<Self> {
        let (sender, receiver) = sync_channel(QUEUE);
        let writer =
            Writer { sink, file: None, tried: None, failing: false, stats: stats.clone(), queue: queue.clone() };
        let thread = std::thread::Builder::new().name("access-log".into()).spawn(move || writer.run(receiver));
        if let Err(error) = thread {
            // The receiver is gone with the thread; every write will be counted as failed.
            tracing::warn!(%error, "no thread for an access log: its lines are lost");
        }
        Arc::new(Self { sender, queue, stats })
    }

    /// Passes lines on.
    pub(super) fn write(&self, text: String, lines: u64) -> Result<(), Refused> {
        if text.is_empty() {
            return Ok(());
        }
        let bytes = i64::try_from(text.len()).unwrap_or(i64::MAX);
        self.queue.add();
        match self.sender.try_send(Message::Lines(text)) {
            Ok(()) => {
                self.stats.filesystem.write_buffered.add(lines);
                self.stats.filesystem.write_total_buffered.add(bytes);
                Ok(())
            }
            Err(TrySendError::Full(Message::Lines(text))) => {
                self.queue.done();
                Err(Refused(text))
            }
            Err(_) => {
                self.queue.done();
                self.stats.filesystem.write_failed.inc();
                self.stats.filesystem.write_dropped.add(lines);
                Ok(())
            }
        }
    }

    fn send(&self, message: Message) -> bool {
        self.queue.add();
        let sent = self.sender.try_send(message).is_ok();
        if !sent {
            self.queue.done();
        }
        sent
    }
}

/// How many messages are under way.
#[derive(Debug, Default)]
struct Queue {
    length: Mutex<usize>,
    empty: Condvar,
}

impl Queue {
    fn add(&self) {
        *lock(&self.length) += 1;
    }

    fn done(&self) {
        let mut length = lock(&self.length);
        *length = length.saturating_sub(1);
        if *length == 0 {
            self.empty.notify_all();
        }
    }

    fn wait_empty(&self, patience: Duration) -> bool {
        let waited = self.empty.wait_timeout_while(lock(&self.length), patience, |length| *length > 0);
        let (length, _) = waited.unwrap_or_else(PoisonError::into_inner);
        *length == 0
    }
}

/// The thread's side of a file.
struct Writer {
    sink: Sink,
    file: Option<File>,
    tried: Option<Instant>,
    failing: bool,
    stats: Arc<Stats>,
    queue: Arc<Queue>,
}

impl Writer {
    fn run(mut self, receiver: Receiver<Message>) {
        for message in receiver {
            match message {
                Message::Lines(text) => self.write(&text),
                Message::Reopen => self.reopen(),
            }
            self.queue.done();
        }
    }

    fn write(&mut self, text: &str) {
        let filesystem = &self.stats.filesystem;
        filesystem.write_total_buffered.add(-i64::try_from(text.len()).unwrap_or(i64::MAX));
        let result = match open(&self.sink, &mut self.file, &mut self.tried) {
            Ok(Some(file)) => file.write_all(text.as_bytes()),
            Ok(None) => Err(io::Error::other("cannot be opened")),
            Err(error) => Err(error),
        };
        match result {
            Ok(()) => {
                filesystem.write_completed.inc();
                if std::mem::take(&mut self.failing) {
                    tracing::info!(sink = ?self.sink, "access log is written again");
                }
            }
            Err(error) => {
                filesystem.write_failed.inc();
                filesystem.write_dropped.add(text.bytes().filter(|b| *b == b'\n').count() as u64);
                if !std::mem::replace(&mut self.failing, true) {
                    tracing::warn!(sink = ?self.sink, %error, "access log cannot be written: lines are lost");
                }
            }
        }
    }

    fn reopen(&mut self) {
        if !matches!(self.sink, Sink::File(_)) {
            return;
        }
        let (mut file, mut tried) = (None, None);
        match open(&self.sink, &mut file, &mut tried) {
            Ok(_) => self.file = file,
            Err(error) => {
                // The old file is better than none.
                self.stats.filesystem.reopen_failed.inc();
                tracing::warn!(sink = ?self.sink, %error, "access log cannot be opened again: the old file is kept");
            }
        }
    }
}

/// The open file, opened now if need be; `None` when that failed a moment ago.
fn open<'a>(sink: &Sink, file: &'a mut Option<File>, tried: &mut Option<Instant>) -> io::Result<Option<&'a mut File>> {
    if file.is_none() {
        if tried.is_some_and(|at| at.elapsed() < RETRY) {
            return Ok(None);
        }
        *tried = Some(Instant::now());
        *file = Some(match sink {
            Sink::Stdout => File::from(io::stdout().as_fd().try_clone_to_owned()?),
            Sink::Stderr => File::from(io::stderr().as_fd().try_clone_to_owned()?),
            Sink::File(path) => OpenOptions::new().append(true).create(true).open(&**path)?,
        });
    }
    Ok(file.as_mut())
}

/// A panic elsewhere while a lock was held leaves plain data behind, which is as good as before.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
