//! A response that the proxy itself makes.

use bytes::Bytes;
use http::{HeaderMap, StatusCode};

use crate::response_flag::ResponseFlag;
use crate::stream_error::Details;

/// A response made by the proxy: a value, so "reply and go on" cannot be written.
#[derive(Clone, Debug)]
pub struct LocalReply {
    /// Status; a gRPC request gets 200 with the mapped `grpc-status` instead.
    pub status: StatusCode,
    /// Body; `text/plain` unless `headers` has a `content-type`.
    pub body: Bytes,
    /// `%RESPONSE_CODE_DETAILS%`.
    pub details: Details,
    /// Response flag to set.
    pub flag: Option<ResponseFlag>,
    /// Headers to add.
    pub headers: HeaderMap,
    /// `grpc-status` in place of the one mapped from `status`.
    pub grpc_status: Option<u32>,
}

impl LocalReply {
    /// A reply with `status`, a text body and details.
    pub fn new(status: StatusCode, body: impl Into<Bytes>, details: impl Into<Details>) -> Self {
        Self {
            status,
            body: body.into(),
            details: details.into(),
            flag: None,
            headers: HeaderMap::new(),
            grpc_status: None,
        }
    }

    /// The same reply with a response flag.
    pub fn with_flag(mut self, flag: ResponseFlag) -> Self {
        self.flag = Some(flag);
        self
    }
}

/// `grpc-status` for an HTTP status (Envoy `Grpc::Utility::httpToGrpcStatus`).
pub fn grpc_status_of(status: StatusCode) -> u32 {
    match status.as_u16() {
        400 => 13,
        401 => 16,
        403 => 7,
        404 => 12,
        429 | 502 | 503 | 504 => 14,
        _ => 2,
    }
}
