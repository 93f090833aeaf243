//! Dynamic configuration: carries resources to the store, and what the store decides to streams, workers and DNS.
//!
//! Everything here runs on the main thread. The state is one cell that is borrowed between awaits only, so that the admin
//! interface can read it at any time. Source: Envoy "xDS REST and gRPC protocol", `operations/init.rst`.

mod dial;
mod dump;
mod health_discovery;
mod host_stats;
mod observer;
mod sockets;
mod state;
mod streams;

use std::cell::{Ref, RefCell};
use std::collections::{BTreeMap, HashMap, HashSet};
use std::io;
use std::rc::Rc;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant, SystemTime};

use anyhow::anyhow;
use proxy_core::address::Address;
use proxy_core::config::BuildEnv;
use proxy_core::stats::groups::ListenerManagerStats;
use proxy_core::upstream::Host;
use proxy_engine::listener::accept::{ListenerTag, SharedListener};
use proxy_engine::state::{Delivered, Effect, Failure, Kind, Phase, Response, Stopped, Store};
use proxy_engine::upstream::cluster::Cluster;
use proxy_engine::upstream::discovery::Discovery;
use proxy_engine::upstream::dns::{self, Resolvers};
use proxy_engine::upstream::dynamic;
use proxy_engine::upstream::health::{self, HealthUpdate};
use proxy_engine::upstream::original_dst;
use proxy_engine::worker::Workers;
use tokio::sync::mpsc;
use tokio::task::{AbortHandle, JoinSet};
use xds::client::Command;
use xds::client::filesystem::Watch;
use xds::{Event, TypeUrl, Update, Verdict};
use xds_api::envoy::config::bootstrap::v3::Bootstrap;

use crate::admin::{ConfigDump, Endpoints};

use self::dial::Directory;
use self::health_discovery::HealthDiscovery;
use self::sockets::ListenSockets;
pub use self::state::SharedState;
pub(crate) use self::streams::node;
use self::streams::{StreamKey, Streams};

/// How long after a directory could not be watched that is tried again.
const WATCH_AGAIN: Duration = Duration::from_secs(1);
/// Events of streams that wait to be taken.
const EVENT_QUEUE: usize = 16;

/// The configuration of the process: a handle, cheap to clone, for the main thread.
#[derive(Clone)]
pub struct Configuration {
    core: Rc<RefCell<Core>>,
    state: Arc<SharedState>,
}

struct Core {
    env: Arc<BuildEnv>,
    store: Store,
    workers: Option<Workers>,
    sockets: ListenSockets,
    streams: Streams,
    directory: Arc<Directory>,
    resolvers: Arc<Resolvers>,
    /// What looks after the hosts of clusters.
    discoveries: HashMap<u64, AbortHandle>,
    /// What looks after their health.
    health: HashMap<u64, AbortHandle>,
    /// What checks hosts for others, until it runs.
    health_discovery: Option<HealthDiscovery>,
    /// What runs for as long as this is there.
    tasks: JoinSet<()>,
    /// Listeners that `/drain_listeners` stopped.
    stopped: HashSet<ListenerTag>,
    inputs: mpsc::UnboundedSender<Input>,
    /// The watches of files that secrets name.
    watches: HashMap<u64, AbortHandle>,
    /// The timers of endpoints that may become stale.
    expiries: HashMap<u64, AbortHandle>,
    drain_time: Duration,
    /// Whether answers to CDS are held back, because clusters warm.
    clusters_held: bool,
    state: Arc<SharedState>,
}

/// What happens to the store besides events of streams.
enum Input {
    Dns { id: u64, hosts_changed: bool, warmed: bool },
    Drained(u64),
    EndpointsStale(u64),
    FilesChanged(u64),
    HostsChanged(usize),
    HostsLeft(usize, Arc<[Arc<Host>]>),
    HostsFailed(usize, Arc<[Arc<Host>]>),
    HostsChecked,
}

/// The receiving ends of [`Configuration`], for [`run`].
pub struct Inputs {
    inputs: mpsc::UnboundedReceiver<Input>,
    events: mpsc::Receiver<(StreamKey, Event)>,
}

impl Configuration {
    /// Around a store that has loaded `bootstrap`.
    pub fn new(
        env: &Arc<BuildEnv>,
        store: Store,
        bootstrap: &Bootstrap,
        resolvers: Arc<Resolvers>,
        drain_time: Duration,
    ) -> (Self, Inputs) {
        let (input_sender, inputs) = mpsc::unbounded_channel();
        let (event_sender, events) = mpsc::channel(EVENT_QUEUE);
        let directory = Arc::new(Directory::default());
        let shown: Weak<Directory> = Arc::downgrade(&directory);
        env.stats.show_too(shown);
        let state = Arc::new(SharedState::default());
        let core = Core {
            env: env.clone(),
            store,
            workers: None,
            sockets: ListenSockets::new(env.concurrency),
            streams: Streams::new(env, bootstrap, directory.clone(), event_sender),
            health_discovery: HealthDiscovery::new(env, bootstrap, &directory),
            tasks: JoinSet::new(),
            directory,
            resolvers,
            discoveries: HashMap::new(),
            health: HashMap::new(),
            stopped: HashSet::new(),
            inputs: input_sender,
            watches: HashMap::new(),
            expiries: HashMap::new(),
            drain_time,
            clusters_held: false,
            state: state.clone(),
        };
        (Self { core: Rc::new(RefCell::new(core)), state }, Inputs { inputs, events })
    }

    /// What the process is doing, as the configuration has it.
    pub fn state(&self) -> &Arc<SharedState> {
        &self.state
    }

    /// The store, to read. Do not hold it across an await.
    pub fn store(&self) -> Ref<'_, Store> {
        Ref::map(self.core.borrow(), |core| &core.store)
    }

    /// The active listeners, stopped ones included as in Envoy, with the addresses they are or were bound to.
    pub fn listeners(&self) -> Vec<(String, Vec<Address>)> {
        let core = self.core.borrow();
        let listeners = core.store.active_listeners();
        listeners.map(|(name, tag, _)| (name.to_owned(), core.sockets.addresses(tag))).collect()
    }

    /// Adds everything the store holds to what `/config_dump` shows.
    pub fn dump(&self, dump: &mut ConfigDump, endpoints: Endpoints) {
        dump::fill(dump, &self.store(), endpoints);
    }

    /// Stops listeners from accepting, for good; what is connected stays.
    pub fn stop_listeners(&self, stopped: Stopped) {
        let mut core = self.core.borrow_mut();
        let core = &mut *core;
        let (tags, effects) = core.store.stop_listeners(stopped);
        core.execute(effects, None);
        let Some(workers) = &core.workers else { return };
        let stats = core.env.stats.scope("listener_manager").shared::<ListenerManagerStats>();
        for tag in tags {
            if core.stopped.insert(tag) {
                workers.stop_listener(tag);
                core.sockets.stop(tag);
                stats.listener_stopped.inc();
            }
        }
    }

    /// Binds the static listeners, for nobody to serve them (`--mode init_only`).
    ///
    /// # Errors
    /// One cannot be bound.
    pub fn bind(&self) -> anyhow::Result<()> {
        let mut core = self.core.borrow_mut();
        let core = &mut *core;
        core.store.set_time(SystemTime::now());
        core.store.start(&mut core.sockets).map(drop).map_err(|reason| anyhow!("{reason}"))
    }

    /// Binds the static listeners, and starts the workers that serve them. To be called once.
    ///
    /// # Errors
    /// One cannot be bound.
    pub fn start(&self, start_workers: impl FnOnce() -> std::io::Result<Workers>) -> anyhow::Result<()> {
        let mut core = self.core.borrow_mut();
        let core = &mut *core;
        core.store.set_time(SystemTime::now());
        let effects = core.store.start(&mut core.sockets).map_err(|reason| anyhow!("{reason}"))?;
        core.workers = Some(start_workers()?);
        core.execute(effects, None);
        Ok(())
    }

    /// Ends the workers and what is on them.
    pub fn shutdown(&self) {
        let workers = self.core.borrow_mut().workers.take();
        if let Some(workers) = workers {
            workers.shutdown();
        }
    }
}

/// Takes what happens, for ever. Needs a local set. Cancel-safe between inputs.
pub async fn run(configuration: Configuration, mut inputs: Inputs) {
    loop {
        tokio::select! {
            Some(input) = inputs.inputs.recv() => configuration.core.borrow_mut().input(&input),
            Some((key, event)) = inputs.events.recv() => configuration.core.borrow_mut().event(key, event),
            else => return,
        }
    }
}

impl Core {
    fn input(&mut self, input: &Input) {
        self.store.set_time(SystemTime::now());
        let effects = match input {
            &Input::Dns { id, hosts_changed, warmed } => self.store.resolved(id, hosts_changed, warmed),
            &Input::Drained(id) => self.store.drained(id),
            &Input::EndpointsStale(id) => {
                self.expiries.remove(&id);
                self.store.endpoints_stale(id)
            }
            &Input::FilesChanged(id) => self.store.files_changed(id),
            &Input::HostsChanged(slot) => vec![Effect::HostsChanged(slot)],
            Input::HostsChecked => self.store.checked(),
            Input::HostsLeft(slot, hosts) => {
                if let Some(workers) = &self.workers {
                    workers.hosts_left(*slot, hosts);
                }
                return;
            }
            Input::HostsFailed(slot, hosts) => {
                if let Some(workers) = &self.workers {
                    workers.hosts_failed(*slot, hosts);
                }
                return;
            }
        };
        self.execute(effects, None);
    }

    fn event(&mut self, key: StreamKey, event: Event) {
        self.store.set_time(SystemTime::now());
        match event {
            Event::Connected => tracing::debug!("configuration stream open"),
            Event::Disconnected { reason } => {
                tracing::warn!(reason, "configuration stream closed");
                for kind in [Kind::Endpoints, Kind::Routes, Kind::Secret] {
                    if key.carries(kind) {
                        self.store.failed(key.source, kind, Failure::Disconnected);
                    }
                }
            }
            Event::ControlPlaneIdentifier(identifier) => tracing::debug!(identifier, "control plane"),
            Event::Update(update) => self.update(key, update),
            Event::Rejected { type_url, reason } => {
                tracing::warn!(%type_url, reason, "configuration rejected");
                self.unreadable(key, &type_url, Failure::Rejected);
            }
            Event::Unreadable { type_url, reason } => {
                tracing::warn!(%type_url, reason, "configuration file not taken");
                self.unreadable(key, &type_url, Failure::Unreadable);
            }
            Event::FetchTimeout { type_url, name } => {
                tracing::warn!(%type_url, name, "initial fetch timed out");
                if let Some(kind) = Kind::of(type_url.as_str()) {
                    let effects = self.store.fetch_timeout(key.source, kind, &name);
                    self.execute(effects, None);
                }
            }
        }
    }

    fn unreadable(&mut self, key: StreamKey, type_url: &TypeUrl, failure: Failure) {
        if let Some(kind) = Kind::of(type_url.as_str()) {
            let effects = self.store.unreadable(key.source, kind, failure);
            self.execute(effects, None);
        }
    }

    fn update(&mut self, key: StreamKey, mut update: Update) {
        let start = Instant::now();
        let Some(kind) = Kind::of(update.type_url.as_str()) else {
            let reason = format!("resources of type {} were not asked for", update.type_url);
            let verdict = Verdict::reject(&update, vec![(String::new(), reason)]);
            self.streams.apply(key, vec![Command::Verdict(verdict)]);
            return;
        };
        let upserts = std::mem::take(&mut update.upserts);
        let response = Response {
            source: key.source,
            kind,
            version: update.version.clone(),
            upserts: upserts
                .into_iter()
                .map(|one| Delivered { name: one.name, version: one.version, any: one.any })
                .collect(),
            removed: std::mem::take(&mut update.removed),
        };
        let effects = self.store.apply(response, &mut self.sockets);
        let taken = effects
            .iter()
            .any(|effect| matches!(effect, Effect::Verdict { rejected } if rejected.is_empty()));
        self.execute(effects, Some((key, &update)));
        self.store.took(start.elapsed());
        if taken {
            self.streams.took(&update.type_url, start.elapsed());
        }
    }

    /// Does what the store decided; `answering` is the update that the verdict is about.
    fn execute(&mut self, effects: Vec<Effect>, answering: Option<(StreamKey, &Update)>) {
        let mut commands: BTreeMap<StreamKey, Vec<Command>> = BTreeMap::new();
        let mut closed = Vec::new();
        if let Some((key, command)) = self.hold_clusters() {
            commands.entry(key).or_default().push(command);
        }
        for effect in effects {
            match effect {
                Effect::Subscribe { source, kind, names, timeout } => {
                    let Some(key) = self.streams.open(&self.store, source, kind) else { continue };
                    closed.retain(|closed| *closed != key);
                    let type_url = TypeUrl::new(kind.type_url());
                    commands.entry(key).or_default().push(Command::Subscribe { type_url, names, timeout });
                }
                Effect::Unsubscribe { source, kind, names } => {
                    let Some(key) = self.streams.find(source, kind) else { continue };
                    let type_url = TypeUrl::new(kind.type_url());
                    commands.entry(key).or_default().push(Command::Unsubscribe { type_url, names });
                }
                Effect::Close { source, kind } => closed.extend(self.streams.find(source, kind)),
                Effect::Verdict { rejected } => {
                    let Some((key, update)) = answering else { continue };
                    for (name, reason) in &rejected {
                        tracing::warn!(type_url = %update.type_url, name, reason, "resource rejected");
                    }
                    let verdict = Verdict::reject(update, rejected);
                    commands.entry(key).or_default().push(Command::Verdict(verdict));
                }
                effect => self.act(effect),
            }
        }
        self.state.entered(self.store.phase());
        if self.store.phase() > Phase::PrimaryClusters
            && let Some(health_discovery) = self.health_discovery.take()
        {
            self.tasks.spawn_local(health_discovery.run());
        }
        for (key, commands) in commands {
            self.streams.apply(key, commands);
        }
        for key in closed {
            self.streams.close(key);
        }
    }

    /// On the aggregated stream, CDS is answered when the clusters it brought are warm, as Envoy does: so that a server that
    /// waits for the answer before it sends routes sends them to clusters that serve.
    fn hold_clusters(&mut self) -> Option<(StreamKey, Command)> {
        let source = self.store.aggregated_clusters()?;
        let hold = self.store.clusters_warm();
        if hold == std::mem::replace(&mut self.clusters_held, hold) {
            return None;
        }
        let command = if hold { Command::Pause(TypeUrl::CLUSTER) } else { Command::Resume(TypeUrl::CLUSTER) };
        Some((StreamKey::aggregated(source), command))
    }

    fn act(&mut self, effect: Effect) {
        let Some(workers) = &self.workers else { return };
        match effect {
            Effect::Subscribe { .. }
            | Effect::Unsubscribe { .. }
            | Effect::Close { .. }
            | Effect::Verdict { .. } => {}
            Effect::Publish(snapshot) => {
                self.directory.publish(&snapshot);
                workers.publish(&snapshot);
            }
            Effect::HostsChanged(slot) => workers.hosts_changed(slot),
            Effect::StartDiscovery { id, cluster } => {
                let task = self.look_after(id, cluster);
                self.discoveries.insert(id, task);
            }
            Effect::StopDiscovery(id) => {
                if let Some(task) = self.discoveries.remove(&id) {
                    task.abort();
                }
            }
            Effect::StartHealth { id, cluster } => {
                let task = self.watch_health(cluster);
                self.health.insert(id, task);
            }
            Effect::StopHealth(id) => {
                if let Some(task) = self.health.remove(&id) {
                    task.abort();
                }
            }
            Effect::AddListener { tag, listener } => {
                let shared = SharedListener::new(self.env.concurrency, &listener.name, &self.env.runtime);
                match self.sockets.of_workers(tag) {
                    Ok(sockets) => workers.add_listener(tag, &listener, &shared, sockets),
                    Err(error) => {
                        tracing::error!(%error, listener = %listener.name, "a listener cannot be started");
                        let stats = self.env.stats.scope("listener_manager").shared::<ListenerManagerStats>();
                        stats.listener_create_failure.inc();
                    }
                }
            }
            Effect::UpdateChains { tag, listener } => workers.update_chains(tag, &listener),
            Effect::RemoveListener { tag } => {
                workers.remove_listener(tag);
                self.sockets.close(tag);
            }
            Effect::StartDrain { id } => {
                self.later(self.drain_time, Input::Drained(id));
            }
            Effect::ExpireEndpoints { id, after } => {
                let timer = after.map(|after| self.later(after, Input::EndpointsStale(id)));
                let replaced = match timer {
                    Some(timer) => self.expiries.insert(id, timer),
                    None => self.expiries.remove(&id),
                };
                if let Some(replaced) = replaced {
                    replaced.abort();
                }
            }
            Effect::WatchFiles { id, directories } => {
                let task = self.watch(id, move || Watch::directories(&directories));
                self.watches.insert(id, task);
            }
            Effect::WatchFile { id, path } => {
                let task = self.watch(id, move || Watch::file(&path));
                self.watches.insert(id, task);
            }
            Effect::StopWatching(id) => {
                if let Some(task) = self.watches.remove(&id) {
                    task.abort();
                }
            }
            Effect::Ready => tracing::info!("all dependencies initialized, listeners accept"),
        }
    }

    fn later(&self, after: Duration, input: Input) -> AbortHandle {
        let inputs = self.inputs.clone();
        tokio::task::spawn_local(async move {
            tokio::time::sleep(after).await;
            // Nobody takes it when the process ends.
            let _ = inputs.send(input);
        })
        .abort_handle()
    }

    /// Tells of everything that such a watch sees, and of what may have happened before there was one.
    fn watch(&self, id: u64, begin: impl Fn() -> io::Result<Watch> + 'static) -> AbortHandle {
        let inputs = self.inputs.clone();
        tokio::task::spawn_local(async move {
            loop {
                let mut watched = begin();
                while let Ok(watch) = &watched {
                    // Nobody takes it when the process ends.
                    let _ = inputs.send(Input::FilesChanged(id));
                    if let Err(error) = watch.moved().await {
                        watched = Err(error);
                    }
                }
                if let Err(error) = watched {
                    tracing::warn!(%error, "files of secrets or trust bundles cannot be watched");
                }
                tokio::time::sleep(WATCH_AGAIN).await;
            }
        })
        .abort_handle()
    }

    fn watch_health(&self, cluster: Arc<Cluster>) -> AbortHandle {
        let inputs = self.inputs.clone();
        let slot = cluster.name.slot();
        let closes_all = cluster.balancing.close_connections_on_host_set_change;
        let closes_failed = cluster.closes_on_failure;
        let run = health::run(cluster, move |update| {
            // Nobody takes it when the process ends.
            match update {
                HealthUpdate::Checked => {
                    let _ = inputs.send(Input::HostsChecked);
                }
                HealthUpdate::Sorted { failed, removed } => {
                    if removed || closes_all {
                        let _ = inputs.send(Input::HostsChanged(slot));
                    }
                    if (closes_failed || !closes_all) && !failed.is_empty() {
                        let _ = inputs.send(Input::HostsFailed(slot, failed.into()));
                    }
                }
            }
        });
        tokio::task::spawn_local(run).abort_handle()
    }

    fn look_after(&self, id: u64, cluster: Arc<Cluster>) -> AbortHandle {
        let inputs = self.inputs.clone();
        let resolver = match &cluster.discovery {
            Discovery::Dns(config) => self.resolvers.of_cluster(config),
            Discovery::Dynamic(_) => {
                let slot = cluster.name.slot();
                let run = dynamic::run(cluster, move |left| {
                    // Nobody takes it when the process ends.
                    let _ = inputs.send(Input::HostsLeft(slot, left.into()));
                });
                return tokio::task::spawn_local(run).abort_handle();
            }
            Discovery::Static | Discovery::Eds(_) | Discovery::OriginalDst(_) | Discovery::Aggregate(_) => {
                return tokio::task::spawn_local(original_dst::run(cluster)).abort_handle();
            }
        };
        tokio::task::spawn_local(async move {
            dns::run(cluster, resolver, |update| {
                let hosts_changed = update.hosts.is_some();
                // Nobody takes it when the process ends.
                let _ = inputs.send(Input::Dns { id, hosts_changed, warmed: update.warmed });
            })
            .await;
        })
        .abort_handle()
    }
}

impl SharedState {
    fn entered(&self, phase: Phase) {
        use crate::admin::ServerState;
        self.set(match phase {
            Phase::Loading | Phase::PrimaryClusters | Phase::Clusters => ServerState::PreInitializing,
            Phase::Listeners => ServerState::Initializing,
            Phase::Live => ServerState::Live,
        });
    }
}
