//! Access log filters against the table of what each lets through.

use prost_types::{Struct, Value, value::Kind as ValueKind};
use xds_api::envoy::config::core::v3::RuntimeUInt32;
use xds_api::envoy::config::route::v3::HeaderMatcher as ProtoHeader;
use xds_api::envoy::r#type::matcher::v3 as matcher;
use xds_api::envoy::r#type::v3::FractionalPercent;

use super::*;
use crate::config::BuildEnv;
use crate::format::tests::{Fixture, headers};
use crate::runtime::RuntimeLayer;

fn env(runtime: &[(&str, &str)]) -> BuildEnv {
    let values = runtime.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
    let layer = RuntimeLayer { name: "static".to_owned(), values, is_admin: false };
    BuildEnv { runtime: Arc::new(Runtime::new(vec![layer])), ..BuildEnv::new(1) }
}

fn wrap(specifier: FilterSpecifier) -> proto::AccessLogFilter {
    proto::AccessLogFilter { filter_specifier: Some(specifier) }
}

fn build(env: &BuildEnv, specifier: FilterSpecifier) -> LogFilter {
    LogFilter::build(&wrap(specifier), &mut BuildCx::new(env)).unwrap()
}

fn refused(specifier: FilterSpecifier) -> String {
    let env = env(&[]);
    let mut cx = BuildCx::new(&env);
    assert!(LogFilter::build(&wrap(specifier), &mut cx).is_err());
    cx.into_errors()[0].to_string()
}

fn comparison(op: Op, value: u32, key: &str) -> Option<proto::ComparisonFilter> {
    let value = RuntimeUInt32 { default_value: value, runtime_key: key.to_owned() };
    Some(proto::ComparisonFilter { op: op as i32, value: Some(value) })
}

fn status(op: Op, value: u32, key: &str) -> FilterSpecifier {
    FilterSpecifier::StatusCodeFilter(proto::StatusCodeFilter { comparison: comparison(op, value, key) })
}

#[test]
fn comparisons_with_status_and_runtime() {
    let env = env(&[("min", "300")]);
    let fixture = Fixture::new();
    for (op, value, key, expected) in [
        (Op::Eq, 200, "", true),
        (Op::Eq, 201, "", false),
        (Op::Ge, 200, "", true),
        (Op::Ge, 201, "", false),
        (Op::Le, 200, "", true),
        (Op::Le, 199, "", false),
        (Op::Ne, 200, "", false),
        (Op::Ge, 100, "min", false),
        (Op::Ge, 100, "other", true),
    ] {
        assert_eq!(
            build(&env, status(op, value, key)).passes(&fixture.entry()),
            expected,
            "{op:?} {value} {key}"
        );
    }
}

#[test]
fn no_status_counts_as_zero() {
    let mut fixture = Fixture::new();
    fixture.info.response_code = None;
    assert!(build(&env(&[]), status(Op::Eq, 0, "")).passes(&fixture.entry()));
}

#[test]
fn durations_are_milliseconds() {
    let fixture = Fixture::new();
    let filter = |op, value| {
        let filter = proto::DurationFilter { comparison: comparison(op, value, "") };
        build(&env(&[]), FilterSpecifier::DurationFilter(filter)).passes(&fixture.entry())
    };
    assert!(filter(Op::Eq, 1));
    assert!(!filter(Op::Ge, 2));
}

#[test]
fn health_checks_and_flags() {
    let env = env(&[]);
    let mut fixture = Fixture::new();
    let not_health_check = build(&env, FilterSpecifier::NotHealthCheckFilter(proto::NotHealthCheckFilter {}));
    let flags = |list: &[&str]| {
        let flags = list.iter().map(|flag| (*flag).to_owned()).collect();
        build(&env, FilterSpecifier::ResponseFlagFilter(proto::ResponseFlagFilter { flags }))
    };
    assert!(not_health_check.passes(&fixture.entry()));
    assert!(!flags(&[]).passes(&fixture.entry()));
    fixture.info.health_check = true;
    fixture.info.flags.set(ResponseFlag::UpstreamConnectionFailure);
    assert!(!not_health_check.passes(&fixture.entry()));
    assert!(flags(&[]).passes(&fixture.entry()));
    assert!(flags(&["NR", "UF"]).passes(&fixture.entry()));
    assert!(!flags(&["NR"]).passes(&fixture.entry()));
    let bad = proto::ResponseFlagFilter { flags: vec!["NR".into(), "XX".into()] };
    assert!(
        refused(FilterSpecifier::ResponseFlagFilter(bad)).starts_with("response_flag_filter.flags[1]: 'XX'")
    );
}

#[test]
fn and_or_nest_to_a_limit() {
    let env = env(&[]);
    let fixture = Fixture::new();
    let yes = || wrap(status(Op::Eq, 200, ""));
    let no = || wrap(status(Op::Eq, 404, ""));
    let and = |filters| build(&env, FilterSpecifier::AndFilter(proto::AndFilter { filters }));
    let or = |filters| build(&env, FilterSpecifier::OrFilter(proto::OrFilter { filters }));
    assert!(and(vec![yes(), yes()]).passes(&fixture.entry()));
    assert!(!and(vec![yes(), no()]).passes(&fixture.entry()));
    assert!(or(vec![no(), yes()]).passes(&fixture.entry()));
    assert!(!or(vec![no(), no()]).passes(&fixture.entry()));
    let mut deep = yes();
    for _ in 0..MAX_DEPTH {
        deep = wrap(FilterSpecifier::AndFilter(proto::AndFilter { filters: vec![deep] }));
    }
    let Some(deep) = deep.filter_specifier else { panic!("no specifier") };
    assert!(refused(deep).ends_with("access log filters are nested too deeply"));
}

#[test]
fn headers_of_the_request() {
    let env = env(&[]);
    let mut fixture = Fixture::new();
    let header = ProtoHeader { name: "x-request-id".into(), ..Default::default() };
    let filter = FilterSpecifier::HeaderFilter(proto::HeaderFilter { header: Some(header) });
    let filter = build(&env, filter);
    assert!(filter.passes(&fixture.entry()));
    fixture.request = None;
    assert!(!filter.passes(&fixture.entry()));
}

#[test]
fn grpc_status_from_trailers_or_unknown() {
    let env = env(&[]);
    let mut fixture = Fixture::new();
    let filter = |status: GrpcStatus, exclude| {
        let filter = proto::GrpcStatusFilter { statuses: vec![status as i32], exclude };
        build(&env, FilterSpecifier::GrpcStatusFilter(filter))
    };
    assert!(filter(GrpcStatus::Unknown, false).passes(&fixture.entry()));
    fixture.trailers = Some(headers(&[("grpc-status", b"5")]));
    assert!(filter(GrpcStatus::NotFound, false).passes(&fixture.entry()));
    assert!(!filter(GrpcStatus::NotFound, true).passes(&fixture.entry()));
    assert!(filter(GrpcStatus::Ok, true).passes(&fixture.entry()));
}

#[test]
fn samples_follow_the_request_id() {
    let mut fixture = Fixture::new();
    let filter = |env: &BuildEnv, numerator, independent| {
        let filter = proto::RuntimeFilter {
            runtime_key: "sample".into(),
            percent_sampled: Some(FractionalPercent { numerator, denominator: 0 }),
            use_independent_randomness: independent,
        };
        build(env, FilterSpecifier::RuntimeFilter(filter))
    };
    let (plain, all) = (env(&[]), env(&[("sample", "100")]));
    assert!(!filter(&plain, 0, false).passes(&fixture.entry()));
    assert!(filter(&all, 0, true).passes(&fixture.entry()));
    // 0x11111111 % 100 = 53.
    assert!(filter(&plain, 54, false).passes(&fixture.entry()));
    assert!(!filter(&plain, 53, false).passes(&fixture.entry()));
    fixture.request = None;
    assert!(filter(&plain, 100, false).passes(&fixture.entry()));
}

#[test]
fn metadata_by_value_or_by_absence() {
    let env = env(&[]);
    let mut fixture = Fixture::new();
    let filter = |if_missing| {
        let segment = matcher::metadata_matcher::PathSegment {
            segment: Some(matcher::metadata_matcher::path_segment::Segment::Key("k".into())),
        };
        let value = matcher::ValueMatcher {
            match_pattern: Some(matcher::value_matcher::MatchPattern::BoolMatch(true)),
        };
        let matcher = matcher::MetadataMatcher {
            filter: "ns".into(),
            path: vec![segment],
            value: Some(value),
            invert: false,
        };
        let filter = proto::MetadataFilter { matcher: Some(matcher), match_if_key_not_found: if_missing };
        build(&env, FilterSpecifier::MetadataFilter(filter))
    };
    assert!(filter(None).passes(&fixture.entry()));
    assert!(!filter(Some(false)).passes(&fixture.entry()));
    for (value, expected) in [(true, true), (false, false)] {
        let value = Value { kind: Some(ValueKind::BoolValue(value)) };
        fixture.info.metadata.merge("ns", Struct { fields: [("k".to_owned(), value)].into() });
        assert_eq!(filter(Some(false)).passes(&fixture.entry()), expected);
        assert_eq!(filter(Some(true)).passes(&fixture.entry()), expected);
    }
}

#[test]
fn types_of_entries() {
    let fixture = Fixture::new();
    let filter = |log_type: AccessLogType, exclude| {
        let filter = proto::LogTypeFilter { types: vec![log_type as i32], exclude };
        build(&env(&[]), FilterSpecifier::LogTypeFilter(filter)).passes(&fixture.entry())
    };
    assert!(filter(AccessLogType::DownstreamEnd, false));
    assert!(!filter(AccessLogType::DownstreamEnd, true));
    assert!(!filter(AccessLogType::TcpPeriodic, false));
    assert!(filter(AccessLogType::UdpPeriodic, true));
}

#[test]
fn what_cannot_be_honoured_is_refused_with_its_path() {
    let refusal = refused(FilterSpecifier::ExtensionFilter(Default::default()));
    assert!(refusal.starts_with("extension_filter.typed_config: "), "{refusal}");
    let env = env(&[]);
    let mut cx = BuildCx::new(&env);
    assert!(LogFilter::build(&proto::AccessLogFilter::default(), &mut cx).is_err());
}
