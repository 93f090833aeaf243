//! PROXY protocol headers against what Envoy 1.40 made of the same bytes.

use super::rules::{DEFAULT_NAMESPACE, base64};
use super::*;
use crate::testing::{FakeSocket, address, connection_info, env};
use proptest::prelude::*;
use prost::Message;
use prost_types::value::Kind;
use proxy_core::config::BuildEnv;
use xds_api::envoy::extensions::filters::listener::proxy_protocol::v3::proxy_protocol::key_value_pair::ValueStringEncoding;

const ADDRESSES: [u8; 12] = [1, 2, 3, 4, 5, 6, 7, 8, 4, 87, 8, 174];

fn v2(command: u8, family: u8, body: &[u8]) -> Vec<u8> {
    let mut header = V2_SIGNATURE.to_vec();
    header.extend([0x20 | command, family]);
    header.extend(u16::try_from(body.len()).unwrap().to_be_bytes());
    header.extend(body);
    header
}

fn tlv(kind: u8, value: &[u8]) -> Vec<u8> {
    let mut all = vec![kind];
    all.extend(u16::try_from(value.len()).unwrap().to_be_bytes());
    all.extend(value);
    all
}

fn v1(line: &str) -> Vec<u8> {
    format!("PROXY {line}\r\nhi").into_bytes()
}

/// What came of a connection: closed, or the bytes left and the addresses.
#[derive(Debug, PartialEq)]
enum Outcome {
    Closed,
    Waiting,
    Passed { consumed: usize, remote: String, local: String },
}

fn run(env: &BuildEnv, config: &proto::ProxyProtocol, data: &[u8]) -> (Outcome, ConnectionInfo) {
    let built = ProxyProtocol.build(&config.encode_to_vec(), &mut BuildCx::new(env)).unwrap();
    let mut filter = built.create();
    let mut info = connection_info();
    let outcome = loop {
        let seen = &data[..filter.max_read_bytes().min(data.len())];
        match filter.on_data(seen, &FakeSocket(None), &mut info) {
            ListenerStep::Close => break Outcome::Closed,
            ListenerStep::NeedData if seen.len() == data.len() => break Outcome::Waiting,
            ListenerStep::NeedData => assert!(filter.max_read_bytes() > seen.len()),
            ListenerStep::Continue { consume } => {
                let (remote, local) = (info.remote.to_string(), info.local.to_string());
                break Outcome::Passed { consumed: consume, remote, local };
            }
        }
    };
    (outcome, info)
}

fn told(data: &[u8], config: &proto::ProxyProtocol) -> Outcome {
    run(&env(), config, data).0
}

fn passed(data: &[u8], remote: &str, local: &str) -> Outcome {
    Outcome::Passed { consumed: data.len() - 2, remote: remote.to_owned(), local: local.to_owned() }
}

const OWN: (&str, &str) = ("10.0.0.1:1000", "10.0.0.2:80");

#[test]
fn version_1() {
    let config = proto::ProxyProtocol::default();
    for (line, remote, local) in [
        ("TCP4 1.2.3.4 5.6.7.8 1111 2222", "1.2.3.4:1111", "5.6.7.8:2222"),
        ("TCP6 1::2 3::4 1111 2222", "[1::2]:1111", "[3::4]:2222"),
        ("TCP4 1.2.3.4 5.6.7.8 01 1", "1.2.3.4:1", "5.6.7.8:1"),
        ("TCP4 1.2.3.4 5.6.7.8 0 0", "1.2.3.4:0", "5.6.7.8:0"),
        ("UNKNOWN", OWN.0, OWN.1),
        ("UNKNOWN a b c d", OWN.0, OWN.1),
    ] {
        let data = v1(line);
        assert_eq!(told(&data, &config), passed(&data, remote, local), "{line}");
    }
    for line in [
        "TCP4 1.2.3.4 5.6.7.8 1111",
        "TCP4 1.2.3.4 5.6.7.8 99999 1",
        "TCP4 1.2.3.4 5.6.7.8 +1 1",
        "TCP4 1::2 5.6.7.8 1 1",
        "TCP5 1.2.3.4 5.6.7.8 1 1",
        "TCP4 1.2.3.4 5.6.7.8 1 1 x",
        "TCP4  1.2.3.4 5.6.7.8 1 1",
        "TCP4 255.255.255.255 5.6.7.8 1 1",
        "TCP4 224.0.0.1 5.6.7.8 1 1",
        "TCP4 0.0.0.0 5.6.7.8 1 1",
    ] {
        assert_eq!(told(&v1(line), &config), Outcome::Closed, "{line}");
    }
    assert_eq!(told(b"PROXY TCP4 1.2.3.4 5.6.7.8 1 1\nhi", &config), Outcome::Waiting);
    assert_eq!(told(&[b"PROXY TCP4 ".as_slice(), &[b'1'; 200]].concat(), &config), Outcome::Closed);
}

#[test]
fn version_2() {
    let config = proto::ProxyProtocol::default();
    let with = |header: Vec<u8>| [header, b"hi".to_vec()].concat();
    let v6 = [[0; 15].as_slice(), &[1], &[0; 15], &[2], &[0, 1, 0, 2]].concat();
    let long = [ADDRESSES.to_vec(), tlv(9, &[b'x'; 65_000])].concat();
    for (data, remote, local) in [
        (with(v2(1, 0x11, &ADDRESSES)), "1.2.3.4:1111", "5.6.7.8:2222"),
        (with(v2(1, 0x12, &ADDRESSES)), "1.2.3.4:1111", "5.6.7.8:2222"),
        (with(v2(1, 0x21, &v6)), "[::1]:1", "[::2]:2"),
        (with(v2(1, 0x11, &long)), "1.2.3.4:1111", "5.6.7.8:2222"),
        (with(v2(0, 0, b"")), OWN.0, OWN.1),
        (with(v2(0, 0x11, &ADDRESSES)), OWN.0, OWN.1),
    ] {
        assert_eq!(told(&data, &config), passed(&data, remote, local));
    }
    let mut wrong_version = v2(1, 0x11, &ADDRESSES);
    wrong_version[12] = 0x31;
    for data in [
        with(v2(1, 0, b"xxxx")),
        with(v2(5, 0x11, &ADDRESSES)),
        with(v2(1, 0x31, &[0; 216])),
        with(v2(1, 0x11, &ADDRESSES[..8])),
        with(wrong_version),
    ] {
        assert_eq!(told(&data, &config), Outcome::Closed);
    }
    assert_eq!(told(&v2(1, 0x11, &ADDRESSES)[..20], &config), Outcome::Waiting);
}

#[test]
fn a_missing_header_is_refused_unless_allowed() {
    let refusing = proto::ProxyProtocol::default();
    let allowing = proto::ProxyProtocol { allow_requests_without_proxy_protocol: true, ..Default::default() };
    for data in
        [&b"hello"[..], b"PROXz", b"PROXYxabc", b"\r\n\r\n\0zz", b"proxy TCP4 1.2.3.4 5.6.7.8 1 1\r\n"]
    {
        assert_eq!(told(data, &refusing), Outcome::Closed);
        let untouched = Outcome::Passed { consumed: 0, remote: OWN.0.to_owned(), local: OWN.1.to_owned() };
        assert_eq!(told(data, &allowing), untouched);
    }
    for data in [&b"P"[..], b"PROXY", b"PROXY TCP4", b"\r\n\r\n", b""] {
        assert_eq!(told(data, &allowing), Outcome::Waiting);
    }
}

#[test]
fn versions_can_be_disallowed() {
    let mut config = proto::ProxyProtocol {
        disallowed_versions: vec![ProtoVersion::V1 as i32],
        stat_prefix: "px".into(),
        ..Default::default()
    };
    let env = env();
    let stats = env.stats.scope("proxy_proto.px").cells::<ProxyProtocolStats>();
    let (data1, data2) = (v1("TCP4 1.2.3.4 5.6.7.8 1111 2222"), v2(1, 0x11, &ADDRESSES));
    assert_eq!(run(&env, &config, &data1).0, Outcome::Closed);
    assert!(matches!(run(&env, &config, &data2).0, Outcome::Passed { consumed: 28, .. }));
    let stats = stats.here();
    assert_eq!((stats.v1_disallowed.value(), stats.v1_found.value(), stats.v2_found.value()), (1, 1, 1));
    config.allow_requests_without_proxy_protocol = true;
    assert!(matches!(run(&env, &config, &data1).0, Outcome::Passed { consumed: 0, .. }));
}

fn rule(
    tlv_type: u32,
    key: &str,
    namespace: &str,
    encoding: ValueStringEncoding,
) -> proto::proxy_protocol::Rule {
    let pair = proto::proxy_protocol::KeyValuePair {
        metadata_namespace: namespace.into(),
        key: key.into(),
        value_string_encoding: encoding as i32,
    };
    proto::proxy_protocol::Rule { tlv_type, on_tlv_present: Some(pair) }
}

#[test]
fn rules_put_tlvs_into_metadata() {
    let config = proto::ProxyProtocol {
        rules: vec![
            rule(2, "auth", "", ValueStringEncoding::Unspecified),
            rule(0xea, "vpc", "ns", ValueStringEncoding::SanitizedUtf8),
            rule(0xeb, "b", "ns", ValueStringEncoding::Base64),
        ],
        ..Default::default()
    };
    let tlvs = [
        ADDRESSES.to_vec(),
        tlv(2, b"foo.com"),
        tlv(2, b"second"),
        tlv(0xea, b"a\xffb"),
        tlv(0xeb, &[0, 1]),
        tlv(9, b"z"),
    ];
    let (outcome, info) = run(&env(), &config, &v2(1, 0x11, &tlvs.concat()));
    assert!(matches!(outcome, Outcome::Passed { .. }));
    let text = |namespace: &str, key: &str| match &info.metadata.value(namespace, &[key.to_owned()])?.kind {
        Some(Kind::StringValue(text)) => Some(text.clone()),
        _ => None,
    };
    assert_eq!(text(DEFAULT_NAMESPACE, "auth").as_deref(), Some("foo.com"));
    assert_eq!(text("ns", "vpc").as_deref(), Some("a!b"));
    assert_eq!(text("ns", "b").as_deref(), Some("AAE="));
    let broken = [ADDRESSES.to_vec(), vec![2, 0, 0xff]].concat();
    assert_eq!(told(&v2(1, 0x11, &broken), &config), Outcome::Closed);
}

#[test]
fn base64_pads() {
    for (bytes, expected) in
        [(&b""[..], ""), (b"f", "Zg=="), (b"fo", "Zm8="), (b"foo", "Zm9v"), (b"\xff\xfe\xfd\xfc", "//79/A==")]
    {
        assert_eq!(base64(bytes), expected);
    }
}

#[test]
fn what_cannot_be_honoured_is_refused_with_its_path() {
    let env = env();
    for (config, path) in [
        (proto::ProxyProtocol { tlv_location: 7, ..Default::default() }, "tlv_location"),
        (
            proto::ProxyProtocol {
                rules: vec![rule(256, "k", "", ValueStringEncoding::Unspecified)],
                ..Default::default()
            },
            "rules[0].tlv_type",
        ),
        (
            proto::ProxyProtocol {
                rules: vec![rule(1, "", "", ValueStringEncoding::Unspecified)],
                ..Default::default()
            },
            "rules[0].on_tlv_present.key",
        ),
    ] {
        let mut cx = BuildCx::new(&env);
        assert!(ProxyProtocol.build(&config.encode_to_vec(), &mut cx).is_err());
        assert_eq!(cx.into_errors()[0].path, path);
    }
}

#[test]
fn the_peer_stays_who_it_is() {
    let (_, info) = run(&env(), &proto::ProxyProtocol::default(), &v1("TCP4 1.2.3.4 5.6.7.8 1 2"));
    assert_eq!(info.direct_remote, address(OWN.0));
    assert!(info.local_restored);
}

proptest! {
    #[test]
    fn no_bytes_panic_and_a_header_fits_its_data(prefix in 0..3usize, data: Vec<u8>) {
        let signature = [&b""[..], V1_SIGNATURE, V2_SIGNATURE][prefix];
        let data = [signature, &data].concat();
        if let Parsed::Header(header) = parse(&data) {
            prop_assert!(header.length <= data.len());
            let _ = tlvs(header.tlvs);
        }
    }

    #[test]
    fn a_verdict_does_not_depend_on_how_the_bytes_arrive(tail: Vec<u8>, cut in 0..60usize) {
        let data = [v2(1, 0x11, &ADDRESSES), tail].concat();
        let cut = &data[..cut.min(data.len())];
        let early = parse(cut);
        prop_assert!(matches!(early, Parsed::More(..)) || early == parse(&data));
    }
}
