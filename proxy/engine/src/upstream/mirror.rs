//! Mirroring: which requests another cluster gets a copy of, as routes and clusters say.
//!
//! Source: `envoy/config/route/v3/route_components.proto` (`RouteAction.RequestMirrorPolicy`).

use std::sync::Arc;

use proxy_core::config::FieldUse::{Ignored, Used};
use proxy_core::config::{BuildCx, MessageFields, Rejected};
use proxy_core::extension::access_log::LogEntry;
use proxy_core::field_names::joins_in_request;
use proxy_core::head::RequestHead;
use proxy_core::header_mutation::Mutation;
use proxy_core::matcher::RequestHeader;
use proxy_core::names::Name;
use proxy_core::runtime::{Runtime, RuntimeFraction};
use proxy_core::stream_info::StreamInfo;
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
        ("request_headers_mutations", Used),
        ("host_rewrite_literal", Used),
    ],
);

/// Has a share of the requests mirrored to a cluster.
#[derive(Clone, Debug)]
pub struct MirrorPolicy {
    /// Where copies go.
    pub to: MirrorTo,
    fraction: Option<RuntimeFraction>,
    host: MirrorHost,
    mutations: Arc<[Mutation]>,
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
        let mutations = cx.each("request_headers_mutations", request_headers_mutations, Mutation::build);
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
        let mutations = mutations?.into();
        Ok(Self {
            to: to?,
            fraction: runtime_fraction.as_ref().map(RuntimeFraction::new),
            proto: proto.clone(),
            mutations,
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

    /// Has the copy of a request differ from it as the policy says; values of headers may refer to the copy as it stands, and to the
    /// request's stream.
    pub fn finish(&self, copy: &mut RequestHead, info: &StreamInfo) {
        for mutation in &*self.mutations {
            let entry = LogEntry { request: Some(copy), ..LogEntry::of(info) };
            let change = mutation.prepare(&copy.headers, &entry);
            change.apply(&mut copy.headers, joins_in_request);
        }
        match &self.host {
            MirrorHost::Shadow => copy.authority = shadow(&copy.authority),
            MirrorHost::Same => {}
            MirrorHost::Literal(host) => copy.authority = host.clone(),
        }
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
