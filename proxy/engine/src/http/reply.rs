//! The only place that turns a local reply into a head and a body: gRPC-aware, and changed as `local_reply_config` asks.
//!
//! Source: Envoy `docs/root/configuration/http/http_conn_man/local_reply.rst`, `Utility::sendLocalReply`.

use bytes::Bytes;
use http::{HeaderValue, StatusCode, header};
use percent_encoding::{AsciiSet, CONTROLS, utf8_percent_encode};
use proxy_core::config::{BuildCx, Rejected};
use proxy_core::head::{RequestHead, ResponseHead};
use proxy_core::headers::{GRPC_MESSAGE, GRPC_STATUS};
use proxy_core::local_reply::{LocalReply, grpc_status_of};
use xds_api::envoy::extensions::filters::network::http_connection_manager::v3 as proto;

/// What gRPC percent-encodes in `grpc-message` beside control bytes and non-ASCII.
const GRPC_MESSAGE_SET: &AsciiSet = &CONTROLS.add(b'%');

/// Changes to local replies (`local_reply_config`).
#[derive(Default)]
pub struct LocalReplies {}

impl LocalReplies {
    /// Takes the mappers and the format of `proto`.
    pub fn build(proto: Option<&proto::LocalReplyConfig>, cx: &mut BuildCx<'_>) -> Result<Self, Rejected> {
        if let Some(proto) = proto
            && (!proto.mappers.is_empty() || proto.body_format.is_some())
        {
            return Err(cx.reject("local reply mappers are not available"));
        }
        Ok(Self {})
    }
}

/// The head and the body of `reply` for `request`.
pub(crate) fn build(reply: LocalReply, request: Option<&RequestHead>) -> (ResponseHead, Bytes) {
    if request.is_some_and(RequestHead::is_grpc) {
        return (grpc(&reply), Bytes::new());
    }
    let mut head = ResponseHead { status: reply.status, headers: reply.headers };
    let has_body = !matches!(reply.status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED);
    if has_body && !reply.body.is_empty() {
        head.headers.insert(header::CONTENT_LENGTH, HeaderValue::from(reply.body.len()));
        if !head.headers.contains_key(header::CONTENT_TYPE) {
            head.headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain"));
        }
    }
    let body = if has_body { reply.body } else { Bytes::new() };
    (head, body)
}

/// A trailers-only gRPC response.
fn grpc(reply: &LocalReply) -> ResponseHead {
    let mut head = ResponseHead { status: StatusCode::OK, headers: reply.headers.clone() };
    head.headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    let status = reply.grpc_status.unwrap_or_else(|| grpc_status_of(reply.status));
    head.headers.insert(&GRPC_STATUS, HeaderValue::from(status));
    if let Ok(text) = std::str::from_utf8(&reply.body)
        && !text.is_empty()
        && let Ok(value) = HeaderValue::from_str(&utf8_percent_encode(text, GRPC_MESSAGE_SET).to_string())
    {
        head.headers.insert(&GRPC_MESSAGE, value);
    }
    head
}
