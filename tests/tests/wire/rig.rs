//! One proxy, one upstream, and what must hold after every case.

use std::fmt::Write;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use integration::client::Client;
use integration::config::{HttpListener, bootstrap, cluster, fill, port};
use integration::cost::Meter;
use integration::expect::{SOON, eventually};
use integration::process::{Binary, Kind, Proxy};
use integration::upstream::Upstream;

/// How long silence must last to count as the end.
pub(crate) const QUIET: Duration = Duration::from_millis(100);

/// How fast the next good request must be answered.
const PROMPT: Duration = Duration::from_millis(100);

const ROUTES: &str = r#"
- match: {prefix: /short}
  route: {cluster: up, timeout: 0.4s}
- match: {prefix: /}
  route: {cluster: up}
  request_headers_to_add: [{header: {key: x-source, value: "%DOWNSTREAM_REMOTE_ADDRESS%"}}]
"#;

const PROXY_PROTOCOL: &str = r#"listener_filters:
- name: envoy.filters.listener.proxy_protocol
  typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.listener.proxy_protocol.v3.ProxyProtocol}
listener_filters_timeout: 0.3s
"#;

pub(crate) struct Rig {
    proxy: Proxy,
    pub(crate) upstream: Upstream,
    /// What the case under way costs.
    pub(crate) meter: Meter,
    failures: String,
    cases: usize,
}

impl Rig {
    pub(crate) async fn start() -> Result<Self> {
        let binary = Binary::subject()?;
        let upstream = Upstream::start().await?;
        let listeners = [
            HttpListener::new("plain", ROUTES).yaml(),
            HttpListener::new("proxied", ROUTES).listener(PROXY_PROTOCOL).yaml(),
        ];
        let text = bootstrap(&listeners, &[cluster("up", "up", "")], "");
        let proxy = Proxy::start(&binary, &fill(&text, [("up", port(upstream.addr()))])).await?;
        let meter = Meter::start(proxy.pid())?;
        let mut rig = Self { proxy, upstream, meter, failures: String::new(), cases: 0 };
        // the first request has the process's code read and its first memory laid out, which is no cost of a case
        rig.rest().await?;
        Ok(rig)
    }

    pub(crate) fn kind(&self) -> Kind {
        self.proxy.kind()
    }

    pub(crate) fn listener(&self, name: &str) -> Result<SocketAddr> {
        self.proxy.listener(name)
    }

    /// Prints what a case showed, if asked to.
    pub(crate) fn show(&self, name: &str, seen: &str) {
        if std::env::var_os("SHOW").is_some() {
            use std::io::Write;
            let _ = writeln!(std::io::stderr(), "{name}: {seen}");
        }
    }

    pub(crate) fn fail(&mut self, name: &str, text: &str) {
        let _ = writeln!(self.failures, "{name}: {text}");
    }

    /// What must hold after every case; then everything is forgotten.
    pub(crate) async fn aftermath(&mut self, name: &str) -> Result<()> {
        self.cases += 1;
        let cost = self.meter.read()?;
        cost.record(&format!("wire {name}"))?;
        if let Err(error) = cost.check() {
            self.fail(name, &format!("{error:#}"));
        }
        for text in self.upstream.malformed() {
            self.fail(name, &format!("the upstream could not read: {text}"));
        }
        self.upstream.forget();
        ensure!(self.proxy.alive(), "{name}: the process died\n{}\n{}", self.proxy.log_tail(), self.failures);
        if !self.proxy.admin().live().await {
            self.fail(name, "/ready does not say LIVE");
        }
        self.no_upstream_connections().await?;
        // the machine may be busy: the best of three counts
        let mut best = Duration::MAX;
        for _ in 0..3 {
            best = best.min(self.good_request().await?);
            if best < PROMPT {
                break;
            }
        }
        if best >= PROMPT {
            self.fail(name, &format!("the next good request took {best:?}"));
        }
        self.forget().await
    }

    /// A good request, whose traces go.
    async fn rest(&mut self) -> Result<()> {
        self.good_request().await?;
        self.forget().await
    }

    /// Forgets what the upstream saw, and measures anew.
    async fn forget(&mut self) -> Result<()> {
        // With that the upstream closes what the good request left; a POST that met the close would be nobody's fault.
        self.upstream.forget();
        self.no_upstream_connections().await?;
        self.meter = Meter::start(self.proxy.pid())?;
        Ok(())
    }

    async fn no_upstream_connections(&self) -> Result<()> {
        let admin = self.proxy.admin();
        eventually("no upstream connections left", SOON, async || {
            (admin.stat("cluster.up.upstream_cx_active").await.ok()? == 0).then_some(())
        })
        .await
    }

    async fn good_request(&self) -> Result<Duration> {
        let start = Instant::now();
        let mut client = Client::connect(self.listener("plain")?).await?;
        client.send(b"GET / HTTP/1.1\r\nhost: t\r\n\r\n").await?;
        let response = client.response("GET", SOON).await?;
        ensure!(response.head.status()? == 200, "a good request got {:?}", response.head);
        Ok(start.elapsed())
    }

    pub(crate) fn verdict(self) -> Result<()> {
        let failed = self.failures.lines().count();
        ensure!(failed == 0, "{failed} failures in {} cases:\n{}", self.cases, self.failures);
        Ok(())
    }
}

/// Whether `CASE` leaves this case in.
pub(crate) fn wanted(name: &str) -> bool {
    std::env::var("CASE").map_or(true, |only| name.contains(&only))
}

pub(crate) fn expect_ok(result: Result<()>) {
    let message = result.err().map(|error| format!("{error:#}"));
    assert!(message.is_none(), "{}", message.unwrap_or_default());
}
