//! Access control: rules drawn from a fixed seed, each asked about drawn requests, and rows on what is told of a denial.

use lateen_tests::bootstrap::{LOG_FORMAT, Layout, cluster, file_log, http, listener, merge, router, tcp};
use lateen_tests::case::{Case, Do, say};
use lateen_tests::differential::{Resources, Source, World, compare};
use lateen_tests::upstream::answer;
use rand::rngs::SmallRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use serde_json::{Value, json};

mod counters;

const SEED: u64 = 20_261_123;
const RULES: usize = 200;
const REQUESTS: usize = 2_000;

const FILTER: &str = "envoy.filters.http.rbac";

const PATHS: &[&str] = &[
    "/",
    "/a",
    "/a/",
    "/a/b",
    "/A/b",
    "/a//b",
    "//a/b",
    "/a%2fb",
    "/a%2Fb",
    "/%61/b",
    "/a/./b",
    "/a/../b",
    "/b/../a/b",
    "/a/%2e%2e/b",
    "/a%00b",
    "/a\\b",
    "/a/b/",
    "/a;x=1/b",
    "/a/b.txt",
    "/a/b?c=/d",
    "/a?/b",
    "/ab",
    "/a/b/c",
    "/a/*/b",
    "/a/%20/b",
    "/a/=/b",
    "/a%5cb",
    "/public/x",
    "/public/../a",
    "/admin",
    "/ADMIN",
    "/admin%2f",
    "/admin;/",
];
const TEMPLATES: &[&str] = &[
    "/a/*",
    "/a/**",
    "/*/b",
    "/**/b",
    "/{x}/b",
    "/a/{x=**}",
    "/a/{x=*/b}",
    "/*",
    "/**",
    "/a/*.txt",
    "/a%2fb",
    "/*/",
    "/public/**",
    "/a/*/b",
    "/a/=/*",
    "/a{x}",
    "/{x}n",
    "/a/*b",
    "/p{x=**}x",
];
const VALUES: &[&str] = &["1", "a", "ab", "abc", "b", "", "A", "a,b"];
const HEADERS: &[&str] = &["x-a", "x-b", ":method", ":authority", ":path", "host", "X-Role"];
const METHODS: &[&str] = &["GET", "GET", "POST", "PUT", "DELETE", "OPTIONS", "get-it"];
const HOSTS: &[&str] = &["a.test", "A.TEST", "a.test:80", "b.test", "admin.b.test"];

struct Dice(SmallRng);

impl Dice {
    fn pick<'a>(&mut self, from: &[&'a str]) -> &'a str {
        from.choose(&mut self.0).copied().unwrap_or("")
    }

    fn chance(&mut self, percent: u32) -> bool {
        self.0.random_range(0..100) < percent
    }

    fn string(&mut self, values: &[&str]) -> Value {
        let value = self.pick(values);
        // Envoy refuses empty prefixes and suffixes.
        let text = if value.is_empty() { "a" } else { value };
        let mut matcher = match self.0.random_range(0..5) {
            0 | 1 => json!({"exact": value}),
            2 => json!({"prefix": text}),
            3 => json!({"suffix": text}),
            _ => {
                let patterns = [".+", "/a.*", ".*/b", "(a|b)+", "/[a-z]+/b", "[A-Z]+", "/a[^/]*"];
                return json!({"safe_regex": {"regex": self.pick(&patterns)}});
            }
        };
        if self.chance(20) {
            matcher["ignore_case"] = json!(true);
        }
        matcher
    }

    fn header(&mut self) -> Value {
        let name = self.pick(HEADERS);
        let values = match name {
            ":method" => METHODS,
            ":authority" | "host" => HOSTS,
            ":path" => PATHS,
            _ => VALUES,
        };
        let mut header = match self.chance(25) {
            true => json!({"name": name, "present_match": self.chance(70)}),
            false => json!({"name": name, "string_match": self.string(values)}),
        };
        if self.chance(15) {
            header["invert_match"] = json!(true);
        }
        if self.chance(15) {
            header["treat_missing_header_as_empty"] = json!(true);
        }
        header
    }

    fn range(&mut self) -> Value {
        let (address, length) =
            [("127.0.0.0", 8), ("127.77.0.0", 22), ("127.77.4.0", 22), ("9.9.9.0", 24), ("0.0.0.0", 0)]
                [self.0.random_range(0..5)];
        json!({"address_prefix": address, "prefix_len": length})
    }

    fn metadata(&mut self) -> Value {
        let value = match self.0.random_range(0..4) {
            0 => json!({"present_match": self.chance(50)}),
            1 => json!({"null_match": {}}),
            2 => json!({"string_match": {"exact": "denied"}}),
            _ => json!({"list_match": {"one_of": {"string_match": {"exact": "x"}}}}),
        };
        json!({"filter": FILTER, "path": [{"key": "shadow_engine_result"}], "value": value, "invert": self.chance(20)})
    }

    fn list(&mut self, depth: usize, of: fn(&mut Dice, usize) -> Value) -> Vec<Value> {
        (0..self.0.random_range(1..4)).map(|_| of(self, depth + 1)).collect()
    }

    fn permission(&mut self, depth: usize) -> Value {
        match self.0.random_range(0..if depth < 3 { 14 } else { 10 }) {
            0 => json!({"any": true}),
            1 | 2 => json!({"header": self.header()}),
            3 | 4 => json!({"url_path": {"path": self.string(PATHS)}}),
            5 | 6 => json!({"uri_template": {"name": "t", "typed_config": {
                "@type": "type.googleapis.com/envoy.extensions.path.match.uri_template.v3.UriTemplateMatchConfig",
                "path_template": self.pick(TEMPLATES)}}}),
            7 => json!({"destination_ip": self.range()}),
            8 => match self.chance(50) {
                true => json!({"destination_port_range": {"start": 1, "end": self.0.random_range(2..65536)}}),
                false => json!({"destination_port": 80}),
            },
            9 => match self.chance(50) {
                true => json!({"metadata": self.metadata()}),
                false => json!({"requested_server_name": self.string(&["", "a.test"])}),
            },
            10 => json!({"and_rules": {"rules": self.list(depth, Self::permission)}}),
            11 => json!({"or_rules": {"rules": self.list(depth, Self::permission)}}),
            _ => json!({"not_rule": self.permission(depth + 1)}),
        }
    }

    fn principal(&mut self, depth: usize) -> Value {
        match self.0.random_range(0..if depth < 3 { 14 } else { 10 }) {
            0 | 1 => json!({"any": true}),
            2 | 3 => json!({"header": self.header()}),
            4 => json!({"url_path": {"path": self.string(PATHS)}}),
            5 => json!({"source_ip": self.range()}),
            6 => json!({"direct_remote_ip": self.range()}),
            7 => json!({"remote_ip": self.range()}),
            8 => json!({"metadata": self.metadata()}),
            9 => match self.chance(50) {
                true => json!({"authenticated": {}}),
                false => json!({"authenticated": {"principal_name": {"prefix": "spiffe://"}}}),
            },
            10 => json!({"and_ids": {"ids": self.list(depth, Self::principal)}}),
            11 => json!({"or_ids": {"ids": self.list(depth, Self::principal)}}),
            _ => json!({"not_id": self.principal(depth + 1)}),
        }
    }

    fn rules(&mut self) -> Value {
        let action = ["ALLOW", "ALLOW", "DENY", "DENY", "LOG"][self.0.random_range(0..5)];
        let mut policies = serde_json::Map::new();
        for number in 0..self.0.random_range(0..4) {
            let policy =
                json!({"permissions": self.list(0, Self::permission), "principals": self.list(0, Self::principal)});
            policies.insert(format!("{}[{number}] of {}", self.pick(&["b", "a", "c"]), action), policy);
        }
        json!({"action": action, "policies": policies})
    }

    fn filter(&mut self) -> Value {
        let mut filter = json!({});
        if self.chance(90) {
            filter["rules"] = self.rules();
        }
        if self.chance(30) {
            filter["shadow_rules"] = self.rules();
            if self.chance(30) {
                filter["shadow_rules_stat_prefix"] = json!("dry_");
            }
        }
        filter
    }

    fn request(&mut self, index: usize) -> Case {
        let (method, path, host) = (self.pick(METHODS), self.pick(PATHS), self.pick(HOSTS));
        let method = if method == "get-it" { "PATCH" } else { method };
        let rule = self.0.random_range(0..RULES);
        let mut head = format!("{method} {path} HTTP/1.1\r\nhost: {host}\r\nx-rule: {rule}\r\n@@\r\n");
        for _ in 0..self.0.random_range(0..4) {
            let name = self.pick(&["x-a", "x-b", "X-A", "x-role"]);
            head.push_str(&format!("{name}: {}\r\n", self.pick(VALUES)));
        }
        if self.chance(40) {
            head.push_str(&format!(
                "x-forwarded-for: {}\r\n",
                self.pick(&["9.9.9.9", "8.8.8.8", "9.9.9.9, 127.77.0.1"])
            ));
        }
        if method != "GET" && method != "OPTIONS" {
            head.push_str("content-length: 0\r\n");
        }
        head.push_str("\r\n");
        let case = Case::raw(&format!("{index} rule {rule} {method} {path} {host}"), head);
        let case = case.upstream(vec![answer("200 OK", &[], b"ok")]);
        if index.is_multiple_of(2) { case } else { case.on("edge") }
    }
}

fn filter(settings: Value) -> Value {
    let mut typed = json!({"@type": "type.googleapis.com/envoy.extensions.filters.http.rbac.v3.RBAC"});
    merge(&mut typed, settings);
    json!({"name": FILTER, "typed_config": typed})
}

fn per_route(settings: Value) -> Value {
    json!({"typed_per_filter_config": {FILTER: {
        "@type": "type.googleapis.com/envoy.extensions.filters.http.rbac.v3.RBACPerRoute", "rbac": settings}}})
}

/// The suite's log, and what rules tell later filters.
fn log(layout: &Layout) -> Value {
    let told = "\t%DYNAMIC_METADATA(envoy.filters.http.rbac:shadow_engine_result)%\
        \t%DYNAMIC_METADATA(envoy.filters.http.rbac:dry_shadow_effective_policy_id)%\
        \t%DYNAMIC_METADATA(envoy.filters.http.rbac)%\t%DYNAMIC_METADATA(envoy.common:access_log_hint)%\n";
    json!(file_log(&layout.access_log(), &format!("{}{told}", LOG_FORMAT.trim_end())))
}

fn drawn_resources(layout: &Layout) -> Resources {
    let mut dice = Dice(SmallRng::seed_from_u64(SEED));
    let routes: Vec<Value> = (0..RULES)
        .map(|rule| {
            let mut route = json!({"match": {"prefix": "/", "headers": [{"name": "x-rule", "string_match":
                {"exact": rule.to_string()}}]}, "route": {"cluster": "up"}});
            merge(&mut route, per_route(dice.filter()));
            route
        })
        .collect();
    let hosts = json!([{"name": "all", "domains": ["*"], "routes": routes}]);
    let main = json!({"http_filters": [filter(json!({})), router()], "access_log": log(layout)});
    let mut edge = json!({"use_remote_address": true, "xff_num_trusted_hops": 1, "normalize_path": true,
        "merge_slashes": true, "path_with_escaped_slashes_action": "UNESCAPE_AND_FORWARD"});
    merge(&mut edge, main.clone());
    let listeners = vec![
        listener(layout, "main", http(layout, "main", hosts.clone(), main)),
        listener(layout, "edge", http(layout, "edge", hosts, edge)),
    ];
    (listeners, vec![cluster(layout, "up", &["up"], json!({}))])
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn drawn_rules() {
    let mut dice = Dice(SmallRng::seed_from_u64(SEED + 1));
    let world = World {
        name: "rbac drawn",
        listeners: &["main", "edge"],
        upstreams: &["up"],
        h2_upstreams: &[],
        resources: drawn_resources,
        cases: (0..REQUESTS).map(|index| dice.request(index)).collect(),
        h2_scripts: vec![],
    };
    compare(&world, Source::File).await;
}

fn policy(permission: Value) -> Value {
    json!({"permissions": [permission], "principals": [{"any": true}]})
}

fn path(exact: &str) -> Value {
    json!({"url_path": {"path": {"exact": exact}}})
}

fn resources(layout: &Layout) -> Resources {
    let deny = json!({"rules": {"action": "DENY", "policies": {"ns[a b]-rule[0]": policy(path("/no"))}}});
    let tried = json!({"shadow_rules": {"action": "ALLOW", "policies": {"tried": policy(path("/tried"))}},
        "shadow_rules_stat_prefix": "dry_"});
    let allow = json!({"rules": {"policies": {"all": policy(json!({"any": true}))}}});
    let audit = json!({"rules": {"action": "LOG", "policies": {"marks": policy(path("/audited"))}},
        "rules_stat_prefix": "istio_audit_"});
    let mut off = json!({"match": {"prefix": "/off"}, "route": {"cluster": "up"}});
    merge(
        &mut off,
        json!({"typed_per_filter_config": {FILTER: {
        "@type": "type.googleapis.com/envoy.extensions.filters.http.rbac.v3.RBACPerRoute"}}}),
    );
    let mut other = json!({"match": {"prefix": "/no/other"}, "route": {"cluster": "up"}});
    merge(&mut other, per_route(json!({"rules": {"policies": {"p": policy(path("/no/other"))}}})));
    let hosts = json!([{"name": "all", "domains": ["*"], "response_headers_to_add": [{"header": {"key": "x-v", "value": "1"}}],
    "routes": [
        off, other,
        {"match": {"path": "/redirect"}, "redirect": {"path_redirect": "/x"}},
        {"match": {"path": "/no"}, "route": {"cluster": "up"}},
        {"match": {"path": "/tried"}, "route": {"cluster": "up"}},
        {"match": {"path": "/audited"}, "route": {"cluster": "up"}},
        {"match": {"path": "/direct"}, "direct_response": {"status": 200}},
    ]}]);
    let filters = json!({"http_filters": [filter(audit), filter(tried), filter(deny), filter(allow), router()],
        "access_log": log(layout)});
    let none = json!({"http_filters": [filter(json!({"rules": {}})), router()]});
    let network = |rules: Value| {
        json!({"name": "envoy.filters.network.rbac", "typed_config": {
        "@type": "type.googleapis.com/envoy.extensions.filters.network.rbac.v3.RBAC", "stat_prefix": "tcp.",
        "rules": rules}})
    };
    let tcp_listener = |name: &str, rules: Value| {
        let mut all = listener(layout, name, tcp(layout, name, json!({"cluster": "tcp"})));
        let filters = all["filter_chains"][0]["filters"].as_array_mut();
        filters.expect("filters").insert(0, network(rules));
        all
    };
    let mut before_http = listener(layout, "before http", http(layout, "before http", hosts.clone(), json!({})));
    let here = json!({"action": "DENY", "policies": {"p": policy(json!({"destination_ip":
        {"address_prefix": "127.0.0.1", "prefix_len": 32}}))}});
    let filters_before = before_http["filter_chains"][0]["filters"].as_array_mut();
    filters_before.expect("filters").insert(0, network(here.clone()));
    let listeners = vec![
        listener(layout, "main", http(layout, "main", hosts.clone(), filters)),
        listener(layout, "none", http(layout, "none", hosts, none)),
        tcp_listener("denied", here),
        tcp_listener("nobody", json!({})),
        tcp_listener("allowed", json!({"policies": {"p": policy(json!({"any": true}))}})),
        before_http,
    ];
    (listeners, vec![cluster(layout, "up", &["up"], json!({})), cluster(layout, "tcp", &["tcp"], json!({}))])
}

fn cases() -> Vec<Case> {
    let ok = || vec![answer("200 OK", &[], b"ok")];
    let denied = |name: &str| format!("- rbac_access_denied_matched_policy[{name}]");
    let mut cases = vec![
        Case::get("denied", "/no").seen(403, &denied("ns[a_b]-rule[0]")).body("RBAC: access denied"),
        Case::get("denied by nobody's leave", "/x").on("none").seen(403, &denied("none")),
        Case::get("tried and matched", "/tried").upstream(ok()).seen(200, "- via_upstream"),
        Case::get("marked", "/audited").upstream(ok()).seen(200, "- via_upstream"),
        Case::get("off for the route", "/off").upstream(ok()).seen(200, "- via_upstream"),
        Case::get("the route's own rules", "/no/other").upstream(ok()).seen(200, "- via_upstream"),
        Case::get("the route's own rules deny", "/no/others").seen(403, &denied("none")),
        Case::get("no route", "/nowhere"),
        Case::get("a redirect", "/redirect"),
        Case::get("an answer of its own", "/direct"),
        Case::raw("a denied HEAD", "HEAD /no HTTP/1.1\r\nhost: a.test\r\n@@\r\n\r\n"),
        Case::raw("a denied body", "POST /no HTTP/1.1\r\nhost: a.test\r\n@@\r\ncontent-length: 3\r\n\r\nabc"),
        Case::raw(
            "a denied gRPC call",
            "POST /no HTTP/1.1\r\nhost: a.test\r\n@@\r\ncontent-type: application/grpc\r\ncontent-length: 0\r\n\r\n",
        ),
        Case::raw(
            "a denied preflight",
            "OPTIONS /no HTTP/1.1\r\nhost: a.test\r\n@@\r\norigin: http://a\r\naccess-control-request-method: GET\r\n\r\n",
        ),
        Case::h2("denied over HTTP/2", "GET", "http://a.test/no", &[]),
    ];
    cases.push(Case::of("tcp denied").on("denied").client(vec![say("hello @@"), Do::End]).exact_end());
    cases.push(Case::of("tcp denied at its end").on("denied").client(vec![Do::FinishWriting, Do::End]).exact_end());
    cases.push(Case::of("tcp without a policy").on("nobody").client(vec![say("hello @@"), Do::End]).exact_end());
    cases.push(Case::get("tcp allowed", "/").on("allowed").upstream(ok()));
    cases.push(
        Case::get("a connection of HTTP denied", "/off")
            .on("before http")
            .client(vec![say("GET /off HTTP/1.1\r\nhost: a.test\r\n@@\r\n\r\n"), Do::End]),
    );
    cases
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows() {
    let world = World {
        name: "rbac",
        listeners: &["main", "none", "denied", "nobody", "allowed", "before http"],
        upstreams: &["up", "tcp"],
        h2_upstreams: &[],
        resources,
        cases: cases(),
        h2_scripts: vec![],
    };
    compare(&world, Source::File).await;
}
