//! Istio's resources of a round: gateways, rules for hosts, and whatever else a round has beside them.

use serde_json::{Value, json};

use super::dice::Dice;
use super::entries::{self, Entry};
use super::http;
use super::policies::policy;
use super::scenery::{Service, Speaks};
use super::scope;

/// What a round's rules are about.
pub struct Subject<'a> {
    pub round: u64,
    pub services: &'a [Service],
}

impl Subject<'_> {
    /// Names that only gateways know.
    pub fn public_hosts(&self) -> Vec<String> {
        let round = self.round;
        [format!("a{round}.test"), format!("b{round}.test"), format!("x.w{round}.test"), format!("y.w{round}.test")]
            .into()
    }

    /// Services written by hand.
    pub fn entries(&self) -> Vec<Entry> {
        entries::all(self.round)
    }
}

/// An object of one of Istio's networking kinds.
fn object(kind: &str, name: &str, namespace: &str, age: usize, spec: Value) -> Value {
    json!({
        "apiVersion": "networking.istio.io/v1", "kind": kind,
        "metadata": {"name": name, "namespace": namespace,
            "creationTimestamp": format!("2026-01-01T00:{:02}:{:02}Z", age / 60, age % 60)},
        "spec": spec,
    })
}

/// All rules of a round.
pub fn draw(dice: &mut Dice, subject: &Subject<'_>) -> Vec<Value> {
    let mut rules = Vec::new();
    let mut age = 0;
    let mut add = |kind: &str, name: String, namespace: &str, spec: Value| {
        age += 1;
        rules.push(object(kind, &name, namespace, age, spec));
    };
    add("Gateway", "public".to_owned(), "shop", gateway(dice, subject));
    if dice.chance(50) {
        add("Gateway", "second".to_owned(), "other", second_gateway(dice, subject));
    }
    for (index, (kind, spec)) in entries::draw(dice, subject).into_iter().enumerate() {
        add(kind, format!("entry-{index}"), "shop", spec);
    }
    for (namespace, spec) in scope::sidecars(dice, subject) {
        add("Sidecar", "scope".to_owned(), namespace, spec);
    }
    for (index, service) in subject.services.iter().enumerate() {
        // Of the service's namespace; at times also, or only, of the client's or the root namespace, and twice in one.
        for (place, percent) in [(service.namespace, 65), (service.namespace, 10), ("shop", 10), ("istio-system", 10)] {
            if dice.chance(percent) {
                let name = format!("policy-{index}-{place}-{percent}");
                add("DestinationRule", name, place, policy(dice, &service.host()));
            }
        }
    }
    for index in 0..3 + dice.below(3) {
        let namespace = dice.word(&["shop", "shop", "other", "istio-system"]);
        add("VirtualService", format!("edge-{index}"), namespace, edge(dice, subject));
    }
    for index in 0..3 + dice.below(3) {
        let namespace = dice.word(&["shop", "shop", "other"]);
        add("VirtualService", format!("mesh-{index}"), namespace, mesh(dice, subject));
    }
    if dice.chance(30) {
        for (index, spec) in [delegate(dice, subject), delegate(dice, subject)].into_iter().enumerate() {
            add("VirtualService", format!("delegate-{index}"), "shop", spec);
        }
        let hosts = [format!("d{}.test", subject.round)];
        let block = |index: usize| {
            json!({"match": [{"uri": {"prefix": (["/a", "/api"][index])}}],
            "delegate": {"name": format!("delegate-{index}"), "namespace": "shop"}})
        };
        add(
            "VirtualService",
            "root".to_owned(),
            "shop",
            json!({"hosts": hosts, "gateways": ["shop/public"], "http": [block(0), block(1)]}),
        );
    }
    rules.extend(scope::mesh_settings(dice));
    rules
}

fn gateway(dice: &mut Dice, subject: &Subject<'_>) -> Value {
    let round = subject.round;
    let all =
        [format!("a{round}.test"), format!("b{round}.test"), format!("*.w{round}.test"), format!("d{round}.test")];
    let hosts: Vec<String> = match dice.below(3) {
        0 => vec!["*".to_owned()],
        1 => all.iter().map(|host| format!("{}{host}", dice.word(&["", "*/", "./", "shop/"]))).collect(),
        _ => all.to_vec(),
    };
    let mut servers = vec![
        json!({"port": {"number": 80, "name": "http", "protocol": "HTTP"}, "hosts": hosts}),
        json!({"port": {"number": 443, "name": "tls", "protocol": dice.word(&["TLS", "HTTPS"])},
            "hosts": if dice.chance(50) { json!(["*"]) } else { json!(hosts) }, "tls": {"mode": "PASSTHROUGH"}}),
        json!({"port": {"number": 31400, "name": "tcp", "protocol": "TCP"}, "hosts": ["*"]}),
        json!({"port": {"number": 31401, "name": "tcp-alt", "protocol": "TCP"}, "hosts": [dice.word(&["*", "shop/*", "./*"])]}),
    ];
    if dice.chance(30) {
        servers.push(json!({"port": {"number": 80, "name": "redirect", "protocol": "HTTP"},
            "hosts": [format!("moved{round}.test")], "tls": {"httpsRedirect": true}}));
    }
    json!({"selector": {"istio": "ingressgateway"}, "servers": servers})
}

fn second_gateway(dice: &mut Dice, subject: &Subject<'_>) -> Value {
    let host = format!("b{}.test", subject.round);
    let number = *dice.pick(&[80, 8090]);
    json!({"selector": {"istio": "ingressgateway"}, "servers": [
        {"port": {"number": number, "name": "http", "protocol": dice.word(&["HTTP", "HTTP2", "GRPC"])}, "hosts": [host]},
        {"port": {"number": 443, "name": "tls", "protocol": "TLS"}, "hosts": [host], "tls": {"mode": "PASSTHROUGH"}},
    ]})
}

fn edge(dice: &mut Dice, subject: &Subject<'_>) -> Value {
    let round = subject.round;
    let names = [
        format!("a{round}.test"),
        format!("b{round}.test"),
        format!("*.w{round}.test"),
        format!("x.w{round}.test"),
        "*".to_owned(),
    ];
    let mut hosts: Vec<&str> = Vec::new();
    for _ in 0..1 + dice.below(2) {
        let host = dice.pick(&names);
        // Hosts of one rule may not overlap.
        let overlaps = |other: &&str| *other == "*" || host == "*" || other.contains(".w") && host.contains(".w");
        if !hosts.iter().any(overlaps) && !hosts.contains(&host.as_str()) {
            hosts.push(host);
        }
    }
    let gateways = match dice.below(4) {
        0 => json!(["shop/public", "other/second"]),
        1 => json!(["shop/public", "mesh"]),
        _ => json!(["shop/public"]),
    };
    let gateways = if hosts.contains(&"*") { json!(["shop/public"]) } else { gateways };
    let mut spec = json!({"hosts": hosts, "gateways": gateways, "http": http::routes(dice, subject, true)});
    if dice.chance(25) {
        spec["tls"] = json!([{"match": [{"port": 443, "sniHosts": hosts.iter().filter(|host| **host != "*").collect::<Vec<_>>()}],
            "route": l4_route(dice, subject, Speaks::Tls)}]);
        if hosts == ["*"] {
            spec.as_object_mut().map(|fields| fields.remove("tls"));
        }
    }
    if dice.chance(25) {
        spec["tcp"] = match dice.below(3) {
            0 => json!([{"match": [{"port": 31400}], "route": l4_route(dice, subject, Speaks::Tcp)},
                {"match": [{"port": 31401}], "route": l4_route(dice, subject, Speaks::Tcp)}]),
            1 => json!([{"match": [{"port": 31400}, {"port": 31401}], "route": l4_route(dice, subject, Speaks::Tcp)}]),
            _ => json!([{"route": l4_route(dice, subject, Speaks::Tcp)}]),
        };
    }
    spec
}

fn mesh(dice: &mut Dice, subject: &Subject<'_>) -> Value {
    let service = dice.pick(subject.services);
    let host = match dice.below(6) {
        0 => format!("{}.{}", service.name, service.namespace),
        1 => format!("*.{}.svc.cluster.local", service.namespace),
        2 => dice.pick(&subject.entries()).host.clone(),
        _ => service.host(),
    };
    let mut spec = json!({"hosts": [host], "http": http::routes(dice, subject, false)});
    if dice.chance(20) {
        let matching = match dice.below(3) {
            0 => json!([{"port": 9000, "sourceLabels": {"team": dice.word(&["a", "b"])}}]),
            1 => json!([{"port": 9000, "destinationSubnets": [dice.word(&["10.98.0.0/16", "10.99.0.0/16"])]}]),
            _ => json!([{"port": 9000}]),
        };
        let mut tcp = vec![json!({"match": matching, "route": l4_route(dice, subject, Speaks::Tcp)})];
        if dice.chance(30) {
            // To whoever speaks first as well: all others would wait for the client, and it for them.
            tcp.extend(server_first(dice, subject).map(|route| json!({"match": [{"port": 3306}], "route": route})));
        }
        spec["tcp"] = json!(tcp);
    }
    if dice.chance(20) && !host.starts_with('*') {
        spec["tls"] =
            json!([{"match": [{"port": 443, "sniHosts": [host]}], "route": l4_route(dice, subject, Speaks::Tls)}]);
    }
    if dice.chance(10) {
        spec["exportTo"] = json!([dice.word(&["*", ".", "other"])]);
    }
    spec
}

fn server_first(dice: &mut Dice, subject: &Subject<'_>) -> Option<Value> {
    let service = dice.pick(subject.services);
    let port = service.port_of(Speaks::ServerFirst)?;
    Some(json!([{"destination": {"host": service.host(), "port": {"number": port.number}}}]))
}

fn delegate(dice: &mut Dice, subject: &Subject<'_>) -> Value {
    json!({"http": [http::route(dice, subject, true, 0), http::route(dice, subject, true, 1)]})
}

/// One destination, or two of which one gets everything.
fn l4_route(dice: &mut Dice, subject: &Subject<'_>, speaks: Speaks) -> Value {
    let service = dice.pick(subject.services);
    let Some(port) = service.port_of(speaks).or_else(|| service.ports.first().copied()) else { return json!([]) };
    let mut destination = json!({"host": service.host(), "port": {"number": port.number}});
    if dice.chance(30) {
        destination["subset"] = json!(dice.word(&["v1", "v2"]));
    }
    json!([{"destination": destination}])
}
