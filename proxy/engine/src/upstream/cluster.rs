//! A cluster: hosts behind one name, with everything that connecting to them and balancing among them needs.
//!
//! A `Cluster` is immutable but for its hosts, which are swapped as a whole, its breakers' counts and its statistics.
//! Source: `envoy/config/cluster/v3/cluster.proto`.

use std::sync::atomic::Ordering;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use arc_swap::{ArcSwap, Guard};
use proxy_core::address::Address;
use proxy_core::config::{BuildCx, Rejected, duration};
use proxy_core::extension::message_name;
use proxy_core::metadata::Metadata;
use proxy_core::names::Name;
use proxy_core::runtime::Runtime;
use proxy_core::stats::groups::{
    ClusterSizeStats, ClusterStateStats, ClusterTimeoutBudgetStats, ClusterTrafficStats, Http1Stats,
    Http2Stats, MaglevStats, RingHashStats,
};
use proxy_core::stats::{Cells, Scope, Shared};
use proxy_core::upstream::{
    Assignment, Checking, Duplicates, EntryCounts, HashTableKind, HashTables, Hashing, HealthFlag, Host,
    HostSet, HostSetOptions, HostsUpdate, LoadBalancer, LocalCluster, ReportedWeights,
};
use tokio::sync::Notify;
use xds_api::envoy::config::cluster::v3 as proto;
use xds_api::envoy::config::endpoint::v3::ClusterLoadAssignment;

use super::aggregate::Aggregate;
use super::balancing::Balancing;
use super::checks::{Checks, Spoken};
use super::circuit_breaker::{BreakerOwner, BreakerPriority, Breakers, Resource};
use super::connection_filters::ConnectionFilters;
use super::discovery::Discovery;
use super::dns::DnsKind;
use super::dynamic::DynamicHosts;
use super::http_options::{UpstreamHttp, UpstreamProtocol};
use super::maintenance::Maintenance;
use super::members::Members;
use super::oob::Asked;
use super::outlier::Outlier;
use super::socket_options::SocketOptions;
use super::subset_stats::SubsetCounts;
use super::transport::Transport;
use crate::local::buffers;
use crate::net::socket::ConnectOptions;

/// The statistics of one cluster.
#[derive(Clone, Debug)]
pub struct ClusterStats {
    /// `cluster.<name>`: connections and requests, one copy for each worker.
    pub traffic: Cells<ClusterTrafficStats>,
    /// `cluster.<name>`: membership, updates, breakers.
    pub state: Shared<ClusterStateStats>,
    /// If `track_cluster_stats` asks for it.
    pub sizes: Option<Cells<ClusterSizeStats>>,
    /// If `track_cluster_stats` asks for it.
    pub timeout_budgets: Option<Cells<ClusterTimeoutBudgetStats>>,
    /// What is counted of hosts is shown with all statistics (`track_cluster_stats.per_endpoint_stats`).
    pub per_endpoint: bool,
    /// The scope, for what is counted under other names.
    pub scope: Scope,
    codecs: CodecStats,
}

/// What the codecs of a cluster count: from the first connection that uses one, as in Envoy, to the end of the cluster.
#[derive(Clone, Debug, Default)]
struct CodecStats {
    http1: OnceLock<Cells<Http1Stats>>,
    http2: OnceLock<Cells<Http2Stats>>,
}

/// Hosts behind one name.
#[derive(Debug)]
pub struct Cluster {
    /// Its name and slot.
    pub name: Name,
    /// `alt_stat_name`, if set: what statistics and `%UPSTREAM_CLUSTER%` call it.
    pub observability_name: Option<Arc<str>>,
    /// Where its hosts come from.
    pub discovery: Discovery,
    /// How long connecting may take, a TLS handshake included.
    pub connect_timeout: Duration,
    /// Bytes that a connection may buffer each way (`per_connection_buffer_limit_bytes`).
    pub buffer_limit: u32,
    /// How HTTP is spoken.
    pub http: Arc<UpstreamHttp>,
    /// Each connection of a client has connections of its own (`connection_pool_per_downstream_connection`).
    pub pool_per_client: bool,
    /// Limits shared by all workers.
    pub breakers: Breakers,
    maintenance: Maintenance,
    /// Load balancing.
    pub balancing: Balancing,
    /// Outlier detection.
    pub outlier: Option<Box<Outlier>>,
    /// Active health checks.
    pub checks: Option<Box<Checks>>,
    /// What its hosts are asked of their load, if they are.
    pub(super) asked_reports: Option<Box<Asked>>,
    /// Streams of bytes end with the health of their host (`close_connections_on_host_health_failure`).
    pub closes_on_failure: bool,
    /// What checks mean for hosts that come and go.
    checking: Option<Checking>,
    /// Metadata.
    pub metadata: Metadata,
    /// Statistics.
    pub stats: ClusterStats,
    /// How the hosts are spoken with.
    pub transport: Transport,
    /// What connections to its hosts pass.
    pub filters: ConnectionFilters,
    socket: Arc<SocketOptions>,
    hash_stats: Option<HashStats>,
    subset_counts: Option<SubsetCounts>,
    /// Where others find its hosts, if it is the cluster that this proxy is a host of.
    local: Option<Arc<LocalCluster>>,
    hosts: ArcSwap<HostSet>,
    membership: Notify,
    pub(crate) runtime: Arc<Runtime>,
}

impl Cluster {
    /// Builds the cluster; the hosts of a STATIC one are there at once, those of others come later.
    pub fn build(proto: &proto::Cluster, cx: &mut BuildCx<'_>) -> Result<Arc<Self>, Rejected> {
        if proto.name.is_empty() {
            return Err(cx.at("name", |cx| cx.reject("must not be empty")));
        }
        let (cluster, assignment) = Self::build_empty(proto, cx)?;
        if matches!(cluster.discovery, Discovery::Static) {
            cluster.update_hosts(&assignment);
        }
        let cluster = Arc::new(cluster);
        cluster.follow_runtime();
        if let Discovery::Dynamic(hosts) = &cluster.discovery {
            hosts.follow(&cluster);
        }
        Ok(cluster)
    }

    /// One without hosts, and those that its configuration has.
    pub(super) fn build_empty(
        proto: &proto::Cluster,
        cx: &mut BuildCx<'_>,
    ) -> Result<(Self, Assignment), Rejected> {
        let discovery = Discovery::build(proto, cx);
        let balancing = Balancing::build(proto, cx);
        let defaulted = DynamicHosts::is_kind_of(proto).then(|| DynamicHosts::with_defaults(proto));
        let proto = defaulted.as_ref().unwrap_or(proto);
        let outer = std::mem::replace(&mut cx.stat_prefix, format!("cluster.{}.", stat_name(proto)));
        let http = UpstreamHttp::build(proto, cx);
        cx.stat_prefix = outer;
        let socket = SocketOptions::build(proto, cx);
        let factory = check_upstream_config(proto, cx);
        let connect_timeout = connect_timeout(proto, cx);
        let stats = ClusterStats::new(proto, cx);
        let transport = Transport::build(proto, &stats.scope, stats.state.clone(), cx);
        let filters = ConnectionFilters::build(&proto.filters, cx);
        let breakers = cx.at("circuit_breakers", |cx| {
            Breakers::build(proto.circuit_breakers.as_ref(), &stats.scope, stats.state.clone(), cx)
        });
        let errors = http.as_ref().ok().and_then(|http| http.errors.clone());
        let outlier = Outlier::build(proto, errors, &stats.scope, cx);
        factory?;
        let (transport, http) = (transport?, http?);
        if http.protocol == UpstreamProtocol::Alpn && !transport.is_secure() {
            return Err(cx.reject("ALPN configured for a cluster which has a non-ALPN transport socket"));
        }
        let (discovery, assignment) = discovery?;
        if matches!(discovery, Discovery::Aggregate(_)) {
            Aggregate::check(proto, cx)?;
        }
        if let Discovery::Dynamic(hosts) = &discovery {
            hosts.check(proto, http.names.as_ref(), cx)?;
        }
        let local = cx.env.cluster_defaults.local_cluster.clone().filter(|local| *local.name == *proto.name);
        if local.is_some() {
            cx.at("load_assignment", |cx| check_local_priorities(&proto.name, &assignment, cx))?;
        }
        let balancing = balancing?;
        let spoken = Spoken { protocol: http.protocol, is_secure: transport.is_secure() };
        let checks = Checks::build(proto, spoken, &stats.scope, cx)?;
        if checks.is_some() && matches!(discovery, Discovery::OriginalDst(_)) {
            return Err(cx.at("health_checks", |cx| {
                cx.reject("hosts that are made for clients (ORIGINAL_DST) are not checked")
            }));
        }
        let asked = balancing.reported.as_ref().and_then(|reported| reported.asked.as_ref());
        let asked_reports = asked.map(|asked| Box::new(Asked::new(asked, &stats.scope)));
        let hash_stats = balancing.hashing().map(|hashing| HashStats::new(hashing, &stats.scope));
        let subset_counts =
            balancing.subsets().map(|_| SubsetCounts::new(&stats.traffic, &stats.scope, cx.env.concurrency));
        let observability_name =
            (!proto.alt_stat_name.is_empty()).then(|| Arc::from(proto.alt_stat_name.as_str()));
        let cluster = Self {
            name: cx.env.clusters.intern(&proto.name),
            observability_name,
            connect_timeout: connect_timeout?,
            buffer_limit: buffers::limit(proto.per_connection_buffer_limit_bytes),
            http,
            pool_per_client: proto.connection_pool_per_downstream_connection,
            breakers: breakers?,
            maintenance: Maintenance::default(),
            balancing,
            outlier: outlier?,
            checking: checks.as_ref().map(|_| checking(proto, &discovery)),
            checks,
            asked_reports,
            closes_on_failure: proto.close_connections_on_host_health_failure,
            discovery,
            metadata: Metadata::new(proto.metadata.as_ref()),
            stats,
            transport,
            filters: filters?,
            socket: socket?,
            hash_stats,
            subset_counts,
            local,
            hosts: ArcSwap::from_pointee(HostSet::default()),
            membership: Notify::new(),
            runtime: cx.env.runtime.clone(),
        };
        Ok((cluster, assignment))
    }

    /// The hosts now. Do not hold the guard across an await.
    pub fn hosts(&self) -> Guard<Arc<HostSet>> {
        self.hosts.load()
    }

    /// The hosts now, to keep.
    pub fn hosts_full(&self) -> Arc<HostSet> {
        self.hosts.load_full()
    }

    /// The hosts now, to be shown: those that requests name are no set that is balanced over.
    pub fn known_hosts(&self) -> Arc<HostSet> {
        match &self.discovery {
            Discovery::Static | Discovery::Dns(_) | Discovery::Eds(_) | Discovery::Aggregate(_) => {
                self.hosts_full()
            }
            Discovery::OriginalDst(hosts) => {
                Arc::new(HostSet::of_hosts(hosts.hosts(), self.host_set_options()))
            }
            Discovery::Dynamic(hosts) => Arc::new(HostSet::of_hosts(hosts.hosts(), self.host_set_options())),
        }
    }

    /// Requests in flight, over all workers.
    pub fn active_requests(&self) -> u32 {
        let used = |priority| self.breakers.used(priority, Resource::Requests);
        used(BreakerPriority::Default) + used(BreakerPriority::High)
    }

    /// Takes over what the runtime says now of the limits and the maintenance of the cluster, so that requests need not ask it.
    pub fn follow_runtime(&self) {
        self.breakers.follow(&self.runtime, self.name.as_str());
        self.maintenance.follow(&self.runtime, self.name.as_str());
    }

    /// Whether a request is to be refused because the runtime says that the cluster is in maintenance. Counts those that are.
    pub(crate) fn refuses_in_maintenance(&self, random: impl FnOnce() -> u64) -> bool {
        let is_refused = self.maintenance.refuses(random);
        if is_refused {
            self.stats.traffic.here().upstream_rq_maintenance_mode.inc();
        }
        is_refused
    }

    /// A balancer for one worker.
    pub fn balancer(&self) -> Box<dyn LoadBalancer> {
        self.balancing.balancer(&self.stats.traffic)
    }

    /// The options of sockets to the hosts at `address`.
    pub fn connect_options(&self, address: &Address) -> &ConnectOptions {
        self.socket.connect_options(address)
    }

    /// How sockets are made; `SocketOptions::addresses` gives the order of a host's addresses.
    pub fn socket_options(&self) -> &SocketOptions {
        &self.socket
    }

    /// Whether one more connection to `host` is within `per_host_thresholds`.
    pub fn host_may_connect(&self, host: &Host, priority: BreakerPriority) -> bool {
        let open = host.active_connections.load(Ordering::Relaxed);
        open < self.breakers.max_connections_per_host(priority)
    }

    /// Takes the endpoints that EDS delivered.
    ///
    /// What is wrong with them leaves the hosts as they were. The subscriber counts `update_attempt`, `update_success`,
    /// `update_failure` and `update_empty`. Main thread only.
    pub fn apply_assignment(
        &self,
        assignment: &ClusterLoadAssignment,
        cx: &mut BuildCx<'_>,
    ) -> Result<HostsUpdate, Rejected> {
        self.transport.check(assignment, cx)?;
        let assignment = Assignment::build(assignment, cx)?;
        assignment.check_locality_weights(cx)?;
        if self.local.is_some() {
            check_local_priorities(self.name.as_str(), &assignment, cx)?;
        }
        if self.balancing.hashing().is_some() {
            assignment.check_host_weights(cx)?;
        }
        let update = self.update_hosts(&assignment);
        if !update.changed {
            self.stats.state.update_no_rebuild.inc();
        }
        Ok(update)
    }

    /// Replaces the hosts by those of `assignment`, keeping what stays. Main thread only.
    pub fn update_hosts(&self, assignment: &Assignment) -> HostsUpdate {
        let previous = self.hosts.load_full();
        let endpoints = assignment.localities.iter().flat_map(|locality| &locality.endpoints);
        endpoints.for_each(|endpoint| self.transport.count(&endpoint.metadata));
        let update = HostSet::update(Some(&previous), assignment, self.host_set_options());
        update.relabelled.iter().for_each(|host| self.transport.count(&host.metadata()));
        self.install(&update);
        update
    }

    /// Takes the hosts of the cluster that this one replaces, so that their counts and connections go on.
    ///
    /// For a cluster whose configuration changed but whose endpoints are not delivered anew (EDS).
    /// Who was ejected is back: what was found out about the hosts was that cluster's.
    pub fn inherit_hosts(&self, from: &Self) {
        for host in from.hosts.load().hosts() {
            host.set_flag(HealthFlag::FailedOutlierCheck, false);
            host.set_flag(HealthFlag::DegradedOutlierDetection, false);
            if self.balancing.reported.is_none() {
                host.reset_weight();
            }
        }
        let hosts = Arc::new(from.hosts.load().refreshed(self.host_set_options()));
        self.publish(hosts);
    }

    /// Sorts the hosts anew after their health or weight changed.
    pub fn refresh_hosts(&self) {
        let hosts = Arc::new(self.hosts.load().refreshed(self.host_set_options()));
        self.publish(hosts);
    }

    /// Weighs the hosts by what they reported.
    pub(super) fn weigh_hosts(&self) {
        if let Some(reported) = &self.balancing.reported
            && reported.weigh(&self.hosts.load(), Instant::now())
        {
            self.refresh_hosts();
        }
    }

    /// Removes the hosts that were only there because their checks passed, and do no longer; whether there were any.
    pub(super) fn remove_outstayed(&self) -> bool {
        let hosts = self.hosts.load_full();
        if hosts.outstayed().next().is_none() {
            return false;
        }
        self.install(&hosts.without_outstayed(self.host_set_options()));
        true
    }

    /// Whether every host that is to be checked was at least once.
    pub fn is_checked(&self) -> bool {
        self.checks.is_none() || !self.hosts.load().hosts().any(|host| host.is_unchecked())
    }

    /// Whether there ever was a connection for clients.
    pub(super) fn had_traffic(&self) -> bool {
        self.stats.traffic.any(|stats| stats.upstream_cx_total.used())
    }

    fn install(&self, update: &HostsUpdate) {
        let hosts = update.added.iter().chain(&update.removed);
        let mut priorities: Vec<u32> = hosts.map(|host| host.priority()).collect();
        priorities.sort_unstable();
        priorities.dedup();
        self.stats.state.membership_change.add(priorities.len() as u64);
        let weighs = |reported: &ReportedWeights| reported.weigh(&update.hosts, Instant::now());
        let hosts = match self.balancing.reported.as_deref().is_some_and(weighs) {
            true => Arc::new(update.hosts.refreshed(self.host_set_options())),
            false => update.hosts.clone(),
        };
        self.publish(hosts);
        self.membership.notify_one();
    }

    /// Hosts that are no set that is balanced over came or left; now there are so many.
    pub(super) fn note_members(&self, members: &Members) {
        self.stats.state.membership_change.inc();
        self.publish_members(members);
        self.membership.notify_one();
    }

    /// Tells how many hosts there are.
    pub(super) fn publish_members(&self, members: &Members) {
        let state = &self.stats.state;
        state.membership_total.set(members.total as u64);
        state.membership_healthy.set(members.healthy as u64);
        state.membership_degraded.set(members.degraded as u64);
        state.membership_excluded.set(members.excluded as u64);
    }

    /// Ready when other hosts came since it was last, for one who looks after them. Cancel-safe.
    pub(crate) async fn membership_changed(&self) {
        self.membership.notified().await;
    }

    fn publish(&self, hosts: Arc<HostSet>) {
        if let Some(local) = &self.local {
            local.set_hosts(hosts.clone());
        }
        let before = self.hosts.swap(hosts.clone());
        self.publish_membership(&before, &hosts);
    }

    /// Tells of hosts that requests go to already: who reads of them can count on it.
    fn publish_membership(&self, before: &HostSet, hosts: &HostSet) {
        match &self.discovery {
            Discovery::Static | Discovery::Dns(_) | Discovery::Eds(_) | Discovery::Aggregate(_) => {
                self.publish_members(&hosts.into());
            }
            Discovery::OriginalDst(members) => members.count_anew(self),
            Discovery::Dynamic(members) => members.count_anew(self),
        }
        if let Some((stats, counts)) =
            self.hash_stats.as_ref().zip(hosts.tables().and_then(HashTables::counts))
        {
            stats.set(counts);
        }
        if let Some(counts) = &self.subset_counts {
            counts.publish(before, hosts);
        }
        // Envoy keeps this one only where it merges hosts into a list, and there never below 1.
        let merges = match &self.discovery {
            Discovery::Static
            | Discovery::OriginalDst(_)
            | Discovery::Dynamic(_)
            | Discovery::Aggregate(_) => false,
            Discovery::Dns(dns) => dns.kind == DnsKind::Strict,
            Discovery::Eds(_) => true,
        };
        if merges {
            self.stats.state.max_host_weight.set(hosts.max_weight().max(1).into());
        }
    }

    fn host_set_options(&self) -> HostSetOptions<'_> {
        let duplicates = match self.discovery {
            Discovery::Static | Discovery::Dynamic(_) => Duplicates::Keep,
            Discovery::Dns(_) | Discovery::Eds(_) | Discovery::OriginalDst(_) | Discovery::Aggregate(_) => {
                Duplicates::Drop
            }
        };
        let panic_threshold = self.balancing.panic_threshold(&self.runtime);
        HostSetOptions {
            panic_threshold,
            duplicates,
            hashing: self.balancing.hashing(),
            slow_start: self.balancing.starts_slowly(),
            subsets: self.balancing.subsets(),
            checks: self.checking,
        }
    }
}

/// Refuses priorities of the cluster that this proxy is a host of: zones have shares of all its hosts.
fn check_local_priorities(name: &str, assignment: &Assignment, cx: &mut BuildCx<'_>) -> Result<(), Rejected> {
    match assignment.localities.iter().all(|locality| locality.priority == 0) {
        true => Ok(()),
        false => Err(cx.reject(format!("Unexpected non-zero priority for local cluster '{name}'."))),
    }
}

/// What checks mean for hosts that come and go.
fn checking(proto: &proto::Cluster, discovery: &Discovery) -> Checking {
    let is_logical = matches!(discovery, Discovery::Dns(dns) if dns.kind == DnsKind::Logical);
    let is_merged = !is_logical && !matches!(discovery, Discovery::Static);
    let common = proto.common_lb_config.as_ref();
    Checking {
        new_are_unwell: !is_logical,
        new_are_excluded: is_merged && common.is_some_and(|common| common.ignore_new_hosts_until_first_hc),
        well_ones_stay: is_merged && !proto.ignore_health_on_host_removal,
    }
}

/// What the tables of a cluster that balances by hashes count.
#[derive(Debug)]
enum HashStats {
    Ring(Shared<RingHashStats>),
    Maglev(Shared<MaglevStats>),
}

impl HashStats {
    fn new(hashing: &Hashing, scope: &Scope) -> Self {
        match hashing.table {
            HashTableKind::Ring { .. } => Self::Ring(scope.child("ring_hash_lb").shared()),
            HashTableKind::Maglev { .. } => Self::Maglev(scope.child("maglev_lb").shared()),
        }
    }

    fn set(&self, counts: EntryCounts) {
        match self {
            Self::Ring(stats) => {
                stats.size.set(counts.size);
                stats.min_hashes_per_host.set(counts.least);
                stats.max_hashes_per_host.set(counts.most);
            }
            Self::Maglev(stats) => {
                stats.min_entries_per_host.set(counts.least);
                stats.max_entries_per_host.set(counts.most);
            }
        }
    }
}

impl BreakerOwner for Arc<Cluster> {
    fn breakers(&self) -> &Breakers {
        &self.breakers
    }
}

/// What statistics call a cluster.
fn stat_name(proto: &proto::Cluster) -> &str {
    if proto.alt_stat_name.is_empty() { &proto.name } else { &proto.alt_stat_name }
}

impl ClusterStats {
    #[allow(deprecated)]
    fn new(proto: &proto::Cluster, cx: &BuildCx<'_>) -> Self {
        let name = stat_name(proto);
        // The name must not be split or completed by the registry: it goes in as it is.
        let scope = match name {
            "" => cx.env.stats.scope("cluster"),
            name => cx.env.stats.scope(&format!("cluster.{name}")),
        };
        let track = proto.track_cluster_stats.unwrap_or_default();
        Self {
            traffic: scope.cells(),
            state: scope.shared(),
            sizes: track.request_response_sizes.then(|| scope.cells()),
            timeout_budgets: (track.timeout_budgets || proto.track_timeout_budgets).then(|| scope.cells()),
            per_endpoint: track.per_endpoint_stats,
            scope,
            codecs: CodecStats::default(),
        }
    }

    /// `cluster.<name>.http1`, there from now on.
    pub fn http1(&self) -> &Cells<Http1Stats> {
        self.codecs.http1.get_or_init(|| self.scope.child("http1").cells())
    }

    /// `cluster.<name>.http2`, there from now on.
    pub fn http2(&self) -> &Cells<Http2Stats> {
        self.codecs.http2.get_or_init(|| self.scope.child("http2").cells())
    }
}

fn connect_timeout(proto: &proto::Cluster, cx: &mut BuildCx<'_>) -> Result<Duration, Rejected> {
    let Some(timeout) = &proto.connect_timeout else { return Ok(Duration::from_secs(5)) };
    match duration(timeout).filter(|timeout| !timeout.is_zero()) {
        Some(timeout) => Ok(timeout),
        None => Err(cx.at("connect_timeout", |cx| cx.reject("must be greater than 0"))),
    }
}

/// `upstream_config` may name the pools that are there anyway.
fn check_upstream_config(proto: &proto::Cluster, cx: &mut BuildCx<'_>) -> Result<(), Rejected> {
    const GENERIC: [&str; 2] = [
        "envoy.extensions.upstreams.http.generic.v3.GenericConnectionPoolProto",
        "envoy.extensions.upstreams.tcp.generic.v3.GenericConnectionPoolProto",
    ];
    let Some(config) = &proto.upstream_config else { return Ok(()) };
    let url = config.typed_config.as_ref().map_or("", |any| any.type_url.as_str());
    if GENERIC.contains(&message_name(url)) {
        return Ok(());
    }
    let reason = format!("connection pool '{}' is not available", message_name(url));
    Err(cx.at("upstream_config", |cx| cx.reject(reason)))
}
