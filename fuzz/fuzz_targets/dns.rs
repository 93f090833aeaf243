//! What DNS answers mean for a cluster: any answers at any time, and only addresses that were answered become hosts.
#![no_main]
#![allow(deprecated, reason = "control planes still send the fields of clusters")]

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use arbitrary::Arbitrary;
use libfuzzer_sys::fuzz_target;
use proxy_core::config::BuildCx;
use proxy_engine::upstream::cluster::Cluster;
use proxy_engine::upstream::discovery::Discovery;
use proxy_engine::upstream::dns::{Answer, DnsConfig, DnsKind, Outcome, ResolveError, Schedule};
use tokio::time::Instant;
use xds_api::envoy::config::cluster::v3::Cluster as Proto;
use xds_api::envoy::config::cluster::v3::cluster::{ClusterDiscoveryType, DiscoveryType};
use xds_api::envoy::config::core::v3 as core;
use xds_api::envoy::config::endpoint::v3 as endpoint;

#[derive(Arbitrary, Debug)]
struct Input {
    logical: bool,
    names: u8,
    respect_ttl: bool,
    refresh_ms: Option<u32>,
    failure_ms: Option<(u32, u32)>,
    jitter_ms: Option<u16>,
    steps: Vec<Step>,
}

#[derive(Arbitrary, Debug)]
enum Step {
    Pass(u32),
    Answer { name: u8, addresses: Vec<Ip>, ttl: u32 },
    Fail { name: u8 },
}

#[derive(Arbitrary, Debug)]
enum Ip {
    Few(u8),
    V4(u32),
    V6(u128),
}

impl Ip {
    fn address(&self) -> IpAddr {
        match self {
            Self::Few(last) => IpAddr::from([192, 0, 2, last % 4]),
            Self::V4(bits) => IpAddr::from(bits.to_be_bytes()),
            Self::V6(bits) => IpAddr::from(bits.to_be_bytes()),
        }
    }
}

fuzz_target!(|input: Input| {
    let Some(config) = config(&input) else { return };
    let start = Instant::now();
    let mut now = start;
    let mut schedule = Schedule::new(&config, now, fastrand::Rng::with_seed(1));
    let mut last: BTreeMap<String, Vec<IpAddr>> = BTreeMap::new();
    for step in input.steps.iter().take(64) {
        match step {
            Step::Pass(millis) => {
                now += Duration::from_millis(u64::from(*millis));
                let due = schedule.take_due(now);
                assert!(schedule.next_due().is_none_or(|next| next > now), "asked twice: {due:?}");
            }
            Step::Answer { name, addresses, ttl } => {
                let name = format!("n{}", name % 4);
                let addresses: Vec<IpAddr> = addresses.iter().map(Ip::address).collect();
                let ttl = Duration::from_secs(u64::from(*ttl));
                let answer = Answer { addresses: addresses.clone(), ttl, is_absent: false };
                if schedule.answered(&name, Ok(answer), now) == Outcome::Answered {
                    last.insert(name, addresses);
                }
            }
            Step::Fail { name } => {
                let failed = Err(ResolveError { text: "no".to_owned(), details: "no" });
                assert_eq!(schedule.answered(&format!("n{}", name % 4), failed, now), Outcome::Failed);
            }
        }
        check(&config, &schedule, &last);
        assert!(schedule.next_due().is_none_or(|next| next >= start));
    }
});

fn check(config: &DnsConfig, schedule: &Schedule, last: &BTreeMap<String, Vec<IpAddr>>) {
    let assignment = schedule.assignment();
    for (locality, from) in assignment.localities.iter().zip(&config.targets.localities) {
        let mut hosts: Vec<IpAddr> =
            locality.endpoints.iter().filter_map(|endpoint| endpoint.address.ip()).collect();
        let answers = from.endpoints.iter().filter_map(|endpoint| last.get(&*endpoint.address.name));
        match config.kind {
            DnsKind::Strict => {
                let mut expected: Vec<IpAddr> = answers.flatten().copied().collect();
                expected.sort();
                hosts.sort();
                assert_eq!(hosts, expected);
            }
            DnsKind::Logical => {
                assert_eq!(hosts.len(), answers.clone().count());
                assert!(hosts.iter().all(|host| answers.clone().any(|answer| answer.contains(host))));
            }
        }
    }
}

fn config(input: &Input) -> Option<DnsConfig> {
    let name = |number: u8| {
        let socket = core::SocketAddress {
            address: format!("n{number}"),
            port_specifier: Some(core::socket_address::PortSpecifier::PortValue(80)),
            ..core::SocketAddress::default()
        };
        let address = core::Address { address: Some(core::address::Address::SocketAddress(socket)) };
        let endpoint = endpoint::Endpoint { address: Some(address), ..endpoint::Endpoint::default() };
        endpoint::LbEndpoint {
            host_identifier: Some(endpoint::lb_endpoint::HostIdentifier::Endpoint(endpoint)),
            ..endpoint::LbEndpoint::default()
        }
    };
    let names = if input.logical { 1 } else { input.names % 4 };
    let locality = endpoint::LocalityLbEndpoints {
        lb_endpoints: (0..names).map(name).collect(),
        ..endpoint::LocalityLbEndpoints::default()
    };
    let millis = |millis: u32| prost_types::Duration {
        seconds: i64::from(millis / 1000),
        nanos: i32::try_from(millis % 1000).unwrap_or(0) * 1_000_000,
    };
    let kind = if input.logical { DiscoveryType::LogicalDns } else { DiscoveryType::StrictDns };
    let proto = Proto {
        name: "c".to_owned(),
        cluster_discovery_type: Some(ClusterDiscoveryType::Type(kind as i32)),
        respect_dns_ttl: input.respect_ttl,
        dns_refresh_rate: input.refresh_ms.map(millis),
        dns_failure_refresh_rate: input.failure_ms.map(|(base, max)| {
            xds_api::envoy::config::cluster::v3::cluster::RefreshRate {
                base_interval: Some(millis(base)),
                max_interval: Some(millis(max)),
            }
        }),
        dns_jitter: input.jitter_ms.map(|jitter| millis(u32::from(jitter))),
        load_assignment: Some(endpoint::ClusterLoadAssignment {
            cluster_name: "c".to_owned(),
            endpoints: vec![locality],
            ..endpoint::ClusterLoadAssignment::default()
        }),
        ..Proto::default()
    };
    let env = outrigger_fuzz::env();
    let cluster = Cluster::build(&proto, &mut BuildCx::new(&env)).ok()?;
    match &cluster.discovery {
        Discovery::Dns(config) => Some(DnsConfig::clone(config)),
        _ => None,
    }
}
