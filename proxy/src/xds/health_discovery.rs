//! The stream to a health discovery service (`hds_config`): it says what to check, and is told what was found.
//!
//! It opens once the clusters that the bootstrap has are there, and again whenever it ends; what is checked meanwhile goes on.
//! Reports are not waited for: while too many wait for the connection, further ones are left out.
//! Source: Envoy `envoy/service/health/v3/hds.proto`, `source/common/upstream/health_discovery_service.cc`.

use std::sync::Arc;
use std::time::Duration;

use http::uri::PathAndQuery;
use proxy_core::config::BuildEnv;
use proxy_core::stats::Shared;
use proxy_core::stats::groups::HdsDelegateStats;
use proxy_engine::upstream::health_discovery::{Delegate, Refused};
use tokio::time::Instant;
use xds::client::grpc::{Caller, Calling};
use xds_api::envoy::config::bootstrap::v3::Bootstrap;
use xds_api::envoy::config::core::v3::Node;
use xds_api::envoy::service::health::v3::capability::Protocol;
use xds_api::envoy::service::health::v3::health_check_request_or_endpoint_health_response::RequestType;
use xds_api::envoy::service::health::v3::{
    Capability, HealthCheckRequest, HealthCheckRequestOrEndpointHealthResponse,
};

use super::dial::Directory;
use super::streams::{grpc_config, node};

const PATH: &str = "/envoy.service.health.v3.HealthDiscoveryService/StreamHealthCheck";
/// The next stream opens within this time after one that ended, or could not be opened: at random, and however often that was, as in Envoy.
const MOST_DELAY: Duration = Duration::from_secs(1);

type Message = HealthCheckRequestOrEndpointHealthResponse;

/// The stream, and what it is about.
pub(super) struct HealthDiscovery {
    caller: Caller,
    node: Node,
    delegate: Delegate,
    stats: Shared<HdsDelegateStats>,
}

impl HealthDiscovery {
    /// What the bootstrap asks for; `None` without it.
    pub(super) fn new(
        env: &Arc<BuildEnv>,
        bootstrap: &Bootstrap,
        directory: &Arc<Directory>,
    ) -> Option<Self> {
        let config = grpc_config(bootstrap.hds_config.as_ref()?)?;
        let caller = Caller::new(config, PathAndQuery::from_static(PATH), directory.clone())
            .inspect_err(|error| tracing::error!(%error, "no health discovery"))
            .ok()?;
        Some(Self {
            caller,
            node: node(env, bootstrap),
            delegate: Delegate::new(env.clone()),
            stats: env.stats.scope("hds_delegate").shared(),
        })
    }

    /// Runs for as long as it is polled. For the main thread, in a local set.
    pub(super) async fn run(mut self) {
        loop {
            let reason = match self.caller.call().await {
                Ok(calling) => self.speak(calling).await,
                Err(reason) => reason,
            };
            self.delegate.restart();
            self.stats.errors.inc();
            let delay = MOST_DELAY.mul_f64(fastrand::f64());
            tracing::warn!(reason, ?delay, "the stream of health discovery ended");
            tokio::time::sleep(delay).await;
        }
    }

    /// Speaks with the service until the stream ends; why it did.
    async fn speak(&mut self, mut calling: Calling<Message>) -> String {
        self.say(&calling, Some(RequestType::HealthCheckRequest(self.introduction())));
        let mut interval = None;
        let mut next = Instant::now();
        loop {
            let is_reported = interval.is_some();
            tokio::select! {
                heard = calling.hear() => {
                    if let Err(reason) = heard.and_then(|specifier| self.hear(&specifier)) {
                        return reason;
                    }
                    if interval != self.delegate.interval() {
                        interval = self.delegate.interval();
                        next = Instant::now() + interval.unwrap_or_default();
                    }
                }
                () = tokio::time::sleep_until(next), if is_reported => {
                    // (Where there is nothing to tell of, nothing is told, as by Envoy.)
                    self.say(&calling, self.delegate.report().map(RequestType::EndpointHealthResponse));
                    next = Instant::now() + interval.unwrap_or_default();
                }
            }
        }
    }

    /// Takes what the service says.
    ///
    /// # Errors
    /// Why it is not understood.
    fn hear(&mut self, specifier: &[u8]) -> Result<(), String> {
        let taken = match self.delegate.take(specifier) {
            Err(Refused::Unreadable(error)) => return Err(format!("no specifier: {error}")),
            Err(Refused::Wrong(errors)) => Err(errors),
            Ok(is_news) => Ok(is_news),
        };
        self.stats.requests.inc();
        match taken {
            Ok(true) => self.stats.updates.inc(),
            Ok(false) => {}
            Err(errors) => {
                self.stats.errors.inc();
                for error in errors {
                    tracing::warn!(%error, "what the health discovery service wants checked is not taken");
                }
            }
        }
        Ok(())
    }

    /// Says something, unless too much waits to be sent already.
    fn say(&self, calling: &Calling<Message>, request_type: Option<RequestType>) {
        if calling.say(Message { request_type }) {
            self.stats.responses.inc();
        }
    }

    fn introduction(&self) -> HealthCheckRequest {
        let protocols = [Protocol::Http, Protocol::Tcp];
        HealthCheckRequest {
            node: Some(self.node.clone()),
            capability: Some(Capability { health_check_protocols: protocols.map(Into::into).into() }),
        }
    }
}
