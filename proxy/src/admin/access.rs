//! Access logs of the admin interface (`admin.access_log`).

use std::rc::Rc;
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use http::{HeaderMap, HeaderValue, StatusCode, Version};
use proxy_core::address::Address;
use proxy_core::extension::access_log::{AccessLog, LogEntry, LogType};
use proxy_core::head::{Protocol, RequestHead, ResponseHead, Scheme};
use proxy_core::stream_info::{ConnectionInfo, StreamInfo};

/// What is logged about a connection of the admin interface.
pub(super) fn connection(remote: Address, local: Address) -> Rc<ConnectionInfo> {
    Rc::new(ConnectionInfo::new(remote, local, "admin".into()))
}

/// A request that will be logged once it is answered.
pub(super) struct Entry {
    request: RequestHead,
    info: StreamInfo,
}

impl Entry {
    pub(super) fn new(head: &http::request::Parts, connection: Rc<ConnectionInfo>) -> Self {
        let mut info = StreamInfo::new(connection, Instant::now(), SystemTime::now());
        info.protocol = Some(match head.version {
            Version::HTTP_2 => Protocol::Http2,
            Version::HTTP_10 => Protocol::Http10,
            _ => Protocol::Http11,
        });
        let host = head.headers.get(http::header::HOST).and_then(|host| host.to_str().ok());
        let mut headers = head.headers.clone();
        headers.remove(http::header::HOST);
        let request = RequestHead {
            method: head.method.clone(),
            scheme: Scheme::Http,
            authority: head.uri.authority().map(|authority| authority.as_str()).or(host).unwrap_or("").into(),
            path: head.uri.path_and_query().map_or("/", |path| path.as_str()).into(),
            upgrade: None,
            case: None,
            headers,
        };
        Self { request, info }
    }

    /// Writes the entry to every log.
    pub(super) fn write(
        mut self,
        logs: &[Arc<dyn AccessLog>],
        status: StatusCode,
        content_type: &'static str,
        length: usize,
    ) {
        let now = Instant::now();
        self.info.response_code = Some(status.as_u16());
        self.info.details = Some("admin_filter_response".into());
        self.info.bytes_sent = length as u64;
        self.info.request_complete = Some(self.info.start);
        self.info.first_downstream_tx = Some(now);
        self.info.last_downstream_tx = Some(now);
        self.info.end = Some(now);
        let mut headers = HeaderMap::new();
        headers.insert(http::header::CONTENT_TYPE, HeaderValue::from_static(content_type));
        let response = ResponseHead { headers, ..ResponseHead::new(status) };
        let entry = LogEntry {
            request: Some(&self.request),
            response: Some(&response),
            log_type: LogType::DownstreamEnd,
            ..LogEntry::of(&self.info)
        };
        for log in logs {
            log.log(&entry);
        }
    }
}
