//! `envoy.filters.http.grpc_stats`: counts gRPC calls and messages by cluster, and by method where that is asked for.
//!
//! Counters are `cluster.<name>.grpc.[<service>.<method>.]{success,failure,total,<status>,request_message_count,
//! response_message_count,upstream_rq_time}`. With `emit_filter_state` the numbers of messages are in the filter state
//! `envoy.filters.http.grpc_stats` for access logs.
//! With `stats_for_all_methods` a client can make up names: after [`METHOD_LIMIT`] of them, calls count without a name.
//! Source: Envoy `docs/root/configuration/http/http_filters/grpc_stats_filter.rst`; names observed on 1.40.

mod frames;
mod methods;

use std::any::Any;
use std::cell::Cell;
use std::collections::{HashMap, HashSet};
use std::rc::Rc;
use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderMap, StatusCode};
use proxy_core::config::{BuildCx, FieldUse, MessageFields, Rejected};
use proxy_core::extension::http_filter::{
    DataStep, Engine, HeadersStep, HttpFilter, HttpFilterExtension, NoRouteConfig, Phases, StreamCx,
};
use proxy_core::extension::{Descriptor, SecurityPosture, Status};
use proxy_core::filter_state::FilterStateValue;
use proxy_core::head::{RequestHead, ResponseHead, is_grpc};
use proxy_core::headers::GRPC_STATUS;
use proxy_core::stream_info::StreamInfo;
use xds_api::envoy::config::core::v3::GrpcMethodList;
use xds_api::envoy::extensions::filters::http::grpc_stats::v3 as proto;
use xds_api::envoy::extensions::filters::http::grpc_stats::v3::filter_config::PerMethodStatSpecifier;

use FieldUse::Used;
use frames::FrameCounter;
pub use methods::METHOD_LIMIT;
use methods::{MethodCounters, Methods};

/// How the fields of the configuration are used.
pub const FIELDS: &[MessageFields] = &[
    (
        "envoy.extensions.filters.http.grpc_stats.v3.FilterConfig",
        &[
            ("emit_filter_state", Used),
            ("individual_method_stats_allowlist", Used),
            ("stats_for_all_methods", Used),
            ("enable_upstream_stats", Used),
            ("replace_dots_in_grpc_service_name", Used),
        ],
    ),
    ("envoy.config.core.v3.GrpcMethodList", &[("services", Used)]),
    ("envoy.config.core.v3.GrpcMethodList.Service", &[("name", Used), ("method_names", Used)]),
];

const STATE: &str = "envoy.filters.http.grpc_stats";

/// The extension.
pub struct GrpcStats;

impl HttpFilterExtension for GrpcStats {
    const DESCRIPTOR: Descriptor = Descriptor {
        name: "envoy.filters.http.grpc_stats",
        message: "envoy.extensions.filters.http.grpc_stats.v3.FilterConfig",
        status: Status::Stable,
        posture: SecurityPosture::RobustToUntrustedDownstreamAndUpstream,
    };
    const PHASES: Phases = Phases { request_body: true, response_headers: true, response_body: true };
    type Proto = proto::FilterConfig;
    type Config = Config;
    type RouteProto = NoRouteConfig;
    type RouteConfig = NoRouteConfig;

    fn build(proto: Self::Proto, cx: &mut BuildCx<'_>) -> Result<Self::Config, Rejected> {
        Config::build(proto, cx)
    }

    fn build_route(_: Self::RouteProto, cx: &mut BuildCx<'_>) -> Result<Self::RouteConfig, Rejected> {
        Err(cx.reject("this filter has no per-route configuration"))
    }

    fn create(config: &Arc<Self::Config>) -> Box<dyn HttpFilter> {
        Box::new(Filter {
            config: config.clone(),
            call: None,
            counters: None,
            request: FrameCounter::default(),
            response: FrameCounter::default(),
            request_is_grpc: false,
            response_is_grpc: false,
            state: None,
        })
    }
}

/// The configuration.
pub struct Config {
    emit_filter_state: bool,
    upstream_stats: bool,
    by_method: ByMethod,
    methods: Methods,
}

/// Which calls are counted by service and method.
enum ByMethod {
    None,
    Listed(HashMap<String, HashSet<String>>),
    All { replace_dots: bool },
}

impl Config {
    fn build(proto: proto::FilterConfig, cx: &mut BuildCx<'_>) -> Result<Self, Rejected> {
        let proto::FilterConfig {
            emit_filter_state,
            enable_upstream_stats,
            replace_dots_in_grpc_service_name,
            per_method_stat_specifier,
        } = proto;
        let by_method = match per_method_stat_specifier {
            None | Some(PerMethodStatSpecifier::StatsForAllMethods(false)) => ByMethod::None,
            Some(PerMethodStatSpecifier::StatsForAllMethods(true)) => {
                ByMethod::All { replace_dots: replace_dots_in_grpc_service_name }
            }
            Some(PerMethodStatSpecifier::IndividualMethodStatsAllowlist(list)) => {
                ByMethod::Listed(cx.at("individual_method_stats_allowlist", |cx| listed(list, cx))?)
            }
        };
        Ok(Self {
            emit_filter_state,
            upstream_stats: enable_upstream_stats,
            by_method,
            methods: Methods::new(cx.env.stats.clone()),
        })
    }
}

fn listed(list: GrpcMethodList, cx: &mut BuildCx<'_>) -> Result<HashMap<String, HashSet<String>>, Rejected> {
    let services = cx.each("services", list.services, |service, cx| {
        if service.name.is_empty() {
            return Err(cx.at("name", |cx| cx.reject("value length must be at least 1 characters")));
        }
        if service.method_names.is_empty() {
            return Err(cx.at("method_names", |cx| cx.reject("value must contain at least 1 item(s)")));
        }
        Ok((service.name, service.method_names))
    })?;
    let mut all: HashMap<String, HashSet<String>> = HashMap::new();
    for (service, methods) in services {
        all.entry(service).or_default().extend(methods);
    }
    Ok(all)
}

/// The name under which a call is counted: none, or service and method.
enum Call {
    Unnamed,
    Named { service: String, method: String },
}

impl Config {
    /// How the call at `path` is counted; `None` if the path is not `/service/method`.
    fn call(&self, path: &str) -> Option<Call> {
        let (service, method) = path.strip_prefix('/')?.split_once('/')?;
        if service.is_empty() || method.is_empty() || method.contains('/') {
            return None;
        }
        let named = |service: String| Some(Call::Named { service, method: method.to_owned() });
        match &self.by_method {
            ByMethod::All { replace_dots: true } => named(service.replace('.', "_")),
            ByMethod::All { replace_dots: false } => named(service.to_owned()),
            ByMethod::Listed(list) if list.get(service).is_some_and(|methods| methods.contains(method)) => {
                named(service.to_owned())
            }
            ByMethod::Listed(_) | ByMethod::None => Some(Call::Unnamed),
        }
    }
}

/// Numbers of messages, as access logs see them.
#[derive(Default)]
struct MessageCounts {
    request: Cell<u64>,
    response: Cell<u64>,
}

impl FilterStateValue for MessageCounts {
    fn to_text(&self) -> Option<String> {
        Some(format!("{},{}", self.request.get(), self.response.get()))
    }

    /// `FilterObject` as proto JSON: zeros are left out, 64-bit numbers are strings.
    fn to_json(&self) -> Option<String> {
        let fields = [("requestMessageCount", &self.request), ("responseMessageCount", &self.response)];
        let fields: Vec<String> = fields
            .iter()
            .filter(|(_, count)| count.get() > 0)
            .map(|(name, count)| format!("\"{name}\":\"{}\"", count.get()))
            .collect();
        Some(format!("{{{}}}", fields.join(",")))
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

/// How many messages of a call went in either direction, if they are in its filter state (`emit_filter_state`).
pub(crate) fn messages(info: &StreamInfo) -> Option<(u64, u64)> {
    let counts: &MessageCounts = info.filter_state.get(STATE)?.as_any().downcast_ref()?;
    Some((counts.request.get(), counts.response.get()))
}

struct Filter {
    config: Arc<Config>,
    /// How the call is counted, if it is a call.
    call: Option<Call>,
    /// Found once the cluster is known.
    counters: Option<Arc<MethodCounters>>,
    request: FrameCounter,
    response: FrameCounter,
    request_is_grpc: bool,
    response_is_grpc: bool,
    state: Option<Rc<MessageCounts>>,
}

impl Filter {
    /// The counters of this call, once the stream has a cluster.
    fn counters(&mut self, info: &StreamInfo) -> Option<&MethodCounters> {
        if self.counters.is_none() {
            let call = self.call.as_ref()?;
            let upstream = &info.upstream;
            let cluster = upstream.cluster_observability_name.as_ref().or(upstream.cluster.as_ref())?;
            self.counters = Some(match call {
                Call::Unnamed => self.config.methods.unnamed(cluster),
                Call::Named { service, method } => self.config.methods.named(cluster, service, method),
            });
        }
        self.counters.as_deref()
    }

    /// Hands on what was counted since the last time.
    fn report(&mut self, info: &mut StreamInfo) {
        // (A call without messages has no such state, as in Envoy.)
        if self.config.emit_filter_state && self.request.messages() + self.response.messages() > 0 {
            let state = self.state.get_or_insert_with(|| {
                let state = Rc::new(MessageCounts::default());
                info.filter_state.set(STATE, state.clone());
                state
            });
            state.request.set(self.request.messages());
            state.response.set(self.response.messages());
        }
        if self.counters(info).is_none() {
            return;
        }
        let (request, response) = (self.request.take_new(), self.response.take_new());
        let Some(counters) = self.counters.as_deref() else { return };
        counters.add_messages(request, response);
    }

    fn finish(&mut self, headers: &HeaderMap, info: &StreamInfo) {
        let Some(status) = headers.get(&GRPC_STATUS) else { return };
        let Some(counters) = self.counters(info) else { return };
        counters.finish(status.as_bytes());
    }
}

impl HttpFilter for Filter {
    fn on_request_headers<'a>(&'a mut self, cx: &'a mut StreamCx<'_>, _end: bool) -> HeadersStep<'a> {
        if cx.request.is_grpc() {
            self.request_is_grpc = true;
            self.call = self.config.call(cx.request.path_only());
        }
        HeadersStep::Continue
    }

    fn on_request_data<'a>(
        &'a mut self,
        cx: &'a mut StreamCx<'_>,
        data: &'a mut Bytes,
        _end: bool,
    ) -> DataStep<'a> {
        if self.request_is_grpc && self.request.inspect(data) > 0 {
            self.report(cx.info);
        }
        DataStep::Continue
    }

    fn on_response_headers<'a>(&'a mut self, cx: &'a mut StreamCx<'_>, _end: bool) -> HeadersStep<'a> {
        if let Some(response) = cx.response.as_deref() {
            self.response_is_grpc = response.status == StatusCode::OK && is_grpc(&response.headers);
            self.finish(&response.headers, cx.info);
        }
        HeadersStep::Continue
    }

    fn on_response_data<'a>(
        &'a mut self,
        cx: &'a mut StreamCx<'_>,
        data: &'a mut Bytes,
        _end: bool,
    ) -> DataStep<'a> {
        if self.response_is_grpc && self.response.inspect(data) > 0 {
            self.report(cx.info);
        }
        DataStep::Continue
    }

    fn on_response_trailers<'a>(
        &'a mut self,
        cx: &'a mut StreamCx<'_>,
        trailers: &'a mut HeaderMap,
    ) -> HeadersStep<'a> {
        self.finish(trailers, cx.info);
        if self.config.upstream_stats
            && let Some((sent, received)) = cx.info.upstream.last_tx.zip(cx.info.upstream.last_rx)
            && let Some(counters) = self.counters(cx.info)
        {
            counters.record_upstream_time(received.saturating_duration_since(sent));
        }
        HeadersStep::Continue
    }

    fn on_complete(
        &mut self,
        _: &RequestHead,
        _: Option<&ResponseHead>,
        info: &mut StreamInfo,
        _: &dyn Engine,
    ) {
        self.report(info);
    }
}

#[cfg(test)]
mod tests;
