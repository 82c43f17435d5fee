//! Addresses, ranges, durations and other small values that many messages share.
//!
//! - reject: addresses that are neither IP and port nor, where allowed, DNS names or pipes; socket options of a family
//!   or state that cannot be told apart here

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use envoy_types::pb::envoy::config::core::v3::{self as core, config_source::ConfigSourceSpecifier};
use envoy_types::pb::envoy::r#type::v3::{FractionalPercent, Percent, fractional_percent::DenominatorType};
use envoy_types::pb::google::protobuf::{Any, Duration as ProtoDuration};
use lateen_traffic::cluster::{EndpointAddress, SocketOption, SocketOptionValue, TcpKeepalive, UpstreamBind};
use lateen_traffic::matcher::Cidr;
use prost::{Message, Name};

use super::reject::{At as _, Notes, Reject, each, note_if_set, reject_if_set};

/// A duration; Envoy refuses negative ones wherever they are limits.
pub(super) fn duration(field: &str, value: ProtoDuration) -> Result<Duration, Reject> {
    let ProtoDuration { seconds, nanos } = value;
    let parts = (u64::try_from(seconds), u32::try_from(nanos));
    match parts {
        (Ok(seconds), Ok(nanos)) if nanos < 1_000_000_000 && seconds <= 315_576_000_000 => {
            Ok(Duration::new(seconds, nanos))
        }
        _ => Err(Reject::field(field, format_args!("{seconds} s {nanos} ns is no duration"))),
    }
}

/// A timeout for which zero means never.
pub(super) fn timeout(field: &str, value: Option<ProtoDuration>) -> Result<Option<Option<Duration>>, Reject> {
    value.map(|value| Ok(Some(duration(field, value)?).filter(|d| !d.is_zero()))).transpose()
}

pub(super) fn percent(field: &str, value: Percent) -> Result<f64, Reject> {
    let Percent { value } = value;
    if (0.0..=100.0).contains(&value) {
        Ok(value)
    } else {
        Err(Reject::field(field, format_args!("{value} is no percentage")))
    }
}

/// Parts in a million.
pub(super) fn per_million(value: FractionalPercent) -> Result<u32, Reject> {
    let FractionalPercent { numerator, denominator } = value;
    let factor = match DenominatorType::try_from(denominator) {
        Ok(DenominatorType::Hundred) => 10_000,
        Ok(DenominatorType::TenThousand) => 100,
        Ok(DenominatorType::Million) => 1,
        Err(_) => return Err(Reject::field("denominator", format_args!("{denominator} is not known"))),
    };
    Ok(numerator.saturating_mul(factor).min(1_000_000))
}

pub(super) fn port(field: &str, value: u32) -> Result<u16, Reject> {
    u16::try_from(value).map_err(|_| Reject::field(field, format_args!("{value} is no port")))
}

pub(super) fn cidr(range: core::CidrRange) -> Result<Cidr, Reject> {
    let core::CidrRange { address_prefix, prefix_len } = range;
    let ip: IpAddr = address_prefix
        .parse()
        .map_err(|_| Reject::field("address_prefix", format_args!("{address_prefix:?} is no IP address")))?;
    Cidr::new(ip, prefix_len.map_or(0, |length| length.value)).map_err(|e| Reject::field("prefix_len", e))
}

/// An address to listen on or to send from: IP and port.
pub(crate) fn socket_address(address: core::Address) -> Result<SocketAddr, Reject> {
    match endpoint_address(address)? {
        EndpointAddress::Socket(address) => Ok(address),
        EndpointAddress::Dns { host, .. } => {
            Err(Reject::field("socket_address.address", format_args!("{host:?} is no IP address")))
        }
        EndpointAddress::Pipe(_) => Err(Reject::field("pipe", "not supported here")),
    }
}

/// An address of any kind that traffic can be sent to.
pub(super) fn endpoint_address(address: core::Address) -> Result<EndpointAddress, Reject> {
    let core::Address { address } = address;
    match address {
        Some(core::address::Address::SocketAddress(address)) => host_and_port(address).at("socket_address"),
        Some(core::address::Address::Pipe(core::Pipe { path, mode: _ })) => {
            if path.is_empty() {
                return Err(Reject::field("pipe.path", "empty"));
            }
            Ok(EndpointAddress::Pipe(path.into()))
        }
        Some(core::address::Address::EnvoyInternalAddress(_)) => {
            Err(Reject::field("envoy_internal_address", "not supported yet"))
        }
        None => Err(Reject::new("no address")),
    }
}

fn host_and_port(address: core::SocketAddress) -> Result<EndpointAddress, Reject> {
    let core::SocketAddress {
        protocol,
        address,
        resolver_name,
        // IPv4 clients of an IPv6 wildcard are taken in any case.
        ipv4_compat: _,
        network_namespace_filepath,
        port_specifier,
    } = address;
    reject_if_set!(resolver_name, network_namespace_filepath);
    if protocol != core::socket_address::Protocol::Tcp as i32 {
        return Err(Reject::field("protocol", "only TCP is supported"));
    }
    let port = match port_specifier {
        Some(core::socket_address::PortSpecifier::PortValue(value)) => port("port_value", value)?,
        Some(core::socket_address::PortSpecifier::NamedPort(_)) => {
            return Err(Reject::field("named_port", "not supported yet"));
        }
        None => return Err(Reject::field("port_value", "missing")),
    };
    if address.is_empty() {
        return Err(Reject::field("address", "empty"));
    }
    Ok(match address.parse::<IpAddr>() {
        Ok(ip) => EndpointAddress::Socket(SocketAddr::new(ip, port)),
        Err(_) => EndpointAddress::Dns { host: address.into(), port },
    })
}

/// Source address and socket options of upstream connections.
pub(crate) fn upstream_bind(bind: core::BindConfig, notes: &mut Notes) -> Result<UpstreamBind, Reject> {
    let core::BindConfig {
        source_address,
        freebind,
        socket_options,
        extra_source_addresses,
        additional_source_addresses,
        local_address_selector,
        validate_network_namespaces,
    } = bind;
    reject_if_set!(local_address_selector);
    if freebind.is_some_and(|on| on.value) {
        return Err(Reject::field("freebind", "not supported yet"));
    }
    note_if_set!(notes, "BindConfig": validate_network_namespaces);
    let ip = |address: core::SocketAddress| match host_and_port(address)? {
        EndpointAddress::Socket(address) => Ok(address),
        EndpointAddress::Dns { host, .. } => Err(Reject::field("address", format_args!("{host:?} is no IP address"))),
        EndpointAddress::Pipe(_) => Err(Reject::new("not an IP address")),
    };
    let source = source_address.map(ip).transpose().at("source_address")?;
    let mut extra = each("extra_source_addresses", extra_source_addresses, |extra| {
        let core::ExtraSourceAddress { address, socket_options } = extra;
        reject_if_set!(socket_options);
        ip(address.ok_or_else(|| Reject::field("address", "missing"))?).at("address")
    })?;
    extra.extend(each("additional_source_addresses", additional_source_addresses, ip)?);
    if extra.len() > 1 {
        return Err(Reject::field("extra_source_addresses", "more than one is not supported"));
    }
    let options = each("socket_options", socket_options, socket_option)?;
    Ok(UpstreamBind { source, source_other_family: extra.pop(), options })
}

fn socket_option(option: core::SocketOption) -> Result<SocketOption, Reject> {
    let core::SocketOption {
        // For people.
        description: _,
        level,
        name,
        state,
        r#type,
        ip_version,
        value,
    } = option;
    reject_if_set!(r#type, ip_version);
    if state != core::socket_option::SocketState::StatePrebind as i32 {
        return Err(Reject::field("state", "only STATE_PREBIND is supported"));
    }
    let int = |field, value: i64| {
        i32::try_from(value).map_err(|_| Reject::field(field, format_args!("{value} is out of range")))
    };
    let value = match value {
        Some(core::socket_option::Value::IntValue(value)) => SocketOptionValue::Int(int("int_value", value)?),
        Some(core::socket_option::Value::BufValue(bytes)) => SocketOptionValue::Bytes(bytes),
        None => return Err(Reject::field("int_value", "missing")),
    };
    Ok(SocketOption { level: int("level", level)?, name: int("name", name)?, value })
}

pub(super) fn tcp_keepalive(keepalive: core::TcpKeepalive) -> TcpKeepalive {
    let core::TcpKeepalive { keepalive_probes, keepalive_time, keepalive_interval } = keepalive;
    TcpKeepalive {
        probes: keepalive_probes.map(|probes| probes.value),
        time: keepalive_time.map(|seconds| Duration::from_secs(seconds.value.into())),
        interval: keepalive_interval.map(|seconds| Duration::from_secs(seconds.value.into())),
    }
}

/// Checks that a resource is to be had by ADS, the one way it is asked for here.
pub(crate) fn config_source(source: core::ConfigSource, notes: &mut Notes) -> Result<(), Reject> {
    let core::ConfigSource { authorities, initial_fetch_timeout, resource_api_version, config_source_specifier } =
        source;
    reject_if_set!(authorities);
    // A client here waits for as long as it takes, as with a timeout of zero.
    let waits_for_ever = initial_fetch_timeout.is_none_or(|timeout| timeout.seconds == 0 && timeout.nanos == 0);
    notes.add_if(!waits_for_ever, "ConfigSource.initial_fetch_timeout");
    if resource_api_version == core::ApiVersion::V2 as i32 {
        return Err(Reject::field("resource_api_version", "V2 is not supported"));
    }
    match config_source_specifier {
        Some(ConfigSourceSpecifier::Ads(core::AggregatedConfigSource {}) | ConfigSourceSpecifier::Self_(_)) => Ok(()),
        Some(ConfigSourceSpecifier::Path(_) | ConfigSourceSpecifier::PathConfigSource(_)) => {
            Err(Reject::field("path_config_source", "not supported here"))
        }
        Some(ConfigSourceSpecifier::ApiConfigSource(_)) => {
            Err(Reject::field("api_config_source", "not supported: use ads"))
        }
        None => Err(Reject::new("no config source")),
    }
}

/// Decodes an `Any` that holds a `T`; `None` if it holds something else.
pub(crate) fn unpack<T: Message + Name + Default>(any: &Any) -> Result<Option<T>, Reject> {
    let Any { type_url, value } = any;
    if type_name(type_url) != T::full_name() {
        return Ok(None);
    }
    T::decode(value.as_slice()).map(Some).map_err(|e| Reject::new(format_args!("malformed {}: {e}", T::NAME)))
}

/// The message name of a type URL.
pub(super) fn type_name(url: &str) -> &str {
    url.rsplit('/').next().unwrap_or(url)
}

/// `None` for empty text.
pub(super) fn text(value: String) -> Option<Arc<str>> {
    (!value.is_empty()).then(|| value.into())
}
