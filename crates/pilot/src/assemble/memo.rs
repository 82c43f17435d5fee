//! Resources kept by what they were made from.

use crate::generate::cluster::{FixedCluster, InboundCluster, OutboundCluster};
use crate::generate::endpoint::ClusterEndpoints;
use crate::generate::gateway_routes::GatewayRoutes;
use crate::generate::inbound::{BoundInbound, VirtualInbound};
use crate::generate::listener::{GatewayListener, OutboundListener, VirtualOutbound};
use crate::generate::sidecar_routes::SidecarRoutes;
use crate::names;
use lateen_xds::Resource;
use std::collections::HashMap;
use std::hash::Hash;
use std::sync::Arc;

/// Results of one generator that may be kept though nobody has them, beside a quarter of those that somebody has.
const SPARE: usize = 16;

/// The input of a generator, which names its result and makes it.
pub trait Input: Eq + Hash + Clone {
    /// The resource's name.
    fn resource_name(&self) -> String;
    /// Runs the generator.
    fn generate(&self) -> Resource;
    /// Where results of this generator are kept.
    fn kept(memo: &mut Memo) -> &mut Kept<Self>;
}

/// Results of one generator, and the age at which each was last asked for.
#[derive(Debug)]
pub struct Kept<I> {
    results: HashMap<I, (Resource, u64)>,
    /// How many there were when those that nobody has were forgotten last.
    used: usize,
}

impl<I> Default for Kept<I> {
    fn default() -> Kept<I> {
        Kept { results: HashMap::new(), used: 0 }
    }
}

impl<I> Kept<I> {
    fn forget_unused(&mut self) {
        if self.results.len() > self.used + self.used / 4 + SPARE {
            // Every copy of a resource shares its name.
            self.results.retain(|_, (resource, _)| Arc::strong_count(resource.name()) > 1);
            self.used = self.results.len();
        }
    }

    fn forget_older(&mut self, oldest: u64) {
        self.results.retain(|_, (_, used)| *used >= oldest);
    }
}

/// Results of all generators. What two full builds in a row did not ask for is forgotten.
#[derive(Debug, Default)]
pub struct Memo {
    age: u64,
    /// Results made and results found, since the start.
    pub made: u64,
    pub found: u64,
    outbound_clusters: Kept<OutboundCluster>,
    inbound_clusters: Kept<InboundCluster>,
    fixed_clusters: Kept<FixedCluster>,
    endpoints: Kept<ClusterEndpoints>,
    outbound_listeners: Kept<OutboundListener>,
    virtual_outbound: Kept<VirtualOutbound>,
    virtual_inbound: Kept<VirtualInbound>,
    bound_inbound: Kept<BoundInbound>,
    gateway_listeners: Kept<GatewayListener>,
    sidecar_routes: Kept<SidecarRoutes>,
    gateway_routes: Kept<GatewayRoutes>,
}

/// Does the same with all that is kept.
macro_rules! of_all {
    ($memo:expr, $kept:ident => $what:expr) => {{
        let Memo {
            age: _,
            made: _,
            found: _,
            outbound_clusters,
            inbound_clusters,
            fixed_clusters,
            endpoints,
            outbound_listeners,
            virtual_outbound,
            virtual_inbound,
            bound_inbound,
            gateway_listeners,
            sidecar_routes,
            gateway_routes,
        } = $memo;
        of_all!(@each $kept => $what; outbound_clusters, inbound_clusters, fixed_clusters, endpoints, outbound_listeners,
            virtual_outbound, virtual_inbound, bound_inbound, gateway_listeners, sidecar_routes, gateway_routes);
    }};
    (@each $kept:ident => $what:expr; $($each:ident),*) => {
        $({
            let $kept = $each;
            $what;
        })*
    };
}

impl Memo {
    /// The resource made from `input`, now or before.
    pub fn get<I: Input>(&mut self, input: I) -> Resource {
        let age = self.age;
        if let Some((resource, used)) = I::kept(self).results.get_mut(&input) {
            *used = age;
            let resource = resource.clone();
            self.found += 1;
            return resource;
        }
        let resource = input.generate();
        self.made += 1;
        I::kept(self).results.insert(input, (resource.clone(), age));
        resource
    }

    /// Forgets what no set of resources has, now and then: between full builds endpoints and rules change so often that
    /// those come too seldom to keep them few. All in all it costs what the changes between did.
    pub fn forget_unused(&mut self) {
        of_all!(self, kept => kept.forget_unused());
    }

    #[cfg(test)]
    pub fn kept(&self) -> usize {
        let mut all = 0;
        of_all!(self, kept => all += kept.results.len());
        all
    }

    /// Begins a full build.
    pub fn grow_older(&mut self) {
        self.age += 1;
        let oldest = self.age.saturating_sub(2);
        of_all!(self, kept => kept.forget_older(oldest));
    }
}

macro_rules! inputs {
    ($($input:ty, $kept:ident, $name:expr;)*) => {
        $(impl Input for $input {
            fn resource_name(&self) -> String {
                let name: fn(&$input) -> String = $name;
                name(self)
            }

            fn generate(&self) -> Resource {
                Resource::new(self.resource_name(), &self.build())
            }

            fn kept(memo: &mut Memo) -> &mut Kept<Self> {
                &mut memo.$kept
            }
        })*
    };
}

inputs! {
    OutboundCluster, outbound_clusters, |input| input.name.clone();
    InboundCluster, inbound_clusters, |input| input.name();
    FixedCluster, fixed_clusters, |input| input.name().to_owned();
    ClusterEndpoints, endpoints, |input| input.cluster.clone();
    OutboundListener, outbound_listeners, |input| input.name();
    VirtualOutbound, virtual_outbound, |_| names::VIRTUAL_OUTBOUND.to_owned();
    VirtualInbound, virtual_inbound, |_| names::VIRTUAL_INBOUND.to_owned();
    BoundInbound, bound_inbound, |input| input.name();
    GatewayListener, gateway_listeners, |input| input.name();
    SidecarRoutes, sidecar_routes, |input| input.name.clone();
    GatewayRoutes, gateway_routes, |input| input.name.clone();
}
