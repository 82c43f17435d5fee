//! What can go wrong in a command, as the person at the terminal reads it.

use std::io;

use lateen_local::client::ClientError;

/// An error that ends a command. It is printed after `lateen: ` and the exit code is 1.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Something the operating system refused; `what` says what was tried.
    #[error("{what}: {source}")]
    Io { what: String, source: io::Error },
    /// The command line asks for something that cannot be done.
    #[error("{0}")]
    Usage(String),
    /// The mesh refused, in the words any Kubernetes client prints, or cannot be reached.
    #[error("{}", words(.0))]
    Client(#[from] ClientError),
    /// The cluster of this machine.
    #[error(transparent)]
    Cluster(#[from] lateen_local::cluster::ClusterError),
    /// The namespaces of this machine.
    #[error(transparent)]
    Node(#[from] lateen_local::node::NodeError),
    /// The proxy.
    #[error(transparent)]
    Proxy(#[from] lateen_proxy::RunError),
    /// The proxy's log.
    #[error(transparent)]
    Logging(#[from] lateen_proxy::logging::LoggingError),
    /// The control plane's xDS server.
    #[error(transparent)]
    Ads(#[from] lateen_xds::ads::server::ServeError),
    /// The control plane's port with TLS.
    #[error(transparent)]
    Secure(#[from] lateen_citadel::serve::ServeError),
    /// What the certificate authority is kept in.
    #[error("the certificate authority: {0}")]
    Authority(#[from] lateen_citadel::store::StoreError),
    /// The agent beside a proxy.
    #[error("the agent: {0}")]
    Agent(#[from] lateen_citadel::agent::StartError),
    /// Manifests that are not understood.
    #[error(transparent)]
    Manifests(#[from] lateen_galley::Problems),
}

impl Error {
    /// For text of the mesh's that is not what it should be.
    pub fn unreadable(error: impl std::fmt::Display) -> Error {
        Error::Usage(format!("the mesh's answer is not understood: {error}"))
    }

    /// Puts what was tried in front of an I/O error.
    pub fn io(what: impl Into<String>) -> impl FnOnce(io::Error) -> Error {
        let what = what.into();
        move |source| Error::Io { what, source }
    }
}

fn words(error: &ClientError) -> String {
    match error {
        ClientError::Refused(refused) if refused.reason.is_empty() => format!("Error from server: {refused}"),
        ClientError::Refused(refused) => format!("Error from server ({}): {refused}", refused.reason),
        other => other.to_string(),
    }
}
