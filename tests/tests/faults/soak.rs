//! A mixed load for a long time (S1): HTTP/1, HTTP/2, calls with messages both ways, WebSockets, a change by the control plane each
//! second, and upstreams that are killed now and then.
//!
//! `SOAK_MINUTES` says how long (`make soak`: 20; here a minute). Nothing fails but what the kills explain; memory and
//! descriptors stay; latency at the end is what it was at the beginning.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use bytes::Bytes;
use integration::client::{Client, H2Client};
use integration::expect::SOON;
use integration::process::Proxy;
use integration::upstream::h2::H2Upstream;
use integration::upstream::{Reply, Step, Upstream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{interval, sleep};
use xds::fake::{ManagementServer, Served};
use xds_api::envoy::config::cluster::v3::Cluster;
use xds_api::envoy::config::route::v3::RouteConfiguration;

use crate::management::{
    ADS, ANY_PORT, CDS, EDS, LDS, RDS, binary, bootstrap, cluster, endpoints, http_chain, listener_with, rds,
    served, socket, static_cluster,
};
use crate::rig::{Apart, Rig};

/// Between two requests of one client.
const PAUSE: Duration = Duration::from_millis(2);
/// Between two kills of an upstream's connections.
const KILLS: Duration = Duration::from_secs(5);
/// How long after a kill a failure may still come of it.
const AFTERMATH: Duration = Duration::from_secs(1);

#[derive(Default)]
struct Notes {
    /// When each request ended, and how long it took.
    answered: Vec<(Instant, Duration)>,
    failed: Vec<(Instant, String)>,
    kills: Vec<Instant>,
}

type Shared = Arc<Mutex<Notes>>;

fn lock(notes: &Shared) -> MutexGuard<'_, Notes> {
    notes.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Somebody who talks to the proxy, and connects again when that failed.
trait Talker: Sized + Send {
    fn connect(addr: SocketAddr) -> impl Future<Output = Result<Self>> + Send;
    fn talk(&mut self) -> impl Future<Output = Result<()>> + Send;
}

struct Http1(Client);

impl Talker for Http1 {
    async fn connect(addr: SocketAddr) -> Result<Self> {
        Ok(Self(Client::connect(addr).await?))
    }

    async fn talk(&mut self) -> Result<()> {
        let request =
            b"POST /one HTTP/1.1\r\nhost: t\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n";
        self.0.send(request).await?;
        let response = self.0.response("POST", SOON).await?;
        ensure!(response.head.status()? == 200 && response.complete, "{:?}", response.head);
        ensure!(!response.head.connection_says("close"), "closed");
        Ok(())
    }
}

struct Http2(H2Client);

impl Talker for Http2 {
    async fn connect(addr: SocketAddr) -> Result<Self> {
        Ok(Self(H2Client::connect(addr).await?))
    }

    async fn talk(&mut self) -> Result<()> {
        let response = self.0.request(http::Request::get("http://t/one").body(Bytes::new())?, None).await?;
        ensure!(response.status == 200 && response.cut.is_none(), "{response:?}");
        Ok(())
    }
}

/// Calls as gRPC makes them: messages, trailers, over HTTP/2 all the way.
struct Calls(H2Client);

impl Talker for Calls {
    async fn connect(addr: SocketAddr) -> Result<Self> {
        Ok(Self(H2Client::connect(addr).await?))
    }

    async fn talk(&mut self) -> Result<()> {
        let request = http::Request::post("http://t/call")
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            .body(Bytes::from(vec![0; 20_000]))?;
        let mut trailers = http::HeaderMap::new();
        trailers.insert("x-checksum", http::HeaderValue::from_static("1"));
        let response = self.0.request(request, Some(trailers)).await?;
        ensure!(
            response.status == 200 && response.body == b"hello" && response.cut.is_none(),
            "{response:?}"
        );
        ensure!(!response.fields.iter().any(|(name, _)| name == "grpc-status"), "{response:?}");
        Ok(())
    }
}

struct WebSocket(Client);

impl Talker for WebSocket {
    async fn connect(addr: SocketAddr) -> Result<Self> {
        let mut client = Client::connect(addr).await?;
        client
            .send(b"GET /ws HTTP/1.1\r\nhost: t\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n")
            .await?;
        let response = client.response("GET", SOON).await?;
        ensure!(response.head.status()? == 101, "{:?}", response.head);
        Ok(Self(client))
    }

    async fn talk(&mut self) -> Result<()> {
        self.0.send(b"message").await?;
        let echoed = self.0.at_least(7, SOON).await?;
        ensure!(echoed == b"message", "{echoed:?}");
        Ok(())
    }
}

async fn run<T: Talker>(addr: SocketAddr, notes: Shared, done: watch::Receiver<bool>) {
    let mut talker: Option<T> = None;
    while !*done.borrow() {
        let start = Instant::now();
        let talked = async {
            let mut there = match talker.take() {
                Some(talker) => talker,
                None => T::connect(addr).await.context("connecting")?,
            };
            there.talk().await?;
            anyhow::Ok(there)
        };
        match talked.await {
            Ok(there) => {
                talker = Some(there);
                lock(&notes).answered.push((Instant::now(), start.elapsed()));
            }
            Err(error) => lock(&notes).failed.push((Instant::now(), format!("{error:#}"))),
        }
        sleep(PAUSE).await;
    }
}

struct Upstreams {
    plain: Upstream,
    others: [Upstream; 2],
    sockets: Upstream,
    calls: H2Upstream,
}

impl Upstreams {
    async fn start(plain: Upstream) -> Result<Self> {
        let others = [Upstream::start().await?, Upstream::start().await?];
        let all =
            Self { plain, others, sockets: Upstream::start().await?, calls: H2Upstream::start().await? };
        all.answer();
        Ok(all)
    }

    fn answer(&self) {
        for upstream in self.others.iter().chain([&self.plain]) {
            upstream.answer(Reply::ok());
        }
        let switch = b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n";
        self.sockets.answer(Reply::steps([Step::Send(switch.to_vec()), Step::Echo]));
    }

    /// One of them loses its connections, in turn.
    fn kill(&self, n: usize) {
        match n % 4 {
            0 => self.plain.forget(),
            1 => self.others[n / 4 % 2].forget(),
            2 => self.sockets.forget(),
            _ => self.calls.forget(),
        }
        self.answer();
    }

    /// The hosts of the cluster `c` after that many changes.
    fn hosts(&self, n: usize) -> [SocketAddr; 2] {
        let all = [self.plain.addr(), self.others[0].addr(), self.others[1].addr()];
        [all[n % 3], all[(n + 1) % 3]]
    }
}

fn routes(mark: usize) -> Result<Served> {
    served::<RouteConfiguration>(&format!(
        "{{name: r, response_headers_to_add: [{{header: {{key: x-mark, value: '{mark}'}}}}], virtual_hosts: [{{name: v, domains: ['*'], routes: [{{match: {{prefix: /ws}}, route: {{cluster: ws}}}}, {{match: {{prefix: /call}}, route: {{cluster: calls}}}}, {{match: {{prefix: /}}, route: {{cluster: c}}}}]}}]}}"
    ))
}

fn clusters(all: &Upstreams, n: usize) -> Result<Vec<Served>> {
    let two = format!(
        "{{name: calls, connect_timeout: 1s, type: STATIC, load_assignment: {{cluster_name: calls, endpoints: [{{lb_endpoints: [{{endpoint: {{address: {}}}}}]}}]}}, typed_extension_protocol_options: {{envoy.extensions.upstreams.http.v3.HttpProtocolOptions: {{'@type': type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions, explicit_http_config: {{http2_protocol_options: {{}}}}}}}}}}",
        socket(all.calls.addr())
    );
    let mut clusters =
        vec![cluster("c")?, static_cluster("ws", all.sockets.addr())?, served::<Cluster>(&two)?];
    for beside in 0..n % 5 {
        clusters.push(static_cluster(&format!("beside-{beside}"), all.plain.addr())?);
    }
    Ok(clusters)
}

fn change(management: &ManagementServer, all: &Upstreams, n: usize) -> Result<()> {
    let version = n.to_string();
    match n % 3 {
        0 => management.set(&RDS, &version, [routes(n)?]),
        1 => management.set(&EDS, &version, [endpoints("c", &all.hosts(n))?]),
        _ => management.set(&CDS, &version, clusters(all, n)?),
    }
    Ok(())
}

/// What was looked at once a second.
struct Look {
    resident: u64,
    descriptors: usize,
}

fn look(proxy: &Proxy) -> Result<Look> {
    let descriptors = std::fs::read_dir(format!("/proc/{}/fd", proxy.pid()))?.count();
    Ok(Look { resident: proxy.resident_kib()?, descriptors })
}

fn average(looks: &[Look], of: impl Fn(&Look) -> f64) -> f64 {
    looks.iter().map(of).sum::<f64>() / looks.len().max(1) as f64
}

fn p99(answered: &[(Instant, Duration)]) -> Duration {
    let mut taken: Vec<Duration> = answered.iter().map(|(_, took)| *took).collect();
    taken.sort();
    taken.get(taken.len() * 99 / 100).copied().unwrap_or_default()
}

fn say(text: &str) {
    use std::io::Write;
    let _ = writeln!(std::io::stderr(), "{text}");
}

/// Judges what was noted: prints the figures, then fails for what is wrong with them.
fn judge(notes: &Notes, looks: &[Look], length: Duration) -> Result<()> {
    // the first fifth warms up
    let fifth = looks.len() / 5;
    let (early, late) = (&looks[fifth..2 * fifth], &looks[looks.len() - fifth..]);
    let resident = |looks: &[Look]| average(looks, |look| look.resident as f64 / 1024.0);
    let descriptors = |looks: &[Look]| average(looks, |look| look.descriptors as f64);
    let hours = length.as_secs_f64() * 0.7 / 3600.0;
    let slope = (resident(late) - resident(early)) / hours;
    let count = notes.answered.len();
    let (first, last) =
        (p99(&notes.answered[count / 5..2 * count / 5]), p99(&notes.answered[4 * count / 5..]));
    say(&format!(
        "soak of {} s: {count} requests answered, {} failed after {} kills; memory {:.1} MiB early, {:.1} MiB late ({slope:.1} MiB/h); descriptors {:.0} early, {:.0} late; p99 {:.1} ms early, {:.1} ms late",
        length.as_secs(),
        notes.failed.len(),
        notes.kills.len(),
        resident(early),
        resident(late),
        descriptors(early),
        descriptors(late),
        first.as_secs_f64() * 1e3,
        last.as_secs_f64() * 1e3,
    ));
    let is_injected =
        |at: &Instant| notes.kills.iter().any(|kill| at >= kill && at.duration_since(*kill) < AFTERMATH);
    if let Some((at, error)) = notes.failed.iter().find(|(at, _)| !is_injected(at)) {
        let before = notes.kills.iter().rposition(|kill| kill <= at);
        let after =
            before.map(|n| format!("{:?} after kill {n} (of upstream {})", *at - notes.kills[n], n % 4));
        let slowest = notes.answered.iter().map(|(_, took)| *took).max().unwrap_or_default();
        bail!(
            "failed {after:?} although nothing was killed, the slowest answer having taken {slowest:?}: {error}"
        );
    }
    let most = notes.kills.len() * CLIENTS;
    ensure!(notes.failed.len() <= most, "{} failures, {most} at most to be expected", notes.failed.len());
    ensure!(resident(late) < resident(early) * 1.05 + 2.0, "memory grows: {slope:.1} MiB/h");
    ensure!(descriptors(late) < descriptors(early) + 10.0, "descriptors grow");
    // on a machine with other work some milliseconds are nobody's fault
    ensure!(
        last < first.mul_f64(1.2) + Duration::from_millis(10),
        "p99 {last:?} at the end, {first:?} at first"
    );
    Ok(())
}

/// How many talk at once.
const CLIENTS: usize = 10;

#[tokio::test]
async fn s01_soak() -> Result<()> {
    let minutes: f64 = std::env::var("SOAK_MINUTES").map_or(Ok(1.0), |text| text.parse())?;
    let length = Duration::from_secs_f64(minutes * 60.0);
    let apart = Apart::new()?;
    let management = apart.run(ManagementServer::start()).await??;
    let plain = apart.run(Upstream::start()).await??;
    let all = apart.run(Upstreams::start(plain)).await??;
    management.set(&CDS, "0", clusters(&all, 0)?);
    management.set(&EDS, "0", [endpoints("c", &all.hosts(0))?]);
    let manager = format!("{}\n      upgrade_configs: [{{upgrade_type: websocket}}]", rds("r", ADS));
    management.set(&LDS, "0", [listener_with("http", ANY_PORT, &http_chain("p", &manager))?]);
    management.set(&RDS, "0", [routes(0)?]);
    let proxy = Proxy::start(&binary()?, &bootstrap(management.address(), "DELTA_GRPC")).await?;
    let addr = proxy.listener("http")?;
    let notes = Shared::default();
    let done = watch::Sender::new(false);
    let mut clients = JoinSet::new();
    for _ in 0..4 {
        clients.spawn(run::<Http1>(addr, notes.clone(), done.subscribe()));
    }
    for _ in 0..2 {
        clients.spawn(run::<Http2>(addr, notes.clone(), done.subscribe()));
        clients.spawn(run::<Calls>(addr, notes.clone(), done.subscribe()));
        clients.spawn(run::<WebSocket>(addr, notes.clone(), done.subscribe()));
    }
    let start = Instant::now();
    let mut looks = Vec::new();
    let mut second = interval(Duration::from_secs(1));
    let mut killed = Instant::now();
    while start.elapsed() < length {
        second.tick().await;
        change(&management, &all, looks.len() + 1)?;
        if killed.elapsed() >= KILLS {
            killed = Instant::now();
            let n = lock(&notes).kills.len();
            lock(&notes).kills.push(killed);
            all.kill(n);
        }
        looks.push(look(&proxy)?);
    }
    done.send_replace(true);
    while clients.join_next().await.is_some() {}
    judge(&lock(&notes), &looks, length)?;
    let Upstreams { plain, .. } = all;
    let mut rig = Rig::after(proxy, plain, apart)?;
    rig.standing = Some("cluster.");
    rig.stands().await
}
