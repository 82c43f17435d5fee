//! A certificate is taken back while the mesh runs: whoever shows it is refused at every server, and nobody else is.

use lateen_tests::proxy::Kind;
use lateen_tests::tls::Authority;
use lateen_tests::wait;
use serde_json::{Value, json};

use super::shown::brought;
use super::{HTTP, KINDS, SHOP, Stand, caller, identity, mode, names, server, told};

/// The number of a caller's certificate, as its proxy tells it.
async fn serial(stand: &Stand, pod: &str) -> Vec<u8> {
    let text = stand.exec(pod, &["curl", "-s", "http://127.0.0.1:15000/certs"]).await;
    let certs: Value = serde_json::from_str(&text).unwrap();
    let all = certs["certificates"].as_array().unwrap();
    let own = all.iter().flat_map(|one| one["cert_chain"].as_array().unwrap());
    let own = own.filter(|one| one["subject_alt_names"] == json!([{"uri": identity(pod)}]));
    let serials: Vec<&str> = own.map(|one| one["serial_number"].as_str().unwrap()).collect();
    let serial = *serials.first().unwrap();
    assert!(serials.iter().all(|other| *other == serial), "one certificate: {serials:?}");
    (0..serial.len()).step_by(2).map(|at| u8::from_str_radix(&serial[at..at + 2], 16).unwrap()).collect()
}

/// Waits until a caller gets this status from every server.
async fn gets(stand: &Stand, pod: &str, status: &str) {
    for to in KINDS.map(server) {
        let url = format!("http://{to}:{HTTP}/");
        let got = wait::within(wait::PATIENCE, || async {
            let (got, body) = stand.ask(pod, &[], &url).await;
            (got == status && (status != "200" || names(told(&body), pod, &to))).then_some(())
        });
        assert!(got.await.is_some(), "{pod} at {to}: no {status}, but {:?}", stand.ask(pod, &[], &url).await);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_shows_a_revoked_certificate_is_refused() {
    let _alone = crate::one_mesh_at_a_time().await;
    let authority = Authority::new("authority");
    let mut more = vec![mode("STRICT")];
    // Who was let in stays: every request comes by a connection of its own.
    more.extend(KINDS.map(|kind| {
        json!({"apiVersion": "networking.istio.io/v1", "kind": "DestinationRule",
            "metadata": {"name": server(kind), "namespace": SHOP}, "spec": {"host": server(kind),
                "trafficPolicy": {"connectionPool": {"http": {"maxRequestsPerConnection": 1}}}}})
    }));
    more.push(brought(&authority, None));
    let mut stand = Stand::up(more).await;
    for (fired, stays) in [(Kind::Lateen, Kind::Envoy), (Kind::Envoy, Kind::Lateen)] {
        let (fired, stays) = (caller(fired), caller(stays));
        // Whose certificate is not taken back is let in, and let in again.
        stand.put(&[brought(&authority, Some(&authority.revoke(4711u64)))]).await;
        gets(&stand, &fired, "200").await;
        gets(&stand, &stays, "200").await;
        let list = authority.revoke(serial(&stand, &fired).await);
        stand.put(&[brought(&authority, Some(&list))]).await;
        gets(&stand, &fired, "503").await;
        gets(&stand, &stays, "200").await;
        // Nor is it let in again, by whatever it has kept.
        for _ in 0..5 {
            for to in KINDS.map(server) {
                let url = format!("http://{to}:{HTTP}/");
                assert_eq!(stand.ask(&fired, &[], &url).await.0, "503", "{fired} at {to}");
                assert_eq!(stand.ask(&stays, &[], &url).await.0, "200", "{stays} at {to}");
            }
        }
    }
    stand.mesh.down().await;
}
