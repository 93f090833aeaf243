//! The buckets that the workers share.
//!
//! A worker finds a bucket that it has met before behind a lock that nobody else takes; the lock of all is taken for the first request that
//! meets a bucket on a worker. What a bucket counts, and what holds for it, are atomics.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use arc_swap::ArcSwap;
use prost_types::Struct;
use xds_api::envoy::service::rate_limit_quota::v3::BucketId;

use super::id::{id_of, metadata_of};
use super::strategy::{Rule, Strategy};
use crate::shared::per_worker::PerWorker;

/// How many bytes all buckets may take: clients choose what buckets are named after.
const MOST: usize = 16 * 1024 * 1024;

/// What a bucket takes for each octet of its id: in its key, its id and what logs are told.
const COPIES: usize = 4;

/// What a bucket takes besides.
const OF_BUCKET: usize = 1024;

/// A bucket.
#[derive(Debug)]
pub(super) struct Bucket {
    pub(super) key: Arc<[u8]>,
    pub(super) id: BucketId,
    /// What logs are told.
    pub(super) metadata: Arc<Struct>,
    rule: ArcSwap<Rule>,
    allowed: AtomicU64,
    denied: AtomicU64,
}

/// How many requests passed, and how many did not.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Usage {
    pub(super) allowed: u64,
    pub(super) denied: u64,
}

impl Bucket {
    pub(super) fn new(key: &[u8], strategy: Strategy, now: Instant) -> Self {
        let id = id_of(key);
        Self {
            key: key.into(),
            metadata: metadata_of(&id),
            id,
            rule: ArcSwap::from_pointee(strategy.begin(now)),
            allowed: AtomicU64::new(0),
            denied: AtomicU64::new(0),
        }
    }

    /// Whether a request passes at `now`; it is counted.
    pub(super) fn admits(&self, now: Instant) -> bool {
        let admits = self.rule.load().admits(now);
        let counter = if admits { &self.allowed } else { &self.denied };
        counter.fetch_add(1, Ordering::Relaxed);
        admits
    }

    /// Has `strategy` hold from `now` on. (What is taken meanwhile may be taken once more.)
    pub(super) fn set(&self, strategy: Strategy, now: Instant) {
        let rule = self.rule.load().followed_by(strategy, now);
        self.rule.store(Arc::new(rule));
    }

    /// Takes what was counted.
    pub(super) fn take_usage(&self) -> Usage {
        let take = |counter: &AtomicU64| counter.swap(0, Ordering::Relaxed);
        Usage { allowed: take(&self.allowed), denied: take(&self.denied) }
    }

    /// Counts once more what was taken.
    pub(super) fn add_usage(&self, usage: Usage) {
        self.allowed.fetch_add(usage.allowed, Ordering::Relaxed);
        self.denied.fetch_add(usage.denied, Ordering::Relaxed);
    }
}

/// What a bucket with this key takes, in octets.
fn weight(key: &[u8]) -> usize {
    key.len() * COPIES + OF_BUCKET
}

/// A bucket that was looked for.
pub(super) enum Found {
    Known(Arc<Bucket>),
    New(Arc<Bucket>),
    /// There is none, and no room for one.
    Full,
}

/// All buckets.
pub(super) struct Table {
    all: Mutex<All>,
    /// How many were removed: who remembers buckets from before has to forget them.
    removed: AtomicU64,
    met: PerWorker<Met>,
}

#[derive(Default)]
struct All {
    buckets: HashMap<Arc<[u8]>, Arc<Bucket>>,
    weight: usize,
}

/// The buckets that a worker has met.
#[derive(Default)]
struct Met {
    removed: u64,
    buckets: HashMap<Arc<[u8]>, Arc<Bucket>>,
}

impl Table {
    pub(super) fn new(workers: usize) -> Self {
        Self { all: Mutex::default(), removed: AtomicU64::new(0), met: PerWorker::new(workers, Met::default) }
    }

    /// The bucket with this key, or else a new one for whose requests `strategy` holds.
    pub(super) fn find(&self, key: &[u8], strategy: Strategy, now: Instant) -> Found {
        let mut met = self.met.here();
        let removed = self.removed.load(Ordering::Acquire);
        if met.removed != removed {
            *met = Met { removed, buckets: HashMap::new() };
        }
        if let Some(bucket) = met.buckets.get(key) {
            return Found::Known(bucket.clone());
        }
        let mut all = self.lock();
        let (bucket, is_new) = match all.buckets.get(key) {
            Some(bucket) => (bucket.clone(), false),
            None => {
                // (Where there is no room nothing is made under the lock.)
                let weight = weight(key);
                if all.weight + weight > MOST {
                    return Found::Full;
                }
                let bucket = Arc::new(Bucket::new(key, strategy, now));
                all.weight += weight;
                all.buckets.insert(bucket.key.clone(), bucket.clone());
                (bucket, true)
            }
        };
        drop(all);
        met.buckets.insert(bucket.key.clone(), bucket.clone());
        if is_new { Found::New(bucket) } else { Found::Known(bucket) }
    }

    /// Forgets these buckets.
    pub(super) fn remove<'k>(&self, keys: impl IntoIterator<Item = &'k [u8]>) {
        let mut all = self.lock();
        for key in keys {
            if let Some(bucket) = all.buckets.remove(key) {
                all.weight -= weight(&bucket.key);
            }
        }
        self.removed.fetch_add(1, Ordering::Release);
    }

    /// Whether half of the room is taken.
    pub(super) fn is_crowded(&self) -> bool {
        self.lock().weight > MOST / 2
    }

    fn lock(&self) -> MutexGuard<'_, All> {
        self.all.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn new(table: &Table, key: &[u8]) -> bool {
        matches!(table.find(key, Strategy::AllowAll, Instant::now()), Found::New(_))
    }

    #[test]
    fn a_bucket_is_new_once_for_all_workers_and_again_when_it_was_removed() {
        let table = Table::new(4);
        let news = std::thread::scope(|scope| {
            let workers: Vec<_> = (0..4).map(|_| scope.spawn(|| new(&table, b"a"))).collect();
            workers.into_iter().filter_map(|worker| worker.join().ok()).filter(|is_new| *is_new).count()
        });
        assert_eq!(news, 1);
        assert!(!new(&table, b"a"));
        table.remove([&b"a"[..]]);
        assert!(new(&table, b"a"));
        assert!(!new(&table, b"a"));
    }

    #[test]
    fn there_is_room_for_so_much_and_again_for_what_was_removed() {
        let table = Table::new(1);
        let key = |number: u32| number.to_be_bytes();
        let most = (0..).take_while(|number| new(&table, &key(*number))).count();
        assert_eq!(most, MOST / (4 * COPIES + OF_BUCKET));
        assert!(table.is_crowded());
        assert!(matches!(table.find(b"more", Strategy::AllowAll, Instant::now()), Found::Full));
        assert!(matches!(table.find(&key(0), Strategy::AllowAll, Instant::now()), Found::Known(_)));
        let gone: Vec<_> = (0..1000).map(key).collect();
        table.remove(gone.iter().map(|key| &key[..]));
        assert!(new(&table, b"more"));
    }

    #[test]
    fn threads_lose_no_request() {
        let bucket = Bucket::new(b"", Strategy::AllowAll, Instant::now());
        let reported = std::thread::scope(|scope| {
            for _ in 0..3 {
                scope.spawn(|| (0..10_000).for_each(|_| assert!(bucket.admits(Instant::now()))));
            }
            (0..100).map(|_| bucket.take_usage().allowed).sum::<u64>()
        });
        assert_eq!(reported + bucket.take_usage().allowed, 30_000);
    }
}
