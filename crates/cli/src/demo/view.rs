//! What the demo writes: steps as they are done, then the result.
//!
//! On a terminal the step under way is shown in place; elsewhere only what is done is written.

use std::io::Write as _;
use std::time::{Duration, Instant};

use crate::terminal::Style;
use crate::traffic_test::Verdict;

/// Width of a whole bar in characters.
const BAR: usize = 40;
const EIGHTHS: [char; 8] = [' ', '▏', '▎', '▍', '▌', '▋', '▊', '▉'];

/// Steps, one line each.
pub struct Steps {
    style: Style,
    began: Instant,
}

impl Steps {
    pub fn new(style: Style) -> Steps {
        Steps { style, began: Instant::now() }
    }

    /// Shows the step under way.
    pub fn doing(&self, text: &str) {
        if self.style.live() {
            print!("\r\x1b[K  {} {}", self.style.accent("…"), self.style.dim(text));
            // A terminal that cannot be written to is noticed by the next line.
            let _ = std::io::stdout().flush();
        }
    }

    /// Ends the step under way.
    pub fn done(&mut self, what: &str, detail: &str) {
        let took = duration(self.began.elapsed());
        self.began = Instant::now();
        self.erase();
        println!("  {} {what:<14} {} {}", self.style.good("✓"), pad(detail, 58), self.style.dim(&format!("{took:>8}")));
    }

    /// Removes the step under way from the terminal.
    pub fn erase(&self) {
        if self.style.live() {
            print!("\r\x1b[K");
        }
    }
}

fn pad(text: &str, width: usize) -> String {
    let blanks = width.saturating_sub(text.chars().count());
    format!("{text}{}", " ".repeat(blanks))
}

/// A duration with the unit that suits it.
pub fn duration(duration: Duration) -> String {
    let seconds = duration.as_secs_f64();
    if seconds >= 1.0 {
        format!("{seconds:.2} s")
    } else if seconds >= 0.1 {
        format!("{:.0} ms", seconds * 1e3)
    } else {
        format!("{:.1} ms", seconds * 1e3)
    }
}

/// A bar of eighths, so that one per cent shows.
pub fn bar(share: f64) -> String {
    let eighths = (share.clamp(0.0, 1.0) * (BAR * 8) as f64).round() as usize;
    let mut text = "█".repeat(eighths / 8);
    if let Some(part) = EIGHTHS.get(eighths % 8).filter(|_| !eighths.is_multiple_of(8)) {
        text.push(*part);
    }
    pad(&text, BAR)
}

/// Shares as bars: who answered, what statuses there were.
pub fn shares(style: Style, verdicts: &[Verdict]) -> String {
    let shares = || verdicts.iter().filter_map(|verdict| Some((verdict, verdict.share?)));
    let width = shares().map(|(verdict, _)| verdict.what.chars().count()).max().unwrap_or(0);
    let line = |(verdict, share): (&Verdict, f64)| {
        format!("      {:<width$}  {} {:>5.1}%\n", verdict.what, style.accent(&bar(share)), share * 100.0)
    };
    let text: String = shares().map(line).collect();
    if text.is_empty() { text } else { format!("\n{text}\n") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers() {
        assert_eq!(duration(Duration::from_micros(1530)), "1.5 ms");
        assert_eq!(duration(Duration::from_millis(153)), "153 ms");
        assert_eq!(duration(Duration::from_millis(1530)), "1.53 s");
    }

    #[test]
    fn bars_are_of_one_width() {
        for share in [0.0, 0.001, 0.1, 0.9, 0.999, 1.0, 7.0] {
            assert_eq!(bar(share).chars().count(), BAR, "{share}");
        }
        assert_eq!(bar(0.5).trim_end(), "█".repeat(BAR / 2));
        assert_eq!(bar(0.01).trim_end(), "▍");
    }
}
