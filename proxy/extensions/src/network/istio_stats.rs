//! `istio.stats` of connections without HTTP: Istio's standard metrics, counted when a connection is over.
//!
//! What is counted, and how it is labelled, is in `shared/istio/stats.rs`.

use std::sync::Arc;

use proxy_core::config::{BuildCx, Rejected};
use proxy_core::extension::network_filter::{
    ConnectionStep, NetworkFilter, NetworkFilterConfig, NetworkFilterFactory,
};
use proxy_core::extension::{Descriptor, SecurityPosture, Status, decode};
use proxy_core::stream_info::StreamInfo;

use crate::shared::istio::stats::Metrics;
use crate::shared::istio::stats::fields::MESSAGE;

/// The extension.
pub struct IstioStats;

impl NetworkFilterFactory for IstioStats {
    fn descriptor(&self) -> Descriptor {
        Descriptor {
            name: "istio.stats",
            message: MESSAGE,
            status: Status::Stable,
            posture: SecurityPosture::RobustToUntrustedDownstreamAndUpstream,
        }
    }

    fn build(&self, payload: &[u8], cx: &mut BuildCx<'_>) -> Result<NetworkFilterConfig, Rejected> {
        let metrics = Arc::new(Metrics::build(decode(payload, cx)?, cx)?);
        Ok(NetworkFilterConfig::Policy(Arc::new(move |_| Box::new(Filter(metrics.clone())))))
    }
}

struct Filter(Arc<Metrics>);

impl NetworkFilter for Filter {
    fn on_connection<'a>(&'a mut self, _info: &'a mut StreamInfo) -> ConnectionStep<'a> {
        ConnectionStep::Continue
    }

    fn on_complete(&mut self, info: &mut StreamInfo) {
        self.0.count_connection(info);
    }
}
