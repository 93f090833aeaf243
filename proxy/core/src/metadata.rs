//! Metadata: values by namespace and key, from configuration (`core.v3.Metadata`) or set by filters on a stream.

use std::collections::BTreeMap;
use std::sync::Arc;

use prost_types::value::Kind;
use prost_types::{Any, Struct, Value};
use xds_api::envoy::config::core::v3 as proto;
use xds_api::envoy::r#type::metadata::v3::MetadataKey;
use xds_api::envoy::r#type::metadata::v3::metadata_key::path_segment::Segment;

use crate::config::{BuildCx, Rejected};

/// Metadata of a configured object, immutable and shared; none costs nothing.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Metadata(Option<Arc<Values>>);

#[derive(Debug, PartialEq)]
struct Values {
    untyped: BTreeMap<String, Struct>,
    typed: BTreeMap<String, Any>,
}

impl Metadata {
    /// Takes what `proto` says.
    pub fn new(proto: Option<&proto::Metadata>) -> Self {
        let says_something = |proto: &&proto::Metadata| {
            !proto.filter_metadata.is_empty() || !proto.typed_filter_metadata.is_empty()
        };
        let Some(proto) = proto.filter(says_something) else { return Self::default() };
        let untyped = proto.filter_metadata.iter().map(|(key, value)| (key.clone(), value.clone()));
        let typed = proto.typed_filter_metadata.iter().map(|(key, value)| (key.clone(), value.clone()));
        Self(Some(Arc::new(Values { untyped: untyped.collect(), typed: typed.collect() })))
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_none()
    }

    /// Everything in `namespace`.
    pub fn namespace(&self, namespace: &str) -> Option<&Struct> {
        self.0.as_ref()?.untyped.get(namespace)
    }

    /// The namespaces in it.
    pub fn namespaces(&self) -> impl Iterator<Item = &str> {
        self.0.iter().flat_map(|all| all.untyped.keys().map(String::as_str))
    }

    /// The message in `namespace`.
    pub fn typed(&self, namespace: &str) -> Option<&Any> {
        self.0.as_ref()?.typed.get(namespace)
    }

    /// As the message that configuration has it in.
    pub fn to_proto(&self) -> proto::Metadata {
        let Some(values) = &self.0 else { return proto::Metadata::default() };
        let untyped = values.untyped.iter().map(|(name, values)| (name.clone(), values.clone()));
        let typed = values.typed.iter().map(|(name, value)| (name.clone(), value.clone()));
        proto::Metadata { filter_metadata: untyped.collect(), typed_filter_metadata: typed.collect() }
    }

    /// The value at `path` inside `namespace`.
    pub fn value(&self, namespace: &str, path: &[String]) -> Option<&Value> {
        value_at(self.namespace(namespace)?, path)
    }
}

/// Metadata that filters set on a stream or connection (`dynamic_metadata`); none costs a word.
///
/// Values that are the same for many streams are shared ([`DynamicMetadata::share`]): a chain of few links, mostly one, holds
/// references to them.
#[derive(Clone, Debug, Default)]
pub struct DynamicMetadata(Option<Box<Link>>);

#[derive(Clone, Debug)]
struct Link {
    namespace: Arc<str>,
    values: Arc<Struct>,
    next: Option<Box<Link>>,
}

impl DynamicMetadata {
    /// The namespaces in it.
    pub fn namespaces(&self) -> impl Iterator<Item = &str> {
        std::iter::successors(self.0.as_deref(), |link| link.next.as_deref()).map(|link| &*link.namespace)
    }

    /// Everything in `namespace`.
    pub fn namespace(&self, namespace: &str) -> Option<&Struct> {
        let mut link = self.0.as_deref();
        while let Some(one) = link {
            if *one.namespace == *namespace {
                return Some(&one.values);
            }
            link = one.next.as_deref();
        }
        None
    }

    /// The value at `path` inside `namespace`.
    pub fn value(&self, namespace: &str, path: &[String]) -> Option<&Value> {
        value_at(self.namespace(namespace)?, path)
    }

    /// Merges `values` into `namespace`, a later value replacing an earlier one.
    pub fn merge(&mut self, namespace: &str, values: Struct) {
        match self.find(namespace) {
            Some(link) => Arc::make_mut(&mut link.values).fields.extend(values.fields),
            None => self.add(namespace.into(), Arc::new(values)),
        }
    }

    /// As [`Self::merge`], for values that somebody else keeps: they are copied only if the namespace has others already.
    pub fn share(&mut self, namespace: &Arc<str>, values: &Arc<Struct>) {
        match self.find(namespace) {
            Some(link) => {
                let fields = values.fields.iter().map(|(key, value)| (key.clone(), value.clone()));
                Arc::make_mut(&mut link.values).fields.extend(fields);
            }
            None => self.add(namespace.clone(), values.clone()),
        }
    }

    fn find(&mut self, namespace: &str) -> Option<&mut Link> {
        let mut link = self.0.as_deref_mut();
        while let Some(one) = link {
            if *one.namespace == *namespace {
                return Some(one);
            }
            link = one.next.as_deref_mut();
        }
        None
    }

    fn add(&mut self, namespace: Arc<str>, values: Arc<Struct>) {
        self.0 = Some(Box::new(Link { namespace, values, next: self.0.take() }));
    }
}

/// Where a value lies in metadata (`type.metadata.v3.MetadataKey`).
#[derive(Clone, Debug)]
pub struct MetadataPath {
    /// The namespace.
    pub namespace: Box<str>,
    /// The keys from there.
    pub path: Box<[String]>,
}

impl MetadataPath {
    /// Builds from the message.
    pub fn build(proto: &MetadataKey, cx: &mut BuildCx<'_>) -> Result<Self, Rejected> {
        let path = cx.each("path", &proto.path, |segment, cx| match &segment.segment {
            Some(Segment::Key(key)) => Ok(key.clone()),
            Some(Segment::Index(_)) => Err(cx.at("index", |cx| cx.reject("lists are not looked into"))),
            None => Err(cx.reject("segment: value is required")),
        })?;
        Ok(Self { namespace: proto.key.as_str().into(), path: path.into() })
    }

    /// Leaves a text there; what else is in the first key of the path goes.
    pub fn set_text(&self, metadata: &mut DynamicMetadata, text: String) {
        let leaf = Value { kind: Some(Kind::StringValue(text)) };
        let wrap = |inner: Value, key: &String| Value {
            kind: Some(Kind::StructValue(Struct { fields: [(key.clone(), inner)].into() })),
        };
        if let Some(Kind::StructValue(values)) = self.path.iter().rev().fold(leaf, wrap).kind {
            metadata.merge(&self.namespace, values);
        }
    }
}

fn value_at<'a>(root: &'a Struct, path: &[String]) -> Option<&'a Value> {
    let (first, rest) = path.split_first()?;
    let mut value = root.fields.get(first)?;
    for key in rest {
        let Some(Kind::StructValue(inner)) = &value.kind else { return None };
        value = inner.fields.get(key)?;
    }
    Some(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn values(list: &[(&str, &str)]) -> Struct {
        let value = |text: &str| Value { kind: Some(Kind::StringValue(text.to_owned())) };
        Struct { fields: list.iter().map(|(key, text)| ((*key).to_owned(), value(text))).collect() }
    }

    #[test]
    fn later_values_replace_earlier_ones_and_not_those_of_others() {
        let (name, shared) = (Arc::<str>::from("a"), Arc::new(values(&[("x", "1"), ("y", "1")])));
        let mut metadata = DynamicMetadata::default();
        metadata.merge("b", values(&[("x", "0")]));
        metadata.share(&name, &shared);
        assert_eq!(Arc::strong_count(&shared), 2);
        metadata.merge("a", values(&[("y", "2")]));
        metadata.share(&name, &Arc::new(values(&[("z", "3")])));
        assert_eq!(metadata.namespace("a"), Some(&values(&[("x", "1"), ("y", "2"), ("z", "3")])));
        assert_eq!(metadata.namespace("b"), Some(&values(&[("x", "0")])));
        assert_eq!(metadata.namespace("c"), None);
        assert_eq!(*shared, values(&[("x", "1"), ("y", "1")]));
    }
}
