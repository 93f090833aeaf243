//! The SPIFFE validator: which certificates are those of a workload of a trust domain, on both sides, as Envoy has it.

use std::collections::BTreeMap;

use integration::client::Client;
use integration::config::{HttpListener, bootstrap, cluster, fill, port};
use integration::expect::{SOON, eventually};
use integration::process::{Binary, Proxy};
use integration::tls::{
    Authority, ClientOptions, Identity, TlsServer, Wanted, converse, downstream, inline, upstream,
};
use rcgen::KeyUsagePurpose;
use rcgen::KeyUsagePurpose::{CrlSign, DigitalSignature, KeyCertSign};
use rustls::version::{TLS12, TLS13};

use crate::{DIRECT, GET, both, start};

struct Rig {
    one: Authority,
    two: Authority,
    between: Authority,
    server: Identity,
    peers: Vec<(&'static str, Identity)>,
}

impl Rig {
    fn new() -> Self {
        let (one, two) = (Authority::new("one").unwrap(), Authority::new("two").unwrap());
        let between = one.intermediate("between").unwrap();
        let signs: &[KeyUsagePurpose] = &[DigitalSignature];
        let svid = |sans| Wanted { sans, usages: signs, ..Wanted::default() };
        let of_one = |wanted: Wanted<'_>| one.issue(&wanted).unwrap();
        let mine: &[&str] = &["uri:spiffe://one.test/ns/a/sa/b"];
        let peers = vec![
            ("right", of_one(svid(mine))),
            ("root path", of_one(svid(&["uri:spiffe://one.test/"]))),
            ("no path", of_one(svid(&["uri:spiffe://one.test"]))),
            ("another scheme", of_one(svid(&["uri:https://one.test/a"]))),
            ("upper case", of_one(svid(&["uri:spiffe://ONE.test/a"]))),
            ("of another domain", of_one(svid(&["uri:spiffe://two.test/ns/a/sa/b"]))),
            ("of a domain that is not known", of_one(svid(&["uri:spiffe://three.test/a"]))),
            ("no name", of_one(svid(&[]))),
            ("no URI", of_one(svid(&["dns:one.test"]))),
            ("two URIs", of_one(svid(&["uri:spiffe://one.test/a", "uri:spiffe://two.test/a"]))),
            (
                "two URIs, the other first",
                of_one(svid(&["uri:spiffe://two.test/a", "uri:spiffe://one.test/a"])),
            ),
            ("a name before the URI", of_one(svid(&["dns:x.test", "uri:spiffe://one.test/ns/a/sa/b"]))),
            ("expired", of_one(Wanted { valid: (2020, 2021), ..svid(mine) })),
            ("future", of_one(Wanted { valid: (2090, 2100), ..svid(mine) })),
            ("says nothing of its key", of_one(Wanted { usages: &[], ..svid(mine) })),
            (
                "may sign certificates",
                of_one(Wanted { usages: &[DigitalSignature, KeyCertSign], ..svid(mine) }),
            ),
            ("may sign lists", of_one(Wanted { usages: &[DigitalSignature, CrlSign], ..svid(mine) })),
            ("revoked", of_one(Wanted { serial: 15, ..svid(mine) })),
            ("by way of another", between.issue(&svid(mine)).unwrap().with_chain(&between)),
            ("without its chain", between.issue(&svid(mine)).unwrap()),
            ("two, right", two.issue(&svid(&["uri:spiffe://two.test/ns/a/sa/b"])).unwrap()),
            ("two, of the other", two.issue(&svid(mine)).unwrap()),
        ];
        let server = of_one(svid(&["dns:a.test", "uri:spiffe://one.test/server"]));
        Self { one, two, between, server, peers }
    }

    /// Validation contexts by name.
    fn contexts(&self) -> Vec<(&'static str, String)> {
        let one = self.one.pem.as_str();
        let config = |body: &str| {
            format!(
                "custom_validator_config:\n  name: envoy.tls.cert_validator.spiffe\n  typed_config:\n    \"@type\": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.SPIFFECertValidatorConfig\n    {body}\n"
            )
        };
        let domain = |name: &str, bundle: &str| format!("{{name: {name}, trust_bundle: {}}}", inline(bundle));
        let domains = |list: &[String]| config(&format!("trust_domains: [{}]", list.join(", ")));
        let both = domains(&[domain("one.test", one), domain("two.test", &self.two.pem)]);
        let matching = |matchers: &str| format!("{both}match_typed_subject_alt_names: [{matchers}]\n");
        let revoked = self.one.revoke(&[15]).unwrap() + &self.between.revoke(&[]).unwrap();
        vec![
            ("only_one", domains(&[domain("one.test", one)])),
            ("both", both.clone()),
            ("lenient", format!("{both}allow_expired_certificate: true\n")),
            ("prefix", matching("{san_type: URI, matcher: {prefix: spiffe://one.test/ns/}}")),
            (
                "and_others",
                matching(
                    "{san_type: URI, matcher: {suffix: /sa/b}}, {san_type: DNS, matcher: {exact: x.test}}",
                ),
            ),
            ("listed", domains(&[domain("one.test", &format!("{one}{revoked}"))])),
            ("with_between", domains(&[domain("one.test", &format!("{one}{}", self.between.pem))])),
            ("only_between", domains(&[domain("one.test", &self.between.pem)])),
            (
                "map",
                config(&format!(
                    "trust_domains: [{}]\n    trust_bundles: {}",
                    domain("three.test", one),
                    inline_json(&self.bundle_map())
                )),
            ),
        ]
    }

    fn bundle_map(&self) -> String {
        let body = |pem: &str| pem.lines().filter(|line| !line.starts_with('-')).collect::<String>();
        let keys = |pem: &str| {
            format!(r#"{{"keys": [{{"use": "x509-svid", "kty": "EC", "x5c": ["{}"]}}]}}"#, body(pem))
        };
        format!(
            r#"{{"trust_domains": {{"one.test": {}, "two.test": {}}}}}"#,
            keys(&self.one.pem),
            keys(&self.two.pem)
        )
    }
}

fn inline_json(text: &str) -> String {
    format!("{{inline_string: '{text}'}}")
}

type Observed = (BTreeMap<String, String>, BTreeMap<String, i64>);

async fn of_clients(binary: &Binary, rig: &Rig) -> Observed {
    let listeners: Vec<String> = rig
        .contexts()
        .iter()
        .map(|(name, validation)| {
            let validation = integration::config::indent(validation, 2);
            let common =
                format!("tls_certificates: [{}]\nvalidation_context:\n{validation}", rig.server.inline());
            HttpListener::to_up(name)
                .chain(&downstream(&common, ""))
                .listener(&format!("stat_prefix: {name}"))
                .yaml()
        })
        .collect();
    let (proxy, _upstream) = start(binary, &listeners).await;
    let mut seen = BTreeMap::new();
    for (context, _) in rig.contexts() {
        let addr = proxy.listener(context).unwrap();
        let nobody = ("nobody", ClientOptions::default());
        let peers = rig.peers.iter().map(|(name, identity)| (*name, ClientOptions::with(identity)));
        for (name, options) in peers.chain([nobody]) {
            let outcome = converse(addr, &options, GET, "").await.unwrap();
            let status = outcome.answer.lines().next().unwrap_or_default().to_owned();
            seen.insert(format!("{context}: {name}"), format!("{} {status}", outcome.handshake));
        }
    }
    let settled = eventually("every connection to end", SOON, async || {
        let active = proxy.admin().stats("downstream_cx_ssl_active").await.ok()?;
        active.values().all(|value| *value == 0).then_some(())
    });
    settled.await.unwrap();
    let stats =
        proxy.admin().stats(r"^listener\..*ssl\.(fail|handshake|connection_error|no_certificate)").await;
    (seen, stats.unwrap())
}

async fn of_hosts(binary: &Binary, rig: &Rig, hosts: &[(&'static str, TlsServer)]) -> Observed {
    let contexts = rig.contexts();
    let pairs: Vec<(String, &str, &TlsServer)> = contexts
        .iter()
        .filter(|(context, _)| ["both", "lenient", "prefix"].contains(context))
        .flat_map(|(context, validation)| {
            hosts
                .iter()
                .enumerate()
                .map(move |(at, (_, host))| (format!("{context}_{at}"), validation.as_str(), host))
        })
        .collect();
    let clusters: Vec<String> = pairs
        .iter()
        .map(|(name, validation, host)| {
            let validation = integration::config::indent(validation, 2);
            let tls = upstream(&format!("validation_context:\n{validation}"), "sni: a.test\n");
            fill(&cluster(name, "up", &tls), [("up", port(host.addr))])
        })
        .collect();
    let routes: String = pairs
        .iter()
        .map(|(name, ..)| format!("- {{match: {{path: /{name}}}, route: {{cluster: {name}}}}}\n"))
        .collect();
    let config = bootstrap(&[HttpListener::new("l", &routes).yaml()], &clusters, "");
    let proxy = Proxy::start(binary, &config).await.unwrap();
    let mut seen = BTreeMap::new();
    for (name, ..) in &pairs {
        let mut client = Client::connect(proxy.listener("l").unwrap()).await.unwrap();
        client.send(format!("GET /{name} HTTP/1.1\r\nhost: a.test\r\n\r\n").as_bytes()).await.unwrap();
        let response = client.response("GET", SOON).await.unwrap();
        seen.insert(name.clone(), response.head.status().unwrap().to_string());
    }
    let filter = r"^cluster\..*\.ssl\.(fail|handshake|connection_error)";
    let stats = eventually("every handshake to be counted", SOON, async || {
        let stats = proxy.admin().stats(filter).await.ok()?;
        let counted: i64 = stats.values().sum();
        (counted >= i64::try_from(pairs.len()).ok()?).then_some(stats)
    });
    (seen, stats.await.unwrap())
}

fn compare((expected, expected_stats): &Observed, (actual, actual_stats): &Observed) -> String {
    let mut wrong = String::new();
    for (name, expected) in expected {
        if &actual[name] != expected {
            wrong += &format!("{name}: envoy {expected}, here {}\n", actual[name]);
        }
    }
    for (name, expected) in expected_stats {
        if actual_stats.get(name) != Some(expected) {
            wrong += &format!("{name}: envoy {expected}, here {:?}\n", actual_stats.get(name));
        }
    }
    wrong
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_are_held_to_the_bundle_of_their_domain() {
    let rig = Rig::new();
    let [envoy, subject] = both();
    let (expected, actual) = (of_clients(&envoy, &rig).await, of_clients(&subject, &rig).await);
    let wrong = compare(&expected, &actual);
    assert!(wrong.is_empty(), "of {}:\n{wrong}", expected.0.len());
    let count = |begin: &str| expected.0.values().filter(|seen| seen.starts_with(begin)).count();
    assert!(count("ok HTTP/1.1 200") > 20 && count("alert") > 80, "{:?}", expected.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn hosts_are_held_to_the_bundle_of_their_domain() {
    let rig = Rig::new();
    let hosts: Vec<_> = rig
        .peers
        .iter()
        .map(|(name, identity)| (*name, TlsServer::start(identity, None, &[], &[&TLS12, &TLS13]).unwrap()))
        .collect();
    let [envoy, subject] = both();
    let (expected, actual) = (of_hosts(&envoy, &rig, &hosts).await, of_hosts(&subject, &rig, &hosts).await);
    let wrong = compare(&expected, &actual);
    assert!(wrong.is_empty(), "of {}:\n{wrong}", expected.0.len());
    let answered = expected.0.values().filter(|status| *status == "200").count();
    assert!(answered > 5 && answered < expected.0.len() / 2, "{:?}", expected.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_refused_from_the_start() {
    let rig = Rig::new();
    let listener = |validation: &str| {
        let validation = integration::config::indent(validation, 2);
        let common =
            format!("tls_certificates: [{}]\nvalidation_context:\n{validation}", rig.server.inline());
        let listener = HttpListener::new("l", DIRECT).chain(&downstream(&common, ""));
        bootstrap(&[listener.yaml()], &[], "")
    };
    let config = |body: &str| {
        format!(
            "custom_validator_config:\n  name: envoy.tls.cert_validator.spiffe\n  typed_config:\n    \"@type\": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.SPIFFECertValidatorConfig\n    {body}\n"
        )
    };
    let bundle = inline(&rig.one.pem);
    let domain = format!("{{name: one.test, trust_bundle: {bundle}}}");
    let one = config(&format!("trust_domains: [{domain}]"));
    let map =
        |json: &str| config(&format!("trust_domains: [{domain}]\n    trust_bundles: {}", inline_json(json)));
    // Refused by both.
    let cases = [
        (
            "twice",
            config(&format!("trust_domains: [{domain}, {domain}]")),
            "Multiple trust bundles are given",
        ),
        ("no bundle", config("trust_domains: [{name: one.test}]"), ""),
        ("no certificate", config("trust_domains: [{name: one.test, trust_bundle: {inline_string: x}}]"), ""),
        ("no JSON", map("{"), "Invalid JSON found in SPIFFE bundle"),
        ("no domains", map(r#"{"trust_domains": {}}"#), "No trust domains found in SPIFFE bundle"),
        (
            "no keys",
            map(r#"{"trust_domains": {"a": {"keys": []}}}"#),
            "No keys found in SPIFFE bundle for domain",
        ),
        (
            "no chain",
            map(r#"{"trust_domains": {"a": {"keys": [{"use": "x509-svid"}]}}}"#),
            "missing or empty",
        ),
        (
            "a chain of nothing",
            map(r#"{"trust_domains": {"a": {"keys": [{"use": "x509-svid", "x5c": ["AAAA"]}]}}}"#),
            "Invalid x509 object in certs for domain",
        ),
    ];
    let [envoy, subject] = both();
    for (name, validation, words) in cases {
        for binary in [&envoy, &subject] {
            let verdict = binary.validate(&listener(&validation)).unwrap();
            assert!(!verdict.accepted && verdict.text.contains(words), "{name}: {}", verdict.text);
        }
    }
    // Envoy takes them, and does not look at them, or at what its own rules say of the message.
    let alone = config(&format!("trust_domains: [{{name: '', trust_bundle: {bundle}}}]"));
    let [expected, actual] = [&envoy, &subject].map(|binary| binary.validate(&listener(&alone)).unwrap());
    assert!(expected.accepted && !actual.accepted, "{}\n{}", expected.text, actual.text);
    let ignored = [
        format!("trusted_ca: {bundle}\n"),
        format!("verify_certificate_hash: ['{}']\n", "00".repeat(32)),
        "max_verify_depth: 1\n".to_owned(),
        "trust_chain_verification: ACCEPT_UNTRUSTED\n".to_owned(),
        "match_typed_subject_alt_names: [{san_type: DNS, matcher: {exact: a.test}}]\n".to_owned(),
    ];
    for field in ignored {
        let validation = format!("{one}{field}");
        let [expected, actual] =
            [&envoy, &subject].map(|binary| binary.validate(&listener(&validation)).unwrap());
        assert!(expected.accepted && !actual.accepted, "{field}: {}\n{}", expected.text, actual.text);
    }
}
