//! Listener filters and the choice of a filter chain.

use std::time::Duration;

use integration::client::{Client, End};
use integration::config::bootstrap;
use integration::expect::SOON;
use integration::process::Binary;

use crate::{ask, chain, expect_log, expect_stat, filter, listener, listener_at, says, start};

/// What OpenSSL 3.0 sends for `s_client -servername www.A.test -alpn h2,http/1.1`, in hexadecimal.
const CLIENT_HELLO: &[&str] = &[
    "1603010137010001330303daa9699d136061cfd66c89f522ae5a5c194ade256e8132d64990eec86a13375c20ded3af0b69673be2620f4d",
    "3b8173c9cfb5217c0fbc66b27f2db2ae973373a610003e130213031301c02cc030009fcca9cca8ccaac02bc02f009ec024c028006bc023",
    "c0270067c00ac0140039c009c0130033009d009c003d003c0035002f00ff010000ac0000000f000d00000a7777772e412e74657374000b",
    "000403000102000a00040002001d002300000010000e000c02683208687474702f312e310016000000170000000d002a00280403050306",
    "03080708080809080a080b080408050806040105010601030303010302040205020602002b0009080304030303020301002d0002010100",
    "3300260024001d002057840aef0ade5d2152a2f9bbb177027984fe907e9be974203cc9b5d01d48f272",
];

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

pub(super) fn client_hello() -> Vec<u8> {
    let text = CLIENT_HELLO.concat();
    (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap()).collect()
}

pub(super) fn tls_inspector() -> String {
    filter("listener.tls_inspector", "TlsInspector", "")
}

pub(super) fn http_inspector() -> String {
    filter("listener.http_inspector", "HttpInspector", "")
}

pub(super) fn proxy_protocol(fields: &str) -> String {
    filter("listener.proxy_protocol", "ProxyProtocol", fields)
}

pub(super) fn with_filters(filters: &str) -> String {
    format!("listener_filters:\n{filters}")
}

/// A header of version 2 from 1.2.3.4:1000 to 5.6.7.8:2000 with a TLV of type 0xEA.
fn v2_header() -> Vec<u8> {
    let mut header = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x11".to_vec();
    header.extend(b"\x01\x02\x03\x04\x05\x06\x07\x08\x03\xe8\x07\xd0\xea\0\x02ab");
    header
}

#[tokio::test]
async fn a_tls_client_is_sent_by_server_name_and_protocol() {
    let chains = [
        chain("exact", "{server_names: [www.a.test]}", &says("exact")),
        chain("wildcard", "{server_names: [\"*.a.test\"]}", &says("wildcard")),
        chain("plain", "{transport_protocol: raw_buffer}", &says("plain")),
    ];
    let by_protocol = [
        chain("one", "{application_protocols: [http/1.1]}", &says("one")),
        chain("two", "{application_protocols: [h2]}", &says("two")),
    ];
    let default = format!(
        "default_filter_chain:\n  name: rest\n  filters:\n{}",
        says("rest").replace("\n", "\n  ").replacen("- ", "  - ", 1)
    );
    let listeners = [
        listener("named", &with_filters(&tls_inspector()), &chains.concat()),
        listener("wildcard", &with_filters(&tls_inspector()), &chains[1..].concat()),
        listener(
            "protocol",
            &format!("{default}\n{}", with_filters(&tls_inspector())),
            &by_protocol.concat(),
        ),
        listener("unnamed", &with_filters(&tls_inspector()), &chains[2]),
    ];
    let proxy = start(&listeners, &[], "", &[]).await.unwrap();
    let hello = client_hello();
    for (name, bytes, expected) in [
        ("named", hello.as_slice(), "exact"),
        ("named", b"hello\n", "plain"),
        ("wildcard", &hello, "wildcard"),
        // the client's first protocol decides, not the order of the chains
        ("protocol", &hello, "two"),
        ("protocol", b"hello\n", "rest"),
        ("unnamed", &hello, ""),
    ] {
        let (answer, _) = ask(proxy.listener(name).unwrap(), bytes).await.unwrap();
        assert_eq!(answer, expected, "{name}");
    }
    expect_log(&proxy, "wildcard", 1, &[("sni", "www.a.test"), ("chain", "wildcard")]).await.unwrap();
    let expected =
        [("flags", "NR"), ("details", "filter_chain_not_found"), ("chain", "-"), ("sni", "www.a.test")];
    expect_log(&proxy, "unnamed", 1, &expected).await.unwrap();
    for (stat, value) in [
        ("tls_inspector.tls_found", 4),
        ("tls_inspector.sni_found", 4),
        ("tls_inspector.alpn_found", 4),
        ("tls_inspector.tls_not_found", 2),
        ("listener.unnamed.no_filter_chain_match", 1),
        ("listener.unnamed.downstream_cx_total", 0),
    ] {
        expect_stat(&proxy, stat, value).await.unwrap();
    }

    // the same in the smallest pieces
    let mut client = Client::connect(proxy.listener("named").unwrap()).await.unwrap();
    for byte in &hello {
        client.send(std::slice::from_ref(byte)).await.unwrap();
    }
    assert_eq!(client.rest(SOON).await.0, b"exact");
}

#[tokio::test]
async fn an_http_client_is_sent_by_version() {
    let chains = ["h2c", "http/1.1", "http/1.0"].map(|protocol| {
        chain(protocol, &format!("{{application_protocols: [{protocol}]}}"), &says(protocol))
    });
    let other =
        chain("other", "{}", &says("other")) + &chain("tls", "{transport_protocol: tls}", &says("tls"));
    let both = tls_inspector() + &http_inspector();
    let listeners = [listener("http", &with_filters(&both), &(chains.concat() + &other))];
    let proxy = start(&listeners, &[], "", &[]).await.unwrap();
    for (bytes, expected) in [
        (PREFACE, "h2c"),
        (b"GET / HTTP/1.1\r\nhost: a\r\n\r\n".as_slice(), "http/1.1"),
        (b"GET / HTTP/1.0\r\n\r\n", "http/1.0"),
        (b"SSH-2.0-x\r\n", "other"),
        // what is TLS is not looked at for HTTP
        (&client_hello(), "tls"),
    ] {
        let (answer, _) = ask(proxy.listener("http").unwrap(), bytes).await.unwrap();
        assert_eq!(answer, expected, "{}", bytes.escape_ascii());
    }
    let counts = [("http2_found", 1), ("http11_found", 1), ("http10_found", 1), ("http_not_found", 1)];
    for (stat, value) in counts {
        expect_stat(&proxy, &format!("http_inspector.{stat}"), value).await.unwrap();
    }
}

#[tokio::test]
async fn the_proxy_protocol_gives_addresses_and_metadata() {
    let rules = ", rules: [{tlv_type: 0xEA, on_tlv_present: {key: id}}]";
    let chains = chain(
        "from_ten",
        "{source_prefix_ranges: [{address_prefix: 1.2.3.0, prefix_len: 24}]}",
        &says("one"),
    ) + &chain("rest", "{}", &says("rest"));
    let of = |name: &str, fields: &str| {
        listener(
            name,
            &format!("listener_filters_timeout: 5s\n{}", with_filters(&proxy_protocol(fields))),
            &chains,
        )
    };
    let listeners = [
        of("strict", rules),
        of("lenient", ", allow_requests_without_proxy_protocol: true"),
        of("only_v1", ", disallowed_versions: [V2]"),
        of("passing", ", pass_through_tlvs: {match_type: INCLUDE_ALL}"),
    ];
    let proxy = start(&listeners, &[], "", &[]).await.unwrap();
    let v1 = b"PROXY TCP4 1.2.3.4 5.6.7.8 1000 2000\r\n".as_slice();
    let v2 = v2_header();
    let addr = |name: &str| proxy.listener(name).unwrap();

    assert_eq!(ask(addr("strict"), v1).await.unwrap().0, "one");
    let told = [("local", "5.6.7.8:2000"), ("remote", "1.2.3.4:1000"), ("chain", "from_ten")];
    expect_log(&proxy, "strict", 1, &told).await.unwrap();
    assert_eq!(ask(addr("strict"), &v2).await.unwrap().0, "one");
    expect_log(&proxy, "strict", 2, &[("tlv", "ab"), ("remote", "1.2.3.4:1000")]).await.unwrap();
    assert_eq!(ask(addr("passing"), &v2).await.unwrap().0, "one");

    // a connection without the header is closed, and that is in the log
    let (answer, end) = ask(addr("strict"), b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
    assert_eq!((answer.as_str(), end), ("", End::Reset));
    expect_log(&proxy, "strict", 3, &[("chain", "-"), ("flags", "-"), ("details", "-")]).await.unwrap();
    assert_eq!(ask(addr("lenient"), b"GET / HTTP/1.1\r\n\r\n").await.unwrap().0, "rest");
    assert_eq!(ask(addr("lenient"), v1).await.unwrap().0, "one");
    assert_eq!(ask(addr("only_v1"), v1).await.unwrap().0, "one");
    assert_eq!(ask(addr("only_v1"), &v2).await.unwrap().0, "");
    for (stat, value) in [
        ("proxy_proto.versions.v1.found", 3),
        ("proxy_proto.versions.v2.disallowed", 1),
        ("proxy_proto.not_found_allowed", 1),
        ("proxy_proto.not_found_disallowed", 1),
        ("downstream_cx_proxy_proto_error", 1),
        ("listener.strict.downstream_cx_total", 2),
        ("listener.strict.downstream_pre_cx_active", 0),
    ] {
        expect_stat(&proxy, stat, value).await.unwrap();
    }
}

#[tokio::test]
async fn clients_that_keep_a_listener_filter_waiting_are_closed_or_go_on() {
    let of = |name: &str, fields: &str| {
        let fields =
            format!("listener_filters_timeout: 0.2s\n{fields}\n{}", with_filters(&proxy_protocol("")));
        listener(name, &fields, &chain("", "{}", &filter("network.echo", "Echo", "")))
    };
    let listeners = [of("strict", ""), of("lenient", "continue_on_listener_filters_timeout: true")];
    let proxy = start(&listeners, &[], "", &[]).await.unwrap();
    let (answer, end) = ask(proxy.listener("strict").unwrap(), b"PROXY TCP4").await.unwrap();
    assert_eq!((answer.as_str(), end), ("", End::Reset));
    expect_log(&proxy, "strict", 1, &[("chain", "-"), ("rx", "0")]).await.unwrap();
    let (_, end) = ask(proxy.listener("strict").unwrap(), b"").await.unwrap();
    assert_eq!(end, End::Closed);
    expect_stat(&proxy, "listener.strict.downstream_pre_cx_timeout", 2).await.unwrap();

    // what the filter saw is not lost
    let mut client = Client::connect(proxy.listener("lenient").unwrap()).await.unwrap();
    client.send(b"PROXY TCP4").await.unwrap();
    assert_eq!(client.at_least(10, SOON).await.unwrap(), b"PROXY TCP4");
    client.send(b"more").await.unwrap();
    assert_eq!(client.at_least(4, SOON).await.unwrap(), b"more");
    expect_stat(&proxy, "listener.lenient.downstream_pre_cx_timeout", 1).await.unwrap();

    // a client that leaves is gone at once
    let mut client = Client::connect(proxy.listener("strict").unwrap()).await.unwrap();
    client.half_close().await.unwrap();
    assert_eq!(client.end_within(SOON).await, End::Closed);
    expect_stat(&proxy, "listener.strict.downstream_listener_filter_remote_close", 1).await.unwrap();
    expect_stat(&proxy, "listener.strict.downstream_pre_cx_active", 0).await.unwrap();
}

#[tokio::test]
async fn a_listener_filter_is_skipped_where_its_predicate_holds() {
    let chains = chain("", "{transport_protocol: tls}", &says("tls")) + &chain("", "{}", &says("plain"));
    let any_port = "destination_port_range: {start: 1, end: 65536}";
    let of = |name: &str, predicate: &str| {
        let inspector = format!("{}  filter_disabled: {{{predicate}}}\n", tls_inspector());
        listener(name, &with_filters(&inspector), &chains)
    };
    let listeners = [
        of("any", "any_match: true"),
        of("not", "not_match: {any_match: true}"),
        of("port", any_port),
        of("and", &format!("and_match: {{rules: [{{{any_port}}}, {{not_match: {{any_match: true}}}}]}}")),
        of("or", &format!("or_match: {{rules: [{{{any_port}}}, {{not_match: {{any_match: true}}}}]}}")),
    ];
    let proxy = start(&listeners, &[], "", &[]).await.unwrap();
    for (name, expected) in
        [("any", "plain"), ("not", "tls"), ("port", "plain"), ("and", "tls"), ("or", "plain")]
    {
        let (answer, _) = ask(proxy.listener(name).unwrap(), &client_hello()).await.unwrap();
        assert_eq!(answer, expected, "{name}");
    }
}

#[tokio::test]
async fn the_most_specific_chain_serves() {
    let prefix = |prefix: &str, length: u8| {
        format!("prefix_ranges: [{{address_prefix: {prefix}, prefix_len: {length}}}]")
    };
    let source = |prefix: &str, length: u8| {
        format!("source_prefix_ranges: [{{address_prefix: {prefix}, prefix_len: {length}}}]")
    };
    let of = |name: &str, matches: &[(&str, String)]| {
        let chains: String =
            matches.iter().map(|(text, one)| chain(text, &format!("{{{one}}}"), &says(text))).collect();
        listener(name, "", &chains)
    };
    let listeners = [
        // the longest prefix, whatever the order
        of(
            "prefix",
            &[("eight", prefix("127.0.0.0", 8)), ("host", prefix("127.0.0.1", 32)), ("none", String::new())],
        ),
        // the destination goes before the source: no way back to a chain that is less specific in it
        of(
            "no_way_back",
            &[
                ("host", format!("{}, {}", prefix("127.0.0.1", 32), source("10.0.0.0", 8))),
                ("none", String::new()),
            ],
        ),
        of(
            "type",
            &[
                ("external", "source_type: EXTERNAL".into()),
                ("local", "source_type: SAME_IP_OR_LOOPBACK".into()),
            ],
        ),
        of(
            "direct",
            &[
                (
                    "direct",
                    "direct_source_prefix_ranges: [{address_prefix: 127.0.0.0, prefix_len: 8}]".into(),
                ),
                ("none", String::new()),
            ],
        ),
        of("ports", &[("port", "destination_port: 1".into()), ("none", String::new())]),
    ];
    let proxy = start(&listeners, &[], "", &[]).await.unwrap();
    for (name, expected) in
        [("prefix", "host"), ("no_way_back", ""), ("type", "local"), ("direct", "direct"), ("ports", "none")]
    {
        let (answer, _) = ask(proxy.listener(name).unwrap(), b"").await.unwrap();
        assert_eq!(answer, expected, "{name}");
    }
    expect_log(&proxy, "no_way_back", 1, &[("flags", "NR"), ("details", "filter_chain_not_found")])
        .await
        .unwrap();
}

/// What a chain can ask of a connection, in the order in which it is asked (Envoy's documentation of `FilterChainMatch`), each
/// as the connection of [`a_chain_is_chosen_by_every_criterion_in_order`] has it, and otherwise.
const CRITERIA: [(&str, &str, &str); 9] = [
    ("destination port", "destination_port: 443", "destination_port: 444"),
    (
        "destination",
        "prefix_ranges: [{address_prefix: 5.6.7.8, prefix_len: 32}]",
        "prefix_ranges: [{address_prefix: 5.6.7.9, prefix_len: 32}]",
    ),
    ("server name", "server_names: [www.a.test]", "server_names: [www.b.test]"),
    ("transport", "transport_protocol: tls", "transport_protocol: raw_buffer"),
    ("application protocol", "application_protocols: [h2]", "application_protocols: [h3]"),
    (
        "peer",
        "direct_source_prefix_ranges: [{address_prefix: 127.0.0.1, prefix_len: 32}]",
        "direct_source_prefix_ranges: [{address_prefix: 1.2.3.4, prefix_len: 32}]",
    ),
    ("source type", "source_type: EXTERNAL", "source_type: SAME_IP_OR_LOOPBACK"),
    (
        "source",
        "source_prefix_ranges: [{address_prefix: 1.2.3.4, prefix_len: 32}]",
        "source_prefix_ranges: [{address_prefix: 127.0.0.1, prefix_len: 32}]",
    ),
    ("source port", "source_ports: [1000]", "source_ports: [1001]"),
];

#[tokio::test]
async fn a_chain_is_chosen_by_every_criterion_in_order() {
    let filters = with_filters(&(proxy_protocol("") + &tls_inspector()));
    let mut listeners = Vec::new();
    let mut expected = Vec::new();
    let mut expect = |name: String, chains: String, answer: &'static str| {
        listeners.push(listener(&name, &filters, &chains));
        expected.push((name, answer));
    };
    let all: Vec<&str> = CRITERIA.iter().map(|(_, holds, _)| *holds).collect();
    let of =
        |name: &str, criteria: &[&str]| chain(name, &format!("{{{}}}", criteria.join(", ")), &says(name));
    expect("all".into(), of("met", &all), "met");
    for (index, (_, _, fails)) in CRITERIA.iter().enumerate() {
        let mut but_one = all.clone();
        but_one[index] = fails;
        // one that is not met is enough, whatever the others say
        expect(format!("but_{index}"), of("met", &but_one), "");
    }
    for index in 1..CRITERIA.len() {
        // the earlier criterion wins, in whatever order the chains are written
        let chains = of("later", &all[index..]) + &of("earlier", &all[index - 1..index]);
        expect(format!("pair_{index}"), chains, "earlier");
    }
    let proxy = start(&listeners, &[], "", &[]).await.unwrap();
    let mut bytes = b"PROXY TCP4 1.2.3.4 5.6.7.8 1000 443\r\n".to_vec();
    bytes.extend(client_hello());
    for (name, answer) in expected {
        assert_eq!(ask(proxy.listener(&name).unwrap(), &bytes).await.unwrap().0, answer, "{name}");
    }
}

#[test]
fn chains_that_cannot_both_be_meant_are_refused() {
    let chains = chain("a", "{server_names: [x.test, y.test]}", &says("a"))
        + &chain("b", "{server_names: [y.test]}", &says("b"));
    let address = "address: {socket_address: {address: 127.0.0.1, port_value: 0}}";
    let refused = |chains: &str| {
        let text = bootstrap(&[listener_at("twice", address, chains)], &[], "");
        Binary::outrigger().unwrap().validate(&text).unwrap()
    };
    let verdict = refused(&chains);
    assert!(!verdict.accepted);
    for part in ["listeners[0].filter_chains[1]", "overlapping matching rules", "'a'", "'b'"] {
        assert!(verdict.text.contains(part), "{part}: {}", verdict.text);
    }
    let same =
        chain("a", "{destination_port: 1}", &says("a")) + &chain("b", "{destination_port: 1}", &says("b"));
    assert!(!refused(&same).accepted);
    let different =
        chain("a", "{destination_port: 1}", &says("a")) + &chain("b", "{destination_port: 2}", &says("b"));
    assert!(refused(&different).accepted);
}

#[tokio::test]
async fn a_large_first_message_passes_the_listener_filters_whole() {
    let both = tls_inspector() + &http_inspector();
    let listeners =
        [listener("all", &with_filters(&both), &chain("", "{}", &filter("network.echo", "Echo", "")))];
    let proxy = start(&listeners, &[], "", &[]).await.unwrap();
    let mut sent = b"hello world\n".to_vec();
    sent.extend((0..300_000_u32).map(|index| (index % 251) as u8));
    let mut client = Client::connect(proxy.listener("all").unwrap()).await.unwrap();
    client.send(&sent).await.unwrap();
    assert!(client.at_least(sent.len(), SOON).await.unwrap() == sent);
    client.half_close().await.unwrap();
    assert_eq!(client.end_within(Duration::from_secs(10)).await, End::Closed);
}
