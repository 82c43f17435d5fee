//! The state as Envoy's `/config_dump` shows it.

use std::sync::Arc;
use std::time::SystemTime;

use envoy_types::pb::envoy::admin::v3::{
    self as admin, ClientResourceStatus, clusters_config_dump, endpoints_config_dump, listeners_config_dump,
    routes_config_dump, secrets_config_dump,
};
use envoy_types::pb::envoy::config::bootstrap::v3::Bootstrap as PbBootstrap;
use envoy_types::pb::google::protobuf::{Any, Timestamp};

use super::history::{Accepted, Failure, History};
use super::{State, any};
use crate::ResourceType;
use crate::json::{JsonError, Schema};

impl State {
    /// The sections of `/config_dump`, in Envoy's order: bootstrap, clusters, endpoints (when `with_endpoints`, as by
    /// `?include_eds`), listeners, routes. `started` is when the bootstrap was read.
    pub fn config_dump(&self, bootstrap: &PbBootstrap, started: SystemTime, with_endpoints: bool) -> admin::ConfigDump {
        let bootstrap =
            admin::BootstrapConfigDump { bootstrap: Some(bootstrap.clone()), last_updated: Some(timestamp(started)) };
        let mut configs = vec![any(&bootstrap), any(&self.clusters_dump())];
        if with_endpoints {
            configs.push(any(&self.endpoints_dump()));
        }
        configs.push(any(&self.listeners_dump()));
        configs.push(any(&self.routes_dump()));
        configs.push(any(&self.secrets_dump()));
        admin::ConfigDump { configs }
    }

    /// [`State::config_dump`] as JSON, for the admin page.
    pub fn config_dump_json(
        &self,
        bootstrap: &PbBootstrap,
        started: SystemTime,
        with_endpoints: bool,
        schema: &Schema,
    ) -> Result<serde_json::Value, JsonError> {
        let mut dump = schema.to_json(&self.config_dump(bootstrap, started, with_endpoints))?;
        hide_keys(&mut dump);
        Ok(dump)
    }

    fn clusters_dump(&self) -> admin::ClustersConfigDump {
        let r#type = ResourceType::Cluster;
        let mut dump = admin::ClustersConfigDump {
            version_info: self.histories.last_version(&r#type).to_owned(),
            ..Default::default()
        };
        for (name, history) in self.histories.of_type(&r#type) {
            let Some(cluster) = Shown::of(history) else { continue };
            if history.fixed {
                let (cluster, last_updated) = (cluster.body, cluster.when);
                dump.static_clusters.push(clusters_config_dump::StaticCluster { cluster, last_updated });
                continue;
            }
            let to = match self.warming_clusters.contains_key(name) {
                true => &mut dump.dynamic_warming_clusters,
                false => &mut dump.dynamic_active_clusters,
            };
            to.push(clusters_config_dump::DynamicCluster {
                version_info: cluster.version,
                cluster: cluster.body,
                last_updated: cluster.when,
                error_state: cluster.error,
                client_status: cluster.status,
            });
        }
        dump
    }

    fn endpoints_dump(&self) -> admin::EndpointsConfigDump {
        let mut dump = admin::EndpointsConfigDump::default();
        for (_, history) in self.histories.of_type(&ResourceType::Endpoint) {
            let Some(endpoints) = Shown::of(history) else { continue };
            dump.dynamic_endpoint_configs.push(endpoints_config_dump::DynamicEndpointConfig {
                version_info: endpoints.version,
                endpoint_config: endpoints.body,
                last_updated: endpoints.when,
                error_state: endpoints.error,
                client_status: endpoints.status,
            });
        }
        dump
    }

    fn listeners_dump(&self) -> admin::ListenersConfigDump {
        let r#type = ResourceType::Listener;
        let mut dump = admin::ListenersConfigDump {
            version_info: self.histories.last_version(&r#type).to_owned(),
            ..Default::default()
        };
        for (name, history) in self.histories.of_type(&r#type) {
            let Some(listener) = Shown::of(history) else { continue };
            if history.fixed {
                let (listener, last_updated) = (listener.body, listener.when);
                dump.static_listeners.push(listeners_config_dump::StaticListener { listener, last_updated });
                continue;
            }
            let state = history.accepted.is_some().then_some(listeners_config_dump::DynamicListenerState {
                version_info: listener.version,
                listener: listener.body,
                last_updated: listener.when,
            });
            let warming = self.warming_listeners.contains_key(name);
            let (active_state, warming_state) = if warming { (None, state) } else { (state, None) };
            dump.dynamic_listeners.push(listeners_config_dump::DynamicListener {
                name: name.to_string(),
                active_state,
                warming_state,
                draining_state: None,
                error_state: listener.error,
                client_status: listener.status,
            });
        }
        dump
    }

    fn routes_dump(&self) -> admin::RoutesConfigDump {
        let mut dump = admin::RoutesConfigDump::default();
        for (_, history) in self.histories.of_type(&ResourceType::Route) {
            let Some(routes) = Shown::of(history) else { continue };
            dump.dynamic_route_configs.push(routes_config_dump::DynamicRouteConfig {
                version_info: routes.version,
                route_config: routes.body,
                last_updated: routes.when,
                error_state: routes.error,
                client_status: routes.status,
            });
        }
        dump
    }

    fn secrets_dump(&self) -> admin::SecretsConfigDump {
        let mut dump = admin::SecretsConfigDump::default();
        for (name, history) in self.histories.of_type(&ResourceType::Secret) {
            let Some(secret) = Shown::of(history) else { continue };
            let name = name.to_string();
            if history.fixed {
                let (secret, last_updated) = (secret.body, secret.when);
                dump.static_secrets.push(secrets_config_dump::StaticSecret { name, last_updated, secret });
                continue;
            }
            dump.dynamic_active_secrets.push(secrets_config_dump::DynamicSecret {
                name,
                version_info: secret.version,
                last_updated: secret.when,
                secret: secret.body,
                error_state: secret.error,
                client_status: secret.status,
            });
        }
        dump
    }

    /// Names of resources of which the newest content was refused, with the reason, by type.
    pub fn failures(&self) -> impl Iterator<Item = (ResourceType, &Arc<str>, &str)> {
        ResourceType::CORE.into_iter().flat_map(|r#type| {
            let of_type: Vec<_> = self.histories.of_type(&r#type).collect();
            of_type.into_iter().filter_map(move |(name, history)| {
                Some((r#type.clone(), name, history.failure.as_ref()?.reason.as_str()))
            })
        })
    }
}

/// Puts `[redacted]` in place of private keys, wherever in the configuration they stand.
fn hide_keys(value: &mut serde_json::Value) {
    const KEYS: [&str; 4] = ["private_key", "password", "pkcs12", "session_ticket_keys"];
    match value {
        serde_json::Value::Object(fields) => {
            for (name, field) in fields {
                match field {
                    serde_json::Value::Object(source) if KEYS.contains(&name.as_str()) => {
                        for inline in ["inline_string", "inline_bytes"] {
                            if let Some(text) = source.get_mut(inline) {
                                *text = "[redacted]".into();
                            }
                        }
                    }
                    field => hide_keys(field),
                }
            }
        }
        serde_json::Value::Array(all) => all.iter_mut().for_each(hide_keys),
        _ => {}
    }
}

/// A history in the words of the dump.
struct Shown {
    version: String,
    body: Option<Any>,
    when: Option<Timestamp>,
    error: Option<admin::UpdateFailureState>,
    status: i32,
}

impl Shown {
    fn of(history: &History) -> Option<Shown> {
        let error = history.failure.as_ref().map(|Failure { version, body, reason, when }| admin::UpdateFailureState {
            failed_configuration: Some(body.clone()),
            last_update_attempt: Some(timestamp(*when)),
            details: reason.clone(),
            version_info: version.to_string(),
        });
        let status = if error.is_some() { ClientResourceStatus::Nacked } else { ClientResourceStatus::Acked };
        let (version, body, when) = match &history.accepted {
            Some(Accepted { version, body, when }) => (version.to_string(), Some(body.clone()), Some(timestamp(*when))),
            None => {
                error.as_ref()?;
                (String::new(), None, None)
            }
        };
        Some(Shown { version, body, when, error, status: status as i32 })
    }
}

fn timestamp(time: SystemTime) -> Timestamp {
    let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    Timestamp {
        seconds: i64::try_from(since.as_secs()).unwrap_or(i64::MAX),
        nanos: i32::try_from(since.subsec_nanos()).unwrap_or_default(),
    }
}
