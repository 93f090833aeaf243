//! How many may wait for names (`dns_cache_circuit_breaker`).

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use proxy_core::stats::Shared;
use proxy_core::stats::groups::DnsCacheBreakerStats;

/// The limit.
#[derive(Debug)]
pub(super) struct Pending {
    max: u32,
    used: AtomicU32,
    stats: Shared<DnsCacheBreakerStats>,
}

impl Pending {
    pub(super) fn new(max: u32, stats: Shared<DnsCacheBreakerStats>) -> Self {
        stats.rq_pending_remaining.set(max.into());
        stats.rq_pending_open.set(u64::from(max == 0));
        Self { max, used: AtomicU32::new(0), stats }
    }

    /// Whether nobody more may wait.
    pub(super) fn is_full(&self) -> bool {
        self.used.load(Ordering::Relaxed) >= self.max
    }

    /// How many wait.
    #[cfg(test)]
    pub(super) fn used(&self) -> u32 {
        self.used.load(Ordering::Relaxed)
    }

    /// The right to wait, if anybody more may.
    pub(super) fn take(pending: &Arc<Self>) -> Option<Permit> {
        let more = |used: u32| (used < pending.max).then(|| used + 1);
        let before = pending.used.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).ok()?;
        // (By steps, so that racing threads leave them right.)
        pending.stats.rq_pending_remaining.dec();
        if before + 1 == pending.max {
            pending.stats.rq_pending_open.inc();
        }
        Some(Permit(pending.clone()))
    }
}

/// Counts as one who waits until it is dropped.
pub(super) struct Permit(Arc<Pending>);

impl Drop for Permit {
    fn drop(&mut self) {
        let before = self.0.used.fetch_sub(1, Ordering::Relaxed);
        self.0.stats.rq_pending_remaining.inc();
        if before == self.0.max {
            self.0.stats.rq_pending_open.dec();
        }
    }
}
