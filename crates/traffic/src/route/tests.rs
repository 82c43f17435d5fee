use super::*;

fn fixed(n: u64) -> impl FnMut() -> u64 {
    move || n
}

fn request(authority: &str, path: &str) -> RequestHead {
    RequestHead {
        method: "GET".into(),
        scheme: "http".into(),
        authority: authority.into(),
        path: path.into(),
        ..Default::default()
    }
}

fn host(name: &str, domains: &[&str]) -> Arc<VirtualHost> {
    Arc::new(VirtualHost {
        name: name.into(),
        domains: domains.iter().map(|d| d.to_string()).collect(),
        ..Default::default()
    })
}

fn config(hosts: Vec<Arc<VirtualHost>>, ignore_port: bool) -> RouteConfig {
    RouteConfig { virtual_hosts: hosts, ignore_port, ..Default::default() }.index().unwrap()
}

#[test]
fn domains_go_from_exact_to_any() {
    let c = config(
        vec![
            host("any", &["*"]),
            host("pre", &["a.*"]),
            host("suf", &["*.test"]),
            host("long", &["*.b.test"]),
            host("exact", &["a.test"]),
        ],
        false,
    );
    let name = |a: &str| c.virtual_host(a).map(|h| h.name.to_string()).unwrap();
    assert_eq!(name("A.Test"), "exact");
    assert_eq!(name("x.b.test"), "long");
    assert_eq!(name("y.test"), "suf");
    assert_eq!(name("a.org"), "pre");
    assert_eq!(name("a.test:80"), "pre");
    assert_eq!(name("a.test."), "pre");
    assert_eq!(name("other"), "any");
}

#[test]
fn ports_are_ignored_when_told() {
    let c = config(vec![host("a", &["a.test"]), host("v6", &["[fd00::1]"])], true);
    assert_eq!(&*c.virtual_host("a.test:8080").unwrap().name, "a");
    assert_eq!(&*c.virtual_host("[fd00::1]:80").unwrap().name, "v6");
    assert!(c.virtual_host("b.test").is_none());
}

#[test]
fn a_domain_belongs_to_one_host() {
    let hosts = vec![host("a", &["x.test"]), host("b", &["X.test"])];
    assert!(RouteConfig { virtual_hosts: hosts, ..Default::default() }.index().is_err());
}

#[test]
fn paths_match_raw_by_segment_and_whole() {
    let hit = |m: PathMatch, path: &str| {
        RouteMatch { path: m, ..RouteMatch::prefix("/") }.matches(
            &request("a", path),
            &Metadata::default(),
            &mut fixed(0),
        )
    };
    assert!(hit(PathMatch::Prefix("/pre".into()), "/prefix"));
    assert!(
        hit(PathMatch::SegmentPrefix("/seg".into()), "/seg/x")
            && hit(PathMatch::SegmentPrefix("/seg".into()), "/seg?q")
    );
    assert!(!hit(PathMatch::SegmentPrefix("/seg".into()), "/segx"));
    assert!(hit(PathMatch::Exact("/a".into()), "/a?b=1") && !hit(PathMatch::Exact("/a".into()), "/a/"));
    let re = crate::matcher::full_regex("/a.*").unwrap();
    assert!(hit(PathMatch::Regex(re.clone()), "/abc?x") && !hit(PathMatch::Regex(re), "/xa"));
    assert!(!hit(PathMatch::Connect, "/"));
    let insensitive = RouteMatch { case_sensitive: false, ..RouteMatch::prefix("/API") };
    assert!(insensitive.matches(&request("a", "/api/x"), &Metadata::default(), &mut fixed(0)));
}

#[test]
fn weights_share_the_range() {
    let clusters: Vec<_> = [("a", 90), ("zero", 0), ("b", 10)]
        .map(|(name, weight)| WeightedCluster { name: name.into(), weight, ..Default::default() })
        .into();
    let at = |n: u64| &*pick_weighted(&clusters, &mut fixed(n)).unwrap().name;
    let hundredth = u64::MAX / 100;
    assert_eq!(at(0), "a");
    assert_eq!(at(hundredth * 89), "a");
    assert_eq!(at(hundredth * 91), "b");
    assert_eq!(at(u64::MAX), "b");
    assert!(pick_weighted(&[], &mut fixed(0)).is_none());
}

#[test]
fn prefixes_and_patterns_are_rewritten() {
    let prefix = |p: &str| RouteMatch::prefix(p);
    let to = |s: &str| PathRewrite::Prefix(s.into());
    assert_eq!(rewrite_path("/old/x?q=1", &prefix("/old"), &to("/new")).unwrap(), "/new/x?q=1");
    let exact = RouteMatch { path: PathMatch::Exact("/old".into()), ..prefix("/") };
    assert_eq!(rewrite_path("/old?q=1", &exact, &to("/new")).unwrap(), "/new?q=1");
    let regex =
        PathRewrite::Regex { pattern: Regex::new("^/([^/]+)/(.*)$").unwrap(), substitution: r"/\2/$/\1".into() };
    assert_eq!(rewrite_path("/a/b?c", &prefix("/"), &regex).unwrap(), "/b/$/a?c");
    assert!(rewrite_path("/a", &prefix("/"), &PathRewrite::None).is_none());
}

#[test]
fn redirects_follow_the_observed_table() {
    let location = |authority: &str, path: &str, r: Redirect| {
        redirect_location(&request(authority, path), &RouteMatch::prefix("/"), &r)
    };
    let https = || Redirect { scheme: Some("https".into()), ..Default::default() };
    assert_eq!(location("a:80", "/x?y=1", https()), "https://a/x?y=1");
    assert_eq!(location("a:8080", "/", https()), "https://a:8080/");
    let path = |p: &str| Redirect { path: Some(p.into()), ..Default::default() };
    assert_eq!(location("a:80", "/x?y=1", path("/new")), "http://a:80/new?y=1");
    assert_eq!(location("a", "/x?y=1", path("/new?z=9")), "http://a/new?z=9");
    assert_eq!(location("a", "/x", path("/new?z=9")), "http://a/new?z=9");
    assert_eq!(location("a", "/x?y=1", Redirect { strip_query: true, ..path("/new") }), "http://a/new");
    assert_eq!(location("a.test:81", "/", Redirect { port: Some(80), ..Default::default() }), "http://a.test:80/");
    assert_eq!(location("a:81", "/", Redirect { host: Some("b".into()), ..Default::default() }), "http://b/");
}

#[test]
fn tls_is_required_of_whom_it_is_asked() {
    let mut vh = VirtualHost { domains: vec!["*".into()], require_tls: RequireTls::All, ..Default::default() };
    let c = config(vec![Arc::new(vh.clone())], false);
    assert!(matches!(c.route(&request("a", "/"), false, false, &mut fixed(0)), Err(NotRouted::TlsRequired(_))));
    assert!(matches!(c.route(&request("a", "/"), true, false, &mut fixed(0)), Err(NotRouted::NotFound)));
    vh.require_tls = RequireTls::ExternalOnly;
    let c = config(vec![Arc::new(vh)], false);
    assert!(matches!(c.route(&request("a", "/"), false, true, &mut fixed(0)), Err(NotRouted::NotFound)));
}
