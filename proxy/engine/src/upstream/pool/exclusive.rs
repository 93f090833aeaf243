//! Which connection takes a request where each carries one at a time (HTTP/1): the one used last, a new one, or the next that
//! becomes free. Knows no sockets and reads no clock.
//!
//! What holds at any time (`simulation.rs` shows it):
//! * nobody waits while a connection is idle, or while the breaker would allow another;
//! * a connection is lent to one request, and whoever waited longest gets the next;
//! * a draining pool keeps no connection.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use super::connect::{ConnectionGuard, Kind};
use super::{HostPool, Wire};
use crate::upstream::circuit_breaker::BreakerPriority;

/// A connection that rests between requests.
pub(crate) trait Rests {
    /// Why it carries no further request, if so.
    fn worn(&self, idle_timeout: Option<Duration>, now: Instant) -> Option<Worn>;

    /// Counts why it closes while it is idle.
    fn count(&self, why: Closing);
}

/// Why an idle connection carries no further request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Worn {
    /// The host closed it.
    Gone,
    /// For longer than `idle_timeout`.
    Idle,
    /// It is there for longer than `max_connection_duration`.
    Old,
}

/// Why the pool closes a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Closing {
    /// It is of no further use.
    Worn(Worn),
    /// It carried `max_requests_per_connection`.
    MaxRequests,
    /// The pool keeps none.
    Drained,
}

/// How a connection is after its request.
pub(super) struct Served {
    /// Requests that it carried.
    pub(super) requests: u32,
    /// When it takes no more (`max_connection_duration`).
    pub(super) expires: Option<Instant>,
}

/// The idle connections, and who waits for one.
pub(crate) struct Exclusive<C> {
    idle: RefCell<Vec<C>>,
    waiters: RefCell<VecDeque<Waiter<C>>>,
    /// The next place in the line.
    places: Cell<u64>,
    /// Requests that were told to look again and did not yet.
    woken: Cell<usize>,
    /// Connections being made that nobody asked for.
    pub(super) ahead: Cell<usize>,
}

struct Waiter<C> {
    place: u64,
    give: oneshot::Sender<Option<C>>,
}

impl<C> Default for Exclusive<C> {
    fn default() -> Self {
        Self {
            idle: RefCell::default(),
            waiters: RefCell::default(),
            places: Cell::new(0),
            woken: Cell::new(0),
            ahead: Cell::new(0),
        }
    }
}

impl<C> Exclusive<C> {
    /// How many wait.
    #[cfg(test)]
    pub(super) fn in_line(&self) -> usize {
        self.waiters.borrow().len()
    }

    /// How many connections are idle, and how many requests wait for one.
    pub(super) fn idle_and_waiting(&self) -> (usize, usize) {
        (self.idle.borrow().len(), self.waiters.borrow().len() + self.woken.get())
    }

    /// Whether a connection that may be made now is for somebody who waited for that.
    pub(super) fn is_promised(&self) -> bool {
        self.woken.get() > 0
    }

    /// Who was told to look does, or gave up.
    fn looked(&self) {
        self.woken.set(self.woken.get() - 1);
    }

    /// A connection closed: whoever waits may make another.
    pub(super) fn connection_gone(&self) {
        while let Some(waiter) = self.waiters.borrow_mut().pop_front() {
            if waiter.give.send(None).is_ok() {
                self.woken.set(self.woken.get() + 1);
                break;
            }
        }
    }
}

impl<C: Rests> Exclusive<C> {
    /// Who gave up stands in the line no longer.
    fn leave(&self, place: u64) {
        let mut waiters = self.waiters.borrow_mut();
        if let Ok(at) = waiters.binary_search_by_key(&place, |waiter| waiter.place) {
            waiters.remove(at);
        }
    }

    /// Closes all idle connections.
    pub(super) fn close_idle(&self) {
        // Dropping a connection looks at the pool again.
        let idle = std::mem::take(&mut *self.idle.borrow_mut());
        for connection in &idle {
            connection.count(Closing::Drained);
        }
        drop(idle);
    }

    /// Closes idle connections that the host closed, and those that were idle or open for too long.
    pub(super) fn sweep(&self, idle_timeout: Option<Duration>, now: Instant) {
        let mut closing = Vec::new();
        let idle = std::mem::take(&mut *self.idle.borrow_mut());
        for connection in idle {
            match connection.worn(idle_timeout, now) {
                None => self.idle.borrow_mut().push(connection),
                Some(worn) => {
                    connection.count(Closing::Worn(worn));
                    closing.push(connection);
                }
            }
        }
        // Dropping a connection looks at the pool again, which must not be borrowed then.
        drop(closing);
    }

    /// The idle connection that was used last.
    pub(super) fn take(&self, idle_timeout: Option<Duration>, now: impl Fn() -> Instant) -> Option<C> {
        loop {
            let connection = self.idle.borrow_mut().pop()?;
            match connection.worn(idle_timeout, now()) {
                None => return Some(connection),
                Some(worn) => connection.count(Closing::Worn(worn)),
            }
        }
    }

    /// Gives a connection to who waits longest; without one it is idle.
    pub(super) fn put(&self, mut connection: C) {
        loop {
            let Some(waiter) = self.waiters.borrow_mut().pop_front() else { break };
            match waiter.give.send(Some(connection)) {
                Ok(()) => return,
                Err(Some(back)) => connection = back,
                Err(None) => return,
            }
        }
        self.idle.borrow_mut().push(connection);
        super::pace::came_back();
    }
}

/// A wait in the line. What it was given and did not take goes to the next.
struct Place<'p, P: Wire> {
    pool: &'p HostPool<P>,
    place: u64,
    given: oneshot::Receiver<Option<P::Exclusive>>,
}

impl<'p, P: Wire> Place<'p, P> {
    /// Waits at `place`: who was woken in vain, because somebody else came first, does not begin anew at the end.
    fn take(pool: &'p HostPool<P>, place: u64) -> Self {
        let (give, given) = oneshot::channel();
        let mut waiters = pool.exclusive.waiters.borrow_mut();
        let before = waiters.partition_point(|other| other.place < place);
        waiters.insert(before, Waiter { place, give });
        Self { pool, place, given }
    }
}

impl<P: Wire> Drop for Place<'_, P> {
    fn drop(&mut self) {
        self.given.close();
        match self.given.try_recv() {
            Ok(Some(connection)) if self.pool.draining.get() => connection.count(Closing::Drained),
            Ok(Some(connection)) => self.pool.exclusive.put(connection),
            Ok(None) => {
                self.pool.exclusive.looked();
                self.pool.exclusive.connection_gone();
            }
            Err(_) => self.pool.exclusive.leave(self.place),
        }
    }
}

/// What carries a request.
pub(super) enum Chosen<P: Wire> {
    /// A connection that became free.
    Free(P::Exclusive),
    /// One that is to be made.
    New(ConnectionGuard<P>),
}

impl<P: Wire> HostPool<P> {
    /// A connection to be made, or one that becomes free while the breaker does not allow a new one.
    ///
    /// Cancel-safe: a connection handed over to a wait that is gone goes to the next.
    pub(super) async fn choose(
        self: &Rc<Self>,
        priority: BreakerPriority,
        now: impl Fn() -> Instant,
    ) -> Chosen<P> {
        while self.exclusive.is_promised() {
            // Who was told that a connection may be made came before.
            tokio::task::yield_now().await;
        }
        let place = self.exclusive.places.get();
        self.exclusive.places.set(place + 1);
        loop {
            if let Some(guard) = ConnectionGuard::new(self, Kind::Exclusive, priority) {
                return Chosen::New(guard);
            }
            // Who wanted a new one takes an old one rather than wait for what need not come.
            if let Some(connection) = self.exclusive.take(self.cluster.http.idle_timeout, &now) {
                return Chosen::Free(connection);
            }
            let mut place = Place::take(self, place);
            match (&mut place.given).await {
                Ok(Some(connection)) => match connection.worn(None, now()) {
                    None => return Chosen::Free(connection),
                    Some(worn) => connection.count(Closing::Worn(worn)),
                },
                Ok(None) => self.exclusive.looked(),
                Err(_) => {}
            }
        }
    }

    /// Why a connection closes after a request that left it fit for another; `None` if it is kept.
    pub(super) fn closing(&self, served: &Served, now: impl Fn() -> Instant) -> Option<Closing> {
        let limit = self.cluster.http.max_requests_per_connection;
        if limit.is_some_and(|limit| served.requests >= limit) {
            Some(Closing::MaxRequests)
        } else if served.expires.is_some_and(|at| at <= now()) {
            Some(Closing::Worn(Worn::Old))
        } else if self.draining.get() {
            Some(Closing::Drained)
        } else {
            None
        }
    }
}
