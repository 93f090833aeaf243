//! Statistics of the event loops.

use std::collections::BTreeSet;

use anyhow::{Result, ensure};
use integration::config::HttpListener;
use integration::expect::{SOON, eventually};

use super::{ask, start};

/// The statistics of dispatchers by name, each with whether it recorded anything.
fn dispatchers(text: &str) -> BTreeSet<(String, bool)> {
    let lines = text.lines().filter_map(|line| line.split_once(": "));
    lines.map(|(name, values)| (name.to_owned(), values.starts_with("P0("))).collect()
}

#[tokio::test]
async fn loops_are_measured_on_demand() -> Result<()> {
    let listener = HttpListener::to_up("in").yaml();
    let rest = "enable_dispatcher_stats: true\nstats_flush_interval: 0.1s\n";
    let (proxy, _up) = start(std::slice::from_ref(&listener), rest, &["--concurrency", "2"]).await?;
    ensure!(ask(&proxy, "in", "/").await?.0 == 200);
    let of_threads =
        ["server", "listener_manager.worker_0", "listener_manager.worker_1"].iter().flat_map(|thread| {
            ["loop_duration_us", "poll_delay_us"].map(|name| (format!("{thread}.dispatcher.{name}"), true))
        });
    let expected: BTreeSet<(String, bool)> = of_threads.collect();
    let mut last = BTreeSet::new();
    let all = eventually("measurements of every loop", SOON, async || {
        last = dispatchers(&proxy.admin().get("/stats?filter=dispatcher").await.ok()?);
        (last == expected).then_some(())
    })
    .await;
    ensure!(all.is_ok(), "{last:?}");
    proxy.stop().await?;

    let (proxy, _up) = start(&[listener], "", &[]).await?;
    ensure!(ask(&proxy, "in", "/").await?.0 == 200);
    let text = proxy.admin().get("/stats?filter=dispatcher").await?;
    ensure!(text.trim().is_empty(), "{text}");
    proxy.stop().await
}
