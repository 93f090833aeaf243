//! Who a client is by its certificate: principals and matchers of access control, beside the real Envoy.

use std::collections::BTreeMap;
use std::fmt::Write;

use integration::config::{HttpListener, indent};
use integration::process::Binary;
use integration::tls::{Authority, ClientOptions, Identity, Wanted, converse, downstream, inline};

use crate::{GET, both, start};

/// Principals, each of a policy that allows everything.
const PRINCIPALS: &[&str] = &[
    "{authenticated: {}}",
    "{authenticated: {principal_name: {exact: \"spiffe://td/ns/a/sa/b\"}}}",
    "{authenticated: {principal_name: {exact: \"urn:second\"}}}",
    "{authenticated: {principal_name: {exact: b.test}}}",
    "{authenticated: {principal_name: {exact: c.test}}}",
    "{authenticated: {principal_name: {prefix: \"spiffe://td/\"}}}",
    "{authenticated: {principal_name: {suffix: \"/SA/B\", ignore_case: true}}}",
    "{authenticated: {principal_name: {contains: \"CN=one\"}}}",
    "{authenticated: {principal_name: {safe_regex: {regex: \"CN=.*\"}}}}",
    "{authenticated: {principal_name: {safe_regex: {regex: \".*O=Outrigger.*\"}}}}",
    "{authenticated: {principal_name: {exact: \"\"}}}",
    "{authenticated: {principal_name: {exact: x@b.test}}}",
    "{authenticated: {principal_name: {exact: 10.0.0.1}}}",
    "{not_id: {authenticated: {principal_name: {prefix: spiffe}}}}",
    "{custom: {name: m, typed_config: {\"@type\": type.googleapis.com/envoy.extensions.rbac.principals.mtls_authenticated.v3.Config, any_validated_client_certificate: true}}}",
    "{custom: {name: m, typed_config: {\"@type\": type.googleapis.com/envoy.extensions.rbac.principals.mtls_authenticated.v3.Config, san_matcher: {san_type: URI, matcher: {exact: \"urn:second\"}}}}}",
    "{custom: {name: m, typed_config: {\"@type\": type.googleapis.com/envoy.extensions.rbac.principals.mtls_authenticated.v3.Config, san_matcher: {san_type: DNS, matcher: {exact: c.test}}}}}",
    "{custom: {name: m, typed_config: {\"@type\": type.googleapis.com/envoy.extensions.rbac.principals.mtls_authenticated.v3.Config, san_matcher: {san_type: EMAIL, matcher: {suffix: \"@b.test\"}}}}}",
    "{custom: {name: m, typed_config: {\"@type\": type.googleapis.com/envoy.extensions.rbac.principals.mtls_authenticated.v3.Config, san_matcher: {san_type: URI, matcher: {exact: b.test}}}}}",
    "{or_ids: {ids: [{authenticated: {principal_name: {exact: b.test}}}, {authenticated: {principal_name: {exact: \"urn:third\"}}}]}}",
];

const PERMISSIONS: &[&str] = &[
    "{requested_server_name: {exact: a.test}}",
    "{requested_server_name: {suffix: .other}}",
    "{requested_server_name: {exact: \"\"}}",
];

const INPUTS: &[&str] =
    &["ssl.v3.UriSanInput", "ssl.v3.DnsSanInput", "ssl.v3.SubjectInput", "network.v3.ServerNameInput"];
const VALUES: &[&str] = &[
    "{exact: \"spiffe://td/ns/a/sa/b\"}",
    "{exact: \"spiffe://td/ns/a/sa/b,urn:second\"}",
    "{suffix: c.test}",
    "{exact: b.test}",
    "{contains: CN=one}",
    "{exact: a.test}",
];

fn rules(permission: &str, principal: &str) -> String {
    format!("rules: {{policies: {{p: {{permissions: [{permission}], principals: [{principal}]}}}}}}")
}

/// Allows what matches, and what has nothing to match.
fn matcher(input: &str, value: &str) -> String {
    let action = |name: &str, action: &str| {
        format!(
            "{{action: {{name: a, typed_config: {{\"@type\": type.googleapis.com/envoy.config.rbac.v3.Action, name: {name}, action: {action}}}}}}}"
        )
    };
    format!(
        "matcher: {{matcher_list: {{matchers: [{{predicate: {{single_predicate: {{input: {{name: i, typed_config: {{\"@type\": \
         type.googleapis.com/envoy.extensions.matching.common_inputs.{input}}}}}, value_match: {value}}}}}, on_match: {}}}]}}, on_no_match: {}}}",
        action("match", "ALLOW"),
        action("none", "DENY"),
    )
}

fn configs() -> Vec<String> {
    let mut configs: Vec<String> =
        PRINCIPALS.iter().map(|principal| rules("{any: true}", principal)).collect();
    configs.extend(PERMISSIONS.iter().map(|permission| rules(permission, "{any: true}")));
    for input in INPUTS {
        configs.extend(VALUES.iter().map(|value| matcher(input, value)));
    }
    configs
}

const INSPECTOR: &str = "listener_filters:\n- name: i\n  typed_config: {\"@type\": type.googleapis.com/envoy.extensions.filters.listener.tls_inspector.v3.TlsInspector}";

fn listeners(root: &Authority, server: &Identity) -> Vec<String> {
    let common = format!(
        "tls_certificates: [{}]\nvalidation_context: {{trusted_ca: {}}}",
        server.inline(),
        inline(&root.pem)
    );
    let transport = downstream(&common, "");
    let mut listeners = Vec::new();
    for (at, config) in configs().iter().enumerate() {
        let filter = format!(
            "- name: rbac\n  typed_config:\n    \"@type\": type.googleapis.com/envoy.extensions.filters.http.rbac.v3.RBAC\n{}",
            indent(config, 4)
        );
        let network = format!(
            "    - name: rbac\n      typed_config:\n        \"@type\": type.googleapis.com/envoy.extensions.filters.network.rbac.v3.RBAC\n        stat_prefix: connections\n{}",
            indent(config, 8)
        );
        let listener = |kind| HttpListener::to_up(&format!("{kind}_{at}")).chain(&transport);
        listeners.push(listener("http").filters(&filter).yaml());
        listeners.push(listener("inspected").filters(&filter).listener(INSPECTOR).yaml());
        // The same of the connection, before it is one of HTTP.
        let (before, after) = listener("network")
            .listener(INSPECTOR)
            .yaml()
            .split_once("    - name: envoy.filters.network.http")
            .map(|(before, after)| (before.to_owned(), after.to_owned()))
            .unwrap();
        listeners.push(format!("{before}{network}    - name: envoy.filters.network.http{after}"));
    }
    listeners
}

async fn observe(
    binary: &Binary,
    listeners: &[String],
    clients: &[(&str, ClientOptions)],
) -> BTreeMap<String, String> {
    let (proxy, _upstream) = start(binary, listeners).await;
    let mut observed = BTreeMap::new();
    let configs = configs();
    for name in proxy.listeners().keys() {
        for (client, options) in clients {
            let outcome = converse(proxy.listener(name).unwrap(), options, GET, "").await.unwrap();
            let answer = outcome.answer.lines().next().unwrap_or("closed").to_owned();
            let at: usize = name.rsplit_once('_').unwrap().1.parse().unwrap();
            observed.insert(format!("{name}, {client}: {}", configs[at]), answer);
        }
    }
    observed
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_are_who_envoy_says_they_are() {
    let root = Authority::new("root").unwrap();
    let server = root.issue(&Wanted::default()).unwrap();
    let client = |common_name, sans| {
        let identity = root.issue(&Wanted { common_name, sans, ..Wanted::default() }).unwrap();
        ClientOptions::with(&identity)
    };
    let clients = [
        ("nobody", ClientOptions::default()),
        ("nobody, silent", ClientOptions { silent: true, ..ClientOptions::default() }),
        (
            "all names",
            client(
                "one",
                &[
                    "uri:spiffe://td/ns/a/sa/b",
                    "uri:urn:second",
                    "dns:b.test",
                    "dns:c.test",
                    "email:x@b.test",
                    "ip:10.0.0.1",
                ][..],
            ),
        ),
        ("a name of DNS", client("two", &["dns:b.test"][..])),
        ("a subject", client("one", &[][..])),
        ("no subject", client("", &["uri:spiffe://td/ns/a/sa/b"][..])),
        ("another server", ClientOptions { server_name: Some("x.other"), ..client("one", &[][..]) }),
    ];
    let listeners = listeners(&root, &server);
    let [envoy, subject] = both();
    let expected = observe(&envoy, &listeners, &clients).await;
    let actual = observe(&subject, &listeners, &clients).await;
    let of = |what: &str| expected.values().filter(|answer| answer.contains(what)).count();
    assert!(of("200") > 100 && of("403") > 100 && of("closed") > 100, "{expected:#?}");
    let mut wrong = String::new();
    for (name, expected) in &expected {
        if actual[name] != *expected {
            let _ = writeln!(wrong, "{name}:\n  envoy: {expected}\n  here:  {}", actual[name]);
        }
    }
    assert!(wrong.is_empty(), "of {}:\n{wrong}", expected.len());
}
