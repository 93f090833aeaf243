//! Sinks of statistics: who is told all of them, every `stats_flush_interval`.
//!
//! A sink is shown one statistic after the other and does what it does with all of them when it has seen the last. It lives on the main
//! thread, so nothing that serves requests waits for it; and what it is shown is borrowed, so a flush copies only what a sink keeps.
//! Source: Envoy `envoy/stats/sink.h`, `envoy/config/metrics/v3/stats.proto`.

use std::time::SystemTime;

use xds_api::envoy::config::cluster::v3::Cluster;
use xds_api::envoy::config::core::v3::Node;
use xds_api::envoy::config::metrics::v3 as proto;
use xds_api::envoy::config::metrics::v3::stats_sink::ConfigType;

use super::{Descriptor, find};
use crate::config::{BuildCx, BuildEnv, Rejected};
use crate::stats::{Metric, Settings};

/// Where statistics go.
pub trait StatsSink {
    /// Takes one statistic that was ever written. `fresh` is what a counter counted since the last flush.
    fn take(&mut self, metric: &Metric<'_>, fresh: u64, settings: &Settings);
    /// The statistics of `time` were all taken. Must not block.
    fn send(&mut self, time: SystemTime, env: &BuildEnv);
}

/// What the bootstrap says beside the sinks.
#[derive(Clone, Copy)]
pub struct Surroundings<'a> {
    /// Who this proxy is, in full: what control planes send along may be megabytes, so it is copied for who asks.
    pub node: &'a dyn Fn() -> Node,
    /// The static clusters: a sink is told of no other.
    pub clusters: &'a [Cluster],
}

/// A kind of sink, erased.
pub trait StatsSinkFactory: Sync {
    /// What it says about itself.
    fn descriptor(&self) -> Descriptor;
    /// Builds the sink from the payload of its `Any`.
    fn build(
        &self,
        payload: &[u8],
        surroundings: &Surroundings<'_>,
        cx: &mut BuildCx<'_>,
    ) -> Result<Box<dyn StatsSink>, Rejected>;
}

/// Builds the sink that `proto` names.
pub fn build_sink(
    proto: &proto::StatsSink,
    surroundings: &Surroundings<'_>,
    cx: &mut BuildCx<'_>,
) -> Result<Box<dyn StatsSink>, Rejected> {
    let proto::StatsSink { name: _, config_type } = proto;
    cx.at("typed_config", |cx| {
        let Some(ConfigType::TypedConfig(any)) = config_type else {
            return Err(cx.reject("a sink needs a typed_config"));
        };
        match find(cx.env.extensions.stats_sinks, any, |factory| factory.descriptor()) {
            Some(factory) => factory.build(&any.value, surroundings, cx),
            None => {
                let message = super::message_name(&any.type_url);
                Err(cx.reject(format!("stats sink type '{message}' is not available")))
            }
        }
    })
}

/// The tag-extracted name of `metric` and its tags, fixed ones first.
pub fn name_and_tags(metric: &Metric<'_>, settings: &Settings) -> (String, Vec<(String, String)>) {
    let producer = settings.tags();
    let owned = |name: &str, value: &str| (name.to_owned(), value.to_owned());
    let mut tags: Vec<_> = producer.fixed().map(|tag| owned(tag.name, tag.value)).collect();
    if let Some(labelled) = metric.labelled {
        tags.extend(labelled.labels.iter().map(|(label, value)| owned(label, value)));
        return (labelled.name.to_string(), tags);
    }
    let name = producer.extract(metric.name, |tag| tags.push(owned(tag.name, tag.value)));
    (name, tags)
}
