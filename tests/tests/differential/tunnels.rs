//! Upgrades and CONNECT.

use integration::config::{H2_CLUSTER, HttpListener, cluster};
use integration::differential::{Case, Do, H2Request, Setup};
use integration::upstream::{Reply, Step};

const ROUTES: &str = r#"
- match: {prefix: /disabled}
  route: {cluster: up, upgrade_configs: [{upgrade_type: websocket, enabled: false}]}
- match: {prefix: /only, headers: [{name: upgrade, string_match: {exact: websocket, ignore_case: true}}]}
  route: {cluster: up}
- match: {prefix: /only}
  direct_response: {status: 404}
- match: {prefix: /h2}
  route: {cluster: h2up_connect}
- match: {prefix: /refused}
  route: {cluster: refused}
- match: {prefix: /ignoring}
  route: {cluster: up_ignoring}
- match: {prefix: /}
  route: {cluster: up}
"#;

const CONNECT: &str = r#"
- match: {connect_matcher: {}, headers: [{name: x-forward, present_match: true}]}
  route: {cluster: up, upgrade_configs: [{upgrade_type: CONNECT}]}
- match: {connect_matcher: {}, headers: [{name: x-refused, present_match: true}]}
  route: {cluster: refused, upgrade_configs: [{upgrade_type: CONNECT, connect_config: {}}]}
- match: {connect_matcher: {}}
  route: {cluster: echo, upgrade_configs: [{upgrade_type: CONNECT, connect_config: {}}]}
- match: {prefix: /}
  route: {cluster: up}
"#;

pub(crate) fn setup() -> Setup {
    Setup::with_clusters(
        "tunnels",
        [
            HttpListener::new("plain", ROUTES).yaml(),
            HttpListener::new("websocket", ROUTES)
                .options("upgrade_configs: [{upgrade_type: websocket}]")
                .yaml(),
            HttpListener::new("own_router", ROUTES).options(OWN_ROUTER).yaml(),
            HttpListener::new("ignoring", ROUTES).options(IGNORED).yaml(),
            HttpListener::new("ignoring_some", ROUTES)
                .options(IGNORED)
                .options("upgrade_configs: [{upgrade_type: websocket}, {upgrade_type: Other}]")
                .yaml(),
            HttpListener::new("connect", CONNECT).yaml(),
            HttpListener::new("h2", ROUTES)
                .options("upgrade_configs: [{upgrade_type: websocket}]\nhttp2_protocol_options: {allow_connect: true}")
                .yaml(),
            HttpListener::new("h2_connect", CONNECT).options("http2_protocol_options: {allow_connect: true}").yaml(),
        ],
        [
            cluster("h2up_connect", "h2up", &H2_CLUSTER.replace("{}", "{allow_connect: true}")),
            cluster(
                "up_ignoring",
                "up",
                &H2_CLUSTER.replace(
                    "http2_protocol_options: {}",
                    "http_protocol_options: {ignore_http_11_upgrade: [{exact: websocket}]}",
                ),
            ),
        ],
    )
}

/// Upgrades have a router of their own, which keeps Envoy's headers to itself.
const OWN_ROUTER: &str = r#"
upgrade_configs:
- upgrade_type: websocket
  filters:
  - name: router
    typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router, suppress_envoy_headers: true}
"#;

const IGNORED: &str = r#"
http_protocol_options:
  ignore_http_11_upgrade: [{prefix: tls}, {exact: Foo, ignore_case: true}, {exact: "a, b"}]
"#;

const BROKEN_OFF: &str =
    "A tunnel that a host agreed to is not ours to break off, whatever the cluster ignores.";
const NAMED: &str = "What `connection` names ends here (RFC 9110, 7.6.1); Envoy forgets that it was named.";

const UPGRADE: &str = "GET /chat HTTP/1.1\r\nhost: test\r\nconnection: Upgrade\r\nupgrade: websocket\r\n\
sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
const SWITCHING: &[u8] = b"HTTP/1.1 101 Switching Protocols\r\nconnection: Upgrade\r\nupgrade: websocket\r\n\
sec-websocket-accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";

fn tunnel(name: &'static str, listener: &'static str, head: &str, method: &'static str) -> Case {
    let steps = [
        Do::Send(head.into()),
        Do::Response(method),
        Do::Send(b"hello".to_vec()),
        Do::Bytes(5),
        Do::Send(b"again".to_vec()),
        Do::Bytes(5),
        Do::HalfClose,
        Do::AwaitEnd,
    ];
    Case::steps(name, listener, steps)
}

pub(crate) fn cases() -> Vec<Case> {
    let switch = || Reply::early([Step::Send(SWITCHING.to_vec()), Step::Echo]);
    let established = b"HTTP/1.1 200 OK\r\n\r\n".to_vec();
    let connect = "CONNECT target.test:443 HTTP/1.1\r\nhost: target.test:443\r\n\r\n";
    let forwarded = "CONNECT target.test:443 HTTP/1.1\r\nhost: target.test:443\r\nx-forward: 1\r\n\r\n";
    vec![
        Case::send("upgrade that is not enabled", "plain", UPGRADE),
        tunnel("websocket", "websocket", UPGRADE, "GET").reply(switch()),
        tunnel("websocket with a router of its own", "own_router", UPGRADE, "GET").reply(switch()),
        Case::send("beside it the usual router", "own_router", "GET / HTTP/1.1\r\nhost: test\r\n\r\n"),
        Case::send("websocket disabled on the route", "websocket", UPGRADE.replace("/chat", "/disabled")),
        Case::send("websocket refused by the upstream", "websocket", UPGRADE)
            .raw("HTTP/1.1 403 Forbidden\r\ncontent-length: 2\r\n\r\nno"),
        Case::send("another upgrade", "websocket", UPGRADE.replace("websocket\r\nsec", "other\r\nsec")),
        Case::send("h2c upgrade is ignored", "plain", UPGRADE.replace("upgrade: websocket", "upgrade: h2c")),
        tunnel("CONNECT terminated", "connect", connect, "CONNECT"),
        tunnel("CONNECT forwarded", "connect", forwarded, "CONNECT")
            .reply(Reply::early([Step::Send(established), Step::Echo])),
        Case::send("CONNECT without a route", "plain", connect),
        Case::send("CONNECT refused by the upstream", "connect", forwarded)
            .raw("HTTP/1.1 403 Forbidden\r\ncontent-length: 2\r\n\r\nno"),
        Case::send(
            "CONNECT terminated, nobody listens",
            "connect",
            connect.replace("\r\n\r\n", "\r\nx-refused: 1\r\n\r\n"),
        ),
        Case::steps(
            "CONNECT terminated, bytes at once",
            "connect",
            [
                Do::Send(format!("{connect}hello").into()),
                Do::Response("CONNECT"),
                Do::Bytes(5),
                Do::HalfClose,
                Do::AwaitEnd,
            ],
        ),
    ]
    .into_iter()
    .chain(websocket_cases())
    .chain(h2_cases())
    .collect()
}

const NO_SWITCH: &str = "An upstream that answers an upgrade with an ordinary response has not switched: the client gets that \
                         response whole, and the connection ends after it. Envoy takes the body away.";

/// A request that asks for an upgrade in these header lines.
fn ignored(name: &'static str, listener: &'static str, lines: &str) -> Case {
    Case::get(name, listener, "/", lines)
}

/// Upgrades that are taken out of requests (`ignore_http_11_upgrade`).
pub(crate) fn ignored_cases() -> Vec<Case> {
    vec![
        ignored("ignored upgrade", "ignoring", "connection: upgrade\r\nupgrade: tls/1.2\r\n"),
        ignored("ignored upgrade, in capitals", "ignoring", "connection: upgrade\r\nupgrade: TLS/1.2\r\n"),
        ignored("ignored upgrade, in any case", "ignoring", "connection: Upgrade\r\nupgrade: fOO\r\n"),
        ignored("upgrade that is not ignored", "ignoring", "connection: Upgrade\r\nupgrade: bar\r\n"),
        ignored(
            "ignored upgrade and another",
            "ignoring",
            "connection: Upgrade\r\nupgrade: tls/1.2, bar\r\n",
        ),
        ignored("ignored upgrades", "ignoring", "connection: Upgrade\r\nupgrade: tls/1.2 ,foo, tls\r\n"),
        ignored("ignored upgrade of two words", "ignoring", "connection: Upgrade\r\nupgrade: a, b\r\n"),
        ignored(
            "ignored upgrade in a second field",
            "ignoring",
            "connection: Upgrade\r\nupgrade: foo\r\nupgrade: tls\r\n",
        ),
        ignored(
            "upgrade in a second field",
            "ignoring",
            "connection: Upgrade\r\nupgrade: foo\r\nupgrade: bar\r\n",
        ),
        ignored(
            "ignored upgrade, kept alive",
            "ignoring",
            "connection: keep-alive, Upgrade\r\nupgrade: foo\r\n",
        ),
        ignored("ignored upgrade, closing", "ignoring", "connection: Upgrade, close\r\nupgrade: foo\r\n"),
        ignored(
            "ignored upgrade, other nominated",
            "ignoring",
            "connection: Upgrade, x-a\r\nupgrade: foo\r\nx-a: b\r\n",
        ),
        ignored("ignored upgrade that connection does not name", "ignoring", "upgrade: foo\r\n"),
        ignored("ignored upgrade beside h2c", "ignoring", "connection: Upgrade\r\nupgrade: foo, h2c\r\n"),
        ignored(
            "h2c where upgrades are ignored",
            "ignoring",
            "connection: Upgrade, HTTP2-Settings\r\nupgrade: h2c\r\nhttp2-settings: AAM\r\n",
        ),
        ignored(
            "ignored upgrade and settings",
            "ignoring",
            "connection: Upgrade, HTTP2-Settings\r\nupgrade: foo\r\nhttp2-settings: AAM\r\n",
        )
        .differs("upstream[0].header.http2-settings", NAMED),
        Case::send(
            "ignored upgrade with a body",
            "ignoring",
            "POST / HTTP/1.1\r\nhost: test\r\nconnection: upgrade\r\nupgrade: foo\r\ncontent-length: 2\r\n\r\nhi",
        ),
        ignored(
            "ignored upgrade before one that is allowed",
            "ignoring_some",
            "connection: Upgrade\r\nupgrade: Tls, tls/1.2, Other\r\n",
        ),
        ignored(
            "ignored upgrade after one that is allowed",
            "ignoring_some",
            "connection: Upgrade\r\nupgrade: Other, tls/1.2\r\n",
        ),
        ignored(
            "ignored upgrade between",
            "ignoring_some",
            "connection: keep-alive, Upgrade\r\nupgrade: Other,foo , websocket\r\n",
        ),
        tunnel("websocket where upgrades are ignored", "ignoring_some", UPGRADE, "GET")
            .reply(Reply::early([Step::Send(SWITCHING.to_vec()), Step::Echo])),
        tunnel(
            "websocket to a cluster that ignores it",
            "websocket",
            &UPGRADE.replace("/chat", "/ignoring"),
            "GET",
        )
        .reply(Reply::early([Step::Send(SWITCHING.to_vec()), Step::Echo]))
        .differs("*", BROKEN_OFF),
        tunnel(
            "websocket beside what is ignored",
            "ignoring_some",
            &UPGRADE.replace("websocket\r\nsec", "tls, websocket\r\nsec"),
            "GET",
        )
        .reply(Reply::early([Step::Send(SWITCHING.to_vec()), Step::Echo])),
    ]
}

fn websocket_cases() -> Vec<Case> {
    let switch = || Reply::early([Step::Send(SWITCHING.to_vec()), Step::Echo]);
    let spelt = UPGRADE
        .replace("connection: Upgrade", "Connection: keep-alive, x-a, UPGRADE\r\nx-a: 1")
        .replace("upgrade: websocket", "Upgrade: WebSocket");
    let spelt_answer =
        b"HTTP/1.1 101 Switching Protocols\r\nConnection: keep-alive, UPGRADE\r\nUpgrade: WebSocket\r\n\r\n"
            .to_vec();
    vec![
        tunnel("websocket keeps its spelling", "websocket", &spelt, "GET")
            .reply(Reply::early([Step::Send(spelt_answer), Step::Echo])),
        tunnel("websocket by a header matcher", "websocket", &UPGRADE.replace("/chat", "/only"), "GET")
            .reply(switch()),
        Case::get("header matcher without an upgrade", "websocket", "/only", "upgrade: websocket\r\n"),
        Case::steps(
            "websocket, upstream ends first",
            "websocket",
            [Do::Send(UPGRADE.into()), Do::Response("GET"), Do::Bytes(3), Do::AwaitEnd],
        )
        .reply(Reply::early([Step::Send([SWITCHING, b"bye"].concat()), Step::Close])),
        Case::steps(
            "websocket, upstream resets",
            "websocket",
            [Do::Send(UPGRADE.into()), Do::Response("GET"), Do::AwaitEnd],
        )
        .reply(Reply::early([
            Step::Send(SWITCHING.to_vec()),
            Step::Pause(std::time::Duration::from_millis(20)),
            Step::Reset,
        ])),
        Case::steps(
            "websocket, bytes before the answer",
            "websocket",
            [
                Do::Send(format!("{UPGRADE}early").into()),
                Do::Response("GET"),
                Do::Bytes(5),
                Do::HalfClose,
                Do::AwaitEnd,
            ],
        )
        .reply(switch()),
        Case::send("websocket answered with 200", "websocket", UPGRADE)
            .raw("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")
            .differs("response[0].*", NO_SWITCH)
            .differs("log[0].*", NO_SWITCH)
            .differs("counter *", NO_SWITCH),
        Case::send("websocket answered with another status and no length", "websocket", UPGRADE)
            .reply(Reply::raw_then_close("HTTP/1.1 400 Bad Request\r\n\r\nno")),
        Case::send("websocket, nobody listens", "websocket", UPGRADE.replace("/chat", "/refused")),
        Case::send("websocket without a route's cluster that upgrades", "websocket", UPGRADE)
            .reply(Reply::steps([Step::Close])),
        Case::steps(
            "websocket, client leaves",
            "websocket",
            [Do::Send(UPGRADE.into()), Do::Response("GET"), Do::Leave],
        )
        .reply(switch()),
    ]
}

fn h2_cases() -> Vec<Case> {
    let one = |name, listener, request| Case::h2(name, listener, [request]);
    let connect = H2Request { method: "CONNECT", body: "hello", ..H2Request::get("target.test:443") };
    vec![
        one("h2 websocket to h1", "h2", H2Request::upgrade("http://test/chat", "websocket", "hello"))
            .reply(Reply::early([Step::Send(SWITCHING.to_vec()), Step::Echo])),
        one(
            "h2 websocket refused by the upstream",
            "h2",
            H2Request::upgrade("http://test/chat", "websocket", "hello"),
        )
        .raw("HTTP/1.1 403 Forbidden\r\ncontent-length: 2\r\n\r\nno")
        .differs(
            "log[0].rx",
            "What a client sends into a tunnel is read once there is one, and not counted before.",
        ),
        one("h2 websocket to h2", "h2", H2Request::upgrade("http://test/h2", "websocket", "hello")),
        tunnel("h1 websocket to h2", "h2", &UPGRADE.replace("/chat", "/h2"), "GET"),
        one("h2 upgrade that is not enabled", "h2", H2Request::upgrade("http://test/chat", "other", "")),
        one("h2 CONNECT terminated", "h2_connect", connect.clone()),
        one("h2 CONNECT forwarded to h1", "h2_connect", connect.clone().field("x-forward", "1"))
            .reply(Reply::early([Step::Send(b"HTTP/1.1 200 OK\r\n\r\n".to_vec()), Step::Echo])),
        one("h2 CONNECT without a route", "h2", connect),
    ]
}
