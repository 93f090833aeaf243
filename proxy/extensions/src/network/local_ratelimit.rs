//! `envoy.filters.network.local_ratelimit`: refuses connections that come faster than a token bucket fills.
//!
//! Filters with the same `share_key` (and the same bucket) share one bucket.
//! Source: Envoy `docs/root/configuration/listeners/network_filters/local_rate_limit_filter.rst`.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Instant;

use proxy_core::config::{BuildCx, FieldUse, MessageFields, Rejected};
use proxy_core::extension::network_filter::{
    ConnectionStep, NetworkFilter, NetworkFilterConfig, NetworkFilterFactory,
};
use proxy_core::extension::{Descriptor, SecurityPosture, Status, decode};
use proxy_core::response_flag::ResponseFlag;
use proxy_core::stats::Cells;
use proxy_core::stats::groups::LocalRateLimitStats;
use proxy_core::stream_info::StreamInfo;
use xds_api::envoy::extensions::filters::network::local_ratelimit::v3 as proto;

use crate::shared::runtime_flag::RuntimeFlag;
use crate::shared::token_bucket::TokenBucket;
use FieldUse::Used;

/// How the fields of the configuration are used.
pub const FIELDS: &[MessageFields] = &[
    (
        "envoy.extensions.filters.network.local_ratelimit.v3.LocalRateLimit",
        &[("stat_prefix", Used), ("token_bucket", Used), ("runtime_enabled", Used), ("share_key", Used)],
    ),
    (
        "envoy.type.v3.TokenBucket",
        &[("max_tokens", Used), ("tokens_per_fill", Used), ("fill_interval", Used)],
    ),
];

const DETAILS: &str = "local_ratelimit_close_over_limit";

/// The extension.
pub struct LocalRateLimit;

impl NetworkFilterFactory for LocalRateLimit {
    fn descriptor(&self) -> Descriptor {
        Descriptor {
            name: "envoy.filters.network.local_ratelimit",
            message: "envoy.extensions.filters.network.local_ratelimit.v3.LocalRateLimit",
            status: Status::Stable,
            posture: SecurityPosture::RobustToUntrustedDownstreamAndUpstream,
        }
    }

    fn build(&self, payload: &[u8], cx: &mut BuildCx<'_>) -> Result<NetworkFilterConfig, Rejected> {
        let config = Arc::new(Config::build(decode(payload, cx)?, cx)?);
        Ok(NetworkFilterConfig::Policy(Arc::new(move |_| Box::new(Filter(config.clone())))))
    }

    fn looks_once(&self) -> bool {
        true
    }
}

struct Config {
    bucket: Arc<TokenBucket>,
    enabled: RuntimeFlag,
    stats: Cells<LocalRateLimitStats>,
}

impl Config {
    fn build(proto: proto::LocalRateLimit, cx: &mut BuildCx<'_>) -> Result<Self, Rejected> {
        let proto::LocalRateLimit { stat_prefix, token_bucket, runtime_enabled, share_key } = proto;
        if stat_prefix.is_empty() {
            return Err(cx.at("stat_prefix", |cx| cx.reject("value length must be at least 1 characters")));
        }
        let bucket = cx.at("token_bucket", |cx| {
            let Some(proto) = token_bucket else { return Err(cx.reject("value is required")) };
            let bucket = Arc::new(TokenBucket::build(&proto, cx)?);
            if share_key.is_empty() {
                return Ok(bucket);
            }
            // The key alone must not join buckets of different size.
            let key = format!("{share_key}\0{proto:?}");
            // Buckets of different processes in one test binary must stay apart.
            let process = Arc::as_ptr(&cx.env.stats) as usize;
            Ok(SHARED.bucket((process, key), bucket))
        })?;
        Ok(Self {
            bucket,
            enabled: RuntimeFlag::new(runtime_enabled, cx),
            stats: cx.env.stats.scope(&format!("local_rate_limit.{stat_prefix}")).cells(),
        })
    }
}

/// Buckets by process and share key, while somebody holds them.
struct SharedBuckets(Mutex<Option<Buckets>>);

/// The process as its statistics, and the share key.
type BucketKey = (usize, String);
type Buckets = HashMap<BucketKey, Weak<TokenBucket>>;

static SHARED: SharedBuckets = SharedBuckets(Mutex::new(None));

impl SharedBuckets {
    /// The bucket of `key`, `new` if there is none yet.
    fn bucket(&self, key: BucketKey, new: Arc<TokenBucket>) -> Arc<TokenBucket> {
        let mut buckets = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let buckets = buckets.get_or_insert_default();
        buckets.retain(|_, bucket| bucket.strong_count() > 0);
        if let Some(bucket) = buckets.get(&key).and_then(Weak::upgrade) {
            return bucket;
        }
        buckets.insert(key, Arc::downgrade(&new));
        new
    }
}

struct Filter(Arc<Config>);

impl NetworkFilter for Filter {
    fn on_connection<'a>(&'a mut self, info: &'a mut StreamInfo) -> ConnectionStep<'a> {
        let config = &*self.0;
        if !config.enabled.get() || config.bucket.take(Instant::now()) {
            return ConnectionStep::Continue;
        }
        config.stats.here().rate_limited.inc();
        // The flag that Envoy sets here.
        info.flags.set(ResponseFlag::UpstreamRetryLimitExceeded);
        info.local_close_reason = Some(DETAILS.into());
        ConnectionStep::Close(DETAILS.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{engine, env, stream_info};
    use prost::Message;
    use proxy_core::config::BuildEnv;
    use xds_api::envoy::r#type::v3::TokenBucket as ProtoBucket;

    fn config(tokens: u32, share_key: &str) -> proto::LocalRateLimit {
        proto::LocalRateLimit {
            stat_prefix: "p".into(),
            token_bucket: Some(ProtoBucket {
                max_tokens: tokens,
                tokens_per_fill: Some(1),
                fill_interval: Some(prost_types::Duration { seconds: 3600, nanos: 0 }),
            }),
            share_key: share_key.into(),
            ..Default::default()
        }
    }

    fn admitted(env: &BuildEnv, config: &proto::LocalRateLimit) -> Arc<dyn Fn() -> bool> {
        let built = LocalRateLimit.build(&config.encode_to_vec(), &mut BuildCx::new(env)).unwrap();
        let NetworkFilterConfig::Policy(create) = built else { panic!("not a policy") };
        Arc::new(move || {
            matches!(create(&engine()).on_connection(&mut stream_info()), ConnectionStep::Continue)
        })
    }

    #[test]
    fn connections_without_a_token_are_closed() {
        let env = env();
        let admitted = admitted(&env, &config(2, ""));
        assert_eq!([admitted(), admitted(), admitted()], [true, true, false]);
        let stats = env.stats.scope("local_rate_limit.p").cells::<LocalRateLimitStats>();
        assert_eq!(stats.here().rate_limited.value(), 1);
    }

    #[test]
    fn a_share_key_joins_equal_buckets_only() {
        let env = env();
        let (one, two) = (admitted(&env, &config(1, "k")), admitted(&env, &config(1, "k")));
        let (other, alone) = (admitted(&env, &config(2, "k")), admitted(&env, &config(1, "")));
        assert_eq!([one(), two(), other(), alone()], [true, false, true, true]);
    }

    #[test]
    fn a_bucket_that_fills_too_often_is_refused() {
        let env = env();
        let mut bad = config(1, "");
        bad.token_bucket.as_mut().unwrap().fill_interval =
            Some(prost_types::Duration { seconds: 0, nanos: 1 });
        let mut cx = BuildCx::new(&env);
        assert!(LocalRateLimit.build(&bad.encode_to_vec(), &mut cx).is_err());
        assert_eq!(cx.into_errors()[0].path, "token_bucket.fill_interval");
    }
}
