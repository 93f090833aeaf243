//! Connections that are made before a request needs them (`preconnect_policy`): to the host of a request, as a share of what
//! the pool carries, and to the hosts that will be picked next, as a share of what the cluster carries on this worker.
//!
//! What is decided knows no sockets. HTTP/2 connections are made one after the other, since each says only then how much
//! it carries. Connections for CONNECT that ends here, and for TCP, are not made ahead. Least request cannot tell whom it picks next and makes no connection ahead. Source: Envoy
//! `PreconnectPolicy` in `cluster.proto`; `ConnPoolImplBase::shouldConnect`, `ClusterManagerImpl::maybePreconnect`.

use std::rc::Rc;
use std::sync::Arc;

use proxy_core::stream_info::ConnectionInfo;
use proxy_core::upstream::{Host, HostHealth, HostSet, PickCx};

use super::connect::{ConnectionGuard, Kind};
use super::exclusive::{Closing, Rests as _};
use super::multiplexed::Attempt;
use super::{HostPool, Wire, WorkerCluster};
use crate::upstream::circuit_breaker::BreakerPriority;
use crate::upstream::http_options::Carriage;
use crate::upstream::transport_options::TransportOptions;

/// Most connections that one request has made ahead, as in Envoy.
const AT_ONCE: usize = 3;

/// What a pool, or all of them, carries.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Load {
    /// Requests that wait or are on their way.
    pub(super) streams: usize,
    /// Requests that the connections carry, or could, those being made included.
    pub(super) room: usize,
}

impl Load {
    /// Whether another connection is due where `more` requests are to come.
    fn lacks(self, ratio: f32, more: usize) -> bool {
        (self.streams + more) as f32 * ratio > self.room as f32
    }

    fn and(self, other: Self) -> Self {
        Self { streams: self.streams + other.streams, room: self.room + other.room }
    }
}

/// A connection that nobody asked for is being made.
pub(super) struct Ahead<P: Wire>(pub(super) Rc<HostPool<P>>);

impl<P: Wire> Ahead<P> {
    /// It is there: who waits longest gets it, or it is idle.
    pub(super) fn made(self, connection: P::Exclusive) {
        match self.0.draining.get() {
            true => connection.count(Closing::Drained),
            false => self.0.exclusive.put(connection),
        }
    }
}

impl<P: Wire> Drop for Ahead<P> {
    fn drop(&mut self) {
        let ahead = &self.0.exclusive.ahead;
        ahead.set(ahead.get() - 1);
    }
}

impl<P: Wire> HostPool<P> {
    /// Whether a connection that is due may be made ahead to this host. One that its metadata forbid is counted.
    fn may_preconnect(&self) -> bool {
        if self.host.health() != HostHealth::Healthy {
            return false;
        }
        let is_allowed = self.cluster.balancing.preconnect.allows(&self.host);
        if !is_allowed {
            self.cluster.stats.traffic.here().upstream_cx_preconnect_skipped.inc();
        }
        is_allowed
    }

    pub(super) fn load(&self) -> Load {
        self.exclusive_load().and(self.multiplexed_load())
    }

    /// Every connection carries one request or could carry one.
    fn exclusive_load(&self) -> Load {
        let room = self.connections.of(Kind::Exclusive).get();
        let (idle, waiting) = self.exclusive.idle_and_waiting();
        let unused = idle + self.exclusive.ahead.get();
        Load { streams: waiting + room.saturating_sub(unused), room }
    }

    /// Begins to make a connection for one request at a time, if that is due.
    fn make_exclusive(
        self: &Rc<Self>,
        ratio: f32,
        more: usize,
        priority: BreakerPriority,
        make: impl Fn(ConnectionGuard<P>, Ahead<P>),
    ) -> bool {
        let is_due = self.exclusive_load().lacks(ratio, more) && !self.exclusive.is_promised();
        if !is_due || !self.may_preconnect() {
            return false;
        }
        let Some(guard) = ConnectionGuard::new(self, Kind::Exclusive, priority) else { return false };
        let ahead = &self.exclusive.ahead;
        ahead.set(ahead.get() + 1);
        make(guard, Ahead(self.clone()));
        true
    }

    /// A request was given a connection: makes others for those that will follow.
    pub(super) fn follow_exclusive(
        self: &Rc<Self>,
        priority: BreakerPriority,
        make: impl Fn(ConnectionGuard<P>, Ahead<P>),
    ) {
        let ratio = self.cluster.balancing.preconnect.per_upstream();
        for _ in 0..AT_ONCE {
            if ratio <= 1.0 || !self.make_exclusive(ratio, 0, priority, &make) {
                return;
            }
        }
    }

    /// A request was given room on a connection: makes another for those that will follow it.
    pub(super) fn follow_multiplexed(
        self: &Rc<Self>,
        priority: BreakerPriority,
        make: impl Fn(ConnectionGuard<P>, Attempt<P>),
    ) {
        let ratio = self.cluster.balancing.preconnect.per_upstream();
        if ratio > 1.0 {
            self.make_multiplexed(ratio, 0, priority, make);
        }
    }

    /// Begins to make a connection for many requests, if that is due and none is being made.
    pub(super) fn make_multiplexed(
        self: &Rc<Self>,
        ratio: f32,
        more: usize,
        priority: BreakerPriority,
        make: impl Fn(ConnectionGuard<P>, Attempt<P>),
    ) -> bool {
        !self.is_connecting()
            && self.multiplexed_load().lacks(ratio, more)
            && self.may_preconnect()
            && self.begin(priority, make).is_some()
    }
}

impl WorkerCluster {
    /// A request is about to come: makes connections to the hosts of those that will follow it.
    pub(crate) fn preconnect(
        self: &Rc<Self>,
        random: &mut fastrand::Rng,
        client: &ConnectionInfo,
        options: Option<&TransportOptions>,
        priority: BreakerPriority,
        carriage: Carriage,
    ) {
        let ratio = self.cluster.balancing.preconnect.predictive();
        for _ in 0..AT_ONCE {
            let load = self.pools.borrow().values().fold(Load::default(), |sum, pool| sum.and(pool.load()));
            if !load.lacks(ratio, 1) {
                return;
            }
            let Some(pool) =
                self.peek(&self.hosts(), random).and_then(|host| self.pool(&host, client, options, priority))
            else {
                return;
            };
            let is_made = match carriage {
                Carriage::Http2 => pool.make_multiplexed(ratio, 1, priority, |guard, attempt| {
                    pool.make_http2_apart(guard, attempt)
                }),
                Carriage::Http1 => pool.make_exclusive(ratio, 1, priority, HostPool::make_http1_ahead),
                Carriage::Either if pool.speaks_http1.get() => {
                    pool.make_exclusive(ratio, 1, priority, HostPool::make_either_ahead)
                }
                Carriage::Either => pool.make_multiplexed(ratio, 1, priority, |guard, attempt| {
                    pool.make_either_apart(guard, attempt)
                }),
            };
            if !is_made {
                return;
            }
        }
    }

    /// The host of a request after those that were picked or peeked at, unless that is as many as there are hosts.
    fn peek(&self, hosts: &HostSet, random: &mut fastrand::Rng) -> Option<Arc<Host>> {
        let mut ahead = self.ahead.borrow_mut();
        if ahead.generation != hosts.generation() {
            ahead.generation = hosts.generation();
            ahead.hosts.clear();
        }
        if !self.cluster.balancing.tells_next() || ahead.hosts.len() >= hosts.healthy_len() {
            return None;
        }
        let host = self.balance(hosts, &mut PickCx::new(random))?;
        ahead.hosts.push_back(host.clone());
        Some(host)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_connection_is_due_as_long_as_there_is_less_room_than_wanted() {
        let due = |streams, room, ratio, more| Load { streams, room }.lacks(ratio, more);
        // Without a ratio: where a request has nothing to go on.
        assert!(due(1, 0, 1.0, 0) && !due(1, 1, 1.0, 0) && !due(0, 0, 1.0, 0));
        assert!(due(1, 1, 1.5, 0) && !due(1, 2, 1.5, 0));
        assert!(due(2, 2, 1.5, 0) && !due(2, 3, 1.5, 0));
        // A request that is about to come counts.
        assert!(due(0, 1, 2.0, 1) && !due(0, 2, 2.0, 1));
        // As precisely as Envoy: ten times 1.1 is 11 and no more.
        assert!(!due(10, 11, 1.1, 0));
    }
}
