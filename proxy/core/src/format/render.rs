//! What each command prints for one entry: bytes appended to the caller's buffer, nothing allocated on the way.

mod tls;
mod values;

use std::io::Write;
use std::time;

use http::HeaderMap;
use prost_types::Value;
use prost_types::value::Kind;

use super::json::put_value;
use super::operator::*;
use super::query;
use crate::extension::access_log::{LogEntry, LogType};
use crate::grpc;
use crate::head::{Protocol, RequestHead, ResponseHead};
use crate::headers::{X_ENVOY_ORIGINAL_PATH, X_REQUEST_ID};
use crate::local_reply::grpc_status_of;
use crate::stream_info::{StreamInfo, TraceIds};
use crate::upstream::Host;

use values::{
    address, put_host_name, put_host_name_without_port, render_address, render_metadata, render_server_name,
    render_state,
};

/// What was appended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Shape {
    /// Nothing: there is no value.
    Missing,
    /// Text; in JSON it becomes a string.
    Text,
    /// What is JSON as it stands: a number, a boolean, an object, a list, `null`.
    Json,
}

/// Where the value goes; it decides only whether a length limit cuts values that are not strings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Target {
    Text,
    Json,
}

impl Operator {
    /// Appends the value for `entry`, cut to the command's length limit.
    pub(super) fn render(&self, entry: &LogEntry<'_>, target: Target, out: &mut Vec<u8>) -> Shape {
        let start = out.len();
        let shape = self.op.render(entry, target, out);
        if let Some(length) = self.max_length
            && (shape == Shape::Text || target == Target::Text)
        {
            out.truncate(start.saturating_add(length));
        }
        shape
    }
}

impl Op {
    fn render(&self, entry: &LogEntry<'_>, target: Target, out: &mut Vec<u8>) -> Shape {
        match self {
            Self::Constant(text) => put(out, text),
            Self::Field(field) => render_field(*field, entry, out),
            Self::Header { source, names, query } => render_header(*source, names, *query, entry, out),
            Self::Path { query, names } => render_path(*query, *names, entry, out),
            Self::QueryParam(name) => {
                let found = entry
                    .request
                    .and_then(RequestHead::query)
                    .is_some_and(|all| query::param(all, name, out));
                if found { Shape::Text } else { Shape::Missing }
            }
            Self::QueryParams { decoded } => match entry.request.and_then(RequestHead::query) {
                Some(all) if *decoded => {
                    query::normalize(all, out);
                    Shape::Text
                }
                Some(all) => put(out, all),
                None => Shape::Missing,
            },
            Self::Time { of, format } => {
                let time = match of {
                    Instant::Start => entry.info.start_time,
                    Instant::Emit => time::SystemTime::now(),
                };
                format.render(time, out);
                Shape::Text
            }
            Self::Duration { from, to, unit } => render_duration(*from, *to, *unit, entry.info, out),
            Self::Details { spaces } => match &entry.info.details {
                Some(details) if *spaces => put(out, details),
                Some(details) => put_without_spaces(out, details),
                None => Shape::Missing,
            },
            Self::GrpcStatus(form) => render_grpc_status(*form, entry, out),
            Self::Address { of, form } => render_address(address(*of, entry.info), *form, out),
            Self::Metadata { source, namespace, path } => {
                render_metadata(*source, namespace, path, entry.info, out)
            }
            Self::FilterState { upstream, key, form } => {
                let of_host = upstream.then(|| entry.info.upstream_filter_state(key)).flatten();
                let state = if *upstream { of_host.as_deref() } else { entry.info.filter_state(key) };
                state.map_or(Shape::Missing, |state| render_state(state, form, out))
            }
            Self::Tls { upstream, field } => tls::render(*upstream, field, entry.info, out),
            Self::CertificateTime { upstream, end, format } => {
                tls::render_time(*upstream, *end, format, entry.info, out)
            }
            Self::ServerName(choice) => render_server_name(*choice, entry, out),
            Self::Expression { program, typed: true } if target == Target::Json => {
                match program.json(&entry.facts()) {
                    // (It is cut to its length, as other texts.)
                    Some(Value { kind: Some(Kind::StringValue(text)) }) => put(out, &text),
                    Some(value) => {
                        put_value(out, &value);
                        Shape::Json
                    }
                    None => Shape::Missing,
                }
            }
            Self::Expression { program, typed: _ } => {
                program.text(&entry.facts()).map_or(Shape::Missing, |text| {
                    out.extend_from_slice(&text);
                    Shape::Text
                })
            }
            Self::Coalesce(operators) => {
                let start = out.len();
                for operator in operators {
                    let shape = operator.render(entry, target, out);
                    if shape != Shape::Missing && out.len() > start {
                        return shape;
                    }
                }
                Shape::Missing
            }
        }
    }
}

fn put(out: &mut Vec<u8>, text: &str) -> Shape {
    out.extend_from_slice(text.as_bytes());
    Shape::Text
}

fn put_some(out: &mut Vec<u8>, text: Option<&str>) -> Shape {
    text.filter(|text| !text.is_empty()).map_or(Shape::Missing, |text| put(out, text))
}

fn put_number(out: &mut Vec<u8>, number: u64) -> Shape {
    out.extend_from_slice(itoa::Buffer::new().format(number).as_bytes());
    Shape::Json
}

fn put_without_spaces(out: &mut Vec<u8>, text: &str) -> Shape {
    out.extend(text.bytes().map(|byte| if byte.is_ascii_whitespace() { b'_' } else { byte }));
    Shape::Text
}

fn put_joined<'h>(
    out: &mut Vec<u8>,
    hosts: &'h [std::sync::Arc<Host>],
    mut one: impl FnMut(&mut Vec<u8>, &'h Host),
) -> Shape {
    for (index, host) in hosts.iter().enumerate() {
        if index > 0 {
            out.push(b',');
        }
        one(out, host);
    }
    if hosts.is_empty() { Shape::Missing } else { Shape::Text }
}

fn put_since(out: &mut Vec<u8>, from: time::Instant, to: Option<time::Instant>) -> Shape {
    let Some(to) = to else { return Shape::Missing };
    put_number(out, millis(to.saturating_duration_since(from)))
}

fn millis(duration: time::Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// The simple commands; those about the upstream are in [`render_upstream`].
fn render_field(field: Field, entry: &LogEntry<'_>, out: &mut Vec<u8>) -> Shape {
    let info = entry.info;
    match field {
        Field::Absent => Shape::Missing,
        Field::AccessLogType => put(out, log_type(entry.log_type)),
        Field::BytesReceived => put_number(out, info.bytes_received),
        Field::BytesSent => put_number(out, info.bytes_sent),
        Field::ConnectionId => put_number(out, info.connection.id),
        Field::ConnectionTerminationDetails => put_some(out, info.termination_details.as_deref()),
        Field::LocalCloseReason => put_some(out, info.local_close_reason.as_deref()),
        Field::Empty => Shape::Text,
        Field::DownstreamHeaderBytesReceived => put_number(out, info.wire.header_received),
        Field::DownstreamHeaderBytesSent => put_number(out, info.wire.header_sent),
        Field::DownstreamPlainHeaderBytesReceived => put_number(out, info.wire.plain_header_received),
        Field::DownstreamPlainHeaderBytesSent => put_number(out, info.wire.plain_header_sent),
        Field::DownstreamWireBytesReceived => put_number(out, info.wire.received),
        Field::DownstreamWireBytesSent => put_number(out, info.wire.sent),
        Field::Duration => {
            let end = info.end.unwrap_or_else(time::Instant::now);
            put_since(out, info.start, Some(end))
        }
        Field::FilterChainName => put_some(out, Some(&info.connection.filter_chain)),
        Field::LocalReplyBody => put(out, entry.local_reply_body),
        Field::DownstreamCloseType => put(out, info.close_type.as_str()),
        Field::DownstreamTransportFailureReason => match info.connection.transport_failure.as_deref() {
            Some(reason) => put_without_spaces(out, reason),
            None => Shape::Missing,
        },
        Field::Protocol => put_some(out, info.protocol.map(Protocol::as_str)),
        Field::RequestDuration => put_since(out, info.start, info.request_complete),
        Field::RequestHeadersBytes => put_number(out, entry.request.map_or(0, request_bytes)),
        Field::ResponseCode => put_number(out, info.response_code.unwrap_or(0).into()),
        Field::ResponseFlags => put_flags(out, info, |flag| flag.short()),
        Field::ResponseFlagsLong => put_flags(out, info, |flag| flag.long()),
        Field::ResponseHeadersBytes => put_number(out, entry.response.map_or(0, response_bytes)),
        Field::ResponseTrailersBytes => put_number(out, entry.response_trailers.map_or(0, header_bytes)),
        Field::ResponseTxDuration => match info.upstream.first_rx {
            Some(first) => put_since(out, first, info.last_downstream_tx),
            None => Shape::Missing,
        },
        Field::RouteName => put_some(out, info.route_name.as_deref()),
        Field::SpanId => put_trace(out, info, |ids| format!("{:016x}", ids.span_id)),
        Field::StreamId => put_stream_id(out, entry),
        Field::TraceId => put_trace(out, info, trace_id),
        Field::UniqueId => put_uuid(out, fastrand::u128(..)),
        Field::VirtualClusterName => put_some(out, info.virtual_cluster.as_deref()),
        Field::Zero => put_number(out, 0),
        Field::PoolReadyDuration
        | Field::RequestAttemptCount
        | Field::RequestTxDuration
        | Field::ResponseDuration
        | Field::UpstreamCloseType
        | Field::UpstreamCluster
        | Field::UpstreamClusterRaw
        | Field::UpstreamConnectionId
        | Field::UpstreamConnectionIdsAttempted
        | Field::UpstreamHeaderBytesReceived
        | Field::UpstreamHeaderBytesSent
        | Field::UpstreamLocalCloseReason
        | Field::UpstreamPlainHeaderBytesReceived
        | Field::UpstreamPlainHeaderBytesSent
        | Field::UpstreamHostName
        | Field::UpstreamHostNameWithoutPort
        | Field::UpstreamHostNamesAttempted
        | Field::UpstreamHostNamesAttemptedWithoutPort
        | Field::UpstreamHostsAttempted
        | Field::UpstreamHostsAttemptedWithoutPort
        | Field::UpstreamProtocol
        | Field::UpstreamTransportFailureReason
        | Field::UpstreamWireBytesReceived
        | Field::UpstreamWireBytesSent => render_upstream(field, info, out),
    }
}

fn render_upstream(field: Field, info: &StreamInfo, out: &mut Vec<u8>) -> Shape {
    let upstream = &info.upstream;
    let host = upstream.host.as_deref();
    match field {
        Field::PoolReadyDuration => put_since(out, info.start, upstream.pool_ready),
        Field::RequestAttemptCount => put_number(out, upstream.attempts.into()),
        Field::RequestTxDuration => put_since(out, info.start, upstream.last_tx),
        Field::ResponseDuration => put_since(out, info.start, upstream.first_rx),
        Field::UpstreamCloseType => put_some(out, upstream.sought.then(|| upstream.close_type.as_str())),
        Field::UpstreamCluster => {
            put_some(out, upstream.cluster_observability_name.as_deref().or(upstream.cluster.as_deref()))
        }
        Field::UpstreamClusterRaw => put_some(out, upstream.cluster.as_deref()),
        Field::UpstreamConnectionId => put_number(out, upstream.connection_id.unwrap_or(0)),
        Field::UpstreamConnectionIdsAttempted => match upstream.connection_id {
            Some(id) => {
                put_number(out, id);
                Shape::Text
            }
            None => Shape::Missing,
        },
        Field::UpstreamHeaderBytesReceived => put_number(out, upstream.wire.header_received),
        Field::UpstreamHeaderBytesSent => put_number(out, upstream.wire.header_sent),
        Field::UpstreamLocalCloseReason => put_some(out, upstream.local_close_reason.as_deref()),
        Field::UpstreamPlainHeaderBytesReceived => put_number(out, upstream.wire.plain_header_received),
        Field::UpstreamPlainHeaderBytesSent => put_number(out, upstream.wire.plain_header_sent),
        Field::UpstreamHostName => host.map_or(Shape::Missing, |host| put_host_name(out, host)),
        Field::UpstreamHostNameWithoutPort => {
            host.map_or(Shape::Missing, |host| put_host_name_without_port(out, host))
        }
        Field::UpstreamHostNamesAttempted => put_joined(out, &upstream.attempted, |out, host| {
            put_host_name(out, host);
        }),
        Field::UpstreamHostNamesAttemptedWithoutPort => put_joined(out, &upstream.attempted, |out, host| {
            put_host_name_without_port(out, host);
        }),
        Field::UpstreamHostsAttempted => put_joined(out, &upstream.attempted, |out, host| {
            render_address(Some(&host.address), AddressForm::Whole, out);
        }),
        Field::UpstreamHostsAttemptedWithoutPort => put_joined(out, &upstream.attempted, |out, host| {
            render_address(Some(&host.address), AddressForm::WithoutPort, out);
        }),
        Field::UpstreamProtocol => put_some(out, upstream.protocol.map(Protocol::as_str)),
        Field::UpstreamTransportFailureReason => match upstream.transport_failure.as_deref() {
            Some(reason) if !reason.is_empty() => put_without_spaces(out, reason),
            Some(_) | None => Shape::Missing,
        },
        Field::UpstreamWireBytesReceived => put_number(out, upstream.wire.received),
        Field::UpstreamWireBytesSent => put_number(out, upstream.wire.sent),
        _ => Shape::Missing,
    }
}

fn put_flags(
    out: &mut Vec<u8>,
    info: &StreamInfo,
    name: impl Fn(crate::response_flag::ResponseFlag) -> &'static str,
) -> Shape {
    if info.flags.is_empty() {
        return put(out, "-");
    }
    for (index, flag) in info.flags.iter().enumerate() {
        if index > 0 {
            out.push(b',');
        }
        put(out, name(flag));
    }
    Shape::Text
}

/// Envoy's stream id is the request's id; a TCP connection gets one of its own, a stream to a host none.
fn put_trace(out: &mut Vec<u8>, info: &StreamInfo, print: impl FnOnce(&TraceIds) -> String) -> Shape {
    put_some(out, info.trace.as_deref().map(print).as_deref())
}

fn trace_id(ids: &TraceIds) -> String {
    match ids.trace_id {
        [0, low] if !ids.is_wide => format!("{low:016x}"),
        [high, low] => format!("{high:016x}{low:016x}"),
    }
}

fn put_stream_id(out: &mut Vec<u8>, entry: &LogEntry<'_>) -> Shape {
    if matches!(entry.log_type, LogType::UpstreamPoolReady | LogType::UpstreamPeriodic | LogType::UpstreamEnd)
    {
        return Shape::Missing;
    }
    if let Some(request) = entry.request {
        return match request.headers.get(&X_REQUEST_ID) {
            Some(id) => {
                out.extend_from_slice(id.as_bytes());
                Shape::Text
            }
            None => Shape::Missing,
        };
    }
    match entry.info.stream_id {
        0 => Shape::Missing,
        id => put_uuid(out, u128::from(id) << 64 | u128::from(id.wrapping_mul(0x9e37_79b9_7f4a_7c15))),
    }
}

/// Prints 128 bits as a version 4 UUID.
fn put_uuid(out: &mut Vec<u8>, bits: u128) -> Shape {
    let bits = bits & !(0xf << 76) & !(0x3 << 62) | 0x4 << 76 | 0x2 << 62;
    for (index, byte) in bits.to_be_bytes().into_iter().enumerate() {
        if matches!(index, 4 | 6 | 8 | 10) {
            out.push(b'-');
        }
        let _ = write!(out, "{byte:02x}");
    }
    Shape::Text
}

fn log_type(log_type: LogType) -> &'static str {
    match log_type {
        LogType::NotSet => "NotSet",
        LogType::TcpConnectionStart => "TcpConnectionStart",
        LogType::TcpUpstreamConnected => "TcpUpstreamConnected",
        LogType::TcpPeriodic => "TcpPeriodic",
        LogType::TcpConnectionEnd => "TcpConnectionEnd",
        LogType::DownstreamStart => "DownstreamStart",
        LogType::DownstreamPeriodic => "DownstreamPeriodic",
        LogType::DownstreamEnd => "DownstreamEnd",
        LogType::UpstreamPoolReady => "UpstreamPoolReady",
        LogType::UpstreamPeriodic => "UpstreamPeriodic",
        LogType::UpstreamEnd => "UpstreamEnd",
        LogType::DownstreamTunnelSuccessfullyEstablished => "DownstreamTunnelSuccessfullyEstablished",
    }
}

fn header_bytes(headers: &HeaderMap) -> u64 {
    headers.iter().map(|(name, value)| name.as_str().len() + value.len()).sum::<usize>() as u64
}

fn request_bytes(request: &RequestHead) -> u64 {
    let with = |name: &str, value: &str| if value.is_empty() { 0 } else { name.len() + value.len() };
    let pseudo = with(":method", request.method.as_str())
        + with(":scheme", request.scheme.as_str())
        + with(":authority", &request.authority)
        + with(":path", &request.path);
    pseudo as u64 + header_bytes(&request.headers)
}

fn response_bytes(response: &ResponseHead) -> u64 {
    10 + header_bytes(&response.headers)
}

/// The bytes of a header's first value.
fn find<'e>(source: HeaderSource, key: &'e HeaderKey, entry: &LogEntry<'e>) -> Option<&'e [u8]> {
    let request = entry.request.filter(|_| source == HeaderSource::Request);
    let set = |text: &'e str| (!text.is_empty()).then_some(text.as_bytes());
    match key {
        HeaderKey::Method => request.map(|request| request.method.as_str().as_bytes()),
        HeaderKey::Path => set(request?.path.as_str()),
        HeaderKey::Authority => set(request?.authority.as_str()),
        HeaderKey::Scheme => request.map(|request| request.scheme.as_str().as_bytes()),
        HeaderKey::Protocol => set(request?.upgrade.as_ref()?.as_str()),
        HeaderKey::Status if source == HeaderSource::Response => {
            entry.response.map(|response| response.status.as_str().as_bytes())
        }
        HeaderKey::Status | HeaderKey::None => None,
        HeaderKey::Name(name) => {
            let headers = match source {
                HeaderSource::Request => &entry.request?.headers,
                HeaderSource::Response => &entry.response?.headers,
                HeaderSource::ResponseTrailers => entry.response_trailers?,
            };
            headers.get(name).map(http::HeaderValue::as_bytes)
        }
    }
}

fn render_header(
    source: HeaderSource,
    names: &HeaderNames,
    query: Query,
    entry: &LogEntry<'_>,
    out: &mut Vec<u8>,
) -> Shape {
    let other = || names.other.as_ref().and_then(|other| find(source, other, entry));
    let Some(value) = find(source, &names.main, entry).or_else(other) else { return Shape::Missing };
    let value = match query {
        Query::Keep => value,
        Query::Drop => without_query(value),
    };
    out.extend_from_slice(value);
    Shape::Text
}

fn without_query(path: &[u8]) -> &[u8] {
    path.split(|byte| *byte == b'?').next().unwrap_or(path)
}

fn render_path(query: Query, names: PathNames, entry: &LogEntry<'_>, out: &mut Vec<u8>) -> Shape {
    let Some(request) = entry.request else { return Shape::Missing };
    let original = || request.headers.get(&*X_ENVOY_ORIGINAL_PATH).map(http::HeaderValue::as_bytes);
    let path = || Some(request.path.as_str().as_bytes()).filter(|path| !path.is_empty());
    let found = match names {
        PathNames::Original => original(),
        PathNames::Path => path(),
        PathNames::OriginalOrPath => original().or_else(path),
    };
    let Some(found) = found else { return Shape::Missing };
    match query {
        Query::Keep => out.extend_from_slice(found),
        Query::Drop => out.extend_from_slice(without_query(found)),
    }
    Shape::Text
}

fn time_point(point: TimePoint, info: &StreamInfo) -> Option<time::Instant> {
    match point {
        TimePoint::DownstreamRxBegin => Some(info.start),
        TimePoint::DownstreamRxEnd => info.request_complete,
        TimePoint::UpstreamConnectBegin => info.upstream.connect_start,
        TimePoint::UpstreamConnectEnd => info.upstream.connect_end,
        TimePoint::UpstreamRxBodyBegin => info.upstream.first_rx_body,
        TimePoint::UpstreamTxBegin => info.upstream.first_tx,
        TimePoint::UpstreamTxEnd => info.upstream.last_tx,
        TimePoint::UpstreamRxBegin => info.upstream.first_rx,
        TimePoint::UpstreamRxEnd => info.upstream.last_rx,
        TimePoint::DownstreamTxBegin => info.first_downstream_tx,
        TimePoint::DownstreamTxEnd => info.last_downstream_tx,
        TimePoint::Unknown => None,
    }
}

fn render_duration(
    from: TimePoint,
    to: TimePoint,
    unit: DurationUnit,
    info: &StreamInfo,
    out: &mut Vec<u8>,
) -> Shape {
    let Some((from, to)) = time_point(from, info).zip(time_point(to, info)) else { return Shape::Missing };
    let Some(duration) = to.checked_duration_since(from) else { return Shape::Missing };
    let count = match unit {
        DurationUnit::Millis => duration.as_millis(),
        DurationUnit::Micros => duration.as_micros(),
        DurationUnit::Nanos => duration.as_nanos(),
    };
    put_number(out, u64::try_from(count).unwrap_or(u64::MAX))
}

/// The gRPC status of an entry: trailers, then head, then what the HTTP status means. `None` unless the request is gRPC.
pub(crate) fn grpc_status(entry: &LogEntry<'_>) -> Option<u32> {
    if !entry.request.is_some_and(RequestHead::is_grpc) {
        return None;
    }
    grpc_status_of_response(entry)
}

/// As [`grpc_status`], whatever the request was.
pub(crate) fn grpc_status_of_response(entry: &LogEntry<'_>) -> Option<u32> {
    let carried = entry.response_trailers.and_then(grpc::status_in);
    let carried = carried.or_else(|| entry.response.and_then(|response| grpc::status_in(&response.headers)));
    carried.or_else(|| {
        let status = http::StatusCode::from_u16(entry.info.response_code?).ok()?;
        Some(grpc_status_of(status))
    })
}

fn render_grpc_status(form: GrpcForm, entry: &LogEntry<'_>, out: &mut Vec<u8>) -> Shape {
    let Some(status) = grpc_status(entry) else { return Shape::Missing };
    let name = match form {
        GrpcForm::Camel => grpc::camel_name(status),
        GrpcForm::Snake => grpc::snake_name(status),
        GrpcForm::Number => return put_number(out, status.into()),
    };
    match name {
        Some(name) => put(out, name),
        None => {
            put_number(out, status.into());
            Shape::Text
        }
    }
}
