//! Random takers over random times, beside a bucket that counts in whole parts of a token.
//!
//! Rates and times are powers of two, so that the bucket's fractions are exact and the model may demand the same verdict to the
//! last token. What holds at any rate, and with clocks that disagree, is a sum: never more than was there and came since.

use proxy_core::config::BuildEnv;

use super::*;

/// Parts of a token.
pub(crate) const TOKEN: i64 = 1024;
const TICKS_A_SECOND: i64 = 64;

/// The moment that is so many ticks after `start`.
pub(crate) fn at(start: Instant, tick: i64) -> Instant {
    let nanos = 1_000_000_000 / TICKS_A_SECOND.unsigned_abs();
    start + Duration::from_nanos(tick.unsigned_abs() * nanos)
}

/// A bucket as one would write it down.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Plain {
    max: i64,
    per_fill: u32,
    /// Ticks from one fill to the next, if it were filled in steps.
    interval: i64,
    parts: i64,
    tick: i64,
}

impl Plain {
    /// A full one of some size and rate.
    pub(crate) fn any(random: &mut fastrand::Rng) -> Self {
        let max = random.i64(1..12) * TOKEN;
        Self { max, per_fill: 1 << random.u32(0..3), interval: 1 << random.u32(3..9), parts: max, tick: 0 }
    }

    /// Another one like it, full.
    pub(crate) fn filled(self, tick: i64) -> Self {
        Self { parts: self.max, tick, ..self }
    }

    /// What configures the real one.
    pub(crate) fn proto(&self) -> proto::TokenBucket {
        let interval = prost_types::Duration {
            seconds: self.interval / TICKS_A_SECOND,
            nanos: i32::try_from(self.interval % TICKS_A_SECOND * (1_000_000_000 / TICKS_A_SECOND)).unwrap(),
        };
        proto::TokenBucket {
            max_tokens: u32::try_from(self.max / TOKEN).unwrap(),
            tokens_per_fill: Some(self.per_fill),
            fill_interval: Some(interval),
        }
    }

    /// Parts that come in a tick.
    pub(crate) fn per_tick(&self) -> i64 {
        i64::from(self.per_fill) * TOKEN / self.interval
    }

    fn fill(&mut self, tick: i64) -> i64 {
        self.parts = self.max.min(self.parts + (tick - self.tick) * self.per_tick());
        self.tick = tick;
        self.parts
    }

    /// Whole tokens.
    pub(crate) fn tokens(&mut self, tick: i64) -> i64 {
        self.fill(tick).div_euclid(TOKEN)
    }

    /// Takes all of these parts or none; fewer than none are given.
    pub(crate) fn take(&mut self, parts: i64, tick: i64) -> bool {
        let taken = parts != 0 && self.fill(tick) >= parts;
        self.parts -= if taken { parts } else { 0 };
        taken
    }
}

fn run(seed: u64) {
    let mut random = fastrand::Rng::with_seed(seed);
    let start = Instant::now();
    let mut plain = Plain::any(&mut random);
    let env = BuildEnv::new(1);
    let mut bucket = TokenBucket::build(&plain.proto(), &mut BuildCx::new(&env)).unwrap().another(start);
    let mut tick = 0;
    for step in 0..200 {
        let now = at(start, tick);
        let tokens = plain.tokens(tick);
        let seen = i64::try_from(bucket.remaining(now)).unwrap();
        assert_eq!(seen, tokens, "step {step}: {plain:?}");
        assert_eq!(bucket.share(now), plain.parts as f64 / plain.max as f64, "step {step}: {plain:?}");
        let until = (TOKEN - plain.parts).max(0) as f64 / (plain.per_tick() * TICKS_A_SECOND) as f64;
        let error = bucket.until_token(now).as_secs_f64() - until;
        assert!(error.abs() < 1e-8, "step {step}: {error} s from {until} s until a token: {plain:?}");
        match random.u8(..12) {
            0..3 => assert_eq!(bucket.take(now), plain.take(TOKEN, tick), "step {step}: {plain:?}"),
            3..5 => {
                let parts = random.i64(-3..10) * TOKEN / 2;
                let taken = bucket.take_many(parts as f64 / TOKEN as f64, now);
                assert_eq!(taken, plain.take(parts, tick), "step {step}: {parts} of {plain:?}");
            }
            5 => {
                let wanted = random.i64(0..12);
                let taken = bucket.take_up_to(usize::try_from(wanted).unwrap(), now);
                assert_eq!(taken as i64, wanted.min(tokens), "step {step}: {wanted} of {plain:?}");
                plain.take(taken as i64 * TOKEN, tick);
            }
            6 if random.u8(..4) == 0 => {
                bucket = bucket.another(now);
                plain = plain.filled(tick);
            }
            6..11 => tick += random.i64(0..8),
            _ => tick += random.i64(0..2000),
        }
    }
}

/// Workers whose clocks lag behind each other by up to `lag`, at any rate.
fn run_at_any_rate(seed: u64) {
    let mut random = fastrand::Rng::with_seed(seed);
    let start = Instant::now();
    let (most, per_fill) = (random.u32(1..50), random.u32(1..20));
    let interval = Duration::from_millis(random.u64(50..3000));
    let bucket = TokenBucket::new(most, per_fill, interval, start);
    let lag = random.u64(0..30);
    let rate = f64::from(per_fill) / interval.as_secs_f64();
    let mut millis = 0_u64;
    let mut taken: Vec<u64> = Vec::new();
    for step in 0..400 {
        millis += random.u64(0..4) * random.u64(0..40);
        let seen = millis.saturating_sub(random.u64(0..=lag));
        let now = start + Duration::from_millis(seen);
        if bucket.take(now) {
            taken.push(millis);
        } else {
            let wait = bucket.until_token(now) + Duration::from_nanos(1);
            assert!(wait.as_secs_f64() <= 1.0 / rate + lag as f64 / 1000.0 + 1e-6, "step {step}: {wait:?}");
            // Whoever waits for as long as he is told finds a token, unless another was faster.
            assert!(bucket.remaining(now + wait) >= 1, "step {step}: nothing after {wait:?}");
        }
        // In no stretch of time is more taken than fits, and comes in it.
        let since = taken.len().saturating_sub(1 + random.usize(..60));
        if let (Some(first), true) = (taken.get(since), taken.last() == Some(&millis)) {
            let time = (millis - first + lag) as f64 / 1000.0;
            let allowed = f64::from(most) + rate * time + 1e-6;
            let count = taken.len() - since;
            assert!(count as f64 <= allowed, "step {step}: {count} in {time} s, {allowed} allowed");
        }
    }
    let full = start + Duration::from_millis(millis) + interval * most;
    assert_eq!(bucket.remaining(full + Duration::from_millis(1)), u64::from(most), "it fills up");
}

#[test]
fn tokens_are_those_of_a_plain_count() {
    simulate::each_seed(2000, run);
}

#[test]
fn no_more_is_taken_than_fits_and_comes() {
    simulate::each_seed(500, run_at_any_rate);
}
