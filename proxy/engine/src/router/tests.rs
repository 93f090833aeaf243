//! What the tests of the router share: an environment, a stream, requests, and configurations in a few words.

use std::rc::Rc;
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use http::{HeaderMap, HeaderName, HeaderValue, Method};
use proxy_core::address::Address;
use proxy_core::config::{BuildCx, BuildEnv, ConfigError, Rejected};
use proxy_core::extension::Extensions;
use proxy_core::extension::http_filter::HttpFilterFactory;
use proxy_core::head::{Protocol, RequestHead, Scheme};
use proxy_core::runtime::Runtime;
use proxy_core::stream_info::{ConnectionInfo, StreamInfo};
use xds_api::envoy::config::route::v3 as proto;
use xds_api::envoy::config::route::v3::route::Action as ActionProto;
use xds_api::envoy::config::route::v3::route_action::ClusterSpecifier;
use xds_api::envoy::config::route::v3::route_match::PathSpecifier;
use xds_api::envoy::r#type::matcher::v3::{RegexMatchAndSubstitute, RegexMatcher};

use super::RouteTable;

/// Builds without extensions, or says what is wrong.
pub(super) fn build<T>(
    make: impl FnOnce(&mut BuildCx<'_>) -> Result<T, Rejected>,
) -> Result<T, Vec<ConfigError>> {
    build_with(&[], make)
}

/// Builds with these HTTP filters.
pub(super) fn build_with<T>(
    http_filters: &'static [&'static dyn HttpFilterFactory],
    make: impl FnOnce(&mut BuildCx<'_>) -> Result<T, Rejected>,
) -> Result<T, Vec<ConfigError>> {
    let extensions = Extensions { http_filters, ..Extensions::default() };
    let env = BuildEnv { extensions, ..BuildEnv::new(1) };
    let mut cx = BuildCx::new(&env);
    make(&mut cx).map_err(|Rejected| cx.into_errors())
}

pub(super) fn build_table(proto: &proto::RouteConfiguration) -> Result<Arc<RouteTable>, Vec<ConfigError>> {
    build(|cx| RouteTable::build(proto, cx))
}

/// A stream of an HTTP/1.1 connection from loopback.
pub(super) fn info() -> StreamInfo {
    let now = Instant::now();
    let address = Address::from(std::net::SocketAddr::from(([127, 0, 0, 1], 1)));
    let connection = ConnectionInfo::new(address.clone(), address, "".into());
    let mut info = StreamInfo::new(Rc::new(connection), now, SystemTime::now());
    info.protocol = Some(Protocol::Http11);
    info
}

/// A GET as the connection manager hands it to the router.
pub(super) fn get(authority: &str, path: &str) -> RequestHead {
    let mut headers = HeaderMap::new();
    headers.insert("x-forwarded-proto", HeaderValue::from_static("http"));
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

pub(super) fn with(mut request: RequestHead, headers: &[(&'static str, &str)]) -> RequestHead {
    for (name, value) in headers {
        let name = HeaderName::from_static(name);
        if name == "x-forwarded-proto" {
            request.headers.remove(&name);
        }
        request.headers.append(name, HeaderValue::from_str(value).unwrap());
    }
    request
}

pub(super) fn prefix(text: &str) -> PathSpecifier {
    PathSpecifier::Prefix(text.to_owned())
}

pub(super) fn route(path: PathSpecifier, action: ActionProto) -> proto::Route {
    proto::Route {
        r#match: Some(proto::RouteMatch { path_specifier: Some(path), ..Default::default() }),
        action: Some(action),
        ..Default::default()
    }
}

pub(super) fn to_cluster(path: PathSpecifier, cluster: &str) -> proto::Route {
    route(path, ActionProto::Route(forward(cluster)))
}

pub(super) fn forward(cluster: &str) -> proto::RouteAction {
    proto::RouteAction {
        cluster_specifier: Some(ClusterSpecifier::Cluster(cluster.to_owned())),
        ..Default::default()
    }
}

pub(super) fn host(name: &str, domains: &[&str], routes: Vec<proto::Route>) -> proto::VirtualHost {
    proto::VirtualHost {
        name: name.to_owned(),
        domains: domains.iter().map(|domain| (*domain).to_owned()).collect(),
        routes,
        ..Default::default()
    }
}

/// A table with one virtual host for all domains.
pub(super) fn one_host(routes: Vec<proto::Route>) -> proto::RouteConfiguration {
    table(vec![host("v", &["*"], routes)])
}

pub(super) fn table(virtual_hosts: Vec<proto::VirtualHost>) -> proto::RouteConfiguration {
    proto::RouteConfiguration { name: "rc".to_owned(), virtual_hosts, ..Default::default() }
}

pub(super) fn regex_rewrite(pattern: &str, substitution: &str) -> RegexMatchAndSubstitute {
    RegexMatchAndSubstitute {
        pattern: Some(RegexMatcher { regex: pattern.to_owned(), engine_type: None }),
        substitution: substitution.to_owned(),
    }
}

/// Does `ask` with the route for `request`; `None` if there is none.
pub(super) fn selected<T>(
    table: &RouteTable,
    request: &RequestHead,
    random: u64,
    ask: impl FnOnce(super::SelectedRoute<'_>) -> T,
) -> Option<T> {
    let matched = table.route(request, &info(), &Runtime::default(), random)?;
    table.selected(matched).map(ask)
}

#[test]
fn every_field_of_the_messages_has_a_use_and_none_is_invented() {
    for (message, fields) in super::fields::FIELDS {
        let mut known: Vec<&str> = xds_api::schema::fields_of(message).expect(message).collect();
        let mut listed: Vec<&str> = fields.iter().map(|(field, _)| *field).collect();
        known.sort_unstable();
        listed.sort_unstable();
        assert_eq!(listed, known, "{message}");
    }
}
