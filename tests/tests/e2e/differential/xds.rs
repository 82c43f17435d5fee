//! The same worlds from an ADS server instead of a file, and what happens when it says something new.

use std::sync::Arc;

use lateen_tests::ads::ControlPlane;
use lateen_tests::bootstrap::{self, Flavour, Layout, cluster, http, listener};
use lateen_tests::differential::{Source, compare};
use lateen_tests::load::{Load, Target, failures};
use lateen_tests::proxy::{Kind, Proxy};
use lateen_tests::upstream::{self, Stage};
use lateen_tests::wait;
use serde_json::{Value, json};

use super::{generated, headers, local_replies, routing, streams};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn routing_by_delta() {
    compare(&routing::world(), Source::Ads(Flavour::Delta)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn routing_by_state_of_the_world() {
    compare(&routing::world(), Source::Ads(Flavour::StateOfTheWorld)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn headers_by_delta() {
    compare(&headers::world(), Source::Ads(Flavour::Delta)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn local_replies_by_delta() {
    compare(&local_replies::world(), Source::Ads(Flavour::Delta)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn streams_by_delta() {
    compare(&streams::world(), Source::Ads(Flavour::Delta)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn generated_by_state_of_the_world() {
    compare(&generated::world(), Source::Ads(Flavour::StateOfTheWorld)).await;
}

/// Listeners and clusters: `/said` answers with `word`, everything else goes to `upstream`.
fn told(layout: &Layout, word: &str, upstream: &str) -> (Vec<Value>, Vec<Value>) {
    let routes = json!([{"name": "all", "domains": ["*"], "routes": [
        {"match": {"prefix": "/said"}, "direct_response": {"status": 200, "body": {"inline_string": word}}},
        {"match": {"prefix": "/"}, "route": {"cluster": "up"}},
    ]}]);
    let listeners = vec![listener(layout, "main", http(layout, "main", routes, json!({})))];
    (listeners, vec![cluster(layout, "up", &[upstream], json!({}))])
}

/// Each change takes effect under load without one failed request; a refused one changes nothing.
async fn changes(kind: Kind, flavour: Flavour) {
    let dir = tempfile::tempdir().unwrap();
    let stage = Arc::new(Stage::default());
    let mut upstreams = Vec::new();
    for name in ["one", "two"] {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        upstreams.push((name, listener.local_addr().unwrap().port()));
        upstream::serve(stage.clone(), name, listener);
    }
    let mut layout = Layout::new(dir.path(), &["main", "second"], &upstreams);
    let (listeners, clusters) = told(&layout, "first", "one");
    let control = ControlPlane::start(&listeners, &clusters).await;
    layout.ads = Some(control.port);
    let proxy = Proxy::start(kind, &bootstrap::from_ads(&layout, flavour), layout.admin, dir.path()).await;

    let address = ([127, 0, 0, 1], layout.listener("main")).into();
    let said = Target::new(address, "a.test", "/said");
    let says = async |word: &str| {
        wait::until(&format!("{} answers {word}", kind.name()), || async {
            said.ask().await.ok().filter(|message| message.text() == word).map(|_| ())
        })
        .await;
    };
    says("first").await;
    let load = Load::start(&Target::new(address, "a.test", "/"), 2);
    load.passes(50).await;

    let (listeners, clusters) = told(&layout, "second", "one");
    control.push("2", &listeners, &clusters);
    says("second").await;

    let (listeners, clusters) = told(&layout, "third", "two");
    control.push("3", &listeners, &clusters);
    says("third").await;
    wait::until("the other endpoint is used", || async { (stage.connections("two") > 0).then_some(()) }).await;
    load.passes(50).await;

    // A regular expression that does not compile: refused, and what was there stays.
    assert_eq!(control.refusals(), Vec::<String>::new(), "{}", kind.name());
    let (mut listeners, clusters) = told(&layout, "broken", "two");
    let manager = &mut listeners[0]["filter_chains"][0]["filters"][0]["typed_config"];
    manager["route_config"]["virtual_hosts"][0]["routes"][0]["match"] = json!({"safe_regex": {"regex": "("}});
    control.push("4", &listeners, &clusters);
    wait::until("the refusal is told", || async { control.refusals().first().cloned() }).await;
    says("third").await;

    // One listener more, on another port; the first keeps its connections.
    let (mut listeners, clusters) = told(&layout, "fifth", "two");
    let routes = json!([{"name": "all", "domains": ["*"], "routes": [
        {"match": {"prefix": "/"}, "direct_response": {"status": 200, "body": {"inline_string": "new"}}}]}]);
    listeners.push(listener(&layout, "second", http(&layout, "second", routes, json!({}))));
    control.push("5", &listeners, &clusters);
    says("fifth").await;
    let new = Target::new(([127, 0, 0, 1], layout.listener("second")).into(), "a.test", "/");
    wait::until("the new listener answers", || async {
        new.ask().await.ok().filter(|message| message.text() == "new")
    })
    .await;

    load.passes(50).await;
    let samples = load.finish().await;
    assert!(failures(&samples).is_empty(), "{}: of {}: {:#?}", kind.name(), samples.len(), failures(&samples));

    let (listeners, clusters) = told(&layout, "sixth", "two");
    control.push("6", &listeners, &clusters);
    says("sixth").await;
    wait::until("the removed listener refuses", || async { new.ask().await.err() }).await;
    drop(proxy);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn changes_in_envoy() {
    changes(Kind::Envoy, Flavour::Delta).await;
    changes(Kind::Envoy, Flavour::StateOfTheWorld).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn changes_by_delta() {
    changes(Kind::Lateen, Flavour::Delta).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn changes_by_state_of_the_world() {
    changes(Kind::Lateen, Flavour::StateOfTheWorld).await;
}

/// A listener whose address somebody else has is refused, the others of the same update are served. What is told of it.
async fn a_taken_address(kind: Kind, flavour: Flavour) -> Vec<String> {
    let dir = tempfile::tempdir().unwrap();
    let layout = Layout::new(dir.path(), &["main", "second", "third"], &[]);
    let somebody = std::net::TcpListener::bind(("127.0.0.1", layout.listener("second"))).unwrap();
    let says = |name: &str, word: &str| {
        let routes = json!([{"name": "all", "domains": ["*"], "routes": [
            {"match": {"prefix": "/"}, "direct_response": {"status": 200, "body": {"inline_string": word}}}]}]);
        listener(&layout, name, http(&layout, name, routes, json!({})))
    };
    let asked = async |name: &str, word: &str| {
        let target = Target::new(([127, 0, 0, 1], layout.listener(name)).into(), "a.test", "/");
        wait::until(&format!("{} answers {word}", kind.name()), || async {
            target.ask().await.ok().filter(|message| message.text() == word).map(|_| ())
        })
        .await;
    };
    let control = ControlPlane::start(&[says("main", "first")], &[]).await;
    let mut by_ads = layout.clone();
    by_ads.ads = Some(control.port);
    let _proxy = Proxy::start(kind, &bootstrap::from_ads(&by_ads, flavour), layout.admin, dir.path()).await;
    asked("main", "first").await;

    control.push("2", &[says("main", "second"), says("second", "never"), says("third", "new")], &[]);
    let told = wait::until("the refusal is told", || async {
        Some(control.refusals()).filter(|refusals| !refusals.is_empty())
    })
    .await;
    asked("main", "second").await;
    asked("third", "new").await;
    drop(somebody);
    let port = layout.listener("second").to_string();
    told.iter().map(|line| line.trim_end().replace(&port, "PORT")).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_address_that_somebody_else_has_is_refused() {
    for flavour in [Flavour::Delta, Flavour::StateOfTheWorld] {
        let told = a_taken_address(Kind::Envoy, flavour).await;
        assert_eq!(told, a_taken_address(Kind::Lateen, flavour).await);
        assert!(told[0].contains("second: cannot bind '127.0.0.1:PORT': Address already in use"), "{told:?}");
    }
}
