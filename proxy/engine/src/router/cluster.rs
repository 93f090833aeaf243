//! Which cluster a route forwards to: a fixed one, one of several by weight, the one a header names, or what a plugin chooses.

use std::sync::Arc;

use http::HeaderName;
use proxy_core::config::{BuildCx, Rejected};
use proxy_core::head::RequestHead;
use proxy_core::matcher::header::RequestHeader;
use proxy_core::names::Name;
use proxy_core::runtime::Runtime;
use proxy_core::stream_info::StreamInfo;
use proxy_core::text::Text;
use proxy_core::upstream::Labels;
use smallvec::SmallVec;
use xds_api::envoy::config::route::v3 as proto;
use xds_api::envoy::config::route::v3::route_action::ClusterSpecifier as Proto;
use xds_api::envoy::config::route::v3::weighted_cluster::RandomValueSpecifier;
use xds_api::envoy::config::route::v3::weighted_cluster::cluster_weight::HostRewriteSpecifier;

use super::cluster_plugin::{ClusterPlugin, ClusterPlugins};
use super::filter_config::FilterConfigs;
use super::header_mutation::HeaderMutations;
use super::route_table::build_header_name;

/// The cluster for one request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ClusterChoice<'r> {
    /// The route names it.
    Named(&'r Name),
    /// A header of the request names it, or metadata; whether there is such a cluster is for the caller to find out.
    FromRequest(&'r str),
    /// There is none: the header is missing or empty, the plugin chose none, or the route does not forward.
    None,
}

/// Weighted clusters that a request was sent to, by number.
pub(crate) type Tried = SmallVec<[u32; 4]>;

/// What is known of a request that is to be sent again.
#[derive(Debug)]
pub(crate) struct Again<'t> {
    /// Weighted clusters that it was sent to.
    pub(crate) tried: &'t mut Tried,
    /// How often it was sent.
    pub(crate) attempt: u32,
}

/// What a route chose for a request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Picked {
    /// Index of the weighted cluster, or what the plugin chose; 0 if there is one cluster.
    pub(super) choice: u32,
    /// The number that decided, and decides for all further tries: of a header, of what the request hashes to, or random.
    number: u64,
}

/// How a route chooses its cluster.
#[derive(Debug)]
pub enum ClusterSpecifier {
    /// One cluster, or one that a header names.
    One(ClusterTarget),
    /// One of several.
    Weighted(Box<WeightedClusters>),
    /// Whichever the plugin chooses.
    Plugin(Arc<ClusterPlugin>),
}

/// One cluster, by name or by a header's value.
#[derive(Debug)]
pub enum ClusterTarget {
    /// By name.
    Name(Name),
    /// By the first value of a request header.
    Header(RequestHeader),
}

/// Clusters by weight.
#[derive(Debug)]
pub struct WeightedClusters {
    /// The clusters, in the order of the configuration.
    pub clusters: Box<[ClusterWeight]>,
    total: u64,
    has_runtime_keys: bool,
    random_header: Option<HeaderName>,
    /// What the request hashes to decides, not chance.
    uses_hash: bool,
}

/// One of several clusters.
#[derive(Debug)]
pub struct ClusterWeight {
    /// The cluster.
    pub target: ClusterTarget,
    pub(super) request_headers: HeaderMutations,
    pub(super) response_headers: HeaderMutations,
    pub(super) filter_configs: FilterConfigs,
    /// How hosts must be labelled, the route's labels among them; `None` if it has none of its own.
    pub(super) labels: Option<Labels>,
    host_rewrite: Option<Text>,
    weight: u32,
    /// `<runtime_key_prefix>.<name>`, in percent or any other unit, with the configured weight as default.
    runtime_key: Option<Box<str>>,
}

impl ClusterSpecifier {
    pub(super) fn build(
        proto: Option<&Proto>,
        filter_configs: &FilterConfigs,
        labels: Option<&Labels>,
        plugins: &ClusterPlugins,
        cx: &mut BuildCx<'_>,
    ) -> Result<Self, Rejected> {
        match proto {
            None => Err(cx.reject("cluster_specifier: value is required")),
            Some(Proto::Cluster(name)) => cx.at("cluster", |cx| match name.is_empty() {
                true => Err(cx.reject("value length must be at least 1 characters")),
                false => Ok(Self::One(ClusterTarget::Name(cx.env.clusters.intern(name)))),
            }),
            Some(Proto::ClusterHeader(name)) => cx.at("cluster_header", |cx| {
                RequestHeader::build(name, cx).map(|header| Self::One(ClusterTarget::Header(header)))
            }),
            Some(Proto::WeightedClusters(weighted)) => cx.at("weighted_clusters", |cx| {
                WeightedClusters::build(weighted, filter_configs, labels, cx)
                    .map(|weighted| Self::Weighted(Box::new(weighted)))
            }),
            Some(Proto::ClusterSpecifierPlugin(name)) => {
                cx.at("cluster_specifier_plugin", |cx| match plugins.get(name) {
                    Some(plugin) => Ok(Self::Plugin(plugin.clone())),
                    None => Err(cx.reject(format!(
                        "Unknown cluster specifier plugin name: {name} is used in the route"
                    ))),
                })
            }
            Some(Proto::InlineClusterSpecifierPlugin(plugin)) => cx
                .at("inline_cluster_specifier_plugin", |cx| ClusterPlugin::build(plugin, cx))
                .map(Self::Plugin),
        }
    }

    /// Chooses for `request`.
    pub(super) fn pick(
        &self,
        request: &RequestHead,
        info: &StreamInfo,
        runtime: &Runtime,
        random: u64,
    ) -> Picked {
        let number_or_random =
            |header: Option<&HeaderName>| header.and_then(|name| number_of(request, name)).unwrap_or(random);
        match self {
            Self::One(_) => Picked { choice: 0, number: random },
            Self::Weighted(weighted) => {
                let number = number_or_random(weighted.random_header.as_ref());
                Picked { choice: weighted.pick(runtime, number), number }
            }
            Self::Plugin(plugin) => {
                let number = number_or_random(plugin.random_header());
                Picked { choice: plugin.choose(request, info, 0, number), number }
            }
        }
    }

    /// Whether it is left to a plugin that is not known here.
    pub(super) fn is_unknown(&self) -> bool {
        matches!(self, Self::Plugin(plugin) if plugin.is_unknown())
    }

    /// Whether what a request hashes to decides which of several clusters it gets.
    pub(super) fn uses_hash(&self) -> bool {
        match self {
            Self::One(_) => false,
            Self::Weighted(weighted) => weighted.uses_hash,
            Self::Plugin(plugin) => plugin.uses_hash(),
        }
    }

    /// What is picked when `request` is to be sent again, for which `picked` was picked so far, and before that those of `tried`; `None` if
    /// there is no choice.
    pub(super) fn pick_again(
        &self,
        again: &mut Again<'_>,
        picked: Picked,
        request: &RequestHead,
        info: &StreamInfo,
        runtime: &Runtime,
    ) -> Option<Picked> {
        let choice = match self {
            Self::One(_) => return None,
            Self::Weighted(weighted) => {
                if again.tried.is_empty() {
                    again.tried.push(picked.choice);
                }
                weighted.pick_untried(again.tried, runtime, picked.number)
            }
            Self::Plugin(plugin) => plugin.choose(request, info, again.attempt, picked.number),
        };
        Some(Picked { choice, ..picked })
    }

    /// The cluster of `request`, for which `picked` was picked, but for weighted ones.
    pub(super) fn choice<'r>(
        &'r self,
        picked: u32,
        request: &'r RequestHead,
        info: &'r StreamInfo,
    ) -> ClusterChoice<'r> {
        match self {
            Self::One(target) => target.choice(request),
            Self::Weighted(_) => ClusterChoice::None,
            Self::Plugin(plugin) => plugin.cluster(picked, info),
        }
    }

    /// Weighted cluster number `index`.
    pub(super) fn weight(&self, index: u32) -> Option<&ClusterWeight> {
        match self {
            Self::One(_) | Self::Plugin(_) => None,
            Self::Weighted(weighted) => weighted.clusters.get(index as usize),
        }
    }

    /// The one cluster that is named, if there is only one, or what a plugin chose.
    pub(super) fn name(&self, picked: u32) -> Option<&Name> {
        match self {
            Self::One(target) => target.name(),
            Self::Weighted(_) => None,
            Self::Plugin(plugin) => plugin.configured(picked),
        }
    }

    /// Every cluster that the route names; not those that trees lead to.
    pub(super) fn names(&self) -> Vec<&Name> {
        match self {
            Self::One(target) => target.name().into_iter().collect(),
            Self::Weighted(weighted) => {
                weighted.clusters.iter().filter_map(|cluster| cluster.target.name()).collect()
            }
            Self::Plugin(plugin) => plugin.names().iter().collect(),
        }
    }
}

impl ClusterTarget {
    /// The name, if it is fixed.
    pub fn name(&self) -> Option<&Name> {
        match self {
            Self::Name(name) => Some(name),
            Self::Header(_) => None,
        }
    }

    pub(super) fn choice<'r>(&'r self, request: &'r RequestHead) -> ClusterChoice<'r> {
        match self {
            Self::Name(name) => ClusterChoice::Named(name),
            Self::Header(header) => {
                header.first_in_request(request).map_or(ClusterChoice::None, ClusterChoice::FromRequest)
            }
        }
    }
}

impl WeightedClusters {
    fn build(
        proto: &proto::WeightedCluster,
        filter_configs: &FilterConfigs,
        labels: Option<&Labels>,
        cx: &mut BuildCx<'_>,
    ) -> Result<Self, Rejected> {
        #[allow(deprecated, reason = "still sent by control planes; Envoy ignores it")]
        let proto::WeightedCluster { clusters, total_weight: _, runtime_key_prefix, random_value_specifier } =
            proto;
        let random_header = match random_value_specifier {
            None | Some(RandomValueSpecifier::UseHashPolicy(_)) => None,
            Some(RandomValueSpecifier::HeaderName(name)) if name.is_empty() => None,
            Some(RandomValueSpecifier::HeaderName(name)) => {
                Some(cx.at("header_name", |cx| build_header_name(name, cx))?)
            }
        };
        if clusters.is_empty() {
            return Err(cx.at("clusters", |cx| cx.reject("value must contain at least 1 item(s)")));
        }
        let clusters = cx.each("clusters", clusters, |cluster, cx| {
            ClusterWeight::build(cluster, runtime_key_prefix, filter_configs, labels, cx)
        })?;
        let total: u64 = clusters.iter().map(|cluster| u64::from(cluster.weight)).sum();
        if total == 0 {
            return Err(cx.reject("Sum of weights in the weighted_cluster must be greater than 0."));
        }
        if total > u64::from(u32::MAX) {
            return Err(
                cx.reject(format!("The sum of weights of all weighted clusters exceeds {}", u32::MAX))
            );
        }
        Ok(Self {
            clusters: clusters.into_boxed_slice(),
            total,
            has_runtime_keys: !runtime_key_prefix.is_empty(),
            random_header,
            uses_hash: matches!(random_value_specifier, Some(RandomValueSpecifier::UseHashPolicy(true))),
        })
    }

    /// Like [`Self::pick`], but leaves out those of `tried`, to which it adds what it picks. When all were tried, all may be again.
    fn pick_untried(&self, tried: &mut Tried, runtime: &Runtime, number: u64) -> u32 {
        let weights: SmallVec<[u64; 8]> =
            self.clusters.iter().map(|cluster| cluster.current_weight(runtime)).collect();
        let mut left = weights.clone();
        for (weight, number) in left.iter_mut().zip(0..) {
            if tried.contains(&number) {
                *weight = 0;
            }
        }
        if left.iter().sum::<u64>() == 0 {
            tried.clear();
            left = weights;
        }
        let picked = match left.iter().sum::<u64>() {
            0 => 0,
            total => pick(left.iter().copied(), number % total),
        };
        tried.push(picked);
        picked
    }

    fn pick(&self, runtime: &Runtime, number: u64) -> u32 {
        if !self.has_runtime_keys {
            return pick(self.clusters.iter().map(|cluster| u64::from(cluster.weight)), number % self.total);
        }
        let weights: SmallVec<[u64; 8]> =
            self.clusters.iter().map(|cluster| cluster.current_weight(runtime)).collect();
        match weights.iter().sum::<u64>() {
            0 => 0,
            total => pick(weights.iter().copied(), number % total),
        }
    }
}

/// Index of the weight whose interval holds `at`.
pub(super) fn pick(weights: impl Iterator<Item = u64>, mut at: u64) -> u32 {
    let mut last = 0;
    for (index, weight) in (0u32..).zip(weights) {
        if at < weight {
            return index;
        }
        at -= weight;
        last = index;
    }
    last
}

/// The number in the only value of a header.
fn number_of(request: &RequestHead, name: &HeaderName) -> Option<u64> {
    let mut values = request.headers.get_all(name).iter();
    let value = values.next()?;
    if values.next().is_some() {
        return None;
    }
    value.to_str().ok()?.trim().parse().ok()
}

impl ClusterWeight {
    fn build(
        proto: &proto::weighted_cluster::ClusterWeight,
        runtime_key_prefix: &str,
        route_filter_configs: &FilterConfigs,
        route_labels: Option<&Labels>,
        cx: &mut BuildCx<'_>,
    ) -> Result<Self, Rejected> {
        let proto::weighted_cluster::ClusterWeight {
            name,
            cluster_header,
            weight,
            metadata_match,
            request_headers_to_add,
            request_headers_to_remove,
            response_headers_to_add,
            response_headers_to_remove,
            typed_per_filter_config,
            host_rewrite_specifier,
        } = proto;
        let target = match (name.is_empty(), cluster_header.is_empty()) {
            (false, true) => Ok(ClusterTarget::Name(cx.env.clusters.intern(name))),
            (true, false) => cx
                .at("cluster_header", |cx| RequestHeader::build(cluster_header, cx))
                .map(ClusterTarget::Header),
            (true, true) => Err(cx.reject("At least one of name or cluster_header need to be specified")),
            (false, false) => Err(cx.reject("Only one of name or cluster_header can be specified")),
        };
        let Some(weight) = *weight else {
            return Err(cx.at("weight", |cx| cx.reject("value is required")));
        };
        let request_headers =
            HeaderMutations::build_request(request_headers_to_add, request_headers_to_remove, cx);
        let response_headers =
            HeaderMutations::build_response(response_headers_to_add, response_headers_to_remove, cx);
        let filter_configs = FilterConfigs::build(typed_per_filter_config, Some(route_filter_configs), cx);
        let host_rewrite = match host_rewrite_specifier {
            Some(HostRewriteSpecifier::HostRewriteLiteral(host)) if !host.is_empty() => {
                Some(Text::from(host.as_str()))
            }
            Some(HostRewriteSpecifier::HostRewriteLiteral(_)) | None => None,
        };
        Ok(Self {
            target: target?,
            request_headers: request_headers?,
            response_headers: response_headers?,
            filter_configs: filter_configs?,
            labels: Labels::from_metadata(metadata_match.as_ref())
                .map(|own| route_labels.map_or_else(|| own.clone(), |route| route.with(&own))),
            host_rewrite,
            weight,
            runtime_key: (!runtime_key_prefix.is_empty())
                .then(|| format!("{runtime_key_prefix}.{name}").into_boxed_str()),
        })
    }

    fn current_weight(&self, runtime: &Runtime) -> u64 {
        let set = self.runtime_key.as_deref().and_then(|key| runtime.number(key));
        set.map_or(u64::from(self.weight), |weight| weight.min(u64::from(u32::MAX)))
    }

    /// Applies `host_rewrite_literal`, which leaves no trace of the old host.
    pub(super) fn rewrite_host(&self, request: &mut RequestHead) {
        if let Some(host) = &self.host_rewrite {
            request.authority = host.clone();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::router::tests::{get, with};

    #[test]
    fn a_header_decides_if_it_has_a_number() {
        let name = HeaderName::from_static("x-random");
        for (values, wanted) in [
            (&["5"][..], Some(5)),
            (&["0"], Some(0)),
            (&["x"], None),
            (&["-1"], None),
            (&["1", "2"], None),
            (&[], None),
        ] {
            let headers: Vec<_> = values.iter().map(|value| ("x-random", *value)).collect();
            assert_eq!(number_of(&with(get("h", "/"), &headers), &name), wanted, "{values:?}");
        }
    }
}
