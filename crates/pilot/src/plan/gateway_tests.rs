use super::*;
use lateen_galley::istio::gateway::{Port, ServerTlsSettings};

fn server(port: u32, protocol: &str, hosts: &[&str]) -> Server {
    Server {
        port: Some(Port { number: port, protocol: protocol.to_owned(), ..Default::default() }),
        hosts: hosts.iter().map(|host| (*host).to_owned()).collect(),
        ..Default::default()
    }
}

fn tls(server: Server, settings: ServerTlsSettings) -> Server {
    Server { tls: Some(settings), ..server }
}

fn passthrough(port: u32, hosts: &[&str]) -> Server {
    tls(server(port, "TLS", hosts), ServerTlsSettings::default())
}

fn plan_of(servers: &[&[Server]]) -> Plan {
    let gateways: Vec<Gateway> =
        servers.iter().map(|servers| Gateway { servers: servers.to_vec(), ..Default::default() }).collect();
    let claimants: Vec<Claimant<'_>> =
        gateways.iter().zip(["a", "b"]).map(|(spec, name)| Claimant { namespace: "ns", name, spec }).collect();
    plan(&claimants, &|port| if port == 80 { 8080 } else { port }, false)
}

fn reasons(plan: &Plan) -> Vec<&Reason> {
    plan.refused.iter().map(|refused| &refused.reason).collect()
}

#[test]
fn http_servers_share_the_workloads_port() {
    let plan = plan_of(&[
        &[server(80, "HTTP", &["a.com"])],
        &[server(80, "HTTP2", &["b.com"]), server(8080, "GRPC", &["c.com"])],
    ]);
    assert_eq!(plan.listeners[&(None, 8080)].servers.len(), 3);
    assert_eq!(plan.listeners.len(), 1);
    assert_eq!(plan.refused, []);
}

#[test]
fn another_protocol_on_a_taken_port_is_refused() {
    let plan = plan_of(&[&[server(80, "HTTP", &["*"]), server(80, "TCP", &["*"]), passthrough(80, &["*"])]]);
    assert_eq!(reasons(&plan), [&Reason::Protocol(8080), &Reason::Protocol(8080)]);
}

#[test]
fn passed_on_names_are_served_once() {
    let plan = plan_of(&[
        &[passthrough(443, &["a.com", "b.com"])],
        &[passthrough(443, &["c.com"]), passthrough(443, &["b.com"])],
    ]);
    assert_eq!(plan.listeners[&(None, 443)].servers.len(), 2);
    assert_eq!(reasons(&plan), [&Reason::DuplicateHosts(vec!["b.com".to_owned()])]);
}

#[test]
fn other_addresses_are_other_listeners() {
    let bound = Server { bind: "10.0.0.1".to_owned(), ..server(9000, "TCP", &["*"]) };
    let wrong = Server { bind: "here".to_owned(), ..server(9001, "TCP", &["*"]) };
    let plan = plan_of(&[&[server(9000, "TCP", &["*"]), bound, wrong]]);
    assert_eq!(plan.listeners.len(), 2);
    assert_eq!(reasons(&plan), [&Reason::BadBind("here".to_owned())]);
}

#[test]
fn servers_that_speak_tls_share_a_port_by_their_hosts() {
    let simple = || ServerTlsSettings { mode: ServerTlsMode::Simple, ..Default::default() };
    let plan = plan_of(&[
        &[
            tls(server(443, "HTTPS", &["a.com"]), simple()),
            tls(server(443, "TLS", &["./b.com"]), simple()),
            passthrough(443, &["c.com"]),
            server(443, "HTTP", &["*"]),
        ],
        &[
            tls(server(443, "HTTPS", &["A.com", "d.com"]), simple()),
            server(444, "HTTPS", &["*"]),
            Server::default(),
            tls(server(80, "HTTP", &["*"]), ServerTlsSettings { https_redirect: true, ..Default::default() }),
        ],
    ]);
    let kinds: Vec<ServerKind> = plan.listeners[&(None, 443)].servers.iter().map(|server| server.kind).collect();
    assert_eq!(kinds, [ServerKind::Https, ServerKind::Tls, ServerKind::Passthrough]);
    let with_settings = plan.listeners[&(None, 443)].servers.iter().map(|server| server.tls.is_some());
    assert_eq!(with_settings.collect::<Vec<_>>(), [true, true, false]);
    assert_eq!(
        reasons(&plan),
        [&Reason::Protocol(443), &Reason::DuplicateHosts(vec!["a.com".to_owned()]), &Reason::NoTls, &Reason::NoPort]
    );
    assert_eq!(plan.listeners[&(None, 8080)].servers[0].kind, ServerKind::Http { https_redirect: true });
}

#[test]
fn hosts_name_the_namespaces_they_are_for() {
    let of = |text| {
        let host = ServerHost::parse(text, "own");
        (host.namespace, host.host)
    };
    assert_eq!(of("A.com"), (None, "a.com".to_owned()));
    assert_eq!(of("*/a.com"), (None, "a.com".to_owned()));
    assert_eq!(of("./a.com"), (Some("own".to_owned()), "a.com".to_owned()));
    assert_eq!(of("ns/*"), (Some("ns".to_owned()), "*".to_owned()));
}
