use std::sync::atomic::AtomicUsize;

use lateen_traffic::cluster::DnsFamily;

use super::*;

fn settings() -> NameCache {
    NameCache {
        name: "c".into(),
        family: DnsFamily::V4,
        refresh: Duration::from_secs(60),
        keep: Duration::from_secs(300),
        timeout: Duration::from_secs(5),
        max_hosts: 2,
        max_pending: 2,
    }
}

/// Answers `a.test` with 10.0.0.N on the Nth lookup, nothing else; counts lookups.
fn caches() -> (NameCaches, Arc<AtomicUsize>) {
    let count = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&count);
    let caches = NameCaches::with_lookup(move |host| {
        let number = counted.fetch_add(1, Ordering::Relaxed) + 1;
        async move {
            match &*host {
                "a.test" | "b.test" => Ok(vec![IpAddr::from([10, 0, 0, number as u8]), "::1".parse().unwrap()]),
                "never.test" => futures::future::pending().await,
                _ => Err(io::Error::other("Name or service not known")),
            }
        }
        .boxed()
    });
    (caches, count)
}

#[test]
fn authorities() {
    for (authority, expected) in [
        ("a.test", Some(("a.test", 80))),
        ("a.test:81", Some(("a.test", 81))),
        ("[::1]:81", Some(("::1", 81))),
        ("[::1]", Some(("::1", 80))),
        ("a.test:x", None),
        ("a.test:99999", None),
        ("[::1]x", None),
        ("[::1", None),
        (":80", None),
        ("", None),
    ] {
        assert_eq!(split(authority, 80), expected, "{authority}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_name_is_looked_up_once_and_again_when_it_is_old() {
    let (caches, count) = caches();
    let address = async |authority: &str| caches.resolve(&settings(), authority, 80).await.unwrap().to_string();
    assert_eq!(address("A.test").await, "10.0.0.1:80");
    assert_eq!(address("a.test:81").await, "10.0.0.1:81");
    assert_eq!(count.load(Ordering::Relaxed), 1);
    tokio::time::advance(Duration::from_secs(61)).await;
    // The old address serves while the new one is looked up.
    assert_eq!(address("a.test").await, "10.0.0.1:80");
    tokio::time::sleep(Duration::from_millis(1)).await;
    assert_eq!(address("a.test").await, "10.0.0.2:80");
    assert_eq!(count.load(Ordering::Relaxed), 2);
}

#[tokio::test(start_paused = true)]
async fn addresses_need_no_lookup() {
    let (caches, count) = caches();
    assert_eq!(caches.resolve(&settings(), "10.1.1.1:8080", 80).await.unwrap().to_string(), "10.1.1.1:8080");
    assert_eq!(count.load(Ordering::Relaxed), 0);
}

#[tokio::test(start_paused = true)]
async fn failures_are_kept_for_a_while() {
    let (caches, count) = caches();
    let failure = NameFailure::Unresolved("Name or service not known".into());
    assert_eq!(caches.resolve(&settings(), "no.test", 80).await, Err(failure.clone()));
    assert_eq!(caches.resolve(&settings(), "no.test", 80).await, Err(failure.clone()));
    assert_eq!(count.load(Ordering::Relaxed), 1);
    tokio::time::advance(Duration::from_secs(6)).await;
    assert_eq!(caches.resolve(&settings(), "no.test", 80).await, Err(failure));
    assert_eq!(count.load(Ordering::Relaxed), 2);
}

#[tokio::test(start_paused = true)]
async fn the_number_of_names_is_limited_and_unused_ones_go() {
    let (caches, _) = caches();
    for name in ["a.test", "b.test"] {
        caches.resolve(&settings(), name, 80).await.unwrap();
    }
    assert_eq!(caches.resolve(&settings(), "c.test", 80).await, Err(NameFailure::CacheFull));
    tokio::time::advance(Duration::from_secs(301)).await;
    assert!(matches!(caches.resolve(&settings(), "c.test", 80).await, Err(NameFailure::Unresolved(_))));
}

#[tokio::test(start_paused = true)]
async fn waiting_requests_are_limited_and_lookups_end() {
    let (caches, _) = caches();
    let (caches, settings) = (Arc::new(caches), Arc::new(settings()));
    let ask = || {
        let (caches, settings) = (Arc::clone(&caches), Arc::clone(&settings));
        tokio::spawn(async move { caches.resolve(&settings, "never.test", 80).await })
    };
    let waiting = [ask(), ask()];
    tokio::task::yield_now().await;
    assert_eq!(ask().await.unwrap(), Err(NameFailure::TooManyWait));
    for one in waiting {
        assert_eq!(one.await.unwrap(), Err(NameFailure::Unresolved("timed out".into())));
    }
}
