//! Hosts of clusters and the contract of load balancers: plain immutable data and a few atomics.

mod host;

pub use host::{Host, HostHealth, Locality};
