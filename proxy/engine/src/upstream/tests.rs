//! Clusters built from configuration.

#![allow(deprecated)]

use std::sync::Arc;
use std::time::Duration;

use prost::Message as _;
use prost_types::Any;
use proxy_core::address::Address;
use proxy_core::config::{BuildCx, BuildEnv, ConfigError, Rejected};
use proxy_core::runtime::{Runtime, RuntimeLayer};
use proxy_core::stats::Shared;
use proxy_core::stats::groups::CircuitBreakerRemainingStats;
use proxy_core::upstream::{Host, PickCx};
use xds_api::envoy::config::cluster::v3 as proto;
use xds_api::envoy::config::cluster::v3::circuit_breakers::Thresholds;
use xds_api::envoy::config::cluster::v3::circuit_breakers::thresholds::RetryBudget;
use xds_api::envoy::config::cluster::v3::cluster::{ClusterDiscoveryType, DiscoveryType, LbPolicy};
use xds_api::envoy::config::core::v3 as core;
use xds_api::envoy::config::endpoint::v3 as endpoint;
use xds_api::envoy::extensions::load_balancing_policies as policies;
use xds_api::envoy::extensions::transport_sockets::tls::v3::UpstreamTlsContext;
use xds_api::envoy::extensions::upstreams::http::v3 as http;
use xds_api::envoy::extensions::upstreams::http::v3::http_protocol_options as http_options;

use super::circuit_breaker::{BreakerPriority, Permit, Resource};
use super::cluster::Cluster;
use super::discovery::Discovery;
use super::http_options::UpstreamProtocol;

pub(super) fn build(proto: &proto::Cluster) -> Result<Arc<Cluster>, Vec<ConfigError>> {
    let env = BuildEnv::new(1);
    let mut cx = BuildCx::new(&env);
    Cluster::build(proto, &mut cx).map_err(|Rejected| cx.into_errors())
}

fn errors(proto: &proto::Cluster) -> Vec<String> {
    match build(proto) {
        Ok(_) => panic!("accepted"),
        Err(errors) => errors.iter().map(ToString::to_string).collect(),
    }
}

pub(super) fn lb_endpoint(address: &str, port: u32) -> endpoint::LbEndpoint {
    use core::socket_address::PortSpecifier;
    let socket = core::SocketAddress {
        address: address.into(),
        port_specifier: Some(PortSpecifier::PortValue(port)),
        ..Default::default()
    };
    let address = core::Address { address: Some(core::address::Address::SocketAddress(socket)) };
    let endpoint = endpoint::Endpoint { address: Some(address), ..Default::default() };
    endpoint::LbEndpoint {
        host_identifier: Some(endpoint::lb_endpoint::HostIdentifier::Endpoint(endpoint)),
        ..Default::default()
    }
}

pub(super) fn assignment(endpoints: Vec<endpoint::LbEndpoint>) -> endpoint::ClusterLoadAssignment {
    let locality = endpoint::LocalityLbEndpoints { lb_endpoints: endpoints, ..Default::default() };
    endpoint::ClusterLoadAssignment { endpoints: vec![locality], ..Default::default() }
}

pub(super) fn cluster(kind: DiscoveryType, endpoints: Vec<endpoint::LbEndpoint>) -> proto::Cluster {
    proto::Cluster {
        name: "c".into(),
        cluster_discovery_type: Some(ClusterDiscoveryType::Type(kind as i32)),
        load_assignment: Some(assignment(endpoints)),
        ..Default::default()
    }
}

fn any<M: prost::Message + prost::Name>(message: &M) -> Any {
    Any { type_url: format!("type.googleapis.com/{}", M::full_name()), value: message.encode_to_vec() }
}

fn typed_policy<M: prost::Message + prost::Name>(message: &M) -> proto::load_balancing_policy::Policy {
    let config = core::TypedExtensionConfig { name: "x".into(), typed_config: Some(any(message)) };
    proto::load_balancing_policy::Policy { typed_extension_config: Some(config) }
}

#[test]
fn defaults_are_those_of_envoy() {
    let built = build(&cluster(DiscoveryType::Static, vec![lb_endpoint("127.0.0.1", 80)])).unwrap();
    assert_eq!(built.name.as_str(), "c");
    assert_eq!((built.connect_timeout, built.buffer_limit), (Duration::from_secs(5), 1 << 20));
    assert_eq!(built.http.protocol, UpstreamProtocol::Http1);
    assert_eq!(built.http.idle_timeout, Some(Duration::from_secs(3600)));
    assert_eq!((built.http.max_headers_count, built.http.max_response_headers_kb), (100, None));
    for priority in [BreakerPriority::Default, BreakerPriority::High] {
        let max = |resource| built.breakers.max(priority, resource);
        assert_eq!((max(Resource::Connections), max(Resource::Pending)), (1024, 1024));
        assert_eq!((max(Resource::Requests), max(Resource::Retries)), (1024, 3));
    }
    let host = built.balancer().pick(&built.hosts(), &mut PickCx::new(&mut fastrand::Rng::new())).unwrap();
    assert_eq!(host.address.to_string(), "127.0.0.1:80");
    let state = &built.stats.state;
    assert_eq!((state.membership_total.value(), state.membership_change.value()), (1, 1));
    // As observed of Envoy 1.40: kept for merged lists only, and no update is counted.
    assert_eq!((state.max_host_weight.value(), state.update_no_rebuild.value()), (0, 0));
}

#[test]
fn a_static_cluster_keeps_repeated_endpoints() {
    let twice = vec![lb_endpoint("127.0.0.1", 1), lb_endpoint("127.0.0.1", 1)];
    assert_eq!(build(&cluster(DiscoveryType::Static, twice)).unwrap().hosts().len(), 2);
}

#[test]
fn every_error_is_reported_with_its_path() {
    let mut proto = cluster(DiscoveryType::Static, vec![lb_endpoint("example.com", 80)]);
    proto.connect_timeout = Some(prost_types::Duration::default());
    proto.lb_policy = LbPolicy::Maglev as i32;
    let table = proto::cluster::MaglevLbConfig { table_size: Some(10) };
    proto.lb_config = Some(proto::cluster::LbConfig::MaglevLbConfig(table));
    proto.transport_socket = Some(core::TransportSocket {
        name: "tls".into(),
        config_type: Some(core::transport_socket::ConfigType::TypedConfig(Any {
            type_url: "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext"
                .into(),
            value: UpstreamTlsContext { allow_renegotiation: true, ..Default::default() }.encode_to_vec(),
        })),
    });
    let mut found = errors(&proto);
    found.sort();
    assert_eq!(
        found,
        [
            "connect_timeout: must be greater than 0",
            "load_assignment.endpoints[0].lb_endpoints[0].endpoint.address.socket_address: \
             malformed IP address: example.com",
            "maglev_lb_config.table_size: The table size of maglev must be prime number",
            "transport_socket.typed_config.allow_renegotiation: renegotiation is not available",
        ]
    );
}

#[test]
fn eds_needs_a_source_and_keeps_hosts_when_an_assignment_is_wrong() {
    let mut proto = cluster(DiscoveryType::Eds, Vec::new());
    assert_eq!(errors(&proto), ["eds_cluster_config: cannot create an EDS cluster without an EDS config"]);
    proto.eds_cluster_config = Some(proto::cluster::EdsClusterConfig {
        eds_config: Some(core::ConfigSource::default()),
        service_name: String::new(),
    });
    let built = build(&proto).unwrap();
    assert!(matches!(&built.discovery, Discovery::Eds(eds) if &*eds.service_name == "c"));
    for kind in [DiscoveryType::Static, DiscoveryType::OriginalDst] {
        let mut other = proto.clone();
        other.cluster_discovery_type = Some(ClusterDiscoveryType::Type(kind as i32));
        assert_eq!(errors(&other), ["eds_cluster_config set in a non-EDS cluster"]);
    }
    let env = BuildEnv::new(1);
    let mut cx = BuildCx::new(&env);
    let first = assignment(vec![lb_endpoint("127.0.0.1", 1), lb_endpoint("127.0.0.1", 2)]);
    let update = built.apply_assignment(&first, &mut cx).unwrap();
    assert_eq!((update.added.len(), built.hosts().len()), (2, 2));
    assert!(!built.apply_assignment(&first, &mut cx).unwrap().changed);
    assert_eq!(built.stats.state.update_no_rebuild.value(), 1);
    assert!(built.apply_assignment(&assignment(vec![lb_endpoint("nowhere", 1)]), &mut cx).is_err());
    assert_eq!((built.hosts().len(), built.stats.state.max_host_weight.value()), (2, 1));
}

#[test]
fn the_first_policy_that_exists_is_taken() {
    let mut proto = cluster(DiscoveryType::Static, Vec::new());
    let unknown = policies::load_aware_locality::v3::LoadAwareLocality::default();
    let random = policies::random::v3::Random::default();
    let policies = vec![typed_policy(&unknown), typed_policy(&random)];
    proto.load_balancing_policy = Some(proto::LoadBalancingPolicy { policies });
    assert!(build(&proto).is_ok());
    proto.load_balancing_policy = Some(proto::LoadBalancingPolicy { policies: vec![typed_policy(&unknown)] });
    assert_eq!(
        errors(&proto),
        ["load_balancing_policy: none of the policies is available: \
          envoy.extensions.load_balancing_policies.load_aware_locality.v3.LoadAwareLocality"]
    );
}

#[test]
fn typed_http_options_win_over_the_older_fields() {
    let mut proto = cluster(DiscoveryType::Static, Vec::new());
    proto.http2_protocol_options = Some(core::Http2ProtocolOptions::default());
    assert_eq!(build(&proto).unwrap().http.protocol, UpstreamProtocol::Http2);
    let explicit = http_options::ExplicitHttpConfig {
        protocol_config: Some(http_options::explicit_http_config::ProtocolConfig::HttpProtocolOptions(
            core::Http1ProtocolOptions::default(),
        )),
    };
    let mut typed = http::HttpProtocolOptions {
        upstream_protocol_options: Some(http_options::UpstreamProtocolOptions::ExplicitHttpConfig(explicit)),
        ..Default::default()
    };
    let name = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions";
    proto.typed_extension_protocol_options.insert(name.into(), any(&typed));
    assert_eq!(build(&proto).unwrap().http.protocol, UpstreamProtocol::Http1);
    typed.upstream_protocol_options =
        Some(http_options::UpstreamProtocolOptions::AutoConfig(Default::default()));
    proto.typed_extension_protocol_options.insert(name.into(), any(&typed));
    assert_eq!(errors(&proto), ["ALPN configured for a cluster which has a non-ALPN transport socket"]);
}

#[test]
fn nothing_is_shown_to_remain_of_a_budget() {
    let mut proto = cluster(DiscoveryType::Static, Vec::new());
    let budget = proto::circuit_breakers::thresholds::RetryBudget::default();
    let thresholds = Thresholds { retry_budget: Some(budget), track_remaining: true, ..Default::default() };
    proto.circuit_breakers =
        Some(proto::CircuitBreakers { thresholds: vec![thresholds], per_host_thresholds: Vec::new() });
    let env = BuildEnv::new(1);
    let built = Cluster::build(&proto, &mut BuildCx::new(&env)).unwrap();
    let remaining = built.stats.scope.child("circuit_breakers.default");
    let remaining = remaining.shared::<proxy_core::stats::groups::CircuitBreakerRemainingStats>();
    assert_eq!((remaining.remaining_retries.value(), remaining.remaining_rq.value()), (0, 1024));
    let retry = Permit::acquire_retry(built.clone(), BreakerPriority::Default).unwrap();
    assert_eq!(remaining.remaining_retries.value(), 0);
    drop(retry);
    assert_eq!(remaining.remaining_retries.value(), 0);
}

#[test]
fn permits_hold_the_limit_and_the_gauges() {
    let mut proto = cluster(DiscoveryType::Static, Vec::new());
    let thresholds = Thresholds { max_requests: Some(2), track_remaining: true, ..Default::default() };
    proto.circuit_breakers =
        Some(proto::CircuitBreakers { thresholds: vec![thresholds], per_host_thresholds: Vec::new() });
    let env = BuildEnv::new(1);
    let mut cx = BuildCx::new(&env);
    let built = Cluster::build(&proto, &mut cx).unwrap();
    let take = || Permit::acquire(built.clone(), BreakerPriority::Default, Resource::Requests);
    let remaining = || built.stats.scope.child("circuit_breakers.default");
    let remaining = remaining().shared::<proxy_core::stats::groups::CircuitBreakerRemainingStats>();
    assert_eq!(remaining.remaining_rq.value(), 2);
    let first = take().unwrap();
    let open = &built.stats.state.default_open_rq;
    assert_eq!((open.value(), remaining.remaining_rq.value()), (0, 1));
    let second = take().unwrap();
    assert_eq!((open.value(), remaining.remaining_rq.value()), (1, 0));
    assert!(take().is_err());
    let over = Permit::acquire_over(built.clone(), BreakerPriority::Default, Resource::Requests);
    assert_eq!((open.value(), remaining.remaining_rq.value()), (1, 0));
    drop(first);
    assert_eq!((open.value(), remaining.remaining_rq.value()), (1, 0));
    drop((second, over));
    assert_eq!((open.value(), remaining.remaining_rq.value()), (0, 2));
    assert!(Permit::acquire(built.clone(), BreakerPriority::High, Resource::Requests).is_ok());
}

#[test]
fn racing_permits_leave_counts_and_gauges_as_they_were() {
    let mut proto = cluster(DiscoveryType::Static, Vec::new());
    let thresholds = Thresholds { max_connections: Some(3), track_remaining: true, ..Default::default() };
    proto.circuit_breakers =
        Some(proto::CircuitBreakers { thresholds: vec![thresholds], per_host_thresholds: Vec::new() });
    let built = build(&proto).unwrap();
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..5_000 {
                    let held: Vec<_> = (0..2)
                        .filter_map(|_| {
                            Permit::acquire(built.clone(), BreakerPriority::Default, Resource::Connections)
                                .ok()
                        })
                        .collect();
                    assert!(built.breakers.used(BreakerPriority::Default, Resource::Connections) <= 3);
                    drop(held);
                }
            });
        }
    });
    assert_eq!(built.breakers.used(BreakerPriority::Default, Resource::Connections), 0);
    assert_eq!(built.stats.state.default_open_cx.value(), 0);
}

/// Has the runtime say this of the limits of cluster `c`, and nothing else.
fn say(runtime: &Runtime, limits: &[(&str, &str)]) {
    let value = |(key, value): &(&str, &str)| (format!("circuit_breakers.c.{key}"), (*value).to_owned());
    let values = limits.iter().map(value).collect();
    runtime.set_layers(vec![RuntimeLayer { values, ..RuntimeLayer::default() }]);
}

/// The same, and tells the cluster.
fn rule(built: &Cluster, limits: &[(&str, &str)]) {
    say(&built.runtime, limits);
    built.follow_runtime();
}

#[test]
fn limits_are_those_of_the_runtime_while_it_says_so() {
    let mut proto = cluster(DiscoveryType::Static, Vec::new());
    let thresholds = Thresholds { max_requests: Some(3), track_remaining: true, ..Default::default() };
    proto.circuit_breakers =
        Some(proto::CircuitBreakers { thresholds: vec![thresholds], per_host_thresholds: Vec::new() });
    let env = BuildEnv::new(1);
    say(&env.runtime, &[("default.max_pending_requests", "7"), ("high.max_connections", "99999999999")]);
    let built = Cluster::build(&proto, &mut BuildCx::new(&env)).unwrap();
    let max = |priority, resource| built.breakers.max(priority, resource);
    assert_eq!(max(BreakerPriority::Default, Resource::Pending), 7);
    assert_eq!(max(BreakerPriority::High, Resource::Connections), u32::MAX);
    let take = || Permit::acquire(built.clone(), BreakerPriority::Default, Resource::Requests);
    let remaining = built.stats.scope.child("circuit_breakers.default");
    let remaining = remaining.shared::<proxy_core::stats::groups::CircuitBreakerRemainingStats>();
    let open = &built.stats.state.default_open_rq;
    let (first, second) = (take().unwrap(), take().unwrap());
    rule(&built, &[("default.max_requests", "1")]);
    assert_eq!(max(BreakerPriority::Default, Resource::Pending), 1024);
    assert!(take().is_err());
    // Whether the breaker is open is shown when something is taken or given back, as in Envoy.
    assert_eq!((open.value(), remaining.remaining_rq.value()), (0, 0));
    drop(first);
    assert_eq!((open.value(), remaining.remaining_rq.value()), (1, 0));
    rule(&built, &[]);
    let third = take().unwrap();
    assert_eq!((open.value(), remaining.remaining_rq.value()), (0, 1));
    drop((second, third));
    assert_eq!((open.value(), remaining.remaining_rq.value()), (0, 3));
}

#[test]
fn the_runtime_may_have_retries_limited_by_a_budget() {
    let env = BuildEnv::new(1);
    let built = Cluster::build(&cluster(DiscoveryType::Static, Vec::new()), &mut BuildCx::new(&env)).unwrap();
    let retry = || Permit::acquire_retry(built.clone(), BreakerPriority::Default);
    let request = || Permit::acquire(built.clone(), BreakerPriority::Default, Resource::Requests).unwrap();
    let requests: Vec<_> = (0..8).map(|_| request()).collect();
    let granted = || std::iter::from_fn(|| retry().ok()).take(100).collect::<Vec<_>>().len();
    assert_eq!(granted(), 3);
    let (percent, least) =
        ("default.retry_budget.budget_percent", "default.retry_budget.min_retry_concurrency");
    rule(&built, &[(percent, "62.5")]);
    assert_eq!(granted(), 5);
    rule(&built, &[(least, "6")]);
    assert_eq!(granted(), 6);
    rule(&built, &[(percent, "25"), (least, "0")]);
    assert_eq!(granted(), 2);
    rule(&built, &[("default.max_retries", "4")]);
    assert_eq!(granted(), 4);
    drop(requests);
}

#[test]
fn a_budget_with_an_interval_is_a_share_of_what_began_in_it() {
    let retry_budget = RetryBudget {
        budget_percent: Some(xds_api::envoy::r#type::v3::Percent { value: 20.0 }),
        min_retry_concurrency: Some(0),
        budget_interval: Some(prost_types::Duration { seconds: 1000, nanos: 0 }),
    };
    let built =
        tracked(&BuildEnv::new(1), Thresholds { retry_budget: Some(retry_budget), ..Default::default() });
    let request = || Permit::acquire(built.clone(), BreakerPriority::Default, Resource::Requests).unwrap();
    let retry = || Permit::acquire_retry(built.clone(), BreakerPriority::Default).ok();
    (0..9).for_each(|_| drop(request()));
    let first = retry().unwrap();
    assert!(retry().is_none(), "a fifth of nine is one");
    drop(request());
    assert!(retry().is_some(), "a fifth of ten is two, although none is in flight");
    drop(first);
}

#[test]
fn an_interval_of_a_budget_is_not_negative() {
    let budget_interval = Some(prost_types::Duration { seconds: -1, nanos: 0 });
    let budget = RetryBudget { budget_interval, ..Default::default() };
    let mut proto = cluster(DiscoveryType::Static, Vec::new());
    let thresholds = vec![Thresholds { retry_budget: Some(budget), ..Default::default() }];
    proto.circuit_breakers = Some(proto::CircuitBreakers { thresholds, per_host_thresholds: Vec::new() });
    let rejected = errors(&proto).join("\n");
    assert!(rejected.contains("thresholds[0].retry_budget.budget_interval"), "{rejected}");
}

/// A cluster that shows what its breakers leave.
fn tracked(env: &BuildEnv, thresholds: Thresholds) -> Arc<Cluster> {
    let mut proto = cluster(DiscoveryType::Static, Vec::new());
    let thresholds = vec![Thresholds { track_remaining: true, ..thresholds }];
    proto.circuit_breakers = Some(proto::CircuitBreakers { thresholds, per_host_thresholds: Vec::new() });
    Cluster::build(&proto, &mut BuildCx::new(env)).unwrap()
}

fn remaining(of: &Cluster) -> Shared<CircuitBreakerRemainingStats> {
    of.stats.scope.child("circuit_breakers.default").shared()
}

#[test]
fn limits_that_move_leave_counts_and_gauges_right() {
    let env = BuildEnv::new(1);
    let built = tracked(&env, Thresholds { max_connections: Some(4), ..Default::default() });
    let take = || Permit::acquire(built.clone(), BreakerPriority::Default, Resource::Connections);
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                for _ in 0..5_000 {
                    drop((take(), take()));
                }
            });
        }
        for limit in 0..500 {
            rule(&built, &[("default.max_connections", &(limit % 6).to_string())]);
        }
    });
    rule(&built, &[]);
    drop(take().unwrap());
    assert_eq!(built.breakers.used(BreakerPriority::Default, Resource::Connections), 0);
    assert_eq!((built.stats.state.default_open_cx.value(), remaining(&built).remaining_cx.value()), (0, 4));
}

#[test]
fn budgets_that_come_and_go_leave_remaining_retries_right() {
    let env = BuildEnv::new(1);
    let built = tracked(&env, Thresholds::default());
    let take = || Permit::acquire_retry(built.clone(), BreakerPriority::Default);
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| (0..5_000).for_each(|_| drop((take(), take()))));
        }
        for turn in 0..500 {
            let budget = [("default.retry_budget.budget_percent", "50")];
            rule(&built, &budget[..turn % 2]);
        }
    });
    rule(&built, &[]);
    assert_eq!(remaining(&built).remaining_retries.value(), 3);
}

#[test]
fn gauges_are_those_of_all_forms_of_a_cluster() {
    let env = BuildEnv::new(1);
    let form = |max| tracked(&env, Thresholds { max_connections: Some(max), ..Default::default() });
    let over = |cluster: &Arc<Cluster>| {
        Permit::acquire_over(cluster.clone(), BreakerPriority::Default, Resource::Connections)
    };
    let first = form(0);
    let held = over(&first);
    let second = form(4);
    let gauges = |of: &Cluster| (of.stats.state.default_open_cx.value(), remaining(of).remaining_cx.value());
    assert_eq!(gauges(&second), (1, 4));
    drop(first);
    drop(held);
    assert_eq!(gauges(&second), (0, 4));
    drop(form(7));
    let used = over(&second);
    assert_eq!(gauges(&second), (0, 3));
    let third = form(1);
    assert_eq!(gauges(&third), (0, 4));
    drop((second, used));
    assert_eq!(gauges(&third), (0, 1));
}

#[test]
fn the_source_follows_the_family_of_the_host() {
    let source = |address: &str| core::SocketAddress { address: address.into(), ..Default::default() };
    let mut proto = cluster(DiscoveryType::Static, Vec::new());
    proto.upstream_bind_config = Some(core::BindConfig {
        source_address: Some(source("127.0.0.6")),
        extra_source_addresses: vec![core::ExtraSourceAddress {
            address: Some(source("::6")),
            socket_options: None,
        }],
        ..Default::default()
    });
    let built = build(&proto).unwrap();
    let of = |address: &str| {
        let address = Address::Ip(address.parse().unwrap());
        built.connect_options(&address).source.map(|source| source.ip().to_string())
    };
    assert_eq!(of("1.2.3.4:5"), Some("127.0.0.6".into()));
    assert_eq!(of("[1::2]:5"), Some("::6".into()));
}

#[test]
fn families_alternate() {
    let proto = cluster(DiscoveryType::Static, Vec::new());
    let built = build(&proto).unwrap();
    let address = |text: &str| Address::Ip(text.parse().unwrap());
    let mut host = Host::new(address("1.0.0.1:1"));
    host.additional_addresses = ["1.0.0.2:1", "1.0.0.3:1", "[::1]:1"].map(address).into();
    let order: Vec<String> =
        built.socket_options().addresses(&host).iter().map(ToString::to_string).collect();
    assert_eq!(order, ["1.0.0.1:1", "[::1]:1", "1.0.0.2:1", "1.0.0.3:1"]);
}

#[test]
fn sources_are_one_for_each_family() {
    let source = |address: &str| core::SocketAddress { address: address.into(), ..Default::default() };
    let extra =
        |address: &str| core::ExtraSourceAddress { address: Some(source(address)), socket_options: None };
    let mut proto = cluster(DiscoveryType::Static, Vec::new());
    let bind = core::BindConfig { extra_source_addresses: vec![extra("127.0.0.2")], ..Default::default() };
    proto.upstream_bind_config = Some(bind.clone());
    let without = errors(&proto);
    assert!(without[0].ends_with("if source_address is not set."), "{without:?}");
    proto.upstream_bind_config = Some(core::BindConfig { source_address: Some(source("127.0.0.1")), ..bind });
    let twice = errors(&proto);
    assert!(twice[0].contains("Only two different IP version source addresses"), "{twice:?}");
}
