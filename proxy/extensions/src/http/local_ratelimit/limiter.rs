//! The buckets of a configuration: which ones a request takes tokens from, and in which order.

use std::cmp::Ordering;
use std::sync::Arc;
use std::time::Instant;

use proxy_core::config::{BuildCx, Rejected};
use proxy_core::rate_limit::{Descriptor, Entry, HeadersOption};
use proxy_core::upstream::LocalCluster;
use smallvec::SmallVec;
use xds_api::envoy::extensions::common::ratelimit::v3::LocalRateLimitDescriptor;
use xds_api::envoy::extensions::common::ratelimit::v3::rate_limit_descriptor::Entry as EntryProto;
use xds_api::envoy::r#type::v3::TokenBucket as BucketProto;

use super::recent::Recent;
use crate::shared::token_bucket::TokenBucket;

/// How many buckets a descriptor with values left open keeps, where nothing is said.
const DEFAULT_KEPT: u32 = 20;

/// Buckets.
pub(super) struct Limiter {
    default: Option<Arc<Bucket>>,
    /// Requests that a descriptor takes need no token of the default bucket.
    spares_default: bool,
    /// Descriptors and their buckets, sorted by their entries.
    fixed: Box<[(Key, Arc<Bucket>)]>,
    /// Descriptors whose values are open, in the order of the configuration.
    open: Box<[Open]>,
    /// The cluster whose members share the limits: each takes for a token as many as there are members.
    shared_with: Option<Arc<LocalCluster>>,
}

/// Whether connections have buckets of their own.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Connections {
    Together,
    Apart,
}

/// A bucket.
pub(super) struct Bucket {
    pub(super) tokens: TokenBucket,
    /// It only looks on: who gets no token passes.
    shadow: bool,
}

/// The entries of a descriptor: keys and values.
pub(super) type Key = Box<[(Box<str>, Box<str>)]>;

/// A descriptor with values left open (empty): each set of values that comes has a bucket of its own.
struct Open {
    key: Key,
    like: Bucket,
    buckets: Recent,
}

/// A bucket that a request takes tokens from.
struct Asked {
    bucket: Arc<Bucket>,
    /// How many tokens; fewer than none are given back.
    hits: f64,
    headers: HeadersOption,
}

impl Asked {
    fn tokens(&self) -> &TokenBucket {
        &self.bucket.tokens
    }
}

/// What becomes of a request.
pub(super) struct Outcome {
    pub(super) allowed: bool,
    /// A bucket that only looks on had no token.
    pub(super) shadowed: bool,
    /// The bucket that decided, or else the first that was asked.
    pub(super) bucket: Option<Arc<Bucket>>,
    pub(super) headers: HeadersOption,
}

impl Limiter {
    pub(super) fn build(
        default: Option<&BucketProto>,
        descriptors: &[LocalRateLimitDescriptor],
        kept: Option<u32>,
        connections: Connections,
        cx: &mut BuildCx<'_>,
    ) -> Result<Self, Rejected> {
        let default = default.map(|proto| {
            cx.at("token_bucket", |cx| {
                Ok(Arc::new(Bucket { tokens: TokenBucket::build(proto, cx)?, shadow: false }))
            })
        });
        let (mut fixed, mut open) = (Vec::new(), Vec::new());
        let kept = kept.unwrap_or(DEFAULT_KEPT) as usize;
        let built = cx.each("descriptors", descriptors, |proto, cx| {
            let (key, bucket) = build_descriptor(proto, connections, cx)?;
            if key.iter().any(|(_, value)| value.is_empty()) {
                open.push(Open { key, like: bucket, buckets: Recent::new(kept) });
                return Ok(());
            }
            if fixed.iter().any(|(known, _)| *known == key) {
                return Err(cx.reject("duplicate descriptor in the local rate descriptor"));
            }
            fixed.push((key, Arc::new(bucket)));
            Ok(())
        });
        let default = default.transpose()?;
        built?;
        fixed.sort_by(|(one, _), (other, _)| one.cmp(other));
        Ok(Self { default, spares_default: false, fixed: fixed.into(), open: open.into(), shared_with: None })
    }

    /// Requests that a descriptor takes need no token of the default bucket (`always_consume_default_token_bucket`).
    pub(super) fn sparing_the_default(mut self) -> Self {
        self.spares_default = true;
        self
    }

    /// The members of this cluster share the limits (`local_cluster_rate_limit`).
    pub(super) fn shared_with(mut self, cluster: Option<Arc<LocalCluster>>) -> Self {
        self.shared_with = cluster;
        self
    }

    /// This proxy's share of the limits; all of them while its cluster has no members.
    fn share(&self) -> f64 {
        let members = self.shared_with.as_ref().map_or(1, |cluster| cluster.hosts().len());
        #[expect(clippy::cast_precision_loss, reason = "no cluster has so many members")]
        let members = members.max(1) as f64;
        1.0 / members
    }

    /// Another one like it, full at `now`.
    pub(super) fn another(&self, now: Instant) -> Self {
        let another = |bucket: &Arc<Bucket>| Arc::new(bucket.another(now));
        let fixed = self.fixed.iter().map(|(key, bucket)| (key.clone(), another(bucket)));
        // (Where connections have buckets of their own, no values are left open.)
        Self {
            default: self.default.as_ref().map(another),
            spares_default: self.spares_default,
            fixed: fixed.collect(),
            open: Box::default(),
            shared_with: self.shared_with.clone(),
        }
    }

    /// Whether it matters what requests are counted as.
    pub(super) fn has_descriptors(&self) -> bool {
        !self.fixed.is_empty() || !self.open.is_empty()
    }

    /// Takes the tokens of a request. Buckets that fill slowly come first, the default one last.
    pub(super) fn admit(&self, descriptors: &[Descriptor<'_>], now: Instant) -> Outcome {
        let asked = descriptors.iter().filter_map(|descriptor| {
            let bucket = self.find(descriptor, now)?;
            Some(Asked { bucket, hits: hits(descriptor), headers: descriptor.headers })
        });
        let mut asked: SmallVec<[Asked; 4]> = asked.collect();
        asked.sort_by(|one, other| one.tokens().per_second().total_cmp(&other.tokens().per_second()));
        let share = self.share();
        let mut shadowed = false;
        for Asked { bucket, hits, headers } in &asked {
            if bucket.tokens.take_many(*hits / share, now) {
                continue;
            }
            if !bucket.shadow {
                let (bucket, headers) = (Some(bucket.clone()), *headers);
                return Outcome { allowed: false, shadowed, bucket, headers };
            }
            shadowed = true;
        }
        let first = asked.into_iter().next();
        let default = self.default.as_ref().filter(|_| first.is_none() || !self.spares_default);
        if let Some(default) = default
            && !default.tokens.take_many(1.0 / share, now)
        {
            let bucket = Some(default.clone());
            return Outcome { allowed: false, shadowed, bucket, headers: HeadersOption::Unspecified };
        }
        let (bucket, headers) = match first {
            Some(asked) => (Some(asked.bucket), asked.headers),
            None => (default.cloned(), HeadersOption::Unspecified),
        };
        Outcome { allowed: true, shadowed, bucket, headers }
    }

    fn find(&self, descriptor: &Descriptor<'_>, now: Instant) -> Option<Arc<Bucket>> {
        let fixed = self.fixed.binary_search_by(|(key, _)| compare(key, &descriptor.entries));
        if let Some((_, bucket)) = fixed.ok().and_then(|at| self.fixed.get(at)) {
            return Some(bucket.clone());
        }
        let open = self.open.iter().find(|open| open.matches(&descriptor.entries))?;
        Some(open.buckets.get(&descriptor.entries, || open.like.another(now)))
    }
}

impl Open {
    fn matches(&self, entries: &[Entry<'_>]) -> bool {
        let equal = |((key, value), entry): (&(Box<str>, Box<str>), &Entry<'_>)| {
            **key == *entry.key && (value.is_empty() || **value == *entry.value)
        };
        self.key.len() == entries.len() && self.key.iter().zip(entries).all(equal)
    }
}

impl Bucket {
    fn another(&self, now: Instant) -> Self {
        Self { tokens: self.tokens.another(now), shadow: self.shadow }
    }
}

fn hits(descriptor: &Descriptor<'_>) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "nobody has so many tokens")]
    let hits = descriptor.hits.unwrap_or(1) as f64;
    if descriptor.negative_hits { -hits } else { hits }
}

/// How a key of the configuration compares with what a request is counted as.
fn compare(key: &Key, entries: &[Entry<'_>]) -> Ordering {
    let own = key.iter().map(|(key, value)| (&**key, &**value));
    own.cmp(entries.iter().map(|entry| (&*entry.key, &*entry.value)))
}

fn build_descriptor(
    proto: &LocalRateLimitDescriptor,
    connections: Connections,
    cx: &mut BuildCx<'_>,
) -> Result<(Key, Bucket), Rejected> {
    let LocalRateLimitDescriptor { entries, token_bucket, shadow_mode } = proto;
    let key = cx.each("entries", entries, |EntryProto { key, value }, cx| {
        if value.is_empty() && connections == Connections::Apart {
            let reason = "local rate descriptor value cannot be empty in per connection rate limit mode";
            return Err(cx.at("value", |cx| cx.reject(reason)));
        }
        Ok((key.as_str().into(), value.as_str().into()))
    });
    let tokens = cx.at("token_bucket", |cx| match token_bucket {
        Some(proto) => TokenBucket::build(proto, cx),
        None => Err(cx.reject("value is required")),
    });
    Ok((key?.into(), Bucket { tokens: tokens?, shadow: *shadow_mode }))
}

#[cfg(test)]
mod simulation;
