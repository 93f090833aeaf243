//! Medians, one table, JSON with every sample, and the plots.

use std::collections::BTreeMap;
use std::fmt::Write;

use anyhow::Result;
use serde_json::{Value, json};

use crate::load::Sample;
use crate::options::{Measure, Options};
use crate::peers::Peer;
use crate::plot;

/// Everything that was measured.
#[derive(Debug)]
pub(crate) struct Report {
    options: Options,
    values: BTreeMap<(Measure, Peer), Vec<f64>>,
    samples: BTreeMap<(Measure, Peer), Vec<Sample>>,
    /// Clusters and seconds to ready.
    ready: BTreeMap<Peer, (usize, f64)>,
    failures: Vec<String>,
}

impl Report {
    pub(crate) fn new(options: &Options) -> Result<Self> {
        std::fs::create_dir_all(&options.results)?;
        Ok(Self {
            options: options.clone(),
            values: BTreeMap::new(),
            samples: BTreeMap::new(),
            ready: BTreeMap::new(),
            failures: Vec::new(),
        })
    }

    pub(crate) fn add(&mut self, measure: Measure, peer: Peer, value: f64) {
        self.values.entry((measure, peer)).or_default().push(value);
    }

    pub(crate) fn add_sample(&mut self, measure: Measure, peer: Peer, sample: Sample) {
        self.add(measure, peer, sample.cpu);
        self.samples.entry((measure, peer)).or_default().push(sample);
    }

    pub(crate) fn add_ready(&mut self, peer: Peer, clusters: usize, seconds: f64) {
        self.ready.insert(peer, (clusters, seconds));
    }

    pub(crate) fn fail(&mut self, text: String) {
        crate::say(&text);
        self.failures.push(text);
    }

    pub(crate) fn failures(&self) -> &[String] {
        &self.failures
    }

    fn value(&self, measure: Measure, peer: Peer) -> Option<f64> {
        median(self.values.get(&(measure, peer))?)
    }

    /// Writes `latest.md`, `latest.json` and the plots; the table.
    pub(crate) fn write(&self) -> Result<String> {
        let table = self.table();
        let folder = &self.options.results;
        std::fs::write(folder.join("latest.md"), &table)?;
        std::fs::write(folder.join("latest.json"), format!("{:#}\n", self.json()))?;
        for measure in Measure::ALL {
            let bars: Vec<_> = Peer::ALL
                .iter()
                .filter_map(|peer| Some((peer.name(), self.value(measure, *peer)?)))
                .collect();
            if !bars.is_empty() {
                std::fs::write(
                    folder.join(format!("{}.svg", measure.name())),
                    plot::bars(measure.title(), &bars),
                )?;
            }
        }
        Ok(table)
    }

    fn table(&self) -> String {
        let mut out = format!(
            "{}\n\n| median | outrigger | envoy | haproxy | nginx | outrigger / envoy |\n",
            self.how()
        );
        out.push_str("|---|---|---|---|---|---|\n");
        let mut row = |title: &str, of: &dyn Fn(Peer) -> Option<f64>| {
            let values: Vec<Option<f64>> = Peer::ALL.iter().map(|peer| of(*peer)).collect();
            if values.iter().all(Option::is_none) {
                return;
            }
            let cells: Vec<String> =
                values.iter().map(|value| value.map_or("-".to_owned(), number)).collect();
            let ratio = match (values.first(), values.get(1)) {
                (Some(Some(ours)), Some(Some(theirs))) => format!("{:.2}", ours / theirs),
                _ => "-".to_owned(),
            };
            let _ = writeln!(out, "| {title} | {} | {ratio} |", cells.join(" | "));
        };
        for measure in Measure::ALL {
            row(measure.title(), &|peer| self.value(measure, peer));
            let of = |peer: Peer, part: &dyn Fn(&Sample) -> Option<f64>| {
                median(&self.samples.get(&(measure, peer))?.iter().filter_map(part).collect::<Vec<_>>())
            };
            row("- of it in user mode", &|peer| of(peer, &|sample| Some(sample.user)));
            row("- requests per second", &|peer| of(peer, &|sample| Some(sample.rate)));
            row("- latency, median, ms", &|peer| {
                of(peer, &|sample| sample.latency.map(|(median, _)| median))
            });
            row("- latency, 99th percentile, ms", &|peer| {
                of(peer, &|sample| sample.latency.map(|(_, tail)| tail))
            });
        }
        if let Some((clusters, _)) = self.ready.values().next() {
            let title = format!("- seconds to ready with {clusters} clusters");
            row(&title, &|peer| self.ready.get(&peer).map(|(_, seconds)| *seconds));
        }
        out
    }

    fn how(&self) -> String {
        let cores = std::thread::available_parallelism().map_or(0, std::num::NonZero::get);
        let Options { rounds, seconds, .. } = &self.options;
        format!(
            "{rounds} rounds of {seconds} s per load and proxy, in turns; one worker each; {cores} cores; loopback."
        )
    }

    fn json(&self) -> Value {
        let mut measures = serde_json::Map::new();
        for ((measure, peer), values) in &self.values {
            let mut entry = json!({"median": median(values), "values": values});
            if let Some(samples) = self.samples.get(&(*measure, *peer)) {
                let users: Vec<f64> = samples.iter().map(|sample| sample.user).collect();
                let rates: Vec<f64> = samples.iter().map(|sample| sample.rate).collect();
                let latency: Vec<_> = samples.iter().filter_map(|sample| sample.latency).collect();
                entry["user"] = json!(users);
                entry["requests_per_second"] = json!(rates);
                entry["latency_ms_p50_p99"] = json!(latency);
            }
            let key = measure.name();
            measures.entry(key).or_insert_with(|| json!({"title": measure.title()}))[peer.name()] = entry;
        }
        let ready: serde_json::Map<String, Value> = self
            .ready
            .iter()
            .map(|(peer, (clusters, seconds))| {
                (peer.name().to_owned(), json!({"clusters": clusters, "seconds": seconds}))
            })
            .collect();
        json!({"how": self.how(), "quick": self.options.quick, "measures": measures, "ready": ready, "failures": self.failures})
    }
}

fn median(values: &[f64]) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    match sorted.len() {
        0 => None,
        count if count % 2 == 1 => Some(sorted[middle]),
        _ => Some((sorted[middle - 1] + sorted[middle]) / 2.0),
    }
}

/// Three digits or so.
pub(crate) fn number(value: f64) -> String {
    match value.abs() {
        size if size >= 100.0 => format!("{value:.0}"),
        size if size >= 10.0 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_the_middle_one() {
        assert_eq!(median(&[]), None);
        assert_eq!(median(&[3.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median(&[4.0, 1.0, 2.0, 3.0]), Some(2.5));
    }
}
