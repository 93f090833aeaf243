//! Files of contexts that change under a `watched_directory`. Envoy accepts it, and reads them once.

use std::path::Path;

use integration::config::{HttpListener, bootstrap};
use integration::expect::{SOON, eventually};
use integration::process::{Binary, Proxy};
use integration::tls::{Authority, ClientOptions, Identity, Outcome, Wanted, converse, downstream};

use crate::{DIRECT, GET, both, start};

/// Puts a file in the place of the one before, as a whole.
fn put(folder: &Path, name: &str, content: &str) {
    let new = folder.join(format!("{name}.new"));
    std::fs::write(&new, content).unwrap();
    std::fs::rename(new, folder.join(name)).unwrap();
}

fn show(folder: &Path, identity: &Identity) {
    put(folder, "chain", &identity.chain);
    put(folder, "key", &identity.key);
}

/// A listener of which everything is in files of a folder.
fn listener(folder: &Path) -> String {
    let file = |name: &str| format!("{{filename: \"{}\"}}", folder.join(name).display());
    let watched = format!("watched_directory: {{path: \"{}\"}}", folder.display());
    let common = format!(
        "tls_certificates: [{{certificate_chain: {}, private_key: {}, {watched}}}]\nvalidation_context: {{trusted_ca: {}, crl: {}, {watched}}}\n",
        file("chain"),
        file("key"),
        file("roots"),
        file("revoked")
    );
    HttpListener::new("l", DIRECT).chain(&downstream(&common, "require_client_certificate: true\n")).yaml()
}

async fn get(proxy: &Proxy, client: &Identity) -> Outcome {
    converse(proxy.listener("l").unwrap(), &ClientOptions::with(client), GET, "").await.unwrap()
}

/// Waits until that comes of a connection.
async fn until(proxy: &Proxy, client: &Identity, what: &str, is: impl Fn(&Outcome) -> bool) {
    let reached = eventually(what, SOON, async || is(&get(proxy, client).await).then_some(()));
    assert!(reached.await.is_ok(), "{what}: {}", proxy.log_tail());
}

#[tokio::test(flavor = "multi_thread")]
async fn certificates_and_authorities_of_contexts_follow_their_files() {
    let folder = tempfile::tempdir().unwrap();
    let [old, new] = ["old", "new"].map(|name| Authority::new(name).unwrap());
    let issue = |authority: &Authority| authority.issue(&Wanted::default()).unwrap();
    let (first, second, third) = (issue(&old), issue(&old), issue(&old));
    let (client, other) = (issue(&old), issue(&new));
    let revoked = old.issue(&Wanted { serial: 77, ..Wanted::default() }).unwrap();
    let lists = [&old, &new].map(|authority| authority.revoke(&[77]).unwrap()).concat();
    show(folder.path(), &first);
    put(folder.path(), "roots", &old.pem);
    put(folder.path(), "revoked", &lists);
    let listener = listener(folder.path());
    for binary in both() {
        let verdict = binary.validate(&bootstrap(std::slice::from_ref(&listener), &[], "")).unwrap();
        assert!(verdict.accepted, "{}", verdict.text);
    }
    let (proxy, _upstream) = start(&Binary::subject().unwrap(), &[listener]).await;
    assert_eq!(get(&proxy, &client).await.certificate, first.der);
    assert_ne!(get(&proxy, &other).await.handshake, "ok");
    assert_ne!(get(&proxy, &revoked).await.handshake, "ok");

    show(folder.path(), &second);
    until(&proxy, &client, "the second certificate", |seen| seen.certificate == second.der).await;
    // The key of another certificate changes nothing.
    put(folder.path(), "key", &third.key);
    let refused = async || proxy.log().contains("KEY_VALUES_MISMATCH").then_some(());
    eventually("the refusal", SOON, refused).await.unwrap();
    assert_eq!(get(&proxy, &client).await.certificate, second.der);
    show(folder.path(), &third);
    until(&proxy, &client, "the third certificate", |seen| seen.certificate == third.der).await;

    // Nor do authorities of which there are none.
    put(folder.path(), "roots", "");
    let refused = async || proxy.log().contains("trusted_ca is empty").then_some(());
    eventually("the refusal", SOON, refused).await.unwrap();
    assert_ne!(get(&proxy, &other).await.handshake, "ok");
    // Nor is nobody revoked any more because the list is empty.
    put(folder.path(), "roots", &old.pem);
    put(folder.path(), "revoked", "");
    let refused = async || proxy.log().contains("crl is empty").then_some(());
    eventually("the refusal", SOON, refused).await.unwrap();
    assert_ne!(get(&proxy, &revoked).await.handshake, "ok");
    assert_eq!(get(&proxy, &client).await.handshake, "ok");
    put(folder.path(), "revoked", &lists);
    put(folder.path(), "roots", &new.pem);
    until(&proxy, &other, "who is trusted now", |seen| seen.answer.starts_with("HTTP/1.1 200")).await;
    assert_ne!(get(&proxy, &client).await.handshake, "ok", "who is trusted no longer");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_in_no_file_is_not_watched() {
    let identity = Authority::new("root").unwrap().issue(&Wanted::default()).unwrap();
    let certificate = identity.inline();
    let fields = certificate.strip_suffix('}').unwrap();
    let common = format!("tls_certificates: [{fields}, watched_directory: {{path: /tmp}}}}]\n");
    let yaml = bootstrap(&[HttpListener::new("l", DIRECT).chain(&downstream(&common, "")).yaml()], &[], "");
    let verdict = Binary::subject().unwrap().validate(&yaml).unwrap();
    let refused = "watched_directory: there is no file to be watched";
    assert!(!verdict.accepted && verdict.text.contains(refused), "{}", verdict.text);
}
