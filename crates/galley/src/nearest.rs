//! Which known name somebody probably meant.

/// The known name nearest to `typed`, if one is near enough to be worth saying.
pub(crate) fn nearest<'a>(typed: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    // Distances cost length times length, and names come from outside.
    if typed.len() > 64 {
        return None;
    }
    let lower = typed.to_ascii_lowercase();
    let limit = (typed.chars().count() / 3).max(1);
    known
        .into_iter()
        .map(|name| (strsim::damerau_levenshtein(&lower, &name.to_ascii_lowercase()), name))
        .filter(|(distance, _)| *distance <= limit)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, name)| name)
}

/// `", did you mean \"host\"?"`, or nothing.
pub(crate) fn did_you_mean<'a>(typed: &str, known: impl IntoIterator<Item = &'a str>) -> String {
    nearest(typed, known).map(|name| format!(", did you mean {name:?}?")).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_typing_errors_and_wrong_case_only() {
        let known = ["host", "subset", "port", "trafficPolicy"];
        assert_eq!(nearest("hst", known), Some("host"));
        assert_eq!(nearest("Host", known), Some("host"));
        assert_eq!(nearest("traficpolicy", known), Some("trafficPolicy"));
        assert_eq!(nearest("weight", known), None);
        assert_eq!(nearest(&"h".repeat(100), known), None);
    }
}
