//! Notices threads that do not come back to their event loop in time.
//!
//! Every watched thread says again and again that it is there; one thread of its own looks at all of them and counts the
//! late ones: once late (`watchdog_miss`), and once much too late (`watchdog_mega_miss`), each once for every time the
//! thread was stuck. It never ends the process.
//! Source: Envoy `docs/root/operations/performance.rst`, "Watchdog".

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

use proxy_core::stats::groups::WatchdogStats;
use proxy_core::stats::{Registry, Shared};

/// Envoy's defaults of `miss_timeout` and `megamiss_timeout`.
const LATE: Duration = Duration::from_millis(200);
const MUCH_TOO_LATE: Duration = Duration::from_millis(1000);
/// How often threads say that they are there, and how often one looks.
const INTERVAL: Duration = Duration::from_millis(100);

/// The watchdog of the process. Its thread ends with the last reference to it.
pub struct Watchdog {
    start: Instant,
    stats: Arc<Registry>,
    threads: Mutex<Vec<Watched>>,
}

/// One watched thread.
struct Watched {
    seen: Weak<AtomicU64>,
    /// Of the thread, and of all threads of its kind.
    stats: [Shared<WatchdogStats>; 2],
    /// What was last counted of it: for which sign of life, and how late.
    counted: (u64, Lateness),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Lateness {
    InTime,
    Late,
    MuchTooLate,
}

impl Watchdog {
    /// Starts to look.
    ///
    /// # Errors
    /// No thread could be made.
    pub fn start(stats: &Arc<Registry>) -> std::io::Result<Arc<Self>> {
        let watchdog =
            Arc::new(Self { start: Instant::now(), stats: stats.clone(), threads: Mutex::default() });
        let looking = Arc::downgrade(&watchdog);
        std::thread::Builder::new().name("watchdog".to_owned()).spawn(move || {
            while let Some(watchdog) = looking.upgrade() {
                watchdog.look(watchdog.now());
                drop(watchdog);
                std::thread::sleep(INTERVAL);
            }
        })?;
        Ok(watchdog)
    }

    /// Watches the thread that runs the future, for as long as it does. `server.<name>.` and `<kind>.` count.
    pub async fn watch(self: Arc<Self>, name: &str, kind: &str) {
        let seen = Arc::new(AtomicU64::new(self.now()));
        let stats =
            [format!("server.{name}"), kind.to_owned()].map(|scope| self.stats.scope(&scope).shared());
        let watched = Watched { seen: Arc::downgrade(&seen), stats, counted: (0, Lateness::InTime) };
        self.threads.lock().unwrap_or_else(PoisonError::into_inner).push(watched);
        loop {
            tokio::time::sleep(INTERVAL).await;
            seen.store(self.now(), Ordering::Relaxed);
        }
    }

    fn now(&self) -> u64 {
        u64::try_from(self.start.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    fn look(&self, now: u64) {
        let mut threads = self.threads.lock().unwrap_or_else(PoisonError::into_inner);
        threads.retain_mut(|thread| {
            let Some(seen) = thread.seen.upgrade() else { return false };
            thread.look(seen.load(Ordering::Relaxed), now);
            true
        });
    }
}

impl Watched {
    fn look(&mut self, seen: u64, now: u64) {
        let silent = Duration::from_millis(now.saturating_sub(seen));
        let lateness = match silent {
            silent if silent > MUCH_TOO_LATE => Lateness::MuchTooLate,
            silent if silent > LATE => Lateness::Late,
            _ => Lateness::InTime,
        };
        let counted = if self.counted.0 == seen { self.counted.1 } else { Lateness::InTime };
        if lateness > counted {
            for stats in &self.stats {
                if counted < Lateness::Late {
                    stats.watchdog_miss.inc();
                }
                if lateness == Lateness::MuchTooLate {
                    stats.watchdog_mega_miss.inc();
                }
            }
        }
        self.counted = (seen, lateness.max(counted));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_time_a_thread_is_stuck_counts_once() {
        let registry = Registry::new(1);
        let stats = ["server.worker_0", "workers"].map(|scope| registry.scope(scope).shared());
        let seen = Arc::new(AtomicU64::new(0));
        let mut thread = Watched { seen: Arc::downgrade(&seen), stats, counted: (0, Lateness::InTime) };
        let mut after = |seen, now| {
            thread.look(seen, now);
            thread.stats.each_ref().map(|one| (one.watchdog_miss.value(), one.watchdog_mega_miss.value()))
        };
        assert_eq!(after(100, 200), [(0, 0); 2]);
        assert_eq!(after(100, 310), [(1, 0); 2]);
        assert_eq!(after(100, 400), [(1, 0); 2]);
        assert_eq!(after(100, 1200), [(1, 1); 2]);
        assert_eq!(after(100, 9000), [(1, 1); 2]);
        assert_eq!(after(9000, 9100), [(1, 1); 2]);
        // Stuck for so long that nobody looked in between.
        assert_eq!(after(9000, 20_000), [(2, 2); 2]);
    }
}
