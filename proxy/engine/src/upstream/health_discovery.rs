//! Clusters that a health discovery service wants checked: they are balanced over by nobody, and what their checks find is reported.
//!
//! [`Delegate`] takes what the service says and keeps the checks of it running on the main thread, each by the checkers that other clusters
//! have; its owner speaks with the service. A specifier holds as a whole or not at all. What it has in common with the one before goes on:
//! clusters of the same name, their hosts with what was found out about them, and equal checks of them.
//! Source: Envoy `docs/root/configuration/upstream/health_checkers`, `envoy/service/health/v3/hds.proto`,
//! `source/common/upstream/health_discovery_service.cc`.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use prost::Message;
use proxy_core::config::{
    BuildCx, BuildEnv, ConfigError, FieldUse, Findings, MessageFields, Rejected, duration,
};
use proxy_core::upstream::{Assignment, HostChecks, Roster};
use xds_api::envoy::config::cluster::v3 as cluster;
use xds_api::envoy::config::endpoint::v3 as endpoint;
use xds_api::envoy::service::health::v3 as proto;

use super::checks::sessions::Sessions;
use super::checks::{Checker, Spoken};
use super::cluster::Cluster;
use crate::tls::Supplied;

use FieldUse::Used;

/// How the fields of what the service says are used.
pub const FIELDS: &[MessageFields] = &[
    ("envoy.service.health.v3.HealthCheckSpecifier", &[("cluster_health_checks", Used), ("interval", Used)]),
    (
        "envoy.service.health.v3.ClusterHealthCheck",
        &[
            ("cluster_name", Used),
            ("health_checks", Used),
            ("locality_endpoints", Used),
            ("transport_socket_matches", Used),
            ("upstream_bind_config", Used),
        ],
    ),
    ("envoy.service.health.v3.LocalityEndpoints", &[("locality", Used), ("endpoints", Used)]),
];

const SPECIFIER: &str = "type.googleapis.com/envoy.service.health.v3.HealthCheckSpecifier";
/// How long a connection for a check may take to be made, a TLS handshake included.
const CONNECT_TIMEOUT: prost_types::Duration = prost_types::Duration { seconds: 1, nanos: 0 };
/// How many bytes a connection for a check may buffer.
const BUFFER_LIMIT: u32 = 32768;
/// How often is reported unless the service says it.
const INTERVAL: Duration = Duration::from_secs(1);
/// A year is as good as longer: clocks end some time after that.
const LONGEST_INTERVAL: Duration = Duration::from_secs(366 * 24 * 3600);

/// The checks that a service wants.
pub struct Delegate {
    env: Arc<BuildEnv>,
    specifier: Vec<u8>,
    clusters: Vec<Checked>,
    interval: Option<Duration>,
}

/// Why something that a service said is not taken.
#[derive(Debug, PartialEq)]
pub enum Refused {
    /// It is no specifier: who sends that is not understood.
    Unreadable(prost::DecodeError),
    /// It says what cannot be done: everything of that.
    Wrong(Vec<ConfigError>),
}

/// One cluster of them.
struct Checked {
    config: proto::ClusterHealthCheck,
    /// How its hosts are spoken with. It has none of its own.
    cluster: Arc<Cluster>,
    hosts: Roster,
    checks: Vec<Check>,
}

struct Check {
    checker: Arc<Checker>,
    sessions: Sessions,
}

/// A cluster as it is to be.
struct Plan {
    config: proto::ClusterHealthCheck,
    cluster: Arc<Cluster>,
    hosts: Roster,
    checkers: Vec<Arc<Checker>>,
}

impl Delegate {
    /// One that was told nothing yet.
    pub fn new(env: Arc<BuildEnv>) -> Self {
        Self { env, specifier: Vec::new(), clusters: Vec::new(), interval: None }
    }

    /// Takes what the service says, a `HealthCheckSpecifier`; whether that is news. Needs a local set.
    ///
    /// # Errors
    /// What is wrong with it. What was checked before goes on.
    pub fn take(&mut self, specifier: &[u8]) -> Result<bool, Refused> {
        if self.interval.is_some() && self.specifier == specifier {
            return Ok(false);
        }
        let read = proto::HealthCheckSpecifier::decode(specifier).map_err(Refused::Unreadable)?;
        let Findings { mut invalid, refused } = self.env.checks.check(SPECIFIER, specifier);
        invalid.extend(refused);
        if !invalid.is_empty() {
            return Err(Refused::Wrong(invalid));
        }
        let plans = self.plan(read.cluster_health_checks).map_err(Refused::Wrong)?;
        let mut before = std::mem::take(&mut self.clusters);
        self.clusters = plans.into_iter().map(|plan| plan.begin(&mut before)).collect();
        let interval = read.interval.as_ref().and_then(duration).unwrap_or(INTERVAL);
        // Never without a pause: nothing else would be done.
        self.interval = Some(interval.clamp(Duration::from_millis(1), LONGEST_INTERVAL));
        self.specifier = specifier.to_vec();
        Ok(true)
    }

    /// Another stream begins: whatever it says is news, and until then nothing is to be reported. What is checked goes on.
    pub fn restart(&mut self) {
        self.interval = None;
    }

    /// How often is to be reported; `None` until the stream said anything.
    pub fn interval(&self) -> Option<Duration> {
        self.interval
    }

    /// What was found out; `None` if there are no clusters.
    pub fn report(&self) -> Option<proto::EndpointHealthResponse> {
        let report = |checked: &Checked| proto::ClusterEndpointsHealth {
            cluster_name: checked.config.cluster_name.clone(),
            locality_endpoints_health: checked.hosts.report(),
        };
        let clusters: Vec<_> = self.clusters.iter().map(report).collect();
        let localities = clusters.iter().flat_map(|cluster| &cluster.locality_endpoints_health);
        #[allow(deprecated, reason = "Envoy still sends both")]
        let report = proto::EndpointHealthResponse {
            endpoints_health: localities.flat_map(|group| group.endpoints_health.clone()).collect(),
            cluster_endpoints_health: clusters,
        };
        Some(report).filter(|report| !report.cluster_endpoints_health.is_empty())
    }

    fn plan(&self, configs: Vec<proto::ClusterHealthCheck>) -> Result<Vec<Plan>, Vec<ConfigError>> {
        let env = self.env.clone();
        let mut cx = BuildCx::new(&env);
        let mut names = HashSet::new();
        let mut plans = Vec::with_capacity(configs.len());
        for (index, config) in configs.into_iter().enumerate() {
            if !config.cluster_name.is_empty() && !names.insert(config.cluster_name.clone()) {
                tracing::warn!(cluster = config.cluster_name, "named twice by the health discovery service");
                continue;
            }
            plans.extend(cx.at_index("cluster_health_checks", index, |cx| self.plan_one(config, cx)).ok());
        }
        let errors = cx.into_errors();
        if errors.is_empty() { Ok(plans) } else { Err(errors) }
    }

    fn plan_one(&self, config: proto::ClusterHealthCheck, cx: &mut BuildCx<'_>) -> Result<Plan, Rejected> {
        // Without a name it is another one each time.
        let same = |checked: &&Checked| {
            !config.cluster_name.is_empty() && checked.config.cluster_name == config.cluster_name
        };
        let before =
            self.clusters.iter().find(same).filter(|checked| is_spoken_with_alike(&checked.config, &config));
        let cluster = match before {
            Some(checked) => checked.cluster.clone(),
            None => Arc::new(build_cluster(&config, cx)?),
        };
        let assignment = build_assignment(&config.locality_endpoints, cx);
        let mut left: Vec<_> = before.map_or_else(Vec::new, |checked| {
            checked.config.health_checks.iter().zip(&checked.checks).collect()
        });
        let checkers = cx.each("health_checks", &config.health_checks, |check, cx| {
            if let Some(at) = left.iter().position(|(known, _)| *known == check) {
                return Ok(left.swap_remove(at).1.checker.clone());
            }
            let spoken = Spoken { protocol: cluster.http.protocol, is_secure: cluster.transport.is_secure() };
            Checker::build(check, spoken, &cluster.stats.scope, cx).map(Arc::new)
        });
        let hosts = match before {
            Some(checked) => checked.hosts.updated(&assignment?),
            None => Roster::default().updated(&assignment?),
        };
        Ok(Plan { hosts, cluster, checkers: checkers?, config })
    }
}

impl Plan {
    /// Makes it so: checks that were there go on.
    fn begin(self, before: &mut [Checked]) -> Checked {
        let Self { config, cluster, hosts, checkers } = self;
        let mut old = before.iter_mut().find(|old| Arc::ptr_eq(&old.cluster, &cluster));
        let checks = checkers.into_iter().map(|checker| {
            let kept = old.as_mut().and_then(|old| {
                let at = old.checks.iter().position(|check| Arc::ptr_eq(&check.checker, &checker))?;
                Some(old.checks.swap_remove(at))
            });
            let mut check =
                kept.unwrap_or_else(|| Check { sessions: Sessions::new(&cluster, &checker), checker });
            check.sessions.set_hosts(hosts.hosts(), |host, stats| HostChecks::new(host.clone(), stats));
            check
        });
        let checks = checks.collect();
        Checked { config, cluster, hosts, checks }
    }
}

/// Whether connections to the hosts of both are made in the same way.
fn is_spoken_with_alike(one: &proto::ClusterHealthCheck, other: &proto::ClusterHealthCheck) -> bool {
    one.transport_socket_matches == other.transport_socket_matches
        && one.upstream_bind_config == other.upstream_bind_config
}

fn build_cluster(config: &proto::ClusterHealthCheck, cx: &mut BuildCx<'_>) -> Result<Cluster, Rejected> {
    let (cluster, _) = Cluster::build_empty(
        &cluster::Cluster {
            name: config.cluster_name.clone(),
            connect_timeout: Some(CONNECT_TIMEOUT),
            per_connection_buffer_limit_bytes: Some(BUFFER_LIMIT),
            transport_socket_matches: config.transport_socket_matches.clone(),
            // (That of the process is not for these.)
            upstream_bind_config: Some(config.upstream_bind_config.clone().unwrap_or_default()),
            ..cluster::Cluster::default()
        },
        cx,
    )?;
    let needs_secrets = cluster.transport.contexts().any(|context| !context.needs().is_empty());
    let reason = "secrets by name are not available to a health discovery service";
    cx.reject_if(needs_secrets, "transport_socket_matches", reason)?;
    let has_files = cluster.transport.contexts().any(|context| !context.files().is_empty());
    let reason = "files that change are not followed for a health discovery service";
    cx.reject_if(has_files, "transport_socket_matches", reason)?;
    Ok(cluster)
}

fn build_assignment(
    groups: &[proto::LocalityEndpoints],
    cx: &mut BuildCx<'_>,
) -> Result<Assignment, Rejected> {
    let endpoint = |one: &endpoint::Endpoint| endpoint::LbEndpoint {
        host_identifier: Some(endpoint::lb_endpoint::HostIdentifier::Endpoint(endpoint::Endpoint {
            address: one.address.clone(),
            health_check_config: one.health_check_config.clone(),
            // (Nothing else of it concerns checks.)
            ..endpoint::Endpoint::default()
        })),
        ..endpoint::LbEndpoint::default()
    };
    // (Who is not to be checked is not there, as in Envoy.)
    let is_checked = |one: &&endpoint::Endpoint| {
        !one.health_check_config.as_ref().is_some_and(|config| config.disable_active_health_check)
    };
    let group = |group: &proto::LocalityEndpoints| endpoint::LocalityLbEndpoints {
        locality: group.locality.clone(),
        lb_endpoints: group.endpoints.iter().filter(is_checked).map(endpoint).collect(),
        ..endpoint::LocalityLbEndpoints::default()
    };
    let groups = groups.iter().map(group).collect();
    let assignment = endpoint::ClusterLoadAssignment { endpoints: groups, ..Default::default() };
    cx.at("locality_endpoints", |cx| Assignment::build(&assignment, cx))
}

#[cfg(test)]
mod tests;
