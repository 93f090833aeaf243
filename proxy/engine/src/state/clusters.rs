//! Clusters: static ones, those that were delivered, and their warming.

use std::collections::BTreeMap;
use std::sync::Arc;

use proxy_core::config::{BuildCx, BuildEnv, ConfigError, all_errors};
use proxy_core::stats::Shared;
use proxy_core::stats::groups::{ClusterManagerStats, ConfigReloadStats};
use xds_api::envoy::config::cluster::v3 as proto;

use super::decode::{Decoded, Fresh, decode_all, join, to_any};
use super::dump::{ErrorState, Resource};
use super::endpoints::millis;
use super::secrets::{SecretUse, Secrets};
use super::store::Store;
use super::{Delivered, Effect, Kind, Response, Subscription};
use crate::tls::Supplied;
use crate::upstream::cluster::Cluster;
use crate::upstream::discovery::Discovery;
use crate::upstream::health;

/// One form of a cluster.
pub(super) struct Version {
    /// Names this form to the DNS tasks.
    id: u64,
    pub(super) resource: Resource,
    pub(super) cluster: Arc<Cluster>,
    /// Where its endpoints come from, if they are delivered.
    pub(super) eds: Option<(Subscription, Box<str>)>,
    /// The secrets of each of its TLS contexts.
    secrets: Vec<Vec<SecretUse>>,
    warm: bool,
}

impl Version {
    /// Whether it can serve: its hosts are known and checked, and so are its secrets.
    fn is_warm(&self, secrets: &Secrets) -> bool {
        self.warm && secrets.are_settled(self.secrets.iter().flatten()) && self.cluster.is_checked()
    }
}

/// All forms of a cluster. Boxed: there may be many clusters, half of the places in a map are empty, and few have a second form.
#[derive(Default)]
pub(super) struct Entry {
    pub(super) is_static: bool,
    pub(super) active: Option<Box<Version>>,
    pub(super) warming: Option<Box<Version>>,
    pub(super) error: Option<Box<ErrorState>>,
}

impl Entry {
    pub(super) fn versions(&self) -> impl Iterator<Item = &Version> {
        self.active.as_deref().into_iter().chain(self.warming.as_deref())
    }
}

pub(super) struct Clusters {
    pub(super) entries: BTreeMap<String, Entry>,
    /// How many that were delivered warm.
    pub(super) delivered_warming: usize,
    stats: Shared<ClusterManagerStats>,
    /// Once the bootstrap names a source of clusters.
    reload: Option<Shared<ConfigReloadStats>>,
}

impl Clusters {
    pub(super) fn new(env: &BuildEnv) -> Self {
        Self {
            entries: BTreeMap::new(),
            delivered_warming: 0,
            stats: env.stats.scope("cluster_manager").shared(),
            reload: None,
        }
    }

    /// Clusters are delivered.
    pub(super) fn are_delivered(&mut self, env: &BuildEnv) {
        self.reload = Some(env.stats.scope("cluster_manager.cds").shared());
    }

    pub(super) fn active(&self) -> impl Iterator<Item = &Arc<Cluster>> {
        self.entries.values().filter_map(|entry| entry.active.as_ref()).map(|version| &version.cluster)
    }

    /// Whether there is a cluster of this name, be it warming.
    pub(super) fn has(&self, name: &str) -> bool {
        self.entries.get(name).is_some_and(|entry| entry.versions().next().is_some())
    }

    /// Whether these very bytes were delivered before and taken.
    fn holds(&self, delivered: &Delivered) -> bool {
        let entry = self.entries.get(&delivered.name).filter(|entry| !entry.is_static);
        entry.is_some_and(|entry| entry.versions().any(|version| *version.resource.any == delivered.any))
    }

    pub(super) fn any_warming(&self) -> bool {
        self.entries.values().any(|entry| entry.warming.is_some())
    }

    pub(super) fn secret_uses(&self) -> impl Iterator<Item = &SecretUse> {
        self.entries.values().flat_map(Entry::versions).flat_map(|version| version.secrets.iter().flatten())
    }

    /// The TLS contexts that need secrets, in all forms.
    pub(super) fn contexts(&self) -> impl Iterator<Item = (&dyn Supplied, &[SecretUse])> {
        let versions = self.entries.values().flat_map(Entry::versions);
        let contexts =
            versions.flat_map(|version| version.cluster.transport.contexts().zip(&version.secrets));
        contexts.map(|(tls, secrets)| (tls as &dyn Supplied, secrets.as_slice()))
    }

    /// Whether a static cluster warms that needs nobody's endpoints.
    pub(super) fn primary_warming(&self) -> bool {
        let mut warming = self.entries.values().filter_map(|entry| entry.warming.as_ref());
        warming.any(|version| version.eds.is_none())
    }

    pub(super) fn count(&mut self) {
        let active = self.entries.values().filter(|entry| entry.active.is_some()).count();
        let warming = self.entries.values().filter(|entry| entry.warming.is_some());
        let (fixed, delivered): (Vec<&Entry>, Vec<&Entry>) = warming.partition(|entry| entry.is_static);
        let warming = fixed.len() + delivered.len();
        self.delivered_warming = delivered.len();
        self.stats.active_clusters.set(active as u64);
        self.stats.warming_clusters.set(warming as u64);
    }

    /// Marks the waiting form of `name` as warm.
    pub(super) fn warm(&mut self, name: &str) {
        if let Some(version) = self.entries.get_mut(name).and_then(|entry| entry.warming.as_mut()) {
            version.warm = true;
        }
    }
}

impl Store {
    pub(super) fn load_cluster(&mut self, proto: &proto::Cluster) -> Result<(), Vec<ConfigError>> {
        let any = to_any(Kind::Cluster.type_url(), proto);
        let delivered = Delivered { name: proto.name.clone(), version: String::new(), any };
        if self.clusters.has(&proto.name) {
            let reason = format!("cluster manager: duplicate cluster '{}'", proto.name);
            return Err(vec![ConfigError { path: String::new(), reason }]);
        }
        let version = self.build_cluster(proto, &delivered)?;
        let entry = Entry { is_static: true, warming: Some(Box::new(version)), ..Entry::default() };
        self.clusters.entries.insert(proto.name.clone(), entry);
        self.clusters.stats.cluster_added.inc();
        self.warm_cluster(&proto.name);
        Ok(())
    }

    pub(super) fn apply_clusters(&mut self, response: &Response) -> Vec<(String, String)> {
        let is_held = |delivered: &Delivered| self.clusters.holds(delivered);
        let decoded = match decode_all::<proto::Cluster>(response, &self.env, is_held) {
            Ok(decoded) => decoded,
            Err(details) => return vec![(String::new(), details)],
        };
        for name in &response.removed {
            self.remove_cluster(name);
        }
        let mut rejected = Vec::new();
        for decoded in decoded {
            let delivered = decoded.delivered;
            if let Err(reason) = self.put_cluster(decoded) {
                let resource = self.resource(delivered);
                let entry = self.clusters.entries.entry(delivered.name.clone()).or_default();
                entry.error = Some(Box::new(ErrorState { resource, details: reason.clone() }));
                rejected.push((delivered.name.clone(), reason));
            }
        }
        if self.applied
            && let Some(reload) = &self.clusters.reload
        {
            reload.config_reload.inc();
            reload.config_reload_time_ms.set(millis(self.now));
        }
        rejected
    }

    fn put_cluster(&mut self, decoded: Decoded<'_, proto::Cluster>) -> Result<(), String> {
        let delivered = decoded.delivered;
        if let Some(entry) = self.clusters.entries.get_mut(&delivered.name) {
            // What the bootstrap says is not changed by a control plane.
            if entry.is_static {
                return Ok(());
            }
            let same = |version: &Version| version.resource.any.value == delivered.any.value;
            let is_active = entry.active.as_deref().is_some_and(same);
            if is_active || entry.warming.as_deref().is_some_and(same) {
                entry.error = None;
                if is_active && let Some(dropped) = entry.warming.take() {
                    self.forget_cluster(&dropped);
                }
                return Ok(());
            }
        }
        let Fresh { proto, refused } = decoded.read(&self.env)?;
        let version = match self.build_cluster(&proto, delivered) {
            Ok(version) if refused.is_empty() => version,
            built => return Err(join(&all_errors(refused, built.err().unwrap_or_default()))),
        };
        let entry = self.clusters.entries.entry(delivered.name.clone()).or_default();
        entry.error = None;
        let existed = entry.versions().next().is_some();
        if let (Some(active), Some(eds)) = (&entry.active, &version.eds)
            && active.eds.as_ref().is_some_and(|old| old.1 == eds.1 && old.0.source == eds.0.source)
            // What was found out by checks does not hold for others.
            && active.cluster.checks.is_none()
            && version.cluster.checks.is_none()
        {
            version.cluster.inherit_hosts(&active.cluster);
        }
        if let Some(dropped) = entry.warming.replace(Box::new(version)) {
            self.forget_cluster(&dropped);
        }
        self.applied = true;
        let stats = &self.clusters.stats;
        if existed {
            stats.cluster_modified.inc()
        } else {
            stats.cluster_added.inc()
        }
        self.warm_cluster(&delivered.name);
        Ok(())
    }

    fn build_cluster(
        &mut self,
        proto: &proto::Cluster,
        delivered: &Delivered,
    ) -> Result<Version, Vec<ConfigError>> {
        let env = self.env.clone();
        let mut cx = BuildCx::new(&env);
        let built = Cluster::build(proto, &mut cx);
        let Ok(cluster) = built else { return Err(cx.into_errors()) };
        if cluster.name.as_str() != delivered.name {
            cx.at("name", |cx| cx.reject(format!("differs from the resource's name '{}'", delivered.name)));
            return Err(cx.into_errors());
        }
        let eds = match &cluster.discovery {
            Discovery::Static
            | Discovery::Dns(_)
            | Discovery::OriginalDst(_)
            | Discovery::Dynamic(_)
            | Discovery::Aggregate(_) => None,
            Discovery::Eds(eds) => {
                let source = cx.at("eds_cluster_config", |cx| {
                    cx.at("eds_config", |cx| self.sources.build(&eds.source, cx))
                });
                let Ok(subscription) = source else { return Err(cx.into_errors()) };
                Some((subscription, eds.service_name.clone()))
            }
        };
        let contexts = cluster.transport.contexts();
        let secrets = contexts.map(|tls| self.supply(tls)).collect::<Result<Vec<_>, _>>()?;
        let (id, resource) = (self.next_id(), self.resource(delivered));
        Ok(Version { id, resource, cluster, eds, secrets, warm: false })
    }

    /// Starts to warm the newest form of `name`, which may be warm at once.
    fn warm_cluster(&mut self, name: &str) {
        self.graph_changed = true;
        let Some(version) = self.clusters.entries.get_mut(name).and_then(|entry| entry.warming.as_mut())
        else {
            return;
        };
        if health::is_watched(&version.cluster) {
            let (id, cluster) = (version.id, version.cluster.clone());
            self.effects.plane.push(Effect::StartHealth { id, cluster });
        }
        match &version.cluster.discovery {
            Discovery::Static | Discovery::Aggregate(_) => version.warm = true,
            Discovery::Dns(_) => {
                let (id, cluster) = (version.id, version.cluster.clone());
                self.effects.plane.push(Effect::StartDiscovery { id, cluster });
            }
            Discovery::OriginalDst(_) | Discovery::Dynamic(_) => {
                version.warm = true;
                let (id, cluster) = (version.id, version.cluster.clone());
                self.effects.plane.push(Effect::StartDiscovery { id, cluster });
            }
            Discovery::Eds(_) => {
                if let Some((subscription, service)) = &version.eds {
                    version.cluster.stats.state.update_attempt.inc();
                    if let Some(assignment) = self.assignments.cached(subscription.source, service) {
                        let mut cx = BuildCx::new(&self.env);
                        // It was taken before, and the same assignment suits every cluster.
                        let _ = version.cluster.apply_assignment(assignment, &mut cx);
                    }
                    version.warm = self.assignments.is_settled(subscription.source, service);
                }
            }
        }
        let is_warm = version.is_warm(&self.secrets);
        version.cluster.stats.state.warming_state.set(u64::from(!is_warm));
    }

    /// Puts every form that is warm in force.
    pub(super) fn activate_clusters(&mut self) {
        let mut replaced = Vec::new();
        for entry in self.clusters.entries.values_mut() {
            let is_warm = |version: &mut Box<Version>| version.is_warm(&self.secrets);
            if let Some(version) = entry.warming.take_if(is_warm) {
                version.cluster.stats.state.warming_state.set(0);
                self.effects.publish = true;
                self.graph_changed = true;
                replaced.extend(entry.active.replace(version));
            }
        }
        for version in &replaced {
            self.forget_cluster(version);
        }
        if self.graph_changed {
            // Endpoints of replaced forms may not be needed any longer.
            self.refresh_assignments();
        }
    }

    /// The runtime says something else now: all forms of all clusters take that over.
    pub fn runtime_changed(&self) {
        for version in self.clusters.entries.values().flat_map(Entry::versions) {
            version.cluster.follow_runtime();
        }
    }

    fn remove_cluster(&mut self, name: &str) {
        if self.clusters.entries.get(name).is_none_or(|entry| entry.is_static) {
            return;
        }
        let Some(entry) = self.clusters.entries.remove(name) else { return };
        if entry.versions().next().is_some() {
            self.applied = true;
            self.clusters.stats.cluster_removed.inc();
        }
        for version in entry.versions() {
            self.forget_cluster(version);
        }
        self.effects.publish |= entry.active.is_some();
        self.graph_changed = true;
    }

    fn forget_cluster(&mut self, version: &Version) {
        // Nobody waits for its endpoints any more.
        self.graph_changed = true;
        if health::is_watched(&version.cluster) {
            self.effects.plane.push(Effect::StopHealth(version.id));
        }
        let discovery = &version.cluster.discovery;
        if matches!(discovery, Discovery::Dns(_) | Discovery::OriginalDst(_) | Discovery::Dynamic(_)) {
            self.effects.plane.push(Effect::StopDiscovery(version.id));
        }
    }

    pub(super) fn cluster_resolved(&mut self, id: u64, hosts_changed: bool, warmed: bool) {
        for entry in self.clusters.entries.values_mut() {
            if let Some(version) = entry.active.as_ref().filter(|version| version.id == id) {
                if hosts_changed {
                    self.effects.plane.push(Effect::HostsChanged(version.cluster.name.slot()));
                }
            } else if let Some(version) = entry.warming.as_mut().filter(|version| version.id == id) {
                version.warm |= warmed;
            }
        }
    }
}
