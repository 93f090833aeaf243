//! Earliest deadline first: picks entries in proportion to their weights, spread evenly over time.

use std::cmp::Ordering;
use std::collections::BinaryHeap;

use crate::upstream::watched::{Watched, watched};

/// A schedule of the entries 0 to n-1 of some list.
#[derive(Debug)]
pub(super) struct Edf {
    heap: BinaryHeap<Entry>,
    turn: u64,
}

#[derive(Debug)]
struct Entry {
    deadline: Watched<f64>,
    /// Among equal deadlines, the one scheduled first goes first.
    turn: u64,
    index: usize,
}

impl Ord for Entry {
    /// The greatest entry is the one to pick next.
    fn cmp(&self, other: &Self) -> Ordering {
        other.deadline.total_cmp(&self.deadline).then(other.turn.cmp(&self.turn))
    }
}

impl PartialOrd for Entry {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Entry {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Entry {}

impl Edf {
    /// A schedule by `weights`, where 0 never comes; `None` if nothing has a weight.
    ///
    /// Starts somewhere in the sequence, as `seed` says, so that workers do not all begin with the same entry.
    pub(super) fn new(weights: impl Iterator<Item = f64> + Clone, seed: usize) -> Option<Self> {
        let entries = weights.clone().enumerate().filter(|(_, weight)| *weight > 0.0);
        let mut turn = 0;
        let heap: BinaryHeap<Entry> = entries
            .map(|(index, weight)| {
                turn += 1;
                Entry { deadline: watched(1.0 / weight), turn, index }
            })
            .collect();
        let skip = seed.checked_rem(heap.len())?;
        let mut schedule = Self { heap, turn };
        let weights: Vec<f64> = weights.collect();
        for _ in 0..skip {
            schedule.pick(|index| weights.get(index).copied().unwrap_or(1.0));
        }
        Some(schedule)
    }

    /// The next entry; `weight` says what it weighs from now on.
    pub(super) fn pick(&mut self, weight: impl Fn(usize) -> f64) -> Option<usize> {
        let mut top = self.heap.peek_mut()?;
        let index = top.index;
        self.turn += 1;
        top.turn = self.turn;
        top.deadline += 1.0 / weight(index).max(f64::MIN_POSITIVE);
        Some(index)
    }
}
