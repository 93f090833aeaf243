//! Which HTTP health checks over TLS speak: what they offer (ALPN), and what they send once the host has chosen (`use_alpn_protocol`).

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context, Result, ensure};
use integration::config::bootstrap;
use integration::expect::{SOON, eventually};
use integration::process::{Binary, Proxy};
use integration::tls::{Authority, Wanted};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::Acceptor;
use rustls::{ServerConfig, Stream};

/// A name, fields of the HTTP check, further fields of the check, those of the TLS context, those of the cluster, and what the host can speak.
type Case = (&'static str, &'static str, &'static str, &'static str, &'static str, &'static [&'static str]);

const BOTH: &str = ", common_tls_context: {alpn_protocols: [h2, http/1.1]}";
const AUTO: &str = "typed_extension_protocol_options: {envoy.extensions.upstreams.http.v3.HttpProtocolOptions: {\"@type\": type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions, auto_config: {}}}";

const CASES: &[Case] = &[
    ("agrees on h2", "use_alpn_protocol: true", "", BOTH, "", &["h2"]),
    ("agrees on http/1.1", "use_alpn_protocol: true", "", BOTH, "", &["http/1.1"]),
    (
        "agrees on http/1.1 in place of HTTP/2",
        "use_alpn_protocol: true, codec_client_type: HTTP2",
        "",
        BOTH,
        "",
        &["http/1.1"],
    ),
    ("offers nothing", "use_alpn_protocol: true", "", "", "", &["h2", "http/1.1"]),
    (
        "offers nothing, and else HTTP/2",
        "use_alpn_protocol: true, codec_client_type: HTTP2",
        "",
        "",
        "",
        &["h2", "http/1.1"],
    ),
    ("offers what requests do", "use_alpn_protocol: true", "", "", AUTO, &["h2", "http/1.1"]),
    (
        "offers its own",
        "use_alpn_protocol: true",
        "tls_options: {alpn_protocols: [h2]}",
        "",
        "",
        &["h2", "http/1.1"],
    ),
    (
        "offers its own in place of the context's",
        "use_alpn_protocol: true",
        "tls_options: {alpn_protocols: [h2, http/1.1]}",
        ", common_tls_context: {alpn_protocols: [http/1.1]}",
        "",
        &["h2", "http/1.1"],
    ),
    (
        "agrees on something else",
        "use_alpn_protocol: true",
        "tls_options: {alpn_protocols: [other]}",
        "",
        "",
        &["other"],
    ),
    (
        "agrees on something else, and else HTTP/2",
        "use_alpn_protocol: true, codec_client_type: HTTP2",
        "tls_options: {alpn_protocols: [other]}",
        "",
        "",
        &["other"],
    ),
    (
        "agrees on HTTP/1.0",
        "use_alpn_protocol: true, codec_client_type: HTTP2",
        "tls_options: {alpn_protocols: [http/1.0]}",
        "",
        "",
        &["http/1.0"],
    ),
    ("does not agree", "use_alpn_protocol: true, codec_client_type: HTTP2", "", BOTH, "", &[]),
    ("agrees on h2 in vain", "", "", BOTH, "", &["h2"]),
    ("agrees on http/1.1 in vain", "codec_client_type: HTTP2", "", BOTH, "", &["http/1.1"]),
];

/// A host that speaks TLS, and notes what was offered, chosen and sent on each connection.
struct Host {
    addr: SocketAddr,
    seen: Arc<Mutex<Vec<String>>>,
}

impl Host {
    fn start(config: &Arc<ServerConfig>) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let (addr, seen) = (listener.local_addr()?, Arc::<Mutex<Vec<String>>>::default());
        let (config, notes) = (config.clone(), seen.clone());
        std::thread::spawn(move || {
            for socket in listener.incoming().map_while(Result::ok) {
                let (config, notes) = (config.clone(), notes.clone());
                std::thread::spawn(move || {
                    let seen = serve(&config, socket).unwrap_or_else(|error| format!("{error:#}"));
                    notes.lock().unwrap_or_else(PoisonError::into_inner).push(seen);
                });
            }
        });
        Ok(Self { addr, seen })
    }

    fn first(&self) -> Option<String> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).first().cloned()
    }
}

/// Shakes hands and reads what comes first, then hangs up.
fn serve(config: &Arc<ServerConfig>, mut socket: TcpStream) -> Result<String> {
    let mut acceptor = Acceptor::default();
    let accepted = loop {
        acceptor.read_tls(&mut socket)?;
        if let Some(accepted) = acceptor.accept().map_err(|(error, _)| error)? {
            break accepted;
        }
    };
    let name = |name: &[u8]| String::from_utf8_lossy(name).into_owned();
    let offered: Option<Vec<String>> = accepted.client_hello().alpn().map(|all| all.map(name).collect());
    let mut session = accepted.into_connection(config.clone()).map_err(|(error, _)| error)?;
    session.complete_io(&mut socket)?;
    let chosen = session.alpn_protocol().map(name);
    let mut stream = Stream::new(&mut session, &mut socket);
    let mut first = [0; 3];
    stream.read_exact(&mut first)?;
    let _ = stream.flush();
    let sent = match &first {
        b"PRI" => "HTTP/2",
        b"GET" => "HTTP/1",
        _ => "something else",
    };
    Ok(format!("offered {offered:?}, chose {chosen:?}, was sent {sent}"))
}

fn cluster(number: usize, case: &Case, host: &Host) -> String {
    let (_, http, check, context, fields, _) = case;
    let comma = |fields: &str| if fields.is_empty() { String::new() } else { format!(", {fields}") };
    format!(
        "- name: c{number}\n  connect_timeout: 5s\n  {fields}\n  transport_socket: {{name: tls, typed_config: {{\"@type\": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext{context}}}}}\n  health_checks: [{{timeout: 5s, interval: 60s, no_traffic_interval: 60s, unhealthy_threshold: 1, healthy_threshold: 1, http_health_check: {{path: /{}}}{}}}]\n  load_assignment: {{cluster_name: c, endpoints: [{{lb_endpoints: [{{endpoint: {{address: {{socket_address: {{address: 127.0.0.1, port_value: {}}}}}}}}}]}}]}}\n",
        comma(http),
        comma(check),
        host.addr.port()
    )
}

async fn run(binary: &Binary) -> Result<Vec<String>> {
    let identity = Authority::new("root")?.issue(&Wanted::default())?;
    let chain: Vec<_> =
        CertificateDer::pem_slice_iter(identity.chain.as_bytes()).collect::<Result<_, _>>()?;
    let key = PrivateKeyDer::from_pem_slice(identity.key.as_bytes())?;
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut hosts = Vec::new();
    for (_, _, _, _, _, speaks) in CASES {
        let builder =
            ServerConfig::builder_with_provider(provider.clone()).with_safe_default_protocol_versions()?;
        let mut config = builder.with_no_client_auth().with_single_cert(chain.clone(), key.clone_key())?;
        config.alpn_protocols = speaks.iter().map(|name| name.as_bytes().to_vec()).collect();
        hosts.push(Host::start(&Arc::new(config))?);
    }
    let all = CASES.iter().zip(&hosts).enumerate();
    let clusters: Vec<String> = all.map(|(number, (case, host))| cluster(number, case, host)).collect();
    let proxy = Proxy::start(binary, &bootstrap(&[], &clusters, "")).await?;
    let mut facts = Vec::new();
    for ((name, ..), host) in CASES.iter().zip(&hosts) {
        let seen = eventually(name, SOON, async || host.first()).await?;
        facts.push(format!("{name}: {seen}"));
    }
    proxy.stop().await?;
    Ok(facts)
}

/// Runs it on both.
pub async fn compare(reference: &Binary, subject: &Binary) -> Result<()> {
    let (wanted, found) = tokio::join!(run(reference), run(subject));
    let (wanted, found) = (wanted.context("Envoy")?, found.context("Outrigger")?);
    ensure!(wanted == found, "Envoy: {wanted:#?}\nOutrigger: {found:#?}");
    Ok(())
}
