//! The admin interface: what a person, a control plane or a scraper may ask of the running process over HTTP.
//!
//! It owns the HTTP server, the paths, and Envoy's formats. It knows the rest of the process only as an
//! [`AdminState`], so that it can be tested with a fake one. It runs on the main thread, never on a worker, and a
//! handler never waits: it reads what the state says and answers.
//!
//! Source: Envoy `docs/root/operations/admin.rst`; formats and status codes as observed with Envoy 1.40.

mod access;
mod certs;
mod clusters;
mod config_dump;
mod home;
mod hosts;
mod init_dump;
mod json;
mod lifecycle;
mod listeners;
mod logging;
mod memory;
mod profiling;
mod recent_lookups;
mod request;
mod response;
mod routes;
mod runtime;
mod server;
mod server_info;
mod state;
mod stats;

pub use certs::{CertificateDetails, CertificateEntry, SubjectAltName};
pub use clusters::{BreakerThresholds, ClusterStatus, HostCounters, HostStatus, OutlierStatus, SuccessRates};
pub use config_dump::{ConfigDump, DynamicListener, Endpoints, Resource, UpdateFailure};
pub use hosts::load_assignment;
pub use init_dump::UnreadyTargets;
pub use lifecycle::DrainRequest;
pub use listeners::ListenerStatus;
pub use logging::LogLevel;
pub use memory::MemoryUse;
pub use server::{AdminOptions, AdminServer};
pub use server_info::{CommandLineOptions, DrainStrategy, Mode, ServerInfo};
pub use state::{AdminState, ServerState};

#[cfg(test)]
mod tests;
