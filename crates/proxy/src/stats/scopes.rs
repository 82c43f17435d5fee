//! The numbers Envoy keeps, under Envoy's names. A field's name is the statistic's name.

use std::collections::HashSet;
use std::sync::{Arc, OnceLock};

use super::by_prefix::ByPrefix;
use super::cells::{Cell, Counter, Gauge, Histogram, Responses, SharedCounter, SharedGauge};
use super::rbac::RbacStats;
use super::snapshot::{Entry, Value};
use super::tls::{TlsCounts, TlsStats};

macro_rules! scope {
    ($(#[$doc:meta])* $name:ident { $($field:ident: $cell:ty,)* } $($more:ident: $of:ty,)*) => {
        $(#[$doc])*
        #[derive(Debug, Default)]
        pub struct $name {
            $(#[doc = concat!("`", stringify!($field), "`")] pub $field: $cell,)*
            $($more: $of,)*
        }

        impl $name {
            pub(super) fn read(&self, out: &mut Vec<Entry>) {
                $(out.push(Entry::new(stringify!($field), self.$field.value()));)*
            }
        }
    };
}

scope! {
    /// A cluster's statistics on one worker (`cluster.NAME.`).
    ClusterStats {
        upstream_rq_total: Counter,
        upstream_rq_active: Gauge,
        upstream_rq_pending_total: Counter,
        upstream_rq_pending_active: Gauge,
        upstream_rq_pending_overflow: Counter,
        upstream_rq_active_overflow: Counter,
        upstream_rq_timeout: Counter,
        upstream_rq_per_try_timeout: Counter,
        upstream_rq_per_try_idle_timeout: Counter,
        upstream_rq_retry: Counter,
        upstream_rq_retry_backoff_exponential: Counter,
        upstream_rq_retry_backoff_ratelimited: Counter,
        upstream_rq_retry_success: Counter,
        upstream_rq_retry_overflow: Counter,
        upstream_rq_retry_limit_exceeded: Counter,
        upstream_rq_rx_reset: Counter,
        upstream_rq_tx_reset: Counter,
        upstream_cx_total: Counter,
        upstream_cx_active: Gauge,
        upstream_cx_http1_total: Counter,
        upstream_cx_http2_total: Counter,
        upstream_cx_connect_fail: Counter,
        upstream_cx_connect_timeout: Counter,
        upstream_cx_connect_attempts_exceeded: Counter,
        upstream_cx_overflow: Counter,
        upstream_cx_max_requests: Counter,
        upstream_cx_destroy: Counter,
        upstream_cx_none_healthy: Counter,
        lb_healthy_panic: Counter,
        upstream_cx_rx_bytes_total: Counter,
        upstream_cx_tx_bytes_total: Counter,
        upstream_rq_time: Histogram,
        upstream_cx_connect_ms: Histogram,
        upstream_cx_length_ms: Histogram,
    }
    responses: Responses,
    tls: TlsCounts,
    ext_authz: ByPrefix<AuthorizationStats>,
}

impl ClusterStats {
    /// Counts a response: `upstream_rq_completed`, `upstream_rq_2xx`, `upstream_rq_200`. A code outside 100 to 599 (0:
    /// there was no response) is not counted.
    #[inline]
    pub fn response(&self, code: u16) {
        self.responses.count(code, true);
    }

    /// Statistics of TLS (`cluster.NAME.ssl.`). They come into being with the first handshake.
    pub fn tls(&self) -> &TlsStats {
        self.tls.0.get_or_init(Box::default)
    }

    pub(super) fn read_tls(&self, out: &mut Vec<Entry>) {
        self.tls.read("client_ssl_socket_factory.upstream_context_secrets_not_ready", out);
    }

    /// What authorization services said of requests for the cluster (`cluster.NAME.ext_authz.PREFIX`).
    pub fn ext_authz(&self, prefix: &Arc<str>) -> &AuthorizationStats {
        self.ext_authz.get(prefix)
    }

    pub(super) fn read_ext_authz(&self, out: &mut Vec<Entry>) {
        let before = out.len();
        read_prefixed("ext_authz.", &self.ext_authz, AuthorizationStats::read, out);
        // As in Envoy, each comes into being with its first use.
        let mut at = 0;
        out.retain(|entry| {
            at += 1;
            at <= before || entry.value.used()
        });
    }

    pub(super) fn read_responses(&self, out: &mut Vec<Entry>) {
        out.push(Entry::new("upstream_rq_completed", Value::Counter(self.responses.classes().iter().sum())));
        read_upstream(&self.responses, out);
    }
}

fn read_upstream(responses: &Responses, out: &mut Vec<Entry>) {
    let classes = responses.classes();
    for (name, count) in UPSTREAM_CLASSES.into_iter().zip(classes) {
        // As in Envoy, a class comes into being with its first response.
        if count > 0 {
            out.push(Entry::new(name, Value::Counter(count)));
        }
    }
    for (code, count) in responses.codes() {
        out.push(Entry { name: format!("upstream_rq_{code}").into(), value: Value::Counter(count) });
    }
}

const UPSTREAM_CLASSES: [&str; 5] =
    ["upstream_rq_1xx", "upstream_rq_2xx", "upstream_rq_3xx", "upstream_rq_4xx", "upstream_rq_5xx"];

scope! {
    /// Statistics of a route that has a prefix for them, on one worker (`vhost.NAME.route.PREFIX.`).
    RouteStats {
        upstream_rq_total: Counter,
        upstream_rq_timeout: Counter,
        upstream_rq_retry: Counter,
        upstream_rq_retry_success: Counter,
        upstream_rq_retry_overflow: Counter,
        upstream_rq_retry_limit_exceeded: Counter,
        upstream_rq_time: Histogram,
    }
    responses: Responses,
}

impl RouteStats {
    /// Counts a response, as [`ClusterStats::response`] does.
    #[inline]
    pub fn response(&self, code: u16) {
        self.responses.count(code, true);
    }

    pub(super) fn read_responses(&self, out: &mut Vec<Entry>) {
        let completed = self.responses.classes().iter().sum();
        // As in Envoy, these come into being with the first response.
        if completed > 0 {
            out.push(Entry::new("upstream_rq_completed", Value::Counter(completed)));
        }
        read_upstream(&self.responses, out);
    }
}

scope! {
    /// Injected faults of a connection manager on one worker (`http.PREFIX.fault.`). Envoy also counts by the name that
    /// the client gives itself, which has no bound.
    FaultStats {
        aborts_injected: Counter,
        delays_injected: Counter,
        faults_overflow: Counter,
        response_rl_injected: Counter,
        active_faults: Gauge,
    }
}

scope! {
    /// Cross-origin requests of a connection manager on one worker (`http.PREFIX.cors.`).
    CorsStats {
        origin_valid: Counter,
        origin_invalid: Counter,
    }
}

scope! {
    /// Tokens of requests to a connection manager on one worker (`http.PREFIX.jwt_authn.`).
    JwtStats {
        allowed: Counter,
        denied: Counter,
        cors_preflight_bypassed: Counter,
    }
}

scope! {
    /// What authorization services said of connections on one worker (`ext_authz.PREFIX.`).
    ConnectionAuthzStats {
        total: Counter,
        active: Gauge,
        ok: Counter,
        denied: Counter,
        error: Counter,
        disabled: Counter,
        failure_mode_allowed: Counter,
        cx_closed: Counter,
    }
}

/// Statistics by prefix, each under its own after `scope`.
fn read_prefixed<T: Default>(scope: &str, of: &ByPrefix<T>, read: fn(&T, &mut Vec<Entry>), out: &mut Vec<Entry>) {
    for (prefix, stats) in of.iter() {
        let mut entries = Vec::new();
        read(stats, &mut entries);
        out.extend(entries.into_iter().map(|e| Entry { name: format!("{scope}{prefix}{}", e.name).into(), ..e }));
    }
}

scope! {
    /// What authorization services said, of one prefix of a connection manager or cluster on one worker.
    AuthorizationStats {
        ok: Counter,
        denied: Counter,
        error: Counter,
        disabled: Counter,
        failure_mode_allowed: Counter,
        invalid: Counter,
        ignored_dynamic_metadata: Counter,
    }
}

scope! {
    /// An HTTP connection manager's statistics on one worker (`http.PREFIX.`).
    HttpStats {
        downstream_rq_total: Counter,
        downstream_rq_http1_total: Counter,
        downstream_rq_http2_total: Counter,
        downstream_rq_active: Gauge,
        downstream_rq_rx_reset: Counter,
        downstream_rq_timeout: Counter,
        downstream_rq_header_timeout: Counter,
        downstream_rq_idle_timeout: Counter,
        downstream_rq_max_duration_reached: Counter,
        downstream_rq_too_large: Counter,
        downstream_rq_failed_path_normalization: Counter,
        downstream_rq_redirected_with_normalized_path: Counter,
        downstream_rq_ws_on_non_ws_route: Counter,
        downstream_cx_total: Counter,
        downstream_cx_active: Gauge,
        downstream_cx_http1_total: Counter,
        downstream_cx_http1_active: Gauge,
        downstream_cx_ssl_total: Counter,
        downstream_cx_ssl_active: Gauge,
        downstream_cx_http2_total: Counter,
        downstream_cx_http2_active: Gauge,
        downstream_cx_upgrades_total: Counter,
        downstream_cx_upgrades_active: Gauge,
        downstream_cx_protocol_error: Counter,
        downstream_cx_destroy: Counter,
        downstream_cx_drain_close: Counter,
        downstream_cx_idle_timeout: Counter,
        downstream_cx_max_duration_reached: Counter,
        downstream_cx_max_requests_reached: Counter,
        downstream_cx_rx_bytes_total: Counter,
        downstream_cx_tx_bytes_total: Counter,
        no_route: Counter,
        no_cluster: Counter,
        rq_direct_response: Counter,
        rq_redirect: Counter,
        rq_total: Counter,
        downstream_rq_time: Histogram,
        downstream_cx_length_ms: Histogram,
    }
    responses: Responses,
    fault: OnceLock<Box<FaultStats>>,
    cors: OnceLock<Box<CorsStats>>,
    rbac: OnceLock<Box<RbacStats>>,
    jwt_authn: OnceLock<Box<JwtStats>>,
    ext_authz: ByPrefix<AuthorizationStats>,
}

impl HttpStats {
    /// Statistics of injected faults (`http.PREFIX.fault.`). They come into being with the first use.
    pub fn fault(&self) -> &FaultStats {
        self.fault.get_or_init(Box::default)
    }

    /// Statistics of cross-origin requests (`http.PREFIX.cors.`), likewise.
    pub fn cors(&self) -> &CorsStats {
        self.cors.get_or_init(Box::default)
    }

    /// Statistics of access control (`http.PREFIX.rbac.`), likewise.
    pub fn rbac(&self) -> &RbacStats {
        self.rbac.get_or_init(Box::default)
    }

    /// Statistics of tokens (`http.PREFIX.jwt_authn.`), likewise.
    pub fn jwt_authn(&self) -> &JwtStats {
        self.jwt_authn.get_or_init(Box::default)
    }

    /// What authorization services said (`http.PREFIX.ext_authz.PREFIX`), likewise.
    pub fn ext_authz(&self, prefix: &Arc<str>) -> &AuthorizationStats {
        self.ext_authz.get(prefix)
    }

    pub(super) fn retain_policies(&self, names: &HashSet<Arc<str>>) {
        if let Some(rbac) = self.rbac.get() {
            rbac.retain_policies(names);
        }
    }

    pub(super) fn read_filters(&self, out: &mut Vec<Entry>) {
        let mut of = |filter: &str, read: &dyn Fn(&mut Vec<Entry>)| {
            let mut entries = Vec::new();
            read(&mut entries);
            out.extend(entries.into_iter().map(|e| Entry { name: format!("{filter}.{}", e.name).into(), ..e }));
        };
        if let Some(fault) = self.fault.get() {
            of("fault", &|entries| fault.read(entries));
        }
        if let Some(cors) = self.cors.get() {
            of("cors", &|entries| cors.read(entries));
        }
        if let Some(jwt) = self.jwt_authn.get() {
            of("jwt_authn", &|entries| jwt.read(entries));
        }
        if let Some(rbac) = self.rbac.get() {
            of("rbac", &|entries| rbac.read(entries));
        }
        read_prefixed("ext_authz.", &self.ext_authz, AuthorizationStats::read, out);
    }

    /// Counts a response: `downstream_rq_completed` and `downstream_rq_2xx`. A code outside 100 to 599 (0: there was no
    /// response) is not counted.
    #[inline]
    pub fn response(&self, code: u16) {
        self.responses.count(code, false);
    }

    pub(super) fn read_responses(&self, out: &mut Vec<Entry>) {
        let classes = self.responses.classes();
        out.push(Entry::new("downstream_rq_completed", Value::Counter(classes.iter().sum())));
        for (name, count) in DOWNSTREAM_CLASSES.into_iter().zip(classes) {
            out.push(Entry::new(name, Value::Counter(count)));
        }
    }
}

const DOWNSTREAM_CLASSES: [&str; 5] =
    ["downstream_rq_1xx", "downstream_rq_2xx", "downstream_rq_3xx", "downstream_rq_4xx", "downstream_rq_5xx"];

scope! {
    /// A listener's statistics on one worker (`listener.ADDRESS.`).
    ListenerStats {
        downstream_cx_total: Counter,
        downstream_cx_active: Gauge,
        downstream_cx_destroy: Counter,
        downstream_cx_overflow: Counter,
        downstream_cx_overload_reject: Counter,
        downstream_global_cx_overflow: Counter,
        downstream_pre_cx_timeout: Counter,
        downstream_pre_cx_active: Gauge,
        downstream_listener_filter_error: Counter,
        downstream_listener_filter_remote_close: Counter,
        downstream_cx_transport_socket_connect_timeout: Counter,
        no_filter_chain_match: Counter,
        downstream_cx_length_ms: Histogram,
    }
    tls: TlsCounts,
}

impl ListenerStats {
    /// Statistics of TLS (`listener.ADDRESS.ssl.`). They come into being with the first handshake.
    pub fn tls(&self) -> &TlsStats {
        self.tls.0.get_or_init(Box::default)
    }

    pub(super) fn read_tls(&self, out: &mut Vec<Entry>) {
        self.tls.read("server_ssl_socket_factory.downstream_context_secrets_not_ready", out);
    }
}

scope! {
    /// A TCP proxy's statistics on one worker (`tcp.PREFIX.`).
    TcpStats {
        downstream_cx_total: Counter,
        downstream_cx_no_route: Counter,
        downstream_cx_rx_bytes_total: Counter,
        downstream_cx_tx_bytes_total: Counter,
        downstream_cx_drain_close: Counter,
        idle_timeout: Counter,
        max_downstream_connection_duration: Counter,
    }
}

scope! {
    /// The process (`server.`). `uptime` and memory are filled in when scraped.
    ServerStats {
        concurrency: SharedGauge,
        live: SharedGauge,
        state: SharedGauge,
    }
}

scope! {
    /// Listener configuration (`listener_manager.`).
    ListenerManagerStats {
        total_listeners_active: SharedGauge,
        workers_started: SharedGauge,
    }
}

scope! {
    /// Cluster configuration (`cluster_manager.`).
    ClusterManagerStats {
        active_clusters: SharedGauge,
    }
}

scope! {
    /// The control plane's stream (`control_plane.`).
    ControlPlaneStats {
        connected_state: SharedGauge,
    }
}

scope! {
    /// Access-log files (`filesystem.`). `write_dropped`, lines that were lost, is not Envoy's.
    FilesystemStats {
        write_buffered: SharedCounter,
        write_completed: SharedCounter,
        write_failed: SharedCounter,
        write_dropped: SharedCounter,
        flushed_by_timer: SharedCounter,
        reopen_failed: SharedCounter,
        write_total_buffered: SharedGauge,
    }
}

scope! {
    /// What breaks the rules of HTTP/2 on clients' connections (`http2.`).
    Http2Stats {
        header_overflow: SharedCounter,
        rx_messaging_error: SharedCounter,
        rx_reset: SharedCounter,
        tx_reset: SharedCounter,
    }
}

scope! {
    /// Name resolution (`dns.getaddrinfo.`).
    DnsStats {
        resolve_total: SharedCounter,
        get_addr_failure: SharedCounter,
        not_found: SharedCounter,
        pending_resolutions: SharedGauge,
    }
}
