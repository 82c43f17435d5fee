//! Starting the node process.

use super::failure::{Failure, NodeError};
use super::{Node, NodeConfig};

/// Starts the node process. Must be called before any thread exists in this process and before the runtime is built:
/// it forks. The node's life is bound to the calling *thread* (the main one) and to the returned value.
///
/// # Errors
/// [`NodeError::Threads`] when called too late, [`NodeError::Start`] when this machine does not allow it: the message
/// says which step failed and what is missing.
pub fn start(config: NodeConfig) -> Result<Node, NodeError> {
    let _ = config;
    Err(NodeError::Start(Failure::refused("start the node", "not built yet")))
}

/// Waits for the end of the node process, so that it does not stay as a zombie.
pub(super) fn reap(pid: libc::pid_t) {
    let mut status = 0;
    // SAFETY: waitpid on a child of ours with a valid place for its status.
    while unsafe { libc::waitpid(pid, &mut status, 0) } < 0
        && std::io::Error::last_os_error().kind() == std::io::ErrorKind::Interrupted
    {}
}
