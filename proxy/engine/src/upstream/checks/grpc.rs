//! gRPC checks: `grpc.health.v1.Health/Check`, which must answer `SERVING`.
//!
//! Source: <https://github.com/grpc/grpc/blob/master/doc/health-checking.md>.

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use prost::Message;
use proxy_core::config::{BuildCx, Rejected};
use proxy_core::head::{RequestHead, is_grpc};
use proxy_core::upstream::{CheckFailure, CheckResult, FailureKind};
use xds_api::envoy::config::core::v3::health_check as proto;

use super::http::{USER_AGENT, authority, info};
use super::wire::{Answer, Broken, Codec, Http, Probe, Request};
use crate::upstream::header_mutation::HeaderMutations;

const PATH: &str = "/grpc.health.v1.Health/Check";
/// How many bytes an answer may have.
const MOST: usize = 64 * 1024;
const PREFIX: usize = 5;
const SERVING: i32 = 1;
/// The largest number that `grpc-timeout` can have.
const MOST_MILLIS: u128 = 99_999_999;

/// `grpc.health.v1.HealthCheckRequest`
#[derive(Clone, PartialEq, Message)]
struct HealthCheckRequest {
    #[prost(string, tag = "1")]
    service: String,
}

/// `grpc.health.v1.HealthCheckResponse`
#[derive(Clone, PartialEq, Message)]
struct HealthCheckResponse {
    #[prost(int32, tag = "1")]
    status: i32,
}

/// `GrpcHealthCheck`
pub(super) struct GrpcCheck {
    authority: String,
    metadata: HeaderMutations,
    /// The request, framed.
    body: Bytes,
}

impl GrpcCheck {
    pub(super) fn build(proto: &proto::GrpcHealthCheck, cx: &mut BuildCx<'_>) -> Result<Self, Rejected> {
        let proto::GrpcHealthCheck { service_name, authority, initial_metadata } = proto;
        let metadata = HeaderMutations::build_metadata(initial_metadata, cx)?;
        let message = HealthCheckRequest { service: service_name.clone() }.encode_to_vec();
        let length =
            u32::try_from(message.len()).map_err(|_| cx.at("service_name", |cx| cx.reject("is too long")))?;
        let body = [&[0], &length.to_be_bytes()[..], &message].concat().into();
        Ok(Self { authority: authority.clone(), metadata, body })
    }

    pub(super) async fn ask(&self, probe: &mut Probe<'_>, timeout: Duration) -> CheckResult {
        let request = self.request(probe, timeout);
        match probe.exchange(request, Codec::Fixed(Http::Version2)).await {
            Ok(answer) if is_serving(&answer) => CheckResult::Passed { degraded: false },
            Ok(_) => CheckResult::Failed(CheckFailure::of(FailureKind::Active)),
            Err(Broken) => CheckResult::Failed(CheckFailure::of(FailureKind::Network)),
        }
    }

    fn request(&self, probe: &Probe<'_>, timeout: Duration) -> Request {
        let mut head = RequestHead {
            method: Method::POST,
            scheme: probe.scheme(),
            authority: authority(&self.authority, probe),
            path: PATH.into(),
            upgrade: None,
            headers: HeaderMap::new(),
            case: None,
        };
        head.headers.insert(header::TE, HeaderValue::from_static("trailers"));
        head.headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
        head.headers.insert(header::USER_AGENT, USER_AGENT);
        self.metadata.apply_to_request(&mut head, &info(probe.host));
        let millis = timeout.as_millis().min(MOST_MILLIS);
        if let Ok(value) = HeaderValue::from_str(&format!("{millis}m")) {
            head.headers.insert(HeaderName::from_static("grpc-timeout"), value);
        }
        Request { head, body: self.body.clone(), keep: MOST }
    }
}

/// Whether an answer is one message that says so, and ends well.
fn is_serving(answer: &Answer) -> bool {
    let status = answer.trailers.as_ref().and_then(|trailers| trailers.get("grpc-status"));
    answer.head.status == StatusCode::OK
        && !answer.is_bare
        && !answer.is_cut
        && is_grpc(&answer.head.headers)
        && status.is_some_and(|status| status.as_bytes() == b"0")
        && message(&answer.body)
            .and_then(|message| HealthCheckResponse::decode(message).ok())
            .is_some_and(|response| response.status == SERVING)
}

/// The only message in `body` that is not empty.
fn message(body: &[u8]) -> Option<&[u8]> {
    let mut rest = body;
    let mut found = None;
    while !rest.is_empty() {
        let (prefix, after) = rest.split_at_checked(PREFIX)?;
        let (flags, length) = prefix.split_first()?;
        let length = usize::try_from(u32::from_be_bytes(length.try_into().ok()?)).ok()?;
        let (message, next) = after.split_at_checked(length)?;
        rest = next;
        if message.is_empty() {
            continue;
        }
        if found.is_some() || *flags != 0 {
            return None;
        }
        found = Some(message);
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_message_is_enough_and_two_are_too_many() {
        assert_eq!(message(b""), None);
        assert_eq!(message(b"\0\0\0\0\0"), None);
        assert_eq!(message(b"\0\0\0\0\x02\x08\x01"), Some(&b"\x08\x01"[..]));
        assert_eq!(message(b"\0\0\0\0\0\0\0\0\0\x02\x08\x01"), Some(&b"\x08\x01"[..]));
        for bad in [
            &b"\0\0\0\0\x02\x08\x01\0\0\0\0\x02\x08\x01"[..],
            b"\x01\0\0\0\x02\x08\x01",
            b"\0\0\0\0\x03\x08\x01",
            b"\0\0\0",
        ] {
            assert_eq!(message(bad), None, "{bad:?}");
        }
    }
}
