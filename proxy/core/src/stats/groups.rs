//! The groups that Envoy documents, one file per family; names and kinds were checked against Envoy 1.40's own dump.

mod cluster;
mod http;
mod listener;
mod server;
mod tls;

pub use cluster::{
    CircuitBreakerRemainingStats, ClusterSizeStats, ClusterStateStats, ClusterTimeoutBudgetStats,
    ClusterTrafficStats, EdsStats, HealthCheckerStats, HealthChecksStats, MaglevStats, OrcaOobStats,
    OutlierDetectionStats, RingHashStats, RouteStats, SubsetStats, TransportSocketMatchStats,
    UpstreamProxyProtocolStats,
};
pub use http::{Http1Stats, Http2Stats, HttpStats, ListenerHttpStats, RouterStats, TracingStats};
pub use listener::{
    ConnectionLimitStats, HttpInspectorStats, ListenerExtensionStats, ListenerManagerStats, ListenerStats,
    LocalRateLimitStats, PerHandlerStats, ProxyProtocolErrorStats, ProxyProtocolStats, TcpProxyStats,
    TlsInspectorStats,
};
pub use server::{
    CaresStats, ClusterManagerStats, ConfigReloadStats, ControlPlaneStats, DispatcherStats,
    DnsCacheBreakerStats, DnsCacheStats, FilesystemStats, HdsDelegateStats, HighMemoryStreamStats,
    LoadShedPointStats, MeasuredResourceStats, OverloadActionStats, OverloadStats, RdsStats,
    ResourceMonitorStats, RuntimeStats, ServerStats, ShrinkHeapStats, ThreadLocalClusterManagerStats,
    WatchdogStats, XdsStats,
};
pub use tls::{SdsStats, SslFactoryStats, SslStats};

#[cfg(test)]
mod tests;
