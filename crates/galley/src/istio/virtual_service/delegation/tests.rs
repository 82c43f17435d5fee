use super::*;

fn route(yaml: serde_json::Value) -> HttpRoute {
    serde_json::from_value(yaml).unwrap()
}

fn block(yaml: serde_json::Value) -> HttpMatchRequest {
    serde_json::from_value(yaml).unwrap()
}

use serde_json::json;

#[test]
fn delegates_fill_in_and_override() {
    let root = route(json!({
        "name": "root", "timeout": "3s", "retries": {"attempts": 1}, "headers": {"request": {"set": {"x": "root"}}},
        "match": [{"name": "m", "uri": {"prefix": "/api"}}], "delegate": {"name": "d"},
    }));
    let delegate = [
        route(json!({"name": "own", "timeout": "1s", "match": [{"name": "n", "uri": {"exact": "/api/x"}}],
            "route": [{"destination": {"host": "a"}}]})),
        route(json!({"match": [{"uri": {"prefix": "/other"}}], "route": [{"destination": {"host": "b"}}]})),
        route(json!({"route": [{"destination": {"host": "c"}}]})),
    ];
    let Delegated { routes, conflicts } = delegated(&root, &delegate);
    assert_eq!(conflicts, [1]);
    let [own, rest] = routes.as_slice() else { panic!("{routes:?}") };
    assert_eq!((own.name.as_str(), rest.name.as_str()), ("root-own", "root"));
    assert_eq!(own.timeout, delegate[0].timeout);
    assert_eq!(rest.timeout, root.timeout);
    assert_eq!(own.retries, root.retries);
    assert_eq!(own.headers, root.headers);
    assert_eq!(own.matches[0].name, "m-n");
    assert_eq!(own.matches[0].uri, Some(StringMatch::Exact("/api/x".to_owned())));
    assert_eq!(rest.matches, root.matches);
    assert_eq!(own.delegate, None);
}

#[test]
fn each_block_needs_one_of_the_roots() {
    let root = [block(json!({"uri": {"prefix": "/a"}})), block(json!({"uri": {"prefix": "/ab"}, "port": 80}))];
    let own = [block(json!({"uri": {"prefix": "/abc"}, "headers": {"x": {"exact": "1"}}}))];
    let merged = matches(&root, &own).unwrap();
    assert_eq!(merged.iter().map(|block| block.port).collect::<Vec<_>>(), [0, 80]);
    assert_eq!(matches(&root, &[own[0].clone(), block(json!({"uri": {"prefix": "/b"}}))]), None);
    assert_eq!(matches(&[], &own), Some(own.to_vec()));
    assert_eq!(matches(&root, &[]), Some(root.to_vec()));
}

#[test]
fn conflicts() {
    for (root, own, expected) in [
        (json!({"uri": {"exact": "/a"}}), json!({"uri": {"exact": "/a"}}), false),
        (json!({"uri": {"exact": "/a"}}), json!({"uri": {"prefix": "/a"}}), true),
        (json!({"uri": {"prefix": "/a/b"}}), json!({"uri": {"prefix": "/a"}}), true),
        (json!({"uri": {"prefix": "/a"}}), json!({"uri": {"regex": "/a.*"}}), true),
        (json!({"uri": {"regex": "/a.*"}}), json!({"method": {"exact": "GET"}}), false),
        (json!({"headers": {"x": {}}}), json!({"headers": {"x": {}}}), true),
        (json!({"headers": {"x": {"prefix": "a"}}}), json!({"headers": {"x": {"exact": "ab"}, "y": {}}}), false),
        (json!({"withoutHeaders": {"x": {"exact": "a"}}}), json!({"withoutHeaders": {"x": {"exact": "b"}}}), true),
        (json!({"queryParams": {"q": {"exact": "a"}}}), json!({"queryParams": {"q": {"exact": "b"}}}), true),
        (json!({"ignoreUriCase": true}), json!({}), true),
        (json!({"port": 80}), json!({"port": 81}), true),
        (json!({"port": 80}), json!({}), false),
        (json!({"sourceNamespace": "a"}), json!({}), true),
        (json!({}), json!({"sourceNamespace": "a"}), false),
        (json!({"sourceLabels": {"a": "1"}}), json!({"sourceLabels": {"a": "2"}}), true),
        (json!({"sourceLabels": {"a": "1"}}), json!({"sourceLabels": {"b": "2"}}), false),
        (json!({"gateways": ["g"]}), json!({"gateways": ["h"]}), true),
        (json!({"gateways": ["g", "h"]}), json!({"gateways": ["h"]}), false),
        (json!({"gateways": ["g"]}), json!({}), false),
    ] {
        assert_eq!(conflict(&block(root.clone()), &block(own.clone())), expected, "{root} {own}");
    }
}
