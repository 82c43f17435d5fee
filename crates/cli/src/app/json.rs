//! Writes an answer's JSON straight into one buffer. A serializer over a struct would first need every header copied.

/// One JSON object being written.
pub struct Object {
    text: String,
    first: bool,
}

impl Object {
    /// An object whose text is expected to be about `capacity` bytes long.
    pub fn with_capacity(capacity: usize) -> Object {
        let mut text = String::with_capacity(capacity);
        text.push('{');
        Object { text, first: true }
    }

    fn key(&mut self, key: &str) {
        if !self.first {
            self.text.push(',');
        }
        self.first = false;
        push_string(&mut self.text, key);
        self.text.push(':');
    }

    pub fn string(&mut self, key: &str, value: &str) {
        self.key(key);
        push_string(&mut self.text, value);
    }

    pub fn number(&mut self, key: &str, value: u64) {
        use std::fmt::Write as _;
        self.key(key);
        // Writing to a String cannot fail.
        let _ = write!(self.text, "{value}");
    }

    /// A value that is JSON already.
    pub fn json(&mut self, key: &str, value: &str) {
        self.key(key);
        self.text.push_str(value);
    }

    /// Headers as an object; values of one name, which follow each other, are joined with `, `, and bytes that are not
    /// UTF-8 become U+FFFD.
    pub fn headers<'a>(&mut self, key: &str, headers: impl IntoIterator<Item = (&'a str, &'a [u8])>) {
        self.key(key);
        self.text.push('{');
        let mut previous = None;
        for (name, value) in headers {
            if previous == Some(name) {
                self.text.pop();
                self.text.push_str(", ");
            } else {
                if previous.is_some() {
                    self.text.push(',');
                }
                push_string(&mut self.text, name);
                self.text.push_str(":\"");
            }
            push_escaped(&mut self.text, &String::from_utf8_lossy(value));
            self.text.push('"');
            previous = Some(name);
        }
        self.text.push('}');
    }

    /// Ends the object, with a string `padding` so that the text, newline included, has at least `size` bytes.
    pub fn finish(mut self, size: usize) -> String {
        const AROUND: usize = ",\"padding\":\"\"}\n".len();
        if size > self.text.len() + "}\n".len() {
            let padding = size.saturating_sub(self.text.len() + AROUND);
            self.key("padding");
            self.text.reserve(padding + 4);
            self.text.push('"');
            self.text.extend(std::iter::repeat_n('.', padding));
            self.text.push('"');
        }
        self.text.push_str("}\n");
        self.text
    }
}

fn push_string(text: &mut String, value: &str) {
    text.push('"');
    push_escaped(text, value);
    text.push('"');
}

fn push_escaped(text: &mut String, value: &str) {
    use std::fmt::Write as _;
    if !value.bytes().any(|byte| byte < 0x20 || byte == b'"' || byte == b'\\') {
        text.push_str(value);
        return;
    }
    for character in value.chars() {
        match character {
            '"' => text.push_str("\\\""),
            '\\' => text.push_str("\\\\"),
            control if control < ' ' => {
                let _ = write!(text, "\\u{:04x}", control as u32);
            }
            other => text.push(other),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn repeated_headers_are_joined() {
        let headers: [(&str, &[u8]); 4] = [("a", b"1"), ("a", b"2"), ("b", b"\"x\\y\""), ("c", b"\xff\t")];
        let mut object = Object::with_capacity(0);
        object.headers("headers", headers);
        let read: serde_json::Value = serde_json::from_str(&object.finish(0)).unwrap();
        assert_eq!(read["headers"], serde_json::json!({"a": "1, 2", "b": "\"x\\y\"", "c": "\u{fffd}\t"}));
    }

    proptest! {
        #[test]
        fn whatever_is_written_reads_back(value in any::<String>(), number in any::<u64>(), size in 0usize..300) {
            let mut object = Object::with_capacity(0);
            object.string("value", &value);
            object.number("number", number);
            let text = object.finish(size);
            prop_assert!(text.len() >= size);
            let read: serde_json::Value = serde_json::from_str(&text).unwrap();
            prop_assert_eq!(read["value"].as_str(), Some(value.as_str()));
            prop_assert_eq!(read["number"].as_u64(), Some(number));
        }
    }

    #[test]
    fn padding_reaches_the_size_exactly_when_there_is_room() {
        let mut object = Object::with_capacity(0);
        object.number("n", 1);
        assert_eq!(object.finish(1024).len(), 1024);
    }
}
