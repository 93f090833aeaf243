//! A filter that holds whatever a request asks for, in a chain that serves real connections.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context as Task, Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, StatusCode};
use proxy_core::config::{BuildCx, BuildEnv, Rejected};
use proxy_core::extension::http_filter::{
    DataStep, Direction, Engine, HeadersStep, HttpFilter, HttpFilterExtension, HttpFilterFactory,
    NoRouteConfig, Of, Phases, StreamCx, Verdict,
};
use proxy_core::extension::{Descriptor, Extensions, SecurityPosture, Status};
use proxy_core::head::{RequestHead, ResponseHead};
use proxy_core::local_reply::LocalReply;
use proxy_core::stream_info::StreamInfo;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use xds_api::envoy::config::bootstrap::v3::Bootstrap;
use xds_api::read::{Options, Source, read};

use proxy_engine::context::Context;
use proxy_engine::listener::accept::{
    Bound, ConnectionLimit, GlobalConnections, ListenerTag, Listeners, SharedListener,
};
use proxy_engine::listener::config::Listener;
use proxy_engine::local::drain::{DrainStrategy, ProcessDrain};
use proxy_engine::local::timers;
use proxy_engine::router::Routes;
use proxy_engine::state::{Sockets, Store};
use proxy_engine::upstream::pool::Clusters;

#[path = "held_filters/parts.rs"]
mod parts;

/// What the filters of a test share with it.
#[derive(Default)]
struct Gate {
    open: AtomicBool,
    waiting: Mutex<Option<Waker>>,
    seen: Mutex<Vec<String>>,
    /// Something was seen, or somebody waits.
    changed: tokio::sync::Notify,
}

impl Gate {
    fn poll(&self, task: &mut Task<'_>) -> Poll<()> {
        *self.waiting.lock().unwrap() = Some(task.waker().clone());
        self.changed.notify_one();
        if self.open.load(Ordering::Acquire) { Poll::Ready(()) } else { Poll::Pending }
    }

    /// From another thread, as an answer to a question would come.
    fn open(self: &Arc<Self>) {
        let gate = self.clone();
        let opened = std::thread::spawn(move || {
            gate.open.store(true, Ordering::Release);
            gate.waiting.lock().unwrap().take().unwrap().wake();
        });
        opened.join().unwrap();
    }

    fn see(&self, what: String) {
        self.seen.lock().unwrap().push(what);
        self.changed.notify_one();
    }

    fn seen(&self) -> Vec<String> {
        self.seen.lock().unwrap().clone()
    }

    async fn until(&self, done: impl Fn(&Self) -> bool) {
        while !done(self) {
            self.changed.notified().await;
        }
    }
}

thread_local! {
    /// Workers and tests are one thread here.
    static GATE: RefCell<Arc<Gate>> = RefCell::default();
    /// Whether the filters stand behind the router.
    static BEHIND: Cell<bool> = const { Cell::new(false) };
}

/// Does what the header `x-hold` of the request says.
struct Holder {
    gate: Arc<Gate>,
    mode: String,
}

/// Writes down what it sees.
struct Observer(Arc<Gate>);

/// Lets the head pass, and holds the body until the gate opens.
struct Late(Arc<Gate>);

struct Extension;

const DESCRIPTOR: Descriptor = Descriptor {
    name: "test.holder",
    message: "google.protobuf.StringValue",
    status: Status::Stable,
    posture: SecurityPosture::RobustToUntrustedDownstreamAndUpstream,
};

impl HttpFilterExtension for Extension {
    const DESCRIPTOR: Descriptor = DESCRIPTOR;
    const PHASES: Phases = Phases { request_body: true, response_headers: true, response_body: true };
    const MAY_BE_UPSTREAM: bool = true;
    type Proto = String;
    type Config = String;
    type RouteProto = NoRouteConfig;
    type RouteConfig = ();

    fn build(proto: String, _: &mut BuildCx<'_>) -> Result<String, Rejected> {
        Ok(proto)
    }

    fn build_route((): NoRouteConfig, _: &mut BuildCx<'_>) -> Result<(), Rejected> {
        Ok(())
    }

    fn create(config: &Arc<String>) -> Box<dyn HttpFilter> {
        let gate = GATE.with_borrow(Arc::clone);
        match config.as_str() {
            "observer" => Box::new(Observer(gate)),
            "late" => Box::new(Late(gate)),
            _ => Box::new(Holder { gate, mode: String::new() }),
        }
    }
}

fn denied() -> Box<LocalReply> {
    Box::new(LocalReply::new(StatusCode::FORBIDDEN, Bytes::from_static(b"denied"), "denied_by_test"))
}

impl HttpFilter for Holder {
    fn on_request_headers<'a>(&'a mut self, cx: &'a mut StreamCx<'_>, _: bool) -> HeadersStep<'a> {
        let mode = cx.request.headers.get("x-hold").and_then(|mode| mode.to_str().ok());
        self.mode = mode.unwrap_or_default().to_owned();
        match self.mode.as_str() {
            "wait" => HeadersStep::Wait(Box::pin(async {
                std::future::poll_fn(|task| self.gate.poll(task)).await;
                Verdict::Continue
            })),
            "resume" | "until end" | "until trailers" | "reply" | "resume with reply" => HeadersStep::Hold,
            _ => HeadersStep::Continue,
        }
    }

    fn on_request_data<'a>(
        &'a mut self,
        _: &'a mut StreamCx<'_>,
        data: &'a mut Bytes,
        end: bool,
    ) -> DataStep<'a> {
        self.gate.see(format!("held {}", String::from_utf8_lossy(data)));
        match self.mode.as_str() {
            "resume" | "resume with reply" | "until trailers" => DataStep::Hold,
            "until end" | "data until end" if !end => DataStep::Hold,
            "drop" if !end => DataStep::Drop,
            "drop" => {
                *data = Bytes::from_static(b"instead");
                DataStep::Continue
            }
            "part" if data.len() > 1 => DataStep::Part(data.split_off(1)),
            "reply" => DataStep::Reply(denied()),
            _ => DataStep::Continue,
        }
    }

    fn on_response_headers<'a>(&'a mut self, cx: &'a mut StreamCx<'_>, _: bool) -> HeadersStep<'a> {
        let is_local = cx.response.as_ref().is_none_or(|response| response.status != StatusCode::OK);
        match self.mode.as_str() {
            "response long" if !is_local => HeadersStep::Hold,
            "response until end" | "response resume" | "response reply" => HeadersStep::Hold,
            _ => HeadersStep::Continue,
        }
    }

    fn on_response_data<'a>(
        &'a mut self,
        _: &'a mut StreamCx<'_>,
        data: &'a mut Bytes,
        end: bool,
    ) -> DataStep<'a> {
        match self.mode.as_str() {
            "response until end" if !end => DataStep::Hold,
            "response long" if data.len() >= 64 => DataStep::Hold,
            "response resume" => DataStep::Hold,
            "response part" if data.len() > 1 => DataStep::Part(data.split_off(1)),
            "response reply" => DataStep::Reply(denied()),
            _ => DataStep::Continue,
        }
    }

    fn poll_resume(&mut self, _: Direction, task: &mut Task<'_>) -> Poll<Verdict> {
        let verdict = match self.mode.as_str() {
            "resume with reply" => Verdict::Reply(denied()),
            _ => Verdict::Continue,
        };
        self.gate.poll(task).map(|()| verdict)
    }

    fn poll_rest(&mut self, _: Direction, task: &mut Task<'_>) -> Poll<()> {
        self.gate.poll(task)
    }

    fn on_complete(
        &mut self,
        _: &RequestHead,
        _: Option<&ResponseHead>,
        info: &mut StreamInfo,
        _: &dyn Engine,
    ) {
        self.gate.see(format!("over, {}", info.details.as_deref().unwrap_or("-")));
    }
}

impl HttpFilter for Observer {
    fn on_request_headers<'a>(&'a mut self, _: &'a mut StreamCx<'_>, end: bool) -> HeadersStep<'a> {
        self.0.see(format!("head {end}"));
        HeadersStep::Continue
    }

    fn on_request_data<'a>(
        &'a mut self,
        _: &'a mut StreamCx<'_>,
        data: &'a mut Bytes,
        end: bool,
    ) -> DataStep<'a> {
        self.0.see(format!("data {} {end}", String::from_utf8_lossy(data)));
        DataStep::Continue
    }

    fn on_request_trailers<'a>(
        &'a mut self,
        _: &'a mut StreamCx<'_>,
        trailers: &'a mut HeaderMap,
    ) -> HeadersStep<'a> {
        self.0.see(format!("trailers {}", trailers.len()));
        HeadersStep::Continue
    }
}

impl HttpFilter for Late {
    fn on_request_data<'a>(&'a mut self, _: &'a mut StreamCx<'_>, _: &'a mut Bytes, _: bool) -> DataStep<'a> {
        DataStep::Hold
    }

    fn poll_resume(&mut self, _: Direction, task: &mut Task<'_>) -> Poll<Verdict> {
        self.0.poll(task).map(|()| Verdict::Continue)
    }
}

struct NoSockets;

impl Sockets for NoSockets {
    fn open(&mut self, _: ListenerTag, _: &Listener) -> Result<(), String> {
        Ok(())
    }

    fn share(&mut self, _: ListenerTag, _: ListenerTag, _: &Listener) -> Result<(), String> {
        Ok(())
    }
}

const BOOTSTRAP: &str = r#"
static_resources:
  clusters:
  - name: up
    connect_timeout: 1s
    type: STATIC
    typed_extension_protocol_options:
      envoy.extensions.upstreams.http.v3.HttpProtocolOptions:
        "@type": type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions
        explicit_http_config: {PROTOCOL}
    load_assignment:
      cluster_name: up
      endpoints: [{lb_endpoints: [{endpoint: {address: {socket_address: {address: 127.0.0.1, port_value: UP}}}}]}]
  listeners:
  - name: test
    address: {socket_address: {address: 127.0.0.1, port_value: 0}}
    per_connection_buffer_limit_bytes: 64
    filter_chains:
    - filters:
      - name: envoy.filters.network.http_connection_manager
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: test
          stream_idle_timeout: IDLE
          http_protocol_options: {enable_trailers: true}
          http_filters: [BEFORE {name: router, typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router, upstream_http_filters: [BEHIND]}}]
          route_config:
            virtual_hosts:
            - name: all
              domains: ["*"]
              routes:
              - {match: {prefix: /direct}, direct_response: {status: 200, body: {inline_string: direct}}}
              - {match: {prefix: /never}, route: {cluster: up, timeout: 0.05s}}
              - {match: {prefix: /}, route: {cluster: up}}
"#;

const TESTED: &str = r#"{name: holder, typed_config: {"@type": type.googleapis.com/google.protobuf.StringValue, value: holder}},
            {name: observer, typed_config: {"@type": type.googleapis.com/google.protobuf.StringValue, value: observer}}, "#;
const LATE: &str = r#"{name: late, typed_config: {"@type": type.googleapis.com/google.protobuf.StringValue, value: late}}, "#;
const CODEC: &str = r#"{name: codec, typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.http.upstream_codec.v3.UpstreamCodec}}"#;

/// A proxy on this thread and the upstream it talks to.
struct Rig {
    addr: std::net::SocketAddr,
    gate: Arc<Gate>,
}

impl Rig {
    async fn start(idle: &str) -> Self {
        Self::start_with(&[("IDLE", idle)], echo).await
    }

    /// With these changes to the bootstrap.
    async fn start_with<F: Future<Output = ()> + 'static>(
        changes: &[(&str, &str)],
        host: impl FnOnce(TcpListener) -> F,
    ) -> Self {
        let gate = Arc::<Gate>::default();
        GATE.set(gate.clone());
        let upstream = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let text = BOOTSTRAP.replace("UP", &upstream.local_addr().unwrap().port().to_string());
        tokio::task::spawn_local(host(upstream));
        let (before, behind) = match BEHIND.get() {
            false => (TESTED, String::new()),
            true => ("", format!("{TESTED}{CODEC}")),
        };
        let text = changes.iter().fold(text, |text, (from, to)| text.replace(from, to));
        let text =
            text.replace("IDLE", "10s").replace("PROTOCOL", "http_protocol_options: {enable_trailers: true}");
        let text = text.replace("BEFORE", before).replace("BEHIND", &behind);
        let source = Source::yaml("test", text.as_bytes());
        let mut bootstrap = read::<Bootstrap>(&source, &Options::default()).unwrap().message;
        let extensions = Extensions { http_filters: FILTERS, ..Extensions::default() };
        let env = Arc::new(BuildEnv { extensions, ..BuildEnv::new(1) });
        let mut store = Store::new(env.clone());
        let resources = bootstrap.static_resources.clone().unwrap();
        store.load(&mut bootstrap).unwrap();
        store.start(&mut NoSockets).unwrap();
        let config = Listener::build(&resources.listeners[0], &mut BuildCx::new(&env)).unwrap();
        let clusters = Rc::new(Clusters::default());
        clusters.install(&store.snapshot().clusters);
        let context = Context {
            env,
            clusters,
            routes: Rc::new(Routes::default()),
            drain: Arc::new(ProcessDrain::new(Duration::from_secs(1), DrainStrategy::Immediate)),
            overload: None,
            random: RefCell::new(fastrand::Rng::new()),
        };
        let listeners = Listeners::new(
            Rc::new(context),
            0,
            GlobalConnections::new(ConnectionLimit::Runtime(Arc::default())),
            Box::new(|_, _, _| {}),
        );
        let socket = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap();
        socket.set_nonblocking(true).unwrap();
        let addr = socket.local_addr().unwrap();
        listeners.add(TAG, config, SharedListener::new(1, "test", &Arc::default()), vec![Bound::Tcp(socket)]);
        tokio::task::spawn_local(timers::drive());
        Self { addr, gate }
    }

    async fn send(&self, request: &str) -> TcpStream {
        let mut client = TcpStream::connect(self.addr).await.unwrap();
        client.write_all(request.as_bytes()).await.unwrap();
        client
    }

    /// What is answered to a request that says `connection: close`.
    async fn answer(&self, client: &mut TcpStream) -> String {
        let mut answer = Vec::new();
        let read = client.read_to_end(&mut answer);
        tokio::time::timeout(Duration::from_secs(10), read).await.unwrap().unwrap();
        String::from_utf8(answer).unwrap()
    }

    async fn ask(&self, request: &str) -> String {
        let mut client = self.send(request).await;
        self.answer(&mut client).await
    }
}

const TAG: ListenerTag = 1;
const FILTERS: &[&dyn HttpFilterFactory] = &[&Of::<Extension>::new()];

/// Refuses the first request once it has all of it, and answers others with what they sent.
async fn refuse_once(listener: TcpListener) {
    let (stream, _) = listener.accept().await.unwrap();
    let mut connection = h2::server::handshake(stream).await.unwrap();
    let mut refused = false;
    while let Some(accepted) = connection.accept().await {
        let (request, mut respond) = accepted.unwrap();
        let refuse = !std::mem::replace(&mut refused, true);
        tokio::task::spawn_local(async move {
            let mut body = request.into_body();
            let mut received = Vec::new();
            while let Some(Ok(piece)) = body.data().await {
                received.extend(piece);
            }
            if refuse {
                return respond.send_reset(h2::Reason::REFUSED_STREAM);
            }
            let mut send = respond.send_response(http::Response::new(()), false).unwrap();
            send.send_data(received.into(), true).unwrap();
        });
    }
}

/// Answers every request with its body, or not at all.
async fn echo(listener: TcpListener) {
    while let Ok((mut stream, _)) = listener.accept().await {
        tokio::task::spawn_local(async move {
            let mut bytes = Vec::new();
            loop {
                if stream.read_buf(&mut bytes).await.unwrap_or(0) == 0 {
                    return;
                }
                let text = String::from_utf8_lossy(&bytes).into_owned();
                let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
                let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
                let chunked = head.contains("transfer-encoding: chunked");
                let whole = match length {
                    Some(length) => body.len() == length.parse::<usize>().unwrap(),
                    None => !chunked || body.ends_with("\r\n\r\n") || body.ends_with("0\r\n\r\n"),
                };
                if !whole || head.contains(" /never ") {
                    continue;
                }
                let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}", body.len());
                stream.write_all(answer.as_bytes()).await.unwrap();
                bytes.clear();
            }
        });
    }
}

/// Answers when the first byte of a body is there, and reads on.
async fn early(listener: TcpListener) {
    let (mut stream, _) = listener.accept().await.unwrap();
    let mut bytes = Vec::new();
    while !bytes.ends_with(b"\r\n\r\nh") {
        stream.read_buf(&mut bytes).await.unwrap();
    }
    stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nearly").await.unwrap();
    while stream.read_buf(&mut bytes).await.unwrap_or(0) > 0 {}
}

/// Runs `test` on a worker's kind of thread.
fn on_worker(test: impl AsyncFnOnce()) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    tokio::task::LocalSet::new().block_on(&runtime, test());
}

/// Runs `test` with the filters before the router and then behind it.
fn on_both_sides(test: impl AsyncFn()) {
    on_worker(&test);
    BEHIND.set(true);
    on_worker(&test);
}

fn post(mode: &str, body: &str) -> String {
    format!(
        "POST / HTTP/1.1\r\nhost: test\r\nconnection: close\r\nx-hold: {mode}\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    )
}

fn get(path: &str, mode: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nhost: test\r\nconnection: close\r\nx-hold: {mode}\r\n\r\n")
}

fn body_of(answer: &str) -> (&str, &str) {
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    (head.split(' ').nth(1).unwrap(), body)
}

#[test]
fn a_held_request_goes_on_when_the_filter_is_woken() {
    on_both_sides(async || {
        let rig = Rig::start("10s").await;
        let mut client = rig.send(&post("resume", "hello")).await;
        rig.gate.until(|gate| gate.seen().len() == 2).await;
        assert_eq!(rig.gate.seen(), ["held hello", "held "], "nothing passes the filter before it lets go");
        rig.gate.open();
        let answer = rig.answer(&mut client).await;
        assert_eq!(body_of(&answer), ("200", "hello"));
        assert_eq!(rig.gate.seen()[2..4], ["head false", "data hello true"]);
    });
}

#[test]
fn a_request_without_a_body_is_held_too() {
    on_both_sides(async || {
        let rig = Rig::start("10s").await;
        let mut client = rig.send(&get("/", "resume")).await;
        rig.gate.until(|gate| gate.waiting.lock().unwrap().is_some()).await;
        rig.gate.open();
        assert_eq!(body_of(&rig.answer(&mut client).await).0, "200");
        assert_eq!(rig.gate.seen()[..1], ["head true"]);
    });
}

#[test]
fn a_wait_ends_when_the_future_says_so() {
    on_both_sides(async || {
        let rig = Rig::start("10s").await;
        let mut client = rig.send(&post("wait", "hello")).await;
        rig.gate.until(|gate| gate.waiting.lock().unwrap().is_some()).await;
        assert!(rig.gate.seen().is_empty(), "nothing is read meanwhile");
        rig.gate.open();
        assert_eq!(body_of(&rig.answer(&mut client).await), ("200", "hello"));
    });
}

#[test]
fn a_body_is_gathered() {
    on_both_sides(async || {
        for (mode, head) in [("until end", 2), ("data until end", 0)] {
            let rig = Rig::start("10s").await;
            let request = post(mode, "hello");
            let (first, rest) = request.split_at(request.len() - 3);
            let mut client = rig.send(first).await;
            rig.gate.until(|gate| gate.seen().iter().any(|seen| seen == "held he")).await;
            client.write_all(rest.as_bytes()).await.unwrap();
            assert_eq!(body_of(&rig.answer(&mut client).await), ("200", "hello"), "{mode}");
            let seen = rig.gate.seen();
            assert_eq!(
                seen.iter().position(|seen| seen == "head false"),
                Some(head + usize::from(head > 0)),
                "{mode}: {seen:?}"
            );
            assert!(
                seen.contains(&"data hello true".to_owned()),
                "{mode}: later filters see all of it: {seen:?}"
            );
        }
    });
}

#[test]
fn a_body_is_replaced() {
    on_both_sides(async || {
        let rig = Rig::start("10s").await;
        let request = "POST / HTTP/1.1\r\nhost: test\r\nconnection: close\r\nx-hold: drop\r\ntransfer-encoding: chunked\r\n\r\n\
                       3\r\nabc\r\n0\r\n\r\n";
        let answer = rig.ask(request).await;
        assert_eq!(body_of(&answer), ("200", "7\r\ninstead\r\n0\r\n\r\n"));
    });
}

#[test]
fn trailers_let_go() {
    on_both_sides(async || {
        let rig = Rig::start("10s").await;
        let request = "POST / HTTP/1.1\r\nhost: test\r\nconnection: close\r\nx-hold: until trailers\r\n\
                       transfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nx-t: 1\r\n\r\n";
        let answer = rig.ask(request).await;
        assert_eq!(body_of(&answer), ("200", "3\r\nabc\r\n0\r\nx-t: 1\r\n\r\n"));
        assert_eq!(rig.gate.seen()[1..4], ["head false", "data abc false", "trailers 1"]);
    });
}

#[test]
fn a_filter_may_reply_while_it_holds() {
    on_both_sides(async || {
        let rig = Rig::start("10s").await;
        assert_eq!(body_of(&rig.ask(&post("reply", "hello")).await), ("403", "denied"));
        assert_eq!(rig.gate.seen(), ["held hello", "over, denied_by_test"]);
        let rig = Rig::start("10s").await;
        let mut client = rig.send(&get("/", "resume with reply")).await;
        rig.gate.until(|gate| gate.waiting.lock().unwrap().is_some()).await;
        rig.gate.open();
        assert_eq!(body_of(&rig.answer(&mut client).await), ("403", "denied"));
    });
}

#[test]
fn what_is_held_has_a_limit() {
    on_both_sides(async || {
        let rig = Rig::start("10s").await;
        let mut client = rig.send(&post("until end", &"x".repeat(65))).await;
        let answer = rig.answer(&mut client).await;
        assert_eq!(body_of(&answer), ("413", "Payload Too Large"));
        assert_eq!(rig.gate.seen().last().unwrap(), "over, request_payload_too_large");
        assert_eq!(body_of(&rig.ask(&post("until end", &"x".repeat(64))).await).0, "200");
        let answer = rig.ask(&post("response long", &"x".repeat(65))).await;
        assert_eq!(body_of(&answer), ("500", "Internal Server Error"));
        let rig = Rig::start("10s").await;
        let mut client = rig.send(&post("response long", &"x".repeat(64))).await;
        rig.gate.until(|gate| gate.waiting.lock().unwrap().is_some()).await;
        rig.gate.open();
        assert_eq!(body_of(&rig.answer(&mut client).await).0, "200");
    });
}

#[test]
fn without_a_limit_much_is_held() {
    on_both_sides(async || {
        let rig = Rig::start_with(&[("limit_bytes: 64", "limit_bytes: 0")], echo).await;
        let body = "x".repeat(2 << 20);
        assert_eq!(body_of(&rig.ask(&post("until end", &body)).await), ("200", body.as_str()));
    });
}

#[test]
fn a_client_that_leaves_ends_the_wait() {
    on_both_sides(async || {
        for mode in ["resume", "wait"] {
            let rig = Rig::start("10s").await;
            let client = rig.send(&get("/", mode)).await;
            rig.gate.until(|gate| gate.waiting.lock().unwrap().is_some()).await;
            drop(client);
            rig.gate.until(|gate| !gate.seen().is_empty()).await;
            assert_eq!(rig.gate.seen(), ["over, downstream_remote_disconnect"], "{mode}");
        }
    });
}

#[test]
fn a_reset_ends_the_wait() {
    on_both_sides(async || {
        for (mode, end) in [("resume", true), ("wait", true), ("resume", false), ("wait", false)] {
            let rig = Rig::start("10s").await;
            let stream = TcpStream::connect(rig.addr).await.unwrap();
            let (send, connection) = h2::client::handshake(stream).await.unwrap();
            tokio::task::spawn_local(connection);
            let request = http::Request::post("http://test/").header("x-hold", mode).body(()).unwrap();
            let (_response, mut stream) = send.ready().await.unwrap().send_request(request, end).unwrap();
            rig.gate.until(|gate| gate.waiting.lock().unwrap().is_some()).await;
            stream.send_reset(h2::Reason::CANCEL);
            rig.gate.until(|gate| !gate.seen().is_empty()).await;
            assert_eq!(rig.gate.seen(), ["over, http2.remote_reset"], "{mode} {end}");
        }
    });
}

#[test]
fn a_timeout_ends_the_wait() {
    on_both_sides(async || {
        for mode in ["resume", "wait"] {
            let rig = Rig::start("0.05s").await;
            assert_eq!(body_of(&rig.ask(&get("/", mode)).await).0, "504", "{mode}");
            assert_eq!(rig.gate.seen(), ["over, stream_idle_timeout"], "{mode}");
        }
    });
}

/// The host has it when the filter lets go, whenever the client was done.
#[test]
fn the_timeout_of_the_route_is_that_of_a_request_that_was_held() {
    on_both_sides(async || {
        let rig = Rig::start("60s").await;
        let answer = rig.ask(&post("until end", "hello").replacen("/", "/never", 1)).await;
        assert_eq!(body_of(&answer), ("504", "upstream request timeout"));
        assert_eq!(rig.gate.seen().last().unwrap(), "over, response_timeout");
    });
}

/// What a filter let go of after the head is gone with the stream that it went to.
#[test]
fn a_body_that_was_held_is_not_sent_by_halves() {
    on_worker(async || {
        let before = format!("BEFORE{LATE}");
        let changes = [("PROTOCOL", "http2_protocol_options: {}"), ("BEFORE", before.as_str())];
        let rig = Rig::start_with(&changes, refuse_once).await;
        let request = "POST / HTTP/1.1\r\nhost: test\r\nconnection: close\r\nx-hold: until end\r\n\
                       transfer-encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n";
        let mut client = rig.send(request).await;
        rig.gate.until(|gate| gate.waiting.lock().unwrap().is_some()).await;
        rig.gate.open();
        assert_eq!(
            body_of(&rig.answer(&mut client).await).0,
            "503",
            "the second host got all of it, or nothing"
        );
    });
}

#[test]
fn responses_are_held() {
    on_both_sides(async || {
        let rig = Rig::start("10s").await;
        assert_eq!(body_of(&rig.ask(&post("response until end", "hello")).await), ("200", "hello"));
        assert_eq!(body_of(&rig.ask(&post("response reply", "hello")).await), ("403", "denied"));
        a_held_response(&post("response resume", "direct")).await;
    });
}

#[test]
fn local_replies_are_held() {
    on_worker(async || a_held_response(&get("/direct", "response resume")).await);
}

async fn a_held_response(request: &str) {
    let rig = Rig::start("10s").await;
    let mut client = rig.send(request).await;
    rig.gate.until(|gate| gate.waiting.lock().unwrap().is_some()).await;
    let early = tokio::time::timeout(Duration::from_millis(20), client.readable()).await;
    assert!(early.is_err(), "nothing was sent before the filter let go");
    rig.gate.open();
    assert_eq!(body_of(&rig.answer(&mut client).await), ("200", "direct"));
}
