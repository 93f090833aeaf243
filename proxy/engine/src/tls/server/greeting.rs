//! What a client says first, and which configuration and certificate that calls for.

use std::future::poll_fn;
use std::io;
use std::sync::Arc;
use std::task::ready;

use bytes::BytesMut;
use proxy_core::tls::Certificate;
use proxy_core::tls::client_hello::{Parsed, claimed_length, parse};
use rustls::server::{Accepted, Acceptor, ClientHello};
use rustls::{
    CipherSuite, InvalidMessage, PeerIncompatible, ProtocolVersion, ServerConfig, SignatureAlgorithm,
};

use super::super::identity::{Identity, Stapling};
use super::super::key_log::Ends;
use super::{ServerContext, ServerTls, preference};
use crate::local::buffers;
use crate::net::connection::Connection;
use crate::net::secure::Secure;

const TLS13_SUITES: [CipherSuite; 3] = [
    CipherSuite::TLS13_AES_128_GCM_SHA256,
    CipherSuite::TLS13_AES_256_GCM_SHA384,
    CipherSuite::TLS13_CHACHA20_POLY1305_SHA256,
];

/// A record with the alert `handshake_failure`.
const HANDSHAKE_FAILURE: [u8; 7] = [21, 3, 3, 0, 2, 2, 40];
/// A record with the alert `illegal_parameter`, before anything is agreed on.
const ILLEGAL_PARAMETER: [u8; 7] = [21, 3, 1, 0, 2, 2, 47];
/// The longest ClientHello that is taken, without its head: as in BoringSSL.
const LONGEST_HELLO: usize = 16 << 10;

/// A session that has begun.
pub(super) struct Greeted {
    pub(super) secure: Secure,
    /// What the client asked for.
    pub(super) server_name: Option<String>,
    /// What it is shown.
    pub(super) certificate: Option<Arc<Certificate>>,
}

/// Why a session does not begin, and the alert that says so.
struct Refused {
    alert: Vec<u8>,
    error: rustls::Error,
}

impl ServerTls {
    /// Reads what the client says first and begins the session with it.
    pub(super) async fn greet(
        &self,
        context: &ServerContext,
        connection: &Connection,
        ends: Ends,
    ) -> io::Result<Greeted> {
        let mut acceptor = Acceptor::default();
        // All of it, as not everything is told by `rustls`.
        let mut received = buffers::take();
        let mut taken = 0;
        loop {
            received.reserve(1);
            let count = poll_fn(|cx| connection.poll_read(cx, &mut received)).await?;
            if count == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            if claimed_length(&received).is_some_and(|length| length > LONGEST_HELLO) {
                let error = rustls::Error::InvalidMessage(InvalidMessage::HandshakePayloadTooLarge);
                let refused = Refused { alert: ILLEGAL_PARAMETER.to_vec(), error };
                return Err(refused.tell(connection).await);
            }
            while taken < received.len() {
                let mut left = received.get(taken..).unwrap_or_default();
                if acceptor.read_tls(&mut left)? == 0 {
                    return Err(invalid(rustls::Error::General("a record is too long".to_owned())));
                }
                taken = received.len() - left.len();
                let begun = match acceptor.accept() {
                    Ok(None) => continue,
                    Ok(Some(accepted)) => self.begin(context, accepted, &received, ends),
                    Err((error, alert)) => Err(Refused::new(error, alert)),
                };
                let greeted = match begun {
                    Ok(greeted) => greeted,
                    Err(refused) => return Err(refused.tell(connection).await),
                };
                if let Err(error) = greeted.secure.feed(left) {
                    greeted.secure.say_goodbye(connection.link());
                    return Err(invalid(error));
                }
                buffers::give(received);
                return Ok(greeted);
            }
        }
    }

    /// Begins the session that a client asks for.
    fn begin(
        &self,
        context: &ServerContext,
        accepted: Accepted,
        received: &BytesMut,
        ends: Ends,
    ) -> Result<Greeted, Refused> {
        let hello = accepted.client_hello();
        let server_name = hello.server_name().map(str::to_owned);
        let shown = context.selector.select(hello.server_name(), hello.signature_schemes());
        if let Some(shown) = shown
            && asks_for_status(received)
            && self.staple(shown) == Stapling::Fail
        {
            let error = rustls::Error::General("there is no valid OCSP response to be shown".to_owned());
            return Err(Refused { alert: HANDSHAKE_FAILURE.to_vec(), error });
        }
        if let Some(shown) = shown
            && !hello.signature_schemes().is_empty()
            && !shown.fits(hello.signature_schemes())
        {
            // (In TLS 1.2 `rustls` would hang up without a word.)
            let error = rustls::Error::PeerIncompatible(PeerIncompatible::NoSignatureSchemesInCommon);
            return Err(Refused { alert: HANDSHAKE_FAILURE.to_vec(), error });
        }
        let certificate = shown.map(|identity| identity.certificate.clone());
        let key = shown.map(|identity| identity.key.key.algorithm());
        let config = self.config_for(context, &hello, key, ends);
        let session =
            accepted.into_connection(config).map_err(|(error, alert)| Refused::new(error, alert))?;
        Ok(Greeted { secure: Secure::new(session, self.stats.clone()), server_name, certificate })
    }

    /// What becomes of a client's wish for an OCSP response, counted.
    fn staple(&self, shown: &Identity) -> Stapling {
        let stats = self.stats.here();
        stats.ocsp_staple_requests.inc();
        let stapling = shown.stapling(self.settings.staple_policy);
        match stapling {
            Stapling::Staple => stats.ocsp_staple_responses.inc(),
            Stapling::Omit => stats.ocsp_staple_omitted.inc(),
            Stapling::Fail => stats.ocsp_staple_failed.inc(),
        }
        stapling
    }

    fn config_for(
        &self,
        context: &ServerContext,
        hello: &ClientHello<'_>,
        key: Option<SignatureAlgorithm>,
        ends: Ends,
    ) -> Arc<ServerConfig> {
        let is_ours = |one: &[u8]| self.common.alpn.iter().any(|our| our == one);
        let fits = hello.alpn().is_none_or(|mut offered| offered.any(is_ours));
        let speaks_13 =
            self.common.params.versions.iter().any(|version| version.version == ProtocolVersion::TLSv1_3);
        let both_speak_13 =
            speaks_13 && hello.cipher_suites().iter().any(|suite| TLS13_SUITES.contains(suite));
        let is_logged = self.common.key_log.as_ref().is_some_and(|log| log.covers(ends));
        let configs = context.logging.as_ref().filter(|_| is_logged).unwrap_or(&context.configs);
        if !both_speak_13
            && !configs.preferred.is_empty()
            && let Some(key) = key
            && let Some(suite) = preference::choose(&self.common.params.groups, hello.cipher_suites(), key)
            && let Some(preferred) = configs.preferred.iter().find(|preferred| preferred.suite == suite)
        {
            return if fits { &preferred.config } else { &preferred.without_alpn }.clone();
        }
        let chosen = match (both_speak_13, fits) {
            (true, true) => &configs.tls13,
            (true, false) => &configs.tls13_without_alpn,
            (false, true) => &configs.tls12,
            (false, false) => &configs.tls12_without_alpn,
        };
        chosen.clone()
    }
}

impl Refused {
    fn new(error: rustls::Error, mut accepted: rustls::server::AcceptedAlert) -> Self {
        let mut alert = Vec::new();
        // a vector takes what it is given
        let _ = accepted.write_all(&mut alert);
        Self { alert, error }
    }

    /// Sends the alert.
    async fn tell(self, connection: &Connection) -> io::Error {
        let slices = [io::IoSlice::new(&self.alert)];
        // An alert fits the socket; if it does not, nobody reads.
        let _ = poll_fn(|cx| {
            let _ = ready!(connection.poll_write(cx, &slices));
            std::task::Poll::Ready(())
        })
        .await;
        invalid(self.error)
    }
}

fn invalid(error: rustls::Error) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}

/// Whether a ClientHello asks for an OCSP response.
fn asks_for_status(received: &[u8]) -> bool {
    match parse(received, LONGEST_HELLO, &mut Vec::new()) {
        Parsed::Hello(hello, _) => hello.asks_for_status,
        Parsed::Other | Parsed::More => false,
    }
}
