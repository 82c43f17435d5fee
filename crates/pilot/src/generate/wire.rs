//! Plain values as the protobuf messages Envoy's API wraps them in.

use crate::registry::{Cidr, EndpointAddress};
use envoy_types::pb::envoy::config::core::v3 as core;
use envoy_types::pb::envoy::r#type::v3::{FractionalPercent, fractional_percent::DenominatorType};
use envoy_types::pb::google::protobuf::{self, Any, Struct, Value, value::Kind};
use lateen_galley::istio::Percent;
use prost::{Message, Name};
use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

pub fn any<M: Message + Name>(message: &M) -> Any {
    Any { type_url: M::type_url(), value: message.encode_to_vec() }
}

pub fn truth(value: bool) -> protobuf::BoolValue {
    protobuf::BoolValue { value }
}

pub fn number(value: u32) -> protobuf::UInt32Value {
    protobuf::UInt32Value { value }
}

pub fn duration(value: Duration) -> protobuf::Duration {
    protobuf::Duration {
        // Envoy refuses durations beyond 315 576 000 000 s, far below this bound being of use.
        seconds: i64::try_from(value.as_secs()).unwrap_or(i64::MAX),
        nanos: i32::try_from(value.subsec_nanos()).unwrap_or(0),
    }
}

pub fn text(value: &str) -> Value {
    Value { kind: Some(Kind::StringValue(value.to_owned())) }
}

/// An object of JSON.
pub fn json(fields: serde_json::Map<String, serde_json::Value>) -> Struct {
    Struct { fields: fields.into_iter().map(|(key, value)| (key, json_value(value))).collect() }
}

fn json_value(value: serde_json::Value) -> Value {
    let kind = match value {
        serde_json::Value::Null => Kind::NullValue(0),
        serde_json::Value::Bool(value) => Kind::BoolValue(value),
        serde_json::Value::Number(number) => Kind::NumberValue(number.as_f64().unwrap_or_default()),
        serde_json::Value::String(text) => Kind::StringValue(text),
        serde_json::Value::Array(values) => {
            Kind::ListValue(protobuf::ListValue { values: values.into_iter().map(json_value).collect() })
        }
        serde_json::Value::Object(fields) => Kind::StructValue(json(fields)),
    };
    Value { kind: Some(kind) }
}

pub fn structure<const N: usize>(fields: [(&str, Value); N]) -> Struct {
    Struct { fields: fields.into_iter().map(|(key, value)| (key.to_owned(), value)).collect() }
}

pub fn socket_address(address: &str, port: u16) -> core::SocketAddress {
    core::SocketAddress {
        address: address.to_owned(),
        port_specifier: Some(core::socket_address::PortSpecifier::PortValue(u32::from(port))),
        ..Default::default()
    }
}

pub fn address(ip: IpAddr, port: u16) -> core::Address {
    core::Address { address: Some(core::address::Address::SocketAddress(socket_address(&ip.to_string(), port))) }
}

pub fn endpoint_address(address: &EndpointAddress, port: u16) -> core::Address {
    let address = match address {
        EndpointAddress::Ip(ip) => core::address::Address::SocketAddress(socket_address(&ip.to_string(), port)),
        EndpointAddress::Name(name) => core::address::Address::SocketAddress(socket_address(name, port)),
        EndpointAddress::Pipe(path) => {
            core::address::Address::Pipe(core::Pipe { path: path.clone(), ..Default::default() })
        }
    };
    core::Address { address: Some(address) }
}

pub fn cidr(block: Cidr) -> core::CidrRange {
    core::CidrRange { address_prefix: block.address.to_string(), prefix_len: Some(number(u32::from(block.prefix))) }
}

/// The aggregated stream as a source; waits for ever for the first answer, as istiod has it.
pub fn ads() -> core::ConfigSource {
    core::ConfigSource {
        initial_fetch_timeout: Some(duration(Duration::ZERO)),
        resource_api_version: core::ApiVersion::V3.into(),
        config_source_specifier: Some(core::config_source::ConfigSourceSpecifier::Ads(
            core::AggregatedConfigSource::default(),
        )),
        ..Default::default()
    }
}

/// `istio.config` metadata: where a piece of configuration came from.
pub fn config_metadata(path: &str) -> core::Metadata {
    core::Metadata {
        filter_metadata: [("istio".to_owned(), structure([("config", text(path))]))].into(),
        ..Default::default()
    }
}

/// All IPv4 addresses.
pub const ANY_V4: IpAddr = IpAddr::V4(Ipv4Addr::UNSPECIFIED);

/// A share in millionths, as far as a percentage can tell them.
pub fn millionths(percent: Percent) -> FractionalPercent {
    // Saturates, and turns what is not a number into 0.
    let numerator = (percent.value.clamp(0.0, 100.0) * 10_000.0).round() as u32;
    FractionalPercent { numerator, denominator: DenominatorType::Million.into() }
}
