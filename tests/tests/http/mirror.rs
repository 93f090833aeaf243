//! Copies of requests are nobody's business but their own: what becomes of them changes no answer.

use std::iter::repeat_n;

use anyhow::{Result, ensure};
use integration::client::Client;
use integration::config::{HttpListener, bootstrap, cluster, fill, port};
use integration::expect::{SOON, eventually};
use integration::process::{Binary, Proxy};
use integration::upstream::{Received, Reply, Step, Upstream};

/// The proxy, the host of the route, and those that get copies.
async fn start(policies: &str, route: &str) -> Result<(Proxy, [Upstream; 3])> {
    let upstreams = [Upstream::start().await?, Upstream::start().await?, Upstream::start().await?];
    let routes = format!(
        "- match: {{prefix: /}}\n  route: {{cluster: up, request_mirror_policies: [{policies}]}}\n{route}"
    );
    let clusters = ["up", "one", "two"].map(|name| cluster(name, name, ""));
    let yaml = bootstrap(&[HttpListener::new("http", &routes).yaml()], &clusters, "");
    let [up, one, two] = &upstreams;
    let ports = [("up", port(up.addr())), ("one", port(one.addr())), ("two", port(two.addr()))];
    Ok((Proxy::start(&Binary::subject()?, &fill(&yaml, ports)).await?, upstreams))
}

async fn post(client: &mut Client, body: &str) -> Result<()> {
    let length = body.len();
    client
        .send(format!("POST / HTTP/1.1\r\nhost: test\r\ncontent-length: {length}\r\n\r\n{body}").as_bytes())
        .await?;
    let response = client.response("POST", SOON).await?;
    ensure!(response.body == b"hello", "{response:?}");
    Ok(())
}

/// Requests that came to their end.
fn whole(upstream: &Upstream) -> Vec<Received> {
    upstream.received().into_iter().filter(|received| received.complete).collect()
}

async fn arrived(upstream: &Upstream, count: usize) -> Result<()> {
    eventually("copies", SOON, async || (whole(upstream).len() == count).then_some(())).await
}

#[tokio::test]
async fn every_policy_has_its_copy() -> Result<()> {
    let (proxy, [up, one, two]) = start("{cluster: one}, {cluster: two}, {cluster: one}", "").await?;
    up.script(repeat_n(Reply::ok(), 3));
    // A copy's failure is no failure, and its answer goes nowhere.
    one.script(repeat_n(Reply::raw("HTTP/1.1 500 X\r\ncontent-length: 3\r\n\r\nbad"), 6));
    two.script(repeat_n(Reply::steps([Step::Close]), 3));
    let mut client = Client::connect(proxy.listener("http")?).await?;
    for round in 1..=3 {
        post(&mut client, "body").await?;
        arrived(&up, round).await?;
        arrived(&one, 2 * round).await?;
    }
    arrived(&two, 3).await?;
    for upstream in [&one, &two] {
        for copy in whole(upstream) {
            ensure!(copy.body == b"body", "{copy:?}");
        }
    }
    for (stat, value) in [
        ("cluster.one.internal.upstream_rq_500", 6),
        ("cluster.two.internal.upstream_rq_503", 3),
        ("cluster.one.upstream_rq_active", 0),
        ("http.http.downstream_rq_2xx", 3),
        ("http.http.downstream_rq_5xx", 0),
    ] {
        eventually(stat, SOON, async || (proxy.admin().stat(stat).await.ok()? == value).then_some(()))
            .await?;
    }
    Ok(())
}

#[tokio::test]
async fn a_copy_that_is_not_answered_keeps_nobody_waiting() -> Result<()> {
    let (proxy, [up, one, _]) = start("{cluster: one}", "").await?;
    up.script(repeat_n(Reply::ok(), 3));
    one.script(repeat_n(Reply::steps([Step::Stall]), 3));
    let mut client = Client::connect(proxy.listener("http")?).await?;
    for _ in 0..3 {
        post(&mut client, "body").await?;
    }
    arrived(&one, 3).await?;
    drop(client);
    // the client's end is not theirs
    let ended =
        async || (proxy.admin().stat("http.http.downstream_cx_active").await.ok()? == 0).then_some(());
    eventually("the client's end", SOON, ended).await?;
    ensure!(proxy.admin().stat("cluster.one.upstream_rq_active").await? == 3);
    Ok(())
}

#[tokio::test]
async fn bodies_are_copied_that_are_longer_than_what_is_kept() -> Result<()> {
    let (proxy, [up, one, _]) = start("{cluster: one}", "  request_body_buffer_limit: 8\n").await?;
    up.script([Reply::ok()]);
    one.script([Reply::ok()]);
    let mut client = Client::connect(proxy.listener("http")?).await?;
    let body = "0123456789".repeat(60_000);
    post(&mut client, &body).await?;
    arrived(&one, 1).await?;
    ensure!(whole(&one)[0].body == body.as_bytes());
    ensure!(proxy.admin().stat("cluster.up.retry_or_shadow_abandoned").await? == 0);
    Ok(())
}

#[tokio::test]
async fn a_copy_that_takes_less_than_comes_is_given_up() -> Result<()> {
    let (proxy, [up, one, _]) = start("{cluster: one}", "").await?;
    up.script([Reply::ok()]);
    one.script([Reply::early([Step::Stall])]);
    let mut client = Client::connect(proxy.listener("http")?).await?;
    // (More than what the kernel and the proxy hold.)
    post(&mut client, &"0123456789".repeat(3_000_000)).await?;
    for (stat, value) in [("cluster.up.retry_or_shadow_abandoned", 1), ("cluster.one.upstream_rq_active", 0)]
    {
        eventually(stat, SOON, async || (proxy.admin().stat(stat).await.ok()? == value).then_some(()))
            .await?;
    }
    Ok(())
}

#[tokio::test]
async fn a_request_that_is_given_up_takes_its_copy_along() -> Result<()> {
    let (proxy, [_up, one, _]) = start("{cluster: one}", "").await?;
    let mut client = Client::connect(proxy.listener("http")?).await?;
    client.send(b"POST / HTTP/1.1\r\nhost: test\r\ncontent-length: 10\r\n\r\nhello").await?;
    let active = async |value: i64| {
        let stat = "cluster.one.upstream_rq_active";
        eventually(stat, SOON, async || (proxy.admin().stat(stat).await.ok()? == value).then_some(())).await
    };
    active(1).await?;
    drop(client);
    active(0).await?;
    ensure!(whole(&one).is_empty());
    Ok(())
}
