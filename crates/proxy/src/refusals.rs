//! Who was refused lately, and by which policy: for the operator, as the one who is refused is told nothing.
//!
//! The last few of each worker, written where a request or connection is denied and nowhere else.

use std::collections::VecDeque;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use lateen_traffic::message::RequestHead;
use lateen_traffic::rbac::Peer;
use serde_json::{Value as Json, json};

/// Refusals kept of a worker.
const MOST: usize = 100;

/// Bytes kept of what a client sent.
const LONGEST: usize = 256;

/// The last refusals of all workers.
#[derive(Debug)]
pub struct Refusals(Box<[Mutex<VecDeque<Refusal>>]>);

/// A request, or a connection of bytes, that rules denied, or the service that they have asked.
#[derive(Debug, Clone)]
pub struct Refusal {
    at: SystemTime,
    client: IpAddr,
    /// The name that the client's certificate proves.
    principal: Option<Box<str>>,
    local: SocketAddr,
    /// Method, host and path without query.
    request: Option<[Box<str>; 3]>,
    policy: Option<Arc<str>>,
}

impl Refusal {
    /// What is kept of it.
    pub fn new(at: SystemTime, peer: &Peer<'_>, request: Option<&RequestHead>, policy: Option<Arc<str>>) -> Self {
        let certificate = peer.tls.filter(|tls| tls.peer_validated).and_then(|tls| tls.peer.as_deref());
        let principal = certificate.and_then(|peer| peer.uri_names.iter().chain(&peer.dns_names).next());
        Self {
            at,
            client: peer.remote,
            principal: principal.map(|name| short(name)),
            local: peer.local,
            request: request.map(|head| [short(&head.method), short(&head.authority), short(head.path_only())]),
            policy,
        }
    }

    /// Its fields; what there is not is left out.
    fn json(&self) -> Json {
        let mut json = json!({
            "time": lateen_traffic::format::rfc3339_millis(self.at),
            "client": self.client.to_string(),
            "local": self.local.to_string(),
            "policy": self.policy.as_deref().unwrap_or("none"),
        });
        if let Some(principal) = &self.principal {
            json["principal"] = (**principal).into();
        }
        if let Some([method, host, path]) = &self.request {
            json["request"] = json!({"method": method, "host": host, "path": path});
        }
        json
    }

    fn text(&self) -> String {
        let at = lateen_traffic::format::rfc3339_millis(self.at);
        let what = match &self.request {
            Some([method, host, path]) => format!("{method} {host}{path}"),
            None => "a connection".to_owned(),
        };
        let who = self.principal.as_deref().map_or("-".to_owned(), |name| name.replace(' ', "%20"));
        let policy = self.policy.as_deref().unwrap_or("none");
        format!("{at} {} {who} {} {what} {policy}\n", self.client, self.local)
    }
}

/// The beginning of what a client sent, on one line.
fn short(text: &str) -> Box<str> {
    let fits = text.char_indices().take_while(|(at, c)| at + c.len_utf8() <= LONGEST);
    fits.map(|(_, c)| if c.is_control() { '?' } else { c }).collect::<String>().into()
}

impl Refusals {
    /// For so many workers.
    pub fn new(workers: usize) -> Self {
        Self((0..workers).map(|_| Mutex::default()).collect())
    }

    /// Keeps one of a worker's in the place of its oldest.
    pub fn add(&self, worker: usize, refusal: Refusal) {
        if let Some(own) = self.0.get(worker) {
            let mut own = own.lock().unwrap_or_else(PoisonError::into_inner);
            if own.len() >= MOST {
                own.pop_front();
            }
            own.push_back(refusal);
        }
    }

    /// All, the latest first.
    fn all(&self) -> Vec<Refusal> {
        let of = |own: &Mutex<VecDeque<Refusal>>| own.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let mut all: Vec<Refusal> = self.0.iter().flat_map(of).collect();
        all.sort_by_key(|refusal| std::cmp::Reverse(refusal.at));
        all
    }

    /// A line each.
    pub fn text(&self) -> String {
        self.all().iter().map(Refusal::text).collect()
    }

    /// An array under `refusals`.
    pub fn json(&self) -> Json {
        json!({"refusals": self.all().iter().map(Refusal::json).collect::<Vec<_>>()})
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn refusal(second: u64, path: &str, policy: Option<&str>) -> Refusal {
        let peer = Peer {
            source: [10, 0, 0, 9].into(),
            direct: [10, 0, 0, 9].into(),
            remote: [10, 0, 0, 1].into(),
            local: ([10, 0, 0, 2], 80).into(),
            server_name: None,
            tls: None,
        };
        let head =
            RequestHead { method: "GET".into(), path: path.into(), authority: "a.test".into(), ..Default::default() };
        let at = SystemTime::UNIX_EPOCH + Duration::from_secs(second);
        Refusal::new(at, &peer, Some(&head), policy.map(Into::into))
    }

    #[test]
    fn the_latest_come_first_whoever_served_them() {
        let refusals = Refusals::new(2);
        refusals.add(0, refusal(1, "/a?token=b", Some("ns[x]-policy[y]-rule[0]")));
        refusals.add(1, refusal(2, "/\u{7}b", None));
        refusals.add(2, refusal(3, "/no-such-worker", None));
        assert_eq!(
            refusals.text(),
            "1970-01-01T00:00:02.000Z 10.0.0.1 - 10.0.0.2:80 GET a.test/?b none\n\
             1970-01-01T00:00:01.000Z 10.0.0.1 - 10.0.0.2:80 GET a.test/a ns[x]-policy[y]-rule[0]\n"
        );
        let json = refusals.json();
        assert_eq!(json["refusals"][1]["policy"], "ns[x]-policy[y]-rule[0]");
        assert_eq!(json["refusals"][1]["request"], json!({"method": "GET", "host": "a.test", "path": "/a"}));
    }

    #[test]
    fn number_and_length_have_limits() {
        let refusals = Refusals::new(1);
        for second in 0..2 * MOST as u64 {
            refusals.add(0, refusal(second, &format!("/{}", "\u{e9}".repeat(1_000)), None));
        }
        let all = refusals.all();
        assert_eq!(all.len(), MOST);
        assert!(all.iter().all(|one| one.request.as_ref().unwrap()[2].len() <= LONGEST));
        assert_eq!(all[0].at, SystemTime::UNIX_EPOCH + Duration::from_secs(2 * MOST as u64 - 1));
    }
}
