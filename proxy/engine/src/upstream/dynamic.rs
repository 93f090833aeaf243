//! Clusters of type `envoy.clusters.dynamic_forward_proxy`: a request goes to the host that it names, as far as DNS knows it.
//!
//! The hosts are those of a DNS cache ([`super::dns`]), which tells the cluster of them before anybody who waits for one goes on. They are the
//! cluster's, for all workers, and a pick takes no lock. A host whose addresses change is another host, as in clusters of type LOGICAL_DNS.
//!
//! Source: Envoy `envoy/extensions/clusters/dynamic_forward_proxy/v3/cluster.proto`,
//! `docs/root/intro/arch_overview/http/http_proxy.rst`.

use std::future::ready;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use futures_util::future::Either;
use proxy_core::address::Address;
use proxy_core::config::{BuildCx, Rejected};
use proxy_core::dns_cache::{
    self, DnsCache, DnsHost, Follower, HostKey, LookUp, NO_SUB_CLUSTERS, Wanted, host_of_state, port_of_state,
};
use proxy_core::head::RequestHead;
use proxy_core::metadata::Metadata;
use proxy_core::stream_error::Details;
use proxy_core::stream_info::StreamInfo;
use proxy_core::upstream::{Host, HostHealth};
use tokio::sync::mpsc;
use xds_api::envoy::config::cluster::v3 as proto;
use xds_api::envoy::config::cluster::v3::cluster::{ClusterDiscoveryType, LbPolicy};
use xds_api::envoy::config::core::v3::UpstreamHttpProtocolOptions;
use xds_api::envoy::extensions::clusters::dynamic_forward_proxy::v3::ClusterConfig;
use xds_api::envoy::extensions::clusters::dynamic_forward_proxy::v3::cluster_config::ClusterImplementationSpecifier as Kind;

use super::cluster::Cluster;
use super::discovery::Discovery;
use super::members::Members;
use super::pool::WorkerCluster;
use super::transport_options::NamesOfRequests;
use crate::local::clock;
use crate::local::read_map::ReadMap;

pub(super) const DYNAMIC_CLUSTER: &str = "envoy.extensions.clusters.dynamic_forward_proxy.v3.ClusterConfig";

/// The hosts of a dynamic forward proxy.
#[derive(Debug)]
pub struct DynamicHosts {
    cache: Arc<dyn DnsCache>,
    hosts: ReadMap<HostKey, Member>,
    /// Who writes to `hosts` keeps this.
    members: Mutex<Members>,
    /// The names for TLS need not be those of requests.
    allows_insecure: bool,
    /// Who is told of hosts that leave, if somebody is.
    tell_left: Mutex<Option<mpsc::UnboundedSender<Arc<Host>>>>,
}

/// A host of the cache as one of the cluster.
#[derive(Clone, Debug)]
struct Member {
    of: Arc<DnsHost>,
    host: Arc<Host>,
}

impl Member {
    /// The host, for somebody who goes there; `None` if it is ejected.
    fn visit(self) -> Option<Arc<Host>> {
        self.of.touch(clock::now());
        Some(self.host).filter(|host| host.health() != HostHealth::Unhealthy)
    }
}

impl DynamicHosts {
    /// Whether `proto` is such a cluster.
    pub(super) fn is_kind_of(proto: &proto::Cluster) -> bool {
        let Some(ClusterDiscoveryType::ClusterType(custom)) = &proto.cluster_discovery_type else {
            return false;
        };
        custom.typed_config.as_ref().is_some_and(|any| any.type_url.ends_with(DYNAMIC_CLUSTER))
    }

    /// With the defaults of the type: TLS servers are asked for what requests name, and held to it.
    pub(super) fn with_defaults(proto: &proto::Cluster) -> proto::Cluster {
        let mut proto = proto.clone();
        #[allow(deprecated, reason = "it is where the default holds")]
        proto.upstream_http_protocol_options.get_or_insert_with(|| UpstreamHttpProtocolOptions {
            auto_sni: true,
            auto_san_validation: true,
            ..UpstreamHttpProtocolOptions::default()
        });
        proto
    }

    /// Reads the configuration of the type.
    pub(super) fn build(config: &ClusterConfig, cx: &mut BuildCx<'_>) -> Result<Self, Rejected> {
        let ClusterConfig {
            allow_insecure_cluster_options,
            allow_coalesced_connections: _,
            cluster_implementation_specifier,
        } = config;
        let config = match cluster_implementation_specifier {
            Some(Kind::DnsCacheConfig(config)) => config.clone(),
            Some(Kind::SubClustersConfig(_)) => {
                return Err(cx.at("sub_clusters_config", |cx| cx.reject(NO_SUB_CLUSTERS)));
            }
            None => Default::default(),
        };
        let cache = cx.at("dns_cache_config", |cx| cx.env.dns_caches.cache(&config, cx))?;
        let expected = config.max_hosts.unwrap_or(1024);
        Ok(Self {
            cache,
            hosts: ReadMap::new(usize::try_from(expected).unwrap_or(usize::MAX)),
            members: Mutex::default(),
            allows_insecure: *allow_insecure_cluster_options,
            tell_left: Mutex::default(),
        })
    }

    /// Refuses what does not go with the type.
    pub(super) fn check(
        &self,
        proto: &proto::Cluster,
        names: Option<&NamesOfRequests>,
        cx: &mut BuildCx<'_>,
    ) -> Result<(), Rejected> {
        if proto.load_balancing_policy.is_none() && proto.lb_policy != LbPolicy::ClusterProvided as i32 {
            return Err(cx.reject("cluster provided LB not specified but the cluster provided one"));
        }
        let reason = "the hosts are those that requests name";
        cx.reject_if(proto.load_assignment.is_some(), "load_assignment", reason)?;
        cx.reject_if(!proto.health_checks.is_empty(), "health_checks", reason)?;
        if !self.allows_insecure && !names.is_some_and(NamesOfRequests::are_secure) {
            return Err(cx.reject(
                "dynamic_forward_proxy cluster must have auto_sni and auto_san_validation true unless \
                 allow_insecure_cluster_options is set.",
            ));
        }
        Ok(())
    }

    /// `cluster` is told of the hosts from now on.
    pub(super) fn follow(&self, cluster: &Arc<Cluster>) {
        let follower: Weak<Cluster> = Arc::downgrade(cluster);
        self.cache.follow(follower);
    }

    /// The host that `request` names, or the connection that it came on; `None` if it is not known, or ejected.
    pub(super) fn pick(
        &self,
        cluster: &Cluster,
        info: &StreamInfo,
        request: Option<&RequestHead>,
    ) -> Option<Arc<Host>> {
        Self::wanted(cluster, info, request, |wanted| self.hosts.get(&wanted))??.visit()
    }

    /// What is known of the host that `request` names, or the connection that it came on; has it looked up where that is nothing.
    fn seek(&self, cluster: &Cluster, info: &StreamInfo, request: Option<&RequestHead>) -> Sought {
        let sought = Self::wanted(cluster, info, request, |wanted| match self.hosts.get(&wanted) {
            Some(member) => Sought::Known(Found(member.visit())),
            None => Sought::Unknown(self.cache.look_up(wanted)),
        });
        sought.unwrap_or(Sought::Nameless)
    }

    /// What is wanted, if anything is: nothing is copied for it.
    fn wanted<T>(
        cluster: &Cluster,
        info: &StreamInfo,
        request: Option<&RequestHead>,
        then: impl FnOnce(Wanted<'_>) -> T,
    ) -> Option<T> {
        let of_state = host_of_state(info);
        let host = match (&of_state, request) {
            (Some(host), _) => host.as_str(),
            (None, Some(request)) => request.authority.as_str(),
            (None, None) => info.connection.server_name.as_ref().map_or("", |name| name.as_str()),
        };
        let port = port_of_state(info).unwrap_or_else(|| default_port(cluster));
        Wanted::of(host, port).map(then)
    }

    /// The hosts that are known.
    pub(super) fn hosts(&self) -> Vec<Arc<Host>> {
        let mut members = self.hosts.values();
        members.sort_by(|one, other| one.of.hostname.cmp(&other.of.hostname));
        members.into_iter().map(|member| member.host).collect()
    }

    /// Notes that `host` is none of the cluster any more.
    fn leave(&self, host: Arc<Host>) {
        host.leave();
        if let Some(tell) = &*self.tell_left() {
            // (Nobody listens once the cluster was replaced.)
            let _ = tell.send(host);
        }
    }

    fn tell_left(&self) -> MutexGuard<'_, Option<mpsc::UnboundedSender<Arc<Host>>>> {
        self.tell_left.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn members(&self) -> MutexGuard<'_, Members> {
        self.members.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts the hosts after their health changed, and has `cluster` tell of it.
    pub(super) fn count_anew(&self, cluster: &Cluster) {
        let _nobody_writes = self.hosts.write();
        let mut members = self.members();
        *members = self.hosts.values().iter().map(|member| &*member.host).collect();
        cluster.publish_members(&members);
    }
}

/// A host that a request or connection names, and that is known; `None` if it is ejected.
///
/// Who has it need not look it up again, and goes there though it may be forgotten meanwhile.
#[derive(Debug)]
pub(crate) struct Found(pub(super) Option<Arc<Host>>);

/// What comes of looking for the host that a request or connection names.
pub(crate) enum Finding<F> {
    /// It is known.
    Known(Found),
    /// It will be, or is said not to be, when this is ready.
    Waits(F),
}

/// Whether a host is known.
enum Sought {
    Known(Found),
    /// Nothing is named.
    Nameless,
    Unknown(LookUp),
}

impl WorkerCluster {
    /// The host that `request` names, or the connection that it came on, or a future that is ready when it is known; nothing where the cluster
    /// knows its hosts without that. The future is cancel-safe, and fails with why it will not be known (`%RESPONSE_CODE_DETAILS%`).
    pub(crate) fn find_host(
        &self,
        info: &StreamInfo,
        request: Option<&RequestHead>,
    ) -> Option<Finding<impl Future<Output = Result<(), Details>> + use<>>> {
        let Discovery::Dynamic(hosts) = &self.cluster.discovery else { return None };
        let sought = match hosts.seek(&self.cluster, info, request) {
            Sought::Known(found) => return Some(Finding::Known(found)),
            Sought::Nameless => Err(dns_cache::EMPTY_HOST),
            Sought::Unknown(LookUp::Full) => Err(dns_cache::OVERFLOW),
            Sought::Unknown(LookUp::Busy) => Err(dns_cache::PENDING_OVERFLOW),
            Sought::Unknown(LookUp::Known(answer)) => Ok(Either::Left(ready(answer))),
            Sought::Unknown(LookUp::Wait(waiting)) => Ok(Either::Right(waiting)),
        };
        if sought.is_err() {
            self.cluster.stats.traffic.here().upstream_cx_none_healthy.inc();
        }
        Some(Finding::Waits(async move {
            match sought?.await {
                Ok(_) => Ok(()),
                Err(reason) => Err(Details::from(dns_cache::failure(&reason))),
            }
        }))
    }
}

/// The port of hosts that name none, if `cluster` goes where requests want to.
pub(crate) fn port(cluster: &Cluster) -> Option<u16> {
    matches!(cluster.discovery, Discovery::Dynamic(_)).then(|| default_port(cluster))
}

fn default_port(cluster: &Cluster) -> u16 {
    match cluster.transport.of(Metadata::default).tls.is_some() {
        true => 443,
        false => 80,
    }
}

impl Follower for Cluster {
    fn resolved(&self, host: &Arc<DnsHost>, addresses: &[Address]) {
        let Discovery::Dynamic(hosts) = &self.discovery else { return };
        let Some((first, rest)) = addresses.split_first() else { return };
        let mut member = Host::new(first.clone());
        member.additional_addresses = rest.into();
        member.hostname = host.hostname.clone();
        let member = Member { of: host.clone(), host: Arc::new(member) };
        let mut known = hosts.hosts.write();
        let mut members = hosts.members();
        members.came(&member.host);
        match known.insert(HostKey(host.clone()), member) {
            Some(before) => {
                members.left(&before.host);
                self.publish_members(&members);
                hosts.leave(before.host);
            }
            None => {
                self.transport.count(&Metadata::default());
                self.note_members(&members);
            }
        }
    }

    fn gone(&self, host: &DnsHost) {
        let Discovery::Dynamic(hosts) = &self.discovery else { return };
        let mut known = hosts.hosts.write();
        if let Some(gone) = known.remove(&host.wanted()) {
            let mut members = hosts.members();
            members.left(&gone.host);
            self.note_members(&members);
            hosts.leave(gone.host);
        }
    }
}

/// Tells for ever which hosts left `cluster`, be it that others came in their place; returns at once for a cluster of another type.
pub async fn run(cluster: Arc<Cluster>, on_left: impl Fn(Vec<Arc<Host>>)) {
    let Discovery::Dynamic(hosts) = &cluster.discovery else { return };
    let (tell, mut left) = mpsc::unbounded_channel();
    *hosts.tell_left() = Some(tell);
    while let Some(first) = left.recv().await {
        let mut all = vec![first];
        while let Ok(another) = left.try_recv() {
            all.push(another);
        }
        on_left(all);
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;
    use std::rc::Rc;
    use std::task::{Context, Waker};

    use prost::Message as _;
    use proxy_core::config::BuildEnv;
    use proxy_core::stream_info::ConnectionInfo;
    use proxy_core::upstream::HealthFlag;
    use xds_api::envoy::config::cluster::v3::cluster::CustomClusterType;
    use xds_api::envoy::extensions::common::dynamic_forward_proxy::v3::DnsCacheConfig;

    use super::*;
    use crate::upstream::dns::Caches;

    fn cluster() -> Arc<Cluster> {
        let cache = DnsCacheConfig { name: "c".into(), ..DnsCacheConfig::default() };
        let config = ClusterConfig {
            cluster_implementation_specifier: Some(Kind::DnsCacheConfig(cache)),
            ..ClusterConfig::default()
        };
        let typed = prost_types::Any {
            type_url: format!("type.googleapis.com/{DYNAMIC_CLUSTER}"),
            value: config.encode_to_vec(),
        };
        let kind = CustomClusterType { name: "d".into(), typed_config: Some(typed) };
        let proto = proto::Cluster {
            name: "c".into(),
            cluster_discovery_type: Some(ClusterDiscoveryType::ClusterType(kind)),
            lb_policy: LbPolicy::ClusterProvided as i32,
            ..Default::default()
        };
        let env = BuildEnv { dns_caches: Arc::new(Caches::default()), ..BuildEnv::new(1) };
        Cluster::build(&proto, &mut BuildCx::new(&env)).unwrap()
    }

    fn address(last: u8) -> Address {
        SocketAddr::from(([10, 0, 0, last], 80)).into()
    }

    /// A host that the cluster is told of.
    fn comes(cluster: &Cluster, name: &str, last: u8) -> Arc<DnsHost> {
        let host = Arc::new(DnsHost::new(Wanted { name, port: 80 }, clock::now()));
        cluster.resolved(&host, &[address(last)]);
        host
    }

    #[test]
    fn who_has_found_a_host_does_not_lose_it() {
        let cluster = cluster();
        let host = comes(&cluster, "one.test", 1);
        let Discovery::Dynamic(hosts) = &cluster.discovery else { panic!("another type") };
        let mut connection = ConnectionInfo::new(address(9), address(8), "l".into());
        connection.server_name = Some("one.test".into());
        let info = StreamInfo::new(Rc::new(connection), clock::now(), std::time::SystemTime::UNIX_EPOCH);
        let Sought::Known(found) = hosts.seek(&cluster, &info, None) else { panic!("it is known") };
        cluster.gone(&host);
        assert!(hosts.pick(&cluster, &info, None).is_none());
        assert!(matches!(hosts.seek(&cluster, &info, None), Sought::Unknown(LookUp::Wait(_))));
        assert_eq!(found.0.unwrap().address, address(1));
    }

    #[test]
    fn gauges_tell_of_ejected_hosts() {
        let cluster = cluster();
        let gauges = || {
            let state = &cluster.stats.state;
            [&state.membership_total, &state.membership_healthy, &state.membership_degraded]
                .map(|gauge| gauge.value())
        };
        let (one, two) = (comes(&cluster, "one.test", 1), comes(&cluster, "two.test", 2));
        assert_eq!(gauges(), [2, 2, 0]);
        let known = cluster.known_hosts();
        let mut known = known.hosts();
        known.next().unwrap().set_flag(HealthFlag::FailedOutlierCheck, true);
        cluster.refresh_hosts();
        assert_eq!(gauges(), [2, 1, 0]);
        known.next().unwrap().set_flag(HealthFlag::DegradedOutlierDetection, true);
        cluster.refresh_hosts();
        assert_eq!(gauges(), [2, 0, 1]);
        comes(&cluster, "three.test", 3);
        assert_eq!(gauges(), [3, 1, 1]);
        // With other addresses it is another host.
        cluster.resolved(&one, &[address(4)]);
        assert_eq!(gauges(), [3, 2, 1]);
        cluster.gone(&two);
        assert_eq!(gauges(), [2, 2, 0]);
    }

    #[test]
    fn who_looks_after_the_cluster_is_told_which_hosts_left() {
        let cluster = cluster();
        let told = std::cell::RefCell::new(Vec::new());
        let mut run = std::pin::pin!(run(cluster.clone(), |left| told.borrow_mut().push(left)));
        let mut look = || run.as_mut().poll(&mut Context::from_waker(Waker::noop()));
        assert!(look().is_pending());
        let one = comes(&cluster, "one.test", 1);
        let two = comes(&cluster, "two.test", 2);
        let before: Vec<_> = cluster.known_hosts().hosts().cloned().collect();
        // (With other addresses it is another host.)
        cluster.resolved(&one, &[address(3)]);
        cluster.gone(&two);
        assert!(look().is_pending());
        let told = told.borrow();
        assert_eq!(told.len(), 1, "of both at once");
        assert!(told[0].iter().zip(&before).all(|(left, host)| Arc::ptr_eq(left, host)));
        assert!(before.iter().all(|host| host.has_left()));
        assert!(!cluster.known_hosts().hosts().any(|host| host.has_left()));
    }
}
