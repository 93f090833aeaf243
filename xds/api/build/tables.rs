//! Packs the descriptors into one blob of fixed-size little-endian records, sorted for binary search. It is compiled in
//! as read-only data, so a lookup touches a few pages of the file and no heap; `src/schema.rs` is its reader.

use std::collections::HashMap;

use crate::source::{Field, Source};

pub(crate) struct Packed {
    pub(crate) blob: Vec<u8>,
    /// Rust constants: where each section begins and how many records it has.
    pub(crate) layout: String,
}

/// Strings and rule bytes, each distinct one stored once.
#[derive(Default)]
struct Pool {
    bytes: Vec<u8>,
    known: HashMap<Vec<u8>, u32>,
}

impl Pool {
    fn add(&mut self, bytes: &[u8]) -> u32 {
        if let Some(&offset) = self.known.get(bytes) {
            return offset;
        }
        let offset = self.bytes.len() as u32;
        self.bytes.extend_from_slice(bytes);
        self.known.insert(bytes.to_vec(), offset);
        offset
    }
}

/// A section of records of one size.
struct Section {
    name: &'static str,
    size: usize,
    bytes: Vec<u8>,
}

#[expect(clippy::expect_used, reason = "a descriptor set that outgrows the records must stop the build")]
impl Section {
    fn new(name: &'static str, size: usize) -> Section {
        Section { name, size, bytes: Vec::new() }
    }

    fn len(&self) -> usize {
        self.bytes.len() / self.size
    }

    fn end_of_record(&self) {
        assert_eq!(self.bytes.len() % self.size, 0, "a record of {} has the wrong size", self.name);
    }

    fn u8(&mut self, value: usize) {
        self.bytes.push(u8::try_from(value).expect("fits the record"));
    }

    fn u16(&mut self, value: usize) {
        self.bytes.extend(u16::try_from(value).expect("fits the record").to_le_bytes());
    }

    fn u32(&mut self, value: u32) {
        self.bytes.extend(value.to_le_bytes());
    }
}

/// The well-known types, in the order of `schema::WellKnown` (0 is "an ordinary message").
const WELL_KNOWN: [&str; 19] = [
    "google.protobuf.Any",
    "google.protobuf.Timestamp",
    "google.protobuf.Duration",
    "google.protobuf.FieldMask",
    "google.protobuf.Struct",
    "google.protobuf.Value",
    "google.protobuf.ListValue",
    "google.protobuf.Empty",
    "google.protobuf.DoubleValue",
    "google.protobuf.FloatValue",
    "google.protobuf.Int64Value",
    "google.protobuf.UInt64Value",
    "google.protobuf.Int32Value",
    "google.protobuf.UInt32Value",
    "google.protobuf.BoolValue",
    "google.protobuf.StringValue",
    "google.protobuf.BytesValue",
    "udpa.type.v1.TypedStruct",
    "xds.type.v3.TypedStruct",
];

pub(crate) fn pack(source: &Source) -> Result<Packed, Box<dyn std::error::Error>> {
    let mut pool = Pool::default();
    let mut messages = Section::new("MESSAGE", 16);
    let mut fields = Section::new("FIELD", 28);
    let mut oneofs = Section::new("ONEOF", 8);
    let mut enums = Section::new("ENUM", 12);
    let mut values = Section::new("VALUE", 12);
    let message_at: HashMap<&str, usize> =
        source.messages.iter().enumerate().map(|(at, message)| (message.full_name.as_str(), at)).collect();
    let enum_at: HashMap<&str, usize> =
        source.enums.iter().enumerate().map(|(at, an_enum)| (an_enum.full_name.as_str(), at)).collect();

    for (at, message) in source.messages.iter().enumerate() {
        let name = pool.add(message.full_name.as_bytes());
        messages.u32(name);
        messages.u16(message.full_name.len());
        messages.u16(fields.len());
        messages.u16(oneofs.len());
        messages.u8(message.fields.len());
        messages.u8(message.oneofs.len());
        let well_known = WELL_KNOWN.iter().position(|known| *known == message.full_name);
        messages.u8(well_known.map_or(0, |known| known + 1));
        messages.u8(flags([message.map_entry, message.work_in_progress, message.unchecked]));
        messages.u16(0);
        messages.end_of_record();
        for field in &message.fields {
            let target = match field.kind {
                10 | 11 => message_at.get(field.type_name.as_str()),
                14 => enum_at.get(field.type_name.as_str()),
                _ => Some(&0),
            };
            let &target = target.ok_or_else(|| format!("{}: no type {}", field.name, field.type_name))?;
            let map = field.kind == 11 && field.repeated && source.messages[target].map_entry;
            pack_field(&mut fields, &mut pool, field, target, map, at);
        }
        for oneof in &message.oneofs {
            let name = pool.add(oneof.name.as_bytes());
            oneofs.u32(name);
            oneofs.u8(oneof.name.len());
            oneofs.u8(flags([oneof.required]));
            oneofs.u16(0);
            oneofs.end_of_record();
        }
    }
    for an_enum in &source.enums {
        let name = pool.add(an_enum.full_name.as_bytes());
        enums.u32(name);
        enums.u16(an_enum.full_name.len());
        enums.u16(values.len());
        enums.u16(an_enum.values.len());
        enums.u16(0);
        enums.end_of_record();
        for value in &an_enum.values {
            let name = pool.add(value.name.as_bytes());
            values.u32(name);
            values.u32(value.number as u32);
            values.u8(value.name.len());
            values.u8(flags([value.deprecated, value.disallowed]));
            values.u16(0);
            values.end_of_record();
        }
    }
    Ok(assemble(&[messages, fields, oneofs, enums, values], &pool))
}

fn pack_field(out: &mut Section, pool: &mut Pool, field: &Field, target: usize, map: bool, parent: usize) {
    let name = pool.add(field.name.as_bytes());
    let json_name = pool.add(field.json_name.as_bytes());
    let rules = pool.add(&field.rules);
    out.u32(name);
    out.u32(json_name);
    out.u32(field.number);
    out.u32(rules);
    out.u16(field.rules.len());
    out.u16(target);
    out.u16(parent);
    out.u8(field.name.len());
    out.u8(field.json_name.len());
    out.u8(usize::from(field.kind));
    out.u8(field.oneof.map_or(255, usize::from));
    out.u16(flags([
        field.repeated,
        map,
        field.packed,
        field.required,
        field.deprecated,
        field.presence,
        field.sensitive,
        field.disallowed,
    ]));
    out.end_of_record();
}

fn flags<const N: usize>(bits: [bool; N]) -> usize {
    bits.iter().enumerate().map(|(at, &bit)| usize::from(bit) << at).sum()
}

fn assemble(sections: &[Section], pool: &Pool) -> Packed {
    let mut blob = Vec::new();
    let mut layout = String::new();
    for section in sections {
        layout += &format!("pub(super) const {}_AT: usize = {};\n", section.name, blob.len());
        layout += &format!("pub(super) const {}_SIZE: usize = {};\n", section.name, section.size);
        if ["MESSAGE", "ENUM"].contains(&section.name) {
            layout += &format!("pub(super) const {}_COUNT: usize = {};\n", section.name, section.len());
        }
        blob.extend_from_slice(&section.bytes);
    }
    layout += &format!("pub(super) const POOL_AT: usize = {};\n", blob.len());
    blob.extend_from_slice(&pool.bytes);
    layout += &format!("pub(super) const BLOB_SIZE: usize = {};\n", blob.len());
    Packed { blob, layout }
}
