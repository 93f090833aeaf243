//! TLS that ends at the proxy: one set of listeners and clients, both programs, and every difference in what came of it.

use std::collections::BTreeMap;
use std::fmt::Write;

use integration::config::HttpListener;
use integration::expect::{SOON, eventually};
use integration::process::Binary;
use integration::tls::{Authority, ClientOptions, Identity, Outcome, Wanted, converse, downstream, inline};
use rcgen::{BasicConstraints, IsCa, KeyUsagePurpose};
use rustls::SignatureScheme;
use rustls::version::{TLS12, TLS13};

use crate::{GET, base64_sha256, both, hex_sha256, start};

/// Statistics that differ on purpose: of the groups that both sides have `rustls` takes the one that the client prefers, and Envoy
/// its own; and who is let in differs.
const UNTOLD: &[&str] =
    &["listener.hybrid_last.ssl.curves.", "listener.trusted_leaf.", "listener.trusted_last."];

/// Everything that is signed for these tests.
struct Certificates {
    root: Authority,
    other: Authority,
    server: Identity,
    rsa: Identity,
    wildcard: Identity,
    second: Identity,
    client: Identity,
    spiffe: Identity,
    stranger: Identity,
    expired: Identity,
    future: Identity,
    revoked: Identity,
    between: Identity,
    rootless: Identity,
    /// Who is trusted but may not issue: by basicConstraints, by keyUsage, by the length of the path; and whom they issued.
    unfit: [(&'static str, Authority, Identity); 3],
}

impl Certificates {
    fn new() -> Self {
        let (root, other) = (Authority::new("root").unwrap(), Authority::new("other").unwrap());
        let middle = root.intermediate("middle").unwrap();
        let issue = |wanted: Wanted<'_>| root.issue(&wanted).unwrap();
        let with = |sans| Wanted { sans, ..Wanted::default() };
        let client = |serial, valid| Wanted {
            common_name: "client",
            sans: &["dns:client.test"],
            serial,
            valid,
            ..Wanted::default()
        };
        Self {
            server: issue(Wanted::default()),
            rsa: issue(Wanted { algorithm: &rcgen::PKCS_RSA_SHA256, ..Wanted::default() }),
            wildcard: issue(with(&["dns:*.b.test"])),
            second: issue(with(&["dns:c.test", "dns:d.b.test"])),
            client: issue(client(10, (2020, 2100))),
            spiffe: issue(Wanted {
                common_name: "",
                sans: &[
                    "uri:spiffe://td/ns/a/sa/b",
                    "dns:x.client.test",
                    "email:me@client.test",
                    "ip:10.1.2.3",
                ],
                serial: 11,
                ..Wanted::default()
            }),
            stranger: other.issue(&client(12, (2020, 2100))).unwrap(),
            expired: issue(client(13, (2020, 2021))),
            future: issue(client(14, (2090, 2100))),
            revoked: issue(client(15, (2020, 2100))),
            between: middle.issue(&client(16, (2020, 2100))).unwrap().with_chain(&middle),
            rootless: middle.issue(&client(17, (2020, 2100))).unwrap(),
            unfit: {
                let leaf = Authority::saying("leaf", IsCa::ExplicitNoCa, &[]).unwrap();
                let signs = [KeyUsagePurpose::DigitalSignature];
                let unconstrained = IsCa::Ca(BasicConstraints::Unconstrained);
                let reader = Authority::saying("reader", unconstrained, &signs).unwrap();
                let signs = [KeyUsagePurpose::KeyCertSign];
                let last = IsCa::Ca(BasicConstraints::Constrained(0));
                let last = Authority::saying("last", last, &signs).unwrap();
                let below = last.intermediate("below").unwrap();
                let wanted = client(18, (2020, 2100));
                let (by_leaf, by_reader) = (leaf.issue(&wanted).unwrap(), reader.issue(&wanted).unwrap());
                let by_below = below.issue(&wanted).unwrap().with_chain(&below);
                [
                    ("trusted_leaf", leaf, by_leaf),
                    ("trusted_reader", reader, by_reader),
                    ("trusted_last", last, by_below),
                ]
            },
            root,
            other,
        }
    }

    /// `validation_context` with the root as trusted, and these fields.
    fn trusting(&self, fields: &str) -> String {
        format!("trusted_ca: {}\n{fields}", inline(&self.root.pem))
    }
}

/// A listener of which the statistics are `listener.<name>`.
fn listener(name: &str, identities: &[&Identity], common: &str, validation: &str, context: &str) -> String {
    let identities: Vec<String> = identities.iter().map(|identity| identity.inline()).collect();
    let mut all = format!("tls_certificates: [{}]\n{common}", identities.join(", "));
    if !validation.is_empty() {
        let _ = write!(all, "\nvalidation_context:\n{}", integration::config::indent(validation, 2));
    }
    HttpListener::to_up(name)
        .chain(&downstream(&all, context))
        .listener(&format!("stat_prefix: {name}"))
        .yaml()
}

const REQUIRED: &str = "require_client_certificate: true\n";

fn listeners(c: &Certificates) -> Vec<String> {
    let trusting_one = |(name, authority, _): &(&'static str, Authority, Identity)| {
        listener(name, &[&c.server], "", &format!("trusted_ca: {}", inline(&authority.pem)), REQUIRED)
    };
    let mut all = ordinary_listeners(c);
    all.extend(c.unfit.iter().map(trusting_one));
    all
}

fn ordinary_listeners(c: &Certificates) -> Vec<String> {
    let plain = |name, common: &str| listener(name, &[&c.server], common, "", "");
    let checks = |name, fields: &str| listener(name, &[&c.server], "", &c.trusting(fields), REQUIRED);
    let pins = |name, fields: &str| listener(name, &[&c.server], "", fields, REQUIRED);
    let san = |name, kind: &str, matcher: &str| {
        checks(name, &format!("match_typed_subject_alt_names: [{{san_type: {kind}, matcher: {matcher}}}]"))
    };
    let (none, some) =
        (|year| c.root.revoke_in(year, &[99]).unwrap(), |year| c.root.revoke_in(year, &[15]).unwrap());
    vec![
        plain("plain", ""),
        plain("hybrid_last", ""),
        plain("alpn", "alpn_protocols: [h2, http/1.1]"),
        listener("many", &[&c.server, &c.rsa, &c.wildcard, &c.second], "", "", ""),
        listener("scanned", &[&c.rsa, &c.server], "", "", "full_scan_certs_on_sni_mismatch: true\n"),
        plain("only12", "tls_params: {tls_maximum_protocol_version: TLSv1_2}"),
        plain("only13", "tls_params: {tls_minimum_protocol_version: TLSv1_3}"),
        plain(
            "suites",
            "tls_params: {tls_maximum_protocol_version: TLSv1_2, cipher_suites: [ECDHE-ECDSA-AES256-GCM-SHA384, AES128-SHA]}",
        ),
        plain(
            "preferred",
            "tls_params: {cipher_suites: ['[ECDHE-ECDSA-CHACHA20-POLY1305|ECDHE-RSA-CHACHA20-POLY1305]', ECDHE-ECDSA-AES128-GCM-SHA256]}",
        ),
        plain(
            "grouped",
            "tls_params: {cipher_suites: ['ECDHE-ECDSA-AES256-GCM-SHA384:[ECDHE-ECDSA-CHACHA20-POLY1305|ECDHE-ECDSA-AES128-GCM-SHA256|AES128-SHA]']}",
        ),
        plain(
            "ungrouped",
            "tls_params: {cipher_suites: [ECDHE-ECDSA-CHACHA20-POLY1305, ECDHE-ECDSA-AES128-GCM-SHA256]}",
        ),
        listener("theirs", &[&c.server], "", "", "prefer_client_ciphers: true\n"),
        plain("curves", "tls_params: {ecdh_curves: [P-384, P-521]}"),
        checks("required", ""),
        listener("optional", &[&c.server], "", &c.trusting(""), ""),
        listener("demanded", &[&c.server], "", "", REQUIRED),
        listener(
            "untrusted",
            &[&c.server],
            "",
            &c.trusting("trust_chain_verification: ACCEPT_UNTRUSTED"),
            REQUIRED,
        ),
        checks("lenient", "allow_expired_certificate: true"),
        checks("listed", &format!("crl: {}", inline(&c.root.revoke(&[15]).unwrap()))),
        checks("listed_anew", &format!("crl: {}", inline(&(none(2021) + &some(2022))))),
        checks("listed_anew_first", &format!("crl: {}", inline(&(some(2022) + &none(2021))))),
        checks("listed_no_longer", &format!("crl: {}", inline(&(some(2021) + &none(2022))))),
        listener(
            "bundled",
            &[&c.server],
            "",
            &format!("trusted_ca: {}", inline(&format!("{}{}", c.root.pem, c.root.revoke(&[15]).unwrap()))),
            REQUIRED,
        ),
        checks("shallow", "max_verify_depth: 0"),
        san("uri", "URI", "{exact: spiffe://td/ns/a/sa/b}"),
        san("uri_prefix", "URI", "{prefix: spiffe://td/}"),
        san("uri_regex", "URI", "{safe_regex: {regex: 'spiffe://td/ns/.*/sa/b'}}"),
        san("dns", "DNS", "{exact: client.test}"),
        san("dns_suffix", "DNS", "{suffix: client.test, ignore_case: true}"),
        san("email", "EMAIL", "{contains: '@client'}"),
        san("ip", "IP_ADDRESS", "{exact: 10.1.2.3}"),
        checks("any_name", "match_subject_alt_names: [{exact: 10.1.2.3}, {exact: client.test}]"),
        pins("hash", &format!("verify_certificate_hash: ['{}']", hex_sha256(&c.client.der))),
        pins("key", &format!("verify_certificate_spki: ['{}']", base64_sha256(&spki(&c.client.der)))),
        pins(
            "either",
            &format!(
                "verify_certificate_spki: ['{}']\nverify_certificate_hash: ['{}']",
                base64_sha256(b"x"),
                hex_sha256(&c.client.der)
            ),
        ),
        checks("both", &format!("verify_certificate_hash: ['{}']", hex_sha256(&c.stranger.der))),
        listener("leaf", &[&c.server], "", &format!("trusted_ca: {}", inline(&c.client.chain)), REQUIRED),
        listener(
            "two_roots",
            &[&c.server],
            "",
            &format!("trusted_ca: {}", inline(&format!("{}{}", c.other.pem, c.root.pem))),
            REQUIRED,
        ),
    ]
}

/// The key of a certificate with its algorithm.
fn spki(der: &[u8]) -> Vec<u8> {
    // Of ECDSA with P-256 it is as long everywhere, and begins in the same way.
    const BEGIN: &[u8] = &[0x30, 0x59, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01];
    let at = der.windows(BEGIN.len()).position(|window| window == BEGIN).unwrap();
    der[at..at + 91].to_vec()
}

/// Names that clients ask for, those that end in a number among them.
const ASKED: [&str; 9] = [
    "a.test",
    "A.TEST",
    "x.b.test",
    "d.b.test",
    "x.y.b.test",
    "c.test",
    "nobody.test",
    "sni.mesh.backend.80",
    "a.1",
];

/// What clients do: a name, a listener, options.
/// What a client prefers tells within a group, and nowhere else.
fn preferences() -> Vec<(String, &'static str, ClientOptions)> {
    const SMALL: [&str; 2] =
        ["TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256", "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256"];
    const LARGE: [&str; 2] =
        ["TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384", "TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384"];
    const MOBILE: [&str; 2] =
        ["TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256", "TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256"];
    let mut cases = Vec::new();
    for (name, order) in [
        ("small before mobile", &[SMALL, MOBILE, LARGE][..]),
        ("mobile before small", &[MOBILE, SMALL, LARGE]),
        ("large before mobile", &[LARGE, MOBILE]),
        ("large first", &[LARGE, MOBILE, SMALL]),
    ] {
        let options =
            ClientOptions { suites: order.concat(), versions: vec![&TLS12], ..ClientOptions::default() };
        for listener in ["plain", "alpn", "many", "only12", "grouped", "ungrouped", "theirs"] {
            let schemes = vec![SignatureScheme::RSA_PSS_SHA256, SignatureScheme::RSA_PKCS1_SHA256];
            cases.push((
                format!("{listener}: {name}, RSA only"),
                listener,
                ClientOptions { schemes, ..options.clone() },
            ));
            cases.push((format!("{listener}: {name}"), listener, options.clone()));
        }
    }
    cases
}

fn cases(c: &Certificates) -> Vec<(String, &'static str, ClientOptions)> {
    let mut cases: Vec<(String, &'static str, ClientOptions)> = Vec::new();
    let mut add = |name: &str, listener: &'static str, options: ClientOptions| {
        cases.push((format!("{listener}: {name}"), listener, options));
    };
    let anybody = ClientOptions::default();
    let asking = |name| ClientOptions { server_name: Some(name), ..ClientOptions::default() };
    let offering = |alpn: &[&'static str]| ClientOptions { alpn: alpn.to_vec(), ..ClientOptions::default() };
    for listener in ["plain", "alpn", "many", "scanned", "only12", "only13", "suites", "preferred", "curves"]
    {
        add("anybody", listener, anybody.clone());
        add("1.2", listener, ClientOptions { versions: vec![&TLS12], ..anybody.clone() });
        add("1.3", listener, ClientOptions { versions: vec![&TLS13], ..anybody.clone() });
    }
    let groups = vec!["X25519", "X25519MLKEM768"];
    add("anybody", "hybrid_last", ClientOptions { groups, ..anybody.clone() });
    add("server's order", "alpn", offering(&["http/1.1", "h2"]));
    add("one", "alpn", offering(&["http/1.1"]));
    add("none of ours", "alpn", offering(&["foo"]));
    add("ours are none", "plain", offering(&["h2"]));
    for name in ASKED {
        add(name, "many", asking(name));
    }
    add("nobody.test", "scanned", asking("nobody.test"));
    add("silent", "many", ClientOptions { silent: true, ..anybody.clone() });
    let rsa_only = || vec![SignatureScheme::RSA_PSS_SHA256, SignatureScheme::RSA_PKCS1_SHA256];
    let ecdsa_only = || vec![SignatureScheme::ECDSA_NISTP256_SHA256];
    for listener in ["many", "scanned"] {
        add("RSA only", listener, ClientOptions { schemes: rsa_only(), ..anybody.clone() });
        add("ECDSA only", listener, ClientOptions { schemes: ecdsa_only(), ..anybody.clone() });
        add(
            "silent, RSA only",
            listener,
            ClientOptions { schemes: rsa_only(), silent: true, ..anybody.clone() },
        );
    }
    let chacha = vec!["TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256"];
    for listener in ["plain", "suites", "preferred"] {
        add(
            "one suite",
            listener,
            ClientOptions { suites: chacha.clone(), versions: vec![&TLS12], ..anybody.clone() },
        );
    }
    for (listener, _, identity) in &c.unfit {
        add(
            "whom it issued",
            listener,
            ClientOptions { identity: Some(identity.clone()), ..anybody.clone() },
        );
    }
    let who: [(&str, Option<&Identity>); 9] = [
        ("nobody", None),
        ("client", Some(&c.client)),
        ("spiffe", Some(&c.spiffe)),
        ("stranger", Some(&c.stranger)),
        ("expired", Some(&c.expired)),
        ("future", Some(&c.future)),
        ("revoked", Some(&c.revoked)),
        ("by way of another", Some(&c.between)),
        ("without its chain", Some(&c.rootless)),
    ];
    for listener in [
        "required",
        "optional",
        "demanded",
        "untrusted",
        "lenient",
        "listed",
        "bundled",
        "shallow",
        "uri",
        "uri_prefix",
        "uri_regex",
        "dns",
        "dns_suffix",
        "email",
        "ip",
        "any_name",
        "hash",
        "key",
        "either",
        "both",
        "leaf",
        "two_roots",
    ] {
        for (name, identity) in who {
            let options = ClientOptions { identity: identity.cloned(), ..anybody.clone() };
            add(name, listener, options.clone());
            if matches!(listener, "required" | "optional") {
                add(&format!("{name}, 1.2"), listener, ClientOptions { versions: vec![&TLS12], ..options });
            }
        }
    }
    cases.extend(preferences());
    cases
}

/// What both programs must agree on.
fn facts(outcome: &Outcome, shown: &[(&str, &[u8])]) -> String {
    if outcome.handshake != "ok" {
        return outcome.handshake.clone();
    }
    let certificate =
        shown.iter().find(|(_, der)| **der == outcome.certificate).map_or("-", |(name, _)| name);
    let status = outcome.answer.lines().next().filter(|line| line.starts_with("HTTP/")).unwrap_or_default();
    let Outcome { version, cipher, notified, .. } = outcome;
    format!("{version} {cipher} alpn={:?} {certificate} {status} notified={notified}", outcome.alpn)
}

/// What is expected here where Envoy does as `fact` says: `rustls` sends another alert for two refusals.
fn declared(name: &str, fact: &str) -> String {
    let fact = fact.replace("alert BadCertificateHashValue", "alert CertificateUnknown");
    match name {
        // Envoy lets whoever is trusted vouch for others, whatever the certificate says of that.
        "trusted_leaf: whom it issued" => "alert UnknownCA".to_owned(),
        "trusted_last: whom it issued" => "alert CertificateUnknown".to_owned(),
        "required: nobody, 1.2" => fact.replace("alert HandshakeFailure", "alert CertificateRequired"),
        _ => fact,
    }
}

type Observed = (BTreeMap<String, String>, BTreeMap<String, i64>);

async fn observe(binary: &Binary, c: &Certificates) -> Observed {
    let (proxy, _upstream) = start(binary, &listeners(c)).await;
    let shown: [(&str, &[u8]); 4] = [
        ("server", &c.server.der),
        ("rsa", &c.rsa.der),
        ("wildcard", &c.wildcard.der),
        ("second", &c.second.der),
    ];
    let mut observed = BTreeMap::new();
    for (name, listener, options) in cases(c) {
        let addr = proxy.listener(listener).unwrap();
        let request = if options.alpn.contains(&"h2") && listener == "alpn" { H2_PREFACE } else { GET };
        let until = if request == GET { "" } else { "\0" };
        let outcome = converse(addr, &options, request, until).await.unwrap();
        observed.insert(name, facts(&outcome, &shown));
    }
    let settled = eventually("every connection to end", SOON, async || {
        let active = proxy.admin().stats("downstream_cx_ssl_active").await.ok()?;
        active.values().all(|value| *value == 0).then_some(())
    });
    settled.await.unwrap();
    let stats = proxy.admin().stats(r"^listener\..*ssl|_ssl_").await.unwrap();
    (observed, stats)
}

/// The start of HTTP/2 with empty SETTINGS.
const H2_PREFACE: &str = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\u{4}\0\0\0\0\0";

#[tokio::test(flavor = "multi_thread")]
async fn handshakes_are_those_of_envoy() {
    let certificates = Certificates::new();
    let [envoy, subject] = both();
    let (expected, expected_stats) = observe(&envoy, &certificates).await;
    let (actual, actual_stats) = observe(&subject, &certificates).await;
    assert!(expected.len() > 200, "{}", expected.len());
    let mut wrong = String::new();
    for (name, expected) in &expected {
        let (expected, actual) = (&declared(name, expected), &actual[name]);
        if actual != expected {
            let _ = writeln!(wrong, "{name}:\n  envoy: {expected}\n  here:  {actual}");
        }
    }
    let names: std::collections::BTreeSet<_> = expected_stats.keys().chain(actual_stats.keys()).collect();
    let is_told = |name: &&String| !UNTOLD.iter().any(|untold| name.starts_with(untold));
    for name in names.into_iter().filter(is_told) {
        let (expected, actual) = (expected_stats.get(name), actual_stats.get(name));
        if expected != actual {
            let _ = writeln!(wrong, "{name}: envoy {expected:?}, here {actual:?}");
        }
    }
    assert!(wrong.is_empty(), "of {} cases:\n{wrong}", expected.len());
    // Who has the hybrid group first gets it from both; who has it last gets it from Envoy, after another round trip.
    for (stats, last) in [(&expected_stats, "X25519MLKEM768"), (&actual_stats, "X25519")] {
        let count = |listener: &str, group: &str| {
            stats.get(&format!("listener.{listener}.ssl.curves.{group}")).copied().unwrap_or_default()
        };
        assert_eq!(["only13", "only12"].map(|listener| count(listener, "X25519MLKEM768")), [2, 0]);
        assert_eq!((count("hybrid_last", last), stats["listener.hybrid_last.ssl.handshake"]), (1, 1));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_are_never_shown() {
    let root = Authority::new("root").unwrap();
    let server = root.issue(&Wanted::default()).unwrap();
    let secret = server.key.lines().nth(1).unwrap();
    let broken = server.key.replace(&secret[..4], "////");
    for binary in both() {
        let (proxy, _upstream) = start(&binary, &[listener("l", &[&server], "", "", "")]).await;
        let dump = proxy.admin().config_dump("").await.unwrap().to_string();
        assert!(dump.contains("[redacted]"), "{dump}");
        assert!(!dump.contains(secret), "{dump}");
        assert!(!proxy.log().contains(secret));
        let wrong = Identity { key: broken.clone(), ..server.clone() };
        let config = integration::config::bootstrap(&[listener("l", &[&wrong], "", "", "")], &[], "");
        let verdict = binary.validate(&config).unwrap();
        assert!(
            !verdict.accepted && verdict.text.contains("Failed to load private key from <inline>"),
            "{}",
            verdict.text
        );
        assert!(!verdict.text.contains(&secret[8..]), "{}", verdict.text);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn certificates_are_listed_as_by_envoy() {
    let root = Authority::new("root").unwrap();
    let sans = &["dns:a.test", "uri:spiffe://td/a", "ip:10.0.0.1", "email:x@a.test"];
    let server =
        root.issue(&Wanted { sans, serial: 0xabcd, valid: (2020, 2050), ..Wanted::default() }).unwrap();
    let trusted = format!("trusted_ca: {}", inline(&root.pem));
    let listeners = [listener("l", &[&server], "", &trusted, ""), listener("m", &[&server], "", "", "")];
    let mut listed = Vec::new();
    for binary in both() {
        let (proxy, _upstream) = start(&binary, &listeners).await;
        let text = proxy.admin().get("/certs").await.unwrap();
        let mut all: serde_json::Value = serde_json::from_str(&text).unwrap();
        let entries = all["certificates"].as_array_mut().unwrap();
        // Envoy has them in no order.
        entries.sort_by_key(ToString::to_string);
        listed.push(all);
    }
    assert_eq!(listed[0]["certificates"].as_array().unwrap().len(), 2);
    assert_eq!(listed[0], listed[1]);
}

/// Looking for a way through many certificates costs much more than sending them: Envoy takes a hundred, here it is sixteen.
#[tokio::test(flavor = "multi_thread")]
async fn a_client_sends_at_most_sixteen_certificates_beside_its_own() {
    let c = Certificates::new();
    let middle = c.root.intermediate("middle").unwrap();
    let own = middle.issue(&Wanted::default()).unwrap().with_chain(&middle);
    let (proxy, _upstream) =
        start(&Binary::subject().unwrap(), &[listener("l", &[&c.server], "", &c.trusting(""), REQUIRED)])
            .await;
    for (more, accepted) in [(0, true), (15, true), (16, false)] {
        let identity = (0..more).fold(own.clone(), |own, _| own.with_chain(&c.other));
        let options = ClientOptions { identity: Some(identity), ..ClientOptions::default() };
        let outcome = converse(proxy.listener("l").unwrap(), &options, GET, "").await.unwrap();
        assert_eq!(outcome.answer.starts_with("HTTP/1.1 200"), accepted, "{more}: {}", outcome.handshake);
    }
}
