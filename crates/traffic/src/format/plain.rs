//! Numbers, addresses and moments as log lines have them. `fmt` writes the same; a line has a dozen of them, and took a
//! quarter of what a request costs outside of the kernel.

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Room for the longest of what is written: an IPv4 address with its port, a `u64`, a moment.
const LONGEST: usize = 24;

/// ASCII that gathers without an allocation.
struct Text {
    bytes: [u8; LONGEST],
    length: usize,
}

impl Text {
    fn new() -> Self {
        Self { bytes: [0; LONGEST], length: 0 }
    }

    /// What does not fit is not written; nothing here is that long.
    fn push(&mut self, byte: u8) {
        if let Some(place) = self.bytes.get_mut(self.length) {
            *place = byte;
            self.length += 1;
        }
    }

    /// `n` with `width` digits, of which the first may be zeros.
    fn padded(&mut self, mut n: u64, width: usize) {
        let Some(places) = self.bytes.get_mut(self.length..self.length + width) else { return };
        for place in places.iter_mut().rev() {
            *place = b'0' + (n % 10) as u8;
            n /= 10;
        }
        self.length += width;
    }

    fn number(&mut self, n: u64) {
        self.padded(n, n.checked_ilog10().map_or(1, |digits| digits as usize + 1));
    }

    fn append_to(&self, out: &mut String) {
        out.push_str(std::str::from_utf8(&self.bytes[..self.length]).unwrap_or_default());
    }
}

/// A number, in decimal.
pub(super) fn number(n: u64, out: &mut String) {
    let mut text = Text::new();
    text.number(n);
    text.append_to(out);
}

/// An IP address, and a port if there is one.
pub(super) fn address(ip: IpAddr, port: Option<u16>, out: &mut String) {
    let mut text = Text::new();
    match (ip, port) {
        (IpAddr::V4(ip), _) => {
            for (i, octet) in ip.octets().into_iter().enumerate() {
                if i > 0 {
                    text.push(b'.');
                }
                text.number(u64::from(octet));
            }
            if let Some(port) = port {
                text.push(b':');
                text.number(u64::from(port));
            }
            text.append_to(out);
        }
        (IpAddr::V6(_), Some(port)) => out.push_str(&SocketAddr::new(ip, port).to_string()),
        (IpAddr::V6(ip), None) => out.push_str(&ip.to_string()),
    }
}

/// A moment as `2006-01-02T15:04:05.000Z`.
pub(super) fn moment(time: SystemTime, out: &mut String) {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
    let Ok(stamp) = jiff::Timestamp::from_second(i64::try_from(since.as_secs()).unwrap_or(0)) else { return };
    let at = jiff::tz::Offset::UTC.to_datetime(stamp);
    let mut text = Text::new();
    let field = |n: i8| u64::from(n.unsigned_abs());
    text.padded(u64::from(at.year().unsigned_abs()), 4);
    let parts = [(b'-', at.month()), (b'-', at.day()), (b'T', at.hour()), (b':', at.minute()), (b':', at.second())];
    for (mark, n) in parts {
        text.push(mark);
        text.padded(field(n), 2);
    }
    text.push(b'.');
    text.padded(u64::from(since.subsec_millis()), 3);
    text.push(b'Z');
    text.append_to(out);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn written(write: impl FnOnce(&mut String)) -> String {
        let mut out = String::new();
        write(&mut out);
        out
    }

    proptest! {
        #[test]
        fn as_fmt_writes_it(n: u64, digits in 0u32..20, v4: [u8; 4], v6: [u16; 8], port: u16) {
            for n in [n, n % 10u64.pow(digits), 10u64.pow(digits), 0, u64::MAX] {
                prop_assert_eq!(written(|out| number(n, out)), n.to_string());
            }
            for ip in [IpAddr::from(v4), IpAddr::from(v6)] {
                prop_assert_eq!(written(|out| address(ip, None, out)), ip.to_string());
                let whole = SocketAddr::new(ip, port);
                prop_assert_eq!(written(|out| address(ip, Some(port), out)), whole.to_string());
            }
        }

        #[test]
        fn moments_are_those_of_the_calendar(seconds in 0u64..253_000_000_000, ms in 0u64..1000) {
            let stamp = jiff::Timestamp::from_millisecond((seconds * 1000 + ms) as i64).unwrap();
            let text = written(|out| moment(UNIX_EPOCH + Duration::from_millis(seconds * 1000 + ms), out));
            prop_assert_eq!(text, stamp.strftime("%Y-%m-%dT%H:%M:%S.%3fZ").to_string());
        }
    }
}
