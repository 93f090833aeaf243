//! Route tables: the index finds what trying one domain and one route after the other finds.
#![no_main]

use std::rc::Rc;
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use arbitrary::Arbitrary;
use http::{HeaderMap, HeaderValue, Method};
use libfuzzer_sys::fuzz_target;
use proxy_core::config::BuildCx;
use proxy_core::extension::http_filter::Route as _;
use proxy_core::head::{RequestHead, Scheme};
use proxy_core::runtime::Runtime;
use proxy_core::stream_info::StreamInfo;
use proxy_engine::router::RouteTable;
use xds_api::envoy::config::route::v3::route::Action;
use xds_api::envoy::config::route::v3::route_match::PathSpecifier;
use xds_api::envoy::config::route::v3::{
    DirectResponseAction, HeaderMatcher, QueryParameterMatcher, Route, RouteConfiguration, RouteMatch,
    VirtualHost, header_matcher::HeaderMatchSpecifier, query_parameter_matcher::QueryParameterMatchSpecifier,
};
use xds_api::envoy::r#type::matcher::v3::RegexMatcher;

#[derive(Arbitrary, Debug)]
struct Input {
    hosts: Vec<(Vec<Domain>, Vec<Rule>)>,
    ignore_port: bool,
    ignore_parameters: bool,
    requests: Vec<(Vec<u8>, Vec<u8>, bool)>,
}

#[derive(Arbitrary, Debug)]
enum Domain {
    Exact(Vec<u8>),
    Suffix(Vec<u8>),
    Prefix(Vec<u8>),
    All,
}

#[derive(Arbitrary, Debug)]
struct Rule {
    kind: u8,
    path: Vec<u8>,
    insensitive: bool,
    header: bool,
    query: bool,
}

/// Few letters, so that things match.
fn text(numbers: &[u8], letters: &[u8]) -> String {
    numbers.iter().take(8).map(|number| char::from(letters[usize::from(*number) % letters.len()])).collect()
}

fn host(numbers: &[u8]) -> String {
    text(numbers, b"aAb.")
}

fn path(numbers: &[u8]) -> String {
    format!("/{}", text(numbers, b"aAb/;"))
}

fuzz_target!(|input: Input| {
    let virtual_hosts: Vec<VirtualHost> = (0..).zip(input.hosts.iter().take(4)).map(virtual_host).collect();
    let config = RouteConfiguration {
        virtual_hosts,
        ignore_port_in_host_matching: input.ignore_port,
        ignore_path_parameters_in_path_matching: input.ignore_parameters,
        ..RouteConfiguration::default()
    };
    let Some(table) = build(&config) else { return };
    for (authority, target, extra) in input.requests.iter().take(8) {
        let mut authority = host(authority);
        let mut target = path(target);
        if *extra {
            authority.push_str(":80");
            target.push_str("?q=1");
        }
        let request = request(&authority, &target, *extra);
        assert_eq!(find(&table, &request), model(&config, &request), "{authority} {target}");
    }
});

fn virtual_host((number, (domains, rules)): (usize, &(Vec<Domain>, Vec<Rule>))) -> VirtualHost {
    let domain = |domain: &Domain| match domain {
        Domain::Exact(name) => host(name),
        Domain::Suffix(name) => format!("*{}", host(name)),
        Domain::Prefix(name) => format!("{}*", host(name)),
        Domain::All => "*".to_owned(),
    };
    let routes = rules.iter().take(20).enumerate().map(|(index, rule)| Route {
        name: format!("{number}.{index}"),
        r#match: Some(route_match(rule)),
        action: Some(Action::DirectResponse(DirectResponseAction {
            status: 200,
            body: None,
            ..Default::default()
        })),
        ..Route::default()
    });
    VirtualHost {
        name: format!("v{number}"),
        domains: domains.iter().take(4).map(domain).collect(),
        routes: routes.collect(),
        ..VirtualHost::default()
    }
}

fn route_match(rule: &Rule) -> RouteMatch {
    let path = path(&rule.path);
    let specifier = match rule.kind % 5 {
        0 | 1 => PathSpecifier::Prefix(path),
        2 => PathSpecifier::Path(path),
        3 => PathSpecifier::PathSeparatedPrefix(path.trim_end_matches('/').to_owned()),
        _ => PathSpecifier::SafeRegex(RegexMatcher { regex: format!("{path}.*"), ..RegexMatcher::default() }),
    };
    let header = HeaderMatcher {
        name: "x-a".to_owned(),
        header_match_specifier: Some(HeaderMatchSpecifier::PresentMatch(true)),
        ..HeaderMatcher::default()
    };
    let query = QueryParameterMatcher {
        name: "q".to_owned(),
        query_parameter_match_specifier: Some(QueryParameterMatchSpecifier::PresentMatch(true)),
    };
    RouteMatch {
        path_specifier: Some(specifier),
        case_sensitive: Some(!rule.insensitive),
        headers: if rule.header { vec![header] } else { Vec::new() },
        query_parameters: if rule.query { vec![query] } else { Vec::new() },
        ..RouteMatch::default()
    }
}

fn build(config: &RouteConfiguration) -> Option<Arc<RouteTable>> {
    let env = outrigger_fuzz::env();
    RouteTable::build(config, &mut BuildCx::new(&env)).ok()
}

fn request(authority: &str, path: &str, extra: bool) -> RequestHead {
    let mut headers = HeaderMap::new();
    if extra {
        headers.insert("x-a", HeaderValue::from_static("1"));
    }
    RequestHead {
        method: Method::GET,
        scheme: Scheme::Http,
        authority: authority.into(),
        path: path.into(),
        upgrade: None,
        case: None,
        headers,
    }
}

/// The name of the route.
fn find(table: &RouteTable, request: &RequestHead) -> Option<String> {
    let info = StreamInfo::new(Rc::new(outrigger_fuzz::connection()), Instant::now(), SystemTime::now());
    let matched = table.route(request, &info, &Runtime::default(), 0)?;
    Some(table.selected(matched).expect("was matched").name().to_owned())
}

/// Domains in their order of precedence; then each route in a table of its own, which has no index.
fn model(config: &RouteConfiguration, request: &RequestHead) -> Option<String> {
    let mut host = request.authority.as_str().to_ascii_lowercase();
    if config.ignore_port_in_host_matching
        && let Some(bare) = host.strip_suffix(":80")
    {
        host = bare.to_owned();
    }
    let rank = |domain: &str| -> Option<(u8, usize)> {
        let domain = domain.to_ascii_lowercase();
        let longer = host.len() >= domain.len();
        if domain == "*" {
            Some((0, 0))
        } else if let Some(suffix) = domain.strip_prefix('*') {
            (longer && host.ends_with(suffix)).then_some((2, suffix.len()))
        } else if let Some(prefix) = domain.strip_suffix('*') {
            (longer && host.starts_with(prefix)).then_some((1, prefix.len()))
        } else {
            (domain == host).then_some((3, 0))
        }
    };
    let all = config.virtual_hosts.iter().flat_map(|one| one.domains.iter().map(move |domain| (domain, one)));
    let ranked = all.filter_map(|(domain, one)| Some((rank(domain)?, one)));
    let (_, chosen) = ranked.max_by_key(|(rank, _)| *rank)?;
    chosen.routes.iter().find_map(|route| {
        let only = VirtualHost {
            name: "v".to_owned(),
            domains: vec!["*".to_owned()],
            routes: vec![route.clone()],
            ..VirtualHost::default()
        };
        let table = RouteConfiguration { virtual_hosts: vec![only], ..config.clone() };
        find(&build(&table).expect("was built before"), request)
    })
}
