//! The trace of a stream: its context, what hosts and clients are told of it, and what is known in the end.
//!
//! A stream that is not sampled has a context and nothing else. Tags are made when the stream is over, from what access logs see.
//! Source: Envoy `source/common/tracing/http_tracer_impl.cc`, `conn_manager_impl.cc` (`traceRequest`).

use std::borrow::Cow;
use std::time::{Instant, SystemTime};

use http::{HeaderMap, HeaderValue, StatusCode};
use proxy_core::extension::access_log::{LogEntry, LogType};
use proxy_core::extension::tracer::{Span, SpanContext, SpanKind};
use proxy_core::grpc::status_in;
use proxy_core::head::RequestHead;
use proxy_core::headers::{
    GRPC_MESSAGE, GRPC_TIMEOUT, X_CLIENT_TRACE_ID, X_ENVOY_DECORATOR_OPERATION,
    X_ENVOY_DOWNSTREAM_SERVICE_CLUSTER, X_ENVOY_ORIGINAL_PATH, X_FORWARDED_PROTO, X_REQUEST_ID,
};
use proxy_core::stream_info::StreamInfo;
use xds_api::envoy::config::core::v3::TrafficDirection;

use super::stream::Stream;
use super::tracing::{Reason, Tracing, count, decide};
use crate::local::clock;
use crate::router::decoration::{Decoration, SpanOptions};

type Tags = Vec<(Cow<'static, str>, String)>;
type Events = Vec<(&'static str, SystemTime)>;

/// What a stream knows of its trace.
pub(crate) struct Traced {
    /// None if nothing can be made of what the request says.
    context: Option<SpanContext>,
    kind: SpanKind,
    /// Configuration says what its span is called, whatever others say.
    is_named: bool,
    /// The client is told what the route's decorator says.
    decorates: bool,
    /// Only if it is sampled.
    recording: Option<Box<Recording>>,
}

/// What is kept for the span.
struct Recording {
    name: String,
    /// The try under way.
    attempt: Option<(SpanContext, Instant)>,
}

impl Stream<'_> {
    /// Decides whether the request is sampled, and begins its span.
    #[inline]
    pub(super) fn begin_trace(&mut self) {
        if self.cx.manager.tracing.is_some() {
            self.trace();
        }
    }

    fn trace(&mut self) {
        let manager = &*self.cx.manager;
        let Some(tracing) = &manager.tracing else { return };
        let table = self.table.clone();
        let decoration = super::stream::selected(table.as_ref(), self.matched)
            .and_then(|route| route.entry().decoration.as_deref());
        let own = decoration.and_then(|decoration| decoration.tracing.as_ref());
        let sampling = own.map_or(&tracing.sampling, |(sampling, _)| sampling);
        let runtime = &self.cx.shared.env.runtime;
        let reason = match self.is_redirected {
            true => Reason::NotTraceable,
            false => decide(sampling, manager.request_ids, &mut self.request, runtime, self.random),
        };
        count(manager.tracing_stats.here(), reason);
        let kind = match self.cx.info.direction == TrafficDirection::Outbound as i32 {
            true => SpanKind::Client,
            false => SpanKind::Server,
        };
        let is_sampled = reason != Reason::NotTraceable;
        self.info.is_traced_for_service = reason == Reason::ServiceForced;
        let context = tracing.tracer.as_ref().and_then(|tracer| {
            let mut random = self.cx.shared.random.borrow_mut();
            tracer.begin(&self.request, kind, is_sampled, &mut || random.u64(1..))
        });
        let is_recorded = context.as_ref().is_some_and(|context| context.is_sampled);
        self.info.trace = tracing.ids(context.as_ref());
        let tracer = tracing.tracer.as_ref().filter(|_| is_recorded);
        let mut recording = tracer
            .map(|tracer| Box::new(Recording { name: tracer.name(&self.request, kind), attempt: None }));
        let of_route = own.and_then(|(_, options)| options.operation.as_ref());
        let is_named = of_route.or(tracing.options.operation.as_ref()).is_some();
        let decorates = !is_named && decorate(kind, decoration, &mut self.request, recording.as_deref_mut());
        self.traced = Some(Traced { context, kind, is_named, decorates, recording });
        if is_named {
            self.name_span(|options| options.operation.as_ref());
        }
    }

    /// Calls the span what configuration says, if it does.
    fn name_span(&mut self, format: impl Fn(&SpanOptions) -> Option<&proxy_core::format::Format>) {
        if self.traced.as_ref().is_none_or(|traced| traced.recording.is_none()) {
            return;
        }
        let Some(name) = self.formatted(format) else { return };
        if let Some(recording) = self.traced.as_mut().and_then(|traced| traced.recording.as_mut()) {
            recording.name = name;
        }
    }

    /// A name by a format of the route, or else of the connection manager.
    fn formatted(
        &self,
        format: impl Fn(&SpanOptions) -> Option<&proxy_core::format::Format>,
    ) -> Option<String> {
        let route = self.route();
        let own = route.and_then(|route| route.entry().decoration.as_ref()?.tracing.as_ref());
        let of_manager = self.cx.manager.tracing.as_ref().map(|tracing| &tracing.options);
        let format = own.and_then(|(_, options)| format(options)).or_else(|| format(of_manager?))?;
        let mut name = Vec::new();
        format.render(&self.entry(LogType::NotSet), &mut name);
        Some(String::from_utf8_lossy(&name).into_owned()).filter(|name| !name.is_empty())
    }

    /// The request is about to be sent to a host: tells it of the trace.
    #[inline]
    pub(super) fn tell_of_trace(&mut self) {
        if self.traced.is_some() {
            self.tell();
        }
    }

    fn tell(&mut self) {
        let has_span = self.router().start_child_span;
        let Some(tracing) = &self.cx.manager.tracing else { return };
        let (Some(tracer), Some(traced)) = (&tracing.tracer, &mut self.traced) else { return };
        let has_span = has_span || tracing.spans_of_tries;
        let Some(mut context) = traced.context.clone() else { return };
        if has_span {
            let mut random = self.cx.shared.random.borrow_mut();
            context = tracer.within(&context, &mut || random.u64(1..));
            if let Some(recording) = &mut traced.recording {
                recording.attempt = Some((context.clone(), clock::now()));
            }
        }
        if !tracing.is_silent {
            tracer.tell(&context, &mut self.request.headers);
        }
    }

    /// The response is about to be sent to the client.
    #[inline]
    pub(super) fn trace_response(&mut self) {
        if self.traced.is_some() {
            self.decorate_response();
        }
    }

    fn decorate_response(&mut self) {
        let table = self.table.clone();
        let route = super::stream::selected(table.as_ref(), self.matched);
        let Self { traced: Some(traced), response: Some(response), .. } = self else { return };
        if traced.is_named {
            return;
        }
        let name = &*X_ENVOY_DECORATOR_OPERATION;
        match traced.kind {
            SpanKind::Client => {
                if let Some(said) = response.headers.remove(name)
                    && !said.is_empty()
                    && let Some(recording) = &mut traced.recording
                {
                    recording.name = String::from_utf8_lossy(said.as_bytes()).into_owned();
                }
            }
            SpanKind::Server if traced.decorates => {
                let decorator = route.and_then(|route| route.entry().decoration.as_ref()?.decorator.as_ref());
                if let Some(decorator) = decorator {
                    response.headers.insert(name, decorator.operation.clone());
                }
            }
            SpanKind::Server => {}
        }
    }

    /// A try is over, however it ended.
    #[inline]
    pub(super) fn end_try_span(&mut self) {
        if self.traced.as_ref().is_some_and(|traced| traced.recording.is_some()) {
            self.report_try();
        }
    }

    fn report_try(&mut self) {
        let recording = self.traced.as_mut().and_then(|traced| traced.recording.as_mut());
        let Some((context, begun)) = recording.and_then(|recording| recording.attempt.take()) else { return };
        let Some(tracing) = &self.cx.manager.tracing else { return };
        let Some(tracer) = &tracing.tracer else { return };
        let cluster = observed_cluster(&self.info).unwrap_or_default();
        let name = self
            .formatted(|options| options.upstream_operation.as_ref())
            .unwrap_or_else(|| format!("router {cluster} egress"));
        let mut tags: Tags = vec![("component".into(), "proxy".to_owned())];
        if let Some(host) = &self.info.upstream.host {
            let address = host.address.to_string();
            tags.push(("upstream_address".into(), address.clone()));
            tags.push(("peer.address".into(), address));
        }
        if let Some(protocol) = self.info.upstream.protocol {
            tags.push(("http.protocol".into(), protocol.as_str().to_owned()));
        }
        self.add_common_tags(tracing, &mut tags);
        let now = clock::now();
        tracer.report(Span {
            context,
            kind: SpanKind::Client,
            is_try: true,
            name,
            start: clock::wall(begun),
            duration: now.saturating_duration_since(begun),
            tags,
            events: self.events_of_try(tracing),
        });
    }

    /// The stream is over: reports its span, if there is one.
    #[inline]
    pub(super) fn end_trace(&mut self, now: Instant) {
        if self.traced.as_ref().is_some_and(|traced| traced.recording.is_some()) {
            self.report_try();
            self.report_trace(now);
        }
    }

    fn report_trace(&mut self, now: Instant) {
        let Some(Traced { context: Some(context), kind, recording: Some(recording), .. }) =
            self.traced.take()
        else {
            return;
        };
        let Some(tracing) = &self.cx.manager.tracing else { return };
        let Some(tracer) = &tracing.tracer else { return };
        let mut tags: Tags = Vec::with_capacity(24);
        let (node_id, zone) = &tracing.node;
        tags.push(("node_id".into(), node_id.clone()));
        tags.push(("zone".into(), zone.clone()));
        add_request_tags(&self.request, &self.info, tracing.max_path, &mut tags);
        tags.push(("request_size".into(), self.info.bytes_received.to_string()));
        tags.push(("response_size".into(), self.info.bytes_sent.to_string()));
        tags.push(("component".into(), "proxy".to_owned()));
        self.add_common_tags(tracing, &mut tags);
        tracer.report(Span {
            context,
            kind: tracer.side(kind, tracing.spans_of_tries),
            is_try: false,
            name: recording.name,
            start: self.info.start_time,
            duration: now.saturating_duration_since(self.info.start),
            tags,
            events: self.events(tracing),
        });
    }

    /// What happened when, if that is asked for (`verbose`).
    fn events(&self, tracing: &Tracing) -> Events {
        let event =
            |name, time: Option<Instant>| Some((name, clock::wall(time.filter(|_| tracing.is_verbose)?)));
        let first = event("last_downstream_rx_byte_received", self.info.request_complete);
        let last = [
            ("first_downstream_tx_byte_sent", self.info.first_downstream_tx),
            ("last_downstream_tx_byte_sent", self.info.last_downstream_tx),
        ];
        let last = last.into_iter().filter_map(|(name, time)| event(name, time));
        first.into_iter().chain(self.events_of_try(tracing)).chain(last).collect()
    }

    /// What happened when in the last try, if that is asked for.
    fn events_of_try(&self, tracing: &Tracing) -> Events {
        if !tracing.is_verbose {
            return Vec::new();
        }
        let upstream = &self.info.upstream;
        let times = [
            ("first_upstream_tx_byte_sent", upstream.first_tx),
            ("last_upstream_tx_byte_sent", upstream.last_tx),
            ("first_upstream_rx_byte_received", upstream.first_rx),
            ("last_upstream_rx_byte_received", upstream.last_rx),
        ];
        times.into_iter().filter_map(|(name, time)| Some((name, clock::wall(time?)))).collect()
    }

    /// What both kinds of spans have.
    fn add_common_tags(&self, tracing: &Tracing, tags: &mut Tags) {
        let info = &self.info;
        if let Some(cluster) = &info.upstream.cluster {
            tags.push(("upstream_cluster".into(), cluster.to_string()));
            tags.push((
                "upstream_cluster.name".into(),
                observed_cluster(info).unwrap_or_default().to_owned(),
            ));
        }
        tags.push(("http.status_code".into(), info.response_code.unwrap_or(0).to_string()));
        let flags: Vec<_> = info.flags.iter().map(|flag| flag.short()).collect();
        let flags = if flags.is_empty() { "-".to_owned() } else { flags.join(",") };
        tags.push(("response_flags".into(), flags));
        let mut is_error =
            info.response_code.is_none_or(|code| code >= StatusCode::INTERNAL_SERVER_ERROR.as_u16());
        if self.request.is_grpc() {
            is_error |= self.add_grpc_status(tags);
        }
        if is_error {
            tags.push(("error".into(), "true".to_owned()));
        }
        let entry: LogEntry<'_> = self.entry(LogType::NotSet);
        let route = self.route();
        let own = route.and_then(|route| route.entry().decoration.as_ref()?.tracing.as_ref());
        let of_route = own.map_or(&[][..], |(_, options)| &options.tags);
        for tag in &tracing.options.tags {
            if of_route.iter().all(|one| one.name() != tag.name()) {
                tag.add(&entry, tags);
            }
        }
        of_route.iter().for_each(|tag| tag.add(&entry, tags));
    }

    /// What gRPC says; whether that is an error of the server.
    fn add_grpc_status(&self, tags: &mut Tags) -> bool {
        let trailers = self.response_trailers.as_ref().filter(|trailers| status_in(trailers).is_some());
        let Some(fields) = trailers.or_else(|| Some(&self.response.as_ref()?.headers)) else { return false };
        let Some(status) = status_in(fields) else { return false };
        tags.push(("grpc.status_code".into(), status.to_string()));
        if let Some(message) = fields.get(&GRPC_MESSAGE) {
            tags.push(("grpc.message".into(), text(message)));
        }
        // Unknown, DeadlineExceeded, Unimplemented, Internal, Unavailable, DataLoss.
        matches!(status, 2 | 4 | 12 | 13 | 14 | 15)
    }
}

/// Applies the decorator of the route, and what the other side says in its place; whether the client is to be told.
fn decorate(
    kind: SpanKind,
    decoration: Option<&Decoration>,
    request: &mut RequestHead,
    recording: Option<&mut Recording>,
) -> bool {
    let decorator = decoration.and_then(|decoration| decoration.decorator.as_ref());
    let name = &*X_ENVOY_DECORATOR_OPERATION;
    let told = decorator.filter(|decorator| decorator.propagate);
    let said = match kind {
        SpanKind::Client => {
            if let Some(decorator) = told {
                request.headers.insert(name, decorator.operation.clone());
            }
            None
        }
        SpanKind::Server => request.headers.remove(name).filter(|said| !said.is_empty()),
    };
    if let (Some(recording), Some(operation)) =
        (recording, said.as_ref().or(decorator.map(|decorator| &decorator.operation)))
    {
        recording.name = text(operation);
    }
    kind == SpanKind::Server && told.is_some() && said.is_none()
}

fn observed_cluster(info: &StreamInfo) -> Option<&str> {
    let upstream = &info.upstream;
    upstream.cluster_observability_name.as_deref().or(upstream.cluster.as_deref())
}

fn text(value: &HeaderValue) -> String {
    String::from_utf8_lossy(value.as_bytes()).into_owned()
}

fn field(headers: &HeaderMap, name: &http::HeaderName) -> Option<String> {
    headers.get(name).map(text)
}

/// What the request says of itself.
fn add_request_tags(request: &RequestHead, info: &StreamInfo, max_path: usize, tags: &mut Tags) {
    let headers = &request.headers;
    if let Some(id) = field(headers, &X_REQUEST_ID) {
        tags.push(("guid:x-request-id".into(), id));
    }
    let path = field(headers, &X_ENVOY_ORIGINAL_PATH).unwrap_or_else(|| request.path.to_string());
    let end = path.char_indices().map(|(at, c)| at + c.len_utf8()).take_while(|end| *end <= max_path).last();
    let scheme = field(headers, &X_FORWARDED_PROTO).unwrap_or_default();
    let url = format!("{scheme}://{}{}", request.authority, path.get(..end.unwrap_or(0)).unwrap_or_default());
    tags.push(("http.url".into(), url));
    tags.push(("http.method".into(), request.method.to_string()));
    let or_dash = |value: Option<String>| value.unwrap_or_else(|| "-".to_owned());
    let cluster = field(headers, &X_ENVOY_DOWNSTREAM_SERVICE_CLUSTER);
    tags.push(("downstream_cluster".into(), or_dash(cluster)));
    tags.push(("user_agent".into(), or_dash(field(headers, &http::header::USER_AGENT))));
    tags.push(("http.protocol".into(), or_dash(info.protocol.map(|protocol| protocol.as_str().to_owned()))));
    let peer = &info.connection.direct_remote;
    let peer = peer.ip().map_or_else(|| peer.to_string(), |ip| ip.to_string());
    tags.push(("peer.address".into(), peer));
    if let Some(id) = field(headers, &X_CLIENT_TRACE_ID) {
        tags.push(("guid:x-client-trace-id".into(), id));
    }
    if request.is_grpc() {
        tags.push(("grpc.path".into(), request.path.to_string()));
        tags.push(("grpc.authority".into(), request.authority.to_string()));
        tags.push((
            "grpc.content_type".into(),
            field(headers, &http::header::CONTENT_TYPE).unwrap_or_default(),
        ));
        if let Some(timeout) = field(headers, &GRPC_TIMEOUT) {
            tags.push(("grpc.timeout".into(), timeout));
        }
    }
}
