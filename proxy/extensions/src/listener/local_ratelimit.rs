//! `envoy.filters.listener.local_ratelimit`: closes connections that come faster than a token bucket fills, before anything is read.
//!
//! Source: Envoy `docs/root/configuration/listeners/listener_filters/local_rate_limit_filter.rst`.

use std::sync::Arc;
use std::time::Instant;

use proxy_core::config::{BuildCx, FieldUse, MessageFields, Rejected};
use proxy_core::extension::listener_filter::{
    ListenerFilter, ListenerFilterConfig, ListenerFilterFactory, ListenerStep, Socket,
};
use proxy_core::extension::{Descriptor, SecurityPosture, Status, decode};
use proxy_core::stats::Cells;
use proxy_core::stats::groups::LocalRateLimitStats;
use proxy_core::stream_info::ConnectionInfo;
use xds_api::envoy::extensions::filters::listener::local_ratelimit::v3 as proto;

use crate::shared::runtime_flag::RuntimeFlag;
use crate::shared::token_bucket::TokenBucket;
use FieldUse::Used;

/// How the fields of the configuration are used.
pub const FIELDS: &[MessageFields] = &[(
    "envoy.extensions.filters.listener.local_ratelimit.v3.LocalRateLimit",
    &[("stat_prefix", Used), ("token_bucket", Used), ("runtime_enabled", Used)],
)];

/// The extension.
pub struct LocalRateLimit;

impl ListenerFilterFactory for LocalRateLimit {
    fn descriptor(&self) -> Descriptor {
        Descriptor {
            name: "envoy.filters.listener.local_ratelimit",
            message: "envoy.extensions.filters.listener.local_ratelimit.v3.LocalRateLimit",
            status: Status::Stable,
            posture: SecurityPosture::RobustToUntrustedDownstreamAndUpstream,
        }
    }

    fn build(&self, payload: &[u8], cx: &mut BuildCx<'_>) -> Result<Arc<dyn ListenerFilterConfig>, Rejected> {
        let proto::LocalRateLimit { stat_prefix, token_bucket, runtime_enabled } = decode(payload, cx)?;
        if stat_prefix.is_empty() {
            return Err(cx.at("stat_prefix", |cx| cx.reject("value length must be at least 1 characters")));
        }
        let bucket = cx.at("token_bucket", |cx| match &token_bucket {
            Some(proto) => TokenBucket::build(proto, cx),
            None => Err(cx.reject("value is required")),
        })?;
        Ok(Arc::new(Config(Arc::new(Limit {
            bucket,
            enabled: RuntimeFlag::new(runtime_enabled, cx),
            stats: cx.env.stats.scope(&format!("listener_local_ratelimit.{stat_prefix}")).cells(),
        }))))
    }
}

struct Config(Arc<Limit>);

struct Limit {
    bucket: TokenBucket,
    enabled: RuntimeFlag,
    stats: Cells<LocalRateLimitStats>,
}

impl ListenerFilterConfig for Config {
    fn create(&self) -> Box<dyn ListenerFilter> {
        Box::new(Filter(self.0.clone()))
    }
}

struct Filter(Arc<Limit>);

impl ListenerFilter for Filter {
    fn max_read_bytes(&self) -> usize {
        0
    }

    fn on_data(&mut self, _data: &[u8], _socket: &dyn Socket, _info: &mut ConnectionInfo) -> ListenerStep {
        let limit = &*self.0;
        if !limit.enabled.get() || limit.bucket.take(Instant::now()) {
            return ListenerStep::Continue { consume: 0 };
        }
        limit.stats.here().rate_limited.inc();
        ListenerStep::Close
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{FakeSocket, connection_info, env};
    use prost::Message;
    use xds_api::envoy::r#type::v3::TokenBucket as ProtoBucket;

    #[test]
    fn connections_without_a_token_are_closed() {
        let env = env();
        let fill_interval = Some(prost_types::Duration { seconds: 3600, nanos: 0 });
        let token_bucket = Some(ProtoBucket { max_tokens: 2, tokens_per_fill: None, fill_interval });
        let proto = proto::LocalRateLimit { stat_prefix: "p".into(), token_bucket, ..Default::default() };
        let config = LocalRateLimit.build(&proto.encode_to_vec(), &mut BuildCx::new(&env)).unwrap();
        let step = || config.create().on_data(b"", &FakeSocket(None), &mut connection_info());
        let go_on = ListenerStep::Continue { consume: 0 };
        assert_eq!([step(), step(), step()], [go_on, go_on, ListenerStep::Close]);
        let stats = env.stats.scope("listener_local_ratelimit.p").cells::<LocalRateLimitStats>();
        assert_eq!(stats.here().rate_limited.value(), 1);
    }
}
