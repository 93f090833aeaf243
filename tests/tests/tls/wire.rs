//! What comes over the wire in pieces, too much of it, too little, or nothing of sense; and much of what makes sense.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use integration::client::{Client, End};
use integration::config::{HttpListener, bootstrap, cluster, fill, listener_with_filters, port, tcp_proxy};
use integration::expect::{SOON, eventually};
use integration::process::{Binary, Proxy};
use integration::tls::{Authority, ClientOptions, Wanted, converse, downstream, talk};
use integration::upstream::EchoServer;
use rustls::ClientConnection;
use rustls::pki_types::ServerName;

use crate::{GET, both, start};

fn transport() -> String {
    let server = Authority::new("root").unwrap().issue(&Wanted::default()).unwrap();
    downstream(&format!("tls_certificates: [{}]\nalpn_protocols: [h2, http/1.1]", server.inline()), "")
}

fn session() -> ClientConnection {
    let config = ClientOptions::default().config().unwrap();
    ClientConnection::new(config, ServerName::try_from("a.test").unwrap()).unwrap()
}

/// What a client says first.
fn hello() -> Vec<u8> {
    let mut bytes = Vec::new();
    session().write_tls(&mut bytes).unwrap();
    bytes
}

#[tokio::test(flavor = "multi_thread")]
async fn nonsense_ends_its_connection_and_nothing_else() {
    let listener = HttpListener::to_up("l").chain(&transport()).listener("stat_prefix: l").yaml();
    let (proxy, _upstream) = start(&Binary::subject().unwrap(), &[listener]).await;
    let addr = proxy.listener("l").unwrap();
    let hello = hello();
    let mut random = 7_u64;
    let mut noise = || {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        random.to_be_bytes()[0]
    };
    let mut garbled = hello.clone();
    garbled[40..].fill_with(&mut noise);
    let endless: Vec<u8> = [&[22, 3, 1, 0x40, 0, 1, 0xff, 0xff, 0xff][..], &[0; 80_000]].concat();
    let cases: Vec<(&str, Vec<u8>)> = vec![
        ("plain HTTP", GET.as_bytes().to_vec()),
        ("noise", (0..4000).map(|_| noise()).collect()),
        ("a garbled hello", garbled),
        ("a record that is too long", [&[22, 3, 1, 0xff, 0xff][..], &[1; 70_000]].concat()),
        ("a message without end", endless),
        ("an alert", vec![21, 3, 1, 0, 2, 2, 40]),
        ("data before the handshake", [&[23, 3, 3, 0, 16][..], &[0; 16]].concat()),
        ("empty records", [22, 3, 1, 0, 0].repeat(10_000)),
    ];
    for (name, bytes) in &cases {
        let mut client = Client::connect(addr).await.unwrap();
        client.send(bytes).await.unwrap();
        assert_ne!(client.end_within(SOON).await, End::Open, "{name}");
    }
    // Cut off at every place.
    for length in (0..hello.len()).step_by(7) {
        let mut client = Client::connect(addr).await.unwrap();
        client.send(&hello[..length]).await.unwrap();
        client.half_close().await.unwrap();
        assert_ne!(client.end_within(SOON).await, End::Open, "{length} octets of a hello");
    }
    let outcome = converse(addr, &ClientOptions::default(), GET, "").await.unwrap();
    assert!(outcome.answer.starts_with("HTTP/1.1 200"), "{outcome:?}");
    let errors = proxy.admin().stat("listener.l.ssl.connection_error").await.unwrap();
    assert!(errors >= i64::try_from(cases.len()).unwrap() - 1, "{errors}");
    assert!(!proxy.log().contains("panicked"), "{}", proxy.log());
    eventually("all connections to end", SOON, async || {
        (proxy.admin().stat("listener.l.downstream_cx_active").await.ok()? == 0).then_some(())
    })
    .await
    .unwrap();
}

/// What a client says first, with so many octets in it, in records of such a length.
fn padded(length: usize, record: usize) -> Vec<u8> {
    let mut body = hello().split_off(9);
    // Version, random, session, suites, compressions.
    let mut at = 34 + 1 + usize::from(body[34]);
    at += 2 + usize::from(u16::from_be_bytes([body[at], body[at + 1]]));
    at += 1 + usize::from(body[at]);
    let padding = u16::try_from(length - body.len() - 4).unwrap();
    body.extend([&[0, 21][..], &padding.to_be_bytes(), &vec![0; padding.into()]].concat());
    let extensions = u16::try_from(body.len() - at - 2).unwrap();
    body[at..at + 2].copy_from_slice(&extensions.to_be_bytes());
    let head = u32::try_from(body.len()).unwrap() | 1 << 24;
    let message = [&head.to_be_bytes()[..], &body].concat();
    let in_record =
        |part: &[u8]| [&[22, 3, 1][..], &u16::try_from(part.len()).unwrap().to_be_bytes(), part].concat();
    message.chunks(record).flat_map(in_record).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hello_is_no_longer_than_it_may_be() {
    for binary in both() {
        let listener = HttpListener::to_up("l").chain(&transport()).listener("stat_prefix: l").yaml();
        let (proxy, _upstream) = start(&binary, &[listener]).await;
        let addr = proxy.listener("l").unwrap();
        for record in [16 << 10, 1000, 3] {
            let mut client = Client::connect(addr).await.unwrap();
            client.send(&padded(16 << 10, record)).await.unwrap();
            assert_eq!(client.at_least(1, SOON).await.unwrap()[0], 22, "records of {record}");
            let mut client = Client::connect(addr).await.unwrap();
            client.send(&padded((16 << 10) + 1, record)).await.unwrap();
            assert_eq!(client.rest(SOON).await.0, [21, 3, 1, 0, 2, 2, 47], "records of {record}");
        }
        let errors = proxy.admin().stat("listener.l.ssl.connection_error").await.unwrap();
        assert_eq!(errors, 3);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_handshake_has_a_deadline() {
    let chain = format!("transport_socket_connect_timeout: 0.2s\n{}", transport());
    let listener = HttpListener::to_up("l").chain(&chain).listener("stat_prefix: l").yaml();
    let (proxy, _upstream) = start(&Binary::subject().unwrap(), &[listener]).await;
    let mut silent = Client::connect(proxy.listener("l").unwrap()).await.unwrap();
    assert_ne!(silent.end_within(SOON).await, End::Open);
    let late = proxy.admin().stat("listener.l.downstream_cx_transport_socket_connect_timeout").await.unwrap();
    assert_eq!(late, 1);
}

/// Says a handshake octet by octet, then asks.
fn whisper(addr: SocketAddr) -> String {
    let mut socket = TcpStream::connect(addr).unwrap();
    socket.set_nodelay(true).unwrap();
    socket.set_read_timeout(Some(SOON)).unwrap();
    let mut session = session();
    session.writer().write_all(GET.as_bytes()).unwrap();
    loop {
        let mut out = Vec::new();
        while session.wants_write() {
            session.write_tls(&mut out).unwrap();
        }
        for octet in out {
            socket.write_all(&[octet]).unwrap();
        }
        let mut answer = String::new();
        match session.reader().read_to_string(&mut answer) {
            Ok(_) => return answer,
            Err(_) if answer.contains("200 OK") => return answer,
            Err(_) => {}
        }
        assert_ne!(session.read_tls(&mut socket).unwrap(), 0);
        session.process_new_packets().unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_handshake_may_come_octet_by_octet_and_be_resumed() {
    let listener = HttpListener::to_up("l").chain(&transport()).listener("stat_prefix: l").yaml();
    let (proxy, _upstream) = start(&Binary::subject().unwrap(), &[listener]).await;
    let addr = proxy.listener("l").unwrap();
    let answer = tokio::task::spawn_blocking(move || whisper(addr)).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    for versions in [vec![&rustls::version::TLS12], vec![&rustls::version::TLS13]] {
        let config = ClientOptions { versions, ..ClientOptions::default() }.config().unwrap();
        let twice = move || {
            let ask = || talk(addr, &config, "a.test", GET.as_bytes(), "").unwrap();
            (ask(), ask())
        };
        let (first, second) = tokio::task::spawn_blocking(twice).await.unwrap();
        assert!(!first.resumed && second.resumed, "{first:?}\n{second:?}");
        assert!(second.answer.starts_with("HTTP/1.1 200"));
    }
    assert_eq!(proxy.admin().stat("listener.l.ssl.session_reused").await.unwrap(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn bytes_pass_whole_through_tcp_proxy() {
    let echo = EchoServer::start().await.unwrap();
    let listener = listener_with_filters("tcp", &tcp_proxy("tcp", "cluster: echo"))
        + &integration::config::indent(&transport(), 4);
    let cluster = fill(&cluster("echo", "echo", ""), [("echo", port(echo.server().addr()))]);
    let proxy =
        Proxy::start(&Binary::subject().unwrap(), &bootstrap(&[listener], &[cluster], "")).await.unwrap();
    let addr = proxy.listener("tcp").unwrap();
    let exchange = move || {
        let socket = TcpStream::connect(addr).unwrap();
        socket.set_read_timeout(Some(SOON + Duration::from_secs(20))).unwrap();
        let mut stream = rustls::StreamOwned::new(session(), socket);
        for round in 0..60_u32 {
            // More than one record, and more than one receive.
            let sent: Vec<u8> =
                (0..50_000_u32).map(|index| (index.wrapping_mul(round + 7) >> 3) as u8).collect();
            stream.write_all(&sent).unwrap();
            let mut received = vec![0; sent.len()];
            stream.read_exact(&mut received).unwrap();
            assert!(received == sent, "round {round}");
        }
        stream.conn.send_close_notify();
        stream.flush().unwrap();
        stream.read(&mut [0]).unwrap()
    };
    assert_eq!(tokio::task::spawn_blocking(exchange).await.unwrap(), 0);
}

/// The end of the handshake, what there is to say, and goodbye, all at once: it is heard and answered.
fn hurry(addr: SocketAddr) -> String {
    let (mut session, mut socket) = (session(), TcpStream::connect(addr).unwrap());
    socket.set_read_timeout(Some(SOON)).unwrap();
    while session.is_handshaking() {
        if session.wants_write() {
            session.write_tls(&mut socket).unwrap();
            continue;
        }
        session.read_tls(&mut socket).unwrap();
        session.process_new_packets().unwrap();
    }
    session.writer().write_all(b"words").unwrap();
    session.send_close_notify();
    let mut all = Vec::new();
    while session.wants_write() {
        session.write_tls(&mut all).unwrap();
    }
    socket.write_all(&all).unwrap();
    socket.shutdown(std::net::Shutdown::Write).unwrap();
    let mut answer = String::new();
    rustls::Stream::new(&mut session, &mut socket).read_to_string(&mut answer).unwrap();
    answer
}

#[tokio::test(flavor = "multi_thread")]
async fn words_and_goodbye_may_come_with_the_end_of_the_handshake() {
    let echo = EchoServer::start().await.unwrap();
    let tcp = listener_with_filters("l", &tcp_proxy("l", "cluster: up"));
    let listener = format!("{tcp}{}", integration::config::indent(&transport(), 4));
    let up = fill(&cluster("up", "up", ""), [("up", port(echo.server().addr()))]);
    let proxy = Proxy::start(&Binary::subject().unwrap(), &bootstrap(&[listener], &[up], "")).await.unwrap();
    let addr = proxy.listener("l").unwrap();
    let answer = tokio::task::spawn_blocking(move || hurry(addr)).await.unwrap();
    assert_eq!(answer, "words");
    proxy.stop().await.unwrap();
}
