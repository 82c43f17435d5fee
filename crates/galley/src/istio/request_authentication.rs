//! `RequestAuthentication`: which tokens requests may bring.
//! Schema: istio/api `security/v1beta1/request_authentication.proto`.

use serde::{Deserialize, Serialize};

use super::Duration;
use super::policy_target::{PolicyTargetReference, WorkloadSelector};

/// Tokens (JWT) that workloads understand. A request with a bad one is refused, one without passes.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct RequestAuthentication {
    /// Workloads this applies to; absent is all of the namespace, or of the mesh in the root namespace.
    pub selector: Option<WorkloadSelector>,
    /// What it applies to instead; deprecated.
    pub target_ref: Option<PolicyTargetReference>,
    /// What it applies to instead.
    pub target_refs: Vec<PolicyTargetReference>,
    /// A token has to be good by the rule of its issuer.
    pub jwt_rules: Vec<JwtRule>,
}

/// Who issues tokens, how they are verified, and what becomes of them.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct JwtRule {
    /// The `iss` claim; empty is any.
    pub issuer: String,
    /// One of these has to be among the `aud` claim; empty asks for none.
    pub audiences: Vec<String>,
    /// Where the issuer's keys are (JWKS).
    #[serde(alias = "jwks_uri")]
    pub jwks_uri: String,
    /// The issuer's keys themselves.
    pub jwks: String,
    /// Headers the token may be in; without any place `Authorization: Bearer` and the parameter `access_token`.
    pub from_headers: Vec<JwtHeader>,
    /// Query parameters it may be in.
    pub from_params: Vec<String>,
    /// Cookies it may be in.
    pub from_cookies: Vec<String>,
    /// Header in which the workload gets the payload, base64url.
    pub output_payload_to_header: String,
    /// The workload gets the token too.
    pub forward_original_token: bool,
    /// Headers in which the workload gets single claims.
    pub output_claim_to_headers: Vec<ClaimToHeader>,
    /// How long fetching the keys may take; absent is 5 s.
    pub timeout: Option<Duration>,
    /// Claims whose text is a list with blanks between, beside `scope` and `permission`.
    pub space_delimited_claims: Vec<String>,
    /// Whether there has to be a token.
    pub presence: Presence,
}

/// A header a token may be in.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct JwtHeader {
    /// Its name.
    pub name: String,
    /// What comes before the token.
    pub prefix: String,
}

/// A claim that becomes a header.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct ClaimToHeader {
    /// The header's name.
    pub header: String,
    /// The claim's; a dot goes into nested ones.
    pub claim: String,
}

/// Whether there has to be a token.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum Presence {
    /// A request without one passes.
    #[default]
    Optional,
    /// It does not.
    Required,
}
