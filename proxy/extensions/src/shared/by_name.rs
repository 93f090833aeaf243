//! Counters of things whose names are known only when something happens to them.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};

use proxy_core::stats::{Cells, Registry, Scope, ShardedGroup};

/// Counters by name. They come with the first that happens: the lock is written then and read otherwise.
pub struct ByName<G> {
    place: Place,
    known: RwLock<HashMap<Box<str>, Cells<G>>>,
}

/// Where the counters of a name are.
enum Place {
    /// In a scope of that name.
    Within(Scope),
    /// Between these.
    Around { stats: Arc<Registry>, before: &'static str, after: String },
}

impl<G: ShardedGroup> ByName<G> {
    /// In scopes within `scope`.
    pub fn new(scope: Scope) -> Self {
        Self { place: Place::Within(scope), known: RwLock::default() }
    }

    /// In scopes named `<before>.<name>.<after>`.
    pub fn around(stats: Arc<Registry>, before: &'static str, after: String) -> Self {
        Self { place: Place::Around { stats, before, after }, known: RwLock::default() }
    }

    /// Counts something of `name`.
    pub fn with(&self, name: &str, count: impl Fn(&G)) {
        if let Some(cells) = self.known.read().unwrap_or_else(PoisonError::into_inner).get(name) {
            return count(cells.here());
        }
        let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
        count(known.entry(name.into()).or_insert_with(|| self.place.cells(name)).here());
    }
}

impl Place {
    fn cells<G: ShardedGroup>(&self, name: &str) -> Cells<G> {
        match self {
            Self::Within(scope) => scope.child(name).cells(),
            Self::Around { stats, before, after } => stats.scope(&format!("{before}.{name}.{after}")).cells(),
        }
    }
}
