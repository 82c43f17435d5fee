//! Hosts that requests name: looked up when first asked for, kept while they are (Envoy's DNS cache).
//!
//! One cache of a name serves all workers. Lookups are the system's (`getaddrinfo`), which tells no time to live: a name
//! is looked up again after the cache's own. Meanwhile its old addresses serve; a failed lookup leaves them.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::FutureExt as _;
use futures::future::BoxFuture;
use lateen_traffic::cluster::NameCache;
use lateen_traffic::reply::NameFailure;
use tokio::sync::{Semaphore, watch};
use tokio::time::Instant;

/// Lookups under way at once. Each occupies a thread.
const CONCURRENT: usize = 8;

/// A name that does not exist is not looked up again for this time.
const FAILURE_KEPT: Duration = Duration::from_secs(5);

/// The longest name there is (RFC 1035, section 2.3.4).
const LONGEST: usize = 255;

type Lookup = Arc<dyn Fn(Arc<str>) -> BoxFuture<'static, io::Result<Vec<IpAddr>>> + Send + Sync>;

/// All caches, by name.
pub struct NameCaches {
    lookup: Lookup,
    caches: Mutex<HashMap<Arc<str>, Arc<Cache>>>,
}

impl Default for NameCaches {
    fn default() -> Self {
        Self::with_lookup(|host| {
            async move {
                let found = tokio::net::lookup_host((&*host, 0)).await?;
                Ok(found.map(|address| address.ip().to_canonical()).collect())
            }
            .boxed()
        })
    }
}

impl NameCaches {
    /// With a resolver of one's own, which may take its time and fail.
    pub fn with_lookup(
        lookup: impl Fn(Arc<str>) -> BoxFuture<'static, io::Result<Vec<IpAddr>>> + Send + Sync + 'static,
    ) -> Self {
        Self { lookup: Arc::new(lookup), caches: Mutex::default() }
    }

    /// Forgets caches that no cluster has any more.
    pub fn retain(&self, keep: impl Fn(&str) -> bool) {
        lock(&self.caches).retain(|name, _| keep(name));
    }

    /// The address of `authority`, a host with or without a port.
    ///
    /// # Errors
    /// Why there is none.
    pub async fn resolve(
        &self,
        settings: &NameCache,
        authority: &str,
        default_port: u16,
    ) -> Result<SocketAddr, NameFailure> {
        let (host, port) = split(authority, default_port).ok_or(NameFailure::Unresolved("misformatted name".into()))?;
        if let Ok(ip) = host.parse::<IpAddr>() {
            return Ok(SocketAddr::new(ip, port));
        }
        let cache = {
            let mut caches = lock(&self.caches);
            match caches.get(&settings.name) {
                Some(cache) => Arc::clone(cache),
                None => {
                    let cache = Arc::new(Cache::new(Arc::clone(&self.lookup)));
                    caches.insert(Arc::clone(&settings.name), Arc::clone(&cache));
                    cache
                }
            }
        };
        let addresses = cache.addresses(settings, host.to_ascii_lowercase()).await?;
        let of_family = settings.family.of(&addresses).next();
        of_family.map(|ip| SocketAddr::new(ip, port)).ok_or(NameFailure::Unresolved("no address".into()))
    }
}

/// Host and port of an authority; `None` if it is none.
fn split(authority: &str, default_port: u16) -> Option<(&str, u16)> {
    let (host, port) = match authority.strip_prefix('[') {
        Some(rest) => {
            let (host, rest) = rest.split_once(']')?;
            let port = rest.strip_prefix(':');
            if port.is_none() && !rest.is_empty() {
                return None;
            }
            (host, port)
        }
        None => match authority.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (authority, None),
        },
    };
    let port = match port {
        Some(port) => port.parse().ok()?,
        None => default_port,
    };
    (!host.is_empty() && host.len() <= LONGEST).then_some((host, port))
}

type Answer = Result<Arc<[IpAddr]>, Arc<str>>;

/// Names and their addresses.
struct Cache {
    lookup: Lookup,
    slots: Semaphore,
    waiting: AtomicU32,
    names: Mutex<HashMap<Arc<str>, Name>>,
}

struct Name {
    /// `None` until the first lookup has ended.
    answer: watch::Receiver<Option<Answer>>,
    sender: watch::Sender<Option<Answer>>,
    used: Instant,
    renew_at: Instant,
}

impl Cache {
    fn new(lookup: Lookup) -> Self {
        Self { lookup, slots: Semaphore::new(CONCURRENT), waiting: AtomicU32::new(0), names: Mutex::default() }
    }

    async fn addresses(self: &Arc<Self>, settings: &NameCache, host: String) -> Result<Arc<[IpAddr]>, NameFailure> {
        let mut answer = {
            let mut names = lock(&self.names);
            let now = Instant::now();
            match names.get_mut(&*host) {
                Some(name) => {
                    name.used = now;
                    let mut known = name.answer.borrow().clone();
                    if known.is_some() && now >= name.renew_at {
                        // One lookup at a time: the next is due when this one has had its time.
                        name.renew_at = now + settings.timeout + settings.refresh;
                        if matches!(known, Some(Err(_))) {
                            known = None;
                            name.sender.send_replace(None);
                        }
                        self.begin(host.into(), name.sender.clone(), settings);
                    }
                    if let Some(known) = known {
                        return known.map_err(NameFailure::Unresolved);
                    }
                    name.answer.clone()
                }
                None => {
                    let most = settings.max_hosts as usize;
                    if names.len() >= most {
                        names.retain(|_, name| now.duration_since(name.used) < settings.keep);
                    }
                    if names.len() >= most {
                        return Err(NameFailure::CacheFull);
                    }
                    let (sender, answer) = watch::channel(None);
                    let host: Arc<str> = host.into();
                    self.begin(Arc::clone(&host), sender.clone(), settings);
                    let name = Name { answer: answer.clone(), sender, used: now, renew_at: now + settings.refresh };
                    names.insert(host, name);
                    answer
                }
            }
        };
        let _waiting = Waiting::new(&self.waiting, settings.max_pending).ok_or(NameFailure::TooManyWait)?;
        let answer = answer.wait_for(Option::is_some).await.map(|answer| answer.clone());
        match answer {
            Ok(Some(answer)) => answer.map_err(NameFailure::Unresolved),
            // The worker that looked it up is going away, and so is the process.
            Ok(None) | Err(_) => Err(NameFailure::Unresolved("the lookup was given up".into())),
        }
    }

    fn begin(self: &Arc<Self>, host: Arc<str>, sender: watch::Sender<Option<Answer>>, settings: &NameCache) {
        let (cache, timeout, refresh) = (Arc::clone(self), settings.timeout, settings.refresh);
        tokio::spawn(async move {
            // Never closed.
            let Ok(_slot) = cache.slots.acquire().await else { return };
            let answer: Answer = match tokio::time::timeout(timeout, (cache.lookup)(Arc::clone(&host))).await {
                Ok(Ok(addresses)) if addresses.is_empty() => Err("no address".into()),
                Ok(Ok(addresses)) => Ok(addresses.into()),
                Ok(Err(error)) => Err(error.to_string().into()),
                Err(_) => Err("timed out".into()),
            };
            let failed = answer.is_err();
            if failed {
                tracing::debug!(%host, "name not resolved");
            }
            let pause = if failed { FAILURE_KEPT.min(refresh) } else { refresh };
            if let Some(name) = lock(&cache.names).get_mut(&host) {
                name.renew_at = Instant::now() + pause;
            }
            sender.send_if_modified(|known| {
                // The last good answer stays.
                let keep = failed && matches!(known, Some(Ok(_)));
                if !keep {
                    *known = Some(answer);
                }
                !keep
            });
        });
    }
}

/// Counts a request that waits, while it does.
struct Waiting<'a>(&'a AtomicU32);

impl<'a> Waiting<'a> {
    fn new(count: &'a AtomicU32, most: u32) -> Option<Self> {
        if count.fetch_add(1, Ordering::Relaxed) >= most {
            count.fetch_sub(1, Ordering::Relaxed);
            return None;
        }
        Some(Self(count))
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// What is kept is never left half changed.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
#[path = "named_tests.rs"]
mod tests;
