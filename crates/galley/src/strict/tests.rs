use serde_json::json;

use super::decode;
use crate::istio::VirtualService;
use crate::object::Config;

fn problems(value: serde_json::Value) -> Vec<String> {
    decode::<Config<VirtualService>>(&value).unwrap_err().iter().map(ToString::to_string).collect()
}

#[test]
fn every_problem_is_found_with_its_place() {
    let found = problems(json!({
        "apiVersion": "networking.istio.io/v1",
        "kind": "VirtualService",
        "metadata": {"name": "a", "lables": {}},
        "spec": {
            "hosts": ["a", 5],
            "http": [
                {"route": [{"destination": {"host": "a", "prt": 1}, "weight": "10"}], "timeout": "1x"},
                {"match": [{"headers": {"x.y": {"exact": "a", "prefix": "b"}}, "port": -1}], "redirect": {"derivePort": "FROM_REQUST_PORT"}},
            ],
        },
    }));
    assert_eq!(
        found,
        [
            "metadata.lables: unknown field, did you mean \"labels\"?",
            "spec.hosts[1]: expected a string, found 5",
            "spec.http[0].route[0].destination.prt: unknown field, did you mean \"port\"?",
            "spec.http[0].route[0].weight: expected a whole number, found \"10\"",
            "spec.http[0].timeout: \"1x\" is not a duration; write it as 1.5s, 100ms, 1m or 1h30m",
            "spec.http[1].match[0].headers[\"x.y\"]: only one of exact, prefix, regex may be set",
            "spec.http[1].match[0].port: expected a number from 0 to 4294967295, found -1",
            "spec.http[1].redirect.derivePort: \"FROM_REQUST_PORT\" is not one of FROM_PROTOCOL_DEFAULT, \
             FROM_REQUEST_PORT, did you mean \"FROM_REQUEST_PORT\"?",
        ]
    );
}

#[test]
fn null_is_absence() {
    let decoded: Config<VirtualService> =
        decode(&json!({"spec": {"hosts": ["a"], "http": null, "gateways": null}, "status": null})).unwrap();
    assert!(decoded.spec.http.is_empty());
}

#[test]
fn a_wrong_root_is_one_problem() {
    assert_eq!(problems(json!([1])), ["expected an object, found a list"]);
    assert_eq!(problems(json!({"spec": "x"})), ["spec: expected an object, found \"x\""]);
}
