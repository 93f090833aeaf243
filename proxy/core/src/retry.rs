//! Retry policies: for what a request is sent again, how often, after which pause, and to which hosts not.
//!
//! A policy is configuration and never changes; what one request has used of it is the router's business.
//! Source: `envoy/config/route/v3/route_components.proto` (`RetryPolicy`), Envoy
//! `docs/root/configuration/http/http_filters/router_filter.rst` (`x-envoy-retry-on`, `x-envoy-retry-grpc-on`).

mod back_off;
mod fields;
mod hosts;
#[cfg(test)]
mod tests;

use std::time::Duration;

use http::HeaderMap;
use xds_api::envoy::config::core::v3 as core;
use xds_api::envoy::config::route::v3 as proto;

pub use self::back_off::{BackOff, RateLimitedBackOff};
pub use self::fields::FIELDS;
pub use self::hosts::{HostPredicate, PreviousPriorities};
use crate::config::{BuildCx, Rejected, duration};
use crate::grpc;
use crate::head::ResponseHead;
use crate::matcher::HeaderMatcher;
use crate::stream_error::UpstreamReset;

/// The longest first pause before a call is made again, if its policy does not say.
const CALL_PAUSE: Duration = Duration::from_secs(1);

/// For what a request is sent again: a set of conditions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RetryOn(u32);

/// The conditions, as a policy and as a header name them. `http3-post-connect-failure` is known and never true: no host is
/// spoken to in HTTP/3.
const HTTP_CONDITIONS: [(&str, RetryOn); 11] = [
    ("5xx", RetryOn::SERVER_ERROR),
    ("gateway-error", RetryOn::GATEWAY_ERROR),
    ("connect-failure", RetryOn::CONNECT_FAILURE),
    ("envoy-ratelimited", RetryOn::ENVOY_RATE_LIMITED),
    ("retriable-4xx", RetryOn::RETRIABLE_4XX),
    ("refused-stream", RetryOn::REFUSED_STREAM),
    ("retriable-status-codes", RetryOn::RETRIABLE_STATUS_CODES),
    ("retriable-headers", RetryOn::RETRIABLE_HEADERS),
    ("reset", RetryOn::RESET),
    ("reset-before-request", RetryOn::RESET_BEFORE_REQUEST),
    ("http3-post-connect-failure", RetryOn::HTTP3_POST_CONNECT_FAILURE),
];

/// The conditions of gRPC, with the status that fulfils each.
const GRPC_CONDITIONS: [(&str, RetryOn, u32); 5] = [
    ("cancelled", RetryOn(1 << 16), 1),
    ("deadline-exceeded", RetryOn(1 << 17), 4),
    ("resource-exhausted", RetryOn(1 << 18), 8),
    ("internal", RetryOn(1 << 19), 13),
    ("unavailable", RetryOn(1 << 20), 14),
];

impl RetryOn {
    const SERVER_ERROR: Self = Self(1);
    const GATEWAY_ERROR: Self = Self(1 << 1);
    const CONNECT_FAILURE: Self = Self(1 << 2);
    const ENVOY_RATE_LIMITED: Self = Self(1 << 3);
    const RETRIABLE_4XX: Self = Self(1 << 4);
    const REFUSED_STREAM: Self = Self(1 << 5);
    const RETRIABLE_STATUS_CODES: Self = Self(1 << 6);
    const RETRIABLE_HEADERS: Self = Self(1 << 7);
    const RESET: Self = Self(1 << 8);
    const RESET_BEFORE_REQUEST: Self = Self(1 << 9);
    const HTTP3_POST_CONNECT_FAILURE: Self = Self(1 << 10);

    /// Reads a list like `x-envoy-retry-on`; words that mean nothing are passed over, as in Envoy.
    pub fn http(list: &str) -> Self {
        let known = |word| HTTP_CONDITIONS.iter().find(|(name, _)| *name == word).map(|(_, on)| *on);
        Self::union(list, known)
    }

    /// Reads a list like `x-envoy-retry-grpc-on`.
    pub fn grpc(list: &str) -> Self {
        let known = |word| GRPC_CONDITIONS.iter().find(|(name, _, _)| *name == word).map(|(_, on, _)| *on);
        Self::union(list, known)
    }

    fn union<'t>(list: &'t str, known: impl Fn(&'t str) -> Option<Self>) -> Self {
        list.split(',').filter_map(|word| known(word.trim())).fold(Self::default(), Self::or)
    }

    /// The conditions of both.
    #[must_use]
    pub fn or(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Whether there is none.
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    fn has(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }

    fn has_grpc_status(self, headers: &HeaderMap) -> bool {
        let asked = GRPC_CONDITIONS.iter().filter(|(_, on, _)| self.has(*on));
        let mut asked = asked.map(|(_, _, status)| *status).peekable();
        // (Most policies ask for none: the header is not looked up then.)
        asked.peek().is_some()
            && grpc::status_in(headers).is_some_and(|status| asked.any(|asked| asked == status))
    }
}

/// What makes a response one to try again for.
#[derive(Clone, Copy, Debug)]
pub struct ResponseRule<'r> {
    /// The conditions.
    pub on: RetryOn,
    /// Status codes beside those of the policy.
    pub status_codes: &'r [u32],
    /// Headers beside those of the policy, whatever their values.
    pub header_names: &'r [http::HeaderName],
    /// The policy, if there is one.
    pub policy: Option<&'r RetryPolicy>,
    /// The request came in early data, whose host must not see it again for having been early.
    pub is_early: bool,
}

/// What is to be done about a failed try.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Nothing.
    Keep,
    /// It is tried again after a pause.
    AfterPause,
    /// It is tried again at once.
    AtOnce,
}

impl ResponseRule<'_> {
    /// Whether `response` is one to try again for.
    pub fn judge(&self, response: &ResponseHead) -> Decision {
        use crate::headers::X_ENVOY_RATELIMITED;
        let decision = self.judge_as_if_not_limited(response);
        let tried_if_limited = self.on.has(RetryOn::ENVOY_RATE_LIMITED);
        // Most responses are spared the look.
        if (tried_if_limited || decision != Decision::Keep)
            && response.headers.contains_key(&*X_ENVOY_RATELIMITED)
        {
            // It comes from another proxy, and means what it says.
            return if tried_if_limited { Decision::AfterPause } else { Decision::Keep };
        }
        decision
    }

    fn judge_as_if_not_limited(&self, response: &ResponseHead) -> Decision {
        let status = response.status.as_u16();
        if self.on.has(RetryOn::SERVER_ERROR) && (500..600).contains(&status)
            || self.on.has(RetryOn::GATEWAY_ERROR) && (502..=504).contains(&status)
            || self.on.has(RetryOn::RETRIABLE_4XX) && status == 409
        {
            return Decision::AfterPause;
        }
        if self.on.has(RetryOn::RETRIABLE_STATUS_CODES) && self.names_status(u32::from(status)) {
            // "Too early" is over when the request is sent again.
            match (status == 425, self.is_early) {
                (false, _) => return Decision::AfterPause,
                (true, false) => return Decision::AtOnce,
                (true, true) => {}
            }
        }
        let named = self.on.has(RetryOn::RETRIABLE_HEADERS) && self.names_header(response);
        match named || self.on.has_grpc_status(&response.headers) {
            true => Decision::AfterPause,
            false => Decision::Keep,
        }
    }

    fn names_status(&self, status: u32) -> bool {
        let of_policy = self.policy.map_or(&[][..], |policy| &policy.status_codes);
        of_policy.contains(&status) || self.status_codes.contains(&status)
    }

    fn names_header(&self, response: &ResponseHead) -> bool {
        let of_policy = self.policy.map_or(&[][..], |policy| &policy.headers);
        of_policy.iter().any(|header| header.matches_response(response))
            || self.header_names.iter().any(|name| response.headers.contains_key(name))
    }
}

impl RetryOn {
    /// Whether a stream that ended without a response is one to try again for; `started` if anything of the request was sent.
    pub fn judge_reset(self, reset: UpstreamReset, started: bool) -> Decision {
        let again = match reset {
            // A retry would only add to the load.
            UpstreamReset::Overflow => false,
            _ if !started && self.has(Self::RESET_BEFORE_REQUEST) => true,
            _ if self.has(Self(Self::RESET.0 | Self::SERVER_ERROR.0 | Self::GATEWAY_ERROR.0)) => true,
            UpstreamReset::RemoteRefused => self.has(Self::REFUSED_STREAM),
            UpstreamReset::ConnectFailure
            | UpstreamReset::LocalConnectFailure
            | UpstreamReset::ConnectTimeout => self.has(Self::CONNECT_FAILURE),
            UpstreamReset::ConnectionTermination
            | UpstreamReset::RemoteReset
            | UpstreamReset::LocalReset
            | UpstreamReset::ProtocolError => false,
        };
        if again { Decision::AfterPause } else { Decision::Keep }
    }
}

/// A retry policy.
#[derive(Debug)]
pub struct RetryPolicy {
    /// For what a request is sent again.
    pub on: RetryOn,
    /// How often at most, after the first time.
    pub retries: u32,
    /// How long a try may take, from the complete request to the response's head.
    pub per_try: Option<Duration>,
    /// How long nothing may move in a try.
    pub per_try_idle: Option<Duration>,
    /// The pause before a retry, if not what the runtime or the default says.
    pub back_off: Option<BackOff>,
    /// The pause that hosts ask for.
    pub rate_limited: Option<RateLimitedBackOff>,
    /// Hosts that are not tried again.
    pub hosts: Box<[HostPredicate]>,
    /// How often another host is picked for one that is not wanted.
    pub host_attempts: u32,
    /// Priorities that are not tried again.
    pub priorities: Option<PreviousPriorities>,
    status_codes: Box<[u32]>,
    headers: Box<[HeaderMatcher]>,
    /// Only requests that match one of them are sent again, if there are any.
    pub request_headers: Box<[HeaderMatcher]>,
    /// Whether the cluster is chosen anew for each try, where the route leaves a choice.
    pub refreshes_cluster: bool,
}

impl PartialEq for RetryPolicy {
    fn eq(&self, other: &Self) -> bool {
        std::ptr::eq(self, other)
    }
}

impl RetryPolicy {
    /// Reads the message.
    pub fn build(proto: &proto::RetryPolicy, cx: &mut BuildCx<'_>) -> Result<Self, Rejected> {
        let proto::RetryPolicy {
            retry_on,
            num_retries,
            per_try_timeout,
            per_try_idle_timeout,
            retry_priority,
            retry_host_predicate,
            retry_options_predicates,
            host_selection_retry_max_attempts,
            retriable_status_codes,
            retry_back_off,
            rate_limited_retry_back_off,
            retriable_headers,
            retriable_request_headers,
            refresh_cluster_on_retry,
        } = proto;
        let no_options = cx.reject_if(
            !retry_options_predicates.is_empty(),
            "retry_options_predicates",
            fields::NO_OPTIONS,
        );
        let hosts = cx.each("retry_host_predicate", retry_host_predicate, HostPredicate::build);
        let priorities = match retry_priority {
            None => Ok(None),
            Some(proto) => cx.at("retry_priority", |cx| PreviousPriorities::build(proto, cx)).map(Some),
        };
        let back_off = match retry_back_off {
            None => Ok(None),
            Some(proto) => cx.at("retry_back_off", |cx| BackOff::build(proto, cx)).map(Some),
        };
        let rate_limited = match rate_limited_retry_back_off {
            None => Ok(None),
            Some(proto) => {
                cx.at("rate_limited_retry_back_off", |cx| RateLimitedBackOff::build(proto, cx)).map(Some)
            }
        };
        let headers = HeaderMatcher::build_all("retriable_headers", retriable_headers, cx);
        let request_headers =
            HeaderMatcher::build_all("retriable_request_headers", retriable_request_headers, cx);
        let per_try = limit("per_try_timeout", per_try_timeout.as_ref(), cx);
        let per_try_idle = limit("per_try_idle_timeout", per_try_idle_timeout.as_ref(), cx);
        no_options?;
        Ok(Self {
            on: RetryOn::http(retry_on).or(RetryOn::grpc(retry_on)),
            retries: num_retries.unwrap_or(1),
            per_try: per_try?,
            per_try_idle: per_try_idle?,
            back_off: back_off?,
            rate_limited: rate_limited?,
            hosts: hosts?.into(),
            host_attempts: match u32::try_from(*host_selection_retry_max_attempts) {
                Ok(attempts) if attempts > 0 => attempts,
                Ok(_) | Err(_) => 1,
            },
            priorities: priorities?,
            status_codes: retriable_status_codes.as_slice().into(),
            headers: headers?,
            request_headers: request_headers?,
            refreshes_cluster: *refresh_cluster_on_retry,
        })
    }
}

impl RetryPolicy {
    /// Reads the policy of calls that the proxy itself makes; `on` replaces for what they are made again.
    ///
    /// A try may take as long as the longest pause, as in Envoy.
    pub fn of_calls(
        proto: &core::RetryPolicy,
        on: Option<&str>,
        cx: &mut BuildCx<'_>,
    ) -> Result<Self, Rejected> {
        let core::RetryPolicy {
            retry_back_off,
            num_retries,
            retry_on,
            retry_priority,
            retry_host_predicate,
            host_selection_retry_max_attempts,
        } = proto;
        let unsupported = [
            cx.reject_if(retry_priority.is_some(), "retry_priority", fields::ANY_HOST),
            cx.reject_if(!retry_host_predicate.is_empty(), "retry_host_predicate", fields::ANY_HOST),
            cx.reject_if(
                *host_selection_retry_max_attempts != 0,
                "host_selection_retry_max_attempts",
                fields::ANY_HOST,
            ),
        ];
        let back_off = match retry_back_off {
            None => Ok(BackOff::new(CALL_PAUSE)),
            Some(core::BackoffStrategy { base_interval, max_interval }) => {
                let proto = proto::retry_policy::RetryBackOff {
                    base_interval: *base_interval,
                    max_interval: *max_interval,
                };
                cx.at("retry_back_off", |cx| BackOff::build(&proto, cx))
            }
        };
        for result in unsupported {
            result?;
        }
        let back_off = back_off?;
        let words = on.unwrap_or(retry_on);
        let route = proto::RetryPolicy { num_retries: *num_retries, ..Default::default() };
        Ok(Self {
            on: RetryOn::http(words).or(RetryOn::grpc(words)),
            per_try: Some(back_off.longest()),
            back_off: Some(back_off),
            ..Self::build(&route, cx)?
        })
    }
}

/// A timeout of a try; zero means none.
fn limit(
    field: &'static str,
    proto: Option<&prost_types::Duration>,
    cx: &mut BuildCx<'_>,
) -> Result<Option<Duration>, Rejected> {
    match proto.map(duration) {
        None => Ok(None),
        Some(Some(limit)) => Ok(Some(limit).filter(|limit| !limit.is_zero())),
        Some(None) => Err(cx.at(field, |cx| cx.reject("a timeout must not be negative"))),
    }
}
