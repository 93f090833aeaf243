//! Istio's standard metrics: what `istio.stats` counts, of requests and of connections.
//!
//! They are in the scope `istiocustom`, with labels; for Prometheus they have Istio's names. Counted when a stream ends; connections every few
//! seconds, too. Who takes part is
//! known from what peers say of themselves, or else from the metadata of endpoints; of this side it is the node that says it.
//! Source: `stats.PluginConfig` in `xds/api/descriptors/istio/stats.proto`;
//! <https://istio.io/latest/docs/reference/config/metrics/>.

pub mod fields;
mod labels;
mod overrides;
mod sets;

use std::sync::Arc;
use std::time::Duration;

use proxy_core::config::{BuildCx, Rejected, duration};
use proxy_core::facts::Facts;
use proxy_core::head::{RequestHead, ResponseHead};
use proxy_core::stats::{Labelled, OneOff, Scope, SharedCounter, SharedGauge, SharedHistogram, Unit};
use proxy_core::stream_info::StreamInfo;
use xds_api::stats as proto;

use crate::shared::istio::peer::{Peer, PeerState};
use labels::{Hosts, Kind, Labels, Texts};
use overrides::Overrides;
use sets::Sets;

/// How often connections are counted where nothing is said.
const INTERVAL: Duration = Duration::from_secs(5);

const SCOPE: &str = "istiocustom";

/// The metrics, without `istio_`.
const METRICS: [&str; 10] = [
    "requests_total",
    "request_duration_milliseconds",
    "request_bytes",
    "response_bytes",
    "request_messages_total",
    "response_messages_total",
    "tcp_connections_opened_total",
    "tcp_connections_closed_total",
    "tcp_sent_bytes_total",
    "tcp_received_bytes_total",
];

/// Where this proxy stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reporter {
    /// Before who asks.
    Source,
    /// Before who is asked.
    Destination,
    /// Before many who are asked.
    Gateway,
}

/// The configuration.
pub struct Metrics {
    /// By the listener's direction if absent.
    reporter: Option<Reporter>,
    uses_host: bool,
    /// How often connections are counted.
    interval: Duration,
    own: Peer,
    overrides: Overrides,
    scope: Scope,
    _build: OneOff<SharedGauge>,
    /// Statistics by their labels.
    known: Sets<Set>,
}

/// The statistics with one set of labels.
#[derive(Default)]
struct Set {
    requests: Option<OneOff<SharedCounter>>,
    duration: Option<OneOff<SharedHistogram>>,
    request_bytes: Option<OneOff<SharedHistogram>>,
    response_bytes: Option<OneOff<SharedHistogram>>,
    request_messages: Option<OneOff<SharedCounter>>,
    response_messages: Option<OneOff<SharedCounter>>,
    opened: Option<OneOff<SharedCounter>>,
    closed: Option<OneOff<SharedCounter>>,
    sent: Option<OneOff<SharedCounter>>,
    received: Option<OneOff<SharedCounter>>,
}

/// What was counted of a connection already.
#[derive(Clone, Copy, Debug, Default)]
pub struct Counted {
    is_opened: bool,
    sent: u64,
    received: u64,
}

/// What a call over gRPC adds.
#[derive(Clone, Copy, Debug, Default)]
pub struct Call {
    /// Its status, if there was one.
    pub status: Option<u32>,
    /// Messages of both directions, if somebody counts them.
    pub messages: Option<(u64, u64)>,
}

impl Metrics {
    /// Builds from the message.
    pub fn build(proto: proto::PluginConfig, cx: &mut BuildCx<'_>) -> Result<Self, Rejected> {
        let proto::PluginConfig {
            disable_host_header_fallback,
            tcp_reporting_duration,
            metrics,
            definitions,
            reporter,
            rotation_interval: _,
            graceful_deletion_interval: _,
        } = proto;
        cx.reject_if(!definitions.is_empty(), "definitions", fields::DEFINITIONS)?;
        let overrides = Overrides::build(&metrics, cx)?;
        let scope = cx.env.stats.scope(SCOPE);
        let version = labels::text(&cx.env.node.metadata, "ISTIO_VERSION");
        let version = if version.is_empty() { labels::UNKNOWN } else { version };
        let build = Labelled::new("istio_build", [("component", "proxy"), ("tag", version)]);
        let build = scope.labelled_gauge(build);
        build.set(1);
        let reporter = match proto::Reporter::try_from(reporter) {
            Ok(proto::Reporter::ServerGateway) => Some(Reporter::Gateway),
            Ok(proto::Reporter::Unspecified) | Err(_) => None,
        };
        Ok(Self {
            reporter,
            uses_host: !disable_host_header_fallback,
            interval: tcp_reporting_duration.as_ref().and_then(duration).unwrap_or(INTERVAL),
            own: Peer::of_node(&cx.env.node, &[]),
            overrides,
            scope,
            _build: build,
            known: Sets::default(),
        })
    }

    fn reporter(&self, info: &StreamInfo) -> Reporter {
        const INBOUND: i32 = 1;
        self.reporter.unwrap_or(match info.connection.direction {
            INBOUND => Reporter::Destination,
            _ => Reporter::Source,
        })
    }

    /// Counts a request that is over.
    pub fn count_request(
        &self,
        request: &RequestHead,
        response: Option<&ResponseHead>,
        info: &StreamInfo,
        call: Option<Call>,
    ) {
        let kind = match call {
            Some(call) => Kind::Call(call.status),
            None => Kind::Request,
        };
        let host = Some(request.authority.as_str()).filter(|host| self.uses_host && !host.is_empty());
        let subject = subject(info, Some(request), response);
        let set = self.set(self.reporter(info), host, kind, &subject);
        let milliseconds = info.end.map(|end| end.saturating_duration_since(info.start).as_millis());
        inc(&set.requests);
        if let (Some(duration), Some(milliseconds)) = (&set.duration, milliseconds) {
            duration.record(u64::try_from(milliseconds).unwrap_or(u64::MAX));
        }
        if let Some(bytes) = &set.request_bytes {
            bytes.record(info.wire.received);
        }
        if let Some(bytes) = &set.response_bytes {
            bytes.record(info.wire.sent);
        }
        if let Some((sent, received)) = call.and_then(|call| call.messages) {
            add(&set.request_messages, sent);
            add(&set.response_messages, received);
        }
    }

    /// How often connections are to be counted, if before their end at all.
    pub fn interval(&self) -> Option<Duration> {
        (!self.interval.is_zero()).then_some(self.interval)
    }

    /// Counts what a connection without HTTP carried since it was counted before.
    pub fn count_connection(&self, info: &StreamInfo, counted: &mut Counted) {
        self.count_set(info, counted);
    }

    /// Counts a connection without HTTP that is over.
    pub fn count_end(&self, info: &StreamInfo, counted: &mut Counted) {
        inc(&self.count_set(info, counted).closed);
    }

    fn count_set(&self, info: &StreamInfo, counted: &mut Counted) -> Arc<Set> {
        let set = self.set(self.reporter(info), None, Kind::Connection, &subject(info, None, None));
        if !std::mem::replace(&mut counted.is_opened, true) {
            inc(&set.opened);
        }
        add(&set.sent, info.bytes_sent.saturating_sub(counted.sent));
        add(&set.received, info.bytes_received.saturating_sub(counted.received));
        (counted.sent, counted.received) = (info.bytes_sent, info.bytes_received);
        set
    }

    /// The statistics for what is known of a stream.
    fn set(&self, reporter: Reporter, host: Option<&str>, kind: Kind, subject: &Facts<'_>) -> Arc<Set> {
        let info = subject.info;
        let asked = PeerState::asked(info);
        let endpoint = labels::endpoint(reporter, info, asked.as_deref());
        let hosts = Hosts { asked: asked.as_deref(), endpoint: endpoint.as_ref() };
        let texts = Texts::of(kind, info);
        let mut labels = Labels::of(reporter, &self.own, host, (kind, &texts), info, &hosts);
        labels.computed = self.overrides.values(subject);
        self.known.of(&labels, || self.new_set(&labels, kind)).unwrap_or_else(|| {
            let bare = Labels::overflowing(reporter, kind);
            self.known.of_all_others(&bare, || self.new_set(&bare, kind))
        })
    }

    fn new_set(&self, labels: &Labels<'_>, kind: Kind) -> Set {
        let labelled = |metric: &'static str| {
            let is_wanted = !self.overrides.drops(metric);
            let labels = self.overrides.labels_of(metric, labels);
            is_wanted.then(|| Labelled::new(&format!("istio_{metric}"), labels))
        };
        let counter = |metric| labelled(metric).map(|labelled| self.scope.labelled_counter(labelled));
        let histogram =
            |metric, unit| labelled(metric).map(|labelled| self.scope.labelled_histogram(labelled, unit));
        match kind {
            Kind::Connection => Set {
                opened: counter("tcp_connections_opened_total"),
                closed: counter("tcp_connections_closed_total"),
                sent: counter("tcp_sent_bytes_total"),
                received: counter("tcp_received_bytes_total"),
                ..Set::default()
            },
            Kind::Request | Kind::Call(_) => {
                let is_call = matches!(kind, Kind::Call(_));
                Set {
                    requests: counter("requests_total"),
                    duration: histogram("request_duration_milliseconds", Unit::Milliseconds),
                    request_bytes: histogram("request_bytes", Unit::Bytes),
                    response_bytes: histogram("response_bytes", Unit::Bytes),
                    request_messages: is_call.then(|| counter("request_messages_total")).flatten(),
                    response_messages: is_call.then(|| counter("response_messages_total")).flatten(),
                    ..Set::default()
                }
            }
        }
    }
}

/// What expressions are about.
fn subject<'a>(
    info: &'a StreamInfo,
    request: Option<&'a RequestHead>,
    response: Option<&'a ResponseHead>,
) -> Facts<'a> {
    let cluster = info.upstream.cluster.as_deref();
    Facts { response, route: Some(&info.route_metadata), cluster, request, ..Facts::of_connection(info) }
}

fn inc(counter: &Option<OneOff<SharedCounter>>) {
    add(counter, 1);
}

fn add(counter: &Option<OneOff<SharedCounter>>, amount: u64) {
    if let Some(counter) = counter {
        counter.add(amount);
    }
}
