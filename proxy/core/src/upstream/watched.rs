//! Data that picks look at. Tests count the looks, so that they can say how much work a pick is; else this is the data and nothing more.

#[cfg(test)]
pub use counted::*;
#[cfg(not(test))]
pub use plain::*;

#[cfg(not(test))]
mod plain {
    /// What is looked at.
    pub type Watched<T> = T;

    /// Data that is looked at.
    pub const fn watched<T>(data: T) -> Watched<T> {
        data
    }
}

#[cfg(test)]
mod counted {
    use std::cell::Cell;
    use std::ops::{AddAssign, Deref};

    thread_local! {
        static LOOKS: Cell<u64> = const { Cell::new(0) };
    }

    /// How often this thread has looked at any such data.
    pub fn looks() -> u64 {
        LOOKS.get()
    }

    /// What is looked at.
    #[derive(Debug, Default)]
    pub struct Watched<T>(T);

    /// Data that is looked at.
    pub const fn watched<T>(data: T) -> Watched<T> {
        Watched(data)
    }

    impl<T> Deref for Watched<T> {
        type Target = T;
        fn deref(&self) -> &T {
            LOOKS.set(LOOKS.get() + 1);
            &self.0
        }
    }

    impl AddAssign<f64> for Watched<f64> {
        fn add_assign(&mut self, more: f64) {
            self.0 += more;
        }
    }
}
