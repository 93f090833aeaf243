//! What is done against overload, and how much of it now: written by the main thread, read by all workers.
//!
//! A process without an overload manager has none of this. Source: Envoy
//! `docs/root/configuration/operations/overload_manager/overload_manager.rst`.

use std::cell::RefCell;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use proxy_core::stats::Shared;
use proxy_core::stats::groups::{HighMemoryStreamStats, LoadShedPointStats};
use tokio::sync::watch;

use super::reduced::{self, Leasts};
use super::{heavy, timers};

/// All of it.
const FULL: u32 = 1_000_000;

/// What may be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Requests are answered 503.
    StopAcceptingRequests,
    /// Connections end with the response.
    DisableKeepalive,
    /// Connections are closed as they come.
    RejectConnections,
    /// Connections wait in the kernel's queue.
    StopAcceptingConnections,
    /// Freed memory is given back to the system.
    ShrinkHeap,
    /// Some timeouts get shorter.
    ReduceTimeouts,
    /// HTTP/2 streams that hold much are reset.
    ResetStreams,
}

impl Action {
    /// All of them.
    pub const ALL: [Self; 7] = [
        Self::StopAcceptingRequests,
        Self::DisableKeepalive,
        Self::RejectConnections,
        Self::StopAcceptingConnections,
        Self::ShrinkHeap,
        Self::ReduceTimeouts,
        Self::ResetStreams,
    ];

    /// Envoy's name for it.
    pub fn name(self) -> &'static str {
        match self {
            Self::StopAcceptingRequests => "envoy.overload_actions.stop_accepting_requests",
            Self::DisableKeepalive => "envoy.overload_actions.disable_http_keepalive",
            Self::RejectConnections => "envoy.overload_actions.reject_incoming_connections",
            Self::StopAcceptingConnections => "envoy.overload_actions.stop_accepting_connections",
            Self::ShrinkHeap => "envoy.overload_actions.shrink_heap",
            Self::ReduceTimeouts => "envoy.overload_actions.reduce_timeouts",
            Self::ResetStreams => "envoy.overload_actions.reset_high_memory_stream",
        }
    }
}

/// Where load may be shed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Point {
    /// A connection comes.
    Accept,
    /// The first bytes of an HTTP connection are there.
    Codec,
    /// The head of a request was read.
    Headers,
    /// The router is about to ask a host.
    Router,
    /// Something of a request comes over HTTP/1.
    Http1,
    /// Something comes on an HTTP connection, which is told to go.
    GoAway,
    /// Something comes on an HTTP connection, which is told to go, and closed.
    GoAwayAndClose,
    /// A connection is to be carried to a host.
    TcpConnect,
    /// Something comes on a connection that is carried to a host.
    TcpData,
    /// A connection to a host is to be made.
    Pool,
}

impl Point {
    /// All of them.
    pub const ALL: [Self; 10] = [
        Self::Accept,
        Self::Codec,
        Self::Headers,
        Self::Router,
        Self::Http1,
        Self::GoAway,
        Self::GoAwayAndClose,
        Self::TcpConnect,
        Self::TcpData,
        Self::Pool,
    ];

    /// Envoy's name for it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Accept => "envoy.load_shed_points.tcp_listener_accept",
            Self::Codec => "envoy.load_shed_points.hcm_ondata_creating_codec",
            Self::Headers => "envoy.load_shed_points.http_connection_manager_decode_headers",
            Self::Router => "envoy.load_shed_points.http_downstream_filter_check",
            Self::Http1 => "envoy.load_shed_points.http1_server_abort_dispatch",
            Self::GoAway => "envoy.load_shed_points.http2_server_go_away_on_dispatch",
            Self::GoAwayAndClose => "envoy.load_shed_points.http2_server_go_away_and_close_on_dispatch",
            Self::TcpConnect => "envoy.load_shed_points.tcp_proxy_upstream_connect",
            Self::TcpData => "envoy.load_shed_points.tcp_proxy_on_data",
            Self::Pool => "envoy.load_shed_points.connection_pool_new_connection",
        }
    }
}

/// How much of something is done: a share of a million.
#[derive(Debug, Default)]
struct Level(AtomicU32);

impl Level {
    fn set(&self, share: f64) {
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "it is from 0 to 1")]
        let level = (share.clamp(0.0, 1.0) * f64::from(FULL)) as u32;
        self.0.store(level, Ordering::Relaxed);
    }

    /// Whether it is one of those that it is done to.
    fn strikes(&self, random: impl FnOnce() -> u64) -> bool {
        match self.0.load(Ordering::Relaxed) {
            0 => false,
            FULL => true,
            level => random() % u64::from(FULL) < u64::from(level),
        }
    }
}

/// Which streams may be reset for what they hold.
#[derive(Debug)]
pub struct HeavyStreams {
    /// The logarithm of the octets that make a stream one of them.
    pub power: u32,
    /// What was reset.
    pub stats: Shared<HighMemoryStreamStats>,
}

/// What is done now.
#[derive(Debug)]
pub struct Overload {
    actions: [Level; Action::ALL.len()],
    points: [(Level, Option<Shared<LoadShedPointStats>>); Point::ALL.len()],
    /// Whether connections are to be accepted.
    accepting: watch::Sender<bool>,
    /// How often heaps were to be shrunk.
    shrinks: AtomicU64,
    /// How much timeouts are reduced, and what they are at least.
    reduction: watch::Sender<f64>,
    leasts: Leasts,
    /// How many classes of heavy streams are reset, if any may be.
    resetting: watch::Sender<f64>,
    heavy: Option<HeavyStreams>,
}

impl Overload {
    /// Nothing is done. `point` says where it is counted what a point sheds, for those that are configured; `leasts` what
    /// timeouts are reduced to; `heavy` which streams may be reset.
    pub fn new(
        point: impl Fn(Point) -> Option<Shared<LoadShedPointStats>>,
        leasts: Leasts,
        heavy: Option<HeavyStreams>,
    ) -> Self {
        Self {
            actions: Default::default(),
            points: Point::ALL.map(|one| (Level::default(), point(one))),
            accepting: watch::Sender::new(true),
            shrinks: AtomicU64::new(0),
            reduction: watch::Sender::new(0.0),
            leasts,
            resetting: watch::Sender::new(0.0),
            heavy,
        }
    }

    /// Does this share of an action, from 0 to 1.
    pub fn set(&self, action: Action, share: f64) {
        self.actions[action as usize].set(share);
        match action {
            // (There is no half of it: it is done at the full.)
            Action::StopAcceptingConnections => tell(&self.accepting, share < 1.0),
            Action::ReduceTimeouts => tell(&self.reduction, share),
            Action::ResetStreams => tell(&self.resetting, share),
            Action::StopAcceptingRequests
            | Action::DisableKeepalive
            | Action::RejectConnections
            | Action::ShrinkHeap => {}
        }
    }

    /// Has a point shed this share, from 0 to 1.
    pub fn set_point(&self, point: Point, share: f64) {
        self.points[point as usize].0.set(share);
    }

    /// Has all workers give memory back soon.
    pub fn shrink(&self) {
        self.shrinks.fetch_add(1, Ordering::Relaxed);
    }

    /// How often that was wanted.
    pub(crate) fn shrinks(&self) -> u64 {
        self.shrinks.load(Ordering::Relaxed)
    }

    /// Whether a connection that comes is to be closed at once.
    pub(crate) fn rejects_connection(&self, mut random: impl FnMut() -> u64) -> bool {
        self.sheds(Point::Accept, &mut random)
            || self.actions[Action::RejectConnections as usize].strikes(random)
    }

    /// Whether a request is to be refused.
    pub(crate) fn refuses_request(&self, mut random: impl FnMut() -> u64) -> bool {
        self.sheds(Point::Headers, &mut random)
            || self.actions[Action::StopAcceptingRequests as usize].strikes(random)
    }

    /// Whether a connection is to end with its response.
    pub(crate) fn ends_connection(&self, random: impl FnOnce() -> u64) -> bool {
        self.actions[Action::DisableKeepalive as usize].strikes(random)
    }

    /// Whether a point may shed anything at all.
    pub(crate) fn watches(&self, point: Point) -> bool {
        self.points[point as usize].1.is_some()
    }

    /// Whether a point sheds what is there now.
    pub(crate) fn sheds(&self, point: Point, random: impl FnOnce() -> u64) -> bool {
        let (level, stats) = &self.points[point as usize];
        let sheds = level.strikes(random);
        if sheds && let Some(stats) = stats {
            stats.shed_load_count.inc();
        }
        sheds
    }

    /// Tells whether connections are to be accepted, and when that changes.
    pub(crate) fn accepting(&self) -> watch::Receiver<bool> {
        self.accepting.subscribe()
    }

    /// Reduces the timeouts of this worker as far as is wanted, for as long as it runs.
    pub(crate) async fn reduce_timeouts(&self) {
        if self.leasts.is_empty() {
            return;
        }
        let mut reduction = self.reduction.subscribe();
        while reduction.changed().await.is_ok() {
            reduced::set(&self.leasts, *reduction.borrow_and_update());
            // Those that run already are computed anew when they are polled.
            timers::wake_all();
        }
    }

    /// Resets heavy streams of this worker as far as is wanted, for as long as it runs.
    pub(crate) async fn reset_streams(&self) {
        let Some(HeavyStreams { power, stats }) = &self.heavy else { return };
        heavy::track(*power);
        let mut resetting = self.resetting.subscribe();
        while resetting.changed().await.is_ok() {
            let share = *resetting.borrow_and_update();
            stats.count.add(heavy::reset(share) as u64);
        }
    }
}

thread_local! {
    static HERE: RefCell<Option<Arc<Overload>>> = const { RefCell::new(None) };
}

/// What this thread does for no listener, of which pools have none, is shed as `overload` says from now on.
pub(crate) fn heed(overload: Option<&Arc<Overload>>) {
    let watched = overload.filter(|overload| overload.watches(Point::Pool));
    HERE.with_borrow_mut(|here| *here = watched.cloned());
}

/// Whether a connection to a host is not to be made.
pub(crate) fn sheds_connection_to_host() -> bool {
    HERE.with_borrow(|here| here.as_ref().is_some_and(|here| here.sheds(Point::Pool, || fastrand::u64(..))))
}

/// Tells those who watch, if that is news.
fn tell<T: PartialEq>(sender: &watch::Sender<T>, value: T) {
    sender.send_if_modified(|now| {
        let is_news = *now != value;
        *now = value;
        is_news
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_is_done_by_chance() {
        let overload = Overload::new(|_| None, Leasts::default(), None);
        let mut random = fastrand::Rng::with_seed(7);
        let mut refused = |share| {
            overload.set(Action::StopAcceptingRequests, share);
            (0..10_000).filter(|_| overload.refuses_request(|| random.u64(..))).count()
        };
        assert_eq!((refused(0.0), refused(1.0)), (0, 10_000));
        assert!((2_300..2_700).contains(&refused(0.25)));
        assert_eq!((refused(f64::NAN), refused(7.0)), (0, 10_000));
        assert!(!overload.rejects_connection(|| 0), "that is another action");
    }

    #[test]
    fn accepting_stops_at_the_full() {
        let overload = Overload::new(|_| None, Leasts::default(), None);
        let mut accepting = overload.accepting();
        overload.set(Action::StopAcceptingConnections, 0.99);
        assert!(*accepting.borrow_and_update() && !accepting.has_changed().unwrap());
        overload.set(Action::StopAcceptingConnections, 1.0);
        assert!(accepting.has_changed().unwrap() && !*accepting.borrow_and_update());
        overload.set(Action::StopAcceptingConnections, 0.0);
        assert!(*accepting.borrow_and_update());
    }
}
