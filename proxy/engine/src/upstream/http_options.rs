//! What HTTP to speak to the hosts of a cluster, and within which limits.
//!
//! Source: `envoy/extensions/upstreams/http/v3/http_protocol_options.proto`, `envoy/config/core/v3/protocol.proto`, and
//! the older fields of `Cluster` that say the same.

use std::fmt;
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant};

use prost_types::Any;
use proxy_core::config::{BuildCx, Rejected, duration, timeout_or};
use proxy_core::extension::{decode, message_name};
use proxy_core::head::{MOST_FIELDS, Protocol};
use proxy_core::http_chain::{HttpFilter, Place, build_chain};
use proxy_core::matcher::ResponsePredicate;
use proxy_core::retry::RetryPolicy;
use xds_api::envoy::config::cluster::v3 as cluster;
use xds_api::envoy::config::core::v3 as core;
use xds_api::envoy::extensions::filters::network::http_connection_manager::v3::HttpFilter as HttpFilterProto;
use xds_api::envoy::extensions::upstreams::http::v3 as proto;
use xds_api::envoy::extensions::upstreams::http::v3::http_protocol_options as options_proto;

use super::key_format::HeaderKeyFormat;
use super::mirror::MirrorPolicy;
use super::transport_options::NamesOfRequests;
use crate::codec::h2_guard::Side;
use crate::codec::h2_keepalive::Schedule;
use crate::codec::h2_settings::{CustomSettings, max_metadata_size};

/// Which HTTP the hosts speak.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UpstreamProtocol {
    /// HTTP/1.1
    Http1,
    /// HTTP/2 with prior knowledge.
    Http2,
    /// Whatever the downstream request came in.
    UseDownstream,
    /// What the TLS handshake of each connection agrees on (ALPN).
    Alpn,
}

impl UpstreamProtocol {
    /// What a request that came in `downstream` has to be carried by.
    pub(crate) fn carriage(self, downstream: Protocol) -> Carriage {
        match self {
            Self::Http1 => Carriage::Http1,
            Self::Http2 => Carriage::Http2,
            Self::UseDownstream if downstream == Protocol::Http2 => Carriage::Http2,
            Self::UseDownstream => Carriage::Http1,
            Self::Alpn => Carriage::Either,
        }
    }
}

/// What a request has to be carried by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Carriage {
    /// A connection of HTTP/1.
    Http1,
    /// A connection of HTTP/2.
    Http2,
    /// What there is; the handshake of a new connection says which of them it is.
    Either,
}

/// How HTTP is spoken with the hosts of a cluster.
#[derive(Clone, Debug, PartialEq)]
pub struct UpstreamHttp {
    /// Which HTTP.
    pub protocol: UpstreamProtocol,
    /// How long a connection may be idle; `None` for ever.
    pub idle_timeout: Option<Duration>,
    /// How long a connection may live before it takes no more requests.
    pub max_connection_duration: Option<Duration>,
    /// Percent by which that duration is lengthened at random.
    pub max_connection_duration_jitter: f64,
    /// How long one request and its response may take.
    pub max_stream_duration: Option<Duration>,
    /// Requests on one connection; `None` without limit.
    pub max_requests_per_connection: Option<u32>,
    /// Fields in a response head or trailers.
    pub max_headers_count: u32,
    /// Size of a response head in KiB, if it is said.
    pub max_response_headers_kb: Option<u32>,
    /// HTTP/1.
    pub http1: Http1Options,
    /// HTTP/2.
    pub http2: Http2Options,
    /// What TLS servers are asked for and held to is taken from requests.
    pub names: Option<NamesOfRequests>,
    /// Filters of streams to the hosts.
    pub filters: Option<UpstreamFilters>,
    /// When requests are sent again, whatever routes say.
    pub retry: Option<Arc<RetryPolicy>>,
    /// Who gets copies of requests, in place of what routes say.
    pub mirrors: Arc<[MirrorPolicy]>,
    /// Which answers are failures for outlier detection, where that is not left to their status.
    pub errors: Option<FailedAnswers>,
}

/// Which answers are failures (`error_matcher`).
#[derive(Clone, Debug)]
pub struct FailedAnswers(pub Arc<ResponsePredicate>);

impl PartialEq for FailedAnswers {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

/// The filters of streams to hosts, in order, the codec at their end left out.
#[derive(Clone)]
pub struct UpstreamFilters(pub Arc<[HttpFilter]>);

impl UpstreamFilters {
    /// The filters that `protos` ask for, if any.
    pub fn build(
        field: &'static str,
        protos: &[HttpFilterProto],
        cx: &mut BuildCx<'_>,
    ) -> Result<Option<Self>, Rejected> {
        if protos.is_empty() {
            return Ok(None);
        }
        let (filters, ()) = build_chain(field, protos, Place::Upstream, |_, _| Ok(()), cx)?;
        Ok(Some(Self(filters.into())))
    }
}

impl fmt::Debug for UpstreamFilters {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.0.iter().map(|filter| &filter.name)).finish()
    }
}

impl PartialEq for UpstreamFilters {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

/// HTTP/1 towards hosts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Http1Options {
    /// How names of header fields are written.
    pub header_key_format: HeaderKeyFormat,
    /// Pass trailers on, both ways.
    pub enable_trailers: bool,
    /// Accept responses with both `content-length` and `transfer-encoding: chunked`, dropping the former.
    pub allow_chunked_length: bool,
    /// Send `GET http://host/path` instead of `GET /path`.
    pub send_fully_qualified_url: bool,
}

/// HTTP/2 towards hosts.
#[derive(Clone, Debug, PartialEq)]
pub struct Http2Options {
    /// Size of the table that hosts may use to compress response heads.
    pub hpack_table_size: u32,
    /// Streams on one connection, if the host allows as many.
    pub max_concurrent_streams: u32,
    /// Receive window of a stream, in bytes.
    pub initial_stream_window: u32,
    /// Receive window of a connection, in bytes.
    pub initial_connection_window: u32,
    /// PING, SETTINGS and RST_STREAM frames waiting to be sent.
    pub max_outbound_control_frames: u32,
    /// Frames without payload and END_STREAM in a row.
    pub max_consecutive_inbound_frames_with_empty_payload: u32,
    /// PRIORITY frames for each stream.
    pub max_inbound_priority_frames_per_stream: u32,
    /// WINDOW_UPDATE frames for each DATA frame sent.
    pub max_inbound_window_update_frames_per_data_frame_sent: u32,
    /// PINGs that check the connection.
    pub keepalive: Option<Box<Http2Keepalive>>,
    /// Further parameters of SETTINGS.
    pub settings: Option<Arc<CustomSettings>>,
    /// Octets of METADATA that a stream may carry; `None` where there is none (`allow_metadata`).
    pub max_metadata_size: Option<usize>,
}

/// PINGs that check a connection.
#[derive(Clone, Debug, PartialEq)]
pub struct Http2Keepalive {
    /// When a PING is sent, and how long its answer may take before the connection is closed.
    pub schedule: Schedule,
    /// A PING precedes a new stream on a connection that was idle so long; `None` never.
    pub connection_idle_interval: Option<Duration>,
}

impl Default for Http2Options {
    fn default() -> Self {
        Self {
            hpack_table_size: 4096,
            max_concurrent_streams: 1024,
            initial_stream_window: 16 * 1024 * 1024,
            initial_connection_window: 24 * 1024 * 1024,
            max_outbound_control_frames: 1_000,
            max_consecutive_inbound_frames_with_empty_payload: 1,
            max_inbound_priority_frames_per_stream: 100,
            max_inbound_window_update_frames_per_data_frame_sent: 10,
            keepalive: None,
            settings: None,
            max_metadata_size: None,
        }
    }
}

impl Default for UpstreamHttp {
    fn default() -> Self {
        Self {
            protocol: UpstreamProtocol::Http1,
            idle_timeout: Some(Duration::from_secs(3600)),
            max_connection_duration: None,
            max_connection_duration_jitter: 0.0,
            max_stream_duration: None,
            max_requests_per_connection: None,
            max_headers_count: 100,
            max_response_headers_kb: None,
            http1: Http1Options::default(),
            http2: Http2Options::default(),
            names: None,
            filters: None,
            retry: None,
            mirrors: Arc::default(),
            errors: None,
        }
    }
}

/// Most clusters of a mesh say nothing, or only HTTP/2; they share one object each.
static HTTP1: LazyLock<Arc<UpstreamHttp>> = LazyLock::new(Arc::default);
static HTTP2: LazyLock<Arc<UpstreamHttp>> =
    LazyLock::new(|| Arc::new(UpstreamHttp { protocol: UpstreamProtocol::Http2, ..UpstreamHttp::default() }));

/// Full name of the message in `typed_extension_protocol_options`.
const MESSAGE: &str = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions";
const TCP_MESSAGE: &str = "envoy.extensions.upstreams.tcp.v3.TcpProtocolOptions";

impl UpstreamHttp {
    /// When a connection that is made at `now` takes no more requests: `max_connection_duration`, lengthened at random
    /// by its jitter.
    pub(super) fn expiry(&self, now: Instant) -> Option<Instant> {
        let longer = 1.0 + self.max_connection_duration_jitter / 100.0 * fastrand::f64();
        self.max_connection_duration.map(|duration| now + duration.mul_f64(longer))
    }

    /// Reads the typed options of `proto`, or its older fields where there are none.
    #[allow(deprecated)]
    pub(super) fn build(proto: &cluster::Cluster, cx: &mut BuildCx<'_>) -> Result<Arc<Self>, Rejected> {
        let typed = Self::typed(proto, cx)?;
        let mut built = match typed {
            Some(built) => built,
            None => Self::legacy(proto, cx)?,
        };
        let requests = proto.max_requests_per_connection;
        built.max_requests_per_connection =
            built.max_requests_per_connection.or(requests).filter(|requests| *requests > 0);
        for shared in [&HTTP1, &HTTP2] {
            let shared: &Arc<Self> = shared;
            if **shared == built {
                return Ok(shared.clone());
            }
        }
        Ok(Arc::new(built))
    }

    fn typed(proto: &cluster::Cluster, cx: &mut BuildCx<'_>) -> Result<Option<Self>, Rejected> {
        let mut built = None;
        for (name, any) in &proto.typed_extension_protocol_options {
            cx.at_key("typed_extension_protocol_options", name, |cx| {
                match message_name(&any.type_url) {
                    MESSAGE => built = Some(Self::from_any(any, cx)?),
                    TCP_MESSAGE => {}
                    other => return Err(cx.reject(format!("unknown protocol options '{other}'"))),
                }
                Ok(())
            })?;
        }
        Ok(built)
    }

    fn from_any(any: &Any, cx: &mut BuildCx<'_>) -> Result<Self, Rejected> {
        use options_proto::UpstreamProtocolOptions as Kind;
        use options_proto::explicit_http_config::ProtocolConfig;
        let proto: proto::HttpProtocolOptions = decode(&any.value, cx)?;
        let mut built = Self::default();
        let common = cx.at("common_http_protocol_options", |cx| {
            built.common(proto.common_http_protocol_options.as_ref(), cx)
        });
        let protocol = match &proto.upstream_protocol_options {
            None => Err(cx.reject("one of explicit_http_config, use_downstream_protocol_config is required")),
            Some(Kind::ExplicitHttpConfig(explicit)) => {
                cx.at("explicit_http_config", |cx| match &explicit.protocol_config {
                    Some(ProtocolConfig::HttpProtocolOptions(http1)) => built.http1(Some(http1), cx),
                    Some(ProtocolConfig::Http2ProtocolOptions(http2)) => {
                        built.protocol = UpstreamProtocol::Http2;
                        built.http2(Some(http2), cx)
                    }
                    Some(ProtocolConfig::Http3ProtocolOptions(_)) => Err(no_http3(cx)),
                    None => Err(cx.reject("a protocol must be chosen")),
                })
            }
            Some(Kind::UseDownstreamProtocolConfig(both)) => cx.at("use_downstream_protocol_config", |cx| {
                built.protocol = UpstreamProtocol::UseDownstream;
                if both.http3_protocol_options.is_some() {
                    return Err(no_http3(cx));
                }
                built.http1(both.http_protocol_options.as_ref(), cx)?;
                built.http2(both.http2_protocol_options.as_ref(), cx)
            }),
            Some(Kind::AutoConfig(auto)) => cx.at("auto_config", |cx| {
                built.protocol = UpstreamProtocol::Alpn;
                if auto.http3_protocol_options.is_some() {
                    return Err(no_http3(cx));
                }
                let cache = auto.alternate_protocols_cache_options.is_some();
                cx.reject_if(cache, "alternate_protocols_cache_options", "HTTP/3 is not available")?;
                built.http1(auto.http_protocol_options.as_ref(), cx)?;
                built.http2(auto.http2_protocol_options.as_ref(), cx)
            }),
        };
        let names = cx.at("upstream_http_protocol_options", |cx| {
            NamesOfRequests::build(proto.upstream_http_protocol_options.as_ref(), cx)
        });
        let filters = UpstreamFilters::build("http_filters", &proto.http_filters, cx);
        let retry = match &proto.retry_policy {
            None => Ok(None),
            Some(proto) => {
                cx.at("retry_policy", |cx| RetryPolicy::build(proto, cx)).map(|policy| Some(Arc::new(policy)))
            }
        };
        let mirrors = MirrorPolicy::build_all(&proto.request_mirror_policies, cx);
        let errors = proto.outlier_detection.as_ref().and_then(|detection| detection.error_matcher.as_ref());
        let errors = errors.map(|matcher| {
            cx.at("outlier_detection", |cx| {
                cx.at("error_matcher", |cx| ResponsePredicate::build(matcher, cx))
            })
        });
        common?;
        protocol?;
        (built.filters, built.names, built.retry) = (filters?, names?, retry?);
        built.errors = errors.transpose()?.map(|errors| FailedAnswers(Arc::new(errors)));
        built.mirrors = mirrors?;
        Ok(built)
    }

    #[allow(deprecated)]
    fn legacy(proto: &cluster::Cluster, cx: &mut BuildCx<'_>) -> Result<Self, Rejected> {
        use cluster::cluster::ClusterProtocolSelection::UseDownstreamProtocol;
        let names = cx.at("upstream_http_protocol_options", |cx| {
            NamesOfRequests::build(proto.upstream_http_protocol_options.as_ref(), cx)
        })?;
        let mut built = Self { names, ..Self::default() };
        let use_downstream = proto.protocol_selection == UseDownstreamProtocol as i32;
        let (http1, http2) = (proto.http_protocol_options.as_ref(), proto.http2_protocol_options.as_ref());
        if use_downstream {
            built.protocol = UpstreamProtocol::UseDownstream;
        } else if http2.is_some() {
            built.protocol = UpstreamProtocol::Http2;
            if http1.is_some() {
                return Err(cx.reject(
                    "cluster: Both HTTP1 and HTTP2 options may only be configured with non-default \
                     'protocol_selection' values",
                ));
            }
        }
        cx.at("common_http_protocol_options", |cx| {
            built.common(proto.common_http_protocol_options.as_ref(), cx)
        })?;
        built.http1(http1, cx)?;
        built.http2(http2, cx)?;
        Ok(built)
    }

    /// Bytes that the head of a response may have; where nothing is said, HTTP/1 lets a host send more, as in Envoy.
    pub fn max_response_head(&self, protocol: Protocol) -> u32 {
        let default = match protocol {
            Protocol::Http10 | Protocol::Http11 => 80,
            Protocol::Http2 => 60,
        };
        self.max_response_headers_kb.unwrap_or(default).saturating_mul(1024)
    }

    fn common(
        &mut self,
        proto: Option<&core::HttpProtocolOptions>,
        cx: &mut BuildCx<'_>,
    ) -> Result<(), Rejected> {
        let Some(proto) = proto else { return Ok(()) };
        self.idle_timeout = timeout_or(proto.idle_timeout.as_ref(), self.idle_timeout);
        self.max_connection_duration = timeout_or(proto.max_connection_duration.as_ref(), None);
        self.max_connection_duration_jitter =
            proto.max_connection_duration_jitter.map_or(0.0, |percent| percent.value);
        self.max_stream_duration = timeout_or(proto.max_stream_duration.as_ref(), None);
        self.max_requests_per_connection = proto.max_requests_per_connection;
        self.max_headers_count = proto.max_headers_count.unwrap_or(self.max_headers_count).min(MOST_FIELDS);
        self.max_response_headers_kb = proto.max_response_headers_kb.or(self.max_response_headers_kb);
        if self.max_headers_count == 0 {
            return Err(cx.at("max_headers_count", |cx| cx.reject("must be at least 1")));
        }
        Ok(())
    }

    fn http1(
        &mut self,
        proto: Option<&core::Http1ProtocolOptions>,
        cx: &mut BuildCx<'_>,
    ) -> Result<(), Rejected> {
        let Some(proto) = proto else { return Ok(()) };
        self.http1 = cx.at("http_protocol_options", |cx| Http1Options::build(proto, cx))?;
        Ok(())
    }

    fn http2(
        &mut self,
        proto: Option<&core::Http2ProtocolOptions>,
        cx: &mut BuildCx<'_>,
    ) -> Result<(), Rejected> {
        let Some(proto) = proto else { return Ok(()) };
        self.http2 = cx.at("http2_protocol_options", |cx| Http2Options::build(proto, cx))?;
        Ok(())
    }
}

fn no_http3(cx: &mut BuildCx<'_>) -> Rejected {
    cx.at("http3_protocol_options", |cx| cx.reject("HTTP/3 is not available"))
}

impl Http1Options {
    fn build(proto: &core::Http1ProtocolOptions, cx: &mut BuildCx<'_>) -> Result<Self, Rejected> {
        Ok(Self {
            header_key_format: HeaderKeyFormat::build(proto, cx)?,
            enable_trailers: proto.enable_trailers,
            allow_chunked_length: proto.allow_chunked_length,
            send_fully_qualified_url: proto.send_fully_qualified_url,
        })
    }
}

impl Http2Options {
    #[allow(deprecated)]
    fn build(proto: &core::Http2ProtocolOptions, cx: &mut BuildCx<'_>) -> Result<Self, Rejected> {
        let default = Self::default();
        let keepalive = proto.connection_keepalive.as_ref();
        let keepalive =
            keepalive.map(|proto| cx.at("connection_keepalive", |cx| Http2Keepalive::build(proto, cx)));
        Ok(Self {
            hpack_table_size: proto.hpack_table_size.unwrap_or(default.hpack_table_size),
            max_concurrent_streams: proto.max_concurrent_streams.unwrap_or(default.max_concurrent_streams),
            initial_stream_window: proto.initial_stream_window_size.unwrap_or(default.initial_stream_window),
            initial_connection_window: proto
                .initial_connection_window_size
                .unwrap_or(default.initial_connection_window),
            max_outbound_control_frames: proto
                .max_outbound_control_frames
                .unwrap_or(default.max_outbound_control_frames),
            max_consecutive_inbound_frames_with_empty_payload: proto
                .max_consecutive_inbound_frames_with_empty_payload
                .unwrap_or(default.max_consecutive_inbound_frames_with_empty_payload),
            max_inbound_priority_frames_per_stream: proto
                .max_inbound_priority_frames_per_stream
                .unwrap_or(default.max_inbound_priority_frames_per_stream),
            max_inbound_window_update_frames_per_data_frame_sent: proto
                .max_inbound_window_update_frames_per_data_frame_sent
                .unwrap_or(default.max_inbound_window_update_frames_per_data_frame_sent),
            keepalive: keepalive.transpose()?.map(Box::new),
            settings: CustomSettings::build(proto, Side::Client, cx)?,
            max_metadata_size: max_metadata_size(proto),
        })
    }
}

impl Http2Keepalive {
    fn build(proto: &core::KeepaliveSettings, cx: &mut BuildCx<'_>) -> Result<Self, Rejected> {
        let Some(timeout) = proto.timeout.as_ref().and_then(duration) else {
            return Err(cx.at("timeout", |cx| cx.reject("must be set")));
        };
        Ok(Self {
            schedule: Schedule {
                interval: timeout_or(proto.interval.as_ref(), None),
                jitter: proto.interval_jitter.map_or(15.0, |percent| percent.value),
                timeout,
            },
            connection_idle_interval: timeout_or(proto.connection_idle_interval.as_ref(), None),
        })
    }
}
