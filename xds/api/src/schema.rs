//! The shape of every message and enum of the API, as read-only data of the binary.
//!
//! `build/tables.rs` packs the descriptors into one blob; the handles here ([`Message`], [`Field`], [`Oneof`], [`Enum`],
//! [`EnumValue`]) are two-byte indices into it. Nothing is built at start and nothing is kept on the heap. The well-known
//! types of `google.protobuf` are included, and so are the raw bytes of each field's `validate.rules`.

use std::fmt;

mod layout {
    include!(concat!(env!("OUT_DIR"), "/tables.rs"));
}

static BLOB: &[u8; layout::BLOB_SIZE] = include_bytes!(concat!(env!("OUT_DIR"), "/tables.bin"));

/// `N` bytes of the tables. Every offset comes from the tables themselves, written by the same build.
fn bytes_at<const N: usize>(at: usize) -> [u8; N] {
    let mut bytes = [0; N];
    bytes.copy_from_slice(&BLOB[at..at + N]);
    bytes
}

fn u16_at(at: usize) -> u16 {
    u16::from_le_bytes(bytes_at(at))
}

fn u32_at(at: usize) -> u32 {
    u32::from_le_bytes(bytes_at(at))
}

/// `length` bytes of the pool that follows the records.
fn pooled(offset: u32, length: usize) -> &'static [u8] {
    let start = layout::POOL_AT + offset as usize;
    &BLOB[start..start + length]
}

fn pooled_str(offset: u32, length: usize) -> &'static str {
    // Descriptors hold UTF-8; a name that were not would be empty, and no lookup would find it.
    std::str::from_utf8(pooled(offset, length)).unwrap_or_default()
}

/// How a protobuf field is written, and what JSON makes of it (`FieldDescriptorProto.Type`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// `double`
    Double,
    /// `float`
    Float,
    /// `int64`
    Int64,
    /// `uint64`
    Uint64,
    /// `int32`
    Int32,
    /// `fixed64`
    Fixed64,
    /// `fixed32`
    Fixed32,
    /// `bool`
    Bool,
    /// `string`
    String,
    /// A group of proto2: nothing in Envoy's API is one.
    Group,
    /// A message.
    Message(Message),
    /// `bytes`
    Bytes,
    /// `uint32`
    Uint32,
    /// An enum.
    Enum(Enum),
    /// `sfixed32`
    Sfixed32,
    /// `sfixed64`
    Sfixed64,
    /// `sint32`
    Sint32,
    /// `sint64`
    Sint64,
}

/// The messages that JSON writes in a form of their own, and those that name another type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WellKnown {
    /// An ordinary message.
    No,
    /// `google.protobuf.Any`
    Any,
    /// `google.protobuf.Timestamp`
    Timestamp,
    /// `google.protobuf.Duration`
    Duration,
    /// `google.protobuf.FieldMask`
    FieldMask,
    /// `google.protobuf.Struct`
    Struct,
    /// `google.protobuf.Value`
    Value,
    /// `google.protobuf.ListValue`
    ListValue,
    /// `google.protobuf.Empty`: ordinary in a field, wrapped in `value` inside an `Any`.
    Empty,
    /// `google.protobuf.{Double,Float,Int64,UInt64,Int32,UInt32,Bool,String,Bytes}Value`
    Wrapper,
    /// `udpa.type.v1.TypedStruct` or `xds.type.v3.TypedStruct`
    TypedStruct,
}

/// A message type.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Message(u16);

impl Message {
    /// The message of this full name (`envoy.config.listener.v3.Listener`).
    pub fn find(full_name: &str) -> Option<Message> {
        search(layout::MESSAGE_COUNT, |at| Message(at).full_name().cmp(full_name)).map(Message)
    }

    /// The message that a type URL names: what follows the last slash. `None` if the URL has none or the type is unknown.
    pub fn of_url(type_url: &str) -> Option<Message> {
        let (_, name) = type_url.rsplit_once('/')?;
        Message::find(name)
    }

    /// Every message, sorted by full name.
    pub fn all() -> impl ExactSizeIterator<Item = Message> {
        (0..layout::MESSAGE_COUNT as u16).map(Message)
    }

    fn at(self) -> usize {
        layout::MESSAGE_AT + usize::from(self.0) * layout::MESSAGE_SIZE
    }

    /// The full name, without a leading dot.
    pub fn full_name(self) -> &'static str {
        let at = self.at();
        pooled_str(u32_at(at), usize::from(u16_at(at + 4)))
    }

    /// The name without its package and outer messages.
    pub fn short_name(self) -> &'static str {
        let full = self.full_name();
        full.rsplit_once('.').map_or(full, |(_, name)| name)
    }

    /// The fields, by rising number.
    pub fn fields(self) -> impl DoubleEndedIterator<Item = Field> + ExactSizeIterator {
        let first = self.first_field();
        (first..first + self.field_count() as u16).map(Field)
    }

    pub(crate) fn first_field(self) -> u16 {
        u16_at(self.at() + 6)
    }

    /// How many fields there are: at most 64 (`tests` holds the API to it), so that a `u64` can mark them.
    pub(crate) fn field_count(self) -> usize {
        usize::from(BLOB[self.at() + 10])
    }

    /// The `oneof` groups, in the order of their declaration.
    pub fn oneofs(self) -> impl ExactSizeIterator<Item = Oneof> {
        let first = u16_at(self.at() + 8);
        (first..first + u16::from(BLOB[self.at() + 11])).map(Oneof)
    }

    /// Whether JSON treats the message specially.
    pub fn well_known(self) -> WellKnown {
        match BLOB[self.at() + 12] {
            1 => WellKnown::Any,
            2 => WellKnown::Timestamp,
            3 => WellKnown::Duration,
            4 => WellKnown::FieldMask,
            5 => WellKnown::Struct,
            6 => WellKnown::Value,
            7 => WellKnown::ListValue,
            8 => WellKnown::Empty,
            9..=17 => WellKnown::Wrapper,
            18 | 19 => WellKnown::TypedStruct,
            _ => WellKnown::No,
        }
    }

    fn flag(self, bit: u8) -> bool {
        BLOB[self.at() + 13] >> bit & 1 == 1
    }

    /// Whether this is the entry type that a `map` field hides.
    pub fn is_map_entry(self) -> bool {
        self.flag(0)
    }

    /// Whether Envoy marks the message, or its file, as work in progress.
    pub fn is_work_in_progress(self) -> bool {
        self.flag(1)
    }

    /// Whether `validate.disabled` or `validate.ignored` switches the constraints of this message off.
    pub fn is_unchecked(self) -> bool {
        self.flag(2)
    }

    /// The field of this number.
    pub fn field(self, number: u32) -> Option<Field> {
        let first = self.first_field();
        search(self.field_count(), |at| Field(first + at).number().cmp(&number)).map(|at| Field(first + at))
    }

    /// The field that JSON calls so: by its proto name (`connect_timeout`) or its JSON name (`connectTimeout`).
    pub fn field_named(self, name: &str) -> Option<Field> {
        self.fields().find(|field| field.name() == name || field.json_name() == name)
    }
}

impl fmt::Debug for Message {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.full_name())
    }
}

/// The names of the fields of a message, by rising number; `None` if there is no such message.
///
/// For tests that hold a table of field policies complete.
pub fn fields_of(message: &str) -> Option<impl Iterator<Item = &'static str>> {
    Some(Message::find(message)?.fields().map(Field::name))
}

/// A field of a message.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Field(u16);

impl Field {
    fn at(self) -> usize {
        layout::FIELD_AT + usize::from(self.0) * layout::FIELD_SIZE
    }

    /// The position of the field in its message: 0 for the one with the smallest number.
    pub fn slot(self) -> usize {
        usize::from(self.0 - self.message().first_field())
    }

    /// The name in the proto file (`connect_timeout`).
    pub fn name(self) -> &'static str {
        let at = self.at();
        pooled_str(u32_at(at), usize::from(BLOB[at + 22]))
    }

    /// The JSON name (`connectTimeout`).
    pub fn json_name(self) -> &'static str {
        let at = self.at();
        pooled_str(u32_at(at + 4), usize::from(BLOB[at + 23]))
    }

    /// The field number.
    pub fn number(self) -> u32 {
        u32_at(self.at() + 8)
    }

    /// The bytes of the field's `validate.FieldRules`; empty if it has none.
    pub fn rules(self) -> &'static [u8] {
        let at = self.at();
        pooled(u32_at(at + 12), usize::from(u16_at(at + 16)))
    }

    /// The message that has this field.
    pub fn message(self) -> Message {
        Message(u16_at(self.at() + 20))
    }

    /// The type of the field, or of its elements.
    pub fn kind(self) -> Kind {
        let at = self.at();
        let target = u16_at(at + 18);
        match BLOB[at + 24] {
            1 => Kind::Double,
            2 => Kind::Float,
            3 => Kind::Int64,
            4 => Kind::Uint64,
            5 => Kind::Int32,
            6 => Kind::Fixed64,
            7 => Kind::Fixed32,
            8 => Kind::Bool,
            9 => Kind::String,
            11 => Kind::Message(Message(target)),
            12 => Kind::Bytes,
            13 => Kind::Uint32,
            14 => Kind::Enum(Enum(target)),
            15 => Kind::Sfixed32,
            16 => Kind::Sfixed64,
            17 => Kind::Sint32,
            18 => Kind::Sint64,
            _ => Kind::Group,
        }
    }

    /// The `oneof` that the field belongs to.
    pub fn oneof(self) -> Option<Oneof> {
        let index = BLOB[self.at() + 25];
        if index == u8::MAX { None } else { self.message().oneofs().nth(usize::from(index)) }
    }

    fn flag(self, bit: u8) -> bool {
        u16_at(self.at() + 26) >> bit & 1 == 1
    }

    /// Whether the field is repeated; a map is.
    pub fn is_repeated(self) -> bool {
        self.flag(0)
    }

    /// Whether the field is a map.
    pub fn is_map(self) -> bool {
        self.flag(1)
    }

    /// The key and value fields of a map.
    pub fn map_entry(self) -> Option<(Field, Field)> {
        match self.kind() {
            Kind::Message(entry) if self.is_map() => Some((entry.field(1)?, entry.field(2)?)),
            _ => None,
        }
    }

    /// Whether elements are written packed.
    pub fn is_packed(self) -> bool {
        self.flag(2)
    }

    /// Whether the field is deprecated.
    pub fn is_deprecated(self) -> bool {
        self.flag(4)
    }

    /// Whether "not set" differs from the default: messages, members of a `oneof`, `optional` fields.
    pub fn has_presence(self) -> bool {
        self.flag(5)
    }

    /// Whether Envoy hides the value in dumps (`udpa.annotations.sensitive`).
    pub fn is_sensitive(self) -> bool {
        self.flag(6)
    }

    /// Whether Envoy refuses the (deprecated) field unless a runtime flag allows it.
    pub fn is_disallowed(self) -> bool {
        self.flag(7)
    }
}

impl fmt::Debug for Field {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}.{}", self.message(), self.name())
    }
}

/// A `oneof` group of a message.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Oneof(u16);

impl Oneof {
    fn at(self) -> usize {
        layout::ONEOF_AT + usize::from(self.0) * layout::ONEOF_SIZE
    }

    /// The name in the proto file.
    pub fn name(self) -> &'static str {
        let at = self.at();
        pooled_str(u32_at(at), usize::from(BLOB[at + 4]))
    }

    /// Whether one member must be set (`validate.required`).
    pub fn is_required(self) -> bool {
        BLOB[self.at() + 5] & 1 == 1
    }
}

impl fmt::Debug for Oneof {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// An enum type.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Enum(u16);

impl Enum {
    /// The enum of this full name.
    pub fn find(full_name: &str) -> Option<Enum> {
        search(layout::ENUM_COUNT, |at| Enum(at).full_name().cmp(full_name)).map(Enum)
    }

    fn at(self) -> usize {
        layout::ENUM_AT + usize::from(self.0) * layout::ENUM_SIZE
    }

    /// The full name, without a leading dot.
    pub fn full_name(self) -> &'static str {
        let at = self.at();
        pooled_str(u32_at(at), usize::from(u16_at(at + 4)))
    }

    /// The values, in the order of their declaration.
    pub fn values(self) -> impl ExactSizeIterator<Item = EnumValue> {
        let at = self.at();
        let first = u16_at(at + 6);
        (first..first + u16_at(at + 8)).map(EnumValue)
    }

    /// The first value of this number.
    pub fn value(self, number: i32) -> Option<EnumValue> {
        self.values().find(|value| value.number() == number)
    }

    /// The value of this name, in any case.
    pub fn value_named(self, name: &str) -> Option<EnumValue> {
        self.values().find(|value| value.name().eq_ignore_ascii_case(name))
    }
}

impl fmt::Debug for Enum {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.full_name())
    }
}

/// A value of an enum.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct EnumValue(u16);

impl EnumValue {
    fn at(self) -> usize {
        layout::VALUE_AT + usize::from(self.0) * layout::VALUE_SIZE
    }

    /// The name, in its declared (upper) case.
    pub fn name(self) -> &'static str {
        let at = self.at();
        pooled_str(u32_at(at), usize::from(BLOB[at + 8]))
    }

    /// The number.
    pub fn number(self) -> i32 {
        i32::from_le_bytes(bytes_at(self.at() + 4))
    }

    /// Whether the value is deprecated.
    pub fn is_deprecated(self) -> bool {
        BLOB[self.at() + 9] & 1 == 1
    }

    /// Whether Envoy refuses the (deprecated) value unless a runtime flag allows it.
    pub fn is_disallowed(self) -> bool {
        BLOB[self.at() + 9] & 2 == 2
    }
}

impl fmt::Debug for EnumValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Binary search over `count` sorted records.
fn search(count: usize, mut compare: impl FnMut(u16) -> std::cmp::Ordering) -> Option<u16> {
    let (mut low, mut high) = (0, count as u16);
    while low < high {
        let middle = low + (high - low) / 2;
        match compare(middle) {
            std::cmp::Ordering::Less => low = middle + 1,
            std::cmp::Ordering::Greater => high = middle,
            std::cmp::Ordering::Equal => return Some(middle),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_every_message_and_field_by_name_and_number() {
        assert!(Message::all().len() > 1_800);
        for message in Message::all() {
            assert_eq!(Message::find(message.full_name()), Some(message));
            assert!(message.field_count() <= 64, "{message:?}");
            for field in message.fields() {
                assert_eq!(field.message(), message);
                assert_eq!(message.field(field.number()), Some(field));
                assert_eq!(message.field_named(field.name()), Some(field));
                assert_eq!(message.field_named(field.json_name()), Some(field));
                assert_ne!(field.kind(), Kind::Group);
                assert_eq!(field.is_map(), field.map_entry().is_some());
            }
        }
        assert_eq!(Message::find("envoy.config.listener.v3.Listene"), None);
    }

    #[test]
    fn a_listener_is_described() {
        let listener = Message::of_url("type.googleapis.com/envoy.config.listener.v3.Listener").unwrap();
        let chains = listener.field_named("filterChains").unwrap();
        assert_eq!((chains.name(), chains.number(), chains.is_repeated()), ("filter_chains", 3, true));
        assert!(
            matches!(chains.kind(), Kind::Message(m) if m.full_name() == "envoy.config.listener.v3.FilterChain")
        );
        let address = listener.field_named("address").unwrap();
        assert!(address.has_presence() && !address.is_repeated());
        let policies = listener.oneofs().next().unwrap();
        assert_eq!(policies.name(), "listener_specifier");
    }

    #[test]
    fn options_survive() {
        let cluster = Message::find("envoy.config.cluster.v3.Cluster").unwrap();
        assert!(!cluster.field_named("name").unwrap().rules().is_empty());
        let certificate = Message::find("envoy.extensions.transport_sockets.tls.v3.TlsCertificate").unwrap();
        assert!(certificate.field_named("private_key").unwrap().is_sensitive());
        assert!(!certificate.field_named("certificate_chain").unwrap().is_sensitive());
        let address = Message::find("envoy.config.core.v3.Address").unwrap();
        assert!(address.oneofs().next().unwrap().is_required());
        let action = Message::find("envoy.config.route.v3.RateLimit.Action").unwrap();
        assert!(action.field_named("dynamic_metadata").unwrap().is_disallowed());
        let metadata = Message::find("envoy.config.core.v3.Metadata").unwrap();
        let (key, value) = metadata.field_named("filter_metadata").unwrap().map_entry().unwrap();
        assert_eq!(key.kind(), Kind::String);
        assert!(matches!(value.kind(), Kind::Message(m) if m.well_known() == WellKnown::Struct));
    }

    #[test]
    fn enums_are_found_in_any_case() {
        let kind = Enum::find("envoy.config.cluster.v3.Cluster.DiscoveryType").unwrap();
        assert_eq!(kind.value_named("strict_dns").map(EnumValue::number), Some(1));
        assert_eq!(kind.value(3).map(EnumValue::name), Some("EDS"));
        assert_eq!(kind.value_named("strict-dns"), None);
        assert_eq!(kind.value(99), None);
    }

    #[test]
    fn names_of_fields() {
        let names: Vec<_> = fields_of("envoy.config.core.v3.SocketAddress").unwrap().collect();
        assert_eq!(names[..3], ["protocol", "address", "port_value"]);
        assert!(fields_of("no.such.Message").is_none());
    }
}
