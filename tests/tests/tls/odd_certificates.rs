//! Certificates of clients that are odd: names of other kinds, names with a NUL, uses that are not a client's, authorities that may
//! vouch for some names only, long chains. Both programs say the same of each.

use std::collections::BTreeMap;

use integration::config::HttpListener;
use integration::process::Binary;
use integration::tls::{Authority, ClientOptions, Identity, Wanted, converse, downstream, inline};
use rcgen::ExtendedKeyUsagePurpose::{Any, ClientAuth, ServerAuth};

use crate::{GET, both, start};

struct Rig {
    root: Authority,
    constrained: Authority,
    server: Identity,
    clients: Vec<(&'static str, Identity)>,
}

impl Rig {
    fn new() -> Self {
        let root = Authority::new("root").unwrap();
        let constrained = Authority::constrained("constrained", "good.test").unwrap();
        let of = |authority: &Authority, wanted: Wanted<'_>| authority.issue(&wanted).unwrap();
        let named = |sans| Wanted { sans, ..Wanted::default() };
        let using = |extended| Wanted { extended, ..Wanted::default() };
        let mut clients = vec![
            ("another kind of name", of(&root, named(&["other:ann@realm"]))),
            ("another kind of name, another value", of(&root, named(&["other:eve@realm"]))),
            ("its value as a DNS name", of(&root, named(&["dns:ann@realm"]))),
            ("a NUL in the name", of(&root, named(&["dns:client.test\0.evil.test"]))),
            ("a NUL at the end", of(&root, named(&["dns:client.test\0"]))),
            ("a NUL in the address", of(&root, named(&["uri:spiffe://td/a\0b"]))),
            ("a wildcard", of(&root, named(&["dns:*.test"]))),
            ("a wildcard in an address", of(&root, named(&["uri:spiffe://td/*"]))),
            ("no name", of(&root, named(&[]))),
            ("for clients", of(&root, using(&[ClientAuth]))),
            ("for servers", of(&root, using(&[ServerAuth]))),
            ("for both", of(&root, using(&[ServerAuth, ClientAuth]))),
            ("for anything", of(&root, using(&[Any]))),
            ("a name that may be", of(&constrained, named(&["dns:a.good.test"]))),
            ("a name that may not be", of(&constrained, named(&["dns:a.bad.test"]))),
            ("one of each", of(&constrained, named(&["dns:a.good.test", "dns:a.bad.test"]))),
            ("an address, which nothing is said of", of(&constrained, named(&["uri:spiffe://td/a"]))),
        ];
        for (depth, name) in [(3, "three between"), (10, "ten between")] {
            let mut between = vec![root.intermediate("0").unwrap()];
            for number in 1..depth {
                let next = between[number - 1].intermediate(&number.to_string()).unwrap();
                between.push(next);
            }
            let own = of(&between[depth - 1], Wanted::default());
            let whole = between.iter().rev().fold(own, |own, one| own.with_chain(one));
            clients.push((name, whole));
        }
        let server = of(&root, Wanted::default());
        Self { root, constrained, server, clients }
    }

    fn listeners(&self) -> Vec<(&'static str, String)> {
        let trusting = |fields: &str| {
            format!("trusted_ca: {}\n{fields}", inline(&format!("{}{}", self.root.pem, self.constrained.pem)))
        };
        let san = |kind: &str, matcher: &str| {
            trusting(&format!("match_typed_subject_alt_names: [{{san_type: {kind}, {matcher}}}]"))
        };
        vec![
            ("anyone", trusting("")),
            ("other", san("OTHER_NAME", "oid: 1.3.6.1.4.1.311.20.2.3, matcher: {exact: ann@realm}")),
            ("other_kind", san("OTHER_NAME", "oid: 1.3.6.1.4.1.311.20.2.4, matcher: {exact: ann@realm}")),
            ("other_part", san("OTHER_NAME", "oid: 1.3.6.1.4.1.311.20.2.3, matcher: {suffix: '@realm'}")),
            ("dns", san("DNS", "matcher: {exact: client.test}")),
            ("dns_begin", san("DNS", "matcher: {prefix: client.test}")),
            ("dns_end", san("DNS", "matcher: {suffix: evil.test}")),
            ("uri", san("URI", "matcher: {exact: spiffe://td/a}")),
            ("uri_begin", san("URI", "matcher: {prefix: spiffe://td/}")),
        ]
    }
}

async fn observe(binary: &Binary, rig: &Rig) -> BTreeMap<String, String> {
    let listeners: Vec<String> = rig
        .listeners()
        .iter()
        .map(|(name, validation)| {
            let validation = integration::config::indent(validation, 2);
            let common =
                format!("tls_certificates: [{}]\nvalidation_context:\n{validation}", rig.server.inline());
            HttpListener::to_up(name).chain(&downstream(&common, "require_client_certificate: true\n")).yaml()
        })
        .collect();
    let (proxy, _upstream) = start(binary, &listeners).await;
    let mut seen = BTreeMap::new();
    for (listener, _) in rig.listeners() {
        for (name, identity) in &rig.clients {
            let options = ClientOptions::with(identity);
            let outcome = converse(proxy.listener(listener).unwrap(), &options, GET, "").await.unwrap();
            let status = outcome.answer.lines().next().unwrap_or_default().to_owned();
            seen.insert(format!("{listener}: {name}"), format!("{} {status}", outcome.handshake));
        }
    }
    seen
}

#[tokio::test(flavor = "multi_thread")]
async fn odd_certificates_are_taken_and_refused_as_by_envoy() {
    let rig = Rig::new();
    let [envoy, subject] = both();
    let (expected, actual) = (observe(&envoy, &rig).await, observe(&subject, &rig).await);
    let wrong: Vec<String> = expected
        .iter()
        // (Of so many authorities between there is no way to a root here.)
        .filter(|(name, _)| !name.ends_with("ten between"))
        .filter(|(name, expected)| actual[*name] != **expected)
        .map(|(name, expected)| format!("{name}: envoy {expected}, here {}", actual[name]))
        .collect();
    assert!(wrong.is_empty(), "of {}:\n{}", expected.len(), wrong.join("\n"));
    assert!(actual["anyone: ten between"].starts_with("alert UnknownCA"), "{actual:?}");
    let is_ok = |name: &str| expected[name].starts_with("ok HTTP/1.1 200");
    assert!(is_ok("other: another kind of name") && !is_ok("other_kind: another kind of name"));
    assert!(is_ok("anyone: for clients") && !is_ok("anyone: for servers"));
}
