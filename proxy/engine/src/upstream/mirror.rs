//! Mirroring: which requests another cluster gets a copy of, as routes and clusters say.
//!
//! Source: `envoy/config/route/v3/route_components.proto` (`RouteAction.RequestMirrorPolicy`).

use std::sync::Arc;

use proxy_core::config::FieldUse::{Ignored, Rejected as Refused, Used};
use proxy_core::config::{BuildCx, MessageFields, Rejected};
use proxy_core::head::RequestHead;
use proxy_core::matcher::RequestHeader;
use proxy_core::names::Name;
use proxy_core::runtime::{Runtime, RuntimeFraction};
use proxy_core::text::Text;
use xds_api::envoy::config::route::v3::route_action::RequestMirrorPolicy as Proto;

/// Fields by message.
pub(crate) const FIELDS: MessageFields = (
    "envoy.config.route.v3.RouteAction.RequestMirrorPolicy",
    &[
        ("cluster", Used),
        ("cluster_header", Used),
        ("runtime_fraction", Used),
        ("trace_sampled", Ignored("copies of requests are told of no trace and have no spans")),
        ("disable_shadow_host_suffix_append", Used),
        ("request_headers_mutations", Refused(NO_MUTATIONS)),
        ("host_rewrite_literal", Used),
    ],
);

const NO_MUTATIONS: &str = "a copy has the headers of its request";

/// Has a share of the requests mirrored to a cluster.
#[derive(Clone, Debug)]
pub struct MirrorPolicy {
    /// Where copies go.
    pub to: MirrorTo,
    fraction: Option<RuntimeFraction>,
    host: MirrorHost,
    /// What it was built of.
    proto: Proto,
}

impl PartialEq for MirrorPolicy {
    fn eq(&self, other: &Self) -> bool {
        self.proto == other.proto
    }
}

/// The cluster of copies.
#[derive(Clone, Debug)]
pub enum MirrorTo {
    /// This one.
    Named(Name),
    /// The one that a header of the request names.
    FromHeader(RequestHeader),
}

/// What copies call their host.
#[derive(Clone, Debug)]
enum MirrorHost {
    /// As the request, with `-shadow`.
    Shadow,
    /// As the request.
    Same,
    /// This.
    Literal(Text),
}

impl MirrorPolicy {
    /// Builds all of a level.
    pub fn build_all(protos: &[Proto], cx: &mut BuildCx<'_>) -> Result<Arc<[Self]>, Rejected> {
        cx.each("request_mirror_policies", protos, Self::build).map(Arc::from)
    }

    fn build(proto: &Proto, cx: &mut BuildCx<'_>) -> Result<Self, Rejected> {
        let Proto {
            cluster,
            cluster_header,
            runtime_fraction,
            trace_sampled: _,
            disable_shadow_host_suffix_append,
            request_headers_mutations,
            host_rewrite_literal,
        } = proto;
        let has_mutations = !request_headers_mutations.is_empty();
        let mutations = cx.reject_if(has_mutations, "request_headers_mutations", NO_MUTATIONS);
        let to = match (cluster.is_empty(), cluster_header.is_empty()) {
            (false, true) => Ok(MirrorTo::Named(cx.env.clusters.intern(cluster))),
            (true, false) => cx
                .at("cluster_header", |cx| RequestHeader::build(cluster_header, cx))
                .map(MirrorTo::FromHeader),
            (true, true) => Err(cx.reject(
                "Exactly one of cluster or cluster_header in request mirror policy need to be specified",
            )),
            (false, false) => Err(cx.reject(format!(
                "Only one of cluster '{cluster}' or cluster_header '{cluster_header}' in request mirror policy can be specified"
            ))),
        };
        mutations?;
        Ok(Self {
            to: to?,
            fraction: runtime_fraction.as_ref().map(RuntimeFraction::new),
            proto: proto.clone(),
            host: match (host_rewrite_literal.as_str(), disable_shadow_host_suffix_append) {
                ("", false) => MirrorHost::Shadow,
                ("", true) => MirrorHost::Same,
                (host, _) => MirrorHost::Literal(Text::from(host)),
            },
        })
    }

    /// Whether a request with this random number is mirrored.
    pub fn chooses(&self, runtime: &Runtime, random: u64) -> bool {
        self.fraction.as_ref().is_none_or(|fraction| fraction.holds(runtime, random))
    }

    /// The copy of `request`.
    pub fn copy(&self, request: &RequestHead) -> RequestHead {
        let mut copy = request.clone();
        match &self.host {
            MirrorHost::Shadow => copy.authority = shadow(&copy.authority),
            MirrorHost::Same => {}
            MirrorHost::Literal(host) => copy.authority = host.clone(),
        }
        copy
    }
}

/// `host` with `-shadow`, before the port if there is one.
fn shadow(host: &str) -> Text {
    let port = host.rfind(':').filter(|colon| host.rfind(']').is_none_or(|bracket| bracket < *colon));
    let (name, port) = host.split_at(port.unwrap_or(host.len()));
    Text::from(format!("{name}-shadow{port}").as_str())
}

#[cfg(test)]
mod tests {
    use super::shadow;

    #[test]
    fn the_suffix_comes_before_the_port() {
        for (host, expected) in [
            ("a.example", "a.example-shadow"),
            ("a.example:80", "a.example-shadow:80"),
            ("1.2.3.4:80", "1.2.3.4-shadow:80"),
            ("[::1]", "[::1]-shadow"),
            ("[::1]:80", "[::1]-shadow:80"),
            ("", "-shadow"),
        ] {
            assert_eq!(shadow(host).as_str(), expected);
        }
    }
}
