//! `envoy.config.core.v3.HeaderValueOption`: headers to add, whose values may be formats.

use std::borrow::Cow;

use crate::config::{BuildCx, Rejected};
use crate::extension::access_log::LogEntry;
use crate::field_names::{add, joins_in_response};
use crate::format::{Empty, Format};
use http::header::{HeaderMap, HeaderName, HeaderValue};
use smallvec::SmallVec;
use xds_api::envoy::config::core::v3::header_value_option::HeaderAppendAction;
use xds_api::envoy::config::core::v3::{HeaderValue as ProtoHeader, HeaderValueOption};

/// Headers to add.
#[derive(Debug, Default)]
pub struct Appends(Box<[Append]>);

impl Appends {
    /// Builds from a repeated field.
    pub fn build(
        field: &'static str,
        protos: &[HeaderValueOption],
        cx: &mut BuildCx<'_>,
    ) -> Result<Self, Rejected> {
        Ok(Self(cx.each(field, protos, Append::build)?.into()))
    }

    /// Adds them to a response that the proxy makes: what takes the place of others first. Values are of the headers as they stand before.
    pub fn apply(&self, headers: &mut HeaderMap, entry: &LogEntry<'_>) {
        write(self.prepare(headers, entry), headers, joins_in_response);
    }

    /// What they add to `headers`.
    pub fn prepare(&self, headers: &HeaderMap, entry: &LogEntry<'_>) -> Additions<'_> {
        self.0.iter().filter_map(|append| append.prepare(headers, entry)).collect()
    }

    /// Those that are added.
    pub fn iter(&self) -> std::slice::Iter<'_, Append> {
        self.0.iter()
    }
}

/// What is to be added.
pub type Additions<'a> = SmallVec<[Addition<'a>; 4]>;

/// Adds what was prepared, what takes the place of others first, for as long as there is room.
pub fn write(mut additions: Additions<'_>, headers: &mut HeaderMap, joins: fn(&HeaderName) -> bool) {
    additions.sort_by_key(|addition| !addition.overwrites);
    for addition in additions {
        addition.apply(headers, joins);
    }
}

/// A header to be added, or to take the place of what is there.
#[derive(Debug)]
pub struct Append {
    name: HeaderName,
    value: Value,
    action: HeaderAppendAction,
    keep_empty: bool,
}

#[derive(Debug)]
enum Value {
    Constant(HeaderValue),
    Format(Format),
}

/// A header as it is added.
pub struct Addition<'a> {
    name: &'a HeaderName,
    value: HeaderValue,
    overwrites: bool,
}

impl Append {
    /// Builds from the message.
    #[allow(deprecated, reason = "control planes still send `append`")]
    pub fn build(proto: &HeaderValueOption, cx: &mut BuildCx<'_>) -> Result<Self, Rejected> {
        let HeaderValueOption { header, append, append_action, keep_empty_value } = proto;
        let Some(ProtoHeader { key, value, raw_value }) = header else {
            return Err(cx.at("header", |cx| cx.reject("value is required")));
        };
        if key.starts_with(':') || key.eq_ignore_ascii_case("host") {
            return Err(cx.reject(":-prefixed or host headers may not be modified"));
        }
        let name = HeaderName::try_from(key.as_str()).map_err(|_| {
            cx.at("header", |cx| cx.at("key", |cx| cx.reject(format!("'{key}' is not a header name"))))
        })?;
        let action = HeaderAppendAction::try_from(*append_action).map_err(|_| {
            cx.at("append_action", |cx| cx.reject("value must be one of the defined enum values"))
        })?;
        let action = match append {
            None => action,
            Some(_) if action != HeaderAppendAction::AppendIfExistsOrAdd => {
                return Err(cx.reject("Both append and append_action are set and it's not allowed"));
            }
            Some(true) => HeaderAppendAction::AppendIfExistsOrAdd,
            Some(false) => HeaderAppendAction::OverwriteIfExistsOrAdd,
        };
        let value = cx.at("header", |cx| match value.is_empty() && !raw_value.is_empty() {
            true => cx.at("raw_value", |cx| Value::constant(raw_value, cx)),
            false => cx.at("value", |cx| Value::build(value, cx)),
        })?;
        Ok(Self { name, value, action, keep_empty: *keep_empty_value })
    }

    /// The name of what it adds.
    pub fn name(&self) -> &HeaderName {
        &self.name
    }

    /// What it adds; `entry` is what its value may refer to.
    pub fn prepare(&self, headers: &HeaderMap, entry: &LogEntry<'_>) -> Option<Addition<'_>> {
        let exists = headers.contains_key(&self.name);
        let overwrites = match self.action {
            HeaderAppendAction::AppendIfExistsOrAdd => false,
            HeaderAppendAction::AddIfAbsent if exists => return None,
            HeaderAppendAction::AddIfAbsent => false,
            HeaderAppendAction::OverwriteIfExists if !exists => return None,
            HeaderAppendAction::OverwriteIfExists | HeaderAppendAction::OverwriteIfExistsOrAdd => true,
        };
        let value = self.value.render(entry).filter(|value| self.keep_empty || !value.is_empty())?;
        Some(Addition { name: &self.name, value, overwrites })
    }
}

impl Addition<'_> {
    /// Writes it, if there is room.
    pub fn apply(self, headers: &mut HeaderMap, joins: fn(&HeaderName) -> bool) {
        match self.overwrites {
            true => {
                let _ = headers.try_insert(self.name, self.value);
            }
            false => {
                let _ = add(headers, self.name, self.value, joins);
            }
        }
    }
}

impl Value {
    fn build(text: &str, cx: &mut BuildCx<'_>) -> Result<Self, Rejected> {
        let format = parse(text).map_err(|reason| cx.reject(reason))?;
        match format.constant() {
            Some(constant) => Self::constant(constant.as_bytes(), cx),
            None => Ok(Self::Format(format)),
        }
    }

    fn constant(bytes: &[u8], cx: &mut BuildCx<'_>) -> Result<Self, Rejected> {
        HeaderValue::from_bytes(bytes)
            .map(Self::Constant)
            .map_err(|_| cx.reject("value has characters that a header cannot have"))
    }

    /// The value; `None` if what came out cannot stand in a header.
    fn render(&self, entry: &LogEntry<'_>) -> Option<HeaderValue> {
        match self {
            Self::Constant(value) => Some(value.clone()),
            Self::Format(format) => {
                let mut value = Vec::new();
                format.render(entry, &mut value);
                HeaderValue::from_maybe_shared(bytes::Bytes::from(value)).ok()
            }
        }
    }
}

/// The format of a header value.
///
/// # Errors
/// What is wrong with it.
pub fn parse(text: &str) -> Result<Format, String> {
    Format::parse_with(&modern(text), Empty::Omit)
}

/// Operators that only header formats know: how each begins and ends.
const OLD_FORMS: [(&str, &str); 3] =
    [("%DYNAMIC_METADATA([", "])%"), ("%UPSTREAM_METADATA([", "])%"), ("%PER_REQUEST_STATE(", ")%")];

/// Rewrites what only header formats know: `%DYNAMIC_METADATA(["a","b"])%` means `%DYNAMIC_METADATA(a:b)%`, and
/// `%PER_REQUEST_STATE(key)%` means `%FILTER_STATE(key:PLAIN)%`.
fn modern(text: &str) -> Cow<'_, str> {
    let mut out = String::new();
    let mut rest = text;
    while let Some((at, open, close)) = first_old_form(rest) {
        let (before, found) = rest.split_at(at);
        out.push_str(before);
        let (arguments, after) =
            found.get(open.len()..).and_then(|inside| inside.split_once(close)).unwrap_or_default();
        match open.strip_suffix("([") {
            Some(operator) => {
                let keys: Vec<&str> = arguments.split(',').map(|key| key.trim().trim_matches('"')).collect();
                out.push_str(&format!("{operator}({})%", keys.join(":")));
            }
            None => out.push_str(&format!("%FILTER_STATE({arguments}:PLAIN)%")),
        }
        rest = after;
    }
    if out.is_empty() {
        return Cow::Borrowed(rest);
    }
    out.push_str(rest);
    Cow::Owned(out)
}

/// Where the first of them is, with its beginning and its end.
fn first_old_form(text: &str) -> Option<(usize, &'static str, &'static str)> {
    let found = OLD_FORMS.iter().filter_map(|(open, close)| {
        let at = text.find(open)?;
        text.get(at + open.len()..)?.contains(close).then_some((at, *open, *close))
    });
    found.min()
}

#[cfg(test)]
mod tests {
    use super::modern;

    #[test]
    fn old_forms_of_commands_are_read() {
        for (old, new) in [
            ("%DYNAMIC_METADATA([\"a\", \"b\"])%", "%DYNAMIC_METADATA(a:b)%"),
            ("x%UPSTREAM_METADATA([\"a\"])%y", "x%UPSTREAM_METADATA(a)%y"),
            ("%PER_REQUEST_STATE(k)%", "%FILTER_STATE(k:PLAIN)%"),
            ("%PER_REQUEST_STATE(k", "%PER_REQUEST_STATE(k"),
            // Found by fuzzing: what only looks like one is text.
            ("P(SP(%%]_METADATA([)a%%)%%--%%])a", "P(SP(%%]_METADATA([)a%%)%%--%%])a"),
            ("%DYNAMIC_METADATA(a:b)%", "%DYNAMIC_METADATA(a:b)%"),
        ] {
            assert_eq!(modern(old), new);
        }
    }
}
