//! `lateen send`: sends what its input says and prints what came back, as JSON. `lateen test` runs it inside pods.

use std::io::{Read, Write};
use std::process::ExitCode;

use crate::error::Error;
use crate::traffic_test::{Plan, send};

/// Bytes of input at most.
const LONGEST_INPUT: u64 = 16 << 20;

/// Reads a plan, prints outcomes.
pub fn run() -> Result<ExitCode, Error> {
    let mut input = Vec::new();
    std::io::stdin().take(LONGEST_INPUT).read_to_end(&mut input).map_err(Error::io("standard input"))?;
    let plan: Plan =
        serde_json::from_slice(&input).map_err(|error| Error::Usage(format!("standard input: {error}")))?;
    let outcomes = super::block_on(async { Ok(send(plan, std::rc::Rc::default()).await) })?;
    let text = serde_json::to_vec(&outcomes).map_err(Error::unreadable)?;
    std::io::stdout().write_all(&text).map_err(Error::io("standard output"))?;
    Ok(ExitCode::SUCCESS)
}
