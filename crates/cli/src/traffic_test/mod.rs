//! Traffic tests: requests, and what must come back. A test runs against a mesh, or against what its manifests are
//! compiled to; the kind, and how answers are judged, are the same (docs/traffic-tests.md).

mod amount;
mod certificates;
mod cookies;
mod issued;
mod judge;
mod junit;
mod kind;
mod live;
mod matching;
mod offline;
mod outcome;
mod report;
mod sending;
mod who;

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use crate::error::Error;

pub use judge::Verdict;
pub use junit::junit;
use kind::Step;
pub use kind::{Written, read};
pub use live::Live;
pub use offline::Offline;
pub use outcome::Outcome;
pub use report::Report;
pub use sending::{Plan, run as send};

/// How one step fared.
#[derive(Debug, Clone)]
pub struct Ran {
    pub step: String,
    /// Requests sent.
    pub requests: u64,
    /// Of the mesh, or of the simulated one.
    pub took: Duration,
    /// One for each expectation.
    pub verdicts: Vec<Verdict>,
    /// Why nothing was sent, if this is no place to run it.
    pub left_out: Option<&'static str>,
}

impl Ran {
    /// A step whose requests were sent.
    fn of(step: &Step, took: Duration, verdicts: Vec<Verdict>) -> Ran {
        Ran { step: step.name.clone(), requests: step.send.count, took, verdicts, left_out: None }
    }

    /// A step that is not for this place to run, and why.
    pub fn left_out(step: &Step, why: &'static str) -> Ran {
        Ran { requests: 0, left_out: Some(why), ..Ran::of(step, Duration::ZERO, Vec::new()) }
    }
}

/// How one test fared.
#[derive(Debug, Clone)]
pub struct Result {
    pub test: String,
    /// The file it is written in.
    pub source: String,
    pub steps: Vec<Ran>,
    /// Why it could not be run to its end.
    pub broken: Option<String>,
}

impl Result {
    /// A test that has not been run yet.
    pub fn of(written: &Written) -> Result {
        Result {
            test: written.test.metadata.name.clone(),
            source: written.origin.source.to_string(),
            steps: Vec::new(),
            broken: None,
        }
    }

    /// A step is not for this place to run.
    pub fn leave_out(&mut self, step: &Step, why: &'static str, report: &Report) {
        let ran = Ran::left_out(step, why);
        report.step(&ran);
        self.steps.push(ran);
    }

    /// A step could not be run.
    pub fn breaks(&mut self, step: &str, error: &Error, report: &Report) {
        let reason = format!("{step}: {error}");
        report.broken(&reason);
        self.broken = Some(reason);
    }

    pub fn passed(&self) -> bool {
        self.broken.is_none() && self.steps.iter().all(|step| step.verdicts.iter().all(|verdict| verdict.passed))
    }
}

/// The address of a client outside of the mesh, by its number from 0.
fn client_address(number: u64) -> IpAddr {
    IpAddr::V4(Ipv4Addr::new(127, 0, 1, u8::try_from(number + 1).unwrap_or(u8::MAX)))
}
