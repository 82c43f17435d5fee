//! Resources and requests drawn from a fixed seed. `make differential` draws others.

use lateen_tests::drawn::{ROUND, Round, Run};
use lateen_tests::network;

const SEED: u64 = 20_261_123;
const ROUNDS: u64 = 30;
/// Of rounds about access: 3,750 requests.
const ACCESS_ROUNDS: u64 = 15;

#[tokio::test]
async fn drawn() {
    no_difference("drawn", ROUNDS, Round::draw).await;
}

#[tokio::test]
async fn drawn_access() {
    let proven = no_difference("drawn_access", ACCESS_ROUNDS, Round::of_access).await;
    assert!(proven.is_none_or(|proven| proven >= 100), "only {proven:?} callers by certificate got through");
}

/// Plays rounds; how many of their requests came with a proven identity, if they were played here.
async fn no_difference(test: &str, rounds: u64, draw: fn(u64, u64, usize) -> Round) -> Option<usize> {
    let arguments = ["--exact", &format!("differential::drawn::{test}"), "--nocapture"];
    if !network::may_enter(&arguments.map(str::to_owned)) {
        return None;
    }
    let mut run = Run::start();
    let mut differences = Vec::new();
    for number in 0..rounds {
        differences.extend(run.round(&draw(SEED, number, ROUND)).await);
    }
    let total = differences.len();
    let shown: Vec<String> = differences
        .iter()
        .take(20)
        .map(|difference| format!("round {} {}\n{}", difference.round, difference.case, difference.text))
        .collect();
    assert!(total == 0, "{total} differences\n{}", shown.join("\n"));
    Some(run.proven)
}
