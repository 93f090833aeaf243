//! What is wanted of one type: names, the wildcard among them, and until when the first answer is awaited.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use crate::resource::WILDCARD;

/// The names wanted of one type. The wildcard is the name `*`.
#[derive(Debug, Default)]
pub(crate) struct Interest {
    /// The name and the end of its initial fetch timeout, while it runs.
    names: BTreeMap<String, Option<Instant>>,
    /// The earliest end of them all, or an earlier moment; `None` if none runs.
    earliest: Option<Instant>,
}

impl Interest {
    pub(crate) fn is_empty(&self) -> bool {
        self.names.is_empty()
    }

    pub(crate) fn is_wildcard(&self) -> bool {
        self.names.contains_key(WILDCARD)
    }

    /// Whether only the wildcard is wanted.
    pub(crate) fn is_only_wildcard(&self) -> bool {
        self.names.len() == 1 && self.is_wildcard()
    }

    /// Whether a resource of this name is wanted, by its name or by the wildcard.
    pub(crate) fn wants(&self, name: &str) -> bool {
        self.is_wildcard() || self.names.contains_key(name)
    }

    /// Whether the name itself was asked for.
    pub(crate) fn contains(&self, name: &str) -> bool {
        self.names.contains_key(name)
    }

    /// All names in order, the wildcard included.
    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        self.names.keys().map(String::as_str)
    }

    /// Adds a name; `timeout` of zero waits for ever. False if it was there.
    pub(crate) fn add(&mut self, name: &str, now: Instant, timeout: Duration) -> bool {
        if self.names.contains_key(name) {
            return false;
        }
        let deadline = if timeout.is_zero() { None } else { now.checked_add(timeout) };
        self.names.insert(name.to_owned(), deadline);
        self.earliest = [self.earliest, deadline].into_iter().flatten().min();
        true
    }

    /// Removes a name. False if it was not there.
    pub(crate) fn remove(&mut self, name: &str) -> bool {
        self.names.remove(name).is_some()
    }

    /// The name was answered: its timeout no longer runs.
    pub(crate) fn answered(&mut self, name: &str) {
        if let Some(deadline) = self.names.get_mut(name) {
            *deadline = None;
        }
    }

    /// Everything was answered, be it by a rejected response.
    pub(crate) fn all_answered(&mut self) {
        if self.earliest.take().is_some() {
            self.names.values_mut().for_each(|deadline| *deadline = None);
        }
    }

    /// When to call [`Interest::expired`] next; possibly earlier than a name expires, never later.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.earliest
    }

    /// The names whose timeout has ended by now; each is told once.
    pub(crate) fn expired(&mut self, now: Instant) -> Vec<String> {
        if self.earliest.is_none_or(|earliest| earliest > now) {
            return Vec::new();
        }
        let mut expired = Vec::new();
        self.earliest = None;
        for (name, slot) in &mut self.names {
            match *slot {
                Some(deadline) if deadline <= now => {
                    expired.push(name.clone());
                    *slot = None;
                }
                Some(deadline) => self.earliest = [self.earliest, Some(deadline)].into_iter().flatten().min(),
                None => {}
            }
        }
        expired
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timeouts_end_once_and_only_for_the_unanswered() {
        let start = Instant::now();
        let second = Duration::from_secs(1);
        let mut interest = Interest::default();
        assert!(interest.add("a", start, second));
        assert!(!interest.add("a", start, second * 9));
        interest.add("b", start, second * 2);
        interest.add("forever", start, Duration::ZERO);
        interest.add("answered", start, second);
        interest.answered("answered");
        assert_eq!(interest.deadline(), Some(start + second));
        assert_eq!(interest.expired(start), Vec::<String>::new());
        assert_eq!(interest.expired(start + second), ["a"]);
        assert_eq!(interest.deadline(), Some(start + second * 2));
        interest.all_answered();
        assert_eq!(interest.expired(start + second * 60), Vec::<String>::new());
        assert_eq!(interest.deadline(), None);
    }

    #[test]
    fn the_wildcard_wants_every_name() {
        let mut interest = Interest::default();
        interest.add("a", Instant::now(), Duration::ZERO);
        assert!(!interest.wants("b") && interest.wants("a") && !interest.is_wildcard());
        interest.add(WILDCARD, Instant::now(), Duration::ZERO);
        assert!(interest.wants("b") && !interest.contains("b") && !interest.is_only_wildcard());
        interest.remove("a");
        assert!(interest.is_only_wildcard());
    }
}
