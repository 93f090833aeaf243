//! Which responses are successes.

use std::ops::Range;

use proxy_core::config::{BuildCx, Rejected};
use xds_api::envoy::extensions::filters::http::admission_control::v3::admission_control::SuccessCriteria;
use xds_api::envoy::extensions::filters::http::admission_control::v3::admission_control::success_criteria::{
    GrpcCriteria, HttpCriteria,
};

/// gRPC status codes that tell of no fault of the server: all but DEADLINE_EXCEEDED, PERMISSION_DENIED, RESOURCE_EXHAUSTED, ABORTED,
/// INTERNAL, UNAVAILABLE and DATA_LOSS.
const GRPC_BY_DEFAULT: [u32; 10] = [0, 1, 2, 3, 5, 6, 16, 9, 11, 12];

/// The successes among responses.
pub(super) struct Criteria {
    http: Vec<Range<i32>>,
    grpc: Vec<u32>,
}

impl Criteria {
    pub(super) fn build(proto: SuccessCriteria, cx: &mut BuildCx<'_>) -> Result<Self, Rejected> {
        let SuccessCriteria { http_criteria, grpc_criteria } = proto;
        let http = match http_criteria {
            None => std::iter::once(0..500).collect(),
            Some(criteria) => cx.at("http_criteria", |cx| http_ranges(&criteria, cx))?,
        };
        let grpc = match grpc_criteria {
            None => GRPC_BY_DEFAULT.to_vec(),
            Some(criteria) => cx.at("grpc_criteria", |cx| grpc_codes(criteria, cx))?,
        };
        Ok(Self { http, grpc })
    }

    /// Whether this status of HTTP is a success.
    pub(super) fn http(&self, status: u16) -> bool {
        self.http.iter().any(|range| range.contains(&i32::from(status)))
    }

    /// Whether this status of gRPC is a success.
    pub(super) fn grpc(&self, status: u32) -> bool {
        self.grpc.contains(&status)
    }
}

fn http_ranges(criteria: &HttpCriteria, cx: &mut BuildCx<'_>) -> Result<Vec<Range<i32>>, Rejected> {
    if criteria.http_success_status.is_empty() {
        return Err(cx.at("http_success_status", |cx| cx.reject("value must contain at least 1 item(s)")));
    }
    cx.each("http_success_status", &criteria.http_success_status, |range, cx| {
        let (start, end) = (range.start, range.end);
        if start > end || !(100..600).contains(&start) || end > 600 {
            return Err(cx.reject(format!("invalid HTTP range: [{start}, {end})")));
        }
        Ok(start..end)
    })
}

fn grpc_codes(criteria: GrpcCriteria, cx: &mut BuildCx<'_>) -> Result<Vec<u32>, Rejected> {
    if criteria.grpc_success_status.is_empty() {
        return Err(cx.at("grpc_success_status", |cx| cx.reject("value must contain at least 1 item(s)")));
    }
    cx.each("grpc_success_status", criteria.grpc_success_status, |code, cx| match code {
        0..=16 => Ok(code),
        _ => Err(cx.reject(format!("invalid gRPC code {code}"))),
    })
}
