//! Long bodies over HTTP/1, which no filter looks at: they arrive whole, are counted, and what ends them early is told.

use std::time::Duration;

use anyhow::{Result, ensure};
use integration::client::{Client, End};
use integration::config::{HttpListener, bootstrap, cluster, fill, port};
use integration::expect::{SOON, eventually, within};
use integration::process::{Binary, Proxy};
use integration::upstream::{Reply, Step, Upstream};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpSocket;

const LENGTH: usize = 3_000_000;

async fn start() -> Result<(Proxy, Upstream)> {
    start_with(HttpListener::to_up("http")).await
}

async fn start_with(listener: HttpListener) -> Result<(Proxy, Upstream)> {
    let upstream = Upstream::start().await?;
    let yaml = bootstrap(&[listener.yaml()], &[cluster("up", "up", "")], "");
    let yaml = fill(&yaml, [("up", port(upstream.addr()))]);
    Ok((Proxy::start(&Binary::subject()?, &yaml).await?, upstream))
}

fn content(length: usize) -> Vec<u8> {
    (0..length).map(|at| (at % 251) as u8).collect()
}

/// A response that announces [`LENGTH`] bytes and has `length` of them.
fn response(length: usize) -> Vec<u8> {
    let mut bytes = format!("HTTP/1.1 200 OK\r\ncontent-length: {LENGTH}\r\n\r\n").into_bytes();
    bytes.extend(content(length));
    bytes
}

async fn ask(client: &mut Client) -> Result<()> {
    client.send(b"GET / HTTP/1.1\r\nhost: test\r\n\r\n").await
}

#[tokio::test]
async fn long_bodies_arrive_whole_and_leave_the_connections_usable() -> Result<()> {
    let (proxy, upstream) = start().await?;
    upstream.answer(Reply::raw(response(LENGTH)));
    let mut client = Client::connect(proxy.listener("http")?).await?;
    for round in 1..=3 {
        ask(&mut client).await?;
        let response = client.response("GET", SOON).await?;
        ensure!(response.complete && response.body == content(LENGTH), "round {round}");
    }
    ensure!(upstream.opened() == 1, "{} upstream connections", upstream.opened());
    let least = i64::try_from(3 * LENGTH)?;
    eventually("bytes counted on both sides", SOON, async || {
        let sent = proxy.admin().stat("http.http.downstream_cx_tx_bytes_total").await.ok()?;
        let received = proxy.admin().stat("cluster.up.upstream_cx_rx_bytes_total").await.ok()?;
        let fits = |count: i64| (least..least + 3_000).contains(&count);
        (fits(sent) && fits(received)).then_some(())
    })
    .await
}

#[tokio::test]
async fn a_client_sees_that_a_long_body_was_cut() -> Result<()> {
    let (proxy, upstream) = start().await?;
    upstream.answer(Reply::raw_then_close(response(LENGTH / 2)));
    let mut client = Client::connect(proxy.listener("http")?).await?;
    ask(&mut client).await?;
    let response = client.response("GET", SOON).await?;
    ensure!(!response.complete && response.body == content(LENGTH / 2), "{} bytes", response.body.len());
    ensure!(client.end_within(SOON).await != End::Open, "the connection stays open");
    Ok(())
}

#[tokio::test]
async fn an_upstream_learns_that_the_client_left_amid_a_long_body() -> Result<()> {
    let (proxy, upstream) = start().await?;
    upstream.answer(Reply::steps([Step::Send(response(LENGTH / 2)), Step::Stall]));
    let mut client = Client::connect(proxy.listener("http")?).await?;
    ask(&mut client).await?;
    client.at_least(LENGTH / 2, SOON).await?;
    ensure!(upstream.open() == 1, "{} open", upstream.open());
    drop(client);
    eventually("the upstream connection ends", SOON, async || (upstream.open() == 0).then_some(())).await
}

/// The host says all of its head and none of its body until it has the whole request.
#[tokio::test]
async fn the_end_of_a_request_reaches_a_host_that_began_a_long_response() -> Result<()> {
    let (proxy, upstream) = start().await?;
    let whole = response(LENGTH);
    let (head, body) = whole.split_at(whole.len() - LENGTH);
    for end in ["0\r\n\r\n", "5\r\nworld\r\n0\r\n\r\n"] {
        upstream.script([Reply::early([
            Step::Send(head.to_vec()),
            Step::ReadBody,
            Step::Send(body.to_vec()),
        ])]);
        let mut client = Client::connect(proxy.listener("http")?).await?;
        client
            .send(b"POST / HTTP/1.1\r\nhost: test\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n")
            .await?;
        let mut got = client.at_least(1, SOON).await?;
        client.send(end.as_bytes()).await?;
        while !got.ends_with(body) {
            ensure!(got.len() < 2 * LENGTH, "another body");
            got.extend(client.at_least(1, SOON).await?);
        }
    }
    Ok(())
}

/// What the host said to its end is the client's, however long that takes to read it.
#[tokio::test]
async fn a_complete_response_outlives_the_timeout_of_its_route() -> Result<()> {
    // as little as the kernel can be made to take: SO_SNDBUF here, SO_RCVBUF there
    let listener = HttpListener::new("http", "- match: {prefix: /}\n  route: {cluster: up, timeout: 1s}")
        .listener("socket_options: [{level: 1, name: 7, int_value: 1}]");
    let (proxy, upstream) = start_with(listener).await?;
    const LENGTH: usize = 12_000;
    let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {LENGTH}\r\n\r\n").into_bytes();
    upstream.answer(Reply::raw([head, content(LENGTH)].concat()));
    let socket = TcpSocket::new_v4()?;
    socket.set_recv_buffer_size(1)?;
    let mut client = socket.connect(proxy.listener("http")?).await?;
    client.write_all(b"GET / HTTP/1.1\r\nhost: test\r\n\r\n").await?;
    eventually("the host is done", SOON, async || {
        let name = "cluster.up.upstream_rq_completed";
        proxy.admin().stat(name).await.is_ok_and(|count| count == 1).then_some(())
    })
    .await?;
    // the time that must not matter
    tokio::time::sleep(Duration::from_millis(1500)).await;
    let sent = proxy.admin().stat("http.http.downstream_cx_tx_bytes_total").await?;
    ensure!(sent < LENGTH.try_into()?, "the kernel took all of it: {sent}");
    let body = content(LENGTH);
    let mut answer = Vec::new();
    while !answer.ends_with(&body) {
        let count = within("the rest", SOON, client.read_buf(&mut answer)).await??;
        ensure!(count > 0, "cut after {} octets", answer.len());
    }
    ensure!(proxy.admin().stat("cluster.up.upstream_rq_timeout").await? == 0, "timed out");
    Ok(())
}
