//! Whatever the order of events: the client ends with what the server has, and never uses what is not there.

use std::collections::BTreeSet;

use lateen_traffic::Config;
use lateen_traffic::cluster::Discovery;
use lateen_traffic::hcm::RouteSource;
use lateen_traffic::listener::{Listener, Terminal};
use lateen_traffic::route::{Action, Target as RouteTarget};
use lateen_traffic::tcp::TcpTarget;
use proptest::prelude::*;

use super::Wire;
use super::world::{self, BAD, CLUSTERS, LISTENERS, ROUTES, Target, World, cluster_name};
use crate::ResourceType;
use crate::ads::Protocol;

#[derive(Clone, Debug)]
enum Event {
    Update(World),
    Serve,
    Receive,
    Disconnect,
}

fn world(variants: impl Strategy<Value = u8> + Clone) -> impl Strategy<Value = World> {
    let cluster = 0..CLUSTERS;
    let target = prop_oneof![(0..ROUTES).prop_map(Target::Routes), cluster.clone().prop_map(Target::Cluster)];
    let listener = prop_oneof![1 => Just(None), 3 => target.prop_map(Some)];
    (
        prop::collection::vec(listener, usize::from(LISTENERS)),
        prop::collection::vec(cluster.clone(), usize::from(ROUTES)),
        prop::collection::vec(variants, usize::from(CLUSTERS)),
        prop::collection::vec(0u8..3, usize::from(CLUSTERS)),
        prop::collection::btree_set(cluster, 0..3),
    )
        .prop_map(|(listeners, routes, clusters, endpoints, extra)| World {
            listeners,
            routes,
            clusters,
            endpoints,
            extra,
        })
}

fn events(
    variants: impl Strategy<Value = u8> + Clone + 'static,
    disconnects: u32,
) -> impl Strategy<Value = (World, Vec<Event>)> {
    let event = prop_oneof![
        2 => world(variants.clone()).prop_map(Event::Update),
        6 => Just(Event::Serve),
        6 => Just(Event::Receive),
        disconnects => Just(Event::Disconnect),
    ];
    (world(variants), prop::collection::vec(event, 0..60))
}

fn clusters_of(listener: &Listener, config: &Config) -> BTreeSet<String> {
    let mut clusters = BTreeSet::new();
    for chain in listener.chains.iter().chain(&listener.default_chain) {
        match &chain.terminal {
            Terminal::Tcp(proxy) => match &proxy.target {
                TcpTarget::Cluster(name) => drop(clusters.insert(name.to_string())),
                TcpTarget::Weighted(_) => unreachable!("not in these worlds"),
            },
            Terminal::Http(manager) => {
                let RouteSource::Named(name) = &manager.routes else { unreachable!("not in these worlds") };
                let routes = config.routes.get(name).unwrap_or_else(|| panic!("{} without {name}", listener.name));
                for route in routes.virtual_hosts.iter().flat_map(|host| &host.routes) {
                    let Action::Forward(forward) = &route.action else { unreachable!("not in these worlds") };
                    let RouteTarget::Cluster(name) = &forward.target else { unreachable!("not in these worlds") };
                    clusters.insert(name.to_string());
                }
            }
        }
    }
    clusters
}

/// Nothing that is served refers to something that is not.
fn check_references(config: &Config) {
    for listener in config.listeners.values() {
        for cluster in clusters_of(listener, config) {
            assert!(config.clusters.contains_key(cluster.as_str()), "{} before {cluster}", listener.name);
        }
    }
}

/// The client serves exactly what the world holds.
fn check_same(wire: &mut Wire, world: &World) {
    let status = wire.stream.status();
    assert!(status.synced(), "{status:?}");
    let config = wire.config();
    let listeners: Vec<String> = world.live_listeners().map(|(id, _)| format!("l{id}")).collect();
    assert_eq!(config.listeners.keys().map(|name| name.to_string()).collect::<Vec<_>>(), listeners);
    let routes: BTreeSet<String> = world.live_routes().into_iter().map(|id| format!("r{id}")).collect();
    assert_eq!(config.routes.keys().map(|name| name.to_string()).collect::<BTreeSet<_>>(), routes);
    let clusters: BTreeSet<String> = world.live_clusters().into_iter().map(cluster_name).collect();
    assert_eq!(config.clusters.keys().map(|name| name.to_string()).collect::<BTreeSet<_>>(), clusters);
    for id in world.live_clusters() {
        let cluster = &config.clusters[cluster_name(id).as_str()];
        let variant = world.clusters[usize::from(id)];
        assert_eq!(cluster.settings.connect_timeout.as_secs(), 1 + u64::from(variant));
        if let Discovery::Eds { .. } = cluster.settings.discovery {
            let address = cluster.endpoints.localities[0].endpoints[0].address.to_string();
            assert_eq!(address, format!("10.0.0.1:{}", 1000 + u16::from(world.endpoints[usize::from(id)])));
        }
    }
    for (id, target) in world.live_listeners() {
        let expected = match target {
            Target::Cluster(cluster) => cluster,
            Target::Routes(routes) => world.routes[usize::from(routes)],
        };
        let listener = &config.listeners[format!("l{id}").as_str()];
        assert_eq!(clusters_of(listener, &config), [cluster_name(expected)].into());
    }
    assert_eq!(wire.state.warming().count(), 0);
}

fn play(protocol: Protocol, first: World, events: Vec<Event>, references: bool) -> (Wire, World) {
    let mut wire = Wire::new(protocol, first.set(0));
    let mut last = first;
    for (version, event) in events.into_iter().enumerate() {
        match event {
            Event::Update(world) => {
                wire.update(world.set(version + 1));
                last = world;
            }
            Event::Serve => drop(wire.serve()),
            Event::Receive => drop(wire.receive()),
            Event::Disconnect => wire.reconnect(),
        }
        if references {
            check_references(&wire.config());
        }
    }
    (wire, last)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn delta_converges_and_nothing_is_used_before_it_is_there((first, events) in events(0u8..4, 1)) {
        let (mut wire, last) = play(Protocol::Delta, first, events, true);
        while wire.step() {
            check_references(&wire.config());
        }
        check_same(&mut wire, &last);
    }

    // A server that forgets its client cannot tell it what to keep: absence deletes at once after a reconnect.
    #[test]
    fn state_of_the_world_converges_and_nothing_is_used_before_it_is_there((first, events) in events(0u8..4, 0)) {
        let (mut wire, last) = play(Protocol::StateOfTheWorld, first, events, true);
        while wire.step() {
            check_references(&wire.config());
        }
        check_same(&mut wire, &last);
    }

    #[test]
    fn state_of_the_world_converges_after_disconnects((first, events) in events(0u8..4, 1)) {
        let (mut wire, last) = play(Protocol::StateOfTheWorld, first, events, false);
        wire.settle();
        check_same(&mut wire, &last);
    }

    #[test]
    fn what_is_refused_holds_back_nothing_else(
        (first, events) in events(prop_oneof![3 => 0u8..4, 1 => Just(BAD)], 1),
        delta in any::<bool>(),
    ) {
        let protocol = if delta { Protocol::Delta } else { Protocol::StateOfTheWorld };
        let (mut wire, last) = play(protocol, first, events, false);
        wire.settle();
        // Every good cluster is there as it shall be, whatever stands beside it.
        let config = wire.config();
        for id in last.live_clusters() {
            let variant = last.clusters[usize::from(id)];
            let name = cluster_name(id);
            if variant == BAD {
                let status = wire.stream.status();
                let refused = &status.types[&ResourceType::Cluster].refused;
                prop_assert!(refused[name.as_str()].message.contains("connect_timeout: must be above 0"));
            } else {
                prop_assert_eq!(config.clusters[name.as_str()].settings.connect_timeout.as_secs(), 1 + u64::from(variant));
            }
        }
        for (id, _) in last.live_listeners() {
            let name = format!("l{id}");
            prop_assert!(config.listeners.contains_key(name.as_str()));
        }
        // When it is mended, all is well.
        let mended = World { clusters: vec![3; usize::from(CLUSTERS)], ..last };
        wire.update(mended.set(1000));
        wire.settle();
        check_same(&mut wire, &mended);
    }
}

#[test]
fn one_change_costs_one_response() {
    let world = World {
        listeners: vec![Some(Target::Routes(0)), None, None],
        routes: vec![0, 0, 0],
        clusters: vec![0; 5],
        endpoints: vec![0; 5],
        extra: BTreeSet::from([2, 4]),
    };
    let mut wire = Wire::new(Protocol::Delta, world.set(0));
    wire.settle();
    let before = wire.config();

    let moved = World { endpoints: vec![1; 5], ..world.clone() };
    wire.update(moved.set(1));
    assert_eq!(wire.settle_counting(), [0, 0, 0, 0], "the update itself sends it");
    let after = wire.config();
    let kept = |name: &str| std::sync::Arc::ptr_eq(&before.clusters[name].settings, &after.clusters[name].settings);
    assert!(kept(&world::cluster_name(0)));
    assert!(std::sync::Arc::ptr_eq(&before.listeners, &after.listeners));
    assert!(std::sync::Arc::ptr_eq(&before.routes, &after.routes));

    // Coming back with everything, a client is sent nothing.
    wire.reconnect();
    assert_eq!(wire.settle_counting(), [0, 0, 0, 0]);
    wire.update(World { clusters: vec![1, 0, 0, 0, 0], ..moved }.set(2));
    assert_eq!(wire.sent[&ResourceType::Cluster], 1);
    assert_eq!(wire.sent[&ResourceType::Endpoint], 1, "a changed cluster warms, so its endpoints are told again");
}
