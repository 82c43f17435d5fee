//! How deep brackets nest, before a parser is asked: libyaml's work grows with depth times length, which for a few
//! megabytes of `[` is minutes.

/// What the parsers of both languages take.
const DEEPEST: usize = 128;

/// Whether more brackets are open at once than any parser here would take.
///
/// Brackets in quotes and comments count too, which can only matter for text that opens 128 more than it closes;
/// the text of block scalars (scripts and JSON in ConfigMaps) does not count.
pub(super) fn too_deep(text: &str) -> bool {
    let mut depth = 0usize;
    // Lines indented deeper than this belong to a block scalar.
    let mut scalar: Option<usize> = None;
    for line in text.lines() {
        let indent = line.len() - line.trim_start_matches(' ').len();
        let blank = line.trim().is_empty();
        if scalar.is_some_and(|head| blank || indent > head) {
            continue;
        }
        scalar = None;
        for byte in line.bytes() {
            match byte {
                b'[' | b'{' => depth += 1,
                b']' | b'}' => depth = depth.saturating_sub(1),
                _ => continue,
            }
            if depth > DEEPEST {
                return true;
            }
        }
        // Between brackets there are no block scalars, only text that looks like the head of one.
        if depth == 0 && heads_block_scalar(line) {
            scalar = Some(indent);
        }
    }
    false
}

/// `key: |`, `- >-`, `key: |2+ # comment`
fn heads_block_scalar(line: &str) -> bool {
    let line = line.split_once(" #").map_or(line, |(before, _)| before).trim_end();
    let head = line.trim_end_matches(|c: char| c.is_ascii_digit() || c == '+' || c == '-');
    head.ends_with(['|', '>']) && !line.trim_start().starts_with('#')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn depth_is_counted_where_it_matters() {
        assert!(!too_deep(&"[".repeat(128)));
        assert!(too_deep(&"[".repeat(129)));
        assert!(!too_deep(&"- [a]\n".repeat(1000)));
        assert!(too_deep(&"- [a\n".repeat(1000)));
        let script = format!("data:\n  run.sh: |-\n{}", "    if [ -e ${x\n\n".repeat(500));
        assert!(!too_deep(&script));
        assert!(too_deep(&format!("{script}x: {}", "{".repeat(200))));
        assert!(too_deep(&format!("# a |\n{}", " [".repeat(200))));
        assert!(too_deep(&format!("a: [ |\n{}", "   {".repeat(200))));
    }
}
