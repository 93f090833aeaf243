//! A moment that any thread may set and read.

use std::sync::LazyLock;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, Instant};

/// The moment that others are told from: an [`Instant`] has no number of its own.
static EPOCH: LazyLock<Instant> = LazyLock::new(Instant::now);

/// Nanoseconds from [`EPOCH`], before or after it; [`AtomicMoment::NEVER`] until it is set.
#[derive(Debug)]
pub(super) struct AtomicMoment(AtomicI64);

impl Default for AtomicMoment {
    fn default() -> Self {
        Self(AtomicI64::new(Self::NEVER))
    }
}

impl AtomicMoment {
    const NEVER: i64 = i64::MIN;

    pub(super) fn get(&self) -> Option<Instant> {
        moment(self.0.load(Ordering::Relaxed))
    }

    pub(super) fn set(&self, moment: Instant) {
        self.0.store(number(moment), Ordering::Relaxed);
    }

    /// Sets it to `moment` unless it was set before; what it is then.
    pub(super) fn get_or_set(&self, moment: Instant) -> Instant {
        let set = self.0.compare_exchange(Self::NEVER, number(moment), Ordering::Relaxed, Ordering::Relaxed);
        set.err().and_then(self::moment).unwrap_or(moment)
    }
}

fn number(moment: Instant) -> i64 {
    let nanos = |duration: Duration| i64::try_from(duration.as_nanos()).unwrap_or(i64::MAX);
    match moment.checked_duration_since(*EPOCH) {
        Some(after) => nanos(after),
        None => -nanos(EPOCH.saturating_duration_since(moment)),
    }
}

fn moment(number: i64) -> Option<Instant> {
    let distance = Duration::from_nanos(number.unsigned_abs());
    match number {
        AtomicMoment::NEVER => None,
        0.. => EPOCH.checked_add(distance),
        _ => EPOCH.checked_sub(distance),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_is_kept_until_another_is_set() {
        let kept = AtomicMoment::default();
        assert_eq!(kept.get(), None);
        let now = Instant::now();
        let before = now.checked_sub(Duration::from_millis(1500)).unwrap();
        let later = now.checked_add(Duration::from_hours(1)).unwrap();
        for moment in [before, now, later] {
            assert_eq!(kept.get_or_set(before), kept.get().unwrap());
            kept.set(moment);
            assert_eq!(kept.get(), Some(moment));
            assert_eq!(kept.get_or_set(before), moment);
        }
    }
}
