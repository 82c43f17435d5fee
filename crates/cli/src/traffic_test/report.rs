//! What a test's run writes: a line for each expectation, and for one that failed what was expected beside what was seen.

use std::cell::Cell;
use std::io::Write as _;
use std::rc::Rc;
use std::time::Duration;

use super::offline::Explanation;
use super::{Ran, Result, Verdict};
use crate::terminal::Style;

/// Width of what is expected before what is seen.
const COLUMN: usize = 44;

/// Writes as steps are done.
pub struct Report {
    style: Style,
}

impl Report {
    pub fn new(style: Style) -> Report {
        Report { style }
    }

    pub fn test(&self, name: &str, title: &str) {
        let title = if title.is_empty() { String::new() } else { format!("  {}", self.style.dim(title)) };
        println!("{}{title}", self.style.bold(name));
    }

    /// Shows the step under way while `running` runs; `done` counts answered requests.
    pub async fn progress<T>(
        &self,
        step: &str,
        requests: u64,
        done: Rc<Cell<u64>>,
        running: impl Future<Output = T>,
    ) -> T {
        let mut running = std::pin::pin!(running);
        loop {
            let look = tokio::time::sleep(Duration::from_millis(50));
            tokio::select! {
                result = &mut running => {
                    self.erase();
                    return result;
                }
                () = look => if self.style.live() {
                    let text = format!("{step}  {} of {requests}", done.get());
                    print!("\r\x1b[K  {} {}", self.style.accent("…"), self.style.dim(&text));
                    // A terminal that cannot be written to is noticed by the next line.
                    let _ = std::io::stdout().flush();
                },
            }
        }
    }

    fn erase(&self) {
        if self.style.live() {
            print!("\r\x1b[K");
        }
    }

    pub fn step(&self, ran: &Ran) {
        if let Some(reason) = ran.left_out {
            println!("  {}\n    {} {}", ran.step, self.style.dim("-"), self.style.dim(reason));
            return;
        }
        let requests = format!(
            "{} in {:.0?}",
            if ran.requests == 1 { "1 request".to_owned() } else { format!("{} requests", ran.requests) },
            ran.took
        );
        println!("  {}  {}", ran.step, self.style.dim(&requests));
        for verdict in &ran.verdicts {
            self.verdict(verdict);
        }
    }

    fn verdict(&self, verdict: &Verdict) {
        let Verdict { what, passed, expected, seen, notes, share: _ } = verdict;
        if *passed {
            let asked = format!("{what}: {expected}");
            let width = COLUMN.saturating_sub(asked.chars().count());
            println!("    {} {asked}{:width$}  {}", self.style.good("✓"), "", self.style.dim(seen));
            return;
        }
        println!("    {} {}", self.style.bad("✗"), self.style.bold(what));
        println!("      {}", self.style.good(&format!("- expected  {expected}")));
        println!("      {}", self.style.bad(&format!("+ seen      {seen}")));
        for note in notes {
            println!("        {}", self.style.dim(note));
        }
    }

    /// Why requests went where they went.
    pub fn explain(&self, explanations: &[Explanation]) {
        for Explanation { outcome, number, alike, trace } in explanations {
            let like = if *alike == 1 { String::new() } else { format!(", {alike} like it") };
            println!("      {} {}", self.style.accent("why"), self.style.bold(outcome));
            println!("        {}", self.style.dim(&format!("request {number}{like}")));
            for line in trace.to_string().lines() {
                println!("        {}", self.style.dim(line));
            }
        }
    }

    pub fn broken(&self, reason: &str) {
        println!("    {} {reason}", self.style.bad("✗"));
    }

    /// The last line.
    pub fn sum(&self, results: &[Result], took: Duration) {
        let verdicts = || results.iter().flat_map(|result| &result.steps).flat_map(|step| &step.verdicts);
        let failed = verdicts().filter(|verdict| !verdict.passed).count();
        let broken = results.iter().filter(|result| result.broken.is_some()).count();
        let requests: u64 = results.iter().flat_map(|result| &result.steps).map(|step| step.requests).sum();
        let kept = verdicts().count() - failed;
        let mut text = format!("{kept} kept, {failed} not");
        if broken > 0 {
            text.push_str(&format!(", {broken} tests could not be run"));
        }
        let left_out = results.iter().flat_map(|result| &result.steps).filter(|step| step.left_out.is_some()).count();
        if left_out > 0 {
            text.push_str(&format!(", {left_out} steps left out"));
        }
        let good = failed + broken == 0;
        let text = if good { self.style.good(&text) } else { self.style.bad(&text) };
        println!("\n{text}  {}", self.style.dim(&format!("{requests} requests, {took:.2?}")));
    }
}
