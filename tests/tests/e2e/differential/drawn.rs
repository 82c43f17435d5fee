//! Resources and requests drawn from a fixed seed. `make differential` draws others.

use lateen_tests::drawn::{ROUND, Round, Run};
use lateen_tests::network;

const SEED: u64 = 20_261_123;
const ROUNDS: u64 = 30;

#[tokio::test]
async fn drawn() {
    let arguments = ["--exact", "differential::drawn::drawn", "--nocapture"];
    if !network::may_enter(&arguments.map(str::to_owned)) {
        return;
    }
    let mut run = Run::start();
    let mut differences = Vec::new();
    for number in 0..ROUNDS {
        differences.extend(run.round(&Round::draw(SEED, number, ROUND)).await);
    }
    let total = differences.len();
    let shown: Vec<String> = differences
        .iter()
        .take(20)
        .map(|difference| format!("round {} {}\n{}", difference.round, difference.case, difference.text))
        .collect();
    assert!(total == 0, "{total} differences\n{}", shown.join("\n"));
}
