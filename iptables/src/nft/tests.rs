use proptest::prelude::*;

use super::{cleanup, counts, is_rule, merged, of, render, says_family, transaction};
use crate::address::Family;
use crate::plan::plan;
use crate::rule::{self, Match, Rule, Table};
use crate::testing::options;

/// Whether a rule of a merged chain is for a version.
fn is_for(rule: &Rule, only: Option<Family>, family: Family) -> bool {
    let says = rule.matches.iter().all(|condition| match condition {
        Match::Source(_, range) | Match::Destination(_, range) => range.family() == family,
        _ => true,
    });
    says && only.is_none_or(|only| only == family)
}

proptest! {
    #[test]
    fn each_version_finds_its_rules_in_order(options in options()) {
        let plan = plan(&options);
        for table in Table::ALL {
            let (v4, v6) = (rule::chains(&plan.v4, table), rule::chains(&plan.v6, table));
            for chain in v4.keys().chain(v6.keys()) {
                let (four, six) = (of(&v4, chain), of(&v6, chain));
                let all = merged(four, six);
                for (family, wanted) in [(Family::V4, four), (Family::V6, six)] {
                    let found: Vec<&Rule> =
                        all.iter().filter(|(rule, only)| is_for(rule, *only, family)).map(|(rule, _)| *rule).collect();
                    // a plan for one version alone says nothing about the other
                    prop_assert!(wanted.is_empty() || found == wanted, "{}\n{:#?}", chain, all);
                }
                prop_assert!(six.is_empty() || all.iter().all(|(rule, only)| !(says_family(rule) && only.is_some())));
            }
        }
    }

    #[test]
    fn rules_are_counted(options in options()) {
        let plan = plan(&options);
        let rules = render(&plan).lines().filter(|line| line.starts_with("add rule ")).count();
        prop_assert_eq!(rules, counts(&plan).iter().map(|(_, rules)| rules).sum::<usize>());
        prop_assert!(transaction(&plan).starts_with(&cleanup(&plan)));
    }
}

#[test]
fn listings_are_told_apart() {
    for line in [
        "table inet x {",
        "\tchain output {",
        "\t\ttype nat hook output priority -100; policy accept;",
        "\t}",
        "}",
        "",
    ] {
        assert!(!is_rule(line), "{line}");
    }
    assert!(is_rule("\t\tcounter packets 0 bytes 0 jump istio-output"));
    assert!(is_rule("\t\ttcp dport != { 53, 15008 } counter packets 0 bytes 0 return"));
}
