//! Message to proto JSON, as Envoy's admin interface prints it: proto field names in the order of their numbers, `Any`
//! expanded, enums by name, 64-bit integers as strings, maps sorted by key. Driven by the tables, straight from the wire.

use std::{borrow::Cow, cmp::Ordering};

use crate::{
    any, check,
    error::Error,
    schema::{Field, Kind, Message, WellKnown},
    wire::{self, Fields, Value},
};

mod text;

/// As deep as protobuf decoders go.
const MAX_DEPTH: usize = 100;

/// What stands for a hidden string.
const REDACTED: &str = "[redacted]";

/// How to write JSON.
#[derive(Clone, Copy, Debug, Default)]
pub struct JsonOptions<'a> {
    /// The layout.
    pub layout: Layout,
    /// Whether numbers, strings, booleans, enums and lists are written even if they have their default value.
    pub defaults: Defaults,
    /// Whether values that the API marks sensitive (private keys, passwords) are hidden.
    pub secrets: Secrets,
    /// If not empty, only the fields on these paths (`node.id`, `static_resources`) of the outermost message.
    pub mask: &'a [String],
}

/// The layout of JSON.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Layout {
    /// On one line without spaces.
    #[default]
    Compact,
    /// One value a line, indented by one space a level: what Envoy prints.
    Pretty,
}

/// Whether fields with default values are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Defaults {
    /// They are left out.
    #[default]
    Omit,
    /// They are written, except for messages and members of a `oneof`.
    Write,
}

/// Whether sensitive values are shown.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Secrets {
    /// Strings and bytes become `[redacted]`, all else disappears.
    #[default]
    Redact,
    /// They are shown.
    Show,
}

/// Appends the JSON of a message of the type that `type_url` names to `out`.
///
/// # Errors
/// If the type is unknown, or the message is malformed or nests too deeply; `out` then ends in the middle.
pub fn to_json(
    type_url: &str,
    bytes: &[u8],
    options: &JsonOptions<'_>,
    out: &mut String,
) -> Result<(), Error> {
    let Some(message) = any::message_of(type_url) else {
        return Err(Error::new("", format!("unknown type '{type_url}'")));
    };
    let mask: Vec<&str> = options.mask.iter().map(String::as_str).collect();
    let mut writer = Writer { out, options, depth: 0 };
    writer.message(message, bytes, false, &mask)
}

struct Writer<'o> {
    out: &'o mut String,
    options: &'o JsonOptions<'o>,
    depth: usize,
}

type Written = Result<(), Error>;

impl Writer<'_> {
    /// A message in whatever form its type has in JSON; `hidden` if it is part of a sensitive field.
    fn message(&mut self, message: Message, bytes: &[u8], hidden: bool, mask: &[&str]) -> Written {
        if self.depth == MAX_DEPTH {
            return Err(Error::new("", "nested too deeply"));
        }
        self.depth += 1;
        match message.well_known() {
            WellKnown::Any => self.any(bytes, hidden)?,
            WellKnown::Timestamp | WellKnown::Duration => {
                let (seconds, nanos) = moment(bytes)?;
                let duration = message.well_known() == WellKnown::Duration;
                let shown =
                    if duration { text::duration(seconds, nanos) } else { text::timestamp(seconds, nanos) };
                text::string(self.out, &shown);
            }
            WellKnown::FieldMask => {
                let paths: Vec<String> = strings(bytes)?.into_iter().map(text::camel_case).collect();
                text::string(self.out, &paths.join(","));
            }
            WellKnown::Struct => self.structure(bytes, hidden)?,
            WellKnown::Value => self.json_value(bytes, hidden)?,
            WellKnown::ListValue => self.json_list(bytes, hidden)?,
            WellKnown::Wrapper => {
                if let Some(field) = message.field(1) {
                    let value = last(bytes, 1)?.unwrap_or_else(|| check::default_of(field.kind()));
                    self.value(field.kind(), value, hidden, &[])?;
                }
            }
            WellKnown::No | WellKnown::Empty | WellKnown::TypedStruct => {
                self.out.push('{');
                let wrote = self.fields(message, bytes, hidden, mask, false)?;
                self.close('}', wrote);
            }
        }
        self.depth -= 1;
        Ok(())
    }

    /// The fields of an ordinary message, after `wrote` says whether others are there; returns whether there are now.
    fn fields(
        &mut self,
        message: Message,
        bytes: &[u8],
        hidden: bool,
        mask: &[&str],
        mut wrote: bool,
    ) -> Result<bool, Error> {
        let merged = check::merge_repeats(message, bytes);
        let mut set = Vec::new();
        for item in Fields::new(merged.as_deref().unwrap_or(bytes)) {
            let (number, value) = item.map_err(|wire::Malformed| malformed())?;
            if let Some(field) = message.field(number).filter(|&field| check::fits(field, value)) {
                set.push((field, value));
            }
        }
        set.sort_by_key(|(field, _)| field.slot());
        let mut rest = set.as_slice();
        for field in message.fields() {
            let count = rest.iter().take_while(|(other, _)| *other == field).count();
            let (values, after) = rest.split_at(count);
            rest = after;
            let Some(inner_mask) = below(mask, field.name()) else { continue };
            let hidden = hidden || (field.is_sensitive() && self.options.secrets == Secrets::Redact);
            if self.is_written(field, values, hidden) {
                self.key(field.name(), wrote);
                self.field(field, values, hidden, &inner_mask)?;
                wrote = true;
            }
        }
        Ok(wrote)
    }

    fn is_written(&self, field: Field, values: &[(Field, Value<'_>)], hidden: bool) -> bool {
        if hidden && !matches!(field.kind(), Kind::String | Kind::Bytes | Kind::Message(_)) {
            return false;
        }
        let Some((_, value)) = values.last() else {
            return self.options.defaults == Defaults::Write && !field.has_presence() && !hidden;
        };
        field.is_repeated()
            || field.has_presence()
            || self.options.defaults == Defaults::Write
            || *value != check::default_of(field.kind())
    }

    fn field(&mut self, field: Field, values: &[(Field, Value<'_>)], hidden: bool, mask: &[&str]) -> Written {
        if let Some((key, value)) = field.map_entry() {
            return self.map(key, value, values, hidden);
        }
        if !field.is_repeated() {
            let value = values.last().map_or_else(|| check::default_of(field.kind()), |(_, value)| *value);
            return self.value(field.kind(), value, hidden, mask);
        }
        self.out.push('[');
        self.depth += 1;
        let mut wrote = false;
        for (_, value) in values {
            match value {
                Value::Bytes(packed) if check::is_packable(field.kind()) => {
                    for value in check::unpack(field.kind(), packed) {
                        self.separate(wrote);
                        self.value(
                            field.kind(),
                            value.map_err(|wire::Malformed| malformed())?,
                            hidden,
                            mask,
                        )?;
                        wrote = true;
                    }
                }
                value => {
                    self.separate(wrote);
                    self.value(field.kind(), *value, hidden, mask)?;
                    wrote = true;
                }
            }
        }
        self.close(']', wrote);
        self.depth -= 1;
        Ok(())
    }

    fn map(&mut self, key: Field, value: Field, entries: &[(Field, Value<'_>)], hidden: bool) -> Written {
        let mut sorted = Vec::with_capacity(entries.len());
        for (_, entry) in entries {
            let Value::Bytes(entry) = entry else { continue };
            let key_is = last(entry, 1)?.unwrap_or_else(|| check::default_of(key.kind()));
            let value_is = last(entry, 2)?.unwrap_or_else(|| check::default_of(value.kind()));
            sorted.push((map_key(key.kind(), key_is), value_is));
        }
        self.object(sorted, |writer, value_is| writer.value(value.kind(), value_is, hidden, &[]))
    }

    /// An object of sorted keys; of entries with the same key the last one counts.
    fn object<'b, T>(
        &mut self,
        mut entries: Vec<(Cow<'b, str>, T)>,
        mut write: impl FnMut(&mut Self, T) -> Written,
    ) -> Written {
        entries.reverse();
        entries.sort_by(|a, b| a.0.cmp(&b.0));
        entries.dedup_by(|later, kept| later.0.cmp(&kept.0) == Ordering::Equal);
        self.out.push('{');
        self.depth += 1;
        let mut wrote = false;
        for (key, value) in entries {
            self.key(&key, wrote);
            write(self, value)?;
            wrote = true;
        }
        self.close('}', wrote);
        self.depth -= 1;
        Ok(())
    }

    fn value(&mut self, kind: Kind, value: Value<'_>, hidden: bool, mask: &[&str]) -> Written {
        match (kind, value) {
            (Kind::Message(message), Value::Bytes(bytes)) => {
                return self.message(message, bytes, hidden, mask);
            }
            (Kind::String | Kind::Bytes, _) if hidden => {
                let shown =
                    if kind == Kind::String { REDACTED.into() } else { text::base64(REDACTED.as_bytes()) };
                text::string(self.out, &shown);
            }
            (Kind::String, Value::Bytes(bytes)) => text::string(self.out, &String::from_utf8_lossy(bytes)),
            (Kind::Bytes, Value::Bytes(bytes)) => text::string(self.out, &text::base64(bytes)),
            (Kind::Enum(an_enum), Value::Varint(number)) => match an_enum.value(number as i32) {
                _ if an_enum.full_name() == "google.protobuf.NullValue" => self.out.push_str("null"),
                Some(value) => text::string(self.out, value.name()),
                None => self.out.push_str(&(number as i32).to_string()),
            },
            (Kind::Bool, Value::Varint(value)) => {
                self.out.push_str(if value == 0 { "false" } else { "true" })
            }
            (kind, value) => text::number(self.out, kind, value),
        }
        Ok(())
    }

    fn any(&mut self, bytes: &[u8], hidden: bool) -> Written {
        let (url, content) = any::parts(bytes).ok_or_else(malformed)?;
        self.out.push('{');
        if url.is_empty() && content.is_empty() {
            self.out.push('}');
            return Ok(());
        }
        self.key("@type", false);
        text::string(self.out, url);
        match any::message_of(url) {
            Some(message) if message.well_known() == WellKnown::TypedStruct => {
                self.typed_struct(message, content, hidden)?;
            }
            Some(message) if matches!(message.well_known(), WellKnown::No | WellKnown::Empty) => {
                self.fields(message, content, hidden, &[], true)?;
            }
            Some(message) => {
                self.key("value", true);
                self.message(message, content, hidden, &[])?;
            }
            // (The type is not known: its bytes at least are shown.)
            None => {
                self.key("value", true);
                self.value(Kind::Bytes, Value::Bytes(content), hidden, &[])?;
            }
        }
        self.close('}', true);
        Ok(())
    }

    /// The fields of a `TypedStruct`. To know what to hide in it, its value is read as the type that it names.
    fn typed_struct(&mut self, message: Message, content: &[u8], hidden: bool) -> Written {
        let converted = match self.options.secrets {
            Secrets::Redact => any::convert(content).filter(|converted| converted.errors.is_empty()),
            Secrets::Show => None,
        };
        let Some(converted) = converted else {
            return self.fields(message, content, hidden, &[], true).map(drop);
        };
        self.key("type_url", true);
        text::string(self.out, &converted.type_url);
        self.key("value", true);
        self.message(converted.message, &converted.bytes, hidden, &[])
    }

    fn structure(&mut self, bytes: &[u8], hidden: bool) -> Written {
        let mut entries = Vec::new();
        for item in Fields::new(bytes) {
            if let (1, Value::Bytes(entry)) = item.map_err(|wire::Malformed| malformed())? {
                let key = match last(entry, 1)? {
                    Some(Value::Bytes(key)) => String::from_utf8_lossy(key),
                    _ => Cow::Borrowed(""),
                };
                let value = match last(entry, 2)? {
                    Some(Value::Bytes(value)) => value,
                    _ => &[],
                };
                entries.push((key, value));
            }
        }
        self.depth -= 1;
        let result = self.object(entries, |writer, value| writer.nested_value(value, hidden));
        self.depth += 1;
        result
    }

    fn nested_value(&mut self, value: &[u8], hidden: bool) -> Written {
        if self.depth >= MAX_DEPTH {
            return Err(Error::new("", "nested too deeply"));
        }
        self.depth += 1;
        self.json_value(value, hidden)?;
        self.depth -= 1;
        Ok(())
    }

    fn json_list(&mut self, bytes: &[u8], hidden: bool) -> Written {
        self.out.push('[');
        let mut wrote = false;
        for item in Fields::new(bytes) {
            if let (1, Value::Bytes(value)) = item.map_err(|wire::Malformed| malformed())? {
                self.separate(wrote);
                self.nested_value(value, hidden)?;
                wrote = true;
            }
        }
        self.close(']', wrote);
        Ok(())
    }

    /// A `google.protobuf.Value`, at the depth of the place where it stands.
    fn json_value(&mut self, bytes: &[u8], hidden: bool) -> Written {
        let mut value = None;
        for item in Fields::new(bytes) {
            value = Some(item.map_err(|wire::Malformed| malformed())?);
        }
        match value {
            Some((3, Value::Bytes(_))) if hidden => text::string(self.out, REDACTED),
            Some((5, Value::Bytes(inner))) => return self.structure(inner, hidden),
            Some((6, Value::Bytes(list))) => return self.json_list(list, hidden),
            Some((2 | 4, _)) if hidden => self.out.push_str("null"),
            Some((2, number)) => text::number(self.out, Kind::Double, number),
            Some((3, Value::Bytes(text))) => text::string(self.out, &String::from_utf8_lossy(text)),
            Some((4, Value::Varint(value))) => self.out.push_str(if value == 0 { "false" } else { "true" }),
            _ => self.out.push_str("null"),
        }
        Ok(())
    }

    fn key(&mut self, key: &str, wrote: bool) {
        self.separate(wrote);
        text::string(self.out, key);
        self.out.push_str(if self.options.layout == Layout::Pretty { ": " } else { ":" });
    }

    /// Before a value of an object or list: the comma after the one before, and the new line.
    fn separate(&mut self, wrote: bool) {
        if wrote {
            self.out.push(',');
        }
        self.new_line(self.depth);
    }

    /// Ends the object or list at this depth.
    fn close(&mut self, end: char, wrote: bool) {
        if wrote {
            self.new_line(self.depth.saturating_sub(1));
        }
        self.out.push(end);
    }

    fn new_line(&mut self, indent: usize) {
        if self.options.layout == Layout::Pretty {
            self.out.push('\n');
            self.out.extend(std::iter::repeat_n(' ', indent));
        }
    }
}

fn malformed() -> Error {
    Error::new("", "malformed message")
}

/// What a mask leaves of the field of this name: `None` for nothing, else the paths below it (none means all of it).
fn below<'m>(mask: &[&'m str], name: &str) -> Option<Vec<&'m str>> {
    if mask.is_empty() {
        return Some(Vec::new());
    }
    let mut paths = Vec::new();
    let mut found = false;
    for path in mask {
        let (head, tail) = path.split_once('.').unwrap_or((path, ""));
        if head == name {
            if tail.is_empty() {
                return Some(Vec::new());
            }
            found = true;
            paths.push(tail);
        }
    }
    found.then_some(paths)
}

/// The last value of a field.
fn last(message: &[u8], number: u32) -> Result<Option<Value<'_>>, Error> {
    let mut value = None;
    for item in Fields::new(message) {
        let (at, is) = item.map_err(|wire::Malformed| malformed())?;
        if at == number {
            value = Some(is);
        }
    }
    Ok(value)
}

fn strings(message: &[u8]) -> Result<Vec<&str>, Error> {
    let mut strings = Vec::new();
    for item in Fields::new(message) {
        if let (1, Value::Bytes(bytes)) = item.map_err(|wire::Malformed| malformed())? {
            strings.push(std::str::from_utf8(bytes).map_err(|_| malformed())?);
        }
    }
    Ok(strings)
}

/// Seconds and nanoseconds of a `Duration` or `Timestamp`.
fn moment(message: &[u8]) -> Result<(i64, i32), Error> {
    let part = |number| match last(message, number)? {
        Some(Value::Varint(value)) => Ok(value.cast_signed()),
        _ => Ok(0),
    };
    Ok((part(1)?, part(2)? as i32))
}

fn map_key(kind: Kind, key: Value<'_>) -> Cow<'_, str> {
    match (kind, key) {
        (Kind::String, Value::Bytes(bytes)) => String::from_utf8_lossy(bytes),
        (Kind::Bool, Value::Varint(value)) => Cow::Borrowed(if value == 0 { "false" } else { "true" }),
        (kind, value) => {
            let mut out = String::new();
            text::number(&mut out, kind, value);
            Cow::Owned(out.trim_matches('"').to_owned())
        }
    }
}

#[cfg(test)]
mod tests;
