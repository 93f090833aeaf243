//! Tracers.

mod gathering;
mod http_service;
pub mod opentelemetry;
mod w3c;
pub mod zipkin;
