//! TLS towards hosts: what is offered, what is accepted, and how a failure looks to the client.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::net::SocketAddr;

use integration::client::Client;
use integration::config::{
    HttpListener, bootstrap, cluster, fill, indent, listener_with_filters, port, tcp_proxy,
};
use integration::control_plane::{bootstrap_of, management_cluster, socket};
use integration::expect::{SOON, eventually, whole_lines};
use integration::process::{Binary, Proxy};
use integration::tls::{Authority, TlsServer, Wanted, inline, upstream};
use rustls::version::{TLS12, TLS13};
use xds::fake::ManagementServer;

use crate::both;
use crate::secrets::{SDS, authority, secret, source_of};

/// A server, and how the proxy is to speak with it.
struct Case {
    name: &'static str,
    server: &'static str,
    common: String,
    context: &'static str,
}

struct Rig {
    root: Authority,
    clients: Authority,
    servers: Vec<(&'static str, TlsServer)>,
}

impl Rig {
    fn new() -> Self {
        let (root, other, clients) = (
            Authority::new("root").unwrap(),
            Authority::new("other").unwrap(),
            Authority::new("clients").unwrap(),
        );
        let good = root
            .issue(&Wanted {
                sans: &["dns:a.test", "dns:*.w.test", "uri:spiffe://td/s"],
                ..Wanted::default()
            })
            .unwrap();
        let expired = root.issue(&Wanted { valid: (2020, 2021), ..Wanted::default() }).unwrap();
        let stranger = other.issue(&Wanted::default()).unwrap();
        let both = rustls::ALL_VERSIONS;
        let plain = |identity| TlsServer::start(identity, None, &[], both).unwrap();
        let servers = vec![
            ("good", plain(&good)),
            ("expired", plain(&expired)),
            ("stranger", plain(&stranger)),
            ("only12", TlsServer::start(&good, None, &[], &[&TLS12]).unwrap()),
            ("only13", TlsServer::start(&good, None, &[], &[&TLS13]).unwrap()),
            ("http1", TlsServer::start(&good, None, &["http/1.1"], both).unwrap()),
            ("strict", TlsServer::start(&good, Some(&clients), &[], both).unwrap()),
            ("strict12", TlsServer::start(&good, Some(&clients), &[], &[&TLS12]).unwrap()),
        ];
        Self { root, clients, servers }
    }

    fn address(&self, name: &str) -> SocketAddr {
        self.servers.iter().find(|(server, _)| *server == name).unwrap().1.addr
    }

    fn cases(&self) -> Vec<Case> {
        let case = |name, server, common: String, context| Case { name, server, common, context };
        let trusting = |fields: &str| {
            format!("validation_context:\n  trusted_ca: {}\n{}", inline(&self.root.pem), indent(fields, 2))
        };
        let identity = self.clients.issue(&Wanted { common_name: "proxy", ..Wanted::default() }).unwrap();
        let known = format!("tls_certificates: [{}]\n", identity.inline());
        let unknown = self.root.issue(&Wanted::default()).unwrap();
        let unknown = format!("tls_certificates: [{}]\n", unknown.inline());
        let san = |kind: &str, name: &str| {
            trusting(&format!(
                "match_typed_subject_alt_names: [{{san_type: {kind}, matcher: {{exact: \"{name}\"}}}}]"
            ))
        };
        vec![
            case("unverified", "good", String::new(), ""),
            case("named", "good", String::new(), "sni: a.test\n"),
            case("mesh_name", "good", String::new(), "sni: outbound_.80_._.a.default.svc.cluster.local\n"),
            case("numbered_name", "good", String::new(), "sni: sni.msvc.mesh.zone.backend.80\n"),
            case("hex_name", "good", String::new(), "sni: a.0x1f\n"),
            case("verified", "good", trusting(""), "sni: other.test\n"),
            case("expired", "expired", trusting(""), ""),
            case("expired_unverified", "expired", String::new(), ""),
            case("stranger", "stranger", trusting(""), ""),
            case("dns", "good", san("DNS", "a.test"), ""),
            case("dns_wild", "good", san("DNS", "x.w.test"), ""),
            case("dns_wild_deep", "good", san("DNS", "x.y.w.test"), ""),
            case("dns_wrong", "good", san("DNS", "b.test"), ""),
            case("uri", "good", san("URI", "spiffe://td/s"), ""),
            case("uri_wrong", "good", san("URI", "spiffe://td/t"), ""),
            case("by_name", "good", trusting(""), "sni: a.test\nauto_sni_san_validation: true\n"),
            case("by_wrong_name", "good", trusting(""), "sni: b.test\nauto_sni_san_validation: true\n"),
            case(
                "versions",
                "only12",
                "tls_params: {tls_minimum_protocol_version: TLSv1_3, tls_maximum_protocol_version: TLSv1_3}"
                    .to_owned(),
                "",
            ),
            case("to12", "only12", String::new(), ""),
            case("to13", "only13", String::new(), ""),
            case("forced13", "only13", "tls_params: {tls_maximum_protocol_version: TLSv1_3}".to_owned(), ""),
            case(
                "signed",
                "good",
                "tls_params: {signature_algorithms: [ecdsa_secp256r1_sha256]}".to_owned(),
                "",
            ),
            case(
                "signed_otherwise",
                "good",
                "tls_params: {signature_algorithms: [rsa_pss_rsae_sha256, rsa_pkcs1_sha256]}".to_owned(),
                "",
            ),
            // The policy speaks of versions, too.
            case("policy", "only13", "tls_params: {compliance_policies: [FIPS_202205]}".to_owned(), ""),
            case("alpn_default", "http1", String::new(), ""),
            case("alpn_own", "http1", "alpn_protocols: [foo, http/1.1]".to_owned(), ""),
            case("known", "strict", known.clone(), ""),
            case("unknown", "strict", unknown.clone(), ""),
            case("without", "strict", String::new(), ""),
            case("known12", "strict12", known, ""),
            case("unknown12", "strict12", unknown, ""),
            case("without12", "strict12", String::new(), ""),
        ]
    }

    /// What is seen of every case, from both ends.
    async fn observe(&self, binary: &Binary) -> BTreeMap<String, String> {
        let cases = self.cases();
        let log = integration::config::file_log(
            "log_format: {text_format_source: {inline_string: \"%RESPONSE_CODE%|%RESPONSE_FLAGS%|%UPSTREAM_TLS_VERSION%|%UPSTREAM_TLS_CIPHER%|%UPSTREAM_PEER_SUBJECT%|%UPSTREAM_PEER_ISSUER%|%UPSTREAM_PEER_URI_SAN%|%UPSTREAM_PEER_DNS_SAN%|%UPSTREAM_LOCAL_DNS_SAN%|%UPSTREAM_PEER_CERT_V_END%|%UPSTREAM_TRANSPORT_FAILURE_REASON%\\n\"}}",
        );
        let mut listeners = vec![listener_with_filters("tcp", &tcp_proxy("tcp", "cluster: verified"))];
        let mut clusters = Vec::new();
        for case in &cases {
            let routes = format!("- match: {{prefix: /}}\n  route: {{cluster: {}}}", case.name);
            listeners.push(HttpListener::new(case.name, &routes).logs(&log).yaml());
            let text = cluster(case.name, "host", &upstream(&case.common, case.context));
            clusters.push(fill(&text, [("host", port(self.address(case.server)))]));
        }
        let proxy = Proxy::start(binary, &bootstrap(&listeners, &clusters, "")).await.unwrap();
        let path = proxy.dir().join("access.log");
        let mut observed = BTreeMap::new();
        for (index, case) in cases.iter().enumerate() {
            let server = &self.servers.iter().find(|(name, _)| *name == case.server).unwrap().1;
            let before = server.seen().len();
            let mut client = Client::connect(proxy.listener(case.name).unwrap()).await.unwrap();
            client.send(b"GET / HTTP/1.1\r\nhost: t\r\n\r\n").await.unwrap();
            let response = client.response("GET", SOON).await.unwrap();
            let body = String::from_utf8_lossy(&response.body).into_owned();
            let mut body = body.split("TLS_error").next().unwrap_or_default();
            if response.head.status().unwrap() == 200 {
                body = "-";
            }
            let line = eventually("the log", SOON, async || whole_lines(&path).into_iter().nth(index));
            let line = line.await.unwrap();
            let (line, reason) = line.rsplit_once('|').unwrap();
            let kind = if reason.contains("TLS_error:") { "TLS_error" } else { reason };
            let verified = if reason.contains("CERTIFICATE_VERIFY_FAILED") { " verify failed" } else { "" };
            let seen =
                eventually("the handshake at the host", SOON, async || server.seen().get(before).cloned());
            let seen = seen.await.unwrap();
            let at_host = format!(
                "{:?} {:?} {} client={}",
                seen.server_name,
                seen.alpn,
                seen.version,
                !seen.client.is_empty()
            );
            let at_host = if seen.handshake == "ok" { at_host } else { "failed".to_owned() };
            let stats = proxy
                .admin()
                .stats(&format!(
                    r"^cluster\.{}\.(ssl|upstream_cx_connect_fail|upstream_cx_destroy|upstream_rq_503)",
                    case.name
                ))
                .await
                .unwrap();
            let stats: Vec<String> = stats
                .iter()
                // (A signature that held counts here though the host refuses the rest.)
                .filter(|(name, _)| seen.handshake == "ok" || !name.contains("sigalgs"))
                .filter(|(_, value)| **value != 0)
                .map(|(name, value)| format!("{}={value}", &name["cluster.".len() + case.name.len() + 1..]))
                .collect();
            observed.insert(
                case.name.to_owned(),
                format!("{line} {kind}{verified} body={body:?} host: {at_host} stats: {}", stats.join(" ")),
            );
        }
        let mut client = Client::connect(proxy.listener("tcp").unwrap()).await.unwrap();
        client.send(b"GET / HTTP/1.1\r\nhost: t\r\n\r\n").await.unwrap();
        let response = client.response("GET", SOON).await.unwrap();
        observed.insert("by tcp_proxy".to_owned(), response.head.status().unwrap().to_string());
        observed
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn hosts_are_spoken_with_as_by_envoy() {
    let rig = Rig::new();
    let [envoy, subject] = both();
    let expected = rig.observe(&envoy).await;
    let actual = rig.observe(&subject).await;
    let mut wrong = String::new();
    for (name, expected) in &expected {
        if actual[name] != *expected {
            let _ = writeln!(wrong, "{name}:\n  envoy: {expected}\n  here:  {}", actual[name]);
        }
    }
    assert!(wrong.is_empty(), "of {} cases:\n{wrong}", expected.len());
    // Hosts are offered the hybrid group first, where TLS 1.3 is spoken.
    for (case, group) in [("to12", "X25519"), ("forced13", "X25519MLKEM768")] {
        assert!(actual[case].contains(&format!("ssl.curves.{group}=1 ")), "{}", actual[case]);
    }
}

/// A connection for each request.
const ONE_EACH: &str = r#"typed_extension_protocol_options:
  envoy.extensions.upstreams.http.v3.HttpProtocolOptions:
    "@type": type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions
    common_http_protocol_options: {max_requests_per_connection: 1}
    explicit_http_config: {http_protocol_options: {}}
"#;

#[tokio::test(flavor = "multi_thread")]
async fn sessions_with_hosts_are_resumed_while_their_context_lasts() {
    let (root, other) = (Authority::new("root").unwrap(), Authority::new("other").unwrap());
    let identity = root.issue(&Wanted::default()).unwrap();
    let mut told = Vec::new();
    for binary in both() {
        let management = ManagementServer::start().await.unwrap();
        let trust = |version: &str, whom: &Authority| {
            management.set(&SDS, version, [secret(&authority("root", whom))]);
        };
        trust("1", &root);
        let servers = [&TLS12, &TLS12].map(|v| TlsServer::start(&identity, None, &[], &[v]).unwrap());
        let validation =
            format!("validation_context_sds_secret_config: {{name: root{}}}\n", source_of("GRPC", ""));
        let mut clusters = management_cluster(&socket(management.address()));
        let mut listeners = Vec::new();
        for (name, server, context) in
            [("kept", &servers[0], ""), ("forgotten", &servers[1], "max_session_keys: 0\n")]
        {
            let text = cluster(name, "host", &(upstream(&validation, context) + "\n" + ONE_EACH));
            clusters.push_str(&fill(&text, [("host", port(server.addr))]));
            let routes = format!("- match: {{prefix: /}}\n  route: {{cluster: {name}}}");
            listeners.push(HttpListener::new(name, &routes).yaml());
        }
        let config = bootstrap_of("", &listeners, &clusters, "GRPC");
        let proxy = Proxy::start(&binary, &config).await.unwrap();
        let get = async |name: &str| {
            let mut client = Client::connect(proxy.listener(name).unwrap()).await.unwrap();
            client.send(b"GET / HTTP/1.1\r\nhost: t\r\n\r\n").await.unwrap();
            client.response("GET", SOON).await.unwrap().head.status().unwrap()
        };
        let mut statuses = Vec::new();
        for name in ["kept", "kept", "kept", "forgotten", "forgotten"] {
            statuses.push(get(name).await);
        }
        // Whom nobody trusts any more is not let in by a session either; who is trusted anew begins anew.
        for (version, whom, updates) in [("2", &other, 2), ("3", &root, 3)] {
            trust(version, whom);
            eventually("the secret", SOON, async || {
                (proxy.admin().stat("sds.root.update_success").await.ok()? == updates).then_some(())
            })
            .await
            .unwrap();
            statuses.push(get("kept").await);
        }
        statuses.push(get("kept").await);
        let resumed = servers.map(|server| {
            let seen = server.seen();
            seen.iter().filter(|one| one.handshake == "ok").map(|one| one.resumed).collect::<Vec<_>>()
        });
        told.push((statuses, resumed));
    }
    assert_eq!(told[0], told[1]);
    assert_eq!(told[1].0, [200, 200, 200, 200, 200, 503, 200, 200]);
    assert_eq!(told[1].1, [vec![false, true, true, false, true], vec![false, false]]);
}
