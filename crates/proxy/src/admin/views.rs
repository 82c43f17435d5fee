//! `/clusters` and `/listeners`: what is shown of hosts and listeners, as text and as JSON.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::sync::Arc;

use lateen_traffic::cluster::{CircuitLimits, EndpointAddress, Health, Locality};
use lateen_traffic::health::{HealthFlag, HostHealth};
use lateen_traffic::outlier::SuccessRates;
use serde_json::{Value as Json, json};

/// A cluster as it is shown.
#[derive(Debug, Clone)]
pub struct ClusterView {
    /// Its name.
    pub name: Arc<str>,
    /// Its name in statistics.
    pub observability_name: Arc<str>,
    /// Whether it came over xDS, not with the bootstrap.
    pub added_via_api: bool,
    /// Circuit-breaker limits at priority DEFAULT.
    pub limits: CircuitLimits,
    /// Whether hosts that fail are ejected.
    pub detects_outliers: bool,
    /// Name asked for at EDS, if its hosts come from there.
    pub eds_service_name: Option<Arc<str>>,
    /// Its hosts, DNS names resolved.
    pub hosts: Vec<HostView>,
}

/// A host as it is shown. Numbers are over all workers.
#[derive(Debug, Clone)]
pub struct HostView {
    /// Where it is.
    pub address: EndpointAddress,
    /// Host name, empty if none.
    pub hostname: Arc<str>,
    /// Health as discovery tells it.
    pub health: Health,
    /// Weight, at least 1.
    pub weight: u32,
    /// Region, zone and sub-zone.
    pub locality: Locality,
    /// Priority, 0 first.
    pub priority: u32,
    /// Open connections.
    pub cx_active: u64,
    /// Connection attempts that failed.
    pub cx_connect_fail: u64,
    /// Connections ever made.
    pub cx_total: u64,
    /// Requests in flight.
    pub rq_active: u64,
    /// Requests answered with 5xx, or reset.
    pub rq_error: u64,
    /// Requests answered otherwise.
    pub rq_success: u64,
    /// Requests that timed out.
    pub rq_timeout: u64,
    /// Requests ever sent.
    pub rq_total: u64,
    /// What is found out of it, if anything is.
    pub found: Option<Arc<HostHealth>>,
    /// Success rates in the last interval.
    pub rates: SuccessRates,
}

/// A listener as it is shown.
#[derive(Debug, Clone)]
pub struct ListenerView {
    /// Its name.
    pub name: Arc<str>,
    /// Its address and any additional ones; with the port that was chosen, where 0 was configured.
    pub addresses: Vec<SocketAddr>,
}

impl ClusterView {
    pub(super) fn text(&self, out: &mut String) {
        let name = &self.name;
        let limits = &self.limits;
        // Writing to a String cannot fail.
        let _ = writeln!(out, "{name}::observability_name::{}", self.observability_name);
        if self.detects_outliers {
            // Mean and bound of the whole cluster are not kept.
            for rate in ["success_rate", "local_origin_success_rate"] {
                let _ = write!(
                    out,
                    "{name}::outlier::{rate}_average::-1\n{name}::outlier::{rate}_ejection_threshold::-1\n"
                );
            }
        }
        let _ = write!(
            out,
            "{name}::default_priority::max_connections::{}\n\
             {name}::default_priority::max_pending_requests::{}\n\
             {name}::default_priority::max_requests::{}\n\
             {name}::default_priority::max_retries::{}\n\
             {name}::added_via_api::{}\n",
            limits.max_connections,
            limits.max_pending_requests,
            limits.max_requests,
            limits.max_retries,
            self.added_via_api,
        );
        if let Some(service) = &self.eds_service_name {
            let _ = writeln!(out, "{name}::eds_service_name::{service}");
        }
        for host in &self.hosts {
            host.text(name, out);
        }
    }

    pub(super) fn json(&self) -> Json {
        let limits = &self.limits;
        let mut json = json!({
            "name": self.name,
            "host_statuses": self.hosts.iter().map(HostView::json).collect::<Vec<_>>(),
            "circuit_breakers": {"thresholds": [{
                "max_connections": limits.max_connections,
                "max_pending_requests": limits.max_pending_requests,
                "max_requests": limits.max_requests,
                "max_retries": limits.max_retries,
            }]},
            "observability_name": self.observability_name,
        });
        // Protobuf JSON leaves out what has its default value.
        if self.added_via_api {
            json["added_via_api"] = true.into();
        }
        if let Some(service) = &self.eds_service_name {
            json["eds_service_name"] = (**service).into();
        }
        json
    }
}

impl HostView {
    fn text(&self, cluster: &str, out: &mut String) {
        let address = &self.address;
        let mut line = |key: &str, value: &dyn std::fmt::Display| {
            let _ = writeln!(out, "{cluster}::{address}::{key}::{value}");
        };
        line("cx_active", &self.cx_active);
        line("cx_connect_fail", &self.cx_connect_fail);
        line("cx_total", &self.cx_total);
        line("rq_active", &self.rq_active);
        line("rq_error", &self.rq_error);
        line("rq_success", &self.rq_success);
        line("rq_timeout", &self.rq_timeout);
        line("rq_total", &self.rq_total);
        line("hostname", &self.hostname);
        line("health_flags", &self.flags());
        line("weight", &self.weight);
        line("region", &self.locality.region);
        line("zone", &self.locality.zone);
        line("sub_zone", &self.locality.sub_zone);
        line("canary", &false);
        line("priority", &self.priority);
        line("success_rate", &self.rates.external.unwrap_or(-1.0));
        line("local_origin_success_rate", &self.rates.local.unwrap_or(-1.0));
    }

    fn has(&self, flag: HealthFlag) -> bool {
        self.found.as_ref().is_some_and(|found| found.has(flag))
    }

    /// All flags in Envoy's order.
    fn flags(&self) -> String {
        let flags = [
            ("/failed_active_hc", self.has(HealthFlag::FAILED_ACTIVE_CHECK)),
            ("/failed_outlier_check", self.has(HealthFlag::FAILED_OUTLIER_CHECK)),
            ("/failed_eds_health", self.health == Health::Unhealthy),
            ("/degraded_active_hc", self.has(HealthFlag::DEGRADED_ACTIVE_CHECK)),
            ("/degraded_eds_health", self.health == Health::Degraded),
            ("/pending_active_hc", self.has(HealthFlag::PENDING_ACTIVE_CHECK)),
            ("/excluded_via_immediate_hc_fail", self.has(HealthFlag::EXCLUDED_BY_ANSWER)),
            ("/active_hc_timeout", self.has(HealthFlag::ACTIVE_CHECK_TIMEOUT)),
            ("/eds_status_draining", self.health == Health::Draining),
        ];
        let up: String = flags.into_iter().filter(|(_, up)| *up).map(|(name, _)| name).collect();
        if up.is_empty() { "healthy".to_owned() } else { up }
    }

    fn json(&self) -> Json {
        let stat = |name: &str, value: u64, gauge: bool| {
            let mut stat = serde_json::Map::new();
            if gauge {
                stat.insert("type".into(), "GAUGE".into());
            }
            if value > 0 {
                // 64-bit integers are strings in protobuf's JSON.
                stat.insert("value".into(), value.to_string().into());
            }
            stat.insert("name".into(), name.into());
            Json::Object(stat)
        };
        let health = match self.health {
            Health::Healthy => "HEALTHY",
            Health::Degraded => "DEGRADED",
            Health::Unhealthy => "UNHEALTHY",
            Health::Draining => "DRAINING",
        };
        let mut locality = serde_json::Map::new();
        for (key, value) in
            [("region", &self.locality.region), ("zone", &self.locality.zone), ("sub_zone", &self.locality.sub_zone)]
        {
            if !value.is_empty() {
                locality.insert(key.into(), value.as_str().into());
            }
        }
        let mut json = json!({
            "address": address(&self.address),
            "stats": [
                stat("cx_connect_fail", self.cx_connect_fail, false),
                stat("cx_total", self.cx_total, false),
                stat("rq_error", self.rq_error, false),
                stat("rq_success", self.rq_success, false),
                stat("rq_timeout", self.rq_timeout, false),
                stat("rq_total", self.rq_total, false),
                stat("cx_active", self.cx_active, true),
                stat("rq_active", self.rq_active, true),
            ],
            "health_status": {"eds_health_status": health},
            "weight": self.weight,
            "locality": locality,
        });
        for (name, flag) in [
            ("failed_active_health_check", HealthFlag::FAILED_ACTIVE_CHECK),
            ("failed_outlier_check", HealthFlag::FAILED_OUTLIER_CHECK),
            ("failed_active_degraded_check", HealthFlag::DEGRADED_ACTIVE_CHECK),
            ("pending_active_hc", HealthFlag::PENDING_ACTIVE_CHECK),
            ("excluded_via_immediate_hc_fail", HealthFlag::EXCLUDED_BY_ANSWER),
            ("active_hc_timeout", HealthFlag::ACTIVE_CHECK_TIMEOUT),
        ] {
            if self.has(flag) {
                json["health_status"][name] = true.into();
            }
        }
        for (name, rate) in [("success_rate", self.rates.external), ("local_origin_success_rate", self.rates.local)] {
            if let Some(rate) = rate {
                json[name] = json!({"value": rate});
            }
        }
        if !self.hostname.is_empty() {
            json["hostname"] = (*self.hostname).into();
        }
        if self.priority > 0 {
            json["priority"] = self.priority.into();
        }
        json
    }
}

impl ListenerView {
    pub(super) fn text(&self, out: &mut String) {
        for address in &self.addresses {
            let _ = writeln!(out, "{}::{address}", self.name);
        }
    }

    pub(super) fn json(&self) -> Json {
        let mut addresses = self.addresses.iter().map(|a| socket_address(&a.ip().to_string(), a.port()));
        let mut json = json!({"name": self.name});
        if let Some(first) = addresses.next() {
            json["local_address"] = first;
        }
        let more: Vec<Json> = addresses.collect();
        if !more.is_empty() {
            json["additional_local_addresses"] = more.into();
        }
        json
    }
}

fn address(address: &EndpointAddress) -> Json {
    match address {
        EndpointAddress::Socket(a) => socket_address(&a.ip().to_string(), a.port()),
        EndpointAddress::Dns { host, port } => socket_address(host, *port),
        EndpointAddress::Pipe(path) => json!({"pipe": {"path": path}}),
    }
}

fn socket_address(host: &str, port: u16) -> Json {
    json!({"socket_address": {"address": host, "port_value": port}})
}
