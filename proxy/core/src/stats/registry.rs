//! The registry of scopes, and the scopes that own groups and one-off statistics.
//!
//! Two owners that ask for the same prefix share one scope, and within it one copy of each group: the counters of a
//! cluster survive its update as long as the old or the new one lives, as in Envoy. When the last handle of a scope
//! goes, its statistics go.

use std::any::Any;
use std::collections::BTreeMap;
use std::ops::Deref;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use super::read::{Metric, ReaderMemory};
use super::settings::Settings;
use super::shard::{AnyGroup, Shards};
use super::tagged::Labelled;
use super::{
    Cells, ShardedGroup, Shared, SharedCounter, SharedGauge, SharedGroup, SharedHistogram, Text, Unit,
};

/// Every statistic of the process.
pub struct Registry {
    /// Copies that a sharded group has by number: the main thread and the workers.
    width: u16,
    settings: Settings,
    scopes: Mutex<BTreeMap<Arc<str>, Weak<ScopeInner>>>,
    /// Owner of the one-off statistics without a scope of their own.
    root: std::sync::OnceLock<Scope>,
    /// Who keeps further ones.
    elsewhere: std::sync::OnceLock<Weak<dyn KeptElsewhere>>,
}

/// Statistics that are kept elsewhere, and read only when all are: those of hosts. They are shown whatever `stats_matcher` says, as in Envoy.
pub trait KeptElsewhere: Send + Sync {
    /// Shows each.
    fn visit(&self, visitor: &mut dyn FnMut(Metric<'_>));
}

impl std::fmt::Debug for Registry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Registry").field("width", &self.width).finish_non_exhaustive()
    }
}

impl Registry {
    /// A registry for a process with that many workers (shards 1 to `workers`; 0 is the main thread).
    /// With default tags, no matcher and the default histogram buckets.
    pub fn new(workers: u16) -> Arc<Self> {
        Self::with_settings(workers, Settings::default())
    }

    /// A registry that shows its statistics as the bootstrap's `stats_config` says.
    pub fn with_settings(workers: u16, settings: Settings) -> Arc<Self> {
        Arc::new(Self {
            width: workers.saturating_add(1),
            settings,
            scopes: Mutex::default(),
            root: std::sync::OnceLock::new(),
            elsewhere: std::sync::OnceLock::new(),
        })
    }

    /// The scope with that prefix (no dot at the end), shared with everyone who holds it already.
    ///
    /// As in Envoy, `:` becomes `_` (`://` and `:/` as a whole), and so does NUL.
    pub fn scope(self: &Arc<Self>, prefix: &str) -> Scope {
        let prefix: Arc<str> = sanitize(prefix).into();
        let mut scopes = self.lock_scopes();
        if let Some(inner) = scopes.get(&*prefix).and_then(Weak::upgrade) {
            return Scope(inner);
        }
        let inner = Arc::new(ScopeInner {
            registry: Arc::downgrade(self),
            width: self.width,
            prefix: prefix.clone(),
            members: Mutex::default(),
        });
        scopes.insert(prefix, Arc::downgrade(&inner));
        Scope(inner)
    }

    /// A counter by its full name, which lives as long as the registry.
    pub fn counter(self: &Arc<Self>, name: &str) -> OneOff<SharedCounter> {
        self.root().counter(name)
    }

    /// A gauge by its full name, which lives as long as the registry.
    pub fn gauge(self: &Arc<Self>, name: &str) -> OneOff<SharedGauge> {
        self.root().gauge(name)
    }

    /// A histogram by its full name, which lives as long as the registry.
    pub fn histogram(self: &Arc<Self>, name: &str, unit: Unit) -> OneOff<SharedHistogram> {
        self.root().histogram(name, unit)
    }

    /// A text readout by its full name, which lives as long as the registry.
    pub fn text(self: &Arc<Self>, name: &str) -> OneOff<Text> {
        self.root().text(name)
    }

    /// Has `keeper` show what it keeps with all the others, as long as it is there. The first one is heard.
    pub fn show_too(&self, keeper: Weak<dyn KeptElsewhere>) {
        let _ = self.elsewhere.set(keeper);
    }

    pub(super) fn elsewhere(&self) -> Option<Arc<dyn KeptElsewhere>> {
        self.elsewhere.get()?.upgrade()
    }

    /// What the bootstrap's `stats_config` says.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// Every scope that is alive, by rising prefix.
    pub(super) fn live_scopes(&self) -> Vec<Scope> {
        self.lock_scopes().values().filter_map(Weak::upgrade).map(Scope).collect()
    }

    fn root(self: &Arc<Self>) -> &Scope {
        self.root.get_or_init(|| self.scope(""))
    }

    fn lock_scopes(&self) -> MutexGuard<'_, BTreeMap<Arc<str>, Weak<ScopeInner>>> {
        self.scopes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What Envoy does to a name that comes from configuration before it uses it in a statistic's name.
pub fn sanitize(name: &str) -> Box<str> {
    if name.contains([':', '\0']) {
        name.replace("://", "_").replace(":/", "_").replace([':', '\0'], "_").into()
    } else {
        name.into()
    }
}

/// A prefix and what is counted under it. Cheap to clone.
#[derive(Clone)]
pub struct Scope(pub(super) Arc<ScopeInner>);

pub(super) struct ScopeInner {
    registry: Weak<Registry>,
    width: u16,
    prefix: Arc<str>,
    members: Mutex<Members>,
}

#[derive(Default)]
pub(super) struct Members {
    pub(super) groups: Vec<GroupMember>,
    pub(super) one_offs: BTreeMap<Box<str>, OneOffMember>,
}

/// A group, and what its readers remember about it.
pub(super) struct GroupMember {
    pub(super) group: Arc<dyn AnyGroup>,
    pub(super) memory: Option<Box<ReaderMemory>>,
}

/// A statistic that is named at run time, and what its readers remember about it.
pub(super) struct OneOffMember {
    pub(super) cell: OneOffCell,
    pub(super) memory: Option<Box<ReaderMemory>>,
    /// Its labels, where they are not found in its name.
    pub(super) labelled: Option<Box<Labelled>>,
}

/// A statistic that is named at run time.
#[derive(Clone)]
pub(super) enum OneOffCell {
    Counter(Arc<SharedCounter>),
    Gauge(Arc<SharedGauge>),
    Histogram(Unit, Arc<SharedHistogram>),
    Text(Arc<Text>),
}

impl std::fmt::Debug for Scope {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Scope").field(&self.0.prefix).finish()
    }
}

impl Scope {
    /// The prefix, without a dot at the end.
    pub fn prefix(&self) -> &str {
        &self.0.prefix
    }

    /// The scope `<prefix>.<name>`.
    pub fn child(&self, name: &str) -> Self {
        let prefix =
            if self.prefix().is_empty() { name.to_owned() } else { format!("{}.{name}", self.prefix()) };
        match self.0.registry.upgrade() {
            Some(registry) => registry.scope(&prefix),
            // The registry is gone, so nobody can read: a scope that is not listed anywhere.
            None => Self(Arc::new(ScopeInner {
                registry: Weak::new(),
                width: self.0.width,
                prefix: sanitize(&prefix).into(),
                members: Mutex::default(),
            })),
        }
    }

    /// The group `G` with one copy per thread.
    pub fn cells<G: ShardedGroup>(&self) -> Cells<G> {
        Cells { inner: self.group(), scope: self.0.clone() }
    }

    /// The group `G` with one copy for all threads.
    pub fn shared<G: SharedGroup>(&self) -> Shared<G> {
        Shared { inner: self.group(), scope: self.0.clone() }
    }

    /// A counter that is named at run time.
    pub fn counter(&self, name: &str) -> OneOff<SharedCounter> {
        self.counter_with(sanitize(name), None)
    }

    pub(super) fn counter_with(&self, name: Box<str>, labelled: Option<Labelled>) -> OneOff<SharedCounter> {
        self.one_off(
            name,
            labelled,
            |cell| if let OneOffCell::Counter(cell) = cell { Some(cell) } else { None },
            OneOffCell::Counter,
        )
    }

    /// A gauge that is named at run time.
    pub fn gauge(&self, name: &str) -> OneOff<SharedGauge> {
        self.gauge_with(sanitize(name), None)
    }

    /// A gauge whose name is taken as it is, colons included.
    pub fn gauge_as_is(&self, name: &str) -> OneOff<SharedGauge> {
        self.gauge_with(name.into(), None)
    }

    pub(super) fn gauge_with(&self, name: Box<str>, labelled: Option<Labelled>) -> OneOff<SharedGauge> {
        self.one_off(
            name,
            labelled,
            |cell| if let OneOffCell::Gauge(cell) = cell { Some(cell) } else { None },
            OneOffCell::Gauge,
        )
    }

    /// A histogram that is named at run time.
    pub fn histogram(&self, name: &str, unit: Unit) -> OneOff<SharedHistogram> {
        self.histogram_with(sanitize(name), unit, None)
    }

    pub(super) fn histogram_with(
        &self,
        name: Box<str>,
        unit: Unit,
        labelled: Option<Labelled>,
    ) -> OneOff<SharedHistogram> {
        self.one_off(
            name,
            labelled,
            |cell| if let OneOffCell::Histogram(_, cell) = cell { Some(cell) } else { None },
            |cell| OneOffCell::Histogram(unit, cell),
        )
    }

    /// A text readout that is named at run time.
    pub fn text(&self, name: &str) -> OneOff<Text> {
        self.one_off(
            sanitize(name),
            None,
            |cell| if let OneOffCell::Text(cell) = cell { Some(cell) } else { None },
            OneOffCell::Text,
        )
    }

    fn group<G: super::Group>(&self) -> Arc<Shards<G>> {
        let mut members = self.0.lock_members();
        for member in &members.groups {
            let group: Arc<dyn Any + Send + Sync> = member.group.clone();
            if let Ok(group) = group.downcast::<Shards<G>>() {
                return group;
            }
        }
        let group = Arc::new(Shards::<G>::new(self.0.width));
        members.groups.push(GroupMember { group: group.clone(), memory: None });
        group
    }

    /// One name is one kind: the first to ask decides, later askers of another kind get a cell that nobody reads.
    fn one_off<T: Default>(
        &self,
        name: Box<str>,
        labelled: Option<Labelled>,
        select: impl FnOnce(OneOffCell) -> Option<Arc<T>>,
        wrap: impl FnOnce(Arc<T>) -> OneOffCell,
    ) -> OneOff<T> {
        let mut members = self.0.lock_members();
        let cell = match members.one_offs.get(&*name) {
            Some(known) => select(known.cell.clone()).unwrap_or_default(),
            None => {
                let cell = Arc::new(T::default());
                let labelled = labelled.map(Box::new);
                members
                    .one_offs
                    .insert(name, OneOffMember { cell: wrap(cell.clone()), memory: None, labelled });
                cell
            }
        };
        OneOff { cell, scope: self.0.clone() }
    }
}

impl ScopeInner {
    pub(super) fn prefix(&self) -> &str {
        &self.prefix
    }

    pub(super) fn lock_members(&self) -> MutexGuard<'_, Members> {
        self.members.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for ScopeInner {
    fn drop(&mut self) {
        let Some(registry) = self.registry.upgrade() else { return };
        let mut scopes = registry.lock_scopes();
        // Someone may have made a new scope of this name since the last handle went; that one stays.
        if scopes.get(&self.prefix).is_some_and(|entry| entry.strong_count() == 0) {
            scopes.remove(&self.prefix);
        }
    }
}

/// A handle on a statistic that is named at run time. Keeps its scope registered while it lives.
pub struct OneOff<T> {
    cell: Arc<T>,
    scope: Arc<ScopeInner>,
}

impl<T> Deref for OneOff<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.cell
    }
}

impl<T> Clone for OneOff<T> {
    fn clone(&self) -> Self {
        Self { cell: self.cell.clone(), scope: self.scope.clone() }
    }
}

impl<T> std::fmt::Debug for OneOff<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("OneOff").field(&self.scope.prefix()).finish()
    }
}
