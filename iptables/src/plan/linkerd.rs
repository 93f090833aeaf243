//! Linkerd's rules (`linkerd2-proxy-init`): one chain each way, ports and users that are ignored, the rest redirected.

use super::osm::in_fifteens;
use super::{Writer, of_family};
use crate::address::Family;
use crate::options::{Groups, Inbound, Options, Ranges};
use crate::rule::Match::{AnyPort, Destination, Gid, In, Out, Port, Protocol, Source, Uid};
use crate::rule::Protocol::Tcp;
use crate::rule::Table::Nat;
use crate::rule::{Is, Rule, Target};

const INBOUND: &str = "PROXY_INIT_REDIRECT";
const OUTBOUND: &str = "PROXY_INIT_OUTPUT";

pub(super) fn rules(options: &Options, family: Family) -> Vec<Rule> {
    let mut rules = Vec::new();
    inbound(options, family, &mut rules);
    outbound(options, family, &mut rules);
    rules
}

fn inbound(options: &Options, family: Family, rules: &mut Vec<Rule>) {
    let mut chain = Writer { rules, table: Nat, chain: INBOUND.into() };
    for interface in &options.interfaces_exclude {
        chain.add([In(interface.clone())], Target::Return);
    }
    for range in of_family(&options.inbound_sources_exclude, family) {
        chain.add([Source(Is::Is, range)], Target::Return);
    }
    let redirect = Target::Redirect(options.inbound_port);
    match &options.inbound {
        Inbound::AllBut(excluded) => {
            for ports in in_fifteens(excluded) {
                chain.add([Protocol(Tcp), AnyPort(Is::Is, ports)], Target::Return);
            }
            chain.add([Protocol(Tcp)], redirect);
        }
        Inbound::Only(ports) => {
            for ports in ports {
                chain.add([Protocol(Tcp), Port(Is::Is, *ports)], redirect.clone());
            }
        }
    }
    if options.inbound.captures() {
        chain.chain = "PREROUTING".into();
        chain.add([], Target::Jump(INBOUND.into()));
    }
}

fn outbound(options: &Options, family: Family, rules: &mut Vec<Rule>) {
    let mut chain = Writer { rules, table: Nat, chain: OUTBOUND.into() };
    for uid in &options.proxy_uids {
        chain.add([Uid(Is::Is, uid.clone())], Target::Return);
    }
    for gid in &options.proxy_gids {
        chain.add([Gid(Is::Is, gid.clone())], Target::Return);
    }
    chain.add([Out("lo".into())], Target::Return);
    for interface in &options.interfaces_exclude {
        chain.add([Out(interface.clone())], Target::Return);
    }
    match &options.groups {
        Groups::AllBut(groups) => {
            for group in groups {
                chain.add([Gid(Is::Is, group.clone())], Target::Return);
            }
        }
        Groups::Only(groups) => {
            let none: Vec<_> = groups.iter().map(|group| Gid(Is::Not, group.clone())).collect();
            chain.add(none, Target::Return);
        }
    }
    for ports in in_fifteens(&options.outbound_ports_exclude) {
        chain.add([Protocol(Tcp), AnyPort(Is::Is, ports)], Target::Return);
    }
    for range in of_family(&options.outbound_exclude, family) {
        chain.add([Destination(Is::Is, range)], Target::Return);
    }
    let redirect = Target::Redirect(options.outbound_port);
    for ports in &options.outbound_ports {
        chain.add([Protocol(Tcp), Port(Is::Is, *ports)], redirect.clone());
    }
    match &options.outbound {
        Ranges::All => chain.add([Protocol(Tcp)], redirect),
        Ranges::Only(ranges) => {
            for range in of_family(ranges, family) {
                chain.add([Destination(Is::Is, range), Protocol(Tcp)], redirect.clone());
            }
        }
    }
    chain.chain = "OUTPUT".into();
    chain.add([], Target::Jump(OUTBOUND.into()));
}
