//! How many connections are made before there are requests for them (`preconnect_policy`), and to which hosts.
//!
//! Source: Envoy `PreconnectPolicy` in `cluster.proto`; what is counted observed on 1.40.

use proxy_core::config::{BuildCx, Rejected};
use proxy_core::matcher::MetadataMatcher;
use proxy_core::upstream::Host;
use xds_api::envoy::config::cluster::v3::cluster::PreconnectPolicy;

/// How many connections there are for each that is needed. Clusters without a policy make none ahead, and hold nothing.
#[derive(Clone, Debug, Default)]
pub struct Preconnect(Option<Box<Policy>>);

#[derive(Clone, Debug)]
struct Policy {
    per_upstream: f32,
    predictive: f32,
    eligible: Option<MetadataMatcher>,
}

impl Preconnect {
    pub(super) fn build(proto: Option<&PreconnectPolicy>, cx: &mut BuildCx<'_>) -> Result<Self, Rejected> {
        let Some(proto) = proto else { return Ok(Self::default()) };
        let PreconnectPolicy {
            per_upstream_preconnect_ratio,
            predictive_preconnect_ratio,
            preconnect_enabled_metadata,
        } = proto;
        let eligible = preconnect_enabled_metadata
            .as_ref()
            .map(|matcher| cx.at("preconnect_enabled_metadata", |cx| MetadataMatcher::build(matcher, cx)))
            .transpose()?;
        #[allow(clippy::cast_possible_truncation, reason = "Envoy reckons with this precision")]
        let ratio = |value: &Option<f64>| value.unwrap_or(1.0) as f32;
        Ok(Self(Some(Box::new(Policy {
            per_upstream: ratio(per_upstream_preconnect_ratio),
            predictive: ratio(predictive_preconnect_ratio),
            eligible,
        }))))
    }

    /// To the host of a request; 1 makes none ahead.
    pub fn per_upstream(&self) -> f32 {
        self.0.as_ref().map_or(1.0, |policy| policy.per_upstream)
    }

    /// To the hosts that will be picked next; 1 makes none ahead.
    pub fn predictive(&self) -> f32 {
        self.0.as_ref().map_or(1.0, |policy| policy.predictive)
    }

    /// Whether connections to `host` may be made ahead, as its metadata say (`preconnect_enabled_metadata`).
    pub(in crate::upstream) fn allows(&self, host: &Host) -> bool {
        let eligible = self.0.as_ref().and_then(|policy| policy.eligible.as_ref());
        eligible.is_none_or(|eligible| eligible.matches(&host.metadata()))
    }
}
