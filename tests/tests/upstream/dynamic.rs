//! Dynamic forward proxies over time: hosts that move, and hosts that nobody goes to.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use integration::client::{Client, End};
use integration::config::{bootstrap, indent, listener_with_filters, tcp_proxy_with_logs};
use integration::dns::{Answer, DnsServer};
use integration::expect::{SOON, eventually};
use integration::process::{Binary, Proxy};
use integration::upstream::{Reply, Upstream};

use super::{expect_stat, start, stat_becomes};

/// A cluster whose cache has its name.
fn cluster(name: &str, server: &DnsServer, cache: &str) -> (String, String) {
    let cache = format!("name: {name}\n{cache}\n{}", server.resolver());
    let yaml = format!(
        "- name: {name}\n  connect_timeout: 1s\n  lb_policy: CLUSTER_PROVIDED\n  cluster_type:\n    name: envoy.clusters.dynamic_forward_proxy\n    typed_config:\n      \"@type\": type.googleapis.com/envoy.extensions.clusters.dynamic_forward_proxy.v3.ClusterConfig\n      dns_cache_config:\n{}",
        indent(&cache, 8)
    );
    (name.to_owned(), yaml)
}

async fn start_with<const N: usize>(clusters: [(String, String); N]) -> Result<Proxy> {
    let clusters = clusters.each_ref().map(|(name, yaml)| (name.as_str(), yaml.clone()));
    start(&clusters, "").await
}

async fn get(client: &mut Client, cluster: &str, host: &str, port: u16) -> Result<(u16, Vec<u8>)> {
    client.send(format!("GET /{cluster} HTTP/1.1\r\nhost: {host}:{port}\r\n\r\n").as_bytes()).await?;
    let response = client.response("GET", SOON).await?;
    Ok((response.head.status()?, response.body))
}

async fn client(proxy: &Proxy) -> Result<Client> {
    Client::connect(proxy.listener("http")?).await
}

fn body(text: &str) -> Reply {
    Reply::raw(format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{text}", text.len()))
}

fn short_lived(address: &str) -> Result<Answer> {
    Ok(Answer::Addresses(vec![address.parse()?], 0))
}

#[tokio::test]
async fn a_name_is_asked_for_once() -> Result<()> {
    let up = Upstream::start().await?;
    let server = DnsServer::start().await?;
    server.set("a.test", short_lived("127.0.0.1")?);
    let proxy =
        start_with([cluster("a", &server, "dns_lookup_family: V4_ONLY\ndns_min_refresh_rate: 300s")]).await?;
    let mut client = client(&proxy).await?;
    for _ in 0..2 {
        ensure!(get(&mut client, "a", "a.test", up.addr().port()).await?.0 == 200);
    }
    ensure!((up.opened(), server.asked("a.test").len()) == (1, 1), "{:?}", server.asked("a.test"));
    proxy.stop().await
}

#[tokio::test]
async fn a_host_moves() -> Result<()> {
    let mut both = Upstream::start_on_one_port(&["127.0.0.1".parse()?, "127.0.0.2".parse()?]).await?;
    let (second, first) = (both.pop().context("second")?, both.pop().context("first")?);
    first.answer(body("first"));
    second.answer(body("second"));
    let port = first.addr().port();
    let server = DnsServer::start().await?;
    server.set("a.test", short_lived("127.0.0.1")?);
    let proxy =
        start_with([cluster("a", &server, "dns_lookup_family: V4_ONLY\ndns_min_refresh_rate: 1s")]).await?;
    let mut client = client(&proxy).await?;
    ensure!(get(&mut client, "a", "a.test", port).await? == (200, b"first".to_vec()));
    expect_stat(&proxy, "cluster.a.membership_total", 1).await?;

    server.set("a.test", short_lived("127.0.0.2")?);
    let mut moved = async || {
        let answer = get(&mut client, "a", "a.test", port).await.ok()?;
        (answer.1 == b"second").then_some(())
    };
    eventually("the other address", SOON, async || moved().await).await?;
    eventually("the old connection to close", SOON, async || (first.open() == 0).then_some(())).await?;
    expect_stat(&proxy, "cluster.a.membership_total", 1).await?;
    expect_stat(&proxy, "dns_cache.a.host_address_changed", 2).await?;
    proxy.stop().await
}

#[tokio::test]
async fn a_host_that_nobody_goes_to_is_forgotten() -> Result<()> {
    let up = Upstream::start().await?;
    let server = DnsServer::start().await?;
    server.set("a.test", short_lived("127.0.0.1")?);
    let cache = "dns_lookup_family: V4_ONLY\ndns_min_refresh_rate: 1s\nhost_ttl: 1s";
    let proxy = start_with([cluster("a", &server, cache)]).await?;
    let mut client = client(&proxy).await?;
    ensure!(get(&mut client, "a", "a.test", up.addr().port()).await?.0 == 200);
    stat_becomes(&proxy, "dns_cache.a.num_hosts", 0).await?;
    stat_becomes(&proxy, "cluster.a.membership_total", 0).await?;
    eventually("its connection to close", SOON, async || (up.open() == 0).then_some(())).await?;
    ensure!(get(&mut client, "a", "a.test", up.addr().port()).await?.0 == 200, "it is found again");
    proxy.stop().await
}

/// Names that there are not take no more room than there is, and leave it.
#[tokio::test]
async fn names_that_there_are_not_are_bounded() -> Result<()> {
    let server = DnsServer::start().await?;
    let cache = "dns_lookup_family: V4_ONLY\nmax_hosts: 20\ndns_refresh_rate: ";
    let proxy = start_with([
        cluster("a", &server, &format!("{cache}300s")),
        cluster("b", &server, &format!("{cache}1s\nhost_ttl: 1s")),
    ])
    .await?;
    let mut client = client(&proxy).await?;
    for number in 0..100 {
        let (status, _) = get(&mut client, "a", &format!("absent-{number}.test"), 80).await?;
        ensure!(status == 503, "{status}");
    }
    expect_stat(&proxy, "dns_cache.a.num_hosts", 20).await?;
    expect_stat(&proxy, "dns_cache.a.host_added", 20).await?;
    expect_stat(&proxy, "dns_cache.a.host_overflow", 80).await?;
    expect_stat(&proxy, "dns_cache.a.circuit_breakers.rq_pending_remaining", 1024).await?;

    let (status, _) = get(&mut client, "b", "absent.test", 80).await?;
    ensure!(status == 503, "{status}");
    stat_becomes(&proxy, "dns_cache.b.num_hosts", 0).await?;
    expect_stat(&proxy, "dns_cache.b.host_removed", 1).await?;
    proxy.stop().await
}

/// IPv4 addresses in the guise of IPv6 do not get by the filter.
#[tokio::test]
async fn mapped_addresses_are_not_gone_to() -> Result<()> {
    let up = Upstream::start().await?;
    let server = DnsServer::start().await?;
    let filter = "resolved_address_filter: {ranges: [{address_prefix: 127.0.0.0, prefix_len: 8}]}";
    let proxy = start_with([cluster("a", &server, ""), cluster("b", &server, filter)]).await?;
    let mut client = client(&proxy).await?;
    let port = up.addr().port();
    for host in ["[::ffff:127.0.0.1]", "[::ffff:7f00:1]", "127.0.0.1"] {
        ensure!(get(&mut client, "b", host, port).await?.0 == 503, "{host}");
    }
    ensure!(up.opened() == 0, "somebody came");
    ensure!(get(&mut client, "a", "127.0.0.1", port).await?.0 == 200);
    proxy.stop().await
}

/// The client hello of TLS 1.2 that asks for `a.test`, and nothing else.
const HELLO: &[u8] = b"\x16\x03\x01\0\x3e\x01\0\0\x3a\x03\x03\
    01234567890123456789012345678901\0\0\x02\xc0\x2f\x01\0\0\x0f\0\0\0\x0b\0\x09\0\0\x06a.test";

/// Connections that wait for names are there as long as their clients: those that left keep no place of the few that may wait.
#[tokio::test]
async fn who_left_waits_for_no_name() -> Result<()> {
    let server = DnsServer::start().await?;
    for name in ["a.test", "b.test"] {
        server.set(name, Answer::Silence);
    }
    // (Nobody is to be let go on by time.)
    let patient = server.resolver().replace("query_timeout_seconds: 1", "query_timeout_seconds: 300");
    let cache = format!(
        "name: a\ndns_lookup_family: V4_ONLY\ndns_query_timeout: 300s\n\
         dns_cache_circuit_breaker: {{max_pending_requests: 1}}\n{patient}"
    );
    let cluster = format!(
        "- name: a\n  connect_timeout: 1s\n  lb_policy: CLUSTER_PROVIDED\n  cluster_type:\n    name: envoy.clusters.dynamic_forward_proxy\n    typed_config:\n      \"@type\": type.googleapis.com/envoy.extensions.clusters.dynamic_forward_proxy.v3.ClusterConfig\n      dns_cache_config:\n{}",
        indent(&cache, 8)
    );
    let proxy = tcp_proxy_with_logs("t", "", "cluster: a");
    let sni = format!(
        "- name: f\n  typed_config:\n    \"@type\": type.googleapis.com/envoy.extensions.filters.network.sni_dynamic_forward_proxy.v3.FilterConfig\n    dns_cache_config:\n{}",
        indent(&cache, 6)
    );
    let state = "- name: s\n  typed_config:\n    \"@type\": type.googleapis.com/envoy.extensions.filters.network.set_filter_state.v3.Config\n    on_new_connection: [{object_key: envoy.upstream.dynamic_host, format_string: {text_format_source: {inline_string: b.test}}}]\n";
    let inspector = "  listener_filters: [{name: i, typed_config: {\"@type\": type.googleapis.com/envoy.extensions.filters.listener.tls_inspector.v3.TlsInspector}}]\n";
    let listeners = [
        listener_with_filters("sni", &format!("{sni}{proxy}")) + inspector,
        listener_with_filters("state", &format!("{state}{proxy}")),
    ];
    let proxy = Proxy::start(&Binary::subject()?, &bootstrap(&listeners, &[cluster], "")).await?;
    let places =
        async |count| stat_becomes(&proxy, "dns_cache.a.circuit_breakers.rq_pending_remaining", count).await;

    for (listener, first) in [("sni", HELLO), ("state", &b"hello"[..])] {
        let mut client = Client::connect(proxy.listener(listener)?).await?;
        client.send(first).await?;
        places(0).await?;
        let mut other = Client::connect(proxy.listener(listener)?).await?;
        other.send(first).await?;
        ensure!(other.end_within(SOON).await != End::Open, "one too many");
        client.reset()?;
        places(1).await?;
    }
    let mut client = Client::connect(proxy.listener("sni")?).await?;
    client.send(HELLO).await?;
    places(0).await?;
    drop(client);
    places(1).await?;

    // Who has said all may wait for an answer.
    let mut client = Client::connect(proxy.listener("state")?).await?;
    client.send(b"hello").await?;
    places(0).await?;
    client.half_close().await?;
    ensure!(client.end_within(Duration::from_millis(200)).await == End::Open);
    places(0).await?;
    client.reset()?;
    proxy.stop().await
}
