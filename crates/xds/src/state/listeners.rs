//! Listeners and their routes.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use envoy_types::pb::envoy::config::listener::v3::Listener as PbListener;
use envoy_types::pb::envoy::config::route::v3::RouteConfiguration;
use envoy_types::pb::google::protobuf::Any;
use lateen_traffic::listener::Listener;

use super::{State, add_user, check_name, decode};
use crate::ResourceType;
use crate::convert::{self, Reject, route_names, secrets_of_listener};

impl State {
    pub(super) fn put_listener(&mut self, body: &Any, expected: Option<&Arc<str>>) -> Result<Arc<str>, Reject> {
        let message: PbListener = decode(body)?;
        if expected.is_some() {
            check_name(&message.name, expected)?;
        }
        let listener = Arc::new(convert::listener(message, &mut self.notes)?);
        let name = Arc::clone(&listener.name);
        let others = self.config.listeners.values().chain(self.warming_listeners.values());
        for other in others {
            if other.name == name {
                if expected.is_none() {
                    return Err(Reject::new(format_args!("a second listener {name:?}")));
                }
                continue;
            }
            let shared = listener.addresses.iter().find(|address| other.addresses.contains(address));
            if let Some(address) = shared.filter(|_| listener.bind_to_port && other.bind_to_port) {
                let reason = format_args!("address {address} is that of listener {:?} too", other.name);
                return Err(Reject::new(reason));
            }
        }
        let secrets: Vec<_> = secrets_of_listener(&listener).cloned().collect();
        self.refer_to_secrets(&(ResourceType::Listener, Arc::clone(&name)), &secrets)?;
        self.sockets.hold(&listener)?;
        let older = self.warming_listeners.remove(&name);
        for route in route_names(&listener) {
            add_user(&mut self.route_users, route, &name);
        }
        self.warming_listeners.insert(Arc::clone(&name), listener);
        self.serve_listener_if_ready(&name);
        if let Some(older) = older {
            self.release_routes(&older);
        }
        Ok(name)
    }

    fn is_ready(&self, listener: &Listener) -> bool {
        route_names(listener).all(|name| self.config.routes.contains_key(name))
            && secrets_of_listener(listener).all(|secret| self.has_secret(&secret.name))
    }

    /// A listener that waits is served, if it has all it waited for.
    pub(super) fn serve_listener_if_ready(&mut self, name: &Arc<str>) {
        let ready = self.warming_listeners.get(name).is_some_and(|waiting| self.is_ready(waiting));
        if ready && let Some(waiting) = self.warming_listeners.remove(name) {
            self.serve_listener(waiting);
        }
    }

    fn serve_listener(&mut self, listener: Arc<Listener>) {
        let older = self.change_listeners().insert(Arc::clone(&listener.name), listener);
        if let Some(older) = older {
            self.release_routes(&older);
        }
    }

    pub(super) fn remove_listener(&mut self, name: &Arc<str>) {
        let warming = self.warming_listeners.remove(name);
        let served = if self.config.listeners.contains_key(name) { self.change_listeners().remove(name) } else { None };
        for listener in warming.into_iter().chain(served) {
            self.release_routes(&listener);
        }
    }

    /// Lets go the addresses that no form of a listener has any more.
    pub(super) fn release_sockets(&mut self) {
        self.sockets.retain(self.config.listeners.values().chain(self.warming_listeners.values()).map(AsRef::as_ref));
    }

    /// A form of a listener no longer uses its routes and secrets; others of the same name still may.
    fn release_routes(&mut self, older: &Listener) {
        self.secret_users_changed |= secrets_of_listener(older).next().is_some();
        let forms = [self.config.listeners.get(&older.name), self.warming_listeners.get(&older.name)];
        let still: BTreeSet<Arc<str>> =
            forms.into_iter().flatten().flat_map(|form| route_names(form)).cloned().collect();
        for route in route_names(older) {
            if still.contains(route) {
                continue;
            }
            let Some(users) = self.route_users.get_mut(route) else { continue };
            users.remove(&older.name);
            if users.is_empty() {
                self.orphans.push((ResourceType::Route, Arc::clone(route)));
            }
        }
    }

    pub(super) fn put_routes(&mut self, body: &Any, name: &Arc<str>) -> Result<(), Reject> {
        let message: RouteConfiguration = decode(body)?;
        check_name(&message.name, Some(name))?;
        let routes = Arc::new(convert::route_config(message, &mut self.notes)?);
        let Some(users) = self.route_users.get(name) else {
            // Asked for no longer.
            return Ok(());
        };
        let users = users.clone();
        self.published = None;
        Arc::make_mut(&mut self.config.routes).insert(Arc::clone(name), routes);
        for listener in users {
            self.serve_listener_if_ready(&listener);
        }
        Ok(())
    }

    fn change_listeners(&mut self) -> &mut BTreeMap<Arc<str>, Arc<Listener>> {
        self.published = None;
        Arc::make_mut(&mut self.config.listeners)
    }
}
