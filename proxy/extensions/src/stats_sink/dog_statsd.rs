//! `envoy.stat_sinks.dog_statsd`: statistics as lines of DogStatsD, tags behind their values.
//!
//! Source: Envoy `stats.proto`; docs.datadoghq.com `developers/dogstatsd/datagram_shell`.

use proxy_core::config::{BuildCx, FieldUse, MessageFields, Rejected};
use proxy_core::extension::stats_sink::{StatsSink, StatsSinkFactory, Surroundings};
use proxy_core::extension::{Descriptor, SecurityPosture, Status, decode};
use xds_api::envoy::config::metrics::v3 as proto;
use xds_api::envoy::config::metrics::v3::dog_statsd_sink::DogStatsdSpecifier;

use super::statsd::{Statsd, Tags};

use FieldUse::{Rejected as Refused, Used};

/// How the fields of the configuration are used.
pub const FIELDS: &[MessageFields] = &[(
    "envoy.config.metrics.v3.DogStatsdSink",
    &[
        ("address", Used),
        ("prefix", Used),
        ("max_bytes_per_datagram", Used),
        ("scale_histogram_units_to_milliseconds", Refused("values are sent as they were recorded")),
    ],
)];

/// The extension.
pub struct DogStatsdSink;

impl StatsSinkFactory for DogStatsdSink {
    fn descriptor(&self) -> Descriptor {
        Descriptor {
            name: "envoy.stat_sinks.dog_statsd",
            message: "envoy.config.metrics.v3.DogStatsdSink",
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
        let proto::DogStatsdSink {
            prefix,
            max_bytes_per_datagram,
            dog_statsd_specifier,
            scale_histogram_units_to_milliseconds: _,
        } = decode(payload, cx)?;
        let Some(DogStatsdSpecifier::Address(address)) = dog_statsd_specifier else {
            return Err(cx.at("address", |cx| cx.reject("value is required")));
        };
        Ok(Box::new(Statsd::build(&address, prefix, Tags::AfterValue, max_bytes_per_datagram, cx)?))
    }
}
