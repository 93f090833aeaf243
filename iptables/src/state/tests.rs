use proptest::prelude::*;

use super::{Extent, Standing, State, checks, may_be_in_force, standing, tables, transaction};
use crate::address::{Cidr, Family};
use crate::options::{Interception, Options};
use crate::plan::plan;
use crate::rule::{self, Place, Plan, Style, Table};
use crate::testing::options;
use crate::{preset, restore};

/// What `iptables-save` would print with the plan in force, each built-in chain having a rule of somebody else.
fn saved(plan: &Plan, family: Family) -> String {
    let mut text = String::from("# Generated\n");
    for table in Table::ALL {
        let chains = rule::chains(plan.rules(family), table);
        text += &format!("*{table}\n");
        for name in chains.keys() {
            text += &format!(":{name} {}\n", if name.is_built_in() { "ACCEPT [1:60]" } else { "- [0:0]" });
        }
        for (name, rules) in &chains {
            for rule in rules {
                text += &restore::line(&(*rule).clone().at(Place::Last), Style::Istio);
                text.push('\n');
            }
            if name.is_built_in() {
                text += &format!("-A {name} -m comment --comment \"not ours\" -j ACCEPT\n");
            }
        }
        text += "COMMIT\n";
    }
    text
}

proptest! {
    #[test]
    fn a_plan_in_force_is_recognised(options in options()) {
        let plan = plan(&options);
        for family in plan.families() {
            prop_assert_eq!(standing(&plan, family, &State::read("")), Standing::Absent);
            let text = saved(&plan, family);
            prop_assert_eq!(standing(&plan, family, &State::read(&text)), Standing::InForce, "{}", text);
        }
    }

    #[test]
    fn another_plan_is_not_taken_for_it(one in options(), other in options()) {
        let other = Options { mesh: one.mesh, ..other };
        let (one, other) = (plan(&one), plan(&other));
        let same = Table::ALL.iter().all(|table| rule::chains(&one.v4, *table) == rule::chains(&other.v4, *table));
        let found = standing(&one, Family::V4, &State::read(&saved(&other, Family::V4)));
        // a rule of the other plan in a built-in chain is only known to be ours if it jumps to a chain of ours
        let differs = Table::ALL.iter().any(|table| {
            let own = |plan: &Plan| {
                let chains = rule::chains(&plan.v4, *table);
                let own = chains.iter().filter(|(name, _)| !name.is_built_in());
                format!("{:?}", own.collect::<Vec<_>>())
            };
            own(&one) != own(&other)
        });
        prop_assert!(!same || found == Standing::InForce);
        prop_assert!(!differs || found == Standing::Different);
    }

    #[test]
    fn every_line_that_is_deleted_is_there(options in options()) {
        let plan = plan(&options);
        let text = saved(&plan, Family::V4);
        let change = transaction(&plan, &[], Family::V4, &State::read(&text), Extent::All);
        for line in change.lines().filter_map(|line| line.strip_prefix("-D ")) {
            let found = text.contains(&format!("-A {line}\n"));
            prop_assert!(found, "{}", line);
            prop_assert!(!line.contains("not ours"));
        }
    }
}

#[test]
fn cleaning_up_leaves_what_is_others() {
    let full = plan(&preset::named("istio").unwrap());
    let nothing = Plan { v4: Vec::new(), ..full.clone() };
    let state = State::read(&saved(&full, Family::V4));
    let change = transaction(&nothing, &[&full], Family::V4, &state, Extent::All);
    assert_eq!(tables(&change), 1);
    for line in [
        "-D OUTPUT -j ISTIO_OUTPUT",
        "-D PREROUTING -p tcp -j ISTIO_INBOUND",
        "-X ISTIO_OUTPUT",
        ":ISTIO_OUTPUT - [0:0]",
    ] {
        assert!(change.lines().any(|found| found == line), "{line}\n{change}");
    }
    assert!(!change.contains("-A ") && !change.contains("not ours"));
    assert_eq!(transaction(&nothing, &[&full], Family::V4, &State::read(""), Extent::All), "");
}

#[test]
fn a_table_that_is_as_it_should_be_is_left_alone() {
    let options = Options { interception: Interception::TProxy, ..preset::named("istio").unwrap() };
    let (before, after) = (plan(&options), Options { outbound_ports: vec![7.into()], ..options });
    let state = State::read(&saved(&before, Family::V4));
    let after = plan(&after);
    assert_eq!(tables(&transaction(&after, &[], Family::V4, &state, Extent::Changed)), 1);
    assert_eq!(tables(&transaction(&after, &[], Family::V4, &state, Extent::All)), 2);
    assert_eq!(transaction(&before, &[], Family::V4, &state, Extent::Changed), "");
}

#[test]
fn words_that_we_do_not_read_may_be_our_rules() {
    let plan = plan(&preset::named("istio").unwrap());
    let strange = saved(&plan, Family::V4).replace("-j RETURN", "--some-new-word -j RETURN");
    let state = State::read(&strange);
    assert_eq!(standing(&plan, Family::V4, &state), Standing::Different);
    assert!(may_be_in_force(&plan, Family::V4, &state));
    let less =
        strange.replacen("-A ISTIO_OUTPUT -m owner --uid-owner 1337 --some-new-word -j RETURN\n", "", 1);
    assert_ne!(less, strange);
    let mut lines: Vec<&str> = strange.lines().collect();
    let at = lines.iter().rposition(|line| line.starts_with("-A ISTIO_OUTPUT")).unwrap();
    lines.swap(at - 1, at);
    assert!(!may_be_in_force(&plan, Family::V4, &State::read(&lines.join("\n"))), "{lines:?}");
    assert!(!may_be_in_force(&plan, Family::V4, &State::read(&less)));
    let checks: Vec<String> = checks(&plan, Family::V4).map(|words| words.join(" ")).collect();
    assert!(
        checks.contains(&"-t nat -C ISTIO_OUTPUT -m owner --uid-owner 1337 -j RETURN".to_owned()),
        "{checks:?}"
    );
}

#[test]
fn the_order_of_rules_counts() {
    let full = plan(&preset::named("istio").unwrap());
    let text = saved(&full, Family::V4);
    let mut lines: Vec<&str> = text.lines().collect();
    let at = lines.iter().position(|line| line.starts_with("-A ISTIO_OUTPUT")).unwrap();
    lines.swap(at, at + 1);
    assert_eq!(standing(&full, Family::V4, &State::read(&lines.join("\n"))), Standing::Different);
}

#[test]
fn a_jump_into_the_void_is_residue() {
    let options = Options { outbound_exclude: vec![Cidr::v4(1, 1, 1, 1)], ..preset::named("istio").unwrap() };
    let text = "*nat\n:OUTPUT ACCEPT [0:0]\n:ISTIO_OLD - [0:0]\n-A OUTPUT -j ISTIO_OLD\nCOMMIT\n";
    let plan = plan(&options);
    let state = State::read(text);
    assert_eq!(standing(&plan, Family::V4, &state), Standing::Different);
    let change = transaction(&plan, &[], Family::V4, &state, Extent::All);
    assert!(change.contains("-D OUTPUT -j ISTIO_OLD\n") && change.contains("-X ISTIO_OLD\n"), "{change}");
}
