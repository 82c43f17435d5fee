//! `make differential`: the drawn differential suite for as long as one likes. Prints each request that Envoy and our
//! proxy do not answer alike, with the smallest resources with which that is so.
#![allow(clippy::expect_used, clippy::panic, clippy::print_stdout)]

use lateen_tests::drawn::{ROUND, Round, Run};
use lateen_tests::network;

fn main() {
    let given: Vec<String> = std::env::args().skip(1).collect();
    if !network::may_enter(&given) {
        return;
    }
    let mut arguments = given.into_iter();
    let mut number = |default: u64| {
        let given = arguments.next().filter(|text| !text.is_empty());
        given.map_or(default, |text| text.parse().unwrap_or_else(|_| panic!("{text} is not a number")))
    };
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let seed = number(now);
    let requests = number(20_000);
    let shrunk = number(5);
    let first = number(0);
    println!("SEED={seed} REQUESTS={requests}");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let differences = runtime.block_on(run(seed, requests, shrunk, first));
    if differences > 0 {
        println!("{differences} differences with SEED={seed}");
        std::process::exit(1);
    }
}

async fn run(seed: u64, requests: u64, shrunk: u64, first: u64) -> u64 {
    let mut run = Run::start();
    let mut differences = 0;
    for number in first..first + requests.div_ceil(ROUND as u64) {
        let round =
            if number % 2 == 0 { Round::draw(seed, number, ROUND) } else { Round::of_access(seed, number, ROUND) };
        for difference in run.round(&round).await {
            differences += 1;
            println!("-- round {number} {}\n{}", difference.case, difference.text);
            if differences <= shrunk && !difference.case.is_empty() {
                println!("   smallest:\n{}", run.shrunk(&round, &difference.case).await);
            }
        }
        println!("round {number} is done; {differences} differences so far");
    }
    for (what, count) in &run.refused {
        println!("not drawn {count} times: {what}");
    }
    differences
}
