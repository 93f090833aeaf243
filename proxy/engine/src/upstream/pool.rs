//! A worker's side of the clusters: balancers and connection pools, one pool for each host.
//!
//! Pools belong to their worker; limits are the cluster's and count over all workers.
//! Source: Envoy `docs/root/intro/arch_overview/upstream/connection_pooling.rst`, `circuit_breaking.rst`.

mod connect;
mod h1;
mod h2;
mod pace;

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use hashbrown::HashMap;
use proxy_core::names::Name;
use proxy_core::upstream::{Host, HostSet, LoadBalancer, PickCx};

pub(crate) use self::connect::ConnectedSocket;
pub(crate) use self::h1::Http1Lease;
use self::h1::Http1Pool;
pub(crate) use self::h2::Http2Lease;
use self::h2::Http2Pool;
use super::circuit_breaker::{BreakerPriority, Permit, Resource};
use super::cluster::Cluster;

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

    /// Closes idle connections to hosts that left the cluster in `slot`, and drains the others.
    pub fn hosts_changed(&self, slot: usize) {
        let cluster = self.slots.borrow().get(slot).cloned().flatten();
        if let Some(cluster) = cluster {
            cluster.drop_absent_hosts();
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

/// One cluster on one worker.
pub struct WorkerCluster {
    /// The cluster, shared by all workers.
    pub cluster: Arc<Cluster>,
    balancer: RefCell<Option<Box<dyn LoadBalancer>>>,
    pools: RefCell<HashMap<*const Host, Rc<HostPool>, foldhash::fast::FixedState>>,
    retired: Cell<bool>,
}

impl WorkerCluster {
    fn new(cluster: Arc<Cluster>) -> Self {
        Self { cluster, balancer: RefCell::new(None), pools: RefCell::default(), retired: Cell::new(false) }
    }

    /// The hosts now.
    pub fn hosts(&self) -> Arc<HostSet> {
        self.cluster.hosts_full()
    }

    /// Chooses a host for a request or connection.
    pub fn pick(&self, random: &mut fastrand::Rng) -> Option<Arc<Host>> {
        let mut balancer = self.balancer.borrow_mut();
        let balancer = balancer.get_or_insert_with(|| self.cluster.balancer());
        let hosts = self.cluster.hosts();
        balancer.pick(&hosts, &mut PickCx::new(random))
    }

    /// The pool for `host`.
    pub(crate) fn pool(self: &Rc<Self>, host: &Arc<Host>) -> Rc<HostPool> {
        let mut pools = self.pools.borrow_mut();
        let pool = pools.entry(Arc::as_ptr(host)).or_insert_with(|| {
            Rc::new(HostPool {
                host: host.clone(),
                cluster: self.cluster.clone(),
                http1: Http1Pool::default(),
                http2: Http2Pool::default(),
                connections: Cell::new(0),
                draining: Cell::new(self.retired.get()),
            })
        });
        pool.clone()
    }

    fn has_pools(&self) -> bool {
        !self.pools.borrow().is_empty()
    }

    fn sweep(&self, now: Instant) {
        self.pools.borrow_mut().retain(|_, pool| {
            pool.http1.sweep(pool, now);
            pool.http2.sweep(pool, now);
            pool.connections.get() > 0 || Rc::strong_count(pool) > 1
        });
    }

    fn drop_absent_hosts(&self) {
        let hosts = self.cluster.hosts();
        let present: hashbrown::HashSet<*const Host> = hosts.hosts().map(Arc::as_ptr).collect();
        self.pools.borrow_mut().retain(|host, pool| {
            let keep = present.contains(host);
            if !keep {
                pool.drain();
            }
            keep
        });
    }

    /// The cluster is gone or was replaced: idle connections close, busy ones after their request.
    fn retire(&self) {
        self.retired.set(true);
        for pool in self.pools.borrow().values() {
            pool.drain();
        }
        self.pools.borrow_mut().clear();
    }
}

/// The connections to one host.
pub(crate) struct HostPool {
    pub(crate) host: Arc<Host>,
    pub(crate) cluster: Arc<Cluster>,
    pub(crate) http1: Http1Pool,
    pub(crate) http2: Http2Pool,
    /// Connections open or being made, on this worker.
    pub(crate) connections: Cell<usize>,
    /// No connection is kept after its request.
    pub(crate) draining: Cell<bool>,
}

impl HostPool {
    fn drain(&self) {
        self.draining.set(true);
        self.http1.close_idle();
        self.http2.drain();
    }
}

/// A request in flight at a cluster: counts in the circuit breaker, in statistics and at the host until it is dropped.
pub(crate) struct RequestGuard {
    _permit: Permit<Arc<Cluster>>,
    cluster: Arc<Cluster>,
    host: Arc<Host>,
    /// A connection carries the request.
    attached: bool,
}

impl RequestGuard {
    /// Counts a request to `host`; `None` if the breaker is open.
    pub(crate) fn new(cluster: &Arc<Cluster>, host: &Arc<Host>, priority: BreakerPriority) -> Option<Self> {
        let Ok(permit) = Permit::acquire(cluster.clone(), priority, Resource::Requests) else {
            cluster.stats.traffic.here().upstream_rq_pending_overflow.inc();
            cluster.stats.traffic.here().upstream_rq_active_overflow.inc();
            return None;
        };
        host.active_requests.fetch_add(1, Ordering::Relaxed);
        Some(Self { _permit: permit, cluster: cluster.clone(), host: host.clone(), attached: false })
    }
}

impl RequestGuard {
    /// A connection carries the request from now on.
    pub(crate) fn attach(&mut self) {
        if std::mem::replace(&mut self.attached, true) {
            return;
        }
        let stats = self.cluster.stats.traffic.here();
        stats.upstream_rq_total.inc();
        stats.upstream_rq_active.inc();
        self.host.stats.rq_total.fetch_add(1, Ordering::Relaxed);
    }

    /// The cluster.
    pub(crate) fn cluster(&self) -> &Arc<Cluster> {
        &self.cluster
    }
}

impl Drop for RequestGuard {
    fn drop(&mut self) {
        if self.attached {
            self.cluster.stats.traffic.here().upstream_rq_active.dec();
        }
        self.host.active_requests.fetch_sub(1, Ordering::Relaxed);
    }
}
