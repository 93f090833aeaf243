//! The counts that are committed, and the comparison with them.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::PathBuf;

use anyhow::{Context, Result};

use super::callgrind::Profile;

/// How much more than the baseline passes: what hash seeds, timers and compilers' moods make.
pub(crate) const TOLERANCE: f64 = 0.03;
/// Functions of a row that the baseline keeps, and of those that grew, how many are named.
const FUNCTIONS: usize = 60;
const NAMED: usize = 8;
/// Under this name a row has its sum.
const TOTAL: &str = "total";

/// Counts by row and function.
pub(crate) struct Baseline {
    rows: BTreeMap<String, BTreeMap<String, f64>>,
}

/// What the comparison found.
pub(crate) struct Verdict {
    pub(crate) text: String,
    pub(crate) worse: Vec<String>,
}

fn path() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("instructions.tsv")
}

impl Baseline {
    /// The committed one; empty if there is none.
    pub(crate) fn read() -> Result<Self> {
        match std::fs::read_to_string(path()) {
            Ok(text) => Self::parse(&text),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Self { rows: BTreeMap::new() }),
            Err(error) => Err(error.into()),
        }
    }

    fn parse(text: &str) -> Result<Self> {
        let mut rows: BTreeMap<String, BTreeMap<String, f64>> = BTreeMap::new();
        for line in text.lines().filter(|line| !line.starts_with('#')) {
            let mut parts = line.splitn(3, '\t');
            let mut part = || parts.next().with_context(|| format!("{line:?} has not three parts"));
            let (row, count, function) = (part()?, part()?, part()?);
            rows.entry(row.to_owned()).or_default().insert(function.to_owned(), count.parse()?);
        }
        Ok(Self { rows })
    }

    /// Replaces the rows that were counted.
    pub(crate) fn update<'p>(rows: impl Iterator<Item = (&'p str, &'p Profile)>) -> Result<()> {
        let mut baseline = Self::read()?;
        for (name, profile) in rows {
            let mut functions: BTreeMap<String, f64> = profile
                .top()
                .into_iter()
                .take(FUNCTIONS)
                .filter(|(_, count)| *count >= 1.0)
                .map(|(function, count)| (function.to_owned(), count))
                .collect();
            functions.insert(TOTAL.to_owned(), profile.total());
            baseline.rows.insert(name.to_owned(), functions);
        }
        Ok(std::fs::write(path(), baseline.print())?)
    }

    fn print(&self) -> String {
        let mut text = String::from(
            "# Instructions of one request or call, by row: their sum and the functions with the most. `make instructions ARGS=--update` writes it.\n",
        );
        for (row, functions) in &self.rows {
            let mut functions: Vec<_> = functions.iter().collect();
            functions.sort_by(|one, other| other.1.total_cmp(one.1));
            for (function, count) in functions {
                // a string takes everything
                let _ = writeln!(text, "{row}\t{count:.0}\t{function}");
            }
        }
        text
    }

    /// Holds what was counted to the baseline.
    pub(crate) fn compare<'p>(&self, rows: impl Iterator<Item = (&'p str, &'p Profile)>) -> Verdict {
        let mut verdict = Verdict { text: String::new(), worse: Vec::new() };
        for (name, profile) in rows {
            let now = profile.total();
            let Some(before) = self.rows.get(name) else {
                let _ = writeln!(
                    verdict.text,
                    "{name:24} {now:9.0}  no baseline: `make instructions ARGS=--update`"
                );
                verdict.worse.push(format!("{name} is not in it"));
                continue;
            };
            let base = before.get(TOTAL).copied().unwrap_or_default();
            let change = now / base - 1.0;
            let _ = writeln!(verdict.text, "{name:24} {now:9.0}  {:+6.2} % of {base:.0}", 100.0 * change);
            if change > TOLERANCE {
                let grown = grown(before, profile);
                let names: Vec<String> =
                    grown.iter().map(|(function, more)| format!("  {more:+9.0}  {function}")).collect();
                let _ = writeln!(verdict.text, "{}", names.join("\n"));
                let first = grown.first().map_or("?", |(function, _)| function);
                verdict.worse.push(format!("{name} by {:.1} %, most in {first}", 100.0 * change));
            }
        }
        verdict
    }
}

/// The functions that grew most. What the baseline does not list had less than the least that it lists.
fn grown<'p>(before: &BTreeMap<String, f64>, profile: &'p Profile) -> Vec<(&'p str, f64)> {
    let least =
        if before.len() > FUNCTIONS { before.values().copied().fold(f64::INFINITY, f64::min) } else { 0.0 };
    let mut grown: Vec<(&str, f64)> = profile
        .top()
        .into_iter()
        .map(|(function, now)| (function, now - before.get(function).copied().unwrap_or(least)))
        .filter(|(_, more)| *more >= 1.0)
        .collect();
    grown.sort_by(|one, other| other.1.total_cmp(&one.1));
    grown.truncate(NAMED);
    grown
}

#[cfg(test)]
mod tests {
    use super::*;

    fn profile(a: f64, b: f64) -> Profile {
        Profile::from_pairs([("a", a), ("b", b)])
    }

    #[test]
    fn growth_beyond_the_tolerance_fails_and_names_the_function() {
        let baseline = Baseline::parse("# comment\nh1\t1000\ttotal\nh1\t600\ta\nh1\t400\tb\n").unwrap();
        let same = profile(600.0, 425.0);
        assert!(baseline.compare([("h1", &same)].into_iter()).worse.is_empty());
        let more = profile(600.0, 440.0);
        assert_eq!(baseline.compare([("h1", &more)].into_iter()).worse, ["h1 by 4.0 %, most in b"]);
        assert_eq!(baseline.compare([("h2", &more)].into_iter()).worse, ["h2 is not in it"]);
        let again = Baseline::parse(&baseline.print()).unwrap();
        assert_eq!(again.rows, baseline.rows);
    }
}
