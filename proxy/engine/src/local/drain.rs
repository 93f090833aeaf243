//! Draining: who asks connections to end, and how soon they should.
//!
//! Source: Envoy `docs/root/intro/arch_overview/operations/draining.rst`.

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use slab::Slab;

/// How the share of connections that are asked to close grows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DrainStrategy {
    /// From none to all over the drain time.
    Gradual,
    /// All at once.
    Immediate,
}

/// Drain state of the process; workers read it for each response.
#[derive(Debug)]
pub struct ProcessDrain {
    time: Duration,
    strategy: DrainStrategy,
    health_check_failed: AtomicBool,
    draining: AtomicBool,
    inbound_only: AtomicBool,
    since: Mutex<Option<Instant>>,
}

impl ProcessDrain {
    /// Not draining; a drain takes `time`.
    pub fn new(time: Duration, strategy: DrainStrategy) -> Self {
        Self {
            time,
            strategy,
            health_check_failed: AtomicBool::new(false),
            draining: AtomicBool::new(false),
            inbound_only: AtomicBool::new(false),
            since: Mutex::new(None),
        }
    }

    /// How long a drain takes.
    pub fn time(&self) -> Duration {
        self.time
    }

    /// Starts to drain (`/drain_listeners?graceful`).
    pub fn start(&self, inbound_only: bool) {
        let mut since = self.since.lock().unwrap_or_else(PoisonError::into_inner);
        since.get_or_insert_with(Instant::now);
        self.inbound_only.store(inbound_only, Ordering::Relaxed);
        self.draining.store(true, Ordering::Release);
    }

    /// Whether a drain was started.
    pub fn is_started(&self) -> bool {
        self.draining.load(Ordering::Relaxed)
    }

    /// `/healthcheck/fail` and `/healthcheck/ok`.
    pub fn set_health_check_failed(&self, failed: bool) {
        self.health_check_failed.store(failed, Ordering::Relaxed);
    }

    /// Whether `/healthcheck/fail` is in force.
    pub fn health_check_failed(&self) -> bool {
        self.health_check_failed.load(Ordering::Relaxed)
    }

    /// Whether a connection that could be closed now should be.
    ///
    /// `ignores_health_check`: the listener drains when it is modified only (`drain_type: MODIFY_ONLY`).
    pub fn should_close(&self, is_inbound: bool, ignores_health_check: bool) -> bool {
        if self.health_check_failed() && !ignores_health_check {
            return true;
        }
        if !self.draining.load(Ordering::Acquire)
            || (self.inbound_only.load(Ordering::Relaxed) && !is_inbound)
        {
            return false;
        }
        let since = *self.since.lock().unwrap_or_else(PoisonError::into_inner);
        since.is_some_and(|since| chance(self.strategy, since, self.time))
    }

    /// How draining goes.
    pub fn strategy(&self) -> DrainStrategy {
        self.strategy
    }
}

fn chance(strategy: DrainStrategy, since: Instant, time: Duration) -> bool {
    match strategy {
        DrainStrategy::Immediate => true,
        DrainStrategy::Gradual => {
            let elapsed = since.elapsed();
            elapsed >= time || elapsed.as_secs_f64() > fastrand::f64() * time.as_secs_f64()
        }
    }
}

/// Drain state of one filter chain or listener on one worker, shared with its connections.
#[derive(Debug, Default)]
pub struct DrainHandle {
    since: Cell<Option<Instant>>,
    settings: Cell<Option<(Duration, DrainStrategy)>>,
    /// Why what is left must close.
    closed: Cell<Option<&'static str>>,
    /// Who is woken when the drain begins and when the rest must close.
    waiting: RefCell<Slab<Waker>>,
}

impl DrainHandle {
    /// A handle that does not drain.
    pub fn new() -> Rc<Self> {
        Rc::default()
    }

    /// Asks connections to end over `time`.
    pub fn start(&self, time: Duration, strategy: DrainStrategy) {
        if self.since.get().is_none() {
            self.since.set(Some(Instant::now()));
            self.settings.set(Some((time, strategy)));
            self.tell();
        }
    }

    /// Closes what is left; `reason` is for the logs.
    pub fn close(&self, reason: &'static str) {
        self.closed.set(Some(reason));
        self.tell();
    }

    fn tell(&self) {
        // (A waker may run code of ours: nothing is borrowed meanwhile.)
        let wakers: Vec<Waker> = self.waiting.borrow().iter().map(|(_, waker)| waker.clone()).collect();
        wakers.into_iter().for_each(Waker::wake);
    }

    /// Whether what is left must close now.
    pub fn is_closed(&self) -> bool {
        self.closed.get().is_some()
    }

    /// Why what is left must close now, if it must.
    pub fn reason(&self) -> Option<&'static str> {
        self.closed.get()
    }

    /// Whether the drain was started.
    pub fn is_draining(&self) -> bool {
        self.since.get().is_some()
    }

    /// Whether a connection that could be closed now should be.
    pub fn should_close(&self) -> bool {
        match (self.since.get(), self.settings.get()) {
            (Some(since), Some((time, strategy))) => self.is_closed() || chance(strategy, since, time),
            _ => self.is_closed(),
        }
    }

    /// Waits until [`DrainHandle::close`]; its reason. It is woken at [`DrainHandle::start`], too, and waits on: so is who waits
    /// for it and for something else.
    pub fn closed(&self) -> Closed<'_> {
        Closed { drain: self, place: None }
    }
}

/// See [`DrainHandle::closed`]. Who serves a connection polls this each time it is woken, and there is one per connection: it is
/// small, and costs a comparison until there is news.
#[derive(Debug)]
pub struct Closed<'a> {
    drain: &'a DrainHandle,
    /// Among those that wait.
    place: Option<usize>,
}

impl Future for Closed<'_> {
    type Output = &'static str;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<&'static str> {
        if let Some(reason) = self.drain.closed.get() {
            return Poll::Ready(reason);
        }
        let mut waiting = self.drain.waiting.borrow_mut();
        match self.place.and_then(|place| waiting.get_mut(place)) {
            Some(waker) => waker.clone_from(cx.waker()),
            None => self.place = Some(waiting.insert(cx.waker().clone())),
        }
        Poll::Pending
    }
}

impl Drop for Closed<'_> {
    fn drop(&mut self) {
        if let Some(place) = self.place {
            self.drain.waiting.borrow_mut().try_remove(place);
        }
    }
}
