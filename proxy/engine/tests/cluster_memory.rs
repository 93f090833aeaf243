//! Bytes that a static cluster of three hosts takes, counted by the allocator.

#![allow(unsafe_code, reason = "an allocator that counts is unsafe to write, and counts for this test only")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering};

use proxy_core::config::{BuildCx, BuildEnv};
use proxy_engine::upstream::cluster::Cluster;
use xds_api::envoy::config::cluster::v3 as proto;
use xds_api::envoy::config::core::v3 as core;
use xds_api::envoy::config::endpoint::v3 as endpoint;

struct Counting;

static BYTES: AtomicUsize = AtomicUsize::new(0);

// SAFETY: every call goes to the system's allocator with the arguments it came with.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        BYTES.fetch_add(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller's promises are passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        BYTES.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller's promises are passed on.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

fn cluster(number: u32) -> proto::Cluster {
    let lb_endpoints = (1..=3).map(|port| {
        let socket = core::SocketAddress {
            address: "10.0.0.1".into(),
            port_specifier: Some(core::socket_address::PortSpecifier::PortValue(port)),
            ..Default::default()
        };
        let address = core::Address { address: Some(core::address::Address::SocketAddress(socket)) };
        let endpoint = endpoint::Endpoint { address: Some(address), ..Default::default() };
        let host = endpoint::lb_endpoint::HostIdentifier::Endpoint(endpoint);
        endpoint::LbEndpoint { host_identifier: Some(host), ..Default::default() }
    });
    let locality =
        endpoint::LocalityLbEndpoints { lb_endpoints: lb_endpoints.collect(), ..Default::default() };
    proto::Cluster {
        name: format!("cluster_number_{number}"),
        load_assignment: Some(endpoint::ClusterLoadAssignment {
            endpoints: vec![locality],
            ..Default::default()
        }),
        ..Default::default()
    }
}

#[test]
fn a_static_cluster_of_three_hosts_takes_little() {
    let env = BuildEnv::new(2);
    let mut built = Vec::with_capacity(1_001);
    let mut build = |number: u32| {
        let proto = cluster(number);
        built.push(Cluster::build(&proto, &mut BuildCx::new(&env)).unwrap());
    };
    // The first one makes what all share.
    build(0);
    let before = BYTES.load(Ordering::Relaxed);
    for number in 1..=1_000 {
        build(number);
    }
    let each = (BYTES.load(Ordering::Relaxed) - before) / 1_000;
    println!("{each} bytes per cluster");
    assert!(each <= 4_096, "{each} bytes");
}
