//! What authorization services are asked over gRPC, as facts that two proxies agree on, and what they answer.
#![allow(deprecated)] // Envoy's deprecated fields are fields all the same.

use std::collections::HashMap;

use lateen_xds::pb::envoy::config::core::v3::{HeaderValue, HeaderValueOption, address, socket_address};
use lateen_xds::pb::envoy::service::auth::v3::attribute_context::{HttpRequest, Peer, Request, TlsSession};
use lateen_xds::pb::envoy::service::auth::v3::{AttributeContext, CheckRequest, CheckResponse};
use lateen_xds::pb::google::protobuf::BoolValue;
use prost::Message as _;

use crate::h2_upstream::H2Act;

/// What the questions are asked by.
pub const PATH: &str = "/envoy.service.auth.v3.Authorization/Check";

/// The body of a question as fields. What differs from one run to the next is left out.
pub fn describe(body: &[u8]) -> Vec<(String, String)> {
    let message = body.get(5..).and_then(|message| CheckRequest::decode(message).ok());
    let Some(AttributeContext {
        source,
        destination,
        request,
        context_extensions,
        metadata_context,
        route_metadata_context,
        tls_session,
    }) = message.and_then(|message| message.attributes)
    else {
        return vec![("undecodable".to_owned(), format!("{body:?}"))];
    };
    let mut out = Vec::new();
    peer("source", source, false, &mut out);
    peer("destination", destination, true, &mut out);
    map("context", context_extensions, &mut out);
    for (what, metadata) in [("metadata", metadata_context), ("route metadata", route_metadata_context)] {
        let Some(metadata) = metadata else { continue };
        out.push((what.to_owned(), format!("{} typed", metadata.typed_filter_metadata.len())));
        for (filter, fields) in metadata.filter_metadata {
            let fields = fields.fields.into_iter().map(|(key, value)| (key, format!("{value:?}")));
            map(&format!("{what} {filter}"), fields.collect(), &mut out);
        }
    }
    if let Some(TlsSession { sni }) = tls_session {
        out.push(("sni".to_owned(), sni));
    }
    if let Some(Request { time, http }) = request {
        out.push(("time".to_owned(), time.is_some_and(|time| time.seconds > 1_600_000_000).to_string()));
        http.into_iter().for_each(|http| self::http(http, &mut out));
    }
    out
}

fn peer(what: &str, peer: Option<Peer>, port: bool, out: &mut Vec<(String, String)>) {
    let Some(Peer { address, service, labels, principal, certificate }) = peer else { return };
    let address = match address.and_then(|address| address.address) {
        Some(address::Address::SocketAddress(socket)) => match socket.port_specifier {
            Some(socket_address::PortSpecifier::PortValue(number)) if port => format!("{}:{number}", socket.address),
            _ => socket.address,
        },
        other => format!("{other:?}"),
    };
    let said = format!("{address} service {service:?} principal {principal:?} certificate {certificate:?}");
    out.push((what.to_owned(), said));
    map(&format!("{what} label"), labels, out);
}

fn http(http: HttpRequest, out: &mut Vec<(String, String)>) {
    let HttpRequest {
        id,
        method,
        headers,
        header_map,
        path,
        host,
        scheme,
        query,
        fragment,
        size,
        protocol,
        body,
        raw_body,
    } = http;
    out.push(("id".to_owned(), id.parse::<u64>().is_ok().to_string()));
    out.push(("line".to_owned(), format!("{method} {scheme} {host} {path} {query}{fragment} {protocol} {size}")));
    out.push(("body".to_owned(), format!("{body:?} {raw_body:?}")));
    map("header", headers, out);
    for HeaderValue { key, value, raw_value } in header_map.into_iter().flat_map(|map| map.headers) {
        out.push((format!("raw {key}"), format!("{value}{}", crate::message::latin1(&raw_value))));
    }
}

fn map(what: &str, map: HashMap<String, String>, out: &mut Vec<(String, String)>) {
    out.extend(map.into_iter().map(|(key, value)| (format!("{what} {key}"), value)));
}

/// An answer to a call that succeeds.
pub fn answer(response: &CheckResponse) -> H2Act {
    H2Act::Answer(200, grpc(), framed(response), vec![("grpc-status".to_owned(), "0".to_owned())])
}

/// The header of an answer of gRPC.
pub fn grpc() -> Vec<(String, String)> {
    vec![("content-type".to_owned(), "application/grpc".to_owned())]
}

/// A message with what gRPC puts before it.
pub fn framed(response: &CheckResponse) -> Vec<u8> {
    let message = response.encode_to_vec();
    let length = u32::try_from(message.len()).expect("a short message").to_be_bytes();
    [&[0][..], &length, &message].concat()
}

/// An edit of a header field: how as `append`, or else as `append_action`.
pub fn option(name: &str, value: &str, append: Option<bool>, action: i32) -> HeaderValueOption {
    HeaderValueOption {
        header: Some(HeaderValue { key: name.to_owned(), value: value.to_owned(), ..HeaderValue::default() }),
        append: append.map(|value| BoolValue { value }),
        append_action: action,
        ..HeaderValueOption::default()
    }
}
