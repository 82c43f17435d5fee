//! Normalisation of request paths (Envoy's `normalize_path`, `merge_slashes`, `path_with_escaped_slashes_action`).

use std::borrow::Cow;

/// What is done to the path of every request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct PathSettings {
    /// Resolve dot segments, turn `\` into `/`, decode what needs no encoding (RFC 3986 section 6).
    pub normalize: bool,
    /// Make several slashes one.
    pub merge_slashes: bool,
    /// Treatment of `%2f` and `%5c`.
    pub escaped_slashes: EscapedSlashes,
}

/// Treatment of escaped slashes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum EscapedSlashes {
    /// They stay.
    #[default]
    Keep,
    /// Answer 400.
    Reject,
    /// Decode, and redirect if that changed the path.
    UnescapeAndRedirect,
    /// Decode.
    UnescapeAndForward,
}

/// What came of a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Normalized {
    /// Nothing changed.
    Same,
    /// This is the path and query now.
    Changed(String),
    /// Answer 307 with this location.
    Redirect(String),
    /// Answer 400; this is the path as far as it was worked out.
    Rejected(Option<String>),
}

impl PathSettings {
    /// Normalises a path with its query. The query is never touched. A fragment is always refused.
    pub fn apply(&self, path: &str) -> Normalized {
        if path.contains('#') {
            return Normalized::Rejected(None);
        }
        // The usual path has nothing that any step would change.
        if !self.normalize && !self.merge_slashes && self.escaped_slashes == EscapedSlashes::Keep || plain(path) {
            return Normalized::Same;
        }
        let (only, query) = path.split_at(path.find('?').unwrap_or(path.len()));
        let mut current = only.to_owned();
        let mut redirect = false;
        let unescape = !matches!(self.escaped_slashes, EscapedSlashes::Keep);
        if unescape && let Some(unescaped) = unescape_slashes(&current) {
            match self.escaped_slashes {
                EscapedSlashes::Reject => return Normalized::Rejected(Some(unescaped + query)),
                EscapedSlashes::UnescapeAndRedirect => redirect = true,
                EscapedSlashes::Keep | EscapedSlashes::UnescapeAndForward => {}
            }
            current = unescaped;
        }
        if self.normalize {
            match resolve(&without_parameters_of_dots(&current)) {
                Some(resolved) => current = resolved,
                None => return Normalized::Rejected(None),
            }
        }
        if self.merge_slashes {
            current = merge(&current);
        }
        if redirect {
            return Normalized::Redirect(current + query);
        }
        if current == only { Normalized::Same } else { Normalized::Changed(current + query) }
    }
}

fn plain(path: &str) -> bool {
    let only = path.split('?').next().unwrap_or_default().as_bytes();
    only.first() == Some(&b'/')
        && !only.contains(&b'%')
        && !only.iter().any(|b| matches!(b, b'\\' | b'"' | b'<' | b'>' | b'{' | b'}' | b'|' | b'^' | b'`'))
        && !only.windows(2).any(|w| w == b"//" || w == b"/.")
}

fn unescape_slashes(path: &str) -> Option<String> {
    let mut out = String::with_capacity(path.len());
    let mut rest = path;
    let mut changed = false;
    while let Some(at) = rest.find('%') {
        out.push_str(&rest[..at]);
        let replacement = match rest.as_bytes().get(at + 1..at + 3) {
            Some([b'2', b'f' | b'F']) => '/',
            Some([b'5', b'c' | b'C']) => '\\',
            _ => {
                out.push('%');
                rest = &rest[at + 1..];
                continue;
            }
        };
        changed = true;
        out.push(replacement);
        rest = &rest[at + 3..];
    }
    out.push_str(rest);
    changed.then_some(out)
}

/// Takes away what some servers take for parameters of a dot segment: `/..;x/` is `/../` to them. As in Envoy that is looked
/// for before anything is decoded.
fn without_parameters_of_dots(path: &str) -> Cow<'_, str> {
    if !path.contains("/.;") && !path.contains("/..;") {
        return Cow::Borrowed(path);
    }
    let bare = |segment| match segment {
        segment if str::starts_with(segment, ".;") => ".",
        segment if str::starts_with(segment, "..;") => "..",
        segment => segment,
    };
    Cow::Owned(path.split('/').map(bare).collect::<Vec<_>>().join("/"))
}

/// Decodes unreserved characters, turns backslashes round and resolves dot segments; `None` for an encoded NUL.
fn resolve(path: &str) -> Option<String> {
    let mut decoded = String::with_capacity(path.len());
    let bytes = path.as_bytes();
    let mut i = 0;
    while i < bytes.len() {
        match bytes[i] {
            b'\\' => decoded.push('/'),
            b'%' => {
                let hex = |b: u8| char::from(b).to_digit(16);
                if let (Some(h), Some(l)) =
                    (bytes.get(i + 1).copied().and_then(hex), bytes.get(i + 2).copied().and_then(hex))
                {
                    let c = (h * 16 + l) as u8;
                    if c == 0 {
                        return None;
                    }
                    if c.is_ascii_alphanumeric() || matches!(c, b'-' | b'.' | b'_' | b'~') {
                        decoded.push(char::from(c));
                    } else {
                        decoded.push_str(&path[i..i + 3]);
                    }
                    i += 3;
                    continue;
                }
                decoded.push('%');
            }
            // What no URI may have as it is (RFC 3986 section 2).
            b @ (b'"' | b'<' | b'>' | b'{' | b'}' | b'|' | b'^' | b'`') => decoded.push_str(&format!("%{b:02X}")),
            b => decoded.push(char::from(b)),
        }
        i += 1;
    }
    let mut segments: Vec<&str> = Vec::new();
    let mut pieces = decoded.strip_prefix('/').unwrap_or(&decoded).split('/').peekable();
    while let Some(piece) = pieces.next() {
        let last = pieces.peek().is_none();
        match piece {
            "." if last => segments.push(""),
            "." => {}
            ".." => {
                segments.pop();
                if last {
                    segments.push("");
                }
            }
            piece => segments.push(piece),
        }
    }
    Some(format!("/{}", segments.join("/")))
}

fn merge(path: &str) -> String {
    let mut out = String::with_capacity(path.len());
    for c in path.chars() {
        if c != '/' || !out.ends_with('/') {
            out.push(c);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn apply(settings: PathSettings, path: &str) -> String {
        match settings.apply(path) {
            Normalized::Same => path.to_owned(),
            Normalized::Changed(p) => p,
            Normalized::Redirect(p) => format!("307 {p}"),
            Normalized::Rejected(_) => "400".to_owned(),
        }
    }

    #[test]
    fn the_observed_table_holds() {
        use EscapedSlashes::*;
        let none = PathSettings::default();
        let normal = PathSettings { normalize: true, ..none };
        let merging = PathSettings { merge_slashes: true, ..normal };
        let slashes = |escaped_slashes| PathSettings { escaped_slashes, ..merging };
        let table = [
            ("/a%2fb", ["/a%2fb", "/a%2fb", "/a%2fb", "400", "307 /a/b", "/a/b"]),
            ("/a/..%2fb", ["/a/..%2fb", "/a/..%2fb", "/a/..%2fb", "400", "307 /b", "/b"]),
            ("/a\\b", ["/a\\b", "/a/b", "/a/b", "/a/b", "/a/b", "/a/b"]),
            ("/a//b", ["/a//b", "/a//b", "/a/b", "/a/b", "/a/b", "/a/b"]),
            ("//a", ["//a", "//a", "/a", "/a", "/a", "/a"]),
            ("/a/../b", ["/a/../b", "/b", "/b", "/b", "/b", "/b"]),
            ("/a/%2e%2e/b", ["/a/%2e%2e/b", "/b", "/b", "/b", "/b", "/b"]),
            ("/../x", ["/../x", "/x", "/x", "/x", "/x", "/x"]),
            ("/a/..", ["/a/..", "/", "/", "/", "/", "/"]),
            ("/%61bc", ["/%61bc", "/abc", "/abc", "/abc", "/abc", "/abc"]),
            ("/a/..;/b", ["/a/..;/b", "/b", "/b", "/b", "/b", "/b"]),
            ("/a/.;x=1/b", ["/a/.;x=1/b", "/a/b", "/a/b", "/a/b", "/a/b", "/a/b"]),
            ("/a/..;\\b", ["/a/..;\\b", "/", "/", "/", "/", "/"]),
            ("/a/..;x%2fy/b", ["/a/..;x%2fy/b", "/b", "/b", "400", "307 /y/b", "/y/b"]),
            ("/a\\..;/b", ["/a\\..;/b", "/a/..;/b", "/a/..;/b", "/a/..;/b", "/a/..;/b", "/a/..;/b"]),
            ("/a/%2e%2e;/b", ["/a/%2e%2e;/b", "/a/..;/b", "/a/..;/b", "/a/..;/b", "/a/..;/b", "/a/..;/b"]),
            ("/a;x/..;", ["/a;x/..;", "/", "/", "/", "/", "/"]),
            ("/a%20b", ["/a%20b"; 6]),
            ("/a%zz", ["/a%zz"; 6]),
            ("/a%00b", ["/a%00b", "400", "400", "400", "400", "400"]),
            ("/a#b", ["400"; 6]),
            ("/a?x=/../%2f//", ["/a?x=/../%2f//"; 6]),
        ];
        let all = [none, normal, merging, slashes(Reject), slashes(UnescapeAndRedirect), slashes(UnescapeAndForward)];
        for (path, expected) in table {
            for (settings, expected) in all.into_iter().zip(expected) {
                let seen = apply(settings, path);
                assert!(seen == expected, "{path} with {settings:?}: {seen}, not {expected}");
            }
        }
    }

    proptest::proptest! {
        #[test]
        fn normal_paths_stay_normal(path in "/[a-z%2ef./\\\\]{0,30}") {
            let s = PathSettings { normalize: true, merge_slashes: true, escaped_slashes: EscapedSlashes::UnescapeAndForward };
            let once = apply(s, &path);
            if once != "400" {
                proptest::prop_assert!(once.starts_with('/'));
                proptest::prop_assert!(!once.contains("/../") && !once.contains("//"));
            }
        }
    }
}
