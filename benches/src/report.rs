//! Medians, one table, JSON with every sample, and the plots.

use std::collections::BTreeMap;
use std::fmt::Write;

use anyhow::Result;
use serde_json::{Value, json};

use crate::circumstances::Circumstances;
use crate::options::{Measure, Options, Part};
use crate::peers::Peer;
use crate::plot;

type Samples = BTreeMap<(Measure, Part, Peer), Vec<f64>>;

/// Everything that was measured.
#[derive(Debug)]
pub(crate) struct Report {
    options: Options,
    circumstances: Circumstances,
    /// What earlier results say of themselves, if rows of theirs are kept.
    earlier: Option<Value>,
    samples: Samples,
    failures: Vec<String>,
}

impl Report {
    pub(crate) fn new(options: &Options) -> Result<Self> {
        std::fs::create_dir_all(&options.results)?;
        let (samples, earlier) = match options.keep {
            true => kept(options).map(|(samples, earlier)| (samples, Some(earlier)))?,
            false => (BTreeMap::new(), None),
        };
        let circumstances = Circumstances::of(options);
        Ok(Self { options: options.clone(), circumstances, earlier, samples, failures: Vec::new() })
    }

    /// Adds one sample.
    pub(crate) fn add(&mut self, measure: Measure, part: Part, peer: Peer, value: f64) {
        self.samples.entry((measure, part, peer)).or_default().push(value);
    }

    /// Adds what one run gave, or that it failed.
    pub(crate) fn add_all(
        &mut self,
        measure: Measure,
        peer: Peer,
        run: Result<impl IntoIterator<Item = (Part, f64)>>,
    ) {
        match run {
            Ok(values) => values.into_iter().for_each(|(part, value)| self.add(measure, part, peer, value)),
            Err(error) => self.fail(format!("{} {}: {error:#}", peer.name(), measure.name())),
        }
    }

    pub(crate) fn fail(&mut self, text: String) {
        crate::say(&text);
        self.failures.push(text);
    }

    pub(crate) fn failures(&self) -> &[String] {
        &self.failures
    }

    /// The median of what was measured so far.
    pub(crate) fn value(&self, measure: Measure, part: Part, peer: Peer) -> Option<f64> {
        median(self.samples.get(&(measure, part, peer))?)
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
                .filter_map(|peer| Some((peer.name(), self.value(measure, Part::Main, *peer)?)))
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
        for measure in Measure::ALL {
            for part in Part::ALL {
                let values = Peer::ALL.map(|peer| self.value(measure, part, peer));
                if values.iter().all(Option::is_none) {
                    continue;
                }
                let title = match part {
                    Part::Main => measure.title().to_owned(),
                    part => format!("- {}", part.name()),
                };
                let cells = values.map(|value| value.map_or("-".to_owned(), number)).join(" | ");
                let ratio = match values {
                    [Some(ours), Some(theirs), ..] => format!("{:.2}", ours / theirs),
                    _ => "-".to_owned(),
                };
                let _ = writeln!(out, "| {title} | {cells} | {ratio} |");
            }
        }
        out
    }

    fn how(&self) -> String {
        let Options { rounds, seconds, .. } = &self.options;
        let mut how = format!(
            "{rounds} rounds of {seconds} s per load and proxy, in turns; one worker each; loopback.\n\n"
        );
        how.push_str(&self.circumstances.text());
        if let Some(earlier) = &self.earlier {
            let (date, commit) = (&earlier["date"], &earlier["commit"]);
            let said = |value: &Value| value.as_str().unwrap_or("unknown").to_owned();
            let _ = write!(
                how,
                "\n\nRows that were not measured then are of an earlier run: {}, commit {}.",
                said(date),
                said(commit)
            );
        }
        how
    }

    fn json(&self) -> Value {
        let mut measures = serde_json::Map::new();
        for ((measure, part, peer), values) in &self.samples {
            let entry = measures.entry(measure.name()).or_insert_with(|| json!({"title": measure.title()}));
            // (As the table has it.)
            let median: Option<f64> = median(values).and_then(|median| number(median).parse().ok());
            entry[peer.name()][part.name()] = json!({"median": median, "values": values});
        }
        json!({
            "how": self.how(),
            "run": self.circumstances.json(),
            "earlier": self.earlier,
            "quick": self.options.quick,
            "measures": measures,
            "failures": self.failures
        })
    }
}

/// What the results have of that which is not measured now, and what they say of the run.
fn kept(options: &Options) -> Result<(Samples, Value)> {
    let text = std::fs::read_to_string(options.results.join("latest.json"))?;
    let results: Value = serde_json::from_str(&text)?;
    let mut samples = Samples::new();
    for measure in Measure::ALL.into_iter().filter(|measure| !options.wants(*measure)) {
        for part in Part::ALL {
            for peer in Peer::ALL {
                let values = &results["measures"][measure.name()][peer.name()][part.name()]["values"];
                if let Some(values) = values.as_array() {
                    let values = values.iter().filter_map(Value::as_f64).collect();
                    samples.insert((measure, part, peer), values);
                }
            }
        }
    }
    Ok((samples, results["run"].clone()))
}

/// The one in the middle.
pub(crate) fn median(values: &[f64]) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    match sorted.len() {
        0 => None,
        count if count % 2 == 1 => Some(sorted[middle]),
        _ => Some((sorted[middle - 1] + sorted[middle]) / 2.0),
    }
}

/// Three digits or so, in the table, in the plots and of medians in the JSON alike.
pub(crate) fn number(value: f64) -> String {
    match value.abs() {
        size if size >= 1000.0 => {
            let unit = 10_f64.powi(size.log10() as i32 - 2);
            format!("{:.0}", (value / unit).round() * unit)
        }
        size if size >= 100.0 => format!("{value:.0}"),
        size if size >= 10.0 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_three_digits() {
        for (value, text) in [
            (0.056, "0.06"),
            (3.4693, "3.47"),
            (54.82, "54.8"),
            (421.4, "421"),
            (80_707.0, "80700"),
            (99_960.0, "100000"),
            (-1_074.6, "-1070"),
        ] {
            assert_eq!(number(value), text);
        }
    }

    #[test]
    fn the_median_is_the_middle_one() {
        assert_eq!(median(&[]), None);
        assert_eq!(median(&[3.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median(&[4.0, 1.0, 2.0, 3.0]), Some(2.5));
    }
}
