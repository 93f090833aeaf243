//! A virtual host: its routes in order, and what it says about all of them.

use std::sync::Arc;

use proxy_core::config::{BuildCx, Rejected};
use proxy_core::head::RequestHead;
use proxy_core::matcher::HeaderMatcher;
use proxy_core::metadata::Metadata;
use proxy_core::rate_limit::{Place, RateLimits};
use proxy_core::stats::Cells;
use proxy_core::stats::groups::RouteStats;
use xds_api::envoy::config::route::v3 as proto;
use xds_api::envoy::config::route::v3::virtual_host::TlsRequirementType;

use super::filter_config::FilterConfigs;
use super::header_mutation::HeaderMutations;
use super::matched_routes::HostRoutes;
use super::retries::{self, buffer_limit};
use super::route::{Above, RouteBuilder, RouteEntry};
use crate::upstream::mirror::MirrorPolicy;

/// A virtual host.
#[derive(Debug)]
pub struct VirtualHost {
    /// Name, for logs and statistics.
    pub name: Arc<str>,
    /// Metadata of the virtual host.
    pub metadata: Metadata,
    /// Whether `x-envoy-attempt-count` goes upstream.
    pub include_request_attempt_count: bool,
    /// Whether `x-envoy-attempt-count` goes downstream.
    pub include_attempt_count_in_response: bool,
    /// Whether `x-envoy-is-timeout-retry` goes upstream.
    pub include_is_timeout_retry_header: bool,
    /// What requests are counted as, for filters that limit rates.
    pub rate_limits: RateLimits,
    pub(super) request_headers: HeaderMutations,
    pub(super) response_headers: HeaderMutations,
    virtual_clusters: Box<[VirtualCluster]>,
    require_tls: TlsRequirement,
    /// The route that redirects to https, if TLS may be required.
    tls_redirect: Option<u32>,
    pub(super) routes: HostRoutes,
}

/// Which requests have to come over TLS; the others are redirected to `https`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TlsRequirement {
    /// None.
    None,
    /// Those that are not internal.
    ExternalOnly,
    /// All.
    All,
}

/// Requests of a virtual host that are counted together.
#[derive(Debug)]
pub struct VirtualCluster {
    /// Its name; `None` for all that no other takes.
    pub name: Option<Arc<str>>,
    /// `vhost.<virtual host>.vcluster.<name or other>`
    pub stats: Cells<RouteStats>,
    headers: Box<[HeaderMatcher]>,
}

impl VirtualHost {
    pub(super) fn build(
        proto: &proto::VirtualHost,
        routes: &mut RouteBuilder,
        cx: &mut BuildCx<'_>,
    ) -> Result<Self, Rejected> {
        #[allow(deprecated, reason = "still sent by control planes")]
        let proto::VirtualHost {
            name,
            domains: _,
            routes: route_protos,
            matcher,
            require_tls,
            virtual_clusters,
            rate_limits,
            request_headers_to_add,
            request_headers_to_remove,
            response_headers_to_add,
            response_headers_to_remove,
            cors,
            typed_per_filter_config,
            include_request_attempt_count,
            include_attempt_count_in_response,
            retry_policy,
            retry_policy_typed_config: _,
            hedge_policy,
            include_is_timeout_retry_header,
            per_request_buffer_limit_bytes,
            request_body_buffer_limit,
            request_mirror_policies,
            metadata,
            route_specifiers,
        } = proto;
        let unsupported = [
            cx.reject_if(cors.is_some(), "cors", "use typed_per_filter_config with envoy.filters.http.cors"),
            cx.reject_if(
                !route_specifiers.is_empty(),
                "route_specifiers",
                "route specifiers are not available",
            ),
        ];
        let request_headers =
            HeaderMutations::build_request(request_headers_to_add, request_headers_to_remove, cx);
        let response_headers =
            HeaderMutations::build_response(response_headers_to_add, response_headers_to_remove, cx);
        let rate_limits = RateLimits::build("rate_limits", rate_limits, Place::Route, cx);
        let virtual_clusters =
            cx.each("virtual_clusters", virtual_clusters, |proto, cx| VirtualCluster::build(proto, name, cx));
        let virtual_clusters = virtual_clusters.map(|mut all| {
            if !all.is_empty() {
                all.push(VirtualCluster::other(name, cx));
            }
            all
        });
        let require_tls = cx.at("require_tls", |cx| TlsRequirement::build(*require_tls, cx));
        let filter_configs = FilterConfigs::build(typed_per_filter_config, Some(&routes.filter_configs), cx);

        let retry = retries::policy(retry_policy.as_ref(), None, cx);
        let hedges = retries::hedges(hedge_policy.as_ref(), false, cx);
        let mirrors = MirrorPolicy::build_all(request_mirror_policies, cx);

        routes.virtual_host_name.clone_from(name);
        let of_table = routes.above.clone();
        routes.above = Above {
            retry: retry.clone().unwrap_or_default(),
            hedges: hedges.unwrap_or_default(),
            mirrors: of_table.mirrors_or(mirrors.clone().unwrap_or_default()),
            plugins: of_table.plugins.clone(),
        };
        routes.buffer_limit = buffer_limit(*per_request_buffer_limit_bytes, *request_body_buffer_limit);
        let outer = std::mem::replace(&mut routes.filter_configs, filter_configs.clone().unwrap_or_default());
        let built = HostRoutes::build(route_protos, matcher.as_ref(), routes, cx);
        routes.filter_configs = outer;
        routes.above = of_table;
        let require_tls = require_tls?;
        let tls_redirect = (require_tls != TlsRequirement::None).then(|| routes.add_tls_redirect());
        for result in unsupported {
            result?;
        }
        filter_configs?;
        retry?;
        hedges?;
        mirrors?;
        Ok(Self {
            name: name.as_str().into(),
            metadata: Metadata::new(metadata.as_ref()),
            include_request_attempt_count: *include_request_attempt_count,
            include_attempt_count_in_response: *include_attempt_count_in_response,
            include_is_timeout_retry_header: *include_is_timeout_retry_header,
            rate_limits: rate_limits?,
            request_headers: request_headers?,
            response_headers: response_headers?,
            virtual_clusters: virtual_clusters?.into_boxed_slice(),
            require_tls,
            tls_redirect,
            routes: built?,
        })
    }

    /// Which requests have to come over TLS.
    pub fn require_tls(&self) -> TlsRequirement {
        self.require_tls
    }

    /// The virtual cluster that `request` belongs to; `None` if there are none.
    pub fn virtual_cluster(&self, request: &RequestHead) -> Option<&VirtualCluster> {
        // The last one demands nothing.
        self.virtual_clusters
            .iter()
            .find(|cluster| cluster.headers.iter().all(|header| header.matches_request(request)))
    }

    pub(super) fn tls_redirect(&self) -> Option<u32> {
        self.tls_redirect
    }

    pub(super) fn is_tls_redirect(&self, entry: &RouteEntry) -> bool {
        entry.is_tls_redirect
    }
}

impl TlsRequirement {
    fn build(proto: i32, cx: &mut BuildCx<'_>) -> Result<Self, Rejected> {
        match TlsRequirementType::try_from(proto) {
            Ok(TlsRequirementType::None) => Ok(Self::None),
            Ok(TlsRequirementType::ExternalOnly) => Ok(Self::ExternalOnly),
            Ok(TlsRequirementType::All) => Ok(Self::All),
            Err(_) => Err(cx.reject("value must be one of the defined enum values")),
        }
    }
}

impl VirtualCluster {
    fn build(proto: &proto::VirtualCluster, host: &str, cx: &mut BuildCx<'_>) -> Result<Self, Rejected> {
        let proto::VirtualCluster { headers, name } = proto;
        if headers.is_empty() {
            return Err(cx.reject("virtual clusters must define 'headers'"));
        }
        Ok(Self {
            name: Some(name.as_str().into()),
            stats: cx.env.stats.scope(&format!("vhost.{host}.vcluster.{name}")).cells(),
            headers: HeaderMatcher::build_all("headers", headers, cx)?,
        })
    }

    fn other(host: &str, cx: &BuildCx<'_>) -> Self {
        let stats = cx.env.stats.scope(&format!("vhost.{host}.vcluster.other")).cells();
        Self { name: None, stats, headers: Box::default() }
    }
}
