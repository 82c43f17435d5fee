//! Policies for services: DestinationRules.

use serde_json::{Map, Value, json};

use super::dice::Dice;

/// A rule for this host.
pub fn policy(dice: &mut Dice, host: &str) -> Value {
    let mut spec = json!({"host": host});
    if dice.chance(70) {
        spec["trafficPolicy"] = traffic_policy(dice);
        if dice.chance(15) {
            let mut of_port = traffic_policy(dice);
            // Ports have none.
            of_port.as_object_mut().map(|fields| fields.remove("retryBudget"));
            of_port["port"] = json!({"number": *dice.pick(&[80, 8000, 9000])});
            spec["trafficPolicy"]["portLevelSettings"] = json!([of_port]);
        }
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
        let mut budget = json!({"percent": 100.0, "minRetryConcurrency": 1000});
        if dice.chance(50) {
            budget["budgetInterval"] = json!("10s");
        }
        policy.insert("retryBudget".to_owned(), budget);
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
