//! Filters that a matcher skips (`ExtensionWithMatcher`): on the way in and on the way out, of the route, without what is asked for.

use integration::config::{HttpListener, indent};
use integration::differential::{Case, Setup};

const WITH_MATCHER: &str =
    "\"@type\": type.googleapis.com/envoy.extensions.common.matching.v3.ExtensionWithMatcher";
const FAULT: &str = "\"@type\": type.googleapis.com/envoy.extensions.filters.http.fault.v3.HTTPFault, \
                     abort: {http_status: 418, percentage: {numerator: 100}}";
const MUTATION: &str = "\"@type\": type.googleapis.com/envoy.extensions.filters.http.header_mutation.v3.HeaderMutation, mutations: \
                        {request_mutations: [{append: {header: {key: x-in, value: here}}}], response_mutations: [{append: {header: {key: x-out, value: there}}}]}";

fn skip() -> &'static str {
    "{action: {name: skip, typed_config: {\"@type\": type.googleapis.com/envoy.extensions.filters.common.matcher.action.v3.SkipFilter}}}"
}

fn header(name: &str) -> String {
    format!(
        "{{name: h, typed_config: {{\"@type\": type.googleapis.com/envoy.type.matcher.v3.HttpRequestHeaderMatchInput, header_name: {name}}}}}"
    )
}

fn uri_of_peer() -> &'static str {
    "{name: u, typed_config: {\"@type\": type.googleapis.com/envoy.extensions.matching.common_inputs.ssl.v3.UriSanInput}}"
}

fn is(input: &str, value: &str) -> String {
    format!("{{single_predicate: {{input: {input}, value_match: {value}}}}}")
}

fn not(predicate: &str) -> String {
    format!("{{not_matcher: {predicate}}}")
}

fn list(predicate: &str) -> String {
    format!("{{matcher_list: {{matchers: [{{predicate: {predicate}, on_match: {}}}]}}}}", skip())
}

fn delegate(matcher: &str, filter: &str) -> String {
    format!(
        "- name: delegate\n  typed_config:\n    {WITH_MATCHER}\n    xds_matcher: {matcher}\n    extension_config: {{name: inner, typed_config: \
         {{{filter}}}}}\n"
    )
}

fn routes() -> String {
    let own = |prefix: &str, config: &str| {
        format!(
            "- match: {{prefix: {prefix}}}\n  route: {{cluster: up}}\n  typed_per_filter_config:\n{}",
            indent(config, 4)
        )
    };
    let matcher = list(&is(&header("x-route"), "{exact: skip}"));
    [
        own(
            "/matcher",
            &format!(
                "delegate:\n  \"@type\": type.googleapis.com/envoy.extensions.common.matching.v3.ExtensionWithMatcherPerRoute\n  xds_matcher: {matcher}\n"
            ),
        ),
        own(
            "/inner",
            "delegate:\n  \"@type\": type.googleapis.com/envoy.extensions.filters.http.fault.v3.HTTPFault\n  abort: {http_status: 429, percentage: {numerator: 100}}\n",
        ),
        own("/disabled", "delegate: {\"@type\": type.googleapis.com/envoy.config.route.v3.FilterConfig, disabled: true}\n"),
        "- match: {prefix: /}\n  route: {cluster: up}\n".to_owned(),
    ]
    .concat()
}

pub(crate) fn setup() -> Setup {
    let listener = |name: &str, filters: &str| HttpListener::new(name, &routes()).filters(filters).yaml();
    let by_header = list(&is(&header("x-a"), "{exact: skip}"));
    let tree = format!(
        "{{matcher_tree: {{input: {}, exact_match_map: {{map: {{skip: {}}}}}}}, on_no_match: {{matcher: {}}}}}",
        header("x-a"),
        skip(),
        list(&is(&header("x-b"), "{prefix: sk}"))
    );
    let fault = delegate(&by_header, FAULT);
    Setup::new(
        "match_delegate",
        [
            listener("faulty", &fault),
            listener("unless", &delegate(&list(&not(&is(&header("x-a"), "{exact: yes_please}"))), FAULT)),
            listener("tree", &delegate(&tree, FAULT)),
            listener("peer", &delegate(&list(&not(&is(uri_of_peer(), "{prefix: 'spiffe://a'}"))), FAULT)),
            listener("mutation", &delegate(&by_header, MUTATION)),
            listener(
                "two",
                &(delegate(&by_header, MUTATION) + &fault.replace("name: delegate", "name: second")),
            ),
        ],
    )
}

pub(crate) fn cases() -> Vec<Case> {
    let get = |name, listener, target: &str, fields: &str| Case::get(name, listener, target, fields);
    let mut cases = vec![
        get("the filter of a matcher runs", "faulty", "/", ""),
        get("the filter of a matcher is skipped", "faulty", "/", "x-a: skip\r\n"),
        get("the filter of a matcher, another value", "faulty", "/", "x-a: skips\r\n"),
        get("a route's matcher takes its place", "faulty", "/matcher", "x-a: skip\r\n"),
        get("a route's matcher skips", "faulty", "/matcher", "x-route: skip\r\n"),
        get("a route's configuration of the inner filter", "faulty", "/inner", ""),
        get("a route's configuration of the inner filter, skipped", "faulty", "/inner", "x-a: skip\r\n"),
        get("a route's filter is switched off", "faulty", "/disabled", ""),
        get("unless a header is there", "unless", "/", ""),
        get("unless a header is there, and it is", "unless", "/", "x-a: yes_please\r\n"),
        get("a tree skips", "tree", "/", "x-a: skip\r\n"),
        get("a tree skips where it finds nothing", "tree", "/", "x-b: skip\r\n"),
        get("a tree does not skip", "tree", "/", "x-a: yes_please\r\nx-b: on\r\n"),
        get("a name of a peer that has none", "peer", "/", ""),
    ];
    for listener in ["mutation", "two"] {
        cases.push(get("both ways", listener, "/", ""));
        cases.push(get("neither way", listener, "/", "x-a: skip\r\n"));
        let post = "POST / HTTP/1.1\r\nhost: test\r\nx-a: skip\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nx-t: 1\r\n\r\n";
        cases.push(Case::send("neither way, with a body and trailers", listener, post));
    }
    cases
}
