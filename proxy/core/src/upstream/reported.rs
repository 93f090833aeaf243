//! Weights that follow from what hosts report of their load (ORCA): requests a second for each unit of utilization.
//!
//! Workers note what comes with answers; the main thread makes weights of it now and then, so that a pick looks at no clock. A host that
//! reports nothing, or only since just now, has the median of the others.
//! Source: `client_side_weighted_round_robin.proto`; Envoy `source/extensions/load_balancing_policies/common/orca_weight_manager.cc`;
//! gRFC A58.

use std::sync::Arc;
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use xds_api::envoy::extensions::load_balancing_policies::client_side_weighted_round_robin::v3 as proto;
use xds_api::envoy::extensions::load_balancing_policies::common::v3::OrcaOobReportingConfig;
use xds_api::xds::data::orca::v3::OrcaLoadReport;

use super::{Host, HostSet};
use crate::config::{BuildCx, Rejected, duration};
use crate::runtime::Runtime;

/// The shortest time between two looks at what was reported.
const SHORTEST_PERIOD: Duration = Duration::from_millis(100);

/// Whether metrics that are named go before what an application says of itself.
const NAMED_FIRST: &str = "envoy.reloadable_features.orca_weight_manager_use_named_metrics_first";

/// How reports become weights.
#[derive(Clone, Debug)]
pub struct ReportedWeights {
    /// What of a report tells the utilization; the highest counts.
    metrics: Box<[Metric]>,
    /// How much errors add to the utilization.
    error_penalty: f64,
    /// For how long a host must have reported before that counts.
    blackout: Duration,
    /// For how long a report counts.
    expiration: Duration,
    /// How often weights are made.
    pub period: Duration,
    /// What hosts are asked on streams of their own, if they are.
    pub asked: Option<AskedReports>,
    runtime: Arc<Runtime>,
}

/// Reports that hosts are asked for apart from requests (`enable_oob_load_report`).
#[derive(Clone, Debug, PartialEq)]
pub struct AskedReports {
    /// How often they are to come.
    pub period: Duration,
    /// Where to ask, if not where requests go.
    pub port: Option<u16>,
    /// Whom to ask for; empty if nothing is said.
    pub authority: Box<str>,
    /// What chooses the transport socket in place of the host's metadata.
    pub criteria: Option<prost_types::Struct>,
}

/// How often reports are to come where nothing is said, or 0.
const REPORTS_PERIOD: Duration = Duration::from_secs(10);

impl AskedReports {
    fn build(
        period: Option<&prost_types::Duration>,
        proto: Option<&OrcaOobReportingConfig>,
        cx: &mut BuildCx<'_>,
    ) -> Result<Self, Rejected> {
        let period = match period {
            None => REPORTS_PERIOD,
            Some(period) => duration(period)
                .ok_or_else(|| cx.at("oob_reporting_period", |cx| cx.reject("invalid duration")))?,
        };
        // Envoy reckons in milliseconds.
        let period = Duration::from_millis(u64::try_from(period.as_millis()).unwrap_or(u64::MAX));
        let nothing = OrcaOobReportingConfig::default();
        let OrcaOobReportingConfig { port_value, authority, transport_socket_match_criteria } =
            proto.unwrap_or(&nothing);
        let port = u16::try_from(*port_value).map_err(|_| {
            cx.at("oob_reporting_config", |cx| {
                cx.at("port_value", |cx| cx.reject("value must be less than or equal to 65535"))
            })
        })?;
        Ok(Self {
            period: if period.is_zero() { REPORTS_PERIOD } else { period },
            port: Some(port).filter(|port| *port > 0),
            authority: authority.as_str().into(),
            criteria: transport_socket_match_criteria.clone(),
        })
    }
}

/// One of the metrics of a report.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Metric {
    Cpu,
    Memory,
    Application,
    ErrorRate,
    RequestRate,
    /// One of a map, or the highest of all in it.
    Of(Map, Option<Box<str>>),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Map {
    Named,
    Utilization,
    RequestCost,
}

impl Metric {
    /// The metric `name`; `None` for what no report has.
    fn parse(name: &str) -> Option<Self> {
        let of = |map, key: &str| Self::Of(map, (key != "*").then(|| key.into()));
        Some(match name {
            "cpu_utilization" => Self::Cpu,
            "mem_utilization" => Self::Memory,
            "application_utilization" => Self::Application,
            "eps" => Self::ErrorRate,
            "rps_fractional" => Self::RequestRate,
            _ => match name.split_once('.')? {
                ("named_metrics", key) => of(Map::Named, key),
                ("utilization", key) => of(Map::Utilization, key),
                ("request_cost", key) => of(Map::RequestCost, key),
                _ => return None,
            },
        })
    }

    /// What `report` says of it, 0 if nothing.
    fn value(&self, report: &OrcaLoadReport) -> f64 {
        match self {
            Self::Cpu => report.cpu_utilization,
            Self::Memory => report.mem_utilization,
            Self::Application => report.application_utilization,
            Self::ErrorRate => report.eps,
            Self::RequestRate => report.rps_fractional,
            Self::Of(map, key) => {
                let map = match map {
                    Map::Named => &report.named_metrics,
                    Map::Utilization => &report.utilization,
                    Map::RequestCost => &report.request_cost,
                };
                match key {
                    Some(key) => map.get(&**key).copied().unwrap_or_default(),
                    None => map.values().copied().fold(0.0, f64::max),
                }
            }
        }
    }
}

impl ReportedWeights {
    /// What the policy says but for slow start.
    pub fn build(
        proto: &proto::ClientSideWeightedRoundRobin,
        cx: &mut BuildCx<'_>,
    ) -> Result<Self, Rejected> {
        let proto::ClientSideWeightedRoundRobin {
            enable_oob_load_report,
            // (They say nothing without the former.)
            oob_reporting_period,
            oob_reporting_config,
            blackout_period,
            weight_expiration_period,
            weight_update_period,
            error_utilization_penalty,
            metric_names_for_computing_utilization,
            slow_start_config: _,
        } = proto;
        let asked = enable_oob_load_report
            .unwrap_or(false)
            .then(|| AskedReports::build(oob_reporting_period.as_ref(), oob_reporting_config.as_ref(), cx))
            .transpose();
        let error_penalty = error_utilization_penalty.unwrap_or_default();
        if error_penalty.is_nan() || error_penalty < 0.0 {
            let reason = "value must be greater than or equal to 0";
            return Err(cx.at("error_utilization_penalty", |cx| cx.reject(reason)));
        }
        let mut period = |field, proto: &Option<prost_types::Duration>, default| match proto {
            None => Ok(default),
            Some(proto) => duration(proto).ok_or_else(|| cx.at(field, |cx| cx.reject("invalid duration"))),
        };
        let blackout = period("blackout_period", blackout_period, Duration::from_secs(10));
        let expiration =
            period("weight_expiration_period", weight_expiration_period, Duration::from_secs(180));
        let update = period("weight_update_period", weight_update_period, Duration::from_secs(1));
        let metrics = metric_names_for_computing_utilization.iter().filter_map(|name| Metric::parse(name));
        Ok(Self {
            metrics: metrics.collect(),
            error_penalty: f64::from(error_penalty),
            blackout: blackout?,
            expiration: expiration?,
            period: update?.max(SHORTEST_PERIOD),
            asked: asked?,
            runtime: cx.env.runtime.clone(),
        })
    }

    /// Notes what `host` reported; whether it said anything: a report without requests, or without load, does not.
    pub fn note(&self, host: &Host, report: &OrcaLoadReport, now: Instant) -> bool {
        let weight = self.weight(report);
        if let Some(weight) = weight {
            host.reports().note(weight, ticks(now));
        }
        weight.is_some()
    }

    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "saturates, and is above 0")]
    fn weight(&self, report: &OrcaLoadReport) -> Option<u32> {
        let rate = report.rps_fractional;
        if rate.is_nan() || rate <= 0.0 {
            return None;
        }
        let utilization = self.utilization(report) + self.error_penalty * report.eps / rate;
        (utilization > 0.0).then(|| (rate / utilization) as u32)
    }

    fn utilization(&self, report: &OrcaLoadReport) -> f64 {
        let named = self.metrics.iter().map(|metric| metric.value(report)).fold(0.0, f64::max);
        let application = report.application_utilization;
        let in_turn = match self.runtime.flag(NAMED_FIRST, true) {
            true => [named, application],
            false => [application, named],
        };
        in_turn.into_iter().find(|value| *value > 0.0).unwrap_or(report.cpu_utilization)
    }

    /// Makes weights of what the hosts of `set` reported; whether any changed. Balancing sees that with the next host set. For the main thread.
    pub fn weigh(&self, set: &HostSet, now: Instant) -> bool {
        let mut changed = false;
        for priority in set.priorities() {
            changed |= self.weigh_hosts(&priority.hosts.all, now);
        }
        changed
    }

    fn weigh_hosts(&self, hosts: &[Arc<Host>], now: Instant) -> bool {
        let now = ticks(now);
        let (blackout, expiration) = (micros(self.blackout), micros(self.expiration));
        let known = |host: &Arc<Host>| host.reported()?.weight(now, blackout, expiration);
        let weights: Vec<Option<u32>> = hosts.iter().map(known).collect();
        let median = median(weights.iter().flatten().copied().collect());
        let mut changed = false;
        for (host, weight) in hosts.iter().zip(weights) {
            changed |= host.set_weight_now(weight.unwrap_or(median).max(1));
        }
        changed
    }
}

/// The one in the middle, or half way between the two in the middle; 1 of none.
fn median(mut weights: Vec<u32>) -> u32 {
    weights.sort_unstable();
    let middle = weights.len() / 2;
    match (weights.get(middle.wrapping_sub(1)), weights.get(middle)) {
        (Some(low), Some(high)) if weights.len().is_multiple_of(2) => low.midpoint(*high),
        (_, Some(middle)) => *middle,
        (_, None) => 1,
    }
}

/// What one host reported last.
#[derive(Debug)]
pub(super) struct Reported {
    weight: AtomicU32,
    /// When it began to report: [`NEVER`] before that, and once it fell silent.
    since: AtomicU64,
    last: AtomicU64,
}

const NEVER: u64 = u64::MAX;

impl Default for Reported {
    fn default() -> Self {
        Self { weight: AtomicU32::new(1), since: AtomicU64::new(NEVER), last: AtomicU64::new(0) }
    }
}

impl Reported {
    fn note(&self, weight: u32, now: u64) {
        self.weight.store(weight, Ordering::Relaxed);
        self.last.store(now, Ordering::Relaxed);
        // (Of those who note at once, any may be the first.)
        let _ = self.since.compare_exchange(NEVER, now, Ordering::Relaxed, Ordering::Relaxed);
    }

    /// The weight that it has by what it reported; `None` if that does not count yet, or no longer.
    fn weight(&self, now: u64, blackout: u64, expiration: u64) -> Option<u32> {
        if self.since.load(Ordering::Relaxed).saturating_add(blackout) > now {
            return None;
        }
        if self.last.load(Ordering::Relaxed).saturating_add(expiration) < now {
            self.since.store(NEVER, Ordering::Relaxed);
            return None;
        }
        Some(self.weight.load(Ordering::Relaxed))
    }
}

static BEGINNING: LazyLock<Instant> = LazyLock::new(Instant::now);

/// Microseconds since this was first asked.
fn ticks(now: Instant) -> u64 {
    micros(now.saturating_duration_since(*BEGINNING))
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests;
