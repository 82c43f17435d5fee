//! Shares that dice decide.

/// How far a share may be off, in standard deviations: chance goes that far once in twenty-six million times. A suite
/// that asks a hundred times a run for four of them fails every hundredth run.
const DEVIATIONS: f64 = 5.5;

/// Whether `found` of `total` can be what dice make of `share`.
pub fn fits(found: usize, total: usize, share: f64) -> bool {
    let n = total as f64;
    (found as f64 - n * share).abs() <= DEVIATIONS * (n * share * (1.0 - share)).sqrt()
}
