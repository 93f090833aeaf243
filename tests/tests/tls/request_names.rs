//! Names that TLS servers are asked for and held to because requests say so (`auto_sni`, `auto_san_validation`), or hosts
//! (`auto_host_sni`, `auto_sni_san_validation`), and whose connections are shared, beside Envoy.

use std::collections::BTreeMap;

use integration::client::Client;
use integration::config::{HttpListener, bootstrap, cluster, fill, indent, port};
use integration::expect::SOON;
use integration::process::{Binary, Proxy};
use integration::tls::{Authority, TlsServer, Wanted, inline, upstream};

use crate::both;

/// How names are chosen, and the heads of the requests.
struct Case {
    name: &'static str,
    /// Of `upstream_http_protocol_options`.
    options: &'static str,
    /// Of the TLS context.
    context: &'static str,
    /// Of `common_tls_context`, with authorities or without.
    common: Common,
    /// Of the route's action.
    route: &'static str,
    /// Of the route.
    mutations: &'static str,
    /// What follows the request line of each.
    requests: &'static [&'static str],
    /// Another server than the usual one.
    is_strange: bool,
}

#[derive(Clone, Copy)]
enum Common {
    Trusting,
    /// Any certificate of the authorities, and of others too.
    Lenient,
    Nothing,
}

const SNI: &str = "auto_sni: true";
const SAN: &str = "auto_san_validation: true";
const BOTH: &str = "auto_sni: true, auto_san_validation: true";
const HEADER: &str = "auto_sni: true, auto_san_validation: true, override_auto_sni_header: x-name";
const A: &[&str] = &["host: a.test"];

const CASES: &[Case] = &[
    case("sni", SNI, "", Common::Trusting, A),
    case("sni_of_port", SNI, "", Common::Trusting, &["host: a.test:8443"]),
    case("sni_of_ip", SNI, "sni: b.test\n", Common::Trusting, &["host: 10.0.0.1:80"]),
    case("sni_of_ipv6", SNI, "sni: b.test\n", Common::Trusting, &["host: [::1]:80"]),
    case("sni_over_sni", SNI, "sni: b.test\n", Common::Trusting, A),
    case("sni_over_host", SNI, "auto_host_sni: true\n", Common::Trusting, A),
    case("sni_of_case", SNI, "", Common::Trusting, &["host: A.Test"]),
    case("sni_of_mesh", SNI, "", Common::Trusting, &["host: outbound_.80_._.a.default"]),
    case("sni_of_number", SNI, "", Common::Trusting, &["host: sni.backend.80"]),
    case("san", SAN, "sni: b.test\n", Common::Trusting, A),
    case("san_wrong", SAN, "", Common::Trusting, &["host: c.test"]),
    case("san_wild", SAN, "", Common::Trusting, &["host: x.w.test:1"]),
    case("san_wild_deep", SAN, "", Common::Trusting, &["host: x.y.w.test"]),
    case("san_of_ip", SAN, "", Common::Trusting, &["host: 127.0.0.1:80"]),
    case("san_of_wrong_ip", SAN, "", Common::Trusting, &["host: 127.0.0.2"]),
    case("san_without_authorities", SAN, "", Common::Nothing, A),
    case("san_wrong_without_authorities", SAN, "", Common::Nothing, &["host: c.test"]),
    case("san_lenient", SAN, "", Common::Lenient, &["host: c.test"]),
    case("both", BOTH, "", Common::Trusting, A),
    case("both_wrong", BOTH, "", Common::Trusting, &["host: c.test"]),
    case("header", HEADER, "", Common::Trusting, &["host: c.test\r\nx-name: a.test:1"]),
    case("header_missing", HEADER, "", Common::Trusting, A),
    case("header_empty", HEADER, "", Common::Trusting, &["host: a.test\r\nx-name:"]),
    case("header_twice", HEADER, "", Common::Trusting, &["host: c.test\r\nx-name: a.test\r\nx-name: b.test"]),
    case(
        "header_authority",
        "auto_sni: true, override_auto_sni_header: \":authority\"",
        "",
        Common::Trusting,
        A,
    ),
    case(
        "header_alone",
        "override_auto_sni_header: x-name",
        "sni: b.test\n",
        Common::Trusting,
        &["host: c.test\r\nx-name: a.test"],
    ),
    case(
        "shared",
        SNI,
        "",
        Common::Trusting,
        &["host: a.test", "host: a.test:1", "host: b.test", "host: 10.0.0.1", "host: a.test"],
    ),
    case(
        "shared_san",
        SAN,
        "",
        Common::Trusting,
        &["host: a.test", "host: b.test", "host: x.w.test", "host: a.test"],
    ),
    case("by_host", "", "auto_host_sni: true\n", Common::Trusting, A),
    case("by_host_over_sni", "", "auto_host_sni: true\nsni: b.test\n", Common::Trusting, A),
    case("by_sni", "", "sni: a.test\nauto_sni_san_validation: true\n", Common::Trusting, &["host: c.test"]),
    case("by_sni_wrong", "", "sni: c.test\nauto_sni_san_validation: true\n", Common::Trusting, A),
    case("by_asked_sni", SNI, "sni: c.test\nauto_sni_san_validation: true\n", Common::Trusting, A),
    case(
        "by_wrong_asked_sni",
        SNI,
        "sni: a.test\nauto_sni_san_validation: true\n",
        Common::Trusting,
        &["host: c.test"],
    ),
    case("by_host_and_sni", "", "auto_host_sni: true\nauto_sni_san_validation: true\n", Common::Trusting, A),
    Case { route: "host_rewrite_literal: b.test", ..case("rewritten", BOTH, "", Common::Trusting, A) },
    Case {
        route: "host_rewrite_header: x-host",
        ..case("rewritten_by_header", BOTH, "", Common::Trusting, &["host: c.test\r\nx-host: b.test"])
    },
    Case { route: "auto_host_rewrite: true", ..case("rewritten_to_host", BOTH, "", Common::Trusting, A) },
    Case {
        mutations: "  request_headers_to_remove: [x-name]",
        ..case("header_removed", HEADER, "", Common::Trusting, &["host: a.test\r\nx-name: c.test"])
    },
    Case {
        mutations: "  request_headers_to_add: [{header: {key: x-name, value: b.test}}]",
        ..case("header_added", HEADER, "", Common::Trusting, &["host: c.test"])
    },
    Case { is_strange: true, ..case("stranger", BOTH, "", Common::Trusting, A) },
    Case { is_strange: true, ..case("stranger_of_wrong_name", SAN, "", Common::Trusting, &["host: c.test"]) },
];

const fn case(
    name: &'static str,
    options: &'static str,
    context: &'static str,
    common: Common,
    requests: &'static [&'static str],
) -> Case {
    Case { name, options, context, common, route: "", requests, mutations: "", is_strange: false }
}

impl Case {
    fn listener(&self) -> String {
        let separator = if self.route.is_empty() { "" } else { ", " };
        let routes = format!(
            "- match: {{prefix: /}}\n  route: {{cluster: {}{separator}{}}}\n{}",
            self.name, self.route, self.mutations
        );
        HttpListener::new(self.name, &routes).yaml()
    }

    fn cluster(&self, root: &Authority, server: &TlsServer) -> String {
        let common = match self.common {
            Common::Trusting => format!("validation_context: {{trusted_ca: {}}}", inline(&root.pem)),
            Common::Lenient => format!(
                "validation_context: {{trusted_ca: {}, trust_chain_verification: ACCEPT_UNTRUSTED}}",
                inline(&root.pem)
            ),
            Common::Nothing => String::new(),
        };
        let options = format!(
            "typed_extension_protocol_options:\n  envoy.extensions.upstreams.http.v3.HttpProtocolOptions:\n    \"@type\": type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions\n    explicit_http_config: {{http_protocol_options: {{}}}}\n{}",
            indent(&format!("upstream_http_protocol_options: {{{}}}", self.options), 4)
        );
        let yaml = cluster(self.name, "host", &(upstream(&common, self.context) + &options));
        let yaml = fill(&yaml, [("host", port(server.addr))]);
        yaml.replace("endpoint: {address", "endpoint: {hostname: b.test, address")
    }
}

async fn observe(binary: &Binary, root: &Authority) -> BTreeMap<&'static str, String> {
    let names = ["dns:a.test", "dns:b.test", "dns:*.w.test", "ip:127.0.0.1"];
    let identity = root.issue(&Wanted { sans: &names, ..Wanted::default() }).unwrap();
    let stranger = Authority::new("other").unwrap();
    let stranger = stranger.issue(&Wanted { sans: &names, ..Wanted::default() }).unwrap();
    let servers: Vec<TlsServer> = CASES
        .iter()
        .map(|case| if case.is_strange { &stranger } else { &identity })
        .map(|identity| TlsServer::start(identity, None, &[], rustls::ALL_VERSIONS).unwrap())
        .collect();
    let listeners: Vec<String> = CASES.iter().map(Case::listener).collect();
    let clusters: Vec<String> =
        CASES.iter().zip(&servers).map(|(case, server)| case.cluster(root, server)).collect();
    let proxy = Proxy::start(binary, &bootstrap(&listeners, &clusters, "")).await.unwrap();
    let mut seen = BTreeMap::new();
    for (case, server) in CASES.iter().zip(&servers) {
        let mut statuses = Vec::new();
        for request in case.requests {
            let mut client = Client::connect(proxy.listener(case.name).unwrap()).await.unwrap();
            client.send(format!("GET / HTTP/1.1\r\n{request}\r\n\r\n").as_bytes()).await.unwrap();
            statuses.push(client.response("GET", SOON).await.unwrap().head.status().unwrap());
        }
        // (What a server saw of a handshake that failed, it may not have written down yet.)
        let is_seen = statuses.iter().all(|status| *status == 200);
        let handshakes = if is_seen { server.seen() } else { Vec::new() };
        let handshakes: Vec<_> = handshakes.iter().map(|seen| seen.server_name.clone()).collect();
        let stats = format!(
            r"^cluster\.{}\.(ssl\.(fail_|handshake|connection_error)|upstream_cx_(total|connect_fail)$)",
            case.name
        );
        let stats = proxy.admin().stats(&stats).await.unwrap();
        let stats: Vec<String> = stats
            .iter()
            .filter(|(_, value)| **value != 0)
            .map(|(name, value)| format!("{}={value}", &name["cluster.".len() + case.name.len() + 1..]))
            .collect();
        seen.insert(case.name, format!("{statuses:?} {handshakes:?} {stats:?}"));
    }
    proxy.stop().await.unwrap();
    seen
}

#[tokio::test(flavor = "multi_thread")]
async fn servers_are_asked_for_the_names_that_envoy_asks_for() {
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
