use lateen_traffic::ext_authz::{Gathered, Told};
use lateen_traffic::metadata::Metadata;
use lateen_traffic::rbac;
use lateen_traffic::{Protocol, RequestHead};

use super::*;

fn decoded(body: &[u8]) -> AttributeContext {
    assert_eq!(body[0], 0);
    assert_eq!(u32::from_be_bytes([body[1], body[2], body[3], body[4]]) as usize, body.len() - PREFIX);
    CheckRequest::decode(&body[PREFIX..]).unwrap().attributes.unwrap()
}

fn framed(response: &CheckResponse) -> Vec<u8> {
    let mut body = vec![0; PREFIX];
    response.encode(&mut body).unwrap();
    let length = u32::try_from(body.len() - PREFIX).unwrap();
    body[1..PREFIX].copy_from_slice(&length.to_be_bytes());
    body
}

fn asked(told: &Told, bytes: bool) -> AttributeContext {
    let head = RequestHead {
        method: "POST".into(),
        scheme: "http".into(),
        authority: "shop.test".into(),
        path: "/p?q".into(),
        protocol: Protocol::Http11,
        headers: [("x-a", "1"), ("x-a", "2"), ("x-envoy-downstream-service-cluster", "web")].into_iter().collect(),
        ..RequestHead::default()
    };
    let mut metadata = Metadata::default();
    metadata.set(&"jwt".into(), &"sub".into(), Value::Text("me".into()));
    metadata.set(&"secret".into(), &"x".into(), Value::Bool(true));
    let body = Gathered { bytes: b"a\xff".to_vec(), partial: true };
    let local = SocketAddr::from(([10, 0, 0, 2], 80));
    let source = SocketAddr::from(([10, 0, 0, 1], 1234));
    let peer = rbac::Peer {
        source: source.ip(),
        direct: source.ip(),
        remote: source.ip(),
        local,
        server_name: Some("sni.test"),
        tls: None,
    };
    let request = AskedRequest {
        id: 7,
        head: &head,
        fields: told.fields(&head, Some(&body)),
        start: UNIX_EPOCH + std::time::Duration::from_millis(1500),
        received: 2,
        body: Some(&body),
        bytes,
    };
    let context = [("k".into(), "v".into())];
    decoded(&question(&Attributes {
        told,
        context: &context,
        source,
        peer,
        metadata: &metadata,
        request: Some(request),
    }))
}

#[test]
fn a_question_says_who_asks_for_what() {
    let told = Told { metadata: vec!["jwt".into(), "none".into()], server_name: true, ..Told::default() };
    let asked = asked(&told, false);
    let source = asked.source.unwrap();
    assert_eq!((source.service.as_str(), source.principal.as_str()), ("web", ""));
    assert_eq!(source.address, Some(address(SocketAddr::from(([10, 0, 0, 1], 1234)))));
    assert_eq!(asked.destination.unwrap().address, Some(address(SocketAddr::from(([10, 0, 0, 2], 80)))));
    assert_eq!(asked.context_extensions["k"], "v");
    assert_eq!(asked.tls_session.unwrap().sni, "sni.test");
    let metadata = asked.metadata_context.unwrap().filter_metadata;
    assert_eq!(metadata.keys().collect::<Vec<_>>(), ["jwt"]);
    let request = asked.request.unwrap();
    assert_eq!(request.time, Some(Timestamp { seconds: 1, nanos: 500_000_000 }));
    let http = request.http.unwrap();
    assert_eq!((http.id.as_str(), http.method.as_str(), http.host.as_str()), ("7", "POST", "shop.test"));
    assert_eq!((http.path.as_str(), http.scheme.as_str(), http.protocol.as_str()), ("/p?q", "http", "HTTP/1.1"));
    assert_eq!((http.size, http.body.as_str(), http.raw_body.len()), (2, "a!", 0));
    assert_eq!(http.headers["x-a"], "1,2");
    assert_eq!(http.headers[":path"], "/p?q");
    assert_eq!(http.headers["x-envoy-auth-partial-body"], "true");
    assert!(http.header_map.is_none());
}

#[test]
fn fields_and_bodies_may_be_told_as_they_are() {
    let told = Told { raw: true, ..Told::default() };
    let http = asked(&told, true).request.unwrap().http.unwrap();
    assert_eq!((http.body.as_str(), http.raw_body.as_slice()), ("", &b"a\xff"[..]));
    assert!(http.headers.is_empty());
    let fields = http.header_map.unwrap().headers;
    let values: Vec<&[u8]> = fields.iter().filter(|f| f.key == "x-a").map(|f| &f.raw_value[..]).collect();
    assert_eq!(values, [b"1", b"2"]);
}

fn option(name: &str, append: Option<bool>, action: i32) -> HeaderValueOption {
    HeaderValueOption {
        header: Some(HeaderValue { key: name.into(), value: "v".into(), ..HeaderValue::default() }),
        append: append.map(|value| envoy_types::pb::google::protobuf::BoolValue { value }),
        append_action: action,
        ..HeaderValueOption::default()
    }
}

fn status(code: i32) -> Option<envoy_types::pb::google::rpc::Status> {
    Some(envoy_types::pb::google::rpc::Status { code, ..Default::default() })
}

#[test]
fn a_status_decides_and_edits_say_how() {
    let all = || {
        vec![
            option("X-A", Some(false), 0),
            option("b", Some(true), 0),
            option("c", None, 0),
            option("d", None, 1),
            option("e", None, 2),
            option("f", None, 3),
        ]
    };
    let ok = OkHttpResponse { headers: all(), response_headers_to_add: all(), ..OkHttpResponse::default() };
    let good = CheckResponse { http_response: Some(HttpResponse::OkResponse(ok)), ..CheckResponse::default() };
    let Some(Reply { answer: Answer::Allowed(allowed), strange: false, .. }) = answer(&framed(&good)) else { panic!() };
    let how = |edits: &[Edit]| edits.iter().map(|edit| edit.how).collect::<Vec<_>>();
    assert_eq!(how(&allowed.edits), [How::Set, How::Append, How::Set, How::Set, How::Set, How::Set]);
    assert_eq!(how(&allowed.response), [How::Set, How::Add, How::Add, How::AddIfAbsent, How::Set, How::SetIfThere]);
    assert_eq!(allowed.edits[0].name, "x-a");
    let odd = OkHttpResponse { response_headers_to_add: vec![option("a", None, 99)], ..OkHttpResponse::default() };
    let odd = CheckResponse { http_response: Some(HttpResponse::OkResponse(odd)), ..CheckResponse::default() };
    let Some(Reply { answer: Answer::Allowed(allowed), strange: true, .. }) = answer(&framed(&odd)) else { panic!() };
    assert!(allowed.response.is_empty());
    let bad = CheckResponse { status: status(7), ..good.clone() };
    let Some(Reply { answer: Answer::Denied(denied), .. }) = answer(&framed(&bad)) else { panic!() };
    assert_eq!(denied, Denied { status: 403, ..Denied::default() });
    let denied = DeniedHttpResponse {
        status: Some(HttpStatus { code: 401 }),
        headers: vec![option("a", None, 99), option("b", Some(true), 0)],
        body: "no".into(),
    };
    let bad =
        CheckResponse { status: status(16), http_response: Some(HttpResponse::DeniedResponse(denied)), ..good.clone() };
    let Some(Reply { answer: Answer::Denied(denied), strange: false, .. }) = answer(&framed(&bad)) else { panic!() };
    assert_eq!(how(&denied.edits), [How::Add]);
    assert_eq!((denied.status, denied.body.as_slice()), (401, &b"no"[..]));
    let error = DeniedHttpResponse::default();
    let failed = CheckResponse { status: status(13), http_response: Some(HttpResponse::ErrorResponse(error)), ..good };
    let Some(Reply { answer: Answer::Failed(failed), .. }) = answer(&framed(&failed)) else { panic!() };
    assert_eq!(failed, Failed::default());
}

#[test]
fn what_is_no_answer_is_none() {
    let good = framed(&CheckResponse::default());
    assert!(answer(&good).is_some());
    assert!(answer(&[]).is_none());
    assert!(answer(&good[..4]).is_none());
    assert!(answer(&[&good[..], &good, &[0]].concat()).is_some(), "the last counts");
    assert!(answer(&[1, 0, 0, 0, 1, 0]).is_none(), "compressed");
    assert!(answer(&[0, 0, 0, 0, 1, 255]).is_none());
}

proptest::proptest! {
    #[test]
    fn nothing_panics(body in proptest::collection::vec(0u8.., 0..80)) {
        let _ = answer(&body);
        let mut framed = vec![0, 0, 0, 0, u8::try_from(body.len()).unwrap()];
        framed.extend(body);
        let _ = answer(&framed);
    }
}
