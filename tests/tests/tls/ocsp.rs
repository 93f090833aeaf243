//! OCSP responses that are stapled: who is shown one, who is turned away, and which ones are refused from the start, as by Envoy.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use integration::config::{HttpListener, bootstrap, cluster, fill, port};
use integration::control_plane::{bootstrap_of, management_cluster, socket};
use integration::expect::{SOON, eventually};
use integration::ocsp::{about, failure, response, with_status};
use integration::process::{Binary, Proxy};
use integration::tls::{Authority, ClientOptions, Identity, Stapled, Wanted, converse, downstream, talk};
use integration::upstream::Upstream;
use rustls::ProtocolVersion;
use xds::fake::ManagementServer;

use crate::secrets::{SDS, secret, source_of};
use crate::{DIRECT, GET, both, start};

const SERIAL: u8 = 7;
const LONG_AGO: &str = "20200101000000Z";

struct Rig {
    plain: Identity,
    demanding: Identity,
}

impl Rig {
    fn new() -> Self {
        let root = Authority::new("root").unwrap();
        let issue = |must_staple| {
            root.issue(&Wanted { serial: SERIAL.into(), must_staple, ..Wanted::default() }).unwrap()
        };
        Self { plain: issue(false), demanding: issue(true) }
    }
}

fn staples() -> [(&'static str, Option<Vec<u8>>); 4] {
    [
        ("none", None),
        ("valid", Some(response(SERIAL, LONG_AGO, Some("21000101000000Z")))),
        ("expired", Some(response(SERIAL, LONG_AGO, Some("20210101000000Z")))),
        ("endless", Some(response(SERIAL, LONG_AGO, None))),
    ]
}

/// As an element of `tls_certificates`.
fn stapled(identity: &Identity, staple: Option<&[u8]>) -> String {
    let certificate = identity.inline();
    match staple {
        Some(staple) => {
            let bytes = encode(staple);
            certificate.replacen('{', &format!("{{ocsp_staple: {{inline_bytes: \"{bytes}\"}}, "), 1)
        }
        None => certificate,
    }
}

fn context(identity: &Identity, staple: Option<&[u8]>, policy: &str) -> String {
    let certificate = stapled(identity, staple);
    let policy = if policy.is_empty() { String::new() } else { format!("ocsp_staple_policy: {policy}\n") };
    downstream(&format!("tls_certificates: [{certificate}]"), &policy)
}

fn encode(bytes: &[u8]) -> String {
    use base64::Engine;
    base64::engine::general_purpose::STANDARD.encode(bytes)
}

fn listener(name: &str, context: &str) -> String {
    HttpListener::new(name, DIRECT).chain(context).listener(&format!("stat_prefix: {name}")).yaml()
}

/// Listeners by name: a policy and a response.
fn listeners(rig: &Rig) -> Vec<(String, String)> {
    let mut all = Vec::new();
    for policy in ["", "STRICT_STAPLING", "MUST_STAPLE"] {
        for (staple, bytes) in staples() {
            if (policy, staple) == ("MUST_STAPLE", "none") {
                continue;
            }
            let name = format!("{}_{staple}", policy.split('_').next().unwrap_or_default().to_lowercase());
            all.push((name, context(&rig.plain, bytes.as_deref(), policy)));
        }
    }
    for (staple, bytes) in staples().into_iter().skip(1) {
        all.push((format!("demanding_{staple}"), context(&rig.demanding, bytes.as_deref(), "")));
    }
    all
}

/// What came of a handshake, in 1.2 and 1.3, with each listener; and the statistics.
async fn observe(binary: &Binary, rig: &Rig) -> (BTreeMap<String, String>, BTreeMap<String, i64>) {
    let listeners = listeners(rig);
    let texts: Vec<String> = listeners.iter().map(|(name, context)| listener(name, context)).collect();
    let (proxy, _upstream) = start(binary, &texts).await;
    let mut seen = BTreeMap::new();
    for (name, _) in &listeners {
        for version in [&rustls::version::TLS12, &rustls::version::TLS13] {
            let stapled: Stapled = Arc::new(Mutex::new(None));
            let options = ClientOptions {
                versions: vec![version],
                stapled: stapled.clone(),
                ..ClientOptions::default()
            };
            let (addr, config) = (proxy.listener(name).unwrap(), options.config().unwrap());
            let outcome =
                tokio::task::spawn_blocking(move || talk(addr, &config, "a.test", GET.as_bytes(), ""));
            let outcome = outcome.await.unwrap().unwrap();
            let stapled = stapled.lock().unwrap().clone();
            let is_13 = version.version == ProtocolVersion::TLSv1_3;
            seen.insert(format!("{name} {is_13}"), format!("{} {stapled:?}", outcome.handshake));
        }
    }
    let settled = eventually("every connection to end", SOON, async || {
        let active = proxy.admin().stats("downstream_cx_ssl_active").await.ok()?;
        active.values().all(|value| *value == 0).then_some(())
    });
    settled.await.unwrap();
    let stats = proxy.admin().stats(r"^listener\..*ssl\.(ocsp|handshake|connection_error)").await.unwrap();
    (seen, stats)
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_shown_a_response_and_who_is_turned_away() {
    let rig = Rig::new();
    let [envoy, subject] = both();
    let (expected, expected_stats) = observe(&envoy, &rig).await;
    let (actual, actual_stats) = observe(&subject, &rig).await;
    assert_eq!(actual, expected);
    assert_eq!(actual_stats, expected_stats);
    let shown = expected.values().filter(|seen| seen.starts_with("ok Some([48,")).count();
    assert_eq!((expected.len(), shown), (28, 8), "{expected:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn responses_that_are_refused_from_the_start() {
    let rig = Rig::new();
    let valid = response(SERIAL, LONG_AGO, Some("21000101000000Z"));
    let cut = valid[..valid.len() - 1].to_vec();
    let cases: [(&str, &Identity, Option<Vec<u8>>, &str); 12] = [
        ("valid", &rig.plain, Some(valid.clone()), ""),
        ("from the future", &rig.plain, Some(response(SERIAL, "20990101000000Z", None)), ""),
        ("no response", &rig.plain, Some(b"rubbish".to_vec()), ""),
        ("cut off", &rig.plain, Some(cut), ""),
        ("more behind it", &rig.plain, Some([valid.clone(), vec![0]].concat()), ""),
        ("a failure", &rig.plain, Some(failure()), ""),
        ("try later", &rig.plain, Some(with_status(3, &[])), ""),
        ("about nobody", &rig.plain, Some(about(&[])), ""),
        ("about two", &rig.plain, Some(about(&[SERIAL, 8])), ""),
        ("about another", &rig.plain, Some(about(&[8])), ""),
        ("missing where the policy demands it", &rig.plain, None, "MUST_STAPLE"),
        ("missing where the certificate demands it", &rig.demanding, None, ""),
    ];
    let [envoy, subject] = both();
    for (name, identity, staple, policy) in cases {
        let config = bootstrap(&[listener("l", &context(identity, staple.as_deref(), policy))], &[], "");
        let (expected, actual) = (envoy.validate(&config).unwrap(), subject.validate(&config).unwrap());
        assert_eq!(actual.accepted, expected.accepted, "{name}: {}\n{}", expected.text, actual.text);
        assert_eq!(actual.accepted, ["valid", "from the future"].contains(&name), "{name}");
        let words = [
            "unsuccessful",
            "for one certificate only",
            "does not match",
            "required for must",
            "missing from TLS",
        ];
        for word in words {
            assert_eq!(
                actual.text.contains(word),
                expected.text.contains(word),
                "{name}: {}\n{}",
                expected.text,
                actual.text
            );
        }
    }
}

/// `/certs` and the server's statistics tell how long a response holds.
#[tokio::test(flavor = "multi_thread")]
async fn how_long_a_response_holds_is_told() {
    let rig = Rig::new();
    let valid = response(SERIAL, LONG_AGO, Some("21000101000000Z"));
    let mut told = Vec::new();
    for binary in both() {
        let texts = [listener("l", &context(&rig.plain, Some(&valid), ""))];
        let (proxy, _upstream) = start(&binary, &texts).await;
        let gauge = "server.seconds_until_first_ocsp_response_expiring";
        let left = eventually("the gauge to be set", SOON, async || {
            let stats = proxy.admin().stats(gauge).await.ok()?;
            stats.get(gauge).copied().filter(|left| *left > 0)
        });
        let century = 60 * 60 * 24 * 365 * 100;
        assert!(left.await.unwrap() < century);
        let certs: serde_json::Value =
            serde_json::from_str(&proxy.admin().get("/certs").await.unwrap()).unwrap();
        told.push(certs["certificates"][0]["cert_chain"][0]["ocsp_details"].clone());
    }
    assert_eq!(told[1], told[0]);
    assert!(told[0]["expiration"].as_str().unwrap().starts_with("2100-01-01"), "{told:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_response_comes_and_goes_with_a_secret() {
    let rig = Rig::new();
    let valid = response(SERIAL, LONG_AGO, Some("21000101000000Z"));
    let later = response(SERIAL, LONG_AGO, Some("21010101000000Z"));
    for binary in both() {
        let upstream = Upstream::start().await.unwrap();
        let management = ManagementServer::start().await.unwrap();
        let hand_out = |version: &str, staple: Option<&[u8]>| {
            let certificate = stapled(&rig.plain, staple);
            management.set(
                &SDS,
                version,
                [secret(&format!("{{name: server, tls_certificate: {certificate}}}"))],
            );
        };
        hand_out("1", Some(&valid));
        let context = downstream(
            &format!("tls_certificate_sds_secret_configs: [{{name: server{}}}]", source_of("GRPC", "")),
            "",
        );
        let up = fill(&cluster("up", "up", ""), [("up", port(upstream.addr()))]);
        let clusters = management_cluster(&socket(management.address())) + &up;
        let config = bootstrap_of("", &[listener("stapling", &context)], &clusters, "GRPC");
        let proxy = Proxy::start(&binary, &config).await.unwrap();
        let versions = [("1", Some(&valid)), ("2", Some(&later)), ("3", None), ("4", Some(&valid))];
        for (number, (version, staple)) in versions.into_iter().enumerate() {
            hand_out(version, staple.map(Vec::as_slice));
            eventually("the secret", SOON, async || {
                let count = proxy.admin().stat("sds.server.update_success").await.ok()?;
                (usize::try_from(count) == Ok(number + 1)).then_some(())
            })
            .await
            .unwrap();
            let seen: Stapled = Arc::new(Mutex::new(None));
            let options = ClientOptions { stapled: seen.clone(), ..ClientOptions::default() };
            let outcome = converse(proxy.listener("stapling").unwrap(), &options, GET, "").await.unwrap();
            assert_eq!(outcome.handshake, "ok", "{}", proxy.log_tail());
            let expected = staple.cloned().unwrap_or_default();
            assert_eq!(seen.lock().unwrap().clone(), Some(expected), "version {version}");
        }
    }
}
