//! The configuration of the filter: when it compresses, in each direction.

use http::HeaderMap;
use http::header::{CONTENT_LENGTH, CONTENT_TYPE};
use proxy_core::config::{BuildCx, Rejected};
use proxy_core::matcher::StringMatcher;
use proxy_core::stats::Cells;
use xds_api::envoy::extensions::filters::http::compressor::v3 as proto;
use xds_api::envoy::extensions::filters::http::compressor::v3::compressor::{
    CommonDirectionConfig, ResponseDirectionConfig,
};
use xds_api::envoy::extensions::filters::http::compressor::v3::compressor_per_route::Override;

use super::library::Library;
use super::{DirectionStats, ResponseStats};
use crate::shared::runtime_flag::RuntimeFlag;

/// What is compressed where the configuration names no types.
const TYPES: [&str; 18] = [
    "application/ecmascript",
    "application/javascript",
    "application/json",
    "application/x-javascript",
    "application/x-json",
    "application/xhtml+xml",
    "application/xml",
    "image/svg+xml",
    "text/css",
    "text/ecmascript",
    "text/html",
    "text/javascript",
    "text/js",
    "text/jscript",
    "text/plain",
    "text/x-javascript",
    "text/x-js",
    "text/xml",
];
/// Bytes that a body has at least to be compressed, unless configured.
const MIN_LENGTH: u32 = 30;

/// The configuration.
pub struct Config {
    pub(super) library: Library,
    pub(super) choose_first: bool,
    /// Whether requests may be compressed at all.
    pub(super) compresses_requests: bool,
    pub(super) request: Direction,
    pub(super) response: Direction,
    pub(super) disable_on_etag: bool,
    pub(super) weaken_etag: bool,
    pub(super) remove_accept_encoding: bool,
    pub(super) uncompressible: Box<[u32]>,
    pub(super) status_header: bool,
    pub(super) stats: Cells<ResponseStats>,
}

impl Config {
    pub(super) fn build(proto: proto::Compressor, cx: &mut BuildCx<'_>) -> Result<Self, Rejected> {
        #[allow(deprecated, reason = "it counts where there is nothing newer")]
        let proto::Compressor {
            content_length,
            content_type,
            disable_on_etag_header,
            remove_accept_encoding_header,
            runtime_enabled,
            compressor_library,
            request_direction_config,
            response_direction_config,
            choose_first,
        } = proto;
        let library = cx.at("compressor_library", |cx| match &compressor_library {
            Some(library) => Library::build(library, cx),
            None => Err(cx.reject("value is required")),
        })?;
        let name = compressor_library.map(|library| library.name).unwrap_or_default();
        let scope = format!("{}compressor.{name}.{}", cx.stat_prefix, library.stat_name());
        let scope = cx.env.stats.scope(&scope);
        let is_new = response_direction_config.is_some();
        let ResponseDirectionConfig {
            common_config,
            disable_on_etag_header,
            weaken_etag_on_compress,
            remove_accept_encoding_header,
            uncompressible_response_codes,
            status_header_enabled,
        } = response_direction_config.unwrap_or_else(|| ResponseDirectionConfig {
            #[allow(deprecated, reason = "as above")]
            common_config: Some(CommonDirectionConfig {
                enabled: runtime_enabled,
                min_content_length: content_length,
                content_type,
                content_type_matcher: Vec::new(),
            }),
            disable_on_etag_header,
            remove_accept_encoding_header,
            ..ResponseDirectionConfig::default()
        });
        let responses = if is_new { scope.child("response") } else { scope.clone() };
        let response = cx.at("response_direction_config", |cx| {
            Direction::build(common_config.unwrap_or_default(), responses.cells(), cx)
        })?;
        let compresses_requests = request_direction_config.is_some();
        let common = request_direction_config.and_then(|config| config.common_config);
        let request = cx.at("request_direction_config", |cx| {
            Direction::build(common.unwrap_or_default(), scope.child("request").cells(), cx)
        })?;
        Ok(Self {
            library,
            choose_first,
            compresses_requests,
            request,
            response,
            disable_on_etag: disable_on_etag_header,
            weaken_etag: weaken_etag_on_compress,
            remove_accept_encoding: remove_accept_encoding_header,
            uncompressible: uncompressible_response_codes.into(),
            status_header: status_header_enabled,
            stats: scope.cells(),
        })
    }
}

/// When bodies of one direction are compressed.
pub(super) struct Direction {
    enabled: RuntimeFlag,
    min_length: u64,
    types: Types,
    pub(super) stats: Cells<DirectionStats>,
}

enum Types {
    /// In lower case, and sorted.
    Listed(Box<[Box<str>]>),
    Matched(Box<[StringMatcher]>),
}

impl Direction {
    fn build(
        proto: CommonDirectionConfig,
        stats: Cells<DirectionStats>,
        cx: &mut BuildCx<'_>,
    ) -> Result<Self, Rejected> {
        #[allow(deprecated, reason = "Istio uses it")]
        let CommonDirectionConfig { enabled, min_content_length, content_type, content_type_matcher } = proto;
        let matchers = cx.at("common_config", |cx| {
            cx.each("content_type_matcher", &content_type_matcher, StringMatcher::build)
        })?;
        let types = if !matchers.is_empty() {
            Types::Matched(matchers.into())
        } else if content_type.is_empty() {
            Types::Listed(TYPES.iter().map(|one| (*one).into()).collect())
        } else {
            let mut types: Vec<Box<str>> =
                content_type.iter().map(|one| one.to_ascii_lowercase().into()).collect();
            types.sort_unstable();
            Types::Listed(types.into())
        };
        let min_length = min_content_length.filter(|length| *length > 0).unwrap_or(MIN_LENGTH);
        Ok(Self { enabled: RuntimeFlag::new(enabled, cx), min_length: min_length.into(), types, stats })
    }

    pub(super) fn is_enabled(&self) -> bool {
        self.enabled.get()
    }

    /// Whether a message of this length, as far as it is known, is long enough; counts those that are not.
    pub(super) fn is_long_enough(&self, headers: &HeaderMap) -> bool {
        let Some(value) = headers.get(CONTENT_LENGTH) else { return true };
        let length = value.to_str().ok().and_then(|value| value.parse::<u64>().ok());
        let is_enough = length.is_some_and(|length| length >= self.min_length);
        if !is_enough {
            self.stats.here().content_length_too_small.inc();
        }
        is_enough
    }

    /// Whether messages of this type are compressed. Those that say nothing of it are.
    pub(super) fn allows_type(&self, headers: &HeaderMap) -> bool {
        let Some(value) = headers.get(CONTENT_TYPE) else { return true };
        let value = value.as_bytes();
        let value = value.split(|byte| *byte == b';').next().unwrap_or(value).trim_ascii();
        match &self.types {
            Types::Listed(types) => {
                let lower = value.to_ascii_lowercase();
                types.binary_search_by(|one| one.as_bytes().cmp(&lower)).is_ok()
            }
            Types::Matched(matchers) => matchers.iter().any(|matcher| matcher.matches(value)),
        }
    }
}

/// What a route says.
pub struct RouteConfig {
    /// Whether responses are compressed, whatever the filter says.
    pub(super) compresses: Option<bool>,
    pub(super) remove_accept_encoding: Option<bool>,
    pub(super) library: Option<Library>,
}

impl RouteConfig {
    pub(super) fn build(proto: proto::CompressorPerRoute, cx: &mut BuildCx<'_>) -> Result<Self, Rejected> {
        match proto.r#override {
            None => {
                let reason = "this, or disabled, must be set";
                Err(cx.at("overrides", |cx| cx.reject(reason)))
            }
            Some(Override::Disabled(_)) => {
                Ok(Self { compresses: Some(false), remove_accept_encoding: None, library: None })
            }
            Some(Override::Overrides(overrides)) => cx.at("overrides", |cx| {
                let proto::CompressorOverrides { response_direction_config, compressor_library } = overrides;
                let library = compressor_library
                    .map(|library| cx.at("compressor_library", |cx| Library::build(&library, cx)));
                let response = response_direction_config;
                Ok(Self {
                    compresses: response.map(|_| true),
                    remove_accept_encoding: response
                        .and_then(|response| response.remove_accept_encoding_header),
                    library: library.transpose()?,
                })
            }),
        }
    }
}
