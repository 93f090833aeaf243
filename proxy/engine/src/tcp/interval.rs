//! What the policies of a connection want to know while bytes are carried.

use std::cell::RefCell;
use std::future::Future;
use std::time::Duration;

use proxy_core::extension::network_filter::NetworkFilter;
use proxy_core::stream_info::StreamInfo;
use tokio::time::{Instant, MissedTickBehavior, interval_at};

/// How often one of `policies` wants to be told, if any does.
pub(super) fn interval(policies: &[Box<dyn NetworkFilter>]) -> Option<Duration> {
    policies.iter().filter_map(|policy| policy.interval()).min().filter(|interval| !interval.is_zero())
}

/// Carries, and tells `policies` each `interval` what became of the connection so far.
///
/// Dropping it drops what carries.
pub(super) async fn carry_telling<S: Future + Unpin>(
    mut carrying: S,
    interval: Duration,
    policies: &mut [Box<dyn NetworkFilter>],
    stream: &RefCell<StreamInfo>,
) -> S::Output {
    let mut ticks = interval_at(Instant::now() + interval, interval);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            biased;
            done = &mut carrying => return done,
            _ = ticks.tick() => {
                let info = stream.borrow();
                policies.iter_mut().for_each(|policy| policy.on_interval(&info));
            }
        }
    }
}
