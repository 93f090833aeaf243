//! What a plan does to a packet, and which rules decide: the kernel's way through the tables, acted out on the plan.
//!
//! The packet is the first of its connection. Nothing is asked of the kernel, so the answer holds for a network namespace in
//! which nobody else has rules.

use std::net::SocketAddr;

use crate::address::{Family, Owner};
use crate::rule::{self, ChainName, Match, Plan, Protocol, Rule, Table, Target, Tracked};

pub use words::in_words;

mod words;

/// Which way a packet goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// From elsewhere to this host.
    In,
    /// From a process of this host.
    Out,
}

/// A packet to explain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Packet {
    pub direction: Direction,
    pub protocol: Protocol,
    pub from: SocketAddr,
    pub to: SocketAddr,
    /// Of the process that sends it; a packet from elsewhere has none.
    pub uid: Option<u32>,
    pub gid: Option<u32>,
    /// Where it comes in, or goes out.
    pub interface: String,
    pub state: Tracked,
    pub mark: u32,
    pub connection_mark: u32,
}

impl Packet {
    fn family(&self) -> Family {
        Family::of(self.to.ip())
    }

    fn fulfils(&self, condition: &Match, chain: &ChainName) -> bool {
        let entering = chain.0 == "PREROUTING";
        match condition {
            Match::In(name) => entering && named(name, &self.interface),
            Match::Out(name) => !entering && named(name, &self.interface),
            Match::Source(is, range) => is.holds(range.contains(self.from.ip())),
            Match::Destination(is, range) => is.holds(range.contains(self.to.ip())),
            Match::Protocol(protocol) => self.protocol == *protocol,
            Match::SourcePort(is, ports) => is.holds(ports.contains(self.from.port())),
            Match::Port(is, ports) => is.holds(ports.contains(self.to.port())),
            Match::AnyPort(is, ports) => is.holds(ports.iter().any(|ports| ports.contains(self.to.port()))),
            Match::Uid(is, owner) => is.holds(!entering && owned(owner, self.uid)),
            Match::Gid(is, owner) => is.holds(!entering && owned(owner, self.gid)),
            Match::Mark(is, mark) => is.holds(self.mark == *mark),
            Match::ConnectionMark(is, mark) => is.holds(self.connection_mark == *mark),
            Match::State(states) => states.contains(&self.state),
        }
    }
}

/// Whether an interface is meant; a plus sign at the end stands for anything.
fn named(pattern: &str, name: &str) -> bool {
    pattern.strip_suffix('+').map_or(pattern == name, |start| name.starts_with(start))
}

fn owned(owner: &Owner, id: Option<u32>) -> bool {
    matches!((owner, id), (Owner::Number(number), Some(id)) if *number == id)
}

/// What becomes of a packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It goes where it was going.
    Passes,
    /// It is dropped.
    Dropped,
    /// It goes to this port of the host; the original destination can be asked for.
    Redirected(u16),
    /// It goes to another address.
    Rewritten(std::net::IpAddr),
    /// It goes to the socket on this port with its addresses unchanged.
    Diverted(u16),
    /// It goes to the socket of its connection, whose mark it has.
    ToItsSocket,
}

/// One thing that happened to it on its way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step<'a> {
    /// The built-in chain it was in.
    pub hook: ChainName,
    pub rule: &'a Rule,
}

/// The verdict, and the rules that it fulfilled.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Explanation<'a> {
    pub verdict: Verdict,
    pub steps: Vec<Step<'a>>,
    /// The packet at the end, with the marks it got.
    pub packet: Packet,
}

impl Explanation<'_> {
    /// The rule that decided: the last one that does more than mark, log or lead on.
    pub fn deciding(&self) -> Option<&Step<'_>> {
        let decides = |step: &&Step<'_>| step.rule.target.is_final() || step.rule.target == Target::Return;
        self.steps.iter().rev().find(decides)
    }
}

/// Follows a packet through the plan.
pub fn explain<'a>(plan: &'a Plan, packet: &Packet) -> Explanation<'a> {
    let rules = plan.rules(packet.family());
    let mut walk = Walk { rules, packet: packet.clone(), steps: Vec::new(), verdict: None };
    let hook = match packet.direction {
        Direction::In => ChainName::prerouting(),
        Direction::Out => ChainName::output(),
    };
    walk.hook(&hook, &[Table::Raw, Table::Mangle, Table::Nat]);
    // what stays on the host comes in again through `lo`; the address translation of a connection is settled by then
    if packet.direction == Direction::Out && packet.interface == "lo" && walk.verdict.is_none() {
        walk.hook(&ChainName::prerouting(), &[Table::Raw, Table::Mangle]);
    }
    let verdict = walk.verdict.unwrap_or(Verdict::Passes);
    Explanation { verdict, steps: walk.steps, packet: walk.packet }
}

struct Walk<'a> {
    rules: &'a [Rule],
    packet: Packet,
    steps: Vec<Step<'a>>,
    verdict: Option<Verdict>,
}

/// What a chain came to.
enum Outcome {
    /// The next rule of the calling chain is asked.
    Continue,
    /// The table is done with the packet.
    Done,
}

impl<'a> Walk<'a> {
    fn hook(&mut self, hook: &ChainName, tables: &[Table]) {
        for table in tables {
            // only the first packet of a connection is looked up in the table of address translation
            if *table == Table::Nat && self.packet.state != Tracked::New {
                continue;
            }
            if self.verdict.is_none() {
                let chains = rule::chains(self.rules, *table);
                self.chain(hook, &chains, hook, 0);
            }
        }
    }

    /// `depth` bounds what a plan with a cycle could do; the kernel refuses such rules.
    fn chain(
        &mut self,
        hook: &ChainName,
        chains: &rule::Chains<'a>,
        name: &ChainName,
        depth: usize,
    ) -> Outcome {
        let rules: &[&'a Rule] = chains.get(name).map_or(&[], Vec::as_slice);
        for &rule in rules {
            if !rule.matches.iter().all(|condition| self.packet.fulfils(condition, hook)) {
                continue;
            }
            self.steps.push(Step { hook: hook.clone(), rule });
            let verdict = match &rule.target {
                Target::Return => return Outcome::Continue,
                Target::Accept if self.diverted() => Verdict::ToItsSocket,
                Target::Accept => return Outcome::Done,
                Target::Jump(to) if depth < 16 => match self.chain(hook, chains, to, depth + 1) {
                    Outcome::Done => return Outcome::Done,
                    Outcome::Continue => continue,
                },
                Target::Jump(_) | Target::Zone(_) | Target::Log(_) => continue,
                Target::SetMark(mark) => {
                    self.packet.mark = *mark;
                    continue;
                }
                Target::SaveMark => {
                    self.packet.connection_mark = self.packet.mark;
                    continue;
                }
                Target::RestoreMark => {
                    self.packet.mark = self.packet.connection_mark;
                    continue;
                }
                Target::Drop => Verdict::Dropped,
                Target::Redirect(port) => Verdict::Redirected(*port),
                Target::Dnat(address) => Verdict::Rewritten(*address),
                Target::TProxy { port, mark } => {
                    self.packet.mark = *mark;
                    Verdict::Diverted(*port)
                }
            };
            self.verdict = Some(verdict);
            return Outcome::Done;
        }
        Outcome::Continue
    }

    /// Whether the rule before the last marked the packet of a known connection: then routing keeps it on this host.
    fn diverted(&self) -> bool {
        let before = self.steps.len().checked_sub(2).and_then(|at| self.steps.get(at));
        before.is_some_and(|step| matches!(step.rule.target, Target::SetMark(_)))
    }
}

#[cfg(test)]
mod tests;
