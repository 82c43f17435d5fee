//! A proxy with one listener, and an upstream that answers as told.

use std::collections::{BTreeMap, HashMap};
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::{Arc, Mutex};

use lateen_proxy::access_log::LogFiles;
use lateen_proxy::proxy::{Proxy, Settings};
use lateen_proxy::stats::Stats;
use lateen_traffic::Config;
use lateen_traffic::cluster::*;
use lateen_traffic::hcm::{Hcm, RouteSource};
use lateen_traffic::listener::{ChainMatch, Direction, FilterChain, Listener, Terminal};
use lateen_traffic::route::{Action, Forward, Route, RouteConfig, RouteMatch, Target, VirtualHost};

pub struct World {
    pub proxy: Arc<Proxy>,
    pub address: SocketAddr,
    pub upstream: Upstream,
}

/// An upstream that records what it gets and answers with fixed bytes.
pub struct Upstream {
    pub address: SocketAddr,
    pub seen: Arc<Mutex<Vec<String>>>,
    pub connections: Arc<Mutex<usize>>,
}

impl Upstream {
    /// Answers each request (found by its head's end) with `answer`; closes after that if it says `connection: close`.
    pub fn answering(answer: &'static str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let seen: Arc<Mutex<Vec<String>>> = Arc::default();
        let connections: Arc<Mutex<usize>> = Arc::default();
        let (log, count) = (Arc::clone(&seen), Arc::clone(&connections));
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let Ok(mut stream) = stream else { return };
                *count.lock().unwrap() += 1;
                let log = Arc::clone(&log);
                std::thread::spawn(move || {
                    let mut text = String::new();
                    let mut buffer = [0u8; 4096];
                    loop {
                        match stream.read(&mut buffer) {
                            Ok(n) if n > 0 => text.push_str(&String::from_utf8_lossy(&buffer[..n])),
                            _ => return,
                        }
                        while let Some(end) = text.find("\r\n\r\n") {
                            let head: String = text.drain(..end + 4).collect();
                            log.lock().unwrap().push(head);
                            if stream.write_all(answer.as_bytes()).is_err() {
                                return;
                            }
                            if answer.contains("connection: close") {
                                return;
                            }
                        }
                    }
                });
            }
        });
        Self { address, seen, connections }
    }
}

/// An address nobody listens on, below the range of outgoing connections, which might take it meanwhile.
pub fn free_address() -> SocketAddr {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let first = (std::process::id() % 200) as u16 * 100;
    std::iter::repeat_with(|| 10_000 + (first + NEXT.fetch_add(1, Ordering::Relaxed)) % 20_000)
        .map(|port| SocketAddr::from(([127, 0, 0, 1], port)))
        .find(|address| TcpListener::bind(address).is_ok())
        .unwrap()
}

pub fn cluster(name: &str, hosts: &[SocketAddr]) -> Cluster {
    let endpoints = hosts
        .iter()
        .map(|a| {
            Arc::new(Endpoint {
                address: EndpointAddress::Socket(*a),
                hostname: "".into(),
                weight: 1,
                health: Health::Healthy,
                hash_key: None,
                checked_as: None,
                transport_labels: Box::default(),
            })
        })
        .collect();
    Cluster {
        settings: Arc::new(ClusterSettings {
            name: name.into(),
            alt_stat_name: None,
            discovery: Discovery::Static,
            lb: LbPolicy::RoundRobin,
            slow_start: None,
            locality_weighted: false,
            connect_timeout: std::time::Duration::from_secs(5),
            limits: CircuitLimits::default(),
            protocol: UpstreamProtocol::Http1,
            http2: Http2Upstream::default(),
            idle_timeout: None,
            max_connection_duration: None,
            max_requests_per_connection: None,
            bind: None,
            tcp_keepalive: None,
            panic_threshold: 0.0,
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
            update_merge_window: std::time::Duration::from_secs(1),
        }),
        endpoints: Arc::new(Endpoints {
            localities: vec![LocalityEndpoints { locality: Locality::default(), priority: 0, weight: None, endpoints }],
            overprovisioning_factor: 140,
        }),
    }
}

pub fn config(address: SocketAddr, hcm: Hcm, clusters: Vec<Cluster>) -> Arc<Config> {
    let listener = Listener {
        name: "test".into(),
        addresses: vec![address],
        bind_to_port: true,
        use_original_dst: false,
        original_dst: false,
        tls_inspector: None,
        http_inspector: None,
        proxy_protocol: None,
        inspect_timeout: None,
        continue_on_inspect_timeout: false,
        chains: vec![Arc::new(FilterChain {
            name: "".into(),
            matches: ChainMatch::default(),
            gates: Box::default(),
            tls: None,
            handshake_timeout: None,
            terminal: Terminal::Http(Arc::new(hcm)),
        })],
        default_chain: None,
        access_log: Vec::new(),
        direction: Direction::Unspecified,
        per_connection_buffer: 1 << 20,
        backlog: None,
        ignores_global_limit: false,
    };
    let clusters: HashMap<_, _> = clusters.into_iter().map(|c| (Arc::clone(&c.settings.name), Arc::new(c))).collect();
    Arc::new(Config {
        secrets: Arc::default(),
        listeners: Arc::new(BTreeMap::from([("test".into(), Arc::new(listener))])),
        routes: Arc::default(),
        clusters: clusters.into_iter().collect(),
    })
}

pub fn forward_all(change: impl FnOnce(&mut Forward)) -> Hcm {
    let mut forward = Forward { target: Target::Cluster("up".into()), ..Forward::default() };
    change(&mut forward);
    let route = Route {
        name: "all".into(),
        matches: RouteMatch::prefix("/"),
        action: Action::Forward(Arc::new(forward)),
        request_edits: Default::default(),
        response_edits: Default::default(),
        stats: None,
        decorator: None,
        filters: Default::default(),
    };
    let host = VirtualHost { domains: vec!["*".into()], routes: vec![Arc::new(route)], ..VirtualHost::default() };
    let routes = RouteConfig { virtual_hosts: vec![Arc::new(host)], ..RouteConfig::default() }.index().unwrap();
    Hcm { routes: RouteSource::Inline(Arc::new(routes)), ..Hcm::default() }
}

impl World {
    pub fn new(upstream: Upstream, hcm: Hcm) -> Self {
        Self::at(free_address(), upstream, hcm, Vec::new())
    }

    /// Listening at `address`, with sockets that were opened for it.
    pub fn at(address: SocketAddr, upstream: Upstream, hcm: Hcm, inherited: Vec<(u16, OwnedFd)>) -> Self {
        let stats = Stats::new(1);
        let settings = Settings {
            workers: 1,
            max_connections: 10_000,
            default_bind: None,
            inherited,
            static_clusters: Default::default(),
        };
        let logs = LogFiles::new(Arc::clone(&stats));
        let proxy = Proxy::start(settings, stats, &logs).unwrap();
        let clusters = vec![cluster("up", &[upstream.address])];
        proxy.configure(config(address, hcm, clusters));
        while !proxy.is_settled() {
            std::thread::yield_now();
        }
        Self { proxy, address, upstream }
    }

    /// Sends bytes and reads until the proxy closes or `until` was seen.
    pub fn send(&self, request: &str, until: &str) -> String {
        let mut stream = TcpStream::connect(self.address).unwrap();
        stream.write_all(request.as_bytes()).unwrap();
        read_until(&mut stream, until)
    }
}

pub fn read_until(stream: &mut TcpStream, until: &str) -> String {
    let mut seen = String::new();
    let mut buffer = [0u8; 4096];
    loop {
        match stream.read(&mut buffer) {
            Ok(n) if n > 0 => seen.push_str(&String::from_utf8_lossy(&buffer[..n])),
            _ => return seen,
        }
        if !until.is_empty() && seen.contains(until) {
            return seen;
        }
    }
}

impl Drop for World {
    fn drop(&mut self) {
        self.proxy.stop();
    }
}
