//! The time of day, as objects write it.

use std::time::SystemTime;

use k8s_openapi::jiff::Timestamp;

/// Now; the beginning of 1970 if the machine's clock is outside of what can be written.
pub fn now() -> Timestamp {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let seconds = i64::try_from(since.as_secs()).unwrap_or(0);
    let nanoseconds = i32::try_from(since.subsec_nanos()).unwrap_or(0);
    Timestamp::new(seconds, nanoseconds).unwrap_or_default()
}
