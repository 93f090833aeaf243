//! What people try TLS with: curl and `openssl s_client`, beside Envoy.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::{Command, Stdio};

use integration::config::HttpListener;
use integration::process::Binary;
use integration::tls::downstream;

use crate::{DIRECT, both, start};

/// How a program ended, and what it printed. It comes to an end by itself.
pub async fn run(program: &'static str, arguments: &str, folder: &Path) -> (Option<i32>, String) {
    let mut command = Command::new(program);
    command.args(arguments.split_whitespace()).current_dir(folder).stdin(Stdio::null());
    let output = tokio::task::spawn_blocking(move || command.output()).await.unwrap();
    let output = output.map_err(|error| format!("{program}, which may be to be installed: {error}")).unwrap();
    let text = [&output.stdout, &output.stderr].map(|text| String::from_utf8_lossy(text).into_owned());
    (output.status.code(), text.concat())
}

/// The certificate and the response that are shown; what `curl --cert-status` says: 91 is that the status is not good.
const STAPLES: &[(&str, &str, i32)] = &[
    ("far", "far.good", 0),
    ("far", "far.revoked", 91),
    ("far", "", 91),
    // curl takes the issuer from what is shown, though it be a root that it knows.
    ("near", "near.good", 91),
    ("whole", "near.good", 0),
];

async fn observe(binary: &Binary, folder: &Path) -> Vec<String> {
    let mut listeners = Vec::new();
    for (number, (leaf, response, _)) in STAPLES.iter().enumerate() {
        let file = |name: &str| format!("{{filename: \"{}\"}}", folder.join(name).display());
        let staple = match *response {
            "" => String::new(),
            response => format!(", ocsp_staple: {}", file(response)),
        };
        let (chain, key) = (file(&format!("{leaf}.chain")), file(&format!("{leaf}.key")));
        let common =
            format!("tls_certificates: [{{certificate_chain: {chain}, private_key: {key}{staple}}}]");
        listeners
            .push(HttpListener::new(&format!("l{number}"), DIRECT).chain(&downstream(&common, "")).yaml());
    }
    let (proxy, _upstream) = start(binary, &listeners).await;
    let mut seen = Vec::new();
    for (number, (leaf, response, expected)) in STAPLES.iter().enumerate() {
        let listener = proxy.listener(&format!("l{number}")).unwrap();
        for version in ["1.2", "1.3"] {
            let curl = format!(
                "-sS --max-time 60 --cert-status --tlsv{version} --tls-max {version} --cacert root.pem --connect-to a.test:443:{listener} https://a.test/"
            );
            let (code, text) = run("curl", &curl, folder).await;
            assert_eq!(code, Some(*expected), "{leaf} {response} {version}: {text}");
            let option = version.replace('.', "_");
            let client = format!(
                "s_client -connect {listener} -servername a.test -CAfile root.pem -status -tls{option} -verify_return_error"
            );
            let (code, text) = run("openssl", &client, folder).await;
            assert_eq!(code, Some(0), "{leaf} {response} {version}: {text}");
            // (Some are told again with each ticket.)
            let told = ["Verify return code", "OCSP response:", "Cert Status", "Server Temp Key"];
            let lines =
                text.lines().map(str::trim).filter(|line| told.iter().any(|word| line.contains(word)));
            seen.push(format!("{leaf} {response} {version}: {:?}", lines.collect::<BTreeSet<_>>()));
        }
    }
    seen
}

#[tokio::test(flavor = "multi_thread")]
async fn curl_and_openssl_see_what_they_see_of_envoy() {
    let folder = tempfile::tempdir().unwrap();
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/tls/staples.sh");
    let (code, text) = run("bash", &script.display().to_string(), folder.path()).await;
    assert_eq!(code, Some(0), "{text}");
    let [envoy, ours] = both();
    let expected = observe(&envoy, folder.path()).await;
    let seen = observe(&ours, folder.path()).await;
    assert_eq!(seen, expected);
    assert!(seen[0].contains("Cert Status: good") && seen[2].contains("Cert Status: revoked"), "{seen:?}");
}
