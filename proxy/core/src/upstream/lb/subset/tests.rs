//! Which hosts are picked for which labels.

use std::collections::BTreeSet;

use proptest::prelude::*;
use prost_types::value::Kind;
use prost_types::{ListValue, Struct, Value};
use xds_api::envoy::config::core::v3 as core;
use xds_api::envoy::config::core::v3::HealthStatus;

use super::*;
use crate::metadata::Metadata;
use crate::stats::Registry;
use crate::upstream::tests::endpoint;
use crate::upstream::{
    Assignment, HostHealth, HostSetOptions, LB_NAMESPACE, Locality, LocalityEndpoints, Policy,
    SubsetSelector, SubsetWeights,
};

fn value(text: &str) -> Value {
    let kind = match text.strip_prefix('[') {
        Some(list) => Kind::ListValue(ListValue {
            values: list.trim_end_matches(']').split('|').filter(|one| !one.is_empty()).map(value).collect(),
        }),
        None => Kind::StringValue(text.to_owned()),
    };
    Value { kind: Some(kind) }
}

/// `a=1 b=[2|3]`
fn fields(text: &str) -> Struct {
    let pairs = text.split_whitespace().map(|pair| pair.split_once('=').unwrap());
    Struct { fields: pairs.map(|(key, text)| (key.to_owned(), value(text))).collect() }
}

fn labels(text: &str) -> Labels {
    Labels::new(&fields(text))
}

/// `a,b`
fn selector(keys: &str, fallback: SelectorFallback) -> SubsetSelector {
    SubsetSelector { keys: keys.split(',').map(Box::from).collect(), fallback, single_host: false }
}

fn settings(selectors: impl IntoIterator<Item = SubsetSelector>) -> SubsetSettings {
    SubsetSettings {
        fallback: SubsetFallback::Nobody,
        default_subset: Labels::default(),
        selectors: selectors.into_iter().collect(),
        locality_weights: SubsetWeights::Ignored,
        panic_mode_any: false,
        list_as_any: false,
        metadata_fallback_list: false,
        allow_redundant_keys: false,
    }
}

/// A host for each line of labels, its port being the number of the line, counted from 1.
fn locality(zone: &str, weight: u32, first: u16, hosts: &[&str]) -> LocalityEndpoints {
    let endpoints = (first..).zip(hosts).map(|(port, text)| {
        let mut one = endpoint(port, 1, HostHealth::Healthy);
        let metadata = [(LB_NAMESPACE.to_owned(), fields(text))].into();
        let proto = core::Metadata { filter_metadata: metadata, ..core::Metadata::default() };
        one.metadata = Metadata::new(Some(&proto));
        one
    });
    let locality = Arc::new(Locality { zone: zone.into(), ..Locality::default() });
    LocalityEndpoints { locality, priority: 0, weight, endpoints: endpoints.collect() }
}

/// A cluster on one worker.
struct Fixture {
    settings: Arc<SubsetSettings>,
    hosts: Option<Arc<HostSet>>,
    stats: Cells<ClusterTrafficStats>,
    balancer: Box<dyn LoadBalancer>,
    random: fastrand::Rng,
}

impl Fixture {
    fn new(settings: SubsetSettings, hosts: &[&str]) -> Self {
        Self::with_localities(settings, false, vec![locality("", 0, 1, hosts)])
    }

    fn with_localities(
        settings: SubsetSettings,
        locality_weighted: bool,
        localities: Vec<LocalityEndpoints>,
    ) -> Self {
        let settings = Arc::new(settings);
        let inner = Scheme::Spread {
            policy: Policy::RoundRobin,
            locality_weighted,
            fail_on_panic: false,
            slow_start: None,
            zones: None,
        };
        let scheme = Scheme::Subsets { settings: settings.clone(), inner: Box::new(inner) };
        let stats = Registry::new(1).scope("cluster.c").cells();
        let balancer = scheme.balancer(&stats);
        let mut fixture =
            Self { settings, hosts: None, stats, balancer, random: fastrand::Rng::with_seed(7) };
        fixture.update(localities);
        fixture
    }

    fn update(&mut self, localities: Vec<LocalityEndpoints>) {
        let assignment = Assignment { localities, ..Assignment::default() };
        let options = HostSetOptions { subsets: Some(&self.settings), ..HostSetOptions::default() };
        self.hosts = Some(HostSet::update(self.hosts.as_deref(), &assignment, options).hosts);
    }

    fn pick_port(&mut self, labels: Option<&Labels>) -> Option<u16> {
        let mut cx = PickCx { labels, ..PickCx::new(&mut self.random) };
        self.balancer.pick(self.hosts.as_ref().unwrap(), &mut cx).map(|host| host.address.port().unwrap())
    }

    fn ports(&mut self, labels: &Labels) -> Vec<u16> {
        let picked: BTreeSet<u16> = (0..60).filter_map(|_| self.pick_port(Some(labels))).collect();
        picked.into_iter().collect()
    }

    fn ports_of(&mut self, text: &str) -> Vec<u16> {
        self.ports(&labels(text))
    }

    fn subsets(&self) -> &Subsets {
        self.hosts.as_ref().unwrap().subsets().unwrap()
    }

    /// The numbers of the host sets that these labels have.
    fn generations<const N: usize>(&self, labelled: [&str; N]) -> [u64; N] {
        labelled.map(|text| match &self.subsets().find(labels(text).code()).unwrap().hosts {
            SubsetHosts::Set(hosts) => hosts.generation(),
            SubsetHosts::One(_) => panic!("{text} is of one host"),
        })
    }
}

const NOBODY: [u16; 0] = [];
const HOSTS: &[&str] = &["v=1 s=x", "v=1 s=y", "v=2 s=x", "v=2", ""];

#[test]
fn requests_get_hosts_that_have_exactly_what_they_want() {
    let selectors =
        [selector("v", SelectorFallback::OfCluster), selector("s,v", SelectorFallback::OfCluster)];
    let mut all = Fixture::new(settings(selectors), HOSTS);
    assert_eq!(all.subsets().len(), 5);
    assert_eq!(all.ports_of("v=1"), [1, 2]);
    assert_eq!(all.ports_of("v=1 s=y"), [2]);
    for nothing in ["s=x", "v=3", "v=2 s=y", "v=1 s=x t=1", ""] {
        assert_eq!(all.ports_of(nothing), NOBODY, "{nothing}");
    }
    assert_eq!(all.pick_port(None), None);
    assert_eq!(all.stats.here().lb_subsets_selected.value(), 120);
}

#[test]
fn a_subset_in_which_nothing_changed_is_the_one_before() {
    let mut all = Fixture::new(settings([selector("v", SelectorFallback::OfCluster)]), HOSTS);
    let mut known = all.generations(["v=1", "v=2"]);
    type Change = fn(&mut LocalityEndpoints);
    let changes: [(&str, Change, [bool; 2]); 6] = [
        ("nothing", |_| {}, [false, false]),
        ("a weight", |all| all.endpoints[0].weight = 9, [true, false]),
        ("health", |all| all.endpoints[0].health = HealthStatus::Unhealthy, [true, false]),
        ("the order", |all| all.endpoints.swap(2, 3), [false, true]),
        ("a host without labels", |all| drop(all.endpoints.pop()), [false, false]),
        ("all of their locality", |all| all.weight = 7, [true, true]),
    ];
    let mut now = locality("", 0, 1, HOSTS);
    all.settings = Arc::new(SubsetSettings {
        locality_weights: SubsetWeights::Kept,
        ..SubsetSettings::clone(&all.settings)
    });
    for (what, change, changed) in changes {
        change(&mut now);
        all.update(vec![now.clone()]);
        let generations = all.generations(["v=1", "v=2"]);
        assert_eq!([0, 1].map(|index| generations[index] != known[index]), changed, "{what}");
        known = generations;
    }
    assert_eq!(all.ports_of("v=1"), [2]);
}

#[test]
fn the_cluster_says_who_gets_the_rest() {
    let selectors = || [selector("v", SelectorFallback::OfCluster)];
    let any = SubsetSettings { fallback: SubsetFallback::Any, ..settings(selectors()) };
    let mut any = Fixture::new(any, HOSTS);
    assert_eq!(any.ports_of("v=3"), [1, 2, 3, 4, 5]);
    assert_eq!(any.ports_of("v=2"), [3, 4]);
    assert!(any.pick_port(None).is_some());
    assert_eq!(any.stats.here().lb_subsets_fallback.value(), 61);

    let default = SubsetSettings {
        fallback: SubsetFallback::Default,
        default_subset: labels("s=x"),
        ..settings(selectors())
    };
    let mut default = Fixture::new(default, HOSTS);
    assert_eq!(default.ports_of("v=3"), [1, 3]);

    let panic = SubsetSettings {
        fallback: SubsetFallback::Default,
        default_subset: labels("s=z"),
        panic_mode_any: true,
        ..settings(selectors())
    };
    let mut panic = Fixture::new(panic, HOSTS);
    assert_eq!(panic.ports_of("v=3"), [1, 2, 3, 4, 5]);
    let stats = panic.stats.here();
    assert_eq!((stats.lb_subsets_fallback.value(), stats.lb_subsets_fallback_panic.value()), (0, 60));
}

#[test]
fn a_selector_says_who_gets_the_rest_of_its_own() {
    let to = |to| SelectorFallback::To(to);
    let selectors = [
        selector("v", to(SubsetFallback::Any)),
        selector("s,v", SelectorFallback::Keys(["s".into()].into())),
        selector("s", to(SubsetFallback::Default)),
        selector("t", to(SubsetFallback::Nobody)),
    ];
    let all = SubsetSettings {
        fallback: SubsetFallback::Any,
        default_subset: labels("v=2"),
        ..settings(selectors)
    };
    let mut all = Fixture::new(all, HOSTS);
    assert_eq!(all.ports_of("v=9"), [1, 2, 3, 4, 5]);
    assert_eq!(all.ports_of("v=9 s=x"), [1, 3]);
    // The keys of the third selector begin those of the second, so that the cluster says who gets what is left.
    assert_eq!(all.ports_of("v=9 s=z"), [1, 2, 3, 4, 5]);
    assert_eq!(all.ports_of("t=1"), NOBODY);
}

#[test]
fn labels_that_nobody_asks_for_matter_unless_they_may_be_there() {
    let selectors =
        || [selector("v,w", SelectorFallback::OfCluster), selector("v", SelectorFallback::OfCluster)];
    let redundant = SubsetSettings { allow_redundant_keys: true, ..settings(selectors()) };
    assert_eq!(Fixture::new(settings(selectors()), HOSTS).ports_of("v=1 z=1"), NOBODY);
    assert_eq!(Fixture::new(redundant, HOSTS).ports_of("a=0 v=1 z=1"), [1, 2]);
}

#[test]
fn a_list_stands_for_each_of_its_values_if_that_is_wanted() {
    let hosts = ["v=[1|2] s=[x|y]", "v=2 s=y", "v=[] s=x"];
    let selectors =
        || [selector("v", SelectorFallback::OfCluster), selector("s,v", SelectorFallback::OfCluster)];
    let any = SubsetSettings { list_as_any: true, ..settings(selectors()) };
    let mut any = Fixture::new(any, &hosts);
    assert_eq!(any.ports_of("v=2"), [1, 2]);
    assert_eq!(any.ports_of("v=1 s=y"), [1]);
    assert_eq!(any.ports_of("v=[1|2]"), NOBODY);
    assert_eq!(Fixture::new(settings(selectors()), &hosts).ports_of("v=[1|2]"), [1]);
}

#[test]
fn a_subset_may_be_of_one_host() {
    let single = SubsetSelector { single_host: true, ..selector("v", SelectorFallback::OfCluster) };
    let mut all = Fixture::new(settings([single]), HOSTS);
    assert_eq!((all.ports_of("v=1"), all.ports_of("v=2")), (vec![1], vec![3]));
    assert_eq!(all.subsets().duplicates, 2);
}

#[test]
fn a_request_may_say_what_to_try_in_turn() {
    let entry = |text| Value { kind: Some(Kind::StructValue(fields(text))) };
    let mut wanted = fields("v=1");
    let list = ListValue { values: vec![entry("v=7"), entry("v=2 s=x"), entry("")] };
    wanted.fields.insert("fallback_list".into(), Value { kind: Some(Kind::ListValue(list)) });
    let wanted = Labels::new(&wanted);
    let selectors =
        || [selector("v", SelectorFallback::OfCluster), selector("s,v", SelectorFallback::OfCluster)];
    let listed = SubsetSettings { metadata_fallback_list: true, ..settings(selectors()) };
    assert_eq!(Fixture::new(listed.clone(), HOSTS).ports(&wanted), [3]);
    assert_eq!(Fixture::new(listed, &HOSTS[..2]).ports(&wanted), [1, 2]);
    assert_eq!(Fixture::new(settings(selectors()), HOSTS).ports(&wanted), NOBODY, "a label like any other");
}

#[test]
fn localities_of_a_subset_weigh_as_much_as_is_left_of_them() {
    let shares = |locality_weights| {
        let settings =
            SubsetSettings { locality_weights, ..settings([selector("v", SelectorFallback::OfCluster)]) };
        let localities = vec![locality("a", 60, 1, &["v=1"]), locality("b", 60, 11, &["v=1", "v=2", "v=2"])];
        let mut all = Fixture::with_localities(settings, true, localities);
        let wanted = labels("v=1");
        (0..400).filter(|_| all.pick_port(Some(&wanted)) == Some(1)).count()
    };
    // Even among hosts, among localities, and three to one.
    assert_eq!(shares(SubsetWeights::Ignored), 200);
    assert_eq!(shares(SubsetWeights::Kept), 200);
    assert!(shares(SubsetWeights::Scaled).abs_diff(300) <= 1);
}

#[test]
fn subsets_come_and_go_with_their_hosts_and_keep_their_place() {
    let mut all =
        Fixture::new(settings([selector("v", SelectorFallback::OfCluster)]), &["v=1", "v=2", "v=2"]);
    all.ports_of("v=2");
    let before = all.hosts.clone().unwrap();
    let before = before.subsets().unwrap();
    let slot = |subsets: &Subsets, text: &str| subsets.find(labels(text).code()).map(|subset| subset.slot);
    all.update(vec![locality("", 0, 1, &["v=3", "v=2", "v=2", "v=4"])]);
    let now = all.subsets();
    assert_eq!((now.len(), now.not_in(Some(before)), before.not_in(Some(now))), (3, 2, 1));
    assert_eq!(slot(now, "v=2"), slot(before, "v=2"));
    assert_eq!(slot(now, "v=1"), None);
    assert!(now.slots() <= before.slots() + 1, "places are used again");
    assert_eq!(
        (all.ports_of("v=3"), all.ports_of("v=2"), all.ports_of("v=1")),
        (vec![1], vec![2, 3], vec![])
    );
}

proptest! {
    /// Who is picked for some labels is labelled so; and whoever is labelled so is picked.
    #[test]
    fn whoever_has_the_labels_is_picked_and_nobody_else(
        hosts in prop::collection::vec(prop::collection::btree_map("[ab]", "[12]", 0..3), 1..6),
        wanted in prop::collection::btree_map("[ab]", "[12]", 1..3),
    ) {
        let text = |map: &std::collections::BTreeMap<String, String>| -> String {
            map.iter().map(|(key, value)| format!("{key}={value} ")).collect()
        };
        let texts: Vec<String> = hosts.iter().map(text).collect();
        let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
        let selectors =
            ["a", "b", "a,b"].map(|keys| selector(keys, SelectorFallback::OfCluster));
        let picked = Fixture::new(settings(selectors), &texts).ports_of(&text(&wanted));
        let has = |host: &std::collections::BTreeMap<String, String>| wanted.iter().all(|(key, value)| host.get(key) == Some(value));
        let matching: Vec<u16> = (1..).zip(&hosts).filter(|(_, host)| has(host)).map(|(port, _)| port).collect();
        prop_assert_eq!(picked, matching);
    }
}
