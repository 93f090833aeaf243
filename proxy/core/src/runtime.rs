//! Runtime values: layered keys that change behaviour while the proxy runs (`layered_runtime`, `/runtime_modify`).
//!
//! Source: Envoy `docs/root/configuration/operations/runtime.rst`.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;

use arc_swap::ArcSwap;

use xds_api::envoy::config::core::v3::RuntimeFractionalPercent;
use xds_api::envoy::r#type::v3::{FractionalPercent, fractional_percent::DenominatorType};

/// One layer: its name and its values as text.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RuntimeLayer {
    /// Name of the layer, `static_layer_0` or what the bootstrap says.
    pub name: String,
    /// Values by key.
    pub values: BTreeMap<String, String>,
    /// Whether `/runtime_modify` writes here.
    pub is_admin: bool,
}

/// All layers, later ones winning.
#[derive(Debug, Default)]
pub struct Runtime {
    layers: ArcSwap<Vec<RuntimeLayer>>,
}

impl Runtime {
    /// Starts with `layers`, the last one winning.
    pub fn new(layers: Vec<RuntimeLayer>) -> Self {
        Self { layers: ArcSwap::from_pointee(layers) }
    }

    /// The layers now in force.
    pub fn layers(&self) -> Arc<Vec<RuntimeLayer>> {
        self.layers.load_full()
    }

    /// Replaces all layers.
    pub fn set_layers(&self, layers: Vec<RuntimeLayer>) {
        self.layers.store(Arc::new(layers));
    }

    /// Sets or (with an empty value) removes keys in the admin layer; `false` if there is none.
    pub fn modify(&self, changes: &[(String, String)]) -> bool {
        let mut layers = Vec::clone(&self.layers.load());
        let Some(admin) = layers.iter_mut().find(|layer| layer.is_admin) else { return false };
        for (key, value) in changes {
            if value.is_empty() {
                admin.values.remove(key);
            } else {
                admin.values.insert(key.clone(), value.clone());
            }
        }
        self.set_layers(layers);
        true
    }

    /// The final value of `key`, if any layer has it.
    pub fn value(&self, key: &str) -> Option<String> {
        let layers = self.layers.load();
        layers.iter().rev().find_map(|layer| layer.values.get(key).cloned())
    }

    /// Whether any layer has a key that begins with `prefix`.
    pub fn has_any(&self, prefix: &str) -> bool {
        let from = (Bound::Included(prefix), Bound::Unbounded);
        let of_layer = |layer: &RuntimeLayer| {
            layer.values.range::<str, _>(from).next().is_some_and(|(key, _)| key.starts_with(prefix))
        };
        self.layers.load().iter().any(of_layer)
    }

    /// The final value of `key` as an unsigned number.
    pub fn number(&self, key: &str) -> Option<u64> {
        self.value(key)?.parse().ok()
    }

    /// The final value of `key` as a number, whole or not.
    pub fn double(&self, key: &str) -> Option<f64> {
        self.value(key)?.parse().ok()
    }

    /// The final value of `key` as a share of events, numerator and denominator: a number is one of percent.
    pub fn fraction(&self, key: &str) -> Option<(u64, u64)> {
        let text = self.value(key)?;
        text.parse().ok().map(|percent| (percent, 100)).or_else(|| fraction(&text))
    }

    /// The final value of `key` as a feature flag (`true`/`false`, any case).
    pub fn flag(&self, key: &str, default: bool) -> bool {
        match self.value(key) {
            Some(value) if value.eq_ignore_ascii_case("true") => true,
            Some(value) if value.eq_ignore_ascii_case("false") => false,
            Some(_) | None => default,
        }
    }
}

/// A share of events, adjustable by a runtime key.
#[derive(Clone, Debug)]
pub struct RuntimeFraction {
    key: Option<Box<str>>,
    numerator: u32,
    denominator: u32,
}

impl RuntimeFraction {
    /// Takes the fraction of `proto`; its default when absent is zero, as in Envoy.
    pub fn new(proto: &RuntimeFractionalPercent) -> Self {
        let default = proto.default_value.unwrap_or_default();
        Self {
            key: (!proto.runtime_key.is_empty()).then(|| proto.runtime_key.as_str().into()),
            numerator: default.numerator,
            denominator: denominator(&default),
        }
    }

    /// All events, unless the runtime says how many.
    pub fn all(key: &str) -> Self {
        Self { key: Some(key.into()), numerator: 100, denominator: 100 }
    }

    /// So many percent of all events, unless the runtime says how many.
    pub fn percent(key: &str, percent: u32) -> Self {
        Self { key: Some(key.into()), numerator: percent, denominator: 100 }
    }

    /// Whether an event with random number `random` is in the fraction.
    ///
    /// A runtime value, if set, is a number of percent or a `FractionalPercent`.
    pub fn holds(&self, runtime: &Runtime, random: u64) -> bool {
        let set = self.key.as_deref().and_then(|key| runtime.fraction(key));
        let (numerator, denominator) = set.unwrap_or((self.numerator.into(), self.denominator.into()));
        random % denominator < numerator
    }
}

/// Reads `{numerator: 5, denominator: TEN_THOUSAND}`, names quoted or not.
fn fraction(text: &str) -> Option<(u64, u64)> {
    let fields = text.trim().strip_prefix('{')?.strip_suffix('}')?;
    let (mut numerator, mut denominator) = (None, 100);
    for field in fields.split(',') {
        let (name, value) = field.split_once(':')?;
        let [name, value] = [name, value].map(|part| part.trim().trim_matches('"'));
        match name {
            "numerator" => numerator = Some(value.parse().ok()?),
            "denominator" => {
                let known = DenominatorType::from_str_name(value)?;
                let percent = FractionalPercent { denominator: known.into(), ..FractionalPercent::default() };
                denominator = self::denominator(&percent).into();
            }
            _ => {}
        }
    }
    Some((numerator?, denominator))
}

/// So many percent.
pub fn fraction_of(percent: u32) -> FractionalPercent {
    FractionalPercent { numerator: percent, denominator: DenominatorType::Hundred.into() }
}

/// The denominator of a fractional percentage.
pub fn denominator(percent: &FractionalPercent) -> u32 {
    match DenominatorType::try_from(percent.denominator) {
        Ok(DenominatorType::TenThousand) => 10_000,
        Ok(DenominatorType::Million) => 1_000_000,
        Ok(DenominatorType::Hundred) | Err(_) => 100,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layer(values: &[(&str, &str)]) -> RuntimeLayer {
        let values = values.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        RuntimeLayer { values, ..RuntimeLayer::default() }
    }

    #[test]
    fn keys_are_found_by_how_they_begin() {
        let runtime = Runtime::new(vec![layer(&[("a", ""), ("c.d", "")]), layer(&[("b.x", "")])]);
        for (prefix, is_there) in [("b.", true), ("c.d", true), ("c.e", false), ("b.y", false), ("", true)] {
            assert_eq!(runtime.has_any(prefix), is_there, "{prefix}");
        }
        assert!(!Runtime::default().has_any(""));
    }

    #[test]
    fn fractions_keep_their_denominator() {
        let cases = [
            ("5", Some((5, 100))),
            ("{numerator: 5, denominator: TEN_THOUSAND}", Some((5, 10_000))),
            ("{\"denominator\": \"MILLION\", \"numerator\": 5}", Some((5, 1_000_000))),
            ("{numerator: 5}", Some((5, 100))),
            ("{numerator: 5, denominator: DOZEN}", None),
            ("{denominator: MILLION}", None),
            ("1.5", None),
            ("-5", None),
            ("five", None),
        ];
        for (text, expected) in cases {
            let values = [("key".to_owned(), text.to_owned())].into();
            let layer = RuntimeLayer { values, ..RuntimeLayer::default() };
            assert_eq!(Runtime::new(vec![layer]).fraction("key"), expected, "{text}");
        }
    }
}
