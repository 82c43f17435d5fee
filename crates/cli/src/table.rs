//! Prints the tables a Kubernetes API server makes (`meta.k8s.io/v1`, Table) as kubectl prints them.
//!
//! Which columns a kind has is the server's knowledge, not ours.

use serde::Deserialize;
use serde_json::Value;

/// A table as the server sends it.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Table {
    #[serde(default)]
    column_definitions: Vec<Column>,
    #[serde(default)]
    rows: Vec<Row>,
}

#[derive(Deserialize)]
struct Column {
    name: String,
    /// Columns with a priority above 0 are printed in wide tables only.
    #[serde(default)]
    priority: i32,
}

#[derive(Deserialize)]
struct Row {
    #[serde(default)]
    cells: Vec<Value>,
    #[serde(default)]
    object: Value,
}

/// What to print of a table.
#[derive(Clone, Copy, Default)]
pub struct Show<'a> {
    /// Columns of lower priority too.
    pub wide: bool,
    /// The namespace of each row.
    pub namespaces: bool,
    /// Goes before each name, as in `service/helloworld`.
    pub prefix: &'a str,
}

impl Table {
    /// Whether there is nothing to show.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// Adds the rows of another table of the same kind.
    pub fn append(&mut self, other: Table) {
        self.rows.extend(other.rows);
    }

    /// The table as lines, each with its newline. Columns are three blanks apart.
    pub fn render(&self, show: Show<'_>) -> String {
        let shown: Vec<usize> = self
            .column_definitions
            .iter()
            .enumerate()
            .filter(|(_, column)| show.wide || column.priority == 0)
            .map(|(index, _)| index)
            .collect();
        let mut lines = Vec::with_capacity(self.rows.len() + 1);
        let mut head: Vec<String> = Vec::new();
        if show.namespaces {
            head.push("NAMESPACE".to_string());
        }
        head.extend(
            shown
                .iter()
                .filter_map(|&index| self.column_definitions.get(index))
                .map(|column| column.name.to_uppercase()),
        );
        lines.push(head);
        for row in &self.rows {
            let mut line = Vec::with_capacity(shown.len() + 1);
            if show.namespaces {
                let namespace = row.object.pointer("/metadata/namespace").and_then(Value::as_str);
                line.push(namespace.unwrap_or_default().to_string());
            }
            for &index in &shown {
                let cell = row.cells.get(index).map(cell).unwrap_or_default();
                line.push(if index == 0 { format!("{}{cell}", show.prefix) } else { cell });
            }
            lines.push(line);
        }
        align(&lines)
    }
}

fn cell(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Null => "<none>".to_string(),
        other => other.to_string(),
    }
}

fn align(lines: &[Vec<String>]) -> String {
    let mut widths: Vec<usize> = Vec::new();
    for line in lines {
        for (index, cell) in line.iter().enumerate() {
            let width = cell.chars().count();
            match widths.get_mut(index) {
                Some(widest) => *widest = width.max(*widest),
                None => widths.push(width),
            }
        }
    }
    let mut text = String::new();
    for line in lines {
        let last = line.len().saturating_sub(1);
        for (index, (cell, width)) in line.iter().zip(&widths).enumerate() {
            text.push_str(cell);
            if index < last {
                text.extend(std::iter::repeat_n(' ', width - cell.chars().count() + 3));
            }
        }
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn services() -> Table {
        serde_json::from_value(serde_json::json!({
            "kind": "Table",
            "apiVersion": "meta.k8s.io/v1",
            "columnDefinitions": [
                {"name": "Name", "type": "string"},
                {"name": "Port(s)", "type": "string", "priority": 0},
                {"name": "Age", "type": "string"},
                {"name": "Selector", "type": "string", "priority": 1},
            ],
            "rows": [
                {"cells": ["helloworld", "8080/TCP", "5s", "app=helloworld"], "object": {"metadata": {"namespace": "canary"}}},
                {"cells": ["a", "80:31380/TCP,443:31390/TCP", 7, null], "object": {"metadata": {"namespace": "default"}}},
            ],
        }))
        .unwrap()
    }

    #[test]
    fn as_kubectl_prints_it() {
        assert_eq!(
            services().render(Show::default()),
            "NAME         PORT(S)                      AGE\n\
             helloworld   8080/TCP                     5s\n\
             a            80:31380/TCP,443:31390/TCP   7\n"
        );
    }

    #[test]
    fn wide_and_of_all_namespaces() {
        assert_eq!(
            services().render(Show { wide: true, namespaces: true, prefix: "service/" }),
            "NAMESPACE   NAME                 PORT(S)                      AGE   SELECTOR\n\
             canary      service/helloworld   8080/TCP                     5s    app=helloworld\n\
             default     service/a            80:31380/TCP,443:31390/TCP   7     <none>\n"
        );
    }
}
