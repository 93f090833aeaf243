//! A response that is let through slowly: in slices, 16 of them a second.

use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;

/// Slices of a second; what was not used of a second may be used later, no more.
const SLICES: u32 = 16;
const TICK: Duration = Duration::from_nanos(1_000_000_000 / SLICES as u64);

/// How fast a body goes.
pub(super) struct Pace {
    /// Bytes of a slice.
    slice: usize,
    /// When the next slice may go.
    next: Option<Instant>,
}

impl Pace {
    /// For this many KiB a second.
    pub(super) fn new(kib_per_second: u64) -> Self {
        let slice = kib_per_second.saturating_mul(1024 / u64::from(SLICES));
        Self { slice: usize::try_from(slice).unwrap_or(usize::MAX).max(1), next: None }
    }

    /// Waits until some of `data` may go, leaves that much in it, and gives the rest, if there is any.
    pub(super) async fn part(&mut self, data: &mut Bytes) -> Option<Bytes> {
        let now = Instant::now();
        let next = self.next.unwrap_or(now);
        // What was saved up is worth a second at most.
        let next = next.max(now.checked_sub(TICK * (SLICES - 1)).unwrap_or(next));
        if next > now {
            tokio::time::sleep_until(next).await;
        }
        let saved = now.saturating_duration_since(next).as_nanos() / TICK.as_nanos();
        let saved = u32::try_from(saved).unwrap_or(SLICES);
        let wanted = u32::try_from(data.len().div_ceil(self.slice)).unwrap_or(u32::MAX);
        let slices = wanted.min(1 + saved);
        self.next = Some(next + TICK * slices);
        let most = self.slice.saturating_mul(slices as usize);
        (data.len() > most).then(|| data.split_off(most))
    }
}
