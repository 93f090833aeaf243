//! TLS towards hosts (`UpstreamTlsContext`).

use std::future::poll_fn;
use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwapOption;
use hashbrown::HashMap;
use proxy_core::config::{BuildCx, Rejected};
use proxy_core::extension::decode;
use proxy_core::stats::groups::{SslFactoryStats, SslStats};
use proxy_core::stats::{Cells, OneOff, Scope, SharedGauge};
use proxy_core::text::Text;
use proxy_core::tls::TlsInfo;
use proxy_core::upstream::Host;
use rustls::client::Resumption;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use xds_api::envoy::extensions::transport_sockets::tls::v3 as proto;
use xds_api::envoy::extensions::transport_sockets::tls::v3::tls_parameters::TlsProtocol;

use super::common::{Common, Expirations, Material};
use super::identity::Identity;
use super::key_log::Ends;
use super::secret::{Need, Secret};
use super::verify::{Acquaintances, Judge, JudgeOfHosts, Verifier};
use super::{Files, Prepared, Supplied, Watched, session};
use crate::net::connection::Connection;
use crate::net::secure::Secure;

/// The message that configures it.
pub const MESSAGE: &str = "envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext";

/// How TLS is spoken with hosts.
pub struct ClientTls {
    common: Common,
    /// What is asked for, unless the connection says otherwise.
    sni: Option<ServerName<'static>>,
    /// What is asked for is the name of the host, where it has one.
    auto_host_sni: bool,
    /// Certificates of hosts must have the name that is asked for.
    names_server: bool,
    /// How many sessions are kept.
    session_keys: u32,
    scope: Scope,
    stats: Cells<SslStats>,
    factory_stats: Cells<SslFactoryStats>,
    /// None while secrets are missing.
    context: ArcSwapOption<ClientContext>,
}

/// What handshakes are done with.
pub struct ClientContext {
    configs: Configs,
    /// Those that write down the secrets of sessions.
    logging: Option<Configs>,
    /// The certificate.
    pub identity: Option<Identity>,
    verifier: Option<Arc<Verifier>>,
    judge: Arc<Judge>,
    /// Those who hold certificates to names besides: sessions are resumed only under the one that they began with.
    of_names: Mutex<HashMap<Arc<[Text]>, Arc<JudgeOfHosts>>>,
    /// None until it is in force.
    _expirations: Vec<OneOff<SharedGauge>>,
}

impl ClientContext {
    /// Holds the host of a session that is resumed to what others are held to.
    fn judge_resumed(
        &self,
        session: &rustls::CommonState,
        name: &ServerName<'_>,
        subject_names: &[Text],
    ) -> io::Result<()> {
        let judged = self.judge.judge_resumed(session, name, subject_names);
        judged.map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
    }

    /// What a connection shakes hands with.
    fn judged(&self, config: &Arc<ClientConfig>, asked: Asked<'_>) -> Arc<ClientConfig> {
        if asked.subject_names.is_empty() && asked.application_protocols.is_empty() {
            return config.clone();
        }
        let mut config = ClientConfig::clone(config);
        if !asked.subject_names.is_empty() {
            config.dangerous().set_certificate_verifier(self.judge_of(asked.subject_names));
        }
        if !asked.application_protocols.is_empty() {
            config.alpn_protocols =
                asked.application_protocols.iter().map(|name| name.as_str().as_bytes().to_vec()).collect();
        }
        Arc::new(config)
    }

    fn judge_of(&self, names: &[Text]) -> Arc<JudgeOfHosts> {
        let mut judges = self.of_names.lock().unwrap_or_else(PoisonError::into_inner);
        if judges.len() >= MAX_NAMES && !judges.contains_key(names) {
            judges.clear();
        }
        if let Some(known) = judges.get(names) {
            return known.clone();
        }
        let names: Arc<[Text]> = names.into();
        let judge = Arc::new(JudgeOfHosts { judge: self.judge.clone(), subject_names: names.clone() });
        judges.insert(names, judge.clone());
        judge
    }
}

impl std::fmt::Debug for ClientTls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ClientTls").field("sni", &self.sni).finish_non_exhaustive()
    }
}

/// What a connection is for, which is what it offers unless the context says what to (`alpn_protocols`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Offer {
    /// Bytes.
    Nothing,
    /// HTTP/1.1
    Http1,
    /// HTTP/2
    Http2,
    /// HTTP/2, or else HTTP/1.1.
    Either,
}

/// What one connection is for.
#[derive(Clone, Copy, Debug)]
pub struct Asked<'a> {
    /// What it offers.
    pub offer: Offer,
    /// What it asks for in place of what the context says.
    pub server_name: Option<&'a Text>,
    /// What it offers in place of what the context says, and of what it is for; nothing if empty.
    pub application_protocols: &'a [Text],
    /// What the certificate must be for one of, besides; nothing in particular if empty.
    pub subject_names: &'a [Text],
}

impl From<Offer> for Asked<'_> {
    fn from(offer: Offer) -> Self {
        Self { offer, server_name: None, application_protocols: &[], subject_names: &[] }
    }
}

struct Configs {
    nothing: Arc<ClientConfig>,
    http1: Arc<ClientConfig>,
    http2: Arc<ClientConfig>,
    either: Arc<ClientConfig>,
}

impl Configs {
    fn new(config: &ClientConfig, own: &[Vec<u8>]) -> Self {
        let with = |fallback: &[&[u8]]| {
            let mut config = config.clone();
            config.alpn_protocols = match own.is_empty() {
                true => fallback.iter().map(|name| name.to_vec()).collect(),
                false => own.to_vec(),
            };
            Arc::new(config)
        };
        Self {
            nothing: with(&[]),
            http1: with(&[b"http/1.1"]),
            http2: with(&[b"h2"]),
            either: with(&[b"h2", b"http/1.1"]),
        }
    }

    fn of(&self, offer: Offer) -> &Arc<ClientConfig> {
        match offer {
            Offer::Nothing => &self.nothing,
            Offer::Http1 => &self.http1,
            Offer::Http2 => &self.http2,
            Offer::Either => &self.either,
        }
    }
}

impl ClientTls {
    /// Builds it for a cluster with this scope of statistics.
    pub fn build(payload: &[u8], scope: &Scope, cx: &mut BuildCx<'_>) -> Result<Self, Rejected> {
        let proto: proto::UpstreamTlsContext = decode(payload, cx)?;
        let renegotiates =
            cx.reject_if(proto.allow_renegotiation, "allow_renegotiation", "renegotiation is not available");
        let sni = server_name(&proto.sni, cx);
        // As in Envoy: TLS 1.3 towards hosts must be asked for.
        let common =
            Common::build(&proto.common_tls_context.clone().unwrap_or_default(), TlsProtocol::TlSv12, cx)?;
        let (own, secrets) = common.certificates();
        if own + secrets > 1 {
            return Err(cx.reject("Multiple TLS certificates are not supported for client contexts"));
        }
        if proto.auto_sni_san_validation && !common.validates() {
            return Err(cx.reject("'auto_sni_san_validation' was configured without a validation context"));
        }
        renegotiates?;
        let tls = Self {
            common,
            sni: sni?,
            auto_host_sni: proto.auto_host_sni,
            names_server: proto.auto_sni_san_validation,
            session_keys: proto.max_session_keys.unwrap_or(1),
            scope: scope.clone(),
            stats: scope.child("ssl").cells(),
            factory_stats: scope.child("client_ssl_socket_factory").cells(),
            context: ArcSwapOption::empty(),
        };
        if tls.needs().is_empty() {
            tls.prepare(&[], Files::Kept, cx)?.install();
        }
        Ok(tls)
    }

    /// What handshakes are done with now; none while secrets are missing.
    pub fn context(&self) -> Option<Arc<ClientContext>> {
        self.context.load_full()
    }

    fn build_context(&self, material: Material, cx: &mut BuildCx<'_>) -> Result<ClientContext, Rejected> {
        let params = &self.common.params;
        let Material { mut identities, verifier, .. } = material;
        if self.names_server && verifier.as_ref().is_none_or(|verifier| !verifier.has_authorities()) {
            return Err(cx.reject("'auto_sni_san_validation' was configured without a validation context"));
        }
        let mut identity = identities.pop();
        identity.iter_mut().for_each(|identity| identity.limit(&params.signatures));
        let judge = Arc::new(Judge {
            verifier: verifier.clone(),
            provider: params.provider.clone(),
            signatures: params.signatures.clone(),
            stats: self.stats.clone(),
            is_required: false,
            names_server: self.names_server,
            known: Acquaintances::default(),
        });
        let builder = ClientConfig::builder_with_provider(params.provider.clone())
            .with_protocol_versions(&params.versions)
            .map_err(|error| cx.reject(error.to_string()))?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(JudgeOfHosts {
                judge: judge.clone(),
                subject_names: Arc::default(),
            }));
        let mut config = match &identity {
            Some(identity) => builder.with_client_cert_resolver(identity.resolver()),
            None => builder.with_no_client_auth(),
        };
        config.resumption = match self.session_keys {
            0 => Resumption::disabled(),
            keys => Resumption::in_memory_sessions((keys as usize).clamp(MIN_SESSIONS, MAX_SESSIONS)),
        };
        let logging = self.common.key_log.as_ref().map(|log| {
            let mut logging = config.clone();
            logging.key_log = log.file.clone();
            Configs::new(&logging, &self.common.alpn)
        });
        let configs = Configs::new(&config, &self.common.alpn);
        let of_names = Mutex::default();
        Ok(ClientContext { configs, logging, identity, verifier, judge, of_names, _expirations: Vec::new() })
    }

    /// Does the handshake with `host`; `connection` carries the session from then on. Has no deadline of its own.
    ///
    /// On failure the text says why.
    pub async fn connect(
        &self,
        connection: &mut Connection,
        host: &Host,
        wanted: Asked<'_>,
    ) -> Result<TlsInfo, String> {
        let context = self.ready()?;
        let name = self.name(host, wanted.server_name)?;
        let asked = match &name {
            ServerName::DnsName(name) => Some(name.as_ref().to_owned()),
            _ => None,
        };
        let local = connection.local_address().ok().and_then(|local| local.ip());
        let config = self.config(&context, wanted.offer, Ends { local, remote: host.address.ip() });
        let session = ClientConnection::new(context.judged(config, wanted), name.clone())
            .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error));
        let shaken = match session {
            Ok(session) => {
                let secure = Secure::new(session, self.stats.clone());
                let shaken = poll_fn(|cx| secure.poll_handshake(connection.link(), cx)).await;
                let shaken = shaken.map_err(|error| {
                    let answered = secure.with(|session| session.protocol_version().is_some());
                    session::refused_at_once(error, answered)
                });
                shaken.and_then(|()| {
                    secure.with(|session| context.judge_resumed(session, &name, wanted.subject_names))?;
                    Ok(secure)
                })
            }
            Err(error) => Err(error),
        };
        let secure = shaken.map_err(|error| self.failed(&error))?;
        let mut info = secure.with(|session| session::describe(session, &context.judge, self.stats.here()));
        info.server_name = asked;
        info.local = context.identity.as_ref().map(|identity| identity.certificate.clone());
        connection.secure(secure);
        Ok(info)
    }

    /// Does the handshake with `host` on a socket of the control plane, which is no [`Connection`] of a worker. Has no deadline of
    /// its own.
    ///
    /// On failure the text says why.
    pub async fn over<S>(&self, socket: S, host: &Host, offer: Offer) -> Result<TlsStream<S>, String>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let context = self.ready()?;
        let ends = Ends { local: None, remote: host.address.ip() };
        let connector = TlsConnector::from(self.config(&context, offer, ends).clone());
        let name = self.name(host, None)?;
        let stream = connector.connect(name.clone(), socket).await.and_then(|stream| {
            context.judge_resumed(stream.get_ref().1, &name, &[])?;
            Ok(stream)
        });
        let stream = stream.map_err(|error| self.failed(&error))?;
        session::describe(stream.get_ref().1, &context.judge, self.stats.here());
        Ok(stream)
    }

    fn config<'c>(&self, context: &'c ClientContext, offer: Offer, ends: Ends) -> &'c Arc<ClientConfig> {
        let is_logged = self.common.key_log.as_ref().is_some_and(|log| log.covers(ends));
        context.logging.as_ref().filter(|_| is_logged).unwrap_or(&context.configs).of(offer)
    }

    /// The context to shake hands with; counts if there is none, for want of secrets.
    fn ready(&self) -> Result<Arc<ClientContext>, String> {
        self.context.load_full().ok_or_else(|| {
            self.factory_stats.here().upstream_context_secrets_not_ready.inc();
            super::NOT_READY.to_owned()
        })
    }

    /// Counts a handshake that failed, and says why.
    fn failed(&self, error: &io::Error) -> String {
        session::count_failure(error, self.stats.here());
        let reason = session::failure(error);
        // A host that hangs up says nothing; the reason is that of the system, if there is one.
        if reason.is_empty() { "connection closed during the TLS handshake".to_owned() } else { reason }
    }

    /// Whom a session is with. Where no name is asked for it is the address, which is not sent.
    ///
    /// # Errors
    /// The name that is wanted is none that can be asked for.
    fn name(&self, host: &Host, wanted: Option<&Text>) -> Result<ServerName<'static>, String> {
        if let Some(wanted) = wanted {
            let name = ServerName::try_from(wanted.to_string());
            return name.map_err(|_| format!("'{wanted}' is no name of a server"));
        }
        let named = || ServerName::try_from(host.hostname.to_string()).ok();
        let of_host = if self.auto_host_sni && !host.hostname.is_empty() { named() } else { None };
        let ip = || host.address.ip().unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST));
        Ok(of_host.or_else(|| self.sni.clone()).unwrap_or_else(|| ServerName::IpAddress(ip().into())))
    }
}

impl Supplied for ClientTls {
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
                let told = |context| ClientContext { _expirations: gauges, ..context };
                self.context.store(context.map(told).map(Arc::new));
            }),
            count: Box::new(|| self.factory_stats.here().ssl_context_update_by_sds.inc()),
        })
    }
}

impl ClientContext {
    /// What hosts' certificates are held to.
    pub fn verifier(&self) -> Option<&Verifier> {
        self.verifier.as_deref()
    }
}

/// Sessions that are kept at least and at most: they are kept by host, of which a cluster has several.
const MIN_SESSIONS: usize = 64;
const MAX_SESSIONS: usize = 4096;
/// Names of requests that are kept, so that sessions are resumed.
const MAX_NAMES: usize = 1024;

fn server_name(sni: &str, cx: &mut BuildCx<'_>) -> Result<Option<ServerName<'static>>, Rejected> {
    if sni.is_empty() {
        return Ok(None);
    }
    match ServerName::try_from(sni.to_owned()) {
        Ok(name) => Ok(Some(name)),
        Err(_) => Err(cx.at("sni", |cx| cx.reject(format!("'{sni}' is no name of a server")))),
    }
}
