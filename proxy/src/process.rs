//! What the running process is and does, as the admin interface asks for it.

use std::cell::OnceCell;
use std::collections::BTreeSet;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use prost_types::Any;
use proxy_core::address::Address;
use proxy_core::config::BuildEnv;
use proxy_core::runtime::Runtime;
use proxy_core::stats::Registry;
use proxy_core::stats::groups::RuntimeStats;
use proxy_core::tls::{Certificate, San, SanKind};
use proxy_engine::listener::accept::GlobalConnections;
use proxy_engine::local::drain::ProcessDrain;
use proxy_engine::log_file::FileLogs;
use proxy_engine::state::Stopped;
use proxy_engine::tls::{Identity, Verifier};
use proxy_engine::upstream::circuit_breaker::{BreakerPriority, Resource as Limit};
use proxy_engine::upstream::cluster::Cluster;
use proxy_engine::upstream::discovery::Discovery;
use serde_json::Value;
use tokio::sync::Notify;

use crate::admin::{
    AdminState, BreakerThresholds, CertificateDetails, CertificateEntry, ClusterStatus, CommandLineOptions,
    ConfigDump, DrainRequest, DrainStrategy, Endpoints, HostStatus, ListenerStatus, LogLevel, MemoryUse,
    Mode, OutlierStatus, Resource, ServerInfo, ServerState, SubjectAltName, UnreadyTargets,
};
use crate::flushing::Flushing;
use crate::xds::Configuration;
use crate::{cli, logging};

/// The running process.
pub struct Process {
    /// What everything was built with.
    pub env: Arc<BuildEnv>,
    /// Drain state.
    pub drain: Arc<ProcessDrain>,
    /// The command line.
    pub options: cli::Options,
    /// Downstream connections of all workers.
    pub connections: Arc<GlobalConnections>,
    /// Access log files.
    pub logs: Arc<FileLogs>,
    /// Clusters, listeners, routes and who serves them.
    pub configuration: Configuration,
    /// What `/config_dump` shows besides resources.
    pub dump: ConfigDump,
    /// The node, every field printed.
    pub node: Value,
    /// When it started.
    pub started: Instant,
    /// Wakes whoever ends the process.
    pub quit: Notify,
    /// Flushes statistics whenever they are shown, where that is what the bootstrap says.
    pub(crate) flushed_when_shown: OnceCell<Rc<Flushing>>,
}

/// A resource for `/config_dump`.
pub fn dumped(name: &str, type_name: &str, bytes: Vec<u8>) -> Resource {
    Resource {
        name: name.to_owned(),
        version_info: String::new(),
        config: Arc::new(Any { type_url: format!("type.googleapis.com/{type_name}"), value: bytes }),
        last_updated: Some(SystemTime::now()),
        error: None,
    }
}

/// The admin interface's view of the process; holds it weakly through `Rc`.
pub struct Admin(pub Rc<Process>);

/// What `runtime.*` says of the layers that were loaded just now.
pub(crate) fn count_runtime(env: &BuildEnv) {
    let stats = env.stats.scope("runtime").shared::<RuntimeStats>();
    let layers = env.runtime.layers();
    let keys: BTreeSet<&String> = layers.iter().flat_map(|layer| layer.values.keys()).collect();
    let is_overridden = layers.iter().any(|layer| layer.is_admin && !layer.values.is_empty());
    stats.load_success.inc();
    stats.num_layers.set(layers.len() as u64);
    stats.num_keys.set(keys.len() as u64);
    stats.admin_overrides_active.set(is_overridden.into());
}

impl Admin {
    /// How many days are left until the first of all certificates in use ends: none if one has, and the most that there can be if
    /// there is no certificate.
    pub fn days_until_a_certificate_ends(&self) -> u32 {
        let store = self.0.configuration.store();
        let of_hosts = store.active_clusters().flat_map(|(cluster, _)| cluster.transport.contexts());
        let of_hosts = of_hosts.filter_map(|tls| tls.context());
        let of_clients = store.active_listeners().flat_map(|(_, _, listener)| &listener.chains);
        let of_clients = of_clients.filter_map(|chain| chain.tls.as_ref()?.context());
        let of_hosts = of_hosts.filter_map(|tls| first_end(tls.verifier(), tls.identity.as_slice()));
        let first =
            of_clients.filter_map(|tls| first_end(tls.verifier(), &tls.identities)).chain(of_hosts).min();
        let Some(first) = first else { return u32::MAX };
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
        let left = first.max(0).unsigned_abs().saturating_sub(now);
        u32::try_from(left / (24 * 60 * 60)).unwrap_or(u32::MAX)
    }

    /// How many seconds are left until the first of all OCSP responses in use ends: none if one has, or if there is none.
    pub fn seconds_until_an_ocsp_response_ends(&self) -> u64 {
        let store = self.0.configuration.store();
        let chains = store.active_listeners().flat_map(|(_, _, listener)| &listener.chains);
        let contexts: Vec<_> = chains.filter_map(|chain| chain.tls.as_ref()?.context()).collect();
        let staples = contexts.iter().flat_map(|tls| &tls.identities).filter_map(|one| one.staple.as_ref());
        let first = staples.map(|staple| staple.response.next_update.unwrap_or(0)).min();
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
        first.map_or(0, |first| first.max(0).unsigned_abs().saturating_sub(now))
    }
}

/// When the first certificate of a TLS context ends; of several authorities the first counts, as by Envoy.
fn first_end(verifier: Option<&Verifier>, identities: &[Identity]) -> Option<i64> {
    let trusted = verifier.and_then(|verifier| verifier.authorities().next());
    let own = identities.iter().map(|one| one.certificate.not_after);
    own.chain(trusted.map(|authority| authority.not_after)).min()
}

impl AdminState for Admin {
    fn state(&self) -> ServerState {
        match self.0.configuration.state().get() {
            ServerState::Live if self.0.drain.health_check_failed() => ServerState::Draining,
            phase => phase,
        }
    }

    fn server_info(&self) -> ServerInfo {
        let uptime = self.0.started.elapsed();
        ServerInfo {
            version: cli::version("")
                .rsplit_once(": ")
                .map_or_else(String::new, |(_, version)| version.to_owned()),
            uptime,
            uptime_all_epochs: uptime,
            options: command_line(&self.0.options),
            node: self.0.node.clone(),
        }
    }

    fn hot_restart_version(&self) -> String {
        cli::HOT_RESTART_VERSION.to_owned()
    }

    fn stats(&self) -> &Arc<Registry> {
        &self.0.env.stats
    }

    fn show_statistics(&self) {
        if let Some(flushing) = self.0.flushed_when_shown.get() {
            flushing.flush();
        }
    }

    fn runtime(&self) -> &Arc<Runtime> {
        &self.0.env.runtime
    }

    fn modify_runtime(&self, changes: &[(String, String)]) -> bool {
        let is_done = self.0.env.runtime.modify(changes);
        if is_done {
            self.0.configuration.store().runtime_changed();
            count_runtime(&self.0.env);
        }
        is_done
    }

    fn memory(&self) -> MemoryUse {
        MemoryUse::of_process()
    }

    fn clusters(&self) -> Vec<ClusterStatus> {
        let store = self.0.configuration.store();
        store.active_clusters().map(|(cluster, delivered)| cluster_status(cluster, delivered)).collect()
    }

    fn listeners(&self) -> Vec<ListenerStatus> {
        let listeners = self.0.configuration.listeners().into_iter();
        let status = |(name, bound): (String, Vec<Address>)| {
            let (first, others) = bound.split_first()?;
            Some(ListenerStatus {
                name,
                local_address: first.clone(),
                additional_local_addresses: others.to_vec(),
            })
        };
        listeners.filter_map(status).collect()
    }

    fn config_dump(&self, endpoints: Endpoints) -> ConfigDump {
        let mut dump = self.0.dump.clone();
        self.0.configuration.dump(&mut dump, endpoints);
        dump
    }

    fn certificates(&self) -> Vec<CertificateEntry> {
        let store = self.0.configuration.store();
        let of_hosts = store.active_clusters().flat_map(|(cluster, _)| cluster.transport.contexts());
        let of_clients = store.active_listeners().flat_map(|(_, _, listener)| &listener.chains);
        let of_clients = of_clients.filter_map(|chain| chain.tls.as_deref());
        let of_hosts = of_hosts.filter_map(|tls| tls.context());
        let of_hosts = of_hosts.map(|tls| certificate_entry(tls.verifier(), tls.identity.as_slice()));
        let of_clients = of_clients.filter_map(|tls| tls.context());
        of_hosts.chain(of_clients.map(|tls| certificate_entry(tls.verifier(), &tls.identities))).collect()
    }

    fn unready_targets(&self) -> Vec<UnreadyTargets> {
        let unready = self.0.configuration.store().unready().into_iter();
        unready.map(|(name, targets, of_listener)| UnreadyTargets { name, targets, of_listener }).collect()
    }

    fn loggers(&self) -> Vec<(String, LogLevel)> {
        logging::levels()
    }

    fn set_logger(&self, name: &str, level: LogLevel) -> bool {
        logging::set_level(name, level)
    }

    fn set_all_loggers(&self, level: LogLevel) {
        logging::set_all(level);
    }

    fn set_health_check_failing(&self, failing: bool) {
        self.0.drain.set_health_check_failed(failing);
    }

    fn drain_listeners(&self, request: DrainRequest) {
        let process = &self.0;
        let stopped = if request.inbound_only { Stopped::Inbound } else { Stopped::All };
        if !request.graceful {
            process.configuration.stop_listeners(stopped);
            return;
        }
        process.drain.start(request.inbound_only);
        if request.skip_exit {
            return;
        }
        let process = process.clone();
        tokio::task::spawn_local(async move {
            tokio::time::sleep(process.drain.time()).await;
            process.configuration.stop_listeners(stopped);
        });
    }

    fn reopen_logs(&self) {
        self.0.logs.reopen();
    }

    fn quit(&self) {
        self.0.quit.notify_one();
    }
}

/// What one TLS context trusts and shows; of several authorities the first is told, as by Envoy.
fn certificate_entry(verifier: Option<&Verifier>, identities: &[Identity]) -> CertificateEntry {
    let trusted = verifier.and_then(|verifier| Some((verifier.path()?, verifier.authorities().next()?)));
    CertificateEntry {
        ca: trusted.iter().map(|(path, authority)| certificate_details(path, authority)).collect(),
        chain: identities.iter().map(chain_details).collect(),
    }
}

fn chain_details(identity: &Identity) -> CertificateDetails {
    let now = SystemTime::now();
    let ocsp = identity.staple.as_ref().map(|staple| {
        // as Envoy tells of a response that does not say when it ends
        let end = staple.response.next_update.map_or(now, moment);
        (moment(staple.response.this_update), end)
    });
    CertificateDetails { ocsp, ..certificate_details(&identity.path, &identity.certificate) }
}

fn moment(seconds: i64) -> SystemTime {
    let seconds = Duration::from_secs(seconds.max(0).unsigned_abs());
    SystemTime::UNIX_EPOCH.checked_add(seconds).unwrap_or(SystemTime::UNIX_EPOCH)
}

fn certificate_details(path: &str, certificate: &Certificate) -> CertificateDetails {
    let name = |san: &San| match san.kind {
        SanKind::Dns => Some(SubjectAltName::Dns(san.value.clone())),
        SanKind::Uri => Some(SubjectAltName::Uri(san.value.clone())),
        SanKind::Ip => Some(SubjectAltName::IpAddress(san.value.clone())),
        SanKind::Email | SanKind::Other(_) => None,
    };
    CertificateDetails {
        path: path.to_owned(),
        serial_number: certificate.serial.clone(),
        subject_alt_names: certificate.sans.iter().filter_map(name).collect(),
        valid_from: moment(certificate.not_before),
        expiration_time: moment(certificate.not_after),
        ocsp: None,
    }
}

fn cluster_status(cluster: &Cluster, delivered: bool) -> ClusterStatus {
    let limits = |priority| BreakerThresholds {
        max_connections: cluster.breakers.max(priority, Limit::Connections),
        max_pending_requests: cluster.breakers.max(priority, Limit::Pending),
        max_requests: cluster.breakers.max(priority, Limit::Requests),
        max_retries: cluster.breakers.max(priority, Limit::Retries),
    };
    let name = cluster.name.as_str();
    ClusterStatus {
        name: name.to_owned(),
        observability_name: cluster.observability_name.as_deref().unwrap_or(name).to_owned(),
        eds_service_name: match &cluster.discovery {
            Discovery::Eds(eds) => eds.service_name.to_string(),
            Discovery::Static
            | Discovery::Dns(_)
            | Discovery::OriginalDst(_)
            | Discovery::Dynamic(_)
            | Discovery::Aggregate(_) => String::new(),
        },
        added_via_api: delivered,
        default_breakers: limits(BreakerPriority::Default),
        high_breakers: limits(BreakerPriority::High),
        outlier: cluster.outlier.as_ref().map(|outlier| {
            let [all, local] = outlier.rates();
            OutlierStatus {
                success_rate_average: all.average,
                success_rate_ejection_threshold: all.threshold,
                local_origin_success_rate_average: local.average,
                local_origin_success_rate_ejection_threshold: local.threshold,
            }
        }),
        hosts: cluster.known_hosts().hosts().map(|host| HostStatus::from(&**host)).collect(),
    }
}

fn command_line(options: &cli::Options) -> CommandLineOptions {
    let text = |text: &Option<String>| text.clone().unwrap_or_default();
    CommandLineOptions {
        base_id: options.base_id.into(),
        use_dynamic_base_id: options.use_dynamic_base_id,
        base_id_path: text(&options.base_id_path),
        concurrency: u32::try_from(options.workers()).unwrap_or(u32::MAX),
        config_path: text(&options.config_path),
        config_yaml: text(&options.config_yaml),
        allow_unknown_static_fields: options.allow_unknown_static_fields,
        reject_unknown_dynamic_fields: options.reject_unknown_dynamic_fields,
        ignore_unknown_dynamic_fields: options.ignore_unknown_dynamic_fields,
        skip_deprecated_logs: options.skip_deprecated_logs,
        admin_address_path: text(&options.admin_address_path),
        local_address_ip_version: match options.local_address_ip_version {
            cli::IpVersion::V4 => "v4",
            cli::IpVersion::V6 => "v6",
        },
        log_format: options.log_format.clone(),
        log_path: text(&options.log_path),
        service_cluster: options.service_cluster.clone(),
        service_node: options.service_node.clone(),
        service_zone: options.service_zone.clone(),
        file_flush_interval: options.file_flush_interval,
        drain_time: options.drain_time,
        drain_strategy: match options.drain_strategy {
            cli::DrainStrategy::Gradual => DrainStrategy::Gradual,
            cli::DrainStrategy::Immediate => DrainStrategy::Immediate,
        },
        parent_shutdown_time: options.parent_shutdown_time,
        mode: match options.mode {
            cli::Mode::Serve => Mode::Serve,
            cli::Mode::Validate => Mode::Validate,
            cli::Mode::InitOnly => Mode::InitOnly,
        },
        disable_hot_restart: options.disable_hot_restart,
        restart_epoch: options.restart_epoch,
        log_level: logging::level(options.log_level).name().to_owned(),
        component_log_level: options
            .component_log_levels
            .iter()
            .map(|(component, level)| format!("{component}:{}", logging::level(*level).name()))
            .collect::<Vec<_>>()
            .join(","),
        log_format_escaped: options.log_format_escaped,
        log_stacktrace_single_entry: options.log_stacktrace_single_entry,
        enable_mutex_tracing: options.enable_mutex_tracing,
        cpuset_threads: options.cpuset_threads,
        disabled_extensions: options.disabled_extensions.clone(),
        enable_fine_grain_logging: options.enable_fine_grain_logging,
        socket_path: options.socket_path.clone(),
        enable_core_dump: options.enable_core_dump,
        stats_tag: options.stats_tags.iter().map(|(name, value)| format!("{name}:{value}")).collect(),
        skip_hot_restart_on_no_parent: options.skip_hot_restart_on_no_parent,
        skip_hot_restart_parent_stats: options.skip_hot_restart_parent_stats,
        // (Envoy shows the size as 0 and the mode of the socket as 0, whatever they are.)
        ..CommandLineOptions::default()
    }
}
