//! JSON as protobuf's `Struct`, as metadata and other filters want it.

use std::collections::BTreeMap;
use std::fmt;

use prost_types::value::Kind;
use prost_types::{ListValue, Struct, Value};
use serde::de::{Deserialize, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};

/// An object; `None` for all else, and for one that names a member twice. The depth is bounded (by `serde_json`), numbers are 64 bits of floating point.
pub fn object(text: &[u8]) -> Option<Struct> {
    match serde_json::from_slice::<Json>(text).ok()?.0.kind {
        Some(Kind::StructValue(object)) => Some(object),
        _ => None,
    }
}

struct Json(Value);

impl From<Kind> for Json {
    fn from(kind: Kind) -> Self {
        Self(Value { kind: Some(kind) })
    }
}

impl<'de> Deserialize<'de> for Json {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(JsonVisitor)
    }
}

struct JsonVisitor;

impl<'de> Visitor<'de> for JsonVisitor {
    type Value = Json;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_unit<E>(self) -> Result<Json, E> {
        Ok(Kind::NullValue(0).into())
    }

    fn visit_bool<E>(self, value: bool) -> Result<Json, E> {
        Ok(Kind::BoolValue(value).into())
    }

    #[expect(clippy::cast_precision_loss, reason = "numbers are floating point in a Struct")]
    fn visit_i64<E>(self, value: i64) -> Result<Json, E> {
        Ok(Kind::NumberValue(value as f64).into())
    }

    #[expect(clippy::cast_precision_loss, reason = "numbers are floating point in a Struct")]
    fn visit_u64<E>(self, value: u64) -> Result<Json, E> {
        Ok(Kind::NumberValue(value as f64).into())
    }

    fn visit_f64<E>(self, value: f64) -> Result<Json, E> {
        Ok(Kind::NumberValue(value).into())
    }

    fn visit_str<E>(self, value: &str) -> Result<Json, E> {
        Ok(Kind::StringValue(value.to_owned()).into())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Json, A::Error> {
        let mut values = Vec::new();
        while let Some(Json(value)) = list.next_element()? {
            values.push(value);
        }
        Ok(Kind::ListValue(ListValue { values }).into())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Json, A::Error> {
        let mut fields = BTreeMap::new();
        while let Some((name, Json(value))) = members.next_entry::<String, Json>()? {
            // who reads the first and who reads the last would see different tokens
            if fields.insert(name, value).is_some() {
                return Err(A::Error::custom("a member twice"));
            }
        }
        Ok(Kind::StructValue(Struct { fields }).into())
    }
}
