//! The TCP proxy filter: chooses a cluster, connects, carries bytes until both ends are through.
//!
//! Source: Envoy `tcp_proxy.proto`, `docs/root/configuration/listeners/network_filters/tcp_proxy_filter.rst`.

use std::cell::{Cell, RefCell};
use std::future::{Future, poll_fn};
use std::io;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Poll, ready};
use std::time::{Duration, Instant};

use bytes::BytesMut;
use proxy_core::config::{BuildCx, Rejected, duration, timeout_or};
use proxy_core::extension::access_log::{AccessLog, LogEntry, LogType};
use proxy_core::extension::network_filter::NetworkFilter;
use proxy_core::hash_policy::ConnectionHashPolicy;
use proxy_core::log_filter::build_access_logs;
use proxy_core::names::Name;
use proxy_core::proxy_protocol::Tlv;
use proxy_core::response_flag::{ResponseFlag, ResponseFlags};
use proxy_core::stats::Cells;
use proxy_core::stats::groups::{ClusterTrafficStats, TcpProxyStats};
use proxy_core::stream_error::{Details, UpstreamReset};
use proxy_core::stream_info::{CloseType, ConnectionInfo, StreamInfo, UpstreamInfo, WireBytes};
use proxy_core::upstream::{Host, HostResult, HostWishes, Labels};
use xds_api::envoy::extensions::filters::network::tcp_proxy::v3 as proto;
use xds_api::envoy::extensions::filters::network::tcp_proxy::v3::tcp_proxy::ClusterSpecifier;

use super::copy::{Direction, Failed};
use super::interval::{carry_telling, interval};
use super::shedding::{Shedding, drop_unread};
use super::told::ToldTlvs;
use crate::context::Context;
use crate::local::clock;
use crate::local::drain::DrainHandle;
use crate::local::overload::{Overload, Point};
use crate::local::timers::Timer;
use crate::net::connection::Connection;
use crate::net::gate::{Gate, Guard};
use crate::net::leaving::EndOfPeer;
use crate::upstream::circuit_breaker::{BreakerPriority, Resource};
use crate::upstream::dynamic::Finding;
use crate::upstream::labels;
use crate::upstream::pool::{ConnectedSocket, RequestGuard, Wants, WorkerCluster};
use crate::upstream::transport_options::{Client, TransportOptions};

/// Key of the filter state whose value names the cluster in place of the configuration.
const CLUSTER_STATE: &str = "envoy.tcp_proxy.cluster";

/// Configuration of the TCP proxy.
pub struct TcpProxy {
    clusters: Clusters,
    hash_policy: Option<ConnectionHashPolicy>,
    /// How hosts must be labelled.
    labels: Option<Labels>,
    /// TLVs that hosts are told of clients.
    told: Option<ToldTlvs>,
    idle_timeout: Option<Duration>,
    max_duration: Option<Duration>,
    max_duration_jitter: f64,
    max_connect_attempts: u32,
    access_logs: Vec<Arc<dyn AccessLog>>,
    log_on_start: bool,
    log_on_connected: bool,
    log_interval: Option<Duration>,
    stats: Cells<TcpProxyStats>,
}

/// Where connections go.
enum Clusters {
    One(Name),
    /// Each with its weight; the sum of weights.
    Weighted(Vec<ClusterWeight>, u64),
}

/// One of several clusters.
struct ClusterWeight {
    name: Name,
    weight: u64,
    /// How hosts must be labelled, the labels of the proxy among them.
    labels: Option<Labels>,
}

impl Clusters {
    fn build(
        proto: &proto::TcpProxy,
        labels: Option<&Labels>,
        cx: &mut BuildCx<'_>,
    ) -> Result<Self, Rejected> {
        match &proto.cluster_specifier {
            Some(ClusterSpecifier::Cluster(cluster)) => Ok(Self::One(cx.env.clusters.intern(cluster))),
            Some(ClusterSpecifier::WeightedClusters(weighted)) => cx.at("weighted_clusters", |cx| {
                let clusters = cx.each("clusters", &weighted.clusters, |one, cx| {
                    let own = Labels::from_metadata(one.metadata_match.as_ref());
                    let labels = match (labels, own) {
                        (Some(all), Some(own)) => Some(all.with(&own)),
                        (all, own) => own.or_else(|| all.cloned()),
                    };
                    let weight = u64::from(one.weight);
                    Ok(ClusterWeight { name: cx.env.clusters.intern(&one.name), weight, labels })
                })?;
                let total = clusters.iter().map(|one| one.weight).sum();
                if total == 0 {
                    return Err(cx.reject("clusters: the sum of weights must be greater than 0"));
                }
                Ok(Self::Weighted(clusters, total))
            }),
            None => Err(cx.reject("one of cluster, weighted_clusters is required")),
        }
    }

    /// The cluster for a connection, and how it wants hosts to be labelled, if it says so itself.
    fn choose(&self, random: u64) -> Option<(&Name, Option<&Labels>)> {
        match self {
            Self::One(name) => Some((name, None)),
            Self::Weighted(clusters, total) => {
                let mut at = random % total;
                clusters.iter().find_map(|ClusterWeight { name, weight, labels }| {
                    if at < *weight {
                        return Some((name, labels.as_ref()));
                    }
                    at -= weight;
                    None
                })
            }
        }
    }
}

impl TcpProxy {
    /// Builds the configuration.
    pub fn build(proto: &proto::TcpProxy, cx: &mut BuildCx<'_>) -> Result<Arc<Self>, Rejected> {
        let labels = Labels::from_metadata(proto.metadata_match.as_ref());
        let clusters = Clusters::build(proto, labels.as_ref(), cx);
        let rejected = [
            cx.reject_if(proto.tunneling_config.is_some(), "tunneling_config", "tunnelling is not available"),
            cx.reject_if(proto.on_demand.is_some(), "on_demand", "on-demand clusters are not available"),
            cx.reject_if(proto.backoff_options.is_some(), "backoff_options", "is not available"),
            cx.reject_if(
                proto.upstream_connect_mode != 0,
                "upstream_connect_mode",
                "only IMMEDIATE is available",
            ),
            cx.reject_if(proto.max_early_data_bytes.is_some(), "max_early_data_bytes", "is not available"),
            cx.reject_if(
                proto.downstream_idle_timeout.is_some(),
                "downstream_idle_timeout",
                "is not available",
            ),
            cx.reject_if(proto.upstream_idle_timeout.is_some(), "upstream_idle_timeout", "is not available"),
        ];
        let hash_policies = cx.each("hash_policy", &proto.hash_policy, ConnectionHashPolicy::build);
        let access_logs = build_access_logs(&proto.access_log, cx);
        let told = ToldTlvs::build(proto, cx);
        for one in rejected {
            one?;
        }
        let options = proto.access_log_options.unwrap_or_default();
        #[allow(deprecated)]
        let (old_interval, old_connected) =
            (proto.access_log_flush_interval.as_ref(), proto.flush_access_log_on_connected);
        let scope = cx.env.stats.scope(&format!("tcp.{}", proto.stat_prefix));
        Ok(Arc::new(Self {
            clusters: clusters?,
            // (There is at most one.)
            hash_policy: hash_policies?.pop(),
            labels,
            told: told?,
            idle_timeout: timeout_or(proto.idle_timeout.as_ref(), Some(Duration::from_secs(3600))),
            max_duration: timeout_or(proto.max_downstream_connection_duration.as_ref(), None),
            max_duration_jitter: proto
                .max_downstream_connection_duration_jitter_percentage
                .map_or(0.0, |percent| percent.value / 100.0),
            max_connect_attempts: proto.max_connect_attempts.unwrap_or(1).max(1),
            access_logs: access_logs?,
            log_on_start: options.flush_access_log_on_start,
            log_on_connected: options.flush_access_log_on_connected || old_connected,
            log_interval: options.access_log_flush_interval.as_ref().or(old_interval).and_then(duration),
            stats: scope.cells(),
        }))
    }

    /// The clusters it names.
    pub fn clusters(&self) -> Vec<&Name> {
        match &self.clusters {
            Clusters::One(name) => vec![name],
            Clusters::Weighted(clusters, _) => clusters.iter().map(|one| &one.name).collect(),
        }
    }

    /// Seeks a host for a connection that is not served yet, and may never be: its log and the statistics of its filter know nothing of it.
    pub async fn seek(&self, context: &Rc<Context>, connection: Rc<ConnectionInfo>) -> Box<Sought> {
        let now = clock::now();
        let mut stream = StreamInfo::new(connection, now, clock::wall(now));
        stream.upstream.sought = true;
        // (Who looks at the client meanwhile sees it leave, and ends this.)
        let connected = self.connect(context, &mut stream, None).await;
        Box::new(Sought {
            connected,
            upstream: stream.upstream,
            flags: stream.flags,
            reason: stream.local_close_reason,
            has_ended: Cell::new(false),
        })
    }

    /// Carries `down` to a host of a cluster until both directions ended, or the end of a drain. The host is the one that was `sought`, if
    /// any was. Nobody else has `stream` yet. Those of `policies` that want to are told what is carried.
    pub async fn serve(
        &self,
        context: &Rc<Context>,
        mut down: Down,
        stream: &mut Rc<RefCell<StreamInfo>>,
        policies: &mut [Box<dyn NetworkFilter>],
        sought: Option<Box<Sought>>,
        drain: &DrainHandle,
    ) {
        let stats = self.stats.here();
        let Some(info) = Rc::get_mut(stream).map(RefCell::get_mut) else { return };
        stats.downstream_cx_total.inc();
        info.upstream.sought = true;
        info.stream_id = fastrand::u64(1..);
        if self.log_on_start {
            self.log(info, LogType::TcpConnectionStart);
        }
        if down.is_shed(Point::TcpConnect) {
            self.tell_shed(info);
            info.end = Some(Instant::now());
            self.log(info, LogType::TcpConnectionEnd);
            return;
        }
        let connected = match sought {
            Some(sought) => Ok(sought.told_to(info)),
            None => tokio::select! {
                biased;
                connected = self.connect(context, info, Some(&down)) => Ok(connected),
                reason = drain.closed() => Err(reason),
            },
        };
        let connected = connected.unwrap_or_else(|reason| {
            info.local_close_reason = Some(reason.into());
            None
        });
        if let Some(up) = connected {
            if self.log_on_connected {
                self.log(info, LogType::TcpUpstreamConnected);
            }
            let request =
                info.upstream.host.as_ref().map(|host| {
                    RequestGuard::of_connection(up.guard.cluster(), host, BreakerPriority::Default)
                });
            info.upstream.filtered = up.filtered.clone();
            if let Some(gate) = down.gate.take() {
                down.connection.guard(Guard::new(gate, stream.clone()));
            }
            match interval(policies) {
                None => self.carry(&down, &up, stream, drain).await,
                // Few connections are told of: the others have no room for it.
                Some(interval) => {
                    let carrying = Box::pin(self.carry(&down, &up, stream, drain));
                    carry_telling(carrying, interval, policies, stream).await;
                }
            }
            drop(request);
            let wire = stream.borrow().upstream.wire;
            let upstream = up.guard.stats();
            upstream.upstream_cx_tx_bytes_total.add(wire.sent);
            upstream.upstream_cx_rx_bytes_total.add(wire.received);
        }
        let info = &mut *stream.borrow_mut();
        stats.downstream_cx_rx_bytes_total.add(info.bytes_received);
        stats.downstream_cx_tx_bytes_total.add(info.bytes_sent);
        info.end = Some(Instant::now());
        self.log(info, LogType::TcpConnectionEnd);
    }

    /// There is too much to do for this connection.
    fn tell_shed(&self, info: &mut StreamInfo) {
        self.stats.here().downstream_cx_overload_close.inc();
        info.flags.set(ResponseFlag::OverloadManagerTerminated);
        info.local_close_reason = Some("overload_manager_close".into());
    }

    /// A filter before this one closed the connection: it counts and is logged all the same.
    pub fn refuse(&self, info: &mut StreamInfo) {
        info.upstream.sought = true;
        self.stats.here().downstream_cx_total.inc();
        info.end = Some(Instant::now());
        self.log(info, LogType::TcpConnectionEnd);
    }

    fn log(&self, info: &StreamInfo, log_type: LogType) {
        let entry = LogEntry { log_type, ..LogEntry::of(info) };
        for log in &self.access_logs {
            log.log(&entry);
        }
    }

    /// A connection to a host for the client `down`, if it is known; after as many attempts as allowed.
    async fn connect(
        &self,
        context: &Rc<Context>,
        info: &mut StreamInfo,
        down: Option<&Down>,
    ) -> Option<ConnectedSocket> {
        let random = context.random.borrow_mut().u64(..);
        let of_state = info.filter_state(CLUSTER_STATE).and_then(|value| value.to_text());
        let cluster = match of_state {
            Some(name) => (context.clusters.by_name(&name), None),
            None => match self.clusters.choose(random) {
                Some((name, labels)) => (context.clusters.get(name), labels),
                None => (None, None),
            },
        };
        let (Some(cluster), labels) = cluster else {
            self.stats.here().downstream_cx_no_route.inc();
            info.flags.set(ResponseFlag::NoClusterFound);
            info.local_close_reason = Some("tcp_initializion_failure:3".into());
            return None;
        };
        info.upstream.cluster = Some(cluster.cluster.name.shared());
        info.upstream.cluster_observability_name = cluster.cluster.observability_name.clone();
        info.upstream.cluster_metadata = cluster.cluster.metadata.clone();
        // (As in Envoy no host is known to them yet.)
        let tlvs = self.told.as_ref().map(|told| told.of(info));
        for _ in 0..self.max_connect_attempts {
            let labels = labels.or(self.labels.as_ref());
            match self.attempt(context, &cluster, labels, tlvs.as_ref(), info, down).await {
                Ok(connected) => return Some(connected),
                Err(Retry::No) => return None,
                Err(Retry::Yes) => {}
            }
        }
        cluster.cluster.stats.traffic.here().upstream_cx_connect_attempts_exceeded.inc();
        info.flags.set(ResponseFlag::UpstreamRetryLimitExceeded);
        info.local_close_reason = Some("tcp_initializion_failure:0".into());
        None
    }

    async fn attempt(
        &self,
        context: &Rc<Context>,
        cluster: &Rc<WorkerCluster>,
        labels: Option<&Labels>,
        tlvs: Option<&Arc<[Tlv]>>,
        info: &mut StreamInfo,
        down: Option<&Down>,
    ) -> Result<ConnectedSocket, Retry> {
        if cluster.cluster.breakers.is_open(BreakerPriority::Default, Resource::Connections) {
            // Nothing would be there to wait for.
            cluster.cluster.stats.traffic.here().upstream_cx_overflow.inc();
            info.flags.set(ResponseFlag::UpstreamOverflow);
            info.upstream.pool_ready = Some(Instant::now());
            info.local_close_reason = Some("tcp_initializion_failure:2".into());
            return Err(Retry::No);
        }
        let mut place = None;
        let mut member = None;
        if let Some(aggregate) = cluster.aggregate() {
            let random = context.random.borrow_mut().u64(..);
            place = cluster.priorities(aggregate, &context.clusters).pick(None, random);
            member = place.as_ref().and_then(|place| aggregate.member(place, &context.clusters));
            if member.is_none() {
                cluster.no_member();
                return Err(no_host(info));
            }
        }
        let cluster = member.as_ref().unwrap_or(cluster);
        let mut known = None;
        match cluster.find_host(info, None) {
            Some(Finding::Known(found)) => known = Some(found),
            // (Boxed: few clusters want it.)
            Some(Finding::Waits(found)) => match Box::pin(while_there(found, down)).await {
                Some(Ok(())) => {}
                Some(Err(_)) => return Err(no_host(info)),
                None => return Err(Retry::No),
            },
            None => {}
        }
        let hash = self.hash_policy.as_ref().and_then(|policy| policy.hash(info));
        let labels = labels::wanted(&cluster.cluster, labels, info);
        let listed = cluster.cluster.balancing.override_hosts();
        if let Some(hosts) = listed.filter(|_| info.upstream.wishes.is_none()) {
            let listed = Some(hosts.queue(None, info));
            info.upstream.wishes = Some(Box::new(HostWishes { listed, ..HostWishes::default() }));
        }
        let listed = info.upstream.wishes.as_ref().and_then(|wishes| wishes.listed.as_ref());
        let wants = Wants { hash, labels: labels.as_deref(), host: None, listed, found: known.as_ref() };
        let picked = {
            let random = &mut context.random.borrow_mut();
            match &place {
                Some(place) => cluster.pick_member(wants, &place.loads, random),
                None => cluster.pick(info, wants, random),
            }
        };
        let Some(host) = picked else { return Err(no_host(info)) };
        let hosts = cluster.cluster.balancing.override_hosts();
        if let Some(selected) = hosts.and_then(|hosts| hosts.selected.as_ref()) {
            selected.set_text(&mut info.metadata, host.address.to_string());
        }
        info.upstream.attempts += 1;
        info.upstream.host = Some(host.clone());
        info.upstream.attempted.push(host.clone());
        let is_told = cluster.cluster.transport.tells_of_clients();
        let options = is_told.then(|| TransportOptions {
            client: Some(Client::with(&info.connection, tlvs)),
            ..TransportOptions::default()
        });
        let options = TransportOptions::with_state(options, info);
        let pool = cluster.tcp_pool(&host, &info.connection, options.as_ref());
        let opened = pool.open_tcp(BreakerPriority::Default).await;
        info.upstream.pool_ready = Some(Instant::now());
        match opened {
            Ok(connected) => {
                info.upstream.local = connected.local.clone();
                info.upstream.connection_id = Some(connected.id);
                info.upstream.tls = connected.tls.clone();
                let (begun, made) = connected.connect_times;
                (info.upstream.connect_start, info.upstream.connect_end) = (Some(begun), Some(made));
                note(cluster, &host, HostResult::ConnectedFinally);
                Ok(connected)
            }
            Err((UpstreamReset::Overflow, _)) => Err(Retry::Yes),
            Err((reset, reason)) => {
                if reset == UpstreamReset::ConnectTimeout {
                    note(cluster, &host, HostResult::TimedOut);
                } else if reset != UpstreamReset::LocalConnectFailure {
                    note(cluster, &host, HostResult::ConnectFailed);
                }
                info.flags.set(reset.flag());
                if !reason.is_empty() {
                    info.upstream.transport_failure = Some(reason.replace(' ', "_"));
                }
                Err(Retry::Yes)
            }
        }
    }

    async fn carry(
        &self,
        down: &Down,
        up: &ConnectedSocket,
        stream: &RefCell<StreamInfo>,
        drain: &DrainHandle,
    ) {
        // What is held is on its way between two connections, and neither may buffer more than it is allowed.
        let limit = down.buffer_limit.min(up.guard.cluster().buffer_limit as usize);
        let greeted = down.greeted;
        let mut timer = Timer::default();
        let mut to_upstream = Direction::new(limit);
        let mut to_downstream = Direction::new(limit);
        let jitter = 1.0 + self.max_duration_jitter * fastrand::f64();
        let end = self.max_duration.map(|max| stream.borrow().start + max.mul_f64(jitter));
        let mut activity = Instant::now();
        let mut moved = 0;
        let mut next_log = self.log_interval.map(|interval| Instant::now() + interval);
        let mut upstream_ended_first = false;
        let mut shedding = Shedding::new(down);
        let down = &down.connection;
        let carrying = poll_fn(|cx| {
            if shedding.sheds(&to_upstream, cx) {
                return Poll::Ready(Ended::Shed);
            }
            let sent = to_upstream.poll(down, &up.connection, cx);
            let received = to_downstream.poll(&up.connection, down, cx);
            let (there, back) = (to_upstream.moved(), to_downstream.moved());
            stream.borrow_mut().carried(
                WireBytes { received: down.came(there), sent: greeted + back, ..WireBytes::default() },
                WireBytes { received: up.connection.came(back), sent: there, ..WireBytes::default() },
            );
            match (sent, received) {
                (Poll::Ready(Err(Failed::Source(error))), _) | (_, Poll::Ready(Err(Failed::Sink(error)))) => {
                    return Poll::Ready(Ended::Downstream(error));
                }
                (Poll::Ready(Err(Failed::Sink(error))), _) | (_, Poll::Ready(Err(Failed::Source(error)))) => {
                    return Poll::Ready(Ended::Upstream(error));
                }
                (Poll::Ready(Ok(())) | Poll::Pending, Poll::Ready(Ok(())) | Poll::Pending) => {}
            }
            upstream_ended_first |= to_downstream.is_done() && !to_upstream.is_done();
            if to_upstream.is_done() && to_downstream.is_done() {
                return Poll::Ready(Ended::Both);
            }
            let total = there + back;
            if total != moved {
                moved = total;
                activity = clock::now();
            }
            loop {
                let idle = self.idle_timeout.map(|idle| activity + idle);
                let Some(at) = [idle, end, next_log].into_iter().flatten().min() else {
                    return Poll::Pending;
                };
                if timer.poll(cx, at).is_pending() {
                    return Poll::Pending;
                }
                let now = Instant::now();
                if end.is_some_and(|end| end <= now) {
                    return Poll::Ready(Ended::MaxDuration);
                }
                if idle.is_some_and(|idle| idle <= now) {
                    return Poll::Ready(Ended::Idle);
                }
                if let (Some(interval), Some(at)) = (self.log_interval, next_log)
                    && at <= now
                {
                    self.log(&stream.borrow(), LogType::TcpPeriodic);
                    next_log = Some(now + interval);
                }
            }
        });
        let (mut carrying, mut closed) = (pin!(carrying), pin!(drain.closed()));
        // (Boxed: few clusters want it.)
        let mut failed = up.guard.host_failed().map(Box::pin);
        let ended = poll_fn(|cx| {
            if let Poll::Ready(ended) = carrying.as_mut().poll(cx) {
                return Poll::Ready(ended);
            }
            if failed.as_mut().is_some_and(|failed| failed.as_mut().poll(cx).is_ready()) {
                return Poll::Ready(Ended::HostFailed);
            }
            closed.as_mut().poll(cx).map(Ended::Drained)
        })
        .await;
        count_upstream_end(&ended, upstream_ended_first, up.guard.stats());
        self.end(ended, down, up, &mut stream.borrow_mut());
    }

    /// Tells of the end, and passes it on.
    fn end(&self, ended: Ended, down: &Connection, up: &ConnectedSocket, info: &mut StreamInfo) {
        match ended {
            Ended::Both => {}
            // A reset is passed on: what is left of the connection is of no use to the other side.
            Ended::Downstream(error) if is_reset(&error) => {
                info.close_type = CloseType::RemoteReset;
                up.connection.reset_on_drop();
            }
            Ended::Upstream(error) if is_reset(&error) => {
                info.upstream.close_type = CloseType::RemoteReset;
                info.close_type = CloseType::LocalReset;
                info.flags.set(ResponseFlag::UpstreamRemoteReset);
                down.reset_on_drop();
            }
            Ended::Downstream(_) | Ended::Upstream(_) | Ended::HostFailed => {}
            Ended::Idle => {
                self.stats.here().idle_timeout.inc();
                info.local_close_reason = Some("tcp_session_idle_timeout".into());
                info.upstream.local_close_reason = Some("tcp_session_idle_timeout".into());
            }
            Ended::Drained(reason) => {
                info.local_close_reason = Some(reason.into());
                info.upstream.local_close_reason = Some(reason.into());
            }
            Ended::Shed => {
                info.bytes_received += drop_unread(down) as u64;
                self.tell_shed(info);
                info.upstream.local_close_reason = Some("overload_manager_close".into());
            }
            Ended::MaxDuration => {
                self.stats.here().max_downstream_connection_duration.inc();
                info.flags.set(ResponseFlag::DurationTimeout);
                info.local_close_reason = Some("max_connection_duration_reached".into());
                info.upstream.local_close_reason = Some("max_connection_duration_reached".into());
            }
        }
    }
}

/// The client's side of a connection.
pub struct Down {
    /// The connection.
    pub connection: Connection,
    /// How much of it may be buffered each way.
    pub buffer_limit: usize,
    /// Passed by what the client sends.
    pub gate: Option<Gate>,
    /// Bytes that filters sent it.
    pub greeted: u64,
    /// What it means if the client has ended its side before there is a host.
    pub end: EndOfPeer,
    /// What is done against overload, where the listener has anything done.
    pub overload: Option<Arc<Overload>>,
}

/// What came of seeking a host before the connection it is for was served.
pub struct Sought {
    connected: Option<ConnectedSocket>,
    // What the stream is told of it.
    upstream: UpstreamInfo,
    flags: ResponseFlags,
    reason: Option<Details>,
    /// The host hung up.
    has_ended: Cell<bool>,
}

impl Sought {
    /// Whether there is a connection to a host.
    pub fn is_connected(&self) -> bool {
        self.connected.is_some()
    }

    /// Ready when the host spoke, which is told again to who serves the connection, or with `false` if it never will.
    pub fn poll_greeting(&self, cx: &mut std::task::Context<'_>) -> Poll<bool> {
        let Some(ConnectedSocket { connection, .. }) = &self.connected else { return Poll::Ready(false) };
        if !connection.replay_is_empty() {
            return Poll::Ready(true);
        }
        let mut greeting = BytesMut::new();
        let read = ready!(connection.poll_read(cx, &mut greeting));
        let has_spoken = read.is_ok_and(|count| count > 0);
        match has_spoken {
            true => connection.replay(greeting),
            false => self.has_ended.set(true),
        }
        Poll::Ready(has_spoken)
    }

    /// The connection, for the stream of `info`, which learns what was found out.
    fn told_to(mut self: Box<Self>, info: &mut StreamInfo) -> Option<ConnectedSocket> {
        info.upstream = std::mem::take(&mut self.upstream);
        self.flags.iter().for_each(|flag| info.flags.set(flag));
        info.local_close_reason = self.reason.take();
        self.connected.take()
    }
}

impl Drop for Sought {
    /// Counts the end of a connection that carried nothing.
    fn drop(&mut self) {
        if let Some(unused) = &self.connected {
            let stats = unused.guard.stats();
            match self.has_ended.get() {
                true => stats.upstream_cx_destroy_remote.inc(),
                false => stats.upstream_cx_destroy_local.inc(),
            }
        }
    }
}

/// What `found` comes to; `None` if the client `down` leaves before.
async fn while_there<T>(found: impl Future<Output = T>, down: Option<&Down>) -> Option<T> {
    let Some(down) = down else { return Some(found.await) };
    tokio::select! {
        biased;
        found = found => Some(found),
        () = down.connection.left(down.end) => None,
    }
}

/// There is nobody to connect to.
fn no_host(info: &mut StreamInfo) -> Retry {
    info.flags.set(ResponseFlag::NoHealthyUpstream);
    info.upstream.pool_ready = Some(Instant::now());
    info.local_close_reason = Some("tcp_initializion_failure:1".into());
    Retry::No
}

/// Tells outlier detection, if there is any, what became of connecting.
fn note(cluster: &WorkerCluster, host: &Arc<Host>, result: HostResult) {
    if let Some(outlier) = &cluster.cluster.outlier {
        outlier.note(host, result);
    }
}

/// Counts which side ended the connection to the host.
fn count_upstream_end(ended: &Ended, upstream_ended_first: bool, upstream: &ClusterTrafficStats) {
    upstream.upstream_cx_destroy_with_active_rq.inc();
    match ended {
        Ended::Both | Ended::Upstream(_) if !upstream_ended_first => {
            upstream.upstream_cx_destroy_remote.inc();
            upstream.upstream_cx_destroy_remote_with_active_rq.inc();
        }
        Ended::Both
        | Ended::Upstream(_)
        | Ended::Downstream(_)
        | Ended::Idle
        | Ended::MaxDuration
        | Ended::HostFailed
        | Ended::Shed
        | Ended::Drained(_) => {
            upstream.upstream_cx_destroy_local.inc();
            upstream.upstream_cx_destroy_local_with_active_rq.inc();
        }
    }
}

fn is_reset(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe)
}

enum Retry {
    Yes,
    No,
}

/// Why a connection ended.
enum Ended {
    Both,
    Downstream(io::Error),
    Upstream(io::Error),
    Idle,
    MaxDuration,
    HostFailed,
    /// There is too much to do.
    Shed,
    Drained(&'static str),
}
