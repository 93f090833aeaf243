//! `envoy.filters.network.connection_limit`: refuses connections of a filter chain above a number.
//!
//! The limit counts over all workers. A refused connection is closed at once, or after `delay`.
//! Source: Envoy `docs/root/configuration/listeners/network_filters/connection_limit_filter.rst`.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use proxy_core::config::{BuildCx, FieldUse, MessageFields, Rejected, duration};
use proxy_core::extension::network_filter::{
    ConnectionStep, ConnectionVerdict, NetworkFilter, NetworkFilterConfig, NetworkFilterFactory,
};
use proxy_core::extension::{Descriptor, SecurityPosture, Status, decode};
use proxy_core::stats::Cells;
use proxy_core::stats::groups::ConnectionLimitStats;
use proxy_core::stream_info::StreamInfo;
use xds_api::envoy::extensions::filters::network::connection_limit::v3 as proto;

use crate::shared::runtime_flag::RuntimeFlag;
use FieldUse::Used;

/// How the fields of the configuration are used.
pub const FIELDS: &[MessageFields] = &[(
    "envoy.extensions.filters.network.connection_limit.v3.ConnectionLimit",
    &[("stat_prefix", Used), ("max_connections", Used), ("delay", Used), ("runtime_enabled", Used)],
)];

const DETAILS: &str = "over_connection_limit";

/// The extension.
pub struct ConnectionLimit;

impl NetworkFilterFactory for ConnectionLimit {
    fn descriptor(&self) -> Descriptor {
        Descriptor {
            name: "envoy.filters.network.connection_limit",
            message: "envoy.extensions.filters.network.connection_limit.v3.ConnectionLimit",
            status: Status::Stable,
            posture: SecurityPosture::RobustToUntrustedDownstreamAndUpstream,
        }
    }

    fn build(&self, payload: &[u8], cx: &mut BuildCx<'_>) -> Result<NetworkFilterConfig, Rejected> {
        let config = Arc::new(Config::build(decode(payload, cx)?, cx)?);
        Ok(NetworkFilterConfig::Policy(Arc::new(move |_| {
            Box::new(Filter { config: config.clone(), counted: false })
        })))
    }

    fn looks_once(&self) -> bool {
        true
    }
}

struct Config {
    max_connections: u64,
    active: AtomicU64,
    delay: Option<Duration>,
    enabled: RuntimeFlag,
    stats: Cells<ConnectionLimitStats>,
}

impl Config {
    fn build(proto: proto::ConnectionLimit, cx: &mut BuildCx<'_>) -> Result<Self, Rejected> {
        let proto::ConnectionLimit { stat_prefix, max_connections, delay, runtime_enabled } = proto;
        if stat_prefix.is_empty() {
            return Err(cx.at("stat_prefix", |cx| cx.reject("value length must be at least 1 characters")));
        }
        let Some(max_connections) = max_connections.filter(|max| *max > 0) else {
            return Err(cx.at("max_connections", |cx| {
                cx.reject("value is required and must be greater than or equal to 1")
            }));
        };
        Ok(Self {
            max_connections,
            active: AtomicU64::new(0),
            delay: delay.as_ref().and_then(duration).filter(|delay| !delay.is_zero()),
            enabled: RuntimeFlag::new(runtime_enabled, cx),
            stats: cx.env.stats.scope(&format!("connection_limit.{stat_prefix}")).cells(),
        })
    }

    /// Counts a connection in, unless the limit is reached.
    fn admit(&self) -> bool {
        let below = |active| (active < self.max_connections).then_some(active + 1);
        self.active.fetch_update(Ordering::Relaxed, Ordering::Relaxed, below).is_ok()
    }
}

struct Filter {
    config: Arc<Config>,
    counted: bool,
}

impl NetworkFilter for Filter {
    fn on_connection<'a>(&'a mut self, info: &'a mut StreamInfo) -> ConnectionStep<'a> {
        let config = &*self.config;
        if !config.enabled.get() {
            return ConnectionStep::Continue;
        }
        if config.admit() {
            self.counted = true;
            config.stats.here().active_connections.inc();
            return ConnectionStep::Continue;
        }
        config.stats.here().limited_connections.inc();
        info.local_close_reason = Some(DETAILS.into());
        match config.delay {
            None => ConnectionStep::Close(DETAILS.into()),
            Some(delay) => ConnectionStep::Wait(Box::pin(async move {
                tokio::time::sleep(delay).await;
                ConnectionVerdict::Close(DETAILS.into())
            })),
        }
    }
}

impl Drop for Filter {
    fn drop(&mut self) {
        if self.counted {
            self.config.active.fetch_sub(1, Ordering::Relaxed);
            self.config.stats.here().active_connections.dec();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{block_on_paused, engine, env, stream_info};
    use prost::Message;

    fn build(env: &proxy_core::config::BuildEnv, config: proto::ConnectionLimit) -> NetworkFilterConfig {
        ConnectionLimit.build(&config.encode_to_vec(), &mut BuildCx::new(env)).unwrap()
    }

    fn create(config: &NetworkFilterConfig) -> Box<dyn NetworkFilter> {
        let NetworkFilterConfig::Policy(create) = config else { panic!("not a policy") };
        create(&engine())
    }

    #[test]
    fn connections_above_the_limit_are_closed_until_one_goes() {
        let env = env();
        let config = build(
            &env,
            proto::ConnectionLimit {
                stat_prefix: "p".into(),
                max_connections: Some(1),
                ..Default::default()
            },
        );
        let mut info = stream_info();
        let (mut first, mut second) = (create(&config), create(&config));
        assert!(matches!(first.on_connection(&mut info), ConnectionStep::Continue));
        assert!(
            matches!(second.on_connection(&mut info), ConnectionStep::Close(details) if details == DETAILS)
        );
        assert_eq!(info.local_close_reason.as_deref(), Some(DETAILS));
        drop(second);
        drop(first);
        let mut third = create(&config);
        assert!(matches!(third.on_connection(&mut info), ConnectionStep::Continue));
        let stats = env.stats.scope("connection_limit.p").cells::<ConnectionLimitStats>();
        assert_eq!(stats.here().limited_connections.value(), 1);
        assert_eq!(stats.here().active_connections.share(), 1);
    }

    #[test]
    fn a_refused_connection_waits_for_the_delay() {
        let env = env();
        let config = build(
            &env,
            proto::ConnectionLimit {
                stat_prefix: "p".into(),
                max_connections: Some(1),
                delay: Some(prost_types::Duration { seconds: 2, nanos: 0 }),
                ..Default::default()
            },
        );
        block_on_paused(async {
            let mut info = stream_info();
            let (mut first, mut second) = (create(&config), create(&config));
            assert!(matches!(first.on_connection(&mut info), ConnectionStep::Continue));
            let begin = tokio::time::Instant::now();
            let ConnectionStep::Wait(wait) = second.on_connection(&mut info) else { panic!("no wait") };
            assert!(matches!(wait.await, ConnectionVerdict::Close(_)));
            assert_eq!(begin.elapsed(), Duration::from_secs(2));
        });
    }
}
