//! `envoy.filters.http.adaptive_concurrency`: lets as many requests be in progress as leave them fast, and refuses the others at once.
//!
//! The limit is that of the whole process. How it is found is in `gradient`, which knows no clock; what the workers share of it in `controller`;
//! what configuration and runtime say in `settings`.
//! Source: Envoy `docs/root/configuration/http/http_filters/adaptive_concurrency_filter.rst`; observed on 1.40.

mod controller;
mod gradient;
mod settings;

use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use http::StatusCode;
use proxy_core::config::FieldUse::Used;
use proxy_core::config::{BuildCx, MessageFields, Rejected};
use proxy_core::extension::http_filter::{
    Engine, HeadersStep, HttpFilter, HttpFilterExtension, NoRouteConfig, Phases, StreamCx,
};
use proxy_core::extension::{Descriptor, SecurityPosture, Status};
use proxy_core::head::{RequestHead, ResponseHead};
use proxy_core::local_reply::LocalReply;
use proxy_core::stream_info::StreamInfo;
use xds_api::envoy::extensions::filters::http::adaptive_concurrency::v3 as proto;
use xds_api::envoy::extensions::filters::http::adaptive_concurrency::v3::adaptive_concurrency::ConcurrencyControllerConfig;

use self::controller::Controller;
use self::settings::Settings;
use crate::shared::runtime_flag::RuntimeFlag;

const MESSAGE: &str = "envoy.extensions.filters.http.adaptive_concurrency.v3.AdaptiveConcurrency";

/// How the fields of the configuration are used.
pub const FIELDS: &[MessageFields] = &[
    (
        MESSAGE,
        &[
            ("gradient_controller_config", Used),
            ("enabled", Used),
            ("concurrency_limit_exceeded_status", Used),
        ],
    ),
    (
        "envoy.extensions.filters.http.adaptive_concurrency.v3.GradientControllerConfig",
        &[
            ("sample_aggregate_percentile", Used),
            ("concurrency_limit_params", Used),
            ("min_rtt_calc_params", Used),
        ],
    ),
    (
        "envoy.extensions.filters.http.adaptive_concurrency.v3.GradientControllerConfig.ConcurrencyLimitCalculationParams",
        &[
            ("max_concurrency_limit", Used),
            ("concurrency_update_interval", Used),
            ("min_concurrency_limit", Used),
        ],
    ),
    (
        "envoy.extensions.filters.http.adaptive_concurrency.v3.GradientControllerConfig.MinimumRTTCalculationParams",
        &[
            ("interval", Used),
            ("fixed_value", Used),
            ("request_count", Used),
            ("jitter", Used),
            ("min_concurrency", Used),
            ("buffer", Used),
        ],
    ),
];

/// The extension.
pub struct AdaptiveConcurrency;

impl HttpFilterExtension for AdaptiveConcurrency {
    const DESCRIPTOR: Descriptor = Descriptor {
        name: "envoy.filters.http.adaptive_concurrency",
        message: MESSAGE,
        status: Status::Stable,
        posture: SecurityPosture::RobustToUntrustedDownstreamAndUpstream,
    };
    const PHASES: Phases = Phases { request_body: false, response_headers: false, response_body: false };
    type Proto = proto::AdaptiveConcurrency;
    type Config = Config;
    type RouteProto = NoRouteConfig;
    type RouteConfig = ();

    fn build(proto: Self::Proto, cx: &mut BuildCx<'_>) -> Result<Self::Config, Rejected> {
        let proto::AdaptiveConcurrency {
            enabled,
            concurrency_limit_exceeded_status,
            concurrency_controller_config,
        } = proto;
        let settings = match concurrency_controller_config {
            None => return Err(cx.at("concurrency_controller_config", |cx| cx.reject("is required"))),
            Some(ConcurrencyControllerConfig::GradientControllerConfig(config)) => {
                cx.at("gradient_controller_config", |cx| Settings::build(config, cx))?
            }
        };
        let code = concurrency_limit_exceeded_status.map_or(0, |status| status.code);
        let scope = format!("{}adaptive_concurrency.gradient_controller", cx.stat_prefix);
        Ok(Config {
            enabled: RuntimeFlag::new(enabled, cx),
            status: refused_status(code),
            controller: Controller::new(settings, cx.env.concurrency, &cx.env.stats.scope(&scope)),
        })
    }

    fn build_route((): NoRouteConfig, _: &mut BuildCx<'_>) -> Result<(), Rejected> {
        Ok(())
    }

    fn create(config: &Arc<Self::Config>) -> Box<dyn HttpFilter> {
        Box::new(Filter { config: config.clone(), began: None })
    }
}

/// The configuration, and the limit.
pub struct Config {
    enabled: RuntimeFlag,
    status: StatusCode,
    controller: Controller,
}

/// The status of what is refused: 503 where none is said that refuses.
fn refused_status(code: i32) -> StatusCode {
    let said = u16::try_from(code).ok().filter(|code| *code >= 400);
    said.and_then(|code| StatusCode::from_u16(code).ok()).unwrap_or(StatusCode::SERVICE_UNAVAILABLE)
}

struct Filter {
    config: Arc<Config>,
    /// Since when the request is in progress, if it is.
    began: Option<Instant>,
}

impl HttpFilter for Filter {
    fn on_request_headers<'a>(&'a mut self, cx: &'a mut StreamCx<'_>, _end: bool) -> HeadersStep<'a> {
        if cx.info.health_check || !self.config.enabled.get() {
            return HeadersStep::Continue;
        }
        let now = Instant::now();
        if self.config.controller.admits(now) {
            self.began = Some(now);
            return HeadersStep::Continue;
        }
        HeadersStep::Reply(Box::new(LocalReply::new(
            self.config.status,
            Bytes::from_static(b"reached concurrency limit"),
            "reached_concurrency_limit",
        )))
    }

    fn on_complete(
        &mut self,
        _: &RequestHead,
        _: Option<&ResponseHead>,
        info: &mut StreamInfo,
        engine: &dyn Engine,
    ) {
        let Some(began) = self.began.take() else { return };
        if info.last_downstream_tx.is_some() {
            self.config.controller.ended(began, Instant::now(), engine.random());
        } else {
            self.config.controller.failed();
        }
    }
}

impl Drop for Filter {
    /// A stream that ends without its completion is in progress no more.
    fn drop(&mut self) {
        if self.began.take().is_some() {
            self.config.controller.failed();
        }
    }
}

#[cfg(test)]
mod tests;
