//! Connections to hosts over TLS.

use std::borrow::Cow;
use std::rc::Rc;
use std::sync::Arc;

use lateen_traffic::cluster::ClusterSettings;
use lateen_traffic::filter::alpn::Protocols;
use lateen_traffic::reply::UpstreamFailure;
use lateen_traffic::tls::{TransportSocket, UpstreamTls};
use rustls::ClientConfig;

use super::{Host, Upstream};
use crate::io::{Io, Socket};
use crate::tls::context::Client;
use crate::tls::failure::{self, Cause};
use crate::tls::{self};

/// How one host is spoken to over TLS, with its sessions.
pub(super) struct HostTls {
    client: Arc<Client>,
    // One for each offer that was made, as few as there are filters with different ones.
    configs: Vec<Arc<ClientConfig>>,
}

/// Offers of one host that are remembered.
const MOST_OFFERS: usize = 8;

/// What a connection offers by ALPN.
#[derive(Clone, Copy)]
pub(super) struct Offer<'a> {
    // In place of what the cluster says.
    instead: Option<&'a Protocols>,
    // Where the cluster says nothing.
    otherwise: Option<&'static str>,
}

impl<'a> Offer<'a> {
    /// Of a connection for HTTP: as in Envoy it says which version comes, if nobody says anything else.
    pub(super) fn http(instead: Option<&'a Protocols>, version: &'static str) -> Self {
        Self { instead, otherwise: Some(version) }
    }

    /// Of any other connection.
    pub(super) fn tcp(instead: Option<&'a Protocols>) -> Self {
        Self { instead, otherwise: None }
    }

    fn protocols(self, of_cluster: &[Vec<u8>]) -> Vec<Vec<u8>> {
        match (self.instead, self.otherwise) {
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
        let name = server_name(tls, host);
        let secrets = Arc::clone(&self.state.borrow().secrets);
        let client = self.tls.client(tls, &secrets).map_err(|error| {
            self.stats.tls().failed(Cause::NoSecret);
            UpstreamFailure::Tls(failure::words_without_context(&error).into())
        })?;
        let config = host.tls_config(&client, name.is_some(), offer);
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
    /// The configuration for this host alone, made anew when the context is another. Its sessions can be continued
    /// whatever is offered.
    fn tls_config(&self, client: &Arc<Client>, names_server: bool, offer: Offer<'_>) -> Arc<ClientConfig> {
        let mut kept = self.tls.borrow_mut();
        let kept = match &mut *kept {
            Some(kept) if Arc::ptr_eq(&kept.client, client) => kept,
            other => other.insert(HostTls { client: Arc::clone(client), configs: vec![client.for_host(names_server)] }),
        };
        let protocols = offer.protocols(client.protocols());
        if let Some(config) = kept.configs.iter().find(|config| config.alpn_protocols == protocols) {
            return Arc::clone(config);
        }
        let mut config = ClientConfig::clone(&kept.configs[0]);
        config.alpn_protocols = protocols;
        let config = Arc::new(config);
        kept.configs.truncate(MOST_OFFERS - 1);
        kept.configs.push(Arc::clone(&config));
        config
    }
}

/// The name that the host is asked for by.
fn server_name(tls: &UpstreamTls, host: &Host) -> Option<Arc<str>> {
    let own = (tls.host_name_as_server_name && !host.hostname.is_empty()).then(|| Arc::clone(&host.hostname));
    own.or_else(|| tls.server_name.clone())
}
