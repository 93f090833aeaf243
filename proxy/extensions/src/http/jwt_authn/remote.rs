//! Keys that a server has (`remote_jwks`): fetched when a request needs them, and kept for a while for all workers.
//!
//! A request whose token is right in all but its signature waits for the keys; the client going away ends the wait. What could not be
//! fetched refuses the request, and the next one asks again. With `async_fetch` they are fetched in the background, too, before they are
//! needed and before they are too old.

use std::sync::{Arc, OnceLock, PoisonError, RwLock};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use proxy_core::background::Background;
use proxy_core::callout::{Call, Called, Caller, EnvoyHeaders};
use proxy_core::config::{BuildCx, Rejected, duration};
use proxy_core::retry::RetryPolicy;
use proxy_core::stats::Cells;
use tokio::sync::oneshot;
use xds_api::envoy::extensions::filters::http::jwt_authn::v3 as proto;

use super::JwtAuthnStats;
use super::keys::Keys;
use crate::shared::uri::HttpUri;
use proxy_core::jwt::Failure;

/// How long keys are kept where nothing is said.
const LIFETIME: Duration = Duration::from_secs(600);
/// After which failures to fetch keys ahead it is tried again, where nothing is said.
const REFETCH: Duration = Duration::from_secs(1);
/// How long before they are too old keys are fetched ahead.
const AHEAD: Duration = Duration::from_secs(5);
/// For what keys are asked for again, if they are at all.
const RETRY_ON: &str = "5xx,gateway-error,connect-failure,reset";
/// The shortest pause between two times that keys are fetched ahead.
const SHORTEST: Duration = Duration::from_millis(1);
/// How large a set of keys may be.
const LARGEST: usize = 1024 * 1024;

/// A server's keys.
pub(super) struct Remote {
    uri: HttpUri,
    lifetime: Duration,
    retry: Option<Arc<RetryPolicy>>,
    /// They are fetched before a request needs them; the pause after a failure.
    ahead: Option<Duration>,
    /// Dropped, it ends what fetches ahead.
    fetching: OnceLock<oneshot::Sender<()>>,
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
        let ahead = async_fetch.as_ref().map(|proto::JwksAsyncFetch { failed_refetch_duration, .. }| {
            failed_refetch_duration.as_ref().and_then(duration).unwrap_or(REFETCH)
        });
        let retry = retry_policy
            .as_ref()
            .map(|policy| cx.at("retry_policy", |cx| RetryPolicy::of_calls(policy, Some(RETRY_ON), cx)))
            .transpose();
        Ok(Self {
            uri: HttpUri::build(http_uri.as_ref(), cx)?,
            lifetime: cache_duration.as_ref().and_then(duration).unwrap_or(LIFETIME),
            retry: retry?.map(Arc::new),
            ahead,
            fetching: OnceLock::new(),
            known: RwLock::default(),
        })
    }

    /// The keys, if they are there and good at `moment`.
    pub(super) fn keys(&self, moment: Instant) -> Option<Arc<Keys>> {
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        let known = known.as_ref().filter(|known| known.until.is_none_or(|until| moment < until))?;
        Some(known.keys.clone())
    }

    /// Has them fetched from now on, if they are to be there before a request needs them.
    pub(super) fn fetch_ahead(self: &Arc<Self>, stats: &Cells<JwtAuthnStats>, background: &Background) {
        let Some(after_failure) = self.ahead else { return };
        let (sender, gone) = oneshot::channel();
        if self.fetching.set(sender).is_err() {
            return;
        }
        let (remote, stats) = (Arc::downgrade(self), stats.clone());
        background.begin(move |engine| {
            let fetching = async move {
                // (Nobody is kept by who fetches for them.)
                while let Some(remote) = remote.upgrade() {
                    let pause = match remote.fetch(&*engine, &stats).await {
                        Ok(()) => remote.lifetime.checked_sub(AHEAD).unwrap_or(remote.lifetime),
                        Err(_) => after_failure,
                    };
                    drop(remote);
                    tokio::time::sleep(pause.max(SHORTEST)).await;
                }
            };
            Box::pin(async move {
                tokio::select! {
                    _ = gone => {}
                    () = fetching => {}
                }
            })
        });
    }

    /// Fetches them, and counts that.
    pub(super) async fn fetch(
        &self,
        caller: &dyn Caller,
        stats: &Cells<JwtAuthnStats>,
    ) -> Result<(), Failure> {
        let fetched = self.ask(caller).await;
        match fetched {
            Ok(()) => stats.here().jwks_fetch_success.inc(),
            Err(_) => stats.here().jwks_fetch_failed.inc(),
        }
        fetched
    }

    /// Asks for them.
    async fn ask(&self, caller: &dyn Caller) -> Result<(), Failure> {
        let mut headers = HeaderMap::new();
        // Who Envoy says it is when it asks for keys.
        headers.insert(header::USER_AGENT, HeaderValue::from_static("Go-browser"));
        let request = self.uri.request(Method::GET, headers);
        let call = Call {
            timeout: self.uri.timeout,
            max_response_bytes: LARGEST,
            envoy_headers: EnvoyHeaders::InternalAndForwarded,
            retry: self.retry.clone(),
            ..Call::new(self.uri.cluster.clone(), request, Bytes::new())
        };
        let keys = keys_in(&caller.call(call).await)?;
        // What is fetched ahead is good until it is fetched again.
        let until = match self.ahead {
            Some(_) => None,
            None => Instant::now().checked_add(self.lifetime),
        };
        let known = Known { keys: Arc::new(keys), until };
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
