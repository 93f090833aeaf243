//! Limits, dead hosts, full disks, signals and the wall clock (O1, O2, O5, O7 to O11).

use std::io::Read;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use integration::client::{Client, End};
use integration::config::{HttpListener, bootstrap, cluster, fill, port};
use integration::expect::{SOON, eventually};
use integration::ports::Refusing;
use integration::process::{Binary, Proxy};
use integration::upstream::{Reply, Step, Upstream};
use rustix::process::Signal;
use tokio::time::sleep;

use crate::rig::{Apart, Rig, Setup, size};

const GET: &[u8] = b"GET / HTTP/1.1\r\nhost: t\r\n\r\n";

/// The answer to a GET on a connection of its own.
async fn ask(rig: &mut Rig) -> Result<u16> {
    let mut client = rig.connect().await?;
    rig.send(&mut client, GET).await?;
    client.response("GET", SOON).await?.head.status()
}

#[tokio::test]
async fn o02_breakers_at_one() -> Result<()> {
    let limits = "circuit_breakers: {thresholds: [{max_connections: 1, max_pending_requests: 1, max_requests: 1, max_retries: 1, track_remaining: true}]}";
    let routes = "- match: {prefix: /narrow}\n  route: {cluster: narrow}\n- match: {prefix: /}\n  route: {cluster: up}";
    let setup = Setup::of(HttpListener::new("http", routes)).cluster(cluster("narrow", "up", limits));
    let mut rig = setup.start().await?;
    rig.upstream.script([Reply::steps([Step::Stall])]);
    let get = b"GET /narrow HTTP/1.1\r\nhost: t\r\n\r\n";
    let mut first = rig.connect().await?;
    rig.send(&mut first, get).await?;
    rig.upstream_has(1).await?;
    let mut second = rig.connect().await?;
    rig.send(&mut second, get).await?;
    // the first is served, the second waits; only then are all others refused
    rig.reaches("cluster.narrow.upstream_rq_pending_active", 1).await?;
    let count = size(50, 500);
    for _ in 0..count {
        let mut client = rig.connect().await?;
        rig.send(&mut client, get).await?;
        let response = client.response("GET", SOON).await?;
        ensure!(response.head.status()? == 503, "{response:?}");
    }
    let admin = rig.proxy.admin();
    ensure!(admin.stat("cluster.narrow.circuit_breakers.default.cx_open").await? == 1);
    ensure!(admin.stat("cluster.narrow.upstream_cx_active").await? == 1);
    // the one that waits goes first: else it may get a connection when the other's ends, and that is kept for reuse
    drop(second);
    rig.reaches("cluster.narrow.upstream_rq_pending_active", 0).await?;
    drop(first);
    eventually("breakers closed", SOON, async || {
        let stats = admin
            .stats("cluster\\.narrow\\.circuit_breakers\\.default\\..*(_open|remaining_.*)$")
            .await
            .ok()?;
        let open: i64 =
            stats.iter().filter(|(name, _)| name.ends_with("_open")).map(|(_, value)| value).sum();
        let rest = ["remaining_cx", "remaining_pending", "remaining_rq"];
        let whole = rest
            .iter()
            .all(|name| stats.get(&format!("cluster.narrow.circuit_breakers.default.{name}")) == Some(&1));
        (open == 0 && whole).then_some(())
    })
    .await
    .context("what remains is not what there was")?;
    rig.passes("o02_breakers_at_one").await
}

#[tokio::test]
async fn o05_all_hosts_refuse() -> Result<()> {
    let refusing = Refusing::new()?;
    let routes =
        "- match: {prefix: /dead}\n  route: {cluster: dead}\n- match: {prefix: /}\n  route: {cluster: up}";
    let dead = cluster("dead", "dead", "").replace("{{dead}}", &port(refusing.addr()));
    let mut rig = Setup::of(HttpListener::new("http", routes)).cluster(dead).start().await?;
    for _ in 0..size(500, 5_000) {
        let mut client = rig.connect().await?;
        rig.send(&mut client, b"GET /dead HTTP/1.1\r\nhost: t\r\n\r\n").await?;
        ensure!(client.response("GET", SOON).await?.head.status()? == 503);
    }
    rig.passes("o05_all_hosts_refuse").await
}

#[tokio::test]
async fn o05_no_host_at_all() -> Result<()> {
    let empty = "- name: empty\n  type: STATIC\n  load_assignment: {cluster_name: empty}\n";
    let routes =
        "- match: {prefix: /empty}\n  route: {cluster: empty}\n- match: {prefix: /}\n  route: {cluster: up}";
    let mut rig = Setup::of(HttpListener::new("http", routes)).cluster(empty.to_owned()).start().await?;
    for _ in 0..size(500, 5_000) {
        let mut client = rig.connect().await?;
        rig.send(&mut client, b"GET /empty HTTP/1.1\r\nhost: t\r\n\r\n").await?;
        let response = client.response("GET", SOON).await?;
        ensure!(response.head.status()? == 503 && response.body == b"no healthy upstream", "{response:?}");
    }
    rig.reaches("cluster.empty.upstream_cx_none_healthy", 500).await?;
    let log = std::fs::read_to_string(rig.proxy.dir().join("access.log"))?;
    ensure!(log.contains("|flags=UH|"), "{}", log.lines().last().unwrap_or_default());
    rig.passes("o05_no_host_at_all").await
}

fn file_log(path: &str) -> String {
    format!(
        "- name: log\n  typed_config:\n    \"@type\": type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog\n    path: \"{path}\"\n"
    )
}

/// A disk without room costs log lines, which are counted, and no request.
#[tokio::test]
async fn o07_disk_full() -> Result<()> {
    let listener = HttpListener::to_up("http").logs(&file_log("/dev/full"));
    let mut rig = Setup::of(listener).start().await?;
    for _ in 0..size(2_000, 20_000) {
        ensure!(ask(&mut rig).await? == 200);
    }
    rig.reaches("filesystem.write_failed", 1).await?;
    rig.passes("o07_disk_full").await
}

/// A log that nobody reads any more holds nobody up.
#[tokio::test]
async fn o07_a_pipe_that_nobody_reads() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let pipe = dir.path().join("pipe");
    let made = Command::new("mkfifo").arg(&pipe).status()?;
    ensure!(made.success(), "mkfifo: {made}");
    // somebody has it open, and does not read
    let mut reader = std::fs::File::options().read(true).write(true).open(&pipe)?;
    let listener = HttpListener::to_up("http").logs(&file_log(&pipe.display().to_string()));
    let mut rig = Setup::of(listener).start().await?;
    let requests = size(2_000, 20_000);
    for _ in 0..requests {
        ensure!(ask(&mut rig).await? == 200);
    }
    // what waits is bounded and not lost: when it is read its memory is free again
    let lines = Arc::new(AtomicUsize::new(0));
    let read = lines.clone();
    std::thread::spawn(move || {
        let mut buffer = vec![0; 1 << 16];
        while let Ok(length) = reader.read(&mut buffer) {
            let ends = buffer[..length].iter().filter(|byte| **byte == b'\n').count();
            read.fetch_add(ends, Ordering::Relaxed);
        }
    });
    eventually("the lines", SOON, async || (lines.load(Ordering::Relaxed) >= requests).then_some(())).await?;
    rig.passes("o07_a_pipe_that_nobody_reads").await
}

#[test]
fn o07_a_log_that_cannot_be_opened_is_refused() -> Result<()> {
    let listener = HttpListener::to_up("http").logs(&file_log("/no/such/folder/access.log")).yaml();
    let yaml = fill(&bootstrap(&[listener], &[cluster("up", "up", "")], ""), [("up", "1".to_owned())]);
    let verdict = Binary::subject()?.validate(&yaml)?;
    ensure!(!verdict.accepted && verdict.text.contains("/no/such/folder/access.log"), "{}", verdict.text);
    Ok(())
}

/// An hour forward, an hour back: what waits, waits as long as before.
#[tokio::test]
async fn o08_the_clock_jumps() -> Result<()> {
    let library = [
        "/usr/lib/x86_64-linux-gnu/faketime/libfaketime.so.1",
        "/usr/lib/aarch64-linux-gnu/faketime/libfaketime.so.1",
    ]
    .into_iter()
    .find(|path| std::path::Path::new(path).exists())
    .context("no libfaketime here: scripts/apt.sh faketime")?;
    let dir = tempfile::tempdir()?;
    let clock = dir.path().join("clock");
    std::fs::write(&clock, "+0")?;
    let binary = dir.path().join("outrigger");
    let script = format!(
        "#!/bin/sh\nLD_PRELOAD={library} FAKETIME_TIMESTAMP_FILE={} FAKETIME_NO_CACHE=1 FAKETIME_DONT_FAKE_MONOTONIC=1 DONT_FAKE_MONOTONIC=1 exec {} \"$@\"\n",
        clock.display(),
        Binary::subject()?.path.display()
    );
    std::fs::write(&binary, script)?;
    std::fs::set_permissions(&binary, std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
    let binary = Binary { path: binary, ..Binary::subject()? };
    let options = "stream_idle_timeout: 3s\ncommon_http_protocol_options: {idle_timeout: 3s}";
    let log = "- name: log\n  typed_config:\n    \"@type\": type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog\n    path: \"{{dir}}/clock.log\"\n    log_format: {text_format_source: {inline_string: \"%START_TIME(%s)% %DURATION%\\n\"}}\n";
    let listener = HttpListener::to_up("http").options(options).logs(log);
    let mut rig = Setup::of(listener).binary(binary).start().await?;
    rig.measured = false;
    let wall = || -> Result<i64> {
        let text = std::fs::read_to_string(rig.proxy.dir().join("clock.log"))?;
        let last = text.lines().last().context("nothing logged")?;
        let (start, took) = last.split_once(' ').context("no duration")?;
        ensure!(took.parse::<i64>()? < 5_000, "it took {took} ms");
        Ok(start.parse()?)
    };
    let now = || std::time::UNIX_EPOCH.elapsed().map(|now| i64::try_from(now.as_secs()).unwrap_or_default());
    for (offset, seconds) in [("+3600s", 3_600), ("-3600s", -3_600), ("+0", 0)] {
        let mut idle = Client::connect(rig.addr()?).await?;
        idle.send(GET).await?;
        idle.response("GET", SOON).await?;
        let waits = Instant::now();
        std::fs::write(&clock, offset)?;
        rig.serves().await?;
        ensure!(idle.end_within(Duration::from_secs(1)).await == End::Open, "{offset}: a timeout came early");
        ensure!(idle.end_within(SOON).await != End::Open, "{offset}: no timeout");
        ensure!(waits.elapsed() >= Duration::from_secs(2), "{offset}: {:?}", waits.elapsed());
        eventually("the wall clock in the log", SOON, async || {
            rig.serves().await.ok()?;
            ((wall().ok()? - now().ok()? - seconds).abs() < 60).then_some(())
        })
        .await
        .with_context(|| format!("{offset}: logged {:?}", wall()))?;
    }
    rig.stands().await
}

/// Requests one after the other on kept connections; where one fails, another attempt on a new connection.
struct Load {
    done: Arc<AtomicBool>,
    clients: Vec<tokio::task::JoinHandle<Result<Tally>>>,
}

#[derive(Debug, Default)]
struct Tally {
    answered: usize,
    /// Attempts that got no answer on a connection that was kept, or no connection.
    failed: usize,
}

impl Load {
    fn start(addr: std::net::SocketAddr, count: usize) -> Self {
        let done = Arc::new(AtomicBool::new(false));
        let clients = (0..count).map(|_| tokio::spawn(Self::run(addr, done.clone()))).collect();
        Self { done, clients }
    }

    async fn run(addr: std::net::SocketAddr, done: Arc<AtomicBool>) -> Result<Tally> {
        let mut tally = Tally::default();
        let mut kept = None;
        while !done.load(Ordering::Relaxed) {
            let mut client = match kept.take() {
                Some(client) => client,
                None => match Client::connect(addr).await {
                    Ok(client) => client,
                    Err(_) => {
                        tally.failed += 1;
                        sleep(Duration::from_millis(20)).await;
                        continue;
                    }
                },
            };
            client.send(GET).await?;
            match client.response("GET", SOON).await {
                Ok(response) if response.complete => {
                    ensure!(response.head.status()? == 200, "{:?}", response.head);
                    tally.answered += 1;
                    if !response.head.connection_says("close") {
                        kept = Some(client);
                    }
                }
                Ok(response) => bail!("cut short: {:?}", response.head),
                Err(_) => tally.failed += 1,
            }
            sleep(Duration::from_millis(1)).await;
        }
        Ok(tally)
    }

    async fn stop(self) -> Result<Tally> {
        self.done.store(true, Ordering::Relaxed);
        let mut sum = Tally::default();
        for client in self.clients {
            let tally = client.await??;
            sum.answered += tally.answered;
            sum.failed += tally.failed;
        }
        Ok(sum)
    }
}

/// A drain under load, then SIGTERM: every request is answered, long ones too, and the process exits with 0. (SIGTERM by itself
/// ends at once, as in Envoy: who wants a drain asks for it first, as Istio and Kubernetes do.)
#[tokio::test]
async fn o09_drain_and_terminate_under_load() -> Result<()> {
    let setup =
        Setup::http("drain_timeout: 1s").words(&["--drain-time-s", "3", "--drain-strategy", "immediate"]);
    let mut rig = setup.start().await?;
    let addr = rig.addr()?;
    rig.upstream.script([Reply::steps([Step::Pause(Duration::from_secs(2)), Step::Send(OK.to_vec())])]);
    let mut long = rig.connect().await?;
    rig.send(&mut long, b"GET /long HTTP/1.1\r\nhost: t\r\n\r\n").await?;
    rig.upstream_has(1).await?;
    let load = Load::start(addr, 8);
    sleep(Duration::from_millis(300)).await;
    let answer = rig.proxy.admin().request("POST", "/drain_listeners?graceful").await?;
    ensure!(answer.status == 200, "{answer:?}");
    let response = long.response("GET", SOON).await?;
    ensure!(response.head.status()? == 200 && response.head.connection_says("close"), "{:?}", response.head);
    let tally = load.stop().await?;
    ensure!(tally.answered > 100 && tally.failed == 0, "{tally:?}");
    eventually("no more connections", SOON, async || Client::connect(addr).await.is_err().then_some(()))
        .await?;
    rig.proxy.signal(Signal::TERM)?;
    ensure!(rig.proxy.ended(SOON).await? == 0);
    ensure!(!rig.proxy.log().contains("panicked"));
    Ok(())
}

const OK: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";

/// Killed and started again: the port is there at once, and a client fails once for its connection and while nobody listens.
#[tokio::test]
async fn o10_kill_and_restart_under_load() -> Result<()> {
    let apart = Apart::new()?;
    let upstream = apart.run(Upstream::start()).await??;
    let binary = Binary::subject()?;
    // a port that was free a moment ago; the kernel chooses others for a while
    let free = std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?;
    let listener = HttpListener::to_up("http").yaml();
    let at = format!("address: 127.0.0.1, port_value: {}", free.port());
    let listener = listener.replacen("address: 127.0.0.1, port_value: 0", &at, 1);
    let yaml = fill(&bootstrap(&[listener], &[cluster("up", "up", "")], ""), [("up", port(upstream.addr()))]);
    let mut proxy = Proxy::start(&binary, &yaml).await?;
    let load = Load::start(free, 8);
    let rounds = size(3, 20);
    for _ in 0..rounds {
        sleep(Duration::from_millis(300)).await;
        proxy.signal(Signal::KILL)?;
        ensure!(proxy.ended(SOON).await.is_err(), "it exited by itself");
        let start = Instant::now();
        proxy = Proxy::start(&binary, &yaml).await.context("the port is not free again")?;
        ensure!(start.elapsed() < SOON);
    }
    sleep(Duration::from_millis(300)).await;
    let tally = load.stop().await?;
    // each of eight clients loses one request to each kill; the other failures are of connecting while nobody listened
    ensure!(tally.answered > 100, "{tally:?}");
    let rig = Rig::new(proxy, upstream, apart).await?;
    rig.passes("o10_kill_and_restart_under_load").await
}

#[tokio::test]
async fn o11_signals_that_mean_nothing_here() -> Result<()> {
    let mut rig = Setup::http("").start().await?;
    let mut kept = rig.connect().await?;
    for signal in [Signal::HUP, Signal::PIPE, Signal::USR1, Signal::WINCH, Signal::URG, Signal::CHILD] {
        rig.proxy.signal(signal)?;
        rig.send(&mut kept, GET).await?;
        let response = kept.response("GET", SOON).await.with_context(|| format!("{signal:?}"))?;
        ensure!(response.head.status()? == 200, "{signal:?}");
        rig.serves().await?;
    }
    drop(kept);
    rig.passes("o11_signals_that_mean_nothing_here").await
}
