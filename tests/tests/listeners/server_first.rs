//! Servers that speak first, behind a listener that looks at what clients say.
//!
//! Listener filters wait here for longer than any test does, unless a test is about the end of that.

use std::net::SocketAddr;
use std::time::Duration;

use integration::client::{Client, End};
use integration::config::{cluster, fill, port};
use integration::expect::{SOON, eventually, within};
use integration::ports::Refusing;
use integration::process::Proxy;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::filters::{client_hello, http_inspector, proxy_protocol, tls_inspector, with_filters};
use crate::{chain, expect_log, expect_stat, filter, listener, says, start};

const SMTP: &[u8] = b"220 mail.example ESMTP\r\n";
/// A handshake of MySQL: length, sequence, protocol 10, version, connection, challenge, capabilities.
const MYSQL: &[u8] = b"\x4a\0\0\0\x0a8.0.36\0\x08\0\0\0abcdefgh\0\xff\xf7\xff\x02\0\xff\xdf\x15\0\0\0\0\0\0\0\0\0\0abcdefghijkl\0";
const GET: &[u8] = b"GET / HTTP/1.0\r\n\r\n";

/// A listener that looks for TLS and HTTP: HTTP is answered `http`, all else goes to the cluster of that name, through `policies`.
fn sniffing(name: &str, policies: &str, fields: &str) -> String {
    let chains = chain("http", "{application_protocols: [http/1.0]}", &says("http"))
        + &chain("rest", "{}", &(policies.to_owned() + &tcp_proxy(name)));
    listener(name, &format!("{fields}\n{}", with_filters(&(tls_inspector() + &http_inspector()))), &chains)
}

fn tcp_proxy(name: &str) -> String {
    filter("network.tcp_proxy", "TcpProxy", &format!(", stat_prefix: {name}, cluster: {name}"))
}

const PATIENT: &str = "listener_filters_timeout: 60s\ncontinue_on_listener_filters_timeout: true";
const IMPATIENT: &str = "listener_filters_timeout: 0.3s\ncontinue_on_listener_filters_timeout: true";

/// The proxy with one listener, and a cluster of its name with a host at `addr`.
async fn proxy(listener: String, name: &str, addr: SocketAddr, fields: &str) -> Proxy {
    let cluster = fill(&cluster(name, name, fields), [(name, port(addr))]);
    start(&[listener], &[cluster], "", &[]).await.unwrap()
}

async fn by_hand() -> (TcpListener, SocketAddr) {
    let upstream = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = upstream.local_addr().unwrap();
    (upstream, addr)
}

async fn accept(upstream: &TcpListener) -> TcpStream {
    within("a connection at the upstream", SOON, upstream.accept()).await.unwrap().unwrap().0
}

/// A client that says nothing, and the connection that was made for it.
async fn silent(proxy: &Proxy, name: &str, upstream: &TcpListener) -> (Client, TcpStream) {
    let client = Client::connect(proxy.listener(name).unwrap()).await.unwrap();
    (client, accept(upstream).await)
}

async fn expect_stats(proxy: &Proxy, stats: &[(&str, i64)]) {
    for (name, value) in stats {
        expect_stat(proxy, name, *value).await.unwrap();
    }
}

async fn expect_end(server: &mut TcpStream) {
    let mut seen = Vec::new();
    within("the end", SOON, server.read_to_end(&mut seen)).await.unwrap().unwrap();
    assert_eq!(seen, b"", "nothing is said on a connection that is not used");
}

#[tokio::test]
async fn a_greeting_reaches_a_silent_client() {
    let (upstream, addr) = by_hand().await;
    let proxy = proxy(sniffing("mail", "", PATIENT), "mail", addr, "").await;
    for (count, greeting) in (1..).zip([SMTP, MYSQL]) {
        let (mut client, mut server) = silent(&proxy, "mail", &upstream).await;
        expect_stats(
            &proxy,
            &[("listener.mail.downstream_pre_cx_active", 1), ("tcp.mail.downstream_cx_total", count - 1)],
        )
        .await;
        server.write_all(greeting).await.unwrap();
        assert_eq!(client.at_least(greeting.len(), SOON).await.unwrap(), greeting);
        client.send(b"EHLO me\r\n").await.unwrap();
        let mut said = [0; 9];
        server.read_exact(&mut said).await.unwrap();
        assert_eq!(&said, b"EHLO me\r\n");
        server.write_all(b"250 ok\r\n").await.unwrap();
        assert_eq!(client.at_least(8, SOON).await.unwrap(), b"250 ok\r\n");
        drop(server);
        assert_eq!(client.end_within(SOON).await, End::Closed);
        drop(client);
        let sent = (greeting.len() + 8).to_string();
        let expected = [
            ("rx", "9"),
            ("tx", sent.as_str()),
            ("chain", "rest"),
            ("cluster", "mail"),
            ("flags", "-"),
            ("attempts", "1"),
        ];
        expect_log(&proxy, "mail", usize::try_from(count).unwrap(), &expected).await.unwrap();
    }
    expect_stats(
        &proxy,
        &[
            ("listener.mail.downstream_pre_cx_active", 0),
            ("listener.mail.downstream_pre_cx_timeout", 0),
            ("listener.mail.downstream_cx_total", 2),
            ("tcp.mail.downstream_cx_total", 2),
            ("cluster.mail.upstream_cx_total", 2),
            ("cluster.mail.upstream_cx_active", 0),
            ("cluster.mail.upstream_cx_destroy_local", 2),
            ("cluster.mail.upstream_rq_total", 2),
            ("tls_inspector.tls_not_found", 0),
        ],
    )
    .await;
}

#[tokio::test]
async fn who_speaks_first_has_one_connection() {
    let (upstream, addr) = by_hand().await;
    let proxy = proxy(sniffing("raw", "", PATIENT), "raw", addr, "").await;
    // at once, and after the connection to the host was made
    for is_late in [false, true] {
        let mut client = Client::connect(proxy.listener("raw").unwrap()).await.unwrap();
        let mut early = None;
        if is_late {
            early = Some(accept(&upstream).await);
        }
        client.send(b"hello\n").await.unwrap();
        let mut server = match early {
            Some(server) => server,
            None => accept(&upstream).await,
        };
        let mut said = [0; 6];
        server.read_exact(&mut said).await.unwrap();
        assert_eq!(&said, b"hello\n");
    }
    expect_stats(&proxy, &[("cluster.raw.upstream_cx_total", 2), ("tls_inspector.tls_not_found", 2)]).await;
}

#[tokio::test]
async fn what_inspectors_find_is_known_of_the_connection_that_was_made() {
    let (upstream, addr) = by_hand().await;
    let proxy = proxy(sniffing("tls", "", PATIENT), "tls", addr, "").await;
    let (mut client, mut server) = silent(&proxy, "tls", &upstream).await;
    let hello = client_hello();
    client.send(&hello).await.unwrap();
    let mut said = vec![0; hello.len()];
    within("the hello", SOON, server.read_exact(&mut said)).await.unwrap().unwrap();
    assert_eq!(said, hello);
    drop((client, server));
    expect_log(&proxy, "tls", 1, &[("sni", "www.a.test"), ("chain", "rest")]).await.unwrap();
    expect_stat(&proxy, "cluster.tls.upstream_cx_total", 1).await.unwrap();
}

#[tokio::test]
async fn who_is_for_another_chain_leaves_the_host_alone() {
    let (upstream, addr) = by_hand().await;
    let proxy = proxy(sniffing("other", "", PATIENT), "other", addr, "").await;
    let (mut client, mut server) = silent(&proxy, "other", &upstream).await;
    client.send(GET).await.unwrap();
    assert_eq!(client.rest(SOON).await, (b"http".to_vec(), End::Closed));
    expect_end(&mut server).await;
    // the first word decides, although nobody knows yet what it is
    let (mut client, mut server) = silent(&proxy, "other", &upstream).await;
    client.send(&GET[..2]).await.unwrap();
    expect_stat(&proxy, "tls_inspector.tls_not_found", 2).await.unwrap();
    server.write_all(SMTP).await.unwrap();
    client.send(&GET[2..]).await.unwrap();
    assert_eq!(client.rest(SOON).await, (b"http".to_vec(), End::Closed));
    drop(server);
    expect_log(&proxy, "other", 2, &[("chain", "http"), ("cluster", "-")]).await.unwrap();
    expect_stats(
        &proxy,
        &[
            ("tcp.other.downstream_cx_total", 0),
            ("cluster.other.upstream_cx_total", 2),
            ("cluster.other.upstream_cx_active", 0),
            ("cluster.other.upstream_cx_destroy_local", 2),
            ("cluster.other.upstream_rq_total", 0),
        ],
    )
    .await;
}

#[tokio::test]
async fn a_client_that_leaves_takes_the_connection_along() {
    let (upstream, addr) = by_hand().await;
    let proxy = proxy(sniffing("left", "", PATIENT), "left", addr, "").await;
    let (client, mut server) = silent(&proxy, "left", &upstream).await;
    drop(client);
    expect_end(&mut server).await;
    expect_stats(
        &proxy,
        &[
            ("listener.left.downstream_listener_filter_remote_close", 1),
            ("cluster.left.upstream_cx_active", 0),
        ],
    )
    .await;
}

#[tokio::test]
async fn a_host_that_refuses_decides_nothing() {
    let refusing = Refusing::new().unwrap();
    let proxy = proxy(sniffing("refused", "", PATIENT), "refused", refusing.addr(), "").await;
    for (count, say) in (1..).zip([GET, b"hello\n"]) {
        let mut client = Client::connect(proxy.listener("refused").unwrap()).await.unwrap();
        expect_stat(&proxy, "cluster.refused.upstream_cx_connect_fail", count).await.unwrap();
        expect_stat(&proxy, "listener.refused.downstream_pre_cx_active", 1).await.unwrap();
        client.send(say).await.unwrap();
        let answer: &[u8] = if say == GET { b"http" } else { b"" };
        assert_eq!(client.rest(SOON).await.0, answer);
    }
    let expected = [("flags", "UF,URX"), ("attempts", "1"), ("chain", "rest")];
    expect_log(&proxy, "refused", 2, &expected).await.unwrap();
}

#[tokio::test]
async fn a_host_that_hangs_up_without_a_word_decides_nothing() {
    let (upstream, addr) = by_hand().await;
    let proxy = proxy(sniffing("mute", "", PATIENT), "mute", addr, "").await;
    let (mut client, server) = silent(&proxy, "mute", &upstream).await;
    drop(server);
    expect_stat(&proxy, "cluster.mute.upstream_cx_destroy_remote", 1).await.unwrap();
    client.send(b"hello\n").await.unwrap();
    let mut server = accept(&upstream).await;
    let mut said = [0; 6];
    server.read_exact(&mut said).await.unwrap();
    assert_eq!(&said, b"hello\n");
    server.write_all(b"you\n").await.unwrap();
    assert_eq!(client.at_least(4, SOON).await.unwrap(), b"you\n");
}

#[tokio::test]
async fn when_nobody_speaks_the_connection_goes_on_at_the_timeout() {
    let (upstream, addr) = by_hand().await;
    let proxy = proxy(sniffing("quiet", "", IMPATIENT), "quiet", addr, "").await;
    let (mut client, mut server) = silent(&proxy, "quiet", &upstream).await;
    expect_stats(
        &proxy,
        &[("listener.quiet.downstream_pre_cx_timeout", 1), ("tcp.quiet.downstream_cx_total", 1)],
    )
    .await;
    server.write_all(SMTP).await.unwrap();
    assert_eq!(client.at_least(SMTP.len(), SOON).await.unwrap(), SMTP);
    expect_stat(&proxy, "cluster.quiet.upstream_cx_total", 1).await.unwrap();
}

/// Where something else becomes of silence, or it is not known what, no host is sought.
#[tokio::test]
async fn where_silence_means_something_else_no_host_is_sought() {
    let (_upstream, addr) = by_hand().await;
    let inspectors = || tls_inspector() + &http_inspector();
    let of = |name: &str, fields: &str, filters: String, chains: &str| {
        listener(
            name,
            &format!("listener_filters_timeout: 0.3s\n{fields}\n{}", with_filters(&filters)),
            chains,
        )
    };
    let goes_on = "continue_on_listener_filters_timeout: true";
    let raw = chain("raw", "{}", &tcp_proxy("up"));
    let tls = chain("tls", "{transport_protocol: tls}", &tcp_proxy("up"));
    let listeners = [
        of("closes", "", inspectors(), &raw),
        of("no_chain", goes_on, inspectors(), &tls),
        of("no_upstream", goes_on, inspectors(), &chain("raw", "{}", &says("bye"))),
    ];
    let up = fill(&cluster("up", "up", ""), [("up", port(addr))]);
    let proxy = start(&listeners, &[up], "", &[]).await.unwrap();
    for (name, answer) in [("closes", ""), ("no_chain", ""), ("no_upstream", "bye")] {
        let mut client = Client::connect(proxy.listener(name).unwrap()).await.unwrap();
        assert_eq!(client.rest(SOON).await, (answer.as_bytes().to_vec(), End::Closed), "{name}");
        expect_stat(&proxy, &format!("listener.{name}.downstream_pre_cx_timeout"), 1).await.unwrap();
    }
    expect_stat(&proxy, "cluster.up.upstream_cx_total", 0).await.unwrap();
}

/// A filter that takes bytes for itself may change where the connection goes, or what is its first word.
#[tokio::test]
async fn a_header_of_the_proxy_protocol_is_waited_for() {
    let (upstream, addr) = by_hand().await;
    let filters = with_filters(&(proxy_protocol("") + &http_inspector()));
    let chains = chain("rest", "{}", &tcp_proxy("behind"));
    let behind = listener("behind", &format!("{PATIENT}\n{filters}"), &chains);
    let proxy = proxy(behind, "behind", addr, "").await;
    let mut client = Client::connect(proxy.listener("behind").unwrap()).await.unwrap();
    let mut early = Box::pin(upstream.accept());
    let too_early = tokio::time::timeout(Duration::from_millis(300), &mut early).await;
    assert!(too_early.is_err(), "a host was sought for a client nobody knows");
    client.send(b"PROXY TCP4 1.2.3.4 5.6.7.8 1000 2000\r\n").await.unwrap();
    let (mut server, _) = within("a connection at the upstream", SOON, early).await.unwrap().unwrap();
    server.write_all(SMTP).await.unwrap();
    assert_eq!(client.at_least(SMTP.len(), SOON).await.unwrap(), SMTP);
    drop((client, server));
    expect_log(&proxy, "behind", 1, &[("remote", "1.2.3.4:1000")]).await.unwrap();
}

/// Filters that take something by looking look at no connection that may be for another chain.
#[tokio::test]
async fn nothing_is_taken_for_connections_of_other_chains() {
    let (upstream, addr) = by_hand().await;
    let limit = filter(
        "network.local_ratelimit",
        "LocalRateLimit",
        ", stat_prefix: l, token_bucket: {max_tokens: 1, fill_interval: 3600s}",
    );
    let patience = "listener_filters_timeout: 2s\ncontinue_on_listener_filters_timeout: true";
    let proxy = proxy(sniffing("taken", &limit, patience), "taken", addr, "").await;
    let mut other = Client::connect(proxy.listener("taken").unwrap()).await.unwrap();
    // long enough for a host to be sought, where one is
    tokio::time::sleep(Duration::from_millis(200)).await;
    other.send(GET).await.unwrap();
    assert_eq!(other.rest(SOON).await.0, b"http");
    let (mut client, mut server) = silent(&proxy, "taken", &upstream).await;
    server.write_all(SMTP).await.unwrap();
    assert_eq!(client.at_least(SMTP.len(), SOON).await.unwrap(), SMTP);
    expect_stat(&proxy, "local_rate_limit.l.rate_limited", 0).await.unwrap();
}

/// Who may not connect is not the reason for a connection; policies are asked once.
#[tokio::test]
async fn policies_are_asked_before_a_host_is_sought() {
    let (upstream, addr) = by_hand().await;
    let limit = filter(
        "network.local_ratelimit",
        "LocalRateLimit",
        ", stat_prefix: l, token_bucket: {max_tokens: 1, fill_interval: 3600s}",
    );
    let proxy = proxy(sniffing("limited", &limit, IMPATIENT), "limited", addr, "").await;
    let (mut client, mut server) = silent(&proxy, "limited", &upstream).await;
    server.write_all(SMTP).await.unwrap();
    assert_eq!(client.at_least(SMTP.len(), SOON).await.unwrap(), SMTP);
    let mut denied = Client::connect(proxy.listener("limited").unwrap()).await.unwrap();
    assert_eq!(denied.rest(SOON).await, (Vec::new(), End::Closed));
    expect_log(&proxy, "limited", 1, &[("closed", "local_ratelimit_close_over_limit"), ("cluster", "-")])
        .await
        .unwrap();
    expect_stats(&proxy, &[("local_rate_limit.l.rate_limited", 1), ("cluster.limited.upstream_cx_total", 1)])
        .await;
}

#[tokio::test]
async fn breakers_hold_for_silent_clients_too() {
    let (upstream, addr) = by_hand().await;
    let breakers = "circuit_breakers: {thresholds: [{max_connections: 1}]}\n";
    let proxy = proxy(sniffing("full", "", PATIENT), "full", addr, breakers).await;
    let (mut first, mut server) = silent(&proxy, "full", &upstream).await;
    let mut second = Client::connect(proxy.listener("full").unwrap()).await.unwrap();
    expect_stat(&proxy, "cluster.full.upstream_cx_overflow", 1).await.unwrap();
    server.write_all(SMTP).await.unwrap();
    assert_eq!(first.at_least(SMTP.len(), SOON).await.unwrap(), SMTP);
    // nothing is decided about the second
    expect_stat(&proxy, "listener.full.downstream_pre_cx_active", 1).await.unwrap();
    drop((first, server));
    expect_stat(&proxy, "cluster.full.upstream_cx_active", 0).await.unwrap();
    second.send(b"hello\n").await.unwrap();
    let mut said = [0; 6];
    accept(&upstream).await.read_exact(&mut said).await.unwrap();
    assert_eq!(&said, b"hello\n");
}

#[tokio::test]
async fn a_listener_that_stopped_still_greets_who_it_accepted() {
    let (upstream, addr) = by_hand().await;
    let proxy = proxy(sniffing("drained", "", PATIENT), "drained", addr, "").await;
    let (mut client, mut server) = silent(&proxy, "drained", &upstream).await;
    let at = proxy.listener("drained").unwrap();
    assert_eq!(proxy.admin().request("POST", "/drain_listeners").await.unwrap().status, 200);
    eventually("a closed port", SOON, async || TcpStream::connect(at).await.is_err().then_some(()))
        .await
        .unwrap();
    server.write_all(SMTP).await.unwrap();
    assert_eq!(client.at_least(SMTP.len(), SOON).await.unwrap(), SMTP);
}
