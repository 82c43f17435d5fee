//! The files a pod sees: the host's, with its own resolv.conf, hosts, /sys and volumes in place.
//!
//! A new tmpfs becomes the root, and everything the host's root has is bound into it. So a volume's mount point need
//! not exist on the host: the directory it is missing from is replaced by a tmpfs that has the same entries plus one.
//! Nothing is written to the host's disk; all of it goes when the last process of the pod goes.

use super::failure::{Failure, failed};
use super::kernel;
use super::request::{CreatePod, Mount, MountContent, MountedFile};
use std::collections::BTreeSet;
use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt, symlink};
use std::path::{Component, Path, PathBuf};

/// Where the host's root is while a view is built.
const HOST: &str = "/.host";
/// A tmpfs for the files that are bound over single paths.
const FILES: &str = "/.files";
/// Existing directories that can carry the new root until it is the root.
const STEPPING_STONES: [&str; 5] = ["/tmp", "/run", "/mnt", "/var", "/dev"];

/// Builds the view in the current mount namespace, which must be new. Leaves the working directory at `/`.
pub(super) fn build(pod: &CreatePod) -> Result<(), Failure> {
    enter_new_root()?;
    bind_entries(Path::new(HOST), Path::new("/"))?;
    fs::create_dir(FILES).map_err(failed("make a directory for the pod's files"))?;
    tmpfs(Path::new(FILES), "mode=0700")?;
    // The sysfs of the pod's network; without it apps see the host's links in /sys/class/net.
    let flags = libc::MS_NOSUID | libc::MS_NODEV | libc::MS_NOEXEC | libc::MS_RDONLY;
    let _ = kernel::mount(Path::new("sysfs"), Path::new("/sys"), "sysfs", flags, "");
    let overlays = overlays(pod)?;
    let places: Vec<&Path> = overlays.iter().map(|overlay| overlay.path).collect();
    let mut ours = take_over(&places)?;
    // All places before all mounts: what is mounted must not be in the way of making another place.
    let mut targets = Vec::new();
    for overlay in &overlays {
        targets.push(place(overlay, &mut ours)?);
    }
    for (number, (overlay, target)) in overlays.iter().zip(&targets).enumerate() {
        overlay.mount(number, target).map_err(|failure| failure.within(overlay.step()))?;
    }
    for path in [FILES, HOST] {
        kernel::detach(Path::new(path)).map_err(failed("put away what the pod's root was built from"))?;
        fs::remove_dir(path).map_err(failed("put away what the pod's root was built from"))?;
    }
    Ok(())
}

fn enter_new_root() -> Result<(), Failure> {
    let stone = STEPPING_STONES.map(Path::new).into_iter().find(|path| path.is_dir());
    let stone =
        stone.ok_or_else(|| Failure::refused("make the pod's root", "none of /tmp, /run, /mnt, /var exists"))?;
    tmpfs(stone, "mode=0755")?;
    let old = stone.join(HOST.trim_start_matches('/'));
    fs::create_dir(&old).map_err(failed("make a directory for the host's root"))?;
    kernel::pivot_root(stone, &old).map_err(|error| {
        let why =
            if error.raw_os_error() == Some(libc::EINVAL) { "the root is the kernel's initial ramfs" } else { "" };
        Failure::kernel("change the pod's root", &error).because(why)
    })?;
    std::env::set_current_dir("/").map_err(failed("enter the pod's root"))
}

fn tmpfs(target: &Path, options: &str) -> Result<(), Failure> {
    let step = || format!("mount a tmpfs on {}", target.display());
    kernel::mount(Path::new("tmpfs"), target, "tmpfs", libc::MS_NOSUID | libc::MS_NODEV, options)
        .map_err(failed(step()))
}

/// Gives `target`, an empty directory of ours, every entry that `source` has.
fn bind_entries(source: &Path, target: &Path) -> Result<(), Failure> {
    let step = || format!("show the pod the entries of {}", target.display());
    for entry in fs::read_dir(source).map_err(failed(step()))? {
        let entry = entry.map_err(failed(step()))?;
        let (from, to) = (entry.path(), target.join(entry.file_name()));
        let bound = match entry.file_type() {
            Ok(kind) if kind.is_symlink() => fs::read_link(&from).and_then(|link| symlink(link, &to)),
            Ok(kind) if kind.is_dir() => fs::create_dir(&to).and_then(|()| bind(&from, &to)),
            Ok(_) => fs::write(&to, "").and_then(|()| bind(&from, &to)),
            Err(error) => Err(error),
        };
        // What this user may not see, or what vanished meanwhile, the pod does not see either.
        let unseen = [libc::EACCES, libc::EPERM, libc::ENOENT, libc::ESTALE, libc::ENOTCONN, libc::EIO];
        match bound {
            Err(error) if !error.raw_os_error().is_some_and(|errno| unseen.contains(&errno)) => {
                return Err(Failure::kernel(format!("show the pod {}", to.display()), &error));
            }
            _ => {}
        }
    }
    Ok(())
}

fn bind(from: &Path, to: &Path) -> io::Result<()> {
    kernel::mount(from, to, "", libc::MS_BIND | libc::MS_REC, "")
}

/// Nothing under this mount may be changed any more.
fn make_read_only(target: &Path, bound: bool) -> Result<(), Failure> {
    let bound = if bound { libc::MS_BIND } else { 0 };
    kernel::mount_flags(target)
        .and_then(|flags| {
            kernel::mount(Path::new(""), target, "", libc::MS_REMOUNT | libc::MS_RDONLY | bound | flags, "")
        })
        .map_err(failed(format!("make {} read-only", target.display())))
}

/// Something to be seen at one path.
struct Overlay<'a> {
    path: &'a Path,
    content: Content<'a>,
}

enum Content<'a> {
    Directory(&'a [MountedFile]),
    File { bytes: &'a [u8], mode: u32, read_only: bool },
    Empty,
    Host { source: PathBuf, read_only: bool },
}

/// What the pod wants to see, in the order of mounting.
fn overlays(pod: &CreatePod) -> Result<Vec<Overlay<'_>>, Failure> {
    let mut overlays = Vec::new();
    for (path, text) in [("/etc/resolv.conf", &pod.resolv_conf), ("/etc/hosts", &pod.hosts)] {
        if let Some(text) = text {
            let content = Content::File { bytes: text.as_bytes(), mode: 0o644, read_only: false };
            overlays.push(Overlay { path: Path::new(path), content });
        }
    }
    for Mount { path, content } in &pod.mounts {
        let content = match content {
            MountContent::Directory(files) => Content::Directory(files),
            MountContent::File(file) if !file.path.is_empty() => {
                return Err(Failure::refused(format!("mount the single file {path}"), "its own path must be empty"));
            }
            MountContent::File(MountedFile { path: _, bytes, mode }) => {
                Content::File { bytes, mode: *mode, read_only: true }
            }
            MountContent::Empty => Content::Empty,
            MountContent::Host { path: source, read_only } => {
                let step = || format!("mount {source} of the host on {path}");
                if !Path::new(source).is_absolute() {
                    return Err(Failure::refused(step(), "the path on the host is not absolute"));
                }
                // Looked up in the pod's root, where the host's absolute links lead to the same places.
                let source = fs::canonicalize(source).map_err(failed(step()))?;
                Content::Host { source: on_host(&source), read_only: *read_only }
            }
        };
        overlays.push(Overlay { path: Path::new(path), content });
    }
    Ok(overlays)
}

/// Where a path of the host is while the view is built.
fn on_host(path: &Path) -> PathBuf {
    Path::new(HOST).join(path.strip_prefix("/").unwrap_or(path))
}

impl Overlay<'_> {
    fn step(&self) -> String {
        format!("mount {}", self.path.display())
    }

    fn is_directory(&self) -> bool {
        match &self.content {
            Content::Directory(_) | Content::Empty => true,
            Content::File { .. } => false,
            Content::Host { source, .. } => source.is_dir(),
        }
    }

    fn mount(&self, number: usize, target: &Path) -> Result<(), Failure> {
        match &self.content {
            Content::Directory(files) => {
                tmpfs(target, "mode=0755")?;
                for file in *files {
                    write_under(target, file)?;
                }
                make_read_only(target, false)
            }
            Content::File { bytes, mode, read_only } => {
                let source = Path::new(FILES).join(number.to_string());
                write(&source, bytes, *mode)?;
                bind(&source, target).map_err(failed("bind the file"))?;
                if *read_only { make_read_only(target, true) } else { Ok(()) }
            }
            Content::Empty => tmpfs(target, "mode=0777"),
            Content::Host { source, read_only } => {
                bind(source, target).map_err(failed("bind what the host has"))?;
                if *read_only { make_read_only(target, true) } else { Ok(()) }
            }
        }
    }
}

/// Replaces the directories that some path is missing from by ones of ours with the same entries. Returns them.
fn take_over(paths: &[&Path]) -> Result<BTreeSet<PathBuf>, Failure> {
    let mut wanted = BTreeSet::new();
    for path in paths {
        let (existing, missing) = deepest_existing(path);
        if !missing.is_empty() && existing.is_dir() {
            let step = || format!("find a place for {}", path.display());
            wanted.insert(fs::canonicalize(existing).map_err(failed(step()))?);
        }
    }
    // In order, parents come first: else they would hide what was done below them.
    for directory in wanted.iter().filter(|directory| directory.parent().is_some()) {
        let host = on_host(directory);
        let mode = fs::metadata(&host).map_or(0o755, |found| found.mode() & 0o7777);
        tmpfs(directory, &format!("mode={mode:o}"))?;
        bind_entries(&host, directory)?;
    }
    wanted.insert(PathBuf::from("/"));
    Ok(wanted)
}

/// Makes sure that something can be mounted on the path, and returns where it really is.
fn place(overlay: &Overlay<'_>, ours: &mut BTreeSet<PathBuf>) -> Result<PathBuf, Failure> {
    let (path, directory) = (overlay.path, overlay.is_directory());
    let step = || format!("find a place for {}", path.display());
    let refused = |why| Err(Failure::refused(step(), why));
    if !path.is_absolute() || path.components().any(|part| part == Component::ParentDir) {
        return refused("the path must be absolute and without '..'");
    }
    let (existing, missing) = deepest_existing(path);
    let mut at = fs::canonicalize(existing).map_err(failed(step()))?;
    let Some((last, between)) = missing.split_last() else {
        return match (directory, at.is_dir()) {
            (true, false) => refused("the host has a file there"),
            (false, true) => refused("the host has a directory there"),
            _ if at.parent().is_none() => refused("the root itself cannot be replaced"),
            _ => Ok(at),
        };
    };
    if !at.is_dir() {
        return refused("a part of the path is a file on the host");
    }
    if !ours.contains(&at) {
        return refused("another volume is in the way");
    }
    for part in between {
        at.push(part);
        make(&at, true).map_err(failed(step()))?;
        ours.insert(at.clone());
    }
    at.push(last);
    make(&at, directory).map_err(failed(step()))?;
    if directory {
        ours.insert(at.clone());
    }
    Ok(at)
}

/// A new file or directory, in place of a link that leads nowhere (else its path would exist).
fn make(path: &Path, directory: bool) -> io::Result<()> {
    if path.is_symlink() {
        fs::remove_file(path)?;
    }
    if directory { fs::DirBuilder::new().mode(0o755).create(path) } else { fs::write(path, "") }
}

/// The longest part of a path that exists (following links), and the names after it.
fn deepest_existing(path: &Path) -> (&Path, Vec<&std::ffi::OsStr>) {
    let (mut existing, mut missing) = (path, Vec::new());
    while !existing.exists() {
        let (Some(parent), Some(name)) = (existing.parent(), existing.file_name()) else { break };
        missing.insert(0, name);
        existing = parent;
    }
    (existing, missing)
}

fn write_under(directory: &Path, file: &MountedFile) -> Result<(), Failure> {
    let relative = Path::new(&file.path);
    if file.path.is_empty() || !relative.components().all(|part| matches!(part, Component::Normal(_))) {
        return Err(Failure::refused(
            format!("write the file {:?}", file.path),
            "the path must be relative, without '..'",
        ));
    }
    let path = directory.join(relative);
    if let Some(parent) = path.parent() {
        let made = fs::DirBuilder::new().recursive(true).mode(0o755).create(parent);
        made.map_err(failed(format!("make {}", parent.display())))?;
    }
    write(&path, &file.bytes, file.mode)
}

fn write(path: &Path, bytes: &[u8], mode: u32) -> Result<(), Failure> {
    fs::write(path, bytes)
        .and_then(|()| fs::set_permissions(path, Permissions::from_mode(mode & 0o777)))
        .map_err(failed(format!("write {}", path.display())))
}
