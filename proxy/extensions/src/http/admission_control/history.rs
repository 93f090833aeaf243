//! What became of the requests of the last seconds, and how likely the next one is refused for that. Knows no clock.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// Requests that began together are forgotten together.
const GRAIN: Duration = Duration::from_secs(1);

/// Requests, and how many of them went well.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Counts {
    pub(super) requests: u32,
    pub(super) successes: u32,
}

/// Requests of a window of time.
#[derive(Debug)]
pub(super) struct History {
    window: Duration,
    /// When each second began, and what happened in it: the oldest first.
    seconds: VecDeque<(Instant, Counts)>,
    /// The sum of all.
    total: Counts,
}

impl History {
    /// Of a window of at least a second.
    pub(super) fn new(window: Duration) -> Self {
        Self { window, seconds: VecDeque::new(), total: Counts::default() }
    }

    /// Takes note of a request that ended at `now`.
    pub(super) fn record(&mut self, success: bool, now: Instant) {
        self.forget(now);
        let newest = self.seconds.back().filter(|(began, _)| now.duration_since(*began) < GRAIN);
        if newest.is_none() {
            self.seconds.push_back((now, Counts::default()));
        }
        if let Some((_, second)) = self.seconds.back_mut() {
            second.requests += 1;
            second.successes += u32::from(success);
            self.total.requests += 1;
            self.total.successes += u32::from(success);
        }
    }

    /// What happened in the window that ends at `now`.
    pub(super) fn counts(&mut self, now: Instant) -> Counts {
        self.forget(now);
        self.total
    }

    /// Requests a second, over all that is remembered.
    pub(super) fn rate(&self, now: Instant) -> u64 {
        let Some((oldest, _)) = self.seconds.front() else { return 0 };
        u64::from(self.total.requests) / now.duration_since(*oldest).as_secs().max(1)
    }

    fn forget(&mut self, now: Instant) {
        while let Some((_, old)) =
            self.seconds.pop_front_if(|(began, _)| now.duration_since(*began) >= self.window)
        {
            self.total.requests -= old.requests;
            self.total.successes -= old.successes;
        }
    }
}

/// What the configuration says about refusing.
#[derive(Clone, Copy, Debug)]
pub(super) struct Strictness {
    /// Share of successes, of 1, below which requests are refused.
    pub(super) threshold: f64,
    /// At least 1; the more, the sooner.
    pub(super) aggression: f64,
    /// Largest probability.
    pub(super) most: f64,
}

impl Strictness {
    /// The probability that a request is refused after these; of 10,000.
    ///
    /// Source: Envoy `docs/root/configuration/http/http_filters/admission_control_filter.rst`.
    pub(super) fn refused_of_10_000(&self, counts: Counts) -> f64 {
        let (requests, successes) = (f64::from(counts.requests), f64::from(counts.successes));
        let excess = ((requests - successes / self.threshold) / (requests + 1.0)).max(0.0);
        let probability = if self.aggression > 1.0 { excess.powf(1.0 / self.aggression) } else { excess };
        probability.min(self.most) * 10_000.0
    }
}

#[cfg(test)]
const STRICT: Strictness = Strictness { threshold: 0.95, aggression: 1.0, most: 0.8 };

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_window_forgets() {
        let start = Instant::now();
        let mut history = History::new(Duration::from_secs(2));
        let at = |millis| start + Duration::from_millis(millis);
        assert_eq!(history.rate(start), 0);
        for millis in [0, 100, 999, 1000, 1500] {
            history.record(millis > 500, at(millis));
        }
        assert_eq!(history.counts(at(1999)), Counts { requests: 5, successes: 3 });
        assert_eq!((history.rate(at(1999)), history.rate(at(2500))), (5, 2));
        assert_eq!(history.counts(at(2000)), Counts { requests: 2, successes: 2 });
        assert_eq!(history.counts(at(3000)), Counts::default());
    }

    #[test]
    fn nothing_is_refused_before_anything_is_known() {
        assert_eq!(STRICT.refused_of_10_000(Counts::default()), 0.0);
        let failed = |requests| STRICT.refused_of_10_000(Counts { requests, successes: 0 });
        assert_eq!(failed(1), 5_000.0);
        assert_eq!(failed(1_000), 8_000.0);
        let well = Counts { requests: 100, successes: 100 };
        assert_eq!(Strictness { aggression: 2.0, ..STRICT }.refused_of_10_000(well), 0.0);
    }
}

#[cfg(test)]
mod simulation {
    use fastrand::Rng;

    use super::*;

    /// A service that some requests fail at, and the filter before it.
    struct World {
        random: Rng,
        now: Instant,
        history: History,
        strictness: Strictness,
    }

    impl World {
        fn new(seed: u64, strictness: Strictness) -> Self {
            let history = History::new(Duration::from_secs(30));
            Self { random: Rng::with_seed(seed), now: Instant::now(), history, strictness }
        }

        /// The share of requests that are refused in so many seconds, of 100 requests each, when this share fails.
        fn run(&mut self, seconds: u32, failing: f64) -> f64 {
            let (mut refused, total) = (0, seconds * 100);
            for _ in 0..total {
                self.now += Duration::from_millis(10);
                let likely = self.strictness.refused_of_10_000(self.history.counts(self.now));
                if likely > f64::from(self.random.u32(..10_000)) {
                    refused += 1;
                } else {
                    let success = self.random.f64() >= failing;
                    self.history.record(success, self.now);
                }
            }
            f64::from(refused) / f64::from(total)
        }
    }

    #[test]
    fn requests_are_refused_as_far_as_too_many_fail_and_no_longer() {
        simulate::each_seed(20, |seed| {
            let mut world = World::new(seed, STRICT);
            let refused = world.run(60, 0.02);
            assert!(refused < 0.001, "{refused} refused of what goes well enough");
            world.run(40, 0.5);
            // 1 - 0.5 / 0.95
            let refused = world.run(60, 0.5);
            assert!((0.42..0.53).contains(&refused), "{refused} refused where half fail");
            world.run(40, 1.0);
            let refused = world.run(60, 1.0);
            assert!((0.77..0.83).contains(&refused), "{refused} refused where all fail");
            world.run(60, 0.0);
            assert!(world.run(10, 0.0) == 0.0, "what recovered is served");
        });
    }

    #[test]
    fn aggression_refuses_sooner_and_no_more_than_is_allowed() {
        simulate::each_seed(20, |seed| {
            let mut world = World::new(seed, Strictness { aggression: 3.0, most: 0.6, ..STRICT });
            world.run(40, 0.1);
            let refused = world.run(60, 0.1);
            // (1 - 0.9 / 0.95) ^ (1 / 3)
            assert!((0.25..0.45).contains(&refused), "{refused}");
            world.run(40, 0.9);
            let refused = world.run(60, 0.9);
            assert!((0.57..0.63).contains(&refused), "{refused}");
        });
    }
}
