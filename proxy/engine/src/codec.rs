//! Wire protocols: bytes to messages and back.
//!
//! [`h1`] is sans-io; the `*_server` and `*_client` modules drive a codec over a connection, and `downstream` and
//! `upstream` are what the connection manager and the pools see of any of them.

pub(crate) mod downstream;
pub mod fields;
pub mod h1;
pub(crate) mod h1_client;
pub(crate) mod h1_server;
pub(crate) mod h2_backlog;
pub(crate) mod h2_client;
pub(crate) mod h2_cookies;
mod h2_gather;
pub mod h2_guard;
pub(crate) mod h2_headers;
pub(crate) mod h2_keepalive;
pub(crate) mod h2_metadata;
pub(crate) mod h2_server;
pub mod h2_settings;
pub(crate) mod h2_shedding;
pub mod hpack;
pub(crate) mod output;
pub(crate) mod upstream;
