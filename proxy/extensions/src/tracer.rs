//! Tracers.

pub mod zipkin;
