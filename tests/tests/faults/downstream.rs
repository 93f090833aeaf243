//! Clients that connect too much, leave too early or ask for too much (T6 to T12).

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use integration::client::{Client, End};
use integration::config::{listener_with_filters, tcp_proxy};
use integration::cost::process_time;
use integration::expect::{SOON, eventually, whole_lines};
use integration::frames::{
    CONTINUATION, END_HEADERS, END_STREAM, HEADERS, frame, get_block, hello, integer, parse,
};
use integration::upstream::{Reply, Step};
use rustix::process::{Pid, Resource, Rlimit, getrlimit, prlimit};
use tokio::time::sleep;

use crate::rig::{Setup, size};

const GET: &[u8] = b"GET / HTTP/1.1\r\nhost: t\r\n\r\n";

const LIMIT: &str = "
overload_manager:
  resource_monitors:
  - name: envoy.resource_monitors.global_downstream_max_connections
    typed_config:
      \"@type\": type.googleapis.com/envoy.extensions.resource_monitors.downstream_connections.v3.DownstreamConnectionsConfig
      max_active_downstream_connections: 500
";

#[tokio::test]
async fn t06_connection_flood() -> Result<()> {
    let mut rig = Setup::http("").rest(LIMIT).start().await?;
    // as many as there are descriptors for, here and for the upstream, which is here too
    let limit = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    let count = size(2_000, 20_000).min(usize::try_from(limit)?.saturating_sub(2_000));
    let clients = rig.connect_many(count).await?;
    rig.reaches("listener.127.0.0.1_0.downstream_global_cx_overflow", i64::try_from(count - 500)?).await?;
    ensure!(rig.proxy.admin().live().await, "administration is not limited");
    drop(clients);
    rig.passes("t06_connection_flood").await
}

/// Without descriptors nothing is accepted, and nothing spins; with them, everything goes on.
#[tokio::test]
async fn t07_no_more_descriptors() -> Result<()> {
    let mut rig = Setup::http("").start().await?;
    let pid = Pid::from_raw(i32::try_from(rig.proxy.pid())?);
    let open = std::fs::read_dir(format!("/proc/{}/fd", rig.proxy.pid()))?.count() as u64;
    let maximum = getrlimit(Resource::Nofile).maximum;
    let before = prlimit(pid, Resource::Nofile, Rlimit { current: Some(open + 100), maximum })?;
    let mut clients = rig.connect_many(300).await?;
    for client in &mut clients {
        rig.send(client, b"GET / HT").await?;
    }
    eventually("no more descriptors", SOON, async || {
        rig.proxy.log().contains("out of resources").then_some(())
    })
    .await?;
    let spent = process_time(rig.proxy.pid())?;
    sleep(Duration::from_secs(1)).await;
    let spent = process_time(rig.proxy.pid())?.saturating_sub(spent);
    ensure!(spent < Duration::from_millis(250), "{spent:?} of CPU in a second without descriptors");
    ensure!(rig.proxy.log().lines().count() < 200, "the log is flooded");
    prlimit(pid, Resource::Nofile, before)?;
    // those that wait are accepted now
    let last = clients.last_mut().context("300 clients")?;
    last.send(b"TP/1.1\r\nhost: t\r\n\r\n").await?;
    ensure!(last.response("GET", SOON).await?.head.status()? == 200);
    drop(clients);
    rig.passes("t07_no_more_descriptors").await
}

#[tokio::test]
async fn t08_connect_and_reset() -> Result<()> {
    let mut rig = Setup::http("").start().await?;
    for n in 0..size(5_000, 50_000) {
        let mut client = rig.connect().await?;
        match n % 3 {
            0 => {}
            1 => rig.send(&mut client, b"GET / HT").await?,
            _ => rig.send(&mut client, GET).await?,
        }
        client.reset()?;
    }
    rig.passes("t08_connect_and_reset").await
}

/// A client of HTTP/1 that says it is done is gone, as for Envoy: nobody waits for the answer.
#[tokio::test]
async fn t09_half_close_http1() -> Result<()> {
    let mut rig = Setup::http("").start().await?;
    rig.upstream.script([Reply::steps([Step::Stall])]);
    let mut client = rig.connect().await?;
    rig.send(&mut client, GET).await?;
    rig.upstream_has(1).await?;
    client.half_close().await?;
    ensure!(client.end_within(SOON).await == End::Closed);
    rig.reaches("http.http.downstream_cx_destroy_remote_active_rq", 1).await?;
    rig.passes("t09_half_close_http1").await
}

#[tokio::test]
async fn t09_half_close_tcp() -> Result<()> {
    let tcp = listener_with_filters("tcp", &tcp_proxy("tcp", "cluster: up"));
    let rig = Setup::http("").listener(tcp).start().await?;
    let answer = [Step::Pause(Duration::from_millis(200)), Step::Send(b"HTTP/1.1 204 No\r\n\r\n".to_vec())];
    rig.upstream.script([Reply::steps(answer)]);
    let mut client = Client::connect(rig.proxy.listener("tcp")?).await?;
    client.send(GET).await?;
    client.half_close().await?;
    ensure!(client.response("GET", SOON).await?.head.status()? == 204, "the other half goes on");
    ensure!(client.end_within(SOON).await == End::Closed);
    rig.passes("t09_half_close_tcp").await
}

#[tokio::test]
async fn t09_half_close_http2() -> Result<()> {
    let mut rig = Setup::http("").start().await?;
    rig.upstream.script(std::iter::repeat_n(Reply::steps([Step::Stall]), 20));
    let mut client = rig.connect().await?;
    let mut bytes = hello();
    for n in 0..20 {
        bytes.extend(frame(HEADERS, END_HEADERS | END_STREAM, 2 * n + 1, &get_block("/")));
    }
    rig.send(&mut client, &bytes).await?;
    rig.upstream_has(20).await?;
    client.half_close().await?;
    ensure!(client.end_within(SOON).await != End::Open);
    rig.passes("t09_half_close_http2").await
}

/// A client that resets in the middle of a body takes the upstream's connection with it: that has half a request.
#[tokio::test]
async fn t10_reset_in_an_upload() -> Result<()> {
    let mut rig = Setup::http("").start().await?;
    let count = size(50, 1_000);
    for _ in 0..count {
        let mut client = rig.connect().await?;
        let mut bytes = b"POST / HTTP/1.1\r\nhost: t\r\ncontent-length: 100000\r\n\r\n".to_vec();
        bytes.resize(bytes.len() + 50_000, b'x');
        rig.send(&mut client, &bytes).await?;
        let seen = rig.received().len();
        eventually("the request upstream", SOON, async || (rig.received().len() > seen).then_some(()))
            .await
            .ok();
        client.reset()?;
    }
    let log = rig.proxy.dir().join("access.log");
    let posts = eventually("all logged", SOON, async || {
        let lines = whole_lines(&log).into_iter().filter(|line| line.contains("method=POST"));
        Some(lines.collect::<Vec<_>>()).filter(|lines| lines.len() == count)
    })
    .await?;
    let left = posts.iter().filter(|line| line.contains("|flags=DC|")).count();
    ensure!(left == count, "{left} of {count} are flagged DC");
    for request in rig.received() {
        ensure!(!request.complete, "{request:?}");
    }
    let connections: std::collections::BTreeSet<usize> =
        rig.received().iter().map(|request| request.connection).collect();
    ensure!(connections.len() == rig.received().len(), "a connection was used again");
    rig.passes("t10_reset_in_an_upload").await
}

/// Requests without number from a client that reads none of the answers: what waits is bounded.
#[tokio::test]
async fn t11_pipelining_without_reading() -> Result<()> {
    let mut rig = Setup::http("").start().await?;
    let requests = GET.repeat(size(20_000, 100_000));
    let mut client = rig.connect().await?;
    for piece in requests.chunks(16 * 1024) {
        // at some point nothing is taken any more, which is the point
        let sending = tokio::time::timeout(Duration::from_millis(500), client.send(piece)).await;
        if sending.is_err() {
            break;
        }
        rig.meter.sent(piece.len());
        let cost = rig.meter.read()?;
        ensure!(cost.held < 4 << 20, "{cost}");
    }
    client.reset()?;
    rig.passes("t11_pipelining_without_reading").await
}

/// A block that adds a cookie of that length to the dynamic table, and then refers to it again and again.
fn bomb(length: usize, references: usize) -> Vec<u8> {
    let mut block = get_block("/");
    // literal with incremental indexing, name 32 of the static table: cookie
    block.push(0x40 | 32);
    integer(&mut block, 7, 0, length);
    block.extend(std::iter::repeat_n(b'c', length));
    // index 62 is the newest of the dynamic table
    block.extend(std::iter::repeat_n(0x80 | 62, references));
    block
}

/// One cookie of 4,000 bytes in the dynamic table, and 10,000 references to it in each head (CVE-2026-47774).
#[tokio::test]
async fn t12_hpack_cookie_bomb() -> Result<()> {
    let mut rig = Setup::http("").start().await?;
    for _ in 0..size(10, 100) {
        let mut client = rig.connect().await?;
        let mut bytes = hello();
        for n in 0..100 {
            let block = bomb(4_000, 10_000);
            let (first, rest) = block.split_at(16_000.min(block.len()));
            let flags = if rest.is_empty() { END_HEADERS | END_STREAM } else { END_STREAM };
            bytes.extend(frame(HEADERS, flags, 2 * n + 1, first));
            if !rest.is_empty() {
                bytes.extend(frame(CONTINUATION, END_HEADERS, 2 * n + 1, rest));
            }
        }
        rig.send(&mut client, &bytes).await?;
        let (answer, _) = client.rest(Duration::from_millis(200)).await;
        let good = parse(&answer)
            .iter()
            .filter(|frame| frame.kind == HEADERS && frame.payload.first() == Some(&0x88))
            .count();
        ensure!(good == 0, "{good} bombs were answered with 200");
    }
    ensure!(rig.received().is_empty(), "bombs reached the upstream");
    rig.passes("t12_hpack_cookie_bomb").await
}

/// The same, with as many references as just pass the limits: what is forwarded is at most what the limits allow.
#[tokio::test]
async fn t12_hpack_references_within_the_limits() -> Result<()> {
    let mut rig = Setup::http("").start().await?;
    let mut client = rig.connect().await?;
    let mut bytes = hello();
    bytes.extend(frame(HEADERS, END_HEADERS | END_STREAM, 1, &bomb(500, 80)));
    // in the table already: a few bytes a head
    let mut again = get_block("/");
    again.extend(std::iter::repeat_n(0x80 | 62, 80));
    for n in 1..100 {
        bytes.extend(frame(HEADERS, END_HEADERS | END_STREAM, 2 * n + 1, &again));
    }
    rig.upstream.script(std::iter::repeat_n(Reply::steps([Step::Stall]), 100));
    rig.send(&mut client, &bytes).await?;
    rig.upstream_has(100).await?;
    for request in rig.received() {
        let cookies: usize =
            request.fields.iter().filter(|(name, _)| name == "cookie").map(|(_, value)| value.len()).sum();
        ensure!((500..60 << 10).contains(&cookies), "{cookies} bytes of cookies");
    }
    drop(client);
    rig.passes("t12_hpack_references_within_the_limits").await
}

/// The same with another number of references in each head, so that no two are alike: beyond what cookies of a connection may
/// hold, streams are refused; others are not touched.
#[tokio::test]
async fn t12_hpack_references_that_differ() -> Result<()> {
    const STREAMS: u32 = 50;
    let mut rig = Setup::http("").start().await?;
    let mut client = rig.connect().await?;
    let mut bytes = hello();
    bytes.extend(frame(HEADERS, END_HEADERS | END_STREAM, 1, &bomb(550, 40)));
    for n in 1..STREAMS {
        let mut again = get_block("/");
        again.extend(std::iter::repeat_n(0x80 | 62, 40 + n as usize));
        bytes.extend(frame(HEADERS, END_HEADERS | END_STREAM, 2 * n + 1, &again));
    }
    rig.upstream.script(std::iter::repeat_n(Reply::steps([Step::Stall]), STREAMS as usize));
    rig.send(&mut client, &bytes).await?;
    // RST_STREAM with REFUSED_STREAM
    let refusals = |answer: &[u8]| {
        parse(answer).iter().filter(|frame| frame.kind == 3 && frame.payload == [0, 0, 0, 7]).count()
    };
    let (answer, _) = client.rest(Duration::from_secs(1)).await;
    let refused = refusals(&answer);
    ensure!((1..STREAMS as usize - 10).contains(&refused), "{refused} streams are refused");
    rig.upstream_has(STREAMS as usize - refused).await?;
    // What was meant for those that were refused is not for others.
    rig.upstream.script([]);
    drop(client);
    rig.passes("t12_hpack_references_that_differ").await
}
