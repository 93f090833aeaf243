//! Sinks of statistics.

mod statsd;

pub mod dialects;
pub mod metrics_service;
