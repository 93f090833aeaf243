//! What a context tells of its certificates.

use std::path::Path;

use prost::Message;
use proxy_core::config::BuildEnv;
use rcgen::{CertificateParams, CustomExtension, KeyPair, date_time_ymd};
use xds_api::read::{Options, Source as Text, read};

use super::super::Place;
use super::*;

/// The extension that asks for an OCSP response (RFC 7633).
const MUST_STAPLE: (&[u64], [u8; 5]) = (&[1, 3, 6, 1, 5, 5, 7, 1, 24], [0x30, 3, 2, 1, 5]);

/// Puts a certificate that is valid until this year into a folder.
fn write(dir: &Path, until: i32, must_staple: bool) {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(vec!["a.test".to_owned()]).unwrap();
    params.not_after = date_time_ymd(until, 1, 1);
    if must_staple {
        let (oid, content) = MUST_STAPLE;
        params.custom_extensions.push(CustomExtension::from_oid_content(oid, content.to_vec()));
    }
    std::fs::write(dir.join("chain"), params.self_signed(&key).unwrap().pem()).unwrap();
    std::fs::write(dir.join("key"), key.serialize_pem()).unwrap();
}

#[test]
fn what_is_refused_is_not_told_of() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().display();
    let yaml = format!(
        "common_tls_context: {{tls_certificates: [{{certificate_chain: {{filename: {path}/chain}}, private_key: {{filename: {path}/key}}, watched_directory: {{path: {path}}}}}]}}"
    );
    let proto =
        read::<proto::DownstreamTlsContext>(&Text::yaml("test", yaml.as_bytes()), &Options::default());
    let payload = proto.unwrap().message.encode_to_vec();
    write(dir.path(), 2040, false);
    let env = BuildEnv::new(1);
    let mut cx = BuildCx::new(&env);
    let tls = ServerTls::build(&payload, "listener.l", &mut cx).unwrap();
    let name = "ssl.certificate.unnamed_cert_e3b0c442.expiration_unix_time_seconds";
    let told = || env.stats.scope("listener.l").gauge_as_is(name).value();
    let (first, second) = (2_208_988_800, 2_524_608_000);
    assert_eq!(told(), first);

    let place = Place::Directory(dir.path().to_owned());
    write(dir.path(), 2050, true);
    assert!(tls.prepare(&[], Files::Now(&place), &mut cx).is_err(), "it has no OCSP response");
    assert_eq!(told(), first);
    write(dir.path(), 2050, false);
    let prepared = tls.prepare(&[], Files::Now(&place), &mut cx).unwrap();
    assert_eq!(told(), first, "another context may yet refuse what it is made of");
    prepared.install();
    assert_eq!(told(), second);
}
