//! Bytes to JSON values: YAML with any number of documents, or JSON.
//!
//! YAML's documents are told apart before anything is parsed, as kubectl does, so that one broken document does not hide
//! the others. A `---` at the head of a line always ends a document, even inside a block of text (YAML 1.2, 9.1.2).

mod brackets;
mod value;

use std::cell::Cell;

use serde::de::DeserializeSeed;
use serde_json::Value;
use value::Tree;

/// Bytes of one document; what Kubernetes' API server takes.
pub const DOCUMENT_BYTES: usize = 3 << 20;

/// Bytes of one source with all its documents.
pub const SOURCE_BYTES: usize = 64 << 20;

/// Documents of one source.
const MOST_DOCUMENTS: usize = 20_000;

/// One document of a source.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Document {
    /// Counted from 1, empty documents included.
    pub number: usize,
    /// What it holds, or why that cannot be told.
    pub value: Result<Value, String>,
}

/// The documents of a source that are not empty.
///
/// # Errors
/// When the source as a whole cannot be read: not UTF-8, or too large.
pub(crate) fn documents(bytes: &[u8]) -> Result<Vec<Document>, String> {
    if bytes.len() > SOURCE_BYTES {
        return Err(format!("{} bytes are more than the {SOURCE_BYTES} that are read", bytes.len()));
    }
    let text = std::str::from_utf8(bytes)
        .map_err(|error| format!("not UTF-8: the byte at {} is wrong", error.valid_up_to()))?;
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    if text.trim_start().starts_with('{')
        && let Ok(value) = json(text.as_bytes())
    {
        return Ok(vec![Document { number: 1, value: Ok(value) }]);
    }
    let mut found = Vec::new();
    let mut number = 0;
    let chunks = chunks(text);
    if chunks.len() > MOST_DOCUMENTS {
        return Err(format!("{} documents are more than the {MOST_DOCUMENTS} that are read", chunks.len()));
    }
    for (line, chunk) in chunks {
        if chunk.len() > DOCUMENT_BYTES {
            number += 1;
            let message = format!("{} bytes are more than the {DOCUMENT_BYTES} of one document", chunk.len());
            found.push(Document { number, value: Err(message) });
            continue;
        }
        if brackets::too_deep(chunk) {
            number += 1;
            found.push(Document { number, value: Err("brackets nest too deep".to_owned()) });
            continue;
        }
        for document in serde_norway::Deserializer::from_str(chunk) {
            number += 1;
            let budget = Cell::new(value::BUDGET);
            match Tree::new(&budget).deserialize(document) {
                Ok(Value::Null) => {}
                Ok(value) => found.push(Document { number, value: Ok(value) }),
                Err(error) => {
                    found.push(Document { number, value: Err(explain(&error, line)) });
                    break;
                }
            }
        }
    }
    Ok(found)
}

/// One JSON value, with the same rules: no field twice, not too deep, not too large.
///
/// # Errors
/// The parser's own words.
pub(crate) fn json(bytes: &[u8]) -> Result<Value, String> {
    if bytes.len() > DOCUMENT_BYTES {
        return Err(format!("{} bytes are more than the {DOCUMENT_BYTES} of one document", bytes.len()));
    }
    let budget = Cell::new(value::BUDGET);
    let mut parser = serde_json::Deserializer::from_slice(bytes);
    let value = Tree::new(&budget).deserialize(&mut parser).map_err(|error| error.to_string())?;
    parser.end().map_err(|error| error.to_string())?;
    Ok(value)
}

/// The text between `---` lines, each with the number of lines before it.
fn chunks(text: &str) -> Vec<(usize, &str)> {
    let mut chunks = Vec::new();
    let (mut start, mut start_line, mut at) = (0, 0, 0);
    for (line, content) in text.split_inclusive('\n').enumerate() {
        if is_separator(content) && !text[start..at].trim().is_empty() {
            chunks.push((start_line, &text[start..at]));
            (start, start_line) = (at, line);
        }
        at += content.len();
    }
    chunks.push((start_line, &text[start..]));
    chunks
}

fn is_separator(line: &str) -> bool {
    line.strip_prefix("---").is_some_and(|rest| rest.is_empty() || rest.starts_with([' ', '\t', '\r', '\n']))
}

/// The parser's words with the line of the whole source.
fn explain(error: &serde_norway::Error, lines_before: usize) -> String {
    let said = error.to_string();
    let Some(location) = error.location() else { return said };
    let place = format!(" at line {} column {}", location.line(), location.column());
    let words = said.replacen(&place, "", 1);
    format!("line {}: {words}", location.line() + lines_before)
}

#[cfg(test)]
mod tests;
