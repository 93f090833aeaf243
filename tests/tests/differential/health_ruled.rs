//! Jitter of active health checks, and what the runtime says of them while the proxy runs.
//!
//! Jitter is chance. Here it is a million seconds at most, of which it is next to impossible that few are taken; that it is there shows
//! where the runtime has it cut off.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use integration::config::bootstrap;
use integration::differential::expect_same;
use integration::expect::{SOON, eventually};
use integration::process::{Binary, Proxy};
use integration::upstream::{Reply, Upstream};

/// Results that come soon, and would not with jitter.
const RESULTS: i64 = 20;
/// Fifty intervals.
const QUIET: Duration = Duration::from_millis(500);

/// Clusters and what their checks say besides.
const CLUSTERS: [(&str, &str); 5] = [
    ("steady", ""),
    ("spread", "interval_jitter: 1000000s, "),
    ("share", "interval_jitter_percent: 4294967295, "),
    ("other", ""),
    ("begins", "initial_jitter: 1000000s, "),
];

fn cluster(name: &str, check: &str, host: &Upstream) -> String {
    let (port, interval) = (host.addr().port(), if name == "share" { "1s" } else { "0.01s" });
    let service = if name == "other" { ", service_name_matcher: {exact: other}" } else { "" };
    format!(
        "- name: {name}\n  connect_timeout: 1s\n  common_lb_config: {{update_merge_window: 0s}}\n  health_checks: [{{{check}timeout: 60s, interval: {interval}, no_traffic_interval: {interval}, unhealthy_threshold: 1, healthy_threshold: 1, http_health_check: {{path: /{service}}}}}]\n  load_assignment: {{cluster_name: {name}, endpoints: [{{lb_endpoints: [{{endpoint: {{address: {{socket_address: {{address: 127.0.0.1, port_value: {port}}}}}}}}}]}}]}}\n"
    )
}

async fn rule(proxy: &Proxy, keys: &str) -> Result<()> {
    let answer = proxy.admin().request("POST", &format!("/runtime_modify?{keys}")).await?;
    ensure!(answer.status == 200, "{keys}: {}", answer.body);
    Ok(())
}

async fn results(proxy: &Proxy, cluster: &str) -> Result<i64> {
    let stats = proxy.admin().stats(&format!("^cluster.{cluster}.health_check.(success|failure)$")).await?;
    Ok(stats.values().sum())
}

/// Waits until checks of a cluster have come often again.
async fn often(proxy: &Proxy, cluster: &str) -> Result<()> {
    let before = results(proxy, cluster).await?;
    let came = async || (results(proxy, cluster).await.ok()? >= before + RESULTS).then_some(());
    eventually(&format!("{RESULTS} results of {cluster}"), SOON, came).await
}

/// Waits until checks of a cluster come no more.
async fn rests(proxy: &Proxy, cluster: &str) -> Result<()> {
    let ceased = async || {
        let before = results(proxy, cluster).await.ok()?;
        tokio::time::sleep(QUIET).await;
        (results(proxy, cluster).await.ok()? == before).then_some(())
    };
    eventually(&format!("no more checks of {cluster}"), SOON, ceased).await
}

/// With these of the clusters. (One whose hosts are not checked for the first time keeps its proxy from starting.)
async fn start(binary: &Binary, clusters: &[(&str, &str)], runtime: &str) -> Result<(Proxy, Upstream)> {
    let host = Upstream::start().await?;
    host.answer(Reply::raw(
        "HTTP/1.1 200 OK\r\nx-envoy-upstream-healthchecked-cluster: here\r\ncontent-length: 0\r\n\r\n",
    ));
    let clusters: Vec<String> = clusters.iter().map(|(name, check)| cluster(name, check, &host)).collect();
    let rest = format!(
        "layered_runtime: {{layers: [{{name: s, static_layer: {{{runtime}}}}}, {{name: a, admin_layer: {{}}}}]}}\n"
    );
    Ok((Proxy::start(binary, &bootstrap(&[], &clusters, &rest)).await?, host))
}

async fn run(binary: &Binary) -> Result<Vec<String>> {
    let mut facts = Vec::new();
    let (proxy, _host) = start(binary, &CLUSTERS[..4], "").await?;
    often(&proxy, "steady").await?;
    for cluster in ["spread", "share"] {
        facts.push(format!("{cluster}: {}", results(&proxy, cluster).await?));
    }
    // Whether the service is verified at all.
    let healthy = async |count: i64| {
        let reached = async || {
            (proxy.admin().stat("cluster.other.membership_healthy").await.ok()? == count).then_some(())
        };
        eventually(&format!("{count} of the other service"), SOON, reached).await
    };
    healthy(0).await?;
    let verified = async || proxy.admin().stat("cluster.other.health_check.verify_cluster").await;
    ensure!(verified().await? > 0, "nothing was verified");
    rule(&proxy, "health_check.verify_cluster=0").await?;
    healthy(1).await?;
    let before = verified().await?;
    often(&proxy, "other").await?;
    facts.push(format!("verified more: {}", verified().await? - before));
    rule(&proxy, "health_check.verify_cluster=").await?;
    healthy(0).await?;
    // No check comes any more.
    rule(&proxy, "health_check.min_interval=3600000").await?;
    rests(&proxy, "steady").await?;
    proxy.stop().await?;

    let (proxy, _host) = start(binary, &CLUSTERS, "health_check.max_interval: 10").await?;
    for (cluster, _) in CLUSTERS {
        often(&proxy, cluster).await?;
    }
    // The least goes before the most.
    rule(&proxy, "health_check.min_interval=3600000").await?;
    rests(&proxy, "spread").await?;
    proxy.stop().await?;
    Ok(facts)
}

/// Runs it on both.
pub async fn compare(reference: &Binary, subject: &Binary) -> Result<()> {
    let (wanted, found) = tokio::try_join!(async { run(reference).await.context("Envoy") }, async {
        run(subject).await.context("here")
    })?;
    expect_same(&wanted, &found)?;
    ensure!(wanted == ["spread: 1", "share: 1", "verified more: 0"], "{wanted:?}");
    Ok(())
}
