//! The process around the data plane: configuration in, workers out, admin beside.

pub mod admin;
pub mod base_id;
pub mod bootstrap;
pub mod cli;
pub mod core_dumps;
mod disabled;
pub mod fields;
mod flushing;
pub mod logging;
pub mod memory;
pub mod overload;
pub mod panics;
pub mod process;
pub mod server;
pub mod xds;
