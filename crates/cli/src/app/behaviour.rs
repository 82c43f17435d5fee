//! How the service answers, and how one request asks for another answer.

use std::time::Duration;

use crate::duration;

/// The largest padding a request may ask for, in bytes.
const LARGEST_ANSWER: usize = 64 << 20;
/// The longest delay a request may ask for.
const LONGEST_DELAY: Duration = Duration::from_secs(600);

/// How to answer one request.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Behaviour {
    /// Time between the request's end and the answer's start.
    pub delay: Duration,
    /// HTTP status of answers that do not fail.
    pub status: u16,
    /// Share of requests that fail with 503, from 0 to 1.
    pub fail_rate: f64,
    /// Least length of an answer's body in bytes.
    pub size: usize,
}

impl Behaviour {
    /// What a request's query asks for; parameters it does not name, and ones that are none of ours, change nothing.
    ///
    /// # Errors
    /// A sentence for the client, when one of ours has a value that is not understood.
    pub fn overridden(mut self, query: &str) -> Result<Behaviour, String> {
        for parameter in query.split('&') {
            let Some((name, value)) = parameter.split_once('=') else { continue };
            match name {
                "delay" => self.delay = duration::parse(value)?.min(LONGEST_DELAY),
                "status" => {
                    self.status = match value.parse() {
                        Ok(status @ 200..=599) => status,
                        _ => return Err(format!("{value:?} is not a status from 200 to 599")),
                    }
                }
                "fail-rate" => self.fail_rate = parse_rate(value)?,
                "size" => self.size = parse_size(value)?,
                _ => {}
            }
        }
        Ok(self)
    }

    /// Whether one request fails, when `chance` throws a number from 0 to below 1.
    pub fn fails(&self, chance: impl FnOnce() -> f64) -> bool {
        self.fail_rate > 0.0 && chance() < self.fail_rate
    }
}

/// Reads a share from 0 to 1.
///
/// # Errors
/// A sentence that says what is accepted.
pub fn parse_rate(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(rate) if (0.0..=1.0).contains(&rate) => Ok(rate),
        _ => Err(format!("{text:?} is not a share from 0 to 1")),
    }
}

/// Reads a length in bytes, at most 64 MiB.
///
/// # Errors
/// A sentence that says what is accepted.
pub fn parse_size(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(size) if size <= LARGEST_ANSWER => Ok(size),
        _ => Err(format!("{text:?} is not a length in bytes of at most {LARGEST_ANSWER}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLAIN: Behaviour = Behaviour { delay: Duration::ZERO, status: 200, fail_rate: 0.0, size: 0 };

    #[test]
    fn a_query_overrides() {
        let asked = PLAIN.overridden("a=b&delay=10ms&status=503&&fail-rate=0.5&size=9&x").unwrap();
        assert_eq!(asked, Behaviour { delay: Duration::from_millis(10), status: 503, fail_rate: 0.5, size: 9 });
        assert_eq!(PLAIN.overridden("").unwrap(), PLAIN);
    }

    #[test]
    fn a_query_that_is_not_understood_is_refused() {
        for query in
            ["status=100", "status=x", "delay=x", "fail-rate=2", "fail-rate=NaN", "size=-1", "size=99999999999"]
        {
            assert!(PLAIN.overridden(query).is_err(), "{query}");
        }
    }

    #[test]
    fn the_dice() {
        assert!(!PLAIN.fails(|| 0.0));
        let half = Behaviour { fail_rate: 0.5, ..PLAIN };
        assert!(half.fails(|| 0.49) && !half.fails(|| 0.5));
    }
}
