//! Response codes: one cell that holds a counter per status code, per class, and in total.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use super::Counter;

/// Distinct codes that fit inline; a cluster that answers with more of them gets a full table.
const INLINE: usize = 6;
/// The count is in the lower bits of an inline slot, the code above it.
const COUNT_BITS: u32 = 54;
const COUNT_MASK: u64 = (1 << COUNT_BITS) - 1;
/// Codes that Envoy accepts from a peer: 100 to 599 (others are counted in total only).
const FIRST: u16 = 100;
const LAST: u16 = 599;

/// Counters `<name>_<code>`, `<name>_<n>xx` and `<name>_completed`. One writer: the thread that owns the shard.
///
/// Nothing is allocated until the first response.
#[derive(Debug, Default)]
pub struct Codes(OnceLock<Box<Table>>);

#[derive(Debug, Default)]
struct Table {
    completed: Counter,
    classes: [Counter; 5],
    inline: [AtomicU64; INLINE],
    rest: OnceLock<Box<[Counter]>>,
}

impl Codes {
    /// Counts one response in total only.
    pub fn inc_completed(&self) {
        self.0.get_or_init(Box::default).completed.inc();
    }

    /// Counts one response.
    #[inline]
    pub fn inc(&self, code: u16) {
        let table = self.0.get_or_init(Box::default);
        table.completed.inc();
        if (FIRST..=LAST).contains(&code) {
            table.classes[usize::from(code / 100 - 1)].inc();
            table.inc_code(code);
        }
    }

    /// Whether anything was counted.
    pub fn used(&self) -> bool {
        self.0.get().is_some()
    }

    /// All responses counted.
    pub fn completed(&self) -> u64 {
        self.0.get().map_or(0, |table| table.completed.value())
    }

    /// Shows the classes (1 to 5) that were counted, by rising class.
    pub fn visit_classes(&self, visitor: &mut dyn FnMut(u16, u64)) {
        let Some(table) = self.0.get() else { return };
        for (class, counter) in (1..).zip(&table.classes).filter(|(_, counter)| counter.used()) {
            visitor(class, counter.value());
        }
    }

    /// Shows the codes that were counted, in no order.
    pub fn visit_codes(&self, visitor: &mut dyn FnMut(u16, u64)) {
        let Some(table) = self.0.get() else { return };
        for raw in table.inline.iter().map(|slot| slot.load(Relaxed)).filter(|raw| *raw != 0) {
            visitor(u16::try_from(raw >> COUNT_BITS).unwrap_or(0), raw & COUNT_MASK);
        }
        let rest = table.rest.get().map_or(&[][..], |rest| &rest[..]);
        for (code, counter) in (FIRST..).zip(rest).filter(|(_, counter)| counter.used()) {
            visitor(code, counter.value());
        }
    }
}

impl Table {
    #[inline]
    fn inc_code(&self, code: u16) {
        let tag = u64::from(code) << COUNT_BITS;
        for slot in &self.inline {
            let raw = slot.load(Relaxed);
            if raw & !COUNT_MASK == tag || raw == 0 {
                slot.store((raw | tag).wrapping_add(1), Relaxed);
                return;
            }
        }
        self.inc_rest(code);
    }

    #[cold]
    fn inc_rest(&self, code: u16) {
        let rest = self.rest.get_or_init(|| (FIRST..=LAST).map(|_| Counter::default()).collect());
        if let Some(counter) = rest.get(usize::from(code - FIRST)) {
            counter.inc();
        }
    }
}
