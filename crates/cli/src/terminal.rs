//! The terminal, and what may be written to it.

/// Restores the default action of SIGPIPE, which Rust's runtime ignores: a closed reader then ends the program
/// without a message, as with any Unix tool.
pub fn die_quietly_on_closed_pipe() {
    // SAFETY: called first thing in main, when no other thread exists.
    unsafe { libc::signal(libc::SIGPIPE, libc::SIG_DFL) };
}
