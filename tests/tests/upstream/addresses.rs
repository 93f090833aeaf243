//! Upstreams at IPv6 addresses, and every field that names the resolver of a cluster.

use std::net::IpAddr;

use anyhow::{Result, ensure};
use integration::config::{HttpListener, bootstrap, indent};
use integration::dns::{AAAA, DnsServer};
use integration::process::{Binary, Proxy};
use integration::upstream::{Reply, Upstream};

use super::{get, hosts, start};

/// Upstreams that say which one they are, at these addresses and one port.
async fn upstreams(addresses: &[&str]) -> Result<Vec<Upstream>> {
    let parsed = addresses.iter().map(|text| Ok(text.parse::<IpAddr>()?)).collect::<Result<Vec<_>>>()?;
    let started = Upstream::start_on_one_port(&parsed).await?;
    for (upstream, address) in started.iter().zip(addresses) {
        let length = address.len();
        upstream.answer(Reply::raw(format!("HTTP/1.1 200 OK\r\ncontent-length: {length}\r\n\r\n{address}")));
    }
    Ok(started)
}

/// A cluster of one endpoint, with further fields.
fn cluster(name: &'static str, kind: &str, address: &str, port: u16, extra: &str) -> (&'static str, String) {
    let yaml = format!(
        "- name: {name}\n  type: {kind}\n  connect_timeout: 1s\n{}  load_assignment:\n    cluster_name: {name}\n    endpoints:\n    - lb_endpoints:\n      - endpoint: {{address: {{socket_address: {{address: \"{address}\", port_value: {port}}}}}}}\n",
        indent(extra, 2)
    );
    (name, yaml)
}

async fn answer(proxy: &Proxy, cluster: &str) -> Result<String> {
    let response = get(proxy, &format!("/{cluster}")).await?;
    let body = String::from_utf8(response.body)?;
    ensure!(response.head.status()? == 200, "{cluster}: {:?} {body}", response.head);
    Ok(body)
}

#[tokio::test]
async fn hosts_at_ipv6_addresses_are_reached() -> Result<()> {
    let both = upstreams(&["::1", "127.0.0.1"]).await?;
    let port = both[0].addr().port();
    let four = upstreams(&["127.0.0.1"]).await?;
    let only_four = four[0].addr().port();
    let server = DnsServer::start().await?;
    server.addresses("six.test", &["::1"])?;
    server.addresses("both.test", &["127.0.0.1", "::1"])?;
    let family = |family: &str| format!("dns_lookup_family: {family}\n{}", server.resolver());
    let second = "upstream_connection_options: {happy_eyeballs_config: {first_address_family_version: V6, first_address_family_count: 1}}";
    let proxy = start(
        &[
            cluster("static", "STATIC", "::1", port, ""),
            cluster(
                "bound",
                "STATIC",
                "::1",
                port,
                "upstream_bind_config: {source_address: {address: \"::1\", port_value: 0}}",
            ),
            cluster("strict", "STRICT_DNS", "six.test", port, &family("V6_ONLY")),
            cluster("logical", "LOGICAL_DNS", "six.test", port, &family("V6_ONLY")),
            cluster("auto", "STRICT_DNS", "both.test", port, &family("AUTO")),
            cluster("preferred", "LOGICAL_DNS", "both.test", port, &family("V4_PREFERRED")),
            // nobody listens at the first of the two addresses
            cluster("eyeballs", "LOGICAL_DNS", "both.test", only_four, &format!("{}{second}", family("ALL"))),
            cluster("literal", "STRICT_DNS", "::1", port, &family("AUTO")),
        ],
        "",
    )
    .await?;
    for (cluster, expected) in [
        ("static", "::1"),
        ("bound", "::1"),
        ("strict", "::1"),
        ("logical", "::1"),
        ("auto", "::1"),
        ("preferred", "127.0.0.1"),
        ("eyeballs", "127.0.0.1"),
        ("literal", "::1"),
    ] {
        let seen = answer(&proxy, cluster).await?;
        ensure!(seen == expected, "{cluster}: {seen}");
    }
    for cluster in ["static", "bound", "strict", "logical", "auto", "literal"] {
        ensure!(
            hosts(&proxy, cluster).await? == [format!("[::1]:{port}")],
            "{cluster}: {:?}",
            hosts(&proxy, cluster).await?
        );
    }
    let asked = server.asked("six.test");
    ensure!(!asked.is_empty() && asked.iter().all(|question| question.kind == AAAA), "{asked:?}");
    proxy.stop().await
}

#[tokio::test]
async fn both_families_of_a_name_share_the_load() -> Result<()> {
    let both = upstreams(&["::1", "127.0.0.1"]).await?;
    let port = both[0].addr().port();
    let server = DnsServer::start().await?;
    server.addresses("both.test", &["127.0.0.1", "::1"])?;
    let extra = format!("dns_lookup_family: ALL\n{}", server.resolver());
    let proxy = start(&[cluster("all", "STRICT_DNS", "both.test", port, &extra)], "").await?;
    ensure!(hosts(&proxy, "all").await? == [format!("127.0.0.1:{port}"), format!("[::1]:{port}")]);
    let mut seen = Vec::new();
    for _ in 0..4 {
        seen.push(answer(&proxy, "all").await?);
    }
    seen.sort();
    ensure!(seen == ["127.0.0.1", "127.0.0.1", "::1", "::1"], "{seen:?}");
    proxy.stop().await
}

#[tokio::test]
async fn the_resolver_can_be_named_in_every_field_for_it() -> Result<()> {
    let up = upstreams(&["127.0.0.1"]).await?;
    let upstream = up[0].addr().port();
    let servers: Vec<DnsServer> = [
        DnsServer::start().await?,
        DnsServer::start().await?,
        DnsServer::start().await?,
        DnsServer::start().await?,
    ]
    .into();
    for server in &servers {
        server.addresses("a.test", &["127.0.0.1"])?;
    }
    let at = |server: &DnsServer| {
        format!("{{socket_address: {{address: 127.0.0.1, port_value: {}}}}}", server.addr().port())
    };
    let typed = |kind: &str, fields: &str| {
        format!(
            "dns_lookup_family: V4_ONLY\ntyped_dns_resolver_config:\n  name: r\n  typed_config: {{\"@type\": type.googleapis.com/envoy.extensions.network.dns_resolver.{kind}, {fields}}}\n"
        )
    };
    let options = "dns_resolver_options: {use_tcp_for_dns_lookups: true, no_default_search_domain: true}";
    let older = format!(
        "dns_lookup_family: V4_ONLY\ndns_resolution_config: {{resolvers: [{}], {options}}}",
        at(&servers[0])
    );
    let oldest = format!("dns_lookup_family: V4_ONLY\ndns_resolvers: [{}]", at(&servers[1]));
    let cares =
        typed("cares.v3.CaresDnsResolverConfig", &format!("resolvers: [{}], {options}", at(&servers[2])));
    let system = typed("getaddrinfo.v3.GetAddrInfoDnsResolverConfig", "num_retries: 1");
    let clusters = [
        cluster("older", "STRICT_DNS", "a.test", upstream, &older),
        cluster("oldest", "STRICT_DNS", "a.test", upstream, &oldest),
        cluster("cares", "LOGICAL_DNS", "a.test", upstream, &cares),
        cluster("system", "STRICT_DNS", "localhost", upstream, &system),
    ];
    let proxy = start(&clusters, "").await?;
    for (cluster, _) in &clusters {
        ensure!(answer(&proxy, cluster).await? == "127.0.0.1", "{cluster}");
    }
    for (index, is_tcp) in [(0, true), (1, false), (2, true)] {
        let asked = servers[index].asked("a.test");
        ensure!(
            !asked.is_empty() && asked.iter().all(|question| question.tcp == is_tcp),
            "{index}: {asked:?}"
        );
    }
    proxy.stop().await?;

    // the older field of the bootstrap, for clusters that say nothing
    let (name, yaml) = cluster("plain", "STRICT_DNS", "a.test", upstream, "dns_lookup_family: V4_ONLY");
    let listener =
        HttpListener::new("http", &format!("- match: {{prefix: /}}\n  route: {{cluster: {name}}}"));
    let rest = format!("dns_resolution_config: {{resolvers: [{}], {options}}}\n", at(&servers[3]));
    let proxy = Proxy::start(&Binary::subject()?, &bootstrap(&[listener.yaml()], &[yaml], &rest)).await?;
    ensure!(answer(&proxy, name).await? == "127.0.0.1");
    ensure!(
        servers[3].asked("a.test").iter().any(|question| question.tcp),
        "{:?}",
        servers[3].asked("a.test")
    );
    proxy.stop().await
}
