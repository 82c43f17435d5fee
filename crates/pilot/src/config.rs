//! Mesh-wide settings that shape what proxies are sent.
//!
//! The fields are those of Istio's MeshConfig, and the mesh's own settings go over what a control plane was started with.

use lateen_galley::Snapshot;
use lateen_galley::istio::destination_rule::LocalityLoadBalancerSetting;
use lateen_galley::istio::virtual_service::HttpRetry;
use lateen_galley::mesh::{
    self, AccessLogEncoding, ExtensionProvider, InboundMode, MeshConfig, MeshH2UpgradePolicy, Normalization,
    OutboundMode, ProxyConfig, TlsConfig,
};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use crate::rules::{Connections, Keepalive};

/// What a sidecar does with traffic to hosts the registry does not know.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub enum OutboundTrafficPolicy {
    /// Forward it to where it was going.
    #[default]
    AllowAny,
    /// Refuse it: 502 for HTTP, a closed connection otherwise.
    RegistryOnly,
}

/// Who sees objects that do not say; `exportTo` lists.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct ExportDefaults {
    pub service: Vec<String>,
    pub virtual_service: Vec<String>,
    pub destination_rule: Vec<String>,
}

/// Mesh-wide settings; [`Default`] is an untouched Istio install on one machine, with the access log switched on.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Config {
    /// SPIFFE trust domain.
    pub trust_domain: String,
    /// Trust domains whose workloads are the mesh's own too.
    pub trust_domain_aliases: BTreeSet<String>,
    /// Trust domains of others whose workloads are let in (`caCertificates`).
    pub federated_trust_domains: BTreeSet<String>,
    /// TLS between workloads.
    pub mesh_mtls: TlsConfig,
    /// All other TLS.
    pub tls_defaults: TlsConfig,
    /// DNS domain of the cluster: services are `NAME.NAMESPACE.svc.DOMAIN`.
    pub domain: String,
    /// Namespace whose rules hold for all namespaces.
    pub root_namespace: String,
    pub outbound_traffic_policy: OutboundTrafficPolicy,
    /// Workloads listen at the loopback address, and not where clients go.
    pub inbound_to_localhost: bool,
    /// Where an access log line per request and connection is written, and how; none is nowhere.
    pub access_log: Option<Arc<LogFile>>,
    pub export_to: ExportDefaults,
    pub normalization: Normalization,
    /// How long a connection may say nothing until it counts as not HTTP; zero is for ever.
    pub detection_timeout: Duration,
    /// Of routes that say nothing of retries; Istio's own policy if none.
    pub retries: Option<HttpRetry>,
    /// Connections whose rule says nothing of them.
    pub connections: Connections,
    /// Services that policies of action CUSTOM ask.
    pub extension_providers: Vec<ExtensionProvider>,
    /// Of proxies that say nothing of theirs.
    pub proxy: ProxyConfig,
    /// Whether every client is told the addresses given to ServiceEntries without any, as the one-machine cluster's
    /// name server does. Where only the proxies' own name servers do, those proxies say so (`DNS_CAPTURE`).
    pub automatic_addresses: bool,
    /// Which localities are preferred where no rule says it; absent: none. Acts on services with outlier detection.
    pub locality_lb_setting: Option<LocalityLoadBalancerSetting>,
    /// Services of the mesh are spoken to by its mutual TLS wherever their endpoints take it and no rule says otherwise.
    pub automatic_mutual_tls: bool,
    /// How long an update waits for further ones.
    pub debounce_quiet: Duration,
    /// How long an update waits at most while further ones keep coming.
    pub debounce_max: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Config {
            trust_domain: "cluster.local".to_owned(),
            trust_domain_aliases: BTreeSet::new(),
            federated_trust_domains: BTreeSet::new(),
            mesh_mtls: TlsConfig::default(),
            tls_defaults: TlsConfig::default(),
            domain: "cluster.local".to_owned(),
            root_namespace: "istio-system".to_owned(),
            outbound_traffic_policy: OutboundTrafficPolicy::AllowAny,
            inbound_to_localhost: false,
            access_log: Some(Arc::new(LogFile { path: "/dev/stdout".to_owned(), lines: LogLines::default() })),
            export_to: ExportDefaults::default(),
            normalization: Normalization::Default,
            detection_timeout: Duration::ZERO,
            retries: None,
            connections: Connections::default(),
            extension_providers: Vec::new(),
            proxy: ProxyConfig::default(),
            automatic_addresses: true,
            locality_lb_setting: Some(LocalityLoadBalancerSetting::default()),
            automatic_mutual_tls: true,
            debounce_quiet: Duration::from_millis(100),
            debounce_max: Duration::from_secs(10),
        }
    }
}

/// An access log.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct LogFile {
    pub path: String,
    pub lines: LogLines,
}

/// How lines of an access log are written; where nothing is said, as Istio writes them.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum LogLines {
    Text(String),
    /// As objects of JSON: the text of one with operators in its values.
    Json(String),
}

impl Default for LogLines {
    fn default() -> LogLines {
        LogLines::Text(String::new())
    }
}

impl Config {
    /// These settings with those of the mesh over them, as a snapshot's ConfigMap says.
    pub fn of_mesh(&self, snapshot: &Snapshot) -> Config {
        mesh::of_snapshot(snapshot).map_or_else(|| self.clone(), |mesh| self.over(mesh))
    }

    /// The trust domains under which the mesh's own workloads have their names, the one that new names have first.
    /// Clients expect a server's service account under any of them, and policies that name one mean all.
    pub fn trust_domains(&self) -> Vec<String> {
        let aliases = self.trust_domain_aliases.iter().filter(|alias| **alias != self.trust_domain);
        std::iter::once(&self.trust_domain).chain(aliases).cloned().collect()
    }

    /// The trust domains whose workloads get through a server's mutual TLS: the mesh's own, and those it trusts.
    /// Source: Istio `plugin/authn/util.go`, `TrustDomainsForValidation`.
    pub fn trust_domains_let_in(&self) -> Vec<String> {
        let mut domains = self.trust_domains();
        let others: Vec<String> =
            self.federated_trust_domains.iter().filter(|domain| !domains.contains(domain)).cloned().collect();
        domains.extend(others);
        domains
    }

    fn over(&self, mesh: MeshConfig) -> Config {
        let MeshConfig {
            protocol_detection_timeout,
            access_log_file,
            access_log_format,
            access_log_encoding,
            outbound_traffic_policy,
            inbound_traffic_policy,
            default_service_export_to,
            default_virtual_service_export_to,
            default_destination_rule_export_to,
            root_namespace,
            path_normalization,
            locality_lb_setting,
            default_http_retry_policy,
            connect_timeout,
            tcp_keepalive,
            h2_upgrade_policy,
            dns_refresh_rate,
            trust_domain,
            trust_domain_aliases,
            ca_certificates,
            enable_auto_mtls,
            mesh_mtls,
            tls_defaults,
            extension_providers,
            // Snapshots are read without what they leave out.
            discovery_selectors: _,
            default_config,
        } = mesh;
        let mut config = self.clone();
        if let Some(timeout) = protocol_detection_timeout {
            config.detection_timeout = timeout.get();
        }
        let path = access_log_file.or_else(|| self.access_log.as_ref().map(|log| log.path.clone()));
        let lines = match access_log_encoding {
            AccessLogEncoding::Text => LogLines::Text(access_log_format),
            AccessLogEncoding::Json => LogLines::Json(access_log_format),
        };
        config.access_log = path.filter(|path| !path.is_empty()).map(|path| Arc::new(LogFile { path, lines }));
        if let Some(policy) = outbound_traffic_policy {
            config.outbound_traffic_policy = match policy.mode {
                OutboundMode::RegistryOnly => OutboundTrafficPolicy::RegistryOnly,
                OutboundMode::AllowAny => OutboundTrafficPolicy::AllowAny,
            };
        }
        config.inbound_to_localhost = inbound_traffic_policy.mode == InboundMode::Localhost;
        config.extension_providers = extension_providers;
        let exports = &mut config.export_to;
        for (list, given) in [
            (&mut exports.service, default_service_export_to),
            (&mut exports.virtual_service, default_virtual_service_export_to),
            (&mut exports.destination_rule, default_destination_rule_export_to),
        ] {
            if let Some(given) = given {
                *list = given;
            }
        }
        if let Some(namespace) = root_namespace {
            config.root_namespace = namespace;
        }
        if let Some(path) = path_normalization {
            config.normalization = path.normalization;
        }
        config.locality_lb_setting = locality_lb_setting.or(config.locality_lb_setting);
        config.retries = default_http_retry_policy.or(config.retries);
        let connections = &mut config.connections;
        if let Some(timeout) = connect_timeout {
            connections.connect_timeout = timeout.get();
        }
        if let Some(keepalive) = &tcp_keepalive {
            connections.keepalive = Some(Keepalive::of(keepalive));
        }
        if let Some(policy) = h2_upgrade_policy {
            connections.upgrade_to_http2 = policy == MeshH2UpgradePolicy::Upgrade;
        }
        if let Some(rate) = dns_refresh_rate {
            connections.dns_refresh_rate = rate.get();
        }
        config.trust_domain = trust_domain.unwrap_or(config.trust_domain);
        config.trust_domain_aliases.extend(trust_domain_aliases);
        // Their roots are the agents' to know.
        config.federated_trust_domains.extend(ca_certificates.into_iter().flat_map(|roots| roots.trust_domains));
        config.automatic_mutual_tls = enable_auto_mtls.unwrap_or(config.automatic_mutual_tls);
        config.mesh_mtls = mesh_mtls;
        config.tls_defaults = tls_defaults;
        config.proxy = default_config.over(&config.proxy);
        config
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use lateen_galley::Object;
    use serde_json::json;
    use std::sync::Arc;

    #[test]
    fn a_mesh_s_workloads_have_all_its_names_and_let_in_whom_it_trusts() {
        let mut snapshot = Snapshot::default();
        let root = "-----BEGIN CERTIFICATE-----\nAA==\n-----END CERTIFICATE-----\n";
        let mesh = json!({"trustDomain": "mesh.example", "trustDomainAliases": ["old.example", "mesh.example", "a"],
            "caCertificates": [{"pem": root, "trustDomains": ["partner.example", "old.example"]}, {"pem": root}]});
        let map = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "istio",
            "namespace": "istio-system"}, "data": {"mesh": mesh.to_string()}});
        snapshot.insert(Arc::new(Object::decode(map).unwrap()));
        let config = Config::default().of_mesh(&snapshot);
        assert_eq!(config.trust_domains(), ["mesh.example", "a", "old.example"]);
        assert_eq!(config.trust_domains_let_in(), ["mesh.example", "a", "old.example", "partner.example"]);
        assert_eq!(Config::default().trust_domains_let_in(), ["cluster.local"]);
    }
}
