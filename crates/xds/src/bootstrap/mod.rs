//! Envoy's bootstrap files: who this proxy is, what it serves by itself, and where it learns the rest.
//!
//! - reject: what decides where configuration comes from or who may see the admin page, and is not carried out;
//!   and whatever the converters of static listeners and clusters reject
//! - note: statistics, tracing, runtime and process settings; of overload all but the limit of connections
//!
//! Knows the text of a file, never the file.
#![allow(deprecated)] // Envoy's deprecated fields are fields all the same.

mod source;

#[cfg(test)]
mod tests;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use envoy_types::pb::envoy::config::bootstrap::v3::{self as pb, bootstrap};
use envoy_types::pb::envoy::config::cluster::v3::Cluster as PbCluster;
use envoy_types::pb::envoy::config::core::v3::Node;
use envoy_types::pb::envoy::config::listener::v3::Listener as PbListener;
use envoy_types::pb::envoy::config::overload::v3::{OverloadManager, ResourceMonitor, resource_monitor::ConfigType};
use envoy_types::pb::envoy::extensions::resource_monitors::downstream_connections::v3::DownstreamConnectionsConfig;
use envoy_types::pb::envoy::extensions::transport_sockets::tls::v3::Secret as PbSecret;
use lateen_traffic::cluster::UpstreamBind;

pub(crate) use source::ads as ads_server;

use crate::ads::Protocol;
use crate::convert::{At as _, note_if_set, reject_if_set};
use crate::convert::{Notes, Reject, socket_address, unpack, upstream_bind};
use crate::json::{JsonError, Schema};

/// A bootstrap, checked and sorted.
#[derive(Clone)]
pub struct Bootstrap {
    /// Who the proxy is, as the control plane is told.
    pub node: Node,
    /// Where the admin page is served, if anywhere.
    pub admin: Option<SocketAddr>,
    /// Listeners that are there from the start. [`crate::state::State`] converts them.
    pub listeners: Vec<PbListener>,
    /// Clusters that are there from the start.
    pub clusters: Vec<PbCluster>,
    /// Secrets that are there from the start.
    pub secrets: Vec<PbSecret>,
    /// The ADS server, if one is named.
    pub ads: Option<Ads>,
    /// Where further listeners come from (LDS).
    pub listener_source: Option<ResourceSource>,
    /// Where further clusters come from (CDS).
    pub cluster_source: Option<ResourceSource>,
    /// How upstream sockets are made, unless a cluster says otherwise. Also for the connection to the ADS server.
    pub upstream_bind: Option<UpstreamBind>,
    /// Downstream connections allowed at once (`envoy.resource_monitors.global_downstream_max_connections`).
    pub max_connections: Option<usize>,
    /// What the bootstrap says and is not carried out.
    pub notes: Notes,
    /// The bootstrap as it was read, for `/config_dump`.
    pub raw: pb::Bootstrap,
}

/// Without what it holds: there may be keys in it.
impl std::fmt::Debug for Bootstrap {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Bootstrap").field("node", &self.node.id).finish_non_exhaustive()
    }
}

/// The aggregated discovery service to be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ads {
    /// The static cluster that is the server.
    pub cluster: Arc<str>,
    pub protocol: Protocol,
    /// The `:authority` of the requests, if given.
    pub authority: Option<String>,
}

/// Where resources of one type come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ResourceSource {
    Ads,
    /// A file that holds a `DiscoveryResponse` in JSON or YAML, read again when it is replaced.
    File(PathBuf),
}

/// Why a bootstrap cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum BootstrapError {
    #[error("neither YAML nor JSON: {0}")]
    Syntax(String),
    #[error(transparent)]
    Json(#[from] JsonError),
    #[error(transparent)]
    Rejected(#[from] Reject),
}

/// Reads YAML or JSON. YAML is a superset, but its errors about JSON are hard to read.
pub fn parse_document(text: &str) -> Result<serde_json::Value, BootstrapError> {
    let syntax = |reason: String| BootstrapError::Syntax(reason);
    if text.trim_start().starts_with('{')
        && let Ok(value) = serde_json::from_str(text)
    {
        return Ok(value);
    }
    serde_norway::from_str(text).map_err(|e| syntax(e.to_string()))
}

impl Bootstrap {
    /// Reads a bootstrap in YAML or JSON.
    pub fn parse(text: &str, schema: &Schema) -> Result<Bootstrap, BootstrapError> {
        let raw: pb::Bootstrap = schema.from_json(parse_document(text)?)?;
        Ok(Bootstrap::new(raw)?)
    }

    /// Sorts a bootstrap that is decoded already.
    pub fn new(raw: pb::Bootstrap) -> Result<Bootstrap, Reject> {
        let mut notes = Notes::default();
        let pb::Bootstrap {
            node,
            node_context_params,
            static_resources,
            dynamic_resources,
            cluster_manager,
            hds_config,
            flags_path,
            stats_sinks,
            deferred_stat_options,
            stats_config,
            stats_flush_interval,
            watchdog,
            watchdogs,
            tracing,
            layered_runtime,
            admin,
            overload_manager,
            enable_dispatcher_stats,
            header_prefix,
            stats_server_version_override,
            use_tcp_for_dns_lookups,
            dns_resolution_config,
            typed_dns_resolver_config,
            bootstrap_extensions,
            fatal_actions,
            config_sources,
            default_config_source,
            default_socket_interface,
            certificate_provider_instances,
            inline_headers,
            perf_tracing_file_path,
            default_regex_engine,
            xds_delegate_extension,
            xds_config_tracker_extension,
            listener_manager,
            application_log_config,
            grpc_async_client_manager_config,
            memory_allocator_manager,
            enable_worker_cpu_affinity,
            stats_flush,
            stats_eviction,
        } = raw.clone();
        reject_if_set!(
            hds_config,
            config_sources,
            default_config_source,
            default_socket_interface,
            certificate_provider_instances,
            xds_delegate_extension,
            listener_manager,
        );
        if !header_prefix.is_empty() && header_prefix != "x-envoy" {
            return Err(Reject::new("header_prefix: only x-envoy is supported"));
        }
        note_if_set!(notes, "Bootstrap":
            node_context_params, flags_path, stats_sinks, deferred_stat_options, stats_config, stats_flush_interval,
            watchdog, watchdogs, tracing, layered_runtime, enable_dispatcher_stats,
            stats_server_version_override, use_tcp_for_dns_lookups, dns_resolution_config, typed_dns_resolver_config,
            bootstrap_extensions, fatal_actions, inline_headers, perf_tracing_file_path, default_regex_engine,
            xds_config_tracker_extension, application_log_config, grpc_async_client_manager_config,
            memory_allocator_manager, enable_worker_cpu_affinity, stats_flush, stats_eviction);
        let bootstrap::StaticResources { listeners, clusters, secrets } = static_resources.unwrap_or_default();
        let mut all = Bootstrap {
            node: node.unwrap_or_default(),
            admin: admin.map(|value| self::admin(value, &mut notes)).transpose().at("admin")?.flatten(),
            listeners,
            clusters,
            secrets,
            ads: None,
            listener_source: None,
            cluster_source: None,
            upstream_bind: None,
            max_connections: None,
            notes: Notes::default(),
            raw,
        };
        if let Some(value) = cluster_manager {
            all.upstream_bind = self::cluster_manager(value, &mut notes).at("cluster_manager")?;
        }
        if let Some(value) = overload_manager {
            all.max_connections = self::overload(value, &mut notes).at("overload_manager")?;
        }
        if let Some(value) = dynamic_resources {
            all.dynamic_resources(value, &mut notes).at("dynamic_resources")?;
        }
        all.notes = notes;
        Ok(all)
    }

    fn dynamic_resources(&mut self, value: bootstrap::DynamicResources, notes: &mut Notes) -> Result<(), Reject> {
        let bootstrap::DynamicResources {
            lds_config,
            lds_resources_locator,
            cds_config,
            cds_resources_locator,
            ads_config,
        } = value;
        reject_if_set!(lds_resources_locator, cds_resources_locator);
        self.ads = ads_config.map(|config| source::ads(config, notes)).transpose().at("ads_config")?;
        self.listener_source =
            lds_config.map(|config| source::resources(config, notes)).transpose().at("lds_config")?;
        self.cluster_source = cds_config.map(|config| source::resources(config, notes)).transpose().at("cds_config")?;
        for (field, resources) in [("lds_config", &self.listener_source), ("cds_config", &self.cluster_source)] {
            if *resources == Some(ResourceSource::Ads) && self.ads.is_none() {
                return Err(Reject::new("ads is asked for, but there is no ads_config")).at(field);
            }
        }
        if let Some(ads) = &self.ads
            && !self.clusters.iter().any(|cluster| *cluster.name == *ads.cluster)
        {
            let reason = format_args!("cluster {:?} is not among the static clusters", ads.cluster);
            return Err(Reject::new(reason)).at("ads_config.grpc_services");
        }
        Ok(())
    }
}

fn admin(value: pb::Admin, notes: &mut Notes) -> Result<Option<SocketAddr>, Reject> {
    let pb::Admin {
        access_log,
        access_log_path,
        profile_path,
        address,
        socket_options,
        ignore_global_conn_limit,
        allow_paths,
    } = value;
    reject_if_set!(socket_options, allow_paths);
    note_if_set!(notes, "Admin": access_log, access_log_path, profile_path, ignore_global_conn_limit);
    address.map(socket_address).transpose().at("address")
}

fn cluster_manager(value: pb::ClusterManager, notes: &mut Notes) -> Result<Option<UpstreamBind>, Reject> {
    let pb::ClusterManager {
        local_cluster_name,
        outlier_detection,
        upstream_bind_config,
        load_stats_config,
        enable_deferred_cluster_creation,
    } = value;
    note_if_set!(notes, "ClusterManager":
        local_cluster_name, outlier_detection, load_stats_config, enable_deferred_cluster_creation);
    upstream_bind_config.map(|bind| upstream_bind(bind, notes)).transpose().at("upstream_bind_config")
}

/// How many downstream connections are allowed.
fn overload(value: OverloadManager, notes: &mut Notes) -> Result<Option<usize>, Reject> {
    let OverloadManager { refresh_interval, resource_monitors, actions, loadshed_points, buffer_factory_config } =
        value;
    note_if_set!(notes, "OverloadManager": refresh_interval, actions, loadshed_points, buffer_factory_config);
    let mut most = None;
    for ResourceMonitor { name: _, config_type } in resource_monitors {
        let connections = match config_type {
            Some(ConfigType::TypedConfig(any)) => unpack(&any).at("resource_monitors")?,
            None => None,
        };
        match connections {
            Some(DownstreamConnectionsConfig { max_active_downstream_connections: given }) => {
                let given = usize::try_from(given).ok().filter(|given| *given > 0);
                let reason = || Reject::field("max_active_downstream_connections", "has to be greater than 0");
                most = Some(given.ok_or_else(reason).at("resource_monitors")?);
            }
            None => notes.add("OverloadManager.resource_monitors"),
        }
    }
    Ok(most)
}
