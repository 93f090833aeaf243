//! The contexts of traces in headers (B3 in many headers and in one, W3C), a header a line: no panic, and what the next hop is told it
//! reads as the same trace.
#![no_main]

use http::{HeaderMap, HeaderName, HeaderValue, Method};
use libfuzzer_sys::fuzz_target;
use prost::Message as _;
use proxy_core::config::BuildCx;
use proxy_core::extension::tracer::{SpanContext, SpanKind, Tracer};
use proxy_core::head::{RequestHead, Scheme};
use proxy_extensions::TRACERS;
use std::sync::Arc;
use xds_api::envoy::config::core::v3::GrpcService;
use xds_api::envoy::config::core::v3::grpc_service::{EnvoyGrpc, TargetSpecifier};
use xds_api::envoy::config::trace::v3::zipkin_config::{CollectorEndpointVersion, TraceContextOption};
use xds_api::envoy::config::trace::v3::{OpenTelemetryConfig, ZipkinConfig};

fuzz_target!(|input: &[u8]| {
    let headers: HeaderMap = input.split(|byte| *byte == b'\n').filter_map(header).collect();
    let env = outrigger_fuzz::env();
    let tracer = |message: &str, payload: Vec<u8>| -> Arc<dyn Tracer> {
        let mut all = TRACERS.iter();
        let factory = all.find(|one| one.descriptor().message.ends_with(message)).expect("is registered");
        let mut cx = BuildCx::new(&env);
        let Ok(tracer) = factory.build(&payload, &mut cx) else { panic!("{:?}", cx.into_errors()) };
        tracer
    };
    let target = EnvoyGrpc { cluster_name: "c".into(), ..EnvoyGrpc::default() };
    let grpc_service = Some(GrpcService {
        target_specifier: Some(TargetSpecifier::EnvoyGrpc(target)),
        ..GrpcService::default()
    });
    let telemetry = OpenTelemetryConfig { grpc_service, ..OpenTelemetryConfig::default() };
    check(&*tracer("OpenTelemetryConfig", telemetry.encode_to_vec()), &headers);
    for option in [TraceContextOption::UseB3, TraceContextOption::UseB3WithW3cPropagation] {
        let zipkin = ZipkinConfig {
            collector_cluster: "c".into(),
            collector_endpoint: "/".into(),
            collector_endpoint_version: CollectorEndpointVersion::HttpJson.into(),
            trace_context_option: option.into(),
            ..ZipkinConfig::default()
        };
        check(&*tracer("ZipkinConfig", zipkin.encode_to_vec()), &headers);
    }
});

fn header(line: &[u8]) -> Option<(HeaderName, HeaderValue)> {
    let colon = line.iter().position(|byte| *byte == b':')?;
    let name = HeaderName::from_bytes(&line[..colon]).ok()?;
    Some((name, HeaderValue::from_bytes(&line[colon + 1..]).ok()?))
}

fn check(tracer: &dyn Tracer, headers: &HeaderMap) {
    let begin = |headers: HeaderMap, kind| {
        let request = RequestHead {
            method: Method::GET,
            scheme: Scheme::Http,
            authority: "a.test".into(),
            path: "/".into(),
            upgrade: None,
            headers,
            case: None,
        };
        let mut next = 0;
        let mut random = || {
            next += 1;
            next
        };
        tracer.begin(&request, kind, true, &mut random)
    };
    for kind in [SpanKind::Server, SpanKind::Client] {
        let Some(context) = begin(headers.clone(), kind) else { continue };
        let mut told = HeaderMap::new();
        tracer.tell(&context, &mut told);
        let SpanContext { trace_id, span_id, is_sampled, .. } = context;
        let read = begin(told, SpanKind::Server);
        if trace_id == [0, 0] || span_id == 0 {
            continue;
        }
        let read = read.expect("what was told can be read");
        assert_eq!((read.trace_id, read.is_sampled), (trace_id, is_sampled));
    }
}
