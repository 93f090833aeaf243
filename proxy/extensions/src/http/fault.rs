//! `envoy.filters.http.fault`: delays requests, aborts them, and slows responses down, for a share of them.
//!
//! A route's configuration takes the place of the filter's own. What is done to a stream, and how much, comes from the
//! configuration (`settings`), from headers of the request where it says so, and from runtime keys.
//! Source: Envoy `docs/root/configuration/http/http_filters/fault_filter.rst`; observed on 1.40.

mod settings;

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};
use std::task::{Context, Poll};

use bytes::Bytes;
use proxy_core::config::{BuildCx, FieldUse, MessageFields, Rejected};
use proxy_core::extension::http_filter::{
    DataStep, Direction, Engine, HeadersStep, HttpFilter, HttpFilterExtension, Phases, StreamCx, Verdict,
};
use proxy_core::extension::{Descriptor, SecurityPosture, Status};
use proxy_core::head::{RequestHead, ResponseHead};
use proxy_core::response_flag::ResponseFlag;
use proxy_core::stats::{Cells, Registry, Shared};
use proxy_core::stream_info::StreamInfo;
use xds_api::envoy::extensions::filters::http::fault::v3 as proto;

use self::settings::{Asked, Settings};
use crate::shared::pace::Pace;
use FieldUse::Used;

const MESSAGE: &str = "envoy.extensions.filters.http.fault.v3.HTTPFault";

/// How the fields of the configuration are used.
pub const FIELDS: &[MessageFields] = &[
    (
        MESSAGE,
        &[
            ("delay", Used),
            ("abort", Used),
            ("upstream_cluster", Used),
            ("headers", Used),
            ("downstream_nodes", Used),
            ("max_active_faults", Used),
            ("response_rate_limit", Used),
            ("delay_percent_runtime", Used),
            ("abort_percent_runtime", Used),
            ("delay_duration_runtime", Used),
            ("abort_http_status_runtime", Used),
            ("max_active_faults_runtime", Used),
            ("response_rate_limit_percent_runtime", Used),
            ("abort_grpc_status_runtime", Used),
            ("disable_downstream_cluster_stats", Used),
            ("filter_metadata", Used),
        ],
    ),
    (
        "envoy.extensions.filters.http.fault.v3.FaultAbort",
        &[
            ("percentage", Used),
            ("http_status", Used),
            ("grpc_status", Used),
            ("header_abort", Used),
            ("response_body", Used),
        ],
    ),
    ("envoy.extensions.filters.http.fault.v3.FaultAbort.HeaderAbort", &[]),
    (
        "envoy.extensions.filters.common.fault.v3.FaultDelay",
        &[("percentage", Used), ("fixed_delay", Used), ("header_delay", Used)],
    ),
    ("envoy.extensions.filters.common.fault.v3.FaultDelay.HeaderDelay", &[]),
    (
        "envoy.extensions.filters.common.fault.v3.FaultRateLimit",
        &[("percentage", Used), ("fixed_limit", Used), ("header_limit", Used)],
    ),
    ("envoy.extensions.filters.common.fault.v3.FaultRateLimit.FixedLimit", &[("limit_kbps", Used)]),
    ("envoy.extensions.filters.common.fault.v3.FaultRateLimit.HeaderLimit", &[]),
];

/// The extension.
pub struct Fault;

impl HttpFilterExtension for Fault {
    const DESCRIPTOR: Descriptor = Descriptor {
        name: "envoy.filters.http.fault",
        message: MESSAGE,
        status: Status::Stable,
        posture: SecurityPosture::RobustToUntrustedDownstreamAndUpstream,
    };
    const ROUTE_MESSAGE: Option<&'static str> = Some(MESSAGE);
    /// The body of a response is looked at only where it is slowed down.
    const PHASES: Phases = Phases { request_body: false, response_headers: false, response_body: false };
    type Proto = proto::HttpFault;
    type Config = Config;
    type RouteProto = proto::HttpFault;
    type RouteConfig = Settings;

    fn build(proto: Self::Proto, cx: &mut BuildCx<'_>) -> Result<Self::Config, Rejected> {
        let settings = Settings::build(proto, cx)?;
        let prefix = format!("{}fault", cx.stat_prefix);
        let scope = cx.env.stats.scope(&prefix);
        let (stats, active) = (scope.cells(), scope.shared());
        let callers = Callers { registry: cx.env.stats.clone(), prefix, known: RwLock::default() };
        Ok(Config { settings, stats, active, callers })
    }

    fn build_route(proto: Self::RouteProto, cx: &mut BuildCx<'_>) -> Result<Self::RouteConfig, Rejected> {
        Settings::build(proto, cx)
    }

    fn create(config: &Arc<Self::Config>) -> Box<dyn HttpFilter> {
        Box::new(Filter { config: config.clone(), is_active: false, pace: None })
    }
}

/// The filter's own settings, and where it counts for all routes.
pub struct Config {
    settings: Settings,
    stats: Cells<FaultStats>,
    active: Shared<ActiveStats>,
    callers: Callers,
}

proxy_core::stats! {
    /// `http.<stat_prefix>.fault`.
    pub sharded struct FaultStats {
        /// Requests that were aborted.
        counter aborts_injected,
        /// Requests that were delayed.
        counter delays_injected,
        /// Faults that were not injected, because too many were active.
        counter faults_overflow,
        /// Responses that were slowed down.
        counter response_rl_injected,
    }

    /// `http.<stat_prefix>.fault`: what all workers look at.
    pub shared struct ActiveStats {
        /// Streams with a fault.
        gauge active_faults,
    }

    /// `http.<stat_prefix>.fault.<downstream cluster>`.
    pub sharded struct CallerStats {
        /// Requests that were aborted.
        counter aborts_injected [on_demand],
        /// Requests that were delayed.
        counter delays_injected [on_demand],
    }
}

/// What a request is called that says which cluster it comes from (`x-envoy-downstream-service-cluster`): clients choose it, so only
/// this many are counted by name.
const CALLER_LIMIT: usize = 1_000;

/// The counters of clusters that requests come from.
struct Callers {
    registry: Arc<Registry>,
    prefix: String,
    known: RwLock<HashMap<Box<str>, Arc<Cells<CallerStats>>>>,
}

impl Callers {
    /// The counters of one; `None` if it is new and there are too many already.
    fn get(&self, cluster: &str) -> Option<Arc<Cells<CallerStats>>> {
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        if let Some(stats) = known.get(cluster) {
            return Some(stats.clone());
        }
        if known.len() >= CALLER_LIMIT {
            return None;
        }
        drop(known);
        let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
        let new = || Arc::new(self.registry.scope(&format!("{}.{cluster}", self.prefix)).cells());
        Some(known.entry(cluster.into()).or_insert_with(new).clone())
    }
}

struct Filter {
    config: Arc<Config>,
    /// Whether this stream is one of the active faults.
    is_active: bool,
    /// How fast the response may go.
    pace: Option<Pace>,
}

impl Filter {
    /// Makes this stream one of the active faults, unless there are too many.
    fn activate(&mut self, settings: &Settings, cx: &StreamCx<'_>) -> bool {
        let active = &self.config.active.active_faults;
        if !self.is_active && active.value() >= settings.max_active(cx.engine.runtime()) {
            self.config.stats.here().faults_overflow.inc();
            return false;
        }
        if !self.is_active {
            active.inc();
            self.is_active = true;
        }
        true
    }

    fn count(&self, settings: &Settings, asked: &Asked, count: impl Fn(&CallerStats)) {
        if let Some(cluster) = asked.cluster.as_deref().filter(|_| settings.counts_callers)
            && let Some(stats) = self.config.callers.get(cluster)
        {
            count(stats.here());
        }
    }

    /// The end of the request, if it is to be aborted.
    fn abort(&mut self, settings: &Settings, asked: &Asked, cx: &mut StreamCx<'_>) -> Option<Verdict> {
        let reply = settings.abort(asked, cx)?;
        if !self.activate(settings, cx) {
            return None;
        }
        self.config.stats.here().aborts_injected.inc();
        self.count(settings, asked, |stats| stats.aborts_injected.inc());
        settings.mark(cx);
        Some(Verdict::Reply(Box::new(reply.with_flag(ResponseFlag::FaultInjected))))
    }
}

impl HttpFilter for Filter {
    fn on_request_headers<'a>(&'a mut self, cx: &'a mut StreamCx<'_>, _end: bool) -> HeadersStep<'a> {
        let of_route = cx.route_configs;
        if of_route.is_empty() && self.config.settings.is_empty() {
            return HeadersStep::Continue;
        }
        let config = self.config.clone();
        let route = of_route.first().and_then(|settings| settings.downcast_ref::<Settings>());
        let settings = route.unwrap_or(&config.settings);
        if settings.is_empty() || !settings.concern(cx) {
            return HeadersStep::Continue;
        }
        let asked = Asked::by(cx.request);
        if let Some(pace) = settings.pace(&asked, cx)
            && self.activate(settings, cx)
        {
            self.config.stats.here().response_rl_injected.inc();
            self.pace = Some(pace);
            cx.phases.response_body = true;
        }
        if let Some(delay) = settings.delay(&asked, cx)
            && self.activate(settings, cx)
        {
            self.config.stats.here().delays_injected.inc();
            self.count(settings, &asked, |stats| stats.delays_injected.inc());
            cx.info.flags.set(ResponseFlag::DelayInjected);
            settings.mark(cx);
            return HeadersStep::Wait(Box::pin(async move {
                tokio::time::sleep(delay).await;
                let route = of_route.first().and_then(|settings| settings.downcast_ref::<Settings>());
                let settings = route.unwrap_or(&config.settings);
                self.abort(settings, &asked, cx).unwrap_or(Verdict::Continue)
            }));
        }
        match self.abort(settings, &asked, cx) {
            Some(Verdict::Reply(reply)) => HeadersStep::Reply(reply),
            _ => HeadersStep::Continue,
        }
    }

    fn on_response_data<'a>(
        &'a mut self,
        _cx: &'a mut StreamCx<'_>,
        data: &'a mut Bytes,
        _end: bool,
    ) -> DataStep<'a> {
        match self.pace.as_mut().and_then(|pace| pace.part(data)) {
            Some(rest) => DataStep::Part(rest),
            None => DataStep::Continue,
        }
    }

    fn poll_rest(&mut self, _: Direction, task: &mut Context<'_>) -> Poll<()> {
        self.pace.as_mut().map_or(Poll::Ready(()), |pace| pace.poll(task))
    }

    fn on_complete(&mut self, _: &RequestHead, _: Option<&ResponseHead>, _: &mut StreamInfo, _: &dyn Engine) {
        if std::mem::take(&mut self.is_active) {
            self.config.active.active_faults.dec();
        }
    }
}

impl Drop for Filter {
    /// A stream that ends without its completion leaves no fault behind.
    fn drop(&mut self) {
        if self.is_active {
            self.config.active.active_faults.dec();
        }
    }
}

#[cfg(test)]
mod tests;
