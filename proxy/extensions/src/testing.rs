//! What the tests of extensions share: a process to build in and a stream to act on.

use std::io;
use std::rc::Rc;
use std::sync::{Arc, Mutex};
use std::time::{Instant, SystemTime};

use proxy_core::address::Address;
use proxy_core::config::BuildEnv;
use proxy_core::extension::access_log::{LogFile, LogFiles};
use proxy_core::filter_state::FilterState;
use proxy_core::metadata::{DynamicMetadata, Metadata};
use proxy_core::stats::Registry;
use proxy_core::stream_info::{ConnectionInfo, StreamInfo};

/// Log files in memory.
#[derive(Default)]
pub(crate) struct MemoryLogs(Arc<MemoryFile>);

#[derive(Default)]
pub(crate) struct MemoryFile(Mutex<Vec<u8>>);

impl MemoryLogs {
    pub(crate) fn text(&self) -> String {
        String::from_utf8(self.0.0.lock().unwrap().clone()).unwrap()
    }
}

impl LogFile for MemoryFile {
    fn write(&self, line: &[u8]) {
        self.0.lock().unwrap().extend_from_slice(line);
    }
}

impl LogFiles for MemoryLogs {
    fn open(&self, path: &str) -> io::Result<Arc<dyn LogFile>> {
        if path.starts_with("/no/") {
            return Err(io::ErrorKind::NotFound.into());
        }
        Ok(self.0.clone())
    }
}

pub(crate) fn env() -> BuildEnv {
    env_with(Arc::new(MemoryLogs::default()))
}

pub(crate) fn env_with(log_files: Arc<dyn LogFiles>) -> BuildEnv {
    BuildEnv {
        extensions: crate::extensions(),
        clusters: Default::default(),
        routes: Default::default(),
        runtime: Default::default(),
        node: proxy_core::config::NodeInfo { cluster: "here".to_owned(), ..Default::default() },
        concurrency: 1,
        log_files,
        stats: Registry::new(1),
    }
}

pub(crate) fn address(text: &str) -> Address {
    Address::Ip(text.parse().unwrap())
}

pub(crate) fn connection_info() -> ConnectionInfo {
    ConnectionInfo {
        id: 1,
        start: Instant::now(),
        direct_remote: address("10.0.0.1:1000"),
        remote: address("10.0.0.1:1000"),
        local: address("10.0.0.2:80"),
        direct_local: address("10.0.0.2:80"),
        local_restored: false,
        secure: false,
        server_name: None,
        application_protocols: Vec::new(),
        transport_protocol: "raw_buffer",
        listener: "l".into(),
        listener_metadata: Metadata::default(),
        filter_chain: "".into(),
        filter_chain_metadata: Metadata::default(),
        metadata: DynamicMetadata::default(),
        filter_state: FilterState::default(),
    }
}

pub(crate) fn stream_info() -> StreamInfo {
    StreamInfo::new(Rc::new(connection_info()), Instant::now(), SystemTime::now())
}

pub(crate) fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(future)
}

/// As [`block_on`], with a clock that jumps over waits.
pub(crate) fn block_on_paused<T>(future: impl Future<Output = T>) -> T {
    let mut builder = tokio::runtime::Builder::new_current_thread();
    builder.enable_time().start_paused(true).build().unwrap().block_on(future)
}

/// A socket that was redirected from this address, or not at all.
pub(crate) struct FakeSocket(pub(crate) Option<Address>);

impl proxy_core::extension::listener_filter::Socket for FakeSocket {
    fn original_destination(&self) -> Option<Address> {
        self.0.clone()
    }
}
