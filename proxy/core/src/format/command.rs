//! The table of commands: which exist, what parameter and length each takes, and what it compiles to.
//!
//! Source: Envoy `docs/root/configuration/observability/access_log/usage.rst`, "Command operators".

use std::sync::Arc;

use http::HeaderName;

use super::operator::*;
use super::parse::Command;
use super::time::{TimeFormat, Zone};
use crate::cel::Program;
use crate::tls::SanKind;

/// What a command takes besides its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Syntax {
    Bare,
    Parameter { required: bool, length: bool },
}

const OPTIONAL: Syntax = Syntax::Parameter { required: false, length: false };
const OPTIONAL_LENGTH: Syntax = Syntax::Parameter { required: false, length: true };
const REQUIRED: Syntax = Syntax::Parameter { required: true, length: false };
const REQUIRED_LENGTH: Syntax = Syntax::Parameter { required: true, length: true };

impl Syntax {
    fn check(self, command: Command<'_>) -> Result<(), String> {
        let name = command.name;
        match self {
            Self::Bare if !command.parameter.is_empty() || command.max_length.is_some() => {
                Err(format!("{name} does not take any parameters or length"))
            }
            Self::Parameter { required: true, .. } if command.parameter.is_empty() => {
                Err(format!("{name} requires parameters"))
            }
            Self::Parameter { length: false, .. } if command.max_length.is_some() => {
                Err(format!("{name} does not allow length to be specified"))
            }
            Self::Bare | Self::Parameter { .. } => Ok(()),
        }
    }
}

impl Operator {
    pub(super) fn new(command: Command<'_>) -> Result<Self, String> {
        let fixed = field(command.name).map(Op::Field);
        let tls = || tls_field(command.name).map(|(upstream, field)| Op::Tls { upstream, field });
        let op = match fixed.or_else(tls) {
            Some(op) => {
                Syntax::Bare.check(command)?;
                op
            }
            None => match address(command)? {
                Some(op) => op,
                None => parametrised(command)?,
            },
        };
        Ok(Self { op, max_length: command.max_length })
    }
}

/// Commands that are addresses in some form.
fn address(command: Command<'_>) -> Result<Option<Op>, String> {
    const TABLE: [(&str, AddressOf); 6] = [
        ("DOWNSTREAM_REMOTE_", AddressOf::DownstreamRemote),
        ("DOWNSTREAM_DIRECT_REMOTE_", AddressOf::DownstreamDirectRemote),
        ("DOWNSTREAM_LOCAL_", AddressOf::DownstreamLocal),
        ("DOWNSTREAM_DIRECT_LOCAL_", AddressOf::DownstreamDirectLocal),
        ("UPSTREAM_LOCAL_", AddressOf::UpstreamLocal),
        ("UPSTREAM_REMOTE_", AddressOf::UpstreamRemote),
    ];
    if command.name == "UPSTREAM_HOST" {
        Syntax::Bare.check(command)?;
        return Ok(Some(Op::Address { of: AddressOf::UpstreamHost, form: AddressForm::Whole }));
    }
    for (prefix, of) in TABLE {
        let has_endpoint_id = matches!(
            of,
            AddressOf::DownstreamLocal | AddressOf::DownstreamDirectLocal | AddressOf::UpstreamRemote
        );
        let (form, syntax) = match command.name.strip_prefix(prefix) {
            Some("ADDRESS") => (AddressForm::Whole, Syntax::Bare),
            Some("PORT") => (AddressForm::Port, Syntax::Bare),
            Some("ADDRESS_WITHOUT_PORT") => (network(command.parameter), OPTIONAL),
            Some("ADDRESS_ENDPOINT_ID") if has_endpoint_id => (AddressForm::EndpointId, Syntax::Bare),
            Some(_) | None => continue,
        };
        syntax.check(command)?;
        return Ok(Some(Op::Address { of, form }));
    }
    Ok(None)
}

/// The length of the network to print; Envoy ignores what is not a number.
fn network(parameter: &str) -> AddressForm {
    parameter.parse().map_or(AddressForm::WithoutPort, AddressForm::Network)
}

fn parametrised(command: Command<'_>) -> Result<Op, String> {
    let Command { name, parameter, max_length } = command;
    let check = |syntax: Syntax| syntax.check(command);
    Ok(match name {
        "REQ" | "STREAM_INFO_REQ" | "RESP" | "TRAILER" | "REQ_WITHOUT_QUERY" => {
            check(REQUIRED_LENGTH)?;
            header(name, parameter)?
        }
        "PATH" => {
            check(OPTIONAL_LENGTH)?;
            path(parameter)?
        }
        "QUERY_PARAM" => {
            check(REQUIRED_LENGTH)?;
            Op::QueryParam(parameter.to_owned())
        }
        "QUERY_PARAMS" => {
            check(OPTIONAL_LENGTH)?;
            Op::QueryParams { decoded: query_params(parameter)? }
        }
        "START_TIME" | "START_TIME_LOCAL" | "EMIT_TIME" | "EMIT_TIME_LOCAL" => {
            check(OPTIONAL)?;
            let zone = if name.ends_with("_LOCAL") { Zone::Local } else { Zone::Utc };
            let of = if name.starts_with("EMIT") { Instant::Emit } else { Instant::Start };
            Op::Time { of, format: TimeFormat::parse(parameter, zone)? }
        }
        "DOWNSTREAM_PEER_CERT_V_START"
        | "DOWNSTREAM_PEER_CERT_V_END"
        | "UPSTREAM_PEER_CERT_V_START"
        | "UPSTREAM_PEER_CERT_V_END" => {
            check(OPTIONAL)?;
            Op::CertificateTime {
                upstream: name.starts_with("UPSTREAM"),
                end: name.ends_with("END"),
                format: TimeFormat::parse(parameter, Zone::Utc)?,
            }
        }
        "COMMON_DURATION" => {
            check(REQUIRED)?;
            common_duration(parameter)?
        }
        "RESPONSE_CODE_DETAILS" => {
            check(OPTIONAL)?;
            Op::Details { spaces: parameter == "ALLOW_WHITESPACES" }
        }
        "GRPC_STATUS" => {
            check(OPTIONAL)?;
            Op::GrpcStatus(grpc_form(parameter)?)
        }
        "GRPC_STATUS_NUMBER" => {
            check(Syntax::Bare)?;
            Op::GrpcStatus(GrpcForm::Number)
        }
        "DYNAMIC_METADATA" => metadata(command, MetadataSource::Dynamic, parameter)?,
        "CLUSTER_METADATA" => metadata(command, MetadataSource::Cluster, parameter)?,
        "UPSTREAM_METADATA" => metadata(command, MetadataSource::UpstreamHost, parameter)?,
        "METADATA" => {
            check(OPTIONAL_LENGTH)?;
            let (source, path) = parameter.split_once(':').unwrap_or((parameter, ""));
            metadata_at(metadata_source(source)?, path)
        }
        "FILTER_STATE" | "UPSTREAM_FILTER_STATE" => {
            check(OPTIONAL_LENGTH)?;
            filter_state(name, parameter)?
        }
        "ENVIRONMENT" => {
            check(REQUIRED_LENGTH)?;
            Op::Constant(truncated(std::env::var(parameter).unwrap_or_else(|_| "-".to_owned()), max_length))
        }
        "HOSTNAME" => {
            check(Syntax::Bare)?;
            Op::Constant(hostname())
        }
        "REQUESTED_SERVER_NAME" => {
            check(OPTIONAL)?;
            Op::ServerName(server_name(parameter)?)
        }
        "COALESCE" => {
            check(REQUIRED_LENGTH)?;
            Op::Coalesce(coalesce(parameter)?)
        }
        "CEL" | "TYPED_CEL" => {
            check(REQUIRED_LENGTH)?;
            let program = Program::parse(parameter, None);
            let program = program.map_err(|reason| format!("not able to parse '{parameter}': {reason}"))?;
            Op::Expression { program: Arc::new(program), typed: name == "TYPED_CEL" }
        }
        _ => return Err(format!("not supported field in StreamInfo: {name}")),
    })
}

fn truncated(mut text: String, max_length: Option<usize>) -> String {
    if let Some(mut length) = max_length.filter(|length| *length < text.len()) {
        while !text.is_char_boundary(length) {
            length -= 1;
        }
        text.truncate(length);
    }
    text
}

/// Name of this machine, read once; `-` if the system does not tell.
fn hostname() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let name = name.trim_end();
    if name.is_empty() { "-".to_owned() } else { name.to_owned() }
}

fn header(name: &str, parameter: &str) -> Result<Op, String> {
    let mut names = parameter.split('?');
    let main = header_key(names.next().unwrap_or_default())?;
    let other = names.next().filter(|other| !other.is_empty()).map(header_key).transpose()?;
    if names.next().is_some() {
        return Err(format!("more than 1 alternative header specified in token: {parameter}"));
    }
    let (source, query) = match name {
        "RESP" => (HeaderSource::Response, Query::Keep),
        "TRAILER" => (HeaderSource::ResponseTrailers, Query::Keep),
        "REQ_WITHOUT_QUERY" => (HeaderSource::Request, Query::Drop),
        _ => (HeaderSource::Request, Query::Keep),
    };
    Ok(Op::Header { source, names: HeaderNames { main, other }, query })
}

fn header_key(name: &str) -> Result<HeaderKey, String> {
    let lower = name.to_ascii_lowercase();
    Ok(match lower.as_str() {
        "" => HeaderKey::None,
        ":method" => HeaderKey::Method,
        ":path" => HeaderKey::Path,
        ":authority" | "host" => HeaderKey::Authority,
        ":scheme" => HeaderKey::Scheme,
        ":protocol" => HeaderKey::Protocol,
        ":status" => HeaderKey::Status,
        pseudo if pseudo.starts_with(':') => {
            HeaderName::try_from(pseudo.trim_start_matches(':')).map_err(|_| bad_header(name))?;
            HeaderKey::None
        }
        plain => HeaderKey::Name(HeaderName::try_from(plain).map_err(|_| bad_header(name))?),
    })
}

fn bad_header(name: &str) -> String {
    format!("invalid header name '{name}': it contains characters that no header name may have")
}

fn path(parameter: &str) -> Result<Op, String> {
    let mut options = parameter.split(':');
    let query = match options.next().unwrap_or_default() {
        "" | "WQ" => Query::Keep,
        "NQ" => Query::Drop,
        other => return Err(format!("invalid PATH option: '{other}', only 'WQ'/'NQ' are allowed")),
    };
    let names = match options.next().unwrap_or_default() {
        "" | "ORIG_OR_PATH" => PathNames::OriginalOrPath,
        "ORIG" => PathNames::Original,
        "PATH" => PathNames::Path,
        other => {
            return Err(format!(
                "invalid PATH option: '{other}', only 'ORIG'/'PATH'/'ORIG_OR_PATH' are allowed"
            ));
        }
    };
    Ok(Op::Path { query, names })
}

fn query_params(parameter: &str) -> Result<bool, String> {
    match parameter {
        "" | "ORIG" => Ok(false),
        "DECODED" => Ok(true),
        other => Err(format!("invalid QUERY_PARAMS option: '{other}', only 'ORIG'/'DECODED' are allowed")),
    }
}

fn common_duration(parameter: &str) -> Result<Op, String> {
    let words: Vec<&str> = parameter.split(':').collect();
    let (from, to, unit) = match words.as_slice() {
        [from, to] => (from, to, "ms"),
        [from, to, unit] => (from, to, *unit),
        _ => return Err(format!("invalid common duration configuration: {parameter}")),
    };
    let unit = match unit {
        "ms" => DurationUnit::Millis,
        "us" => DurationUnit::Micros,
        "ns" => DurationUnit::Nanos,
        other => return Err(format!("invalid common duration precision: {other}")),
    };
    Ok(Op::Duration { from: time_point(from), to: time_point(to), unit })
}

fn time_point(name: &str) -> TimePoint {
    match name {
        "DS_RX_BEG" => TimePoint::DownstreamRxBegin,
        "DS_RX_END" => TimePoint::DownstreamRxEnd,
        "US_CX_BEG" => TimePoint::UpstreamConnectBegin,
        "US_CX_END" => TimePoint::UpstreamConnectEnd,
        "US_RX_BODY_BEG" => TimePoint::UpstreamRxBodyBegin,
        "US_TX_BEG" => TimePoint::UpstreamTxBegin,
        "US_TX_END" => TimePoint::UpstreamTxEnd,
        "US_RX_BEG" => TimePoint::UpstreamRxBegin,
        "US_RX_END" => TimePoint::UpstreamRxEnd,
        "DS_TX_BEG" => TimePoint::DownstreamTxBegin,
        "DS_TX_END" => TimePoint::DownstreamTxEnd,
        _ => TimePoint::Unknown,
    }
}

fn grpc_form(parameter: &str) -> Result<GrpcForm, String> {
    match parameter {
        "" | "CAMEL_STRING" => Ok(GrpcForm::Camel),
        "SNAKE_STRING" => Ok(GrpcForm::Snake),
        "NUMBER" => Ok(GrpcForm::Number),
        other => {
            Err(format!("GRPC_STATUS only supports CAMEL_STRING, SNAKE_STRING or NUMBER, not '{other}'"))
        }
    }
}

fn metadata(command: Command<'_>, source: MetadataSource, path: &str) -> Result<Op, String> {
    REQUIRED_LENGTH.check(command)?;
    Ok(metadata_at(source, path))
}

fn metadata_at(source: MetadataSource, path: &str) -> Op {
    let mut segments = path.split(':').map(str::to_owned);
    Op::Metadata { source, namespace: segments.next().unwrap_or_default(), path: segments.collect() }
}

fn metadata_source(name: &str) -> Result<MetadataSource, String> {
    Ok(match name {
        "DYNAMIC" => MetadataSource::Dynamic,
        "CLUSTER" => MetadataSource::Cluster,
        "ROUTE" => MetadataSource::Route,
        "UPSTREAM_HOST" => MetadataSource::UpstreamHost,
        "LISTENER" => MetadataSource::Listener,
        "LISTENER_FILTER_CHAIN" => MetadataSource::FilterChain,
        "VIRTUAL_HOST" => MetadataSource::VirtualHost,
        other => return Err(format!("'{other}' is not a supported type of metadata")),
    })
}

fn filter_state(name: &str, parameter: &str) -> Result<Op, String> {
    let mut words = parameter.split(':');
    let key = words.next().unwrap_or_default();
    if key.is_empty() {
        return Err("invalid filter state configuration, key cannot be empty".to_owned());
    }
    let kind = words.next().filter(|kind| !kind.is_empty()).unwrap_or("TYPED");
    let field = words.next().filter(|field| !field.is_empty());
    let form = match (kind, field) {
        ("PLAIN", None) => StateForm::Plain,
        ("TYPED", None) => StateForm::Typed,
        ("FIELD", Some(field)) => StateForm::Field(field.to_owned()),
        ("PLAIN" | "TYPED" | "FIELD", _) => {
            return Err(
                "invalid filter state serialize type, FIELD is to be used with a field name".to_owned()
            );
        }
        _ => {
            return Err(
                "invalid filter state serialize type, only PLAIN/TYPED/FIELD are supported".to_owned()
            );
        }
    };
    Ok(Op::FilterState { upstream: name.starts_with("UPSTREAM"), key: key.to_owned(), form })
}

fn server_name(parameter: &str) -> Result<ServerName, String> {
    match parameter.split(':').next().unwrap_or_default() {
        "" | "SNI_ONLY" => Ok(ServerName::SniOnly),
        "SNI_FIRST" => Ok(ServerName::SniFirst),
        "HOST_FIRST" => Ok(ServerName::HostFirst),
        other => Err(format!(
            "invalid REQUESTED_SERVER_NAME option: '{other}', only 'SNI_ONLY'/'SNI_FIRST'/'HOST_FIRST' are allowed"
        )),
    }
}

/// How deep `COALESCE` may nest; the format is configuration, but a stack is a stack.
const MAX_DEPTH: usize = 8;

fn coalesce(parameter: &str) -> Result<Vec<Operator>, String> {
    coalesce_at(parameter, MAX_DEPTH)
}

fn coalesce_at(parameter: &str, depth: usize) -> Result<Vec<Operator>, String> {
    use serde_json::Value;
    if depth == 0 {
        return Err("COALESCE: nested too deeply".to_owned());
    }
    let json: Value = serde_json::from_str(parameter)
        .map_err(|error| format!("COALESCE: failed to parse JSON configuration: {error}"))?;
    let operators =
        json.get("operators").ok_or("COALESCE: JSON configuration must contain 'operators' array")?;
    let operators = operators.as_array().ok_or("COALESCE: 'operators' must be an array")?;
    if operators.is_empty() {
        return Err("COALESCE: 'operators' array must not be empty".to_owned());
    }
    let build = |entry: &Value| -> Result<Operator, String> {
        let text = |key: &str| match entry.get(key) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text.as_str())),
            Some(_) => Err(format!("'{key}' must be a string")),
        };
        let command = match entry {
            Value::String(name) => Command { name, parameter: "", max_length: None },
            Value::Object(_) => Command {
                name: text("command")?.ok_or("an operator object must have 'command'")?,
                parameter: text("param")?.unwrap_or_default(),
                max_length: max_length(entry)?,
            },
            _ => return Err("an operator must be a command name or an object with 'command'".to_owned()),
        };
        if command.name == "COALESCE" {
            let op = Op::Coalesce(coalesce_at(command.parameter, depth - 1)?);
            return Ok(Operator { op, max_length: command.max_length });
        }
        Operator::new(command)
    };
    operators
        .iter()
        .enumerate()
        .map(|(index, entry)| {
            build(entry).map_err(|reason| format!("COALESCE: operator at index {index}: {reason}"))
        })
        .collect()
}

fn max_length(entry: &serde_json::Value) -> Result<Option<usize>, String> {
    let Some(value) = entry.get("max_length") else { return Ok(None) };
    match value.as_u64().and_then(|length| usize::try_from(length).ok()).filter(|length| *length > 0) {
        Some(length) => Ok(Some(length)),
        None => Err("'max_length' must be a positive integer".to_owned()),
    }
}

/// Commands that take nothing.
fn field(name: &str) -> Option<Field> {
    Some(match name {
        "ACCESS_LOG_TYPE" => Field::AccessLogType,
        "BYTES_RECEIVED" => Field::BytesReceived,
        "BYTES_RETRANSMITTED" | "PACKETS_RETRANSMITTED" | "DOWNSTREAM_CX_RTT" => Field::Zero,
        "BYTES_SENT" => Field::BytesSent,
        "CONNECTION_ID" => Field::ConnectionId,
        "CONNECTION_TERMINATION_DETAILS" => Field::ConnectionTerminationDetails,
        "CUSTOM_FLAGS" => Field::Empty,
        "DOWNSTREAM_DECOMPRESSED_HEADER_BYTES_RECEIVED" => Field::DownstreamPlainHeaderBytesReceived,
        "DOWNSTREAM_DECOMPRESSED_HEADER_BYTES_SENT" => Field::DownstreamPlainHeaderBytesSent,
        "DOWNSTREAM_HEADER_BYTES_RECEIVED" => Field::DownstreamHeaderBytesReceived,
        "DOWNSTREAM_HEADER_BYTES_SENT" => Field::DownstreamHeaderBytesSent,
        "DOWNSTREAM_LOCAL_CLOSE_REASON" => Field::LocalCloseReason,
        "DOWNSTREAM_TRANSPORT_FAILURE_REASON" => Field::DownstreamTransportFailureReason,
        "DOWNSTREAM_DETECTED_CLOSE_TYPE" => Field::DownstreamCloseType,
        "DOWNSTREAM_WIRE_BYTES_RECEIVED" => Field::DownstreamWireBytesReceived,
        "DOWNSTREAM_WIRE_BYTES_SENT" => Field::DownstreamWireBytesSent,
        "DURATION" => Field::Duration,
        "FILTER_CHAIN_NAME" => Field::FilterChainName,
        "LOCAL_REPLY_BODY" => Field::LocalReplyBody,
        "PROTOCOL" => Field::Protocol,
        "REQUEST_DURATION" => Field::RequestDuration,
        "REQUEST_HEADERS_BYTES" => Field::RequestHeadersBytes,
        "REQUEST_TX_DURATION" => Field::RequestTxDuration,
        "RESPONSE_CODE" => Field::ResponseCode,
        "RESPONSE_DURATION" => Field::ResponseDuration,
        "RESPONSE_FLAGS" => Field::ResponseFlags,
        "RESPONSE_FLAGS_LONG" => Field::ResponseFlagsLong,
        "RESPONSE_HEADERS_BYTES" => Field::ResponseHeadersBytes,
        "RESPONSE_TRAILERS_BYTES" => Field::ResponseTrailersBytes,
        "RESPONSE_TX_DURATION" => Field::ResponseTxDuration,
        "ROUTE_NAME" => Field::RouteName,
        "SPAN_ID" => Field::SpanId,
        "STREAM_ID" => Field::StreamId,
        "TRACE_ID" => Field::TraceId,
        "UNIQUE_ID" => Field::UniqueId,
        "UPSTREAM_CLUSTER" => Field::UpstreamCluster,
        "UPSTREAM_CLUSTER_RAW" => Field::UpstreamClusterRaw,
        "UPSTREAM_CONNECTION_ID" => Field::UpstreamConnectionId,
        "UPSTREAM_CONNECTION_IDS_ATTEMPTED" => Field::UpstreamConnectionIdsAttempted,
        "UPSTREAM_CONNECTION_POOL_READY_DURATION" => Field::PoolReadyDuration,
        "UPSTREAM_DECOMPRESSED_HEADER_BYTES_RECEIVED" => Field::UpstreamPlainHeaderBytesReceived,
        "UPSTREAM_DECOMPRESSED_HEADER_BYTES_SENT" => Field::UpstreamPlainHeaderBytesSent,
        "UPSTREAM_HEADER_BYTES_RECEIVED" => Field::UpstreamHeaderBytesReceived,
        "UPSTREAM_HEADER_BYTES_SENT" => Field::UpstreamHeaderBytesSent,
        "UPSTREAM_LOCAL_CLOSE_REASON" => Field::UpstreamLocalCloseReason,
        "UPSTREAM_DETECTED_CLOSE_TYPE" => Field::UpstreamCloseType,
        "UPSTREAM_HOST_NAME" => Field::UpstreamHostName,
        "UPSTREAM_HOST_NAME_WITHOUT_PORT" => Field::UpstreamHostNameWithoutPort,
        "UPSTREAM_HOST_NAMES_ATTEMPTED" => Field::UpstreamHostNamesAttempted,
        "UPSTREAM_HOST_NAMES_ATTEMPTED_WITHOUT_PORT" => Field::UpstreamHostNamesAttemptedWithoutPort,
        "UPSTREAM_HOSTS_ATTEMPTED" => Field::UpstreamHostsAttempted,
        "UPSTREAM_HOSTS_ATTEMPTED_WITHOUT_PORT" => Field::UpstreamHostsAttemptedWithoutPort,
        "UPSTREAM_PROTOCOL" => Field::UpstreamProtocol,
        "UPSTREAM_REQUEST_ATTEMPT_COUNT" => Field::RequestAttemptCount,
        "UPSTREAM_TRANSPORT_FAILURE_REASON" => Field::UpstreamTransportFailureReason,
        "UPSTREAM_WIRE_BYTES_RECEIVED" => Field::UpstreamWireBytesReceived,
        "UPSTREAM_WIRE_BYTES_SENT" => Field::UpstreamWireBytesSent,
        "VIRTUAL_CLUSTER_NAME" => Field::VirtualClusterName,
        absent if ABSENT.contains(&absent) => Field::Absent,
        _ => return None,
    })
}

/// Commands about a TLS session: whose it is, and what is asked.
fn tls_field(name: &str) -> Option<(bool, TlsField)> {
    let (upstream, name) = match name.strip_prefix("UPSTREAM_") {
        Some(name) => (true, name),
        None => (false, name.strip_prefix("DOWNSTREAM_")?),
    };
    let field = match name {
        "TLS_VERSION" => TlsField::Version,
        "TLS_CIPHER" => TlsField::Cipher,
        "TLS_GROUP" => TlsField::Group,
        "SERVER_NAME" if upstream => TlsField::ServerName,
        "PEER_SUBJECT" => TlsField::PeerSubject,
        "PEER_ISSUER" => TlsField::PeerIssuer,
        "PEER_CERT" => TlsField::PeerCertificate,
        "PEER_URI_SAN" => TlsField::PeerSans(SanKind::Uri),
        "PEER_DNS_SAN" => TlsField::PeerSans(SanKind::Dns),
        "PEER_IP_SAN" => TlsField::PeerSans(SanKind::Ip),
        "LOCAL_URI_SAN" => TlsField::LocalSans(SanKind::Uri),
        "LOCAL_DNS_SAN" => TlsField::LocalSans(SanKind::Dns),
        "LOCAL_IP_SAN" => TlsField::LocalSans(SanKind::Ip),
        _ if upstream => return None,
        "PEER_SERIAL" => TlsField::PeerSerial,
        "PEER_FINGERPRINT_1" => TlsField::PeerSha1,
        "PEER_FINGERPRINT_256" => TlsField::PeerSha256,
        "PEER_EMAIL_SAN" => TlsField::PeerSans(SanKind::Email),
        "PEER_OTHERNAME_SAN" => TlsField::PeerSans(SanKind::Other(String::new())),
        "PEER_CHAIN_FINGERPRINTS_1" => TlsField::ChainSha1,
        "PEER_CHAIN_FINGERPRINTS_256" => TlsField::ChainSha256,
        "PEER_CHAIN_SERIALS" => TlsField::ChainSerials,
        "PEER_ISSUER_SERIAL" => TlsField::IssuerSerial,
        "PEER_ISSUER_FINGERPRINT_256" => TlsField::IssuerSha256,
        "LOCAL_SUBJECT" => TlsField::LocalSubject,
        "LOCAL_EMAIL_SAN" => TlsField::LocalSans(SanKind::Email),
        "LOCAL_OTHERNAME_SAN" => TlsField::LocalSans(SanKind::Other(String::new())),
        _ => return None,
    };
    Some((upstream, field))
}

/// Commands about QUIC and what the TLS library does not tell: valid, and always missing here.
const ABSENT: &[&str] = &[
    "DOWNSTREAM_HANDSHAKE_DURATION",
    "DOWNSTREAM_TLS_SESSION_ID",
    "ROUNDTRIP_DURATION",
    "TLS_JA3_FINGERPRINT",
    "TLS_JA4_FINGERPRINT",
    "UPSTREAM_TLS_SESSION_ID",
];
