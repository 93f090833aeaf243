//! Panics inside the proxy (S3): one stream ends, or one connection where nothing smaller can; everything else goes on.
//!
//! Builds with debug assertions panic where the runtime key `testing.panic.<place>` says so; a request names the place too, so
//! that others beside it do not. What is shipped has no such places, which `.ci/run` looks for in the binary.

use anyhow::{Context, Result, ensure};
use integration::client::{Client, End};
use integration::config::{H2_CLUSTER, HttpListener, cluster, listener_with_filters, port, tcp_proxy};
use integration::expect::SOON;
use integration::frames::{DATA, END_HEADERS, END_STREAM, HEADERS, RST_STREAM, block, frame, hello, parse};
use integration::process::Binary;
use integration::upstream::h2::H2Upstream;

use crate::rig::{Rig, Setup};

/// Places in a stream at which it may panic.
const PLACES: [&str; 4] = ["request", "response", "body", "complete"];

/// A rig of the build that has drills, whatever else the suite runs.
async fn start(setup: Setup) -> Result<Rig> {
    let mut rig = setup.binary(Binary::debug()?).start().await?;
    rig.measured = false;
    rig.panics = true;
    Ok(rig)
}

async fn arm(rig: &Rig, place: &str, armed: bool) -> Result<()> {
    let path = format!("/runtime_modify?testing.panic.{place}={armed}");
    let answer = rig.proxy.admin().request("POST", &path).await?;
    ensure!(answer.status == 200, "{answer:?}");
    Ok(())
}

async fn panicked(rig: &Rig, count: usize) -> Result<()> {
    rig.reaches("server.envoy_bug_failures", i64::try_from(count)?).await?;
    let counted = rig.proxy.admin().stat("server.envoy_bug_failures").await?;
    ensure!(counted == i64::try_from(count)?, "{counted} panics");
    Ok(())
}

#[tokio::test]
async fn s03_a_panic_ends_one_http1_connection() -> Result<()> {
    let mut rig = start(Setup::http("").rest(ADMIN_LAYER)).await?;
    let mut beside = rig.connect().await?;
    beside.send(b"POST / HTTP/1.1\r\nhost: t\r\ncontent-length: 5\r\n\r\n").await?;
    for place in PLACES {
        arm(&rig, place, true).await?;
    }
    for (n, place) in PLACES.into_iter().enumerate() {
        let mut client = rig.connect().await?;
        client.send(format!("GET / HTTP/1.1\r\nhost: t\r\nx-panic: {place}\r\n\r\n").as_bytes()).await?;
        ensure!(client.end_within(SOON).await != End::Open, "{place}");
        panicked(&rig, n + 1).await?;
    }
    // again: counted, and not told again
    let mut client = rig.connect().await?;
    client.send(b"GET / HTTP/1.1\r\nhost: t\r\nx-panic: request\r\n\r\n").await?;
    ensure!(client.end_within(SOON).await != End::Open);
    panicked(&rig, PLACES.len() + 1).await?;
    let log = rig.proxy.log();
    let told = log.matches("wrk:0 panicked at proxy/engine/src/local/contain.rs:").count();
    ensure!(told == 1, "told {told} times of one place:\n{log}");
    ensure!(log.contains("drill: request"), "{log}");

    beside.send(b"hello").await?;
    ensure!(beside.response("POST", SOON).await?.head.status()? == 200);
    drop(beside);
    rig.passes("s03_a_panic_ends_one_http1_connection").await
}

const ADMIN_LAYER: &str = "layered_runtime: {layers: [{name: admin, admin_layer: {}}]}\n";

fn panicking_get(stream: u32, place: &str) -> Vec<u8> {
    let fields =
        [(":method", "GET"), (":scheme", "http"), (":authority", "t"), (":path", "/"), ("x-panic", place)];
    frame(HEADERS, END_HEADERS | END_STREAM, stream, &block(&fields))
}

#[tokio::test]
async fn s03_a_panic_ends_one_http2_stream() -> Result<()> {
    let mut rig = start(Setup::http("").rest(ADMIN_LAYER)).await?;
    let mut client = rig.connect().await?;
    let post = [(":method", "POST"), (":scheme", "http"), (":authority", "t"), (":path", "/")];
    client.send(&[hello(), frame(HEADERS, END_HEADERS, 1, &block(&post))].concat()).await?;
    let mut received = Vec::new();
    for (n, place) in PLACES.into_iter().enumerate() {
        arm(&rig, place, true).await?;
        let stream = u32::try_from(2 * n + 3)?;
        client.send(&panicking_get(stream, place)).await?;
        panicked(&rig, n + 1).await?;
        // after it has panicked nothing is left to be said but that it was reset, or all was said before
        let settled = |received: &[u8]| {
            parse(received).iter().any(|frame| {
                frame.stream == stream && (frame.kind == RST_STREAM || frame.flags & END_STREAM != 0)
            })
        };
        while !settled(&received) {
            received.extend(client.at_least(1, SOON).await.with_context(|| place.to_owned())?);
        }
        let reset = parse(&received).iter().any(|frame| frame.stream == stream && frame.kind == RST_STREAM);
        ensure!(reset || place == "complete", "{place}: not reset");
    }
    // the stream beside them goes on
    client.send(&frame(DATA, END_STREAM, 1, b"end")).await?;
    let answered = |received: &[u8]| {
        parse(received).iter().any(|frame| frame.stream == 1 && frame.flags & END_STREAM != 0)
    };
    while !answered(&received) {
        received.extend(client.at_least(1, SOON).await?);
    }
    drop(client);
    rig.passes("s03_a_panic_ends_one_http2_stream").await
}

#[tokio::test]
async fn s03_a_panic_ends_one_tcp_connection() -> Result<()> {
    let tcp = listener_with_filters("tcp", &tcp_proxy("tcp", "cluster: up"));
    let inspected = HttpListener::to_up("inspected").listener(
        "listener_filters: [{name: i, typed_config: {\"@type\": type.googleapis.com/envoy.extensions.filters.listener.http_inspector.v3.HttpInspector}}]",
    );
    let setup = Setup::http("").listener(tcp).listener(inspected.yaml()).rest(ADMIN_LAYER);
    let rig = start(setup).await?;
    for (n, (place, listener)) in [("tcp", "tcp"), ("inspect", "inspected")].into_iter().enumerate() {
        let addr = rig.proxy.listener(listener)?;
        let mut beside = Client::connect(addr).await?;
        beside.send(b"GET / HTTP/1.1\r\nhost: t\r\n\r\n").await?;
        beside.response("GET", SOON).await?;
        arm(&rig, place, true).await?;
        let mut client = Client::connect(addr).await?;
        client.send(b"GET / HTTP/1.1\r\nhost: t\r\n\r\n").await?;
        ensure!(client.end_within(SOON).await != End::Open, "{place}");
        panicked(&rig, n + 1).await?;
        arm(&rig, place, false).await?;
        beside.send(b"GET / HTTP/1.1\r\nhost: t\r\n\r\n").await?;
        beside.response("GET", SOON).await?;
    }
    rig.passes("s03_a_panic_ends_one_tcp_connection").await
}

/// A connection to an upstream is made for whoever waits for it: they are answered, and the next one is made.
#[tokio::test]
async fn s03_a_panic_while_connecting_leaves_the_pool_usable() -> Result<()> {
    let two = H2Upstream::start().await?;
    let routes =
        "- match: {prefix: /two}\n  route: {cluster: two}\n- match: {prefix: /}\n  route: {cluster: up}";
    let cluster = cluster("two", "two", H2_CLUSTER).replace("{{two}}", &port(two.addr()));
    let setup = Setup::of(HttpListener::new("http", routes)).cluster(cluster).rest(ADMIN_LAYER);
    let mut rig = start(setup).await?;
    arm(&rig, "handshake", true).await?;
    let ask = async |rig: &mut Rig| -> Result<u16> {
        let mut client = rig.connect().await?;
        client.send(b"GET /two HTTP/1.1\r\nhost: t\r\n\r\n").await?;
        client.response("GET", SOON).await?.head.status()
    };
    ensure!(ask(&mut rig).await? == 503);
    panicked(&rig, 1).await?;
    arm(&rig, "handshake", false).await?;
    ensure!(ask(&mut rig).await? == 200);
    two.forget();
    rig.passes("s03_a_panic_while_connecting_leaves_the_pool_usable").await
}
