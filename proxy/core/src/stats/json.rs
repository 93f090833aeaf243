//! `/stats?format=json`.

use std::fmt::Write as _;

use super::bins::{Bins, QUANTILES, bin_bounds};
use super::number::{general, json as number};
use super::read::{HistogramView, Value};
use super::registry::Registry;
use super::select::{BucketMode, Selection};
use super::text::disjoint;

/// Statistics as one JSON object: text readouts, counters and gauges by name, then all histograms in one element.
pub fn render(registry: &Registry, selection: &Selection) -> String {
    let (mut texts, mut numbers, mut histograms) = (Vec::new(), Vec::new(), Vec::new());
    registry.visit(&mut |metric| {
        if !selection.wants(&metric) {
            return;
        }
        let name = metric.name;
        match metric.value {
            Value::Text(text) => texts.push((name.to_owned(), text.to_owned())),
            Value::Counter(value) | Value::Gauge(value) => numbers.push((name.to_owned(), value)),
            Value::Histogram(view) => {
                let bounds = registry.settings().buckets(name);
                histograms.push((name.to_owned(), histogram(name, view, selection.buckets, bounds)));
            }
        }
    });
    texts.sort();
    numbers.sort();
    histograms.sort();
    let mut elements = Vec::with_capacity(texts.len() + numbers.len() + 1);
    elements.extend(
        texts.iter().map(|(name, text)| format!(r#"{{"name":{},"value":{}}}"#, quote(name), quote(text))),
    );
    elements
        .extend(numbers.iter().map(|(name, value)| format!(r#"{{"name":{},"value":{value}}}"#, quote(name))));
    if !histograms.is_empty() {
        let shown: Vec<&str> = histograms.iter().map(|(_, shown)| shown.as_str()).collect();
        elements.push(format!(r#"{{"histograms":{}}}"#, enclose(selection.buckets, &shown.join(","))));
    }
    format!(r#"{{"stats":[{}]}}"#, elements.join(","))
}

fn enclose(mode: BucketMode, histograms: &str) -> String {
    let percent: Vec<String> = QUANTILES.iter().map(|quantile| general(quantile * 100.0, 6)).collect();
    let percent = percent.join(",");
    match mode {
        BucketMode::Unset | BucketMode::Summary => {
            format!(r#"{{"supported_quantiles":[{percent}],"computed_quantiles":[{histograms}]}}"#)
        }
        BucketMode::Detailed => {
            format!(r#"{{"supported_percentiles":[{percent}],"details":[{histograms}]}}"#)
        }
        BucketMode::Cumulative | BucketMode::Disjoint => format!("[{histograms}]"),
    }
}

fn histogram(name: &str, view: HistogramView<'_>, mode: BucketMode, bounds: &[f64]) -> String {
    let name = quote(name);
    match mode {
        BucketMode::Unset | BucketMode::Summary => {
            format!(r#"{{"name":{name},"values":[{}]}}"#, quantiles(view))
        }
        BucketMode::Cumulative => buckets(&name, view, bounds, |counts| counts),
        BucketMode::Disjoint => buckets(&name, view, bounds, disjoint),
        BucketMode::Detailed => format!(
            r#"{{"name":{name},"totals":[{}],"intervals":[{}],"percentiles":[{}]}}"#,
            bins(view.cumulative, view.scale()),
            bins(view.interval, view.scale()),
            quantiles(view)
        ),
    }
}

fn quantiles(view: HistogramView<'_>) -> String {
    let interval = view.interval.quantiles(view.scale());
    let cumulative = view.cumulative.quantiles(view.scale());
    let shown = interval.into_iter().zip(cumulative).map(|(interval, cumulative)| {
        format!(r#"{{"cumulative":{},"interval":{}}}"#, number(cumulative), number(interval))
    });
    shown.collect::<Vec<_>>().join(",")
}

fn buckets(
    name: &str,
    view: HistogramView<'_>,
    bounds: &[f64],
    shape: impl Fn(Vec<u64>) -> Vec<u64>,
) -> String {
    let interval = shape(view.interval.at_or_below(bounds, view.scale()));
    let cumulative = shape(view.cumulative.at_or_below(bounds, view.scale()));
    let shown =
        bounds.iter().zip(interval.into_iter().zip(cumulative)).map(|(bound, (interval, cumulative))| {
            let bound = number(*bound);
            format!(r#"{{"upper_bound":{bound},"interval":{interval},"cumulative":{cumulative}}}"#)
        });
    format!(r#"{{"name":{name},"buckets":[{}]}}"#, shown.collect::<Vec<_>>().join(","))
}

fn bins(bins: &Bins, scale: f64) -> String {
    let shown = bins.iter().map(|(index, count)| {
        let (lower, width) = bin_bounds(index);
        let (lower, width) = (number(lower * scale), number(width * scale));
        format!(r#"{{"lower_bound":{lower},"width":{width},"count":{count}}}"#)
    });
    shown.collect::<Vec<_>>().join(",")
}

fn quote(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            c if c.is_control() => {
                let _ = write!(out, "\\u{:04x}", u32::from(c));
            }
            c => out.push(c),
        }
    }
    out.push('"');
    out
}
