//! Names of the headers that the proxy itself reads or writes, ready to use without allocation, and numbers as values.

use std::cell::RefCell;
use std::ops::Deref;
use std::sync::OnceLock;

use http::header::InvalidHeaderName;
use http::{HeaderName, HeaderValue};

/// Declares constants for header names that `http` does not know.
macro_rules! header_names {
    ($($constant:ident = $name:literal;)*) => {
        $(
            #[doc = concat!("`", $name, "`")]
            pub static $constant: HeaderName = HeaderName::from_static($name);
        )*
    };
}

/// Declares the proxy's own headers, and the list of them.
macro_rules! envoy_headers {
    ($($constant:ident = $rest:literal;)*) => {
        $(
            #[doc = concat!("`x-envoy-", $rest, "`")]
            pub static $constant: EnvoyHeader = EnvoyHeader {
                usual: HeaderName::from_static(concat!("x-envoy-", $rest)),
                renamed: OnceLock::new(),
            };
        )*
        /// All of them, with what follows the prefix in their names.
        static ENVOY_HEADERS: &[(&EnvoyHeader, &str)] = &[$((&$constant, $rest)),*];
    };
}

header_names! {
    EARLY_DATA = "early-data";
    GRPC_MESSAGE = "grpc-message";
    GRPC_STATUS = "grpc-status";
    GRPC_TIMEOUT = "grpc-timeout";
    KEEP_ALIVE = "keep-alive";
    PROXY_CONNECTION = "proxy-connection";
    X_CLIENT_TRACE_ID = "x-client-trace-id";
    X_FORWARDED_CLIENT_CERT = "x-forwarded-client-cert";
    X_FORWARDED_FOR = "x-forwarded-for";
    X_FORWARDED_HOST = "x-forwarded-host";
    X_FORWARDED_PORT = "x-forwarded-port";
    X_FORWARDED_PROTO = "x-forwarded-proto";
    X_RATELIMIT_LIMIT = "x-ratelimit-limit";
    X_RATELIMIT_REMAINING = "x-ratelimit-remaining";
    X_RATELIMIT_RESET = "x-ratelimit-reset";
    X_REQUEST_ID = "x-request-id";
}

envoy_headers! {
    X_ENVOY_ATTEMPT_COUNT = "attempt-count";
    X_ENVOY_AUTH_FAILURE_MODE_ALLOWED = "auth-failure-mode-allowed";
    X_ENVOY_AUTH_HEADERS_TO_REMOVE = "auth-headers-to-remove";
    X_ENVOY_AUTH_PARTIAL_BODY = "auth-partial-body";
    X_ENVOY_DECORATOR_OPERATION = "decorator-operation";
    X_ENVOY_DEGRADED = "degraded";
    X_ENVOY_DOWNSTREAM_SERVICE_CLUSTER = "downstream-service-cluster";
    X_ENVOY_DOWNSTREAM_SERVICE_NODE = "downstream-service-node";
    X_ENVOY_EXPECTED_RQ_TIMEOUT_MS = "expected-rq-timeout-ms";
    X_ENVOY_EXTERNAL_ADDRESS = "external-address";
    X_ENVOY_FORCE_TRACE = "force-trace";
    X_ENVOY_HEDGE_ON_PER_TRY_TIMEOUT = "hedge-on-per-try-timeout";
    X_ENVOY_IMMEDIATE_HEALTH_CHECK_FAIL = "immediate-health-check-fail";
    X_ENVOY_INTERNAL = "internal";
    X_ENVOY_IP_TAGS = "ip-tags";
    X_ENVOY_IS_TIMEOUT_RETRY = "is-timeout-retry";
    X_ENVOY_MAX_RETRIES = "max-retries";
    X_ENVOY_ORIGINAL_HOST = "original-host";
    X_ENVOY_ORIGINAL_PATH = "original-path";
    X_ENVOY_ORIGINAL_URL = "original-url";
    X_ENVOY_DROP_OVERLOAD = "drop-overload";
    X_ENVOY_LOCAL_OVERLOADED = "local-overloaded";
    X_ENVOY_OVERLOADED = "overloaded";
    X_ENVOY_UNCONDITIONAL_DROP_OVERLOAD = "unconditional-drop-overload";
    X_ENVOY_RATELIMITED = "ratelimited";
    X_ENVOY_RETRIABLE_HEADER_NAMES = "retriable-header-names";
    X_ENVOY_RETRIABLE_STATUS_CODES = "retriable-status-codes";
    X_ENVOY_RETRY_GRPC_ON = "retry-grpc-on";
    X_ENVOY_RETRY_ON = "retry-on";
    X_ENVOY_UPSTREAM_ALT_STAT_NAME = "upstream-alt-stat-name";
    X_ENVOY_UPSTREAM_CANARY = "upstream-canary";
    X_ENVOY_UPSTREAM_HEALTHCHECKED_CLUSTER = "upstream-healthchecked-cluster";
    X_ENVOY_UPSTREAM_RQ_PER_TRY_TIMEOUT_MS = "upstream-rq-per-try-timeout-ms";
    X_ENVOY_UPSTREAM_RQ_TIMEOUT_ALT_RESPONSE = "upstream-rq-timeout-alt-response";
    X_ENVOY_UPSTREAM_RQ_TIMEOUT_MS = "upstream-rq-timeout-ms";
    X_ENVOY_UPSTREAM_SERVICE_TIME = "upstream-service-time";
    X_ENVOY_UPSTREAM_STREAM_DURATION_MS = "upstream-stream-duration-ms";
}

/// A header that is the proxy's own: its name begins with `x-envoy`, or with what the bootstrap says in its place.
#[derive(Debug)]
pub struct EnvoyHeader {
    usual: HeaderName,
    renamed: OnceLock<HeaderName>,
}

impl Deref for EnvoyHeader {
    type Target = HeaderName;

    #[inline]
    fn deref(&self) -> &HeaderName {
        self.renamed.get().unwrap_or(&self.usual)
    }
}

/// What the names of the proxy's own headers begin with, the dash included.
static PREFIX: OnceLock<Box<str>> = OnceLock::new();

/// What the names of the proxy's own headers begin with, the dash included.
#[inline]
pub fn envoy_prefix() -> &'static str {
    PREFIX.get().map_or("x-envoy-", |prefix| prefix)
}

/// Has the names of the proxy's own headers begin with `prefix` (`Bootstrap.header_prefix`), for the whole life of the process.
///
/// # Errors
/// If that makes no valid names.
pub fn rename(prefix: &str) -> Result<(), InvalidHeaderName> {
    let prefix = prefix.to_ascii_lowercase() + "-";
    let mut names = Vec::with_capacity(ENVOY_HEADERS.len());
    for (header, rest) in ENVOY_HEADERS {
        names.push((header, HeaderName::from_bytes(format!("{prefix}{rest}").as_bytes())?));
    }
    for (header, name) in names {
        // (Who renamed them before has the last word: there is one bootstrap.)
        let _ = header.renamed.set(name);
    }
    let _ = PREFIX.set(prefix.into());
    Ok(())
}

/// Two digits of every number below 100.
const DIGITS: &str = "000102030405060708091011121314151617181920212223242526272829303132333435363738394041424344454647\
     48495051525354555657585960616263646566676869707172737475767778798081828384858687888990919293949596979899";

thread_local! {
    /// The last larger number; a route's timeout is the same each time.
    static LAST: RefCell<(u64, HeaderValue)> = const { RefCell::new((0, HeaderValue::from_static("0"))) };
}

/// `number` in decimal digits. Small ones and those that repeat need no allocation.
pub fn number(number: u64) -> HeaderValue {
    if number < 100 {
        let at = 2 * usize::try_from(number).unwrap_or_default();
        let first = at + usize::from(number < 10);
        return HeaderValue::from_static(DIGITS.get(first..at + 2).unwrap_or_default());
    }
    LAST.with_borrow_mut(|(last, value)| {
        if *last != number {
            (*last, *value) = (number, HeaderValue::from(number));
        }
        value.clone()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_written_as_usual() {
        for one in (0..300).chain([15_000, 15_000, u64::MAX, 15_000]) {
            assert_eq!(number(one), HeaderValue::from(one));
        }
    }
}
