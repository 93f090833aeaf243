//! What holds for the requests of a bucket.

use std::time::{Duration, Instant};

use proxy_core::config::duration;
use xds_api::envoy::r#type::v3 as proto;
use xds_api::envoy::r#type::v3::rate_limit_strategy::{BlanketRule, Strategy as Proto};

use crate::shared::token_bucket::TokenBucket;

/// What is to hold (`type.v3.RateLimitStrategy`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Strategy {
    AllowAll,
    DenyAll,
    Tokens { most: u32, per_fill: u32, interval: Duration },
}

impl Strategy {
    /// Reads the message.
    ///
    /// # Errors
    /// The field that is wrong, and what is wrong with it.
    pub(super) fn read(proto: &proto::RateLimitStrategy) -> Result<Self, (&'static str, &'static str)> {
        let proto::RateLimitStrategy { strategy } = proto;
        match strategy {
            None => Err(("strategy", "value is required")),
            Some(Proto::BlanketRule(rule)) => match BlanketRule::try_from(*rule) {
                Ok(BlanketRule::AllowAll) => Ok(Self::AllowAll),
                Ok(BlanketRule::DenyAll) => Ok(Self::DenyAll),
                Err(_) => Err(("blanket_rule", "value must be one of the defined enum values")),
            },
            Some(Proto::RequestsPerTimeUnit(_)) => {
                Err(("requests_per_time_unit", "Envoy does not act on it: use token_bucket"))
            }
            Some(Proto::TokenBucket(bucket)) => Self::of_bucket(bucket),
        }
    }

    fn of_bucket(proto: &proto::TokenBucket) -> Result<Self, (&'static str, &'static str)> {
        let proto::TokenBucket { max_tokens, tokens_per_fill, fill_interval } = proto;
        let per_fill = tokens_per_fill.unwrap_or(1);
        let interval = fill_interval.as_ref().and_then(duration).unwrap_or_default();
        if *max_tokens == 0 || per_fill == 0 || interval.is_zero() {
            return Err(("token_bucket", "tokens, fills and the interval must be greater than 0"));
        }
        Ok(Self::Tokens { most: *max_tokens, per_fill, interval })
    }

    /// What holds from `now` on; a bucket of tokens is full.
    pub(super) fn begin(self, now: Instant) -> Rule {
        match self {
            Self::AllowAll => Rule::AllowAll,
            Self::DenyAll => Rule::DenyAll,
            Self::Tokens { most, per_fill, interval } => {
                Rule::Tokens(TokenBucket::new(most, per_fill, interval, now))
            }
        }
    }
}

/// What holds.
#[derive(Debug)]
pub(super) enum Rule {
    AllowAll,
    DenyAll,
    Tokens(TokenBucket),
}

impl Rule {
    /// The rule of `strategy` in place of this one: tokens in place of tokens begin with the same share of them, so that it gains nobody
    /// anything to be assigned others.
    pub(super) fn followed_by(&self, strategy: Strategy, now: Instant) -> Self {
        match (self, strategy.begin(now)) {
            (Self::Tokens(before), Self::Tokens(bucket)) => Self::Tokens(bucket.filled_to(before.share(now))),
            (_, rule) => rule,
        }
    }

    /// Whether a request passes at `now`.
    pub(super) fn admits(&self, now: Instant) -> bool {
        match self {
            Self::AllowAll => true,
            Self::DenyAll => false,
            Self::Tokens(bucket) => bucket.take(now),
        }
    }
}
