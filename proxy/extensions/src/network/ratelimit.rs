//! `envoy.filters.network.ratelimit`: asks a service that counts connections of all proxies whether one of them is within its limits.
//!
//! The question is asked when the connection is made. What the client sends is held back until the answer comes, and the client going
//! away takes the question back.
//! Source: Envoy `docs/root/configuration/listeners/network_filters/rate_limit_filter.rst`; what is asked and counted observed on 1.40.

use std::rc::Rc;
use std::sync::Arc;

use proxy_core::callout::Called;
use proxy_core::callout::grpc::GrpcService;
use proxy_core::config::{BuildCx, FieldUse, MessageFields, Rejected};
use proxy_core::extension::access_log::LogEntry;
use proxy_core::extension::http_filter::Engine;
use proxy_core::extension::network_filter::{
    ConnectionStep, ConnectionVerdict, NetworkFilter, NetworkFilterConfig, NetworkFilterFactory,
};
use proxy_core::extension::{Descriptor, SecurityPosture, Status, decode};
use proxy_core::format::{Empty, Format};
use proxy_core::runtime::RuntimeFraction;
use proxy_core::stats::Cells;
use proxy_core::stream_info::StreamInfo;
use xds_api::envoy::extensions::common::ratelimit::v3::RateLimitDescriptor;
use xds_api::envoy::extensions::common::ratelimit::v3::rate_limit_descriptor::Entry;
use xds_api::envoy::extensions::filters::network::ratelimit::v3 as proto;

use crate::shared::rate_limit::{Ruling, answer, ask, build_service};
use FieldUse::Used;

const NAME: &str = "envoy.filters.network.ratelimit";
const NOT_TOLD: &str = "Envoy does not tell the service of it: say it in the service's configuration";

/// How the fields of the configuration are used.
pub const FIELDS: &[MessageFields] = &[
    (
        "envoy.extensions.filters.network.ratelimit.v3.RateLimit",
        &[
            ("stat_prefix", Used),
            ("domain", Used),
            ("descriptors", Used),
            ("timeout", Used),
            ("failure_mode_deny", Used),
            ("rate_limit_service", Used),
        ],
    ),
    (
        "envoy.extensions.common.ratelimit.v3.RateLimitDescriptor",
        &[
            ("entries", Used),
            ("limit", FieldUse::Rejected(NOT_TOLD)),
            ("hits_addend", FieldUse::Rejected(NOT_TOLD)),
            ("is_negative_hits", FieldUse::Rejected(NOT_TOLD)),
        ],
    ),
];

/// Why a connection is closed.
const CLOSED: &str = "ratelimit_close_over_limit";

proxy_core::stats! {
    /// `ratelimit.<stat_prefix>`
    pub sharded struct RateLimitStats {
        /// Connections that wait for an answer.
        gauge active,
        /// Closed, for whatever reason.
        counter cx_closed,
        /// The service could not be asked.
        counter error,
        /// Of them, let pass all the same.
        counter failure_mode_allowed,
        /// Within the limits.
        counter ok,
        /// Over a limit.
        counter over_limit,
        /// Asked about.
        counter total,
    }
}

/// The extension.
pub struct RateLimit;

impl NetworkFilterFactory for RateLimit {
    fn descriptor(&self) -> Descriptor {
        Descriptor {
            name: NAME,
            message: "envoy.extensions.filters.network.ratelimit.v3.RateLimit",
            status: Status::Stable,
            posture: SecurityPosture::RobustToUntrustedDownstream,
        }
    }

    fn build(&self, payload: &[u8], cx: &mut BuildCx<'_>) -> Result<NetworkFilterConfig, Rejected> {
        let config = Arc::new(Config::build(&decode(payload, cx)?, cx)?);
        Ok(NetworkFilterConfig::Policy(Arc::new(move |engine| {
            Box::new(Filter { config: config.clone(), engine: engine.clone() })
        })))
    }

    fn looks_once(&self) -> bool {
        true
    }
}

struct Config {
    service: GrpcService,
    domain: Box<str>,
    /// The keys and values of each descriptor.
    descriptors: Vec<Vec<(String, Format)>>,
    allows_failure: bool,
    enabled: RuntimeFraction,
    enforced: RuntimeFraction,
    stats: Cells<RateLimitStats>,
}

impl Config {
    fn build(proto: &proto::RateLimit, cx: &mut BuildCx<'_>) -> Result<Self, Rejected> {
        let proto::RateLimit {
            stat_prefix,
            domain,
            descriptors,
            timeout,
            failure_mode_deny,
            rate_limit_service,
        } = proto;
        for (field, value) in [("stat_prefix", stat_prefix), ("domain", domain)] {
            if value.is_empty() {
                return Err(cx.at(field, |cx| cx.reject("value length must be at least 1 characters")));
            }
        }
        if descriptors.is_empty() {
            return Err(cx.at("descriptors", |cx| cx.reject("value must contain at least 1 item(s)")));
        }
        let service = cx
            .at("rate_limit_service", |cx| build_service(rate_limit_service.as_ref(), timeout.as_ref(), cx));
        let descriptors = cx.each("descriptors", descriptors, build_descriptor);
        Ok(Self {
            service: service?,
            domain: domain.as_str().into(),
            descriptors: descriptors?,
            allows_failure: !failure_mode_deny,
            enabled: RuntimeFraction::all("ratelimit.tcp_filter_enabled"),
            enforced: RuntimeFraction::all("ratelimit.tcp_filter_enforcing"),
            stats: cx.env.stats.scope(&format!("ratelimit.{stat_prefix}")).cells(),
        })
    }

    fn question(&self, info: &StreamInfo) -> Vec<RateLimitDescriptor> {
        let entry = |(key, value): &(String, Format)| Entry { key: key.clone(), value: render(value, info) };
        let descriptor = |entries: &Vec<_>| RateLimitDescriptor {
            entries: entries.iter().map(entry).collect(),
            ..RateLimitDescriptor::default()
        };
        self.descriptors.iter().map(descriptor).collect()
    }

    /// Does what the service said.
    fn conclude(&self, called: &Called, engine: &dyn Engine, info: &mut StreamInfo) -> ConnectionVerdict {
        let stats = self.stats.here();
        let (ruling, response) = answer(called);
        if let Some(metadata) = response.dynamic_metadata.filter(|metadata| !metadata.fields.is_empty()) {
            info.metadata.merge(NAME, metadata);
        }
        match ruling {
            Ruling::Ok => {
                stats.ok.inc();
                return ConnectionVerdict::Continue;
            }
            Ruling::OverLimit => {
                stats.over_limit.inc();
                if !self.enforced.holds(engine.runtime(), engine.random()) {
                    return ConnectionVerdict::Continue;
                }
            }
            Ruling::Error => {
                stats.error.inc();
                if self.allows_failure {
                    stats.failure_mode_allowed.inc();
                    return ConnectionVerdict::Continue;
                }
            }
        }
        stats.cx_closed.inc();
        ConnectionVerdict::Close(CLOSED.into())
    }
}

fn build_descriptor(
    proto: &RateLimitDescriptor,
    cx: &mut BuildCx<'_>,
) -> Result<Vec<(String, Format)>, Rejected> {
    let RateLimitDescriptor { entries, limit, hits_addend, is_negative_hits } = proto;
    cx.reject_if(limit.is_some(), "limit", NOT_TOLD)?;
    cx.reject_if(hits_addend.is_some(), "hits_addend", NOT_TOLD)?;
    cx.reject_if(*is_negative_hits, "is_negative_hits", NOT_TOLD)?;
    cx.each("entries", entries, |Entry { key, value }, cx| {
        for (field, text) in [("key", key), ("value", value)] {
            if text.is_empty() {
                return Err(cx.at(field, |cx| cx.reject("value length must be at least 1 characters")));
            }
        }
        let format =
            cx.at("value", |cx| Format::parse_with(value, Empty::Dash).map_err(|reason| cx.reject(reason)))?;
        Ok((key.clone(), format))
    })
}

/// What `format` makes of a connection.
fn render(format: &Format, info: &StreamInfo) -> String {
    let entry = LogEntry::of(info);
    let mut text = Vec::new();
    format.render(&entry, &mut text);
    String::from_utf8_lossy(&text).into_owned()
}

struct Filter {
    config: Arc<Config>,
    engine: Rc<dyn Engine>,
}

/// A question that is not answered yet.
struct Asking<'a>(&'a RateLimitStats);

impl<'a> Asking<'a> {
    fn begin(stats: &'a RateLimitStats) -> Self {
        stats.active.inc();
        stats.total.inc();
        Self(stats)
    }
}

impl Drop for Asking<'_> {
    fn drop(&mut self) {
        self.0.active.dec();
    }
}

impl NetworkFilter for Filter {
    fn on_connection<'a>(&'a mut self, info: &'a mut StreamInfo) -> ConnectionStep<'a> {
        let Self { config, engine } = self;
        if !config.enabled.holds(engine.runtime(), engine.random()) {
            return ConnectionStep::Continue;
        }
        ConnectionStep::Wait(Box::pin(async move {
            let call = ask(&config.service, &config.domain, config.question(info), 0, info);
            let asking = Asking::begin(config.stats.here());
            let called = engine.call(call).await;
            drop(asking);
            config.conclude(&called, &**engine, info)
        }))
    }
}
