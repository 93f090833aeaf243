//! One route: the conditions it has, the action it takes, and what it says about the request.

use std::sync::Arc;

use proxy_core::config::{BuildCx, Rejected};
use proxy_core::head::RequestHead;
use proxy_core::matcher::{
    CookieMatcher, FilterStateMatcher, HeaderMatcher, MetadataMatcher, QueryParameterMatcher,
};
use proxy_core::metadata::Metadata;
use proxy_core::retry::RetryPolicy;
use proxy_core::runtime::{Runtime, RuntimeFraction};
use proxy_core::stats::Cells;
use proxy_core::stats::groups::RouteStats;
use proxy_core::stream_info::StreamInfo;
use xds_api::envoy::config::route::v3 as proto;

use super::cluster_plugin::ClusterPlugins;
use super::decoration::Decoration;
use super::direct_response::DirectResponse;
use super::filter_config::FilterConfigs;
use super::forward::ForwardAction;
use super::header_mutation::HeaderMutations;
use super::path::PathRule;
use super::redirect::Redirect;
use super::retries::buffer_limit;
use crate::upstream::mirror::MirrorPolicy;

/// A route.
#[derive(Debug)]
pub struct RouteEntry {
    /// Name, for logs and statistics.
    pub name: Arc<str>,
    /// What to do with the request.
    pub action: Action,
    /// Metadata of the route.
    pub metadata: Metadata,
    /// `vhost.<virtual host>.route.<stat_prefix>`, if it has a prefix.
    pub stats: Option<Cells<RouteStats>>,
    /// Most bytes of a body that are kept to be sent again, if not what the connection may hold.
    pub buffer_limit: Option<u64>,
    /// What it says about traces.
    pub decoration: Option<Box<Decoration>>,
    pub(super) path: PathRule,
    pub(super) conditions: Conditions,
    pub(super) request_headers: HeaderMutations,
    pub(super) response_headers: HeaderMutations,
    pub(super) filter_configs: FilterConfigs,
    pub(super) virtual_host: usize,
    pub(super) is_tls_redirect: bool,
}

/// What a route does with a request.
#[derive(Debug)]
pub enum Action {
    /// Sends it to a cluster.
    Forward(Box<ForwardAction>),
    /// Answers with a redirect.
    Redirect(Box<Redirect>),
    /// Answers with a fixed response.
    DirectResponse(Box<DirectResponse>),
    /// Leaves it to the filters; the router has nothing to do with it.
    NonForwarding,
}

/// What a route demands of a request besides its path.
#[derive(Debug, Default)]
pub(super) struct Conditions(Option<Box<Demands>>);

#[derive(Debug)]
struct Demands {
    runtime_fraction: Option<RuntimeFraction>,
    headers: Box<[HeaderMatcher]>,
    query_parameters: Box<[QueryParameterMatcher]>,
    cookies: Box<[CookieMatcher]>,
    grpc: bool,
    tls: Option<TlsDemand>,
    dynamic_metadata: Box<[MetadataMatcher]>,
    filter_state: Box<[FilterStateMatcher]>,
}

/// What a route demands of the client's certificate.
#[derive(Clone, Copy, Debug)]
struct TlsDemand {
    presented: Option<bool>,
    validated: Option<bool>,
}

impl Conditions {
    fn build(proto: &proto::RouteMatch, cx: &mut BuildCx<'_>) -> Result<Self, Rejected> {
        let proto::RouteMatch {
            case_sensitive: _,
            runtime_fraction,
            headers,
            query_parameters,
            cookies,
            grpc,
            tls_context,
            dynamic_metadata,
            filter_state,
            path_specifier: _,
        } = proto;
        let is_empty = runtime_fraction.is_none()
            && headers.is_empty()
            && query_parameters.is_empty()
            && cookies.is_empty()
            && grpc.is_none()
            && tls_context.is_none()
            && dynamic_metadata.is_empty()
            && filter_state.is_empty();
        if is_empty {
            return Ok(Self(None));
        }
        let headers = HeaderMatcher::build_all("headers", headers, cx);
        let query_parameters = cx.each("query_parameters", query_parameters, QueryParameterMatcher::build);
        let cookies = cx.each("cookies", cookies, CookieMatcher::build);
        let dynamic_metadata = cx.each("dynamic_metadata", dynamic_metadata, MetadataMatcher::build);
        let filter_state = cx.each("filter_state", filter_state, FilterStateMatcher::build);
        Ok(Self(Some(Box::new(Demands {
            runtime_fraction: runtime_fraction.as_ref().map(RuntimeFraction::new),
            headers: headers?,
            query_parameters: query_parameters?.into(),
            cookies: cookies?.into(),
            grpc: grpc.is_some(),
            tls: tls_context
                .as_ref()
                .map(|tls| TlsDemand { presented: tls.presented, validated: tls.validated }),
            dynamic_metadata: dynamic_metadata?.into(),
            filter_state: filter_state?.into(),
        }))))
    }

    /// Whether all of them hold.
    #[inline]
    pub(super) fn hold(
        &self,
        request: &RequestHead,
        info: &StreamInfo,
        runtime: &Runtime,
        random: u64,
    ) -> bool {
        let Some(demands) = &self.0 else { return true };
        demands.runtime_fraction.as_ref().is_none_or(|fraction| fraction.holds(runtime, random))
            && (!demands.grpc || request.is_grpc())
            && demands.headers.iter().all(|header| header.matches_request(request))
            && demands.query_parameters.iter().all(|parameter| parameter.matches(request.query()))
            && demands.cookies.iter().all(|cookie| cookie.matches(&request.headers))
            && demands.tls.is_none_or(|tls| tls.holds(info))
            && demands.dynamic_metadata.iter().all(|metadata| metadata.matches_dynamic(info))
            && demands.filter_state.iter().all(|state| state.matches(info))
    }
}

impl TlsDemand {
    fn holds(self, info: &StreamInfo) -> bool {
        let tls = info.connection.tls.as_deref();
        let presented = tls.is_some_and(|tls| !tls.peer.is_empty());
        let validated = tls.is_some_and(|tls| tls.validated);
        self.presented.is_none_or(|wanted| wanted == presented)
            && self.validated.is_none_or(|wanted| wanted == validated)
    }
}

/// Builds the routes of all virtual hosts of one table into one list.
pub(super) struct RouteBuilder {
    pub(super) entries: Vec<RouteEntry>,
    /// The virtual host whose routes are being built.
    pub(super) virtual_host: usize,
    /// Its name.
    pub(super) virtual_host_name: String,
    pub(super) max_direct_response_body: u32,
    /// What the levels above the route say about filters.
    pub(super) filter_configs: FilterConfigs,
    /// What the levels above the route say about forwarding.
    pub(super) above: Above,
    /// What its virtual host says about bodies that are kept.
    pub(super) buffer_limit: Option<u64>,
}

/// What virtual hosts and tables say of requests that are forwarded, for routes that do not say.
#[derive(Clone, Default)]
pub(super) struct Above {
    /// When a request is sent again.
    pub(super) retry: Option<Arc<RetryPolicy>>,
    /// Whether tries that take too long go on beside the next.
    pub(super) hedges: bool,
    /// Who gets copies of requests.
    pub(super) mirrors: Arc<[MirrorPolicy]>,
    /// What routes of the table may name to choose the cluster.
    pub(super) plugins: Arc<ClusterPlugins>,
}

impl Above {
    /// `own` policies of a level below, or else these.
    pub(super) fn mirrors_or(&self, own: Arc<[MirrorPolicy]>) -> Arc<[MirrorPolicy]> {
        if own.is_empty() { self.mirrors.clone() } else { own }
    }
}

impl RouteBuilder {
    /// Number of the next route.
    pub(super) fn next(&self) -> u32 {
        u32::try_from(self.entries.len()).unwrap_or(u32::MAX)
    }

    /// Adds the route that a virtual host requiring TLS answers others with.
    pub(super) fn add_tls_redirect(&mut self) -> u32 {
        let number = self.next();
        self.entries.push(RouteEntry {
            name: "".into(),
            action: Action::Redirect(Box::new(Redirect::to_https())),
            metadata: Metadata::default(),
            stats: None,
            buffer_limit: None,
            path: PathRule::any(),
            conditions: Conditions::default(),
            request_headers: HeaderMutations::default(),
            response_headers: HeaderMutations::default(),
            filter_configs: FilterConfigs::default(),
            decoration: None,
            virtual_host: self.virtual_host,
            is_tls_redirect: true,
        });
        number
    }

    /// Adds one route. One that leaves the choice of its cluster to an optional plugin that is not known here is none, as in Envoy.
    pub(super) fn add(&mut self, proto: &proto::Route, cx: &mut BuildCx<'_>) -> Result<(), Rejected> {
        #[allow(deprecated, reason = "still sent by control planes")]
        let proto::Route {
            name,
            r#match,
            metadata,
            decorator,
            typed_per_filter_config,
            request_headers_to_add,
            request_headers_to_remove,
            response_headers_to_add,
            response_headers_to_remove,
            tracing,
            per_request_buffer_limit_bytes,
            stat_prefix,
            request_body_buffer_limit,
            route_specifiers,
            action,
        } = proto;
        let specifiers = cx.reject_if(
            !route_specifiers.is_empty(),
            "route_specifiers",
            "route specifiers are not available",
        );
        let matched = cx.at("match", |cx| match r#match {
            None => Err(cx.reject("value is required")),
            Some(proto) => {
                let path = PathRule::build(proto.path_specifier.as_ref(), proto.case_sensitive, cx);
                let conditions = Conditions::build(proto, cx);
                Ok((path?, conditions?))
            }
        });
        let filter_configs = FilterConfigs::build(typed_per_filter_config, Some(&self.filter_configs), cx);
        let decoration = Decoration::build(decorator.as_ref(), tracing.as_ref(), cx);
        let request_headers =
            HeaderMutations::build_request(request_headers_to_add, request_headers_to_remove, cx);
        let response_headers =
            HeaderMutations::build_response(response_headers_to_add, response_headers_to_remove, cx);
        let action = self.build_action(
            action.as_ref(),
            matched.as_ref().ok().map(|(path, _)| path),
            filter_configs.as_ref().ok().unwrap_or(&self.filter_configs),
            cx,
        );
        specifiers?;
        let (path, conditions) = matched?;
        let action = action?;
        if let Action::Forward(forward) = &action
            && forward.cluster.is_unknown()
        {
            return Ok(());
        }
        self.entries.push(RouteEntry {
            name: name.as_str().into(),
            action,
            metadata: Metadata::new(metadata.as_ref()),
            stats: (!stat_prefix.is_empty()).then(|| {
                let scope = format!("vhost.{}.route.{stat_prefix}", self.virtual_host_name);
                cx.env.stats.scope(&scope).cells()
            }),
            buffer_limit: buffer_limit(*per_request_buffer_limit_bytes, *request_body_buffer_limit)
                .or(self.buffer_limit),
            path,
            conditions,
            request_headers: request_headers?,
            response_headers: response_headers?,
            filter_configs: filter_configs?,
            decoration: decoration?,
            virtual_host: self.virtual_host,
            is_tls_redirect: false,
        });
        Ok(())
    }

    fn build_action(
        &self,
        proto: Option<&proto::route::Action>,
        path: Option<&PathRule>,
        filter_configs: &FilterConfigs,
        cx: &mut BuildCx<'_>,
    ) -> Result<Action, Rejected> {
        use proto::route::Action as Proto;
        match proto {
            None => Err(cx.reject("action: value is required")),
            Some(Proto::Route(route)) => cx.at("route", |cx| {
                ForwardAction::build(route, path, filter_configs, &self.above, cx)
                    .map(|forward| Action::Forward(Box::new(forward)))
            }),
            Some(Proto::Redirect(redirect)) => cx.at("redirect", |cx| {
                Redirect::build(redirect, cx).map(|redirect| Action::Redirect(Box::new(redirect)))
            }),
            Some(Proto::DirectResponse(response)) => cx.at("direct_response", |cx| {
                DirectResponse::build(response, self.max_direct_response_body, cx)
                    .map(|response| Action::DirectResponse(Box::new(response)))
            }),
            Some(Proto::NonForwardingAction(_)) => Ok(Action::NonForwarding),
            Some(Proto::FilterAction(_)) => {
                Err(cx.at("filter_action", |cx| cx.reject("filter actions are not available")))
            }
        }
    }
}
