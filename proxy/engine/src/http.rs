//! HTTP: connections, streams, the filter chain, and everything the connection manager does to a request.

mod attempt;
pub mod client_cert;
pub mod config;
pub mod connection;
mod connection_h2;
mod deadlines;
mod exchange;
pub mod fields;
mod filter_chain;
mod find_host;
mod forward;
mod forwarded;
pub mod member;
mod mirror;
pub mod normalize;
mod outcome;
mod passing;
mod pick;
mod redirect;
mod reply;
mod request_id;
mod respond;
mod retry;
mod splice;
mod stream;
mod trace;
mod tracing;
mod tracking;
mod upstream_filters;
mod upstream_log;
mod wishes;

use crate::context::Context;
