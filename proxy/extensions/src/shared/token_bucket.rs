//! A token bucket that all workers share without a lock.
//!
//! Its whole state is one number: the moment at which it was, or would have been, empty. Tokens grow evenly with time,
//! as in Envoy since 1.31, not in steps of the fill interval.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use proxy_core::config::{BuildCx, Rejected, duration};
use xds_api::envoy::r#type::v3 as proto;

/// Tokens that grow with time up to a limit.
#[derive(Debug)]
pub struct TokenBucket {
    start: Instant,
    max_tokens: f64,
    per_second: f64,
    /// Seconds from `start` to the moment of emptiness, as the bits of an `f64`.
    empty_at: AtomicU64,
}

impl TokenBucket {
    /// A full bucket of `max_tokens` that gains `tokens_per_fill` every `fill_interval`, from `now` on.
    pub fn new(max_tokens: u32, tokens_per_fill: u32, fill_interval: Duration, now: Instant) -> Self {
        let max_tokens = f64::from(max_tokens);
        let per_second = f64::from(tokens_per_fill) / fill_interval.as_secs_f64();
        let full = -max_tokens / per_second;
        Self { start: now, max_tokens, per_second, empty_at: AtomicU64::new(full.to_bits()) }
    }

    /// A bucket that gains so many tokens in a second and holds as many, with `tokens` in it at `now`.
    pub fn of_a_second(per_second: f64, tokens: f64, now: Instant) -> Self {
        let empty_at = -tokens / per_second;
        Self { start: now, max_tokens: per_second, per_second, empty_at: AtomicU64::new(empty_at.to_bits()) }
    }

    /// The same with this share of its tokens in it from the beginning.
    #[must_use]
    pub fn filled_to(self, share: f64) -> Self {
        let empty_at = -self.max_tokens * share.clamp(0.0, 1.0) / self.per_second;
        Self { empty_at: AtomicU64::new(empty_at.to_bits()), ..self }
    }

    /// The share of its tokens that is in it at `now`.
    pub fn share(&self, now: Instant) -> f64 {
        self.tokens(self.emptied(), self.seconds(now)) / self.max_tokens
    }

    /// Builds from its message. Envoy refuses intervals under 50 ms.
    pub fn build(proto: &proto::TokenBucket, cx: &mut BuildCx<'_>) -> Result<Self, Rejected> {
        let proto::TokenBucket { max_tokens, tokens_per_fill, fill_interval } = proto;
        if *max_tokens == 0 {
            return Err(cx.at("max_tokens", |cx| cx.reject("value must be greater than 0")));
        }
        let per_fill = tokens_per_fill.unwrap_or(1);
        if per_fill == 0 {
            return Err(cx.at("tokens_per_fill", |cx| cx.reject("value must be greater than 0")));
        }
        let interval = fill_interval.as_ref().and_then(duration).unwrap_or_default();
        if interval < Duration::from_millis(50) {
            return Err(cx.at("fill_interval", |cx| {
                cx.reject("local rate limit token bucket fill timer must be >= 50ms")
            }));
        }
        Ok(Self::new(*max_tokens, per_fill, interval, Instant::now()))
    }

    /// Another one like it, full at `now`.
    pub fn another(&self, now: Instant) -> Self {
        let full = -self.max_tokens / self.per_second;
        Self { start: now, empty_at: AtomicU64::new(full.to_bits()), ..*self }
    }

    /// Takes a token, if there is one at `now`.
    pub fn take(&self, now: Instant) -> bool {
        self.take_many(1.0, now)
    }

    /// Takes so many tokens, if there are as many at `now`, or gives them back if it is a negative number. Nobody gets none.
    pub fn take_many(&self, wanted: f64, now: Instant) -> bool {
        let now = self.seconds(now);
        let mut bits = self.empty_at.load(Ordering::Relaxed);
        loop {
            let tokens = self.tokens(f64::from_bits(bits), now);
            if tokens < wanted || wanted == 0.0 {
                return false;
            }
            let after = now - (tokens - wanted) / self.per_second;
            match self.empty_at.compare_exchange_weak(
                bits,
                after.to_bits(),
                Ordering::Relaxed,
                Ordering::Relaxed,
            ) {
                Ok(_) => return true,
                Err(actual) => bits = actual,
            }
        }
    }

    /// Takes as many whole tokens as there are at `now`, but no more than `wanted`.
    pub fn take_up_to(&self, wanted: usize, now: Instant) -> usize {
        let now = self.seconds(now);
        let mut bits = self.empty_at.load(Ordering::Relaxed);
        loop {
            let tokens = self.tokens(f64::from_bits(bits), now);
            let taken = usize::try_from(whole(tokens)).unwrap_or(usize::MAX).min(wanted);
            if taken == 0 {
                return 0;
            }
            let after = now - (tokens - as_tokens(taken)) / self.per_second;
            match self.empty_at.compare_exchange_weak(
                bits,
                after.to_bits(),
                Ordering::Relaxed,
                Ordering::Relaxed,
            ) {
                Ok(_) => return taken,
                Err(actual) => bits = actual,
            }
        }
    }

    /// Most tokens that there can be.
    pub fn max(&self) -> u64 {
        whole(self.max_tokens)
    }

    /// Whole tokens that there are at `now`.
    pub fn remaining(&self, now: Instant) -> u64 {
        whole(self.tokens(self.emptied(), self.seconds(now)))
    }

    /// How long it takes at `now` until there is a token.
    pub fn until_token(&self, now: Instant) -> Duration {
        let missing = 1.0 - self.tokens(self.emptied(), self.seconds(now));
        Duration::try_from_secs_f64(missing / self.per_second).unwrap_or(Duration::ZERO)
    }

    /// Tokens that come in a second.
    pub fn per_second(&self) -> f64 {
        self.per_second
    }

    fn emptied(&self) -> f64 {
        f64::from_bits(self.empty_at.load(Ordering::Relaxed))
    }

    fn seconds(&self, now: Instant) -> f64 {
        now.saturating_duration_since(self.start).as_secs_f64()
    }

    fn tokens(&self, empty_at: f64, now: f64) -> f64 {
        ((now - empty_at) * self.per_second).min(self.max_tokens)
    }
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a float is cut to what fits")]
fn whole(tokens: f64) -> u64 {
    tokens as u64
}

#[expect(clippy::cast_precision_loss, reason = "nobody takes 2^52 bytes at once")]
fn as_tokens(count: usize) -> f64 {
    count as f64
}

#[cfg(test)]
pub(crate) mod simulation;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_starts_full_and_refills_up_to_its_limit() {
        let start = Instant::now();
        let bucket = TokenBucket::new(3, 1, Duration::from_secs(1), start);
        assert_eq!((0..5).filter(|_| bucket.take(start)).count(), 3);
        assert!(!bucket.take(start + Duration::from_millis(900)));
        assert!(bucket.take(start + Duration::from_millis(1001)));
        let later = start + Duration::from_secs(100);
        assert_eq!((0..5).filter(|_| bucket.take(later)).count(), 3);
    }

    #[test]
    fn a_clock_that_stands_still_or_steps_back_gives_nothing() {
        let start = Instant::now();
        let bucket = TokenBucket::new(1, 1, Duration::from_secs(1), start);
        assert!(bucket.take(start + Duration::from_secs(5)));
        assert!(!bucket.take(start));
        assert!(!bucket.take(start + Duration::from_secs(5)));
    }

    #[test]
    fn what_is_there_is_taken_up_to_what_is_wanted() {
        let start = Instant::now();
        let bucket = TokenBucket::of_a_second(100.0, 5.0, start);
        assert_eq!(bucket.take_up_to(3, start), 3);
        assert_eq!(bucket.take_up_to(3, start), 2);
        assert_eq!(bucket.take_up_to(3, start), 0);
        assert_eq!(bucket.take_up_to(100, start + Duration::from_millis(55)), 5);
        assert_eq!(bucket.take_up_to(100, start + Duration::from_millis(61)), 1, "halves are not lost");
        assert_eq!(bucket.take_up_to(1000, start + Duration::from_secs(100)), 100);
    }

    #[test]
    fn a_bucket_can_be_as_full_as_another() {
        let start = Instant::now();
        let bucket = TokenBucket::new(5, 1, Duration::from_secs(3600), start);
        assert!(bucket.take(start));
        let larger = TokenBucket::new(10, 1, Duration::from_secs(3600), start).filled_to(bucket.share(start));
        assert_eq!((0..10).filter(|_| larger.take(start)).count(), 8);
        let empty = TokenBucket::new(2, 1, Duration::from_secs(1), start).filled_to(larger.share(start));
        assert!(!empty.take(start) && empty.take(start + Duration::from_secs(1)));
    }

    #[test]
    fn threads_never_take_more_than_there_is() {
        let start = Instant::now();
        let bucket = TokenBucket::new(1000, 1, Duration::from_secs(3600), start);
        let taken: usize = std::thread::scope(|scope| {
            let threads: Vec<_> =
                (0..4).map(|_| scope.spawn(|| (0..1000).filter(|_| bucket.take(start)).count())).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).sum()
        });
        assert_eq!(taken, 1000);
    }
}
