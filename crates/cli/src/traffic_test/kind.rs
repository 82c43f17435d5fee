//! The kind `TrafficTest` (docs/traffic-tests.md): requests to send, step by step, and what to expect of the answers.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::time::Duration;

use hyper::Uri;
use hyper::header::{HeaderName, HeaderValue};
use lateen_galley::{FieldProblem, Origin, Problem, Problems, Subject, read_beside};
use serde::Deserialize;
use serde::de::{Deserializer, Error as _, MapAccess, Visitor};

use super::amount::Amount;
use super::certificates::{self, Wanted, WantedSecret};
use super::matching::{Text, Times};

pub const API_VERSION: &str = "test.lateen.dev/v1alpha1";
pub const KIND: &str = "TrafficTest";

/// Requests of one step at most.
const MOST_REQUESTS: u64 = 1_000_000;
/// Requests of one step under way at once, and clients, at most: each client has an address of its own, 127.0.1.x.
const MOST_AT_ONCE: u64 = 250;

/// A test: its steps run in order.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TrafficTest {
    #[serde(rename = "apiVersion")]
    _api_version: String,
    #[serde(rename = "kind")]
    _kind: String,
    pub metadata: Metadata,
    pub spec: Spec,
}

#[derive(Debug, Clone, Deserialize)]
pub struct Metadata {
    pub name: String,
    /// Where names of workloads are looked up.
    #[serde(default = "default_namespace")]
    pub namespace: String,
    #[serde(default, rename = "labels")]
    _labels: BTreeMap<String, String>,
    #[serde(default, rename = "annotations")]
    _annotations: BTreeMap<String, String>,
}

fn default_namespace() -> String {
    "default".to_owned()
}

#[derive(Debug, Clone, Deserialize)]
pub struct Spec {
    /// What the test shows, in a line.
    #[serde(default)]
    pub title: String,
    /// Made anew for each run.
    #[serde(default)]
    pub certificates: BTreeMap<String, Wanted>,
    /// Put into the mesh before the first step.
    #[serde(default)]
    pub secrets: Vec<WantedSecret>,
    pub steps: Vec<Step>,
}

/// Requests sent together, and what is expected of them.
#[derive(Debug, Clone, Deserialize)]
pub struct Step {
    pub name: String,
    /// A pause before the step.
    #[serde(default)]
    pub wait: Time,
    /// Only a running mesh can tell, which a computed one then does not try.
    #[serde(default, rename = "liveOnly")]
    pub live_only: bool,
    /// Only a computed mesh has the time, which a running one then is not asked for.
    #[serde(default, rename = "offlineOnly")]
    pub offline_only: bool,
    pub send: Send,
    pub expect: Expect,
}

/// A length of time: `250ms`, `1.5s`, `2m`.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Time(pub Duration);

impl<'de> Deserialize<'de> for Time {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Time, D::Error> {
        let text = String::deserialize(deserializer)?;
        crate::duration::parse(&text).map(Time).map_err(D::Error::custom)
    }
}

/// The requests of a step.
#[derive(Debug, Clone, Deserialize)]
pub struct Send {
    /// `ingress`, or the workload whose pod sends: `NAME` or `NAME.NAMESPACE`.
    #[serde(default = "ingress")]
    pub from: String,
    /// `http://HOST[:PORT][/PATH]`, the same with `https`, or `tcp://HOST:PORT`.
    pub url: String,
    /// Of `https`.
    pub tls: Option<Tls>,
    /// A connection begins with a PROXY protocol header that tells of a client of this address.
    #[serde(default, rename = "proxyProtocol")]
    pub proxy_protocol: Option<IpAddr>,
    #[serde(default = "get")]
    pub method: String,
    #[serde(default)]
    pub headers: BTreeMap<String, String>,
    #[serde(default)]
    pub body: String,
    #[serde(default = "one")]
    pub count: u64,
    #[serde(default = "one")]
    pub concurrency: u64,
    /// The requests come from so many clients in turn, each with an address, connections and cookies of its own.
    #[serde(default = "one")]
    pub clients: u64,
    /// Each client keeps the cookies it is given, and sends them.
    #[serde(default)]
    pub cookies: bool,
    /// How long an answer may take.
    #[serde(default = "patience")]
    pub timeout: Time,
}

/// How TLS is spoken.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Tls {
    /// Whose certificates are believed.
    #[serde(default = "certificates::usual")]
    pub authority: String,
    /// The certificate that is shown if it is asked for; none if empty.
    #[serde(default)]
    pub certificate: String,
    /// The server that is asked for, and whose certificate it must be; the URL's host if empty.
    #[serde(default)]
    pub server_name: String,
}

/// The word for requests that come in through the ingress gateway.
pub const INGRESS: &str = "ingress";

fn ingress() -> String {
    INGRESS.to_owned()
}

fn get() -> String {
    "GET".to_owned()
}

fn one() -> u64 {
    1
}

fn patience() -> Time {
    Time(Duration::from_secs(15))
}

/// What is expected of a step's answers, each of them a line of the report.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Expect {
    pub status: Option<Statuses>,
    /// Which workloads answer.
    #[serde(default)]
    pub answered_by: BTreeMap<String, Amount>,
    /// Which workloads get the requests, answered or not: mirrored copies and retries count.
    #[serde(default)]
    pub received: BTreeMap<String, Amount>,
    /// No pod answers a second time before every other one did.
    #[serde(default)]
    pub alternating: bool,
    pub same_pod: Option<SamePod>,
    /// How many different pods answer.
    pub pods: Option<Amount>,
    /// Headers of every answer.
    #[serde(default)]
    pub headers: BTreeMap<String, Text>,
    /// The body of every answer.
    pub body: Option<Text>,
    /// Fields of every answer's JSON body, by JSON pointer (RFC 6901).
    #[serde(default)]
    pub json: BTreeMap<String, Text>,
    /// `min`, `mean`, `max`, or `p` and digits for a percentile: p50, p99, p999.
    #[serde(default)]
    pub latency: BTreeMap<String, Times>,
    /// How sure a share such as `90%` is judged.
    #[serde(default)]
    pub confidence: Confidence,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum SamePod {
    /// One pod answers everything.
    All,
    /// One pod answers everything of one client.
    Client,
}

/// The share of honest runs that pass, from 0 to 1.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Confidence(pub f64);

impl Default for Confidence {
    fn default() -> Confidence {
        // One honest run in ten thousand fails.
        Confidence(0.9999)
    }
}

impl<'de> Deserialize<'de> for Confidence {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Confidence, D::Error> {
        let text = String::deserialize(deserializer)?;
        let share = text.trim().strip_suffix('%').and_then(|number| number.trim().parse::<f64>().ok());
        match share {
            Some(share) if (50.0..100.0).contains(&share) => Ok(Confidence(share / 100.0)),
            _ => Err(D::Error::custom(format_args!("{text:?} is not a confidence; write it as 99.9%, below 100%"))),
        }
    }
}

/// Statuses and how many answers have them. `200` alone stands for `{200: all}`.
#[derive(Debug, Clone)]
pub struct Statuses(pub Vec<(Status, Amount)>);

/// A status, a class of them, or no answer at all.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    Code(u16),
    /// The first digit.
    Class(u16),
    /// The connection failed or ended without an answer.
    None,
}

impl Status {
    pub fn is(self, seen: Option<u16>) -> bool {
        match (self, seen) {
            (Status::Code(code), Some(seen)) => code == seen,
            (Status::Class(class), Some(seen)) => class == seen / 100,
            (Status::None, seen) => seen.is_none(),
            (_, None) => false,
        }
    }

    fn parse(text: &str) -> Result<Status, String> {
        if text == "none" {
            return Ok(Status::None);
        }
        if let Some(class) = text.strip_suffix("xx") {
            if let Ok(class @ 1..=5) = class.parse() {
                return Ok(Status::Class(class));
            }
        } else if let Ok(code @ 100..=599) = text.parse() {
            return Ok(Status::Code(code));
        }
        Err(format!("{text:?} is not a status; write it as 200, 5xx or none"))
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Status::Code(code) => write!(f, "{code}"),
            Status::Class(class) => write!(f, "{class}xx"),
            Status::None => f.write_str("none"),
        }
    }
}

impl<'de> Deserialize<'de> for Statuses {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Statuses, D::Error> {
        struct Words;
        impl<'de> Visitor<'de> for Words {
            type Value = Statuses;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a status, or statuses with amounts")
            }

            fn visit_u64<E: serde::de::Error>(self, code: u64) -> Result<Statuses, E> {
                self.visit_str(&code.to_string())
            }

            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Statuses, E> {
                Ok(Statuses(vec![(Status::parse(text).map_err(E::custom)?, Amount::ALL)]))
            }

            fn visit_map<A: MapAccess<'de>>(self, mut fields: A) -> Result<Statuses, A::Error> {
                let mut statuses = Vec::new();
                while let Some(status) = fields.next_key::<String>()? {
                    statuses.push((Status::parse(&status).map_err(A::Error::custom)?, fields.next_value()?));
                }
                Ok(Statuses(statuses))
            }
        }
        deserializer.deserialize_any(Words)
    }
}

/// A test and where it is written.
#[derive(Debug, Clone)]
pub struct Written {
    pub origin: Origin,
    pub test: TrafficTest,
}

/// Reads the tests of a source.
///
/// # Errors
/// Everything that is wrong with them, each with its field.
pub fn read(source: &str, bytes: &[u8]) -> Result<Vec<Written>, Problems> {
    let mut problems = Vec::new();
    let mut tests = Vec::new();
    for (origin, test) in read_beside::<TrafficTest>(source, bytes, API_VERSION, KIND)? {
        let subject = Subject {
            kind: KIND.to_owned(),
            namespace: test.metadata.namespace.clone(),
            name: test.metadata.name.clone(),
        };
        problems.extend(test.problems().into_iter().map(|field| Problem {
            origin: Some(origin.clone()),
            subject: Some(subject.clone()),
            field,
        }));
        tests.push(Written { origin, test });
    }
    if problems.is_empty() { Ok(tests) } else { Err(Problems(problems)) }
}

impl TrafficTest {
    /// What decodes and makes no sense.
    fn problems(&self) -> Vec<FieldProblem> {
        let mut problems = Vec::new();
        if self.metadata.name.is_empty() {
            problems.push(FieldProblem::new("metadata.name", "required"));
        }
        if self.spec.steps.is_empty() {
            problems.push(FieldProblem::new("spec.steps", "at least one is required"));
        }
        for (index, step) in self.spec.steps.iter().enumerate() {
            let at = format!("spec.steps[{index}]");
            if step.name.is_empty() {
                problems.push(FieldProblem::new(format!("{at}.name"), "required"));
            }
            if step.live_only && step.offline_only {
                problems.push(FieldProblem::new(&at, "only one of liveOnly, offlineOnly can be given"));
            }
            step.send.problems(&format!("{at}.send"), &mut problems);
            step.expect.problems(&format!("{at}.expect"), &step.send, &mut problems);
        }
        certificates::problems(&self.spec, &mut problems);
        problems
    }
}

impl Send {
    /// The URL's parts; `None` if it is none.
    pub fn target(&self) -> Option<Target> {
        let uri: Uri = self.url.parse().ok()?;
        let (tcp, tls, usual) = match uri.scheme_str()? {
            "http" => (false, false, Some(80)),
            "https" => (false, true, Some(443)),
            "tcp" => (true, false, None),
            _ => return None,
        };
        let authority = uri.authority()?;
        let port = authority.port_u16().or(usual)?;
        Some(Target {
            tcp,
            tls,
            host: authority.host().to_owned(),
            port,
            authority: authority.as_str().to_owned(),
            path: uri.path_and_query().map_or("/", |path| path.as_str()).to_owned(),
        })
    }

    /// Whether the test itself says what `user-agent` is.
    pub fn names_user_agent(&self) -> bool {
        self.headers.keys().any(|name| name.eq_ignore_ascii_case("user-agent"))
    }

    fn problems(&self, at: &str, problems: &mut Vec<FieldProblem>) {
        let mut tell =
            |field: &str, message: String| problems.push(FieldProblem::new(format!("{at}.{field}"), message));
        let target = self.target();
        match &target {
            None => {
                let forms = "http://HOST[:PORT][/PATH], https://HOST[:PORT][/PATH] or tcp://HOST:PORT";
                tell("url", format!("{:?} is not of the form {forms}", self.url));
            }
            Some(target) if target.tcp && target.path != "/" => tell("url", "TCP knows no path".to_owned()),
            Some(_) => {}
        }
        if self.tls.is_some() && !target.as_ref().is_some_and(|target| target.tls) {
            tell("tls", "only https:// has it".to_owned());
        }
        if self.tls.is_none() && target.as_ref().is_some_and(|target| target.tls) {
            tell("tls", "https:// needs to know whose certificates are believed: {} is the test's own".to_owned());
        }
        if self.proxy_protocol.is_some() && self.from != INGRESS {
            tell("proxyProtocol", "only a client outside of the mesh has a proxy in front of it".to_owned());
        }
        if self.from.is_empty() {
            tell("from", "the name of a workload is required, or ingress".to_owned());
        }
        if hyper::Method::from_bytes(self.method.as_bytes()).is_err() {
            tell("method", format!("{:?} is not a method", self.method));
        }
        for (name, value) in &self.headers {
            let good = HeaderName::from_bytes(name.as_bytes()).is_ok() && HeaderValue::from_str(value).is_ok();
            if !good {
                tell("headers", format!("{name}: {value:?} is not a header"));
            }
        }
        if target.is_some_and(|target| target.tcp) && (self.method != "GET" || !self.headers.is_empty() || self.cookies)
        {
            tell("url", "TCP knows no method, headers and cookies".to_owned());
        }
        if self.count == 0 || self.count > MOST_REQUESTS {
            tell("count", format!("must be from 1 to {MOST_REQUESTS}"));
        }
        for (field, number) in [("concurrency", self.concurrency), ("clients", self.clients)] {
            if number == 0 || number > MOST_AT_ONCE {
                tell(field, format!("must be from 1 to {MOST_AT_ONCE}"));
            }
        }
        if self.timeout.0.is_zero() {
            tell("timeout", "must be longer than 0".to_owned());
        }
    }
}

/// A URL's parts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// Bytes, not HTTP.
    pub tcp: bool,
    /// HTTP over TLS.
    pub tls: bool,
    pub host: String,
    pub port: u16,
    /// Host and port as written.
    pub authority: String,
    /// Path and query.
    pub path: String,
}

impl Expect {
    fn problems(&self, at: &str, send: &Send, problems: &mut Vec<FieldProblem>) {
        let mut tell = |field: String, message: &str| problems.push(FieldProblem::new(format!("{at}{field}"), message));
        let says_nothing = self.status.is_none()
            && self.answered_by.is_empty()
            && self.received.is_empty()
            && !self.alternating
            && self.same_pod.is_none()
            && self.pods.is_none()
            && self.headers.is_empty()
            && self.body.is_none()
            && self.json.is_empty()
            && self.latency.is_empty();
        if says_nothing {
            tell(String::new(), "nothing is expected");
        }
        if self.alternating && (send.concurrency != 1 || send.clients != 1) {
            tell(".alternating".to_owned(), "an order is only there with concurrency 1 and one client");
        }
        if !self.received.is_empty() && send.names_user_agent() {
            tell(".received".to_owned(), "requests are told apart by user-agent, which the step sets itself");
        }
        let tcp = send.target().is_some_and(|target| target.tcp);
        if tcp && (self.status.is_some() || !self.headers.is_empty() || !self.received.is_empty()) {
            tell(String::new(), "TCP knows no status and headers, and what is received is not told apart");
        }
        for name in self.headers.keys() {
            if HeaderName::from_bytes(name.as_bytes()).is_err() {
                tell(format!(".headers[{name:?}]"), "not a header name");
            }
        }
        for pointer in self.json.keys() {
            if !pointer.is_empty() && !pointer.starts_with('/') {
                tell(format!(".json[{pointer:?}]"), "a JSON pointer begins with /");
            }
        }
        for name in self.latency.keys() {
            if quantile(name).is_none() {
                tell(format!(".latency.{name}"), "not min, mean, max, or p and digits");
            }
        }
    }
}

/// What a name of a latency means.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Quantile {
    Mean,
    /// From 0 to 1.
    Share(f64),
}

/// `p99` is 0.99, `p999` 0.999.
pub fn quantile(name: &str) -> Option<Quantile> {
    match name {
        "min" => Some(Quantile::Share(0.0)),
        "max" => Some(Quantile::Share(1.0)),
        "mean" => Some(Quantile::Mean),
        _ => {
            let digits = name.strip_prefix('p').filter(|digits| (1..=6).contains(&digits.len()))?;
            let number: u32 = digits.bytes().all(|b| b.is_ascii_digit()).then(|| digits.parse().ok())??;
            let share = f64::from(number) / 10f64.powi(i32::try_from(digits.len()).ok()?);
            Some(Quantile::Share(share))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WHOLE: &str = "
apiVersion: test.lateen.dev/v1alpha1
kind: TrafficTest
metadata: {name: a, namespace: b}
spec:
  title: all there is
  steps:
  - name: one
    wait: 1.5s
    send:
      from: sleep.other
      url: http://web:8080/x?y=z
      method: POST
      headers: {x-user: jason}
      body: hello
      count: 100
      concurrency: 1
      clients: 1
      cookies: true
      timeout: 3s
    expect:
      status: {200: 90%, 5xx: at least 1, none: none}
      answeredBy: {web-v1: 90% ± 2%, web/v2: some}
      received: {web-v2: all}
      alternating: true
      samePod: client
      pods: 2..3
      headers: {x-version: {regex: v.}, x-gone: {present: false}}
      body: {contains: pod}
      json: {/headers/x-user: jason, /call: 7}
      latency: {p99: under 1s, max: at most 2s, mean: 1ms..1s}
      confidence: 99.9%
";

    fn told(text: &str) -> String {
        read("t.yaml", text.as_bytes()).unwrap_err().to_string()
    }

    #[test]
    fn everything_there_is() {
        let tests = read("t.yaml", WHOLE.as_bytes()).unwrap();
        let step = &tests[0].test.spec.steps[0];
        let target = step.send.target().unwrap();
        assert_eq!((target.host.as_str(), target.port, target.path.as_str()), ("web", 8080, "/x?y=z"));
        assert_eq!(step.expect.status.as_ref().unwrap().0.len(), 3);
        assert_eq!(step.expect.same_pod, Some(SamePod::Client));
        assert!((step.expect.confidence.0 - 0.999).abs() < 1e-9);
    }

    #[test]
    fn a_status_alone_is_everybodys() {
        let text = WHOLE.replace("{200: 90%, 5xx: at least 1, none: none}", "404");
        let tests = read("t.yaml", text.as_bytes()).unwrap();
        assert_eq!(tests[0].test.spec.steps[0].expect.status.as_ref().unwrap().0, [(Status::Code(404), Amount::ALL)]);
    }

    #[test]
    fn what_is_wrong_is_told_with_its_field() {
        let cases = [
            ("wait: 1.5s", "liveOnly: true\n    offlineOnly: true", "spec.steps[0]: only one of liveOnly, offlineOnly"),
            ("count: 100", "count: 0", "spec.steps[0].send.count: must be from 1"),
            ("count: 100", "cuont: 100", "spec.steps[0].send.cuont: unknown field, did you mean \"count\"?"),
            ("http://web:8080/x?y=z", "web", "spec.steps[0].send.url: \"web\" is not of the form"),
            ("http://web:8080/x?y=z", "ftp://web", "send.url"),
            ("http://web:8080/x?y=z", "https://web", "send.tls: https:// needs to know"),
            ("method: POST", "proxyProtocol: 192.0.2.1", "send.proxyProtocol: only a client outside of the mesh"),
            ("concurrency: 1", "concurrency: 2", "expect.alternating: an order is only there"),
            ("90% ± 2%", "90 %%", "expect.answeredBy.web-v1"),
            ("5xx:", "6xx:", "expect.status"),
            ("p99: under 1s", "p99: 1s", "expect.latency.p99: \"1s\" is not a range of times"),
            ("p99: under 1s", "q99: under 1s", "expect.latency.q99: not min"),
            ("/headers/x-user", "headers", "expect.json[\"headers\"]: a JSON pointer begins with /"),
            ("x-user: jason}\n      body", "User-Agent: me}\n      body", "expect.received: requests are told apart"),
            ("confidence: 99.9%", "confidence: 100%", "expect.confidence"),
            ("samePod: client", "samePod: none", "expect.samePod: \"none\" is not one of all, client"),
            ("v1alpha1", "v1", "kind: TrafficTest of test.lateen.dev/v1 is not known"),
        ];
        for (from, to, expected) in cases {
            let text = WHOLE.replacen(from, to, 1);
            assert_ne!(text, WHOLE, "{from}");
            assert!(told(&text).contains(expected), "{to}: {}", told(&text));
        }
    }

    #[test]
    fn quantiles() {
        assert_eq!(quantile("p50"), Some(Quantile::Share(0.5)));
        assert_eq!(quantile("p999"), Some(Quantile::Share(0.999)));
        assert_eq!(quantile("max"), Some(Quantile::Share(1.0)));
        for name in ["p", "p9x", "99", "median", "p1234567"] {
            assert_eq!(quantile(name), None, "{name}");
        }
    }
}
