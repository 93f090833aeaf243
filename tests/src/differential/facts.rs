//! What was observed, as names and values.

use std::collections::BTreeMap;
use std::fmt;
use std::io::{self, Read};

use crate::http1::{Fields, field};

/// The name of what kept the rig from looking: never a fact of the proxies, and never equal.
pub(super) const UNSEEN: &str = "not looked at";

/// Observations by name. Two runs behave alike if their facts are equal.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Facts {
    map: BTreeMap<String, String>,
    /// What to replace in values: the text, and the word for it.
    replace: Vec<(String, String)>,
}

impl Facts {
    /// That replace these texts in every value.
    pub fn new(replace: Vec<(String, String)>) -> Self {
        Self { map: BTreeMap::new(), replace }
    }

    /// Writes down one fact.
    pub fn put(&mut self, name: impl Into<String>, value: impl AsRef<str>) {
        let mut value = value.as_ref().to_owned();
        for (text, word) in &self.replace {
            value = value.replace(text, word);
        }
        self.map.insert(name.into(), value);
    }

    /// Writes down a header or trailer section: values of one name joined in order. The order of different names means
    /// nothing (RFC 9110, section 5.3) and is left out.
    pub fn put_fields(&mut self, name: &str, fields: &Fields) {
        let mut joined: BTreeMap<&str, String> = BTreeMap::new();
        for (field, value) in fields {
            let value = varying(field, value);
            joined.entry(field).and_modify(|all| *all = format!("{all} ++ {value}")).or_insert(value);
        }
        for (field, value) in joined {
            self.put(format!("{name}.{field}"), value);
        }
    }

    /// Writes down a body: as text, cut when it is long.
    pub fn put_body(&mut self, name: impl Into<String>, body: &[u8]) {
        let text = String::from_utf8_lossy(body);
        match text.char_indices().nth(300) {
            Some((at, _)) => {
                self.put(name, format!("{}... ({} bytes, sum {})", &text[..at], body.len(), sum(body)))
            }
            None => self.put(name, text),
        }
    }

    /// Writes down the body of a message with these headers: what it is when it is decoded.
    pub fn put_encoded_body(&mut self, name: &str, fields: &Fields, body: &[u8]) {
        match field(fields, "content-encoding").map(|encoding| decoded(encoding, body)) {
            Some(Ok(decoded)) => self.put_body(name, &decoded),
            Some(Err(error)) => self.put(name, format!("cannot be decoded: {error}")),
            None => self.put_body(name, body),
        }
    }

    /// Writes down a line of an access log: fields `name=value` between `|`, or the members of a JSON object. Digits and
    /// identities in a field whose name begins with `~` vary and are replaced.
    pub fn put_log_line(&mut self, name: &str, line: &str) {
        let mut put = |field: &str, value: &str| {
            let value = if field.starts_with('~') { without_digits(value) } else { value.to_owned() };
            self.put(format!("{name}.{field}"), value);
        };
        match serde_json::from_str::<serde_json::Map<_, _>>(line) {
            Ok(members) => {
                members.iter().for_each(|(field, value)| put(field, &value.to_string()));
            }
            Err(_) => {
                for field in line.split('|') {
                    let (field, value) = field.split_once('=').unwrap_or(("?", field));
                    put(field, value);
                }
            }
        }
    }

    /// The value of a fact.
    pub fn value(&self, name: &str) -> Option<&str> {
        self.map.get(name).map(String::as_str)
    }

    /// The differences that are not declared, and the declarations that do not hold, one per line. Facts that are `varying`
    /// may differ or not.
    pub fn differences(&self, actual: &Self, known: &[(&str, &str)], varying: &[(&str, &str)]) -> String {
        let show = |value: Option<&String>| value.map_or("(absent)".to_owned(), |value| format!("{value:?}"));
        let mut lines = Vec::new();
        let mut used = vec![false; known.len()];
        let names = self.map.keys().chain(actual.map.keys().filter(|name| !self.map.contains_key(*name)));
        for name in names {
            let (left, right) = (self.map.get(name), actual.map.get(name));
            if name == UNSEEN {
                lines.push(format!("{name}: {}, {}", show(left), show(right)));
                continue;
            }
            if left == right || varying.iter().any(|(pattern, _)| matches(pattern, name)) {
                continue;
            }
            if let Some(at) = known.iter().position(|(pattern, _)| matches(pattern, name)) {
                used[at] = true;
                continue;
            }
            lines.push(format!("{name}: expected {}, got {}", show(left), show(right)));
        }
        for ((pattern, reason), used) in known.iter().zip(used) {
            if !used {
                let both =
                    self.value(pattern).map_or(String::new(), |value| format!(": both have {value:?}"));
                lines.push(format!("declared difference {pattern} ({reason}) does not show any more{both}"));
            }
        }
        lines.join("\n")
    }
}

impl fmt::Display for Facts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (name, value) in &self.map {
            writeln!(f, "{name} = {value:?}")?;
        }
        Ok(())
    }
}

fn matches(pattern: &str, name: &str) -> bool {
    match pattern.strip_suffix('*') {
        Some(start) => name.starts_with(start),
        None => pattern == name,
    }
}

fn sum(body: &[u8]) -> u32 {
    body.iter().fold(0, |sum: u32, byte| sum.wrapping_mul(31).wrapping_add(u32::from(*byte)))
}

/// A value, or a word for its kind where it varies from run to run. A value of the wrong kind stays, and so differs.
pub(super) fn varying(field: &str, value: &str) -> String {
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let word = match field.to_ascii_lowercase().as_str() {
        "date" if value.len() == 29 && value.ends_with(" GMT") => "<date>",
        "x-request-id" if is_uuid(value) => "<uuid>",
        field if field.ends_with("-delay-ms") && digits(value) => "<ms>",
        "x-envoy-upstream-service-time" | "x-foo-upstream-service-time" if digits(value) => "<ms>",
        _ => value,
    };
    word.to_owned()
}

/// A number, an address or an identity with what varies replaced: `#` for digits, a word for a UUID.
fn without_digits(value: &str) -> String {
    if is_uuid(value.trim_matches('"')) {
        return "<uuid>".to_owned();
    }
    let mut out = String::new();
    for letter in value.chars() {
        let letter = if letter.is_ascii_digit() { '#' } else { letter };
        if letter != '#' || !out.ends_with('#') {
            out.push(letter);
        }
    }
    out
}

fn is_uuid(value: &str) -> bool {
    value.len() == 36
        && value.bytes().enumerate().all(|(at, byte)| match at {
            8 | 13 | 18 | 23 => byte == b'-',
            _ => matches!(byte, b'0'..=b'9' | b'a'..=b'f'),
        })
}

fn decoded(encoding: &str, body: &[u8]) -> io::Result<Vec<u8>> {
    let mut out = Vec::new();
    match encoding {
        "gzip" => flate2::read::GzDecoder::new(body).read_to_end(&mut out),
        "br" => brotli::Decompressor::new(body, 4096).read_to_end(&mut out),
        "zstd" => zstd::stream::read::Decoder::new(body)?.read_to_end(&mut out),
        _ => return Ok(body.to_vec()),
    }?;
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts(pairs: &[(&str, &str)]) -> Facts {
        let mut facts = Facts::default();
        for (name, value) in pairs {
            facts.put(*name, value);
        }
        facts
    }

    #[test]
    fn a_difference_is_reported_unless_it_is_declared() {
        let left = facts(&[("a", "1"), ("b", "2")]);
        let right = facts(&[("a", "1"), ("b", "3"), ("c", "4")]);
        assert_eq!(left.differences(&left, &[], &[]), "");
        assert_eq!(left.differences(&right, &[], &[]).lines().count(), 2);
        assert_eq!(left.differences(&right, &[("b", "why"), ("c*", "why")], &[]), "");
        assert_eq!(left.differences(&right, &[], &[("b", "why"), ("c*", "why"), ("a", "why")]), "");
    }

    #[test]
    fn what_was_not_looked_at_is_never_equal() {
        let blind = facts(&[(UNSEEN, "no such listener")]);
        assert_ne!(blind.differences(&blind, &[], &[("*", "why")]), "");
    }

    #[test]
    fn a_declaration_that_does_not_hold_is_reported() {
        let left = facts(&[("a", "1")]);
        assert!(left.differences(&left, &[("a", "why")], &[]).contains("does not show"));
    }

    #[test]
    fn what_varies_is_replaced_only_if_it_has_the_right_form() {
        assert_eq!(varying("date", "Sun, 06 Nov 1994 08:49:37 GMT"), "<date>");
        assert_eq!(varying("date", "yesterday"), "yesterday");
        assert_eq!(varying("x-request-id", "6a9d1c1e-4b6b-4d9e-8a69-0c6ad0f7f9b1"), "<uuid>");
        assert_eq!(varying("x-request-id", "mine"), "mine");
    }

    #[test]
    fn a_log_line_is_taken_apart() {
        let mut facts = Facts::default();
        facts.put_log_line("t", "a=1|~b=12ms");
        facts.put_log_line("j", r#"{"a":1,"~b":"6a9d1c1e-4b6b-4d9e-8a69-0c6ad0f7f9b1","c":null}"#);
        let expected = [("t.a", "1"), ("t.~b", "#ms"), ("j.a", "1"), ("j.~b", "<uuid>"), ("j.c", "null")];
        for (name, value) in expected {
            assert_eq!(facts.value(name), Some(value), "{name}");
        }
    }

    #[test]
    fn values_of_one_name_keep_their_order() {
        let mut facts = Facts::default();
        facts.put_fields(
            "h",
            &vec![("a".into(), "1".into()), ("b".into(), "x".into()), ("a".into(), "2".into())],
        );
        assert_eq!(facts.value("h.a"), Some("1 ++ 2"));
    }
}
