use crate::testing::{self, Cluster};

#[test]
fn not_ready_before_the_first_snapshot() {
    let pilot = crate::Pilot::new(crate::Config::default()).unwrap();
    assert_eq!(pilot.answer("/ready").status, 503);
    assert_eq!(pilot.answer("/nowhere").status, 404);
}

#[test]
fn pages_show_what_is_connected() {
    let cluster = Cluster::read(testing::CANARY);
    let pilot = cluster.pilot();
    let connection = testing::connect(&pilot, testing::SIDECAR);
    assert_eq!(pilot.answer("/ready").status, 200);
    for (path, expected) in [
        ("/debug/syncz", "\"proxy\": \"hello-v1.shop\""),
        ("/debug/connections", "\"totalClients\": 1"),
        ("/debug/registryz", "helloworld.shop.svc.cluster.local"),
        ("/debug/endpointz", "10.244.0.5"),
        ("/debug/config_dump?proxyID=hello-v1.shop", "outbound|8080|v1|helloworld.shop.svc.cluster.local"),
        ("/metrics", "pilot_xds 1\n"),
    ] {
        let answer = pilot.answer(path);
        assert!(answer.status == 200 && answer.body.contains(expected), "{path}: {}", answer.body);
    }
    assert_eq!(pilot.answer("/debug/config_dump").status, 400);
    assert_eq!(pilot.answer("/debug/config_dump?proxyID=x").status, 404);
    drop(connection);
    assert!(pilot.answer("/metrics").body.contains("pilot_xds 0\n"));
}

#[test]
fn policies_that_have_nobody_to_ask_are_told() {
    let cluster = Cluster::read(include_str!("../testdata/custom-in.yaml"));
    let pilot = cluster.pilot();
    let lost = "sidecar~10.244.0.8~lost.shop~shop.svc.cluster.local";
    let _connections = [testing::connect(&pilot, testing::SIDECAR), testing::connect(&pilot, lost)];
    let told: serde_json::Value = serde_json::from_str(&pilot.answer("/debug/problemz").body).unwrap();
    let why = "it is none of the mesh's extensionProviders whose service is known";
    let said = format!("AuthorizationPolicy shop/nobody denies what it matches: of provider \"never-set-up\", {why}");
    assert_eq!(told, serde_json::json!([{"proxy": lost, "problems": [said]}]));
}
