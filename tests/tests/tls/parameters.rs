//! Signature algorithms and policies of compliance: what handshakes are made of, on both programs.

use std::collections::BTreeMap;
use std::fmt::Write;

use integration::config::{HttpListener, bootstrap};
use integration::process::Binary;
use integration::tls::{Authority, ClientOptions, Identity, Wanted, converse, downstream, inline};
use rustls::SignatureScheme as Scheme;
use rustls::version::{TLS12, TLS13};

use crate::{DIRECT, GET, both, start};

/// Certificates with keys of both kinds, and with one of each.
struct Rig {
    root: Authority,
    ecdsa: Identity,
    rsa: Identity,
}

impl Rig {
    fn new() -> Self {
        let root = Authority::new("root").unwrap();
        let ecdsa = root.issue(&Wanted::default()).unwrap();
        let rsa = root.issue(&Wanted { algorithm: Wanted::RSA_2048, ..Wanted::default() }).unwrap();
        Self { root, ecdsa, rsa }
    }

    /// A listener by its keys and parameters; with `validation` clients must show a certificate.
    fn listener(&self, name: &str, keys: &str, params: &str, validates: bool) -> String {
        let all = [("ecdsa", &self.ecdsa), ("rsa", &self.rsa)];
        let chosen: Vec<String> = all
            .iter()
            .filter(|(kind, _)| keys.contains(kind))
            .map(|(_, identity)| identity.inline())
            .collect();
        let mut common = format!("tls_certificates: [{}]\ntls_params: {{{params}}}\n", chosen.join(", "));
        let mut context = "";
        if validates {
            let _ = writeln!(common, "validation_context: {{trusted_ca: {}}}", inline(&self.root.pem));
            context = "require_client_certificate: true\n";
        }
        HttpListener::to_up(name)
            .chain(&downstream(&common, context))
            .listener(&format!("stat_prefix: {name}"))
            .yaml()
    }

    fn listeners(&self) -> Vec<String> {
        let signing = |list: &str| format!("signature_algorithms: [{list}]");
        let plain = |name, keys, params: &str| self.listener(name, keys, params, false);
        let asking = |name, keys, params: &str| self.listener(name, keys, params, true);
        vec![
            plain("ecdsa_only", "ecdsa rsa", &signing("ecdsa_secp256r1_sha256")),
            plain("rsa_only", "rsa", &signing("rsa_pss_rsae_sha256, rsa_pkcs1_sha256")),
            plain("no_key_for_it", "ecdsa", &signing("rsa_pss_rsae_sha256")),
            plain(
                "ours_first",
                "rsa",
                &signing("rsa_pss_rsae_sha384, rsa_pss_rsae_sha512, rsa_pss_rsae_sha256, rsa_pkcs1_sha256"),
            ),
            plain("pairs", "rsa", &signing("'RSA-PSS+SHA256:RSA+SHA256'")),
            plain("only12", "rsa", &signing("rsa_pkcs1_sha256")),
            asking("asking", "ecdsa rsa", &signing("ecdsa_secp256r1_sha256")),
            asking("asking_rsa", "rsa", &signing("rsa_pss_rsae_sha256")),
            plain("policy", "ecdsa rsa", "compliance_policies: [FIPS_202205]"),
            asking("policy_asking", "ecdsa", "compliance_policies: [FIPS_202205]"),
            plain(
                "policy_above_versions",
                "rsa",
                "compliance_policies: [FIPS_202205], tls_maximum_protocol_version: TLSv1_2",
            ),
            plain(
                "policy_above_suites",
                "ecdsa",
                "compliance_policies: [FIPS_202205], cipher_suites: [ECDHE-ECDSA-CHACHA20-POLY1305]",
            ),
            plain(
                "policy_above_groups",
                "ecdsa",
                "compliance_policies: [FIPS_202205], ecdh_curves: [X25519]",
            ),
            plain(
                "policy_and_signatures",
                "ecdsa",
                "compliance_policies: [FIPS_202205], signature_algorithms: [ed25519]",
            ),
            plain(
                "policy_and_signatures_of_rsa",
                "rsa",
                "compliance_policies: [FIPS_202205], signature_algorithms: [rsa_pss_rsae_sha512]",
            ),
        ]
    }
}

fn clients(rig: &Rig) -> Vec<(&'static str, ClientOptions)> {
    let anybody = ClientOptions::default;
    let with = |identity: &Identity| ClientOptions::with(identity);
    let taking = |schemes: &[Scheme]| ClientOptions { schemes: schemes.to_vec(), ..anybody() };
    let suites = |suites: &[&'static str]| ClientOptions { suites: suites.to_vec(), ..anybody() };
    let groups = |groups: &[&'static str]| ClientOptions { groups: groups.to_vec(), ..anybody() };
    let on12 = |options: ClientOptions| ClientOptions { versions: vec![&TLS12], ..options };
    vec![
        ("anybody", anybody()),
        ("1.2", on12(anybody())),
        ("1.3", ClientOptions { versions: vec![&TLS13], ..anybody() }),
        ("takes PSS with SHA-256", taking(&[Scheme::RSA_PSS_SHA256])),
        ("takes PSS with SHA-512, then 384", taking(&[Scheme::RSA_PSS_SHA512, Scheme::RSA_PSS_SHA384])),
        ("takes PKCS 1, 1.2", on12(taking(&[Scheme::RSA_PKCS1_SHA256]))),
        ("takes P-256", taking(&[Scheme::ECDSA_NISTP256_SHA256])),
        ("takes P-256, 1.2", on12(taking(&[Scheme::ECDSA_NISTP256_SHA256]))),
        ("takes Ed25519", taking(&[Scheme::ED25519])),
        ("ChaCha20", suites(&["TLS13_CHACHA20_POLY1305_SHA256"])),
        ("ChaCha20 first", suites(&["TLS13_CHACHA20_POLY1305_SHA256", "TLS13_AES_128_GCM_SHA256"])),
        ("ChaCha20, 1.2", on12(suites(&["TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256"]))),
        ("AES-256, 1.2", on12(suites(&["TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384"]))),
        ("X25519", groups(&["X25519"])),
        ("P-384", groups(&["secp384r1"])),
        ("with ECDSA", with(&rig.ecdsa)),
        ("with ECDSA, 1.2", on12(with(&rig.ecdsa))),
        ("with RSA", with(&rig.rsa)),
        ("with RSA, 1.2", on12(with(&rig.rsa))),
    ]
}

const LISTENERS: [&str; 15] = [
    "ecdsa_only",
    "rsa_only",
    "no_key_for_it",
    "ours_first",
    "pairs",
    "only12",
    "asking",
    "asking_rsa",
    "policy",
    "policy_asking",
    "policy_above_versions",
    "policy_above_suites",
    "policy_above_groups",
    "policy_and_signatures",
    "policy_and_signatures_of_rsa",
];

async fn observe(binary: &Binary, rig: &Rig) -> BTreeMap<String, String> {
    let (proxy, _upstream) = start(binary, &rig.listeners()).await;
    let mut seen = BTreeMap::new();
    for listener in LISTENERS {
        let addr = proxy.listener(listener).unwrap();
        for (name, mut options) in clients(rig) {
            options.signed = Default::default();
            let outcome = converse(addr, &options, GET, "").await.unwrap();
            let status = outcome.answer.lines().next().unwrap_or_default();
            let facts = match outcome.handshake.as_str() {
                "ok" => format!(
                    "{} {} {:?} {} {status}",
                    outcome.version,
                    outcome.cipher,
                    options.signed.lock().unwrap(),
                    if outcome.certificate == rig.rsa.der { "RSA" } else { "ECDSA" }
                ),
                failed => failed.to_owned(),
            };
            seen.insert(format!("{listener}: {name}"), facts);
        }
    }
    seen
}

#[tokio::test(flavor = "multi_thread")]
async fn handshakes_are_signed_and_made_of_what_envoy_takes() {
    let rig = Rig::new();
    let [envoy, subject] = both();
    let (expected, actual) = (observe(&envoy, &rig).await, observe(&subject, &rig).await);
    let mut wrong = String::new();
    for (name, expected) in &expected {
        // `rustls` has an alert of its own for a certificate that is missing.
        let own = expected.replace("HandshakeFailure", "CertificateRequired");
        if name.contains("asking") && actual[name] == own && name.ends_with("1.2") {
            continue;
        }
        if &actual[name] != expected {
            let _ = writeln!(wrong, "{name}:\n  envoy: {expected}\n  here:  {}", actual[name]);
        }
    }
    assert!(wrong.is_empty(), "of {} cases:\n{wrong}", expected.len());
    let well = expected.values().filter(|facts| facts.contains("HTTP/1.1 200")).count();
    assert!(well > 60 && well < expected.len() - 60, "{well} of {}", expected.len());
}

/// Of several certificates one is shown that may be signed with. (Envoy looks at what the client takes, and then cannot sign.)
#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_is_shown_that_may_be_signed_with() {
    let rig = Rig::new();
    let listener = rig.listener("l", "ecdsa rsa", "signature_algorithms: [rsa_pss_rsae_sha256]", false);
    for (binary, wanted) in both().iter().zip(["alert HandshakeFailure", "ok"]) {
        let (proxy, _upstream) = start(binary, std::slice::from_ref(&listener)).await;
        let outcome =
            converse(proxy.listener("l").unwrap(), &ClientOptions::default(), GET, "").await.unwrap();
        assert_eq!(outcome.handshake, wanted);
        assert!(wanted != "ok" || outcome.certificate == rig.rsa.der);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn names_that_are_taken_and_refused() {
    let rig = Rig::new();
    let config = |params: &str| {
        let common = format!("tls_certificates: [{}]\ntls_params: {{{params}}}\n", rig.rsa.inline());
        bootstrap(&[HttpListener::new("l", DIRECT).chain(&downstream(&common, "")).yaml()], &[], "")
    };
    let signing = |list: &str| format!("signature_algorithms: [{list}]");
    let cases = [
        (signing("rsa_pss_rsae_sha256"), true),
        (signing("'rsa_pss_rsae_sha256:ecdsa_secp256r1_sha256'"), true),
        (signing("rsa_pss_rsae_sha256, rsa_pkcs1_sha1"), true),
        (signing("RSA+SHA256, RSA-PSS+SHA384, PSS+SHA512, ECDSA+SHA256"), true),
        (signing("ecdsa_secp521r1_sha512, ed25519, rsa_pss_rsae_sha256"), true),
        (signing("nonsense"), false),
        (signing("''"), true),
        (signing("RSA_PSS_RSAE_SHA256"), false),
        (signing("rsa+sha256"), false),
        (signing("RSA+MD5"), false),
        (signing("rsa_pkcs1_md5_sha1"), false),
        (signing("rsa_pss_pss_sha256"), false),
        (signing("rsa_pss_rsae_sha256, rsa_pss_rsae_sha256"), false),
        ("compliance_policies: [FIPS_202205]".to_owned(), true),
        ("compliance_policies: [FIPS_202205, FIPS_202205]".to_owned(), false),
        ("compliance_policies: [7]".to_owned(), false),
        ("compliance_policies: [FIPS_202205], signature_algorithms: [nonsense]".to_owned(), false),
    ];
    for binary in both() {
        for (params, accepted) in &cases {
            let verdict = binary.validate(&config(params)).unwrap();
            assert_eq!(verdict.accepted, *accepted, "{params}: {}", verdict.text);
        }
    }
}

/// What a certificate says of parameters goes before what its context says, field by field.
#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_has_parameters_of_its_own_as_with_envoy() {
    const MOBILE: &str = "cipher_suites: [ECDHE-ECDSA-CHACHA20-POLY1305]";
    const LARGE: &str = "cipher_suites: [ECDHE-ECDSA-AES256-GCM-SHA384]";
    const ONLY12: &str = "tls_maximum_protocol_version: TLSv1_2";
    let rig = Rig::new();
    let certificate = rig.ecdsa.inline();
    let fields = certificate.strip_suffix('}').unwrap();
    let listener = |name: &str, own: &str, others: &str, context: &str| {
        let common = format!(
            "tls_certificates: [{fields}, tls_params: {{{own}}}}}{others}]\ntls_params: {{{context}}}\n"
        );
        HttpListener::new(name, DIRECT).chain(&downstream(&common, "")).yaml()
    };
    let taken = [
        ("versions", ONLY12.to_owned(), LARGE.to_owned()),
        ("suites", MOBILE.to_owned(), format!("{LARGE}, {ONLY12}")),
        ("nothing", String::new(), ONLY12.to_owned()),
        ("several", format!("{LARGE}, {ONLY12}"), format!("{MOBILE}, ecdh_curves: [P-256]")),
    ];
    let refused = [
        ("cipher_suites: [nonsense]", ""),
        ("", "cipher_suites: [nonsense]"),
        (MOBILE, "cipher_suites: [nonsense]"),
        ("tls_minimum_protocol_version: TLSv1_3", ONLY12),
    ];
    let mut told = Vec::new();
    for binary in both() {
        let listeners = taken.each_ref().map(|(name, own, context)| listener(name, own, "", context));
        let (proxy, _upstream) = start(&binary, &listeners).await;
        for (name, ..) in &taken {
            let addr = proxy.listener(name).unwrap();
            let outcome = converse(addr, &ClientOptions::default(), GET, "").await.unwrap();
            told.push(format!("{name}: {} {}", outcome.version, outcome.cipher));
        }
        for (own, context) in refused {
            let verdict = binary.validate(&bootstrap(&[listener("l", own, "", context)], &[], "")).unwrap();
            assert!(!verdict.accepted, "{own} {context}: {}", verdict.text);
        }
    }
    assert_eq!(told[..4], told[4..]);
    assert!(
        told[0].contains("AES_256") && told[1].contains("CHACHA20") && told[3].contains("AES_256"),
        "{told:?}"
    );
    // Envoy takes versions from the first of several.
    let several = listener("l", ONLY12, &format!(", {}", rig.rsa.inline()), "");
    let verdict = Binary::subject().unwrap().validate(&bootstrap(&[several], &[], "")).unwrap();
    assert!(!verdict.accepted && verdict.text.contains("where there is one only"), "{}", verdict.text);
}
