//! Upgrades and CONNECT.

use integration::config::HttpListener;
use integration::differential::{Case, Do, Setup};
use integration::upstream::{Reply, Step};

const ROUTES: &str = r#"
- match: {prefix: /disabled}
  route: {cluster: up, upgrade_configs: [{upgrade_type: websocket, enabled: false}]}
- match: {prefix: /}
  route: {cluster: up}
"#;

const CONNECT: &str = r#"
- match: {connect_matcher: {}, headers: [{name: x-forward, present_match: true}]}
  route: {cluster: up, upgrade_configs: [{upgrade_type: CONNECT}]}
- match: {connect_matcher: {}}
  route: {cluster: echo, upgrade_configs: [{upgrade_type: CONNECT, connect_config: {}}]}
- match: {prefix: /}
  route: {cluster: up}
"#;

pub(crate) fn setup() -> Setup {
    Setup::new(
        "tunnels",
        [
            HttpListener::new("plain", ROUTES).yaml(),
            HttpListener::new("websocket", ROUTES)
                .options("upgrade_configs: [{upgrade_type: websocket}]")
                .yaml(),
            HttpListener::new("connect", CONNECT).yaml(),
        ],
    )
}

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
    ]
}
