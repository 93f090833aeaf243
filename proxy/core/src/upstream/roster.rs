//! Hosts that are there to be checked and told of, and never to be balanced over: those of a health discovery service.
//!
//! They stay in the order and in the groups in which they were named. Who is named again, at the same address of the same locality and to
//! be checked in the same way, is the same host, with what was found out about it.
//! Source: Envoy `docs/root/intro/arch_overview/upstream/health_checking.rst`, `envoy/service/health/v3/hds.proto`.

use std::collections::HashMap;
use std::sync::Arc;

use prost_types::value::Kind;
use prost_types::{Struct, Value};
use xds_api::envoy::config::core::v3 as core;
use xds_api::envoy::config::core::v3::HealthStatus;
use xds_api::envoy::config::endpoint::v3 as endpoint;
use xds_api::envoy::service::health::v3 as proto;

use super::{Assignment, HealthFlag, Host, HostHealth, Locality};
use crate::address::Address;

/// What the last HTTP check was answered with, in what is told of a host.
const STATUS: &str = "http_status_code";

/// The hosts, by group.
#[derive(Clone, Debug, Default)]
pub struct Roster(Vec<Group>);

#[derive(Clone, Debug)]
struct Group {
    locality: Arc<Locality>,
    hosts: Vec<Arc<Host>>,
}

type Place<'a> = (&'a Locality, &'a Address);

impl Roster {
    /// The hosts of `assignment`; those that this one has stay what they are. New ones are unwell until a check says otherwise.
    pub fn updated(&self, assignment: &Assignment) -> Self {
        let mut known: HashMap<Place<'_>, Vec<&Arc<Host>>> = HashMap::new();
        for host in self.hosts() {
            known.entry((&host.locality, &host.address)).or_default().push(host);
        }
        let groups = assignment.localities.iter().map(|group| {
            let hosts = group.endpoints.iter().map(|endpoint| {
                let known = known.get(&(&*group.locality, &endpoint.address));
                let same = known.and_then(|hosts| hosts.iter().find(|host| host.check == endpoint.check));
                same.map_or_else(
                    || {
                        let host = Host::from_endpoint(endpoint, &group.locality);
                        host.await_check(false);
                        Arc::new(host)
                    },
                    |host| (*host).clone(),
                )
            });
            Group { locality: group.locality.clone(), hosts: hosts.collect() }
        });
        Self(groups.collect())
    }

    /// All hosts; one that is named twice may come twice.
    pub fn hosts(&self) -> impl Iterator<Item = &Arc<Host>> {
        self.0.iter().flat_map(|group| &group.hosts)
    }

    /// What is to be told of them.
    pub fn report(&self) -> Vec<proto::LocalityEndpointsHealth> {
        let report = |group: &Group| proto::LocalityEndpointsHealth {
            locality: Some(core::Locality {
                region: group.locality.region.clone(),
                zone: group.locality.zone.clone(),
                sub_zone: group.locality.sub_zone.clone(),
            }),
            endpoints_health: group.hosts.iter().map(|host| report(host)).collect(),
        };
        self.0.iter().map(report).collect()
    }
}

fn report(host: &Host) -> proto::EndpointHealth {
    let endpoint = endpoint::Endpoint { address: Some(host.address.to_proto()), ..Default::default() };
    proto::EndpointHealth {
        endpoint: Some(endpoint),
        health_status: status(host).into(),
        health_metadata: host.check_status().map(|status| Struct {
            fields: [(STATUS.to_owned(), Value { kind: Some(Kind::NumberValue(status.into())) })].into(),
        }),
    }
}

fn status(host: &Host) -> HealthStatus {
    match host.health() {
        HostHealth::Healthy => HealthStatus::Healthy,
        _ if host.has_flag(HealthFlag::ActiveHealthCheckTimeout) => HealthStatus::Timeout,
        // (Nothing in between is told.)
        HostHealth::Degraded | HostHealth::Unhealthy | HostHealth::Draining => HealthStatus::Unhealthy,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{BuildCx, BuildEnv};

    /// Groups of ports, each in a zone; a port above 9000 is checked at its name.
    fn assignment(groups: &[(&str, &[u32])]) -> Assignment {
        let endpoint = |port: &u32| {
            let address =
                format!(r#"{{"socket_address": {{"address": "127.0.0.1", "port_value": {port}}}}}"#);
            let check = if *port > 9000 { r#", "health_check_config": {"hostname": "named"}"# } else { "" };
            format!(r#"{{"endpoint": {{"address": {address}{check}}}}}"#)
        };
        let group = |(zone, ports): &(&str, &[u32])| {
            let endpoints: Vec<String> = ports.iter().map(endpoint).collect();
            format!(r#"{{"locality": {{"zone": "{zone}"}}, "lb_endpoints": [{}]}}"#, endpoints.join(", "))
        };
        let groups: Vec<String> = groups.iter().map(group).collect();
        let text = format!(r#"{{"cluster_name": "c", "endpoints": [{}]}}"#, groups.join(", "));
        let source = xds_api::read::Source::yaml("t", text.as_bytes());
        let read = xds_api::read::read(&source, &xds_api::read::Options::default()).unwrap();
        let env = BuildEnv::new(1);
        Assignment::build(&read.message, &mut BuildCx::new(&env)).unwrap()
    }

    fn statuses(roster: &Roster) -> Vec<(String, Vec<HealthStatus>)> {
        let group = |group: proto::LocalityEndpointsHealth| {
            let statuses = group.endpoints_health.iter().map(|one| one.health_status());
            (group.locality.unwrap().zone, statuses.collect())
        };
        roster.report().into_iter().map(group).collect()
    }

    #[test]
    fn who_is_named_again_is_the_same_host() {
        let roster = Roster::default().updated(&assignment(&[("a", &[1, 2]), ("b", &[1])]));
        let hosts: Vec<_> = roster.hosts().cloned().collect();
        hosts[0].set_flag(HealthFlag::FailedActiveHealthCheck, false);
        hosts[1].set_flag(HealthFlag::ActiveHealthCheckTimeout, true);
        hosts[1].set_check_status(Some(503));
        let metadata = roster.report()[0].endpoints_health[1].health_metadata.clone().unwrap();
        assert_eq!(metadata.fields[STATUS].kind, Some(Kind::NumberValue(503.0)));
        assert_eq!(roster.report()[0].endpoints_health[0].health_metadata, None);
        let unwell = HealthStatus::Unhealthy;
        let told = [
            ("a".to_owned(), vec![HealthStatus::Healthy, HealthStatus::Timeout]),
            ("b".to_owned(), vec![unwell]),
        ];
        assert_eq!(statuses(&roster), told);
        let next = roster.updated(&assignment(&[("b", &[2, 1]), ("a", &[3, 1])]));
        let found: Vec<_> = next.hosts().collect();
        assert!(Arc::ptr_eq(found[1], &hosts[2]) && Arc::ptr_eq(found[3], &hosts[0]));
        assert!(hosts.iter().all(|host| !Arc::ptr_eq(host, found[0]) && !Arc::ptr_eq(host, found[2])));
        let told =
            [("b".to_owned(), vec![unwell, unwell]), ("a".to_owned(), vec![unwell, HealthStatus::Healthy])];
        assert_eq!(statuses(&next), told);
    }

    #[test]
    fn who_is_to_be_checked_in_another_way_is_another_host() {
        let roster = Roster::default().updated(&assignment(&[("", &[9001])]));
        let mut other = assignment(&[("", &[9001])]);
        assert!(Arc::ptr_eq(roster.hosts().next().unwrap(), roster.updated(&other).hosts().next().unwrap()));
        other.localities[0].endpoints[0].check = None;
        assert!(!Arc::ptr_eq(roster.hosts().next().unwrap(), roster.updated(&other).hosts().next().unwrap()));
    }
}
