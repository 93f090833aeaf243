//! The settings of DNS clusters.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use prost_types::Any;
use proxy_core::address::Address;
use proxy_core::config::{BuildCx, Rejected, duration};
use proxy_core::extension::{decode, message_name};
use proxy_core::upstream::Assignment;
use xds_api::envoy::config::bootstrap::v3::Bootstrap;
use xds_api::envoy::config::cluster::v3 as proto;
use xds_api::envoy::config::core::v3 as core;
use xds_api::envoy::extensions::clusters::dns::v3::DnsCluster;
use xds_api::envoy::extensions::network::dns_resolver;

/// The settings of a DNS cluster.
#[derive(Clone, Debug)]
pub struct DnsConfig {
    /// What an answer with several addresses means.
    pub kind: DnsKind,
    /// The endpoints with names yet to be resolved.
    pub targets: Assignment<DnsTarget>,
    /// Time between resolutions.
    pub refresh_rate: Duration,
    /// Time until the next try after a failure.
    pub failure_refresh: FailureRefresh,
    /// Whether the time to live of an answer replaces `refresh_rate`.
    pub respect_ttl: bool,
    /// Least time between resolutions by time to live.
    pub min_refresh_rate: Duration,
    /// At most this much is added to each refresh, at random.
    pub jitter: Duration,
    /// Which addresses to ask for.
    pub family: LookupFamily,
    /// Whom to ask; the resolver of the process if `None`.
    pub resolver: Option<ResolverConfig>,
    /// Whether the cluster is ready only after the first resolution.
    pub wait_for_warm_on_init: bool,
}

/// What an answer with several addresses means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DnsKind {
    /// Every address is a host.
    Strict,
    /// The name is one host with all the addresses; other addresses make another host.
    Logical,
}

/// The address of an endpoint of a DNS cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DnsTarget {
    /// A name, or an IP address, which is its own answer.
    pub name: Arc<str>,
    /// The port of the hosts.
    pub port: u16,
}

/// Time until the next try after a failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FailureRefresh {
    /// First interval.
    pub base: Duration,
    /// Longest interval.
    pub max: Duration,
    /// Whether the interval doubles from `base` to `max` and a random part of it is taken; else it is always `base`.
    pub jittered: bool,
}

/// Which addresses to ask for (`dns_lookup_family`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LookupFamily {
    /// IPv6, and IPv4 if there are none.
    Auto,
    /// IPv4.
    V4Only,
    /// IPv6.
    V6Only,
    /// IPv4, and IPv6 if there are none.
    V4Preferred,
    /// Both.
    All,
}

/// Whom to ask and how; resolvers are shared by clusters with equal settings.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct ResolverConfig {
    /// Which implementation.
    pub kind: ResolverKind,
    /// Servers to ask; those of the system if empty.
    pub servers: Vec<SocketAddr>,
    /// Ask `servers` only if the system has none.
    pub servers_are_fallback: bool,
    /// Ask over TCP only.
    pub tcp_only: bool,
    /// Take names as they are, without the system's search domains.
    pub no_search_domain: bool,
    /// Ask the servers in turn rather than in order.
    pub rotate: bool,
    /// How long to wait for an answer; the default of the implementation if `None`.
    pub timeout: Option<Duration>,
    /// How often to ask; the default of the implementation if `None`.
    pub tries: Option<u32>,
    /// Answers to remember; none if 0.
    pub cache_size: u32,
    /// Longest time to remember an answer.
    pub cache_max_ttl: Option<Duration>,
}

/// Who looks names up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum ResolverKind {
    /// Our own resolver, which asks servers by DNS.
    #[default]
    Dns,
    /// The C library (`getaddrinfo`).
    System,
}

const CARES: &str = "envoy.extensions.network.dns_resolver.cares.v3.CaresDnsResolverConfig";
const GETADDRINFO: &str = "envoy.extensions.network.dns_resolver.getaddrinfo.v3.GetAddrInfoDnsResolverConfig";
const HICKORY: &str = "envoy.extensions.network.dns_resolver.hickory.v3.HickoryDnsResolverConfig";

impl DnsConfig {
    /// Reads the fields of a cluster of type STRICT_DNS or LOGICAL_DNS.
    #[allow(deprecated)]
    pub(crate) fn from_cluster(
        proto: &proto::Cluster,
        logical: bool,
        cx: &mut BuildCx<'_>,
    ) -> Result<Self, Rejected> {
        let kind = if logical { DnsKind::Logical } else { DnsKind::Strict };
        let family = family(proto.dns_lookup_family);
        let resolver = ResolverConfig::from_cluster(proto, cx);
        let failure = proto.dns_failure_refresh_rate.as_ref();
        let times = Times {
            refresh: proto.dns_refresh_rate.as_ref(),
            failure_base: failure.map(|rate| rate.base_interval.as_ref()),
            failure_max: failure.and_then(|rate| rate.max_interval.as_ref()),
            jitter: proto.dns_jitter.as_ref(),
            min_refresh: None,
        };
        Self::build(proto, kind, times, proto.respect_dns_ttl, family, resolver?, cx)
    }

    /// Reads a `DnsCluster`.
    pub(crate) fn from_typed(
        proto: &proto::Cluster,
        typed: &DnsCluster,
        cx: &mut BuildCx<'_>,
    ) -> Result<Self, Rejected> {
        use xds_api::envoy::extensions::clusters::common::dns::v3::DnsLookupFamily as Family;
        let kind = if typed.all_addresses_in_single_endpoint { DnsKind::Logical } else { DnsKind::Strict };
        let family = match Family::try_from(typed.dns_lookup_family).unwrap_or(Family::Unspecified) {
            Family::Unspecified | Family::Auto => LookupFamily::Auto,
            Family::V4Only => LookupFamily::V4Only,
            Family::V6Only => LookupFamily::V6Only,
            Family::V4Preferred => LookupFamily::V4Preferred,
            Family::All => LookupFamily::All,
        };
        let resolver = typed.typed_dns_resolver_config.as_ref();
        let resolver = resolver
            .map(|config| cx.at("typed_dns_resolver_config", |cx| ResolverConfig::from_typed(config, cx)));
        let failure = typed.dns_failure_refresh_rate.as_ref();
        let times = Times {
            refresh: typed.dns_refresh_rate.as_ref(),
            failure_base: failure.map(|rate| rate.base_interval.as_ref()),
            failure_max: failure.and_then(|rate| rate.max_interval.as_ref()),
            jitter: typed.dns_jitter.as_ref(),
            min_refresh: typed.dns_min_refresh_rate.as_ref(),
        };
        Self::build(proto, kind, times, typed.respect_dns_ttl, family, resolver.transpose()?, cx)
    }

    fn build(
        proto: &proto::Cluster,
        kind: DnsKind,
        times: Times<'_>,
        respect_ttl: bool,
        family: LookupFamily,
        resolver: Option<ResolverConfig>,
        cx: &mut BuildCx<'_>,
    ) -> Result<Self, Rejected> {
        let targets = match &proto.load_assignment {
            None => Assignment::default(),
            Some(assignment) => {
                cx.at("load_assignment", |cx| Assignment::build_with(assignment, cx, DnsTarget::build))?
            }
        };
        check_addresses(&targets, cx)?;
        if kind == DnsKind::Logical {
            check_logical(&targets, cx)?;
        }
        let refresh_rate = positive(times.refresh, "dns_refresh_rate", cx)?.unwrap_or(DEFAULT_REFRESH);
        let failure_refresh = FailureRefresh::build(times.failure_base, times.failure_max, refresh_rate, cx)?;
        if failure_refresh.max < failure_refresh.base {
            return Err(cx.at("dns_failure_refresh_rate", |cx| {
                cx.reject(
                    "dns_failure_refresh_rate must have max_interval greater than or equal to the base_interval",
                )
            }));
        }
        Ok(Self {
            kind,
            targets,
            refresh_rate,
            failure_refresh,
            respect_ttl,
            min_refresh_rate: positive(times.min_refresh, "dns_min_refresh_rate", cx)?
                .unwrap_or(DEFAULT_REFRESH),
            jitter: times.jitter.and_then(duration).unwrap_or_default(),
            family,
            resolver,
            wait_for_warm_on_init: proto.wait_for_warm_on_init.unwrap_or(true),
        })
    }
}

impl FailureRefresh {
    /// Reads a failure rate: `None` without one, `Some(None)` for one without its base interval. Else failures are tried again at `refresh_rate`.
    pub(super) fn build(
        base: Option<Option<&prost_types::Duration>>,
        max: Option<&prost_types::Duration>,
        refresh_rate: Duration,
        cx: &mut BuildCx<'_>,
    ) -> Result<Self, Rejected> {
        let Some(base) = base else {
            return Ok(Self { base: refresh_rate, max: refresh_rate, jittered: false });
        };
        let Some(base) = positive(base, "dns_failure_refresh_rate", cx)? else {
            return Err(
                cx.at("dns_failure_refresh_rate", |cx| cx.at("base_interval", |cx| cx.reject("must be set")))
            );
        };
        let max = positive(max, "dns_failure_refresh_rate", cx)?.unwrap_or(base * 10);
        Ok(Self { base, max, jittered: true })
    }

    /// How long to wait after so many failures in a row and one more.
    pub(super) fn wait(&self, failures: u32, random: &mut fastrand::Rng) -> Duration {
        if !self.jittered {
            return self.base;
        }
        let factor = 1u32.checked_shl(failures).unwrap_or(u32::MAX);
        let interval = self.base.saturating_mul(factor).min(self.max);
        random_below(interval, random).max(Duration::from_millis(1))
    }
}

/// A random time below `limit`, in milliseconds.
pub(super) fn random_below(limit: Duration, random: &mut fastrand::Rng) -> Duration {
    let millis = u64::try_from(limit.as_millis()).unwrap_or(u64::MAX).max(1);
    Duration::from_millis(random.u64(..millis))
}

const DEFAULT_REFRESH: Duration = Duration::from_secs(5);

/// The durations of both forms of the configuration.
struct Times<'a> {
    refresh: Option<&'a prost_types::Duration>,
    /// `None` without a failure rate, `Some(None)` for one without its base interval.
    failure_base: Option<Option<&'a prost_types::Duration>>,
    failure_max: Option<&'a prost_types::Duration>,
    jitter: Option<&'a prost_types::Duration>,
    min_refresh: Option<&'a prost_types::Duration>,
}

/// A duration of at least a millisecond.
pub(super) fn positive(
    proto: Option<&prost_types::Duration>,
    field: &'static str,
    cx: &mut BuildCx<'_>,
) -> Result<Option<Duration>, Rejected> {
    let Some(proto) = proto else { return Ok(None) };
    match duration(proto).filter(|duration| *duration >= Duration::from_millis(1)) {
        Some(duration) => Ok(Some(duration)),
        None => Err(cx.at(field, |cx| cx.reject("must be at least 1 ms"))),
    }
}

/// An endpoint found by DNS has the addresses of the answer and no others.
fn check_addresses(targets: &Assignment<DnsTarget>, cx: &mut BuildCx<'_>) -> Result<(), Rejected> {
    let mut endpoints = targets.localities.iter().flat_map(|locality| &locality.endpoints);
    if endpoints.all(|endpoint| endpoint.additional_addresses.is_empty()) {
        return Ok(());
    }
    Err(cx.at("load_assignment", |cx| cx.reject("additional_addresses are not available in DNS clusters")))
}

fn check_logical(targets: &Assignment<DnsTarget>, cx: &mut BuildCx<'_>) -> Result<(), Rejected> {
    match targets.localities.as_slice() {
        [one] if one.endpoints.len() == 1 => Ok(()),
        _ => Err(cx.at("load_assignment", |cx| {
            cx.reject("LOGICAL_DNS clusters must have a single locality_lb_endpoint and a single lb_endpoint")
        })),
    }
}

pub(super) fn family(family: i32) -> LookupFamily {
    use proto::cluster::DnsLookupFamily as Family;
    match Family::try_from(family).unwrap_or(Family::Auto) {
        Family::Auto => LookupFamily::Auto,
        Family::V4Only => LookupFamily::V4Only,
        Family::V6Only => LookupFamily::V6Only,
        Family::V4Preferred => LookupFamily::V4Preferred,
        Family::All => LookupFamily::All,
    }
}

impl DnsTarget {
    fn build(proto: &core::Address, cx: &mut BuildCx<'_>) -> Result<Self, Rejected> {
        use core::socket_address::{PortSpecifier, Protocol};
        let Some(core::address::Address::SocketAddress(socket)) = &proto.address else {
            return Err(cx.reject("DNS clusters need a socket_address"));
        };
        cx.at("socket_address", |cx| {
            if !socket.resolver_name.is_empty() {
                return Err(cx.reject("DNS clusters must NOT have a custom resolver name set"));
            }
            if socket.protocol != Protocol::Tcp as i32 {
                return Err(cx.at("protocol", |cx| cx.reject("only TCP is available")));
            }
            let port = match &socket.port_specifier {
                Some(PortSpecifier::PortValue(port)) => u16::try_from(*port).ok(),
                Some(PortSpecifier::NamedPort(_)) => None,
                None => Some(0),
            };
            let Some(port) = port else { return Err(cx.reject("port_value must be a port (0-65535)")) };
            if socket.address.is_empty() {
                return Err(cx.at("address", |cx| cx.reject("must not be empty")));
            }
            Ok(Self { name: socket.address.as_str().into(), port })
        })
    }
}

impl ResolverConfig {
    /// What clusters use that say nothing: the bootstrap's typed configuration, else its older fields.
    ///
    /// # Errors
    /// The resolver is unknown, or a server has no IP address.
    #[allow(deprecated)]
    pub fn from_bootstrap(proto: &Bootstrap, cx: &mut BuildCx<'_>) -> Result<Self, Rejected> {
        let typed = proto.typed_dns_resolver_config.as_ref();
        match Self::typed_or_older(typed, proto.dns_resolution_config.as_ref(), cx)? {
            Some(built) => Ok(built),
            None => Ok(Self { tcp_only: proto.use_tcp_for_dns_lookups, ..Self::default() }),
        }
    }

    /// The typed configuration, else the older fields; `None` if the cluster says nothing.
    #[allow(deprecated)]
    fn from_cluster(proto: &proto::Cluster, cx: &mut BuildCx<'_>) -> Result<Option<Self>, Rejected> {
        let typed = proto.typed_dns_resolver_config.as_ref();
        if let Some(built) = Self::typed_or_older(typed, proto.dns_resolution_config.as_ref(), cx)? {
            return Ok(Some(built));
        }
        let servers = cx.each("dns_resolvers", &proto.dns_resolvers, server)?;
        let tcp_only = proto.use_tcp_for_dns_lookups;
        Ok((tcp_only || !servers.is_empty()).then(|| Self { servers, tcp_only, ..Self::default() }))
    }

    pub(super) fn typed_or_older(
        typed: Option<&core::TypedExtensionConfig>,
        older: Option<&core::DnsResolutionConfig>,
        cx: &mut BuildCx<'_>,
    ) -> Result<Option<Self>, Rejected> {
        if let Some(config) = typed {
            return cx.at("typed_dns_resolver_config", |cx| Self::from_typed(config, cx)).map(Some);
        }
        let Some(config) = older else { return Ok(None) };
        cx.at("dns_resolution_config", |cx| {
            let mut built = Self { servers: servers(&config.resolvers, cx)?, ..Self::default() };
            built.options(config.dns_resolver_options.as_ref());
            Ok(Some(built))
        })
    }

    fn from_typed(config: &core::TypedExtensionConfig, cx: &mut BuildCx<'_>) -> Result<Self, Rejected> {
        let Some(any) = &config.typed_config else {
            return Err(cx.at("typed_config", |cx| cx.reject("must be set")));
        };
        cx.at("typed_config", |cx| Self::from_any(any, cx))
    }

    /// Reads the configuration of any of the resolvers that Envoy has, the bootstrap's included.
    pub fn from_any(any: &Any, cx: &mut BuildCx<'_>) -> Result<Self, Rejected> {
        match message_name(&any.type_url) {
            CARES => {
                let proto: dns_resolver::cares::v3::CaresDnsResolverConfig = decode(&any.value, cx)?;
                let mut built = Self {
                    servers: servers(&proto.resolvers, cx)?,
                    servers_are_fallback: proto.use_resolvers_as_fallback,
                    rotate: proto.rotate_nameservers,
                    timeout: proto.query_timeout_seconds.map(Duration::from_secs),
                    tries: proto.query_tries,
                    ..Self::default()
                };
                if let Some(seconds) = proto.qcache_max_ttl.filter(|seconds| *seconds > 0) {
                    built.cache_size = 1024;
                    built.cache_max_ttl = Some(Duration::from_secs(seconds.into()));
                }
                built.options(proto.dns_resolver_options.as_ref());
                Ok(built)
            }
            HICKORY => {
                let proto: dns_resolver::hickory::v3::HickoryDnsResolverConfig = decode(&any.value, cx)?;
                Ok(Self {
                    servers: servers(&proto.resolvers, cx)?,
                    servers_are_fallback: proto.use_system_config.unwrap_or(proto.resolvers.is_empty()),
                    timeout: proto.query_timeout.as_ref().and_then(duration),
                    tries: proto.query_tries,
                    cache_size: proto.cache_size.unwrap_or(0),
                    ..Self::default()
                })
            }
            GETADDRINFO => Ok(Self { kind: ResolverKind::System, ..Self::default() }),
            other => Err(cx.reject(format!("DNS resolver '{other}' is not available"))),
        }
    }

    fn options(&mut self, options: Option<&core::DnsResolverOptions>) {
        let options = options.copied().unwrap_or_default();
        self.tcp_only = options.use_tcp_for_dns_lookups;
        self.no_search_domain = options.no_default_search_domain;
    }
}

fn servers(protos: &[core::Address], cx: &mut BuildCx<'_>) -> Result<Vec<SocketAddr>, Rejected> {
    cx.each("resolvers", protos, server)
}

fn server(proto: &core::Address, cx: &mut BuildCx<'_>) -> Result<SocketAddr, Rejected> {
    // The protocol says how the servers are reached; it is UDP where it says anything.
    let mut proto = proto.clone();
    if let Some(core::address::Address::SocketAddress(socket)) = &mut proto.address {
        socket.protocol = core::socket_address::Protocol::Tcp as i32;
    }
    match Address::build(&proto, cx)? {
        Address::Ip(server) if server.port() == 0 => Ok(SocketAddr::new(server.ip(), 53)),
        Address::Ip(server) => Ok(server),
        Address::Pipe(_) => Err(cx.reject("a DNS server needs an IP address")),
    }
}
