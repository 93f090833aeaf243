//! One endpoint of a cluster.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU32, Ordering};

use crate::address::Address;
use crate::metadata::Metadata;

/// Where a host is (`core.v3.Locality`).
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Locality {
    /// Region.
    pub region: String,
    /// Zone.
    pub zone: String,
    /// Sub-zone.
    pub sub_zone: String,
}

/// Whether a host may be chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum HostHealth {
    /// Chosen first.
    Healthy = 0,
    /// Chosen when too few are healthy.
    Degraded = 1,
    /// Chosen only in panic.
    Unhealthy = 2,
    /// Not chosen for new connections; what it has goes on.
    Draining = 3,
}

/// One endpoint of a cluster: fixed facts, and atomics that balancing reads and requests write.
pub struct Host {
    /// Where to connect.
    pub address: Address,
    /// Further addresses of the same host, tried in turn (`additional_addresses`).
    pub additional_addresses: Vec<Address>,
    /// Name of the host, from configuration or DNS; empty if none.
    pub hostname: Arc<str>,
    /// Where it is.
    pub locality: Arc<Locality>,
    /// Priority, 0 first.
    pub priority: u32,
    /// `load_balancing_weight`, 1 if absent.
    pub weight: AtomicU32,
    /// Metadata of the endpoint.
    pub metadata: Metadata,
    /// Health as discovered (EDS `health_status`).
    pub discovered_health: AtomicU8,
    /// Requests in flight, over all workers.
    pub active_requests: AtomicU32,
    /// Connections open, over all workers.
    pub active_connections: AtomicU32,
    /// Counters and gauges as `/clusters` prints them.
    pub stats: HostStats,
}

/// Counters of one host (`/clusters`); shared by workers, so plain atomics.
#[derive(Debug, Default)]
pub struct HostStats {
    /// Connections made.
    pub cx_total: AtomicU32,
    /// Connections that could not be made.
    pub cx_connect_fail: AtomicU32,
    /// Requests sent.
    pub rq_total: AtomicU32,
    /// Requests answered without a 5xx.
    pub rq_success: AtomicU32,
    /// Requests answered with a 5xx, or reset.
    pub rq_error: AtomicU32,
    /// Requests that timed out.
    pub rq_timeout: AtomicU32,
}

impl Host {
    /// A host at `address` with weight 1, healthy, nowhere in particular.
    pub fn new(address: Address) -> Self {
        Self {
            address,
            additional_addresses: Vec::new(),
            hostname: "".into(),
            locality: Arc::default(),
            priority: 0,
            weight: AtomicU32::new(1),
            metadata: Metadata::default(),
            discovered_health: AtomicU8::new(HostHealth::Healthy as u8),
            active_requests: AtomicU32::new(0),
            active_connections: AtomicU32::new(0),
            stats: HostStats::default(),
        }
    }

    /// Whether it may be chosen now.
    pub fn health(&self) -> HostHealth {
        match self.discovered_health.load(Ordering::Relaxed) {
            0 => HostHealth::Healthy,
            1 => HostHealth::Degraded,
            3 => HostHealth::Draining,
            _ => HostHealth::Unhealthy,
        }
    }

    /// The weight, at least 1.
    pub fn weight(&self) -> u32 {
        self.weight.load(Ordering::Relaxed).max(1)
    }
}

impl fmt::Debug for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.address, f)
    }
}
