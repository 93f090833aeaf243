//! Pauses before a request is sent again.

use std::time::Duration;

use http::HeaderName;
use xds_api::envoy::config::route::v3::retry_policy as proto;
use xds_api::envoy::config::route::v3::retry_policy::ResetHeaderFormat;

use crate::config::{BuildCx, Rejected, duration};
use crate::head::ResponseHead;

/// Longest pause that hosts may ask for, if a policy does not say.
const MAX_RATE_LIMITED: Duration = Duration::from_secs(300);

/// Pauses at random, from nothing up to a length that doubles with every retry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BackOff {
    /// The longest pause before the next retry.
    next: Duration,
    /// The longest of all.
    max: Duration,
}

impl BackOff {
    /// Starts with pauses of up to `base`, which never are longer than ten times that.
    pub fn new(base: Duration) -> Self {
        let base = base.max(Duration::from_millis(1));
        Self { next: base, max: base.saturating_mul(10) }
    }

    /// Starts with pauses of up to `base`, which never are longer than `max`.
    pub fn up_to(base: Duration, max: Duration) -> Self {
        Self { max, ..Self::new(base) }
    }

    pub(super) fn build(proto: &proto::RetryBackOff, cx: &mut BuildCx<'_>) -> Result<Self, Rejected> {
        let proto::RetryBackOff { base_interval, max_interval } = proto;
        let millisecond = Duration::from_millis(1);
        let base = base_interval.as_ref().and_then(duration).unwrap_or_default().max(millisecond);
        let max = max_interval.as_ref().and_then(duration).map(|max| max.max(millisecond));
        if max.is_some_and(|max| max < base) {
            return Err(cx.at("max_interval", |cx| {
                cx.reject("retry_policy.max_interval must greater than or equal to the base_interval")
            }));
        }
        Ok(Self { max: max.unwrap_or(base.saturating_mul(10)), ..Self::new(base) })
    }

    /// The longest of all pauses.
    pub(super) fn longest(&self) -> Duration {
        self.max
    }

    /// The next pause.
    pub fn pause(&mut self, random: u64) -> Duration {
        let longest = self.next;
        self.next = self.next.saturating_mul(2).min(self.max);
        let millis = u64::try_from(longest.as_millis()).unwrap_or(u64::MAX).max(1);
        Duration::from_millis(random % millis)
    }
}

/// Pauses that hosts ask for in a header of their response.
#[derive(Debug)]
pub struct RateLimitedBackOff {
    headers: Box<[ResetHeader]>,
    max: Duration,
}

#[derive(Debug)]
struct ResetHeader {
    name: HeaderName,
    /// The value is a time, in seconds since 1970, and not a number of seconds.
    is_timestamp: bool,
}

impl RateLimitedBackOff {
    pub(super) fn build(
        proto: &proto::RateLimitedRetryBackOff,
        cx: &mut BuildCx<'_>,
    ) -> Result<Self, Rejected> {
        let proto::RateLimitedRetryBackOff { reset_headers, max_interval } = proto;
        let headers = cx.each("reset_headers", reset_headers, |proto, cx| {
            let proto::ResetHeader { name, format } = proto;
            let Ok(name) = HeaderName::from_bytes(name.to_ascii_lowercase().as_bytes()) else {
                return Err(cx.at("name", |cx| cx.reject(format!("'{name}' is not a header name"))));
            };
            Ok(ResetHeader { name, is_timestamp: *format == ResetHeaderFormat::UnixTimestamp as i32 })
        })?;
        let max = max_interval.as_ref().and_then(duration).unwrap_or(MAX_RATE_LIMITED);
        Ok(Self { headers: headers.into(), max })
    }

    /// The pause that `response` asks for at `now` (since 1970), and up to half of it more; `None` if it asks for none that
    /// is short enough.
    pub fn pause(&self, response: &ResponseHead, now: Duration, random: u64) -> Option<Duration> {
        let asked = self.headers.iter().filter_map(|header| header.asked(response, now));
        let asked = asked.into_iter().find(|asked| *asked <= self.max)?;
        let millis = u64::try_from(asked.as_millis()).ok().filter(|millis| *millis > 1)?;
        Some(asked + Duration::from_millis(random % (millis / 2).max(1)))
    }
}

impl ResetHeader {
    fn asked(&self, response: &ResponseHead, now: Duration) -> Option<Duration> {
        let value = response.headers.get(&self.name)?.to_str().ok()?;
        let seconds = Duration::from_secs(value.trim().parse().ok()?);
        match self.is_timestamp {
            false => Some(seconds),
            true => seconds.checked_sub(now).filter(|left| !left.is_zero()),
        }
    }
}
