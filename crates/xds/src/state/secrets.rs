//! Secrets, and the listeners and clusters that wait for them.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use envoy_types::pb::envoy::extensions::transport_sockets::tls::v3::{Secret as PbSecret, secret::Type as SecretType};
use envoy_types::pb::google::protobuf::Any;
use lateen_traffic::tls::{NamedSecret, Secret, SecretName, SecretOrigin, SecretServer};

use super::{Received, Refused, State, Update, Users, any, check_name, decode, resource_name};
use crate::ResourceType;
use crate::ads::Awaited;
use crate::convert::{self, Notes, Reject, secrets_of_cluster, secrets_of_listener};
use crate::keys;

/// A listener or cluster that refers to a secret.
pub(super) type User = (ResourceType, Arc<str>);

/// What refers to secrets, and which of those are no longer waited for.
#[derive(Debug, Default)]
pub(super) struct Secrets {
    users: HashMap<SecretName, BTreeSet<User>>,
    given_up: BTreeSet<SecretName>,
}

impl State {
    /// A secret of the bootstrap itself.
    pub(super) fn put_static_secret(&mut self, message: PbSecret, now: SystemTime) -> Result<(), Reject> {
        let name: Arc<str> = message.name.as_str().into();
        let shown = redacted(message.clone());
        let secret = convert::secret(message, &mut self.notes)?;
        self.change_secrets().insert(SecretName { origin: SecretOrigin::Bootstrap, name: Arc::clone(&name) }, secret);
        self.histories.fixed(ResourceType::Secret, name, shown, now);
        Ok(())
    }

    /// Applies a response of secrets from one of those who tell them.
    pub(super) fn apply_secrets(&mut self, origin: &SecretOrigin, update: &Update, now: SystemTime) -> Vec<Refused> {
        // As in Envoy, a secret that is said to be none any more is used on, and one that is said not to be there is waited
        // for no longer: what needs it is served, and refuses handshakes until it comes.
        let Update { r#type: _, version, nonce: _, resources, removed } = update;
        let mut refused = Vec::new();
        let absent = removed.iter().map(|name| SecretName { origin: origin.clone(), name: Arc::clone(name) });
        let absent: Vec<SecretName> = absent.filter(|name| self.secrets.users.contains_key(name)).collect();
        self.secrets.given_up.extend(absent);
        for Received { name, version, body } in resources {
            let name = match &**name {
                "" => resource_name(body),
                _ => Arc::clone(name),
            };
            let known = SecretName { origin: origin.clone(), name: Arc::clone(&name) };
            if !self.secrets.users.contains_key(&known) {
                // Asked for no longer.
                continue;
            }
            match read(body, &name, &mut self.notes) {
                Ok((secret, shown)) => {
                    self.secrets.given_up.remove(&known);
                    self.change_secrets().insert(known, secret);
                    self.histories.accepted(&ResourceType::Secret, name, Arc::clone(version), shown, now);
                }
                Err((reason, shown)) => {
                    let text = reason.to_string();
                    let version = Arc::clone(version);
                    self.histories.refused(&ResourceType::Secret, Arc::clone(&name), version, shown, text, now);
                    refused.push(Refused { name, reason });
                }
            }
        }
        self.received.insert(ResourceType::Secret);
        self.histories.version(ResourceType::Secret, Arc::clone(version));
        self.serve_what_is_ready();
        refused
    }

    /// Nobody waits for a secret any longer; handshakes that need it are refused until it comes.
    pub fn give_up(&mut self, secret: &SecretName) {
        self.secrets.given_up.insert(secret.clone());
        self.serve_what_is_ready();
    }

    /// The secrets that something still waits for, each with the longest time that any of those waits.
    pub fn awaited_secrets(&self) -> HashMap<SecretName, Option<Duration>> {
        let listeners = self.warming_listeners.values().flat_map(|listener| secrets_of_listener(listener));
        let clusters = self.warming_clusters.values().flat_map(|parts| secrets_of_cluster(parts.settings()));
        let mut awaited: HashMap<SecretName, Option<Duration>> = HashMap::new();
        for NamedSecret { name, patience } in listeners.chain(clusters).filter(|secret| !self.has_secret(&secret.name))
        {
            let longest = awaited.entry(name.clone()).or_insert(*patience);
            *longest = match (*longest, *patience) {
                (Some(a), Some(b)) => Some(a.max(b)),
                _ => None,
            };
        }
        awaited
    }

    /// What is accepted and not in force: listeners and clusters without their certificates (whether they wait or are
    /// served without), and those that wait for anything else.
    pub fn awaited(&self) -> BTreeSet<Awaited> {
        let thing = |r#type: &ResourceType, name: &Arc<str>, secret: Option<&SecretName>| Awaited {
            of_cluster: *r#type != ResourceType::Listener,
            name: name.to_string(),
            version: self.histories.accepted_version(r#type, name).to_owned(),
            secret: secret.map(|secret| secret.name.to_string()),
        };
        let mut awaited = BTreeSet::new();
        let mut named: BTreeSet<&Arc<str>> = BTreeSet::new();
        for (secret, users) in &self.secrets.users {
            // That there is none is for the control plane to know.
            if self.config.secrets.contains_key(secret) || !matches!(secret.origin, SecretOrigin::Server(_)) {
                continue;
            }
            for (r#type, user) in users {
                awaited.insert(thing(r#type, user, Some(secret)));
                named.insert(user);
            }
        }
        let clusters = self.warming_clusters.keys().map(|name| (&ResourceType::Cluster, name));
        let listeners = self.warming_listeners.keys().map(|name| (&ResourceType::Listener, name));
        let waiting = clusters.chain(listeners).filter(|(_, name)| !named.contains(name));
        awaited.extend(waiting.map(|(r#type, name)| thing(r#type, name, None)));
        awaited
    }

    /// The servers of secrets that something refers to.
    pub fn secret_servers(&self) -> BTreeSet<Arc<SecretServer>> {
        let servers = self.secrets.users.keys().filter_map(|name| match &name.origin {
            SecretOrigin::Server(server) => Some(Arc::clone(server)),
            SecretOrigin::Bootstrap | SecretOrigin::ControlPlane => None,
        });
        servers.collect()
    }

    /// The names of the secrets that one of those who tell them is to be asked for.
    pub fn wanted_secrets(&self, of: &SecretOrigin) -> Users {
        let names = self.secrets.users.keys().filter(|name| name.origin == *of);
        names.map(|name| (Arc::clone(&name.name), BTreeSet::new())).collect()
    }

    /// Whether a secret is there, or waited for no longer.
    pub(super) fn has_secret(&self, name: &SecretName) -> bool {
        self.config.secrets.contains_key(name) || self.secrets.given_up.contains(name)
    }

    /// Somebody refers to secrets. Those of the bootstrap must be there.
    pub(super) fn refer_to_secrets(&mut self, user: &User, secrets: &[NamedSecret]) -> Result<(), Reject> {
        for NamedSecret { name, patience: _ } in secrets {
            if name.origin == SecretOrigin::Bootstrap && !self.config.secrets.contains_key(name) {
                return Err(Reject::new(format_args!("unknown static secret {:?}", name.name)));
            }
        }
        for NamedSecret { name, patience: _ } in secrets {
            self.secrets.users.entry(name.clone()).or_default().insert(user.clone());
        }
        Ok(())
    }

    /// Forgets what nothing refers to any more.
    pub(super) fn drop_orphaned_secrets(&mut self) {
        let mut used: BTreeSet<SecretName> = BTreeSet::new();
        let listeners = self.config.listeners.values().chain(self.warming_listeners.values());
        used.extend(listeners.flat_map(|listener| secrets_of_listener(listener)).map(|s| s.name.clone()));
        let clusters = self.config.clusters.values().map(|cluster| &*cluster.settings);
        let clusters = clusters.chain(self.warming_clusters.values().map(|parts| parts.settings()));
        used.extend(clusters.flat_map(secrets_of_cluster).map(|s| s.name.clone()));
        let gone: Vec<SecretName> = self.secrets.users.keys().filter(|name| !used.contains(name)).cloned().collect();
        for name in gone {
            self.secrets.users.remove(&name);
            self.secrets.given_up.remove(&name);
            self.histories.forget(&ResourceType::Secret, &name.name);
            if self.config.secrets.contains_key(&name) {
                self.change_secrets().remove(&name);
            }
        }
    }

    fn serve_what_is_ready(&mut self) {
        let listeners: Vec<Arc<str>> = self.warming_listeners.keys().cloned().collect();
        for name in listeners {
            self.serve_listener_if_ready(&name);
        }
        let clusters: Vec<Arc<str>> = self.warming_clusters.keys().cloned().collect();
        for name in clusters {
            self.serve_cluster_if_ready(&name);
        }
    }

    fn change_secrets(&mut self) -> &mut HashMap<SecretName, Secret> {
        self.published = None;
        Arc::make_mut(&mut self.config.secrets)
    }
}

type Failed = (Reject, Any);

fn read(body: &Any, name: &Arc<str>, notes: &mut Notes) -> Result<(Secret, Any), Failed> {
    let empty = || redacted(PbSecret { name: name.to_string(), ..PbSecret::default() });
    let message: PbSecret = decode(body).map_err(|reason| (reason, empty()))?;
    let shown = redacted(message.clone());
    let checked = check_name(&message.name, Some(name)).and_then(|()| convert::secret(message, notes));
    match checked {
        Ok(secret) => Ok((secret, shown)),
        Err(reason) => Err((reason, shown)),
    }
}

/// The secret as people may see it.
fn redacted(mut secret: PbSecret) -> Any {
    keys::overwrite(&mut secret, "[redacted]");
    if let Some(SecretType::SessionTicketKeys(_) | SecretType::GenericSecret(_)) = secret.r#type {
        // Not carried out: nothing of it is kept.
        secret.r#type = None;
    }
    any(&secret)
}
