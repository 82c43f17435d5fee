//! Whatever comes in, nothing breaks; and what is written out reads as what it was.

use std::time::SystemTime;

use proptest::prelude::*;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value, json};

use crate::istio::{
    DestinationRule, Duration, Gateway, ServiceEntry, Sidecar, VirtualService, WorkloadEntry, WorkloadGroup,
};
use crate::{Change, Kind, Object, ReadOptions, Store, StoreSettings, kind, read_json, read_manifests, strict};

/// Words that decoding knows, so that arbitrary values get further than the first unknown field.
const WORDS: [&str; 40] = [
    "apiVersion",
    "kind",
    "metadata",
    "name",
    "namespace",
    "labels",
    "spec",
    "status",
    "hosts",
    "http",
    "match",
    "route",
    "destination",
    "host",
    "subset",
    "port",
    "number",
    "weight",
    "headers",
    "exact",
    "prefix",
    "regex",
    "uri",
    "timeout",
    "retries",
    "attempts",
    "redirect",
    "derivePort",
    "servers",
    "protocol",
    "tls",
    "mode",
    "ports",
    "endpoints",
    "address",
    "selector",
    "containers",
    "image",
    "targetPort",
    "trafficPolicy",
];

const TEXTS: [&str; 18] = [
    "v1",
    "apps/v1",
    "networking.istio.io/v1",
    "Service",
    "Pod",
    "Deployment",
    "VirtualService",
    "DestinationRule",
    "Gateway",
    "ServiceEntry",
    "List",
    "default",
    "a.b.c",
    "*",
    "5s",
    "HTTP",
    "SIMPLE",
    "10.0.0.1",
];

fn word() -> impl Strategy<Value = String> {
    prop_oneof![4 => prop::sample::select(&WORDS[..]).prop_map(str::to_owned), 1 => ".{0,12}"]
}

fn value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        (0..70_000i64).prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        prop::sample::select(&TEXTS[..]).prop_map(Value::from),
        ".{0,20}".prop_map(Value::from),
    ];
    leaf.prop_recursive(6, 128, 8, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..6).prop_map(Value::from),
            prop::collection::vec((word(), inner), 0..8).prop_map(|fields| Value::Object(Map::from_iter(fields))),
        ]
    })
}

/// An object of some known kind whose spec is anything.
fn object() -> impl Strategy<Value = Value> {
    let kinds: Vec<Kind> = Kind::all().collect();
    (prop::sample::select(kinds), value(), value()).prop_map(|(kind, spec, extra)| {
        let mut object = json!({
            "apiVersion": kind.info().api_version(), "kind": kind.name(), "metadata": {"name": "a", "namespace": "default"},
            "spec": spec,
        });
        if let (Value::Object(fields), Value::Object(more)) = (&mut object, extra) {
            for (name, value) in more {
                fields.entry(name).or_insert(value);
            }
        }
        object
    })
}

fn spec_round_trip<T: Serialize + DeserializeOwned + PartialEq + std::fmt::Debug>(value: &Value) {
    let Ok(decoded) = strict::decode::<T>(value) else { return };
    let written = serde_json::to_value(&decoded).unwrap();
    assert_eq!(strict::decode::<T>(&written).unwrap(), decoded);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_bytes_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        let _ = read_manifests("x", &bytes, ReadOptions::default());
        let _ = read_json(&bytes);
    }

    #[test]
    fn any_text_like_yaml_is_read_or_refused(text in "([a-z&*<!|>{}\\[\\],:#'\"%@-]|---\n|: |\n  |\n- ){0,80}") {
        let _ = read_manifests("x", text.as_bytes(), ReadOptions::default());
    }

    #[test]
    fn any_value_is_stored_or_refused(value in prop_oneof![value(), object()]) {
        let text = value.to_string();
        let read = read_manifests("x", text.as_bytes(), ReadOptions::default());
        let store = Store::new(StoreSettings::default());
        for manifest in read.manifests {
            let _ = store.write(Change::Upsert(manifest.object), SystemTime::UNIX_EPOCH);
        }
    }

    #[test]
    fn what_decodes_says_the_same_in_every_version(value in object()) {
        if let Ok(object) = Object::decode(value) {
            for version in object.kind().info().versions {
                let again = Object::decode(object.to_json(version)).unwrap();
                prop_assert_eq!(again.key(), object.key());
                prop_assert_eq!(&again.raw()["spec"], &object.raw()["spec"]);
            }
        }
    }

    #[test]
    fn specs_survive_writing_and_reading(value in value()) {
        spec_round_trip::<VirtualService>(&value);
        spec_round_trip::<DestinationRule>(&value);
        spec_round_trip::<Gateway>(&value);
        spec_round_trip::<ServiceEntry>(&value);
        spec_round_trip::<WorkloadEntry>(&value);
        spec_round_trip::<WorkloadGroup>(&value);
        spec_round_trip::<Sidecar>(&value);
    }

    #[test]
    fn durations_survive_writing_and_reading(nanos in 0..=i64::MAX) {
        let duration = Duration(std::time::Duration::from_nanos(nanos.unsigned_abs()));
        prop_assert_eq!(duration.to_string().parse::<Duration>(), Ok(duration));
    }

    #[test]
    fn any_text_is_a_duration_or_not(text in "[-+0-9.a-zµ ]{0,30}") {
        let _ = text.parse::<Duration>();
    }

    #[test]
    fn any_word_names_kinds_or_not(word in ".{0,80}", version in ".{0,30}") {
        let _ = kind::by_typed_name(&word);
        let _ = kind::by_api_version(&version, &word);
    }
}

/// Every field of Istio's kinds once, so that the round trip is not left to luck.
#[test]
fn full_specs_survive_writing_and_reading() {
    let destination = json!({"host": "a", "subset": "b", "port": {"number": 1}});
    let edits = json!({"set": {"a": "b"}, "add": {"c": "d"}, "remove": ["e"]});
    let headers = json!({"request": edits, "response": edits});
    let text = json!({"exact": "a"});
    let virtual_service = json!({
        "hosts": ["a"], "gateways": ["b"], "exportTo": ["*"],
        "http": [
            {
                "name": "n",
                "match": [{
                    "name": "m", "uri": {"prefix": "/"}, "scheme": text, "method": text, "authority": {"regex": "x"},
                    "headers": {"a": {}}, "port": 1, "sourceLabels": {"a": "b"}, "gateways": ["g"],
                    "queryParams": {"q": text}, "ignoreUriCase": true, "withoutHeaders": {"a": text},
                    "sourceNamespace": "n", "statPrefix": "s",
                }],
                "route": [{
                    "destination": destination, "weight": 1, "headers": headers,
                    "appendRequestHeaders": {"a": "b"}, "removeRequestHeaders": ["a"],
                    "appendResponseHeaders": {"a": "b"}, "removeResponseHeaders": ["a"],
                }],
                "websocketUpgrade": true, "appendHeaders": {"a": "b"},
                "appendRequestHeaders": {"a": "b"}, "removeRequestHeaders": ["a"],
                "appendResponseHeaders": {"a": "b"}, "removeResponseHeaders": ["a"],
                "rewrite": {"uri": "/", "authority": "a", "uriRegexRewrite": {"match": "a", "rewrite": "b"}},
                "timeout": "1s",
                "retries": {
                    "attempts": 1, "perTryTimeout": "1s", "retryOn": "5xx", "retryRemoteLocalities": true,
                    "retryIgnorePreviousHosts": false, "backoff": "1s",
                },
                "fault": {
                    "delay": {"percent": 1, "fixedDelay": "1s", "percentage": {"value": 0.5}},
                    "abort": {"httpStatus": 500, "percentage": {"value": 1.0}},
                },
                "mirror": destination, "mirrors": [{"destination": destination, "percentage": {"value": 1.0}}],
                "mirrorPercent": 1, "mirrorPercentage": {"value": 1.0},
                "corsPolicy": {
                    "allowOrigin": ["a"], "allowOrigins": [text], "allowMethods": ["GET"], "allowHeaders": ["a"],
                    "exposeHeaders": ["a"], "maxAge": "1s", "allowCredentials": true, "unmatchedPreflights": "IGNORE",
                },
                "headers": headers, "delegate": {"name": "a", "namespace": "b"},
            },
            {"redirect": {"uri": "/", "prefixRewrite": "/", "authority": "a", "port": 1, "scheme": "http", "redirectCode": 301}},
            {"redirect": {"derivePort": "FROM_REQUEST_PORT"}, "fault": {
                "delay": {"exponentialDelay": "1s"}, "abort": {"grpcStatus": "x"}}},
            {"directResponse": {"status": 200, "body": {"string": "a"}}, "fault": {"abort": {"http2Error": "x"}}},
            {"directResponse": {"status": 200, "body": {"bytes": "AAEC"}}},
        ],
        "tls": [{
            "match": [{
                "sniHosts": ["a"], "destinationSubnets": ["b"], "port": 1, "sourceLabels": {"a": "b"}, "gateways": ["g"],
                "sourceNamespace": "n",
            }],
            "route": [{"destination": destination, "weight": 1}],
        }],
        "tcp": [{
            "match": [{
                "destinationSubnets": ["b"], "port": 1, "sourceSubnet": "c", "sourceLabels": {"a": "b"}, "gateways": ["g"],
                "sourceNamespace": "n",
            }],
            "route": [{"destination": destination, "weight": 1}],
        }],
    });
    same_json::<VirtualService>(&virtual_service);

    let hash = |key: Value| json!({"loadBalancer": {"consistentHash": key}});
    let policy = json!({
        "loadBalancer": {
            "simple": "RANDOM",
            "localityLbSetting": {
                "distribute": [{"from": "a", "to": {"b": 100}}], "failover": [{"from": "a", "to": "b"}],
                "failoverPriority": ["a"], "enabled": true,
            },
            "zoneAwareLbSetting": {
                "enabled": true, "failover": [{"from": "a", "to": "b"}], "failoverPriority": ["a"], "minClusterSize": 1,
            },
            "warmupDurationSecs": "1s", "warmup": {"duration": "1s", "minimumPercent": 1.0, "aggression": 1.0},
        },
        "connectionPool": {
            "tcp": {
                "maxConnections": 1, "connectTimeout": "1s", "maxConnectionDuration": "1s", "idleTimeout": "1s",
                "tcpKeepalive": {"probes": 1, "time": "1s", "interval": "1s"},
            },
            "http": {
                "http1MaxPendingRequests": 1, "http2MaxRequests": 1, "maxRequestsPerConnection": 1, "maxRetries": 1,
                "idleTimeout": "1s", "h2UpgradePolicy": "UPGRADE", "useClientProtocol": true, "maxConcurrentStreams": 1,
                "http2KeepAlive": {"interval": "1s", "timeout": "1s"},
            },
        },
        "outlierDetection": {
            "consecutiveErrors": 1, "splitExternalLocalOriginErrors": true, "consecutiveLocalOriginFailures": 1,
            "consecutiveGatewayErrors": 1, "consecutive5xxErrors": 1, "interval": "1s", "baseEjectionTime": "1s",
            "maxEjectionPercent": 1, "minHealthPercent": 1, "outlierDetectionHttpErrorCodes": [500],
        },
        "tls": {
            "mode": "MUTUAL", "clientCertificate": "a", "privateKey": "b", "caCertificates": "c", "credentialName": "d",
            "subjectAltNames": ["e"], "sni": "f", "insecureSkipVerify": true, "caCrl": "g",
        },
        "tunnel": {"protocol": "CONNECT", "targetHost": "a", "targetPort": 1}, "proxyProtocol": {"version": "V2"},
        "retryBudget": {"percent": 1.0, "minRetryConcurrency": 1, "budgetInterval": "1s"},
    });
    let mut whole = policy.clone();
    let mut port = policy;
    port["port"] = json!({"number": 1});
    for field in ["tunnel", "proxyProtocol", "retryBudget"] {
        port.as_object_mut().unwrap().remove(field);
    }
    whole["portLevelSettings"] = json!([port]);
    same_json::<DestinationRule>(&json!({
        "host": "a", "trafficPolicy": whole, "exportTo": ["."], "workloadSelector": {"matchLabels": {"a": "b"}},
        "subsets": [
            {"name": "a", "labels": {"a": "b"}, "trafficPolicy": hash(json!({"httpHeaderName": "a", "minimumRingSize": 1}))},
            {"name": "b", "trafficPolicy": hash(json!({"useSourceIp": true, "ringHash": {"minimumRingSize": 1}}))},
            {"name": "c", "trafficPolicy": hash(json!({"httpQueryParameterName": "a", "maglev": {"tableSize": 1}}))},
            {"name": "d", "trafficPolicy": hash(json!({"httpCookie": {
                "name": "a", "path": "b", "ttl": "0s", "attributes": [{"name": "c", "value": "d"}]}}))},
        ],
    }));
    same_json::<Gateway>(&json!({
        "selector": {"a": "b"},
        "servers": [{
            "port": {"number": 1, "protocol": "HTTP", "name": "a", "targetPort": 1}, "bind": "a", "hosts": ["b"],
            "defaultEndpoint": "c", "name": "d",
            "tls": {
                "httpsRedirect": true, "mode": "OPTIONAL_MUTUAL", "serverCertificate": "a", "privateKey": "b",
                "caCertificates": "c", "caCrl": "d", "credentialName": "e", "credentialNames": ["f"],
                "caCertCredentialName": "g",
                "tlsCertificates": [{"serverCertificate": "a", "privateKey": "b", "caCertificates": "c"}],
                "subjectAltNames": ["h"], "verifyCertificateSpki": ["i"], "verifyCertificateHash": ["j"],
                "minProtocolVersion": "TLSV1_0", "maxProtocolVersion": "TLSV1_3", "cipherSuites": ["k"],
                "insecureSkipVerify": false,
            },
        }],
    }));
    let workload = json!({
        "address": "1.2.3.4", "ports": {"a": 1}, "labels": {"a": "b"}, "network": "n", "locality": "l", "weight": 1,
        "serviceAccount": "s",
    });
    same_json::<WorkloadEntry>(&workload);
    let port = json!({"number": 1, "protocol": "HTTP", "name": "a", "targetPort": 2});
    let pool = json!({"tcp": {"maxConnections": 1}});
    same_json::<Sidecar>(&json!({
        "workloadSelector": {"labels": {"a": "b"}}, "inboundConnectionPool": pool,
        "outboundTrafficPolicy": {"mode": "ALLOW_ANY", "egressProxy": destination},
        "egress": [{"port": port, "bind": "c", "captureMode": "NONE", "hosts": ["./*"]}],
        "ingress": [{
            "port": port, "bind": "c", "captureMode": "IPTABLES", "defaultEndpoint": "d", "connectionPool": pool,
            "tls": {"mode": "SIMPLE"},
        }],
    }));
    let probe = |way: &str, value: Value| {
        json!({
            "template": workload, "metadata": {"labels": {"a": "b"}, "annotations": {"c": "d"}},
            "probe": {
                "initialDelaySeconds": 1, "timeoutSeconds": 2, "periodSeconds": 3, "successThreshold": 4,
                "failureThreshold": 5, way: value,
            },
        })
    };
    let header = json!({"name": "a", "value": "b"});
    let http = json!({"path": "/", "port": 1, "host": "a", "scheme": "HTTPS", "httpHeaders": [header]});
    same_json::<WorkloadGroup>(&probe("httpGet", http));
    same_json::<WorkloadGroup>(&probe("tcpSocket", json!({"host": "a", "port": 1})));
    same_json::<WorkloadGroup>(&probe("exec", json!({"command": ["a"]})));
    same_json::<WorkloadGroup>(&probe("grpc", json!({"port": 1, "service": "a"})));
    same_json::<ServiceEntry>(&json!({
        "hosts": ["a"], "addresses": ["b"],
        "ports": [{"number": 1, "protocol": "HTTP", "name": "a", "targetPort": 2}],
        "location": "MESH_INTERNAL", "resolution": "DNS_ROUND_ROBIN", "endpoints": [workload],
        "workloadSelector": {"labels": {"a": "b"}}, "exportTo": ["~"], "subjectAltNames": ["c"],
    }));
}

/// Nothing of the JSON is lost: what was given is there again, and what was not given says nothing.
fn same_json<T: Serialize + DeserializeOwned + PartialEq + std::fmt::Debug>(given: &Value) {
    let decoded = strict::decode::<T>(given).unwrap();
    let written = serde_json::to_value(&decoded).unwrap();
    covers("", &written, given);
    spec_round_trip::<T>(given);
}

fn covers(path: &str, written: &Value, given: &Value) {
    match (written, given) {
        (Value::Object(written), Value::Object(given)) => {
            for (name, value) in given {
                covers(&format!("{path}.{name}"), written.get(name).unwrap_or(&Value::Null), value);
            }
        }
        (Value::Array(written), Value::Array(given)) => {
            assert_eq!(written.len(), given.len(), "{path}");
            for (index, (written, given)) in written.iter().zip(given).enumerate() {
                covers(&format!("{path}[{index}]"), written, given);
            }
        }
        (written, given) => assert_eq!(written, given, "{path}"),
    }
}
