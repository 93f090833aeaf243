//! From options to a plan: one function for each mesh's shape of rules, run once for each IP version.

use crate::address::{Cidr, Family};
use crate::options::{Families, INBOUND_SOURCE_V4, INBOUND_SOURCE_V6, Interception, Mesh, Options};
use crate::rule::{ChainName, MarkRoute, Place, Plan, Rule, Style, Table, Target};

mod istio;
mod linkerd;
mod osm;

/// The plan for these options.
pub fn plan(options: &Options) -> Plan {
    let rules = |family| match options.mesh {
        Mesh::Istio => istio::rules(options, family, "ISTIO_"),
        Mesh::Outrigger => behind_hooks(istio::rules(options, family, "OUTRIGGER_"), "OUTRIGGER_"),
        Mesh::Osm => osm::rules(options, family),
        Mesh::Linkerd => linkerd::rules(options, family),
    };
    let both = options.families == Families::Both;
    let istio = matches!(options.mesh, Mesh::Istio | Mesh::Outrigger);
    let tproxy = options.interception == Interception::TProxy && options.inbound.captures();
    Plan {
        v4: rules(Family::V4),
        v6: if both { rules(Family::V6) } else { Vec::new() },
        route: (istio && tproxy)
            .then_some(MarkRoute { mark: options.tproxy_mark, table: options.tproxy_table }),
        inbound_source_v6: istio && both,
        prefix: prefix(options.mesh),
        style: if options.mesh == Mesh::Osm { Style::Osm } else { Style::Istio },
    }
}

/// How the names of a mesh's chains begin.
pub fn prefix(mesh: Mesh) -> &'static str {
    match mesh {
        Mesh::Istio => "ISTIO_",
        Mesh::Osm => "OSM_PROXY_",
        Mesh::Linkerd => "PROXY_INIT_",
        Mesh::Outrigger => "OUTRIGGER_",
    }
}

/// Moves the rules of built-in chains into chains of ours, each behind one jump. Then whoever cleans up knows our rules by the
/// names of their chains alone, and a jump as the first rule keeps rules of others from coming before ours.
fn behind_hooks(rules: Vec<Rule>, prefix: &str) -> Vec<Rule> {
    let hook = |chain: &ChainName| ChainName(format!("{prefix}HOOK_{chain}"));
    let mut jumps: Vec<Rule> = Vec::new();
    let mut moved = Vec::with_capacity(rules.len());
    for mut rule in rules {
        if rule.chain.is_built_in() {
            let to = hook(&rule.chain);
            let jump = Rule::new(rule.table, rule.chain.clone(), Vec::new(), Target::Jump(to.clone()));
            let jump = jump.at(Place::First);
            if !jumps.contains(&jump) {
                jumps.push(jump);
            }
            rule.chain = to;
        }
        moved.push(rule);
    }
    moved.extend(jumps);
    moved
}

impl Options {
    /// The range that is the workload's own loopback.
    fn own_loopback(&self, family: Family) -> Cidr {
        match family {
            Family::V4 => self.loopback,
            Family::V6 => Cidr::v6(1),
        }
    }
}

/// Where the proxy's connections to the workload come from.
fn inbound_source(family: Family) -> Cidr {
    match family {
        Family::V4 => INBOUND_SOURCE_V4,
        Family::V6 => INBOUND_SOURCE_V6,
    }
}

fn of_family(ranges: &[Cidr], family: Family) -> impl Iterator<Item = Cidr> {
    ranges.iter().copied().filter(move |range| range.family() == family)
}

/// A chain that is being written.
struct Writer<'a> {
    rules: &'a mut Vec<Rule>,
    table: Table,
    chain: ChainName,
}

impl Writer<'_> {
    fn add(&mut self, matches: impl Into<Vec<crate::rule::Match>>, target: Target) {
        self.rules.push(Rule::new(self.table, self.chain.clone(), matches.into(), target));
    }

    fn insert(&mut self, place: Place, matches: impl Into<Vec<crate::rule::Match>>, target: Target) {
        self.rules.push(Rule::new(self.table, self.chain.clone(), matches.into(), target).at(place));
    }
}

#[cfg(test)]
mod tests;
