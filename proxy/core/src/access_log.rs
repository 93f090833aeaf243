//! Configured access logs: a sink behind a filter.

use std::sync::Arc;

use xds_api::envoy::config::accesslog::v3 as proto;

use crate::config::{BuildCx, Rejected};
use crate::extension::access_log::AccessLog;

/// Builds the access logs of a listener, a connection manager or a TCP proxy.
pub fn build_access_logs(
    protos: &[proto::AccessLog],
    cx: &mut BuildCx<'_>,
) -> Result<Vec<Arc<dyn AccessLog>>, Rejected> {
    if protos.is_empty() { Ok(Vec::new()) } else { Err(cx.reject("access logs are not available")) }
}
