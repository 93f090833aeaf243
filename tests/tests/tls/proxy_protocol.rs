//! What hosts are told of clients by the PROXY protocol, and whose connections are shared, beside Envoy.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use integration::client::Client;
use integration::config::{
    H2_CLUSTER, HttpListener, bootstrap, cluster, file_log, fill, indent, listener_with_filters, port,
    tcp_proxy, tcp_proxy_with_logs,
};
use integration::expect::{SOON, eventually, whole_lines};
use integration::process::{Binary, Proxy};
use integration::tls::{Authority, TlsServer, Wanted, inline};
use integration::told::{Told, v2, words};
use integration::upstream::Upstream;
use integration::upstream::h2::H2Upstream;

use crate::both;

const FROM_PROXIES: &str = "listener_filters: [{name: pp, typed_config: {\"@type\": type.googleapis.com/envoy.extensions.filters.listener.proxy_protocol.v3.ProxyProtocol, pass_through_tlvs: {match_type: INCLUDE_ALL}}}]\n";
const SOME_TLVS: &str = "listener_filters: [{name: pp, typed_config: {\"@type\": type.googleapis.com/envoy.extensions.filters.listener.proxy_protocol.v3.ProxyProtocol, pass_through_tlvs: {match_type: INCLUDE, tlv_type: [1]}}}]\n";
const NO_TLVS: &str = "listener_filters: [{name: pp, typed_config: {\"@type\": type.googleapis.com/envoy.extensions.filters.listener.proxy_protocol.v3.ProxyProtocol}}]\n";
const RAW: &str = "name: raw\ntyped_config: {\"@type\": type.googleapis.com/envoy.extensions.transport_sockets.raw_buffer.v3.RawBuffer}\n";
const ALL: &str = "{version: V2, pass_through_tlvs: {match_type: INCLUDE_ALL}}";
const GET: &[u8] = b"GET / HTTP/1.1\r\nhost: t\r\n\r\n";

/// The field `transport_socket` of a cluster whose hosts are told so.
fn telling(config: &str, inner: &str) -> String {
    format!(
        "transport_socket:\n  name: pp\n  typed_config:\n    \"@type\": type.googleapis.com/envoy.extensions.transport_sockets.proxy_protocol.v3.ProxyProtocolUpstreamTransport\n    config: {config}\n    transport_socket:\n{}",
        indent(inner, 6)
    )
}

/// A listener for each way to the hosts, and what clients send there.
struct Case {
    name: &'static str,
    is_http: bool,
    listener: &'static str,
    options: String,
    cluster: String,
    clients: Vec<Vec<u8>>,
}

fn cases(root: &Authority) -> Vec<Case> {
    let tcp = |name, listener, cluster: &str, clients: Vec<Vec<u8>>| Case {
        name,
        is_http: false,
        listener,
        options: String::new(),
        cluster: telling(cluster, RAW),
        clients,
    };
    let adds = |name, listener, policy, clients: Vec<Vec<u8>>| Case {
        options: format!("proxy_protocol_tlvs: {ADDS}\nproxy_protocol_tlv_merge_policy: {policy}"),
        ..tcp(name, listener, ALL, clients)
    };
    let http = |name, listener, options: &str, cluster: String, clients: Vec<Vec<u8>>| Case {
        name,
        is_http: true,
        listener,
        options: options.to_owned(),
        cluster,
        clients,
    };
    let from = |address: &str, tlvs: &[(u8, &[u8])]| {
        [v2(1, address, "5.6.7.8:66", tlvs).unwrap(), GET.to_vec()].concat()
    };
    let one = |tlvs: &[(u8, &[u8])]| vec![from("1.2.3.4:55", tlvs)];
    let local = [v2(0, "1.2.3.4:55", "5.6.7.8:66", &[(1, b"a")]).unwrap(), GET.to_vec()].concat();
    let after = |line: &str| vec![[line.as_bytes(), b"\r\n", GET].concat()];
    let untold = "add_proxy_protocol_connection_state: false";
    let added = "{version: V2, added_tlvs: [{type: 1, value: YQ==}, {type: 1, value: Yg==}, {type: 2, value: Yw==}], pass_through_tlvs: {match_type: INCLUDE, tlv_type: [1, 3]}}";
    let many: [(u8, &[u8]); 4] = [(1, b"x"), (3, b"y"), (3, b"z"), (4, b"q")];
    let (half, much) = (vec![b'a'; 32_700], vec![b'b'; 32_760]);
    let tls = format!(
        "name: tls\ntyped_config:\n  \"@type\": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext\n  common_tls_context: {{validation_context: {{trusted_ca: {}}}}}\n",
        inline(&root.pem)
    );
    let clients =
        || ["1.2.3.4:55", "1.2.3.4:55", "1.2.3.4:56", "1.2.3.5:55"].map(|client| from(client, &[])).into();
    vec![
        tcp("v1", "", "{version: V1}", vec![GET.to_vec()]),
        tcp("v2", "", "{version: V2}", vec![GET.to_vec()]),
        tcp("default", "", "{}", vec![GET.to_vec()]),
        tcp("v1_of_proxy", NO_TLVS, "{version: V1}", one(&[(1, b"a")])),
        tcp("v1_of_ipv6", NO_TLVS, "{version: V1}", after("PROXY TCP6 ::1 2::3 1 2")),
        tcp("v2_of_ipv6", NO_TLVS, "{version: V2}", after("PROXY TCP6 ::1 2::3 1 2")),
        tcp("v2_of_v1", FROM_PROXIES, ALL, after("PROXY TCP4 1.2.3.4 5.6.7.8 1 2")),
        tcp("unknown", FROM_PROXIES, ALL, after("PROXY UNKNOWN")),
        tcp("local", FROM_PROXIES, ALL, vec![local]),
        tcp("added", FROM_PROXIES, added, one(&many)),
        tcp("all", FROM_PROXIES, ALL, one(&many)),
        tcp("empty_value", FROM_PROXIES, ALL, one(&[(3, b"")])),
        tcp("none", FROM_PROXIES, "{version: V2}", one(&many)),
        tcp("some", SOME_TLVS, ALL, one(&many)),
        tcp("not_kept", NO_TLVS, ALL, one(&many)),
        tcp("per_host", FROM_PROXIES, added, one(&many)),
        tcp(
            "too_much",
            FROM_PROXIES,
            "{version: V2, added_tlvs: [{type: 2, value: Yw==}], pass_through_tlvs: {match_type: INCLUDE_ALL}}",
            one(&[(1, &half), (3, &much)]),
        ),
        tcp("as_much_as_fits", FROM_PROXIES, ALL, one(&[(1, &half), (3, &much)])),
        tcp("formatted", "", &formatted(), vec![GET.to_vec()]),
        tcp("formatted_of_host", FROM_PROXIES, &formatted(), one(&many)),
        http("formatted_http", "", "", telling(&formatted(), RAW), vec![GET.to_vec()]),
        adds("adds", "", "ADD_IF_ABSENT", vec![GET.to_vec()]),
        adds("adds_not_to_others", FROM_PROXIES, "ADD_IF_ABSENT", one(&many)),
        adds("adds_not_to_nothing", FROM_PROXIES, "ADD_IF_ABSENT", one(&[])),
        adds("overwrites_nothing", "", "OVERWRITE_BY_TYPE_IF_EXISTS_OR_ADD", vec![GET.to_vec()]),
        adds("overwrites", FROM_PROXIES, "OVERWRITE_BY_TYPE_IF_EXISTS_OR_ADD", one(&many)),
        adds("overwrites_what_is_kept", SOME_TLVS, "OVERWRITE_BY_TYPE_IF_EXISTS_OR_ADD", one(&many)),
        adds("appends_to_nothing", "", "APPEND_IF_EXISTS_OR_ADD", vec![GET.to_vec()]),
        adds("appends", FROM_PROXIES, "APPEND_IF_EXISTS_OR_ADD", one(&many)),
        http("http_v1", "", "", telling("{version: V1}", RAW), vec![GET.to_vec()]),
        http("http_v2", "", "", telling("{version: V2}", RAW), vec![GET.to_vec(), GET.to_vec()]),
        http("shared", FROM_PROXIES, "", telling(ALL, RAW), clients()),
        http("shared_http2", FROM_PROXIES, "", telling(ALL, RAW) + H2_CLUSTER, clients()),
        http("shared_tls", FROM_PROXIES, "", telling(ALL, &tls), clients()),
        http("untold_v1", "", untold, telling("{version: V1}", RAW), vec![GET.to_vec(), GET.to_vec()]),
        http("untold_v2", "", untold, telling("{version: V2}", RAW), vec![GET.to_vec(), GET.to_vec()]),
        http("untold_of_proxy", FROM_PROXIES, untold, telling(ALL, RAW), one(&[(1, b"a")])),
    ]
}

/// What a TCP proxy adds.
const ADDS: &str = "[{type: 3, format_string: {text_format_source: {inline_string: \"to %UPSTREAM_CLUSTER% %UPSTREAM_HOST%\"}}}, {type: 1, value: YQ==}, {type: 3, value: Yg==}, {type: 1, value: Yw==}]";

/// Texts about connections to hosts.
const TEXTS: [&str; 14] = [
    "a text",
    "%UPSTREAM_HOST%",
    "%UPSTREAM_CLUSTER%",
    "%UPSTREAM_REMOTE_ADDRESS%",
    "%UPSTREAM_LOCAL_ADDRESS%",
    "%DOWNSTREAM_REMOTE_ADDRESS%",
    "%DOWNSTREAM_LOCAL_ADDRESS_WITHOUT_PORT%",
    "%UPSTREAM_METADATA(a:b)%",
    "%DYNAMIC_METADATA(a:b)%",
    "%FILTER_STATE(a)%",
    "%ROUTE_NAME%",
    "%REQ(x)%",
    "%RESPONSE_CODE%",
    "%PROTOCOL%",
];

/// What tells hosts of them, each by a TLV, and more by JSON.
fn formatted() -> String {
    let texts = TEXTS.iter().enumerate().map(|(number, text)| {
        format!(
            "{{type: {}, format_string: {{text_format_source: {{inline_string: \"{text}\"}}}}}}",
            20 + number
        )
    });
    let texts: Vec<String> = texts.collect();
    let json =
        "{type: 2, format_string: {json_format: {a: '%UPSTREAM_METADATA(a:b)%'}}}, {type: 2, value: YQ==}";
    format!(
        "{{version: V2, added_tlvs: [{}, {json}], pass_through_tlvs: {{match_type: INCLUDE_ALL}}}}",
        texts.join(", ")
    )
}

/// The metadata of the host of the case `formatted_of_host`.
const FORMATTED: &str = "      - metadata: {filter_metadata: {a: {b: of the host}}, typed_filter_metadata: {envoy.transport_sockets.proxy_protocol: {\"@type\": type.googleapis.com/envoy.config.core.v3.PerHostConfig, added_tlvs: [{type: 20, value: aGg=}]}}}\n";

/// The metadata of the host of the case `per_host`.
const PER_HOST: &str = "      - metadata: {typed_filter_metadata: {envoy.transport_sockets.proxy_protocol: {\"@type\": type.googleapis.com/envoy.config.core.v3.PerHostConfig, added_tlvs: [{type: 1, value: aGg=}, {type: 1, value: aGk=}]}}}\n";

impl Case {
    fn listener(&self) -> String {
        match self.is_http {
            true => {
                let route = format!("- match: {{prefix: /}}\n  route: {{cluster: {}}}", self.name);
                HttpListener::new(self.name, &route).options(&self.options).listener(self.listener).yaml()
            }
            false => {
                let filter = tcp_proxy(self.name, &format!("cluster: {}\n{}", self.name, self.options));
                listener_with_filters(self.name, &filter) + &indent(self.listener, 2)
            }
        }
    }

    fn cluster(&self, host: SocketAddr) -> String {
        let yaml = fill(&cluster(self.name, "host", &self.cluster), [("host", port(host))]);
        match self.name {
            "per_host" => yaml.replace("      - endpoint", &format!("{PER_HOST}        endpoint")),
            "formatted_of_host" => yaml.replace("      - endpoint", &format!("{FORMATTED}        endpoint")),
            _ => yaml,
        }
    }

    /// What is seen of it.
    async fn observe(&self, proxy: &Proxy, told: &Told) -> String {
        let listener = proxy.listener(self.name).unwrap();
        let mut ports = vec![(listener.port(), "LISTENER"), (told.addr().port(), "HOST")];
        let mut clients = Vec::new();
        let mut statuses = Vec::new();
        for bytes in &self.clients {
            let mut client = Client::connect(listener).await.unwrap();
            ports.push((client.local_addr().unwrap().port(), "CLIENT"));
            client.send(bytes).await.unwrap();
            let answer = client.response("GET", SOON).await.unwrap();
            statuses.push(answer.head.status().unwrap());
            clients.push(client);
        }
        let mut headers: Vec<String> =
            told.headers().iter().map(|header| words(header, &ports).unwrap()).collect();
        if self.name == "untold_v1" {
            // (The port of the connection itself.)
            headers.iter_mut().for_each(|line| {
                let mut words: Vec<&str> = line.split(' ').collect();
                words[4] = "OWN";
                *line = words.join(" ");
            });
        }
        drop(clients);
        let stats = |name: &str| format!("cluster.{}.{name}", self.name);
        let closed = stats("upstream_cx_active");
        if !self.is_http {
            eventually("the end of the connections", SOON, async || {
                (proxy.admin().stat(&closed).await.ok()? == 0).then_some(())
            })
            .await
            .unwrap();
        }
        let mut counted = Vec::new();
        for name in ["upstream_cx_total", "upstream.proxyprotocol.v2_tlvs_exceed_max_length"] {
            counted.push(proxy.admin().stat(&stats(name)).await.unwrap());
        }
        if !self.is_http {
            counted.push(proxy.admin().stat(&stats("upstream_cx_tx_bytes_total")).await.unwrap());
        }
        format!("{headers:#?} {statuses:?} {counted:?}")
    }
}

async fn observe(binary: &Binary, root: &Authority) -> BTreeMap<&'static str, String> {
    let (plain, http2) = (Upstream::start().await.unwrap(), H2Upstream::start().await.unwrap());
    let identity = root.issue(&Wanted::default()).unwrap();
    let tls = TlsServer::start(&identity, None, &[], rustls::ALL_VERSIONS).unwrap();
    let cases = cases(root);
    let mut hosts = Vec::new();
    for case in &cases {
        let target = match case.name {
            "shared_http2" => http2.addr(),
            "shared_tls" => tls.addr,
            _ => plain.addr(),
        };
        hosts.push(Told::before(target).await.unwrap());
    }
    let listeners: Vec<String> = cases.iter().map(Case::listener).collect();
    let clusters: Vec<String> =
        cases.iter().zip(&hosts).map(|(case, told)| case.cluster(told.addr())).collect();
    let proxy = Proxy::start(binary, &bootstrap(&listeners, &clusters, "")).await.unwrap();
    let mut seen = BTreeMap::new();
    for (case, told) in cases.iter().zip(&hosts) {
        seen.insert(case.name, case.observe(&proxy, told).await);
    }
    proxy.stop().await.unwrap();
    seen
}

#[tokio::test(flavor = "multi_thread")]
async fn hosts_are_told_what_envoy_tells_them() {
    let root = Authority::new("root").unwrap();
    let [envoy, ours] = both();
    let (envoy, ours) = (observe(&envoy, &root).await, observe(&ours, &root).await);
    for (case, wanted) in envoy {
        assert_eq!(ours[case], wanted, "{case}");
    }
}

/// What becomes of TLVs by rules, of which two are for one type, and two for one key.
const RULES: &str = "rules: [{tlv_type: 1, on_tlv_present: {key: k1}}, {tlv_type: 1, on_tlv_present: {key: k1b}}, {tlv_type: 2, on_tlv_present: {key: k2, metadata_namespace: ns}}, {tlv_type: 3, on_tlv_present: {key: k3, value_string_encoding: BASE64}}, {tlv_type: 4, on_tlv_present: {key: k1b}}, {tlv_type: 5}]";

async fn kept(binary: &Binary) -> Vec<String> {
    let state = |form: &str| format!("%FILTER_STATE(envoy.network.proxy_protocol.tlv:{form})%");
    let metadata = |name: &str| format!("%DYNAMIC_METADATA({name})%");
    let own = "envoy.filters.listener.proxy_protocol";
    let mut formats: Vec<String> =
        ["k1", "k1b", "k2", "k3", "k4"].map(|key| state(&format!("FIELD:{key}"))).into();
    formats.extend(["k1", "k1b", "k2", "k3"].map(|key| metadata(&format!("{own}:{key}"))));
    formats.push(metadata("ns:k2"));
    let format =
        format!("log_format: {{text_format_source: {{inline_string: \"{}\\n\"}}}}", formats.join("|"));
    let logs = |format: &str| format!("access_log:\n{}", file_log(format));
    let listener = |name: &str, rules: &str, format: &str| {
        let filter = tcp_proxy_with_logs(name, &logs(format), "cluster: up");
        let options = FROM_PROXIES.replace("pass_through", &format!("{rules}, pass_through"));
        listener_with_filters(name, &filter) + &indent(&options, 2)
    };
    let whole = format!(
        "log_format: {{text_format_source: {{inline_string: \"{}|{}|{}\\n\"}}}}",
        state("PLAIN"),
        state("TYPED"),
        metadata(own)
    );
    let upstream = Upstream::start().await.unwrap();
    let up = fill(&cluster("up", "host", ""), [("host", port(upstream.addr()))]);
    let in_state = format!("{RULES}, tlv_location: FILTER_STATE");
    let listeners = [
        listener("metadata", RULES, &format),
        listener("state", &in_state, &format),
        listener("metadata_whole", RULES, &whole),
        listener("state_whole", &in_state, &whole),
    ];
    let proxy = Proxy::start(binary, &bootstrap(&listeners, &[up], "")).await.unwrap();
    let (twice, one) =
        ([(1, &b"x"[..]), (1, b"xx"), (2, b"y\xff"), (3, b"zz")], [(2, &b"y"[..]), (5, b"five")]);
    let (fours, ones) = ([(4, &b"four"[..]), (1, b"x")], [(1, &b"x"[..]), (4, b"four")]);
    let some: [&[(u8, &[u8])]; 4] = [&twice, &fours, &ones, &[]];
    let mut wanted = Vec::new();
    for listener in ["metadata", "state"] {
        wanted.extend(some.map(|tlvs| (listener, tlvs)));
    }
    wanted.extend([
        ("metadata_whole", &one[..1]),
        ("state_whole", &one[..1]),
        ("metadata_whole", &one[1..]),
        ("state_whole", &one[1..]),
    ]);
    let path = proxy.dir().join("access.log");
    let mut lines = Vec::new();
    for (index, (listener, tlvs)) in wanted.into_iter().enumerate() {
        let mut client = Client::connect(proxy.listener(listener).unwrap()).await.unwrap();
        let header = v2(1, "1.2.3.4:55", "5.6.7.8:66", tlvs).unwrap();
        client.send(&[&header, GET].concat()).await.unwrap();
        assert_eq!(client.response("GET", SOON).await.unwrap().head.status().unwrap(), 200);
        drop(client);
        let line = eventually("the log", SOON, async || whole_lines(&path).into_iter().nth(index));
        lines.push(format!("{listener} {tlvs:?}: {}", line.await.unwrap()));
    }
    lines
}

#[tokio::test(flavor = "multi_thread")]
async fn tlvs_are_kept_as_by_envoy() {
    let [envoy, ours] = both();
    let (expected, kept) = (kept(&envoy).await, kept(&ours).await);
    assert_eq!(kept, expected);
    assert!(kept[4].ends_with(": -|xx|y!|eno=|-|-|-|-|-|-"), "{}", kept[4]);
}

#[tokio::test(flavor = "multi_thread")]
async fn values_that_are_taken_and_refused() {
    let text = |text: &str| format!("format_string: {{text_format_source: {{inline_string: \"{text}\"}}}}");
    let cases = [
        ("type: 1, value: YQ==".to_owned(), None),
        (format!("type: 1, {}", text("%HOSTNAME%")), None),
        ("type: 1".to_owned(), Some("one of 'value' or 'format_string' must be set")),
        (
            format!("type: 1, value: YQ==, {}", text("a")),
            Some("only one of 'value' or 'format_string' may be set"),
        ),
        (format!("type: 1, {}", text("%NOTHING%")), Some("ot supported field in StreamInfo: NOTHING")),
        ("type: 256, value: YQ==".to_owned(), Some("value must be less than 256")),
        ("type: 1, format_string: {}".to_owned(), Some("is required")),
    ];
    for binary in both() {
        for (entry, refused) in &cases {
            let socket = telling(&format!("{{version: V2, added_tlvs: [{{{entry}}}]}}"), RAW);
            let of_socket = fill(&cluster("up", "host", &socket), [("host", "1".to_owned())]);
            let plain = fill(&cluster("up", "host", ""), [("host", "1".to_owned())]);
            let proxy = |options: &str| {
                listener_with_filters("l", &tcp_proxy("l", &format!("cluster: up\n{options}")))
            };
            for (listener, cluster) in
                [(proxy(""), of_socket), (proxy(&format!("proxy_protocol_tlvs: [{{{entry}}}]")), plain)]
            {
                let verdict = binary.validate(&bootstrap(&[listener], &[cluster], "")).unwrap();
                let is_as_wanted = match refused {
                    None => verdict.accepted,
                    Some(reason) => !verdict.accepted && verdict.text.contains(reason),
                };
                assert!(is_as_wanted, "{:?} {entry}: {}", binary.kind, verdict.text);
            }
        }
    }
}

/// Envoy sends the second request on the connection of the first, of which the host was told other things.
#[tokio::test(flavor = "multi_thread")]
async fn what_differs_in_tlvs_does_not_share_connections() {
    let upstream = Upstream::start().await.unwrap();
    let told = Told::before(upstream.addr()).await.unwrap();
    let yaml = fill(&cluster("up", "host", &telling(ALL, RAW)), [("host", port(told.addr()))]);
    let listener = HttpListener::to_up("http").listener(FROM_PROXIES).yaml();
    let proxy =
        Proxy::start(&Binary::subject().unwrap(), &bootstrap(&[listener], &[yaml], "")).await.unwrap();
    for value in [b"a", b"b", b"a"] {
        let mut client = Client::connect(proxy.listener("http").unwrap()).await.unwrap();
        let header = v2(1, "1.2.3.4:55", "5.6.7.8:66", &[(1, value)]).unwrap();
        client.send(&[&header, GET].concat()).await.unwrap();
        assert_eq!(client.response("GET", SOON).await.unwrap().head.status().unwrap(), 200);
    }
    let headers: Vec<String> = told.headers().iter().map(|header| words(header, &[]).unwrap()).collect();
    assert_eq!(headers.len(), 2, "{headers:?}");
    assert!(headers[0].ends_with("1=\"a\"") && headers[1].ends_with("1=\"b\""), "{headers:?}");
    proxy.stop().await.unwrap();
}

/// Envoy tells nothing with version 2 (and a host that waits for a header gets none), and dies with version 1.
#[tokio::test(flavor = "multi_thread")]
async fn clients_of_a_unix_socket_have_no_address_to_tell() {
    let dir = tempfile::tempdir().unwrap();
    let upstream = Upstream::start().await.unwrap();
    let ways = [
        ("v1", "{version: V1}", false, "\"PROXY\" \"UNKNOWN\\r\\n\""),
        ("v2", "{version: V2}", false, "v2 20 00"),
        ("unspecified", "{version: V2, added_tlvs: [{type: 2, value: Yw==}]}", true, "v2 21 00 2=\"c\""),
    ];
    let (mut listeners, mut clusters, mut hosts) = (Vec::new(), Vec::new(), Vec::new());
    for (name, config, unspecified, _) in ways {
        let told = Told::before(upstream.addr()).await.unwrap();
        let path = dir.path().join(name);
        let listener = listener_with_filters(name, &tcp_proxy(name, &format!("cluster: {name}"))).replace(
            "socket_address: {address: 127.0.0.1, port_value: 0}",
            &format!("pipe: {{path: {}}}", path.display()),
        );
        listeners.push(listener);
        let socket = telling(config, RAW)
            .replace("    config", &format!("    allow_unspecified_address: {unspecified}\n    config"));
        clusters.push(fill(&cluster(name, "host", &socket), [("host", port(told.addr()))]));
        hosts.push((path, told));
    }
    let yaml = bootstrap(&listeners, &clusters, "");
    let proxy = Proxy::start(&Binary::subject().unwrap(), &yaml).await.unwrap();
    for ((name, _, _, wanted), (path, told)) in ways.iter().zip(&hosts) {
        let mut client = tokio::net::UnixStream::connect(path).await.unwrap();
        tokio::io::AsyncWriteExt::write_all(&mut client, GET).await.unwrap();
        let mut answer = [0; 12];
        tokio::io::AsyncReadExt::read_exact(&mut client, &mut answer).await.unwrap();
        assert_eq!(&answer, b"HTTP/1.1 200");
        assert_eq!(words(&told.headers()[0], &[]).unwrap(), *wanted, "{name}");
    }
    proxy.stop().await.unwrap();
}
