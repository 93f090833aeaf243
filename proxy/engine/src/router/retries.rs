//! What virtual hosts and routes say about sending requests again: a route's word takes the place of its virtual host's.

use std::sync::Arc;

use proxy_core::config::{BuildCx, Rejected};
use proxy_core::retry::RetryPolicy;
use xds_api::envoy::config::route::v3 as proto;

/// What one level says, and the levels above where it says nothing.
#[derive(Clone, Debug, Default)]
pub(super) struct Retries {
    /// When a request is sent again.
    pub(super) policy: Option<Arc<RetryPolicy>>,
    /// Whether a try that is too slow goes on beside the next one.
    pub(super) hedges: bool,
}

impl Retries {
    /// Reads what a level says under `outer`.
    pub(super) fn build(
        policy: Option<&proto::RetryPolicy>,
        hedge: Option<&proto::HedgePolicy>,
        outer: &Self,
        cx: &mut BuildCx<'_>,
    ) -> Result<Self, Rejected> {
        let policy = match policy {
            None => Ok(outer.policy.clone()),
            Some(proto) => {
                cx.at("retry_policy", |cx| RetryPolicy::build(proto, cx)).map(|policy| Some(Arc::new(policy)))
            }
        };
        let hedges = match hedge {
            None => Ok(outer.hedges),
            Some(hedge) => cx
                .reject_if(true, "hedge_policy", "hedging is not available")
                .map(|()| hedge.hedge_on_per_try_timeout),
        };
        Ok(Self { policy: policy?, hedges: hedges? })
    }
}

/// Most bytes of a body that are kept of a request, as a level says.
#[allow(deprecated, reason = "still sent by control planes")]
pub(super) fn buffer_limit(legacy: Option<u32>, limit: Option<u64>) -> Option<u64> {
    limit.or(legacy.map(u64::from))
}
