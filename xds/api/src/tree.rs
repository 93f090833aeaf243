//! A configuration text as a tree of JSON-like values, each with its place in the text. The readers of YAML, JSON and
//! text format make it, `read` turns it into a message.

use std::{borrow::Cow, collections::HashSet};

use crate::error::Error;

/// Protobuf's JSON parser gives up at this depth, and so does Envoy.
pub(crate) const MAX_DEPTH: usize = 100;

/// Line and column, both from 1.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Position {
    pub(crate) line: u32,
    pub(crate) column: u32,
}

impl Position {
    pub(crate) fn new(line: usize, column: usize) -> Position {
        let narrow = |value| u32::try_from(value).unwrap_or(u32::MAX);
        Position { line: narrow(line), column: narrow(column) }
    }

    /// An error here, of the text and not of a message: it has no path.
    pub(crate) fn error(self, reason: impl Into<String>) -> Error {
        Error { position: Some((self.line, self.column)), ..Error::new("", reason) }
    }
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Node<'a> {
    pub(crate) value: Value<'a>,
    pub(crate) at: Position,
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Value<'a> {
    Null,
    Bool(bool),
    Int(i64),
    Double(f64),
    /// A number as JSON wrote it, for what its field makes of it.
    Number(Cow<'a, str>),
    String(Cow<'a, str>),
    /// Text format only: JSON writes bytes in base64.
    Bytes(Vec<u8>),
    List(Vec<Node<'a>>),
    Map(Vec<Entry<'a>>),
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Entry<'a> {
    pub(crate) key: Cow<'a, str>,
    pub(crate) at: Position,
    pub(crate) node: Node<'a>,
}

impl Value<'_> {
    /// What an error calls the value.
    pub(crate) fn describe(&self) -> &'static str {
        match self {
            Value::Null => "null",
            Value::Bool(_) => "a boolean",
            Value::Int(_) | Value::Double(_) | Value::Number(_) => "a number",
            Value::String(_) => "a string",
            Value::Bytes(_) => "bytes",
            Value::List(_) => "a list",
            Value::Map(_) => "an object",
        }
    }
}

/// Of entries with the same key, keeps the last one.
pub(crate) fn last_of_each_key(entries: &mut Vec<Entry<'_>>) {
    const SMALL: usize = 12;
    let duplicate = if entries.len() <= SMALL {
        entries.iter().enumerate().any(|(at, entry)| entries[..at].iter().any(|e| e.key == entry.key))
    } else {
        let mut keys = HashSet::with_capacity(entries.len());
        entries.iter().any(|entry| !keys.insert(entry.key.as_ref()))
    };
    if !duplicate {
        return;
    }
    let mut keys = HashSet::new();
    let mut keep: Vec<bool> = entries.iter().rev().map(|entry| keys.insert(entry.key.to_string())).collect();
    entries.retain(|_| keep.pop().unwrap_or(true));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_of_equal_keys_stays() {
        for others in [0, 50] {
            let entry = |key: String, value| Entry {
                key: key.into(),
                at: Position::default(),
                node: Node { value: Value::Int(value), at: Position::default() },
            };
            let mut entries = vec![entry("a".into(), 1), entry("b".into(), 2), entry("a".into(), 3)];
            entries.extend((0..others).map(|n| entry(n.to_string(), n)));
            last_of_each_key(&mut entries);
            let kept: Vec<_> = entries.iter().take(2).map(|e| (e.key.as_ref(), &e.node.value)).collect();
            assert_eq!(kept, [("b", &Value::Int(2)), ("a", &Value::Int(3))]);
            assert_eq!(entries.len() as i64, 2 + others);
        }
    }
}
