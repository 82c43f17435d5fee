//! Templates of paths (Envoy's `UriTemplateMatchConfig`): `*` is one segment, `**` any number of them, `{name}` and
//! `{name=…}` are the same with a name, maybe with a text before and after, and the rest stands for itself.

use regex::Regex;

use crate::matcher::{MatcherError, full_regex};

/// What a segment may have (RFC 3986 appendix A), as the inside of a class of an expression.
const SEGMENT: &str = "a-zA-Z0-9\\-._~%!$\\&'()+,;:@*=";
const MOST_VARIABLES: usize = 5;
const LONGEST_NAME: usize = 16;

/// Why a template is none.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum TemplateError {
    /// It has to begin with a slash and have no blanks.
    #[error("must begin with / and have printable characters only")]
    NoPath,
    /// A segment has a character that no path has, or a wildcard has more of a path after it.
    #[error("{0:?} is no segment")]
    Segment(String),
    /// A variable is not closed, or its name or pattern is wrong.
    #[error("{0:?} is no variable")]
    Variable(String),
    /// A variable occurs twice, or there are too many.
    #[error("a template has at most {MOST_VARIABLES} variables, each once")]
    Variables,
    /// A wildcard follows `**`.
    #[error("no wildcard may follow **")]
    AfterAnyNumber,
    /// It is too large.
    #[error(transparent)]
    TooLarge(#[from] MatcherError),
}

/// Compiles a template to what matches whole paths.
pub fn path_template(template: &str) -> Result<Regex, TemplateError> {
    let mut rest = template.strip_prefix('/').ok_or(TemplateError::NoPath)?;
    if !rest.bytes().all(|b| b.is_ascii_graphic()) {
        return Err(TemplateError::NoPath);
    }
    let mut pattern = Pattern { regex: "/".to_owned(), any_number: false, names: Vec::new() };
    while !rest.is_empty() {
        rest = match rest.find(['{', '/']) {
            Some(at) if rest.as_bytes()[at] == b'{' => pattern.variable(rest, at)?,
            _ if rest.starts_with('*') => {
                let wildcard = if rest.starts_with("**") { "**" } else { "*" };
                pattern.part(wildcard)?;
                let after = &rest[wildcard.len()..];
                if after.is_empty() || after.starts_with('/') {
                    after
                } else {
                    // What follows a wildcard directly is the end of the path.
                    pattern.literal(after)?;
                    ""
                }
            }
            end => {
                let (segment, after) = rest.split_at(end.unwrap_or(rest.len()));
                pattern.literal(segment)?;
                after
            }
        };
        if let Some(more) = rest.strip_prefix('/') {
            pattern.regex.push('/');
            rest = more;
        }
    }
    Ok(full_regex(&pattern.regex)?)
}

struct Pattern<'a> {
    regex: String,
    // `**` was there.
    any_number: bool,
    names: Vec<&'a str>,
}

impl<'a> Pattern<'a> {
    /// A segment with a variable that begins at `open`; gives what follows the segment.
    fn variable(&mut self, rest: &'a str, open: usize) -> Result<&'a str, TemplateError> {
        let wrong = || TemplateError::Variable(rest.to_owned());
        let (before, variable) = rest.split_at(open);
        let (inside, after) = variable.get(1..).and_then(|inside| inside.split_once('}')).ok_or_else(wrong)?;
        let (name, inner) = inside.split_once('=').unwrap_or((inside, "*"));
        if !is_name(name) {
            return Err(wrong());
        }
        if self.names.contains(&name) || self.names.len() == MOST_VARIABLES {
            return Err(TemplateError::Variables);
        }
        self.names.push(name);
        let (text_after, next) = after.split_at(after.find('/').unwrap_or(after.len()));
        let alone = before.is_empty() && text_after.is_empty();
        if inner.is_empty() || inner.ends_with('/') || (!alone && inner.contains('/')) {
            return Err(wrong());
        }
        if !before.is_empty() {
            self.literal(before)?;
        }
        for (at, part) in inner.split('/').enumerate() {
            if at > 0 {
                self.regex.push('/');
            }
            self.part(part)?;
        }
        if !text_after.is_empty() {
            self.literal(text_after)?;
        }
        Ok(next)
    }

    fn part(&mut self, part: &str) -> Result<(), TemplateError> {
        let (more, repeated) = match part {
            "*" => ("", '+'),
            "**" => ("/", '*'),
            literal => return self.literal(literal),
        };
        if self.any_number {
            return Err(TemplateError::AfterAnyNumber);
        }
        self.any_number = part == "**";
        self.regex.push_str(&format!("[{SEGMENT}{more}]{repeated}"));
        Ok(())
    }

    fn literal(&mut self, text: &str) -> Result<(), TemplateError> {
        let stands_for_itself = |b: u8| b.is_ascii_alphanumeric() || b"-._~%!$&'()+,;:@*=".contains(&b);
        if text.is_empty() || !text.bytes().all(stands_for_itself) {
            return Err(TemplateError::Segment(text.to_owned()));
        }
        self.regex.push_str(&regex::escape(text));
        Ok(())
    }
}

fn is_name(name: &str) -> bool {
    name.len() <= LONGEST_NAME
        && name.starts_with(|c: char| c.is_ascii_alphabetic())
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
}
