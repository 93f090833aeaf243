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
    control_plane: OnceLock<Shared<ControlPlaneStats>>,
    clusters: OnceLock<Shared<XdsStats>>,
    listeners: OnceLock<Shared<XdsStats>>,
}

impl StreamStats {
    pub(super) fn new(registry: &Arc<Registry>) -> Self {
        Self(Arc::new(Groups {
            registry: registry.clone(),
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

    fn control_plane(&self) -> &ControlPlaneStats {
        self.0.control_plane.get_or_init(|| self.0.registry.scope("control_plane").shared())
    }
}

impl Observer for StreamStats {
    fn connected_state(&self, connected: bool) {
        self.control_plane().connected_state.set(u64::from(connected));
    }

    fn pending_requests(&self, count: usize) {
        self.control_plane().pending_requests.set(count as u64);
    }

    fn rate_limit_enforced(&self) {
        self.control_plane().rate_limit_enforced.inc();
    }

    fn identifier(&self, identifier: &str) {
        self.control_plane().identifier.set(identifier);
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
