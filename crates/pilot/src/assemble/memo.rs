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

/// Endpoints that may be kept though nobody has them.
const SPARE_ENDPOINTS: usize = 256;

/// The input of a generator, which names its result and makes it.
pub trait Input: Eq + Hash + Clone {
    /// The resource's name.
    fn resource_name(&self) -> String;
    /// Runs the generator.
    fn generate(&self) -> Resource;
    /// Where results of this generator are kept.
    fn kept(memo: &mut Memo) -> &mut Kept<Self>;
}

/// Results of one generator and the age at which each was last asked for.
pub type Kept<I> = HashMap<I, (Resource, u64)>;

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
    /// How many endpoints were kept when those that nobody has were forgotten last.
    endpoints_used: usize,
    outbound_listeners: Kept<OutboundListener>,
    virtual_outbound: Kept<VirtualOutbound>,
    virtual_inbound: Kept<VirtualInbound>,
    bound_inbound: Kept<BoundInbound>,
    gateway_listeners: Kept<GatewayListener>,
    sidecar_routes: Kept<SidecarRoutes>,
    gateway_routes: Kept<GatewayRoutes>,
}

impl Memo {
    /// The resource made from `input`, now or before.
    pub fn get<I: Input>(&mut self, input: I) -> Resource {
        let age = self.age;
        if let Some((resource, used)) = I::kept(self).get_mut(&input) {
            *used = age;
            let resource = resource.clone();
            self.found += 1;
            return resource;
        }
        let resource = input.generate();
        self.made += 1;
        I::kept(self).insert(input, (resource.clone(), age));
        resource
    }

    /// Forgets endpoints that no set of resources has, now and then: they change far more often than anything else, so
    /// that full builds come too seldom to keep them few. All in all it costs what the changes between did.
    pub fn forget_unused_endpoints(&mut self) {
        if self.endpoints.len() > 2 * self.endpoints_used + SPARE_ENDPOINTS {
            // Every copy of a resource shares its name.
            self.endpoints.retain(|_, (resource, _)| Arc::strong_count(resource.name()) > 1);
            self.endpoints_used = self.endpoints.len();
        }
    }

    #[cfg(test)]
    pub fn kept_endpoints(&self) -> usize {
        self.endpoints.len()
    }

    /// Begins a full build.
    pub fn grow_older(&mut self) {
        self.age += 1;
        let oldest = self.age.saturating_sub(2);
        fn forget<I>(kept: &mut Kept<I>, oldest: u64) {
            kept.retain(|_, (_, used)| *used >= oldest);
        }
        let Memo {
            age: _,
            made: _,
            found: _,
            outbound_clusters,
            inbound_clusters,
            fixed_clusters,
            endpoints,
            endpoints_used: _,
            outbound_listeners,
            virtual_outbound,
            virtual_inbound,
            bound_inbound,
            gateway_listeners,
            sidecar_routes,
            gateway_routes,
        } = self;
        forget(outbound_clusters, oldest);
        forget(inbound_clusters, oldest);
        forget(fixed_clusters, oldest);
        forget(endpoints, oldest);
        forget(outbound_listeners, oldest);
        forget(virtual_outbound, oldest);
        forget(virtual_inbound, oldest);
        forget(bound_inbound, oldest);
        forget(gateway_listeners, oldest);
        forget(sidecar_routes, oldest);
        forget(gateway_routes, oldest);
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
