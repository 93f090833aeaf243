//! HTTP: connections, streams, the filter chain, and everything the connection manager does to a request.

pub mod config;
pub mod connection;
mod connection_h2;
mod deadlines;
mod exchange;
pub mod fields;
mod filter_chain;
mod forward;
mod forwarded;
mod normalize;
mod reply;
mod request_id;
mod respond;
mod stream;

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;

use proxy_core::config::BuildEnv;
use proxy_core::extension::http_filter::Engine;
use proxy_core::runtime::Runtime;

use crate::router::Routes;
use crate::upstream::pool::Clusters;

/// What all HTTP connections of a worker share.
pub struct Context {
    /// The process.
    pub env: Arc<BuildEnv>,
    /// Clusters and their connection pools.
    pub clusters: Rc<Clusters>,
    /// Route tables delivered by RDS.
    pub routes: Rc<Routes>,
    /// Whether the process drains, and since when.
    pub drain: Arc<crate::local::drain::ProcessDrain>,
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
