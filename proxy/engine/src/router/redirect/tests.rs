use xds_api::envoy::config::route::v3::route::Action as ActionProto;
use xds_api::envoy::config::route::v3::route_match::PathSpecifier;

use super::*;
use crate::router::rewrite::EnvoyHeaders;
use crate::router::tests::{build_table, get, info, one_host, prefix, regex_rewrite, route, selected, with};

fn location(path: PathSpecifier, redirect: proto::RedirectAction, request: &RequestHead) -> String {
    let table = build_table(&one_host(vec![route(path, ActionProto::Redirect(redirect))])).unwrap();
    let mut changed = request.clone();
    let location =
        selected(&table, request, 0, |route| route.redirect(&mut changed, &info(), EnvoyHeaders::Added));
    location.unwrap().unwrap().to_str().unwrap().to_owned()
}

fn to(change: impl FnOnce(&mut proto::RedirectAction)) -> proto::RedirectAction {
    let mut redirect = proto::RedirectAction::default();
    change(&mut redirect);
    redirect
}

fn https() -> proto::RedirectAction {
    to(|redirect| redirect.scheme_rewrite_specifier = Some(SchemeRewriteSpecifier::HttpsRedirect(true)))
}

fn scheme(scheme: &str) -> proto::RedirectAction {
    to(|redirect| {
        redirect.scheme_rewrite_specifier = Some(SchemeRewriteSpecifier::SchemeRedirect(scheme.to_owned()));
    })
}

fn path(specifier: PathRewriteSpecifier) -> proto::RedirectAction {
    to(|redirect| redirect.path_rewrite_specifier = Some(specifier))
}

fn whole(text: &str) -> proto::RedirectAction {
    path(PathRewriteSpecifier::PathRedirect(text.to_owned()))
}

fn prefixed(text: &str) -> proto::RedirectAction {
    path(PathRewriteSpecifier::PrefixRewrite(text.to_owned()))
}

fn stripped(redirect: proto::RedirectAction) -> proto::RedirectAction {
    proto::RedirectAction { strip_query: true, ..redirect }
}

fn port(number: u32, redirect: proto::RedirectAction) -> proto::RedirectAction {
    proto::RedirectAction { port_redirect: number, ..redirect }
}

/// Every row was observed on Envoy 1.40.
#[test]
fn locations_are_composed_as_in_envoy() {
    let plain = proto::RedirectAction::default;
    let host = || to(|redirect| redirect.host_redirect = "new".to_owned());
    let regex = |pattern: &str, substitution: &str| {
        path(PathRewriteSpecifier::RegexRewrite(regex_rewrite(pattern, substitution)))
    };
    for (redirect, authority, request, expected) in [
        (plain(), "r1", "/x?y", "http://r1/x?y"),
        (plain(), "r1:80", "/x", "http://r1:80/x"),
        (https(), "r2", "/x?y", "https://r2/x?y"),
        (https(), "r2:80", "/x", "https://r2/x"),
        (https(), "r2:8080", "/x", "https://r2:8080/x"),
        (https(), "r2:443", "/x", "https://r2:443/x"),
        (https(), "[::1]:80", "/x", "https://[::1]/x"),
        (https(), "[::1]", "/x", "https://[::1]/x"),
        (scheme("ftp"), "r3", "/x", "ftp://r3/x"),
        (scheme("ftp"), "r3:80", "/", "ftp://r3/"),
        (host(), "r4:99", "/x?y", "http://new/x?y"),
        (port(8080, plain()), "r5", "/x", "http://r5:8080/x"),
        (port(8080, plain()), "r5:99", "/x", "http://r5:8080/x"),
        (port(70_000, plain()), "r17", "/", "http://r17:70000/"),
        (port(8443, https()), "r14:80", "/x", "https://r14:8443/x"),
        (whole("/p"), "r6", "/x?y=1", "http://r6/p?y=1"),
        (whole("/p?z=1"), "r7", "/x?y=1", "http://r7/p?z=1"),
        (stripped(whole("/p")), "r8", "/x?y", "http://r8/p"),
        (stripped(whole("/p?z=1")), "r9", "/x?y", "http://r9/p?z=1"),
        (regex("/(a+)", r"/[\1]"), "r11", "/aaa/b?a", "http://r11/[aaa]/b?a"),
        (regex("^.*$", ""), "r18", "/a?b", "http://r18/a?b"),
        (stripped(plain()), "r12", "/x?y", "http://r12/x"),
    ] {
        let request = get(authority, request);
        assert_eq!(location(prefix("/"), redirect, &request), expected);
    }
    for (redirect, request, expected) in [
        (prefixed("/bar"), "/foo/z?q", "http://h/bar/z?q"),
        (prefixed("/bar"), "/foo", "http://h/bar"),
        (stripped(prefixed("/bar")), "/foox?y", "http://h/barx"),
        (prefixed("/bar?x=1"), "/foo/x?q", "http://h/bar?x=1/x?q"),
        (prefixed("/"), "/foo/x", "http://h//x"),
    ] {
        assert_eq!(location(prefix("/foo"), redirect, &get("h", request)), expected);
    }
}

#[test]
fn the_scheme_of_the_connection_decides_about_default_ports() {
    let secure = |authority: &str| with(get(authority, "/x"), &[("x-forwarded-proto", "https")]);
    assert_eq!(location(prefix("/"), scheme("ftp"), &secure("r3:443")), "ftp://r3/x");
    assert_eq!(location(prefix("/"), https(), &secure("r2")), "https://r2/x");
}

#[test]
fn a_rewritten_path_is_seen_by_access_logs() {
    let redirect = prefixed("/bar");
    let table = build_table(&one_host(vec![route(prefix("/foo"), ActionProto::Redirect(redirect))])).unwrap();
    let mut request = get("h", "/foo?q");
    let before = request.clone();
    selected(&table, &before, 0, |route| route.redirect(&mut request, &info(), EnvoyHeaders::Added));
    assert_eq!(request.path.as_str(), "/bar?q");
    assert_eq!(request.headers["x-envoy-original-path"], "/foo?q");
}

#[test]
fn every_code_has_its_status() {
    for (code, status) in [(0, 301), (1, 302), (2, 303), (3, 307), (4, 308)] {
        let proto = proto::RedirectAction { response_code: code, ..Default::default() };
        let redirect = crate::router::tests::build(|cx| Redirect::build(&proto, cx)).unwrap();
        assert_eq!(redirect.status.as_u16(), status);
    }
    let proto = proto::RedirectAction { response_code: 9, ..Default::default() };
    assert!(crate::router::tests::build(|cx| Redirect::build(&proto, cx)).is_err());
}
