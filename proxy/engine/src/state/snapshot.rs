//! What the workers serve at one moment.

use std::sync::Arc;

use crate::router::RouteTable;
use crate::upstream::cluster::Cluster;

/// What the data plane does, immutable; indexed by the slots of [`proxy_core::names::Names`].
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    /// Clusters by slot.
    pub clusters: Vec<Option<Arc<Cluster>>>,
    /// Route tables of RDS by slot.
    pub routes: Vec<Option<Arc<RouteTable>>>,
}

impl Snapshot {
    /// The cluster called `name`.
    pub fn cluster(&self, name: &str) -> Option<&Arc<Cluster>> {
        self.clusters.iter().flatten().find(|cluster| cluster.name.as_str() == name)
    }
}

/// Puts `value` at `slot`, making room for it.
pub(super) fn put<T>(table: &mut Vec<Option<Arc<T>>>, slot: usize, value: &Arc<T>) {
    if table.len() <= slot {
        table.resize_with(slot + 1, || None);
    }
    if let Some(place) = table.get_mut(slot) {
        *place = Some(value.clone());
    }
}
