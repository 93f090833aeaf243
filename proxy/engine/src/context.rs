//! What everything that serves connections on one worker shares, whatever it speaks.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;

use proxy_core::config::BuildEnv;
use proxy_core::extension::http_filter::Engine;
use proxy_core::runtime::Runtime;

use crate::local::drain::ProcessDrain;
use crate::router::Routes;
use crate::upstream::pool::Clusters;

/// What all connections of a worker share.
pub struct Context {
    /// The process.
    pub env: Arc<BuildEnv>,
    /// Clusters and their connection pools.
    pub clusters: Rc<Clusters>,
    /// Route tables delivered by RDS.
    pub routes: Rc<Routes>,
    /// Whether the process drains, and since when.
    pub drain: Arc<ProcessDrain>,
    /// The worker's random numbers.
    pub random: RefCell<fastrand::Rng>,
}

impl Engine for Context {
    fn runtime(&self) -> &Runtime {
        &self.env.runtime
    }

    fn random(&self) -> u64 {
        self.random.borrow_mut().u64(..)
    }

    fn health_check_failed(&self) -> bool {
        self.drain.health_check_failed()
    }

    fn cluster_health(&self, cluster: &str) -> Option<(usize, usize)> {
        let cluster = self.clusters.by_name(cluster)?;
        let hosts = cluster.hosts();
        Some((hosts.healthy_len(), hosts.len()))
    }
}
