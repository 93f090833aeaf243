//! A control plane on go-control-plane changes 200 times what a proxy under load is configured with: no request fails, and
//! in the end the proxy holds what the control plane does.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use integration::client::Client;
use integration::config::{H2_CLUSTER, cluster, fill, indent, port};
use integration::expect::SOON;
use integration::process::{Binary, Proxy};
use integration::upstream::{Reply, Upstream};
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::rig::{Program, built};

const CHANGES: usize = 200;
const CLIENTS: usize = 4;

/// The type of the streams, and whether there is one for all types of resources.
#[derive(Clone, Copy)]
struct Streams {
    api_type: &'static str,
    aggregated: bool,
}

fn bootstrap(streams: Streams, management: SocketAddr) -> String {
    let Streams { api_type, aggregated } = streams;
    let api = format!(
        "{{api_type: {api_type}, transport_api_version: V3, grpc_services: [{{envoy_grpc: {{cluster_name: management}}}}]}}"
    );
    let dynamic = if aggregated {
        let ads = "{resource_api_version: V3, ads: {}}";
        format!("ads_config: {api}\nlds_config: {ads}\ncds_config: {ads}\n")
    } else {
        let own = format!("{{resource_api_version: V3, api_config_source: {api}}}");
        format!("lds_config: {own}\ncds_config: {own}\n")
    };
    let text = format!(
        "node: {{id: interop, cluster: interop}}\nadmin: {{address: {{socket_address: {{address: 127.0.0.1, port_value: 0}}}}}}\ndynamic_resources:\n{}static_resources:\n  clusters:\n{}",
        indent(&dynamic, 2),
        indent(&cluster("management", "management", H2_CLUSTER), 2),
    );
    fill(&text, [("management", port(management))])
}

/// Requests one after the other until told to stop, on a connection that is kept for as long as the proxy keeps it.
async fn traffic(address: SocketAddr, done: watch::Receiver<bool>) -> Result<usize> {
    let mut kept = None;
    let mut served = 0;
    while !*done.borrow() {
        let mut client = match kept.take() {
            Some(client) => client,
            None => Client::connect(address).await?,
        };
        client.send(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n").await?;
        let response =
            client.response("GET", SOON).await.with_context(|| format!("after {served} requests"))?;
        ensure!(
            response.head.status()? == 200 && response.complete,
            "after {served} requests: {:?} {}",
            response.head,
            String::from_utf8_lossy(&response.body)
        );
        served += 1;
        if !response.head.connection_says("close") {
            kept = Some(client);
        }
        tokio::task::yield_now().await;
    }
    Ok(served)
}

async fn changes_under_load(streams: Streams) -> Result<()> {
    let mut upstreams = Vec::new();
    for _ in 0..3 {
        let upstream = Upstream::start().await?;
        upstream.answer(Reply::raw("HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nhi\n"));
        upstreams.push(upstream);
    }
    let hosts = upstreams.iter().map(|upstream| upstream.addr().to_string()).collect::<Vec<_>>().join(",");
    let mut command = built("controlplane")?;
    command.arg(format!("-hosts={hosts}")).arg(format!("-updates={CHANGES}"));
    command.arg(format!("-aggregated={}", streams.aggregated));
    command.arg(format!("-delta={}", streams.api_type == "DELTA_GRPC"));
    let mut plane = Program::start(command)?;
    let management = plane.hears("ready ", SOON).await?.parse()?;

    let proxy = Proxy::start(&Binary::subject()?, &bootstrap(streams, management)).await?;
    let address = proxy.listener("main")?;
    let done = watch::Sender::new(false);
    let mut clients = JoinSet::new();
    for _ in 0..CLIENTS {
        clients.spawn(traffic(address, done.subscribe()));
    }
    plane.say(&proxy.admin().addr().to_string())?;
    let said = plane.finish(Duration::from_secs(120)).await;
    let said = said.with_context(|| format!("the proxy said:\n{}", proxy.log_tail()))?;
    ensure!(said.contains(&format!("equal after {CHANGES} changes")), "{said}");
    done.send_replace(true);
    let mut served = 0;
    while let Some(client) = clients.join_next().await {
        served += client??;
    }
    ensure!(served > CHANGES, "{served} requests are no load");
    ensure!(proxy.admin().stat("cluster_manager.cds.update_rejected").await? == 0);
    ensure!(proxy.admin().stat("listener_manager.lds.update_rejected").await? == 0);
    proxy.stop().await
}

#[tokio::test]
async fn the_world_on_one_stream() -> Result<()> {
    changes_under_load(Streams { api_type: "GRPC", aggregated: true }).await
}

#[tokio::test]
async fn the_world_on_separate_streams() -> Result<()> {
    changes_under_load(Streams { api_type: "GRPC", aggregated: false }).await
}

#[tokio::test]
async fn changes_on_one_stream() -> Result<()> {
    changes_under_load(Streams { api_type: "DELTA_GRPC", aggregated: true }).await
}

#[tokio::test]
async fn changes_on_separate_streams() -> Result<()> {
    changes_under_load(Streams { api_type: "DELTA_GRPC", aggregated: false }).await
}
