//! Sinks of statistics.

mod statsd;

pub mod dog_statsd;
pub mod graphite_statsd;
pub mod metrics_service;
pub mod plain_statsd;
