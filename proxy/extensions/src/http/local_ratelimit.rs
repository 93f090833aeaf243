//! `envoy.filters.http.local_ratelimit`: refuses requests that come faster than token buckets fill.
//!
//! There is a bucket for all requests, and others for those that descriptors describe; the workers share them. What a route says takes
//! the place of what the filter says, whole. Nothing is limited unless `filter_enabled` says so.
//! Source: Envoy `docs/root/configuration/http/http_filters/local_rate_limit_filter.rst`; answers observed on 1.40.

mod config;
mod limiter;
mod recent;
#[cfg(test)]
mod tests;

use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use http::HeaderValue;
use http::header::RETRY_AFTER;
use proxy_core::config::{BuildCx, FieldUse, MessageFields, Rejected};
use proxy_core::extension::access_log::LogEntry;
use proxy_core::extension::http_filter::{HeadersStep, HttpFilter, HttpFilterExtension, Phases, StreamCx};
use proxy_core::extension::{Descriptor, SecurityPosture, Status};
use proxy_core::headers::{X_RATELIMIT_LIMIT, X_RATELIMIT_REMAINING, X_RATELIMIT_RESET};
use proxy_core::local_reply::LocalReply;
use proxy_core::rate_limit::{self, HeadersOption, Subject, Tokens};
use proxy_core::response_flag::ResponseFlag;
use smallvec::SmallVec;
use xds_api::envoy::extensions::filters::http::local_ratelimit::v3 as proto;

use FieldUse::Used;
pub use config::Config;
use limiter::{Bucket, Limiter, Outcome};

use proxy_core::field_names::joins_in_request;
use proxy_core::header_append;

/// How the fields of the configuration are used.
pub const FIELDS: &[MessageFields] = &[
    (
        "envoy.extensions.filters.http.local_ratelimit.v3.LocalRateLimit",
        &[
            ("stat_prefix", Used),
            ("status", Used),
            ("token_bucket", Used),
            ("filter_enabled", Used),
            ("filter_enforced", Used),
            ("request_headers_to_add_when_not_enforced", Used),
            ("response_headers_to_add", Used),
            ("descriptors", Used),
            ("stage", Used),
            ("local_rate_limit_per_downstream_connection", Used),
            ("local_cluster_rate_limit", Used),
            ("enable_x_ratelimit_headers", Used),
            ("vh_rate_limits", Used),
            ("always_consume_default_token_bucket", Used),
            ("rate_limited_as_resource_exhausted", Used),
            ("rate_limits", Used),
            ("max_dynamic_descriptors", Used),
            ("enable_retry_after_header", Used),
        ],
    ),
    ("envoy.extensions.common.ratelimit.v3.LocalClusterRateLimit", &[]),
    (
        "envoy.extensions.common.ratelimit.v3.LocalRateLimitDescriptor",
        &[("entries", Used), ("token_bucket", Used), ("shadow_mode", Used)],
    ),
    ("envoy.extensions.common.ratelimit.v3.RateLimitDescriptor.Entry", &[("key", Used), ("value", Used)]),
];

const DETAILS: &str = "local_rate_limited";

/// The extension.
pub struct LocalRateLimit;

impl HttpFilterExtension for LocalRateLimit {
    const DESCRIPTOR: Descriptor = Descriptor {
        name: "envoy.filters.http.local_ratelimit",
        message: "envoy.extensions.filters.http.local_ratelimit.v3.LocalRateLimit",
        status: Status::Stable,
        posture: SecurityPosture::RobustToUntrustedDownstreamAndUpstream,
    };
    const ROUTE_MESSAGE: Option<&'static str> =
        Some("envoy.extensions.filters.http.local_ratelimit.v3.LocalRateLimit");
    const PHASES: Phases = Phases { request_body: false, response_headers: false, response_body: false };
    type Proto = proto::LocalRateLimit;
    type Config = Config;
    type RouteProto = proto::LocalRateLimit;
    type RouteConfig = Config;

    fn build(proto: Self::Proto, cx: &mut BuildCx<'_>) -> Result<Self::Config, Rejected> {
        Config::build(&proto, cx)
    }

    fn build_route(proto: Self::RouteProto, cx: &mut BuildCx<'_>) -> Result<Self::RouteConfig, Rejected> {
        if proto.token_bucket.is_none() {
            let reason = "local rate limit token bucket must be set for per filter configs";
            return Err(cx.at("token_bucket", |cx| cx.reject(reason)));
        }
        Config::build(&proto, cx)
    }

    fn create(config: &Arc<Self::Config>) -> Box<dyn HttpFilter> {
        Box::new(Filter { config: config.clone(), told: None })
    }
}

struct Filter {
    config: Arc<Config>,
    told: Option<Told>,
}

/// What headers of the response tell.
struct Told {
    bucket: Arc<Bucket>,
    limit: bool,
    retry_after: bool,
}

impl Filter {
    /// Takes tokens for the request; what it is counted as decides from where.
    fn admit(config: &Config, cx: &StreamCx<'_>) -> Outcome {
        let subject = Subject {
            request: cx.request,
            response: None,
            info: cx.info,
            route: cx.route,
            local_cluster: &config.local_cluster,
            tokens: Tokens::default(),
        };
        let descriptors = match config.limiter.has_descriptors() {
            true => descriptors(config, &subject),
            false => SmallVec::new(),
        };
        let now = Instant::now();
        if !config.per_connection {
            return config.limiter.admit(&descriptors, now);
        }
        let of_connection =
            cx.info.connection.rate_limiter.get_or_init(|| Rc::new(config.limiter.another(now)));
        let limiter = of_connection.downcast_ref::<Limiter>().unwrap_or(&config.limiter);
        limiter.admit(&descriptors, now)
    }
}

/// What the request is counted as: by the filter's own rate limits, or else by the route's and its virtual host's.
fn descriptors<'a>(config: &'a Config, subject: &Subject<'a>) -> SmallVec<[rate_limit::Descriptor<'a>; 4]> {
    if !config.rate_limits.is_empty() {
        let own = config.rate_limits.iter().filter(|limit| !limit.on_stream_done);
        return own.filter_map(|limit| limit.descriptor(subject)).collect();
    }
    let Some(limits) = subject.route.and_then(|route| route.rate_limits()) else { return SmallVec::new() };
    let of_host = limits.host_if(config.host_limits).into_iter();
    let all = std::iter::once(limits.own).chain(of_host).flat_map(|limits| limits.of_stage(config.stage));
    // (Those with a key to be switched off with are for the filter that asks a service.)
    all.filter(|limit| limit.switch.is_none()).filter_map(|limit| limit.descriptor(subject)).collect()
}

impl HttpFilter for Filter {
    fn on_request_headers<'a>(&'a mut self, cx: &'a mut StreamCx<'_>, _end: bool) -> HeadersStep<'a> {
        let config: &Config = cx.route_config().unwrap_or(&self.config);
        if !config.is_enabled(cx.engine) {
            return HeadersStep::Continue;
        }
        let stats = config.stats.here();
        stats.enabled.inc();
        let outcome = Self::admit(config, cx);
        if outcome.shadowed {
            stats.shadow_mode.inc();
        }
        let limit = match outcome.headers {
            HeadersOption::Unspecified => config.tells_limit,
            HeadersOption::Off => false,
            HeadersOption::DraftVersion03 => true,
        };
        let refused = !outcome.allowed;
        let retry_after = refused && config.tells_retry_after;
        if limit || retry_after {
            self.told = outcome.bucket.map(|bucket| Told { bucket, limit, retry_after });
            cx.phases.response_headers |= self.told.is_some();
        }
        match refused || outcome.shadowed {
            true => stats.rate_limited.inc(),
            false => stats.ok.inc(),
        }
        if !refused {
            return HeadersStep::Continue;
        }
        if !config.is_enforced(cx.engine) {
            let additions = config.request_headers.prepare(&cx.request.headers, &entry(cx));
            header_append::write(additions, &mut cx.request.headers, joins_in_request);
            return HeadersStep::Continue;
        }
        stats.enforced.inc();
        let mut reply = LocalReply::new(config.status, DETAILS, DETAILS).with_flag(ResponseFlag::RateLimited);
        config.response_headers.apply(&mut reply.headers, &entry(cx));
        reply.grpc_status = config.grpc_status;
        HeadersStep::Reply(Box::new(reply))
    }

    fn on_response_headers<'a>(&'a mut self, cx: &'a mut StreamCx<'_>, _end: bool) -> HeadersStep<'a> {
        if let (Some(told), Some(response)) = (&self.told, &mut cx.response) {
            let (tokens, now) = (&told.bucket.tokens, Instant::now());
            let reset = tokens.until_token(now).as_secs_f64().ceil();
            let headers = &mut response.headers;
            if told.limit {
                headers.append(&X_RATELIMIT_LIMIT, HeaderValue::from(tokens.max()));
                headers.append(&X_RATELIMIT_REMAINING, HeaderValue::from(tokens.remaining(now)));
                headers.append(&X_RATELIMIT_RESET, HeaderValue::from(seconds(reset)));
            }
            if told.retry_after {
                // (Who takes several tokens at once may be refused where there is one: to come again at once would be of no use.)
                headers.append(RETRY_AFTER, HeaderValue::from(seconds(reset).max(1)));
            }
        }
        HeadersStep::Continue
    }
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a float is cut to what fits")]
fn seconds(seconds: f64) -> u64 {
    seconds as u64
}

/// What values may refer to.
fn entry<'e>(cx: &'e StreamCx<'_>) -> LogEntry<'e> {
    LogEntry { request: Some(cx.request), response: cx.response.as_deref(), ..LogEntry::of(cx.info) }
}
