//! `envoy.filters.http.admission_control`: refuses a share of requests while too many of the last ones failed, so that what is overloaded recovers.
//!
//! The more requests fail, the more are refused; what is refused does not count. Each worker decides by what it saw itself.
//! How likely a request is refused is in `history`, which knows no clock, and what counts as a success in `criteria`.
//! Source: Envoy `docs/root/configuration/http/http_filters/admission_control_filter.rst`; observed on 1.40.

mod criteria;
mod history;

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{HeaderMap, StatusCode};
use proxy_core::config::FieldUse::Used;
use proxy_core::config::{BuildCx, MessageFields, Rejected, duration};
use proxy_core::extension::http_filter::{
    HeadersStep, HttpFilter, HttpFilterExtension, NoRouteConfig, Phases, StreamCx,
};
use proxy_core::extension::{Descriptor, SecurityPosture, Status};
use proxy_core::grpc::status_in;
use proxy_core::head::is_grpc;
use proxy_core::headers::GRPC_STATUS;
use proxy_core::local_reply::LocalReply;
use proxy_core::stats::Cells;
use xds_api::envoy::extensions::filters::http::admission_control::v3 as proto;
use xds_api::envoy::extensions::filters::http::admission_control::v3::admission_control::EvaluationCriteria;

use self::criteria::Criteria;
use self::history::{History, Strictness};
use crate::shared::per_worker::PerWorker;
use crate::shared::runtime_flag::RuntimeFlag;
use crate::shared::runtime_number::RuntimeNumber;

const MESSAGE: &str = "envoy.extensions.filters.http.admission_control.v3.AdmissionControl";

/// How the fields of the configuration are used.
pub const FIELDS: &[MessageFields] = &[
    (
        MESSAGE,
        &[
            ("enabled", Used),
            ("success_criteria", Used),
            ("sampling_window", Used),
            ("aggression", Used),
            ("sr_threshold", Used),
            ("rps_threshold", Used),
            ("max_rejection_probability", Used),
        ],
    ),
    (
        "envoy.extensions.filters.http.admission_control.v3.AdmissionControl.SuccessCriteria",
        &[("http_criteria", Used), ("grpc_criteria", Used)],
    ),
    (
        "envoy.extensions.filters.http.admission_control.v3.AdmissionControl.SuccessCriteria.HttpCriteria",
        &[("http_success_status", Used)],
    ),
    (
        "envoy.extensions.filters.http.admission_control.v3.AdmissionControl.SuccessCriteria.GrpcCriteria",
        &[("grpc_success_status", Used)],
    ),
];

/// The extension.
pub struct AdmissionControl;

impl HttpFilterExtension for AdmissionControl {
    const DESCRIPTOR: Descriptor = Descriptor {
        name: "envoy.filters.http.admission_control",
        message: MESSAGE,
        status: Status::Stable,
        posture: SecurityPosture::RobustToUntrustedDownstreamAndUpstream,
    };
    /// Trailers are looked at only where they are to tell the status of a call.
    const PHASES: Phases = Phases { request_body: false, response_headers: true, response_body: false };
    const MAY_BE_UPSTREAM: bool = true;
    type Proto = proto::AdmissionControl;
    type Config = Config;
    type RouteProto = NoRouteConfig;
    type RouteConfig = ();

    fn build(proto: Self::Proto, cx: &mut BuildCx<'_>) -> Result<Self::Config, Rejected> {
        Config::build(proto, cx)
    }

    fn build_route((): NoRouteConfig, _: &mut BuildCx<'_>) -> Result<(), Rejected> {
        Ok(())
    }

    fn create(config: &Arc<Self::Config>) -> Box<dyn HttpFilter> {
        Box::new(Filter { config: config.clone(), records: false, awaits_trailers: false })
    }
}

proxy_core::stats! {
    /// `http.<stat_prefix>.admission_control`
    pub sharded struct AdmissionControlStats {
        /// Requests that went wrong.
        counter rq_failure,
        /// Requests that were refused here.
        counter rq_rejected,
        /// Requests that went well.
        counter rq_success,
    }
}

/// The configuration, and what the workers remember.
pub struct Config {
    enabled: RuntimeFlag,
    criteria: Criteria,
    /// In percent.
    threshold: RuntimeNumber,
    aggression: RuntimeNumber,
    /// In percent.
    most: RuntimeNumber,
    /// Requests a second, of a worker.
    least_rate: RuntimeNumber,
    histories: PerWorker<History>,
    stats: Cells<AdmissionControlStats>,
}

impl Config {
    fn build(proto: proto::AdmissionControl, cx: &mut BuildCx<'_>) -> Result<Self, Rejected> {
        let proto::AdmissionControl {
            enabled,
            sampling_window,
            aggression,
            sr_threshold,
            rps_threshold,
            max_rejection_probability,
            evaluation_criteria,
        } = proto;
        let criteria = match evaluation_criteria {
            None => return Err(cx.at("evaluation_criteria", |cx| cx.reject("is required"))),
            Some(EvaluationCriteria::SuccessCriteria(criteria)) => {
                cx.at("success_criteria", |cx| Criteria::build(criteria, cx))?
            }
        };
        let window = match &sampling_window {
            None => Duration::from_secs(30),
            // (Envoy counts whole seconds.)
            Some(window) => Duration::from_secs(duration(window).unwrap_or_default().as_secs()),
        };
        if window.is_zero() {
            let reason = "must be a second at least: a shorter window remembers nothing";
            return Err(cx.at("sampling_window", |cx| cx.reject(reason)));
        }
        if let Some(threshold) = &sr_threshold
            && threshold.default_value.unwrap_or_default().value < 1.0
        {
            let reason = "Success rate threshold cannot be less than 1.0%.";
            return Err(cx.at("sr_threshold", |cx| cx.reject(reason)));
        }
        Ok(Self {
            enabled: RuntimeFlag::new(enabled, cx),
            criteria,
            threshold: RuntimeNumber::percent(sr_threshold, 95.0, cx),
            aggression: RuntimeNumber::double(aggression, 1.0, cx),
            most: RuntimeNumber::percent(max_rejection_probability, 80.0, cx),
            least_rate: RuntimeNumber::whole(rps_threshold, 0, cx),
            histories: PerWorker::new(cx.env.concurrency, || History::new(window)),
            stats: cx.env.stats.scope(&format!("{}admission_control", cx.stat_prefix)).cells(),
        })
    }

    /// Whether a request is to be refused, by chance of `random`.
    fn refuses(&self, random: u64) -> bool {
        let now = Instant::now();
        let mut history = self.histories.here();
        if (as_float(history.rate(now))) < self.least_rate.get() {
            return false;
        }
        let strictness = Strictness {
            threshold: self.threshold.get() / 100.0,
            aggression: self.aggression.get(),
            most: self.most.get() / 100.0,
        };
        strictness.refused_of_10_000(history.counts(now)) > as_float(random % 10_000)
    }

    fn record(&self, success: bool) {
        let stats = self.stats.here();
        if success {
            stats.rq_success.inc();
        } else {
            stats.rq_failure.inc();
        }
        self.histories.here().record(success, Instant::now());
    }
}

#[expect(clippy::cast_precision_loss, reason = "it is far below 2^52")]
fn as_float(count: u64) -> f64 {
    count as f64
}

struct Filter {
    config: Arc<Config>,
    /// Whether what becomes of the request counts.
    records: bool,
    /// The status of the call is in the trailers, if anywhere.
    awaits_trailers: bool,
}

impl HttpFilter for Filter {
    fn on_request_headers<'a>(&'a mut self, cx: &'a mut StreamCx<'_>, _end: bool) -> HeadersStep<'a> {
        if cx.info.health_check || !self.config.enabled.get() {
            return HeadersStep::Continue;
        }
        if self.config.refuses(cx.engine.random()) {
            self.config.stats.here().rq_rejected.inc();
            let details = "denied_by_admission_control";
            return HeadersStep::Reply(Box::new(LocalReply::new(
                StatusCode::SERVICE_UNAVAILABLE,
                Bytes::new(),
                details,
            )));
        }
        self.records = true;
        HeadersStep::Continue
    }

    fn on_response_headers<'a>(&'a mut self, cx: &'a mut StreamCx<'_>, end: bool) -> HeadersStep<'a> {
        let Some(response) = cx.response.as_deref().filter(|_| self.records) else {
            return HeadersStep::Continue;
        };
        let headers = &response.headers;
        let is_call = match end {
            true => headers.contains_key(&GRPC_STATUS),
            false => response.status == StatusCode::OK && is_grpc(headers),
        };
        if is_call && !headers.contains_key(&GRPC_STATUS) {
            self.awaits_trailers = true;
            cx.phases.response_body = true;
            return HeadersStep::Continue;
        }
        let criteria = &self.config.criteria;
        let success = match is_call {
            true => status_in(headers).is_some_and(|status| criteria.grpc(status)),
            false => criteria.http(response.status.as_u16()),
        };
        self.config.record(success);
        HeadersStep::Continue
    }

    fn on_response_trailers<'a>(
        &'a mut self,
        _cx: &'a mut StreamCx<'_>,
        trailers: &'a mut HeaderMap,
    ) -> HeadersStep<'a> {
        if std::mem::take(&mut self.awaits_trailers) {
            let status = status_in(trailers);
            self.config.record(status.is_some_and(|status| self.config.criteria.grpc(status)));
        }
        HeadersStep::Continue
    }
}

#[cfg(test)]
mod tests;
