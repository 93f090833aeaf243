//! Timeouts of forwarded requests: the route's, the `x-envoy-*` headers', and gRPC's.
//!
//! `x-envoy-upstream-rq-timeout-ms` is honoured wherever it stands: the connection manager removes it from requests that
//! are not internal, and a filter that adds it means it.
//! Source: Envoy `docs/root/faq/configuration/timeouts.rst`, `docs/root/configuration/http/http_filters/router_filter.rst`.

use std::time::Duration;

use http::header::{HeaderMap, HeaderName, HeaderValue};
use proxy_core::config::{BuildCx, Rejected, duration};
use proxy_core::head::RequestHead;
use proxy_core::headers::{
    GRPC_TIMEOUT, X_ENVOY_EXPECTED_RQ_TIMEOUT_MS, X_ENVOY_UPSTREAM_RQ_PER_TRY_TIMEOUT_MS,
    X_ENVOY_UPSTREAM_RQ_TIMEOUT_MS, envoy_prefix, number,
};
use xds_api::envoy::config::route::v3 as proto;

use super::rewrite::EnvoyHeaders;

/// Envoy's default of `RouteAction.timeout`.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(15);
/// gRPC's limit on the number in `grpc-timeout`: eight digits.
const MAX_GRPC_TIMEOUT_VALUE: u64 = 99_999_999;

/// A timeout that a route may set, turn off, or leave to the connection manager.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Override {
    /// The connection manager's setting holds.
    #[default]
    Inherit,
    /// Off.
    Off,
    /// This long.
    After(Duration),
}

impl Override {
    fn new(proto: Option<Duration>) -> Self {
        match proto {
            None => Self::Inherit,
            Some(Duration::ZERO) => Self::Off,
            Some(duration) => Self::After(duration),
        }
    }

    /// The timeout in force when the connection manager has `inherited`.
    pub fn or(self, inherited: Option<Duration>) -> Option<Duration> {
        match self {
            Self::Inherit => inherited,
            Self::Off => None,
            Self::After(duration) => Some(duration),
        }
    }
}

/// Whether `x-envoy-expected-rq-timeout-ms` of the request is believed (`Router.respect_expected_rq_timeout`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExpectedTimeout {
    /// It is, before `x-envoy-upstream-rq-timeout-ms`.
    Respected,
    /// It is overwritten.
    Overwritten,
}

/// The timeouts of one request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[allow(clippy::struct_excessive_bools, reason = "independent facts")]
pub struct Timeouts {
    /// From the end of the request to the end of the response, all tries included (504 `upstream request timeout`).
    pub global: Option<Duration>,
    /// Of each try; never as long as `global`.
    pub per_try: Option<Duration>,
    /// Without any event on the stream.
    pub idle: Override,
    /// From the start of the stream to its end, whatever happens.
    pub max_stream: Override,
    /// What `grpc-timeout` says upstream; `None` leaves the header as it is.
    pub grpc_timeout: Option<Duration>,
    /// Whether `grpc-timeout` says how long the stream may last.
    grpc_follows_max_stream: bool,
    /// Whether `grpc-timeout` follows the time that is left (deprecated `max_grpc_timeout`).
    grpc_follows_expected: bool,
    /// Whether `x-envoy-expected-rq-timeout-ms` of the request stays.
    keeps_expected: bool,
    /// Whether the request has headers that ask something of the router, about timeouts or retries.
    pub(crate) is_asked: bool,
    /// Whether a try that takes too long goes on, so that it has the time of all.
    pub(crate) hedges: bool,
}

/// The timeouts of one route.
#[derive(Clone, Copy, Debug)]
pub struct RouteTimeouts {
    timeout: Option<Duration>,
    idle: Override,
    /// While a complete response waits for the client's HTTP/2 window.
    pub(super) flush: Override,
    max_grpc_timeout: Option<Duration>,
    grpc_timeout_offset: Option<Duration>,
    max_stream: Option<MaxStreamDuration>,
}

/// `max_stream_duration`; its presence makes the route's `timeout` and `max_grpc_timeout` count no more.
#[derive(Clone, Copy, Debug)]
struct MaxStreamDuration {
    max: Override,
    grpc_max: Option<Duration>,
    grpc_offset: Option<Duration>,
}

impl RouteTimeouts {
    pub(super) fn build(proto: &proto::RouteAction, cx: &mut BuildCx<'_>) -> Result<Self, Rejected> {
        let timeout = read("timeout", proto.timeout.as_ref(), cx);
        let idle = read("idle_timeout", proto.idle_timeout.as_ref(), cx);
        let flush = read("flush_timeout", proto.flush_timeout.as_ref(), cx);
        #[allow(deprecated, reason = "still sent by control planes")]
        let (max_grpc_timeout, grpc_timeout_offset) = (
            read("max_grpc_timeout", proto.max_grpc_timeout.as_ref(), cx),
            read("grpc_timeout_offset", proto.grpc_timeout_offset.as_ref(), cx),
        );
        let max_stream = match &proto.max_stream_duration {
            None => None,
            Some(proto) => Some(cx.at("max_stream_duration", |cx| MaxStreamDuration::build(proto, cx))?),
        };
        Ok(Self {
            timeout: match timeout? {
                None => Some(DEFAULT_TIMEOUT),
                Some(timeout) => not_zero(timeout),
            },
            idle: Override::new(idle?),
            flush: Override::new(flush?),
            max_grpc_timeout: max_grpc_timeout?,
            grpc_timeout_offset: grpc_timeout_offset?,
            max_stream,
        })
    }

    /// The timeouts for `request`.
    pub(super) fn for_request(
        &self,
        request: &RequestHead,
        expected: ExpectedTimeout,
        per_try: Option<Duration>,
    ) -> Timeouts {
        let headers = &request.headers;
        let is_grpc = request.is_grpc();
        let grpc_header = grpc_timeout(headers);
        let mut timeouts = Timeouts { idle: self.idle, ..Timeouts::default() };
        match (&self.max_stream, self.max_grpc_timeout) {
            (Some(max_stream), _) => timeouts.max_stream = max_stream.for_grpc_timeout(grpc_header),
            (None, Some(max)) if is_grpc => {
                timeouts.global = self.capped_grpc(grpc_header, max);
                timeouts.grpc_follows_expected = true;
            }
            (None, _) => timeouts.global = self.timeout,
        }
        timeouts.grpc_follows_max_stream = is_grpc;
        timeouts.resolve_max_stream(None);
        timeouts.is_asked = asks_router(headers);
        if !timeouts.is_asked {
            timeouts.per_try = timeouts.sensible(per_try);
            return timeouts;
        }
        let from_peer = (expected == ExpectedTimeout::Respected)
            .then(|| headers.get(&*X_ENVOY_EXPECTED_RQ_TIMEOUT_MS))
            .flatten();
        timeouts.keeps_expected = from_peer.is_some();
        let asked = match from_peer {
            Some(_) => milliseconds(headers, &X_ENVOY_EXPECTED_RQ_TIMEOUT_MS),
            None => milliseconds(headers, &X_ENVOY_UPSTREAM_RQ_TIMEOUT_MS),
        };
        if let Some(asked) = asked {
            timeouts.global = not_zero(asked);
        }
        let asked = milliseconds(headers, &X_ENVOY_UPSTREAM_RQ_PER_TRY_TIMEOUT_MS);
        timeouts.per_try = timeouts.sensible(asked.map_or(per_try, not_zero));
        timeouts
    }

    /// The client's gRPC timeout, shortened by the offset, within `max`; no timeout and zero mean "for ever".
    fn capped_grpc(&self, header: Option<Duration>, max: Duration) -> Option<Duration> {
        let mut asked = header.unwrap_or(Duration::ZERO);
        if let Some(offset) = self.grpc_timeout_offset
            && offset < asked
        {
            asked -= offset;
        }
        if !max.is_zero() && (asked.is_zero() || asked > max) {
            asked = max;
        }
        not_zero(asked)
    }
}

fn read(
    field: &'static str,
    value: Option<&prost_types::Duration>,
    cx: &mut BuildCx<'_>,
) -> Result<Option<Duration>, Rejected> {
    let Some(value) = value else { return Ok(None) };
    match duration(value) {
        Some(duration) => Ok(Some(duration)),
        None => Err(cx.at(field, |cx| cx.reject("a timeout must not be negative"))),
    }
}

impl MaxStreamDuration {
    fn build(proto: &proto::route_action::MaxStreamDuration, cx: &mut BuildCx<'_>) -> Result<Self, Rejected> {
        let proto::route_action::MaxStreamDuration {
            max_stream_duration,
            grpc_timeout_header_max,
            grpc_timeout_header_offset,
        } = proto;
        let max = read("max_stream_duration", max_stream_duration.as_ref(), cx);
        let grpc_max = read("grpc_timeout_header_max", grpc_timeout_header_max.as_ref(), cx);
        let grpc_offset = read("grpc_timeout_header_offset", grpc_timeout_header_offset.as_ref(), cx);
        Ok(Self { max: Override::new(max?), grpc_max: grpc_max?, grpc_offset: grpc_offset? })
    }

    /// A `grpc-timeout` counts, of any request, if the route says how long it may be at most; zero means no limit.
    fn for_grpc_timeout(&self, grpc_header: Option<Duration>) -> Override {
        let (Some(asked), Some(max)) = (grpc_header, self.grpc_max) else { return self.max };
        let limit = if max.is_zero() { asked } else { asked.min(max) };
        // A request that says zero, or less than the offset, is out of time at once.
        Override::After(limit.saturating_sub(self.grpc_offset.unwrap_or_default()))
    }
}

impl Timeouts {
    /// A timeout of each try, if it can pass before that of all of them.
    fn sensible(&self, per_try: Option<Duration>) -> Option<Duration> {
        per_try.filter(|per_try| self.global.is_none_or(|global| *per_try < global))
    }

    /// How long the stream may last when the connection manager has `inherited`; upstream gRPC servers are told of the route's own.
    pub fn resolve_max_stream(&mut self, inherited: Option<Duration>) -> Option<Duration> {
        self.grpc_timeout = self.max_stream.or(None).filter(|_| self.grpc_follows_max_stream);
        self.max_stream.or(inherited)
    }

    /// Tells the upstream: sets `x-envoy-expected-rq-timeout-ms` and `grpc-timeout`, removes the headers that asked for
    /// timeouts. `elapsed` is the time since the first try began.
    pub fn write_headers(&self, request: &mut RequestHead, elapsed: Duration, envoy_headers: EnvoyHeaders) {
        let headers = &mut request.headers;
        if self.is_asked {
            if !self.keeps_expected {
                headers.remove(&*X_ENVOY_UPSTREAM_RQ_TIMEOUT_MS);
            }
            headers.remove(&*X_ENVOY_UPSTREAM_RQ_PER_TRY_TIMEOUT_MS);
        }
        if let Some(grpc_timeout) = self.grpc_timeout {
            set_grpc_timeout(headers, grpc_timeout);
        }
        let per_try = self.per_try.filter(|_| !self.hedges);
        let Some(mut expected) = per_try.or(self.global) else { return };
        if let Some(global) = self.global {
            // Out of time: zero would mean "for ever".
            let elapsed = Duration::from_millis(whole_milliseconds(elapsed));
            let left = global.checked_sub(elapsed).filter(|left| !left.is_zero());
            expected = expected.min(left.unwrap_or(Duration::from_millis(1)));
        }
        if envoy_headers == EnvoyHeaders::Added {
            let value = number(whole_milliseconds(expected));
            headers.insert(&*X_ENVOY_EXPECTED_RQ_TIMEOUT_MS, value);
        }
        if self.grpc_follows_expected {
            set_grpc_timeout(headers, expected);
        }
    }
}

/// Whether any header may ask something of the router. One pass over the names saves most requests nine look-ups.
fn asks_router(headers: &HeaderMap) -> bool {
    let prefix = envoy_prefix();
    let asks = |name: &HeaderName| {
        let rest = name.as_str().strip_prefix(prefix);
        rest.is_some_and(|rest| !matches!(rest, "internal" | "external-address"))
    };
    headers.keys().any(asks)
}

fn not_zero(duration: Duration) -> Option<Duration> {
    (!duration.is_zero()).then_some(duration)
}

fn milliseconds(headers: &HeaderMap, name: &'static HeaderName) -> Option<Duration> {
    let text = headers.get(name)?.to_str().ok()?;
    text.trim().parse().ok().map(Duration::from_millis)
}

fn whole_milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// Reads `grpc-timeout`: up to eight digits and a unit (gRPC over HTTP2, "Timeout").
fn grpc_timeout(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get(&GRPC_TIMEOUT)?.as_bytes();
    let (unit, digits) = text.split_last()?;
    if digits.is_empty() || digits.len() > 8 || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let number: u64 = std::str::from_utf8(digits).ok()?.parse().ok()?;
    Some(match unit {
        b'H' => Duration::from_secs(number * 3600),
        b'M' => Duration::from_secs(number * 60),
        b'S' => Duration::from_secs(number),
        b'm' => Duration::from_millis(number),
        b'u' => Duration::from_millis(number.div_ceil(1000)),
        b'n' => Duration::from_millis(number.div_ceil(1_000_000)),
        _ => return None,
    })
}

fn set_grpc_timeout(headers: &mut HeaderMap, timeout: Duration) {
    let mut number = whole_milliseconds(timeout);
    let mut unit = 'm';
    for (next, factor) in [('S', 1000), ('M', 60), ('H', 60)] {
        if number <= MAX_GRPC_TIMEOUT_VALUE {
            break;
        }
        number /= factor;
        unit = next;
    }
    if let Ok(value) = HeaderValue::try_from(format!("{}{unit}", number.min(MAX_GRPC_TIMEOUT_VALUE))) {
        headers.insert(&GRPC_TIMEOUT, value);
    }
}

#[cfg(test)]
mod tests;
