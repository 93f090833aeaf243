//! A worker's side of the clusters: balancers and connection pools, one pool for each host.
//!
//! Pools belong to their worker; limits are the cluster's and count over all workers.
//! Source: Envoy `docs/root/intro/arch_overview/upstream/connection_pooling.rst`, `circuit_breaking.rst`.

mod connect;
mod either;
mod exclusive;
mod h1;
mod h2;
mod multiplexed;
mod pace;
mod preconnect;
#[cfg(test)]
mod simulation;

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use hashbrown::{Equivalent, HashMap};
use http::StatusCode;
use proxy_core::head::RequestHead;
use proxy_core::names::Name;
use proxy_core::stream_error::UpstreamReset;
use proxy_core::stream_info::{ConnectionInfo, OriginalSource, StreamInfo};
use proxy_core::upstream::{Host, HostQueue, HostSet, HostWish, Labels, Load, LoadBalancer, PickCx};
use tokio::sync::Notify;

pub(crate) use self::connect::ConnectedSocket;
use self::connect::Counts;
pub(crate) use self::either::Lease;
use self::exclusive::{Exclusive, Rests};
pub(crate) use self::h1::{Http1Lease, http1_options};
pub(crate) use self::h2::{Http2Lease, frame_limits, http2_builder};
use self::multiplexed::{Carries, Failure, Multiplexed};
use super::aggregate::Members;
use super::circuit_breaker::{BreakerPriority, Permit, Resource};
use super::cluster::Cluster;
use super::discovery::Discovery;
use super::dynamic::Found;
use super::transport_options::TransportOptions;
use crate::local::overload;

/// The clusters of one worker, by slot and by name.
#[derive(Default)]
pub struct Clusters {
    slots: RefCell<Vec<Option<Rc<WorkerCluster>>>>,
    names: RefCell<HashMap<Arc<str>, usize, foldhash::fast::RandomState>>,
}

impl Clusters {
    /// The cluster called `name`, if there is one now.
    pub fn get(&self, name: &Name) -> Option<Rc<WorkerCluster>> {
        self.slots.borrow().get(name.slot())?.clone()
    }

    /// The cluster called `name`, found by its text.
    pub fn by_name(&self, name: &str) -> Option<Rc<WorkerCluster>> {
        let slot = *self.names.borrow().get(name)?;
        self.slots.borrow().get(slot)?.clone()
    }

    /// Makes `clusters`, indexed by slot, the clusters of this worker. Unchanged ones keep their pools; the pools of
    /// others end with the requests that are on them.
    pub fn install(&self, clusters: &[Option<Arc<Cluster>>]) {
        let mut slots = self.slots.borrow_mut();
        let mut names = self.names.borrow_mut();
        let count = clusters.len().max(slots.len());
        slots.resize_with(count, || None);
        for (slot, current) in slots.iter_mut().enumerate() {
            let next = clusters.get(slot).and_then(Option::as_ref);
            let unchanged = match (&*current, next) {
                (Some(current), Some(next)) => Arc::ptr_eq(&current.cluster, next),
                (None, None) => true,
                _ => false,
            };
            if unchanged {
                continue;
            }
            if let Some(old) = current.take() {
                names.remove(old.cluster.name.as_str());
                old.retire();
            }
            if let Some(next) = next {
                names.insert(next.name.shared(), slot);
                *current = Some(Rc::new(WorkerCluster::new(next.clone())));
            }
        }
    }

    /// Closes idle connections to hosts that left the cluster in `slot`, and drains the others; all of them if the
    /// cluster wants that of every change (`close_connections_on_host_set_change`).
    pub fn hosts_changed(&self, slot: usize) {
        let cluster = self.slots.borrow().get(slot).cloned().flatten();
        match cluster {
            Some(cluster) if cluster.cluster.balancing.close_connections_on_host_set_change => {
                cluster.drain_pools();
            }
            Some(cluster) => cluster.drop_absent_hosts(),
            None => {}
        }
    }

    /// As [`Self::hosts_changed`], where it is known which hosts left.
    pub fn hosts_left(&self, slot: usize, hosts: &[Arc<Host>]) {
        let Some(cluster) = self.slots.borrow().get(slot).cloned().flatten() else { return };
        if cluster.cluster.balancing.close_connections_on_host_set_change {
            return cluster.drain_pools();
        }
        let left: hashbrown::HashSet<*const Host> = hosts.iter().map(Arc::as_ptr).collect();
        cluster.drain_hosts(|host| left.contains(&host));
    }

    /// Closes idle connections to hosts of the cluster in `slot` that failed their checks, and lets the others end with
    /// what is on them: new ones may take another way. Streams of bytes end at once where the cluster wants that
    /// (`close_connections_on_host_health_failure`).
    pub fn hosts_failed(&self, slot: usize, hosts: &[Arc<Host>]) {
        if let Some(cluster) = self.slots.borrow().get(slot).cloned().flatten() {
            let has_failed = |host: *const Host| hosts.iter().any(|failed| Arc::as_ptr(failed) == host);
            if cluster.cluster.closes_on_failure {
                let pools = cluster.pools.borrow();
                pools.iter().filter(|(key, _)| has_failed(key.host)).for_each(|(_, pool)| pool.fail());
            }
            cluster.drain_hosts(has_failed);
        }
    }

    /// Closes idle connections that are dead or have been idle too long; runs for as long as the worker does.
    pub async fn sweep(&self) {
        let mut looks = pace::Looks::new();
        loop {
            looks.next().await;
            let now = Instant::now();
            let clusters: Vec<_> =
                self.slots.borrow().iter().flatten().filter(|cluster| cluster.has_pools()).cloned().collect();
            for cluster in clusters {
                cluster.sweep(now);
            }
        }
    }
}

/// Whose connections are in a pool.
#[derive(Clone, PartialEq, Eq, Hash)]
struct PoolKey {
    host: *const Host,
    /// Which limits its connections are under: none serves requests that are under others.
    priority: BreakerPriority,
    /// The client's connection that has the pool to itself; 0 where all share it.
    client: u64,
    /// The address that all of its connections come from, if that is a client's.
    source: Option<OriginalSource>,
    /// What is wanted of all of its connections.
    options: Option<Rc<TransportOptions>>,
}

/// A key to look for: nothing is copied until a pool is made.
#[derive(Clone, Copy, Hash)]
struct Wanted<'w> {
    host: *const Host,
    priority: BreakerPriority,
    client: u64,
    source: Option<OriginalSource>,
    options: Option<&'w TransportOptions>,
}

impl Equivalent<PoolKey> for Wanted<'_> {
    fn equivalent(&self, key: &PoolKey) -> bool {
        self.host == key.host
            && self.priority == key.priority
            && self.client == key.client
            && self.source == key.source
            && self.options == key.options.as_deref()
    }
}

impl Wanted<'_> {
    fn to_key(self) -> PoolKey {
        let Self { host, priority, client, source, options } = self;
        PoolKey { host, priority, client, source, options: options.cloned().map(Rc::new) }
    }
}

/// One cluster on one worker.
pub struct WorkerCluster {
    /// The cluster, shared by all workers.
    pub cluster: Arc<Cluster>,
    balancer: RefCell<Option<Box<dyn LoadBalancer>>>,
    ahead: RefCell<Peeked>,
    /// What is known of the clusters that an aggregate stands for.
    pub(super) members: RefCell<Members>,
    pools: RefCell<HashMap<PoolKey, Rc<HostPool>, foldhash::fast::FixedState>>,
    retired: Cell<bool>,
}

impl WorkerCluster {
    fn new(cluster: Arc<Cluster>) -> Self {
        Self {
            cluster,
            balancer: RefCell::new(None),
            ahead: RefCell::default(),
            members: RefCell::default(),
            pools: RefCell::default(),
            retired: Cell::new(false),
        }
    }

    /// Whether another cluster of its name, or none, has come in its place.
    pub fn is_retired(&self) -> bool {
        self.retired.get()
    }

    /// The hosts now.
    pub fn hosts(&self) -> Arc<HostSet> {
        self.cluster.hosts_full()
    }

    /// Chooses a host for a request, unless the control plane wants it refused.
    pub fn pick_for_request(
        &self,
        info: &StreamInfo,
        request: &RequestHead,
        wants: Wants<'_>,
        random: &mut fastrand::Rng,
    ) -> Result<Arc<Host>, NoHost> {
        if let Some(named) = self.named(info, Some(request), wants.found) {
            return named.ok_or(NoHost::Unavailable);
        }
        let hosts = self.cluster.hosts();
        if let Some(drop) = &hosts.policy().drop_overload
            && drop.numerator > 0
        {
            if drop.is_unconditional() {
                return Err(NoHost::DroppedAlways);
            }
            if drop.holds(random.u64(..)) {
                return Err(NoHost::Dropped);
            }
        }
        if let Some(decided) = wants.host.and_then(|wish| self.wished(&hosts, wish)) {
            return decided;
        }
        self.choose(&hosts, wants, random).ok_or(NoHost::Unavailable)
    }

    /// That there is no cluster with a host for a request to this one, which is an aggregate.
    pub(crate) fn no_member(&self) -> NoHost {
        self.count_pick(false, false);
        NoHost::Unavailable
    }

    /// Fails if a filter wants the request to go to one host and no other, where there are none: in an aggregate.
    pub(crate) fn check_wish(&self, wish: Option<&HostWish>) -> Result<(), NoHost> {
        wish.and_then(|wish| self.wished(&self.cluster.hosts(), wish)).map_or(Ok(()), |host| host.map(drop))
    }

    /// Chooses a host for a request to an aggregate that stands for this cluster.
    pub(crate) fn pick_member(
        &self,
        wants: Wants<'_>,
        loads: &[Load],
        random: &mut fastrand::Rng,
    ) -> Option<Arc<Host>> {
        let cx = PickCx { loads: Some(loads), ..wants.cx(random) };
        self.balance_and_count(&self.cluster.hosts(), cx)
    }

    /// The host that a filter has chosen for a request, or that it has none; `None` if another will do.
    fn wished(&self, hosts: &HostSet, wish: &HostWish) -> Option<Result<Arc<Host>, NoHost>> {
        let found = wish.address.as_ref().and_then(|address| hosts.at(address));
        if let Some(host) =
            found.filter(|host| self.cluster.balancing.override_statuses.contains(host.status()))
        {
            return Some(Ok(host.clone()));
        }
        let strict = wish.strict?;
        self.count_pick(false, false);
        Some(Err(match found {
            Some(_) => NoHost::Unavailable,
            None => NoHost::Missing(strict.status_if_missing),
        }))
    }

    /// Chooses a host for a request that is sent again.
    pub(crate) fn pick_again(
        &self,
        info: &StreamInfo,
        request: &RequestHead,
        random: &mut fastrand::Rng,
        again: &PickAgain<'_>,
    ) -> Result<Arc<Host>, NoHost> {
        let mut pick = |attempt: u32| match self.named(info, Some(request), again.wants.found) {
            Some(named) => named,
            None => {
                let cx = PickCx { attempt, loads: again.loads, ..again.wants.cx(random) };
                self.balance_and_count(&self.cluster.hosts(), cx)
            }
        };
        let mut host = pick(0).ok_or(NoHost::Unavailable)?;
        if again.wants.listed.is_some_and(HostQueue::has_found) {
            // The request asks for it.
            return Ok(host);
        }
        for attempt in 1..=again.attempts {
            if !(again.avoids)(&host) {
                break;
            }
            host = pick(attempt).ok_or(NoHost::Unavailable)?;
        }
        Ok(host)
    }

    /// Chooses a host for a connection; those that are not for HTTP are never refused (`drop_overloads`), as in Envoy.
    pub fn pick(&self, info: &StreamInfo, wants: Wants<'_>, random: &mut fastrand::Rng) -> Option<Arc<Host>> {
        if let Some(named) = self.named(info, None, wants.found) {
            return named;
        }
        self.choose(&self.cluster.hosts(), wants, random)
    }

    /// The host that a request or connection names, looked up unless it was `found`; `None` if the cluster balances.
    fn named(
        &self,
        info: &StreamInfo,
        request: Option<&RequestHead>,
        found: Option<&Found>,
    ) -> Option<Option<Arc<Host>>> {
        let picked = match &self.cluster.discovery {
            Discovery::OriginalDst(hosts) => hosts.pick(&self.cluster, info, request),
            Discovery::Dynamic(hosts) => match found {
                Some(Found(host)) => host.clone(),
                None => hosts.pick(&self.cluster, info, request),
            },
            Discovery::Static | Discovery::Dns(_) | Discovery::Eds(_) | Discovery::Aggregate(_) => {
                return None;
            }
        };
        if picked.is_none() {
            self.cluster.stats.traffic.here().upstream_cx_none_healthy.inc();
        }
        Some(picked)
    }

    fn choose(&self, hosts: &HostSet, wants: Wants<'_>, random: &mut fastrand::Rng) -> Option<Arc<Host>> {
        let is_listed = wants.listed.is_some_and(|listed| !listed.is_done());
        if !is_listed && let Some(host) = self.ahead.borrow_mut().next(hosts) {
            self.count_pick(hosts.picked_in_panic(&host), true);
            return Some(host);
        }
        self.balance_and_count(hosts, wants.cx(random))
    }

    fn balance_and_count(&self, hosts: &HostSet, mut cx: PickCx<'_>) -> Option<Arc<Host>> {
        let picked = self.balance(hosts, &mut cx);
        self.count_pick(cx.in_panic, picked.is_some());
        picked
    }

    fn count_pick(&self, in_panic: bool, is_picked: bool) {
        let stats = &self.cluster.stats.traffic;
        if in_panic {
            stats.here().lb_healthy_panic.inc();
        }
        if !is_picked {
            stats.here().upstream_cx_none_healthy.inc();
        }
    }

    fn balance(&self, hosts: &HostSet, cx: &mut PickCx<'_>) -> Option<Arc<Host>> {
        let mut balancer = self.balancer.borrow_mut();
        let balancer = balancer.get_or_insert_with(|| self.cluster.balancer());
        if self.cluster.balancing.is_bounded() {
            cx.active_requests = self.cluster.active_requests();
        }
        balancer.pick(hosts, cx)
    }

    /// The pool for `host`; `None` if there are as many as `max_connection_pools` allows, and none of them may go.
    ///
    /// The client has a pool of its own where the cluster wants that, and where connections are made in its name.
    pub(crate) fn pool(
        self: &Rc<Self>,
        host: &Arc<Host>,
        client: &ConnectionInfo,
        options: Option<&TransportOptions>,
        priority: BreakerPriority,
    ) -> Option<Rc<HostPool>> {
        let source = client.original_source;
        let client = if self.cluster.pool_per_client { client.id } else { 0 };
        let wanted = Wanted { host: Arc::as_ptr(host), priority, client, source, options };
        let known = self.pools.borrow().get(&wanted).cloned();
        known.or_else(|| self.new_pool(host, wanted.to_key()))
    }

    /// The pool for connections to `host` that are not for HTTP: these do not count as a pool, as in Envoy.
    pub(crate) fn tcp_pool(
        self: &Rc<Self>,
        host: &Arc<Host>,
        client: &ConnectionInfo,
        options: Option<&TransportOptions>,
    ) -> Rc<HostPool> {
        let source = client.original_source;
        let priority = BreakerPriority::Default;
        let wanted = Wanted { host: Arc::as_ptr(host), priority, client: 0, source, options };
        let known = self.pools.borrow().get(&wanted).cloned();
        known.unwrap_or_else(|| self.insert_pool(host, wanted.to_key(), None))
    }

    #[cold]
    fn new_pool(self: &Rc<Self>, host: &Arc<Host>, key: PoolKey) -> Option<Rc<HostPool>> {
        let priority = key.priority;
        let permit = || Permit::acquire(self.cluster.clone(), priority, Resource::Pools).ok();
        let permit = permit().or_else(|| {
            self.pools.borrow_mut().retain(|_, pool| pool.is_used());
            permit()
        });
        let permit = permit.or_else(|| {
            self.free_pool(host, priority)?;
            Permit::acquire(self.cluster.clone(), priority, Resource::Pools).ok()
        });
        if permit.is_none() {
            self.cluster.stats.traffic.here().upstream_cx_pool_overflow.inc();
            return None;
        }
        Some(self.insert_pool(host, key, permit))
    }

    /// Gives up a pool of `host` that carries no request.
    fn free_pool(&self, host: &Arc<Host>, priority: BreakerPriority) -> Option<()> {
        let key = {
            let pools = self.pools.borrow();
            let is_like = |key: &PoolKey| key.host == Arc::as_ptr(host) && key.priority == priority;
            let mut of_host = pools.iter().filter(|(key, _)| is_like(key));
            of_host.find(|(_, pool)| pool.load().streams == 0 && !pool.is_connecting())?.0.clone()
        };
        let pool = self.pools.borrow_mut().remove(&key)?;
        pool.permit.set(None);
        pool.drain();
        Some(())
    }

    fn insert_pool(
        self: &Rc<Self>,
        host: &Arc<Host>,
        key: PoolKey,
        permit: Option<Permit<Arc<Cluster>>>,
    ) -> Rc<HostPool> {
        let pool = HostPool::new(host.clone(), self.cluster.clone(), permit);
        let pool = Rc::new(HostPool { source: key.source, options: key.options.clone(), ..pool });
        pool.draining.set(self.retired.get() || host.has_left());
        self.pools.borrow_mut().insert(key, pool.clone());
        pool
    }

    fn has_pools(&self) -> bool {
        !self.pools.borrow().is_empty()
    }

    fn sweep(&self, now: Instant) {
        self.pools.borrow_mut().retain(|_, pool| {
            pool.sweep(now);
            pool.is_used()
        });
    }

    fn drop_absent_hosts(&self) {
        let hosts = self.cluster.known_hosts();
        let present: hashbrown::HashSet<*const Host> = hosts.hosts().map(Arc::as_ptr).collect();
        self.drain_hosts(|host| !present.contains(&host));
    }

    /// As [`Self::drain_pools`], for some hosts.
    fn drain_hosts(&self, is_meant: impl Fn(*const Host) -> bool) {
        self.pools.borrow_mut().retain(|key, pool| {
            let keep = !is_meant(key.host);
            if !keep {
                pool.drain();
            }
            keep
        });
    }

    /// Idle connections close, busy ones after their request; new requests get new ones.
    fn drain_pools(&self) {
        // Closing a connection looks at its pool, never at this map.
        for (_, pool) in std::mem::take(&mut *self.pools.borrow_mut()) {
            pool.drain();
        }
    }

    /// The cluster is gone or was replaced.
    fn retire(&self) {
        self.retired.set(true);
        self.drain_pools();
    }
}

/// Hosts that were chosen before their requests came.
#[derive(Default)]
struct Peeked {
    /// The set that they are of.
    generation: u64,
    hosts: VecDeque<Arc<Host>>,
}

impl Peeked {
    /// The host that the next request was promised.
    fn next(&mut self, hosts: &HostSet) -> Option<Arc<Host>> {
        if self.hosts.is_empty() || self.generation != hosts.generation() {
            return None;
        }
        self.hosts.pop_front()
    }
}

/// What a request or connection wants of its host.
#[derive(Clone, Copy, Default)]
pub struct Wants<'a> {
    /// What it hashes to, where the cluster balances by that.
    pub hash: Option<u64>,
    /// How the host must be labelled, where the cluster divides its hosts.
    pub labels: Option<&'a Labels>,
    /// The host that a filter has chosen.
    pub host: Option<&'a HostWish>,
    /// The hosts that it lists, where the cluster looks for such a list.
    pub listed: Option<&'a HostQueue>,
    /// The host that it names, where it was looked up already.
    pub(crate) found: Option<&'a Found>,
}

impl<'a> Wants<'a> {
    fn cx(self, random: &'a mut fastrand::Rng) -> PickCx<'a> {
        PickCx { hash: self.hash, labels: self.labels, listed: self.listed, ..PickCx::new(random) }
    }
}

/// How a host is chosen for a request that is sent again.
pub(crate) struct PickAgain<'a> {
    /// Whether the request had better not go to a host.
    pub(crate) avoids: &'a dyn Fn(&Arc<Host>) -> bool,
    /// How often another host is chosen for such a one.
    pub(crate) attempts: u32,
    /// What the request wants.
    pub(crate) wants: Wants<'a>,
    /// The load of the priorities, if not the usual.
    pub(crate) loads: Option<&'a [Load]>,
}

/// Why there is no host for a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoHost {
    /// None is available.
    Unavailable,
    /// The only one that will do is not there; this is the answer.
    Missing(StatusCode),
    /// The control plane wants this share of the requests refused (`drop_overloads`).
    Dropped,
    /// The control plane wants all of them refused.
    DroppedAlways,
    /// The runtime wants this share of the requests refused (`upstream.maintenance_mode.<cluster>`).
    InMaintenance,
}

/// What the connections of a pool are: those of the network, or those of a simulation.
pub(crate) trait Wire: Sized + 'static {
    /// A connection that carries one request at a time.
    type Exclusive: Rests;
    /// A connection that carries many.
    type Multiplexed: Carries;
}

/// The connections of the network.
pub(crate) enum Sockets {}

/// The connections to one host.
pub(crate) struct HostPool<P: Wire = Sockets> {
    pub(crate) host: Arc<Host>,
    pub(crate) cluster: Arc<Cluster>,
    source: Option<OriginalSource>,
    /// What is wanted of its connections.
    pub(crate) options: Option<Rc<TransportOptions>>,
    /// The last handshake that left it to the host chose HTTP/1.
    speaks_http1: Cell<bool>,
    exclusive: Exclusive<P::Exclusive>,
    multiplexed: Multiplexed<P::Multiplexed>,
    /// Connections open or being made, on this worker.
    connections: Counts,
    /// No connection is kept after its request.
    draining: Cell<bool>,
    /// The host failed its checks.
    has_failed: Cell<bool>,
    failed: Notify,
    permit: Cell<Option<Permit<Arc<Cluster>>>>,
}

impl<P: Wire> HostPool<P> {
    fn new(host: Arc<Host>, cluster: Arc<Cluster>, permit: Option<Permit<Arc<Cluster>>>) -> Self {
        Self {
            host,
            cluster,
            source: None,
            options: None,
            speaks_http1: Cell::new(false),
            exclusive: Exclusive::default(),
            multiplexed: Multiplexed::default(),
            connections: Counts::default(),
            draining: Cell::new(false),
            has_failed: Cell::new(false),
            failed: Notify::new(),
            permit: Cell::new(permit),
        }
    }

    /// Whether a connection is open or being made, or somebody is about to.
    fn is_used(self: &Rc<Self>) -> bool {
        self.connections.sum() > 0 || Rc::strong_count(self) > 1
    }

    fn drain(&self) {
        self.draining.set(true);
        self.exclusive.close_idle();
        self.multiplexed.drain();
    }

    /// Tells who carries streams of bytes that the host failed.
    fn fail(&self) {
        self.has_failed.set(true);
        self.failed.notify_waiters();
    }

    /// Ready when the host failed and streams of bytes are to end with it. Cancel-safe.
    async fn failed(&self) {
        let failed = self.failed.notified();
        if !self.has_failed.get() {
            failed.await;
        }
    }

    /// Counts a request that waits for a connection which carries many, or is made to.
    fn pending(&self, priority: BreakerPriority) -> Result<Pending, Failure> {
        match self.is_connecting() {
            true => Pending::new(&self.cluster, &self.host, priority),
            false => Pending::for_new(&self.cluster, &self.host, priority),
        }
    }

    fn sweep(&self, now: Instant) {
        self.exclusive.sweep(self.cluster.http.idle_timeout, now);
        self.sweep_multiplexed(now);
    }
}

/// A request that waits for a connection: counts in the circuit breaker, in statistics and at the host until it is dropped.
struct Pending {
    permit: Permit<Arc<Cluster>>,
    host: Arc<Host>,
}

impl Pending {
    /// Counts a request to `host`; fails if the breaker is open.
    fn new(cluster: &Arc<Cluster>, host: &Arc<Host>, priority: BreakerPriority) -> Result<Self, Failure> {
        let stats = cluster.stats.traffic.here();
        let Ok(permit) = Permit::acquire(cluster.clone(), priority, Resource::Pending) else {
            stats.upstream_rq_pending_overflow.inc();
            return Err((UpstreamReset::Overflow, String::new()));
        };
        stats.upstream_rq_pending_total.inc();
        stats.upstream_rq_pending_active.inc();
        host.pending_requests.fetch_add(1, Ordering::Relaxed);
        Ok(Self { permit, host: host.clone() })
    }

    /// Counts a request for which a connection is to be made; fails, too, if none is because there is too much to do.
    fn for_new(cluster: &Arc<Cluster>, host: &Arc<Host>, priority: BreakerPriority) -> Result<Self, Failure> {
        let pending = Self::new(cluster, host, priority)?;
        if overload::sheds_connection_to_host() {
            cluster.stats.traffic.here().upstream_rq_cancelled.inc();
            return Err((UpstreamReset::Overflow, String::new()));
        }
        Ok(pending)
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        self.permit.owner().stats.traffic.here().upstream_rq_pending_active.dec();
        self.host.pending_requests.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A request in flight at a cluster: counts in the circuit breaker, in statistics and at the host until it is dropped.
pub(crate) struct RequestGuard {
    permit: Permit<Arc<Cluster>>,
    host: Arc<Host>,
}

impl RequestGuard {
    /// Counts a request to `host` that a connection carries from now on; `None` if the breaker is open.
    pub(crate) fn new(cluster: &Arc<Cluster>, host: &Arc<Host>, priority: BreakerPriority) -> Option<Self> {
        let Ok(permit) = Permit::acquire(cluster.clone(), priority, Resource::Requests) else {
            cluster.stats.traffic.here().upstream_rq_active_overflow.inc();
            return None;
        };
        Some(Self::counted(permit, host))
    }

    /// Counts a connection that is not for HTTP to `host`, which the breaker of requests does not stop, as in Envoy.
    pub(crate) fn of_connection(cluster: &Arc<Cluster>, host: &Arc<Host>, priority: BreakerPriority) -> Self {
        let permit = Permit::acquire_over(cluster.clone(), priority, Resource::Requests);
        Self::counted(permit, host)
    }

    fn counted(permit: Permit<Arc<Cluster>>, host: &Arc<Host>) -> Self {
        let stats = permit.owner().stats.traffic.here();
        stats.upstream_rq_total.inc();
        stats.upstream_rq_active.inc();
        host.stats.rq_total.fetch_add(1, Ordering::Relaxed);
        host.active_requests.fetch_add(1, Ordering::Relaxed);
        Self { permit, host: host.clone() }
    }

    /// The cluster.
    pub(crate) fn cluster(&self) -> &Arc<Cluster> {
        self.permit.owner()
    }
}

impl Drop for RequestGuard {
    fn drop(&mut self) {
        self.cluster().stats.traffic.here().upstream_rq_active.dec();
        self.host.active_requests.fetch_sub(1, Ordering::Relaxed);
    }
}
