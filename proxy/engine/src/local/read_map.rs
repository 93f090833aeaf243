//! A map that is read all the time and hardly ever changes: who reads takes no lock, and a change copies the part that it is in.

use std::hash::{BuildHasher, Hash};
use std::sync::{Mutex, MutexGuard, PoisonError};

use arc_swap::ArcSwap;
use foldhash::quality::RandomState;
use hashbrown::{Equivalent, HashMap};

/// So many entries are copied by a change, about.
const PART: usize = 64;

/// The map. Values are cheap to clone.
#[derive(Debug)]
pub(crate) struct ReadMap<K, V> {
    parts: Box<[ArcSwap<HashMap<K, V, RandomState>>]>,
    hasher: RandomState,
    len: Mutex<usize>,
}

impl<K: Hash + Eq + Clone, V: Clone> ReadMap<K, V> {
    /// For about so many entries; more make changes slower.
    pub(crate) fn new(expected: usize) -> Self {
        let parts = expected.div_ceil(PART).clamp(1, 4096).next_power_of_two();
        let hasher = RandomState::default();
        let part = || ArcSwap::from_pointee(HashMap::with_hasher(hasher.clone()));
        Self { parts: std::iter::repeat_with(part).take(parts).collect(), hasher, len: Mutex::new(0) }
    }

    fn part<Q: Hash + ?Sized>(&self, key: &Q) -> &ArcSwap<HashMap<K, V, RandomState>> {
        // (The map in the part uses the lowest and the highest bits.)
        let at = (self.hasher.hash_one(key) >> 32) as usize & (self.parts.len() - 1);
        &self.parts[at]
    }

    /// The value of `key`.
    pub(crate) fn get<Q: Hash + Equivalent<K> + ?Sized>(&self, key: &Q) -> Option<V> {
        self.part(key).load().get(key).cloned()
    }

    /// All values, in no order.
    pub(crate) fn values(&self) -> Vec<V> {
        self.parts.iter().flat_map(|part| part.load().values().cloned().collect::<Vec<_>>()).collect()
    }

    /// Changes the map; nobody else does meanwhile.
    pub(crate) fn write(&self) -> Write<'_, K, V> {
        Write { map: self, len: self.len.lock().unwrap_or_else(PoisonError::into_inner) }
    }
}

/// The right to change a map.
pub(crate) struct Write<'m, K, V> {
    map: &'m ReadMap<K, V>,
    len: MutexGuard<'m, usize>,
}

impl<K: Hash + Eq + Clone, V: Clone> Write<'_, K, V> {
    /// How many entries there are.
    pub(crate) fn len(&self) -> usize {
        *self.len
    }

    /// Sets the value of `key`; what it was before.
    pub(crate) fn insert(&mut self, key: K, value: V) -> Option<V> {
        let part = self.map.part(&key);
        let mut copy = HashMap::clone(&part.load());
        let before = copy.insert(key, value);
        part.store(copy.into());
        *self.len += usize::from(before.is_none());
        before
    }

    /// Removes `key`; what it was.
    pub(crate) fn remove<Q: Hash + Equivalent<K> + ?Sized>(&mut self, key: &Q) -> Option<V> {
        let part = self.map.part(key);
        let mut copy = HashMap::clone(&part.load());
        let before = copy.remove(key)?;
        part.store(copy.into());
        *self.len -= 1;
        Some(before)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let map: ReadMap<String, u32> = ReadMap::new(1000);
        assert_eq!(map.parts.len(), 16);
        let mut write = map.write();
        for number in 0..1000 {
            assert_eq!(write.insert(number.to_string(), number), None);
        }
        assert_eq!((write.len(), write.insert("7".into(), 8)), (1000, Some(7)));
        assert_eq!((write.remove("9"), write.remove("9"), write.len()), (Some(9), None, 999));
        drop(write);
        assert_eq!((map.get("7"), map.get("9"), map.values().len()), (Some(8), None, 999));
        let largest = map.parts.iter().map(|part| part.load().len()).max();
        assert!(largest < Some(2 * PART), "{largest:?}");
    }
}
