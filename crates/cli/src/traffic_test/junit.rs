//! Results as JUnit XML, the form that CI systems read (the `testsuites` schema of the Ant task).

use std::fmt::Write as _;

use super::{Ran, Result, Verdict};

/// A suite for each test, a case for each expectation.
pub fn junit(results: &[Result]) -> String {
    let mut xml = String::from("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<testsuites name=\"lateen test\">\n");
    for result in results {
        let cases = || result.steps.iter().flat_map(|step| step.verdicts.iter().map(move |verdict| (step, verdict)));
        let failures = cases().filter(|(_, verdict)| !verdict.passed).count();
        let errors = usize::from(result.broken.is_some());
        let left_out: Vec<(&str, &str)> =
            result.steps.iter().filter_map(|step| Some((step.step.as_str(), step.left_out?))).collect();
        let seconds: f64 = result.steps.iter().map(|step| step.took.as_secs_f64()).sum();
        // Writing to a String cannot fail.
        let _ = writeln!(
            xml,
            "  <testsuite name=\"{}\" file=\"{}\" tests=\"{}\" failures=\"{failures}\" errors=\"{errors}\" skipped=\"{}\" time=\"{seconds:.3}\">",
            escaped(&result.test),
            escaped(&result.source),
            cases().count() + errors + left_out.len(),
            left_out.len()
        );
        for (step, verdict) in cases() {
            case(&mut xml, &result.test, step, verdict);
        }
        for (step, reason) in left_out {
            let (name, step, reason) = (escaped(&result.test), escaped(step), escaped(reason));
            let _ = writeln!(
                xml,
                "    <testcase classname=\"{name}\" name=\"{step}\"><skipped message=\"{reason}\"/></testcase>"
            );
        }
        if let Some(reason) = &result.broken {
            let (name, reason) = (escaped(&result.test), escaped(reason));
            let _ = writeln!(
                xml,
                "    <testcase classname=\"{name}\" name=\"run\"><error message=\"{reason}\"/></testcase>"
            );
        }
        xml.push_str("  </testsuite>\n");
    }
    xml.push_str("</testsuites>\n");
    xml
}

fn case(xml: &mut String, test: &str, step: &Ran, verdict: &Verdict) {
    let name = escaped(&format!("{}: {}", step.step, verdict.what));
    let _ = write!(
        xml,
        "    <testcase classname=\"{}\" name=\"{name}\" time=\"{:.3}\"",
        escaped(test),
        step.took.as_secs_f64()
    );
    if verdict.passed {
        xml.push_str("/>\n");
        return;
    }
    let message = escaped(&format!("expected {}, seen {}", verdict.expected, verdict.seen));
    let notes = escaped(&verdict.notes.join("\n"));
    let _ = writeln!(xml, "><failure message=\"{message}\">{notes}</failure></testcase>");
}

/// Text for XML; characters that XML 1.0 cannot hold become U+FFFD.
fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\n' => out.push_str("&#10;"),
            '\t' => out.push('\t'),
            c if c < ' ' || c == '\u{fffe}' || c == '\u{ffff}' => out.push('\u{fffd}'),
            c => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn suites_and_cases() {
        let verdict = |passed, what: &str| Verdict {
            what: what.to_owned(),
            passed,
            expected: "all".to_owned(),
            seen: "1 of 2 <\u{1}>".to_owned(),
            notes: vec!["a".to_owned(), "\"b\"".to_owned()],
            share: None,
        };
        let step = Ran {
            step: "one & two".to_owned(),
            requests: 2,
            took: Duration::from_millis(1500),
            verdicts: vec![verdict(true, "status 200"), verdict(false, "pods")],
            left_out: None,
        };
        let left_out = Ran {
            step: "three".to_owned(),
            took: Duration::ZERO,
            verdicts: Vec::new(),
            left_out: Some("not computed"),
            ..step.clone()
        };
        let result = Result {
            test: "canary".to_owned(),
            source: "t.yaml".to_owned(),
            steps: vec![step, left_out],
            broken: Some("no mesh".to_owned()),
        };
        let expected = "<?xml version=\"1.0\" encoding=\"UTF-8\"?>
<testsuites name=\"lateen test\">
  <testsuite name=\"canary\" file=\"t.yaml\" tests=\"4\" failures=\"1\" errors=\"1\" skipped=\"1\" time=\"1.500\">
    <testcase classname=\"canary\" name=\"one &amp; two: status 200\" time=\"1.500\"/>
    <testcase classname=\"canary\" name=\"one &amp; two: pods\" time=\"1.500\"><failure message=\"expected all, seen 1 of 2 &lt;\u{fffd}&gt;\">a&#10;&quot;b&quot;</failure></testcase>
    <testcase classname=\"canary\" name=\"three\"><skipped message=\"not computed\"/></testcase>
    <testcase classname=\"canary\" name=\"run\"><error message=\"no mesh\"/></testcase>
  </testsuite>
</testsuites>
";
        assert_eq!(junit(&[result]), expected);
    }
}
