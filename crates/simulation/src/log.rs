//! Access logs, for those who want to compare them with a real proxy's.

use std::cell::RefCell;

use lateen_traffic::access_log::AccessLog;
use lateen_traffic::format::Facts;
use lateen_traffic::record::Record;
use lateen_traffic::{RequestHead, ResponseHead};

/// The lines of a proxy.
#[derive(Debug, Default)]
pub struct Log {
    lines: RefCell<Option<String>>,
}

impl Log {
    /// Keeps what is written from now on.
    pub fn keep(&self) {
        self.lines.borrow_mut().get_or_insert_default();
    }

    /// What was written since it was last asked.
    pub fn take(&self) -> String {
        self.lines.borrow_mut().as_mut().map(std::mem::take).unwrap_or_default()
    }

    pub(crate) fn write(
        &self,
        logs: &[AccessLog],
        record: &Record,
        request: &RequestHead,
        response: Option<&ResponseHead>,
    ) {
        if let Some(lines) = &mut *self.lines.borrow_mut() {
            for log in logs {
                log.write(Facts { record, request, response }, lines);
            }
        }
    }
}
