//! `/stats/prometheus`: Prometheus' text exposition (version 0.0.4).
//!
//! A metric is named after the tag-extracted name, with `envoy_` before it and `_` for every byte that Prometheus does
//! not take; tags become labels. Counters come first, then gauges, text readouts and histograms, each sorted by
//! tag-extracted name and then by full name.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use super::bins::QUANTILES;
use super::number::general;
use super::read::{HistogramView, Value};
use super::registry::Registry;
use super::select::{BucketMode, Selection};
use super::tagged::Labelled;
use super::tags::TagProducer;

/// Why there is no Prometheus exposition of that kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("unsupported prometheus histogram bucket mode")]
pub struct UnsupportedBuckets;

/// One family of metrics: what it is called, and its lines by full name.
struct Family {
    name: String,
    lines: BTreeMap<String, String>,
}

#[derive(Default)]
struct Families {
    counters: BTreeMap<String, Family>,
    gauges: BTreeMap<String, Family>,
    texts: BTreeMap<String, Family>,
    histograms: BTreeMap<String, Family>,
}

/// Statistics in Prometheus' text format.
///
/// # Errors
/// When `histogram_buckets` is `disjoint` or `detailed`.
pub fn render(registry: &Registry, selection: &Selection) -> Result<String, UnsupportedBuckets> {
    let summary = match selection.buckets {
        BucketMode::Unset | BucketMode::Cumulative => false,
        BucketMode::Summary => true,
        BucketMode::Disjoint | BucketMode::Detailed => return Err(UnsupportedBuckets),
    };
    let producer = registry.settings().tags();
    let mut families = Families::default();
    registry.visit(&mut |metric| {
        if !selection.wants(&metric) || (matches!(metric.value, Value::Text(_)) && !selection.text_readouts) {
            return;
        }
        let (extracted, mut labels, metric_name) = match metric.labelled {
            Some(labelled) => {
                let name = match labelled.is_custom {
                    true => sanitize(&labelled.name),
                    false => metric_name(&labelled.name),
                };
                (labelled.name.to_string(), given_labels(producer, labelled), name)
            }
            None => {
                let (extracted, labels) = labels(producer, metric.name);
                let name = metric_name(&extracted);
                (extracted, labels, name)
            }
        };
        let (kind, lines) = match metric.value {
            Value::Counter(value) => (&mut families.counters, format!("{metric_name}{{{labels}}} {value}\n")),
            Value::Gauge(value) => (&mut families.gauges, format!("{metric_name}{{{labels}}} {value}\n")),
            Value::Text(text) => {
                push_label(&mut labels, "text_value", text);
                (&mut families.texts, format!("{metric_name}{{{labels}}} 0\n"))
            }
            Value::Histogram(view) => {
                let lines = if summary {
                    summary_lines(&metric_name, &labels, view)
                } else {
                    bucket_lines(&metric_name, &labels, view, registry.settings().buckets(metric.name))
                };
                (&mut families.histograms, lines)
            }
        };
        let family =
            kind.entry(extracted).or_insert_with(|| Family { name: metric_name, lines: BTreeMap::new() });
        family.lines.insert(metric.identity().into_owned(), lines);
    });
    let mut out = String::new();
    write_families(&mut out, "counter", &families.counters);
    write_families(&mut out, "gauge", &families.gauges);
    write_families(&mut out, "gauge", &families.texts);
    write_families(&mut out, if summary { "summary" } else { "histogram" }, &families.histograms);
    Ok(out)
}

fn write_families(out: &mut String, kind: &str, families: &BTreeMap<String, Family>) {
    for family in families.values() {
        let _ = writeln!(out, "# TYPE {} {kind}", family.name);
        for lines in family.lines.values() {
            out.push_str(lines);
        }
    }
}

fn metric_name(extracted: &str) -> String {
    format!("envoy_{}", sanitize(extracted))
}

/// Every byte but letters, digits and `_` becomes `_`.
fn sanitize(name: &str) -> String {
    name.bytes().map(|b| if b.is_ascii_alphanumeric() { char::from(b) } else { '_' }).collect()
}

/// The tag-extracted name and the labels, joined by commas.
fn labels(producer: &TagProducer, name: &str) -> (String, String) {
    let mut extracted_labels = String::new();
    let mut leading = String::new();
    let extracted = producer.extract(name, |tag| {
        let first = tag.name == TagProducer::WORKER_ID && producer.leads_with_worker();
        push_label(if first { &mut leading } else { &mut extracted_labels }, tag.name, tag.value);
    });
    let mut labels = leading;
    for tag in producer.fixed() {
        push_label(&mut labels, tag.name, tag.value);
    }
    if !labels.is_empty() && !extracted_labels.is_empty() {
        labels.push(',');
    }
    labels.push_str(&extracted_labels);
    (extracted, labels)
}

/// The labels that are given, after those that every statistic has.
fn given_labels(producer: &TagProducer, labelled: &Labelled) -> String {
    let mut labels = String::new();
    for tag in producer.fixed() {
        push_label(&mut labels, tag.name, tag.value);
    }
    for (label, value) in &labelled.labels {
        push_label(&mut labels, label, value);
    }
    labels
}

fn push_label(labels: &mut String, name: &str, value: &str) {
    if !labels.is_empty() {
        labels.push(',');
    }
    let _ = write!(labels, "{}=\"", sanitize(name));
    for c in value.chars() {
        match c {
            '"' => labels.push_str("\\\""),
            '\\' => labels.push_str("\\\\"),
            '\n' => labels.push_str("\\n"),
            c => labels.push(c),
        }
    }
    labels.push('"');
}

fn bucket_lines(name: &str, labels: &str, view: HistogramView<'_>, bounds: &[f64]) -> String {
    let mut out = String::new();
    let before = if labels.is_empty() { String::new() } else { format!("{labels},") };
    let counts = view.cumulative.at_or_below(bounds, view.scale());
    for (bound, count) in bounds.iter().zip(counts) {
        let _ = writeln!(out, "{name}_bucket{{{before}le=\"{}\"}} {count}", general(*bound, 32));
    }
    let count = view.cumulative.count();
    let sum = general(view.cumulative.sum(view.scale()), 32);
    let _ = writeln!(out, "{name}_bucket{{{before}le=\"+Inf\"}} {count}");
    let _ = writeln!(out, "{name}_sum{{{labels}}} {sum}\n{name}_count{{{labels}}} {count}");
    out
}

/// Quantiles of the last interval, sum and count of all time.
fn summary_lines(name: &str, labels: &str, view: HistogramView<'_>) -> String {
    let mut out = String::new();
    let before = if labels.is_empty() { String::new() } else { format!("{labels},") };
    for (quantile, value) in QUANTILES.iter().zip(view.interval.quantiles(view.scale())) {
        let _ =
            writeln!(out, "{name}{{{before}quantile=\"{}\"}} {}", general(*quantile, 6), general(value, 32));
    }
    let count = view.cumulative.count();
    let sum = general(view.cumulative.sum(view.scale()), 32);
    let _ = writeln!(out, "{name}_sum{{{labels}}} {sum}\n{name}_count{{{labels}}} {count}");
    out
}
