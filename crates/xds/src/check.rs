//! Envoy's authorization service over gRPC (`envoy.service.auth.v3.Authorization`): questions and answers as they are on the
//! wire, one message each way.
#![allow(deprecated)] // Envoy's deprecated fields are fields all the same.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use envoy_types::pb::envoy::config::core::v3::header_value_option::HeaderAppendAction;
use envoy_types::pb::envoy::config::core::v3::{
    self as core, HeaderMap, HeaderValue, HeaderValueOption, Metadata, SocketAddress, address, socket_address,
};
use envoy_types::pb::envoy::service::auth::v3::attribute_context::{HttpRequest, Peer, Request, TlsSession};
use envoy_types::pb::envoy::service::auth::v3::check_response::HttpResponse;
use envoy_types::pb::envoy::service::auth::v3::{
    AttributeContext, CheckRequest, CheckResponse, DeniedHttpResponse, OkHttpResponse,
};
use envoy_types::pb::envoy::r#type::v3::HttpStatus;
use envoy_types::pb::google::protobuf::value::Kind;
use envoy_types::pb::google::protobuf::{ListValue, Struct, Timestamp, Value as ProtoValue};
use lateen_traffic::ext_authz::{Allowed, Answer, AskedRequest, Attributes, Denied, Edit, Failed, How, Reply, as_text};
use lateen_traffic::metadata::Value;
use lateen_traffic::tls::Certificate;
use prost::Message as _;

/// What is before each message: whether it is compressed, and its length.
const PREFIX: usize = 5;

/// A question, as the body of a call.
pub fn question(attributes: &Attributes<'_>) -> Vec<u8> {
    let request = CheckRequest { attributes: Some(self::attributes(attributes)) };
    let mut body = vec![0; PREFIX];
    // Writing to memory cannot fail.
    let _ = request.encode(&mut body);
    let length = u32::try_from(body.len() - PREFIX).unwrap_or(u32::MAX);
    body[1..PREFIX].copy_from_slice(&length.to_be_bytes());
    body
}

/// The answer in the body of a call that succeeded; `None` if it is none. As in Envoy, of several messages the last counts.
pub fn answer(mut body: &[u8]) -> Option<Reply> {
    let mut last = None;
    while let Some((prefix, after)) = body.split_at_checked(PREFIX) {
        let length = u32::from_be_bytes([prefix[1], prefix[2], prefix[3], prefix[4]]);
        let Some((message, rest)) = after.split_at_checked(usize::try_from(length).ok()?) else { break };
        if prefix[0] != 0 && !message.is_empty() {
            return None;
        }
        last = Some(CheckResponse::decode(message).ok()?);
        body = rest;
    }
    last.map(reply)
}

fn attributes(attributes: &Attributes<'_>) -> AttributeContext {
    let Attributes { told, context, source, peer, metadata, request } = attributes;
    let of_peer = peer.tls.and_then(|tls| tls.peer.as_deref());
    let of_us = peer.tls.and_then(|tls| tls.local.as_deref());
    let service = match request {
        Some(request) => request.head.headers.get("x-envoy-downstream-service-cluster").map(as_text),
        None => None,
    };
    let meant = match request {
        Some(_) => "",
        None => peer.server_name.unwrap_or_default(),
    };
    let found_out = told.metadata.iter().filter(|filter| metadata.of(filter).next().is_some()).map(|filter| {
        let fields = metadata.of(filter).map(|(key, value)| (key.to_string(), to_proto(value)));
        (filter.to_string(), Struct { fields: fields.collect() })
    });
    AttributeContext {
        source: Some(Peer {
            address: Some(self::address(*source)),
            service: service.unwrap_or_default(),
            principal: of_peer.map(principal).unwrap_or_default(),
            certificate: of_peer.filter(|_| told.certificate).map(|peer| peer.url_encoded(1)).unwrap_or_default(),
            ..Peer::default()
        }),
        destination: Some(Peer {
            address: Some(self::address(peer.local)),
            service: meant.to_owned(),
            principal: of_us.map(principal).unwrap_or_default(),
            ..Peer::default()
        }),
        request: request.as_ref().map(|request| self::request(request, told.raw)),
        context_extensions: context.iter().map(|(key, value)| (key.to_string(), value.to_string())).collect(),
        metadata_context: Some(Metadata { filter_metadata: found_out.collect(), ..Metadata::default() }),
        route_metadata_context: request.as_ref().map(|_| Metadata::default()),
        tls_session: told.server_name.then(|| {
            let asked_for = peer.tls.and_then(|tls| tls.server_name.as_deref()).or(peer.server_name);
            TlsSession { sni: asked_for.unwrap_or_default().to_owned() }
        }),
    }
}

fn request(request: &AskedRequest<'_>, raw: bool) -> Request {
    let AskedRequest { id, head, fields, start, received, body, bytes } = request;
    let mut http = HttpRequest {
        id: id.to_string(),
        method: as_text(head.method.as_bytes()),
        path: as_text(head.path.as_bytes()),
        host: as_text(head.authority.as_bytes()),
        scheme: head.scheme.clone(),
        size: i64::try_from(*received).unwrap_or(i64::MAX),
        protocol: head.protocol.as_str().to_owned(),
        ..HttpRequest::default()
    };
    if raw {
        let headers = fields.iter().map(|(name, value)| HeaderValue {
            key: name.to_owned(),
            raw_value: value.to_vec(),
            ..HeaderValue::default()
        });
        http.header_map = Some(HeaderMap { headers: headers.collect() });
    } else {
        http.headers = fields.iter().map(|(name, value)| (name.to_owned(), as_text(value))).collect();
    }
    if let Some(body) = body {
        if *bytes {
            http.raw_body.clone_from(&body.bytes);
        } else {
            http.body = as_text(&body.bytes);
        }
    }
    Request { time: Some(timestamp(*start)), http: Some(http) }
}

/// The first of the names by which Envoy knows an authenticated peer.
fn principal(certificate: &Certificate) -> String {
    let names = certificate.uri_names.first().or(certificate.dns_names.first());
    names.unwrap_or(&certificate.subject).clone()
}

fn address(of: SocketAddr) -> core::Address {
    let address = SocketAddress {
        address: of.ip().to_canonical().to_string(),
        port_specifier: Some(socket_address::PortSpecifier::PortValue(of.port().into())),
        ..SocketAddress::default()
    };
    core::Address { address: Some(address::Address::SocketAddress(address)) }
}

fn timestamp(time: SystemTime) -> Timestamp {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    Timestamp {
        seconds: i64::try_from(since.as_secs()).unwrap_or(i64::MAX),
        nanos: i32::try_from(since.subsec_nanos()).unwrap_or(0),
    }
}

fn to_proto(value: &Value) -> ProtoValue {
    let kind = match value {
        Value::Null => Kind::NullValue(0),
        Value::Bool(value) => Kind::BoolValue(*value),
        Value::Number(value) => Kind::NumberValue(*value),
        Value::Text(text) => Kind::StringValue(text.to_string()),
        Value::List(values) => Kind::ListValue(ListValue { values: values.iter().map(to_proto).collect() }),
        Value::Struct(members) => {
            let fields = members.iter().map(|(name, value)| (name.to_string(), to_proto(value)));
            Kind::StructValue(Struct { fields: fields.collect() })
        }
    };
    ProtoValue { kind: Some(kind) }
}

fn to_value(value: ProtoValue) -> Value {
    match value.kind {
        None | Some(Kind::NullValue(_)) => Value::Null,
        Some(Kind::BoolValue(value)) => Value::Bool(value),
        Some(Kind::NumberValue(value)) => Value::Number(value),
        Some(Kind::StringValue(text)) => Value::Text(text.into()),
        Some(Kind::ListValue(ListValue { values })) => Value::List(values.into_iter().map(to_value).collect()),
        Some(Kind::StructValue(fields)) => Value::Struct(members(fields).into()),
    }
}

/// The members of an object, in the order of their names: the wire has none.
fn members(object: Struct) -> Vec<(Arc<str>, Value)> {
    let members = object.fields.into_iter().map(|(name, value)| (name.into(), to_value(value)));
    let mut members: Vec<(Arc<str>, Value)> = members.collect();
    members.sort_by(|(a, _), (b, _)| a.cmp(b));
    members
}

fn reply(response: CheckResponse) -> Reply {
    let CheckResponse { status, dynamic_metadata, http_response } = response;
    let allows = status.is_none_or(|status| status.code == 0);
    let mut metadata = dynamic_metadata.unwrap_or_default();
    let mut strange = false;
    let answer = match (allows, http_response) {
        (true, Some(HttpResponse::OkResponse(ok))) => {
            let (allowed, other) = self::allowed(ok, &mut strange);
            metadata = other.unwrap_or(metadata);
            Answer::Allowed(allowed)
        }
        (true, _) => Answer::Allowed(Allowed::default()),
        (false, Some(HttpResponse::ErrorResponse(error))) => {
            let (status, edits, body) = refusal(error);
            Answer::Failed(Failed { status, edits, body })
        }
        (false, Some(HttpResponse::DeniedResponse(denied))) => {
            let (status, edits, body) = refusal(denied);
            Answer::Denied(Denied { status: if status == 0 { 403 } else { status }, edits, body })
        }
        (false, Some(HttpResponse::OkResponse(_)) | None) => {
            Answer::Denied(Denied { status: 403, ..Denied::default() })
        }
    };
    Reply { answer, metadata: members(metadata), strange }
}

fn allowed(value: OkHttpResponse, strange: &mut bool) -> (Allowed, Option<Struct>) {
    let OkHttpResponse {
        headers,
        headers_to_remove,
        dynamic_metadata,
        response_headers_to_add,
        query_parameters_to_set,
        query_parameters_to_remove,
    } = value;
    let allowed = Allowed {
        edits: edits(headers, |appends, _| Some(if appends == Some(true) { How::Append } else { How::Set })),
        remove: headers_to_remove.into_iter().map(|name| name.to_ascii_lowercase()).collect(),
        query: query_parameters_to_set.into_iter().map(|parameter| (parameter.key, parameter.value)).collect(),
        query_remove: query_parameters_to_remove,
        response: edits(response_headers_to_add, |appends, action| {
            *strange |= appends.is_none() && action.is_none();
            match (appends, action?) {
                (Some(true), _) | (None, HeaderAppendAction::AppendIfExistsOrAdd) => Some(How::Add),
                (Some(false), _) | (None, HeaderAppendAction::OverwriteIfExistsOrAdd) => Some(How::Set),
                (None, HeaderAppendAction::AddIfAbsent) => Some(How::AddIfAbsent),
                (None, HeaderAppendAction::OverwriteIfExists) => Some(How::SetIfThere),
            }
        }),
    };
    (allowed, dynamic_metadata)
}

/// Status (0: none), header and body.
fn refusal(value: DeniedHttpResponse) -> (u16, Vec<Edit>, Vec<u8>) {
    let DeniedHttpResponse { status, headers, body } = value;
    let status = status.and_then(|HttpStatus { code }| u16::try_from(code).ok());
    let status = status.filter(|status| (200..600).contains(status)).unwrap_or(0);
    // There is nothing to append to.
    let edits = edits(headers, |appends, _| (appends != Some(true)).then_some(How::Add));
    (status, edits, body.into_bytes())
}

/// Edits, each as `how` understands `append` and the action (none if it is not known). Envoy does not look at an action in
/// most places.
fn edits(
    options: Vec<HeaderValueOption>,
    mut how: impl FnMut(Option<bool>, Option<HeaderAppendAction>) -> Option<How>,
) -> Vec<Edit> {
    let edit = |option: HeaderValueOption| {
        // As Envoy has it, empty values are set too, and bytes are not looked at.
        let HeaderValueOption { header, append, append_action, keep_empty_value: _ } = option;
        let HeaderValue { key, value, raw_value: _ } = header.unwrap_or_default();
        let how = how(append.map(|append| append.value), HeaderAppendAction::try_from(append_action).ok())?;
        Some(Edit { name: key.to_ascii_lowercase(), value: value.into_bytes(), how })
    };
    options.into_iter().filter_map(edit).collect()
}

#[cfg(test)]
mod tests;
