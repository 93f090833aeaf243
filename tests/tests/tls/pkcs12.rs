//! Certificates with their chains and keys in PKCS #12, as `openssl` writes it, on both programs.

use std::path::Path;

use integration::config::{HttpListener, bootstrap, cluster, fill, port};
use integration::control_plane::{bootstrap_of, management_cluster, socket};
use integration::process::{Binary, Proxy};
use integration::tls::{Authority, ClientOptions, Identity, Wanted, converse, downstream, inline};
use integration::upstream::Upstream;
use xds::fake::ManagementServer;

use crate::secrets::{SDS, secret, source_of};
use crate::tools::run;
use crate::{DIRECT, GET, both, start};

/// A file: its name, how it is written, the password, and whether Envoy reads it, and whether it is read here.
type Way = (&'static str, &'static str, &'static str, [bool; 2]);

const ALL: &str = "-inkey key.pem -in own.pem -certfile others.pem";
const WAYS: [Way; 13] = [
    ("usual", "", "secret", [true, true]),
    ("alone", "-inkey key.pem -in own.pem", "secret", [true, true]),
    ("disordered", "-inkey key.pem -in disordered.pem", "secret", [true, true]),
    ("aes128", "-keypbe AES-128-CBC -certpbe AES-128-CBC -macalg sha512", "secret", [true, true]),
    ("plain_certificates", "-certpbe NONE", "secret", [true, true]),
    ("plain", "-keypbe NONE -certpbe NONE", "secret", [true, true]),
    ("no_password", "", "", [true, true]),
    ("letters", "", "grün€", [true, true]),
    ("legacy", "-legacy", "secret", [true, false]),
    ("triple_des", "-keypbe PBE-SHA1-3DES -certpbe PBE-SHA1-3DES -macalg sha1", "secret", [true, false]),
    ("unauthenticated", "-nomac", "secret", [false, false]),
    ("without_key", "-nokeys -in own.pem", "secret", [false, false]),
    ("without_certificate", "-nocerts -inkey key.pem -in own.pem", "secret", [false, false]),
];

struct Files {
    folder: tempfile::TempDir,
    identity: Identity,
}

impl Files {
    async fn write() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let root = Authority::new("root").unwrap();
        let middle = root.intermediate("middle").unwrap();
        let identity = middle.issue(&Wanted::default()).unwrap();
        for (name, content) in [
            ("key.pem", identity.key.clone()),
            ("own.pem", identity.chain.clone()),
            ("root.pem", root.pem.clone()),
            ("others.pem", format!("{}{}", middle.pem, root.pem)),
            ("disordered.pem", format!("{}{}{}", root.pem, identity.chain, middle.pem)),
        ] {
            std::fs::write(folder.path().join(name), content).unwrap();
        }
        for (name, way, password, _) in WAYS {
            let all = if way.contains(".pem") { "" } else { ALL };
            let words = format!("pkcs12 -export {all} {way} -out {name}.p12 -passout pass:{password}");
            let (code, text) = run("openssl", &words, folder.path()).await;
            assert_eq!(code, Some(0), "{name}: {text}");
        }
        Self { folder, identity }
    }

    /// As an element of `tls_certificates`.
    fn source(&self, name: &str, password: &str) -> String {
        let path = self.folder.path().join(format!("{name}.p12"));
        let password = match password {
            "" => String::new(),
            password => format!(", password: {}", inline(password)),
        };
        format!("{{pkcs12: {{filename: \"{}\"}}{password}}}", path.display())
    }

    fn listener(&self, name: &str, password: &str) -> String {
        let common = format!("tls_certificates: [{}]", self.source(name, password));
        HttpListener::new(name, DIRECT).chain(&downstream(&common, "")).yaml()
    }
}

/// Whether a client that knows the root only trusts what it is shown.
async fn is_trusted(proxy: &Proxy, listener: &str, folder: &Path) -> bool {
    let addr = proxy.listener(listener).unwrap();
    let words = format!("s_client -connect {addr} -CAfile root.pem -verify_return_error");
    run("openssl", &words, folder).await.0 == Some(0)
}

#[tokio::test(flavor = "multi_thread")]
async fn files_are_read_under_their_password() {
    let files = Files::write().await;
    let of = |name: &str, password: &str| bootstrap(&[files.listener(name, password)], &[], "");
    for (index, binary) in both().iter().enumerate() {
        for (name, _, password, are_read) in WAYS {
            let verdict = binary.validate(&of(name, password)).unwrap();
            assert_eq!(verdict.accepted, are_read[index], "{index} {name}: {}", verdict.text);
            let refused = verdict.text.contains("Failed to load pkcs12 from ")
                || verdict.text.contains("Failed to load certificate from ");
            assert!(verdict.accepted || refused, "{name}: {}", verdict.text);
        }
        for (name, password) in [("usual", "Secret"), ("usual", ""), ("no_password", "x")] {
            let verdict = binary.validate(&of(name, password)).unwrap();
            let refused = verdict.text.contains("Failed to load pkcs12 from ");
            assert!(!verdict.accepted && refused, "{name} {password}: {}", verdict.text);
        }
        let pair = "{inline_string: x}";
        for field in ["certificate_chain", "private_key"] {
            let both = of("usual", "secret").replace("pkcs12:", &format!("{field}: {pair}, pkcs12:"));
            let verdict = binary.validate(&both).unwrap();
            let refused = format!("Certificate configuration can't have both pkcs12 and {field}");
            assert!(!verdict.accepted && verdict.text.contains(&refused), "{}", verdict.text);
        }
        let read = || WAYS.into_iter().filter(|(_, _, _, are_read)| are_read[index] && are_read[1]);
        let listeners: Vec<String> =
            read().map(|(name, _, password, _)| files.listener(name, password)).collect();
        let (proxy, _upstream) = start(binary, &listeners).await;
        for (name, ..) in read() {
            let addr = proxy.listener(name).unwrap();
            let outcome = converse(addr, &ClientOptions::default(), GET, "").await.unwrap();
            let shown = (outcome.handshake.as_str(), &outcome.certificate);
            assert_eq!(shown, ("ok", &files.identity.der), "{name}");
            assert_eq!(is_trusted(&proxy, name, files.folder.path()).await, name != "alone", "{name}");
        }
        let certs = proxy.admin().get("/certs").await.unwrap();
        assert!(certs.contains("usual.p12"), "{certs}");
        let dump = proxy.admin().config_dump("").await.unwrap().to_string();
        assert!(!dump.contains("\"secret\""), "{dump}");
    }
}

/// Envoy 1.40 refuses one, for the `certificate_chain` that it puts beside it.
#[tokio::test(flavor = "multi_thread")]
async fn one_may_be_delivered() {
    let files = Files::write().await;
    let yaml = format!("{{name: server, tls_certificate: {}}}", files.source("usual", "secret"));
    let host = Upstream::start().await.unwrap();
    let management = ManagementServer::start().await.unwrap();
    management.set(&SDS, "1", [secret(&yaml)]);
    let up = fill(&cluster("up", "up", ""), [("up", port(host.addr()))]);
    let clusters = management_cluster(&socket(management.address())) + &up;
    let common = format!("tls_certificate_sds_secret_configs: [{{name: server{}}}]\n", source_of("GRPC", ""));
    let listener = HttpListener::to_up("l").chain(&downstream(&common, "")).yaml();
    let config = bootstrap_of("", &[listener], &clusters, "GRPC");
    let proxy = Proxy::start(&Binary::subject().unwrap(), &config).await.unwrap();
    let addr = proxy.listener("l").unwrap();
    let outcome = converse(addr, &ClientOptions::default(), GET, "").await.unwrap();
    assert_eq!((outcome.handshake.as_str(), &outcome.certificate), ("ok", &files.identity.der));
    let dump = proxy.admin().get("/config_dump").await.unwrap();
    let dump = dump.split("SecretsConfigDump").nth(1).unwrap();
    let redacted = dump.matches("[redacted]").count() + dump.matches("W3JlZGFjdGVkXQ==").count();
    assert!(redacted >= 2 && !dump.contains("c2VjcmV0"), "the file and its password: {dump}");
}
