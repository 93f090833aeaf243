//! What has to serve, worked out anew after every step from plain maps.

use std::collections::{BTreeMap, BTreeSet};

use super::{Facts, Kind, Phase, Resource, Store};

/// The two forms of something.
#[derive(Default)]
struct Forms {
    active: Option<Resource>,
    warming: Option<Resource>,
}

impl Forms {
    fn each(&self) -> impl Iterator<Item = &Resource> {
        self.active.iter().chain(&self.warming)
    }

    /// Takes a new form: the active one once more takes back what warms, what warms once more changes nothing.
    fn offer(&mut self, resource: &Resource) {
        let same =
            |form: &Option<Resource>| form.as_ref().is_some_and(|form| form.bytes() == resource.bytes());
        if same(&self.active) {
            self.warming = None;
        } else if !same(&self.warming) {
            self.warming = Some(resource.clone());
        }
    }

    fn holds(&self, resource: &Resource) -> bool {
        self.each().any(|form| form.bytes() == resource.bytes())
    }
}

pub(super) struct Model {
    phase: Phase,
    clusters: BTreeMap<String, Forms>,
    listeners: BTreeMap<String, Forms>,
    /// By name of those that a cluster needs: what came, and whether anybody still waits for a first answer.
    endpoints: BTreeMap<String, (Option<Resource>, bool)>,
    routes: BTreeMap<String, (Option<Resource>, bool)>,
    cds_answered: bool,
    lds_answered: bool,
    /// Forms of listeners that drain, with the number of the drain.
    draining: Vec<(Option<u64>, Resource)>,
    rejected: Vec<String>,
}

impl Resource {
    fn bytes(&self) -> &[u8] {
        &self.delivered.any.value
    }

    fn service(&self) -> Option<&String> {
        match &self.facts {
            Facts::Cluster { service } => service.as_ref(),
            _ => None,
        }
    }

    fn routes(&self) -> Option<&String> {
        match &self.facts {
            Facts::Listener { routes, .. } => routes.as_ref(),
            _ => None,
        }
    }
}

impl Model {
    pub(super) fn new() -> Self {
        let mut model = Self {
            phase: Phase::Clusters,
            clusters: BTreeMap::new(),
            listeners: BTreeMap::new(),
            endpoints: BTreeMap::new(),
            routes: BTreeMap::new(),
            cds_answered: false,
            lds_answered: false,
            draining: Vec::new(),
            rejected: Vec::new(),
        };
        model.advance();
        model
    }

    /// Who was rejected by the last delivery.
    pub(super) fn take_rejected(&mut self) -> Vec<String> {
        std::mem::take(&mut self.rejected)
    }

    /// These drains began, in the order in which the forms went.
    pub(super) fn drains(&mut self, ids: &[u64]) {
        let mut ids = ids.iter();
        for (drain, _) in self.draining.iter_mut().filter(|(drain, _)| drain.is_none()) {
            *drain = ids.next().copied();
            assert!(drain.is_some(), "something went without a drain");
        }
        assert_eq!(ids.next(), None, "a drain of nothing");
    }

    pub(super) fn drained(&mut self, id: u64) {
        self.draining.retain(|(drain, _)| *drain != Some(id));
        self.advance();
    }

    pub(super) fn timeout(&mut self, kind: Kind, name: &str) {
        match kind {
            Kind::Cluster => self.cds_answered = true,
            Kind::Listener => self.lds_answered = true,
            Kind::Endpoints => settle(&mut self.endpoints, name),
            Kind::Routes => settle(&mut self.routes, name),
            Kind::Secret => unreachable!("no secret is delivered here"),
        }
        self.advance();
    }

    pub(super) fn deliver(&mut self, kind: Kind, upserts: &[Resource], removed: &[String]) {
        let invalid = upserts.iter().any(|one| one.facts == Facts::Invalid);
        match kind {
            Kind::Cluster => self.cds_answered = true,
            Kind::Listener => self.lds_answered = true,
            Kind::Endpoints | Kind::Routes => {
                let waits = if kind == Kind::Endpoints { &mut self.endpoints } else { &mut self.routes };
                let gone = removed.iter().filter(|_| !invalid);
                for name in upserts.iter().map(Resource::name).chain(gone.map(String::as_str)) {
                    settle(waits, name);
                }
            }
            Kind::Secret => unreachable!("no secret is delivered here"),
        }
        if invalid {
            self.rejected.push(String::new());
        } else {
            self.apply(kind, upserts, removed);
        }
        self.advance();
    }

    fn apply(&mut self, kind: Kind, upserts: &[Resource], removed: &[String]) {
        match kind {
            Kind::Cluster => self.clusters.retain(|name, _| !removed.contains(name)),
            Kind::Listener => {
                for name in removed {
                    let gone = self.listeners.remove(name);
                    self.draining.extend(gone.and_then(|forms| forms.active).map(|form| (None, form)));
                }
            }
            // What was delivered stays.
            Kind::Endpoints | Kind::Routes => {}
            Kind::Secret => unreachable!("no secret is delivered here"),
        }
        for resource in upserts {
            let taken = match kind {
                Kind::Cluster => self.put_cluster(resource),
                Kind::Listener => self.put_listener(resource),
                Kind::Endpoints => put(&mut self.endpoints, resource),
                Kind::Routes => put(&mut self.routes, resource),
                Kind::Secret => unreachable!("no secret is delivered here"),
            };
            if !taken {
                self.rejected.push(resource.name().to_owned());
            }
        }
    }

    fn put_cluster(&mut self, resource: &Resource) -> bool {
        if resource.facts == Facts::Unbuildable {
            return false;
        }
        self.clusters.entry(resource.name().to_owned()).or_default().offer(resource);
        true
    }

    fn put_listener(&mut self, resource: &Resource) -> bool {
        let held = self.listeners.get(resource.name()).is_some_and(|forms| forms.holds(resource));
        let Facts::Listener { port, cluster, .. } = &resource.facts else { panic!("{resource:?}") };
        let others = self.listeners.iter().filter(|(name, _)| *name != resource.name());
        let conflicts = others
            .flat_map(|(_, forms)| forms.each())
            .any(|one| matches!(one.facts, Facts::Listener { port: other, .. } if other == *port));
        let dangles = cluster.as_ref().is_some_and(|name| name != "xds" && !self.clusters.contains_key(name));
        if !held && (conflicts || dangles) {
            return false;
        }
        self.listeners.entry(resource.name().to_owned()).or_default().offer(resource);
        true
    }

    /// Puts in force what is warm, as far as initialisation has come.
    fn advance(&mut self) {
        loop {
            self.forget_unneeded();
            for forms in self.clusters.values_mut() {
                let waits = |form: &mut Resource| {
                    form.service().is_some_and(|name| !is_settled(&self.endpoints, name))
                };
                if let Some(form) = forms.warming.take_if(|form| !waits(form)) {
                    forms.active = Some(form);
                }
            }
            self.forget_unneeded();
            let clusters_warm = self.clusters.values().all(|forms| forms.warming.is_none());
            let routes = &self.routes;
            let waits = |form: &Resource| form.routes().is_some_and(|name| !is_settled(routes, name));
            let listeners_warm =
                self.listeners.values().flat_map(|forms| &forms.warming).all(|form| !waits(form));
            match self.phase {
                Phase::Clusters if self.cds_answered && clusters_warm => self.phase = Phase::Listeners,
                Phase::Listeners if self.lds_answered && listeners_warm => self.phase = Phase::Live,
                Phase::Live => break,
                _ => return,
            }
        }
        for forms in self.listeners.values_mut() {
            let routes = &self.routes;
            let waits = |form: &mut Resource| form.routes().is_some_and(|name| !is_settled(routes, name));
            if let Some(form) = forms.warming.take_if(|form| !waits(form)) {
                self.draining.extend(forms.active.replace(form).map(|old| (None, old)));
            }
        }
        self.forget_unneeded();
    }

    fn forget_unneeded(&mut self) {
        let services = self.clusters.values().flat_map(Forms::each).filter_map(Resource::service);
        keep(&mut self.endpoints, &services.cloned().collect());
        let forms = self.listeners.values().flat_map(Forms::each);
        let forms = forms.chain(self.draining.iter().map(|(_, form)| form));
        keep(&mut self.routes, &forms.filter_map(Resource::routes).cloned().collect());
    }

    /// The store holds the same.
    pub(super) fn compare(&self, store: &Store) {
        assert_eq!(store.phase(), self.phase);
        let dump = store.dump();
        for (forms, found) in [(&self.clusters, &dump.clusters), (&self.listeners, &dump.listeners)] {
            let bytes = |form: &Option<super::super::dump::Resource>| {
                form.as_ref().map(|form| form.any.value.clone())
            };
            let found = found.iter().filter(|one| !one.is_static);
            let found = found.map(|one| (one.name.clone(), (bytes(&one.active), bytes(&one.warming))));
            let found = found.filter(|(_, (active, warming))| active.is_some() || warming.is_some());
            let bytes = |form: &Option<Resource>| form.as_ref().map(|form| form.bytes().to_vec());
            let expected =
                forms.iter().map(|(name, one)| (name.clone(), (bytes(&one.active), bytes(&one.warming))));
            assert_eq!(found.collect::<BTreeMap<_, _>>(), expected.collect::<BTreeMap<_, _>>());
        }
        let found = dump.routes.iter();
        let found =
            found.map(|one| (one.name.clone(), one.resource.as_ref().map(|form| form.any.value.clone())));
        let expected = self.routes.iter();
        let expected =
            expected.map(|(name, (form, _))| (name.clone(), form.as_ref().map(|form| form.bytes().to_vec())));
        assert_eq!(found.collect::<BTreeMap<_, _>>(), expected.collect::<BTreeMap<_, _>>());
        self.compare_hosts(store);
    }

    fn compare_hosts(&self, store: &Store) {
        let snapshot = store.snapshot();
        let active = self.clusters.iter().filter_map(|(name, forms)| Some((name, forms.active.as_ref()?)));
        for (name, form) in active {
            let cluster = snapshot.cluster(name).expect("an active cluster serves");
            let hosts: BTreeSet<u16> =
                cluster.hosts().hosts().filter_map(|host| host.address.port()).collect();
            let assigned = form.service().and_then(|service| self.endpoints.get(service)?.0.as_ref());
            let expected: BTreeSet<u16> = match assigned.map(|one| &one.facts) {
                Some(Facts::Endpoints { ports }) => ports.iter().copied().collect(),
                _ => BTreeSet::new(),
            };
            assert_eq!(hosts, expected, "hosts of {name}");
        }
    }
}

type Waits = BTreeMap<String, (Option<Resource>, bool)>;

fn settle(waits: &mut Waits, name: &str) {
    if let Some((_, settled)) = waits.get_mut(name) {
        *settled = true;
    }
}

fn is_settled(waits: &Waits, name: &str) -> bool {
    waits.get(name).is_some_and(|(_, settled)| *settled)
}

/// Takes what somebody needs.
fn put(waits: &mut Waits, resource: &Resource) -> bool {
    let Some((current, _)) = waits.get_mut(resource.name()) else {
        return true;
    };
    let is_good = resource.facts != Facts::Unbuildable;
    if is_good {
        *current = Some(resource.clone());
    }
    is_good
}

/// Forgets what nobody needs, and begins to wait for what somebody does.
fn keep(waits: &mut Waits, needed: &BTreeSet<String>) {
    waits.retain(|name, _| needed.contains(name));
    for name in needed {
        waits.entry(name.clone()).or_insert((None, false));
    }
}
