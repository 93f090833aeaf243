//! Metadata: values by namespace and key, from configuration (`core.v3.Metadata`) or set by filters on a stream.

use std::collections::BTreeMap;
use std::sync::Arc;

use prost_types::{Struct, Value};
use xds_api::envoy::config::core::v3 as proto;

/// Metadata of a configured object, immutable and shared; none costs nothing.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Metadata(Option<Arc<BTreeMap<String, Struct>>>);

impl Metadata {
    /// Takes the untyped part of `proto`.
    pub fn new(proto: Option<&proto::Metadata>) -> Self {
        let Some(proto) = proto.filter(|proto| !proto.filter_metadata.is_empty()) else {
            return Self::default();
        };
        let namespaces = proto.filter_metadata.iter();
        Self(Some(Arc::new(namespaces.map(|(key, value)| (key.clone(), value.clone())).collect())))
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_none()
    }

    /// Everything in `namespace`.
    pub fn namespace(&self, namespace: &str) -> Option<&Struct> {
        self.0.as_ref()?.get(namespace)
    }

    /// As the message that configuration has it in, without typed metadata.
    pub fn to_proto(&self) -> proto::Metadata {
        let filter_metadata = self
            .0
            .iter()
            .flat_map(|all| all.iter().map(|(name, values)| (name.clone(), values.clone())))
            .collect();
        proto::Metadata { filter_metadata, ..proto::Metadata::default() }
    }

    /// The value at `path` inside `namespace`.
    pub fn value(&self, namespace: &str, path: &[String]) -> Option<&Value> {
        value_at(self.namespace(namespace)?, path)
    }
}

/// Metadata that filters set on a stream or connection (`dynamic_metadata`); empty costs nothing.
#[derive(Clone, Debug, Default)]
#[allow(clippy::box_collection, reason = "most streams have none: it is to cost one word")]
pub struct DynamicMetadata(Option<Box<BTreeMap<String, Struct>>>);

impl DynamicMetadata {
    /// Everything in `namespace`.
    pub fn namespace(&self, namespace: &str) -> Option<&Struct> {
        self.0.as_ref()?.get(namespace)
    }

    /// The value at `path` inside `namespace`.
    pub fn value(&self, namespace: &str, path: &[String]) -> Option<&Value> {
        value_at(self.namespace(namespace)?, path)
    }

    /// Merges `values` into `namespace`, a later value replacing an earlier one.
    pub fn merge(&mut self, namespace: &str, values: Struct) {
        let all = self.0.get_or_insert_default();
        all.entry(namespace.to_owned()).or_default().fields.extend(values.fields);
    }
}

fn value_at<'a>(root: &'a Struct, path: &[String]) -> Option<&'a Value> {
    let (first, rest) = path.split_first()?;
    let mut value = root.fields.get(first)?;
    for key in rest {
        let Some(prost_types::value::Kind::StructValue(inner)) = &value.kind else { return None };
        value = inner.fields.get(key)?;
    }
    Some(value)
}
