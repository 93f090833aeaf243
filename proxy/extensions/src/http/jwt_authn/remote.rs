//! Keys that a server has (`remote_jwks`): fetched when a request needs them, and kept for a while for all workers.
//!
//! A request whose token is right in all but its signature waits for the keys; the client going away ends the wait. What could not be
//! fetched refuses the request, and the next one asks again.

use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use proxy_core::callout::{Call, Called, Caller, EnvoyHeaders};
use proxy_core::config::{BuildCx, Rejected, duration};
use proxy_core::head::{RequestHead, Scheme};
use proxy_core::names::Name;
use proxy_core::text::Text;
use xds_api::envoy::config::core::v3 as core;
use xds_api::envoy::config::core::v3::http_uri::HttpUpstreamType;
use xds_api::envoy::extensions::filters::http::jwt_authn::v3 as proto;

use super::failure::Failure;
use super::keys::Keys;

/// How long keys are kept where nothing is said.
const LIFETIME: Duration = Duration::from_secs(600);
/// How large a set of keys may be.
const LARGEST: usize = 1024 * 1024;

/// A server's keys.
pub(super) struct Remote {
    cluster: Name,
    authority: Text,
    path: Text,
    timeout: Option<Duration>,
    lifetime: Duration,
    known: RwLock<Option<Known>>,
}

/// Keys that were fetched.
#[derive(Clone)]
struct Known {
    keys: Arc<Keys>,
    /// When they have to be fetched anew; never if that is further away than a clock tells.
    until: Option<Instant>,
}

impl Remote {
    pub(super) fn build(proto: &proto::RemoteJwks, cx: &mut BuildCx<'_>) -> Result<Self, Rejected> {
        let proto::RemoteJwks { http_uri, cache_duration, async_fetch, retry_policy } = proto;
        let refused = [
            cx.reject_if(async_fetch.is_some(), "async_fetch", "keys are fetched when a request needs them"),
            cx.reject_if(retry_policy.is_some(), "retry_policy", "retries are not available"),
        ];
        let Some(core::HttpUri { uri, timeout, http_upstream_type }) = http_uri else {
            return Err(cx.at("http_uri", |cx| cx.reject("value is required")));
        };
        let Some(HttpUpstreamType::Cluster(cluster)) = http_upstream_type else {
            return Err(cx.at("http_uri", |cx| cx.at("cluster", |cx| cx.reject("value is required"))));
        };
        refused.into_iter().collect::<Result<(), _>>()?;
        let (authority, path) = host_and_path(uri);
        Ok(Self {
            cluster: cx.env.clusters.intern(cluster),
            authority: authority.into(),
            path: path.into(),
            timeout: timeout.as_ref().and_then(duration).filter(|timeout| !timeout.is_zero()),
            lifetime: cache_duration.as_ref().and_then(duration).unwrap_or(LIFETIME),
            known: RwLock::default(),
        })
    }

    /// The keys, if they are there and good at `moment`.
    pub(super) fn keys(&self, moment: Instant) -> Option<Arc<Keys>> {
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        let known = known.as_ref().filter(|known| known.until.is_none_or(|until| moment < until))?;
        Some(known.keys.clone())
    }

    /// Fetches them.
    pub(super) async fn fetch(&self, caller: &dyn Caller) -> Result<(), Failure> {
        let mut headers = HeaderMap::new();
        // Who Envoy says it is when it asks for keys.
        headers.insert(header::USER_AGENT, HeaderValue::from_static("Go-browser"));
        let request = RequestHead {
            method: Method::GET,
            scheme: Scheme::Http,
            authority: self.authority.clone(),
            path: self.path.clone(),
            upgrade: None,
            case: None,
            headers,
        };
        let call = Call {
            timeout: self.timeout,
            max_response_bytes: LARGEST,
            envoy_headers: EnvoyHeaders::InternalAndForwarded,
            ..Call::new(self.cluster.clone(), request, Bytes::new())
        };
        let keys = keys_in(&caller.call(call).await)?;
        let known = Known { keys: Arc::new(keys), until: Instant::now().checked_add(self.lifetime) };
        *self.known.write().unwrap_or_else(PoisonError::into_inner) = Some(known);
        Ok(())
    }
}

fn keys_in(called: &Called) -> Result<Keys, Failure> {
    let answer = called.as_ref().map_err(|_| Failure::KeysNotFetched)?;
    if answer.head.status != StatusCode::OK {
        return Err(Failure::KeysNotFetched);
    }
    Keys::parse(&answer.body)
}

/// What a URI asks whom for.
fn host_and_path(uri: &str) -> (&str, &str) {
    let rest = uri.split_once("://").map_or(uri, |(_, rest)| rest);
    match rest.find('/') {
        Some(at) => rest.split_at(at),
        None => (rest, "/"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_uri_says_whom_and_what() {
        for (uri, host, path) in [
            ("https://keys.example/a/b?c", "keys.example", "/a/b?c"),
            ("http://keys.example:80", "keys.example:80", "/"),
            ("keys.example/x", "keys.example", "/x"),
        ] {
            assert_eq!(host_and_path(uri), (host, path));
        }
    }
}
