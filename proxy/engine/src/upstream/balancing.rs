//! Which load balancer a cluster uses: `lb_policy`, `load_balancing_policy` and `common_lb_config`.
//!
//! Source: `envoy/config/cluster/v3/cluster.proto`, `envoy/extensions/load_balancing_policies/*/v3/`.

mod client_side;
mod hashing;
mod override_host;
mod preconnect;
mod slow_start;
mod subset;
mod zones;

use std::sync::Arc;

use prost_types::Any;
use proxy_core::config::{BuildCx, Rejected};
use proxy_core::extension::{decode, message_name};
use proxy_core::hash_policy::HashPolicies;
use proxy_core::runtime::Runtime;
use proxy_core::stats::Cells;
use proxy_core::stats::groups::ClusterTrafficStats;
use proxy_core::upstream::{
    Hashing, HealthStatuses, LeastRequest, LoadBalancer, OverrideHosts, Policy, ReportedWeights,
    RuntimeDouble, Scheme, Selection, SlowStart, SubsetSettings,
};
use xds_api::envoy::config::cluster::v3 as proto;
use xds_api::envoy::config::cluster::v3::cluster::common_lb_config::LocalityConfigSpecifier as Locality;
use xds_api::envoy::config::cluster::v3::cluster::{LbConfig, LbPolicy};
use xds_api::envoy::config::core::v3 as core;
use xds_api::envoy::extensions::load_balancing_policies as policies;
use xds_api::envoy::extensions::load_balancing_policies::common::v3::locality_lb_config::ZoneAwareLbConfig;
use xds_api::envoy::extensions::load_balancing_policies::common::v3::{LocalityLbConfig, locality_lb_config};

use self::preconnect::Preconnect;
use super::aggregate::Aggregate;
use super::dynamic::DynamicHosts;
use super::original_dst::OriginalDst;

/// The load balancing of a cluster.
#[derive(Clone, Debug)]
pub struct Balancing {
    /// Name of the cluster.
    name: Box<str>,
    scheme: Scheme,
    /// What requests hash to, where the cluster says so itself.
    hash_policies: HashPolicies,
    /// How weights follow from what hosts report, if they do.
    pub reported: Option<Box<ReportedWeights>>,
    /// Percent of available hosts below which health is ignored, unless the runtime says otherwise.
    panic_threshold: u32,
    /// Whether every change of the hosts closes all connections (`close_connections_on_host_set_change`).
    pub close_connections_on_host_set_change: bool,
    /// Connections that are made ahead.
    pub preconnect: Preconnect,
    /// The hosts that a filter may choose for a request (`override_host_status`).
    pub override_statuses: HealthStatuses,
}

/// How hosts are picked by their locality.
#[derive(Clone, Copy, Debug, Default)]
struct Localities {
    is_weighted: bool,
    zone: ZoneAwareLbConfig,
}

const ROUND_ROBIN: &str = "envoy.extensions.load_balancing_policies.round_robin.v3.RoundRobin";
const LEAST_REQUEST: &str = "envoy.extensions.load_balancing_policies.least_request.v3.LeastRequest";
const RANDOM: &str = "envoy.extensions.load_balancing_policies.random.v3.Random";
const RING_HASH: &str = "envoy.extensions.load_balancing_policies.ring_hash.v3.RingHash";
const MAGLEV: &str = "envoy.extensions.load_balancing_policies.maglev.v3.Maglev";
const CLIENT_SIDE: &str = "envoy.extensions.load_balancing_policies.client_side_weighted_round_robin.v3.ClientSideWeightedRoundRobin";
const WRR_LOCALITY: &str = "envoy.extensions.load_balancing_policies.wrr_locality.v3.WrrLocality";
const SUBSET: &str = "envoy.extensions.load_balancing_policies.subset.v3.Subset";
const OVERRIDE_HOST: &str = "envoy.extensions.load_balancing_policies.override_host.v3.OverrideHost";
const CLUSTER_PROVIDED: &str = "envoy.extensions.load_balancing_policies.cluster_provided.v3.ClusterProvided";

impl Balancing {
    /// A balancer for one worker; `stats` are those of the cluster.
    pub fn balancer(&self, stats: &Cells<ClusterTrafficStats>) -> Box<dyn LoadBalancer> {
        self.scheme.balancer(stats)
    }

    /// How the hosts are divided by their labels, if they are.
    pub fn subsets(&self) -> Option<&SubsetSettings> {
        self.scheme.subsets()
    }

    /// Where requests list the hosts that they are to go to, if somebody looks for that.
    pub fn override_hosts(&self) -> Option<&OverrideHosts> {
        self.scheme.override_hosts()
    }

    /// Whether it can be known now who is picked next.
    pub fn tells_next(&self) -> bool {
        self.scheme.tells_next()
    }

    /// How requests are hashed, if they are.
    pub fn hashing(&self) -> Option<&Hashing> {
        self.scheme.hashing()
    }

    /// Whether new hosts get less at first.
    pub fn starts_slowly(&self) -> bool {
        self.scheme.starts_slowly()
    }

    /// Whether requests are balanced by what they hash to.
    pub fn is_hashing(&self) -> bool {
        self.hashing().is_some()
    }

    /// Whether picks need to know how many requests are in flight.
    pub fn is_bounded(&self) -> bool {
        self.hashing().is_some_and(Hashing::is_bounded)
    }

    /// What requests hash to, if the cluster says so itself.
    pub fn hash_policies(&self) -> Option<&HashPolicies> {
        (!self.hash_policies.is_empty()).then_some(&self.hash_policies)
    }

    /// The panic threshold in percent, as the runtime has it now (`upstream.healthy_panic_threshold`).
    pub(super) fn panic_threshold(&self, runtime: &Runtime) -> u32 {
        let percent = runtime.number("upstream.healthy_panic_threshold");
        percent.map_or(self.panic_threshold, |percent| u32::try_from(percent.min(100)).unwrap_or(100))
    }

    pub(super) fn build(proto: &proto::Cluster, cx: &mut BuildCx<'_>) -> Result<Self, Rejected> {
        let mut built = Self {
            name: proto.name.as_str().into(),
            scheme: unbalanced(),
            hash_policies: HashPolicies::default(),
            reported: None,
            panic_threshold: 50,
            close_connections_on_host_set_change: false,
            preconnect: Preconnect::default(),
            override_statuses: HealthStatuses::of_overrides(
                proto.common_lb_config.as_ref().and_then(|common| common.override_host_status.as_ref()),
            ),
        };
        let common = proto.common_lb_config.as_ref();
        let common =
            common.map(|common| cx.at("common_lb_config", |cx| built.common(common, cx))).transpose();
        hashing::check_names(proto, cx)?;
        let provided =
            OriginalDst::is_kind_of(proto) || Aggregate::is_kind_of(proto) || DynamicHosts::is_kind_of(proto);
        built.scheme = match &proto.load_balancing_policy {
            Some(list) => {
                check_alone(proto, cx)?;
                cx.at("load_balancing_policy", |cx| built.first_supported(list, provided, cx))?
            }
            None => built.legacy_with_subsets(proto, provided, cx)?,
        };
        common?;
        built.preconnect =
            cx.at("preconnect_policy", |cx| Preconnect::build(proto.preconnect_policy.as_ref(), cx))?;
        Ok(built)
    }

    fn common(
        &mut self,
        proto: &proto::cluster::CommonLbConfig,
        cx: &mut BuildCx<'_>,
    ) -> Result<(), Rejected> {
        if let Some(percent) = &proto.healthy_panic_threshold {
            if !(0.0..=100.0).contains(&percent.value) {
                return Err(cx.at("healthy_panic_threshold", |cx| cx.reject("must be between 0 and 100")));
            }
            self.panic_threshold = percent.value.round() as u32;
        }
        self.close_connections_on_host_set_change = proto.close_connections_on_host_set_change;
        Ok(())
    }

    /// The first policy of the list that exists here.
    fn first_supported(
        &mut self,
        list: &proto::LoadBalancingPolicy,
        provided: bool,
        cx: &mut BuildCx<'_>,
    ) -> Result<Scheme, Rejected> {
        let mut missing = Vec::new();
        for (index, policy) in list.policies.iter().enumerate() {
            let config = policy.typed_extension_config.as_ref();
            let Some(any) = config.and_then(|config| config.typed_config.as_ref()) else { continue };
            let name = message_name(&any.type_url);
            let known = cx.at_index("policies", index, |cx| match name {
                // (Nothing is balanced there.)
                CLUSTER_PROVIDED if provided => Ok(Some(unbalanced())),
                CLUSTER_PROVIDED => Err(not_provided(cx)),
                _ => self.typed(any, cx),
            })?;
            if let Some(scheme) = known {
                return match provided && name != CLUSTER_PROVIDED {
                    true => Err(cx.reject("cluster provided LB not specified but the cluster provided one")),
                    false => Ok(scheme),
                };
            }
            missing.push(name.to_owned());
        }
        Err(cx.reject(format!("none of the policies is available: {}", missing.join(", "))))
    }

    /// The policy `any`, if it exists here.
    fn typed(&mut self, any: &Any, cx: &mut BuildCx<'_>) -> Result<Option<Scheme>, Rejected> {
        Ok(Some(match message_name(&any.type_url) {
            ROUND_ROBIN => {
                let proto: policies::round_robin::v3::RoundRobin = decode(&any.value, cx)?;
                let slow_start = slow_start::typed(proto.slow_start_config.as_ref(), cx)?;
                self.spread(Policy::RoundRobin, proto.locality_lb_config.as_ref(), slow_start, cx)
            }
            LEAST_REQUEST => self.typed_least_request(&decode(&any.value, cx)?, cx)?,
            RANDOM => {
                let proto: policies::random::v3::Random = decode(&any.value, cx)?;
                self.spread(Policy::Random, proto.locality_lb_config.as_ref(), None, cx)
            }
            RING_HASH => {
                let (hashing, policies) = hashing::typed_ring(&decode(&any.value, cx)?, cx)?;
                self.hash_policies = policies;
                Scheme::Hashing(hashing)
            }
            MAGLEV => {
                let (hashing, policies) = hashing::typed_maglev(&decode(&any.value, cx)?, cx)?;
                self.hash_policies = policies;
                Scheme::Hashing(hashing)
            }
            SUBSET => {
                let proto: policies::subset::v3::Subset = decode(&any.value, cx)?;
                let settings = subset::typed(&proto, cx);
                let inner = cx.at("subset_lb_policy", |cx| match &proto.subset_lb_policy {
                    Some(list) => self.first_supported(list, false, cx),
                    None => Err(cx.reject("value is required")),
                })?;
                if inner.subsets().is_some() {
                    return Err(cx.at("subset_lb_policy", |cx| cx.reject("subsets are not divided further")));
                }
                Scheme::Subsets { settings: Arc::new(settings?), inner: Box::new(inner) }
            }
            OVERRIDE_HOST => {
                let proto: policies::override_host::v3::OverrideHost = decode(&any.value, cx)?;
                let hosts = override_host::typed(&proto, cx);
                let fallback = cx.at("fallback_policy", |cx| match &proto.fallback_policy {
                    Some(list) => self.first_supported(list, false, cx),
                    None => Err(cx.reject("value is required")),
                })?;
                Scheme::OverrideHost { hosts: Arc::new(hosts?), fallback: Box::new(fallback) }
            }
            CLIENT_SIDE => self.client_side(&decode(&any.value, cx)?, Localities::default(), cx)?,
            WRR_LOCALITY => self.wrr_locality(&decode(&any.value, cx)?, cx)?,
            _ => return Ok(None),
        }))
    }
}

impl Balancing {
    /// What `lb_policy` and the fields beside it say, `lb_subset_config` among them.
    fn legacy_with_subsets(
        &self,
        proto: &proto::Cluster,
        provided: bool,
        cx: &mut BuildCx<'_>,
    ) -> Result<Scheme, Rejected> {
        let locality =
            proto.common_lb_config.as_ref().and_then(|common| common.locality_config_specifier.as_ref());
        let is_aware = proto.lb_subset_config.as_ref().is_some_and(|subsets| subsets.locality_weight_aware);
        if is_aware && !matches!(locality, Some(Locality::LocalityWeightedLbConfig(_))) {
            let name = &proto.name;
            let reason = format!(
                "Locality weight aware subset LB requires that a locality_weighted_lb_config be set in {name}"
            );
            return Err(
                cx.at("lb_subset_config", |cx| cx.at("locality_weight_aware", |cx| cx.reject(reason)))
            );
        }
        // (Without selectors the rest says nothing.)
        let subsets = proto.lb_subset_config.as_ref().filter(|subsets| !subsets.subset_selectors.is_empty());
        let Some(subsets) = subsets else { return self.legacy(proto, provided, cx) };
        if proto.lb_policy == LbPolicy::ClusterProvided as i32 {
            return Err(cx.at("lb_policy", |cx| {
                cx.reject("cluster: LB policy CLUSTER_PROVIDED cannot be combined with lb_subset_config")
            }));
        }
        let settings = cx.at("lb_subset_config", |cx| subset::legacy(subsets, cx))?;
        let inner = self.legacy(proto, provided, cx)?;
        Ok(Scheme::Subsets { settings: Arc::new(settings), inner: Box::new(inner) })
    }

    /// What `lb_policy` and the fields beside it say.
    fn legacy(
        &self,
        proto: &proto::Cluster,
        provided: bool,
        cx: &mut BuildCx<'_>,
    ) -> Result<Scheme, Rejected> {
        let (policy, slow_start) = match LbPolicy::try_from(proto.lb_policy) {
            Ok(LbPolicy::RoundRobin) => match &proto.lb_config {
                Some(LbConfig::RoundRobinLbConfig(config)) => {
                    let slow_start = cx.at("round_robin_lb_config", |cx| {
                        slow_start::legacy(config.slow_start_config.as_ref(), cx)
                    })?;
                    (Policy::RoundRobin, slow_start)
                }
                _ => (Policy::RoundRobin, None),
            },
            Ok(LbPolicy::Random) => (Policy::Random, None),
            Ok(LbPolicy::LeastRequest) => legacy_least_request(proto, cx)?,
            Ok(LbPolicy::RingHash) => return hashing::legacy_ring(proto, cx).map(Scheme::Hashing),
            Ok(LbPolicy::Maglev) => return hashing::legacy_maglev(proto, cx).map(Scheme::Hashing),
            Ok(LbPolicy::ClusterProvided) if provided => return Ok(unbalanced()),
            Ok(LbPolicy::ClusterProvided) => return Err(cx.at("lb_policy", not_provided)),
            Ok(LbPolicy::LoadBalancingPolicyConfig) => {
                return Err(
                    cx.at("lb_policy", |cx| cx.reject("cluster: field load_balancing_policy need to be set"))
                );
            }
            Err(_) => return Err(cx.at("lb_policy", |cx| cx.reject("unknown policy"))),
        };
        let common = proto.common_lb_config.as_ref();
        let localities = match common.and_then(|common| common.locality_config_specifier.as_ref()) {
            Some(Locality::ZoneAwareLbConfig(zone)) => {
                Localities { is_weighted: false, zone: zones::legacy(zone) }
            }
            Some(Locality::LocalityWeightedLbConfig(_)) => {
                Localities { is_weighted: true, ..Localities::default() }
            }
            None => Localities::default(),
        };
        Ok(self.spread_over(localities, policy, slow_start, cx))
    }

    fn spread_over(
        &self,
        localities: Localities,
        policy: Policy,
        slow_start: Option<Box<SlowStart>>,
        cx: &BuildCx<'_>,
    ) -> Scheme {
        let Localities { is_weighted, zone } = localities;
        Scheme::Spread {
            policy,
            locality_weighted: is_weighted,
            fail_on_panic: zone.fail_traffic_on_panic,
            slow_start,
            zones: zones::routing(&zone, &self.name, self.panic_threshold, cx),
        }
    }

    fn spread(
        &self,
        policy: Policy,
        locality: Option<&LocalityLbConfig>,
        slow_start: Option<Box<SlowStart>>,
        cx: &BuildCx<'_>,
    ) -> Scheme {
        use locality_lb_config::LocalityConfigSpecifier as Kind;
        let localities = match locality.and_then(|locality| locality.locality_config_specifier.as_ref()) {
            Some(Kind::ZoneAwareLbConfig(zone)) => Localities { is_weighted: false, zone: *zone },
            Some(Kind::LocalityWeightedLbConfig(_)) => {
                Localities { is_weighted: true, ..Localities::default() }
            }
            None => Localities::default(),
        };
        self.spread_over(localities, policy, slow_start, cx)
    }

    #[allow(deprecated)]
    fn typed_least_request(
        &self,
        proto: &policies::least_request::v3::LeastRequest,
        cx: &mut BuildCx<'_>,
    ) -> Result<Scheme, Rejected> {
        use policies::least_request::v3::least_request::SelectionMethod;
        let slow_start = slow_start::typed(proto.slow_start_config.as_ref(), cx)?;
        let full_scan = proto.selection_method == SelectionMethod::FullScan as i32
            || proto.enable_full_scan.unwrap_or(false);
        let policy = least_request(proto.choice_count, full_scan, proto.active_request_bias.as_ref(), cx)?;
        Ok(self.spread(policy, proto.locality_lb_config.as_ref(), slow_start, cx))
    }
}

/// What stands for a policy where the cluster knows the host of each request.
fn unbalanced() -> Scheme {
    Scheme::Spread {
        policy: Policy::RoundRobin,
        locality_weighted: false,
        fail_on_panic: false,
        slow_start: None,
        zones: None,
    }
}

fn legacy_least_request(
    proto: &proto::Cluster,
    cx: &mut BuildCx<'_>,
) -> Result<(Policy, Option<Box<SlowStart>>), Rejected> {
    let config = match &proto.lb_config {
        Some(LbConfig::LeastRequestLbConfig(config)) => config.clone(),
        Some(
            LbConfig::RoundRobinLbConfig(_)
            | LbConfig::RingHashLbConfig(_)
            | LbConfig::MaglevLbConfig(_)
            | LbConfig::OriginalDstLbConfig(_),
        )
        | None => Default::default(),
    };
    cx.at("least_request_lb_config", |cx| {
        let slow_start = slow_start::legacy(config.slow_start_config.as_ref(), cx)?;
        let bias = config.active_request_bias.as_ref();
        Ok((least_request(config.choice_count, false, bias, cx)?, slow_start))
    })
}

/// Refuses what is said of balancing beside `load_balancing_policy`.
fn check_alone(proto: &proto::Cluster, cx: &mut BuildCx<'_>) -> Result<(), Rejected> {
    let is_partial = |common: &proto::cluster::CommonLbConfig| {
        common.locality_config_specifier.is_some() || common.consistent_hashing_lb_config.is_some()
    };
    if proto.lb_subset_config.is_some() {
        return Err(cx.reject("cluster: load_balancing_policy cannot be combined with lb_subset_config"));
    }
    match proto.common_lb_config.as_ref().is_some_and(is_partial) {
        false => Ok(()),
        true => Err(cx.reject(
            "cluster: load_balancing_policy cannot be combined with partial fields (zone_aware_lb_config, \
             locality_weighted_lb_config, consistent_hashing_lb_config) of common_lb_config",
        )),
    }
}

fn not_provided(cx: &mut BuildCx<'_>) -> Rejected {
    cx.reject("cluster provided LB specified but the cluster did not provide one")
}

fn least_request(
    choice_count: Option<u32>,
    full_scan: bool,
    bias: Option<&core::RuntimeDouble>,
    cx: &mut BuildCx<'_>,
) -> Result<Policy, Rejected> {
    let selection = match choice_count.unwrap_or(2) {
        _ if full_scan => Selection::FullScan,
        choices if choices < 2 => {
            return Err(cx.at("choice_count", |cx| cx.reject("must be at least 2")));
        }
        choices => Selection::Choices(choices),
    };
    let bias = runtime_double(bias, cx);
    Ok(Policy::LeastRequest(LeastRequest::new(selection, bias)))
}

/// A number that the runtime may override; 1 unless `proto` says otherwise.
fn runtime_double(proto: Option<&core::RuntimeDouble>, cx: &BuildCx<'_>) -> RuntimeDouble {
    let Some(proto) = proto else { return RuntimeDouble { default: 1.0, runtime: None } };
    let key = proto.runtime_key.as_str();
    let runtime = (!key.is_empty()).then(|| (key.into(), Arc::clone(&cx.env.runtime)));
    RuntimeDouble { default: proto.default_value, runtime }
}
