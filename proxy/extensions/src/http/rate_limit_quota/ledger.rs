//! What a service is told of buckets, and what holds for them by what it says. Knows neither sockets nor a clock.
//!
//! A bucket is without an assignment until the service makes one. When the time of that is up, what the settings say of expired ones holds for a
//! while, and then what they say of none. A new assignment ends all of it; one like that before it goes on.
//! Source: `envoy/service/rate_limit_quota/v3/rlqs.proto`; the field comments of `rate_limit_quota.proto`.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use prost::Message;
use proxy_core::config::duration;
use xds_api::envoy::service::rate_limit_quota::v3::RateLimitQuotaUsageReports;
use xds_api::envoy::service::rate_limit_quota::v3::rate_limit_quota_response::BucketAction;
use xds_api::envoy::service::rate_limit_quota::v3::rate_limit_quota_response::bucket_action::{
    BucketAction as Action, QuotaAssignmentAction,
};
use xds_api::envoy::service::rate_limit_quota::v3::rate_limit_quota_usage_reports::BucketQuotaUsage;

use super::id::key_of;
use super::settings::{Expired, Settings};
use super::strategy::Strategy;
use super::table::{Bucket, Table, Usage};

/// How large a message may become: most services take no more than 4 MiB.
const LARGEST: usize = 1024 * 1024;

/// How many octets of what nobody was told are kept of buckets that are forgotten.
const MOST_UNTOLD: usize = 4 * LARGEST;

/// A bucket that the service does not know yet.
pub(super) struct Created {
    pub(super) bucket: Arc<Bucket>,
    pub(super) settings: Arc<Settings>,
}

/// When something ends. (Several things may end at once.)
type Moment = (Instant, u64);

/// The buckets of a domain.
pub(super) struct Ledger {
    domain: String,
    table: Arc<Table>,
    entries: HashMap<Arc<[u8]>, Entry>,
    /// When buckets that are reported at this interval are reported next.
    reports: BTreeMap<Duration, Instant>,
    /// Whose assignment ends when.
    ends: BTreeMap<Moment, Arc<[u8]>>,
    next_number: u64,
    /// Of buckets that are forgotten, what nobody was told.
    untold: Vec<BucketQuotaUsage>,
    /// Octets of it.
    untold_length: usize,
}

struct Entry {
    bucket: Arc<Bucket>,
    settings: Arc<Settings>,
    holds: Holds,
    strategy: Strategy,
    ends: Option<Moment>,
    reported: Instant,
}

/// By whose word a strategy holds.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Holds {
    /// There is no assignment.
    ByDefault,
    Assigned,
    /// An assignment has expired.
    Expired,
}

impl Ledger {
    pub(super) fn new(domain: String, table: Arc<Table>) -> Self {
        Self {
            domain,
            table,
            entries: HashMap::new(),
            reports: BTreeMap::new(),
            ends: BTreeMap::new(),
            next_number: 0,
            untold: Vec::new(),
            untold_length: 0,
        }
    }

    /// Notes a new bucket.
    pub(super) fn add(&mut self, created: Created, now: Instant) {
        let Created { bucket, settings } = created;
        self.reports.entry(settings.interval).or_insert(now + settings.interval);
        let strategy = settings.unassigned;
        let entry = Entry {
            holds: Holds::ByDefault,
            strategy,
            ends: None,
            reported: now,
            settings,
            bucket: bucket.clone(),
        };
        if let Some(Entry { ends: Some(ends), .. }) = self.entries.insert(bucket.key.clone(), entry) {
            self.ends.remove(&ends);
        }
    }

    /// What the service is told of these buckets, which are new ones: of the first request.
    pub(super) fn report<'k>(
        &mut self,
        keys: impl IntoIterator<Item = &'k Arc<[u8]>>,
        now: Instant,
    ) -> Vec<RateLimitQuotaUsageReports> {
        let mut reports = Reports::new(&self.domain);
        for key in keys {
            if let Some(entry) = self.entries.get_mut(key) {
                reports.add(entry.usage(now));
            }
        }
        reports.finish()
    }

    /// Does what the service says of a bucket.
    ///
    /// # Errors
    /// Why it is not done.
    pub(super) fn apply(&mut self, action: &BucketAction, now: Instant) -> Result<(), &'static str> {
        let BucketAction { bucket_id, bucket_action } = action;
        let Some(id) = bucket_id.as_ref().filter(|id| !id.bucket.is_empty()) else {
            return Err("it says of no bucket");
        };
        let key = key_of(id);
        let Some(entry) = self.entries.get_mut(&key[..]) else { return Err("there is no such bucket") };
        let (ttl, strategy) = match bucket_action {
            Some(Action::AbandonAction(_)) => {
                if let Some(ends) = entry.ends {
                    self.ends.remove(&ends);
                }
                // (With what was counted since its last report: to tell of it would be to ask for assignments again.)
                self.entries.remove(&key[..]);
                self.table.remove([&key[..]]);
                return Ok(());
            }
            Some(Action::QuotaAssignmentAction(QuotaAssignmentAction {
                assignment_time_to_live,
                rate_limit_strategy,
            })) => {
                let Some(strategy) = rate_limit_strategy else { return Err("it has no strategy") };
                let strategy = Strategy::read(strategy).map_err(|(_, reason)| reason)?;
                (assignment_time_to_live.as_ref().map(|ttl| duration(ttl).unwrap_or_default()), strategy)
            }
            None => return Err("it says nothing"),
        };
        entry.change(Holds::Assigned, strategy, now);
        let key = entry.bucket.key.clone();
        self.end(&key, ttl.and_then(|ttl| now.checked_add(ttl)));
        Ok(())
    }

    /// Has `key`'s strategy end at this moment, in place of any other.
    fn end(&mut self, key: &Arc<[u8]>, at: Option<Instant>) {
        let Some(entry) = self.entries.get_mut(key) else { return };
        if let Some(before) = entry.ends.take() {
            self.ends.remove(&before);
        }
        entry.ends = at.map(|at| (at, self.next_number));
        if let Some(ends) = entry.ends {
            self.next_number += 1;
            self.ends.insert(ends, key.clone());
        }
    }

    /// Ends what has to end by `now`.
    pub(super) fn expire(&mut self, now: Instant) {
        while let Some(first) = self.ends.first_entry().filter(|first| first.key().0 <= now) {
            let ((at, _), key) = first.remove_entry();
            let Some(entry) = self.entries.get_mut(&key) else { continue };
            entry.ends = None;
            let expired = entry.settings.expired.filter(|_| entry.holds == Holds::Assigned);
            let until = expired.and_then(|Expired { timeout, .. }| at.checked_add(timeout));
            match expired {
                Some(Expired { strategy, .. }) => {
                    let strategy = strategy.unwrap_or(entry.strategy);
                    entry.change(Holds::Expired, strategy, now);
                    self.end(&key, until);
                }
                None => entry.change(Holds::ByDefault, entry.settings.unassigned, now),
            }
        }
    }

    /// Whether there is something to report.
    pub(super) fn has_report(&self, now: Instant) -> bool {
        self.reports.values().any(|at| *at <= now)
    }

    /// What the service is told of the buckets whose interval is over. If it `is_heard`: else nothing is taken from them, and the next report has it.
    pub(super) fn report_due(&mut self, is_heard: bool, now: Instant) -> Vec<RateLimitQuotaUsageReports> {
        let due: Vec<Duration> =
            self.reports.iter().filter(|(_, at)| **at <= now).map(|(interval, _)| *interval).collect();
        let mut reports = Reports::new(&self.domain);
        if is_heard {
            self.table.add_up();
            self.untold_length = 0;
            std::mem::take(&mut self.untold).into_iter().for_each(|usage| reports.add(usage));
        }
        let is_crowded = self.table.is_crowded();
        let mut unused = Vec::new();
        for interval in due {
            let entries = self.entries.values_mut().filter(|entry| entry.settings.interval == interval);
            let mut has_entries = false;
            for entry in entries {
                has_entries = true;
                if is_heard {
                    let usage = entry.usage(now);
                    if is_crowded && entry.holds == Holds::ByDefault && is_unused(&usage) {
                        unused.push((entry.bucket.clone(), usage));
                    } else {
                        reports.add(usage);
                    }
                }
            }
            if has_entries {
                let next = self.reports.entry(interval).or_insert(now);
                // (What was missed is not made up for.)
                *next = (*next + interval).max(now + interval / 2);
            } else {
                self.reports.remove(&interval);
            }
        }
        if !unused.is_empty() {
            forget(&mut self.entries, &self.table, unused, &mut reports);
        }
        reports.finish()
    }

    /// Takes back what nobody was told: the next report has it.
    pub(super) fn take_back(&mut self, report: &RateLimitQuotaUsageReports) {
        for usage in &report.bucket_quota_usages {
            let Some(id) = &usage.bucket_id else { continue };
            let Some(entry) = self.entries.get_mut(&key_of(id)[..]) else {
                let length = usage.encoded_len();
                if !is_unused(usage) && self.untold_length + length <= MOST_UNTOLD {
                    self.untold_length += length;
                    self.untold.push(usage.clone());
                }
                continue;
            };
            let (allowed, denied) = (usage.num_requests_allowed, usage.num_requests_denied);
            entry.bucket.add_usage(Usage { allowed, denied });
            let elapsed = usage.time_elapsed.as_ref().and_then(duration).unwrap_or_default();
            entry.reported = entry.reported.checked_sub(elapsed).unwrap_or(entry.reported);
        }
    }

    /// When there is something to do next.
    pub(super) fn next(&self) -> Option<Instant> {
        let end = self.ends.first_key_value().map(|((at, _), _)| *at);
        self.reports.values().copied().chain(end).min()
    }
}

impl Entry {
    /// Has `strategy` hold. What holds already goes on.
    fn change(&mut self, holds: Holds, strategy: Strategy, now: Instant) {
        self.holds = holds;
        if self.strategy != strategy {
            self.strategy = strategy;
            self.bucket.set(strategy, now);
        }
    }

    fn usage(&mut self, now: Instant) -> BucketQuotaUsage {
        let elapsed = now.saturating_duration_since(self.reported);
        self.reported = now;
        let usage = self.bucket.take_usage();
        BucketQuotaUsage {
            bucket_id: Some(self.bucket.id.clone()),
            time_elapsed: prost_types::Duration::try_from(elapsed).ok(),
            num_requests_allowed: usage.allowed,
            num_requests_denied: usage.denied,
        }
    }
}

/// Forgets these buckets, and reports what there is to report of them after all.
#[cold]
fn forget(
    entries: &mut HashMap<Arc<[u8]>, Entry>,
    table: &Table,
    unused: Vec<(Arc<Bucket>, BucketQuotaUsage)>,
    reports: &mut Reports<'_>,
) {
    for (bucket, _) in &unused {
        entries.remove(&bucket.key);
    }
    table.remove(unused.iter().map(|(bucket, _)| &*bucket.key));
    // Until then workers may have counted on; who asks from now on has a new bucket.
    table.add_up();
    for (bucket, mut usage) in unused {
        let Usage { allowed, denied } = bucket.take_usage();
        usage.num_requests_allowed += allowed;
        usage.num_requests_denied += denied;
        reports.add(usage);
    }
}

fn is_unused(usage: &BucketQuotaUsage) -> bool {
    usage.num_requests_allowed == 0 && usage.num_requests_denied == 0
}

/// Messages that are made of many usages, none of them too large.
struct Reports<'d> {
    domain: &'d str,
    all: Vec<RateLimitQuotaUsageReports>,
    /// Octets of the last.
    length: usize,
}

impl<'d> Reports<'d> {
    fn new(domain: &'d str) -> Self {
        Self { domain, all: Vec::new(), length: 0 }
    }

    fn add(&mut self, usage: BucketQuotaUsage) {
        let length = usage.encoded_len();
        self.length += length;
        match self.all.last_mut() {
            Some(report) if self.length <= LARGEST => report.bucket_quota_usages.push(usage),
            _ => {
                self.length = length;
                let domain = self.domain.to_owned();
                self.all.push(RateLimitQuotaUsageReports { domain, bucket_quota_usages: vec![usage] });
            }
        }
    }

    fn finish(self) -> Vec<RateLimitQuotaUsageReports> {
        self.all
    }
}
