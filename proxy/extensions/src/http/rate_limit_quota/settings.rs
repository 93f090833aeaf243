//! What is configured of buckets (`RateLimitQuotaBucketSettings`).

use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use proxy_core::config::{BuildCx, Rejected, duration};
use proxy_core::local_reply::LocalReply;
use proxy_core::response_flag::ResponseFlag;
use xds_api::envoy::config::core::v3 as core;
use xds_api::envoy::config::core::v3::header_value_option::HeaderAppendAction;
use xds_api::envoy::extensions::filters::http::rate_limit_quota::v3 as proto;
use xds_api::envoy::extensions::filters::http::rate_limit_quota::v3::rate_limit_quota_bucket_settings as settings;
use xds_api::envoy::extensions::filters::http::rate_limit_quota::v3::rate_limit_quota_bucket_settings::expired_assignment_behavior::ExpiredAssignmentBehavior;
use xds_api::envoy::extensions::filters::http::rate_limit_quota::v3::rate_limit_quota_bucket_settings::no_assignment_behavior::NoAssignmentBehavior;
use xds_api::envoy::r#type::v3::RateLimitStrategy;
use xds_api::google::rpc::Status;

use super::id::IdBuilder;
use super::strategy::{Rule, Strategy};

/// `%RESPONSE_CODE_DETAILS%` of what is refused.
const DETAILS: &str = "rate_limited_by_quota";

/// The shortest interval of reports.
const SHORTEST: Duration = Duration::from_millis(100);
/// A year is as good as longer.
const LONGEST: Duration = Duration::from_secs(366 * 24 * 3600);

/// The settings of a bucket.
pub(super) struct Settings {
    pub(super) id: IdBuilder,
    pub(super) interval: Duration,
    /// What holds while there is no assignment.
    pub(super) unassigned: Strategy,
    /// That for all requests together for whose buckets there is no room.
    pub(super) crowd: Rule,
    /// What holds for a while when one has expired.
    pub(super) expired: Option<Expired>,
    pub(super) denial: Denial,
}

/// What holds when an assignment has expired.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Expired {
    /// `None`: what held before.
    pub(super) strategy: Option<Strategy>,
    pub(super) timeout: Duration,
}

impl Settings {
    pub(super) fn build(
        proto: &proto::RateLimitQuotaBucketSettings,
        cx: &mut BuildCx<'_>,
    ) -> Result<Self, Rejected> {
        let proto::RateLimitQuotaBucketSettings {
            bucket_id_builder,
            reporting_interval,
            deny_response_settings,
            no_assignment_behavior,
            expired_assignment_behavior,
        } = proto;
        let id = cx.at("bucket_id_builder", |cx| IdBuilder::build(bucket_id_builder.as_ref(), cx));
        let interval = cx.at("reporting_interval", |cx| build_interval(reporting_interval.as_ref(), cx));
        let unassigned = cx.at("no_assignment_behavior", |cx| match no_assignment_behavior {
            None => Ok(Strategy::AllowAll),
            Some(settings::NoAssignmentBehavior { no_assignment_behavior }) => match no_assignment_behavior {
                None => Err(cx.at("fallback_rate_limit", |cx| cx.reject("value is required"))),
                Some(NoAssignmentBehavior::FallbackRateLimit(fallback)) => build_fallback(fallback, cx),
            },
        });
        let expired = cx.at("expired_assignment_behavior", |cx| {
            expired_assignment_behavior.as_ref().map(|expired| Expired::build(expired, cx)).transpose()
        });
        let denial = cx.at("deny_response_settings", |cx| {
            Denial::build(deny_response_settings.as_ref().unwrap_or(&Default::default()), cx)
        });
        let unassigned = unassigned?;
        let crowd = unassigned.begin(Instant::now());
        Ok(Self { id: id?, interval: interval?, unassigned, crowd, expired: expired?, denial: denial? })
    }
}

fn build_interval(proto: Option<&prost_types::Duration>, cx: &mut BuildCx<'_>) -> Result<Duration, Rejected> {
    let Some(interval) = proto.and_then(duration) else { return Err(cx.reject("value is required")) };
    if interval < SHORTEST {
        return Err(cx.reject("value must be at least 100ms: every bucket is reported as often"));
    }
    // (Clocks end some time after that.)
    Ok(interval.min(LONGEST))
}

fn build_fallback(proto: &RateLimitStrategy, cx: &mut BuildCx<'_>) -> Result<Strategy, Rejected> {
    cx.at("fallback_rate_limit", |cx| {
        Strategy::read(proto).map_err(|(field, reason)| cx.at(field, |cx| cx.reject(reason)))
    })
}

impl Expired {
    fn build(proto: &settings::ExpiredAssignmentBehavior, cx: &mut BuildCx<'_>) -> Result<Self, Rejected> {
        let settings::ExpiredAssignmentBehavior {
            expired_assignment_behavior_timeout: timeout,
            expired_assignment_behavior,
        } = proto;
        let strategy = match expired_assignment_behavior {
            None => return Err(cx.reject("one of fallback_rate_limit, reuse_last_assignment is required")),
            Some(ExpiredAssignmentBehavior::FallbackRateLimit(fallback)) => {
                Some(build_fallback(fallback, cx)?)
            }
            Some(ExpiredAssignmentBehavior::ReuseLastAssignment(_)) => None,
        };
        Ok(Self { strategy, timeout: timeout.as_ref().and_then(duration).unwrap_or_default() })
    }
}

/// How requests are refused.
#[derive(Debug)]
pub(super) struct Denial {
    status: StatusCode,
    body: Bytes,
    grpc_status: Option<u32>,
    headers: HeaderMap,
}

impl Denial {
    fn build(proto: &settings::DenyResponseSettings, cx: &mut BuildCx<'_>) -> Result<Self, Rejected> {
        let settings::DenyResponseSettings { http_status, http_body, grpc_status, response_headers_to_add } =
            proto;
        let status = match http_status {
            None => Ok(StatusCode::TOO_MANY_REQUESTS),
            Some(status) => {
                let code = u16::try_from(status.code).ok().and_then(|code| StatusCode::from_u16(code).ok());
                code.ok_or_else(|| cx.at("http_status", |cx| cx.at("code", |cx| cx.reject("is no status"))))
            }
        };
        let mut headers = HeaderMap::new();
        cx.each("response_headers_to_add", response_headers_to_add, |header, cx| {
            let (name, value) = build_header(header, cx)?;
            headers.append(name, value);
            Ok(())
        })?;
        let mut body = http_body.clone().unwrap_or_default();
        let code = match grpc_status {
            None => Ok(None),
            Some(Status { code, message, details }) => cx.at("grpc_status", |cx| {
                cx.reject_if(!details.is_empty(), "details", "Envoy does not act on it")?;
                if !message.is_empty() {
                    body = message.clone().into_bytes();
                }
                u32::try_from(*code).map(Some).map_err(|_| cx.at("code", |cx| cx.reject("is no status")))
            }),
        };
        Ok(Self { status: status?, body: body.into(), grpc_status: code?, headers })
    }

    /// The reply to a request that is refused.
    pub(super) fn reply(&self) -> LocalReply {
        LocalReply {
            headers: self.headers.clone(),
            grpc_status: self.grpc_status,
            ..LocalReply::new(self.status, self.body.clone(), DETAILS)
        }
        .with_flag(ResponseFlag::ResponseFromCacheFilter)
    }
}

/// A header as it is added: Envoy appends them all, and takes their values as they are.
#[allow(deprecated, reason = "it is refused where it is sent")]
fn build_header(
    proto: &core::HeaderValueOption,
    cx: &mut BuildCx<'_>,
) -> Result<(HeaderName, HeaderValue), Rejected> {
    // (An empty value is kept, whatever is said of it.)
    let core::HeaderValueOption { header, append, append_action, keep_empty_value: _ } = proto;
    const APPENDED: &str = "Envoy does not act on it: headers are appended";
    cx.reject_if(append.is_some_and(|append| !append), "append", APPENDED)?;
    let is_appended = *append_action == HeaderAppendAction::AppendIfExistsOrAdd as i32;
    cx.reject_if(!is_appended, "append_action", APPENDED)?;
    let Some(core::HeaderValue { key, value, raw_value }) = header else {
        return Err(cx.at("header", |cx| cx.reject("value is required")));
    };
    cx.at("header", |cx| {
        cx.reject_if(!raw_value.is_empty(), "raw_value", "Envoy does not act on it: use value")?;
        let name = HeaderName::try_from(key.as_str())
            .map_err(|_| cx.at("key", |cx| cx.reject(format!("'{key}' is not a header name"))))?;
        let value = HeaderValue::from_bytes(value.as_bytes())
            .map_err(|_| cx.at("value", |cx| cx.reject("value has characters that a header cannot have")))?;
        Ok((name, value))
    })
}
