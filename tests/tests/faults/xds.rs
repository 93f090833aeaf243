//! A control plane that floods, replaces everything, falls silent or contradicts itself (X).
//!
//! What one response does wrong is proven in `tests/xds/faults.rs` and `tests/xds/protocol.rs`; here it is about amounts and time.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use integration::client::Client;
use integration::expect::{SOON, eventually, within};
use integration::ports::Relay;
use integration::process::Proxy;
use integration::upstream::Upstream;
use tokio::time::sleep;
use xds::fake::{ManagementServer, Served};

use crate::management::{
    CDS, EDS, LDS, RDS, bad_routes, binary, bootstrap, cluster, endpoints, listener, routes, static_cluster,
    until_mark,
};
use crate::rig::{Apart, Rig, size};

/// A proxy under a management server, and the rule for both.
struct Managed {
    management: ManagementServer,
    rig: Rig,
}

async fn start(api_type: &str) -> Result<Managed> {
    start_through(api_type, Ok, &[]).await
}

/// The way to the management server leads where `via` says.
async fn start_through(
    api_type: &str,
    via: impl FnOnce(SocketAddr) -> Result<SocketAddr>,
    words: &[&str],
) -> Result<Managed> {
    let apart = Apart::new()?;
    let up = apart.run(Upstream::start()).await??;
    let management = apart.run(ManagementServer::start()).await??;
    management.set(&CDS, "1", [cluster("c")?]);
    management.set(&EDS, "1", [endpoints("c", &[up.addr()])?]);
    management.set(&LDS, "1", [listener("http", "r")?]);
    management.set(&RDS, "1", [routes("r", "c", "1")?]);
    let config = bootstrap(via(management.address())?, api_type);
    let proxy = Proxy::start_with(&binary()?, &config, words).await?;
    let mut rig = Rig::new(proxy, up, apart).await?;
    rig.standing = Some("cluster.m.");
    // a control plane is trusted with what it sends: only that it comes back is asked
    rig.measured = false;
    Ok(Managed { management, rig })
}

/// Requests on one connection until told to stop; each has to succeed. How many there were, and how long one took: the median,
/// because the machine may have other work.
struct Traffic {
    done: Arc<AtomicBool>,
    client: tokio::task::JoinHandle<Result<Vec<Duration>>>,
}

impl Traffic {
    fn start(addr: SocketAddr) -> Self {
        let done = Arc::new(AtomicBool::new(false));
        let until = done.clone();
        let client = tokio::spawn(async move {
            let mut client = Client::connect(addr).await?;
            let mut taken = Vec::new();
            while !until.load(Ordering::Relaxed) {
                let start = Instant::now();
                client.send(b"GET /good HTTP/1.1\r\nhost: a\r\n\r\n").await?;
                let response = client.response("GET", SOON).await.context("under change")?;
                ensure!(response.head.status()? == 200, "under change: {response:?}");
                taken.push(start.elapsed());
                sleep(Duration::from_millis(1)).await;
            }
            Ok(taken)
        });
        Self { done, client }
    }

    async fn stop(self) -> Result<(usize, Duration)> {
        self.done.store(true, Ordering::Relaxed);
        let mut taken = self.client.await??;
        taken.sort();
        let median = taken.get(taken.len() / 2).copied().context("no requests")?;
        Ok((taken.len(), median))
    }
}

/// Every stream ends after its first response: the last good configuration serves, and neither log nor streams run away.
#[tokio::test]
async fn x05_streams_that_end_at_once() -> Result<()> {
    let Managed { management, rig } = start("DELTA_GRPC").await?;
    let before = management.streams();
    let lines = rig.proxy.log().lines().count();
    management.close_after_response(true);
    management.set(&RDS, "2", [routes("r", "c", "2")?]);
    let traffic = Traffic::start(rig.addr()?);
    let length = size(5, 600);
    sleep(Duration::from_secs(length as u64)).await;
    let streams = management.streams() - before;
    // half a second at first, with jitter, and longer and longer
    ensure!((1..=4 * length + 20).contains(&streams), "{streams} streams in {length} s");
    let told = rig.proxy.log().lines().count() - lines;
    ensure!(told <= 4 * streams + 20, "{told} lines in the log about {streams} streams");
    management.close_after_response(false);
    management.set(&RDS, "3", [routes("r", "c", "3")?]);
    let mut connection = Client::connect(rig.addr()?).await?;
    within("the last routes", Duration::from_secs(40), until(&mut connection, "3")).await??;
    let (served, _) = traffic.stop().await?;
    ensure!(served > 0);
    drop(connection);
    rig.passes("x05_streams_that_end_at_once").await
}

async fn until(connection: &mut Client, mark: &str) -> Result<()> {
    while crate::management::mark(connection).await? != mark {
        sleep(Duration::from_millis(5)).await;
    }
    Ok(())
}

/// A response a millisecond: the last one is in force in the end, nothing piles up, and traffic hardly notices.
#[tokio::test]
async fn x06_a_response_a_millisecond() -> Result<()> {
    let Managed { management, rig } = start("GRPC").await?;
    let addr = rig.addr()?;
    let quiet = Traffic::start(addr);
    sleep(Duration::from_secs(1)).await;
    let (_, before) = quiet.stop().await?;
    let traffic = Traffic::start(addr);
    let mut pace = tokio::time::interval(Duration::from_millis(1));
    let count = size(3_000, 60_000);
    for n in 0..count {
        pace.tick().await;
        management.set(&RDS, &format!("flood {n}"), [routes("r", "c", &n.to_string())?]);
    }
    let mut connection = Client::connect(addr).await?;
    until_mark(&mut connection, &(count - 1).to_string()).await?;
    let (served, during) = traffic.stop().await?;
    ensure!(served > 100, "{served} requests");
    ensure!(during < before * 4 + Duration::from_millis(20), "{during:?} under change, {before:?} before");
    drop(connection);
    rig.passes("x06_a_response_a_millisecond").await
}

/// Thousands of clusters and tens of thousands of endpoints, all of them other ones each time: memory stays what the first round
/// took.
#[tokio::test]
async fn x07_everything_is_replaced_again_and_again() -> Result<()> {
    let Managed { management, mut rig } = start("GRPC").await?;
    let (count, hosts, rounds) = (size(500, 10_000), 10, size(6, 100));
    let up = rig.upstream.addr();
    let of_round = |round: usize| -> Result<(Vec<Served>, Vec<Served>)> {
        let mut clusters = vec![cluster("c")?];
        let mut all = vec![endpoints("c", &[up])?];
        for n in 0..count {
            let name = format!("round{round}-{n}");
            let addrs: Vec<SocketAddr> =
                (0..hosts).map(|host| SocketAddr::from(([10, (n >> 8) as u8, n as u8, host], 80))).collect();
            clusters.push(cluster(&name)?);
            all.push(endpoints(&name, &addrs)?);
        }
        Ok((clusters, all))
    };
    let mut first = 0;
    for round in 1..=rounds {
        let (clusters, all) = of_round(round)?;
        let version = format!("round {round}");
        let start = Instant::now();
        management.set_all([(EDS, version.as_str(), all), (CDS, version.as_str(), clusters)]);
        let active = i64::try_from(count + 2)?;
        let gone = if round == 1 { 0 } else { i64::try_from(count * (round - 1))? };
        let admin = rig.proxy.admin();
        eventually(&version, Duration::from_secs(60), async || {
            let there = admin.stat("cluster_manager.active_clusters").await.ok()? == active;
            let removed = admin.stat("cluster_manager.cluster_removed").await.ok()? >= gone;
            (there && removed && admin.stat("cluster_manager.warming_clusters").await.ok()? == 0)
                .then_some(())
        })
        .await?;
        ensure!(start.elapsed() < Duration::from_secs(30), "{version} took {:?}", start.elapsed());
        rig.serves().await?;
        // memory is looked at when it has come to rest
        match round {
            1 => {}
            2 => first = rig.proxy.resident_kib()?,
            _ => {
                let bar = first + first / 10;
                let mut now = 0;
                let flat =
                    eventually("memory as after the first rounds", Duration::from_secs(30), async || {
                        rig.serves().await.ok()?;
                        now = rig.proxy.resident_kib().ok()?;
                        (now <= bar).then_some(())
                    });
                flat.await.with_context(|| format!("{version}: {now} KiB, {first} KiB at first"))?;
            }
        }
    }
    management.set(&CDS, "end", [cluster("c")?]);
    rig.reaches("cluster_manager.cluster_removed", i64::try_from(count * rounds)?).await?;
    // with thousands of names come and gone, what remains is held against the size that it had with them
    rig.resident_was(first);
    rig.passes("x07_everything_is_replaced_again_and_again").await
}

/// The listener of many active streams is removed: all of them are answered, then it is gone.
#[tokio::test]
async fn x09_a_listener_with_streams_is_removed() -> Result<()> {
    use integration::upstream::{Reply, Step};
    let words = ["--drain-time-s", "4", "--drain-strategy", "immediate"];
    let Managed { management, mut rig } = start_through("GRPC", Ok, &words).await?;
    let count = size(200, 1_000);
    let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok".to_vec();
    let slowly = Reply::steps([Step::Pause(Duration::from_secs(2)), Step::Send(answer)]);
    rig.upstream.script(std::iter::repeat_n(slowly, count));
    let mut clients = rig.connect_many(count).await?;
    for client in &mut clients {
        client.send(b"GET /slow HTTP/1.1\r\nhost: a\r\n\r\n").await?;
    }
    rig.upstream_has(count).await?;
    management.set(&LDS, "2", []);
    rig.reaches("listener_manager.total_listeners_draining", 1).await?;
    for client in &mut clients {
        let response = client.response("GET", SOON).await?;
        ensure!(response.head.status()? == 200 && response.complete, "{response:?}");
    }
    drop(clients);
    eventually("the listener gone", SOON, async || {
        (rig.proxy.admin().stat("listener_manager.total_listeners_draining").await.ok()? == 0).then_some(())
    })
    .await?;
    management.set(&LDS, "3", [listener("http", "r")?]);
    let admin = rig.proxy.admin();
    let addr =
        eventually("the listener again", SOON, async || admin.listeners().await.ok()?.get("http").copied())
            .await?;
    rig.moved_to(addr);
    rig.passes("x09_a_listener_with_streams_is_removed").await
}

/// The way to the management server carries nothing for a while: the last configuration serves, and what changed meanwhile is in
/// force soon after.
#[tokio::test]
async fn x10_the_server_is_silent_and_comes_back() -> Result<()> {
    let apart = Apart::new()?;
    let up = apart.run(Upstream::start()).await??;
    let management = ManagementServer::start().await?;
    management.set(&CDS, "1", [static_cluster("c", up.addr())?]);
    management.set(&LDS, "1", [listener("http", "r")?]);
    management.set(&RDS, "1", [routes("r", "c", "1")?]);
    let relay = Relay::to(management.address()).await?;
    let keepalive = "http2_protocol_options: {connection_keepalive: {interval: 0.5s, timeout: 0.5s}}";
    let config = bootstrap(relay.addr(), "GRPC").replace("http2_protocol_options: {}", keepalive);
    let proxy = Proxy::start(&binary()?, &config).await?;
    let mut rig = Rig::new(proxy, up, apart).await?;
    rig.standing = Some("cluster.m.");
    rig.measured = false;
    for version in ["2", "3", "4"] {
        relay.freeze();
        management.set(&RDS, version, [routes("r", "c", version)?]);
        rig.serves().await?;
        let mut connection = Client::connect(rig.addr()?).await?;
        within("back again", Duration::from_secs(30), until(&mut connection, version)).await??;
    }
    rig.passes("x10_the_server_is_silent_and_comes_back").await
}

/// Routes before their cluster, a listener before its routes, endpoints last: nobody is answered 503 for it.
#[tokio::test]
async fn x11_the_wrong_order() -> Result<()> {
    for api_type in ["GRPC", "DELTA_GRPC"] {
        let Managed { management, rig } = start(api_type).await?;
        let traffic = Traffic::start(rig.addr()?);
        let mut connection = Client::connect(rig.addr()?).await?;
        for n in 0..20 {
            let (name, mark) = (format!("next-{n}"), format!("next {n}"));
            // the cluster is announced, and its endpoints come later
            management.hold(&EDS);
            management.set(&CDS, &mark, [cluster("c")?, cluster(&name)?]);
            management.set(
                &EDS,
                &mark,
                [endpoints("c", &[rig.upstream.addr()])?, endpoints(&name, &[rig.upstream.addr()])?],
            );
            rig.serves().await?;
            management.release(&EDS);
            rig.reaches(&format!("cluster.{name}.membership_healthy"), 1)
                .await
                .with_context(|| format!("{api_type}, {mark}"))?;
            management.set(&RDS, &mark, [routes("r", &name, &mark)?]);
            until_mark(&mut connection, &mark).await?;
            management.set(&RDS, &format!("back {n}"), [routes("r", "c", &format!("back {n}"))?]);
            until_mark(&mut connection, &format!("back {n}")).await?;
        }
        let (served, _) = traffic.stop().await?;
        ensure!(served > 20, "{served} requests");
        drop(connection);
        rig.passes("x11_the_wrong_order").await?;
    }
    Ok(())
}

/// Rejections without end: each is answered, none is taken, and nothing piles up.
#[tokio::test]
async fn x01_a_storm_of_rejections() -> Result<()> {
    let Managed { management, rig } = start("GRPC").await?;
    for n in 0..size(500, 10_000) {
        management.set(&RDS, &format!("bad {n}"), [bad_routes("r")?]);
        if n % 50 == 0 {
            rig.serves().await?;
        }
    }
    rig.reaches("http.p.rds.r.update_rejected", 1).await?;
    management.set(&RDS, "good", [routes("r", "c", "good")?]);
    let mut connection = Client::connect(rig.addr()?).await?;
    until_mark(&mut connection, "good").await?;
    let log = rig.proxy.log();
    ensure!(log.len() < 4 << 20, "{} bytes of log", log.len());
    drop(connection);
    rig.passes("x01_a_storm_of_rejections").await
}

/// Structures that nest deeper than anybody reads them, in a resource.
#[tokio::test]
async fn t16_a_resource_that_nests_without_end() -> Result<()> {
    let Managed { management, rig } = start("GRPC").await?;
    for depth in [90, 200, 20_000] {
        let mut resource = routes("r", "c", &depth.to_string())?;
        resource.any.value.extend(nested_metadata(depth));
        resource.version = depth.to_string();
        management.set(&RDS, &depth.to_string(), [resource]);
        rig.serves().await?;
    }
    rig.reaches("http.p.rds.r.update_rejected", 1).await?;
    management.set(&RDS, "good", [routes("r", "c", "good")?]);
    let mut connection = Client::connect(rig.addr()?).await?;
    until_mark(&mut connection, "good").await?;
    drop(connection);
    rig.passes("t16_a_resource_that_nests_without_end").await
}

/// A length-delimited field of a message.
fn field(number: u32, payload: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(payload.len() + 8);
    prost::encoding::encode_key(number, prost::encoding::WireType::LengthDelimited, &mut out);
    prost::encoding::encode_varint(payload.len() as u64, &mut out);
    out.extend_from_slice(payload);
    out
}

/// `metadata.filter_metadata` of a route configuration with lists in lists, as bytes that no encoder has to walk.
fn nested_metadata(depth: usize) -> Vec<u8> {
    let mut value = Vec::new();
    for _ in 0..depth {
        // Value.list_value, ListValue.values
        value = field(6, &field(1, &value));
    }
    let entry = [field(1, b"k"), field(2, &value)].concat();
    let structure = field(1, &entry);
    let filter = [field(1, b"deep"), field(2, &structure)].concat();
    field(METADATA, &field(1, &filter))
}

/// `envoy.config.route.v3.RouteConfiguration.metadata`
const METADATA: u32 = 17;

/// A large message is taken; one that announces 4 GiB ends the stream (`xds::faults::a_message_that_announces_too_much`).
#[tokio::test]
async fn x12_a_resource_of_32_mebibytes() -> Result<()> {
    let Managed { management, rig } = start("GRPC").await?;
    let mut large = routes("r", "c", "large")?;
    // an unknown field is taken and counted, and not kept
    large.any.value.extend(field(1_000, &vec![b'x'; 32 << 20]));
    management.set(&RDS, "large", [large]);
    let mut connection = Client::connect(rig.addr()?).await?;
    until_mark(&mut connection, "large").await?;
    management.set(&RDS, "small", [routes("r", "c", "small")?]);
    until_mark(&mut connection, "small").await?;
    // the stream's own buffer stays as large as its largest message was until the stream ends
    management.close_streams();
    drop(connection);
    rig.passes("x12_a_resource_of_32_mebibytes").await
}
