//! State that each worker has for itself, in what all of them share: a lock that nobody else takes.

use std::cell::Cell;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Numbers for threads, in the order in which they ask.
static NEXT: AtomicUsize = AtomicUsize::new(0);

thread_local! {
    static NUMBER: Cell<Option<usize>> = const { Cell::new(None) };
}

/// One value for each worker. More threads than that share some.
#[derive(Debug)]
pub struct PerWorker<T>(Box<[Mutex<T>]>);

impl<T> PerWorker<T> {
    /// For so many workers.
    pub fn new(workers: usize, mut make: impl FnMut() -> T) -> Self {
        Self((0..workers.max(1)).map(|_| Mutex::new(make())).collect())
    }

    /// The calling thread's value.
    pub fn here(&self) -> MutexGuard<'_, T> {
        let number = NUMBER.get().unwrap_or_else(|| {
            let number = NEXT.fetch_add(1, Ordering::Relaxed);
            NUMBER.set(Some(number));
            number
        });
        self.0[number % self.0.len()].lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The values of all, one after the other.
    pub fn all(&self) -> impl Iterator<Item = MutexGuard<'_, T>> {
        self.0.iter().map(|value| value.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_meets_its_own_value_again() {
        let values = PerWorker::new(2, || 0);
        *values.here() += 1;
        *values.here() += 1;
        assert_eq!(*values.here(), 2);
        let sum: i32 = values.all().map(|value| *value).sum();
        assert_eq!(sum, 2);
    }
}
