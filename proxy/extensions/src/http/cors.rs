//! `envoy.filters.http.cors`: answers preflights and marks responses for pages of other origins.
//!
//! The policy is the per-route configuration. Each of its settings comes from the most specific level that has it.
//! A preflight from an origin that is allowed is answered here; one that is not goes on, unless
//! `forward_not_matching_preflights` is off. An `exact` origin of `*` matches every origin.
//! Source: Envoy `docs/root/configuration/http/http_filters/cors_filter.rst`; headers observed on 1.40.

use std::sync::Arc;

use bytes::Bytes;
use http::header::{
    ACCESS_CONTROL_ALLOW_CREDENTIALS, ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS,
    ACCESS_CONTROL_ALLOW_ORIGIN, ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE,
    ACCESS_CONTROL_REQUEST_METHOD, HeaderMap, HeaderName, HeaderValue, ORIGIN,
};
use http::{Method, StatusCode};
use proxy_core::config::{BuildCx, FieldUse, MessageFields, Rejected};
use proxy_core::extension::http_filter::{HeadersStep, HttpFilter, HttpFilterExtension, Phases, StreamCx};
use proxy_core::extension::{Descriptor, SecurityPosture, Status};
use proxy_core::local_reply::LocalReply;
use proxy_core::matcher::StringMatcher;
use proxy_core::runtime::RuntimeFraction;
use proxy_core::stats::Cells;
use xds_api::envoy::extensions::filters::http::cors::v3 as proto;

use FieldUse::Used;

/// How the fields of the configurations are used.
pub const FIELDS: &[MessageFields] = &[
    ("envoy.extensions.filters.http.cors.v3.Cors", &[]),
    (
        "envoy.extensions.filters.http.cors.v3.CorsPolicy",
        &[
            ("allow_origin_string_match", Used),
            ("allow_methods", Used),
            ("allow_headers", Used),
            ("expose_headers", Used),
            ("max_age", Used),
            ("allow_credentials", Used),
            ("filter_enabled", Used),
            ("shadow_enabled", Used),
            ("allow_private_network_access", Used),
            ("forward_not_matching_preflights", Used),
        ],
    ),
];

static REQUEST_PRIVATE_NETWORK: HeaderName =
    HeaderName::from_static("access-control-request-private-network");
static ALLOW_PRIVATE_NETWORK: HeaderName = HeaderName::from_static("access-control-allow-private-network");
static TRUE: HeaderValue = HeaderValue::from_static("true");

const DETAILS: &str = "cors_response";

/// The extension.
pub struct Cors;

impl HttpFilterExtension for Cors {
    const DESCRIPTOR: Descriptor = Descriptor {
        name: "envoy.filters.http.cors",
        message: "envoy.extensions.filters.http.cors.v3.Cors",
        status: Status::Stable,
        posture: SecurityPosture::RobustToUntrustedDownstream,
    };
    const ROUTE_MESSAGE: Option<&'static str> = Some("envoy.extensions.filters.http.cors.v3.CorsPolicy");
    const PHASES: Phases = Phases { request_body: false, response_headers: false, response_body: false };
    type Proto = proto::Cors;
    type Config = Config;
    type RouteProto = proto::CorsPolicy;
    type RouteConfig = Policy;

    fn build(proto: Self::Proto, cx: &mut BuildCx<'_>) -> Result<Self::Config, Rejected> {
        let proto::Cors {} = proto;
        Ok(Config { stats: cx.env.stats.scope(&format!("{}cors", cx.stat_prefix)).cells() })
    }

    fn build_route(proto: Self::RouteProto, cx: &mut BuildCx<'_>) -> Result<Self::RouteConfig, Rejected> {
        Policy::build(proto, cx)
    }

    fn create(config: &Arc<Self::Config>) -> Box<dyn HttpFilter> {
        Box::new(Filter { config: config.clone(), allowed: None })
    }
}

/// The configuration of the filter: nothing but where it counts.
pub struct Config {
    stats: Cells<CorsStats>,
}

proxy_core::stats! {
    /// `http.<stat_prefix>.cors`.
    pub sharded struct CorsStats {
        /// Requests from an origin that is not allowed.
        counter origin_invalid,
        /// Requests from an origin that is allowed.
        counter origin_valid,
    }
}

/// What one level says.
pub struct Policy {
    origins: Vec<StringMatcher>,
    methods: Option<HeaderValue>,
    headers: Option<HeaderValue>,
    expose: Option<HeaderValue>,
    max_age: Option<HeaderValue>,
    credentials: Option<bool>,
    private_network: Option<bool>,
    forward_not_matching: Option<bool>,
    enabled: Option<RuntimeFraction>,
    shadow: Option<RuntimeFraction>,
}

impl Policy {
    fn build(proto: proto::CorsPolicy, cx: &mut BuildCx<'_>) -> Result<Self, Rejected> {
        let proto::CorsPolicy {
            allow_origin_string_match,
            allow_methods,
            allow_headers,
            expose_headers,
            max_age,
            allow_credentials,
            filter_enabled,
            shadow_enabled,
            allow_private_network_access,
            forward_not_matching_preflights,
        } = proto;
        let origins = cx.each("allow_origin_string_match", &allow_origin_string_match, StringMatcher::build);
        let methods = header_value("allow_methods", allow_methods, cx);
        let headers = header_value("allow_headers", allow_headers, cx);
        let expose = header_value("expose_headers", expose_headers, cx);
        let max_age = header_value("max_age", max_age, cx);
        Ok(Self {
            origins: origins?,
            methods: methods?,
            headers: headers?,
            expose: expose?,
            max_age: max_age?,
            credentials: allow_credentials,
            private_network: allow_private_network_access,
            forward_not_matching: forward_not_matching_preflights,
            enabled: filter_enabled.as_ref().map(RuntimeFraction::new),
            shadow: shadow_enabled.as_ref().map(RuntimeFraction::new),
        })
    }
}

fn header_value(
    field: &'static str,
    text: String,
    cx: &mut BuildCx<'_>,
) -> Result<Option<HeaderValue>, Rejected> {
    if text.is_empty() {
        return Ok(None);
    }
    HeaderValue::try_from(text)
        .map(Some)
        .map_err(|_| cx.at(field, |cx| cx.reject("value has characters that a header cannot have")))
}

/// The policies of all levels, the most specific first.
struct Policies<'s, 'p>(&'s StreamCx<'p>);

impl<'p> Policies<'_, 'p> {
    /// The setting of the most specific level that has it.
    fn first<T>(&self, setting: impl Fn(&'p Policy) -> Option<T>) -> Option<T> {
        self.0.route_configs::<Policy>().find_map(setting)
    }

    fn allows(&self, origin: &[u8]) -> bool {
        let origins = self.first(|policy| (!policy.origins.is_empty()).then_some(&policy.origins));
        origins.is_some_and(|origins| {
            origins.iter().any(|matcher| matcher.matches(b"*") || matcher.matches(origin))
        })
    }

    /// Whether the filter acts, and whether it counts.
    fn active(&self) -> (bool, bool) {
        let Some(policy) = self.0.route_config::<Policy>() else { return (false, false) };
        let holds =
            |fraction: &RuntimeFraction| fraction.holds(self.0.engine.runtime(), self.0.engine.random());
        let enabled = policy.enabled.as_ref().is_none_or(holds);
        (enabled, enabled || policy.shadow.as_ref().is_some_and(holds))
    }
}

struct Filter {
    config: Arc<Config>,
    /// The origin, when this response is to be marked for it.
    allowed: Option<HeaderValue>,
}

impl HttpFilter for Filter {
    fn on_request_headers<'a>(&'a mut self, cx: &'a mut StreamCx<'_>, _end: bool) -> HeadersStep<'a> {
        let policies = Policies(cx);
        let (enabled, counts) = policies.active();
        let Some(origin) = origin(&cx.request.headers).filter(|_| counts) else {
            return HeadersStep::Continue;
        };
        let allowed = policies.allows(origin.as_bytes());
        let stats = self.config.stats.here();
        if allowed {
            stats.origin_valid.inc()
        } else {
            stats.origin_invalid.inc()
        }
        if !enabled {
            return HeadersStep::Continue;
        }
        let preflight =
            cx.request.method == Method::OPTIONS && has(&cx.request.headers, &ACCESS_CONTROL_REQUEST_METHOD);
        if !allowed {
            let forward = policies.first(|policy| policy.forward_not_matching).unwrap_or(true);
            if preflight && !forward {
                return HeadersStep::Reply(Box::new(empty_reply()));
            }
            return HeadersStep::Continue;
        }
        self.allowed = Some(origin.clone());
        cx.phases.response_headers = true;
        let policies = Policies(cx);
        if !preflight {
            return HeadersStep::Continue;
        }
        let mut reply = empty_reply();
        let headers = &mut reply.headers;
        headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin);
        if policies.first(|policy| policy.credentials) == Some(true) {
            headers.insert(ACCESS_CONTROL_ALLOW_CREDENTIALS, TRUE.clone());
        }
        put(headers, ACCESS_CONTROL_ALLOW_METHODS, policies.first(|policy| policy.methods.as_ref()));
        put(headers, ACCESS_CONTROL_ALLOW_HEADERS, policies.first(|policy| policy.headers.as_ref()));
        put(headers, ACCESS_CONTROL_MAX_AGE, policies.first(|policy| policy.max_age.as_ref()));
        let asks = cx.request.headers.get(&REQUEST_PRIVATE_NETWORK).is_some_and(|value| value == "true");
        if asks && policies.first(|policy| policy.private_network) == Some(true) {
            headers.insert(&ALLOW_PRIVATE_NETWORK, TRUE.clone());
        }
        HeadersStep::Reply(Box::new(reply))
    }

    fn on_response_headers<'a>(&'a mut self, cx: &'a mut StreamCx<'_>, _end: bool) -> HeadersStep<'a> {
        let Some(origin) = self.allowed.take() else { return HeadersStep::Continue };
        let policies = Policies(cx);
        let credentials = policies.first(|policy| policy.credentials) == Some(true);
        let expose = policies.first(|policy| policy.expose.as_ref());
        let Some(response) = cx.response.as_deref_mut() else { return HeadersStep::Continue };
        response.headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin);
        if credentials {
            response.headers.insert(ACCESS_CONTROL_ALLOW_CREDENTIALS, TRUE.clone());
        }
        put(&mut response.headers, ACCESS_CONTROL_EXPOSE_HEADERS, expose);
        HeadersStep::Continue
    }
}

fn put(headers: &mut HeaderMap, name: HeaderName, value: Option<&HeaderValue>) {
    if let Some(value) = value {
        headers.insert(name, value.clone());
    }
}

fn has(headers: &HeaderMap, name: &HeaderName) -> bool {
    headers.get(name).is_some_and(|value| !value.is_empty())
}

/// The origin, unless it is missing or empty. Several of them are joined, and then match nothing real.
fn origin(headers: &HeaderMap) -> Option<HeaderValue> {
    let mut all = headers.get_all(ORIGIN).iter();
    let first = all.next()?;
    let Some(second) = all.next() else { return (!first.is_empty()).then(|| first.clone()) };
    let mut joined = first.as_bytes().to_vec();
    for value in std::iter::once(second).chain(all) {
        joined.push(b',');
        joined.extend_from_slice(value.as_bytes());
    }
    HeaderValue::from_maybe_shared(Bytes::from(joined)).ok()
}

fn empty_reply() -> LocalReply {
    LocalReply::new(StatusCode::OK, Bytes::new(), DETAILS)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Stream, env, reply};
    use std::any::Any;
    use xds_api::envoy::config::core::v3::RuntimeFractionalPercent;
    use xds_api::envoy::r#type::matcher::v3 as matcher;
    use xds_api::envoy::r#type::v3::FractionalPercent;

    fn exact(origin: &str) -> matcher::StringMatcher {
        matcher::StringMatcher {
            match_pattern: Some(matcher::string_matcher::MatchPattern::Exact(origin.into())),
            ..Default::default()
        }
    }

    fn policy() -> proto::CorsPolicy {
        proto::CorsPolicy { allow_origin_string_match: vec![exact("http://a")], ..Default::default() }
    }

    fn full() -> proto::CorsPolicy {
        proto::CorsPolicy {
            allow_methods: "GET,POST".into(),
            allow_headers: "x-h".into(),
            expose_headers: "x-e".into(),
            max_age: "10".into(),
            allow_credentials: Some(true),
            allow_private_network_access: Some(true),
            ..policy()
        }
    }

    fn percent(numerator: u32) -> Option<RuntimeFractionalPercent> {
        let default_value = Some(FractionalPercent { numerator, denominator: 0 });
        Some(RuntimeFractionalPercent { default_value, runtime_key: String::new() })
    }

    /// What the client gets as `name: value` lines, and whether the filter answered itself; origins counted valid and not.
    fn exchange(
        method: Method,
        headers: &[(&'static str, &'static str)],
        policies: &[proto::CorsPolicy],
    ) -> (bool, Vec<String>, [u64; 2]) {
        let env = env();
        let mut cx = BuildCx::new(&env);
        cx.stat_prefix = "http.a.".into();
        let config = Arc::new(Cors::build(proto::Cors {}, &mut cx).unwrap());
        let configs = policies.iter().map(|policy| {
            Arc::new(Cors::build_route(policy.clone(), &mut cx).unwrap()) as Arc<dyn Any + Send + Sync>
        });
        let mut stream = Stream::new(headers);
        stream.configs = configs.collect();
        stream.request.method = method;
        let mut filter = Cors::create(&config);
        let answer = reply(filter.on_request_headers(&mut stream.cx(), true));
        let answered = answer.is_some();
        if let Some(answer) = answer {
            assert_eq!((answer.status, &*answer.details), (StatusCode::OK, DETAILS));
            stream.respond(answer.status, answer.headers);
        }
        assert!(matches!(filter.on_response_headers(&mut stream.cx(), true), HeadersStep::Continue));
        let stats = env.stats.scope("http.a.cors").cells::<CorsStats>();
        let counted = [stats.here().origin_valid.value(), stats.here().origin_invalid.value()];
        (answered, stream.response_lines(), counted)
    }

    const ACRM: (&str, &str) = ("access-control-request-method", "GET");
    const PRIVATE: (&str, &str) = ("access-control-request-private-network", "true");
    const A: (&str, &str) = ("origin", "http://a");
    const BAD: (&str, &str) = ("origin", "http://bad");

    #[test]
    fn preflights_are_answered_with_everything_that_is_configured() {
        let (answered, lines, counted) = exchange(Method::OPTIONS, &[A, ACRM], &[full()]);
        assert!(answered);
        assert_eq!(
            lines,
            [
                "access-control-allow-origin: http://a",
                "access-control-allow-credentials: true",
                "access-control-allow-methods: GET,POST",
                "access-control-allow-headers: x-h",
                "access-control-max-age: 10",
                "access-control-expose-headers: x-e"
            ]
        );
        assert_eq!(counted, [1, 0]);
        let (_, lines, _) = exchange(Method::OPTIONS, &[A, ACRM, PRIVATE], &[full()]);
        assert!(lines.contains(&"access-control-allow-private-network: true".to_owned()));
        let (_, lines, _) = exchange(Method::OPTIONS, &[A, ACRM, PRIVATE], &[policy()]);
        assert_eq!(lines, ["access-control-allow-origin: http://a"]);
    }

    #[test]
    fn other_requests_go_on_and_their_responses_are_marked() {
        let marked = ["access-control-allow-origin: http://a"];
        let (answered, lines, counted) = exchange(Method::GET, &[A], &[policy()]);
        assert_eq!((answered, lines.as_slice(), counted), (false, &marked.map(str::to_owned)[..], [1, 0]));
        let (answered, lines, counted) = exchange(Method::GET, &[BAD], &[policy()]);
        assert_eq!((answered, lines.len(), counted), (false, 0, [0, 1]));
        // OPTIONS without the method it asks for is no preflight.
        let (answered, lines, _) = exchange(Method::OPTIONS, &[A, (ACRM.0, "")], &[policy()]);
        assert_eq!((answered, lines.as_slice()), (false, &marked.map(str::to_owned)[..]));
    }

    #[test]
    fn requests_without_one_origin_or_without_a_policy_are_left_alone() {
        for headers in [&[][..], &[("origin", ""), ACRM]] {
            let (answered, lines, counted) = exchange(Method::OPTIONS, headers, &[full()]);
            assert_eq!((answered, lines.len(), counted), (false, 0, [0, 0]));
        }
        assert_eq!(exchange(Method::GET, &[A, BAD], &[full()]).2, [0, 1]);
        assert_eq!(exchange(Method::OPTIONS, &[A, ACRM], &[]), (false, Vec::new(), [0, 0]));
    }

    #[test]
    fn a_star_matches_every_origin() {
        let star = proto::CorsPolicy { allow_origin_string_match: vec![exact("*")], ..Default::default() };
        let (_, lines, _) = exchange(Method::GET, &[BAD], &[star]);
        assert_eq!(lines, ["access-control-allow-origin: http://bad"]);
    }

    #[test]
    fn preflights_that_do_not_match_can_be_answered_here() {
        assert!(!exchange(Method::OPTIONS, &[BAD, ACRM], &[policy()]).0);
        let strict = proto::CorsPolicy { forward_not_matching_preflights: Some(false), ..policy() };
        let (answered, lines, _) = exchange(Method::OPTIONS, &[BAD, ACRM], &[strict]);
        assert_eq!((answered, lines.len()), (true, 0));
    }

    #[test]
    fn a_share_of_requests_or_none_and_the_shadow() {
        let off = proto::CorsPolicy { filter_enabled: percent(0), ..policy() };
        assert_eq!(
            exchange(Method::OPTIONS, &[A, ACRM], std::slice::from_ref(&off)),
            (false, Vec::new(), [0, 0])
        );
        let shadow = proto::CorsPolicy { shadow_enabled: percent(100), ..off };
        assert_eq!(exchange(Method::OPTIONS, &[A, ACRM], &[shadow]), (false, Vec::new(), [1, 0]));
    }

    #[test]
    fn settings_come_from_the_most_specific_level_that_has_them() {
        let route = proto::CorsPolicy { max_age: "1".into(), ..Default::default() };
        let (answered, lines, _) = exchange(Method::OPTIONS, &[A, ACRM], &[route, full()]);
        assert!(answered);
        assert!(lines.contains(&"access-control-max-age: 1".to_owned()));
        assert!(lines.contains(&"access-control-allow-methods: GET,POST".to_owned()));
    }
}
