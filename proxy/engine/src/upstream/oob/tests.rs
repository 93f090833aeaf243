//! What streams do with hosts that do not answer.

use tokio::net::TcpListener;
use tokio::task::LocalSet;
use xds_api::envoy::config::cluster::v3 as proto;
use xds_api::envoy::config::cluster::v3::cluster::DiscoveryType;
use xds_api::envoy::config::core::v3 as core;
use xds_api::envoy::extensions::load_balancing_policies::client_side_weighted_round_robin::v3::ClientSideWeightedRoundRobin;
use xds_api::envoy::extensions::transport_sockets::tls::v3::UpstreamTlsContext;

use super::super::tests::{build, cluster, lb_endpoint};
use super::*;

fn any<M: Message + prost::Name>(message: &M) -> prost_types::Any {
    prost_types::Any {
        type_url: format!("type.googleapis.com/{}", M::full_name()),
        value: message.encode_to_vec(),
    }
}

fn seconds(seconds: i64) -> Option<prost_types::Duration> {
    Some(prost_types::Duration { seconds, nanos: 0 })
}

/// A cluster of this host, which is asked every hour over TLS, and has two seconds to shake hands.
fn asked_over_tls(port: u16) -> Arc<Cluster> {
    let policy = ClientSideWeightedRoundRobin {
        enable_oob_load_report: Some(true),
        oob_reporting_period: seconds(3600),
        ..Default::default()
    };
    let policy = core::TypedExtensionConfig { name: "p".into(), typed_config: Some(any(&policy)) };
    let policy = proto::load_balancing_policy::Policy { typed_extension_config: Some(policy) };
    let socket = core::transport_socket::ConfigType::TypedConfig(any(&UpstreamTlsContext::default()));
    let proto = proto::Cluster {
        connect_timeout: seconds(2),
        load_balancing_policy: Some(proto::LoadBalancingPolicy { policies: vec![policy] }),
        transport_socket: Some(core::TransportSocket { name: "t".into(), config_type: Some(socket) }),
        ..cluster(DiscoveryType::Static, vec![lb_endpoint("127.0.0.1", port.into())])
    };
    build(&proto).unwrap()
}

/// What is waited for else is three periods.
#[test]
fn a_host_that_does_not_shake_hands_is_given_up_when_the_time_to_connect_is_over() {
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    let runtime = runtime.enable_all().start_paused(true).build().unwrap();
    LocalSet::new().block_on(&runtime, async {
        let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let cluster = asked_over_tls(silent.local_addr().unwrap().port());
        let mut streams = Streams::new(&cluster).unwrap();
        streams.set_hosts(&cluster.hosts_full());
        let stats = &cluster.asked_reports.as_ref().unwrap().stats;
        let failed = async |count: u64| {
            while stats.stream_failures.value() < count {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            Instant::now()
        };
        let first = failed(1).await;
        let took = failed(2).await - first;
        // A second at most passes before it is asked again.
        let expected = Duration::from_secs(2)..Duration::from_millis(3030);
        assert!(expected.contains(&took), "{took:?}");
    });
}
