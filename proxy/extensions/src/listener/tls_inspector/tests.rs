//! ClientHellos against what Envoy 1.40 made of the same bytes.

use super::*;
use crate::testing::{FakeSocket, connection_info, env};
use proptest::prelude::*;
use prost::Message;
use proxy_core::config::BuildEnv;

fn vector(width: usize, content: &[u8]) -> Vec<u8> {
    let length = (content.len() as u32).to_be_bytes();
    [&length[4 - width..], content].concat()
}

fn extension(kind: u16, content: &[u8]) -> Vec<u8> {
    [kind.to_be_bytes().to_vec(), vector(2, content)].concat()
}

fn sni(name: &str) -> Vec<u8> {
    extension(0, &vector(2, &[vec![0], vector(2, name.as_bytes())].concat()))
}

fn alpn(names: &[&str]) -> Vec<u8> {
    extension(16, &vector(2, &names.iter().flat_map(|name| vector(1, name.as_bytes())).collect::<Vec<_>>()))
}

fn padding(length: usize) -> Vec<u8> {
    extension(21, &vec![0; length])
}

/// A handshake message of this `legacy_version` with these extensions.
fn message(version: u16, extensions: &[Vec<u8>]) -> Vec<u8> {
    let body = [
        version.to_be_bytes().to_vec(),
        vec![7; 32],
        vector(1, &[1; 32]),
        vector(2, &[0x13, 1, 0x13, 2]),
        vector(1, &[0]),
        vector(2, &extensions.concat()),
    ];
    [vec![1], vector(3, &body.concat())].concat()
}

/// The message in records of at most `size` bytes.
fn records(message: &[u8], size: usize) -> Vec<u8> {
    message.chunks(size).flat_map(|part| [vec![22, 3, 1], vector(2, part)].concat()).collect()
}

fn hello() -> Vec<u8> {
    records(&message(0x0303, &[sni("Ex.Com"), alpn(&["h2", "http/1.1"])]), 16_384)
}

#[derive(Debug, PartialEq)]
enum Outcome {
    Tls,
    Plain,
    Closed,
    Waiting,
}

fn run(env: &BuildEnv, config: &proto::TlsInspector, data: &[u8]) -> (Outcome, ConnectionInfo) {
    let mut filter = TlsInspector.build(&config.encode_to_vec(), &mut BuildCx::new(env)).unwrap().create();
    let mut info = connection_info();
    let outcome = loop {
        let seen = &data[..filter.max_read_bytes().min(data.len())];
        match filter.on_data(seen, &FakeSocket(None), &mut info) {
            ListenerStep::Close => break Outcome::Closed,
            ListenerStep::NeedData if seen.len() == data.len() => break Outcome::Waiting,
            ListenerStep::NeedData => assert!(filter.max_read_bytes() > seen.len()),
            ListenerStep::Continue { consume } => {
                assert_eq!(consume, 0);
                break if info.transport_protocol == "tls" { Outcome::Tls } else { Outcome::Plain };
            }
        }
    };
    (outcome, info)
}

fn told(data: &[u8]) -> Outcome {
    run(&env(), &proto::TlsInspector::default(), data).0
}

fn reason(info: &ConnectionInfo) -> Option<&str> {
    match &info.metadata.value(NAMESPACE, &["failure_reason".to_owned()])?.kind {
        Some(Kind::StringValue(text)) => Some(text),
        _ => None,
    }
}

#[test]
fn names_and_protocols_are_found_however_the_message_is_cut() {
    let env = env();
    let stats = env.stats.scope("tls_inspector").cells::<TlsInspectorStats>();
    let message = message(0x0303, &[sni("Ex.Com"), alpn(&["h2", "http/1.1"])]);
    for size in [1, 3, 50, 16_384] {
        let (outcome, info) = run(&env, &proto::TlsInspector::default(), &records(&message, size));
        assert_eq!(outcome, Outcome::Tls, "{size}");
        assert_eq!(info.server_name.unwrap(), "ex.com");
        assert_eq!(info.application_protocols, ["h2", "http/1.1"]);
    }
    let stats = stats.here();
    assert_eq!((stats.tls_found.value(), stats.sni_found.value(), stats.alpn_found.value()), (4, 4, 4));
}

#[test]
fn a_client_need_not_say_either() {
    let (outcome, info) = run(&env(), &proto::TlsInspector::default(), &records(&message(0x0301, &[]), 99));
    assert_eq!(outcome, Outcome::Tls);
    assert!(info.server_name.is_none() && info.application_protocols.is_empty());
}

#[test]
fn versions_that_tls_does_not_have_close_the_connection() {
    for version in [0x0200, 0x0300, 0x0305, 0x0909, 0xfefd] {
        let data = records(&message(version, &[sni("a")]), 16_384);
        let (outcome, info) = run(&env(), &proto::TlsInspector::default(), &data);
        assert_eq!((outcome, reason(&info)), (Outcome::Closed, Some("ClientHelloInvalidTlsVersion")));
    }
    for version in 0x0301..=0x0304 {
        assert_eq!(told(&records(&message(version, &[]), 16_384)), Outcome::Tls);
    }
}

#[test]
fn what_is_no_client_hello_passes_as_plain_text_or_is_closed() {
    let whole = hello();
    let mut wrong_version = whole.clone();
    wrong_version[1] = 9;
    let message_of = |kind: u8| records(&[vec![kind], vector(3, b"\0")].concat(), 99);
    let two_names = extension(0, &vector(2, &[vec![0, 0, 1, b'a'], vec![0, 0, 1, b'b']].concat()));
    let strict =
        proto::TlsInspector { close_connection_on_client_hello_parsing_errors: true, ..Default::default() };
    for data in [
        b"GET / HTTP/1.1\r\n\r\n".to_vec(),
        [vec![0x80, 0x2e, 1, 3, 1], vec![0; 60]].concat(),
        vec![21, 3, 1, 0, 2, 2, 40],
        wrong_version,
        [vec![22, 3, 1, 0xff, 0xff], vec![1; 100]].concat(),
        message_of(2),
        records(&[vec![1], vector(3, &[3, 3, 0, 0])].concat(), 99),
        records(&message(0x0303, &[sni("a"), sni("b")]), 16_384),
        records(&message(0x0303, &[two_names]), 16_384),
        records(&message(0x0303, &[sni("a\0b")]), 16_384),
        records(&[message(0x0303, &[]), vec![1]].concat(), 16_384),
        records(&message(0x0303, &[padding(20_000)]), 4096),
        [[22, 3, 1, 0, 0].repeat(40), whole.clone()].concat(),
        [&records(&message(0x0303, &[sni("a")]), 30)[..35], &[21, 3, 1, 0, 2, 2, 40]].concat(),
    ] {
        let (outcome, info) = run(&env(), &proto::TlsInspector::default(), &data);
        assert_eq!((outcome, reason(&info)), (Outcome::Plain, Some("ClientHelloNotDetected")), "{data:?}");
        assert_eq!(run(&env(), &strict, &data).0, Outcome::Closed);
    }
    let after_empty_record = [vec![22, 3, 1, 0, 0], whole.clone()].concat();
    assert_eq!(told(&after_empty_record), Outcome::Tls);
    assert_eq!(told(&whole[..50]), Outcome::Waiting);
    assert_eq!(told(b""), Outcome::Waiting);
}

#[test]
fn a_broken_list_of_protocols_is_the_server_s_business() {
    let broken = extension(16, &vector(2, &[5, b'h']));
    let (outcome, info) =
        run(&env(), &proto::TlsInspector::default(), &records(&message(0x0303, &[broken]), 999));
    assert_eq!(outcome, Outcome::Tls);
    assert!(info.application_protocols.is_empty());
}

#[test]
fn the_limit_counts_every_byte_read() {
    let env = env();
    let stats = env.stats.scope("tls_inspector").cells::<TlsInspectorStats>();
    let limited = proto::TlsInspector { max_client_hello_size: Some(1000), ..Default::default() };
    let (outcome, info) = run(&env, &limited, &records(&message(0x0303, &[padding(2000)]), 16_384));
    assert_eq!((outcome, reason(&info)), (Outcome::Closed, Some("ClientHelloTooLarge")));
    assert_eq!(run(&env, &limited, &hello()).0, Outcome::Tls);
    assert_eq!(stats.here().client_hello_too_large.value(), 1);
    let empty = message(0x0303, &[padding(0)]).len() + 5;
    let exact = |size: usize| records(&message(0x0303, &[padding(size - empty)]), 16_384);
    assert_eq!(told(&exact(16_384)), Outcome::Tls);
    assert_eq!(told(&exact(16_385)), Outcome::Closed);
    // However long it is said to be, and however much of it is there.
    for length in [17_000, 60_000] {
        let data = records(&message(0x0303, &[padding(length)]), 16_384);
        assert_eq!(told(&data[..1400]), Outcome::Waiting);
        assert_eq!(told(&data), Outcome::Closed);
    }
}

#[test]
fn sizes_and_fingerprints_are_checked() {
    let env = env();
    for (config, path) in [
        (
            proto::TlsInspector { max_client_hello_size: Some(255), ..Default::default() },
            "max_client_hello_size",
        ),
        (
            proto::TlsInspector { max_client_hello_size: Some(16_385), ..Default::default() },
            "max_client_hello_size",
        ),
        (
            proto::TlsInspector { initial_read_buffer_size: Some(65_537), ..Default::default() },
            "initial_read_buffer_size",
        ),
        (
            proto::TlsInspector { enable_ja3_fingerprinting: Some(true), ..Default::default() },
            "enable_ja3_fingerprinting",
        ),
    ] {
        let mut cx = BuildCx::new(&env);
        assert!(TlsInspector.build(&config.encode_to_vec(), &mut cx).is_err());
        assert_eq!(cx.into_errors()[0].path, path);
    }
}

proptest! {
    #[test]
    fn no_bytes_panic(start in 0..3usize, data: Vec<u8>) {
        let start = [Vec::new(), vec![22, 3, 1], hello()][start].clone();
        let _ = parse(&[start, data].concat(), LONGEST, &mut Vec::new());
    }

    #[test]
    fn a_changed_byte_never_panics(at in 0..200usize, byte: u8) {
        let mut data = hello();
        let at = at % data.len();
        data[at] = byte;
        let _ = parse(&data, LONGEST, &mut Vec::new());
    }

    #[test]
    fn a_beginning_is_never_taken_for_the_whole(cut in 0..200usize) {
        let data = hello();
        let cut = cut % data.len();
        let mut joined = Vec::new();
        prop_assert_eq!(parse(&data[..cut], LONGEST, &mut joined), Parsed::More);
    }
}
