//! The running process: builds what the bootstrap says, starts the workers, and ends them.

use std::cell::OnceCell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use anyhow::{Context, bail};
use prost::Message;
use prost_types::value::Kind;
use proxy_core::address::Address;
use proxy_core::background::Background;
use proxy_core::config::{BuildCx, BuildEnv, ClusterDefaults, ConfigError, NodeInfo, Rejected};
use proxy_core::extension::access_log::{AccessLog, LogFile, LogFiles};
use proxy_core::extension::stats_sink::{Surroundings, build_sink};
use proxy_core::extension::tracer::{Tracer, build_tracer};
use proxy_core::kept::Kept;
use proxy_core::log_filter::{build_access_log, build_access_logs};
use proxy_core::names::Names;
use proxy_core::runtime::{Runtime, RuntimeLayer};
use proxy_core::stats::groups::{HighMemoryStreamStats, OverloadStats, ResourceMonitorStats, RouterStats};
use proxy_core::stats::{self, Cells, Registry, ShardId, Shared, set_shard};
use proxy_engine::listener::accept::{ConnectionLimit, GLOBAL_LIMIT, GlobalConnections};
use proxy_engine::local::dispatcher::Dispatcher;
use proxy_engine::local::drain::{DrainStrategy, ProcessDrain};
use proxy_engine::local::watchdog::Watchdog;
use proxy_engine::log_file::FileLogs;
use proxy_engine::net::socket::{self, HostAddress, ListenOptions};
use proxy_engine::state::Store;
use proxy_engine::upstream::dns::{Caches, Resolvers, look_up_names};
use proxy_engine::worker::{WorkerSetup, Workers};
use tokio::signal::unix::{SignalKind, signal};
use xds_api::envoy::config::accesslog::v3::{AccessLog as AccessLogProto, access_log::ConfigType};
use xds_api::envoy::config::bootstrap::v3::{Admin as AdminProto, Bootstrap, runtime_layer::LayerSpecifier};
use xds_api::envoy::config::trace::v3::tracing::http::ConfigType as TracerType;
use xds_api::envoy::extensions::access_loggers::file::v3::FileAccessLog;

use xds_api::read::Loaded;

use crate::admin::ConfigDump;
use crate::admin::{AdminOptions, AdminServer};
use crate::bootstrap::{Checked, Settings};
use crate::fields::guard::{FieldGuard, UnknownFields};
use crate::flushing::{Flushing, Sinks, When};
use crate::process::{Admin, Process, dumped};
use crate::xds::{self, Configuration};
use crate::{cli, disabled, logging, memory, overload, panics};

/// What the bootstrap's resources become.
pub struct Built {
    /// Without its static resources, which are in `store`.
    bootstrap: Bootstrap,
    /// The whole of it on the wire, for `/config_dump`.
    wire: Vec<u8>,
    env: Arc<BuildEnv>,
    dns_caches: Arc<Caches>,
    logs: Arc<FileLogs>,
    store: Store,
    admin: Option<AdminConfig>,
    settings: Settings,
    sinks: Sinks,
}

/// The admin interface, built.
struct AdminConfig {
    address: Address,
    socket: ListenOptions,
    options: AdminOptions,
}

impl AdminConfig {
    fn build(proto: &AdminProto, cx: &mut BuildCx<'_>) -> Result<Option<Self>, Rejected> {
        let allow_paths =
            cx.each("allow_paths", &proto.allow_paths, proxy_core::matcher::StringMatcher::build);
        #[allow(deprecated)] // Envoy takes it still.
        let access_logs = admin_logs(&proto.access_log, &proto.access_log_path, cx);
        let address = proto.address.as_ref().map(|proto| {
            Ok((cx.at("address", |cx| Address::build(proto, cx))?, ListenOptions::of_address(proto)))
        });
        let address = address.transpose()?;
        let options = AdminOptions { allow_paths: allow_paths?, access_logs: access_logs? };
        Ok(address.map(|(address, socket)| Self { address, socket, options }))
    }
}

/// `access_log`, and the older `access_log_path`, which is a log file in the default format.
fn admin_logs(
    protos: &[AccessLogProto],
    path: &str,
    cx: &mut BuildCx<'_>,
) -> Result<Vec<Arc<dyn AccessLog>>, Rejected> {
    let mut logs = build_access_logs(protos, cx)?;
    if !path.is_empty() {
        let file = FileAccessLog { path: path.to_owned(), access_log_format: None };
        let any = prost_types::Any { type_url: FILE_LOG.to_owned(), value: file.encode_to_vec() };
        let proto =
            AccessLogProto { config_type: Some(ConfigType::TypedConfig(any)), ..AccessLogProto::default() };
        logs.push(cx.at("access_log_path", |cx| build_access_log(&proto, cx))?);
    }
    Ok(logs)
}

const FILE_LOG: &str = "type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog";

/// Builds everything without binding anything.
///
/// # Errors
/// Everything that is wrong, one line each.
pub fn build(mut checked: Checked, options: &cli::Options) -> anyhow::Result<Built> {
    let bootstrap = &checked.loaded.message;
    let workers = u16::try_from(options.workers()).context("too many workers")?;
    let mut errors = Vec::new();
    let config = bootstrap.stats_config.clone().unwrap_or_default();
    let settings =
        stats::Settings::build(&config, &options.stats_tags).unwrap_or_else(|found| keep(&mut errors, found));
    let stats = Registry::with_settings(workers, settings);
    let flush_at =
        usize::try_from(options.file_flush_min_size_kb).map_or(usize::MAX, |size| size.saturating_mul(1024));
    let logs = Arc::new(FileLogs::new(options.file_flush_interval, flush_at, &stats));
    let runtime = runtime_layers(bootstrap).unwrap_or_else(|found| keep(&mut errors, found));
    let runtime = Arc::new(Runtime::new(runtime));
    let guard =
        Arc::new(FieldGuard::new(unknown_fields(options), !options.skip_deprecated_logs, &runtime, &stats));
    let dns_caches = Arc::new(Caches::default());
    let mut env = BuildEnv {
        extensions: disabled::without(proxy_extensions::extensions(), &options.disabled_extensions)?,
        clusters: Names::default(),
        routes: Names::default(),
        runtime,
        log_files: logs.clone(),
        checks: guard.clone(),
        cluster_defaults: ClusterDefaults::default(),
        outlier_log: None,
        stats,
        node: node_info(bootstrap, options),
        concurrency: options.workers(),
        background: Background::default(),
        kept: Kept::default(),
        dns_caches: dns_caches.clone(),
        default_tracer: None,
    };
    let mut cx = BuildCx::new(&env);
    let defaults = Settings::cluster_defaults(bootstrap, &mut cx).unwrap_or_default();
    errors.extend(cx.into_errors());
    env.cluster_defaults = defaults;
    let mut cx = BuildCx::new(&env);
    let tracer = default_tracer(bootstrap, &mut cx).unwrap_or_default();
    errors.extend(cx.into_errors());
    env.default_tracer = tracer;
    env.outlier_log = outlier_log(bootstrap, &*logs).unwrap_or_else(|error| {
        errors.push(error);
        None
    });
    let env = Arc::new(env);
    let mut cx = BuildCx::new(&env);
    let admin = match &bootstrap.admin {
        Some(admin) => cx.at("admin", |cx| AdminConfig::build(admin, cx)),
        None => Ok(None),
    };
    let settings = Settings::build(bootstrap, &mut cx);
    let clusters = bootstrap.static_resources.as_ref().map_or(&[][..], |resources| &resources.clusters);
    let around = Surroundings { node: &|| xds::node(&env, bootstrap), clusters };
    let sinks = cx.each("stats_sinks", &bootstrap.stats_sinks, |proto, cx| build_sink(proto, &around, cx));
    let log_format = log_format(bootstrap, options, &mut cx);
    errors.extend(cx.into_errors());
    let mut store = Store::new(env.clone());
    store.set_time(SystemTime::now());
    if let Err(found) = store.load(&mut checked.loaded.message) {
        errors.extend(found);
    }
    checked.verdict(errors)?;
    let (Ok(admin), Ok(settings), Ok(sinks), Ok(log_format)) = (admin, settings, sinks, log_format) else {
        bail!("the bootstrap is wrong, but nothing says why");
    };
    if let Some(pattern) = log_format {
        logging::set_pattern(pattern);
    }
    guard.bootstrap(&checked.ignored, &checked.loaded.unknown_fields, &checked.deprecated);
    let Loaded { message: bootstrap, bytes: wire, .. } = checked.loaded;
    Ok(Built { bootstrap, wire, env, dns_caches, logs, store, admin, settings, sinks: Sinks::new(sinks) })
}

/// The tracer of connection managers that name none.
fn default_tracer(bootstrap: &Bootstrap, cx: &mut BuildCx<'_>) -> Result<Option<Arc<dyn Tracer>>, Rejected> {
    #[allow(deprecated, reason = "control planes still send it")]
    let Some(http) = bootstrap.tracing.as_ref().and_then(|tracing| tracing.http.as_ref()) else {
        return Ok(None);
    };
    cx.at("tracing", |cx| {
        let any = http.config_type.as_ref().map(|TracerType::TypedConfig(any)| any);
        cx.at("http", |cx| build_tracer(any, cx).map(Some))
    })
}

/// The log of outlier detection.
fn outlier_log(bootstrap: &Bootstrap, logs: &dyn LogFiles) -> Result<Option<Arc<dyn LogFile>>, ConfigError> {
    let detection = bootstrap.cluster_manager.as_ref().and_then(|manager| manager.outlier_detection.as_ref());
    let Some(path) = detection.map(|detection| &detection.event_log_path).filter(|path| !path.is_empty())
    else {
        return Ok(None);
    };
    logs.open(path).map(Some).map_err(|error| ConfigError {
        path: "cluster_manager.outlier_detection.event_log_path".to_owned(),
        reason: format!("unable to open file '{path}': {error}"),
    })
}

/// Remembers errors and goes on with nothing.
fn keep<T: Default>(errors: &mut Vec<ConfigError>, found: Vec<ConfigError>) -> T {
    errors.extend(found);
    T::default()
}

fn unknown_fields(options: &cli::Options) -> UnknownFields {
    if options.reject_unknown_dynamic_fields {
        UnknownFields::Reject
    } else if options.ignore_unknown_dynamic_fields {
        UnknownFields::Ignore
    } else {
        UnknownFields::Count
    }
}

/// The pattern of log lines that `application_log_config` sets.
fn log_format(
    bootstrap: &Bootstrap,
    options: &cli::Options,
    cx: &mut BuildCx<'_>,
) -> Result<Option<String>, Rejected> {
    use xds_api::envoy::config::bootstrap::v3::bootstrap::application_log_config::log_format::LogFormat as Format;
    let format = bootstrap.application_log_config.as_ref().and_then(|config| config.log_format.as_ref());
    let Some(format) = format.and_then(|format| format.log_format.as_ref()) else { return Ok(None) };
    cx.at("application_log_config", |cx| {
        cx.at("log_format", |cx| {
            if options.log_format != cli::Options::default().log_format {
                let reason =
                    "Only one of ApplicationLogConfig.log_format or CLI option --log-format can be specified.";
                return Err(cx.reject(reason));
            }
            match format {
                Format::TextFormat(pattern) => Ok(Some(pattern.clone())),
                Format::JsonFormat(values) => {
                    cx.at("json_format", |cx| logging::json_pattern(values).map_err(|error| cx.reject(error))).map(Some)
                }
            }
        })
    })
}

/// Texts of the node's metadata that are kept have this many bytes at most, and so many are kept.
const SHORT: usize = 256;
const MOST_TEXTS: usize = 1024;

fn node_info(bootstrap: &Bootstrap, options: &cli::Options) -> NodeInfo {
    let node = bootstrap.node.as_ref();
    let or = |configured: Option<&String>, option: &str| {
        configured.filter(|configured| !configured.is_empty()).map_or_else(|| option.to_owned(), Clone::clone)
    };
    // Sets of labels are asked for, and what is short; the rest may be large.
    let metadata = node.and_then(|node| node.metadata.as_ref()).into_iter().flat_map(|all| &all.fields);
    let mut texts = 0;
    let kept = metadata.filter(|(_, value)| match &value.kind {
        Some(Kind::StructValue(_)) => true,
        Some(Kind::StringValue(text)) if text.len() <= SHORT => {
            texts += 1;
            texts <= MOST_TEXTS
        }
        _ => false,
    });
    NodeInfo {
        id: or(node.map(|node| &node.id), &options.service_node),
        cluster: or(node.map(|node| &node.cluster), &options.service_cluster),
        metadata: prost_types::Struct {
            fields: kept.map(|(key, value)| (key.clone(), value.clone())).collect(),
        },
        region: node.and_then(|node| Some(node.locality.as_ref()?.region.clone())).unwrap_or_default(),
        sub_zone: node.and_then(|node| Some(node.locality.as_ref()?.sub_zone.clone())).unwrap_or_default(),
        zone: or(node.and_then(|node| Some(&node.locality.as_ref()?.zone)), &options.service_zone),
        address: Some(socket::host_address(match options.local_address_ip_version {
            cli::IpVersion::V4 => HostAddress::V4,
            cli::IpVersion::V6 => HostAddress::V6,
        })),
    }
}

fn runtime_layers(bootstrap: &Bootstrap) -> Result<Vec<RuntimeLayer>, Vec<ConfigError>> {
    let mut layers = Vec::new();
    let mut errors = Vec::new();
    let protos = bootstrap.layered_runtime.iter().flat_map(|runtime| &runtime.layers);
    for (index, layer) in protos.enumerate() {
        let mut built = RuntimeLayer { name: layer.name.clone(), ..RuntimeLayer::default() };
        match &layer.layer_specifier {
            Some(LayerSpecifier::StaticLayer(values)) => flatten("", values, &mut built),
            Some(LayerSpecifier::AdminLayer(_)) => built.is_admin = true,
            Some(other @ (LayerSpecifier::DiskLayer(_) | LayerSpecifier::RtdsLayer(_))) => {
                let is_disk = matches!(other, LayerSpecifier::DiskLayer(_));
                let field = if is_disk { "disk_layer" } else { "rtds_layer" };
                let reason = "only static and admin layers are available".to_owned();
                errors.push(ConfigError { path: format!("layered_runtime.layers[{index}].{field}"), reason });
            }
            None => {}
        }
        layers.push(built);
    }
    if errors.is_empty() { Ok(layers) } else { Err(errors) }
}

/// A fractional percentage as text, which [`proxy_core::runtime::Runtime::fraction`] reads.
fn fraction(fields: &prost_types::Struct) -> String {
    use prost_types::value::Kind;
    let mut parts = Vec::new();
    for name in ["numerator", "denominator"] {
        match fields.fields.get(name).and_then(|value| value.kind.as_ref()) {
            Some(Kind::NumberValue(number)) => parts.push(format!("{name}: {number}")),
            Some(Kind::StringValue(text)) => parts.push(format!("{name}: {text}")),
            _ => {}
        }
    }
    format!("{{{}}}", parts.join(", "))
}

/// Nested values become dotted keys; a fractional percentage stays one value.
fn flatten(prefix: &str, values: &prost_types::Struct, layer: &mut RuntimeLayer) {
    use prost_types::value::Kind;
    for (key, value) in &values.fields {
        let key = if prefix.is_empty() { key.clone() } else { format!("{prefix}.{key}") };
        let text = match &value.kind {
            Some(Kind::StructValue(inner)) => {
                if !["numerator", "denominator"].iter().any(|name| inner.fields.contains_key(*name)) {
                    flatten(&key, inner, layer);
                    continue;
                }
                fraction(inner)
            }
            Some(Kind::NumberValue(number)) => number.to_string(),
            Some(Kind::StringValue(text)) => text.clone(),
            Some(Kind::BoolValue(flag)) => flag.to_string(),
            Some(Kind::NullValue(_) | Kind::ListValue(_)) | None => continue,
        };
        layer.values.insert(key, text);
    }
}

/// Runs until a signal or the admin interface ends it.
///
/// # Errors
/// A socket could not be bound or a thread not be made.
pub fn run(built: Built, options: cli::Options) -> anyhow::Result<()> {
    memory::give_back();
    set_shard(ShardId(0));
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    let local = tokio::task::LocalSet::new();
    if built.bootstrap.enable_dispatcher_stats {
        let dispatcher = Dispatcher::new(&built.env.stats, "server");
        dispatcher.observe(&mut runtime, || (), || ());
        local.spawn_local(dispatcher.measure_delays());
    }
    let runtime = runtime.enable_all().build()?;
    local.block_on(&runtime, serve(built, options))
}

async fn serve(built: Built, options: cli::Options) -> anyhow::Result<()> {
    let strategy = match options.drain_strategy {
        cli::DrainStrategy::Gradual => DrainStrategy::Gradual,
        cli::DrainStrategy::Immediate => DrainStrategy::Immediate,
    };
    panics::watch(&built.env.stats);
    let workers = options.workers();
    let drain = Arc::new(ProcessDrain::new(options.drain_time, strategy));
    let connections = GlobalConnections::new(connection_limit(&built));
    let most_connections = built.settings.overload.most_connections;
    let manager = overload::Manager::new(built.settings.overload, &connections, &built.env.stats);
    let watchdog = Watchdog::start(&built.env.stats)?;
    let setup = Arc::new(WorkerSetup {
        watchdog: watchdog.clone(),
        dispatcher_stats: built.bootstrap.enable_dispatcher_stats,
        env: built.env.clone(),
        drain: drain.clone(),
        connections: connections.clone(),
        overload: manager.as_ref().map(overload::Manager::overload),
        tidy: memory::tidy,
        give_back: memory::give_back,
    });
    let resolvers = Arc::new(Resolvers::new(built.settings.resolver.clone(), &built.env.stats));
    let (configuration, inputs) =
        Configuration::new(&built.env, built.store, &built.bootstrap, resolvers.clone(), options.drain_time);
    let process = Rc::new(Process {
        env: built.env.clone(),
        drain,
        connections,
        logs: built.logs,
        configuration: configuration.clone(),
        dump: config_dump(built.wire),
        node: node_json(&built.bootstrap),
        started: Instant::now(),
        quit: tokio::sync::Notify::new(),
        flushed_when_shown: OnceCell::new(),
        options,
    });
    if let Some(admin) = built.admin {
        start_admin(&process, admin)?;
    }
    if process.options.mode == cli::Mode::InitOnly {
        configuration.bind()?;
        tracing::info!("exiting: everything is built and bound");
        return Ok(());
    }
    configuration.start(|| Workers::start(workers, &setup))?;
    tokio::task::spawn_local(look_up_names(built.dns_caches, resolvers));
    let version = built.bootstrap.stats_server_version_override;
    let flushing = Rc::new(Flushing::new(&process, built.sinks, version));
    match When::of(&built.bootstrap) {
        When::Every(interval) => drop(tokio::task::spawn_local(flushing.run(interval))),
        When::Shown => drop(process.flushed_when_shown.set(flushing)),
    }
    tokio::task::spawn_local(watchdog.watch("main_thread", "main_thread"));
    if let Some(manager) = manager {
        tokio::task::spawn_local(manager.run(memory::give_back));
    }
    let _standing = StandingStats::new(&process.env.stats, most_connections.is_some());
    // With thousands of clusters it is the largest thing there is; what is dumped of it is kept as bytes.
    drop(built.bootstrap);
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

/// Who limits the connections of the process; Envoy warns if nobody does.
fn connection_limit(built: &Built) -> ConnectionLimit {
    if let Some(limit) = built.settings.overload.most_connections {
        return ConnectionLimit::OverloadManager(limit);
    }
    if built.env.runtime.number(GLOBAL_LIMIT).is_none() {
        tracing::warn!(
            "There is no configured limit to the number of allowed active downstream connections. Configure a \
             limit in `envoy.resource_monitors.global_downstream_max_connections` resource monitor."
        );
    }
    ConnectionLimit::Runtime(built.env.runtime.clone())
}

/// Names that are there in Envoy from the start and for ever, whatever happens to them.
struct StandingStats {
    _overload: Shared<OverloadStats>,
    _connections: Option<Shared<ResourceMonitorStats>>,
    _streams: Shared<HighMemoryStreamStats>,
    _async_client: Cells<RouterStats>,
}

impl StandingStats {
    fn new(stats: &Arc<Registry>, limits_connections: bool) -> Self {
        let monitor = || stats.scope("overload.envoy.resource_monitors.global_downstream_max_connections");
        Self {
            _overload: stats.scope("overload").shared(),
            _connections: limits_connections.then(|| monitor().shared()),
            _streams: stats.scope("envoy.overload_actions.reset_high_memory_stream").shared(),
            _async_client: stats.scope("http.async-client").cells(),
        }
    }
}

async fn wait_for_the_end(process: &Process) -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut reopen = signal(SignalKind::user_defined1())?;
    let mut hangup = signal(SignalKind::hangup())?;
    loop {
        tokio::select! {
            _ = terminate.recv() => tracing::warn!("caught ENVOY_SIGTERM"),
            _ = interrupt.recv() => tracing::warn!("caught SIGINT"),
            () = process.quit.notified() => {}
            _ = hangup.recv() => {
                tracing::warn!("caught and eating SIGHUP");
                continue;
            }
            _ = reopen.recv() => {
                tracing::info!("caught SIGUSR1. Reopening access logs.");
                process.logs.reopen();
                continue;
            }
        }
        return Ok(());
    }
}

fn start_admin(process: &Rc<Process>, config: AdminConfig) -> anyhow::Result<()> {
    let AdminConfig { address, socket: listen, options } = config;
    let socket = socket::bind(&address, &listen)
        .and_then(|socket| socket::listen(&socket, &listen).map(|()| socket))
        .with_context(|| format!("cannot bind '{address}' for the admin interface"))?;
    let bound = socket::local_address(&socket)?;
    if let Some(path) = &process.options.admin_address_path {
        std::fs::write(path, bound.to_string())
            .with_context(|| format!("cannot write the admin address to '{path}'"))?;
    }
    tracing::info!("admin address: {bound}");
    let server = AdminServer::new(Rc::new(Admin(process.clone())), options);
    if bound.ip().is_some() {
        let listener = tokio::net::TcpListener::from_std(socket.into())?;
        tokio::task::spawn_local(async move { server.serve_tcp(listener).await });
    } else {
        let listener = tokio::net::UnixListener::from_std(std::os::fd::OwnedFd::from(socket).into())?;
        tokio::task::spawn_local(async move { server.serve_unix(listener).await });
    }
    Ok(())
}

fn config_dump(bootstrap: Vec<u8>) -> ConfigDump {
    ConfigDump {
        bootstrap: Some(dumped("", "envoy.config.bootstrap.v3.Bootstrap", bootstrap)),
        ..ConfigDump::default()
    }
}

fn node_json(bootstrap: &Bootstrap) -> serde_json::Value {
    let node = bootstrap.node.clone().unwrap_or_default();
    serde_json::json!({ "id": node.id, "cluster": node.cluster })
}
