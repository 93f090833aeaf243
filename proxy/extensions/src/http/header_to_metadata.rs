//! `envoy.filters.http.header_to_metadata`: headers and cookies become dynamic metadata, for subsets, rate limits, logs.
//!
//! Of the filter's rules and those of the levels above a route the most specific ones count, and no others. Bytes of a value that
//! are no UTF-8 are replaced.
//! Source: Envoy `docs/root/configuration/http/http_filters/header_to_metadata_filter.rst`; observed on 1.40: a route's
//! configuration counts too, in a scope of its own.

mod rule;

use std::any::Any;
use std::sync::Arc;

use proxy_core::config::FieldUse::Used;
use proxy_core::config::{BuildCx, MessageFields, Rejected};
use proxy_core::extension::http_filter::{HeadersStep, HttpFilter, HttpFilterExtension, Phases, StreamCx};
use proxy_core::extension::{Descriptor, SecurityPosture, Status};
use proxy_core::stats::Cells;
use xds_api::envoy::extensions::filters::http::header_to_metadata::v3 as proto;

use rule::{Outcome, Rule};

const MESSAGE: &str = "envoy.extensions.filters.http.header_to_metadata.v3.Config";
const NAME: &str = "envoy.filters.http.header_to_metadata";

/// How the fields of the configuration are used.
pub const FIELDS: &[MessageFields] = &[
    (MESSAGE, &[("request_rules", Used), ("response_rules", Used), ("stat_prefix", Used)]),
    (
        "envoy.extensions.filters.http.header_to_metadata.v3.Config.Rule",
        &[
            ("header", Used),
            ("cookie", Used),
            ("on_header_present", Used),
            ("on_header_missing", Used),
            ("remove", Used),
        ],
    ),
    (
        "envoy.extensions.filters.http.header_to_metadata.v3.Config.KeyValuePair",
        &[
            ("metadata_namespace", Used),
            ("key", Used),
            ("value", Used),
            ("regex_value_rewrite", Used),
            ("type", Used),
            ("encode", Used),
        ],
    ),
];

/// The extension.
pub struct HeaderToMetadata;

impl HttpFilterExtension for HeaderToMetadata {
    const DESCRIPTOR: Descriptor = Descriptor {
        name: NAME,
        message: MESSAGE,
        status: Status::Stable,
        posture: SecurityPosture::RobustToUntrustedDownstream,
    };
    const ROUTE_MESSAGE: Option<&'static str> = Some(MESSAGE);
    const PHASES: Phases = Phases { request_body: false, response_headers: true, response_body: false };
    type Proto = proto::Config;
    type Config = Config;
    type RouteProto = proto::Config;
    type RouteConfig = Config;

    fn build(proto: Self::Proto, cx: &mut BuildCx<'_>) -> Result<Self::Config, Rejected> {
        Config::build(&proto, cx)
    }

    fn build_route(proto: Self::RouteProto, cx: &mut BuildCx<'_>) -> Result<Self::RouteConfig, Rejected> {
        let config = Config::build(&proto, cx)?;
        if config.request.is_empty() && config.response.is_empty() {
            return Err(cx.reject(
                "header_to_metadata_filter: Per filter configs must at least specify either request or response \
                 rules",
            ));
        }
        Ok(config)
    }

    fn create(config: &Arc<Self::Config>) -> Box<dyn HttpFilter> {
        Box::new(Filter { own: config.clone(), seen: false, of_route: None })
    }
}

proxy_core::stats! {
    /// `http_filter_name.<stat_prefix>`.
    pub sharded struct HeaderToMetadataStats {
        /// Rules that requests were held to.
        counter request_rules_processed,
        /// Rules that responses were held to.
        counter response_rules_processed,
        /// Values that requests had.
        counter request_metadata_added,
        /// Values that responses had.
        counter response_metadata_added,
        /// Rules for what is missing that did something to requests.
        counter request_header_not_found,
        /// Rules for what is missing that did something to responses.
        counter response_header_not_found,
        /// Values that are no base64.
        counter base64_decode_failed,
        /// Values of 8 KiB and more, which are left out.
        counter header_value_too_long,
        /// Values of which rewriting left nothing.
        counter regex_substitution_failed,
    }
}

/// The rules of the filter, or of a route.
pub struct Config {
    request: Box<[Rule]>,
    response: Box<[Rule]>,
    stats: Option<Cells<HeaderToMetadataStats>>,
}

impl Config {
    fn build(proto: &proto::Config, cx: &mut BuildCx<'_>) -> Result<Self, Rejected> {
        let proto::Config { request_rules, response_rules, stat_prefix } = proto;
        let request = cx.each("request_rules", request_rules, Rule::build);
        let response = cx.each("response_rules", response_rules, Rule::build);
        let stats = (!stat_prefix.is_empty())
            .then(|| cx.env.stats.scope(&format!("http_filter_name.{stat_prefix}")).cells());
        Ok(Self { request: request?.into(), response: response?.into(), stats })
    }

    fn count(&self, is_request: bool, outcome: &Outcome) {
        let Some(stats) = self.stats.as_ref().map(Cells::here) else { return };
        let (processed, missing, added) = match is_request {
            true => (
                &stats.request_rules_processed,
                &stats.request_header_not_found,
                &stats.request_metadata_added,
            ),
            false => (
                &stats.response_rules_processed,
                &stats.response_header_not_found,
                &stats.response_metadata_added,
            ),
        };
        processed.inc();
        if outcome.is_missing {
            missing.inc();
        }
        if outcome.is_emptied {
            stats.regex_substitution_failed.inc();
        }
        if outcome.is_too_long {
            stats.header_value_too_long.inc();
        }
        if outcome.is_no_base64 {
            stats.base64_decode_failed.inc();
        }
        if outcome.value.is_some() {
            added.inc();
        }
    }
}

struct Filter {
    own: Arc<Config>,
    /// The request was seen, and with it what its route says.
    seen: bool,
    of_route: Option<Arc<dyn Any + Send + Sync>>,
}

impl Filter {
    /// What counts for the stream: what did for its request, if it came so far.
    fn config(&mut self, cx: &StreamCx<'_>) -> &Config {
        if !std::mem::replace(&mut self.seen, true) {
            self.of_route = cx.route_configs.first().cloned();
        }
        let of_route = self.of_route.as_ref().and_then(|config| config.downcast_ref());
        of_route.unwrap_or(&self.own)
    }
}

impl HttpFilter for Filter {
    fn on_request_headers<'a>(&'a mut self, cx: &'a mut StreamCx<'_>, _end: bool) -> HeadersStep<'a> {
        let config = self.config(cx);
        for rule in &config.request {
            let outcome = rule.of_request(cx.request);
            config.count(true, &outcome);
            rule.leave(outcome, cx.info);
        }
        HeadersStep::Continue
    }

    fn on_response_headers<'a>(&'a mut self, cx: &'a mut StreamCx<'_>, _end: bool) -> HeadersStep<'a> {
        let config = self.config(cx);
        let Some(response) = cx.response.as_deref_mut() else { return HeadersStep::Continue };
        for rule in &config.response {
            let outcome = rule.of_response(response);
            config.count(false, &outcome);
            rule.leave(outcome, cx.info);
        }
        HeadersStep::Continue
    }
}
