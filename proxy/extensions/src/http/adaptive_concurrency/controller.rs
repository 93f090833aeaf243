//! The limit as all workers share it: who comes asks two numbers, and what ends is noted by its worker until the limit moves.
//!
//! Only while the minimum is looked for, when few requests are in progress, does each that ends take the lock of all.

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use proxy_core::stats::{Bins, Scope, Shared};

use super::gradient::{Gradient, Params, bin};
use super::settings::Settings;
use crate::shared::per_worker::PerWorker;

proxy_core::stats! {
    /// `http.<stat_prefix>.adaptive_concurrency.gradient_controller`
    pub shared struct GradientControllerStats {
        /// Requests that were refused.
        counter rq_blocked,
        /// How much the limit may grow at once.
        gauge burst_queue_size,
        /// How many requests may be in progress.
        gauge concurrency_limit,
        /// What a request takes at best over what it takes now, in thousandths.
        gauge gradient,
        /// 1 while the minimum is looked for.
        gauge min_rtt_calculation_active,
        /// What a request takes at best.
        gauge min_rtt_msecs,
        /// What requests took in the last interval.
        gauge sample_rtt_msecs,
    }
}

/// Nothing is due.
const NEVER: u64 = u64::MAX;

/// Who may go on.
pub(super) struct Controller {
    settings: Settings,
    start: Instant,
    /// Requests in progress.
    outstanding: AtomicU32,
    limit: AtomicU32,
    /// When time alone changes something, in microseconds from the start.
    due: AtomicU64,
    /// Whether each request that ends may change something.
    is_measuring: AtomicBool,
    /// Requests that began before this tell nothing; in microseconds from the start.
    epoch: AtomicU64,
    /// What requests took, by the worker that they ended on, since the limit moved.
    samples: PerWorker<Bins>,
    state: Mutex<State>,
    stats: Shared<GradientControllerStats>,
}

struct State {
    gradient: Gradient,
    /// As the runtime said when this was last looked at.
    params: Params,
}

impl Controller {
    pub(super) fn new(settings: Settings, workers: usize, scope: &Scope) -> Self {
        let (start, params) = (Instant::now(), settings.now());
        let gradient = Gradient::new(&params, start);
        let controller = Self {
            settings,
            start,
            outstanding: AtomicU32::new(0),
            limit: AtomicU32::new(0),
            due: AtomicU64::new(NEVER),
            is_measuring: AtomicBool::new(false),
            epoch: AtomicU64::new(0),
            samples: PerWorker::new(workers, Bins::new),
            state: Mutex::new(State { gradient, params }),
            stats: scope.shared(),
        };
        controller.change(|_| ());
        controller
    }

    /// Whether a request that comes at `now` may go on. It is in progress then, until [`Self::ended`] or [`Self::failed`].
    pub(super) fn admits(&self, now: Instant) -> bool {
        if self.is_due(now) {
            self.change(|state| self.tick(state, now));
        }
        let limit = self.limit.load(Ordering::Relaxed);
        let one_more = |count: u32| (count < limit).then(|| count + 1);
        let admitted = self.outstanding.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_more).is_ok();
        if !admitted {
            self.stats.rq_blocked.inc();
        }
        admitted
    }

    /// A request that began at `began` was answered at `now`.
    pub(super) fn ended(&self, began: Instant, now: Instant, random: u64) {
        self.failed();
        if !self.is_due(now) && !self.is_measuring.load(Ordering::Relaxed) {
            if self.micros(began) >= self.epoch.load(Ordering::Relaxed) {
                self.samples.here().add(bin(began, now), 1);
            }
            return;
        }
        self.change(|state| {
            self.tick(state, now);
            let State { gradient, params } = state;
            let was_measuring = gradient.is_measuring();
            if was_measuring {
                *params = self.settings.now();
            }
            gradient.record(params, began, now, random);
            if was_measuring && !gradient.is_measuring() {
                // (Who did not know yet that it was looked for has noted others.)
                self.samples.all().for_each(|mut samples| *samples = Bins::new());
            }
        });
    }

    fn is_due(&self, now: Instant) -> bool {
        self.micros(now) >= self.due.load(Ordering::Relaxed)
    }

    /// Does what is due at `now`, if anything is.
    fn tick(&self, State { gradient, params }: &mut State, now: Instant) {
        if gradient.due().is_some_and(|due| due <= now) {
            *params = self.settings.now();
            for mut samples in self.samples.all() {
                gradient.absorb(&std::mem::take(&mut *samples));
            }
            gradient.tick(params, now);
        }
    }

    /// A request ended without an answer, and tells nothing.
    pub(super) fn failed(&self) {
        self.outstanding.fetch_sub(1, Ordering::Relaxed);
    }

    /// Does something with the state, and shows what came of it.
    fn change(&self, change: impl FnOnce(&mut State)) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        change(&mut state);
        let gradient = &state.gradient;
        self.limit.store(gradient.limit(), Ordering::Relaxed);
        self.is_measuring.store(gradient.is_measuring(), Ordering::Relaxed);
        self.epoch.store(gradient.epoch().map_or(0, |epoch| self.micros(epoch)), Ordering::Relaxed);
        self.due.store(gradient.due().map_or(NEVER, |due| self.micros(due)), Ordering::Relaxed);
        let (stats, shown) = (&self.stats, gradient.shown);
        stats.concurrency_limit.set(gradient.limit().into());
        stats.min_rtt_calculation_active.set(gradient.is_measuring().into());
        stats.min_rtt_msecs.set(millis(gradient.minimum()));
        stats.sample_rtt_msecs.set(millis(shown.sample));
        stats.gradient.set(cut(shown.gradient * 1_000.0));
        stats.burst_queue_size.set(cut(shown.headroom));
    }

    fn micros(&self, at: Instant) -> u64 {
        u64::try_from(at.saturating_duration_since(self.start).as_micros()).unwrap_or(NEVER)
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a gauge is a whole number")]
fn cut(number: f64) -> u64 {
    number as u64
}
