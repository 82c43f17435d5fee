//! Istio's resources of a round: gateways, rules for hosts, policies for services, services written by hand.

use serde_json::{Map, Value, json};

use super::dice::Dice;
use super::http;
use super::scenery::{Service, Speaks};

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

    /// Hosts of services written by hand, and the last octet but one of their addresses.
    pub fn entries(&self) -> [(String, u8); 4] {
        let round = self.round;
        [
            (format!("static{round}.ext"), 1),
            (format!("dns{round}.ext"), 2),
            (format!("none{round}.ext"), 3),
            (format!("*.wild{round}.ext"), 4),
        ]
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
    for (index, spec) in entries(dice, subject).into_iter().enumerate() {
        add("ServiceEntry", format!("entry-{index}"), "shop", spec);
    }
    for (index, service) in subject.services.iter().enumerate() {
        if dice.chance(65) {
            add("DestinationRule", format!("policy-{index}"), service.namespace, policy(dice, &service.host()));
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
        json!({"port": {"number": 443, "name": "tls", "protocol": "TLS"}, "hosts": ["*"], "tls": {"mode": "PASSTHROUGH"}}),
        json!({"port": {"number": 31400, "name": "tcp", "protocol": "TCP"}, "hosts": ["*"]}),
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
    ]})
}

fn entries(dice: &mut Dice, subject: &Subject<'_>) -> Vec<Value> {
    let [low, high] = (subject.round as u16).to_le_bytes();
    let ports = json!([{"number": 80, "name": "http", "protocol": "HTTP", "targetPort": 8080},
        {"number": 9000, "name": "tcp", "protocol": "TCP"}, {"number": 443, "name": "tls", "protocol": "TLS", "targetPort": 9443}]);
    let plain = json!([{"number": 80, "name": "http", "protocol": "HTTP"}, {"number": 8081, "name": "alt", "protocol": "HTTP"}]);
    let mut drawn = Vec::new();
    for (host, third) in subject.entries() {
        if dice.chance(40) {
            continue;
        }
        let address = format!("10.{}.{low}.{third}", 92 + high);
        let endpoints: Vec<Value> = (0..1 + dice.below(3))
            .map(|index| {
                json!({"address": format!("10.{}.{low}.{}", 123 + high, u32::from(third) * 10 + index as u32),
                "labels": {"version": if index == 0 { "v1" } else { "v2" }}})
            })
            .collect();
        drawn.push(match third {
            1 => json!({"hosts": [host], "addresses": [address], "ports": ports, "resolution": "STATIC",
                "location": dice.word(&["MESH_INTERNAL", "MESH_EXTERNAL"]), "endpoints": endpoints}),
            2 => json!({"hosts": [host], "addresses": [address], "ports": ports, "resolution": dice.word(&["DNS", "DNS_ROUND_ROBIN"]),
                "endpoints": [endpoints[0].clone()]}),
            3 => json!({"hosts": [host], "addresses": [address], "ports": plain, "resolution": "NONE"}),
            _ => json!({"hosts": [host], "ports": plain, "resolution": "NONE"}),
        });
    }
    drawn
}

fn policy(dice: &mut Dice, host: &str) -> Value {
    let mut spec = json!({"host": host});
    if dice.chance(70) {
        spec["trafficPolicy"] = traffic_policy(dice);
    }
    if dice.chance(85) {
        let subsets: Vec<Value> = ["v1", "v2", "v3"]
            .iter()
            .map(|version| {
                let mut subset = json!({"name": version, "labels": {"version": version}});
                if dice.chance(20) {
                    subset["trafficPolicy"] = traffic_policy(dice);
                }
                subset
            })
            .collect();
        spec["subsets"] = json!(subsets);
    }
    if dice.chance(10) {
        spec["exportTo"] = json!([dice.word(&["*", ".", "shop"])]);
    }
    if dice.chance(10) {
        spec["workloadSelector"] = json!({"matchLabels": {"team": dice.word(&["a", "b"])}});
    }
    spec
}

fn traffic_policy(dice: &mut Dice) -> Value {
    let mut policy = Map::new();
    match dice.below(6) {
        0..4 => {
            let simple = dice.word(&["ROUND_ROBIN", "LEAST_REQUEST", "RANDOM"]);
            policy.insert("loadBalancer".to_owned(), json!({"simple": simple}));
        }
        _ => {
            policy.insert("loadBalancer".to_owned(), json!({"consistentHash": hash(dice)}));
        }
    }
    if dice.chance(40) {
        let mut http = json!({});
        if dice.chance(30) {
            http["maxRequestsPerConnection"] = json!(1 + dice.below(3));
        }
        if dice.chance(20) {
            http["h2UpgradePolicy"] = json!(dice.word(&["UPGRADE", "DO_NOT_UPGRADE"]));
        } else if dice.chance(20) {
            http["useClientProtocol"] = json!(true);
        }
        if dice.chance(20) {
            http["idleTimeout"] = json!("60s");
        }
        if dice.chance(20) {
            http["maxConcurrentStreams"] = json!(100);
        }
        let mut tcp = json!({"connectTimeout": "5s"});
        if dice.chance(20) {
            tcp["tcpKeepalive"] = json!({"time": "60s", "interval": "10s", "probes": 3});
        }
        if dice.chance(20) {
            tcp["idleTimeout"] = json!("60s");
        }
        if dice.chance(20) {
            tcp["maxConnectionDuration"] = json!("600s");
        }
        policy.insert("connectionPool".to_owned(), json!({"http": http, "tcp": tcp}));
    }
    if dice.chance(15) {
        // Never reached by what a round sends: what matters is that nobody is thrown out.
        policy.insert(
            "outlierDetection".to_owned(),
            json!({"consecutive5xxErrors": 1000, "consecutiveGatewayErrors": 1000, "interval": "60s"}),
        );
    }
    if dice.chance(10) {
        policy.insert("retryBudget".to_owned(), json!({"percent": 100.0, "minRetryConcurrency": 1000}));
    }
    Value::Object(policy)
}

fn hash(dice: &mut Dice) -> Value {
    let mut hash = match dice.below(4) {
        0 => json!({"httpHeaderName": dice.word(&["x-a", "x-user"])}),
        1 => json!({"useSourceIp": true}),
        2 => json!({"httpQueryParameterName": "q"}),
        _ => json!({"httpCookie": {"name": "u", "ttl": "60s", "path": "/"}}),
    };
    match dice.below(3) {
        0 => hash["maglev"] = json!({"tableSize": 1009}),
        1 => hash["ringHash"] = json!({"minimumRingSize": 64}),
        _ => {}
    }
    hash
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
        spec["tcp"] = json!([{"match": [{"port": 31400}], "route": l4_route(dice, subject, Speaks::Tcp)}]);
    }
    spec
}

fn mesh(dice: &mut Dice, subject: &Subject<'_>) -> Value {
    let service = dice.pick(subject.services);
    let host = match dice.below(6) {
        0 => format!("{}.{}", service.name, service.namespace),
        1 => format!("*.{}.svc.cluster.local", service.namespace),
        2 => dice.pick(&subject.entries()).0.clone(),
        _ => service.host(),
    };
    let mut spec = json!({"hosts": [host], "http": http::routes(dice, subject, false)});
    if dice.chance(20) {
        spec["tcp"] = json!([{"match": [{"port": 9000}], "route": l4_route(dice, subject, Speaks::Tcp)}]);
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
