//! What fuzz targets share: an environment to build configurations in, and something to print.

pub mod h1;
pub mod h2;
pub mod rig;

use std::rc::Rc;
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use http::{HeaderMap, HeaderValue, Method, StatusCode};
use proxy_core::address::Address;
use proxy_core::config::{BuildEnv, Constraints, NodeInfo};
use proxy_core::extension::access_log::{LogEntry, LogFile, LogFiles, LogType};
use proxy_core::head::{Protocol, RequestHead, ResponseHead, Scheme};
use proxy_core::stats::Registry;
use proxy_core::stream_info::{ConnectionInfo, StreamInfo};

/// Log files that hold nothing.
struct Nowhere;

impl LogFile for Nowhere {
    fn write(&self, _line: &[u8]) {}
}

impl LogFiles for Nowhere {
    fn open(&self, _path: &str) -> std::io::Result<Arc<dyn LogFile>> {
        Ok(Arc::new(Self))
    }
}

/// A fresh environment, so that nothing is left of the input before.
pub fn env() -> BuildEnv {
    BuildEnv {
        extensions: proxy_extensions::extensions(),
        clusters: Default::default(),
        routes: Default::default(),
        runtime: Default::default(),
        node: NodeInfo::default(),
        concurrency: 1,
        log_files: Arc::new(Nowhere),
        checks: Arc::new(Constraints),
        cluster_defaults: Default::default(),
        outlier_log: None,
        background: Default::default(),
        kept: Default::default(),
        dns_caches: Arc::new(proxy_engine::upstream::dns::Caches::default()),
        default_tracer: None,
        stats: Registry::new(1),
    }
}

/// A connection of which nothing special is known.
pub fn connection() -> ConnectionInfo {
    let address = |port| Address::Ip(([192, 0, 2, 1], port).into());
    let mut info = ConnectionInfo::new(address(1000), address(80), "l".into());
    info.id = 1;
    info
}

/// Runs `print` with a request that was answered.
pub fn with_entry<T>(print: impl FnOnce(&LogEntry<'_>) -> T) -> T {
    let mut headers = HeaderMap::new();
    headers.insert("x-a", HeaderValue::from_static("value"));
    headers.insert("x-b", HeaderValue::from_bytes(b"\xff\"\\\x80").expect("a value"));
    let request = RequestHead {
        method: Method::GET,
        scheme: Scheme::Http,
        authority: "example.com".into(),
        path: "/path?query=1#fragment".into(),
        upgrade: None,
        case: None,
        headers: headers.clone(),
    };
    let response = ResponseHead { headers, ..ResponseHead::new(StatusCode::OK) };
    let mut info = StreamInfo::new(Rc::new(connection()), Instant::now(), SystemTime::now());
    info.protocol = Some(Protocol::Http11);
    info.response_code = Some(200);
    print(&LogEntry { request: Some(&request), response: Some(&response), log_type: LogType::DownstreamEnd, ..LogEntry::of(&info) })
}

/// A message as a control plane would send it.
pub fn any<M: prost::Message + prost::Name>(message: &M) -> prost_types::Any {
    let type_url = format!("type.googleapis.com/{}", M::full_name());
    prost_types::Any { type_url, value: message.encode_to_vec() }
}
