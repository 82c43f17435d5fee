//! HTTP routes of a round's rules.

use serde_json::{Value, json};

use super::dice::Dice;
use super::rules::Subject;
use super::words::{HEADERS, METHODS, PATHS, REGEXES, VALUES};

/// One to five routes.
pub fn routes(dice: &mut Dice, subject: &Subject<'_>, edge: bool) -> Vec<Value> {
    let count = 1 + dice.below(5);
    (0..count).map(|index| route(dice, subject, edge, index)).collect()
}

/// One route.
pub fn route(dice: &mut Dice, subject: &Subject<'_>, edge: bool, index: usize) -> Value {
    let mut route = json!({});
    if dice.chance(70) {
        route["name"] = json!(format!("route-{index}"));
    }
    let matches: Vec<Value> = (0..dice.below(3)).map(|_| matching(dice, edge)).collect();
    let rewritable = !matches.is_empty();
    if !matches.is_empty() {
        route["match"] = json!(matches);
    }
    match dice.below(14) {
        0 => route["redirect"] = redirect(dice),
        1 => {
            route["directResponse"] = json!({"status": ([200, 204, 404, 418, 503][dice.below(5)]), "body": {"string": format!("direct {index}")}});
        }
        _ => to_services(dice, subject, rewritable, &mut route),
    }
    if route.get("directResponse").is_some_and(|direct| direct["status"] == 204) {
        route["directResponse"].as_object_mut().map(|fields| fields.remove("body"));
    }
    if dice.chance(30) {
        route["headers"] = headers(dice);
    }
    if dice.chance(8) {
        route["corsPolicy"] = cors(dice);
    }
    if dice.chance(8) && route.get("route").is_some() {
        route["fault"] = fault(dice);
    }
    route
}

fn to_services(dice: &mut Dice, subject: &Subject<'_>, rewritable: bool, route: &mut Value) {
    let mut to = vec![json!({"destination": destination(dice, subject)})];
    if dice.chance(25) {
        to[0]["headers"] = headers(dice);
    }
    if dice.chance(25) {
        // Chance has no say: all or nothing.
        to[0]["weight"] = json!(100);
        to.push(json!({"destination": destination(dice, subject), "weight": 0}));
    }
    route["route"] = json!(to);
    if dice.chance(25) {
        let mut rewrite = match dice.below(3) {
            0 if rewritable => json!({"uri": dice.word(PATHS)}),
            1 => json!({"uriRegexRewrite": {"match": "/([a-z]+)", "rewrite": "/~\\1~"}}),
            _ => json!({"authority": "new.test"}),
        };
        if rewrite.get("authority").is_none() && dice.chance(30) {
            rewrite["authority"] = json!("both.test");
        }
        route["rewrite"] = rewrite;
    }
    if dice.chance(20) {
        route["timeout"] = json!(dice.word(&["1s", "20s"]));
    }
    if dice.chance(30) {
        route["retries"] = retries(dice);
    }
    if dice.chance(8) {
        route["mirror"] = destination(dice, subject);
        if dice.chance(50) {
            route["mirrorPercentage"] = json!({"value": ([0.0, 100.0][dice.below(2)])});
        }
    } else if dice.chance(3) {
        let mirror = |dice: &mut Dice| json!({"destination": destination(dice, subject), "percentage": {"value": ([0.0, 100.0][dice.below(2)])}});
        route["mirrors"] = json!([mirror(dice), mirror(dice)]);
    }
}

fn destination(dice: &mut Dice, subject: &Subject<'_>) -> Value {
    let service = dice.pick(subject.services);
    let ports: Vec<_> = service.ports.iter().filter(|port| port.speaks.may_be_http()).collect();
    let port = ports.get(dice.below(ports.len())).map_or(80, |port| port.number);
    let mut destination = json!({"host": service.host(), "port": {"number": port}});
    match dice.below(20) {
        0 => destination["host"] = json!("nobody.shop.svc.cluster.local"),
        1 => destination["port"]["number"] = json!(1),
        2..8 => destination["subset"] = json!(dice.word(&["v1", "v1", "v2", "v3", "v4"])),
        // A short name is one of the rule's own namespace.
        8 => destination["host"] = json!(service.name),
        9 => destination["host"] = json!(format!("{}.{}", service.name, service.namespace)),
        _ => {}
    }
    if dice.chance(8) {
        // The service's only port, else the listener's.
        destination.as_object_mut().map(|fields| fields.remove("port"));
    }
    destination
}

fn text(dice: &mut Dice) -> Value {
    match dice.below(4) {
        0 => json!({"prefix": dice.word(&["1", "a", "ab", "fire"])}),
        1 => json!({"regex": dice.word(&["a.*", "[0-9]+", "(a|b)+c?", ".*", "x y|true"])}),
        _ => json!({"exact": dice.word(VALUES)}),
    }
}

fn nonempty(dice: &mut Dice) -> Value {
    match text(dice) {
        empty if empty["exact"] == "" => json!({"exact": "a"}),
        some => some,
    }
}

fn matching(dice: &mut Dice, edge: bool) -> Value {
    let mut matching = json!({});
    if dice.chance(75) {
        matching["uri"] = match dice.below(5) {
            0 => json!({"exact": dice.word(PATHS)}),
            1 => json!({"regex": dice.word(REGEXES)}),
            _ => json!({"prefix": dice.word(PATHS)}),
        };
        if matching["uri"].get("regex").is_none() && dice.chance(20) {
            matching["ignoreUriCase"] = json!(true);
        }
    }
    if dice.chance(20) {
        matching["headers"] = match dice.chance(20) {
            true => json!({dice.word(HEADERS): {}}),
            false => json!({dice.word(HEADERS): nonempty(dice)}),
        };
    }
    if dice.chance(10) {
        matching["withoutHeaders"] = match dice.chance(30) {
            true => json!({dice.word(HEADERS): {}}),
            false => json!({dice.word(HEADERS): nonempty(dice)}),
        };
    }
    if dice.chance(10) {
        matching["method"] = json!({"exact": dice.word(METHODS)});
    }
    if dice.chance(10) {
        matching["queryParams"] = json!({dice.word(&["q", "r"]): nonempty(dice)});
    }
    if dice.chance(5) {
        matching["scheme"] = json!({"exact": dice.word(&["http", "http", "https"])});
    }
    if dice.chance(5) {
        matching["authority"] = json!({dice.word(&["prefix"]): dice.word(&["a", "x.", "s0"])});
    }
    if dice.chance(8) {
        matching["port"] = json!(if edge { *dice.pick(&[80, 8090]) } else { *dice.pick(&[80, 8000]) });
    }
    if dice.chance(5) {
        matching["gateways"] = json!([dice.word(&["shop/public", "other/second", "mesh"])]);
    }
    if dice.chance(6) {
        matching["sourceLabels"] = json!({"team": dice.word(&["a", "b"])});
    }
    if dice.chance(4) {
        matching["sourceNamespace"] = json!(dice.word(&["shop", "other"]));
    }
    if dice.chance(4) {
        matching["statPrefix"] = json!("drawn");
    }
    match matching.as_object().is_some_and(|fields| fields.is_empty()) {
        true => json!({"uri": {"prefix": "/"}}),
        false => matching,
    }
}

fn redirect(dice: &mut Dice) -> Value {
    let mut redirect = json!({});
    if dice.chance(60) {
        redirect["uri"] = json!(dice.word(PATHS));
    }
    if dice.chance(40) {
        redirect["authority"] = json!("elsewhere.test");
    }
    if dice.chance(30) {
        redirect["scheme"] = json!(dice.word(&["http", "https"]));
    }
    match dice.below(4) {
        0 => redirect["port"] = json!(*dice.pick(&[80, 443, 8443])),
        1 => redirect["derivePort"] = json!(dice.word(&["FROM_PROTOCOL_DEFAULT", "FROM_REQUEST_PORT"])),
        _ => {}
    }
    if dice.chance(50) {
        redirect["redirectCode"] = json!(*dice.pick(&[301, 302, 303, 307, 308]));
    }
    match redirect.as_object().is_some_and(|fields| fields.is_empty()) {
        true => json!({"uri": "/moved"}),
        false => redirect,
    }
}

fn headers(dice: &mut Dice) -> Value {
    let mut headers = json!({});
    for side in ["request", "response"] {
        if dice.chance(60) {
            let mut edits = json!({});
            if dice.chance(50) {
                edits["set"] = json!({dice.word(HEADERS): "set"});
            }
            if dice.chance(50) {
                edits["add"] = json!({dice.word(HEADERS): "added"});
            }
            if dice.chance(40) {
                edits["remove"] = json!([dice.word(HEADERS)]);
            }
            headers[side] = edits;
        }
    }
    headers
}

fn retries(dice: &mut Dice) -> Value {
    let mut retries = json!({"attempts": dice.below(4), "backoff": "10ms"});
    if retries["attempts"] == 0 {
        return json!({"attempts": 0});
    }
    if dice.chance(70) {
        let on = dice.word(&[
            "5xx",
            "gateway-error",
            "reset",
            "connect-failure,refused-stream",
            "retriable-4xx",
            "503,429",
            "retriable-status-codes,418",
            "5xx,reset,connect-failure",
        ]);
        retries["retryOn"] = json!(on);
    }
    if dice.chance(15) {
        retries["perTryTimeout"] = json!("1s");
    }
    if dice.chance(15) {
        retries["retryRemoteLocalities"] = json!(dice.chance(50));
    }
    if dice.chance(15) {
        retries["retryIgnorePreviousHosts"] = json!(dice.chance(50));
    }
    retries
}

fn cors(dice: &mut Dice) -> Value {
    let mut cors = json!({"allowOrigins": [{"exact": "http://good.test"}, {"prefix": "http://pre"}, {"regex": "http://[a-c]\\.re"}]});
    if dice.chance(60) {
        cors["allowMethods"] = json!(["GET", "POST"]);
    }
    if dice.chance(40) {
        cors["allowHeaders"] = json!(["x-a", "x-b"]);
    }
    if dice.chance(40) {
        cors["exposeHeaders"] = json!(["x-c"]);
    }
    if dice.chance(40) {
        cors["maxAge"] = json!("120s");
    }
    if dice.chance(40) {
        cors["allowCredentials"] = json!(dice.chance(50));
    }
    if dice.chance(30) {
        cors["unmatchedPreflights"] = json!(dice.word(&["FORWARD", "IGNORE"]));
    }
    cors
}

fn fault(dice: &mut Dice) -> Value {
    let mut fault = json!({});
    // None is never.
    let percentage = |dice: &mut Dice| match dice.below(8) {
        0 => Value::Null,
        1 | 2 => json!({"value": 0.0}),
        _ => json!({"value": 100.0}),
    };
    if dice.chance(40) {
        fault["delay"] = json!({"fixedDelay": "0.02s", "percentage": percentage(dice)});
    }
    if fault.get("delay").is_none() || dice.chance(60) {
        fault["abort"] = match dice.chance(70) {
            true => json!({"httpStatus": ([400, 503, 555][dice.below(3)]), "percentage": percentage(dice)}),
            false => {
                json!({"grpcStatus": dice.word(&["UNAVAILABLE", "NOT_FOUND", "8"]), "percentage": percentage(dice)})
            }
        };
    }
    fault
}
