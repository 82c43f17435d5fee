use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use lateen_traffic::cluster::DnsFamily;

use super::*;

type Answer = io::Result<Vec<IpAddr>>;
/// Answers to one name, one after the other; `None` fails.
type Script = VecDeque<Option<Vec<IpAddr>>>;

/// A name server that answers from a list, and then with its last answer; it counts what it was asked.
#[derive(Clone, Default)]
struct Fake {
    answers: Arc<Mutex<HashMap<String, Script>>>,
    asked: watch::Sender<Vec<String>>,
}

impl Fake {
    fn with(self, host: &str, answers: &[Option<&str>]) -> Self {
        let parse = |list: &str| list.split(' ').filter(|a| !a.is_empty()).map(|a| a.parse().unwrap()).collect();
        lock(&self.answers).insert(host.into(), answers.iter().map(|a| a.map(parse)).collect());
        self
    }

    fn lookup(&self) -> impl Fn(Arc<str>) -> BoxFuture<'static, Answer> + Send + Sync + 'static {
        let fake = self.clone();
        move |host| {
            let answer = {
                let mut answers = lock(&fake.answers);
                let list = answers.entry(host.to_string()).or_default();
                if list.len() > 1 { list.pop_front().flatten() } else { list.front().cloned().flatten() }
            };
            fake.asked.send_modify(|asked| asked.push(host.to_string()));
            async move { answer.ok_or_else(|| io::Error::other("no answer")) }.boxed()
        }
    }

    async fn asked(&self, host: &str, times: usize) {
        let mut asked = self.asked.subscribe();
        asked.wait_for(|asked| asked.iter().filter(|h| *h == host).count() >= times).await.unwrap();
    }
}

fn wanted(names: &[(&str, u64)]) -> BTreeMap<Arc<str>, Duration> {
    names.iter().map(|(host, ms)| (Arc::from(*host), Duration::from_millis(*ms))).collect()
}

fn known(answers: &Answers, host: &str) -> Option<Vec<String>> {
    answers.get(host).map(|list| list.iter().map(ToString::to_string).collect())
}

async fn wait_for(answers: &mut watch::Receiver<Arc<Answers>>, host: &str, addresses: Option<&[&str]>) {
    let expected = addresses.map(|list| list.iter().map(|a| (*a).to_owned()).collect::<Vec<_>>());
    let found = answers.wait_for(|answers| known(answers, host) == expected);
    tokio::time::timeout(Duration::from_secs(60), found).await.expect("in time").unwrap();
}

#[tokio::test]
async fn names_are_resolved_and_followed() {
    let fake = Fake::default().with("a", &[Some("10.0.0.2 10.0.0.1"), Some("10.0.0.1 10.0.0.2"), Some("10.0.0.3")]);
    let resolver = Resolver::with_lookup(Stats::new(1), fake.lookup());
    let mut answers = resolver.answers();
    resolver.watch_names(&wanted(&[("a", 5)]));
    answers.changed().await.unwrap();
    assert_eq!(known(&answers.borrow_and_update(), "a"), Some(vec!["10.0.0.1".into(), "10.0.0.2".into()]));
    // The second answer is the same in another order: the next change is the third.
    answers.changed().await.unwrap();
    assert_eq!(known(&answers.borrow_and_update(), "a"), Some(vec!["10.0.0.3".into()]));
    fake.asked("a", 6).await;
    assert!(!answers.has_changed().unwrap());
}

#[tokio::test]
async fn a_failure_keeps_the_last_answer() {
    let stats = Stats::new(1);
    let fake = Fake::default().with("a", &[Some("10.0.0.1"), None]).with("b", &[None, None, Some("::1")]);
    let resolver = Resolver::with_lookup(stats.clone(), fake.lookup());
    let mut answers = resolver.answers();
    resolver.watch_names(&wanted(&[("a", 5), ("b", 5)]));
    // The first failure is an answer, so that nobody waits for ever.
    wait_for(&mut answers, "b", Some(&[])).await;
    wait_for(&mut answers, "b", Some(&["::1"])).await;
    fake.asked("a", 3).await;
    assert_eq!(known(&answers.borrow(), "a"), Some(vec!["10.0.0.1".into()]));
    assert!(stats.dns.get_addr_failure.get() >= 3);
    assert!(stats.dns.resolve_total.get() > stats.dns.get_addr_failure.get());
}

#[tokio::test]
async fn an_empty_answer_takes_the_addresses_away() {
    let fake = Fake::default().with("a", &[Some("10.0.0.1"), Some("")]);
    let resolver = Resolver::with_lookup(Stats::new(1), fake.lookup());
    let mut answers = resolver.answers();
    resolver.watch_names(&wanted(&[("a", 5)]));
    wait_for(&mut answers, "a", Some(&["10.0.0.1"])).await;
    wait_for(&mut answers, "a", Some(&[])).await;
}

#[tokio::test]
async fn only_new_names_are_asked_and_old_ones_go() {
    let fake = Fake::default().with("a", &[Some("10.0.0.1")]).with("b", &[Some("10.0.0.2")]);
    let resolver = Resolver::with_lookup(Stats::new(1), fake.lookup());
    let mut answers = resolver.answers();
    let hour = 3_600_000;
    resolver.watch_names(&wanted(&[("a", hour)]));
    wait_for(&mut answers, "a", Some(&["10.0.0.1"])).await;
    resolver.watch_names(&wanted(&[("a", hour), ("b", hour)]));
    wait_for(&mut answers, "b", Some(&["10.0.0.2"])).await;
    assert_eq!(*fake.asked.borrow(), ["a", "b"]);
    resolver.watch_names(&wanted(&[("b", hour)]));
    wait_for(&mut answers, "a", None).await;
    assert_eq!(known(&answers.borrow(), "b"), Some(vec!["10.0.0.2".into()]));
}

#[tokio::test]
async fn lookups_are_few_at_once() {
    let running = watch::Sender::new(0);
    let most = Arc::new(AtomicUsize::new(0));
    let gate = Arc::new(Semaphore::new(0));
    let resolver = Resolver::with_lookup(Stats::new(1), {
        let (running, most, gate) = (running.clone(), most.clone(), gate.clone());
        move |_| {
            let (running, most, gate) = (running.clone(), most.clone(), gate.clone());
            async move {
                running.send_modify(|n| {
                    *n += 1;
                    most.fetch_max(*n, Relaxed);
                });
                gate.acquire().await.unwrap().forget();
                running.send_modify(|n| *n -= 1);
                Ok(vec!["10.0.0.1".parse().unwrap()])
            }
            .boxed()
        }
    });
    let names: BTreeMap<Arc<str>, Duration> =
        (0..50).map(|i| (Arc::from(format!("h{i}")), Duration::from_secs(3600))).collect();
    let mut answers = resolver.answers();
    resolver.watch_names(&names);
    running.subscribe().wait_for(|n| *n == CONCURRENT).await.unwrap();
    gate.add_permits(50);
    answers.wait_for(|answers| answers.len() == 50).await.unwrap();
    assert_eq!(most.load(Relaxed), CONCURRENT);
}

#[tokio::test]
async fn the_systems_resolver_knows_localhost() {
    let stats = Stats::new(1);
    let resolver = Resolver::new(stats.clone());
    let mut answers = resolver.answers();
    resolver.watch_names(&wanted(&[("localhost", 3_600_000), ("127.0.0.5", 3_600_000)]));
    wait_for(&mut answers, "127.0.0.5", Some(&["127.0.0.5"])).await;
    let local = |answers: &Arc<Answers>| answers.get("localhost").is_some_and(|a| a.iter().all(IpAddr::is_loopback));
    tokio::time::timeout(Duration::from_secs(60), answers.wait_for(local)).await.expect("in time").unwrap();
    assert!(!answers.borrow()["localhost"].is_empty());
    assert_eq!(stats.dns.pending_resolutions.get(), 0);
}

#[test]
fn families_are_chosen() {
    let both: Vec<IpAddr> = ["10.0.0.1", "::1"].iter().map(|a| a.parse().unwrap()).collect();
    let pick = |list: &[IpAddr], family: DnsFamily| family.of(list).collect::<Vec<_>>();
    assert_eq!(pick(&both, DnsFamily::V4), both[..1]);
    assert_eq!(pick(&both, DnsFamily::V6), both[1..]);
    assert_eq!(pick(&both, DnsFamily::V4Preferred), both[..1]);
    assert_eq!(pick(&both, DnsFamily::V6Preferred), both[1..]);
    assert_eq!(pick(&both, DnsFamily::All), both);
    assert_eq!(pick(&both[..1], DnsFamily::V6Preferred), both[..1]);
    assert_eq!(pick(&both[1..], DnsFamily::V4Preferred), both[1..]);
    assert!(pick(&both[..1], DnsFamily::V6).is_empty());
}
