use serde_json::json;

use super::*;

fn read(text: &str) -> Vec<(usize, Result<Value, String>)> {
    documents(text.as_bytes()).unwrap().into_iter().map(|document| (document.number, document.value)).collect()
}

#[test]
fn documents_are_told_apart() {
    assert_eq!(read("---\na: 1\n---\n# nothing\n---\nb: 2"), [(1, Ok(json!({"a": 1}))), (3, Ok(json!({"b": 2})))]);
    assert_eq!(read("a: 1\r\n---\r\nb: \"x\"\r\n"), [(1, Ok(json!({"a": 1}))), (2, Ok(json!({"b": "x"})))]);
    assert_eq!(read("# head\n---\na: 1\n...\n---\n--- # tail\n"), [(2, Ok(json!({"a": 1})))]);
    assert_eq!(read("\u{feff}a: 1"), [(1, Ok(json!({"a": 1})))]);
    assert_eq!(read(""), []);
    assert_eq!(read("\n\n---\n\n"), []);
    assert_eq!(read("a: |\n  x\n  --- y\n  ---\n"), [(1, Ok(json!({"a": "x\n--- y\n---\n"})))]);
}

#[test]
fn json_is_read_too() {
    assert_eq!(read("{\"a\":\n\t[1, \"\\ud83d\\ude00\"]}"), [(1, Ok(json!({"a": [1, "😀"]})))]);
    assert_eq!(read("{a: b}"), [(1, Ok(json!({"a": "b"})))]);
    assert!(json(b"{\"a\":1,\"a\":2}").unwrap_err().contains("given twice"));
    assert!(json(b"{} x").is_err());
}

#[test]
fn a_broken_document_hides_no_other() {
    let found = read("a: [1\n---\nb: 2\n---\nc: 1\nc: 2\n");
    assert_eq!(found.len(), 3);
    assert!(found[0].1.is_err());
    assert_eq!(found[1], (2, Ok(json!({"b": 2}))));
    let message = found[2].1.clone().unwrap_err();
    assert!(message.contains("the field \"c\" is given twice"), "{message}");
    assert!(message.starts_with("line 5"), "{message}");
}

#[test]
fn anchors_and_merges_are_spelled_out() {
    assert_eq!(
        read("base: &b {x: 1, y: 2}\na:\n  <<: *b\n  y: 3\nl: [*b]\n"),
        [(1, Ok(json!({"base": {"x": 1, "y": 2}, "a": {"x": 1, "y": 3}, "l": [{"x": 1, "y": 2}]})))]
    );
    assert_eq!(read("80: a\ntrue: b\n"), [(1, Ok(json!({"80": "a", "true": "b"})))]);
}

#[test]
fn growth_is_limited() {
    let mut bomb = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
    for level in 1..12 {
        let below = format!("*a{}", level - 1);
        bomb.push_str(&format!("a{level}: &a{level} [{}]\n", vec![below; 10].join(", ")));
    }
    assert!(read(&bomb)[0].1.is_err());

    let long = "x".repeat(100_000);
    let wide = format!("a: &a {long}\nb: [{}]\n", vec!["*a"; 2000].join(", "));
    assert!(read(&wide)[0].1.clone().unwrap_err().contains("too large"));

    assert!(read(&"[".repeat(100_000))[0].1.is_err());
    assert!(json("[".repeat(100_000).as_bytes()).is_err());
    assert_eq!(read(&"- [\n".repeat(1000)), [(1, Err("brackets nest too deep".to_owned()))]);
    assert!(read(&"- ".repeat(1000))[0].1.clone().unwrap_err().contains("recursion limit"));
    assert!(documents("---\na\n".repeat(20_001).as_bytes()).unwrap_err().contains("documents"));
    let large = format!("a: {}", "x".repeat(DOCUMENT_BYTES));
    assert!(read(&large)[0].1.clone().unwrap_err().contains("more than"));
}

#[test]
fn what_json_has_not_is_refused() {
    for text in ["a: .nan", "a: !custom x", "? [a]\n: b", "a: .inf"] {
        assert!(read(text)[0].1.is_err(), "{text}");
    }
    assert!(documents(b"a: \xff").unwrap_err().contains("not UTF-8"));
}
