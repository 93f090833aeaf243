//! JSON lines: a template of objects, lists and strings with commands, and the writing of JSON.
//!
//! A string that is one command alone keeps its type (number, boolean, object; `null` when missing); any other string
//! with commands stays a string. Keys are sorted. Source: Envoy `docs/root/configuration/observability/access_log`,
//! "Format dictionaries"; shapes observed on Envoy 1.40.

use std::io::Write;

use prost_types::{ListValue, Struct, Value, value::Kind};

use super::render::{Shape, Target};
use super::{Empty, Part, parse};
use crate::extension::access_log::LogEntry;

/// A compiled JSON format.
#[derive(Clone, Debug)]
pub(super) struct JsonFormat {
    root: Vec<(String, Template)>,
    empty: Empty,
}

#[derive(Clone, Debug)]
enum Template {
    /// JSON that is the same for every line.
    Fixed(Vec<u8>),
    /// A string that consists of one command.
    Single(super::Operator),
    /// A string of several parts.
    Parts(Vec<Part>),
    Object(Vec<(String, Template)>),
    List(Vec<Template>),
}

impl JsonFormat {
    /// Compiles `format`; errors name the key.
    pub(super) fn new(format: &Struct, empty: Empty) -> Result<Self, String> {
        Ok(Self { root: object(format)?, empty })
    }

    /// Appends the object for `entry`, without a line break.
    pub(super) fn render(&self, entry: &LogEntry<'_>, out: &mut Vec<u8>) {
        if !render_object(&self.root, self.empty, entry, out) {
            out.extend_from_slice(b"{}");
        }
    }
}

fn object(format: &Struct) -> Result<Vec<(String, Template)>, String> {
    // The map is sorted, and so are the lines, as Envoy's are.
    format
        .fields
        .iter()
        .map(|(key, value)| {
            let template = template(value).map_err(|reason| format!("{key}: {reason}"))?;
            let mut quoted = key.as_bytes().to_vec();
            quote_from(&mut quoted, 0);
            Ok((String::from_utf8_lossy(&quoted).into_owned(), template))
        })
        .collect()
}

fn template(value: &Value) -> Result<Template, String> {
    Ok(match &value.kind {
        Some(Kind::StringValue(text)) => {
            let mut parts = parse::parse(text)?;
            match (parts.pop(), parts.is_empty()) {
                (Some(Part::Operator(operator)), true) => Template::Single(operator),
                (Some(Part::Text(text)), true) => Template::Fixed(quoted(&text)),
                (Some(last), false) => {
                    parts.push(last);
                    Template::Parts(parts)
                }
                (None, _) => Template::Fixed(b"\"\"".to_vec()),
            }
        }
        Some(Kind::StructValue(inner)) => Template::Object(object(inner)?),
        Some(Kind::ListValue(list)) => {
            Template::List(list.values.iter().map(template).collect::<Result<_, _>>()?)
        }
        Some(Kind::NumberValue(_) | Kind::BoolValue(_)) => {
            let mut fixed = Vec::new();
            put_value(&mut fixed, value);
            Template::Fixed(fixed)
        }
        // An empty fixed value is `null`.
        Some(Kind::NullValue(_)) | None => Template::Fixed(Vec::new()),
    })
}

fn quoted(text: &str) -> Vec<u8> {
    let mut out = text.as_bytes().to_vec();
    quote_from(&mut out, 0);
    out
}

/// Appends an object; appends nothing and gives `false` if it would be empty and empty values are left out.
fn render_object(
    members: &[(String, Template)],
    empty: Empty,
    entry: &LogEntry<'_>,
    out: &mut Vec<u8>,
) -> bool {
    let start = out.len();
    out.push(b'{');
    for (key, template) in members {
        let before = out.len();
        if before > start + 1 {
            out.push(b',');
        }
        out.extend_from_slice(key.as_bytes());
        out.push(b':');
        if !render_template(template, empty, entry, out) {
            out.truncate(before);
        }
    }
    if empty == Empty::Omit && out.len() == start + 1 {
        out.truncate(start);
        return false;
    }
    out.push(b'}');
    true
}

fn render_list(list: &[Template], empty: Empty, entry: &LogEntry<'_>, out: &mut Vec<u8>) -> bool {
    let start = out.len();
    out.push(b'[');
    for template in list {
        let before = out.len();
        if before > start + 1 {
            out.push(b',');
        }
        if !render_template(template, empty, entry, out) {
            out.truncate(before);
        }
    }
    if empty == Empty::Omit && out.len() == start + 1 {
        out.truncate(start);
        return false;
    }
    out.push(b']');
    true
}

/// Appends a value; `false` if it is missing and is to be left out.
fn render_template(template: &Template, empty: Empty, entry: &LogEntry<'_>, out: &mut Vec<u8>) -> bool {
    let start = out.len();
    let shape = match template {
        Template::Fixed(json) if json.is_empty() => Shape::Missing,
        Template::Fixed(json) => {
            out.extend_from_slice(json);
            Shape::Json
        }
        Template::Single(operator) => operator.render(entry, Target::Json, out),
        Template::Parts(parts) => {
            super::render_parts(parts, empty, entry, out);
            Shape::Text
        }
        Template::Object(members) => return render_object(members, empty, entry, out),
        Template::List(list) => return render_list(list, empty, entry, out),
    };
    match (shape, empty) {
        (Shape::Missing, Empty::Omit) => return false,
        (Shape::Missing, Empty::Dash) => out.extend_from_slice(b"null"),
        (Shape::Text, _) => quote_from(out, start),
        (Shape::Json, _) => {}
    }
    true
}

/// Turns the bytes of `out` from `start` on into a JSON string.
///
/// Bytes that are not UTF-8 are written as if each were a Latin-1 character, as Envoy does.
pub(super) fn quote_from(out: &mut Vec<u8>, start: usize) {
    let Some(raw) = out.get(start..) else { return };
    let special = |byte: u8| byte < 0x20 || matches!(byte, b'"' | b'\\' | 0x7f);
    let is_utf8 = std::str::from_utf8(raw).is_ok();
    if is_utf8 && !raw.iter().copied().any(special) {
        out.insert(start, b'"');
        out.push(b'"');
        return;
    }
    let raw = out.split_off(start);
    out.push(b'"');
    for byte in raw {
        match byte {
            b'"' => out.extend_from_slice(b"\\\""),
            b'\\' => out.extend_from_slice(b"\\\\"),
            b'\n' => out.extend_from_slice(b"\\n"),
            b'\r' => out.extend_from_slice(b"\\r"),
            b'\t' => out.extend_from_slice(b"\\t"),
            0x08 => out.extend_from_slice(b"\\b"),
            0x0c => out.extend_from_slice(b"\\f"),
            _ if special(byte) || (!is_utf8 && byte >= 0x80) => {
                let _ = write!(out, "\\u{byte:04x}");
            }
            _ => out.push(byte),
        }
    }
    out.push(b'"');
}

/// Appends a protobuf value as JSON.
pub(super) fn put_value(out: &mut Vec<u8>, value: &Value) {
    match &value.kind {
        None | Some(Kind::NullValue(_)) => out.extend_from_slice(b"null"),
        Some(Kind::BoolValue(true)) => out.extend_from_slice(b"true"),
        Some(Kind::BoolValue(false)) => out.extend_from_slice(b"false"),
        Some(Kind::NumberValue(number)) if number.is_finite() => put_number(out, *number),
        Some(Kind::NumberValue(_)) => out.extend_from_slice(b"null"),
        Some(Kind::StringValue(text)) => put_string(out, text),
        Some(Kind::StructValue(inner)) => put_struct(out, inner),
        Some(Kind::ListValue(ListValue { values })) => {
            out.push(b'[');
            for (index, value) in values.iter().enumerate() {
                if index > 0 {
                    out.push(b',');
                }
                put_value(out, value);
            }
            out.push(b']');
        }
    }
}

/// Whole numbers that a 64-bit integer holds are written with all their digits, as Envoy does.
fn put_number(out: &mut Vec<u8>, number: f64) {
    const LIMIT: f64 = 18_446_744_073_709_551_616.0;
    let _ = if number.fract() == 0.0 && number.abs() < LIMIT {
        write!(out, "{}", number as i128)
    } else {
        write!(out, "{number}")
    };
}

/// Appends a protobuf struct as JSON, keys sorted.
pub(super) fn put_struct(out: &mut Vec<u8>, all: &Struct) {
    out.push(b'{');
    for (index, (key, value)) in all.fields.iter().enumerate() {
        if index > 0 {
            out.push(b',');
        }
        put_string(out, key);
        out.push(b':');
        put_value(out, value);
    }
    out.push(b'}');
}

fn put_string(out: &mut Vec<u8>, text: &str) {
    let start = out.len();
    out.extend_from_slice(text.as_bytes());
    quote_from(out, start);
}
