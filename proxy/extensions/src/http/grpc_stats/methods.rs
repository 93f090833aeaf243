//! The counters of calls, by cluster, service and method, found without allocation once they exist.

use std::cell::RefCell;
use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use proxy_core::stats::{Cells, Registry, Scope};

/// Most names of methods that are counted apart; what comes after them is counted without a name.
pub const METHOD_LIMIT: usize = 10_000;

proxy_core::stats! {
    /// `cluster.<name>.grpc` and `cluster.<name>.grpc.<service>.<method>`.
    pub sharded struct GrpcMethodStats {
        /// Calls that ended with another status than 0.
        counter failure [on_demand],
        /// Messages of clients.
        counter request_message_count [on_demand],
        /// Messages of servers.
        counter response_message_count [on_demand],
        /// Calls that ended with status 0.
        counter success [on_demand],
        /// Calls that ended with a status.
        counter total [on_demand],
        /// From the last byte sent to the upstream to the last byte received.
        histogram upstream_rq_time (Milliseconds) [on_demand],
    }
}

/// The counters of one method, or of all that have no name.
pub(super) struct MethodCounters {
    stats: Cells<GrpcMethodStats>,
    scope: Scope,
}

impl MethodCounters {
    fn new(scope: Scope) -> Self {
        Self { stats: scope.cells(), scope }
    }

    /// Counts messages.
    pub(super) fn add_messages(&self, request: u64, response: u64) {
        let stats = self.stats.here();
        if request > 0 {
            stats.request_message_count.add(request);
        }
        if response > 0 {
            stats.response_message_count.add(response);
        }
    }

    /// Counts a call that ended with `grpc-status: status`.
    pub(super) fn finish(&self, status: &[u8]) {
        let stats = self.stats.here();
        if status == b"0" {
            stats.success.inc()
        } else {
            stats.failure.inc()
        }
        stats.total.inc();
        // An upstream could make up statuses without end: what is no small number counts as failure only.
        let name = std::str::from_utf8(status)
            .ok()
            .filter(|name| (1..=3).contains(&name.len()) && name.bytes().all(|byte| byte.is_ascii_digit()));
        if let Some(name) = name {
            self.scope.counter(name).inc();
        }
    }

    /// Records how long the upstream took.
    pub(super) fn record_upstream_time(&self, time: Duration) {
        let millis = u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        self.stats.here().upstream_rq_time.record(millis);
    }
}

/// All counters that exist. The lock is written when a name is new and read otherwise.
pub(super) struct Methods {
    registry: Arc<Registry>,
    known: RwLock<HashMap<Box<str>, Arc<MethodCounters>>>,
    limit: usize,
}

thread_local! {
    static NAME: RefCell<String> = const { RefCell::new(String::new()) };
}

impl Methods {
    pub(super) fn new(registry: Arc<Registry>) -> Self {
        Self { registry, known: RwLock::default(), limit: METHOD_LIMIT }
    }

    /// The counters of calls without a name.
    pub(super) fn unnamed(&self, cluster: &str) -> Arc<MethodCounters> {
        self.find(&["cluster.", cluster, ".grpc"], usize::MAX).unwrap_or_else(|| {
            // Not reached: the limit does not apply.
            Arc::new(MethodCounters::new(self.registry.scope("grpc")))
        })
    }

    /// The counters of a method; those without a name once there are too many.
    pub(super) fn named(&self, cluster: &str, service: &str, method: &str) -> Arc<MethodCounters> {
        let parts = ["cluster.", cluster, ".grpc.", service, ".", method];
        self.find(&parts, self.limit).unwrap_or_else(|| self.unnamed(cluster))
    }

    /// The counters under a prefix; `None` if they are new and there are `limit` already.
    fn find(&self, parts: &[&str], limit: usize) -> Option<Arc<MethodCounters>> {
        NAME.with_borrow_mut(|name| {
            name.clear();
            name.extend(parts.iter().copied());
            let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
            if let Some(counters) = known.get(name.as_str()) {
                return Some(counters.clone());
            }
            if known.len() >= limit {
                return None;
            }
            drop(known);
            let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
            let new = || Arc::new(MethodCounters::new(self.registry.scope(name)));
            Some(known.entry(name.as_str().into()).or_insert_with(new).clone())
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_beyond_the_limit_count_without_a_name() {
        let registry = Registry::new(1);
        let methods = Methods { limit: 2, ..Methods::new(registry) };
        let one = methods.named("c", "s", "one");
        methods.named("c", "s", "two");
        let three = methods.named("c", "s", "three");
        assert!(Arc::ptr_eq(&one, &methods.named("c", "s", "one")));
        assert!(Arc::ptr_eq(&three, &methods.unnamed("c")));
        assert_eq!(three.scope.prefix(), "cluster.c.grpc");
    }
}
