//! Files of contexts that are in different places, one of which is broken while another changes.

use std::path::Path;

use proxy_core::tls::Certificate;

use super::secrets::{context, pair, secured, write};
use super::*;

fn certificates(dir: &Path) -> String {
    let path = dir.display();
    format!(
        "tls_certificates: [{{certificate_chain: {{filename: {path}/chain}}, private_key: {{filename: {path}/key}}, watched_directory: {{path: {path}}}}}]"
    )
}

fn authorities(dir: &Path) -> String {
    let path = dir.display();
    format!(
        "validation_context: {{trusted_ca: {{filename: {path}/roots}}, watched_directory: {{path: {path}}}}}"
    )
}

/// The number under which a folder is watched.
fn watch_of(effects: &[Effect], dir: &Path) -> u64 {
    let watches = effects.iter().filter_map(|effect| match effect {
        Effect::WatchFiles { id, directories } => (directories.as_slice() == [dir]).then_some(*id),
        _ => None,
    });
    let watches: Vec<u64> = watches.collect();
    assert_eq!(watches.len(), 1, "{:?}", words(effects));
    watches[0]
}

/// The name of a cluster's certificate, and of whom it trusts.
fn shown(store: &Store, cluster: &str) -> [String; 2] {
    let context = context(store, cluster).unwrap();
    let name = |one: &Certificate| one.sans[0].value.clone();
    let trusts = context.verifier().and_then(|verifier| verifier.authorities().next());
    [name(&context.identity.as_ref().unwrap().certificate), trusts.map(name).unwrap_or_default()]
}

#[test]
fn what_is_broken_in_one_place_keeps_nothing_back_that_changed_in_another() {
    let (certs, roots) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (certs, roots) = (certs.path(), roots.path());
    let [one, two, root, next] = ["one", "two", "root", "next"].map(pair);
    let trust = |pem: &str| std::fs::write(roots.join("roots"), pem).unwrap();
    write(certs, (&one.0, &one.1));
    trust(&root.0);
    let mut store = started();
    let both = secured("both", &format!("{}, {}", certificates(certs), authorities(roots)));
    let effects = apply(&mut store, Kind::Cluster, vec![both, secured("shares", &certificates(certs))], &[]);
    let (of_certs, of_roots) = (watch_of(&effects, certs), watch_of(&effects, roots));
    assert_eq!(shown(&store, "both"), ["one", "root"]);

    // The authorities are being exchanged when the certificate is.
    trust("");
    write(certs, (&two.0, &two.1));
    store.files_changed(of_certs);
    assert_eq!(shown(&store, "both"), ["two", "root"], "nobody is trusted whom it was not said of");
    assert_eq!(shown(&store, "shares"), ["two", ""]);
    store.files_changed(of_roots);
    assert_eq!(shown(&store, "both"), ["two", "root"]);
    // They are what they were, or others.
    trust(&root.0);
    store.files_changed(of_roots);
    assert_eq!(shown(&store, "both"), ["two", "root"]);

    // Nor does half a certificate keep authorities out.
    write(certs, (&one.0, &two.1));
    trust(&next.0);
    store.files_changed(of_roots);
    assert_eq!(shown(&store, "both"), ["two", "next"]);
    write(certs, (&one.0, &one.1));
    store.files_changed(of_certs);
    assert_eq!(shown(&store, "both"), ["one", "next"]);
}
