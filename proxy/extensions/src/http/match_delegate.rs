//! `envoy.filters.http.match_delegate`: another filter, for those requests only for which a matcher does not say that it is to be skipped.
//!
//! The matcher is asked once, with the head of the request. What it needs and cannot have (a certificate's name, without TLS) skips
//! nothing. A route may have a matcher of its own; the filter's own configuration for routes stands under the same name.
//! Source: Envoy `envoy/extensions/common/matching/v3/extension_matcher.proto`, `source/common/http/match_delegate`.

use std::any::Any;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::HeaderMap;
use proxy_core::config::FieldUse::{Rejected as Refused, Used};
use proxy_core::config::{BuildCx, MessageFields, Rejected};
use proxy_core::extension::http_filter::{
    DataStep, Direction, Engine, HeadersStep, HttpFilter, HttpFilterConfig, HttpFilterFactory, Phases,
    StreamCx, Verdict,
};
use proxy_core::extension::{Descriptor, SecurityPosture, Status, decode};
use proxy_core::facts::{Facts, Layer};
use proxy_core::head::{RequestHead, ResponseHead};
use proxy_core::matching::{Inputs, MatchTree, Purpose};
use proxy_core::stream_info::StreamInfo;
use xds_api::envoy::extensions::common::matching::v3 as proto;
use xds_api::xds::r#type::matcher::v3::Matcher;

const MESSAGE: &str = "envoy.extensions.common.matching.v3.ExtensionWithMatcher";
const ROUTE_MESSAGE: &str = "envoy.extensions.common.matching.v3.ExtensionWithMatcherPerRoute";
const SKIP: &str = "envoy.extensions.filters.common.matcher.action.v3.SkipFilter";

/// How the fields of the configuration are used.
pub const FIELDS: &[MessageFields] = &[
    (
        MESSAGE,
        &[
            ("matcher", Refused("use xds_matcher, which took its place")),
            ("xds_matcher", Used),
            ("extension_config", Used),
        ],
    ),
    (ROUTE_MESSAGE, &[("xds_matcher", Used)]),
    (SKIP, &[]),
];

/// The extension.
pub struct MatchDelegate;

impl HttpFilterFactory for MatchDelegate {
    fn descriptor(&self) -> Descriptor {
        Descriptor {
            name: "envoy.filters.http.match_delegate",
            message: MESSAGE,
            status: Status::Stable,
            posture: SecurityPosture::RobustToUntrustedDownstreamAndUpstream,
        }
    }

    fn may_be_upstream(&self) -> bool {
        false
    }

    fn route_message(&self) -> Option<&'static str> {
        Some(ROUTE_MESSAGE)
    }

    #[allow(deprecated, reason = "it is refused where it is sent")]
    fn build(&self, payload: &[u8], cx: &mut BuildCx<'_>) -> Result<Arc<dyn HttpFilterConfig>, Rejected> {
        let proto::ExtensionWithMatcher { matcher, xds_matcher, extension_config } = decode(payload, cx)?;
        cx.reject_if(matcher.is_some(), "matcher", "use xds_matcher, which took its place")?;
        let tree = cx.at("xds_matcher", |cx| Tree::build(xds_matcher.as_ref(), cx));
        let filter = cx.at("extension_config", |cx| {
            let any = extension_config.and_then(|extension| extension.typed_config);
            cx.at("typed_config", |cx| {
                let Some(any) = any else { return Err(cx.reject("value is required")) };
                let (message, payload) = cx.unpack(&any)?;
                let mut factories = cx.env.extensions.http_filters.iter();
                match factories.find(|factory| factory.descriptor().message == message) {
                    // (A filter within a filter within a filter is nobody's wish, and would nest without end.)
                    Some(factory) if message != MESSAGE => factory.build(&payload, cx),
                    _ => Err(cx.reject(format!("no HTTP filter of type '{message}' may stand here"))),
                }
            })
        });
        Ok(Arc::new(Config { tree: Arc::new(tree?), filter: filter? }))
    }

    fn build_route(
        &self,
        payload: &[u8],
        cx: &mut BuildCx<'_>,
    ) -> Result<Arc<dyn Any + Send + Sync>, Rejected> {
        let proto::ExtensionWithMatcherPerRoute { xds_matcher } = decode(payload, cx)?;
        Ok(Arc::new(cx.at("xds_matcher", |cx| Tree::build(xds_matcher.as_ref(), cx))?))
    }
}

/// What is skipped.
struct Tree(MatchTree<()>);

impl Tree {
    fn build(matcher: Option<&Matcher>, cx: &mut BuildCx<'_>) -> Result<Self, Rejected> {
        let Some(matcher) = matcher else { return Err(cx.reject("value is required")) };
        let action = |message: &str, _: &[u8], cx: &mut BuildCx<'_>| match message {
            SKIP => Ok(()),
            _ => Err(cx.reject(format!("{message} is no action that is available here"))),
        };
        let refuse_input = |input: &str| format!("a filter's matcher cannot match on '{input}'");
        let inputs = Inputs { layer: Layer::Http, admits: &|_| true, refuse: &refuse_input };
        let purpose = Purpose { inputs, action: &action };
        MatchTree::build(matcher, &purpose, cx).map(Self)
    }

    fn skips(&self, cx: &StreamCx<'_>) -> bool {
        let facts = Facts::of_request(cx.info, cx.request, cx.route.map(|route| route.metadata()));
        self.0.find(&facts).is_some()
    }
}

struct Config {
    tree: Arc<Tree>,
    filter: Arc<dyn HttpFilterConfig>,
}

impl HttpFilterConfig for Config {
    fn create(&self) -> Box<dyn HttpFilter> {
        Box::new(Filter { tree: self.tree.clone(), filter: self.filter.create(), is_skipped: false })
    }

    fn phases(&self) -> Phases {
        self.filter.phases()
    }
}

struct Filter {
    tree: Arc<Tree>,
    filter: Box<dyn HttpFilter>,
    is_skipped: bool,
}

impl HttpFilter for Filter {
    fn on_request_headers<'a>(&'a mut self, cx: &'a mut StreamCx<'_>, end: bool) -> HeadersStep<'a> {
        self.is_skipped = cx.route_configs::<Tree>().next().unwrap_or(&self.tree).skips(cx);
        if self.is_skipped { HeadersStep::Continue } else { self.filter.on_request_headers(cx, end) }
    }

    fn on_request_data<'a>(
        &'a mut self,
        cx: &'a mut StreamCx<'_>,
        data: &'a mut Bytes,
        end: bool,
    ) -> DataStep<'a> {
        if self.is_skipped { DataStep::Continue } else { self.filter.on_request_data(cx, data, end) }
    }

    fn on_request_trailers<'a>(
        &'a mut self,
        cx: &'a mut StreamCx<'_>,
        trailers: &'a mut HeaderMap,
    ) -> HeadersStep<'a> {
        if self.is_skipped { HeadersStep::Continue } else { self.filter.on_request_trailers(cx, trailers) }
    }

    fn on_response_headers<'a>(&'a mut self, cx: &'a mut StreamCx<'_>, end: bool) -> HeadersStep<'a> {
        if self.is_skipped { HeadersStep::Continue } else { self.filter.on_response_headers(cx, end) }
    }

    fn on_response_data<'a>(
        &'a mut self,
        cx: &'a mut StreamCx<'_>,
        data: &'a mut Bytes,
        end: bool,
    ) -> DataStep<'a> {
        if self.is_skipped { DataStep::Continue } else { self.filter.on_response_data(cx, data, end) }
    }

    fn on_response_trailers<'a>(
        &'a mut self,
        cx: &'a mut StreamCx<'_>,
        trailers: &'a mut HeaderMap,
    ) -> HeadersStep<'a> {
        if self.is_skipped { HeadersStep::Continue } else { self.filter.on_response_trailers(cx, trailers) }
    }

    fn poll_resume(&mut self, direction: Direction, task: &mut Context<'_>) -> Poll<Verdict> {
        self.filter.poll_resume(direction, task)
    }

    fn poll_rest(&mut self, direction: Direction, task: &mut Context<'_>) -> Poll<()> {
        self.filter.poll_rest(direction, task)
    }

    fn on_complete(
        &mut self,
        request: &RequestHead,
        response: Option<&ResponseHead>,
        info: &mut StreamInfo,
        engine: &dyn Engine,
    ) {
        if !self.is_skipped {
            self.filter.on_complete(request, response, info, engine);
        }
    }
}

#[cfg(test)]
mod tests {
    use prost::Message as _;
    use prost_types::Any;
    use xds_api::envoy::config::core::v3::TypedExtensionConfig;

    use super::*;
    use crate::testing::env;

    fn refusal(inner: &str, is_matched: bool) -> Vec<String> {
        let extension_config = Some(TypedExtensionConfig {
            name: "inner".into(),
            typed_config: Some(Any { type_url: format!("type.googleapis.com/{inner}"), value: Vec::new() }),
        });
        let xds_matcher = is_matched.then(Matcher::default);
        let proto = proto::ExtensionWithMatcher {
            xds_matcher,
            extension_config,
            ..proto::ExtensionWithMatcher::default()
        };
        let env = env();
        let mut cx = BuildCx::new(&env);
        let _ = MatchDelegate.build(&proto.encode_to_vec(), &mut cx);
        cx.into_errors().into_iter().map(|error| error.to_string()).collect()
    }

    #[test]
    fn what_cannot_be_built_is_told_with_its_place() {
        let reason = |kind: &str| {
            format!("extension_config.typed_config: no HTTP filter of type '{kind}' may stand here")
        };
        assert_eq!(refusal("a.B", true), [reason("a.B")]);
        assert_eq!(refusal(MESSAGE, true), [reason(MESSAGE)]);
        let both = ["xds_matcher: value is required".to_owned(), reason("a.B")];
        assert_eq!(refusal("a.B", false), both);
    }
}
