//! A collector that takes reports over HTTP (`HttpService`).
//!
//! Source: Envoy `envoy/config/core/v3/http_service.proto`.

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method};
use proxy_core::callout::{Call, EnvoyHeaders};
use proxy_core::config::{BuildCx, Rejected, duration};
use proxy_core::head::{RequestHead, Scheme};
use proxy_core::names::Name;
use proxy_core::text::Text;
use xds_api::envoy::config::core::v3 as proto;
use xds_api::envoy::config::core::v3::header_value_option::HeaderAppendAction;
use xds_api::envoy::config::core::v3::http_uri::HttpUpstreamType;

use crate::shared::uri::host_and_path;

/// The collector.
pub(super) struct HttpService {
    cluster: Name,
    scheme: Scheme,
    authority: Text,
    path: Text,
    /// How long a report may take, if that is limited.
    timeout: Option<Duration>,
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
        let Some(proto::HttpUri { uri, timeout, http_upstream_type }) = http_uri else {
            return Err(cx.at("http_uri", |cx| cx.reject("value is required")));
        };
        let Some(HttpUpstreamType::Cluster(cluster)) = http_upstream_type else {
            return Err(cx.at("http_uri", |cx| cx.at("cluster", |cx| cx.reject("value is required"))));
        };
        let mut headers = own;
        for (name, value) in cx.each("request_headers_to_add", request_headers_to_add, build_header)? {
            headers.insert(name, value);
        }
        let (authority, path) = host_and_path(uri);
        Ok(Self {
            cluster: cx.env.clusters.intern(cluster),
            scheme: if uri.starts_with("https://") { Scheme::Https } else { Scheme::Http },
            authority: authority.into(),
            path: path.into(),
            timeout: timeout.as_ref().and_then(duration).filter(|timeout| !timeout.is_zero()),
            headers,
        })
    }

    /// A collector of which no more is said than this.
    pub(super) fn new(cluster: Name, authority: &str, path: &str, headers: HeaderMap) -> Self {
        let (authority, path) = (authority.into(), path.into());
        Self { cluster, scheme: Scheme::Http, authority, path, timeout: None, headers }
    }

    /// The call that reports `body`.
    pub(super) fn call(&self, body: impl Into<Bytes>) -> Call {
        let request = RequestHead {
            method: Method::POST,
            scheme: self.scheme,
            authority: self.authority.clone(),
            path: self.path.clone(),
            upgrade: None,
            case: None,
            headers: self.headers.clone(),
        };
        Call {
            timeout: self.timeout,
            envoy_headers: EnvoyHeaders::InternalAndForwarded,
            ..Call::new(self.cluster.clone(), request, body.into())
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
