mod mutations;
mod trees;

use std::any::Any;

use http::{Method, StatusCode};
use proptest::prelude::*;
use prost::Message;
use proxy_core::extension::http_filter::{
    HttpFilter, HttpFilterExtension, HttpFilterFactory, Of, Phases, Route,
};
use proxy_core::extension::{Descriptor, SecurityPosture, Status};
use proxy_core::runtime::RuntimeLayer;
use xds_api::envoy::config::core::v3 as core;
use xds_api::envoy::config::core::v3::{HeaderValue as HeaderValueProto, HeaderValueOption};
use xds_api::envoy::config::route::v3::header_matcher::HeaderMatchSpecifier;
use xds_api::envoy::config::route::v3::query_parameter_matcher::QueryParameterMatchSpecifier;
use xds_api::envoy::config::route::v3::route::Action as ActionProto;
use xds_api::envoy::config::route::v3::route_action::{
    ClusterSpecifier, HostRewriteSpecifier, UpgradeConfig,
};
use xds_api::envoy::config::route::v3::route_match::PathSpecifier;
use xds_api::envoy::config::route::v3::weighted_cluster::{
    ClusterWeight as WeightProto, RandomValueSpecifier,
};
use xds_api::envoy::r#type::matcher::v3::string_matcher::MatchPattern;
use xds_api::envoy::r#type::matcher::v3::{
    RegexMatcher as RegexMatcherProto, StringMatcher as StringMatcherProto,
};

use super::*;
use crate::router::cluster::Tried;
use crate::router::tests::{
    build_table, build_with, forward, get, host, info, one_host, prefix, regex_rewrite, route, selected,
    table, to_cluster, with,
};

fn cluster_of(table: &RouteTable, request: &RequestHead) -> Option<String> {
    selected(table, request, 0, |route| match route.cluster(request, &info()) {
        ClusterChoice::Named(name) => Some(name.as_str().to_owned()),
        ClusterChoice::FromRequest(name) => Some(format!("header:{name}")),
        ClusterChoice::None => None,
    })?
}

fn add(key: &str, value: &str) -> HeaderValueOption {
    HeaderValueOption {
        header: Some(HeaderValueProto {
            key: key.to_owned(),
            value: value.to_owned(),
            raw_value: Vec::new(),
        }),
        ..HeaderValueOption::default()
    }
}

fn overwrite(key: &str, value: &str) -> HeaderValueOption {
    HeaderValueOption { append_action: 2, ..add(key, value) }
}

#[test]
fn the_first_matching_route_of_the_best_virtual_host_wins() {
    let table = build_table(&table(vec![
        host("default", &["*"], vec![to_cluster(prefix("/"), "default")]),
        host(
            "a",
            &["a.example"],
            vec![
                to_cluster(PathSpecifier::Path("/x".to_owned()), "exact"),
                to_cluster(prefix("/x"), "prefix"),
            ],
        ),
    ]))
    .unwrap();
    for (host, path, cluster) in [
        ("A.Example", "/x?q", Some("exact")),
        ("a.example", "/xy", Some("prefix")),
        ("a.example", "/", None),
        ("b.example", "/x", Some("default")),
    ] {
        assert_eq!(cluster_of(&table, &get(host, path)).as_deref(), cluster, "{host}{path}");
    }
}

/// Every row was observed on Envoy 1.40.
#[test]
fn domains_are_chosen_as_in_envoy() {
    let domains = ["*.a.com", "*-x.a.com", "a.*", "a.b*", "*.com", "[::1]", "*q*", "z.com:80", "**"];
    let table = build_table(&table(
        domains.iter().map(|domain| host(domain, &[domain], vec![to_cluster(prefix("/"), domain)])).collect(),
    ))
    .unwrap();
    for (host, domain) in [
        ("x.a.com", Some("*.a.com")),
        ("a.com", Some("*.com")),
        (".a.com", Some("*.com")),
        ("y-x.a.com", Some("*-x.a.com")),
        ("-x.a.com", Some("*.a.com")),
        ("a.foo", Some("a.*")),
        ("a.bar", Some("a.b*")),
        ("a.", None),
        ("a.b", Some("a.*")),
        ("b.com", Some("*.com")),
        ("[::1]", Some("[::1]")),
        ("[::1]:80", None),
        ("zq", None),
        ("z.com:80", Some("z.com:80")),
        ("z.com", Some("*.com")),
        ("z.com:8080", None),
        ("*", None),
        ("x*", Some("**")),
        ("X.A.COM", Some("*.a.com")),
        ("x.a.com:80", None),
        ("", None),
    ] {
        assert_eq!(cluster_of(&table, &get(host, "/")).as_deref(), domain, "{host}");
    }
}

#[test]
fn ports_and_other_headers_may_name_the_host() {
    let mut proto = table(vec![host("v", &["a.com", "[::1]"], vec![to_cluster(prefix("/"), "c")])]);
    proto.ignore_port_in_host_matching = true;
    let table = build_table(&proto).unwrap();
    for (host, found) in
        [("a.com", true), ("a.com:80", true), ("[::1]:80", true), ("[::1]", true), ("b:80", false)]
    {
        assert_eq!(cluster_of(&table, &get(host, "/")).is_some(), found, "{host}");
    }
    proto.vhost_header = "x-host".to_owned();
    let table = build_table(&proto).unwrap();
    assert!(cluster_of(&table, &get("a.com", "/")).is_none());
    assert!(cluster_of(&table, &with(get("b", "/"), &[("x-host", "A.com:1")])).is_some());
}

/// Every message is Envoy 1.40's.
#[test]
fn what_is_wrong_is_said_with_its_path_all_at_once() {
    let duplicate = table(vec![
        host("a", &["*", "b", "*.c", "d.*"], vec![]),
        host("b", &["*", "B", "*.C", "D.*"], vec![to_cluster(prefix("/"), "")]),
    ]);
    let errors = build_table(&duplicate).unwrap_err();
    let texts: Vec<String> = errors.iter().map(ToString::to_string).collect();
    let unique = "Only unique values for domains are permitted. Duplicate entry of domain";
    assert_eq!(
        texts,
        [
            "virtual_hosts[1].routes[0].route.cluster: value length must be at least 1 characters".to_owned(),
            "virtual_hosts[1].domains[0]: Only a single wildcard domain is permitted in route rc".to_owned(),
            format!("virtual_hosts[1].domains[1]: {unique} b in route rc"),
            format!("virtual_hosts[1].domains[2]: {unique} *.c in route rc"),
            format!("virtual_hosts[1].domains[3]: {unique} d.* in route rc"),
        ]
    );
}

fn rejected(action: proto::RouteAction) -> String {
    let proto = one_host(vec![route(prefix("/"), ActionProto::Route(action))]);
    build_table(&proto).unwrap_err().remove(0).to_string()
}

#[test]
fn actions_that_cannot_be_honoured_are_refused() {
    let upgrade = |kind: &str, connect| UpgradeConfig {
        upgrade_type: kind.to_owned(),
        enabled: None,
        connect_config: connect,
    };
    let hedge = proto::HedgePolicy { initial_requests: Some(2), ..Default::default() };
    for (action, reason) in [
        (
            proto::RouteAction { hedge_policy: Some(hedge), ..forward("c") },
            "virtual_hosts[0].routes[0].route.hedge_policy.initial_requests: is not implemented, nor is it in Envoy",
        ),
        (
            proto::RouteAction { request_mirror_policies: vec![Default::default()], ..forward("c") },
            "request_mirror_policies[0]: Exactly one of cluster or cluster_header in request mirror policy need",
        ),
        (proto::RouteAction { hash_policy: vec![Default::default()], ..forward("c") }, "policy_specifier"),
        (
            proto::RouteAction {
                prefix_rewrite: "/".to_owned(),
                regex_rewrite: Some(regex_rewrite("a", "b")),
                ..forward("c")
            },
            "Specify only one of prefix_rewrite, regex_rewrite or path_rewrite_policy",
        ),
        (
            proto::RouteAction {
                upgrade_configs: vec![upgrade("websocket", None), upgrade("WebSocket", None)],
                ..forward("c")
            },
            "Duplicate upgrade WebSocket",
        ),
        (
            proto::RouteAction {
                upgrade_configs: vec![upgrade("websocket", Some(Default::default()))],
                ..forward("c")
            },
            "Non-CONNECT upgrade type websocket has ConnectConfig",
        ),
        (
            proto::RouteAction { cluster_specifier: None, ..forward("c") },
            "cluster_specifier: value is required",
        ),
        (
            proto::RouteAction {
                timeout: Some(prost_types::Duration { seconds: -1, nanos: 0 }),
                ..forward("c")
            },
            "route.timeout: a timeout must not be negative",
        ),
    ] {
        let error = rejected(action);
        assert!(error.contains(reason), "{error}");
    }
}

fn weighted(clusters: Vec<WeightProto>) -> proto::WeightedCluster {
    proto::WeightedCluster { clusters, ..Default::default() }
}

fn weight(name: &str, weight: u32) -> WeightProto {
    WeightProto { name: name.to_owned(), weight: Some(weight), ..Default::default() }
}

fn weighted_route(proto: proto::WeightedCluster) -> proto::RouteConfiguration {
    let action = proto::RouteAction {
        cluster_specifier: Some(ClusterSpecifier::WeightedClusters(proto)),
        ..Default::default()
    };
    one_host(vec![route(prefix("/"), ActionProto::Route(action))])
}

#[test]
fn weighted_clusters_follow_the_number() {
    let mut proto = weighted(vec![weight("a", 3), weight("zero", 0), weight("b", 7)]);
    proto.random_value_specifier = Some(RandomValueSpecifier::HeaderName("x-r".to_owned()));
    let table = build_table(&weighted_route(proto)).unwrap();
    let of = |request: &RequestHead, random| {
        selected(&table, request, random, |route| route.cluster(request, &info()).named().to_owned()).unwrap()
    };
    for (random, cluster) in [(0, "a"), (2, "a"), (3, "b"), (9, "b"), (10, "a"), (13, "b"), (u64::MAX, "b")] {
        assert_eq!(of(&get("h", "/"), random), cluster, "{random}");
        let request = with(get("h", "/"), &[("x-r", &random.to_string())]);
        assert_eq!(of(&request, 0), cluster, "header {random}");
    }
    assert_eq!(of(&with(get("h", "/"), &[("x-r", "x")]), 5), "b");
    assert_eq!(of(&with(get("h", "/"), &[("x-r", "0"), ("x-r", "0")]), 5), "b");
    for bad in [
        weighted(vec![]),
        weighted(vec![weight("a", 0)]),
        weighted(vec![weight("a", u32::MAX), weight("b", 1)]),
        weighted(vec![weight("", 1)]),
        weighted(vec![WeightProto { weight: None, ..weight("a", 1) }]),
        weighted(vec![WeightProto { cluster_header: "x".to_owned(), ..weight("a", 1) }]),
    ] {
        assert!(build_table(&weighted_route(bad)).is_err());
    }
}

#[test]
fn a_request_that_is_sent_again_gets_a_weighted_cluster_that_was_not_tried() {
    let proto = weighted(vec![weight("a", 1), weight("b", 1), weight("c", 0)]);
    let table = build_table(&weighted_route(proto)).unwrap();
    let (request, known, runtime) = (get("h", "/"), info(), Runtime::default());
    let mut matched = table.route(&request, &known, &runtime, 0).unwrap();
    let mut tried = Tried::new();
    let mut clusters = Vec::new();
    for attempt in 1..=4 {
        let selected = table.selected(matched).unwrap();
        clusters.push(selected.cluster(&request, &known).named().to_owned());
        let mut again = Again { tried: &mut tried, attempt };
        matched = table.choose_again(matched, &request, &known, &runtime, &mut again).unwrap();
    }
    assert_eq!(clusters, ["a", "b", "a", "b"]);
    let table = build_table(&one_host(vec![to_cluster(prefix("/"), "only")])).unwrap();
    let matched = table.route(&request, &known, &runtime, 0).unwrap();
    let mut again = Again { tried: &mut tried, attempt: 1 };
    assert_eq!(table.choose_again(matched, &request, &known, &runtime, &mut again), None);
}

#[test]
fn runtime_keys_change_weights() {
    let mut proto = weighted(vec![weight("a", 1), weight("b", 0)]);
    proto.runtime_key_prefix = "w".to_owned();
    let table = build_table(&weighted_route(proto)).unwrap();
    let values = [("w.a".to_owned(), "0".to_owned()), ("w.b".to_owned(), "5".to_owned())].into();
    let changed = Runtime::new(vec![RuntimeLayer { values, ..RuntimeLayer::default() }]);
    let request = get("h", "/");
    for (runtime, cluster) in [(&Runtime::default(), "a"), (&changed, "b")] {
        let matched = table.route(&request, &info(), runtime, 3).unwrap();
        assert_eq!(table.selected(matched).unwrap().cluster(&request, &info()).named(), cluster);
    }
}

impl ClusterChoice<'_> {
    fn named(&self) -> &str {
        match self {
            Self::Named(name) => name.as_str(),
            Self::FromRequest(name) => name,
            Self::None => "",
        }
    }
}

#[test]
fn a_header_may_name_the_cluster() {
    let action = proto::RouteAction {
        cluster_specifier: Some(ClusterSpecifier::ClusterHeader("x-c".to_owned())),
        cluster_not_found_response_code: 1,
        ..Default::default()
    };
    let table = build_table(&one_host(vec![route(prefix("/"), ActionProto::Route(action))])).unwrap();
    for (headers, cluster) in [
        (vec![], None),
        (vec![("x-c", "b")], Some("header:b")),
        (vec![("x-c", "")], None),
        (vec![("x-c", "a"), ("x-c", "b")], Some("header:a")),
    ] {
        assert_eq!(cluster_of(&table, &with(get("h", "/"), &headers)).as_deref(), cluster, "{headers:?}");
    }
    let status = selected(&table, &get("h", "/"), 0, |route| match route.action() {
        Action::Forward(forward) => forward.cluster_not_found,
        other => panic!("{other:?}"),
    });
    assert_eq!(status, Some(StatusCode::NOT_FOUND));
}

/// Path, host and the headers about them after the route is done with the request.
fn finalized(table: &RouteTable, request: &RequestHead) -> (String, Vec<(String, String)>) {
    let mut request = request.clone();
    let before = request.clone();
    selected(table, &before, 0, |route| {
        route.finalize_request(&mut request, &info(), EnvoyHeaders::Added);
        route.rewrite_host_to_upstream(&mut request, "up.example", EnvoyHeaders::Added);
    })
    .unwrap();
    let names = ["x-envoy-original-path", "x-envoy-original-host", "x-forwarded-host"];
    let mut headers: Vec<(String, String)> = Vec::new();
    for name in names {
        for value in request.headers.get_all(name) {
            headers.push((name.to_owned(), value.to_str().unwrap().to_owned()));
        }
    }
    (format!("{}{}", request.authority, request.path), headers)
}

fn forwarded(path: PathSpecifier, action: proto::RouteAction, host: &str, request_path: &str) -> String {
    let table = build_table(&one_host(vec![route(path, ActionProto::Route(action))])).unwrap();
    let (url, headers) = finalized(&table, &get(host, request_path));
    let original = headers.iter().find(|(name, _)| name == "x-envoy-original-path");
    assert_eq!(original.is_some(), url != format!("{host}{request_path}"), "{url}: {original:?}");
    url
}

/// Every row was observed on Envoy 1.40.
#[test]
fn paths_are_rewritten_as_in_envoy() {
    let to = |prefix: &str| proto::RouteAction { prefix_rewrite: prefix.to_owned(), ..forward("c") };
    let regex = |pattern: &str, substitution: &str| proto::RouteAction {
        regex_rewrite: Some(regex_rewrite(pattern, substitution)),
        ..forward("c")
    };
    let separated = |prefix: &str| PathSpecifier::PathSeparatedPrefix(prefix.to_owned());
    let safe_regex = |regex: &str| PathSpecifier::SafeRegex(regex_rewrite(regex, "").pattern.unwrap());
    for (path, action, request, expected) in [
        (prefix("/foo"), to("/"), "/foo/x", "//x"),
        (prefix("/foo"), to("/bar"), "/foobar?q", "/barbar?q"),
        (separated("/foo"), to("/bar/"), "/foo/x", "/bar//x"),
        (separated("/foo"), to("/bar"), "/foo?x", "/bar?x"),
        (PathSpecifier::Path("/foo".to_owned()), to("/bar"), "/foo?a", "/bar?a"),
        (safe_regex("/foo/.*"), to("/bar"), "/foo/x?y", "/bar?y"),
        (prefix("/"), regex("b", r"[\0]"), "/abcb?b=1", "/a[b]c[b]?b=1"),
        (prefix("/"), regex("^/.*$", ""), "/abcb?b=1", "/abcb?b=1"),
    ] {
        assert_eq!(forwarded(path, action, "h", request), format!("h{expected}"), "{request}");
    }
    let mut insensitive = route(prefix("/Foo"), ActionProto::Route(to("/bar")));
    insensitive.r#match.as_mut().unwrap().case_sensitive = Some(false);
    let table = build_table(&one_host(vec![insensitive])).unwrap();
    assert_eq!(finalized(&table, &get("h", "/fOO/x?y")).0, "h/bar/x?y");
}

#[test]
fn suppressed_headers_do_not_tell_the_old_path() {
    let action = proto::RouteAction {
        prefix_rewrite: "/b".to_owned(),
        host_rewrite_specifier: Some(HostRewriteSpecifier::HostRewriteLiteral("new".to_owned())),
        ..forward("c")
    };
    let table = build_table(&one_host(vec![route(prefix("/a"), ActionProto::Route(action))])).unwrap();
    let mut request = get("h", "/a");
    let before = request.clone();
    selected(&table, &before, 0, |route| {
        route.finalize_request(&mut request, &info(), EnvoyHeaders::Suppressed);
    });
    assert_eq!((request.authority.as_str(), request.path.as_str()), ("new", "/b"));
    assert_eq!(request.headers.len(), before.headers.len());
}

/// Every row was observed on Envoy 1.40.
#[test]
fn hosts_are_rewritten_as_in_envoy() {
    let rewrite = |specifier, append| proto::RouteAction {
        host_rewrite_specifier: Some(specifier),
        append_x_forwarded_host: append,
        ..forward("c")
    };
    let literal = rewrite(HostRewriteSpecifier::HostRewriteLiteral("new".to_owned()), true);
    let header = rewrite(HostRewriteSpecifier::HostRewriteHeader("x-h".to_owned()), true);
    let regex = rewrite(HostRewriteSpecifier::HostRewritePathRegex(regex_rewrite("^/p/(.+)$", r"\1")), false);
    let auto = rewrite(HostRewriteSpecifier::AutoHostRewrite(true), true);
    let table = build_table(&one_host(vec![
        route(prefix("/x"), ActionProto::Route(literal)),
        route(prefix("/h"), ActionProto::Route(header)),
        route(prefix("/p"), ActionProto::Route(regex)),
        route(prefix("/auto"), ActionProto::Route(auto)),
    ]))
    .unwrap();
    for (path, headers, host, forwarded_host) in [
        ("/x", vec![], "new", Some("hl")),
        ("/x", vec![("x-forwarded-host", "o")], "new", Some("o,hl")),
        ("/x", vec![("x-forwarded-host", "o, hl")], "new", Some("o, hl,hl")),
        ("/x", vec![("x-forwarded-host", "hl,o")], "new", Some("hl,o,hl")),
        ("/x", vec![("x-forwarded-host", "hl")], "new", Some("hl")),
        ("/x", vec![("x-forwarded-host", "q,hl")], "new", Some("q,hl")),
        ("/h", vec![], "hl", None),
        ("/h", vec![("x-h", "zed")], "zed", Some("hl")),
        ("/h", vec![("x-h", "")], "hl", None),
        ("/h", vec![("x-h", "z1"), ("x-h", "z2")], "z1", Some("hl")),
        ("/p/abc?q", vec![], "abc", None),
        ("/pp", vec![], "/pp", None),
        ("/auto", vec![], "up.example", Some("hl")),
    ] {
        let (url, found) = finalized(&table, &with(get("hl", path), &headers));
        assert_eq!(url, format!("{host}{path}"));
        let value = |name: &str| found.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str());
        assert_eq!(value("x-forwarded-host"), forwarded_host, "{path} {headers:?}");
        assert_eq!(value("x-envoy-original-host"), (host != "hl").then_some("hl"), "{path} {headers:?}");
    }
}

#[test]
fn mutations_apply_from_the_weight_outward_or_inward() {
    let mut first = weight("a", 1);
    first.request_headers_to_add = vec![add("x-l", "weight"), overwrite("x-o", "weight")];
    first.response_headers_to_add = vec![add("x-l", "weight"), overwrite("x-o", "weight")];
    first.host_rewrite_specifier = Some(
        proto::weighted_cluster::cluster_weight::HostRewriteSpecifier::HostRewriteLiteral("wh".to_owned()),
    );
    let mut config = weighted_route(weighted(vec![first]));
    let levels = ["route", "vhost", "table"].map(|level| vec![add("x-l", level), overwrite("x-o", level)]);
    let [route_level, host_level, table_level] = levels;
    config.virtual_hosts[0].routes[0].request_headers_to_add = route_level.clone();
    config.virtual_hosts[0].routes[0].response_headers_to_add = route_level;
    config.virtual_hosts[0].request_headers_to_add = host_level.clone();
    config.virtual_hosts[0].response_headers_to_add = host_level;
    config.request_headers_to_add = table_level.clone();
    config.response_headers_to_add = table_level;
    for (most_specific, order, last) in [
        (false, ["weight", "route", "vhost", "table"], "table"),
        (true, ["weight", "table", "vhost", "route"], "route"),
    ] {
        config.most_specific_header_mutations_wins = most_specific;
        let table = build_table(&config).unwrap();
        let before = get("h", "/");
        let (mut request, mut response) = (before.clone(), ResponseHead::new(StatusCode::OK));
        selected(&table, &before, 0, |route| {
            route.finalize_request(&mut request, &info(), EnvoyHeaders::Added);
            route.finalize_response(&before, &mut response, &info());
        });
        for headers in [&request.headers, &response.headers] {
            assert_eq!(headers.get_all("x-l").iter().collect::<Vec<_>>(), order);
            assert_eq!(headers.get_all("x-o").iter().collect::<Vec<_>>(), [last]);
        }
        assert_eq!(request.authority.as_str(), "wh");
        assert!(!request.headers.contains_key("x-envoy-original-host"));
    }
}

#[test]
fn plain_requests_are_redirected_where_tls_is_required() {
    let mut proto = one_host(vec![to_cluster(prefix("/"), "c")]);
    proto.virtual_hosts[0].response_headers_to_add = vec![add("x-v", "v")];
    let location = |proto: &proto::RouteConfiguration, request: &RequestHead| {
        let table = build_table(proto).unwrap();
        let mut request = request.clone();
        let before = request.clone();
        selected(&table, &before, 0, |route| {
            let location = route.redirect(&mut request, &info(), EnvoyHeaders::Added)?;
            let mut response = ResponseHead::new(StatusCode::OK);
            route.finalize_response(&before, &mut response, &info());
            assert!(response.headers.is_empty(), "a TLS redirect has no mutations");
            Some(location.to_str().unwrap().to_owned())
        })
        .unwrap()
    };
    let plain = get("h:80", "/x?y");
    let internal = with(plain.clone(), &[("x-envoy-internal", "true")]);
    let secure = with(plain.clone(), &[("x-forwarded-proto", "https")]);
    for (requirement, redirected) in [(0, [false; 3]), (1, [true, false, false]), (2, [true, true, false])] {
        proto.virtual_hosts[0].require_tls = requirement;
        for (request, redirected) in [&plain, &internal, &secure].into_iter().zip(redirected) {
            let expected = redirected.then(|| "https://h:80/x?y".to_owned());
            assert_eq!(location(&proto, request), expected, "{requirement} {:?}", request.headers);
        }
    }
}

#[test]
fn virtual_clusters_are_named_by_headers() {
    let mut proto = one_host(vec![to_cluster(prefix("/"), "c")]);
    let name_of = |proto: &proto::RouteConfiguration, path: &str| {
        let table = build_table(proto).unwrap();
        let request = get("h", path);
        selected(&table, &request, 0, |route| {
            let found = route.virtual_host().virtual_cluster(&request)?;
            Some(found.name.as_deref().unwrap_or("other").to_owned())
        })
        .unwrap()
    };
    assert_eq!(name_of(&proto, "/a"), None);
    let path = proto::HeaderMatcher {
        name: ":path".to_owned(),
        header_match_specifier: Some(proto::header_matcher::HeaderMatchSpecifier::StringMatch(
            xds_api::envoy::r#type::matcher::v3::StringMatcher {
                ignore_case: false,
                match_pattern: Some(
                    xds_api::envoy::r#type::matcher::v3::string_matcher::MatchPattern::Exact("/a".to_owned()),
                ),
            },
        )),
        ..Default::default()
    };
    proto.virtual_hosts[0].virtual_clusters =
        vec![proto::VirtualCluster { headers: vec![path], name: "a".to_owned() }];
    assert_eq!(name_of(&proto, "/a").as_deref(), Some("a"));
    assert_eq!(name_of(&proto, "/b").as_deref(), Some("other"));
    proto.virtual_hosts[0].virtual_clusters[0].headers.clear();
    let error = build_table(&proto).unwrap_err().remove(0);
    assert_eq!(error.reason, "virtual clusters must define 'headers'");
}

#[test]
fn direct_responses_have_bodies_within_the_limit() {
    let direct = |body: core::data_source::Specifier, limit: Option<u32>| {
        let action = proto::DirectResponseAction {
            status: 203,
            body: Some(core::DataSource { watched_directory: None, specifier: Some(body) }),
            body_format: None,
        };
        let mut proto = one_host(vec![route(prefix("/"), ActionProto::DirectResponse(action))]);
        proto.max_direct_response_body_size_bytes = limit;
        let table = build_table(&proto).map_err(|errors| errors[0].reason.clone())?;
        let request = get("h", "/");
        let body = selected(&table, &request, 0, |route| match route.action() {
            Action::DirectResponse(direct) => direct.render(&request, &info()).bytes,
            other => panic!("{other:?}"),
        });
        Ok::<_, String>(body.unwrap().len())
    };
    use core::data_source::Specifier::{EnvironmentVariable, Filename, InlineBytes, InlineString};
    assert_eq!(direct(InlineString("x".repeat(4096)), None), Ok(4096));
    let too_long = direct(InlineString("x".repeat(4097)), None);
    assert_eq!(too_long, Err("response body size is 4097 bytes; maximum is 4096".to_owned()));
    assert_eq!(direct(InlineBytes(vec![0; 5000]), Some(5000)), Ok(5000));
    assert_eq!(direct(Filename("/nope".to_owned()), None), Err("file /nope does not exist".to_owned()));
    assert!(direct(EnvironmentVariable("OUTRIGGER_NOT_SET".to_owned()), None).is_err());
    let manifest = concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml").to_owned();
    assert!(direct(Filename(manifest.clone()), None).is_ok());
    assert!(direct(Filename(manifest), Some(10)).unwrap_err().contains("maximum is 10"));
}

#[test]
fn a_direct_body_may_have_a_format() {
    let action = proto::DirectResponseAction {
        status: 418,
        body: Some(core::DataSource {
            watched_directory: None,
            specifier: Some(core::data_source::Specifier::InlineString("inner".to_owned())),
        }),
        body_format: Some(core::SubstitutionFormatString {
            content_type: "text/html".to_owned(),
            format: Some(core::substitution_format_string::Format::TextFormatSource(core::DataSource {
                watched_directory: None,
                specifier: Some(core::data_source::Specifier::InlineString(
                    "<%LOCAL_REPLY_BODY% %REQ(:path)%>".to_owned(),
                )),
            })),
            ..Default::default()
        }),
    };
    let table =
        build_table(&one_host(vec![route(prefix("/"), ActionProto::DirectResponse(action))])).unwrap();
    let request = get("h", "/p");
    let body = selected(&table, &request, 0, |route| match route.action() {
        Action::DirectResponse(direct) => direct.render(&request, &info()),
        other => panic!("{other:?}"),
    })
    .unwrap();
    assert_eq!(body.bytes, "<inner /p>");
    assert_eq!(body.content_type.unwrap(), "text/html");
}

#[test]
fn other_conditions_count_too() {
    let mut proto = one_host(vec![to_cluster(prefix("/"), "special"), to_cluster(prefix("/"), "other")]);
    let cluster = |proto: &proto::RouteConfiguration, request: &RequestHead, random| {
        let table = build_table(proto).unwrap();
        selected(&table, request, random, |route| route.cluster(request, &info()).named().to_owned()).unwrap()
    };
    proto.virtual_hosts[0].routes[0].r#match.as_mut().unwrap().grpc = Some(Default::default());
    for (content_type, expected) in [
        ("application/grpc", "special"),
        ("application/grpc+proto", "special"),
        ("application/grpc-web", "other"),
        ("application/grpc;x", "other"),
    ] {
        let request = with(get("h", "/"), &[("content-type", content_type)]);
        assert_eq!(cluster(&proto, &request, 0), expected, "{content_type}");
    }
    let matched = proto.virtual_hosts[0].routes[0].r#match.as_mut().unwrap();
    matched.grpc = None;
    matched.runtime_fraction = Some(core::RuntimeFractionalPercent {
        default_value: Some(xds_api::envoy::r#type::v3::FractionalPercent { numerator: 30, denominator: 0 }),
        runtime_key: String::new(),
    });
    for (random, expected) in [(0, "special"), (29, "special"), (30, "other"), (129, "special")] {
        assert_eq!(cluster(&proto, &get("h", "/"), random), expected, "{random}");
    }
    let matched = proto.virtual_hosts[0].routes[0].r#match.as_mut().unwrap();
    matched.runtime_fraction = None;
    matched.tls_context =
        Some(proto::route_match::TlsContextMatchOptions { presented: Some(true), validated: None });
    assert_eq!(cluster(&proto, &get("h", "/"), 0), "other");
}

#[test]
fn a_connect_matcher_takes_connect_only() {
    let connect = PathSpecifier::ConnectMatcher(Default::default());
    let table =
        build_table(&one_host(vec![to_cluster(connect, "tunnel"), to_cluster(prefix("/"), "web")])).unwrap();
    let mut request = get("h:443", "");
    request.method = Method::CONNECT;
    assert_eq!(cluster_of(&table, &request).as_deref(), Some("tunnel"));
    assert_eq!(cluster_of(&table, &get("h", "/")).as_deref(), Some("web"));
}

#[test]
fn named_clusters_are_listed_for_validation() {
    let mut proto = weighted_route(weighted(vec![weight("a", 1), weight("b", 1)]));
    proto.virtual_hosts[0].routes.push(to_cluster(prefix("/"), "c"));
    proto.validate_clusters = Some(true);
    let table = build_table(&proto).unwrap();
    assert_eq!(table.clusters().map(Name::as_str).collect::<Vec<_>>(), ["a", "b", "c"]);
    assert_eq!(table.validate_clusters(), Some(true));
}

#[test]
fn filters_see_name_cluster_and_metadata() {
    let mut proto = one_host(vec![to_cluster(prefix("/"), "c")]);
    proto.virtual_hosts[0].routes[0].name = "r".to_owned();
    let table = build_table(&proto).unwrap();
    let seen = selected(&table, &get("h", "/"), 0, |route| {
        let route: &dyn Route = &route;
        (route.name().to_owned(), route.cluster().map(str::to_owned), route.metadata().is_empty())
    });
    assert_eq!(seen, Some(("r".to_owned(), Some("c".to_owned()), true)));
}

struct Probe;

impl HttpFilterExtension for Probe {
    const DESCRIPTOR: Descriptor = Descriptor {
        name: "probe",
        message: "envoy.config.core.v3.HeaderMap",
        status: Status::Alpha,
        posture: SecurityPosture::RobustToUntrustedDownstream,
    };
    const ROUTE_MESSAGE: Option<&'static str> = Some("envoy.config.core.v3.HeaderValue");
    const PHASES: Phases = Phases { request_body: false, response_headers: false, response_body: false };
    type Proto = core::HeaderMap;
    type Config = ();
    type RouteProto = HeaderValueProto;
    type RouteConfig = String;

    fn build(_: Self::Proto, _: &mut BuildCx<'_>) -> Result<(), Rejected> {
        Ok(())
    }
    fn build_route(proto: HeaderValueProto, cx: &mut BuildCx<'_>) -> Result<String, Rejected> {
        if proto.key == "bad" { Err(cx.reject("no such key")) } else { Ok(proto.key) }
    }
    fn create(_: &Arc<()>) -> Box<dyn HttpFilter> {
        struct Nothing;
        impl HttpFilter for Nothing {}
        Box::new(Nothing)
    }
}

static PROBE: Of<Probe> = Of::new();
static FILTERS: &[&dyn HttpFilterFactory] = &[&PROBE];

fn any<M: Message>(message: &str, value: &M) -> prost_types::Any {
    prost_types::Any { type_url: format!("type.googleapis.com/{message}"), value: value.encode_to_vec() }
}

fn probe(key: &str) -> prost_types::Any {
    any("envoy.config.core.v3.HeaderValue", &HeaderValueProto { key: key.to_owned(), ..Default::default() })
}

fn wrapped(config: Option<prost_types::Any>, is_optional: bool, disabled: bool) -> prost_types::Any {
    any("envoy.config.route.v3.FilterConfig", &proto::FilterConfig { config, is_optional, disabled })
}

#[test]
fn filter_configuration_is_merged_from_the_table_to_the_weight() {
    let mut first = weight("a", 1);
    first.typed_per_filter_config = [("f".to_owned(), probe("weight")), ("w".to_owned(), probe("w"))].into();
    let mut config = weighted_route(weighted(vec![first]));
    config.virtual_hosts[0].routes.insert(0, to_cluster(prefix("/plain"), "c"));
    let host = &mut config.virtual_hosts[0];
    host.typed_per_filter_config = [("f".to_owned(), wrapped(None, false, true))].into();
    host.routes[1].typed_per_filter_config =
        [("f".to_owned(), wrapped(Some(probe("route")), false, false))].into();
    config.typed_per_filter_config =
        [("f".to_owned(), probe("table")), ("off".to_owned(), wrapped(None, false, true))].into();
    let table = build_with(FILTERS, |cx| RouteTable::build(&config, cx)).unwrap();
    let texts = |config: &FilterConfig| -> Vec<String> {
        config.configs.iter().map(|config| config.downcast_ref::<String>().unwrap().clone()).collect()
    };
    selected(&table, &get("h", "/plain"), 0, |route| {
        let f = route.filter_config("f").unwrap();
        assert_eq!((f.disabled, texts(f)), (Some(true), vec!["table".to_owned()]));
        assert_eq!(route.filter_config("off").unwrap().disabled, Some(true));
        assert!(route.filter_config("w").is_none());
    })
    .unwrap();
    selected(&table, &get("h", "/"), 0, |route| {
        let f = route.filter_config("f").unwrap();
        assert_eq!(f.disabled, Some(false));
        assert_eq!(texts(f), ["weight", "route", "table"]);
        let most_specific: &(dyn Any + Send + Sync) = f.most_specific().unwrap();
        assert_eq!(most_specific.downcast_ref::<String>().unwrap(), "weight");
        assert!(route.filter_config("w").is_some());
    })
    .unwrap();
}

#[test]
fn filter_configuration_is_refused_as_in_envoy() {
    let unknown = || any("envoy.config.route.v3.Vhds", &proto::Vhds::default());
    for (config, reason) in [
        (
            unknown(),
            Some(
                "Didn't find a registered implementation for 'f' with type URL: 'envoy.config.route.v3.Vhds'",
            ),
        ),
        (wrapped(Some(unknown()), false, false), Some("Didn't find a registered implementation")),
        (wrapped(Some(unknown()), true, false), None),
        (wrapped(None, true, false), Some("Empty route/virtual host per filter configuration for f filter")),
        (wrapped(None, false, true), None),
        (wrapped(Some(prost_types::Any::default()), false, false), None),
        (probe("bad"), Some("no such key")),
    ] {
        let mut proto = one_host(vec![]);
        proto.typed_per_filter_config = [("f".to_owned(), config)].into();
        let error = build_with(FILTERS, |cx| RouteTable::build(&proto, cx)).err();
        match (error, reason) {
            (None, None) => {}
            (Some(errors), Some(reason)) => {
                assert!(errors[0].reason.contains(reason), "{}", errors[0]);
                assert!(errors[0].path.starts_with("typed_per_filter_config[\"f\"]"), "{}", errors[0]);
            }
            (error, reason) => panic!("{error:?} instead of {reason:?}"),
        }
    }
}

/// Prints how long a match takes in a table of 10,000 virtual hosts and in one of 10,000 routes.
#[test]
fn large_tables_are_searched_by_index() {
    const COUNT: usize = 10_000;
    let hosts = table(
        (0..COUNT)
            .map(|number| {
                let name = format!("svc-{number}.ns.svc.cluster.local");
                host(&name, &[&name, &format!("*.{name}")], vec![to_cluster(prefix("/"), &name)])
            })
            .collect(),
    );
    let routes = one_host(
        (0..COUNT)
            .map(|number| match number % 2 {
                0 => to_cluster(PathSpecifier::Path(format!("/exact/{number}")), &format!("c{number}")),
                _ => to_cluster(prefix(&format!("/prefix/{number}/")), &format!("c{number}")),
            })
            .collect(),
    );
    let (hosts, routes) = (build_table(&hosts).unwrap(), build_table(&routes).unwrap());
    let cases = [
        ("exact host", &hosts, get("svc-9999.ns.svc.cluster.local", "/"), "svc-9999.ns.svc.cluster.local"),
        ("wildcard host", &hosts, get("a.svc-77.ns.svc.cluster.local", "/"), "svc-77.ns.svc.cluster.local"),
        ("exact path", &routes, get("h", "/exact/9998"), "c9998"),
        ("prefix path", &routes, get("h", "/prefix/9999/x?y"), "c9999"),
        ("no path", &routes, get("h", "/nothing"), ""),
    ];
    let (info, runtime) = (info(), Runtime::default());
    for (name, table, request, expected) in cases {
        let start = std::time::Instant::now();
        let mut matched = None;
        for _ in 0..1000 {
            matched = table.route(std::hint::black_box(&request), &info, &runtime, 0);
        }
        let each = start.elapsed() / 1000;
        eprintln!("{name}: {each:?} each");
        let found = matched.and_then(|matched| table.selected(matched));
        let cluster =
            found.map(|route| route.cluster(&request, &info).named().to_owned()).unwrap_or_default();
        assert_eq!(cluster, expected, "{name}");
    }
}

/// A route's conditions, and what they mean without any index.
#[derive(Clone, Debug)]
struct Model {
    path: PathSpecifier,
    ignores_case: bool,
    /// `x-a`: the value it must have, or none to be there at all; and whether that is turned around.
    header: Option<(Option<&'static str>, bool)>,
    /// `k`: the value it must have, or none to be there at all.
    parameter: Option<Option<&'static str>>,
}

/// A request of the model: path, query, the header `x-a`.
type Asked = (String, &'static str, Option<&'static str>);

/// Regular expressions in which a plain function can stand in for the engine.
const WORDS: &str = "/[ab]+";
const SUFFIX: &str = "/.*b";

fn exactly(text: &str) -> StringMatcherProto {
    StringMatcherProto { match_pattern: Some(MatchPattern::Exact(text.to_owned())), ..Default::default() }
}

impl Model {
    fn proto(&self, cluster: &str) -> proto::Route {
        let mut route = to_cluster(self.path.clone(), cluster);
        let matched = route.r#match.as_mut().unwrap();
        matched.case_sensitive = Some(!self.ignores_case);
        matched.headers = self
            .header
            .map(|(value, invert_match)| proto::HeaderMatcher {
                name: "x-a".to_owned(),
                invert_match,
                header_match_specifier: Some(match value {
                    Some(value) => HeaderMatchSpecifier::StringMatch(exactly(value)),
                    None => HeaderMatchSpecifier::PresentMatch(true),
                }),
                ..Default::default()
            })
            .into_iter()
            .collect();
        matched.query_parameters = self
            .parameter
            .map(|value| proto::QueryParameterMatcher {
                name: "k".to_owned(),
                query_parameter_match_specifier: Some(match value {
                    Some(value) => QueryParameterMatchSpecifier::StringMatch(exactly(value)),
                    None => QueryParameterMatchSpecifier::PresentMatch(true),
                }),
            })
            .into_iter()
            .collect();
        route
    }

    fn holds(&self, (path, query, header): &Asked) -> bool {
        let fold = |text: &str| if self.ignores_case { text.to_ascii_lowercase() } else { text.to_owned() };
        let folded = fold(path);
        let path_holds = match &self.path {
            PathSpecifier::Prefix(prefix) => folded.starts_with(&fold(prefix)),
            PathSpecifier::Path(exact) => folded == fold(exact),
            PathSpecifier::PathSeparatedPrefix(prefix) => folded
                .strip_prefix(&fold(prefix))
                .is_some_and(|rest| rest.is_empty() || rest.starts_with('/')),
            PathSpecifier::SafeRegex(regex) if regex.regex == WORDS => {
                path.len() > 1 && path[1..].chars().all(|c| c == 'a' || c == 'b')
            }
            PathSpecifier::SafeRegex(_) => path.len() > 1 && path.ends_with('b'),
            _ => unreachable!(),
        };
        let header_holds = self.header.is_none_or(|(value, turned)| {
            // what is not there has no value that could differ
            match (value, header) {
                (None, header) => header.is_some() != turned,
                (Some(_), None) => false,
                (Some(value), Some(header)) => (value == *header) != turned,
            }
        });
        let parameter = query.split('&').find_map(|pair| match pair.split_once('=') {
            Some((name, value)) => (name == "k").then_some(value),
            None => (pair == "k").then_some(""),
        });
        let parameter_holds = self
            .parameter
            .is_none_or(|value| parameter.is_some_and(|found| value.is_none_or(|value| value == found)));
        path_holds && header_holds && parameter_holds
    }
}

fn any_model() -> impl Strategy<Value = Model> {
    let regex = |text: &str| {
        PathSpecifier::SafeRegex(RegexMatcherProto { regex: text.to_owned(), engine_type: None })
    };
    let path = prop_oneof![
        "/[abA/]{0,3}".prop_map(PathSpecifier::Prefix),
        "/[abA/]{0,3}".prop_map(PathSpecifier::Path),
        "(/[abA]{1,2}){1,2}".prop_map(PathSpecifier::PathSeparatedPrefix),
        Just(regex(WORDS)),
        Just(regex(SUFFIX)),
    ];
    let value = || prop::option::of(prop::sample::select(vec!["1", "2"]));
    let header = prop::option::weighted(0.3, (value(), prop::bool::ANY));
    let parameter = prop::option::weighted(0.3, value());
    (path, prop::bool::ANY, header, parameter).prop_map(|(path, ignores_case, header, parameter)| Model {
        path,
        ignores_case,
        header,
        parameter,
    })
}

fn any_asked() -> impl Strategy<Value = Asked> {
    let query = prop::sample::select(vec!["", "k=1", "k=2", "k", "j=1&k=1", "k=2&k=1", "kk=1"]);
    ("/[abA/]{0,5}", query, prop::option::of(prop::sample::select(vec!["1", "2"])))
}

proptest! {
    #[test]
    fn the_first_route_whose_conditions_all_hold_is_found(
        models in prop::collection::vec(any_model(), 0..40),
        asked in prop::collection::vec(any_asked(), 1..12),
    ) {
        let routes = (0..).zip(&models).map(|(number, model): (usize, _)| model.proto(&number.to_string()));
        let table = build_table(&one_host(routes.collect())).unwrap();
        for asked in &asked {
            let (path, query, header) = asked;
            let target = if query.is_empty() { path.clone() } else { format!("{path}?{query}") };
            let headers: Vec<_> = header.iter().map(|value| ("x-a", *value)).collect();
            let found = cluster_of(&table, &with(get("h", &target), &headers));
            let expected = models.iter().position(|model| model.holds(asked)).map(|number| number.to_string());
            prop_assert_eq!(found, expected, "{:?}", asked);
        }
    }
}
