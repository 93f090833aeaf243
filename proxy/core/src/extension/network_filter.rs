//! Network filters: policies on connections, and the terminal ones that serve a connection themselves.
//!
//! A policy stands before what serves a client, or behind what speaks with a host (`Cluster.filters`): its peer is the client or the host.
//!
//! `http_connection_manager` and `tcp_proxy` are mechanisms and live in the engine.
//! Source: Envoy `envoy/network/filter.h`, `docs/root/configuration/listeners/network_filters`.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;

use super::Descriptor;
use super::http_filter::{Engine, LocalBoxFuture};
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

/// What a filter says of bytes that the peer sent.
#[derive(Debug, PartialEq, Eq)]
pub enum DataStep {
    /// They go on to the next filter; the filter wants to see those that follow.
    Continue,
    /// They go on, and so does all that follows, unseen.
    Done,
    /// The first so many of them, one at least, are for the filter: nobody else gets them. It is asked about the rest at once, or
    /// about what comes if there is none.
    Take(usize),
    /// Close the connection: nobody gets them.
    Close(Details),
}

/// One policy on one connection. It lives as long as the connection, or until it is [`DataStep::Done`].
pub trait NetworkFilter {
    /// The connection is established (transport handshake done); no byte was read.
    fn on_connection<'a>(&'a mut self, info: &'a mut StreamInfo) -> ConnectionStep<'a>;

    /// The connection is over, however it ended; what it was and carried is known. Called once, of filters that see no data.
    fn on_complete(&mut self, _info: &mut StreamInfo) {}

    /// How often it wants to know what a connection that the TCP proxy serves carried so far, if it does. Asked once, of filters that see
    /// no data.
    fn interval(&self) -> Option<Duration> {
        None
    }

    /// That much time has passed, or less if another filter wants to know more often.
    fn on_interval(&mut self, _info: &StreamInfo) {}

    /// What it says to the peer before anybody else says anything; for filters that do not close the connection, asked once after
    /// every filter's `on_connection`. Filters speak in the order of the chain, as those of the peer listen.
    fn greeting(&mut self) -> Bytes {
        Bytes::new()
    }

    /// Whether it wants to see what the peer sends before the next filter does. Asked once, after `on_connection`: who does
    /// not costs the bytes nothing.
    fn sees_data(&self) -> bool {
        false
    }

    /// `data` is what the peer sent and nobody after this filter got yet; `end`: no more will follow it.
    ///
    /// While it is pending the bytes are held back, and read on as far as the connection may buffer. It is called again when more
    /// have come (with all that is held, after the filters before it) and when the task was woken. What goes the other way is
    /// not held: a host that speaks first is heard. Who waits for more than may be buffered takes what is there.
    fn poll_data(
        &mut self,
        _cx: &mut Context<'_>,
        _data: &[u8],
        _end: bool,
        _info: &mut StreamInfo,
    ) -> Poll<DataStep> {
        Poll::Ready(DataStep::Done)
    }
}

/// A filter that serves the connection itself.
pub trait TerminalFilter: Send + Sync {
    /// Serves the connection until it ends. Filters that see its bytes use `info` while they are read: it must not be borrowed then.
    fn serve<'a>(&'a self, io: Box<dyn Io>, info: &'a RefCell<StreamInfo>) -> LocalBoxFuture<'a, ()>;
}

/// Creates the filter of a connection on a worker, whose engine it may keep.
pub type CreateFilter = dyn Fn(&Rc<dyn Engine>) -> Box<dyn NetworkFilter> + Send + Sync;

/// Creates the filter of a connection to a host.
pub type CreateUpstreamFilter = dyn Fn() -> Box<dyn NetworkFilter> + Send + Sync;

/// The configuration of a network filter, built once.
#[derive(Clone)]
pub enum NetworkFilterConfig {
    /// A policy: one filter is created for each connection.
    Policy(Arc<CreateFilter>),
    /// The end of the chain.
    Terminal(Arc<dyn TerminalFilter>),
}

/// A kind of network filter, erased.
pub trait NetworkFilterFactory: Sync {
    /// What it says about itself.
    fn descriptor(&self) -> Descriptor;
    /// Builds the configuration from the payload of its `Any`.
    fn build(&self, payload: &[u8], cx: &mut BuildCx<'_>) -> Result<NetworkFilterConfig, Rejected>;
    /// Whether a filter that looks at a connection takes what another one may lack then: a token, a place, a service's time. It
    /// looks at none that may still turn out to be for another chain.
    fn looks_once(&self) -> bool {
        false
    }
}

/// A kind of filter on connections to hosts (`Cluster.filters`), erased.
///
/// The stream that such a filter is shown is the connection to the host: its session is that of `StreamInfo::upstream`, and what the filter
/// leaves in the filter state is the upstream filter state of the streams that the connection carries.
pub trait UpstreamNetworkFilterFactory: Sync {
    /// What it says about itself.
    fn descriptor(&self) -> Descriptor;
    /// Builds the configuration from the payload of its `Any`.
    fn build(&self, payload: &[u8], cx: &mut BuildCx<'_>) -> Result<Arc<CreateUpstreamFilter>, Rejected>;
}
