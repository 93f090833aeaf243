//! What a request, or a call of the proxy's own, has used of its retries: how many are left, and the circuit breaker's permit for the one that is in
//! flight.
//!
//! Source: Envoy `source/common/router/retry_state_impl.cc`.

use std::sync::Arc;

use proxy_core::retry::Decision;
use proxy_core::runtime::Runtime;

use super::circuit_breaker::{BreakerPriority, Permit};
use super::cluster::Cluster;

/// The retries of one request.
#[derive(Debug)]
pub(crate) struct RetryState {
    /// How many are left.
    pub(crate) left: u64,
    priority: BreakerPriority,
    /// The retry that is in flight.
    permit: Option<Permit<Arc<Cluster>>>,
}

/// What comes of wanting a retry, or of not wanting one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Granted {
    /// None is wanted, and what was got came at the first try.
    Unwanted,
    /// None is wanted: the one before was a success.
    Success,
    /// None is left.
    LimitExceeded,
    /// The circuit breaker is in the way.
    Overflow,
    /// The runtime has only a share of requests sent again (`upstream.use_retry`).
    Untaken,
    /// The request is sent again.
    Again,
}

impl RetryState {
    /// With `left` retries.
    pub(crate) fn new(left: u64, priority: BreakerPriority) -> Self {
        Self { left, priority, permit: None }
    }

    /// No retry is in flight any more.
    pub(crate) fn release(&mut self) {
        self.permit = None;
    }

    /// The last try ended; takes one of those that are left if `decision` wants one. Counts at the cluster what comes of it.
    pub(crate) fn take(
        &mut self,
        cluster: &Arc<Cluster>,
        decision: Decision,
        runtime: &Runtime,
        random: impl FnOnce() -> u64,
    ) -> Granted {
        let stats = cluster.stats.traffic.here();
        if decision == Decision::Keep {
            if self.permit.take().is_none() {
                return Granted::Unwanted;
            }
            stats.upstream_rq_retry_success.inc();
            return Granted::Success;
        }
        // (The last retry may go on, and be a success.)
        let Some(left) = self.left.checked_sub(1) else {
            stats.upstream_rq_retry_limit_exceeded.inc();
            return Granted::LimitExceeded;
        };
        self.left = left;
        self.permit = None;
        let Ok(permit) = Permit::acquire_retry(cluster.clone(), self.priority) else {
            stats.upstream_rq_retry_overflow.inc();
            return Granted::Overflow;
        };
        if runtime.number("upstream.use_retry").is_some_and(|percent| random() % 100 >= percent) {
            return Granted::Untaken;
        }
        self.permit = Some(permit);
        Granted::Again
    }
}

#[cfg(test)]
mod tests {
    use xds_api::envoy::config::cluster::v3::cluster::DiscoveryType;

    use super::*;
    use crate::upstream::tests::{build, cluster};

    #[test]
    fn a_retry_is_in_flight_until_it_is_a_success() {
        let cluster = build(&cluster(DiscoveryType::Static, Vec::new())).unwrap();
        let runtime = Runtime::new(Vec::new());
        let mut state = RetryState::new(1, BreakerPriority::Default);
        let mut take = |decision| state.take(&cluster, decision, &runtime, || 0);
        assert_eq!(take(Decision::Keep), Granted::Unwanted);
        assert_eq!(take(Decision::AfterPause), Granted::Again);
        // Another try of the same request wants one, too.
        assert_eq!(take(Decision::AtOnce), Granted::LimitExceeded);
        assert_eq!(take(Decision::Keep), Granted::Success);
        assert_eq!(take(Decision::Keep), Granted::Unwanted);
    }

    #[test]
    fn the_breaker_leaves_only_so_many() {
        let cluster = build(&cluster(DiscoveryType::Static, Vec::new())).unwrap();
        let runtime = Runtime::new(Vec::new());
        let new = || RetryState::new(1, BreakerPriority::Default);
        let mut states: Vec<RetryState> = std::iter::repeat_with(new).take(4).collect();
        let granted: Vec<Granted> = states
            .iter_mut()
            .map(|state| state.take(&cluster, Decision::AfterPause, &runtime, || 0))
            .collect();
        assert_eq!(granted, [Granted::Again, Granted::Again, Granted::Again, Granted::Overflow]);
        if let Some(state) = states.first_mut() {
            state.release();
        }
        assert_eq!(new().take(&cluster, Decision::AfterPause, &runtime, || 0), Granted::Again);
    }
}
