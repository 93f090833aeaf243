//! How many requests may be in progress at once, found out from how long they take. Knows no clock, no threads, no configuration.
//!
//! From time to time only few requests are let through, to learn how long one takes at best: the *minimum*. Otherwise the limit moves, once an
//! interval, by the *gradient*, what a request takes at best over what it takes now, and a headroom that lets it grow.
//! Source: Envoy `docs/root/configuration/http/http_filters/adaptive_concurrency_filter.rst`; observed on 1.40.

use std::time::{Duration, Instant};

use proxy_core::stats::{Bins, bin_index};

/// So many limits of the least in a row, and the minimum is doubted.
const DOUBT: u32 = 5;

/// What the configuration and the runtime say now.
#[derive(Clone, Copy, Debug)]
pub(super) struct Params {
    /// How often the minimum is looked for.
    pub(super) minimum_interval: Duration,
    /// How often the limit moves.
    pub(super) update_interval: Duration,
    /// Most of the interval that is added to it by chance, of 1.
    pub(super) jitter: f64,
    pub(super) most: u32,
    /// Least limit that the gradient leads to.
    pub(super) least: u32,
    /// The limit while the minimum is looked for.
    pub(super) while_measuring: u32,
    /// Requests that tell of the minimum.
    pub(super) sample_count: u32,
    /// Which of the samples speaks for all, of 1.
    pub(super) quantile: f64,
    /// What is added to the minimum, of 1.
    pub(super) buffer: f64,
    /// The minimum, where it is not looked for.
    pub(super) fixed: Option<Duration>,
}

/// What is going on.
#[derive(Debug)]
enum Phase {
    /// Few requests are let through, to learn the minimum; then the limit is this again.
    Measuring { limit: u32 },
    /// The limit moves.
    Moving { update_at: Instant, measure_at: Option<Instant> },
}

/// The limit, and what it comes from.
#[derive(Debug)]
pub(super) struct Gradient {
    limit: u32,
    phase: Phase,
    /// Microseconds that requests took since the last decision.
    samples: Bins,
    count: u64,
    /// Requests that began before this tell nothing.
    epoch: Option<Instant>,
    minimum: Duration,
    /// How often in a row the limit was the least.
    at_least: u32,
    /// What is shown.
    pub(super) shown: Shown,
}

/// What statistics show of the last decision.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Shown {
    pub(super) gradient: f64,
    pub(super) headroom: f64,
    pub(super) sample: Duration,
}

impl Gradient {
    /// Begins at `now`, with the minimum unless that is fixed.
    pub(super) fn new(params: &Params, now: Instant) -> Self {
        let limit = if params.fixed.is_some() { params.least } else { params.while_measuring };
        let phase = match params.fixed {
            Some(_) => Phase::Moving { update_at: now + params.update_interval, measure_at: None },
            None => Phase::Measuring { limit },
        };
        Self {
            limit,
            phase,
            samples: Bins::new(),
            count: 0,
            epoch: None,
            minimum: params.fixed.unwrap_or_default(),
            at_least: 0,
            shown: Shown::default(),
        }
    }

    /// How many requests may be in progress.
    pub(super) fn limit(&self) -> u32 {
        self.limit
    }

    /// What a request takes at best.
    pub(super) fn minimum(&self) -> Duration {
        self.minimum
    }

    /// Whether the minimum is looked for.
    pub(super) fn is_measuring(&self) -> bool {
        matches!(self.phase, Phase::Measuring { .. })
    }

    /// Requests that began before this tell nothing, if there is such a moment.
    pub(super) fn epoch(&self) -> Option<Instant> {
        self.epoch
    }

    /// When time alone changes something; `None` while requests are waited for.
    pub(super) fn due(&self) -> Option<Instant> {
        match self.phase {
            Phase::Measuring { .. } => None,
            Phase::Moving { update_at, measure_at } => {
                Some(measure_at.map_or(update_at, |measure_at| measure_at.min(update_at)))
            }
        }
    }

    /// Does what is due at `now`.
    pub(super) fn tick(&mut self, params: &Params, now: Instant) {
        let Phase::Moving { update_at, measure_at } = self.phase else { return };
        // (What is due first is done first; the samples are those of the first interval, as later ones had none.)
        if update_at <= now && measure_at.is_none_or(|measure_at| update_at <= measure_at) {
            let behind = now.duration_since(update_at).as_nanos();
            let over = behind % params.update_interval.as_nanos().max(1);
            let over = Duration::from_nanos(u64::try_from(over).unwrap_or(0));
            self.phase = Phase::Moving { update_at: now - over + params.update_interval, measure_at };
            self.update(params, now);
        }
        if let Phase::Moving { measure_at: Some(measure_at), .. } = self.phase
            && measure_at <= now
        {
            self.measure(params, now);
        }
    }

    /// A request that began at `began` was answered at `now`. `random` is for when the minimum is looked for next.
    pub(super) fn record(&mut self, params: &Params, began: Instant, now: Instant, random: u64) {
        if self.epoch.is_some_and(|epoch| began < epoch) {
            return;
        }
        self.samples.add(bin(began, now), 1);
        self.count += 1;
        if let Phase::Measuring { limit } = self.phase
            && self.count >= u64::from(params.sample_count)
        {
            self.minimum = self.take_sample(params);
            let measure_at = Some(now + jittered(params, random));
            self.phase = Phase::Moving { update_at: now + params.update_interval, measure_at };
            self.set_limit(params, limit, now);
        }
    }

    /// Takes what requests took while the limit moved, gathered elsewhere.
    pub(super) fn absorb(&mut self, samples: &Bins) {
        for (bin, count) in samples.iter() {
            self.samples.add(bin, count);
            self.count += count;
        }
    }

    /// Looks for the minimum from now on.
    fn measure(&mut self, params: &Params, now: Instant) {
        self.phase = Phase::Measuring { limit: self.limit };
        self.limit = params.while_measuring;
        self.at_least = 0;
        self.forget();
        self.epoch = Some(now);
    }

    /// Moves the limit by what requests took in the interval.
    fn update(&mut self, params: &Params, now: Instant) {
        if self.count == 0 {
            return;
        }
        let sample = self.take_sample(params);
        let at_best = self.minimum.as_secs_f64() * (1.0 + params.buffer);
        let gradient = (at_best / sample.as_secs_f64()).clamp(0.5, 2.0);
        let limit = f64::from(self.limit) * gradient;
        let headroom = limit.sqrt();
        self.shown = Shown { gradient, headroom, sample };
        let limit = whole(limit + headroom).min(params.most).max(params.least);
        self.set_limit(params, limit, now);
    }

    fn set_limit(&mut self, params: &Params, limit: u32, now: Instant) {
        let was_least = self.limit == params.least && limit == params.least;
        self.at_least = if was_least { self.at_least + 1 } else { 0 };
        self.limit = limit;
        if self.at_least >= DOUBT
            && let Phase::Moving { measure_at: Some(measure_at), .. } = &mut self.phase
        {
            *measure_at = now;
        }
    }

    /// What requests took, one for all, which are forgotten.
    fn take_sample(&mut self, params: &Params) -> Duration {
        let sample = self.samples.quantile(params.quantile).unwrap_or_default();
        self.forget();
        // (A request that took less than the clock tells took something.)
        Duration::from_micros(whole(sample).max(1).into())
    }

    fn forget(&mut self) {
        self.samples = Bins::new();
        self.count = 0;
    }
}

/// The bin of what a request took.
pub(super) fn bin(began: Instant, now: Instant) -> u16 {
    bin_index(u64::try_from(now.saturating_duration_since(began).as_micros()).unwrap_or(u64::MAX))
}

/// The interval to the next look for the minimum.
fn jittered(params: &Params, random: u64) -> Duration {
    let millis = u64::try_from(params.minimum_interval.as_millis()).unwrap_or(u64::MAX);
    let range = u64::from(whole((params.minimum_interval.as_secs_f64() * 1_000.0 * params.jitter).ceil()));
    let added = if range == 0 { 0 } else { random % range };
    Duration::from_millis(millis.saturating_add(added))
}

/// A number that is no less than 0, cut to what fits.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "that is what is wanted")]
fn whole(number: f64) -> u32 {
    number as u32
}

#[cfg(test)]
mod tests;
