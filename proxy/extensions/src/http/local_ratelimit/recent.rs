//! Buckets of values that come with requests: those of the values that were used last, and no more than so many.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};

use proxy_core::rate_limit::Entry;

use super::limiter::Bucket;

/// Buckets by values, with the values that were not used for longest making room for new ones.
///
/// The workers share them: a lock is held for the time of a look-up, as long as values are open in the configuration.
pub(super) struct Recent {
    most: usize,
    kept: Mutex<Kept>,
}

#[derive(Default)]
struct Kept {
    buckets: HashMap<Arc<str>, (Arc<Bucket>, u64)>,
    /// The values by when they were used.
    uses: BTreeMap<u64, Arc<str>>,
    clock: u64,
}

impl Recent {
    pub(super) fn new(most: usize) -> Self {
        Self { most: most.max(1), kept: Mutex::default() }
    }

    /// The bucket of these values, `new` if there is none.
    pub(super) fn get(&self, entries: &[Entry<'_>], new: impl FnOnce() -> Bucket) -> Arc<Bucket> {
        let values = values(entries);
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let kept = &mut *kept;
        kept.clock += 1;
        if let Some((bucket, used)) = kept.buckets.get_mut(&*values) {
            if let Some(values) = kept.uses.remove(used) {
                kept.uses.insert(kept.clock, values);
            }
            *used = kept.clock;
            return bucket.clone();
        }
        if kept.buckets.len() >= self.most
            && let Some((_, oldest)) = kept.uses.pop_first()
        {
            kept.buckets.remove(&oldest);
        }
        let (values, bucket) = (Arc::<str>::from(values), Arc::new(new()));
        kept.uses.insert(kept.clock, values.clone());
        kept.buckets.insert(values, (bucket.clone(), kept.clock));
        bucket
    }
}

/// The values, each after its length, so that no two lists are the same text.
fn values(entries: &[Entry<'_>]) -> String {
    use std::fmt::Write;
    let mut text = String::new();
    for entry in entries {
        let _ = write!(text, "{}:{}", entry.value.len(), entry.value);
    }
    text
}
