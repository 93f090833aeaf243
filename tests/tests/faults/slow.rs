//! Peers that are slow on purpose (T1 to T5).

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use integration::client::End;
use integration::expect::SOON;
use integration::frames::{END_HEADERS, END_STREAM, HEADERS, PREFACE, SETTINGS, frame, get_block, hello};
use integration::upstream::{Reply, Step};
use tokio::time::sleep;

use crate::rig::{Setup, size};

/// Between two bytes of a slow peer.
const DRIP: Duration = Duration::from_millis(100);

#[tokio::test]
async fn t01_slowloris_headers() -> Result<()> {
    let mut rig = Setup::http("request_headers_timeout: 1s").start().await?;
    let count = size(500, 5_000);
    let mut clients = rig.connect_many(count).await?;
    for client in &mut clients {
        rig.send(client, b"GET / HTTP/1.1\r\nhost: t\r\nx-slow: ").await?;
    }
    let start = Instant::now();
    while start.elapsed() < Duration::from_millis(800) {
        for client in &mut clients {
            rig.send(client, b"a").await?;
        }
        rig.serves().await?;
        sleep(DRIP).await;
    }
    for client in &mut clients {
        let response = client.response("GET", SOON).await?;
        ensure!(response.head.status()? == 408, "{:?}", response.head);
        ensure!(client.end_within(SOON).await == End::Closed);
    }
    rig.reaches("http.http.downstream_rq_header_timeout", i64::try_from(count)?).await?;
    ensure!(rig.received().is_empty());
    rig.passes("t01_slowloris_headers").await
}

#[tokio::test]
async fn t01_connections_that_say_nothing() -> Result<()> {
    let mut rig = Setup::http("common_http_protocol_options: {idle_timeout: 1s}").start().await?;
    let count = size(500, 5_000);
    let mut clients = rig.connect_many(count).await?;
    for client in &mut clients {
        ensure!(client.end_within(SOON).await == End::Closed);
    }
    rig.reaches("http.http.downstream_cx_idle_timeout", i64::try_from(count)?).await?;
    rig.passes("t01_connections_that_say_nothing").await
}

#[tokio::test]
async fn t01_half_an_http2_preface() -> Result<()> {
    let mut rig = Setup::http("common_http_protocol_options: {idle_timeout: 1s}").start().await?;
    let count = size(300, 5_000);
    let mut clients = rig.connect_many(count).await?;
    for client in &mut clients {
        rig.send(client, &PREFACE[..10]).await?;
    }
    for client in &mut clients {
        ensure!(client.end_within(SOON).await != End::Open);
    }
    rig.passes("t01_half_an_http2_preface").await
}

/// A head that lacks its last frame holds a connection no longer than an idle one may be, and `drain_timeout`.
#[tokio::test]
async fn t01_an_http2_head_that_never_ends() -> Result<()> {
    let options = "common_http_protocol_options: {idle_timeout: 1s}\ndrain_timeout: 1s";
    let mut rig = Setup::http(options).start().await?;
    let count = size(300, 5_000);
    let bytes = [hello(), frame(HEADERS, END_STREAM, 1, &get_block("/"))].concat();
    let mut clients = rig.connect_many(count).await?;
    for client in &mut clients {
        rig.send(client, &bytes).await?;
    }
    for client in &mut clients {
        ensure!(client.end_within(SOON).await != End::Open);
    }
    rig.passes("t01_an_http2_head_that_never_ends").await
}

/// Each mode of somebody else's slow client; it asks by itself whether the service is still there for others.
#[tokio::test]
async fn t05_slowhttptest() -> Result<()> {
    let options = "request_headers_timeout: 2s\nstream_idle_timeout: 2s\nrequest_timeout: 3s";
    for mode in ["-H", "-B", "-R", "-X"] {
        let mut rig = Setup::http(options).start().await?;
        // another process sends
        rig.measured = false;
        rig.upstream.answer(Reply::raw(format!(
            "HTTP/1.1 200 OK\r\ncontent-length: 65536\r\n\r\n{}",
            "x".repeat(65_536)
        )));
        let (count, url) = (size(200, 1_000).to_string(), format!("http://{}/", rig.addr()?));
        // It ends by itself, after `-l` seconds at the latest.
        let slow = tokio::task::spawn_blocking(move || {
            std::process::Command::new("slowhttptest")
                .args([mode, "-c", &count, "-r", "500", "-i", "1", "-l", "6", "-p", "3", "-u", &url])
                .output()
        });
        let output = slow.await?.context("slowhttptest: scripts/apt.sh slowhttptest")?;
        let text = String::from_utf8_lossy(&output.stdout);
        ensure!(text.contains("service available") && text.contains("YES"), "{mode}: {text}");
        ensure!(!text.contains("NO"), "{mode}: {text}");
        rig.passes("t05_slowhttptest").await?;
    }
    Ok(())
}

const POST: &[u8] = b"POST / HTTP/1.1\r\nhost: t\r\ncontent-length: 10000000\r\n\r\n";

#[tokio::test]
async fn t02_a_body_that_stops() -> Result<()> {
    let mut rig = Setup::http("stream_idle_timeout: 1s").start().await?;
    let count = size(50, 500);
    let mut clients = rig.connect_many(count).await?;
    for client in &mut clients {
        rig.send(client, POST).await?;
        rig.send(client, b"a").await?;
    }
    for client in &mut clients {
        let response = client.response("POST", SOON).await?;
        ensure!(response.head.status()? == 408, "{:?}", response.head);
        ensure!(client.end_within(SOON).await == End::Closed);
    }
    rig.reaches("http.http.downstream_rq_idle_timeout", i64::try_from(count)?).await?;
    ensure!(rig.received().iter().all(|request| !request.complete));
    rig.passes("t02_a_body_that_stops").await
}

/// Who sends a byte now and then is never idle, but has `request_timeout`.
#[tokio::test]
async fn t02_a_body_that_drips() -> Result<()> {
    let mut rig = Setup::http("stream_idle_timeout: 1s\nrequest_timeout: 2s").start().await?;
    let mut clients = rig.connect_many(size(20, 200)).await?;
    for client in &mut clients {
        rig.send(client, POST).await?;
    }
    let start = Instant::now();
    while start.elapsed() < Duration::from_secs(3) {
        for client in &mut clients {
            rig.send(client, b"a").await?;
        }
        sleep(DRIP).await;
    }
    for client in &mut clients {
        let response = client.response("POST", SOON).await?;
        ensure!(response.head.status()? == 408, "{:?}", response.head);
    }
    drop(clients);
    rig.passes("t02_a_body_that_drips").await
}

/// Responses that nobody reads: of each no more than buffers are held, the upstream is not read further, and the stream ends
/// when nothing moves any more.
#[tokio::test]
async fn t03_slow_read() -> Result<()> {
    const BODY: usize = 16 << 20;
    let mut rig = Setup::http("stream_idle_timeout: 2s").start().await?;
    let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {BODY}\r\n\r\n");
    let large = [head.into_bytes(), vec![b'x'; BODY]].concat();
    let count = size(40, 200);
    rig.upstream.script(std::iter::repeat_n(Reply::steps([Step::Send(large)]), count));
    let mut clients = rig.connect_many(count).await?;
    for client in &mut clients {
        rig.send(client, b"GET / HTTP/1.1\r\nhost: t\r\n\r\n").await?;
    }
    rig.reaches("http.http.downstream_rq_idle_timeout", i64::try_from(count)?).await?;
    let held = rig.meter.read()?.held;
    // 1 MiB is the limit of a connection's buffers unless `per_connection_buffer_limit_bytes` says otherwise
    ensure!(held < (count as u64) << 20, "{held} bytes held for {count} connections");
    drop(clients);
    // what is held is the upstream's, and bounded by the rule above
    rig.measured = false;
    rig.passes("t03_slow_read").await
}

/// Responses that the window lets through nothing of.
#[tokio::test]
async fn t04_zero_window() -> Result<()> {
    let mut rig = Setup::http("stream_idle_timeout: 1s").start().await?;
    let window = [0, 4, 0, 0, 0, 0];
    let mut client = rig.connect().await?;
    let mut bytes = [hello(), frame(SETTINGS, 0, 0, &window)].concat();
    for n in 0..100 {
        bytes.extend(frame(HEADERS, END_HEADERS | END_STREAM, 2 * n + 1, &get_block("/")));
    }
    rig.send(&mut client, &bytes).await?;
    rig.reaches("http2.tx_flush_timeout", 100).await?;
    rig.upstream_has(100).await?;
    drop(client);
    rig.passes("t04_zero_window").await
}

/// Of responses that the window lets through nothing of, no more than the limit of a connection's buffers waits, and a piece
/// of each: the rest is not read.
#[tokio::test]
async fn t04_zero_window_and_large_responses() -> Result<()> {
    const BODY: usize = 4 << 20;
    const STREAMS: u32 = 50;
    let mut rig = Setup::http("stream_idle_timeout: 2s").start().await?;
    let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {BODY}\r\n\r\n");
    let large = [head.into_bytes(), vec![b'x'; BODY]].concat();
    rig.upstream.script(std::iter::repeat_n(Reply::steps([Step::Send(large)]), STREAMS as usize));
    let mut client = rig.connect().await?;
    let mut bytes = [hello(), frame(SETTINGS, 0, 0, &[0, 4, 0, 0, 0, 0])].concat();
    for n in 0..STREAMS {
        bytes.extend(frame(HEADERS, END_HEADERS | END_STREAM, 2 * n + 1, &get_block("/")));
    }
    rig.send(&mut client, &bytes).await?;
    rig.upstream_has(STREAMS as usize).await?;
    rig.reaches("http.http.downstream_rq_idle_timeout", STREAMS.into()).await?;
    let held = rig.meter.read()?.held;
    ensure!(held < 4 << 20, "{held} bytes held");
    drop(client);
    // what is held is the upstream's, and bounded by the rule above
    rig.measured = false;
    rig.passes("t04_zero_window_and_large_responses").await
}
