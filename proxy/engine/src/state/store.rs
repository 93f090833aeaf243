//! The store itself: inputs, the order of initialisation, and the effects of one input put in order.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::SystemTime;

use proxy_core::config::{BuildCx, BuildEnv, ConfigError};
use xds_api::envoy::config::bootstrap::v3::Bootstrap;
use xds_api::envoy::config::core::v3::ConfigSource;

use super::clusters::Clusters;
use super::counting::Taker;
use super::dump::Resource;
use super::endpoints::Assignments;
use super::files::Files;
use super::interest::Interest;
use super::listeners::{Listeners, Stopped};
use super::routes::RouteConfigs;
use super::secrets::Secrets;
use super::snapshot::put;
use super::source::{ApiUse, Sources, check_api};
use super::{Delivered, Effect, Failure, Kind, Response, Snapshot, Sockets, Source, SourceId, Subscription};
use crate::listener::accept::ListenerTag;

/// How far initialisation has come (Envoy: `operations/init`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// Nothing has begun.
    Loading,
    /// Static clusters that need no endpoint discovery become warm.
    PrimaryClusters,
    /// Clusters are delivered and become warm.
    Clusters,
    /// Listeners are delivered and become warm.
    Listeners,
    /// Everything that was there at the start serves.
    Live,
}

/// See the module above.
pub struct Store {
    pub(super) env: Arc<BuildEnv>,
    pub(super) now: SystemTime,
    pub(super) sources: Sources,
    pub(super) clusters: Clusters,
    pub(super) assignments: Assignments,
    pub(super) routes: RouteConfigs,
    pub(super) secrets: Secrets,
    pub(super) files: Files,
    pub(super) listeners: Listeners,
    pub(super) effects: Effects,
    pub(super) phase: Phase,
    pub(super) takers: Vec<Taker>,
    /// Whether the response that is applied changed anything.
    pub(super) applied: bool,
    /// The graph changed, so that interest has to be worked out anew.
    pub(super) graph_changed: bool,
    interest: Interest,
    cds: Option<Collection>,
    lds: Option<Collection>,
    last_id: u64,
}

/// A subscription to all resources of a kind.
struct Collection {
    subscription: Subscription,
    answered: bool,
    version: String,
}

/// What one input led to so far.
#[derive(Default)]
pub(super) struct Effects {
    pub(super) stream: Vec<Effect>,
    pub(super) publish: bool,
    pub(super) plane: Vec<Effect>,
}

impl Store {
    /// An empty store.
    pub fn new(env: Arc<BuildEnv>) -> Self {
        Self {
            now: SystemTime::UNIX_EPOCH,
            sources: Sources::default(),
            clusters: Clusters::new(&env),
            assignments: Assignments::default(),
            routes: RouteConfigs::default(),
            secrets: Secrets::default(),
            files: Files::default(),
            listeners: Listeners::new(&env),
            effects: Effects::default(),
            phase: Phase::Loading,
            takers: Vec::new(),
            applied: false,
            graph_changed: false,
            interest: Interest::default(),
            cds: None,
            lds: None,
            last_id: 0,
            env,
        }
    }

    /// The time that resources updated from now on are marked with.
    pub fn set_time(&mut self, now: SystemTime) {
        self.now = now;
    }

    /// How far initialisation has come.
    pub fn phase(&self) -> Phase {
        self.phase
    }

    /// The source that `id` stands for.
    pub fn source(&self, id: SourceId) -> Option<&Source> {
        self.sources.get(id)
    }

    /// The resource that alone comes from a source, if it is asked for that one only.
    pub fn only_resource(&self, id: SourceId) -> Option<&str> {
        self.sources.only(id)
    }

    /// The last version of all clusters, and that of all listeners; empty where nothing came.
    pub fn versions(&self) -> (&str, &str) {
        (
            self.cds.as_ref().map_or("", |collection| &collection.version),
            self.lds.as_ref().map_or("", |collection| &collection.version),
        )
    }

    /// Takes the static resources out of `bootstrap`, and the sources of dynamic ones from it. Binds nothing and
    /// starts nothing.
    ///
    /// # Errors
    /// Everything that is wrong with them.
    pub fn load(&mut self, bootstrap: &mut Bootstrap) -> Result<(), Vec<ConfigError>> {
        let mut errors = Vec::new();
        let dynamic = bootstrap.dynamic_resources.clone().unwrap_or_default();
        let env = self.env.clone();
        let mut cx = BuildCx::new(&env);
        cx.at("dynamic_resources", |cx| {
            if let Some(api) = &dynamic.ads_config {
                self.sources.has_ads = true;
                let _ = cx.at("ads_config", |cx| check_api(api, ApiUse::Aggregated, cx));
            }
            for (set, field) in [
                (!dynamic.cds_resources_locator.is_empty(), "cds_resources_locator"),
                (!dynamic.lds_resources_locator.is_empty(), "lds_resources_locator"),
            ] {
                let _ = cx.reject_if(set, field, "collections by xdstp:// are not available");
            }
            self.cds = self.collection("cds_config", dynamic.cds_config.as_ref(), cx);
            if dynamic.cds_config.is_some() {
                self.clusters.are_delivered(&env);
            }
            self.lds = self.collection("lds_config", dynamic.lds_config.as_ref(), cx);
        });
        errors.extend(cx.into_errors());
        let resources = bootstrap.static_resources.take().unwrap_or_default();
        for (index, secret) in resources.secrets.into_iter().enumerate() {
            if let Err(found) = self.load_secret(secret) {
                errors.extend(within(&format!("static_resources.secrets[{index}]"), found));
            }
        }
        for (index, cluster) in resources.clusters.into_iter().enumerate() {
            if let Err(found) = self.load_cluster(&cluster) {
                errors.extend(within(&format!("static_resources.clusters[{index}]"), found));
            }
        }
        for (index, listener) in resources.listeners.into_iter().enumerate() {
            if let Err(found) = self.load_listener(&listener) {
                errors.extend(within(&format!("static_resources.listeners[{index}]"), found));
            }
        }
        if errors.is_empty() { Ok(()) } else { Err(errors) }
    }

    fn collection(
        &mut self,
        field: &'static str,
        config: Option<&ConfigSource>,
        cx: &mut BuildCx<'_>,
    ) -> Option<Collection> {
        let subscription = cx.at(field, |cx| self.sources.build(config?, cx).ok())?;
        Some(Collection { subscription, answered: false, version: String::new() })
    }

    /// Binds the static listeners and begins to initialise.
    ///
    /// # Errors
    /// A static listener cannot be bound.
    pub fn start(&mut self, sockets: &mut dyn Sockets) -> Result<Vec<Effect>, String> {
        self.bind_static(sockets)?;
        self.phase = Phase::PrimaryClusters;
        self.graph_changed = true;
        self.effects.publish = true;
        Ok(self.finish())
    }

    /// Takes the changes of a response; the effects hold one [`Effect::Verdict`] on it.
    pub fn apply(&mut self, response: Response, sockets: &mut dyn Sockets) -> Vec<Effect> {
        self.takers.clear();
        self.applied = false;
        let rejected = match response.kind {
            Kind::Cluster => self.apply_clusters(&response),
            Kind::Endpoints => self.apply_endpoints(&response),
            Kind::Listener => self.apply_listeners(&response, sockets),
            Kind::Routes => self.apply_routes(&response),
            Kind::Secret => self.apply_secrets(&response),
        };
        self.answered(&response);
        if !rejected.is_empty() {
            self.count_bystanders(&response);
        }
        self.advance();
        self.effects.stream.push(Effect::Verdict { rejected });
        self.finish()
    }

    fn answered(&mut self, response: &Response) {
        let applied = self.applied;
        if let Some(collection) = self.collection_of(response.source, response.kind) {
            collection.answered = true;
            if applied {
                collection.version.clone_from(&response.version);
            }
        }
    }

    fn collection_of(&mut self, source: SourceId, kind: Kind) -> Option<&mut Collection> {
        let collection = match kind {
            Kind::Cluster => self.cds.as_mut(),
            Kind::Listener => self.lds.as_mut(),
            Kind::Endpoints | Kind::Routes | Kind::Secret => None,
        };
        collection.filter(|collection| collection.subscription.source == source)
    }

    /// No answer came for `name` within its initial fetch timeout.
    pub fn fetch_timeout(&mut self, source: SourceId, kind: Kind, name: &str) -> Vec<Effect> {
        match kind {
            Kind::Cluster | Kind::Listener => {
                if let Some(collection) = self.collection_of(source, kind) {
                    collection.answered = true;
                }
            }
            Kind::Endpoints => {
                self.count_endpoints_timeout(source, name);
                self.settle_endpoints(source, name);
            }
            Kind::Routes => {
                self.routes.count_timeout(source, name);
                self.settle_routes(source, name);
            }
            Kind::Secret => self.secrets.timed_out(source, name),
        }
        self.finish()
    }

    /// A response (or file) had no resources that could be read: who waits for a first answer waits no longer.
    pub fn unreadable(&mut self, source: SourceId, kind: Kind, failure: Failure) -> Vec<Effect> {
        self.failed(source, kind, failure);
        match kind {
            Kind::Cluster | Kind::Listener => {
                if let Some(collection) = self.collection_of(source, kind) {
                    collection.answered = true;
                }
            }
            Kind::Endpoints => self.settle_all_endpoints(source),
            Kind::Routes => self.settle_all_routes(source),
            Kind::Secret => self.secrets.settle_all(source),
        }
        self.finish()
    }

    /// DNS brought an answer for the cluster that was started under `id`.
    pub fn resolved(&mut self, id: u64, hosts_changed: bool, warmed: bool) -> Vec<Effect> {
        self.cluster_resolved(id, hosts_changed, warmed);
        self.finish()
    }

    /// All hosts of a cluster were checked: if that was what it waited for, it is put in force.
    pub fn checked(&mut self) -> Vec<Effect> {
        self.finish()
    }

    /// The time of the endpoints that were delivered under `id` is over.
    pub fn endpoints_stale(&mut self, id: u64) -> Vec<Effect> {
        self.expire_endpoints(id);
        self.finish()
    }

    /// The drain that was started under `id` is over.
    pub fn drained(&mut self, id: u64) -> Vec<Effect> {
        self.listeners.drained(id);
        self.graph_changed = true;
        self.finish()
    }

    /// Listeners stop to accept for good; which of the active ones do.
    pub fn stop_listeners(&mut self, stopped: Stopped) -> (Vec<ListenerTag>, Vec<Effect>) {
        (self.stop_active(stopped), self.finish())
    }

    pub(super) fn next_id(&mut self) -> u64 {
        self.last_id += 1;
        self.last_id
    }

    pub(super) fn resource(&self, delivered: &Delivered) -> Resource {
        Resource {
            any: Arc::new(delivered.any.clone()),
            version: delivered.version.clone(),
            updated: self.now,
        }
    }

    /// Goes on as far as what is there allows.
    fn advance(&mut self) {
        if self.phase == Phase::Loading {
            return;
        }
        loop {
            self.refresh_interest();
            self.activate_clusters();
            match self.phase {
                Phase::PrimaryClusters if !self.clusters.primary_warming() => {
                    self.enter(Phase::Clusters);
                }
                Phase::Clusters if is_answered(&self.cds) && !self.clusters.any_warming() => {
                    self.enter(Phase::Listeners);
                }
                Phase::Listeners if is_answered(&self.lds) && self.listeners_warm() => {
                    self.enter(Phase::Live);
                    self.activate_listeners();
                    self.listeners.count_start();
                    self.effects.plane.push(Effect::Ready);
                }
                Phase::Live => {
                    self.activate_listeners();
                    break;
                }
                Phase::Loading | Phase::PrimaryClusters | Phase::Clusters | Phase::Listeners => break,
            }
        }
        self.refresh_interest();
        self.clusters.count();
        self.listeners.count();
    }

    /// The aggregated stream's source, if clusters come from it.
    pub fn aggregated_clusters(&self) -> Option<SourceId> {
        let source = self.cds.as_ref()?.subscription.source;
        (self.sources.get(source) == Some(&Source::Ads)).then_some(source)
    }

    /// Whether clusters that were delivered wait, for their endpoints for instance.
    pub fn clusters_warm(&self) -> bool {
        self.clusters.delivered_warming > 0
    }

    /// What initialisation still waits for: the name of each component, what it waits for, and whether it is a listener's.
    pub fn unready(&self) -> Vec<(String, Vec<String>, bool)> {
        let mut unready = Vec::new();
        if self.phase != Phase::Loading && self.phase < Phase::Live {
            let mut targets = self.unready_listeners();
            if !is_answered(&self.lds) {
                targets.insert(0, "target LDS".to_owned());
            }
            unready.push(("init manager Server".to_owned(), targets, false));
        }
        unready.extend(self.unready_targets().into_iter().map(|(name, targets)| (name, targets, true)));
        unready
    }

    fn enter(&mut self, phase: Phase) {
        self.phase = phase;
        self.graph_changed = true;
    }

    fn refresh_interest(&mut self) {
        if !std::mem::take(&mut self.graph_changed) {
            return;
        }
        let mut interest = Interest::default();
        for (collection, kind, since) in
            [(&self.cds, Kind::Cluster, Phase::Clusters), (&self.lds, Kind::Listener, Phase::Listeners)]
        {
            if let Some(collection) = collection.as_ref().filter(|_| self.phase >= since) {
                let Subscription { source, timeout } = collection.subscription;
                interest.want(source, kind, "*", timeout);
            }
        }
        self.refresh_assignments();
        self.refresh_routes();
        self.refresh_secrets();
        self.refresh_files();
        self.secrets.interest(self.phase, &mut interest);
        if self.phase >= Phase::Clusters {
            self.assignments.interest(&mut interest);
        }
        if self.phase >= Phase::Listeners {
            self.routes.interest(&mut interest);
        }
        interest.differences(&self.interest, &mut self.effects.stream);
        self.interest = interest;
        self.forget_sources();
    }

    /// Control planes may name ever new sources.
    fn forget_sources(&mut self) {
        let collections = [&self.cds, &self.lds].into_iter().flatten();
        let collections = collections.map(|collection| collection.subscription.source);
        let endpoints = self.assignments.0.keys().map(|(source, _)| *source);
        let routes = self.routes.0.keys().map(|(_, source)| *source);
        let used: BTreeSet<SourceId> =
            collections.chain(endpoints).chain(routes).chain(self.secrets.sources()).collect();
        self.sources.retain(|source| used.contains(&source));
    }

    pub(super) fn finish(&mut self) -> Vec<Effect> {
        self.advance();
        let Effects { stream, publish, plane } = std::mem::take(&mut self.effects);
        let mut effects = stream;
        if publish {
            effects.push(Effect::Publish(Arc::new(self.snapshot())));
        }
        effects.extend(plane);
        effects
    }

    /// What serves now.
    pub fn snapshot(&self) -> Snapshot {
        let mut snapshot = Snapshot::default();
        for cluster in self.clusters.active() {
            put(&mut snapshot.clusters, cluster.name.slot(), cluster);
        }
        for (name, table) in self.routes.tables() {
            put(&mut snapshot.routes, name.slot(), table);
        }
        snapshot
    }
}

fn is_answered(collection: &Option<Collection>) -> bool {
    collection.as_ref().is_none_or(|collection| collection.answered)
}

pub(super) fn within(path: &str, errors: Vec<ConfigError>) -> impl Iterator<Item = ConfigError> + use<'_> {
    errors.into_iter().map(move |error| {
        let path = match error.path.as_str() {
            "" => path.to_owned(),
            inner => format!("{path}.{inner}"),
        };
        ConfigError { path, reason: error.reason }
    })
}
