//! Where hosts are (`core.v3.Locality`), and what is said of the place.

use std::cmp::Ordering;
use std::hash::{Hash, Hasher};
use std::sync::{Arc, LazyLock};

use crate::metadata::Metadata;

/// Where a host is. Two localities are the same if they are the same place, whatever is said of it.
#[derive(Clone, Debug, Default)]
pub struct Locality {
    /// Region.
    pub region: String,
    /// Zone.
    pub zone: String,
    /// Sub-zone.
    pub sub_zone: String,
    /// What is said of it beside its endpoints (`LocalityLbEndpoints.metadata`). A host keeps what was said when it came, as in Envoy.
    pub metadata: Metadata,
}

static NOWHERE: LazyLock<Arc<Locality>> = LazyLock::new(Arc::default);

impl Locality {
    /// The locality of hosts that name none, shared by all of them.
    pub fn nowhere() -> Arc<Self> {
        NOWHERE.clone()
    }

    fn place(&self) -> (&str, &str, &str) {
        (&self.region, &self.zone, &self.sub_zone)
    }
}

impl PartialEq for Locality {
    fn eq(&self, other: &Self) -> bool {
        self.place() == other.place()
    }
}

impl Eq for Locality {}

impl Hash for Locality {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.place().hash(state);
    }
}

impl PartialOrd for Locality {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Locality {
    fn cmp(&self, other: &Self) -> Ordering {
        self.place().cmp(&other.place())
    }
}
