//! What a reader wants to see: the query parameters of `/stats`.

use super::read::{Metric, Value};
use crate::matcher::regex::Search;

/// Which kinds of statistics (`type=`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum KindFilter {
    /// All of them.
    #[default]
    All,
    /// Counters.
    Counters,
    /// Gauges.
    Gauges,
    /// Histograms.
    Histograms,
    /// Text readouts.
    TextReadouts,
}

/// What becomes of hidden statistics (`hidden=`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum HiddenFilter {
    /// They are not shown.
    #[default]
    Exclude,
    /// They are shown too.
    Include,
    /// Nothing else is shown.
    Only,
}

/// How histograms are shown (`histogram_buckets=`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum BucketMode {
    /// Quantiles in text and JSON, cumulative buckets for Prometheus.
    #[default]
    Unset,
    /// Quantiles.
    Summary,
    /// Values at or below each bound.
    Cumulative,
    /// Values in each bucket.
    Disjoint,
    /// Bins and quantiles.
    Detailed,
}

/// A selection of statistics and how to show them.
#[derive(Clone, Debug, Default)]
pub struct Selection {
    /// Only those that were written (`usedonly`).
    pub used_only: bool,
    /// Only those whose full name holds a match (`filter`).
    pub filter: Option<Search>,
    /// Only those whose name holds none (`invert_filter`).
    pub invert_filter: bool,
    /// Only of that kind.
    pub kind: KindFilter,
    /// Hidden ones.
    pub hidden: HiddenFilter,
    /// How to show histograms.
    pub buckets: BucketMode,
    /// Text readouts as gauges of 0 for Prometheus (`text_readouts`).
    pub text_readouts: bool,
}

impl Selection {
    pub(super) fn wants(&self, metric: &Metric<'_>) -> bool {
        let hidden = match self.hidden {
            HiddenFilter::Exclude => !metric.hidden,
            HiddenFilter::Include => true,
            HiddenFilter::Only => metric.hidden,
        };
        let kind = match self.kind {
            KindFilter::All => true,
            KindFilter::Counters => matches!(metric.value, Value::Counter(_)),
            KindFilter::Gauges => matches!(metric.value, Value::Gauge(_)),
            KindFilter::Histograms => matches!(metric.value, Value::Histogram(_)),
            KindFilter::TextReadouts => matches!(metric.value, Value::Text(_)),
        };
        let named = self
            .filter
            .as_ref()
            .is_none_or(|filter| filter.is_match(metric.name.as_bytes()) != self.invert_filter);
        hidden && kind && (metric.used || !self.used_only) && named
    }
}
