//! What can go wrong with a stream, and what each of it means: flag, status, details.
//!
//! Every mapping is an exhaustive match, so a new kind of error makes the compiler list the places that must decide.

use http::StatusCode;
use std::borrow::Cow;

use crate::response_flag::ResponseFlag;

/// Why an upstream stream ended before its response did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UpstreamReset {
    /// The connection could not be made.
    ConnectFailure,
    /// No connection was tried: the socket could not be made as configured (`upstream_bind_config`).
    LocalConnectFailure,
    /// The connection was not made within `connect_timeout`.
    ConnectTimeout,
    /// The upstream closed the connection.
    ConnectionTermination,
    /// The upstream reset the stream.
    RemoteReset,
    /// The upstream refused the stream: it was not processed (HTTP/2 REFUSED_STREAM, GOAWAY).
    RemoteRefused,
    /// This proxy reset the stream.
    LocalReset,
    /// A circuit breaker is open.
    Overflow,
    /// The upstream broke the protocol.
    ProtocolError,
}

impl UpstreamReset {
    /// Envoy's words for the reason (`Http::Utility::resetReasonToString`).
    pub fn reason(self) -> &'static str {
        match self {
            Self::ConnectFailure => "remote connection failure",
            Self::LocalConnectFailure => "local connection failure",
            Self::ConnectTimeout => "connection timeout",
            Self::ConnectionTermination => "connection termination",
            Self::RemoteReset => "remote reset",
            Self::RemoteRefused => "remote refused stream reset",
            Self::LocalReset => "local reset",
            Self::Overflow => "overflow",
            Self::ProtocolError => "protocol error",
        }
    }

    /// The response flag.
    pub fn flag(self) -> ResponseFlag {
        match self {
            Self::ConnectFailure | Self::LocalConnectFailure | Self::ConnectTimeout => {
                ResponseFlag::UpstreamConnectionFailure
            }
            Self::ConnectionTermination => ResponseFlag::UpstreamConnectionTermination,
            Self::RemoteReset | Self::RemoteRefused => ResponseFlag::UpstreamRemoteReset,
            Self::LocalReset => ResponseFlag::LocalReset,
            Self::Overflow => ResponseFlag::UpstreamOverflow,
            Self::ProtocolError => ResponseFlag::UpstreamProtocolError,
        }
    }

    /// The status of the local reply when nothing was sent downstream yet.
    pub fn status(self) -> StatusCode {
        match self {
            Self::ProtocolError => StatusCode::BAD_GATEWAY,
            Self::ConnectFailure
            | Self::LocalConnectFailure
            | Self::ConnectTimeout
            | Self::ConnectionTermination
            | Self::RemoteReset
            | Self::RemoteRefused
            | Self::LocalReset
            | Self::Overflow => StatusCode::SERVICE_UNAVAILABLE,
        }
    }

    /// The reason inside `upstream_reset_before_response_started{...}`.
    pub fn details(self) -> &'static str {
        match self {
            Self::ConnectFailure => "remote_connection_failure",
            Self::LocalConnectFailure => "local_connection_failure",
            Self::ConnectTimeout => "connection_timeout",
            Self::ConnectionTermination => "connection_termination",
            Self::RemoteReset => "remote_reset",
            Self::RemoteRefused => "remote_refused_stream_reset",
            Self::LocalReset => "local_reset",
            Self::Overflow => "overflow",
            Self::ProtocolError => "protocol_error",
        }
    }
}

/// `%RESPONSE_CODE_DETAILS%`: a word of Envoy's vocabulary, sometimes with a reason in braces.
pub type Details = Cow<'static, str>;
