//! Network filters: policies on connections, and the terminal ones that serve a connection themselves.
//!
//! `http_connection_manager` and `tcp_proxy` are mechanisms and live in the engine.
//! Source: Envoy `envoy/network/filter.h`, `docs/root/configuration/listeners/network_filters`.

use std::sync::Arc;

use super::Descriptor;
use super::http_filter::LocalBoxFuture;
use crate::config::{BuildCx, Rejected};
use crate::stream_error::Details;
use crate::stream_info::StreamInfo;

/// A byte stream to a peer, as a terminal extension sees it.
pub trait Io: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin {}

impl<T: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin> Io for T {}

/// What a filter wants for a new connection.
pub enum ConnectionStep<'a> {
    /// Go on to the next filter.
    Continue,
    /// Wait until the future says how to go on.
    Wait(LocalBoxFuture<'a, ConnectionVerdict>),
    /// Close the connection.
    Close(Details),
}

/// How a wait ended.
pub enum ConnectionVerdict {
    /// Go on to the next filter.
    Continue,
    /// Close the connection.
    Close(Details),
}

/// One policy on one connection. It lives as long as the connection.
pub trait NetworkFilter {
    /// The connection is established (transport handshake done); no byte was read.
    fn on_connection<'a>(&'a mut self, info: &'a mut StreamInfo) -> ConnectionStep<'a>;
}

/// A filter that serves the connection itself.
pub trait TerminalFilter: Send + Sync {
    /// Serves the connection until it ends.
    fn serve<'a>(&'a self, io: Box<dyn Io>, info: &'a mut StreamInfo) -> LocalBoxFuture<'a, ()>;
}

/// The configuration of a network filter, built once.
#[derive(Clone)]
pub enum NetworkFilterConfig {
    /// A policy: one filter is created for each connection.
    Policy(Arc<dyn Fn() -> Box<dyn NetworkFilter> + Send + Sync>),
    /// The end of the chain.
    Terminal(Arc<dyn TerminalFilter>),
}

/// A kind of network filter, erased.
pub trait NetworkFilterFactory: Sync {
    /// What it says about itself.
    fn descriptor(&self) -> Descriptor;
    /// Builds the configuration from the payload of its `Any`.
    fn build(&self, payload: &[u8], cx: &mut BuildCx<'_>) -> Result<NetworkFilterConfig, Rejected>;
}
