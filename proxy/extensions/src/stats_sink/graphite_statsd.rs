//! `envoy.stat_sinks.graphite_statsd`: statistics as lines of statsd, with tags behind their names as Graphite takes them.
//!
//! Source: Envoy `graphite_statsd.proto`; graphite.readthedocs.io `tags.html`.

use proxy_core::config::{BuildCx, FieldUse, MessageFields, Rejected};
use proxy_core::extension::stats_sink::{StatsSink, StatsSinkFactory, Surroundings};
use proxy_core::extension::{Descriptor, SecurityPosture, Status, decode};
use xds_api::envoy::extensions::stat_sinks::graphite_statsd::v3 as proto;
use xds_api::envoy::extensions::stat_sinks::graphite_statsd::v3::graphite_statsd_sink::StatsdSpecifier;

use super::statsd::{Statsd, Tags};

use FieldUse::{Rejected as Refused, Used};

/// How the fields of the configuration are used.
pub const FIELDS: &[MessageFields] = &[(
    "envoy.extensions.stat_sinks.graphite_statsd.v3.GraphiteStatsdSink",
    &[
        ("address", Used),
        ("prefix", Used),
        ("max_bytes_per_datagram", Used),
        ("scale_histogram_units_to_milliseconds", Refused("values are sent as they were recorded")),
    ],
)];

/// The extension.
pub struct GraphiteStatsdSink;

impl StatsSinkFactory for GraphiteStatsdSink {
    fn descriptor(&self) -> Descriptor {
        Descriptor {
            name: "envoy.stat_sinks.graphite_statsd",
            message: "envoy.extensions.stat_sinks.graphite_statsd.v3.GraphiteStatsdSink",
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
        let proto::GraphiteStatsdSink {
            prefix,
            max_bytes_per_datagram,
            statsd_specifier,
            scale_histogram_units_to_milliseconds: _,
        } = decode(payload, cx)?;
        let Some(StatsdSpecifier::Address(address)) = statsd_specifier else {
            return Err(cx.at("address", |cx| cx.reject("value is required")));
        };
        Ok(Box::new(Statsd::build(&address, prefix, Tags::AfterName, max_bytes_per_datagram, cx)?))
    }
}
