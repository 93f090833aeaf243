//! Certificates made for a test, clients that speak TLS with them, and what a handshake came to.
//!
//! Clients here block, each in a thread of its own: a handshake is a conversation, and is read best as one.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::sync::{Arc, Mutex};

use anyhow::{Context, Result};
use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, CustomExtension, DnType,
    ExtendedKeyUsagePurpose, GeneralSubtree, IsCa, Issuer, KeyIdMethod, KeyPair, KeyUsagePurpose,
    NameConstraints, OtherNameValue, RevokedCertParams, SanType, SerialNumber, SignatureAlgorithm,
    date_time_ymd,
};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::aws_lc_rs::default_provider;
use rustls::crypto::{CryptoProvider, SupportedKxGroup};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::WebPkiClientVerifier;
use rustls::{
    ClientConfig, ClientConnection, DigitallySignedStruct, NamedGroup, RootCertStore, ServerConfig,
    ServerConnection, SignatureScheme, SupportedProtocolVersion,
};

use crate::expect::SOON;

/// A certification authority.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    /// Its own certificate.
    pub pem: String,
}

/// A certificate with its key.
#[derive(Clone, Debug)]
pub struct Identity {
    /// The chain.
    pub chain: String,
    /// The key.
    pub key: String,
    /// The certificate by itself.
    pub der: Vec<u8>,
    /// Its serial number.
    pub serial: u64,
}

/// What a certificate says.
#[derive(Clone, Debug)]
pub struct Wanted<'w> {
    pub common_name: &'w str,
    /// `dns:`, `uri:`, `email:`, `ip:` or `other:` (a user principal name) before each.
    pub sans: &'w [&'w str],
    pub serial: u64,
    /// Years.
    pub valid: (i32, i32),
    pub algorithm: &'static SignatureAlgorithm,
    /// What it may be used for, if it says so.
    pub usages: &'w [KeyUsagePurpose],
    /// Whom it may be shown by, if it says so.
    pub extended: &'w [ExtendedKeyUsagePurpose],
    /// It asks to be shown with an OCSP response (RFC 7633).
    pub must_staple: bool,
}

impl Default for Wanted<'_> {
    fn default() -> Self {
        Self {
            common_name: "test",
            sans: &["dns:a.test"],
            serial: 1,
            valid: (2020, 2100),
            algorithm: &rcgen::PKCS_ECDSA_P256_SHA256,
            usages: &[],
            extended: &[],
            must_staple: false,
        }
    }
}

impl Wanted<'_> {
    /// The other algorithm of keys that is in use.
    pub const RSA_2048: &'static SignatureAlgorithm = &rcgen::PKCS_RSA_SHA256;

    fn params(&self) -> Result<CertificateParams> {
        let mut params = CertificateParams::new(Vec::new())?;
        params.distinguished_name = rcgen::DistinguishedName::new();
        if !self.common_name.is_empty() {
            params.distinguished_name.push(DnType::OrganizationName, "Outrigger, tests");
            params.distinguished_name.push(DnType::CommonName, self.common_name);
        }
        for san in self.sans {
            let (kind, name) = san.split_once(':').context("a name without a kind")?;
            params.subject_alt_names.push(match kind {
                "dns" => SanType::DnsName(name.try_into()?),
                "uri" => SanType::URI(name.try_into()?),
                "email" => SanType::Rfc822Name(name.try_into()?),
                "other" => SanType::OtherName((
                    vec![1, 3, 6, 1, 4, 1, 311, 20, 2, 3],
                    OtherNameValue::Utf8String(name.to_owned()),
                )),
                _ => SanType::IpAddress(name.parse()?),
            });
        }
        params.serial_number = Some(SerialNumber::from(self.serial));
        params.not_before = date_time_ymd(self.valid.0, 1, 1);
        params.not_after = date_time_ymd(self.valid.1, 1, 1);
        params.key_usages = self.usages.to_vec();
        params.extended_key_usages = self.extended.to_vec();
        if self.must_staple {
            let feature =
                CustomExtension::from_oid_content(&[1, 3, 6, 1, 5, 5, 7, 1, 24], vec![0x30, 3, 2, 1, 5]);
            params.custom_extensions.push(feature);
        }
        Ok(params)
    }
}

impl Authority {
    /// One that signs itself.
    pub fn new(name: &str) -> Result<Self> {
        Self::valid(name, (2020, 2100))
    }

    /// One that is valid in these years.
    pub fn valid(name: &str, valid: (i32, i32)) -> Result<Self> {
        let (params, key) = Self::parts(name, valid)?;
        let pem = params.self_signed(&key)?.pem();
        Ok(Self { issuer: Issuer::new(params, key), pem })
    }

    /// One that signs itself, and says this of what it may issue.
    pub fn saying(name: &str, is_ca: IsCa, usages: &[KeyUsagePurpose]) -> Result<Self> {
        let (mut params, key) = Self::parts(name, (2020, 2100))?;
        params.is_ca = is_ca;
        params.key_usages = usages.to_vec();
        let pem = params.self_signed(&key)?.pem();
        Ok(Self { issuer: Issuer::new(params, key), pem })
    }

    /// One that signs itself, and may vouch for DNS names in this domain only.
    pub fn constrained(name: &str, domain: &str) -> Result<Self> {
        let (mut params, key) = Self::parts(name, (2020, 2100))?;
        let permitted_subtrees = vec![GeneralSubtree::DnsName(domain.to_owned())];
        params.name_constraints = Some(NameConstraints { permitted_subtrees, excluded_subtrees: Vec::new() });
        let pem = params.self_signed(&key)?.pem();
        Ok(Self { issuer: Issuer::new(params, key), pem })
    }

    /// One that this one vouches for.
    pub fn intermediate(&self, name: &str) -> Result<Self> {
        let (params, key) = Self::parts(name, (2020, 2100))?;
        let pem = params.signed_by(&key, &self.issuer)?.pem();
        Ok(Self { issuer: Issuer::new(params, key), pem })
    }

    fn parts(name: &str, valid: (i32, i32)) -> Result<(CertificateParams, KeyPair)> {
        let mut params =
            Wanted { common_name: name, sans: &[], serial: 77, valid, ..Wanted::default() }.params()?;
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        Ok((params, KeyPair::generate()?))
    }

    /// Issues a certificate.
    pub fn issue(&self, wanted: &Wanted<'_>) -> Result<Identity> {
        let key = KeyPair::generate_for(wanted.algorithm)?;
        let certificate = wanted.params()?.signed_by(&key, &self.issuer)?;
        let der = certificate.der().to_vec();
        Ok(Identity { chain: certificate.pem(), key: key.serialize_pem(), der, serial: wanted.serial })
    }

    /// A list of certificates that are revoked.
    pub fn revoke(&self, serials: &[u64]) -> Result<String> {
        self.revoke_in(2021, serials)
    }

    /// One that was issued in that year.
    pub fn revoke_in(&self, year: i32, serials: &[u64]) -> Result<String> {
        let revoked = |serial: &u64| RevokedCertParams {
            serial_number: SerialNumber::from(*serial),
            revocation_time: date_time_ymd(2021, 1, 1),
            reason_code: None,
            invalidity_date: None,
        };
        let list = CertificateRevocationListParams {
            this_update: date_time_ymd(year, 1, 1),
            next_update: date_time_ymd(2100, 1, 1),
            crl_number: SerialNumber::from(1_u64),
            issuing_distribution_point: None,
            revoked_certs: serials.iter().map(revoked).collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        Ok(list.signed_by(&self.issuer)?.pem()?)
    }
}

impl Identity {
    /// With the certificates of those who stand between it and a root.
    #[must_use]
    pub fn with_chain(mut self, between: &Authority) -> Self {
        self.chain.push_str(&between.pem);
        self
    }

    /// As an element of `tls_certificates`, with files in `dir`.
    pub fn files(&self, dir: &Path, name: &str) -> Result<String> {
        let (chain, key) = (dir.join(format!("{name}.pem")), dir.join(format!("{name}.key")));
        std::fs::write(&chain, &self.chain)?;
        std::fs::write(&key, &self.key)?;
        Ok(format!(
            "{{certificate_chain: {{filename: \"{}\"}}, private_key: {{filename: \"{}\"}}}}",
            chain.display(),
            key.display()
        ))
    }

    /// As an element of `tls_certificates`, all in it.
    pub fn inline(&self) -> String {
        format!("{{certificate_chain: {}, private_key: {}}}", inline(&self.chain), inline(&self.key))
    }

    pub(crate) fn parts(&self) -> Result<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>)> {
        let chain = CertificateDer::pem_slice_iter(self.chain.as_bytes()).collect::<Result<_, _>>()?;
        Ok((chain, PrivateKeyDer::from_pem_slice(self.key.as_bytes())?))
    }
}

/// A data source that holds `text`.
pub fn inline(text: &str) -> String {
    format!("{{inline_string: \"{}\"}}", text.trim_end().replace('\n', "\\n"))
}

/// A transport socket for clients: fields of `common_tls_context`, and of the context itself.
pub fn downstream(common: &str, context: &str) -> String {
    format!(
        "transport_socket:\n  name: tls\n  typed_config:\n    \"@type\": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext\n{}    common_tls_context:\n{}",
        crate::config::indent(context, 4),
        crate::config::indent(common, 6)
    )
}

/// A transport socket for hosts: likewise.
pub fn upstream(common: &str, context: &str) -> String {
    let common = if common.is_empty() { "{}" } else { common };
    format!(
        "transport_socket:\n  name: tls\n  typed_config:\n    \"@type\": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext\n{}    common_tls_context:\n{}",
        crate::config::indent(context, 4),
        crate::config::indent(common, 6)
    )
}

/// How a client shakes hands.
#[derive(Clone, Debug, Default)]
pub struct ClientOptions {
    pub identity: Option<Identity>,
    pub alpn: Vec<&'static str>,
    /// What it asks for; `a.test` if nothing.
    pub server_name: Option<&'static str>,
    /// Does not say what it asks for.
    pub silent: bool,
    pub versions: Vec<&'static SupportedProtocolVersion>,
    /// Names of suites as `rustls` has them.
    pub suites: Vec<&'static str>,
    /// Names of the groups that it takes, by preference; all if none.
    pub groups: Vec<&'static str>,
    /// Takes signatures of these only.
    pub schemes: Vec<SignatureScheme>,
    /// Where the OCSP response of the last handshake goes; empty if none was shown.
    pub stapled: Stapled,
    /// Where the scheme goes that the last handshake was signed with.
    pub signed: Signed,
}

/// The scheme of a signature, once there was one.
pub type Signed = Arc<Mutex<Option<SignatureScheme>>>;

/// An OCSP response, once one was shown.
pub type Stapled = Arc<Mutex<Option<Vec<u8>>>>;

/// Anybody's certificate is good enough: what is tested is the other side.
#[derive(Debug)]
struct Credulous(Arc<CryptoProvider>, Vec<SignatureScheme>, Stapled, Signed);

impl Credulous {
    fn note(&self, signature: &DigitallySignedStruct) {
        if let Ok(mut last) = self.3.lock() {
            *last = Some(signature.scheme);
        }
    }
}

impl ServerCertVerifier for Credulous {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        stapled: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        if let Ok(mut last) = self.2.lock() {
            *last = Some(stapled.to_vec());
        }
        Ok(ServerCertVerified::assertion())
    }
    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.note(dss);
        rustls::crypto::verify_tls12_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }
    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.note(dss);
        rustls::crypto::verify_tls13_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }
    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        match self.1.is_empty() {
            true => self.0.signature_verification_algorithms.supported_schemes(),
            false => self.1.clone(),
        }
    }
}

impl ClientOptions {
    /// With this certificate.
    pub fn with(identity: &Identity) -> Self {
        Self { identity: Some(identity.clone()), ..Self::default() }
    }

    /// What sessions are made of; those of one configuration may resume each other.
    pub fn config(&self) -> Result<Arc<ClientConfig>> {
        let mut provider = default_provider();
        if !self.suites.is_empty() {
            provider.cipher_suites.retain(|suite| {
                let name = format!("{:?}", suite.suite());
                self.suites.contains(&name.as_str())
            });
            provider.cipher_suites.sort_by_key(|suite| {
                let name = format!("{:?}", suite.suite());
                self.suites.iter().position(|one| *one == name)
            });
        }
        match self.groups.is_empty() {
            // As browsers have them: the hybrid one first.
            true => provider.kx_groups.sort_by_key(|group| group.name() != NamedGroup::X25519MLKEM768),
            false => {
                let place = |group: &&dyn SupportedKxGroup| {
                    let name = format!("{:?}", group.name());
                    self.groups.iter().position(|one| *one == name)
                };
                provider.kx_groups.retain(|group| place(group).is_some());
                provider.kx_groups.sort_by_key(place);
            }
        }
        let versions = match self.versions.is_empty() {
            true => rustls::ALL_VERSIONS.to_vec(),
            false => self.versions.clone(),
        };
        // A client that does not speak a version does not offer its suites.
        provider
            .cipher_suites
            .retain(|suite| versions.iter().any(|version| version.version == suite.version().version));
        let provider = Arc::new(provider);
        let builder = ClientConfig::builder_with_provider(provider.clone())
            .with_protocol_versions(&versions)?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Credulous(
                provider,
                self.schemes.clone(),
                self.stapled.clone(),
                self.signed.clone(),
            )));
        let mut config = match &self.identity {
            Some(identity) => {
                let (chain, key) = identity.parts()?;
                builder.with_client_auth_cert(chain, key)?
            }
            None => builder.with_no_client_auth(),
        };
        config.alpn_protocols = self.alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
        config.enable_sni = !self.silent;
        Ok(Arc::new(config))
    }

    fn name(&self) -> &'static str {
        self.server_name.unwrap_or("a.test")
    }
}

/// What came of a conversation.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    /// `ok`, or why not.
    pub handshake: String,
    pub version: String,
    pub cipher: String,
    pub alpn: Option<String>,
    /// The certificate that the server showed.
    pub certificate: Vec<u8>,
    pub resumed: bool,
    /// The server said that it was done before it closed.
    pub notified: bool,
    /// All that was answered.
    pub answer: String,
}

/// Shakes hands, sends `request`, and reads until `until` has come or the server closes.
pub fn talk(
    addr: SocketAddr,
    config: &Arc<ClientConfig>,
    name: &str,
    request: &[u8],
    until: &str,
) -> Result<Outcome> {
    let socket = TcpStream::connect_timeout(&addr, SOON)?;
    socket.set_read_timeout(Some(SOON))?;
    socket.set_nodelay(true)?;
    let name = ServerName::try_from(name.to_owned())?;
    let session = ClientConnection::new(config.clone(), name)?;
    let mut stream = rustls::StreamOwned::new(session, socket);
    let mut outcome = Outcome::default();
    while stream.conn.is_handshaking() {
        if let Err(error) = stream.conn.complete_io(&mut stream.sock) {
            outcome.handshake = describe(&error);
            return Ok(outcome);
        }
    }
    outcome.handshake = "ok".to_owned();
    outcome.version = format!("{:?}", stream.conn.protocol_version().context("no version")?);
    outcome.cipher = format!("{:?}", stream.conn.negotiated_cipher_suite().context("no suite")?.suite());
    outcome.alpn = stream.conn.alpn_protocol().map(|name| String::from_utf8_lossy(name).into_owned());
    outcome.resumed = stream.conn.handshake_kind() == Some(rustls::HandshakeKind::Resumed);
    let shown = stream.conn.peer_certificates().and_then(|chain| chain.first());
    outcome.certificate = shown.map(|der| der.to_vec()).unwrap_or_default();
    let mut answer = Vec::new();
    let written = stream.write_all(request).and_then(|()| stream.flush());
    let mut buffer = [0; 4096];
    let ended = loop {
        if String::from_utf8_lossy(&answer).contains(until) && !until.is_empty() {
            break Ok(());
        }
        match stream.read(&mut buffer) {
            Ok(0) => {
                outcome.notified = true;
                break Ok(());
            }
            Ok(count) => answer.extend_from_slice(&buffer[..count]),
            Err(error) => break Err(error),
        }
    };
    // In TLS 1.3 a client learns only now whether its certificate was liked.
    if let Err(error) = written.and(ended)
        && answer.is_empty()
    {
        outcome.handshake = describe(&error);
    }
    outcome.answer = String::from_utf8_lossy(&answer).into_owned();
    Ok(outcome)
}

/// A connection that is kept, for one request after the other.
pub struct Session(rustls::StreamOwned<ClientConnection, TcpStream>);

impl Session {
    /// Connects; the handshake is done with the first request.
    pub fn open(addr: SocketAddr, options: &ClientOptions) -> Result<Self> {
        Self::over(addr, &options.config()?, options.name())
    }

    /// Connects with a configuration that others have, too.
    pub fn over(addr: SocketAddr, config: &Arc<ClientConfig>, name: &str) -> Result<Self> {
        let socket = TcpStream::connect_timeout(&addr, SOON)?;
        socket.set_read_timeout(Some(SOON))?;
        socket.set_nodelay(true)?;
        let name = ServerName::try_from(name.to_owned())?;
        Ok(Self(rustls::StreamOwned::new(ClientConnection::new(config.clone(), name)?, socket)))
    }

    /// Whether its handshake, which is done, resumed an earlier session.
    pub fn is_resumed(&self) -> bool {
        self.0.conn.handshake_kind() == Some(rustls::HandshakeKind::Resumed)
    }

    /// Sends a request and reads the response, which must have a content length; its status line.
    pub fn request(&mut self, request: &str) -> Result<String> {
        self.0.write_all(request.as_bytes())?;
        self.0.flush()?;
        let (mut answer, mut buffer) = (Vec::new(), [0; 4096]);
        loop {
            let text = String::from_utf8_lossy(&answer).into_owned();
            if let Some((head, body)) = text.split_once("\r\n\r\n") {
                let length = content_length(head).context("no content length")?;
                if body.len() >= length {
                    return Ok(head.lines().next().unwrap_or_default().to_owned());
                }
            }
            match self.0.read(&mut buffer)? {
                0 => anyhow::bail!("closed after {text:?}"),
                count => answer.extend_from_slice(&buffer[..count]),
            }
        }
    }
}

fn describe(error: &std::io::Error) -> String {
    match error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
        Some(rustls::Error::AlertReceived(alert)) => format!("alert {alert:?}"),
        Some(error) => format!("{error}"),
        None => format!("{:?}", error.kind()),
    }
}

fn content_length(head: &str) -> Option<usize> {
    let lines = head.lines().filter_map(|line| line.split_once(':'));
    let mut lengths = lines.filter(|(name, _)| name.eq_ignore_ascii_case("content-length"));
    lengths.next()?.1.trim().parse().ok()
}

/// [`talk`] in a thread of its own.
pub async fn converse(
    addr: SocketAddr,
    options: &ClientOptions,
    request: &str,
    until: &'static str,
) -> Result<Outcome> {
    let (config, name, request) = (options.config()?, options.name(), request.to_owned());
    tokio::task::spawn_blocking(move || talk(addr, &config, name, request.as_bytes(), until)).await?
}

/// A server that speaks TLS, and answers each request with what it saw.
pub struct TlsServer {
    /// Where.
    pub addr: SocketAddr,
    seen: Arc<Mutex<Vec<Seen>>>,
}

/// A handshake as a server saw it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    /// `ok`, or why not.
    pub handshake: String,
    pub server_name: Option<String>,
    pub alpn: Option<String>,
    pub version: String,
    pub resumed: bool,
    pub client: Vec<u8>,
}

impl TlsServer {
    /// Begins to serve.
    pub fn start(
        identity: &Identity,
        clients: Option<&Authority>,
        alpn: &[&str],
        versions: &[&'static SupportedProtocolVersion],
    ) -> Result<Self> {
        let provider = Arc::new(default_provider());
        let builder =
            ServerConfig::builder_with_provider(provider.clone()).with_protocol_versions(versions)?;
        let builder = match clients {
            Some(authority) => {
                let mut roots = RootCertStore::empty();
                roots.add(CertificateDer::from_pem_slice(authority.pem.as_bytes())?)?;
                let verifier =
                    WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build()?;
                builder.with_client_cert_verifier(verifier)
            }
            None => builder.with_no_client_auth(),
        };
        let (chain, key) = identity.parts()?;
        let mut config = builder.with_single_cert(chain, key)?;
        config.alpn_protocols = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
        config.ticketer = rustls::crypto::aws_lc_rs::Ticketer::new()?;
        let (config, listener) = (Arc::new(config), TcpListener::bind("127.0.0.1:0")?);
        let addr = listener.local_addr()?;
        let seen: Arc<Mutex<Vec<Seen>>> = Arc::default();
        let shared = seen.clone();
        std::thread::spawn(move || {
            for socket in listener.incoming().map_while(Result::ok) {
                let (config, seen) = (config.clone(), shared.clone());
                std::thread::spawn(move || serve(&config, socket, &seen));
            }
        });
        Ok(Self { addr, seen })
    }

    /// The handshakes so far.
    pub fn seen(&self) -> Vec<Seen> {
        self.seen.lock().map(|seen| seen.clone()).unwrap_or_default()
    }
}

fn serve(config: &Arc<ServerConfig>, mut socket: TcpStream, seen: &Mutex<Vec<Seen>>) {
    let Ok(mut session) = ServerConnection::new(config.clone()) else { return };
    let mut note = Seen { handshake: "ok".to_owned(), ..Seen::default() };
    while session.is_handshaking() {
        if let Err(error) = session.complete_io(&mut socket) {
            note.handshake = describe(&error);
            break;
        }
    }
    note.server_name = session.server_name().map(str::to_owned);
    note.alpn = session.alpn_protocol().map(|name| String::from_utf8_lossy(name).into_owned());
    note.version = session.protocol_version().map(|version| format!("{version:?}")).unwrap_or_default();
    note.resumed = session.handshake_kind() == Some(rustls::HandshakeKind::Resumed);
    note.client = session
        .peer_certificates()
        .and_then(|chain| chain.first())
        .map(|der| der.to_vec())
        .unwrap_or_default();
    let is_ok = note.handshake == "ok";
    if let Ok(mut seen) = seen.lock() {
        seen.push(note);
    }
    let mut stream = rustls::Stream::new(&mut session, &mut socket);
    let (mut head, mut buffer) = (Vec::new(), [0; 4096]);
    if !is_ok {
        return;
    }
    loop {
        match stream.read(&mut buffer) {
            Ok(count @ 1..) => head.extend_from_slice(&buffer[..count]),
            _ => return,
        }
        if head.ends_with(b"\r\n\r\n") {
            let body = head.len().to_string();
            let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}", body.len());
            if stream.write_all(answer.as_bytes()).and_then(|()| stream.flush()).is_err() {
                return;
            }
            head.clear();
        }
    }
}
