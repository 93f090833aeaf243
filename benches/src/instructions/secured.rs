//! What the rows with mutual TLS add: certificates, transport sockets, a second hop, and clients that do nothing but shake hands.

use std::io::{ErrorKind, Read};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;

use anyhow::{Context, Result, bail, ensure};
use integration::tls::{Authority, ClientOptions, Wanted, inline};
use rustls::client::Resumption;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, HandshakeKind, StreamOwned};

use crate::traffic::PATIENCE;

const TYPE: &str = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3";

/// Both ends of mutual TLS.
pub(crate) struct Ends {
    client: ClientOptions,
    /// The transport socket of a filter chain that asks for certificates.
    pub(crate) server: String,
    /// That of a cluster that shows one.
    pub(crate) cluster: String,
}

impl Ends {
    pub(crate) fn new() -> Result<Self> {
        let authority = Authority::new("rows")?;
        let issue = |name| authority.issue(&Wanted { sans: &["dns:a.test", name], ..Wanted::default() });
        let (server, client) = (issue("uri:spiffe://row/server")?, issue("uri:spiffe://row/client")?);
        let roots = inline(&authority.pem);
        let common = |own: &str| {
            format!(
                "common_tls_context: {{tls_certificates: [{own}], validation_context: {{trusted_ca: {roots}}}, tls_params: {{tls_maximum_protocol_version: TLSv1_3}}}}"
            )
        };
        let socket = |message: &str, fields: &str| {
            format!(
                "transport_socket: {{name: tls, typed_config: {{\"@type\": {TYPE}.{message}, {fields}}}}}\n"
            )
        };
        let required = format!("require_client_certificate: true, {}", common(&server.inline()));
        Ok(Self {
            server: socket("DownstreamTlsContext", &required),
            cluster: socket("UpstreamTlsContext", &common(&client.inline())),
            // One group, so that nobody asks for another; and the suite that sidecars agree on.
            client: ClientOptions {
                groups: vec!["X25519"],
                suites: vec!["TLS13_AES_128_GCM_SHA256"],
                ..ClientOptions::with(&client)
            },
        })
    }

    /// Shakes hands so many times; all but the first resume the session of the one before if they are `resumed`.
    pub(crate) fn shake(&self, proxy: SocketAddr, count: usize, resumed: bool) -> Result<()> {
        let resuming = self.client.config()?;
        let mut full = ClientConfig::clone(&resuming);
        full.resumption = Resumption::disabled();
        let config = if resumed { resuming } else { Arc::new(full) };
        for number in 0..count {
            let kind = shake(proxy, &config).with_context(|| format!("handshake {number}"))?;
            let is_resumed = kind == HandshakeKind::Resumed;
            ensure!(is_resumed == (resumed && number > 0), "handshake {number} is {kind:?}");
        }
        Ok(())
    }
}

/// A connection that ends after its handshake, on both sides: so the tickets have come.
fn shake(proxy: SocketAddr, config: &Arc<ClientConfig>) -> Result<HandshakeKind> {
    let socket = TcpStream::connect(proxy)?;
    socket.set_read_timeout(Some(PATIENCE))?;
    socket.set_nodelay(true)?;
    let session = ClientConnection::new(config.clone(), ServerName::try_from("a.test")?)?;
    let mut stream = StreamOwned::new(session, socket);
    while stream.conn.is_handshaking() {
        stream.conn.complete_io(&mut stream.sock)?;
    }
    stream.conn.send_close_notify();
    stream.conn.complete_io(&mut stream.sock)?;
    match stream.read(&mut [0; 64]) {
        Ok(0) => {}
        // no last words
        Err(error) if error.kind() == ErrorKind::UnexpectedEof => {}
        other => bail!("instead of the end: {other:?}"),
    }
    stream.conn.handshake_kind().context("no handshake")
}
