//! `envoy.filters.http.header_mutation`: sets, appends and removes headers, trailers and query parameters.
//!
//! Mutations apply one after the other, each to what the ones before it left. The filter's own come first, then those of
//! the levels from the route to the route configuration; `most_specific_header_mutations_wins` turns the levels around.
//! A value that comes out empty adds nothing, unless `keep_empty_value` is set; a missing value is empty here, not `-`.
//! A changed path has its parameters sorted by name. Pseudo-headers and `host` cannot be changed: refused, where Envoy
//! lets a removal pass and then fails requests.
//! Source: Envoy `docs/root/configuration/http/http_filters/header_mutation_filter.rst`; orders observed on 1.40.

mod query;

use std::sync::Arc;

use http::HeaderMap;
use proxy_core::config::{BuildCx, FieldUse, MessageFields, Rejected};
use proxy_core::extension::access_log::LogEntry;
use proxy_core::extension::http_filter::{HeadersStep, HttpFilter, HttpFilterExtension, Phases, StreamCx};
use proxy_core::extension::{Descriptor, SecurityPosture, Status};
use proxy_core::field_names::{joins_in_request, joins_in_response};
use proxy_core::header_mutation::Mutation;
use xds_api::envoy::extensions::filters::http::header_mutation::v3 as proto;

use FieldUse::{Ignored, Used};
use query::QueryMutation;

/// How the fields of the configurations are used.
pub const FIELDS: &[MessageFields] = &[
    (
        "envoy.extensions.filters.http.header_mutation.v3.HeaderMutation",
        &[("mutations", Used), ("most_specific_header_mutations_wins", Used)],
    ),
    ("envoy.extensions.filters.http.header_mutation.v3.HeaderMutationPerRoute", &[("mutations", Used)]),
    (
        "envoy.extensions.filters.http.header_mutation.v3.Mutations",
        &[
            ("request_mutations", Used),
            ("query_parameter_mutations", Used),
            ("response_mutations", Used),
            ("response_trailers_mutations", Used),
            ("request_trailers_mutations", Used),
            ("formatters", Used),
        ],
    ),
    ("envoy.config.core.v3.KeyValueMutation", &[("append", Used), ("remove", Used)]),
    (
        "envoy.config.core.v3.KeyValueAppend",
        &[
            ("record", Used),
            ("entry", Ignored("Envoy 1.40 reads `record` only, and refuses an append without it")),
            ("action", Used),
        ],
    ),
    ("envoy.config.core.v3.KeyValuePair", &[("key", Used), ("value", Used)]),
];

/// The extension.
pub struct HeaderMutation;

impl HttpFilterExtension for HeaderMutation {
    const DESCRIPTOR: Descriptor = Descriptor {
        name: "envoy.filters.http.header_mutation",
        message: "envoy.extensions.filters.http.header_mutation.v3.HeaderMutation",
        status: Status::Stable,
        posture: SecurityPosture::RobustToUntrustedDownstreamAndUpstream,
    };
    const ROUTE_MESSAGE: Option<&'static str> =
        Some("envoy.extensions.filters.http.header_mutation.v3.HeaderMutationPerRoute");
    const PHASES: Phases = Phases { request_body: true, response_headers: true, response_body: true };
    const MAY_BE_UPSTREAM: bool = true;
    type Proto = proto::HeaderMutation;
    type Config = Config;
    type RouteProto = proto::HeaderMutationPerRoute;
    type RouteConfig = Mutations;

    fn build(proto: Self::Proto, cx: &mut BuildCx<'_>) -> Result<Self::Config, Rejected> {
        let proto::HeaderMutation { mutations, most_specific_header_mutations_wins } = proto;
        let own = cx.at("mutations", |cx| Mutations::build(mutations, cx))?;
        Ok(Config { own, most_specific_last: most_specific_header_mutations_wins })
    }

    fn build_route(proto: Self::RouteProto, cx: &mut BuildCx<'_>) -> Result<Self::RouteConfig, Rejected> {
        let proto::HeaderMutationPerRoute { mutations } = proto;
        cx.at("mutations", |cx| Mutations::build(mutations, cx))
    }

    fn create(config: &Arc<Self::Config>) -> Box<dyn HttpFilter> {
        Box::new(Filter(config.clone()))
    }
}

/// The configuration of the filter.
pub struct Config {
    own: Mutations,
    /// Whether the route's mutations are the last word.
    most_specific_last: bool,
}

/// The mutations of one level.
#[derive(Debug)]
pub struct Mutations {
    request: Vec<Mutation>,
    query: Vec<QueryMutation>,
    response: Vec<Mutation>,
    request_trailers: Vec<Mutation>,
    response_trailers: Vec<Mutation>,
}

impl Mutations {
    fn build(proto: Option<proto::Mutations>, cx: &mut BuildCx<'_>) -> Result<Self, Rejected> {
        let proto::Mutations {
            request_mutations,
            query_parameter_mutations,
            response_mutations,
            response_trailers_mutations,
            request_trailers_mutations,
            formatters,
        } = proto.unwrap_or_default();
        let formatters = proxy_core::format::check_formatters(&formatters, cx);
        let request = cx.each("request_mutations", &request_mutations, Mutation::build);
        let query = cx.each("query_parameter_mutations", query_parameter_mutations, QueryMutation::build);
        let response = cx.each("response_mutations", &response_mutations, Mutation::build);
        let response_trailers =
            cx.each("response_trailers_mutations", &response_trailers_mutations, Mutation::build);
        let request_trailers =
            cx.each("request_trailers_mutations", &request_trailers_mutations, Mutation::build);
        formatters?;
        Ok(Self {
            request: request?,
            query: query?,
            response: response?,
            request_trailers: request_trailers?,
            response_trailers: response_trailers?,
        })
    }
}

struct Filter(Arc<Config>);

impl HttpFilter for Filter {
    fn on_request_headers<'a>(&'a mut self, cx: &'a mut StreamCx<'_>, _end: bool) -> HeadersStep<'a> {
        for level in levels(&self.0, cx) {
            for mutation in &level.request {
                let change = mutation.prepare(&cx.request.headers, &entry(cx, None));
                change.apply(&mut cx.request.headers, joins_in_request);
            }
            if !level.query.is_empty() {
                let path = query::apply(&level.query, &cx.request.path, &entry(cx, None));
                cx.request.path = path.into();
            }
        }
        HeadersStep::Continue
    }

    fn on_request_trailers<'a>(
        &'a mut self,
        cx: &'a mut StreamCx<'_>,
        trailers: &'a mut HeaderMap,
    ) -> HeadersStep<'a> {
        for level in levels(&self.0, cx) {
            for mutation in &level.request_trailers {
                mutation.prepare(trailers, &entry(cx, None)).apply(trailers, joins_in_request);
            }
        }
        HeadersStep::Continue
    }

    fn on_response_headers<'a>(&'a mut self, cx: &'a mut StreamCx<'_>, _end: bool) -> HeadersStep<'a> {
        for level in levels(&self.0, cx) {
            for mutation in &level.response {
                let Some(response) = cx.response.as_deref() else { return HeadersStep::Continue };
                let change = mutation.prepare(&response.headers, &entry(cx, None));
                if let Some(response) = cx.response.as_deref_mut() {
                    change.apply(&mut response.headers, joins_in_response);
                }
            }
        }
        HeadersStep::Continue
    }

    fn on_response_trailers<'a>(
        &'a mut self,
        cx: &'a mut StreamCx<'_>,
        trailers: &'a mut HeaderMap,
    ) -> HeadersStep<'a> {
        for level in levels(&self.0, cx) {
            for mutation in &level.response_trailers {
                let change = mutation.prepare(trailers, &entry(cx, Some(trailers)));
                change.apply(trailers, joins_in_response);
            }
        }
        HeadersStep::Continue
    }
}

/// The mutations of all levels, in the order in which they apply.
fn levels<'c>(config: &'c Config, cx: &StreamCx<'c>) -> smallvec::SmallVec<[&'c Mutations; 4]> {
    let mut levels: smallvec::SmallVec<[&Mutations; 4]> = smallvec::smallvec![&config.own];
    levels.extend(cx.route_configs::<Mutations>());
    if config.most_specific_last
        && let Some(routes) = levels.get_mut(1..)
    {
        routes.reverse();
    }
    levels
}

/// What values may refer to.
fn entry<'e>(cx: &'e StreamCx<'_>, trailers: Option<&'e HeaderMap>) -> LogEntry<'e> {
    LogEntry {
        request: Some(cx.request),
        response: cx.response.as_deref(),
        response_trailers: trailers,
        ..LogEntry::of(cx.info)
    }
}

#[cfg(test)]
mod tests;
