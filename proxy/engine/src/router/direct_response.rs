//! The action that answers with a fixed response.

use std::fs;

use bytes::Bytes;
use http::StatusCode;
use proxy_core::config::{BuildCx, Rejected};
use xds_api::envoy::config::core::v3 as core_proto;
use xds_api::envoy::config::core::v3::data_source::Specifier;
use xds_api::envoy::config::route::v3 as proto;

/// Answers with a fixed response.
#[derive(Debug)]
pub struct DirectResponse {
    /// Status of the response.
    pub status: StatusCode,
    /// Its body, `text/plain` unless empty.
    pub body: Bytes,
}

impl DirectResponse {
    pub(super) fn build(
        proto: &proto::DirectResponseAction,
        max_body: u32,
        cx: &mut BuildCx<'_>,
    ) -> Result<Self, Rejected> {
        let proto::DirectResponseAction { status, body, body_format } = proto;
        let format = cx.reject_if(body_format.is_some(), "body_format", "formatted bodies are not available");
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
        format?;
        Ok(Self { status: status?, body: body? })
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
            Err(_) => Err(format!("environment variable doesn't exist: {name}")),
        },
        Some(Specifier::Filename(path)) => match fs::metadata(path).map(|file| file.len()) {
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
