use std::sync::Arc;
use std::time::Duration;

use lateen_traffic::Config;
use lateen_traffic::cluster::*;
use proptest::prelude::*;

use super::*;

fn name(text: &str) -> Arc<str> {
    text.into()
}

fn text(snapshot: Snapshot) -> String {
    snapshot.text(Buckets::Summary).collect()
}

fn prometheus(snapshot: Snapshot) -> String {
    snapshot.prometheus().collect()
}

fn cluster(cluster_name: &str, health: &[Health]) -> (Arc<str>, Arc<Cluster>) {
    let endpoints = health
        .iter()
        .map(|health| {
            Arc::new(Endpoint {
                address: EndpointAddress::ip([127, 0, 0, 1].into(), 80),
                hostname: name(""),
                weight: 1,
                health: *health,
                hash_key: None,
                checked_as: None,
                transport_labels: Box::default(),
            })
        })
        .collect();
    let settings = ClusterSettings {
        name: name(cluster_name),
        alt_stat_name: None,
        discovery: Discovery::Static,
        lb: LbPolicy::RoundRobin,
        slow_start: None,
        locality_weighted: false,
        connect_timeout: Duration::from_secs(5),
        limits: CircuitLimits::default(),
        protocol: UpstreamProtocol::Http1,
        http2: Http2Upstream::default(),
        idle_timeout: None,
        max_connection_duration: None,
        max_requests_per_connection: None,
        bind: None,
        tcp_keepalive: None,
        panic_threshold: 50.0,
        transport: lateen_traffic::tls::TransportSocket::Plain,
        transport_matches: Vec::new(),
        names_of_requests: Default::default(),
        keeps_protocols: false,
        proxy_protocol: None,
        outlier: None,
        outlier_errors: None,
        health_check: None,
        ignore_unchecked_hosts: false,
        close_connections_to_unhealthy: false,
        update_merge_window: Duration::from_secs(1),
    };
    let locality = LocalityEndpoints { locality: Locality::default(), priority: 0, weight: None, endpoints };
    let cluster = Cluster {
        settings: Arc::new(settings),
        endpoints: Arc::new(Endpoints { localities: vec![locality], overprovisioning_factor: 140 }),
    };
    (name(cluster_name), Arc::new(cluster))
}

fn facts(cluster: &Cluster) -> ClusterFacts {
    let mut facts = ClusterFacts::default();
    cluster.endpoints.localities.iter().flat_map(|l| &l.endpoints).for_each(|endpoint| facts.member(endpoint.health));
    facts
}

fn config(clusters: impl IntoIterator<Item = (Arc<str>, Arc<Cluster>)>) -> Config {
    Config { clusters: clusters.into_iter().collect(), ..Config::default() }
}

#[test]
fn workers_are_added_up() {
    let stats = Stats::new(2);
    for (worker, times) in [(0, 2), (1, 3)] {
        let cluster = stats.worker(worker).cluster(&name("a"));
        for _ in 0..times {
            cluster.upstream_rq_total.inc();
            cluster.upstream_rq_active.inc();
            cluster.response(200 + 99 * worker as u16);
            cluster.upstream_rq_time.record(Duration::from_micros(700));
        }
        cluster.upstream_rq_active.dec();
    }
    let snapshot = stats.snapshot(&Config::default(), &facts);
    let got = |stat: &str| snapshot.get(&format!("cluster.a.{stat}"));
    assert_eq!(got("upstream_rq_total"), Some(5));
    assert_eq!(got("upstream_rq_active"), Some(3));
    assert_eq!(got("upstream_rq_completed"), Some(5));
    assert_eq!(got("upstream_rq_2xx"), Some(5));
    assert_eq!((got("upstream_rq_200"), got("upstream_rq_299")), (Some(2), Some(3)));
    assert_eq!(got("upstream_rq_time"), Some(5));
    assert_eq!(got("upstream_rq_5xx"), None);
}

#[test]
fn the_same_name_is_the_same_scope() {
    let stats = Stats::new(1);
    let worker = stats.worker(0);
    assert!(Arc::ptr_eq(&worker.http(&name("p")), &worker.http(&name("p"))));
    assert!(!Arc::ptr_eq(&worker.http(&name("p")), &worker.http(&name("q"))));
    // Beyond the last worker there is no memory that nobody reads.
    assert!(Arc::ptr_eq(&stats.worker(9).tcp(&name("t")), &worker.tcp(&name("t"))));
}

#[test]
fn text_reads_as_envoys() {
    let stats = Stats::new(1);
    let http = stats.worker(0).http(&name("outbound_0.0.0.0_80;"));
    http.downstream_rq_total.add(7);
    http.downstream_cx_active.inc();
    http.downstream_cx_active.dec();
    http.response(204);
    http.response(0);
    http.downstream_rq_time.record(Duration::from_millis(1));
    let used = Filter { used_only: true, ..Filter::default() };
    assert_eq!(
        text(stats.snapshot(&Config::default(), &facts).filtered(used).named(|n| n.starts_with("http"))),
        "http.outbound_0.0.0.0_80;.downstream_cx_active: 0\n\
         http.outbound_0.0.0.0_80;.downstream_rq_2xx: 1\n\
         http.outbound_0.0.0.0_80;.downstream_rq_completed: 1\n\
         http.outbound_0.0.0.0_80;.downstream_rq_total: 7\n\
         http.outbound_0.0.0.0_80;.downstream_rq_time: P0(nan,0.5) P25(nan,0.625) P50(nan,0.75) P75(nan,0.875) \
         P90(nan,0.95) P95(nan,0.975) P99(nan,0.995) P99.5(nan,0.9975) P99.9(nan,0.9995) P100(nan,1)\n"
    );
    let all = text(stats.snapshot(&Config::default(), &facts));
    assert!(all.contains("\nhttp.outbound_0.0.0.0_80;.downstream_rq_5xx: 0\n"));
    assert!(all.contains(".downstream_cx_length_ms: No recorded values\n"));
    assert!(
        all.contains("\nserver.concurrency: 1\n") && all.contains("\nlistener_manager.total_listeners_active: 0\n")
    );
}

#[test]
fn filters_choose() {
    let stats = Stats::new(1);
    stats.worker(0).cluster(&name("a")).upstream_rq_total.inc();
    let snapshot = || stats.snapshot(&Config::default(), &facts);
    let with = |filter| text(snapshot().filtered(filter));
    let only = |name: &str| name == "cluster.a.upstream_rq_total";
    assert_eq!(text(snapshot().named(only)), "cluster.a.upstream_rq_total: 1\n");
    let rest = text(snapshot().named(|name| !only(name)));
    assert!(rest.contains("server.") && !rest.contains("upstream_rq_total"));
    let gauges = with(Filter { types: Types::Gauges, ..Filter::default() });
    assert!(gauges.contains("upstream_rq_active") && !gauges.contains("upstream_rq_total"));
    assert_eq!(with(Filter { types: Types::TextReadouts, ..Filter::default() }), "");
}

#[test]
fn labels_are_envoys_and_end_at_a_semicolon() {
    let stats = Stats::new(2);
    let reviews = stats.worker(1).cluster(&name("outbound|80|v1|reviews.default.svc.cluster.local;"));
    reviews.upstream_rq_total.add(6);
    reviews.response(404);
    reviews.upstream_rq_time.record(Duration::from_millis(30));
    stats.worker(0).cluster(&name("odd\"\\\nname")).upstream_rq_total.inc();
    stats.worker(1).listener(&name("0.0.0.0_15001")).downstream_cx_total.add(2);
    stats.worker(0).http(&name("outbound_0.0.0.0_80;")).response(200);
    stats.worker(0).tcp(&name("BlackHoleCluster")).downstream_cx_total.inc();
    let all = prometheus(
        stats.snapshot(&Config::default(), &facts).filtered(Filter { used_only: true, ..Filter::default() }),
    );
    let label = "envoy_cluster_name=\"outbound|80|v1|reviews.default.svc.cluster.local\"";
    for line in [
        "# TYPE envoy_cluster_upstream_rq_total counter".to_owned(),
        format!("envoy_cluster_upstream_rq_total{{{label}}} 6"),
        format!("envoy_cluster_upstream_rq{{envoy_response_code=\"404\",{label}}} 1"),
        format!("envoy_cluster_upstream_rq_xx{{envoy_response_code_class=\"4\",{label}}} 1"),
        "envoy_cluster_upstream_rq_total{envoy_cluster_name=\"odd\\\"\\\\\\nname\"} 1".to_owned(),
        "# TYPE envoy_cluster_upstream_rq_time histogram".to_owned(),
        format!("envoy_cluster_upstream_rq_time_bucket{{{label},le=\"25\"}} 0"),
        format!("envoy_cluster_upstream_rq_time_bucket{{{label},le=\"50\"}} 1"),
        format!("envoy_cluster_upstream_rq_time_bucket{{{label},le=\"3600000\"}} 1"),
        format!("envoy_cluster_upstream_rq_time_bucket{{{label},le=\"+Inf\"}} 1"),
        format!("envoy_cluster_upstream_rq_time_sum{{{label}}} 30"),
        format!("envoy_cluster_upstream_rq_time_count{{{label}}} 1"),
        "envoy_listener_downstream_cx_total{envoy_listener_address=\"0.0.0.0_15001\"} 2".to_owned(),
        "envoy_listener_worker_downstream_cx_total{envoy_worker_id=\"1\",envoy_listener_address=\"0.0.0.0_15001\"} 2"
            .to_owned(),
        "envoy_http_downstream_rq_xx{envoy_response_code_class=\"2\",envoy_http_conn_manager_prefix=\"outbound_0.0.0.0_80\"} 1"
            .to_owned(),
        "envoy_tcp_downstream_cx_total{envoy_tcp_prefix=\"BlackHoleCluster\"} 1".to_owned(),
        "# TYPE envoy_server_uptime gauge".to_owned(),
        "envoy_server_concurrency{} 2".to_owned(),
    ] {
        assert!(all.lines().any(|l| l == line), "no line {line} in\n{all}");
    }
    // Each metric has one TYPE line, with all its samples below.
    let mut types: Vec<&str> = all.lines().filter(|l| l.starts_with("# TYPE")).collect();
    types.sort_unstable();
    let before = types.len();
    types.dedup();
    assert_eq!(types.len(), before);
}

#[test]
fn istios_labels_have_no_prefix() {
    let stats = Stats::with_tags(1, Tags::Istio);
    stats.worker(0).cluster(&name("inbound|8080||;")).response(503);
    let all = prometheus(stats.snapshot(&Config::default(), &facts));
    assert!(all.contains("envoy_cluster_upstream_rq{response_code=\"503\",cluster_name=\"inbound|8080||\"} 1\n"));
}

#[test]
fn members_come_from_the_configuration() {
    use Health::*;
    let stats = Stats::new(1);
    let config = config([cluster("a", &[Healthy, Unhealthy, Degraded]), cluster("idle", &[])]);
    let snapshot = stats.snapshot(&config, &facts);
    let got = |stat: &str| snapshot.get(stat);
    assert_eq!(got("cluster.a.membership_total"), Some(3));
    assert_eq!((got("cluster.a.membership_healthy"), got("cluster.a.membership_degraded")), (Some(1), Some(1)));
    // A cluster without traffic is there with zeros.
    assert_eq!((got("cluster.idle.membership_total"), got("cluster.idle.upstream_rq_total")), (Some(0), Some(0)));
    assert_eq!((got("cluster.idle.upstream_cx_connect_ms"), got("cluster.idle.upstream_rq_time")), (Some(0), None));
}

#[test]
fn removed_scopes_go_when_unused() {
    let stats = Stats::new(1);
    let worker = stats.worker(0);
    let config = config([cluster("stays", &[])]);
    worker.cluster(&name("stays")).upstream_rq_total.inc();
    worker.cluster(&name("gone")).upstream_rq_total.inc();
    worker.http(&name("gone"));
    let draining = worker.cluster(&name("draining"));
    stats.retain(&config, &Config::default());
    let total = |name: &str| stats.snapshot(&config, &facts).get(&format!("cluster.{name}.upstream_rq_total"));
    assert_eq!((total("stays"), total("gone"), total("draining")), (Some(1), None, Some(0)));
    assert_eq!(stats.snapshot(&config, &facts).get("http.gone.downstream_rq_total"), None);
    draining.upstream_rq_total.inc();
    assert_eq!(total("draining"), Some(1));
    drop(draining);
    stats.retain(&config, &config);
    assert_eq!(total("draining"), None);
}

#[test]
fn a_reset_zeroes_counters_only() {
    let stats = Stats::new(1);
    let cluster = stats.worker(0).cluster(&name("a"));
    cluster.upstream_rq_total.add(5);
    cluster.upstream_rq_active.inc();
    stats.filesystem.write_dropped.add(3);
    stats.reset_counters(&Config::default(), &facts);
    let got = |stat: &str| stats.snapshot(&Config::default(), &facts).get(stat);
    assert_eq!(got("cluster.a.upstream_rq_total"), Some(0));
    assert_eq!(got("filesystem.write_dropped"), Some(0));
    assert_eq!(got("cluster.a.upstream_rq_active"), Some(1));
    cluster.upstream_rq_total.inc();
    assert_eq!(got("cluster.a.upstream_rq_total"), Some(1));
    // A scope that was dropped and made anew starts from zero, not below.
    drop(cluster);
    stats.retain(&Config::default(), &config([self::cluster("a", &[])]));
    stats.worker(0).cluster(&name("a")).upstream_rq_total.add(2);
    assert_eq!(got("cluster.a.upstream_rq_total"), Some(2));
}

#[test]
fn json_has_envoys_shape() {
    let stats = Stats::new(1);
    stats.worker(0).tcp(&name("t")).downstream_cx_total.inc();
    let cluster = stats.worker(0).cluster(&name("a"));
    cluster.upstream_rq_time.record(Duration::from_secs(7200));
    let filter = Filter { used_only: true, ..Filter::default() };
    let named = |name: &str| name.starts_with("tcp") || name.contains("rq_time");
    let snapshot = stats.snapshot(&Config::default(), &facts).filtered(filter).named(named);
    let json = snapshot.clone().json(Buckets::Summary);
    assert_eq!(json["stats"][0], serde_json::json!({"name": "tcp.t.downstream_cx_total", "value": 1}));
    let quantiles = &json["stats"][1]["histograms"]["computed_quantiles"][0];
    assert_eq!(quantiles["name"], "cluster.a.upstream_rq_time");
    // Beyond the last bound only that bound is known.
    assert_eq!(quantiles["values"][2]["cumulative"], 3_600_000.0);
    let buckets = snapshot.json(Buckets::Cumulative);
    assert_eq!(buckets["stats"][1]["histograms"][0]["buckets"][18]["cumulative"], 0);
}

#[test]
fn listeners_are_named_by_address() {
    let mut listener = Listener {
        name: name("virtualInbound"),
        addresses: vec!["0.0.0.0:15006".parse().unwrap()],
        bind_to_port: true,
        use_original_dst: false,
        original_dst: false,
        tls_inspector: None,
        http_inspector: None,
        proxy_protocol: None,
        inspect_timeout: None,
        continue_on_inspect_timeout: false,
        chains: Vec::new(),
        default_chain: None,
        access_log: Vec::new(),
        direction: lateen_traffic::listener::Direction::Inbound,
        per_connection_buffer: 1,
        backlog: None,
        ignores_global_limit: false,
    };
    assert_eq!(&*listener_scope(&listener), "0.0.0.0_15006");
    listener.addresses = vec!["[::]:80".parse().unwrap()];
    assert_eq!(&*listener_scope(&listener), "[__]_80");
}

proptest! {
    #[test]
    fn quantiles_are_ordered_and_counts_kept(samples in prop::collection::vec(0u64..10_000_000_000, 1..50)) {
        let stats = Stats::new(1);
        let http = stats.worker(0).http(&name("p"));
        for us in &samples {
            http.downstream_rq_time.record(Duration::from_micros(*us));
        }
        let all = prometheus(stats.snapshot(&Config::default(), &facts));
        let line = format!("envoy_http_downstream_rq_time_count{{envoy_http_conn_manager_prefix=\"p\"}} {}\n", samples.len());
        prop_assert!(all.contains(&line));
        let mut distribution = Distribution { counts: [0; 20], sum_us: samples.iter().sum() };
        for us in &samples {
            let at = BOUNDS_MS.iter().position(|b| *us as f64 <= b * 1000.0).unwrap_or(19);
            distribution.counts[at] += 1;
        }
        let quantiles: Vec<f64> =
            (0..=100).map(|p| distribution.quantile_ms(f64::from(p) / 100.0).unwrap()).collect();
        prop_assert!(quantiles.windows(2).all(|w| w[0] <= w[1]), "{quantiles:?}");
    }
}
