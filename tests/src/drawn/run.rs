//! A run: four stands, told the same, asked the same.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use lateen_galley::store::Refusal;
use lateen_galley::{Change, Object, Snapshot, Store, StoreSettings};
use lateen_pilot::{Config, Pilot};
use serde_json::Value;

use super::identities::Identities;
use super::offline::{self, Offline};
use super::{Round, access, scenery, scope, shrink};
use crate::differential::{self, Outcome};
use crate::proxy::Kind;
use crate::stand::{self, Placed, Role, Stand};

/// The proxies of a run and what they were told last.
pub struct Run {
    pilot: Pilot,
    stands: Vec<Stand>,
    /// Counts what proxies were told: no two tellings have the same.
    telling: u64,
    /// What galley refused to take, by its words: such fields are left out, and other things of the object tried.
    pub refused: BTreeMap<String, usize>,
    seen_refusals: Vec<String>,
    /// How many requests reached an upstream behind Envoy with an identity that its client had proven.
    pub proven: usize,
    offline: Offline,
    /// What proxies were told last.
    told: Arc<Snapshot>,
}

/// A request that was not answered alike.
pub struct Difference {
    pub round: u64,
    pub case: String,
    /// The request as far as it is text, and what differs, Envoy's lines marked `-` and ours `+`.
    pub text: String,
}

impl Run {
    /// Starts the proxies.
    pub fn start() -> Run {
        let config = Config {
            debounce_quiet: Duration::from_millis(1),
            debounce_max: Duration::from_millis(5),
            ..Config::default()
        };
        let pilot = Pilot::new(config).expect("a pilot");
        let mut run = Run {
            pilot,
            stands: Vec::new(),
            telling: 0,
            refused: BTreeMap::new(),
            seen_refusals: Vec::new(),
            proven: 0,
            offline: Offline::new(),
            told: Arc::default(),
        };
        run.tell(&[], &[]);
        let identities = Arc::new(Identities::new());
        for kind in [Kind::Envoy, Kind::Lateen] {
            for role in [Role::Gateway, Role::Sidecar] {
                run.stands.push(Stand::start(kind, role, run.pilot.clone(), Arc::clone(&identities)));
            }
        }
        run
    }

    /// Tells the proxies a round's resources, plays its requests, and gives what differs.
    pub async fn round(&mut self, round: &Round) -> Vec<Difference> {
        let (theirs, ours, refusals) = self.play(round, &round.rules, &round.requests).await;
        let mut differences: Vec<Difference> =
            refusals.into_iter().map(|text| Difference { round: round.number, case: String::new(), text }).collect();
        let computed = self.offline.play(&self.told, &round.requests);
        for placed in &round.requests {
            let name = &placed.case.name;
            if let Some(text) = compare(placed, &theirs[name], &ours[name]) {
                differences.push(Difference { round: round.number, case: name.clone(), text });
            }
            // Handshakes are not computed.
            if let Some(identity) = placed.case.identity {
                let proof = format!("URI={identity}");
                self.proven += usize::from(theirs[name].upstream.iter().any(|line| line.contains(&proof)));
                continue;
            }
            let (decided, trace) = &computed[name];
            if let Some(text) = compare(placed, &offline::computed(&theirs[name]), &offline::computed(decided)) {
                let text = format!("    computed:\n{text}{trace}");
                differences.push(Difference { round: round.number, case: name.clone(), text });
            }
        }
        differences
    }

    /// The fewest rules of a round with which a request of it is still not answered alike, with the difference.
    pub async fn shrunk(&mut self, round: &Round, case: &str) -> String {
        let Some(placed) = round.requests.iter().find(|placed| placed.case.name == case) else { return String::new() };
        let mut left = round.rules.clone();
        let mut last = String::new();
        let mut tries = 0;
        let mut from = 0;
        while let Some((smaller, next)) = shrink::smaller(&left, from) {
            tries += 1;
            if tries > 150 {
                break;
            }
            from = next;
            let (theirs, ours, _) = self.play(round, &smaller, std::slice::from_ref(placed)).await;
            if let Some(text) = compare(placed, &theirs[case], &ours[case]) {
                last = text;
                left = smaller;
                from = shrink::back(from);
            }
        }
        let rules: Vec<String> = left.iter().map(Value::to_string).collect();
        format!("{}\n{last}", rules.join("\n"))
    }

    /// What became of a round's requests at Envoy and at the proxy, and what differs.
    pub async fn outcomes(&mut self, round: &Round) -> ([BTreeMap<String, Outcome>; 2], Vec<String>) {
        let (theirs, ours, mut differences) = self.play(round, &round.rules, &round.requests).await;
        for placed in &round.requests {
            let name = &placed.case.name;
            let different = compare(placed, &theirs[name], &ours[name]);
            differences.extend(different.map(|text| format!("{name}\n{text}")));
        }
        ([theirs, ours], differences)
    }

    async fn play(
        &mut self,
        round: &Round,
        rules: &[Value],
        requests: &[Placed],
    ) -> (BTreeMap<String, Outcome>, BTreeMap<String, Outcome>, Vec<String>) {
        self.tell(&round.scenery, rules);
        let played =
            futures::future::join_all(self.stands.iter().map(|stand| stand.play(self.telling, requests))).await;
        let (mut theirs, mut ours) = (BTreeMap::new(), BTreeMap::new());
        for (stand, outcomes) in self.stands.iter().zip(played) {
            match stand.kind {
                Kind::Envoy => theirs.extend(outcomes),
                Kind::Lateen => ours.extend(outcomes),
            }
        }
        (theirs, ours, self.refusals())
    }

    /// What proxies refused that they had not refused before.
    fn refusals(&mut self) -> Vec<String> {
        let all: Vec<String> = self.pilot.look(|state| {
            let mut all = Vec::new();
            for proxy in state.proxies() {
                let status = proxy.status.borrow();
                for (kind, of_type) in &status.types {
                    for (name, refusal) in &of_type.refused {
                        all.push(format!("{} refuses {kind} {name}: {}", proxy.node.workload, refusal.message));
                    }
                    if of_type.refused.is_empty()
                        && let Some(error) = &of_type.last_error
                    {
                        all.push(format!("{} refuses a {kind}: {error}", proxy.node.workload));
                    }
                }
            }
            all
        });
        let new = all.iter().filter(|text| !self.seen_refusals.contains(text)).cloned().collect();
        self.seen_refusals = all;
        new
    }

    fn tell(&mut self, scenery: &[Value], rules: &[Value]) {
        self.telling += 1;
        let mut snapshot = Snapshot::default();
        for object in scenery::always(self.telling).iter().chain(scenery) {
            let object = Object::decode(object.clone()).unwrap_or_else(|error| panic!("{error}: {object}"));
            snapshot.insert(Arc::new(object));
        }
        let store = Store::new(StoreSettings::default());
        for name in ["istio-system", "shop", "other"] {
            let namespace = serde_json::json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}});
            let namespace = Object::decode(namespace).expect("a namespace");
            store.write(Change::Upsert(namespace), SystemTime::UNIX_EPOCH).expect("a namespace");
        }
        for (index, rule) in rules.iter().enumerate() {
            let when = SystemTime::UNIX_EPOCH + Duration::from_secs(index as u64 + 1);
            let mut rule = rule.clone();
            scope::import_probe(&mut rule);
            access::spare_probe(&mut rule);
            if let Some(object) = self.admit(&store, rule, when) {
                snapshot.insert(object);
            }
        }
        snapshot.set_revision(self.telling);
        self.told = Arc::new(snapshot);
        self.pilot.update(Arc::clone(&self.told));
    }

    /// Puts a rule into the store, without those of its fields that galley refuses.
    fn admit(&mut self, store: &Store, mut rule: Value, when: SystemTime) -> Option<Arc<Object>> {
        for _ in 0..20 {
            let object = match Object::decode(rule.clone()) {
                Ok(object) => object,
                Err(error) => {
                    *self.refused.entry(error.to_string()).or_default() += 1;
                    return None;
                }
            };
            let problems = match store.write(Change::Upsert(object), when) {
                Ok(outcome) => return Some(outcome.object),
                Err(Refusal::Invalid { problems, .. }) => problems,
                Err(other) => {
                    *self.refused.entry(other.to_string()).or_default() += 1;
                    return None;
                }
            };
            // The last one first: positions in lists stay right.
            for problem in problems.iter().rev() {
                let pattern: String = problem.path.chars().filter(|letter| !letter.is_ascii_digit()).collect();
                *self.refused.entry(format!("{pattern}: {}", problem.message)).or_default() += 1;
                if !shrink::remove(&mut rule, &problem.path) {
                    return None;
                }
            }
        }
        None
    }
}

/// Where the bytes received stand in the line of a TCP connection, counted in words.
const BYTES_RECEIVED: usize = 8;

/// Where words stand, in such a line of a client that speaks TLS, that differ: the bytes both ways of a handshake that a
/// workload passes on are never as many again, and for a client that fails in it Envoy has connected to its host before.
const OF_A_HANDSHAKE: [usize; 4] = [6, 7, 14, 16];

fn compare(placed: &Placed, theirs: &Outcome, ours: &Outcome) -> Option<String> {
    let (theirs, ours) = (settled(placed, theirs), settled(placed, ours));
    if theirs == ours {
        return None;
    }
    Some(format!("{}{}", asked(placed), differential::difference(&theirs, &ours)))
}

/// The request, for reading.
fn asked(placed: &Placed) -> String {
    let mut text = format!("    {:?} {}\n", placed.role, placed.to);
    if let Some(identity) = placed.case.identity {
        text.push_str(&format!("    is {identity}\n"));
    }
    if let Some(h2) = &placed.case.h2 {
        text.push_str(&format!("    h2 {} {} {:?}\n", h2.method, h2.uri, h2.headers));
    }
    for act in &placed.case.client {
        if let crate::case::Do::Send(bytes) = act {
            text.push_str(&format!("    sends {}\n", crate::client::show(bytes)));
        }
    }
    for acts in &placed.case.script {
        let acts: Vec<String> = acts
            .iter()
            .map(|act| match act {
                crate::upstream::Act::Send(bytes) => format!("Send {}", crate::client::show(bytes)),
                other => format!("{other:?}"),
            })
            .collect();
        text.push_str(&format!("    upstream {}\n", acts.join(", ")));
    }
    text
}

/// Without what chance decides: which of a service's pods was asked, the time left for a try, cookies made up, and
/// how much an HTTP/2 client says in answer when nobody on the way knows that it is one. Nor in whose words a resolver says
/// that there is no such name, nor that Envoy sends a cookie that it made with each try.
fn settled(placed: &Placed, outcome: &Outcome) -> Outcome {
    let lines = |lines: &[String]| lines.iter().map(|line| settle(line)).collect();
    let mut log: Vec<String> = lines(&outcome.log);
    if placed.case.h2.is_some() {
        for line in log.iter_mut().filter(|line| line.starts_with("\"- - -\"")) {
            let words = line.split(' ').enumerate();
            *line = words.map(|(at, word)| if at == BYTES_RECEIVED { "*" } else { word }).collect::<Vec<_>>().join(" ");
        }
    }
    if placed.case.identity.is_some() {
        for line in log.iter_mut().filter(|line| line.starts_with("\"- - -\"")) {
            let words = stand::words(line).into_iter().enumerate();
            let told = words.map(|(at, word)| if OF_A_HANDSHAKE.contains(&at) { "*".to_owned() } else { word });
            *line = told.collect::<Vec<_>>().join(" ");
        }
    }
    let mut client: Vec<String> = lines(&outcome.client);
    client.dedup_by(|again, line| again == line && line.contains("set-cookie: u=<made>"));
    Outcome { client, upstream: lines(&outcome.upstream), log }
}

fn settle(line: &str) -> String {
    if let Some((head, left)) = line.split_once("x-envoy-expected-rq-timeout-ms: ")
        && let Ok(left) = left.parse::<u64>()
    {
        return format!("{head}x-envoy-expected-rq-timeout-ms: <up to {}>", left.div_ceil(1000) * 1000);
    }
    if let Some((head, date)) = line.split_once("\\r\\ndate: ")
        && let Some((_, rest)) = date.split_once("\\r\\n")
    {
        // HTTP spoken to a client that does not.
        return settle(&format!("{head}\\r\\n{rest}"));
    }
    if let Some((head, said)) = line.split_once("dns_resolution_failure{")
        && let Some((_, rest)) = said.split_once('}')
    {
        return settle(&format!("{head}dns_resolution_failure {rest}"));
    }
    if let Some((head, left)) = line.split_once("grpc-timeout: ")
        && let Some(left) = left.strip_suffix('m').and_then(|left| left.parse::<u64>().ok())
    {
        return format!("{head}grpc-timeout: <up to {}>", left.div_ceil(1000) * 1000);
    }
    if let Some((head, cookie)) = line.split_once("set-cookie: u=\"")
        && let Some((_, attributes)) = cookie.split_once('"')
    {
        return format!("{head}set-cookie: u=<made>{attributes}");
    }
    let mut out = String::with_capacity(line.len());
    let mut rest = line;
    while let Some(start) = rest.find(|letter: char| letter.is_ascii_digit()) {
        let length = rest[start..].find(|letter: char| !letter.is_ascii_digit() && letter != '.');
        let (word, after) = rest[start..].split_at(length.unwrap_or(rest.len() - start));
        out.push_str(&rest[..start]);
        match word.parse::<std::net::Ipv4Addr>().map(|address| address.octets()) {
            Ok([10, b @ 112..=130, c, _]) => out.push_str(&format!("10.{b}.{c}.*")),
            _ => out.push_str(word),
        }
        rest = after;
    }
    out.push_str(rest);
    out
}
