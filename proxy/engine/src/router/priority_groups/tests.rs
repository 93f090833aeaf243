//! Which cluster a try gets. What Envoy makes of the same: `tests/tests/differential/retried_clusters.rs`.

use prost_types::ListValue;
use proxy_core::config::BuildEnv;
use proxy_core::names::Name;
use xds_api::read::{Options, Source, read};

use super::*;
use crate::router::tests::info;

fn build(yaml: &str) -> Result<PriorityGroups, String> {
    let proto = read(&Source::yaml("g", yaml.as_bytes()), &Options::default()).expect(yaml).message;
    let env = BuildEnv::new(1);
    let mut cx = BuildCx::new(&env);
    let built = PriorityGroups::build(&proto, &mut cx);
    built.map_err(|Rejected| cx.into_errors().iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))
}

const GROUPS: &str = "
priority_groups:
- {name: one, clusters: [{cluster_name: a, weight: 1}, {cluster_name: b, weight: 3}]}
- {name: two, clusters: [{cluster_name: c, weight: 1}]}
- {name: two, clusters: [{cluster_name: d, weight: 1}]}
";

fn chosen(groups: &PriorityGroups, info: &StreamInfo, attempt: u32, number: u64) -> String {
    match groups.cluster(groups.choose(info, attempt, number), info) {
        ClusterChoice::Named(name) => name.as_str().to_owned(),
        ClusterChoice::FromRequest(name) => format!("said:{name}"),
        ClusterChoice::None => "none".to_owned(),
    }
}

#[test]
fn each_try_has_its_group_and_the_last_group_all_that_follow() {
    let groups = build(GROUPS).unwrap();
    let tries = |number| [0, 1, 2, 3, 9].map(|attempt| chosen(&groups, &info(), attempt, number));
    assert_eq!(tries(0), ["a", "c", "d", "d", "d"]);
    assert_eq!(tries(1), ["b", "c", "d", "d", "d"]);
    assert_eq!(tries(u64::MAX), ["b", "c", "d", "d", "d"]);
    assert_eq!(groups.names().iter().map(Name::as_str).collect::<Vec<_>>(), ["a", "b", "c", "d"]);
}

fn value(kind: Kind) -> Value {
    Value { kind: Some(kind) }
}

fn said(text: &str) -> Value {
    value(Kind::StringValue(text.to_owned()))
}

fn all(values: Vec<Value>) -> Value {
    value(Kind::ListValue(ListValue { values }))
}

fn structure(fields: Vec<(&str, Value)>) -> Value {
    let fields = fields.into_iter().map(|(key, value)| (key.to_owned(), value)).collect();
    value(Kind::StructValue(Struct { fields }))
}

fn one(name: &str, weight: f64) -> Value {
    structure(vec![("cluster_name", said(name)), ("weight", value(Kind::NumberValue(weight)))])
}

#[test]
fn metadata_may_say_otherwise() {
    let groups = build(&format!("{GROUPS}override_metadata_namespace: told")).unwrap();
    let tries = |listed: Value| {
        let mut info = info();
        info.metadata.merge("told", Struct { fields: [(KEY.to_owned(), listed)].into() });
        [0, 1, 2].map(|attempt| chosen(&groups, &info, attempt, 5)).join(" ")
    };
    let named = |name: &str| structure(vec![("name", said(name))]);
    let own = |clusters: Vec<Value>| structure(vec![("name", said("q")), ("clusters", all(clusters))]);
    // The first of two groups of a name; the last element for all tries that follow.
    assert_eq!(tries(all(vec![named("two"), named("one")])), "c b b");
    assert_eq!(tries(all(vec![own(vec![one("x", 5.0), one("y", 1.0)]), named("two")])), "said:y c c");
    assert_eq!(tries(all(vec![structure(vec![("name", said("two")), ("clusters", all(vec![]))])])), "c c c");
    // What is not as it should be counts for nothing.
    for wrong in [
        said("two"),
        all(vec![]),
        all(vec![said("two")]),
        all(vec![named("unknown")]),
        all(vec![named("")]),
        all(vec![structure(vec![("clusters", all(vec![one("x", 1.0)]))])]),
        all(vec![structure(vec![("name", said("two")), ("clusters", said("x"))])]),
        all(vec![own(vec![one("x", 1.5)])]),
        all(vec![own(vec![one("x", 0.0)])]),
        all(vec![own(vec![one("x", f64::NAN)])]),
        all(vec![own(vec![one("x", 4_294_967_296.0)])]),
        all(vec![own(vec![one("", 1.0)])]),
        all(vec![own(vec![structure(vec![("cluster_name", said("x"))])])]),
    ] {
        assert_eq!(tries(wrong.clone()), "b c d", "{wrong:?}");
    }
}

#[test]
fn what_cannot_be_is_refused_with_its_place() {
    for (yaml, expected) in [
        ("{}", "priority_groups: value must contain at least 1 item(s)"),
        (
            "priority_groups: [{name: a}]",
            "priority_groups[0].clusters: value must contain at least 1 item(s)",
        ),
        (
            "priority_groups: [{clusters: [{cluster_name: a, weight: 1}]}]",
            "priority_groups[0].name: value length must be at least 1 characters",
        ),
        (
            "priority_groups: [{name: a, clusters: [{weight: 1}]}]",
            "priority_groups[0].clusters[0].cluster_name: value length must be at least 1 characters",
        ),
        (
            "priority_groups: [{name: a, clusters: [{cluster_name: a}, {cluster_name: b, weight: 0}]}]",
            "priority_groups[0].clusters[0].weight: value is required\npriority_groups[0].clusters[1].weight: value must be greater than or equal to 1",
        ),
        (
            "{header_name: ':path', priority_groups: [{name: a, clusters: [{cluster_name: a, weight: 1}]}]}",
            "header_name: ':path' is not the name of an ordinary header",
        ),
    ] {
        assert_eq!(build(yaml).err().unwrap_or_default(), expected, "{yaml}");
    }
}
