//! A TLS server in front of plain ones: which of them gets a connection is what its handshake agrees on (ALPN). Handshakes and
//! answers can be held back.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::Result;
use rustls::ServerConfig;
use rustls::crypto::aws_lc_rs::default_provider;
use tokio::io::{AsyncWriteExt, copy, split};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;

use crate::tls::Identity;

/// It.
#[derive(Debug)]
pub struct Unveiled {
    addr: SocketAddr,
    opened: Arc<AtomicUsize>,
    handshakes: watch::Sender<bool>,
    answers: watch::Sender<bool>,
    task: JoinHandle<()>,
}

impl Drop for Unveiled {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Where connections go, and what may pass.
#[derive(Clone)]
struct Ways {
    acceptor: TlsAcceptor,
    http1: SocketAddr,
    http2: SocketAddr,
    handshakes: watch::Receiver<bool>,
    answers: watch::Receiver<bool>,
}

impl Unveiled {
    /// Starts to listen on loopback; nothing is held back.
    pub async fn before(
        identity: &Identity,
        alpn: &[&str],
        http1: SocketAddr,
        http2: SocketAddr,
    ) -> Result<Self> {
        let (chain, key) = identity.parts()?;
        let builder = ServerConfig::builder_with_provider(Arc::new(default_provider()))
            .with_protocol_versions(rustls::ALL_VERSIONS)?;
        let mut config = builder.with_no_client_auth().with_single_cert(chain, key)?;
        config.alpn_protocols = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let addr = listener.local_addr()?;
        let opened = Arc::<AtomicUsize>::default();
        let (handshakes, answers) = (watch::Sender::new(true), watch::Sender::new(true));
        let ways = Ways {
            acceptor: TlsAcceptor::from(Arc::new(config)),
            http1,
            http2,
            handshakes: handshakes.subscribe(),
            answers: answers.subscribe(),
        };
        let count = opened.clone();
        let task = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                count.fetch_add(1, Ordering::Relaxed);
                let ways = ways.clone();
                // what fails here shows at the other end
                tokio::spawn(async move { pass(client, ways).await });
            }
        });
        Ok(Self { addr, opened, handshakes, answers, task })
    }

    /// Where it listens.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Connections so far.
    pub fn opened(&self) -> usize {
        self.opened.load(Ordering::Relaxed)
    }

    /// Whether handshakes go on.
    pub fn pass_handshakes(&self, pass: bool) {
        self.handshakes.send_replace(pass);
    }

    /// Whether answers are passed on.
    pub fn pass_answers(&self, pass: bool) {
        self.answers.send_replace(pass);
    }
}

async fn pass(client: TcpStream, mut ways: Ways) -> Result<()> {
    ways.handshakes.wait_for(|pass| *pass).await?;
    let client = ways.acceptor.accept(client).await?;
    let is_http2 = client.get_ref().1.alpn_protocol() == Some(b"h2");
    let server = TcpStream::connect(if is_http2 { ways.http2 } else { ways.http1 }).await?;
    let ((mut from_client, mut to_client), (mut from_server, mut to_server)) = (split(client), split(server));
    let asking = async {
        copy(&mut from_client, &mut to_server).await?;
        to_server.shutdown().await?;
        anyhow::Ok(())
    };
    let answering = async {
        // (The settings of HTTP/2 are no answer, but nobody waits for them.)
        ways.answers.wait_for(|pass| *pass).await?;
        copy(&mut from_server, &mut to_client).await?;
        to_client.shutdown().await?;
        anyhow::Ok(())
    };
    tokio::try_join!(asking, answering)?;
    Ok(())
}
