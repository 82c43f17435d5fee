//! Questions to an authorization service (Envoy's filters `envoy.filters.http.ext_authz` and
//! `envoy.filters.network.ext_authz`): when one is asked, what it says, and what the answer means. The asking itself, and
//! with it all that takes time, is the caller's.

mod answer;
mod ask;

use std::sync::Arc;
use std::time::Duration;

use crate::Dice;
use crate::edit::HeaderEdits;
use crate::filter::fault::Percentage;
use crate::matcher::StringMatcher;
use crate::metadata::{Metadata, MetadataMatcher};
use crate::record::Flags;
use crate::reply::LocalReply;

pub use answer::{Allowed, Answer, Denied, Edit, Failed, How, NotSound, Reply, edit_own, edit_response};
pub use ask::{AskedRequest, Attributes, Gathered, as_text};

/// The filter.
#[derive(Debug, Clone)]
pub struct ExtAuthz {
    /// Whom it asks.
    pub service: Arc<Service>,
    /// For which requests.
    pub when: When,
    /// How much of a request's body is told, if any.
    pub body: Option<BodySettings>,
    /// What else is told.
    pub told: Told,
    /// What becomes of requests when there is no answer.
    pub failure: OnFailure,
    /// What is taken of answers.
    pub taken: Taken,
    /// What its statistics are counted under: empty, or a name and a dot.
    pub stat_prefix: Arc<str>,
    /// A refusal counts as an answer of the cluster that the request would have gone to.
    pub counts_refusals: bool,
}

/// The filter of connections.
#[derive(Debug, Clone)]
pub struct ConnectionAuthz {
    /// Whom it asks.
    pub service: GrpcService,
    /// Only about those of which earlier filters found out this.
    pub metadata: Option<MetadataMatcher>,
    /// They may go on when there is no answer.
    pub failure_allows: bool,
    /// What is told.
    pub told: Told,
    /// Where the filter's statistics are, for example `ext_authz.waf`.
    pub stat_scope: Arc<str>,
}

impl ConnectionAuthz {
    /// Why a connection may not go on, by the service's answer (none: it failed), if it may not.
    pub fn denial(&self, answer: Option<&Answer>) -> Option<&'static str> {
        match answer {
            Some(Answer::Allowed(_)) => None,
            Some(Answer::Denied(_)) => Some(DENIED),
            Some(Answer::Failed(_)) | None => (!self.failure_allows).then_some(ERROR),
        }
    }
}

/// For which requests a service is asked.
#[derive(Debug, Clone)]
pub struct When {
    /// For this share of them.
    pub share: Percentage,
    /// Only for those of which earlier filters found out this.
    pub metadata: Option<MetadataMatcher>,
    /// The others are refused.
    pub refuses_others: bool,
}

/// An authorization service.
#[derive(Debug, Clone)]
pub enum Service {
    /// Asked with the request itself, without its body.
    Http(HttpService),
    /// Asked by `envoy.service.auth.v3.Authorization/Check`.
    Grpc(GrpcService),
}

impl Service {
    /// The cluster where it is.
    pub fn cluster(&self) -> &Arc<str> {
        match self {
            Self::Http(http) => &http.cluster,
            Self::Grpc(grpc) => &grpc.cluster,
        }
    }

    /// How long an answer may take; `None`: as long as it likes.
    pub fn timeout(&self) -> Option<Duration> {
        match self {
            Self::Http(http) => http.timeout,
            Self::Grpc(grpc) => grpc.timeout,
        }
    }
}

/// A service that is asked over HTTP.
#[derive(Debug, Clone)]
pub struct HttpService {
    /// The cluster where it is.
    pub cluster: Arc<str>,
    /// How long an answer may take.
    pub timeout: Option<Duration>,
    /// The path it is asked for.
    pub path: AskedPath,
    /// Fields that are set beside those of the request.
    pub adds: HeaderEdits,
    /// Fields of a good answer that are set in the request.
    pub upstream: Names,
    /// Fields of a good answer that are added to the request.
    pub upstream_added: Names,
    /// Fields of a refusal that the client gets; `None`: all.
    pub client: Option<Names>,
    /// Fields of a good answer that the client gets.
    pub client_on_success: Names,
    /// Fields of an answer that later filters are told.
    pub metadata: Names,
}

/// The path a service is asked for.
#[derive(Debug, Clone)]
pub enum AskedPath {
    /// The request's, after this.
    Prefixed(Arc<str>),
    /// This, whatever the request's is.
    Instead(Arc<str>),
}

/// A service that is asked over gRPC.
#[derive(Debug, Clone)]
pub struct GrpcService {
    /// The cluster where it is.
    pub cluster: Arc<str>,
    /// The authority it is asked as.
    pub authority: Arc<str>,
    /// How long an answer may take.
    pub timeout: Option<Duration>,
    /// Fields that go with each question.
    pub adds: HeaderEdits,
    /// Bytes of an answer; `None`: as many as of any.
    pub most: Option<usize>,
    /// Questions do not say that they come from within the mesh, and from where.
    pub silent: bool,
}

/// How much of a request's body a service is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BodySettings {
    /// So many bytes.
    pub most: usize,
    /// Of longer bodies the beginning is told; else requests with such are refused.
    pub part: bool,
    /// As bytes; else as text, with `!` where it is none.
    pub bytes: bool,
}

/// What a service is told of a request besides its body.
#[derive(Debug, Clone, Default)]
pub struct Told {
    /// These header fields; `None`: all.
    pub only: Option<Names>,
    /// Not these.
    pub but: Names,
    /// Fields as they are: those that come again apart, and what is no text as it is.
    pub raw: bool,
    /// The client's certificate.
    pub certificate: bool,
    /// The server's name that the client asked for.
    pub server_name: bool,
    /// What these filters found out.
    pub metadata: Vec<Arc<str>>,
}

/// What becomes of requests when there is no answer.
#[derive(Debug, Clone, Copy)]
pub struct OnFailure {
    /// They may go on.
    pub allows: bool,
    /// Those that do tell so.
    pub tells: bool,
    /// The status of the answer to those that may not.
    pub status: u16,
}

/// What is taken of answers.
#[derive(Debug, Clone, Copy)]
pub struct Taken {
    /// Answers that do not hold to HTTP's rules make the request fail, also where they are harmless.
    pub strictly: bool,
    /// What is said for later filters.
    pub metadata: bool,
    /// The route is chosen anew for requests that were changed.
    pub reroutes: bool,
    /// So much of the body of a refusal; `None`: all of it.
    pub most_body: Option<usize>,
}

/// Names of header fields.
#[derive(Debug, Clone, Default)]
pub struct Names(pub Box<[StringMatcher]>);

impl Names {
    /// Whether a name is one of them.
    pub fn contain(&self, name: &str) -> bool {
        self.0.iter().any(|one| one.matches(name))
    }
}

/// What a route says of questions.
#[derive(Debug, Clone, Default)]
pub struct CheckSettings {
    /// What the service is told besides.
    pub context: Vec<(Arc<str>, Arc<str>)>,
    /// How much of the body, if that is not as the filter has it.
    pub body: Option<BodySettings>,
    /// Nothing of the body.
    pub no_body: bool,
    /// Another service.
    pub service: Option<Arc<Service>>,
}

/// A question that is to be asked.
#[derive(Debug, Clone)]
pub struct Question {
    /// The filter that asks.
    pub filter: Arc<ExtAuthz>,
    /// Whom.
    pub service: Arc<Service>,
    /// How much of the body it is told.
    pub body: Option<BodySettings>,
    /// What it is told besides, by the most specific of the route's settings.
    pub context: Vec<(Arc<str>, Arc<str>)>,
}

impl Question {
    /// What `filter` asks. `settings` are the route's and those around it, most specific first; those of the most
    /// specific level decide, but for the context, which is gathered.
    pub fn new<'a>(
        filter: &Arc<ExtAuthz>,
        most_specific: Option<&CheckSettings>,
        all: impl Iterator<Item = &'a CheckSettings>,
    ) -> Self {
        let mut context: Vec<(Arc<str>, Arc<str>)> = Vec::new();
        for (key, value) in all.flat_map(|settings| &settings.context) {
            if !context.iter().any(|(known, _)| known == key) {
                context.push((key.clone(), value.clone()));
            }
        }
        let body = match most_specific {
            Some(settings) if settings.no_body => None,
            settings => settings.and_then(|settings| settings.body).or(filter.body),
        };
        let service = most_specific.and_then(|settings| settings.service.as_ref()).unwrap_or(&filter.service);
        Self { filter: filter.clone(), service: service.clone(), body, context }
    }
}

impl ExtAuthz {
    /// Whether the service is asked about a request of which so much is known.
    pub fn asks(&self, metadata: &Metadata, dice: &mut dyn Dice) -> bool {
        self.when.share.hits(dice) && self.when.metadata.as_ref().is_none_or(|wanted| wanted.matches(metadata))
    }

    /// The answer to a request about which nobody is asked, if it gets one for that.
    pub fn unasked(&self) -> Option<LocalReply> {
        self.when.refuses_others.then(|| self.failed())
    }

    /// The answer to a request that may not go on because the service did not answer.
    pub fn failed(&self) -> LocalReply {
        LocalReply::fixed(self.failure.status, "", Flags::UNAUTHORIZED, ERROR)
    }
}

/// The answer to a body that is longer than the service is told.
pub const TOO_LARGE: LocalReply = LocalReply::fixed(413, "Payload Too Large", Flags::NONE, "request_payload_too_large");

/// The answer to a request when the service's own cannot be carried out.
pub const INVALID: LocalReply = LocalReply::fixed(500, "", Flags::UNAUTHORIZED, "ext_authz_invalid");

/// Details of refusals.
pub const DENIED: &str = "ext_authz_denied";

/// Details of requests that fail because the service does.
pub const ERROR: &str = "ext_authz_error";

/// Says that a request goes on although the service failed.
pub const FAILURE_ALLOWED: &str = "x-envoy-auth-failure-mode-allowed";

/// The name under which later filters are told.
pub const FILTER: &str = "envoy.filters.http.ext_authz";

/// The same of the filter of connections.
pub const CONNECTION_FILTER: &str = "envoy.filters.network.ext_authz";

#[cfg(test)]
mod tests;
