//! `envoy.filters.network.rbac`: who may connect.
//!
//! The decision falls when the first byte of the client arrives, or its end; `CONTINUOUS` decides again whenever more has come.
//! Until then a client that is to be refused gets what a server that speaks first says.
//! Source: Envoy `docs/root/configuration/listeners/network_filters/rbac_filter.rst`; observed on 1.40.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use proxy_core::config::{BuildCx, FieldUse, MessageFields, Rejected, duration};
use proxy_core::extension::network_filter::{
    ConnectionStep, DataStep, NetworkFilter, NetworkFilterConfig, NetworkFilterFactory,
};
use proxy_core::extension::{Descriptor, SecurityPosture, Status, decode};
use proxy_core::stream_info::StreamInfo;
use xds_api::envoy::extensions::filters::network::rbac::v3 as proto;
use xds_api::envoy::extensions::filters::network::rbac::v3::rbac::EnforcementType;

use crate::shared::rbac::{Counters, Facts, Layer, Mode, Rules, RulesProto};
use FieldUse::Used;

const NAME: &str = "envoy.filters.network.rbac";

/// How the fields of the configuration are used.
pub const FIELDS: &[MessageFields] = &[(
    "envoy.extensions.filters.network.rbac.v3.RBAC",
    &[
        ("rules", Used),
        ("matcher", Used),
        ("shadow_rules", Used),
        ("shadow_matcher", Used),
        ("shadow_rules_stat_prefix", Used),
        ("stat_prefix", Used),
        ("enforcement_type", Used),
        ("delay_deny", Used),
    ],
)];

/// Why a connection is closed.
const DETAILS: &str = "rbac_deny_close";

/// The extension.
pub struct Rbac;

impl NetworkFilterFactory for Rbac {
    fn descriptor(&self) -> Descriptor {
        Descriptor {
            name: NAME,
            message: "envoy.extensions.filters.network.rbac.v3.RBAC",
            status: Status::Stable,
            posture: SecurityPosture::RobustToUntrustedDownstream,
        }
    }

    fn build(&self, payload: &[u8], cx: &mut BuildCx<'_>) -> Result<NetworkFilterConfig, Rejected> {
        let config = Arc::new(Config::build(&decode(payload, cx)?, cx)?);
        Ok(NetworkFilterConfig::Policy(Arc::new(move |_| {
            Box::new(Filter { config: config.clone(), delay: None })
        })))
    }
}

struct Config {
    rules: Rules,
    is_continuous: bool,
    delay: Option<Duration>,
    counters: Counters,
    namespace: Arc<str>,
}

impl Config {
    fn build(proto: &proto::Rbac, cx: &mut BuildCx<'_>) -> Result<Self, Rejected> {
        let proto::Rbac {
            rules,
            matcher,
            shadow_rules,
            shadow_matcher,
            shadow_rules_stat_prefix,
            stat_prefix,
            enforcement_type,
            delay_deny,
        } = proto;
        if stat_prefix.is_empty() {
            return Err(cx.at("stat_prefix", |cx| cx.reject("value length must be at least 1 characters")));
        }
        let Ok(enforcement) = EnforcementType::try_from(*enforcement_type) else {
            let reason = "value must be one of the defined enum values";
            return Err(cx.at("enforcement_type", |cx| cx.reject(reason)));
        };
        let protos = RulesProto {
            rules: rules.as_ref(),
            prefix: "",
            matcher: matcher.as_ref(),
            shadow_rules: shadow_rules.as_ref(),
            shadow_prefix: shadow_rules_stat_prefix,
            shadow_matcher: shadow_matcher.as_ref(),
        };
        Ok(Self {
            rules: Rules::build(&protos, Layer::Network, cx)?,
            is_continuous: enforcement == EnforcementType::Continuous,
            delay: delay_deny.as_ref().and_then(duration).filter(|delay| delay.as_millis() > 0),
            counters: Counters::new(&cx.env.stats, stat_prefix, "", shadow_rules_stat_prefix),
            namespace: NAME.into(),
        })
    }
}

impl Config {
    /// Whether the connection may go on.
    fn judge(&self, info: &mut StreamInfo) -> bool {
        let [shadow, enforced] = self.rules.decide(&Facts::of_connection(info));
        if let Some((engine, outcome)) = shadow {
            self.counters.count(Mode::Shadow, outcome, false);
            engine.tell(outcome, "", &self.namespace, &mut info.metadata);
        }
        let Some((engine, outcome)) = enforced else { return true };
        self.counters.count(Mode::Enforced, outcome, false);
        engine.tell_logs(outcome, &mut info.metadata);
        if !outcome.is_allowed {
            info.termination_details = Some(outcome.details());
        }
        outcome.is_allowed
    }
}

struct Filter {
    config: Arc<Config>,
    /// The connection is refused, but is told later.
    delay: Option<Pin<Box<tokio::time::Sleep>>>,
}

impl NetworkFilter for Filter {
    fn on_connection<'a>(&'a mut self, _info: &'a mut StreamInfo) -> ConnectionStep<'a> {
        ConnectionStep::Continue
    }

    fn sees_data(&self) -> bool {
        !self.config.rules.is_empty()
    }

    fn poll_data(
        &mut self,
        cx: &mut Context<'_>,
        _data: &[u8],
        _end: bool,
        info: &mut StreamInfo,
    ) -> Poll<DataStep> {
        let config = &*self.config;
        if self.delay.is_none() {
            if config.judge(info) {
                return Poll::Ready(if config.is_continuous { DataStep::Continue } else { DataStep::Done });
            }
            self.delay = config.delay.map(|delay| Box::pin(tokio::time::sleep(delay)));
        }
        if let Some(delay) = &mut self.delay {
            ready!(delay.as_mut().poll(cx));
        }
        info.local_close_reason = Some(DETAILS.into());
        Poll::Ready(DataStep::Close(DETAILS.into()))
    }
}
