//! What every extension of the tables must hold to.

use std::any::Any;
use std::collections::BTreeSet;
use std::io;
use std::sync::{Arc, Weak};

use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use prost::Message as _;
use proxy_core::config::{BuildCx, BuildEnv, ConfigError, FieldUse, Rejected};
use proxy_core::dns_cache::{DnsCache, DnsCaches, Follower, LookUp, Wanted};
use proxy_core::extension::Descriptor;
use proxy_core::extension::access_log::{LogFile, LogFiles};
use proxy_core::extension::stats_sink::Surroundings;
use proxy_core::stats::Registry;
use proxy_extensions::{
    ACCESS_LOGS, FIELDS, HTTP_FILTERS, LISTENER_FILTERS, NETWORK_FILTERS, STATS_SINKS, TRACERS,
    UPSTREAM_NETWORK_FILTERS,
};
use xds_api::envoy::config::cluster::v3::Cluster;
use xds_api::envoy::config::core::v3::address::Address;
use xds_api::envoy::config::core::v3::grpc_service::{EnvoyGrpc, TargetSpecifier};
use xds_api::envoy::config::core::v3::socket_address::PortSpecifier;
use xds_api::envoy::config::core::v3::{Address as AddressProto, GrpcService, Node, SocketAddress};
use xds_api::envoy::config::ratelimit::v3::RateLimitServiceConfig;
use xds_api::envoy::extensions::common::dynamic_forward_proxy::v3::DnsCacheConfig;
use xds_api::schema::{Message, fields_of};

struct Nowhere;

impl LogFile for Nowhere {
    fn write(&self, _line: &[u8]) {}
}

impl LogFiles for Nowhere {
    fn open(&self, _path: &str) -> io::Result<Arc<dyn LogFile>> {
        Ok(Arc::new(Self))
    }
}

/// Knows no name.
#[derive(Debug)]
struct NoNames;

impl DnsCache for NoNames {
    fn look_up(&self, _: Wanted<'_>) -> LookUp {
        LookUp::Full
    }
    fn follow(&self, _: Weak<dyn Follower>) {}
}

impl DnsCaches for NoNames {
    fn cache(&self, _: &DnsCacheConfig, _: &mut BuildCx<'_>) -> Result<Arc<dyn DnsCache>, Rejected> {
        Ok(Arc::new(Self))
    }
}

fn env() -> BuildEnv {
    let extensions = proxy_extensions::extensions();
    let dns_caches = Arc::new(NoNames);
    BuildEnv { extensions, dns_caches, log_files: Arc::new(Nowhere), ..BuildEnv::new(1) }
}

type Build = dyn Fn(&[u8], &mut BuildCx<'_>) -> Result<Box<dyn Any>, Rejected>;

/// An extension as a function from the payload of its message.
struct Case {
    descriptor: Descriptor,
    build: Box<Build>,
}

/// A service that is asked.
fn service() -> GrpcService {
    let target = EnvoyGrpc { cluster_name: "c".into(), ..Default::default() };
    GrpcService { target_specifier: Some(TargetSpecifier::EnvoyGrpc(target)), ..Default::default() }
}

/// A service that counts.
fn counted() -> RateLimitServiceConfig {
    RateLimitServiceConfig { grpc_service: Some(service()), transport_api_version: 2 }
}

/// A configuration that builds, for messages whose empty form does not.
fn example(message: &str) -> Vec<u8> {
    use xds_api::envoy::extensions::access_loggers::file::v3::FileAccessLog;
    use xds_api::envoy::extensions::filters::http::health_check::v3::HealthCheck;
    use xds_api::envoy::extensions::filters::network::connection_limit::v3::ConnectionLimit;
    match message.rsplit('.').next() {
        Some("FileAccessLog") => FileAccessLog { path: "/x".into(), ..Default::default() }.encode_to_vec(),
        Some("MetadataExchange") => {
            use xds_api::envoy::tcp::metadataexchange::config::MetadataExchange;
            MetadataExchange { protocol: "p".into(), ..Default::default() }.encode_to_vec()
        }
        Some("HealthCheck") => {
            HealthCheck { pass_through_mode: Some(false), ..Default::default() }.encode_to_vec()
        }
        Some("ConnectionLimit") => {
            ConnectionLimit { stat_prefix: "p".into(), max_connections: Some(1), ..Default::default() }
                .encode_to_vec()
        }
        Some("Compressor") => {
            use xds_api::envoy::config::core::v3::TypedExtensionConfig;
            use xds_api::envoy::extensions::compression::gzip::compressor::v3::Gzip;
            use xds_api::envoy::extensions::filters::http::compressor::v3::Compressor;
            let typed_config = Some(prost_types::Any {
                type_url: xds_api::any::type_url::<Gzip>(),
                value: Gzip::default().encode_to_vec(),
            });
            let library = TypedExtensionConfig { name: "text".into(), typed_config };
            Compressor { compressor_library: Some(library), ..Default::default() }.encode_to_vec()
        }
        Some("Config") if message.contains(".header_to_metadata.") => {
            use xds_api::envoy::extensions::filters::http::header_to_metadata::v3::{Config, config};
            let pair = config::KeyValuePair { key: "k".into(), ..Default::default() };
            let on_header_present = Some(pair);
            let rule = config::Rule { header: "a".into(), on_header_present, ..Default::default() };
            Config { request_rules: vec![rule], ..Default::default() }.encode_to_vec()
        }
        Some("StatefulSessionPerRoute") => {
            use xds_api::envoy::extensions::filters::http::stateful_session::v3::StatefulSessionPerRoute;
            use xds_api::envoy::extensions::filters::http::stateful_session::v3::stateful_session_per_route::Override;
            StatefulSessionPerRoute { r#override: Some(Override::Disabled(true)) }.encode_to_vec()
        }
        Some("CompressorPerRoute") => {
            use xds_api::envoy::extensions::filters::http::compressor::v3::CompressorPerRoute;
            use xds_api::envoy::extensions::filters::http::compressor::v3::compressor_per_route::Override;
            CompressorPerRoute { r#override: Some(Override::Disabled(true)) }.encode_to_vec()
        }
        Some("ExtAuthz") if message.contains(".network.") => {
            use xds_api::envoy::extensions::filters::network::ext_authz::v3::ExtAuthz;
            let grpc_service = Some(service());
            ExtAuthz { stat_prefix: "p".into(), transport_api_version: 2, grpc_service, ..Default::default() }
                .encode_to_vec()
        }
        Some("ExtAuthz") if message.contains(".http.") => {
            use xds_api::envoy::extensions::filters::http::ext_authz::v3::ExtAuthz;
            use xds_api::envoy::extensions::filters::http::ext_authz::v3::ext_authz::Services;
            let services = Some(Services::GrpcService(service()));
            ExtAuthz { transport_api_version: 2, services, ..Default::default() }.encode_to_vec()
        }
        Some("ExtensionWithMatcher") => {
            use xds_api::envoy::config::core::v3::TypedExtensionConfig;
            use xds_api::envoy::extensions::common::matching::v3::ExtensionWithMatcher;
            use xds_api::envoy::extensions::filters::http::fault::v3::HttpFault;
            let typed_config = Some(prost_types::Any {
                type_url: xds_api::any::type_url::<HttpFault>(),
                value: HttpFault::default().encode_to_vec(),
            });
            let extension_config = Some(TypedExtensionConfig { name: "fault".into(), typed_config });
            let xds_matcher = Some(Default::default());
            ExtensionWithMatcher { extension_config, xds_matcher, ..Default::default() }.encode_to_vec()
        }
        Some("ExtensionWithMatcherPerRoute") => {
            use xds_api::envoy::extensions::common::matching::v3::ExtensionWithMatcherPerRoute;
            ExtensionWithMatcherPerRoute { xds_matcher: Some(Default::default()) }.encode_to_vec()
        }
        Some("ExtAuthzPerRoute") => {
            use xds_api::envoy::extensions::filters::http::ext_authz::v3::ExtAuthzPerRoute;
            use xds_api::envoy::extensions::filters::http::ext_authz::v3::ext_authz_per_route::Override;
            ExtAuthzPerRoute { r#override: Some(Override::Disabled(true)) }.encode_to_vec()
        }
        Some("PerRouteConfig") if message.contains(".jwt_authn.") => {
            use xds_api::envoy::extensions::filters::http::jwt_authn::v3::PerRouteConfig;
            use xds_api::envoy::extensions::filters::http::jwt_authn::v3::per_route_config::RequirementSpecifier;
            PerRouteConfig { requirement_specifier: Some(RequirementSpecifier::Disabled(true)) }
                .encode_to_vec()
        }
        Some("RBAC") if message.contains(".network.") => {
            use xds_api::envoy::extensions::filters::network::rbac::v3::Rbac;
            Rbac { stat_prefix: "p".into(), ..Default::default() }.encode_to_vec()
        }
        Some(_) | None if message.starts_with("envoy.config.") || message.contains(".stat_sinks.") => {
            example_of_observer(message)
        }
        Some(_) | None => example_of_limit(message),
    }
}

/// Where datagrams go.
fn somewhere() -> AddressProto {
    let socket = SocketAddress {
        address: "127.0.0.1".into(),
        port_specifier: Some(PortSpecifier::PortValue(9)),
        ..Default::default()
    };
    AddressProto { address: Some(Address::SocketAddress(socket)) }
}

/// The same of sinks of statistics and tracers.
fn example_of_observer(message: &str) -> Vec<u8> {
    use xds_api::envoy::config::metrics::v3::{
        DogStatsdSink, MetricsServiceConfig, StatsdSink, dog_statsd_sink, statsd_sink,
    };
    use xds_api::envoy::config::trace::v3::{OpenTelemetryConfig, ZipkinConfig};
    use xds_api::envoy::extensions::stat_sinks::graphite_statsd::v3::{
        GraphiteStatsdSink, graphite_statsd_sink,
    };
    match message.rsplit('.').next() {
        Some("StatsdSink") => StatsdSink {
            statsd_specifier: Some(statsd_sink::StatsdSpecifier::Address(somewhere())),
            ..Default::default()
        }
        .encode_to_vec(),
        Some("DogStatsdSink") => DogStatsdSink {
            dog_statsd_specifier: Some(dog_statsd_sink::DogStatsdSpecifier::Address(somewhere())),
            ..Default::default()
        }
        .encode_to_vec(),
        Some("GraphiteStatsdSink") => GraphiteStatsdSink {
            statsd_specifier: Some(graphite_statsd_sink::StatsdSpecifier::Address(somewhere())),
            ..Default::default()
        }
        .encode_to_vec(),
        Some("MetricsServiceConfig") => MetricsServiceConfig {
            grpc_service: Some(service()),
            transport_api_version: 2,
            ..Default::default()
        }
        .encode_to_vec(),
        Some("OpenTelemetryConfig") => {
            OpenTelemetryConfig { grpc_service: Some(service()), ..Default::default() }.encode_to_vec()
        }
        Some("ZipkinConfig") => ZipkinConfig {
            collector_cluster: "c".into(),
            collector_endpoint: "/spans".into(),
            collector_endpoint_version: 1,
            ..Default::default()
        }
        .encode_to_vec(),
        Some(_) | None => Vec::new(),
    }
}

/// The same of what limits requests and connections.
fn example_of_limit(message: &str) -> Vec<u8> {
    use xds_api::envoy::extensions::filters::network::local_ratelimit::v3::LocalRateLimit;
    use xds_api::envoy::r#type::v3::TokenBucket;
    match message.rsplit('.').next() {
        Some("RateLimit") if message.contains(".http.") => {
            use xds_api::envoy::extensions::filters::http::ratelimit::v3::RateLimit;
            RateLimit { domain: "d".into(), rate_limit_service: Some(counted()), ..Default::default() }
                .encode_to_vec()
        }
        Some("RateLimit") if message.contains(".network.") => {
            use xds_api::envoy::extensions::common::ratelimit::v3::RateLimitDescriptor;
            use xds_api::envoy::extensions::common::ratelimit::v3::rate_limit_descriptor::Entry;
            use xds_api::envoy::extensions::filters::network::ratelimit::v3::RateLimit;
            let entries = vec![Entry { key: "k".into(), value: "v".into() }];
            RateLimit {
                stat_prefix: "p".into(),
                domain: "d".into(),
                descriptors: vec![RateLimitDescriptor { entries, ..Default::default() }],
                rate_limit_service: Some(counted()),
                ..Default::default()
            }
            .encode_to_vec()
        }
        Some("RateLimitQuotaFilterConfig") => {
            use xds_api::envoy::extensions::filters::http::rate_limit_quota::v3::RateLimitQuotaFilterConfig;
            RateLimitQuotaFilterConfig {
                rlqs_server: Some(service()),
                domain: "d".into(),
                bucket_matchers: Some(Default::default()),
                ..Default::default()
            }
            .encode_to_vec()
        }
        Some("AdmissionControl") => {
            use xds_api::envoy::extensions::filters::http::admission_control::v3::AdmissionControl;
            use xds_api::envoy::extensions::filters::http::admission_control::v3::admission_control::EvaluationCriteria;
            let criteria = EvaluationCriteria::SuccessCriteria(Default::default());
            AdmissionControl { evaluation_criteria: Some(criteria), ..Default::default() }.encode_to_vec()
        }
        Some("AdaptiveConcurrency") => {
            use xds_api::envoy::extensions::filters::http::adaptive_concurrency::v3 as proto;
            let second = Some(prost_types::Duration { seconds: 1, nanos: 0 });
            let limit = proto::gradient_controller_config::ConcurrencyLimitCalculationParams {
                concurrency_update_interval: second,
                ..Default::default()
            };
            let minimum = proto::gradient_controller_config::MinimumRttCalculationParams {
                interval: second,
                ..Default::default()
            };
            let config = proto::GradientControllerConfig {
                concurrency_limit_params: Some(limit),
                min_rtt_calc_params: Some(minimum),
                ..Default::default()
            };
            let config =
                proto::adaptive_concurrency::ConcurrencyControllerConfig::GradientControllerConfig(config);
            proto::AdaptiveConcurrency { concurrency_controller_config: Some(config), ..Default::default() }
                .encode_to_vec()
        }
        Some("BandwidthLimit") => {
            use xds_api::envoy::extensions::filters::http::bandwidth_limit::v3::BandwidthLimit;
            BandwidthLimit { stat_prefix: "p".into(), ..Default::default() }.encode_to_vec()
        }
        Some("Buffer") => {
            use xds_api::envoy::extensions::filters::http::buffer::v3::Buffer;
            Buffer { max_request_bytes: Some(1) }.encode_to_vec()
        }
        Some("BufferPerRoute") => {
            use xds_api::envoy::extensions::filters::http::buffer::v3::BufferPerRoute;
            use xds_api::envoy::extensions::filters::http::buffer::v3::buffer_per_route::Override;
            BufferPerRoute { r#override: Some(Override::Disabled(true)) }.encode_to_vec()
        }
        Some("LocalRateLimit") if message.contains(".http.") => {
            use xds_api::envoy::extensions::filters::http::local_ratelimit::v3::LocalRateLimit;
            let fill_interval = Some(prost_types::Duration { seconds: 1, nanos: 0 });
            let bucket = TokenBucket { max_tokens: 1, tokens_per_fill: None, fill_interval };
            LocalRateLimit { stat_prefix: "p".into(), token_bucket: Some(bucket), ..Default::default() }
                .encode_to_vec()
        }
        Some("LocalRateLimit") if message.contains(".listener.") => {
            use xds_api::envoy::extensions::filters::listener::local_ratelimit::v3::LocalRateLimit;
            let fill_interval = Some(prost_types::Duration { seconds: 1, nanos: 0 });
            let bucket = TokenBucket { max_tokens: 1, tokens_per_fill: None, fill_interval };
            LocalRateLimit { stat_prefix: "p".into(), token_bucket: Some(bucket), ..Default::default() }
                .encode_to_vec()
        }
        Some("LocalRateLimit") => {
            let fill_interval = Some(prost_types::Duration { seconds: 1, nanos: 0 });
            let bucket = TokenBucket { max_tokens: 1, tokens_per_fill: None, fill_interval };
            let share_key = "key".into();
            LocalRateLimit {
                stat_prefix: "p".into(),
                token_bucket: Some(bucket),
                share_key,
                ..Default::default()
            }
            .encode_to_vec()
        }
        Some(_) | None => Vec::new(),
    }
}

impl Case {
    fn new<T: 'static>(
        descriptor: Descriptor,
        build: impl Fn(&[u8], &mut BuildCx<'_>) -> Result<T, Rejected> + 'static,
    ) -> Self {
        let build = move |payload: &[u8], cx: &mut BuildCx<'_>| {
            build(payload, cx).map(|built| Box::new(built) as Box<dyn Any>)
        };
        Self { descriptor, build: Box::new(build) }
    }
}

/// Every configuration message that the tables accept, per-route ones included.
fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for factory in ACCESS_LOGS {
        cases.push(Case::new(factory.descriptor(), |payload, cx| factory.build(payload, cx)));
    }
    for factory in LISTENER_FILTERS {
        cases.push(Case::new(factory.descriptor(), |payload, cx| factory.build(payload, cx)));
    }
    for factory in NETWORK_FILTERS {
        cases.push(Case::new(factory.descriptor(), |payload, cx| factory.build(payload, cx)));
    }
    for factory in UPSTREAM_NETWORK_FILTERS {
        cases.push(Case::new(factory.descriptor(), |payload, cx| factory.build(payload, cx)));
    }
    for factory in STATS_SINKS {
        cases.push(Case::new(factory.descriptor(), |payload, cx| {
            let clusters = &[Cluster { name: "c".into(), ..Default::default() }];
            let around = Surroundings { node: &Node::default, clusters };
            factory.build(payload, &around, cx)
        }));
    }
    for factory in TRACERS {
        cases.push(Case::new(factory.descriptor(), |payload, cx| factory.build(payload, cx)));
    }
    for factory in HTTP_FILTERS {
        cases.push(Case::new(factory.descriptor(), |payload, cx| factory.build(payload, cx)));
        // (Of some filters a route's message is the filter's own.)
        let own = factory.descriptor().message;
        if let Some(message) = factory.route_message().filter(|message| *message != own) {
            let descriptor = Descriptor { message, ..factory.descriptor() };
            cases.push(Case::new(descriptor, |payload, cx| factory.build_route(payload, cx)));
        }
    }
    cases
}

fn build(env: &BuildEnv, case: &Case, payload: &[u8]) -> Result<Box<dyn Any>, Vec<ConfigError>> {
    let mut cx = BuildCx::new(env);
    let built = (case.build)(payload, &mut cx);
    let errors = cx.into_errors();
    match built {
        Ok(built) => {
            assert!(errors.is_empty(), "{}: built in spite of {errors:?}", case.descriptor.message);
            Ok(built)
        }
        Err(Rejected) => {
            assert!(!errors.is_empty(), "{}: refused without a reason", case.descriptor.message);
            Err(errors)
        }
    }
}

#[test]
fn names_and_messages_are_unique_and_exist() {
    let mut messages = BTreeSet::new();
    for case in cases() {
        let message = case.descriptor.message;
        // (Istio has one for requests and connections, and one for clients and hosts.)
        let is_shared = message == "stats.PluginConfig" || message.ends_with(".MetadataExchange");
        assert!(messages.insert(message) || is_shared, "{message} twice");
        assert!(Message::find(message).is_some(), "{message} is no message of the API");
    }
    let sorted = |names: Vec<&'static str>| {
        assert!(names.is_sorted_by(|a, b| a < b), "not sorted and unique: {names:?}");
    };
    sorted(ACCESS_LOGS.iter().map(|factory| factory.descriptor().name).collect());
    sorted(LISTENER_FILTERS.iter().map(|factory| factory.descriptor().name).collect());
    sorted(NETWORK_FILTERS.iter().map(|factory| factory.descriptor().name).collect());
    sorted(UPSTREAM_NETWORK_FILTERS.iter().map(|factory| factory.descriptor().name).collect());
    sorted(STATS_SINKS.iter().map(|factory| factory.descriptor().name).collect());
    sorted(TRACERS.iter().map(|factory| factory.descriptor().name).collect());
    sorted(HTTP_FILTERS.iter().map(|factory| factory.descriptor().name).collect());
}

#[test]
fn an_empty_configuration_builds_or_says_what_is_missing() {
    let env = env();
    for case in cases() {
        if let Err(errors) = build(&env, &case, b"") {
            assert!(
                errors.iter().all(|error| !error.path.is_empty()),
                "{}: {errors:?}",
                case.descriptor.message
            );
        }
    }
}

#[test]
fn what_is_built_is_dropped_again() {
    for case in cases() {
        let message = case.descriptor.message;
        let env = env();
        let counts = || (Arc::strong_count(&env.stats), Arc::strong_count(&env.runtime), shown(&env.stats));
        let before = counts();
        let payload = example(message);
        let held = build(&env, &case, &payload).unwrap_or_else(|errors| panic!("{message}: {errors:?}"));
        let with_one = counts();
        for _ in 0..1000 {
            drop(build(&env, &case, &payload));
        }
        assert_eq!(counts(), with_one, "{message} keeps what was built and dropped");
        drop(held);
        assert_eq!(counts(), before, "{message} keeps what was built");
    }
}

/// How many statistics there are.
fn shown(registry: &Arc<Registry>) -> usize {
    let mut count = 0;
    registry.visit(&mut |_| count += 1);
    count
}

#[test]
fn random_bytes_never_panic() {
    let env = env();
    let cases = cases();
    let strategy = (0..cases.len(), proptest::collection::vec(any::<u8>(), 0..200));
    let mut runner = TestRunner::new(Config { cases: 4096, ..Config::default() });
    let run = runner.run(&strategy, |(index, payload)| {
        let _ = build(&env, &cases[index], &payload);
        Ok(())
    });
    run.unwrap();
}

#[test]
fn every_field_of_every_message_is_decided() {
    let mut messages = BTreeSet::new();
    let core = [proxy_core::format::FIELDS, proxy_core::log_filter::FIELDS];
    for (message, fields) in FIELDS.iter().chain(&core).flat_map(|list| list.iter()) {
        assert!(messages.insert(*message), "{message} is listed twice");
        let known: BTreeSet<&str> = fields_of(message).expect(message).collect();
        let decided: BTreeSet<&str> = fields.iter().map(|(name, _)| *name).collect();
        assert_eq!(decided.len(), fields.len(), "{message}: a field is listed twice");
        assert_eq!(decided, known, "{message}");
        for (name, field_use) in *fields {
            if let FieldUse::Ignored(reason) | FieldUse::Rejected(reason) = field_use {
                assert!(!reason.is_empty(), "{message}.{name} needs a reason");
            }
        }
    }
    for case in cases() {
        let message = case.descriptor.message;
        assert!(messages.contains(message), "{message} has no table of fields");
    }
}
