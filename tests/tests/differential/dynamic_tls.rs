//! Dynamic forward proxies of TLS clients, whose connections go to the name that they ask for (`sni_dynamic_forward_proxy`).

use integration::config::{indent, listener_with_filters};
use integration::differential::{Case, Do, Setup};

use crate::dynamic::{cache, cluster, stream_proxy};

/// The filter with the cache of this name.
fn filter(name: &str, fields: &str) -> String {
    format!(
        "- name: f\n  typed_config:\n    \"@type\": type.googleapis.com/envoy.extensions.filters.network.sni_dynamic_forward_proxy.v3.FilterConfig\n{}{}",
        indent(fields, 4),
        indent(&format!("dns_cache_config: {}", cache(name)), 4),
    )
}

const INSPECTOR: &str = "  listener_filters: [{name: i, typed_config: {\"@type\": type.googleapis.com/envoy.extensions.filters.listener.tls_inspector.v3.TlsInspector}}]\n";

fn listener(name: &str, filters: &str, cluster: &str) -> String {
    listener_with_filters(name, &format!("{filters}{}", stream_proxy(name, cluster))) + INSPECTOR
}

fn state(key: &str, value: &str) -> String {
    format!(
        "- name: s\n  typed_config:\n    \"@type\": type.googleapis.com/envoy.extensions.filters.network.set_filter_state.v3.Config\n    on_new_connection:\n    - {{object_key: envoy.upstream.{key}, format_string: {{text_format_source: {{inline_string: \"{value}\"}}}}}}\n"
    )
}

const PORT: &str = "port_value: {{echo}}\nsave_upstream_address: true";

pub(crate) fn setup() -> Setup {
    let listeners = [
        listener("named", &filter("open", PORT), "open"),
        listener("by_state", &(state("dynamic_host", "other.test") + &filter("open", PORT)), "open"),
        listener("by_port", &(state("dynamic_port", "{{echo}}") + &filter("open", "port_value: 1")), "open"),
        listener("alone", &filter("alone", PORT), "alone"),
        listener("busy", &filter("busy", PORT), "busy"),
    ];
    let clusters = ["open", "alone", "busy"].map(|name| cluster(name, "", ""));
    Setup::with_clusters("dynamic_tls", listeners, clusters)
}

/// The client hello of TLS 1.2 that asks for a name, and nothing else.
fn hello(name: &str) -> Vec<u8> {
    let length = u8::try_from(name.len()).unwrap_or_default();
    let mut list = vec![0, length + 5, 0, length + 3, 0, 0, length];
    list.extend(name.bytes());
    let mut hello = vec![3, 3];
    hello.extend([7; 32]);
    hello.extend([0, 0, 2, 0xc0, 0x2f, 1, 0]);
    hello.extend([0, u8::try_from(list.len()).unwrap_or_default() + 2, 0, 0]);
    hello.extend(&list);
    let length = u8::try_from(hello.len()).unwrap_or_default();
    [&[22, 3, 1, 0, length + 4, 1, 0, 0, length][..], &hello].concat()
}

fn passes(name: &'static str, listener: &'static str, host: &str) -> Case {
    let hello = hello(host);
    let length = hello.len();
    Case::steps(name, listener, [Do::Send(hello), Do::Bytes(length), Do::Leave]).tcp(1)
}

fn lost(name: &'static str, listener: &'static str, host: &str) -> Case {
    Case::steps(name, listener, [Do::Send(hello(host)), Do::AwaitEnd]).tcp(1)
}

pub(crate) fn cases() -> Vec<Case> {
    vec![
        passes("a name that a client asks for", "named", "up.test"),
        passes("that name again", "named", "up.test"),
        lost("a name that there is not", "named", "absent.test"),
        lost("a name without addresses", "named", "nothing.test"),
        Case::steps(
            "a client without TLS",
            "named",
            [Do::Send(b"hello, who is there?".to_vec()), Do::AwaitEnd],
        )
        .tcp(1),
        passes("a name of the filter state", "by_state", "absent.test"),
        passes("a port of the filter state", "by_port", "third.test"),
        passes("one name", "alone", "up.test"),
        lost("a name too many", "alone", "other.test"),
        lost("a client too many", "busy", "up.test"),
    ]
}
