//! The cluster that this proxy is itself a host of, as far as routing by zone looks at it.
//!
//! Source: `bootstrap.proto` `ClusterManager.local_cluster_name`.

use std::sync::Arc;

use arc_swap::{ArcSwap, Guard};

use super::{HostSet, Locality};

/// The hosts beside whom this proxy serves, and where it is itself.
#[derive(Debug)]
pub struct LocalCluster {
    /// Name of the cluster.
    pub name: Box<str>,
    /// Where this proxy is.
    pub locality: Locality,
    hosts: ArcSwap<HostSet>,
}

impl LocalCluster {
    /// The cluster `name`, whose hosts are not known yet.
    pub fn new(name: &str, locality: Locality) -> Self {
        Self { name: name.into(), locality, hosts: ArcSwap::from_pointee(HostSet::default()) }
    }

    /// Its hosts now.
    pub fn hosts(&self) -> Guard<Arc<HostSet>> {
        self.hosts.load()
    }

    /// These are its hosts from now on. Main thread only.
    pub fn set_hosts(&self, hosts: Arc<HostSet>) {
        self.hosts.store(hosts);
    }
}
