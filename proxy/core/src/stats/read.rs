//! Reading: sums over the shards, histogram intervals, resets, and which statistics are shown.
//!
//! Only the readers' own memory is written here, never a shard. One reader at a time works on a scope (its lock); the
//! workers never take that lock.

use std::borrow::Cow;
use std::collections::BTreeMap;

use super::bins::Bins;
use super::group::{Cell, Kind, StatDef, Unit, Visibility};
use super::registry::{GroupMember, OneOffCell, OneOffMember, Registry, Scope};
use super::settings::Settings;
use super::tagged::Labelled;

/// One statistic at one moment.
#[derive(Debug)]
pub struct Metric<'a> {
    /// Its full name.
    pub name: &'a str,
    /// Its labels, where they are given and not found in its name.
    pub labelled: Option<&'a Labelled>,
    /// Its value.
    pub value: Value<'a>,
    /// Whether it was ever written, even with a zero. A histogram is used once a flush merged it.
    pub used: bool,
    /// Whether it is shown only to those who ask for hidden ones.
    pub hidden: bool,
}

impl Metric<'_> {
    /// What it shares with no other: its name, and the labels that are not in it.
    pub fn identity(&self) -> Cow<'_, str> {
        match self.labelled.filter(|labelled| !labelled.is_custom) {
            None => self.name.into(),
            Some(labelled) => {
                let mut identity = self.name.to_owned();
                for (label, value) in &labelled.labels {
                    identity.extend(["\0", label, "=", value]);
                }
                identity.into()
            }
        }
    }
}

/// What a statistic holds.
#[derive(Debug)]
pub enum Value<'a> {
    /// A counter's count since the start or the last reset.
    Counter(u64),
    /// A gauge's level.
    Gauge(u64),
    /// A text readout.
    Text(&'a str),
    /// A histogram as of the last flush.
    Histogram(HistogramView<'a>),
}

/// A histogram as of the last flush.
#[derive(Clone, Copy, Debug)]
pub struct HistogramView<'a> {
    /// What it measures.
    pub unit: Unit,
    /// What was recorded between the last two flushes.
    pub interval: &'a Bins,
    /// What was recorded since the start.
    pub cumulative: &'a Bins,
}

impl HistogramView<'_> {
    /// What a recorded whole number stands for: 1, or a millionth for fractions.
    pub fn scale(&self) -> f64 {
        match self.unit {
            Unit::Percent => 1e-6,
            Unit::Bytes | Unit::Microseconds | Unit::Milliseconds | Unit::Unspecified => 1.0,
        }
    }
}

/// What readers remember about one group or one-off statistic.
#[derive(Default)]
pub(super) struct ReaderMemory {
    /// Merged histograms by the index of their statistic.
    histograms: BTreeMap<usize, Merged>,
    /// Counts at the last reset: by the index of the statistic and, within codes, the code.
    resets: BTreeMap<(usize, u16), u64>,
    /// Which statistics the `stats_matcher` accepts; empty when it accepts all.
    accepted: Option<Box<[bool]>>,
}

#[derive(Default)]
struct Merged {
    interval: Bins,
    cumulative: Bins,
}

static NOTHING: Bins = Bins::new();
/// Keys of [`ReaderMemory::resets`] that are no code: `completed`, and classes 1 to 5.
const COMPLETED: u16 = 0;

/// The sum over the shards of one statistic.
#[derive(Default)]
struct Sum {
    total: u64,
    used: bool,
    text: Option<Box<str>>,
    codes: BTreeMap<u16, u64>,
    bins: Bins,
}

impl Sum {
    fn add(&mut self, cell: Cell<'_>, with_bins: bool) {
        match cell {
            Cell::Counter(cell) => self.count(cell.value(), cell.used()),
            Cell::SharedCounter(cell) => self.count(cell.value(), cell.used()),
            Cell::Gauge(cell) => self.count(cell.share().cast_unsigned(), cell.used()),
            Cell::SharedGauge(cell) => self.count(cell.value(), cell.used()),
            Cell::Text(cell) => {
                self.used |= cell.used();
                self.text = Some(cell.value());
            }
            Cell::Histogram(cell) => {
                self.used |= cell.used();
                if with_bins {
                    cell.visit(&mut |index, count| self.bins.add(index, count));
                }
            }
            Cell::Codes(cell) => {
                self.used |= cell.used();
                let codes = &mut self.codes;
                let mut add = |key: u16, count: u64| *codes.entry(key).or_default() += count;
                if cell.used() {
                    add(COMPLETED, cell.completed());
                }
                cell.visit_classes(&mut add);
                cell.visit_codes(&mut add);
            }
        }
    }

    fn count(&mut self, amount: u64, used: bool) {
        self.total = self.total.wrapping_add(amount);
        self.used |= used;
    }
}

/// Room for names and sums, kept from one group to the next.
#[derive(Default)]
struct Scratch {
    name: String,
    sums: Vec<Sum>,
}

impl Registry {
    /// Shows every statistic that exists, in no order, with live counters and gauges and histograms as of the last
    /// [`Registry::flush`].
    ///
    /// `visitor` must not register anything: it runs under the lock of the scope that it is shown.
    pub fn visit(&self, visitor: &mut dyn FnMut(Metric<'_>)) {
        let mut scratch = Scratch::default();
        for scope in self.live_scopes() {
            let mut members = scope.0.lock_members();
            for member in &mut members.groups {
                visit_group(scope.prefix(), member, self.settings(), &mut scratch, visitor);
            }
            for (name, member) in &mut members.one_offs {
                visit_one_off(&scope, name, member, self.settings(), &mut scratch, visitor);
            }
        }
        if let Some(keeper) = self.elsewhere() {
            keeper.visit(visitor);
        }
    }

    /// Merges the histograms over the shards: what was recorded since the last call becomes the interval. Called every
    /// `stats_flush_interval`.
    pub fn flush(&self) {
        for scope in self.live_scopes() {
            let mut members = scope.0.lock_members();
            for member in &mut members.groups {
                flush_group(member);
            }
            for member in members.one_offs.values_mut() {
                flush_one_off(member);
            }
        }
    }

    /// Makes every counter start again from zero (`/reset_counters`). Gauges and histograms keep what they have.
    pub fn reset_counters(&self) {
        let mut sums = Vec::new();
        for scope in self.live_scopes() {
            let mut members = scope.0.lock_members();
            for GroupMember { group, memory } in &mut members.groups {
                sum_group(group.as_ref(), &mut sums, false);
                remember_reset(memory, &sums, |index| group.stats().get(index).map(|stat| stat.kind));
            }
            for OneOffMember { cell, memory, labelled: _ } in members.one_offs.values_mut() {
                if let OneOffCell::Counter(counter) = cell {
                    let mut sum = Sum::default();
                    sum.add(Cell::SharedCounter(counter), false);
                    remember_reset(memory, &[sum], |_| Some(Kind::Counter));
                }
            }
        }
    }
}

fn remember_reset(
    memory: &mut Option<Box<ReaderMemory>>,
    sums: &[Sum],
    kind: impl Fn(usize) -> Option<Kind>,
) {
    for (index, sum) in sums.iter().enumerate().filter(|(_, sum)| sum.used) {
        match kind(index) {
            Some(Kind::Counter) => {
                memory.get_or_insert_default().resets.insert((index, COMPLETED), sum.total);
            }
            Some(Kind::Codes) => {
                let resets = &mut memory.get_or_insert_default().resets;
                resets.extend(sum.codes.iter().map(|(code, count)| ((index, *code), *count)));
            }
            Some(Kind::Gauge | Kind::Histogram(_) | Kind::Text) | None => {}
        }
    }
}

fn sum_group(group: &dyn super::shard::AnyGroup, sums: &mut Vec<Sum>, with_bins: bool) {
    sums.clear();
    sums.resize_with(group.stats().len(), Sum::default);
    group.visit(&mut |index, cell| {
        if let Some(sum) = sums.get_mut(index) {
            sum.add(cell, with_bins);
        }
    });
}

fn flush_group(member: &mut GroupMember) {
    let histograms = member.group.stats().iter().any(|stat| matches!(stat.kind, Kind::Histogram(_)));
    if !histograms {
        return;
    }
    let mut sums = Vec::new();
    sum_group(member.group.as_ref(), &mut sums, true);
    for (index, sum) in sums.into_iter().enumerate().filter(|(_, sum)| !sum.bins.is_empty()) {
        merge(&mut member.memory, index, sum.bins);
    }
}

fn flush_one_off(member: &mut OneOffMember) {
    if let OneOffCell::Histogram(_, cell) = &member.cell {
        let mut sum = Sum::default();
        sum.add(Cell::Histogram(cell.as_histogram()), true);
        if !sum.bins.is_empty() {
            merge(&mut member.memory, 0, sum.bins);
        }
    }
}

fn merge(memory: &mut Option<Box<ReaderMemory>>, index: usize, current: Bins) {
    let merged = memory.get_or_insert_default().histograms.entry(index).or_default();
    merged.interval = current.since(&merged.cumulative);
    merged.cumulative = current;
}

fn visit_group(
    prefix: &str,
    member: &mut GroupMember,
    settings: &Settings,
    scratch: &mut Scratch,
    visitor: &mut dyn FnMut(Metric<'_>),
) {
    let stats = member.group.stats();
    if !settings.matcher.accepts_all() {
        accept(prefix, stats, &mut member.memory, settings, &mut scratch.name);
    }
    sum_group(member.group.as_ref(), &mut scratch.sums, false);
    let memory = member.memory.as_deref();
    for (index, (stat, sum)) in stats.iter().zip(&scratch.sums).enumerate() {
        if stat.kind == Kind::Codes {
            visit_codes(prefix, index, stat, sum, memory, settings, &mut scratch.name, visitor);
            continue;
        }
        let accepted =
            memory.and_then(|memory| memory.accepted.as_deref()?.get(index)).is_none_or(|kept| *kept);
        if !accepted || (stat.visibility == Visibility::OnDemand && !sum.used) {
            continue;
        }
        join(&mut scratch.name, prefix, stat.name);
        let hidden = stat.visibility == Visibility::Hidden;
        visitor(metric(&scratch.name, index, stat.kind, sum, memory, hidden));
    }
}

fn visit_one_off(
    scope: &Scope,
    name: &str,
    member: &mut OneOffMember,
    settings: &Settings,
    scratch: &mut Scratch,
    visitor: &mut dyn FnMut(Metric<'_>),
) {
    join(&mut scratch.name, scope.prefix(), name);
    if !settings.matcher.accepts(&scratch.name) {
        return;
    }
    let (kind, cell) = match &member.cell {
        OneOffCell::Counter(cell) => (Kind::Counter, Cell::SharedCounter(cell)),
        OneOffCell::Gauge(cell) => (Kind::Gauge, Cell::SharedGauge(cell)),
        OneOffCell::Histogram(unit, cell) => (Kind::Histogram(*unit), Cell::Histogram(cell.as_histogram())),
        OneOffCell::Text(cell) => (Kind::Text, Cell::Text(cell)),
    };
    let mut sum = Sum::default();
    sum.add(cell, false);
    let mut metric = metric(&scratch.name, 0, kind, &sum, member.memory.as_deref(), false);
    metric.labelled = member.labelled.as_deref();
    visitor(metric);
}

fn metric<'a>(
    name: &'a str,
    index: usize,
    kind: Kind,
    sum: &'a Sum,
    memory: Option<&'a ReaderMemory>,
    hidden: bool,
) -> Metric<'a> {
    let mut used = sum.used;
    let value = match kind {
        Kind::Counter | Kind::Codes => Value::Counter(since_reset(memory, (index, COMPLETED), sum.total)),
        Kind::Gauge => Value::Gauge(sum.total),
        Kind::Text => Value::Text(sum.text.as_deref().unwrap_or_default()),
        Kind::Histogram(unit) => {
            let merged = memory.and_then(|memory| memory.histograms.get(&index));
            used = merged.is_some();
            let (interval, cumulative) =
                merged.map_or((&NOTHING, &NOTHING), |merged| (&merged.interval, &merged.cumulative));
            Value::Histogram(HistogramView { unit, interval, cumulative })
        }
    };
    Metric { name, labelled: None, value, used, hidden }
}

fn since_reset(memory: Option<&ReaderMemory>, key: (usize, u16), count: u64) -> u64 {
    let reset = memory.and_then(|memory| memory.resets.get(&key)).copied().unwrap_or(0);
    count.saturating_sub(reset)
}

#[expect(clippy::too_many_arguments, reason = "one step of visit_group, split for length")]
fn visit_codes(
    prefix: &str,
    index: usize,
    stat: &StatDef,
    sum: &Sum,
    memory: Option<&ReaderMemory>,
    settings: &Settings,
    name: &mut String,
    visitor: &mut dyn FnMut(Metric<'_>),
) {
    let never = [(COMPLETED, 0)];
    let shown_unused = stat.visibility == Visibility::Always && sum.codes.is_empty();
    let unused = shown_unused.then_some(never).into_iter().flatten();
    for (code, count) in sum.codes.iter().map(|(code, count)| (*code, *count)).chain(unused) {
        join(name, prefix, stat.name);
        match code {
            COMPLETED => name.push_str("_completed"),
            1..=5 => name.push_str(&format!("_{code}xx")),
            _ => name.push_str(&format!("_{code}")),
        }
        if settings.matcher.accepts(name) {
            let value = Value::Counter(since_reset(memory, (index, code), count));
            let hidden = stat.visibility == Visibility::Hidden;
            visitor(Metric { name, labelled: None, value, used: sum.used, hidden });
        }
    }
}

/// Asks the matcher about each statistic of a group, once in the group's life.
fn accept(
    prefix: &str,
    stats: &[StatDef],
    memory: &mut Option<Box<ReaderMemory>>,
    settings: &Settings,
    name: &mut String,
) {
    let memory = memory.get_or_insert_default();
    if memory.accepted.is_none() {
        let accepts = |stat: &StatDef| {
            join(name, prefix, stat.name);
            settings.matcher.accepts(name)
        };
        memory.accepted = Some(stats.iter().map(accepts).collect());
    }
}

fn join(name: &mut String, prefix: &str, suffix: &str) {
    name.clear();
    if !prefix.is_empty() {
        name.push_str(prefix);
        name.push('.');
    }
    name.push_str(suffix);
}
