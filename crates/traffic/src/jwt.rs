//! JSON Web Tokens (RFC 7519): which a request brings, whether they are good, and what becomes of them (Envoy's filter
//! `envoy.filters.http.jwt_authn`).
//!
//! Knows no clock and fetches no keys. What a token is refused for is told in Envoy's words.

mod extract;
mod keys;
mod require;
mod token;
mod verified;

use std::sync::Arc;

use crate::matcher::StringMatcher;
use crate::message::RequestHead;
use crate::metadata::{Metadata, Value};
use crate::record::Flags;
use crate::reply::LocalReply;
use crate::route::RouteMatch;

pub use extract::Place;
pub use keys::{KeySet, KeySetError};
pub use require::Requirement;
pub use token::Token;

/// Whose tokens are good.
#[derive(Debug, Clone)]
pub struct Provider {
    /// Who issues them; empty for anybody.
    pub issuer: String,
    /// For whom: one of a token's audiences is one of these. Empty asks for none.
    pub audiences: Vec<String>,
    /// About whom.
    pub subjects: Option<StringMatcher>,
    /// The issuer's keys.
    pub keys: Arc<KeySet>,
    /// Where requests may have them.
    pub places: Vec<Place>,
    /// A token without an end is no good.
    pub require_expiration: bool,
    /// Seconds a token may be valid for, from its `iat` (else now) to its `exp`.
    pub max_lifetime: Option<u64>,
    /// Seconds by which clocks may differ.
    pub leeway: u64,
    /// The upstream gets the token too.
    pub forward: bool,
    /// Header in which the upstream gets the payload, base64url …
    pub payload_header: Option<Arc<str>>,
    /// … with `=` at its end.
    pub pad_payload: bool,
    /// Headers in which the upstream gets single claims: their names, and the paths to the claims.
    pub claim_headers: Vec<(Arc<str>, Vec<String>)>,
    /// Key under which later filters find the payload.
    pub payload_key: Option<Arc<str>>,
    /// Claims whose text becomes a list there, at its blanks.
    pub split_claims: Vec<String>,
    /// Key under which later filters find the header.
    pub header_key: Option<Arc<str>>,
    /// The route is chosen anew once a token is good.
    pub reroutes: bool,
}

/// The filter.
#[derive(Debug, Clone)]
pub struct JwtAuthn {
    /// By name.
    pub providers: Vec<(Arc<str>, Provider)>,
    /// What is required, of which requests; the first that matches counts.
    pub rules: Vec<(RouteMatch, Option<Requirement>)>,
    /// Requirements that routes name.
    pub named: Vec<(Arc<str>, Requirement)>,
    /// Preflights of CORS bring no token, and pass.
    pub bypass_preflight: bool,
    /// Refusals do not say why.
    pub silent: bool,
    /// The filter's name in metadata.
    pub filter: Arc<str>,
}

/// What a route says of the filter.
#[derive(Debug, Clone)]
pub enum PerRoute {
    /// No token is required.
    Nothing,
    /// What the filter has under this name.
    Named(Arc<str>),
}

/// Why a token is refused. The text is what the client is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs)]
pub enum Refusal {
    #[error("Jwt is missing")]
    Missing,
    #[error("Jwt not yet valid")]
    NotYetValid,
    #[error("Jwt is expired")]
    Expired,
    #[error("Jwt is not in the form of Header.Payload.Signature with two dots and 3 sections")]
    BadFormat,
    #[error("Jwt header is an invalid Base64url encoded")]
    HeaderBase64,
    #[error("Jwt header is an invalid JSON")]
    HeaderJson,
    #[error("Jwt header [alg] field is required and must be a string")]
    HeaderAlg,
    #[error("Jwt header [alg] is not supported")]
    UnknownAlg,
    #[error("Jwt header [kid] field is not a string")]
    HeaderKid,
    #[error("Jwt payload is an invalid Base64url encoded")]
    PayloadBase64,
    #[error("Jwt payload is an invalid JSON")]
    PayloadJson,
    #[error("Jwt payload [iss] field is not a string")]
    Iss,
    #[error("Jwt payload [sub] field is not a string")]
    Sub,
    #[error("Jwt payload [iat] field is not an integer")]
    Iat,
    #[error("Jwt payload [iat] field is not a positive 64 bit integer")]
    IatRange,
    #[error("Jwt payload [nbf] field is not an integer")]
    Nbf,
    #[error("Jwt payload [nbf] field is not a positive 64 bit integer")]
    NbfRange,
    #[error("Jwt payload [exp] field is not an integer")]
    Exp,
    #[error("Jwt payload [exp] field is not a positive 64 bit integer")]
    ExpRange,
    #[error("Jwt payload [jti] field is not a string")]
    Jti,
    #[error("Jwt payload [aud] field is not a string or string list")]
    Aud,
    #[error("Jwt signature is an invalid Base64url encoded")]
    SignatureBase64,
    #[error("Jwt issuer is not configured")]
    UnknownIssuer,
    #[error("Audiences in Jwt are not allowed")]
    Audience,
    #[error("Jwt verification fails")]
    VerificationFails,
    #[error("Jwks doesn't have key to match kid or alg from Jwt")]
    NoSuchKey,
    #[error("Jwt ED25519 signature is wrong length")]
    Ed25519Length,
}

/// What came of a request.
#[derive(Debug)]
pub enum Outcome {
    /// It goes on; `reroute`: its route is to be chosen anew.
    Passes {
        /// The route is to be chosen anew.
        reroute: bool,
    },
    /// It goes on, for it is a preflight.
    Preflight,
    /// It is answered: with this, and this `www-authenticate` if any.
    Refused(LocalReply, Option<String>),
}

/// A realm's path is cut at this length.
const LONGEST_PATH: usize = 256;

impl JwtAuthn {
    /// Checks the tokens of a request, tells later filters and the upstream of them, and takes them out. `now`: seconds since
    /// 1970. `metadata`: what later filters find.
    pub fn check(
        &self,
        request: &mut RequestHead,
        route: Option<&PerRoute>,
        now: u64,
        metadata: &mut Metadata,
        dice: &mut dyn crate::Dice,
    ) -> Outcome {
        // What stands for a verified claim is nobody's to claim.
        for (_, provider) in &self.providers {
            for name in provider.payload_header.iter().chain(provider.claim_headers.iter().map(|(name, _)| name)) {
                request.headers.remove(name);
            }
        }
        if self.bypass_preflight && is_preflight(request) {
            return Outcome::Preflight;
        }
        let requirement = match route {
            Some(PerRoute::Nothing) => None,
            Some(PerRoute::Named(name)) => match self.named.iter().find(|(n, _)| n == name) {
                Some((_, requirement)) => Some(requirement),
                None => {
                    let why = format!("Wrong requirement_name: {name}. It should be one of [{}]", self.names());
                    let body = format!("Failed JWT authentication: {why}");
                    return Outcome::Refused(self.reply(403, body, &why), None);
                }
            },
            None => {
                let rule = self.rules.iter().find(|(matches, _)| matches.matches(request, metadata, dice));
                rule.and_then(|(_, requirement)| requirement.as_ref())
            }
        };
        let Some(requirement) = requirement else { return Outcome::Passes { reroute: false } };
        let realm = self.realm(request);
        let mut found = require::Found::default();
        let outcome = requirement.check(&self.providers, request, now, &mut found);
        // Logs are told of good tokens even where another one was bad.
        for (key, value) in found.told {
            metadata.set(&self.filter, &key, value);
        }
        match outcome {
            Ok(()) => Outcome::Passes { reroute: found.reroute },
            Err(refusal) => {
                let status = if refusal == Refusal::Audience { 403 } else { 401 };
                let why = refusal.to_string();
                let error = if refusal == Refusal::Missing { "" } else { ", error=\"invalid_token\"" };
                let challenge = (!self.silent).then(|| format!("Bearer realm=\"{realm}\"{error}"));
                Outcome::Refused(self.reply(status, why.clone(), &why), challenge)
            }
        }
    }

    fn names(&self) -> String {
        let mut names: Vec<&str> = self.named.iter().map(|(name, _)| &**name).collect();
        names.sort_unstable();
        names.join(",")
    }

    fn reply(&self, status: u16, body: String, why: &str) -> LocalReply {
        let why = why.replace(|c: char| c.is_ascii_whitespace(), "_");
        LocalReply {
            body: if self.silent { "".into() } else { body.into() },
            details: format!("jwt_authn_access_denied{{{why}}}").into(),
            ..LocalReply::fixed(status, "", Flags::NONE, "")
        }
    }

    fn realm(&self, request: &RequestHead) -> String {
        let scheme = request.headers.get_str("x-forwarded-proto").unwrap_or_default();
        let path = request.headers.get_str("x-envoy-original-path").unwrap_or(&request.path);
        let end = (0..=LONGEST_PATH.min(path.len())).rev().find(|end| path.is_char_boundary(*end)).unwrap_or(0);
        format!("{scheme}://{}{}", request.authority, &path[..end])
    }
}

fn is_preflight(request: &RequestHead) -> bool {
    let given = |name| request.headers.get(name).is_some_and(|value| !value.is_empty());
    request.method == "OPTIONS" && given("origin") && given("access-control-request-method")
}

/// The payload as later filters find it.
fn payload_for_filters(payload: &Value, split: &[String]) -> Value {
    let Value::Struct(members) = payload else { return payload.clone() };
    if !members.iter().any(|(name, value)| value.as_text().is_some() && split.iter().any(|s| **s == **name)) {
        return payload.clone();
    }
    let list = |(name, value): &(Arc<str>, Value)| match value.as_text().filter(|_| split.iter().any(|s| **s == **name))
    {
        Some(text) => {
            let words = text.split(' ').filter(|word| !word.is_empty());
            (name.clone(), Value::List(words.map(|word| Value::Text(word.into())).collect()))
        }
        None => (name.clone(), value.clone()),
    };
    Value::Struct(members.iter().map(list).collect())
}

#[cfg(test)]
mod tests;
