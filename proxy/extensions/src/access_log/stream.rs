//! `envoy.access_loggers.stdout` and `envoy.access_loggers.stderr`: lines on the standard streams.
//!
//! Source: Envoy `docs/root/api-v3/extensions/access_loggers/stream/v3/stream.proto`.

use std::sync::Arc;

use proxy_core::config::{BuildCx, FieldUse, MessageFields, Rejected};
use proxy_core::extension::access_log::{AccessLog, AccessLogFactory};
use proxy_core::extension::{Descriptor, SecurityPosture, Status, decode};
use proxy_core::format::LineFormat;
use xds_api::envoy::config::core::v3::SubstitutionFormatString;
use xds_api::envoy::extensions::access_loggers::stream::v3 as proto;
use xds_api::envoy::extensions::access_loggers::stream::v3::{stderr_access_log, stdout_access_log};

use super::file::open;
use FieldUse::Used;

/// How the fields of the configurations are used.
pub const FIELDS: &[MessageFields] = &[
    ("envoy.extensions.access_loggers.stream.v3.StdoutAccessLog", &[("log_format", Used)]),
    ("envoy.extensions.access_loggers.stream.v3.StderrAccessLog", &[("log_format", Used)]),
];

/// The extension for the standard output.
pub struct StdoutAccessLog;

impl AccessLogFactory for StdoutAccessLog {
    fn descriptor(&self) -> Descriptor {
        descriptor("envoy.access_loggers.stdout", "envoy.extensions.access_loggers.stream.v3.StdoutAccessLog")
    }

    fn build(&self, payload: &[u8], cx: &mut BuildCx<'_>) -> Result<Arc<dyn AccessLog>, Rejected> {
        let proto::StdoutAccessLog { access_log_format } = decode(payload, cx)?;
        let format = access_log_format.map(|format| match format {
            stdout_access_log::AccessLogFormat::LogFormat(format) => format,
        });
        build("/dev/stdout", format, cx)
    }
}

/// The extension for the standard error stream.
pub struct StderrAccessLog;

impl AccessLogFactory for StderrAccessLog {
    fn descriptor(&self) -> Descriptor {
        descriptor("envoy.access_loggers.stderr", "envoy.extensions.access_loggers.stream.v3.StderrAccessLog")
    }

    fn build(&self, payload: &[u8], cx: &mut BuildCx<'_>) -> Result<Arc<dyn AccessLog>, Rejected> {
        let proto::StderrAccessLog { access_log_format } = decode(payload, cx)?;
        let format = access_log_format.map(|format| match format {
            stderr_access_log::AccessLogFormat::LogFormat(format) => format,
        });
        build("/dev/stderr", format, cx)
    }
}

fn descriptor(name: &'static str, message: &'static str) -> Descriptor {
    Descriptor {
        name,
        message,
        status: Status::Stable,
        posture: SecurityPosture::RobustToUntrustedDownstreamAndUpstream,
    }
}

fn build(
    path: &str,
    format: Option<SubstitutionFormatString>,
    cx: &mut BuildCx<'_>,
) -> Result<Arc<dyn AccessLog>, Rejected> {
    let format = match format {
        Some(format) => cx.at("log_format", |cx| LineFormat::build(&format, cx))?,
        None => LineFormat::default(),
    };
    open("path", path, format, cx)
}
