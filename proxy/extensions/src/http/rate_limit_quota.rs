//! `envoy.filters.http.rate_limit_quota`: a service assigns quotas to buckets of requests, and is told from time to time how they were used.
//!
//! A matcher puts requests in buckets (`id` names them). No request waits for the service: what holds for a bucket without an assignment is
//! configured (`settings`, `strategy`). The buckets are the process's (`table`); what is told and assigned is in `ledger`, which knows no
//! clock, and the stream in `client`.
//! Source: Envoy `docs/root/configuration/http/http_filters/rate_limit_quota_filter.rst`; observed on 1.40.

mod client;
mod id;
mod ledger;
mod settings;
mod strategy;
mod table;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Instant;

use proxy_core::callout::grpc::GrpcService;
use proxy_core::config::FieldUse::{Rejected as Refused, Used};
use proxy_core::config::{BuildCx, MessageFields, Rejected};
use proxy_core::extension::http_filter::{
    HeadersStep, HttpFilter, HttpFilterExtension, NoRouteConfig, Phases, StreamCx,
};
use proxy_core::extension::{Descriptor, SecurityPosture, Status, decode};
use proxy_core::facts::{Facts, Layer};
use proxy_core::matching::{Inputs, MatchTree, Purpose};
use xds_api::envoy::extensions::filters::http::rate_limit_quota::v3 as proto;

use self::client::Client;
use self::settings::Settings;

const MESSAGE: &str = "envoy.extensions.filters.http.rate_limit_quota.v3.RateLimitQuotaFilterConfig";
const SETTINGS: &str = "envoy.extensions.filters.http.rate_limit_quota.v3.RateLimitQuotaBucketSettings";
const UNHEEDED: &str = "Envoy does not act on it";

thread_local! {
    /// Where logs are told of the bucket: each worker counts its own references.
    static NAMESPACE: Arc<str> = "envoy.extensions.http_filters.rate_limit_quota.bucket".into();
}

/// How the fields of the configuration are used.
pub const FIELDS: &[MessageFields] = &[
    (
        MESSAGE,
        &[
            ("rlqs_server", Used),
            ("domain", Used),
            ("bucket_matchers", Used),
            ("filter_enabled", Refused(UNHEEDED)),
            ("filter_enforced", Refused(UNHEEDED)),
            ("request_headers_to_add_when_not_enforced", Refused(UNHEEDED)),
        ],
    ),
    (
        SETTINGS,
        &[
            ("bucket_id_builder", Used),
            ("reporting_interval", Used),
            ("deny_response_settings", Used),
            ("no_assignment_behavior", Used),
            ("expired_assignment_behavior", Used),
        ],
    ),
    (
        "envoy.extensions.filters.http.rate_limit_quota.v3.RateLimitQuotaBucketSettings.NoAssignmentBehavior",
        &[("fallback_rate_limit", Used)],
    ),
    (
        "envoy.extensions.filters.http.rate_limit_quota.v3.RateLimitQuotaBucketSettings.ExpiredAssignmentBehavior",
        &[
            ("expired_assignment_behavior_timeout", Used),
            ("fallback_rate_limit", Used),
            ("reuse_last_assignment", Used),
        ],
    ),
    (
        "envoy.extensions.filters.http.rate_limit_quota.v3.RateLimitQuotaBucketSettings.ExpiredAssignmentBehavior.ReuseLastAssignment",
        &[],
    ),
    (
        "envoy.extensions.filters.http.rate_limit_quota.v3.RateLimitQuotaBucketSettings.DenyResponseSettings",
        &[
            ("http_status", Used),
            ("http_body", Used),
            ("grpc_status", Used),
            ("response_headers_to_add", Used),
        ],
    ),
    (
        "envoy.extensions.filters.http.rate_limit_quota.v3.RateLimitQuotaBucketSettings.BucketIdBuilder",
        &[("bucket_id_builder", Used)],
    ),
    (
        "envoy.extensions.filters.http.rate_limit_quota.v3.RateLimitQuotaBucketSettings.BucketIdBuilder.ValueBuilder",
        &[("string_value", Used), ("custom_value", Used)],
    ),
    (
        "envoy.type.v3.RateLimitStrategy",
        &[
            ("blanket_rule", Used),
            ("requests_per_time_unit", Refused("Envoy does not act on it: use token_bucket")),
            ("token_bucket", Used),
        ],
    ),
    ("google.rpc.Status", &[("code", Used), ("message", Used), ("details", Refused(UNHEEDED))]),
];

/// The extension.
pub struct RateLimitQuota;

impl HttpFilterExtension for RateLimitQuota {
    const DESCRIPTOR: Descriptor = Descriptor {
        name: "envoy.filters.http.rate_limit_quota",
        message: MESSAGE,
        status: Status::Stable,
        posture: SecurityPosture::RobustToUntrustedDownstream,
    };
    const PHASES: Phases = Phases { request_body: false, response_headers: false, response_body: false };
    type Proto = proto::RateLimitQuotaFilterConfig;
    type Config = Config;
    type RouteProto = NoRouteConfig;
    type RouteConfig = NoRouteConfig;

    fn build(proto: Self::Proto, cx: &mut BuildCx<'_>) -> Result<Self::Config, Rejected> {
        let proto::RateLimitQuotaFilterConfig {
            rlqs_server,
            domain,
            bucket_matchers,
            filter_enabled,
            filter_enforced,
            request_headers_to_add_when_not_enforced: headers,
        } = proto;
        cx.reject_if(domain.is_empty(), "domain", "value length must be at least 1 characters")?;
        cx.reject_if(filter_enabled.is_some(), "filter_enabled", UNHEEDED)?;
        cx.reject_if(filter_enforced.is_some(), "filter_enforced", UNHEEDED)?;
        cx.reject_if(!headers.is_empty(), "request_headers_to_add_when_not_enforced", UNHEEDED)?;
        let service = cx.at("rlqs_server", |cx| {
            let Some(service) = rlqs_server else { return Err(cx.reject("value is required")) };
            cx.reject_if(service.timeout.is_some(), "timeout", "the stream to the service has no end")?;
            let again = "the stream to the service is begun anew with the next report";
            cx.reject_if(service.retry_policy.is_some(), "retry_policy", again)?;
            Ok((GrpcService::build(&service, None, cx)?, format!("{service:?}")))
        });
        let tree = cx.at("bucket_matchers", |cx| {
            let Some(matcher) = bucket_matchers else { return Err(cx.reject("value is required")) };
            let refuse_input = |input: &str| format!("a bucket cannot be found by '{input}'");
            let inputs = Inputs { layer: Layer::Http, admits: &|_| true, refuse: &refuse_input };
            let purpose = Purpose { inputs, action: &build_action };
            MatchTree::build(&matcher, &purpose, cx)
        });
        let (service, said) = service?;
        Ok(Config { tree: tree?, client: Client::share(service, &said, &domain, cx) })
    }

    fn build_route(_: NoRouteConfig, _: &mut BuildCx<'_>) -> Result<NoRouteConfig, Rejected> {
        Ok(())
    }

    fn create(config: &Arc<Self::Config>) -> Box<dyn HttpFilter> {
        Box::new(Filter(config.clone()))
    }
}

fn build_action(message: &str, payload: &[u8], cx: &mut BuildCx<'_>) -> Result<Arc<Settings>, Rejected> {
    match message {
        SETTINGS => Settings::build(&decode(payload, cx)?, cx).map(Arc::new),
        _ => Err(cx.reject(format!("{message} is no action that is available here"))),
    }
}

/// The configuration.
pub struct Config {
    tree: MatchTree<Arc<Settings>>,
    client: Arc<Client>,
}

struct Filter(Arc<Config>);

impl HttpFilter for Filter {
    fn on_request_headers<'a>(&'a mut self, cx: &'a mut StreamCx<'_>, _end: bool) -> HeadersStep<'a> {
        let Config { tree, client } = &*self.0;
        let (settings, key) = {
            let facts = Facts::of_request(cx.info, cx.request, cx.route.map(|route| route.metadata()));
            let Some(settings) = tree.find(&facts) else { return HeadersStep::Continue };
            let Some(key) = settings.id.key(&facts) else { return HeadersStep::Continue };
            (settings, key)
        };
        let now = Instant::now();
        let is_admitted = match client.ask(&key, settings, now) {
            Some(asked) => {
                NAMESPACE.with(|namespace| cx.info.metadata.share(namespace, &asked.metadata));
                asked.is_admitted
            }
            // (Clients choose what buckets are named after: who has none shares what one would have.)
            None => settings.crowd.admits(now),
        };
        match is_admitted {
            true => HeadersStep::Continue,
            false => HeadersStep::Reply(Box::new(settings.denial.reply())),
        }
    }
}
