//! When the idle connections of a worker are looked at next: soon after one came back, seldom when nothing happens.
//!
//! Nobody waits on an idle connection, so that giving one back costs nothing. That its host closed it is seen when it is taken
//! again, or looked at: statistics and sockets must not lag behind the hosts for long, nor an idle worker wake often.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use tokio::sync::Notify;

/// Between two looks while connections come and go, and for a while after.
const QUICK: Duration = Duration::from_millis(20);
/// How many quick looks follow the last connection that came back.
const QUICK_LOOKS: u32 = 100;
/// Between two looks when none did.
const SLOW: Duration = Duration::from_secs(1);

thread_local! {
    static PACE: Rc<Pace> = Rc::default();
}

#[derive(Default)]
struct Pace {
    came_back: Cell<bool>,
    is_slow: Cell<bool>,
    wake: Notify,
}

/// A connection became idle on this worker.
pub(super) fn came_back() {
    PACE.with(|pace| {
        pace.came_back.set(true);
        if pace.is_slow.get() {
            pace.wake.notify_one();
        }
    });
}

/// The looks of one worker.
pub(super) struct Looks {
    pace: Rc<Pace>,
    /// Looks since a connection came back.
    quiet: u32,
}

impl Looks {
    /// Of a worker that has no connections.
    pub(super) fn new() -> Self {
        Self { pace: PACE.with(Rc::clone), quiet: QUICK_LOOKS }
    }

    /// Ready when it is time to look.
    pub(super) async fn next(&mut self) {
        self.quiet = if self.pace.came_back.replace(false) { 0 } else { self.quiet.saturating_add(1) };
        if self.quiet >= QUICK_LOOKS {
            self.pace.is_slow.set(true);
            let woken = tokio::time::timeout(SLOW, self.pace.wake.notified()).await.is_ok();
            self.pace.is_slow.set(false);
            if !woken {
                return;
            }
        }
        tokio::time::sleep(QUICK).await;
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::Instant;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn quick_after_a_connection_came_back() {
        let mut looks = Looks::new();
        let start = Instant::now();
        looks.next().await;
        assert_eq!(start.elapsed(), SLOW);
        came_back();
        for look in 1..=QUICK_LOOKS {
            looks.next().await;
            assert_eq!(start.elapsed(), SLOW + QUICK * look);
        }
        looks.next().await;
        assert_eq!(start.elapsed(), SLOW + QUICK * QUICK_LOOKS + SLOW);
    }

    #[tokio::test(start_paused = true)]
    async fn a_slow_look_is_cut_short() {
        let mut looks = Looks::new();
        let start = Instant::now();
        tokio::join!(looks.next(), async {
            tokio::time::sleep(QUICK).await;
            came_back();
        });
        assert_eq!(start.elapsed(), QUICK * 2);
    }
}
