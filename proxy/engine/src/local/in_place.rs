//! Large values on the heap, made where they stay.
//!
//! `Box::new` makes a value first and moves it then. Of a future that has not begun, that is kilobytes of which a few hundred octets
//! mean anything; here the memory comes first, and the compiler writes only these.

use std::pin::Pin;

/// What `make` makes, on the heap.
#[inline(always)]
pub(crate) fn boxed<T>(make: impl FnOnce() -> T) -> Box<T> {
    Box::write(Box::new_uninit(), make())
}

/// The future that `make` makes, on the heap.
#[inline(always)]
pub(crate) fn pinned<F: Future>(make: impl FnOnce() -> F) -> Pin<Box<F>> {
    Box::into_pin(boxed(make))
}
