use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use lateen_traffic::access_log::{LogFilter, LogFormat};
use lateen_traffic::format::Format;
use lateen_traffic::message::RequestHead;
use lateen_traffic::record::{Flags, Record};

use super::*;
use crate::stats::Stats;

/// A folder that goes with the test.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!("lateen-access-log-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let path = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    fn file(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn log(path: &Path, format: &str) -> AccessLog {
    AccessLog {
        sink: Sink::File(path.to_str().unwrap().into()),
        format: LogFormat::Text(Format::parse(format).unwrap()),
        filter: LogFilter::All,
    }
}

fn request(path: &str) -> RequestHead {
    RequestHead { method: "GET".into(), path: path.into(), ..RequestHead::default() }
}

fn write(logs: &AccessLogs, to: &[AccessLog], request: &RequestHead) {
    let address = "127.0.0.1:80".parse().unwrap();
    let record = Record::begin(std::time::SystemTime::now(), address, address);
    logs.write(to, Facts { record: &record, request, response: None });
}

/// Runs a worker's part.
fn on_worker<T>(work: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    tokio::task::LocalSet::new().block_on(&runtime, work)
}

/// Waits for a condition, for as long as a slow machine may need.
async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let start = Instant::now();
    while !holds() {
        assert!(start.elapsed() < Duration::from_secs(60), "never: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_default()
}

const SETTLE: Duration = Duration::from_secs(60);

#[test]
fn lines_are_written_a_moment_later_without_a_flush() {
    let folder = Folder::new();
    let path = folder.file("log");
    let stats = Stats::new(1);
    let files = LogFiles::new(stats.clone());
    on_worker(async {
        let logs = AccessLogs::new(files);
        write(&logs, &[log(&path, "%REQ(:PATH)%\n")], &request("/a"));
        write(&logs, &[log(&path, "%REQ(:PATH)%\n")], &request("/b"));
        until("lines in the file", || read(&path) == "/a\n/b\n").await;
        write(&logs, &[log(&path, "%REQ(:PATH)%\n")], &request("/c"));
        until("another line in the file", || read(&path) == "/a\n/b\n/c\n").await;
        until("a count", || stats.filesystem.write_completed.get() == 2).await;
    });
    assert_eq!(stats.filesystem.write_buffered.get(), 3);
    assert_eq!(stats.filesystem.write_total_buffered.get(), 0);
    assert_eq!(stats.filesystem.write_dropped.get(), 0);
}

#[test]
fn filters_are_asked_and_all_logs_are_written() {
    let folder = Folder::new();
    let (one, two) = (folder.file("one"), folder.file("two"));
    let files = LogFiles::new(Stats::new(1));
    on_worker(async {
        let logs = AccessLogs::new(files.clone());
        let mut errors = log(&two, "error\n");
        errors.filter = LogFilter::ResponseFlags(Flags::NO_ROUTE);
        write(&logs, &[log(&one, "one\n"), log(&two, "two\n"), errors], &request("/"));
        logs.flush();
        assert!(files.settle(SETTLE));
    });
    assert_eq!((read(&one), read(&two)), ("one\n".to_owned(), "two\n".to_owned()));
}

#[test]
fn workers_lines_do_not_mix() {
    let folder = Folder::new();
    let path = folder.file("log");
    let files = LogFiles::new(Stats::new(4));
    let lines = 3000;
    std::thread::scope(|scope| {
        for worker in 0..4 {
            let (files, path) = (files.clone(), &path);
            scope.spawn(move || {
                on_worker(async {
                    let logs = AccessLogs::new(files.clone());
                    let to = [log(path, "%REQ(:PATH)%\n")];
                    let request = request(&worker.to_string().repeat(100));
                    for line in 0..lines {
                        write(&logs, &to, &request);
                        if line % 500 == 0 {
                            // Faster than any request: give the file's thread the time that a network would.
                            logs.flush();
                            assert!(files.settle(SETTLE));
                        }
                    }
                    logs.flush();
                    assert!(files.settle(SETTLE));
                });
            });
        }
    });
    let text = read(&path);
    assert_eq!(text.lines().count(), 4 * lines);
    for worker in 0..4 {
        let whole = worker.to_string().repeat(100);
        assert_eq!(text.lines().filter(|line| *line == whole).count(), lines);
    }
}

#[test]
fn a_full_buffer_does_not_wait() {
    let folder = Folder::new();
    let path = folder.file("log");
    let files = LogFiles::new(Stats::new(1));
    on_worker(async {
        let logs = AccessLogs::new(files.clone());
        let long = request(&"x".repeat(FULL / 2));
        for _ in 0..2 {
            write(&logs, &[log(&path, "%REQ(:PATH)%\n")], &long);
        }
        // Nothing was awaited, so no delayed flush can have run.
        assert!(files.settle(SETTLE));
        assert_eq!(read(&path).lines().count(), 2);
    });
}

#[test]
fn a_reopened_file_is_a_new_one() {
    let folder = Folder::new();
    let (path, rotated) = (folder.file("log"), folder.file("log.1"));
    let files = LogFiles::new(Stats::new(1));
    on_worker(async {
        let logs = AccessLogs::new(files.clone());
        let to = [log(&path, "%REQ(:PATH)%\n")];
        write(&logs, &to, &request("/before"));
        logs.flush();
        assert!(files.settle(SETTLE));
        std::fs::rename(&path, &rotated).unwrap();
        write(&logs, &to, &request("/renamed"));
        logs.flush();
        files.reopen();
        assert!(files.settle(SETTLE));
        write(&logs, &to, &request("/after"));
        logs.flush();
        assert!(files.settle(SETTLE));
    });
    assert_eq!((read(&rotated), read(&path)), ("/before\n/renamed\n".to_owned(), "/after\n".to_owned()));
}

#[test]
fn what_cannot_be_written_is_counted() {
    let folder = Folder::new();
    let stats = Stats::new(1);
    let files = LogFiles::new(stats.clone());
    on_worker(async {
        let logs = AccessLogs::new(files.clone());
        write(&logs, &[log(&folder.file("no/such/folder"), "line\n")], &request("/"));
        logs.flush();
        assert!(files.settle(SETTLE));
    });
    assert_eq!((stats.filesystem.write_failed.get(), stats.filesystem.write_dropped.get()), (1, 1));
}

#[test]
fn a_pipe_that_nobody_reads_stops_no_one() {
    let folder = Folder::new();
    let path = folder.file("pipe");
    let name = std::ffi::CString::new(path.to_str().unwrap()).unwrap();
    // SAFETY: the name ends in NUL and outlives the call.
    assert_eq!(unsafe { libc::mkfifo(name.as_ptr(), 0o600) }, 0);
    let stats = Stats::new(1);
    let files = LogFiles::new(stats.clone());
    let lines = 40 * FULL / 1000;
    let line = request(&"x".repeat(999));
    let read = on_worker(async {
        let logs = AccessLogs::new(files.clone());
        let to = [log(&path, "%REQ(:PATH)%\n")];
        for _ in 0..lines {
            write(&logs, &to, &line);
        }
        assert!(stats.filesystem.write_dropped.get() > 0);
        assert!(!files.settle(Duration::ZERO));
        // Once somebody reads, what was kept arrives, in whole lines.
        let reader = std::thread::spawn({
            let path = path.clone();
            move || std::fs::read_to_string(path).unwrap()
        });
        until("all kept lines passed on", || {
            logs.flush();
            !logs.0.holds_lines()
        })
        .await;
        assert!(files.settle(SETTLE));
        drop(logs);
        reader.join().unwrap()
    });
    let dropped = stats.filesystem.write_dropped.get() as usize;
    assert!(read.lines().all(|l| l.len() == 999));
    assert_eq!(read.lines().count() + dropped, lines);
}

#[test]
fn a_file_is_closed_when_no_worker_uses_it() {
    let folder = Folder::new();
    let path = folder.file("log");
    let files = LogFiles::new(Stats::new(1));
    on_worker(async {
        let logs = AccessLogs::new(files.clone());
        write(&logs, &[log(&path, "last words\n")], &request("/"));
    });
    // Without a flush: the worker's end passes the lines on, and they can still be waited for.
    assert!(files.settle(SETTLE));
    assert_eq!(read(&path), "last words\n");
    // The thread's end is the file's.
    let open = || {
        let links = std::fs::read_dir("/proc/self/fd").unwrap();
        links.filter_map(|l| std::fs::read_link(l.unwrap().path()).ok()).any(|to| to == path)
    };
    on_worker(async { until("closed, with all lines", || read(&path) == "last words\n" && !open()).await });
}
