//! Text to message: YAML and JSON (and text format) by Envoy's rules, driven by the tables of `schema`.
//!
//! The tree of a text is written straight as protobuf bytes, which prost then decodes; nothing else stands between. All
//! errors are collected, each with its path and its place in the text. Fields and enum values that the API does not
//! have are collected apart, because the caller decides what they mean: fatal in a bootstrap, counted in xDS.
//!
//! Rules (envoy.md of the Envoy documentation calls them proto3 JSON; the differences were confirmed with Envoy 1.40):
//! fields by either name, enums in any case or by number, one value where a list is expected, `null` for "not set",
//! quoted numbers and booleans, `Any` by `@type`, and both `TypedStruct`s turned into the type that they name.

use std::sync::Arc;

use crate::{
    error::{Error, Errors, Path, Segment},
    json,
    schema::{Enum, EnumValue, Field, Kind, Message, WellKnown},
    suggest::did_you_mean,
    text_format,
    tree::{Entry, Node, Position, Value},
    wire, yaml,
};

mod locate;
mod scalar;
mod well_known;

pub use locate::locate;

/// How a configuration text is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// YAML, JSON included.
    Yaml,
    /// JSON with the liberties that protobuf allows.
    Json,
    /// Protobuf's text format.
    Text,
    /// Protobuf's binary form.
    Binary,
}

/// A configuration text and where it comes from.
#[derive(Clone, Copy, Debug)]
pub struct Source<'a> {
    /// The name that errors show: a file, or an option.
    pub name: &'a str,
    /// The text.
    pub text: &'a [u8],
    /// How it is written.
    pub format: Format,
}

impl<'a> Source<'a> {
    /// The content of a file; its extension tells the format (`.json`, `.pb`, `.pb_text`; all else is YAML).
    pub fn file(name: &'a str, text: &'a [u8]) -> Source<'a> {
        let format = match std::path::Path::new(name).extension().and_then(|extension| extension.to_str()) {
            Some("json") => Format::Json,
            Some("pb") => Format::Binary,
            Some("pb_text") => Format::Text,
            _ => Format::Yaml,
        };
        Source { name, text, format }
    }

    /// Inline YAML, such as the value of `--config-yaml`.
    pub fn yaml(name: &'a str, text: &'a [u8]) -> Source<'a> {
        Source { name, text, format: Format::Yaml }
    }
}

/// What to do with a field that the API does not have.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum UnknownFields {
    /// It is an error (Envoy's default for what it is started with).
    #[default]
    Reject,
    /// It is skipped and reported (`--allow-unknown-static-fields`; Envoy's default for xDS).
    Allow,
}

/// How to read.
#[derive(Clone, Copy, Debug, Default)]
pub struct Options {
    /// The policy for fields that the API does not have.
    pub unknown_fields: UnknownFields,
}

/// A deprecated field or enum value that a configuration uses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Deprecated {
    /// Where.
    pub path: String,
    /// The full name of the field or enum value.
    pub name: String,
    /// Whether Envoy refuses it unless a runtime flag (`envoy.deprecated_features:<name>`) allows it.
    pub disallowed: bool,
}

/// A message as read.
#[derive(Clone, Debug)]
pub struct Loaded<M> {
    /// The message.
    pub message: M,
    /// The same on the wire, for `check` and `walk`.
    pub bytes: Vec<u8>,
    /// The unknown fields that were skipped: empty unless they are allowed.
    pub unknown_fields: Vec<Error>,
    /// The deprecated fields and enum values in use.
    pub deprecated: Vec<Deprecated>,
}

/// Reads a message of type `M`.
///
/// # Errors
/// Everything that is wrong with the text, unless it cannot be parsed at all: then the first thing.
pub fn read<M: prost::Message + prost::Name + Default>(
    source: &Source<'_>,
    options: &Options,
) -> Result<Loaded<M>, Errors> {
    let (loaded, errors) = read_what_is_right(source, options)?;
    if errors.is_empty() { Ok(loaded) } else { Err(Errors(errors)) }
}

/// Reads a message of type `M` without the values that are wrong, which are told beside it: so that what is wrong with the
/// rest can be told together with them.
///
/// # Errors
/// The text cannot be parsed, or is no message at all.
pub fn read_what_is_right<M: prost::Message + prost::Name + Default>(
    source: &Source<'_>,
    options: &Options,
) -> Result<(Loaded<M>, Vec<Error>), Errors> {
    let name = M::full_name();
    let message = Message::find(&name).ok_or_else(|| Error::new("", format!("unknown type {name}")))?;
    let (wire, errors) = to_wire_what_is_right(message, source, options)?;
    let message = decode(&wire.bytes, source.name)?;
    let loaded = Loaded {
        message,
        bytes: wire.bytes,
        unknown_fields: wire.unknown_fields,
        deprecated: wire.deprecated,
    };
    Ok((loaded, errors))
}

/// Merges `over` into `base` as `--config-yaml` is merged over the file: single values replace, lists append, messages
/// merge field by field (protobuf's MergeFrom).
///
/// # Errors
/// If the two nest too deeply to be decoded.
pub fn merge<M: prost::Message + Default>(base: Loaded<M>, over: Loaded<M>) -> Result<Loaded<M>, Errors> {
    // Messages one after the other on the wire are one merged message; encoding it again makes each field single.
    let mut bytes = base.bytes;
    bytes.extend_from_slice(&over.bytes);
    let message: M = decode(&bytes, "")?;
    let mut merged = Loaded {
        bytes: message.encode_to_vec(),
        message,
        ..base_notes(base.unknown_fields, base.deprecated)
    };
    merged.unknown_fields.extend(over.unknown_fields);
    merged.deprecated.extend(over.deprecated);
    Ok(merged)
}

fn base_notes<M: Default>(unknown_fields: Vec<Error>, deprecated: Vec<Deprecated>) -> Loaded<M> {
    Loaded { message: M::default(), bytes: Vec::new(), unknown_fields, deprecated }
}

fn decode<M: prost::Message + Default>(bytes: &[u8], file: &str) -> Result<M, Errors> {
    M::decode(bytes).map_err(|error| {
        let file = (!file.is_empty()).then(|| file.into());
        Error { file, ..Error::new("", format!("cannot be decoded: {error}")) }.into()
    })
}

/// A message on the wire, with what was noticed while reading it.
#[derive(Clone, Debug, Default)]
pub struct Wire {
    /// The message.
    pub bytes: Vec<u8>,
    /// The unknown fields that were skipped.
    pub unknown_fields: Vec<Error>,
    /// The deprecated fields and enum values in use.
    pub deprecated: Vec<Deprecated>,
}

/// Reads a message whose type is known only at run time.
///
/// # Errors
/// As [`read`].
pub fn to_wire(message: Message, source: &Source<'_>, options: &Options) -> Result<Wire, Errors> {
    let (wire, errors) = to_wire_what_is_right(message, source, options)?;
    if errors.is_empty() { Ok(wire) } else { Err(Errors(errors)) }
}

fn to_wire_what_is_right(
    message: Message,
    source: &Source<'_>,
    options: &Options,
) -> Result<(Wire, Vec<Error>), Errors> {
    let file: Option<Arc<str>> = (!source.name.is_empty()).then(|| source.name.into());
    let in_file = |error: Error| Errors::from(Error { file: file.clone(), ..error });
    let text;
    let tree = match source.format {
        Format::Binary => return binary(message, source, options),
        Format::Json | Format::Text => {
            let text = std::str::from_utf8(source.text)
                .map_err(|error| in_file(Error::new("", format!("not UTF-8: {error}"))))?;
            let parse = if source.format == Format::Json { json::parse } else { text_format::parse };
            parse(text).map_err(in_file)?
        }
        Format::Yaml => {
            // (Envoy's YAML parser replaces what is not UTF-8.)
            text = String::from_utf8_lossy(source.text);
            yaml::parse(&text).map_err(in_file)?
        }
    };
    if !matches!(tree.value, Value::Map(_)) {
        let reason = format!("expected an object, got {}", tree.value.describe());
        return Err(in_file(tree.at.error(reason)));
    }
    let mut reader = Reader::new(file);
    if source.format == Format::Text {
        reader.style = Style::Text;
    }
    reader.message(message, &tree);
    Ok(reader.finish_what_is_right(options))
}

/// The binary form: unknown fields are found by walking it.
fn binary(message: Message, source: &Source<'_>, options: &Options) -> Result<(Wire, Vec<Error>), Errors> {
    let mut report = crate::check::structure(message, source.text);
    let file: Arc<str> = source.name.into();
    let located = |errors: Vec<Error>| -> Vec<Error> {
        errors.into_iter().map(|error| Error { file: Some(file.clone()), ..error }).collect()
    };
    if !report.errors.is_empty() {
        if options.unknown_fields == UnknownFields::Reject {
            report.errors.append(&mut report.unknown_fields);
        }
        return Err(Errors(located(report.errors)));
    }
    let mut wire = Wire {
        bytes: source.text.to_vec(),
        unknown_fields: report.unknown_fields,
        deprecated: report.deprecated,
    };
    let mut errors = Vec::new();
    if options.unknown_fields == UnknownFields::Reject {
        errors = located(std::mem::take(&mut wire.unknown_fields));
    }
    Ok((wire, errors))
}

/// What a tree means.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Style {
    /// Well-known types have forms of their own, maps are objects.
    Json,
    /// All messages are written by their fields, maps as lists of entries.
    Text,
}

/// Reads a tree into the bytes of a message.
pub(crate) struct Reader {
    style: Style,
    out: Vec<u8>,
    path: Path,
    file: Option<Arc<str>>,
    errors: Vec<Error>,
    unknown_fields: Vec<Error>,
    deprecated: Vec<Deprecated>,
}

impl Reader {
    pub(crate) fn new(file: Option<Arc<str>>) -> Reader {
        Reader {
            style: Style::Json,
            out: Vec::new(),
            path: Path::default(),
            file,
            errors: Vec::new(),
            unknown_fields: Vec::new(),
            deprecated: Vec::new(),
        }
    }

    pub(crate) fn finish(self, options: &Options) -> Result<Wire, Errors> {
        let (wire, errors) = self.finish_what_is_right(options);
        if errors.is_empty() { Ok(wire) } else { Err(Errors(errors)) }
    }

    fn finish_what_is_right(mut self, options: &Options) -> (Wire, Vec<Error>) {
        if options.unknown_fields == UnknownFields::Reject {
            self.errors.append(&mut self.unknown_fields);
            self.errors.sort_by_key(|error| error.position);
        }
        let wire = Wire { bytes: self.out, unknown_fields: self.unknown_fields, deprecated: self.deprecated };
        (wire, self.errors)
    }

    fn located(&self, at: Position, path: String, reason: impl Into<String>) -> Error {
        let position = (at.line > 0).then_some((at.line, at.column));
        Error { file: self.file.clone(), position, path, reason: reason.into() }
    }

    fn error(&mut self, at: Position, reason: impl Into<String>) {
        let error = self.located(at, self.path.to_string(), reason);
        self.errors.push(error);
    }

    fn expected(&mut self, what: &str, node: &Node<'_>) {
        self.error(node.at, format!("expected {what}, got {}", node.value.describe()));
    }

    /// The content of a message, in whatever form its type has in JSON.
    pub(crate) fn message(&mut self, message: Message, node: &Node<'_>) {
        if message.well_known() != WellKnown::No && self.well_known(message, node) {
            return;
        }
        match &node.value {
            Value::Map(entries) => self.fields(message, entries, |_| false),
            Value::Null => {}
            _ => self.expected("an object", node),
        }
    }

    /// The fields of an ordinary message; `skip` tells keys that are not fields.
    fn fields(&mut self, message: Message, entries: &[Entry<'_>], skip: impl Fn(&str) -> bool) {
        let mut seen = 0_u64;
        for entry in entries {
            if skip(&entry.key) {
                continue;
            }
            let Some(field) = message.field_named(&entry.key) else {
                let path = self.path.with(Segment::Name((*entry.key).into()));
                let meant = did_you_mean(&entry.key, message.fields().map(Field::name));
                let reason = format!("no such field: '{}'{meant}", entry.key);
                let unknown = self.located(entry.at, path, reason);
                self.unknown_fields.push(unknown);
                continue;
            };
            if entry.node.value == Value::Null && !takes_null(field) {
                continue;
            }
            self.path.push(Segment::Field(field));
            if self.first_of_oneof(message, field, seen, entry.at) {
                self.note_deprecated(field);
                let repeats = seen >> field.slot() & 1 == 1;
                self.field(field, &entry.node, repeats);
                seen |= 1 << field.slot();
            }
            self.path.pop();
        }
    }

    /// Whether no other member of the field's `oneof` is set; an error otherwise.
    fn first_of_oneof(&mut self, message: Message, field: Field, seen: u64, at: Position) -> bool {
        if seen == 0 || field.oneof().is_none() {
            return true;
        }
        let taken =
            message.fields().any(|other| seen >> other.slot() & 1 == 1 && other.oneof() == field.oneof());
        if taken {
            let reason = "has already been set (either directly or as part of a oneof)";
            self.error(at, format!("'{}' {reason}", field.name()));
        }
        !taken
    }

    fn note_deprecated(&mut self, field: Field) {
        if field.is_deprecated() {
            self.deprecated.push(Deprecated {
                path: self.path.to_string(),
                name: format!("{field:?}"),
                disallowed: field.is_disallowed(),
            });
        }
    }

    /// A field that is set; `repeats` if it was before, so that even a default value must replace what was written.
    fn field(&mut self, field: Field, node: &Node<'_>, repeats: bool) {
        if let (Style::Json, Some((key, value))) = (self.style, field.map_entry()) {
            self.map(field, key, value, node);
        } else if !field.is_repeated() {
            self.value(field, node, field.has_presence() || repeats);
        } else if let Value::List(nodes) = &node.value {
            self.list(field, nodes);
        } else {
            // Envoy takes one value for a list of one.
            self.list(field, std::slice::from_ref(node));
        }
    }

    fn list(&mut self, field: Field, nodes: &[Node<'_>]) {
        if nodes.is_empty() {
            return;
        }
        let packed = field.is_packed().then(|| wire::begin(&mut self.out, field.number()));
        for (index, node) in nodes.iter().enumerate() {
            self.path.push(Segment::Index(u32::try_from(index).unwrap_or(u32::MAX)));
            match (&packed, field.kind()) {
                (Some(_), Kind::Enum(an_enum)) => {
                    if let Some(number) = self.enum_number(an_enum, node) {
                        wire::put_varint(&mut self.out, i64::from(number).cast_unsigned());
                    }
                }
                (Some(_), kind) => match scalar::scalar(kind, &node.value) {
                    Ok(scalar) => scalar.put_value(&mut self.out),
                    Err(reason) => self.error(node.at, reason),
                },
                (None, _) => self.value(field, node, true),
            }
            self.path.pop();
        }
        if let Some(packed) = packed {
            wire::end(&mut self.out, packed);
        }
    }

    fn map(&mut self, field: Field, key: Field, value: Field, node: &Node<'_>) {
        let Value::Map(entries) = &node.value else { return self.expected("an object", node) };
        for entry in entries {
            self.path.push(Segment::Key((*entry.key).into()));
            let nested = wire::begin(&mut self.out, field.number());
            match scalar::scalar(key.kind(), &Value::String((*entry.key).into())) {
                Ok(scalar) => scalar.put(&mut self.out, key.number()),
                Err(reason) => self.error(entry.at, reason),
            }
            if entry.node.value != Value::Null || takes_null(value) {
                self.value(value, &entry.node, true);
            }
            wire::end(&mut self.out, nested);
            self.path.pop();
        }
    }

    /// One value of a field; `explicit` if the default is written too.
    fn value(&mut self, field: Field, node: &Node<'_>, explicit: bool) {
        let number = field.number();
        if let (Style::Text, Kind::Bool, Value::Number(digit)) = (self.style, field.kind(), &node.value) {
            // (Text format takes 0 and 1 for booleans; JSON takes them in quotes only.)
            let quoted = Node { value: Value::String((**digit).into()), at: node.at };
            return self.value(field, &quoted, explicit);
        }
        match field.kind() {
            Kind::Message(message) => {
                let nested = wire::begin(&mut self.out, number);
                self.message(message, node);
                wire::end(&mut self.out, nested);
            }
            Kind::Enum(an_enum) => {
                if let Some(value) = self.enum_number(an_enum, node).filter(|&value| explicit || value != 0) {
                    wire::put_key(&mut self.out, number, wire::VARINT);
                    wire::put_varint(&mut self.out, i64::from(value).cast_unsigned());
                }
            }
            kind => match scalar::scalar(kind, &node.value) {
                Ok(scalar) if explicit || !scalar.is_default() => scalar.put(&mut self.out, number),
                Ok(_) => {}
                Err(reason) => self.error(node.at, reason),
            },
        }
    }

    /// An enum by name in any case, or by number. A name that the enum does not have counts as an unknown field.
    fn enum_number(&mut self, an_enum: Enum, node: &Node<'_>) -> Option<i32> {
        let named = match &node.value {
            Value::String(name) => an_enum.value_named(name),
            Value::Null if an_enum.full_name() == "google.protobuf.NullValue" => an_enum.value(0),
            Value::Null | Value::Bool(_) | Value::Bytes(_) | Value::List(_) | Value::Map(_) => {
                self.expected("number or string", node);
                return None;
            }
            Value::Int(_) | Value::Double(_) | Value::Number(_) => None,
        };
        let number = named.map(|value| value.number()).or_else(|| scalar::enum_number(&node.value));
        let Some(number) = number else {
            let text = match &node.value {
                Value::String(text) | Value::Number(text) => text.as_ref(),
                _ => "",
            };
            let upper = text.to_ascii_uppercase();
            let meant = did_you_mean(&upper, an_enum.values().map(EnumValue::name));
            let reason = format!("unknown enum value: '{text}' of {an_enum:?}{meant}");
            let unknown = self.located(node.at, self.path.to_string(), reason);
            self.unknown_fields.push(unknown);
            return None;
        };
        if let Some(value) = an_enum.value(number).filter(|value| value.is_deprecated()) {
            self.deprecated.push(Deprecated {
                path: self.path.to_string(),
                name: format!("{an_enum:?}.{}", value.name()),
                disallowed: value.is_disallowed(),
            });
        }
        Some(number)
    }
}

/// Whether `null` is a value of this field, and not the lack of one.
fn takes_null(field: Field) -> bool {
    match field.kind() {
        Kind::Message(message) => message.well_known() == WellKnown::Value && !field.is_repeated(),
        Kind::Enum(an_enum) => an_enum.full_name() == "google.protobuf.NullValue" && !field.is_repeated(),
        _ => false,
    }
}

#[cfg(test)]
mod tests;
