//! `lateen ca`: who signs the mesh's certificates, and the change of its root.

use std::process::ExitCode;
use std::time::{Duration, SystemTime};

use hyper::{Method, StatusCode};
use k8s_openapi::jiff::Timestamp;
use lateen_citadel::serve::{Role, Signer, Status, Step};

use crate::control_plane::{AUTHORITY, ROTATE};
use crate::error::Error;
use crate::page;
use crate::state_dir::StateDir;

/// Between two looks at a rotation.
const PAUSE: Duration = Duration::from_millis(200);

#[derive(clap::Args)]
pub struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(clap::Subcommand)]
enum Command {
    /// Show who signs, which roots are trusted, and how far a rotation is
    Status(StatusArguments),
    /// Have a new root follow the one that signs, without an outage
    Rotate(RotateArguments),
}

#[derive(clap::Args)]
struct StatusArguments {
    /// As JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    state_dir: StateDir,
}

#[derive(clap::Args)]
struct RotateArguments {
    /// Return when the new root signs
    #[arg(long)]
    wait: bool,
    #[command(flatten)]
    state_dir: StateDir,
}

/// Asks the control plane.
pub fn run(arguments: Arguments) -> Result<ExitCode, Error> {
    match arguments.command {
        Command::Status(StatusArguments { json, state_dir }) => {
            let status = super::block_on(self::status(&state_dir))?;
            if json {
                println!("{}", serde_json::to_string_pretty(&status).map_err(Error::unreadable)?);
            } else {
                print!("{}", table(&status, SystemTime::now()));
            }
        }
        Command::Rotate(RotateArguments { wait, state_dir }) => {
            let rotated = async {
                let mut status = ask(&state_dir, Method::POST, ROTATE).await?;
                while wait && status.step == Step::Announced {
                    tokio::time::sleep(PAUSE).await;
                    // The control plane may be starting again.
                    if let Ok(now) = ask(&state_dir, Method::GET, AUTHORITY).await {
                        status = now;
                    }
                }
                Ok(status)
            };
            print!("{}", table(&super::block_on(rotated)?, SystemTime::now()));
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// How the authority is.
///
/// # Errors
/// When the control plane does not answer, or the authority does not work.
pub async fn status(state: &StateDir) -> Result<Status, Error> {
    ask(state, Method::GET, AUTHORITY).await
}

async fn ask(state: &StateDir, method: Method, path: &'static str) -> Result<Status, Error> {
    let (status, body) = page::ask(&state.control_plane(), method, path).await?;
    if status != StatusCode::OK {
        return Err(Error::Usage(String::from_utf8_lossy(&body).trim_end().to_string()));
    }
    serde_json::from_slice(&body).map_err(Error::unreadable)
}

/// What a person reads.
fn table(status: &Status, now: SystemTime) -> String {
    let aliases = match status.aliases.as_slice() {
        [] => String::new(),
        aliases => format!(" (and {})", aliases.join(", ")),
    };
    let signer = match status.signer {
        Signer::Own => "a root of the mesh's own",
        Signer::Brought => "the issuer in the Secret cacerts",
        Signer::External => "another authority",
    };
    let time = |role| status.roots.iter().filter(|root| root.role == role).filter_map(|root| root.until).max();
    let at = |time: Option<u64>| time.map_or_else(String::new, |time| moment(time) + &left(time, now));
    let rotation = match (status.step, status.rotates) {
        (Step::Announced, _) => {
            format!("under way: the active root signs until the next one does, from {}", at(time(Role::Announced)))
        }
        (Step::Signing, _) => {
            format!("under way: the active root signs, the old one is trusted until {}", at(time(Role::Retiring)))
        }
        (Step::Done, Some(at)) => format!("none under way; the next begins by itself at {}", moment(at)),
        (Step::Done, None) => "none under way".to_string(),
    };
    let mut lines = vec![
        format!("trust domain   {}{aliases}", status.trust_domain),
        format!("signed by      {signer}, until {}", moment(status.signer_ends)),
        format!("rotation       {rotation}"),
    ];
    lines.extend(status.troubles.iter().map(|trouble| format!("trouble        {trouble}")));
    lines.push(String::new());
    let mut rows = vec![["ROOT", "SHA-256", "ENDS", "STATE"].map(str::to_string)];
    rows.extend(status.roots.iter().map(|root| {
        let state = match root.role {
            Role::Signing => "active: signs, and is trusted".to_string(),
            Role::Announced => format!("next: trusted, signs from {}", at(root.until)),
            Role::Retiring => format!("old: signs no more, trusted until {}", at(root.until)),
            Role::External => "another authority's: trusted".to_string(),
        };
        [root.subject.clone(), root.fingerprint.chars().take(16).collect(), moment(root.ends), state]
    }));
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths = [width(0), width(1), width(2)];
    lines.extend(rows.iter().map(|[root, digest, ends, state]| {
        format!("{root:0$}   {digest:1$}   {ends:2$}   {state}", widths[0], widths[1], widths[2])
    }));
    lines.join("\n") + "\n"
}

fn moment(seconds: u64) -> String {
    let stamp = i64::try_from(seconds).ok().and_then(|seconds| Timestamp::from_second(seconds).ok());
    stamp.map_or_else(|| "never".to_string(), |stamp| stamp.to_string())
}

/// How far away a time is, in brackets.
fn left(seconds: u64, now: SystemTime) -> String {
    let at = SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
    let left = at.duration_since(now).unwrap_or_default().as_secs();
    match left {
        0..120 => format!(" (in {left}s)"),
        120..7200 => format!(" (in {}m)", left.div_ceil(60)),
        _ => format!(" (in {}h)", left.div_ceil(3600)),
    }
}

#[cfg(test)]
mod tests {
    use lateen_citadel::serve::Root;

    use super::*;

    #[test]
    fn a_rotation_is_shown_in_words() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000);
        let root = |subject: &str, role, until| Root {
            subject: subject.to_string(),
            fingerprint: "0123456789abcdef0123".to_string(),
            ends: 2_000_000,
            role,
            until,
        };
        let mut status = Status {
            trust_domain: "mesh.example".to_string(),
            aliases: vec!["cluster.local".to_string()],
            signer: Signer::Own,
            signer_ends: 2_000_000,
            rotates: None,
            step: Step::Announced,
            roots: vec![root("CN=old", Role::Signing, None), root("CN=newer", Role::Announced, Some(1_000_010))],
            troubles: Vec::new(),
        };
        let expected = "\
trust domain   mesh.example (and cluster.local)
signed by      a root of the mesh's own, until 1970-01-24T03:33:20Z
rotation       under way: the active root signs until the next one does, from 1970-01-12T13:46:50Z (in 10s)

ROOT       SHA-256            ENDS                   STATE
CN=old     0123456789abcdef   1970-01-24T03:33:20Z   active: signs, and is trusted
CN=newer   0123456789abcdef   1970-01-24T03:33:20Z   next: trusted, signs from 1970-01-12T13:46:50Z (in 10s)
";
        assert_eq!(table(&status, now), expected);
        status.step = Step::Signing;
        status.roots = vec![root("CN=newer", Role::Signing, None), root("CN=old", Role::Retiring, Some(1_086_400))];
        status.troubles = vec!["the Secret cacerts is not followed: no key".to_string()];
        let expected = "\
trust domain   mesh.example (and cluster.local)
signed by      a root of the mesh's own, until 1970-01-24T03:33:20Z
rotation       under way: the active root signs, the old one is trusted until 1970-01-13T13:46:40Z (in 24h)
trouble        the Secret cacerts is not followed: no key

ROOT       SHA-256            ENDS                   STATE
CN=newer   0123456789abcdef   1970-01-24T03:33:20Z   active: signs, and is trusted
CN=old     0123456789abcdef   1970-01-24T03:33:20Z   old: signs no more, trusted until 1970-01-13T13:46:40Z (in 24h)
";
        assert_eq!(table(&status, now), expected);
        assert_eq!(left(1_000_300, now), " (in 5m)");
    }
}
