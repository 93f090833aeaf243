//! Histogram cells: counts per log-linear bin, allocated in small pieces as values arrive.
//!
//! A bin is a decimal number with two significant digits (as in Envoy's circllhist): 1, 2, .. 9, 10, 11, .. 99,
//! 100, 110, .. 990, 1000, ... and one bin for zero. Recording finds the bin's slot in two or three dependent loads
//! and adds one; the pieces hold ten bins each, so a latency histogram of a quiet cluster stays below 1 KB.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use super::bins::BINS_PER_DECADE;

/// Ten neighbouring bins, for instance 30, 31, .. 39.
type Piece = [AtomicU64; 10];
/// The bins of one power of ten from 10 on: pieces for leading digits 1 to 9.
type Decade = [OnceLock<Box<Piece>>; 9];

/// Powers of ten that have a decade of their own in [`Bins`]: 10^1 to 10^4; the others lie behind one more pointer.
const NEAR: usize = 4;
/// 10^5 to 10^19, the largest power of ten in a `u64`.
const FAR: usize = 15;

/// A distribution of whole numbers. One writer: the thread that owns the shard.
#[derive(Debug, Default)]
pub struct Histogram(OnceLock<Box<Bins>>);

impl Histogram {
    /// Records one value.
    #[inline]
    pub fn record(&self, value: u64) {
        let slot = self.0.get_or_init(Box::default).slot(value);
        slot.store(slot.load(Relaxed).wrapping_add(1), Relaxed);
    }

    /// Whether anything was recorded.
    pub fn used(&self) -> bool {
        self.0.get().is_some()
    }

    /// Shows the bins that hold anything: the bin's index (see [`bin_bounds`](super::bin_bounds)) and its count, by rising index.
    pub fn visit(&self, visitor: &mut dyn FnMut(u16, u64)) {
        if let Some(bins) = self.0.get() {
            bins.visit(visitor);
        }
    }
}

/// A histogram with any number of writers.
#[derive(Debug, Default)]
pub struct SharedHistogram(Histogram);

impl SharedHistogram {
    /// Records one value.
    pub fn record(&self, value: u64) {
        self.0.0.get_or_init(Box::default).slot(value).fetch_add(1, Relaxed);
    }

    /// For reading.
    pub fn as_histogram(&self) -> &Histogram {
        &self.0
    }
}

#[derive(Debug, Default)]
struct Bins {
    zero: AtomicU64,
    units: [AtomicU64; 9],
    near: [OnceLock<Box<Decade>>; NEAR],
    far: OnceLock<Box<[OnceLock<Box<Decade>>; FAR]>>,
}

impl Bins {
    #[inline]
    fn slot(&self, value: u64) -> &AtomicU64 {
        // Constant divisors for the common magnitudes: a division by a variable costs more than all the rest.
        match value {
            0 => &self.zero,
            1..10 => &self.units[usize::try_from(value).unwrap_or(9) - 1],
            10..100 => self.near_slot(0, value),
            100..1_000 => self.near_slot(1, value / 10),
            1_000..10_000 => self.near_slot(2, value / 100),
            10_000..100_000 => self.near_slot(3, value / 1_000),
            _ => self.far_slot(value),
        }
    }

    #[inline]
    fn near_slot(&self, decade: usize, digits: u64) -> &AtomicU64 {
        decade_slot(self.near[decade].get_or_init(Box::default), digits)
    }

    #[cold]
    fn far_slot(&self, value: u64) -> &AtomicU64 {
        let exponent = value.ilog10();
        let digits = value / 10u64.pow(exponent - 1);
        let far = self.far.get_or_init(Box::default);
        decade_slot(far[exponent as usize - NEAR - 1].get_or_init(Box::default), digits)
    }

    fn visit(&self, visitor: &mut dyn FnMut(u16, u64)) {
        let mut show = |index: u16, slot: &AtomicU64| {
            let count = slot.load(Relaxed);
            if count > 0 {
                visitor(index, count);
            }
        };
        show(0, &self.zero);
        for (unit, slot) in (0u16..).zip(&self.units) {
            show(1 + unit * 10, slot);
        }
        let far = self.far.get().into_iter().flat_map(|far| far.iter());
        for (exponent, decade) in (1u16..).zip(self.near.iter().chain(far)) {
            let Some(decade) = decade.get() else { continue };
            for (lead, piece) in (0u16..).zip(decade.iter()) {
                let Some(piece) = piece.get() else { continue };
                for (digit, slot) in (0u16..).zip(piece.iter()) {
                    show(1 + exponent * BINS_PER_DECADE + lead * 10 + digit, slot);
                }
            }
        }
    }
}

/// The slot of a two-digit number (10 to 99) in its decade.
#[inline]
fn decade_slot(decade: &Decade, digits: u64) -> &AtomicU64 {
    let digits = usize::try_from(digits).unwrap_or(99).clamp(10, 99);
    &decade[digits / 10 - 1].get_or_init(Box::default)[digits % 10]
}
