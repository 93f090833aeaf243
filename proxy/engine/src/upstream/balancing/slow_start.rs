//! `slow_start_config` of clusters and of policies that are extensions, which have the same fields.

use proxy_core::config::{BuildCx, Rejected, duration};
use proxy_core::upstream::SlowStart;
use xds_api::envoy::config::cluster::v3::cluster::SlowStartConfig as Legacy;
use xds_api::envoy::extensions::load_balancing_policies::common::v3::SlowStartConfig as Typed;

use super::runtime_double;

pub(super) fn legacy(
    proto: Option<&Legacy>,
    cx: &mut BuildCx<'_>,
) -> Result<Option<Box<SlowStart>>, Rejected> {
    let proto = proto.map(|Legacy { slow_start_window, aggression, min_weight_percent }| Typed {
        slow_start_window: *slow_start_window,
        aggression: aggression.clone(),
        min_weight_percent: *min_weight_percent,
    });
    typed(proto.as_ref(), cx)
}

/// No slow start where the window is less than a millisecond, in which Envoy reckons.
pub(super) fn typed(proto: Option<&Typed>, cx: &mut BuildCx<'_>) -> Result<Option<Box<SlowStart>>, Rejected> {
    let Some(Typed { slow_start_window, aggression, min_weight_percent }) = proto else { return Ok(None) };
    cx.at("slow_start_config", |cx| {
        let min_weight = min_weight_percent.map_or(10.0, |percent| percent.value);
        if !(0.0..=100.0).contains(&min_weight) {
            return Err(cx.at("min_weight_percent", |cx| cx.reject("must be between 0 and 100")));
        }
        let window = slow_start_window.as_ref().and_then(duration).filter(|window| window.as_millis() > 0);
        let aggression = runtime_double(aggression.as_ref(), cx);
        Ok(window.map(|window| Box::new(SlowStart { window, aggression, min_weight: min_weight / 100.0 })))
    })
}
