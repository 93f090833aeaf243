//! Values, what they equal and how they are ordered.

use std::borrow::Cow;
use std::cmp::Ordering;
use std::sync::Arc;

use jiff::Timestamp;
use prost_types::Value as Json;
use prost_types::value::Kind;

use super::Failed;
use super::attributes::Object;

/// A value; what is looked at is borrowed.
#[derive(Clone)]
pub(super) enum Value<'a> {
    Null,
    Bool(bool),
    Int(i64),
    Uint(u64),
    Double(f64),
    Text(Cow<'a, [u8]>),
    Bytes(Cow<'a, [u8]>),
    Time(Timestamp),
    /// Nanoseconds.
    Span(i128),
    List(List<'a>),
    Map(Map<'a>),
    /// A type, by its name.
    Type(&'static str),
}

#[derive(Clone)]
pub(super) enum List<'a> {
    Values(Arc<[Value<'a>]>),
    Json(&'a [Json]),
}

#[derive(Clone)]
pub(super) enum Map<'a> {
    Entries(Arc<[(Value<'a>, Value<'a>)]>),
    Json(&'a prost_types::Struct),
    /// What is known of the stream under a name.
    Object(Object<'a>),
}

/// A number of any type; integers keep their precision.
#[derive(Clone, Copy)]
pub(super) enum Number {
    Whole(i128),
    Real(f64),
}

impl Number {
    #[allow(clippy::cast_precision_loss, reason = "so does Envoy where it compares with a double")]
    fn compare(self, other: Self) -> Option<Ordering> {
        match (self, other) {
            (Self::Whole(one), Self::Whole(other)) => Some(one.cmp(&other)),
            (Self::Real(one), Self::Real(other)) => one.partial_cmp(&other),
            (Self::Whole(one), Self::Real(other)) => (one as f64).partial_cmp(&other),
            (Self::Real(one), Self::Whole(other)) => one.partial_cmp(&(other as f64)),
        }
    }
}

impl<'a> Value<'a> {
    pub(super) fn text(text: &'a str) -> Self {
        Self::Text(Cow::Borrowed(text.as_bytes()))
    }

    pub(super) fn owned(text: String) -> Self {
        Self::Text(Cow::Owned(text.into_bytes()))
    }

    pub(super) fn json(json: &'a Json) -> Self {
        match &json.kind {
            None | Some(Kind::NullValue(_)) => Self::Null,
            Some(Kind::NumberValue(number)) => Self::Double(*number),
            Some(Kind::StringValue(text)) => Self::text(text),
            Some(Kind::BoolValue(truth)) => Self::Bool(*truth),
            Some(Kind::StructValue(fields)) => Self::Map(Map::Json(fields)),
            Some(Kind::ListValue(list)) => Self::List(List::Json(&list.values)),
        }
    }

    pub(super) fn truth(&self) -> Result<bool, Failed> {
        if let Self::Bool(truth) = self { Ok(*truth) } else { Err(Failed) }
    }

    pub(super) fn number(&self) -> Option<Number> {
        match self {
            Self::Int(number) => Some(Number::Whole((*number).into())),
            Self::Uint(number) => Some(Number::Whole((*number).into())),
            Self::Double(number) => Some(Number::Real(*number)),
            _ => None,
        }
    }

    pub(super) fn type_name(&self) -> &'static str {
        match self {
            Self::Null => "null_type",
            Self::Bool(_) => "bool",
            Self::Int(_) => "int",
            Self::Uint(_) => "uint",
            Self::Double(_) => "double",
            Self::Text(_) => "string",
            Self::Bytes(_) => "bytes",
            Self::Time(_) => "google.protobuf.Timestamp",
            Self::Span(_) => "google.protobuf.Duration",
            Self::List(_) => "list",
            Self::Map(_) => "map",
            Self::Type(_) => "type",
        }
    }

    /// Values of different types are not equal; numbers of all types are one.
    pub(super) fn equals(&self, other: &Self) -> bool {
        if let (Some(one), Some(other)) = (self.number(), other.number()) {
            return one.compare(other) == Some(Ordering::Equal);
        }
        match (self, other) {
            (Self::Null, Self::Null) => true,
            (Self::Bool(one), Self::Bool(other)) => one == other,
            (Self::Text(one), Self::Text(other)) | (Self::Bytes(one), Self::Bytes(other)) => one == other,
            (Self::Time(one), Self::Time(other)) => one == other,
            (Self::Span(one), Self::Span(other)) => one == other,
            (Self::Type(one), Self::Type(other)) => one == other,
            (Self::List(one), Self::List(other)) => {
                one.len() == other.len()
                    && one.iter().zip(other.iter()).all(|(one, other)| one.equals(&other))
            }
            (Self::Map(one), Self::Map(other)) => one.equals(other),
            _ => false,
        }
    }

    /// Which comes first; nothing has an order but these, with their own kind.
    pub(super) fn compare(&self, other: &Self) -> Result<Option<Ordering>, Failed> {
        if let (Some(one), Some(other)) = (self.number(), other.number()) {
            return Ok(one.compare(other));
        }
        match (self, other) {
            (Self::Bool(one), Self::Bool(other)) => Ok(Some(one.cmp(other))),
            (Self::Text(one), Self::Text(other)) | (Self::Bytes(one), Self::Bytes(other)) => {
                Ok(Some(one.cmp(other)))
            }
            (Self::Time(one), Self::Time(other)) => Ok(Some(one.cmp(other))),
            (Self::Span(one), Self::Span(other)) => Ok(Some(one.cmp(other))),
            _ => Err(Failed),
        }
    }

    /// The text of a key.
    fn key(&self) -> Option<&str> {
        if let Self::Text(text) = self { std::str::from_utf8(text).ok() } else { None }
    }
}

impl<'a> List<'a> {
    pub(super) fn len(&self) -> usize {
        match self {
            Self::Values(values) => values.len(),
            Self::Json(values) => values.len(),
        }
    }

    pub(super) fn get(&self, index: usize) -> Option<Value<'a>> {
        match self {
            Self::Values(values) => values.get(index).cloned(),
            Self::Json(values) => values.get(index).map(Value::json),
        }
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = Value<'a>> {
        (0..self.len()).filter_map(|index| self.get(index))
    }
}

impl<'a> Map<'a> {
    /// Whether it is a message of the API.
    pub(super) fn is_message(&self) -> bool {
        matches!(self, Self::Object(object) if object.is_message())
    }

    pub(super) fn len(&self) -> usize {
        match self {
            Self::Entries(entries) => entries.len(),
            Self::Json(fields) => fields.fields.len(),
            Self::Object(object) => object.len(),
        }
    }

    pub(super) fn get(&self, key: &Value<'_>) -> Option<Value<'a>> {
        match self {
            Self::Entries(entries) => {
                entries.iter().find(|(known, _)| known.equals(key)).map(|(_, value)| value.clone())
            }
            Self::Json(fields) => fields.fields.get(key.key()?).map(Value::json),
            Self::Object(object) => object.get(key.key()?),
        }
    }

    fn equals(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Object(one), Self::Object(other)) => one.is(other),
            (Self::Object(_), _) | (_, Self::Object(_)) => self.len() == 0 && other.len() == 0,
            (Self::Json(one), other) => {
                one.fields.len() == other.len()
                    && one.fields.iter().all(|(key, value)| {
                        other.get(&Value::text(key)).is_some_and(|other| other.equals(&Value::json(value)))
                    })
            }
            (Self::Entries(one), other) => {
                one.len() == other.len()
                    && one.iter().all(|(key, value)| other.get(key).is_some_and(|other| other.equals(value)))
            }
        }
    }
}
