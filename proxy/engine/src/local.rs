//! Primitives that belong to one worker thread and never leave it: clock, timers, buffers, tasks.

pub mod buffers;
pub mod clock;
pub(crate) mod contain;
pub mod dispatcher;
pub mod drain;
pub mod header_maps;
pub(crate) mod heavy;
pub(crate) mod in_place;
pub mod overload;
pub(crate) mod read_map;
pub mod reduced;
pub mod timers;
pub mod watchdog;
