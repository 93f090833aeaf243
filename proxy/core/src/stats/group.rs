//! Groups: structs of cells with a static table of their names, and the macro that declares them.

use super::{Codes, Counter, Gauge, Histogram, SharedCounter, SharedGauge, SharedHistogram, Text};

/// What a statistic is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A number that only grows.
    Counter,
    /// A number that goes up and down.
    Gauge,
    /// A distribution of whole numbers.
    Histogram(Unit),
    /// A text.
    Text,
    /// Response codes: counters `<name>_<code>`, `<name>_<n>xx` and `<name>_completed`.
    Codes,
}

/// What a histogram measures (Envoy's `Histogram::Unit`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    /// Bytes.
    Bytes,
    /// Microseconds.
    Microseconds,
    /// Milliseconds.
    Milliseconds,
    /// Millionths of a percent as recorded, percent as shown.
    Percent,
    /// A plain number.
    Unspecified,
}

/// When a statistic is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Visibility {
    /// As soon as its group exists. For [`Kind::Codes`]: `<name>_completed` is.
    Always,
    /// Once it was written: Envoy creates it at that moment.
    OnDemand,
    /// Only when the reader asks for hidden ones.
    Hidden,
}

/// One entry of a group's table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StatDef {
    /// The name after the scope's prefix and a dot.
    pub name: &'static str,
    /// What it is.
    pub kind: Kind,
    /// When it is shown.
    pub visibility: Visibility,
}

/// A cell of some group, as [`Group::visit`] shows it.
#[derive(Clone, Copy, Debug)]
pub enum Cell<'a> {
    /// A counter of one shard.
    Counter(&'a Counter),
    /// A counter of a shared group.
    SharedCounter(&'a SharedCounter),
    /// One shard's share of a gauge.
    Gauge(&'a Gauge),
    /// A gauge of a shared group.
    SharedGauge(&'a SharedGauge),
    /// A histogram.
    Histogram(&'a Histogram),
    /// A text readout.
    Text(&'a Text),
    /// Response codes of one shard.
    Codes(&'a Codes),
}

macro_rules! cell_from {
    ($($cell:ident),*) => { $(
        impl<'a> From<&'a $cell> for Cell<'a> {
            fn from(cell: &'a $cell) -> Self {
                Cell::$cell(cell)
            }
        }
    )* };
}
cell_from!(Counter, SharedCounter, Gauge, SharedGauge, Histogram, Text, Codes);

impl<'a> From<&'a SharedHistogram> for Cell<'a> {
    fn from(cell: &'a SharedHistogram) -> Self {
        Cell::Histogram(cell.as_histogram())
    }
}

/// A struct of cells. Implemented by [`stats!`](macro@crate::stats) only.
pub trait Group: Default + Send + Sync + 'static {
    /// The statistics, in the order of the fields.
    const STATS: &'static [StatDef];

    /// Shows every cell, in the order of [`Self::STATS`].
    fn visit(&self, visitor: &mut dyn FnMut(Cell<'_>));
}

/// A group with one copy per thread, held by [`Cells`](super::Cells).
pub trait ShardedGroup: Group {}

/// A group with a single copy for all threads, held by [`Shared`](super::Shared).
pub trait SharedGroup: Group {}

/// Declares groups of statistics.
///
/// ```
/// proxy_core::stats! {
///     /// What a pool does.
///     pub sharded struct PoolStats {
///         /// Connections opened.
///         counter cx_total,
///         /// Connections open.
///         gauge cx_active,
///         /// A name with a dot in it.
///         counter http2_rx_reset = "http2.rx_reset",
///         /// Shown once recorded.
///         histogram rq_time (Milliseconds) [on_demand],
///         /// `upstream_rq_200`, `upstream_rq_2xx`, `upstream_rq_completed`, ...
///         codes upstream_rq,
///     }
///
///     /// What the main thread knows.
///     pub shared struct PoolState {
///         /// Written by anyone.
///         gauge open,
///         /// A text readout.
///         text version_text,
///     }
/// }
/// ```
///
/// `sharded` groups take `counter`, `gauge`, `histogram` and `codes`; `shared` ones take `counter`, `gauge`,
/// `histogram` and `text`. A histogram needs its [`Unit`]. A name may be followed by `[on_demand]` or `[hidden]`
/// ([`Visibility`]).
#[macro_export]
macro_rules! stats {
    ($(
        $(#[$group_meta:meta])*
        $vis:vis $mode:ident struct $group:ident {
            $( $(#[$meta:meta])* $kind:ident $field:ident $(= $name:literal)? $(($unit:ident))? $([$show:ident])? ),* $(,)?
        }
    )*) => { $(
        $(#[$group_meta])*
        #[derive(Debug, Default)]
        $vis struct $group {
            $( $(#[$meta])* $vis $field: $crate::__stats_cell!($mode $kind), )*
        }

        impl $crate::stats::Group for $group {
            const STATS: &'static [$crate::stats::StatDef] = &[
                $( $crate::stats::StatDef {
                    name: $crate::__stats_name!($field $($name)?),
                    kind: $crate::__stats_kind!($kind $($unit)?),
                    visibility: $crate::__stats_show!($($show)?),
                }, )*
            ];

            fn visit(&self, visitor: &mut dyn FnMut($crate::stats::Cell<'_>)) {
                $( visitor($crate::stats::Cell::from(&self.$field)); )*
            }
        }

        $crate::__stats_mode!($mode $group);
    )* };
}

#[doc(hidden)]
#[macro_export]
macro_rules! __stats_cell {
    (sharded counter) => {
        $crate::stats::Counter
    };
    (sharded gauge) => {
        $crate::stats::Gauge
    };
    (sharded histogram) => {
        $crate::stats::Histogram
    };
    (sharded codes) => {
        $crate::stats::Codes
    };
    (shared counter) => {
        $crate::stats::SharedCounter
    };
    (shared gauge) => {
        $crate::stats::SharedGauge
    };
    (shared histogram) => {
        $crate::stats::SharedHistogram
    };
    (shared text) => {
        $crate::stats::Text
    };
}

#[doc(hidden)]
#[macro_export]
macro_rules! __stats_name {
    ($field:ident) => {
        stringify!($field)
    };
    ($field:ident $name:literal) => {
        $name
    };
}

#[doc(hidden)]
#[macro_export]
macro_rules! __stats_kind {
    (counter) => {
        $crate::stats::Kind::Counter
    };
    (gauge) => {
        $crate::stats::Kind::Gauge
    };
    (histogram $unit:ident) => {
        $crate::stats::Kind::Histogram($crate::stats::Unit::$unit)
    };
    (text) => {
        $crate::stats::Kind::Text
    };
    (codes) => {
        $crate::stats::Kind::Codes
    };
}

#[doc(hidden)]
#[macro_export]
macro_rules! __stats_show {
    () => {
        $crate::stats::Visibility::Always
    };
    (on_demand) => {
        $crate::stats::Visibility::OnDemand
    };
    (hidden) => {
        $crate::stats::Visibility::Hidden
    };
}

#[doc(hidden)]
#[macro_export]
macro_rules! __stats_mode {
    (sharded $group:ident) => {
        impl $crate::stats::ShardedGroup for $group {}
    };
    (shared $group:ident) => {
        impl $crate::stats::SharedGroup for $group {}
    };
}
