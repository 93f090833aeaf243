//! Clusters and upstreams of the running proxy: discovery by DNS, pools, balancing, circuit breakers, what a control plane
//! changes.
//!
//! `SUBJECT=envoy` runs the cases that describe Envoy's behaviour against the real one, which proves the tests themselves.

mod addresses;
mod balancing;
mod breakers;
mod changes;
mod dns;
mod dynamic;
mod host;
mod logs;
mod original_dst;
mod original_src;
mod pools;
mod preconnect;
mod resolvers;
mod retries;
mod settings;
mod transport;
mod uploads;

use anyhow::{Result, ensure};
use integration::client::{Client, Response};
use integration::config::{HttpListener, bootstrap};
use integration::expect::{SOON, eventually};
use integration::process::{Binary, Proxy};

/// A proxy with a listener `http` whose route `/<name>` leads to the cluster of that name.
async fn start(clusters: &[(&str, String)], more_routes: &str) -> Result<Proxy> {
    let mut routes = more_routes.to_owned();
    for (name, _) in clusters {
        routes.push_str(&format!(
            "- match: {{path_separated_prefix: /{name}}}\n  route: {{cluster: {name}}}\n"
        ));
    }
    let clusters: Vec<String> = clusters.iter().map(|(_, yaml)| yaml.clone()).collect();
    Proxy::start(&Binary::subject()?, &bootstrap(&[HttpListener::new("http", &routes).yaml()], &clusters, ""))
        .await
}

/// One GET on a connection of its own.
async fn get(proxy: &Proxy, path: &str) -> Result<Response> {
    let mut client = Client::connect(proxy.listener("http")?).await?;
    fetch(&mut client, path).await
}

/// One GET.
async fn fetch(client: &mut Client, path: &str) -> Result<Response> {
    client.send(format!("GET {path} HTTP/1.1\r\nhost: a\r\n\r\n").as_bytes()).await?;
    client.response("GET", SOON).await
}

/// Waits until a counter or gauge has this value.
async fn stat_becomes(proxy: &Proxy, name: &str, wanted: i64) -> Result<()> {
    let last = std::cell::Cell::new(0);
    let reached = eventually(name, SOON, async || {
        let value = proxy.admin().stat(name).await.ok()?;
        last.set(value);
        (value == wanted).then_some(())
    })
    .await;
    reached.map_err(|error| error.context(format!("{name} is {}, wanted {wanted}", last.get())))
}

async fn expect_stat(proxy: &Proxy, name: &str, wanted: i64) -> Result<()> {
    let value = proxy.admin().stat(name).await?;
    ensure!(value == wanted, "{name} is {value}, wanted {wanted}");
    Ok(())
}

/// The addresses of a cluster's hosts, as `/clusters` lists them.
async fn hosts(proxy: &Proxy, cluster: &str) -> Result<Vec<String>> {
    let text = proxy.admin().get("/clusters").await?;
    let prefix = format!("{cluster}::");
    let lines = text.lines().filter_map(|line| line.strip_prefix(&prefix)?.split_once("::cx_active::"));
    let mut hosts: Vec<String> = lines.map(|(address, _)| address.to_owned()).collect();
    hosts.sort();
    Ok(hosts)
}
