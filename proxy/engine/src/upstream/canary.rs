//! Canaries: hosts whose answers are counted apart, too (`cluster.<name>.canary.*`).
//!
//! Source: Envoy `docs/root/configuration/http/http_filters/router_filter.rst` (`x-envoy-upstream-canary`).

use http::HeaderMap;
use proxy_core::headers::X_ENVOY_UPSTREAM_CANARY;
use proxy_core::upstream::Host;

/// Whether `host` is one, by its metadata or by what it answers.
///
/// Every answer is asked: to go through its names costs less than to look one up that is hardly ever there.
pub(crate) fn is_canary(host: Option<&Host>, answer: &HeaderMap) -> bool {
    let canary = &*X_ENVOY_UPSTREAM_CANARY;
    host.is_some_and(Host::is_canary)
        || answer.iter().find(|(name, _)| *name == canary).is_some_and(|(_, value)| value == "true")
}
