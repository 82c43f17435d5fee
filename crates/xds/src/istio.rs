//! Messages that are Istio's, not Envoy's, and stand in Envoy's resources all the same: `envoy-types` does not have them.

use prost::{Enumeration, Message, Name};

/// Settings of the HTTP filter `istio.alpn`.
#[derive(Clone, PartialEq, Message)]
pub struct AlpnFilterConfig {
    #[prost(message, repeated, tag = "1")]
    pub alpn_override: Vec<AlpnOverride>,
}

/// What is offered by ALPN to hosts that are spoken to in one version of HTTP.
#[derive(Clone, PartialEq, Message)]
pub struct AlpnOverride {
    #[prost(enumeration = "AlpnProtocol", tag = "1")]
    pub upstream_protocol: i32,
    #[prost(string, repeated, tag = "2")]
    pub alpn_override: Vec<String>,
}

/// Versions of HTTP.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Enumeration)]
#[repr(i32)]
pub enum AlpnProtocol {
    Http10 = 0,
    Http11 = 1,
    Http2 = 2,
}

impl Name for AlpnFilterConfig {
    const NAME: &'static str = "FilterConfig";
    const PACKAGE: &'static str = "istio.envoy.config.filter.http.alpn.v2alpha1";

    fn full_name() -> String {
        format!("{}.{}", Self::PACKAGE, Self::NAME)
    }

    fn type_url() -> String {
        format!("type.googleapis.com/{}", Self::full_name())
    }
}
