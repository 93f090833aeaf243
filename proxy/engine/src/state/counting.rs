//! What subscriptions count: `cluster.<name>.update_*`, `http.<stat_prefix>.rds.<name>.*` and `sds.<name>.*`.
//!
//! Envoy keeps one subscription for each cluster, each route configuration and each secret, and tells all of a type when a response of
//! it is rejected or the stream closes: so each of them counts that, be it concerned or not.
//! Source: `docs/root/configuration/overview/xds_api.rst` ("Statistics"), and what Envoy 1.40 shows.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use proxy_core::hash::xxhash64;
use proxy_core::stats::Shared;
use proxy_core::stats::groups::{EdsStats, XdsStats};

use super::endpoints::millis;
use super::store::Store;
use super::{Failure, Kind, Response, SourceId};
use crate::upstream::cluster::Cluster;

/// Who took something of the response that is being applied.
pub(super) enum Taker {
    Endpoints(Shared<EdsStats>),
    Xds(Shared<XdsStats>),
}

impl Store {
    /// A cluster took what EDS says about it, be it nothing.
    pub(super) fn count_endpoints(&mut self, cluster: &Arc<Cluster>, version: &str) {
        let state = &cluster.stats.state;
        state.update_attempt.inc();
        state.update_success.inc();
        state.version.set(xxhash64(version.as_bytes()));
        let eds: Shared<EdsStats> = cluster.stats.scope.shared();
        eds.version_text.set(version);
        eds.update_time.set(millis(self.now));
        self.takers.push(Taker::Endpoints(eds));
    }

    /// Tells how long it took to apply the last response, for `update_duration` of everyone who took something of it.
    pub fn took(&mut self, time: Duration) {
        let time = u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        for taker in self.takers.drain(..) {
            match taker {
                Taker::Endpoints(eds) => eds.update_duration.record(time),
                Taker::Xds(xds) => xds.update_duration.record(time),
            }
        }
    }

    /// Counts a rejected response for those of whom nothing was in it.
    pub(super) fn count_bystanders(&self, response: &Response) {
        let named: BTreeSet<&str> = response.upserts.iter().map(|one| one.name.as_str()).collect();
        self.count_failure(response.source, response.kind, Failure::Rejected, &|name| !named.contains(name));
    }

    /// Counts a failure for every subscription to a kind at a source.
    pub fn failed(&mut self, source: SourceId, kind: Kind, failure: Failure) {
        self.count_failure(source, kind, failure, &|_| true);
    }

    fn count_failure(&self, source: SourceId, kind: Kind, failure: Failure, counts: &dyn Fn(&str) -> bool) {
        match kind {
            Kind::Endpoints => {
                for ((of, name), needed) in &self.assignments.0 {
                    if *of == source && counts(name) {
                        for cluster in needed.clusters() {
                            self.count_endpoints_failure(cluster, failure);
                        }
                    }
                }
            }
            Kind::Routes => self.routes.count_failure(source, failure, counts),
            Kind::Secret => self.secrets.count_failure(source, failure, counts),
            // The streams count for those that are subscribed to as a whole.
            Kind::Cluster | Kind::Listener => {}
        }
    }

    /// Counts a failure of the subscription of one cluster.
    pub(super) fn count_endpoints_failure(&self, cluster: &str, failure: Failure) {
        let Some(version) = self.clusters.entries.get(cluster).and_then(|entry| entry.versions().next())
        else {
            return;
        };
        let state = &version.cluster.stats.state;
        state.update_attempt.inc();
        match failure {
            Failure::Rejected => {
                let eds: Shared<EdsStats> = version.cluster.stats.scope.shared();
                eds.update_rejected.inc();
            }
            Failure::Unreadable | Failure::Disconnected => state.update_failure.inc(),
        }
    }
}
