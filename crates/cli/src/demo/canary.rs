//! The canary example: the files of the clone one stands in, or the copy in the binary, so that the demo works from
//! anywhere.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_json::Value;

use crate::error::Error;

/// The example's files: name and text.
const FILES: [(&str, &str); 2] = [
    ("app.yaml", include_str!("../../../../examples/canary/app.yaml")),
    ("routing.yaml", include_str!("../../../../examples/canary/routing.yaml")),
];

/// Where its pods are.
pub const NAMESPACE: &str = "canary";
/// The file with the weights.
pub const ROUTING: &str = "routing.yaml";

/// The folder of the example: `examples/canary` below the current directory if there is one, else a copy in `otherwise`.
///
/// # Errors
/// When the copy cannot be written.
pub fn folder(otherwise: &Path) -> Result<PathBuf, Error> {
    if let Ok(here) = std::env::current_dir() {
        let of_the_clone = here.join("examples/canary");
        if of_the_clone.join(ROUTING).is_file() {
            return Ok(of_the_clone);
        }
    }
    let folder = otherwise.join("canary");
    let write = || -> io::Result<()> {
        fs::create_dir_all(&folder)?;
        FILES.iter().try_for_each(|(name, text)| fs::write(folder.join(name), text))
    };
    write().map_err(Error::io(folder.display().to_string()))?;
    Ok(folder)
}

/// Every resource of the example in a folder.
///
/// # Errors
/// When a file cannot be read or is not YAML.
pub fn manifests(folder: &Path) -> Result<Vec<Value>, Error> {
    let mut manifests = Vec::new();
    for (name, _) in FILES {
        let path = folder.join(name);
        let text = fs::read_to_string(&path).map_err(Error::io(path.display().to_string()))?;
        for document in serde_norway::Deserializer::from_str(&text) {
            let manifest = Value::deserialize(document);
            manifests.push(manifest.map_err(|error| Error::Usage(format!("{}: {error}", path.display())))?);
        }
    }
    Ok(manifests)
}
