//! The configuration of the overload manager.

use std::collections::HashSet;
use std::time::Duration;

use prost_types::Any;
use proxy_core::config::{BuildCx, Rejected, duration};
use proxy_core::extension::decode;
use proxy_engine::local::overload::{Action, Point};
use proxy_engine::local::reduced::{Least, Leasts, Reducible};
use xds_api::envoy::config::overload::v3 as proto;
use xds_api::envoy::config::overload::v3::resource_monitor::ConfigType;
use xds_api::envoy::config::overload::v3::scale_timers_overload_action_config::{
    ScaleTimer, TimerType, scale_timer::OverloadAdjust,
};
use xds_api::envoy::config::overload::v3::trigger::TriggerOneof;

use super::monitors::Monitor;
use super::{Trigger, Triggers};

const SHRINK_HEAP: &str = "envoy.config.overload.v3.ShrinkHeapConfig";
const REDUCE_TIMEOUTS: &str = "envoy.config.overload.v3.ScaleTimersOverloadActionConfig";

/// How often resources are looked at where nothing else is said.
const REFRESH: Duration = Duration::from_secs(1);
/// How often memory is given back where nothing else is said.
const SHRINK: Duration = Duration::from_secs(10);

/// See the module above.
#[derive(Debug, Default)]
pub struct OverloadConfig {
    /// The limit of downstream connections, if there is one.
    pub most_connections: Option<usize>,
    pub(super) interval: Duration,
    /// Each with its name.
    pub(super) monitors: Vec<(String, Monitor)>,
    pub(super) actions: Vec<(Action, Triggers)>,
    pub(super) points: Vec<(Point, Triggers)>,
    pub(super) shrink_interval: Duration,
    pub(super) leasts: Leasts,
    /// The logarithm of the octets that make a stream heavy.
    pub(super) power: Option<u32>,
}

impl OverloadConfig {
    /// Reads and checks it.
    ///
    /// # Errors
    /// Everything that is wrong with it, in `cx`.
    pub fn build(proto: &proto::OverloadManager, cx: &mut BuildCx<'_>) -> Result<Self, Rejected> {
        let proto::OverloadManager {
            refresh_interval,
            resource_monitors,
            actions,
            loadshed_points,
            buffer_factory_config,
        } = proto;
        let interval = refresh_interval.as_ref().and_then(duration).unwrap_or(REFRESH);
        let mut config = Self {
            // (Without a pause nothing else would be done.)
            interval: interval.max(Duration::from_millis(1)),
            shrink_interval: SHRINK,
            power: buffer_factory_config.map(|config| config.minimum_account_to_track_power_of_two),
            ..Self::default()
        };
        cx.each("resource_monitors", resource_monitors, |proto, cx| config.add_monitor(proto, cx))?;
        cx.each("actions", actions, |proto, cx| config.add_action(proto, cx))?;
        cx.each("loadshed_points", loadshed_points, |proto, cx| config.add_point(proto, cx))?;
        Ok(config)
    }

    fn add_monitor(&mut self, proto: &proto::ResourceMonitor, cx: &mut BuildCx<'_>) -> Result<(), Rejected> {
        let Some(ConfigType::TypedConfig(any)) = &proto.config_type else {
            return Err(cx.at("typed_config", |cx| cx.reject("a resource monitor needs a typed_config")));
        };
        let monitor = Monitor::build(&proto.name, any, cx)?;
        if self.monitors.iter().any(|(name, _)| *name == proto.name) {
            return Err(cx.reject(format!("Duplicate resource monitor {}", proto.name)));
        }
        if let Monitor::Connections { most } = &monitor {
            self.most_connections = Some(*most);
        }
        self.monitors.push((proto.name.clone(), monitor));
        Ok(())
    }

    fn add_action(&mut self, proto: &proto::OverloadAction, cx: &mut BuildCx<'_>) -> Result<(), Rejected> {
        let action = Action::ALL.into_iter().find(|action| action.name() == proto.name);
        let action =
            action.ok_or_else(|| unknown("action", &proto.name, &Action::ALL.map(Action::name), cx))?;
        if self.actions.iter().any(|(one, _)| *one == action) {
            return Err(cx.reject(format!("Duplicate overload action {}", proto.name)));
        }
        if action == Action::ResetStreams && self.power.is_none() {
            return Err(
                cx.reject(format!("Overload action \"{}\" requires buffer_factory_config.", proto.name))
            );
        }
        cx.at("typed_config", |cx| self.configure(action, proto.typed_config.as_ref(), cx))?;
        let what = format!("overload action {}", proto.name);
        self.actions.push((action, self.triggers(&proto.triggers, &what, cx)?));
        Ok(())
    }

    /// What an action is told beside its triggers.
    fn configure(&mut self, action: Action, any: Option<&Any>, cx: &mut BuildCx<'_>) -> Result<(), Rejected> {
        let wanted = match action {
            Action::ShrinkHeap => SHRINK_HEAP,
            Action::ReduceTimeouts => REDUCE_TIMEOUTS,
            Action::StopAcceptingRequests
            | Action::DisableKeepalive
            | Action::RejectConnections
            | Action::StopAcceptingConnections
            | Action::ResetStreams => {
                return match any {
                    None => Ok(()),
                    Some(_) => Err(cx.reject("this action has nothing to configure")),
                };
            }
        };
        let Some(any) = any else {
            return match action {
                Action::ReduceTimeouts => Err(cx.reject(format!("must be a {wanted}"))),
                _ => Ok(()),
            };
        };
        let (name, payload) = cx.unpack(any)?;
        if name != wanted {
            return Err(cx.reject(format!("must be a {wanted}")));
        }
        if action == Action::ReduceTimeouts {
            let proto: proto::ScaleTimersOverloadActionConfig = decode(&payload, cx)?;
            cx.each("timer_scale_factors", &proto.timer_scale_factors, |proto, cx| {
                self.add_least(proto, cx)
            })?;
            return Ok(());
        }
        let proto::ShrinkHeapConfig { timer_interval, max_unfreed_memory_bytes: _ } = decode(&payload, cx)?;
        self.shrink_interval = timer_interval.as_ref().and_then(duration).unwrap_or(SHRINK);
        Ok(())
    }

    /// What one timeout is reduced to.
    fn add_least(&mut self, proto: &ScaleTimer, cx: &mut BuildCx<'_>) -> Result<(), Rejected> {
        let which = match proto.timer() {
            TimerType::HttpDownstreamConnectionIdle => Reducible::ConnectionIdle,
            TimerType::HttpDownstreamStreamIdle => Reducible::StreamIdle,
            TimerType::TransportSocketConnect => Reducible::TransportConnect,
            TimerType::HttpDownstreamConnectionMax => Reducible::ConnectionMax,
            TimerType::HttpDownstreamStreamFlush => Reducible::StreamFlush,
            TimerType::Unspecified => {
                return Err(cx.at("timer", |cx| cx.reject(format!("Unknown timer type {}", proto.timer))));
            }
        };
        let least = match &proto.overload_adjust {
            Some(OverloadAdjust::MinTimeout(least)) => Least::Time(duration(least).unwrap_or_default()),
            Some(OverloadAdjust::MinScale(percent)) => Least::Share(percent.value / 100.0),
            None => return Err(cx.reject("min_timeout or min_scale is required")),
        };
        if !self.leasts.insert(which, least) {
            let name = proto.timer().as_str_name();
            return Err(cx.reject(format!("Found duplicate entry for timer type {name}")));
        }
        Ok(())
    }

    fn add_point(&mut self, proto: &proto::LoadShedPoint, cx: &mut BuildCx<'_>) -> Result<(), Rejected> {
        let point = Point::ALL.into_iter().find(|point| point.name() == proto.name);
        let point =
            point.ok_or_else(|| unknown("load shed point", &proto.name, &Point::ALL.map(Point::name), cx))?;
        if self.points.iter().any(|(one, _)| *one == point) {
            return Err(cx.reject(format!("Duplicate loadshed point {}", proto.name)));
        }
        let what = format!("loadshed point {}", proto.name);
        self.points.push((point, self.triggers(&proto.triggers, &what, cx)?));
        Ok(())
    }

    fn triggers(
        &self,
        protos: &[proto::Trigger],
        what: &str,
        cx: &mut BuildCx<'_>,
    ) -> Result<Triggers, Rejected> {
        let mut seen = HashSet::new();
        cx.each("triggers", protos, |proto, cx| {
            let index = self.monitors.iter().position(|(name, _)| *name == proto.name);
            let index = index
                .ok_or_else(|| cx.reject(format!("Unknown trigger resource {} for {what}", proto.name)))?;
            if !seen.insert(index) {
                return Err(cx.reject(format!("Duplicate trigger resource for {what}")));
            }
            let trigger = match &proto.trigger_oneof {
                Some(TriggerOneof::Threshold(threshold)) => Trigger::Threshold(threshold.value),
                Some(TriggerOneof::Scaled(scaled)) => {
                    let (from, to) = (scaled.scaling_threshold, scaled.saturation_threshold);
                    if from >= to {
                        return Err(cx.reject("scaling_threshold must be less than saturation_threshold"));
                    }
                    Trigger::Scaled(from, to)
                }
                None => return Err(cx.reject("threshold or scaled is required")),
            };
            Ok((index, trigger))
        })
    }
}

fn unknown(what: &str, name: &str, known: &[&str], cx: &mut BuildCx<'_>) -> Rejected {
    let known = known.join(", ");
    cx.at("name", |cx| cx.reject(format!("{what} '{name}' is not available here; what is: {known}")))
}
