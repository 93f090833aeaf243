//! Active health checks of hosts that speak TLS, beside Envoy: with the cluster's transport socket, with protocols of their own
//! (`tls_options`), with a transport socket of their own (`transport_socket_match_criteria`).

use std::collections::BTreeMap;

use integration::client::Client;
use integration::config::{H2_CLUSTER, HttpListener, bootstrap, cluster, fill, indent, port};
use integration::expect::{SOON, eventually};
use integration::process::{Binary, Proxy};
use integration::tls::{Authority, TlsServer, Wanted, inline, upstream};
use integration::unveil::Unveiled;
use integration::upstream::Upstream;
use integration::upstream::h2::H2Upstream;

use crate::both;

const HTTP: &str = "http_health_check: {path: /check}";

/// Who is checked.
#[derive(Clone, Copy)]
enum Host {
    /// Its certificate is of the authority that is trusted.
    Good,
    /// Of another one.
    Stranger,
    /// Wants a certificate.
    Strict,
    /// Takes HTTP/2 over TLS.
    Http2,
    /// Speaks no TLS.
    Plain,
}

struct Case {
    name: &'static str,
    host: Host,
    check: &'static str,
    /// Fields of the common and of the whole context.
    contexts: (&'static str, &'static str),
    /// Fields of the cluster.
    cluster: &'static str,
}

const fn case(name: &'static str, host: Host, check: &'static str) -> Case {
    Case { name, host, check, contexts: ("", ""), cluster: "" }
}

/// Checks are without TLS where requests are with it.
const PLAIN_CHECKS: &str = "transport_socket_matches:\n- name: plain\n  match: {check: plain}\n  transport_socket: {name: raw_buffer, typed_config: {\"@type\": type.googleapis.com/envoy.extensions.transport_sockets.raw_buffer.v3.RawBuffer}}\n";

const CASES: &[Case] = &[
    case("trusted", Host::Good, HTTP),
    case("stranger", Host::Stranger, HTTP),
    case("strict", Host::Strict, HTTP),
    case("not_tls", Host::Plain, HTTP),
    case("by_tcp", Host::Good, "tcp_health_check: {}"),
    case("stranger_by_tcp", Host::Stranger, "tcp_health_check: {}"),
    Case { contexts: ("", "sni: check.test\n"), ..case("named", Host::Good, HTTP) },
    Case { contexts: ("alpn_protocols: [one, two]", ""), ..case("of_the_cluster", Host::Good, HTTP) },
    case("of_its_own", Host::Good, "tls_options: {alpn_protocols: [two]}, http_health_check: {path: /check}"),
    Case {
        contexts: ("alpn_protocols: [one]", ""),
        ..case(
            "its_own_first",
            Host::Good,
            "tls_options: {alpn_protocols: [two]}, http_health_check: {path: /check}",
        )
    },
    case("not_agreed", Host::Good, "tls_options: {alpn_protocols: [other]}, tcp_health_check: {}"),
    Case {
        cluster: H2_CLUSTER,
        ..case(
            "http2",
            Host::Http2,
            "tls_options: {alpn_protocols: [h2]}, http_health_check: {path: /check, codec_client_type: HTTP2}",
        )
    },
    // (Requests offer what they speak; checks offer what their options or the context say.)
    Case {
        cluster: H2_CLUSTER,
        ..case("http2_unsaid", Host::Http2, "http_health_check: {path: /check, codec_client_type: HTTP2}")
    },
    Case {
        cluster: PLAIN_CHECKS,
        ..case(
            "plain_checks",
            Host::Plain,
            "transport_socket_match_criteria: {check: plain}, http_health_check: {path: /check}",
        )
    },
    Case {
        cluster: PLAIN_CHECKS,
        ..case(
            "no_match",
            Host::Plain,
            "transport_socket_match_criteria: {check: other}, http_health_check: {path: /check}",
        )
    },
];

async fn observe(binary: &Binary) -> BTreeMap<&'static str, String> {
    let (root, other) = (Authority::new("root").unwrap(), Authority::new("other").unwrap());
    let good = root.issue(&Wanted::default()).unwrap();
    let stranger = other.issue(&Wanted::default()).unwrap();
    let both = rustls::ALL_VERSIONS;
    let (plain, http2) = (Upstream::start().await.unwrap(), H2Upstream::start().await.unwrap());
    let unveiled = Unveiled::before(&good, &["h2"], plain.addr(), http2.addr()).await.unwrap();
    let (mut servers, mut clusters, mut routes) = (Vec::new(), Vec::new(), String::new());
    for case in CASES {
        let server = match case.host {
            Host::Good => Some(TlsServer::start(&good, None, &["two", "one", "http/1.1"], both).unwrap()),
            Host::Stranger => Some(TlsServer::start(&stranger, None, &[], both).unwrap()),
            Host::Strict => Some(TlsServer::start(&good, Some(&other), &[], both).unwrap()),
            Host::Http2 | Host::Plain => None,
        };
        let address = match (&server, case.host) {
            (Some(server), _) => server.addr,
            (None, Host::Http2) => unveiled.addr(),
            (None, _) => plain.addr(),
        };
        let common = format!("validation_context:\n  trusted_ca: {}\n{}", inline(&root.pem), case.contexts.0);
        let checks = format!(
            "common_lb_config: {{healthy_panic_threshold: {{value: 0}}, update_merge_window: 0s}}\nhealth_checks:\n- {{timeout: 3s, interval: 60s, no_traffic_interval: 60s, no_traffic_healthy_interval: 60s, unhealthy_threshold: 1, healthy_threshold: 1, {}}}\n",
            case.check
        );
        let text = cluster(case.name, "host", &(checks + case.cluster + &upstream(&common, case.contexts.1)));
        clusters.push(fill(&text, [("host", port(address))]));
        routes += &format!("- match: {{path: /{0}}}\n  route: {{cluster: {0}}}\n", case.name);
        servers.push((server, address));
    }
    let listener = HttpListener::new("http", indent(&routes, 0).trim_end()).yaml();
    let proxy = Proxy::start(binary, &bootstrap(&[listener], &clusters, "")).await.unwrap();
    let mut seen = BTreeMap::new();
    for (case, (server, address)) in CASES.iter().zip(&servers) {
        seen.insert(case.name, of_case(&proxy, case, server.as_ref(), &address.to_string()).await);
    }
    proxy.stop().await.unwrap();
    seen
}

/// What is seen of one cluster after its one check.
async fn of_case(proxy: &Proxy, case: &Case, server: Option<&TlsServer>, address: &str) -> String {
    let name = case.name;
    let check = format!("^cluster.{name}.health_check");
    let stats = eventually("a result", SOON, async || {
        let stats = proxy.admin().stats(&check).await.ok()?;
        let stat = |stat: &str| stats.get(&format!("cluster.{name}.health_check.{stat}")).copied();
        (stat("success")? + stat("failure")? == 1).then_some(stats)
    });
    let mut stats = stats.await.unwrap();
    stats.retain(|_, value| *value != 0);
    let prefix = format!("{name}::{address}::health_flags::");
    let flags = eventually("a verdict", SOON, async || {
        let clusters = proxy.admin().get("/clusters").await.ok()?;
        let flags = clusters.lines().find_map(|line| line.strip_prefix(&prefix))?.to_owned();
        // (At first a host has not been checked.)
        (!flags.contains("pending")).then_some(flags)
    });
    let flags = flags.await.unwrap();
    let at_host = match server {
        Some(server) => {
            let first =
                eventually("the handshake at the host", SOON, async || server.seen().first().cloned());
            let first = first.await.unwrap();
            let is_ok = first.handshake == "ok";
            format!("{is_ok} {:?} {:?} {}", first.server_name, first.alpn, first.version)
        }
        None => String::new(),
    };
    let mut client = Client::connect(proxy.listener("http").unwrap()).await.unwrap();
    client.send(format!("GET /{name} HTTP/1.1\r\nhost: a\r\n\r\n").as_bytes()).await.unwrap();
    let response = client.response("GET", SOON).await.unwrap();
    let (status, body) =
        (response.head.status().unwrap(), String::from_utf8_lossy(&response.body).into_owned());
    let why = if status == 200 { "" } else { &body };
    format!("{flags} then {status} {why}; host: {at_host}; {stats:#?}")
}

#[tokio::test(flavor = "multi_thread")]
async fn hosts_that_speak_tls_are_checked_as_by_envoy() {
    let [envoy, ours] = both();
    let (envoy, ours) = (observe(&envoy).await, observe(&ours).await);
    let differing: Vec<_> = envoy
        .iter()
        .filter(|(case, wanted)| ours[*case] != **wanted)
        .map(|(case, wanted)| format!("{case}\n  Envoy: {wanted}\n  ours:  {}", ours[case]))
        .collect();
    assert!(differing.is_empty(), "{}", differing.join("\n"));
    let is_well = |case: &str| ours[case].starts_with("healthy then 200");
    for well in ["trusted", "by_tcp", "named", "of_its_own", "http2"] {
        assert!(is_well(well), "{well}: {}", ours[well]);
    }
    for ill in ["stranger", "strict", "not_tls", "stranger_by_tcp", "no_match"] {
        assert!(!is_well(ill), "{ill}: {}", ours[ill]);
    }
    assert!(ours["plain_checks"].starts_with("healthy then 503"), "{}", ours["plain_checks"]);
    assert!(ours["of_its_own"].contains("Some(\"two\")"), "{}", ours["of_its_own"]);
}
