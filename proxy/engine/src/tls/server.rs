//! TLS that ends here (`DownstreamTlsContext`).

mod greeting;
mod preference;

use std::future::poll_fn;
use std::io;
use std::sync::Arc;

use arc_swap::ArcSwapOption;
use proxy_core::config::{BuildCx, Rejected};
use proxy_core::extension::decode;
use proxy_core::stats::groups::{SslFactoryStats, SslStats};
use proxy_core::stats::{Cells, OneOff, Scope, SharedGauge};
use proxy_core::tls::TlsInfo;
use rustls::crypto::aws_lc_rs::Ticketer;
use rustls::server::{
    NoServerSessionStorage, ProducesTickets, ServerSessionMemoryCache, StoresServerSessions,
};
use rustls::{CipherSuite, ServerConfig};
use xds_api::envoy::extensions::transport_sockets::tls::v3 as proto;
use xds_api::envoy::extensions::transport_sockets::tls::v3::downstream_tls_context::{
    OcspStaplePolicy, SessionTicketKeysType,
};
use xds_api::envoy::extensions::transport_sockets::tls::v3::tls_parameters::TlsProtocol;

use super::common::{Common, Expirations, Material};
use super::identity::{Identity, Selector};
use super::key_log::Ends;
use super::secret::{Need, Secret, SecretKind};
use super::ticket::{Ending, LIFETIME, TicketKeys, Tickets};
use super::verify::{Acquaintances, Judge, Verifier, sha256};
use super::{Files, Prepared, Supplied, Watched, session};
use crate::net::connection::Connection;
use preference::Preferred;

/// The message that configures it.
pub const MESSAGE: &str = "envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext";
/// Sessions that are kept for clients that resume without a ticket.
const SESSIONS: usize = 1024;

/// How TLS of clients ends here.
pub struct ServerTls {
    common: Common,
    settings: Settings,
    scope: Scope,
    stats: Cells<SslStats>,
    /// `server_ssl_socket_factory`: there from the start, as in Envoy.
    factory_stats: Cells<SslFactoryStats>,
    /// None while secrets are missing.
    context: ArcSwapOption<ServerContext>,
}

/// What a context is made with besides [`Common`].
struct Settings {
    requires_certificate: bool,
    full_scan: bool,
    prefers_client: bool,
    /// Sessions are resumed by tickets, and by what is kept here.
    stateless: bool,
    stateful: bool,
    staple_policy: OcspStaplePolicy,
    /// After how many seconds sessions are not resumed any more, if that is said.
    session_timeout: Option<u32>,
    /// The keys of tickets that are part of the context.
    ticket_keys: Option<Arc<TicketKeys>>,
}

/// What handshakes are done with.
pub struct ServerContext {
    configs: Configs,
    /// Those that write down the secrets of sessions.
    logging: Option<Configs>,
    selector: Arc<Selector>,
    judge: Arc<Judge>,
    /// The certificates.
    pub identities: Vec<Identity>,
    /// Held for as long as the certificates are; none until they are in force.
    _expirations: Vec<OneOff<SharedGauge>>,
}

/// One configuration in the shapes that the first words of a client call for.
///
/// A client that offers none of our protocols gets none (`rustls` would refuse it). Suites of TLS 1.3 are chosen in the order of
/// the client, those of TLS 1.2 in ours, unless `prefer_client_ciphers`.
struct Configs {
    tls13: Arc<ServerConfig>,
    tls13_without_alpn: Arc<ServerConfig>,
    tls12: Arc<ServerConfig>,
    tls12_without_alpn: Arc<ServerConfig>,
    /// Those of TLS 1.2 that prefer a suite of a group, which another one of it is as good as.
    preferred: Vec<Preferred>,
}

impl Configs {
    fn new(
        config: &ServerConfig,
        alpn: &[Vec<u8>],
        prefers_client: bool,
        preferred: Vec<(CipherSuite, ServerConfig)>,
    ) -> Self {
        let of = |config: &ServerConfig, alpn: &[Vec<u8>], ignore_client_order| {
            let mut config = config.clone();
            config.alpn_protocols = alpn.to_vec();
            config.ignore_client_order = ignore_client_order;
            Arc::new(config)
        };
        let with = |alpn: &[Vec<u8>], ignore_client_order| of(config, alpn, ignore_client_order);
        let preferred = preferred.into_iter().map(|(suite, config)| Preferred {
            suite,
            config: of(&config, alpn, true),
            without_alpn: of(&config, &[], true),
        });
        Self {
            preferred: preferred.collect(),
            tls13: with(alpn, false),
            tls13_without_alpn: with(&[], false),
            tls12: with(alpn, !prefers_client),
            tls12_without_alpn: with(&[], !prefers_client),
        }
    }
}

/// Why a handshake failed, in Envoy's words; empty if the peer just left.
#[derive(Debug)]
pub struct HandshakeFailed(pub String);

impl ServerTls {
    /// Builds it for the listener whose statistics begin with `stat_prefix`.
    pub fn build(payload: &[u8], stat_prefix: &str, cx: &mut BuildCx<'_>) -> Result<Self, Rejected> {
        let proto: proto::DownstreamTlsContext = decode(payload, cx)?;
        let rejected = cx.reject_if(
            proto.require_sni.unwrap_or(false),
            "require_sni",
            "is not implemented, nor is it in Envoy",
        );
        let common =
            Common::build(&proto.common_tls_context.clone().unwrap_or_default(), TlsProtocol::TlSv13, cx);
        let (mut common, ()) = (common?, rejected?);
        let ticket_keys = match &proto.session_ticket_keys_type {
            Some(SessionTicketKeysType::SessionTicketKeys(keys)) => {
                Some(Arc::new(cx.at("session_ticket_keys", |cx| TicketKeys::build(keys, cx))?))
            }
            Some(SessionTicketKeysType::SessionTicketKeysSdsSecretConfig(config)) => {
                common.needs.push(cx.at("session_ticket_keys_sds_secret_config", |cx| {
                    Need::build(SecretKind::TicketKeys, config, cx)
                })?);
                None
            }
            Some(SessionTicketKeysType::DisableStatelessSessionResumption(_)) | None => None,
        };
        match common.certificates() {
            (0, 0) => return Err(cx.reject("No TLS certificates found for server context")),
            (1.., 1..) => {
                return Err(cx.reject("SDS and non-SDS TLS certificates may not be mixed in server contexts"));
            }
            _ => {}
        }
        let settings = Settings {
            requires_certificate: proto.require_client_certificate.unwrap_or(false),
            full_scan: proto.full_scan_certs_on_sni_mismatch.unwrap_or(false),
            prefers_client: proto.prefer_client_ciphers,
            stateless: !matches!(
                proto.session_ticket_keys_type,
                Some(SessionTicketKeysType::DisableStatelessSessionResumption(true))
            ),
            staple_policy: proto.ocsp_staple_policy(),
            stateful: !proto.disable_stateful_session_resumption,
            session_timeout: proto.session_timeout.as_ref().map(session_timeout),
            ticket_keys,
        };
        let scope = cx.env.stats.scope(stat_prefix);
        let tls = Self {
            common,
            settings,
            stats: scope.child("ssl").cells(),
            factory_stats: scope.child("server_ssl_socket_factory").cells(),
            scope,
            context: ArcSwapOption::empty(),
        };
        if tls.needs().is_empty() {
            tls.prepare(&[], Files::Kept, cx)?.install();
        }
        Ok(tls)
    }

    /// What handshakes are done with now; none while secrets are missing.
    pub fn context(&self) -> Option<Arc<ServerContext>> {
        self.context.load_full()
    }

    fn build_context(&self, material: Material, cx: &mut BuildCx<'_>) -> Result<ServerContext, Rejected> {
        let params = &self.common.params;
        let Material { mut identities, verifier, ticket_keys } = material;
        identities.iter_mut().for_each(|identity| identity.limit(&params.signatures));
        for identity in identities.iter().filter(|identity| identity.staple.is_none()) {
            if identity.certificate.must_staple {
                return Err(cx.reject("OCSP response is required for must-staple certificate"));
            }
            if self.settings.staple_policy == OcspStaplePolicy::MustStaple {
                return Err(cx.reject("Required OCSP response is missing from TLS context"));
            }
        }
        let ticket_keys = ticket_keys.as_ref().or(self.settings.ticket_keys.as_ref());
        let selector = Arc::new(Selector::new(identities.clone(), self.settings.full_scan));
        let judge = Arc::new(Judge {
            verifier,
            provider: params.provider.clone(),
            signatures: params.signatures.clone(),
            stats: self.stats.clone(),
            is_required: self.settings.requires_certificate,
            names_server: false,
            known: Acquaintances::default(),
        });
        let builder = ServerConfig::builder_with_provider(params.provider.clone())
            .with_protocol_versions(&params.versions)
            .map_err(|error| cx.reject(error.to_string()))?;
        let mut config =
            builder.with_client_cert_verifier(judge.clone()).with_cert_resolver(selector.clone());
        let Settings { stateless, stateful, prefers_client, session_timeout, .. } = &self.settings;
        config.session_storage = match (*stateful, *session_timeout) {
            (false, _) => Arc::new(NoServerSessionStorage {}),
            (true, None) => ServerSessionMemoryCache::new(SESSIONS),
            (true, Some(timeout)) => Arc::new(Ending::<dyn StoresServerSessions>::new(
                ServerSessionMemoryCache::new(SESSIONS),
                timeout,
            )),
        };
        if *stateless {
            let tickets: Arc<dyn ProducesTickets> = match ticket_keys {
                Some(keys) => {
                    let context = session_context(&judge, &identities);
                    Arc::new(Tickets { keys: keys.clone(), context })
                }
                None => Ticketer::new().map_err(|error| cx.reject(error.to_string()))?,
            };
            config.ticketer = Arc::new(Ending::new(tickets, session_timeout.unwrap_or(LIFETIME)));
        } else if !*stateful {
            config.send_tls13_tickets = 0;
        }
        let configs = |config: &ServerConfig| {
            let suites = if *prefers_client { Vec::new() } else { preference::alternatives(&params.groups) };
            let preferred = suites.into_iter().filter_map(|suite| {
                let config = preference::preferring(suite, config, params, &judge, &selector)?;
                Some((suite, config))
            });
            Configs::new(config, &self.common.alpn, *prefers_client, preferred.collect())
        };
        let logging = self.common.key_log.as_ref().map(|log| {
            let mut logging = config.clone();
            logging.key_log = log.file.clone();
            configs(&logging)
        });
        let configs = configs(&config);
        Ok(ServerContext { configs, logging, selector, judge, identities, _expirations: Vec::new() })
    }

    /// Does the handshake; `connection`, which is between these `ends`, carries the session from then on. Has no deadline of its own.
    pub async fn accept(&self, connection: &mut Connection, ends: Ends) -> Result<TlsInfo, HandshakeFailed> {
        let Some(context) = self.context.load_full() else {
            self.factory_stats.here().downstream_context_secrets_not_ready.inc();
            return Err(HandshakeFailed(super::NOT_READY.to_owned()));
        };
        let accepted = match self.greet(&context, connection, ends).await {
            Ok(accepted) => accepted,
            Err(error) => {
                session::count_failure(&error, self.stats.here());
                return Err(HandshakeFailed(session::failure(&error)));
            }
        };
        let greeting::Greeted { secure, server_name, certificate } = accepted;
        let shaken = poll_fn(|cx| secure.poll_handshake(connection.link(), cx)).await;
        let judged = shaken.and_then(|()| {
            let judged = secure.with(|session| context.judge.judge_session(session));
            judged.map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
        });
        let validated = match judged {
            Ok(validated) => validated,
            Err(error) => {
                session::count_failure(&error, self.stats.here());
                return Err(HandshakeFailed(session::failure(&error)));
            }
        };
        let mut info = secure.with(|session| session::describe(session, &context.judge, self.stats.here()));
        info.server_name = server_name;
        info.validated = validated;
        info.local = certificate;
        if let ([peer], Some(verifier)) = (&*info.peer, context.verifier()) {
            info.issuer = verifier.issuer_of(peer);
        }
        connection.secure(secure);
        Ok(info)
    }
}

impl Supplied for ServerTls {
    fn needs(&self) -> &[Need] {
        &self.common.needs
    }

    fn files(&self) -> &[Watched] {
        &self.common.own.files
    }

    fn hashes(&self) -> Arc<[Option<u64>]> {
        self.common.own.hashes()
    }

    fn prepare(
        &self,
        found: &[Option<Arc<Secret>>],
        files: Files<'_>,
        cx: &mut BuildCx<'_>,
    ) -> Result<Prepared<'_>, Rejected> {
        let own = match files {
            Files::Kept => self.common.own.kept(),
            Files::Now(place) => self.common.own.read_again(place, cx)?,
        };
        let material = self.common.material(&own, found, cx)?;
        let ends = material.as_ref().map(Expirations::of);
        let context = material.map(|material| self.build_context(material, cx)).transpose()?;
        Ok(Prepared {
            swap: Box::new(|| {
                self.common.own.keep(own);
                let gauges = ends.map(|ends| ends.tell(&self.scope)).unwrap_or_default();
                let told = |context| ServerContext { _expirations: gauges, ..context };
                self.context.store(context.map(told).map(Arc::new));
            }),
            count: Box::new(|| self.factory_stats.here().ssl_context_update_by_sds.inc()),
        })
    }
}

impl ServerContext {
    /// What clients' certificates are held to.
    pub fn verifier(&self) -> Option<&Verifier> {
        self.judge.verifier.as_deref()
    }
}

/// `session_timeout` in seconds, at least one; none at all is the default, as in BoringSSL.
fn session_timeout(timeout: &prost_types::Duration) -> u32 {
    match (u32::try_from(timeout.seconds).unwrap_or(u32::MAX), timeout.nanos) {
        (0, 0) => LIFETIME,
        (seconds, _) => seconds.max(1),
    }
}

/// What a session is bound to, as in Envoy: the names that the certificates have, whatever their keys, and what is asked of clients.
fn session_context(judge: &Judge, identities: &[Identity]) -> [u8; 32] {
    let mut all = judge.fingerprint().to_vec();
    for Identity { certificate, .. } in identities {
        let names = certificate.sans.iter().map(|san| san.value.as_str());
        for name in [&*certificate.subject, &*certificate.issuer].into_iter().chain(names) {
            all.extend_from_slice(&(name.len() as u64).to_be_bytes());
            all.extend_from_slice(name.as_bytes());
        }
        all.push(0xff);
    }
    sha256(&all)
}

#[cfg(test)]
mod tests;
