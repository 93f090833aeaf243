//! What is told of clients' certificates: to hosts (`x-forwarded-client-cert`), and in access logs.

use std::collections::BTreeMap;
use std::fmt::Write;

use integration::config::{HttpListener, indent};
use integration::expect::{SOON, eventually};
use integration::http1::field;
use integration::process::Binary;
use integration::tls::{Authority, ClientOptions, Identity, Wanted, converse, downstream, inline};

use crate::{both, start};

const DETAILS: [&str; 8] = [
    "",
    "subject: true",
    "cert: true",
    "chain: true",
    "dns: true",
    "uri: true",
    "issuer: true",
    "{subject: true, cert: true, chain: true, dns: true, uri: true, issuer: true}",
];
const MODES: [&str; 5] =
    ["SANITIZE", "FORWARD_ONLY", "APPEND_FORWARD", "SANITIZE_SET", "ALWAYS_FORWARD_ONLY"];

/// Operators that both print, without `%`.
const OPERATORS: &[&str] = &[
    "DOWNSTREAM_TLS_VERSION",
    "DOWNSTREAM_TLS_CIPHER",
    "DOWNSTREAM_PEER_SUBJECT",
    "DOWNSTREAM_PEER_ISSUER",
    "DOWNSTREAM_PEER_SERIAL",
    "DOWNSTREAM_PEER_FINGERPRINT_1",
    "DOWNSTREAM_PEER_FINGERPRINT_256",
    "DOWNSTREAM_PEER_CERT",
    "DOWNSTREAM_PEER_CERT_V_START",
    "DOWNSTREAM_PEER_CERT_V_END",
    "DOWNSTREAM_PEER_CERT_V_START(%b %d %H:%M:%S %Y %Z)",
    "DOWNSTREAM_PEER_URI_SAN",
    "DOWNSTREAM_PEER_DNS_SAN",
    "DOWNSTREAM_PEER_IP_SAN",
    "DOWNSTREAM_PEER_EMAIL_SAN",
    "DOWNSTREAM_PEER_OTHERNAME_SAN",
    "DOWNSTREAM_PEER_CHAIN_FINGERPRINTS_1",
    "DOWNSTREAM_PEER_CHAIN_FINGERPRINTS_256",
    "DOWNSTREAM_PEER_CHAIN_SERIALS",
    "DOWNSTREAM_PEER_ISSUER_SERIAL",
    "DOWNSTREAM_PEER_ISSUER_FINGERPRINT_256",
    "DOWNSTREAM_LOCAL_SUBJECT",
    "DOWNSTREAM_LOCAL_URI_SAN",
    "DOWNSTREAM_LOCAL_DNS_SAN",
    "DOWNSTREAM_LOCAL_IP_SAN",
    "DOWNSTREAM_LOCAL_EMAIL_SAN",
    "DOWNSTREAM_LOCAL_OTHERNAME_SAN",
    "REQUESTED_SERVER_NAME",
];

fn listeners(root: &Authority, server: &Identity) -> Vec<String> {
    let common = format!(
        "tls_certificates: [{}]\nvalidation_context: {{trusted_ca: {}}}",
        server.inline(),
        inline(&root.pem)
    );
    let transport = downstream(&common, "");
    let logged: String = OPERATORS.iter().map(|name| format!("%{name}%|")).collect();
    let log = integration::config::file_log(&format!(
        "log_format: {{text_format_source: {{inline_string: \"told|{logged}\\n\"}}}}"
    ));
    let mut listeners = vec![HttpListener::to_up("logged").logs(&log).chain(&transport).yaml()];
    for (name, tree) in trees() {
        let options = format!(
            "forward_client_cert_details: APPEND_FORWARD\nset_current_client_cert_details: {{dns: true}}\nforward_client_cert_matcher: {{{tree}}}"
        );
        listeners.push(HttpListener::to_up(name).options(&options).chain(&transport).yaml());
    }
    for mode in MODES {
        for (index, details) in DETAILS.iter().enumerate() {
            let options = format!("forward_client_cert_details: {mode}\n");
            let details = match *details {
                "" => String::new(),
                details if details.starts_with('{') => {
                    format!("set_current_client_cert_details: {details}\n")
                }
                details => format!("set_current_client_cert_details:\n{}", indent(details, 2)),
            };
            let name = format!("{}_{index}", mode.to_lowercase());
            listeners
                .push(HttpListener::to_up(&name).options(&(options + &details)).chain(&transport).yaml());
        }
    }
    listeners
}

/// Trees that decide by who the client is, or by what it says.
fn trees() -> [(&'static str, String); 2] {
    let typed =
        |message: &str| format!("{{name: x, typed_config: {{\"@type\": type.googleapis.com/{message}}}}}");
    let to = |forward: &str, details: &str| {
        let action = "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager.ForwardClientCertConfig";
        let fields =
            format!("forward_client_cert_details: {forward}, set_current_client_cert_details: {{{details}}}");
        format!("{{action: {}}}", typed(&format!("{action}, {fields}")))
    };
    let list = |input: &str, value: &str, to: &str| {
        format!(
            "matcher_list: {{matchers: [{{predicate: {{single_predicate: {{input: {input}, value_match: {value}}}}}, on_match: {to}}}]}}"
        )
    };
    let uri = typed("envoy.extensions.matching.common_inputs.ssl.v3.UriSanInput");
    let claim =
        typed("envoy.type.matcher.v3.HttpRequestHeaderMatchInput, header_name: x-forwarded-client-cert");
    [
        ("tree_of_names", list(&uri, "{contains: spiffe}", &to("SANITIZE_SET", "uri: true, subject: true"))),
        ("tree_of_claims", list(&claim, "{prefix: By}", &to("APPEND_FORWARD", "issuer: true"))),
    ]
}

async fn observe(
    binary: &Binary,
    listeners: &[String],
    clients: &[(&str, Option<Identity>)],
) -> BTreeMap<String, String> {
    let (proxy, upstream) = start(binary, listeners).await;
    let mut observed = BTreeMap::new();
    for (client, identity) in clients {
        let options = ClientOptions { identity: identity.clone(), ..ClientOptions::default() };
        for claim in ["", "x-forwarded-client-cert: By=a;Hash=b\r\n"] {
            let request = format!("GET / HTTP/1.1\r\nhost: a.test\r\nconnection: close\r\n{claim}\r\n");
            let names: Vec<String> = proxy.listeners().keys().cloned().collect();
            for name in names {
                let before = upstream.received().len();
                let outcome = converse(proxy.listener(&name).unwrap(), &options, &request, "").await.unwrap();
                assert_eq!(outcome.handshake, "ok", "{name}, {client}");
                assert!(
                    outcome.answer.starts_with("HTTP/1.1 200"),
                    "{:?} {name}, {client}: {:?}",
                    binary.kind,
                    outcome.answer
                );
                let received =
                    eventually("the request", SOON, async || upstream.received().get(before).cloned());
                let received = received.await.unwrap();
                let header = field(&received.fields, "x-forwarded-client-cert").unwrap_or("-").to_owned();
                let claims = if claim.is_empty() { "" } else { ", claiming" };
                observed.insert(format!("{name}, {client}{claims}"), header);
            }
        }
    }
    let path = proxy.dir().join("access.log");
    let told = || {
        let text = std::fs::read_to_string(&path).unwrap_or_default();
        text.lines().filter_map(|line| line.strip_prefix("told|")).map(str::to_owned).collect::<Vec<_>>()
    };
    let all = eventually("the access log", SOON, async || (told().len() == 2 * clients.len()).then(told));
    for (index, line) in all.await.unwrap().iter().enumerate().filter(|(index, _)| index % 2 == 0) {
        for (name, value) in OPERATORS.iter().zip(line.split('|')) {
            observed.insert(format!("{name}, {}", clients[index / 2].0), value.to_owned());
        }
    }
    observed
}

#[tokio::test(flavor = "multi_thread")]
async fn client_certificates_are_told_as_by_envoy() {
    let root = Authority::new("root").unwrap();
    let middle = root.intermediate("middle, of \"quotes\"").unwrap();
    let server = root
        .issue(&Wanted {
            sans: &["dns:a.test", "uri:spiffe://td/server", "uri:urn:second", "ip:::1", "email:s@a.test"],
            ..Wanted::default()
        })
        .unwrap();
    let issue = |authority: &Authority, common_name, sans, serial| {
        authority
            .issue(&Wanted { common_name, sans, serial, valid: (2021, 2051), ..Wanted::default() })
            .unwrap()
    };
    let clients = [
        ("nobody", None),
        (
            "a name",
            Some(issue(
                &root,
                "client+1 <x>; é\\",
                &["dns:b.test", "dns:c.test", "uri:spiffe://td/c", "uri:http://u"],
                0xff00_12ab_u64,
            )),
        ),
        (
            "no subject",
            Some(issue(&root, "", &["uri:spiffe://td/ns/a/sa/b", "ip:10.0.0.1", "email:x@b.test"], 1)),
        ),
        ("no names", Some(issue(&root, "#plain ", &[], 255))),
        ("a chain", Some(issue(&middle, "deep", &["dns:d.test"], 128).with_chain(&middle))),
    ];
    let listeners = listeners(&root, &server);
    let [envoy, subject] = both();
    let expected = observe(&envoy, &listeners, &clients).await;
    let actual = observe(&subject, &listeners, &clients).await;
    assert!(expected.len() > 500, "{}", expected.len());
    let mut wrong = String::new();
    for (name, expected) in &expected {
        if actual[name] != *expected {
            let _ = writeln!(wrong, "{name}:\n  envoy: {expected}\n  here:  {}", actual[name]);
        }
    }
    assert!(wrong.is_empty(), "of {}:\n{wrong}", expected.len());
}
