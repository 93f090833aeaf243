//! The priorities of several clusters in a row, as if they were those of one: what an aggregate cluster shares its load among.
//!
//! A priority without hosts is not in the row. Which cluster and priority gets a request is decided here, which of its hosts by the cluster
//! itself. Source: Envoy `docs/root/intro/arch_overview/upstream/aggregate_cluster.rst`.

use std::rc::Rc;

use super::HostSet;
use super::lb::{Availability, choose_by_load};
use super::priority::{Capacity, Load, share, share_without};

/// The row; empty where no cluster has a host.
#[derive(Debug, Default)]
pub struct LinearPriorities {
    rows: Box<[Row]>,
    capacity: Box<[Capacity]>,
    loads: Box<[Load]>,
}

/// One priority of one of the clusters.
#[derive(Debug)]
struct Row {
    member: usize,
    /// All load on the healthy, and on the degraded hosts of the priority.
    healthy: Rc<[Load]>,
    degraded: Rc<[Load]>,
}

/// The priority of a request.
#[derive(Clone, Debug)]
pub struct LinearPick {
    /// Which of the clusters it is of.
    pub member: usize,
    /// Its place in the row.
    pub place: usize,
    /// How the cluster is to share its load among its priorities.
    pub loads: Rc<[Load]>,
}

impl LinearPriorities {
    /// Puts the priorities of `sets` in a row: those of each cluster that is there.
    ///
    /// `panic_threshold` is in percent; 0 turns panic off.
    pub fn new<'h>(sets: impl Iterator<Item = Option<&'h HostSet>>, panic_threshold: u32) -> Self {
        let (mut rows, mut capacity) = (Vec::new(), Vec::new());
        for (member, set) in sets.enumerate() {
            let Some(set) = set else { continue };
            let priorities = set.priorities();
            for (index, priority) in priorities.iter().enumerate() {
                if priority.hosts.all.is_empty() {
                    continue;
                }
                let all_to = |load: Load| {
                    let mut loads = vec![Load::default(); priorities.len()];
                    loads[index] = load;
                    Rc::from(loads)
                };
                rows.push(Row {
                    member,
                    healthy: all_to(Load { healthy: 100, ..Load::default() }),
                    degraded: all_to(Load { degraded: 100, ..Load::default() }),
                });
                capacity.push(Capacity::new(&priority.hosts, set.policy()));
            }
        }
        let loads = share(&capacity, panic_threshold).into();
        Self { rows: rows.into(), capacity: capacity.into(), loads }
    }

    /// The priority for a request with random number `random`; `loads` in place of the usual, for one that is sent again.
    pub fn pick(&self, loads: Option<&[Load]>, random: u64) -> Option<LinearPick> {
        let loads = loads.filter(|loads| loads.len() == self.rows.len()).unwrap_or(&self.loads);
        let (place, availability) = choose_by_load(loads.iter(), random)?;
        let row = self.rows.get(place)?;
        let loads = match availability {
            Availability::Healthy => &row.healthy,
            Availability::Degraded => &row.degraded,
        };
        Some(LinearPick { member: row.member, place, loads: loads.clone() })
    }

    /// How the load is shared when these places are to be avoided; `None` if no other can take any.
    pub fn loads_without(&self, excluded: &dyn Fn(usize) -> bool) -> Option<Vec<Load>> {
        share_without(&self.capacity, excluded)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use proptest::prelude::*;

    use super::*;
    use crate::upstream::tests::endpoint;
    use crate::upstream::{
        Assignment, AssignmentPolicy, HostHealth, HostSetOptions, Locality, LocalityEndpoints,
    };

    /// A cluster by the health of the hosts of each priority.
    fn set(priorities: &[&[HostHealth]]) -> Arc<HostSet> {
        set_with(priorities, AssignmentPolicy::default())
    }

    fn set_with(priorities: &[&[HostHealth]], policy: AssignmentPolicy) -> Arc<HostSet> {
        let of = |(priority, health): (usize, &&[HostHealth])| LocalityEndpoints {
            locality: Locality::nowhere(),
            priority: priority as u32,
            weight: 0,
            endpoints: health
                .iter()
                .enumerate()
                .map(|(at, health)| endpoint((1000 * priority + at + 1) as u16, 1, *health))
                .collect(),
        };
        let localities = priorities.iter().enumerate().map(of).collect();
        HostSet::update(None, &Assignment { localities, policy }, HostSetOptions::default()).hosts
    }

    fn linear(sets: &[Option<Arc<HostSet>>]) -> LinearPriorities {
        LinearPriorities::new(sets.iter().map(Option::as_deref), 50)
    }

    /// How many of 100 requests each place gets.
    fn shares(linear: &LinearPriorities) -> Vec<(usize, u32)> {
        let mut shares = vec![0; linear.rows.len()];
        for random in 0..100 {
            shares[linear.pick(None, random).unwrap().place] += 1;
        }
        linear.rows.iter().map(|row| row.member).zip(shares).collect()
    }

    use HostHealth::{Degraded, Healthy, Unhealthy};

    #[test]
    fn load_spills_from_cluster_to_cluster() {
        let half = set(&[&[Healthy, Unhealthy]]);
        let all = set(&[&[], &[Healthy]]);
        assert_eq!(shares(&linear(&[Some(all.clone()), Some(half.clone())])), [(0, 100), (1, 0)]);
        assert_eq!(shares(&linear(&[Some(half.clone()), Some(all.clone())])), [(0, 70), (1, 30)]);
        assert_eq!(shares(&linear(&[None, Some(half), None, Some(all)])), [(1, 70), (3, 30)]);
        let down = set(&[&[Unhealthy], &[Degraded]]);
        assert_eq!(shares(&linear(&[Some(down.clone()), Some(down)])), [(0, 0), (0, 100), (1, 0), (1, 0)]);
        assert!(linear(&[None]).pick(None, 0).is_none());
        assert!(linear(&[Some(set(&[&[]]))]).pick(None, 0).is_none());
    }

    #[test]
    fn each_cluster_has_a_factor_of_its_own() {
        let policy = AssignmentPolicy { overprovisioning_factor: 100, ..AssignmentPolicy::default() };
        let plain = set_with(&[&[Healthy, Unhealthy]], policy);
        let other = set(&[&[Healthy, Unhealthy]]);
        assert_eq!(shares(&linear(&[Some(plain), Some(other)])), [(0, 50), (1, 50)]);
    }

    #[test]
    fn the_cluster_is_told_where_the_load_goes() {
        let first = set(&[&[Unhealthy], &[Unhealthy, Degraded]]);
        let linear = linear(&[Some(first)]);
        let pick = linear.pick(None, 0).unwrap();
        let told: Vec<(u32, u32)> = pick.loads.iter().map(|load| (load.healthy, load.degraded)).collect();
        assert_eq!((pick.place, told), (1, vec![(0, 0), (0, 100)]));
        assert!(linear.loads_without(&|place| place == 1).is_none());
    }

    #[test]
    fn places_that_were_tried_are_avoided() {
        let sets = [Some(set(&[&[Healthy], &[Healthy]])), Some(set(&[&[Healthy]]))];
        let linear = linear(&sets);
        let loads = linear.loads_without(&|place| place == 0).unwrap();
        assert_eq!(linear.pick(Some(&loads), 7).unwrap().place, 1);
        let loads = linear.loads_without(&|place| place < 2).unwrap();
        assert_eq!(
            (linear.pick(Some(&loads), 7).unwrap().place, linear.pick(Some(&loads), 7).unwrap().member),
            (2, 1)
        );
        // The clusters have changed since.
        assert_eq!(linear.pick(Some(&loads[..2]), 7).unwrap().place, 0);
    }

    fn health() -> impl Strategy<Value = HostHealth> {
        prop_oneof![Just(Healthy), Just(Degraded), Just(Unhealthy), Just(HostHealth::Draining)]
    }

    proptest! {
        /// Clusters in a row share their load as one cluster does that has all their priorities.
        #[test]
        fn a_row_is_as_one_cluster(clusters in prop::collection::vec(prop::collection::vec(prop::collection::vec(health(), 1..5), 1..4), 1..4)) {
            let of = |cluster: &Vec<Vec<HostHealth>>| {
                set(&cluster.iter().map(Vec::as_slice).collect::<Vec<_>>())
            };
            let sets: Vec<_> = clusters.iter().map(|cluster| Some(of(cluster))).collect();
            let one = of(&clusters.concat());
            let linear = linear(&sets);
            let wanted: Vec<Load> = one.priorities().iter().map(|priority| priority.load).collect();
            prop_assert_eq!(&*linear.loads, wanted.as_slice());
        }
    }
}
