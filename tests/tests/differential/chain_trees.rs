//! Filter chains that a matcher tree chooses (`Listener.filter_chain_matcher`).

use integration::config::indent;
use integration::differential::{Case, Do, Setup};

use crate::rbac_matcher::{
    custom_tree, domains, is, list, map, network_input, otherwise, ranges, ssl_input, tree,
};

const FILTER: &str = "type.googleapis.com/envoy.extensions.filters";

/// What leads to a chain.
fn to(chain: &str) -> String {
    format!(
        "{{action: {{name: a, typed_config: {{\"@type\": type.googleapis.com/google.protobuf.StringValue, value: \"{chain}\"}}}}}}"
    )
}

/// A chain that says its name.
fn chain(name: &str) -> String {
    format!(
        "name: {name}\nfilters:\n- name: direct\n  typed_config: {{\"@type\": {FILTER}.network.direct_response.v3.Config, response: {{inline_string: {name}}}}}\n"
    )
}

/// A listener whose chains would take nothing if they had the say.
fn listener(name: &str, matcher: &str, chains: &[&str], more: &str) -> String {
    let mut yaml = format!(
        "- name: {name}\n  address: {{socket_address: {{address: 127.0.0.1, port_value: 0}}}}\n  filter_chain_matcher: {{{matcher}}}\n  filter_chains:\n"
    );
    for name in chains {
        let text = indent(&format!("filter_chain_match: {{destination_port: 1}}\n{}", chain(name)), 4);
        yaml += &text.replacen("    filter_chain_match", "  - filter_chain_match", 1);
    }
    yaml + &indent(more, 2)
}

fn with_default(name: &str, matcher: &str, chains: &[&str]) -> String {
    listener(name, matcher, chains, &format!("default_filter_chain:\n{}", indent(&chain("fallback"), 2)))
}

/// One whose connections are looked at first.
fn inspected(name: &str, matcher: &str, chains: &[&str], filters: &[&str]) -> String {
    let mut more = "listener_filters_timeout: 0.2s\nlistener_filters:\n".to_owned();
    for filter in filters {
        more += &format!("- {{name: f, typed_config: {{\"@type\": {FILTER}.listener.{filter}}}}}\n");
    }
    listener(name, matcher, chains, &more)
}

/// A tree that leads clients of this host somewhere.
fn local(to: &str) -> String {
    map("exact_match_map", &network_input("SourceTypeInput"), &[("local", to.to_owned())])
}

fn plain() -> Vec<String> {
    let input = network_input;
    let missing = |name| {
        let asked = is(&input(name), "{exact: never}");
        list(&[(format!("{{not_matcher: {asked}}}"), to("one"))])
    };
    let port = "{safe_regex: {google_re2: {}, regex: \"[1-9][0-9]+\"}}";
    let peers = list(&[(is(&ssl_input("UriSanInput"), "{prefix: spiffe}"), to("one"))]);
    vec![
        with_default("by_kind", &local(&to("two")), &["one", "two"]),
        with_default("by_port", &list(&[(is(&input("SourcePortInput"), port), to("one"))]), &["one"]),
        with_default(
            "other_port",
            &map("exact_match_map", &input("DestinationPortInput"), &[("1", to("one"))]),
            &["one"],
        ),
        with_default(
            "by_destination",
            &map(
                "prefix_match_map",
                &input("DestinationIPInput"),
                &[("127.", to("one")), ("127.0.0.1", to("two"))],
            ),
            &["one", "two"],
        ),
        with_default(
            "by_transport",
            &map("exact_match_map", &input("TransportProtocolInput"), &[("raw_buffer", to("one"))]),
            &["one"],
        ),
        with_default("no_protocol", &missing("ApplicationProtocolInput"), &["one"]),
        with_default("no_name", &missing("ServerNameInput"), &["one"]),
        with_default("no_state", &missing("FilterStateInput, key: a"), &["one"]),
        with_default("no_peer", &otherwise(&peers, &to("one")), &["one"]),
        with_default("unknown", &local(&to("nobody")), &["one"]),
        with_default("named_fallback", &local(&to("fallback")), &["one"]),
        with_default("empty", "", &["one"]),
        with_default("always", &format!("on_no_match: {}", to("two")), &["one", "two"]),
        with_default("no_chain", &local(&to("one")), &[]).replace("  filter_chains:\n", ""),
        listener(
            "no_fallback",
            &map("exact_match_map", &input("SourceIPInput"), &[("1.2.3.4", to("one"))]),
            &["one"],
            "",
        ),
    ]
}

/// Those that look at what clients send first.
fn looking() -> Vec<String> {
    let input = network_input;
    let networks = ranges(&[
        ("{address_prefix: 10.0.0.0, prefix_len: 8}", "", to("one")),
        ("{address_prefix: 10.1.0.0, prefix_len: 16}", "", to("two")),
        ("{address_prefix: 127.0.0.0, prefix_len: 8}", "", to("three")),
    ]);
    let names = domains(&[
        ("a.test", to("one")),
        ("\"*.test\"", to("two")),
        (
            "\"*\"",
            tree(&list(&[(is(&input("ApplicationProtocolInput"), "{contains: \"'h2'\"}"), to("three"))])),
        ),
    ]);
    let proxied = ["proxy_protocol.v3.ProxyProtocol"];
    let tls = ["tls_inspector.v3.TlsInspector"];
    vec![
        inspected(
            "by_source",
            &custom_tree(&input("SourceIPInput"), &networks),
            &["one", "two", "three"],
            &proxied,
        ),
        inspected(
            "by_direct_source",
            &custom_tree(&input("DirectSourceIPInput"), &networks),
            &["one", "two", "three"],
            &proxied,
        ),
        inspected("external", &otherwise(&local(&to("one")), &to("two")), &["one", "two"], &proxied),
        inspected("by_name", &custom_tree(&input("ServerNameInput"), &names), &["one", "two", "three"], &tls),
        inspected(
            "by_tls",
            &map(
                "exact_match_map",
                &input("TransportProtocolInput"),
                &[("tls", to("one")), ("raw_buffer", to("two"))],
            ),
            &["one", "two"],
            &tls,
        ),
        inspected(
            "by_offer",
            &map(
                "exact_match_map",
                &input("ApplicationProtocolInput"),
                &[("'h2','http/1.1'", to("one")), ("'http/1.1'", to("two"))],
            ),
            &["one", "two"],
            &tls,
        ),
        inspected(
            "by_version",
            &map(
                "exact_match_map",
                &input("ApplicationProtocolInput"),
                &[("'h2c'", to("one")), ("'http/1.1'", to("two"))],
            ),
            &["one", "two"],
            &["http_inspector.v3.HttpInspector"],
        ),
    ]
}

pub(crate) fn setup() -> Setup {
    Setup::new("chain_trees", [plain(), looking()].concat())
}

/// A ClientHello for a server of that name, offering these protocols.
fn hello(name: &str, protocols: &[&str]) -> Vec<u8> {
    fn sized(bytes: &[u8]) -> Vec<u8> {
        [&u16::try_from(bytes.len()).unwrap_or_default().to_be_bytes(), bytes].concat()
    }
    fn short(bytes: &[u8]) -> Vec<u8> {
        [&[u8::try_from(bytes.len()).unwrap_or_default()], bytes].concat()
    }
    let mut extensions = [&[0, 43][..], &sized(&short(&[3, 4]))].concat();
    if !name.is_empty() {
        extensions
            .extend([&[0, 0][..], &sized(&sized(&[&[0][..], &sized(name.as_bytes())].concat()))].concat());
    }
    if !protocols.is_empty() {
        let list: Vec<u8> = protocols.iter().flat_map(|name| short(name.as_bytes())).collect();
        extensions.extend([&[0, 16][..], &sized(&sized(&list))].concat());
    }
    let random = [7; 32];
    let body = [&[3, 3][..], &random, &[0], &sized(&[0x13, 1]), &short(&[0]), &sized(&extensions)].concat();
    let message = [&[1, 0][..], &sized(&body)].concat();
    [&[22, 3, 1][..], &sized(&message)].concat()
}

pub(crate) fn cases() -> Vec<Case> {
    let connects = |name, listener| Case::steps(name, listener, [Do::AwaitEnd]).tcp(0);
    let says = |name, listener, bytes: &[u8]| {
        Case::steps(name, listener, [Do::Send(bytes.to_vec()), Do::AwaitEnd]).tcp(0)
    };
    let from = |name, listener, source: &str| {
        says(name, listener, format!("PROXY TCP4 {source} 5.6.7.8 1000 2000\r\n").as_bytes())
    };
    vec![
        connects("a chain by the kind of source", "by_kind"),
        connects("a chain by the source's port", "by_port"),
        connects("no chain for that port", "other_port"),
        connects("a chain by the destination", "by_destination"),
        connects("a chain by the transport", "by_transport"),
        connects("no protocol was offered", "no_protocol"),
        connects("no name was asked for", "no_name"),
        connects("there is no filter state", "no_state"),
        connects("a peer's name, before there is TLS", "no_peer"),
        connects("a name that no chain has", "unknown"),
        connects("the name of the default chain", "named_fallback"),
        connects("a tree without anything", "empty"),
        connects("a tree with nothing to ask", "always"),
        connects("a tree without chains", "no_chain"),
        connects("nothing found, and no default chain", "no_fallback"),
        from("a chain by the source", "by_source", "10.2.0.1"),
        from("a chain by the source, the longer range", "by_source", "10.1.0.1"),
        from("no chain for that source", "by_source", "11.1.0.1"),
        from("a chain by the peer on the wire", "by_direct_source", "10.1.0.1"),
        from("a source elsewhere", "external", "10.1.0.1"),
        from("a source that is where it went", "external", "5.6.7.8"),
        says("a chain by name", "by_name", &hello("a.test", &[])),
        says("a chain by domain", "by_name", &hello("b.test", &["http/1.1"])),
        says("a chain by name in capitals", "by_name", &hello("A.Test", &[])),
        says("a chain by any name and a protocol", "by_name", &hello("a", &["http/1.1", "h2"])),
        says("any name and another protocol", "by_name", &hello("a", &["http/1.1"])),
        says("no name", "by_name", &hello("", &["h2"])),
        says("TLS", "by_tls", &hello("a", &[])),
        says("no TLS", "by_tls", b"GET / HTTP/1.1\r\n\r\n"),
        says("protocols are joined", "by_offer", &hello("a", &["h2", "http/1.1"])),
        says("one protocol", "by_offer", &hello("a", &["http/1.1"])),
        says("protocols in another order", "by_offer", &hello("a", &["http/1.1", "h2"])),
        says("HTTP/2, inspected", "by_version", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"),
        says("HTTP/1.1, inspected", "by_version", b"GET / HTTP/1.1\r\nhost: t\r\n\r\n"),
    ]
}
