//! The action that answers with a fixed response.

use std::{fs, io};

use bytes::Bytes;
use http::{HeaderValue, StatusCode};
use proxy_core::config::{BuildCx, Rejected};
use proxy_core::extension::access_log::LogEntry;
use proxy_core::format::LineFormat;
use proxy_core::head::{RequestHead, ResponseHead};
use proxy_core::stream_info::StreamInfo;
use xds_api::envoy::config::core::v3 as core_proto;
use xds_api::envoy::config::core::v3::data_source::Specifier;
use xds_api::envoy::config::route::v3 as proto;

/// Answers with a fixed response.
#[derive(Debug)]
pub struct DirectResponse {
    /// Status of the response.
    pub status: StatusCode,
    body: Bytes,
    format: Option<LineFormat>,
}

/// The body of one response.
#[derive(Clone, Debug)]
pub struct DirectBody {
    /// The bytes.
    pub bytes: Bytes,
    /// `content-type`, if the body has a format; `text/plain` otherwise.
    pub content_type: Option<HeaderValue>,
}

impl DirectResponse {
    pub(super) fn build(
        proto: &proto::DirectResponseAction,
        max_body: u32,
        cx: &mut BuildCx<'_>,
    ) -> Result<Self, Rejected> {
        let proto::DirectResponseAction { status, body, body_format } = proto;
        let format = match body_format {
            Some(format) => cx.at("body_format", |cx| LineFormat::build(format, cx)).map(Some),
            None => Ok(None),
        };
        let status = cx.at("status", |cx| {
            u16::try_from(*status)
                .ok()
                .filter(|status| (200..600).contains(status))
                .and_then(|status| StatusCode::from_u16(status).ok())
                .ok_or_else(|| cx.reject("value must be inside range [200, 600)"))
        });
        let body = cx.at("body", |cx| match body {
            Some(source) => read(source, max_body as usize, cx),
            None => Ok(Bytes::new()),
        });
        Ok(Self { status: status?, body: body?, format: format? })
    }

    /// Whether the response has a `location` (RFC 9110, 10.2.2): of what was created, or of a redirection. As in Envoy it is the URL of
    /// the request.
    pub fn says_where(&self) -> bool {
        self.status == StatusCode::CREATED || self.status.is_redirection()
    }

    /// The body for `request`; a format has the configured body as `%LOCAL_REPLY_BODY%`.
    pub fn render(&self, request: &RequestHead, info: &StreamInfo) -> DirectBody {
        let Some(format) = &self.format else {
            return DirectBody { bytes: self.body.clone(), content_type: None };
        };
        let response = ResponseHead::new(self.status);
        let entry = LogEntry {
            request: Some(request),
            response: Some(&response),
            local_reply_body: &String::from_utf8_lossy(&self.body),
            ..LogEntry::of(info)
        };
        let mut bytes = Vec::new();
        format.render_body(&entry, &mut bytes);
        let content_type = HeaderValue::try_from(format.content_type()).ok();
        DirectBody { bytes: bytes.into(), content_type }
    }
}

/// Reads a data source of at most `max` bytes.
fn read(source: &core_proto::DataSource, max: usize, cx: &mut BuildCx<'_>) -> Result<Bytes, Rejected> {
    let core_proto::DataSource { watched_directory, specifier } = source;
    cx.reject_if(watched_directory.is_some(), "watched_directory", "bodies are read once, when built")?;
    let limited = |length: usize| match length > max {
        true => Err(format!("response body size is {length} bytes; maximum is {max}")),
        false => Ok(()),
    };
    let read = match specifier {
        None => return Err(cx.reject("specifier: value is required")),
        Some(Specifier::InlineString(text)) => {
            limited(text.len()).map(|()| Bytes::copy_from_slice(text.as_bytes()))
        }
        Some(Specifier::InlineBytes(bytes)) => limited(bytes.len()).map(|()| Bytes::copy_from_slice(bytes)),
        Some(Specifier::EnvironmentVariable(name)) => match std::env::var(name) {
            Ok(value) => limited(value.len()).map(|()| Bytes::from(value)),
            Err(_) => Err(format!("Environment variable doesn't exist: {name}")),
        },
        Some(Specifier::Filename(path)) => match fs::metadata(path).map(|file| file.len()) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                Err(format!("file {path} does not exist"))
            }
            Err(error) => Err(format!("file {path} cannot be read: {error}")),
            Ok(length) if length > max as u64 => {
                Err(format!("file {path} size is {length} bytes; maximum is {max}"))
            }
            Ok(_) => fs::read(path)
                .map_err(|error| format!("file {path} cannot be read: {error}"))
                .and_then(|bytes| limited(bytes.len()).map(|()| Bytes::from(bytes))),
        },
    };
    read.map_err(|reason| cx.reject(reason))
}
