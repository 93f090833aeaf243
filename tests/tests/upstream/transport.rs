//! Hosts of one cluster that are spoken with differently (`transport_socket_matches`), chosen by their metadata.

use anyhow::{Result, ensure};
use integration::client::Client;
use integration::config::{HttpListener, cluster, fill, port};
use integration::control_plane::{ADS, bootstrap_of, management_cluster, served, socket};
use integration::expect::{SOON, eventually};
use integration::process::{Binary, Proxy};
use integration::upstream::Upstream;
use xds::TypeUrl;
use xds::fake::{ManagementServer, Served};
use xds_api::envoy::config::cluster::v3::Cluster;
use xds_api::envoy::config::endpoint::v3::ClusterLoadAssignment;

use super::{expect_stat, fetch, get, start, stat_becomes};

const TLS: &str = "{name: tls, typed_config: {\"@type\": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext}}";
const RAW: &str = "{name: raw, typed_config: {\"@type\": type.googleapis.com/envoy.extensions.transport_sockets.raw_buffer.v3.RawBuffer}}";

/// A cluster of one host that speaks no TLS, with these metadata.
fn host(name: &'static str, metadata: &str, extra: &str) -> (&'static str, String) {
    let yaml = cluster(name, "up", extra);
    let metadata =
        format!("      - metadata: {{filter_metadata: {{envoy.transport_socket_match: {metadata}}}}}\n");
    (name, yaml.replace("      - endpoint", &format!("{metadata}        endpoint")))
}

#[tokio::test]
async fn the_first_match_of_a_hosts_metadata_says_how_it_is_spoken_with() -> Result<()> {
    let upstream = Upstream::start().await?;
    // With TLS nothing comes of a request: the host speaks none.
    let matches = format!(
        "transport_socket: {TLS}\ntransport_socket_matches:\n\
         - {{name: both, match: {{a: b, c: d}}, transport_socket: {TLS}}}\n\
         - {{name: one, match: {{c: d}}, transport_socket: {RAW}}}\n\
         - {{name: list, match: {{l: [x, y]}}, transport_socket: {RAW}}}\n\
         - {{name: number, match: {{n: 1}}, transport_socket: {RAW}}}\n"
    );
    let any = format!("{matches}- {{name: rest, match: {{}}, transport_socket: {RAW}}}\n");
    let cases = [
        ("both", "{a: b, c: d}", &matches, 503, "both"),
        ("more", "{a: b, c: d, e: f}", &matches, 503, "both"),
        ("one", "{c: d}", &matches, 200, "one"),
        ("other", "{a: b}", &matches, 503, "default"),
        ("none", "{}", &matches, 503, "default"),
        ("list", "{l: [x, y]}", &matches, 200, "list"),
        ("of_list", "{l: x}", &matches, 503, "default"),
        ("number", "{n: 1}", &matches, 200, "number"),
        ("text", "{n: '1'}", &matches, 503, "default"),
        ("any", "{}", &any, 200, "rest"),
        ("before_any", "{a: b, c: d}", &any, 503, "both"),
    ];
    let clusters = cases.map(|(name, metadata, matches, ..)| host(name, metadata, matches));
    let clusters = clusters.map(|(name, yaml)| (name, fill(&yaml, [("up", port(upstream.addr()))])));
    let proxy = start(&clusters, "").await?;
    for (name, _, _, status, matched) in cases {
        let answer = get(&proxy, &format!("/{name}")).await?.head.status()?;
        ensure!(answer == status, "{name}: {answer}");
        for one in ["both", "one", "list", "number", "default"] {
            let stat = format!("cluster.{name}.{one}.total_match_count");
            expect_stat(&proxy, &stat, i64::from(one == matched)).await?;
        }
    }
    proxy.stop().await
}

fn endpoints(upstream: &Upstream, metadata: &str) -> Result<Served> {
    served::<ClusterLoadAssignment>(&format!(
        "{{cluster_name: c, endpoints: [{{lb_endpoints: [{{metadata: {{filter_metadata: {{envoy.transport_socket_match: {metadata}}}}}, endpoint: {{address: {{socket_address: {{address: 127.0.0.1, port_value: {}}}}}}}}}]}}]}}",
        upstream.addr().port()
    ))
}

#[tokio::test]
async fn metadata_that_change_are_for_new_connections() -> Result<()> {
    let upstream = Upstream::start().await?;
    let management = ManagementServer::start().await?;
    let cluster = served::<Cluster>(&format!(
        "{{name: c, connect_timeout: 1s, type: EDS, eds_cluster_config: {{eds_config: {{resource_api_version: V3, ads: {{}}}}}}, transport_socket_matches: [{{name: m, match: {{tls: yes}}, transport_socket: {TLS}}}]}}"
    ))?;
    management.set(&TypeUrl::CLUSTER, "1", [cluster]);
    management.set(&TypeUrl::CLUSTER_LOAD_ASSIGNMENT, "1", [endpoints(&upstream, "{}")?]);
    let listener = HttpListener::new("http", "- match: {prefix: /}\n  route: {cluster: c}")
        .route_config("validate_clusters: false");
    let clusters = management_cluster(&socket(management.address()));
    let text = bootstrap_of(&format!("cds_config: {ADS}\n"), &[listener.yaml()], &clusters, "GRPC");
    let proxy = Proxy::start(&Binary::subject()?, &text).await?;
    let mut client = Client::connect(proxy.listener("http")?).await?;
    ensure!(fetch(&mut client, "/").await?.head.status()? == 200);
    expect_stat(&proxy, "cluster.c.default.total_match_count", 1).await?;
    management.set(&TypeUrl::CLUSTER_LOAD_ASSIGNMENT, "2", [endpoints(&upstream, "{tls: yes}")?]);
    // Counted as an endpoint that came, and as a host that changed.
    stat_becomes(&proxy, "cluster.c.m.total_match_count", 2).await?;
    // The connection that is there is used as it is.
    ensure!(fetch(&mut client, "/").await?.head.status()? == 200);
    ensure!(upstream.opened() == 1);
    upstream.push(integration::upstream::Reply::raw_then_close(
        "HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n",
    ));
    ensure!(fetch(&mut client, "/").await?.head.status()? == 200);
    eventually("the end of the connection", SOON, async || (upstream.open() == 0).then_some(())).await?;
    ensure!(fetch(&mut client, "/").await?.head.status()? == 503, "TLS now");
    proxy.stop().await
}
