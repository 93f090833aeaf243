//! HTTP/1 codec, sans-io: pure state machines over byte buffers (RFC 9110, RFC 9112; Envoy's HTTP/1 codec behaviour).
//!
//! What it owns: finding and parsing message heads, deciding how a body is framed, decoding and encoding bodies, writing heads.
//! What it must never do: read or write a socket, know a timeout, decide a route.
//!
//! Request smuggling is impossible by construction, on four rules:
//! 1. framing is decided once, at the head, from exactly one valid `content-length` or exactly one `transfer-encoding: chunked`;
//!    anything else is an error, never a guess;
//! 2. a parsed message carries its framing as a value ([`BodyFraming`]), and the encoder writes the framing fields from that
//!    value alone: what stands in the header map under those names is never copied to the wire;
//! 3. hop-by-hop fields are gone from the parsed header map, so they cannot be forwarded by omission, and are never written
//!    from one; only the words of an upgrade (`connection`, `upgrade`) are kept and written again, where it is one;
//! 4. what is written came through types that cannot hold CR, LF or NUL, or is checked on the way out ([`encode`]).
//!
//! Where Envoy 1.40 is lenient in a way that lets two parsers disagree (several `host` or userinfo in it, bare CR, folded lines
//! in fields about framing, routing or the connection, odd white space in the request line, trailer sections with bare LF) this
//! codec refuses.

pub mod body;
mod case;
pub mod encode;
mod error;
mod fields;
mod framing;
pub mod hop;
pub mod request;
pub mod response;
mod scan;
mod target;

pub use body::{BodyDecoder, TrailerOptions, Trailers};
pub use case::KeyFormat;
pub use encode::{BodyEncoder, ConnectionOption, RequestMessage, ResponseMessage, TargetForm};
pub use error::{BodyError, EncodeError, RequestError, ResponseError};
pub use fields::Underscores;
pub use framing::BodyFraming;
pub use hop::wants_trailers;
pub use request::{ParsedRequest, RequestOptions, RequestParser};
pub use response::{ParsedResponse, ResponseContext, ResponseKind, ResponseOptions, ResponseParser};
pub use scan::HeadLimits;
pub(crate) use target::parse_url;
pub use target::{is_valid_authority, is_valid_path};

/// Which kind of message a field belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Side {
    Request,
    Response,
}

#[cfg(test)]
mod tests;
