//! Cluster specifier plugins: what chooses the cluster of a request where a route names none.
//!
//! A route configuration lists plugins that its routes name, or a route has one of its own. There is one kind, a matcher tree
//! whose actions are clusters. It is asked when the route is matched; where it leads to nothing, the request has no cluster. Routes that
//! name a plugin of an unknown type, if it is optional, are never taken.
//! Source: Envoy `envoy/extensions/router/cluster_specifiers/matcher/v3/matcher.proto`, `route.proto` (`ClusterSpecifierPlugin`).

use std::cell::RefCell;
use std::collections::HashMap;
use std::sync::Arc;

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

const MATCHER: &str = "envoy.extensions.router.cluster_specifiers.matcher.v3.MatcherClusterSpecifier";
const ACTION: &str = "envoy.extensions.router.cluster_specifiers.matcher.v3.ClusterAction";
/// What a plugin chose when it chose nothing.
const NOTHING: u32 = u32::MAX;

/// Chooses clusters.
#[derive(Debug, Default)]
pub struct ClusterPlugin {
    /// Leads to numbers of `clusters`; there is none if the plugin is not known here, and optional.
    tree: Option<MatchTree<u32>>,
    clusters: Box<[Name]>,
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
                    _ if *is_optional => Ok(Self::default()),
                    _ => Err(cx.reject(format!(
                        "Didn't find a registered implementation for '{name}' with type URL: '{message}'"
                    ))),
                }
            })
        })
        .map(Arc::new)
    }

    fn build_tree(proto: &MatcherClusterSpecifier, cx: &mut BuildCx<'_>) -> Result<Self, Rejected> {
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
        Ok(Self { tree: Some(tree), clusters: clusters.into_inner().into() })
    }

    /// Whether nothing is known of it but that it is optional.
    pub(super) fn is_unknown(&self) -> bool {
        self.tree.is_none()
    }

    /// Number of the cluster for `request`, to be asked for with [`Self::cluster`].
    pub(super) fn choose(&self, request: &RequestHead, info: &StreamInfo) -> u32 {
        let facts = Facts::of_request(info, request, None);
        self.tree.as_ref().and_then(|tree| tree.find(&facts)).copied().unwrap_or(NOTHING)
    }

    /// The cluster with that number.
    pub(super) fn cluster(&self, number: u32) -> Option<&Name> {
        self.clusters.get(usize::try_from(number).ok()?)
    }
}
