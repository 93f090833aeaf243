//! The dialects of statsd: `envoy.stat_sinks.statsd` has tags in names, `dog_statsd` behind values, `graphite_statsd` behind names.
//!
//! Lines go in datagrams, over UDP or a socket of Unix; a TCP connection to a cluster is refused.
//! Source: Envoy `stats.proto`, `graphite_statsd.proto`; docs.datadoghq.com `developers/dogstatsd/datagram_shell`;
//! graphite.readthedocs.io `tags.html`.

use proxy_core::config::{BuildCx, FieldUse, MessageFields, Rejected};
use proxy_core::extension::stats_sink::{StatsSink, StatsSinkFactory, Surroundings};
use proxy_core::extension::{Descriptor, SecurityPosture, Status, decode};
use xds_api::envoy::config::core::v3::Address;
use xds_api::envoy::config::metrics::v3::dog_statsd_sink::DogStatsdSpecifier;
use xds_api::envoy::config::metrics::v3::statsd_sink::StatsdSpecifier;
use xds_api::envoy::config::metrics::v3::{DogStatsdSink, StatsdSink};
use xds_api::envoy::extensions::stat_sinks::graphite_statsd::v3::GraphiteStatsdSink;
use xds_api::envoy::extensions::stat_sinks::graphite_statsd::v3::graphite_statsd_sink::StatsdSpecifier as GraphiteSpecifier;

use super::statsd::{Statsd, Tags};

use FieldUse::{Rejected as Refused, Used};

const DATAGRAMS: &str = "lines go in datagrams: use address";
const AS_RECORDED: &str = "values are sent as they were recorded";

const PLAIN_MESSAGE: &str = "envoy.config.metrics.v3.StatsdSink";
const DOG_MESSAGE: &str = "envoy.config.metrics.v3.DogStatsdSink";
const GRAPHITE_MESSAGE: &str = "envoy.extensions.stat_sinks.graphite_statsd.v3.GraphiteStatsdSink";

/// How the fields of the configuration are used.
pub const FIELDS: &[MessageFields] = &[
    (
        PLAIN_MESSAGE,
        &[
            ("address", Used),
            ("tcp_cluster_name", Refused(DATAGRAMS)),
            ("prefix", Used),
            ("scale_histogram_units_to_milliseconds", Refused(AS_RECORDED)),
        ],
    ),
    (
        DOG_MESSAGE,
        &[
            ("address", Used),
            ("prefix", Used),
            ("max_bytes_per_datagram", Used),
            ("scale_histogram_units_to_milliseconds", Refused(AS_RECORDED)),
        ],
    ),
    (
        GRAPHITE_MESSAGE,
        &[
            ("address", Used),
            ("prefix", Used),
            ("max_bytes_per_datagram", Used),
            ("scale_histogram_units_to_milliseconds", Refused(AS_RECORDED)),
        ],
    ),
];

/// One way to write statistics as lines.
pub struct Dialect {
    name: &'static str,
    message: &'static str,
    tags: Tags,
    read: fn(&[u8], &mut BuildCx<'_>) -> Result<Wanted, Rejected>,
}

/// What a configuration of any dialect says.
pub(super) struct Wanted {
    pub(super) address: Option<Address>,
    /// What names begin with.
    pub(super) prefix: String,
    /// Most bytes of a datagram; each line has one of its own without.
    pub(super) datagram: Option<u64>,
}

/// `envoy.stat_sinks.statsd`.
pub static PLAIN: Dialect = Dialect {
    name: "envoy.stat_sinks.statsd",
    message: PLAIN_MESSAGE,
    tags: Tags::InName,
    read: |payload, cx| {
        let StatsdSink { prefix, statsd_specifier, scale_histogram_units_to_milliseconds: _ } =
            decode(payload, cx)?;
        let address = match statsd_specifier {
            Some(StatsdSpecifier::Address(address)) => Some(address),
            Some(StatsdSpecifier::TcpClusterName(_)) => {
                return Err(cx.at("tcp_cluster_name", |cx| cx.reject(DATAGRAMS)));
            }
            None => None,
        };
        Ok(Wanted { address, prefix, datagram: None })
    },
};

/// `envoy.stat_sinks.dog_statsd`.
pub static DOG: Dialect = Dialect {
    name: "envoy.stat_sinks.dog_statsd",
    message: DOG_MESSAGE,
    tags: Tags::AfterValue,
    read: |payload, cx| {
        let DogStatsdSink {
            prefix,
            max_bytes_per_datagram: datagram,
            dog_statsd_specifier,
            scale_histogram_units_to_milliseconds: _,
        } = decode(payload, cx)?;
        let address = dog_statsd_specifier.map(|DogStatsdSpecifier::Address(address)| address);
        Ok(Wanted { address, prefix, datagram })
    },
};

/// `envoy.stat_sinks.graphite_statsd`.
pub static GRAPHITE: Dialect = Dialect {
    name: "envoy.stat_sinks.graphite_statsd",
    message: GRAPHITE_MESSAGE,
    tags: Tags::AfterName,
    read: |payload, cx| {
        let GraphiteStatsdSink {
            prefix,
            max_bytes_per_datagram: datagram,
            statsd_specifier,
            scale_histogram_units_to_milliseconds: _,
        } = decode(payload, cx)?;
        let address = statsd_specifier.map(|GraphiteSpecifier::Address(address)| address);
        Ok(Wanted { address, prefix, datagram })
    },
};

impl StatsSinkFactory for Dialect {
    fn descriptor(&self) -> Descriptor {
        Descriptor {
            name: self.name,
            message: self.message,
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
        let wanted = (self.read)(payload, cx)?;
        Ok(Box::new(Statsd::build(wanted, self.tags, cx)?))
    }
}
