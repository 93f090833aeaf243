//! The order of what waits to be sent: first come, first served, except for paused types and an empty token bucket.
//!
//! A paused type keeps its place in line by joining the end of the line when it is resumed, as Envoy's multiplexer does: so a
//! subscription made while a response was applied goes out before the acknowledgement that was held back for it.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// A message that waits; the number is the index of the type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Waiting {
    /// The oldest unsent answer of the type.
    Answer(usize),
    /// The type's interest has changed.
    Interest(usize),
}

impl Waiting {
    pub(crate) fn index(self) -> usize {
        match self {
            Self::Answer(index) | Self::Interest(index) => index,
        }
    }
}

/// The line.
#[derive(Debug, Default)]
pub(crate) struct Line {
    waiting: VecDeque<Waiting>,
    held: VecDeque<Waiting>,
    /// How often each type is paused.
    pauses: Vec<u32>,
}

impl Line {
    pub(crate) fn push(&mut self, entry: Waiting) {
        if self.is_paused(entry.index()) {
            self.held.push_back(entry);
        } else {
            self.waiting.push_back(entry);
        }
    }

    /// Puts back what [`Line::pop`] gave.
    pub(crate) fn push_front(&mut self, entry: Waiting) {
        self.waiting.push_front(entry);
    }

    /// The next message that may go out.
    pub(crate) fn pop(&mut self) -> Option<Waiting> {
        self.waiting.pop_front()
    }

    pub(crate) fn has_sendable(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// How many messages may go out but have not.
    pub(crate) fn len(&self) -> usize {
        self.waiting.len()
    }

    /// Forgets all messages (the stream ended); pauses stay.
    pub(crate) fn clear(&mut self) {
        self.waiting.clear();
        self.held.clear();
    }

    pub(crate) fn is_paused(&self, index: usize) -> bool {
        self.pauses.get(index).is_some_and(|count| *count > 0)
    }

    /// Holds back the messages of a type until as many [`Line::resume`] calls. What waits already is held back too.
    pub(crate) fn pause(&mut self, index: usize) {
        if self.pauses.len() <= index {
            self.pauses.resize(index + 1, 0);
        }
        if let Some(count) = self.pauses.get_mut(index) {
            *count = count.saturating_add(1);
        }
        let (mut held, waiting): (VecDeque<_>, VecDeque<_>) =
            std::mem::take(&mut self.waiting).into_iter().partition(|entry| entry.index() == index);
        self.waiting = waiting;
        self.held.append(&mut held);
    }

    /// Ends one pause. A resume without a pause does nothing.
    pub(crate) fn resume(&mut self, index: usize) {
        let Some(count) = self.pauses.get_mut(index) else { return };
        *count = count.saturating_sub(1);
        if *count == 0 {
            let (mut freed, held): (VecDeque<_>, VecDeque<_>) =
                std::mem::take(&mut self.held).into_iter().partition(|entry| entry.index() == index);
            self.held = held;
            self.waiting.append(&mut freed);
        }
    }
}

/// How many requests may be sent (`RateLimitSettings`).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RateLimit {
    /// The size of the bucket. Envoy's default: 100.
    pub max_tokens: u32,
    /// Tokens per second. Envoy's default: 10; not above `max_tokens`.
    pub fill_rate: f64,
}

impl Default for RateLimit {
    fn default() -> Self {
        Self { max_tokens: 100, fill_rate: 10.0 }
    }
}

/// The tokens of a [`RateLimit`].
#[derive(Debug)]
pub(crate) struct TokenBucket {
    limit: RateLimit,
    tokens: f64,
    filled: Instant,
}

impl TokenBucket {
    pub(crate) fn new(limit: RateLimit, now: Instant) -> Self {
        Self { limit, tokens: f64::from(limit.max_tokens), filled: now }
    }

    /// Takes a token, or tells when there will be one.
    pub(crate) fn take(&mut self, now: Instant) -> Result<(), Instant> {
        let elapsed = now.saturating_duration_since(self.filled).as_secs_f64();
        self.tokens = (self.tokens + elapsed * self.limit.fill_rate).min(f64::from(self.limit.max_tokens));
        self.filled = self.filled.max(now);
        if self.tokens >= 1.0 {
            self.tokens -= 1.0;
            return Ok(());
        }
        let wait = (1.0 - self.tokens) / self.limit.fill_rate;
        // The microsecond makes up for rounding, so that the token is there at that moment.
        let wait =
            Duration::try_from_secs_f64(wait).unwrap_or(Duration::from_secs(3600)) + Duration::from_micros(1);
        Err(now + wait)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_resumed_type_joins_the_end() {
        let mut line = Line::default();
        line.push(Waiting::Interest(0));
        line.pause(0);
        line.push(Waiting::Answer(0));
        line.push(Waiting::Interest(1));
        line.pause(0);
        line.resume(0);
        assert_eq!(line.pop(), Some(Waiting::Interest(1)));
        assert_eq!(line.pop(), None);
        line.push(Waiting::Interest(2));
        line.resume(0);
        line.resume(0);
        let rest: Vec<_> = std::iter::from_fn(|| line.pop()).collect();
        assert_eq!(rest, [Waiting::Interest(2), Waiting::Interest(0), Waiting::Answer(0)]);
    }

    #[test]
    fn the_bucket_empties_and_fills() {
        let start = Instant::now();
        let mut bucket = TokenBucket::new(RateLimit { max_tokens: 2, fill_rate: 4.0 }, start);
        assert!(bucket.take(start).is_ok() && bucket.take(start).is_ok());
        let at = bucket.take(start).unwrap_err();
        assert!(at > start && at <= start + Duration::from_millis(251), "{:?}", at - start);
        assert!(bucket.take(at).is_ok());
        assert!(bucket.take(at).is_err());
        assert!(bucket.take(start + Duration::from_secs(100)).is_ok());
    }
}
