//! `envoy.stat_sinks.statsd`: statistics as lines of statsd, tags in their names.
//!
//! Source: Envoy `stats.proto`. Over UDP (or a datagram socket of Unix); a TCP connection to a cluster is refused.

use proxy_core::config::{BuildCx, FieldUse, MessageFields, Rejected};
use proxy_core::extension::stats_sink::{StatsSink, StatsSinkFactory, Surroundings};
use proxy_core::extension::{Descriptor, SecurityPosture, Status, decode};
use xds_api::envoy::config::metrics::v3 as proto;
use xds_api::envoy::config::metrics::v3::statsd_sink::StatsdSpecifier;

use super::statsd::{Statsd, Tags};

use FieldUse::{Rejected as Refused, Used};

const DATAGRAMS: &str = "lines go in datagrams: use address";

/// How the fields of the configuration are used.
pub const FIELDS: &[MessageFields] = &[(
    "envoy.config.metrics.v3.StatsdSink",
    &[
        ("address", Used),
        ("tcp_cluster_name", Refused(DATAGRAMS)),
        ("prefix", Used),
        ("scale_histogram_units_to_milliseconds", Refused("values are sent as they were recorded")),
    ],
)];

/// The extension.
pub struct StatsdSink;

impl StatsSinkFactory for StatsdSink {
    fn descriptor(&self) -> Descriptor {
        Descriptor {
            name: "envoy.stat_sinks.statsd",
            message: "envoy.config.metrics.v3.StatsdSink",
            status: Status::Stable,
            posture: SecurityPosture::RequiresTrustedDownstreamAndUpstream,
        }
    }

    fn build(
        &self,
        payload: &[u8],
        _surroundings: &Surroundings<'_>,
        cx: &mut BuildCx<'_>,
    ) -> Result<Box<dyn StatsSink>, Rejected> {
        let proto::StatsdSink { prefix, statsd_specifier, scale_histogram_units_to_milliseconds: _ } =
            decode(payload, cx)?;
        let address = match statsd_specifier {
            Some(StatsdSpecifier::Address(address)) => address,
            Some(StatsdSpecifier::TcpClusterName(_)) => {
                return Err(cx.at("tcp_cluster_name", |cx| cx.reject(DATAGRAMS)));
            }
            None => return Err(cx.at("address", |cx| cx.reject("value is required"))),
        };
        Ok(Box::new(Statsd::build(&address, prefix, Tags::InName, None, cx)?))
    }
}
