//! `lateen delete`: removes what manifests name, or objects by name.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use lateen_galley::{Kind, ReadOptions, kind};
use lateen_local::client::Client;

use crate::error::Error;
use crate::manifests;
use crate::state_dir::StateDir;

/// Between two looks at what is going.
const PAUSE: Duration = Duration::from_millis(20);

#[derive(clap::Args)]
pub struct Arguments {
    /// Manifests of what to delete: files, folders, or - for standard input
    #[arg(short, long = "filename", value_name = "PATH", required_unless_present = "kind")]
    files: Vec<PathBuf>,
    /// A kind, when objects are named instead of manifests
    #[arg(conflicts_with = "files", requires = "names")]
    kind: Option<String>,
    /// The objects' names
    names: Vec<String>,
    /// Namespace of what names none [default: default]
    #[arg(short, long)]
    namespace: Option<String>,
    /// Objects that are not there are no error
    #[arg(long)]
    ignore_not_found: bool,
    /// Return at once instead of when everything is gone
    #[arg(long)]
    no_wait: bool,
    /// Seconds pods may take to end
    #[arg(long, value_name = "SECONDS")]
    grace_period: Option<u32>,
    #[command(flatten)]
    state_dir: StateDir,
}

/// Deletes in the reverse order of the manifests: what was made last goes first.
pub fn run(arguments: Arguments) -> Result<ExitCode, Error> {
    let objects = objects(&arguments)?;
    let client = arguments.state_dir.client();
    super::block_on(async {
        let mut code = ExitCode::SUCCESS;
        let mut going = Vec::new();
        for (kind, namespace, name) in objects {
            match client.delete(kind, &namespace, &name, arguments.grace_period).await {
                Ok(_) => {
                    println!("{} \"{name}\" deleted", super::label(kind.info()));
                    going.push((kind, namespace, name));
                }
                Err(error) if error.is_not_found() && arguments.ignore_not_found => {}
                Err(error) if error.code().is_some() => {
                    eprintln!("{}", Error::from(error));
                    code = ExitCode::FAILURE;
                }
                Err(error) => return Err(error.into()),
            }
        }
        if !arguments.no_wait {
            for (kind, namespace, name) in going {
                gone(&client, kind, &namespace, &name).await?;
            }
        }
        Ok(code)
    })
}

/// Waits until an object is no longer there, or another one of that name is.
async fn gone(client: &Client, kind: Kind, namespace: &str, name: &str) -> Result<(), Error> {
    loop {
        match client.get(kind, namespace, name).await {
            Ok(object) if object.pointer("/metadata/deletionTimestamp").is_none() => return Ok(()),
            Ok(_) => tokio::time::sleep(PAUSE).await,
            Err(error) if error.is_not_found() => return Ok(()),
            Err(error) => return Err(error.into()),
        }
    }
}

fn objects(arguments: &Arguments) -> Result<Vec<(Kind, String, String)>, Error> {
    let namespace = arguments.namespace.as_deref().unwrap_or("default");
    if let Some(word) = &arguments.kind {
        let kinds = kind::by_typed_name(word).map_err(|error| Error::Usage(error.to_string()))?;
        let of_kind = |kind: Kind| {
            arguments.names.iter().map(move |name| (kind, namespace.to_string(), name.clone())).collect::<Vec<_>>()
        };
        return Ok(kinds.into_iter().flat_map(of_kind).collect());
    }
    let options = ReadOptions { namespace, only_that_namespace: arguments.namespace.is_some() };
    let manifests = manifests::read(&arguments.files, options)?;
    let keys = manifests.iter().rev().map(|manifest| manifest.object.key());
    Ok(keys.map(|key| (key.kind, key.namespace, key.name)).collect())
}
