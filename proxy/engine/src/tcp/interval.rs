//! What the policies of a connection want to know while bytes are carried.

use std::cell::RefCell;
use std::future::Future;
use std::pin::pin;

use proxy_core::extension::network_filter::NetworkFilter;
use proxy_core::stream_info::StreamInfo;
use tokio::time::{Instant, MissedTickBehavior, interval_at};

/// Carries, and tells `policies` now and then what became of the connection so far, if one of them wants that.
///
/// Dropping it drops what carries.
pub(super) async fn carry_telling<S: Future>(
    carrying: S,
    policies: &mut [Box<dyn NetworkFilter>],
    stream: &RefCell<StreamInfo>,
) -> S::Output {
    let interval = policies.iter().filter_map(|policy| policy.interval()).min();
    let Some(interval) = interval.filter(|interval| !interval.is_zero()) else { return carrying.await };
    let mut ticks = interval_at(Instant::now() + interval, interval);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut carrying = pin!(carrying);
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
