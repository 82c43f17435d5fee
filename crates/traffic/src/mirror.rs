//! Mirroring: which copies of a request are made, for whom, and what they look like (Envoy's `RequestMirrorPolicy`).

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use crate::Dice;
use crate::edit::HeaderEdits;
use crate::format::Facts;
use crate::forwarding::add_to_list;
use crate::matcher::StringMatcher;
use crate::message::RequestHead;
use crate::record::Record;
use crate::route::{Forward, RouteConfig, VirtualHost, without_port};

/// Envoy's `RequestMirrorPolicy`: copies of requests go to another cluster, and what comes back is thrown away.
#[derive(Debug, Clone)]
pub struct Mirror {
    /// Where copies go.
    pub target: MirrorTarget,
    /// Requests that are copied, per million.
    pub fraction: u32,
    /// What becomes of the authority.
    pub host: MirrorHost,
    /// Changes of the copy's header fields, one after the other.
    pub mutations: Vec<Mutation>,
}

/// The cluster of copies.
#[derive(Debug, Clone)]
pub enum MirrorTarget {
    /// This one.
    Cluster(Arc<str>),
    /// Named by a header of the request; none without it.
    Header(Arc<str>),
}

/// The authority of copies.
#[derive(Debug, Clone)]
pub enum MirrorHost {
    /// The request's own, as Istio asks for.
    Same,
    /// With `-shadow` after its host, Envoy's default.
    Shadow,
    /// This one.
    Literal(Arc<str>),
}

/// One change of a head (Envoy's `HeaderMutation`).
#[derive(Debug, Clone)]
pub enum Mutation {
    /// Fields removed or added.
    Edit(HeaderEdits),
    /// Fields whose name matches are removed.
    RemoveMatching(StringMatcher),
}

/// The mirrors of a request: the route's, else its virtual host's, else the route configuration's. They are not merged.
pub fn policies<'a>(routes: &'a RouteConfig, virtual_host: &'a VirtualHost, forward: &'a Forward) -> &'a [Mirror] {
    [&forward.mirrors, &virtual_host.mirrors, &routes.mirrors]
        .into_iter()
        .find(|mirrors| !mirrors.is_empty())
        .map_or(&[], Vec::as_slice)
}

/// The mirrors that copy this request. As in Envoy one throw decides for all of them, so that of two mirrors with the
/// same share both copy the same requests.
pub fn chosen<'a>(mirrors: &'a [Mirror], dice: &mut dyn Dice) -> impl Iterator<Item = &'a Mirror> + use<'a> {
    let thrown = if mirrors.is_empty() { 0 } else { dice.below(1_000_000) };
    mirrors.iter().filter(move |mirror| thrown < u64::from(mirror.fraction))
}

impl Mirror {
    /// The cluster that gets the copy of a request.
    pub fn cluster<'a>(&'a self, request: &'a RequestHead) -> Option<&'a str> {
        match &self.target {
            MirrorTarget::Cluster(name) => Some(name),
            MirrorTarget::Header(header) => request.headers.get_str(header).filter(|name| !name.is_empty()),
        }
    }

    /// The copy's head, made of the head that goes to the main cluster. `own` is the proxy's address, `timeout` the time
    /// that the copy has, if that is limited: there is no second try of it, nor a limit of one.
    pub fn copy(&self, request: &RequestHead, record: &Record, own: IpAddr, timeout: Option<Duration>) -> RequestHead {
        let mut copy = request.clone();
        for mutation in &self.mutations {
            match mutation {
                Mutation::Edit(edits) => {
                    let values = edits.values(Facts { record, request: &copy, response: None });
                    edits.apply(&mut copy.headers, &values);
                }
                Mutation::RemoveMatching(matcher) => copy.headers.retain(|name| !matcher.matches_bytes(name)),
            }
        }
        match &self.host {
            MirrorHost::Same => {}
            MirrorHost::Shadow => copy.authority.insert_str(without_port(&request.authority).len(), "-shadow"),
            MirrorHost::Literal(host) => (**host).clone_into(&mut copy.authority),
        }
        // The copy's receiver sees a client of the mesh, and where it is.
        copy.headers.set("x-envoy-internal", "true");
        add_to_list(&mut copy.headers, "x-forwarded-for", &own.to_string(), ",");
        if let Some(timeout) = timeout {
            copy.headers.set("x-envoy-expected-rq-timeout-ms", timeout.as_millis().to_string());
        }
        copy
    }
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, SocketAddr};
    use std::time::SystemTime;

    use super::*;

    fn mirror(cluster: &str, fraction: u32) -> Mirror {
        Mirror {
            target: MirrorTarget::Cluster(cluster.into()),
            fraction,
            host: MirrorHost::Same,
            mutations: Vec::new(),
        }
    }

    fn copy(mirror: &Mirror, authority: &str, headers: &[(&str, &str)]) -> RequestHead {
        let request = RequestHead {
            authority: authority.into(),
            headers: headers.iter().copied().collect(),
            ..Default::default()
        };
        let nowhere = SocketAddr::from((Ipv4Addr::LOCALHOST, 1));
        mirror.copy(&request, &Record::begin(SystemTime::UNIX_EPOCH, nowhere, nowhere), [10, 0, 0, 1].into(), None)
    }

    #[test]
    fn one_throw_decides_for_all() {
        let mirrors = [mirror("a", 500_000), mirror("b", 250_000), mirror("c", 0), mirror("d", 1_000_000)];
        let names = |share: f64| -> Vec<_> {
            let thrown = (share * 2f64.powi(64)) as u64;
            chosen(&mirrors, &mut (|| thrown)).filter_map(|m| m.cluster(&NONE).map(str::to_owned)).collect()
        };
        static NONE: std::sync::LazyLock<RequestHead> = std::sync::LazyLock::new(RequestHead::default);
        assert_eq!(names(0.1), ["a", "b", "d"]);
        assert_eq!(names(0.4), ["a", "d"]);
        assert_eq!(names(0.9), ["d"]);
    }

    #[test]
    fn the_nearest_policies_count_alone() {
        let with = |name: Option<&str>| name.map(|name| mirror(name, 1)).into_iter().collect::<Vec<_>>();
        let found = |route: Option<&str>, host: Option<&str>, config: Option<&str>| {
            let routes = RouteConfig { mirrors: with(config), ..Default::default() };
            let virtual_host = VirtualHost { mirrors: with(host), ..Default::default() };
            let forward = Forward { mirrors: with(route), ..Default::default() };
            let all = policies(&routes, &virtual_host, &forward);
            all.iter().filter_map(|m| m.cluster(&RequestHead::default()).map(str::to_owned)).collect::<Vec<_>>()
        };
        assert_eq!(found(Some("r"), Some("h"), Some("c")), ["r"]);
        assert_eq!(found(None, Some("h"), Some("c")), ["h"]);
        assert_eq!(found(None, None, Some("c")), ["c"]);
        assert!(found(None, None, None).is_empty());
    }

    #[test]
    fn the_authority_may_get_a_suffix() {
        let shadow = Mirror { host: MirrorHost::Shadow, ..mirror("a", 1) };
        for (host, copied) in
            [("a.test", "a.test-shadow"), ("a.test:80", "a.test-shadow:80"), ("[::1]:80", "[::1]-shadow:80")]
        {
            assert_eq!(copy(&shadow, host, &[]).authority, copied);
        }
        assert_eq!(copy(&mirror("a", 1), "a.test:80", &[]).authority, "a.test:80");
    }

    #[test]
    fn copies_say_where_they_come_from() {
        let fields = |headers: &[(&str, &str)]| -> Vec<String> {
            let copied = copy(&mirror("a", 1), "a", headers);
            copied.headers.iter().map(|(n, v)| format!("{n}={}", String::from_utf8_lossy(v))).collect()
        };
        assert_eq!(fields(&[]), ["x-envoy-internal=true", "x-forwarded-for=10.0.0.1"]);
        assert_eq!(
            fields(&[("x-forwarded-for", "1.1.1.1")]),
            ["x-forwarded-for=1.1.1.1,10.0.0.1", "x-envoy-internal=true"]
        );
    }
}
