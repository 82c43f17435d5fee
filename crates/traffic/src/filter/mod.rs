//! HTTP filters: what stands between the choice of a request's route and the router that carries it out.
//!
//! [`Walk`] goes through a connection manager's filters in their order and says what each wants done, one [`Step`] at a
//! time, with the route already known, as Envoy's filters see it. What takes time (a delay, the question to an
//! authorization service) is a step that the caller waits out before it asks for the next one, so this module knows no
//! clock. A filter without anything to do costs a look at four empty lists.

pub mod alpn;
pub mod cors;
pub mod fault;
pub mod grpc_web;

use std::sync::Arc;
use std::time::Duration;

use crate::Dice;
use crate::ext_authz::{CheckSettings, ExtAuthz, Question};
use crate::jwt::{JwtAuthn, PerRoute};
use crate::message::RequestHead;
use crate::metadata::Metadata;
use crate::rbac::{Peer, Rbac, Verdict};
use crate::reply::LocalReply;
use crate::route::{RouteConfig, Routed};

use self::alpn::Alpn;
use self::cors::CorsPolicy;
use self::fault::Fault;

/// A filter of a connection manager.
#[derive(Debug, Clone)]
pub struct Filter {
    /// Its name, by which routes speak of it.
    pub name: Arc<str>,
    /// It acts only on routes that have settings for it.
    pub disabled: bool,
    /// What it does.
    pub kind: FilterKind,
}

/// The filters that are carried out.
#[derive(Debug, Clone)]
pub enum FilterKind {
    /// Delays and aborts, where no route says otherwise.
    Fault(Arc<Fault>),
    /// Answers to cross-origin requests; by the policies of routes alone.
    Cors,
    /// Which tokens requests bring, where no route says otherwise.
    Jwt(Arc<JwtAuthn>),
    /// Who may do what, where no route says otherwise. Without rules: by those of routes alone.
    Rbac(Arc<Rbac>),
    /// Asks an authorization service.
    ExtAuthz(Arc<ExtAuthz>),
    /// gRPC for clients that cannot speak it.
    GrpcWeb,
    /// What connections to hosts offer by ALPN.
    Alpn(Arc<Alpn>),
}

/// What a route, virtual host, weighted cluster or route configuration says of a filter.
#[derive(Debug, Clone)]
pub enum Override {
    /// It does not act.
    Off,
    /// It acts, also if it is disabled elsewhere.
    On,
    /// It acts by these settings.
    Fault(Arc<Fault>),
    /// It acts by this policy.
    Cors(Arc<CorsPolicy>),
    /// It acts by these rules.
    Rbac(Arc<Rbac>),
    /// It requires this of tokens.
    Jwt(PerRoute),
    /// It asks like this.
    ExtAuthz(Arc<CheckSettings>),
}

impl Override {
    fn checks(&self) -> Option<&CheckSettings> {
        match self {
            Self::ExtAuthz(settings) => Some(settings),
            _ => None,
        }
    }
}

/// Settings of filters at one level (Envoy's `typed_per_filter_config`), by the filter's name.
#[derive(Debug, Clone, Default)]
pub struct Overrides(Box<[(Arc<str>, Override)]>);

impl FromIterator<(Arc<str>, Override)> for Overrides {
    fn from_iter<I: IntoIterator<Item = (Arc<str>, Override)>>(all: I) -> Self {
        Self(all.into_iter().collect())
    }
}

impl Overrides {
    /// Those that are rules about access.
    pub fn rules(&self) -> impl Iterator<Item = &Rbac> {
        self.0.iter().filter_map(|(_, said)| match said {
            Override::Rbac(rules) => Some(&**rules),
            _ => None,
        })
    }

    fn get(&self, name: &str) -> Option<&Override> {
        self.0.iter().find(|(n, _)| **n == *name).map(|(_, o)| o)
    }
}

/// What a request is that filters are walked for.
#[derive(Clone, Copy)]
pub struct Asked<'a> {
    /// The request.
    pub request: &'a RequestHead,
    /// The connection it came on.
    pub peer: Peer<'a>,
    /// The route configuration.
    pub routes: &'a RouteConfig,
    /// Its route, if it has one.
    pub routed: Option<Routed<'a>>,
    /// Tells how many requests of this connection manager suffer a fault at this moment.
    pub active_faults: &'a dyn Fn() -> u64,
}

impl Asked<'_> {
    /// What is said of a filter, most specific first.
    fn overrides<'s>(&'s self, name: &'s str) -> impl Iterator<Item = &'s Override> + Clone {
        let levels = [
            self.routed.and_then(|r| r.weighted).map(|w| &w.filters),
            self.routed.map(|r| &r.route.filters),
            self.routed.map(|r| &r.virtual_host.filters),
            self.routed.map(|_| &self.routes.filters),
        ];
        levels.into_iter().flatten().filter_map(move |level| level.get(name))
    }
}

/// What is to be done next.
#[derive(Debug)]
pub enum Step {
    /// All filters are through: the router takes the request.
    Route,
    /// Wait (a fault), then go on.
    Delay(Duration),
    /// Answer with this (a fault), and stop.
    Abort(LocalReply),
    /// A fault was spared because too many are active; go on.
    FaultsOverflow,
    /// What CORS says of the request; go on unless it is answered.
    Cors(cors::Decision),
    /// Have the request's tokens checked, by what its route says if that says anything, and go on unless it is answered.
    Jwt(Arc<JwtAuthn>, Option<PerRoute>),
    /// What rules say of the request; go on unless it is denied.
    Rbac {
        /// The filter, whose statistics count it.
        filter: Arc<Rbac>,
        /// Whose rules they are: the filter's, or its route's.
        rules: Arc<Rbac>,
        /// What they say.
        verdict: Verdict,
    },
    /// Ask an authorization service, and go on if it allows that.
    Ask(Question),
    /// The service is not asked about this request; go on unless there is an answer for that.
    NotAsked(Arc<ExtAuthz>, Option<LocalReply>),
    /// The request is to be bridged ([`grpc_web::Bridge::begin`]); go on.
    GrpcWeb,
    /// The request goes over a connection that offers this by ALPN; go on.
    Alpn(Arc<Alpn>),
}

/// The way of one request through the filters.
#[derive(Debug)]
pub struct Walk<'a> {
    filters: &'a [Filter],
    // The first of them was asked already …
    again: bool,
    // … and is, if it injects faults, as far as this.
    fault: fault::Progress,
}

impl<'a> Walk<'a> {
    /// From the first filter on.
    pub fn new(filters: &'a [Filter]) -> Self {
        Self { filters, again: false, fault: fault::Progress::default() }
    }

    /// What is to be done next. `metadata` is what filters find out of the request.
    pub fn next(&mut self, asked: &Asked<'_>, metadata: &mut Metadata, dice: &mut dyn Dice) -> Step {
        while let Some((filter, rest)) = self.filters.split_first() {
            if let Some(step) = self.act(filter, asked, metadata, dice) {
                return step;
            }
            *self = Self::new(rest);
        }
        Step::Route
    }

    /// `None`: this filter is through.
    fn act(
        &mut self,
        filter: &Filter,
        asked: &Asked<'_>,
        metadata: &mut Metadata,
        dice: &mut dyn Dice,
    ) -> Option<Step> {
        let again = std::mem::replace(&mut self.again, true);
        let most_specific = asked.overrides(&filter.name).next();
        match most_specific {
            None if filter.disabled => return None,
            Some(Override::Off) => return None,
            _ => {}
        }
        match &filter.kind {
            FilterKind::Fault(settings) => {
                let settings = match most_specific {
                    Some(Override::Fault(settings)) => settings,
                    _ => settings,
                };
                self.fault.step(settings, asked, dice)
            }
            FilterKind::Cors
            | FilterKind::GrpcWeb
            | FilterKind::Rbac(_)
            | FilterKind::Jwt(_)
            | FilterKind::ExtAuthz(_)
            | FilterKind::Alpn(_)
                if again =>
            {
                None
            }
            FilterKind::Alpn(alpn) => Some(Step::Alpn(alpn.clone())),
            FilterKind::Jwt(jwt) => {
                let of_route = match most_specific {
                    Some(Override::Jwt(of_route)) => Some(of_route.clone()),
                    _ => None,
                };
                Some(Step::Jwt(jwt.clone(), of_route))
            }
            FilterKind::Rbac(filter) => {
                let rules = match most_specific {
                    Some(Override::Rbac(rules)) => rules,
                    _ => filter,
                };
                rules.has_rules().then(|| {
                    let verdict = rules.decide_in_place_of(filter, asked.peer, Some(asked.request), metadata);
                    Step::Rbac { filter: filter.clone(), rules: rules.clone(), verdict }
                })
            }
            FilterKind::ExtAuthz(ext_authz) => {
                // As in Envoy, what has no route is not asked about.
                asked.routed?;
                if !ext_authz.asks(metadata, dice) {
                    return Some(Step::NotAsked(ext_authz.clone(), ext_authz.unasked()));
                }
                let most_specific = most_specific.and_then(Override::checks);
                let all = asked.overrides(&filter.name).filter_map(Override::checks);
                Some(Step::Ask(Question::new(ext_authz, most_specific, all)))
            }
            FilterKind::GrpcWeb => grpc_web::is_asked(asked.request).then_some(Step::GrpcWeb),
            FilterKind::Cors => {
                let policies = asked.overrides(&filter.name).filter_map(|o| match o {
                    Override::Cors(policy) => Some(&**policy),
                    _ => None,
                });
                cors::decide(policies, asked, dice).map(Step::Cors)
            }
        }
    }
}

#[cfg(test)]
mod tests;
