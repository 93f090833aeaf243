//! Numbers with a default that a runtime key may override (`core.v3.RuntimeDouble`, `RuntimePercent`, `RuntimeUInt32`).

use std::sync::Arc;

use proxy_core::config::BuildCx;
use proxy_core::runtime::Runtime;
use xds_api::envoy::config::core::v3::{RuntimeDouble, RuntimePercent, RuntimeUInt32};

/// A number, as the runtime says now.
pub struct RuntimeNumber {
    key: String,
    default: f64,
    /// Largest value that the runtime is believed, if there is one; no value below zero is then.
    most: Option<f64>,
    runtime: Arc<Runtime>,
}

impl RuntimeNumber {
    /// Takes the number of `proto`, or this one where it is absent.
    pub fn double(proto: Option<RuntimeDouble>, default: f64, cx: &BuildCx<'_>) -> Self {
        let (key, default) =
            proto.map_or((String::new(), default), |proto| (proto.runtime_key, proto.default_value));
        Self { key, default, most: None, runtime: cx.env.runtime.clone() }
    }

    /// Takes the percentage of `proto`, or this one where it is absent.
    pub fn percent(proto: Option<RuntimePercent>, default: f64, cx: &BuildCx<'_>) -> Self {
        let (key, default) = proto.map_or((String::new(), default), |proto| {
            (proto.runtime_key, proto.default_value.unwrap_or_default().value)
        });
        Self { key, default, most: Some(100.0), runtime: cx.env.runtime.clone() }
    }

    /// Takes the number of `proto`, or this one where it is absent.
    pub fn whole(proto: Option<RuntimeUInt32>, default: u32, cx: &BuildCx<'_>) -> Self {
        let (key, default) =
            proto.map_or((String::new(), default), |proto| (proto.runtime_key, proto.default_value));
        Self { key, default: default.into(), most: Some(u32::MAX.into()), runtime: cx.env.runtime.clone() }
    }

    /// Its value now.
    pub fn get(&self) -> f64 {
        if self.key.is_empty() {
            return self.default;
        }
        let said = self.runtime.value(&self.key).and_then(|value| value.parse::<f64>().ok());
        let believed = |value: &f64| match self.most {
            Some(most) => (0.0..=most).contains(value),
            None => value.is_finite(),
        };
        said.filter(believed).unwrap_or(self.default)
    }
}
