use super::*;
use xds_api::envoy::config::cluster::v3::Cluster;
use xds_api::envoy::config::endpoint::v3::ClusterLoadAssignment;
use xds_api::envoy::config::listener::v3::Listener;
use xds_api::envoy::config::route::v3::RouteConfiguration;
use xds_api::envoy::extensions::transport_sockets::tls::v3::Secret;

fn any(type_url: &TypeUrl, message: &impl Message) -> Any {
    Any { type_url: type_url.as_str().to_owned(), value: message.encode_to_vec() }
}

fn cluster(name: &str) -> Any {
    any(
        &TypeUrl::CLUSTER,
        &Cluster { name: name.into(), alt_stat_name: "other".into(), ..Cluster::default() },
    )
}

fn wrapped(resource: Resource) -> Any {
    Any { type_url: WRAPPER.to_owned(), value: resource.encode_to_vec() }
}

#[test]
fn names_are_read_from_the_bytes() {
    let cases = [
        (TypeUrl::LISTENER, any(&TypeUrl::LISTENER, &Listener { name: "n".into(), ..Listener::default() })),
        (TypeUrl::CLUSTER, cluster("n")),
        (
            TypeUrl::ROUTE_CONFIGURATION,
            any(
                &TypeUrl::ROUTE_CONFIGURATION,
                &RouteConfiguration { name: "n".into(), ..Default::default() },
            ),
        ),
        (
            TypeUrl::CLUSTER_LOAD_ASSIGNMENT,
            any(
                &TypeUrl::CLUSTER_LOAD_ASSIGNMENT,
                &ClusterLoadAssignment { cluster_name: "n".into(), ..Default::default() },
            ),
        ),
        (TypeUrl::SECRET, any(&TypeUrl::SECRET, &Secret { name: "n".into(), ..Secret::default() })),
    ];
    for (type_url, any) in cases {
        assert_eq!(name_of(&type_url, &any).as_deref(), Ok("n"), "{type_url}");
    }
}

#[test]
fn names_follow_the_wire_rules_of_protobuf() {
    let of =
        |value: &[u8]| name_of(&TypeUrl::CLUSTER, &Any { type_url: String::new(), value: value.to_vec() });
    assert_eq!(of(b"").as_deref(), Ok(""));
    assert_eq!(of(b"\x0a\x01a\x0a\x01b").as_deref(), Ok("b"), "the last one counts");
    assert_eq!(of(b"\x10\x05\x0a\x01a\x1d\x00\x00\x00\x00").as_deref(), Ok("a"), "other fields are skipped");
    for bad in [
        &b"\x0a\x05a"[..],
        b"\x0a\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01",
        b"\x0a",
        b"\x0a\x01\xff",
        b"\x12\x7f",
        b"\x00",
        b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff",
    ] {
        assert!(of(bad).is_err(), "{bad:?}");
    }
    let groups = [0x13_u8].repeat(100_000);
    assert!(of(&groups).is_err(), "nested groups end at a limit");
    assert!(name_of(&TypeUrl::new("type.googleapis.com/x.Y"), &cluster("n")).is_err());
}

#[test]
fn a_known_type_url_is_its_constant() {
    let text = "type.googleapis.com/envoy.config.cluster.v3.Cluster";
    assert!(matches!(TypeUrl::new(text), TypeUrl(Repr::Known(_))));
    assert_eq!(TypeUrl::new(text), TypeUrl::CLUSTER);
    assert_ne!(TypeUrl::new("type.googleapis.com/x.Y"), TypeUrl::CLUSTER);
    assert_eq!(TypeUrl::new("type.googleapis.com/x.Y").to_string(), "type.googleapis.com/x.Y");
}

fn response(type_url: &TypeUrl, resources: Vec<Any>) -> DiscoveryResponse {
    DiscoveryResponse {
        version_info: "v1".into(),
        type_url: type_url.as_str().into(),
        resources,
        ..DiscoveryResponse::default()
    }
}

#[test]
fn wrappers_give_name_version_and_time_to_live() {
    let wrapper = Resource {
        name: "alias".into(),
        version: "7".into(),
        ttl: Some(prost_types::Duration { seconds: 3, nanos: 0 }),
        resource: Some(cluster("n")),
        ..Resource::default()
    };
    let heartbeat = Resource { name: "h".into(), ..Resource::default() };
    let resources = vec![cluster("plain"), wrapped(wrapper), wrapped(heartbeat)];
    let decoded = decode_state_of_world(response(&TypeUrl::CLUSTER, resources), &Limits::default()).unwrap();
    let expected = [
        Decoded { name: "plain".into(), version: "v1".into(), any: Some(cluster("plain")), ttl: None },
        Decoded {
            name: "alias".into(),
            version: "7".into(),
            any: Some(cluster("n")),
            ttl: Some(Duration::from_secs(3)),
        },
        Decoded { name: "h".into(), version: "v1".into(), any: None, ttl: None },
    ];
    assert_eq!(decoded.resources, expected);
}

#[test]
fn duplicates_are_refused_or_replaced_by_type() {
    let decoded = decode_state_of_world(
        response(&TypeUrl::CLUSTER, vec![cluster("a"), cluster("b"), cluster("a")]),
        &Limits::default(),
    )
    .unwrap();
    assert_eq!(decoded.resources.len(), 2);
    assert_eq!(decoded.duplicates, [("a".to_owned(), "duplicate cluster a found".to_owned())]);

    let endpoints = |priority: u32| {
        let mut assignment = ClusterLoadAssignment { cluster_name: "a".into(), ..Default::default() };
        assignment.endpoints.push(xds_api::envoy::config::endpoint::v3::LocalityLbEndpoints {
            priority,
            ..Default::default()
        });
        any(&TypeUrl::CLUSTER_LOAD_ASSIGNMENT, &assignment)
    };
    let both = response(&TypeUrl::CLUSTER_LOAD_ASSIGNMENT, vec![endpoints(1), endpoints(2)]);
    let decoded = decode_state_of_world(both, &Limits::default()).unwrap();
    assert_eq!(decoded.resources.iter().map(|r| r.any.clone()).collect::<Vec<_>>(), [Some(endpoints(2))]);
}

#[test]
fn delta_duplicates_reject_the_response() {
    let resource =
        |name: &str| Resource { name: name.into(), resource: Some(cluster(name)), ..Resource::default() };
    let delta = |resources: Vec<Resource>, removed: &[&str]| DeltaDiscoveryResponse {
        type_url: TypeUrl::CLUSTER.as_str().into(),
        resources,
        removed_resources: removed.iter().map(|name| (*name).to_owned()).collect(),
        ..DeltaDiscoveryResponse::default()
    };
    let decode = |response| decode_delta(response, &Limits::default());
    assert!(decode(delta(vec![resource("a"), resource("b")], &["c"])).is_ok());
    assert_eq!(
        decode(delta(vec![resource("a"), resource("a")], &[])).unwrap_err(),
        "duplicate name a found among added/updated resources"
    );
    assert_eq!(
        decode(delta(vec![resource("a")], &["a"])).unwrap_err(),
        "duplicate name a found in the union of added+removed resources"
    );
}

#[test]
fn what_cannot_be_read_rejects_the_response() {
    let limits = Limits { max_resources: 2, max_name_bytes: 8, ..Limits::default() };
    let listener = any(&TypeUrl::LISTENER, &Listener::default());
    let broken = Any { type_url: TypeUrl::CLUSTER.as_str().into(), value: b"\x0a\x7f".to_vec() };
    let broken_wrapper = Any { type_url: WRAPPER.into(), value: b"\x0a\x7f".to_vec() };
    let negative = Resource {
        name: "n".into(),
        ttl: Some(prost_types::Duration { seconds: -1, nanos: 0 }),
        resource: Some(cluster("n")),
        ..Resource::default()
    };
    for (resources, says) in [
        (vec![cluster("a"), listener], "does not match the message-wide type URL"),
        (vec![broken], "malformed"),
        (vec![broken_wrapper], "malformed"),
        (vec![wrapped(negative)], "invalid ttl"),
        (vec![cluster("123456789")], "9 bytes"),
        (vec![cluster("a"), cluster("b"), cluster("c")], "3 resources"),
    ] {
        let error = decode_state_of_world(response(&TypeUrl::CLUSTER, resources), &limits).unwrap_err();
        assert!(error.contains(says), "{error}");
    }
}
