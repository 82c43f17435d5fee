//! Bodies as kubectl 1.33 sends them.

use proptest::prelude::*;

use super::*;

const SECRET: &str = "\
    6b3873000a0c0a027631120653656372657412450a230a076361636572747312001a0c697374696f2d73797374656d22002a00320038\
    00420012140a0b63612d636572742e70656d1205434552540a12060a01781201791a001a002200";
const CONFIG_MAP: &str = "\
    6b3873000a0f0a0276311209436f6e6669674d617012270a110a016d12001a0022002a0032003800420012060a0161120162120a0a03\
    62696e12036100621a002200";
const NAMESPACE: &str = "\
    6b3873000a0f0a02763112094e616d657370616365121c0a140a0473686f7012001a0022002a0032003800420012001a020a001a0022\
    00";
const SERVICE_ACCOUNT: &str = "\
    6b3873000a140a027631120e536572766963654163636f756e7412150a130a0377656212001a0022002a003200380042001a002200";
const NODE_PORT: &str = "\
    6b3873000a0d0a027631120753657276696365126d0a1f0a0377656212001a0022002a003200380042005a0a0a036170701203776562\
    12460a200a0738302d6874747012035443501850220a080110001a04687474702898f201120a0a0361707012037765621a0022084e6f\
    6465506f72743a00420052005a00600068001a020a001a002200";
const HEADLESS: &str = "\
    6b3873000a0d0a027631120753657276696365126d0a1f0a0377656212001a0022002a003200380042005a0a0a036170701203776562\
    12460a1b0a07383038302d3830120354435018903f2206080010501a002800120a0a0361707012037765621a044e6f6e652209436c75\
    7374657249503a00420052005a00600068001a020a001a002200";
const DEPLOYMENT: &str = "\
    6b3873000a150a07617070732f7631120a4465706c6f796d656e7412c3010a1f0a0377656212001a0022002a003200380042005a0a0a\
    0361707012037765621291010800120c0a0a0a0361707012037765621a770a1c0a0012001a0022002a003200380042005a0a0a036170\
    701203776562125712390a0377656212067765623a76311a0573657276651a022d782a00320b0a00100018903f22002a0042006a0072\
    00800100880100900100a201001a00320042004a0052005800600068008201008a01009a0100c2010022020a00280038001a0c080010\
    0018002000280038001a002200";
const TOKEN_REQUEST: &str = "\
    6b3873000a280a1861757468656e7469636174696f6e2e6b38732e696f2f7631120c546f6b656e5265717565737412310a100a001200\
    1a0022002a0032003800420012170a01611a0f0a03506f64120276311a017022017520d8041a040a0012001a002200";

fn bytes(hex: &str) -> Vec<u8> {
    let digits: Vec<u32> = hex.chars().filter_map(|digit| digit.to_digit(16)).collect();
    digits.chunks(2).map(|pair| u8::try_from(pair[0] * 16 + pair[1]).unwrap()).collect()
}

#[test]
fn what_kubectl_creates_is_read() {
    let metadata = json!({"name": "web"});
    let labelled = json!({"name": "web", "labels": {"app": "web"}});
    for (body, expected) in [
        (
            SECRET,
            json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "cacerts", "namespace": "istio-system"},
                "data": {"ca-cert.pem": "Q0VSVAo=", "x": "eQ=="}}),
        ),
        (
            CONFIG_MAP,
            json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "m"},
                "data": {"a": "b", "bin": "a\0b"}}),
        ),
        (NAMESPACE, json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "shop"}})),
        (SERVICE_ACCOUNT, json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": metadata})),
        (
            NODE_PORT,
            json!({"apiVersion": "v1", "kind": "Service", "metadata": labelled, "spec": {
                "ports": [{"name": "80-http", "protocol": "TCP", "port": 80, "targetPort": "http", "nodePort": 31000}],
                "selector": {"app": "web"}, "type": "NodePort"}}),
        ),
        (
            HEADLESS,
            json!({"apiVersion": "v1", "kind": "Service", "metadata": labelled, "spec": {
                "ports": [{"name": "8080-80", "protocol": "TCP", "port": 8080, "targetPort": 80}],
                "selector": {"app": "web"}, "clusterIP": "None", "type": "ClusterIP"}}),
        ),
        (
            DEPLOYMENT,
            json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": labelled, "spec": {
            "replicas": 0, "selector": {"matchLabels": {"app": "web"}},
            "template": {"metadata": {"labels": {"app": "web"}}, "spec": {"containers": [
                {"name": "web", "image": "web:v1", "command": ["serve", "-x"], "ports": [{"containerPort": 8080}]},
            ]}}}}),
        ),
        (
            TOKEN_REQUEST,
            json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {
                "audiences": ["a"], "expirationSeconds": 600,
                "boundObjectRef": {"kind": "Pod", "apiVersion": "v1", "name": "p", "uid": "u"}}}),
        ),
    ] {
        assert_eq!(read(&bytes(body)), Ok(expected));
    }
}

/// A field of bytes.
fn field(number: u8, inside: &[u8]) -> Vec<u8> {
    let mut field = vec![number << 3 | 2, u8::try_from(inside.len()).unwrap()];
    field.extend(inside);
    field
}

#[test]
fn what_is_not_described_is_refused_with_its_place() {
    let body = |version: &str, kind: &str, raw: &[u8]| {
        let about = [field(1, version.as_bytes()), field(2, kind.as_bytes())].concat();
        [MAGIC, &field(1, &about), &field(2, raw)].concat()
    };
    let affinity = field(2, &field(3, &field(2, &field(15, b""))));
    let refused = read(&body("apps/v1", "Deployment", &affinity)).unwrap_err();
    assert_eq!(refused.to_string(), "Deployment: field 15 of \"spec.template.spec\" is not read from protobuf");
    let job = read(&body("batch/v1", "Job", b"")).unwrap_err();
    assert_eq!(job.to_string(), "batch/v1 Job is not read from protobuf");
    for broken in [&b""[..], b"{}", b"k8s\0\x0a", b"k8s\0\x0a\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", b"k8s\0\x0d"] {
        assert_eq!(read(broken), Err(Unread::Malformed));
    }
    assert_eq!(read(&body("v1", "Secret", &field(3, b"\xff"))), Err(Unread::Malformed));
}

proptest! {
    #[test]
    fn no_bytes_panic(raw in proptest::collection::vec(any::<u8>(), 0..200), at in 0_usize..200) {
        let mut body = bytes(DEPLOYMENT);
        let at = at.min(body.len());
        body.truncate(at);
        body.extend(raw);
        let _ = read(&body);
    }
}
