//! Clusters: hosts, load balancing, circuit breakers, discovery by DNS, the options of connections, and the
//! streams to hosts that the router drives.

pub(crate) mod added_tlvs;
pub mod aggregate;
mod apart;
pub mod balancing;
pub(crate) mod call;
pub(crate) mod canary;
pub mod checks;
pub mod circuit_breaker;
pub mod cluster;
pub mod connection_filters;
pub mod discovery;
pub mod dns;
pub mod dynamic;
pub mod fields;
pub mod header_mutation;
pub mod health;
pub mod health_discovery;
pub mod http_options;
pub mod key_format;
pub(crate) mod labels;
pub(crate) mod load_report;
mod maintenance;
mod members;
pub mod mirror;
mod oob;
pub mod original_dst;
pub mod outlier;
pub mod pool;
pub mod proxy_protocol;
pub(crate) mod retry_state;
pub mod socket_options;
pub(crate) mod stream;
mod subset_stats;
pub mod transport;
pub mod transport_options;
pub(crate) mod tunnel;

#[cfg(test)]
mod tests;
