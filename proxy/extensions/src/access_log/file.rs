//! `envoy.access_loggers.file`: lines appended to a file.
//!
//! Source: Envoy `docs/root/configuration/observability/access_log`, `file.proto`. The three deprecated format fields
//! work as `log_format` does. Writing is buffered by the process's log files and never blocks a stream.

use std::cell::RefCell;
use std::sync::Arc;

use proxy_core::config::{BuildCx, FieldUse, MessageFields, Rejected};
use proxy_core::extension::access_log::{AccessLog, AccessLogFactory, LogEntry, LogFile};
use proxy_core::extension::{Descriptor, SecurityPosture, Status, decode};
use proxy_core::format::LineFormat;
use xds_api::envoy::extensions::access_loggers::file::v3 as proto;
use xds_api::envoy::extensions::access_loggers::file::v3::file_access_log::AccessLogFormat;

use FieldUse::Used;

/// How the fields of the configuration are used.
pub const FIELDS: &[MessageFields] = &[(
    "envoy.extensions.access_loggers.file.v3.FileAccessLog",
    &[
        ("path", Used),
        ("format", Used),
        ("json_format", Used),
        ("typed_json_format", Used),
        ("log_format", Used),
    ],
)];

/// The extension.
pub struct FileAccessLog;

impl AccessLogFactory for FileAccessLog {
    fn descriptor(&self) -> Descriptor {
        Descriptor {
            name: "envoy.access_loggers.file",
            message: "envoy.extensions.access_loggers.file.v3.FileAccessLog",
            status: Status::Stable,
            posture: SecurityPosture::RobustToUntrustedDownstreamAndUpstream,
        }
    }

    #[allow(deprecated, reason = "control planes still send the old format fields")]
    fn build(&self, payload: &[u8], cx: &mut BuildCx<'_>) -> Result<Arc<dyn AccessLog>, Rejected> {
        let proto::FileAccessLog { path, access_log_format } = decode(payload, cx)?;
        let format = match access_log_format {
            None => Ok(LineFormat::default()),
            Some(AccessLogFormat::Format(text)) if text.is_empty() => Ok(LineFormat::default()),
            Some(AccessLogFormat::Format(text)) => cx.at("format", |cx| LineFormat::build_text(&text, cx)),
            Some(AccessLogFormat::JsonFormat(json)) => {
                cx.at("json_format", |cx| LineFormat::build_json(&json, cx))
            }
            Some(AccessLogFormat::TypedJsonFormat(json)) => {
                cx.at("typed_json_format", |cx| LineFormat::build_json(&json, cx))
            }
            Some(AccessLogFormat::LogFormat(format)) => {
                cx.at("log_format", |cx| LineFormat::build(&format, cx))
            }
        };
        if path.is_empty() {
            return Err(cx.at("path", |cx| cx.reject("value length must be at least 1 characters")));
        }
        let format = format?;
        open("path", &path, format, cx)
    }
}

/// A log that writes lines to the file at `path`; a file that cannot be opened is refused at `field`.
pub(super) fn open(
    field: &'static str,
    path: &str,
    format: LineFormat,
    cx: &mut BuildCx<'_>,
) -> Result<Arc<dyn AccessLog>, Rejected> {
    match cx.env.log_files.open(path) {
        Ok(file) => Ok(Arc::new(LineLog { file, format })),
        Err(error) => Err(cx.at(field, |cx| cx.reject(format!("unable to open file '{path}': {error}")))),
    }
}

/// Writes each entry as a line.
struct LineLog {
    file: Arc<dyn LogFile>,
    format: LineFormat,
}

thread_local! {
    /// The line being made; kept, so that logging does not allocate.
    static LINE: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// A longer line than this is not kept.
const KEPT: usize = 16 << 10;

impl AccessLog for LineLog {
    fn log(&self, entry: &LogEntry<'_>) {
        LINE.with_borrow_mut(|line| {
            line.clear();
            self.format.render(entry, line);
            self.file.write(line);
            line.shrink_to(KEPT);
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{MemoryLogs, env, env_with, stream_info};
    use prost::Message;
    use proxy_core::extension::access_log::LogType;
    use proxy_core::log_filter::build_access_log;
    use xds_api::envoy::config::accesslog::v3 as accesslog;

    fn entry(info: &proxy_core::stream_info::StreamInfo) -> LogEntry<'_> {
        LogEntry { log_type: LogType::TcpConnectionEnd, ..LogEntry::of(info) }
    }

    fn proto(path: &str, format: Option<AccessLogFormat>) -> proto::FileAccessLog {
        proto::FileAccessLog { path: path.into(), access_log_format: format }
    }

    #[allow(deprecated)]
    fn text(text: &str) -> Option<AccessLogFormat> {
        Some(AccessLogFormat::Format(text.into()))
    }

    #[test]
    fn entries_become_lines() {
        let files = Arc::new(MemoryLogs::default());
        let env = env_with(files.clone());
        let config = proto("/x", text("%ACCESS_LOG_TYPE% %BYTES_SENT%\n"));
        let log = FileAccessLog.build(&config.encode_to_vec(), &mut BuildCx::new(&env)).unwrap();
        let mut info = stream_info();
        log.log(&entry(&info));
        info.bytes_sent = 7;
        log.log(&entry(&info));
        assert_eq!(files.text(), "TcpConnectionEnd 0\nTcpConnectionEnd 7\n");
    }

    #[test]
    fn what_is_wrong_is_said_with_its_path() {
        let env = env();
        for (config, path) in [
            (proto("", None), "path"),
            (proto("/no/file", None), "path"),
            (proto("/x", text("%FOO%")), "format"),
        ] {
            let mut cx = BuildCx::new(&env);
            assert!(FileAccessLog.build(&config.encode_to_vec(), &mut cx).is_err());
            assert_eq!(cx.into_errors()[0].path, path);
        }
    }

    #[test]
    fn the_builder_puts_the_filter_in_front() {
        let files = Arc::new(MemoryLogs::default());
        let env = env_with(files.clone());
        let filter = accesslog::ResponseFlagFilter { flags: vec!["UF".into()] };
        let specifier = accesslog::access_log_filter::FilterSpecifier::ResponseFlagFilter(filter);
        let any = prost_types::Any {
            type_url: "type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog".into(),
            value: proto("/x", text("line\n")).encode_to_vec(),
        };
        let config = accesslog::AccessLog {
            name: "any name".into(),
            filter: Some(accesslog::AccessLogFilter { filter_specifier: Some(specifier) }),
            config_type: Some(accesslog::access_log::ConfigType::TypedConfig(any)),
        };
        let log = build_access_log(&config, &mut BuildCx::new(&env)).unwrap();
        let mut info = stream_info();
        log.log(&entry(&info));
        assert_eq!(files.text(), "");
        info.flags.set(proxy_core::response_flag::ResponseFlag::UpstreamConnectionFailure);
        log.log(&entry(&info));
        assert_eq!(files.text(), "line\n");
    }
}
