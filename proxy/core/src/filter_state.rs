//! Typed values that filters leave for each other on a connection or a stream (`envoy::StreamInfo::FilterState`).

use std::any::Any;
use std::fmt;
use std::rc::Rc;

/// A value in the filter state.
pub trait FilterStateValue: Any {
    /// The value as text, what `%FILTER_STATE(key:PLAIN)%` prints; `None` if it has no text form.
    fn to_text(&self) -> Option<String>;
    /// The value as JSON, what `%FILTER_STATE(key:TYPED)%` prints; `None` if it has no such form.
    fn to_json(&self) -> Option<String> {
        None
    }
    /// One field of the value as text, what `%FILTER_STATE(key:FIELD:name)%` prints; `None` if there is no such field.
    fn field(&self, _name: &str) -> Option<String> {
        None
    }
    /// The value, if it is one of yes and no; `None` if it is of another kind.
    fn as_bool(&self) -> Option<bool> {
        None
    }
    /// The value, if it is a number; `None` if it is of another kind.
    fn as_number(&self) -> Option<u64> {
        None
    }
    /// What hash policies make of the value; `None` if it cannot be hashed.
    fn hash(&self) -> Option<u64> {
        None
    }
    /// For downcasting.
    fn as_any(&self) -> &dyn Any;
}

/// Values by key. Few entries, a vector beats a map; mostly none, and then a pointer is all that a connection holds.
#[derive(Clone, Default)]
pub struct FilterState(Option<Box<Entries>>);

type Entries = Vec<(Rc<str>, Rc<dyn FilterStateValue>)>;

impl FilterState {
    /// Sets `key`, replacing an earlier value.
    pub fn set(&mut self, key: &str, value: Rc<dyn FilterStateValue>) {
        let entries = self.0.get_or_insert_default();
        match entries.iter_mut().find(|(name, _)| &**name == key) {
            Some((_, old)) => *old = value,
            None => entries.push((key.into(), value)),
        }
    }

    /// Takes over what `other` has.
    pub fn extend(&mut self, other: Self) {
        for (key, value) in other.0.into_iter().flat_map(|entries| *entries) {
            self.set(&key, value);
        }
    }

    /// The value of `key`.
    pub fn get(&self, key: &str) -> Option<&dyn FilterStateValue> {
        self.find(key).map(|value| &**value)
    }

    /// The value of `key`, to keep.
    pub fn get_shared(&self, key: &str) -> Option<Rc<dyn FilterStateValue>> {
        self.find(key).cloned()
    }

    fn find(&self, key: &str) -> Option<&Rc<dyn FilterStateValue>> {
        self.0.as_ref()?.iter().find(|(name, _)| &**name == key).map(|(_, value)| value)
    }
}

impl fmt::Debug for FilterState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.0.iter().flat_map(|entries| entries.iter()).map(|(key, _)| key)).finish()
    }
}
