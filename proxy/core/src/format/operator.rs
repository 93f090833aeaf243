//! What commands compile to.

use std::sync::Arc;

use http::HeaderName;

use super::time::TimeFormat;
use crate::cel::Program;
use crate::tls::SanKind;

/// A compiled command.
#[derive(Clone, Debug)]
pub(super) struct Operator {
    pub(super) op: Op,
    /// Most bytes of the value that are printed.
    pub(super) max_length: Option<usize>,
}

/// What a command prints.
#[derive(Clone, Debug)]
pub(super) enum Op {
    /// Known when the format is compiled (`%HOSTNAME%`, `%ENVIRONMENT(X)%`).
    Constant(String),
    Field(Field),
    Header {
        source: HeaderSource,
        names: HeaderNames,
        query: Query,
    },
    Path {
        query: Query,
        names: PathNames,
    },
    QueryParam(String),
    QueryParams {
        decoded: bool,
    },
    Time {
        of: Instant,
        format: TimeFormat,
    },
    Duration {
        from: TimePoint,
        to: TimePoint,
        unit: DurationUnit,
    },
    Details {
        spaces: bool,
    },
    GrpcStatus(GrpcForm),
    Address {
        of: AddressOf,
        form: AddressForm,
    },
    Metadata {
        source: MetadataSource,
        namespace: String,
        path: Vec<String>,
    },
    FilterState {
        upstream: bool,
        key: String,
        form: StateForm,
    },
    ServerName(ServerName),
    Tls {
        upstream: bool,
        field: TlsField,
    },
    CertificateTime {
        upstream: bool,
        end: bool,
        format: TimeFormat,
    },
    Coalesce(Vec<Operator>),
    /// An expression in CEL; typed it keeps its type in JSON.
    Expression {
        program: Arc<Program>,
        typed: bool,
    },
}

/// Commands without a parameter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Field {
    /// Something this proxy never has (yet): QUIC, traces. Prints as missing, as Envoy does without them.
    Absent,
    AccessLogType,
    BytesReceived,
    BytesSent,
    ConnectionId,
    ConnectionTerminationDetails,
    LocalCloseReason,
    DownstreamCloseType,
    DownstreamTransportFailureReason,
    /// Text that is empty because nothing can set it.
    Empty,
    DownstreamHeaderBytesReceived,
    DownstreamHeaderBytesSent,
    DownstreamPlainHeaderBytesReceived,
    DownstreamPlainHeaderBytesSent,
    DownstreamWireBytesReceived,
    DownstreamWireBytesSent,
    Duration,
    FilterChainName,
    LocalReplyBody,
    PoolReadyDuration,
    Protocol,
    RequestAttemptCount,
    RequestDuration,
    RequestHeadersBytes,
    RequestTxDuration,
    ResponseCode,
    ResponseDuration,
    ResponseFlags,
    ResponseFlagsLong,
    ResponseHeadersBytes,
    ResponseTrailersBytes,
    ResponseTxDuration,
    RouteName,
    SpanId,
    StreamId,
    TraceId,
    UniqueId,
    UpstreamCloseType,
    UpstreamCluster,
    UpstreamClusterRaw,
    UpstreamConnectionId,
    UpstreamConnectionIdsAttempted,
    UpstreamHeaderBytesReceived,
    UpstreamHeaderBytesSent,
    UpstreamLocalCloseReason,
    UpstreamPlainHeaderBytesReceived,
    UpstreamPlainHeaderBytesSent,
    UpstreamHostName,
    UpstreamHostNameWithoutPort,
    UpstreamHostNamesAttempted,
    UpstreamHostNamesAttemptedWithoutPort,
    UpstreamHostsAttempted,
    UpstreamHostsAttemptedWithoutPort,
    UpstreamProtocol,
    UpstreamTransportFailureReason,
    UpstreamWireBytesReceived,
    UpstreamWireBytesSent,
    VirtualClusterName,
    /// A number that is always 0 here, as in Envoy over TCP (retransmissions, round-trip time).
    Zero,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum HeaderSource {
    Request,
    Response,
    ResponseTrailers,
}

/// A header, or what Envoy keeps as one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum HeaderKey {
    Method,
    Path,
    Authority,
    Scheme,
    Protocol,
    Status,
    Name(HeaderName),
    /// A name that no header can have; never found.
    None,
}

/// A header and the one printed in its place when it is missing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct HeaderNames {
    pub(super) main: HeaderKey,
    pub(super) other: Option<HeaderKey>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Query {
    Keep,
    Drop,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum PathNames {
    Original,
    Path,
    OriginalOrPath,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Instant {
    Start,
    Emit,
}

/// The moments that `%COMMON_DURATION%` knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum TimePoint {
    DownstreamRxBegin,
    DownstreamRxEnd,
    UpstreamConnectBegin,
    UpstreamConnectEnd,
    UpstreamTxBegin,
    UpstreamTxEnd,
    UpstreamRxBegin,
    UpstreamRxBodyBegin,
    UpstreamRxEnd,
    DownstreamTxBegin,
    DownstreamTxEnd,
    /// Not measured; Envoy accepts any name.
    Unknown,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum DurationUnit {
    Millis,
    Micros,
    Nanos,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum GrpcForm {
    Camel,
    Snake,
    Number,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum AddressOf {
    DownstreamRemote,
    DownstreamDirectRemote,
    DownstreamLocal,
    DownstreamDirectLocal,
    UpstreamLocal,
    UpstreamHost,
    UpstreamRemote,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum AddressForm {
    Whole,
    WithoutPort,
    /// The network of this many leading bits, `10.0.0.0/8`.
    Network(u8),
    Port,
    /// Endpoint id of an internal address; empty for all others.
    EndpointId,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum MetadataSource {
    Dynamic,
    Cluster,
    Route,
    UpstreamHost,
    Listener,
    FilterChain,
    VirtualHost,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum StateForm {
    Plain,
    Typed,
    Field(String),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ServerName {
    SniOnly,
    SniFirst,
    HostFirst,
}

/// What is told of a TLS session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum TlsField {
    Version,
    Cipher,
    Group,
    ServerName,
    PeerSubject,
    PeerIssuer,
    PeerSerial,
    PeerSha1,
    PeerSha256,
    PeerCertificate,
    PeerSans(SanKind),
    ChainSha1,
    ChainSha256,
    ChainSerials,
    IssuerSerial,
    IssuerSha256,
    LocalSubject,
    LocalSans(SanKind),
}
