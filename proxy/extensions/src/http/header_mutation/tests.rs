//! Header mutations against what Envoy 1.40 made of the same configuration and request.

use super::*;
use crate::testing::{Stream, env, header_map, lines};
use http::StatusCode;
use std::any::Any;
use xds_api::envoy::config::common::mutation_rules::v3 as rules;
use xds_api::envoy::config::common::mutation_rules::v3::header_mutation::{Action, RemoveOnMatch};
use xds_api::envoy::config::core::v3 as core;
use xds_api::envoy::config::core::v3::header_value_option::HeaderAppendAction as Act;
use xds_api::envoy::config::core::v3::key_value_append::KeyValueAppendAction;
use xds_api::envoy::r#type::matcher::v3 as matcher;

fn append(key: &str, value: &str, action: Act) -> rules::HeaderMutation {
    let header = core::HeaderValue { key: key.into(), value: value.into(), ..Default::default() };
    let option =
        core::HeaderValueOption { header: Some(header), append_action: action as i32, ..Default::default() };
    rules::HeaderMutation { action: Some(Action::Append(option)) }
}

fn keep_empty(mut mutation: rules::HeaderMutation) -> rules::HeaderMutation {
    if let Some(Action::Append(option)) = &mut mutation.action {
        option.keep_empty_value = true;
    }
    mutation
}

fn remove(name: &str) -> rules::HeaderMutation {
    rules::HeaderMutation { action: Some(Action::Remove(name.into())) }
}

fn remove_prefix(prefix: &str) -> rules::HeaderMutation {
    let pattern = matcher::string_matcher::MatchPattern::Prefix(prefix.into());
    let key_matcher = matcher::StringMatcher { match_pattern: Some(pattern), ..Default::default() };
    rules::HeaderMutation {
        action: Some(Action::RemoveOnMatch(RemoveOnMatch { key_matcher: Some(key_matcher) })),
    }
}

fn query(key: &str, value: &str, action: KeyValueAppendAction) -> core::KeyValueMutation {
    let value = prost_types::Value { kind: Some(prost_types::value::Kind::StringValue(value.into())) };
    let record = core::KeyValuePair { key: key.into(), value: Some(value) };
    let append = core::KeyValueAppend { record: Some(record), action: action as i32, ..Default::default() };
    core::KeyValueMutation { append: Some(append), ..Default::default() }
}

fn filter_config(mutations: proto::Mutations, wins: bool) -> proto::HeaderMutation {
    proto::HeaderMutation { mutations: Some(mutations), most_specific_header_mutations_wins: wins }
}

fn level(name: &str) -> proto::HeaderMutationPerRoute {
    let mutations = proto::Mutations {
        request_mutations: vec![
            append("x-lvl", name, Act::AppendIfExistsOrAdd),
            append("x-last", name, Act::OverwriteIfExistsOrAdd),
        ],
        response_mutations: vec![append("x-rlvl", name, Act::AppendIfExistsOrAdd)],
        ..Default::default()
    };
    proto::HeaderMutationPerRoute { mutations: Some(mutations) }
}

/// A filter, and the configurations of levels, the most specific first.
fn built(
    config: proto::HeaderMutation,
    levels: Vec<proto::HeaderMutationPerRoute>,
) -> (Box<dyn HttpFilter>, Vec<Arc<dyn Any + Send + Sync>>) {
    let env = env();
    let mut cx = BuildCx::new(&env);
    let config = Arc::new(HeaderMutation::build(config, &mut cx).unwrap());
    let levels = levels
        .into_iter()
        .map(|level| {
            Arc::new(HeaderMutation::build_route(level, &mut cx).unwrap()) as Arc<dyn Any + Send + Sync>
        })
        .collect();
    (HeaderMutation::create(&config), levels)
}

#[test]
fn mutations_apply_in_order_to_requests() {
    let mutations = proto::Mutations {
        request_mutations: vec![
            append("x-a", "f%REQ(:method)%", Act::AppendIfExistsOrAdd),
            append("x-e", "", Act::AppendIfExistsOrAdd),
            keep_empty(append("x-k", "", Act::AppendIfExistsOrAdd)),
            append("x-miss", "%REQ(nope)%", Act::AppendIfExistsOrAdd),
            append("x-o", "1", Act::OverwriteIfExistsOrAdd),
            remove("x-rm"),
            append("x-seq", "%REQ(x-o)%", Act::AppendIfExistsOrAdd),
            remove_prefix("x-pre"),
            append("x-abs", "%REQ(x-abs)%z", Act::AddIfAbsent),
            append("x-abs", "again", Act::AddIfAbsent),
            append("x-ow", "w", Act::OverwriteIfExists),
            append("x-none", "w", Act::OverwriteIfExists),
        ],
        query_parameter_mutations: vec![
            query("q1", "v %REQ(x-o)%", KeyValueAppendAction::AppendIfExistsOrAdd),
            core::KeyValueMutation { remove: "y".into(), ..Default::default() },
            query("x", "9", KeyValueAppendAction::OverwriteIfExistsOrAdd),
        ],
        ..Default::default()
    };
    let (mut filter, _) = built(filter_config(mutations, false), Vec::new());
    let mut stream = Stream::new(&[
        ("x-rm", "1"),
        ("x-pre-a", "1"),
        ("x-prefix", "2"),
        ("x-ow", "old"),
        ("x-o", "0"),
        ("x-o", "00"),
    ]);
    stream.request.path = "/p?x=1&y=2&x=3".into();
    filter.on_request_headers(&mut stream.cx(), true);
    let mut headers = lines(&stream.request.headers);
    headers.sort_unstable();
    assert_eq!(headers, ["x-a: fGET", "x-abs: z", "x-k: ", "x-o: 1", "x-ow: w", "x-seq: 1"]);
    assert_eq!(stream.request.path, "/p?q1=v%201&x=9");
}

#[test]
fn mutations_apply_in_order_to_responses() {
    let mutations = proto::Mutations {
        response_mutations: vec![
            append("x-r", "%RESPONSE_CODE% %REQ(x-o)%", Act::AppendIfExistsOrAdd),
            remove("x-up"),
            append("x-r2", "%RESP(x-r)%", Act::AppendIfExistsOrAdd),
        ],
        response_trailers_mutations: vec![append("x-t", "%TRAILER(a)%", Act::AppendIfExistsOrAdd)],
        request_trailers_mutations: vec![remove("a")],
        ..Default::default()
    };
    let (mut filter, _) = built(filter_config(mutations, false), Vec::new());
    let mut stream = Stream::new(&[("x-o", "1")]);
    stream.respond(StatusCode::NOT_FOUND, header_map(&[("x-up", "u1"), ("x-up", "u2")]));
    filter.on_response_headers(&mut stream.cx(), false);
    assert_eq!(stream.response_lines(), ["x-r: 404 1", "x-r2: 404 1"]);
    let mut trailers = header_map(&[("a", "b")]);
    filter.on_response_trailers(&mut stream.cx(), &mut trailers);
    assert_eq!(lines(&trailers), ["a: b", "x-t: b"]);
    filter.on_request_trailers(&mut stream.cx(), &mut trailers);
    assert_eq!(lines(&trailers), ["x-t: b"]);
}

#[test]
fn levels_apply_from_the_route_up_or_down() {
    for (wins, order, last) in
        [(false, ["route", "vhost", "table"], "table"), (true, ["table", "vhost", "route"], "route")]
    {
        let (mut filter, levels) = built(
            filter_config(proto::Mutations::default(), wins),
            vec![level("route"), level("vhost"), level("table")],
        );
        let mut stream = Stream::new(&[]);
        stream.configs = levels;
        filter.on_request_headers(&mut stream.cx(), true);
        filter.on_response_headers(&mut stream.cx(), true);
        let values: Vec<_> = stream.request.headers.get_all("x-lvl").iter().collect();
        assert_eq!(values, order);
        assert_eq!(stream.request.headers["x-last"], last);
        assert_eq!(stream.response_lines(), order.map(|name| format!("x-rlvl: {name}")));
    }
}

#[test]
fn values_that_cannot_stand_in_a_header_are_left_out() {
    let mutations = proto::Mutations {
        request_mutations: vec![append("x-a", "%QUERY_PARAM(a)%", Act::AppendIfExistsOrAdd)],
        ..Default::default()
    };
    let (mut filter, _) = built(filter_config(mutations, false), Vec::new());
    let mut stream = Stream::new(&[]);
    stream.request.path = "/?a=%0d%0aevil:%201".into();
    filter.on_request_headers(&mut stream.cx(), true);
    assert!(stream.request.headers.is_empty());
}

#[test]
fn what_is_wrong_is_said_with_its_path() {
    let env = env();
    let request = |mutation| proto::Mutations { request_mutations: vec![mutation], ..Default::default() };
    let parameter =
        |mutation| proto::Mutations { query_parameter_mutations: vec![mutation], ..Default::default() };
    let add = Act::AppendIfExistsOrAdd;
    let both = core::KeyValueMutation {
        remove: "b".into(),
        ..query("a", "1", KeyValueAppendAction::AppendIfExistsOrAdd)
    };
    for (mutations, path) in [
        (request(rules::HeaderMutation::default()), "request_mutations[0]"),
        (request(append(":path", "/x", add)), "request_mutations[0].append"),
        (request(append("Host", "x", add)), "request_mutations[0].append"),
        (request(append("a b", "x", add)), "request_mutations[0].append.header.key"),
        (request(append("a", "%FOO%", add)), "request_mutations[0].append.header.value"),
        (request(append("a", "x\n", add)), "request_mutations[0].append.header.value"),
        (request(remove(":path")), "request_mutations[0].remove"),
        (parameter(core::KeyValueMutation::default()), "query_parameter_mutations[0]"),
        (parameter(both), "query_parameter_mutations[0]"),
        (
            parameter(core::KeyValueMutation { append: Some(Default::default()), ..Default::default() }),
            "query_parameter_mutations[0].append.record",
        ),
    ] {
        let mut cx = BuildCx::new(&env);
        assert!(HeaderMutation::build(filter_config(mutations, false), &mut cx).is_err());
        assert_eq!(cx.into_errors()[0].path, format!("mutations.{path}"));
    }
}
