//! The examples: the folders of the clone one stands in, or the copies in the binary, so that a demo works from anywhere.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::error::Error;

/// An example in the binary: its name and its files.
struct Embedded {
    name: &'static str,
    files: &'static [(&'static str, &'static str)],
}

macro_rules! embedded {
    ($($name:literal),* $(,)?) => {
        const EMBEDDED: &[Embedded] = &[$(Embedded {
            name: $name,
            files: &[
                ("app.yaml", include_str!(concat!("../../../../examples/", $name, "/app.yaml"))),
                ("routing.yaml", include_str!(concat!("../../../../examples/", $name, "/routing.yaml"))),
                ("test.yaml", include_str!(concat!("../../../../examples/", $name, "/test.yaml"))),
            ],
        }),*];
    };
}

embedded!(
    "authorization",
    "bookinfo",
    "canary",
    "circuit-breaking",
    "delay",
    "egress",
    "egress-tls",
    "external-authorization",
    "fault-injection",
    "gateway-tls",
    "header",
    "jwt",
    "mirror",
    "mtls",
    "one-way",
    "random",
    "retries",
    "round-robin",
    "session-affinity",
    "tcp-routing",
    "timeout",
);

/// The file that says what an example promises.
pub const TEST: &str = "test.yaml";
/// The file with its rules.
pub const ROUTING: &str = "routing.yaml";
/// Where a clone has its examples.
const OF_THE_CLONE: &str = "examples";

/// Names of all examples, and what each shows, in order.
pub fn list() -> Vec<(String, String)> {
    let mut names: Vec<String> = EMBEDDED.iter().map(|example| example.name.to_owned()).collect();
    let here = fs::read_dir(OF_THE_CLONE).into_iter().flatten().flatten();
    let folders = here.filter(|entry| entry.path().join(TEST).is_file());
    names.extend(folders.map(|entry| entry.file_name().to_string_lossy().into_owned()));
    names.sort();
    names.dedup();
    names.into_iter().map(|name| (title(&name).unwrap_or_default(), name)).map(|(title, name)| (name, title)).collect()
}

/// What an example shows, as its test says.
fn title(name: &str) -> Option<String> {
    let text = match fs::read_to_string(Path::new(OF_THE_CLONE).join(name).join(TEST)) {
        Ok(text) => text,
        Err(_) => embedded(name)?.files.iter().find(|(file, _)| *file == TEST)?.1.to_owned(),
    };
    let tests = crate::traffic_test::read(name, text.as_bytes()).ok()?;
    Some(tests.first()?.test.spec.title.clone())
}

fn embedded(name: &str) -> Option<&'static Embedded> {
    EMBEDDED.iter().find(|example| example.name == name)
}

/// The folder of an example: `examples/NAME` below the current directory if there is one, else a copy in `otherwise`.
///
/// # Errors
/// When there is no such example, or the copy cannot be written.
pub fn folder(name: &str, otherwise: &Path) -> Result<PathBuf, Error> {
    let plain = !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
    if plain && let Ok(here) = std::env::current_dir() {
        let of_the_clone = here.join(OF_THE_CLONE).join(name);
        if of_the_clone.join(TEST).is_file() {
            return Ok(of_the_clone);
        }
    }
    let Some(example) = embedded(name) else {
        let known: Vec<String> = list().into_iter().map(|(name, _)| name).collect();
        return Err(Error::Usage(format!("there is no example {name:?}; there are {}", known.join(", "))));
    };
    let folder = otherwise.join(name);
    let write = || -> io::Result<()> {
        fs::create_dir_all(&folder)?;
        example.files.iter().try_for_each(|(name, text)| fs::write(folder.join(name), text))
    };
    write().map_err(Error::io(folder.display().to_string()))?;
    Ok(folder)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::traffic_test;
    use lateen_galley::{ReadOptions, read_manifests};

    #[test]
    fn every_example_is_in_the_binary() {
        let folders = fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/../../examples")).unwrap().flatten();
        let mut names: Vec<String> = folders.map(|entry| entry.file_name().into_string().unwrap()).collect();
        names.sort();
        assert_eq!(EMBEDDED.iter().map(|example| example.name).collect::<Vec<_>>(), names);
    }

    #[test]
    fn every_example_is_understood_and_says_what_it_shows() {
        let elsewhere = tempfile::tempdir().unwrap();
        for example in EMBEDDED {
            let folder = folder(example.name, elsewhere.path()).unwrap();
            for (file, text) in example.files {
                assert_eq!(fs::read_to_string(folder.join(file)).unwrap(), *text);
                let manifests = read_manifests(file, text.as_bytes(), ReadOptions::default());
                assert!(manifests.problems.0.is_empty(), "{}: {}", example.name, manifests.problems);
            }
            let tests = traffic_test::read(TEST, &fs::read(folder.join(TEST)).unwrap()).unwrap();
            assert!(!tests.is_empty() && !tests[0].test.spec.title.is_empty(), "{}", example.name);
        }
        assert!(folder("none", elsewhere.path()).unwrap_err().to_string().contains("canary, circuit-breaking"));
        assert!(folder("../x", elsewhere.path()).is_err());
    }
}
