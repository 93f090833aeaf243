//! `cluster.outlier_detection`, with the runtime keys that override it.

use std::time::Duration;

use xds_api::envoy::config::cluster::v3 as proto;

use super::EjectionKind;
use crate::config::{BuildCx, Rejected, duration};
use crate::runtime::Runtime;

/// When hosts are ejected, and for how long. Durations are whole milliseconds, percentages whole percents, as in Envoy.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "each is the field of its name in OutlierDetection")]
pub struct OutlierSettings {
    pub consecutive_5xx: u32,
    pub consecutive_gateway_failure: u32,
    pub consecutive_local_origin_failure: u32,
    pub interval: Duration,
    pub base_ejection_time: Duration,
    pub max_ejection_time: Duration,
    pub max_ejection_time_jitter: Duration,
    pub max_ejection_percent: u32,
    pub always_eject_one_host: bool,
    pub enforcing_consecutive_5xx: u32,
    pub enforcing_consecutive_gateway_failure: u32,
    pub enforcing_consecutive_local_origin_failure: u32,
    pub enforcing_success_rate: u32,
    pub enforcing_local_origin_success_rate: u32,
    pub enforcing_failure_percentage: u32,
    pub enforcing_failure_percentage_local_origin: u32,
    pub success_rate_minimum_hosts: u32,
    pub success_rate_request_volume: u32,
    /// Thousandths of a standard deviation.
    pub success_rate_stdev_factor: u32,
    pub failure_percentage_threshold: u32,
    pub failure_percentage_minimum_hosts: u32,
    pub failure_percentage_request_volume: u32,
    pub split_external_local_origin_errors: bool,
    pub successful_active_health_check_uneject_host: bool,
    pub detect_degraded_hosts: bool,
}

impl Default for OutlierSettings {
    fn default() -> Self {
        Self {
            consecutive_5xx: 5,
            consecutive_gateway_failure: 5,
            consecutive_local_origin_failure: 5,
            interval: Duration::from_secs(10),
            base_ejection_time: Duration::from_secs(30),
            max_ejection_time: Duration::from_secs(300),
            max_ejection_time_jitter: Duration::ZERO,
            max_ejection_percent: 10,
            always_eject_one_host: false,
            enforcing_consecutive_5xx: 100,
            enforcing_consecutive_gateway_failure: 0,
            enforcing_consecutive_local_origin_failure: 100,
            enforcing_success_rate: 100,
            enforcing_local_origin_success_rate: 100,
            enforcing_failure_percentage: 0,
            enforcing_failure_percentage_local_origin: 0,
            success_rate_minimum_hosts: 5,
            success_rate_request_volume: 100,
            success_rate_stdev_factor: 1900,
            failure_percentage_threshold: 85,
            failure_percentage_minimum_hosts: 5,
            failure_percentage_request_volume: 50,
            split_external_local_origin_errors: false,
            successful_active_health_check_uneject_host: true,
            detect_degraded_hosts: false,
        }
    }
}

impl OutlierSettings {
    /// Takes what `proto` says.
    ///
    /// # Errors
    /// What is wrong with it, in `cx`.
    pub fn build(proto: &proto::OutlierDetection, cx: &mut BuildCx<'_>) -> Result<Self, Rejected> {
        let default = Self::default();
        let time = |proto: Option<&prost_types::Duration>, default| proto.map_or(Some(default), duration);
        let base = time(proto.base_ejection_time.as_ref(), default.base_ejection_time);
        let base_ejection_time = base.unwrap_or_default();
        let longest = default.max_ejection_time.max(base_ejection_time);
        let built = Self {
            consecutive_5xx: proto.consecutive_5xx.unwrap_or(default.consecutive_5xx),
            consecutive_gateway_failure: proto
                .consecutive_gateway_failure
                .unwrap_or(default.consecutive_gateway_failure),
            consecutive_local_origin_failure: proto
                .consecutive_local_origin_failure
                .unwrap_or(default.consecutive_local_origin_failure),
            interval: time(proto.interval.as_ref(), default.interval).unwrap_or_default(),
            base_ejection_time,
            max_ejection_time: time(proto.max_ejection_time.as_ref(), longest).unwrap_or_default(),
            max_ejection_time_jitter: time(proto.max_ejection_time_jitter.as_ref(), Duration::ZERO)
                .unwrap_or_default(),
            max_ejection_percent: proto.max_ejection_percent.unwrap_or(default.max_ejection_percent),
            always_eject_one_host: proto.always_eject_one_host.unwrap_or_default(),
            enforcing_consecutive_5xx: proto
                .enforcing_consecutive_5xx
                .unwrap_or(default.enforcing_consecutive_5xx),
            enforcing_consecutive_gateway_failure: proto
                .enforcing_consecutive_gateway_failure
                .unwrap_or(default.enforcing_consecutive_gateway_failure),
            enforcing_consecutive_local_origin_failure: proto
                .enforcing_consecutive_local_origin_failure
                .unwrap_or(default.enforcing_consecutive_local_origin_failure),
            enforcing_success_rate: proto.enforcing_success_rate.unwrap_or(default.enforcing_success_rate),
            enforcing_local_origin_success_rate: proto
                .enforcing_local_origin_success_rate
                .unwrap_or(default.enforcing_local_origin_success_rate),
            enforcing_failure_percentage: proto.enforcing_failure_percentage.unwrap_or_default(),
            enforcing_failure_percentage_local_origin: proto
                .enforcing_failure_percentage_local_origin
                .unwrap_or_default(),
            success_rate_minimum_hosts: proto
                .success_rate_minimum_hosts
                .unwrap_or(default.success_rate_minimum_hosts),
            success_rate_request_volume: proto
                .success_rate_request_volume
                .unwrap_or(default.success_rate_request_volume),
            success_rate_stdev_factor: proto
                .success_rate_stdev_factor
                .unwrap_or(default.success_rate_stdev_factor),
            failure_percentage_threshold: proto
                .failure_percentage_threshold
                .unwrap_or(default.failure_percentage_threshold),
            failure_percentage_minimum_hosts: proto
                .failure_percentage_minimum_hosts
                .unwrap_or(default.failure_percentage_minimum_hosts),
            failure_percentage_request_volume: proto
                .failure_percentage_request_volume
                .unwrap_or(default.failure_percentage_request_volume),
            split_external_local_origin_errors: proto.split_external_local_origin_errors,
            successful_active_health_check_uneject_host: proto
                .successful_active_health_check_uneject_host
                .unwrap_or(true),
            detect_degraded_hosts: proto.detect_degraded_hosts.unwrap_or(false),
        };
        if built.interval.is_zero() {
            return Err(cx.at("interval", |cx| cx.reject("must be greater than 0")));
        }
        if built.max_ejection_time < built.base_ejection_time {
            return Err(cx.at("max_ejection_time", |cx| {
                cx.reject("outlier detector's max_ejection_time cannot be smaller than base_ejection_time")
            }));
        }
        Ok(built)
    }

    /// What holds now: the runtime may say otherwise (`outlier_detection.*`).
    pub fn now(&self, runtime: &Runtime) -> Self {
        let number = |key: &str, value: u32| {
            let set = runtime.number(&format!("outlier_detection.{key}"));
            set.map_or(value, |set| u32::try_from(set).unwrap_or(u32::MAX))
        };
        let time = |key: &str, value: Duration| {
            runtime.number(&format!("outlier_detection.{key}")).map_or(value, Duration::from_millis)
        };
        macro_rules! numbers {
            ($($field:ident),*) => { Self {
                interval: time("interval_ms", self.interval),
                base_ejection_time: time("base_ejection_time_ms", self.base_ejection_time),
                max_ejection_time: time("max_ejection_time_ms", self.max_ejection_time),
                max_ejection_time_jitter: time("max_ejection_time_jitter_ms", self.max_ejection_time_jitter),
                $($field: number(stringify!($field), self.$field),)*
                ..self.clone()
            } };
        }
        numbers![
            consecutive_5xx,
            consecutive_gateway_failure,
            consecutive_local_origin_failure,
            max_ejection_percent,
            enforcing_consecutive_5xx,
            enforcing_consecutive_gateway_failure,
            enforcing_consecutive_local_origin_failure,
            enforcing_success_rate,
            enforcing_local_origin_success_rate,
            enforcing_failure_percentage,
            enforcing_failure_percentage_local_origin,
            success_rate_minimum_hosts,
            success_rate_request_volume,
            success_rate_stdev_factor,
            failure_percentage_threshold,
            failure_percentage_minimum_hosts,
            failure_percentage_request_volume
        ]
    }

    /// How many failures in a row are too many, as the runtime has it now.
    pub fn consecutive(&self, kind: EjectionKind, runtime: &Runtime) -> u32 {
        let (key, value) = match kind {
            EjectionKind::Consecutive5xx => ("consecutive_5xx", self.consecutive_5xx),
            EjectionKind::ConsecutiveGatewayFailure => {
                ("consecutive_gateway_failure", self.consecutive_gateway_failure)
            }
            EjectionKind::ConsecutiveLocalOriginFailure => {
                ("consecutive_local_origin_failure", self.consecutive_local_origin_failure)
            }
            EjectionKind::SuccessRate
            | EjectionKind::SuccessRateLocalOrigin
            | EjectionKind::FailurePercentage
            | EjectionKind::FailurePercentageLocalOrigin
            | EjectionKind::Degraded => return 0,
        };
        let set = runtime.number(&format!("outlier_detection.{key}"));
        set.map_or(value, |set| u32::try_from(set).unwrap_or(u32::MAX))
    }

    /// In how many percent of the cases a host is ejected.
    pub(super) fn enforcing(&self, kind: EjectionKind) -> u32 {
        match kind {
            EjectionKind::Consecutive5xx => self.enforcing_consecutive_5xx,
            EjectionKind::ConsecutiveGatewayFailure => self.enforcing_consecutive_gateway_failure,
            EjectionKind::ConsecutiveLocalOriginFailure => self.enforcing_consecutive_local_origin_failure,
            EjectionKind::SuccessRate => self.enforcing_success_rate,
            EjectionKind::SuccessRateLocalOrigin => self.enforcing_local_origin_success_rate,
            EjectionKind::FailurePercentage => self.enforcing_failure_percentage,
            EjectionKind::FailurePercentageLocalOrigin => self.enforcing_failure_percentage_local_origin,
            EjectionKind::Degraded => 100,
        }
    }
}
