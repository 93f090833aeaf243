//! The service that is asked, and how.

use bytes::Bytes;
use proxy_core::callout::grpc::GrpcService;
use proxy_core::callout::{Call, Called};
use proxy_core::config::{BuildCx, Rejected};
use proxy_core::extension::http_filter::StreamCx;
use xds_api::envoy::config::core::v3 as core;
use xds_api::envoy::extensions::filters::http::ext_authz::v3 as proto;
use xds_api::envoy::service::auth::v3::CheckRequest;

use super::config::{Buffering, Config, RouteConfig};
use super::http_service::HttpService;
use crate::shared::ext_authz::check::{self, fields, put_header};
use crate::shared::ext_authz::verdict::Verdict;
use crate::shared::ext_authz::{CHECK, DEFAULT_TIMEOUT};
use proxy_core::headers::{X_ENVOY_AUTH_PARTIAL_BODY, X_ENVOY_DOWNSTREAM_SERVICE_CLUSTER};

/// A service.
pub(super) enum Service {
    Grpc(GrpcService),
    Http(HttpService),
}

/// The part of a body that a service is told.
pub(super) struct Told {
    pub(super) body: Bytes,
    /// There is more of it.
    pub(super) is_partial: bool,
    pub(super) settings: Buffering,
}

impl Service {
    pub(super) fn build_grpc(proto: &core::GrpcService, cx: &mut BuildCx<'_>) -> Result<Self, Rejected> {
        GrpcService::build(proto, Some(DEFAULT_TIMEOUT), cx).map(Self::Grpc)
    }

    pub(super) fn build_http(proto: &proto::HttpService, cx: &mut BuildCx<'_>) -> Result<Self, Rejected> {
        HttpService::build(proto, DEFAULT_TIMEOUT, cx).map(Self::Http)
    }

    /// What asks it about the request in `cx`.
    pub(super) fn call(&self, config: &Config, cx: &StreamCx<'_>, told: Option<&Told>) -> Call {
        match self {
            Self::Grpc(service) => service.call(CHECK, &request(config, cx, told), cx.info),
            Self::Http(service) => service.call(config, cx, told),
        }
    }

    /// What it decided.
    pub(super) fn verdict(&self, called: &Called) -> Verdict {
        match self {
            Self::Grpc(_) => Verdict::of_grpc(called),
            Self::Http(service) => service.verdict(called),
        }
    }
}

fn request(config: &Config, cx: &StreamCx<'_>, told: Option<&Told>) -> CheckRequest {
    let from = check::first(&cx.request.headers, &X_ENVOY_DOWNSTREAM_SERVICE_CLUSTER);
    let mut attributes = config.told.attributes(cx.info, &from, "");
    let mut request = check::request(cx.info, cx.request, cx.engine.random());
    let http = request.http.get_or_insert_default();
    if config.encoding == check::Encoding::Raw {
        http.header_map = Some(core::HeaderMap::default());
    }
    for (name, value) in fields(cx.request) {
        // (Nobody but this filter says what is in part.)
        if name != X_ENVOY_AUTH_PARTIAL_BODY.as_str() && config.tells(name) {
            put_header(http, config.encoding, name, value);
        }
    }
    if let Some(told) = told {
        match told.settings.as_bytes {
            true => http.raw_body = told.body.to_vec(),
            false => http.body = check::sanitized(&told.body),
        }
        let is_partial = if told.is_partial { "true" } else { "false" };
        put_header(http, config.encoding, X_ENVOY_AUTH_PARTIAL_BODY.as_str(), is_partial.as_bytes());
    }
    attributes.request = Some(request);
    // Of the least specific level first: what a route says wins.
    for level in cx.route_configs::<RouteConfig>().rev() {
        attributes.context_extensions.extend(level.extensions.clone());
    }
    let route = cx.route.map(|route| route.metadata());
    attributes.route_metadata_context = Some(check::route_metadata(&config.route_namespaces, route));
    CheckRequest { attributes: Some(attributes) }
}
