//! Endpoints of clusters: who needs which assignment, and those that came.

use std::collections::BTreeMap;
use std::time::Duration;

use proxy_core::config::{BuildCx, Rejected, duration};
use proxy_core::stats::Shared;
use proxy_core::stats::groups::EdsStats;
use xds_api::envoy::config::endpoint::v3::ClusterLoadAssignment;

use super::decode::{Decoded, decode_all, join};
use super::dump::Resource;
use super::interest::Interest;
use super::store::Store;
use super::{Delivered, Effect, Failure, Kind, Response, SourceId};

/// The assignments that some cluster needs.
#[derive(Default)]
pub(super) struct Assignments(pub(super) BTreeMap<(SourceId, String), Needed>);

/// One of them.
#[derive(Default)]
pub(super) struct Needed {
    /// The clusters that take it.
    clusters: Vec<String>,
    timeout: Duration,
    pub(super) current: Option<(Resource, ClusterLoadAssignment)>,
    /// Under which number its `endpoint_stale_after` runs, if it ever had one.
    expiry: Option<u64>,
    /// An answer came, or will not come: who joins later need not wait.
    settled: bool,
}

impl Needed {
    /// The clusters that take it, by name.
    pub(super) fn clusters(&self) -> &[String] {
        &self.clusters
    }
}

impl Assignments {
    /// The assignment of this name, if it came and was taken.
    pub(super) fn cached(&self, source: SourceId, name: &str) -> Option<&ClusterLoadAssignment> {
        let needed = self.0.get(&(source, name.to_owned()))?;
        needed.current.as_ref().map(|(_, assignment)| assignment)
    }

    /// The assignment of this name, if these very bytes are in force.
    fn held(&self, source: SourceId, delivered: &Delivered) -> Option<&ClusterLoadAssignment> {
        let (resource, assignment) = self.0.get(&(source, delivered.name.clone()))?.current.as_ref()?;
        (*resource.any == delivered.any).then_some(assignment)
    }

    pub(super) fn is_settled(&self, source: SourceId, name: &str) -> bool {
        self.0.get(&(source, name.to_owned())).is_some_and(|needed| needed.settled)
    }

    pub(super) fn interest(&self, interest: &mut Interest) {
        for ((source, name), needed) in &self.0 {
            interest.want(*source, Kind::Endpoints, name, needed.timeout);
        }
    }
}

impl Store {
    /// Works out anew who needs what.
    pub(super) fn refresh_assignments(&mut self) {
        let mut before = std::mem::take(&mut self.assignments.0);
        for (cluster, entry) in &self.clusters.entries {
            for version in entry.versions() {
                let Some((subscription, service)) = &version.eds else { continue };
                let key = (subscription.source, service.to_string());
                let kept = before.remove(&key);
                let needed = self.assignments.0.entry(key).or_insert_with(|| match kept {
                    Some(kept) => Needed { clusters: Vec::new(), ..kept },
                    None => Needed { timeout: subscription.timeout, ..Needed::default() },
                });
                if needed.clusters.last() != Some(cluster) {
                    needed.clusters.push(cluster.clone());
                }
            }
        }
    }

    pub(super) fn apply_endpoints(&mut self, response: &Response) -> Vec<(String, String)> {
        let is_held = |delivered: &Delivered| self.assignments.held(response.source, delivered).is_some();
        let decoded = match decode_all::<ClusterLoadAssignment>(response, &self.env, is_held) {
            Ok(decoded) => decoded,
            Err(details) => {
                for delivered in &response.upserts {
                    self.count_rejection(response.source, &delivered.name);
                    self.settle_endpoints(response.source, &delivered.name);
                }
                return vec![(String::new(), details)];
            }
        };
        let mut rejected = Vec::new();
        for decoded in decoded {
            let delivered = decoded.delivered;
            let put = match &decoded.fresh {
                Some(fresh) if !fresh.refused.is_empty() => Err(join(&fresh.refused)),
                Some(_) | None => self.put_assignment(response.source, decoded, &response.version),
            };
            if let Err(reason) = put {
                self.count_rejection(response.source, &delivered.name);
                rejected.push((delivered.name.clone(), reason));
            }
            self.settle_endpoints(response.source, &delivered.name);
        }
        for name in &response.removed {
            // The endpoints stay; who waited for them waits no longer.
            self.count_missing_endpoints(response, name);
            self.settle_endpoints(response.source, name);
        }
        rejected
    }

    fn put_assignment(
        &mut self,
        source: SourceId,
        decoded: Decoded<'_, ClusterLoadAssignment>,
        version_info: &str,
    ) -> Result<(), String> {
        let delivered = decoded.delivered;
        let (changed, stale_after) = match self.assignments.held(source, delivered) {
            Some(held) => (None, stale_after(held)),
            None => {
                let proto = decoded.read(&self.env)?.proto;
                let stale_after = stale_after(&proto);
                (Some((self.resource(delivered), proto)), stale_after)
            }
        };
        let id = self.next_id();
        let Some(needed) = self.assignments.0.get_mut(&(source, delivered.name.clone())) else {
            return Ok(());
        };
        let mut taken = Vec::new();
        for name in &needed.clusters {
            let Some(entry) = self.clusters.entries.get(name) else { continue };
            for (index, version) in entry.versions().enumerate() {
                let takes = |eds: &(super::Subscription, Box<str>)| {
                    eds.0.source == source && *eds.1 == *delivered.name
                };
                if !version.eds.as_ref().is_some_and(takes) {
                    continue;
                }
                let state = &version.cluster.stats.state;
                if let Some((_, proto)) = &changed {
                    let mut cx = BuildCx::new(&self.env);
                    match version.cluster.apply_assignment(proto, &mut cx) {
                        Ok(update) if update.changed && index == 0 && entry.active.is_some() => {
                            let slot = version.cluster.name.slot();
                            self.effects.plane.push(Effect::HostsChanged(slot));
                        }
                        Ok(_) => {}
                        Err(Rejected) => return Err(join(&cx.into_errors())),
                    }
                } else {
                    state.update_no_rebuild.inc();
                }
                state.assignment_timeout_received.add(u64::from(stale_after.is_some()));
                taken.push(version.cluster.clone());
            }
        }
        if changed.is_some() {
            needed.current = changed;
        }
        if needed.expiry.is_some() || stale_after.is_some() {
            let id = *needed.expiry.get_or_insert(id);
            self.effects.plane.push(Effect::ExpireEndpoints { id, after: stale_after });
        }
        for cluster in &taken {
            self.count_endpoints(cluster, version_info);
        }
        Ok(())
    }

    /// Endpoints that were not confirmed in time are used no longer.
    pub(super) fn expire_endpoints(&mut self, id: u64) {
        let expired = self.assignments.0.iter_mut().find(|(_, needed)| needed.expiry == Some(id));
        let Some(((source, name), needed)) = expired else { return };
        needed.current = None;
        let nothing =
            ClusterLoadAssignment { cluster_name: name.clone(), ..ClusterLoadAssignment::default() };
        for cluster in &needed.clusters {
            let Some(entry) = self.clusters.entries.get(cluster) else { continue };
            for version in entry.versions() {
                let takes =
                    |eds: &(super::Subscription, Box<str>)| eds.0.source == *source && *eds.1 == **name;
                if !version.eds.as_ref().is_some_and(takes) {
                    continue;
                }
                version.cluster.stats.state.assignment_stale.inc();
                let applied = version.cluster.apply_assignment(&nothing, &mut BuildCx::new(&self.env));
                if applied.is_ok_and(|update| update.changed) {
                    self.effects.plane.push(Effect::HostsChanged(version.cluster.name.slot()));
                }
            }
        }
    }

    fn count_rejection(&self, source: SourceId, name: &str) {
        let Some(needed) = self.assignments.0.get(&(source, name.to_owned())) else { return };
        for cluster in &needed.clusters {
            self.count_endpoints_failure(cluster, Failure::Rejected);
        }
    }

    /// Counts an update that says of an assignment that there is none.
    fn count_missing_endpoints(&mut self, response: &Response, name: &str) {
        let Some(needed) = self.assignments.0.get(&(response.source, name.to_owned())) else { return };
        let clusters = needed.clusters.iter().filter_map(|name| self.clusters.entries.get(name));
        let clusters = clusters.filter_map(|entry| entry.versions().next());
        let clusters: Vec<_> = clusters.map(|version| version.cluster.clone()).collect();
        for cluster in clusters {
            cluster.stats.state.update_empty.inc();
            self.count_endpoints(&cluster, &response.version);
        }
    }

    /// Counts an initial fetch that timed out.
    pub(super) fn count_endpoints_timeout(&self, source: SourceId, name: &str) {
        let Some(needed) = self.assignments.0.get(&(source, name.to_owned())) else { return };
        let clusters = needed.clusters.iter().filter_map(|name| self.clusters.entries.get(name));
        for version in clusters.filter_map(|entry| entry.versions().last()) {
            let eds: Shared<EdsStats> = version.cluster.stats.scope.shared();
            eds.init_fetch_timeout.inc();
            version.cluster.stats.state.update_attempt.inc();
        }
    }

    /// Nobody waits for this assignment any longer: it came, or will not come.
    pub(super) fn settle_endpoints(&mut self, source: SourceId, name: &str) {
        let Some(needed) = self.assignments.0.get_mut(&(source, name.to_owned())) else { return };
        needed.settled = true;
        for cluster in &needed.clusters {
            let entry = self.clusters.entries.get(cluster);
            let eds = entry.and_then(|entry| entry.warming.as_ref()).and_then(|version| version.eds.as_ref());
            if eds.is_some_and(|(subscription, service)| subscription.source == source && **service == *name)
            {
                self.clusters.warm(cluster);
            }
        }
    }

    pub(super) fn settle_all_endpoints(&mut self, source: SourceId) {
        let of_source = self.assignments.0.keys().filter(|(of, _)| *of == source);
        let names: Vec<String> = of_source.map(|(_, name)| name.clone()).collect();
        for name in names {
            self.settle_endpoints(source, &name);
        }
    }
}

/// After which time without confirmation these endpoints are used no longer.
fn stale_after(assignment: &ClusterLoadAssignment) -> Option<Duration> {
    let after = assignment.policy.as_ref()?.endpoint_stale_after.as_ref().and_then(duration)?;
    (!after.is_zero()).then_some(after)
}

/// Milliseconds since 1970.
pub(super) fn millis(time: std::time::SystemTime) -> u64 {
    let since = time.duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
