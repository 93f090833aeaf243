//! The flush of statistics: what the process knows of itself is brought up to date, the interval of histograms ends, and sinks are told.
//!
//! It happens every `stats_flush_interval`, or with `stats_flush_on_admin` whenever the admin interface shows statistics.
//! What counters counted at the last flush is remembered only where there are sinks.
//! Source: Envoy `docs/root/operations/stats_overview.rst`, `bootstrap.proto`.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::{Rc, Weak};
use std::time::{Duration, SystemTime};

use proxy_core::extension::stats_sink::StatsSink;
use proxy_core::stats::groups::{ServerStats, ThreadLocalClusterManagerStats};
use proxy_core::stats::{Metric, Registry, Shared, Value};
use xds_api::envoy::config::bootstrap::v3::Bootstrap;
use xds_api::envoy::config::bootstrap::v3::bootstrap::StatsFlush;

use crate::admin::AdminState;
use crate::process::{Admin, Process, count_runtime};

/// How often statistics are flushed where nothing is said.
const INTERVAL: Duration = Duration::from_secs(5);

/// When statistics are flushed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum When {
    /// At intervals (`stats_flush_interval`).
    Every(Duration),
    /// Whenever they are shown (`stats_flush_on_admin`).
    Shown,
}

impl When {
    pub(crate) fn of(bootstrap: &Bootstrap) -> Self {
        match bootstrap.stats_flush {
            Some(StatsFlush::StatsFlushOnAdmin(true)) => Self::Shown,
            _ => Self::Every(
                bootstrap
                    .stats_flush_interval
                    .as_ref()
                    .and_then(proxy_core::config::duration)
                    .filter(|interval| !interval.is_zero())
                    .unwrap_or(INTERVAL),
            ),
        }
    }
}

/// Sinks, and what they were told.
#[derive(Default)]
pub(crate) struct Sinks {
    sinks: Vec<Box<dyn StatsSink>>,
    counted: Counted,
}

impl Sinks {
    pub(crate) fn new(sinks: Vec<Box<dyn StatsSink>>) -> Self {
        Self { sinks, counted: Counted::default() }
    }

    fn flush(&mut self, process: &Process) {
        if self.sinks.is_empty() {
            return;
        }
        let Self { sinks, counted } = self;
        let registry: &Registry = &process.env.stats;
        counted.begin();
        registry.visit(&mut |metric| {
            if metric.used {
                let fresh = counted.fresh(&metric);
                for sink in sinks.iter_mut() {
                    sink.take(&metric, fresh, registry.settings());
                }
            }
        });
        counted.end();
        let now = SystemTime::now();
        for sink in sinks {
            sink.send(now, &process.env);
        }
    }
}

/// What counters had counted at the last flush.
#[derive(Default)]
struct Counted {
    /// By name: the count, and at which flush.
    counts: HashMap<Box<str>, (u64, u64)>,
    flush: u64,
}

impl Counted {
    fn begin(&mut self) {
        self.flush += 1;
    }

    /// What a counter counted since the last flush; 0 for what is no counter.
    fn fresh(&mut self, metric: &Metric<'_>) -> u64 {
        let Value::Counter(count) = metric.value else { return 0 };
        let Some(known) = self.counts.get_mut(&*metric.identity()) else {
            self.counts.insert(metric.identity().into(), (count, self.flush));
            return count;
        };
        // (It is smaller if it was reset or is another one of that name.)
        let fresh = count.checked_sub(known.0).unwrap_or(count);
        *known = (count, self.flush);
        fresh
    }

    /// Forgets counters that are gone.
    fn end(&mut self) {
        let flush = self.flush;
        self.counts.retain(|_, (_, seen)| *seen == flush);
    }
}

/// Flushes statistics.
pub(crate) struct Flushing {
    process: Weak<Process>,
    server: Shared<ServerStats>,
    held: Shared<ThreadLocalClusterManagerStats>,
    sinks: RefCell<Sinks>,
}

impl Flushing {
    /// Writes what never changes. `version` is what `server.version` shows (`stats_server_version_override`).
    pub(crate) fn new(process: &Rc<Process>, sinks: Sinks, version: Option<u64>) -> Self {
        let server = process.env.stats.scope("server").shared::<ServerStats>();
        count_runtime(&process.env);
        let held = process.env.stats.scope("thread_local_cluster_manager.main_thread").shared();
        server.concurrency.set(process.options.workers() as u64);
        server.live.set(1);
        server.hot_restart_epoch.set(process.options.restart_epoch.into());
        // What never changes here is written once, so that it counts as used like Envoy's.
        server.fips_mode.set(0);
        server.parent_connections.set(0);
        server.stats_recent_lookups.set(0);
        server.version.set(version.unwrap_or_default());
        server.static_unknown_fields.add(0);
        server.dynamic_unknown_fields.add(0);
        server.wip_protos.add(0);
        let started = u64::try_from(process.started.elapsed().as_millis()).unwrap_or(u64::MAX);
        server.initialization_time_ms.record(started);
        let flushing = Self { process: Rc::downgrade(process), server, held, sinks: RefCell::new(sinks) };
        flushing.update(process);
        flushing
    }

    /// Flushes every `interval`, for as long as the process runs.
    pub(crate) async fn run(self: Rc<Self>, interval: Duration) {
        loop {
            tokio::time::sleep(interval).await;
            self.flush();
        }
    }

    /// Flushes now.
    pub(crate) fn flush(&self) {
        let Some(process) = self.process.upgrade() else { return };
        self.update(&process);
        process.env.stats.flush();
        self.sinks.borrow_mut().flush(&process);
    }

    /// Keeps `server.*` true.
    fn update(&self, process: &Rc<Process>) {
        let (server, admin) = (&self.server, Admin(process.clone()));
        server.state.set(admin.state().gauge());
        server.days_until_first_cert_expiring.set(admin.days_until_a_certificate_ends().into());
        server.seconds_until_first_ocsp_response_expiring.set(admin.seconds_until_an_ocsp_response_ends());
        server.uptime.set(process.started.elapsed().as_secs());
        let memory = admin.memory();
        server.memory_allocated.set(memory.allocated);
        server.memory_heap_size.set(memory.heap_size);
        server.memory_physical_size.set(memory.total_physical_bytes);
        server.total_connections.set(process.connections.count() as u64);
        self.held.clusters_inflated.set(process.configuration.store().active_clusters().count() as u64);
    }
}

#[cfg(test)]
mod tests {
    use proxy_core::stats::Labelled;

    use super::*;

    #[test]
    fn counters_are_told_by_what_is_new() {
        let registry = Registry::new(1);
        let scope = registry.scope("a");
        let counter = scope.counter("b");
        let mut counted = Counted::default();
        let mut flush = |registry: &Registry| {
            let mut told = Vec::new();
            counted.begin();
            registry.visit(&mut |metric| told.push((metric.name.to_owned(), counted.fresh(&metric))));
            counted.end();
            (told.pop(), counted.counts.len())
        };
        counter.add(3);
        assert_eq!(flush(&registry), (Some(("a.b".to_owned(), 3)), 1));
        assert_eq!(flush(&registry).0.unwrap().1, 0);
        counter.add(4);
        assert_eq!(flush(&registry).0.unwrap().1, 4);
        registry.reset_counters();
        counter.add(2);
        assert_eq!(flush(&registry).0.unwrap().1, 2);
        drop((counter, scope));
        assert_eq!(flush(&registry), (None, 0));
    }

    #[test]
    fn counters_of_one_name_are_told_apart_by_their_labels() {
        let of = |host: &str| Labelled::like_extracted("a", [("host".into(), host.into())].into());
        let mut counted = Counted::default();
        let mut flush = || {
            counted.begin();
            let told = [("one", 1000), ("other", 5)].map(|(host, count)| {
                let labelled = Some(&of(host));
                let value = Value::Counter(count);
                counted.fresh(&Metric { name: "a", labelled, value, used: true, hidden: false })
            });
            counted.end();
            told
        };
        assert_eq!((flush(), flush()), ([1000, 5], [0, 0]));
    }
}
