//! The terminal: whether there is one, and what may be written to it.
//!
//! Colour follows <https://no-color.org> and is never written to a pipe or a file.

use std::io::IsTerminal;

/// Restores the default action of SIGPIPE, which Rust's runtime ignores: when the reader of what a command prints goes
/// away (`lateen get pods | head`), the command ends without a message, as any Unix tool. For commands that only print:
/// whatever serves connections would be ended by the first peer that closes one.
pub fn die_quietly_on_closed_pipe() {
    // SAFETY: the default action needs no handler.
    unsafe { libc::signal(libc::SIGPIPE, libc::SIG_DFL) };
}

/// Tells on standard error what was accepted and yet looks wrong, as kubectl does.
pub fn warn(warning: impl std::fmt::Display) {
    eprintln!("Warning: {warning}");
}

/// How to write to one output.
#[derive(Clone, Copy)]
pub struct Style {
    /// Colours may be used.
    colour: bool,
    /// Lines may be rewritten in place.
    live: bool,
}

impl Style {
    /// For standard output. `NO_COLOR` (any value but the empty one) and `TERM=dumb` turn colour off.
    pub fn of_stdout() -> Style {
        let live = std::io::stdout().is_terminal() && std::env::var_os("TERM").is_none_or(|term| term != "dumb");
        let colour = live && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
        Style { colour, live }
    }

    /// Whether a line may be rewritten in place.
    pub fn live(self) -> bool {
        self.live
    }

    fn wrap(self, code: &str, text: &str) -> String {
        if self.colour { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_string() }
    }

    pub fn bold(self, text: &str) -> String {
        self.wrap("1", text)
    }

    pub fn dim(self, text: &str) -> String {
        self.wrap("2", text)
    }

    pub fn good(self, text: &str) -> String {
        self.wrap("32", text)
    }

    pub fn bad(self, text: &str) -> String {
        self.wrap("31;1", text)
    }

    pub fn accent(self, text: &str) -> String {
        self.wrap("36", text)
    }
}

/// The terminal of standard input handing on every key as it is typed, until this is dropped.
pub struct RawMode(libc::termios);

impl RawMode {
    /// `None` when standard input is no terminal.
    pub fn enter() -> Option<RawMode> {
        // SAFETY: a termios is plain data that tcgetattr fills before it is read.
        unsafe {
            let mut before: libc::termios = std::mem::zeroed();
            if libc::tcgetattr(libc::STDIN_FILENO, &mut before) != 0 {
                return None;
            }
            let mut raw = before;
            libc::cfmakeraw(&mut raw);
            (libc::tcsetattr(libc::STDIN_FILENO, libc::TCSADRAIN, &raw) == 0).then_some(RawMode(before))
        }
    }
}

impl Drop for RawMode {
    fn drop(&mut self) {
        // SAFETY: the settings are those the terminal had. Nothing can be done if it is gone.
        unsafe { libc::tcsetattr(libc::STDIN_FILENO, libc::TCSADRAIN, &self.0) };
    }
}
