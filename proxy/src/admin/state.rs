//! What the admin interface asks of the process.

use std::sync::Arc;

use proxy_core::runtime::Runtime;
use proxy_core::stats::Registry;

use super::certs::CertificateEntry;
use super::clusters::ClusterStatus;
use super::config_dump::{ConfigDump, Endpoints};
use super::init_dump::UnreadyTargets;
use super::lifecycle::DrainRequest;
use super::listeners::ListenerStatus;
use super::logging::LogLevel;
use super::memory::MemoryUse;
use super::server_info::ServerInfo;

/// What the process is doing (`envoy.admin.v3.ServerInfo.State`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ServerState {
    /// It serves.
    Live,
    /// It serves, but wants no more traffic.
    Draining,
    /// It waits for the first clusters.
    PreInitializing,
    /// It waits for the first listeners.
    Initializing,
}

impl ServerState {
    /// As `/ready` and `/server_info` print it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Live => "LIVE",
            Self::Draining => "DRAINING",
            Self::PreInitializing => "PRE_INITIALIZING",
            Self::Initializing => "INITIALIZING",
        }
    }

    /// The value of the gauge `server.state`.
    pub fn gauge(self) -> u64 {
        match self {
            Self::Live => 0,
            Self::Draining => 1,
            Self::PreInitializing => 2,
            Self::Initializing => 3,
        }
    }
}

/// The process, as the admin interface sees it. Called on the main thread only; nothing here may block.
pub trait AdminState: 'static {
    /// What the process is doing.
    fn state(&self) -> ServerState;
    /// Who it is and how it was started.
    fn server_info(&self) -> ServerInfo;
    /// The version of the hot restart protocol, or `disabled`.
    fn hot_restart_version(&self) -> String;

    /// All statistics.
    fn stats(&self) -> &Arc<Registry>;
    /// Statistics are about to be shown: flushes them first if that is asked for (`stats_flush_on_admin`).
    fn show_statistics(&self) {}
    /// Runtime values, which `/runtime_modify` changes.
    fn runtime(&self) -> &Arc<Runtime>;
    /// Sets runtime values in the admin layer; `false` if there is none.
    fn modify_runtime(&self, changes: &[(String, String)]) -> bool {
        self.runtime().modify(changes)
    }
    /// What the allocator and the system say about memory.
    fn memory(&self) -> MemoryUse;

    /// Every active cluster with its hosts.
    fn clusters(&self) -> Vec<ClusterStatus>;
    /// Every active listener with its bound addresses.
    fn listeners(&self) -> Vec<ListenerStatus>;
    /// The configuration in force. `endpoints` is wanted only with `include_eds`.
    fn config_dump(&self, endpoints: Endpoints) -> ConfigDump;
    /// Certificates that listeners and clusters use.
    fn certificates(&self) -> Vec<CertificateEntry>;
    /// What initialisation still waits for.
    fn unready_targets(&self) -> Vec<UnreadyTargets>;

    /// Every logger with its level, in the order in which they are listed.
    fn loggers(&self) -> Vec<(String, LogLevel)>;
    /// Sets the level of one logger; `false` if there is none of that name.
    fn set_logger(&self, name: &str, level: LogLevel) -> bool;
    /// Sets the level of all loggers.
    fn set_all_loggers(&self, level: LogLevel);

    /// Makes health checks fail from now on, or succeed again.
    fn set_health_check_failing(&self, failing: bool);
    /// Drains listeners.
    fn drain_listeners(&self, request: DrainRequest);
    /// Opens the access logs anew.
    fn reopen_logs(&self);
    /// Ends the process at once; called when the answer has been sent.
    fn quit(&self);
}
