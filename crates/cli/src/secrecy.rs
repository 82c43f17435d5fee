//! What a process does that has keys in its memory.

/// Leaves no core file when it crashes, nor do the processes it starts: keys would be in it.
pub fn no_core_files() {
    let none = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: a valid rlimit; lowering a limit is always allowed.
    unsafe { libc::setrlimit(libc::RLIMIT_CORE, &none) };
}
