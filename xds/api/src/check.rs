//! One walk over a message on the wire that checks it as Envoy does and reports what is in it.
//!
//! It evaluates every `validate.rules` constraint, demands strict UTF-8, finds fields that the API does not have, notes
//! deprecated ones, and enters every `Any` of a known type (a `TypedStruct` as the type that it names). A [`Visitor`]
//! sees each field that is set on the way. Nesting is bounded; nothing is kept but what is reported.

use std::collections::HashSet;

use crate::{
    any,
    error::{Error, Path, Segment},
    read::Deprecated,
    schema::{Field, Kind, Message, WellKnown},
    wire::{self, Fields, Value},
};

pub(crate) mod rules;

/// As deep as protobuf decoders go.
const MAX_DEPTH: usize = 100;

/// What a walk found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Violated constraints and malformed content: the message must be rejected.
    pub errors: Vec<Error>,
    /// Fields that the API does not have: an error or only a count, as the caller decides.
    pub unknown_fields: Vec<Error>,
    /// Deprecated fields and enum values that are set.
    pub deprecated: Vec<Deprecated>,
}

/// Sees the fields that are set in a message.
pub trait Visitor {
    /// A field is set (called once for all elements of a list or a map), at a path that ends with it.
    fn field(&mut self, field: Field, path: &Path);

    /// An `Any` holds a value of this type; `message` is `None` if the type is not known, and then its content is not
    /// walked. A `TypedStruct` of a known type is reported as that type.
    fn any(&mut self, type_url: &str, message: Option<Message>, path: &Path) {
        let _ = (type_url, message, path);
    }
}

impl Visitor for () {
    fn field(&mut self, _: Field, _: &Path) {}
}

/// Checks a message of the type that a URL names.
pub fn check(type_url: &str, bytes: &[u8]) -> Report {
    walk(type_url, bytes, &mut ())
}

/// Checks a message and shows every field that is set to `visitor`. An unknown type is an error of the report.
pub fn walk(type_url: &str, bytes: &[u8], visitor: &mut impl Visitor) -> Report {
    match any::message_of(type_url) {
        Some(message) => run(message, bytes, visitor, true),
        None => {
            let error = Error::new("", format!("unknown type '{type_url}'"));
            Report { errors: vec![error], ..Report::default() }
        }
    }
}

/// The walk without constraints: is it well formed, and what is unknown in it?
pub(crate) fn structure(message: Message, bytes: &[u8]) -> Report {
    run(message, bytes, &mut (), false)
}

fn run(message: Message, bytes: &[u8], visitor: &mut impl Visitor, checked: bool) -> Report {
    let mut walker =
        Walker { visitor, path: Path::default(), counts: Vec::new(), depth: 0, report: Report::default() };
    walker.message(message, bytes, checked);
    walker.report
}

struct Walker<'v, V> {
    visitor: &'v mut V,
    path: Path,
    /// How often each field of each message on the way down has occurred: a stack of one slot per field.
    counts: Vec<u32>,
    depth: usize,
    report: Report,
}

impl<V: Visitor> Walker<'_, V> {
    fn error(&mut self, reason: impl Into<String>) {
        let error = Error::new(self.path.to_string(), reason);
        self.report.errors.push(error);
    }

    fn hold(&mut self, result: Result<(), String>) {
        if let Err(reason) = result {
            self.error(reason);
        }
    }

    /// Walks a message; `checked` is false where constraints do not apply.
    fn message(&mut self, message: Message, bytes: &[u8], checked: bool) {
        if self.depth == MAX_DEPTH {
            return self.error("nested too deeply");
        }
        self.depth += 1;
        let checked = checked && !message.is_unchecked();
        let merged = merge_repeats(message, bytes);
        let bytes = merged.as_deref().unwrap_or(bytes);
        let base = self.counts.len();
        self.counts.resize(base + message.field_count(), 0);
        for item in Fields::new(bytes) {
            match item {
                Ok((number, value)) => self.item(message, base, number, value, checked),
                Err(wire::Malformed) => self.error("malformed: a field ends before its length"),
            }
        }
        if checked {
            self.whole(message, base, bytes);
        }
        self.counts.truncate(base);
        self.depth -= 1;
    }

    fn item(&mut self, message: Message, base: usize, number: u32, value: Value<'_>, checked: bool) {
        let Some(field) = message.field(number) else {
            return self.unknown(number, format!("no such field: number {number} of {message:?}"));
        };
        let packed = field.is_repeated() && is_packable(field.kind());
        if !fits(field, value) {
            return self.unknown(number, format!("no such field: {field:?} has another wire type"));
        }
        self.path.push(Segment::Field(field));
        let slot = base + field.slot();
        if self.counts[slot] == 0 {
            if matches!(message.well_known(), WellKnown::No | WellKnown::TypedStruct) {
                self.visitor.field(field, &self.path);
            }
            self.note_deprecated(field);
        }
        if let Some((key, value_field)) = field.map_entry() {
            if let Value::Bytes(entry) = value {
                self.map_entry(field, key, value_field, entry, checked);
            }
            self.counts[slot] += 1;
        } else if packed {
            let rules = if checked { items(field) } else { &[] };
            self.packed(field, rules, value, slot);
        } else if field.is_repeated() {
            self.path.push(Segment::Index(self.counts[slot]));
            let rules = if checked { items(field) } else { &[] };
            self.element(field.kind(), rules, value, checked);
            self.path.pop();
            self.counts[slot] += 1;
        } else {
            let rules = if checked { field.rules() } else { &[] };
            self.element(field.kind(), rules, value, checked);
            self.counts[slot] += 1;
        }
        self.path.pop();
    }

    fn unknown(&mut self, number: u32, reason: String) {
        let path = self.path.with(Segment::Name(number.to_string().into()));
        self.report.unknown_fields.push(Error::new(path, reason));
    }

    fn note_deprecated(&mut self, field: Field) {
        if field.is_deprecated() {
            self.report.deprecated.push(Deprecated {
                path: self.path.to_string(),
                name: format!("{field:?}"),
                disallowed: field.is_disallowed(),
            });
        }
    }

    /// The elements of a list of numbers, packed or one by one.
    fn packed(&mut self, field: Field, rules: &'static [u8], value: Value<'_>, slot: usize) {
        let Value::Bytes(packed) = value else {
            self.path.push(Segment::Index(self.counts[slot]));
            self.element(field.kind(), rules, value, true);
            self.path.pop();
            self.counts[slot] += 1;
            return;
        };
        for value in unpack(field.kind(), packed) {
            let Ok(value) = value else { return self.error("malformed: a packed list ends early") };
            self.path.push(Segment::Index(self.counts[slot]));
            self.element(field.kind(), rules, value, true);
            self.path.pop();
            self.counts[slot] += 1;
        }
    }

    fn map_entry(&mut self, field: Field, key: Field, value: Field, entry: &[u8], checked: bool) {
        let (mut key_is, mut value_is) = (default_of(key.kind()), default_of(value.kind()));
        for item in Fields::new(entry) {
            match item {
                Ok((1, value)) if is_a(value, wire_type(key.kind())) => key_is = value,
                Ok((2, item)) if is_a(item, wire_type(value.kind())) => value_is = item,
                Ok(_) => {}
                Err(wire::Malformed) => return self.error("malformed: a map entry ends early"),
            }
        }
        let rules = if checked { rules::of_kind(field.rules(), rules::kind::MAP) } else { None };
        let shown = match key_is {
            Value::Bytes(text) => String::from_utf8_lossy(text).into(),
            Value::Varint(number) => number.cast_signed().to_string().into(),
            _ => Box::default(),
        };
        self.path.push(Segment::Key(shown));
        self.element(key.kind(), rules::nested(rules, 4), key_is, checked);
        self.element(value.kind(), rules::nested(rules, 5), value_is, checked);
        self.path.pop();
    }

    /// One value, against the rules for it; `checked` says whether the content of a message is held to its own rules.
    fn element(&mut self, kind: Kind, rules: &'static [u8], value: Value<'_>, checked: bool) {
        match (kind, value) {
            (Kind::Message(message), Value::Bytes(body)) => self.nested(message, rules, body, checked),
            (Kind::Enum(an_enum), Value::Varint(number)) => {
                // (Enums are 32 bits wide; decoders drop the rest.)
                let number = number as i32;
                self.hold(rules::enum_number(rules, an_enum, number));
                if let Some(value) = an_enum.value(number).filter(|value| value.is_deprecated()) {
                    self.report.deprecated.push(Deprecated {
                        path: self.path.to_string(),
                        name: format!("{an_enum:?}.{}", value.name()),
                        disallowed: value.is_disallowed(),
                    });
                }
            }
            (Kind::String, Value::Bytes(text)) if std::str::from_utf8(text).is_err() => {
                self.error("invalid UTF-8 string");
            }
            (kind, value) if !rules.is_empty() => self.hold(rules::scalar(rules, kind, value)),
            _ => {}
        }
    }

    fn nested(&mut self, message: Message, rules: &'static [u8], body: &[u8], checked: bool) {
        let checked = checked && !rules::skips_content(rules);
        match message.well_known() {
            WellKnown::Any => self.any(body, checked),
            WellKnown::Duration => {
                self.hold(rules::duration(rules, body).and_then(|()| not_negative(body)));
                self.message(message, body, checked);
            }
            WellKnown::Wrapper => {
                self.message(message, body, checked);
                if let Some(field) = message.field(1).filter(|_| !rules.is_empty()) {
                    let set = Fields::new(body).flatten().filter(|(number, _)| *number == 1).last();
                    let value = set.map_or_else(|| default_of(field.kind()), |(_, value)| value);
                    self.hold(rules::scalar(rules, field.kind(), value));
                }
            }
            _ => self.message(message, body, checked),
        }
    }

    fn any(&mut self, body: &[u8], checked: bool) {
        let Some((url, value)) = any::parts(body) else { return self.error("malformed Any") };
        if url.is_empty() && value.is_empty() {
            return;
        }
        let Some(message) = any::message_of(url) else {
            return self.visitor.any(url, None, &self.path);
        };
        if message.well_known() == WellKnown::TypedStruct
            && let Some(converted) = any::convert(value)
        {
            let prefix = self.path.to_string();
            let at = |error: Error| Error { path: join(&prefix, &error.path), ..error };
            self.report.errors.extend(converted.errors.into_iter().map(at));
            self.report.unknown_fields.extend(converted.unknown_fields.into_iter().map(at));
            self.visitor.any(&converted.type_url, Some(converted.message), &self.path);
            return self.message(converted.message, &converted.bytes, checked);
        }
        self.visitor.any(url, Some(message), &self.path);
        self.message(message, value, checked);
    }

    /// The rules about fields that are not set, about how many elements there are, and about `oneof`s.
    fn whole(&mut self, message: Message, base: usize, bytes: &[u8]) {
        for field in message.fields() {
            let rules = field.rules();
            if rules.is_empty() {
                continue;
            }
            let count = self.counts[base + field.slot()];
            let result = if field.is_repeated() {
                rules::count(rules, count).and_then(|()| unique(field, bytes))
            } else if count > 0 {
                continue;
            } else {
                match field.kind() {
                    // (A member of a `oneof` is only looked at if it is the one that is set.)
                    Kind::Message(_) if field.oneof().is_none() && rules::is_required(rules) => {
                        Err(rules::REQUIRED.into())
                    }
                    _ if field.has_presence() => continue,
                    Kind::Enum(an_enum) => rules::enum_number(rules, an_enum, 0),
                    kind => rules::scalar(rules, kind, default_of(kind)),
                }
            };
            if let Err(reason) = result {
                self.path.push(Segment::Field(field));
                self.error(reason);
                self.path.pop();
            }
        }
        for oneof in message.oneofs().filter(|oneof| oneof.is_required()) {
            let is_set = |field: Field| field.oneof() == Some(oneof) && self.counts[base + field.slot()] > 0;
            if !message.fields().any(is_set) {
                let error = Error::new(self.path.with(Segment::Name(oneof.name().into())), rules::REQUIRED);
                self.report.errors.push(error);
            }
        }
    }
}

/// No duration in the API may be negative; Envoy finds out where it reads one.
fn not_negative(body: &[u8]) -> Result<(), String> {
    let is_negative =
        |(_, value): (u32, Value<'_>)| matches!(value, Value::Varint(number) if number.cast_signed() < 0);
    if Fields::new(body).flatten().any(is_negative) {
        return Err("Invalid duration: Expected positive duration".into());
    }
    Ok(())
}

fn join(prefix: &str, path: &str) -> String {
    match (prefix, path) {
        ("", path) => path.to_owned(),
        (prefix, "") => prefix.to_owned(),
        (prefix, path) => format!("{prefix}.{path}"),
    }
}

/// The rules for the elements of a list.
fn items(field: Field) -> &'static [u8] {
    rules::nested(rules::of_kind(field.rules(), rules::kind::REPEATED), 4)
}

fn wire_type(kind: Kind) -> u32 {
    match kind {
        Kind::String | Kind::Bytes | Kind::Message(_) => wire::BYTES,
        Kind::Double | Kind::Fixed64 | Kind::Sfixed64 => wire::FIXED64,
        Kind::Float | Kind::Fixed32 | Kind::Sfixed32 => wire::FIXED32,
        Kind::Group => u32::MAX,
        _ => wire::VARINT,
    }
}

fn is_a(value: Value<'_>, wire_type: u32) -> bool {
    match value {
        Value::Varint(_) => wire_type == wire::VARINT,
        Value::Fixed64(_) => wire_type == wire::FIXED64,
        Value::Bytes(_) => wire_type == wire::BYTES,
        Value::Fixed32(_) => wire_type == wire::FIXED32,
        Value::Group => false,
    }
}

/// Whether a value on the wire can belong to a field; if not, decoders treat it as unknown.
pub(crate) fn fits(field: Field, value: Value<'_>) -> bool {
    let packed = field.is_repeated() && is_packable(field.kind());
    is_a(value, wire_type(field.kind())) || packed && is_a(value, wire::BYTES)
}

pub(crate) fn is_packable(kind: Kind) -> bool {
    wire_type(kind) != wire::BYTES
}

/// What a field without presence is when it is not on the wire.
pub(crate) fn default_of(kind: Kind) -> Value<'static> {
    match wire_type(kind) {
        wire::BYTES => Value::Bytes(&[]),
        wire::FIXED64 => Value::Fixed64(0),
        wire::FIXED32 => Value::Fixed32(0),
        _ => Value::Varint(0),
    }
}

/// The values of a packed list. After an error it ends.
pub(crate) fn unpack(
    kind: Kind,
    mut packed: &[u8],
) -> impl Iterator<Item = Result<Value<'_>, wire::Malformed>> {
    std::iter::from_fn(move || {
        if packed.is_empty() {
            return None;
        }
        let value = match wire_type(kind) {
            wire::FIXED64 => packed.split_first_chunk().map(|(bytes, rest)| {
                packed = rest;
                Value::Fixed64(u64::from_le_bytes(*bytes))
            }),
            wire::FIXED32 => packed.split_first_chunk().map(|(bytes, rest)| {
                packed = rest;
                Value::Fixed32(u32::from_le_bytes(*bytes))
            }),
            _ => wire::varint(&mut packed).map(Value::Varint).ok(),
        };
        if value.is_none() {
            packed = &[];
        }
        Some(value.ok_or(wire::Malformed))
    })
}

/// A list whose elements must differ.
fn unique(field: Field, bytes: &[u8]) -> Result<(), String> {
    if !rules::is_unique(field.rules()) {
        return Ok(());
    }
    let mut seen = HashSet::new();
    let mut fresh = true;
    for (number, value) in Fields::new(bytes).flatten().filter(|(number, _)| *number == field.number()) {
        debug_assert_eq!(number, field.number());
        match value {
            Value::Bytes(packed) if is_packable(field.kind()) => {
                for value in unpack(field.kind(), packed).flatten() {
                    fresh &= seen.insert(format!("{value:?}"));
                }
            }
            value => fresh &= seen.insert(format!("{value:?}")),
        }
    }
    if fresh { Ok(()) } else { Err("repeated value must contain unique items".into()) }
}

/// A single message may come in several pieces on the wire, which mean their merger. Rewrites a message so that each is
/// in one piece; `None` if they all are (as always, except after a merge).
pub(crate) fn merge_repeats(message: Message, bytes: &[u8]) -> Option<Vec<u8>> {
    let single = |number: u32| {
        let field = message.field(number)?;
        (!field.is_repeated() && matches!(field.kind(), Kind::Message(_))).then_some(field)
    };
    let (mut seen, mut repeated) = (0_u64, 0_u64);
    for (number, _) in Fields::new(bytes).flatten() {
        if let Some(field) = single(number) {
            repeated |= seen & 1 << field.slot();
            seen |= 1 << field.slot();
        }
    }
    if repeated == 0 {
        return None;
    }
    let mut out = Vec::with_capacity(bytes.len());
    let mut rest = bytes;
    let mut fields = Fields::new(bytes);
    while let Some(Ok((number, value))) = fields.next() {
        let piece = rest.split_off(..rest.len() - fields.remaining())?;
        match (single(number), value) {
            (Some(field), Value::Bytes(_)) if repeated >> field.slot() & 1 == 1 => {}
            _ => out.extend_from_slice(piece),
        }
    }
    for field in message.fields().filter(|field| repeated >> field.slot() & 1 == 1) {
        let nested = wire::begin(&mut out, field.number());
        for (number, value) in Fields::new(bytes).flatten() {
            if let (true, Value::Bytes(body)) = (number == field.number(), value) {
                out.extend_from_slice(body);
            }
        }
        wire::end(&mut out, nested);
    }
    out.extend_from_slice(rest);
    Some(out)
}

#[cfg(test)]
mod tests;
