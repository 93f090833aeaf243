//! Balancers that pick among few and many hosts.

use std::hint::black_box;
use std::sync::Arc;

use anyhow::{Context, Result};
use proxy_core::address::Address;
use proxy_core::metadata::Metadata;
use proxy_core::stats::Registry;
use proxy_core::upstream::{
    Assignment, Endpoint, HashFunction, HashTableKind, Hashing, HostHealth, HostSet, HostSetOptions,
    LeastRequest, Locality, LocalityEndpoints, PickCx, Policy, RuntimeDouble, Scheme, Selection,
};

use crate::pieces::measured;

/// Who picks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Picker {
    RoundRobin,
    /// The better of two.
    LeastRequest,
    RingHash,
    Maglev,
}

impl Picker {
    fn scheme(self) -> Scheme {
        let spread = |policy| Scheme::Spread {
            policy,
            locality_weighted: false,
            fail_on_panic: false,
            slow_start: None,
            zones: None,
        };
        let hashing = |table| {
            Scheme::Hashing(Hashing {
                table,
                use_hostname: false,
                balance_factor: None,
                locality_weighted: false,
            })
        };
        match self {
            Self::RoundRobin => spread(Policy::RoundRobin),
            Self::LeastRequest => {
                let bias = RuntimeDouble { default: 1.0, runtime: None };
                spread(Policy::LeastRequest(LeastRequest::new(Selection::Choices(2), bias)))
            }
            Self::RingHash => {
                let function = HashFunction::XxHash;
                hashing(HashTableKind::Ring { minimum: 65_536, maximum: 8 << 20, function })
            }
            Self::Maglev => hashing(HashTableKind::Maglev { size: 65_537 }),
        }
    }
}

/// Picks `count` times among `hosts`.
pub(crate) fn pick(picker: Picker, hosts: usize, count: usize) -> Result<()> {
    let endpoints = (0..hosts).map(|index| Endpoint {
        address: Address::from(std::net::SocketAddr::from((
            [127, 0, 0, 1],
            u16::try_from(index + 1).unwrap_or(1),
        ))),
        additional_addresses: Box::default(),
        hostname: Arc::default(),
        weight: 1,
        health: HostHealth::Healthy.into(),
        metadata: Metadata::default(),
        check: None,
    });
    let localities = vec![LocalityEndpoints {
        locality: Locality::nowhere(),
        priority: 0,
        weight: 0,
        endpoints: endpoints.collect(),
    }];
    let assignment = Assignment { localities, ..Assignment::default() };
    let scheme = picker.scheme();
    let options = HostSetOptions { hashing: scheme.hashing(), ..HostSetOptions::default() };
    let hosts = HostSet::update(None, &assignment, options).hosts;
    let mut balancer = scheme.balancer(&Registry::new(1).scope("cluster.backend").cells());
    let mut random = fastrand::Rng::with_seed(1);
    // The first pick from a set is the one that makes room for it.
    balancer.pick(&hosts, &mut PickCx::new(&mut random)).context("no host")?;
    measured(count, |at| {
        let mut cx = PickCx::new(&mut random);
        cx.hash = u64::try_from(at).ok().map(|at| at.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        black_box(balancer.pick(&hosts, &mut cx)?);
        Some(())
    })
}
