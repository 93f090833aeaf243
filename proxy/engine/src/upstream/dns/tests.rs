//! DNS clusters with a resolver that answers what the test says, under a paused clock; and a real one over loopback.

#![allow(deprecated)]

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::future::BoxFuture;
use proxy_core::stats::groups::CaresStats;
use proxy_core::stats::{Registry, Shared, SharedCounter};
use tokio::net::UdpSocket;
use tokio::sync::mpsc;
use tokio::time::Instant;
use xds_api::envoy::config::cluster::v3 as proto;
use xds_api::envoy::config::cluster::v3::cluster::DiscoveryType;

use super::*;
use crate::upstream::cluster::Cluster;
use crate::upstream::discovery::Discovery;
use crate::upstream::tests::{build, cluster, lb_endpoint};

pub(super) fn failure() -> ResolveError {
    ResolveError { text: "no".into(), details: "no" }
}

#[derive(Default)]
pub(super) struct Script {
    answers: Mutex<HashMap<String, Result<Answer, ResolveError>>>,
    asked: Mutex<Vec<(String, Duration)>>,
    start: Option<Instant>,
}

impl Script {
    pub(super) fn new() -> Arc<Self> {
        Arc::new(Self { start: Some(Instant::now()), ..Self::default() })
    }

    pub(super) fn answer(&self, name: &str, addresses: &[&str], ttl: u64) {
        let addresses = addresses.iter().map(|one| one.parse().unwrap()).collect();
        let answer = Answer { addresses, ttl: Duration::from_secs(ttl), is_absent: false };
        self.answers.lock().unwrap().insert(name.into(), Ok(answer));
    }

    pub(super) fn fail(&self, name: &str) {
        self.answers.lock().unwrap().insert(name.into(), Err(failure()));
    }

    /// When names were asked for, in whole seconds since the start.
    pub(super) fn times(&self) -> Vec<u64> {
        self.asked.lock().unwrap().iter().map(|(_, at)| at.as_secs()).collect()
    }
}

impl Resolver for Script {
    fn resolve(&self, name: Arc<str>, _: LookupFamily) -> BoxFuture<'static, Result<Answer, ResolveError>> {
        self.asked.lock().unwrap().push((name.to_string(), self.start.unwrap().elapsed()));
        let answer = self.answers.lock().unwrap().get(&*name).cloned();
        Box::pin(async move { answer.unwrap_or_else(|| Err(failure())) })
    }
}

/// Runs the cluster's task beside the test; each update is told as (added, removed, warmed).
struct Running {
    cluster: Arc<Cluster>,
    updates: mpsc::UnboundedReceiver<(usize, usize, bool)>,
    _task: tokio::task::JoinHandle<()>,
}

fn start(proto: &proto::Cluster, resolver: Arc<dyn Resolver>) -> Running {
    let cluster = build(proto).unwrap();
    let (send, updates) = mpsc::unbounded_channel();
    let task = run(cluster.clone(), resolver, move |update| {
        let count =
            |hosts: fn(&proxy_core::upstream::HostsUpdate) -> usize| update.hosts.as_ref().map_or(0, hosts);
        let counts = (count(|hosts| hosts.added.len()), count(|hosts| hosts.removed.len()), update.warmed);
        let _ = send.send(counts);
    });
    Running { cluster, updates, _task: tokio::spawn(task) }
}

impl Running {
    fn hosts(&self) -> Vec<String> {
        self.cluster.hosts().hosts().map(|host| host.address.to_string()).collect()
    }
}

fn named(kind: DiscoveryType) -> proto::Cluster {
    cluster(kind, vec![lb_endpoint("a.test", 80)])
}

fn seconds(seconds: i64) -> Option<prost_types::Duration> {
    Some(prost_types::Duration { seconds, nanos: 0 })
}

#[tokio::test(start_paused = true)]
async fn every_address_is_a_host_and_failures_change_nothing() {
    let script = Script::new();
    script.answer("a.test", &["10.0.0.1", "10.0.0.2"], 0);
    let mut running = start(&named(DiscoveryType::StrictDns), script.clone());
    assert_eq!(running.updates.recv().await, Some((2, 0, true)));
    assert_eq!(running.hosts(), ["10.0.0.1:80", "10.0.0.2:80"]);
    script.fail("a.test");
    tokio::time::sleep(Duration::from_secs(11)).await;
    assert_eq!((running.hosts().len(), script.times()), (2, vec![0, 5, 10]));
    let state = &running.cluster.stats.state;
    assert_eq!(
        (state.update_attempt.value(), state.update_success.value(), state.update_failure.value()),
        (3, 1, 2)
    );
    script.answer("a.test", &["10.0.0.2", "10.0.0.3"], 0);
    assert_eq!(running.updates.recv().await, Some((1, 1, false)));
    // No address at all is an answer: there are no hosts.
    script.answer("a.test", &[], 0);
    assert_eq!(running.updates.recv().await, Some((0, 2, false)));
    assert!(running.hosts().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_literal_is_its_own_answer() {
    let proto = cluster(DiscoveryType::StrictDns, vec![lb_endpoint("10.0.0.9", 80), lb_endpoint("::1", 80)]);
    let script = Script::new();
    let mut running = start(&proto, script.clone());
    assert_eq!(running.updates.recv().await, Some((1, 0, true)));
    assert_eq!(running.updates.recv().await, Some((1, 0, false)));
    assert_eq!(running.hosts(), ["10.0.0.9:80", "[::1]:80"]);
    assert!(script.times().is_empty());
    assert_eq!(&*running.cluster.hosts().hosts().next().unwrap().hostname, "10.0.0.9");
}

#[tokio::test(start_paused = true)]
async fn the_time_to_live_replaces_the_refresh_rate() {
    let mut proto = named(DiscoveryType::StrictDns);
    proto.respect_dns_ttl = true;
    let script = Script::new();
    script.answer("a.test", &["10.0.0.1"], 30);
    let mut running = start(&proto, script.clone());
    running.updates.recv().await.unwrap();
    tokio::time::sleep(Duration::from_secs(61)).await;
    assert_eq!(script.times(), [0, 30, 60]);
    assert_eq!(running.cluster.stats.state.update_no_rebuild.value(), 2);
}

#[tokio::test(start_paused = true)]
async fn failures_back_off_within_their_bounds() {
    let mut proto = named(DiscoveryType::StrictDns);
    proto.dns_refresh_rate = seconds(1000);
    proto.dns_failure_refresh_rate =
        Some(proto::cluster::RefreshRate { base_interval: seconds(2), max_interval: seconds(8) });
    let script = Script::new();
    let mut running = start(&proto, script.clone());
    // A failure ends warming as well.
    assert_eq!(running.updates.recv().await, Some((0, 0, true)));
    tokio::time::sleep(Duration::from_secs(500)).await;
    let asked = script.asked.lock().unwrap();
    let mut limit = Duration::from_secs(2);
    for pair in asked.windows(2) {
        assert!(pair[1].1 - pair[0].1 <= limit + Duration::from_millis(2), "{asked:?}");
        limit = (limit * 2).min(Duration::from_secs(8));
    }
    assert!(asked.len() > 62, "{asked:?}");
}

#[tokio::test(start_paused = true)]
async fn a_logical_host_stays_while_its_addresses_do() {
    let script = Script::new();
    script.answer("a.test", &["10.0.0.1", "10.0.0.2"], 0);
    let mut running = start(&named(DiscoveryType::LogicalDns), script.clone());
    assert_eq!(running.updates.recv().await, Some((1, 0, true)));
    let host = running.cluster.hosts().hosts().next().unwrap().clone();
    assert_eq!((host.addresses().len(), &*host.hostname), (2, "a.test"));
    // Servers give their addresses in turns.
    script.answer("a.test", &["10.0.0.2", "10.0.0.1"], 0);
    tokio::time::sleep(Duration::from_secs(6)).await;
    assert!(Arc::ptr_eq(&host, running.cluster.hosts().hosts().next().unwrap()));
    script.answer("a.test", &["10.0.0.3"], 0);
    assert_eq!(running.updates.recv().await, Some((1, 1, false)));
    let host = running.cluster.hosts().hosts().next().unwrap().clone();
    assert_eq!(host.addresses()[0].to_string(), "10.0.0.3:80");
    // Without addresses the last one stays, and it counts as a failure.
    script.answer("a.test", &[], 0);
    tokio::time::sleep(Duration::from_secs(6)).await;
    assert_eq!(host.addresses()[0].to_string(), "10.0.0.3:80");
    assert_eq!(running.cluster.stats.state.update_failure.value(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_cluster_need_not_wait_for_dns() {
    let mut proto = named(DiscoveryType::StrictDns);
    proto.wait_for_warm_on_init = Some(false);
    let mut running = start(&proto, Script::new());
    assert_eq!(running.updates.recv().await, Some((0, 0, true)));
}

#[test]
fn logical_dns_takes_one_endpoint() {
    let two = vec![lb_endpoint("a.test", 80), lb_endpoint("b.test", 80)];
    let errors = build(&cluster(DiscoveryType::LogicalDns, two)).unwrap_err();
    assert_eq!(
        errors[0].to_string(),
        "load_assignment: LOGICAL_DNS clusters must have a single locality_lb_endpoint and a single lb_endpoint"
    );
}

/// Answers `A` for `good.test` with two addresses and a time to live of 7 s; every other name does not exist.
async fn serve(socket: UdpSocket) {
    let mut buffer = [0; 512];
    while let Ok((length, from)) = socket.recv_from(&mut buffer).await {
        let query = &buffer[..length];
        let end = query[12..].iter().position(|byte| *byte == 0).unwrap() + 12;
        let known = query[12..end].starts_with(b"\x04good\x04test") && query[end + 2] == 1;
        let mut reply = query[..2].to_vec();
        let (code, answers) = if known { (0x80, 2u8) } else { (0x83, 0) };
        reply.extend([0x81, code, 0, 1, 0, answers, 0, 0, 0, 0]);
        reply.extend(&query[12..end + 5]);
        for last in 1..=answers {
            reply.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 7, 0, 4, 127, 0, 0, last]);
        }
        let _ = socket.send_to(&reply, from).await;
    }
}

#[tokio::test]
async fn servers_are_asked_over_the_wire() {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let config = ResolverConfig {
        servers: vec![socket.local_addr().unwrap()],
        no_search_domain: true,
        ..ResolverConfig::default()
    };
    tokio::spawn(serve(socket));
    let stats = Registry::new(1);
    let resolvers = Resolvers::new(ResolverConfig::default(), &stats);
    let resolver = resolvers.resolver(&config);
    assert!(Arc::ptr_eq(&resolver, &resolvers.resolver(&config)));
    let found = resolver.resolve("good.test".into(), LookupFamily::V4Only).await.unwrap();
    let mut addresses = found.addresses.clone();
    addresses.sort();
    let wanted: Vec<IpAddr> = ["127.0.0.1", "127.0.0.2"].iter().map(|one| one.parse().unwrap()).collect();
    assert_eq!((addresses, found.ttl), (wanted, Duration::from_secs(7)));
    // There is no IPv6 address, so the automatic family falls back.
    let found = resolver.resolve("good.test".into(), LookupFamily::Auto).await.unwrap();
    assert_eq!(found.addresses.len(), 2);
    let absent = Answer { is_absent: true, ..Answer::default() };
    assert_eq!(resolver.resolve("bad.test".into(), LookupFamily::V4Only).await, Ok(absent));
    let local = resolver.resolve("localhost".into(), LookupFamily::V4Preferred).await.unwrap();
    assert!(local.addresses[0].is_loopback());
    let counted: Shared<CaresStats> = stats.scope("dns.cares").shared();
    let values = [&counted.resolve_total, &counted.not_found, &counted.get_addr_failure];
    assert_eq!(values.map(SharedCounter::value), [4, 1, 0]);
    assert_eq!(counted.pending_resolutions.value(), 0);
}

fn resolvers() -> Resolvers {
    Resolvers::new(ResolverConfig::default(), &Registry::new(1))
}

#[tokio::test]
async fn a_silent_server_is_a_failure() {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let server: SocketAddr = socket.local_addr().unwrap();
    let config = ResolverConfig {
        servers: vec![server],
        timeout: Some(Duration::from_millis(50)),
        tries: Some(1),
        ..ResolverConfig::default()
    };
    let resolver = resolvers().resolver(&config);
    assert!(resolver.resolve("good.test.".into(), LookupFamily::V4Only).await.is_err());
}

#[tokio::test]
async fn the_c_library_knows_localhost() {
    let config = ResolverConfig { kind: ResolverKind::System, ..ResolverConfig::default() };
    let resolver = resolvers().resolver(&config);
    let found = resolver.resolve("localhost".into(), LookupFamily::V4Only).await.unwrap();
    assert_eq!(found.addresses, ["127.0.0.1".parse::<IpAddr>().unwrap()]);
}

#[test]
fn both_forms_of_configuration_say_the_same() {
    use prost::{Message as _, Name as _};
    use xds_api::envoy::extensions::clusters::dns::v3::DnsCluster;
    let typed = DnsCluster { respect_dns_ttl: true, dns_refresh_rate: seconds(9), ..Default::default() };
    let mut proto = named(DiscoveryType::StrictDns);
    proto.respect_dns_ttl = true;
    proto.dns_refresh_rate = seconds(9);
    let old = build(&proto).unwrap();
    proto.cluster_discovery_type =
        Some(proto::cluster::ClusterDiscoveryType::ClusterType(proto::cluster::CustomClusterType {
            name: "x".into(),
            typed_config: Some(prost_types::Any {
                type_url: format!("type.googleapis.com/{}", DnsCluster::full_name()),
                value: typed.encode_to_vec(),
            }),
        }));
    let new = build(&proto).unwrap();
    let show = |cluster: &Cluster| match &cluster.discovery {
        Discovery::Dns(dns) => format!("{dns:?}"),
        other => panic!("{other:?}"),
    };
    assert_eq!(show(&old), show(&new));
}
