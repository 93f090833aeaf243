//! Statistics with Envoy's names, types and tags, at nearly no cost.
//!
//! A *group* is a struct of cells declared by [`stats!`](macro@crate::stats). Groups are registered in a [`Scope`], which owns
//! a name prefix such as `cluster.foo`; the [`Registry`] holds every scope of the process.
//!
//! * A `sharded` group has one copy per thread ([`Cells`]), created when that thread first touches it and written only
//!   by it: an increment is a relaxed load and a relaxed store, without lock, read-modify-write or hashing.
//! * A `shared` group has one copy ([`Shared`]) that any thread may write with atomic operations. It is for what
//!   changes rarely: membership, configuration updates, server state.
//! * Readers (admin, sinks) sum the shards and never write to them. A group that nobody touched costs a few dozen
//!   bytes, and is shown with zeros from its static table of names.
//!
//! Names, kinds and formats follow Envoy's "statistics overview" and the admin interface's `/stats`.

mod bins;
mod cell;
mod codes;
mod group;
pub mod groups;
mod histogram;
pub mod json;
mod matcher;
mod number;
pub mod prometheus;
mod read;
mod registry;
mod select;
mod settings;
mod shard;
mod tagged;
mod tags;
pub mod text;

pub use bins::{Bins, DEFAULT_BUCKETS, QUANTILES, bin_bounds, bin_index};
pub use cell::{Counter, Gauge, SharedCounter, SharedGauge, Text};
pub use codes::Codes;
pub use group::{Cell, Group, Kind, ShardedGroup, SharedGroup, StatDef, Unit, Visibility};
pub use histogram::{Histogram, SharedHistogram};
pub use read::{HistogramView, Metric, Value};
pub use registry::{KeptElsewhere, OneOff, Registry, Scope, sanitize};
pub use select::{BucketMode, HiddenFilter, KindFilter, Selection};
pub use settings::Settings;
pub use shard::{Cells, ShardId, Shared, set_shard};
pub use tagged::Labelled;
pub use tags::{Tag, TagProducer};

#[cfg(test)]
mod exposition_tests;
#[cfg(test)]
mod tests;
