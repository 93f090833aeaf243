//! Dynamic forward proxies over time: hosts that move, and hosts that nobody goes to.

use anyhow::{Context, Result, ensure};
use integration::client::Client;
use integration::config::indent;
use integration::dns::{Answer, DnsServer};
use integration::expect::{SOON, eventually};
use integration::process::Proxy;
use integration::upstream::{Reply, Upstream};

use super::{expect_stat, start, stat_becomes};

fn cluster(server: &DnsServer, extra: &str) -> String {
    let cache = format!(
        "name: c\ndns_lookup_family: V4_ONLY\ndns_min_refresh_rate: 1s\n{extra}\n{}",
        server.resolver()
    );
    format!(
        "- name: a\n  connect_timeout: 1s\n  lb_policy: CLUSTER_PROVIDED\n  cluster_type:\n    name: envoy.clusters.dynamic_forward_proxy\n    typed_config:\n      \"@type\": type.googleapis.com/envoy.extensions.clusters.dynamic_forward_proxy.v3.ClusterConfig\n      dns_cache_config:\n{}",
        indent(&cache, 8)
    )
}

async fn get(client: &mut Client, host: &str, port: u16) -> Result<(u16, Vec<u8>)> {
    client.send(format!("GET /a HTTP/1.1\r\nhost: {host}:{port}\r\n\r\n").as_bytes()).await?;
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
async fn a_host_moves_and_is_forgotten() -> Result<()> {
    let mut both = Upstream::start_on_one_port(&["127.0.0.1".parse()?, "127.0.0.2".parse()?]).await?;
    let (second, first) = (both.pop().context("second")?, both.pop().context("first")?);
    first.answer(body("first"));
    second.answer(body("second"));
    let port = first.addr().port();
    let server = DnsServer::start().await?;
    server.set("a.test", short_lived("127.0.0.1")?);
    let proxy = start(&[("a", cluster(&server, "host_ttl: 1s"))], "").await?;
    let mut client = client(&proxy).await?;
    ensure!(get(&mut client, "a.test", port).await? == (200, b"first".to_vec()));
    ensure!(get(&mut client, "a.test", port).await? == (200, b"first".to_vec()));
    ensure!((first.opened(), server.asked("a.test").len()) == (1, 1), "{:?}", server.asked("a.test"));
    expect_stat(&proxy, "cluster.a.membership_total", 1).await?;

    server.set("a.test", short_lived("127.0.0.2")?);
    let mut moved = async || {
        let answer = get(&mut client, "a.test", port).await.ok()?;
        (answer.1 == b"second").then_some(())
    };
    eventually("the other address", SOON, async || moved().await).await?;
    eventually("the old connection to close", SOON, async || (first.open() == 0).then_some(())).await?;
    expect_stat(&proxy, "cluster.a.membership_total", 1).await?;
    expect_stat(&proxy, "dns_cache.c.host_address_changed", 2).await?;

    // Nobody goes there any more.
    stat_becomes(&proxy, "dns_cache.c.num_hosts", 0).await?;
    stat_becomes(&proxy, "cluster.a.membership_total", 0).await?;
    eventually("its connection to close", SOON, async || (second.open() == 0).then_some(())).await?;
    ensure!(get(&mut client, "a.test", port).await? == (200, b"second".to_vec()), "it is found again");
    proxy.stop().await
}

/// Names that there are not take no more room than there is, and leave it.
#[tokio::test]
async fn names_that_there_are_not_are_bounded() -> Result<()> {
    let server = DnsServer::start().await?;
    let extra = "max_hosts: 20\nhost_ttl: 1s\ndns_refresh_rate: 1s";
    let proxy = start(&[("a", cluster(&server, extra))], "").await?;
    let mut client = client(&proxy).await?;
    for number in 0..100 {
        let (status, _) = get(&mut client, &format!("absent-{number}.test"), 80).await?;
        ensure!(status == 503, "{status}");
    }
    expect_stat(&proxy, "dns_cache.c.host_added", 20).await?;
    expect_stat(&proxy, "dns_cache.c.host_overflow", 80).await?;
    stat_becomes(&proxy, "dns_cache.c.num_hosts", 0).await?;
    expect_stat(&proxy, "dns_cache.c.circuit_breakers.rq_pending_remaining", 1024).await?;
    proxy.stop().await
}
