//! The running process: builds what the bootstrap says, starts the workers, and ends them.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use proxy_core::config::{BuildCx, BuildEnv, ConfigError, NodeInfo};
use proxy_core::names::Names;
use proxy_core::runtime::Runtime;
use proxy_core::stats::{Registry, ShardId, set_shard};
use proxy_engine::listener::accept::{Bound, GlobalConnections, SharedListener};
use proxy_engine::listener::config::Listener;
use proxy_engine::local::drain::{DrainStrategy, ProcessDrain};
use proxy_engine::log_file::FileLogs;
use proxy_engine::net::socket;
use proxy_engine::upstream::cluster::Cluster;
use proxy_engine::worker::{Snapshot, WorkerSetup, Workers};
use tokio::signal::unix::{SignalKind, signal};
use xds_api::envoy::config::bootstrap::v3::Bootstrap;

/// What the command line says about the process.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Number of workers.
    pub concurrency: usize,
    /// Drain time.
    pub drain_time: Duration,
    /// Drain strategy.
    pub drain_strategy: DrainStrategy,
}

/// How long a log line may wait for company (Envoy's default of `--file-flush-interval-msec`).
const LOG_FLUSH_INTERVAL: Duration = Duration::from_secs(10);

/// What the bootstrap's static resources become.
pub struct Built {
    env: Arc<BuildEnv>,
    clusters: Vec<Arc<Cluster>>,
    listeners: Vec<Arc<Listener>>,
}

/// Builds everything without binding anything.
///
/// # Errors
/// Everything that is wrong, one line each.
pub fn build(bootstrap: &Bootstrap, settings: &Settings) -> anyhow::Result<Built> {
    let workers = u16::try_from(settings.concurrency).context("too many workers")?;
    let stats = Registry::new(workers);
    let env = Arc::new(BuildEnv {
        extensions: proxy_extensions::extensions(),
        clusters: Names::default(),
        routes: Names::default(),
        runtime: Arc::new(Runtime::default()),
        log_files: Arc::new(FileLogs::new(LOG_FLUSH_INTERVAL, &stats)),
        stats,
        node: NodeInfo::default(),
        concurrency: settings.concurrency,
    });
    let mut cx = BuildCx::new(&env);
    let resources = bootstrap.static_resources.clone().unwrap_or_default();
    let (clusters, listeners) = cx.at("static_resources", |cx| {
        let clusters = cx.each("clusters", &resources.clusters, Cluster::build);
        let listeners = cx.each("listeners", &resources.listeners, Listener::build);
        (clusters, listeners)
    });
    let errors = cx.into_errors();
    let (Ok(clusters), Ok(listeners)) = (clusters, listeners) else {
        bail!("{}", join(&errors));
    };
    Ok(Built { env, clusters, listeners })
}

fn join(errors: &[ConfigError]) -> String {
    errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
}

/// Runs until a signal ends it.
///
/// # Errors
/// A socket could not be bound or a thread not be made.
pub fn run(built: Built, settings: &Settings) -> anyhow::Result<()> {
    set_shard(ShardId(0));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(serve(built, settings))
}

async fn serve(built: Built, settings: &Settings) -> anyhow::Result<()> {
    let setup = Arc::new(WorkerSetup {
        env: built.env.clone(),
        drain: Arc::new(ProcessDrain::new(settings.drain_time, settings.drain_strategy)),
        connections: GlobalConnections::new(None),
    });
    let mut sockets = Vec::new();
    for listener in &built.listeners {
        sockets.push(bind(listener, settings.concurrency)?);
    }
    let workers = Workers::start(settings.concurrency, &setup)?;
    let mut snapshot = Snapshot::default();
    snapshot.clusters.resize_with(built.env.clusters.slots(), || None);
    for cluster in &built.clusters {
        if let Some(slot) = snapshot.clusters.get_mut(cluster.name.slot()) {
            *slot = Some(cluster.clone());
        }
    }
    workers.publish(&Arc::new(snapshot));
    for (tag, (listener, sockets)) in built.listeners.iter().zip(sockets).enumerate() {
        let shared = SharedListener::new(settings.concurrency, None);
        workers.add_listener(tag as u64, listener, &shared, sockets);
    }
    tracing::info!("starting main dispatch loop");
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    tokio::select! {
        _ = terminate.recv() => tracing::warn!("caught SIGTERM"),
        _ = interrupt.recv() => tracing::warn!("caught SIGINT"),
    }
    workers.shutdown();
    Ok(())
}

/// Sockets for every worker.
fn bind(listener: &Listener, workers: usize) -> anyhow::Result<Vec<Vec<Bound>>> {
    let mut all: Vec<Vec<Bound>> = (0..workers).map(|_| Vec::new()).collect();
    if !listener.bind_to_port {
        return Ok(all);
    }
    for (address, options) in &listener.addresses {
        let first = socket::listen(address, options)
            .with_context(|| format!("cannot bind '{address}' for listener '{}'", listener.name))?;
        // The kernel may have chosen the port.
        let bound = socket::local_address(&first)?;
        let mut first = Some(first);
        for sockets in &mut all {
            let socket = match first.take() {
                Some(first) => first,
                None if options.reuse_port && bound.ip().is_some() => socket::listen(&bound, options)?,
                None => continue,
            };
            sockets.push(match bound.ip() {
                Some(_) => Bound::Tcp(socket.into()),
                None => Bound::Unix(std::os::fd::OwnedFd::from(socket).into()),
            });
        }
    }
    Ok(all)
}
