//! Filters of access logs, and the builder that puts them in front of the logs.
//!
//! Implements `envoy.config.accesslog.v3.AccessLogFilter`; source: Envoy `docs/root/configuration/observability/access_log`,
//! `accesslog.proto`.

use std::sync::Arc;
use std::time::Instant;

use http::{HeaderMap, HeaderName};
use smallvec::SmallVec;
use xds_api::envoy::config::accesslog::v3 as proto;
use xds_api::envoy::config::accesslog::v3::access_log::ConfigType;
use xds_api::envoy::config::accesslog::v3::access_log_filter::FilterSpecifier;
use xds_api::envoy::config::accesslog::v3::comparison_filter::Op;
use xds_api::envoy::config::accesslog::v3::extension_filter;
use xds_api::envoy::config::accesslog::v3::grpc_status_filter::Status as GrpcStatus;
use xds_api::envoy::config::core::v3::RuntimeUInt32;
use xds_api::envoy::data::accesslog::v3::AccessLogType;
use xds_api::envoy::extensions::access_loggers::filters::cel::v3::ExpressionFilter;
use xds_api::envoy::r#type::matcher::v3::metadata_matcher::path_segment::Segment;

use crate::cel::Program;
use crate::config::{BuildCx, FieldUse, MessageFields, Rejected};
use crate::extension::access_log::{AccessLog, LogEntry, LogType};
use crate::extension::{decode, message_name};
use crate::format::grpc_status_of_response;
use crate::headers::X_REQUEST_ID;
use crate::matcher::{HeaderMatcher, ValueMatcher};
use crate::response_flag::{ResponseFlag, ResponseFlags};
use crate::runtime::{Runtime, denominator};

#[cfg(test)]
mod tests;

use FieldUse::{Ignored, Used};

/// How the fields of the messages that are read here are used.
pub const FIELDS: &[MessageFields] = &[
    (
        "envoy.config.accesslog.v3.AccessLog",
        &[("name", Ignored("a label; the type decides")), ("filter", Used), ("typed_config", Used)],
    ),
    (
        "envoy.config.accesslog.v3.AccessLogFilter",
        &[
            ("status_code_filter", Used),
            ("duration_filter", Used),
            ("not_health_check_filter", Used),
            ("traceable_filter", Used),
            ("runtime_filter", Used),
            ("and_filter", Used),
            ("or_filter", Used),
            ("header_filter", Used),
            ("response_flag_filter", Used),
            ("grpc_status_filter", Used),
            ("extension_filter", Used),
            ("metadata_filter", Used),
            ("log_type_filter", Used),
        ],
    ),
    ("envoy.config.accesslog.v3.StatusCodeFilter", &[("comparison", Used)]),
    ("envoy.config.accesslog.v3.DurationFilter", &[("comparison", Used)]),
    ("envoy.config.accesslog.v3.ComparisonFilter", &[("op", Used), ("value", Used)]),
    ("envoy.config.core.v3.RuntimeUInt32", &[("default_value", Used), ("runtime_key", Used)]),
    ("envoy.config.accesslog.v3.NotHealthCheckFilter", &[]),
    ("envoy.config.accesslog.v3.TraceableFilter", &[]),
    (
        "envoy.config.accesslog.v3.RuntimeFilter",
        &[("runtime_key", Used), ("percent_sampled", Used), ("use_independent_randomness", Used)],
    ),
    ("envoy.config.accesslog.v3.AndFilter", &[("filters", Used)]),
    ("envoy.config.accesslog.v3.OrFilter", &[("filters", Used)]),
    ("envoy.config.accesslog.v3.HeaderFilter", &[("header", Used)]),
    ("envoy.config.accesslog.v3.ResponseFlagFilter", &[("flags", Used)]),
    ("envoy.config.accesslog.v3.GrpcStatusFilter", &[("statuses", Used), ("exclude", Used)]),
    ("envoy.config.accesslog.v3.MetadataFilter", &[("matcher", Used), ("match_if_key_not_found", Used)]),
    ("envoy.config.accesslog.v3.LogTypeFilter", &[("types", Used), ("exclude", Used)]),
    (
        "envoy.config.accesslog.v3.ExtensionFilter",
        &[("name", Ignored("a label; the type decides")), ("typed_config", Used)],
    ),
    (CONDITION, &[("expression", Used), ("cel_config", Used)]),
];

/// The filter that is a condition in CEL.
const CONDITION: &str = "envoy.extensions.access_loggers.filters.cel.v3.ExpressionFilter";

/// How deep and/or filters may nest.
const MAX_DEPTH: usize = 32;

/// Builds the access logs of an `access_log` field: each sink behind its filter.
pub fn build_access_logs(
    protos: &[proto::AccessLog],
    cx: &mut BuildCx<'_>,
) -> Result<Vec<Arc<dyn AccessLog>>, Rejected> {
    cx.each("access_log", protos, build_access_log)
}

/// Builds one access log at the current path.
pub fn build_access_log(
    proto: &proto::AccessLog,
    cx: &mut BuildCx<'_>,
) -> Result<Arc<dyn AccessLog>, Rejected> {
    let proto::AccessLog { name: _, filter, config_type } = proto;
    let filter = filter.as_ref().map(|filter| cx.at("filter", |cx| LogFilter::build(filter, cx))).transpose();
    let Some(ConfigType::TypedConfig(any)) = config_type else {
        return Err(cx.at("typed_config", |cx| cx.reject("an access log needs a typed_config")));
    };
    let log = cx.at("typed_config", |cx| {
        let message = message_name(&any.type_url);
        let mut factories = cx.env.extensions.access_logs.iter();
        match factories.find(|factory| factory.descriptor().message == message) {
            Some(factory) => factory.build(&any.value, cx),
            None => Err(cx.reject(format!("access log type '{message}' is not available"))),
        }
    });
    Ok(match (filter?, log?) {
        (Some(filter), log) => Arc::new(Filtered { filter, log }),
        (None, log) => log,
    })
}

struct Filtered {
    filter: LogFilter,
    log: Arc<dyn AccessLog>,
}

impl AccessLog for Filtered {
    fn log(&self, entry: &LogEntry<'_>) {
        if self.filter.passes(entry) {
            self.log.log(entry);
        }
    }
}

/// Decides whether an entry is logged.
pub struct LogFilter {
    kind: Kind,
    runtime: Arc<Runtime>,
}

enum Kind {
    StatusCode(Comparison),
    Duration(Comparison),
    NotHealthCheck,
    Traceable,
    Sampled { key: String, numerator: u32, denominator: u32, independent: bool },
    And(Vec<Self>),
    Or(Vec<Self>),
    Header(Box<HeaderMatcher>),
    AnyFlag,
    Flags(ResponseFlags),
    GrpcStatus { statuses: SmallVec<[u32; 4]>, exclude: bool },
    Metadata { namespace: String, path: Vec<String>, value: Option<ValueMatcher>, if_missing: bool },
    LogTypes { types: Vec<LogType>, exclude: bool },
    Condition(Box<Program>),
}

/// A number to compare with, replaced by a runtime value if there is one.
struct Comparison {
    op: Op,
    default: u32,
    key: String,
}

impl LogFilter {
    /// Builds a filter from its message.
    pub fn build(proto: &proto::AccessLogFilter, cx: &mut BuildCx<'_>) -> Result<Self, Rejected> {
        let kind = Kind::build(proto, MAX_DEPTH, cx)?;
        Ok(Self { kind, runtime: cx.env.runtime.clone() })
    }

    /// Whether `entry` is to be logged.
    pub fn passes(&self, entry: &LogEntry<'_>) -> bool {
        self.kind.passes(entry, &self.runtime)
    }
}

impl Kind {
    fn build(proto: &proto::AccessLogFilter, depth: usize, cx: &mut BuildCx<'_>) -> Result<Self, Rejected> {
        let Some(depth) = depth.checked_sub(1) else {
            return Err(cx.reject("access log filters are nested too deeply"));
        };
        let Some(specifier) = &proto.filter_specifier else {
            return Err(cx.reject("filter_specifier: value is required"));
        };
        match specifier {
            FilterSpecifier::StatusCodeFilter(filter) => cx.at("status_code_filter", |cx| {
                Comparison::build(filter.comparison.as_ref(), cx).map(Self::StatusCode)
            }),
            FilterSpecifier::DurationFilter(filter) => cx.at("duration_filter", |cx| {
                Comparison::build(filter.comparison.as_ref(), cx).map(Self::Duration)
            }),
            FilterSpecifier::NotHealthCheckFilter(_) => Ok(Self::NotHealthCheck),
            FilterSpecifier::TraceableFilter(_) => Ok(Self::Traceable),
            FilterSpecifier::RuntimeFilter(filter) => cx.at("runtime_filter", |cx| sampled(filter, cx)),
            FilterSpecifier::AndFilter(filter) => cx.at("and_filter", |cx| {
                Ok(Self::And(cx.each("filters", &filter.filters, |inner, cx| Self::build(inner, depth, cx))?))
            }),
            FilterSpecifier::OrFilter(filter) => cx.at("or_filter", |cx| {
                Ok(Self::Or(cx.each("filters", &filter.filters, |inner, cx| Self::build(inner, depth, cx))?))
            }),
            FilterSpecifier::HeaderFilter(filter) => cx.at("header_filter", |cx| {
                cx.at("header", |cx| match &filter.header {
                    Some(header) => Ok(Self::Header(Box::new(HeaderMatcher::build(header, cx)?))),
                    None => Err(cx.reject("value is required")),
                })
            }),
            FilterSpecifier::ResponseFlagFilter(filter) => {
                cx.at("response_flag_filter", |cx| flags(filter, cx))
            }
            FilterSpecifier::GrpcStatusFilter(filter) => cx.at("grpc_status_filter", |cx| grpc(filter, cx)),
            FilterSpecifier::ExtensionFilter(filter) => {
                cx.at("extension_filter", |cx| cx.at("typed_config", |cx| extension(filter, cx)))
            }
            FilterSpecifier::MetadataFilter(filter) => cx.at("metadata_filter", |cx| metadata(filter, cx)),
            FilterSpecifier::LogTypeFilter(filter) => cx.at("log_type_filter", |cx| log_types(filter, cx)),
        }
    }

    fn passes(&self, entry: &LogEntry<'_>, runtime: &Runtime) -> bool {
        let info = entry.info;
        match self {
            Self::StatusCode(comparison) => comparison.holds(info.response_code.unwrap_or(0).into(), runtime),
            Self::Duration(comparison) => {
                let now = info.end.unwrap_or_else(Instant::now);
                let millis = u64::try_from(info.duration(now).as_millis()).unwrap_or(u64::MAX);
                comparison.holds(millis, runtime)
            }
            Self::NotHealthCheck => !info.health_check,
            Self::Traceable => info.is_traced_for_service && !info.health_check,
            Self::Sampled { key, numerator, denominator, independent } => {
                let random = match independent {
                    true => None,
                    false => request_id_number(entry),
                };
                let random = random.unwrap_or_else(|| fastrand::u64(..));
                let numerator = runtime.number(key).unwrap_or(u64::from(*numerator));
                random % u64::from(*denominator) < numerator
            }
            Self::And(filters) => filters.iter().all(|filter| filter.passes(entry, runtime)),
            Self::Or(filters) => filters.iter().any(|filter| filter.passes(entry, runtime)),
            Self::Header(matcher) => match entry.request {
                Some(request) => matcher.matches_request(request),
                None => matcher.matches_headers(&HeaderMap::new()),
            },
            Self::AnyFlag => !info.flags.is_empty(),
            Self::Flags(flags) => info.flags.intersects(*flags),
            Self::GrpcStatus { statuses, exclude } => {
                const UNKNOWN: u32 = 2;
                let status = grpc_status_of_response(entry).unwrap_or(UNKNOWN);
                statuses.contains(&status) != *exclude
            }
            Self::Metadata { namespace, path, value, if_missing } => {
                match info.dynamic_metadata(namespace, path) {
                    Some(found) if found.kind.is_some() => {
                        value.as_ref().is_some_and(|matcher| matcher.matches(Some(found)))
                    }
                    Some(_) | None => *if_missing,
                }
            }
            Self::LogTypes { types, exclude } => types.contains(&entry.log_type) != *exclude,
            Self::Condition(program) => program.matches(&entry.facts()),
        }
    }
}

impl Comparison {
    fn build(proto: Option<&proto::ComparisonFilter>, cx: &mut BuildCx<'_>) -> Result<Self, Rejected> {
        cx.at("comparison", |cx| {
            let Some(proto::ComparisonFilter { op, value }) = proto else {
                return Err(cx.reject("value is required"));
            };
            let op = Op::try_from(*op)
                .map_err(|_| cx.at("op", |cx| cx.reject("value must be one of the defined enum values")))?;
            let Some(RuntimeUInt32 { default_value, runtime_key }) = value else {
                return Err(cx.at("value", |cx| cx.reject("value is required")));
            };
            Ok(Self { op, default: *default_value, key: runtime_key.clone() })
        })
    }

    fn holds(&self, left: u64, runtime: &Runtime) -> bool {
        let configured = || (!self.key.is_empty()).then(|| runtime.number(&self.key)).flatten();
        let right = configured().unwrap_or(u64::from(self.default));
        match self.op {
            Op::Eq => left == right,
            Op::Ge => left >= right,
            Op::Le => left <= right,
            Op::Ne => left != right,
        }
    }
}

fn extension(proto: &proto::ExtensionFilter, cx: &mut BuildCx<'_>) -> Result<Kind, Rejected> {
    let proto::ExtensionFilter { name: _, config_type } = proto;
    let Some(extension_filter::ConfigType::TypedConfig(any)) = config_type else {
        return Err(cx.reject("an extension filter needs a typed_config"));
    };
    let (message, payload) = cx.unpack(any)?;
    if message != CONDITION {
        return Err(cx.reject(format!("access log filter type '{message}' is not available")));
    }
    let ExpressionFilter { expression, cel_config } = decode(&payload, cx)?;
    let program = Program::parse(&expression, cel_config.as_ref());
    program
        .map(|program| Kind::Condition(Box::new(program)))
        .map_err(|reason| cx.at("expression", |cx| cx.reject(format!("not able to parse: {reason}"))))
}

fn sampled(proto: &proto::RuntimeFilter, cx: &mut BuildCx<'_>) -> Result<Kind, Rejected> {
    let proto::RuntimeFilter { runtime_key, percent_sampled, use_independent_randomness } = proto;
    if runtime_key.is_empty() {
        return Err(cx.at("runtime_key", |cx| cx.reject("value length must be at least 1 characters")));
    }
    let percent = percent_sampled.unwrap_or_default();
    Ok(Kind::Sampled {
        key: runtime_key.clone(),
        numerator: percent.numerator,
        denominator: denominator(&percent),
        independent: *use_independent_randomness,
    })
}

/// A number that is the same for all who see this request: the first 32 bits of its id.
fn request_id_number(entry: &LogEntry<'_>) -> Option<u64> {
    let name: &HeaderName = &X_REQUEST_ID;
    let id = entry.request?.headers.get(name)?.to_str().ok()?;
    u64::from_str_radix(id.get(..8)?, 16).ok()
}

fn flags(proto: &proto::ResponseFlagFilter, cx: &mut BuildCx<'_>) -> Result<Kind, Rejected> {
    if proto.flags.is_empty() {
        return Ok(Kind::AnyFlag);
    }
    let flags = cx.each("flags", &proto.flags, |flag, cx| {
        ResponseFlag::from_short(flag).ok_or_else(|| cx.reject(format!("'{flag}' is not a response flag")))
    })?;
    Ok(Kind::Flags(flags.into_iter().collect()))
}

fn grpc(proto: &proto::GrpcStatusFilter, cx: &mut BuildCx<'_>) -> Result<Kind, Rejected> {
    let statuses = cx.each("statuses", &proto.statuses, |status, cx| {
        // The enum's numbers are those of gRPC.
        let status = GrpcStatus::try_from(*status)
            .map_err(|_| cx.reject("value must be one of the defined enum values"))?;
        u32::try_from(status as i32).map_err(|_| cx.reject("value must not be negative"))
    })?;
    Ok(Kind::GrpcStatus { statuses: statuses.into(), exclude: proto.exclude })
}

fn metadata(proto: &proto::MetadataFilter, cx: &mut BuildCx<'_>) -> Result<Kind, Rejected> {
    let if_missing = proto.match_if_key_not_found.unwrap_or(true);
    let Some(matcher) = &proto.matcher else {
        return Ok(Kind::Metadata { namespace: String::new(), path: Vec::new(), value: None, if_missing });
    };
    cx.at("matcher", |cx| {
        let path = cx.each("path", &matcher.path, |segment, cx| match &segment.segment {
            Some(Segment::Key(key)) => Ok(key.clone()),
            None => Err(cx.reject("key must be set")),
        })?;
        // Envoy looks at the value alone: an inverted matcher would silently do the opposite of what it says.
        cx.reject_if(matcher.invert, "invert", "an access log filter cannot invert a metadata matcher")?;
        let value = matcher
            .value
            .as_ref()
            .map(|value| cx.at("value", |cx| ValueMatcher::build(value, cx)))
            .transpose()?;
        Ok(Kind::Metadata { namespace: matcher.filter.clone(), path, value, if_missing })
    })
}

fn log_types(proto: &proto::LogTypeFilter, cx: &mut BuildCx<'_>) -> Result<Kind, Rejected> {
    let types = cx.each("types", &proto.types, |log_type, cx| {
        let log_type = AccessLogType::try_from(*log_type)
            .map_err(|_| cx.reject("value must be one of the defined enum values"))?;
        Ok(match log_type {
            AccessLogType::NotSet => Some(LogType::NotSet),
            AccessLogType::TcpConnectionStart => Some(LogType::TcpConnectionStart),
            AccessLogType::TcpUpstreamConnected => Some(LogType::TcpUpstreamConnected),
            AccessLogType::TcpPeriodic => Some(LogType::TcpPeriodic),
            AccessLogType::TcpConnectionEnd => Some(LogType::TcpConnectionEnd),
            AccessLogType::DownstreamStart => Some(LogType::DownstreamStart),
            AccessLogType::DownstreamPeriodic => Some(LogType::DownstreamPeriodic),
            AccessLogType::DownstreamEnd => Some(LogType::DownstreamEnd),
            AccessLogType::UpstreamPoolReady => Some(LogType::UpstreamPoolReady),
            AccessLogType::UpstreamPeriodic => Some(LogType::UpstreamPeriodic),
            AccessLogType::UpstreamEnd => Some(LogType::UpstreamEnd),
            AccessLogType::DownstreamTunnelSuccessfullyEstablished => {
                Some(LogType::DownstreamTunnelSuccessfullyEstablished)
            }
            // Entries that are never written here: nothing to compare with.
            AccessLogType::UdpTunnelUpstreamConnected
            | AccessLogType::UdpPeriodic
            | AccessLogType::UdpSessionEnd => None,
        })
    })?;
    Ok(Kind::LogTypes { types: types.into_iter().flatten().collect(), exclude: proto.exclude })
}
