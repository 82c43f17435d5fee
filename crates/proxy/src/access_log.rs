//! Writes access logs: lines are collected per worker and handed to one thread a file.
//!
//! A worker never waits for a disk or a pipe. It renders lines into its own buffer and passes the buffer on when it is
//! full or a moment later, whichever is first; the file's thread makes one write of it, so lines of several workers do
//! not mix. Where nobody takes the lines away (a full disk, a pipe without a reader) they are dropped and counted.
//! What a line says is [`lateen_traffic::access_log`]'s business.

mod files;

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use lateen_traffic::access_log::{AccessLog, Sink};
use lateen_traffic::format::Facts;

pub use files::LogFiles;
use files::{LogFile, Refused};

/// A buffer of this size is passed on at once.
const FULL: usize = 64 * 1024;

/// Lines wait this long for company.
const DELAY: Duration = Duration::from_millis(50);

/// A file that a worker wrote nothing to for this long is let go when another one is opened.
const UNUSED: Duration = Duration::from_secs(60);

/// The access logs of one worker. Clones share their buffers.
#[derive(Debug, Clone)]
pub struct AccessLogs(Rc<Inner>);

#[derive(Debug)]
struct Inner {
    files: Arc<LogFiles>,
    buffers: RefCell<Vec<Buffer>>,
    /// Whether a task waits to flush.
    waiting: Cell<bool>,
}

#[derive(Debug)]
struct Buffer {
    sink: Sink,
    file: Arc<LogFile>,
    text: String,
    lines: u64,
    used: Instant,
}

impl AccessLogs {
    /// For one worker; the files are shared by all.
    pub fn new(files: Arc<LogFiles>) -> Self {
        Self(Rc::new(Inner { files, buffers: RefCell::default(), waiting: Cell::new(false) }))
    }

    /// Writes what happened to each log that takes it. To be called inside a `LocalSet`, where the delayed flush runs.
    pub fn write(&self, logs: &[AccessLog], facts: Facts<'_>) {
        for log in logs {
            if log.filter.takes(facts.record) {
                self.0.append(log, facts);
            }
        }
        if !logs.is_empty() && !self.0.waiting.get() && self.0.holds_lines() {
            self.0.waiting.set(true);
            let inner = Rc::downgrade(&self.0);
            tokio::task::spawn_local(async move {
                loop {
                    tokio::time::sleep(DELAY).await;
                    let Some(inner) = inner.upgrade() else { return };
                    inner.flush();
                    // After a refusal lines are left: the file may take them the next time.
                    if !inner.holds_lines() {
                        inner.waiting.set(false);
                        return;
                    }
                }
            });
        }
    }

    /// Passes all lines on to the files' threads.
    pub fn flush(&self) {
        self.0.flush();
    }
}

impl Inner {
    fn append(&self, log: &AccessLog, facts: Facts<'_>) {
        let mut buffers = self.buffers.borrow_mut();
        let at = match buffers.iter().position(|b| same(&b.sink, &log.sink)) {
            Some(at) => at,
            None => {
                buffers.retain(|b| !b.text.is_empty() || b.used.elapsed() < UNUSED);
                let file = self.files.get(&log.sink);
                let used = Instant::now();
                buffers.push(Buffer { sink: log.sink.clone(), file, text: String::new(), lines: 0, used });
                buffers.len() - 1
            }
        };
        let buffer = &mut buffers[at];
        if buffer.text.len() >= FULL && !buffer.pass_on() {
            self.files.stats().filesystem.write_dropped.inc();
            return;
        }
        log.write(facts, &mut buffer.text);
        buffer.lines += 1;
        if buffer.text.len() >= FULL {
            buffer.pass_on();
        }
    }

    fn holds_lines(&self) -> bool {
        self.buffers.borrow().iter().any(|b| !b.text.is_empty())
    }

    fn flush(&self) {
        for buffer in self.buffers.borrow_mut().iter_mut().filter(|b| !b.text.is_empty()) {
            if buffer.pass_on() {
                self.files.stats().filesystem.flushed_by_timer.inc();
            }
        }
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        for buffer in self.buffers.get_mut() {
            buffer.pass_on();
        }
    }
}

impl Buffer {
    /// Whether the buffer is empty now.
    fn pass_on(&mut self) -> bool {
        self.used = Instant::now();
        match self.file.write(std::mem::take(&mut self.text), self.lines) {
            Ok(()) => {
                self.lines = 0;
                true
            }
            Err(Refused(text)) => {
                self.text = text;
                false
            }
        }
    }
}

/// Equality that is quick for the usual case of the same configuration.
fn same(a: &Sink, b: &Sink) -> bool {
    match (a, b) {
        (Sink::File(a), Sink::File(b)) => Arc::ptr_eq(a, b) || a == b,
        _ => a == b,
    }
}

#[cfg(test)]
mod tests;
