//! The TCP proxy filter.
//!
//! Source: Envoy `tcp_proxy.proto`, `docs/root/configuration/listeners/network_filters/tcp_proxy_filter.rst`.

use std::rc::Rc;
use std::sync::Arc;

use proxy_core::config::{BuildCx, Rejected};
use proxy_core::names::Name;
use proxy_core::response_flag::ResponseFlag;
use proxy_core::stats::Cells;
use proxy_core::stats::groups::TcpProxyStats;
use proxy_core::stream_info::StreamInfo;
use xds_api::envoy::extensions::filters::network::tcp_proxy::v3 as proto;
use xds_api::envoy::extensions::filters::network::tcp_proxy::v3::tcp_proxy::ClusterSpecifier;

use crate::http::Context;
use crate::net::connection::Connection;
use crate::upstream::circuit_breaker::BreakerPriority;

/// Configuration of the TCP proxy.
pub struct TcpProxy {
    cluster: Name,
    stats: Cells<TcpProxyStats>,
}

impl TcpProxy {
    /// Builds the configuration.
    pub fn build(proto: &proto::TcpProxy, cx: &mut BuildCx<'_>) -> Result<Arc<Self>, Rejected> {
        let Some(ClusterSpecifier::Cluster(cluster)) = &proto.cluster_specifier else {
            return Err(cx.reject("weighted_clusters: only `cluster` is available"));
        };
        let scope = cx.env.stats.scope(&format!("tcp.{}", proto.stat_prefix));
        Ok(Arc::new(Self { cluster: cx.env.clusters.intern(cluster), stats: scope.cells() }))
    }

    /// Carries `down` to a host of the cluster until both directions ended.
    pub async fn serve(
        &self,
        context: &Rc<Context>,
        mut down: Connection,
        info: &mut StreamInfo,
        _buffer_limit: usize,
    ) {
        self.stats.here().downstream_cx_total.inc();
        let Some(cluster) = context.clusters.get(&self.cluster) else {
            self.stats.here().downstream_cx_no_route.inc();
            info.flags.set(ResponseFlag::NoClusterFound);
            return;
        };
        let host = cluster.pick(&mut context.random.borrow_mut());
        let Some(host) = host else {
            info.flags.set(ResponseFlag::NoHealthyUpstream);
            return;
        };
        info.upstream.host = Some(host.clone());
        let pool = cluster.pool(&host);
        let mut up = match pool.open_tcp(BreakerPriority::Default).await {
            Ok(up) => up,
            Err((reset, _)) => {
                info.flags.set(reset.flag());
                return;
            }
        };
        if let Ok((received, sent)) = tokio::io::copy_bidirectional(&mut down, &mut up.connection).await {
            info.bytes_received = received;
            info.bytes_sent = sent;
        }
    }
}
