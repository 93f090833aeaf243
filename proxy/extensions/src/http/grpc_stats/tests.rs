//! gRPC statistics against what Envoy 1.40 counted for the same calls.

use super::*;
use crate::testing::{Stream, env, header_map};
use proxy_core::stats::Selection;
use std::time::Instant;
use xds_api::envoy::config::core::v3::grpc_method_list::Service;

fn frames(count: usize) -> Bytes {
    Bytes::from([0, 0, 0, 0, 1, b'x'].repeat(count))
}

/// One call: path, `grpc-status` in the head, `grpc-status` in trailers.
fn call(
    config: &Arc<Config>,
    path: &str,
    head: Option<&'static str>,
    trailer: Option<&'static str>,
) -> Stream {
    let mut stream = Stream::new(&[("content-type", "application/grpc")]);
    stream.request.path = path.into();
    let mut filter = GrpcStats::create(config);
    filter.on_request_headers(&mut stream.cx(), false);
    filter.on_request_data(&mut stream.cx(), &mut frames(1), false);
    stream.info.upstream.cluster = Some("c".into());
    filter.on_request_data(&mut stream.cx(), &mut frames(1), true);
    let mut headers = header_map(&[("content-type", "application/grpc")]);
    if let Some(status) = head {
        headers.insert(&GRPC_STATUS, http::HeaderValue::from_static(status));
    }
    stream.respond(StatusCode::OK, headers);
    filter.on_response_headers(&mut stream.cx(), false);
    filter.on_response_data(&mut stream.cx(), &mut frames(3), false);
    stream.info.upstream.last_tx = Some(Instant::now());
    stream.info.upstream.last_rx = stream.info.upstream.last_tx;
    if let Some(status) = trailer {
        filter.on_response_trailers(&mut stream.cx(), &mut header_map(&[("grpc-status", status)]));
    }
    let Stream { request, response, info, engine, .. } = &mut stream;
    filter.on_complete(request, response.as_ref(), info, engine);
    stream
}

fn shown(registry: &Arc<proxy_core::stats::Registry>) -> Vec<String> {
    let text = proxy_core::stats::text::render(registry, &Selection::default());
    text.lines().filter(|line| line.contains(".grpc.")).map(str::to_owned).collect()
}

fn counted(
    proto: proto::FilterConfig,
    calls: &[(&str, Option<&'static str>, Option<&'static str>)],
) -> Vec<String> {
    let env = env();
    let config = Arc::new(GrpcStats::build(proto, &mut BuildCx::new(&env)).unwrap());
    for (path, head, trailer) in calls {
        call(&config, path, *head, *trailer);
    }
    shown(&env.stats)
}

fn with(specifier: PerMethodStatSpecifier) -> proto::FilterConfig {
    proto::FilterConfig { per_method_stat_specifier: Some(specifier), ..Default::default() }
}

const CALLS: &[(&str, Option<&str>, Option<&str>)] = &[
    ("/a.b.Svc/Meth", Some("0"), None),
    ("/a.b.Svc/Meth?q=1", None, Some("99")),
    ("/a.b.Svc/Other", Some("14"), None),
    ("/a.b.Svc/Meth", None, None),
    ("/bad", Some("0"), None),
    ("/a.b.Svc/Meth/x", Some("0"), None),
];

#[test]
fn calls_count_by_cluster() {
    assert_eq!(
        counted(proto::FilterConfig::default(), CALLS),
        [
            "cluster.c.grpc.0: 1",
            "cluster.c.grpc.14: 1",
            "cluster.c.grpc.99: 1",
            "cluster.c.grpc.failure: 2",
            "cluster.c.grpc.request_message_count: 8",
            "cluster.c.grpc.response_message_count: 12",
            "cluster.c.grpc.success: 1",
            "cluster.c.grpc.total: 3",
        ]
    );
}

#[test]
fn listed_methods_count_apart() {
    let services = vec![Service { name: "a.b.Svc".into(), method_names: vec!["Meth".into()] }];
    let list = PerMethodStatSpecifier::IndividualMethodStatsAllowlist(GrpcMethodList { services });
    assert_eq!(
        counted(with(list), &CALLS[..3]),
        [
            "cluster.c.grpc.14: 1",
            "cluster.c.grpc.a.b.Svc.Meth.0: 1",
            "cluster.c.grpc.a.b.Svc.Meth.99: 1",
            "cluster.c.grpc.a.b.Svc.Meth.failure: 1",
            "cluster.c.grpc.a.b.Svc.Meth.request_message_count: 4",
            "cluster.c.grpc.a.b.Svc.Meth.response_message_count: 6",
            "cluster.c.grpc.a.b.Svc.Meth.success: 1",
            "cluster.c.grpc.a.b.Svc.Meth.total: 2",
            "cluster.c.grpc.failure: 1",
            "cluster.c.grpc.request_message_count: 2",
            "cluster.c.grpc.response_message_count: 3",
            "cluster.c.grpc.total: 1",
        ]
    );
}

#[test]
fn all_methods_count_apart_with_or_without_dots() {
    let mut proto = with(PerMethodStatSpecifier::StatsForAllMethods(true));
    let lines = counted(proto.clone(), &CALLS[..1]);
    assert!(lines.contains(&"cluster.c.grpc.a.b.Svc.Meth.total: 1".to_owned()), "{lines:?}");
    proto.replace_dots_in_grpc_service_name = true;
    let lines = counted(proto, &CALLS[..1]);
    assert!(lines.contains(&"cluster.c.grpc.a_b_Svc.Meth.total: 1".to_owned()), "{lines:?}");
}

#[test]
fn the_upstream_s_time_is_recorded_when_asked_for() {
    let env = env();
    let proto = proto::FilterConfig { enable_upstream_stats: true, ..Default::default() };
    let config = Arc::new(GrpcStats::build(proto, &mut BuildCx::new(&env)).unwrap());
    call(&config, "/s/m", None, Some("0"));
    assert!(shown(&env.stats).iter().any(|line| line.starts_with("cluster.c.grpc.upstream_rq_time")));
}

#[test]
fn messages_are_in_the_filter_state_when_asked_for() {
    let env = env();
    let build = |emit_filter_state| {
        let proto = proto::FilterConfig { emit_filter_state, ..Default::default() };
        Arc::new(GrpcStats::build(proto, &mut BuildCx::new(&env)).unwrap())
    };
    let stream = call(&build(true), "/s/m", Some("0"), None);
    let state = stream.info.filter_state.get(STATE).unwrap();
    assert_eq!(state.to_text().as_deref(), Some("2,3"));
    assert_eq!(state.to_json().as_deref(), Some(r#"{"requestMessageCount":"2","responseMessageCount":"3"}"#));
    assert_eq!(state.field("request_message_count"), None);
    assert_eq!(MessageCounts::default().to_json().as_deref(), Some("{}"));
    let stream = call(&build(false), "/s/m", Some("0"), None);
    assert!(stream.info.filter_state.get(STATE).is_none());
    // (No message was counted.)
    let mut stream = Stream::new(&[("content-type", "application/grpc")]);
    let mut filter = GrpcStats::create(&build(true));
    filter.on_request_headers(&mut stream.cx(), true);
    filter.on_complete(&stream.request, None, &mut stream.info, &stream.engine);
    assert!(stream.info.filter_state.get(STATE).is_none());
}

#[test]
fn other_requests_are_not_counted() {
    let env = env();
    let config = Arc::new(GrpcStats::build(proto::FilterConfig::default(), &mut BuildCx::new(&env)).unwrap());
    let mut stream = Stream::new(&[("content-type", "text/plain")]);
    stream.request.path = "/s/m".into();
    stream.info.upstream.cluster = Some("c".into());
    let mut filter = GrpcStats::create(&config);
    filter.on_request_headers(&mut stream.cx(), true);
    stream.respond(StatusCode::OK, header_map(&[("grpc-status", "0")]));
    filter.on_response_headers(&mut stream.cx(), true);
    assert!(shown(&env.stats).is_empty());
}

#[test]
fn lists_need_names() {
    let env = env();
    let services = vec![Service { name: "s".into(), method_names: Vec::new() }];
    let list = PerMethodStatSpecifier::IndividualMethodStatsAllowlist(GrpcMethodList { services });
    let mut cx = BuildCx::new(&env);
    assert!(GrpcStats::build(with(list), &mut cx).is_err());
    assert_eq!(cx.into_errors()[0].path, "individual_method_stats_allowlist.services[0].method_names");
}
