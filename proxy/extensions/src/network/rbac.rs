//! `envoy.filters.network.rbac`: who may connect.
//!
//! The decision falls when the connection is established: all that it depends on is known then and does not change, so that
//! the two values of `enforcement_type` mean the same. Envoy decides when the first byte of the client arrives; until then a
//! client that is refused gets what a server that speaks first says.
//! Source: Envoy `docs/root/configuration/listeners/network_filters/rbac_filter.rst`; observed on 1.40.

use std::sync::Arc;
use std::time::Duration;

use proxy_core::config::{BuildCx, FieldUse, MessageFields, Rejected, duration};
use proxy_core::extension::network_filter::{
    ConnectionStep, ConnectionVerdict, NetworkFilter, NetworkFilterConfig, NetworkFilterFactory,
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
        Ok(NetworkFilterConfig::Policy(Arc::new(move || Box::new(Filter(config.clone())))))
    }
}

struct Config {
    rules: Rules,
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
        if EnforcementType::try_from(*enforcement_type).is_err() {
            let reason = "value must be one of the defined enum values";
            return Err(cx.at("enforcement_type", |cx| cx.reject(reason)));
        }
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
            delay: delay_deny.as_ref().and_then(duration).filter(|delay| delay.as_millis() > 0),
            counters: Counters::new(&cx.env.stats, stat_prefix, "", shadow_rules_stat_prefix),
            namespace: NAME.into(),
        })
    }
}

struct Filter(Arc<Config>);

impl NetworkFilter for Filter {
    fn on_connection<'a>(&'a mut self, info: &'a mut StreamInfo) -> ConnectionStep<'a> {
        let config = &*self.0;
        let [shadow, enforced] = config.rules.decide(&Facts::of_connection(info));
        if let Some((engine, outcome)) = shadow {
            config.counters.count(Mode::Shadow, outcome, false);
            engine.tell(outcome, "", &config.namespace, &mut info.metadata);
        }
        let Some((engine, outcome)) = enforced else { return ConnectionStep::Continue };
        config.counters.count(Mode::Enforced, outcome, false);
        engine.tell_logs(outcome, &mut info.metadata);
        if outcome.is_allowed {
            return ConnectionStep::Continue;
        }
        info.termination_details = Some(outcome.details());
        info.local_close_reason = Some(DETAILS.into());
        match config.delay {
            None => ConnectionStep::Close(DETAILS.into()),
            Some(delay) => ConnectionStep::Wait(Box::pin(async move {
                tokio::time::sleep(delay).await;
                ConnectionVerdict::Close(DETAILS.into())
            })),
        }
    }
}
