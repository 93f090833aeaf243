//! From a configuration message to an immutable runtime object: the path, the errors, and what building may ask for.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use xds_api::envoy::config::core::v3::BindConfig;

use crate::background::Background;
use crate::dns_cache::{DnsCaches, NoDnsCaches};
use crate::extension::Extensions;
use crate::kept::Kept;
use crate::names::Names;
use crate::runtime::Runtime;
use crate::upstream::LocalCluster;

/// One thing wrong with a configuration: where and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigError {
    /// Path from the root of the resource, `filter_chains[0].filters[2].typed_config`; empty for the root.
    pub path: String,
    /// What is wrong and, where it helps, what to do.
    pub reason: String,
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.path.is_empty() {
            return f.write_str(&self.reason);
        }
        write!(f, "{}: {}", self.path, self.reason)
    }
}

impl std::error::Error for ConfigError {}

/// Says that something was refused; the reason is in the [`BuildCx`] it came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rejected;

/// Who this proxy is, as it tells the control plane.
#[derive(Clone, Debug, Default)]
pub struct NodeInfo {
    /// `node.id`, or `--service-node`.
    pub id: String,
    /// `node.cluster`, or `--service-cluster`.
    pub cluster: String,
    /// `node.locality.region`.
    pub region: String,
    /// `node.locality.zone`, or `--service-zone`.
    pub zone: String,
    /// `node.locality.sub_zone`.
    pub sub_zone: String,
    /// What of `node.metadata` is a set of values, or a short text.
    pub metadata: prost_types::Struct,
    /// The address that stands for this host where a client on the host itself has only a loopback address.
    pub address: Option<IpAddr>,
}

/// What building may ask of the process; one for its whole life.
pub struct BuildEnv {
    /// Every extension that can be named by a type URL.
    pub extensions: Extensions,
    /// Names of clusters and their slots in every snapshot.
    pub clusters: Names,
    /// Names of route configurations delivered by RDS and their slots in every snapshot.
    pub routes: Names,
    /// Runtime values and fractions.
    pub runtime: Arc<Runtime>,
    /// Every statistic of the process.
    pub stats: Arc<crate::stats::Registry>,
    /// Who this proxy is.
    pub node: NodeInfo,
    /// Number of worker threads.
    pub concurrency: usize,
    /// Access log files by path, shared by all who write to one.
    pub log_files: Arc<dyn crate::extension::access_log::LogFiles>,
    /// What every resource that is delivered is held to before it is built.
    pub checks: Arc<dyn ResourceCheck>,
    /// What the bootstrap says for clusters that do not say it themselves.
    pub cluster_defaults: ClusterDefaults,
    /// Where it is written which hosts were ejected (`cluster_manager.outlier_detection.event_log_path`).
    pub outlier_log: Option<Arc<dyn crate::extension::access_log::LogFile>>,
    /// Work that is done while nobody asks for anything.
    pub background: Background,
    /// State that outlives the update of what holds it.
    pub kept: Kept,
    /// Names that are looked up because requests want to go there.
    pub dns_caches: Arc<dyn DnsCaches>,
    /// The tracer of connection managers that trace and name none (`tracing` of the bootstrap).
    pub default_tracer: Option<Arc<dyn crate::extension::tracer::Tracer>>,
}

impl BuildEnv {
    /// Of a process with this many workers that knows no extension and opens no file.
    pub fn new(workers: u16) -> Self {
        Self {
            extensions: Extensions::default(),
            clusters: Names::default(),
            routes: Names::default(),
            runtime: Arc::default(),
            stats: crate::stats::Registry::new(workers),
            node: NodeInfo::default(),
            concurrency: workers.into(),
            log_files: Arc::new(crate::extension::access_log::NoLogFiles),
            checks: Arc::new(Constraints),
            cluster_defaults: ClusterDefaults::default(),
            outlier_log: None,
            background: Background::default(),
            kept: Kept::default(),
            dns_caches: Arc::new(NoDnsCaches),
            default_tracer: None,
        }
    }
}

/// What the bootstrap says for clusters that do not say it themselves (`cluster_manager`).
#[derive(Clone, Debug, Default)]
pub struct ClusterDefaults {
    /// `cluster_manager.upstream_bind_config`
    pub upstream_bind_config: Option<BindConfig>,
    /// `cluster_manager.local_cluster_name`: the cluster that this proxy is itself a host of.
    pub local_cluster: Option<Arc<LocalCluster>>,
}

/// Holds a resource, as it was delivered, to what the API demands and to what this version honours.
pub trait ResourceCheck: Send + Sync {
    /// What is wrong with `bytes`, a message of the type that `type_url` names.
    fn check(&self, type_url: &str, bytes: &[u8]) -> Findings;
}

/// What is wrong with a resource; nothing if both lists are empty.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Findings {
    /// It is no valid message of its type: the whole response is rejected, as Envoy does.
    pub invalid: Vec<ConfigError>,
    /// It asks for what this version does not do: the resource is rejected, the others of its response are not.
    pub refused: Vec<ConfigError>,
}

/// The constraints of the API and nothing else: for tests, and for who has no tables of fields.
#[derive(Clone, Copy, Debug, Default)]
pub struct Constraints;

impl ResourceCheck for Constraints {
    fn check(&self, type_url: &str, bytes: &[u8]) -> Findings {
        let report = xds_api::check::check(type_url, bytes);
        Findings { invalid: report.errors.into_iter().map(ConfigError::from).collect(), refused: Vec::new() }
    }
}

impl From<xds_api::Error> for ConfigError {
    fn from(error: xds_api::Error) -> Self {
        Self { path: error.path, reason: error.reason }
    }
}

/// All of `refused` and those of `built` that are about something else: what is refused need not be built as well.
pub fn all_errors(refused: Vec<ConfigError>, built: Vec<ConfigError>) -> Vec<ConfigError> {
    let mut errors = refused;
    let known = errors.len();
    for error in built {
        let is_new = errors.iter().take(known).all(|one| !is_within(&error.path, &one.path));
        if is_new && !errors.contains(&error) {
            errors.push(error);
        }
    }
    errors
}

/// Whether `path` is `outer` or leads into it.
fn is_within(path: &str, outer: &str) -> bool {
    let rest = path.strip_prefix(outer);
    rest.is_some_and(|rest| outer.is_empty() || rest.is_empty() || rest.starts_with(['.', '[']))
}

#[derive(Clone, Debug)]
enum Segment {
    Field(&'static str),
    Index(&'static str, usize),
    Key(&'static str, String),
}

/// The place in the configuration that is being built, and what was found wrong so far.
///
/// A `build` function returns `Err(Rejected)` only after it has put the reason here, and goes on to the other fields
/// where it can, so that all errors are reported at once.
pub struct BuildCx<'a> {
    /// What building may ask of the process.
    pub env: &'a BuildEnv,
    /// Prefix of the statistics of what is being built, with a trailing dot: `http.ingress.`; empty outside of filters.
    pub stat_prefix: String,
    /// Whether it stands behind the router, as HTTP filters may.
    pub is_upstream: bool,
    path: Vec<Segment>,
    errors: Vec<ConfigError>,
}

impl<'a> BuildCx<'a> {
    /// Starts at the root of a resource.
    pub fn new(env: &'a BuildEnv) -> Self {
        Self { env, stat_prefix: String::new(), is_upstream: false, path: Vec::new(), errors: Vec::new() }
    }

    /// Runs `build` one field deeper.
    pub fn at<T>(&mut self, field: &'static str, build: impl FnOnce(&mut Self) -> T) -> T {
        self.within(Segment::Field(field), build)
    }

    /// Runs `build` inside element `index` of a repeated field.
    pub fn at_index<T>(
        &mut self,
        field: &'static str,
        index: usize,
        build: impl FnOnce(&mut Self) -> T,
    ) -> T {
        self.within(Segment::Index(field, index), build)
    }

    /// Runs `build` inside the entry `key` of a map field.
    pub fn at_key<T>(&mut self, field: &'static str, key: &str, build: impl FnOnce(&mut Self) -> T) -> T {
        self.within(Segment::Key(field, key.to_owned()), build)
    }

    /// Builds every element of a repeated field, reporting all errors before it gives up.
    pub fn each<P, T>(
        &mut self,
        field: &'static str,
        protos: impl IntoIterator<Item = P>,
        mut build: impl FnMut(P, &mut Self) -> Result<T, Rejected>,
    ) -> Result<Vec<T>, Rejected> {
        let mut built = Vec::new();
        let mut rejected = false;
        for (index, proto) in protos.into_iter().enumerate() {
            match self.at_index(field, index, |cx| build(proto, cx)) {
                Ok(one) => built.push(one),
                Err(Rejected) => rejected = true,
            }
        }
        if rejected { Err(Rejected) } else { Ok(built) }
    }

    fn within<T>(&mut self, segment: Segment, build: impl FnOnce(&mut Self) -> T) -> T {
        self.path.push(segment);
        let built = build(self);
        self.path.pop();
        built
    }

    /// Records what is wrong here.
    pub fn reject(&mut self, reason: impl Into<String>) -> Rejected {
        let error = ConfigError { path: self.path(), reason: reason.into() };
        self.errors.push(error);
        Rejected
    }

    /// Records that `field`, which is set, cannot be honoured; does nothing when it is not set.
    pub fn reject_if(&mut self, is_set: bool, field: &'static str, reason: &str) -> Result<(), Rejected> {
        if is_set { Err(self.at(field, |cx| cx.reject(reason))) } else { Ok(()) }
    }

    /// The full name and the payload of what `any` holds, a `TypedStruct` unwrapped.
    pub fn unpack(&mut self, any: &prost_types::Any) -> Result<(String, Vec<u8>), Rejected> {
        match xds_api::any::resolve(any) {
            Ok((url, payload)) => Ok((crate::extension::message_name(&url).to_owned(), payload.into_owned())),
            Err(errors) => {
                for error in errors.0 {
                    self.reject(error.to_string());
                }
                Err(Rejected)
            }
        }
    }

    /// Whether anything was found wrong so far.
    pub fn is_rejected(&self) -> bool {
        !self.errors.is_empty()
    }

    /// Everything that was found wrong.
    pub fn into_errors(self) -> Vec<ConfigError> {
        self.errors
    }

    /// The path of the place being built.
    pub fn path(&self) -> String {
        use fmt::Write;
        let mut path = String::new();
        for segment in &self.path {
            if !path.is_empty() {
                path.push('.');
            }
            let _ = match segment {
                Segment::Field(field) => write!(path, "{field}"),
                Segment::Index(field, index) => write!(path, "{field}[{index}]"),
                Segment::Key(field, key) => write!(path, "{field}[\"{key}\"]"),
            };
        }
        path
    }
}

/// What is done with a field of a configuration message; every field of a message that is read has one of these.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FieldUse {
    /// Honoured.
    Used,
    /// Accepted without effect, for this reason.
    Ignored(&'static str),
    /// Refused when set, for this reason.
    Rejected(&'static str),
}

/// For one message, by its full name, what is done with each of its fields.
pub type MessageFields = (&'static str, &'static [(&'static str, FieldUse)]);

/// A protobuf duration as a non-negative [`std::time::Duration`]; `None` if it is negative.
pub fn duration(proto: &prost_types::Duration) -> Option<std::time::Duration> {
    let seconds = u64::try_from(proto.seconds).ok()?;
    let nanos = u32::try_from(proto.nanos).ok()?;
    Some(std::time::Duration::new(seconds, nanos))
}

/// An optional duration where absence means `default` and an explicit zero means "off" (`None`), as Envoy's timeouts do.
pub fn timeout_or(
    proto: Option<&prost_types::Duration>,
    default: Option<std::time::Duration>,
) -> Option<std::time::Duration> {
    match proto {
        None => default,
        Some(proto) => duration(proto).filter(|duration| !duration.is_zero()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_refused_is_not_said_twice() {
        let error =
            |path: &str, reason: &str| ConfigError { path: path.to_owned(), reason: reason.to_owned() };
        let refused = vec![error("a.b", "refused")];
        let built = vec![error("a.b[1].c", "x"), error("a.bc", "y"), error("a.bc", "y"), error("a", "z")];
        assert_eq!(
            all_errors(refused, built),
            [error("a.b", "refused"), error("a.bc", "y"), error("a", "z")]
        );
    }
}
