//! Upstreams that answer too much, too early or not as gRPC wants it (T18 to T20).

use std::time::Duration;

use anyhow::{Result, ensure};
use bytes::Bytes;
use integration::client::{End, H2Client};
use integration::config::{H2_CLUSTER, HttpListener, cluster, port};
use integration::expect::SOON;
use integration::http1::field;
use integration::upstream::h2::{H2Reply, H2Upstream};
use integration::upstream::{Reply, Step};

use crate::rig::{Rig, Setup, size};

const GET: &[u8] = b"GET / HTTP/1.1\r\nhost: t\r\n\r\n";
const OK: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";

async fn flood(line: &str) -> Result<()> {
    let mut rig = Setup::http("").start().await?;
    let interim = format!("HTTP/1.1 {line}\r\n\r\n").repeat(1_000).into_bytes();
    let count = size(100, 1_000);
    let mut steps: Vec<Step> = std::iter::repeat_n(Step::Send(interim.clone()), count).collect();
    steps.push(Step::Send(OK.to_vec()));
    rig.upstream.script([Reply::steps(steps)]);
    rig.meter.sent(interim.len() * count);
    let mut client = rig.connect().await?;
    rig.send(&mut client, GET).await?;
    let mut status = 100;
    while status < 200 {
        status = client.response("GET", SOON * 3).await?.head.status()?;
    }
    ensure!([200, 502].contains(&status), "{status}");
    drop(client);
    // here the upstream is the one that attacks: its thread is not the client's
    let cost = rig.meter.read()?;
    ensure!(cost.held < 8 << 20, "{cost}");
    rig.measured = false;
    rig.passes(&format!("t18 {line}")).await
}

/// As many of them as the upstream likes cost no memory, and the answer after them counts.
#[tokio::test]
async fn t18_flood_of_continues() -> Result<()> {
    flood("100 Continue").await
}

#[tokio::test]
async fn t18_flood_of_early_hints() -> Result<()> {
    flood("103 Early Hints").await
}

/// A head of an interim response that never ends is no head.
#[tokio::test]
async fn t18_interim_headers_without_end() -> Result<()> {
    let mut rig = Setup::http("").start().await?;
    let head =
        [b"HTTP/1.1 103 Early Hints\r\n".to_vec(), b"link: </a>; rel=preload\r\n".repeat(20_000)].concat();
    rig.upstream.script([Reply::raw(head)]);
    let mut client = rig.connect().await?;
    rig.send(&mut client, GET).await?;
    ensure!(client.response("GET", SOON).await?.head.status()? == 502);
    drop(client);
    rig.passes("t18_interim_headers_without_end").await
}

async fn early(last: Option<Step>, name: &str) -> Result<()> {
    let mut rig = Setup::http("").start().await?;
    let steps = [Step::Send(OK.to_vec())].into_iter().chain(last);
    rig.upstream.script([Reply::early(steps)]);
    let mut client = rig.connect().await?;
    rig.send(&mut client, b"POST / HTTP/1.1\r\nhost: t\r\ncontent-length: 1000000\r\n\r\n").await?;
    rig.send(&mut client, &[b'x'; 10_000]).await?;
    let response = client.response("POST", SOON).await?;
    ensure!(response.head.status()? == 200 && response.body == b"ok", "{response:?}");
    // the client goes on sending: the proxy takes it or closes, but does not hang
    let rest = vec![b'x'; 990_000];
    let _ = client.send(&rest).await;
    ensure!(client.end_within(SOON).await != End::Open, "{name}: still open after an early answer");
    rig.passes(name).await
}

#[tokio::test]
async fn t19_early_answer_and_reading_on() -> Result<()> {
    early(None, "t19_early_answer_and_reading_on").await
}

#[tokio::test]
async fn t19_early_answer_and_close() -> Result<()> {
    early(Some(Step::Close), "t19_early_answer_and_close").await
}

#[tokio::test]
async fn t19_early_answer_and_silence() -> Result<()> {
    early(Some(Step::Stall), "t19_early_answer_and_silence").await
}

/// One gRPC call over HTTP/2 in and out: status and `grpc-status`, and where that was.
async fn call(reply: H2Reply) -> Result<(Rig, u16, Option<String>, Option<String>)> {
    let two = H2Upstream::start().await?;
    two.script([reply]);
    let routes = "- match: {prefix: /grpc}\n  route: {cluster: two, timeout: 2s}\n- match: {prefix: /}\n  route: {cluster: up}";
    let cluster = cluster("two", "two", H2_CLUSTER).replace("{{two}}", &port(two.addr()));
    let rig = Setup::of(HttpListener::new("http", routes)).cluster(cluster).start().await?;
    let client = H2Client::connect(rig.addr()?).await?;
    let request = http::Request::post("http://t/grpc/Call")
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(Bytes::from_static(&[0; 5]))?;
    let response = client.request(request, None).await?;
    drop(client);
    two.forget();
    tokio::time::sleep(Duration::ZERO).await;
    let of = |fields| field(fields, "grpc-status").map(str::to_owned);
    Ok((rig, response.status, of(&response.fields), of(&response.trailers)))
}

fn grpc(body: &str) -> H2Reply {
    H2Reply::new(200, body).field("content-type", "application/grpc")
}

#[tokio::test]
async fn t20_grpc_trailers_only() -> Result<()> {
    let (rig, status, head, trailers) = call(grpc("").field("grpc-status", "7")).await?;
    ensure!((status, head.as_deref(), trailers) == (200, Some("7"), None));
    rig.reaches("cluster.two.upstream_rq_200", 1).await?;
    rig.passes("t20_grpc_trailers_only").await
}

/// What is missing is not made up: the client sees that it is.
#[tokio::test]
async fn t20_grpc_without_status() -> Result<()> {
    let (rig, status, head, trailers) = call(grpc("\0\0\0\0\0")).await?;
    ensure!((status, head, trailers) == (200, None, None));
    rig.passes("t20_grpc_without_status").await
}

#[tokio::test]
async fn t20_grpc_status_in_the_head_of_a_body() -> Result<()> {
    let reply = grpc("\0\0\0\0\0").field("grpc-status", "3").trailer("grpc-status", "0");
    let (rig, status, head, trailers) = call(reply).await?;
    ensure!((status, head.as_deref(), trailers.as_deref()) == (200, Some("3"), Some("0")));
    rig.passes("t20_grpc_status_in_the_head_of_a_body").await
}

/// An upstream that resets becomes a status that gRPC knows.
#[tokio::test]
async fn t20_grpc_reset() -> Result<()> {
    let (rig, status, head, trailers) = call(H2Reply::refuse(2)).await?;
    ensure!((status, head.as_deref(), trailers) == (200, Some("14"), None));
    rig.passes("t20_grpc_reset").await
}
