use std::borrow::Cow;

use super::cors::Decision;
use super::fault::{ABORT_BODY, Abort, AbortWith, Delay, Percentage};
use super::*;
use crate::matcher::StringMatcher;
use crate::record::Flags;
use crate::route::{Action, Forward, Route, RouteMatch, Target, VirtualHost, WeightedCluster};

const ALWAYS: Percentage = Percentage { numerator: 100, denominator: 100 };
const HALF: Percentage = Percentage { numerator: 50, denominator: 100 };

/// The largest number is above every share but the whole.
fn unlucky() -> impl FnMut() -> u64 {
    || u64::MAX
}

fn delay(milliseconds: u64, percentage: Percentage) -> Option<Delay> {
    Some(Delay { fixed: Some(Duration::from_millis(milliseconds)), percentage })
}

fn abort(with: AbortWith, percentage: Percentage) -> Option<Abort> {
    Some(Abort { with, percentage, body: Cow::Borrowed(ABORT_BODY) })
}

fn of(name: &str, said: Override) -> Overrides {
    [(Arc::from(name), said)].into_iter().collect()
}

fn faulty(fault: Fault) -> Override {
    Override::Fault(Arc::new(fault))
}

/// The levels of a request's way: route configuration, virtual host, route, weighted cluster.
#[derive(Default)]
struct Way {
    routes: RouteConfig,
    host: VirtualHost,
    route: Overrides,
    weighted: WeightedCluster,
}

impl Way {
    /// The steps of a request through the filters, up to an answer.
    fn walk(&self, filters: &[Filter], request: &RequestHead, active: u64) -> Vec<Step> {
        let route = Route {
            name: "".into(),
            matches: RouteMatch::prefix("/"),
            action: Action::Forward(Arc::new(Forward { target: Target::Weighted(Vec::new()), ..Forward::default() })),
            request_edits: Default::default(),
            response_edits: Default::default(),
            stats: None,
            decorator: None,
            filters: self.route.clone(),
        };
        let routed = Routed { virtual_host: &self.host, route: &route, weighted: Some(&self.weighted) };
        let active_faults = || active;
        let peer = crate::rbac::tests::peer();
        let asked = Asked { request, peer, routes: &self.routes, routed: Some(routed), active_faults: &active_faults };
        let mut metadata = Metadata::default();
        let mut walk = Walk::new(filters);
        let mut steps = Vec::new();
        loop {
            match walk.next(&asked, &mut metadata, &mut unlucky()) {
                Step::Route => return steps,
                step => steps.push(step),
            }
            assert!(steps.len() < 10, "{steps:?}");
            if matches!(steps.last(), Some(Step::Abort(_) | Step::Cors(Decision { preflight: Some(_), .. }))) {
                return steps;
            }
        }
    }
}

fn filter(name: &str, kind: FilterKind) -> Filter {
    Filter { name: name.into(), disabled: false, kind }
}

fn fault_filter(fault: Fault) -> Vec<Filter> {
    vec![filter("f", FilterKind::Fault(Arc::new(fault)))]
}

fn request(fields: &[(&str, &str)]) -> RequestHead {
    RequestHead {
        method: "GET".into(),
        path: "/".into(),
        headers: fields.iter().copied().collect(),
        ..Default::default()
    }
}

fn told(steps: &[Step]) -> String {
    let one = |step: &Step| match step {
        Step::Route => "route".to_owned(),
        Step::Delay(wait) => format!("delay {}", wait.as_millis()),
        Step::Abort(reply) => match reply.grpc_status {
            Some(grpc) => format!("abort {} grpc {grpc}", reply.status),
            None => format!("abort {}", reply.status),
        },
        Step::FaultsOverflow => "overflow".to_owned(),
        Step::GrpcWeb => "grpc-web".to_owned(),
        Step::Alpn(_) => "alpn".to_owned(),
        Step::Cors(Decision { allowed, preflight, grant }) => {
            format!("cors {allowed} {} {}", preflight.is_some(), grant.is_some())
        }
        Step::Jwt(..) => "jwt".to_owned(),
        Step::Ask(question) => format!("ask {}", question.service.cluster()),
        Step::NotAsked(_, reply) => format!("not asked {}", reply.is_some()),
        Step::Rbac { verdict, .. } => format!("rbac {}", verdict.denial().is_none()),
    };
    steps.iter().map(one).collect::<Vec<_>>().join(", ")
}

#[test]
fn a_delay_comes_before_the_abort() {
    let both = Fault { delay: delay(5, ALWAYS), abort: abort(AbortWith::Http(503), ALWAYS), ..Fault::default() };
    let steps = Way::default().walk(&fault_filter(both.clone()), &request(&[]), 0);
    assert_eq!(told(&steps), "delay 5, abort 503");
    let Some(Step::Abort(reply)) = steps.last() else { panic!() };
    assert_eq!((&*reply.body, &*reply.details), ("fault filter abort", "fault_filter_abort"));
    assert!(reply.flags.intersects(Flags::FAULT_INJECTED));
    let unlikely = Fault { delay: delay(5, HALF), abort: abort(AbortWith::Grpc(14), ALWAYS), ..Fault::default() };
    assert_eq!(told(&Way::default().walk(&fault_filter(unlikely), &request(&[]), 0)), "abort 200 grpc 14");
    let neither = Fault { delay: delay(5, HALF), abort: abort(AbortWith::Http(503), HALF), ..Fault::default() };
    assert_eq!(told(&Way::default().walk(&fault_filter(neither), &request(&[]), 0)), "");
}

#[test]
fn faults_overflow_but_one_that_is_active_goes_on() {
    let fault = Fault {
        delay: delay(5, ALWAYS),
        abort: abort(AbortWith::Http(503), ALWAYS),
        max_active: Some(2),
        ..Fault::default()
    };
    let filters = fault_filter(fault);
    assert_eq!(told(&Way::default().walk(&filters, &request(&[]), 1)), "delay 5, abort 503");
    assert_eq!(told(&Way::default().walk(&filters, &request(&[]), 2)), "overflow, overflow");
}

#[test]
fn the_most_specific_fault_is_the_only_one() {
    let status = |status| Fault { abort: abort(AbortWith::Http(status), ALWAYS), ..Fault::default() };
    let filters = fault_filter(status(501));
    let mut way = Way::default();
    let seen = |way: &Way| told(&way.walk(&filters, &request(&[]), 0));
    assert_eq!(seen(&way), "abort 501");
    way.routes.filters = of("f", faulty(status(502)));
    assert_eq!(seen(&way), "abort 502");
    way.host.filters = of("f", faulty(status(503)));
    assert_eq!(seen(&way), "abort 503");
    way.route = of("other", faulty(status(504)));
    assert_eq!(seen(&way), "abort 503", "settings for another filter");
    way.route = of("f", Override::Off);
    assert_eq!(seen(&way), "");
    way.weighted.filters = of("f", faulty(status(505)));
    assert_eq!(seen(&way), "abort 505");
}

#[test]
fn disabled_filters_act_where_a_route_enables_them() {
    let mut filters = fault_filter(Fault { abort: abort(AbortWith::Http(500), ALWAYS), ..Fault::default() });
    filters[0].disabled = true;
    let mut way = Way::default();
    assert_eq!(told(&way.walk(&filters, &request(&[]), 0)), "");
    way.route = of("f", Override::On);
    assert_eq!(told(&way.walk(&filters, &request(&[]), 0)), "abort 500");
}

#[test]
fn faults_are_for_some_clusters_nodes_and_headers() {
    let fault = || Fault { abort: abort(AbortWith::Http(500), ALWAYS), ..Fault::default() };
    let way = Way { weighted: WeightedCluster { name: "b".into(), ..Default::default() }, ..Way::default() };
    let seen = |fault, fields: &[(&str, &str)]| told(&way.walk(&fault_filter(fault), &request(fields), 0));
    assert_eq!(seen(Fault { upstream_cluster: Some("b".into()), ..fault() }, &[]), "abort 500");
    assert_eq!(seen(Fault { upstream_cluster: Some("a".into()), ..fault() }, &[]), "");
    let nodes = || Fault { downstream_nodes: vec!["n".into()], ..fault() };
    assert_eq!(seen(nodes(), &[]), "");
    assert_eq!(seen(nodes(), &[("x-envoy-downstream-service-node", "n")]), "abort 500");
}

#[test]
fn headers_may_ask_for_faults_where_that_is_configured() {
    let fault = Fault {
        delay: Some(Delay { fixed: None, percentage: ALWAYS }),
        abort: abort(AbortWith::Header, ALWAYS),
        ..Fault::default()
    };
    let filters = fault_filter(fault);
    let seen = |fields: &[(&str, &str)]| told(&Way::default().walk(&filters, &request(fields), 0));
    assert_eq!(seen(&[]), "");
    assert_eq!(seen(&[("x-envoy-fault-delay-request", "7")]), "delay 7");
    assert_eq!(seen(&[("x-envoy-fault-delay-request", "0")]), "");
    assert_eq!(seen(&[("x-envoy-fault-delay-request", "9"), ("x-envoy-fault-delay-request-percentage", "50")]), "");
    assert_eq!(seen(&[("x-envoy-fault-abort-request", "418")]), "abort 418");
    assert_eq!(seen(&[("x-envoy-fault-abort-request", "42")]), "");
    assert_eq!(seen(&[("x-envoy-fault-abort-grpc-request", "5")]), "abort 200 grpc 5");
}

#[test]
fn cors_fields_come_from_the_most_specific_level_that_has_them() {
    let policy = |change: fn(&mut CorsPolicy)| {
        let mut policy = CorsPolicy::default();
        change(&mut policy);
        of("c", Override::Cors(Arc::new(policy)))
    };
    let mut way = Way {
        host: VirtualHost {
            filters: policy(|p| {
                p.allow_origins = vec![StringMatcher::exact("http://a")];
                p.max_age = "1".into();
            }),
            ..Default::default()
        },
        ..Way::default()
    };
    way.route = policy(|p| {
        p.allow_methods = "*".into();
        p.max_age = "2".into();
    });
    let filters = [filter("c", FilterKind::Cors)];
    let mut preflight = request(&[("origin", "http://a"), ("access-control-request-method", "PUT")]);
    assert_eq!(told(&way.walk(&filters, &preflight, 0)), "cors true false true", "only OPTIONS is a preflight");
    preflight.method = "OPTIONS".into();
    let steps = way.walk(&filters, &preflight, 0);
    let [Step::Cors(Decision { preflight: Some(response), .. })] = &steps[..] else { panic!("{steps:?}") };
    let fields: Vec<_> = response.headers.iter().map(|(n, v)| format!("{n}: {}", String::from_utf8_lossy(v))).collect();
    assert_eq!(
        fields,
        ["access-control-allow-origin: http://a", "access-control-allow-methods: PUT", "access-control-max-age: 2"]
    );
    preflight.headers.set("origin", "http://b");
    assert_eq!(told(&way.walk(&filters, &preflight, 0)), "cors false false false", "goes upstream");
    way.route = policy(|p| p.forward_unmatched_preflights = Some(false));
    assert_eq!(told(&way.walk(&filters, &preflight, 0)), "cors false true false");
    assert_eq!(told(&way.walk(&filters, &request(&[]), 0)), "");
    way.route = policy(|p| p.enabled = Some(HALF));
    assert_eq!(told(&way.walk(&filters, &preflight, 0)), "");
}
