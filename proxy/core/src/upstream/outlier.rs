//! Outlier detection: hosts that answer badly are not asked for a while.
//!
//! Requests note their outcome in the counts of their host ([`OutlierCounts`]), with atomics only. Whoever brings a count to
//! its limit tells the main thread; there a [`Detector`] for each cluster judges, ejects, and lets back in.
//! Source: Envoy `docs/root/intro/arch_overview/upstream/outlier.rst`, `envoy/config/cluster/v3/outlier_detection.proto`.

mod count;
mod detector;
mod settings;

#[cfg(test)]
mod tests;

use std::sync::atomic::{AtomicU8, AtomicU32, AtomicU64, Ordering::Relaxed};

pub use self::detector::{Detector, Ejection, EjectionKind, OutlierChange, OutlierRates};
pub use self::settings::OutlierSettings;

/// The limits that requests count up to.
pub trait OutlierLimits {
    /// Whether what is found out on this side is told from what hosts answer (`split_external_local_origin_errors`).
    fn splits_local_origin(&self) -> bool;

    /// How many failures in a row are too many; 0 is never reached. Asked after failures only.
    fn consecutive(&self, kind: EjectionKind) -> u32;
}

/// How something that was asked of a host ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HostResult {
    /// With an answer, be it a bad one: its HTTP status, or the one that stands for its gRPC status.
    Answered(u16),
    /// There was no connection, or it broke.
    ConnectFailed,
    /// Nothing came in time.
    TimedOut,
    /// There is a connection, and an answer is still to come over it.
    Connected,
    /// There is a connection, and nobody looks at what comes over it.
    ConnectedFinally,
}

/// Limits of consecutive failures that were reached: a set of [`EjectionKind`]s.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Reached(u8);

impl Reached {
    /// Whether none was.
    pub fn is_none(self) -> bool {
        self.0 == 0
    }

    /// Which were.
    pub fn kinds(self) -> impl Iterator<Item = EjectionKind> {
        EjectionKind::CONSECUTIVE.into_iter().filter(move |kind| self.0 & kind.bit() != 0)
    }

    fn add(&mut self, kind: EjectionKind) {
        self.0 |= kind.bit();
    }
}

/// What outlier detection counts of one host, and what it found.
#[derive(Debug)]
pub struct OutlierCounts {
    consecutive_5xx: AtomicU32,
    consecutive_gateway: AtomicU32,
    consecutive_local: AtomicU32,
    /// What the main thread was told of and has not looked at, one bit for each kind.
    told: AtomicU8,
    all: Volume,
    local: Volume,
    rates: [AtomicU64; 2],
}

/// No success rate: none of a host is negative.
const NO_RATE: u64 = (-1.0_f64).to_bits();

impl Default for OutlierCounts {
    fn default() -> Self {
        Self {
            consecutive_5xx: AtomicU32::new(0),
            consecutive_gateway: AtomicU32::new(0),
            consecutive_local: AtomicU32::new(0),
            told: AtomicU8::new(0),
            all: Volume::default(),
            local: Volume::default(),
            rates: [AtomicU64::new(NO_RATE), AtomicU64::new(NO_RATE)],
        }
    }
}

/// Outcomes since the last sweep: how many in the upper half, how many of them good in the lower, so that one addition
/// notes both.
#[derive(Debug, Default)]
struct Volume(AtomicU64);

impl Volume {
    fn good(&self) {
        self.0.fetch_add((1 << 32) | 1, Relaxed);
    }

    fn bad(&self) {
        self.0.fetch_add(1 << 32, Relaxed);
    }

    /// Takes what was noted: how many, and the share of good ones in percent.
    fn take(&self) -> (u64, f64) {
        let both = self.0.swap(0, Relaxed);
        let (total, good) = (both >> 32, both & u64::from(u32::MAX));
        #[expect(clippy::cast_precision_loss, reason = "both have 32 bits")]
        (total, good as f64 * 100.0 / total as f64)
    }
}

/// Starts a count anew; most of the time it is at its start.
fn reset(count: &AtomicU32) {
    if count.load(Relaxed) != 0 {
        count.store(0, Relaxed);
    }
}

fn one_more(count: &AtomicU32) -> u32 {
    count.fetch_add(1, Relaxed).wrapping_add(1)
}

impl OutlierCounts {
    /// Notes how a request, or a connection, ended. What this returns is to be told to the main thread, once.
    ///
    /// Called by every request: no lock, no allocation.
    #[inline]
    pub fn note(&self, result: HostResult, limits: &impl OutlierLimits) -> Reached {
        let mut reached = Reached::default();
        match (limits.splits_local_origin(), result) {
            (_, HostResult::Answered(status)) if !(500..600).contains(&status) => {
                self.good();
                if limits.splits_local_origin() {
                    self.local_good();
                }
            }
            (false, HostResult::ConnectedFinally) => self.good(),
            (false, HostResult::Connected) => {}
            (true, HostResult::Connected | HostResult::ConnectedFinally) => self.local_good(),
            (_, HostResult::Answered(status)) => self.bad(status, limits, &mut reached),
            (false, HostResult::ConnectFailed) => self.bad(503, limits, &mut reached),
            (false, HostResult::TimedOut) => self.bad(504, limits, &mut reached),
            (true, HostResult::ConnectFailed | HostResult::TimedOut) => self.local_bad(limits, &mut reached),
        }
        match reached.is_none() {
            true => reached,
            // One who waits to be looked at is not told of again.
            false => Reached(reached.0 & !self.told.fetch_or(reached.0, Relaxed)),
        }
    }

    /// Notes that the host said that it had rather not be asked; whether that is to be told to the main thread.
    pub fn note_degraded(&self) -> bool {
        let bit = EjectionKind::Degraded.bit();
        self.told.fetch_or(bit, Relaxed) & bit == 0
    }

    fn good(&self) {
        self.all.good();
        reset(&self.consecutive_5xx);
        reset(&self.consecutive_gateway);
    }

    #[cold]
    fn bad(&self, status: u16, limits: &impl OutlierLimits, reached: &mut Reached) {
        self.all.bad();
        if matches!(status, 502..=504) {
            if one_more(&self.consecutive_gateway)
                == limits.consecutive(EjectionKind::ConsecutiveGatewayFailure)
            {
                reached.add(EjectionKind::ConsecutiveGatewayFailure);
            }
        } else {
            reset(&self.consecutive_gateway);
        }
        if one_more(&self.consecutive_5xx) == limits.consecutive(EjectionKind::Consecutive5xx) {
            reached.add(EjectionKind::Consecutive5xx);
        }
    }

    fn local_good(&self) {
        self.local.good();
        reset(&self.consecutive_local);
    }

    #[cold]
    fn local_bad(&self, limits: &impl OutlierLimits, reached: &mut Reached) {
        self.local.bad();
        let kind = EjectionKind::ConsecutiveLocalOriginFailure;
        if one_more(&self.consecutive_local) == limits.consecutive(kind) {
            reached.add(kind);
        }
    }

    /// The main thread looks at what it was told of.
    fn heard(&self, kind: EjectionKind) {
        self.told.fetch_and(!kind.bit(), Relaxed);
    }

    fn reset_consecutive(&self, kind: EjectionKind) {
        match kind {
            EjectionKind::Consecutive5xx => reset(&self.consecutive_5xx),
            EjectionKind::ConsecutiveGatewayFailure => reset(&self.consecutive_gateway),
            EjectionKind::ConsecutiveLocalOriginFailure => reset(&self.consecutive_local),
            EjectionKind::SuccessRate
            | EjectionKind::SuccessRateLocalOrigin
            | EjectionKind::FailurePercentage
            | EjectionKind::FailurePercentageLocalOrigin
            | EjectionKind::Degraded => {}
        }
    }

    fn reset_all_consecutive(&self) {
        EjectionKind::CONSECUTIVE.into_iter().for_each(|kind| self.reset_consecutive(kind));
    }

    /// Forgets everything.
    pub fn clear(&self) {
        self.reset_all_consecutive();
        self.told.store(0, Relaxed);
        self.all.take();
        self.local.take();
        self.rates.iter().for_each(|rate| rate.store(NO_RATE, Relaxed));
    }

    /// The share of good outcomes in percent when that was looked at last, if there were enough: of all requests, and of
    /// connections alone.
    pub fn success_rates(&self) -> [Option<f64>; 2] {
        let rate = |bits: &AtomicU64| Some(f64::from_bits(bits.load(Relaxed))).filter(|rate| *rate >= 0.0);
        [rate(&self.rates[0]), rate(&self.rates[1])]
    }
}
