//! What configurations that come one after the other share: state that outlives the update of what holds it.
//!
//! It lives for as long as one of them does. Whoever builds a configuration asks for it by key, before the one that it replaces is gone.
//! Source: Envoy `envoy/singleton/manager.h`.

use std::any::{Any, TypeId};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};

/// State by its type and a key.
#[derive(Debug, Default)]
pub struct Kept(Mutex<HashMap<Key, Weak<State>>>);

type Key = (TypeId, Box<str>);
type State = dyn Any + Send + Sync;

impl Kept {
    /// What somebody holds under `key`, or else what `make` makes.
    pub fn share<T: Send + Sync + 'static>(&self, key: &str, make: impl FnOnce() -> T) -> Arc<T> {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|_, held| held.strong_count() > 0);
        let key = (TypeId::of::<T>(), key.into());
        if let Some(held) = all.get(&key).and_then(Weak::upgrade).and_then(|held| held.downcast().ok()) {
            return held;
        }
        let made = Arc::new(make());
        let held: Arc<State> = made.clone();
        all.insert(key, Arc::downgrade(&held));
        made
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn state_is_shared_as_long_as_somebody_holds_it() {
        let kept = Kept::default();
        let first = kept.share("a", || 1_u8);
        assert_eq!(*kept.share("a", || 2_u8), 1);
        assert_eq!(*kept.share("b", || 3_u8), 3);
        assert_eq!(*kept.share("a", || 4_u16), 4);
        drop(first);
        assert_eq!(*kept.share("a", || 5_u8), 5);
    }
}
