//! Contexts of TLS, of listeners and of clusters, made of certificates, keys, authorities and revocations, sound and not. Building never
//! panics and comes out the same twice; what is refused says where; what is accepted has a key for every certificate.
#![no_main]

use arbitrary::Arbitrary;
use libfuzzer_sys::fuzz_target;
use prost::Message;
use proxy_core::config::BuildCx;
use proxy_engine::tls::client::ClientTls;
use proxy_engine::tls::server::ServerTls;
use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, DnType, IsCa, Issuer, KeyIdMethod,
};
use rcgen::{KeyPair, KeyUsagePurpose, RevokedCertParams, SerialNumber, date_time_ymd};
use xds_api::envoy::config::core::v3::{DataSource, data_source::Specifier};
use xds_api::envoy::extensions::transport_sockets::tls::v3 as proto;
use xds_api::envoy::extensions::transport_sockets::tls::v3::common_tls_context::ValidationContextType;
use xds_api::envoy::extensions::transport_sockets::tls::v3::downstream_tls_context::SessionTicketKeysType;
use xds_api::envoy::r#type::matcher::v3::{StringMatcher, string_matcher::MatchPattern};

thread_local! {
    static STOCK: Stock = Stock::new();
}

/// What contexts are made of, in PEM.
struct Stock {
    /// Certificates and their keys: of a server, and of an authority.
    pairs: [(String, String); 3],
    revocations: String,
}

impl Stock {
    fn new() -> Self {
        let params = |name: &str, serial: u64, is_ca: bool| {
            let mut params = CertificateParams::new(vec![name.to_owned()]).expect("a name");
            params.distinguished_name.push(DnType::CommonName, name);
            params.serial_number = Some(SerialNumber::from(serial));
            (params.not_before, params.not_after) = (date_time_ymd(2020, 1, 1), date_time_ymd(2100, 1, 1));
            if is_ca {
                params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
                params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
            }
            params
        };
        let key = || KeyPair::generate().expect("a key");
        let (authority, of_authority) = (params("ca.test", 1, true), key());
        let root = authority.self_signed(&of_authority).expect("a certificate").pem();
        let text = of_authority.serialize_pem();
        let issuer = Issuer::new(authority, of_authority);
        let issue = |name: &str, serial| {
            let key = key();
            let issued = params(name, serial, false).signed_by(&key, &issuer).expect("a certificate");
            (issued.pem(), key.serialize_pem())
        };
        let pairs = [issue("a.test", 2), issue("b.test", 3), (root, text)];
        let revoked = RevokedCertParams {
            serial_number: SerialNumber::from(3_u64),
            revocation_time: date_time_ymd(2021, 1, 1),
            reason_code: None,
            invalidity_date: None,
        };
        let list = CertificateRevocationListParams {
            this_update: date_time_ymd(2021, 1, 1),
            next_update: date_time_ymd(2100, 1, 1),
            crl_number: SerialNumber::from(1_u64),
            issuing_distribution_point: None,
            revoked_certs: vec![revoked],
            key_identifier_method: KeyIdMethod::Sha256,
        };
        let revocations = list.signed_by(&issuer).expect("a list").pem().expect("PEM");
        Self { pairs, revocations }
    }
}

/// One text, whole or not.
#[derive(Arbitrary, Clone, Debug, PartialEq)]
enum Text {
    Certificate(u8),
    Key(u8),
    Revocations,
    Words(String),
}

#[derive(Arbitrary, Clone, Debug, PartialEq)]
struct Source {
    texts: Vec<Text>,
    /// What is cut off of the last text.
    cut: Option<u16>,
    is_bytes: bool,
}

#[derive(Arbitrary, Debug)]
struct Pair {
    /// A certificate with its key, or any two sources.
    sound: Option<u8>,
    chain: Option<Source>,
    key: Option<Source>,
    staple: Option<Vec<u8>>,
}

#[derive(Arbitrary, Debug)]
struct Validation {
    trusted: Option<Source>,
    revocations: Option<Source>,
    hashes: Vec<(bool, String)>,
    names: Vec<(u8, u8, String)>,
    depth: Option<u32>,
    flags: [bool; 4],
}

#[derive(Arbitrary, Debug)]
struct Context {
    is_server: bool,
    versions: (u8, u8),
    suites: Vec<u8>,
    curves: Vec<u8>,
    pairs: Vec<Pair>,
    validation: Option<Validation>,
    protocols: Vec<String>,
    sni: String,
    tickets: Option<Vec<Source>>,
    flags: [bool; 4],
    staple_policy: i8,
}

const SUITES: [&str; 6] = [
    "ECDHE-ECDSA-AES128-GCM-SHA256",
    "[ECDHE-RSA-AES128-GCM-SHA256|ECDHE-RSA-CHACHA20-POLY1305]",
    "AES128-SHA",
    "TLS_AES_128_GCM_SHA256",
    "-ALL",
    "",
];
const CURVES: [&str; 5] = ["X25519", "P-256", "X25519MLKEM768", "P-521", "nonsense"];
const NAMES: [&str; 5] = ["a.test", "*.test", "spiffe://a/b", "1.2.3.4", "("];

fuzz_target!(|context: Context| {
    STOCK.with(|stock| {
        let payload = context.message(stock);
        let outcome = build(&context, &payload);
        assert_eq!(build(&context, &payload), outcome);
        match outcome {
            Ok(()) => {
                let pairs = context.pairs.iter().take(3);
                assert!(pairs.clone().all(|pair| pair.may_fit(stock)), "a certificate without its key");
                assert!(!context.is_server || pairs.len() > 0, "a server without certificate");
            }
            Err(errors) => assert!(!errors.is_empty(), "refused without a reason"),
        }
    });
});

fn build(context: &Context, payload: &[u8]) -> Result<(), Vec<String>> {
    let env = outrigger_fuzz::env();
    let mut cx = BuildCx::new(&env);
    let built = match context.is_server {
        true => ServerTls::build(payload, "listener.l.", &mut cx).map(|_| ()),
        false => ClientTls::build(payload, &env.stats.scope("cluster.c"), &mut cx).map(|_| ()),
    };
    built.map_err(|_| cx.into_errors().iter().map(ToString::to_string).collect())
}

impl Source {
    fn text(&self, stock: &Stock) -> String {
        let mut whole = String::new();
        let (mut last, mut all) = (0, self.texts.iter().take(4));
        while let Some(text) = all.next() {
            last = whole.len();
            let pair = |which: &u8| &stock.pairs[usize::from(*which) % stock.pairs.len()];
            whole += match text {
                Text::Certificate(which) => &pair(which).0,
                Text::Key(which) => &pair(which).1,
                Text::Revocations => &stock.revocations,
                Text::Words(words) => words,
            };
        }
        if let Some(cut) = self.cut {
            let mut end = last + usize::from(cut) % (whole.len() - last + 1);
            while !whole.is_char_boundary(end) {
                end -= 1;
            }
            whole.truncate(end);
        }
        whole
    }

    fn message(&self, stock: &Stock) -> DataSource {
        let text = self.text(stock);
        let specifier = match self.is_bytes {
            true => Specifier::InlineBytes(text.into_bytes().into()),
            false => Specifier::InlineString(text),
        };
        DataSource { specifier: Some(specifier), ..DataSource::default() }
    }
}

impl Pair {
    fn sources(&self) -> (Option<Source>, Option<Source>) {
        let Some(which) = self.sound else { return (self.chain.clone(), self.key.clone()) };
        let one = |text| Some(Source { texts: vec![text], cut: None, is_bytes: false });
        (one(Text::Certificate(which)), one(Text::Key(which)))
    }

    fn message(&self, stock: &Stock) -> proto::TlsCertificate {
        let (chain, key) = self.sources();
        proto::TlsCertificate {
            certificate_chain: chain.map(|source| source.message(stock)),
            private_key: key.map(|source| source.message(stock)),
            ocsp_staple: self.staple.as_ref().map(|octets| DataSource {
                specifier: Some(Specifier::InlineBytes(octets.clone().into())),
                ..DataSource::default()
            }),
            ..proto::TlsCertificate::default()
        }
    }

    /// Whether there is a certificate of which the key is there, too.
    fn may_fit(&self, stock: &Stock) -> bool {
        let (chain, key) = self.sources();
        let [chain, key] = [chain, key].map(|source| source.map_or(String::new(), |one| one.text(stock)));
        stock.pairs.iter().any(|(certificate, private)| {
            chain.contains(certificate.trim_end()) && key.contains(private.trim_end())
        })
    }
}

impl Validation {
    fn message(&self, stock: &Stock) -> proto::CertificateValidationContext {
        let text = |source: &Option<Source>| source.as_ref().map(|source| source.message(stock));
        let (hashes, keys): (Vec<_>, Vec<_>) = self.hashes.iter().take(4).partition(|(is_hash, _)| *is_hash);
        let matchers = self.names.iter().take(4).map(|(kind, pattern, words)| {
            let value =
                NAMES.get(usize::from(*pattern)).map_or_else(|| words.clone(), |name| (*name).to_owned());
            let pattern = match pattern % 3 {
                0 => MatchPattern::Exact(value),
                1 => MatchPattern::Prefix(value),
                _ => MatchPattern::Suffix(value),
            };
            proto::SubjectAltNameMatcher {
                san_type: i32::from(kind % 7),
                matcher: Some(StringMatcher { match_pattern: Some(pattern), ..StringMatcher::default() }),
                ..proto::SubjectAltNameMatcher::default()
            }
        });
        proto::CertificateValidationContext {
            trusted_ca: text(&self.trusted),
            crl: text(&self.revocations),
            verify_certificate_hash: hashes.into_iter().map(|(_, hash)| hash.clone()).collect(),
            verify_certificate_spki: keys.into_iter().map(|(_, hash)| hash.clone()).collect(),
            match_typed_subject_alt_names: matchers.collect(),
            max_verify_depth: self.depth,
            allow_expired_certificate: self.flags[0],
            trust_chain_verification: i32::from(self.flags[1]),
            only_verify_leaf_cert_crl: self.flags[2],
            suppress_client_ca_list: self.flags[3],
            ..proto::CertificateValidationContext::default()
        }
    }
}

impl Context {
    fn message(&self, stock: &Stock) -> Vec<u8> {
        let named = |known: &[&str], all: &[u8]| -> Vec<String> {
            all.iter().take(4).map(|which| known[usize::from(*which) % known.len()].to_owned()).collect()
        };
        let common = proto::CommonTlsContext {
            tls_params: Some(proto::TlsParameters {
                tls_minimum_protocol_version: i32::from(self.versions.0 % 6),
                tls_maximum_protocol_version: i32::from(self.versions.1 % 6),
                cipher_suites: named(&SUITES, &self.suites),
                ecdh_curves: named(&CURVES, &self.curves),
                ..proto::TlsParameters::default()
            }),
            tls_certificates: self.pairs.iter().take(3).map(|pair| pair.message(stock)).collect(),
            alpn_protocols: self.protocols.iter().take(4).cloned().collect(),
            validation_context_type: self
                .validation
                .as_ref()
                .map(|one| ValidationContextType::ValidationContext(one.message(stock))),
            ..proto::CommonTlsContext::default()
        };
        if !self.is_server {
            return proto::UpstreamTlsContext {
                common_tls_context: Some(common),
                sni: self.sni.clone(),
                auto_host_sni: self.flags[0],
                auto_sni_san_validation: self.flags[1],
                allow_renegotiation: self.flags[2],
                max_session_keys: self.flags[3].then_some(0),
                ..proto::UpstreamTlsContext::default()
            }
            .encode_to_vec();
        }
        let tickets = self.tickets.as_ref().map(|keys| {
            let keys = keys.iter().take(3).map(|key| key.message(stock)).collect();
            SessionTicketKeysType::SessionTicketKeys(proto::TlsSessionTicketKeys { keys })
        });
        proto::DownstreamTlsContext {
            common_tls_context: Some(common),
            require_client_certificate: Some(self.flags[0]),
            full_scan_certs_on_sni_mismatch: Some(self.flags[1]),
            disable_stateful_session_resumption: self.flags[2],
            prefer_client_ciphers: self.flags[3],
            session_ticket_keys_type: tickets,
            ocsp_staple_policy: i32::from(self.staple_policy),
            ..proto::DownstreamTlsContext::default()
        }
        .encode_to_vec()
    }
}
