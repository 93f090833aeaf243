//! Routing by zone: as much as is fair goes to hosts in the zone of this proxy.
//!
//! What is fair is worked out from the shares of zones among healthy hosts: of the cluster, and of the cluster that this proxy is a
//! host of. It is worked out anew by the first pick after either changed. Source: Envoy
//! `docs/root/intro/arch_overview/upstream/load_balancing/zone_aware.rst`, `ZoneAwareLoadBalancerBase`.

use std::sync::Arc;

use crate::runtime::{Runtime, RuntimeFraction};
use crate::stats::Cells;
use crate::stats::groups::ClusterTrafficStats;
use crate::upstream::{HostList, HostSet, LocalCluster, LocalityHosts};

/// Settings of routing by zone.
#[derive(Clone, Debug)]
pub struct ZoneRouting {
    /// The cluster that this proxy is a host of.
    pub local: Arc<LocalCluster>,
    /// The part of the requests that is routed so (`upstream.zone_routing.enabled`).
    pub enabled: RuntimeFraction,
    /// With fewer healthy hosts nothing is routed so (`upstream.zone_routing.min_cluster_size`).
    pub min_cluster_size: u64,
    /// Everything goes to the own zone while it has so many healthy hosts.
    pub force_local_zone: Option<u32>,
    /// Shares are of weights, not of hosts.
    pub by_weight: bool,
    /// Percent of healthy hosts of the local cluster below which nothing is routed so.
    pub panic_threshold: u32,
    /// What may override the numbers.
    pub runtime: Arc<Runtime>,
}

/// Where a request goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Route {
    /// Wherever there are hosts.
    Anywhere,
    /// To the locality at this place.
    To(usize),
    /// Nowhere: the local cluster is in panic, and the cluster wants requests to fail then.
    Nowhere,
}

/// Routes by zone for one balancer.
#[derive(Debug)]
pub(super) struct ZoneRouter {
    settings: Arc<ZoneRouting>,
    stats: Cells<ClusterTrafficStats>,
    /// Of the cluster's hosts and of the local ones, which the rest is about; 0 before the first.
    generations: (u64, u64),
    local_is_in_panic: bool,
    plan: Plan,
}

/// How requests are shared among the localities of the first priority.
#[derive(Debug, PartialEq, Eq)]
enum Plan {
    /// As if there were none.
    Anywhere,
    /// All of them go to the own one, at this place.
    Direct(usize),
    /// Some go to the own one, and the rest where there is room.
    Residual {
        /// The own one and how many of ten thousand go there.
        own: Option<(usize, u64)>,
        /// The sum of the room of each and of those before it.
        room: Box<[u64]>,
    },
}

/// Shares are in parts of this.
const WHOLE: u64 = 10_000;

impl ZoneRouter {
    pub(super) fn new(settings: Arc<ZoneRouting>, stats: Cells<ClusterTrafficStats>) -> Self {
        Self { settings, stats, generations: (0, 0), local_is_in_panic: false, plan: Plan::Anywhere }
    }

    /// Where the next request goes that is for the first priority of `hosts`.
    pub(super) fn route(
        &mut self,
        hosts: &HostSet,
        fail_on_panic: bool,
        random: &mut fastrand::Rng,
    ) -> Route {
        let local = self.settings.local.hosts();
        let generations = (hosts.generation(), local.generation());
        if self.generations != generations {
            self.generations = generations;
            self.recalculate(hosts, &local);
        }
        let settings = &self.settings;
        if self.plan == Plan::Anywhere || !settings.enabled.holds(&settings.runtime, random.u64(..)) {
            return Route::Anywhere;
        }
        if self.local_is_in_panic {
            self.stats.here().lb_local_cluster_not_ok.inc();
            return if fail_on_panic { Route::Nowhere } else { Route::Anywhere };
        }
        self.choose(random)
    }

    fn choose(&self, random: &mut fastrand::Rng) -> Route {
        let stats = self.stats.here();
        match &self.plan {
            Plan::Anywhere => Route::Anywhere,
            Plan::Direct(own) => {
                stats.lb_zone_routing_all_directly.inc();
                Route::To(*own)
            }
            Plan::Residual { own, room } => {
                if let Some((own, share)) = own
                    && random.u64(..WHOLE) < *share
                {
                    stats.lb_zone_routing_sampled.inc();
                    return Route::To(*own);
                }
                stats.lb_zone_routing_cross_zone.inc();
                match room.last() {
                    Some(0) | None => {
                        // Shares are rounded down.
                        stats.lb_zone_no_capacity_left.inc();
                        Route::To(random.usize(..room.len().max(1)))
                    }
                    Some(all) => {
                        let point = random.u64(..*all);
                        Route::To(room.partition_point(|sum| *sum <= point))
                    }
                }
            }
        }
    }

    #[cold]
    fn recalculate(&mut self, hosts: &HostSet, local: &HostSet) {
        self.stats.here().lb_recalculate_zone_structures.inc();
        self.local_is_in_panic = self.settings.is_in_panic(local);
        self.plan = self.plan(hosts, local);
    }

    fn plan(&self, hosts: &HostSet, local: &HostSet) -> Plan {
        let settings = &*self.settings;
        let (Some(first), Some(local)) = (hosts.priorities().first(), local.priorities().first()) else {
            return Plan::Anywhere;
        };
        let force = settings.force_local_zone;
        if first.localities.len() < 2 || (local.localities.len() < 2 && force.is_none()) {
            return Plan::Anywhere;
        }
        let is_own = |one: &LocalityHosts| *one.locality == settings.local.locality;
        if !local.localities.iter().any(|one| is_own(one) && !one.hosts.all.is_empty()) {
            self.stats.here().lb_local_cluster_not_ok.inc();
            return Plan::Anywhere;
        }
        let min_size = settings.runtime.number("upstream.zone_routing.min_cluster_size");
        if (first.hosts.healthy.len() as u64) < min_size.unwrap_or(settings.min_cluster_size) {
            self.stats.here().lb_zone_cluster_too_small.inc();
            return Plan::Anywhere;
        }
        let here = settings.shares(&first.localities);
        let of_local = settings.shares(&local.localities);
        // (A share of a zone without hosts of the cluster does not matter.)
        let local_share = |one: &LocalityHosts| {
            let same = local.localities.iter().position(|other| other.locality == one.locality);
            if one.hosts.healthy.is_empty() { 0 } else { same.map_or(0, |index| of_local[index]) }
        };
        let own = first.localities.iter().position(is_own);
        if let Some(own) = own {
            let zone = &first.localities[own];
            let is_enough = here[own] > 0 && here[own] >= local_share(zone);
            if is_enough || force.is_some_and(|least| zone.hosts.healthy.len() >= least as usize) {
                return Plan::Direct(own);
            }
        }
        let mut sum = 0;
        let room = first.localities.iter().zip(&here).enumerate().map(|(index, (zone, share))| {
            if Some(index) != own {
                sum += share.saturating_sub(local_share(zone));
            }
            sum
        });
        let room = room.collect();
        let share =
            |own: usize| (here[own] * WHOLE).checked_div(local_share(&first.localities[own])).unwrap_or(0);
        Plan::Residual { own: own.map(|own| (own, share(own))), room }
    }
}

impl ZoneRouting {
    /// The share of each locality among the healthy hosts.
    fn shares(&self, localities: &[LocalityHosts]) -> Vec<u64> {
        let size = |hosts: &HostList| match self.by_weight {
            true => hosts.total_weight(),
            false => hosts.len() as u64,
        };
        let total: u64 = localities.iter().map(|one| size(&one.hosts.healthy)).sum();
        let share = |one: &LocalityHosts| (WHOLE * size(&one.hosts.healthy)).checked_div(total).unwrap_or(0);
        localities.iter().map(share).collect()
    }

    fn is_in_panic(&self, hosts: &HostSet) -> bool {
        let of_runtime = self.runtime.number("upstream.healthy_panic_threshold");
        let threshold = of_runtime.unwrap_or(self.panic_threshold.into()).min(100);
        let Some(first) = hosts.priorities().first() else { return true };
        let counted = (first.hosts.all.len() - first.hosts.excluded) as u64;
        let available = (first.hosts.healthy.len() + first.hosts.degraded.len()) as u64;
        if counted == 0 { threshold > 0 } else { available * 100 < threshold * counted }
    }
}

#[cfg(test)]
mod tests;
