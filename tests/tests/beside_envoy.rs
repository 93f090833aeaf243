//! What a process tells of itself, beside the real Envoy with the same bootstrap, command line and traffic.

use std::collections::BTreeSet;
use std::net::IpAddr;

use anyhow::{Context, Result, ensure};
use integration::client::{Client, fields_of};
use integration::config::{HttpListener, bootstrap, cluster, fill, port};
use integration::control_plane::{bootstrap_with, management_cluster, socket};
use integration::expect::{SOON, eventually, within};
use integration::process::{Binary, Proxy};
use integration::upstream::Upstream;
use tokio::net::TcpListener;

const ROUTES: &str = "
- match: {prefix: /dns}
  route: {cluster: dns}
- match: {prefix: /}
  route: {cluster: up}
";

const OVERLOAD: &str = r#"
overload_manager:
  resource_monitors:
  - name: envoy.resource_monitors.global_downstream_max_connections
    typed_config:
      "@type": type.googleapis.com/envoy.extensions.resource_monitors.downstream_connections.v3.DownstreamConnectionsConfig
      max_active_downstream_connections: 100
"#;

/// The same bootstrap for both, over one upstream.
fn configuration(upstream: &Upstream, router: &str) -> String {
    let resolved = cluster("dns", "up", "")
        .replace("type: STATIC", "type: STRICT_DNS\n  dns_lookup_family: V4_ONLY")
        .replace("address: 127.0.0.1", "address: localhost");
    let listener = HttpListener::new("l", ROUTES).options("use_remote_address: true").router(router).yaml();
    let yaml = bootstrap(&[listener], &[cluster("up", "up", ""), resolved], OVERLOAD);
    fill(&yaml, [("up", port(upstream.addr()))])
}

async fn ask(proxy: &Proxy, path: &str) -> Result<()> {
    let mut client = Client::connect(proxy.listener("l")?).await?;
    client.send(format!("GET {path} HTTP/1.1\r\nhost: test\r\n\r\n").as_bytes()).await?;
    let status = client.response("GET", SOON).await?.head.status()?;
    ensure!(status == 200, "{path}: {status}");
    Ok(())
}

/// Begins a connection over HTTP/2, so that its codec is there, and keeps it.
async fn begin_h2(proxy: &Proxy) -> Result<Client> {
    let mut client = Client::connect(proxy.listener("l")?).await?;
    let settings = [0, 0, 0, 4, 0, 0, 0, 0, 0];
    client.send(&[b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".as_slice(), &settings].concat()).await?;
    Ok(client)
}

/// The names in `/stats`, the port of the listener left out.
async fn names(proxy: &Proxy) -> Result<BTreeSet<String>> {
    let listener = format!("127.0.0.1_{}", proxy.listener("l")?.port());
    let text = proxy.admin().get("/stats").await?.replace(&listener, "127.0.0.1_0");
    Ok(text.lines().filter_map(|line| line.split_once(": ")).map(|(name, _)| name.to_owned()).collect())
}

#[tokio::test]
async fn the_names_of_all_statistics_are_those_of_envoy() -> Result<()> {
    let upstream = Upstream::start().await?;
    let yaml = configuration(&upstream, "");
    let mut found = Vec::new();
    for binary in [Binary::envoy()?, Binary::outrigger()?] {
        let proxy = Proxy::start(&binary, &yaml).await?;
        for path in ["/", "/dns"] {
            ask(&proxy, path).await?;
        }
        let _h2 = begin_h2(&proxy).await?;
        // The histograms of a request are there after the next flush.
        let flushed = async || {
            let names = names(&proxy).await.ok()?;
            let all = ["cluster.dns.upstream_rq_time", "http2.streams_active"];
            all.iter().all(|name| names.contains(*name)).then_some(names)
        };
        found.push(eventually("the statistics of a request", SOON, flushed).await?);
        proxy.stop().await?;
    }
    let [envoy, ours] = &found[..] else { anyhow::bail!("two programs") };
    let missing: Vec<_> = envoy.difference(ours).collect();
    let invented: Vec<_> = ours.difference(envoy).collect();
    ensure!(missing.is_empty(), "missing: {missing:#?}");
    let declared = ["server.dynamic_ignored_fields", "server.static_ignored_fields"];
    ensure!(invented == declared, "invented: {invented:#?}");
    Ok(())
}

#[tokio::test]
async fn the_router_counts_nothing_of_clusters_without_dynamic_stats() -> Result<()> {
    let upstream = Upstream::start().await?;
    let yaml = configuration(&upstream, "dynamic_stats: false");
    let mut found = Vec::new();
    for binary in [Binary::envoy()?, Binary::outrigger()?] {
        let proxy = Proxy::start(&binary, &yaml).await?;
        ask(&proxy, "/").await?;
        let counted = proxy.admin().stats(r"^cluster\.up\..*upstream_rq_(\d|completed|total)").await?;
        ensure!(counted["cluster.up.upstream_rq_total"] == 1, "{counted:?}");
        found.push(counted);
        proxy.stop().await?;
    }
    ensure!(found[0] == found[1], "{found:#?}");
    Ok(())
}

#[tokio::test]
async fn a_client_on_this_host_is_told_by_an_address_of_the_host() -> Result<()> {
    let upstream = Upstream::start().await?;
    let yaml = configuration(&upstream, "");
    for version in ["v4", "v6"] {
        let mut told = Vec::new();
        for binary in [Binary::envoy()?, Binary::outrigger()?] {
            upstream.forget();
            let proxy = Proxy::start_with(&binary, &yaml, &["--local-address-ip-version", version]).await?;
            ask(&proxy, "/").await?;
            proxy.stop().await?;
            let received = upstream.received();
            let request = received.first().context("the upstream saw nothing")?;
            let fields = request.fields.iter().filter(|(name, _)| name == "x-forwarded-for");
            told.push(fields.map(|(_, value)| value.clone()).collect::<Vec<_>>());
        }
        ensure!(told[0] == told[1], "{version}: {told:?}");
        let address: IpAddr = told[0].first().context("no address")?.parse()?;
        ensure!(address.is_ipv6() == (version == "v6"), "{version}: {address}");
    }
    Ok(())
}

/// Values of `initial_metadata`, by name.
const METADATA: [(&str, &str); 8] = [
    ("x-text", "value: text"),
    ("x-percent", "value: '100%%'"),
    ("x-command", "value: '%HOSTNAME% %REQ(a)% b'"),
    ("x-time", "value: '%START_TIME(%Y)%'"),
    ("x-both", "value: text, raw_value: cmF3"),
    ("x-two", "value: a"),
    ("x-two", "value: b"),
    ("x-empty", "value: ''"),
];

/// The head of the first request that comes over HTTP/2.
async fn first_head(listener: &TcpListener) -> Result<http::HeaderMap> {
    let (stream, _) = listener.accept().await?;
    let mut connection = h2::server::handshake(stream).await?;
    let (request, _) = connection.accept().await.context("no request")??;
    Ok(request.headers().clone())
}

#[tokio::test]
async fn streams_of_xds_begin_with_the_headers_that_envoy_sends() -> Result<()> {
    let source = "{resource_api_version: V3, ads: {}, initial_fetch_timeout: 0.05s}";
    let metadata: Vec<_> = METADATA.iter().map(|(key, value)| format!("{{key: {key}, {value}}}")).collect();
    let metadata = format!("initial_metadata: [{}]", metadata.join(", "));
    let mut found = Vec::new();
    for binary in [Binary::envoy()?, Binary::outrigger()?] {
        let management = TcpListener::bind("127.0.0.1:0").await?;
        let yaml = bootstrap_with(&management_cluster(&socket(management.local_addr()?)), "GRPC", source)
            .replace("{cluster_name: m}}", &format!("{{cluster_name: m}}, {metadata}}}"));
        let both = async { tokio::try_join!(first_head(&management), Proxy::start(&binary, &yaml)) };
        let (head, proxy) = within("the head of the stream", SOON, both).await??;
        let is_asked = |name: &str| METADATA.iter().any(|(asked, _)| *asked == name);
        found.push(fields_of(&head).into_iter().filter(|(name, _)| is_asked(name)).collect::<Vec<_>>());
        proxy.stop().await?;
    }
    ensure!(found[0] == found[1], "{found:#?}");
    Ok(())
}
