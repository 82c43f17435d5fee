use super::*;
use crate::matcher::Cidr;

fn seen(hcm: &Hcm, fields: &[(&str, &str)]) -> (Vec<String>, Client) {
    let mut request =
        RequestHead { method: "GET".into(), headers: fields.iter().copied().collect(), ..Default::default() };
    let client = prepare_request(
        &mut request,
        hcm,
        "10.0.0.9:4711".parse().unwrap(),
        "10.0.0.1".parse().unwrap(),
        None,
        &mut (|| 0x0123_4567_89ab_cdef),
    );
    let list = request.headers.iter().map(|(n, v)| format!("{n}: {}", String::from_utf8_lossy(v))).collect();
    (list, client)
}

fn edge(use_remote_address: bool) -> Hcm {
    Hcm { edge: Edge { use_remote_address, generate_request_id: false, ..Default::default() }, ..Default::default() }
}

#[test]
fn an_edge_says_who_the_client_is() {
    let (headers, client) = seen(
        &edge(true),
        &[
            ("x-forwarded-for", "1.1.1.1"),
            ("x-forwarded-proto", "https"),
            ("x-envoy-original-path", "/"),
            ("x-envoy-attempt-count", "7"),
        ],
    );
    assert_eq!(
        headers,
        [
            "x-forwarded-for: 1.1.1.1,10.0.0.9",
            "x-forwarded-proto: http",
            "x-envoy-attempt-count: 7",
            "x-envoy-external-address: 10.0.0.9"
        ]
    );
    assert_eq!(client.address.ip(), "10.0.0.9".parse::<IpAddr>().unwrap());
    assert!(!client.internal);
}

#[test]
fn a_trusted_hop_is_believed() {
    let mut hcm = edge(true);
    hcm.edge.xff_num_trusted_hops = 1;
    let (headers, client) = seen(&hcm, &[("x-forwarded-for", "1.1.1.1, 2.2.2.2"), ("x-forwarded-proto", "https")]);
    assert!(headers.contains(&"x-forwarded-proto: https".to_owned()));
    assert!(headers.contains(&"x-envoy-external-address: 2.2.2.2".to_owned()));
    assert_eq!(client.address.ip(), "2.2.2.2".parse::<IpAddr>().unwrap());
}

#[test]
fn a_sidecar_leaves_them_but_strips_steering() {
    let (headers, _) = seen(
        &edge(false),
        &[
            ("x-forwarded-for", "1.1.1.1"),
            ("x-forwarded-proto", "https"),
            ("x-envoy-retry-on", "5xx"),
            ("x-forwarded-client-cert", "By=x"),
        ],
    );
    assert_eq!(headers, ["x-forwarded-for: 1.1.1.1", "x-forwarded-proto: https"]);
}

#[test]
fn internal_clients_must_be_listed() {
    let mut hcm = edge(true);
    hcm.edge.internal_ranges = vec![Cidr::new("10.0.0.0".parse().unwrap(), 8).unwrap()];
    let (headers, client) = seen(&hcm, &[("x-envoy-retry-on", "5xx")]);
    assert!(client.internal && headers.contains(&"x-envoy-retry-on: 5xx".to_owned()));
    assert!(!seen(&hcm, &[("x-forwarded-for", "1.1.1.1")]).1.internal);
}

#[test]
fn hop_by_hop_fields_end_here() {
    let (headers, _) = seen(
        &edge(false),
        &[
            ("connection", "x-a, te, close"),
            ("x-a", "1"),
            ("keep-alive", "1"),
            ("te", "gzip, trailers"),
            ("upgrade", "h2c"),
            ("proxy-authorization", "b"),
        ],
    );
    assert_eq!(headers, ["te: trailers", "proxy-authorization: b", "x-forwarded-proto: http"]);
}

#[test]
fn request_ids_are_random_uuids() {
    let hcm = Hcm::default();
    let (headers, _) = seen(&hcm, &[]);
    assert_eq!(headers.last().unwrap(), "x-request-id: 01234567-89ab-4def-8123-456789abcdef");
    let (headers, _) = seen(&hcm, &[("x-request-id", "mine")]);
    assert_eq!(headers[0], "x-request-id: mine");
    assert!(
        !seen(
            &Hcm { edge: Edge { use_remote_address: true, ..Default::default() }, ..hcm },
            &[("x-request-id", "mine")]
        )
        .0
        .contains(&"x-request-id: mine".to_owned())
    );
    let (headers, _) = seen(&edge(true), &[("x-request-id", "mine")]);
    assert_eq!(headers[0], "x-request-id: mine", "one is not taken away where none is made");
}

#[test]
fn names_that_would_end_a_line_are_not_told() {
    let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
    let peer = Certificate {
        uri_names: names(&["spiffe://a\r\nx-role: admin", "spiffe://b"]),
        dns_names: names(&["a\0"]),
        ip_names: Vec::new(),
        email_names: Vec::new(),
        subject: String::new(),
        issuer: String::new(),
        serial: String::new(),
        fingerprint: "00".to_owned(),
        not_before: std::time::SystemTime::UNIX_EPOCH,
        not_after: std::time::SystemTime::UNIX_EPOCH,
        chain: Vec::new(),
    };
    let details = ClientCertDetails { uri: true, dns: true, ..ClientCertDetails::default() };
    assert_eq!(told_of(&TlsConnection::default(), &peer, details), "Hash=00;URI=spiffe://b");
}
