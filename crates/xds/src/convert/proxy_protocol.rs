//! The PROXY protocol, expected of clients and spoken to hosts.
//!
//! - reject: rules on TLVs and TLVs to pass on, refused versions
//! - note: statistics

use envoy_types::pb::envoy::config::core::v3::{self as core, ProxyProtocolConfig, transport_socket};
use envoy_types::pb::envoy::extensions::filters::listener::proxy_protocol::v3::ProxyProtocol;
use envoy_types::pb::envoy::extensions::transport_sockets::proxy_protocol::v3::ProxyProtocolUpstreamTransport;
use lateen_traffic::listener::ExpectHeader;
use lateen_traffic::proxy_protocol::Version;
use lateen_traffic::tls::TransportSocket;

use super::address::unpack;
use super::reject::{At as _, Notes, Reject, note_if_set, reject_if_set};
use super::tls::upstream;

/// The listener filter.
pub(super) fn expected(filter: ProxyProtocol, notes: &mut Notes) -> Result<ExpectHeader, Reject> {
    let ProxyProtocol {
        rules,
        allow_requests_without_proxy_protocol,
        pass_through_tlvs,
        disallowed_versions,
        stat_prefix,
        tlv_location,
    } = filter;
    reject_if_set!(rules, pass_through_tlvs, disallowed_versions, tlv_location);
    note_if_set!(notes, "ProxyProtocol": stat_prefix);
    Ok(if allow_requests_without_proxy_protocol { ExpectHeader::Perhaps } else { ExpectHeader::Always })
}

/// The transport socket of a cluster, perhaps after a header.
pub(super) fn spoken(
    socket: core::TransportSocket,
    notes: &mut Notes,
) -> Result<(Option<Version>, TransportSocket), Reject> {
    let Some(transport_socket::ConfigType::TypedConfig(any)) = &socket.config_type else {
        return upstream(socket, notes).map(|inner| (None, inner));
    };
    let Some(transport) = unpack::<ProxyProtocolUpstreamTransport>(any).at("typed_config")? else {
        return upstream(socket, notes).map(|inner| (None, inner));
    };
    let ProxyProtocolUpstreamTransport { config, transport_socket, allow_unspecified_address, tlv_as_pool_key } =
        transport;
    // Without TLVs neither has a meaning; addresses are always known.
    note_if_set!(notes, "ProxyProtocolUpstreamTransport": allow_unspecified_address, tlv_as_pool_key);
    let inner = transport_socket.ok_or_else(|| Reject::field("typed_config.transport_socket", "missing"))?;
    let inner = upstream(inner, notes).at("typed_config.transport_socket")?;
    let ProxyProtocolConfig { version, pass_through_tlvs, added_tlvs } = config.unwrap_or_default();
    (|| {
        reject_if_set!(pass_through_tlvs, added_tlvs);
        Ok(())
    })()
    .at("typed_config.config")?;
    use envoy_types::pb::envoy::config::core::v3::proxy_protocol_config::Version as Known;
    let version = match Known::try_from(version) {
        Ok(Known::V1) => Version::V1,
        Ok(Known::V2) => Version::V2,
        Err(_) => return Err(Reject::field("typed_config.config.version", "not known")),
    };
    Ok((Some(version), inner))
}
