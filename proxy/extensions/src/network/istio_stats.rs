//! `istio.stats` of connections without HTTP: Istio's standard metrics, counted every few seconds and when a connection is over.
//!
//! What is counted, and how it is labelled, is in `shared/istio/stats.rs`.

use std::sync::Arc;
use std::time::Duration;

use proxy_core::config::{BuildCx, Rejected};
use proxy_core::extension::network_filter::{
    ConnectionStep, NetworkFilter, NetworkFilterConfig, NetworkFilterFactory,
};
use proxy_core::extension::{Descriptor, SecurityPosture, Status, decode};
use proxy_core::stream_info::StreamInfo;

use crate::shared::istio::stats::fields::MESSAGE;
use crate::shared::istio::stats::{Counted, Metrics};

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
        Ok(NetworkFilterConfig::Policy(Arc::new(move |_| {
            Box::new(Filter { metrics: metrics.clone(), counted: Counted::default() })
        })))
    }
}

struct Filter {
    metrics: Arc<Metrics>,
    counted: Counted,
}

impl NetworkFilter for Filter {
    fn on_connection<'a>(&'a mut self, _info: &'a mut StreamInfo) -> ConnectionStep<'a> {
        ConnectionStep::Continue
    }

    fn interval(&self) -> Option<Duration> {
        self.metrics.interval()
    }

    fn on_interval(&mut self, info: &StreamInfo) {
        // (Whom it is with is known once there is a host.)
        if info.upstream.connection_id.is_some() {
            self.metrics.count_connection(info, &mut self.counted);
        }
    }

    fn on_complete(&mut self, info: &mut StreamInfo) {
        self.metrics.count_end(info, &mut self.counted);
    }
}
