//! `envoy.filters.http.rbac`: who may request what.
//!
//! Shadow rules are evaluated first and only told: counted, and left in the metadata `envoy.filters.http.rbac` for access logs
//! and other filters. What the rules refuse is answered with 403. A route's configuration replaces the filter's as a whole;
//! one without rules lets everything pass.
//! Source: Envoy `docs/root/configuration/http/http_filters/rbac_filter.rst`; answers, metadata and counters observed on 1.40.

use std::sync::Arc;

use http::StatusCode;
use proxy_core::config::{BuildCx, FieldUse, MessageFields, Rejected};
use proxy_core::extension::http_filter::{
    HeadersStep, HttpFilter, HttpFilterExtension, Phases, Route, StreamCx,
};
use proxy_core::extension::{Descriptor, SecurityPosture, Status};
use proxy_core::local_reply::LocalReply;
use proxy_core::matcher::path::without_parameters;
use xds_api::envoy::extensions::filters::http::rbac::v3 as proto;

use crate::shared::rbac::{Counters, Facts, Layer, Mode, Rules, RulesProto};
use FieldUse::Used;

const NAME: &str = "envoy.filters.http.rbac";
/// Whose metadata it leaves behind the router.
const UPSTREAM_NAME: &str = "envoy.filters.http.upstream_rbac";

/// How the fields of the configurations are used.
pub const FIELDS: &[MessageFields] = &[
    (
        "envoy.extensions.filters.http.rbac.v3.RBAC",
        &[
            ("rules", Used),
            ("rules_stat_prefix", Used),
            ("matcher", Used),
            ("shadow_rules", Used),
            ("shadow_matcher", Used),
            ("shadow_rules_stat_prefix", Used),
            ("track_per_rule_stats", Used),
        ],
    ),
    ("envoy.extensions.filters.http.rbac.v3.RBACPerRoute", &[("rbac", Used)]),
];

/// The extension.
pub struct Rbac;

impl HttpFilterExtension for Rbac {
    const DESCRIPTOR: Descriptor = Descriptor {
        name: NAME,
        message: "envoy.extensions.filters.http.rbac.v3.RBAC",
        status: Status::Stable,
        posture: SecurityPosture::RobustToUntrustedDownstream,
    };
    const ROUTE_MESSAGE: Option<&'static str> = Some("envoy.extensions.filters.http.rbac.v3.RBACPerRoute");
    const PHASES: Phases = Phases { request_body: false, response_headers: false, response_body: false };
    const MAY_BE_UPSTREAM: bool = true;
    type Proto = proto::Rbac;
    type Config = Config;
    type RouteProto = proto::RbacPerRoute;
    type RouteConfig = RoutePolicy;

    fn build(proto: Self::Proto, cx: &mut BuildCx<'_>) -> Result<Self::Config, Rejected> {
        let (prefix, shadow_prefix) = (&proto.rules_stat_prefix, &proto.shadow_rules_stat_prefix);
        Ok(Config {
            namespace: if cx.is_upstream { UPSTREAM_NAME } else { NAME }.into(),
            counters: Counters::new(&cx.env.stats, &cx.stat_prefix, prefix, shadow_prefix),
            prefix: prefix.as_str().into(),
            shadow_prefix: shadow_prefix.as_str().into(),
            policy: RoutePolicy::build(&proto, cx)?,
        })
    }

    fn build_route(proto: Self::RouteProto, cx: &mut BuildCx<'_>) -> Result<Self::RouteConfig, Rejected> {
        let proto::RbacPerRoute { rbac } = proto;
        cx.at("rbac", |cx| RoutePolicy::build(&rbac.unwrap_or_default(), cx))
    }

    fn create(config: &Arc<Self::Config>) -> Box<dyn HttpFilter> {
        Box::new(Filter(config.clone()))
    }
}

/// The configuration of the filter.
pub struct Config {
    policy: RoutePolicy,
    prefix: Box<str>,
    shadow_prefix: Box<str>,
    counters: Counters,
    namespace: Arc<str>,
}

/// What the filter, or a route, says.
pub struct RoutePolicy {
    rules: Rules,
    is_counted_by_policy: bool,
}

impl RoutePolicy {
    fn build(proto: &proto::Rbac, cx: &mut BuildCx<'_>) -> Result<Self, Rejected> {
        let proto::Rbac {
            rules,
            rules_stat_prefix,
            matcher,
            shadow_rules,
            shadow_matcher,
            shadow_rules_stat_prefix,
            track_per_rule_stats,
        } = proto;
        let protos = RulesProto {
            rules: rules.as_ref(),
            prefix: rules_stat_prefix,
            matcher: matcher.as_ref(),
            shadow_rules: shadow_rules.as_ref(),
            shadow_prefix: shadow_rules_stat_prefix,
            shadow_matcher: shadow_matcher.as_ref(),
        };
        let rules = Rules::build(&protos, Layer::Http, cx)?;
        Ok(Self { rules, is_counted_by_policy: *track_per_rule_stats })
    }
}

struct Filter(Arc<Config>);

impl HttpFilter for Filter {
    fn on_request_headers<'a>(&'a mut self, cx: &'a mut StreamCx<'_>, _end: bool) -> HeadersStep<'a> {
        let config = &*self.0;
        let policy = cx.route_config::<RoutePolicy>().unwrap_or(&config.policy);
        let is_cut = cx.route.is_some_and(Route::ignores_path_parameters) && cx.request.path.contains(';');
        let cut = is_cut.then(|| without_parameters(cx.request.path_only()));
        let facts = Facts::of_request(cx.info, cx.request, cx.route.map(|route| route.metadata()))
            .with_path(cut.as_deref())
            .with_cluster(cx.route.and_then(Route::cluster));
        let [shadow, enforced] = policy.rules.decide(&facts);
        if let Some((engine, outcome)) = shadow {
            config.counters.count(Mode::Shadow, outcome, policy.is_counted_by_policy);
            engine.tell(outcome, &config.shadow_prefix, &config.namespace, &mut cx.info.metadata);
        }
        let Some((engine, outcome)) = enforced else { return HeadersStep::Continue };
        config.counters.count(Mode::Enforced, outcome, policy.is_counted_by_policy);
        engine.tell(outcome, &config.prefix, &config.namespace, &mut cx.info.metadata);
        engine.tell_logs(outcome, &mut cx.info.metadata);
        if outcome.is_allowed {
            return HeadersStep::Continue;
        }
        let reply = LocalReply::new(StatusCode::FORBIDDEN, "RBAC: access denied", outcome.details());
        HeadersStep::Reply(Box::new(reply))
    }
}
