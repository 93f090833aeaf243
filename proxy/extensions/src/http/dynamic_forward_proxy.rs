//! `envoy.filters.http.dynamic_forward_proxy`: has the host looked up that a request names, and holds the request until that is done, where its route
//! goes to a cluster of type `envoy.clusters.dynamic_forward_proxy`.
//!
//! Source: Envoy `docs/root/configuration/http/http_filters/dynamic_forward_proxy_filter.rst`; answers observed on 1.40.

use std::sync::Arc;

use http::StatusCode;
use proxy_core::config::FieldUse::{Ignored, Rejected as Refused, Used};
use proxy_core::config::{BuildCx, MessageFields, Rejected};
use proxy_core::dns_cache::{
    self, Answer, DnsCache, LookUp, NO_SUB_CLUSTERS, Wanted, host_of_state, port_of_state,
};
use proxy_core::extension::http_filter::{
    HeadersStep, HttpFilter, HttpFilterExtension, Phases, StreamCx, Verdict,
};
use proxy_core::extension::{Descriptor, SecurityPosture, Status};
use proxy_core::head::RequestHead;
use proxy_core::local_reply::LocalReply;
use proxy_core::matcher::RequestHeader;
use proxy_core::response_flag::ResponseFlag;
use proxy_core::stream_error::Details;
use proxy_core::text::Text;
use xds_api::envoy::extensions::filters::http::dynamic_forward_proxy::v3 as proto;
use xds_api::envoy::extensions::filters::http::dynamic_forward_proxy::v3::filter_config::ImplementationSpecifier as Kind;
use xds_api::envoy::extensions::filters::http::dynamic_forward_proxy::v3::per_route_config::HostRewriteSpecifier as Rewrite;

const MESSAGE: &str = "envoy.extensions.filters.http.dynamic_forward_proxy.v3.FilterConfig";
const ROUTE_MESSAGE: &str = "envoy.extensions.filters.http.dynamic_forward_proxy.v3.PerRouteConfig";

/// How the fields of the configuration are used.
pub const FIELDS: &[MessageFields] = &[
    (
        MESSAGE,
        &[
            ("dns_cache_config", Used),
            ("sub_cluster_config", Refused(NO_SUB_CLUSTERS)),
            ("save_upstream_address", Ignored(dns_cache::NOT_SAVED)),
            ("allow_dynamic_host_from_filter_state", Used),
        ],
    ),
    (ROUTE_MESSAGE, &[("host_rewrite_literal", Used), ("host_rewrite_header", Used)]),
];

/// The extension.
pub struct DynamicForwardProxy;

impl HttpFilterExtension for DynamicForwardProxy {
    const DESCRIPTOR: Descriptor = Descriptor {
        name: "envoy.filters.http.dynamic_forward_proxy",
        message: MESSAGE,
        status: Status::Stable,
        posture: SecurityPosture::RobustToUntrustedDownstream,
    };
    const ROUTE_MESSAGE: Option<&'static str> = Some(ROUTE_MESSAGE);
    const PHASES: Phases = Phases { request_body: false, response_headers: false, response_body: false };
    type Proto = proto::FilterConfig;
    type Config = Config;
    type RouteProto = proto::PerRouteConfig;
    type RouteConfig = RouteConfig;

    fn build(proto: Self::Proto, cx: &mut BuildCx<'_>) -> Result<Self::Config, Rejected> {
        let proto::FilterConfig {
            save_upstream_address: _,
            allow_dynamic_host_from_filter_state,
            implementation_specifier,
        } = proto;
        let config = match implementation_specifier {
            Some(Kind::DnsCacheConfig(config)) => config,
            Some(Kind::SubClusterConfig(_)) => {
                return Err(cx.at("sub_cluster_config", |cx| cx.reject(NO_SUB_CLUSTERS)));
            }
            None => Default::default(),
        };
        let cache = cx.at("dns_cache_config", |cx| cx.env.dns_caches.cache(&config, cx))?;
        Ok(Config { cache, heeds_state: allow_dynamic_host_from_filter_state })
    }

    fn build_route(proto: Self::RouteProto, cx: &mut BuildCx<'_>) -> Result<Self::RouteConfig, Rejected> {
        Ok(match proto.host_rewrite_specifier {
            Some(Rewrite::HostRewriteLiteral(host)) if !host.is_empty() => {
                RouteConfig::Literal(host.as_str().into())
            }
            Some(Rewrite::HostRewriteHeader(name)) if !name.is_empty() => {
                RouteConfig::Header(cx.at("host_rewrite_header", |cx| RequestHeader::build(&name, cx))?)
            }
            Some(Rewrite::HostRewriteLiteral(_) | Rewrite::HostRewriteHeader(_)) | None => {
                RouteConfig::Nothing
            }
        })
    }

    fn create(config: &Arc<Self::Config>) -> Box<dyn HttpFilter> {
        Box::new(Filter(config.clone()))
    }
}

/// Where hosts are looked up.
pub struct Config {
    cache: Arc<dyn DnsCache>,
    /// The filter state goes before the request (`allow_dynamic_host_from_filter_state`).
    heeds_state: bool,
}

/// What requests of a route name in place of their host.
pub enum RouteConfig {
    /// Their host.
    Nothing,
    /// This.
    Literal(Text),
    /// What the first of these headers says, if there is one.
    Header(RequestHeader),
}

impl RouteConfig {
    fn rewrite(&self, request: &mut RequestHead) {
        match self {
            Self::Nothing => {}
            Self::Literal(host) => request.authority = host.clone(),
            Self::Header(header) => {
                let host = match header {
                    RequestHeader::Named(name) => {
                        request.headers.get(name).and_then(|value| value.to_str().ok())
                    }
                    header => header.first_in_request(request),
                };
                if let Some(host) = host.map(Text::from) {
                    request.authority = host;
                }
            }
        }
    }
}

struct Filter(Arc<Config>);

impl Filter {
    /// Looks the host of the request up; `None` if the request names none.
    fn look_up(&self, cx: &StreamCx<'_>, default_port: u16) -> Option<LookUp> {
        let (host, port) = match self.0.heeds_state {
            true => (host_of_state(cx.info), port_of_state(cx.info)),
            false => (None, None),
        };
        let host = host.as_deref().unwrap_or(cx.request.authority.as_str());
        Wanted::of(host, port.unwrap_or(default_port)).map(|wanted| self.0.cache.look_up(wanted))
    }
}

impl HttpFilter for Filter {
    fn on_request_headers<'a>(&'a mut self, cx: &'a mut StreamCx<'_>, _end: bool) -> HeadersStep<'a> {
        let cluster = cx.route.and(cx.info.upstream.cluster.as_deref());
        let Some(port) = cluster.and_then(|cluster| cx.engine.dynamic_port(cluster)) else {
            return HeadersStep::Continue;
        };
        if let Some(route) = cx.route_config::<RouteConfig>() {
            route.rewrite(cx.request);
        }
        match self.look_up(cx, port) {
            Some(LookUp::Known(Ok(_))) => HeadersStep::Continue,
            Some(LookUp::Known(Err(reason))) => HeadersStep::Reply(unresolved(&reason)),
            Some(LookUp::Wait(waiting)) => {
                HeadersStep::Wait(Box::pin(async move { verdict(&waiting.await) }))
            }
            Some(LookUp::Full) => HeadersStep::Reply(unavailable("DNS cache overflow", dns_cache::OVERFLOW)),
            Some(LookUp::Busy) => HeadersStep::Reply(unavailable(
                "Dynamic forward proxy pending request overflow",
                "dynamic_forward_proxy_pending_request_overflow",
            )),
            None => HeadersStep::Reply(Box::new(LocalReply::new(
                StatusCode::BAD_REQUEST,
                "Empty host header",
                dns_cache::EMPTY_HOST,
            ))),
        }
    }
}

fn verdict(answer: &Answer) -> Verdict {
    match answer {
        Ok(_) => Verdict::Continue,
        Err(reason) => Verdict::Reply(unresolved(reason)),
    }
}

/// The answer where a name has no addresses.
fn unresolved(reason: &str) -> Box<LocalReply> {
    let reply = unavailable("DNS resolution failure", dns_cache::failure(reason));
    Box::new(reply.with_flag(ResponseFlag::DnsResolutionFailed))
}

fn unavailable(body: &'static str, details: impl Into<Details>) -> Box<LocalReply> {
    Box::new(LocalReply::new(StatusCode::SERVICE_UNAVAILABLE, body, details))
}

#[cfg(test)]
mod tests {
    use proxy_core::extension::http_filter::Route;
    use proxy_core::metadata::Metadata;

    use super::*;
    use crate::testing::{Stream, block_on, env};

    struct AnyRoute(Metadata);

    impl Route for AnyRoute {
        fn name(&self) -> &str {
            ""
        }
        fn cluster(&self) -> Option<&str> {
            None
        }
        fn metadata(&self) -> &Metadata {
            &self.0
        }
        fn rate_limits(&self) -> Option<proxy_core::extension::http_filter::RouteRateLimits<'_>> {
            None
        }
        fn ignores_path_parameters(&self) -> bool {
            false
        }
    }

    fn stream(host: &str, cluster: &str) -> Stream {
        let mut stream = Stream::new(&[]);
        stream.request.authority = host.into();
        stream.info.upstream.cluster = Some(cluster.into());
        stream
    }

    /// The status and details of the answer; `None` if the request goes on.
    fn run(stream: &mut Stream) -> Option<(u16, String)> {
        let env = env();
        let config = DynamicForwardProxy::build(Default::default(), &mut BuildCx::new(&env)).ok();
        let mut filter = DynamicForwardProxy::create(&Arc::new(config?));
        let route = AnyRoute(Metadata::default());
        let mut cx = StreamCx { route: Some(&route), ..stream.cx() };
        let reply = match filter.on_request_headers(&mut cx, true) {
            HeadersStep::Continue => return None,
            HeadersStep::Reply(reply) => reply,
            HeadersStep::Wait(waiting) => match block_on(waiting) {
                Verdict::Continue => return None,
                Verdict::Reply(reply) => reply,
            },
            HeadersStep::Hold => panic!("it holds nothing"),
        };
        Some((reply.status.as_u16(), reply.details.into_owned()))
    }

    #[test]
    fn requests_go_on_when_their_host_is_known() {
        for (host, answer) in [
            ("known.test", None),
            ("slow.test", None),
            ("lost.test", Some((503, "dns_resolution_failure{no}"))),
            ("slowly-lost.test:1", Some((503, "dns_resolution_failure{no}"))),
            ("busy.test", Some((503, "dynamic_forward_proxy_pending_request_overflow"))),
            ("other.test", Some((503, "dns_cache_overflow"))),
            ("", Some((400, "empty_host_header"))),
        ] {
            let answer = answer.map(|(status, details)| (status, details.to_owned()));
            assert_eq!(run(&mut stream(host, "dynamic")), answer, "{host}");
        }
        assert_eq!(run(&mut stream("lost.test", "static")), None, "the cluster knows its hosts");
    }

    #[test]
    fn routes_say_another_host() {
        let header = |name: &str| RouteConfig::Header(RequestHeader::parse(name).unwrap());
        for (config, host) in [
            (RouteConfig::Literal("known.test".into()), "known.test"),
            (header("x-host"), "known.test:1"),
            (header("x-other"), "lost.test"),
            (header(":authority"), "lost.test"),
            (RouteConfig::Nothing, "lost.test"),
        ] {
            let mut stream = stream("lost.test", "dynamic");
            stream.request.headers = crate::testing::header_map(&[("x-host", "known.test:1")]);
            stream.configs = vec![Arc::new(config)];
            assert_eq!(run(&mut stream).is_some(), host.starts_with("lost"), "{host}");
            assert_eq!(stream.request.authority, host);
        }
    }
}
