//! Statistics of the event loop of a thread, on demand: how long it works between two waits, and how late it comes back
//! to what it wanted to do at a certain time.
//!
//! Our loop does not tell for how long it was going to wait, so the delay is that of a timer of our own, measured a few
//! times a second. Like all timers of the loop it is rounded up to a millisecond.
//! Source: Envoy `docs/root/operations/performance.rst`, "Event loop statistics".

use std::cell::Cell;
use std::sync::Arc;
use std::time::{Duration, Instant};

use proxy_core::stats::groups::DispatcherStats;
use proxy_core::stats::{Registry, Shared};

/// How often the delay is measured.
const INTERVAL: Duration = Duration::from_millis(100);

thread_local! {
    /// When the last wait of this thread's loop ended.
    static WOKE: Cell<Option<Instant>> = const { Cell::new(None) };
}

/// Measures the loop of one thread.
#[derive(Clone)]
pub struct Dispatcher(Shared<DispatcherStats>);

impl Dispatcher {
    /// Measures under `<scope>.dispatcher`.
    pub fn new(stats: &Arc<Registry>, scope: &str) -> Self {
        Self(stats.scope(&format!("{scope}.dispatcher")).shared())
    }

    /// Has the runtime tell of its waits; `end` is called before each, `turn` after it.
    pub fn observe(&self, runtime: &mut tokio::runtime::Builder, end: fn(), turn: fn()) {
        let stats = self.0.clone();
        runtime.on_thread_park(move || {
            end();
            if let Some(woke) = WOKE.take() {
                stats.loop_duration_us.record(micros(woke.elapsed()));
            }
        });
        runtime.on_thread_unpark(move || {
            WOKE.set(Some(Instant::now()));
            turn();
        });
    }

    /// Measures delays for as long as the loop runs.
    pub async fn measure_delays(self) {
        loop {
            let due = Instant::now() + INTERVAL;
            tokio::time::sleep_until(due.into()).await;
            self.0.poll_delay_us.record(micros(due.elapsed()));
        }
    }
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}
