//! Statistics whose labels are not found in their names but given: those of extensions that make their own, and those of hosts.
//!
//! In names of the former each label stands with its value, dots between them: `<scope>.<name>.<label>.<value>...`. For Prometheus a statistic has its
//! bare name, without scope or `envoy_`, as those of custom namespaces do in Envoy. Those of hosts are named like all others.

use super::registry::OneOff;
use super::{Scope, SharedCounter, SharedGauge, SharedHistogram, Unit};

/// A name and labels that go with it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Labelled {
    /// The bare name.
    pub name: Box<str>,
    /// Prometheus is told the name as it is, without what stands before others.
    pub is_custom: bool,
    /// Labels and their values, in order.
    pub labels: Box<[(Box<str>, Box<str>)]>,
}

impl Labelled {
    /// `name` with these labels.
    pub fn new<'a>(name: &str, labels: impl IntoIterator<Item = (&'a str, &'a str)>) -> Self {
        let labels = labels.into_iter().map(|(label, value)| (label.into(), value.into())).collect();
        Self { name: name.into(), is_custom: true, labels }
    }

    /// A name that is like those whose tags were found in them.
    pub fn like_extracted(name: &str, labels: Box<[(Box<str>, Box<str>)]>) -> Self {
        Self { name: name.into(), is_custom: false, labels }
    }

    /// The name with all labels in it.
    fn full_name(&self) -> Box<str> {
        let mut name = self.name.to_string();
        for (label, value) in &self.labels {
            name.push('.');
            name.push_str(label);
            name.push('.');
            name.push_str(value);
        }
        name.into()
    }
}

impl Scope {
    /// A counter with labels.
    pub fn labelled_counter(&self, labelled: Labelled) -> OneOff<SharedCounter> {
        self.counter_with(labelled.full_name(), Some(labelled))
    }

    /// A gauge with labels.
    pub fn labelled_gauge(&self, labelled: Labelled) -> OneOff<SharedGauge> {
        self.gauge_with(labelled.full_name(), Some(labelled))
    }

    /// A histogram with labels.
    pub fn labelled_histogram(&self, labelled: Labelled, unit: Unit) -> OneOff<SharedHistogram> {
        self.histogram_with(labelled.full_name(), unit, Some(labelled))
    }
}
