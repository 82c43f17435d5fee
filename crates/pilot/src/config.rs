//! Mesh-wide settings that shape what proxies are sent.
//!
//! Knows nothing of where they come from. The fields are those of Istio's MeshConfig.

use lateen_galley::istio::destination_rule::LocalityLoadBalancerSetting;
use std::time::Duration;

/// What a sidecar does with traffic to hosts the registry does not know.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub enum OutboundTrafficPolicy {
    /// Forward it to where it was going.
    #[default]
    AllowAny,
    /// Refuse it: 502 for HTTP, a closed connection otherwise.
    RegistryOnly,
}

/// Mesh-wide settings; [`Default`] is an untouched Istio install on one machine, with the access log switched on.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Config {
    /// SPIFFE trust domain.
    pub trust_domain: String,
    /// DNS domain of the cluster: services are `NAME.NAMESPACE.svc.DOMAIN`.
    pub domain: String,
    /// Namespace whose rules hold for all namespaces.
    pub root_namespace: String,
    pub outbound_traffic_policy: OutboundTrafficPolicy,
    /// Write an access log line per request and connection to standard output, in Istio's text format.
    pub access_log: bool,
    /// Whether every client is told the addresses given to ServiceEntries without any, as the one-machine cluster's
    /// name server does. Where only the proxies' own name servers do, those proxies say so (`DNS_CAPTURE`).
    pub automatic_addresses: bool,
    /// Which localities are preferred where no rule says it; absent: none. Acts on services with outlier detection.
    pub locality_lb_setting: Option<LocalityLoadBalancerSetting>,
    /// How long an update waits for further ones.
    pub debounce_quiet: Duration,
    /// How long an update waits at most while further ones keep coming.
    pub debounce_max: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Config {
            trust_domain: "cluster.local".to_owned(),
            domain: "cluster.local".to_owned(),
            root_namespace: "istio-system".to_owned(),
            outbound_traffic_policy: OutboundTrafficPolicy::AllowAny,
            access_log: true,
            automatic_addresses: true,
            locality_lb_setting: Some(LocalityLoadBalancerSetting::default()),
            debounce_quiet: Duration::from_millis(100),
            debounce_max: Duration::from_secs(10),
        }
    }
}
