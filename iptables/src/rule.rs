//! Rules as data: what a packet must be like ([`Match`]) and what then happens to it ([`Target`]), in chains of tables.
//!
//! The vocabulary is the smallest that the meshes' rules need, in the words of iptables. A plan can be written for iptables
//! and for nftables, compared with what the kernel holds, and evaluated, because nothing in it is text.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;

use crate::address::{Cidr, Family, Owner, Ports};

/// A table of the packet filter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Table {
    Filter,
    Mangle,
    Nat,
    Raw,
}

impl Table {
    pub const ALL: [Table; 4] = [Table::Filter, Table::Mangle, Table::Nat, Table::Raw];

    pub fn name(self) -> &'static str {
        match self {
            Table::Filter => "filter",
            Table::Mangle => "mangle",
            Table::Nat => "nat",
            Table::Raw => "raw",
        }
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The name of a chain, in the words of iptables: a built-in one (`PREROUTING`) or one of ours.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ChainName(pub String);

impl ChainName {
    pub fn prerouting() -> ChainName {
        ChainName("PREROUTING".into())
    }

    pub fn output() -> ChainName {
        ChainName("OUTPUT".into())
    }

    /// Whether the kernel made it.
    pub fn is_built_in(&self) -> bool {
        ["PREROUTING", "INPUT", "FORWARD", "OUTPUT", "POSTROUTING"].contains(&self.0.as_str())
    }
}

impl From<&str> for ChainName {
    fn from(name: &str) -> ChainName {
        ChainName(name.to_owned())
    }
}

impl fmt::Display for ChainName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Whether a thing must be so, or must not be so.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Is {
    Is,
    Not,
}

impl Is {
    /// What the condition comes to when the thing is, or is not, so.
    pub fn holds(self, so: bool) -> bool {
        match self {
            Is::Is => so,
            Is::Not => !so,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    Tcp,
    Udp,
}

impl Protocol {
    pub fn name(self) -> &'static str {
        match self {
            Protocol::Tcp => "tcp",
            Protocol::Udp => "udp",
        }
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A state of connection tracking that rules ask for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Tracked {
    Invalid,
    New,
    Related,
    Established,
}

/// One condition of a rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Match {
    /// `-i`
    In(String),
    /// `-o`
    Out(String),
    /// `-s`
    Source(Is, Cidr),
    /// `-d`
    Destination(Is, Cidr),
    /// `-p`
    Protocol(Protocol),
    /// `--sport`
    SourcePort(Is, Ports),
    /// `--dport`
    Port(Is, Ports),
    /// `-m multiport --dports`: any of up to fifteen.
    AnyPort(Is, Vec<Ports>),
    /// `-m owner --uid-owner`. A packet without a local socket has no owner: it is not anybody's.
    Uid(Is, Owner),
    /// `-m owner --gid-owner`
    Gid(Is, Owner),
    /// `-m mark --mark`
    Mark(Is, u32),
    /// `-m connmark --mark`
    ConnectionMark(Is, u32),
    /// `-m conntrack --ctstate`: any of them, in the order of [`Tracked`].
    State(Vec<Tracked>),
}

/// What happens to a packet that fulfils all conditions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    Accept,
    Drop,
    /// Back to the chain that jumped here.
    Return,
    Jump(ChainName),
    /// To this port of the host itself; the connection remembers where it went.
    Redirect(u16),
    /// To another destination.
    Dnat(IpAddr),
    /// To the local socket on this port, with both addresses unchanged; the packet is marked so that routing keeps it here.
    TProxy {
        port: u16,
        mark: u32,
    },
    /// Marks the packet.
    SetMark(u32),
    /// The packet's mark becomes the connection's.
    SaveMark,
    /// The connection's mark becomes the packet's.
    RestoreMark,
    /// The zone of connection tracking.
    Zone(u16),
    /// Copies the head of the packet to the log group 1337 with this prefix, and goes on.
    Log(String),
}

impl Target {
    /// Whether the packet's way through the table ends here.
    pub fn is_final(&self) -> bool {
        match self {
            Target::Accept | Target::Drop | Target::Redirect(_) | Target::Dnat(_) | Target::TProxy { .. } => {
                true
            }
            Target::Return
            | Target::Jump(_)
            | Target::SetMark(_)
            | Target::SaveMark
            | Target::RestoreMark
            | Target::Zone(_)
            | Target::Log(_) => false,
        }
    }
}

/// Where in its chain a rule is put, in the order in which rules are given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// Behind all others.
    Last,
    /// As number N, from 1.
    At(usize),
    /// As the first: `-I` without a number.
    First,
}

/// One rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    pub table: Table,
    pub chain: ChainName,
    pub place: Place,
    pub matches: Vec<Match>,
    pub target: Target,
}

impl Rule {
    /// A rule at the end of a chain.
    pub fn new(table: Table, chain: impl Into<ChainName>, matches: Vec<Match>, target: Target) -> Rule {
        Rule { table, chain: chain.into(), place: Place::Last, matches, target }
    }

    /// The same rule at another place.
    pub fn at(mut self, place: Place) -> Rule {
        self.place = place;
        self
    }

    /// Whether it does the same as another to the same packets: the order of the conditions does not count.
    pub fn same(&self, other: &Rule) -> bool {
        self.table == other.table
            && self.chain == other.chain
            && self.target == other.target
            && self.matches.len() == other.matches.len()
            && self.matches.iter().all(|condition| other.matches.contains(condition))
            && other.matches.iter().all(|condition| self.matches.contains(condition))
    }
}

/// What the rules need beside themselves: routing of marked packets to the host, for TPROXY.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MarkRoute {
    pub mark: u32,
    pub table: u32,
}

/// Everything that is to be set up.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    pub v4: Vec<Rule>,
    /// Empty when IPv6 is not to be touched.
    pub v6: Vec<Rule>,
    pub route: Option<MarkRoute>,
    /// Whether `::6` is to be an address of this host, as the source of what the proxy sends to the workload.
    pub inbound_source_v6: bool,
    /// Chains that are ours begin with this.
    pub prefix: &'static str,
    /// Whose habits of writing are followed.
    pub style: Style,
}

/// The same rule is written in more than one way; texts that people compare are written as their mesh writes them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Style {
    #[default]
    Istio,
    Osm,
}

impl Plan {
    pub fn rules(&self, family: Family) -> &[Rule] {
        match family {
            Family::V4 => &self.v4,
            Family::V6 => &self.v6,
        }
    }

    /// The families that have rules.
    pub fn families(&self) -> impl Iterator<Item = Family> + use<> {
        let present = [(Family::V4, !self.v4.is_empty()), (Family::V6, !self.v6.is_empty())];
        present.into_iter().filter(|(_, present)| *present).map(|(family, _)| family)
    }

    /// Whether a chain of this name is ours.
    pub fn owns(&self, chain: &ChainName) -> bool {
        !self.prefix.is_empty() && chain.0.starts_with(self.prefix)
    }
}

/// Chains of one table with their rules in the order in which they are asked.
pub type Chains<'a> = BTreeMap<ChainName, Vec<&'a Rule>>;

/// The chains of a table as they are when all rules are in place, in a table that was empty before.
pub fn chains(rules: &[Rule], table: Table) -> Chains<'_> {
    let mut chains = Chains::new();
    for rule in rules.iter().filter(|rule| rule.table == table) {
        if let Target::Jump(to) = &rule.target {
            chains.entry(to.clone()).or_default();
        }
        let chain = chains.entry(rule.chain.clone()).or_default();
        match rule.place {
            Place::Last => chain.push(rule),
            Place::First => chain.insert(0, rule),
            Place::At(number) => chain.insert(number.saturating_sub(1).min(chain.len()), rule),
        }
    }
    chains
}

/// Our chains of a table, in the order in which they are first mentioned: those with rules, then those that are only jumped to.
pub fn own_chains(rules: &[Rule], table: Table) -> Vec<&ChainName> {
    let here = || rules.iter().filter(move |rule| rule.table == table);
    let targets = here().filter_map(|rule| match &rule.target {
        Target::Jump(to) => Some(to),
        _ => None,
    });
    let mut names = Vec::new();
    for name in here().map(|rule| &rule.chain).chain(targets) {
        if !name.is_built_in() && !names.contains(&name) {
            names.push(name);
        }
    }
    names
}
