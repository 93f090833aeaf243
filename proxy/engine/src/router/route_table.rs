//! A route configuration, ready to match.

use std::sync::Arc;
use std::time::Duration;

use http::{HeaderName, HeaderValue};
use proxy_core::config::{BuildCx, Rejected};
use proxy_core::extension::http_filter;
use proxy_core::head::{RequestHead, ResponseHead, Scheme};
use proxy_core::headers::{X_ENVOY_HEDGE_ON_PER_TRY_TIMEOUT, X_ENVOY_INTERNAL, X_FORWARDED_PROTO};
use proxy_core::matcher::RequestHeader;
use proxy_core::metadata::Metadata;
use proxy_core::names::Name;
use proxy_core::retry::RetryPolicy;
use proxy_core::runtime::Runtime;
use proxy_core::stream_info::StreamInfo;
use proxy_core::upstream::Labels;
use xds_api::envoy::config::route::v3 as proto;

use super::cluster::{Again, ClusterChoice, ClusterWeight, Picked};
use super::cluster_plugin::ClusterPlugin;
use super::domains::{Domains, without_port};
use super::filter_config::{FilterConfig, FilterConfigs};
use super::header_mutation::{HeaderMutations, MutationContext};
use super::rewrite::{self, EnvoyHeaders};
use super::route::{Above, Action, RouteBuilder, RouteEntry};
use super::timeouts::{ExpectedTimeout, Override, Timeouts};
use super::virtual_host::{TlsRequirement, VirtualHost};
use crate::upstream::mirror::MirrorPolicy;

/// Envoy's default of `max_direct_response_body_size_bytes`.
const DEFAULT_MAX_DIRECT_RESPONSE_BODY: u32 = 4096;
/// A table may have so many routes: a route's number fits in 32 bits.
const MAX_ROUTES: usize = u32::MAX as usize;

/// A route configuration: immutable, shared by all workers.
#[derive(Debug)]
pub struct RouteTable {
    name: Arc<str>,
    domains: Domains,
    host: HostSource,
    virtual_hosts: Box<[VirtualHost]>,
    routes: Box<[RouteEntry]>,
    request_headers: HeaderMutations,
    response_headers: HeaderMutations,
    mutation_order: MutationOrder,
    internal_only_headers: Box<[HeaderName]>,
    validate_clusters: Option<bool>,
    path_parameters: PathParameters,
}

/// Where the name that selects a virtual host comes from.
#[derive(Debug)]
struct HostSource {
    /// `vhost_header`, in place of `:authority`.
    header: Option<RequestHeader>,
    port: HostPort,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum HostPort {
    Compared,
    Ignored,
}

/// Which level's header mutations come last, and so win.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum MutationOrder {
    /// Route, virtual host, route configuration.
    LeastSpecificWins,
    /// Route configuration, virtual host, route.
    MostSpecificWins,
}

/// Whether `;parameters` count when a path is matched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum PathParameters {
    Matched,
    Ignored,
}

/// A matched route of one table, as a few numbers; meaningless with any other table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RouteMatch {
    route: u32,
    picked: Picked,
}

impl RouteTable {
    /// Builds from the message, reporting everything that is wrong with it.
    pub fn build(proto: &proto::RouteConfiguration, cx: &mut BuildCx<'_>) -> Result<Arc<Self>, Rejected> {
        let proto::RouteConfiguration {
            name,
            virtual_hosts,
            vhds,
            internal_only_headers,
            response_headers_to_add,
            response_headers_to_remove,
            request_headers_to_add,
            request_headers_to_remove,
            most_specific_header_mutations_wins,
            validate_clusters,
            max_direct_response_body_size_bytes,
            cluster_specifier_plugins,
            request_mirror_policies,
            ignore_port_in_host_matching,
            vhost_header,
            ignore_path_parameters_in_path_matching,
            typed_per_filter_config,
            metadata: _,
            route_specifiers,
        } = proto;
        let unsupported = [
            cx.reject_if(vhds.is_some(), "vhds", "virtual host discovery is not available"),
            cx.reject_if(
                !route_specifiers.is_empty(),
                "route_specifiers",
                "route specifiers are not available",
            ),
        ];
        let mirrors = MirrorPolicy::build_all(request_mirror_policies, cx);
        let (plugins, built_plugins) = ClusterPlugin::build_all(cluster_specifier_plugins, cx);
        let internal_only_headers =
            cx.each("internal_only_headers", internal_only_headers, |name, cx| build_header_name(name, cx));
        let request_headers =
            HeaderMutations::build_request(request_headers_to_add, request_headers_to_remove, cx);
        let response_headers =
            HeaderMutations::build_response(response_headers_to_add, response_headers_to_remove, cx);
        let header = match vhost_header.is_empty() {
            true => Ok(None),
            false => cx.at("vhost_header", |cx| RequestHeader::build(vhost_header, cx)).map(Some),
        };
        let filter_configs = FilterConfigs::build(typed_per_filter_config, None, cx);
        let path_parameters = match ignore_path_parameters_in_path_matching {
            true => PathParameters::Ignored,
            false => PathParameters::Matched,
        };
        let mut routes = RouteBuilder {
            entries: Vec::new(),
            virtual_host: 0,
            virtual_host_name: String::new(),
            max_direct_response_body: max_direct_response_body_size_bytes
                .unwrap_or(DEFAULT_MAX_DIRECT_RESPONSE_BODY),
            filter_configs: filter_configs.clone().unwrap_or_default(),
            above: Above {
                mirrors: mirrors.clone().unwrap_or_default(),
                plugins: Arc::new(plugins),
                ..Above::default()
            },
            buffer_limit: None,
        };
        let virtual_hosts = Self::build_virtual_hosts(virtual_hosts, name, &mut routes, cx);
        for result in unsupported {
            result?;
        }
        let (virtual_hosts, domains) = virtual_hosts?;
        filter_configs?;
        mirrors?;
        built_plugins?;
        if routes.entries.len() > MAX_ROUTES {
            return Err(cx.reject("too many routes"));
        }
        Ok(Arc::new(Self {
            name: name.as_str().into(),
            domains,
            host: HostSource {
                header: header?,
                port: if *ignore_port_in_host_matching { HostPort::Ignored } else { HostPort::Compared },
            },
            virtual_hosts,
            routes: routes.entries.into_boxed_slice(),
            request_headers: request_headers?,
            response_headers: response_headers?,
            mutation_order: match most_specific_header_mutations_wins {
                true => MutationOrder::MostSpecificWins,
                false => MutationOrder::LeastSpecificWins,
            },
            internal_only_headers: internal_only_headers?.into_boxed_slice(),
            validate_clusters: *validate_clusters,
            path_parameters,
        }))
    }

    fn build_virtual_hosts(
        protos: &[proto::VirtualHost],
        name: &str,
        routes: &mut RouteBuilder,
        cx: &mut BuildCx<'_>,
    ) -> Result<(Box<[VirtualHost]>, Domains), Rejected> {
        let mut domains = Domains::builder(name);
        let mut index = 0;
        let virtual_hosts = cx.each("virtual_hosts", protos, |proto, cx| {
            routes.virtual_host = index;
            let virtual_host = VirtualHost::build(proto, routes, cx);
            let added = domains.add(&proto.domains, index, cx);
            index += 1;
            added?;
            virtual_host
        })?;
        Ok((virtual_hosts.into_boxed_slice(), domains.build()))
    }

    /// Finds the route for `request`; `None` means 404 with flag NR and details `route_not_found`.
    ///
    /// `random` is one random number per stream: it decides runtime fractions and weighted clusters, so that matching
    /// again after a filter changed the request decides the same way.
    pub fn route(
        &self,
        request: &RequestHead,
        info: &StreamInfo,
        runtime: &Runtime,
        random: u64,
    ) -> Option<RouteMatch> {
        let virtual_host = self.virtual_hosts.get(self.find_virtual_host(request)?)?;
        if let Some(redirect) = virtual_host.tls_redirect()
            && self.redirects_to_tls(virtual_host, request)
        {
            return Some(RouteMatch { route: redirect, picked: Picked::default() });
        }
        let tried = virtual_host.routes.of_request(request, info)?;
        let route = tried.find(&self.routes, self.path_parameters, request, |entry| {
            entry.conditions.hold(request, info, runtime, random)
        })?;
        let picked = match &self.routes.get(route as usize)?.action {
            Action::Forward(forward) => forward.pick_cluster(request, info, runtime, random),
            Action::Redirect(_) | Action::DirectResponse(_) | Action::NonForwarding => Picked::default(),
        };
        Some(RouteMatch { route, picked })
    }

    /// Chooses the cluster anew for `request`, which is to be sent again and `matched`; `None` if the route leaves no choice.
    pub(crate) fn choose_again(
        &self,
        matched: RouteMatch,
        request: &RequestHead,
        info: &StreamInfo,
        runtime: &Runtime,
        again: &mut Again<'_>,
    ) -> Option<RouteMatch> {
        let Action::Forward(forward) = &self.routes.get(matched.route as usize)?.action else { return None };
        let picked = forward.cluster.pick_again(again, matched.picked, request, info, runtime)?;
        Some(RouteMatch { picked, ..matched })
    }

    /// The virtual host that `request` names, whether one of its routes takes it or not.
    pub fn virtual_host(&self, request: &RequestHead) -> Option<&VirtualHost> {
        self.virtual_hosts.get(self.find_virtual_host(request)?)
    }

    fn find_virtual_host(&self, request: &RequestHead) -> Option<usize> {
        let host = match &self.host.header {
            None => request.authority.as_str(),
            Some(header) => header.first_in_request(request)?,
        };
        let host = match self.host.port {
            HostPort::Compared => host,
            HostPort::Ignored => without_port(host),
        };
        self.domains.find(host)
    }

    fn redirects_to_tls(&self, virtual_host: &VirtualHost, request: &RequestHead) -> bool {
        let is_tls = match request.headers.get(&X_FORWARDED_PROTO) {
            Some(proto) => proto.as_bytes() == b"https",
            None => request.scheme == Scheme::Https,
        };
        let is_internal =
            || request.headers.get(&*X_ENVOY_INTERNAL).is_some_and(|value| value.as_bytes() == b"true");
        match virtual_host.require_tls() {
            TlsRequirement::None => false,
            TlsRequirement::ExternalOnly => !is_tls && !is_internal(),
            TlsRequirement::All => !is_tls,
        }
    }

    /// The route that `matched`, a result of [`route`](Self::route) on this very table, stands for.
    pub fn selected(&self, matched: RouteMatch) -> Option<SelectedRoute<'_>> {
        let entry = self.routes.get(matched.route as usize)?;
        let virtual_host = self.virtual_hosts.get(entry.virtual_host)?;
        let weight = match &entry.action {
            Action::Forward(forward) => forward.cluster.weight(matched.picked.choice),
            Action::Redirect(_) | Action::DirectResponse(_) | Action::NonForwarding => None,
        };
        Some(SelectedRoute { table: self, virtual_host, entry, weight, choice: matched.picked.choice })
    }

    /// Name of the route configuration.
    pub fn name(&self) -> &Arc<str> {
        &self.name
    }

    /// Headers to remove from requests that are not internal.
    pub fn internal_only_headers(&self) -> &[HeaderName] {
        &self.internal_only_headers
    }

    /// `validate_clusters`; when absent, static configurations validate and those of RDS do not.
    pub fn validate_clusters(&self) -> Option<bool> {
        self.validate_clusters
    }

    /// Every cluster that a route names, for `validate_clusters` (Envoy: `route: unknown cluster 'NAME'`). Like Envoy's, it does
    /// not look at routes that trees lead to, nor at what those of plugins lead to.
    pub fn clusters(&self) -> impl Iterator<Item = &Name> {
        let is_listed = |route: &&RouteEntry| {
            self.virtual_hosts.get(route.virtual_host).is_some_and(|host| !host.routes.are_matched())
        };
        self.routes.iter().filter(is_listed).flat_map(|route| match &route.action {
            Action::Forward(forward) => forward.cluster_names(),
            Action::Redirect(_) | Action::DirectResponse(_) | Action::NonForwarding => Vec::new(),
        })
    }

    /// The virtual hosts, in the order of the configuration.
    pub fn virtual_hosts(&self) -> &[VirtualHost] {
        &self.virtual_hosts
    }
}

/// A matched route with the virtual host and table around it: what a stream asks its route.
#[derive(Clone, Copy, Debug)]
pub struct SelectedRoute<'t> {
    table: &'t RouteTable,
    virtual_host: &'t VirtualHost,
    entry: &'t RouteEntry,
    weight: Option<&'t ClusterWeight>,
    choice: u32,
}

impl<'t> SelectedRoute<'t> {
    /// The table it is in.
    pub fn table(&self) -> &'t RouteTable {
        self.table
    }

    /// The virtual host it is in.
    pub fn virtual_host(&self) -> &'t VirtualHost {
        self.virtual_host
    }

    /// The route itself: name, metadata, statistics prefix.
    pub fn entry(&self) -> &'t RouteEntry {
        self.entry
    }

    /// What to do with the request.
    pub fn action(&self) -> &'t Action {
        &self.entry.action
    }

    /// The cluster to forward `request` to; [`ClusterChoice::None`] for routes that do not forward.
    pub fn cluster<'r>(&self, request: &'r RequestHead, info: &'r StreamInfo) -> ClusterChoice<'r>
    where
        't: 'r,
    {
        match (&self.entry.action, self.weight) {
            (Action::Forward(_), Some(weight)) => weight.target.choice(request),
            (Action::Forward(forward), None) => forward.cluster.choice(self.choice, request, info),
            (Action::Redirect(_) | Action::DirectResponse(_) | Action::NonForwarding, _) => {
                ClusterChoice::None
            }
        }
    }

    /// The chosen weighted cluster, if the route has weighted clusters.
    pub fn weight(&self) -> Option<&'t ClusterWeight> {
        self.weight
    }

    /// How hosts must be labelled, for clusters that divide their hosts.
    pub fn labels(&self) -> Option<&'t Labels> {
        let of_route = match &self.entry.action {
            Action::Forward(forward) => forward.labels.as_deref(),
            Action::Redirect(_) | Action::DirectResponse(_) | Action::NonForwarding => None,
        };
        self.weight.and_then(|weight| weight.labels.as_ref()).or(of_route)
    }

    /// Everything `typed_per_filter_config` says about the filter `name`, merged over all levels.
    pub fn filter_config(&self, name: &str) -> Option<&'t FilterConfig> {
        let configs = self.weight.map_or(&self.entry.filter_configs, |weight| &weight.filter_configs);
        configs.find(name)
    }

    /// Where a redirecting route sends `request`: the value of `location`; `None` for other routes.
    ///
    /// A path rewrite of the redirect changes the request's path too, as access logs show it in Envoy.
    pub fn redirect(
        &self,
        request: &mut RequestHead,
        info: &StreamInfo,
        envoy_headers: EnvoyHeaders,
    ) -> Option<HeaderValue> {
        match &self.entry.action {
            Action::Redirect(redirect) => {
                let rewrite = redirect.path_rewrite();
                // What follows the redirect in the request's life sees a formatted path as little as in Envoy.
                let original = redirect.has_formatted_path().then(|| request.path.clone());
                rewrite::rewrite_path(rewrite, &self.entry.path, request, info, envoy_headers);
                let location = redirect.location(request);
                if let Some(original) = original {
                    request.path = original;
                }
                location
            }
            Action::Forward(_) | Action::DirectResponse(_) | Action::NonForwarding => None,
        }
    }

    /// The timeouts for `request` (Envoy `FilterUtility::finalTimeout`), where each try may take `per_try` if the request does not
    /// say.
    pub fn timeouts(
        &self,
        request: &RequestHead,
        expected: ExpectedTimeout,
        per_try: Option<Duration>,
    ) -> Timeouts {
        match &self.entry.action {
            Action::Forward(forward) => forward.timeouts.for_request(request, expected, per_try),
            Action::Redirect(_) | Action::DirectResponse(_) | Action::NonForwarding => Timeouts::default(),
        }
    }

    /// How long a complete response may wait for the client's HTTP/2 window.
    pub fn flush_timeout(&self) -> Override {
        match &self.entry.action {
            Action::Forward(forward) => forward.timeouts.flush,
            Action::Redirect(_) | Action::DirectResponse(_) | Action::NonForwarding => Override::Inherit,
        }
    }

    /// When `request`s of this route are sent again, if their cluster does not say.
    pub fn retry_policy(&self) -> Option<&'t Arc<RetryPolicy>> {
        match &self.entry.action {
            Action::Forward(forward) => forward.retry.as_ref(),
            Action::Redirect(_) | Action::DirectResponse(_) | Action::NonForwarding => None,
        }
    }

    /// Whether a try of `request` that takes too long goes on beside the next; `is_asked`: it has headers that ask the router for something.
    pub fn hedges(&self, request: &RequestHead, is_asked: bool) -> bool {
        let asked = is_asked.then(|| request.headers.get(&*X_ENVOY_HEDGE_ON_PER_TRY_TIMEOUT)).flatten();
        match (asked.map(HeaderValue::as_bytes), &self.entry.action) {
            (Some(b"true"), _) => true,
            (Some(b"false"), _) => false,
            (_, Action::Forward(forward)) => forward.hedges,
            (_, Action::Redirect(_) | Action::DirectResponse(_) | Action::NonForwarding) => false,
        }
    }

    /// Whether any level adds headers to the request that may ask something of the router.
    pub fn asks_router(&self) -> bool {
        self.weight.is_some_and(|weight| weight.request_headers.ask_router())
            || self.table.request_headers.ask_router()
            || self.virtual_host.request_headers.ask_router()
            || self.entry.request_headers.ask_router()
    }

    /// Makes the request ready to be forwarded: header mutations of all levels, host rewrite, path rewrite, in this order.
    ///
    /// `x-envoy-original-path`, `x-envoy-original-host` are set as `envoy_headers` says.
    pub fn finalize_request(
        &self,
        request: &mut RequestHead,
        info: &StreamInfo,
        envoy_headers: EnvoyHeaders,
    ) {
        if let Some(weight) = self.weight {
            weight.request_headers.apply_to_request(request, info);
            weight.rewrite_host(request);
        }
        for mutations in self.ordered(
            &self.table.request_headers,
            &self.virtual_host.request_headers,
            &self.entry.request_headers,
        ) {
            mutations.apply_to_request(request, info);
        }
        if let Action::Forward(forward) = &self.entry.action {
            forward.rewrite_host(request, info, envoy_headers);
            let rewrite = forward.path_rewrite.as_deref();
            rewrite::rewrite_path(rewrite, &self.entry.path, request, info, envoy_headers);
        }
    }

    /// Applies `auto_host_rewrite` once a host named `hostname` is chosen.
    pub fn rewrite_host_to_upstream(
        &self,
        request: &mut RequestHead,
        hostname: &str,
        envoy_headers: EnvoyHeaders,
    ) {
        if let Action::Forward(forward) = &self.entry.action {
            forward.rewrite_host_to_upstream(request, hostname, envoy_headers);
        }
    }

    /// Applies the response header mutations of all levels, to responses from upstream and to the route's own alike.
    pub fn finalize_response(&self, request: &RequestHead, response: &mut ResponseHead, info: &StreamInfo) {
        if self.virtual_host.is_tls_redirect(self.entry) {
            return;
        }
        let context = MutationContext { request: Some(request), info };
        if let Some(weight) = self.weight {
            weight.response_headers.apply_to_response(response, context);
        }
        for mutations in self.ordered(
            &self.table.response_headers,
            &self.virtual_host.response_headers,
            &self.entry.response_headers,
        ) {
            mutations.apply_to_response(response, context);
        }
    }

    fn ordered(
        &self,
        table: &'t HeaderMutations,
        virtual_host: &'t HeaderMutations,
        route: &'t HeaderMutations,
    ) -> [&'t HeaderMutations; 3] {
        match self.table.mutation_order {
            MutationOrder::LeastSpecificWins => [route, virtual_host, table],
            MutationOrder::MostSpecificWins => [table, virtual_host, route],
        }
    }
}

impl http_filter::Route for SelectedRoute<'_> {
    fn name(&self) -> &str {
        &self.entry.name
    }

    fn cluster(&self) -> Option<&str> {
        match (&self.entry.action, self.weight) {
            (Action::Forward(_), Some(weight)) => weight.target.name().map(Name::as_str),
            (Action::Forward(forward), None) => forward.cluster.name(self.choice).map(Name::as_str),
            (Action::Redirect(_) | Action::DirectResponse(_) | Action::NonForwarding, _) => None,
        }
    }

    fn metadata(&self) -> &Metadata {
        &self.entry.metadata
    }

    fn rate_limits(&self) -> Option<http_filter::RouteRateLimits<'_>> {
        let Action::Forward(forward) = &self.entry.action else { return None };
        let host = &self.virtual_host().rate_limits;
        let includes_host = forward.includes_host_rate_limits;
        Some(http_filter::RouteRateLimits { own: &forward.rate_limits, host, includes_host })
    }

    fn ignores_path_parameters(&self) -> bool {
        matches!(self.table.path_parameters, PathParameters::Ignored)
    }
}

/// Reads a header name that the proxy looks up among ordinary headers.
pub(super) fn build_header_name(name: &str, cx: &mut BuildCx<'_>) -> Result<HeaderName, Rejected> {
    HeaderName::from_bytes(name.as_bytes())
        .map_err(|_| cx.reject(format!("'{name}' is not the name of an ordinary header")))
}

#[cfg(test)]
mod tests;
