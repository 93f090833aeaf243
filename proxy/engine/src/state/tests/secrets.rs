//! Secrets: who is asked for them, who waits, and that all contexts change or none.

use std::path::Path;
use std::sync::Arc;

use prost_types::Any;
use proxy_core::stats::groups::XdsStats;
use proxy_core::tls::Certificate;
use rcgen::{CertificateParams, KeyPair};
use xds_api::envoy::extensions::transport_sockets::tls::v3::Secret;

use super::*;
use crate::tls::client::ClientContext;

/// A certificate that signs itself, and its key, as YAML.
pub(super) fn pair(name: &str) -> (String, String) {
    let key = KeyPair::generate().unwrap();
    let params = CertificateParams::new(vec![name.to_owned()]).unwrap();
    (params.self_signed(&key).unwrap().pem(), key.serialize_pem())
}

fn inline(pem: &str) -> String {
    format!("{{inline_string: \"{}\"}}", pem.trim_end().replace('\n', "\\n"))
}

fn certificate(pair: &(String, String)) -> String {
    format!("tls_certificate: {{certificate_chain: {}, private_key: {}}}", inline(&pair.0), inline(&pair.1))
}

fn secret(name: &str, content: &str) -> Delivered {
    delivered(Kind::Secret, name, &message::<Secret>(&format!("{{name: {name}, {content}}}")))
}

/// A cluster that needs no endpoints, with these fields of its TLS context.
pub(super) fn secured(name: &str, common: &str) -> Delivered {
    let yaml = format!(
        "{{name: {name}, connect_timeout: 1s, type: STATIC, transport_socket: {{name: tls, typed_config: {{\"@type\": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext, common_tls_context: {{{common}}}}}}}}}"
    );
    delivered(Kind::Cluster, name, &message::<ClusterProto>(&yaml))
}

const CLIENT: &str = "tls_certificate_sds_secret_configs: [{name: client, sds_config: {ads: {}}}]";
const ROOT: &str = "validation_context_sds_secret_config: {name: root, sds_config: {ads: {}}}";
const NAMED: &str = "combined_validation_context: {default_validation_context: {match_typed_subject_alt_names: [{san_type: DNS, matcher: {exact: a}}]}, validation_context_sds_secret_config: {name: root, sds_config: {ads: {}}}}";

pub(super) fn context(store: &Store, name: &str) -> Option<Arc<ClientContext>> {
    store.snapshot().cluster(name)?.transport.contexts().next()?.context()
}

#[test]
fn a_name_is_asked_for_once_and_its_users_wait() {
    let mut store = started();
    let effects = apply(&mut store, Kind::Cluster, vec![secured("a", CLIENT), secured("b", CLIENT)], &[]);
    assert_eq!(words(&effects), ["+Secret client", "verdict"]);
    assert!(store.snapshot().cluster("a").is_none());
    let effects = apply(&mut store, Kind::Secret, vec![secret("client", &certificate(&pair("x")))], &[]);
    assert_eq!(words(&effects), ["+Listener *", "verdict", "publish"]);
    assert!(context(&store, "a").is_some() && context(&store, "b").is_some());
    // Who comes later need not wait.
    let effects = apply(&mut store, Kind::Cluster, vec![secured("c", CLIENT)], &["a"]);
    assert_eq!(words(&effects), ["verdict", "publish"]);
    assert!(context(&store, "c").is_some());
    let effects = apply(&mut store, Kind::Cluster, vec![], &["b", "c"]);
    assert_eq!(words(&effects), ["-Secret client", "close Secret", "verdict", "publish"]);
}

#[test]
fn who_waits_too_long_is_active_without_a_context() {
    let mut store = started();
    apply(&mut store, Kind::Cluster, vec![secured("a", CLIENT)], &[]);
    let effects = store.fetch_timeout(ADS, Kind::Secret, "client");
    assert_eq!(words(&effects), ["+Listener *", "publish"]);
    assert!(store.snapshot().cluster("a").is_some() && context(&store, "a").is_none());
    let (_, _, warming) = store.secrets.dump();
    assert_eq!(warming.len(), 1);
    apply(&mut store, Kind::Secret, vec![secret("client", &certificate(&pair("x")))], &[]);
    assert!(context(&store, "a").is_some());
}

#[test]
fn all_contexts_change_or_none() {
    let mut store = started();
    let trusted = |pem: &str| format!("validation_context: {{trusted_ca: {}}}", inline(pem));
    apply(&mut store, Kind::Cluster, vec![secured("a", ROOT), secured("b", NAMED)], &[]);
    apply(&mut store, Kind::Secret, vec![secret("root", &trusted(&pair("one").0))], &[]);
    let before = ["a", "b"].map(|name| context(&store, name).unwrap());
    let ends = |store: &Store| {
        let name = "ssl.certificate.root.expiration_unix_time_seconds";
        ["cluster.a", "cluster.b"].map(|scope| store.env.stats.scope(scope).gauge_as_is(name).value())
    };
    let ends_before = ends(&store);
    // Names without an authority are no good for `b`.
    let hash = "validation_context: {verify_certificate_hash: [\"00\"]}".replace("00", &"00".repeat(32));
    let effects = apply(&mut store, Kind::Secret, vec![secret("root", &hash)], &[]);
    assert_eq!(words(&effects), ["verdict root"]);
    // A secret of another kind, and one that is nothing, are no good for anybody.
    let effects = apply(&mut store, Kind::Secret, vec![secret("root", &certificate(&pair("x")))], &[]);
    assert_eq!(words(&effects), ["verdict root"]);
    let effects = apply(&mut store, Kind::Secret, vec![secret("root", &trusted("nonsense"))], &[]);
    assert_eq!(words(&effects), ["verdict root"]);
    // One that trusts nobody is not taken for one that trusts anybody.
    for empty in ["validation_context: {}", "validation_context: {trusted_ca: {inline_string: \"\"}}"] {
        let effects = apply(&mut store, Kind::Secret, vec![secret("root", empty)], &[]);
        assert_eq!(words(&effects), ["verdict root"], "{empty}");
    }
    for (name, before) in ["a", "b"].into_iter().zip(&before) {
        assert!(Arc::ptr_eq(&context(&store, name).unwrap(), before), "{name} changed");
    }
    assert_eq!(ends(&store), ends_before, "of what is in force");
    apply(&mut store, Kind::Secret, vec![secret("root", &trusted(&pair("two").0))], &[]);
    for (name, before) in ["a", "b"].into_iter().zip(&before) {
        assert!(!Arc::ptr_eq(&context(&store, name).unwrap(), before), "{name} did not change");
    }
}

#[test]
fn each_secret_has_a_stream_of_its_own_unless_it_is_the_aggregated_one() {
    let mut store = started();
    let source = "sds_config: {path_config_source: {path: /dev/null}}";
    let both = format!(
        "tls_certificate_sds_secret_configs: [{{name: client, {source}}}], validation_context_sds_secret_config: {{name: root, {source}}}"
    );
    let effects = apply(&mut store, Kind::Cluster, vec![secured("a", &both)], &[]);
    let sources = effects.iter().filter_map(|effect| match effect {
        Effect::Subscribe { source, .. } => Some((*source, store.only_resource(*source).map(str::to_owned))),
        _ => None,
    });
    let sources: Vec<_> = sources.collect();
    assert_eq!(sources.len(), 2);
    assert_ne!(sources[0].0, sources[1].0);
    let names: Vec<_> = sources.into_iter().filter_map(|(_, name)| name).collect();
    assert_eq!(names, ["client", "root"]);
}

#[test]
fn one_name_may_stand_for_two_secrets() {
    let mut store = started();
    let [shows, asks] = [CLIENT, ROOT].map(|common| common.replace("client", "one").replace("root", "one"));
    let effects = apply(&mut store, Kind::Cluster, vec![secured("a", &shows), secured("b", &asks)], &[]);
    assert_eq!(words(&effects), ["+Secret one", "verdict"], "over one stream it is asked for once");
    // Who needs the other is told that this is not it, and does not keep it from who needs this one.
    let pair = pair("x");
    let effects = apply(&mut store, Kind::Secret, vec![secret("one", &certificate(&pair))], &[]);
    assert_eq!(words(&effects), ["+Listener *", "verdict one", "publish"]);
    assert!(context(&store, "a").is_some() && context(&store, "b").is_none());
    let before = context(&store, "a").unwrap();
    let trusted = format!("validation_context: {{trusted_ca: {}}}", inline(&pair.0));
    let effects = apply(&mut store, Kind::Secret, vec![secret("one", &trusted)], &[]);
    assert_eq!(words(&effects), ["verdict one"]);
    assert!(context(&store, "b").is_some());
    assert!(Arc::ptr_eq(&context(&store, "a").unwrap(), &before), "the last good one stays");
    let effects = apply(&mut store, Kind::Cluster, vec![], &["a"]);
    assert_eq!(words(&effects), ["verdict", "publish"], "the other is still needed");

    // Who comes when that is there already is told at once, too: nothing is asked again, and nothing would end the waiting.
    let mut store = started();
    apply(&mut store, Kind::Cluster, vec![secured("a", &shows)], &[]);
    apply(&mut store, Kind::Secret, vec![secret("one", &certificate(&pair))], &[]);
    let effects = apply(&mut store, Kind::Cluster, vec![secured("b", &asks)], &[]);
    assert_eq!(words(&effects), ["verdict", "publish"]);
    assert!(!store.clusters_warm() && context(&store, "b").is_none());
    assert_eq!(store.env.stats.scope("sds.one").shared::<XdsStats>().update_rejected.value(), 1);
    apply(&mut store, Kind::Secret, vec![secret("one", &trusted)], &[]);
    assert!(context(&store, "b").is_some());
    // So it is where the same update takes the one use away and brings the other, and where nothing came in time.
    let mut store = started();
    apply(&mut store, Kind::Cluster, vec![secured("a", &shows)], &[]);
    store.fetch_timeout(ADS, Kind::Secret, "one");
    let effects = apply(&mut store, Kind::Cluster, vec![secured("b", &asks)], &["a"]);
    assert_eq!(words(&effects), ["verdict", "publish"]);
    assert!(!store.clusters_warm());

    let file = "sds_config: {path_config_source: {path: /dev/null}}";
    let [shows, asks] = [shows, asks].map(|common| common.replace("sds_config: {ads: {}}", file));
    let mut store = started();
    let effects = apply(&mut store, Kind::Cluster, vec![secured("a", &shows), secured("b", &asks)], &[]);
    assert_eq!(words(&effects), ["+Secret one", "+Secret one", "verdict"], "each has a source of its own");
}

pub(super) fn write(dir: &Path, (chain, key): (&str, &str)) {
    std::fs::write(dir.join("chain"), chain).unwrap();
    std::fs::write(dir.join("key"), key).unwrap();
}

#[test]
fn files_are_read_again_and_taken_if_they_belong_together() {
    let dir = tempfile::tempdir().unwrap();
    let (one, two) = (pair("one"), pair("two"));
    write(dir.path(), (&one.0, &one.1));
    let path = dir.path().display();
    let named = format!(
        "tls_certificate: {{certificate_chain: {{filename: {path}/chain}}, private_key: {{filename: {path}/key}}}}"
    );
    let mut store = started();
    apply(&mut store, Kind::Cluster, vec![secured("a", CLIENT)], &[]);
    let effects = apply(&mut store, Kind::Secret, vec![secret("client", &named)], &[]);
    let watched = effects.iter().find_map(|effect| match effect {
        Effect::WatchFiles { id, directories } => Some((*id, directories.clone())),
        _ => None,
    });
    let (id, directories) = watched.unwrap();
    assert_eq!(directories, [dir.path()]);
    let first = context(&store, "a").unwrap();
    let unchanged = |store: &Store| Arc::ptr_eq(&context(store, "a").unwrap(), &first);

    assert_eq!(words(&store.files_changed(id)), [""; 0]);
    assert!(unchanged(&store), "nothing was new");
    write(dir.path(), (&two.0, &one.1));
    store.files_changed(id);
    assert!(unchanged(&store), "the key was not that of the certificate");
    std::fs::remove_file(dir.path().join("key")).unwrap();
    store.files_changed(id);
    assert!(unchanged(&store), "there was no key");
    write(dir.path(), (&two.0, &two.1));
    store.files_changed(id);
    assert!(!unchanged(&store));
    let dump = store.dump().active_secrets;
    let shown: &Any = &dump[0].resource.as_ref().unwrap().any;
    let shown = Secret::decode(shown.value.as_slice()).unwrap();
    assert!(format!("{shown:?}").contains("InlineBytes"), "the files are in it");

    // A secret without files is watched no longer; nor is one that nobody needs.
    let effects = apply(&mut store, Kind::Secret, vec![secret("client", &certificate(&one))], &[]);
    assert!(words(&effects).contains(&"stop watching".to_owned()));
    assert_eq!(words(&store.files_changed(id)), [""; 0]);
    let effects = apply(&mut store, Kind::Secret, vec![secret("client", &named)], &[]);
    assert!(words(&effects).contains(&"watch".to_owned()));
    let effects = apply(&mut store, Kind::Cluster, vec![], &["a"]);
    assert!(words(&effects).contains(&"stop watching".to_owned()));
}

/// A cluster whose own certificate is in a folder that is watched, and whose authorities are a secret.
fn filed(dir: &Path) -> Delivered {
    let path = dir.display();
    let own = format!(
        "tls_certificates: [{{certificate_chain: {{filename: {path}/chain}}, private_key: {{filename: {path}/key}}, watched_directory: {{path: {path}}}}}]"
    );
    secured("a", &format!("{own}, {ROOT}"))
}

#[test]
fn a_secret_that_comes_while_files_are_exchanged_is_taken() {
    let dir = tempfile::tempdir().unwrap();
    let [one, two, root, next] = ["one", "two", "root", "next"].map(pair);
    let trusted = |pem: &str| format!("validation_context: {{trusted_ca: {}}}", inline(pem));
    write(dir.path(), (&one.0, &one.1));
    let mut store = started();
    let id = watched(&apply(&mut store, Kind::Cluster, vec![filed(dir.path())], &[]));
    apply(&mut store, Kind::Secret, vec![secret("root", &trusted(&root.0))], &[]);
    let shown = |store: &Store| {
        let context = context(store, "a").unwrap();
        let name = |one: &Certificate| one.sans[0].value.clone();
        let trusts: Vec<String> = context.verifier().unwrap().authorities().map(name).collect();
        (name(&context.identity.as_ref().unwrap().certificate), trusts.join(" "))
    };
    let both = |one: &str, trusts: &str| (one.to_owned(), trusts.to_owned());
    assert_eq!(shown(&store), both("one", "root"));
    // The chain of another key is there, that key is not yet.
    write(dir.path(), (&two.0, &one.1));
    let effects = apply(&mut store, Kind::Secret, vec![secret("root", &trusted(&next.0))], &[]);
    assert_eq!(words(&effects), ["verdict"]);
    assert_eq!(shown(&store), both("one", "next"), "the certificate that was in force");
    write(dir.path(), (&two.0, &two.1));
    store.files_changed(id);
    assert_eq!(shown(&store), both("two", "next"));
}

#[test]
fn a_directory_is_watched_once_and_contexts_are_built_anew_of_what_differs() {
    let dir = tempfile::tempdir().unwrap();
    let [one, two, root] = ["one", "two", "root"].map(pair);
    write(dir.path(), (&one.0, &one.1));
    let mut store = started();
    let effects = apply(&mut store, Kind::Cluster, vec![filed(dir.path())], &[]);
    let id = watched(&effects);
    assert_eq!(words(&effects).iter().filter(|word| *word == "watch").count(), 1, "{:?}", words(&effects));
    let trusted = format!("validation_context: {{trusted_ca: {}}}", inline(&root.0));
    apply(&mut store, Kind::Secret, vec![secret("root", &trusted)], &[]);
    let changes = |store: &mut Store| {
        let before = context(store, "a").unwrap();
        store.files_changed(id);
        !Arc::ptr_eq(&context(store, "a").unwrap(), &before)
    };
    assert!(!changes(&mut store), "as every watch says when it begins");
    write(dir.path(), (&two.0, &two.1));
    assert!(changes(&mut store));
    assert!(!changes(&mut store), "it was built of both files at once");
}

/// The number of the only watch.
fn watched(effects: &[Effect]) -> u64 {
    let watches = effects.iter().filter_map(|effect| match effect {
        Effect::WatchFiles { id, .. } => Some(*id),
        _ => None,
    });
    let watches: Vec<u64> = watches.collect();
    assert_eq!(watches.len(), 1);
    watches[0]
}

#[test]
fn the_first_that_names_files_which_are_not_there_counts_once_they_are() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().display();
    let named = format!(
        "tls_certificate: {{certificate_chain: {{filename: {path}/chain}}, private_key: {{filename: {path}/key}}}}"
    );
    let mut store = started();
    apply(&mut store, Kind::Cluster, vec![secured("a", CLIENT)], &[]);
    let effects = apply(&mut store, Kind::Secret, vec![secret("client", &named)], &[]);
    let is_rejected =
        |effect: &Effect| matches!(effect, Effect::Verdict { rejected } if !rejected.is_empty());
    assert!(effects.iter().any(is_rejected), "what is not there is said");
    let watched = effects.iter().find_map(|effect| match effect {
        Effect::WatchFiles { id, .. } => Some(*id),
        _ => None,
    });
    let id = watched.unwrap();
    assert!(context(&store, "a").is_none());
    let (one, two) = (pair("one"), pair("two"));
    write(dir.path(), (&one.0, &two.1));
    store.files_changed(id);
    assert!(context(&store, "a").is_none(), "they do not belong together");
    write(dir.path(), (&one.0, &one.1));
    store.files_changed(id);
    let first = context(&store, "a").unwrap();
    assert_eq!(store.dump().active_secrets.len(), 1);
    // From now on it is as any other.
    write(dir.path(), (&two.0, &two.1));
    store.files_changed(id);
    assert!(!Arc::ptr_eq(&context(&store, "a").unwrap(), &first));
}

#[test]
fn what_is_wrong_has_its_place() {
    let mut store = started();
    let reason = |store: &mut Store, common: &str| {
        let effects = apply(store, Kind::Cluster, vec![secured("a", common)], &[]);
        let mut reasons = effects.iter().filter_map(|effect| match effect {
            Effect::Verdict { rejected } => Some(rejected.first()?.1.clone()),
            _ => None,
        });
        reasons.next().unwrap_or_default()
    };
    let fixed = "static_resources: {secrets: [{name: x, tls_certificate: {watched_directory: {path: /tmp}}}, {name: other}]}";
    let env = Arc::new(BuildEnv::new(1));
    let errors = Store::new(env).load(&mut message::<Bootstrap>(fixed)).unwrap_err();
    let errors: Vec<String> = errors.iter().map(ToString::to_string).collect();
    assert_eq!(
        errors,
        [
            "static_resources.secrets[0].tls_certificate.watched_directory: only files of delivered secrets are watched",
            "static_resources.secrets[1]: Secret type not implemented"
        ]
    );
    let at = "transport_socket.typed_config.common_tls_context";
    assert_eq!(
        reason(&mut store, "validation_context_sds_secret_config: {name: x}"),
        format!(
            "{at}.validation_context_sds_secret_config.name: Unknown static certificate validation context: x"
        )
    );
    assert_eq!(
        reason(&mut store, "tls_certificate_sds_secret_configs: [{name: x, sds_config: {self: {}}}]"),
        format!("{at}.tls_certificate_sds_secret_configs[0].sds_config.self: is not available")
    );
}

#[test]
fn every_transport_socket_of_a_cluster_has_its_secrets() {
    let socket = |common: &str| {
        format!(
            "{{name: tls, typed_config: {{\"@type\": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext, common_tls_context: {{{common}}}}}}}"
        )
    };
    let (client, root) = (socket(CLIENT), socket(ROOT));
    let yaml = format!(
        "{{name: a, type: STATIC, transport_socket: {client}, transport_socket_matches: [{{name: m, match: {{a: b}}, transport_socket: {root}}}]}}"
    );
    let mut store = started();
    let cluster = delivered(Kind::Cluster, "a", &message::<ClusterProto>(&yaml));
    let effects = apply(&mut store, Kind::Cluster, vec![cluster], &[]);
    assert_eq!(words(&effects), ["+Secret client,root", "verdict"]);
    apply(&mut store, Kind::Secret, vec![secret("client", &certificate(&pair("x")))], &[]);
    assert!(store.snapshot().cluster("a").is_none(), "the other is waited for");
    let trusted = format!("validation_context: {{trusted_ca: {}}}", inline(&pair("one").0));
    apply(&mut store, Kind::Secret, vec![secret("root", &trusted)], &[]);
    let snapshot = store.snapshot();
    let ready = |tls: &crate::tls::client::ClientTls| tls.context().is_some();
    let contexts: Vec<bool> = snapshot.cluster("a").unwrap().transport.contexts().map(ready).collect();
    assert_eq!(contexts, [true, true]);
}
