//! Ids of buckets: pairs of names and values that a service and the proxy call a bucket by (`BucketId`).

use std::collections::HashMap;
use std::sync::Arc;

use proxy_core::config::{BuildCx, Rejected};
use proxy_core::facts::{Facts, Layer};
use proxy_core::matching::{Inputs, TextInput};
use prost_types::value::Kind;
use prost_types::{Struct, Value};
use smallvec::SmallVec;
use xds_api::envoy::extensions::filters::http::rate_limit_quota::v3::rate_limit_quota_bucket_settings as proto;
use xds_api::envoy::extensions::filters::http::rate_limit_quota::v3::rate_limit_quota_bucket_settings::bucket_id_builder::ValueBuilder;
use xds_api::envoy::extensions::filters::http::rate_limit_quota::v3::rate_limit_quota_bucket_settings::bucket_id_builder::value_builder::ValueSpecifier;
use xds_api::envoy::service::rate_limit_quota::v3::BucketId;

/// An id as one text: the pairs by name, each with its lengths. Equal ids have equal keys.
pub(super) type Key = SmallVec<[u8; 128]>;

/// Makes the ids of requests (`bucket_id_builder`).
pub(super) struct IdBuilder(Box<[(Box<str>, Part)]>);

enum Part {
    Constant(Box<str>),
    Input(TextInput),
}

impl IdBuilder {
    pub(super) fn build(
        proto: Option<&proto::BucketIdBuilder>,
        cx: &mut BuildCx<'_>,
    ) -> Result<Self, Rejected> {
        let Some(proto::BucketIdBuilder { bucket_id_builder }) = proto else {
            return Ok(Self(Box::default()));
        };
        let mut names: Vec<&String> = bucket_id_builder.keys().collect();
        names.sort_unstable();
        let mut parts = Vec::with_capacity(names.len());
        let mut rejected = false;
        for name in names {
            let Some(value) = bucket_id_builder.get(name) else { continue };
            match cx.at_key("bucket_id_builder", name, |cx| Part::build(value, cx)) {
                Ok(part) => parts.push((name.as_str().into(), part)),
                Err(Rejected) => rejected = true,
            }
        }
        if rejected { Err(Rejected) } else { Ok(Self(parts.into())) }
    }

    /// The key of a request's id; `None` if a value cannot be had. An empty one is left out.
    pub(super) fn key(&self, facts: &Facts<'_>) -> Option<Key> {
        let mut key = Key::new();
        for (name, part) in &self.0 {
            match part {
                Part::Constant(value) => write_pair(name, value, &mut key),
                Part::Input(input) => input.with(facts, |value| match std::str::from_utf8(value) {
                    Ok("") => {}
                    Ok(value) => write_pair(name, value, &mut key),
                    Err(_) => write_pair(name, &String::from_utf8_lossy(value), &mut key),
                })?,
            }
        }
        Some(key)
    }
}

impl Part {
    fn build(proto: &ValueBuilder, cx: &mut BuildCx<'_>) -> Result<Self, Rejected> {
        let ValueBuilder { value_specifier } = proto;
        match value_specifier {
            None => Err(cx.reject("one of string_value, custom_value is required")),
            Some(ValueSpecifier::StringValue(value)) => Ok(Self::Constant(value.as_str().into())),
            Some(ValueSpecifier::CustomValue(extension)) => cx.at("custom_value", |cx| {
                cx.at("typed_config", |cx| {
                    let Some(any) = &extension.typed_config else {
                        return Err(cx.reject("value is required"));
                    };
                    let refuse = |message: &str| format!("no bucket can be named after '{message}'");
                    let inputs = Inputs { layer: Layer::Http, admits: &|_| true, refuse: &refuse };
                    TextInput::build(any, &inputs, cx).map(Self::Input)
                })
            }),
        }
    }
}

fn write_pair(name: &str, value: &str, key: &mut Key) {
    for text in [name, value] {
        key.extend_from_slice(&(text.len() as u64).to_be_bytes());
        key.extend_from_slice(text.as_bytes());
    }
}

/// The key of an id that a service says.
pub(super) fn key_of(id: &BucketId) -> Key {
    let mut pairs: Vec<(&String, &String)> = id.bucket.iter().collect();
    pairs.sort_unstable();
    let mut key = Key::new();
    for (name, value) in pairs {
        write_pair(name, value, &mut key);
    }
    key
}

/// The id that has this key.
pub(super) fn id_of(key: &[u8]) -> BucketId {
    let mut bucket = HashMap::new();
    let mut rest = key;
    while let Some(((name, value), after)) = read_pair(rest) {
        bucket.insert(name, value);
        rest = after;
    }
    BucketId { bucket }
}

/// What logs are told of an id.
pub(super) fn metadata_of(id: &BucketId) -> Arc<Struct> {
    let text = |value: &String| Value { kind: Some(Kind::StringValue(value.clone())) };
    Arc::new(Struct { fields: id.bucket.iter().map(|(name, value)| (name.clone(), text(value))).collect() })
}

fn read_pair(key: &[u8]) -> Option<((String, String), &[u8])> {
    let (name, rest) = read_text(key)?;
    let (value, rest) = read_text(rest)?;
    Some(((name, value), rest))
}

fn read_text(key: &[u8]) -> Option<(String, &[u8])> {
    let (length, rest) = key.split_first_chunk::<8>()?;
    let (text, rest) = rest.split_at_checked(usize::try_from(u64::from_be_bytes(*length)).ok()?)?;
    Some((String::from_utf8_lossy(text).into_owned(), rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_and_its_key_say_the_same() {
        for pairs in [&[][..], &[("a", "b")], &[("b", ""), ("", "x"), ("ab", "é")]] {
            let bucket =
                pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
            let id = BucketId { bucket };
            assert_eq!(id_of(&key_of(&id)), id);
        }
    }

    #[test]
    fn different_ids_have_different_keys() {
        let key = |pairs: &[(&str, &str)]| {
            let bucket =
                pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
            key_of(&BucketId { bucket })
        };
        assert_ne!(key(&[("a", "bc")]), key(&[("ab", "c")]));
        assert_ne!(key(&[("a", "b"), ("c", "d")]), key(&[("a", "bcd")]));
        assert_eq!(key(&[("a", "b"), ("c", "d")]), key(&[("c", "d"), ("a", "b")]));
    }
}
