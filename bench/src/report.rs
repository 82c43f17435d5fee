//! The table that is printed.

use crate::contender::Contender;
use crate::job::{Figure, Job};

type Round = Vec<(Contender, Figure)>;

fn median(mut values: Vec<f64>) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    match values.len() {
        0 => None,
        n if n % 2 == 1 => Some(values[middle]),
        _ => Some((values[middle - 1] + values[middle]) / 2.0),
    }
}

fn of(round: &Round, contender: Contender) -> Option<Figure> {
    round.iter().find(|(who, _)| *who == contender).map(|(_, figure)| *figure)
}

/// Medians of the rounds for each contender, and the median of the ratios of each round.
pub fn table(job: Job, contenders: &[Contender], rounds: &[Round]) -> String {
    let unit = job.unit();
    let mut text = format!(
        "  {:<8} {:>17} {:>14} {:>9} {:>9} {:>9}   {:>11} {:>11}\n",
        "",
        format!("CPU us/{unit}"),
        format!("{unit}s/s"),
        "p50 us",
        "p99 us",
        "RSS MiB",
        "CPU/envoy",
        "CPU/haproxy"
    );
    for contender in contenders {
        let figure = |pick: fn(&Figure) -> f64| {
            median(rounds.iter().filter_map(|round| of(round, *contender)).map(|figure| pick(&figure)).collect())
                .unwrap_or(0.0)
        };
        let ratio = |to: Contender| {
            let ratios =
                rounds.iter().filter_map(|round| Some(of(round, *contender)?.cpu_us / of(round, to)?.cpu_us)).collect();
            median(ratios).map_or("-".to_owned(), |ratio| format!("{ratio:.2}"))
        };
        text.push_str(&format!(
            "  {:<8} {:>17.1} {:>14.0} {:>9.0} {:>9.0} {:>9.1}   {:>11} {:>11}\n",
            contender.name(),
            figure(|f| f.cpu_us),
            figure(|f| f.rate),
            figure(|f| f.p50_us),
            figure(|f| f.p99_us),
            figure(|f| f.rss_mib),
            ratio(Contender::Envoy),
            ratio(Contender::Haproxy)
        ));
    }
    text
}
