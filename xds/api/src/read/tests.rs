use super::*;
use crate::envoy::config::{bootstrap::v3::Bootstrap, cluster::v3::Cluster, core::v3::Metadata};

fn load<M: prost::Message + prost::Name + Default>(text: &str) -> Result<M, String> {
    read(&Source::yaml("", text.as_bytes()), &Options::default())
        .map(|loaded| loaded.message)
        .map_err(|errors| errors.to_string())
}

fn json<M: prost::Message + prost::Name + Default>(text: &str) -> Result<M, String> {
    read(&Source::file("a.json", text.as_bytes()), &Options::default())
        .map(|loaded| loaded.message)
        .map_err(|errors| errors.to_string())
}

fn cluster(fields: &str) -> Result<Cluster, String> {
    load(&format!("name: x\n{fields}"))
}

/// Rows in this file are what Envoy 1.40 said of `static_resources: {clusters: [{name: c, <row>}]}`.
#[test]
fn enums_by_name_in_any_case_or_by_number() {
    for (text, number) in [
        ("STATIC", 0),
        ("static", 0),
        ("Static", 0),
        ("1", 1),
        ("\"1\"", 1),
        ("strict_DNS", 1),
        ("99", 99),
        ("-1", -1),
    ] {
        let cluster = cluster(&format!("type: {text}")).unwrap();
        let Some(crate::envoy::config::cluster::v3::cluster::ClusterDiscoveryType::Type(kind)) =
            cluster.cluster_discovery_type
        else {
            panic!("{text}")
        };
        assert_eq!(kind, number, "{text}");
    }
    assert_eq!(cluster("type: null").unwrap().cluster_discovery_type, None);
    for (text, error) in [
        (
            "strict-dns",
            "unknown enum value: 'strict-dns' of envoy.config.cluster.v3.Cluster.DiscoveryType \
             (did you mean 'STRICT_DNS'?)",
        ),
        ("1.0", "unknown enum value: '1.0' of envoy.config.cluster.v3.Cluster.DiscoveryType"),
        ("\"\"", "unknown enum value: '' of envoy.config.cluster.v3.Cluster.DiscoveryType"),
        ("[STATIC]", "expected number or string, got a list"),
        ("on", "expected number or string, got a boolean"),
    ] {
        assert_eq!(cluster(&format!("type: {text}")), Err(format!("2:7: type: {error}")));
    }
}

#[test]
fn wrappers_take_the_bare_value_or_an_object() {
    for (text, value) in [
        ("5", 5),
        ("\"5\"", 5),
        ("1e3", 1000),
        ("1.0", 1),
        ("4294967295", u32::MAX),
        ("0x10", 16),
        ("\"0x10\"", 16),
        ("{value: 5}", 5),
        ("0", 0),
        ("\"+5\"", 5),
        ("05", 5),
    ] {
        let field = format!("per_connection_buffer_limit_bytes: {text}");
        assert_eq!(cluster(&field).unwrap().per_connection_buffer_limit_bytes, Some(value), "{text}");
    }
    assert_eq!(
        cluster("per_connection_buffer_limit_bytes: null").unwrap().per_connection_buffer_limit_bytes,
        None
    );
    for text in ["1.5", "-1", "4294967296", "\" 5\"", "\"\"", "true", "[5]", "1e-1"] {
        assert!(cluster(&format!("per_connection_buffer_limit_bytes: {text}")).is_err(), "{text}");
    }
}

#[test]
fn booleans_bare_and_quoted() {
    for text in ["true", "\"true\"", "\"1\"", "yes", "on", "\"yes\"", "True"] {
        assert!(
            cluster(&format!("ignore_health_on_host_removal: {text}")).unwrap().ignore_health_on_host_removal
        );
    }
    for text in ["1", "\"\"", "[]"] {
        assert!(cluster(&format!("ignore_health_on_host_removal: {text}")).is_err(), "{text}");
    }
}

#[test]
fn strings_must_be_strings() {
    assert_eq!(load::<Bootstrap>("node: {id: 1.5}").unwrap().node.unwrap().id, "1.5");
    assert_eq!(load::<Bootstrap>("node: {id: 9999999999}").unwrap().node.unwrap().id, "9999999999");
    for text in ["on", "5", "0x10", "!!str 5", "[a]", "{a: b}", "n"] {
        let error = load::<Bootstrap>(&format!("node: {{id: {text}}}")).unwrap_err();
        assert!(error.starts_with("1:12: node.id: expected a string, got a"), "{text}: {error}");
    }
    assert!(json::<Bootstrap>(r#"{"node":{"id":1.5}}"#).is_err());
    assert!(load::<Bootstrap>("stats_config: []").is_err());
}

#[test]
fn durations_are_text_or_fields() {
    let timeout = |text: &str| {
        cluster(&format!("connect_timeout: {text}")).map(|c| c.connect_timeout.map(|d| (d.seconds, d.nanos)))
    };
    assert_eq!(timeout("0.25s"), Ok(Some((0, 250_000_000))));
    assert_eq!(timeout("{seconds: 5, nanos: 1000}"), Ok(Some((5, 1000))));
    assert_eq!(timeout("null"), Ok(None));
    assert_eq!(timeout("0s"), Ok(Some((0, 0))));
    for text in ["5", "1.5", "5 s", "[5s]", "5ms"] {
        assert!(timeout(text).is_err(), "{text}");
    }
}

#[test]
fn one_value_stands_for_a_list_and_null_for_nothing() {
    let one = "load_assignment: {cluster_name: c, endpoints: {lb_endpoints: {endpoint: {hostname: h}}}}";
    let list = "load_assignment: {cluster_name: c, endpoints: [{lb_endpoints: [{endpoint: {hostname: h}}]}]}";
    assert_eq!(cluster(one), cluster(list));
    assert!(cluster(one).is_ok());
    let with_null = cluster("load_assignment: {endpoints: [null]}").unwrap().load_assignment.unwrap();
    assert_eq!(with_null.endpoints, [Default::default()]);
    assert!(cluster("load_assignment: [{cluster_name: c}]").is_err());
    assert!(cluster("load_assignment: abc").is_err());
    let map = cluster("typed_extension_protocol_options: {a: null}").unwrap();
    assert_eq!(map.typed_extension_protocol_options["a"], prost_types::Any::default());
    assert!(cluster("metadata: {filter_metadata: [a]}").is_err());
}

#[test]
fn a_oneof_is_set_once() {
    assert_eq!(
        cluster("type: STATIC\ncluster_type: {name: x}"),
        Err("3:1: cluster_type: 'cluster_type' has already been set (either directly or as part of a oneof)"
            .into())
    );
    assert!(cluster("type: STATIC\ncluster_type: null").is_ok());
    assert!(cluster("type: STATIC\ntype: STATIC").is_ok());
}

#[test]
fn repeated_keys() {
    let yaml = load::<Bootstrap>("node: {id: u}\nnode: {cluster: m}").unwrap().node.unwrap();
    assert_eq!((yaml.id.as_str(), yaml.cluster.as_str()), ("", "m"));
    let both = json::<Bootstrap>(r#"{"node":{"id":"u"},"node":{"cluster":"m"}}"#).unwrap().node.unwrap();
    assert_eq!((both.id.as_str(), both.cluster.as_str()), ("u", "m"));
    let last =
        json::<Bootstrap>(r#"{"enableDispatcherStats":true,"enable_dispatcher_stats":false}"#).unwrap();
    assert!(!last.enable_dispatcher_stats);
    let merged =
        load::<Bootstrap>("statsConfig: {use_all_default_tags: true}\nstats_config: {stats_tags: [{}]}");
    let merged = merged.unwrap().stats_config.unwrap();
    assert_eq!((merged.use_all_default_tags, merged.stats_tags.len()), (Some(true), 1));
}

#[test]
fn structs_keep_what_the_text_said() {
    let metadata: Metadata =
        load("filter_metadata: {a: {b: 1, c: [x, 1.5, {d: on}], e: null, f: {}}}").unwrap();
    let shown = format!("{:?}", metadata.filter_metadata["a"]);
    for part in [
        "NumberValue(1.0)",
        "StringValue(\"x\")",
        "StringValue(\"1.5\")",
        "BoolValue(true)",
        "NullValue(NullValue)",
    ] {
        assert!(shown.contains(part), "{part} in {shown}");
    }
    let metadata: Metadata = json(r#"{"filterMetadata":{"a":{"c":1.5}}}"#).unwrap();
    assert!(format!("{:?}", metadata.filter_metadata["a"]).contains("NumberValue(1.5)"));
}

fn any(content: &str) -> Result<(String, Vec<u8>), String> {
    let metadata: Metadata = load(&format!("typed_filter_metadata: {{a: {{{content}}}}}"))?;
    let any = &metadata.typed_filter_metadata["a"];
    Ok((any.type_url.clone(), any.value.clone()))
}

#[test]
fn any_of_known_types() {
    let prefix = "\"@type\": type.googleapis.com/google.protobuf";
    for (content, value) in [
        ("Duration, value: 5s", &[8, 5][..]),
        ("StringValue, value: abc", &[10, 3, b'a', b'b', b'c']),
        ("Value, value: abc", &[26, 3, b'a', b'b', b'c']),
        ("Value, value: null", &[8, 0]),
        ("ListValue, value: [true]", &[10, 2, 32, 1]),
        ("Empty", &[]),
        ("BytesValue, value: _-8=", &[10, 2, 255, 239]),
        ("FieldMask, value: \"aB,c\"", &[10, 3, b'a', b'_', b'b', 10, 1, b'c']),
        ("Timestamp, value: \"1970-01-01T00:00:01Z\"", &[8, 1]),
        ("Int64Value, value: \"-1\"", &[8, 255, 255, 255, 255, 255, 255, 255, 255, 255, 1]),
    ] {
        assert_eq!(any(&format!("{prefix}.{content}")).map(|any| any.1), Ok(value.to_vec()), "{content}");
    }
    assert_eq!(any("").unwrap(), (String::new(), vec![]));
    let url = any("\"@type\": a/b/google.protobuf.Empty").unwrap().0;
    assert_eq!(url, "a/b/google.protobuf.Empty");
    for (content, error) in [
        ("a: b", "missing @type"),
        ("\"@type\": type.googleapis.com/foo.Bar", "could not find @type 'type.googleapis.com/foo.Bar'"),
        ("\"@type\": google.protobuf.Empty", "at least one /"),
        ("\"@type\": /google.protobuf.Empty", "nonempty host"),
        ("\"@type\": 5", "expected a string as @type"),
        ("\"@type\": a/google.protobuf.Struct, a: 1", "must be @type or value"),
        ("\"@type\": a/google.protobuf.Empty, value: {}", "no such field: 'value'"),
        ("\"@type\": a/google.protobuf.Duration, value: 5", "expected a string"),
    ] {
        let found = any(content).unwrap_err();
        assert!(
            found.contains(error) && found.contains("typed_filter_metadata[\"a\"]"),
            "{content}: {found}"
        );
    }
}

#[test]
fn typed_structs_become_what_they_name() {
    let node = "type_url: type.googleapis.com/envoy.config.core.v3.Node, value: {id: x}";
    for kind in ["xds.type.v3.TypedStruct", "udpa.type.v1.TypedStruct"] {
        let (url, value) = any(&format!("\"@type\": type.googleapis.com/{kind}, {node}")).unwrap();
        assert_eq!(url, "type.googleapis.com/envoy.config.core.v3.Node");
        assert_eq!(value, [10, 1, b'x']);
        let unknown = format!("\"@type\": type.googleapis.com/{kind}, type_url: a/foo.Bar, value: {{id: x}}");
        assert!(any(&unknown).unwrap().0.ends_with(kind));
    }
    let wrong =
        "\"@type\": a/xds.type.v3.TypedStruct, type_url: a/envoy.config.core.v3.Node, value: {id: 5, foo: 1}";
    let error = any(wrong).unwrap_err();
    assert!(
        error.contains("[\"a\"].id: expected a string") && error.contains("[\"a\"].foo: no such field"),
        "{error}"
    );
}

#[test]
fn every_error_is_reported_with_its_place() {
    let text = "node: {id: u, foo: 1}\nstatic_resources:\n  clusters:\n  - name: [x]\n    connect_timeout: 5\n  - type: nope\nbar: 2\n";
    let errors =
        read::<Bootstrap>(&Source::file("b.yaml", text.as_bytes()), &Options::default()).unwrap_err();
    assert_eq!(
        errors.to_string(),
        "b.yaml:1:15: node.foo: no such field: 'foo'\n\
         b.yaml:4:11: static_resources.clusters[0].name: expected a string, got a list\n\
         b.yaml:5:22: static_resources.clusters[0].connect_timeout: expected a string, got a number\n\
         b.yaml:6:11: static_resources.clusters[1].type: unknown enum value: 'nope' of \
         envoy.config.cluster.v3.Cluster.DiscoveryType\n\
         b.yaml:7:1: bar: no such field: 'bar'"
    );
}

#[test]
fn unknown_fields_can_be_allowed() {
    let options = Options { unknown_fields: UnknownFields::Allow };
    let text = "node: {id: u, foo: {x: [1]}}\nstatic_resources: {clusters: [{type: nope}]}";
    let loaded = read::<Bootstrap>(&Source::yaml("", text.as_bytes()), &options).unwrap();
    assert_eq!(loaded.message.node.unwrap().id, "u");
    let paths: Vec<_> = loaded.unknown_fields.iter().map(|error| error.path.as_str()).collect();
    assert_eq!(paths, ["node.foo", "static_resources.clusters[0].type"]);
}

#[test]
fn deprecated_fields_are_noticed() {
    let loaded =
        read::<Bootstrap>(&Source::yaml("", b"admin: {access_log_path: /dev/null}"), &Options::default())
            .unwrap();
    let expected = Deprecated {
        path: "admin.access_log_path".into(),
        name: "envoy.config.bootstrap.v3.Admin.access_log_path".into(),
        disallowed: false,
    };
    assert_eq!(loaded.deprecated, [expected]);
}

#[test]
fn what_is_not_an_object_is_refused() {
    for text in ["", "# x", "null", "- a", "abc"] {
        assert!(load::<Bootstrap>(text).unwrap_err().contains("expected an object"), "{text:?}");
    }
    assert!(json::<Bootstrap>("").is_err());
    let invalid =
        read::<Bootstrap>(&Source::file("a.json", b"{\"node\":{\"id\":\"\xff\"}}"), &Options::default());
    assert!(invalid.unwrap_err().to_string().starts_with("a.json: not UTF-8"));
    let lossy = read::<Bootstrap>(&Source::yaml("", b"node: {id: u} #\xff"), &Options::default());
    assert_eq!(lossy.unwrap().message.node.unwrap().id, "u");
}

#[test]
fn binary_is_checked_for_unknown_fields() {
    let load = |bytes: &[u8]| read::<Bootstrap>(&Source::file("a.pb", bytes), &Options::default());
    assert_eq!(load(&[10, 3, 10, 1, b'u']).unwrap().message.node.unwrap().id, "u");
    let error = load(&[10, 4, 0x98, 6, 1, 0]).unwrap_err().to_string();
    assert!(error.starts_with("a.pb: "), "{error}");
    let error = load(&[10, 3, 0x98, 6, 1]).unwrap_err().to_string();
    assert_eq!(error, "a.pb: node.99: no such field: number 99 of envoy.config.core.v3.Node");
}

#[test]
fn merging_replaces_values_and_appends_lists() {
    let load =
        |text: &str| read::<Bootstrap>(&Source::yaml("", text.as_bytes()), &Options::default()).unwrap();
    let file = load(
        "node: {id: u, cluster: c}\nstatic_resources: {clusters: [{name: a}]}\nstats_config: {use_all_default_tags: false}",
    );
    let inline = load(
        "node: {id: v}\nstatic_resources: {clusters: [{name: b}]}\nstats_config: {use_all_default_tags: true}",
    );
    let merged = merge(file, inline).unwrap();
    let node = merged.message.node.as_ref().unwrap();
    assert_eq!((node.id.as_str(), node.cluster.as_str()), ("v", "c"));
    let names: Vec<_> =
        merged.message.static_resources.as_ref().unwrap().clusters.iter().map(|c| &c.name).collect();
    assert_eq!(names, ["a", "b"]);
    assert_eq!(merged.message.stats_config.as_ref().unwrap().use_all_default_tags, Some(true));
    assert_eq!(prost::Message::encode_to_vec(&merged.message), merged.bytes);
}

mod random {
    use proptest::prelude::*;

    use super::*;

    /// JSON-like text, often with the names of real fields.
    fn json_text() -> impl Strategy<Value = String> {
        let leaf = prop_oneof![
            Just("null".to_owned()),
            Just("true".to_owned()),
            (-1_000_000_i64..1_000_000_000_000).prop_map(|n| n.to_string()),
            proptest::num::f64::NORMAL.prop_map(|n| format!("{n:e}")),
            "[a-z0-9./@:\\-é]{0,12}".prop_map(|s| format!("{s:?}")),
            Just("\"5s\"".to_owned()),
            Just("\"type.googleapis.com/envoy.config.core.v3.Node\"".to_owned()),
        ];
        let key = prop::sample::select(vec![
            "node",
            "id",
            "metadata",
            "admin",
            "address",
            "socket_address",
            "portValue",
            "static_resources",
            "listeners",
            "clusters",
            "name",
            "type",
            "connect_timeout",
            "load_assignment",
            "endpoints",
            "@type",
            "typed_config",
            "filters",
            "filter_chains",
            "transport_socket",
            "value",
            "stats_config",
            "x",
        ]);
        leaf.prop_recursive(6, 60, 6, move |inner| {
            let entry = (key.clone(), inner.clone()).prop_map(|(k, v)| format!("\"{k}\":{v}"));
            prop_oneof![
                prop::collection::vec(inner, 0..5).prop_map(|v| format!("[{}]", v.join(","))),
                prop::collection::vec(entry, 0..6).prop_map(|v| format!("{{{}}}", v.join(","))),
            ]
        })
    }

    proptest! {
        #[test]
        fn no_text_panics(text in json_text(), noise in "\\PC{0,60}") {
            for text in [text.as_str(), noise.as_str()] {
                for name in ["a.json", "a.yaml"] {
                    let source = Source::file(name, text.as_bytes());
                    let options = Options { unknown_fields: UnknownFields::Allow };
                    if let Ok(loaded) = read::<Bootstrap>(&source, &options) {
                        let _ = crate::check::check("a/envoy.config.bootstrap.v3.Bootstrap", &loaded.bytes);
                    }
                }
            }
        }

        #[test]
        fn no_bytes_panic(bytes in prop::collection::vec(proptest::num::u8::ANY, 0..200)) {
            for name in ["a.pb", "a.json", "a.yaml"] {
                let _ = read::<Bootstrap>(&Source::file(name, &bytes), &Options::default());
            }
            let _ = crate::check::check("a/envoy.config.cluster.v3.Cluster", &bytes);
        }
    }
}
