//! Requests nobody thought of: drawn from a fixed seed, so that a failure can be looked at again.

use lateen_tests::bootstrap::{Layout, cluster, http, http2_upstream, listener};
use lateen_tests::case::{Case, Do};
use lateen_tests::differential::{Resources, Source, World, compare};
use lateen_tests::upstream::{Act, Script};
use rand::rngs::SmallRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use serde_json::{Value, json};

const SEED: u64 = 20_261_123;
const REQUESTS: usize = 600;
const ROUTES: usize = 60;

const SEGMENTS: &[&str] =
    &["a", "b", "api", "v1", "users", "x%20y", "A", "a.b", "-", "~", "..", ".", "%2e", "", "a;p=1", "%41", "%2F"];
const HEADERS: &[&str] = &["x-a", "x-b", "x-version", "user-agent", "cookie", "accept", "x-user"];
const VALUES: &[&str] =
    &["1", "2", "a", "ab", "abc", "b", "true", "", "a,b", "A", "x y", "firefox/1.0", "u=1; v=2", "-3", "17"];
const HOSTS: &[&str] =
    &["a.test", "A.TEST", "b.test", "x.b.test", "y.x.b.test", "a.test:80", "other", "pre.fix", "b.test."];
const METHODS: &[&str] = &["GET", "GET", "GET", "POST", "PUT", "DELETE", "HEAD", "OPTIONS", "PATCH"];

/// Makes a route table or a request, from one stream of dice.
struct Dice(SmallRng);

impl Dice {
    fn pick<'a>(&mut self, from: &[&'a str]) -> &'a str {
        from.choose(&mut self.0).copied().unwrap_or("")
    }

    fn chance(&mut self, percent: u32) -> bool {
        self.0.random_range(0..100) < percent
    }

    fn path(&mut self) -> String {
        let depth = self.0.random_range(1..4);
        let segments: Vec<&str> = (0..depth).map(|_| self.pick(SEGMENTS)).collect();
        // Envoy merges a path of slashes alone to two of them; see the rows on paths.
        match segments.iter().all(|segment| matches!(*segment, "" | "." | ".." | "%2e")) {
            true => "/a".to_owned(),
            false => format!("/{}", segments.join("/")),
        }
    }

    fn query(&mut self) -> String {
        let pairs: Vec<String> = (0..self.0.random_range(0..3))
            .map(|_| match self.chance(80) {
                true => format!("{}={}", self.pick(&["q", "r", "Q"]), self.pick(&["1", "2", "ab", "", "%31"])),
                false => self.pick(&["q", "r", ""]).to_owned(),
            })
            .collect();
        match pairs.is_empty() {
            true => String::new(),
            false => format!("?{}", pairs.join("&")),
        }
    }

    fn string_match(&mut self) -> Value {
        let value = self.pick(&["1", "a", "ab", "b", "abc", "true"]);
        let mut matcher = match self.0.random_range(0..5) {
            0 => json!({"exact": value}),
            1 => json!({"prefix": value}),
            2 => json!({"suffix": value}),
            3 => json!({"contains": value}),
            _ => return json!({"safe_regex": {"regex": self.pick(&["a.*", "[0-9]+", "(a|b)+c?", ".*", "x y|true"])}}),
        };
        if self.chance(30) {
            matcher["ignore_case"] = json!(true);
        }
        matcher
    }

    fn matching(&mut self) -> Value {
        let path = self.path();
        let mut matching = match self.0.random_range(0..6) {
            0 => json!({"path": path}),
            1 => json!({"prefix": path}),
            2 => json!({"prefix": path, "case_sensitive": false}),
            3 => json!({"path_separated_prefix": path.trim_end_matches('/').replace("//", "/")}),
            4 => {
                json!({"safe_regex": {"regex": self.pick(&["/a/.*", "/[a-z]+/v[0-9]", "/.*b", "/(api|users)(/.*)?", "/x%20y.*"])}})
            }
            _ => json!({"prefix": "/"}),
        };
        if matching.get("path_separated_prefix").is_some_and(|prefix| prefix == "" || prefix == "/") {
            matching = json!({"prefix": "/"});
        }
        let headers: Vec<Value> = (0..self.0.random_range(0..3)).map(|_| self.header_match()).collect();
        if !headers.is_empty() {
            matching["headers"] = json!(headers);
        }
        if self.chance(20) {
            let name = self.pick(&["q", "r"]);
            matching["query_parameters"] = match self.chance(50) {
                true => json!([{"name": name, "string_match": self.string_match()}]),
                false => json!([{"name": name, "present_match": true}]),
            };
        }
        matching
    }

    fn header_match(&mut self) -> Value {
        let name = match self.chance(15) {
            true => ":method",
            false => self.pick(HEADERS),
        };
        let mut matcher = match self.0.random_range(0..6) {
            0 => json!({"name": name, "present_match": true}),
            1 => json!({"name": name, "range_match": {"start": "0", "end": "10"}}),
            _ if name == ":method" => json!({"name": name, "string_match": {"exact": self.pick(METHODS)}}),
            _ => json!({"name": name, "string_match": self.string_match()}),
        };
        if self.chance(25) {
            matcher["invert_match"] = json!(true);
        }
        if self.chance(25) {
            matcher["treat_missing_header_as_empty"] = json!(true);
        }
        matcher
    }

    fn route(&mut self, index: usize) -> Value {
        let name = format!("r{index}");
        let matching = self.matching();
        let mut route = match self.0.random_range(0..9) {
            0 => {
                json!({"redirect": {"path_redirect": self.path(), "response_code": self.pick(&["MOVED_PERMANENTLY", "FOUND", "TEMPORARY_REDIRECT"])}})
            }
            1 => json!({"redirect": {"host_redirect": "elsewhere.test", "strip_query": self.chance(50)}}),
            2 | 3 => {
                json!({"direct_response": {"status": ([200, 404, 429, 503][self.0.random_range(0..4)]), "body": {"inline_string": name}}})
            }
            4 => json!({"route": {"cluster": "up", "host_rewrite_literal": "new.test"}}),
            5 if matching.get("prefix").is_some() => json!({"route": {"cluster": "up", "prefix_rewrite": self.path()}}),
            6 => {
                json!({"route": {"cluster": "up", "regex_rewrite": {"pattern": {"regex": "/([a-z]+)"}, "substitution": "/<\\1>"}}})
            }
            7 => json!({"route": {"cluster": "up over h2"}}),
            _ => json!({"route": {"cluster": "up"}}),
        };
        route["name"] = json!(name);
        route["match"] = matching;
        if self.chance(30) {
            let action = self.pick(&[
                "APPEND_IF_EXISTS_OR_ADD",
                "ADD_IF_ABSENT",
                "OVERWRITE_IF_EXISTS_OR_ADD",
                "OVERWRITE_IF_EXISTS",
            ]);
            let edit = json!([{"header": {"key": self.pick(HEADERS), "value": "edited"}, "append_action": action}]);
            route["request_headers_to_add"] = edit.clone();
            route["response_headers_to_add"] = edit;
        }
        if self.chance(20) {
            route["request_headers_to_remove"] = json!([self.pick(HEADERS)]);
        }
        route
    }

    fn request(&mut self, index: usize) -> Case {
        let name = format!("drawn {index}");
        let method = self.pick(METHODS);
        let (path, query, host) = (self.path(), self.query(), self.pick(HOSTS));
        let mut head = format!("{method} {path}{query} HTTP/1.1\r\n");
        let host_name = self.pick(&["host", "Host", "HOST"]);
        head.push_str(&format!("{host_name}: {host}\r\n"));
        for header in self.names() {
            let header = if self.chance(30) { header.to_ascii_uppercase() } else { header.to_owned() };
            let gap = self.pick(&[" ", "", "  ", "\t"]);
            head.push_str(&format!("{header}:{gap}{}\r\n", self.pick(VALUES)));
        }
        head.push_str("@@\r\n");
        let mut bytes = Case::of(&name).marked(head.as_bytes());
        bytes.extend_from_slice(&self.body(method));
        let read = if method == "HEAD" { Do::AnswerToHead } else { Do::Answer };
        let mut acts = self.pieces(bytes);
        acts.push(read);
        Case::of(&name).client(acts).tries(self.answer(method))
    }

    /// Some header names, any of them more than once.
    fn names(&mut self) -> Vec<&'static str> {
        let mut names: Vec<&str> = Vec::new();
        for _ in 0..self.0.random_range(0..4) {
            names.push(self.pick(HEADERS));
        }
        names
    }

    /// The same over HTTP/2.
    fn h2_request(&mut self, index: usize) -> Case {
        let name = format!("drawn {index}");
        let method = self.pick(METHODS);
        let uri = format!("http://{}{}{}", self.pick(HOSTS), self.path(), self.query());
        let headers: Vec<(&str, &str)> = self.names().into_iter().map(|name| (name, self.pick(VALUES))).collect();
        let case = Case::h2(&name, method, &uri, &headers).tries(self.answer(method));
        if method == "GET" || method == "HEAD" || self.chance(30) {
            return case;
        }
        let length = [1, 100, 5000][self.0.random_range(0..3)];
        let body: Vec<u8> = (0..length).map(|_| self.0.random()).collect();
        let trailers: &[(&str, &str)] = if self.chance(30) { &[("x-trailer", "1")] } else { &[] };
        case.h2_body(&body, trailers)
    }

    /// The end of the head, and a body.
    fn body(&mut self, method: &str) -> Vec<u8> {
        if method == "GET" || method == "HEAD" || self.chance(30) {
            return b"\r\n".to_vec();
        }
        let length = [0, 1, 100, 5000][self.0.random_range(0..4)];
        let body: Vec<u8> = (0..length).map(|_| self.0.random()).collect();
        if self.chance(50) {
            return [format!("content-length: {length}\r\n\r\n").into_bytes(), body].concat();
        }
        [b"transfer-encoding: chunked\r\n\r\n".to_vec(), self.chunks(&body)].concat()
    }

    fn chunks(&mut self, mut body: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        while !body.is_empty() {
            let (chunk, rest) = body.split_at(self.0.random_range(1..=body.len()));
            out.extend_from_slice(format!("{:x}\r\n", chunk.len()).as_bytes());
            out.extend_from_slice(chunk);
            out.extend_from_slice(b"\r\n");
            body = rest;
        }
        out.extend_from_slice(b"0\r\n\r\n");
        out
    }

    /// The bytes in one to four writes.
    fn pieces(&mut self, bytes: Vec<u8>) -> Vec<Do> {
        let mut rest = bytes.as_slice();
        let mut out = Vec::new();
        for _ in 0..self.0.random_range(0..4) {
            let (piece, next) = rest.split_at(self.0.random_range(0..=rest.len()));
            out.push(Do::Send(piece.to_vec()));
            rest = next;
        }
        out.push(Do::Send(rest.to_vec()));
        out
    }

    fn answer(&mut self, method: &str) -> Script {
        let status = [200, 200, 200, 201, 204, 301, 304, 400, 404, 418, 500, 503][self.0.random_range(0..12)];
        let mut bytes = format!("HTTP/1.1 {status} Something\r\n").into_bytes();
        for _ in 0..self.0.random_range(0..4) {
            let line = format!(
                "{}: {}\r\n",
                self.pick(&["X-A", "x-b", "Server", "set-cookie", "x-version"]),
                self.pick(VALUES)
            );
            bytes.extend_from_slice(line.as_bytes());
        }
        let body: Vec<u8> = (0..[0, 3, 300, 40_000][self.0.random_range(0..4)]).map(|_| self.0.random()).collect();
        let bodiless = method == "HEAD" || status == 204 || status == 304;
        if bodiless {
            bytes.extend_from_slice(b"\r\n");
        } else if self.chance(50) {
            bytes.extend_from_slice(format!("content-length: {}\r\n\r\n", body.len()).as_bytes());
            bytes.extend_from_slice(&body);
        } else {
            bytes.extend_from_slice(b"transfer-encoding: chunked\r\n\r\n");
            bytes.extend_from_slice(&self.chunks(&body));
        }
        vec![vec![Act::ReadBody, Act::Send(bytes)]]
    }
}

fn resources(layout: &Layout) -> Resources {
    let mut dice = Dice(SmallRng::seed_from_u64(SEED));
    let mut host = |name: &str, domains: &[&str], routes: usize| {
        let routes: Vec<Value> = (0..routes).map(|index| dice.route(index)).collect();
        json!({"name": name, "domains": domains, "routes": routes,
            "request_headers_to_add": [{"header": {"key": "x-host", "value": name}}]})
    };
    let hosts = json!([
        host("a", &["a.test", "a.test:80"], ROUTES),
        host("b", &["*.b.test", "b.test"], ROUTES),
        host("pre", &["pre.*"], ROUTES / 4),
        host("all", &["*"], ROUTES / 2),
    ]);
    (
        vec![
            listener(layout, "main", http(layout, "main", hosts.clone(), json!({}))),
            listener(
                layout,
                "edge",
                http(
                    layout,
                    "edge",
                    hosts,
                    json!({"use_remote_address": true, "normalize_path": true, "merge_slashes": true}),
                ),
            ),
        ],
        vec![cluster(layout, "up", &["up"], json!({})), cluster(layout, "up over h2", &["h2"], http2_upstream())],
    )
}

pub fn world() -> World {
    let mut dice = Dice(SmallRng::seed_from_u64(SEED + 1));
    let cases = (0..REQUESTS)
        .map(|index| {
            let case = if index % 3 == 0 { dice.h2_request(index) } else { dice.request(index) };
            if index % 2 == 0 { case } else { case.on("edge") }
        })
        .collect();
    World {
        name: "generated",
        listeners: &["main", "edge"],
        upstreams: &["up"],
        h2_upstreams: &["h2"],
        resources,
        cases,
        h2_scripts: vec![],
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn generated() {
    compare(&world(), Source::File).await;
}
