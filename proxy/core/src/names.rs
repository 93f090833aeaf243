//! Interned names with a small index each, so that a request finds a cluster or a route table without hashing.

use hashbrown::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError, Weak};

/// A name and its slot: an index into the tables of every snapshot. The slot is free again when the last clone is gone.
#[derive(Clone)]
pub struct Name(Arc<Entry>);

struct Entry {
    name: Arc<str>,
    slot: usize,
    names: Weak<Mutex<Table>>,
}

impl Name {
    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0.name
    }

    /// The name, shared.
    pub fn shared(&self) -> Arc<str> {
        self.0.name.clone()
    }

    /// Index of this name in the tables of a snapshot.
    pub fn slot(&self) -> usize {
        self.0.slot
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        let Some(names) = self.names.upgrade() else { return };
        let mut table = names.lock().unwrap_or_else(PoisonError::into_inner);
        // Another entry may have been interned under the name after this one's last clone went.
        if table.by_name.get(&self.name).is_some_and(|entry| entry.strong_count() == 0) {
            table.by_name.remove(&self.name);
        }
        table.free.push(self.slot);
    }
}

impl PartialEq for Name {
    fn eq(&self, other: &Self) -> bool {
        self.0.slot == other.0.slot && self.0.name == other.0.name
    }
}

impl Eq for Name {}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}#{}", self.0.name, self.0.slot)
    }
}

#[derive(Default)]
struct Table {
    by_name: HashMap<Arc<str>, Weak<Entry>>,
    free: Vec<usize>,
    next: usize,
}

/// A table of interned names, shared by all who build configuration.
#[derive(Clone, Default)]
pub struct Names(Arc<Mutex<Table>>);

impl Names {
    /// The entry for `name`, made if there is none.
    pub fn intern(&self, name: &str) -> Name {
        let mut table = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(entry) = table.by_name.get(name).and_then(Weak::upgrade) {
            return Name(entry);
        }
        let slot = table.free.pop().unwrap_or_else(|| {
            table.next += 1;
            table.next - 1
        });
        let name: Arc<str> = name.into();
        let entry = Arc::new(Entry { name: name.clone(), slot, names: Arc::downgrade(&self.0) });
        table.by_name.insert(name, Arc::downgrade(&entry));
        Name(entry)
    }

    /// One more than the largest slot ever given out.
    pub fn slots(&self) -> usize {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).next
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slot_is_shared_while_held_and_reused_after() {
        let names = Names::default();
        let a = names.intern("a");
        let b = names.intern("b");
        assert_eq!(a, names.intern("a"));
        assert_ne!(a.slot(), b.slot());
        let slot = a.slot();
        drop(a);
        assert_eq!(names.intern("c").slot(), slot);
        assert_eq!(names.slots(), 2);
    }
}
