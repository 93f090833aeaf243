//! How many requests a cluster was sent of late: what a retry budget with `budget_interval` is a share of.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// In how many steps requests are forgotten, as in Envoy.
const SLOTS: u32 = 10;

/// Requests that began in the last interval, counted by tenths of it, so that those of the oldest tenth are forgotten at once.
#[derive(Debug)]
pub(super) struct Recent {
    begun: Instant,
    /// A tenth of the interval, in nanoseconds.
    tenth: u64,
    /// In a word: the number of the tenth in the upper half, how many requests began in it in the lower one.
    slots: [AtomicU64; SLOTS as usize],
}

impl Recent {
    /// Requests of the last `interval`, which is counted in whole milliseconds; nothing if it is none.
    pub(super) fn new(interval: Duration, now: Instant) -> Option<Self> {
        let millis = u64::try_from(interval.as_millis()).unwrap_or(u64::MAX);
        let tenth = millis.saturating_mul(1_000_000 / u64::from(SLOTS));
        (millis > 0).then(|| Self { begun: now, tenth, slots: Default::default() })
    }

    /// The number of the tenth that is `now`; it wraps.
    #[allow(clippy::cast_possible_truncation, reason = "numbers are compared by their distance")]
    fn tenth_of(&self, now: Instant) -> u32 {
        (now.saturating_duration_since(self.begun).as_nanos() / u128::from(self.tenth)) as u32
    }

    /// A request begins.
    pub(super) fn add(&self, now: Instant) {
        let tenth = self.tenth_of(now);
        let slot = &self.slots[(tenth % SLOTS) as usize];
        let more = |word: u64| {
            let (of, count) = parts(word);
            Some(word_of(tenth, if of == tenth { count.saturating_add(1) } else { 1 }))
        };
        let _ = slot.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more);
    }

    /// How many began since the interval before `now`.
    pub(super) fn count(&self, now: Instant) -> u32 {
        let tenth = self.tenth_of(now);
        let counts = self.slots.iter().map(|slot| {
            let (of, count) = parts(slot.load(Ordering::Relaxed));
            if tenth.wrapping_sub(of) < SLOTS { count } else { 0 }
        });
        counts.fold(0, u32::saturating_add)
    }
}

#[allow(clippy::cast_possible_truncation, reason = "the halves of a word")]
fn parts(word: u64) -> (u32, u32) {
    ((word >> 32) as u32, word as u32)
}

fn word_of(tenth: u32, count: u32) -> u64 {
    u64::from(tenth) << 32 | u64::from(count)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_forgotten_by_tenths_of_the_interval() {
        let start = Instant::now();
        let at = |millis| start + Duration::from_millis(millis);
        let recent = Recent::new(Duration::from_secs(2), start).unwrap();
        (0..3).for_each(|_| recent.add(at(150)));
        recent.add(at(1_000));
        assert_eq!(recent.count(at(1_000)), 4);
        assert_eq!(recent.count(at(1_999)), 4);
        assert_eq!(recent.count(at(2_000)), 1);
        recent.add(at(2_100));
        assert_eq!(recent.count(at(2_100)), 2);
        assert_eq!(recent.count(at(3_000)), 1);
        assert_eq!(recent.count(at(60_000)), 0);
    }

    #[test]
    fn an_interval_below_a_millisecond_is_none() {
        let of = |nanos| Recent::new(Duration::from_nanos(nanos), Instant::now());
        assert!(of(0).is_none() && of(999_999).is_none());
        let least = of(1_000_000).unwrap();
        least.add(least.begun);
        assert_eq!(least.count(least.begun + Duration::from_micros(999)), 1);
        assert_eq!(least.count(least.begun + Duration::from_millis(1)), 0);
    }

    #[test]
    fn the_longest_interval_forgets_nothing() {
        let recent = Recent::new(Duration::MAX, Instant::now()).unwrap();
        recent.add(recent.begun);
        assert_eq!(recent.count(recent.begun + Duration::from_secs(1 << 30)), 1);
    }

    #[test]
    fn threads_lose_none() {
        let recent = Recent::new(Duration::from_secs(10), Instant::now()).unwrap();
        std::thread::scope(|scope| {
            for thread in 0..4 {
                let recent = &recent;
                let at = recent.begun + Duration::from_secs(thread % 2);
                scope.spawn(move || (0..10_000).for_each(|_| recent.add(at)));
            }
        });
        assert_eq!(recent.count(recent.begun + Duration::from_secs(1)), 40_000);
    }
}
