//! The differential suite at the level of Istio's resources: rules and requests nobody thought of. What a seed draws
//! goes through galley and pilot to the real Envoy and to our proxy, as a gateway and as a sidecar each, and every fact
//! of every request is compared; and what `lateen-simulation` computes is held against what Envoy did.
//!
//! A run consists of rounds. A round has its own services and rules, put in place of the round's before in the same
//! running proxies, and some hundred requests, all at once. Rounds are of two families: about traffic, and about access.

mod access;
mod callers;
pub mod dice;
mod entries;
mod http;
pub mod identities;
mod offline;
mod policies;
mod requests;
mod rules;
mod run;
pub mod scenery;
mod scope;
mod shrink;
mod tls;
mod tokens;
mod words;

use serde_json::Value;

use crate::stand::Placed;
use dice::Dice;
use rules::Subject;
pub use run::{Difference, Run};

/// Requests of one round.
pub const ROUND: usize = 250;

/// What one round puts in place, and what it asks.
pub struct Round {
    pub number: u64,
    /// Kubernetes' objects.
    pub scenery: Vec<Value>,
    /// Istio's objects.
    pub rules: Vec<Value>,
    pub requests: Vec<Placed>,
}

impl Round {
    /// Draws round `number` of a seed.
    pub fn draw(seed: u64, number: u64, requests: usize) -> Round {
        let mut dice = Dice::new(seed, number);
        let services = scenery::services(&mut dice, number);
        let subject = Subject { round: number, services: &services };
        let rules = rules::draw(&mut dice, &subject);
        let requests = (0..requests)
            .map(|index| {
                let client = number as u32 * ROUND as u32 + index as u32 + 1;
                Placed { client, ..requests::draw(&mut dice, &subject, index) }
            })
            .collect();
        Round { number, scenery: scenery::objects(&services), rules, requests }
    }

    /// Draws round `number` of a seed, about access.
    pub fn of_access(seed: u64, number: u64, requests: usize) -> Round {
        let mut dice = Dice::new(seed, number);
        let rules = access::draw(&mut dice, number);
        let requests = (0..requests)
            .map(|index| {
                let client = number as u32 * ROUND as u32 + index as u32 + 1;
                Placed { client, ..callers::draw(&mut dice, number, index) }
            })
            .collect();
        Round { number, scenery: Vec::new(), rules, requests }
    }
}
