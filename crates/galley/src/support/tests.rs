use serde_json::json;

use super::*;

fn said(kind: &str, spec: Value) -> Vec<String> {
    let object = Object::decode(json!({
        "apiVersion": "networking.istio.io/v1", "kind": kind, "metadata": {"name": "a", "namespace": "b"}, "spec": spec,
    }));
    check(&object.unwrap()).iter().map(ToString::to_string).collect()
}

#[test]
fn what_cannot_be_done_is_named() {
    assert_eq!(
        said(
            "VirtualService",
            json!({
                "hosts": ["a"],
                "http": [{"fault": {}, "match": [{"headers": {"@request.auth.claims.sub": {"exact": "x"}}}]}],
                "tcp": [{"match": [{"port": 80}]}, {"match": [{"sourceSubnet": "10.0.0.0/8"}]}],
            })
        ),
        ["spec.tcp[1].match[0].sourceSubnet: matching the client's address (Istio does not either) \
             is not supported yet",]
    );
    assert_eq!(
        said(
            "DestinationRule",
            json!({
                "host": "a",
                "trafficPolicy": {"tls": {"mode": "DISABLE"}, "portLevelSettings": [{"loadBalancer": {"zoneAwareLbSetting": {"enabled": true}}}]},
                "subsets": [{"name": "s", "trafficPolicy": {
                    "loadBalancer": {"simple": "RANDOM", "zoneAwareLbSetting": {"enabled": true}}
                }}],
            })
        ),
        [
            "spec.trafficPolicy.portLevelSettings[0].loadBalancer.zoneAwareLbSetting: choosing endpoints by zone is not supported yet",
            "spec.subsets[0].trafficPolicy.loadBalancer.zoneAwareLbSetting: choosing endpoints by zone is not supported yet",
        ]
    );
    assert_eq!(
        said(
            "Gateway",
            json!({"servers": [{"port": {"protocol": "udp"}, "tls": {"minProtocolVersion": "TLSV1_1"}}, {"tls": {}}]})
        ),
        [
            "spec.servers[0].tls.minProtocolVersion: TLS before 1.2 (TLSV1_1) is not supported yet",
            "spec.servers[0].port.protocol: this protocol (udp) is not supported yet",
        ]
    );
}

/// A line with a typing error would never refuse anything: every path must name a field that decoding knows.
#[test]
fn every_path_is_a_field() {
    let policies = POLICIES.iter().flat_map(|place| {
        POLICY_LINES.iter().map(move |(path, ..)| (Kind::DestinationRule, format!("{place}.{path}")))
    });
    let lines = LINES.iter().map(|(kind, path, ..)| (*kind, (*path).to_owned())).chain(policies);
    for (kind, path) in lines {
        // A list is no valid value of any of these but lists of strings, so the complaint must not be "unknown field".
        let mut spec = json!([[]]);
        for step in path.split('.').rev() {
            let name = step.trim_end_matches("[]");
            spec = if name.len() == step.len() { json!({name: spec}) } else { json!({name: [spec]}) };
        }
        let Value::Object(mut fields) = spec else { panic!("{path}") };
        fields.insert("apiVersion".to_owned(), kind.info().api_version().into());
        fields.insert("kind".to_owned(), kind.name().into());
        fields.insert("metadata".to_owned(), json!({"name": "a"}));
        let complaint = Object::decode(Value::Object(fields)).unwrap_err().to_string();
        assert!(!complaint.contains("unknown field"), "{path}: {complaint}");
    }
}

/// Nothing is refused that `docs/istio.md` does not tell. `LATEEN_BLESS=1` writes its table anew.
#[test]
fn the_page_tells_what_is_refused() {
    const HEAD: &str = "| kind | field | refused | because this cannot be done |\n|---|---|---|---|\n";
    let listed = |values: &[&str]| values.iter().map(|value| format!("`{value}`")).collect::<Vec<_>>().join(", ");
    let said = |when: When| match when {
        When::Given => "when given".to_owned(),
        When::Is(these) => listed(these),
        When::BeginsWith(head) => format!("beginning with `{head}`"),
    };
    let lines = LINES.iter().map(|(kind, path, when, what)| (kind.name(), *path, *when, *what));
    let policies = POLICY_LINES.iter().map(|(path, when, what)| ("*policy*", *path, *when, *what));
    let rows: String = lines
        .chain(policies)
        .map(|(kind, path, when, what)| format!("| {kind} | `{path}` | {} | {what} |\n", said(when)))
        .collect();
    let file = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/istio.md");
    let page = std::fs::read_to_string(&file).unwrap();
    let words = page.split_once(HEAD).map_or(page.as_str(), |(words, _)| words);
    let wanted = format!("{words}{HEAD}{rows}");
    if std::env::var_os("LATEEN_BLESS").is_some() {
        std::fs::write(&file, &wanted).unwrap();
    }
    let page = std::fs::read_to_string(&file).unwrap();
    for row in rows.lines() {
        assert!(page.lines().any(|line| line == row), "docs/istio.md does not tell: {row}");
    }
}
