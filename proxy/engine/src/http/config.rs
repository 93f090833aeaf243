//! Configuration of the connection manager, built once and shared by all workers.
//!
//! Source: Envoy `http_connection_manager.proto`; defaults as documented there.

use std::net::IpAddr;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use http::HeaderValue;
use prost::Message;
use proto::http_connection_manager::{
    CodecType, PathWithEscapedSlashesAction, RouteSpecifier, ServerHeaderTransformation, StripPortMode,
};
use proxy_core::config::{BuildCx, Rejected, duration, timeout_or};
use proxy_core::extension::access_log::AccessLog;
use proxy_core::extension::decode;
use proxy_core::hash::xxhash64;
use proxy_core::head::{HeadLimits, MOST_FIELDS};
use proxy_core::http_chain::{HttpFilter, Place, build_chain};
use proxy_core::log_filter::build_access_logs;
use proxy_core::matcher::StringMatcher;
use proxy_core::names::Name;
use proxy_core::stats::Cells;
use proxy_core::stats::groups::{Http1Stats, Http2Stats, HttpStats, TracingStats};
use xds_api::envoy::config::core::v3 as core;
use xds_api::envoy::config::core::v3::config_source::ConfigSourceSpecifier;
use xds_api::envoy::config::core::v3::http_protocol_options::HeadersWithUnderscoresAction;
use xds_api::envoy::extensions::filters::http::router::v3::Router;
use xds_api::envoy::extensions::filters::network::http_connection_manager::v3 as proto;
use xds_api::envoy::extensions::request_id::uuid::v3::UuidRequestIdConfig;

use super::client_cert::ClientCert;
use super::forwarded::ForwardProto;
use super::reply::LocalReplies;
use super::request_id::Packing;
use super::tracing::Tracing;
use super::upstream_log::UpstreamLogs;
use crate::codec::h1::Underscores;
use crate::codec::h1_server::ServerOptions;
use crate::codec::h2_guard::Side;
use crate::codec::h2_keepalive::Schedule;
use crate::codec::h2_server::FieldRules;
use crate::codec::h2_settings::{CustomSettings, max_metadata_size};
use crate::router::RouteTable;
use crate::router::strict_headers::StrictHeader;
use crate::upstream::http_options::UpstreamFilters;
use crate::upstream::key_format::HeaderKeyFormat;

/// How long the answer to a PING may take if configuration does not say.
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(20);

/// The connection manager's configuration.
pub struct ConnectionManager {
    /// What downstream speaks.
    pub codec: Codec,
    /// Prefix of the statistics.
    pub stat_prefix: String,
    /// Where routes come from.
    pub routes: RouteSource,
    /// Filters before the router, in order.
    pub filters: Vec<HttpFilter>,
    /// The router's options.
    pub router: RouterOptions,
    /// HTTP/1 options.
    pub http1: Http1Options,
    /// What the codec of every HTTP/1 connection needs of all this, without TLS and with it, once one was accepted.
    pub(crate) http1_server: [OnceLock<Arc<ServerOptions>>; 2],
    /// HTTP/2 options.
    pub http2: Http2Options,
    /// Idle connections are closed after this long.
    pub idle_timeout: Option<Duration>,
    /// Connections drain after this long.
    pub max_connection_duration: Option<Duration>,
    /// Connections drain after this many requests; 0 means no limit.
    pub max_requests_per_connection: u32,
    /// Streams end after this long.
    pub max_stream_duration: Option<Duration>,
    /// Streams end after this long without a byte in either direction.
    pub stream_idle_timeout: Option<Duration>,
    /// HTTP/2 streams end if a complete response waits this long for the client's window.
    pub stream_flush_timeout: Option<Duration>,
    /// The request must be complete after this long.
    pub request_timeout: Option<Duration>,
    /// The request's head must be complete after this long.
    pub request_headers_timeout: Option<Duration>,
    /// Time between the two GOAWAY frames of a drain.
    pub drain_timeout: Duration,
    /// Percent by which that time is lengthened at random.
    pub drain_timeout_jitter: f64,
    /// Longest wait for the peer to close after a response that ends the connection.
    pub delayed_close_timeout: Option<Duration>,
    /// Most bytes of a request head.
    pub max_request_headers_bytes: usize,
    /// Most headers of a request.
    pub max_headers_count: usize,
    /// What happens to names with underscores.
    pub underscores: Underscores,
    /// Access logs.
    pub access_logs: Vec<Arc<dyn AccessLog>>,
    /// Hosts may be told of clients that no proxy told of (`add_proxy_protocol_connection_state`).
    pub tells_of_clients: bool,
    /// Take the peer's address for the client's and append it to `x-forwarded-for`.
    pub use_remote_address: bool,
    /// Trusted proxies in front.
    pub xff_num_trusted_hops: usize,
    /// Leave `x-forwarded-for` alone.
    pub skip_xff_append: bool,
    /// Addresses that count as internal.
    pub internal_addresses: Vec<proxy_core::matcher::Cidr>,
    /// Unix sockets count as internal.
    pub internal_unix_sockets: bool,
    /// Leave `x-forwarded-client-cert` as the client sent it (`ALWAYS_FORWARD_ONLY`). In all other modes it is removed
    /// What is said about the certificates of clients.
    pub client_cert: ClientCert,
    /// `via` to append.
    pub via: Option<HeaderValue>,
    /// `server` of responses.
    pub server_name: HeaderValue,
    /// What happens to the upstream's `server`.
    pub server_header: ServerHeaderTransformation,
    /// Scheme to overwrite the client's with.
    pub scheme_overwrite: Option<proxy_core::head::Scheme>,
    /// Tell hosts the scheme of the connection to them, not that of the client.
    pub scheme_match_upstream: bool,
    /// Make an `x-request-id` where there is none.
    pub generate_request_id: bool,
    /// Keep `x-request-id` of external requests.
    pub preserve_external_request_id: bool,
    /// Send `x-request-id` in responses.
    pub always_set_request_id_in_response: bool,
    /// Schemes by the port that the client meant.
    pub forward_proto: ForwardProto,
    /// Append `x-forwarded-port`.
    pub append_x_forwarded_port: bool,
    /// Whether responses to requests that were refused for overload say so.
    pub append_local_overload: bool,
    /// Set `user-agent` and `x-envoy-downstream-service-*` to who this proxy is.
    pub user_agent: Option<UserAgent>,
    /// Forward `expect` and relay 1xx heads.
    pub proxy_100_continue: bool,
    /// Normalise paths (RFC 3986).
    pub normalize_path: bool,
    /// Merge adjacent slashes.
    pub merge_slashes: bool,
    /// What happens to `%2f` and `%5c`.
    pub escaped_slashes: PathWithEscapedSlashesAction,
    /// Which ports are stripped from the authority.
    pub strip_port: StripPort,
    /// Strip a trailing dot from the authority.
    pub strip_trailing_host_dot: bool,
    /// Upgrades that are enabled, lower case.
    pub upgrades: Vec<Upgrade>,
    /// Changes to local replies.
    pub local_replies: LocalReplies,
    /// Keep HTTP/1 connections open after a request that breaks the rules.
    pub stream_error_on_invalid_http_message: bool,
    /// `http.<stat_prefix>`
    pub stats: Cells<HttpStats>,
    /// What stands for a client on this host in `x-forwarded-for`.
    pub host_address: Option<IpAddr>,
    /// `http1`
    pub http1_stats: Cells<Http1Stats>,
    /// Tracing, if requests are traced.
    pub(super) tracing: Option<Tracing>,
    /// What request ids have to do with it.
    pub(super) request_ids: Packing,
    /// `http.<stat_prefix>.tracing`; the names are there in Envoy without tracing too.
    pub tracing_stats: Cells<TracingStats>,
    /// `http2`
    pub http2_stats: Cells<Http2Stats>,
}

/// What downstream speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Codec {
    /// Found by ALPN or the connection preface.
    Auto,
    /// HTTP/1
    Http1,
    /// HTTP/2
    Http2,
}

/// What tells a route configuration of one source from that of another with its name.
fn place_of(name: &str, source: &core::ConfigSource) -> String {
    if let Some(ConfigSourceSpecifier::Ads(_)) = source.config_source_specifier {
        return name.to_owned();
    }
    let source =
        core::ConfigSource { initial_fetch_timeout: None, resource_api_version: 0, ..source.clone() };
    format!("{name}\0{:016x}", xxhash64(&source.encode_to_vec()))
}

/// Where routes come from.
pub enum RouteSource {
    /// Part of this configuration.
    Inline(Arc<RouteTable>),
    /// Delivered under a name.
    Rds {
        /// Name of the route configuration.
        name: Arc<str>,
        /// Its place in the tables of the workers: one for each source, as two may have different routes of a name.
        place: Name,
        /// Where to subscribe.
        source: Box<core::ConfigSource>,
    },
}

/// Which ports are stripped from the authority.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StripPort {
    /// None.
    No,
    /// The listener's own.
    Matching,
    /// Any.
    Any,
}

/// An upgrade that is enabled or disabled.
pub struct Upgrade {
    /// `websocket`, `CONNECT` and so on, in lower case.
    pub kind: String,
    /// Whether it is enabled where the route does not say.
    pub enabled: bool,
    /// Filters in place of the connection manager's, and the options of their router.
    pub filters: Option<(Vec<HttpFilter>, RouterOptions)>,
}

/// Options of the router filter.
#[derive(Clone)]
pub struct RouterOptions {
    /// Count what becomes of requests: response codes and times of clusters, routes and virtual clusters.
    pub dynamic_stats: bool,
    /// Add no `x-envoy-*` headers.
    pub suppress_envoy_headers: bool,
    /// Take the request's own `x-envoy-expected-rq-timeout-ms` for the timeout.
    pub respect_expected_rq_timeout: bool,
    /// Every try has a span of its own.
    pub start_child_span: bool,
    /// Count gRPC requests in the total of the cluster's response codes only.
    pub suppress_grpc_codes: bool,
    /// Headers that must make sense.
    pub strict_check_headers: Vec<StrictHeader>,
    /// Logs of streams to hosts.
    pub upstream_logs: Option<Arc<UpstreamLogs>>,
    /// Filters of streams to hosts of clusters that have none of their own.
    pub upstream_filters: Option<UpstreamFilters>,
}

/// HTTP/1 options of one side.
#[derive(Clone, Debug, Default)]
pub struct Http1Options {
    /// Accept HTTP/1.0.
    pub accept_http_10: bool,
    /// `Host` of HTTP/1.0 requests without one.
    pub default_host_for_http_10: String,
    /// How header names are written, and whether those of the client are kept.
    pub header_key_format: HeaderKeyFormat,
    /// Pass trailers on.
    pub enable_trailers: bool,
    /// Let `transfer-encoding: chunked` win over `content-length`.
    pub allow_chunked_length: bool,
    /// Accept methods that HTTP does not define.
    pub allow_custom_methods: bool,
    /// Upgrades that are taken out of requests.
    pub ignored_upgrades: Vec<StringMatcher>,
}

/// HTTP/2 options of one side.
#[derive(Clone, Debug)]
pub struct Http2Options {
    /// `SETTINGS_HEADER_TABLE_SIZE`
    pub hpack_table_size: u32,
    /// `SETTINGS_MAX_CONCURRENT_STREAMS`
    pub max_concurrent_streams: u32,
    /// `SETTINGS_INITIAL_WINDOW_SIZE`
    pub initial_stream_window: u32,
    /// Window of the connection.
    pub initial_connection_window: u32,
    /// Accept extended CONNECT (RFC 8441).
    pub allow_connect: bool,
    /// DATA frames without payload in a row before the connection is closed.
    pub max_empty_frames: u32,
    /// PRIORITY frames per stream before the connection is closed.
    pub max_priority_frames_per_stream: u32,
    /// WINDOW_UPDATE frames per DATA frame sent before the connection is closed.
    pub max_window_updates_per_data: u32,
    /// PING, SETTINGS and RST_STREAM answers waiting to be sent before the connection is closed.
    pub max_outbound_control_frames: u32,
    /// PINGs that check the connection.
    pub keepalive: Option<Schedule>,
    /// What fields may not be, if configuration forbids more than the protocol.
    pub field_rules: Option<FieldRules>,
    /// Further parameters of SETTINGS.
    pub settings: Option<Arc<CustomSettings>>,
    /// Octets of METADATA that a stream may carry; `None` where there is none (`allow_metadata`).
    pub max_metadata_size: Option<usize>,
}

impl Default for Http2Options {
    fn default() -> Self {
        Self {
            hpack_table_size: 4096,
            max_concurrent_streams: 1024,
            initial_stream_window: 16 * 1024 * 1024,
            initial_connection_window: 24 * 1024 * 1024,
            allow_connect: false,
            max_empty_frames: 1,
            max_priority_frames_per_stream: 100,
            max_window_updates_per_data: 10,
            max_outbound_control_frames: 1000,
            keepalive: None,
            field_rules: None,
            settings: None,
            max_metadata_size: None,
        }
    }
}

impl Http1Options {
    /// Takes the options of `proto`.
    pub fn build(proto: Option<&core::Http1ProtocolOptions>, cx: &mut BuildCx<'_>) -> Result<Self, Rejected> {
        let Some(proto) = proto else { return Ok(Self::default()) };
        cx.reject_if(
            proto.allow_absolute_url == Some(false),
            "allow_absolute_url",
            "absolute URLs are always understood",
        )?;
        Ok(Self {
            accept_http_10: proto.accept_http_10,
            default_host_for_http_10: proto.default_host_for_http_10.clone(),
            header_key_format: HeaderKeyFormat::build(proto, cx)?,
            enable_trailers: proto.enable_trailers,
            allow_chunked_length: proto.allow_chunked_length,
            allow_custom_methods: proto.allow_custom_methods,
            ignored_upgrades: cx.each(
                "ignore_http_11_upgrade",
                &proto.ignore_http_11_upgrade,
                StringMatcher::build,
            )?,
        })
    }
}

impl Http2Options {
    /// Takes the options of `proto`.
    pub fn build(
        proto: Option<&core::Http2ProtocolOptions>,
        underscores: Underscores,
        cx: &mut BuildCx<'_>,
    ) -> Result<Self, Rejected> {
        let default = Self::default();
        let none = core::Http2ProtocolOptions::default();
        let proto = proto.unwrap_or(&none);
        let keepalive = proto.connection_keepalive.as_ref().and_then(|keepalive| {
            Some(Schedule {
                interval: Some(keepalive.interval.as_ref().and_then(duration)?),
                jitter: keepalive.interval_jitter.map_or(15.0, |percent| percent.value),
                timeout: keepalive.timeout.as_ref().and_then(duration).unwrap_or(KEEPALIVE_TIMEOUT),
            })
        });
        let rules = FieldRules {
            underscores,
            ascii_only: proto.disallow_obs_text.unwrap_or(false),
            max_field: proto.max_header_field_size_kb.map_or(usize::MAX, |kb| kb as usize * 1024),
        };
        Ok(Self {
            hpack_table_size: proto.hpack_table_size.unwrap_or(default.hpack_table_size),
            max_concurrent_streams: proto.max_concurrent_streams.unwrap_or(default.max_concurrent_streams),
            initial_stream_window: proto.initial_stream_window_size.unwrap_or(default.initial_stream_window),
            initial_connection_window: proto
                .initial_connection_window_size
                .unwrap_or(default.initial_connection_window),
            allow_connect: proto.allow_connect,
            max_empty_frames: proto
                .max_consecutive_inbound_frames_with_empty_payload
                .unwrap_or(default.max_empty_frames),
            max_priority_frames_per_stream: proto
                .max_inbound_priority_frames_per_stream
                .unwrap_or(default.max_priority_frames_per_stream),
            max_window_updates_per_data: proto
                .max_inbound_window_update_frames_per_data_frame_sent
                .unwrap_or(default.max_window_updates_per_data),
            max_outbound_control_frames: proto
                .max_outbound_control_frames
                .unwrap_or(default.max_outbound_control_frames),
            keepalive,
            field_rules: (rules != FieldRules::NONE).then_some(rules),
            settings: CustomSettings::build(proto, Side::Server, cx)?,
            max_metadata_size: max_metadata_size(proto),
        })
    }
}

fn underscores_of(common: &core::HttpProtocolOptions) -> Underscores {
    match common.headers_with_underscores_action() {
        HeadersWithUnderscoresAction::Allow => Underscores::Allow,
        HeadersWithUnderscoresAction::RejectRequest => Underscores::Reject,
        HeadersWithUnderscoresAction::DropHeader => Underscores::Drop,
    }
}

impl StripPort {
    fn from_proto(proto: &proto::HttpConnectionManager) -> Self {
        match (&proto.strip_port_mode, proto.strip_matching_host_port) {
            (Some(StripPortMode::StripAnyHostPort(true)), _) => Self::Any,
            (_, true) => Self::Matching,
            _ => Self::No,
        }
    }
}

fn build_codec(proto: &proto::HttpConnectionManager, cx: &mut BuildCx<'_>) -> Result<Codec, Rejected> {
    match CodecType::try_from(proto.codec_type) {
        Ok(CodecType::Auto) => Ok(Codec::Auto),
        Ok(CodecType::Http1) => Ok(Codec::Http1),
        Ok(CodecType::Http2) => Ok(Codec::Http2),
        Ok(CodecType::Http3) | Err(_) => Err(cx.at("codec_type", |cx| cx.reject("HTTP/3 is not available"))),
    }
}

impl ConnectionManager {
    /// Whether clients come here themselves: nothing in front of the proxy is believed.
    pub fn trusts_nobody(&self) -> bool {
        self.use_remote_address && self.xff_num_trusted_hops == 0
    }

    /// The cluster without which its tracer is not to be configured, and what is said then.
    pub(crate) fn required_cluster(&self) -> Option<(&str, String)> {
        self.tracing.as_ref()?.tracer.as_ref()?.required_cluster()
    }

    /// Builds the configuration; what follows from the listener is added per connection.
    pub fn build(proto: &proto::HttpConnectionManager, cx: &mut BuildCx<'_>) -> Result<Self, Rejected> {
        let outer = std::mem::replace(&mut cx.stat_prefix, format!("http.{}.", proto.stat_prefix));
        let built = Self::build_here(proto, cx);
        cx.stat_prefix = outer;
        built
    }

    /// How large the head of a request may be.
    pub(crate) fn head_limits(&self) -> HeadLimits {
        HeadLimits { fields: self.max_headers_count, bytes: self.max_request_headers_bytes }
    }

    fn build_here(proto: &proto::HttpConnectionManager, cx: &mut BuildCx<'_>) -> Result<Self, Rejected> {
        let common = proto.common_http_protocol_options.unwrap_or_default();
        let codec = build_codec(proto, cx);
        let routes = Self::build_routes(proto, cx);
        let chain = build_chain("http_filters", &proto.http_filters, Place::Downstream, build_router, cx);
        let http1 = cx
            .at("http_protocol_options", |cx| Http1Options::build(proto.http_protocol_options.as_ref(), cx));
        let upgrades = Self::build_upgrades(proto, cx);
        let access_logs = build_access_logs(&proto.access_log, cx);
        let local_replies =
            cx.at("local_reply_config", |cx| LocalReplies::build(proto.local_reply_config.as_ref(), cx));
        let server_name = cx.at("server_name", |cx| build_server_name(&proto.server_name, cx));
        let via = build_via(&proto.via, cx);
        let client_cert = ClientCert::build(proto, cx);
        let scheme_overwrite = build_scheme(proto.scheme_header_transformation.as_ref(), cx);
        let user_agent = proto.add_user_agent.unwrap_or(false).then(|| UserAgent::build(cx)).transpose();
        let request_id = build_request_id(proto.request_id_extension.as_ref(), cx);
        let tracing = Tracing::build(proto.tracing.as_ref(), cx);
        let internal = proto.internal_address_config.as_ref();
        let internal_addresses = cx.at("internal_address_config", |cx| {
            cx.each("cidr_ranges", internal.map_or(&[][..], |internal| &internal.cidr_ranges), |range, cx| {
                proxy_core::matcher::Cidr::build(range, cx)
            })
        });
        let scope = cx.env.stats.scope(&format!("http.{}", proto.stat_prefix));
        let underscores = underscores_of(&common);
        let http2 = cx.at("http2_protocol_options", |cx| {
            Http2Options::build(proto.http2_protocol_options.as_ref(), underscores, cx)
        });
        let (filters, router) = chain?;
        let stream_idle_timeout =
            timeout_or(proto.stream_idle_timeout.as_ref(), Some(Duration::from_secs(300)));
        Ok(Self {
            http1_server: Default::default(),
            codec: codec?,
            stat_prefix: proto.stat_prefix.clone(),
            routes: routes?,
            filters,
            router,
            http1: http1?,
            http2: http2?,
            idle_timeout: timeout_or(common.idle_timeout.as_ref(), Some(Duration::from_secs(3600))),
            max_connection_duration: timeout_or(common.max_connection_duration.as_ref(), None),
            max_requests_per_connection: common.max_requests_per_connection.unwrap_or(0),
            max_stream_duration: timeout_or(common.max_stream_duration.as_ref(), None),
            stream_idle_timeout,
            stream_flush_timeout: timeout_or(proto.stream_flush_timeout.as_ref(), stream_idle_timeout),
            request_timeout: timeout_or(proto.request_timeout.as_ref(), None),
            request_headers_timeout: timeout_or(proto.request_headers_timeout.as_ref(), None),
            drain_timeout: proto.drain_timeout.as_ref().and_then(duration).unwrap_or(Duration::from_secs(5)),
            drain_timeout_jitter: proto.drain_timeout_jitter.as_ref().map_or(0.0, |jitter| jitter.value),
            delayed_close_timeout: timeout_or(
                proto.delayed_close_timeout.as_ref(),
                Some(Duration::from_secs(1)),
            ),
            max_request_headers_bytes: proto.max_request_headers_kb.unwrap_or(60) as usize * 1024,
            max_headers_count: common.max_headers_count.unwrap_or(100).min(MOST_FIELDS) as usize,
            underscores,
            access_logs: access_logs?,
            tells_of_clients: proto.add_proxy_protocol_connection_state.unwrap_or(true),
            use_remote_address: proto.use_remote_address.unwrap_or(false),
            xff_num_trusted_hops: proto.xff_num_trusted_hops as usize,
            skip_xff_append: proto.skip_xff_append,
            internal_addresses: internal_addresses?,
            internal_unix_sockets: internal.is_some_and(|internal| internal.unix_sockets),
            client_cert: client_cert?,
            via: via?,
            server_name: server_name?,
            host_address: cx.env.node.address,
            server_header: ServerHeaderTransformation::try_from(proto.server_header_transformation)
                .unwrap_or(ServerHeaderTransformation::Overwrite),
            scheme_overwrite: scheme_overwrite?,
            scheme_match_upstream: proto.scheme_header_transformation.as_ref().is_some_and(matches_upstream),
            generate_request_id: proto.generate_request_id.unwrap_or(true),
            preserve_external_request_id: proto.preserve_external_request_id,
            always_set_request_id_in_response: proto.always_set_request_id_in_response,
            forward_proto: ForwardProto::build(proto.forward_proto_config.as_ref()),
            append_x_forwarded_port: proto.append_x_forwarded_port,
            append_local_overload: proto.append_local_overload,
            user_agent: user_agent?,
            proxy_100_continue: proto.proxy_100_continue,
            normalize_path: proto
                .normalize_path
                .unwrap_or_else(|| cx.env.runtime.flag("http_connection_manager.normalize_path", false)),
            merge_slashes: proto.merge_slashes,
            escaped_slashes: PathWithEscapedSlashesAction::try_from(proto.path_with_escaped_slashes_action)
                .unwrap_or(PathWithEscapedSlashesAction::ImplementationSpecificDefault),
            strip_port: StripPort::from_proto(proto),
            strip_trailing_host_dot: proto.strip_trailing_host_dot,
            upgrades: upgrades?,
            local_replies: local_replies?,
            stream_error_on_invalid_http_message: forgives(proto),
            stats: scope.cells(),
            http1_stats: cx.env.stats.scope("http1").cells(),
            tracing: tracing?,
            request_ids: request_id?,
            tracing_stats: scope.child("tracing").cells(),
            http2_stats: cx.env.stats.scope("http2").cells(),
        })
    }

    fn build_upgrades(
        proto: &proto::HttpConnectionManager,
        cx: &mut BuildCx<'_>,
    ) -> Result<Vec<Upgrade>, Rejected> {
        cx.each("upgrade_configs", &proto.upgrade_configs, |upgrade, cx| {
            let filters = match upgrade.filters.is_empty() {
                true => None,
                false => Some(build_chain("filters", &upgrade.filters, Place::Downstream, build_router, cx)?),
            };
            Ok(Upgrade {
                kind: upgrade.upgrade_type.to_ascii_lowercase(),
                enabled: upgrade.enabled.unwrap_or(true),
                filters,
            })
        })
    }

    fn build_routes(
        proto: &proto::HttpConnectionManager,
        cx: &mut BuildCx<'_>,
    ) -> Result<RouteSource, Rejected> {
        match &proto.route_specifier {
            Some(RouteSpecifier::RouteConfig(config)) => {
                cx.at("route_config", |cx| RouteTable::build(config, cx).map(RouteSource::Inline))
            }
            Some(RouteSpecifier::Rds(rds)) => cx.at("rds", |cx| {
                let Some(source) = &rds.config_source else {
                    return Err(cx.reject("config_source: value is required"));
                };
                if rds.route_config_name.is_empty() {
                    return Err(cx.reject("route_config_name: an RDS name is required"));
                }
                Ok(RouteSource::Rds {
                    name: rds.route_config_name.as_str().into(),
                    place: cx.env.routes.intern(&place_of(&rds.route_config_name, source)),
                    source: Box::new(source.clone()),
                })
            }),
            Some(RouteSpecifier::ScopedRoutes(_)) => {
                Err(cx.at("scoped_routes", |cx| cx.reject("scoped routes are not available")))
            }
            None => Err(cx.reject("one of route_config, rds, scoped_routes is required")),
        }
    }
}

#[allow(deprecated, reason = "start_child_span is still sent")]
fn build_router(payload: &[u8], cx: &mut BuildCx<'_>) -> Result<RouterOptions, Rejected> {
    let proto = Router::decode(payload).map_err(|error| cx.reject(format!("cannot be decoded: {error}")))?;
    Ok(RouterOptions {
        suppress_envoy_headers: proto.suppress_envoy_headers,
        start_child_span: proto.start_child_span,
        dynamic_stats: proto.dynamic_stats.unwrap_or(true),
        respect_expected_rq_timeout: proto.respect_expected_rq_timeout,
        suppress_grpc_codes: proto.suppress_grpc_request_failure_code_stats,
        strict_check_headers: proto
            .strict_check_headers
            .iter()
            .filter_map(|name| StrictHeader::named(name))
            .collect(),
        upstream_logs: UpstreamLogs::build(&proto, cx)?,
        upstream_filters: UpstreamFilters::build("upstream_http_filters", &proto.upstream_http_filters, cx)?,
    })
}

/// Who this proxy is, as it tells its upstreams (`add_user_agent`).
#[derive(Clone, Debug)]
pub struct UserAgent {
    /// `node.cluster`
    pub cluster: HeaderValue,
    /// `node.id`, unless it is empty.
    pub node: Option<HeaderValue>,
}

impl UserAgent {
    fn build(cx: &mut BuildCx<'_>) -> Result<Self, Rejected> {
        let value = |text: &str| HeaderValue::from_str(text).ok();
        let node = &cx.env.node;
        let built = value(&node.cluster).zip(value(&node.id)).map(|(cluster, id)| {
            let node = Some(id).filter(|id| !id.is_empty());
            Self { cluster, node }
        });
        built.ok_or_else(|| {
            cx.at("add_user_agent", |cx| {
                cx.reject("the id or cluster of the node is not a valid header value")
            })
        })
    }
}

fn build_server_name(name: &str, cx: &mut BuildCx<'_>) -> Result<HeaderValue, Rejected> {
    match name {
        "" => Ok(HeaderValue::from_static("envoy")),
        name => HeaderValue::from_str(name).map_err(|_| cx.reject("is not a valid header value")),
    }
}

/// Request IDs are random UUIDs, as is the only extension of Envoy.
fn build_request_id(
    proto: Option<&proto::RequestIdExtension>,
    cx: &mut BuildCx<'_>,
) -> Result<Packing, Rejected> {
    const UUID: &str = "envoy.extensions.request_id.uuid.v3.UuidRequestIdConfig";
    let usual = Packing { packs: true, decides: true };
    let Some(any) = proto.and_then(|proto| proto.typed_config.as_ref()) else { return Ok(usual) };
    cx.at("request_id_extension", |cx| {
        cx.at("typed_config", |cx| {
            let (name, payload) = cx.unpack(any)?;
            if name != UUID {
                return Err(cx.reject(format!("request ID extension '{name}' is not available")));
            }
            let UuidRequestIdConfig { pack_trace_reason, use_request_id_for_trace_sampling } =
                decode(&payload, cx)?;
            Ok(Packing {
                packs: pack_trace_reason.unwrap_or(true),
                decides: use_request_id_for_trace_sampling.unwrap_or(true),
            })
        })
    })
}

fn build_via(via: &str, cx: &mut BuildCx<'_>) -> Result<Option<HeaderValue>, Rejected> {
    if via.is_empty() {
        return Ok(None);
    }
    let value = HeaderValue::from_str(via).map(Some);
    value.map_err(|_| cx.at("via", |cx| cx.reject("is not a valid header value")))
}

/// Whether an HTTP/1 connection outlives a request that breaks a rule.
fn forgives(proto: &proto::HttpConnectionManager) -> bool {
    let http1 = proto.http_protocol_options.as_ref();
    http1
        .and_then(|http1| http1.override_stream_error_on_invalid_http_message)
        .or(proto.stream_error_on_invalid_http_message)
        .unwrap_or(false)
}

fn matches_upstream(scheme: &core::SchemeHeaderTransformation) -> bool {
    scheme.match_upstream
}

fn build_scheme(
    proto: Option<&core::SchemeHeaderTransformation>,
    cx: &mut BuildCx<'_>,
) -> Result<Option<proxy_core::head::Scheme>, Rejected> {
    use core::scheme_header_transformation::Transformation;
    match proto.and_then(|proto| proto.transformation.as_ref()) {
        None => Ok(None),
        Some(Transformation::SchemeToOverwrite(scheme)) => match scheme.as_str() {
            "http" => Ok(Some(proxy_core::head::Scheme::Http)),
            "https" => Ok(Some(proxy_core::head::Scheme::Https)),
            other => Err(cx.reject(format!(
                "scheme_header_transformation.scheme_to_overwrite: '{other}' is not http or https"
            ))),
        },
    }
}
