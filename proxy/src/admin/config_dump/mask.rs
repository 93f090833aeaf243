//! A `google.protobuf.FieldMask` on the JSON of a message.
//!
//! A path names fields from the message down, through expanded `Any`s, but not through repeated fields: those can only
//! be its end, as in protobuf. Whether a field exists is asked of the schema, so that a field that is merely not set
//! is no error.

use std::fmt;

use serde_json::{Map, Value};
use xds_api::schema::{Kind, Message};

/// The `mask` parameter: paths between commas.
pub(super) struct Mask {
    source: String,
    paths: Vec<Vec<String>>,
}

impl Mask {
    pub(super) fn new(source: &str) -> Self {
        let paths = source.split(',').filter(|path| !path.is_empty());
        Self {
            source: source.to_owned(),
            paths: paths.map(|path| path.split('.').map(str::to_owned).collect()).collect(),
        }
    }

    /// What the paths leave of `value`; `None` if one of them cannot be a path of its type.
    pub(super) fn apply(&self, value: &Value, message: Option<Message>) -> Option<Value> {
        let mut left = Map::new();
        for path in &self.paths {
            keep(value, message, path, &mut left)?;
        }
        Some(Value::Object(left))
    }

    /// As protobuf shows a mask in a message to people.
    pub(super) fn debug(&self) -> String {
        self.paths.iter().fold(String::new(), |out, path| out + &format!("paths: \"{}\"\n", path.join(".")))
    }
}

impl fmt::Display for Mask {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.source)
    }
}

/// Copies what `path` names from `value` into `left`.
fn keep(
    value: &Value,
    message: Option<Message>,
    path: &[String],
    left: &mut Map<String, Value>,
) -> Option<()> {
    let (first, rest) = path.split_first()?;
    // An expanded `Any` says itself what it is.
    let expanded = value.get("@type").and_then(Value::as_str);
    let message = match expanded {
        Some(type_url) => Message::find(type_url.rsplit('/').next()?),
        None => message,
    }?;
    let field = message.field_named(first)?;
    if !rest.is_empty() && field.is_repeated() {
        return None;
    }
    if let Some(type_url) = expanded {
        left.insert("@type".to_owned(), Value::from(type_url));
    }
    let Some(inner) = value.get(first) else { return Some(()) };
    if rest.is_empty() {
        left.insert(first.clone(), inner.clone());
        return Some(());
    }
    let Kind::Message(inner_message) = field.kind() else { return None };
    let mut within = match left.remove(first) {
        Some(Value::Object(within)) => within,
        _ => Map::new(),
    };
    keep(inner, Some(inner_message), rest, &mut within)?;
    left.insert(first.clone(), Value::Object(within));
    Some(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn element() -> (Value, Option<Message>) {
        let value = json!({
            "cluster": {
                "@type": "type.googleapis.com/envoy.config.cluster.v3.Cluster",
                "name": "c",
                "type": "STATIC",
                "load_assignment": {"cluster_name": "c", "endpoints": [{"priority": 1}]},
            },
            "last_updated": "2026-11-22T17:16:10.045Z",
        });
        (value, Message::find("envoy.admin.v3.ClustersConfigDump.StaticCluster"))
    }

    #[test]
    fn paths_reach_through_an_any_and_merge() {
        let (value, message) = element();
        let masked = Mask::new("cluster.name,cluster.load_assignment.cluster_name").apply(&value, message);
        assert_eq!(
            masked,
            Some(json!({"cluster": {
                "@type": "type.googleapis.com/envoy.config.cluster.v3.Cluster",
                "name": "c",
                "load_assignment": {"cluster_name": "c"},
            }}))
        );
    }

    #[test]
    fn a_repeated_field_can_only_be_the_end() {
        let (value, message) = element();
        assert!(Mask::new("cluster.load_assignment.endpoints").apply(&value, message).is_some());
        assert_eq!(Mask::new("cluster.load_assignment.endpoints.lb_endpoints").apply(&value, message), None);
    }

    #[test]
    fn unknown_fields_are_errors_and_unset_ones_are_not() {
        let (value, message) = element();
        assert_eq!(Mask::new("bad.path").apply(&value, message), None);
        assert_eq!(Mask::new("last_updated.x").apply(&value, message), None);
        let unset = Mask::new("cluster.connect_timeout").apply(&value, message);
        assert_eq!(
            unset,
            Some(json!({"cluster": {"@type": "type.googleapis.com/envoy.config.cluster.v3.Cluster"}}))
        );
    }
}
