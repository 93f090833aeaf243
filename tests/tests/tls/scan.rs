//! What testssl.sh finds: no protocol, cipher or fault that it warns of, and the same as with Envoy.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;

use integration::config::HttpListener;
use integration::process::{Binary, Proxy};
use integration::tls::{Authority, Wanted, downstream};

use crate::tools::run;
use crate::{DIRECT, both, start};

/// What differs by nature, or on purpose: how long it took; the first octets of the server's random (Envoy tells the time
/// in them with TLS 1.2); formats of points, of which there is one.
const OTHERWISE: [&str; 3] = ["scanTime", "TLS_timestamp", "TLS_extensions"];

/// Protocols, kinds of ciphers, forward secrecy, and faults that have names.
const WHAT: &str = "--protocols --std --fs --vulnerable";

/// Findings, with their weight, by name.
async fn scan(listener: SocketAddr, folder: &Path) -> BTreeMap<String, (String, String)> {
    let found = folder.join("found.json");
    let arguments = format!(
        "--quiet --color 0 --warnings batch --fast --ip one --nodns min --openssl-timeout 10 {WHAT} --jsonfile {} {listener}",
        found.display()
    );
    let (_, told) = run("testssl", &arguments, folder).await;
    let text = std::fs::read_to_string(&found).map_err(|error| format!("{error}: {told}")).unwrap();
    let findings: Vec<serde_json::Value> = serde_json::from_str(&text).unwrap();
    let field = |finding: &serde_json::Value, name: &str| finding[name].as_str().unwrap().to_owned();
    // (Version 3.0 says PFS where later ones say FS.)
    let id = |finding| {
        let id = field(finding, "id");
        id.strip_prefix('P').filter(|id| id.starts_with("FS")).map(str::to_owned).unwrap_or(id)
    };
    findings.iter().map(|one| (id(one), (field(one, "severity"), field(one, "finding")))).collect()
}

async fn proxy(binary: &Binary) -> (Proxy, integration::upstream::Upstream) {
    let root = Authority::new("root").unwrap();
    let server = root.issue(&Wanted { sans: &["dns:a.test", "ip:127.0.0.1"], ..Wanted::default() }).unwrap();
    let common = format!("tls_certificates: [{}]\nalpn_protocols: [h2, http/1.1]\n", server.inline());
    start(binary, &[HttpListener::new("scanned", DIRECT).chain(&downstream(&common, "")).yaml()]).await
}

#[tokio::test(flavor = "multi_thread")]
async fn testssl_finds_no_fault_and_the_same_as_with_envoy() {
    let [envoy, ours] = both();
    let ((envoy, _up), (ours, _too)) = (proxy(&envoy).await, proxy(&ours).await);
    let folders = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let (mut expected, mut found) = tokio::join!(
        scan(envoy.listener("scanned").unwrap(), folders[0].path()),
        scan(ours.listener("scanned").unwrap(), folders[1].path())
    );
    for name in OTHERWISE {
        expected.remove(name);
        found.remove(name);
    }
    assert_eq!(found, expected);
    let finding = |name: &str| found.get(name).map(|(_, text)| text.as_str()).unwrap_or_default();
    for old in
        ["SSLv2", "SSLv3", "TLS1", "TLS1_1", "cipherlist_NULL", "cipherlist_aNULL", "cipherlist_EXPORT"]
    {
        assert_eq!(finding(old), "not offered", "{old}");
    }
    for weak in ["cipherlist_LOW", "cipherlist_3DES_IDEA", "cipherlist_AVERAGE"] {
        assert_eq!(finding(weak), "not offered", "{weak}");
    }
    for good in ["TLS1_2", "TLS1_3", "cipherlist_STRONG"] {
        assert!(finding(good).starts_with("offered"), "{good}: {}", finding(good));
    }
    assert_eq!(finding("FS"), "offered");
    assert_eq!(finding("FS_ECDHE_curves"), "prime256v1 X25519");
    let ciphers: Vec<_> = finding("FS_ciphers").split_whitespace().collect();
    assert!(!ciphers.is_empty());
    for cipher in ciphers {
        let is_authenticated = cipher.contains("GCM") || cipher.contains("CHACHA20");
        assert!(is_authenticated && (cipher.starts_with("TLS_") || cipher.starts_with("ECDHE-")), "{cipher}");
    }
    assert_eq!(finding("secure_renego"), "supported");
    for fault in ["heartbleed", "CCS", "ticketbleed", "ROBOT", "secure_client_renego", "CRIME_TLS", "SWEET32"]
    {
        assert!(finding(fault).starts_with("not vulnerable"), "{fault}: {}", finding(fault));
    }
    for fault in ["POODLE_SSL", "FREAK", "DROWN", "LOGJAM", "BEAST", "LUCKY13"] {
        assert!(finding(fault).starts_with("not vulnerable"), "{fault}: {}", finding(fault));
    }
    let grave = ["LOW", "MEDIUM", "HIGH", "CRITICAL"];
    let faults: Vec<_> =
        found.iter().filter(|(_, (severity, _))| grave.contains(&severity.as_str())).collect();
    assert!(faults.is_empty(), "{faults:?}");
}
