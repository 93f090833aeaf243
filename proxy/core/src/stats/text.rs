//! `/stats` as text: text readouts, then counters and gauges, then histograms, each part sorted by name.

use std::fmt::Write as _;

use super::bins::{Bins, QUANTILES, bin_bounds};
use super::number::{general, plain};
use super::read::{HistogramView, Value};
use super::registry::Registry;
use super::select::{BucketMode, Selection};

/// Statistics as text, one a line.
pub fn render(registry: &Registry, selection: &Selection) -> String {
    let (mut texts, mut numbers, mut histograms) = (Vec::new(), Vec::new(), Vec::new());
    registry.visit(&mut |metric| {
        if !selection.wants(&metric) {
            return;
        }
        let name = metric.name;
        match metric.value {
            Value::Text(text) => texts.push((name.to_owned(), format!("\"{text}\""))),
            Value::Counter(value) | Value::Gauge(value) => numbers.push((name.to_owned(), value)),
            Value::Histogram(view) => {
                let shown = if metric.used {
                    histogram(view, selection.buckets, registry.settings().buckets(name))
                } else {
                    " No recorded values".to_owned()
                };
                histograms.push((name.to_owned(), shown));
            }
        }
    });
    let mut out = String::new();
    texts.sort();
    for (name, text) in texts {
        let _ = writeln!(out, "{name}: {text}");
    }
    numbers.sort();
    for (name, value) in numbers {
        let _ = writeln!(out, "{name}: {value}");
    }
    histograms.sort();
    for (name, shown) in histograms {
        let _ = writeln!(out, "{name}:{shown}");
    }
    out
}

/// What stands after the colon.
fn histogram(view: HistogramView<'_>, mode: BucketMode, bounds: &[f64]) -> String {
    match mode {
        BucketMode::Unset | BucketMode::Summary => format!(" {}", summary(view)),
        BucketMode::Cumulative => buckets(view, bounds, |counts| counts),
        BucketMode::Disjoint => buckets(view, bounds, disjoint),
        BucketMode::Detailed => format!(
            "\n  totals={}\n  intervals={}\n  summary={}",
            bins(view.cumulative, view.scale()),
            bins(view.interval, view.scale()),
            summary(view)
        ),
    }
}

fn summary(view: HistogramView<'_>) -> String {
    let interval = view.interval.quantiles(view.scale());
    let cumulative = view.cumulative.quantiles(view.scale());
    let shown = QUANTILES.iter().zip(interval.into_iter().zip(cumulative)).map(
        |(quantile, (interval, cumulative))| {
            format!("P{}({},{})", general(quantile * 100.0, 6), plain(interval), plain(cumulative))
        },
    );
    shown.collect::<Vec<_>>().join(" ")
}

fn buckets(view: HistogramView<'_>, bounds: &[f64], shape: impl Fn(Vec<u64>) -> Vec<u64>) -> String {
    let interval = shape(view.interval.at_or_below(bounds, view.scale()));
    let cumulative = shape(view.cumulative.at_or_below(bounds, view.scale()));
    let mut out = String::new();
    for (bound, (interval, cumulative)) in bounds.iter().zip(interval.into_iter().zip(cumulative)) {
        let _ = write!(out, " B{}({interval},{cumulative})", general(*bound, 6));
    }
    out
}

/// What each bucket holds by itself.
pub(super) fn disjoint(counts: Vec<u64>) -> Vec<u64> {
    let mut before = 0;
    counts.into_iter().map(|count| count - std::mem::replace(&mut before, count)).collect()
}

fn bins(bins: &Bins, scale: f64) -> String {
    let shown = bins.iter().map(|(index, count)| {
        let (lower, width) = bin_bounds(index);
        format!("{},{}:{count}", plain(lower * scale), plain(width * scale))
    });
    shown.collect::<Vec<_>>().join(", ")
}
