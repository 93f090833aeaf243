//! Connections that are made before there is a request for them (`preconnect_policy`), and requests that find them.

use std::net::SocketAddr;

use anyhow::{Result, ensure};
use integration::client::Client;
use integration::config::{cluster, fill, port};
use integration::ports::Refusing;
use integration::upstream::h2::H2Upstream;
use integration::upstream::{Reply, Step, Upstream};

use super::{expect_stat, fetch, get, start, stat_becomes};

fn to(name: &'static str, addr: SocketAddr, extra: &str) -> (&'static str, String) {
    (name, fill(&cluster(name, "up", extra), [("up", port(addr))]))
}

fn ahead(ratio: &str) -> String {
    format!("preconnect_policy: {{per_upstream_preconnect_ratio: {ratio}}}\n")
}

/// A cluster of these hosts that looks for the next ones.
fn predicting(name: &'static str, hosts: &[SocketAddr], extra: &str) -> (&'static str, String) {
    let endpoints: Vec<String> = hosts
        .iter()
        .map(|host| {
            format!(
                "{{endpoint: {{address: {{socket_address: {{address: 127.0.0.1, port_value: {}}}}}}}}}",
                host.port()
            )
        })
        .collect();
    let yaml = format!(
        "- name: {name}\n  type: STATIC\n  connect_timeout: 1s\n  preconnect_policy: {{predictive_preconnect_ratio: 2}}\n{extra}  \
         load_assignment: {{cluster_name: {name}, endpoints: [{{lb_endpoints: [{}]}}]}}\n",
        endpoints.join(", ")
    );
    (name, yaml)
}

#[tokio::test]
async fn a_request_has_more_connections_made() -> Result<()> {
    let upstream = Upstream::start().await?;
    upstream.answer(Reply::ok());
    let h2 = H2Upstream::start().await?;
    let one_stream = "typed_extension_protocol_options:\n  envoy.extensions.upstreams.http.v3.HttpProtocolOptions:\n    \"@type\": type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions\n    explicit_http_config: {http2_protocol_options: {max_concurrent_streams: 1}}\n";
    let limited = "circuit_breakers: {thresholds: [{max_connections: 2}]}\n";
    let clusters = [
        to("one", upstream.addr(), &ahead("1.0")),
        to("half", upstream.addr(), &ahead("1.5")),
        to("three", upstream.addr(), &ahead("3.0")),
        to("limited", upstream.addr(), &(ahead("3.0") + limited)),
        to("h2", h2.addr(), &(ahead("2.0") + one_stream)),
        to("h2_many", h2.addr(), &(ahead("3.0") + &one_stream.replace("streams: 1", "streams: 10"))),
    ];
    let proxy = start(&clusters, "").await?;
    for (name, connections) in
        [("one", 1), ("half", 2), ("three", 3), ("limited", 2), ("h2", 2), ("h2_many", 1)]
    {
        for _ in 0..3 {
            ensure!(get(&proxy, &format!("/{name}")).await?.head.status()? == 200, "{name}");
            // A later request finds one of them.
            stat_becomes(&proxy, &format!("cluster.{name}.upstream_cx_total"), connections).await?;
            stat_becomes(&proxy, &format!("cluster.{name}.upstream_cx_active"), connections).await?;
        }
        expect_stat(&proxy, &format!("cluster.{name}.upstream_rq_total"), 3).await?;
        expect_stat(&proxy, &format!("cluster.{name}.upstream_cx_connect_fail"), 0).await?;
    }
    proxy.stop().await
}

#[tokio::test]
async fn requests_in_flight_count() -> Result<()> {
    let upstream = Upstream::start().await?;
    upstream.script(std::iter::repeat_with(|| Reply::steps([Step::Stall])).take(4));
    let proxy = start(&[to("half", upstream.addr(), &ahead("1.5"))], "").await?;
    let mut clients = Vec::new();
    for (requests, connections) in [(1, 2), (2, 3), (3, 5), (4, 6)] {
        let mut client = Client::connect(proxy.listener("http")?).await?;
        client.send(b"GET /half HTTP/1.1\r\nhost: a\r\n\r\n").await?;
        clients.push(client);
        stat_becomes(&proxy, "cluster.half.upstream_rq_active", requests).await?;
        stat_becomes(&proxy, "cluster.half.upstream_cx_total", connections).await?;
    }
    proxy.stop().await
}

#[tokio::test]
async fn the_hosts_of_the_next_requests_are_connected_to() -> Result<()> {
    let mut upstreams = Vec::new();
    for _ in 0..3 {
        upstreams.push(Upstream::start().await?);
    }
    let hosts: Vec<SocketAddr> = upstreams.iter().map(Upstream::addr).collect();
    let clusters =
        [predicting("in_turn", &hosts, ""), predicting("least", &hosts, "  lb_policy: LEAST_REQUEST\n")];
    let proxy = start(&clusters, "").await?;
    ensure!(get(&proxy, "/in_turn").await?.head.status()? == 200);
    stat_becomes(&proxy, "cluster.in_turn.upstream_cx_total", 3).await?;
    stat_becomes(&proxy, "cluster.in_turn.upstream_cx_active", 3).await?;
    let mut client = Client::connect(proxy.listener("http")?).await?;
    for _ in 0..5 {
        ensure!(fetch(&mut client, "/in_turn").await?.head.status()? == 200);
    }
    // Each was promised a request, and got it: in turn, on the connection that was there.
    expect_stat(&proxy, "cluster.in_turn.upstream_cx_total", 3).await?;
    for upstream in &upstreams {
        ensure!(upstream.received().len() == 2, "{} requests", upstream.received().len());
    }
    ensure!(get(&proxy, "/least").await?.head.status()? == 200);
    expect_stat(&proxy, "cluster.least.upstream_cx_total", 1).await?;
    proxy.stop().await
}

#[tokio::test]
async fn hosts_whose_metadata_say_nothing_are_not_connected_to_ahead() -> Result<()> {
    let upstream = Upstream::start().await?;
    upstream.answer(Reply::ok());
    let mut others = Vec::new();
    for _ in 0..3 {
        others.push(Upstream::start().await?);
    }
    let hosts: Vec<SocketAddr> = others.iter().map(Upstream::addr).collect();
    let eligible =
        "preconnect_enabled_metadata: {filter: of.host, path: [{key: warm}], value: {bool_match: true}}";
    let only = |cluster: (&'static str, String), ratio: &str| {
        (cluster.0, cluster.1.replace(ratio, &format!("{ratio}, {eligible}")))
    };
    let warm = |(name, yaml): (&'static str, String), endpoint: &str| {
        let metadata = "metadata: {filter_metadata: {of.host: {warm: true}}}";
        let (flow, block) = (format!("{{{endpoint}"), format!("- {endpoint}"));
        let yaml = yaml.replace(&flow, &format!("{{{metadata}, {endpoint}"));
        (name, yaml.replace(&block, &format!("- {metadata}\n        {endpoint}")))
    };
    let ratio = "per_upstream_preconnect_ratio: 3.0";
    let next = "predictive_preconnect_ratio: 2";
    let clusters = [
        only(to("cold", upstream.addr(), &ahead("3.0")), ratio),
        warm(only(to("warm", upstream.addr(), &ahead("3.0")), ratio), "endpoint: {address"),
        only(predicting("cold_next", &hosts, ""), next),
        warm(only(predicting("warm_next", &hosts, ""), next), "endpoint: {address"),
    ];
    let proxy = start(&clusters, "").await?;
    for (name, connections, skipped) in [("cold", 1, 3), ("warm", 3, 0)] {
        for _ in 0..3 {
            ensure!(get(&proxy, &format!("/{name}")).await?.head.status()? == 200, "{name}");
            stat_becomes(&proxy, &format!("cluster.{name}.upstream_cx_active"), connections).await?;
        }
        expect_stat(&proxy, &format!("cluster.{name}.upstream_cx_total"), connections).await?;
        expect_stat(&proxy, &format!("cluster.{name}.upstream_cx_preconnect_skipped"), skipped).await?;
    }
    for (name, connections, skipped) in [("cold_next", 1, 1), ("warm_next", 3, 0)] {
        ensure!(get(&proxy, &format!("/{name}")).await?.head.status()? == 200, "{name}");
        stat_becomes(&proxy, &format!("cluster.{name}.upstream_cx_total"), connections).await?;
        expect_stat(&proxy, &format!("cluster.{name}.upstream_cx_preconnect_skipped"), skipped).await?;
    }
    proxy.stop().await
}

#[tokio::test]
async fn connections_ahead_that_cannot_be_made() -> Result<()> {
    let refusing = Refusing::new()?;
    let proxy = start(&[to("refused", refusing.addr(), &ahead("3.0"))], "").await?;
    let response = get(&proxy, "/refused").await?;
    ensure!(response.head.status()? == 503);
    stat_becomes(&proxy, "cluster.refused.upstream_cx_connect_fail", 3).await?;
    stat_becomes(&proxy, "cluster.refused.upstream_cx_active", 0).await?;
    expect_stat(&proxy, "cluster.refused.upstream_cx_total", 3).await?;
    proxy.stop().await
}
