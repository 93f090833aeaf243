//! Options and packets at random, for the properties that hold for all of them.

use std::net::{IpAddr, SocketAddr};

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;

use crate::address::{Cidr, Owner, Ports};
use crate::explain::{Direction, Packet};
use crate::options::{Dns, Families, Groups, Inbound, Interception, Options, Ranges};
use crate::preset;
use crate::rule::{Protocol, Tracked};

/// Few values, so that packets meet conditions.
const PORTS: [u16; 9] = [0, 53, 80, 443, 15001, 15006, 15008, 15053, 15090];
const V4: [&str; 7] = ["127.0.0.1", "127.0.0.6", "127.1.2.3", "10.0.0.5", "10.0.0.9", "9.9.1.1", "1.1.2.3"];
const V6: [&str; 5] = ["::1", "::6", "2001:db8::5", "2001:db8::9", "fd00::1"];
const RANGES: [&str; 8] = [
    "10.0.0.0/8",
    "1.1.0.0/16",
    "9.9.0.0/16",
    "127.1.2.3/32",
    "2001:db8::/32",
    "fd00::/8",
    "10.0.0.9/32",
    "0.0.0.0/0",
];
const INTERFACES: [&str; 4] = ["eth0", "eth1", "net+", "lo"];
const IDS: [u32; 5] = [0, 1, 2, 1337, 1500];

fn ports() -> impl Strategy<Value = Vec<Ports>> {
    let one = (select(&PORTS[..]), 0u16..3).prop_map(|(first, more)| Ports { first, last: first + more });
    vec(one, 0..4)
}

fn ranges() -> impl Strategy<Value = Vec<Cidr>> {
    vec(select(&RANGES[..]).prop_map(|text| text.parse().unwrap()), 0..3)
}

fn owners() -> impl Strategy<Value = Vec<Owner>> {
    vec(select(&IDS[..]).prop_map(Owner::Number), 1..3)
}

fn names() -> impl Strategy<Value = Vec<String>> {
    vec(select(&INTERFACES[..3]).prop_map(str::to_owned), 0..3)
}

/// Options of any mesh, within what its rules have a place for.
pub fn options() -> impl Strategy<Value = Options> {
    let mesh = select(&preset::NAMES[..]);
    let owners = (owners(), owners(), owners(), any::<bool>());
    let inbound = (ports(), any::<bool>(), any::<bool>(), any::<bool>());
    let outbound = (ranges(), ranges(), ports(), ports(), any::<bool>());
    let rest = (names(), names(), any::<bool>(), any::<bool>(), 0usize..4);
    (mesh, owners, inbound, outbound, rest).prop_map(|(mesh, owners, inbound, outbound, rest)| {
        let (inbound_ports, all_but, tproxy, trace) = inbound;
        let (included, excluded, outbound_ports, outbound_ports_exclude, all) = outbound;
        let (interfaces_exclude, virtual_interfaces, drop_invalid, both, dns) = rest;
        let base = preset::named(mesh).unwrap();
        let istio = ["istio", "outrigger"].contains(&mesh);
        Options {
            families: if both { Families::Both } else { Families::V4 },
            proxy_uids: owners.0,
            proxy_gids: if istio { owners.1 } else { Vec::new() },
            groups: match (owners.3, mesh) {
                (_, "osm") => Groups::AllBut(Vec::new()),
                (true, _) => Groups::Only(owners.2),
                (false, _) => Groups::AllBut(owners.2),
            },
            interception: if istio && tproxy { Interception::TProxy } else { Interception::Redirect },
            inbound: if all_but { Inbound::AllBut(inbound_ports) } else { Inbound::Only(inbound_ports) },
            interfaces_exclude,
            virtual_interfaces: if istio { virtual_interfaces } else { Vec::new() },
            outbound: if all { Ranges::All } else { Ranges::Only(included) },
            outbound_exclude: excluded,
            outbound_ports,
            outbound_ports_exclude,
            dns: match dns {
                1 if istio => Some(Dns::All),
                2 if istio => Some(Dns::Servers(vec![[127, 0, 0, 53].into()])),
                3 if istio => Some(Dns::Servers(vec![V4[4].parse().unwrap(), V6[3].parse().unwrap()])),
                _ => None,
            },
            drop_invalid: istio && drop_invalid,
            trace: istio && trace,
            ..base
        }
    })
}

/// The first packet of a connection, either way.
pub fn packets() -> impl Strategy<Value = Packet> {
    let addresses = any::<bool>().prop_flat_map(|v6| {
        let pool: &'static [&'static str] = if v6 { &V6 } else { &V4 };
        let address = || select(pool).prop_map(|text| text.parse::<IpAddr>().unwrap());
        (address(), address())
    });
    let ports = (select(&PORTS[..]), select(&PORTS[..]));
    let owner = (select(&IDS[..]), select(&IDS[..]));
    let rest = (select(&INTERFACES[..]), any::<bool>(), any::<bool>());
    (addresses, ports, owner, rest).prop_map(|((from, to), ports, (uid, gid), (interface, out, udp))| {
        Packet {
            direction: if out { Direction::Out } else { Direction::In },
            protocol: if udp { Protocol::Udp } else { Protocol::Tcp },
            from: SocketAddr::new(from, ports.0),
            to: SocketAddr::new(to, ports.1),
            uid: out.then_some(uid),
            gid: out.then_some(gid),
            interface: interface.replace('+', "7"),
            state: Tracked::New,
            mark: 0,
            connection_mark: 0,
        }
    })
}
