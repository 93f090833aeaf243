//! Clusters of type `envoy.clusters.aggregate`: others in the order in which they are to be used. Each request goes to a priority of one of them,
//! as if these were the priorities of one cluster.
//!
//! An aggregate cluster has no hosts and no connections: a host, its pool, breakers and checks are those of the cluster that it is of, whose
//! balancer picks it. The clusters may come, change and go; whether they did is looked at by each pick, which costs as much as there are of
//! them, and nothing else is told. One that is an aggregate itself has no hosts, and gets nothing, as in Envoy.
//! Source: `envoy/extensions/clusters/aggregate/v3/cluster.proto`, Envoy
//! `docs/root/intro/arch_overview/upstream/aggregate_cluster.rst`.

use std::cell::RefMut;
use std::rc::Rc;

use proxy_core::config::{BuildCx, Rejected};
use proxy_core::names::Name;
use proxy_core::upstream::{LinearPick, LinearPriorities};
use xds_api::envoy::config::cluster::v3 as proto;
use xds_api::envoy::config::cluster::v3::cluster::{ClusterDiscoveryType, LbPolicy};
use xds_api::envoy::extensions::clusters::aggregate::v3::ClusterConfig;

use super::discovery::Discovery;
use super::pool::{Clusters, WorkerCluster};

pub(super) const AGGREGATE_CLUSTER: &str = "envoy.extensions.clusters.aggregate.v3.ClusterConfig";

/// The clusters that an aggregate cluster stands for.
#[derive(Clone, Debug)]
pub struct Aggregate {
    members: Box<[Name]>,
}

impl Aggregate {
    /// Whether `proto` is such a cluster.
    pub(super) fn is_kind_of(proto: &proto::Cluster) -> bool {
        let Some(ClusterDiscoveryType::ClusterType(custom)) = &proto.cluster_discovery_type else {
            return false;
        };
        custom.typed_config.as_ref().is_some_and(|any| any.type_url.ends_with(AGGREGATE_CLUSTER))
    }

    /// Reads the configuration of the type.
    pub(super) fn build(config: &ClusterConfig, cx: &mut BuildCx<'_>) -> Result<Self, Rejected> {
        let ClusterConfig { clusters } = config;
        if clusters.is_empty() {
            return Err(cx.at("clusters", |cx| cx.reject("value must contain at least 1 item(s)")));
        }
        Ok(Self { members: clusters.iter().map(|name| cx.env.clusters.intern(name)).collect() })
    }

    /// Refuses what is for clusters that have hosts, and any way of balancing but that of the type.
    pub(super) fn check(proto: &proto::Cluster, cx: &mut BuildCx<'_>) -> Result<(), Rejected> {
        let reason = "an aggregate cluster has no hosts of its own";
        if proto.load_assignment.is_some() {
            return Err(cx.at("load_assignment", |cx| cx.reject(reason)));
        }
        if !proto.health_checks.is_empty() {
            return Err(cx.at("health_checks", |cx| cx.reject(reason)));
        }
        if proto.load_balancing_policy.is_none() && proto.lb_policy != LbPolicy::ClusterProvided as i32 {
            return Err(cx.reject("cluster provided LB not specified but the cluster provided one"));
        }
        Ok(())
    }
}

/// What a worker knows of the clusters of an aggregate.
#[derive(Default)]
pub(crate) struct Members {
    /// The host set of each that the rest is about; 0 where there is none.
    generations: Vec<u64>,
    priorities: LinearPriorities,
}

impl WorkerCluster {
    /// The clusters that this one stands for, if it is an aggregate.
    pub(crate) fn aggregate(&self) -> Option<&Aggregate> {
        match &self.cluster.discovery {
            Discovery::Aggregate(aggregate) => Some(aggregate),
            Discovery::Static
            | Discovery::Dns(_)
            | Discovery::Eds(_)
            | Discovery::Dynamic(_)
            | Discovery::OriginalDst(_) => None,
        }
    }

    /// The priorities of the clusters of `aggregate` as they are now.
    pub(crate) fn priorities(
        &self,
        aggregate: &Aggregate,
        clusters: &Clusters,
    ) -> RefMut<'_, LinearPriorities> {
        let mut members = self.members.borrow_mut();
        let generation = |name: &Name| clusters.get(name).map_or(0, |one| one.cluster.hosts().generation());
        let now = aggregate.members.iter().map(generation);
        if !now.clone().eq(members.generations.iter().copied()) {
            // (Read anew: what comes meanwhile is seen by the next pick.)
            let threshold = self.cluster.balancing.panic_threshold(&self.cluster.runtime);
            let hosts: Vec<_> =
                aggregate.members.iter().map(|name| clusters.get(name).map(|one| one.hosts())).collect();
            members.generations =
                hosts.iter().map(|hosts| hosts.as_ref().map_or(0, |hosts| hosts.generation())).collect();
            members.priorities = LinearPriorities::new(hosts.iter().map(Option::as_deref), threshold);
        }
        RefMut::map(members, |members| &mut members.priorities)
    }
}

impl Aggregate {
    /// The cluster of a pick.
    pub(crate) fn member(&self, pick: &LinearPick, clusters: &Clusters) -> Option<Rc<WorkerCluster>> {
        clusters.get(self.members.get(pick.member)?)
    }
}
