//! Open Service Mesh's rules (pkg/injector/iptables.go in its repository). They are for TCP; OSM writes them for IPv4 alone,
//! and for IPv6 they are the same with `::1`.

use super::{Writer, of_family};
use crate::address::{Family, Ports};
use crate::options::{Inbound, Options, Ranges};
use crate::rule::Match::{AnyPort, Destination, In, Out, Port, Protocol, Uid};
use crate::rule::Protocol::Tcp;
use crate::rule::Table::Nat;
use crate::rule::{Is, Place, Rule, Target};

/// Metrics, the three probes, and the probes of TCP ports: they reach their ports directly.
const DIRECT_PORTS: [u16; 5] = [15010, 15901, 15902, 15903, 15904];

/// The admin interface, which the redirecting chain lets through.
const ADMIN_PORT: u16 = 15000;

const LO: &str = "lo";

/// Ports for one `multiport` each: the kernel takes fifteen, and a range counts twice.
pub(super) fn in_fifteens(ports: &[Ports]) -> Vec<Vec<Ports>> {
    let weight = |ports: &Ports| if ports.first == ports.last { 1 } else { 2 };
    let mut groups: Vec<Vec<Ports>> = Vec::new();
    for ports in ports {
        match groups.last_mut() {
            Some(group) if group.iter().map(weight).sum::<usize>() + weight(ports) <= 15 => {
                group.push(*ports)
            }
            _ => groups.push(vec![*ports]),
        }
    }
    groups
}

pub(super) fn rules(options: &Options, family: Family) -> Vec<Rule> {
    let mut rules = Vec::new();
    inbound(options, family, &mut rules);
    outbound(options, family, &mut rules);
    rules
}

fn inbound(options: &Options, family: Family, rules: &mut Vec<Rule>) {
    let tcp = || vec![Protocol(Tcp)];
    let mut chain = |name: &str, matches: Vec<_>, target, place| {
        Writer { rules: &mut *rules, table: Nat, chain: name.into() }.insert(place, matches, target);
    };
    chain("OSM_PROXY_IN_REDIRECT", tcp(), Target::Redirect(options.inbound_port), Place::Last);
    if options.inbound.captures() {
        chain("PREROUTING", tcp(), Target::Jump("OSM_PROXY_INBOUND".into()), Place::Last);
    }
    for port in DIRECT_PORTS {
        let matches = vec![Protocol(Tcp), Port(Is::Is, port.into())];
        chain("OSM_PROXY_INBOUND", matches, Target::Return, Place::Last);
    }
    for range in of_family(&options.inbound_sources_exclude, family) {
        let matches = vec![crate::rule::Match::Source(Is::Is, range)];
        chain("OSM_PROXY_INBOUND", matches, Target::Return, Place::Last);
    }
    let captured = || Target::Jump("OSM_PROXY_IN_REDIRECT".into());
    let excluded = match &options.inbound {
        Inbound::AllBut(excluded) => {
            chain("OSM_PROXY_INBOUND", tcp(), captured(), Place::Last);
            excluded.as_slice()
        }
        Inbound::Only(ports) => {
            for ports in ports {
                let matches = vec![Protocol(Tcp), Port(Is::Is, *ports)];
                chain("OSM_PROXY_INBOUND", matches, captured(), Place::Last);
            }
            &[]
        }
    };
    for interface in &options.interfaces_exclude {
        chain("OSM_PROXY_INBOUND", vec![In(interface.clone())], Target::Return, Place::First);
    }
    for ports in in_fifteens(excluded) {
        let matches = vec![Protocol(Tcp), AnyPort(Is::Is, ports)];
        chain("OSM_PROXY_INBOUND", matches, Target::Return, Place::First);
    }
}

fn outbound(options: &Options, family: Family, rules: &mut Vec<Rule>) {
    let loopback = options.own_loopback(family);
    let mut redirect = Writer { rules, table: Nat, chain: "OSM_PROXY_OUT_REDIRECT".into() };
    redirect.add([Protocol(Tcp)], Target::Redirect(options.outbound_port));
    redirect.add([Protocol(Tcp), Port(Is::Is, ADMIN_PORT.into())], Target::Accept);
    redirect.chain = "OUTPUT".into();
    redirect.add([Protocol(Tcp)], Target::Jump("OSM_PROXY_OUTBOUND".into()));
    let mut chain = Writer { chain: "OSM_PROXY_OUTBOUND".into(), ..redirect };
    for uid in &options.proxy_uids {
        let own = Uid(Is::Is, uid.clone());
        let to_itself = [Out(LO.into()), Destination(Is::Not, loopback), own.clone()];
        chain.add(to_itself, Target::Jump("OSM_PROXY_IN_REDIRECT".into()));
        chain.add([Out(LO.into()), Uid(Is::Not, uid.clone())], Target::Return);
        chain.add([own], Target::Return);
    }
    chain.add([Destination(Is::Is, loopback)], Target::Return);
    for interface in &options.interfaces_exclude {
        chain.add([Out(interface.clone())], Target::Return);
    }
    for range in of_family(&options.outbound_exclude, family) {
        chain.add([Destination(Is::Is, range)], Target::Return);
    }
    for ports in in_fifteens(&options.outbound_ports_exclude) {
        chain.add([Protocol(Tcp), AnyPort(Is::Is, ports)], Target::Return);
    }
    if let Some(pod_ip) = options.pod_ip.filter(|address| Family::of(*address) == family) {
        chain.chain = "OUTPUT".into();
        for uid in &options.proxy_uids {
            let own = Uid(Is::Is, uid.clone());
            let matches = [Protocol(Tcp), Out(LO.into()), Destination(Is::Is, loopback), own];
            chain.insert(Place::First, matches, Target::Dnat(pod_ip));
        }
        chain.chain = "OSM_PROXY_OUTBOUND".into();
    }
    let captured = || Target::Jump("OSM_PROXY_OUT_REDIRECT".into());
    for ports in &options.outbound_ports {
        chain.add([Protocol(Tcp), Port(Is::Is, *ports)], captured());
    }
    match &options.outbound {
        Ranges::All => chain.add([], captured()),
        Ranges::Only(ranges) => {
            for range in of_family(ranges, family) {
                chain.add([Destination(Is::Is, range)], captured());
            }
            chain.add([], Target::Return);
        }
    }
}
