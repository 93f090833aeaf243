//! `Router.strict_check_headers`: requests whose `x-envoy-*` headers ask for nonsense are answered with 400.
//!
//! Source: Envoy `docs/root/configuration/http/http_filters/router_filter.rst`, `router.proto`.

use http::{HeaderMap, HeaderName, HeaderValue};
use proxy_core::headers::{
    EnvoyHeader, X_ENVOY_MAX_RETRIES, X_ENVOY_RETRY_GRPC_ON, X_ENVOY_RETRY_ON,
    X_ENVOY_UPSTREAM_RQ_PER_TRY_TIMEOUT_MS, X_ENVOY_UPSTREAM_RQ_TIMEOUT_MS, envoy_prefix,
};

/// What `x-envoy-retry-on` may name.
const RETRY_ON: [&str; 11] = [
    "5xx",
    "gateway-error",
    "connect-failure",
    "envoy-ratelimited",
    "retriable-4xx",
    "refused-stream",
    "retriable-status-codes",
    "retriable-headers",
    "reset",
    "reset-before-request",
    "http3-post-connect-failure",
];
/// What `x-envoy-retry-grpc-on` may name.
const RETRY_GRPC_ON: [&str; 5] =
    ["cancelled", "deadline-exceeded", "resource-exhausted", "unavailable", "internal"];

/// A header that is checked.
#[derive(Clone, Copy, Debug)]
pub enum StrictHeader {
    /// A number.
    Number(&'static EnvoyHeader),
    /// Names with commas between them, each one of these.
    Names(&'static EnvoyHeader, &'static [&'static str]),
}

impl StrictHeader {
    /// The check of the header that the configuration calls `name`; it can name five, and, as in Envoy, none
    /// where the bootstrap has them renamed.
    pub fn named(name: &str) -> Option<Self> {
        match name.strip_prefix(envoy_prefix())? {
            "upstream-rq-timeout-ms" => Some(Self::Number(&X_ENVOY_UPSTREAM_RQ_TIMEOUT_MS)),
            "upstream-rq-per-try-timeout-ms" => Some(Self::Number(&X_ENVOY_UPSTREAM_RQ_PER_TRY_TIMEOUT_MS)),
            "max-retries" => Some(Self::Number(&X_ENVOY_MAX_RETRIES)),
            "retry-on" => Some(Self::Names(&X_ENVOY_RETRY_ON, &RETRY_ON)),
            "retry-grpc-on" => Some(Self::Names(&X_ENVOY_RETRY_GRPC_ON, &RETRY_GRPC_ON)),
            _ => None,
        }
    }

    /// The name and the value of the header if the value makes no sense.
    pub(crate) fn violated<'h>(
        &self,
        headers: &'h HeaderMap,
    ) -> Option<(&'static HeaderName, &'h HeaderValue)> {
        let (Self::Number(name) | Self::Names(name, _)) = *self;
        let name: &HeaderName = name;
        let value = headers.get(name)?;
        (!self.accepts(value.to_str().ok()?)).then_some((name, value))
    }

    fn accepts(&self, value: &str) -> bool {
        match self {
            Self::Number(_) => value.trim_ascii().parse::<u64>().is_ok(),
            Self::Names(_, known) => value
                .split(',')
                .map(str::trim_ascii)
                .filter(|name| !name.is_empty())
                .all(|name| known.contains(&name)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_that_make_no_sense() {
        for (name, value, valid) in [
            ("x-envoy-max-retries", "3", true),
            ("x-envoy-max-retries", " 3 ", true),
            ("x-envoy-max-retries", "-3", false),
            ("x-envoy-max-retries", "3.0", false),
            ("x-envoy-upstream-rq-timeout-ms", "", false),
            ("x-envoy-upstream-rq-per-try-timeout-ms", "1s", false),
            ("x-envoy-retry-on", "5xx, reset", true),
            ("x-envoy-retry-on", "5xx,never", false),
            ("x-envoy-retry-grpc-on", "cancelled,internal", true),
            ("x-envoy-retry-grpc-on", "5xx", false),
        ] {
            let header = StrictHeader::named(name).unwrap();
            let mut headers = HeaderMap::new();
            assert_eq!(header.violated(&headers), None, "{name}: absent");
            headers.insert(name, HeaderValue::from_static(value));
            assert_eq!(header.violated(&headers).is_none(), valid, "{name}: {value}");
        }
        assert!(StrictHeader::named("x-envoy-retry").is_none());
    }
}
