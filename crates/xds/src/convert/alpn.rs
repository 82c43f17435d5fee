//! Istio's filter of what is offered to hosts by ALPN.
//!
//! - reject: names that ALPN cannot carry, unknown versions

use envoy_types::pb::google::protobuf::{Struct, value::Kind};
use lateen_traffic::filter::alpn::{Alpn, Protocols};

use super::reject::{Reject, each};
use crate::istio::{AlpnFilterConfig, AlpnOverride, AlpnProtocol};

pub(super) fn alpn(config: AlpnFilterConfig) -> Result<Alpn, Reject> {
    let AlpnFilterConfig { alpn_override } = config;
    let mut alpn = Alpn::default();
    each("alpn_override", alpn_override, |one| {
        let AlpnOverride { upstream_protocol, alpn_override } = one;
        let of = match AlpnProtocol::try_from(upstream_protocol) {
            Ok(AlpnProtocol::Http11) => Some(&mut alpn.http1),
            Ok(AlpnProtocol::Http2) => Some(&mut alpn.http2),
            // Not spoken to hosts, by Envoy neither.
            Ok(AlpnProtocol::Http10) => None,
            Err(_) => {
                return Err(Reject::field("upstream_protocol", format_args!("{upstream_protocol} is not known")));
            }
        };
        let names = each("alpn_override", alpn_override, name)?;
        // Of several the first counts; an empty one leaves it to the cluster.
        if let Some(of) = of {
            of.get_or_insert_with(|| names.into());
        }
        Ok(())
    })?;
    let said = |names: Option<Protocols>| names.filter(|names| !names.is_empty());
    Ok(Alpn { http1: said(alpn.http1), http2: said(alpn.http2) })
}

/// The name of an application protocol.
pub(super) fn name(name: String) -> Result<std::sync::Arc<str>, Reject> {
    if name.is_empty() || name.len() > 255 {
        return Err(Reject::new("must have 1 to 255 bytes"));
    }
    Ok(name.into())
}

/// Whether Istio's metadata of a cluster tells the filter to keep off.
pub(super) fn keeps_off(istio: &Struct) -> bool {
    let value = istio.fields.get("alpn_override").and_then(|value| value.kind.as_ref());
    matches!(value, Some(Kind::StringValue(text)) if text == "false")
}
