//! What consistent hashing promises; that the tables are Envoy's is for the differential tests to show.

use std::sync::atomic::Ordering;

use proptest::prelude::*;

use super::*;
use crate::upstream::tests::endpoint;
use crate::upstream::{Assignment, HostHealth, HostSetOptions, Locality, LocalityEndpoints};

const RING: HashTableKind =
    HashTableKind::Ring { minimum: 1024, maximum: 8 << 20, function: HashFunction::XxHash };
const MAGLEV: HashTableKind = HashTableKind::Maglev { size: 65_537 };

fn hashing(table: HashTableKind) -> Hashing {
    Hashing { table, use_hostname: false, balance_factor: None, locality_weighted: false }
}

fn set(hosts: impl IntoIterator<Item = (u16, u32)>, hashing: &Hashing) -> Arc<HostSet> {
    let endpoints =
        hosts.into_iter().map(|(port, weight)| endpoint(port, weight, HostHealth::Healthy)).collect();
    let locality = LocalityEndpoints { locality: Locality::nowhere(), priority: 0, weight: 0, endpoints };
    let assignment = Assignment { localities: vec![locality], ..Assignment::default() };
    let options = HostSetOptions { hashing: Some(hashing), ..HostSetOptions::default() };
    HostSet::update(None, &assignment, options).hosts
}

fn pick(hosts: &HostSet, hashing: &Hashing, hash: u64, active_requests: u32) -> Option<Arc<Host>> {
    let mut random = fastrand::Rng::with_seed(1);
    let mut cx = PickCx { hash: Some(hash), active_requests, ..PickCx::new(&mut random) };
    HashBalancer::new(hashing).pick(hosts, &mut cx)
}

fn port(hosts: &HostSet, hashing: &Hashing, key: u64) -> u16 {
    let hash = crate::hash::xxhash64(&key.to_le_bytes());
    pick(hosts, hashing, hash, 0).and_then(|host| host.address.port()).unwrap()
}

#[test]
fn nothing_is_picked_of_nothing() {
    for table in [RING, MAGLEV] {
        let hashing = hashing(table);
        let hosts = set([], &hashing);
        assert!(pick(&hosts, &hashing, 7, 0).is_none());
        assert_eq!(hosts.tables().unwrap().counts(), None);
    }
}

#[test]
fn one_host_has_it_all() {
    let counts = |table| set([(1, 5)], &hashing(table)).tables().unwrap().counts();
    assert_eq!(counts(RING), Some(EntryCounts { size: 1024, least: 1024, most: 1024 }));
    assert_eq!(counts(MAGLEV), Some(EntryCounts { size: 65_537, least: 1, most: 1 }));
}

#[test]
fn ends_of_the_ring_belong_to_its_first_place() {
    let hashing =
        hashing(HashTableKind::Ring { minimum: 1, maximum: 10, function: HashFunction::MurmurHash2 });
    let hosts = set((1..=3).map(|port| (port, 1)), &hashing);
    let pick = |hash| pick(&hosts, &hashing, hash, 0).unwrap();
    assert!(Arc::ptr_eq(&pick(0), &pick(u64::MAX)));
    assert_eq!(hosts.tables().unwrap().counts(), Some(EntryCounts { size: 3, least: 1, most: 1 }));
}

#[test]
fn a_full_host_leaves_requests_to_others_always_the_same_ones() {
    for table in [RING, MAGLEV] {
        let hashing = Hashing { balance_factor: Some(125), ..hashing(table) };
        let hosts = set((1..=10).map(|port| (port, 1)), &hashing);
        let first = pick(&hosts, &hashing, 99, 0).unwrap();
        first.active_requests.store(10, Ordering::Relaxed);
        let second = pick(&hosts, &hashing, 99, 10).unwrap();
        assert!(!Arc::ptr_eq(&first, &second));
        assert!(Arc::ptr_eq(&second, &pick(&hosts, &hashing, 99, 10).unwrap()));
        // Where all are full, the least full one has it.
        hosts.hosts().for_each(|host| host.active_requests.store(1000, Ordering::Relaxed));
        second.active_requests.store(999, Ordering::Relaxed);
        assert!(Arc::ptr_eq(&second, &pick(&hosts, &hashing, 99, 0).unwrap()));
        hosts.hosts().for_each(|host| host.active_requests.store(0, Ordering::Relaxed));
        assert!(Arc::ptr_eq(&first, &pick(&hosts, &hashing, 99, 0).unwrap()));
    }
}

#[test]
fn tables_of_many_hosts_are_small() {
    let widths = [(1 << 8, 1), (1 << 16, 2), ((1 << 16) + 1, 4)];
    for (hosts, bytes) in widths {
        let width = match Indices::new(&[0], hosts) {
            Indices::Few(_) => 1,
            Indices::Many(_) => 2,
            Indices::Any(_) => 4,
        };
        assert_eq!(width, bytes, "{hosts} hosts");
    }
}

fn table() -> impl Strategy<Value = HashTableKind> {
    let function = prop_oneof![Just(HashFunction::XxHash), Just(HashFunction::MurmurHash2)];
    prop_oneof![
        function.prop_map(|function| HashTableKind::Ring { minimum: 1024, maximum: 8 << 20, function }),
        prop_oneof![Just(2503u32), Just(65_537)].prop_map(|size| HashTableKind::Maglev { size }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    /// The entries of a table fall on hosts as their weights say; whatever the order of the hosts, keys go to the same.
    #[test]
    fn entries_follow_weights(weights in prop::collection::vec(1u32..9, 2..12), table in table()) {
        let hashing = hashing(table);
        let named: Vec<(u16, u32)> = (1u16..).zip(weights.iter().copied()).collect();
        let hosts = set(named.clone(), &hashing);
        let counts = hosts.tables().unwrap().counts().unwrap();
        let total: u32 = weights.iter().sum();
        let of = |weight: u32| counts.size as f64 * f64::from(weight) / f64::from(total);
        let (least, most) = (*weights.iter().min().unwrap(), *weights.iter().max().unwrap());
        let slack = if matches!(table, HashTableKind::Ring { .. }) { 2.0 } else { f64::from(most) + 1.0 };
        prop_assert!((counts.least as f64 - of(least)).abs() <= slack, "{counts:?} {weights:?}");
        prop_assert!((counts.most as f64 - of(most)).abs() <= slack, "{counts:?} {weights:?}");
        if weights.iter().all(|weight| *weight == least) || matches!(table, HashTableKind::Maglev { .. }) {
            let turned = set(named.into_iter().rev(), &hashing);
            for key in 0..200 {
                prop_assert_eq!(port(&hosts, &hashing, key), port(&turned, &hashing, key));
            }
        }
    }

    /// A host that goes takes only its own keys with it: all of the others stay on a ring, nearly all in a table of Maglev.
    #[test]
    fn hosts_that_stay_keep_their_keys(count in 2u16..20, gone in 0u16..20, table in table()) {
        let hashing = hashing(table);
        let gone = gone % count + 1;
        let before = set((1..=count).map(|port| (port, 1)), &hashing);
        let after = set((1..=count).filter(|port| *port != gone).map(|port| (port, 1)), &hashing);
        let (mut kept, mut moved) = (0, 0);
        for key in 0..1000 {
            let (was, is) = (port(&before, &hashing, key), port(&after, &hashing, key));
            prop_assert!(is != gone);
            if was != gone {
                kept += 1;
                moved += usize::from(was != is);
            }
        }
        // (Rings get other numbers of places with other numbers of hosts.)
        prop_assert!(moved * 4 <= kept + 20, "{moved} of {kept} moved");
    }
}
