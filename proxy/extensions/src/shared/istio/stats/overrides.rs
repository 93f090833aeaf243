//! What a configuration changes of the labels of metrics: labels that are removed, that expressions compute, and that are new.

use std::collections::{BTreeMap, HashSet};

use proxy_core::cel::Program;
use proxy_core::config::{BuildCx, Rejected};
use proxy_core::facts::Facts;
use xds_api::stats as proto;

use super::METRICS;
use super::labels::{self, Labels, UNKNOWN};

/// What becomes of a label.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Change {
    Removed,
    /// It has the value of the expression of that number.
    Computed(usize),
}

/// The changes of a configuration.
#[derive(Default)]
pub(super) struct Overrides {
    /// Metrics that are not wanted.
    dropped: HashSet<&'static str>,
    /// By metric and label.
    changes: BTreeMap<&'static str, BTreeMap<Box<str>, Change>>,
    /// By number.
    expressions: Vec<Program>,
}

impl Overrides {
    pub(super) fn build(metrics: &[proto::MetricConfig], cx: &mut BuildCx<'_>) -> Result<Self, Rejected> {
        let mut overrides = Self::default();
        cx.each("metrics", metrics, |metric, cx| overrides.add(metric, cx))?;
        Ok(overrides)
    }

    /// What comes later has the last word.
    fn add(&mut self, metric: &proto::MetricConfig, cx: &mut BuildCx<'_>) -> Result<(), Rejected> {
        let proto::MetricConfig { dimensions, name, tags_to_remove, r#match: _, drop } = metric;
        let chosen: Vec<_> = METRICS.into_iter().filter(|known| name.is_empty() || known == name).collect();
        if *drop {
            self.dropped.extend(chosen.iter().filter(|_| !name.is_empty()));
            return Ok(());
        }
        let mut changes: Vec<(&str, Change)> =
            tags_to_remove.iter().map(|label| (label.as_str(), Change::Removed)).collect();
        for (label, text) in dimensions {
            let program = Program::parse(text, None);
            let program = program.map_err(|reason| cx.at_key("dimensions", label, |cx| cx.reject(reason)))?;
            changes.push((label, Change::Computed(self.expressions.len())));
            self.expressions.push(program);
        }
        for known in chosen {
            let of_metric = self.changes.entry(known).or_default();
            of_metric.extend(changes.iter().map(|(label, change)| ((*label).into(), *change)));
        }
        Ok(())
    }

    pub(super) fn drops(&self, metric: &str) -> bool {
        self.dropped.contains(metric)
    }

    /// The values of all expressions; what has none is unknown.
    pub(super) fn values(&self, subject: &Facts<'_>) -> Vec<String> {
        let value = |program: &Program| match program.text(subject) {
            Some(text) => String::from_utf8_lossy(&text).into_owned(),
            None => UNKNOWN.to_owned(),
        };
        self.expressions.iter().map(value).collect()
    }

    /// The labels that a metric has, of those that are known of a stream.
    pub(super) fn labels_of<'l>(
        &'l self,
        metric: &str,
        labels: &'l Labels<'_>,
    ) -> impl Iterator<Item = (&'l str, &'l str)> {
        let changes = self.changes.get(metric);
        let computed = |number: usize| labels.computed.get(number).map_or(UNKNOWN, String::as_str);
        let standard = labels.iter().filter_map(move |(label, value)| {
            match changes.and_then(|changes| changes.get(label)) {
                None => Some((label, value)),
                Some(Change::Removed) => None,
                Some(Change::Computed(number)) => Some((label, computed(*number))),
            }
        });
        let new = changes.into_iter().flatten().filter(|(label, _)| !labels::is_standard(label));
        let new = new.filter_map(move |(label, change)| match change {
            Change::Removed => None,
            Change::Computed(number) => Some((&**label, computed(*number))),
        });
        // (Streams that are counted together have no values of their own.)
        standard.chain(new.filter(|_| !labels.is_overflowing()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::env;

    fn built(metrics: Vec<proto::MetricConfig>) -> Overrides {
        let env = env();
        Overrides::build(&metrics, &mut BuildCx::new(&env)).unwrap()
    }

    fn metric(name: &str, removed: &[&str], computed: &[(&str, &str)]) -> proto::MetricConfig {
        let own = |text: &&str| (*text).to_owned();
        proto::MetricConfig {
            name: name.to_owned(),
            tags_to_remove: removed.iter().map(own).collect(),
            dimensions: computed.iter().map(|(label, text)| (own(label), own(text))).collect(),
            ..proto::MetricConfig::default()
        }
    }

    #[test]
    fn labels_are_removed_computed_and_added() {
        let overrides = built(vec![
            metric("", &["reporter"], &[("new", "request.host")]),
            metric("requests_total", &[], &[("source_app", "'mine'")]),
            metric("requests_total", &["new"], &[]),
        ]);
        let mut labels = Labels::named(&[("reporter", "source"), ("source_app", "theirs")]);
        labels.computed = vec!["host".to_owned(), "mine".to_owned()];
        let of = |metric| overrides.labels_of(metric, &labels).collect::<Vec<_>>();
        assert_eq!(of("requests_total"), [("source_app", "mine")]);
        assert_eq!(of("request_bytes"), [("source_app", "theirs"), ("new", "host")]);
    }

    #[test]
    fn what_is_no_expression_is_refused() {
        let env = env();
        let metrics = [metric("requests_total", &[], &[("new", "request.")])];
        assert!(Overrides::build(&metrics, &mut BuildCx::new(&env)).is_err());
    }
}
