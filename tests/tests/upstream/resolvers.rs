//! The typed resolvers of clusters and their settings, and the spread of questions over time.

use anyhow::{Result, ensure};
use integration::config::indent;
use integration::dns::{Answer, DnsServer};
use integration::expect::{SOON, eventually};

use super::{hosts, start, stat_becomes};

/// A cluster of the name `<name>.test` with further fields.
fn cluster<'n>(name: &'n str, extra: &str) -> (&'n str, String) {
    let yaml = format!(
        "- name: {name}\n  type: STRICT_DNS\n  connect_timeout: 1s\n  dns_lookup_family: V4_ONLY\n{}  load_assignment:\n    cluster_name: {name}\n    endpoints:\n    - lb_endpoints:\n      - endpoint: {{address: {{socket_address: {{address: {name}.test, port_value: 80}}}}}}\n",
        indent(extra, 2)
    );
    (name, yaml)
}

/// A resolver of this type that asks `server`, with further fields.
fn resolver(server: &DnsServer, kind: &str, fields: &str) -> String {
    let port = server.addr().port();
    format!(
        "typed_dns_resolver_config:\n  name: r\n  typed_config:\n    \"@type\": type.googleapis.com/envoy.extensions.network.dns_resolver.{kind}\n    resolvers: [{{socket_address: {{address: 127.0.0.1, port_value: {port}}}}}]\n{}",
        indent(fields, 4)
    )
}

const CARES: &str = "cares.v3.CaresDnsResolverConfig";
const HICKORY: &str = "hickory.v3.HickoryDnsResolverConfig";

#[tokio::test]
async fn both_typed_resolvers_ask_the_servers_they_name() -> Result<()> {
    let (one, other) = (DnsServer::start().await?, DnsServer::start().await?);
    one.addresses("cares.test", &["127.0.0.1"])?;
    other.addresses("hickory.test", &["127.0.0.2"])?;
    let plain =
        "dns_resolver_options: {no_default_search_domain: true}\nquery_timeout_seconds: 2\nquery_tries: 2";
    let clusters = [
        cluster("cares", &resolver(&one, CARES, plain)),
        cluster("hickory", &resolver(&other, HICKORY, "query_timeout: 2s\nquery_tries: 2")),
    ];
    let proxy = start(&clusters, "").await?;
    stat_becomes(&proxy, "cluster.cares.membership_total", 1).await?;
    stat_becomes(&proxy, "cluster.hickory.membership_total", 1).await?;
    ensure!(hosts(&proxy, "cares").await? == ["127.0.0.1:80"]);
    ensure!(hosts(&proxy, "hickory").await? == ["127.0.0.2:80"]);
    ensure!(!one.asked("cares.test").is_empty() && one.asked("hickory.test").is_empty());
    ensure!(!other.asked("hickory.test").is_empty() && other.asked("cares.test").is_empty());
    proxy.stop().await
}

/// An answer that is kept for its time to live is not asked for again, however often the cluster wants it.
#[tokio::test]
async fn a_cache_answers_in_place_of_the_server() -> Result<()> {
    let server = DnsServer::start().await?;
    for name in ["kept.test", "unkept.test"] {
        server.set(name, Answer::Addresses(vec!["127.0.0.1".parse()?], 3600));
    }
    let often = "dns_refresh_rate: 0.02s";
    let with = |fields: &str| format!("{often}\n{}", resolver(&server, HICKORY, fields));
    let clusters = [cluster("kept", &with("cache_size: 16")), cluster("unkept", &with("cache_size: 0"))];
    let proxy = start(&clusters, "").await?;
    server.asked_again("unkept.test", 5, SOON).await?;
    eventually("answers", SOON, async || {
        (proxy.admin().stat("cluster.kept.update_success").await.ok()? >= 5).then_some(())
    })
    .await?;
    ensure!(server.asked("kept.test").len() == 1, "{:?}", server.asked("kept.test"));
    proxy.stop().await
}

/// With a jitter of a day and more, the next question is never soon; without one it is.
#[tokio::test]
async fn jitter_puts_the_next_question_off() -> Result<()> {
    let server = DnsServer::start().await?;
    for name in ["none.test", "little.test", "much.test", "typed.test"] {
        server.addresses(name, &["127.0.0.1"])?;
    }
    let resolver = server.resolver();
    let with = |jitter: &str| format!("dns_refresh_rate: 0.02s\n{jitter}\n{resolver}");
    let typed = format!(
        "- name: typed\n  connect_timeout: 1s\n  cluster_type:\n    name: dns\n    typed_config:\n      \"@type\": type.googleapis.com/envoy.extensions.clusters.dns.v3.DnsCluster\n      dns_lookup_family: V4_ONLY\n      dns_refresh_rate: 0.02s\n      dns_jitter: 1000000s\n{}  load_assignment:\n    cluster_name: typed\n    endpoints:\n    - lb_endpoints:\n      - endpoint: {{address: {{socket_address: {{address: typed.test, port_value: 80}}}}}}\n",
        indent(&resolver, 6)
    );
    let clusters = [
        cluster("none", &with("")),
        cluster("little", &with("dns_jitter: 0.02s")),
        cluster("much", &with("dns_jitter: 1000000s")),
        ("typed", typed),
    ];
    let proxy = start(&clusters, "").await?;
    for (cluster, _) in &clusters {
        stat_becomes(&proxy, &format!("cluster.{cluster}.membership_total"), 1).await?;
    }
    server.asked_again("none.test", 20, SOON).await?;
    server.asked_again("little.test", 5, SOON).await?;
    for name in ["much.test", "typed.test"] {
        ensure!(server.asked(name).len() == 1, "{name}: {:?}", server.asked(name));
    }
    proxy.stop().await
}
