//! Cluster specifier plugins: what chooses the cluster of a request where a route names none.
//!
//! A route configuration lists plugins that its routes name, or a route has one of its own: a matcher tree whose actions are clusters, or
//! groups of clusters (`priority_groups`). It is asked when the route is matched, and again when the request is sent again, if its retry policy
//! says so. Where a tree leads to nothing, the request has no cluster. Routes that name a plugin of an unknown type, if it is optional, are
//! never taken.
//! Source: Envoy `envoy/extensions/router/cluster_specifiers/matcher/v3/matcher.proto`, `route.proto` (`ClusterSpecifierPlugin`).

use std::cell::RefCell;
use std::collections::HashMap;
use std::sync::Arc;

use http::HeaderName;
use proxy_core::config::{BuildCx, Rejected};
use proxy_core::extension::decode;
use proxy_core::facts::{Facts, Layer};
use proxy_core::head::RequestHead;
use proxy_core::matching::{Inputs, MatchTree, Purpose};
use proxy_core::names::Name;
use proxy_core::stream_info::StreamInfo;
use xds_api::envoy::config::core::v3::TypedExtensionConfig;
use xds_api::envoy::config::route::v3 as proto;
use xds_api::envoy::extensions::router::cluster_specifiers::matcher::v3::{
    ClusterAction, MatcherClusterSpecifier,
};

use super::cluster::ClusterChoice;
use super::priority_groups::PriorityGroups;

const MATCHER: &str = "envoy.extensions.router.cluster_specifiers.matcher.v3.MatcherClusterSpecifier";
const GROUPS: &str =
    "envoy.extensions.router.cluster_specifiers.priority_group.v3.PriorityGroupClusterSpecifier";
const ACTION: &str = "envoy.extensions.router.cluster_specifiers.matcher.v3.ClusterAction";
/// What a plugin chose when it chose nothing.
const NOTHING: u32 = u32::MAX;

/// Chooses clusters.
#[derive(Debug, Default)]
pub struct ClusterPlugin(Kind);

#[derive(Debug, Default)]
enum Kind {
    /// Not known here, and optional.
    #[default]
    Unknown,
    /// Leads to numbers of `clusters`.
    Tree {
        tree: MatchTree<u32>,
        clusters: Box<[Name]>,
    },
    Groups(PriorityGroups),
}

/// Plugins by name.
pub(super) type ClusterPlugins = HashMap<String, Arc<ClusterPlugin>>;

impl ClusterPlugin {
    /// Builds those of a route configuration. Of several with one name the first counts, as in Envoy.
    pub(super) fn build_all(
        protos: &[proto::ClusterSpecifierPlugin],
        cx: &mut BuildCx<'_>,
    ) -> (ClusterPlugins, Result<(), Rejected>) {
        let mut plugins = ClusterPlugins::new();
        let built = cx.each("cluster_specifier_plugins", protos, |proto, cx| {
            let built = Self::build(proto, cx);
            let name = proto.extension.as_ref().map_or("", |extension| &extension.name);
            // (One that was refused is there all the same: routes that name it are not refused too.)
            plugins.entry(name.to_owned()).or_insert_with(|| built.clone().unwrap_or_default());
            built
        });
        (plugins, built.map(drop))
    }

    /// Builds one.
    pub(super) fn build(
        proto: &proto::ClusterSpecifierPlugin,
        cx: &mut BuildCx<'_>,
    ) -> Result<Arc<Self>, Rejected> {
        let proto::ClusterSpecifierPlugin { extension, is_optional } = proto;
        cx.at("extension", |cx| {
            let Some(TypedExtensionConfig { name, typed_config }) = extension else {
                return Err(cx.reject("value is required"));
            };
            cx.at("typed_config", |cx| {
                let Some(any) = typed_config else { return Err(cx.reject("value is required")) };
                let (message, payload) = cx.unpack(any)?;
                match message.as_str() {
                    MATCHER => Self::build_tree(&decode(&payload, cx)?, cx),
                    GROUPS => PriorityGroups::build(&decode(&payload, cx)?, cx).map(Kind::Groups),
                    _ if *is_optional => Ok(Kind::Unknown),
                    _ => Err(cx.reject(format!(
                        "Didn't find a registered implementation for '{name}' with type URL: '{message}'"
                    ))),
                }
            })
        })
        .map(|kind| Arc::new(Self(kind)))
    }

    fn build_tree(proto: &MatcherClusterSpecifier, cx: &mut BuildCx<'_>) -> Result<Kind, Rejected> {
        let clusters: RefCell<Vec<Name>> = RefCell::default();
        let action = |message: &str, payload: &[u8], cx: &mut BuildCx<'_>| {
            if message != ACTION {
                return Err(cx.reject(format!("{message} is no action that is available here")));
            }
            let ClusterAction { cluster } = decode(payload, cx)?;
            if cluster.is_empty() {
                return Err(cx.at("cluster", |cx| cx.reject("value length must be at least 1 characters")));
            }
            let mut clusters = clusters.borrow_mut();
            clusters.push(cx.env.clusters.intern(&cluster));
            Ok(u32::try_from(clusters.len() - 1).unwrap_or(NOTHING))
        };
        let refuse = |input: &str| format!("a cluster specifier cannot match on '{input}'");
        let inputs = Inputs { layer: Layer::Http, admits: &|_| true, refuse: &refuse };
        let purpose = Purpose { inputs, action: &action };
        let tree = cx.at("cluster_matcher", |cx| match &proto.cluster_matcher {
            Some(matcher) => MatchTree::build(matcher, &purpose, cx),
            None => Err(cx.reject("value is required")),
        })?;
        Ok(Kind::Tree { tree, clusters: clusters.into_inner().into() })
    }

    /// Whether nothing is known of it but that it is optional.
    pub(super) fn is_unknown(&self) -> bool {
        matches!(self.0, Kind::Unknown)
    }

    /// Number of the cluster for a try of `request` (0 for the first), to be asked for with [`Self::cluster`].
    /// `number` decides between clusters of one group.
    pub(super) fn choose(&self, request: &RequestHead, info: &StreamInfo, attempt: u32, number: u64) -> u32 {
        match &self.0 {
            Kind::Unknown => NOTHING,
            Kind::Tree { tree, .. } => {
                tree.find(&Facts::of_request(info, request, None)).copied().unwrap_or(NOTHING)
            }
            Kind::Groups(groups) => groups.choose(info, attempt, number),
        }
    }

    /// The header that has that number, if one has it.
    pub(super) fn random_header(&self) -> Option<&HeaderName> {
        match &self.0 {
            Kind::Unknown | Kind::Tree { .. } => None,
            Kind::Groups(groups) => groups.random_header.as_ref(),
        }
    }

    /// Whether what a request hashes to is that number.
    pub(super) fn uses_hash(&self) -> bool {
        matches!(&self.0, Kind::Groups(groups) if groups.uses_hash)
    }

    /// The cluster with that number.
    pub(super) fn cluster<'r>(&'r self, number: u32, info: &'r StreamInfo) -> ClusterChoice<'r> {
        match &self.0 {
            Kind::Groups(groups) => groups.cluster(number, info),
            Kind::Unknown | Kind::Tree { .. } => {
                self.configured(number).map_or(ClusterChoice::None, ClusterChoice::Named)
            }
        }
    }

    /// The same, if it is one that is configured.
    pub(super) fn configured(&self, number: u32) -> Option<&Name> {
        match &self.0 {
            Kind::Unknown => None,
            Kind::Tree { clusters, .. } => clusters.get(usize::try_from(number).ok()?),
            Kind::Groups(groups) => groups.configured(number),
        }
    }

    /// The clusters that it names but for those that a tree leads to: whether those exist is not looked at.
    pub(super) fn names(&self) -> &[Name] {
        match &self.0 {
            Kind::Unknown | Kind::Tree { .. } => &[],
            Kind::Groups(groups) => groups.names(),
        }
    }
}
