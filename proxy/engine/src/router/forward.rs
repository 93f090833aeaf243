//! The action that sends a request to a cluster.

use std::sync::Arc;

use http::StatusCode;
use proxy_core::config::{BuildCx, Rejected};
use proxy_core::hash_policy::HashPolicies;
use proxy_core::head::RequestHead;
use proxy_core::matcher::RegexRewrite;
use proxy_core::names::Name;
use proxy_core::rate_limit::{Place, RateLimits};
use proxy_core::retry::RetryPolicy;
use proxy_core::runtime::Runtime;
use proxy_core::stream_info::StreamInfo;
use proxy_core::text::Text;
use proxy_core::upstream::Labels;
use xds_api::envoy::config::core::v3::RoutingPriority;
use xds_api::envoy::config::route::v3 as proto;
use xds_api::envoy::config::route::v3::route_action::ClusterNotFoundResponseCode;

use super::cluster::{ClusterSpecifier, Picked};
use super::filter_config::FilterConfigs;
use super::internal_redirect::InternalRedirects;
use super::path::PathRule;
use super::retries;
use super::rewrite::{self, EnvoyHeaders, ForwardedHost, HostRewrite, PathRewrite};
use super::route::Above;
use super::timeouts::RouteTimeouts;
use crate::upstream::mirror::{MirrorPolicy, MirrorTo};

/// Sends requests to a cluster. There may be many: what few have is boxed.
#[derive(Debug)]
pub struct ForwardAction {
    /// Which cluster.
    pub cluster: ClusterSpecifier,
    /// What to answer when there is no such cluster.
    pub cluster_not_found: StatusCode,
    /// Which circuit breaker thresholds apply.
    pub priority: Priority,
    /// Upgrades that this route allows or forbids, over the connection manager's.
    pub upgrades: Box<[Upgrade]>,
    /// What requests hash to, for clusters that balance by it.
    pub hash_policies: HashPolicies,
    /// How hosts must be labelled, for clusters that divide their hosts.
    pub(super) labels: Option<Box<Labels>>,
    /// When a request is sent again, if the cluster does not say.
    pub retry: Option<Arc<RetryPolicy>>,
    /// Whether tries that take too long go on beside the next.
    pub hedges: bool,
    /// What requests are counted as, for filters that limit rates.
    pub rate_limits: RateLimits,
    /// Whether those of the virtual host hold too.
    pub includes_host_rate_limits: bool,
    /// Who gets copies of requests, if the cluster does not say.
    pub mirrors: Arc<[MirrorPolicy]>,
    /// Which redirects of hosts are followed, if any are.
    pub internal_redirects: Option<Box<InternalRedirects>>,
    pub(super) timeouts: RouteTimeouts,
    pub(super) path_rewrite: Option<Box<PathRewrite>>,
    host_rewrite: Option<Box<HostRewrite>>,
    forwarded_host: ForwardedHost,
}

/// Priority of requests in circuit breakers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Priority {
    /// `DEFAULT`
    #[default]
    Default,
    /// `HIGH`
    High,
}

/// One kind of upgrade.
#[derive(Clone, Debug)]
pub struct Upgrade {
    /// The protocol in lower case: `websocket`, `connect`.
    pub protocol: Box<str>,
    /// Whether it is allowed.
    pub enabled: bool,
    /// Present if CONNECT ends here and its payload goes upstream as plain TCP.
    pub connect: Option<ConnectConfig>,
}

/// How CONNECT requests end here.
#[derive(Clone, Copy, Debug)]
pub struct ConnectConfig {
    /// Whether POST requests are taken like CONNECT.
    pub allow_post: bool,
}

impl ForwardAction {
    pub(super) fn build(
        proto: &proto::RouteAction,
        rule: Option<&PathRule>,
        filter_configs: &FilterConfigs,
        above: &Above,
        cx: &mut BuildCx<'_>,
    ) -> Result<Self, Rejected> {
        let unsupported = reject_unsupported(proto, cx);
        let labels = Labels::from_metadata(proto.metadata_match.as_ref());
        let cluster = ClusterSpecifier::build(
            proto.cluster_specifier.as_ref(),
            filter_configs,
            labels.as_ref(),
            &above.plugins,
            cx,
        );
        let cluster_not_found = cx.at("cluster_not_found_response_code", |cx| {
            match ClusterNotFoundResponseCode::try_from(proto.cluster_not_found_response_code) {
                Ok(ClusterNotFoundResponseCode::ServiceUnavailable) => Ok(StatusCode::SERVICE_UNAVAILABLE),
                Ok(ClusterNotFoundResponseCode::NotFound) => Ok(StatusCode::NOT_FOUND),
                Ok(ClusterNotFoundResponseCode::InternalServerError) => Ok(StatusCode::INTERNAL_SERVER_ERROR),
                Err(_) => Err(cx.reject("value must be one of the defined enum values")),
            }
        });
        let priority = cx.at("priority", |cx| match RoutingPriority::try_from(proto.priority) {
            Ok(RoutingPriority::Default) => Ok(Priority::Default),
            Ok(RoutingPriority::High) => Ok(Priority::High),
            Err(_) => Err(cx.reject("value must be one of the defined enum values")),
        });
        let upgrades = build_upgrades(&proto.upgrade_configs, cx);
        let hash_policies = HashPolicies::build("hash_policy", &proto.hash_policy, cx);
        let timeouts = RouteTimeouts::build(proto, cx);
        let retry = retries::policy(proto.retry_policy.as_ref(), above.retry.as_ref(), cx);
        let hedges = retries::hedges(proto.hedge_policy.as_ref(), above.hedges, cx);
        let rate_limits = RateLimits::build("rate_limits", &proto.rate_limits, Place::Route, cx);
        let mirrors = MirrorPolicy::build_all(&proto.request_mirror_policies, cx);
        let internal_redirects = InternalRedirects::build(proto, cx);
        let path_rewrite = build_path_rewrite(proto, rule, cx);
        let host_rewrite = HostRewrite::build(proto.host_rewrite_specifier.as_ref(), cx);
        unsupported?;
        Ok(Self {
            retry: retry?,
            hedges: hedges?,
            rate_limits: rate_limits?,
            #[allow(deprecated, reason = "still sent by control planes")]
            includes_host_rate_limits: proto.include_vh_rate_limits.unwrap_or(false),
            mirrors: above.mirrors_or(mirrors?),
            internal_redirects: internal_redirects?.map(Box::new),
            cluster: cluster?,
            cluster_not_found: cluster_not_found?,
            priority: priority?,
            upgrades: upgrades?,
            hash_policies: hash_policies?,
            labels: labels.map(Box::new),
            timeouts: timeouts?,
            path_rewrite: path_rewrite?.map(Box::new),
            host_rewrite: host_rewrite?.map(Box::new),
            forwarded_host: match proto.append_x_forwarded_host {
                true => ForwardedHost::Appended,
                false => ForwardedHost::Untouched,
            },
        })
    }

    /// The clusters that it names, those of copies among them.
    pub(super) fn cluster_names(&self) -> Vec<&Name> {
        let mut names = self.cluster.names();
        names.extend(self.mirrors.iter().filter_map(|policy| match &policy.to {
            MirrorTo::Named(name) => Some(name),
            MirrorTo::FromHeader(_) => None,
        }));
        names
    }

    /// Chooses the cluster for `request`.
    pub(super) fn pick_cluster(
        &self,
        request: &RequestHead,
        info: &StreamInfo,
        runtime: &Runtime,
        random: u64,
    ) -> Picked {
        let random = match self.cluster.uses_hash() {
            true => self.hash_policies.hash(request, info, None).unwrap_or(random),
            false => random,
        };
        self.cluster.pick(request, info, runtime, random)
    }

    /// Whether the route allows the upgrade `protocol` (lower case); `None` leaves it to the connection manager.
    pub fn allows_upgrade(&self, protocol: &str) -> Option<bool> {
        self.upgrade(protocol).map(|upgrade| upgrade.enabled)
    }

    /// What the route says about the upgrade `protocol` (lower case).
    pub fn upgrade(&self, protocol: &str) -> Option<&Upgrade> {
        self.upgrades.iter().find(|upgrade| &*upgrade.protocol == protocol)
    }

    pub(super) fn rewrite_host(
        &self,
        request: &mut RequestHead,
        info: &StreamInfo,
        envoy_headers: EnvoyHeaders,
    ) {
        let new = self.host_rewrite.as_ref().and_then(|rewrite| rewrite.new_host(request, info));
        if let Some(host) = new {
            rewrite::update_authority(request, host, self.forwarded_host, envoy_headers);
        }
    }

    pub(super) fn rewrite_host_to_upstream(
        &self,
        request: &mut RequestHead,
        hostname: &str,
        envoy_headers: EnvoyHeaders,
    ) {
        if matches!(self.host_rewrite.as_deref(), Some(HostRewrite::Upstream)) && !hostname.is_empty() {
            rewrite::update_authority(request, Text::from(hostname), self.forwarded_host, envoy_headers);
        }
    }
}

/// Rejects what is set and cannot be honoured; names every field of the message that nothing else reads.
fn reject_unsupported(proto: &proto::RouteAction, cx: &mut BuildCx<'_>) -> Result<(), Rejected> {
    #[allow(deprecated, reason = "still sent by control planes")]
    let proto::RouteAction {
        cluster_not_found_response_code: _,
        metadata_match: _,
        prefix_rewrite: _,
        regex_rewrite: _,
        path_rewrite_policy: _,
        path_rewrite: _,
        append_x_forwarded_host: _,
        timeout: _,
        idle_timeout: _,
        flush_timeout: _,
        early_data_policy,
        retry_policy: _,
        retry_policy_typed_config: _,
        request_mirror_policies: _,
        priority: _,
        rate_limits: _,
        include_vh_rate_limits: _,
        hash_policy: _,
        cors,
        max_grpc_timeout: _,
        grpc_timeout_offset: _,
        upgrade_configs: _,
        internal_redirect_policy: _,
        internal_redirect_action: _,
        max_internal_redirects: _,
        hedge_policy: _,
        max_stream_duration: _,
        cluster_specifier: _,
        host_rewrite_specifier: _,
    } = proto;
    let all = [
        cx.reject_if(early_data_policy.is_some(), "early_data_policy", "early data is not available"),
        cx.reject_if(cors.is_some(), "cors", "use typed_per_filter_config with envoy.filters.http.cors"),
    ];
    all.into_iter().collect()
}

const ONE_REWRITE: &str = "Specify only one of prefix_rewrite, regex_rewrite or path_rewrite_policy";

fn build_path_rewrite(
    proto: &proto::RouteAction,
    rule: Option<&PathRule>,
    cx: &mut BuildCx<'_>,
) -> Result<Option<PathRewrite>, Rejected> {
    let proto::RouteAction { prefix_rewrite, regex_rewrite, path_rewrite_policy, path_rewrite, .. } = proto;
    if !path_rewrite.is_empty() {
        if !prefix_rewrite.is_empty() || regex_rewrite.is_some() || path_rewrite_policy.is_some() {
            return Err(cx.reject(ONE_REWRITE));
        }
        return PathRewrite::build_format(path_rewrite, cx).map(Some);
    }
    match (prefix_rewrite.as_str(), regex_rewrite, path_rewrite_policy) {
        ("", None, None) => Ok(None),
        ("", Some(regex), None) => cx
            .at("regex_rewrite", |cx| RegexRewrite::build(regex, cx))
            .map(|regex| Some(PathRewrite::Regex(regex))),
        ("", None, Some(policy)) => {
            cx.at("path_rewrite_policy", |cx| PathRewrite::build_policy(policy, rule, cx)).map(Some)
        }
        (_, None, None) if rule.is_some_and(|rule| rule.template().is_some()) => {
            Err(cx.reject("Cannot use prefix_rewrite with matcher extension"))
        }
        (prefix, None, None) => Ok(Some(PathRewrite::Prefix(prefix.into()))),
        _ => Err(cx.reject(ONE_REWRITE)),
    }
}

fn build_upgrades(
    protos: &[proto::route_action::UpgradeConfig],
    cx: &mut BuildCx<'_>,
) -> Result<Box<[Upgrade]>, Rejected> {
    let mut seen: Vec<String> = Vec::new();
    let upgrades = cx.each("upgrade_configs", protos, |proto, cx| {
        let proto::route_action::UpgradeConfig { upgrade_type, enabled, connect_config } = proto;
        let protocol = upgrade_type.to_ascii_lowercase();
        if seen.contains(&protocol) {
            return Err(cx.reject(format!("Duplicate upgrade {upgrade_type}")));
        }
        seen.push(protocol.clone());
        if protocol == "connect-udp" {
            return Err(cx.at("upgrade_type", |cx| cx.reject("CONNECT-UDP is not available")));
        }
        let connect = match connect_config {
            None => None,
            Some(_) if protocol != "connect" => {
                return Err(cx.reject(format!("Non-CONNECT upgrade type {upgrade_type} has ConnectConfig")));
            }
            Some(connect) => Some(cx.at("connect_config", |cx| {
                cx.reject_if(
                    connect.proxy_protocol_config.is_some(),
                    "proxy_protocol_config",
                    "the PROXY protocol for CONNECT payloads is not available",
                )?;
                Ok(ConnectConfig { allow_post: connect.allow_post })
            })?),
        };
        Ok(Upgrade { protocol: protocol.into(), enabled: enabled.unwrap_or(true), connect })
    })?;
    Ok(upgrades.into_boxed_slice())
}
