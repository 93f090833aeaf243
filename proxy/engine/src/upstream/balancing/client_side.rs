//! `envoy.load_balancing_policies.client_side_weighted_round_robin`: round robin by what hosts report of their load; and
//! `envoy.load_balancing_policies.wrr_locality`, which picks a locality by its weight first.
//!
//! Source: `envoy/extensions/load_balancing_policies/{client_side_weighted_round_robin,wrr_locality}/v3/`.

use proxy_core::config::{BuildCx, Rejected};
use proxy_core::extension::{decode, message_name};
use proxy_core::upstream::{Policy, ReportedWeights, Scheme};
use xds_api::any::type_exists;
use xds_api::envoy::extensions::load_balancing_policies::client_side_weighted_round_robin::v3::ClientSideWeightedRoundRobin;
use xds_api::envoy::extensions::load_balancing_policies::wrr_locality::v3::WrrLocality;

use super::{Balancing, CLIENT_SIDE, Localities, slow_start};

impl Balancing {
    pub(super) fn client_side(
        &mut self,
        proto: &ClientSideWeightedRoundRobin,
        localities: Localities,
        cx: &mut BuildCx<'_>,
    ) -> Result<Scheme, Rejected> {
        let reported = ReportedWeights::build(proto, cx);
        let slow_start = slow_start::typed(proto.slow_start_config.as_ref(), cx)?;
        self.reported = Some(Box::new(reported?));
        Ok(self.spread_over(localities, Policy::RoundRobin, slow_start, cx))
    }

    pub(super) fn wrr_locality(
        &mut self,
        proto: &WrrLocality,
        cx: &mut BuildCx<'_>,
    ) -> Result<Scheme, Rejected> {
        let localities = Localities { is_weighted: true, ..Localities::default() };
        cx.at("endpoint_picking_policy", |cx| {
            let Some(list) = &proto.endpoint_picking_policy else {
                return Err(cx.reject("value is required"));
            };
            for (index, policy) in list.policies.iter().enumerate() {
                let config = policy.typed_extension_config.as_ref();
                let Some(any) = config.and_then(|config| config.typed_config.as_ref()) else { continue };
                match message_name(&any.type_url) {
                    CLIENT_SIDE => {
                        return cx.at_index("policies", index, |cx| {
                            let proto = decode(&any.value, cx)?;
                            self.client_side(&proto, localities, cx)
                        });
                    }
                    // (One that nobody knows is passed over.)
                    _ if !type_exists(&any.type_url) => {}
                    _ => {
                        return Err(cx.reject(
                            "Currently WrrLocalityLoadBalancer only supports ClientSideWeightedRoundRobinLoadBalancer as \
                             its endpoint picking policy.",
                        ));
                    }
                }
            }
            Err(cx.reject("No supported endpoint picking policy."))
        })
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use prost_types::Any;
    use proxy_core::config::BuildEnv;
    use xds_api::envoy::config::cluster::v3 as proto;
    use xds_api::envoy::config::core::v3::TypedExtensionConfig;
    use xds_api::envoy::extensions::load_balancing_policies::common::v3::OrcaOobReportingConfig;
    use xds_api::envoy::extensions::load_balancing_policies::round_robin::v3::RoundRobin;
    use xds_api::xds::data::orca::v3::OrcaLoadReport;

    use super::*;
    use crate::upstream::cluster::Cluster;
    use crate::upstream::tests::{assignment, lb_endpoint};

    fn list<M: prost::Message + prost::Name>(message: &M) -> proto::LoadBalancingPolicy {
        let typed_config = Some(Any {
            type_url: format!("type.googleapis.com/{}", M::full_name()),
            value: message.encode_to_vec(),
        });
        let config = TypedExtensionConfig { name: "x".into(), typed_config };
        let policy = proto::load_balancing_policy::Policy { typed_extension_config: Some(config) };
        proto::LoadBalancingPolicy { policies: vec![policy] }
    }

    fn build(policy: Option<proto::LoadBalancingPolicy>) -> Result<Arc<Cluster>, String> {
        let proto = proto::Cluster {
            name: "c".into(),
            load_assignment: Some(assignment(vec![lb_endpoint("127.0.0.1", 1), lb_endpoint("127.0.0.1", 2)])),
            load_balancing_policy: policy,
            ..Default::default()
        };
        let env = BuildEnv::new(1);
        let mut cx = BuildCx::new(&env);
        Cluster::build(&proto, &mut cx).map_err(|_| cx.into_errors()[0].to_string())
    }

    fn by_locality(picking: Option<proto::LoadBalancingPolicy>) -> String {
        let policy = WrrLocality { endpoint_picking_policy: picking };
        build(Some(list(&policy))).map_or_else(|error| error, |_| "taken".to_owned())
    }

    #[test]
    fn what_is_not_there_is_refused_with_its_path() {
        let refused = |policy: ClientSideWeightedRoundRobin| build(Some(list(&policy))).unwrap_err();
        let of = "load_balancing_policy.policies[0]";
        assert_eq!(
            refused(ClientSideWeightedRoundRobin {
                enable_oob_load_report: Some(true),
                oob_reporting_config: Some(OrcaOobReportingConfig {
                    port_value: 65_536,
                    ..Default::default()
                }),
                ..Default::default()
            }),
            format!("{of}.oob_reporting_config.port_value: value must be less than or equal to 65535")
        );
        assert_eq!(
            refused(ClientSideWeightedRoundRobin {
                error_utilization_penalty: Some(-1.0),
                ..Default::default()
            }),
            format!("{of}.error_utilization_penalty: value must be greater than or equal to 0")
        );
        let negative = Some(prost_types::Duration { seconds: -1, nanos: 0 });
        assert_eq!(
            refused(ClientSideWeightedRoundRobin { blackout_period: negative, ..Default::default() }),
            format!("{of}.blackout_period: invalid duration")
        );
        let of = format!("{of}.endpoint_picking_policy");
        assert_eq!(by_locality(None), format!("{of}: value is required"));
        assert_eq!(
            by_locality(Some(Default::default())),
            format!("{of}: No supported endpoint picking policy.")
        );
        assert!(by_locality(Some(list(&RoundRobin::default()))).contains("only supports"));
        assert_eq!(by_locality(Some(list(&ClientSideWeightedRoundRobin::default()))), "taken");
    }

    #[test]
    fn hosts_that_are_asked_are_asked_every_ten_seconds_where_nothing_is_said() {
        for period in [None, Some(0), Some(1), Some(999_999)] {
            let period = period.map(|nanos| prost_types::Duration { seconds: 0, nanos });
            let policy = ClientSideWeightedRoundRobin {
                enable_oob_load_report: Some(true),
                oob_reporting_period: period,
                ..Default::default()
            };
            let cluster = build(Some(list(&policy))).unwrap();
            let reported = cluster.balancing.reported.as_ref().unwrap();
            assert_eq!(reported.asked.as_ref().unwrap().period, std::time::Duration::from_secs(10));
        }
    }

    #[test]
    fn weights_are_gone_with_the_policy() {
        let reporting = ClientSideWeightedRoundRobin {
            enable_oob_load_report: Some(false),
            blackout_period: Some(Default::default()),
            ..Default::default()
        };
        let cluster = build(Some(list(&reporting))).unwrap();
        let weights =
            |cluster: &Cluster| -> Vec<u32> { cluster.hosts().hosts().map(|host| host.weight()).collect() };
        assert_eq!(weights(&cluster), [1, 1]);
        let report = OrcaLoadReport { rps_fractional: 8.0, cpu_utilization: 0.5, ..Default::default() };
        let first = cluster.hosts().hosts().next().unwrap().clone();
        let reported = cluster.balancing.reported.as_ref().unwrap();
        reported.note(&first, &report, std::time::Instant::now());
        let before = cluster.hosts().generation();
        cluster.weigh_hosts();
        assert_eq!(weights(&cluster), [16, 16]);
        assert_ne!(cluster.hosts().generation(), before);
        let plain = build(None).unwrap();
        plain.inherit_hosts(&cluster);
        assert_eq!(weights(&plain), [1, 1]);
    }
}
