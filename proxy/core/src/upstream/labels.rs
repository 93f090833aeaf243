//! What hosts must be labelled with to get a request: values by key (`metadata_match`, metadata in `envoy.lb`).
//!
//! Source: Envoy `docs/root/intro/arch_overview/upstream/load_balancing/subsets.rst`.

use std::collections::BTreeMap;

use prost::Message as _;
use prost_types::value::Kind;
use prost_types::{Struct, Value};
use xds_api::envoy::config::core::v3 as core;

/// The namespace of metadata that balancing looks at.
pub const LB_NAMESPACE: &str = "envoy.lb";
/// The label whose value is a list of what to try one after the other.
const FALLBACK_LIST: &str = "fallback_list";

/// Values by key, in the order of the keys.
///
/// Everything that a pick needs is worked out when they are made, so that those of a route cost a request one look into a map.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Labels {
    all: Box<[Label]>,
    /// All of them in a form that is the same for equal ones.
    code: Box<[u8]>,
    /// What to try one after the other, if `fallback_list` is among the keys: the other labels with those of each entry.
    fallbacks: Option<Box<[Labels]>>,
}

/// One key and its value.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Label {
    pub(super) key: Box<str>,
    pub(super) value: Value,
}

impl Labels {
    /// The labels in `fields`.
    pub fn new(fields: &Struct) -> Self {
        Self::from_fields(fields.fields.clone().into_iter().collect())
    }

    /// Those that metadata has for balancing, if it has any.
    pub fn from_metadata(metadata: Option<&core::Metadata>) -> Option<Self> {
        metadata?.filter_metadata.get(LB_NAMESPACE).map(Self::new)
    }

    /// These with those of `fields`, which win.
    pub fn merged(&self, fields: &Struct) -> Self {
        let own = self.all.iter().map(|label| (label.key.to_string(), label.value.clone()));
        let others = fields.fields.iter().map(|(key, value)| (key.clone(), value.clone()));
        Self::from_fields(own.chain(others).collect())
    }

    /// These with those of `over`, which win.
    pub fn with(&self, over: &Self) -> Self {
        let all = self.all.iter().chain(&over.all);
        Self::from_fields(all.map(|label| (label.key.to_string(), label.value.clone())).collect())
    }

    fn from_fields(mut fields: BTreeMap<String, Value>) -> Self {
        let mut labels = Self::plain(&fields);
        if let Some(list) = fields.remove(FALLBACK_LIST) {
            let entries = match list.kind {
                Some(Kind::ListValue(list)) => list.values,
                _ => Vec::new(),
            };
            let with = |entry: &Value| {
                let mut fields = fields.clone();
                if let Some(Kind::StructValue(entry)) = &entry.kind {
                    fields.extend(entry.fields.iter().map(|(key, value)| (key.clone(), value.clone())));
                }
                Self::plain(&fields)
            };
            // (An empty list is as if it were not there.)
            labels.fallbacks = Some(match entries.is_empty() {
                true => [Self::plain(&fields)].into(),
                false => entries.iter().map(with).collect(),
            });
        }
        labels
    }

    fn plain(fields: &BTreeMap<String, Value>) -> Self {
        let label =
            |(key, value): (&String, &Value)| Label { key: key.as_str().into(), value: value.clone() };
        let all: Box<[Label]> = fields.iter().map(label).collect();
        let mut code = Vec::new();
        all.iter().for_each(|label| encode(&label.key, &label.value, &mut code));
        Self { all, code: code.into(), fallbacks: None }
    }

    pub(super) fn iter(&self) -> std::slice::Iter<'_, Label> {
        self.all.iter()
    }

    pub(super) fn code(&self) -> &[u8] {
        &self.code
    }

    pub(super) fn fallbacks(&self) -> Option<&[Self]> {
        self.fallbacks.as_deref()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.all.is_empty()
    }
}

/// Appends a label in a form that is the same for equal ones, and that no others have.
pub(super) fn encode(key: &str, value: &Value, to: &mut impl Extend<u8>) {
    let value = value.encode_to_vec();
    for part in [key.as_bytes(), &value] {
        to.extend((part.len() as u64).to_le_bytes());
        to.extend(part.iter().copied());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn text(text: &str) -> Value {
        Value { kind: Some(Kind::StringValue(text.to_owned())) }
    }

    fn labels(list: &[(&str, &str)]) -> Struct {
        Struct { fields: list.iter().map(|(key, value)| ((*key).to_owned(), text(value))).collect() }
    }

    #[test]
    fn later_labels_win_and_the_order_does_not_matter() {
        let merged =
            Labels::new(&labels(&[("b", "1"), ("a", "1")])).merged(&labels(&[("a", "2"), ("c", "3")]));
        let wanted = Labels::new(&labels(&[("c", "3"), ("b", "1"), ("a", "2")]));
        assert_eq!(merged, wanted);
        assert_eq!(merged.code(), wanted.code());
        assert_eq!(Labels::new(&labels(&[("a", "1")])).with(&wanted), wanted.with(&wanted).with(&wanted));
    }

    #[test]
    fn each_entry_of_the_fallback_list_replaces_the_rest() {
        let entry = |list: &[(&str, &str)]| Value { kind: Some(Kind::StructValue(labels(list))) };
        let list =
            prost_types::ListValue { values: vec![entry(&[("a", "2")]), entry(&[("b", "1")]), text("?")] };
        let mut fields = labels(&[("a", "1")]);
        fields.fields.insert("fallback_list".into(), Value { kind: Some(Kind::ListValue(list)) });
        let built = Labels::new(&fields);
        let wanted = [labels(&[("a", "2")]), labels(&[("a", "1"), ("b", "1")]), labels(&[("a", "1")])];
        assert_eq!(built.fallbacks().unwrap(), wanted.map(|fields| Labels::new(&fields)));
        assert_eq!(Labels::new(&labels(&[("a", "1")])).fallbacks(), None);
        let none = Labels::new(&labels(&[("a", "1"), ("fallback_list", "no list")]));
        assert_eq!(none.fallbacks().unwrap(), [Labels::new(&labels(&[("a", "1")]))]);
    }

    proptest! {
        /// Labels have the same code only if they are the same.
        #[test]
        fn codes_are_those_of_equals(
            one in prop::collection::btree_map("[ab]{0,2}", "[ab]{0,2}", 0..3),
            other in prop::collection::btree_map("[ab]{0,2}", "[ab]{0,2}", 0..3),
        ) {
            let labels = |map: &BTreeMap<String, String>| {
                Labels::from_fields(map.iter().map(|(key, value)| (key.clone(), text(value))).collect())
            };
            prop_assert_eq!(one == other, labels(&one).code() == labels(&other).code());
        }
    }
}
