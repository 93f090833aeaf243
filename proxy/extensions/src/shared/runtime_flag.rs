//! A feature flag with a default that a runtime key may override (`core.v3.RuntimeFeatureFlag`).

use std::sync::Arc;

use proxy_core::config::BuildCx;
use proxy_core::runtime::Runtime;
use xds_api::envoy::config::core::v3::RuntimeFeatureFlag;

/// On or off, as the runtime says now.
pub struct RuntimeFlag {
    key: String,
    default: bool,
    runtime: Arc<Runtime>,
}

impl RuntimeFlag {
    /// Takes the flag; on when the message or its default is absent.
    pub fn new(proto: Option<RuntimeFeatureFlag>, cx: &BuildCx<'_>) -> Self {
        let RuntimeFeatureFlag { default_value, runtime_key } = proto.unwrap_or_default();
        Self { key: runtime_key, default: default_value.unwrap_or(true), runtime: cx.env.runtime.clone() }
    }

    /// Whether it is on.
    pub fn get(&self) -> bool {
        if self.key.is_empty() { self.default } else { self.runtime.flag(&self.key, self.default) }
    }
}
