//! The scalar cells: counters, gauges and text readouts.
//!
//! [`Counter`] and [`Gauge`] are written by one thread only (the owner of the shard they lie in) and read by any.
//! A second writer would not be unsafe, but would lose increments; [`Cells`](super::Cells) gives every thread its own.
//! The `Shared*` cells take any number of writers.
//!
//! All of them remember whether they were ever written ("used" in Envoy's `usedonly`), even with a zero.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, PoisonError};

/// Marks a counter that was written at least once; the value is in the other 63 bits.
const USED: u64 = 1 << 63;

/// A number that only grows. One writer: the thread that owns the shard.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds one.
    #[inline]
    pub fn inc(&self) {
        self.add(1);
    }

    /// Adds `amount`; adding zero makes the counter used.
    #[inline]
    pub fn add(&self, amount: u64) {
        let raw = self.0.load(Relaxed);
        self.0.store(raw.wrapping_add(amount) | USED, Relaxed);
    }

    /// What this shard has counted.
    #[inline]
    pub fn value(&self) -> u64 {
        self.0.load(Relaxed) & !USED
    }

    /// Whether it was ever written.
    #[inline]
    pub fn used(&self) -> bool {
        self.0.load(Relaxed) & USED != 0
    }
}

/// This shard's share of a number that goes up and down: the sum over all shards is the gauge.
///
/// A shard may be negative (what one thread opened, another closed). One writer: the thread that owns the shard.
#[derive(Debug, Default)]
pub struct Gauge(AtomicU64);

impl Gauge {
    /// Adds one.
    #[inline]
    pub fn inc(&self) {
        self.add(1);
    }

    /// Takes one away.
    #[inline]
    pub fn dec(&self) {
        self.sub(1);
    }

    /// Adds `amount`.
    #[inline]
    pub fn add(&self, amount: u64) {
        // The lowest bit says "used"; the share is in the 63 above it.
        let raw = self.0.load(Relaxed);
        self.0.store(raw.wrapping_add(amount << 1) | 1, Relaxed);
    }

    /// Takes `amount` away.
    #[inline]
    pub fn sub(&self, amount: u64) {
        let raw = self.0.load(Relaxed);
        self.0.store(raw.wrapping_sub(amount << 1) | 1, Relaxed);
    }

    /// This shard's share.
    #[inline]
    pub fn share(&self) -> i64 {
        self.0.load(Relaxed).cast_signed() >> 1
    }

    /// Whether it was ever written.
    #[inline]
    pub fn used(&self) -> bool {
        self.0.load(Relaxed) & 1 != 0
    }
}

/// A counter with any number of writers.
#[derive(Debug, Default)]
pub struct SharedCounter(AtomicU64);

impl SharedCounter {
    /// Adds one.
    pub fn inc(&self) {
        self.add(1);
    }

    /// Adds `amount`; adding zero makes the counter used.
    pub fn add(&self, amount: u64) {
        self.0.fetch_add(amount, Relaxed);
        self.0.fetch_or(USED, Relaxed);
    }

    /// The count.
    pub fn value(&self) -> u64 {
        self.0.load(Relaxed) & !USED
    }

    /// Whether it was ever written.
    pub fn used(&self) -> bool {
        self.0.load(Relaxed) & USED != 0
    }
}

/// A gauge with any number of writers, all 64 bits of it.
#[derive(Debug, Default)]
pub struct SharedGauge {
    value: AtomicU64,
    used: AtomicBool,
}

impl SharedGauge {
    /// Replaces the value: a plain store, so cheap enough for a hot path that publishes a level.
    #[inline]
    pub fn set(&self, value: u64) {
        self.value.store(value, Relaxed);
        self.used.store(true, Relaxed);
    }

    /// Adds one.
    pub fn inc(&self) {
        self.add(1);
    }

    /// Takes one away.
    pub fn dec(&self) {
        self.sub(1);
    }

    /// Adds `amount`.
    pub fn add(&self, amount: u64) {
        self.value.fetch_add(amount, Relaxed);
        self.used.store(true, Relaxed);
    }

    /// Takes `amount` away.
    pub fn sub(&self, amount: u64) {
        self.value.fetch_sub(amount, Relaxed);
        self.used.store(true, Relaxed);
    }

    /// The value.
    pub fn value(&self) -> u64 {
        self.value.load(Relaxed)
    }

    /// Whether it was ever written.
    pub fn used(&self) -> bool {
        self.used.load(Relaxed)
    }
}

/// A text readout: the last text that was set.
#[derive(Debug, Default)]
pub struct Text(Mutex<Option<Box<str>>>);

impl Text {
    /// Replaces the text.
    pub fn set(&self, text: &str) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(text.into());
    }

    /// The text, empty when none was set.
    pub fn value(&self) -> Box<str> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone().unwrap_or_default()
    }

    /// Whether it was ever set.
    pub fn used(&self) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).is_some()
    }
}
