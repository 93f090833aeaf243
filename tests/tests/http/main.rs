//! HTTP through the running proxy: how connections end, what passes besides head and body, filters as configurations set
//! them up.
//!
//! `SUBJECT=envoy cargo test -p integration --test http` runs the same against Envoy: what is demanded here is what it does.

mod bodies;
mod filters;
mod goaway;
mod idle;
mod messages;
mod mirror;
mod session;
mod settings;
mod streaming;
