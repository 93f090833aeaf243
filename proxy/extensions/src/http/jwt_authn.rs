//! `envoy.filters.http.jwt_authn`: requests carry JSON Web Tokens, which must be good.
//!
//! The first rule that a request matches says what is demanded of it; a route can name the requirement in its place. What is
//! accepted is passed on as headers and as metadata `envoy.filters.http.jwt_authn`, for other filters and access logs. Headers
//! that this filter sets are taken away from requests that bring them along.
//! Source: Envoy `docs/root/configuration/http/http_filters/jwt_authn_filter.rst`; RFC 7515 to 7519; answers observed on 1.40.

mod fields;
mod keys;
mod location;
mod provider;
mod remote;
mod requirement;
mod rule;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use http::header::{ACCESS_CONTROL_REQUEST_METHOD, ORIGIN, WWW_AUTHENTICATE};
use http::{HeaderValue, Method, StatusCode};
use proxy_core::config::{BuildCx, Rejected};
use proxy_core::extension::http_filter::{
    HeadersStep, HttpFilter, HttpFilterExtension, Phases, StreamCx, Verdict,
};
use proxy_core::extension::{Descriptor, SecurityPosture, Status};
use proxy_core::head::RequestHead;
use proxy_core::jwt::Failure;
use proxy_core::local_reply::LocalReply;
use proxy_core::stats::Cells;
use xds_api::envoy::extensions::filters::http::jwt_authn::v3 as proto;
use xds_api::envoy::extensions::filters::http::jwt_authn::v3::per_route_config::RequirementSpecifier;
use xds_api::envoy::extensions::filters::http::jwt_authn::v3::requirement_rule::RequirementType;

pub use fields::FIELDS;

use location::Locations;
use provider::{Now, Provider};
use remote::Remote;
use requirement::{Providers, Requirement, Trial};
use rule::RequestMatch;

const NAME: &str = "envoy.filters.http.jwt_authn";
/// How much of the URL a challenge repeats.
const LONGEST_REALM: usize = 256;

/// The extension.
pub struct JwtAuthn;

impl HttpFilterExtension for JwtAuthn {
    const DESCRIPTOR: Descriptor = Descriptor {
        name: NAME,
        message: "envoy.extensions.filters.http.jwt_authn.v3.JwtAuthentication",
        status: Status::Stable,
        posture: SecurityPosture::RobustToUntrustedDownstream,
    };
    const ROUTE_MESSAGE: Option<&'static str> =
        Some("envoy.extensions.filters.http.jwt_authn.v3.PerRouteConfig");
    const PHASES: Phases = Phases { request_body: false, response_headers: false, response_body: false };
    type Proto = proto::JwtAuthentication;
    type Config = Config;
    type RouteProto = proto::PerRouteConfig;
    type RouteConfig = RouteDemand;

    fn build(proto: Self::Proto, cx: &mut BuildCx<'_>) -> Result<Self::Config, Rejected> {
        Config::build(&proto, cx)
    }

    fn build_route(proto: Self::RouteProto, cx: &mut BuildCx<'_>) -> Result<Self::RouteConfig, Rejected> {
        match proto.requirement_specifier {
            Some(RequirementSpecifier::Disabled(true)) => Ok(RouteDemand::Nothing),
            Some(RequirementSpecifier::Disabled(false)) => {
                Err(cx.at("disabled", |cx| cx.reject("value must equal true")))
            }
            Some(RequirementSpecifier::RequirementName(name)) => Ok(RouteDemand::Named(name)),
            None => Err(cx.at("requirement_specifier", |cx| cx.reject("value is required"))),
        }
    }

    fn create(config: &Arc<Self::Config>) -> Box<dyn HttpFilter> {
        Box::new(Filter(config.clone()))
    }
}

proxy_core::stats! {
    /// `http.<stat_prefix>.jwt_authn`, and the filter's own prefix.
    pub sharded struct JwtAuthnStats {
        /// Requests that passed.
        counter allowed,
        /// Requests that did not.
        counter denied,
        /// Questions of browsers, which carry no tokens, that passed.
        counter cors_preflight_bypassed,
        /// Sets of keys that were fetched.
        counter jwks_fetch_success,
        /// Sets of keys that could not be fetched.
        counter jwks_fetch_failed,
        /// Tokens whose signature was verified before.
        counter jwt_cache_hit,
        /// Tokens whose signature was not.
        counter jwt_cache_miss,
    }
}

/// What a route demands.
pub enum RouteDemand {
    /// Nothing.
    Nothing,
    /// The requirement of that name.
    Named(String),
}

/// The configuration of the filter.
pub struct Config {
    providers: Providers,
    /// Keys that are fetched.
    remotes: Vec<Arc<Remote>>,
    rules: Vec<(RequestMatch, Option<Arc<Requirement>>)>,
    named: HashMap<String, Arc<Requirement>>,
    /// By the text that the filter state has under a name.
    by_state: Option<(String, HashMap<String, Requirement>)>,
    bypasses_preflight: bool,
    is_silent: bool,
    stats: Cells<JwtAuthnStats>,
}

impl Config {
    fn build(proto: &proto::JwtAuthentication, cx: &mut BuildCx<'_>) -> Result<Self, Rejected> {
        let proto::JwtAuthentication {
            providers,
            rules,
            filter_state_rules,
            bypass_cors_preflight,
            requirement_map,
            strip_failure_response,
            stat_prefix,
        } = proto;
        let providers = build_providers(providers, cx)?;
        let mut named = HashMap::new();
        for (name, requirement) in requirement_map {
            let built =
                cx.at_key("requirement_map", name, |cx| Requirement::build(requirement, &providers, cx))?;
            named.insert(name.clone(), Arc::new(built));
        }
        let rules = cx.each("rules", rules, |rule, cx| {
            let proto::RequirementRule { r#match, requirement_type } = rule;
            let matched = cx.at("match", |cx| RequestMatch::build(&r#match.clone().unwrap_or_default(), cx));
            let requirement = match requirement_type {
                None => None,
                Some(RequirementType::Requires(requirement)) => {
                    let built = cx.at("requires", |cx| Requirement::build(requirement, &providers, cx));
                    Some(Arc::new(built?))
                }
                Some(RequirementType::RequirementName(name)) => match named.get(name) {
                    Some(requirement) => Some(requirement.clone()),
                    None => {
                        let reason = wrong_name(name, &named);
                        return Err(cx.at("requirement_name", |cx| cx.reject(reason)));
                    }
                },
            };
            Ok((matched?, requirement))
        });
        let by_state = match filter_state_rules {
            None => Ok(None),
            Some(proto::FilterStateRule { name, requires }) => cx.at("filter_state_rules", |cx| {
                let mut by_text = HashMap::new();
                for (text, requirement) in requires {
                    let built =
                        cx.at_key("requires", text, |cx| Requirement::build(requirement, &providers, cx))?;
                    by_text.insert(text.clone(), built);
                }
                Ok(Some((name.clone(), by_text)))
            }),
        };
        let mut scope = format!("{}jwt_authn", cx.stat_prefix);
        if !stat_prefix.is_empty() {
            scope = format!("{scope}.{stat_prefix}");
        }
        let (rules, by_state) = (rules?, by_state?);
        let stats = cx.env.stats.scope(&scope).cells();
        let remotes: Vec<Arc<Remote>> =
            providers.named.values().filter_map(|provider| provider.remote().cloned()).collect();
        for remote in &remotes {
            remote.fetch_ahead(&stats, &cx.env.background);
        }
        Ok(Self {
            rules,
            named,
            by_state,
            bypasses_preflight: *bypass_cors_preflight,
            is_silent: *strip_failure_response,
            stats,
            remotes,
            providers,
        })
    }

    /// What is demanded of a request: nothing, something, or what a route asks for and is not there.
    fn demand(&self, cx: &StreamCx<'_>) -> Result<Option<&Requirement>, String> {
        match cx.route_config::<RouteDemand>() {
            Some(RouteDemand::Nothing) => return Ok(None),
            Some(RouteDemand::Named(name)) => {
                let named = self.named.get(name).ok_or_else(|| wrong_name(name, &self.named))?;
                return Ok(Some(named));
            }
            None => {}
        }
        if let Some((_, requirement)) = self.rules.iter().find(|(matched, _)| matched.matches(cx.request)) {
            return Ok(requirement.as_deref());
        }
        let Some((name, by_text)) = &self.by_state else { return Ok(None) };
        let text = cx.info.filter_state(name).and_then(|value| value.to_text());
        Ok(text.and_then(|text| by_text.get(&text)))
    }

    fn refusal(&self, status: StatusCode, text: &str) -> LocalReply {
        self.stats.here().denied.inc();
        let details = format!("jwt_authn_access_denied{{{}}}", text.replace(' ', "_"));
        let body = if self.is_silent { String::new() } else { text.to_owned() };
        LocalReply::new(status, body, details)
    }
}

fn build_providers(
    protos: &HashMap<String, proto::JwtProvider>,
    cx: &mut BuildCx<'_>,
) -> Result<Providers, Rejected> {
    let mut locations = Locations::default();
    let mut named = HashMap::new();
    let mut rejected = false;
    for (name, proto) in protos {
        match cx.at_key("providers", name, |cx| Provider::build(proto, cx)) {
            Ok(provider) => {
                locations.add(proto, cx)?;
                named.insert(name.clone(), Arc::new(provider));
            }
            Err(Rejected) => rejected = true,
        }
    }
    if rejected { Err(Rejected) } else { Ok(Providers { named, locations: Arc::new(locations) }) }
}

fn wrong_name(name: &str, named: &HashMap<String, Arc<Requirement>>) -> String {
    let mut names: Vec<&str> = named.keys().map(String::as_str).collect();
    names.sort_unstable();
    format!("Wrong requirement_name: {name}. It should be one of [{}]", names.join(","))
}

struct Filter(Arc<Config>);

impl HttpFilter for Filter {
    fn on_request_headers<'a>(&'a mut self, cx: &'a mut StreamCx<'_>, _end: bool) -> HeadersStep<'a> {
        let config = &*self.0;
        let stats = config.stats.here();
        if config.bypasses_preflight && is_preflight(cx.request) {
            stats.cors_preflight_bypassed.inc();
            stats.allowed.inc();
            return HeadersStep::Continue;
        }
        let requirement = match config.demand(cx) {
            Ok(Some(requirement)) => requirement,
            Ok(None) => {
                stats.allowed.inc();
                return HeadersStep::Continue;
            }
            Err(text) => {
                let mut reply = config.refusal(StatusCode::FORBIDDEN, &text);
                if !config.is_silent {
                    reply.body = format!("Failed JWT authentication: {text}").into();
                }
                return HeadersStep::Reply(Box::new(reply));
            }
        };
        let since = cx.info.start_time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let now = Now { seconds: since.as_secs(), moment: Instant::now() };
        if config.remotes.iter().all(|remote| remote.keys(now.moment).is_some()) {
            return match config.judge(requirement, cx, now) {
                None => HeadersStep::Continue,
                Some(reply) => HeadersStep::Reply(reply),
            };
        }
        HeadersStep::Wait(Box::pin(async move {
            config.fetch_for(requirement, cx, now).await;
            config.judge(requirement, cx, now).map_or(Verdict::Continue, Verdict::Reply)
        }))
    }
}

impl Config {
    /// Fetches the keys that the judgement of a request will need: it is tried on a copy until nothing is missing but what
    /// could not be had.
    async fn fetch_for(&self, requirement: &Requirement, cx: &mut StreamCx<'_>, now: Now) {
        let mut asked: Vec<Arc<Provider>> = Vec::new();
        loop {
            let lacking = {
                let (mut request, stats) = (cx.request.clone(), JwtAuthnStats::default());
                let mut trial = Trial::new(&mut request, &self.providers, &stats, now);
                // (What comes of it now is of no interest.)
                let _ = requirement.judge(&mut trial);
                trial.lacking
            };
            let is_new = |one: &Arc<Provider>| !asked.iter().any(|other| Arc::ptr_eq(one, other));
            let Some(provider) = lacking.into_iter().find(is_new) else { return };
            if let Some(remote) = provider.remote() {
                // (What could not be had shows when the request is judged.)
                let _ = remote.fetch(cx.engine, &self.stats).await;
            }
            asked.push(provider);
        }
    }

    /// Holds a request to what is demanded of it; the reply if it does not pass.
    fn judge(&self, requirement: &Requirement, cx: &mut StreamCx<'_>, now: Now) -> Option<Box<LocalReply>> {
        let stats = self.stats.here();
        let realm = (!self.is_silent).then(|| realm(cx.request));
        let mut trial = Trial::new(cx.request, &self.providers, stats, now);
        let verdict = requirement.judge(&mut trial);
        let Trial { extracted, clears_route, .. } = trial;
        if !extracted.fields.is_empty() {
            cx.info.metadata.merge(NAME, extracted);
        }
        *cx.clear_route |= clears_route;
        let Err(failure) = verdict else {
            stats.allowed.inc();
            return None;
        };
        let status = match failure {
            Failure::AudienceNotAllowed => StatusCode::FORBIDDEN,
            _ => StatusCode::UNAUTHORIZED,
        };
        let mut reply = self.refusal(status, failure.text());
        if let Some(realm) = realm {
            let error = if failure == Failure::Missing { "" } else { ", error=\"invalid_token\"" };
            let challenge = HeaderValue::try_from(format!("Bearer realm=\"{realm}\"{error}"));
            reply.headers.extend(challenge.ok().map(|challenge| (WWW_AUTHENTICATE, challenge)));
        }
        Some(Box::new(reply))
    }
}

/// Whether a browser asks what it may send.
fn is_preflight(request: &RequestHead) -> bool {
    let has = |name| request.headers.get(name).is_some_and(|value| !value.is_empty());
    request.method == Method::OPTIONS && has(ORIGIN) && has(ACCESS_CONTROL_REQUEST_METHOD)
}

/// The URL that was asked for, not too long.
fn realm(request: &RequestHead) -> String {
    let path = request.path.as_str();
    let end = (0..=LONGEST_REALM.min(path.len())).rev().find(|end| path.is_char_boundary(*end));
    format!("{}://{}{}", request.scheme.as_str(), request.authority.as_str(), &path[..end.unwrap_or(0)])
}

/// Whether a key of the set `keys` signed `token`; if not, what a client would be told.
///
/// # Errors
/// Nobody did, or one of them cannot be read.
#[cfg(feature = "testing")]
pub fn verify(keys: &[u8], token: &str) -> Result<(), &'static str> {
    let verdict =
        keys::Keys::parse(keys).and_then(|keys| keys.verify(&proxy_core::jwt::Token::parse(token)?));
    verdict.map_err(Failure::text)
}

#[cfg(test)]
mod tests;
