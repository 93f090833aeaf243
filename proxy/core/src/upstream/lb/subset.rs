//! Subsets: the hosts that are labelled as the request wants them, and among them the policy of the cluster.
//!
//! Source: Envoy `docs/root/intro/arch_overview/upstream/load_balancing/subsets.rst`, `subset_lb.cc`.

use std::sync::Arc;

use smallvec::SmallVec;

use super::{LoadBalancer, PickCx, Scheme};
use crate::stats::Cells;
use crate::stats::groups::ClusterTrafficStats;
use crate::upstream::labels::{Label, Labels, encode};
use crate::upstream::subsets::{
    SelectorFallback, Subset, SubsetFallback, SubsetHosts, SubsetSettings, Subsets,
};
use crate::upstream::{Host, HostSet};

/// Balances within subsets.
pub struct SubsetBalancer {
    settings: Arc<SubsetSettings>,
    inner: Box<Scheme>,
    stats: Cells<ClusterTrafficStats>,
    /// One for each subset that was picked from, by slot.
    balancers: Vec<Option<Box<dyn LoadBalancer>>>,
}

/// What a lookup found.
enum Found {
    /// This is the answer.
    Picked(Option<Arc<Host>>),
    /// There is no such subset.
    NoSubset,
}

impl SubsetBalancer {
    /// A balancer that picks by `inner` within a subset.
    pub fn new(settings: Arc<SubsetSettings>, inner: Box<Scheme>, stats: Cells<ClusterTrafficStats>) -> Self {
        Self { settings, inner, stats, balancers: Vec::new() }
    }

    fn pick_labelled(
        &mut self,
        subsets: &Subsets,
        labels: &Labels,
        cx: &mut PickCx<'_>,
    ) -> Option<Arc<Host>> {
        if !self.settings.allow_redundant_keys
            && let Found::Picked(picked) = self.pick_coded(subsets, labels.code(), cx)
        {
            return picked;
        }
        self.pick_among(subsets, &labels.iter().collect::<SmallVec<[&Label; 8]>>(), cx)
    }

    /// Picks by some labels. Those that are fallen back to are ever fewer.
    #[cold]
    fn pick_among(&mut self, subsets: &Subsets, labels: &[&Label], cx: &mut PickCx<'_>) -> Option<Arc<Host>> {
        let settings = self.settings.clone();
        let mut labels: SmallVec<[&Label; 8]> = labels.into();
        if settings.allow_redundant_keys {
            let has = |key: &str| labels.iter().any(|label| *label.key == *key);
            let covered = settings
                .selectors
                .iter()
                .find(|one| !one.keys.is_empty() && one.keys.iter().all(|key| has(key)));
            if let Some(selector) = covered {
                labels.retain(|label| selector.keys.contains(&label.key));
            }
        }
        let mut code: SmallVec<[u8; 256]> = SmallVec::new();
        labels.iter().for_each(|label| encode(&label.key, &label.value, &mut code));
        if let Found::Picked(picked) = self.pick_coded(subsets, &code, cx) {
            return picked;
        }
        match settings.fallback_of(labels.iter().map(|label| &*label.key)) {
            SelectorFallback::OfCluster => self.pick_fallback(subsets, cx),
            SelectorFallback::To(to) => self.pick_from(subsets.fallback(*to)?, cx),
            SelectorFallback::Keys(keys) => {
                labels.retain(|label| keys.contains(&label.key));
                self.pick_among(subsets, &labels, cx)
            }
        }
    }

    fn pick_coded(&mut self, subsets: &Subsets, code: &[u8], cx: &mut PickCx<'_>) -> Found {
        match subsets.find(code) {
            Some(subset) => {
                self.stats.here().lb_subsets_selected.inc();
                Found::Picked(self.pick_from(subset, cx))
            }
            None => Found::NoSubset,
        }
    }

    fn pick_fallback(&mut self, subsets: &Subsets, cx: &mut PickCx<'_>) -> Option<Arc<Host>> {
        let fallback = subsets.fallback(self.settings.fallback)?;
        if let Some(host) = self.pick_from(fallback, cx) {
            self.stats.here().lb_subsets_fallback.inc();
            return Some(host);
        }
        if !self.settings.panic_mode_any {
            return None;
        }
        let host = self.pick_from(subsets.fallback(SubsetFallback::Any)?, cx)?;
        self.stats.here().lb_subsets_fallback_panic.inc();
        Some(host)
    }

    fn pick_from(&mut self, subset: &Subset, cx: &mut PickCx<'_>) -> Option<Arc<Host>> {
        match &subset.hosts {
            SubsetHosts::One(host) => Some(host.clone()),
            SubsetHosts::Set(hosts) => {
                if self.balancers.len() <= subset.slot {
                    self.balancers.resize_with(subset.slot + 1, || None);
                }
                let balancer =
                    self.balancers[subset.slot].get_or_insert_with(|| self.inner.balancer(&self.stats));
                balancer.pick(hosts, cx)
            }
        }
    }
}

impl LoadBalancer for SubsetBalancer {
    fn pick(&mut self, hosts: &HostSet, cx: &mut PickCx<'_>) -> Option<Arc<Host>> {
        let subsets = hosts.subsets()?;
        if self.balancers.len() > subsets.slots() {
            self.balancers.truncate(subsets.slots());
        }
        let Some(labels) = cx.labels.filter(|labels| !labels.is_empty()) else {
            return self.pick_fallback(subsets, cx);
        };
        match labels.fallbacks().filter(|_| self.settings.metadata_fallback_list) {
            None => self.pick_labelled(subsets, labels, cx),
            Some(list) => list.iter().find_map(|labels| match labels.is_empty() {
                true => self.pick_fallback(subsets, cx),
                false => self.pick_labelled(subsets, labels, cx),
            }),
        }
    }
}

#[cfg(test)]
mod tests;
