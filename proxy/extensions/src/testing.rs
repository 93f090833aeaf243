//! What the tests of extensions share: a process to build in and a stream to act on.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::io;
use std::rc::Rc;
use std::sync::{Arc, Mutex, Weak};
use std::time::{Instant, SystemTime};

use prost::Message;
use proxy_core::address::Address;
use proxy_core::callout::{Answer, Call, CallFailure, Called, Caller, Talk};
use proxy_core::config::{BuildCx, BuildEnv, Rejected};
use proxy_core::dns_cache::{DnsCache, DnsCaches, Follower, LookUp, Wanted};
use proxy_core::extension::access_log::{LogFile, LogFiles};
use proxy_core::extension::http_filter::{HeadersStep, LocalBoxFuture, Phases, StreamCx};
use proxy_core::head::{HeadLimits, RequestHead, ResponseHead, Scheme};
use proxy_core::local_reply::LocalReply;
use proxy_core::stream_info::{ConnectionInfo, StreamInfo, WireBytes};
use proxy_core::upstream::Host;
use xds_api::envoy::config::core::v3::GrpcService;
use xds_api::envoy::config::core::v3::grpc_service::{EnvoyGrpc, TargetSpecifier};
use xds_api::envoy::extensions::common::dynamic_forward_proxy::v3::DnsCacheConfig;

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

/// Says of each name what its first label says.
#[derive(Debug)]
pub(crate) struct FakeNames;

impl DnsCache for FakeNames {
    fn look_up(&self, wanted: Wanted<'_>) -> LookUp {
        let found = || Ok([Address::Ip(([10, 0, 0, 1], wanted.port).into())].into());
        let lost = || Err("no".into());
        match wanted.name.split('.').next().unwrap_or_default() {
            "known" => LookUp::Known(found()),
            "lost" => LookUp::Known(lost()),
            "slow" => LookUp::Wait(Box::pin(std::future::ready(found()))),
            "slowly-lost" => LookUp::Wait(Box::pin(std::future::ready(lost()))),
            "busy" => LookUp::Busy,
            _ => LookUp::Full,
        }
    }
    fn follow(&self, _: Weak<dyn Follower>) {}
}

impl DnsCaches for FakeNames {
    fn cache(&self, _: &DnsCacheConfig, _: &mut BuildCx<'_>) -> Result<Arc<dyn DnsCache>, Rejected> {
        Ok(Arc::new(Self))
    }
}

pub(crate) fn env() -> BuildEnv {
    env_with(Arc::new(MemoryLogs::default()))
}

pub(crate) fn env_with(log_files: Arc<dyn LogFiles>) -> BuildEnv {
    let node = proxy_core::config::NodeInfo { cluster: "here".to_owned(), ..Default::default() };
    let (extensions, dns_caches) = (crate::extensions(), Arc::new(FakeNames));
    BuildEnv { extensions, dns_caches, node, log_files, ..BuildEnv::new(1) }
}

pub(crate) fn address(text: &str) -> Address {
    Address::Ip(text.parse().unwrap())
}

pub(crate) fn connection_info() -> ConnectionInfo {
    let info = ConnectionInfo::new(address("10.0.0.1:1000"), address("10.0.0.2:80"), "l".into());
    ConnectionInfo { id: 1, ..info }
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

/// What the engine says in tests.
#[derive(Default)]
pub(crate) struct FakeEngine {
    pub(crate) runtime: proxy_core::runtime::Runtime,
    pub(crate) health_check_failed: bool,
    pub(crate) clusters: std::collections::HashMap<String, (usize, usize)>,
    /// The calls that were made.
    pub(crate) calls: RefCell<Vec<Call>>,
    /// How long an answer takes.
    pub(crate) takes: std::cell::Cell<std::time::Duration>,
    /// Nobody answers calls.
    pub(crate) silent: std::cell::Cell<bool>,
    /// What the next calls are answered; then there is no cluster.
    pub(crate) answers: RefCell<VecDeque<Called>>,
    /// The calls that go both ways; they never end; where all are silent, they fail at once.
    pub(crate) talks: RefCell<Vec<(Call, Talk)>>,
}

impl Caller for FakeEngine {
    fn call(&self, call: Call) -> LocalBoxFuture<'static, Called> {
        self.calls.borrow_mut().push(call);
        if self.silent.get() {
            return Box::pin(std::future::pending());
        }
        let answer = self.answers.borrow_mut().pop_front().unwrap_or(Err(CallFailure::NoCluster));
        let takes = self.takes.get();
        if takes.is_zero() {
            return Box::pin(std::future::ready(answer));
        }
        Box::pin(async move {
            tokio::time::sleep(takes).await;
            answer
        })
    }
    fn converse(&self, call: Call, talk: Talk) -> LocalBoxFuture<'static, Result<(), CallFailure>> {
        if self.silent.get() {
            self.calls.borrow_mut().push(call);
            return Box::pin(std::future::ready(Err(CallFailure::NoCluster)));
        }
        self.talks.borrow_mut().push((call, talk));
        Box::pin(std::future::pending())
    }
    fn send(&self, call: Call) {
        drop(self.call(call));
    }
}

impl proxy_core::extension::http_filter::Engine for FakeEngine {
    fn runtime(&self) -> &proxy_core::runtime::Runtime {
        &self.runtime
    }
    fn random(&self) -> u64 {
        0
    }
    fn health_check_failed(&self) -> bool {
        self.health_check_failed
    }
    fn cluster_health(&self, cluster: &str) -> Option<(usize, usize)> {
        self.clusters.get(cluster).copied()
    }
    fn upstream_protocol(
        &self,
        _cluster: &str,
        downstream: proxy_core::head::Protocol,
    ) -> Option<proxy_core::head::Protocol> {
        Some(downstream)
    }
    fn response_limits(&self, _: &str, _: proxy_core::head::Protocol) -> Option<HeadLimits> {
        Some(HeadLimits { fields: 100, bytes: 60 * 1024 })
    }
    fn dynamic_port(&self, cluster: &str) -> Option<u16> {
        (cluster == "dynamic").then_some(80)
    }
    fn count_response(&self, _cluster: &str, _status: http::StatusCode) {}
}

/// The engine of network filters that ask nothing of it.
pub(crate) fn engine() -> Rc<dyn proxy_core::extension::http_filter::Engine> {
    Rc::new(FakeEngine::default())
}

/// A stream as HTTP filters see it.
pub(crate) struct Stream {
    pub(crate) request: RequestHead,
    pub(crate) response: Option<ResponseHead>,
    pub(crate) info: StreamInfo,
    pub(crate) configs: Vec<Arc<dyn std::any::Any + Send + Sync>>,
    pub(crate) engine: FakeEngine,
    pub(crate) clear_route: bool,
    pub(crate) hold_limit: usize,
    pub(crate) phases: Phases,
    pub(crate) before_trailers: bytes::Bytes,
    pub(crate) new_trailers: http::HeaderMap,
}

pub(crate) fn header_map(list: &[(&'static str, &'static str)]) -> http::HeaderMap {
    list.iter()
        .map(|(name, value)| (http::HeaderName::from_static(name), http::HeaderValue::from_static(value)))
        .collect()
}

impl Stream {
    pub(crate) fn new(headers: &[(&'static str, &'static str)]) -> Self {
        let request = RequestHead {
            method: http::Method::GET,
            scheme: Scheme::Http,
            authority: "host".into(),
            path: "/".into(),
            upgrade: None,
            case: None,
            headers: header_map(headers),
        };
        Self {
            request,
            response: None,
            info: stream_info(),
            configs: Vec::new(),
            engine: FakeEngine::default(),
            clear_route: false,
            hold_limit: 1 << 20,
            phases: Phases::default(),
            before_trailers: bytes::Bytes::new(),
            new_trailers: http::HeaderMap::new(),
        }
    }

    pub(crate) fn respond(&mut self, status: http::StatusCode, headers: http::HeaderMap) {
        self.info.response_code = Some(status.as_u16());
        self.response = Some(ResponseHead { status, headers, case: None });
    }

    pub(crate) fn cx(&mut self) -> StreamCx<'_> {
        StreamCx {
            request: &mut self.request,
            response: Some(self.response.get_or_insert_with(|| ResponseHead::new(http::StatusCode::OK))),
            info: &mut self.info,
            route: None,
            name: "filter",
            route_configs: &self.configs,
            clear_route: &mut self.clear_route,
            hold_limit: &mut self.hold_limit,
            phases: &mut self.phases,
            before_trailers: Some(&mut self.before_trailers),
            new_trailers: Some(&mut self.new_trailers),
            head_limits: HeadLimits { fields: 100, bytes: 60 * 1024 },
            engine: &self.engine,
        }
    }

    /// The headers of the response as `name: value`.
    pub(crate) fn response_lines(&self) -> Vec<String> {
        self.response.as_ref().map(|response| lines(&response.headers)).unwrap_or_default()
    }
}

pub(crate) fn lines(headers: &http::HeaderMap) -> Vec<String> {
    headers.iter().map(|(name, value)| format!("{name}: {}", value.to_str().unwrap())).collect()
}

/// What a service of gRPC answers with this message.
pub(crate) fn grpc_answer(message: &impl Message) -> Called {
    let message = message.encode_to_vec();
    let length = u32::try_from(message.len()).unwrap().to_be_bytes();
    Ok(Answer {
        head: ResponseHead::new(http::StatusCode::OK),
        body: bytes::Bytes::from([&[0][..], &length, &message].concat()),
        trailers: Some(header_map(&[("grpc-status", "0")])),
        wire: WireBytes::default(),
        host: Arc::new(Host::new(address("10.0.0.9:1"))),
    })
}

/// A service of gRPC at this cluster.
pub(crate) fn grpc_service(cluster: &str) -> GrpcService {
    let target = EnvoyGrpc { cluster_name: cluster.into(), ..EnvoyGrpc::default() };
    GrpcService { target_specifier: Some(TargetSpecifier::EnvoyGrpc(target)), ..GrpcService::default() }
}

/// The reply that a step makes, if it makes one; any other step than going on is a mistake.
pub(crate) fn reply(step: HeadersStep<'_>) -> Option<Box<LocalReply>> {
    match step {
        HeadersStep::Continue => None,
        HeadersStep::Reply(reply) => Some(reply),
        HeadersStep::Hold | HeadersStep::Wait(_) => panic!("unexpected step"),
    }
}
