//! Active health checks of a cluster: how its hosts are asked, what their answers mean, and where that is written down.
//!
//! Hosts are asked on the main thread, each in a task of its own (`sessions`), over connections that belong to nobody else:
//! they count in no statistics of the cluster but those of its checks, as in Envoy. What follows from the answers is decided in
//! `proxy_core::upstream::HostChecks`. Workers tell of answers to requests that say that checks fail.
//! Source: Envoy `docs/root/intro/arch_overview/upstream/health_checking.rst`, `envoy/config/core/v3/health_check.proto`.

mod events;
mod grpc;
mod http;
pub(super) mod sessions;
mod tcp;
mod wire;

use std::collections::HashSet;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use prost_types::Struct;
use proxy_core::config::{BuildCx, Rejected};
use proxy_core::head::ResponseHead;
use proxy_core::headers::X_ENVOY_IMMEDIATE_HEALTH_CHECK_FAIL;
use proxy_core::metadata::Metadata;
use proxy_core::stats::groups::{HealthCheckerStats, HealthChecksStats};
use proxy_core::stats::{Scope, Shared};
use proxy_core::text::Text;
use proxy_core::upstream::{CheckResult, CheckSettings, Host};
use tokio::sync::mpsc;
use xds_api::envoy::config::cluster::v3 as cluster_proto;
use xds_api::envoy::config::core::v3 as proto;
use xds_api::envoy::config::core::v3::health_check::HealthChecker;

pub(super) use self::tcp::NO_PROXY_PROTOCOL;

use self::events::EventLog;
use self::grpc::GrpcCheck;
use self::http::HttpCheck;
use self::tcp::TcpCheck;
use self::wire::Probe;
use super::http_options::UpstreamProtocol;
use super::transport::NAMESPACE;

/// The active health checks of a cluster that has clients. Its hosts have to pass all of them.
pub struct Checks {
    checkers: Vec<Arc<Checker>>,
    /// What all of them come to, if there are several.
    stats: Option<Shared<HealthChecksStats>>,
    /// To the main thread. One host is told of once until it is looked at, so this does not grow.
    tell: mpsc::UnboundedSender<Arc<Host>>,
    told: Mutex<Option<mpsc::UnboundedReceiver<Arc<Host>>>>,
}

/// One way of checking hosts.
pub struct Checker {
    pub(super) settings: CheckSettings,
    kind: Kind,
    stats: Shared<HealthCheckerStats>,
    log: EventLog,
    /// What is offered in TLS handshakes in place of what the context says, if anything.
    alpn: Vec<Text>,
    /// What chooses the transport socket in place of the host's metadata.
    criteria: Option<Metadata>,
}

/// How the hosts of a cluster are spoken with.
#[derive(Clone, Copy, Debug)]
pub(super) struct Spoken {
    pub(super) protocol: UpstreamProtocol,
    /// All of them over TLS.
    pub(super) is_secure: bool,
}

/// What hosts are asked.
enum Kind {
    Http(Box<HttpCheck>),
    Tcp(TcpCheck),
    Grpc(Box<GrpcCheck>),
}

impl Checks {
    /// What `health_checks` ask for; `None` without any.
    pub(super) fn build(
        proto: &cluster_proto::Cluster,
        spoken: Spoken,
        scope: &Scope,
        cx: &mut BuildCx<'_>,
    ) -> Result<Option<Box<Self>>, Rejected> {
        let protos = &proto.health_checks;
        if protos.is_empty() {
            return Ok(None);
        }
        let are_several = protos.len() > 1;
        if are_several {
            cx.at("health_checks", |cx| check_names(protos, cx))?;
        }
        let checkers =
            cx.each("health_checks", protos, |one, cx| Checker::build(one, spoken, scope, cx).map(Arc::new));
        let stats = are_several.then(|| scope.child("health_check").shared());
        let (tell, told) = mpsc::unbounded_channel();
        Ok(Some(Box::new(Self { checkers: checkers?, stats, tell, told: Mutex::new(Some(told)) })))
    }

    /// Notes an answer of `host` to a request, if it says that checks fail. Called for every answer of a cluster with checks.
    #[inline]
    pub fn note(&self, host: &Arc<Host>, head: &ResponseHead) {
        if head.headers.contains_key(&*X_ENVOY_IMMEDIATE_HEALTH_CHECK_FAIL)
            && !host.is_never_checked()
            && host.note_passive_failure()
        {
            // Nobody listens once the cluster is gone.
            let _ = self.tell.send(host.clone());
        }
    }

    /// The receiving end of [`Self::note`]; `None` if somebody has it already.
    fn take_told(&self) -> Option<mpsc::UnboundedReceiver<Arc<Host>>> {
        self.told.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

impl fmt::Debug for Checks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.checkers.fmt(f)
    }
}

/// Several checks have names, each its own.
fn check_names(protos: &[proto::HealthCheck], cx: &mut BuildCx<'_>) -> Result<(), Rejected> {
    let mut names = HashSet::new();
    for (index, proto::HealthCheck { name, .. }) in protos.iter().enumerate() {
        if name.is_empty() {
            return Err(cx.reject(format!(
                "health check at index {index} is missing a name; all health checks must have a name when multiple \
                 health checks are configured"
            )));
        }
        if !names.insert(name) {
            return Err(cx.reject(format!(
                "duplicate health check name '{name}' at index {index}; all health check names must be unique within \
                 a cluster"
            )));
        }
    }
    Ok(())
}

impl Checker {
    /// One check of a cluster whose hosts are spoken with so.
    pub(super) fn build(
        proto: &proto::HealthCheck,
        spoken: Spoken,
        scope: &Scope,
        cx: &mut BuildCx<'_>,
    ) -> Result<Self, Rejected> {
        let settings = CheckSettings::build(proto, cx);
        let kind = Self::build_kind(proto, spoken, cx);
        let log = EventLog::build(proto, cx);
        let protocols = proto.tls_options.as_ref().map_or(&[][..], |options| &options.alpn_protocols);
        let alpn = protocols.iter().map(|protocol| protocol.as_str().into()).collect();
        let criteria = proto.transport_socket_match_criteria.as_ref();
        let scope = match proto.name.as_str() {
            "" => scope.child("health_check"),
            name => scope.child(&format!("health_check.name.{name}")),
        };
        Ok(Self {
            settings: settings?,
            kind: kind?,
            stats: scope.shared(),
            log: log?,
            alpn,
            criteria: criteria.map(of_namespace),
        })
    }

    fn build_kind(
        proto: &proto::HealthCheck,
        spoken: Spoken,
        cx: &mut BuildCx<'_>,
    ) -> Result<Kind, Rejected> {
        match &proto.health_checker {
            Some(HealthChecker::HttpHealthCheck(proto)) => cx.at("http_health_check", |cx| {
                HttpCheck::build(proto, spoken, cx).map(Box::new).map(Kind::Http)
            }),
            Some(HealthChecker::TcpHealthCheck(proto)) => {
                cx.at("tcp_health_check", |cx| TcpCheck::build(proto, cx).map(Kind::Tcp))
            }
            Some(HealthChecker::GrpcHealthCheck(check)) => cx.at("grpc_health_check", |cx| {
                if spoken.protocol == UpstreamProtocol::Http1 {
                    return Err(cx.reject("a cluster must support HTTP/2 for gRPC healthchecking"));
                }
                GrpcCheck::build(check, cx).map(Box::new).map(Kind::Grpc)
            }),
            Some(HealthChecker::CustomHealthCheck(_)) => {
                Err(cx.at("custom_health_check", |cx| cx.reject("custom health checks are not available")))
            }
            None => Err(cx.reject("health_checker: value is required")),
        }
    }

    /// Whether hosts answer with a status.
    fn is_http(&self) -> bool {
        matches!(self.kind, Kind::Http(_))
    }

    /// Whether a connection is of use after a check that timed out on it.
    fn outlives_timeouts(&self) -> bool {
        matches!(self.kind, Kind::Grpc(_)) && self.settings.reuse_connection
    }

    /// Asks a host. Has no deadline of its own; not cancel-safe, for the probe has to be given up with it.
    async fn ask(&self, probe: &mut Probe<'_>) -> CheckResult {
        match &self.kind {
            Kind::Http(check) => check.ask(probe).await,
            Kind::Tcp(check) => check.ask(probe).await,
            Kind::Grpc(check) => check.ask(probe, self.settings.timeout).await,
        }
    }
}

/// The metadata of a host that these criteria are of.
pub(super) fn of_namespace(criteria: &Struct) -> Metadata {
    Metadata::new(Some(&proto::Metadata {
        filter_metadata: [(NAMESPACE.to_owned(), criteria.clone())].into(),
        ..proto::Metadata::default()
    }))
}

impl fmt::Debug for Checker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.settings.fmt(f)
    }
}
