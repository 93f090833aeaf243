//! Many idle HTTP/1 connections: all but a few are a socket and deadlines, and are served again as if they had never rested.

use std::time::Duration;

use anyhow::{Result, ensure};
use integration::client::{Client, End};
use integration::config::{HttpListener, bootstrap, cluster, fill, port};
use integration::expect::{SOON, eventually};
use integration::process::{Binary, Proxy};
use integration::upstream::{Reply, Step, Upstream};

/// More than a worker keeps warm.
const MANY: usize = 300;

async fn start(options: &str) -> Result<(Proxy, Upstream)> {
    let upstream = Upstream::start().await?;
    upstream.answer(Reply::ok());
    let listener = HttpListener::to_up("http").options(options).yaml();
    let yaml = fill(&bootstrap(&[listener], &[cluster("up", "up", "")], ""), [("up", port(upstream.addr()))]);
    Ok((Proxy::start_with(&Binary::subject()?, &yaml, &["--concurrency", "1"]).await?, upstream))
}

async fn many(proxy: &Proxy) -> Result<Vec<Client>> {
    let mut clients = Vec::new();
    for _ in 0..MANY {
        clients.push(Client::connect(proxy.listener("http")?).await?);
    }
    Ok(clients)
}

/// One request on each connection; two at once on every third.
async fn ask(clients: &mut [Client]) -> Result<()> {
    for (at, client) in clients.iter_mut().enumerate() {
        let count = if at % 3 == 0 { 2 } else { 1 };
        client.send("GET / HTTP/1.1\r\nhost: test\r\n\r\n".repeat(count).as_bytes()).await?;
        for _ in 0..count {
            let response = client.response("GET", SOON).await?;
            ensure!(response.head.status()? == 200 && response.complete, "connection {at}: {response:?}");
        }
    }
    Ok(())
}

#[tokio::test]
async fn connections_that_rested_serve_again() -> Result<()> {
    let (proxy, _upstream) = start("").await?;
    let mut clients = many(&proxy).await?;
    for _ in 0..3 {
        ask(&mut clients).await?;
    }
    let requests = i64::try_from(3 * (MANY + MANY.div_ceil(3)))?;
    let count = proxy.admin().stat("http.http.downstream_rq_2xx").await?;
    ensure!(count == requests, "{count} requests of {requests}");
    drop(clients);
    eventually("every connection is closed", SOON, async || {
        let stats = proxy.admin().stats("^http.http.downstream_cx_(http1_)?active$").await.ok()?;
        stats.values().all(|value| *value == 0).then_some(())
    })
    .await
}

#[tokio::test]
async fn connections_that_rest_end_by_their_timeout() -> Result<()> {
    let (proxy, _upstream) = start("common_http_protocol_options: {idle_timeout: 2s}").await?;
    let mut clients = many(&proxy).await?;
    ask(&mut clients).await?;
    for client in &mut clients {
        ensure!(client.end_within(SOON + Duration::from_secs(2)).await == End::Closed, "stays open");
    }
    let idle = proxy.admin().stat("http.http.downstream_cx_idle_timeout").await?;
    ensure!(idle == i64::try_from(MANY)?, "{idle} ended by their timeout");
    Ok(())
}

/// Whatever a client has said so far, or not: its connection ends when it is too old. (Envoy leaves the second one open.)
#[tokio::test]
async fn connections_end_at_their_age_before_any_request() -> Result<()> {
    let (proxy, _upstream) = start("common_http_protocol_options: {max_connection_duration: 1s}").await?;
    let mut clients = Vec::new();
    for said in ["", "PRI * HTTP", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"] {
        let mut client = Client::connect(proxy.listener("http")?).await?;
        client.send(said.as_bytes()).await?;
        clients.push((said, client));
    }
    for (said, client) in &mut clients {
        ensure!(client.end_within(SOON).await != End::Open, "{said:?}: stays open");
    }
    let counts =
        "^http.http.downstream_cx_(max_duration_reached|destroy_local|destroy|protocol_error|idle_timeout)$";
    let wanted = [
        ("max_duration_reached", 3),
        ("destroy_local", 3),
        ("destroy", 3),
        ("protocol_error", 0),
        ("idle_timeout", 0),
    ];
    // A client learns of the end before it is counted.
    eventually("every end is counted for what it was", SOON, async || {
        let stats = proxy.admin().stats(counts).await.ok()?;
        let count = |name| stats.get(&format!("http.http.downstream_cx_{name}")).copied().unwrap_or(0);
        wanted.iter().all(|(name, wanted)| count(name) == *wanted).then_some(())
    })
    .await?;
    Ok(())
}

/// One that gets too old while it is answered ends with the answer, and counts.
#[tokio::test]
async fn a_connection_that_gets_old_with_a_request_is_counted() -> Result<()> {
    let (proxy, upstream) = start("common_http_protocol_options: {max_connection_duration: 0.3s}").await?;
    let ok = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n".to_vec();
    upstream.answer(Reply::steps([Step::Pause(Duration::from_millis(600)), Step::Send(ok)]));
    let mut client = Client::connect(proxy.listener("http")?).await?;
    client.send(b"GET / HTTP/1.1\r\nhost: test\r\n\r\n").await?;
    let response = client.response("GET", SOON).await?;
    ensure!(response.head.connection_says("close"), "{response:?}");
    eventually("it is counted", SOON, async || {
        let name = "http.http.downstream_cx_max_duration_reached";
        (proxy.admin().stat(name).await.ok()? == 1).then_some(())
    })
    .await?;
    proxy.stop().await
}
