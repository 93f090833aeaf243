//! The running process: builds what the bootstrap says, starts the workers, and ends them.

use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, bail};
use prost::Message;
use proxy_core::address::Address;
use proxy_core::config::{BuildCx, BuildEnv, ConfigError, NodeInfo};
use proxy_core::names::Names;
use proxy_core::runtime::{Runtime, RuntimeLayer};
use proxy_core::stats::groups::{RuntimeStats, ServerStats};
use proxy_core::stats::{Registry, Settings, ShardId, set_shard};
use proxy_engine::listener::accept::GlobalConnections;
use proxy_engine::local::drain::{DrainStrategy, ProcessDrain};
use proxy_engine::log_file::FileLogs;
use proxy_engine::net::socket;
use proxy_engine::state::Store;
use proxy_engine::upstream::dns::{ResolverConfig, Resolvers};
use proxy_engine::worker::{WorkerSetup, Workers};
use tokio::signal::unix::{SignalKind, signal};
use xds_api::envoy::config::bootstrap::v3::{Admin as AdminProto, Bootstrap, runtime_layer::LayerSpecifier};
use xds_api::read::Loaded;

use crate::admin::AdminState;
use crate::admin::ConfigDump;
use crate::admin::{AdminOptions, AdminServer};
use crate::cli;
use crate::process::{Admin, Process, dumped};
use crate::xds::{self, Configuration};

/// What the bootstrap's resources become.
pub struct Built {
    bootstrap: Bootstrap,
    env: Arc<BuildEnv>,
    logs: Arc<FileLogs>,
    store: Store,
    admin: Option<Address>,
    /// Whom clusters ask that name no resolver.
    resolver: ResolverConfig,
}

/// Builds everything without binding anything.
///
/// # Errors
/// Everything that is wrong, one line each.
pub fn build(loaded: Loaded<Bootstrap>, options: &cli::Options) -> anyhow::Result<Built> {
    let bootstrap = loaded.message;
    let workers = u16::try_from(options.workers()).context("too many workers")?;
    let config = bootstrap.stats_config.clone().unwrap_or_default();
    let settings = Settings::build(&config, &options.stats_tags)
        .map_err(|errors| anyhow::anyhow!("stats_config: {}", join(&errors)))?;
    let stats = Registry::with_settings(workers, settings);
    let logs = Arc::new(FileLogs::new(options.file_flush_interval, &stats));
    let env = Arc::new(BuildEnv {
        extensions: proxy_extensions::extensions(),
        clusters: Names::default(),
        routes: Names::default(),
        runtime: Arc::new(Runtime::new(runtime_layers(&bootstrap)?)),
        log_files: logs.clone(),
        stats,
        node: node_info(&bootstrap, options),
        concurrency: options.workers(),
    });
    let mut cx = BuildCx::new(&env);
    let address = bootstrap.admin.as_ref().and_then(|admin: &AdminProto| admin.address.as_ref());
    let admin = cx.at("admin", |cx| {
        cx.at("address", |cx| address.map(|address| Address::build(address, cx)).transpose())
    });
    let resolver = ResolverConfig::from_bootstrap(&bootstrap, &mut cx);
    let mut errors = cx.into_errors();
    let mut store = Store::new(env.clone());
    store.set_time(SystemTime::now());
    if let Err(found) = store.load(&bootstrap) {
        errors.extend(found);
    }
    match (admin, resolver) {
        (Ok(admin), Ok(resolver)) if errors.is_empty() => {
            Ok(Built { bootstrap, env, logs, store, admin, resolver })
        }
        _ => bail!("{}", join(&errors)),
    }
}

fn node_info(bootstrap: &Bootstrap, options: &cli::Options) -> NodeInfo {
    let node = bootstrap.node.clone().unwrap_or_default();
    let or =
        |configured: String, option: &str| if configured.is_empty() { option.to_owned() } else { configured };
    NodeInfo {
        id: or(node.id, &options.service_node),
        cluster: or(node.cluster, &options.service_cluster),
        zone: or(node.locality.map(|locality| locality.zone).unwrap_or_default(), &options.service_zone),
    }
}

fn runtime_layers(bootstrap: &Bootstrap) -> anyhow::Result<Vec<RuntimeLayer>> {
    let mut layers = Vec::new();
    for layer in bootstrap.layered_runtime.iter().flat_map(|runtime| &runtime.layers) {
        let mut built = RuntimeLayer { name: layer.name.clone(), ..RuntimeLayer::default() };
        match &layer.layer_specifier {
            Some(LayerSpecifier::StaticLayer(values)) => flatten("", values, &mut built),
            Some(LayerSpecifier::AdminLayer(_)) => built.is_admin = true,
            Some(LayerSpecifier::DiskLayer(_) | LayerSpecifier::RtdsLayer(_)) => {
                bail!(
                    "layered_runtime.layers: layer '{}': only static and admin layers are available",
                    layer.name
                );
            }
            None => {}
        }
        layers.push(built);
    }
    Ok(layers)
}

/// Nested values become dotted keys; a fractional percentage stays one value.
fn flatten(prefix: &str, values: &prost_types::Struct, layer: &mut RuntimeLayer) {
    use prost_types::value::Kind;
    for (key, value) in &values.fields {
        let key = if prefix.is_empty() { key.clone() } else { format!("{prefix}.{key}") };
        let text = match &value.kind {
            Some(Kind::StructValue(inner)) => {
                if let Some(Kind::NumberValue(numerator)) =
                    inner.fields.get("numerator").and_then(|one| one.kind.as_ref())
                {
                    numerator.to_string()
                } else {
                    flatten(&key, inner, layer);
                    continue;
                }
            }
            Some(Kind::NumberValue(number)) => number.to_string(),
            Some(Kind::StringValue(text)) => text.clone(),
            Some(Kind::BoolValue(flag)) => flag.to_string(),
            Some(Kind::NullValue(_) | Kind::ListValue(_)) | None => continue,
        };
        layer.values.insert(key, text);
    }
}

fn join(errors: &[ConfigError]) -> String {
    errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
}

/// Runs until a signal or the admin interface ends it.
///
/// # Errors
/// A socket could not be bound or a thread not be made.
pub fn run(built: Built, options: cli::Options) -> anyhow::Result<()> {
    set_shard(ShardId(0));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let local = tokio::task::LocalSet::new();
    local.block_on(&runtime, serve(built, options))
}

async fn serve(built: Built, options: cli::Options) -> anyhow::Result<()> {
    let strategy = match options.drain_strategy {
        cli::DrainStrategy::Gradual => DrainStrategy::Gradual,
        cli::DrainStrategy::Immediate => DrainStrategy::Immediate,
    };
    let workers = options.workers();
    let drain = Arc::new(ProcessDrain::new(options.drain_time, strategy));
    let limit = built
        .env
        .runtime
        .number("overload.global_downstream_max_connections")
        .and_then(|limit| usize::try_from(limit).ok());
    let setup = Arc::new(WorkerSetup {
        env: built.env.clone(),
        drain: drain.clone(),
        connections: GlobalConnections::new(limit),
    });
    let (configuration, inputs) = Configuration::new(
        &built.env,
        built.store,
        &built.bootstrap,
        Resolvers::new(built.resolver),
        options.drain_time,
    );
    let process = Rc::new(Process {
        env: built.env.clone(),
        drain,
        logs: built.logs,
        configuration: configuration.clone(),
        dump: config_dump(&built.bootstrap),
        node: node_json(&built.bootstrap),
        started: Instant::now(),
        quit: tokio::sync::Notify::new(),
        options,
    });
    if let Some(address) = &built.admin {
        start_admin(&process, address, built.bootstrap.admin.as_ref())?;
    }
    configuration.start(|| Workers::start(workers, &setup))?;
    tokio::task::spawn_local(flush_statistics(process.clone(), flush_interval(&built.bootstrap)));
    tracing::info!("starting main dispatch loop");
    tokio::select! {
        ended = wait_for_the_end(&process) => ended?,
        () = xds::run(configuration.clone(), inputs) => {}
    }
    configuration.shutdown();
    process.logs.flush();
    tracing::info!("exiting");
    Ok(())
}

/// `stats_flush_interval`, 5 s by default.
fn flush_interval(bootstrap: &Bootstrap) -> Duration {
    bootstrap
        .stats_flush_interval
        .as_ref()
        .and_then(proxy_core::config::duration)
        .filter(|interval| !interval.is_zero())
        .unwrap_or(Duration::from_secs(5))
}

/// Keeps `server.*` true and closes the interval of histograms, for as long as the process runs.
async fn flush_statistics(process: Rc<Process>, interval: Duration) {
    let server = process.env.stats.scope("server").shared::<ServerStats>();
    let runtime = process.env.stats.scope("runtime").shared::<RuntimeStats>();
    server.concurrency.set(process.options.workers() as u64);
    server.live.set(1);
    server.hot_restart_epoch.set(process.options.restart_epoch.into());
    runtime.load_success.inc();
    let admin = Admin(process.clone());
    loop {
        server.state.set(admin.state().gauge());
        server.uptime.set(process.started.elapsed().as_secs());
        let memory = admin.memory();
        server.memory_allocated.set(memory.allocated);
        server.memory_heap_size.set(memory.heap_size);
        server.memory_physical_size.set(memory.total_physical_bytes);
        let layers = process.env.runtime.layers();
        runtime.num_layers.set(layers.len() as u64);
        runtime.num_keys.set(layers.iter().map(|layer| layer.values.len()).sum::<usize>() as u64);
        tokio::time::sleep(interval).await;
        process.env.stats.flush();
    }
}

async fn wait_for_the_end(process: &Process) -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut reopen = signal(SignalKind::user_defined1())?;
    loop {
        tokio::select! {
            _ = terminate.recv() => tracing::warn!("caught ENVOY_SIGTERM"),
            _ = interrupt.recv() => tracing::warn!("caught SIGINT"),
            () = process.quit.notified() => {}
            _ = reopen.recv() => {
                tracing::info!("caught SIGUSR1. Reopening access logs.");
                process.logs.reopen();
                continue;
            }
        }
        return Ok(());
    }
}

fn start_admin(process: &Rc<Process>, address: &Address, proto: Option<&AdminProto>) -> anyhow::Result<()> {
    let mut cx = BuildCx::new(&process.env);
    let allowed = proto.map_or(&[][..], |admin| &admin.allow_paths);
    let allow_paths = cx.each("allow_paths", allowed, proxy_core::matcher::StringMatcher::build);
    let Ok(allow_paths) = allow_paths else { bail!("admin: {}", join(&cx.into_errors())) };
    let socket = socket::listen(address, &socket::ListenOptions::default())
        .with_context(|| format!("cannot bind '{address}' for the admin interface"))?;
    let bound = socket::local_address(&socket)?;
    if let Some(path) = &process.options.admin_address_path {
        std::fs::write(path, bound.to_string())
            .with_context(|| format!("cannot write the admin address to '{path}'"))?;
    }
    tracing::info!("admin address: {bound}");
    let server = AdminServer::new(Rc::new(Admin(process.clone())), AdminOptions { allow_paths });
    if bound.ip().is_some() {
        let listener = tokio::net::TcpListener::from_std(socket.into())?;
        tokio::task::spawn_local(async move { server.serve_tcp(listener).await });
    } else {
        let listener = tokio::net::UnixListener::from_std(std::os::fd::OwnedFd::from(socket).into())?;
        tokio::task::spawn_local(async move { server.serve_unix(listener).await });
    }
    Ok(())
}

fn config_dump(bootstrap: &Bootstrap) -> ConfigDump {
    ConfigDump {
        bootstrap: Some(dumped("", "envoy.config.bootstrap.v3.Bootstrap", bootstrap.encode_to_vec())),
        ..ConfigDump::default()
    }
}

fn node_json(bootstrap: &Bootstrap) -> serde_json::Value {
    let node = bootstrap.node.clone().unwrap_or_default();
    serde_json::json!({ "id": node.id, "cluster": node.cluster })
}
