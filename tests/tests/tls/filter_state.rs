//! What filters say of the TLS connection to a host in the filter state of a stream: protocols, name, names of certificates; beside
//! Envoy. And what `istio.alpn` says, which Envoy does not have.

use std::collections::BTreeMap;

use integration::client::Client;
use integration::config::{HttpListener, bootstrap, cluster, fill, port};
use integration::expect::SOON;
use integration::process::{Binary, Proxy};
use integration::tls::{Authority, TlsServer, Wanted, inline, upstream};

use crate::both;

const ALPN: &[&str] = &["istio-http/1.1", "istio-h2", "second", "http/1.1"];

/// The cluster's context says this, and requests have these headers.
const CASES: &[(&str, &str, &[&str])] = &[
    ("nothing", "", &[""]),
    (
        "protocols",
        "",
        &[
            "x-alpn: istio-http/1.1",
            "x-alpn: none , second",
            "x-alpn: none,second",
            "x-alpn: none",
            "x-alpn: istio-http/1.1",
        ],
    ),
    ("protocols_of_context", "alpn_protocols: [http/1.1]", &["", "x-alpn: second"]),
    ("server_name", "", &["x-sni: c.test", "", "x-sni: b.test", "x-sni: c.test"]),
    (
        "certificate",
        "",
        &[
            "x-san: b.test",
            "x-san: c.test, a.test",
            "x-san: c.test,a.test",
            "x-san: c.test",
            "x-san: x.w.test",
        ],
    ),
    ("all", "", &["x-san: a.test\r\nx-sni: b.test\r\nx-alpn: second"]),
];

fn filter() -> String {
    let value = |key: &str, header: &str| {
        format!(
            "{{object_key: envoy.network.{key}, skip_if_empty: true, format_string: {{text_format_source: {{inline_string: \"%REQ({header})%\"}}, omit_empty_values: true}}}}"
        )
    };
    format!(
        "- name: state\n  typed_config:\n    \"@type\": type.googleapis.com/envoy.extensions.filters.http.set_filter_state.v3.Config\n    on_request_headers: [{}, {}, {}]\n",
        value("application_protocols", "x-alpn"),
        value("upstream_server_name", "x-sni"),
        value("upstream_subject_alt_names", "x-san"),
    )
}

async fn get(proxy: &Proxy, listener: &str, headers: &str) -> u16 {
    let mut client = Client::connect(proxy.listener(listener).unwrap()).await.unwrap();
    let headers = if headers.is_empty() { String::new() } else { format!("{headers}\r\n") };
    client.send(format!("GET / HTTP/1.1\r\nhost: t\r\n{headers}\r\n").as_bytes()).await.unwrap();
    client.response("GET", SOON).await.unwrap().head.status().unwrap()
}

async fn observe(binary: &Binary, root: &Authority) -> BTreeMap<&'static str, String> {
    let names = ["dns:a.test", "dns:b.test", "dns:*.w.test"];
    let identity = root.issue(&Wanted { sans: &names, ..Wanted::default() }).unwrap();
    let (mut servers, mut listeners, mut clusters) = (Vec::new(), Vec::new(), Vec::new());
    for (name, common, _) in CASES {
        let server = TlsServer::start(&identity, None, ALPN, rustls::ALL_VERSIONS).unwrap();
        let separator = if common.is_empty() { "" } else { "\n" };
        let common = format!("{common}{separator}validation_context: {{trusted_ca: {}}}", inline(&root.pem));
        let cluster = cluster(name, "host", &upstream(&common, "sni: a.test\n"));
        clusters.push(fill(&cluster, [("host", port(server.addr))]));
        let routes = format!("- match: {{prefix: /}}\n  route: {{cluster: {name}}}");
        listeners.push(HttpListener::new(name, &routes).filters(&filter()).yaml());
        servers.push(server);
    }
    let proxy = Proxy::start(binary, &bootstrap(&listeners, &clusters, "")).await.unwrap();
    let mut seen = BTreeMap::new();
    for ((name, _, requests), server) in CASES.iter().zip(&servers) {
        let mut statuses = Vec::new();
        for headers in *requests {
            statuses.push(get(&proxy, name, headers).await);
        }
        // (What a server saw of a handshake that failed, it may not have written down yet.)
        let is_seen = statuses.iter().all(|status| *status == 200);
        let handshakes = if is_seen { server.seen() } else { Vec::new() };
        let handshakes: Vec<_> = handshakes.iter().map(|seen| (&seen.server_name, &seen.alpn)).collect();
        let stats = format!(r"^cluster\.{name}\.(ssl\.(fail_|handshake)|upstream_cx_(total|connect_fail)$)");
        let stats = proxy.admin().stats(&stats).await.unwrap();
        let stats: Vec<_> = stats.iter().filter(|(_, value)| **value != 0).collect();
        seen.insert(*name, format!("{statuses:?} {handshakes:?} {stats:?}"));
    }
    proxy.stop().await.unwrap();
    seen
}

#[tokio::test(flavor = "multi_thread")]
async fn filters_choose_connections_as_in_envoy() {
    let root = Authority::new("root").unwrap();
    let [envoy, ours] = both();
    let (envoy, ours) = (observe(&envoy, &root).await, observe(&ours, &root).await);
    let differing: Vec<_> = envoy
        .iter()
        .filter(|(case, wanted)| ours[*case] != **wanted)
        .map(|(case, wanted)| format!("{case}\n  Envoy: {wanted}\n  ours:  {}", ours[case]))
        .collect();
    assert!(differing.is_empty(), "{}", differing.join("\n"));
}

/// The filter as Istio configures it, in a `TypedStruct` and by its type.
const FILTERS: [&str; 2] = [
    "- name: istio.alpn
  typed_config:
    \"@type\": type.googleapis.com/istio.envoy.config.filter.http.alpn.v2alpha1.FilterConfig
    alpn_override: [{alpn_override: [istio-http/1.0, istio, http/1.0]}, {upstream_protocol: HTTP11, alpn_override: [istio-http/1.1, istio, http/1.1]}, {upstream_protocol: HTTP2, alpn_override: [istio-h2, istio, h2]}]
",
    "- name: istio.alpn
  typed_config:
    \"@type\": type.googleapis.com/udpa.type.v1.TypedStruct
    type_url: type.googleapis.com/istio.envoy.config.filter.http.alpn.v2alpha1.FilterConfig
    value: {alpn_override: [{upstream_protocol: HTTP11, alpn_override: [second]}]}
",
];

#[tokio::test(flavor = "multi_thread")]
async fn what_is_offered_depends_on_the_protocol_inside() {
    let identity = Authority::new("root").unwrap().issue(&Wanted::default()).unwrap();
    let http2 = integration::config::H2_CLUSTER;
    let cases = [
        ("http1", 0, String::new(), true, "istio-http/1.1"),
        ("http2", 0, http2.to_owned(), false, "istio-h2"),
        (
            "other",
            0,
            "metadata: {filter_metadata: {istio: {alpn_override: \"false\"}}}\n".to_owned(),
            true,
            "http/1.1",
        ),
        ("structure", 1, String::new(), true, "second"),
        ("nothing_said", 1, http2.to_owned(), false, "http/1.1"),
    ];
    let (mut servers, mut listeners, mut clusters) = (Vec::new(), Vec::new(), Vec::new());
    for (name, filter, more, is_understood, _) in &cases {
        let server = TlsServer::start(&identity, None, ALPN, rustls::ALL_VERSIONS).unwrap();
        let text = cluster(name, "host", &(upstream("alpn_protocols: [http/1.1]", "") + more));
        clusters.push(fill(&text, [("host", port(server.addr))]));
        // (The server speaks HTTP/1, whatever it is asked in.)
        let timeout = if *is_understood { "10s" } else { "0.3s" };
        let routes = format!("- match: {{prefix: /}}\n  route: {{cluster: {name}, timeout: {timeout}}}");
        listeners.push(HttpListener::new(name, &routes).filters(FILTERS[*filter]).yaml());
        servers.push(server);
    }
    let proxy =
        Proxy::start(&Binary::subject().unwrap(), &bootstrap(&listeners, &clusters, "")).await.unwrap();
    for ((name, _, _, is_understood, alpn), server) in cases.iter().zip(&servers) {
        assert_eq!(get(&proxy, name, "").await == 200, *is_understood, "{name}");
        let seen: Vec<_> = server.seen().iter().filter_map(|seen| seen.alpn.clone()).collect();
        assert_eq!(seen, [*alpn], "{name}");
    }
    proxy.stop().await.unwrap();
}
