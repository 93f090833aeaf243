use std::rc::Rc;
use std::time::{Instant, SystemTime};

use http::{HeaderMap, Method};
use prost::{Message as _, Name as _};
use prost_types::{Struct, Value};
use xds_api::envoy::config::core::v3::TypedExtensionConfig;
use xds_api::envoy::config::route::v3::rate_limit::action::meta_data::Source;
use xds_api::envoy::config::route::v3::rate_limit::action::{
    ActionSpecifier, GenericKey, MaskedRemoteAddress, MetaData, RequestHeaders,
};
use xds_api::envoy::config::route::v3::rate_limit::r#override::DynamicMetadata;

use xds_api::envoy::extensions::rate_limit_descriptors::jwt_claim::v3 as jwt_claim;
use xds_api::envoy::r#type::metadata::v3::metadata_key::PathSegment;
use xds_api::envoy::r#type::metadata::v3::metadata_key::path_segment::Segment;

use super::*;
use crate::config::BuildEnv;
use crate::head::Scheme;
use crate::metadata::Metadata;
use crate::stream_info::ConnectionInfo;
use crate::upstream::{Host, Locality};

fn action(specifier: ActionSpecifier) -> proto::rate_limit::Action {
    proto::rate_limit::Action { action_specifier: Some(specifier) }
}

fn key(value: &str) -> proto::rate_limit::Action {
    action(ActionSpecifier::GenericKey(GenericKey { descriptor_value: value.into(), ..Default::default() }))
}

fn build(proto: &proto::RateLimit, place: Place) -> Result<RateLimits, Vec<String>> {
    let env = BuildEnv::new(1);
    let mut cx = BuildCx::new(&env);
    RateLimits::build("rate_limits", std::slice::from_ref(proto), place, &mut cx)
        .map_err(|Rejected| cx.into_errors().into_iter().map(|error| error.path).collect())
}

fn described(proto: &proto::RateLimit, client: &str, info: impl FnOnce(&mut StreamInfo)) -> Option<String> {
    let limits = build(proto, Place::Route).unwrap();
    let client = crate::address::Address::Ip(client.parse().unwrap());
    let connection = ConnectionInfo::new(client.clone(), client, "l".into());
    let mut stream = StreamInfo::new(Rc::new(connection), Instant::now(), SystemTime::now());
    info(&mut stream);
    let request = RequestHead {
        method: Method::GET,
        scheme: Scheme::Http,
        authority: "host".into(),
        path: "/".into(),
        upgrade: None,
        case: None,
        headers: HeaderMap::new(),
    };
    let subject = Subject {
        request: &request,
        response: None,
        info: &stream,
        route: None,
        local_cluster: "here",
        tokens: Tokens::default(),
    };
    let limit = limits.iter().next().unwrap();
    limit.descriptor(&subject).map(|descriptor| {
        let entries = descriptor.entries.iter().map(|entry| format!("{}={}", entry.key, entry.value));
        format!("{} {:?}", entries.collect::<Vec<_>>().join(","), descriptor.limit)
    })
}

#[test]
fn networks_are_masked() {
    let masked = |v4, v6| proto::RateLimit {
        actions: vec![action(ActionSpecifier::MaskedRemoteAddress(MaskedRemoteAddress {
            v4_prefix_mask_len: v4,
            v6_prefix_mask_len: v6,
        }))],
        ..Default::default()
    };
    for (client, v4, v6, network) in [
        ("1.2.3.4:5", Some(24), None, "1.2.3.0/24"),
        ("1.2.3.4:5", Some(0), None, "0.0.0.0/0"),
        ("1.2.3.4:5", None, None, "1.2.3.4/32"),
        ("[fd01:2::3]:5", None, Some(16), "fd01::/16"),
        ("[fd01:2::3]:5", None, None, "fd01:2::3/128"),
    ] {
        let expected = format!("masked_remote_address={network} None");
        assert_eq!(described(&masked(v4, v6), client, |_| ()), Some(expected));
    }
}

#[test]
fn an_action_without_a_value_leaves_the_entry_or_the_descriptor_out() {
    let header = |skip_if_absent| {
        let header_name = "x-absent".into();
        let headers = RequestHeaders { header_name, descriptor_key: "k".into(), skip_if_absent };
        action(ActionSpecifier::RequestHeaders(headers))
    };
    let limit = |actions| proto::RateLimit { actions, ..Default::default() };
    assert_eq!(described(&limit(vec![key("v"), header(false)]), "1.1.1.1:1", |_| ()), None);
    let left_out = described(&limit(vec![key("v"), header(true)]), "1.1.1.1:1", |_| ());
    assert_eq!(left_out.as_deref(), Some("generic_key=v None"));
    assert_eq!(described(&limit(vec![header(true)]), "1.1.1.1:1", |_| ()), None);
}

#[test]
fn the_place_of_the_host_counts_where_there_is_a_host() {
    let segment = PathSegment { segment: Some(Segment::Key("zone".into())) };
    let metadata = MetaData {
        descriptor_key: "place".into(),
        metadata_key: Some(MetadataKey { key: "of".into(), path: vec![segment] }),
        default_value: "nowhere".into(),
        source: Source::ClusterLocalityEntry.into(),
        ..Default::default()
    };
    let limit =
        proto::RateLimit { actions: vec![action(ActionSpecifier::Metadata(metadata))], ..Default::default() };
    let zone = Value { kind: Some(Kind::StringValue("east".into())) };
    let said = xds_api::envoy::config::core::v3::Metadata {
        filter_metadata: [("of".to_owned(), Struct { fields: [("zone".to_owned(), zone)].into() })].into(),
        ..Default::default()
    };
    let at = |metadata: Metadata| {
        let mut host = Host::new(crate::address::Address::Ip("1.2.3.4:5".parse().unwrap()));
        host.locality = Arc::new(Locality { metadata, ..Locality::default() });
        move |info: &mut StreamInfo| info.upstream.host = Some(Arc::new(host))
    };
    let placed = described(&limit, "1.1.1.1:1", at(Metadata::new(Some(&said))));
    assert_eq!(placed.as_deref(), Some("place=east None"));
    let unsaid = described(&limit, "1.1.1.1:1", at(Metadata::default()));
    assert_eq!(unsaid.as_deref(), Some("place=nowhere None"));
    assert_eq!(described(&limit, "1.1.1.1:1", |_| ()).as_deref(), Some("place=nowhere None"));
}

#[test]
fn a_token_is_in_a_header_or_in_a_cookie() {
    let built = |header_name: &str, cookie: &str| {
        let descriptor = jwt_claim::Descriptor {
            descriptor_key: "k".into(),
            header_name: header_name.into(),
            cookie: cookie.into(),
            claim_name: "sub".into(),
            ..Default::default()
        };
        let any = prost_types::Any {
            type_url: format!("type.googleapis.com/{}", jwt_claim::Descriptor::full_name()),
            value: descriptor.encode_to_vec(),
        };
        let config = TypedExtensionConfig { name: "e".into(), typed_config: Some(any) };
        let actions = vec![action(ActionSpecifier::Extension(config))];
        build(&proto::RateLimit { actions, ..Default::default() }, Place::Route).map(|_| ())
    };
    let refused = Err(vec!["rate_limits[0].actions[0].extension.typed_config".to_owned()]);
    assert_eq!([built("x-a", ""), built("", "a")], [Ok(()), Ok(())]);
    assert_eq!([built("", ""), built("x-a", "a")], [refused.clone(), refused]);
}

#[test]
fn filters_may_leave_a_limit() {
    let segment = PathSegment { segment: Some(Segment::Key("limit".into())) };
    let metadata_key = Some(MetadataKey { key: "of".into(), path: vec![segment] });
    let limit = proto::RateLimit {
        actions: vec![key("v")],
        limit: Some(proto::rate_limit::Override {
            override_specifier: Some(OverrideSpecifier::DynamicMetadata(DynamicMetadata { metadata_key })),
        }),
        ..Default::default()
    };
    let leave = |unit: &'static str| {
        move |info: &mut StreamInfo| {
            let value = |kind| Value { kind: Some(kind) };
            let fields = [
                ("requests_per_unit".to_owned(), value(Kind::NumberValue(7.0))),
                ("unit".to_owned(), value(Kind::StringValue(unit.to_owned()))),
            ];
            let limit = value(Kind::StructValue(Struct { fields: fields.into() }));
            info.metadata.merge("of", Struct { fields: [("limit".to_owned(), limit)].into() });
        }
    };
    let limit_of = |unit| described(&limit, "1.1.1.1:1", leave(unit));
    assert_eq!(limit_of("HOUR").as_deref(), Some("generic_key=v Some(Limit { requests: 7, unit: Hour })"));
    assert_eq!(limit_of("FORTNIGHT").as_deref(), Some("generic_key=v None"));
}

#[test]
fn filters_have_no_stages() {
    let staged = proto::RateLimit { stage: Some(1), actions: vec![key("v")], ..Default::default() };
    assert!(build(&staged, Place::Route).is_ok());
    assert_eq!(build(&staged, Place::Filter).unwrap_err(), ["rate_limits[0]"]);
}

#[test]
fn hits_are_refused_where_nobody_heeds_them() {
    let hits = proto::rate_limit::HitsAddend { number: Some(3), ..Default::default() };
    let limit = proto::RateLimit { actions: vec![key("a")], hits_addend: Some(hits), ..Default::default() };
    assert_eq!(build(&limit, Place::Route).unwrap_err(), ["rate_limits[0].hits_addend"]);
    assert!(build(&limit, Place::Filter).is_ok());
}
