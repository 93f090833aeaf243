//! The judge of one cluster: who is ejected, for how long, and who is let back in. It knows neither clock nor task; the main
//! thread owns it and says what time it is.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use super::super::{HealthFlag, Host, HostSet};
use super::count::{detected, enforced_by};
use super::{NO_RATE, OutlierSettings, Volume};
use crate::stats::Shared;
use crate::stats::groups::OutlierDetectionStats;

/// Why a host is ejected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "each is the OutlierEjectionType of its name")]
pub enum EjectionKind {
    Consecutive5xx,
    ConsecutiveGatewayFailure,
    SuccessRate,
    ConsecutiveLocalOriginFailure,
    SuccessRateLocalOrigin,
    FailurePercentage,
    FailurePercentageLocalOrigin,
    Degraded,
}

impl EjectionKind {
    /// Those that requests find, in the order in which Envoy tells of them.
    pub(super) const CONSECUTIVE: [Self; 3] =
        [Self::ConsecutiveGatewayFailure, Self::Consecutive5xx, Self::ConsecutiveLocalOriginFailure];

    pub(super) fn bit(self) -> u8 {
        1 << self as u8
    }
}

/// A host was let back in, or ejected, or would have been.
#[derive(Clone, Debug)]
pub struct OutlierChange {
    /// The host.
    pub host: Arc<Host>,
    /// How often it was ejected so far.
    pub ejections: u32,
    /// The time since the opposite happened, if it did.
    pub since: Option<Duration>,
    /// Why it is ejected; `None` if it was let back in.
    pub ejection: Option<Ejection>,
}

/// How a host is ejected.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Ejection {
    /// Why.
    pub kind: EjectionKind,
    /// Whether it really was (`enforcing_*`).
    pub enforced: bool,
    /// Its own success rate, for those that are judged by it.
    pub success_rate: Option<f64>,
    /// Those of all, for those that are compared with them.
    pub rates: OutlierRates,
}

/// Average of the success rates of all hosts in percent, and that below which a host is ejected; `None` without enough hosts.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
#[expect(missing_docs, reason = "each says what it is")]
pub struct OutlierRates {
    pub average: Option<f64>,
    pub threshold: Option<f64>,
}

/// Judges the hosts of one cluster.
#[derive(Debug)]
pub struct Detector {
    hosts: Vec<Tracked>,
    places: HashMap<usize, usize>,
    generation: u64,
    ejected: usize,
    rates: [OutlierRates; 2],
    stats: Shared<OutlierDetectionStats>,
}

/// What is known of one host.
#[derive(Debug)]
struct Tracked {
    host: Arc<Host>,
    ejections: u32,
    /// How many base ejection times the next ejection lasts, less one.
    backoff: u32,
    jitter: Duration,
    ejected_at: Option<Instant>,
    unejected_at: Option<Instant>,
    degradation: Degradation,
}

/// What is known of a host that said that it had rather not be asked. It is not ejected for that: it is asked when too few others are well.
#[derive(Debug, Default)]
struct Degradation {
    /// How many base ejection times the next one lasts, less one.
    backoff: u32,
    jitter: Duration,
    since: Option<Instant>,
    over_since: Option<Instant>,
}

/// Whose outcomes are judged.
#[derive(Clone, Copy)]
enum Origin {
    /// Those of all requests, or of answers alone where local ones are split off.
    All,
    Local,
}

/// A host whose outcomes are enough to be judged by.
struct Judged {
    place: usize,
    rate: f64,
}

impl Tracked {
    fn new(host: Arc<Host>) -> Self {
        host.outlier().clear();
        host.set_flag(HealthFlag::FailedOutlierCheck, false);
        host.set_flag(HealthFlag::DegradedOutlierDetection, false);
        Self {
            host,
            ejections: 0,
            backoff: 0,
            jitter: Duration::ZERO,
            ejected_at: None,
            unejected_at: None,
            degradation: Degradation::default(),
        }
    }

    fn is_degraded(&self) -> bool {
        self.host.has_flag(HealthFlag::DegradedOutlierDetection)
    }

    fn is_ejected(&self) -> bool {
        self.host.has_flag(HealthFlag::FailedOutlierCheck)
    }

    fn ejection_time(&self, settings: &OutlierSettings) -> Duration {
        grown(settings, self.backoff) + self.jitter
    }

    fn volume(&self, origin: Origin) -> &Volume {
        match origin {
            Origin::All => &self.host.outlier().all,
            Origin::Local => &self.host.outlier().local,
        }
    }
}

impl Detector {
    /// For a cluster of whose hosts nothing is known.
    pub fn new(stats: Shared<OutlierDetectionStats>) -> Self {
        Self {
            hosts: Vec::new(),
            places: HashMap::new(),
            generation: 0,
            ejected: 0,
            rates: Default::default(),
            stats,
        }
    }

    /// The rates of the last sweep: of all requests, and of connections alone.
    pub fn rates(&self) -> [OutlierRates; 2] {
        self.rates
    }

    /// Takes the hosts as they are now: what is known of those that stay is kept.
    pub fn set_hosts(&mut self, hosts: &HostSet) {
        if self.generation == hosts.generation() {
            return;
        }
        self.generation = hosts.generation();
        let mut known: HashMap<usize, Tracked> =
            self.hosts.drain(..).map(|tracked| (key(&tracked.host), tracked)).collect();
        for host in hosts.hosts() {
            let tracked = known.remove(&key(host));
            self.hosts.push(tracked.unwrap_or_else(|| Tracked::new(host.clone())));
        }
        self.places = self.hosts.iter().enumerate().map(|(place, one)| (key(&one.host), place)).collect();
        for gone in known.into_values() {
            self.forget(&gone);
        }
    }

    fn forget(&mut self, gone: &Tracked) {
        gone.host.set_flag(HealthFlag::DegradedOutlierDetection, false);
        if gone.is_ejected() {
            gone.host.set_flag(HealthFlag::FailedOutlierCheck, false);
            self.count_ejected(-1);
        }
    }

    /// A host has failed too often in a row.
    pub fn reached(
        &mut self,
        host: &Arc<Host>,
        kind: EjectionKind,
        settings: &OutlierSettings,
        random: &mut fastrand::Rng,
        now: Instant,
    ) -> Option<OutlierChange> {
        host.outlier().heard(kind);
        let place = *self.places.get(&key(host))?;
        if kind == EjectionKind::Degraded {
            return self.degrade(place, settings, random, now);
        }
        if self.hosts.get(place)?.is_ejected() {
            return None;
        }
        let change = self.judge(place, kind, None, settings, random, now);
        if kind == EjectionKind::Consecutive5xx {
            self.stats.ejections_consecutive_5xx.inc();
        }
        host.outlier().reset_consecutive(kind);
        change
    }

    /// An active check says that a host is well. Lets it back in if it was ejected.
    pub fn checked(&mut self, host: &Arc<Host>, now: Instant) -> Option<OutlierChange> {
        let place = *self.places.get(&key(host))?;
        self.hosts.get(place)?.is_ejected().then(|| self.uneject(place, now))?
    }

    /// What is due every interval: lets back in whose time is over, and judges by the rates since the last sweep.
    pub fn sweep(
        &mut self,
        settings: &OutlierSettings,
        random: &mut fastrand::Rng,
        now: Instant,
    ) -> Vec<OutlierChange> {
        let mut changes = Vec::new();
        for place in 0..self.hosts.len() {
            changes.extend(self.recover(place, settings, now));
            changes.extend(self.release(place, settings, now));
        }
        for origin in [Origin::All, Origin::Local] {
            self.judge_rates(origin, settings, random, now, &mut changes);
        }
        let is_long_ago =
            |at: Option<Instant>| at.is_some_and(|at| now.saturating_duration_since(at) >= settings.interval);
        for tracked in &mut self.hosts {
            if !tracked.is_ejected() && is_long_ago(tracked.unejected_at) {
                tracked.backoff = tracked.backoff.saturating_sub(1);
            }
            if !tracked.is_degraded() && is_long_ago(tracked.degradation.over_since) {
                tracked.degradation.backoff = tracked.degradation.backoff.saturating_sub(1);
            }
        }
        changes
    }

    /// A host said that it is degraded. However many are.
    fn degrade(
        &mut self,
        place: usize,
        settings: &OutlierSettings,
        random: &mut fastrand::Rng,
        now: Instant,
    ) -> Option<OutlierChange> {
        let tracked = self.hosts.get_mut(place)?;
        if tracked.is_degraded() {
            return None;
        }
        detected(&self.stats, EjectionKind::Degraded).inc();
        tracked.host.set_flag(HealthFlag::DegradedOutlierDetection, true);
        let backoff = one_longer(settings, tracked.degradation.backoff);
        tracked.degradation =
            Degradation { backoff, jitter: jitter(settings, random), since: Some(now), over_since: None };
        Some(OutlierChange {
            host: tracked.host.clone(),
            ejections: tracked.ejections,
            since: tracked.unejected_at.map(|at| now.saturating_duration_since(at)),
            ejection: Some(Ejection {
                kind: EjectionKind::Degraded,
                enforced: true,
                success_rate: None,
                rates: OutlierRates::default(),
            }),
        })
    }

    /// Degraded no longer, if it was for long enough.
    fn recover(&mut self, place: usize, settings: &OutlierSettings, now: Instant) -> Option<OutlierChange> {
        let tracked = self.hosts.get_mut(place)?;
        let Degradation { backoff, jitter, since, .. } = tracked.degradation;
        let since = since.filter(|_| tracked.is_degraded())?;
        if now.saturating_duration_since(since) < grown(settings, backoff) + jitter {
            return None;
        }
        let host = tracked.host.clone();
        host.set_flag(HealthFlag::DegradedOutlierDetection, false);
        tracked.degradation.over_since = Some(now);
        // (Told as the end of an ejection, as in Envoy.)
        let since = tracked.ejected_at.map(|at| now.saturating_duration_since(at));
        Some(OutlierChange { host, ejections: tracked.ejections, since, ejection: None })
    }

    fn release(&mut self, place: usize, settings: &OutlierSettings, now: Instant) -> Option<OutlierChange> {
        let tracked = self.hosts.get(place)?;
        let ejected_at = tracked.ejected_at.filter(|_| tracked.is_ejected())?;
        let is_over = now.saturating_duration_since(ejected_at) >= tracked.ejection_time(settings);
        is_over.then(|| self.uneject(place, now))?
    }

    fn uneject(&mut self, place: usize, now: Instant) -> Option<OutlierChange> {
        self.count_ejected(-1);
        let tracked = self.hosts.get_mut(place)?;
        let host = tracked.host.clone();
        host.set_flag(HealthFlag::FailedOutlierCheck, false);
        host.outlier().reset_all_consecutive();
        tracked.unejected_at = Some(now);
        let since = tracked.ejected_at.map(|at| now.saturating_duration_since(at));
        Some(OutlierChange { host, ejections: tracked.ejections, since, ejection: None })
    }

    /// Judges by the success rates, and takes them.
    fn judge_rates(
        &mut self,
        origin: Origin,
        settings: &OutlierSettings,
        random: &mut fastrand::Rng,
        now: Instant,
        changes: &mut Vec<OutlierChange>,
    ) {
        let (by_rate, by_percentage) = self.take_rates(origin, settings);
        let (rate_kind, percentage_kind) = match origin {
            Origin::All => (EjectionKind::SuccessRate, EjectionKind::FailurePercentage),
            Origin::Local => {
                (EjectionKind::SuccessRateLocalOrigin, EjectionKind::FailurePercentageLocalOrigin)
            }
        };
        let (average, threshold) = match has_enough(&by_rate, settings.success_rate_minimum_hosts) {
            true => thresholds(&by_rate, settings.success_rate_stdev_factor),
            false => (None, None),
        };
        self.rates[origin as usize] = OutlierRates { average, threshold };
        for Judged { place, rate } in &by_rate {
            if threshold.is_some_and(|threshold| *rate < threshold) {
                self.stats.ejections_success_rate.inc();
                changes.extend(self.judge(*place, rate_kind, Some(*rate), settings, random, now));
            }
        }
        if !has_enough(&by_percentage, settings.failure_percentage_minimum_hosts) {
            return;
        }
        for Judged { place, rate } in by_percentage {
            if 100.0 - rate >= f64::from(settings.failure_percentage_threshold) {
                changes.extend(self.judge(place, percentage_kind, Some(rate), settings, random, now));
            }
        }
    }

    /// Those who had enough requests to be judged by their success rate, and by their failures alone.
    fn take_rates(&self, origin: Origin, settings: &OutlierSettings) -> (Vec<Judged>, Vec<Judged>) {
        let (for_rate, for_percentage) = (
            u64::from(settings.success_rate_request_volume),
            u64::from(settings.failure_percentage_request_volume),
        );
        let needed = settings.success_rate_minimum_hosts.min(settings.failure_percentage_minimum_hosts);
        let is_judged = self.hosts.len() >= needed as usize;
        let (mut by_rate, mut by_percentage) = (Vec::new(), Vec::new());
        for (place, tracked) in self.hosts.iter().enumerate() {
            let (volume, rate) = tracked.volume(origin).take();
            let shown = tracked.host.outlier().rates.get(origin as usize);
            let show = |bits| shown.into_iter().for_each(|rate| rate.store(bits, Relaxed));
            show(NO_RATE);
            if volume == 0 || tracked.is_ejected() || !is_judged {
                continue;
            }
            if volume >= for_rate.min(for_percentage) {
                show(rate.to_bits());
            }
            if volume >= for_rate {
                by_rate.push(Judged { place, rate });
            }
            if volume >= for_percentage {
                by_percentage.push(Judged { place, rate });
            }
        }
        (by_rate, by_percentage)
    }

    /// Ejects a host that is an outlier, if so many may be ejected and chance wants it.
    fn judge(
        &mut self,
        place: usize,
        kind: EjectionKind,
        success_rate: Option<f64>,
        settings: &OutlierSettings,
        random: &mut fastrand::Rng,
        now: Instant,
    ) -> Option<OutlierChange> {
        detected(&self.stats, kind).inc();
        let most = u64::from(settings.max_ejection_percent.min(100)) * self.hosts.len() as u64;
        let is_within = (self.ejected as u64 + 1) * 100 <= most;
        let may_eject = is_within || (settings.always_eject_one_host && self.ejected == 0);
        if !may_eject {
            self.stats.ejections_overflow.inc();
            return None;
        }
        if matches!(kind, EjectionKind::Consecutive5xx | EjectionKind::SuccessRate) {
            self.stats.ejections_total.inc();
        }
        let enforced = random.u32(..100) < settings.enforcing(kind);
        if enforced {
            // Two reasons may speak against a host in one sweep.
            if self.hosts.get(place)?.is_ejected() {
                return None;
            }
            self.count_ejected(1);
            self.stats.ejections_enforced_total.inc();
            enforced_by(&self.stats, kind)?.inc();
            self.hosts.get_mut(place)?.eject(settings, jitter(settings, random), now);
        }
        let rates = match kind {
            EjectionKind::SuccessRate => self.rates[Origin::All as usize],
            EjectionKind::SuccessRateLocalOrigin => self.rates[Origin::Local as usize],
            _ => OutlierRates::default(),
        };
        let tracked = self.hosts.get(place)?;
        Some(OutlierChange {
            host: tracked.host.clone(),
            ejections: tracked.ejections,
            since: tracked.unejected_at.map(|at| now.saturating_duration_since(at)),
            ejection: Some(Ejection { kind, enforced, success_rate, rates }),
        })
    }

    fn count_ejected(&mut self, change: isize) {
        self.ejected = self.ejected.saturating_add_signed(change);
        match change > 0 {
            true => self.stats.ejections_active.inc(),
            false => self.stats.ejections_active.dec(),
        }
    }
}

impl Tracked {
    fn eject(&mut self, settings: &OutlierSettings, jitter: Duration, now: Instant) {
        self.host.set_flag(HealthFlag::FailedOutlierCheck, true);
        self.ejections += 1;
        self.ejected_at = Some(now);
        self.jitter = jitter;
        self.backoff = one_longer(settings, self.backoff);
    }
}

/// How long the so-maniest time lasts.
fn grown(settings: &OutlierSettings, backoff: u32) -> Duration {
    settings.base_ejection_time.saturating_mul(backoff).min(settings.max_ejection_time)
}

/// The next time lasts longer, if that would be within the limit.
fn one_longer(settings: &OutlierSettings, backoff: u32) -> u32 {
    let base = settings.base_ejection_time;
    let is_within = base.saturating_mul(backoff) < settings.max_ejection_time.saturating_add(base);
    backoff + u32::from(is_within)
}

fn jitter(settings: &OutlierSettings, random: &mut fastrand::Rng) -> Duration {
    let most = u64::try_from(settings.max_ejection_time_jitter.as_millis()).unwrap_or(u64::MAX);
    Duration::from_millis(random.u64(..=most))
}

impl Drop for Detector {
    /// Who judged is gone, and so is the judgement.
    fn drop(&mut self) {
        for tracked in &std::mem::take(&mut self.hosts) {
            self.forget(tracked);
        }
    }
}

fn key(host: &Arc<Host>) -> usize {
    Arc::as_ptr(host).addr()
}

fn has_enough(hosts: &[Judged], least: u32) -> bool {
    !hosts.is_empty() && hosts.len() >= least as usize
}

/// The average rate, and the one so many thousandths of a standard deviation below.
fn thresholds(hosts: &[Judged], factor: u32) -> (Option<f64>, Option<f64>) {
    #[expect(clippy::cast_precision_loss, reason = "no cluster has so many hosts")]
    let count = hosts.len() as f64;
    let average = hosts.iter().map(|host| host.rate).sum::<f64>() / count;
    let variance = hosts.iter().map(|host| (host.rate - average).powi(2)).sum::<f64>() / count;
    (Some(average), Some(average - f64::from(factor) / 1000.0 * variance.sqrt()))
}
