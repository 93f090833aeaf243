//! One limit, and how much of it is taken.

use std::sync::atomic::{AtomicU64, Ordering};

/// A limit, and how much of it is taken: in one word ([`Standing`]), so that whoever takes, gives back or moves the limit sees all of it at
/// one moment.
#[derive(Debug)]
pub(super) struct Limit(AtomicU64);

/// A limit at one moment. In a word: `max` in the lower half, `used` in the upper one, whose highest bits are `is_shown_open` and
/// `is_budgeted`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Standing {
    pub(super) max: u32,
    /// At most [`Standing::MOST`].
    pub(super) used: u32,
    /// What its gauge says: whether nothing was left when something was last taken or given back.
    pub(super) is_shown_open: bool,
    /// A budget is in its place: how much is left is not known.
    pub(super) is_budgeted: bool,
}

impl Standing {
    const MOST: u32 = u32::MAX >> 2;
    const ONE: u64 = 1 << 32;
    const SHOWN: u64 = 1 << 63;
    const BUDGETED: u64 = 1 << 62;

    #[allow(clippy::cast_possible_truncation, reason = "the halves of a word")]
    fn of(word: u64) -> Self {
        let used = (word >> 32) as u32 & Self::MOST;
        let (is_shown_open, is_budgeted) = (word & Self::SHOWN != 0, word & Self::BUDGETED != 0);
        Self { max: word as u32, used, is_shown_open, is_budgeted }
    }

    fn word(self) -> u64 {
        let shown = if self.is_shown_open { Self::SHOWN } else { 0 };
        let budgeted = if self.is_budgeted { Self::BUDGETED } else { 0 };
        shown | budgeted | u64::from(self.used) << 32 | u64::from(self.max)
    }

    pub(super) fn is_open(self) -> bool {
        self.used >= self.max
    }

    /// With one more taken.
    pub(super) fn more(self) -> Self {
        Self { used: (self.used + 1).min(Self::MOST), ..self }.shown()
    }

    /// With its gauge right, if that is wrong.
    pub(super) fn to_be_shown(self) -> Option<Self> {
        (self.is_open() != self.is_shown_open).then(|| self.shown())
    }

    fn shown(self) -> Self {
        Self { is_shown_open: self.is_open(), ..self }
    }
}

impl Limit {
    pub(super) fn new(max: u32, is_budgeted: bool) -> Self {
        Self(AtomicU64::new(Standing { max, used: 0, is_shown_open: false, is_budgeted }.word()))
    }

    pub(super) fn standing(&self) -> Standing {
        Standing::of(self.0.load(Ordering::Relaxed))
    }

    /// Makes a change, unless there is none to make: what was before, and what is now.
    #[inline]
    pub(super) fn change(
        &self,
        change: impl Fn(Standing) -> Option<Standing>,
    ) -> Option<(Standing, Standing)> {
        let mut now = None;
        let before = self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |word| {
            now = change(Standing::of(word));
            now.map(Standing::word)
        });
        before.ok().map(Standing::of).zip(now)
    }

    /// One that was taken is no longer; the gauge is for the caller to see to ([`Standing::to_be_shown`]).
    #[inline]
    pub(super) fn give_back(&self) -> (Standing, Standing) {
        let before = self.0.fetch_sub(Standing::ONE, Ordering::Relaxed);
        (Standing::of(before), Standing::of(before.wrapping_sub(Standing::ONE)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_of_a_limit_is_one_word() {
        let limit = Limit::new(2, true);
        let at = |max, used, is_shown_open| Standing { max, used, is_shown_open, is_budgeted: true };
        let take = || limit.change(|standing| (!standing.is_open()).then(|| standing.more()));
        assert_eq!(take(), Some((at(2, 0, false), at(2, 1, false))));
        assert_eq!(take(), Some((at(2, 1, false), at(2, 2, true))));
        assert_eq!(take(), None);
        assert_eq!(limit.give_back(), (at(2, 2, true), at(2, 1, true)));
        assert_eq!(limit.change(Standing::to_be_shown), Some((at(2, 1, true), at(2, 1, false))));
        assert_eq!(limit.change(Standing::to_be_shown), None);
        // Moved below what is taken it is not shown as open before anything is taken or given back.
        assert!(limit.change(|standing| Some(Standing { max: 0, ..standing })).is_some());
        assert_eq!(limit.standing(), at(0, 1, false));
        assert!(limit.standing().is_open());
        assert_eq!(
            Standing::of(at(u32::MAX, Standing::MOST, true).word()),
            at(u32::MAX, Standing::MOST, true)
        );
    }
}
