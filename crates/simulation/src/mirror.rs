//! Copies of requests: sent at once, their answers thrown away, and never waited for.

use std::rc::Rc;

use lateen_traffic::mirror::{self, Mirror};

use crate::call::call;
use crate::exchange::{Exchange, Plan};
use crate::message::Request;
use crate::trace::Decision;

impl Exchange<'_> {
    /// Sends the copies that the route asks for.
    pub(crate) fn mirror(&mut self, plan: &Plan<'_>) {
        let policies = mirror::policies(plan.way.routes, plan.way.routed.virtual_host, plan.way.forward);
        let chosen: Vec<&Mirror> = mirror::chosen(policies, &mut self.world.dice()).collect();
        for one in chosen {
            let Some(name) = one.cluster(&self.request) else { continue };
            // A mirror that is not there is nobody's concern.
            let Some(upstream) = self.proxy.upstream(self.world, name) else { continue };
            let timeout = plan.way.timeout.filter(|timeout| !timeout.is_zero());
            let head = one.copy(&self.request, &self.record, self.proxy.pod.address(), timeout);
            let original = self.meant(&upstream);
            self.trace.tell(self.world, || Decision::Mirror { cluster: name.to_owned() });
            let (world, trace) = (Rc::clone(self.world), self.trace.deeper());
            let request = Request { head, body: self.body.clone() };
            self.world.clock.spawn(async move {
                call(&world, &upstream, original, request, timeout, &trace).await;
            });
        }
    }
}
