//! Clusters of type ORIGINAL_DST: a host is made for wherever a client wants to go, and forgotten when nobody goes there any more.
//!
//! The hosts are the cluster's, for all workers: who goes where is counted, shown and forgotten in one place. Readers of
//! the lock do not wait for each other, and a pick writes to a host's counts anyway, so that it costs no more than balancing.
//! Nothing has to tell the workers what was forgotten: it has no connection in any pool.
//!
//! Source: Envoy `docs/root/intro/arch_overview/upstream/load_balancing/original_dst.rst`,
//! `envoy/extensions/clusters/original_dst/v3/original_dst_cluster.proto`.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use indexmap::IndexMap;
use prost_types::value::Kind;
use proxy_core::config::{BuildCx, Rejected, duration};
use proxy_core::head::RequestHead;
use proxy_core::matcher::header::RequestHeader;
use proxy_core::metadata::{Metadata, MetadataPath};
use proxy_core::stream_info::StreamInfo;
use proxy_core::upstream::Host;
use xds_api::envoy::config::cluster::v3 as proto;
use xds_api::envoy::config::cluster::v3::cluster::{ClusterDiscoveryType, DiscoveryType, LbConfig, LbPolicy};
use xds_api::envoy::extensions::clusters::original_dst::v3::OriginalDstCluster;

use super::cluster::Cluster;
use super::discovery::{Discovery, ORIGINAL_DST_CLUSTER, ORIGINAL_DST_NAME};
use super::members::Members;

/// From here on each new host makes unused ones go. Clients choose them; those with a connection are as many as connections are.
const MOST_HOSTS: usize = 65_536;

/// How many hosts a new one looks at then: so many that unused ones go faster than new ones come, and so few that a new one
/// costs no more than its connection does.
const LOOKED_AT: usize = 32;

/// Where filters leave a destination that goes before all others.
const FILTER_STATE: &str = "envoy.network.transport_socket.original_dst_address";

/// Where the hosts of an ORIGINAL_DST cluster are, and those that are known.
#[derive(Debug)]
pub struct OriginalDst {
    /// The request header that names the host, if one does (`use_http_header`).
    header: Option<RequestHeader>,
    /// The dynamic metadata that name the host, if any do: name space and path.
    metadata: Option<MetadataPath>,
    /// The port of all hosts (`upstream_port_override`).
    port: Option<u16>,
    /// How long a host is kept that nobody goes to.
    cleanup_interval: Duration,
    hosts: RwLock<Hosts>,
}

#[derive(Debug, Default)]
struct Hosts {
    /// In the order in which they were first wanted, while there were never too many.
    known: IndexMap<SocketAddr, Known>,
    /// Where to look for unused ones next.
    hand: usize,
    members: Members,
}

#[derive(Debug)]
struct Known {
    host: Arc<Host>,
    /// Somebody wanted to go there since the last look.
    used: AtomicBool,
}

impl OriginalDst {
    /// Whether `proto` is such a cluster.
    pub(super) fn is_kind_of(proto: &proto::Cluster) -> bool {
        match &proto.cluster_discovery_type {
            Some(ClusterDiscoveryType::Type(kind)) => *kind == DiscoveryType::OriginalDst as i32,
            Some(ClusterDiscoveryType::ClusterType(custom)) => match &custom.typed_config {
                Some(any) => any.type_url.ends_with(ORIGINAL_DST_CLUSTER),
                None => custom.name == ORIGINAL_DST_NAME,
            },
            None => false,
        }
    }

    /// Reads a cluster of `type: ORIGINAL_DST`.
    pub(super) fn from_cluster(proto: &proto::Cluster, cx: &mut BuildCx<'_>) -> Result<Self, Rejected> {
        let config = match &proto.lb_config {
            Some(LbConfig::OriginalDstLbConfig(config)) => config.clone(),
            Some(
                LbConfig::RingHashLbConfig(_)
                | LbConfig::MaglevLbConfig(_)
                | LbConfig::LeastRequestLbConfig(_)
                | LbConfig::RoundRobinLbConfig(_),
            )
            | None => Default::default(),
        };
        let config = OriginalDstCluster {
            use_http_header: config.use_http_header,
            http_header_name: config.http_header_name,
            upstream_port_override: config.upstream_port_override,
            metadata_key: config.metadata_key,
        };
        let built = cx.at("original_dst_lb_config", |cx| Self::build(&config, proto, cx));
        Self::check(proto, "ORIGINAL_DST", cx)?;
        built
    }

    /// Reads a cluster of the type that is an extension.
    pub(super) fn from_typed(
        config: &OriginalDstCluster,
        proto: &proto::Cluster,
        cx: &mut BuildCx<'_>,
    ) -> Result<Self, Rejected> {
        let built = cx.at("typed_config", |cx| Self::build(config, proto, cx));
        Self::check(proto, ORIGINAL_DST_NAME, cx)?;
        built
    }

    fn check(proto: &proto::Cluster, kind: &str, cx: &mut BuildCx<'_>) -> Result<(), Rejected> {
        if proto.lb_policy != LbPolicy::ClusterProvided as i32 {
            let policy = LbPolicy::try_from(proto.lb_policy).map_or("?", |policy| policy.as_str_name());
            return Err(cx.reject(format!(
                "cluster: LB policy {policy} is not valid for Cluster type {kind}. Only 'CLUSTER_PROVIDED' is \
                 allowed with cluster type 'ORIGINAL_DST'"
            )));
        }
        if proto.load_assignment.is_some() {
            return Err(cx.reject("ORIGINAL_DST clusters must have no load assignment configured"));
        }
        Ok(())
    }

    fn build(
        config: &OriginalDstCluster,
        proto: &proto::Cluster,
        cx: &mut BuildCx<'_>,
    ) -> Result<Self, Rejected> {
        let name = config.http_header_name.as_str();
        let header = match (config.use_http_header, name) {
            (true, "") => RequestHeader::parse("x-envoy-original-dst-host"),
            (true, name) => Some(cx.at("http_header_name", |cx| RequestHeader::build(name, cx))?),
            (false, "") => None,
            (false, name) => {
                return Err(cx.reject(format!(
                    "ORIGINAL_DST cluster: invalid config http_header_name={name} and use_http_header is false. Set \
                     use_http_header to true if http_header_name is desired."
                )));
            }
        };
        let metadata = config.metadata_key.as_ref();
        let metadata =
            metadata.map(|key| cx.at("metadata_key", |cx| MetadataPath::build(key, cx))).transpose()?;
        let port = config.upstream_port_override.map(|port| {
            u16::try_from(port).map_err(|_| {
                cx.at("upstream_port_override", |cx| cx.reject("must be less than or equal to 65535"))
            })
        });
        let interval = proto.cleanup_interval.as_ref().and_then(duration);
        Ok(Self {
            header,
            metadata,
            port: port.transpose()?,
            // Envoy reckons in milliseconds.
            cleanup_interval: interval.unwrap_or(Duration::from_secs(5)).max(Duration::from_millis(1)),
            hosts: RwLock::default(),
        })
    }

    /// The host that `request` wants, or the connection it came on; `None` if neither says.
    pub(super) fn pick(
        &self,
        cluster: &Cluster,
        info: &StreamInfo,
        request: Option<&RequestHead>,
    ) -> Option<Arc<Host>> {
        let mut wanted = self.wanted(cluster, info, request)?;
        if let Some(port) = self.port {
            wanted.set_port(port);
        }
        let hosts = self.hosts.read().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = hosts.known.get(&wanted) {
            // (Most are marked already: a word that nobody writes is one that all may read.)
            if !known.used.load(Ordering::Relaxed) {
                known.used.store(true, Ordering::Relaxed);
            }
            return Some(known.host.clone());
        }
        drop(hosts);
        Some(self.add(cluster, wanted))
    }

    fn wanted(
        &self,
        cluster: &Cluster,
        info: &StreamInfo,
        request: Option<&RequestHead>,
    ) -> Option<SocketAddr> {
        let read = |text: &str| {
            let address: Option<SocketAddr> = text.parse().ok();
            if address.is_none() {
                cluster.stats.traffic.here().original_dst_host_invalid.inc();
            }
            address
        };
        let state = || [&info.filter_state, &info.connection.filter_state].into_iter();
        let of_state = state().find_map(|state| state.get(FILTER_STATE)?.to_text()?.parse().ok());
        of_state
            .or_else(|| {
                let MetadataPath { namespace, path } = self.metadata.as_ref()?;
                let mut all = [&info.metadata, &info.connection.metadata].into_iter();
                read(all.find_map(|metadata| text_of(metadata.value(namespace, path)?))?)
            })
            .or_else(|| match (self.header.as_ref()?, request?) {
                (RequestHeader::Named(name), request) => {
                    read(request.headers.get(name)?.to_str().unwrap_or_default())
                }
                (header, request) => read(header.first_in_request(request)?),
            })
            .or_else(|| info.connection.local.socket_addr().filter(|_| info.connection.local_restored))
    }

    #[cold]
    fn add(&self, cluster: &Cluster, address: SocketAddr) -> Arc<Host> {
        let mut hosts = self.hosts.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = hosts.known.get(&address) {
            return known.host.clone();
        }
        let mut host = Host::new(address.into());
        host.hostname = format!("{}{address}", cluster.name.as_str()).into();
        let host = Arc::new(host);
        cluster.transport.count(&Metadata::default());
        if hosts.known.len() >= MOST_HOSTS {
            hosts.make_room();
        }
        hosts.members.came(&host);
        hosts.known.insert(address, Known { host: host.clone(), used: AtomicBool::new(true) });
        count(cluster, &hosts.members);
        host
    }

    /// Forgets the hosts that nobody wanted since the last time and that have no connection.
    fn clean(&self, cluster: &Cluster) {
        let mut hosts = self.hosts.write().unwrap_or_else(PoisonError::into_inner);
        let Hosts { known, members, hand: _ } = &mut *hosts;
        let before = known.len();
        known.retain(|_, known| {
            let stays = known.stays();
            if !stays {
                members.left(&known.host);
            }
            stays
        });
        if known.len() < before {
            count(cluster, members);
        }
    }

    /// Counts the hosts after their health changed, and has `cluster` tell of it.
    pub(super) fn count_anew(&self, cluster: &Cluster) {
        let mut hosts = self.hosts.write().unwrap_or_else(PoisonError::into_inner);
        hosts.members = hosts.known.values().map(|known| &*known.host).collect();
        cluster.publish_members(&hosts.members);
    }

    /// The hosts that are known.
    pub(super) fn hosts(&self) -> Vec<Arc<Host>> {
        let hosts = self.hosts.read().unwrap_or_else(PoisonError::into_inner);
        hosts.known.values().map(|known| known.host.clone()).collect()
    }
}

impl Hosts {
    /// Looks at some hosts, after those that it looked at before, and forgets those that do not stay.
    fn make_room(&mut self) {
        for _ in 0..LOOKED_AT {
            if self.hand >= self.known.len() {
                self.hand = 0;
            }
            let Some((_, known)) = self.known.get_index_mut(self.hand) else { return };
            if known.stays() {
                self.hand += 1;
            } else if let Some((_, gone)) = self.known.swap_remove_index(self.hand) {
                // The last one takes its place, and is looked at next.
                self.members.left(&gone.host);
            }
        }
    }
}

impl Known {
    /// Whether somebody wanted it since it was last asked, or it has a connection.
    fn stays(&mut self) -> bool {
        std::mem::take(self.used.get_mut()) || self.host.is_in_use()
    }
}

/// The text of a value, or the first of a list of them.
fn text_of(value: &prost_types::Value) -> Option<&str> {
    match value.kind.as_ref()? {
        Kind::StringValue(text) => Some(text),
        Kind::ListValue(list) => match list.values.first()?.kind.as_ref()? {
            Kind::StringValue(text) => Some(text),
            _ => None,
        },
        _ => None,
    }
}

fn count(cluster: &Cluster, members: &Members) {
    cluster.stats.state.membership_change.inc();
    cluster.publish_members(members);
}

/// Forgets unused hosts of `cluster` for ever; returns at once for a cluster of another type.
pub async fn run(cluster: Arc<Cluster>) {
    let Discovery::OriginalDst(hosts) = &cluster.discovery else { return };
    loop {
        tokio::time::sleep(hosts.cleanup_interval).await;
        hosts.clean(&cluster);
    }
}

#[cfg(test)]
mod tests {
    use std::rc::Rc;
    use std::time::{Instant, SystemTime};

    use proxy_core::stream_info::ConnectionInfo;
    use proxy_core::upstream::HealthFlag;

    use super::super::tests::build;
    use super::*;

    fn cluster() -> Arc<Cluster> {
        let kind = ClusterDiscoveryType::Type(DiscoveryType::OriginalDst as i32);
        let proto = proto::Cluster {
            name: "c".into(),
            cluster_discovery_type: Some(kind),
            lb_policy: LbPolicy::ClusterProvided as i32,
            ..Default::default()
        };
        build(&proto).unwrap()
    }

    fn hosts(cluster: &Cluster) -> &OriginalDst {
        let Discovery::OriginalDst(hosts) = &cluster.discovery else { unreachable!() };
        hosts
    }

    /// One of many destinations.
    fn destination(number: usize) -> SocketAddr {
        let [.., a, b, c] = number.to_be_bytes();
        SocketAddr::from(([10, a, b, c], 80))
    }

    fn pick(cluster: &Cluster, number: usize) -> Arc<Host> {
        let (from, to) = (SocketAddr::from(([10, 0, 0, 1], 1)), destination(number));
        let mut info = ConnectionInfo::new(from.into(), from.into(), "l".into());
        info.restore_local(to.into());
        let info = StreamInfo::new(Rc::new(info), Instant::now(), SystemTime::now());
        hosts(cluster).pick(cluster, &info, None).unwrap()
    }

    fn connect(host: &Host, connections: u32) {
        host.active_connections.store(connections, Ordering::Relaxed);
    }

    #[test]
    fn a_host_stays_while_it_is_wanted_or_connected() {
        let cluster = cluster();
        let clean = || hosts(&cluster).clean(&cluster);
        let (one, two) = (pick(&cluster, 1), pick(&cluster, 2));
        assert!(Arc::ptr_eq(&one, &pick(&cluster, 1)));
        connect(&one, 1);
        clean();
        assert_eq!(cluster.known_hosts().len(), 2, "both were wanted");
        pick(&cluster, 2);
        clean();
        assert_eq!(cluster.known_hosts().len(), 2, "one is connected, the other was wanted");
        clean();
        assert_eq!(cluster.known_hosts().len(), 1);
        assert!(!Arc::ptr_eq(&two, &pick(&cluster, 2)), "another one");
        connect(&one, 0);
        clean();
        clean();
        assert!(cluster.known_hosts().is_empty());
        assert_eq!(cluster.stats.state.membership_total.value(), 0);
        // Three came; one went, one went, one went.
        assert_eq!(cluster.stats.state.membership_change.value(), 6);
    }

    #[test]
    fn gauges_tell_of_ejected_hosts() {
        let cluster = cluster();
        let gauges = || {
            let state = &cluster.stats.state;
            [&state.membership_total, &state.membership_healthy, &state.membership_degraded]
                .map(|gauge| gauge.value())
        };
        let (one, two) = (pick(&cluster, 1), pick(&cluster, 2));
        assert_eq!(gauges(), [2, 2, 0]);
        one.set_flag(HealthFlag::FailedOutlierCheck, true);
        cluster.refresh_hosts();
        assert_eq!(gauges(), [2, 1, 0]);
        two.set_flag(HealthFlag::DegradedOutlierDetection, true);
        cluster.refresh_hosts();
        assert_eq!(gauges(), [2, 0, 1]);
        connect(&pick(&cluster, 3), 1);
        assert_eq!(gauges(), [3, 1, 1]);
        (0..2).for_each(|_| hosts(&cluster).clean(&cluster));
        assert_eq!(gauges(), [1, 1, 0]);
    }

    #[test]
    fn clients_cannot_make_hosts_without_end() {
        let cluster = cluster();
        let known = || hosts(&cluster).hosts.read().unwrap().known.len();
        let held: Vec<_> = (0..MOST_HOSTS).map(|number| pick(&cluster, number)).collect();
        // All of them are connected: another is known as well, and found again, so that its connection is.
        held.iter().for_each(|host| connect(host, 1));
        let another = pick(&cluster, MOST_HOSTS);
        assert!(Arc::ptr_eq(&another, &pick(&cluster, MOST_HOSTS)));
        assert_eq!(known(), MOST_HOSTS + 1);
        // Nobody goes there any more: however many come, those that go make room. Those with a connection stay.
        held.iter().skip(1).for_each(|host| connect(host, 0));
        (0..4 * MOST_HOSTS).for_each(|number| drop(pick(&cluster, MOST_HOSTS + 1 + number)));
        assert!(known() < MOST_HOSTS + MOST_HOSTS / 8, "{}", known());
        assert!(Arc::ptr_eq(&held[0], &pick(&cluster, 0)));
    }

    #[test]
    fn one_more_host_looks_at_few() {
        let cluster = cluster();
        let pick = |number| connect(&pick(&cluster, number), 1);
        (0..=MOST_HOSTS).for_each(pick);
        let used = || {
            let hosts = hosts(&cluster).hosts.read().unwrap();
            hosts.known.values().filter(|known| known.used.load(Ordering::Relaxed)).count()
        };
        let before = used();
        pick(MOST_HOSTS + 1);
        assert_eq!(before + 1 - used(), LOOKED_AT);
    }

    #[test]
    fn metadata_name_a_host_by_text_or_a_list_of_it() {
        let text = |text: &str| prost_types::Value { kind: Some(Kind::StringValue(text.to_owned())) };
        let list =
            |values| prost_types::Value { kind: Some(Kind::ListValue(prost_types::ListValue { values })) };
        assert_eq!(text_of(&text("a")), Some("a"));
        assert_eq!(text_of(&list(vec![text("a"), text("b")])), Some("a"));
        assert_eq!(text_of(&list(vec![list(vec![text("a")])])), None);
        assert_eq!(text_of(&list(Vec::new())), None);
    }
}
