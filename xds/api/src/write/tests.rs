use super::*;
use crate::read::{Options, Source, to_wire};

fn wire(type_name: &str, yaml: &str) -> Vec<u8> {
    let message = Message::find(type_name).unwrap();
    to_wire(message, &Source::yaml("", yaml.as_bytes()), &Options::default()).unwrap().bytes
}

fn json(type_name: &str, bytes: &[u8], options: &JsonOptions<'_>) -> String {
    let mut out = String::new();
    to_json(&format!("a/{type_name}"), bytes, options, &mut out).unwrap();
    out
}

fn round_trip(type_name: &str, yaml: &str) -> String {
    json(type_name, &wire(type_name, yaml), &JsonOptions::default())
}

const CLUSTER: &str = "envoy.config.cluster.v3.Cluster";

#[test]
fn fields_come_by_number_under_their_proto_names() {
    let yaml = "{connectTimeout: 0.25s, name: x, type: strict_dns, perConnectionBufferLimitBytes: 5, \
                ignoreHealthOnHostRemoval: false}";
    assert_eq!(
        round_trip(CLUSTER, yaml),
        r#"{"name":"x","type":"STRICT_DNS","connect_timeout":"0.250s","per_connection_buffer_limit_bytes":5}"#
    );
}

#[test]
fn structs_maps_and_lists() {
    let yaml = "{name: x, metadata: {filter_metadata: {b: {z: 1, a: [x, true, null, {}, []]}, a: {}}}}";
    assert_eq!(
        round_trip(CLUSTER, yaml),
        r#"{"name":"x","metadata":{"filter_metadata":{"a":{},"b":{"a":["x",true,null,{},[]],"z":1}}}}"#
    );
    let chain = "{source_ports: [1, 2], server_names: [a, b], destination_port: 0}";
    assert_eq!(
        round_trip("envoy.config.listener.v3.FilterChainMatch", chain),
        r#"{"source_ports":[1,2],"destination_port":0,"server_names":["a","b"]}"#
    );
}

#[test]
fn any_is_expanded() {
    for content in [
        r#"{"@type":"a/google.protobuf.Duration","value":"5s"}"#,
        r#"{"@type":"a/google.protobuf.Int64Value","value":"-5"}"#,
        r#"{"@type":"a/google.protobuf.BytesValue","value":"aGk="}"#,
        r#"{"@type":"a/google.protobuf.Timestamp","value":"2020-01-01T00:00:00Z"}"#,
        r#"{"@type":"a/google.protobuf.FieldMask","value":"aB,c.d"}"#,
        r#"{"@type":"a/google.protobuf.Struct","value":{"a":1}}"#,
        r#"{"@type":"a/google.protobuf.Value","value":null}"#,
        r#"{"@type":"a/google.protobuf.Empty"}"#,
        r#"{"@type":"a/google.protobuf.Any","value":{"@type":"a/google.protobuf.Empty"}}"#,
        r#"{"@type":"a/envoy.config.core.v3.Node","id":"x","user_agent_build_version":{"version":{}}}"#,
        r#"{"@type":"a/udpa.type.v1.TypedStruct","type_url":"a/foo.Bar","value":{"b":"c"}}"#,
        "{}",
    ] {
        let yaml = format!("{{typed_filter_metadata: {{x: {content}}}}}");
        let expected = format!("{{\"typed_filter_metadata\":{{\"x\":{content}}}}}");
        assert_eq!(round_trip("envoy.config.core.v3.Metadata", &yaml), expected);
    }
    let unknown =
        [10, 11, b'a', b'/', b'n', b'o', b'.', b's', b'u', b'c', b'h', b'.', b'T', 18, 2, b'h', b'i'];
    assert_eq!(
        json("google.protobuf.Any", &unknown, &JsonOptions::default()),
        r#"{"@type":"a/no.such.T","value":"aGk="}"#
    );
}

#[test]
fn pretty_as_envoy_prints() {
    let yaml = "{filter_metadata: {a: {b: [1, {}]}}, typed_filter_metadata: {x: {'@type': a/google.protobuf.Empty}}}";
    let options = JsonOptions { layout: Layout::Pretty, ..JsonOptions::default() };
    let expected = r#"{
 "filter_metadata": {
  "a": {
   "b": [
    1,
    {}
   ]
  }
 },
 "typed_filter_metadata": {
  "x": {
   "@type": "a/google.protobuf.Empty"
  }
 }
}"#;
    let name = "envoy.config.core.v3.Metadata";
    assert_eq!(json(name, &wire(name, yaml), &options), expected);
}

#[test]
fn defaults_on_demand() {
    let options = JsonOptions { defaults: Defaults::Write, ..JsonOptions::default() };
    assert_eq!(
        json("envoy.config.core.v3.SocketAddress", &[], &options),
        r#"{"protocol":"TCP","address":"","resolver_name":"","ipv4_compat":false,"network_namespace_filepath":""}"#
    );
}

const TLS: &str = "{name: x, tls_certificate: {certificate_chain: {inline_string: c}, \
                   private_key: {inline_string: secret}, password: {inline_bytes: aGk=}}}";

#[test]
fn secrets_are_redacted() {
    let name = "envoy.extensions.transport_sockets.tls.v3.Secret";
    assert_eq!(
        round_trip(name, TLS),
        concat!(
            r#"{"name":"x","tls_certificate":{"certificate_chain":{"inline_string":"c"},"#,
            r#""private_key":{"inline_string":"[redacted]"},"password":{"inline_bytes":"W3JlZGFjdGVkXQ=="}}}"#
        )
    );
    let options = JsonOptions { secrets: Secrets::Show, ..JsonOptions::default() };
    assert!(json(name, &wire(name, TLS), &options).contains("secret"));
}

#[test]
fn secrets_in_a_typed_struct_are_redacted() {
    let content = wire(
        "xds.type.v3.TypedStruct",
        &format!("{{type_url: a/envoy.extensions.transport_sockets.tls.v3.Secret, value: {TLS}}}"),
    );
    let mut bytes = vec![];
    wire::put_bytes(&mut bytes, 1, b"a/xds.type.v3.TypedStruct");
    wire::put_bytes(&mut bytes, 2, &content);
    let shown = json("google.protobuf.Any", &bytes, &JsonOptions::default());
    assert!(shown.contains("[redacted]") && !shown.contains("secret\""), "{shown}");
    assert!(shown.starts_with(r#"{"@type":"a/xds.type.v3.TypedStruct","type_url":"a/envoy."#), "{shown}");
}

#[test]
fn a_mask_selects() {
    let yaml = "{node: {id: u, cluster: c, locality: {zone: z}}, stats_config: {}, admin: {}}";
    let name = "envoy.config.bootstrap.v3.Bootstrap";
    let bytes = wire(name, yaml);
    for (mask, expected) in [
        (&["node.id", "stats_config"][..], r#"{"node":{"id":"u"},"stats_config":{}}"#),
        (&["node.locality", "node.id"], r#"{"node":{"id":"u","locality":{"zone":"z"}}}"#),
        (&["node", "node.id"], r#"{"node":{"id":"u","cluster":"c","locality":{"zone":"z"}}}"#),
        (&["nothing"], "{}"),
    ] {
        let mask: Vec<String> = mask.iter().map(|&path| path.to_owned()).collect();
        assert_eq!(json(name, &bytes, &JsonOptions { mask: &mask, ..JsonOptions::default() }), expected);
    }
}

#[test]
fn what_is_written_reads_back() {
    let cluster = "{name: x, type: EDS, load_assignment: {cluster_name: x, endpoints: [{locality: {zone: z}, \
        lb_endpoints: [{endpoint: {address: {socket_address: {address: a, port_value: 1}}}, \
        load_balancing_weight: 3}]}]}, dns_refresh_rate: 1.5s, lb_subset_config: {fallback_policy: 1}, \
        common_lb_config: {healthy_panic_threshold: {value: 12.5}}}";
    let bytes = wire(CLUSTER, cluster);
    let written = json(CLUSTER, &bytes, &JsonOptions::default());
    let again = json(CLUSTER, &wire(CLUSTER, &written), &JsonOptions::default());
    assert_eq!(written, again);
    assert!(written.contains("12.5"), "{written}");
}

#[test]
fn hostile_messages_are_errors() {
    let mut deep = vec![];
    for _ in 0..300 {
        let mut outer = vec![];
        wire::put_bytes(&mut outer, 3, &deep);
        deep = outer;
    }
    let mut out = String::new();
    let name = "envoy.config.listener.v3.ListenerFilterChainMatchPredicate";
    assert!(to_json(name, &deep, &JsonOptions::default(), &mut out).is_err());
    let mut value = vec![];
    for _ in 0..300 {
        let (mut list, mut outer) = (vec![], vec![]);
        wire::put_bytes(&mut list, 1, &value);
        wire::put_bytes(&mut outer, 6, &list);
        value = outer;
    }
    assert!(to_json("google.protobuf.Value", &value, &JsonOptions::default(), &mut out).is_err());
    assert!(to_json(CLUSTER, &[10, 200], &JsonOptions::default(), &mut out).is_err());
    assert!(to_json("a/b.C", &[], &JsonOptions::default(), &mut out).is_err());
}

mod random {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn no_bytes_panic(bytes in prop::collection::vec(proptest::num::u8::ANY, 0..200)) {
            for name in [CLUSTER, "google.protobuf.Any", "google.protobuf.Value", "google.protobuf.Timestamp"] {
                let mut out = String::new();
                let _ = to_json(name, &bytes, &JsonOptions::default(), &mut out);
            }
        }
    }
}
