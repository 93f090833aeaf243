//! `envoy.filters.network.ext_authz`: asks a service whether a connection may go on.
//!
//! The question is asked when the first byte of the client arrives, or its end; what the client sends is held back until the answer comes,
//! and the client going away takes the question back.
//! Source: Envoy `docs/root/configuration/listeners/network_filters/ext_authz_filter.rst`; what is asked, counted and told observed on 1.40.

#[cfg(test)]
mod tests;

use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use prost_types::Value;
use prost_types::value::Kind;
use proxy_core::callout::Called;
use proxy_core::callout::grpc::GrpcService;
use proxy_core::config::{BuildCx, FieldUse, MessageFields, Rejected};
use proxy_core::extension::http_filter::{Engine, LocalBoxFuture};
use proxy_core::extension::network_filter::{
    ConnectionStep, DataStep, NetworkFilter, NetworkFilterConfig, NetworkFilterFactory,
};
use proxy_core::extension::{Descriptor, SecurityPosture, Status, decode};
use proxy_core::matcher::MetadataMatcher;
use proxy_core::response_flag::ResponseFlag;
use proxy_core::stats::Cells;
use proxy_core::stream_info::StreamInfo;
use xds_api::envoy::config::core::v3::ApiVersion;
use xds_api::envoy::extensions::filters::network::ext_authz::v3 as proto;
use xds_api::envoy::service::auth::v3::CheckRequest;

use crate::shared::ext_authz::check::{Told, labels, server_name};
use crate::shared::ext_authz::verdict::{Decision, Verdict};
use crate::shared::ext_authz::{CHECK, DEFAULT_TIMEOUT, DENIED, ERROR};
use FieldUse::{Ignored, Used};

const NAME: &str = "envoy.filters.network.ext_authz";
const ALERT: &str = "the TLS library sends no such alert";

/// How the fields of the configuration are used.
pub const FIELDS: &[MessageFields] = &[(
    "envoy.extensions.filters.network.ext_authz.v3.ExtAuthz",
    &[
        ("stat_prefix", Used),
        ("grpc_service", Used),
        ("failure_mode_allow", Used),
        ("include_peer_certificate", Used),
        ("transport_api_version", Used),
        ("filter_enabled_metadata", Used),
        ("bootstrap_metadata_labels_key", Used),
        ("include_tls_session", Used),
        ("send_tls_alert_on_denial", FieldUse::Rejected(ALERT)),
        ("metadata_context_namespaces", Used),
        ("typed_metadata_context_namespaces", Ignored("nothing that is available sets typed metadata")),
        ("shadow_mode", Used),
    ],
)];

/// Why a connection is closed.
const CLOSED: &str = "ext_authz_close";

proxy_core::stats! {
    /// `ext_authz.<stat_prefix>`
    pub sharded struct ExtAuthzStats {
        /// Connections that wait for an answer.
        gauge active,
        /// Closed, for whatever reason.
        counter cx_closed,
        /// Refused by the service.
        counter denied,
        /// Not asked about: the filter was off.
        counter disabled,
        /// The service could not be asked.
        counter error,
        /// Of them, let pass all the same.
        counter failure_mode_allowed,
        /// Allowed by the service.
        counter ok,
        /// Asked about.
        counter total,
    }
}

/// The extension.
pub struct ExtAuthz;

impl NetworkFilterFactory for ExtAuthz {
    fn descriptor(&self) -> Descriptor {
        Descriptor {
            name: NAME,
            message: "envoy.extensions.filters.network.ext_authz.v3.ExtAuthz",
            status: Status::Stable,
            posture: SecurityPosture::RobustToUntrustedDownstream,
        }
    }

    fn build(&self, payload: &[u8], cx: &mut BuildCx<'_>) -> Result<NetworkFilterConfig, Rejected> {
        let config = Arc::new(Config::build(&decode(payload, cx)?, cx)?);
        Ok(NetworkFilterConfig::Policy(Arc::new(move |engine| {
            Box::new(Filter { config: config.clone(), engine: engine.clone(), asking: None })
        })))
    }
}

struct Config {
    service: GrpcService,
    told: Told,
    allows_failure: bool,
    is_shadow: bool,
    enabled: Option<MetadataMatcher>,
    stats: Cells<ExtAuthzStats>,
}

impl Config {
    fn build(proto: &proto::ExtAuthz, cx: &mut BuildCx<'_>) -> Result<Self, Rejected> {
        let proto::ExtAuthz {
            stat_prefix,
            grpc_service,
            failure_mode_allow,
            include_peer_certificate,
            transport_api_version,
            filter_enabled_metadata,
            bootstrap_metadata_labels_key,
            include_tls_session,
            send_tls_alert_on_denial,
            metadata_context_namespaces,
            typed_metadata_context_namespaces: _,
            shadow_mode,
        } = proto;
        if stat_prefix.is_empty() {
            return Err(cx.at("stat_prefix", |cx| cx.reject("value length must be at least 1 characters")));
        }
        if *transport_api_version != ApiVersion::V3 as i32 {
            return Err(cx.at("transport_api_version", |cx| cx.reject("only V3 is available")));
        }
        cx.reject_if(*send_tls_alert_on_denial, "send_tls_alert_on_denial", ALERT)?;
        let service = cx.at("grpc_service", |cx| match grpc_service {
            Some(service) => GrpcService::build(service, Some(DEFAULT_TIMEOUT), cx),
            None => Err(cx.reject("a service is required")),
        });
        let enabled = filter_enabled_metadata.as_ref();
        let enabled = enabled
            .map(|matcher| cx.at("filter_enabled_metadata", |cx| MetadataMatcher::build(matcher, cx)))
            .transpose();
        Ok(Self {
            service: service?,
            told: Told {
                certificate: *include_peer_certificate,
                session: *include_tls_session,
                labels: labels(&cx.env.node.metadata, bootstrap_metadata_labels_key),
                namespaces: metadata_context_namespaces.clone(),
            },
            allows_failure: *failure_mode_allow,
            is_shadow: *shadow_mode,
            enabled: enabled?,
            stats: cx.env.stats.scope(&format!("ext_authz.{stat_prefix}")).cells(),
        })
    }

    /// Does what the service said.
    fn conclude(&self, mut verdict: Verdict, elapsed: Duration, info: &mut StreamInfo) -> DataStep {
        let stats = self.stats.here();
        match verdict.decision {
            Decision::Ok => {
                stats.ok.inc();
                #[expect(clippy::cast_precision_loss, reason = "milliseconds of a connection are few")]
                let millis = Value { kind: Some(Kind::NumberValue(elapsed.as_millis() as f64)) };
                verdict.metadata.fields.insert("ext_authz_duration".to_owned(), millis);
            }
            Decision::Error => stats.error.inc(),
            Decision::Denied => stats.denied.inc(),
        }
        if !verdict.metadata.fields.is_empty() {
            info.metadata.merge(NAME, verdict.metadata);
        }
        let details = match verdict.decision {
            Decision::Ok => return DataStep::Done,
            Decision::Error if self.allows_failure => {
                stats.failure_mode_allowed.inc();
                return DataStep::Done;
            }
            Decision::Error => ERROR,
            Decision::Denied => DENIED,
        };
        if self.is_shadow {
            return DataStep::Done;
        }
        stats.cx_closed.inc();
        info.flags.set(ResponseFlag::UnauthorizedExternalService);
        info.details = Some(details.into());
        DataStep::Close(CLOSED.into())
    }
}

struct Filter {
    config: Arc<Config>,
    engine: Rc<dyn Engine>,
    asking: Option<Asking>,
}

/// A question that is not answered yet. Dropping it takes it back.
struct Asking {
    config: Arc<Config>,
    answer: LocalBoxFuture<'static, Called>,
    begun: Instant,
}

impl Asking {
    fn begin(config: &Arc<Config>, engine: &dyn Engine, info: &StreamInfo) -> Self {
        let stats = config.stats.here();
        stats.active.inc();
        stats.total.inc();
        let attributes = config.told.attributes(info, "", server_name(&info.connection));
        let request = CheckRequest { attributes: Some(attributes) };
        let answer = engine.call(config.service.call(CHECK, &request, info));
        Self { config: config.clone(), answer, begun: Instant::now() }
    }
}

impl Drop for Asking {
    fn drop(&mut self) {
        self.config.stats.here().active.dec();
    }
}

impl NetworkFilter for Filter {
    fn on_connection<'a>(&'a mut self, _info: &'a mut StreamInfo) -> ConnectionStep<'a> {
        ConnectionStep::Continue
    }

    fn sees_data(&self) -> bool {
        true
    }

    fn poll_data(
        &mut self,
        cx: &mut Context<'_>,
        _data: &[u8],
        _end: bool,
        info: &mut StreamInfo,
    ) -> Poll<DataStep> {
        let config = &self.config;
        let asking = match &mut self.asking {
            Some(asking) => asking,
            None if config.enabled.as_ref().is_some_and(|matcher| !matcher.matches_dynamic(info)) => {
                config.stats.here().disabled.inc();
                // (Metadata may say otherwise when more comes.)
                return Poll::Ready(DataStep::Continue);
            }
            none => none.insert(Asking::begin(config, &*self.engine, info)),
        };
        let called = ready!(asking.answer.as_mut().poll(cx));
        let elapsed = asking.begun.elapsed();
        self.asking = None;
        Poll::Ready(config.conclude(Verdict::of_grpc(&called), elapsed, info))
    }
}
