//! An authority kept in a directory that nobody else may read.
//!
//! `ca-cert.pem`, `ca-key.pem`, `root-cert.pem` and `cert-chain.pem` are the issuer that signs; a root that has been
//! announced is in `announced/`, with the time from which it signs; `retiring.json` has the roots on their way out, and
//! `issued-until` says when nothing holds any more that the issuer has signed.
//! A file is replaced as a whole or not at all.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::authority::{Authority, Files, Issuer, IssuerError, Retiring, Settings};
use crate::certificate;

const ANNOUNCED: &str = "announced";
const SIGNS_FROM: &str = "signs-from";
const RETIRING: &str = "retiring.json";
const ISSUED_UNTIL: &str = "issued-until";
/// Nothing that belongs here is longer.
const MAX_FILE_BYTES: u64 = 1 << 20;

/// Why an authority cannot be kept, or was kept badly.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    #[error("{}: {source}", path.display())]
    Io { path: PathBuf, source: io::Error },
    #[error("{}: {reason}", path.display())]
    Damaged { path: PathBuf, reason: String },
    #[error("{}: {source}", path.display())]
    Issuer { path: PathBuf, source: IssuerError },
    #[error("{} can be read by others (mode {mode:o}): make it 0600", path.display())]
    Open { path: PathBuf, mode: u32 },
}

#[derive(Serialize, Deserialize)]
struct KeptRoot {
    root: String,
    /// Seconds since 1970.
    until: u64,
}

/// The directory.
#[derive(Clone, Debug)]
pub struct Store {
    directory: PathBuf,
}

impl Store {
    /// A store in this directory, made for nobody else if it is missing.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn at(directory: PathBuf) -> Result<Self, StoreError> {
        DirBuilder::new().recursive(true).mode(0o700).create(&directory).map_err(failed(&directory))?;
        Ok(Self { directory })
    }

    /// The authority kept here, or a new one, which is kept before it is used: with the issuer a person brings, else
    /// with a root of its own.
    ///
    /// # Errors
    /// When what is kept is damaged or open to others, or what is brought does not fit: nothing is replaced by a new
    /// root unasked.
    pub fn load(&self, settings: Settings, brought: Option<&Files>, now: SystemTime) -> Result<Authority, StoreError> {
        let Some(files) = read_issuer(&self.directory)? else {
            let made = match brought {
                Some(files) => Issuer::from_files(files, &settings.trust_domains.own, now),
                None => Issuer::self_signed(&settings.trust_domains.own, settings.key_type, settings.root_life, now),
            };
            let made = made.map_err(|source| StoreError::Issuer { path: self.directory.clone(), source })?;
            let authority = Authority::new(settings, made);
            self.keep(&authority)?;
            return Ok(authority);
        };
        let issuer = |path: &Path, files: &Files| {
            Issuer::from_files(files, &settings.trust_domains.own, now)
                .map_err(|source| StoreError::Issuer { path: path.to_owned(), source })
        };
        let signing = issuer(&self.directory, &files)?;
        let place = self.directory.join(ANNOUNCED);
        let announced = match (read_issuer(&place)?, read_time(&place.join(SIGNS_FROM))?) {
            (Some(files), Some(from)) => Some((issuer(&place, &files)?, from)),
            _ => None,
        };
        let path = self.directory.join(RETIRING);
        let kept = read(&path)?.unwrap_or_else(|| Zeroizing::new("[]".to_owned()));
        let kept: Vec<KeptRoot> = serde_json::from_str(&kept).map_err(|error| damaged(&path, &error))?;
        let mut retiring = Vec::new();
        for KeptRoot { root, until } in kept {
            let roots = certificate::read_pem(&root).map_err(|error| damaged(&path, &error))?;
            retiring.extend(roots.into_iter().map(|root| Retiring { root, until: since(until) }));
        }
        // One that kept no such time has signed for as long as is allowed.
        let issued_until = read_time(&self.directory.join(ISSUED_UNTIL))?.unwrap_or(now + settings.max_ttl);
        Ok(Authority::kept(settings, signing, announced, retiring, issued_until))
    }

    /// Keeps when the last certificate expires.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn keep_issued_until(&self, time: SystemTime) -> Result<(), StoreError> {
        write(&self.directory.join(ISSUED_UNTIL), seconds(time + Duration::from_secs(1)).to_string().as_bytes())
    }

    /// Keeps the authority as it is now. The roots go first: whatever is interrupted, no root is forgotten under which
    /// something may have been signed.
    ///
    /// # Errors
    /// When a file cannot be written.
    pub fn keep(&self, authority: &Authority) -> Result<(), StoreError> {
        let kept: Vec<KeptRoot> = authority
            .retiring()
            .iter()
            .map(|Retiring { root, until }| KeptRoot { root: certificate::to_pem([root]), until: seconds(*until) })
            .collect();
        let text = serde_json::to_string_pretty(&kept).map_err(|error| damaged(&self.directory, &error))?;
        write(&self.directory.join(RETIRING), text.as_bytes())?;
        self.keep_issued_until(authority.issued_until())?;
        write_issuer(&self.directory, authority.signing())?;
        let place = self.directory.join(ANNOUNCED);
        match authority.announced() {
            Some((issuer, from)) => {
                DirBuilder::new().recursive(true).mode(0o700).create(&place).map_err(failed(&place))?;
                write_issuer(&place, issuer)?;
                write(&place.join(SIGNS_FROM), seconds(*from).to_string().as_bytes())
            }
            None => match fs::remove_dir_all(&place) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => Err(failed(&place)(error)),
                _ => Ok(()),
            },
        }
    }
}

fn failed(path: &Path) -> impl Fn(io::Error) -> StoreError {
    let path = path.to_owned();
    move |source| StoreError::Io { path: path.clone(), source }
}

fn damaged(path: &Path, reason: &dyn std::fmt::Display) -> StoreError {
    StoreError::Damaged { path: path.to_owned(), reason: reason.to_string() }
}

fn since(seconds: u64) -> SystemTime {
    // A century from any now: times beyond it are somebody's mistake, and must not overflow.
    SystemTime::UNIX_EPOCH + Duration::from_secs(seconds.min(1 << 34))
}

fn seconds(time: SystemTime) -> u64 {
    time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs()
}

fn read_time(path: &Path) -> Result<Option<SystemTime>, StoreError> {
    let Some(text) = read(path)? else { return Ok(None) };
    let seconds = text.trim().parse().map_err(|_| damaged(path, &"no number of seconds"))?;
    Ok(Some(since(seconds)))
}

/// The issuer in a directory; `None` if there is no certificate and no key.
fn read_issuer(directory: &Path) -> Result<Option<Files>, StoreError> {
    let path = |name| directory.join(name);
    let (certificate, key) = (read(&path("ca-cert.pem"))?, read_private(&path("ca-key.pem"))?);
    let (certificate, key) = match (certificate, key) {
        (None, None) => return Ok(None),
        (Some(certificate), Some(key)) => (certificate, key),
        (None, Some(_)) => return Err(damaged(&path("ca-cert.pem"), &"is missing beside ca-key.pem")),
        (Some(_), None) => return Err(damaged(&path("ca-key.pem"), &"is missing beside ca-cert.pem")),
    };
    let root = read(&path("root-cert.pem"))?.ok_or_else(|| damaged(&path("root-cert.pem"), &"is missing"))?;
    let chain = read(&path("cert-chain.pem"))?.map(|text| text.to_string()).unwrap_or_default();
    Ok(Some(Files { certificate: certificate.to_string(), key, root: root.to_string(), chain }))
}

fn write_issuer(directory: &Path, issuer: &Issuer) -> Result<(), StoreError> {
    let Files { certificate, key, root, chain } = issuer.to_files();
    let files: [(&str, &[u8]); 4] = [
        ("root-cert.pem", root.as_bytes()),
        ("cert-chain.pem", chain.as_bytes()),
        ("ca-key.pem", key.as_bytes()),
        ("ca-cert.pem", certificate.as_bytes()),
    ];
    files.into_iter().try_for_each(|(name, bytes)| write(&directory.join(name), bytes))
}

/// A file's text; `None` if it is not there.
fn read(path: &Path) -> Result<Option<Zeroizing<String>>, StoreError> {
    let length = match fs::metadata(path) {
        Ok(found) => found.len(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(failed(path)(error)),
    };
    if length > MAX_FILE_BYTES {
        return Err(damaged(path, &format!("has more than {MAX_FILE_BYTES} bytes")));
    }
    fs::read_to_string(path).map(|text| Some(Zeroizing::new(text))).map_err(failed(path))
}

/// As [`read`], of a file that others must not be able to read.
fn read_private(path: &Path) -> Result<Option<Zeroizing<String>>, StoreError> {
    let mode = fs::metadata(path).map_or(0, |found| found.permissions().mode() & 0o777);
    if mode & 0o077 != 0 {
        return Err(StoreError::Open { path: path.to_owned(), mode });
    }
    read(path)
}

fn write(path: &Path, bytes: &[u8]) -> Result<(), StoreError> {
    if fs::read(path).is_ok_and(|there| Zeroizing::new(there).as_slice() == bytes) {
        return Ok(());
    }
    let mut name = path.as_os_str().to_owned();
    name.push(".new");
    let new = PathBuf::from(name);
    let written = (|| {
        match fs::remove_file(&new) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&new)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&new, path)?;
        path.parent().map_or(Ok(()), |directory| File::open(directory)?.sync_all())
    })();
    written.map_err(failed(path))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::key::Key;
    use crate::request::{self, SigningRequest};
    use crate::spiffe::Identity;

    fn settings() -> Settings {
        Settings {
            default_ttl: Duration::from_secs(60),
            max_ttl: Duration::from_secs(3600),
            announce: Duration::from_secs(5),
            ..Settings::default()
        }
    }

    fn load(directory: &Path, now: SystemTime) -> Result<Authority, StoreError> {
        Store::at(directory.to_owned())?.load(settings(), None, now)
    }

    #[test]
    fn the_root_is_made_once_and_kept_from_others() {
        let parent = tempfile::tempdir().unwrap();
        let directory = parent.path().join("ca");
        let now = SystemTime::now();
        let first = load(&directory, now).unwrap();
        assert_eq!(load(&directory, now).unwrap().roots(), first.roots());
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(&directory), 0o700);
        for entry in fs::read_dir(&directory).unwrap() {
            assert_eq!(mode(&entry.unwrap().path()), 0o600);
        }
        fs::set_permissions(directory.join("ca-key.pem"), fs::Permissions::from_mode(0o640)).unwrap();
        assert!(matches!(load(&directory, now), Err(StoreError::Open { mode: 0o640, .. })));
    }

    #[test]
    fn a_rotation_goes_on_where_it_was() {
        let parent = tempfile::tempdir().unwrap();
        let now = SystemTime::now();
        let mut authority = load(parent.path(), now).unwrap();
        let old = authority.roots();
        let Settings { trust_domains, key_type, root_life, .. } = settings();
        let next = Issuer::self_signed(&trust_domains.own, key_type, root_life, now).unwrap();
        let key = Key::generate(key_type).unwrap();
        let caller = Identity::new(trust_domains.own, "shop", "web").unwrap();
        let request = SigningRequest::read(&request::write(&key, &caller).unwrap()).unwrap();
        let until = authority.sign(&request, &caller, None, now).unwrap().not_after;
        authority.follow(next, now);
        let store = Store::at(parent.path().to_owned()).unwrap();
        store.keep(&authority).unwrap();
        let mut again = load(parent.path(), now).unwrap();
        assert_eq!(again.roots(), authority.roots());
        assert!(!again.advance(now));
        assert!(again.advance(now + Duration::from_secs(6)));
        store.keep(&again).unwrap();
        let third = load(parent.path(), now).unwrap();
        assert_eq!(third.roots(), again.roots());
        assert_eq!(third.roots().last(), old.last());
        // Just until the last certificate under it expires, and not until the last that could have been.
        let kept = third.retiring()[0].until;
        assert!(kept >= until && kept <= until + Duration::from_secs(2), "{kept:?}");
        assert!(third.announced().is_none());
        assert!(!parent.path().join(ANNOUNCED).exists());
    }

    #[test]
    fn what_is_damaged_is_never_replaced_unasked() {
        let parent = tempfile::tempdir().unwrap();
        let now = SystemTime::now();
        load(parent.path(), now).unwrap();
        fs::remove_file(parent.path().join("ca-cert.pem")).unwrap();
        assert!(matches!(load(parent.path(), now), Err(StoreError::Damaged { .. })));
        fs::write(parent.path().join("ca-cert.pem"), "nothing").unwrap();
        assert!(matches!(load(parent.path(), now), Err(StoreError::Issuer { .. })));
    }
}
