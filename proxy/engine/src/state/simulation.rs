//! Random sequences of deliveries, timeouts and drains, against a plain model of what has to serve.
//!
//! A schedule is bytes, four a step: from a seed (`SEED=n make sim` repeats one), or from a fuzzer. The model keeps two forms
//! of everything, the active and the warming one, and no indices: after each step the store has to hold the same, what is
//! published is what it holds, and its owner is told nothing that does not fit what it was told before.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a schedule that shows a fault fails"
)]

mod model;
mod resources;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use proxy_core::config::BuildEnv;
use xds_api::envoy::config::bootstrap::v3::Bootstrap;
use xds_api::read::{Options, Source as Text, read};

use self::model::Model;
use super::{Delivered, Effect, Kind, Phase, Response, Snapshot, Sockets, SourceId, Store};
use crate::listener::accept::ListenerTag;
use crate::listener::config::Listener;

const BOOTSTRAP: &str = "
dynamic_resources:
  ads_config: {api_type: GRPC, transport_api_version: V3, grpc_services: [{envoy_grpc: {cluster_name: xds}}]}
  cds_config: {ads: {}}
  lds_config: {ads: {}}
static_resources:
  clusters:
  - {name: xds, connect_timeout: 1s, type: STATIC}
";
const ADS: SourceId = SourceId(0);
const KINDS: [Kind; 4] = [Kind::Cluster, Kind::Endpoints, Kind::Listener, Kind::Routes];

/// The bytes of a schedule.
pub fn from_seed(seed: u64) -> Vec<u8> {
    let mut random = fastrand::Rng::with_seed(seed);
    let steps = random.usize(1..60);
    std::iter::repeat_with(|| random.u8(..)).take(4 * steps).collect()
}

/// Runs a schedule in `env`, which nobody else uses.
///
/// # Panics
/// The store and the model differ.
pub fn run(schedule: &[u8], env: BuildEnv) {
    let text = Text::yaml("simulation", BOOTSTRAP.as_bytes());
    let mut bootstrap = read::<Bootstrap>(&text, &Options::default()).unwrap().message;
    let mut store = Store::new(Arc::new(env));
    store.load(&mut bootstrap).unwrap();
    let mut owner = Owner::default();
    let effects = store.start(&mut owner.sockets).unwrap();
    owner.take(effects, &store);
    let mut model = Model::new();
    for step in schedule.as_chunks::<4>().0 {
        perform(*step, &mut store, &mut owner, &mut model);
        model.compare(&store);
    }
}

fn perform([action, what, how, more]: [u8; 4], store: &mut Store, owner: &mut Owner, model: &mut Model) {
    let kind = KINDS[usize::from(what) % KINDS.len()];
    match action % 16 {
        0..12 => {
            let (upserts, removed) = resources::delivery(kind, how, more);
            model.deliver(kind, &upserts, &removed);
            let delivered = upserts.iter().map(|resource| resource.delivered.clone()).collect();
            let response =
                Response { source: ADS, kind, version: "v".to_owned(), upserts: delivered, removed };
            let effects = store.apply(response, &mut owner.sockets);
            let verdicts = effects.iter().filter_map(|effect| match effect {
                Effect::Verdict { rejected } => Some(rejected.iter().map(|(name, _)| name.clone()).collect()),
                _ => None,
            });
            let verdicts: Vec<Vec<String>> = verdicts.collect();
            assert_eq!(verdicts, [model.take_rejected()]);
            model.drains(&owner.take(effects, store));
        }
        12 | 13 => {
            let name = match kind {
                Kind::Cluster | Kind::Listener => "*".to_owned(),
                Kind::Endpoints | Kind::Routes | Kind::Secret => resources::name(kind, how),
            };
            model.timeout(kind, &name);
            let effects = store.fetch_timeout(ADS, kind, &name);
            model.drains(&owner.take(effects, store));
        }
        _ => {
            let Some(id) = owner.draining.iter().nth(usize::from(how) % owner.draining.len().max(1)).copied()
            else {
                return;
            };
            owner.draining.remove(&id);
            model.drained(id);
            let effects = store.drained(id);
            model.drains(&owner.take(effects, store));
        }
    }
}

/// Whoever carries out the effects: notes them, and that they fit what was before.
#[derive(Default)]
struct Owner {
    sockets: Opened,
    subscribed: BTreeSet<(Kind, String)>,
    active: BTreeSet<ListenerTag>,
    draining: BTreeSet<u64>,
    published: Option<Arc<Snapshot>>,
    ready: bool,
}

#[derive(Default)]
struct Opened(BTreeMap<ListenerTag, usize>);

impl Sockets for Opened {
    fn open(&mut self, tag: ListenerTag, _: &Listener) -> Result<(), String> {
        assert!(self.0.insert(tag, 1).is_none(), "{tag} is bound twice");
        Ok(())
    }

    fn share(&mut self, from: ListenerTag, tag: ListenerTag, _: &Listener) -> Result<(), String> {
        assert!(self.0.contains_key(&from), "{from} is not bound");
        assert!(self.0.insert(tag, 1).is_none(), "{tag} is bound twice");
        Ok(())
    }
}

impl Owner {
    /// The drains that began, in their order.
    fn take(&mut self, effects: Vec<Effect>, store: &Store) -> Vec<u64> {
        let mut drains = Vec::new();
        for effect in effects {
            match effect {
                Effect::Subscribe { kind, names, .. } => {
                    for name in names {
                        assert!(
                            self.subscribed.insert((kind, name.clone())),
                            "{kind:?} {name} is asked for twice"
                        );
                    }
                }
                Effect::Unsubscribe { kind, names, .. } => {
                    for name in names {
                        assert!(
                            self.subscribed.remove(&(kind, name.clone())),
                            "{kind:?} {name} was not asked for"
                        );
                    }
                }
                Effect::Close { kind, .. } => {
                    let left = self.subscribed.iter().find(|(of, _)| *of == kind);
                    assert!(left.is_none(), "{left:?} is still wanted");
                }
                Effect::Publish(snapshot) => self.published = Some(snapshot),
                Effect::AddListener { tag, .. } => {
                    assert!(self.sockets.0.contains_key(&tag), "listener {tag} has no sockets");
                    assert!(self.active.insert(tag), "listener {tag} is added twice");
                }
                Effect::UpdateChains { tag, .. } => assert!(self.active.contains(&tag), "no listener {tag}"),
                Effect::RemoveListener { tag } => {
                    self.active.remove(&tag);
                    assert!(self.sockets.0.remove(&tag).is_some(), "listener {tag} is closed twice");
                }
                Effect::StartDrain { id } => {
                    assert!(self.draining.insert(id), "two drains {id}");
                    drains.push(id);
                }
                Effect::Ready => assert!(!std::mem::replace(&mut self.ready, true), "ready twice"),
                Effect::Verdict { .. } | Effect::HostsChanged(_) | Effect::ExpireEndpoints { .. } => {}
                Effect::StartDiscovery { .. }
                | Effect::StopDiscovery(_)
                | Effect::StartHealth { .. }
                | Effect::StopHealth(_)
                | Effect::WatchFiles { .. }
                | Effect::WatchFile { .. }
                | Effect::StopWatching(_) => {
                    panic!("hosts come from endpoints here, nobody checks them, and there is no secret")
                }
            }
        }
        assert_eq!(self.ready, store.phase() == Phase::Live);
        self.check_published(&store.snapshot());
        drains
    }

    /// The workers have what the store has.
    fn check_published(&self, now: &Snapshot) {
        let published = self.published.as_ref().expect("something is published at the start");
        let clusters = |snapshot: &Snapshot| -> BTreeMap<String, *const _> {
            let each = snapshot.clusters.iter().flatten();
            each.map(|cluster| (cluster.name.as_str().to_owned(), Arc::as_ptr(cluster))).collect()
        };
        assert_eq!(clusters(published), clusters(now), "clusters changed in silence");
        let routes = |snapshot: &Snapshot| -> Vec<(usize, *const _)> {
            let each = snapshot.routes.iter().enumerate();
            each.filter_map(|(slot, table)| Some((slot, Arc::as_ptr(table.as_ref()?)))).collect()
        };
        assert_eq!(routes(published), routes(now), "routes changed in silence");
    }
}

impl Resource {
    fn name(&self) -> &str {
        &self.delivered.name
    }
}

/// A resource as the model sees it.
#[derive(Clone, Debug)]
struct Resource {
    delivered: Delivered,
    /// What it is about.
    facts: Facts,
}

/// What the model has to know of a resource.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Facts {
    /// It breaks a constraint, and with it its response.
    Invalid,
    /// It cannot be built.
    Unbuildable,
    /// Its endpoints come from this service.
    Cluster {
        service: Option<String>,
    },
    Endpoints {
        ports: Vec<u16>,
    },
    /// Its routes come from there, or it names this cluster itself.
    Listener {
        port: u16,
        routes: Option<String>,
        cluster: Option<String>,
    },
    Routes,
}

#[cfg(test)]
mod tests {
    use proxy_core::config::BuildEnv;

    /// The endpoints were still asked for, and an answer to nobody's question made the cluster serve without hosts.
    #[test]
    fn a_cluster_that_takes_its_change_back_gives_up_the_endpoints() {
        #[rustfmt::skip]
        let schedule = [
            100, 120, 36, 33, // the cluster, static
            247, 204, 246, 62, // by EDS: waits
            100, 120, 36, 33, // static again: nothing waits
            38, 145, 69, 58, // endpoints that are refused
            247, 204, 246, 62, // by EDS: waits again
        ];
        super::run(&schedule, BuildEnv::new(1));
    }

    #[test]
    fn simulation_keeps_to_the_model() {
        simulate::each_seed(150, |seed| super::run(&super::from_seed(seed), BuildEnv::new(1)));
    }
}
