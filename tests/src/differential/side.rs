//! One of the two proxies of a comparison, with its upstreams.

use std::collections::BTreeMap;
use std::fmt;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail, ensure};

use super::check::put_asked;
use super::facts::UNSEEN;
use super::{Case, Do, Facts, H2Request, Input, Setup};
use crate::client::{Client, End, H2Client, Response};
use crate::config::{fill, port};
use crate::dns::DnsServer;
use crate::expect::{SOON, eventually};
use crate::frames::{ACK, DATA, END_STREAM, Exchange, Frame, HEADERS, RST_STREAM, SETTINGS, parse};
use crate::http1::Fields;
use crate::ports::{Blackhole, Refusing};
use crate::process::{Binary, Proxy};
use crate::upstream::h2::H2Upstream;
use crate::upstream::{EchoServer, Received, Upstream};

/// Marks the errors of the rig among those of clients.
#[derive(Debug)]
struct Unseen;

impl fmt::Display for Unseen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(UNSEEN)
    }
}

/// How long a connection that should stay open is watched.
const WATCH: Duration = Duration::from_millis(20);

/// How long the upstream is given to notice that a request ends.
const SETTLE: Duration = Duration::from_millis(500);

/// How long frames are answered by silence before that is the answer.
const QUIET: Duration = Duration::from_millis(150);
/// How long a stream may stay open without a byte before that is what it does.
const PATIENCE: Duration = Duration::from_secs(2);

/// Parts of the names of statistics that are compared, whatever their last word.
const FAMILIES: [&str; 10] = [
    ".admission_control.",
    ".gradient_controller.rq_blocked",
    ".compressor.",
    "ext_authz.",
    ".fault.",
    "bandwidth_limit.",
    "dns_cache.",
    "local_rate_limit.",
    "listener_local_ratelimit.",
    "ratelimit.",
];

/// Counters that are compared, without their prefix (`http.<listener>.`, `cluster.<name>.`, `tcp.<listener>.`).
const COUNTERS: &[&str] = &[
    "downstream_cx_upgrades_total",
    "downstream_cx_protocol_error",
    "downstream_cx_drain_close",
    "downstream_cx_overload_disable_keepalive",
    "downstream_rq_overload_close",
    "downstream_cx_idle_timeout",
    "downstream_cx_no_route",
    "downstream_cx_total",
    "downstream_rq_total",
    "downstream_rq_rx_reset",
    "downstream_rq_tx_reset",
    "downstream_cx_destroy_remote_active_rq",
    "downstream_rq_1xx",
    "downstream_rq_2xx",
    "downstream_rq_3xx",
    "downstream_rq_4xx",
    "downstream_rq_5xx",
    "downstream_rq_completed",
    "downstream_rq_http1_total",
    "downstream_rq_http2_total",
    "downstream_rq_idle_timeout",
    "downstream_rq_header_timeout",
    "downstream_rq_timeout",
    "downstream_rq_max_duration_reached",
    "downstream_rq_non_relative_path",
    "downstream_rq_redirected_with_normalized_path",
    "downstream_rq_failed_path_normalization",
    "downstream_rq_too_large",
    "downstream_rq_ws_on_non_ws_route",
    "no_route",
    "no_cluster",
    "rq_direct_response",
    "rq_overload_local_reply",
    "rq_redirect",
    "rq_total",
    "rq_reset_after_downstream_response_started",
    "upstream_cx_total",
    "upstream_cx_connect_fail",
    "upstream_cx_connect_timeout",
    "upstream_cx_protocol_error",
    "upstream_cx_http1_total",
    "upstream_cx_http2_total",
    "upstream_cx_destroy_remote_with_active_rq",
    "upstream_cx_destroy_local_with_active_rq",
    "upstream_rq_pending_total",
    "upstream_rq_total",
    "upstream_rq_completed",
    "upstream_rq_1xx",
    "upstream_rq_2xx",
    "upstream_rq_3xx",
    "upstream_rq_4xx",
    "upstream_rq_5xx",
    "upstream_rq_200",
    "upstream_rq_403",
    "upstream_rq_429",
    "upstream_rq_503",
    "upstream_rq_cancelled",
    "upstream_rq_504",
    "upstream_rq_timeout",
    "upstream_rq_per_try_timeout",
    "upstream_rq_per_try_idle_timeout",
    "upstream_rq_retry",
    "upstream_rq_retry_backoff_exponential",
    "upstream_rq_retry_backoff_ratelimited",
    "upstream_rq_retry_limit_exceeded",
    "upstream_rq_retry_overflow",
    "upstream_rq_retry_success",
    "passthrough_internal_redirect_bad_location",
    "passthrough_internal_redirect_no_route",
    "passthrough_internal_redirect_predicate",
    "passthrough_internal_redirect_too_many_redirects",
    "passthrough_internal_redirect_unsafe_scheme",
    "upstream_internal_redirect_failed_total",
    "upstream_internal_redirect_succeeded_total",
    "retry_or_shadow_abandoned",
    "upstream_rq_rx_reset",
    "upstream_rq_tx_reset",
    "upstream_rq_pending_failure_eject",
    "upstream_rq_pending_overflow",
    "upstream_rq_maintenance_mode",
    "cookies_total_bytes_too_large",
    "dropped_headers_with_underscores",
    "goaway_sent",
    "header_list_size_too_large",
    "header_overflow",
    "headers_cb_no_stream",
    "inbound_empty_frames_flood",
    "inbound_priority_frames_flood",
    "inbound_window_update_frames_flood",
    "keepalive_timeout",
    "outbound_control_flood",
    "outbound_flood",
    "requests_rejected_with_underscores_in_headers",
    "rx_messaging_error",
    "rx_reset",
    "stream_refused_errors",
    "streams_active",
    "trailers",
    "tx_flush_timeout",
    "tx_reset",
    "downstream_rq_rx_reset",
    "downstream_rq_too_many_premature_resets",
    "downstream_cx_max_requests_reached",
    "upstream_rq_max_duration_reached",
    "allowed",
    "denied",
    "shadow_allowed",
    "shadow_denied",
];

/// A proxy and everything it talks to.
#[derive(Debug)]
pub struct Side {
    proxy: Proxy,
    upstream: Upstream,
    h2_upstream: H2Upstream,
    echo: EchoServer,
    refusing: Refusing,
    blackhole: Blackhole,
    _dns: DnsServer,
    /// How much of the access log belongs to earlier cases, in bytes.
    logged: usize,
    sentinels: usize,
}

/// What the client of a case saw, in order.
enum Seen {
    Response(Response),
    Bytes(Vec<u8>),
    /// How a stream ended, and after how much data.
    Stream(String),
}

impl Side {
    /// Starts the upstreams and then the proxy.
    pub async fn start(binary: &Binary, setup: &Setup) -> Result<Self> {
        let upstream = Upstream::start().await?;
        let h2_upstream = H2Upstream::start().await?;
        let echo = EchoServer::start().await?;
        let (refusing, blackhole) = (Refusing::new()?, Blackhole::new()?);
        let dns = DnsServer::start().await?;
        dns.set_zone()?;
        let bootstrap = fill(
            &setup.bootstrap,
            [
                ("up", port(upstream.addr())),
                ("h2up", port(h2_upstream.addr())),
                ("echo", port(echo.server().addr())),
                ("refused", port(refusing.addr())),
                ("blackhole", port(blackhole.addr())),
                ("dns", port(dns.addr())),
            ],
        );
        let proxy = Proxy::start(binary, &bootstrap).await?;
        Ok(Self {
            proxy,
            upstream,
            h2_upstream,
            echo,
            refusing,
            blackhole,
            _dns: dns,
            logged: 0,
            sentinels: 0,
        })
    }

    /// The proxy.
    pub fn proxy(&mut self) -> &mut Proxy {
        &mut self.proxy
    }

    /// What answers its requests over HTTP/1.
    pub fn upstream(&self) -> &Upstream {
        &self.upstream
    }

    /// Starts the proxy anew if it has died.
    ///
    /// # Errors
    /// If it had died, with its last words; or if it does not start again.
    pub async fn revive(&mut self, binary: &Binary, setup: &Setup) -> Result<()> {
        if self.proxy.alive() {
            return Ok(());
        }
        let words = self.proxy.log_tail();
        *self = Self::start(binary, setup).await?;
        anyhow::bail!("the proxy died:\n{words}")
    }

    /// Runs one case. What goes wrong for the client on the way is a fact too (`error`); what goes wrong with the rig is never equal
    /// to anything.
    pub async fn run(&mut self, case: &Case) -> Facts {
        let mut facts = Facts::new(self.names());
        if let Err(error) = self.observe(case, &mut facts).await {
            facts.put(UNSEEN, format!("{error:#}"));
        }
        self.upstream.forget();
        self.h2_upstream.forget();
        self.echo.server().forget();
        if let Err(error) = self.pools_empty().await {
            facts.put("error after the case", format!("{error:#}"));
        }
        facts
    }

    /// The words for addresses that differ between the sides.
    fn names(&self) -> Vec<(String, String)> {
        let mut addrs: Vec<_> =
            self.proxy.listeners().iter().map(|(name, addr)| (*addr, format!("<listener {name}>"))).collect();
        addrs.push((self.upstream.addr(), "<up>".to_owned()));
        addrs.push((self.h2_upstream.addr(), "<h2up>".to_owned()));
        addrs.push((self.echo.server().addr(), "<echo>".to_owned()));
        addrs.push((self.refusing.addr(), "<refused>".to_owned()));
        addrs.push((self.blackhole.addr(), "<blackhole>".to_owned()));
        addrs.into_iter().map(|(addr, name)| (format!(":{}", addr.port()), format!(":{name}"))).collect()
    }

    async fn observe(&mut self, case: &Case, facts: &mut Facts) -> Result<()> {
        self.proxy.listener(case.listener)?;
        self.upstream.script(case.upstream.iter().cloned());
        self.h2_upstream.script(case.h2_upstream.iter().cloned());
        let before = self.counters(case).await?;
        let client = match &case.input {
            Input::Bytes(steps) => self.take_steps(case, steps, facts).await,
            Input::H2(requests) => self.send_requests(case, requests, facts).await,
            Input::Frames(bytes) => self.send_frames(case, bytes, facts).await,
        };
        // what the upstream still reads is part of the case; what does not end shows as incomplete
        let settled = async || self.upstream.is_settled().then_some(());
        let _ = eventually("the end of all requests", SETTLE, settled).await;
        if let Some(gauge) = case.ends_with {
            eventually(gauge, SOON, async || {
                let stats = self.proxy.admin().stats(&format!("^{gauge}$")).await.ok()?;
                stats.values().all(|value| *value == 0).then_some(())
            })
            .await?;
        }
        self.put_upstream(facts);
        let lines = self.log_lines(case).await?;
        for (at, line) in lines.iter().enumerate() {
            facts.put_log_line(&format!("log[{at}]"), line);
        }
        for (name, value) in self.counters(case).await? {
            let difference = value - before.get(&name).copied().unwrap_or(0);
            if difference != 0 {
                facts.put(format!("counter {name}"), difference.to_string());
            }
        }
        match client {
            Err(error) if !error.is::<Unseen>() => facts.put("error", format!("{error:#}")),
            other => other?,
        }
        Ok(())
    }

    async fn take_steps(&self, case: &Case, steps: &[Do], facts: &mut Facts) -> Result<()> {
        let mut client = Client::connect(self.proxy.listener(case.listener)?).await?;
        let mut seen = Vec::new();
        let mut result = Ok(());
        for (at, step) in steps.iter().enumerate() {
            if matches!(step, Do::Leave) {
                facts.put("connection", "left");
                drop(client);
                for step in &steps[at + 1..] {
                    self.await_upstream(step).await.with_context(|| format!("{step:?}"))?;
                }
                return Ok(());
            }
            result =
                self.take_step(step, &mut client, &mut seen).await.with_context(|| format!("{step:.60?}"));
            if result.is_err() {
                break;
            }
        }
        let says_close = seen.iter().rev().find_map(|seen| match seen {
            Seen::Response(response) => Some(response.head.connection_says("close") || !response.complete),
            Seen::Bytes(_) | Seen::Stream(_) => None,
        });
        let end = client.end_within(if says_close == Some(true) { SOON } else { WATCH }).await;
        // FIN or RST depends on what lay unread when the socket was closed: no difference to anyone
        facts.put("connection", if end == End::Open { "open" } else { "ended" });
        facts.put_body("unread", client.buffered());
        for (at, seen) in seen.iter().enumerate() {
            match seen {
                Seen::Response(response) => put_response(facts, &format!("response[{at}]"), response),
                Seen::Bytes(bytes) => facts.put_body(format!("bytes[{at}]"), bytes),
                Seen::Stream(end) => facts.put(format!("stream[{at}]"), end),
            }
        }
        result
    }

    async fn take_step(&self, step: &Do, client: &mut Client, seen: &mut Vec<Seen>) -> Result<()> {
        match step {
            Do::Send(bytes) => client.send(bytes).await,
            Do::Response(method) => loop {
                let response = client.response(method, SOON).await?;
                let status = response.head.status()?;
                seen.push(Seen::Response(response));
                if status >= 200 || status == 101 {
                    return Ok(());
                }
            },
            Do::Interim => {
                seen.push(Seen::Response(client.response("GET", SOON).await?));
                Ok(())
            }
            Do::Bytes(count) => {
                seen.push(Seen::Bytes(client.at_least(*count, SOON).await?));
                Ok(())
            }
            Do::StreamEnd => {
                seen.push(Seen::Stream(stream_end(client).await?));
                Ok(())
            }
            Do::HalfClose => client.half_close().await,
            Do::Leave => Ok(()),
            Do::Admin(path) => {
                let answer = self.proxy.admin().request("POST", path).await.context(Unseen)?;
                ensure!(answer.status == 200, anyhow!("POST {path}: {}", answer.body).context(Unseen));
                Ok(())
            }
            Do::AwaitEnd => {
                ensure!(client.end_within(SOON).await != End::Open, "still open");
                Ok(())
            }
            Do::AwaitUpstream(_) | Do::AwaitH2Upstream(_) => self.await_upstream(step).await,
            Do::Pause(pause) => {
                tokio::time::sleep(*pause).await;
                Ok(())
            }
        }
    }

    /// What can be waited for without a connection.
    async fn await_upstream(&self, step: &Do) -> Result<()> {
        match step {
            Do::AwaitUpstream(count) => {
                eventually("requests at the upstream", SOON, async || {
                    (self.upstream.received().len() >= *count).then_some(())
                })
                .await
            }
            Do::AwaitH2Upstream(count) => {
                eventually("requests at the HTTP/2 upstream", SOON, async || {
                    (self.h2_upstream.received().len() >= *count).then_some(())
                })
                .await
            }
            _ => bail!("not without a connection"),
        }
    }

    async fn send_requests(&self, case: &Case, requests: &[H2Request], facts: &mut Facts) -> Result<()> {
        let client = H2Client::connect(self.proxy.listener(case.listener)?).await?;
        for (at, request) in requests.iter().enumerate() {
            let (request, trailers) = request.build()?;
            match client.request(request, trailers).await {
                Ok(response) => {
                    facts.put(format!("response[{at}].status"), response.status.to_string());
                    facts.put_fields(&format!("response[{at}].header"), &response.fields);
                    facts.put_encoded_body(&format!("response[{at}].body"), &response.fields, &response.body);
                    facts.put_fields(&format!("response[{at}].trailer"), &response.trailers);
                    facts.put(format!("response[{at}].cut"), response.cut.unwrap_or_default());
                }
                Err(error) => facts.put(format!("response[{at}].error"), format!("{error:#}")),
            }
        }
        Ok(())
    }

    /// How a violation is answered is the proxy's choice (RFC 9113, 5.4): a stream error, a connection error, or the end of the
    /// connection. That it is refused is compared, and what it counts.
    async fn send_frames(&self, case: &Case, bytes: &[u8], facts: &mut Facts) -> Result<()> {
        let listener = self.proxy.listener(case.listener)?;
        let active = format!("http.{}.downstream_rq_active", case.listener);
        let begun = Instant::now();
        let over = async |frames: &[Frame]| {
            let has_begun = frames.iter().any(|frame| frame.kind == SETTINGS && frame.flags & ACK != 0);
            let is_served = has_begun && self.proxy.admin().stat(&active).await.is_ok_and(|count| count == 0);
            is_served || begun.elapsed() > PATIENCE
        };
        let exchange = Exchange::run_until(listener, bytes, QUIET, over).await?;
        facts.put("heads", exchange.heads().to_string());
        let is_over = exchange.end != End::Open || exchange.goaway().is_some_and(|code| code != 0);
        let resets = exchange.resets();
        facts.put("refused", if is_over || !resets.is_empty() { "yes" } else { "no" });
        facts.put("connection", if is_over { "ended" } else { "open" });
        facts.put("resets", format!("{resets:?}"));
        Ok(())
    }

    fn put_upstream(&self, facts: &mut Facts) {
        for (name, received, opened) in [
            ("upstream", self.upstream.received(), self.upstream.opened()),
            ("h2 upstream", self.h2_upstream.received(), self.h2_upstream.opened()),
        ] {
            facts.put(format!("{name}.connections"), opened.to_string());
            for (at, mut request) in received.into_iter().enumerate() {
                request.fields = without_elapsed(&request.fields, at > 0);
                put_request(facts, &format!("{name}[{at}]"), &request);
            }
        }
        facts.put("upstream.malformed", self.upstream.malformed().join("; "));
        facts.put_body("echo", &self.echo.server().bytes());
        facts.put_body("tunnel", &self.upstream.bytes());
    }

    /// The lines that this case added to the access log. With HTTP, a request that carries a mark is sent after the case and
    /// its line awaited: what was logged before lies before it.
    async fn log_lines(&mut self, case: &Case) -> Result<Vec<String>> {
        let path = self.proxy.dir().join("access.log");
        let new_lines = |logged: usize| {
            let text = std::fs::read(&path)
                .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
                .unwrap_or_default();
            let whole = text.rfind('\n').map_or(0, |at| at + 1);
            let new = text.get(logged..whole).unwrap_or_default().to_owned();
            (new.lines().map(str::to_owned).collect::<Vec<_>>(), whole)
        };
        let from = self.logged;
        let (lines, whole) = match case.tcp_log_lines {
            Some(count) => {
                eventually("lines in the access log", SOON, async || {
                    let (lines, whole) = new_lines(from);
                    (lines.len() >= count).then_some((lines, whole))
                })
                .await?
            }
            None => {
                self.sentinels += 1;
                let mark = format!("s={}|", self.sentinels);
                let request =
                    format!("GET / HTTP/1.1\r\nhost: test\r\nx-sentinel: {}\r\n\r\n", self.sentinels);
                let mut client = Client::connect(self.proxy.listener(case.listener)?).await?;
                client.send(request.as_bytes()).await?;
                client.response("GET", SOON).await.context("the request after the case")?;
                eventually("the last line in the access log", SOON, async || {
                    let (lines, whole) = new_lines(from);
                    lines.iter().any(|line| line.starts_with(&mark)).then_some((lines, whole))
                })
                .await?
            }
        };
        self.logged = whole;
        Ok(lines.into_iter().filter(|line| !is_marked(line)).collect())
    }

    async fn counters(&self, case: &Case) -> Result<BTreeMap<String, i64>> {
        let filter = format!(
            "^(http\\.{0}|tcp\\.{0}|ext_authz\\.{0}|{0}[a-z_]*\\.http_(local_rate|bandwidth)_limit|local_rate_limit\\.{0}|ratelimit\\.{0}|listener_local_ratelimit\\.{0}|cluster\\.[a-z0-9_]+|dns_cache\\.[a-z0-9_]+|vhost\\.all\\.[a-z]+\\.[a-z]+|http2|http1)\\.",
            case.listener
        );
        let all = self.proxy.admin().stats(&filter).await?;
        Ok(all
            .into_iter()
            .filter(|(name, _)| {
                let is_known = name.rsplit_once('.').is_some_and(|(_, last)| COUNTERS.contains(&last));
                // (How well a library compresses is its own affair.)
                let is_size = name.ends_with("total_compressed_bytes");
                !is_size && (is_known || FAMILIES.iter().any(|family| name.contains(family)))
            })
            .collect())
    }

    /// Waits until the proxy has noticed that all connections to the upstreams are closed, so that the next case starts
    /// with new ones.
    async fn pools_empty(&self) -> Result<()> {
        let limit = Duration::from_secs(2);
        eventually("no upstream connections left", limit, async || {
            let stats = self.proxy.admin().stats("^cluster\\..*\\.upstream_cx_active$").await.ok()?;
            stats.values().all(|count| *count == 0).then_some(())
        })
        .await
    }
}

/// Reads frames until a stream ends.
async fn stream_end(client: &mut Client) -> Result<String> {
    let mut bytes = Vec::new();
    loop {
        bytes.extend(client.at_least(1, SOON).await?);
        let frames = parse(&bytes);
        let data: usize =
            frames.iter().filter(|frame| frame.kind == DATA).map(|frame| frame.payload.len()).sum();
        if let Some(reset) = frames.iter().find(|frame| frame.kind == RST_STREAM) {
            return Ok(format!("reset with {:?} after {data}", reset.code()));
        }
        let ends = |frame: &Frame| matches!(frame.kind, DATA | HEADERS) && frame.flags & END_STREAM != 0;
        if frames.iter().any(ends) {
            return Ok(format!("complete after {data}"));
        }
    }
}

/// Whether a line of the access log is of a request with a mark, in text or in JSON.
fn is_marked(line: &str) -> bool {
    match line.starts_with('{') {
        true => line.contains("\"s\":\""),
        false => line.starts_with("s=") && !line.starts_with("s=-|"),
    }
}

fn put_response(facts: &mut Facts, name: &str, response: &Response) {
    facts.put(format!("{name}.line"), &response.head.line);
    facts.put_fields(&format!("{name}.header"), &response.head.fields);
    facts.put_encoded_body(&format!("{name}.body"), &response.head.fields, &response.body);
    facts.put_fields(&format!("{name}.trailer"), &response.trailers);
    facts.put(format!("{name}.complete"), response.complete.to_string());
}

fn put_request(facts: &mut Facts, name: &str, request: &Received) {
    facts.put(format!("{name}.line"), &request.line);
    facts.put_fields(&format!("{name}.header"), &request.fields);
    if !put_asked(facts, name, &request.line, &request.body) {
        facts.put_encoded_body(&format!("{name}.body"), &request.fields, &request.body);
    }
    facts.put_fields(&format!("{name}.trailer"), &request.trailers);
    facts.put(format!("{name}.complete"), request.complete.to_string());
    facts.put(format!("{name}.connection"), request.connection.to_string());
}

/// Of a request that is sent again, the time that is left depends on how long it took so far; the first that a host receives
/// may have been sent to another before.
fn without_elapsed(fields: &Fields, is_again: bool) -> Fields {
    let varies = if is_again { 1_000..15_001 } else { 14_000..15_000 };
    let left = |name: &str, value: &str| {
        let is_left = name.eq_ignore_ascii_case("x-envoy-expected-rq-timeout-ms");
        let varies = value.parse().is_ok_and(|left: u64| is_left && varies.contains(&left));
        if varies { "<what is left>".to_owned() } else { value.to_owned() }
    };
    fields.iter().map(|(name, value)| (name.clone(), left(name, value))).collect()
}
