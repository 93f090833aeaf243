//! One proxy, one upstream, and the rule that holds after every scenario.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use integration::client::Client;
use integration::config::{HttpListener, bootstrap, cluster, fill, port};
use integration::cost::Meter;
use integration::expect::{SOON, eventually};
use integration::process::{Binary, Proxy};
use integration::upstream::{Received, Reply, Step, Upstream};
use tokio::sync::oneshot;

/// How fast the next good request must be answered.
const PROMPT: Duration = Duration::from_millis(100);
/// How long memory and gauges may take to come back.
const AFTERWARDS: Duration = Duration::from_secs(30);
/// Gauges of what is under way.
const UNDER_WAY: &str = "(downstream_cx|downstream_rq|downstream_pre_cx|downstream_cx_http1|downstream_cx_http2|downstream_cx_upgrades|upstream_cx|upstream_rq|upstream_rq_pending|streams)_active$";

/// How many connections with a request each are ordinary.
const WARM: usize = 200;
const HELLO: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello";

/// The size of a scenario: small enough for every day, or with `FULL=1` that of the list of scenarios.
pub(crate) fn size(quick: usize, full: usize) -> usize {
    if std::env::var_os("FULL").is_some_and(|value| value == "1") { full } else { quick }
}

/// A thread with a runtime of its own: what servers do there is not the client's work.
pub(crate) struct Apart {
    runtime: tokio::runtime::Handle,
    _alive: oneshot::Sender<()>,
}

impl Apart {
    pub(crate) fn new() -> Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let handle = runtime.handle().clone();
        let (alive, ended) = oneshot::channel::<()>();
        std::thread::spawn(move || runtime.block_on(async { ended.await.is_err() }));
        Ok(Self { runtime: handle, _alive: alive })
    }

    pub(crate) async fn run<T: Send + 'static>(
        &self,
        future: impl Future<Output = T> + Send + 'static,
    ) -> Result<T> {
        Ok(self.runtime.spawn(future).await?)
    }
}

/// What a rig is made of.
#[derive(Default)]
pub(crate) struct Setup {
    listeners: Vec<String>,
    clusters: Vec<String>,
    rest: String,
    words: Vec<&'static str>,
    binary: Option<Binary>,
}

impl Setup {
    /// With the listener `http`, which sends everything to the cluster `up`.
    pub(crate) fn http(options: &str) -> Self {
        Self::of(HttpListener::to_up("http").options(options))
    }

    /// With one listener, which has to be called `http`.
    pub(crate) fn of(listener: HttpListener) -> Self {
        Self { listeners: vec![listener.yaml()], ..Self::default() }
    }

    /// A further listener.
    pub(crate) fn listener(mut self, yaml: String) -> Self {
        self.listeners.push(yaml);
        self
    }

    /// A further cluster; without one called `up` there is the usual one.
    pub(crate) fn cluster(mut self, yaml: String) -> Self {
        self.clusters.push(yaml);
        self
    }

    /// Further fields of the bootstrap.
    pub(crate) fn rest(mut self, yaml: &str) -> Self {
        self.rest.push_str(yaml);
        self
    }

    /// Further words of the command line.
    pub(crate) fn words(mut self, words: &[&'static str]) -> Self {
        self.words.extend(words);
        self
    }

    /// Another program than the usual one.
    pub(crate) fn binary(mut self, binary: Binary) -> Self {
        self.binary = Some(binary);
        self
    }

    /// Starts upstream and proxy, and the measurement.
    pub(crate) async fn start(mut self) -> Result<Rig> {
        let apart = Apart::new()?;
        let upstream = apart.run(Upstream::start()).await??;
        if !self.clusters.iter().any(|yaml| yaml.starts_with("- name: up\n")) {
            self.clusters.push(cluster("up", "up", ""));
        }
        let yaml = bootstrap(&self.listeners, &self.clusters, &self.rest);
        let yaml = fill(&yaml, [("up", port(upstream.addr()))]);
        let binary = self.binary.map_or_else(Binary::subject, Ok)?;
        let proxy = Proxy::start_with(&binary, &yaml, &self.words).await?;
        Rig::new(proxy, upstream, apart).await
    }
}

/// A proxy with an upstream, under measurement.
pub(crate) struct Rig {
    pub(crate) proxy: Proxy,
    pub(crate) upstream: Upstream,
    pub(crate) meter: Meter,
    pub(crate) apart: Apart,
    resident: u64,
    addr: SocketAddr,
    /// Gauges that stay: of connections that are not the scenario's.
    pub(crate) standing: Option<&'static str>,
    /// Whether what is sent is to be held against what it costs.
    pub(crate) measured: bool,
    /// Whether it is to panic.
    pub(crate) panics: bool,
}

impl Rig {
    /// Takes over what runs, has it do some ordinary work, and begins to measure.
    pub(crate) async fn new(proxy: Proxy, upstream: Upstream, apart: Apart) -> Result<Self> {
        let addr = proxy.listener("http")?;
        warm(addr, &upstream).await?;
        let rig = Self::after(proxy, upstream, apart)?;
        // also what the pool kept is closed
        eventually("no upstream connections", SOON, async || {
            let left = rig.proxy.admin().stats("upstream_cx_active$").await.ok()?;
            left.iter().all(|(name, value)| *value == 0 || name.starts_with("cluster.m.")).then_some(())
        })
        .await?;
        Self::after(rig.proxy, rig.upstream, rig.apart)
    }

    /// Takes over what has worked already.
    pub(crate) fn after(proxy: Proxy, upstream: Upstream, apart: Apart) -> Result<Self> {
        let addr = proxy.listener("http")?;
        let meter = Meter::start(proxy.pid())?;
        let resident = proxy.resident_kib()?;
        Ok(Self {
            proxy,
            upstream,
            meter,
            apart,
            resident,
            addr,
            standing: None,
            measured: true,
            panics: false,
        })
    }

    /// Where the listener under attack is.
    pub(crate) fn addr(&self) -> Result<SocketAddr> {
        Ok(self.addr)
    }

    /// The listener under attack is elsewhere now.
    pub(crate) fn moved_to(&mut self, addr: SocketAddr) {
        self.addr = addr;
    }

    /// What memory is to come back to, in KiB.
    pub(crate) fn resident_was(&mut self, resident: u64) {
        self.resident = resident;
    }

    /// A connection to it.
    pub(crate) async fn connect(&mut self) -> Result<Client> {
        self.meter.connected(1);
        Client::connect(self.addr()?).await
    }

    /// Many connections to it.
    pub(crate) async fn connect_many(&mut self, count: usize) -> Result<Vec<Client>> {
        let mut clients = Vec::with_capacity(count);
        for _ in 0..count {
            clients.push(self.connect().await?);
        }
        Ok(clients)
    }

    /// Sends bytes, and counts them.
    pub(crate) async fn send(&mut self, client: &mut Client, bytes: &[u8]) -> Result<()> {
        self.meter.sent(bytes.len());
        client.send(bytes).await
    }

    /// Waits until a statistic is at least that high.
    pub(crate) async fn reaches(&self, name: &str, value: i64) -> Result<()> {
        let admin = self.proxy.admin();
        let mut last = None;
        let what = format!("{name} >= {value}");
        let reached = eventually(&what, AFTERWARDS, async || {
            last = admin.stat(name).await.ok();
            (last? >= value).then_some(())
        });
        reached.await.with_context(|| format!("it is {last:?}"))
    }

    /// What the upstream received but for good requests.
    pub(crate) fn received(&self) -> Vec<Received> {
        let mut received = self.upstream.received();
        received.retain(|request| !request.line.contains(" /good "));
        received
    }

    /// Waits until the upstream has that many requests, complete or not; fails if there are more.
    pub(crate) async fn upstream_has(&self, count: usize) -> Result<()> {
        let what = format!("{count} requests at the upstream");
        eventually(&what, SOON, async || (self.received().len() >= count).then_some(())).await?;
        let seen = self.received().len();
        ensure!(seen == count, "{seen} requests at the upstream, {count} intended");
        Ok(())
    }

    /// That a good request is answered at once, while the scenario goes on.
    pub(crate) async fn serves(&self) -> Result<()> {
        let addr = self.addr()?;
        let mut best = Duration::MAX;
        // the machine may be busy: the best of a few counts
        for _ in 0..10 {
            best = best.min(good_request(addr).await?);
            if best < PROMPT {
                return Ok(());
            }
        }
        anyhow::bail!("a good request took {best:?}")
    }

    /// The rule: what was spent is within the bar; the process lives and says so, its log tells of no panic, a good request on a
    /// new connection is answered at once, what was under way is over, and memory comes back.
    pub(crate) async fn passes(mut self, name: &str) -> Result<()> {
        let cost = self.meter.read()?;
        if self.measured {
            cost.record(name)?;
            cost.check()?;
        }
        self.stands().await.with_context(|| format!("{name}\n{}", self.proxy.log_tail()))
    }

    /// [`Rig::passes`] but for the cost.
    pub(crate) async fn stands(&mut self) -> Result<()> {
        ensure!(self.proxy.alive(), "the process died");
        let log = self.proxy.log();
        ensure!(log.contains("panicked") == self.panics, "panicked: {}", !self.panics);
        ensure!(self.upstream.malformed().is_empty(), "upstream got {:?}", self.upstream.malformed());
        self.serves().await?;
        ensure!(self.proxy.admin().live().await, "/ready does not say LIVE");
        // what the pool keeps is the upstream's to close
        let mut left = Vec::new();
        let over = eventually("what was under way over", AFTERWARDS, async || {
            self.upstream.forget();
            left = self.under_way().await.ok()?;
            left.is_empty().then_some(())
        });
        over.await.with_context(|| format!("{left:?}"))?;
        let bar = self.resident + self.resident / 10;
        let mut resident = 0;
        let back = eventually("memory back", AFTERWARDS, async || {
            // an idle process has nothing to give memory back at: something must happen
            good_request(self.addr().ok()?).await.ok()?;
            resident = self.proxy.resident_kib().ok()?;
            (resident <= bar).then_some(())
        });
        back.await.with_context(|| format!("{resident} KiB, {} KiB before", self.resident))?;
        ensure!(self.proxy.alive(), "the process died");
        Ok(())
    }

    async fn under_way(&self) -> Result<Vec<(String, i64)>> {
        let stats = self.proxy.admin().stats(UNDER_WAY).await?;
        let is_ours = |name: &str| {
            !name.contains("admin") && !self.standing.is_some_and(|standing| name.starts_with(standing))
        };
        Ok(stats.into_iter().filter(|(name, value)| *value != 0 && is_ours(name)).collect())
    }
}

/// Ordinary work, so that what the proxy keeps for reuse is there before anything is measured.
async fn warm(addr: SocketAddr, upstream: &Upstream) -> Result<()> {
    let slowly = [Step::Pause(Duration::from_millis(50)), Step::Send(HELLO.to_vec())];
    upstream.script(std::iter::repeat_n(Reply::steps(slowly), WARM));
    let mut clients = Vec::new();
    for _ in 0..WARM {
        // whoever does not get through, where packets are lost, is one less
        let Ok(mut client) = Client::connect(addr).await else { continue };
        client.send(b"GET / HTTP/1.1\r\nhost: t\r\n\r\n").await?;
        clients.push(client);
    }
    for client in &mut clients {
        // whatever it is: under the short timeouts of a scenario and on a busy machine it may be late
        let _ = client.response("GET", SOON).await;
    }
    upstream.forget();
    Ok(())
}

/// How long a good request on a new connection took.
pub(crate) async fn good_request(addr: SocketAddr) -> Result<Duration> {
    let start = Instant::now();
    let mut client = Client::connect(addr).await?;
    client.send(b"GET /good HTTP/1.1\r\nhost: t\r\nconnection: close\r\n\r\n").await?;
    let response = client.response("GET", SOON).await?;
    ensure!(response.head.status()? == 200, "a good request got {:?}", response.head);
    Ok(start.elapsed())
}
