//! Two sidecars as Istio configures them, mutual TLS between: what they tell each other, and what they count.

use std::collections::BTreeMap;

use integration::client::Client;
use integration::config::{HttpListener, bootstrap, cluster, fill, listener_with_filters, port, tcp_proxy};
use integration::expect::{SOON, eventually};
use integration::process::{Binary, Proxy};
use integration::tls::{Authority, Wanted, downstream, inline, upstream};
use integration::upstream::{EchoServer, Reply, Upstream};

pub(crate) const TYPED: &str =
    "\"@type\": type.googleapis.com/udpa.type.v1.TypedStruct\n    type_url: type.googleapis.com";

pub(crate) fn node(name: &str, namespace: &str) -> String {
    format!(
        "node:
  id: sidecar~10.0.0.1~{name}-1.{namespace}~{namespace}.svc.cluster.local
  cluster: {name}.{namespace}
  locality: {{region: here, zone: a}}
  metadata:
    NAME: {name}-1
    NAMESPACE: {namespace}
    WORKLOAD_NAME: {name}
    CLUSTER_ID: Kubernetes
    ISTIO_VERSION: 1.30.0
    OWNER: kubernetes://apis/apps/v1/namespaces/{namespace}/deployments/{name}
    LABELS: {{app: {name}, version: v1, service.istio.io/canonical-name: {name}, service.istio.io/canonical-revision: v1, role: r}}
"
    )
}

fn exchange(config: &str) -> String {
    format!(
        "- name: istio.metadata_exchange\n  typed_config:\n    {TYPED}/io.istio.http.peer_metadata.Config\n    value: {config}\n"
    )
}

pub(crate) const STATS: &str =
    "- name: istio.stats\n  typed_config: {\"@type\": type.googleapis.com/stats.PluginConfig}\n";
const ALPN: &str = "- name: istio.alpn
  typed_config:
    \"@type\": type.googleapis.com/istio.envoy.config.filter.http.alpn.v2alpha1.FilterConfig
    alpn_override: [{upstream_protocol: HTTP11, alpn_override: [istio-http/1.1, istio, http/1.1]}]
";
const GRPC_STATS: &str = "- name: grpc
  typed_config:
    \"@type\": type.googleapis.com/envoy.extensions.filters.http.grpc_stats.v3.FilterConfig
    emit_filter_state: true
";

/// What stands behind the sidecars.
struct World {
    host: Upstream,
    echo: EchoServer,
    server: Proxy,
    client: Proxy,
}

async fn world() -> World {
    let root = Authority::new("root").unwrap();
    let identity = |name: &str| {
        let san = format!("uri:spiffe://cluster.local/ns/{name}-ns/sa/{name}");
        root.issue(&Wanted { sans: &[&san], ..Wanted::default() }).unwrap()
    };
    let (web, shop) = (identity("web"), identity("shop"));
    let host = Upstream::start().await.unwrap();
    let echo = EchoServer::start().await.unwrap();
    let binary = Binary::subject().unwrap();
    let common = |own: &integration::tls::Identity, alpn: &str| {
        format!(
            "tls_certificates: [{}]\nvalidation_context: {{trusted_ca: {}}}\nalpn_protocols: {alpn}\n",
            own.inline(),
            inline(&root.pem)
        )
    };
    let inbound = exchange(
        "{downstream_discovery: [{istio_headers: {}}, {workload_discovery: {}}], downstream_propagation: [{istio_headers: {}}]}",
    );
    let to_host = "- match: {prefix: /}\n  route: {cluster: host}";
    let socket =
        downstream(&common(&shop, "[istio-http/1.1, h2, http/1.1]"), "require_client_certificate: true\n");
    let http = HttpListener::new("inbound", to_host)
        .filters(&[&inbound, GRPC_STATS, STATS].concat())
        .chain(&socket)
        .listener("traffic_direction: INBOUND\n");
    let tcp = [STATS, &tcp_proxy("tcp", "cluster: echo\n")].concat();
    let tcp = listener_with_filters("tcp", &tcp) + "  traffic_direction: INBOUND\n";
    let hosts = [
        fill(&cluster("host", "host", ""), [("host", port(host.addr()))]),
        fill(&cluster("echo", "echo", ""), [("echo", port(echo.server().addr()))]),
    ];
    let rest = node("shop", "shop-ns");
    let server = Proxy::start(&binary, &bootstrap(&[http.yaml(), tcp], &hosts, &rest)).await.unwrap();

    let outbound = exchange(
        "{upstream_discovery: [{istio_headers: {}}, {workload_discovery: {}}], upstream_propagation: [{istio_headers: {skip_external_clusters: true}}]}",
    );
    let filters = [&outbound, GRPC_STATS, ALPN, STATS].concat();
    let to_server = "- match: {prefix: /outside}\n  route: {cluster: outside}\n- match: {prefix: /}\n  route: {cluster: server}";
    let listeners = [
        HttpListener::new("outbound", to_server).filters(&filters).listener("traffic_direction: OUTBOUND\n").yaml(),
        HttpListener::new("gateway", to_server)
            .filters(
                "- name: istio.stats\n  typed_config: {\"@type\": type.googleapis.com/stats.PluginConfig, reporter: SERVER_GATEWAY, disable_host_header_fallback: true, metrics: [{name: request_bytes, drop: true}, {tags_to_remove: [source_app]}, {name: requests_total, dimensions: {request_host: request.host, source_version: request.method, missing: \"request.headers['none']\"}}]}\n",
            )
            .yaml(),
    ];
    let service = "metadata: {filter_metadata: {istio: {services: [{host: shop.shop-ns.svc.cluster.local, name: shop, namespace: shop-ns}]}}}\n";
    let external = "metadata: {filter_metadata: {istio: {external: true}}}\n";
    let to = server.listener("inbound").unwrap();
    let endpoint = "endpoint: {address: {socket_address: {address: 127.0.0.1, port_value: {{host}}}}}";
    let clusters = [
        fill(
            &cluster("server", "host", &(upstream(&common(&web, "[istio]"), "") + service)),
            [("host", port(to))],
        ),
        fill(
            &cluster("outside", "host", external).replace(
                endpoint,
                &format!("{endpoint}\n        metadata: {{filter_metadata: {{istio: {{workload: \"far;away;far-service;v9;other\"}}}}}}"),
            ),
            [("host", port(host.addr()))],
        ),
    ];
    let rest = node("web", "web-ns");
    let client = Proxy::start(&binary, &bootstrap(&listeners, &clusters, &rest)).await.unwrap();
    World { host, echo, server, client }
}

/// The labels and the value of each sample of a metric.
async fn samples(proxy: &Proxy, metric: &str) -> Vec<(BTreeMap<String, String>, u64)> {
    let text = proxy.admin().get("/stats/prometheus").await.unwrap();
    let lines = text.lines().filter_map(|line| line.strip_prefix(metric)?.strip_prefix('{'));
    lines
        .map(|line| {
            let (labels, value) = line.rsplit_once("} ").unwrap();
            let labels = labels.split("\",").map(|label| label.split_once("=\"").unwrap());
            let labels =
                labels.map(|(name, value)| (name.to_owned(), value.trim_end_matches('"').to_owned()));
            (labels.collect(), value.parse().unwrap())
        })
        .collect()
}

/// The only sample of a metric, once it is there.
pub(crate) async fn sample(proxy: &Proxy, metric: &str) -> (BTreeMap<String, String>, u64) {
    let found = eventually(metric, SOON, async || {
        let found = samples(proxy, metric).await;
        (!found.is_empty()).then_some(found)
    });
    let mut found = found.await.unwrap();
    assert_eq!(found.len(), 1, "{metric}: {found:#?}");
    found.remove(0)
}

pub(crate) fn expect(labels: &BTreeMap<String, String>, wanted: &[(&str, &str)]) {
    for (label, value) in wanted {
        assert_eq!(labels.get(*label).map(String::as_str), Some(*value), "{label} of {labels:#?}");
    }
}

async fn get(proxy: &Proxy, listener: &str, target: &str, headers: &str) -> integration::client::Response {
    let mut client = Client::connect(proxy.listener(listener).unwrap()).await.unwrap();
    let head = format!("GET {target} HTTP/1.1\r\nhost: named.example\r\n{headers}\r\n");
    client.send(head.as_bytes()).await.unwrap();
    client.response("GET", SOON).await.unwrap()
}

/// The headers of the request that the host got.
async fn received(host: &Upstream) -> integration::http1::Fields {
    let first = eventually("a request", SOON, async || host.received().first().map(|one| one.fields.clone()));
    first.await.unwrap()
}

fn told(fields: &integration::http1::Fields) -> Vec<&str> {
    fields.iter().map(|(name, _)| name.as_str()).filter(|name| name.starts_with("x-envoy-peer")).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn both_sides_count_a_request_with_the_other_s_name() {
    let World { host, server, client, .. } = world().await;
    host.push(Reply::ok());
    let response = get(&client, "outbound", "/", "").await;
    assert_eq!(response.head.status().unwrap(), 200);
    assert_eq!(told(&response.head.fields), [""; 0], "what a peer told is for the sidecar");
    assert_eq!(told(&received(&host).await), [""; 0], "and so is what was told the host's");

    let web = "spiffe://cluster.local/ns/web-ns/sa/web";
    let shop = "spiffe://cluster.local/ns/shop-ns/sa/shop";
    let both = [
        ("source_workload", "web"),
        ("source_canonical_service", "web"),
        ("source_canonical_revision", "v1"),
        ("source_workload_namespace", "web-ns"),
        ("source_principal", web),
        ("source_app", "web"),
        ("source_version", "v1"),
        ("source_cluster", "Kubernetes"),
        ("destination_workload", "shop"),
        ("destination_canonical_service", "shop"),
        ("destination_canonical_revision", "v1"),
        ("destination_workload_namespace", "shop-ns"),
        ("destination_principal", shop),
        ("destination_app", "shop"),
        ("destination_version", "v1"),
        ("destination_cluster", "Kubernetes"),
        ("destination_service_namespace", "shop-ns"),
        ("request_protocol", "http"),
        ("response_code", "200"),
        ("grpc_response_status", ""),
        ("response_flags", "-"),
    ];
    let (labels, count) = sample(&client, "istio_requests_total").await;
    assert_eq!((count, labels.len()), (1, 25));
    expect(&labels, &both);
    expect(
        &labels,
        &[
            ("reporter", "source"),
            ("destination_service", "shop.shop-ns.svc.cluster.local"),
            ("destination_service_name", "shop"),
            ("connection_security_policy", "unknown"),
        ],
    );
    let (labels, count) = sample(&server, "istio_requests_total").await;
    assert_eq!((count, labels.len()), (1, 25));
    expect(&labels, &both);
    expect(
        &labels,
        &[
            ("reporter", "destination"),
            ("destination_service", "named.example"),
            ("destination_service_name", "named.example"),
            ("connection_security_policy", "mutual_tls"),
        ],
    );
    for metric in [
        "istio_request_duration_milliseconds_count",
        "istio_request_bytes_count",
        "istio_response_bytes_count",
    ] {
        assert_eq!(sample(&server, metric).await.0.get("source_workload").map(String::as_str), Some("web"));
    }
    let (labels, _) = sample(&client, "istio_build").await;
    expect(&labels, &[("component", "proxy"), ("tag", "1.30.0")]);
}

#[tokio::test(flavor = "multi_thread")]
async fn hosts_outside_of_the_mesh_are_not_told() {
    let World { host, client, .. } = world().await;
    host.push(Reply::ok());
    let response = get(&client, "outbound", "/outside", "").await;
    assert_eq!(response.head.status().unwrap(), 200);
    assert_eq!(told(&received(&host).await), [""; 0]);
    let (labels, _) = sample(&client, "istio_requests_total").await;
    expect(
        &labels,
        &[
            ("destination_workload", "far"),
            ("destination_workload_namespace", "away"),
            ("destination_canonical_service", "far-service"),
            ("destination_canonical_revision", "v9"),
            ("destination_principal", "unknown"),
            ("destination_service", "named.example"),
            ("destination_service_namespace", "away"),
        ],
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn metrics_and_labels_are_those_that_are_wanted() {
    let World { host, client, .. } = world().await;
    host.push(Reply::ok());
    get(&client, "gateway", "/outside", "").await;
    let (labels, _) = sample(&client, "istio_requests_total").await;
    expect(
        &labels,
        &[
            ("reporter", "waypoint"),
            ("source_workload", "unknown"),
            ("source_canonical_revision", "latest"),
            ("destination_workload", "unknown"),
            ("destination_service", "unknown"),
            ("connection_security_policy", "none"),
        ],
    );
    expect(&labels, &[("request_host", "named.example"), ("source_version", "GET"), ("missing", "unknown")]);
    assert_eq!((labels.contains_key("source_app"), labels.len()), (false, 26));
    let (labels, _) = sample(&client, "istio_response_bytes_count").await;
    expect(&labels, &[("source_version", "unknown")]);
    assert_eq!((labels.contains_key("source_app"), labels.len()), (false, 24));
    assert_eq!(samples(&client, "istio_request_bytes_count").await.len(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_are_counted_while_they_are_open() {
    let echo = EchoServer::start().await.unwrap();
    let stats = STATS.replace("PluginConfig", "PluginConfig, tcp_reporting_duration: 0.02s");
    let tcp = listener_with_filters("tcp", &[&*stats, &tcp_proxy("tcp", "cluster: echo\n")].concat());
    let hosts = [fill(&cluster("echo", "echo", ""), [("echo", port(echo.server().addr()))])];
    let yaml = bootstrap(&[tcp], &hosts, &node("shop", "shop-ns"));
    let proxy = Proxy::start(&Binary::subject().unwrap(), &yaml).await.unwrap();
    let mut client = Client::connect(proxy.listener("tcp").unwrap()).await.unwrap();
    let (sent, closed) = ("istio_tcp_sent_bytes_total", "istio_tcp_connections_closed_total");
    for bytes in [5, 10] {
        client.send(b"hello").await.unwrap();
        client.at_least(5, SOON).await.unwrap();
        let counted = eventually("the bytes so far", SOON, async || {
            samples(&proxy, sent).await.iter().any(|(_, value)| *value == bytes).then_some(())
        });
        counted.await.unwrap();
        assert_eq!(sample(&proxy, "istio_tcp_connections_opened_total").await.1, 1);
        assert_eq!(samples(&proxy, closed).await.iter().map(|(_, value)| value).sum::<u64>(), 0);
    }
    drop(client);
    let over = eventually("the end", SOON, async || {
        samples(&proxy, closed).await.iter().any(|(_, value)| *value == 1).then_some(())
    });
    over.await.unwrap();
    let all = samples(&proxy, "istio_tcp_received_bytes_total").await;
    assert_eq!(all.iter().map(|(_, value)| value).sum::<u64>(), 10);
    let opened = samples(&proxy, "istio_tcp_connections_opened_total").await;
    assert_eq!(opened.iter().map(|(_, value)| value).sum::<u64>(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_are_counted_when_they_are_over() {
    let World { server, echo, .. } = world().await;
    let mut client = Client::connect(server.listener("tcp").unwrap()).await.unwrap();
    client.send(b"hello").await.unwrap();
    client.at_least(5, SOON).await.unwrap();
    drop(client);
    let (labels, count) = sample(&server, "istio_tcp_connections_closed_total").await;
    assert_eq!(count, 1);
    expect(
        &labels,
        &[
            ("reporter", "destination"),
            ("request_protocol", "tcp"),
            ("destination_workload", "shop"),
            ("destination_service", "shop"),
            ("source_workload", "unknown"),
            ("connection_security_policy", "none"),
        ],
    );
    assert_eq!(labels.get("response_code"), None);
    for metric in ["istio_tcp_sent_bytes_total", "istio_tcp_received_bytes_total"] {
        assert_eq!(sample(&server, metric).await, (labels.clone(), 5), "{metric}");
    }
    assert_eq!(sample(&server, "istio_tcp_connections_opened_total").await, (labels, 1));
    drop(echo);
}
