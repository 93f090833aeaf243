//! Clusters: hosts, load balancing, circuit breakers, discovery by DNS, and the options of connections.

pub mod balancing;
pub mod circuit_breaker;
pub mod cluster;
pub mod discovery;
pub mod dns;
pub mod fields;
pub mod http_options;
pub mod key_format;
pub mod pool;
pub mod socket_options;

#[cfg(test)]
mod tests;
