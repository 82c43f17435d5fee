//! The few words that rules and requests are made of, so that requests often meet a rule.

pub const PATHS: &[&str] =
    &["/", "/a", "/a/", "/a/b", "/api", "/api/v1", "/api/v1/users", "/users", "/A", "/a%20b", "/b", "/b.c"];
pub const REGEXES: &[&str] = &["/a/.*", "/[a-z]+/v[0-9]", "/.*b", "/(api|users)(/.*)?", "/a%20b.*", ".*"];
pub const HEADERS: &[&str] = &["x-a", "x-b", "x-version", "user-agent", "cookie", "x-user"];
pub const VALUES: &[&str] =
    &["1", "2", "a", "ab", "abc", "b", "true", "", "a,b", "A", "x y", "firefox/1.0", "u=1; v=2", "-3", "17"];
pub const METHODS: &[&str] = &["GET", "GET", "GET", "POST", "PUT", "DELETE", "HEAD", "OPTIONS", "PATCH"];
/// What may be put behind a path.
pub const TAILS: &[&str] =
    &["", "", "", "", "/", "x", "/x", "//y", "/../a", "/%2e%2e/a", "/./b", "%2Fz", ";p=1", "/..", "\\b", "%41", "#f"];
