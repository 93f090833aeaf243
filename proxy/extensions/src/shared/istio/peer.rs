//! The workloads of an Istio mesh, as they tell each other of themselves.
//!
//! A workload is a `Struct` in messages and in the metadata of nodes, with names in capitals and labels; filters keep it as
//! [`Peer`] in the filter state under [`DOWNSTREAM`] and [`UPSTREAM`].

use std::any::Any;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;

use prost_types::value::Kind;
use prost_types::{Struct, Value};
use proxy_core::config::NodeInfo;
use proxy_core::filter_state::FilterStateValue;
use proxy_core::stream_info::StreamInfo;
use serde_json::json;

/// Key of the workload that a request comes from.
pub const DOWNSTREAM: &str = "downstream_peer";
/// Key of the workload that a request goes to.
pub const UPSTREAM: &str = "upstream_peer";
/// What makes owners of workloads.
const OWNER: &str = "kubernetes://apis/apps/v1/namespaces/";
const KINDS: [&str; 4] = ["pod", "deployment", "job", "cronjob"];

/// A workload. What is not known is empty.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Peer {
    /// Its instance: the pod.
    pub instance: String,
    /// Its cluster of the mesh.
    pub cluster: String,
    /// Its namespace.
    pub namespace: String,
    /// Its own name.
    pub workload: String,
    /// Canonical name of its service.
    pub canonical_name: String,
    /// Canonical revision of it.
    pub canonical_revision: String,
    /// Its application.
    pub app: String,
    /// Version of that.
    pub version: String,
    /// What it is: one of `pod`, `deployment`, `job`, `cronjob`.
    pub kind: &'static str,
    /// Its identity (SPIFFE).
    pub identity: String,
    /// Where it is.
    pub region: String,
    /// Where in the region.
    pub zone: String,
    /// Further labels that are asked for.
    pub labels: BTreeMap<String, String>,
}

impl Peer {
    /// From its form in messages, with these labels beside the usual ones.
    pub fn read(message: &Struct, more_labels: &[String]) -> Self {
        let field = |name: &str| text(message.fields.get(name));
        let labels = match message.fields.get("LABELS").and_then(|labels| labels.kind.as_ref()) {
            Some(Kind::StructValue(labels)) => Some(labels),
            _ => None,
        };
        let label = |name: &str| text(labels.and_then(|labels| labels.fields.get(name)));
        let either = |one: &str, other: &str| {
            Some(label(one)).filter(|value| !value.is_empty()).unwrap_or_else(|| label(other))
        };
        let workload = field("WORKLOAD_NAME");
        Self {
            instance: field("NAME"),
            cluster: field("CLUSTER_ID"),
            namespace: field("NAMESPACE"),
            kind: kind_of(&field("OWNER"), &workload),
            workload,
            canonical_name: label("service.istio.io/canonical-name"),
            canonical_revision: label("service.istio.io/canonical-revision"),
            app: either("app.kubernetes.io/name", "app"),
            version: either("app.kubernetes.io/version", "version"),
            identity: field("IDENTITY"),
            region: field("REGION"),
            zone: field("AVAILABILITY_ZONE"),
            labels: more_labels
                .iter()
                .filter(|name| labels.is_some_and(|labels| labels.fields.contains_key(*name)))
                .map(|name| (name.clone(), label(name)))
                .collect(),
        }
    }

    /// This workload, as its node says.
    pub fn of_node(node: &NodeInfo, more_labels: &[String]) -> Self {
        let mut peer = Self::read(&node.metadata, more_labels);
        for (own, of_node) in [(&mut peer.region, &node.region), (&mut peer.zone, &node.zone)] {
            if own.is_empty() {
                own.clone_from(of_node);
            }
        }
        peer
    }

    /// From the metadata of an endpoint: `workload;namespace;canonical name;canonical revision;cluster`.
    pub fn of_endpoint(text: &str) -> Option<Self> {
        let parts: Vec<&str> = text.split(';').collect();
        let [workload, namespace, name, revision, cluster, ..] = parts[..] else { return None };
        Some(Self {
            workload: workload.to_owned(),
            namespace: namespace.to_owned(),
            canonical_name: name.to_owned(),
            canonical_revision: revision.to_owned(),
            cluster: cluster.to_owned(),
            ..Self::default()
        })
    }

    /// Its form in messages.
    pub fn message(&self) -> Struct {
        let texts = |pairs: &[(&str, &str)]| -> BTreeMap<String, Value> {
            let some = pairs.iter().filter(|(_, value)| !value.is_empty());
            some.map(|(name, text)| ((*name).to_owned(), value(text))).collect()
        };
        let mut labels = texts(&[
            ("service.istio.io/canonical-name", &self.canonical_name),
            ("service.istio.io/canonical-revision", &self.canonical_revision),
            ("app", &self.app),
            ("version", &self.version),
        ]);
        labels.extend(self.labels.iter().map(|(name, text)| (name.clone(), value(text))));
        let owner = match self.kind {
            "" => String::new(),
            kind => format!("{OWNER}{}/{kind}s/{}", self.namespace, self.workload),
        };
        let mut fields = texts(&[
            ("NAME", &self.instance),
            ("NAMESPACE", &self.namespace),
            ("WORKLOAD_NAME", &self.workload),
            ("CLUSTER_ID", &self.cluster),
            ("IDENTITY", &self.identity),
            ("OWNER", &owner),
            ("REGION", &self.region),
            ("AVAILABILITY_ZONE", &self.zone),
        ]);
        fields
            .insert("LABELS".to_owned(), Value { kind: Some(Kind::StructValue(Struct { fields: labels })) });
        Struct { fields }
    }

    /// What filters know it by.
    fn fields(&self) -> [(&'static str, &str); 12] {
        [
            ("type", self.kind),
            ("workload", &self.workload),
            ("name", &self.instance),
            ("cluster", &self.cluster),
            ("namespace", &self.namespace),
            ("service", &self.canonical_name),
            ("revision", &self.canonical_revision),
            ("app", &self.app),
            ("version", &self.version),
            ("identity", &self.identity),
            ("region", &self.region),
            ("availability_zone", &self.zone),
        ]
    }
}

fn text(value: Option<&Value>) -> String {
    match value.and_then(|value| value.kind.as_ref()) {
        Some(Kind::StringValue(text)) => text.clone(),
        _ => String::new(),
    }
}

fn value(text: &str) -> Value {
    Value { kind: Some(Kind::StringValue(text.to_owned())) }
}

/// What a workload is whose owner ends in `/<kind>s/<workload>`.
fn kind_of(owner: &str, workload: &str) -> &'static str {
    let Some(end) = owner.len().checked_sub(workload.len() + 2) else { return "" };
    let kind = owner.get(..end).and_then(|owner| owner.rsplit_once('/')).map_or("", |(_, kind)| kind);
    KINDS.into_iter().find(|known| *known == kind).unwrap_or_default()
}

/// A peer in the filter state.
pub struct PeerState(pub Arc<Peer>);

impl PeerState {
    /// Keeps `peer` under `key`, unless there is one.
    pub fn keep(info: &mut StreamInfo, key: &str, peer: Arc<Peer>) {
        if info.filter_state.get(key).is_none() {
            info.filter_state.set(key, Rc::new(Self(peer)));
        }
    }

    /// Who the stream goes to: what its messages say, or else what the connection to the host said.
    pub fn asked(info: &StreamInfo) -> Option<Arc<Peer>> {
        let of_host = || info.upstream_filter_state(UPSTREAM);
        let read = |state: &dyn Any| state.downcast_ref().map(|Self(peer)| peer.clone());
        match info.filter_state(UPSTREAM) {
            Some(state) => read(state.as_any()),
            None => read(of_host()?.as_any()),
        }
    }

    /// The peer under `key`.
    pub fn of<'i>(info: &'i StreamInfo, key: &str) -> Option<&'i Peer> {
        let state: &Self = info.filter_state(key)?.as_any().downcast_ref()?;
        Some(&state.0)
    }
}

impl FilterStateValue for PeerState {
    fn to_text(&self) -> Option<String> {
        let some = self.0.fields().into_iter().filter(|(_, value)| !value.is_empty());
        let mut parts: Vec<String> = some.map(|(name, value)| format!("{name}={value}")).collect();
        parts.extend(self.0.labels.iter().map(|(name, value)| format!("labels[]{name}={value}")));
        Some(parts.join(","))
    }

    fn to_json(&self) -> Option<String> {
        let some = self.0.fields().into_iter().filter(|(_, value)| !value.is_empty());
        let mut object: serde_json::Map<String, serde_json::Value> =
            some.map(|(name, value)| (name.to_owned(), value.into())).collect();
        if !self.0.labels.is_empty() {
            object.insert("labels".to_owned(), json!(self.0.labels));
        }
        serde_json::to_string(&object).ok()
    }

    fn field(&self, name: &str) -> Option<String> {
        self.0
            .fields()
            .into_iter()
            .find(|(known, value)| *known == name && !value.is_empty())
            .map(|(_, value)| value.to_owned())
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_workload_is_what_it_was_after_it_was_told() {
        let peer = Peer {
            instance: "web-1".into(),
            cluster: "one".into(),
            namespace: "shop".into(),
            workload: "web".into(),
            canonical_name: "web".into(),
            canonical_revision: "v1".into(),
            app: "front".into(),
            version: "v1".into(),
            kind: "deployment",
            labels: [("role".into(), "r".into())].into(),
            ..Peer::default()
        };
        let message = peer.message();
        assert_eq!(
            text(message.fields.get("OWNER")),
            "kubernetes://apis/apps/v1/namespaces/shop/deployments/web"
        );
        assert_eq!(Peer::read(&message, &["role".to_owned()]), peer);
        assert_eq!(Peer::read(&message, &[]).labels.len(), 0);
        let state = PeerState(peer.into());
        assert_eq!(state.field("workload").as_deref(), Some("web"));
        assert!(state.to_text().unwrap().starts_with("type=deployment,workload=web,name=web-1,"));
    }

    #[test]
    fn endpoints_say_five_things() {
        let peer = Peer::of_endpoint("web;shop;web-service;v2;one").unwrap();
        assert_eq!((&*peer.workload, &*peer.cluster, &*peer.canonical_revision), ("web", "one", "v2"));
        assert_eq!(Peer::of_endpoint("web;shop;web;v2"), None);
    }
}
