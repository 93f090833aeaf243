//! The only place that turns a local reply into a head and a body: gRPC-aware, and changed as `local_reply_config` asks.
//!
//! Source: Envoy `docs/root/configuration/http/http_conn_man/local_reply.rst`, `Utility::sendLocalReply`.

use bytes::Bytes;
use http::{HeaderValue, StatusCode, header};
use percent_encoding::{AsciiSet, CONTROLS, utf8_percent_encode};
use proxy_core::config::{BuildCx, Rejected};
use proxy_core::extension::access_log::LogEntry;
use proxy_core::format::LineFormat;
use proxy_core::head::ResponseHead;
use proxy_core::headers::{GRPC_MESSAGE, GRPC_STATUS};
use proxy_core::local_reply::{LocalReply, grpc_status_of};
use proxy_core::log_filter::LogFilter;
use xds_api::envoy::config::core::v3 as core;
use xds_api::envoy::extensions::filters::network::http_connection_manager::v3 as proto;

use crate::router::header_mutation::{HeaderMutations, MutationContext};

/// What gRPC percent-encodes in `grpc-message` beside control bytes and non-ASCII.
const GRPC_MESSAGE_SET: &AsciiSet = &CONTROLS.add(b'%');

/// Changes to local replies (`local_reply_config`): the first mapper whose filter passes, then the format.
#[derive(Default)]
pub struct LocalReplies {
    mappers: Vec<Mapper>,
    format: Option<LineFormat>,
}

/// One `ResponseMapper`.
pub(crate) struct Mapper {
    filter: LogFilter,
    status: Option<StatusCode>,
    body: Option<Bytes>,
    format: Option<LineFormat>,
    headers: HeaderMutations,
}

impl LocalReplies {
    /// Takes the mappers and the format of `proto`.
    pub fn build(proto: Option<&proto::LocalReplyConfig>, cx: &mut BuildCx<'_>) -> Result<Self, Rejected> {
        let Some(proto) = proto else { return Ok(Self::default()) };
        let format = build_format("body_format", proto.body_format.as_ref(), cx);
        let mappers = cx.each("mappers", &proto.mappers, Mapper::build)?;
        Ok(Self { mappers, format: format? })
    }

    /// Whether nothing is changed.
    pub(crate) fn is_empty(&self) -> bool {
        self.mappers.is_empty() && self.format.is_none()
    }

    /// The mapper for the reply that `entry` describes.
    pub(crate) fn mapper(&self, entry: &LogEntry<'_>) -> Option<&Mapper> {
        self.mappers.iter().find(|mapper| mapper.filter.passes(entry))
    }

    /// Changes `head` and `body` as `mapper`, if any, and the format say; `head` has the mapper's status already.
    pub(crate) fn apply(
        &self,
        mapper: Option<&Mapper>,
        entry: &LogEntry<'_>,
        head: &mut ResponseHead,
        body: &mut Bytes,
    ) {
        if let Some(mapper) = mapper {
            mapper
                .headers
                .apply_to_response(head, MutationContext { request: entry.request, info: entry.info });
            if let Some(replacement) = &mapper.body {
                *body = replacement.clone();
            }
        }
        let format = mapper.and_then(|mapper| mapper.format.as_ref()).or(self.format.as_ref());
        let content_type = match format {
            Some(format) => {
                let mut rendered = Vec::new();
                let text = String::from_utf8_lossy(body).into_owned();
                let changed = head.clone();
                let entry = LogEntry { local_reply_body: &text, response: Some(&changed), ..*entry };
                format.render(&entry, &mut rendered);
                *body = rendered.into();
                Some(format.content_type())
            }
            None => None,
        };
        if body.is_empty() {
            head.headers.remove(header::CONTENT_LENGTH);
            head.headers.remove(header::CONTENT_TYPE);
            return;
        }
        head.headers.insert(header::CONTENT_LENGTH, HeaderValue::from(body.len()));
        if let Some(value) = content_type.and_then(|text| HeaderValue::from_str(text).ok()) {
            head.headers.insert(header::CONTENT_TYPE, value);
        } else if !head.headers.contains_key(header::CONTENT_TYPE) {
            head.headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain"));
        }
    }
}

impl Mapper {
    /// The status in place of the reply's own.
    pub(crate) fn status(&self) -> Option<StatusCode> {
        self.status
    }

    fn build(proto: &proto::ResponseMapper, cx: &mut BuildCx<'_>) -> Result<Self, Rejected> {
        let Some(filter) = &proto.filter else {
            return Err(cx.at("filter", |cx| cx.reject("value is required")));
        };
        let filter = cx.at("filter", |cx| LogFilter::build(filter, cx));
        let status = proto.status_code.map(|code| {
            u16::try_from(code)
                .ok()
                .and_then(|code| StatusCode::from_u16(code).ok())
                .ok_or_else(|| cx.at("status_code", |cx| cx.reject(format!("{code} is no status"))))
        });
        let body = cx.at("body", |cx| build_body(proto.body.as_ref(), cx));
        let format = build_format("body_format_override", proto.body_format_override.as_ref(), cx);
        let headers =
            cx.at("headers_to_add", |cx| HeaderMutations::build_response(&proto.headers_to_add, &[], cx));
        Ok(Self {
            filter: filter?,
            status: status.transpose()?,
            body: body?,
            format: format?,
            headers: headers?,
        })
    }
}

fn build_format(
    field: &'static str,
    proto: Option<&core::SubstitutionFormatString>,
    cx: &mut BuildCx<'_>,
) -> Result<Option<LineFormat>, Rejected> {
    proto.map(|proto| cx.at(field, |cx| LineFormat::build(proto, cx))).transpose()
}

fn build_body(proto: Option<&core::DataSource>, cx: &mut BuildCx<'_>) -> Result<Option<Bytes>, Rejected> {
    use core::data_source::Specifier;
    let Some(proto) = proto else { return Ok(None) };
    let body = match &proto.specifier {
        Some(Specifier::InlineString(text)) => Bytes::from(text.clone()),
        Some(Specifier::InlineBytes(bytes)) => Bytes::from(bytes.clone()),
        Some(Specifier::Filename(path)) => match std::fs::read(path) {
            Ok(bytes) => bytes.into(),
            Err(error) => return Err(cx.reject(format!("filename: cannot read '{path}': {error}"))),
        },
        Some(Specifier::EnvironmentVariable(name)) => match std::env::var(name) {
            Ok(text) => text.into(),
            Err(_) => return Err(cx.reject(format!("environment_variable: '{name}' is not set"))),
        },
        None => return Err(cx.reject("specifier: value is required")),
    };
    Ok(Some(body))
}

/// The head and the body of `reply`, gRPC not considered.
pub(crate) fn plain(reply: LocalReply) -> (ResponseHead, Bytes) {
    let mut head = ResponseHead { status: reply.status, headers: reply.headers, case: None };
    let has_body = !matches!(reply.status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED);
    if !has_body || reply.body.is_empty() {
        return (head, Bytes::new());
    }
    head.headers.insert(header::CONTENT_LENGTH, HeaderValue::from(reply.body.len()));
    if !head.headers.contains_key(header::CONTENT_TYPE) {
        head.headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain"));
    }
    (head, reply.body)
}

/// The same as a trailers-only gRPC response: the body is the message, the status is mapped unless `status` says it.
pub(crate) fn grpc(plain: ResponseHead, body: &[u8], status: Option<u32>) -> ResponseHead {
    let mut head = ResponseHead { status: StatusCode::OK, headers: plain.headers, case: None };
    head.headers.remove(header::CONTENT_LENGTH);
    head.headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    let status = status.unwrap_or_else(|| grpc_status_of(plain.status));
    head.headers.insert(&GRPC_STATUS, HeaderValue::from(status));
    if let Ok(text) = std::str::from_utf8(body)
        && !text.is_empty()
        && let Ok(value) = HeaderValue::from_str(&utf8_percent_encode(text, GRPC_MESSAGE_SET).to_string())
    {
        head.headers.insert(&GRPC_MESSAGE, value);
    }
    head
}
