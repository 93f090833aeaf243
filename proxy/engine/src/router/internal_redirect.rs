//! Which redirects of hosts a route follows itself, in place of handing them to the client (`internal_redirect_policy`).
//!
//! Source: `envoy/config/route/v3/route_components.proto` (`InternalRedirectPolicy`), Envoy
//! `docs/root/intro/arch_overview/http/http_connection_management.rst` (internal redirects).

use std::any::Any;
use std::sync::Arc;

use http::{HeaderName, StatusCode};
use proxy_core::config::FieldUse::Used;
use proxy_core::config::{BuildCx, MessageFields, Rejected};
use proxy_core::extension::decode;
use proxy_core::filter_state::FilterStateValue;
use proxy_core::head::Scheme;
use proxy_core::stream_info::StreamInfo;
use xds_api::envoy::config::core::v3::TypedExtensionConfig;
use xds_api::envoy::config::route::v3 as proto;
use xds_api::envoy::config::route::v3::route_action::InternalRedirectAction;
use xds_api::envoy::extensions::internal_redirect as predicates;

const ALLOW_LISTED: &str =
    "envoy.extensions.internal_redirect.allow_listed_routes.v3.AllowListedRoutesConfig";
const PREVIOUS_ROUTES: &str = "envoy.extensions.internal_redirect.previous_routes.v3.PreviousRoutesConfig";
const SAFE_CROSS_SCHEME: &str =
    "envoy.extensions.internal_redirect.safe_cross_scheme.v3.SafeCrossSchemeConfig";
const FILTER_STATE: &str = "envoy.extensions.internal_redirect.filter_state.v3.FilterStateConfig";

/// Statuses that can be followed at all.
const REDIRECTS: [u32; 5] = [301, 302, 303, 307, 308];

/// Fields by message.
pub const FIELDS: &[MessageFields] = &[
    (
        "envoy.config.route.v3.InternalRedirectPolicy",
        &[
            ("max_internal_redirects", Used),
            ("redirect_response_codes", Used),
            ("predicates", Used),
            ("allow_cross_scheme_redirect", Used),
            ("response_headers_to_copy", Used),
        ],
    ),
    (ALLOW_LISTED, &[("allowed_route_names", Used)]),
    (PREVIOUS_ROUTES, &[]),
    (SAFE_CROSS_SCHEME, &[]),
    (FILTER_STATE, &[("redirect_enabled_key", Used), ("redirect_if_absent", Used)]),
];

/// Which redirects a route follows.
#[derive(Debug)]
pub struct InternalRedirects {
    /// How many redirects of one request are followed at most.
    pub max: u32,
    /// Whether the target may have another scheme than the request.
    pub cross_scheme: bool,
    /// Headers that the next request takes over from the redirect; what it lacks, the request loses.
    pub headers_to_copy: Box<[HeaderName]>,
    statuses: Box<[u32]>,
    predicates: Box<[Predicate]>,
}

#[derive(Debug)]
enum Predicate {
    /// The target's route is one of these.
    Listed(Box<[Box<str>]>),
    /// This route has not sent the request to the target's route before.
    New,
    /// Nobody comes from `http` to `https`.
    SafeScheme,
    /// A filter said so, or said nothing.
    Permitted { key: Box<str>, if_absent: bool },
}

/// Where a request came from and is to go, as predicates see it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Redirection<'r> {
    /// The name of the route that got the redirect.
    pub(crate) from: &'r Arc<str>,
    /// The name of the target's route.
    pub(crate) to: &'r Arc<str>,
    /// What the request came over.
    pub(crate) scheme: Scheme,
    /// The target's.
    pub(crate) target_scheme: Scheme,
}

/// The redirects of one request that were followed; kept in the filter state, which goes along with the request.
#[derive(Clone, Debug, Default)]
pub(crate) struct Followed {
    /// How many.
    pub(crate) count: u32,
    /// From which route to which, as far as a predicate wants to know.
    routes: Vec<(Arc<str>, Arc<str>)>,
}

impl Followed {
    /// Where it is kept.
    pub(crate) const KEY: &'static str = "num_internal_redirects";

    /// What is kept of the request so far.
    pub(crate) fn of(info: &StreamInfo) -> Self {
        let kept = info.filter_state.get(Self::KEY);
        kept.and_then(|value| value.as_any().downcast_ref::<Self>()).cloned().unwrap_or_default()
    }

    /// Notes a pair of routes; `false` if it is known.
    fn add(&mut self, from: &Arc<str>, to: &Arc<str>) -> bool {
        let is_new = !self.routes.iter().any(|(a, b)| a == from && b == to);
        if is_new {
            self.routes.push((from.clone(), to.clone()));
        }
        is_new
    }
}

impl FilterStateValue for Followed {
    fn to_text(&self) -> Option<String> {
        Some(self.count.to_string())
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

impl InternalRedirects {
    /// What the action says; `None` if it follows none.
    #[allow(deprecated, reason = "still sent by control planes")]
    pub(super) fn build(action: &proto::RouteAction, cx: &mut BuildCx<'_>) -> Result<Option<Self>, Rejected> {
        let proto::RouteAction {
            internal_redirect_policy,
            internal_redirect_action,
            max_internal_redirects,
            ..
        } = action;
        if let Some(policy) = internal_redirect_policy {
            return cx.at("internal_redirect_policy", |cx| Self::of_policy(policy, cx)).map(Some);
        }
        match InternalRedirectAction::try_from(*internal_redirect_action) {
            Ok(InternalRedirectAction::HandleInternalRedirect) => {
                let max_internal_redirects = *max_internal_redirects;
                let policy = proto::InternalRedirectPolicy { max_internal_redirects, ..Default::default() };
                Self::of_policy(&policy, cx).map(Some)
            }
            Ok(InternalRedirectAction::PassThroughInternalRedirect) => Ok(None),
            Err(_) => Err(cx.at("internal_redirect_action", |cx| {
                cx.reject("value must be one of the defined enum values")
            })),
        }
    }

    fn of_policy(proto: &proto::InternalRedirectPolicy, cx: &mut BuildCx<'_>) -> Result<Self, Rejected> {
        let proto::InternalRedirectPolicy {
            max_internal_redirects,
            redirect_response_codes,
            predicates,
            allow_cross_scheme_redirect,
            response_headers_to_copy,
        } = proto;
        let predicates = cx.each("predicates", predicates, Predicate::build);
        let headers = cx.each("response_headers_to_copy", response_headers_to_copy, |name, cx| {
            if name.starts_with(':') || name.eq_ignore_ascii_case("host") {
                return Err(cx.reject(":-prefixed headers or Hosts may not be specified here"));
            }
            HeaderName::from_bytes(name.as_bytes())
                .map_err(|_| cx.reject(format!("'{name}' is not the name of a header")))
        });
        let statuses = match &**redirect_response_codes {
            [] => [302].into(),
            // (Others mean nothing, as in Envoy.)
            codes => codes.iter().copied().filter(|code| REDIRECTS.contains(code)).collect(),
        };
        Ok(Self {
            max: max_internal_redirects.unwrap_or(1),
            cross_scheme: *allow_cross_scheme_redirect,
            headers_to_copy: headers?.into(),
            statuses,
            predicates: predicates?.into(),
        })
    }

    /// Whether a response of this status is a redirect to follow.
    pub(crate) fn covers(&self, status: StatusCode) -> bool {
        self.statuses.contains(&u32::from(status.as_u16()))
    }

    /// Whether all predicates agree; what they have to remember for that is noted in `followed`.
    pub(crate) fn agrees(&self, to: Redirection<'_>, info: &StreamInfo, followed: &mut Followed) -> bool {
        self.predicates.iter().all(|predicate| predicate.agrees(to, info, followed))
    }
}

impl Predicate {
    fn build(proto: &TypedExtensionConfig, cx: &mut BuildCx<'_>) -> Result<Self, Rejected> {
        let TypedExtensionConfig { name, typed_config } = proto;
        let Some(any) = typed_config else {
            return Err(cx.reject(format!("the extension '{name}' needs a typed_config")));
        };
        cx.at("typed_config", |cx| {
            let (message, payload) = cx.unpack(any)?;
            match message.as_str() {
                ALLOW_LISTED => {
                    let config: predicates::allow_listed_routes::v3::AllowListedRoutesConfig =
                        decode(&payload, cx)?;
                    Ok(Self::Listed(
                        config.allowed_route_names.iter().map(|name| name.as_str().into()).collect(),
                    ))
                }
                PREVIOUS_ROUTES => Ok(Self::New),
                SAFE_CROSS_SCHEME => Ok(Self::SafeScheme),
                FILTER_STATE => {
                    let config: predicates::filter_state::v3::FilterStateConfig = decode(&payload, cx)?;
                    let key = config.redirect_enabled_key.as_str().into();
                    Ok(Self::Permitted { key, if_absent: config.redirect_if_absent })
                }
                _ => Err(cx.reject(format!("there is no internal redirect predicate of type '{message}'"))),
            }
        })
    }

    fn agrees(&self, to: Redirection<'_>, info: &StreamInfo, followed: &mut Followed) -> bool {
        match self {
            Self::Listed(names) => names.iter().any(|name| **name == **to.to),
            Self::New => followed.add(to.from, to.to),
            Self::SafeScheme => to.scheme == Scheme::Https || to.target_scheme == Scheme::Http,
            Self::Permitted { key, if_absent } => {
                info.filter_state(key).map_or(*if_absent, |value| value.as_bool().unwrap_or(false))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn info() -> StreamInfo {
        crate::router::tests::info()
    }

    fn predicate(predicate: Predicate) -> InternalRedirects {
        InternalRedirects {
            max: 5,
            cross_scheme: true,
            headers_to_copy: Box::default(),
            statuses: [302].into(),
            predicates: [predicate].into(),
        }
    }

    #[test]
    fn a_pair_of_routes_is_new_once() {
        let policy = predicate(Predicate::New);
        let (a, b): (Arc<str>, Arc<str>) = ("a".into(), "b".into());
        let to = |from, to| Redirection { from, to, scheme: Scheme::Http, target_scheme: Scheme::Http };
        let mut followed = Followed::default();
        let info = info();
        assert!(policy.agrees(to(&a, &b), &info, &mut followed));
        assert!(policy.agrees(to(&b, &a), &info, &mut followed));
        assert!(!policy.agrees(to(&a, &b), &info, &mut followed));
    }

    #[test]
    fn https_is_not_reached_from_http() {
        let policy = predicate(Predicate::SafeScheme);
        let name: Arc<str> = "a".into();
        let agrees = |scheme, target_scheme| {
            let to = Redirection { from: &name, to: &name, scheme, target_scheme };
            policy.agrees(to, &info(), &mut Followed::default())
        };
        assert!(agrees(Scheme::Http, Scheme::Http));
        assert!(agrees(Scheme::Https, Scheme::Http));
        assert!(agrees(Scheme::Https, Scheme::Https));
        assert!(!agrees(Scheme::Http, Scheme::Https));
    }

    #[test]
    fn statuses_that_are_no_redirects_mean_nothing() {
        let policy = predicate(Predicate::New);
        assert!(policy.covers(StatusCode::FOUND));
        assert!(!policy.covers(StatusCode::MOVED_PERMANENTLY));
    }

    #[test]
    fn what_was_followed_is_kept_and_printed() {
        let mut info = info();
        assert_eq!(Followed::of(&info).count, 0);
        info.filter_state.set(Followed::KEY, std::rc::Rc::new(Followed { count: 2, routes: Vec::new() }));
        assert_eq!(Followed::of(&info).count, 2);
        assert_eq!(
            info.filter_state(Followed::KEY).and_then(FilterStateValue::to_text).as_deref(),
            Some("2")
        );
    }
}
