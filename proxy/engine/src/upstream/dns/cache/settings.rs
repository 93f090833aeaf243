//! The settings of a cache.

use std::time::Duration;

use proxy_core::config::{BuildCx, Rejected, duration};
use proxy_core::matcher::cidr::CidrSet;
use std::net::IpAddr;
use xds_api::envoy::extensions::common::dynamic_forward_proxy::v3::DnsCacheConfig;

use crate::upstream::dns::config::{FailureRefresh, LookupFamily, ResolverConfig, family, positive};

/// The settings.
#[derive(Debug)]
pub(super) struct Settings {
    pub(super) family: LookupFamily,
    /// Whom to ask; the resolver of the process if `None`.
    pub(super) resolver: Option<ResolverConfig>,
    /// Time until a name without addresses is asked for again.
    pub(super) refresh_rate: Duration,
    /// Least time until one with addresses is.
    pub(super) min_refresh_rate: Duration,
    pub(super) failure_refresh: FailureRefresh,
    /// Names that failed are not asked for again until somebody wants them (`disable_dns_refresh_on_failure`).
    pub(super) forgets_failures: bool,
    /// How long a query may take, unless the resolver gives up before; for ever if `None`.
    pub(super) timeout: Option<Duration>,
    /// How long a host is kept that nobody goes to.
    pub(super) host_ttl: Duration,
    pub(super) max_hosts: usize,
    /// Requests that may wait.
    pub(super) max_pending: u32,
    /// Addresses that are not gone to.
    pub(super) refused: Option<AddressFilter>,
}

/// Addresses (`type.matcher.v3.AddressMatcher`).
#[derive(Debug)]
pub(super) struct AddressFilter {
    ranges: CidrSet,
    inverted: bool,
}

impl AddressFilter {
    /// Whether `ip` is one of them. An IPv4-mapped IPv6 address is also the IPv4 address that it stands for: it is one of them if either is.
    pub(super) fn contains(&self, ip: IpAddr) -> bool {
        [ip, ip.to_canonical()].into_iter().any(|ip| self.ranges.contains(ip) != self.inverted)
    }
}

impl Settings {
    #[allow(deprecated, reason = "it is still sent")]
    pub(super) fn build(proto: &DnsCacheConfig, cx: &mut BuildCx<'_>) -> Result<Self, Rejected> {
        let DnsCacheConfig {
            name,
            dns_lookup_family,
            dns_refresh_rate,
            dns_min_refresh_rate,
            host_ttl,
            max_hosts,
            disable_dns_refresh_on_failure,
            dns_failure_refresh_rate,
            dns_cache_circuit_breaker,
            use_tcp_for_dns_lookups,
            dns_resolution_config,
            typed_dns_resolver_config,
            preresolve_hostnames,
            dns_query_timeout,
            key_value_config,
            resolved_address_filter,
        } = proto;
        cx.reject_if(key_value_config.is_some(), "key_value_config", NO_STORE)?;
        let typed = typed_dns_resolver_config.as_ref();
        let resolver = ResolverConfig::typed_or_older(typed, dns_resolution_config.as_ref(), cx)?;
        let by_tcp = || ResolverConfig { tcp_only: true, ..ResolverConfig::default() };
        let refresh_rate = positive(dns_refresh_rate.as_ref(), "dns_refresh_rate", cx)?;
        let refresh_rate = refresh_rate.unwrap_or(Duration::from_secs(60));
        let failure = dns_failure_refresh_rate.as_ref();
        let failure_refresh = FailureRefresh::build(
            failure.map(|rate| rate.base_interval.as_ref()),
            failure.and_then(|rate| rate.max_interval.as_ref()),
            refresh_rate,
            cx,
        )?;
        let max_hosts = max_hosts.map_or(1024, |max| usize::try_from(max).unwrap_or(usize::MAX));
        if preresolve_hostnames.len() > max_hosts {
            let count = preresolve_hostnames.len();
            return Err(cx.reject(format!(
                "DNS Cache [{name}] configured with preresolve_hostnames={count} larger than max_hosts={max_hosts}"
            )));
        }
        let refused = resolved_address_filter.as_ref().map(|filter| {
            cx.at("resolved_address_filter", |cx| {
                let ranges = CidrSet::build_xds("ranges", &filter.ranges, cx)?;
                Ok(AddressFilter { ranges, inverted: filter.invert_match })
            })
        });
        let time = |proto: &Option<prost_types::Duration>, default| {
            proto.as_ref().and_then(duration).unwrap_or(Duration::from_secs(default))
        };
        Ok(Self {
            family: family(*dns_lookup_family),
            resolver: resolver.or_else(|| use_tcp_for_dns_lookups.then(by_tcp)),
            refresh_rate,
            min_refresh_rate: time(dns_min_refresh_rate, 5).max(Duration::from_millis(1)),
            failure_refresh,
            forgets_failures: *disable_dns_refresh_on_failure,
            timeout: Some(time(dns_query_timeout, 5)).filter(|timeout| !timeout.is_zero()),
            host_ttl: time(host_ttl, 300),
            max_hosts,
            max_pending: dns_cache_circuit_breaker
                .as_ref()
                .and_then(|limits| limits.max_pending_requests)
                .unwrap_or(1024),
            refused: refused.transpose()?,
        })
    }
}

pub(crate) const NO_STORE: &str = "what is known of names is not stored";
