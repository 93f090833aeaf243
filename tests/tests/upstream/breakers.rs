//! Circuit breakers under traffic: each limit, both priorities, gauges and what is left.

use std::net::SocketAddr;

use anyhow::{Result, ensure};
use integration::client::{Client, H2Client, Response};
use integration::config::{
    H2_CLUSTER, HttpListener, bootstrap, cluster, fill, listener_with_filters, port, tcp_proxy,
};
use integration::expect::{SOON, eventually};
use integration::http1::field;
use integration::ports::Blackhole;
use integration::process::{Binary, Kind, Proxy};
use integration::upstream::{EchoServer, Reply, Step, Upstream};
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpListener;

use super::{expect_stat, fetch, get, start, stat_becomes};

/// Answers only after the request's body is complete, so that the client decides when the request ends.
fn held() -> Reply {
    Reply::early([Step::ReadBody, Step::Send(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok".to_vec())])
}

fn limited(name: &str, addr: SocketAddr, thresholds: &str, extra: &str) -> String {
    let yaml = cluster(name, "up", &format!("circuit_breakers: {{{thresholds}}}\n{extra}"));
    fill(&yaml, [("up", port(addr))])
}

/// A request whose body is still to come, at the upstream already.
async fn begin(proxy: &Proxy, upstream: &Upstream, path: &str) -> Result<Client> {
    let before = upstream.received().len();
    let client = post(proxy, path).await?;
    eventually("the request at the upstream", SOON, async || {
        (upstream.received().len() > before).then_some(())
    })
    .await?;
    Ok(client)
}

async fn post(proxy: &Proxy, path: &str) -> Result<Client> {
    let mut client = Client::connect(proxy.listener("http")?).await?;
    client.send(format!("POST {path} HTTP/1.1\r\nhost: a\r\ncontent-length: 2\r\n\r\n").as_bytes()).await?;
    Ok(client)
}

async fn finish(mut client: Client) -> Result<Response> {
    client.send(b"ab").await?;
    client.response("POST", SOON).await
}

fn expect_overflow(response: &Response) -> Result<()> {
    ensure!(response.head.status()? == 503, "{response:?}");
    ensure!(field(&response.head.fields, "x-envoy-overloaded") == Some("true"), "{response:?}");
    ensure!(String::from_utf8_lossy(&response.body).ends_with("reset reason: overflow"), "{response:?}");
    Ok(())
}

fn high_route(name: &str) -> String {
    format!("- match: {{prefix: /{name}/high}}\n  route: {{cluster: {name}, priority: HIGH}}\n")
}

#[tokio::test]
async fn requests_wait_for_a_connection_while_no_more_are_allowed() -> Result<()> {
    let upstream = Upstream::start().await?;
    let thresholds = "thresholds: [{max_connections: 1, max_pending_requests: 1, track_remaining: true}, {priority: HIGH, max_connections: 1, track_remaining: true}]";
    let clusters = [("c", limited("c", upstream.addr(), thresholds, ""))];
    let proxy = start(&clusters, &high_route("c")).await?;
    upstream.script([held()]);
    let first = begin(&proxy, &upstream, "/c").await?;
    expect_stat(&proxy, "cluster.c.circuit_breakers.default.cx_open", 1).await?;
    expect_stat(&proxy, "cluster.c.circuit_breakers.default.remaining_cx", 0).await?;
    let second = post(&proxy, "/c").await?;
    stat_becomes(&proxy, "cluster.c.upstream_rq_pending_active", 1).await?;
    expect_stat(&proxy, "cluster.c.circuit_breakers.default.rq_pending_open", 1).await?;
    expect_stat(&proxy, "cluster.c.circuit_breakers.default.remaining_pending", 0).await?;
    expect_stat(&proxy, "cluster.c.upstream_rq_active", 1).await?;
    expect_overflow(&get(&proxy, "/c").await?)?;
    expect_stat(&proxy, "cluster.c.upstream_rq_pending_overflow", 1).await?;
    ensure!(proxy.admin().stat("cluster.c.upstream_cx_overflow").await? >= 1);
    // the second priority has limits of its own
    expect_stat(&proxy, "cluster.c.circuit_breakers.high.cx_open", 0).await?;
    expect_stat(&proxy, "cluster.c.circuit_breakers.high.remaining_cx", 1).await?;
    ensure!(get(&proxy, "/c/high").await?.head.status()? == 200);
    ensure!(finish(first).await?.body == b"ok");
    ensure!(finish(second).await?.head.status()? == 200);
    expect_stat(&proxy, "cluster.c.upstream_rq_pending_active", 0).await?;
    expect_stat(&proxy, "cluster.c.circuit_breakers.default.rq_pending_open", 0).await?;
    ensure!(upstream.opened() <= 2, "{} connections", upstream.opened());
    proxy.stop().await
}

#[tokio::test]
async fn requests_in_flight_are_limited() -> Result<()> {
    let upstream = Upstream::start().await?;
    let thresholds = "thresholds: [{max_requests: 1, track_remaining: true}]";
    let clusters = [("c", limited("c", upstream.addr(), thresholds, ""))];
    let proxy = start(&clusters, &high_route("c")).await?;
    upstream.script([held()]);
    let first = begin(&proxy, &upstream, "/c").await?;
    expect_stat(&proxy, "cluster.c.circuit_breakers.default.rq_open", 1).await?;
    expect_stat(&proxy, "cluster.c.circuit_breakers.default.remaining_rq", 0).await?;
    expect_overflow(&get(&proxy, "/c").await?)?;
    expect_stat(&proxy, "cluster.c.upstream_rq_active_overflow", 1).await?;
    ensure!(get(&proxy, "/c/high").await?.head.status()? == 200);
    ensure!(finish(first).await?.head.status()? == 200);
    stat_becomes(&proxy, "cluster.c.circuit_breakers.default.rq_open", 0).await?;
    expect_stat(&proxy, "cluster.c.circuit_breakers.default.remaining_rq", 1).await?;
    ensure!(get(&proxy, "/c").await?.head.status()? == 200);
    proxy.stop().await
}

/// What a connection carried is counted once, also if it is lent to a request that is then refused.
#[tokio::test]
async fn a_refused_request_counts_no_bytes() -> Result<()> {
    let upstream = Upstream::start().await?;
    let clusters = [("c", limited("c", upstream.addr(), "thresholds: [{max_requests: 1}]", ""))];
    let proxy = start(&clusters, &high_route("c")).await?;
    upstream.script([held(), held()]);
    let both = [begin(&proxy, &upstream, "/c/high").await?, begin(&proxy, &upstream, "/c/high").await?];
    for one in both {
        ensure!(finish(one).await?.head.status()? == 200);
    }
    stat_becomes(&proxy, "cluster.c.upstream_rq_active", 0).await?;
    upstream.script([held()]);
    let first = begin(&proxy, &upstream, "/c").await?;
    let before = proxy.admin().stats("^cluster\\.c\\.upstream_cx_[rt]x_bytes_total$").await?;
    ensure!(before.len() == 2 && before.values().all(|count| *count > 0), "{before:?}");
    expect_overflow(&get(&proxy, "/c").await?)?;
    let after = proxy.admin().stats("^cluster\\.c\\.upstream_cx_[rt]x_bytes_total$").await?;
    ensure!(after == before, "{after:?}, before {before:?}");
    // Two of the other priority, one that is busy, and the one that was made for the request before it was refused.
    ensure!(upstream.opened() == 4, "{} connections", upstream.opened());
    ensure!(finish(first).await?.head.status()? == 200);
    proxy.stop().await
}

/// A connection for HTTP is none for a tunnel: the first of each kind is allowed.
#[tokio::test]
async fn a_tunnel_opens_beside_the_only_http_connection() -> Result<()> {
    let upstream = Upstream::start().await?;
    let tunnel = "- match: {connect_matcher: {}}\n  route: {cluster: c, upgrade_configs: [{upgrade_type: CONNECT, connect_config: {}}]}\n- match: {prefix: /}\n  route: {cluster: c}";
    let listener = HttpListener::new("http", tunnel).options("upgrade_configs: [{upgrade_type: CONNECT}]");
    let cluster = limited("c", upstream.addr(), "thresholds: [{max_connections: 1}]", "");
    let yaml = bootstrap(&[listener.yaml()], &[cluster], "");
    let proxy = Proxy::start_with(&Binary::subject()?, &yaml, &["--concurrency", "1"]).await?;
    upstream.answer(Reply::ok());
    ensure!(get(&proxy, "/").await?.head.status()? == 200);
    let mut client = Client::connect(proxy.listener("http")?).await?;
    client.send(b"CONNECT a:1 HTTP/1.1\r\nhost: a:1\r\n\r\n").await?;
    let response = client.response("CONNECT", SOON).await?;
    ensure!(response.head.status()? == 200, "{response:?}");
    expect_stat(&proxy, "cluster.c.upstream_cx_active", 2).await?;
    expect_stat(&proxy, "cluster.c.upstream_cx_overflow", 1).await
}

/// Who asks for a tunnel to a host that does not answer has deadlines, and may leave.
#[tokio::test]
async fn a_tunnel_that_does_not_open_ends_with_its_client() -> Result<()> {
    let silent = Blackhole::new()?;
    let tunnel = "- match: {connect_matcher: {}}\n  route: {cluster: c, idle_timeout: 2s, upgrade_configs: [{upgrade_type: CONNECT, connect_config: {}}]}";
    let listener = HttpListener::new("http", tunnel).options("upgrade_configs: [{upgrade_type: CONNECT}]");
    let cluster = fill(
        &cluster("c", "up", "").replace("connect_timeout: 1s", "connect_timeout: 60s"),
        [("up", port(silent.addr()))],
    );
    let proxy = Proxy::start(&Binary::subject()?, &bootstrap(&[listener.yaml()], &[cluster], "")).await?;
    let connect = b"CONNECT a:1 HTTP/1.1\r\nhost: a:1\r\n\r\n";
    let mut patient = Client::connect(proxy.listener("http")?).await?;
    patient.send(connect).await?;
    ensure!(patient.response("CONNECT", SOON).await?.head.status()? == 408);
    expect_stat(&proxy, "http.http.downstream_rq_idle_timeout", 1).await?;
    let mut leaving = Client::connect(proxy.listener("http")?).await?;
    leaving.send(connect).await?;
    stat_becomes(&proxy, "cluster.c.upstream_cx_total", 2).await?;
    drop(leaving);
    stat_becomes(&proxy, "http.http.downstream_rq_active", 0).await?;
    stat_becomes(&proxy, "cluster.c.upstream_cx_active", 0).await?;
    expect_stat(&proxy, "http.http.downstream_rq_idle_timeout", 1).await
}

#[tokio::test]
async fn limits_of_nothing() -> Result<()> {
    let upstream = Upstream::start().await?;
    upstream.answer(Reply::ok());
    let of = |name: &'static str, thresholds: &str| (name, limited(name, upstream.addr(), thresholds, ""));
    let clusters = [
        of("pending", "thresholds: [{max_pending_requests: 0}]"),
        of("requests", "thresholds: [{max_requests: 0}]"),
        of("connections", "thresholds: [{max_connections: 0}]"),
        of("host", "per_host_thresholds: [{max_connections: 0}]"),
        of("pools", "thresholds: [{max_connection_pools: 0}]"),
    ];
    let proxy = start(&clusters, "").await?;
    expect_overflow(&get(&proxy, "/pending").await?)?;
    expect_stat(&proxy, "cluster.pending.upstream_rq_pending_overflow", 1).await?;
    expect_stat(&proxy, "cluster.pending.upstream_cx_total", 0).await?;
    expect_overflow(&get(&proxy, "/requests").await?)?;
    expect_stat(&proxy, "cluster.requests.upstream_rq_active_overflow", 1).await?;
    expect_stat(&proxy, "cluster.requests.upstream_rq_pending_overflow", 0).await?;
    expect_stat(&proxy, "cluster.requests.upstream_rq_total", 0).await?;
    // One connection is always allowed, or nothing would ever go on.
    for name in ["connections", "host"] {
        ensure!(get(&proxy, &format!("/{name}")).await?.head.status()? == 200, "{name}");
        expect_stat(&proxy, &format!("cluster.{name}.upstream_cx_overflow"), 1).await?;
    }
    let response = get(&proxy, "/pools").await?;
    ensure!(response.head.status()? == 503 && response.body == b"no healthy upstream", "{response:?}");
    expect_stat(&proxy, "cluster.pools.upstream_cx_pool_overflow", 1).await?;
    proxy.stop().await
}

#[tokio::test]
async fn connections_of_one_host_are_limited() -> Result<()> {
    let upstream = Upstream::start().await?;
    let thresholds = "per_host_thresholds: [{max_connections: 1}]";
    let clusters = [("c", limited("c", upstream.addr(), thresholds, ""))];
    let proxy = start(&clusters, "").await?;
    upstream.script([held(), held()]);
    let first = begin(&proxy, &upstream, "/c").await?;
    let second = post(&proxy, "/c").await?;
    stat_becomes(&proxy, "cluster.c.upstream_rq_pending_active", 1).await?;
    expect_stat(&proxy, "cluster.c.upstream_cx_active", 1).await?;
    ensure!(finish(first).await?.head.status()? == 200);
    ensure!(finish(second).await?.head.status()? == 200);
    ensure!(upstream.opened() == 1, "{} connections", upstream.opened());
    proxy.stop().await
}

#[tokio::test]
async fn a_full_http2_connection_makes_requests_wait() -> Result<()> {
    let upstream = integration::upstream::h2::H2Upstream::start_with_streams(1).await?;
    let thresholds = "thresholds: [{max_connections: 1}]";
    let clusters = [("c", limited("c", upstream.addr(), thresholds, H2_CLUSTER))];
    let proxy = start(&clusters, "").await?;
    ensure!(get(&proxy, "/c").await?.head.status()? == 200, "learns the limit of the host");
    let mut clients = Vec::new();
    for _ in 0..4 {
        clients.push(post(&proxy, "/c").await?);
    }
    stat_becomes(&proxy, "cluster.c.upstream_rq_pending_active", 3).await?;
    expect_stat(&proxy, "cluster.c.upstream_rq_active", 1).await?;
    for client in &mut clients {
        client.send(b"ab").await?;
    }
    for client in &mut clients {
        ensure!(client.response("POST", SOON).await?.head.status()? == 200);
    }
    ensure!(upstream.opened() == 1, "{} connections", upstream.opened());
    expect_stat(&proxy, "cluster.c.upstream_rq_pending_overflow", 0).await?;
    proxy.stop().await
}

#[tokio::test]
async fn a_full_http2_connection_gets_another_beside_it() -> Result<()> {
    if Binary::subject()?.kind == Kind::Envoy {
        // It resets streams that a connection turns out not to have room for.
        return Ok(());
    }
    let upstream = integration::upstream::h2::H2Upstream::start_with_streams(2).await?;
    let clusters = [("c", limited("c", upstream.addr(), "thresholds: []", H2_CLUSTER))];
    let proxy = start(&clusters, "").await?;
    ensure!(get(&proxy, "/c").await?.head.status()? == 200, "learns the limit of the host");
    let mut clients = Vec::new();
    for _ in 0..6 {
        clients.push(post(&proxy, "/c").await?);
    }
    stat_becomes(&proxy, "cluster.c.upstream_rq_active", 6).await?;
    for client in &mut clients {
        client.send(b"ab").await?;
        ensure!(client.response("POST", SOON).await?.head.status()? == 200);
    }
    ensure!(upstream.opened() >= 2, "{} connections", upstream.opened());
    proxy.stop().await
}

#[tokio::test]
async fn streams_wait_for_the_settings_of_a_new_connection() -> Result<()> {
    const SETTINGS: [u8; 9] = [0, 0, 0, 4, 0, 0, 0, 0, 0];
    if Binary::subject()?.kind == Kind::Envoy {
        // It waits for no SETTINGS.
        return Ok(());
    }
    let host = TcpListener::bind(("127.0.0.1", 0)).await?;
    let to = |name: &str, timeout: &str| -> Result<String> {
        let cluster = limited(name, host.local_addr()?, "thresholds: []", H2_CLUSTER);
        Ok(cluster.replace("connect_timeout: 1s", &format!("connect_timeout: {timeout}")))
    };
    let clusters =
        [("slow", to("slow", "60s")?), ("never", to("never", "0.3s")?), ("ends", to("ends", "60s")?)];
    let proxy = start(&clusters, "").await?;
    let mut clients = Vec::new();
    for _ in 0..3 {
        clients.push(post(&proxy, "/slow").await?);
    }
    let (mut connection, _) = host.accept().await?;
    stat_becomes(&proxy, "cluster.slow.upstream_rq_active", 1).await?;
    stat_becomes(&proxy, "cluster.slow.upstream_rq_pending_active", 2).await?;
    connection.write_all(&SETTINGS).await?;
    stat_becomes(&proxy, "cluster.slow.upstream_rq_active", 3).await?;
    expect_stat(&proxy, "cluster.slow.upstream_cx_total", 1).await?;
    for _ in 0..3 {
        clients.push(post(&proxy, "/never").await?);
    }
    stat_becomes(&proxy, "cluster.never.upstream_rq_active", 3).await?;
    expect_stat(&proxy, "cluster.never.upstream_cx_total", 1).await?;
    // a connection that ends meanwhile keeps nobody
    for _ in 0..2 {
        clients.push(post(&proxy, "/ends").await?);
    }
    let (never, _) = host.accept().await?;
    // (Of two that wait for the connection, one waits behind the other when it is made.)
    stat_becomes(&proxy, "cluster.ends.upstream_rq_active", 1).await?;
    stat_becomes(&proxy, "cluster.ends.upstream_rq_pending_active", 1).await?;
    let (ends, _) = host.accept().await?;
    drop((never, ends));
    stat_becomes(&proxy, "cluster.ends.upstream_cx_total", 2).await?;
    stat_becomes(&proxy, "cluster.ends.upstream_rq_pending_active", 0).await?;
    proxy.stop().await
}

#[tokio::test]
async fn connections_for_tcp_are_limited() -> Result<()> {
    let echo = EchoServer::start().await?;
    let addr = echo.server().addr();
    let clusters = [
        limited("one", addr, "thresholds: [{max_connections: 1}]", ""),
        limited("pending", addr, "thresholds: [{max_pending_requests: 0}]", ""),
        limited("pools", addr, "thresholds: [{max_connection_pools: 0}]", ""),
    ];
    let listeners = ["one", "pending", "pools"]
        .map(|name| listener_with_filters(name, &tcp_proxy(name, &format!("cluster: {name}"))));
    let proxy = Proxy::start(&Binary::subject()?, &bootstrap(&listeners, &clusters, "")).await?;
    let echoes = async |name: &str| -> Result<(Client, bool)> {
        let mut client = Client::connect(proxy.listener(name)?).await?;
        client.send(b"hello").await?;
        let echoed = client.at_least(5, SOON).await.is_ok_and(|bytes| bytes == b"hello");
        Ok((client, echoed))
    };
    let (first, echoed) = echoes("one").await?;
    ensure!(echoed);
    ensure!(!echoes("one").await?.1, "the second connection is refused");
    expect_stat(&proxy, "cluster.one.upstream_cx_overflow", 1).await?;
    expect_stat(&proxy, "cluster.one.upstream_rq_active", 1).await?;
    drop(first);
    stat_becomes(&proxy, "cluster.one.upstream_cx_active", 0).await?;
    expect_stat(&proxy, "cluster.one.upstream_rq_active", 0).await?;
    ensure!(echoes("one").await?.1);
    ensure!(!echoes("pending").await?.1);
    expect_stat(&proxy, "cluster.pending.upstream_rq_pending_overflow", 1).await?;
    ensure!(echoes("pools").await?.1, "TCP knows no limit of pools");
    proxy.stop().await
}

#[tokio::test]
async fn the_protocol_of_the_client_may_decide() -> Result<()> {
    let upstream = Upstream::start().await?;
    let either = H2_CLUSTER.replace(
        "explicit_http_config: {http2_protocol_options: {}}",
        "use_downstream_protocol_config: {http2_protocol_options: {}}",
    );
    let clusters = [("c", limited("c", upstream.addr(), "thresholds: []", &either))];
    let proxy = start(&clusters, "").await?;
    let mut client = Client::connect(proxy.listener("http")?).await?;
    ensure!(fetch(&mut client, "/c").await?.head.status()? == 200);
    expect_stat(&proxy, "cluster.c.upstream_cx_http1_total", 1).await?;
    expect_stat(&proxy, "cluster.c.upstream_cx_http2_total", 0).await?;
    let h2 = integration::upstream::h2::H2Upstream::start().await?;
    let clusters = [("c", limited("c", h2.addr(), "thresholds: []", &either))];
    let proxy = start(&clusters, "").await?;
    let client = H2Client::connect(proxy.listener("http")?).await?;
    let request = http::Request::get("http://a/c").body(bytes::Bytes::new())?;
    ensure!(client.request(request, None).await?.status == 200);
    expect_stat(&proxy, "cluster.c.upstream_cx_http2_total", 1).await?;
    proxy.stop().await
}
