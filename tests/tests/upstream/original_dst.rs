//! The hosts of ORIGINAL_DST clusters: how they come, what is told of them, when they go.

use anyhow::{Result, ensure};
use integration::client::Client;
use integration::config::port;
use integration::expect::{SOON, eventually};
use integration::upstream::{Reply, Upstream};

use super::{expect_stat, hosts, start, stat_becomes};

const CLUSTER: &str = "- name: c\n  type: ORIGINAL_DST\n  lb_policy: CLUSTER_PROVIDED\n  connect_timeout: 1s\n  \
                       original_dst_lb_config: {use_http_header: true}\n  cleanup_interval: 0.2s\n";

async fn ask(client: &mut Client, upstream: &Upstream) -> Result<u16> {
    let to = upstream.addr();
    client
        .send(format!("GET /c HTTP/1.1\r\nhost: a\r\nx-envoy-original-dst-host: {to}\r\n\r\n").as_bytes())
        .await?;
    client.response("GET", SOON).await?.head.status()
}

#[tokio::test]
async fn a_host_is_there_from_the_first_request_until_its_last_connection_ended() -> Result<()> {
    let (one, two) = (Upstream::start().await?, Upstream::start().await?);
    let proxy = start(&[("c", CLUSTER.to_owned())], "").await?;
    expect_stat(&proxy, "cluster.c.membership_total", 0).await?;
    let mut client = Client::connect(proxy.listener("http")?).await?;
    for upstream in [&one, &two, &one] {
        ensure!(ask(&mut client, upstream).await? == 200);
    }
    let mut addresses = vec![one.addr().to_string(), two.addr().to_string()];
    addresses.sort();
    ensure!(hosts(&proxy, "c").await? == addresses);
    for (name, value) in [("membership_total", 2), ("membership_healthy", 2), ("membership_change", 2)] {
        expect_stat(&proxy, &format!("cluster.c.{name}"), value).await?;
    }
    let text = proxy.admin().get("/clusters").await?;
    for line in [
        format!("c::{0}::hostname::c{0}\n", one.addr()),
        format!("c::{}::rq_total::2\n", one.addr()),
        format!("c::{}::health_flags::healthy\n", two.addr()),
        "c::added_via_api::false\n".to_owned(),
    ] {
        ensure!(text.contains(&line), "no {line} in {text}");
    }
    let dump = proxy.admin().config_dump("?include_eds").await?.to_string();
    ensure!(dump.contains(&format!("\"port_value\":{}", port(two.addr()))), "{dump}");

    // Idle connections keep their host, while one without any is forgotten.
    let nobody = "GET /c HTTP/1.1\r\nhost: a\r\nx-envoy-original-dst-host: 127.0.0.1:1\r\n\r\n";
    client.send(nobody.as_bytes()).await?;
    ensure!(client.response("GET", SOON).await?.head.status()? == 503);
    stat_becomes(&proxy, "cluster.c.membership_total", 2).await?;
    ensure!(hosts(&proxy, "c").await? == addresses);
    expect_stat(&proxy, "cluster.c.membership_change", 4).await?;

    // Where the host ends them, it goes; the other stays.
    one.push(Reply::raw_then_close("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n"));
    ensure!(ask(&mut client, &one).await? == 200);
    stat_becomes(&proxy, "cluster.c.membership_total", 1).await?;
    ensure!(hosts(&proxy, "c").await? == [two.addr().to_string()]);
    ensure!(ask(&mut client, &one).await? == 200);
    eventually("both hosts", SOON, async || (hosts(&proxy, "c").await.ok()? == addresses).then_some(()))
        .await?;
    proxy.stop().await?;
    Ok(())
}
