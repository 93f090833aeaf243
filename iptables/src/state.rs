//! What the kernel holds, compared with a plan, and the one transaction that leads from there to the plan.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;

use crate::address::Family;
use crate::restore;
use crate::rule::{self, ChainName, Place, Plan, Rule, Style, Table};

/// A rule that is in force.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// As `iptables-save` prints it, from the name of the chain on.
    text: String,
    /// What it says, if it says it in our vocabulary.
    rule: Option<Rule>,
}

impl Found {
    /// The chain it leads to, if its last words say so.
    fn jump(&self) -> Option<ChainName> {
        let (_, target) = self.text.rsplit_once(" -j ")?;
        (!target.contains(' ')).then(|| target.into())
    }
}

/// What `iptables-save` printed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct State(BTreeMap<Table, BTreeMap<ChainName, Vec<Found>>>);

impl State {
    /// Reads the output of `iptables-save`. Lines of tables that we never use are passed over.
    pub fn read(text: &str) -> State {
        let mut state = State::default();
        let mut table = None;
        for line in text.lines() {
            if let Some(name) = line.strip_prefix('*') {
                table = Table::ALL.into_iter().find(|table| table.name() == name.trim());
            }
            let Some(table) = table else { continue };
            let chains = state.0.entry(table).or_default();
            if let Some(chain) = line.strip_prefix(':') {
                let name = chain.split(' ').next().unwrap_or_default();
                chains.entry(name.into()).or_default();
            } else if let Some(text) = line.strip_prefix("-A ") {
                let name = text.split(' ').next().unwrap_or_default();
                let found = Found { text: text.to_owned(), rule: restore::parse(table, line) };
                chains.entry(name.into()).or_default().push(found);
            }
        }
        state
    }

    fn chains(&self, table: Table) -> impl Iterator<Item = (&ChainName, &Vec<Found>)> {
        self.0.get(&table).into_iter().flatten()
    }

    fn rules(&self, table: Table, chain: &ChainName) -> &[Found] {
        self.0.get(&table).and_then(|chains| chains.get(chain)).map_or(&[], Vec::as_slice)
    }

    /// The names of the chains in a table that are of the plan's mesh.
    fn own_chains<'a>(&'a self, plan: &'a Plan, table: Table) -> impl Iterator<Item = &'a ChainName> {
        self.chains(table).map(|(name, _)| name).filter(|name| plan.owns(name))
    }

    /// Rules in built-in chains that are ours: jumps to chains of ours, and those that a plan has itself.
    fn own_in_built_in<'a>(&'a self, plans: &'a [&Plan], family: Family, table: Table) -> Vec<&'a Found> {
        let planned =
            move |found: &Rule| plans.iter().flat_map(|plan| plan.rules(family)).any(|rule| rule.same(found));
        let ours = move |found: &&Found| {
            found.jump().is_some_and(|to| plans.iter().any(|plan| plan.owns(&to)))
                || found.rule.as_ref().is_some_and(planned)
        };
        let built_in = self.chains(table).filter(|(name, _)| name.is_built_in());
        built_in.flat_map(|(_, rules)| rules).filter(ours).collect()
    }

    /// Whether anything of the plan's mesh is there.
    fn has_residue(&self, plan: &Plan, family: Family) -> bool {
        Table::ALL.into_iter().any(|table| {
            self.own_chains(plan, table).next().is_some()
                || !self.own_in_built_in(&[plan], family, table).is_empty()
        })
    }
}

/// How what is there stands to a plan.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// Nothing of the mesh is there.
    Absent,
    /// Exactly the plan is there.
    InForce,
    /// Something else of the mesh is there.
    Different,
}

/// Compares what is there with the plan, the order of the rules included. (Istio compares without the order, which takes
/// rules that exempt in the wrong place for right ones.)
pub fn standing(plan: &Plan, family: Family, state: &State) -> Standing {
    if !state.has_residue(plan, family) {
        return if plan.rules(family).is_empty() { Standing::InForce } else { Standing::Absent };
    }
    if Table::ALL.into_iter().all(|table| table_in_force(plan, family, state, table)) {
        Standing::InForce
    } else {
        Standing::Different
    }
}

fn table_in_force(plan: &Plan, family: Family, state: &State, table: Table) -> bool {
    let wanted = rule::chains(plan.rules(family), table);
    let own: BTreeSet<&ChainName> = state.own_chains(plan, table).collect();
    let named: BTreeSet<&ChainName> = wanted.keys().filter(|chain| !chain.is_built_in()).collect();
    let equal = |found: &[&Found], wanted: &[&Rule]| {
        let pairs = found.iter().zip(wanted);
        found.len() == wanted.len()
            && pairs
                .into_iter()
                .all(|(found, wanted)| found.rule.as_ref().is_some_and(|found| found.same(wanted)))
    };
    own == named && chain_pairs(plan, family, state, table).iter().all(|(found, wanted)| equal(found, wanted))
}

/// Each chain as it is beside as it should be, of built-in ones what is ours.
fn chain_pairs<'a>(
    plan: &'a Plan,
    family: Family,
    state: &'a State,
    table: Table,
) -> Vec<(Vec<&'a Found>, Vec<&'a Rule>)> {
    let wanted = rule::chains(plan.rules(family), table);
    let here = state.chains(table).map(|(name, _)| name).filter(|name| name.is_built_in());
    let names: BTreeSet<&ChainName> = here.chain(wanted.keys()).collect();
    let plans = [plan];
    let of_chain = |name: &ChainName| {
        if !name.is_built_in() {
            return state.rules(table, name).iter().collect();
        }
        let start = format!("{name} ");
        let own = state.own_in_built_in(&plans, family, table);
        let own = own.into_iter().filter(|found| found.text.starts_with(&start));
        own.filter_map(|own| state.rules(table, name).iter().find(|found| std::ptr::eq(*found, own)))
            .collect()
    };
    names.into_iter().map(|name| (of_chain(name), wanted.get(name).cloned().unwrap_or_default())).collect()
}

/// For an iptables that gives rules back in words that we do not read: whether the plan may still be in force, because every
/// chain has as many rules of ours as it should, and those that we do read are in their places. Then [`checks`] tell of the
/// others.
pub fn may_be_in_force(plan: &Plan, family: Family, state: &State) -> bool {
    let tables = || Table::ALL.into_iter().map(|table| chain_pairs(plan, family, state, table));
    let is_or_may_be =
        |found: &Found, wanted: &Rule| found.rule.as_ref().is_none_or(|rule| rule.same(wanted));
    tables().flatten().all(|(found, wanted)| {
        found.len() == wanted.len()
            && found.iter().zip(&wanted).all(|(found, wanted)| is_or_may_be(found, wanted))
    }) && tables().flatten().flat_map(|(found, _)| found).any(|found| found.rule.is_none())
}

/// What to ask of iptables to learn whether each rule of the plan is there: its arguments.
pub fn checks(plan: &Plan, family: Family) -> impl Iterator<Item = Vec<String>> {
    plan.rules(family).iter().map(|rule| {
        let line = restore::line(&rule.clone().at(Place::Last), Style::Istio).replacen("-A", "-C", 1);
        let words = line.split(' ').map(|word| word.trim_matches('"').to_owned());
        ["-t".to_owned(), rule.table.name().to_owned()].into_iter().chain(words).collect()
    })
}

/// How much a transaction writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Extent {
    /// Tables that are not as they should be.
    Changed,
    /// Every table of the plan.
    All,
}

/// One input of `iptables-restore --noflush` that takes away whatever is there of the mesh and puts the plan in its place;
/// each table changes at once. `former` are further plans whose rules in built-in chains are to go. Without rules in the plan
/// it only takes away. Empty when there is nothing to do.
pub fn transaction(plan: &Plan, former: &[&Plan], family: Family, state: &State, extent: Extent) -> String {
    let mut plans = vec![plan];
    plans.extend(former);
    let mut text = String::new();
    for table in Table::ALL {
        let rules: Vec<&Rule> = plan.rules(family).iter().filter(|rule| rule.table == table).collect();
        let wanted = rule::own_chains(plan.rules(family), table);
        let stale: Vec<_> = state.own_chains(plan, table).filter(|name| !wanted.contains(name)).collect();
        let old = state.own_in_built_in(&plans, family, table);
        let nothing = rules.is_empty() && stale.is_empty() && old.is_empty();
        let as_it_should_be = || {
            old.len() == state.own_in_built_in(&[plan], family, table).len()
                && table_in_force(plan, family, state, table)
        };
        if nothing || extent == Extent::Changed && as_it_should_be() {
            continue;
        }
        let _ = writeln!(text, "*{table}");
        // creates a chain, or empties it
        for chain in wanted.iter().chain(&stale) {
            let _ = writeln!(text, ":{chain} - [0:0]");
        }
        for found in old {
            let _ = writeln!(text, "-D {}", found.text);
        }
        for rule in rules {
            let _ = writeln!(text, "{}", restore::line(rule, Style::Istio));
        }
        for chain in stale {
            let _ = writeln!(text, "-X {chain}");
        }
        text += "COMMIT\n";
    }
    text
}

/// How many tables a transaction changes: several do not change at the same instant.
pub fn tables(transaction: &str) -> usize {
    transaction.lines().filter(|line| line.starts_with('*')).count()
}

#[cfg(test)]
mod tests;
