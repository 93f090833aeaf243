use super::*;
use crate::read::{Options, Source, to_wire};

fn wire(type_name: &str, yaml: &str) -> Vec<u8> {
    let message = Message::find(type_name).unwrap();
    to_wire(message, &Source::yaml("", yaml.as_bytes()), &Options::default()).unwrap().bytes
}

fn errors(type_name: &str, yaml: &str) -> Vec<String> {
    check(&format!("type.googleapis.com/{type_name}"), &wire(type_name, yaml))
        .errors
        .iter()
        .map(ToString::to_string)
        .collect()
}

const CLUSTER: &str = "envoy.config.cluster.v3.Cluster";
const LISTENER: &str = "envoy.config.listener.v3.Listener";

/// The wording is that of Envoy 1.40's `Proto constraint validation failed`.
#[test]
fn constraints_in_envoys_words() {
    for (type_name, yaml, expected) in [
        (CLUSTER, "{}", "name: value length must be at least 1 characters"),
        (CLUSTER, "{name: x, connect_timeout: 0s}", "connect_timeout: value must be greater than 0s"),
        (CLUSTER, "{name: x, type: 99}", "type: value must be one of the defined enum values"),
        (
            CLUSTER,
            "{name: x, eds_cluster_config: {}, load_assignment: {}}",
            "load_assignment.cluster_name: value length must be at least 1 characters",
        ),
        (
            "envoy.config.core.v3.SocketAddress",
            "{address: a, port_value: 65536}",
            "port_value: value must be less than or equal to 65535",
        ),
        ("envoy.config.core.v3.SocketAddress", "{address: a}", "port_specifier: value is required"),
        ("envoy.config.core.v3.Address", "{}", "address: value is required"),
        ("envoy.config.route.v3.VirtualHost", "{name: a}", "domains: value must contain at least 1 item(s)"),
        (
            "envoy.config.route.v3.RouteMatch",
            "{path_separated_prefix: '/a?'}",
            "path_separated_prefix: value does not match regex pattern \"^[^?#]+[^?#/]$\"",
        ),
        ("envoy.config.core.v3.HeaderValue", "{key: ''}", "key: value length must be at least 1 characters"),
        ("envoy.type.v3.HttpStatus", "{}", "code: value must not be in list [Empty]"),
        ("envoy.type.v3.TokenBucket", "{max_tokens: 1}", "fill_interval: value is required"),
        (
            "envoy.config.listener.v3.FilterChainMatch",
            "{source_ports: [1, 70000]}",
            "source_ports[1]: value must be inside range [1, 65535]",
        ),
        (
            "envoy.config.accesslog.v3.ResponseFlagFilter",
            "{flags: [UH, XX]}",
            "flags[1]: value must be in list [LH UH UT LR UR UF UC UO NR DI FI RL UAEX RLSE DC URX SI IH DPE \
             UMSDR RFCF NFCF DT UPE NC OM DF DO DR UDO]",
        ),
        (
            "envoy.config.bootstrap.v3.Bootstrap",
            "{stats_flush_on_admin: false}",
            "stats_flush_on_admin: value must equal true",
        ),
        ("xds.core.v3.TypedExtensionConfig", "{name: a}", "typed_config: value is required"),
        (
            "xds.data.orca.v3.OrcaLoadReport",
            "{utilization: {a: 1.5}}",
            "utilization[\"a\"]: value must be inside range [0, 1]",
        ),
    ] {
        let found = errors(type_name, yaml);
        assert!(found.iter().any(|error| error == expected), "{type_name} {yaml}: {found:?}");
    }
}

#[test]
fn what_is_right_passes() {
    for (type_name, yaml) in [
        (CLUSTER, "{name: x, connect_timeout: 1s, type: STATIC, load_assignment: {cluster_name: x}}"),
        ("envoy.config.core.v3.Address", "{socket_address: {address: a, port_value: 0}}"),
        ("envoy.config.route.v3.RouteMatch", "{prefix: ''}"),
        ("envoy.config.core.v3.KeyValueAppend", "{entry: {}}"),
        (LISTENER, "{}"),
    ] {
        assert_eq!(errors(type_name, yaml), [""; 0], "{yaml}");
    }
}

const CHAIN: &str = "{filter_chains: [{}, {filters: [{name: a, typed_config: \
    {'@type': type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy, cluster: x}}]}]}";

#[test]
fn any_is_entered() {
    assert_eq!(
        errors(LISTENER, CHAIN),
        ["filter_chains[1].filters[0].typed_config.stat_prefix: value length must be at least 1 characters"]
    );
}

#[test]
fn typed_structs_on_the_wire_are_entered_as_what_they_name() {
    let content = wire(
        "xds.type.v3.TypedStruct",
        "{type_url: a/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy, value: {cluster: x, nope: 1}}",
    );
    let mut any = vec![];
    wire::put_bytes(&mut any, 1, b"type.googleapis.com/xds.type.v3.TypedStruct");
    wire::put_bytes(&mut any, 2, &content);
    let mut filter = vec![];
    wire::put_bytes(&mut filter, 1, b"a");
    wire::put_bytes(&mut filter, 4, &any);
    let report = check("a/envoy.config.listener.v3.Filter", &filter);
    assert_eq!(report.errors.len(), 1);
    assert_eq!(
        report.errors[0].to_string(),
        "typed_config.stat_prefix: value length must be at least 1 characters"
    );
    assert_eq!(report.unknown_fields[0].to_string(), "typed_config.nope: no such field: 'nope'");
}

#[derive(Default)]
struct Seen(Vec<String>, Vec<String>);

impl Visitor for Seen {
    fn field(&mut self, field: Field, path: &Path) {
        self.0.push(format!("{path} = {}", field.message().short_name()));
    }

    fn any(&mut self, type_url: &str, message: Option<Message>, _: &Path) {
        self.1.push(format!("{type_url} {}", message.is_some()));
    }
}

#[test]
fn a_visitor_sees_every_field_that_is_set() {
    let mut seen = Seen::default();
    walk(LISTENER, &wire(LISTENER, CHAIN), &mut seen);
    let filter = "filter_chains[1].filters";
    assert_eq!(
        seen.0,
        [
            "filter_chains = Listener".to_owned(),
            format!("{filter} = FilterChain"),
            format!("{filter}[0].name = Filter"),
            format!("{filter}[0].typed_config = Filter"),
            format!("{filter}[0].typed_config.cluster = TcpProxy"),
        ]
    );
    assert_eq!(seen.1, ["type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy true"]);
}

#[test]
fn unknown_fields_and_types_are_reported() {
    let report = check("a/envoy.config.core.v3.Node", &[0x0a, 1, b'x', 0x9a, 6, 1, b'y', 0x08, 1]);
    assert_eq!(report.errors, []);
    let unknown: Vec<_> = report.unknown_fields.iter().map(ToString::to_string).collect();
    assert_eq!(
        unknown,
        [
            "99: no such field: number 99 of envoy.config.core.v3.Node",
            "1: no such field: envoy.config.core.v3.Node.id has another wire type"
        ]
    );
    assert_eq!(check("a/b.C", &[]).errors[0].to_string(), "unknown type 'a/b.C'");
}

#[test]
fn text_must_be_utf8_and_messages_whole() {
    let report = check("a/envoy.config.core.v3.Node", &[0x0a, 1, 0xff]);
    assert_eq!(report.errors[0].to_string(), "id: invalid UTF-8 string");
    let report = check("a/envoy.config.core.v3.Node", &[0x0a, 9, b'x']);
    assert_eq!(report.errors[0].reason, "malformed: a field ends before its length");
}

#[test]
fn pieces_of_a_message_are_checked_together() {
    // (After a merge, `load_assignment` may come in two pieces, of which only one has the required name.)
    let mut bytes = wire(CLUSTER, "{name: x, load_assignment: {cluster_name: x}}");
    bytes.extend(wire(CLUSTER, "{name: z, load_assignment: {policy: {overprovisioning_factor: 0}}}"));
    let report = check(CLUSTER, &bytes);
    let errors: Vec<_> = report.errors.iter().map(ToString::to_string).collect();
    assert_eq!(errors, ["load_assignment.policy.overprovisioning_factor: value must be greater than 0"]);
}

#[test]
fn nesting_is_bounded() {
    let mut bytes = vec![];
    for _ in 0..200 {
        let mut outer = vec![];
        // (`not_match`, a predicate in a predicate.)
        wire::put_bytes(&mut outer, 3, &bytes);
        bytes = outer;
    }
    let report = check("a/envoy.config.listener.v3.ListenerFilterChainMatchPredicate", &bytes);
    assert!(report.errors.iter().any(|error| error.reason == "nested too deeply"), "{report:?}");
}

#[test]
fn lists_that_must_be_unique() {
    let name = "envoy.extensions.filters.http.compressor.v3.Compressor.ResponseDirectionConfig";
    assert_eq!(
        errors(name, "{uncompressible_response_codes: [200, 404, 200]}"),
        ["uncompressible_response_codes: repeated value must contain unique items"]
    );
    assert_eq!(errors(name, "{uncompressible_response_codes: [200, 404]}"), [""; 0]);
}
