//! Connections to hosts over TLS.

use std::borrow::Cow;
use std::rc::Rc;
use std::sync::Arc;

use lateen_traffic::cluster::ClusterSettings;
use lateen_traffic::reply::UpstreamFailure;
use lateen_traffic::tls::{TransportSocket, UpstreamTls, Wanted};
use rustls::ClientConfig;

use super::{Host, Upstream};
use crate::io::{Io, Socket};
use crate::tls::context::Client;
use crate::tls::failure::{self, Cause};
use crate::tls::{self};

/// How one host is spoken to over TLS.
pub(super) struct HostTls {
    client: Arc<Client>,
    // As few as there are servers that requests name, and filters with different offers.
    configs: Vec<Config>,
}

/// Those with the same names continue each other's sessions.
struct Config {
    server_name: Option<Arc<str>>,
    verified_name: Option<Arc<str>>,
    config: Arc<ClientConfig>,
}

/// Configurations of one host that are remembered.
const MOST_CONFIGS: usize = 32;

/// What a connection is to be.
#[derive(Clone, Copy)]
pub(super) struct Offer<'a> {
    wanted: &'a Wanted,
    // Offered by ALPN where nobody says anything.
    otherwise: Option<&'static str>,
}

impl<'a> Offer<'a> {
    /// Of a connection for HTTP: as in Envoy it says which version comes, if nobody says anything else.
    pub(super) fn http(wanted: &'a Wanted, version: &'static str) -> Self {
        Self { wanted, otherwise: Some(version) }
    }

    /// Of any other connection.
    pub(super) fn tcp(wanted: &'a Wanted) -> Self {
        Self { wanted, otherwise: None }
    }

    fn protocols(self, of_cluster: &[Vec<u8>]) -> Vec<Vec<u8>> {
        match (&self.wanted.protocols, self.otherwise) {
            (Some(names), _) => names.iter().map(|name| name.as_bytes().to_vec()).collect(),
            (None, Some(version)) if of_cluster.is_empty() => vec![version.as_bytes().to_vec()],
            (None, _) => of_cluster.to_vec(),
        }
    }
}

impl Upstream {
    /// Makes of a socket to `host` what the cluster says that connections to it are made of.
    pub(super) async fn transport(
        &self,
        host: &Rc<Host>,
        settings: &ClusterSettings,
        socket: Socket,
        offer: Offer<'_>,
    ) -> Result<Io, UpstreamFailure> {
        let tls = match settings.transport_for(&host.transport_labels) {
            TransportSocket::Plain => return Ok(Io::plain(socket, bytes::Bytes::new())),
            TransportSocket::Tls(tls) => tls,
        };
        let name = offer.wanted.server_name.clone().or_else(|| server_name(tls, &host.hostname));
        let secrets = Arc::clone(&self.state.borrow().secrets);
        let client = self.tls.client(tls, &secrets).map_err(|error| {
            self.stats.tls().failed(Cause::NoSecret);
            UpstreamFailure::Tls(failure::words_without_context(&error).into())
        })?;
        let config = host.tls_config(&client, name.as_ref(), offer);
        match tls::connect(&client, config, name.as_deref(), socket).await {
            Ok((stream, facts)) => {
                self.stats.tls().established(&facts);
                Ok(Io::tls(stream, Arc::new(facts)))
            }
            Err(error) => {
                self.stats.tls().failed(Cause::of(&error));
                Err(UpstreamFailure::Tls(Cow::Owned(failure::words(&error))))
            }
        }
    }
}

impl Host {
    /// The configuration for this host alone, made anew when the context is another. Sessions with the same server can be
    /// continued whatever is offered.
    fn tls_config(&self, client: &Arc<Client>, name: Option<&Arc<str>>, offer: Offer<'_>) -> Arc<ClientConfig> {
        let mut kept = self.tls.borrow_mut();
        let kept = match &mut *kept {
            Some(kept) if Arc::ptr_eq(&kept.client, client) => kept,
            other => other.insert(HostTls { client: Arc::clone(client), configs: Vec::new() }),
        };
        let protocols = offer.protocols(client.protocols());
        let verified = offer.wanted.verified_name.as_ref();
        let mut of_server = kept
            .configs
            .iter()
            .filter(|kept| kept.server_name.as_ref() == name && kept.verified_name.as_ref() == verified);
        let first = of_server.clone().next();
        if let Some(found) = of_server.find(|kept| kept.config.alpn_protocols == protocols) {
            return Arc::clone(&found.config);
        }
        let mut config = match first {
            Some(first) => ClientConfig::clone(&first.config),
            None => client.for_host(name.is_some(), verified),
        };
        config.alpn_protocols = protocols;
        let config = Arc::new(config);
        if kept.configs.len() >= MOST_CONFIGS {
            kept.configs.remove(0);
        }
        kept.configs.push(Config {
            server_name: name.cloned(),
            verified_name: verified.cloned(),
            config: Arc::clone(&config),
        });
        config
    }
}

/// The name that a host is asked for by; it has a name of its own, or none.
pub fn server_name(tls: &UpstreamTls, hostname: &Arc<str>) -> Option<Arc<str>> {
    let own = (tls.host_name_as_server_name && !hostname.is_empty()).then(|| Arc::clone(hostname));
    own.or_else(|| tls.server_name.clone())
}
