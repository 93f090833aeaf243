//! Requests whose body the host does not take, and clients that do not wait for it.

use std::time::Duration;

use anyhow::{Result, ensure};
use integration::client::Client;
use integration::config::{cluster, fill, port};
use integration::expect::SOON;
use integration::frames::{ACK, DATA, END_HEADERS, HEADERS, RST_STREAM, SETTINGS, block, frame, hello};
use integration::process::Proxy;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::time::{sleep, timeout};

use crate::host::{Host, Served, settings};
use crate::{start, stat_becomes};

/// `CANCEL` (RFC 9113, section 7).
const CANCEL: [u8; 4] = [0, 0, 0, 8];
/// What an upload is made of; no octet of a head.
const BODY: u8 = 0xff;

/// Begins a POST over HTTP/2, without any of its body.
async fn post(proxy: &Proxy, path: &str) -> Result<Client> {
    let mut client = Client::connect(proxy.listener("http")?).await?;
    let head = [(":method", "POST"), (":scheme", "http"), (":authority", "test"), (":path", path)];
    client.send(&[hello(), frame(HEADERS, END_HEADERS, 1, &block(&head))].concat()).await?;
    Ok(client)
}

/// DATA frames with so many octets together.
fn data(octets: usize) -> Vec<u8> {
    vec![b'x'; octets].chunks(16_384).flat_map(|piece| frame(DATA, 0, 1, piece)).collect()
}

/// A request whose body the host, which has its head, allows nothing of.
async fn without_window(proxy: &Proxy, host: &Host) -> Result<(Client, Served, u32)> {
    let mut client = post(proxy, "/up").await?;
    let mut served = host.accept().await?;
    served.send(&[settings(&[(4, 0)]), frame(SETTINGS, ACK, 0, &[])].concat()).await?;
    let stream = served.requests(1).await?[0];
    // the limit is in force once it is acknowledged
    served.until(|frame| frame.kind == SETTINGS && frame.flags & ACK != 0).await?;
    client.send(&data(50_000)).await?;
    Ok((client, served, stream))
}

#[tokio::test]
async fn a_host_without_window_learns_that_the_client_reset() -> Result<()> {
    let host = Host::start().await?;
    let proxy = start(&[host.cluster("up", "", "")?], "").await?;
    let (mut client, mut served, stream) = without_window(&proxy, &host).await?;
    stat_becomes(&proxy, "cluster.up.upstream_rq_active", 1).await?;
    client.send(&frame(RST_STREAM, 0, 1, &CANCEL)).await?;
    served.until(|frame| frame.kind == RST_STREAM && frame.stream == stream).await?;
    stat_becomes(&proxy, "cluster.up.upstream_rq_active", 0).await?;
    stat_becomes(&proxy, "http.http.downstream_rq_active", 0).await?;
    stat_becomes(&proxy, "http.http.downstream_rq_rx_reset", 1).await
}

#[tokio::test]
async fn a_host_without_window_learns_that_the_client_left() -> Result<()> {
    let host = Host::start().await?;
    let proxy = start(&[host.cluster("up", "", "")?], "").await?;
    let (client, mut served, stream) = without_window(&proxy, &host).await?;
    stat_becomes(&proxy, "cluster.up.upstream_rq_active", 1).await?;
    client.reset()?;
    served.until(|frame| frame.kind == RST_STREAM && frame.stream == stream).await?;
    stat_becomes(&proxy, "cluster.up.upstream_rq_active", 0).await?;
    stat_becomes(&proxy, "http.http.downstream_rq_active", 0).await
}

/// The same, where it is the socket to the host that takes nothing more.
#[tokio::test]
async fn a_host_that_reads_nothing_learns_that_the_client_reset() -> Result<()> {
    let host = TcpListener::bind("127.0.0.1:0").await?;
    let up = fill(&cluster("up", "up", ""), [("up", port(host.local_addr()?))]);
    let proxy = start(&[("up", up)], "").await?;
    let mut client = post(&proxy, "/up").await?;
    let (unread, _) = host.accept().await?;
    client.send(&data(14 << 20)).await?;
    stat_becomes(&proxy, "cluster.up.upstream_rq_active", 1).await?;
    client.send(&frame(RST_STREAM, 0, 1, &CANCEL)).await?;
    stat_becomes(&proxy, "cluster.up.upstream_rq_active", 0).await?;
    stat_becomes(&proxy, "cluster.up.upstream_cx_active", 0).await?;
    drop(unread);
    Ok(())
}

/// The same over HTTP/1, where what the client sent before is not read yet.
#[tokio::test]
async fn a_host_that_reads_nothing_learns_that_an_http1_client_left() -> Result<()> {
    let host = TcpListener::bind("127.0.0.1:0").await?;
    let up = fill(&cluster("up", "up", ""), [("up", port(host.local_addr()?))]);
    let proxy = start(&[("up", up)], "").await?;
    let mut client = Client::connect(proxy.listener("http")?).await?;
    client.send(b"POST /up HTTP/1.1\r\nhost: test\r\ncontent-length: 100000000\r\n\r\n").await?;
    let (unread, _) = host.accept().await?;
    // More than the buffers between them hold does not leave before the client does.
    let body = vec![BODY; 1 << 20];
    while timeout(Duration::from_millis(300), client.send(&body)).await.is_ok() {}
    stat_becomes(&proxy, "cluster.up.upstream_rq_active", 1).await?;
    client.reset()?;
    stat_becomes(&proxy, "cluster.up.upstream_rq_active", 0).await?;
    stat_becomes(&proxy, "cluster.up.upstream_cx_active", 0).await?;
    stat_becomes(&proxy, "http.http.downstream_cx_active", 0).await?;
    stat_becomes(&proxy, "http.http.downstream_rq_rx_reset", 1).await?;
    stat_becomes(&proxy, "http.http.downstream_cx_destroy_remote_active_rq", 1).await?;
    drop(unread);
    Ok(())
}

/// A client that sends on after a pause of its host's is heard: what came meanwhile is not forgotten.
#[tokio::test]
async fn an_upload_that_waits_for_its_host_goes_on() -> Result<()> {
    let host = TcpListener::bind("127.0.0.1:0").await?;
    let up = fill(&cluster("up", "up", ""), [("up", port(host.local_addr()?))]);
    let proxy = start(&[("up", up)], "").await?;
    let mut client = Client::connect(proxy.listener("http")?).await?;
    let length = 24_usize << 20;
    client
        .send(format!("POST /up HTTP/1.1\r\nhost: test\r\ncontent-length: {length}\r\n\r\n").as_bytes())
        .await?;
    let (mut slow, _) = host.accept().await?;
    let sends = tokio::spawn(async move {
        client.send(&vec![BODY; length]).await?;
        client.response("POST", SOON).await
    });
    let (mut received, mut buffer) = (0, vec![0; 1 << 20]);
    while received < length {
        // The buffers between them fill up again and again.
        sleep(Duration::from_millis(10)).await;
        let read = slow.read(&mut buffer).await?;
        ensure!(read > 0, "after {received} octets");
        received += buffer[..read].iter().filter(|octet| **octet == BODY).count();
    }
    slow.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await?;
    let response = sends.await??;
    ensure!(response.head.line == "HTTP/1.1 200 OK", "{:?}", response.head);
    Ok(())
}
