//! What is asked of each source: derived from the graph, told as differences.

use std::collections::BTreeMap;
use std::time::Duration;

use super::{Effect, Kind, SourceId};

/// The names asked for, with the timeout of each, by source and kind.
#[derive(Debug, Default)]
pub(super) struct Interest(BTreeMap<(SourceId, Kind), BTreeMap<String, Duration>>);

impl Interest {
    pub(super) fn want(&mut self, source: SourceId, kind: Kind, name: &str, timeout: Duration) {
        self.0.entry((source, kind)).or_default().entry(name.to_owned()).or_insert(timeout);
    }

    /// The way from what was wanted to `self`: subscriptions in the order of the kinds, then what is no longer wanted.
    pub(super) fn differences(&self, before: &Self, effects: &mut Vec<Effect>) {
        for (&(source, kind), names) in &self.0 {
            let old = before.0.get(&(source, kind));
            let mut added: BTreeMap<Duration, Vec<String>> = BTreeMap::new();
            for (name, timeout) in names {
                if !old.is_some_and(|old| old.contains_key(name)) {
                    added.entry(*timeout).or_default().push(name.clone());
                }
            }
            for (timeout, names) in added {
                effects.push(Effect::Subscribe { source, kind, names, timeout });
            }
        }
        for (&(source, kind), old) in &before.0 {
            let wanted = self.0.get(&(source, kind));
            let gone = old.keys().filter(|name| !wanted.is_some_and(|wanted| wanted.contains_key(*name)));
            let names: Vec<String> = gone.cloned().collect();
            if !names.is_empty() {
                effects.push(Effect::Unsubscribe { source, kind, names });
            }
            if wanted.is_none() {
                effects.push(Effect::Close { source, kind });
            }
        }
    }
}
