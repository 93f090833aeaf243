//! Requests that are sent again to another cluster, where the clusters are different hosts.

use anyhow::{Result, ensure};
use integration::config::{H2_CLUSTER, cluster, fill, indent, port};
use integration::ports::Refusing;
use integration::process::{Binary, Kind};
use integration::tls::{Authority, TlsServer, Wanted, inline, upstream};
use integration::upstream::h2::{H2Reply, H2Upstream};
use integration::upstream::{Reply, Upstream};

use super::{get, start};

/// A route to clusters of which each retry chooses another.
fn route(path: &str, clusters: &str, conditions: &str) -> String {
    format!(
        "- match: {{path: {path}}}\n  route: {{{clusters}, retry_policy: {{{conditions}, num_retries: 3, refresh_cluster_on_retry: true, retry_back_off: {{base_interval: 0.001s}}}}}}\n"
    )
}

#[tokio::test]
async fn what_nobody_worked_on_is_sent_again_within_its_group() -> Result<()> {
    if Binary::subject()?.kind == Kind::Envoy {
        // It needs a retry policy for this.
        return Ok(());
    }
    const REFUSED_STREAM: u32 = 7;
    let (first, second, third) =
        (H2Upstream::start().await?, Upstream::start().await?, Upstream::start().await?);
    for (host, body) in [(&second, "two"), (&third, "3rd")] {
        host.answer(Reply::raw(format!("HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\n{body}")));
    }
    let to = |name, addr, extra| (name, fill(&cluster(name, "up", extra), [("up", port(addr))]));
    let clusters = [to("a", first.addr(), H2_CLUSTER), to("b", second.addr(), ""), to("c", third.addr(), "")];
    let groups = "inline_cluster_specifier_plugin: {extension: {name: g, typed_config: {\"@type\": type.googleapis.com/envoy.extensions.router.cluster_specifiers.priority_group.v3.PriorityGroupClusterSpecifier, priority_groups: [{name: one, clusters: [{cluster_name: a, weight: 1}]}, {name: two, clusters: [{cluster_name: b, weight: 1}]}, {name: three, clusters: [{cluster_name: c, weight: 1}]}]}}}";
    let conditions = "retry_on: retriable-status-codes, retriable_status_codes: [503]";
    let proxy = start(&clusters, &route("/groups", groups, conditions)).await?;
    first.script([H2Reply::refuse(REFUSED_STREAM), H2Reply::new(503, "")]);
    let response = get(&proxy, "/groups").await?;
    ensure!(response.body == b"two", "{response:?}");
    ensure!(first.received().len() == 2, "{} requests at the first group", first.received().len());
    proxy.stop().await
}

#[tokio::test]
async fn the_host_of_another_cluster_is_asked_for_what_the_client_asked_for() -> Result<()> {
    let root = Authority::new("root")?;
    let identity = root.issue(&Wanted { sans: &["dns:a"], ..Wanted::default() })?;
    let server = TlsServer::start(&identity, None, &[], rustls::ALL_VERSIONS)?;
    let refusing = Refusing::new()?;
    let options = format!(
        "typed_extension_protocol_options:\n  envoy.extensions.upstreams.http.v3.HttpProtocolOptions:\n    \"@type\": type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions\n    explicit_http_config: {{http_protocol_options: {{}}}}\n{}",
        indent("upstream_http_protocol_options: {auto_sni: true, auto_san_validation: true}", 4)
    );
    let context = format!("validation_context: {{trusted_ca: {}}}", inline(&root.pem));
    let to = |name, addr| {
        let yaml = cluster(name, "up", &(upstream(&context, "") + &options));
        let yaml = yaml.replace("endpoint: {address", &format!("endpoint: {{hostname: {name}.test, address"));
        (name, fill(&yaml, [("up", port(addr))]))
    };
    let clusters = [to("first", refusing.addr()), to("second", server.addr)];
    let weighted = "weighted_clusters: {header_name: x-random, clusters: [{name: first, weight: 4294967294}, {name: second, weight: 1}]}, auto_host_rewrite: true";
    let proxy = start(&clusters, &route("/names", weighted, "retry_on: connect-failure")).await?;
    let response = get(&proxy, "/names").await?;
    ensure!(response.head.status()? == 200, "{response:?}");
    let asked: Vec<_> = server.seen().into_iter().map(|seen| seen.server_name).collect();
    ensure!(asked == [Some("a".to_owned())], "{asked:?}");
    proxy.stop().await
}
