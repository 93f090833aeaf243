//! The buckets that the workers share.
//!
//! A worker finds a bucket that it has met before behind a lock of its own, and counts its requests there: they write nothing that another
//! worker reads, but for tokens, of which there are only so many for all. The lock of all is taken for the first request that meets a bucket
//! on a worker. For reports each worker's counts are taken from it whole, which holds its lock for a moment only, and then added up.

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

/// What it takes on each worker.
const OF_WORKER: usize = 128;

/// Of how many buckets a worker has for itself what logs are told, and how long their keys may be: those that are asked for often are met early.
const OWN: usize = 256;
const LONGEST_OWN: usize = 256;

/// A bucket.
#[derive(Debug)]
pub(super) struct Bucket {
    pub(super) key: Arc<[u8]>,
    pub(super) id: BucketId,
    /// What logs are told.
    pub(super) metadata: Arc<Struct>,
    rule: ArcSwap<Rule>,
    /// What was counted, but for what workers count now.
    allowed: AtomicU64,
    denied: AtomicU64,
}

/// How many requests passed, and how many did not.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Usage {
    pub(super) allowed: u64,
    pub(super) denied: u64,
}

impl Usage {
    fn count(&mut self, is_admitted: bool) {
        match is_admitted {
            true => self.allowed += 1,
            false => self.denied += 1,
        }
    }
}

impl Bucket {
    fn new(key: &[u8], strategy: Strategy, now: Instant) -> Self {
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

    /// Has `strategy` hold from `now` on. (What is taken meanwhile may be taken once more.)
    pub(super) fn set(&self, strategy: Strategy, now: Instant) {
        let rule = self.rule.load().followed_by(strategy, now);
        self.rule.store(Arc::new(rule));
    }

    /// Takes what was counted and added up ([`Table::add_up`]).
    pub(super) fn take_usage(&self) -> Usage {
        let take = |counter: &AtomicU64| counter.swap(0, Ordering::Relaxed);
        Usage { allowed: take(&self.allowed), denied: take(&self.denied) }
    }

    /// Adds to what was counted.
    pub(super) fn add_usage(&self, usage: Usage) {
        self.allowed.fetch_add(usage.allowed, Ordering::Relaxed);
        self.denied.fetch_add(usage.denied, Ordering::Relaxed);
    }
}

/// What became of a request.
pub(super) struct Asked {
    pub(super) is_admitted: bool,
    /// What logs are told.
    pub(super) metadata: Arc<Struct>,
    /// Its bucket, if it is the first request of that.
    pub(super) new: Option<Arc<Bucket>>,
}

/// All buckets.
pub(super) struct Table {
    all: Mutex<All>,
    workers: usize,
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
    buckets: HashMap<Arc<[u8]>, Here>,
    /// What was counted since it was taken last, and how often it was.
    counts: Vec<Counted>,
    taken: u64,
}

/// What a worker counted of a bucket.
struct Counted {
    bucket: Arc<Bucket>,
    usage: Usage,
}

/// A bucket on a worker.
struct Here {
    bucket: Arc<Bucket>,
    metadata: Arc<Struct>,
    /// Where it is counted, if it is since counts were taken so often.
    place: Option<(u64, usize)>,
}

impl Here {
    fn ask(&mut self, now: Instant, taken: u64, counts: &mut Vec<Counted>) -> Asked {
        let is_admitted = self.bucket.rule.load().admits(now);
        let place = self.place.filter(|(since, _)| *since == taken).map(|(_, place)| place);
        match place.and_then(|place| counts.get_mut(place)) {
            Some(counted) => counted.usage.count(is_admitted),
            None => {
                let mut usage = Usage::default();
                usage.count(is_admitted);
                self.place = Some((taken, counts.len()));
                counts.push(Counted { bucket: self.bucket.clone(), usage });
            }
        }
        Asked { is_admitted, metadata: self.metadata.clone(), new: None }
    }
}

impl Met {
    /// Forgets all, some of which are no buckets any more, but for what was counted.
    fn forget(&mut self, removed: u64) {
        self.removed = removed;
        self.buckets = HashMap::new();
    }

    fn take_counts(&mut self) -> Vec<Counted> {
        self.taken += 1;
        std::mem::take(&mut self.counts)
    }
}

/// Has a worker know this bucket.
fn meet(buckets: &mut HashMap<Arc<[u8]>, Here>, bucket: Arc<Bucket>) -> &mut Here {
    let has_own = buckets.len() < OWN && bucket.key.len() <= LONGEST_OWN;
    let metadata = match has_own {
        true => Arc::new(Struct::clone(&bucket.metadata)),
        false => bucket.metadata.clone(),
    };
    buckets.entry(bucket.key.clone()).or_insert(Here { bucket, metadata, place: None })
}

impl Table {
    pub(super) fn new(workers: usize) -> Self {
        let met = PerWorker::new(workers, Met::default);
        Self { all: Mutex::default(), workers, removed: AtomicU64::new(0), met }
    }

    /// What a bucket with this key takes, in octets.
    fn weight(&self, key: &[u8]) -> usize {
        key.len() * COPIES + OF_BUCKET + self.workers * OF_WORKER
    }

    /// Asks the bucket with this key whether a request passes at `now`, or else a new one for whose requests `strategy` holds. It is counted.
    /// `None` if there is no such bucket, and no room for one.
    pub(super) fn ask(&self, key: &[u8], strategy: Strategy, now: Instant) -> Option<Asked> {
        let mut here = self.met.here();
        let met = &mut *here;
        let removed = self.removed.load(Ordering::Acquire);
        if met.removed != removed {
            met.forget(removed);
        }
        if let Some(here) = met.buckets.get_mut(key) {
            return Some(here.ask(now, met.taken, &mut met.counts));
        }
        let (bucket, is_new) = self.find(key, strategy, now)?;
        let new = is_new.then(|| bucket.clone());
        let asked = meet(&mut met.buckets, bucket).ask(now, met.taken, &mut met.counts);
        // (The service is told of a new one at once.)
        if let Some(Counted { bucket, usage }) = new.as_ref().and_then(|_| met.counts.last_mut()) {
            bucket.add_usage(std::mem::take(usage));
        }
        Some(Asked { new, ..asked })
    }

    /// The bucket with this key, and whether it is a new one.
    #[cold]
    fn find(&self, key: &[u8], strategy: Strategy, now: Instant) -> Option<(Arc<Bucket>, bool)> {
        let mut all = self.lock();
        if let Some(bucket) = all.buckets.get(key) {
            return Some((bucket.clone(), false));
        }
        // (Where there is no room nothing is made under the lock.)
        let weight = self.weight(key);
        if all.weight + weight > MOST {
            return None;
        }
        let bucket = Arc::new(Bucket::new(key, strategy, now));
        all.weight += weight;
        all.buckets.insert(bucket.key.clone(), bucket.clone());
        Some((bucket, true))
    }

    /// Adds to all buckets what workers have counted.
    pub(super) fn add_up(&self) {
        // (Each lock is let go before anything is added.)
        for counts in self.met.all().map(|mut met| met.take_counts()) {
            counts.iter().for_each(|counted| counted.bucket.add_usage(counted.usage));
        }
    }

    /// Forgets these buckets. What workers count of them until they notice is there once all is added up again ([`Table::add_up`]).
    pub(super) fn remove<'k>(&self, keys: impl IntoIterator<Item = &'k [u8]>) {
        let mut all = self.lock();
        for key in keys {
            if let Some(bucket) = all.buckets.remove(key) {
                all.weight -= self.weight(&bucket.key);
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

    fn ask(table: &Table, key: &[u8]) -> Option<Asked> {
        table.ask(key, Strategy::AllowAll, Instant::now())
    }

    fn new(table: &Table, key: &[u8]) -> bool {
        ask(table, key).is_some_and(|asked| asked.new.is_some())
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
        assert_eq!(most, MOST / (4 * COPIES + OF_BUCKET + OF_WORKER));
        assert!(table.is_crowded());
        assert!(ask(&table, b"more").is_none());
        assert!(ask(&table, &key(0)).is_some_and(|asked| asked.new.is_none()));
        let gone: Vec<_> = (0..1000).map(key).collect();
        table.remove(gone.iter().map(|key| &key[..]));
        assert!(new(&table, b"more"));
    }

    #[test]
    fn threads_lose_no_request() {
        let table = Table::new(3);
        let bucket = ask(&table, b"a").unwrap().new.unwrap();
        assert!(new(&table, b"other"));
        let reported = std::thread::scope(|scope| {
            for _ in 0..3 {
                scope.spawn(|| (0..10_000).for_each(|_| assert!(ask(&table, b"a").unwrap().is_admitted)));
            }
            let report = |_| {
                table.add_up();
                // (Workers forget what they met, and lose nothing.)
                table.remove([&b"other"[..]]);
                bucket.take_usage().allowed
            };
            (0..100).map(report).sum::<u64>()
        });
        table.add_up();
        assert_eq!(reported + bucket.take_usage().allowed, 30_001);
    }

    #[test]
    fn a_worker_has_for_itself_what_logs_are_told_of_the_first_buckets() {
        let table = Table::new(1);
        let own = (0..2 * OWN).filter(|number| {
            let asked = ask(&table, &number.to_be_bytes()).unwrap();
            !Arc::ptr_eq(&asked.metadata, &asked.new.unwrap().metadata)
        });
        assert_eq!(own.count(), OWN);
    }
}
