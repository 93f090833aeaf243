//! Listener filters: they look at the first bytes and the socket of a connection before a filter chain is chosen.
//!
//! Source: Envoy `envoy/network/listener_filter.h` / `filter.h`, `docs/root/configuration/listeners/listener_filters`.

use std::sync::Arc;

use super::Descriptor;
use crate::address::Address;
use crate::config::{BuildCx, Rejected};
use crate::stream_info::ConnectionInfo;

/// The accepted socket, as far as a listener filter may use it.
pub trait Socket {
    /// The address the client meant before the kernel redirected the connection (`SO_ORIGINAL_DST`).
    fn original_destination(&self) -> Option<Address>;
}

/// What a listener filter wants next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ListenerStep {
    /// Done: drop the first `consume` bytes of the stream and go on to the next filter.
    Continue {
        /// Bytes that belong to the filter (a PROXY protocol header) and must not reach the connection.
        consume: usize,
    },
    /// Call again when more bytes have arrived.
    NeedData,
    /// Close the connection.
    Close,
}

/// One listener filter on one connection.
pub trait ListenerFilter {
    /// Most bytes that it wants to see at once; 0 if it looks at no bytes. It may grow between calls.
    fn max_read_bytes(&self) -> usize;
    /// Called at accept and whenever more bytes have arrived; `data` is all that was received and not consumed.
    fn on_data(&mut self, data: &[u8], socket: &dyn Socket, info: &mut ConnectionInfo) -> ListenerStep;
    /// The peer closed or failed before the filter was done.
    fn on_close(&mut self) {}
}

/// The configuration of a listener filter, built once.
pub trait ListenerFilterConfig: Send + Sync {
    /// The filter for a new connection.
    fn create(&self) -> Box<dyn ListenerFilter>;
    /// Whether it finds out what the client speaks, and does nothing else: nothing is lost without it where the client is silent.
    fn is_inspector(&self) -> bool {
        false
    }
}

/// A kind of listener filter, erased.
pub trait ListenerFilterFactory: Sync {
    /// What it says about itself.
    fn descriptor(&self) -> Descriptor;
    /// Builds the configuration from the payload of its `Any`.
    fn build(&self, payload: &[u8], cx: &mut BuildCx<'_>) -> Result<Arc<dyn ListenerFilterConfig>, Rejected>;
}
