//! What the store holds, as `/config_dump` shows it.

use std::sync::Arc;
use std::time::SystemTime;

use prost_types::Any;

use super::store::Store;
use crate::listener::accept::ListenerTag;
use crate::listener::config::Listener;
use crate::upstream::cluster::Cluster;

/// A resource that is held.
#[derive(Clone, Debug)]
pub struct Resource {
    /// Type and bytes, as delivered.
    pub any: Arc<Any>,
    /// `version_info`; empty for static ones.
    pub version: String,
    /// When it was taken.
    pub updated: SystemTime,
}

/// The last form of a resource that was rejected.
#[derive(Clone, Debug)]
pub struct ErrorState {
    /// The resource; `updated` is the time of the rejection.
    pub resource: Resource,
    /// Why.
    pub details: String,
}

/// A cluster or listener in all its forms.
#[derive(Clone, Debug)]
pub struct Forms {
    /// Its name.
    pub name: String,
    /// From the bootstrap.
    pub is_static: bool,
    /// The form in force.
    pub active: Option<Resource>,
    /// The form that warms.
    pub warming: Option<Resource>,
    /// Forms that drain, the oldest first (listeners only).
    pub draining: Vec<Resource>,
    /// The form that was rejected, unless a good one came since.
    pub error: Option<ErrorState>,
}

/// A route configuration or a secret.
#[derive(Clone, Debug)]
pub struct Named {
    /// Its name.
    pub name: String,
    /// What came; `None` while nothing has.
    pub resource: Option<Resource>,
    /// The form that was rejected, unless a good one came since.
    pub error: Option<ErrorState>,
}

/// Everything the store holds.
#[derive(Clone, Debug, Default)]
pub struct Dump {
    /// `version_info` of the last CDS response that was taken.
    pub clusters_version: String,
    /// Clusters by name.
    pub clusters: Vec<Forms>,
    /// `version_info` of the last LDS response that was taken.
    pub listeners_version: String,
    /// Listeners by name.
    pub listeners: Vec<Forms>,
    /// Route configurations inside of listeners, those that warm included.
    pub inline_routes: Vec<Named>,
    /// Route configurations of RDS by name.
    pub routes: Vec<Named>,
    /// Secrets of the bootstrap by name.
    pub static_secrets: Vec<Named>,
    /// Secrets that were delivered by name, the files that they name in them.
    pub active_secrets: Vec<Named>,
    /// Secrets that are waited for by name.
    pub warming_secrets: Vec<Named>,
}

impl Store {
    /// Everything the store holds.
    pub fn dump(&self) -> Dump {
        let (clusters_version, listeners_version) = self.versions();
        let clusters = self.clusters.entries.iter().map(|(name, entry)| Forms {
            name: name.clone(),
            is_static: entry.is_static,
            active: entry.active.as_ref().map(|version| version.resource.clone()),
            warming: entry.warming.as_ref().map(|version| version.resource.clone()),
            draining: Vec::new(),
            error: entry.error.as_deref().cloned(),
        });
        let routes = self.routes.0.iter().map(|((name, _), config)| Named {
            name: name.clone(),
            resource: config.current.as_ref().map(|(resource, _)| resource.clone()),
            error: config.error.clone(),
        });
        let (static_secrets, active_secrets, warming_secrets) = self.secrets.dump();
        Dump {
            static_secrets,
            active_secrets,
            warming_secrets,
            clusters_version: clusters_version.to_owned(),
            clusters: clusters.collect(),
            listeners_version: listeners_version.to_owned(),
            listeners: self.listeners.dump(),
            inline_routes: self.listeners.inline_routes(),
            routes: routes.collect(),
        }
    }

    /// The clusters in force, by name, and whether each was delivered.
    pub fn active_clusters(&self) -> impl Iterator<Item = (&Arc<Cluster>, bool)> {
        let entries = self.clusters.entries.values();
        entries.filter_map(|entry| Some((&entry.active.as_ref()?.cluster, !entry.is_static)))
    }

    /// The listeners in force, by name, with the tags of their sockets.
    pub fn active_listeners(&self) -> impl Iterator<Item = (&str, ListenerTag, &Arc<Listener>)> {
        self.listeners.active()
    }
}
