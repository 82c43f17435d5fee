//! HTTP at a Service's port that does not say its protocol: each side finds out by itself what comes.

use lateen_tests::proxy::Kind;
use lateen_tests::wait;

use super::{KINDS, Stand, UNNAMED, caller, mode, names, server, told};

/// Whether lines of an access log are of HTTP; the bytes' lines name neither method nor path.
fn of_http(lines: &[String], mark: &str) -> bool {
    lines.iter().any(|line| line.contains(&format!("\"GET /{mark} HTTP/")))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn http_at_a_port_without_a_name_is_seen_as_http_at_both_ends() {
    let _alone = crate::one_mesh_at_a_time().await;
    let mut stand = Stand::up(vec![]).await;
    for taken in ["PERMISSIVE", "STRICT"] {
        stand.put(&[mode(taken)]).await;
        for (from, to) in KINDS.iter().flat_map(|from| KINDS.map(|to| (*from, to))) {
            // An Envoy has no filter to say by ALPN that HTTP comes.
            let says = from == Kind::Lateen;
            let (from, to) = (caller(from), server(to));
            for (client, spoken) in [("--http1.1", "HTTP/1.1"), ("--http2-prior-knowledge", "HTTP/2")] {
                let mark = format!("{}-{from}-{to}{client}", taken.to_lowercase());
                let place = format!("{mark} from {from} to {to}");
                let url = format!("http://{to}-unnamed:{UNNAMED}/{mark}");
                let (status, body) = stand.ask(&from, &[client], &url).await;
                assert_eq!((status.as_str(), &body["protocol"]), ("200", &spoken.into()), "{place}: {body}");
                assert_eq!(names(told(&body), &from, &to), says, "{place}: {body}");
                wait::until("the caller's proxy tells of a request", || async {
                    of_http(&stand.logged(&from, &mark).await, &mark).then_some(())
                })
                .await;
                if says {
                    wait::until("so does the server's", || async {
                        of_http(&stand.logged(&to, &mark).await, &mark).then_some(())
                    })
                    .await;
                }
            }
        }
    }
    stand.mesh.down().await;
}
