//! The xDS transport protocol: state-of-the-world and delta, aggregated and single-type streams.
//!
//! The crate moves opaque resources between a management server and whoever keeps the configuration. It knows type URLs,
//! names, versions and nonces; it never looks inside a resource beyond its name field.
//!
//! * [`protocol`] is the state machine, without sockets or clocks: responses, interest and verdicts in, requests and
//!   updates out.
//! * [`client`] drives it with tokio over gRPC or REST and watches configuration files.
//! * `fake` (feature `testing`) is a scripted management server, `simulation` a random one for the state machine alone.
//!
//! References: Envoy's xDS protocol documentation ("xDS REST and gRPC protocol") and `envoy.service.discovery.v3`.

pub mod client;
#[cfg(any(test, feature = "testing"))]
pub mod fake;
pub mod protocol;
pub mod resource;
#[cfg(any(test, feature = "testing"))]
pub mod simulation;

pub use protocol::{
    Event, Limits, Observer, Protocol, RateLimit, Request, ResourceUpdate, Response, Settings, Update,
    UpdateId, Variant, Verdict,
};
pub use resource::{TypeUrl, WILDCARD, name_of};
