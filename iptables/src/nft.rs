//! A plan as input of `nft -f`: tables of the `inet` family, one for each table of iptables, as Istio's native nftables mode
//! names and orders them. The whole text is one transaction of the kernel.

use std::fmt::Write;

use crate::address::{Family, Ports};
use crate::rule::{self, ChainName, Is, Match, Plan, Protocol, Rule, Table, Target, Tracked};

pub mod listing;

/// The tables that a plan is written for; the filter table has none of our rules.
const TABLES: [Table; 3] = [Table::Nat, Table::Mangle, Table::Raw];

/// What `--dry-run` shows: every table from scratch.
pub fn render(plan: &Plan) -> String {
    let mut text = String::new();
    for table in TABLES {
        let v4 = rule::chains(&plan.v4, table);
        let v6 = rule::chains(&plan.v6, table);
        if v4.is_empty() && v6.is_empty() {
            continue;
        }
        let name = table_name(plan, table);
        let _ = writeln!(text, "add table inet {name}\nflush table inet {name}");
        let order = chain_order(plan, table);
        for chain in &order {
            let _ = writeln!(text, "add chain inet {name} {}{}", chain_name(chain), hook(table, chain));
        }
        for chain in &order {
            for (rule, family) in merged(of(&v4, chain), of(&v6, chain)) {
                let only = match family {
                    // an `inet` table sees both versions, whatever it was made for
                    None if chain.is_built_in() && plan.v6.is_empty() && plan.prefix == "OUTRIGGER_" => {
                        Some(Family::V4)
                    }
                    family => family,
                };
                let _ =
                    writeln!(text, "add rule inet {name} {} {}", chain_name(chain), rule_text(rule, only));
            }
        }
    }
    text
}

fn of<'a, 'c>(chains: &'c rule::Chains<'a>, chain: &ChainName) -> &'c [&'a Rule] {
    chains.get(chain).map_or(&[], Vec::as_slice)
}

/// Input of `nft -f` that puts the plan in the place of whatever the mesh has there, at one instant.
pub fn transaction(plan: &Plan) -> String {
    cleanup(plan) + &render(plan)
}

/// Input of `nft -f` that takes away whatever the mesh has there.
pub fn cleanup(plan: &Plan) -> String {
    let mut text = String::new();
    for table in TABLES {
        // a table must exist to be deleted, and may be added when it exists
        let name = table_name(plan, table);
        let _ = writeln!(text, "add table inet {name}\ndelete table inet {name}");
    }
    text
}

/// The names of the tables that a plan has, or may have had.
pub fn table_names(plan: &Plan) -> Vec<String> {
    TABLES.into_iter().map(|table| table_name(plan, table)).collect()
}

fn table_name(plan: &Plan, table: Table) -> String {
    let mesh = match plan.prefix {
        "ISTIO_" => "istio-proxy",
        "OSM_PROXY_" => "osm-proxy",
        "PROXY_INIT_" => "linkerd-proxy",
        _ => "outrigger",
    };
    format!("{mesh}-{table}")
}

fn chain_name(chain: &ChainName) -> String {
    chain.0.to_lowercase().replace('_', "-")
}

/// Built-in chains first, then ours in the order of their mention.
fn chain_order(plan: &Plan, table: Table) -> Vec<ChainName> {
    let all = || plan.v4.iter().chain(&plan.v6).filter(|rule| rule.table == table);
    let built_in = [ChainName::prerouting(), ChainName::output()];
    let mut order: Vec<ChainName> =
        built_in.into_iter().filter(|chain| all().any(|rule| rule.chain == *chain)).collect();
    for rules in [&plan.v4, &plan.v6] {
        for chain in rule::own_chains(rules, table) {
            if !order.contains(chain) {
                order.push(chain.clone());
            }
        }
    }
    order
}

fn hook(table: Table, chain: &ChainName) -> String {
    if !chain.is_built_in() {
        return String::new();
    }
    let (kind, priority) = match table {
        Table::Nat => ("nat", -100),
        // a change of the mark must change the route
        Table::Mangle if chain.0 == "OUTPUT" => ("route", -150),
        Table::Mangle => ("filter", -150),
        Table::Raw => ("filter", -300),
        Table::Filter => ("filter", 0),
    };
    format!(" {{ type {kind} hook {} priority {priority} ; }}", chain_name(chain))
}

/// The rules of both IP versions in one list, in which each version finds its own in order. A rule that both have stands
/// once; one that only one has, and that does not say which, is marked with its version.
fn merged<'a>(v4: &[&'a Rule], v6: &[&'a Rule]) -> Vec<(&'a Rule, Option<Family>)> {
    let (mut rest4, mut rest6) = (v4.iter().peekable(), v6.iter().peekable());
    let mut all = Vec::new();
    let alone = v6.is_empty() || v4.is_empty();
    let mark = |rule: &Rule, family| (!alone && !says_family(rule)).then_some(family);
    while let Some(four) = rest4.peek().copied().copied() {
        match rest6.peek().copied().copied() {
            Some(six) if six == four => {
                all.push((four, None));
                rest6.next();
            }
            Some(six) if says_family(six) => {
                all.extend(says_family(four).then_some((four, None)));
                all.push((six, None));
                rest6.next();
                if !says_family(four) {
                    continue;
                }
            }
            // the other version may have the same one further on
            Some(six) if !says_family(four) && v6.contains(&four) => {
                all.push((six, mark(six, Family::V6)));
                rest6.next();
                continue;
            }
            Some(_) | None => all.push((four, mark(four, Family::V4))),
        }
        rest4.next();
    }
    all.extend(rest6.map(|six| (*six, mark(six, Family::V6))));
    all
}

fn says_family(rule: &Rule) -> bool {
    rule.matches.iter().any(|condition| matches!(condition, Match::Source(..) | Match::Destination(..)))
}

fn rule_text(rule: &Rule, family: Option<Family>) -> String {
    let protocol = rule.matches.iter().find_map(|condition| match condition {
        Match::Protocol(protocol) => Some(*protocol),
        _ => None,
    });
    let mut conditions: Vec<(u8, String)> =
        rule.matches.iter().map(|condition| condition_text(condition, protocol)).collect();
    conditions.sort_by_key(|(order, _)| *order);
    let mut words: Vec<String> = Vec::new();
    words.extend(
        family.map(|family| format!("meta nfproto {}", if family == Family::V4 { "ipv4" } else { "ipv6" })),
    );
    words.extend(conditions.into_iter().map(|(_, text)| text));
    words.push(target_text(rule));
    words.join(" ")
}

fn not(is: Is) -> &'static str {
    match is {
        Is::Is => "",
        Is::Not => "!= ",
    }
}

/// A condition, and its place among others.
fn condition_text(condition: &Match, protocol: Option<Protocol>) -> (u8, String) {
    let protocol = protocol.map_or("th", Protocol::name);
    match condition {
        Match::In(name) => (0, format!("iifname {}", interface(name))),
        Match::Out(name) => (0, format!("oifname {}", interface(name))),
        Match::Protocol(protocol) => (1, format!("meta l4proto {protocol}")),
        Match::Source(is, range) => (2, format!("{} saddr {}{range}", ip(range.family()), not(*is))),
        Match::Destination(is, range) => (2, format!("{} daddr {}{range}", ip(range.family()), not(*is))),
        Match::State(states) => {
            let names: Vec<&str> = states.iter().map(|state| state_name(*state)).collect();
            (3, format!("ct state {}", names.join(",")))
        }
        Match::SourcePort(is, ports) => (4, format!("{protocol} sport {}{}", not(*is), range(*ports))),
        Match::Port(is, ports) => (4, format!("{protocol} dport {}{}", not(*is), range(*ports))),
        Match::AnyPort(is, ports) => (4, format!("{protocol} dport {}{}", not(*is), set(ports))),
        Match::Uid(is, owner) => (5, format!("skuid {}{owner}", not(*is))),
        Match::Gid(is, owner) => (5, format!("skgid {}{owner}", not(*is))),
        Match::Mark(is, mark) => (6, format!("mark {}{mark}", not(*is))),
        Match::ConnectionMark(is, mark) => (6, format!("ct mark {}{mark}", not(*is))),
    }
}

/// iptables writes "all that begin so" with a plus sign.
fn interface(name: &str) -> String {
    let name = name.strip_suffix('+').map_or_else(|| name.to_owned(), |start| format!("{start}*"));
    let plain = |letter: char| letter.is_ascii_alphanumeric() || "-_.".contains(letter);
    let word = name.starts_with(|letter: char| letter.is_ascii_alphabetic()) && name.chars().all(plain);
    if word { name } else { format!("\"{name}\"") }
}

fn ip(family: Family) -> &'static str {
    match family {
        Family::V4 => "ip",
        Family::V6 => "ip6",
    }
}

fn range(ports: Ports) -> String {
    ports.to_string().replace(':', "-")
}

/// A set of ports as nft lists it: in order, ranges that touch joined; braces around more than one.
fn set(ports: &[Ports]) -> String {
    let mut sorted = ports.to_vec();
    sorted.sort_by_key(|ports| ports.first);
    let mut joined: Vec<Ports> = Vec::new();
    for ports in sorted {
        match joined.last_mut() {
            Some(last) if u32::from(ports.first) <= u32::from(last.last) + 1 => {
                last.last = last.last.max(ports.last)
            }
            _ => joined.push(ports),
        }
    }
    match &joined[..] {
        [one] => range(*one),
        more => format!("{{ {} }}", more.iter().copied().map(range).collect::<Vec<_>>().join(", ")),
    }
}

fn state_name(state: Tracked) -> &'static str {
    match state {
        Tracked::Invalid => "invalid",
        Tracked::New => "new",
        Tracked::Related => "related",
        Tracked::Established => "established",
    }
}

fn target_text(rule: &Rule) -> String {
    match &rule.target {
        Target::Accept => "counter accept".into(),
        Target::Drop => "counter drop".into(),
        Target::Return => "counter return".into(),
        Target::Jump(chain) => format!("counter jump {}", chain_name(chain)),
        Target::Redirect(port) => format!("counter redirect to :{port}"),
        Target::Dnat(address) => format!("counter dnat {} to {address}", ip(Family::of(*address))),
        Target::TProxy { port, mark } => {
            let destination = rule.matches.iter().find_map(|condition| match condition {
                Match::Destination(_, range) => Some(range.family()),
                _ => None,
            });
            let family = ip(destination.unwrap_or(Family::V4));
            format!("tproxy {family} to :{port} meta mark set {mark} counter accept")
        }
        Target::SetMark(mark) => format!("counter meta mark set {mark}"),
        Target::SaveMark => "counter ct mark set mark".into(),
        Target::RestoreMark => "counter meta mark set ct mark".into(),
        Target::Zone(zone) => format!("counter ct zone set {zone}"),
        Target::Log(prefix) => format!("log prefix \"{prefix}\" group 1337 snaplen 20"),
    }
}

#[cfg(test)]
mod tests;
