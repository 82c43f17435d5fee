//! Whether what came back is what was expected: each expectation by itself. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde_json::Value;

use super::amount::{Amount, percent};
use super::kind::{Expect, Quantile, SamePod, Status, quantile};
use super::matching::Text;
use super::outcome::{Outcome, Outcomes};
use super::who::{NOBODY, Who};

/// Answers quoted in a diff.
const QUOTED: usize = 3;
/// Characters of an answer quoted.
const QUOTE: usize = 120;

/// How one expectation fared.
#[derive(Debug, Clone, PartialEq)]
pub struct Verdict {
    /// Which expectation: `status 200`, `answeredBy web-v1`.
    pub what: String,
    pub passed: bool,
    /// What was asked for.
    pub expected: String,
    /// What came instead, or also when it is the same.
    pub seen: String,
    /// What helps to understand a failure.
    pub notes: Vec<String>,
    /// The share seen, where the expectation is one of shares.
    pub share: Option<f64>,
}

/// Judges a step. Names are looked up in `namespace`.
pub fn judge(expect: &Expect, outcomes: &Outcomes, who: &Who, namespace: &str) -> Vec<Verdict> {
    let judge = Judge { expect, outcomes, who, namespace, verdicts: Vec::new() };
    judge.all()
}

/// A key, what is expected of it, and what was counted for whom; or why nobody is meant.
type Counted = (String, Amount, Result<(Vec<String>, u64), String>);

struct Judge<'a> {
    expect: &'a Expect,
    outcomes: &'a Outcomes,
    who: &'a Who,
    namespace: &'a str,
    verdicts: Vec<Verdict>,
}

impl<'a> Judge<'a> {
    fn all(mut self) -> Vec<Verdict> {
        self.statuses();
        self.answered_by();
        self.received();
        self.pods();
        self.texts();
        self.latencies();
        self.verdicts
    }

    fn requests(&self) -> &'a [Outcome] {
        &self.outcomes.requests
    }

    fn total(&self) -> u64 {
        self.outcomes.requests.len() as u64
    }

    /// One verdict on a count.
    fn count(&mut self, what: String, amount: &Amount, count: u64, notes: Vec<String>) {
        let total = self.total();
        let confidence = self.expect.confidence.0;
        let (least, most) = amount.range(total, confidence);
        let passed = (least..=most).contains(&count);
        let share = if total == 0 { 0.0 } else { count as f64 / total as f64 };
        let chance = matches!(amount, Amount::Chance(_));
        let expected = match amount {
            Amount::Chance(_) => {
                format!("{amount}: {least} to {most} of {total} at {} confidence", percent(confidence))
            }
            Amount::Share { .. } | Amount::Count { .. } => amount.to_string(),
        };
        let seen = format!("{count} of {total} ({})", percent(share));
        let notes = if passed { Vec::new() } else { notes };
        self.verdicts.push(Verdict { what, passed, expected, seen, notes, share: chance.then_some(share) });
    }

    fn verdict(
        &mut self,
        what: impl Into<String>,
        expected: impl Into<String>,
        seen: Result<String, (String, Vec<String>)>,
    ) {
        let (passed, seen, notes) = match seen {
            Ok(seen) => (true, seen, Vec::new()),
            Err((seen, notes)) => (false, seen, notes),
        };
        self.verdicts.push(Verdict { what: what.into(), passed, expected: expected.into(), seen, notes, share: None });
    }

    fn statuses(&mut self) {
        let Some(statuses) = &self.expect.status else { return };
        for (status, amount) in &statuses.0 {
            let count = self.requests().iter().filter(|outcome| status.is(outcome.status)).count() as u64;
            let mut notes = vec![format!("statuses: {}", self.tally(status_of))];
            if *amount == Amount::ALL {
                let wanted: Status = *status;
                notes.extend(self.quoted(|outcome| !wanted.is(outcome.status), describe));
            }
            self.count(format!("status {status}"), amount, count, notes);
        }
    }

    fn answered_by(&mut self) {
        let answered: Vec<&str> = self.requests().iter().map(|outcome| outcome.pod.as_str()).collect();
        let tally = self.tally(|outcome| match outcome.pod.as_str() {
            "" => NOBODY.to_owned(),
            pod => self.who.workload_of(pod).to_owned(),
        });
        let counted = self.counted(&self.expect.answered_by, |meant| match meant {
            None => answered.iter().filter(|pod| pod.is_empty()).count() as u64,
            Some(meant) => answered.iter().filter(|pod| meant.contains(**pod)).count() as u64,
        });
        let mut named = BTreeSet::new();
        for (key, amount, count) in counted {
            let what = format!("answeredBy {key}");
            match count {
                Err(reason) => self.verdict(what, amount.to_string(), Err((reason, Vec::new()))),
                Ok((meant, count)) => {
                    named.extend(meant);
                    let mut notes = vec![format!("answers by workload: {tally}")];
                    notes.extend(self.quoted(|outcome| outcome.pod.is_empty(), describe));
                    self.count(what, &amount, count, notes);
                }
            }
        }
        self.nobody_else(&named, &tally);
    }

    /// Shares that make up the whole leave nothing for others.
    fn nobody_else(&mut self, named: &BTreeSet<String>, tally: &str) {
        let shares: Option<Vec<f64>> = self.expect.answered_by.values().map(Amount::share).collect();
        let whole = shares.is_some_and(|shares| shares.len() > 1 && (shares.iter().sum::<f64>() - 1.0).abs() < 1e-9);
        if !whole || self.expect.answered_by.contains_key(NOBODY) {
            return;
        }
        let others = self.requests().iter().filter(|outcome| !named.contains(&outcome.pod)).count() as u64;
        if others > 0 {
            let notes = vec![format!("answers by workload: {tally}")];
            self.count("answeredBy others".to_owned(), &Amount::Count { least: 0, most: 0 }, others, notes);
        }
    }

    fn received(&mut self) {
        let received = &self.outcomes.received;
        let tally: BTreeMap<&str, u64> = received.iter().fold(BTreeMap::new(), |mut tally, (pod, count)| {
            *tally.entry(self.who.workload_of(pod)).or_default() += count;
            tally
        });
        let counted = self.counted(&self.expect.received, |meant| match meant {
            None => 0,
            Some(meant) => {
                received.iter().filter(|(pod, _)| meant.contains(pod.as_str())).map(|(_, count)| count).sum()
            }
        });
        for (key, amount, count) in counted {
            let what = format!("received {key}");
            match count {
                Err(reason) => self.verdict(what, amount.to_string(), Err((reason, Vec::new()))),
                Ok((_, count)) => self.count(what, &amount, count, vec![format!("received: {}", shown(&tally))]),
            }
        }
    }

    /// What each key's pods count; with whom is meant. `None` is [`NOBODY`].
    fn counted(
        &self,
        wanted: &BTreeMap<String, Amount>,
        count: impl Fn(Option<&BTreeSet<&str>>) -> u64,
    ) -> Vec<Counted> {
        let one = |(key, amount): (&String, &Amount)| {
            let counted = if key == NOBODY {
                Ok((Vec::new(), count(None)))
            } else {
                self.who.meant(key, self.namespace).map(|meant| {
                    let counted = count(Some(&meant));
                    (meant.into_iter().map(str::to_owned).collect(), counted)
                })
            };
            (key.clone(), *amount, counted)
        };
        wanted.iter().map(one).collect()
    }

    fn pods(&mut self) {
        let pods: Vec<&str> = self.requests().iter().map(|outcome| outcome.pod.as_str()).collect();
        let different: BTreeSet<&str> = pods.iter().copied().filter(|pod| !pod.is_empty()).collect();
        if self.expect.alternating {
            let seen = alternating(&pods, different.len());
            self.verdict("alternating", "each pod in turn", seen);
        }
        match self.expect.same_pod {
            None => {}
            Some(SamePod::All) => {
                let one = different.len() == 1 && pods.iter().all(|pod| !pod.is_empty());
                let seen = if one { Ok("one pod".to_owned()) } else { Err((self.by_pod(), Vec::new())) };
                self.verdict("samePod all", "one pod answers everything", seen);
            }
            Some(SamePod::Client) => {
                let mut by_client: BTreeMap<u64, BTreeSet<&str>> = BTreeMap::new();
                for outcome in self.requests() {
                    by_client.entry(outcome.client).or_default().insert(&outcome.pod);
                }
                let unfaithful: Vec<String> = by_client
                    .iter()
                    .filter(|(_, pods)| pods.len() != 1 || pods.contains(""))
                    .map(|(client, pods)| {
                        let pods: Vec<&str> =
                            pods.iter().map(|pod| if pod.is_empty() { NOBODY } else { pod }).collect();
                        format!("client {client}: {}", pods.join(", "))
                    })
                    .collect();
                let seen = match unfaithful.len() {
                    0 => Ok(format!("{} clients, one pod each", by_client.len())),
                    some => Err((format!("{some} of {} clients with more than one", by_client.len()), unfaithful)),
                };
                self.verdict("samePod client", "one pod for each client", seen);
            }
        }
        if let Some(amount) = &self.expect.pods {
            let (least, most) = amount.range(different.len() as u64, self.expect.confidence.0);
            let count = different.len() as u64;
            let seen = format!("{count}");
            let seen = if (least..=most).contains(&count) { Ok(seen) } else { Err((seen, vec![self.by_pod()])) };
            self.verdict("pods", amount.to_string(), seen);
        }
    }

    fn texts(&mut self) {
        let headers: Vec<(&String, &Text)> = self.expect.headers.iter().collect();
        for (name, text) in headers {
            self.text(format!("header {name}"), text, |outcome| outcome.header(name).map(str::to_owned));
        }
        if let Some(text) = &self.expect.body {
            self.text("body".to_owned(), text, |outcome| Some(outcome.body.clone()));
        }
        let fields: Vec<(&String, &Text)> = self.expect.json.iter().collect();
        for (pointer, text) in fields {
            self.text(format!("json {pointer}"), text, |outcome| match outcome.json().pointer(pointer)? {
                Value::String(text) => Some(text.clone()),
                other => Some(other.to_string()),
            });
        }
    }

    /// A text of every answer.
    fn text(&mut self, what: String, text: &Text, of: impl Fn(&Outcome) -> Option<String>) {
        let wrong = |outcome: &Outcome| !text.fits(of(outcome).as_deref());
        let count = self.requests().iter().filter(|outcome| wrong(outcome)).count();
        let seen = match count {
            0 => Ok(format!("all of {}", self.total())),
            count => {
                let value = |outcome: &Outcome| of(outcome).map_or("absent".to_owned(), |text| format!("{text:?}"));
                let notes = self.quoted(wrong, value);
                Err((format!("{} of {} are not", count, self.total()), notes))
            }
        };
        self.verdict(what, text.to_string(), seen);
    }

    fn latencies(&mut self) {
        let mut times: Vec<Duration> = self.requests().iter().map(|outcome| outcome.latency).collect();
        times.sort_unstable();
        for (name, range) in self.expect.latency.iter() {
            let Some(quantile) = quantile(name) else { continue };
            let time = match quantile {
                Quantile::Mean => {
                    times.iter().sum::<Duration>() / u32::try_from(times.len().max(1)).unwrap_or(u32::MAX)
                }
                Quantile::Share(share) => {
                    let rank = (share * times.len() as f64).ceil() as usize;
                    times.get(rank.saturating_sub(1)).copied().unwrap_or_default()
                }
            };
            let seen = format!("{:.1} ms", time.as_secs_f64() * 1e3);
            let seen = if range.holds(time) { Ok(seen) } else { Err((seen, Vec::new())) };
            self.verdict(format!("latency {name}"), range.to_string(), seen);
        }
    }

    fn by_pod(&self) -> String {
        self.tally(|outcome| if outcome.pod.is_empty() { NOBODY.to_owned() } else { outcome.pod.clone() })
    }

    /// How many requests there are of each sort, the most frequent first.
    fn tally(&self, sort: impl Fn(&Outcome) -> String) -> String {
        let mut counts: BTreeMap<String, u64> = BTreeMap::new();
        for outcome in self.requests() {
            *counts.entry(sort(outcome)).or_default() += 1;
        }
        shown(&counts)
    }

    /// The first requests that are so, in words.
    fn quoted(&self, so: impl Fn(&Outcome) -> bool, words: impl Fn(&Outcome) -> String) -> Vec<String> {
        let found = self.requests().iter().filter(|outcome| so(outcome)).take(QUOTED);
        found.map(|outcome| format!("request {}: {}", outcome.number, words(outcome))).collect()
    }
}

/// Whether pods answer in turn: in every run of as many answers as there are pods, each once.
fn alternating(pods: &[&str], different: usize) -> Result<String, (String, Vec<String>)> {
    if different < 2 {
        return Err((format!("{different} pods answered"), Vec::new()));
    }
    let broken = pods.windows(different).position(|turn| turn.iter().collect::<BTreeSet<_>>().len() != different);
    match broken {
        None => Ok(format!("{different} pods in turn, {} answers", pods.len())),
        Some(at) => {
            let around = pods.get(at..pods.len().min(at + different)).unwrap_or_default();
            let around: Vec<&str> = around.iter().map(|pod| if pod.is_empty() { NOBODY } else { pod }).collect();
            Err((format!("not from request {at} on"), vec![format!("from request {at}: {}", around.join(", "))]))
        }
    }
}

fn status_of(outcome: &Outcome) -> String {
    match outcome.status {
        Some(status) => status.to_string(),
        None => format!("none ({})", outcome.failure),
    }
}

fn describe(outcome: &Outcome) -> String {
    let body: String = outcome.body.chars().take(QUOTE).collect();
    format!("{} {body:?}", status_of(outcome))
}

fn shown<K: std::fmt::Display>(counts: &BTreeMap<K, u64>) -> String {
    let mut counts: Vec<(&K, &u64)> = counts.iter().collect();
    counts.sort_by_key(|(_, count)| std::cmp::Reverse(**count));
    let counts: Vec<String> = counts.iter().map(|(sort, count)| format!("{sort} {count}")).collect();
    if counts.is_empty() { "nobody".to_owned() } else { counts.join(", ") }
}

#[cfg(test)]
mod tests;
