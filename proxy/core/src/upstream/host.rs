//! One endpoint of a cluster.

use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU16, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use arc_swap::ArcSwapOption;
use prost_types::value::Kind;
use smallvec::SmallVec;
use xds_api::envoy::config::core::v3::HealthStatus;

use super::health::HealthFlags;
use super::labels::LB_NAMESPACE;
use super::locality::Locality;
use super::moment::AtomicMoment;
use super::reported::Reported;
use super::watched::{Watched, watched};
use super::{CheckTarget, Endpoint, HealthFlag, HostHealth, OutlierCounts};
use crate::address::Address;
use crate::metadata::Metadata;

/// One endpoint of a cluster: fixed facts, and atomics that balancing reads and requests write.
pub struct Host {
    /// Where to connect.
    pub address: Address,
    /// Further addresses of the same host, tried in turn (`additional_addresses`).
    pub additional_addresses: Box<[Address]>,
    /// Name of the host, from configuration or DNS; empty if none.
    pub hostname: Arc<str>,
    /// Where it is.
    pub locality: Arc<Locality>,
    priority: AtomicU32,
    weight: Watched<AtomicU32>,
    discovered_weight: AtomicU32,
    observed: OnceLock<Box<Observed>>,
    flags: Watched<HealthFlags>,
    metadata: ArcSwapOption<Metadata>,
    /// What the metadata say (`canary` in `envoy.lb`): asked for with each answer.
    is_canary: AtomicBool,
    healthy_since: AtomicMoment,
    /// How it is checked, where its endpoint says that.
    pub check: Option<Box<CheckTarget>>,
    /// Answers that said that checks fail, and that nobody looked at yet.
    passive_failures: AtomicU32,
    /// What the last HTTP check was answered with; 0 if with nothing.
    check_status: AtomicU16,
    /// Requests in flight, over all workers.
    pub active_requests: Watched<AtomicU32>,
    /// Requests that wait for a connection, over all workers.
    pub pending_requests: AtomicU32,
    /// Connections open, over all workers.
    pub active_connections: AtomicU32,
    /// Counters and gauges as `/clusters` prints them.
    pub stats: HostStats,
}

/// What only some clusters want to know of their hosts.
#[derive(Default)]
struct Observed {
    outlier: OutlierCounts,
    reported: OnceLock<Reported>,
}

/// Counters of one host (`/clusters`); shared by workers, so plain atomics.
#[derive(Debug, Default)]
pub struct HostStats {
    /// Connections made.
    pub cx_total: AtomicU64,
    /// Connections that could not be made.
    pub cx_connect_fail: AtomicU64,
    /// Requests sent.
    pub rq_total: AtomicU64,
    /// Requests answered without a 5xx.
    pub rq_success: AtomicU64,
    /// Requests answered with a 5xx, or reset.
    pub rq_error: AtomicU64,
    /// Requests that timed out.
    pub rq_timeout: AtomicU64,
}

impl Host {
    /// A host at `address` with weight 1, healthy, nowhere in particular.
    pub fn new(address: Address) -> Self {
        Self {
            address,
            additional_addresses: Box::default(),
            hostname: Arc::default(),
            locality: Locality::nowhere(),
            priority: AtomicU32::new(0),
            weight: watched(AtomicU32::new(1)),
            discovered_weight: AtomicU32::new(1),
            observed: OnceLock::new(),
            flags: watched(HealthFlags::default()),
            metadata: ArcSwapOption::empty(),
            is_canary: AtomicBool::new(false),
            healthy_since: AtomicMoment::default(),
            check: None,
            passive_failures: AtomicU32::new(0),
            check_status: AtomicU16::new(0),
            active_requests: watched(AtomicU32::new(0)),
            pending_requests: AtomicU32::new(0),
            active_connections: AtomicU32::new(0),
            stats: HostStats::default(),
        }
    }

    pub(super) fn from_endpoint(endpoint: &Endpoint, locality: &Arc<Locality>) -> Self {
        Self {
            additional_addresses: endpoint.additional_addresses.clone(),
            hostname: endpoint.hostname.clone(),
            locality: locality.clone(),
            check: endpoint.check.clone(),
            ..Self::new(endpoint.address.clone())
        }
    }

    /// Whether it may be chosen now.
    pub fn health(&self) -> HostHealth {
        self.flags.health()
    }

    /// What discovery says of its health.
    pub fn discovered_health(&self) -> HostHealth {
        self.flags.discovered()
    }

    /// What speaks against it.
    pub fn health_flags(&self) -> Vec<HealthFlag> {
        self.flags.list()
    }

    /// Whether this speaks against it.
    pub fn has_flag(&self, flag: HealthFlag) -> bool {
        self.flags.has(flag)
    }

    /// Says that this does, or does not, speak against it; seen by balancing with the next host set.
    pub fn set_flag(&self, flag: HealthFlag, on: bool) {
        self.flags.set(flag, on);
    }

    /// Whether active health checks are to leave it alone (`disable_active_health_check`).
    pub fn is_never_checked(&self) -> bool {
        self.check.as_ref().is_some_and(|check| check.disabled)
    }

    /// Where active health checks go.
    pub fn check_address(&self) -> Address {
        self.check.as_ref().map_or_else(|| self.address.clone(), |check| check.address(&self.address))
    }

    /// Whether it waits for its first active health check.
    pub fn is_unchecked(&self) -> bool {
        self.flags.is_unchecked()
    }

    /// An active health check was done.
    pub(super) fn set_checked(&self) {
        self.flags.set_unchecked(false);
    }

    /// It is new, and to be checked: it is taken to be unwell, and is left out of the reckoning if `is_excluded`.
    pub(super) fn await_check(&self, is_excluded: bool) {
        self.flags.set(HealthFlag::FailedActiveHealthCheck, true);
        self.flags.set(HealthFlag::PendingActiveHealthCheck, is_excluded);
        self.flags.set_unchecked(true);
    }

    /// It is well until a check says otherwise.
    pub(super) fn await_check_healthy(&self) {
        self.flags.set_unchecked(true);
    }

    /// It is new in name only: what was found out of `other` holds for it.
    pub(super) fn take_active_health(&self, other: &Self) {
        self.flags.take_active(&other.flags);
        self.flags.set_unchecked(true);
    }

    /// Notes the status that the last HTTP check of it was answered with, if any.
    pub fn set_check_status(&self, status: Option<u16>) {
        self.check_status.store(status.unwrap_or(0), Ordering::Relaxed);
    }

    /// The status that the last HTTP check of it was answered with, if any.
    pub fn check_status(&self) -> Option<u16> {
        Some(self.check_status.load(Ordering::Relaxed)).filter(|status| *status != 0)
    }

    /// Notes that an answer of it said that checks fail; whether the main thread is to be told.
    pub fn note_passive_failure(&self) -> bool {
        self.set_flag(HealthFlag::ExcludedViaImmediateHealthCheckFail, true);
        self.passive_failures.fetch_add(1, Ordering::Relaxed) == 0
    }

    /// How many such answers there were since this was last asked.
    pub fn take_passive_failures(&self) -> u32 {
        self.passive_failures.swap(0, Ordering::Relaxed)
    }

    /// It is none of the hosts of its cluster any more, where requests name these.
    pub fn leave(&self) {
        self.flags.set_gone();
    }

    /// Whether it is none of them any more: who comes late keeps no connection to it.
    pub fn has_left(&self) -> bool {
        self.flags.is_gone()
    }

    /// Whether a connection to it is open or being made.
    pub fn is_in_use(&self) -> bool {
        self.active_connections.load(Ordering::Relaxed) > 0
    }

    /// What it weighs, at least 1: `load_balancing_weight`, or what follows from its reports.
    pub fn weight(&self) -> u32 {
        self.weight.load(Ordering::Relaxed).max(1)
    }

    /// `load_balancing_weight`, at least 1.
    pub fn discovered_weight(&self) -> u32 {
        self.discovered_weight.load(Ordering::Relaxed).max(1)
    }

    /// What outlier detection looks at; for hosts that it has never looked at, this makes room.
    pub fn outlier(&self) -> &OutlierCounts {
        &self.observed.get_or_init(Box::default).outlier
    }

    /// Its share of good outcomes, of all and of connections alone, where outlier detection has found one.
    pub fn success_rates(&self) -> [Option<f64>; 2] {
        self.observed.get().map_or([None, None], |observed| observed.outlier.success_rates())
    }

    /// What it reported of its load, if it did.
    pub(super) fn reported(&self) -> Option<&Reported> {
        self.observed.get()?.reported.get()
    }

    /// Where to note what it reports of its load.
    pub(super) fn reports(&self) -> &Reported {
        self.observed.get_or_init(Box::default).reported.get_or_init(Reported::default)
    }

    /// Priority, 0 first.
    pub fn priority(&self) -> u32 {
        self.priority.load(Ordering::Relaxed)
    }

    /// Since when it is healthy, where somebody wants to know (slow start).
    pub fn healthy_since(&self) -> Option<Instant> {
        self.healthy_since.get()
    }

    /// It is healthy now, if it was not before; since when it is.
    pub(super) fn note_healthy(&self, now: Instant) -> Instant {
        self.healthy_since.get_or_set(now)
    }

    /// It recovers just now: whatever was before, it is new from here on.
    pub(super) fn note_recovery(&self, now: Instant) {
        self.healthy_since.set(now);
    }

    /// Metadata of the endpoint.
    pub fn metadata(&self) -> Metadata {
        self.metadata.load().as_deref().cloned().unwrap_or_default()
    }

    /// Whether its metadata say that it is a canary.
    pub fn is_canary(&self) -> bool {
        self.is_canary.load(Ordering::Relaxed)
    }

    /// The addresses to try for a new connection, in the order of discovery; at least one.
    pub fn addresses(&self) -> SmallVec<[Address; 2]> {
        std::iter::once(&self.address).chain(&*self.additional_addresses).cloned().collect()
    }

    /// What discovery says of it, unless something else was found out here.
    pub fn status(&self) -> HealthStatus {
        self.flags.status()
    }

    /// Sets what discovery says of the host's health; seen by balancing with the next host set. Main thread only.
    pub fn set_discovered_health(&self, status: HealthStatus) {
        self.flags.set_discovered(status);
    }

    /// Sets the weight that discovery says; seen by balancing with the next host set.
    pub fn set_weight(&self, weight: u32) {
        self.discovered_weight.store(weight, Ordering::Relaxed);
        self.weight.store(weight, Ordering::Relaxed);
    }

    /// Sets what it weighs whatever discovery says, and until that says it again; whether that is another weight. Seen by balancing with the
    /// next host set.
    pub(super) fn set_weight_now(&self, weight: u32) -> bool {
        self.weight.swap(weight, Ordering::Relaxed) != weight
    }

    /// It weighs what discovery says.
    pub fn reset_weight(&self) {
        self.weight.store(self.discovered_weight(), Ordering::Relaxed);
    }

    pub(super) fn set_priority(&self, priority: u32) {
        self.priority.store(priority, Ordering::Relaxed);
    }

    pub(crate) fn set_metadata(&self, metadata: &Metadata) {
        let canary = metadata.namespace(LB_NAMESPACE).and_then(|values| values.fields.get("canary"));
        let is_canary = canary.is_some_and(|value| value.kind == Some(Kind::BoolValue(true)));
        self.is_canary.store(is_canary, Ordering::Relaxed);
        let metadata = (!metadata.is_empty()).then(|| Arc::new(metadata.clone()));
        self.metadata.store(metadata);
    }
}

impl fmt::Debug for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.address, f)
    }
}
