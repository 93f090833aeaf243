//! What is refused; what trees lead to is compared with Envoy's (`tests/tests/differential/rbac_matcher.rs`).

mod model;

use std::rc::Rc;
use std::time::{Instant, SystemTime};

use xds_api::read::{Options, Source, read};

use super::*;
use crate::address::Address;
use crate::config::BuildEnv;
use crate::stream_info::{ConnectionInfo, StreamInfo};

/// A tree whose actions are names of types, or why there is none.
fn build(matcher: &proto::Matcher, layer: Layer) -> Result<MatchTree<String>, String> {
    let env = BuildEnv::new(1);
    let mut cx = BuildCx::new(&env);
    let purpose = Purpose {
        inputs: Inputs {
            layer,
            admits: &|input| !input.ends_with(".DestinationIPInput"),
            refuse: &|input| format!("not {input}"),
        },
        action: &|message, _, _| Ok(message.to_owned()),
    };
    let built = MatchTree::build(matcher, &purpose, &mut cx);
    built.map_err(|Rejected| cx.into_errors().iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))
}

fn read_and_build(yaml: &str) -> Result<MatchTree<String>, String> {
    let matcher = read(&Source::yaml("m", yaml.as_bytes()), &Options::default()).expect(yaml).message;
    build(&matcher, Layer::Network)
}

fn stream_info() -> StreamInfo {
    let address = Address::from(std::net::SocketAddr::from(([127, 0, 0, 1], 1)));
    let connection = ConnectionInfo::new(address.clone(), address, "l".into());
    StreamInfo::new(Rc::new(connection), Instant::now(), SystemTime::now())
}

const ACTION: &str = "{action: {name: a, typed_config: {\"@type\": type.googleapis.com/envoy.config.rbac.v3.Action, name: a}}}";

fn input(kind: &str) -> String {
    format!("{{name: i, typed_config: {{\"@type\": type.googleapis.com/{kind}}}}}")
}

#[test]
fn what_cannot_be_is_refused_with_its_place() {
    let list = |predicate: &str, on_match: &str| {
        format!("matcher_list: {{matchers: [{{predicate: {predicate}, on_match: {on_match}}}]}}")
    };
    let port = input("envoy.extensions.matching.common_inputs.network.v3.SourcePortInput");
    let header = input("envoy.type.matcher.v3.HttpRequestHeaderMatchInput, header_name: a");
    let is = |input: &str| format!("{{single_predicate: {{input: {input}, value_match: {{exact: a}}}}}}");
    let at = "matcher_list.matchers[0]";
    for (yaml, expected) in [
        (
            list(&is(&header), ACTION),
            format!("{at}.predicate.single_predicate.input.typed_config: not envoy.type.matcher.v3.HttpRequestHeaderMatchInput"),
        ),
        (
            list(&is(&input("envoy.extensions.matching.common_inputs.network.v3.DestinationIPInput")), ACTION),
            format!("{at}.predicate.single_predicate.input.typed_config: not envoy.extensions.matching.common_inputs.network.v3.DestinationIPInput"),
        ),
        (
            list(&format!("{{or_matcher: {{predicate: [{}]}}}}", is(&port)), ACTION),
            format!("{at}.predicate.or_matcher.predicate: value must contain at least 2 item(s)"),
        ),
        (
            list(&is(&port), &ACTION.replacen('{', "{keep_matching: true, ", 1)),
            format!("{at}.on_match.keep_matching: keep_matching is not supported in this context"),
        ),
        (list(&is(&port), "{}"), format!("{at}.on_match: one of matcher, action is required")),
        (
            format!("{{matcher_tree: {{input: {port}}}, on_no_match: {{}}}}"),
            "matcher_tree: one of exact_match_map, prefix_match_map, custom_match is required\n\
             on_no_match: one of matcher, action is required"
                .to_owned(),
        ),
        (
            format!("matcher_tree: {{input: {port}, custom_match: {}}}", input("xds.type.matcher.v3.Int32RangeMatcher")),
            "matcher_tree.custom_match.typed_config: xds.type.matcher.v3.Int32RangeMatcher is no matcher that is available here"
                .to_owned(),
        ),
    ] {
        assert_eq!(read_and_build(&yaml).err().unwrap_or_default(), expected, "{yaml}");
    }
}

#[test]
fn trees_have_a_depth() {
    let nested = |depth: usize| {
        let (open, close) = ("{on_no_match: {matcher: ".repeat(depth), "}}".repeat(depth));
        read_and_build(&format!("{open}{{on_no_match: {ACTION}}}{close}"))
    };
    let deepest = nested(MAX_DEPTH - 1).unwrap();
    let info = stream_info();
    let action = deepest.find(&Facts::of_connection(&info)).map(String::as_str);
    assert_eq!(action, Some("envoy.config.rbac.v3.Action"));
    let error = nested(MAX_DEPTH).err().unwrap();
    assert!(error.ends_with("matcher: matchers are nested deeper than 32"), "{error}");
}
