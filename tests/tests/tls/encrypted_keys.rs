//! Private keys under a password, as `openssl` writes them, on both programs: in files, and in secrets that are delivered.

use std::path::Path;

use integration::config::{HttpListener, bootstrap, cluster, fill, port};
use integration::control_plane::{bootstrap_of, management_cluster, socket};
use integration::process::Proxy;
use integration::tls::{Authority, ClientOptions, Identity, Wanted, converse, downstream, inline};
use integration::upstream::Upstream;
use xds::fake::ManagementServer;

use crate::secrets::{SDS, secret, source_of};
use crate::tools::run;
use crate::{DIRECT, GET, both, start};

/// Ways to encrypt, and whether keys in them are read by Envoy, and here.
const WAYS: [(&str, &str, [bool; 2]); 6] = [
    ("usual", "pkcs8 -topk8", [true, true]),
    ("aes128", "pkcs8 -topk8 -v2 aes-128-cbc -v2prf hmacWithSHA1", [true, true]),
    ("sha512", "pkcs8 -topk8 -v2 aes-256-cbc -v2prf hmacWithSHA512 -iter 100000", [false, true]),
    ("plain", "pkcs8 -topk8 -nocrypt", [true, true]),
    ("traditional", "pkey -aes256 -traditional", [true, false]),
    ("pbes1", "pkcs8 -topk8 -v1 PBE-SHA1-3DES", [true, false]),
];

async fn encrypt(folder: &Path, identity: &Identity) {
    std::fs::write(folder.join("key.pem"), &identity.key).unwrap();
    std::fs::write(folder.join("chain.pem"), &identity.chain).unwrap();
    for (name, way, _) in WAYS {
        let words = format!("{way} -in key.pem -out {name}.pem -passout pass:secret");
        let (code, text) = run("openssl", &words, folder).await;
        assert_eq!(code, Some(0), "{name}: {text}");
    }
}

fn listener(folder: &Path, key: &str, password: &str) -> String {
    let file = |name: &str| format!("{{filename: \"{}\"}}", folder.join(name).display());
    let password = match password {
        "" => String::new(),
        password => format!(", password: {}", inline(password)),
    };
    let common = format!(
        "tls_certificates: [{{certificate_chain: {}, private_key: {}{password}}}]",
        file("chain.pem"),
        file(&format!("{key}.pem"))
    );
    HttpListener::new(key, DIRECT).chain(&downstream(&common, "")).yaml()
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_are_read_under_their_password() {
    let folder = tempfile::tempdir().unwrap();
    let identity = Authority::new("root").unwrap().issue(&Wanted::default()).unwrap();
    encrypt(folder.path(), &identity).await;
    let of = |name: &str, password: &str| bootstrap(&[listener(folder.path(), name, password)], &[], "");
    let [envoy, subject] = both();
    for (name, _, are_read) in WAYS {
        for (binary, accepted) in [&envoy, &subject].into_iter().zip(are_read) {
            let verdict = binary.validate(&of(name, "secret")).unwrap();
            assert_eq!(verdict.accepted, accepted, "{name}: {}", verdict.text);
            let refused = format!("Failed to load private key from {}/{name}.pem", folder.path().display());
            assert!(accepted || verdict.text.contains(&refused), "{name}: {}", verdict.text);
        }
    }
    for binary in [&envoy, &subject] {
        for (password, cause) in [("Secret", "BAD_DECRYPT"), ("", "BAD_PASSWORD_READ")] {
            let verdict = binary.validate(&of("usual", password)).unwrap();
            assert!(!verdict.accepted && verdict.text.contains(cause), "{password}: {}", verdict.text);
        }
        let listeners = ["usual", "aes128", "plain"].map(|name| listener(folder.path(), name, "secret"));
        let (proxy, _upstream) = start(binary, &listeners).await;
        for name in ["usual", "aes128", "plain"] {
            let addr = proxy.listener(name).unwrap();
            let outcome = converse(addr, &ClientOptions::default(), GET, "").await.unwrap();
            assert_eq!((outcome.handshake.as_str(), &outcome.certificate), ("ok", &identity.der), "{name}");
        }
        let dump = proxy.admin().config_dump("").await.unwrap().to_string();
        assert!(!dump.contains("\"secret\""), "{dump}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_delivered_key_may_be_under_a_password_in_a_file() {
    let folder = tempfile::tempdir().unwrap();
    let identity = Authority::new("root").unwrap().issue(&Wanted::default()).unwrap();
    encrypt(folder.path(), &identity).await;
    std::fs::write(folder.path().join("password"), "secret").unwrap();
    let file = |name: &str| format!("{{filename: \"{}\"}}", folder.path().join(name).display());
    let yaml = format!(
        "{{name: server, tls_certificate: {{certificate_chain: {}, private_key: {}, password: {}}}}}",
        file("chain.pem"),
        file("usual.pem"),
        file("password")
    );
    for binary in both() {
        let host = Upstream::start().await.unwrap();
        let management = ManagementServer::start().await.unwrap();
        management.set(&SDS, "1", [secret(&yaml)]);
        let up = fill(&cluster("up", "up", ""), [("up", port(host.addr()))]);
        let clusters = management_cluster(&socket(management.address())) + &up;
        let common =
            format!("tls_certificate_sds_secret_configs: [{{name: server{}}}]\n", source_of("GRPC", ""));
        let listener = HttpListener::to_up("l").chain(&downstream(&common, "")).yaml();
        let proxy = Proxy::start(&binary, &bootstrap_of("", &[listener], &clusters, "GRPC")).await.unwrap();
        let outcome =
            converse(proxy.listener("l").unwrap(), &ClientOptions::default(), GET, "").await.unwrap();
        assert_eq!((outcome.handshake.as_str(), &outcome.certificate), ("ok", &identity.der));
        let dump = proxy.admin().get("/config_dump").await.unwrap();
        let dump = dump.split("SecretsConfigDump").nth(1).unwrap();
        let redacted = dump.matches("[redacted]").count() + dump.matches("W3JlZGFjdGVkXQ==").count();
        assert!(redacted >= 2, "the key and the password: {dump}");
    }
}
