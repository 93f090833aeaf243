//! A thousand updates a minute under traffic: nothing fails, nothing on an unchanged filter chain closes, and what is in
//! force in the end is what was sent.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use integration::client::Client;
use integration::expect::{SOON, eventually};
use xds::fake::Served;

use crate::rig::*;

const UPDATES: usize = 300;
/// 300 in 18 s are 1,000 a minute.
const PACE: Duration = Duration::from_millis(60);
const CONNECTIONS: usize = 4;

/// Requests on one connection until told to stop; each has to succeed.
async fn traffic(address: SocketAddr, done: Arc<AtomicBool>) -> Result<usize> {
    let mut connection = Client::connect(address).await?;
    let mut served = 0;
    while !done.load(Ordering::Relaxed) {
        connection.send(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n").await?;
        let response =
            connection.response("GET", SOON).await.with_context(|| format!("after {served} requests"))?;
        let (status, head) = (response.head.status()?, &response.head);
        ensure!(status == 200 && response.complete, "after {served} requests: {head:?}");
        ensure!(!head.connection_says("close"), "after {served} requests: {head:?}");
        served += 1;
        tokio::task::yield_now().await;
    }
    Ok(served)
}

/// The cluster that serves, in one of its forms, and those that come and go beside it.
fn clusters(n: usize, up: SocketAddr) -> Result<Vec<Served>> {
    let mut all =
        vec![cluster_from("c", ADS, &format!(", metadata: {{filter_metadata: {{churn: {{n: {n}}}}}}}"))?];
    for beside in 0..n % 5 {
        all.push(static_cluster(&format!("beside-{beside}"), up)?);
    }
    Ok(all)
}

/// The listener that serves, unchanged, and those that come and go beside it.
fn listeners(n: usize) -> Result<Vec<Served>> {
    let mut all = vec![listener("l", "r")?];
    for beside in 0..n % 3 {
        all.push(listener_with(
            &format!("beside-{beside}"),
            ANY_PORT,
            &http_chain(&format!("n{n}"), &rds("r", ADS)),
        )?);
    }
    Ok(all)
}

async fn churns(api_type: &str) -> Result<()> {
    let rig = Rig::start(api_type).await?;
    let others = [upstream("b").await?, upstream("c").await?];
    let hosts = [rig.upstream.addr(), others[0].addr(), others[1].addr()];
    let address = rig.address("l").await?;
    let done = Arc::new(AtomicBool::new(false));
    let clients: Vec<_> = (0..CONNECTIONS).map(|_| tokio::spawn(traffic(address, done.clone()))).collect();
    let mut pace = tokio::time::interval(PACE);
    for n in 1..=UPDATES {
        pace.tick().await;
        let version = n.to_string();
        match n % 4 {
            0 => rig.management.set(&RDS, &version, [routes("r", "c", &version)?]),
            1 => rig.management.set(&EDS, &version, [endpoints("c", &[hosts[n % 3], hosts[(n + 1) % 3]])?]),
            2 => rig.management.set(&CDS, &version, clusters(n, hosts[0])?),
            _ => rig.management.set(&LDS, &version, listeners(n)?),
        }
    }
    let mut connection = rig.connect("l").await?;
    until_mark(&mut connection, &UPDATES.to_string()).await?;
    done.store(true, Ordering::Relaxed);
    let mut served = 0;
    for client in clients {
        served += client.await??;
    }
    ensure!(served > UPDATES, "{served} requests");

    let names = |all: Vec<Served>| all.into_iter().map(|one| one.name).collect::<BTreeSet<String>>();
    let (last_clusters, last_listeners) = (UPDATES - 2, UPDATES - 1);
    let wanted = (names(clusters(last_clusters, hosts[0])?), names(listeners(last_listeners)?));
    let admin = rig.proxy.admin();
    eventually("what was sent last in force", SOON, async || {
        let dump = admin.config_dump("").await.ok()?;
        let named = |section: usize, list: &str, path: &str| -> BTreeSet<String> {
            let list = dump["configs"][section][list].as_array().cloned().unwrap_or_default();
            list.iter().filter_map(|one| one.pointer(path)?.as_str().map(str::to_owned)).collect()
        };
        let clusters = named(1, "dynamic_active_clusters", "/cluster/name");
        let listeners = named(2, "dynamic_listeners", "/active_state/listener/name");
        let serving = dump["configs"][1].to_string().contains(&format!("\"n\":{last_clusters}"));
        (serving && (clusters, listeners) == wanted).then_some(())
    })
    .await?;
    rig.stat("cluster.c.membership_total", 2).await?;
    for name in ["cluster_manager.cds", "listener_manager.lds", "http.p.rds.r", "cluster.c"] {
        rig.stat(&format!("{name}.update_rejected"), 0).await?;
    }
    let connections = i64::try_from(CONNECTIONS)? + 1;
    ensure!(admin.stat("http.p.downstream_cx_total").await? == connections, "nobody had to connect again");
    rig.proxy.stop().await
}

#[tokio::test]
async fn a_thousand_updates_a_minute_of_the_world() -> Result<()> {
    churns("GRPC").await
}

#[tokio::test]
async fn a_thousand_updates_a_minute_of_changes() -> Result<()> {
    churns("DELTA_GRPC").await
}
