//! Access logs.

pub mod file;
pub mod stream;
