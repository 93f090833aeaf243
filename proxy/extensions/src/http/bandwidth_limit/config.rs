//! The configuration of the filter, and of a route, which has the same form; and where it counts.

use std::sync::Arc;
use std::time::Duration;

use http::HeaderName;
use proxy_core::config::{BuildCx, Rejected, duration};
use proxy_core::extension::http_filter::Direction;
use proxy_core::stats::{Cells, Counter, Gauge, Histogram, Shared, SharedGauge};
use tokio::time::Instant;
use xds_api::envoy::extensions::filters::http::bandwidth_limit::v3 as proto;
use xds_api::envoy::extensions::filters::http::bandwidth_limit::v3::bandwidth_limit::EnableMode;

use crate::shared::pace::{FILL_INTERVAL, bytes_per_second};
use crate::shared::runtime_flag::RuntimeFlag;
use crate::shared::token_bucket::TokenBucket;

proxy_core::stats! {
    /// `<stat_prefix>.http_bandwidth_limit`
    pub sharded struct BandwidthStats {
        /// Requests that were limited.
        counter request_enabled,
        /// How often a request had to wait.
        counter request_enforced,
        /// Bytes of requests that came.
        counter request_incoming_total_size,
        /// Bytes of requests that went on.
        counter request_allowed_total_size,
        /// Requests whose bodies are on their way.
        gauge request_pending,
        /// From the first piece of a request's body to its end.
        histogram request_transfer_duration (Milliseconds),
        /// Responses that were limited.
        counter response_enabled,
        /// How often a response had to wait.
        counter response_enforced,
        /// Bytes of responses that came.
        counter response_incoming_total_size,
        /// Bytes of responses that went on.
        counter response_allowed_total_size,
        /// Responses whose bodies are on their way.
        gauge response_pending,
        /// From the first piece of a response's body to its end.
        histogram response_transfer_duration (Milliseconds),
    }

    /// `<stat_prefix>.http_bandwidth_limit`: what was seen last, by whatever worker.
    pub shared struct SizeStats {
        /// Bytes of the piece of a request that came last.
        gauge request_incoming_size,
        /// Bytes of the piece of a request that went on last.
        gauge request_allowed_size,
        /// Bytes of the piece of a response that came last.
        gauge response_incoming_size,
        /// Bytes of the piece of a response that went on last.
        gauge response_allowed_size,
    }
}

/// The counters of one direction.
pub(super) struct Counts<'s> {
    pub(super) enabled: &'s Counter,
    pub(super) enforced: &'s Counter,
    pub(super) incoming_total: &'s Counter,
    pub(super) allowed_total: &'s Counter,
    pub(super) pending: &'s Gauge,
    pub(super) duration: &'s Histogram,
}

/// The sizes of one direction.
pub(super) struct Sizes<'s> {
    pub(super) incoming: &'s SharedGauge,
    pub(super) allowed: &'s SharedGauge,
}

/// What the trailers are called that tell how long messages took.
pub(super) struct TrailerNames {
    pub(super) request_delay: HeaderName,
    pub(super) request_filter_delay: HeaderName,
    pub(super) response_delay: HeaderName,
    pub(super) response_filter_delay: HeaderName,
}

impl TrailerNames {
    fn build(prefix: &str, cx: &mut BuildCx<'_>) -> Result<Self, Rejected> {
        let mut name = |rest: &str| {
            let name = if prefix.is_empty() { rest.to_owned() } else { format!("{prefix}-{rest}") };
            HeaderName::from_bytes(name.as_bytes())
                .map_err(|_| cx.at("response_trailer_prefix", |cx| cx.reject("cannot begin a header's name")))
        };
        Ok(Self {
            request_delay: name("bandwidth-request-delay-ms")?,
            request_filter_delay: name("bandwidth-request-filter-delay-ms")?,
            response_delay: name("bandwidth-response-delay-ms")?,
            response_filter_delay: name("bandwidth-response-filter-delay-ms")?,
        })
    }
}

/// The configuration of the filter or of a route.
pub struct Config {
    pub(super) bucket: Arc<TokenBucket>,
    pub(super) fill_interval: Duration,
    /// Names of trailers, where responses get any.
    pub(super) trailers: Option<TrailerNames>,
    mode: EnableMode,
    enabled: RuntimeFlag,
    stats: Cells<BandwidthStats>,
    sizes: Shared<SizeStats>,
}

impl Config {
    pub(super) fn build(proto: proto::BandwidthLimit, cx: &mut BuildCx<'_>) -> Result<Self, Rejected> {
        let proto::BandwidthLimit {
            stat_prefix,
            enable_mode,
            limit_kbps,
            fill_interval,
            runtime_enabled,
            enable_response_trailers,
            response_trailer_prefix,
        } = proto;
        if stat_prefix.is_empty() {
            return Err(cx.at("stat_prefix", |cx| cx.reject("value length must be at least 1 characters")));
        }
        let mode = EnableMode::try_from(enable_mode).map_err(|_| {
            cx.at("enable_mode", |cx| cx.reject("value must be one of the defined enum values"))
        })?;
        let limit = match limit_kbps {
            None if mode == EnableMode::Disabled => 1,
            None => {
                let reason = "value is required where bodies are limited: without it none would ever pass";
                return Err(cx.at("limit_kbps", |cx| cx.reject(reason)));
            }
            Some(0) => {
                return Err(cx.at("limit_kbps", |cx| cx.reject("value must be greater than or equal to 1")));
            }
            Some(limit) => limit,
        };
        let fill_interval = match &fill_interval {
            None => FILL_INTERVAL,
            Some(proto) => duration(proto)
                .filter(|interval| (Duration::from_millis(20)..=Duration::from_secs(1)).contains(interval))
                .ok_or_else(|| {
                    cx.at("fill_interval", |cx| cx.reject("value must be inside range [20ms, 1s]"))
                })?,
        };
        let trailers = match enable_response_trailers {
            true => Some(TrailerNames::build(&response_trailer_prefix, cx)?),
            false => None,
        };
        let per_second = bytes_per_second(limit);
        let scope = cx.env.stats.scope(&format!("{stat_prefix}.http_bandwidth_limit"));
        Ok(Self {
            bucket: Arc::new(TokenBucket::of_a_second(per_second, per_second, Instant::now().into_std())),
            fill_interval,
            trailers,
            mode,
            enabled: RuntimeFlag::new(runtime_enabled, cx),
            stats: scope.cells(),
            sizes: scope.shared(),
        })
    }

    /// Whether messages in `direction` are limited now.
    pub(super) fn limits(&self, direction: Direction) -> bool {
        let is_meant = match self.mode {
            EnableMode::Disabled => false,
            EnableMode::Request => direction == Direction::Request,
            EnableMode::Response => direction == Direction::Response,
            EnableMode::RequestAndResponse => true,
        };
        is_meant && self.enabled.get()
    }

    pub(super) fn counts(&self, direction: Direction) -> Counts<'_> {
        let stats = self.stats.here();
        match direction {
            Direction::Request => Counts {
                enabled: &stats.request_enabled,
                enforced: &stats.request_enforced,
                incoming_total: &stats.request_incoming_total_size,
                allowed_total: &stats.request_allowed_total_size,
                pending: &stats.request_pending,
                duration: &stats.request_transfer_duration,
            },
            Direction::Response => Counts {
                enabled: &stats.response_enabled,
                enforced: &stats.response_enforced,
                incoming_total: &stats.response_incoming_total_size,
                allowed_total: &stats.response_allowed_total_size,
                pending: &stats.response_pending,
                duration: &stats.response_transfer_duration,
            },
        }
    }

    pub(super) fn sizes(&self, direction: Direction) -> Sizes<'_> {
        match direction {
            Direction::Request => Sizes {
                incoming: &self.sizes.request_incoming_size,
                allowed: &self.sizes.request_allowed_size,
            },
            Direction::Response => Sizes {
                incoming: &self.sizes.response_incoming_size,
                allowed: &self.sizes.response_allowed_size,
            },
        }
    }
}
