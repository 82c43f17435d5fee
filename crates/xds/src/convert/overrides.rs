//! What a route configuration, virtual host, route or weighted cluster says beside where requests go: header edits, and
//! settings of HTTP filters.
//!
//! - reject: settings of filters that are not carried out, unless they are empty or optional
//! - note: optional settings left out

use std::collections::HashMap;
use std::sync::Arc;

use envoy_types::pb::envoy::config::core::v3::HeaderValueOption;
use envoy_types::pb::envoy::config::route::v3::FilterConfig;
use envoy_types::pb::envoy::extensions::filters::http::cors::v3::CorsPolicy;
use envoy_types::pb::envoy::extensions::filters::http::ext_authz::v3::ExtAuthzPerRoute;
use envoy_types::pb::envoy::extensions::filters::http::fault::v3::HttpFault;
use envoy_types::pb::envoy::extensions::filters::http::jwt_authn::v3::PerRouteConfig;
use envoy_types::pb::envoy::extensions::filters::http::rbac::v3::RbacPerRoute;
use envoy_types::pb::google::protobuf::Any;
use lateen_traffic::edit::HeaderEdits;
use lateen_traffic::filter::{Override, Overrides};

use super::address::{type_name, unpack};
use super::cors::cors_policy;
use super::ext_authz;
use super::fault::fault;
use super::jwt;
use super::matcher::edits;
use super::rbac;
use super::reject::{At as _, Notes, Reject};

/// The header edits of one level, as its fields carry them.
pub(super) struct EditFields {
    pub request_headers_to_add: Vec<HeaderValueOption>,
    pub request_headers_to_remove: Vec<String>,
    pub response_headers_to_add: Vec<HeaderValueOption>,
    pub response_headers_to_remove: Vec<String>,
}

impl EditFields {
    /// Those of requests, and those of responses.
    pub(super) fn convert(self) -> Result<(HeaderEdits, HeaderEdits), Reject> {
        Ok((
            edits(
                ("request_headers_to_add", self.request_headers_to_add),
                ("request_headers_to_remove", self.request_headers_to_remove),
            )?,
            edits(
                ("response_headers_to_add", self.response_headers_to_add),
                ("response_headers_to_remove", self.response_headers_to_remove),
            )?,
        ))
    }
}

/// Settings of filters, by the filter's name (`typed_per_filter_config`).
pub(super) fn overrides(configs: HashMap<String, Any>, notes: &mut Notes) -> Result<Overrides, Reject> {
    let mut all = Vec::with_capacity(configs.len());
    for (name, any) in configs {
        let said = setting(any, notes).at(&format!("typed_per_filter_config[{name:?}]"))?;
        all.extend(said.map(|said| (Arc::from(name), said)));
    }
    Ok(all.into_iter().collect())
}

/// `None`: nothing is said.
fn setting(any: Any, notes: &mut Notes) -> Result<Option<Override>, Reject> {
    let Some(FilterConfig { config, is_optional, disabled }) = unpack(&any)? else { return plain(&any, notes) };
    if disabled {
        return Ok(Some(Override::Off));
    }
    let config = config.ok_or_else(|| Reject::field("config", "missing"))?;
    if config.type_url.is_empty() {
        return Ok(Some(Override::On));
    }
    match plain(&config, notes) {
        Err(_) if is_optional => {
            notes.add("FilterConfig.is_optional");
            Ok(None)
        }
        said => said.at("config"),
    }
}

fn plain(any: &Any, notes: &mut Notes) -> Result<Option<Override>, Reject> {
    if let Some(settings) = unpack::<HttpFault>(any)? {
        return Ok(Some(Override::Fault(Arc::new(fault(settings, notes)?))));
    }
    if let Some(policy) = unpack::<CorsPolicy>(any)? {
        return Ok(Some(Override::Cors(Arc::new(cors_policy(policy, notes)?))));
    }
    if let Some(rbac) = unpack::<RbacPerRoute>(any)? {
        return rbac::per_route(rbac).map(Some);
    }
    if let Some(jwt) = unpack::<PerRouteConfig>(any)? {
        return jwt::per_route(jwt).map(Some);
    }
    if let Some(said) = unpack::<ExtAuthzPerRoute>(any)? {
        return ext_authz::per_route(said, notes).map(Some);
    }
    if any.value.is_empty() {
        return Ok(None);
    }
    Err(Reject::new(format_args!("{} is not supported yet", type_name(&any.type_url))))
}
