//! Rules as the text of `iptables-restore`, and back: [`parse`] reads what `iptables-save` prints of our own vocabulary.

use std::fmt::Write;

use crate::address::{Family, Ports};
use crate::rule::{self, Is, Match, Place, Plan, Protocol, Rule, Style, Table, Target, Tracked};

pub use parse::parse;

mod parse;

/// Everything for one IP version, as the mesh itself prints it: for eyes and for a fresh network namespace. What goes into a
/// kernel that may hold older rules is [`crate::state::transaction`].
pub fn render(plan: &Plan, family: Family) -> String {
    let rules = plan.rules(family);
    let mut text = String::new();
    if plan.style == Style::Osm {
        text += "# OSM sidecar interception rules\n";
    }
    for table in Table::ALL.into_iter().filter(|table| rules.iter().any(|rule| rule.table == *table)) {
        let (star, new, old) = match plan.style {
            Style::Istio => ("* ", "-N ", ""),
            Style::Osm => ("*", ":", " - [0:0]"),
        };
        let _ = writeln!(text, "{star}{table}");
        for chain in rule::own_chains(rules, table) {
            let _ = writeln!(text, "{new}{chain}{old}");
        }
        for rule in rules.iter().filter(|rule| rule.table == table) {
            let _ = writeln!(text, "{}", line(rule, plan.style));
        }
        text += "COMMIT\n";
    }
    text
}

/// One rule as a line.
pub fn line(rule: &Rule, style: Style) -> String {
    let mut line = match rule.place {
        Place::Last => format!("-A {}", rule.chain),
        Place::First => format!("-I {}", rule.chain),
        Place::At(number) => format!("-I {} {number}", rule.chain),
    };
    for condition in &rule.matches {
        line.push(' ');
        line += &condition_text(condition, style);
    }
    line.push(' ');
    line += &target_text(rule, style);
    line
}

fn not(is: Is) -> &'static str {
    match is {
        Is::Is => "",
        Is::Not => "! ",
    }
}

fn condition_text(condition: &Match, style: Style) -> String {
    match condition {
        Match::In(name) => format!("-i {name}"),
        Match::Out(name) => format!("-o {name}"),
        Match::Source(is, range) => format!("{}-s {range}", not(*is)),
        Match::Destination(is, range) => format!("{}-d {range}", not(*is)),
        Match::Protocol(protocol) => format!("-p {protocol}"),
        Match::SourcePort(is, ports) => format!("{}--sport {ports}", not(*is)),
        Match::Port(is, ports) => format!("{}--dport {ports}", not(*is)),
        Match::AnyPort(is, ports) => {
            let load = match style {
                Style::Istio => "-m",
                Style::Osm => "--match",
            };
            format!("{load} multiport {}--dports {}", not(*is), list(ports))
        }
        Match::Uid(is, owner) => format!("-m owner {}--uid-owner {owner}", not(*is)),
        Match::Gid(is, owner) => format!("-m owner {}--gid-owner {owner}", not(*is)),
        Match::Mark(is, mark) => format!("-m mark {}--mark {mark}", not(*is)),
        Match::ConnectionMark(is, mark) => format!("-m connmark {}--mark {mark}", not(*is)),
        Match::State(states) => {
            let names: Vec<&str> = states.iter().map(|state| state_name(*state)).collect();
            format!("-m conntrack --ctstate {}", names.join(","))
        }
    }
}

fn list(ports: &[Ports]) -> String {
    ports.iter().map(Ports::to_string).collect::<Vec<_>>().join(",")
}

fn state_name(state: Tracked) -> &'static str {
    match state {
        Tracked::Invalid => "INVALID",
        Tracked::New => "NEW",
        Tracked::Related => "RELATED",
        Tracked::Established => "ESTABLISHED",
    }
}

fn target_text(rule: &Rule, style: Style) -> String {
    match &rule.target {
        Target::Accept => "-j ACCEPT".into(),
        Target::Drop => "-j DROP".into(),
        Target::Return => "-j RETURN".into(),
        Target::Jump(chain) => format!("-j {chain}"),
        Target::Redirect(port) => {
            // both spellings are one to iptables; the meshes' texts have these
            let udp = rule.matches.contains(&Match::Protocol(Protocol::Udp));
            let ports = if udp || style == Style::Osm { "--to-port" } else { "--to-ports" };
            format!("-j REDIRECT {ports} {port}")
        }
        Target::Dnat(address) => format!("-j DNAT --to-destination {address}"),
        Target::TProxy { port, mark } => {
            format!("-j TPROXY --tproxy-mark {mark}/0xffffffff --on-port {port}")
        }
        Target::SetMark(mark) => format!("-j MARK --set-mark {mark}"),
        Target::SaveMark => "-j CONNMARK --save-mark".into(),
        Target::RestoreMark => "-j CONNMARK --restore-mark".into(),
        Target::Zone(zone) => format!("-j CT --zone {zone}"),
        Target::Log(prefix) => {
            format!("-j NFLOG --nflog-prefix \"{prefix}\" --nflog-group 1337 --nflog-size 20")
        }
    }
}

#[cfg(test)]
mod tests;
