//! Istio's rules, as `istio-iptables` makes them (tools/istio-iptables in Istio's repository): the same chains, the same
//! conditions, the same order.

use super::osm::in_fifteens;
use super::{Writer, inbound_source, of_family};
use crate::address::{Cidr, Family, Owner, Ports};
use crate::options::{DNS_PROXY_PORT, Dns, Groups, Inbound, Interception, Mesh, Options, Ranges, SELF_MARK};
use crate::rule::Is::{self, Not};
use crate::rule::Match::{
    AnyPort, Destination, Gid, In, Mark, Out, Port, Protocol, Source, SourcePort, State, Uid,
};
use crate::rule::Protocol::{Tcp, Udp};
use crate::rule::Table::{Mangle, Nat, Raw};
use crate::rule::{ChainName, Match, Place, Rule, Table, Target, Tracked};

const LO: &str = "lo";

/// The rules of one IP version, in chains whose names begin with `prefix`.
pub(super) fn rules(options: &Options, family: Family, prefix: &str) -> Vec<Rule> {
    let mut rules = Vec::new();
    Builder { options, family, prefix, rules: &mut rules }.build();
    rules
}

struct Builder<'a> {
    options: &'a Options,
    family: Family,
    prefix: &'a str,
    rules: &'a mut Vec<Rule>,
}

impl Builder<'_> {
    fn build(mut self) {
        self.excluded_interfaces();
        for interface in &self.options.virtual_interfaces {
            let matches = [In(interface.clone())];
            self.built_in(Nat, "PREROUTING").insert(Place::At(1), matches, Target::Return);
        }
        if self.options.drop_invalid {
            let to = self.jump("DROP");
            self.built_in(Mangle, "PREROUTING").add([State(vec![Tracked::Invalid])], to);
            self.own(Mangle, "DROP").add([], Target::Drop);
        }
        let tunnel = self.options.tunnel_port.into();
        self.own(Nat, "INBOUND").add([Protocol(Tcp), Port(Is::Is, tunnel)], Target::Return);
        self.redirect("REDIRECT", self.options.outbound_port, None);
        self.redirect("IN_REDIRECT", self.options.inbound_port, Some("InboundCapture"));
        self.inbound();
        self.outbound();
        if self.options.interception == Interception::TProxy {
            self.marks();
        }
    }

    fn own(&mut self, table: Table, name: &str) -> Writer<'_> {
        Writer { table, chain: self.name(name), rules: self.rules }
    }

    fn built_in(&mut self, table: Table, name: &str) -> Writer<'_> {
        Writer { table, chain: name.into(), rules: self.rules }
    }

    fn name(&self, name: &str) -> ChainName {
        ChainName(format!("{}{name}", self.prefix))
    }

    fn jump(&self, name: &str) -> Target {
        Target::Jump(self.name(name))
    }

    fn excluded_interfaces(&mut self) {
        let tables: &[Table] =
            if self.options.interception == Interception::TProxy { &[Nat, Mangle] } else { &[Nat] };
        for table in tables {
            for interface in &self.options.interfaces_exclude {
                self.built_in(*table, "PREROUTING").add([In(interface.clone())], Target::Return);
                self.built_in(*table, "OUTPUT").add([Out(interface.clone())], Target::Return);
            }
        }
    }

    /// The chain that hands connections to a port of the proxy.
    fn redirect(&mut self, chain: &str, port: u16, log: Option<&str>) {
        let trace = self.options.trace;
        let mut chain = self.own(Nat, chain);
        if let Some(prefix) = log.filter(|_| trace) {
            chain.add([Protocol(Tcp)], Target::Log(prefix.to_owned()));
        }
        chain.add([Protocol(Tcp)], Target::Redirect(port));
    }

    fn inbound(&mut self) {
        if !self.options.inbound.captures() {
            return;
        }
        let tproxy = self.options.interception == Interception::TProxy;
        let table = if tproxy { Mangle } else { Nat };
        if tproxy {
            let (port, mark) = (self.options.inbound_port, self.options.tproxy_mark);
            let loopback = self.options.own_loopback(self.family);
            let mut divert = self.own(Mangle, "DIVERT");
            divert.add([], Target::SetMark(mark));
            divert.add([], Target::Accept);
            let to_proxy = [Destination(Not, loopback), Protocol(Tcp)];
            self.own(Mangle, "TPROXY").add(to_proxy, Target::TProxy { port, mark });
        }
        let inbound = self.jump("INBOUND");
        self.built_in(table, "PREROUTING").add([Protocol(Tcp)], inbound);
        if tproxy && self.options.mesh != Mesh::Istio {
            let tunnel = self.options.tunnel_port.into();
            self.own(Mangle, "INBOUND").add([Protocol(Tcp), Port(Is::Is, tunnel)], Target::Return);
        }
        match &self.options.inbound {
            Inbound::AllBut(ports) => {
                for ports in ports {
                    self.own(table, "INBOUND").add([Protocol(Tcp), Port(Is::Is, *ports)], Target::Return);
                }
                self.capture_inbound(None);
            }
            Inbound::Only(ports) => {
                for ports in ports {
                    self.capture_inbound(Some(*ports));
                }
            }
        }
    }

    /// Captures one range of inbound ports, or all.
    fn capture_inbound(&mut self, ports: Option<Ports>) {
        let mut matches = vec![Protocol(Tcp)];
        matches.extend(ports.map(|ports| Port(Is::Is, ports)));
        match self.options.interception {
            Interception::Redirect => {
                let to = self.jump("IN_REDIRECT");
                self.own(Nat, "INBOUND").add(matches, to);
            }
            Interception::TProxy => {
                let (divert, tproxy) = (self.jump("DIVERT"), self.jump("TPROXY"));
                let mut established = matches.clone();
                established.push(State(vec![Tracked::Related, Tracked::Established]));
                let mut inbound = self.own(Mangle, "INBOUND");
                // what belongs to a connection goes to its socket; what opens one goes to the proxy
                inbound.add(established, divert);
                inbound.add(matches, tproxy);
            }
        }
    }

    fn outbound(&mut self) {
        let output = self.jump("OUTPUT");
        self.built_in(Nat, "OUTPUT").add([], output);
        for ports in &self.options.outbound_ports_exclude {
            for protocol in [Tcp, Udp] {
                let matches = [Protocol(protocol), Port(Is::Is, *ports)];
                self.own(Nat, "OUTPUT").add(matches, Target::Return);
            }
        }
        let from_proxy = [Out(LO.into()), Source(Is::Is, inbound_source(self.family))];
        self.own(Nat, "OUTPUT").add(from_proxy, Target::Return);
        self.owners();
        self.groups();
        self.dns();
        let loopback = self.options.own_loopback(self.family);
        self.own(Nat, "OUTPUT").add([Destination(Is::Is, loopback)], Target::Return);
        for range in of_family(&self.options.outbound_exclude, self.family) {
            self.own(Nat, "OUTPUT").add([Destination(Is::Is, range)], Target::Return);
        }
        let redirect = self.jump("REDIRECT");
        for ports in &self.options.outbound_ports {
            let matches = [Protocol(Tcp), Port(Is::Is, *ports)];
            self.own(Nat, "OUTPUT").add(matches, redirect.clone());
        }
        self.included_ranges();
    }

    /// The proxy's own connections: those to the workload's address are inbound again, all others are left alone. Those of
    /// everybody else that stay on the host are left alone too.
    fn owners(&mut self) {
        let uids = self.options.proxy_uids.iter().map(|uid| (true, uid));
        let owners: Vec<_> = uids.chain(self.options.proxy_gids.iter().map(|gid| (false, gid))).collect();
        let owned = |is, &(user, owner): &(bool, &Owner)| match user {
            true => Uid(is, owner.clone()),
            false => Gid(is, owner.clone()),
        };
        // with several owners Istio's rules take one's connections for a stranger's; ours do not
        let one_by_one = self.options.mesh == Mesh::Istio;
        for owner in &owners {
            self.comes_back(owned(Is::Is, owner), owner.0);
            if one_by_one {
                self.strangers(vec![owned(Not, owner)]);
            }
            self.own(Nat, "OUTPUT").add([owned(Is::Is, owner)], Target::Return);
        }
        if !one_by_one {
            self.strangers(owners.iter().map(|owner| owned(Not, owner)).collect());
        }
    }

    /// What the proxy sends to the workload's own address comes in again. DNS does not: it goes to the server.
    fn comes_back(&mut self, owner: Match, is_user: bool) {
        let spared = self.spared(is_user);
        let loopback = self.options.own_loopback(self.family);
        let matches = [Out(LO.into()), Destination(Not, loopback), Protocol(Tcp), spared, owner];
        let to = self.jump("IN_REDIRECT");
        self.own(Nat, "OUTPUT").add(matches, to);
    }

    /// The ports at which the proxy's connections to the host itself do not come in again. (Istio spares DNS for users only.)
    fn spared(&self, is_user: bool) -> Match {
        let tunnel: Ports = self.options.tunnel_port.into();
        match self.options.dns.is_some() && (is_user || self.options.mesh != Mesh::Istio) {
            true => AnyPort(Not, vec![53.into(), tunnel]),
            false => Port(Not, tunnel),
        }
    }

    /// What anybody but the proxy sends to the host itself is left alone, unless loopback is to be captured.
    fn strangers(&mut self, not_owners: Vec<Match>) {
        let included = match &self.options.outbound {
            Ranges::All => &[][..],
            Ranges::Only(ranges) => ranges,
        };
        if included.iter().any(|range| range.address().is_loopback()) {
            return;
        }
        let mut matches = vec![Out(LO.into())];
        if self.options.dns.is_some() {
            matches.extend([Protocol(Tcp), Port(Not, 53.into())]);
        }
        matches.extend(not_owners);
        self.own(Nat, "OUTPUT").add(matches, Target::Return);
    }

    fn groups(&mut self) {
        match &self.options.groups {
            Groups::AllBut(groups) => {
                for group in groups {
                    self.own(Nat, "OUTPUT").add([Gid(Is::Is, group.clone())], Target::Return);
                }
            }
            Groups::Only(groups) => {
                let none: Vec<_> = groups.iter().map(|group| Gid(Not, group.clone())).collect();
                self.own(Nat, "OUTPUT").add(none, Target::Return);
            }
        }
    }

    fn included_ranges(&mut self) {
        let redirect = self.jump("REDIRECT");
        let ranges: Vec<Option<Cidr>> = match &self.options.outbound {
            Ranges::All => vec![None],
            Ranges::Only(ranges) => of_family(ranges, self.family).map(Some).collect(),
        };
        for range in ranges {
            let to: Vec<Match> = range.map(|range| Destination(Is::Is, range)).into_iter().collect();
            for interface in &self.options.virtual_interfaces {
                let mut matches = vec![In(interface.clone())];
                matches.extend(to.iter().cloned());
                self.built_in(Nat, "PREROUTING").insert(Place::At(1), matches, redirect.clone());
            }
            self.own(Nat, "OUTPUT").add(to, redirect.clone());
        }
    }

    /// DNS goes to the agent's port. Queries and answers of the agent, and those of the workload, are tracked apart: both are
    /// UDP between the same addresses, and one entry for both loses answers.
    fn dns(&mut self) {
        let Some(dns) = &self.options.dns else { return };
        let servers: Vec<Option<Cidr>> = match dns {
            Dns::All => vec![None],
            Dns::Servers(servers) => {
                of_family(&servers.iter().map(|server| Cidr::host(*server)).collect::<Vec<_>>(), self.family)
                    .map(Some)
                    .collect()
            }
        };
        let chain = self.jump("OUTPUT_DNS");
        self.built_in(Raw, "OUTPUT").add([], chain.clone());
        if !servers.is_empty() {
            self.own(Nat, "OUTPUT").add([], chain);
        }
        for protocol in [Tcp, Udp] {
            for server in &servers {
                let mut matches = vec![Protocol(protocol), Port(Is::Is, 53.into())];
                matches.extend(server.map(|server| Destination(Is::Is, server)));
                self.own(Nat, "OUTPUT_DNS").add(matches, Target::Redirect(DNS_PROXY_PORT));
            }
        }
        let uids = self.options.proxy_uids.iter().map(|uid| Uid(Is::Is, uid.clone()));
        let gids = self.options.proxy_gids.iter().map(|gid| Gid(Is::Is, gid.clone()));
        for owner in uids.chain(gids) {
            let mut output = self.own(Raw, "OUTPUT_DNS");
            output.add([Protocol(Udp), Port(Is::Is, 53.into()), owner.clone()], Target::Zone(1));
            output.add([Protocol(Udp), SourcePort(Is::Is, DNS_PROXY_PORT.into()), owner], Target::Zone(2));
        }
        let inbound = self.jump("INBOUND");
        if !servers.is_empty() {
            self.built_in(Raw, "PREROUTING").add([], inbound);
        }
        for server in &servers {
            let to = server.map(|server| Destination(Is::Is, server));
            let from = server.map(|server| Source(Is::Is, server));
            let mut query = vec![Protocol(Udp), Port(Is::Is, 53.into())];
            query.extend(to);
            self.own(Raw, "OUTPUT_DNS").add(query, Target::Zone(2));
            let mut answer = vec![Protocol(Udp), SourcePort(Is::Is, 53.into())];
            answer.extend(from);
            self.own(Raw, "INBOUND").add(answer, Target::Zone(1));
        }
    }

    /// TPROXY keeps the client's address, so answers of the workload are addressed to the client: a mark on the connection
    /// brings them back to the proxy, and keeps the proxy's own connections from being captured again.
    fn marks(&mut self) {
        let mark = self.options.tproxy_mark;
        let loopback = self.options.own_loopback(self.family);
        let marked = |is| Mark(is, mark);
        self.built_in(Mangle, "PREROUTING").add([Protocol(Tcp), marked(Is::Is)], Target::SaveMark);
        let mut output = self.built_in(Mangle, "OUTPUT");
        output.add([Protocol(Tcp), Out(LO.into()), marked(Is::Is)], Target::Return);
        let uids = self.options.proxy_uids.iter().map(|uid| Uid(Is::Is, uid.clone()));
        let gids = self.options.proxy_gids.iter().map(|gid| Gid(Is::Is, gid.clone()));
        for owner in uids.chain(gids) {
            let mut matches = vec![Destination(Not, loopback), Protocol(Tcp), Out(LO.into())];
            // Istio diverts the spared and the excluded ports, too
            if self.options.mesh != Mesh::Istio {
                matches.push(self.spared(true));
                let excluded = in_fifteens(&self.options.outbound_ports_exclude);
                matches.extend(excluded.into_iter().map(|ports| AnyPort(Not, ports)));
            }
            matches.push(owner);
            self.built_in(Mangle, "OUTPUT").add(matches, Target::SetMark(SELF_MARK));
        }
        let answers = [Protocol(Tcp), Match::ConnectionMark(Is::Is, mark)];
        self.built_in(Mangle, "OUTPUT").add(answers, Target::RestoreMark);
        let from_proxy = [Protocol(Tcp), Source(Is::Is, inbound_source(self.family)), In(LO.into())];
        let mut inbound = self.own(Mangle, "INBOUND");
        inbound.insert(Place::At(1), [Protocol(Tcp), marked(Is::Is)], Target::Return);
        inbound.insert(Place::At(2), from_proxy, Target::Return);
        let local = [Protocol(Tcp), In(LO.into()), Mark(Not, SELF_MARK)];
        inbound.insert(Place::At(3), local, Target::Return);
    }
}
