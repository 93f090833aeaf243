//! From resources of any source to the snapshot that the workers serve.
//!
//! [`Store`] is a deterministic state machine on the main thread: resources (static, from files, from management servers),
//! removals, timeouts, DNS and drain completions go in, [`Effect`]s come out. It opens no socket, reads no clock and knows
//! no transport. What holds at all times:
//! * a resource that is rejected leaves the one in force as it was; the good ones of the same response apply;
//! * a cluster or listener serves in its old form until its new one is warm;
//! * identical bytes change nothing, keep the same objects and are not even read again.
//!
//! Source: Envoy `docs/root/intro/arch_overview/{upstream/cluster_manager,operations/init}.rst`, "xDS REST and gRPC protocol".

mod clusters;
mod counting;
mod decode;
pub mod dump;
mod endpoints;
mod files;
mod interest;
mod listeners;
mod routes;
mod secrets;
#[cfg(any(test, feature = "testing"))]
pub mod simulation;
pub mod snapshot;
pub mod source;
mod store;

#[cfg(test)]
mod tests;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use prost_types::Any;

pub use self::listeners::Stopped;
pub use self::snapshot::Snapshot;
pub use self::source::{Source, SourceId, Subscription};
pub use self::store::{Phase, Store};
use crate::listener::accept::ListenerTag;
use crate::listener::config::Listener;
use crate::upstream::cluster::Cluster;

/// The types of resources that the store takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// `envoy.config.cluster.v3.Cluster`
    Cluster,
    /// `envoy.config.endpoint.v3.ClusterLoadAssignment`
    Endpoints,
    /// `envoy.config.listener.v3.Listener`
    Listener,
    /// `envoy.config.route.v3.RouteConfiguration`
    Routes,
    /// `envoy.extensions.transport_sockets.tls.v3.Secret`
    Secret,
}

impl Kind {
    /// The type URL.
    pub fn type_url(self) -> &'static str {
        match self {
            Self::Cluster => "type.googleapis.com/envoy.config.cluster.v3.Cluster",
            Self::Endpoints => "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment",
            Self::Listener => "type.googleapis.com/envoy.config.listener.v3.Listener",
            Self::Routes => "type.googleapis.com/envoy.config.route.v3.RouteConfiguration",
            Self::Secret => "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret",
        }
    }

    /// The kind with this type URL.
    pub fn of(type_url: &str) -> Option<Self> {
        [Self::Cluster, Self::Endpoints, Self::Listener, Self::Routes, Self::Secret]
            .into_iter()
            .find(|kind| kind.type_url() == type_url)
    }
}

/// A resource as it was delivered.
#[derive(Clone, Debug)]
pub struct Delivered {
    /// Its name.
    pub name: String,
    /// Its version, or that of the response.
    pub version: String,
    /// Type and bytes.
    pub any: Any,
}

/// Why there are no resources of a kind although they were asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// A response was rejected before its resources could be read.
    Rejected,
    /// The file could not be read.
    Unreadable,
    /// The stream closed, or could not be opened.
    Disconnected,
}

/// Changes of one kind from one source, to be answered by one [`Effect::Verdict`].
#[derive(Clone, Debug)]
pub struct Response {
    /// Where they come from.
    pub source: SourceId,
    /// What they are.
    pub kind: Kind,
    /// `version_info` of the response.
    pub version: String,
    /// New, changed or merely repeated resources.
    pub upserts: Vec<Delivered>,
    /// Names that are gone.
    pub removed: Vec<String>,
}

/// What the store's owner has to do, in order.
#[derive(Clone)]
pub enum Effect {
    /// Ask a source for resources; `*` is all of them.
    Subscribe {
        /// The source.
        source: SourceId,
        /// The type.
        kind: Kind,
        /// Names to add.
        names: Vec<String>,
        /// `initial_fetch_timeout`; zero waits for ever.
        timeout: Duration,
    },
    /// Ask no longer.
    Unsubscribe {
        /// The source.
        source: SourceId,
        /// The type.
        kind: Kind,
        /// Names to remove.
        names: Vec<String>,
    },
    /// Nothing of this type is wanted of a source any longer: a stream that carries nothing else can end.
    Close {
        /// The source.
        source: SourceId,
        /// The type.
        kind: Kind,
    },
    /// Answer the response that was applied: names and reasons; the empty name stands for the whole response.
    Verdict {
        /// What was rejected; the rest was taken.
        rejected: Vec<(String, String)>,
    },
    /// Install a snapshot on every worker.
    Publish(Arc<Snapshot>),
    /// The hosts of the cluster in this slot changed.
    HostsChanged(usize),
    /// Look after the hosts of a cluster until told to stop: resolve names, forget hosts that nobody goes to any more.
    StartDiscovery {
        /// To be given back with each change.
        id: u64,
        /// The cluster.
        cluster: Arc<Cluster>,
    },
    /// Look after them no longer.
    StopDiscovery(u64),
    /// Look after the health of a cluster's hosts until told to stop.
    StartHealth {
        /// Names this form of the cluster.
        id: u64,
        /// The cluster.
        cluster: Arc<Cluster>,
    },
    /// Look after it no longer.
    StopHealth(u64),
    /// Tell [`Store::endpoints_stale`] when this time has passed, unless another is said under the same number before.
    ExpireEndpoints {
        /// To be given back.
        id: u64,
        /// The time (`endpoint_stale_after`); `None` for never.
        after: Option<Duration>,
    },
    /// Accept on the sockets that were bound under this tag.
    AddListener {
        /// The tag.
        tag: ListenerTag,
        /// The listener.
        listener: Arc<Listener>,
    },
    /// Give a listener new filter chains.
    UpdateChains {
        /// The tag.
        tag: ListenerTag,
        /// The listener.
        listener: Arc<Listener>,
    },
    /// Close the sockets under this tag, and drain what is connected.
    RemoveListener {
        /// The tag.
        tag: ListenerTag,
    },
    /// Tell [`Store::drained`] when the drain time has passed.
    StartDrain {
        /// To be given back.
        id: u64,
    },
    /// Tell [`Store::files_changed`] when something is moved into one of these directories, and once when that is noticed
    /// from now on.
    WatchFiles {
        /// To be given back.
        id: u64,
        /// The directories.
        directories: Vec<PathBuf>,
    },
    /// The same, when something is moved onto this file, or what was written to it is whole.
    WatchFile {
        /// To be given back.
        id: u64,
        /// The file.
        path: PathBuf,
    },
    /// Watch no longer.
    StopWatching(u64),
    /// Everything is initialised.
    Ready,
}

/// The sockets of listeners: bound while the store decides whether a listener can be taken, so that nobody connects to a
/// listener that warms; whoever carries out [`Effect::AddListener`] lets them listen.
pub trait Sockets {
    /// Binds the addresses of `listener` under `tag`.
    ///
    /// # Errors
    /// Why they cannot be bound.
    fn open(&mut self, tag: ListenerTag, listener: &Listener) -> Result<(), String>;

    /// Keeps the sockets of `from` open under `tag` too, for `listener` that has the same addresses, so that a replaced
    /// listener refuses no connection.
    ///
    /// # Errors
    /// Why they cannot be shared.
    fn share(&mut self, from: ListenerTag, tag: ListenerTag, listener: &Listener) -> Result<(), String>;
}
