//! A worker on this thread that serves one listener over unix sockets, with an upstream that the target plays itself.
//!
//! Sockets, but no time and no threads: a target writes, lets everything run until nothing moves, and looks at what came.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::io::ErrorKind;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use proxy_core::config::{BuildCx, BuildEnv};
use proxy_core::extension::Extensions;
use proxy_core::stats::{Registry, Value};
use proxy_engine::context::Context;
use proxy_engine::listener::accept::{
    Bound, ConnectionLimit, GlobalConnections, ListenerTag, Listeners, SharedListener,
};
use proxy_engine::listener::config::Listener;
use proxy_engine::local::drain::{DrainStrategy, ProcessDrain};
use proxy_engine::local::timers;
use proxy_engine::router::Routes;
use proxy_engine::state::{Snapshot, Sockets, Store};
use proxy_engine::upstream::pool::Clusters;
use tokio::net::{UnixListener, UnixStream};
use tokio::runtime::Runtime;
use tokio::task::LocalSet;
use xds_api::envoy::config::bootstrap::v3::Bootstrap;
use xds_api::read::{Options, Source, read};

/// So often in a row nothing may happen before all is taken to be quiet.
const QUIET: usize = 24;
/// So often tasks may run before a target is taken to spin.
const BUSY: usize = 100_000;

struct NoSockets;

impl Sockets for NoSockets {
    fn open(&mut self, _: ListenerTag, _: &Listener) -> Result<(), String> {
        Ok(())
    }

    fn share(&mut self, _: ListenerTag, _: ListenerTag, _: &Listener) -> Result<(), String> {
        Ok(())
    }
}

/// The worker. It lives over all inputs; connections and pools do not.
pub struct Rig {
    runtime: Runtime,
    local: LocalSet,
    directory: tempfile::TempDir,
    env: Arc<BuildEnv>,
    snapshot: Snapshot,
    clusters: Rc<Clusters>,
    accepted: Rc<RefCell<VecDeque<UnixStream>>>,
}

/// What a target does with the worker: it connects, it answers.
pub struct Session<'r> {
    rig: &'r Rig,
}

/// One end of a connection, the client's or the upstream's.
#[derive(Debug)]
pub struct Peer {
    stream: UnixStream,
    /// What came.
    pub received: Vec<u8>,
    /// Nothing more will come.
    pub closed: bool,
}

impl Rig {
    /// `hcm` are fields of the connection manager, `cluster` those of the cluster called `up`, in YAML's flow style.
    ///
    /// `/direct` is answered by the proxy with `direct`, everything else goes to the upstream.
    pub fn new(hcm: &str, filters: &str, cluster: &str, extensions: Extensions) -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let upstream_path = directory.path().join("up");
        let text = format!(
            r#"
static_resources:
  clusters:
  - name: up
    connect_timeout: 5s
    type: STATIC
    {cluster}
    load_assignment:
      cluster_name: up
      endpoints: [{{lb_endpoints: [{{endpoint: {{address: {{pipe: {{path: "{up}"}}}}}}}}]}}]
  listeners:
  - name: test
    address: {{pipe: {{path: "{down}"}}}}
    per_connection_buffer_limit_bytes: 1024
    filter_chains:
    - filters:
      - name: hcm
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: test
          delayed_close_timeout: 0s
          {hcm}
          http_filters:
          {filters}
          - name: router
            typed_config: {{"@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}}
          route_config:
            virtual_hosts:
            - name: all
              domains: ["*"]
              routes:
              - {{match: {{path: /direct}}, direct_response: {{status: 200, body: {{inline_string: direct}}}}}}
              - {{match: {{connect_matcher: {{}}}}, route: {{cluster: up, timeout: 0s}}}}
              - {{match: {{prefix: /}}, route: {{cluster: up, timeout: 0s}}}}
"#,
            up = upstream_path.display(),
            down = directory.path().join("down").display(),
        );
        let env = Arc::new(BuildEnv { extensions, ..super::env() });
        let source = Source::yaml("rig", text.as_bytes());
        let mut bootstrap = read::<Bootstrap>(&source, &Options::default())
            .unwrap_or_else(|errors| panic!("{errors:?}"))
            .message;
        let mut store = Store::new(env.clone());
        let listener = bootstrap.static_resources.as_ref().expect("has some").listeners[0].clone();
        store.load(&mut bootstrap).unwrap_or_else(|errors| panic!("{errors:?}"));
        store.start(&mut NoSockets).expect("nothing to bind");
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .event_interval(1)
            .build()
            .expect("a runtime");
        let rig = Self {
            runtime,
            local: LocalSet::new(),
            snapshot: store.snapshot(),
            clusters: Rc::default(),
            accepted: Rc::default(),
            env,
            directory,
        };
        rig.start(&listener, &upstream_path);
        rig
    }

    fn start(&self, proto: &xds_api::envoy::config::listener::v3::Listener, upstream: &std::path::Path) {
        let mut cx = BuildCx::new(&self.env);
        let Ok(config) = Listener::build(proto, &mut cx) else { panic!("{:?}", cx.into_errors()) };
        let context = Context {
            env: self.env.clone(),
            clusters: self.clusters.clone(),
            routes: Rc::new(Routes::default()),
            drain: Arc::new(ProcessDrain::new(Duration::from_secs(1), DrainStrategy::Immediate)),
            overload: None,
            random: RefCell::new(fastrand::Rng::with_seed(1)),
        };
        let limit = GlobalConnections::new(ConnectionLimit::Runtime(Arc::default()));
        let listeners = Listeners::new(Rc::new(context), 0, limit, Box::new(|_, _, _| {}));
        let accepted = self.accepted.clone();
        let down = self.directory.path().join("down");
        let start = async {
            let socket = std::os::unix::net::UnixListener::bind(down).expect("a socket");
            socket.set_nonblocking(true).expect("a socket");
            listeners.add(
                1,
                config,
                SharedListener::new(1, "test", &Arc::default()),
                vec![Bound::Unix(socket)],
            );
            tokio::task::spawn_local(timers::drive());
            let upstream = UnixListener::bind(upstream).expect("a socket");
            tokio::task::spawn_local(async move {
                // The listeners live as long as the thread.
                let _listeners = listeners;
                while let Ok((stream, _)) = upstream.accept().await {
                    accepted.borrow_mut().push_back(stream);
                }
            });
        };
        self.local.block_on(&self.runtime, start);
    }

    /// Runs one input: afterwards nothing may be open that it opened.
    pub fn run<T>(&self, input: impl AsyncFnOnce(&Session<'_>) -> T) -> T {
        self.clusters.install(&self.snapshot.clusters);
        let result = self.local.block_on(&self.runtime, async {
            let session = Session { rig: self };
            let result = input(&session).await;
            self.accepted.borrow_mut().clear();
            session.settle(&mut []).await;
            self.clusters.install(&[]);
            session.settle(&mut []).await;
            result
        });
        self.check_gauges();
        result
    }

    /// Whatever happened: what is over is counted as over.
    fn check_gauges(&self) {
        const ACTIVE: [&str; 7] = [
            "downstream_cx_active",
            "downstream_rq_active",
            "downstream_cx_http1_active",
            "downstream_cx_http2_active",
            "upstream_cx_active",
            "upstream_rq_active",
            "upstream_rq_pending_active",
        ];
        let registry: &Registry = &self.env.stats;
        registry.visit(&mut |metric| {
            if let Value::Gauge(value) = metric.value
                && ACTIVE.iter().any(|name| metric.name.ends_with(name))
            {
                assert_eq!(value, 0, "{} is left", metric.name);
            }
        });
    }
}

impl Session<'_> {
    /// A client that connects.
    pub async fn connect(&self) -> Peer {
        let stream = UnixStream::connect(self.rig.directory.path().join("down")).await.expect("is listening");
        Peer::new(stream)
    }

    /// A connection that the proxy made to the upstream, if there is one more.
    pub fn accept(&self) -> Option<Peer> {
        self.rig.accepted.borrow_mut().pop_front().map(Peer::new)
    }

    /// Whether the proxy made a connection that was not taken yet.
    pub fn is_waiting(&self) -> bool {
        !self.rig.accepted.borrow().is_empty()
    }

    /// Lets everything run until nothing moves; what comes to `peers` is read.
    pub async fn settle(&self, peers: &mut [&mut Peer]) {
        let (mut quiet, mut turns) = (0, 0);
        let mut waiting = self.rig.accepted.borrow().len();
        while quiet < QUIET {
            tokio::task::yield_now().await;
            quiet += 1;
            turns += 1;
            assert!(turns < BUSY, "never quiet");
            for peer in peers.iter_mut() {
                if peer.read() {
                    quiet = 0;
                }
            }
            let now = self.rig.accepted.borrow().len();
            if now != waiting {
                (quiet, waiting) = (0, now);
            }
        }
    }
}

impl Peer {
    fn new(stream: UnixStream) -> Self {
        Self { stream, received: Vec::new(), closed: false }
    }

    /// Sends what the socket takes at once; a target is too small to fill it.
    pub fn write(&self, bytes: &[u8]) {
        let mut rest = bytes;
        while !rest.is_empty() {
            match self.stream.try_write(rest) {
                Ok(count) => rest = &rest[count..],
                Err(_) => return,
            }
        }
    }

    /// Whether anything came.
    fn read(&mut self) -> bool {
        let before = (self.received.len(), self.closed);
        while !self.closed {
            match self.stream.try_read_buf(&mut self.received) {
                Ok(0) => self.closed = true,
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(_) => self.closed = true,
            }
        }
        before != (self.received.len(), self.closed)
    }
}

/// Cuts `bytes` at the places that `cuts` says, each a length.
pub fn pieces<'b>(bytes: &'b [u8], cuts: &[u8]) -> Vec<&'b [u8]> {
    let mut pieces = Vec::new();
    let mut rest = bytes;
    for cut in cuts {
        let (piece, after) = rest.split_at(usize::from(*cut).min(rest.len()));
        pieces.push(piece);
        rest = after;
    }
    pieces.push(rest);
    pieces.retain(|piece| !piece.is_empty());
    pieces
}
