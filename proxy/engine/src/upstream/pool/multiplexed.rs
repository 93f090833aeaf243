//! Which connection takes a request where each carries many (HTTP/2): the first with room, else one that is made. Knows no
//! sockets and reads no clock.
//!
//! A new connection carries one stream until the host's SETTINGS say how many it takes: whatever went beyond that would be
//! refused, and a request whose body was passed on cannot be sent again. No host may answer before its SETTINGS (RFC 9113,
//! 3.4), so who waits loses nothing; they are waited for as long as for the connection.
//!
//! What holds at any time (`simulation.rs` shows it):
//! * nobody waits while a connection has room, or while the breaker would allow another and none is being made;
//! * no connection carries more streams than the host, the cluster and `max_requests_per_connection` allow;
//! * one that is draining takes no further stream, and ends with its last one.

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::rc::Rc;
use std::time::{Duration, Instant};

use proxy_core::stream_error::UpstreamReset;
use tokio::sync::{Notify, watch};

use super::connect::{ConnectionGuard, Kind};
use super::preconnect::Load;
use super::{HostPool, Wire};
use crate::upstream::circuit_breaker::BreakerPriority;

/// What is asked of the codec of a connection.
pub(crate) trait Carries {
    /// Whether the host still takes new streams here: it sent no GOAWAY, and the connection did not fail.
    fn takes_streams(&self) -> bool;

    /// How many streams the host allows, once its SETTINGS came.
    fn max_streams(&self) -> Option<usize>;
}

/// One connection.
pub(crate) struct Carrier<T> {
    pub(super) transport: T,
    /// When it takes no more streams (`max_connection_duration`).
    expires: Option<Instant>,
    idle_since: Cell<Instant>,
    streams: Cell<usize>,
    total: Cell<u32>,
    draining: Cell<bool>,
    /// How many streams the host allows is known, or waited for no longer.
    settled: Cell<bool>,
    /// There is nothing to wait for any longer: SETTINGS came, or no stream is to be had here.
    settings: Notify,
    /// Ends the connection's task.
    pub(super) close: Notify,
}

impl<T: Carries> Carrier<T> {
    pub(super) fn new(transport: T, expires: Option<Instant>, now: Instant) -> Self {
        Self {
            transport,
            expires,
            idle_since: Cell::new(now),
            streams: Cell::new(0),
            total: Cell::new(0),
            draining: Cell::new(false),
            settled: Cell::new(false),
            settings: Notify::new(),
            close: Notify::new(),
        }
    }

    /// Streams that are open.
    pub(super) fn streams(&self) -> usize {
        self.streams.get()
    }

    /// Streams that were ever opened.
    pub(super) fn total(&self) -> u32 {
        self.total.get()
    }

    /// Since when no stream is open; `None` while one is, or none was yet.
    pub(super) fn idle_since(&self) -> Option<Instant> {
        (self.streams.get() == 0 && self.total.get() > 0).then(|| self.idle_since.get())
    }

    /// How many streams may be open.
    fn room(&self, limit: usize) -> usize {
        if !self.settled.get() {
            return 1;
        }
        // A host that allows no stream at all is given one to wait with, or connections would be made for ever.
        limit.min(self.transport.max_streams().unwrap_or(usize::MAX)).max(1)
    }

    /// Waits for the host's SETTINGS, unless one stream is all there may be (`limit`).
    pub(super) async fn settle(&self, limit: usize, deadline: Duration) {
        if limit > 1 && !self.draining.get() {
            let _ = tokio::time::timeout(deadline, self.settings.notified()).await;
        }
        self.settled.set(true);
    }

    /// No new streams: there is nothing to wait for here.
    fn refuse_streams(&self) {
        self.draining.set(true);
        self.settings.notify_one();
    }

    /// No new streams: the connection ends with its last one.
    fn retire(&self) {
        self.refuse_streams();
        if self.streams.get() == 0 {
            self.close.notify_one();
        }
    }
}

/// How an attempt to connect goes: nothing yet, or how it ended.
type Progress = watch::Receiver<Option<Result<(), Failure>>>;

/// Why there is no connection, and the words for it.
pub(super) type Failure = (UpstreamReset, String);

/// The connections of one host.
pub(crate) struct Multiplexed<T> {
    ready: RefCell<Vec<Rc<Carrier<T>>>>,
    /// A connection being made or waiting for SETTINGS, and how that ended; every request that waits looks at it.
    connecting: RefCell<Option<Progress>>,
    /// A stream or a connection ended, a connection was made, or its host allows more: who waits for room looks again.
    pub(super) room: Notify,
    /// How many wait.
    waiting: Cell<usize>,
}

impl<T> Default for Multiplexed<T> {
    fn default() -> Self {
        Self {
            ready: RefCell::default(),
            connecting: RefCell::default(),
            room: Notify::default(),
            waiting: Cell::default(),
        }
    }
}

impl<T> Multiplexed<T> {
    /// A connection closed: whoever waits may make another.
    pub(super) fn connection_gone(&self) {
        self.room.notify_one();
    }

    fn leave(&self, gone: &Rc<Carrier<T>>) {
        self.ready.borrow_mut().retain(|other| !Rc::ptr_eq(other, gone));
    }
}

impl<T: Carries> Multiplexed<T> {
    /// No further requests on these connections; each ends with its last stream.
    pub(super) fn drain(&self) {
        for carrier in self.ready.borrow_mut().drain(..) {
            carrier.retire();
        }
    }

    /// A connection was made.
    pub(super) fn add(&self, carrier: &Rc<Carrier<T>>) {
        self.ready.borrow_mut().push(carrier.clone());
    }

    /// A connection ended.
    pub(super) fn ended(&self, carrier: &Rc<Carrier<T>>) {
        carrier.refuse_streams();
        self.leave(carrier);
    }
}

impl<P: Wire> HostPool<P> {
    /// Takes out the connections on which the host said GOAWAY.
    fn leave_retired(&self) {
        self.multiplexed.ready.borrow_mut().retain(|carrier| {
            if carrier.transport.takes_streams() {
                return true;
            }
            self.cluster.stats.traffic.here().upstream_cx_close_notify.inc();
            carrier.retire();
            false
        });
    }

    /// Closes connections that were idle or open for too long.
    pub(super) fn sweep_multiplexed(&self, now: Instant) {
        let http = &self.cluster.http;
        let stats = self.cluster.stats.traffic.here();
        self.leave_retired();
        self.multiplexed.ready.borrow_mut().retain(|carrier| {
            let is_old = carrier.expires.is_some_and(|at| at <= now);
            let is_idle = carrier.streams.get() == 0
                && http.idle_timeout.is_some_and(|limit| now - carrier.idle_since.get() >= limit);
            if !is_old && !is_idle {
                return true;
            }
            if is_idle {
                stats.upstream_cx_idle_timeout.inc();
            } else {
                stats.upstream_cx_max_duration_reached.inc();
            }
            carrier.retire();
            false
        });
    }

    /// Takes note of the host's SETTINGS: of the first once they are in force, of others if somebody waits for what they may
    /// allow.
    pub(super) fn look_for_settings(&self, carrier: &Carrier<P::Multiplexed>) {
        if !carrier.settled.get() {
            if carrier.transport.max_streams().is_some() {
                carrier.settled.set(true);
                carrier.settings.notify_one();
            }
            return;
        }
        let is_wanted = self.multiplexed.waiting.get() > 0 && !carrier.draining.get();
        if is_wanted && carrier.streams.get() < carrier.room(self.max_streams()) {
            self.multiplexed.room.notify_waiters();
        }
    }

    pub(super) fn max_streams(&self) -> usize {
        self.cluster.http.http2.max_concurrent_streams as usize
    }

    /// A connection with room for one more stream.
    pub(super) fn with_room(&self) -> Option<Rc<Carrier<P::Multiplexed>>> {
        self.leave_retired();
        let limit = self.max_streams();
        let ready = self.multiplexed.ready.borrow();
        ready.iter().find(|carrier| carrier.streams.get() < carrier.room(limit)).cloned()
    }

    /// Whether a connection is being made.
    pub(super) fn is_connecting(&self) -> bool {
        self.multiplexed.connecting.borrow().is_some()
    }

    /// What the connections carry, and could carry.
    pub(super) fn multiplexed_load(&self) -> Load {
        let limit = self.max_streams();
        let mut load = Load::default();
        for carrier in self.multiplexed.ready.borrow().iter() {
            let streams = carrier.streams.get();
            load.streams += streams;
            load.room += streams.max(limit.min(carrier.transport.max_streams().unwrap_or(usize::MAX)));
        }
        load
    }

    /// Waits for a connection with room; nothing if hosts turn out to speak HTTP/1. `make` starts an attempt to make one, which tells [`Self::attempt`] how it goes.
    ///
    /// Cancel-safe: an attempt does not end with who began it.
    pub(super) async fn await_room(
        self: &Rc<Self>,
        priority: BreakerPriority,
        make: impl Fn(ConnectionGuard<P>, Attempt<P>),
    ) -> Result<Option<Rc<Carrier<P::Multiplexed>>>, Failure> {
        let _waiting = Waiting::new(&self.multiplexed.waiting);
        loop {
            let running = self.multiplexed.connecting.borrow().clone();
            let room = self.multiplexed.room.notified();
            if let Some(mut done) = running.or_else(|| self.begin(priority, &make)) {
                // Safe to cancel: both only wait. A failure counts before room, which it makes as well.
                let outcome = tokio::select! {
                    biased;
                    outcome = done.wait_for(Option::is_some) => match outcome {
                        Ok(outcome) => outcome.clone(),
                        Err(_) => Some(Err((UpstreamReset::ConnectFailure, String::new()))),
                    },
                    () = room => None,
                };
                if let Some(Err(failure)) = outcome {
                    return Err(failure);
                }
            } else {
                // The breaker allows no further connection: room is where a stream or a connection ends.
                room.await;
            }
            if let Some(carrier) = self.with_room() {
                return Ok(Some(carrier));
            }
            if self.speaks_http1.get() {
                return Ok(None);
            }
        }
    }

    /// Begins to make a connection, unless the breaker is open.
    pub(super) fn begin(
        self: &Rc<Self>,
        priority: BreakerPriority,
        make: impl Fn(ConnectionGuard<P>, Attempt<P>),
    ) -> Option<Progress> {
        let guard = ConnectionGuard::new(self, Kind::Multiplexed, priority)?;
        let (sender, receiver) = watch::channel(None);
        *self.multiplexed.connecting.borrow_mut() = Some(receiver.clone());
        make(guard, Attempt { pool: self.clone(), progress: sender });
        Some(receiver)
    }

    /// Puts a stream on a connection that has room for it.
    pub(super) fn open_stream(&self, carrier: &Rc<Carrier<P::Multiplexed>>) {
        carrier.streams.set(carrier.streams.get() + 1);
        carrier.total.set(carrier.total.get() + 1);
        let limit = self.cluster.http.max_requests_per_connection;
        if limit.is_some_and(|limit| carrier.total.get() >= limit) {
            self.cluster.stats.traffic.here().upstream_cx_max_requests.inc();
            carrier.refuse_streams();
            self.multiplexed.leave(carrier);
        }
    }

    /// Takes a stream off its connection.
    pub(super) fn close_stream(&self, carrier: &Carrier<P::Multiplexed>, now: impl Fn() -> Instant) {
        carrier.streams.set(carrier.streams.get() - 1);
        self.multiplexed.room.notify_one();
        if carrier.streams.get() == 0 {
            carrier.idle_since.set(now());
            if carrier.draining.get() || !carrier.transport.takes_streams() {
                carrier.close.notify_one();
            }
        }
    }
}

/// Counts who waits for room.
struct Waiting<'p>(&'p Cell<usize>);

impl<'p> Waiting<'p> {
    fn new(count: &'p Cell<usize>) -> Self {
        count.set(count.get() + 1);
        Self(count)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.set(self.0.get() - 1);
    }
}

/// A connection is being made.
pub(super) struct Attempt<P: Wire> {
    pool: Rc<HostPool<P>>,
    progress: watch::Sender<Option<Result<(), Failure>>>,
}

impl<P: Wire> Attempt<P> {
    /// Makes the connection, which `made` puts into the pool, and has it told how many streams it takes. Not to be given up.
    ///
    /// What was made may turn out to carry one request at a time (`None`).
    pub(super) async fn run(
        self,
        made: impl Future<Output = Result<Option<Rc<Carrier<P::Multiplexed>>>, Failure>>,
    ) {
        let Self { pool, progress } = self;
        let mut made = made.await;
        let multiplexed = &pool.multiplexed;
        if let Ok(Some(carrier)) = &made {
            // The first who waits takes its first stream.
            multiplexed.room.notify_waiters();
            carrier.settle(pool.max_streams(), pool.cluster.connect_timeout).await;
            if carrier.draining.get() && carrier.total.get() == 0 && !pool.draining.get() {
                // The host ended it before anybody could use it: the next may fare no better.
                made = Err((UpstreamReset::ConnectionTermination, String::new()));
            }
        }
        *multiplexed.connecting.borrow_mut() = None;
        progress.send_replace(Some(made.map(drop)));
        multiplexed.room.notify_waiters();
        if pool.draining.get() {
            // The host left meanwhile: who waited takes the connection, and with the last of them it ends.
            tokio::task::yield_now().await;
            multiplexed.drain();
        }
    }
}
