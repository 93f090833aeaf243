use proptest::prelude::*;

use super::{cleanup, listing, merged, of, render, says_family, set, transaction};
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
    fn nothing_is_lost_on_the_way_to_plain_words(options in options()) {
        let plan = plan(&options);
        let rules = render(&plan).lines().filter(|line| line.starts_with("add rule ")).count();
        let wanted = listing::wanted(&plan);
        prop_assert_eq!(rules, wanted.values().flat_map(|chains| chains.values()).map(Vec::len).sum::<usize>());
        prop_assert!(transaction(&plan).starts_with(&cleanup(&plan)));
    }
}

#[test]
fn ports_are_joined_as_nft_joins_them() {
    let set = |ports: &[&str]| set(&ports.iter().map(|ports| ports.parse().unwrap()).collect::<Vec<_>>());
    assert_eq!(set(&["9", "1", "2:3"]), "{ 1-3, 9 }");
    assert_eq!(set(&["1", "2:3"]), "1-3");
    assert_eq!(set(&["4567:4568", "4190", "4191"]), "{ 4190-4191, 4567-4568 }");
    assert_eq!(set(&["1:65535", "65535"]), "1-65535");
}

/// As nft 1.0.6 lists it.
#[test]
fn nfts_words_mean_the_same() {
    let text = "table inet istio-proxy-mangle {\n\tchain prerouting {\n\t\ttype filter hook prerouting priority mangle; policy accept;\n\
                \t\tcounter packets 7 bytes 420 jump istio-inbound\n\t}\n\n\tchain istio-inbound {\n\
                \t\ttcp dport != { 53, 15008 } meta skuid 1337 counter packets 0 bytes 0 return\n\
                \t\tiifname \"lo\" meta l4proto tcp meta mark != 0x0000053a counter packets 0 bytes 0 return\n\
                \t\tmeta l4proto tcp ip daddr != 127.0.0.0/8 counter packets 0 bytes 0 return\n\
                \t\tct state established,related counter packets 0 bytes 0 return\n\t}\n\n\tchain empty {\n\t}\n}\n";
    let found = listing::found(text);
    let words = |rule: &str| rule.split(' ').map(str::to_owned).collect::<Vec<_>>();
    assert_eq!(found["prerouting"], [words("counter jump istio-inbound")]);
    assert_eq!(
        found["istio-inbound"],
        [
            words("tcp dport != { 53 15008 } skuid 1337 counter return"),
            words("iifname lo l4proto tcp mark != 1338 counter return"),
            words("l4proto tcp ip daddr != 127.0.0.0/8 counter return"),
            words("ct state established,related counter return"),
        ]
    );
    assert!(found["empty"].is_empty());
}
