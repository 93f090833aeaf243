//! What clients are told of their limits: `x-ratelimit-*` (draft-polli-ratelimit-headers-03) and `retry-after`.

use std::fmt::Write;

use bytes::Bytes;
use http::header::RETRY_AFTER;
use http::{HeaderMap, HeaderValue};
use proxy_core::headers::{X_RATELIMIT_LIMIT, X_RATELIMIT_REMAINING, X_RATELIMIT_RESET};
use proxy_core::rate_limit::HeadersOption;
use xds_api::envoy::service::ratelimit::v3::rate_limit_response::rate_limit::Unit;
use xds_api::envoy::service::ratelimit::v3::rate_limit_response::{Code, DescriptorStatus, RateLimit};

/// Whether each status is told: as its descriptor says, else as the filter does.
pub(super) struct Telling<'a> {
    /// What the filter says.
    pub(super) by_default: bool,
    /// What the descriptors say, in their order.
    pub(super) descriptors: &'a [HeadersOption],
}

impl Telling<'_> {
    fn of(&self, status: usize) -> bool {
        match self.descriptors.get(status).unwrap_or(&HeadersOption::Unspecified) {
            HeadersOption::Unspecified => self.by_default,
            HeadersOption::Off => false,
            HeadersOption::DraftVersion03 => true,
        }
    }
}

/// Tells of the limit that has the least left, and of all limits there are, if that one is told.
pub(super) fn tell_limit(statuses: &[DescriptorStatus], telling: &Telling<'_>, headers: &mut HeaderMap) {
    let mut least: Option<(&DescriptorStatus, &RateLimit, bool)> = None;
    let mut policies = String::new();
    for (index, status) in statuses.iter().enumerate() {
        let Some(limit) = &status.current_limit else { continue };
        let is_told = telling.of(index);
        if least.is_none_or(|(least, ..)| status.limit_remaining < least.limit_remaining) {
            least = Some((status, limit, is_told));
        }
        if is_told {
            write_policy(limit, &mut policies);
        }
    }
    let Some((status, limit, true)) = least else { return };
    let whole = format!("{}{policies}", limit.requests_per_unit);
    if let Ok(value) = HeaderValue::from_maybe_shared(Bytes::from(whole)) {
        headers.append(&X_RATELIMIT_LIMIT, value);
    }
    headers.append(&X_RATELIMIT_REMAINING, HeaderValue::from(status.limit_remaining));
    headers.append(&X_RATELIMIT_RESET, HeaderValue::from(seconds_left(status)));
}

/// `, 10;w=60;name="per-minute"`; nothing for a unit that is not known.
fn write_policy(limit: &RateLimit, policies: &mut String) {
    let unit: u64 = match Unit::try_from(limit.unit) {
        Ok(Unit::Second) => 1,
        Ok(Unit::Minute) => 60,
        Ok(Unit::Hour) => 60 * 60,
        Ok(Unit::Day) => 24 * 60 * 60,
        Ok(Unit::Week) => 7 * 24 * 60 * 60,
        Ok(Unit::Month) => 30 * 24 * 60 * 60,
        Ok(Unit::Year) => 365 * 24 * 60 * 60,
        Ok(Unit::Unknown) | Err(_) => return,
    };
    let window = unit.saturating_mul(limit.unit_multiplier.unwrap_or(1).max(1).into());
    // (A string takes whatever is written.)
    let _ = write!(policies, ", {};w={window}", limit.requests_per_unit);
    if !limit.name.is_empty() {
        let _ = write!(policies, ";name=\"{}\"", limit.name);
    }
}

/// Tells when to come again: when the last of the limits is reset that the request is over.
pub(super) fn tell_retry_after(statuses: &[DescriptorStatus], headers: &mut HeaderMap) {
    let over = statuses.iter().filter(|status| status.code == Code::OverLimit as i32);
    if let Some(seconds) = over.filter(|status| status.duration_until_reset.is_some()).map(seconds_left).max()
    {
        headers.insert(RETRY_AFTER, HeaderValue::from(seconds.max(1)));
    }
}

fn seconds_left(status: &DescriptorStatus) -> i64 {
    status.duration_until_reset.map_or(0, |duration| duration.seconds)
}
