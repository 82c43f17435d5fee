use super::*;

fn text(value: &str) -> Value {
    Value { kind: Some(Kind::StringValue(value.to_owned())) }
}

fn node(id: &str, metadata: &[(&str, Value)]) -> Result<Node, NodeError> {
    let fields = metadata.iter().map(|(key, value)| ((*key).to_owned(), value.clone())).collect();
    Node::parse(&core::Node { id: id.to_owned(), metadata: Some(Struct { fields }), ..Default::default() })
}

#[test]
fn a_sidecar() {
    let labels = Value { kind: Some(Kind::StructValue(Struct { fields: [("app".to_owned(), text("web"))].into() })) };
    let node = node(
        "sidecar~10.244.0.5~web-1.2.shop~shop.svc.cluster.local",
        &[("INSTANCE_IPS", text("10.244.0.5,fd00::5")), ("LABELS", labels), ("DNS_CAPTURE", text("true"))],
    )
    .unwrap();
    assert_eq!(node.node_type, NodeType::Sidecar);
    assert_eq!(node.families(), Families::Dual);
    assert_eq!(node.namespace, "shop");
    assert_eq!(node.pod(), Some(("web-1.2", "shop")));
    assert_eq!(node.labels.get("app").map(String::as_str), Some("web"));
    assert!(node.dns_capture);
}

#[test]
fn metadata_goes_before_the_id() {
    let node = node(
        "router~10.0.0.1~gw.a~a.svc.cluster.local",
        &[("NAMESPACE", text("b")), ("INSTANCE_IPS", text("10.0.0.2"))],
    )
    .unwrap();
    assert_eq!(node.namespace, "b");
    assert_eq!(node.addresses, ["10.0.0.2".parse::<IpAddr>().unwrap()]);
}

#[test]
fn refusals() {
    assert_eq!(node("", &[]), Err(NodeError::EmptyId));
    assert!(matches!(node("sidecar~1.2.3.4~a.b", &[]), Err(NodeError::Parts(_))));
    assert!(matches!(node("sidecar~1.2.3.4~a.b~c~d", &[]), Err(NodeError::Parts(_))));
    assert!(matches!(node("ingress~1.2.3.4~a.b~c", &[]), Err(NodeError::Type(_))));
    assert!(matches!(node("sidecar~x~a.b~c", &[]), Err(NodeError::Address(_))));
}

#[test]
fn durations() {
    assert_eq!(parse_duration("1h30m"), Some(Duration::from_secs(5400)));
    assert_eq!(parse_duration("1.5s"), Some(Duration::from_millis(1500)));
    assert_eq!(parse_duration("5"), None);
    assert_eq!(parse_duration(""), None);
    assert_eq!(parse_duration("s"), None);
}

#[test]
fn what_a_pod_says_of_its_proxy() {
    let fields = |fields: &[(&str, Value)]| Value {
        kind: Some(Kind::StructValue(Struct {
            fields: fields.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect(),
        })),
    };
    let hops = |metadata: &[(&str, Value)]| {
        let node = node("router~10.0.0.1~gw.a~a.svc.cluster.local", metadata).unwrap();
        node.proxy_config.gateway_topology.map(|topology| topology.num_trusted_proxies)
    };
    let annotation = fields(&[(mesh::ANNOTATION, text("gatewayTopology: {numTrustedProxies: 2}"))]);
    let number = Value { kind: Some(Kind::NumberValue(3.0)) };
    let agents = fields(&[
        ("configPath", text("./etc/istio/proxy")),
        ("gatewayTopology", fields(&[("numTrustedProxies", number)])),
    ]);
    assert_eq!(hops(&[]), None);
    assert_eq!(hops(&[("ANNOTATIONS", annotation.clone())]), Some(2));
    assert_eq!(hops(&[("ANNOTATIONS", annotation), ("PROXY_CONFIG", agents)]), Some(3));
}

#[test]
fn a_proxy_is_told_of_no_namespace_but_its_identity_s() {
    let of = |metadata: &[(&str, Value)]| node("sidecar~10.0.0.1~web.shop~shop.svc.cluster.local", metadata).unwrap();
    let mut named = of(&[("NAMESPACE", text("shop")), ("SERVICE_ACCOUNT", text("web"))]);
    for other in [
        "spiffe://cluster.local/ns/shop/sa/api",
        "spiffe://cluster.local/ns/shop2/sa/web",
        "spiffe://cluster.local/ns/x/ns/shop/sa/web",
        "spiffe://cluster.local/ns/shop/sa/web/x",
        "/ns/shop/sa/web",
        "",
    ] {
        assert!(matches!(named.prove(other), Err(NodeError::Identity { .. })), "{other}");
        assert_eq!(named.proven_account, None);
    }
    assert_eq!(named.prove("spiffe://cluster.local/ns/shop/sa/web"), Ok(()));
    assert_eq!(named.proven_account.as_deref(), Some("web"));
    assert_eq!(of(&[]).prove("spiffe://cluster.local/ns/shop/sa/api"), Ok(()));
}
