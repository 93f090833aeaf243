//! `istio.alpn`: what TLS offers to a host depends on the HTTP that is spoken with it.
//!
//! Sidecars of Istio know by that what is inside: what the filter chains of a peer match. A cluster whose metadata say
//! `istio.alpn_override: "false"` is left alone.
//! Source: `istio.envoy.config.filter.http.alpn.v2alpha1.FilterConfig` in `xds/api/descriptors/istio/alpn.proto`.

use std::rc::Rc;
use std::sync::Arc;

use prost_types::value::Kind;
use proxy_core::config::FieldUse::Used;
use proxy_core::config::{BuildCx, MessageFields, Rejected};
use proxy_core::extension::http_filter::{
    HeadersStep, HttpFilter, HttpFilterExtension, NoRouteConfig, Phases, StreamCx,
};
use proxy_core::extension::{Descriptor, SecurityPosture, Status};
use proxy_core::head::Protocol;
use proxy_core::text::Text;
use proxy_core::transport::{APPLICATION_PROTOCOLS, TransportNames};
use xds_api::istio::envoy::config::filter::http::alpn::v2alpha1 as proto;

const MESSAGE: &str = "istio.envoy.config.filter.http.alpn.v2alpha1.FilterConfig";

/// How the fields of the configuration are used.
pub const FIELDS: &[MessageFields] = &[
    (MESSAGE, &[("alpn_override", Used)]),
    (
        "istio.envoy.config.filter.http.alpn.v2alpha1.FilterConfig.AlpnOverride",
        &[("upstream_protocol", Used), ("alpn_override", Used)],
    ),
];

/// The extension.
pub struct IstioAlpn;

impl HttpFilterExtension for IstioAlpn {
    const DESCRIPTOR: Descriptor = Descriptor {
        name: "istio.alpn",
        message: MESSAGE,
        status: Status::Stable,
        posture: SecurityPosture::RobustToUntrustedDownstreamAndUpstream,
    };
    const PHASES: Phases = Phases { request_body: false, response_headers: false, response_body: false };
    type Proto = proto::FilterConfig;
    type Config = Config;
    type RouteProto = NoRouteConfig;
    type RouteConfig = NoRouteConfig;

    fn build(proto: Self::Proto, cx: &mut BuildCx<'_>) -> Result<Self::Config, Rejected> {
        Config::build(&proto, cx)
    }

    fn build_route(_: Self::RouteProto, cx: &mut BuildCx<'_>) -> Result<Self::RouteConfig, Rejected> {
        Err(cx.reject("this filter has no per-route configuration"))
    }

    fn create(config: &Arc<Self::Config>) -> Box<dyn HttpFilter> {
        Box::new(Filter(config.clone()))
    }
}

/// What is offered.
pub struct Config(Box<[(Protocol, Arc<[Text]>)]>);

impl Config {
    fn build(proto: &proto::FilterConfig, cx: &mut BuildCx<'_>) -> Result<Self, Rejected> {
        use proto::filter_config::Protocol as Named;
        let overrides = cx.each("alpn_override", &proto.alpn_override, |one, cx| {
            let protocol = match Named::try_from(one.upstream_protocol) {
                Ok(Named::Http10) => Protocol::Http10,
                Ok(Named::Http11) => Protocol::Http11,
                Ok(Named::Http2) => Protocol::Http2,
                Err(_) => return Err(cx.at("upstream_protocol", |cx| cx.reject("is no protocol"))),
            };
            let is_offerable = |name: &String| (1..=255).contains(&name.len());
            if let Some(index) = one.alpn_override.iter().position(|name| !is_offerable(name)) {
                let reason = "the name of a protocol has 1 to 255 bytes";
                return Err(cx.at_index("alpn_override", index, |cx| cx.reject(reason)));
            }
            Ok((protocol, one.alpn_override.iter().map(|name| name.as_str().into()).collect()))
        })?;
        Ok(Self(overrides.into()))
    }
}

struct Filter(Arc<Config>);

impl HttpFilter for Filter {
    fn on_request_headers<'a>(&'a mut self, cx: &'a mut StreamCx<'_>, _end: bool) -> HeadersStep<'a> {
        let Some(cluster) = &cx.info.upstream.cluster else { return HeadersStep::Continue };
        let of_cluster = cx.info.upstream.cluster_metadata.namespace("istio");
        let said = of_cluster.and_then(|istio| istio.fields.get("alpn_override")?.kind.as_ref());
        if matches!(said, Some(Kind::StringValue(said)) if said == "false") {
            return HeadersStep::Continue;
        }
        let downstream = cx.info.protocol.unwrap_or(Protocol::Http11);
        let protocol = cx.engine.upstream_protocol(cluster, downstream);
        let offered = self.0.0.iter().find(|(of, _)| Some(*of) == protocol);
        if let Some((_, offered)) = offered.filter(|(_, offered)| !offered.is_empty()) {
            cx.info.filter_state.set(APPLICATION_PROTOCOLS, Rc::new(TransportNames(offered.clone())));
        }
        HeadersStep::Continue
    }
}
