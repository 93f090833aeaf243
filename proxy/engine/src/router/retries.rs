//! What virtual hosts and routes say about sending requests again: a route's word takes the place of its virtual host's.

use std::sync::Arc;

use proxy_core::config::{BuildCx, Rejected};
use proxy_core::retry::RetryPolicy;
use xds_api::envoy::config::route::v3 as proto;

/// When a request is sent again, as a level says, or else the levels above it.
pub(super) fn policy(
    proto: Option<&proto::RetryPolicy>,
    outer: Option<&Arc<RetryPolicy>>,
    cx: &mut BuildCx<'_>,
) -> Result<Option<Arc<RetryPolicy>>, Rejected> {
    match proto {
        None => Ok(outer.cloned()),
        Some(proto) => {
            cx.at("retry_policy", |cx| RetryPolicy::build(proto, cx)).map(|policy| Some(Arc::new(policy)))
        }
    }
}

/// Most bytes of a body that are kept of a request, as a level says.
#[allow(deprecated, reason = "still sent by control planes")]
pub(super) fn buffer_limit(legacy: Option<u32>, limit: Option<u64>) -> Option<u64> {
    limit.or(legacy.map(u64::from))
}
