//! Clusters in groups: the first group for the first try of a request, the next for the next, the last for all that follow.
//!
//! Within a group the weights decide, by chance, by a number that a header has, or by what the request hashes to: the same for all tries
//! of a request. Dynamic metadata may have groups in the place of those that are configured, by their names or with clusters of their own.
//! Source: Envoy `envoy/extensions/router/cluster_specifiers/priority_group/v3/priority_group.proto`; observed on 1.40.

use std::collections::HashMap;

use http::HeaderName;
use prost_types::value::Kind;
use prost_types::{Struct, Value};
use proxy_core::config::{BuildCx, Rejected};
use proxy_core::names::Name;
use proxy_core::stream_info::StreamInfo;
use smallvec::SmallVec;
use xds_api::envoy::extensions::router::cluster_specifiers::priority_group::v3 as proto;
use xds_api::envoy::extensions::router::cluster_specifiers::priority_group::v3::priority_group_cluster_specifier::RandomValueSpecifier;

use super::cluster::{ClusterChoice, pick};
use super::route_table::build_header_name;

/// What the list of groups is called in its namespace of dynamic metadata.
const KEY: &str = "priority_groups";
/// Says of a choice that it is a place in metadata: the group in 15 bits, its cluster in 16.
const IN_METADATA: u32 = 1 << 31;
const MAX_GROUP: usize = (1 << 15) - 2;
const MAX_CLUSTER: usize = (1 << 16) - 1;

const TOO_SHORT: &str = "value length must be at least 1 characters";
const TOO_FEW: &str = "value must contain at least 1 item(s)";

/// Groups of clusters.
#[derive(Debug)]
pub(super) struct PriorityGroups {
    groups: Box<[Group]>,
    /// The first group of each name.
    by_name: HashMap<Box<str>, usize>,
    /// Those of all groups, one group after the other.
    clusters: Box<[Name]>,
    overrides: Option<Overrides>,
    /// The header that has the number that decides.
    pub(super) random_header: Option<HeaderName>,
    pub(super) uses_hash: bool,
}

#[derive(Debug)]
struct Group {
    /// Number of its first cluster.
    first: u32,
    weights: Box<[u32]>,
}

/// Where the metadata is that says otherwise.
#[derive(Debug)]
struct Overrides {
    namespace: Box<str>,
    path: [String; 1],
}

impl PriorityGroups {
    pub(super) fn build(
        proto: &proto::PriorityGroupClusterSpecifier,
        cx: &mut BuildCx<'_>,
    ) -> Result<Self, Rejected> {
        let proto::PriorityGroupClusterSpecifier {
            priority_groups,
            override_metadata_namespace,
            random_value_specifier,
        } = proto;
        let mut clusters = Vec::new();
        cx.reject_if(priority_groups.is_empty(), "priority_groups", TOO_FEW)?;
        let groups =
            cx.each("priority_groups", priority_groups, |group, cx| Group::build(group, &mut clusters, cx));
        let (random_header, uses_hash) = match random_value_specifier {
            Some(RandomValueSpecifier::UseHashPolicy(uses_hash)) => (Ok(None), *uses_hash),
            Some(RandomValueSpecifier::HeaderName(name)) if !name.is_empty() => {
                (cx.at("header_name", |cx| build_header_name(name, cx)).map(Some), false)
            }
            Some(RandomValueSpecifier::HeaderName(_)) | None => (Ok(None), false),
        };
        let mut by_name = HashMap::new();
        for (number, group) in priority_groups.iter().enumerate() {
            by_name.entry(Box::from(group.name.as_str())).or_insert(number);
        }
        Ok(Self {
            groups: groups?.into(),
            by_name,
            clusters: clusters.into(),
            overrides: (!override_metadata_namespace.is_empty()).then(|| Overrides {
                namespace: override_metadata_namespace.as_str().into(),
                path: [KEY.to_owned()],
            }),
            random_header: random_header?,
            uses_hash,
        })
    }

    /// The choice for a try (0 for the first), to be looked up with [`Self::cluster`].
    pub(super) fn choose(&self, info: &StreamInfo, attempt: u32, number: u64) -> u32 {
        let attempt = usize::try_from(attempt).unwrap_or(usize::MAX);
        let group = match self.overridden(info, attempt) {
            Some(Overridden::Clusters(group, weights)) => {
                return IN_METADATA | group << 16 | pick_by(weights.iter().copied(), number);
            }
            Some(Overridden::Group(name)) => self.by_name.get(name).copied(),
            None => None,
        };
        let group = self.groups.get(group.unwrap_or(attempt)).or(self.groups.last());
        group.map_or(0, |group| group.first + pick_by(group.weights.iter().copied(), number))
    }

    /// The cluster of a choice.
    pub(super) fn cluster<'r>(&'r self, choice: u32, info: &'r StreamInfo) -> ClusterChoice<'r> {
        if choice & IN_METADATA == 0 {
            return self.configured(choice).map_or(ClusterChoice::None, ClusterChoice::Named);
        }
        let (group, cluster) = (choice >> 16 & 0x7fff, choice & 0xffff);
        let found = || {
            let group = fields(self.listed(info)?.get(usize::try_from(group).ok()?)?)?;
            let cluster = list(group.fields.get("clusters")?)?.get(usize::try_from(cluster).ok()?)?;
            text(fields(cluster)?, "cluster_name")
        };
        found().map_or(ClusterChoice::None, ClusterChoice::FromRequest)
    }

    /// The cluster of a choice that is not in metadata.
    pub(super) fn configured(&self, choice: u32) -> Option<&Name> {
        self.clusters.get(usize::try_from(choice).ok()?)
    }

    /// All that are configured.
    pub(super) fn names(&self) -> &[Name] {
        &self.clusters
    }

    fn listed<'r>(&self, info: &'r StreamInfo) -> Option<&'r [Value]> {
        let Overrides { namespace, path } = self.overrides.as_ref()?;
        list(info.dynamic_metadata(namespace, path)?)
    }

    /// What metadata has in the place of the group for a try. What is not as it should be counts for nothing.
    fn overridden<'r>(&self, info: &'r StreamInfo, attempt: usize) -> Option<Overridden<'r>> {
        let listed = self.listed(info)?;
        let place = attempt.min(listed.len().checked_sub(1)?).min(MAX_GROUP);
        let group = fields(listed.get(place)?)?;
        let name = text(group, "name")?;
        let clusters = match group.fields.get("clusters") {
            Some(clusters) => list(clusters)?,
            None => &[],
        };
        if clusters.is_empty() {
            return Some(Overridden::Group(name));
        }
        let weights = clusters.iter().take(MAX_CLUSTER).map(weight).collect::<Option<_>>()?;
        Some(Overridden::Clusters(u32::try_from(place).ok()?, weights))
    }
}

/// What metadata says of a try.
enum Overridden<'r> {
    /// It is for the group of that name.
    Group(&'r str),
    /// It is for one of the clusters at this place of the list, with these weights.
    Clusters(u32, SmallVec<[u32; 8]>),
}

impl Group {
    /// Builds one, whose clusters become the last of `all`.
    fn build(
        proto: &proto::PriorityGroup,
        all: &mut Vec<Name>,
        cx: &mut BuildCx<'_>,
    ) -> Result<Self, Rejected> {
        let proto::PriorityGroup { name, clusters } = proto;
        cx.reject_if(name.is_empty(), "name", TOO_SHORT)?;
        cx.reject_if(clusters.is_empty(), "clusters", TOO_FEW)?;
        let first = u32::try_from(all.len()).ok().filter(|first| *first < IN_METADATA);
        let Some(first) = first else { return Err(cx.reject("too many clusters")) };
        let weights = cx.each("clusters", clusters, |cluster, cx| {
            let proto::ClusterWeight { cluster_name, weight } = cluster;
            cx.reject_if(cluster_name.is_empty(), "cluster_name", TOO_SHORT)?;
            all.push(cx.env.clusters.intern(cluster_name));
            cx.at("weight", |cx| match *weight {
                None => Err(cx.reject("value is required")),
                Some(0) => Err(cx.reject("value must be greater than or equal to 1")),
                Some(weight) => Ok(weight),
            })
        })?;
        Ok(Self { first, weights: weights.into() })
    }
}

/// Index of the weight that `number` falls on.
fn pick_by(weights: impl Iterator<Item = u32> + Clone, number: u64) -> u32 {
    let weights = weights.map(u64::from);
    match weights.clone().sum::<u64>() {
        0 => 0,
        total => pick(weights, number % total),
    }
}

fn list(value: &Value) -> Option<&[Value]> {
    match value.kind.as_ref()? {
        Kind::ListValue(list) => Some(&list.values),
        _ => None,
    }
}

fn fields(value: &Value) -> Option<&Struct> {
    match value.kind.as_ref()? {
        Kind::StructValue(fields) => Some(fields),
        _ => None,
    }
}

/// A text that is not empty.
fn text<'s>(of: &'s Struct, field: &str) -> Option<&'s str> {
    match of.fields.get(field)?.kind.as_ref()? {
        Kind::StringValue(text) if !text.is_empty() => Some(text),
        _ => None,
    }
}

/// The weight of a cluster that has a name.
fn weight(cluster: &Value) -> Option<u32> {
    let cluster = fields(cluster)?;
    text(cluster, "cluster_name")?;
    match cluster.fields.get("weight")?.kind.as_ref()? {
        Kind::NumberValue(weight)
            if *weight >= 1.0 && *weight <= f64::from(u32::MAX) && weight.fract() == 0.0 =>
        {
            Some(*weight as u32)
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests;
