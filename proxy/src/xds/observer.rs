//! Statistics of streams: `control_plane`, `cluster_manager.cds`, `listener_manager.lds`.
//!
//! What is counted for each cluster or route configuration is counted by the store.

use std::sync::{Arc, OnceLock};
use std::time::{Duration, SystemTime};

use proxy_core::hash::xxhash64;
use proxy_core::stats::groups::{ControlPlaneStats, XdsStats};
use proxy_core::stats::{Registry, Shared};
use xds::{Observer, TypeUrl};

/// The groups, shared by all streams. Each comes into being with its first use: a process without a control plane shows
/// none of them.
#[derive(Clone)]
pub(super) struct StreamStats(Arc<Groups>);

struct Groups {
    registry: Arc<Registry>,
    /// Whose stream it is: `sds.<name>.` for that of a secret, else nothing. A file that a secret comes from has none.
    prefix: Option<String>,
    control_plane: OnceLock<Shared<ControlPlaneStats>>,
    clusters: OnceLock<Shared<XdsStats>>,
    listeners: OnceLock<Shared<XdsStats>>,
}

impl StreamStats {
    pub(super) fn new(registry: &Arc<Registry>) -> Self {
        Self::within(registry, Some(String::new()))
    }

    /// Of a stream that carries one secret, or of a file.
    pub(super) fn of_secret(&self, name: &str, is_file: bool) -> Self {
        Self::within(&self.0.registry, (!is_file).then(|| format!("sds.{name}.")))
    }

    fn within(registry: &Arc<Registry>, prefix: Option<String>) -> Self {
        Self(Arc::new(Groups {
            registry: registry.clone(),
            prefix,
            control_plane: OnceLock::new(),
            clusters: OnceLock::new(),
            listeners: OnceLock::new(),
        }))
    }

    /// `update_duration` of a response that was taken.
    pub(super) fn took(&self, type_url: &TypeUrl, time: Duration) {
        if let Some(stats) = self.of(type_url) {
            stats.update_duration.record(u64::try_from(time.as_millis()).unwrap_or(u64::MAX));
        }
    }

    fn of(&self, type_url: &TypeUrl) -> Option<&XdsStats> {
        let (group, name) = if *type_url == TypeUrl::CLUSTER {
            (&self.0.clusters, "cluster_manager.cds")
        } else if *type_url == TypeUrl::LISTENER {
            (&self.0.listeners, "listener_manager.lds")
        } else {
            return None;
        };
        Some(group.get_or_init(|| self.0.registry.scope(name).shared()))
    }

    fn control_plane(&self) -> Option<&ControlPlaneStats> {
        let prefix = self.0.prefix.as_deref()?;
        let group = || self.0.registry.scope(&format!("{prefix}control_plane")).shared();
        Some(self.0.control_plane.get_or_init(group))
    }
}

impl Observer for StreamStats {
    fn connected_state(&self, connected: bool) {
        if let Some(stats) = self.control_plane() {
            stats.connected_state.set(u64::from(connected));
        }
    }

    fn pending_requests(&self, count: usize) {
        if let Some(stats) = self.control_plane() {
            stats.pending_requests.set(count as u64);
        }
    }

    fn rate_limit_enforced(&self) {
        if let Some(stats) = self.control_plane() {
            stats.rate_limit_enforced.inc();
        }
    }

    fn identifier(&self, identifier: &str) {
        if let Some(stats) = self.control_plane() {
            stats.identifier.set(identifier);
        }
    }

    fn update_attempt(&self, type_url: &TypeUrl) {
        if let Some(stats) = self.of(type_url) {
            stats.update_attempt.inc();
        }
    }

    fn update_success(&self, type_url: &TypeUrl, version: &str) {
        let Some(stats) = self.of(type_url) else { return };
        let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let now = u64::try_from(since.as_millis()).unwrap_or(u64::MAX);
        stats.update_success.inc();
        stats.update_time.set(now);
        stats.version.set(xxhash64(version.as_bytes()));
        stats.version_text.set(version);
    }

    fn update_failure(&self, type_url: &TypeUrl) {
        if let Some(stats) = self.of(type_url) {
            stats.update_failure.inc();
        }
    }

    fn update_rejected(&self, type_url: &TypeUrl, _reason: &str) {
        if let Some(stats) = self.of(type_url) {
            stats.update_rejected.inc();
        }
    }

    fn init_fetch_timeout(&self, type_url: &TypeUrl, _name: &str) {
        if let Some(stats) = self.of(type_url) {
            stats.init_fetch_timeout.inc();
        }
    }
}
