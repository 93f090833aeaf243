//! What `nft list table` prints, compared with what we wrote.
//!
//! nft gives rules back in other words than it took them, and in different ones by version. Both sides are brought to
//! plain words; where that does not make them equal, the rules count as different, which costs no more than writing them again.

use std::collections::BTreeMap;

use crate::address::Cidr;
use crate::rule::Plan;

/// The rules of each chain of a table, in plain words.
pub type Chains = BTreeMap<String, Vec<Vec<String>>>;

/// What the plan comes to: its tables, and what is in them.
pub fn wanted(plan: &Plan) -> BTreeMap<String, Chains> {
    let mut tables: BTreeMap<String, Chains> = BTreeMap::new();
    for line in super::render(plan).lines() {
        let words: Vec<&str> = line.split(' ').collect();
        let (kind, table, chain, rule) = match words[..] {
            ["add", kind, _, table, chain, ref rule @ ..] => (kind, table, chain, rule),
            _ => continue,
        };
        let rules = tables.entry(table.into()).or_default().entry(chain.into()).or_default();
        if kind == "rule" {
            rules.push(plain(rule.iter().copied()));
        }
    }
    tables
}

/// What a listing comes to.
pub fn found(listing: &str) -> Chains {
    let mut chains = Chains::new();
    let mut chain = None;
    for line in listing.lines().map(str::trim) {
        if let Some(name) = line.strip_prefix("chain ").and_then(|rest| rest.strip_suffix(" {")) {
            chains.insert(name.into(), Vec::new());
            chain = Some(name);
        } else if line == "}" {
            chain = None;
        } else if !line.is_empty() && !line.starts_with("type ") {
            // whatever is in a chain besides its hook is a rule
            let rule = plain(line.split_ascii_whitespace());
            chain.into_iter().for_each(|name| chains.entry(name.into()).or_default().push(rule.clone()));
        }
    }
    chains
}

/// Whether there are as many rules in every chain, whatever their words.
pub fn as_many(one: &Chains, other: &Chains) -> bool {
    let counts =
        |chains: &Chains| chains.iter().map(|(name, rules)| (name.clone(), rules.len())).collect::<Vec<_>>();
    counts(one) == counts(other)
}

/// A rule without what nft adds or leaves out: counts, quotes, `meta`, a protocol that a port names anyway, the sizes of
/// single addresses, bases of numbers, the order of states.
fn plain<'a>(words: impl Iterator<Item = &'a str>) -> Vec<String> {
    let words: Vec<&str> = words.filter(|word| *word != "meta").collect();
    let names_port = words.windows(2).any(|pair| ["dport", "sport"].contains(&pair[1]) && pair[0] != "th");
    let mut plain = Vec::with_capacity(words.len());
    let mut rest = words.into_iter();
    while let Some(word) = rest.next() {
        match word {
            "packets" | "bytes" => {
                rest.next();
            }
            "l4proto" if names_port => {
                rest.next();
            }
            "state" => {
                plain.push(word.to_owned());
                let mut states: Vec<&str> = rest.next().unwrap_or_default().split(',').collect();
                states.sort_unstable();
                plain.push(states.join(","));
            }
            _ => plain.push(value(word)),
        }
    }
    plain
}

fn value(word: &str) -> String {
    let word = word.trim_matches(|letter| letter == '"' || letter == ',');
    if let Some(number) = word.strip_prefix("0x").and_then(|digits| u32::from_str_radix(digits, 16).ok()) {
        return number.to_string();
    }
    match word.parse::<Cidr>() {
        Ok(range) => range.network().to_string(),
        Err(_) => word.trim_end_matches("/32").trim_end_matches("/128").to_owned(),
    }
}
