//! Resources in YAML, and what becomes of them.

mod anything;
mod balance;
mod ext_authz;
mod fates;
mod filters;
mod meaning;
mod rbac;
mod retries;

use std::sync::OnceLock;

use lateen_traffic::cluster::Endpoints;
use lateen_traffic::hcm::Hcm;
use lateen_traffic::listener::{Listener, Terminal};
use lateen_traffic::route::RouteConfig;
use prost::{Message, Name};

use super::{Addresses, ConvertedCluster, Notes, Reject};
use crate::bootstrap::parse_document;
use crate::json::Schema;

fn decode<M: Message + Name + Default>(yaml: &str) -> M {
    static SCHEMA: OnceLock<Schema> = OnceLock::new();
    let schema = SCHEMA.get_or_init(|| Schema::load().unwrap());
    schema.from_json(parse_document(yaml).unwrap()).unwrap_or_else(|e| panic!("{e}\n{yaml}"))
}

fn listener(yaml: &str) -> Result<(Listener, Notes), Reject> {
    let mut notes = Notes::default();
    let listener = super::listener(decode(yaml), &mut notes)?;
    Ok((listener, notes))
}

fn cluster(yaml: &str) -> Result<(ConvertedCluster, Notes), Reject> {
    let mut notes = Notes::default();
    let cluster = super::cluster(decode(yaml), &mut notes)?;
    Ok((cluster, notes))
}

fn routes(yaml: &str) -> Result<(RouteConfig, Notes), Reject> {
    let mut notes = Notes::default();
    let routes = super::route_config(decode(yaml), &mut notes)?;
    Ok((routes, notes))
}

fn endpoints(yaml: &str) -> Result<Endpoints, Reject> {
    super::endpoints(decode(yaml), Addresses::Ready, &mut Notes::default())
}

/// A listener whose only chain is this connection manager, given as the fields beside the usual ones.
fn manager(fields: &str) -> Result<(Hcm, Notes), Reject> {
    let (listener, notes) = listener(&manager_yaml(fields))?;
    let Terminal::Http(manager) = &listener.chains[0].terminal else { panic!("not HTTP") };
    Ok(((**manager).clone(), notes))
}

fn manager_yaml(fields: &str) -> String {
    let filters =
        "[{name: router, typed_config: {'@type': type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}}]";
    let filters = if fields.contains("http_filters") { String::new() } else { format!("http_filters: {filters},") };
    let route = if fields.contains("rds") { "" } else { "route_config: {name: r}," };
    format!(
        "{{name: l, address: {{socket_address: {{address: 0.0.0.0, port_value: 8080}}}}, filter_chains: [{{filters: [{{
           name: hcm, typed_config: {{
             '@type': type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager,
             stat_prefix: x, {filters} {route} {fields}}}}}]}}]}}"
    )
}

fn noted(notes: &Notes) -> Vec<&'static str> {
    notes.iter().map(|(field, _)| field).collect()
}
