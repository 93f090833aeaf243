//! `envoy.filters.http.stateful_session`: requests of a session go to the host that its first one went to.
//!
//! The client carries the host's address, in a cookie, a header, or an envelope around what the host itself says of the session. With `strict` no other host will do; else, and where a request
//! is sent again, another one is picked, and is the session's from then on.
//! Source: Envoy `docs/root/configuration/http/http_filters/stateful_session_filter.rst`; observed on 1.40: a route's
//! configuration with a `stat_prefix` counts, in `stateful_session.<stat_prefix>`.

mod envelope;
mod fields;
mod state;

use std::sync::Arc;

use http::StatusCode;
use proxy_core::config::{BuildCx, Rejected};
use proxy_core::extension::http_filter::{HeadersStep, HttpFilter, HttpFilterExtension, Phases, StreamCx};
use proxy_core::extension::{Descriptor, SecurityPosture, Status};
use proxy_core::response_flag::ResponseFlag;
use proxy_core::stats::Cells;
use proxy_core::upstream::{HostWish, StrictHost};
use xds_api::envoy::extensions::filters::http::stateful_session::v3 as proto;
use xds_api::envoy::extensions::filters::http::stateful_session::v3::stateful_session_per_route::Override;

pub use fields::FIELDS;
use state::{Carried, SessionState};

/// The extension.
pub struct StatefulSession;

impl HttpFilterExtension for StatefulSession {
    const DESCRIPTOR: Descriptor = Descriptor {
        name: "envoy.filters.http.stateful_session",
        message: fields::MESSAGE,
        status: Status::Stable,
        posture: SecurityPosture::RobustToUntrustedDownstream,
    };
    const ROUTE_MESSAGE: Option<&'static str> = Some(fields::ROUTE_MESSAGE);
    const PHASES: Phases = Phases { request_body: false, response_headers: true, response_body: false };
    type Proto = proto::StatefulSession;
    type Config = Sessions;
    type RouteProto = proto::StatefulSessionPerRoute;
    type RouteConfig = RouteConfig;

    fn build(proto: Self::Proto, cx: &mut BuildCx<'_>) -> Result<Self::Config, Rejected> {
        let prefix = cx.stat_prefix.to_owned();
        Sessions::build(&proto, &prefix, cx)
    }

    fn build_route(proto: Self::RouteProto, cx: &mut BuildCx<'_>) -> Result<Self::RouteConfig, Rejected> {
        match proto.r#override {
            Some(Override::Disabled(true)) => Ok(RouteConfig(None)),
            Some(Override::Disabled(false)) => {
                Err(cx.at("disabled", |cx| cx.reject("value must equal true")))
            }
            Some(Override::StatefulSession(proto)) => {
                let built = cx.at("stateful_session", |cx| Sessions::build(&proto, "", cx))?;
                Ok(RouteConfig(Some(Arc::new(built))))
            }
            None => Err(cx.at("override", |cx| cx.reject("value is required"))),
        }
    }

    fn create(config: &Arc<Self::Config>) -> Box<dyn HttpFilter> {
        Box::new(Filter { config: config.clone(), sessions: None, carried: None })
    }
}

proxy_core::stats! {
    /// `http.<stat_prefix>.stateful_session.<stat_prefix>`.
    pub sharded struct SessionStats {
        /// Requests that went to the host of their session.
        counter routed,
        /// Requests that went to another one, or were the first.
        counter failed_open,
        /// Requests that were refused, since no other host would do.
        counter failed_closed,
        /// Requests that went to a host and have no session, because of their path or the configuration.
        counter no_session,
    }
}

/// How sessions are carried, and what becomes of those whose host is not there.
pub struct Sessions {
    /// `None` where nothing carries them: then there are none.
    state: Option<SessionState>,
    strict: Option<StrictHost>,
    stats: Option<Cells<SessionStats>>,
}

impl Sessions {
    fn build(proto: &proto::StatefulSession, scope: &str, cx: &mut BuildCx<'_>) -> Result<Self, Rejected> {
        let proto::StatefulSession {
            session_state,
            strict,
            stat_prefix,
            status_on_strict_destination_not_found: status,
        } = proto;
        let state = session_state.as_ref();
        let state = state.map(|state| cx.at("session_state", |cx| SessionState::build(state, cx)));
        let strict = strict.then(|| {
            let status_if_missing = match u16::try_from(*status) {
                Ok(0) => StatusCode::SERVICE_UNAVAILABLE,
                Ok(status @ 200..600) => StatusCode::from_u16(status).unwrap_or_default(),
                Ok(_) | Err(_) => {
                    let reason = "no status of a response (200 to 599)";
                    return Err(cx.at("status_on_strict_destination_not_found", |cx| cx.reject(reason)));
                }
            };
            Ok(StrictHost { status_if_missing })
        });
        let stats = (!stat_prefix.is_empty())
            .then(|| cx.env.stats.scope(&format!("{scope}stateful_session.{stat_prefix}")).cells());
        Ok(Self { state: state.transpose()?, strict: strict.transpose()?, stats })
    }

    fn count(&self, count: impl FnOnce(&SessionStats)) {
        if let Some(stats) = &self.stats {
            count(stats.here());
        }
    }
}

/// What a route says; `None` if it has no sessions.
pub struct RouteConfig(Option<Arc<Sessions>>);

struct Filter {
    config: Arc<Sessions>,
    /// Those that the request is one of; `None` if its route has none.
    sessions: Option<Arc<Sessions>>,
    /// What the request says of its session, if it can be one of any.
    carried: Option<Carried>,
}

impl HttpFilter for Filter {
    fn on_request_headers<'a>(&'a mut self, cx: &'a mut StreamCx<'_>, _end: bool) -> HeadersStep<'a> {
        let sessions = match cx.route_config::<RouteConfig>() {
            Some(RouteConfig(None)) => return HeadersStep::Continue,
            Some(RouteConfig(Some(sessions))) => sessions,
            None => &self.config,
        };
        let sessions = self.sessions.insert(sessions.clone());
        let Some(state) = &sessions.state else { return HeadersStep::Continue };
        self.carried = state.read(cx.request, cx.info.start_time);
        if let Some(Carried::Host(address)) = &self.carried {
            let wish = HostWish { address: address.clone(), strict: sessions.strict };
            cx.info.upstream.wishes.get_or_insert_default().chosen = Some(wish);
        }
        HeadersStep::Continue
    }

    fn on_response_headers<'a>(&'a mut self, cx: &'a mut StreamCx<'_>, _end: bool) -> HeadersStep<'a> {
        let (Some(sessions), Some(response)) = (&self.sessions, cx.response.as_deref_mut()) else {
            return HeadersStep::Continue;
        };
        match (&self.carried, &cx.info.upstream.host, &sessions.state) {
            (Some(carried), Some(host), Some(state)) => {
                let is_known = matches!(carried, Carried::Host(Some(address)) if *address == host.address);
                if !state.write(&host.address, is_known, &mut response.headers) {
                    sessions.count(|stats| stats.routed.inc());
                } else if sessions.strict.is_none() {
                    sessions.count(|stats| stats.failed_open.inc());
                }
            }
            (None, Some(_), _) => sessions.count(|stats| stats.no_session.inc()),
            (Some(_), None, _)
                if sessions.strict.is_some()
                    && !cx.info.upstream.sought
                    && cx.info.flags.has(ResponseFlag::NoHealthyUpstream) =>
            {
                sessions.count(|stats| stats.failed_closed.inc());
            }
            _ => {}
        }
        HeadersStep::Continue
    }
}
