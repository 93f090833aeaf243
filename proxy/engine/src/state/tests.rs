//! Sequences of inputs and what the store makes of them.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use prost::Message;
use prost_types::Any;
use proxy_core::config::{BuildEnv, Constraints, Findings, ResourceCheck};
use xds_api::envoy::config::bootstrap::v3::Bootstrap;
use xds_api::envoy::config::cluster::v3::Cluster as ClusterProto;
use xds_api::envoy::config::endpoint::v3::ClusterLoadAssignment;
use xds_api::envoy::config::listener::v3::Listener as ListenerProto;
use xds_api::envoy::config::route::v3::RouteConfiguration;
use xds_api::read::{Options, Source as Text, read};

use super::*;

mod files;
mod secrets;

/// Binds nothing; addresses with port 1 are taken.
struct FakeSockets;

impl Sockets for FakeSockets {
    fn open(&mut self, _: ListenerTag, listener: &Listener) -> Result<(), String> {
        match listener.addresses.iter().find(|(address, _)| address.port() == Some(1)) {
            Some((address, _)) => Err(format!("cannot bind '{address}': Address already in use")),
            None => Ok(()),
        }
    }

    fn share(&mut self, _: ListenerTag, _: ListenerTag, _: &Listener) -> Result<(), String> {
        Ok(())
    }
}

fn message<M: Message + prost::Name + Default>(yaml: &str) -> M {
    read::<M>(&Text::yaml("test", yaml.as_bytes()), &Options::default()).unwrap().message
}

const BOOTSTRAP: &str = "
dynamic_resources:
  ads_config: {api_type: GRPC, transport_api_version: V3, grpc_services: [{envoy_grpc: {cluster_name: xds}}]}
  cds_config: {ads: {}}
  lds_config: {ads: {}}
static_resources:
  clusters:
  - {name: xds, connect_timeout: 1s, type: STATIC}
";

fn store(bootstrap: &str) -> Store {
    store_with(bootstrap, Arc::new(Constraints))
}

fn store_with(bootstrap: &str, checks: Arc<dyn ResourceCheck>) -> Store {
    let env = BuildEnv { checks, ..BuildEnv::new(1) };
    let mut store = Store::new(Arc::new(env));
    store.load(&mut message::<Bootstrap>(bootstrap)).unwrap();
    store
}

fn started() -> Store {
    let mut store = store(BOOTSTRAP);
    store.start(&mut FakeSockets).unwrap();
    store
}

const ADS: SourceId = SourceId(0);

fn delivered<M: Message>(kind: Kind, name: &str, message: &M) -> Delivered {
    let any = Any { type_url: kind.type_url().to_owned(), value: message.encode_to_vec() };
    Delivered { name: name.to_owned(), version: "1".to_owned(), any }
}

fn cluster(name: &str, timeout: u32) -> Delivered {
    let yaml = format!(
        "{{name: {name}, connect_timeout: {timeout}s, type: EDS, eds_cluster_config: {{service_name: s, eds_config: {{ads: {{}}}}}}}}"
    );
    delivered(Kind::Cluster, name, &message::<ClusterProto>(&yaml))
}

fn bad_cluster(name: &str) -> Delivered {
    let yaml = format!("{{name: {name}, connect_timeout: 1s, type: EDS}}");
    delivered(Kind::Cluster, name, &message::<ClusterProto>(&yaml))
}

fn endpoints(port: u32) -> Delivered {
    let yaml = format!(
        "{{cluster_name: s, endpoints: [{{lb_endpoints: [{{endpoint: {{address: {{socket_address: {{address: 127.0.0.1, port_value: {port}}}}}}}}}]}}]}}"
    );
    delivered(Kind::Endpoints, "s", &message::<ClusterLoadAssignment>(&yaml))
}

fn listener(name: &str, port: u32, prefix: &str, routes: &str) -> Delivered {
    delivered(Kind::Listener, name, &listener_proto(name, port, prefix, routes))
}

fn listener_proto(name: &str, port: u32, prefix: &str, routes: &str) -> ListenerProto {
    let yaml = format!(
        "
name: {name}
address: {{socket_address: {{address: 127.0.0.1, port_value: {port}}}}}
filter_chains:
- filters:
  - name: hcm
    typed_config:
      \"@type\": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
      stat_prefix: {prefix}
      http_filters:
      - {{name: r, typed_config: {{\"@type\": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}}}}
      {routes}
"
    );
    message(&yaml)
}

const RDS: &str = "rds: {route_config_name: r, config_source: {ads: {}}}";
const UNKNOWN: &str = "route_config: {virtual_hosts: [{name: v, domains: ['*'], routes: [{match: {prefix: /}, route: {cluster: nope}}]}]}";

fn routes(cluster: &str) -> Delivered {
    let yaml = format!(
        "{{name: r, virtual_hosts: [{{name: v, domains: ['*'], routes: [{{match: {{prefix: /}}, route: {{cluster: {cluster}}}}}]}}]}}"
    );
    delivered(Kind::Routes, "r", &message::<RouteConfiguration>(&yaml))
}

fn apply(store: &mut Store, kind: Kind, upserts: Vec<Delivered>, removed: &[&str]) -> Vec<Effect> {
    let removed = removed.iter().map(|name| (*name).to_owned()).collect();
    let response = Response { source: ADS, kind, version: "v".to_owned(), upserts, removed };
    store.apply(response, &mut FakeSockets)
}

/// One word for each effect.
fn words(effects: &[Effect]) -> Vec<String> {
    let word = |effect: &Effect| match effect {
        Effect::Subscribe { kind, names, .. } => format!("+{kind:?} {}", names.join(",")),
        Effect::Unsubscribe { kind, names, .. } => format!("-{kind:?} {}", names.join(",")),
        Effect::Close { kind, .. } => format!("close {kind:?}"),
        Effect::Verdict { rejected } => {
            let names: Vec<&str> = rejected.iter().map(|(name, _)| name.as_str()).collect();
            format!("verdict {}", names.join(",")).trim_end().to_owned()
        }
        Effect::Publish(_) => "publish".to_owned(),
        Effect::HostsChanged(_) => "hosts".to_owned(),
        Effect::StartDiscovery { .. } => "dns".to_owned(),
        Effect::StopDiscovery(_) => "stop dns".to_owned(),
        Effect::StartHealth { .. } => "health".to_owned(),
        Effect::StopHealth(_) => "stop health".to_owned(),
        Effect::AddListener { .. } => "add".to_owned(),
        Effect::UpdateChains { .. } => "chains".to_owned(),
        Effect::RemoveListener { .. } => "remove".to_owned(),
        Effect::StartDrain { .. } => "drain".to_owned(),
        Effect::ExpireEndpoints { after, .. } => format!("expire endpoints after {after:?}"),
        Effect::WatchFiles { .. } | Effect::WatchFile { .. } => "watch".to_owned(),
        Effect::StopWatching(_) => "stop watching".to_owned(),
        Effect::Ready => "ready".to_owned(),
    };
    effects.iter().map(word).collect()
}

/// Clusters, endpoints, a listener and its routes have come.
fn live() -> Store {
    let mut store = started();
    apply(&mut store, Kind::Cluster, vec![cluster("a", 1)], &[]);
    apply(&mut store, Kind::Endpoints, vec![endpoints(80)], &[]);
    apply(&mut store, Kind::Listener, vec![listener("l", 0, "p", RDS)], &[]);
    apply(&mut store, Kind::Routes, vec![routes("a")], &[]);
    assert_eq!(store.phase(), Phase::Live);
    store
}

fn hosts(store: &Store, name: &str) -> Option<usize> {
    store.snapshot().cluster(name).map(|cluster| cluster.hosts().hosts().count())
}

#[test]
fn initialisation_goes_from_clusters_to_listeners() {
    let mut store = store(BOOTSTRAP);
    let effects = store.start(&mut FakeSockets).unwrap();
    assert_eq!(words(&effects), ["+Cluster *", "publish"]);
    let effects = apply(&mut store, Kind::Cluster, vec![cluster("a", 1)], &[]);
    assert_eq!(words(&effects), ["+Endpoints s", "verdict"], "endpoints are asked for before the answer");
    assert_eq!(hosts(&store, "a"), None, "a warming cluster does not serve");
    let effects = apply(&mut store, Kind::Endpoints, vec![endpoints(80)], &[]);
    assert_eq!(words(&effects), ["+Listener *", "verdict", "publish"]);
    let effects = apply(&mut store, Kind::Listener, vec![listener("l", 0, "p", RDS)], &[]);
    assert_eq!(words(&effects), ["+Routes r", "verdict"]);
    let effects = apply(&mut store, Kind::Routes, vec![routes("a")], &[]);
    assert_eq!(words(&effects), ["verdict", "publish", "add", "ready"]);
    assert_eq!(hosts(&store, "a"), Some(1));
}

#[test]
fn without_sources_everything_static_serves_at_once() {
    let mut store = store("static_resources: {clusters: [{name: a, connect_timeout: 1s, type: STATIC}]}");
    assert_eq!(words(&store.start(&mut FakeSockets).unwrap()), ["publish", "ready"]);
}

#[test]
fn timeouts_end_the_waiting() {
    let mut store = started();
    let effects = store.fetch_timeout(ADS, Kind::Cluster, "*");
    assert_eq!(words(&effects), ["+Listener *"]);
    apply(&mut store, Kind::Listener, vec![listener("l", 0, "p", RDS)], &[]);
    let effects = store.fetch_timeout(ADS, Kind::Routes, "r");
    assert_eq!(words(&effects), ["add", "ready"]);
    apply(&mut store, Kind::Cluster, vec![cluster("a", 1)], &[]);
    assert_eq!(hosts(&store, "a"), None);
    store.fetch_timeout(ADS, Kind::Endpoints, "s");
    assert_eq!(hosts(&store, "a"), Some(0));
    // who comes later does not wait for an answer that is not coming
    apply(&mut store, Kind::Cluster, vec![cluster("a", 2)], &[]);
    assert!(store.dump().clusters[0].warming.is_none());
}

#[test]
fn the_good_ones_of_a_response_apply_and_the_bad_keep_the_old() {
    let mut store = live();
    let before = store.snapshot().cluster("a").unwrap().clone();
    let effects = apply(&mut store, Kind::Cluster, vec![bad_cluster("a"), cluster("b", 1)], &[]);
    assert_eq!(words(&effects), ["verdict a", "publish"]);
    let Effect::Verdict { rejected } = &effects[0] else { panic!("no verdict") };
    assert!(rejected[0].1.contains("cannot create an EDS cluster without an EDS config"), "{rejected:?}");
    assert!(Arc::ptr_eq(&before, store.snapshot().cluster("a").unwrap()));
    assert_eq!(hosts(&store, "b"), Some(1), "a second subscriber of an assignment warms at once");
    assert!(store.dump().clusters[0].error.is_some());
}

#[test]
fn what_breaks_a_constraint_rejects_the_whole_response() {
    let mut store = live();
    let broken = ClusterProto {
        name: "b".to_owned(),
        connect_timeout: Some(prost_types::Duration::default()),
        ..Default::default()
    };
    let response = vec![cluster("c", 1), delivered(Kind::Cluster, "b", &broken)];
    let effects = apply(&mut store, Kind::Cluster, response, &["a"]);
    let Effect::Verdict { rejected } = &effects[0] else { panic!("no verdict") };
    assert_eq!(rejected[0].0, "");
    assert_eq!((hosts(&store, "a"), hosts(&store, "c")), (Some(1), None));
}

#[test]
fn the_same_bytes_change_nothing() {
    let mut store = live();
    for (kind, same) in [
        (Kind::Cluster, cluster("a", 1)),
        (Kind::Endpoints, endpoints(80)),
        (Kind::Listener, listener("l", 0, "p", RDS)),
        (Kind::Routes, routes("a")),
    ] {
        assert_eq!(words(&apply(&mut store, kind, vec![same], &[])), ["verdict"], "{kind:?}");
    }
}

/// Counts what is read: every resource is checked before it is decoded.
#[derive(Default)]
struct Counting(AtomicUsize);

impl ResourceCheck for Counting {
    fn check(&self, type_url: &str, bytes: &[u8]) -> Findings {
        self.0.fetch_add(1, Ordering::Relaxed);
        Constraints.check(type_url, bytes)
    }
}

#[test]
fn only_what_changed_is_read() {
    let checks = Arc::new(Counting::default());
    let mut store = store_with(BOOTSTRAP, checks.clone());
    store.start(&mut FakeSockets).unwrap();
    let read = |store: &mut Store, kind, upserts: Vec<Delivered>| {
        let effects = apply(store, kind, upserts, &[]);
        assert_eq!(words(&effects).iter().filter(|word| *word == "verdict").count(), 1, "{kind:?}");
        checks.0.swap(0, Ordering::Relaxed)
    };
    let clusters = |timeout| -> Vec<Delivered> {
        let names = (0..100).map(|index| (format!("c{index}"), if index == 7 { timeout } else { 1 }));
        names.map(|(name, timeout)| cluster(&name, timeout)).collect()
    };
    assert_eq!(read(&mut store, Kind::Cluster, clusters(1)), 100);
    assert_eq!(read(&mut store, Kind::Cluster, clusters(1)), 0, "those that warm are held as well");
    assert_eq!(read(&mut store, Kind::Endpoints, vec![endpoints(80)]), 1);
    assert_eq!(read(&mut store, Kind::Endpoints, vec![endpoints(80)]), 0);
    assert_eq!(read(&mut store, Kind::Endpoints, vec![endpoints(81)]), 1);
    assert_eq!(read(&mut store, Kind::Cluster, clusters(2)), 1);
    assert_eq!(read(&mut store, Kind::Cluster, clusters(1)), 1, "what was replaced is held no longer");
    let listeners = |prefix| vec![listener("l", 0, "p", RDS), listener("m", 0, prefix, RDS)];
    assert_eq!(read(&mut store, Kind::Listener, listeners("p")), 2);
    assert_eq!(read(&mut store, Kind::Routes, vec![routes("c1")]), 1);
    assert_eq!(read(&mut store, Kind::Listener, listeners("q")), 1);
    assert_eq!(read(&mut store, Kind::Routes, vec![routes("c1")]), 0);
    assert_eq!(read(&mut store, Kind::Routes, vec![routes("c2")]), 1);
    apply(&mut store, Kind::Cluster, vec![], &["c3"]);
    assert_eq!(read(&mut store, Kind::Cluster, clusters(1)), 1, "what was removed is held no longer");
}

#[test]
fn what_is_held_and_removed_at_once_comes_back() {
    let mut store = live();
    let effects = apply(&mut store, Kind::Cluster, vec![cluster("a", 1)], &["a"]);
    assert!(words(&effects).contains(&"verdict".to_owned()), "{:?}", words(&effects));
    assert!(store.clusters.has("a"));
}

#[test]
fn a_rejected_form_is_forgotten_when_the_one_in_force_is_repeated() {
    let mut store = live();
    let updated = |store: &Store| store.dump().clusters[0].active.as_ref().unwrap().updated;
    let before = updated(&store);
    store.set_time(std::time::SystemTime::now());
    apply(&mut store, Kind::Cluster, vec![bad_cluster("a")], &[]);
    assert!(store.dump().clusters[0].error.is_some());
    let bad = bad_cluster("a");
    let effects = apply(&mut store, Kind::Cluster, vec![bad], &[]);
    assert_eq!(words(&effects), ["verdict a"], "what was rejected is not held");
    apply(&mut store, Kind::Cluster, vec![cluster("a", 1)], &[]);
    assert!(store.dump().clusters[0].error.is_none());
    assert_eq!(updated(&store), before);
}

#[test]
fn a_changed_listener_replaces_or_updates_and_the_old_drains() {
    let mut store = live();
    let effects = apply(&mut store, Kind::Listener, vec![listener("l", 0, "q", RDS)], &[]);
    assert_eq!(words(&effects), ["verdict", "chains", "drain"], "only chains differ");
    let effects = apply(&mut store, Kind::Listener, vec![listener("l", 2, "q", RDS)], &[]);
    assert_eq!(words(&effects), ["verdict", "add", "remove", "drain"]);
    let effects = apply(&mut store, Kind::Listener, vec![listener("l", 1, "q", RDS)], &[]);
    assert_eq!(words(&effects), ["verdict l"], "the address is taken");
    let Effect::Verdict { rejected } = &effects[0] else { panic!("no verdict") };
    assert_eq!(rejected[0].1, "cannot bind '127.0.0.1:1': Address already in use");
}

#[test]
fn an_update_that_takes_no_chain_away_drains_nothing() {
    let mut store = live();
    let mut proto = listener_proto("l", 0, "p", RDS);
    let mut further = proto.filter_chains[0].clone();
    further.filter_chain_match.get_or_insert_default().destination_port = Some(80);
    proto.filter_chains.push(further);
    let effects = apply(&mut store, Kind::Listener, vec![delivered(Kind::Listener, "l", &proto)], &[]);
    assert_eq!(words(&effects), ["verdict", "chains"]);
}

#[test]
fn routes_stay_subscribed_until_the_last_listener_has_drained() {
    let mut store = live();
    let effects = apply(&mut store, Kind::Listener, vec![], &["l"]);
    assert_eq!(words(&effects), ["verdict", "remove", "drain"]);
    let Some(Effect::StartDrain { id }) = effects.last() else { panic!("no drain") };
    assert_eq!(words(&store.drained(*id)), ["-Routes r", "close Routes", "publish"]);
}

#[test]
fn removed_clusters_go_and_so_does_the_interest() {
    let mut store = live();
    let effects = apply(&mut store, Kind::Cluster, vec![], &["a", "xds"]);
    assert_eq!(words(&effects), ["-Endpoints s", "close Endpoints", "verdict", "publish"]);
    assert_eq!((hosts(&store, "a"), hosts(&store, "xds")), (None, Some(0)), "static clusters stay");
}

#[test]
fn inline_routes_to_unknown_clusters_are_rejected() {
    let mut store = live();
    let effects = apply(&mut store, Kind::Listener, vec![listener("m", 3, "p", UNKNOWN)], &[]);
    let Effect::Verdict { rejected } = &effects[0] else { panic!("no verdict") };
    assert_eq!(rejected[0].1, "route: unknown cluster 'nope'");
}

#[test]
fn two_listeners_cannot_have_one_address() {
    let mut store = live();
    apply(&mut store, Kind::Listener, vec![listener("m", 3, "p", RDS)], &[]);
    let effects = apply(&mut store, Kind::Listener, vec![listener("k", 3, "p", RDS)], &[]);
    assert_eq!(words(&effects), ["verdict k"]);
}
