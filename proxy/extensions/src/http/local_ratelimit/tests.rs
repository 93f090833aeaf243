use proxy_core::config::BuildEnv;
use proxy_core::rate_limit::{Descriptor, Entry, HeadersOption};
use proxy_core::upstream::{Host, HostSet, LocalCluster, Locality};
use smallvec::smallvec;
use std::time::Duration;
use xds_api::envoy::config::core::v3::RuntimeFractionalPercent;
use xds_api::envoy::extensions::common::ratelimit::v3::LocalRateLimitDescriptor;
use xds_api::envoy::extensions::common::ratelimit::v3::rate_limit_descriptor::Entry as EntryProto;
use xds_api::envoy::r#type::v3::{FractionalPercent, TokenBucket};

use super::limiter::Connections;
use super::*;
use crate::testing::{Stream, env, reply};

fn bucket(tokens: u32) -> TokenBucket {
    TokenBucket {
        max_tokens: tokens,
        tokens_per_fill: Some(1),
        fill_interval: Some(prost_types::Duration { seconds: 3600, nanos: 0 }),
    }
}

fn always() -> Option<RuntimeFractionalPercent> {
    let default_value = Some(FractionalPercent { numerator: 100, ..Default::default() });
    Some(RuntimeFractionalPercent { default_value, ..Default::default() })
}

fn limit(tokens: u32) -> proto::LocalRateLimit {
    proto::LocalRateLimit {
        stat_prefix: "p".into(),
        token_bucket: Some(bucket(tokens)),
        filter_enabled: always(),
        filter_enforced: always(),
        ..Default::default()
    }
}

fn built(env: &BuildEnv, proto: proto::LocalRateLimit) -> Arc<Config> {
    Arc::new(LocalRateLimit::build(proto, &mut BuildCx::new(env)).unwrap())
}

fn descriptor(value: &str, tokens: u32) -> LocalRateLimitDescriptor {
    let entries = vec![EntryProto { key: "k".into(), value: value.into() }];
    LocalRateLimitDescriptor { entries, token_bucket: Some(bucket(tokens)), shadow_mode: false }
}

fn of(value: &str) -> Descriptor<'_> {
    Descriptor {
        entries: smallvec![Entry { key: "k".into(), value: value.into() }],
        limit: None,
        hits: None,
        negative_hits: false,
        headers: HeadersOption::Unspecified,
    }
}

fn limiter(descriptors: &[LocalRateLimitDescriptor], kept: u32) -> Limiter {
    let env = env();
    let mut cx = BuildCx::new(&env);
    Limiter::build(None, descriptors, Some(kept), Connections::Together, &mut cx).unwrap()
}

#[test]
fn all_streams_share_a_bucket() {
    let env = env();
    let config = built(&env, limit(2));
    let admitted = || {
        let mut stream = Stream::new(&[]);
        let mut filter = LocalRateLimit::create(&config);
        reply(filter.on_request_headers(&mut stream.cx(), true)).map(|reply| reply.status.as_u16())
    };
    assert_eq!([admitted(), admitted(), admitted()], [None, None, Some(429)]);
}

#[test]
fn a_connection_has_its_own_bucket() {
    let env = env();
    let config =
        built(&env, proto::LocalRateLimit { local_rate_limit_per_downstream_connection: true, ..limit(1) });
    let admitted = |stream: &mut Stream| {
        let mut filter = LocalRateLimit::create(&config);
        reply(filter.on_request_headers(&mut stream.cx(), true)).is_none()
    };
    let (mut one, mut other) = (Stream::new(&[]), Stream::new(&[]));
    assert_eq!([admitted(&mut one), admitted(&mut one), admitted(&mut other)], [true, false, true]);
}

#[test]
fn threads_never_admit_more_than_there_are_tokens() {
    let limiter = limiter(&[descriptor("", 100), descriptor("fixed", 100)], 2);
    let now = Instant::now();
    for value in ["fixed", "open"] {
        let admit = || (0..100).filter(|_| limiter.admit(&[of(value)], now).allowed).count();
        let admitted: usize = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..4).map(|_| scope.spawn(admit)).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).sum()
        });
        assert_eq!(admitted, 100, "{value}");
    }
}

#[test]
fn values_that_were_not_used_for_longest_are_forgotten() {
    let limiter = limiter(&[descriptor("", 1)], 2);
    let now = Instant::now();
    let admit = |value| limiter.admit(&[of(value)], now).allowed;
    assert_eq!([admit("a"), admit("b"), admit("a"), admit("c")], [true, true, false, true]);
    // `b` made room for `c`.
    assert_eq!([admit("a"), admit("b")], [false, true]);
}

#[test]
fn tokens_come_back() {
    let limiter = limiter(&[descriptor("a", 1)], 1);
    let now = Instant::now();
    let admit = |later| limiter.admit(&[of("a")], now + Duration::from_secs(later)).allowed;
    assert_eq!([admit(0), admit(3599), admit(3601)], [true, false, true]);
}

#[test]
fn members_of_a_cluster_share_the_limits() {
    let cluster = Arc::new(LocalCluster::new("us", Locality::default()));
    let limiter = limiter(&[descriptor("a", 7)], 1).shared_with(Some(cluster.clone()));
    let now = Instant::now();
    let admitted = || (0..10).filter(|_| limiter.admit(&[of("a")], now).allowed).count();
    let host = |last| Arc::new(Host::new(std::net::SocketAddr::from(([127, 0, 0, last], 9)).into()));
    let members = |count: u8| {
        cluster.set_hosts(Arc::new(HostSet::of_hosts((0..count).map(host).collect(), Default::default())));
    };
    members(4);
    assert_eq!(admitted(), 1, "four tokens of seven");
    members(2);
    assert_eq!(admitted(), 1, "two of the three that are left");
    members(0);
    assert_eq!(admitted(), 1, "a cluster of nobody leaves this proxy all that is left");
}

#[test]
fn limits_are_shared_with_a_cluster_and_not_of_a_connection() {
    let mut env = env();
    env.cluster_defaults.local_cluster = Some(Arc::new(LocalCluster::new("us", Locality::default())));
    let errors = |per_connection| {
        let mut cx = BuildCx::new(&env);
        let local_cluster_rate_limit = Some(Default::default());
        let local_rate_limit_per_downstream_connection = per_connection;
        let proto = proto::LocalRateLimit {
            local_cluster_rate_limit,
            local_rate_limit_per_downstream_connection,
            ..limit(1)
        };
        let built = LocalRateLimit::build(proto, &mut cx);
        assert_eq!(built.is_err(), per_connection);
        cx.into_errors().into_iter().map(|error| error.path).collect::<Vec<_>>()
    };
    assert_eq!(errors(false), [] as [&str; 0]);
    assert_eq!(errors(true), ["local_cluster_rate_limit"]);
}

#[test]
fn descriptors_that_are_the_same_are_refused() {
    let env = env();
    let refused = |descriptors, change: fn(&mut proto::LocalRateLimit)| {
        let mut cx = BuildCx::new(&env);
        let mut proto = proto::LocalRateLimit { descriptors, ..limit(1) };
        change(&mut proto);
        let _ = LocalRateLimit::build(proto, &mut cx);
        cx.into_errors().into_iter().map(|error| error.path).collect::<Vec<_>>()
    };
    assert_eq!(refused(vec![descriptor("a", 1), descriptor("a", 2)], |_| ()), ["descriptors[1]"]);
    let apart = |proto: &mut proto::LocalRateLimit| proto.local_rate_limit_per_downstream_connection = true;
    assert_eq!(refused(vec![descriptor("", 1)], apart), ["descriptors[0].entries[0].value"]);
    let shared =
        |proto: &mut proto::LocalRateLimit| proto.local_cluster_rate_limit = Some(Default::default());
    assert_eq!(refused(vec![], shared), ["local_cluster_rate_limit"], "there is no local cluster");
}
