//! Bodies that go as fast as a bucket of bytes fills, for filters that slow messages down.
//!
//! What finds tokens passes at once. The rest waits an interval and tries again, and what comes meanwhile waits behind it, up to the
//! stream's buffer limit; the other direction goes on.
//! Source: Envoy `source/extensions/filters/http/common/stream_rate_limiter.h`.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use tokio::time::{Instant, Sleep, sleep};

use super::token_bucket::TokenBucket;

/// How often a body that waits for tokens looks for them, where nobody says how often.
pub const FILL_INTERVAL: Duration = Duration::from_millis(50);

/// The pace of one message.
pub struct Pace {
    /// A token is a byte.
    bucket: Arc<TokenBucket>,
    interval: Duration,
    /// Until when a rest waits.
    wait: Option<Pin<Box<Sleep>>>,
}

impl Pace {
    /// That of a bucket, which others may take from, too.
    pub fn new(bucket: Arc<TokenBucket>, interval: Duration) -> Self {
        Self { bucket, interval, wait: None }
    }

    /// That of this many KiB a second, of which what comes in an interval may go at once.
    pub fn of_its_own(kib_per_second: u64) -> Self {
        let per_second = bytes_per_second(kib_per_second);
        let at_first = (per_second * FILL_INTERVAL.as_secs_f64()).floor();
        let bucket = TokenBucket::of_a_second(per_second, at_first, Instant::now().into_std());
        Self::new(Arc::new(bucket), FILL_INTERVAL)
    }

    /// Leaves in `data` what may go now, and gives the rest if there is any: [`Self::poll`] says when to try that again.
    pub fn part(&mut self, data: &mut Bytes) -> Option<Bytes> {
        let taken = self.bucket.take_up_to(data.len(), Instant::now().into_std());
        if taken >= data.len() {
            return None;
        }
        match &mut self.wait {
            Some(wait) => wait.as_mut().reset(Instant::now() + self.interval),
            None => self.wait = Some(Box::pin(sleep(self.interval))),
        }
        Some(data.split_off(taken))
    }

    /// Ready when a rest has waited long enough.
    pub fn poll(&mut self, task: &mut Context<'_>) -> Poll<()> {
        self.wait.as_mut().map_or(Poll::Ready(()), |wait| wait.as_mut().poll(task))
    }
}

/// KiB a second as bytes a second.
#[expect(clippy::cast_precision_loss, reason = "a rate that large limits nothing")]
pub fn bytes_per_second(kib_per_second: u64) -> f64 {
    kib_per_second as f64 * 1024.0
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use super::*;
    use crate::testing::block_on_paused;

    /// How many bytes have passed after each part, and when.
    async fn passed(pace: &mut Pace, mut data: Bytes) -> Vec<(usize, Duration)> {
        let (start, mut total, mut log) = (Instant::now(), 0, Vec::new());
        loop {
            let rest = pace.part(&mut data);
            total += data.len();
            log.push((total, start.elapsed()));
            let Some(rest) = rest else { return log };
            poll_fn(|task| pace.poll(task)).await;
            data = rest;
        }
    }

    #[test]
    fn a_body_goes_in_twenty_parts_a_second() {
        block_on_paused(async {
            let log = passed(&mut Pace::of_its_own(1), Bytes::from(vec![0; 1024])).await;
            assert_eq!(log[0], (51, Duration::ZERO), "what comes in an interval goes at once");
            assert!((19..=21).contains(&log.len()), "{log:?}");
            let (total, took) = log[log.len() - 1];
            assert_eq!(total, 1024);
            assert!(took >= Duration::from_millis(940) && took <= Duration::from_millis(1060), "{took:?}");
            let log = passed(&mut Pace::of_its_own(u64::MAX), Bytes::from(vec![0; 1 << 20])).await;
            assert_eq!(log, [(1 << 20, Duration::ZERO)]);
        });
    }

    #[test]
    fn messages_that_share_a_bucket_share_its_rate() {
        block_on_paused(async {
            let per_second = bytes_per_second(10);
            let full = TokenBucket::of_a_second(per_second, per_second, Instant::now().into_std());
            let bucket = Arc::new(full);
            let mut paces = [(); 4].map(|()| Pace::new(bucket.clone(), Duration::from_millis(20)));
            let start = Instant::now();
            let [a, b, c, d] = &mut paces;
            let body = || Bytes::from(vec![0; 10 * 1024]);
            tokio::join!(passed(a, body()), passed(b, body()), passed(c, body()), passed(d, body()));
            // 40 KiB, of which 10 were there.
            let took = start.elapsed();
            assert!(took >= Duration::from_secs(3) && took <= Duration::from_millis(3100), "{took:?}");
        });
    }
}
