//! What a client codec hears from an upstream, whatever the protocol.

use bytes::Bytes;
use proxy_core::head::{BodyEvent, ResponseHead};

/// What an upstream sends.
#[derive(Debug)]
pub(crate) enum UpstreamEvent {
    /// A 1xx head, 101 excepted.
    Informational(ResponseHead),
    /// The response head; `end` if nothing follows; `is_upgrade` if the stream is now a tunnel.
    Head {
        /// The head.
        head: ResponseHead,
        /// Nothing follows.
        end: bool,
        /// The stream is now a tunnel.
        is_upgrade: bool,
    },
    /// A piece of the body, trailers, or the end.
    Body(BodyEvent),
    /// The last piece of the body, where it is known that nothing follows: the end travels with it.
    Last(Bytes),
}
