//! The descriptors as the tables need them: with the raw bytes of every option, which `prost-types` drops because the
//! interesting ones (`validate.rules` and friends) are extensions.

use prost::Message;

#[derive(Clone, PartialEq, Message)]
struct RawSet {
    #[prost(message, repeated, tag = "1")]
    file: Vec<RawFile>,
}

#[derive(Clone, PartialEq, Message)]
struct RawFile {
    #[prost(string, tag = "2")]
    package: String,
    #[prost(message, repeated, tag = "4")]
    messages: Vec<RawMessage>,
    #[prost(message, repeated, tag = "5")]
    enums: Vec<RawEnum>,
    #[prost(bytes = "vec", tag = "8")]
    options: Vec<u8>,
    #[prost(string, tag = "12")]
    syntax: String,
}

#[derive(Clone, PartialEq, Message)]
struct RawMessage {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(message, repeated, tag = "2")]
    fields: Vec<RawField>,
    #[prost(message, repeated, tag = "3")]
    nested: Vec<RawMessage>,
    #[prost(message, repeated, tag = "4")]
    enums: Vec<RawEnum>,
    #[prost(bytes = "vec", tag = "7")]
    options: Vec<u8>,
    #[prost(message, repeated, tag = "8")]
    oneofs: Vec<RawOneof>,
}

#[derive(Clone, PartialEq, Message)]
struct RawField {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(int32, tag = "3")]
    number: i32,
    #[prost(int32, tag = "4")]
    label: i32,
    #[prost(int32, tag = "5")]
    kind: i32,
    #[prost(string, tag = "6")]
    type_name: String,
    #[prost(bytes = "vec", tag = "8")]
    options: Vec<u8>,
    #[prost(int32, optional, tag = "9")]
    oneof: Option<i32>,
    #[prost(string, tag = "10")]
    json_name: String,
    #[prost(bool, tag = "17")]
    proto3_optional: bool,
}

#[derive(Clone, PartialEq, Message)]
struct RawOneof {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(bytes = "vec", tag = "2")]
    options: Vec<u8>,
}

#[derive(Clone, PartialEq, Message)]
struct RawEnum {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(message, repeated, tag = "2")]
    values: Vec<RawValue>,
}

#[derive(Clone, PartialEq, Message)]
struct RawValue {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(int32, tag = "2")]
    number: i32,
    #[prost(bytes = "vec", tag = "3")]
    options: Vec<u8>,
}

/// Everything of the set that the tables hold, types sorted by full name.
pub(crate) struct Source {
    pub(crate) messages: Vec<MessageType>,
    pub(crate) enums: Vec<Enum>,
}

pub(crate) struct MessageType {
    pub(crate) full_name: String,
    /// Sorted by number.
    pub(crate) fields: Vec<Field>,
    pub(crate) oneofs: Vec<Oneof>,
    pub(crate) map_entry: bool,
    pub(crate) unchecked: bool,
    pub(crate) work_in_progress: bool,
}

pub(crate) struct Field {
    pub(crate) name: String,
    pub(crate) json_name: String,
    pub(crate) number: u32,
    /// `FieldDescriptorProto.Type`.
    pub(crate) kind: u8,
    /// Full name of the message or enum, without the leading dot; empty for scalars.
    pub(crate) type_name: String,
    pub(crate) repeated: bool,
    pub(crate) required: bool,
    pub(crate) packed: bool,
    pub(crate) presence: bool,
    pub(crate) deprecated: bool,
    pub(crate) disallowed: bool,
    pub(crate) sensitive: bool,
    pub(crate) oneof: Option<u8>,
    /// The bytes of `validate.FieldRules`.
    pub(crate) rules: Vec<u8>,
}

pub(crate) struct Oneof {
    pub(crate) name: String,
    pub(crate) required: bool,
}

pub(crate) struct Enum {
    pub(crate) full_name: String,
    pub(crate) values: Vec<Value>,
}

pub(crate) struct Value {
    pub(crate) name: String,
    pub(crate) number: i32,
    pub(crate) deprecated: bool,
    pub(crate) disallowed: bool,
}

/// Extension and option numbers, each with the options message that it extends.
mod option {
    pub(crate) const FIELD_PACKED: u32 = 2;
    pub(crate) const FIELD_DEPRECATED: u32 = 3;
    pub(crate) const FIELD_RULES: u32 = 1071;
    pub(crate) const FIELD_SENSITIVE: u32 = 76_569_463;
    pub(crate) const FIELD_DISALLOWED: u32 = 189_503_207;
    pub(crate) const VALUE_DEPRECATED: u32 = 1;
    pub(crate) const VALUE_DISALLOWED: u32 = 70_100_853;
    pub(crate) const ONEOF_REQUIRED: u32 = 1071;
    pub(crate) const MESSAGE_MAP_ENTRY: u32 = 7;
    pub(crate) const MESSAGE_DISABLED: u32 = 1071;
    pub(crate) const MESSAGE_IGNORED: u32 = 1072;
    pub(crate) const UDPA_STATUS: u32 = 222_707_719;
    pub(crate) const XDS_STATUS: u32 = 226_829_418;
    pub(crate) const STATUS_WORK_IN_PROGRESS: u32 = 1;
}

pub(crate) fn read(bytes: &[u8]) -> Result<Source, Box<dyn std::error::Error>> {
    let set = RawSet::decode(bytes)?;
    let mut source = Source { messages: Vec::new(), enums: Vec::new() };
    for file in &set.file {
        let scope = Scope {
            proto3: file.syntax == "proto3",
            work_in_progress: [option::UDPA_STATUS, option::XDS_STATUS].iter().any(|&status| {
                bytes_of(&file.options, status)
                    .is_some_and(|status| is_set(status, option::STATUS_WORK_IN_PROGRESS))
            }),
        };
        file.messages.iter().for_each(|message| source.add(&file.package, message, &scope));
        file.enums.iter().for_each(|an_enum| source.add_enum(&file.package, an_enum));
    }
    source.messages.sort_by(|a, b| a.full_name.cmp(&b.full_name));
    source.messages.dedup_by(|a, b| a.full_name == b.full_name);
    source.enums.sort_by(|a, b| a.full_name.cmp(&b.full_name));
    source.enums.dedup_by(|a, b| a.full_name == b.full_name);
    Ok(source)
}

struct Scope {
    proto3: bool,
    work_in_progress: bool,
}

impl Source {
    fn add(&mut self, prefix: &str, raw: &RawMessage, scope: &Scope) {
        let full_name = join(prefix, &raw.name);
        raw.nested.iter().for_each(|nested| self.add(&full_name, nested, scope));
        raw.enums.iter().for_each(|an_enum| self.add_enum(&full_name, an_enum));
        let mut fields: Vec<Field> = raw.fields.iter().map(|field| field_of(field, scope)).collect();
        fields.sort_by_key(|field| field.number);
        self.messages.push(MessageType {
            full_name,
            fields,
            oneofs: raw
                .oneofs
                .iter()
                .map(|oneof| Oneof {
                    name: oneof.name.clone(),
                    required: is_set(&oneof.options, option::ONEOF_REQUIRED),
                })
                .collect(),
            map_entry: is_set(&raw.options, option::MESSAGE_MAP_ENTRY),
            unchecked: is_set(&raw.options, option::MESSAGE_DISABLED)
                || is_set(&raw.options, option::MESSAGE_IGNORED),
            work_in_progress: scope.work_in_progress
                || bytes_of(&raw.options, option::XDS_STATUS)
                    .is_some_and(|status| is_set(status, option::STATUS_WORK_IN_PROGRESS)),
        });
    }

    fn add_enum(&mut self, prefix: &str, raw: &RawEnum) {
        let values = raw
            .values
            .iter()
            .map(|value| Value {
                name: value.name.clone(),
                number: value.number,
                deprecated: is_set(&value.options, option::VALUE_DEPRECATED),
                disallowed: is_set(&value.options, option::VALUE_DISALLOWED),
            })
            .collect();
        self.enums.push(Enum { full_name: join(prefix, &raw.name), values });
    }
}

fn field_of(raw: &RawField, scope: &Scope) -> Field {
    const LABEL_REQUIRED: i32 = 2;
    const LABEL_REPEATED: i32 = 3;
    const LENGTH_DELIMITED: [i32; 4] = [9, 10, 11, 12];
    const MESSAGE: i32 = 11;
    let repeated = raw.label == LABEL_REPEATED;
    let packable = repeated && !LENGTH_DELIMITED.contains(&raw.kind);
    let real_oneof = raw.oneof.filter(|_| !raw.proto3_optional);
    Field {
        name: raw.name.clone(),
        json_name: if raw.json_name.is_empty() { camel_case(&raw.name) } else { raw.json_name.clone() },
        number: raw.number.unsigned_abs(),
        kind: raw.kind as u8,
        type_name: raw.type_name.trim_start_matches('.').to_owned(),
        repeated,
        required: raw.label == LABEL_REQUIRED,
        packed: packable
            && varint_of(&raw.options, option::FIELD_PACKED).map_or(scope.proto3, |packed| packed != 0),
        presence: !repeated && (!scope.proto3 || raw.kind == MESSAGE || raw.oneof.is_some()),
        deprecated: is_set(&raw.options, option::FIELD_DEPRECATED),
        disallowed: is_set(&raw.options, option::FIELD_DISALLOWED),
        sensitive: is_set(&raw.options, option::FIELD_SENSITIVE),
        oneof: real_oneof.map(|index| index as u8),
        rules: bytes_of(&raw.options, option::FIELD_RULES).unwrap_or_default().to_vec(),
    }
}

/// The JSON name that protobuf derives: underscores go, the letter after one becomes upper case.
fn camel_case(name: &str) -> String {
    let mut out = String::new();
    let mut upper = false;
    for c in name.chars() {
        match c {
            '_' => upper = true,
            c if upper => {
                out.push(c.to_ascii_uppercase());
                upper = false;
            }
            c => out.push(c),
        }
    }
    out
}

fn join(prefix: &str, name: &str) -> String {
    if prefix.is_empty() { name.to_owned() } else { format!("{prefix}.{name}") }
}

fn is_set(options: &[u8], number: u32) -> bool {
    varint_of(options, number).is_some_and(|value| value != 0)
}

fn varint_of(options: &[u8], number: u32) -> Option<u64> {
    fields(options).filter(|field| field.0 == number).last().map(|field| field.1)
}

fn bytes_of(options: &[u8], number: u32) -> Option<&[u8]> {
    fields(options).filter(|field| field.0 == number).last().map(|field| field.2)
}

/// The (number, varint or 0, bytes or empty) of each field of a message on the wire; stops at what it cannot read.
fn fields(mut rest: &[u8]) -> impl Iterator<Item = (u32, u64, &[u8])> {
    std::iter::from_fn(move || {
        let key = varint(&mut rest)?;
        let number = (key >> 3) as u32;
        Some(match key & 7 {
            0 => (number, varint(&mut rest)?, &[][..]),
            1 => (number, 0, rest.split_off(..8)?),
            2 => {
                let length = varint(&mut rest)? as usize;
                (number, 0, rest.split_off(..length)?)
            }
            5 => (number, 0, rest.split_off(..4)?),
            _ => return None,
        })
    })
}

fn varint(rest: &mut &[u8]) -> Option<u64> {
    prost::encoding::decode_varint(rest).ok()
}
