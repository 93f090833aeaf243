//! `/server_info` (`envoy.admin.v3.ServerInfo`) and `/hot_restart_version`.

use std::time::Duration;

use serde_json::{Value, json};

use super::json::print;
use super::request::Request;
use super::response::Response;
use super::state::AdminState;

/// Who the process is and how it was started.
#[derive(Clone, Debug)]
pub struct ServerInfo {
    /// Five parts between slashes: revision, version, status, build type, TLS library.
    pub version: String,
    /// Time since this process started.
    pub uptime: Duration,
    /// Time since the first process of a chain of hot restarts started.
    pub uptime_all_epochs: Duration,
    /// The command line.
    pub options: CommandLineOptions,
    /// The node as it tells the control plane, every field printed.
    pub node: Value,
}

/// What the process does with its configuration.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mode {
    /// Serves.
    #[default]
    Serve,
    /// Checks it only.
    Validate,
    /// Initialises and ends.
    InitOnly,
}

/// How connections are told to go while listeners drain.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DrainStrategy {
    /// More and more of them, over the drain time.
    #[default]
    Gradual,
    /// All at once.
    Immediate,
}

/// The command line (`envoy.admin.v3.CommandLineOptions`); defaults are Envoy's.
#[derive(Clone, Debug)]
#[expect(missing_docs, reason = "each is the option of its name")]
#[expect(clippy::struct_excessive_bools, reason = "as many switches as the command line has")]
pub struct CommandLineOptions {
    pub base_id: u64,
    pub use_dynamic_base_id: bool,
    pub base_id_path: String,
    pub concurrency: u32,
    pub config_path: String,
    pub config_yaml: String,
    pub allow_unknown_static_fields: bool,
    pub reject_unknown_dynamic_fields: bool,
    pub ignore_unknown_dynamic_fields: bool,
    pub skip_deprecated_logs: bool,
    pub admin_address_path: String,
    /// `v4` or `v6`.
    pub local_address_ip_version: &'static str,
    pub log_level: String,
    pub component_log_level: String,
    pub log_format: String,
    pub log_format_escaped: bool,
    pub log_path: String,
    pub log_stacktrace_single_entry: bool,
    pub service_cluster: String,
    pub service_node: String,
    pub service_zone: String,
    pub file_flush_interval: Duration,
    pub file_flush_min_size: u32,
    pub drain_time: Duration,
    pub drain_strategy: DrainStrategy,
    pub parent_shutdown_time: Duration,
    pub mode: Mode,
    pub disable_hot_restart: bool,
    pub enable_mutex_tracing: bool,
    pub restart_epoch: u32,
    pub cpuset_threads: bool,
    pub disabled_extensions: Vec<String>,
    pub enable_fine_grain_logging: bool,
    pub socket_path: String,
    pub socket_mode: u32,
    pub enable_core_dump: bool,
    pub stats_tag: Vec<String>,
    pub skip_hot_restart_on_no_parent: bool,
    pub skip_hot_restart_parent_stats: bool,
}

impl Default for CommandLineOptions {
    fn default() -> Self {
        Self {
            base_id: 0,
            use_dynamic_base_id: false,
            base_id_path: String::new(),
            concurrency: 1,
            config_path: String::new(),
            config_yaml: String::new(),
            allow_unknown_static_fields: false,
            reject_unknown_dynamic_fields: false,
            ignore_unknown_dynamic_fields: false,
            skip_deprecated_logs: false,
            admin_address_path: String::new(),
            local_address_ip_version: "v4",
            log_level: "info".to_owned(),
            component_log_level: String::new(),
            log_format: "[%Y-%m-%d %T.%e][%t][%l][%n] [%g:%#] %v".to_owned(),
            log_format_escaped: false,
            log_path: String::new(),
            log_stacktrace_single_entry: false,
            service_cluster: String::new(),
            service_node: String::new(),
            service_zone: String::new(),
            file_flush_interval: Duration::from_secs(10),
            file_flush_min_size: 0,
            drain_time: Duration::from_secs(600),
            drain_strategy: DrainStrategy::Gradual,
            parent_shutdown_time: Duration::from_secs(900),
            mode: Mode::Serve,
            disable_hot_restart: false,
            enable_mutex_tracing: false,
            restart_epoch: 0,
            cpuset_threads: false,
            disabled_extensions: Vec::new(),
            enable_fine_grain_logging: false,
            socket_path: "@envoy_domain_socket".to_owned(),
            socket_mode: 0,
            enable_core_dump: false,
            stats_tag: Vec::new(),
            skip_hot_restart_on_no_parent: false,
            skip_hot_restart_parent_stats: false,
        }
    }
}

impl CommandLineOptions {
    /// Every field, those with default values too, by field number.
    fn json(&self) -> Value {
        json!({
            "base_id": self.base_id.to_string(),
            "concurrency": self.concurrency,
            "config_path": self.config_path,
            "config_yaml": self.config_yaml,
            "allow_unknown_static_fields": self.allow_unknown_static_fields,
            "admin_address_path": self.admin_address_path,
            "local_address_ip_version": self.local_address_ip_version,
            "log_level": self.log_level,
            "component_log_level": self.component_log_level,
            "log_format": self.log_format,
            "log_path": self.log_path,
            "service_cluster": self.service_cluster,
            "service_node": self.service_node,
            "service_zone": self.service_zone,
            "file_flush_interval": duration(self.file_flush_interval),
            "drain_time": duration(self.drain_time),
            "parent_shutdown_time": duration(self.parent_shutdown_time),
            "mode": match self.mode {
                Mode::Serve => "Serve",
                Mode::Validate => "Validate",
                Mode::InitOnly => "InitOnly",
            },
            "disable_hot_restart": self.disable_hot_restart,
            "enable_mutex_tracing": self.enable_mutex_tracing,
            "restart_epoch": self.restart_epoch,
            "cpuset_threads": self.cpuset_threads,
            "reject_unknown_dynamic_fields": self.reject_unknown_dynamic_fields,
            "log_format_escaped": self.log_format_escaped,
            "disabled_extensions": self.disabled_extensions,
            "ignore_unknown_dynamic_fields": self.ignore_unknown_dynamic_fields,
            "use_dynamic_base_id": self.use_dynamic_base_id,
            "base_id_path": self.base_id_path,
            "drain_strategy": match self.drain_strategy {
                DrainStrategy::Gradual => "Gradual",
                DrainStrategy::Immediate => "Immediate",
            },
            "enable_fine_grain_logging": self.enable_fine_grain_logging,
            "socket_path": self.socket_path,
            "socket_mode": self.socket_mode,
            "enable_core_dump": self.enable_core_dump,
            "stats_tag": self.stats_tag,
            "skip_hot_restart_on_no_parent": self.skip_hot_restart_on_no_parent,
            "skip_hot_restart_parent_stats": self.skip_hot_restart_parent_stats,
            "skip_deprecated_logs": self.skip_deprecated_logs,
            "file_flush_min_size": self.file_flush_min_size,
            "log_stacktrace_single_entry": self.log_stacktrace_single_entry,
        })
    }
}

pub(super) fn server_info(state: &dyn AdminState, _request: &Request) -> Response {
    let info = state.server_info();
    Response::json(print(&json!({
        "version": info.version,
        "state": state.state().name(),
        "uptime_current_epoch": whole_seconds(info.uptime),
        "uptime_all_epochs": whole_seconds(info.uptime_all_epochs),
        "hot_restart_version": state.hot_restart_version(),
        "command_line_options": info.options.json(),
        "node": info.node,
        "hot_restart_initializing": false,
    })))
}

pub(super) fn hot_restart_version(state: &dyn AdminState, _request: &Request) -> Response {
    Response::text(state.hot_restart_version())
}

fn whole_seconds(duration: Duration) -> String {
    format!("{}s", duration.as_secs())
}

/// As protobuf prints a `Duration`: with as many of 0, 3, 6 or 9 decimals as it needs.
fn duration(duration: Duration) -> String {
    let (seconds, nanos) = (duration.as_secs(), duration.subsec_nanos());
    match nanos {
        0 => format!("{seconds}s"),
        _ if nanos % 1_000_000 == 0 => format!("{seconds}.{:03}s", nanos / 1_000_000),
        _ if nanos % 1_000 == 0 => format!("{seconds}.{:06}s", nanos / 1_000),
        _ => format!("{seconds}.{nanos:09}s"),
    }
}
