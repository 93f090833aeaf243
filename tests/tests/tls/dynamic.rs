//! Dynamic forward proxies over TLS: whoever answers at the address of a name must have a certificate for it, beside Envoy.

use integration::client::Client;
use integration::config::{HttpListener, bootstrap, indent};
use integration::dns::DnsServer;
use integration::expect::SOON;
use integration::process::{Binary, Proxy};
use integration::tls::{Authority, TlsServer, Wanted, inline, upstream};

use crate::both;

/// The name that a request goes to, and the default port or that of the server.
const REQUESTS: &[(&str, bool)] = &[
    ("a.test", true),
    ("b.test", true),
    // The server has no certificate for it.
    ("c.test", true),
    ("a.test", true),
    // What a certificate may be for as well.
    ("127.0.0.1", true),
    ("127.0.0.2", true),
    ("a.test", false),
];

/// What became of each, and what the server was asked for.
async fn observe(binary: &Binary, root: &Authority) -> Vec<String> {
    let names = ["dns:a.test", "dns:b.test", "ip:127.0.0.1"];
    let identity = root.issue(&Wanted { sans: &names, ..Wanted::default() }).unwrap();
    let server = TlsServer::start(&identity, None, &[], rustls::ALL_VERSIONS).unwrap();
    let dns = DnsServer::start().await.unwrap();
    for name in ["a.test", "b.test", "c.test"] {
        dns.addresses(name, &["127.0.0.1"]).unwrap();
    }
    let trusted = format!("validation_context: {{trusted_ca: {}}}", inline(&root.pem));
    let cluster = format!(
        "- name: secure\n  connect_timeout: 1s\n  lb_policy: CLUSTER_PROVIDED\n{}  cluster_type:\n    name: envoy.clusters.dynamic_forward_proxy\n    typed_config:\n      \"@type\": type.googleapis.com/envoy.extensions.clusters.dynamic_forward_proxy.v3.ClusterConfig\n      dns_cache_config:\n        name: c\n        dns_lookup_family: V4_ONLY\n{}",
        indent(&upstream(&trusted, ""), 2),
        indent(&dns.resolver(), 8),
    );
    let listener = HttpListener::new("http", "- match: {prefix: /}\n  route: {cluster: secure}\n").yaml();
    let proxy = Proxy::start(binary, &bootstrap(&[listener], &[cluster], "")).await.unwrap();
    let mut seen = Vec::new();
    for (name, is_server) in REQUESTS {
        let port = if *is_server { format!(":{}", server.addr.port()) } else { String::new() };
        let mut client = Client::connect(proxy.listener("http").unwrap()).await.unwrap();
        client.send(format!("GET / HTTP/1.1\r\nhost: {name}{port}\r\n\r\n").as_bytes()).await.unwrap();
        let status = client.response("GET", SOON).await.unwrap().head.status().unwrap();
        seen.push(format!("{name} {is_server}: {status}"));
    }
    let stats =
        proxy.admin().stats(r"^cluster\.secure\.(ssl\.(fail_|handshake)|upstream_cx_total)").await.unwrap();
    seen.push(format!("{stats:?}"));
    let mut asked: Vec<_> = server.seen().iter().map(|seen| format!("{:?}", seen.server_name)).collect();
    // (What it saw of a handshake that failed, it may not have written down yet.)
    asked.retain(|name| !name.contains("c.test"));
    asked.sort();
    asked.dedup();
    seen.push(asked.join(" "));
    proxy.stop().await.unwrap();
    seen
}

#[tokio::test(flavor = "multi_thread")]
async fn servers_are_held_to_the_names_of_requests() {
    let root = Authority::new("root").unwrap();
    let [envoy, ours] = both();
    let (envoy, ours) = (observe(&envoy, &root).await, observe(&ours, &root).await);
    assert_eq!(envoy, ours);
    let statuses: Vec<&str> =
        ours.iter().filter_map(|seen| seen.split_once(": ").map(|(_, status)| status)).collect();
    assert_eq!(statuses[..7], ["200", "200", "503", "200", "200", "503", "503"]);
}
