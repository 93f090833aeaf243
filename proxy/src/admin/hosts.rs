//! From the hosts that the data plane balances over to what `/clusters` and `/config_dump?include_eds` show.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};

use prost::{Message as _, Name as _};
use prost_types::Any;
use proxy_core::address::Address;
use proxy_core::upstream::{Host, HostHealth, HostSet, Locality};
use xds_api::envoy::config::core::v3 as core;
use xds_api::envoy::config::endpoint::v3 as proto;
use xds_api::envoy::config::endpoint::v3::endpoint::HealthCheckConfig;

use super::clusters::{HostCounters, HostStatus, SuccessRates};
use super::config_dump::Resource;

impl From<&Host> for HostStatus {
    fn from(host: &Host) -> Self {
        let count = |counter: &AtomicU64| counter.load(Relaxed);
        let level = |gauge: &AtomicU32| u64::from(gauge.load(Relaxed));
        let [all, local_origin] = host.success_rates();
        Self {
            address: host.address.clone(),
            hostname: host.hostname.to_string(),
            counters: HostCounters {
                cx_active: level(&host.active_connections),
                cx_connect_fail: count(&host.stats.cx_connect_fail),
                cx_total: count(&host.stats.cx_total),
                rq_active: level(&host.active_requests),
                rq_error: count(&host.stats.rq_error),
                rq_pending_active: level(&host.pending_requests),
                rq_success: count(&host.stats.rq_success),
                rq_timeout: count(&host.stats.rq_timeout),
                rq_total: count(&host.stats.rq_total),
            },
            health_flags: host.health_flags(),
            weight: host.weight(),
            locality: Locality::clone(&host.locality),
            canary: host.is_canary(),
            priority: host.priority(),
            success_rates: SuccessRates { all, local_origin },
        }
    }
}

/// The endpoints of a cluster as Envoy writes them into its dump: one entry per priority and locality.
pub fn load_assignment(cluster: &str, hosts: &HostSet) -> Resource {
    let mut endpoints: Vec<(u32, Arc<Locality>, Vec<proto::LbEndpoint>)> = Vec::new();
    for host in hosts.hosts() {
        let known = endpoints
            .iter_mut()
            .find(|(priority, locality, _)| *priority == host.priority() && *locality == host.locality);
        match known {
            Some((_, _, list)) => list.push(endpoint(host)),
            None => endpoints.push((host.priority(), host.locality.clone(), vec![endpoint(host)])),
        }
    }
    endpoints.sort_by_key(|(priority, _, _)| *priority);
    let message = proto::ClusterLoadAssignment {
        cluster_name: cluster.to_owned(),
        endpoints: endpoints.into_iter().map(locality_endpoints).collect(),
        policy: Some(proto::cluster_load_assignment::Policy {
            overprovisioning_factor: Some(hosts.policy().overprovisioning_factor),
            ..Default::default()
        }),
        ..Default::default()
    };
    let type_url = format!("type.googleapis.com/{}", proto::ClusterLoadAssignment::full_name());
    Resource {
        name: cluster.to_owned(),
        config: Arc::new(Any { type_url, value: message.encode_to_vec() }),
        ..Resource::default()
    }
}

fn locality_endpoints(
    (priority, locality, lb_endpoints): (u32, Arc<Locality>, Vec<proto::LbEndpoint>),
) -> proto::LocalityLbEndpoints {
    proto::LocalityLbEndpoints {
        locality: Some(core::Locality {
            region: locality.region.clone(),
            zone: locality.zone.clone(),
            sub_zone: locality.sub_zone.clone(),
        }),
        lb_endpoints,
        load_balancing_weight: Some(0),
        priority,
        ..Default::default()
    }
}

fn endpoint(host: &Arc<Host>) -> proto::LbEndpoint {
    let health = match host.health() {
        HostHealth::Healthy => core::HealthStatus::Healthy,
        HostHealth::Degraded => core::HealthStatus::Degraded,
        // Envoy shows what a host may be used for, so a draining one is unhealthy here.
        HostHealth::Unhealthy | HostHealth::Draining => core::HealthStatus::Unhealthy,
    };
    let metadata = host.metadata();
    proto::LbEndpoint {
        health_status: health.into(),
        metadata: (!metadata.is_empty()).then(|| metadata.to_proto()),
        load_balancing_weight: Some(host.weight()),
        host_identifier: Some(proto::lb_endpoint::HostIdentifier::Endpoint(proto::Endpoint {
            address: Some(host.address.to_proto()),
            health_check_config: Some(check_config(host)),
            hostname: host.hostname.to_string(),
            additional_addresses: host
                .additional_addresses
                .iter()
                .map(|other| proto::endpoint::AdditionalAddress { address: Some(other.to_proto()) })
                .collect(),
            ..Default::default()
        })),
    }
}

fn check_config(host: &Host) -> HealthCheckConfig {
    let Some(check) = &host.check else { return HealthCheckConfig::default() };
    let (own, port) = check.configured();
    HealthCheckConfig {
        port_value: port.into(),
        hostname: check.hostname.to_string(),
        address: own.map(Address::to_proto),
        disable_active_health_check: check.disabled,
    }
}

#[cfg(test)]
mod tests {
    use proxy_core::upstream::{Assignment, AssignmentPolicy, Endpoint, HostSetOptions, LocalityEndpoints};
    use serde_json::json;

    use super::super::json::message;
    use super::*;

    fn host_set() -> Arc<HostSet> {
        let endpoint = |address: &str, health: HostHealth| Endpoint {
            address: Address::Ip(address.parse().unwrap()),
            additional_addresses: Box::default(),
            hostname: "hh".into(),
            weight: 3,
            health: health.into(),
            metadata: Default::default(),
            check: None,
        };
        let locality = Locality { region: "r".to_owned(), ..Locality::default() };
        let assignment = Assignment {
            localities: vec![
                LocalityEndpoints {
                    locality: Locality::nowhere(),
                    priority: 1,
                    weight: 0,
                    endpoints: vec![endpoint("[::1]:2", HostHealth::Degraded)],
                },
                LocalityEndpoints {
                    locality: Arc::new(locality),
                    priority: 0,
                    weight: 0,
                    endpoints: vec![
                        endpoint("127.0.0.1:1", HostHealth::Healthy),
                        endpoint("127.0.0.1:2", HostHealth::Draining),
                    ],
                },
            ],
            policy: AssignmentPolicy::default(),
        };
        HostSet::update(None, &assignment, HostSetOptions::default()).hosts
    }

    #[test]
    fn endpoints_are_dumped_by_priority_and_locality() {
        let resource = load_assignment("c", &host_set());
        let shown = message(&resource.config);
        let endpoints = shown["endpoints"].as_array().unwrap();
        assert_eq!(endpoints.len(), 2);
        assert_eq!(
            endpoints[0]["lb_endpoints"][1],
            json!({
                "endpoint": {
                    "address": {"socket_address": {"address": "127.0.0.1", "port_value": 2}},
                    "health_check_config": {},
                    "hostname": "hh",
                },
                "health_status": "UNHEALTHY",
                "load_balancing_weight": 3,
            })
        );
        assert_eq!(endpoints[0]["locality"], json!({"region": "r"}));
        assert_eq!(endpoints[1]["locality"], json!({}));
        assert_eq!(endpoints[1]["priority"], 1);
        assert_eq!(endpoints[1]["load_balancing_weight"], 0);
        assert_eq!(shown["policy"], json!({"overprovisioning_factor": 140}));
    }

    #[test]
    fn a_host_shows_its_counters_and_health() {
        let hosts = host_set();
        let draining =
            hosts.hosts().find(|host| host.address.port() == Some(2) && host.priority() == 0).unwrap();
        draining.stats.rq_total.store(7, Relaxed);
        let status = HostStatus::from(&**draining);
        assert_eq!(status.health_flags, [proxy_core::upstream::HealthFlag::EdsStatusDraining]);
        assert_eq!(status.counters.rq_total, 7);
        assert_eq!(status.weight, 3);
        assert!(!status.canary);
    }
}
