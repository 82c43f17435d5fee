//! Which answers are failures, where a cluster says so itself (Envoy's `error_matcher`).

use crate::ResponseHead;
use crate::matcher::HeaderMatcher;

/// Envoy's `MatchPredicate`, as far as it is about the head of a response.
#[derive(Debug, Clone)]
pub enum ErrorMatch {
    /// Any of these.
    Any(Vec<ErrorMatch>),
    /// All of these.
    All(Vec<ErrorMatch>),
    /// Not this.
    Not(Box<ErrorMatch>),
    /// Every answer.
    Always,
    /// All of these fields match.
    Headers(Vec<HeaderMatcher>),
}

impl ErrorMatch {
    /// Whether the response is a failure.
    pub fn matches(&self, response: &ResponseHead) -> bool {
        match self {
            Self::Any(these) => these.iter().any(|this| this.matches(response)),
            Self::All(these) => these.iter().all(|this| this.matches(response)),
            Self::Not(this) => !this.matches(response),
            Self::Always => true,
            Self::Headers(fields) => fields.iter().all(|field| field.matches_response(response)),
        }
    }

    /// The status that an answer counts as, when without the matcher it would count as `status`.
    pub fn judge(&self, response: &ResponseHead, status: u16) -> u16 {
        match (self.matches(response), status) {
            (true, 500..600) => status,
            (true, _) => 500,
            (false, _) => 200,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::matcher::{HeaderCheck, StringMatcher};

    fn status(code: &str) -> ErrorMatch {
        ErrorMatch::Headers(vec![HeaderMatcher {
            name: ":status".into(),
            check: HeaderCheck::Value(StringMatcher::exact(code)),
            invert: false,
            missing_as_empty: false,
        }])
    }

    #[test]
    fn a_match_is_a_failure_and_everything_else_a_success() {
        let errors = ErrorMatch::Any(vec![status("429"), status("503")]);
        let judged = |code| errors.judge(&ResponseHead::new(code), code);
        assert_eq!([429, 503, 500, 200].map(judged), [500, 503, 200, 200]);
        let not = ErrorMatch::Not(Box::new(status("200")));
        assert_eq!(not.judge(&ResponseHead::new(404), 404), 500);
        let both = ErrorMatch::All(vec![ErrorMatch::Always, status("404")]);
        assert!(both.matches(&ResponseHead::new(404)) && !both.matches(&ResponseHead::new(405)));
    }
}
