//! What a configuration says about the limit, and what the runtime says instead.

use std::sync::Arc;
use std::time::Duration;

use proxy_core::config::{BuildCx, Rejected, duration};
use proxy_core::runtime::Runtime;
use xds_api::envoy::extensions::filters::http::adaptive_concurrency::v3::GradientControllerConfig;
use xds_api::envoy::extensions::filters::http::adaptive_concurrency::v3::gradient_controller_config::{
    ConcurrencyLimitCalculationParams, MinimumRttCalculationParams,
};
use xds_api::envoy::r#type::v3::Percent;

use super::gradient::Params;

/// Where the keys of the runtime begin.
const KEYS: &str = "adaptive_concurrency.gradient_controller.";

/// No interval is longer: a clock has an end.
const LONGEST: Duration = Duration::from_secs(365 * 24 * 60 * 60);

/// The parameters, and where the runtime has others.
pub(super) struct Settings {
    configured: Params,
    runtime: Arc<Runtime>,
}

impl Settings {
    pub(super) fn build(proto: GradientControllerConfig, cx: &mut BuildCx<'_>) -> Result<Self, Rejected> {
        let GradientControllerConfig {
            sample_aggregate_percentile,
            concurrency_limit_params,
            min_rtt_calc_params,
        } = proto;
        let required = "value is required";
        let limit = concurrency_limit_params
            .ok_or_else(|| cx.at("concurrency_limit_params", |cx| cx.reject(required)))?;
        let minimum =
            min_rtt_calc_params.ok_or_else(|| cx.at("min_rtt_calc_params", |cx| cx.reject(required)))?;
        let quantile = share(sample_aggregate_percentile, 50.0);
        let mut configured = cx.at("min_rtt_calc_params", |cx| with_minimum(minimum, quantile, cx))?;
        cx.at("concurrency_limit_params", |cx| add_limits(limit, &mut configured, cx))?;
        Ok(Self { configured, runtime: cx.env.runtime.clone() })
    }

    /// What holds now.
    pub(super) fn now(&self) -> Params {
        let said = |key: &str| self.runtime.value(&format!("{KEYS}{key}"));
        let whole = |key, default| said(key).and_then(|value| value.parse::<u32>().ok()).unwrap_or(default);
        let millis = |key, default| {
            let millis = said(key).and_then(|value| value.parse().ok());
            millis.map_or(default, Duration::from_millis).clamp(Duration::from_millis(1), LONGEST)
        };
        let share = |key, default| {
            let percent =
                said(key).and_then(|value| value.parse::<f64>().ok()).filter(|value| !value.is_nan());
            percent.map_or(default, |percent| percent.clamp(0.0, 100.0) / 100.0)
        };
        let Params {
            minimum_interval,
            update_interval,
            jitter,
            most,
            least,
            while_measuring,
            sample_count,
            quantile,
            buffer,
            fixed,
        } = self.configured;
        Params {
            minimum_interval: millis("min_rtt_calc_interval_ms", minimum_interval),
            update_interval: millis("sample_rtt_calc_interval_ms", update_interval),
            jitter: share("jitter", jitter),
            most: whole("max_concurrency_limit", most),
            least: whole("min_concurrency_limit", least),
            while_measuring: whole("min_concurrency", while_measuring),
            sample_count: whole("min_rtt_aggregate_request_count", sample_count),
            quantile: share("sample_aggregate_percentile", quantile),
            buffer: share("min_rtt_buffer", buffer),
            fixed,
        }
    }
}

fn with_minimum(
    proto: MinimumRttCalculationParams,
    quantile: f64,
    cx: &mut BuildCx<'_>,
) -> Result<Params, Rejected> {
    let MinimumRttCalculationParams { interval, fixed_value, request_count, jitter, min_concurrency, buffer } =
        proto;
    if interval.is_none() && fixed_value.is_none() {
        return Err(cx.reject("adaptive_concurrency: neither `interval` nor `fixed_value` set"));
    }
    let interval = interval.map(|interval| {
        duration(&interval)
            .filter(|interval| *interval >= Duration::from_millis(1))
            .ok_or_else(|| cx.at("interval", |cx| cx.reject("value must be greater than or equal to 1ms")))
    });
    let fixed = fixed_value.map(|fixed| {
        duration(&fixed)
            .filter(|fixed| !fixed.is_zero())
            .ok_or_else(|| cx.at("fixed_value", |cx| cx.reject("value must be greater than 0s")))
    });
    let while_measuring = positive(min_concurrency, 3, "min_concurrency", cx)?;
    Ok(Params {
        minimum_interval: interval.transpose()?.unwrap_or(LONGEST).min(LONGEST),
        update_interval: LONGEST,
        jitter: share(jitter, 15.0),
        most: u32::MAX,
        least: while_measuring,
        while_measuring,
        sample_count: positive(request_count, 50, "request_count", cx)?,
        quantile,
        buffer: share(buffer, 25.0),
        fixed: fixed.transpose()?,
    })
}

fn add_limits(
    proto: ConcurrencyLimitCalculationParams,
    params: &mut Params,
    cx: &mut BuildCx<'_>,
) -> Result<(), Rejected> {
    let ConcurrencyLimitCalculationParams {
        max_concurrency_limit,
        concurrency_update_interval,
        min_concurrency_limit,
    } = proto;
    let interval = concurrency_update_interval.as_ref().and_then(duration);
    let interval = interval.filter(|interval| !interval.is_zero()).ok_or_else(|| {
        cx.at("concurrency_update_interval", |cx| cx.reject("value is required and must be greater than 0s"))
    })?;
    params.update_interval = interval.min(LONGEST);
    params.most = positive(max_concurrency_limit, 1_000, "max_concurrency_limit", cx)?;
    params.least = positive(min_concurrency_limit, params.while_measuring, "min_concurrency_limit", cx)?;
    Ok(())
}

fn positive(
    said: Option<u32>,
    default: u32,
    field: &'static str,
    cx: &mut BuildCx<'_>,
) -> Result<u32, Rejected> {
    match said {
        Some(0) => Err(cx.at(field, |cx| cx.reject("value must be greater than 0"))),
        said => Ok(said.unwrap_or(default)),
    }
}

/// A percentage as a share of 1.
fn share(said: Option<Percent>, default: f64) -> f64 {
    let percent = said.map_or(default, |percent| percent.value);
    if percent.is_nan() { 0.0 } else { percent.clamp(0.0, 100.0) / 100.0 }
}
