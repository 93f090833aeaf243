//! Hosts that can be told to go wrong, a proxy before them, and clients that ask it at a steady rate.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use integration::client::Client;
use integration::config::{HttpListener, bootstrap};
use integration::expect::{SOON, eventually};
use integration::http1::head_length;
use integration::process::{Binary, Proxy};
use socket2::{Domain, SockRef, Socket, Type};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};

/// How many hosts there are.
pub(crate) const HOSTS: usize = 5;

/// Clients that share the load; each has one request under way at a time.
const CLIENTS: usize = 25;
/// How long a client waits for its answer: longer than the route does.
const PATIENCE: Duration = Duration::from_secs(20);

const GET: &[u8] = b"GET / HTTP/1.1\r\nhost: t\r\n\r\n";
const OK: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";
const FAILURE: &[u8] = b"HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\n\r\n";
const HALF: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 100000\r\n\r\nhalf of it";

/// What a host does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    /// Answers.
    Well,
    /// Refuses connections, and has reset those that stood.
    Dead,
    /// Takes requests, checks too, and does not answer them.
    Hangs,
    /// Answers after a while.
    Slow(Duration),
    /// Answers checks well, and requests with 503.
    Lies,
    /// Answers requests well, and checks with 503.
    Sick,
    /// Begins an answer to a request, and resets the connection.
    BreaksOff,
}

/// A host, at an address that stays its own.
pub(crate) struct Host {
    addr: SocketAddr,
    mode: watch::Sender<Mode>,
    counts: Arc<Counts>,
    task: JoinHandle<Result<()>>,
}

#[derive(Default)]
struct Counts {
    served: AtomicUsize,
    broken: AtomicUsize,
}

impl Host {
    fn start() -> Result<Self> {
        // Bound and never listened on: the port stays the host's while it refuses connections.
        let place = socket(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)))?;
        let addr = place.local_addr()?.as_socket().context("no IP address")?;
        let (mode, modes) = watch::channel(Mode::Well);
        let counts = Arc::new(Counts::default());
        let first = listen(addr)?;
        let task = tokio::spawn(live(addr, first, modes, counts.clone(), place));
        Ok(Self { addr, mode, counts, task })
    }

    /// Where it is.
    pub(crate) fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Has it do this from now on.
    pub(crate) fn set(&self, mode: Mode) {
        self.mode.send_replace(mode);
    }

    /// Requests that it answered, checks not counted.
    pub(crate) fn served(&self) -> usize {
        self.counts.served.load(Ordering::Relaxed)
    }

    /// Answers that it broke off.
    pub(crate) fn broken(&self) -> usize {
        self.counts.broken.load(Ordering::Relaxed)
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn socket(addr: SocketAddr) -> Result<Socket> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
    socket.set_reuse_address(true)?;
    socket.bind(&addr.into())?;
    Ok(socket)
}

fn listen(addr: SocketAddr) -> Result<TcpListener> {
    let socket = socket(addr)?;
    socket.listen(1024)?;
    socket.set_nonblocking(true)?;
    Ok(TcpListener::from_std(socket.into())?)
}

/// Listens except while it is dead.
async fn live(
    addr: SocketAddr,
    first: TcpListener,
    mut modes: watch::Receiver<Mode>,
    counts: Arc<Counts>,
    _place: Socket,
) -> Result<()> {
    let (mut listener, told) = (Some(first), modes.clone());
    loop {
        let listening = match listener.take() {
            Some(listening) => listening,
            None => listen(addr)?,
        };
        let mut connections = JoinSet::new();
        loop {
            tokio::select! {
                dies = modes.wait_for(|mode| *mode == Mode::Dead) => {
                    dies?;
                    break;
                }
                accepted = listening.accept() => {
                    // an error here is of a connection that is gone already
                    let Ok((stream, _)) = accepted else { continue };
                    connections.spawn(serve(stream, told.clone(), counts.clone()));
                }
                Some(_) = connections.join_next() => {}
            }
        }
        drop(listening);
        // Each sees that the host is dead, and resets its connection.
        while connections.join_next().await.is_some() {}
        modes.wait_for(|mode| *mode != Mode::Dead).await?;
    }
}

/// Serves one connection until the client closes it, or until the host dies.
async fn serve(mut stream: TcpStream, mut modes: watch::Receiver<Mode>, counts: Arc<Counts>) {
    let _ = stream.set_nodelay(true);
    let mut seen = modes.clone();
    let is_reset = tokio::select! {
        _ = modes.wait_for(|mode| *mode == Mode::Dead) => true,
        is_reset = answer(&mut stream, &mut seen, &counts) => is_reset,
    };
    if is_reset {
        let _ = SockRef::from(&stream).set_linger(Some(Duration::ZERO));
    }
}

/// Answers one request after the other; whether the connection is to be reset.
async fn answer(stream: &mut TcpStream, modes: &mut watch::Receiver<Mode>, counts: &Counts) -> bool {
    let mut buffer = Vec::new();
    loop {
        let length = loop {
            if let Some(length) = head_length(&buffer) {
                break length;
            }
            match stream.read_buf(&mut buffer).await {
                Ok(0) | Err(_) => return false,
                Ok(_) => {}
            }
        };
        let is_check = buffer.starts_with(b"GET /health ");
        buffer.drain(..length);
        let mode = *modes.borrow_and_update();
        let answer = match (mode, is_check) {
            (Mode::Hangs, _) => {
                // Not even when it is well again: the request is lost.
                let _ = modes.wait_for(|mode| *mode != Mode::Hangs).await;
                return true;
            }
            (Mode::BreaksOff, false) => {
                counts.broken.fetch_add(1, Ordering::Relaxed);
                let _ = stream.write_all(HALF).await;
                return true;
            }
            (Mode::Slow(pause), false) => {
                tokio::time::sleep(pause).await;
                OK
            }
            (Mode::Lies, false) | (Mode::Sick, true) => FAILURE,
            (Mode::Well | Mode::Dead | Mode::Slow(_) | Mode::Lies | Mode::Sick | Mode::BreaksOff, _) => OK,
        };
        if !is_check && answer == OK {
            counts.served.fetch_add(1, Ordering::Relaxed);
        }
        if stream.write_all(answer).await.is_err() {
            return false;
        }
    }
}

/// Five hosts and a proxy before them.
pub(crate) struct Lab {
    pub(crate) proxy: Proxy,
    pub(crate) hosts: Vec<Host>,
}

impl Lab {
    /// With these fields of the route's action and of the cluster.
    pub(crate) async fn start(action: &str, cluster: &str) -> Result<Self> {
        let hosts = (0..HOSTS).map(|_| Host::start()).collect::<Result<Vec<_>>>()?;
        let endpoints: String = hosts
            .iter()
            .map(|host| {
                let port = host.addr.port();
                format!("      - endpoint: {{address: {{socket_address: {{address: 127.0.0.1, port_value: {port}}}}}}}\n")
            })
            .collect();
        let cluster = format!(
            "- name: up\n  connect_timeout: 1s\n  {cluster}\n  load_assignment:\n    cluster_name: up\n    endpoints:\n    - lb_endpoints:\n{endpoints}"
        );
        let routes =
            format!("- match: {{prefix: /}}\n  route:\n    cluster: up\n    timeout: 15s\n    {action}");
        let listener = HttpListener::new("http", &routes).yaml();
        let proxy = Proxy::start(&Binary::subject()?, &bootstrap(&[listener], &[cluster], "")).await?;
        Ok(Self { proxy, hosts })
    }

    /// So many requests a second, until it is stopped.
    pub(crate) fn load(&self, rate: u32) -> Load {
        let addr = self.proxy.listener("http").ok();
        let done = Arc::new(AtomicBool::new(false));
        let pause = Duration::from_secs(1) * u32::try_from(CLIENTS).unwrap_or(1) / rate;
        let clients = (0..CLIENTS)
            .map(|at| tokio::spawn(ask(addr, pause, pause * at as u32 / CLIENTS as u32, done.clone())));
        Load { clients: clients.collect(), done }
    }

    /// So many requests, one after the other.
    pub(crate) async fn some(&self, count: usize) -> Result<Tally> {
        let addr = self.proxy.listener("http")?;
        let (mut tally, mut kept) = (Tally::default(), None);
        for _ in 0..count {
            tally.note(addr, &mut kept).await;
        }
        Ok(tally)
    }

    /// Waits until a statistic is at least this; how long it took.
    pub(crate) async fn reaches(&self, name: &str, value: usize) -> Result<Duration> {
        self.becomes(name, |is| is >= value as i64).await
    }

    /// Waits until a statistic is at most this; how long it took.
    pub(crate) async fn falls(&self, name: &str, value: usize) -> Result<Duration> {
        self.becomes(name, |is| is <= value as i64).await
    }

    async fn becomes(&self, name: &str, wanted: impl Fn(i64) -> bool) -> Result<Duration> {
        let (start, admin) = (Instant::now(), self.proxy.admin());
        eventually(name, SOON, async || wanted(admin.stat(name).await.ok()?).then_some(())).await?;
        Ok(start.elapsed())
    }

    /// Waits until a host serves under load.
    pub(crate) async fn serves(&self, at: usize) -> Result<()> {
        let before = self.hosts[at].served();
        eventually("requests to the host", SOON, async || (self.hosts[at].served() > before).then_some(()))
            .await
    }

    /// Asks until a host serves.
    pub(crate) async fn serves_while_asked(&self, at: usize) -> Result<()> {
        let before = self.hosts[at].served();
        eventually("requests to the host", SOON, async || {
            self.some(1).await.ok()?;
            (self.hosts[at].served() > before).then_some(())
        })
        .await
    }

    /// What holds after every scenario: the process lives and nothing panicked, nothing is under way, and a good request is answered.
    pub(crate) async fn stands(&mut self) -> Result<()> {
        ensure!(self.proxy.alive() && self.proxy.admin().live().await, "{}", self.proxy.log_tail());
        ensure!(!self.proxy.log().contains("panicked"), "{}", self.proxy.log_tail());
        let admin = self.proxy.admin();
        eventually("the end of all requests", SOON, async || {
            let left = admin.stats("(downstream_rq|upstream_rq|upstream_rq_pending)_active$").await.ok()?;
            // The admin interface counts the request that asks.
            left.iter().all(|(name, value)| *value == 0 || name.starts_with("http.admin.")).then_some(())
        })
        .await?;
        let tally = self.some(1).await?;
        ensure!(tally.failed.is_empty(), "{tally:?}");
        Ok(())
    }
}

/// What clients saw.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    pub(crate) sent: usize,
    /// What became of those that did not go well.
    pub(crate) failed: Vec<String>,
    pub(crate) slowest: Duration,
}

impl Tally {
    /// Sends a request, on a connection that is kept if it can be.
    async fn note(&mut self, addr: SocketAddr, kept: &mut Option<Client>) {
        self.sent += 1;
        let start = Instant::now();
        if let Err(error) = request(addr, kept).await {
            self.failed.push(format!("{error:#}"));
        }
        self.slowest = self.slowest.max(start.elapsed());
    }
}

async fn request(addr: SocketAddr, kept: &mut Option<Client>) -> Result<()> {
    let mut client = match kept.take() {
        Some(client) => client,
        None => Client::connect(addr).await?,
    };
    client.send(GET).await?;
    let response = client.response("GET", PATIENCE).await?;
    ensure!(response.complete, "cut short");
    let status = response.head.status()?;
    if !response.head.connection_says("close") {
        *kept = Some(client);
    }
    ensure!(status == 200, "answered {status}");
    Ok(())
}

/// Clients at work.
pub(crate) struct Load {
    clients: Vec<JoinHandle<Result<Tally>>>,
    done: Arc<AtomicBool>,
}

impl Load {
    /// Ends it; what all clients saw.
    pub(crate) async fn stop(self) -> Result<Tally> {
        self.done.store(true, Ordering::Relaxed);
        let mut sum = Tally::default();
        for client in self.clients {
            let Tally { sent, failed, slowest } = client.await??;
            sum.sent += sent;
            sum.failed.extend(failed);
            sum.slowest = sum.slowest.max(slowest);
        }
        Ok(sum)
    }
}

/// Sends a request each `pause`, the first after `first`; those that are late are made up for.
async fn ask(
    addr: Option<SocketAddr>,
    pause: Duration,
    first: Duration,
    done: Arc<AtomicBool>,
) -> Result<Tally> {
    let addr = addr.context("no listener")?;
    let mut ticks = tokio::time::interval_at((Instant::now() + first).into(), pause);
    let (mut tally, mut kept) = (Tally::default(), None);
    while !done.load(Ordering::Relaxed) {
        ticks.tick().await;
        tally.note(addr, &mut kept).await;
    }
    Ok(tally)
}
