//! Hosts that say in the handshake whether they speak HTTP/1 or HTTP/2 (`auto_config`), beside Envoy.

use std::collections::BTreeMap;

use integration::client::Client;
use integration::config::{HttpListener, bootstrap, cluster, file_log, fill, port};
use integration::expect::{SOON, eventually, whole_lines};
use integration::process::{Binary, Kind, Proxy};
use integration::tls::{Authority, Wanted, upstream};
use integration::unveil::Unveiled;
use integration::upstream::Upstream;
use integration::upstream::h2::H2Upstream;

use crate::both;

fn auto(fields: &str) -> String {
    format!(
        "typed_extension_protocol_options:\n  envoy.extensions.upstreams.http.v3.HttpProtocolOptions:\n    \"@type\": type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions\n    auto_config: {{{fields}}}\n"
    )
}

/// What the host takes, and what it is offered.
const CASES: &[(&str, &[&str], &str)] = &[
    ("both", &["h2", "http/1.1"], ""),
    ("prefers_http1", &["http/1.1", "h2"], ""),
    ("http1", &["http/1.1"], ""),
    ("http2", &["h2"], ""),
    ("none", &[], ""),
    ("offers_http1", &["h2", "http/1.1"], "alpn_protocols: [http/1.1]"),
    ("offers_other", &["foo"], "alpn_protocols: [foo, h2]"),
    ("many_http1", &["http/1.1"], ""),
    ("many_http2", &["h2"], ""),
];

const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nhost: a\r\n\r\n";

async fn observe(binary: &Binary) -> BTreeMap<&'static str, String> {
    let identity = Authority::new("root").unwrap().issue(&Wanted::default()).unwrap();
    let (http1, http2) = (Upstream::start().await.unwrap(), H2Upstream::start().await.unwrap());
    let log = file_log(
        "log_format: {text_format_source: {inline_string: \"%RESPONSE_CODE%|%UPSTREAM_PROTOCOL%|%UPSTREAM_TLS_VERSION%\\n\"}}",
    );
    let (mut hosts, mut listeners, mut clusters) = (Vec::new(), Vec::new(), Vec::new());
    for (name, alpn, common) in CASES {
        let host = Unveiled::before(&identity, alpn, http1.addr(), http2.addr()).await.unwrap();
        let routes = format!("- match: {{prefix: /}}\n  route: {{cluster: {name}}}");
        listeners.push(HttpListener::new(name, &routes).logs(&log).yaml());
        let options = auto("http2_protocol_options: {max_concurrent_streams: 50}");
        let text = cluster(name, "host", &(upstream(common, "") + &options)).replace("1s", "10s");
        clusters.push(fill(&text, [("host", port(host.addr()))]));
        hosts.push(host);
    }
    let proxy = Proxy::start(binary, &bootstrap(&listeners, &clusters, "")).await.unwrap();
    let path = proxy.dir().join("access.log");
    let (mut seen, mut lines) = (BTreeMap::new(), 0);
    for ((name, ..), host) in CASES.iter().zip(&hosts) {
        let count = 4;
        let mut clients = Vec::new();
        for _ in 0..count {
            clients.push(Client::connect(proxy.listener(name).unwrap()).await.unwrap());
        }
        let is_held = name.starts_with("many_");
        let (before1, before2) = (http1.received().len(), http2.received().len());
        if is_held {
            // All of them come before the first handshake is done, and none is answered before all are sent.
            host.pass_handshakes(false);
            host.pass_answers(false);
            for client in &mut clients {
                client.send(REQUEST).await.unwrap();
            }
            let pending = format!("cluster.{name}.upstream_rq_pending_active");
            eventually("requests that wait", SOON, async || {
                (proxy.admin().stat(&pending).await.ok()? == count).then_some(())
            })
            .await
            .unwrap();
            // They wait from before the host has accepted the one connection that is made for them.
            eventually("a connection", SOON, async || (host.opened() > 0).then_some(())).await.unwrap();
            assert_eq!(host.opened(), 1, "{name}");
            host.pass_handshakes(true);
            if *name == "many_http1" {
                eventually("a connection for each", SOON, async || {
                    (http1.received().len() - before1 == 4).then_some(())
                })
                .await
                .unwrap();
            }
            host.pass_answers(true);
        }
        let mut statuses = Vec::new();
        for client in &mut clients {
            if !is_held {
                client.send(REQUEST).await.unwrap();
            }
            statuses.push(client.response("GET", SOON).await.unwrap().head.status().unwrap());
        }
        lines += usize::try_from(count).unwrap();
        let logged =
            eventually("the log", SOON, async || Some(whole_lines(&path)).filter(|log| log.len() == lines));
        let logged = logged.await.unwrap().pop().unwrap();
        let stats = format!(
            r"^cluster\.{name}\.(upstream_cx_(total|http1_total|http2_total|connect_fail|active)|upstream_rq_(total|pending_total|pending_active))$"
        );
        let stats = proxy.admin().stats(&stats).await.unwrap();
        // Envoy counts each of these connections twice: before the handshake and after it.
        let times = if proxy.kind() == Kind::Envoy { 2 } else { 1 };
        let stats: Vec<String> = stats
            .iter()
            .map(|(name, value)| match name.ends_with("upstream_cx_total") {
                true => format!("{name}={}/{}", value / times, value % times),
                false => format!("{name}={value}"),
            })
            .collect();
        let got = (http1.received().len() - before1, http2.received().len() - before2);
        seen.insert(
            *name,
            format!("{statuses:?} {logged} {} connections, {got:?} requests {stats:#?}", host.opened()),
        );
    }
    proxy.stop().await.unwrap();
    seen
}

#[tokio::test(flavor = "multi_thread")]
async fn the_handshake_says_what_a_host_speaks_as_with_envoy() {
    let [envoy, ours] = both();
    let (envoy, ours) = (observe(&envoy).await, observe(&ours).await);
    let differing: Vec<_> = envoy
        .iter()
        .filter(|(case, wanted)| ours[*case] != **wanted)
        .map(|(case, wanted)| format!("{case}\n  Envoy: {wanted}\n  ours:  {}", ours[case]))
        .collect();
    assert!(differing.is_empty(), "{}", differing.join("\n"));
}

#[tokio::test]
async fn what_cannot_be_agreed_on_is_refused() {
    let listener = || HttpListener::to_up("http").yaml();
    for (extra, of_ours) in [
        (auto(""), "non-ALPN transport socket"),
        (upstream("", "") + &auto("http3_protocol_options: {}"), "HTTP/3 is not available"),
    ] {
        let yaml =
            bootstrap(&[listener()], &[fill(&cluster("up", "up", &extra), [("up", "1".to_owned())])], "");
        let [envoy, ours] = both();
        let verdict = ours.validate(&yaml).unwrap();
        assert!(!verdict.accepted && verdict.text.contains(of_ours), "{}", verdict.text);
        // (Envoy has HTTP/3, but wants a list of protocols for it.)
        assert!(!envoy.validate(&yaml).unwrap().accepted);
    }
}
