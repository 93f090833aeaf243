//! What is counted apart: one of something for each set of labels, so many and of such length at most.
//!
//! Asked at the end of each stream, which allocates nothing for a set that is known; written by the first stream of its kind.

use std::collections::HashMap;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::sync::{Arc, PoisonError, RwLock};

use super::labels::Labels;

/// Sets that are counted apart: clients choose hosts, and could make up any number.
const MOST_SETS: usize = 10_000;
/// Bytes of all their values: clients choose how long those are, too.
const MOST_BYTES: usize = 8 * 1024 * 1024;

/// One of `T` for each set of labels.
pub(super) struct Sets<T> {
    hashing: RandomState,
    known: RwLock<Known<T>>,
}

struct Known<T> {
    /// By the hash of the values, or the next number that is free: none is ever taken away.
    sets: HashMap<u64, Entry<T>>,
    bytes: usize,
}

struct Entry<T> {
    values: Box<[Box<str>]>,
    set: Arc<T>,
}

impl<T> Entry<T> {
    fn is_of(&self, labels: &Labels<'_>) -> bool {
        self.values.iter().map(|known| &**known).eq(labels.values())
    }
}

impl<T> Default for Sets<T> {
    fn default() -> Self {
        let known = Known { sets: HashMap::new(), bytes: 0 };
        Self { hashing: RandomState::new(), known: RwLock::new(known) }
    }
}

impl<T> Sets<T> {
    /// That of these labels. None if they are not known and there is no room.
    pub(super) fn of(&self, labels: &Labels<'_>, make: impl FnOnce() -> T) -> Option<Arc<T>> {
        let hash = self.hash(labels);
        {
            let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
            if let Ok(set) = known.find(hash, labels) {
                return Some(set);
            }
            // (Once there is no room, workers do not wait for each other to find out.)
            if !known.has_room(labels) {
                return None;
            }
        }
        let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
        known.has_room(labels).then(|| known.find_or_add(hash, labels, make))
    }

    /// That of the labels of streams for which there is no room.
    pub(super) fn of_all_others(&self, labels: &Labels<'_>, make: impl FnOnce() -> T) -> Arc<T> {
        let hash = self.hash(labels);
        if let Ok(set) = self.known.read().unwrap_or_else(PoisonError::into_inner).find(hash, labels) {
            return set;
        }
        self.known.write().unwrap_or_else(PoisonError::into_inner).find_or_add(hash, labels, make)
    }

    fn hash(&self, labels: &Labels<'_>) -> u64 {
        let mut hasher = self.hashing.build_hasher();
        for value in labels.values() {
            hasher.write(value.as_bytes());
            // (A byte that no text has.)
            hasher.write_u8(0xff);
        }
        hasher.finish()
    }
}

impl<T> Known<T> {
    fn has_room(&self, labels: &Labels<'_>) -> bool {
        self.sets.len() < MOST_SETS && self.bytes + length(labels) <= MOST_BYTES
    }

    /// That of these labels, or else where it belongs.
    fn find(&self, hash: u64, labels: &Labels<'_>) -> Result<Arc<T>, u64> {
        let mut at = hash;
        while let Some(entry) = self.sets.get(&at) {
            if entry.is_of(labels) {
                return Ok(entry.set.clone());
            }
            at = at.wrapping_add(1);
        }
        Err(at)
    }

    fn find_or_add(&mut self, hash: u64, labels: &Labels<'_>, make: impl FnOnce() -> T) -> Arc<T> {
        match self.find(hash, labels) {
            Ok(set) => set,
            Err(at) => {
                let set = Arc::new(make());
                let values = labels.values().map(Into::into).collect();
                self.bytes += length(labels);
                self.sets.insert(at, Entry { values, set: set.clone() });
                set
            }
        }
    }
}

/// Bytes of the values.
fn length(labels: &Labels<'_>) -> usize {
    labels.values().map(str::len).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn count(sets: &Sets<u32>, values: &[&str]) -> Option<u32> {
        let labels = Labels::plain(values);
        let next = sets.known.read().unwrap().sets.len();
        sets.of(&labels, || u32::try_from(next).unwrap()).map(|set| *set)
    }

    #[test]
    fn each_set_of_labels_has_its_own() {
        let sets = Sets::default();
        for (values, known) in [
            (&["a", "b"][..], 0),
            (&["ab", ""], 1),
            (&["a", "b"], 0),
            (&["a\0b", ""], 2),
            (&["a", "b", ""], 3),
            (&[], 4),
        ] {
            assert_eq!(count(&sets, values), Some(known), "{values:?}");
        }
    }

    #[test]
    fn clients_do_not_fill_the_memory_with_names() {
        let sets = Sets::default();
        for number in 0..MOST_SETS {
            assert!(count(&sets, &[&number.to_string()]).is_some());
        }
        assert_eq!(count(&sets, &["another"]), None);
        assert_eq!(count(&sets, &["7"]), Some(7));
        let all_others = Labels::plain(&["all others"]);
        assert_eq!(*sets.of_all_others(&all_others, || 1), *sets.of_all_others(&all_others, || 2));

        let sets = Sets::default();
        let long = |number: usize| format!("{number}{}", "x".repeat(60_000));
        let kept = (0..MOST_SETS).take_while(|number| count(&sets, &[&long(*number)]).is_some()).count();
        assert_eq!(kept, MOST_BYTES / 60_000);
        assert_eq!(count(&sets, &[&long(0)]), Some(0));
    }
}
