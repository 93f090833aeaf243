//! When to try again: exponential back-off with full jitter.
//!
//! As Envoy does it (`JitteredExponentialBackOffStrategy`): the bound doubles from the base to the maximum, and each delay is
//! drawn evenly below the bound. A received message resets it.

use std::time::Duration;

/// The bounds of the delay between two attempts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BackoffConfig {
    /// The bound of the first delay. Envoy: 500 ms.
    pub base: Duration,
    /// The bound that is never exceeded. Envoy: 30 s.
    pub max: Duration,
}

impl Default for BackoffConfig {
    fn default() -> Self {
        Self { base: Duration::from_millis(500), max: Duration::from_secs(30) }
    }
}

/// The delays themselves.
#[derive(Debug)]
pub(crate) struct Backoff {
    config: BackoffConfig,
    bound: Duration,
    random: fastrand::Rng,
}

impl Backoff {
    pub(crate) fn new(config: BackoffConfig, seed: u64) -> Self {
        Self { config, bound: config.base.min(config.max), random: fastrand::Rng::with_seed(seed) }
    }

    pub(crate) fn reset(&mut self) {
        self.bound = self.config.base.min(self.config.max);
    }

    /// The next delay, below the bound; the bound doubles.
    pub(crate) fn next(&mut self) -> Duration {
        let delay = self.bound.mul_f64(self.random.f64());
        self.bound = self.bound.saturating_mul(2).min(self.config.max);
        delay
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_stay_below_a_doubling_bound() {
        let config = BackoffConfig { base: Duration::from_millis(500), max: Duration::from_secs(30) };
        for seed in 0..200 {
            let mut backoff = Backoff::new(config, seed);
            for attempt in 0..40_u32 {
                let bound = config.base.saturating_mul(2_u32.saturating_pow(attempt)).min(config.max);
                assert!(backoff.next() <= bound, "attempt {attempt} with seed {seed}");
            }
            backoff.reset();
            assert!(backoff.next() <= config.base);
        }
    }

    #[test]
    fn delays_are_spread() {
        let mut backoff =
            Backoff::new(BackoffConfig { base: Duration::from_secs(10), max: Duration::from_secs(10) }, 7);
        let delays: Vec<_> = (0..100).map(|_| backoff.next()).collect();
        assert!(delays.iter().any(|delay| *delay < Duration::from_secs(3)));
        assert!(delays.iter().any(|delay| *delay > Duration::from_secs(7)));
    }
}
