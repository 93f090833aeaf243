//! What a configuration says: which requests get a fault, which fault, how many of them.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, StatusCode};
use prost_types::Struct;
use proxy_core::config::{BuildCx, Rejected, duration};
use proxy_core::extension::http_filter::StreamCx;
use proxy_core::head::RequestHead;
use proxy_core::local_reply::LocalReply;
use proxy_core::matcher::HeaderMatcher;
use proxy_core::runtime::{Runtime, denominator};
use xds_api::envoy::extensions::filters::common::fault::v3 as common;
use xds_api::envoy::extensions::filters::http::fault::v3 as proto;
use xds_api::envoy::r#type::v3::FractionalPercent;

use crate::shared::pace::Pace;

const DETAILS: &str = "fault_filter_abort";
const BODY: &str = "fault filter abort";

static CALLER_CLUSTER: HeaderName = HeaderName::from_static("x-envoy-downstream-service-cluster");
static CALLER_NODE: HeaderName = HeaderName::from_static("x-envoy-downstream-service-node");
static ABORT: HeaderName = HeaderName::from_static("x-envoy-fault-abort-request");
static ABORT_GRPC: HeaderName = HeaderName::from_static("x-envoy-fault-abort-grpc-request");
static ABORT_PERCENTAGE: HeaderName = HeaderName::from_static("x-envoy-fault-abort-request-percentage");
static DELAY: HeaderName = HeaderName::from_static("x-envoy-fault-delay-request");
static DELAY_PERCENTAGE: HeaderName = HeaderName::from_static("x-envoy-fault-delay-request-percentage");
static THROUGHPUT: HeaderName = HeaderName::from_static("x-envoy-fault-throughput-response");
static THROUGHPUT_PERCENTAGE: HeaderName =
    HeaderName::from_static("x-envoy-fault-throughput-response-percentage");

/// What a request says about itself.
pub(super) struct Asked {
    /// The cluster that it comes from.
    pub(super) cluster: Option<Box<str>>,
    abort: Option<u64>,
    abort_grpc: Option<u64>,
    abort_percentage: Option<u64>,
    delay: Option<u64>,
    delay_percentage: Option<u64>,
    throughput: Option<u64>,
    throughput_percentage: Option<u64>,
}

impl Asked {
    pub(super) fn by(request: &RequestHead) -> Self {
        let headers = &request.headers;
        let cluster = text(headers, &CALLER_CLUSTER).filter(|cluster| !cluster.is_empty());
        Self {
            cluster: cluster.map(Into::into),
            abort: number(headers, &ABORT),
            abort_grpc: number(headers, &ABORT_GRPC),
            abort_percentage: number(headers, &ABORT_PERCENTAGE),
            delay: number(headers, &DELAY),
            delay_percentage: number(headers, &DELAY_PERCENTAGE),
            throughput: number(headers, &THROUGHPUT),
            throughput_percentage: number(headers, &THROUGHPUT_PERCENTAGE),
        }
    }

    /// The runtime key of the cluster that the request comes from.
    fn key(&self, rest: &str) -> Option<String> {
        self.cluster.as_deref().map(|cluster| format!("fault.http.{cluster}.{rest}"))
    }
}

fn text<'h>(headers: &'h HeaderMap, name: &HeaderName) -> Option<&'h str> {
    headers.get(name)?.to_str().ok()
}

fn number(headers: &HeaderMap, name: &HeaderName) -> Option<u64> {
    text(headers, name)?.parse().ok()
}

/// A share of requests, a runtime key that has another, and whether a header may ask for less.
struct Share {
    numerator: u64,
    denominator: u64,
    key: String,
    by_header: bool,
}

impl Share {
    fn new(proto: Option<FractionalPercent>, key: &str, default_key: &str, by_header: bool) -> Self {
        let percent = proto.unwrap_or_default();
        let key = if key.is_empty() { default_key } else { key }.to_owned();
        let (numerator, denominator) = (percent.numerator.into(), denominator(&percent).into());
        Self { numerator, denominator, key, by_header }
    }

    /// Whether a request is one of them; `key` is its caller's and takes the place of all callers', `asked` what its header says.
    fn holds(&self, cx: &StreamCx<'_>, asked: Option<u64>, key: Option<&str>) -> bool {
        let asked = asked.filter(|_| self.by_header);
        let numerator = asked.map_or(self.numerator, |asked| asked.min(self.numerator));
        let runtime = cx.engine.runtime();
        let now = runtime.fraction(key.unwrap_or(&self.key));
        let (numerator, denominator) = now.unwrap_or((numerator, self.denominator));
        cx.engine.random() % denominator < numerator
    }
}

/// A number of the configuration, or the header that has it.
enum Amount<T> {
    Fixed(T),
    ByHeader,
}

enum Code {
    Http(u64),
    Grpc(u64),
    ByHeader,
}

struct Abort {
    share: Share,
    code: Code,
    http_key: String,
    grpc_key: String,
    body: Bytes,
}

struct Delay {
    share: Share,
    /// In milliseconds.
    duration: Amount<u64>,
    key: String,
}

struct RateLimit {
    share: Share,
    /// In KiB a second.
    limit: Amount<u64>,
}

/// What a filter or a route does.
pub struct Settings {
    abort: Option<Abort>,
    delay: Option<Delay>,
    rate_limit: Option<RateLimit>,
    upstream_cluster: String,
    headers: Box<[HeaderMatcher]>,
    nodes: Vec<String>,
    max_active: u64,
    max_active_key: String,
    /// Whether callers are counted by their names.
    pub(super) counts_callers: bool,
    /// Left on a stream with a fault.
    metadata: Arc<Struct>,
}

/// The runtime key of the configuration, or Envoy's.
fn key_or(key: String, default: &str) -> String {
    if key.is_empty() { default.to_owned() } else { key }
}

impl Settings {
    pub(super) fn build(proto: proto::HttpFault, cx: &mut BuildCx<'_>) -> Result<Self, Rejected> {
        let proto::HttpFault {
            delay,
            abort,
            upstream_cluster,
            headers,
            downstream_nodes,
            max_active_faults,
            response_rate_limit,
            delay_percent_runtime,
            abort_percent_runtime,
            delay_duration_runtime,
            abort_http_status_runtime,
            max_active_faults_runtime,
            response_rate_limit_percent_runtime,
            abort_grpc_status_runtime,
            disable_downstream_cluster_stats,
            filter_metadata,
        } = proto;
        let delay = delay.map(|proto| {
            cx.at("delay", |cx| build_delay(&proto, &delay_percent_runtime, delay_duration_runtime, cx))
        });
        let keys = (abort_http_status_runtime, abort_grpc_status_runtime);
        let abort =
            abort.map(|proto| cx.at("abort", |cx| build_abort(proto, &abort_percent_runtime, keys, cx)));
        let rate_limit = response_rate_limit.map(|proto| {
            let key = &response_rate_limit_percent_runtime;
            cx.at("response_rate_limit", |cx| build_rate_limit(&proto, key, cx))
        });
        let headers = HeaderMatcher::build_all("headers", &headers, cx);
        Ok(Self {
            abort: abort.transpose()?,
            delay: delay.transpose()?,
            rate_limit: rate_limit.transpose()?,
            upstream_cluster,
            headers: headers?,
            nodes: downstream_nodes,
            max_active: max_active_faults.map_or(u64::MAX, u64::from),
            max_active_key: key_or(max_active_faults_runtime, "fault.http.max_active_faults"),
            counts_callers: !disable_downstream_cluster_stats,
            metadata: Arc::new(filter_metadata.unwrap_or_default()),
        })
    }

    /// Whether nothing is ever done.
    pub(super) fn is_empty(&self) -> bool {
        self.abort.is_none() && self.delay.is_none() && self.rate_limit.is_none()
    }

    /// Whether they are for such a request.
    pub(super) fn concern(&self, cx: &StreamCx<'_>) -> bool {
        // (A route that names none may have had one chosen.)
        let cluster = || cx.route.and_then(|route| route.cluster()).or(cx.info.upstream.cluster.as_deref());
        let of_cluster = self.upstream_cluster.is_empty() || cluster() == Some(&*self.upstream_cluster);
        let of_node = self.nodes.is_empty()
            || text(&cx.request.headers, &CALLER_NODE)
                .is_some_and(|node| self.nodes.iter().any(|one| one == node));
        of_cluster && of_node && self.headers.iter().all(|matcher| matcher.matches_request(cx.request))
    }

    pub(super) fn max_active(&self, runtime: &Runtime) -> u64 {
        runtime.number(&self.max_active_key).unwrap_or(self.max_active)
    }

    /// Leaves the metadata that a stream with a fault gets, under the filter's name.
    pub(super) fn mark(&self, cx: &mut StreamCx<'_>) {
        cx.info.metadata.share(&cx.name.into(), &self.metadata);
    }

    /// How fast the response may go.
    pub(super) fn pace(&self, asked: &Asked, cx: &StreamCx<'_>) -> Option<Pace> {
        let limit = self.rate_limit.as_ref()?;
        let rate = match limit.limit {
            Amount::Fixed(rate) => rate,
            Amount::ByHeader => asked.throughput.filter(|rate| *rate > 0)?,
        };
        limit.share.holds(cx, asked.throughput_percentage, None).then(|| Pace::of_its_own(rate))
    }

    /// How long the request waits.
    pub(super) fn delay(&self, asked: &Asked, cx: &StreamCx<'_>) -> Option<Duration> {
        let delay = self.delay.as_ref()?;
        let key = asked.key("delay.fixed_delay_percent");
        if !delay.share.holds(cx, asked.delay_percentage, key.as_deref()) {
            return None;
        }
        let configured = match delay.duration {
            Amount::Fixed(millis) => millis,
            Amount::ByHeader => asked.delay?,
        };
        let runtime = cx.engine.runtime();
        let of_caller = asked.key("delay.fixed_duration_ms").and_then(|key| runtime.number(&key));
        let millis = of_caller.or_else(|| runtime.number(&delay.key)).unwrap_or(configured);
        (millis > 0).then(|| Duration::from_millis(millis))
    }

    /// What the client gets, if the request is aborted.
    pub(super) fn abort(&self, asked: &Asked, cx: &StreamCx<'_>) -> Option<LocalReply> {
        let abort = self.abort.as_ref()?;
        let key = asked.key("abort.abort_percent");
        if !abort.share.holds(cx, asked.abort_percentage, key.as_deref()) {
            return None;
        }
        let runtime = cx.engine.runtime();
        let now = |rest: &str, key: &str, configured: u64| {
            let of_caller = asked.key(rest);
            runtime.number(of_caller.as_deref().unwrap_or(key)).unwrap_or(configured)
        };
        let (http, grpc) = match abort.code {
            Code::Http(status) => (Some(status), None),
            Code::Grpc(status) => (None, Some(status)),
            Code::ByHeader => (asked.abort.filter(|status| (200..600).contains(status)), asked.abort_grpc),
        };
        let reply = |status, grpc_status| {
            let body = abort.body.clone();
            LocalReply { grpc_status, ..LocalReply::new(status, body, DETAILS) }
        };
        if let Some(configured) = http {
            let status = now("abort.http_status", &abort.http_key, configured);
            let status = u16::try_from(status).ok().and_then(|status| StatusCode::from_u16(status).ok())?;
            return Some(reply(status, None));
        }
        let status = now("abort.grpc_status", &abort.grpc_key, grpc?);
        let status = u32::try_from(status).ok()?;
        // To Envoy a request without gRPC was answered well then.
        Some(reply(StatusCode::OK, Some(status)))
    }
}

fn build_abort(
    proto: proto::FaultAbort,
    percent_key: &str,
    (http_key, grpc_key): (String, String),
    cx: &mut BuildCx<'_>,
) -> Result<Abort, Rejected> {
    use proto::fault_abort::ErrorType;
    let proto::FaultAbort { percentage, response_body, error_type } = proto;
    let code = match error_type {
        None => return Err(cx.at("error_type", |cx| cx.reject("is required"))),
        Some(ErrorType::HttpStatus(status)) if !(200..600).contains(&status) => {
            return Err(cx.at("http_status", |cx| cx.reject("value must be inside range [200, 600)")));
        }
        Some(ErrorType::HttpStatus(status)) => Code::Http(status.into()),
        Some(ErrorType::GrpcStatus(status)) => Code::Grpc(status.into()),
        Some(ErrorType::HeaderAbort(proto::fault_abort::HeaderAbort {})) => Code::ByHeader,
    };
    let by_header = matches!(code, Code::ByHeader);
    let share = Share::new(percentage, percent_key, "fault.http.abort.abort_percent", by_header);
    let body =
        if response_body.is_empty() { Bytes::from_static(BODY.as_bytes()) } else { response_body.into() };
    let http_key = key_or(http_key, "fault.http.abort.http_status");
    Ok(Abort { share, code, http_key, grpc_key: key_or(grpc_key, "fault.http.abort.grpc_status"), body })
}

fn build_delay(
    proto: &common::FaultDelay,
    percent_key: &str,
    key: String,
    cx: &mut BuildCx<'_>,
) -> Result<Delay, Rejected> {
    use common::fault_delay::{FaultDelaySecifier, HeaderDelay};
    let common::FaultDelay { percentage, fault_delay_secifier } = proto;
    let duration = match fault_delay_secifier {
        None => return Err(cx.at("fault_delay_secifier", |cx| cx.reject("is required"))),
        Some(FaultDelaySecifier::HeaderDelay(HeaderDelay {})) => Amount::ByHeader,
        Some(FaultDelaySecifier::FixedDelay(delay)) => match duration(delay).filter(|delay| !delay.is_zero())
        {
            Some(delay) => Amount::Fixed(u64::try_from(delay.as_millis()).unwrap_or(u64::MAX)),
            None => return Err(cx.at("fixed_delay", |cx| cx.reject("value must be greater than 0s"))),
        },
    };
    let by_header = matches!(duration, Amount::ByHeader);
    let share = Share::new(*percentage, percent_key, "fault.http.delay.fixed_delay_percent", by_header);
    Ok(Delay { share, duration, key: key_or(key, "fault.http.delay.fixed_duration_ms") })
}

fn build_rate_limit(
    proto: &common::FaultRateLimit,
    percent_key: &str,
    cx: &mut BuildCx<'_>,
) -> Result<RateLimit, Rejected> {
    use common::fault_rate_limit::{FixedLimit, HeaderLimit, LimitType};
    let common::FaultRateLimit { percentage, limit_type } = proto;
    let limit = match limit_type {
        None => return Err(cx.at("limit_type", |cx| cx.reject("is required"))),
        Some(LimitType::HeaderLimit(HeaderLimit {})) => Amount::ByHeader,
        Some(LimitType::FixedLimit(FixedLimit { limit_kbps: 0 })) => {
            return Err(cx.at("fixed_limit", |cx| {
                cx.at("limit_kbps", |cx| cx.reject("value must be greater than or equal to 1"))
            }));
        }
        Some(LimitType::FixedLimit(FixedLimit { limit_kbps })) => Amount::Fixed(*limit_kbps),
    };
    let by_header = matches!(limit, Amount::ByHeader);
    let share = Share::new(*percentage, percent_key, "fault.http.rate_limit.response_percent", by_header);
    Ok(RateLimit { share, limit })
}
