//! Access logs: one entry for each stream or connection, when it ends.
//!
//! Source: Envoy `envoy/access_log/access_log.h`, `docs/root/configuration/observability/access_log`.

use std::io;
use std::sync::Arc;

use http::HeaderMap;

use super::Descriptor;
use crate::config::{BuildCx, Rejected};
use crate::facts::Facts;
use crate::head::{RequestHead, ResponseHead};
use crate::stream_info::StreamInfo;

/// Why the entry is written (`%ACCESS_LOG_TYPE%`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogType {
    /// Not a stream's log.
    NotSet,
    /// `TcpConnectionStart`
    TcpConnectionStart,
    /// `TcpUpstreamConnected`
    TcpUpstreamConnected,
    /// `TcpPeriodic`
    TcpPeriodic,
    /// `TcpConnectionEnd`
    TcpConnectionEnd,
    /// `DownstreamStart`
    DownstreamStart,
    /// `DownstreamPeriodic`
    DownstreamPeriodic,
    /// `DownstreamEnd`
    DownstreamEnd,
    /// `UpstreamPoolReady`
    UpstreamPoolReady,
    /// `UpstreamPeriodic`
    UpstreamPeriodic,
    /// `UpstreamEnd`
    UpstreamEnd,
    /// `DownstreamTunnelSuccessfullyEstablished`
    DownstreamTunnelSuccessfullyEstablished,
}

/// Everything a log, or any other format, may print.
#[derive(Clone, Copy)]
pub struct LogEntry<'a> {
    /// The request, if a head was received.
    pub request: Option<&'a RequestHead>,
    /// The response, if a head was made.
    pub response: Option<&'a ResponseHead>,
    /// The response's trailers.
    pub response_trailers: Option<&'a HeaderMap>,
    /// What is known about the stream.
    pub info: &'a StreamInfo,
    /// Body of the local reply.
    pub local_reply_body: &'a str,
    /// Why it is written.
    pub log_type: LogType,
}

impl<'a> LogEntry<'a> {
    /// Nothing but what is known about the stream, which is not over.
    pub fn of(info: &'a StreamInfo) -> Self {
        Self {
            request: None,
            response: None,
            response_trailers: None,
            info,
            local_reply_body: "",
            log_type: LogType::NotSet,
        }
    }

    /// What expressions see of it.
    pub fn facts(&self) -> Facts<'a> {
        Facts {
            info: self.info,
            request: self.request,
            response: self.response,
            trailers: self.response_trailers,
            route: Some(&self.info.route_metadata),
            cluster: None,
            path: None,
        }
    }
}

/// A configured access log, its filter included.
pub trait AccessLog: Send + Sync {
    /// Writes the entry, unless the filter says no. Must not block.
    fn log(&self, entry: &LogEntry<'_>);
}

/// Where lines go; writing never blocks the caller.
pub trait LogFile: Send + Sync {
    /// Appends a complete line.
    fn write(&self, line: &[u8]);
}

/// All open log files, by path.
pub trait LogFiles: Send + Sync {
    /// The file at `path`, opened for appending; the same object for the same path.
    fn open(&self, path: &str) -> io::Result<Arc<dyn LogFile>>;
}

/// Opens none.
pub struct NoLogFiles;

impl LogFiles for NoLogFiles {
    fn open(&self, _path: &str) -> io::Result<Arc<dyn LogFile>> {
        Err(io::ErrorKind::Unsupported.into())
    }
}

/// A kind of access log, erased.
pub trait AccessLogFactory: Sync {
    /// What it says about itself.
    fn descriptor(&self) -> Descriptor;
    /// Builds the sink from the payload of its `Any`; the caller wraps it in the configured filter.
    fn build(&self, payload: &[u8], cx: &mut BuildCx<'_>) -> Result<Arc<dyn AccessLog>, Rejected>;
}
