//! Connections to hosts over TLS.

use std::borrow::Cow;
use std::rc::Rc;
use std::sync::Arc;

use lateen_traffic::cluster::ClusterSettings;
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
    config: Arc<ClientConfig>,
}

impl Upstream {
    /// Makes of a socket to `host` what the cluster says that connections to it are made of.
    pub(super) async fn transport(
        &self,
        host: &Rc<Host>,
        settings: &ClusterSettings,
        socket: Socket,
    ) -> Result<Io, UpstreamFailure> {
        let tls = match settings.transport_for(&host.transport_labels) {
            TransportSocket::Plain => return Ok(Io::plain(socket, bytes::Bytes::new())),
            TransportSocket::Tls(tls) => tls,
        };
        let name = server_name(tls, host);
        let secrets = Arc::clone(&self.state.borrow().secrets);
        let client = self.tls.client(tls, &secrets).map_err(|error| {
            self.stats.tls().connection_error.inc();
            UpstreamFailure::Tls(failure::words_without_context(&error).into())
        })?;
        let config = host.tls_config(&client, name.is_some());
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
    /// The configuration for this host alone, made anew when the context is another.
    fn tls_config(&self, client: &Arc<Client>, names_server: bool) -> Arc<ClientConfig> {
        let mut kept = self.tls.borrow_mut();
        if let Some(kept) = kept.as_ref().filter(|kept| Arc::ptr_eq(&kept.client, client)) {
            return Arc::clone(&kept.config);
        }
        let config = client.for_host(names_server);
        *kept = Some(HostTls { client: Arc::clone(client), config: Arc::clone(&config) });
        config
    }
}

/// The name that the host is asked for by.
fn server_name(tls: &UpstreamTls, host: &Host) -> Option<Arc<str>> {
    let own = (tls.host_name_as_server_name && !host.hostname.is_empty()).then(|| Arc::clone(&host.hostname));
    own.or_else(|| tls.server_name.clone())
}
