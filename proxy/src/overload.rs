//! The overload manager: looks at resources once an interval, and says how much is to be done against their being used up.
//!
//! What can be done is in the engine (`local/overload.rs`), which is told shares. What is looked at is in `monitors`.
//! Source: Envoy `docs/root/configuration/operations/overload_manager/overload_manager.rst`; observed on 1.40.

mod config;
mod cpu;
mod monitors;

use std::sync::Arc;
use std::time::{Duration, Instant};

use proxy_core::stats::groups::{
    HighMemoryStreamStats, LoadShedPointStats, MeasuredResourceStats, OverloadActionStats, OverloadStats,
    ResourceMonitorStats, ShrinkHeapStats,
};
use proxy_core::stats::{Registry, Shared};
use proxy_engine::listener::accept::GlobalConnections;
use proxy_engine::local::overload::{Action, HeavyStreams, Overload, Point};

pub use self::config::OverloadConfig;
use self::monitors::Monitor;

/// When a trigger fires, and how much.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Trigger {
    /// At this pressure and above, all.
    Threshold(f64),
    /// From nothing at the first to all at the second.
    Scaled(f64, f64),
}

impl Trigger {
    /// How much at this pressure: 0 to 1.
    fn share(self, pressure: f64) -> f64 {
        match self {
            Self::Threshold(threshold) => f64::from(u8::from(pressure >= threshold)),
            Self::Scaled(from, to) => ((pressure - from) / (to - from)).clamp(0.0, 1.0),
        }
    }
}

/// The triggers of something that is done, each with the index of its monitor.
pub(crate) type Triggers = Vec<(usize, Trigger)>;

/// The share that the triggers ask for together: that of the one that asks for most.
fn share(triggers: &Triggers, pressures: &[Option<f64>]) -> f64 {
    let shares = triggers.iter().filter_map(|(monitor, trigger)| {
        pressures.get(*monitor).copied().flatten().map(|pressure| trigger.share(pressure))
    });
    shares.fold(0.0, f64::max)
}

/// A resource, and what is counted of it.
struct Watched {
    monitor: Monitor,
    stats: Shared<ResourceMonitorStats>,
    _measured: Option<Shared<MeasuredResourceStats>>,
}

/// When memory is given back.
struct Shrinking {
    interval: Duration,
    next: Instant,
    stats: Shared<ShrinkHeapStats>,
}

/// The manager of a process that has one.
pub struct Manager {
    interval: Duration,
    watched: Vec<Watched>,
    actions: Vec<(Action, Triggers, Shared<OverloadActionStats>)>,
    points: Vec<(Point, Triggers, Shared<LoadShedPointStats>)>,
    shrinking: Option<Shrinking>,
    connections: Arc<GlobalConnections>,
    overload: Arc<Overload>,
    stats: Shared<OverloadStats>,
    /// The last pressure of each monitor.
    pressures: Vec<Option<f64>>,
}

impl Manager {
    /// By its configuration; `None` if nothing is to be looked at.
    pub fn new(
        config: OverloadConfig,
        connections: &Arc<GlobalConnections>,
        stats: &Arc<Registry>,
    ) -> Option<Self> {
        let OverloadConfig {
            most_connections: _,
            interval,
            monitors,
            actions,
            points,
            shrink_interval,
            leasts,
            power,
        } = config;
        let is_measured = monitors.iter().any(|(_, monitor)| monitor.is_measured());
        if !is_measured && actions.is_empty() {
            return None;
        }
        let scope = |name: &str| stats.scope(&format!("overload.{name}"));
        let watched = |(name, monitor): (String, Monitor)| Watched {
            stats: scope(&name).shared(),
            _measured: monitor.is_measured().then(|| scope(&name).shared()),
            monitor,
        };
        let points: Vec<_> = points
            .into_iter()
            .map(|(point, triggers)| (point, triggers, scope(point.name()).shared::<LoadShedPointStats>()))
            .collect();
        let shed =
            |point| points.iter().find(|(one, ..)| *one == point).map(|(_, _, stats)| Shared::clone(stats));
        let has = |wanted| actions.iter().any(|(action, _)| *action == wanted);
        let heavy = power.filter(|_| has(Action::ResetStreams)).map(|power| {
            let stats: Shared<HighMemoryStreamStats> = stats.scope(Action::ResetStreams.name()).shared();
            HeavyStreams { power, stats }
        });
        let overload = Arc::new(Overload::new(shed, leasts, heavy));
        let shrinks = has(Action::ShrinkHeap);
        let shrinking = shrinks.then(|| Shrinking {
            interval: shrink_interval,
            next: Instant::now() + shrink_interval,
            stats: scope(Action::ShrinkHeap.name()).shared(),
        });
        let counted =
            |(action, triggers): (Action, Triggers)| (action, triggers, scope(action.name()).shared());
        Some(Self {
            interval,
            pressures: vec![None; monitors.len()],
            watched: monitors.into_iter().map(watched).collect(),
            actions: actions.into_iter().map(counted).collect(),
            points,
            shrinking,
            connections: connections.clone(),
            overload,
            stats: stats.scope("overload").shared(),
        })
    }

    /// What the workers are told.
    pub fn overload(&self) -> Arc<Overload> {
        self.overload.clone()
    }

    /// Looks at the resources for as long as the process runs; `give_back` has the allocator give back what this thread freed.
    pub async fn run(mut self, give_back: fn()) {
        let mut before = Instant::now();
        loop {
            tokio::time::sleep(self.interval).await;
            let now = Instant::now();
            let delay = now.duration_since(before).as_millis();
            self.stats.refresh_interval_delay.record(u64::try_from(delay).unwrap_or(u64::MAX));
            before = now;
            if self.look(now) {
                give_back();
            }
        }
    }

    /// Looks once; whether memory is to be given back.
    fn look(&mut self, now: Instant) -> bool {
        for (Watched { monitor, stats, .. }, pressure) in self.watched.iter_mut().zip(&mut self.pressures) {
            match monitor.pressure(&self.connections, now) {
                Ok(measured) => {
                    *pressure = Some(measured);
                    stats.pressure.set(percent(measured));
                }
                Err(error) => {
                    tracing::info!("a resource cannot be looked at: {error}");
                    stats.failed_updates.inc();
                }
            }
        }
        for (point, triggers, stats) in &self.points {
            let share = share(triggers, &self.pressures);
            stats.scale_percent.set(percent_of_share(share));
            self.overload.set_point(*point, share);
        }
        let mut shrinks = false;
        for (action, triggers, stats) in &self.actions {
            let share = share(triggers, &self.pressures);
            let is_full = share >= 1.0;
            if stats.active.value() != u64::from(is_full) {
                let state = if is_full { "saturated" } else { "scaling" };
                tracing::info!("overload action {} became {state}", action.name());
            }
            stats.active.set(is_full.into());
            stats.scale_percent.set(percent_of_share(share));
            self.overload.set(*action, share);
            shrinks |= *action == Action::ShrinkHeap && is_full;
        }
        self.shrinks(shrinks, now)
    }

    /// Whether memory is to be given back now, if that is wanted.
    fn shrinks(&mut self, is_wanted: bool, now: Instant) -> bool {
        let Some(shrinking) = &mut self.shrinking else { return false };
        if now < shrinking.next {
            return false;
        }
        shrinking.next = now + shrinking.interval;
        if is_wanted {
            shrinking.stats.shrink_count.inc();
            self.overload.shrink();
        }
        is_wanted
    }
}

/// A pressure as a whole number of percent.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a gauge is a whole number")]
fn percent(pressure: f64) -> u64 {
    (pressure * 100.0) as u64
}

/// A share as a whole number of percent, as exact as Envoy keeps it.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a gauge is a whole number")]
fn percent_of_share(share: f64) -> u64 {
    (share as f32 * 100.0) as u64
}

#[cfg(test)]
mod tests;
