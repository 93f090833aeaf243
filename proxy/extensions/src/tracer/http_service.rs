//! A collector that takes reports over HTTP (`HttpService`).
//!
//! Source: Envoy `envoy/config/core/v3/http_service.proto`.

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method};
use proxy_core::callout::{Call, EnvoyHeaders};
use proxy_core::config::{BuildCx, Rejected};
use proxy_core::names::Name;
use xds_api::envoy::config::core::v3 as proto;
use xds_api::envoy::config::core::v3::header_value_option::HeaderAppendAction;

use crate::shared::uri::HttpUri;

/// The collector.
pub(super) struct HttpService {
    uri: HttpUri,
    headers: HeaderMap,
}

impl HttpService {
    /// Builds it; reports have the headers `own`, unless the configuration says otherwise of them.
    pub(super) fn build(
        proto: &proto::HttpService,
        own: HeaderMap,
        cx: &mut BuildCx<'_>,
    ) -> Result<Self, Rejected> {
        let proto::HttpService { http_uri, request_headers_to_add, formatters: _ } = proto;
        let uri = HttpUri::build(http_uri.as_ref(), cx)?;
        let mut headers = own;
        for (name, value) in cx.each("request_headers_to_add", request_headers_to_add, build_header)? {
            headers.insert(name, value);
        }
        Ok(Self { uri, headers })
    }

    /// A collector of which no more is said than this.
    pub(super) fn new(cluster: Name, authority: &str, path: &str, headers: HeaderMap) -> Self {
        Self { uri: HttpUri::of(cluster, authority, path), headers }
    }

    /// The name of its cluster.
    pub(super) fn cluster(&self) -> &str {
        self.uri.cluster.as_str()
    }

    /// The call that reports `body`.
    pub(super) fn call(&self, body: impl Into<Bytes>) -> Call {
        let request = self.uri.request(Method::POST, self.headers.clone());
        Call {
            timeout: self.uri.timeout,
            envoy_headers: EnvoyHeaders::InternalAndForwarded,
            ..Call::new(self.uri.cluster.clone(), request, body.into())
        }
    }
}

/// A header of every report; it takes the place of what is there of its name.
fn build_header(
    proto: &proto::HeaderValueOption,
    cx: &mut BuildCx<'_>,
) -> Result<(HeaderName, HeaderValue), Rejected> {
    #[allow(deprecated, reason = "it is refused")]
    let proto::HeaderValueOption { header, append, append_action, keep_empty_value } = proto;
    cx.reject_if(append.is_some(), "append", "headers are set")?;
    let sets = matches!(
        HeaderAppendAction::try_from(*append_action),
        Ok(HeaderAppendAction::AppendIfExistsOrAdd | HeaderAppendAction::OverwriteIfExistsOrAdd)
    );
    cx.reject_if(!sets, "append_action", "headers are set")?;
    cx.reject_if(*keep_empty_value, "keep_empty_value", "empty values are kept")?;
    let proto::HeaderValue { key, value, raw_value } = header.clone().unwrap_or_default();
    cx.at("header", |cx| {
        cx.reject_if(!raw_value.is_empty(), "raw_value", "use value")?;
        cx.reject_if(value.contains('%'), "value", "it is sent as it is: '%' begins nothing")?;
        let name = HeaderName::from_bytes(key.as_bytes());
        let name = name.map_err(|_| cx.at("key", |cx| cx.reject(format!("'{key}' is not a header name"))))?;
        let reason = "value has characters that a header cannot have";
        let value = HeaderValue::from_str(&value).map_err(|_| cx.at("value", |cx| cx.reject(reason)))?;
        Ok((name, value))
    })
}
