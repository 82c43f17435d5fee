//! Who is behind the proxies: what a pod's own program does with what reaches it.

use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use futures::future::LocalBoxFuture;
use lateen_traffic::{Dice, ResponseHead};

use crate::client::Target;
use crate::message::{Answer, Broken, Request};
use crate::tls::Greeting;
use crate::trace::Trace;
use crate::world::{Pod, World};
use crate::{Heard, Said};

/// What a program takes at a port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Spoken {
    /// Plain text.
    Plain,
    /// TLS.
    Tls,
    /// Nobody knows: whatever comes.
    Either,
}

/// A program in a pod.
pub trait Application {
    /// Whether it takes connections at a port.
    fn listens(&self, port: u16) -> bool;

    /// What it takes there.
    fn spoken(&self, _port: u16) -> Spoken {
        Spoken::Plain
    }

    /// Its answer to a request, in which who answered need not be filled in, or how it ends without one.
    fn answer<'a>(&'a self, place: Place<'a>, request: Request) -> LocalBoxFuture<'a, Result<Answer, Broken>>;

    /// What it sends back for bytes that are no HTTP, as a whole.
    fn reply(&self, place: Place<'_>, bytes: &Bytes) -> Bytes;
}

/// A program nothing is known of: it listens everywhere, answers 200 without a body, and sends bytes back as they come.
#[derive(Debug, Clone, Copy, Default)]
pub struct Unknown;

impl Application for Unknown {
    fn listens(&self, _: u16) -> bool {
        true
    }

    fn spoken(&self, _: u16) -> Spoken {
        Spoken::Either
    }

    fn answer<'a>(&'a self, _: Place<'a>, _: Request) -> LocalBoxFuture<'a, Result<Answer, Broken>> {
        Box::pin(async { Ok(Answer { head: ResponseHead::new(200), ..Answer::default() }) })
    }

    fn reply(&self, _: Place<'_>, bytes: &Bytes) -> Bytes {
        bytes.clone()
    }
}

/// Where a program is, and what it can do there.
#[derive(Clone, Copy)]
pub struct Place<'a> {
    pub(crate) world: &'a Rc<World>,
    /// None outside of the cluster.
    pub(crate) pod: Option<&'a Rc<Pod>>,
    /// The address that was connected to.
    pub to: SocketAddr,
    pub(crate) trace: &'a Trace,
    /// What the client began TLS with, if it did.
    pub(crate) greeting: Option<&'a Greeting>,
}

impl<'a> Place<'a> {
    /// The server that a TLS client asked for; empty if it asked for none, nothing if it does not speak TLS.
    pub fn server_name(&self) -> Option<&'a str> {
        self.greeting.map(|greeting| greeting.server_name.as_deref().unwrap_or_default())
    }

    /// The pod's name; empty outside of the cluster.
    pub fn pod(&self) -> &'a str {
        self.pod.map_or("", |pod| &pod.name)
    }

    /// Lets time pass.
    pub async fn wait(&self, length: Duration) {
        self.world.clock.sleep(length).await;
    }

    /// A number from 0 to below 1.
    pub fn chance(&self) -> f64 {
        (self.world.dice().roll() >> 11) as f64 / (1u64 << 53) as f64
    }

    /// Asks somebody else, on a connection of its own. Nobody outside of the cluster can.
    pub fn call(&self, target: &'a Target, request: Request) -> LocalBoxFuture<'a, Result<Answer, String>> {
        let Place { world, pod, trace, .. } = *self;
        Box::pin(async move {
            let Some(pod) = pod else { return Err("outside of the cluster".to_owned()) };
            let peer = world.next_source(pod.address());
            match world.from_pod(pod, target, peer, Said::Http(request), trace).await {
                Heard::Http(answer) => Ok(answer),
                Heard::Bytes { .. } => Err("the answer is no HTTP".to_owned()),
                Heard::Broken { why, .. } => Err(why),
            }
        })
    }
}
