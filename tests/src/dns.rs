//! A DNS server that answers what it is told, over UDP and TCP on one port that the kernel chose.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::task::{JoinHandle, JoinSet};

use crate::expect::eventually;

/// Type A.
pub const A: u16 = 1;
/// Type AAAA.
pub const AAAA: u16 = 28;
const CNAME: u16 = 5;

/// SERVFAIL
pub const SERVER_FAILURE: u8 = 2;
/// NXDOMAIN
pub const NO_SUCH_NAME: u8 = 3;
/// REFUSED
pub const REFUSED: u8 = 5;

/// Longest answer over UDP; a longer one is cut and marked as such.
const UDP_LIMIT: usize = 512;

/// What the server says about a name.
#[derive(Debug, Clone)]
pub enum Answer {
    /// These addresses, as far as they are of the family asked for, with this time to live in seconds.
    Addresses(Vec<IpAddr>, u32),
    /// An error code without records.
    Code(u8),
    /// Nothing at all.
    Silence,
    /// Another name instead.
    Alias(String),
    /// First an answer with another id, then one about another name, each with this address; then the true one.
    Forged(IpAddr, Vec<IpAddr>),
}

/// A question as it came.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Question {
    pub name: String,
    pub kind: u16,
    pub tcp: bool,
    pub at: Instant,
}

#[derive(Debug, Default)]
struct State {
    answers: HashMap<String, Answer>,
    asked: Vec<Question>,
}

type Shared = Arc<Mutex<State>>;

fn lock(shared: &Shared) -> MutexGuard<'_, State> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The server. A name it knows nothing of does not exist.
#[derive(Debug)]
pub struct DnsServer {
    addr: SocketAddr,
    shared: Shared,
    tasks: [JoinHandle<()>; 2],
}

impl DnsServer {
    /// Starts to listen on loopback.
    pub async fn start() -> Result<Self> {
        let (udp, tcp) = bind().await?;
        let addr = udp.local_addr()?;
        let shared = Shared::default();
        let tasks =
            [tokio::spawn(serve_udp(udp, shared.clone())), tokio::spawn(serve_tcp(tcp, shared.clone()))];
        Ok(Self { addr, shared, tasks })
    }

    /// Where it listens.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// From now on says this about `name`.
    pub fn set(&self, name: &str, answer: Answer) {
        lock(&self.shared).answers.insert(name.to_owned(), answer);
    }

    /// From now on says that `name` has these addresses.
    pub fn addresses(&self, name: &str, addresses: &[&str]) -> Result<()> {
        let addresses = addresses.iter().map(|text| Ok(text.parse()?)).collect::<Result<_>>()?;
        self.set(name, Answer::Addresses(addresses, 60));
        Ok(())
    }

    /// Says what the differential rig needs: names in `test` that are called like what becomes of them.
    pub fn set_zone(&self) -> Result<()> {
        for (name, addresses) in [
            ("up.test", &["127.0.0.1"][..]),
            ("other.test", &["127.0.0.1"]),
            ("third.test", &["127.0.0.1"]),
            ("two.test", &["127.0.0.1", "127.0.0.9"]),
            ("six.test", &["::1"]),
            ("private.test", &["10.1.2.3"]),
            ("mixed.test", &["10.1.2.3", "127.0.0.1"]),
            ("nothing.test", &[]),
        ] {
            self.addresses(name, addresses)?;
        }
        self.set("fails.test", Answer::Code(SERVER_FAILURE));
        self.set("refuses.test", Answer::Code(REFUSED));
        self.set("silent.test", Answer::Silence);
        Ok(())
    }

    /// The questions about `name` so far.
    pub fn asked(&self, name: &str) -> Vec<Question> {
        lock(&self.shared).asked.iter().filter(|question| question.name == name).cloned().collect()
    }

    /// Waits until `name` was asked for `count` more times than now.
    pub async fn asked_again(&self, name: &str, count: usize, limit: Duration) -> Result<()> {
        let before = self.asked(name).len();
        eventually("questions", limit, async || (self.asked(name).len() >= before + count).then_some(()))
            .await
    }

    /// `typed_dns_resolver_config` with this server only, asked once with a wait of a second.
    pub fn resolver(&self) -> String {
        format!(
            r#"typed_dns_resolver_config:
  name: envoy.network.dns_resolver.cares
  typed_config:
    "@type": type.googleapis.com/envoy.extensions.network.dns_resolver.cares.v3.CaresDnsResolverConfig
    resolvers: [{{socket_address: {{address: 127.0.0.1, port_value: {}}}}}]
    dns_resolver_options: {{no_default_search_domain: true}}
    query_timeout_seconds: 1
    query_tries: 1
"#,
            self.addr.port()
        )
    }
}

impl Drop for DnsServer {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
    }
}

/// The same port for both protocols; the kernel chooses it for the one, and it may be taken for the other.
async fn bind() -> Result<(UdpSocket, TcpListener)> {
    for _ in 0..20 {
        let udp = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        if let Ok(tcp) = TcpListener::bind(udp.local_addr()?).await {
            return Ok((udp, tcp));
        }
    }
    anyhow::bail!("no port is free for both UDP and TCP")
}

async fn serve_udp(socket: UdpSocket, shared: Shared) {
    let mut buffer = [0; 4096];
    while let Ok((length, from)) = socket.recv_from(&mut buffer).await {
        for reply in replies(&buffer[..length], &shared, false) {
            // a client that is gone is no error
            let _ = socket.send_to(&reply, from).await;
        }
    }
}

async fn serve_tcp(listener: TcpListener, shared: Shared) {
    let mut connections = JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        let shared = shared.clone();
        connections.spawn(async move {
            let _ = serve_connection(stream, shared).await;
        });
    }
}

async fn serve_connection(mut stream: TcpStream, shared: Shared) -> Result<()> {
    loop {
        let mut query = vec![0; usize::from(stream.read_u16().await?)];
        stream.read_exact(&mut query).await?;
        for reply in replies(&query, &shared, true) {
            stream.write_u16(u16::try_from(reply.len())?).await?;
            stream.write_all(&reply).await?;
        }
    }
}

/// What is sent back for a query; nothing for what is none.
fn replies(query: &[u8], shared: &Shared, tcp: bool) -> Vec<Vec<u8>> {
    let Ok((name, kind, question)) = parse(query) else { return vec![] };
    let mut state = lock(shared);
    state.asked.push(Question { name: name.clone(), kind, tcp, at: Instant::now() });
    let answer = state.answers.get(&name).cloned().unwrap_or(Answer::Code(NO_SUCH_NAME));
    let id = [query[0], query[1]];
    let reply = |records: &[Vec<u8>]| message(id, question, 0, records, tcp);
    match answer {
        Answer::Addresses(addresses, ttl) => vec![reply(&address_records(&addresses, kind, ttl))],
        Answer::Code(code) => vec![message(id, question, code, &[], tcp)],
        Answer::Silence => vec![],
        Answer::Alias(target) => vec![reply(&[record(CNAME, 60, &encode(&target))])],
        Answer::Forged(forged, addresses) => {
            let records = address_records(&[forged], kind, 60);
            let other_name = [encode("other.test"), kind.to_be_bytes().to_vec(), vec![0, 1]].concat();
            vec![
                message([!id[0], id[1]], question, 0, &records, tcp),
                message(id, &other_name, 0, &records, tcp),
                reply(&address_records(&addresses, kind, 60)),
            ]
        }
    }
}

/// Name, type and the bytes of the question.
fn parse(query: &[u8]) -> Result<(String, u16, &[u8])> {
    let mut labels = Vec::new();
    let mut at = 12;
    loop {
        let length = usize::from(*query.get(at).context("cut short")?);
        at += 1;
        if length == 0 {
            break;
        }
        ensure!(length < 64, "a pointer in a question");
        let label = query.get(at..at + length).context("cut short")?;
        labels.push(String::from_utf8_lossy(label).to_ascii_lowercase());
        at += length;
    }
    let kind = query.get(at..at + 2).context("cut short")?;
    let question = query.get(12..at + 4).context("cut short")?;
    Ok((labels.join("."), u16::from_be_bytes([kind[0], kind[1]]), question))
}

fn message(id: [u8; 2], question: &[u8], code: u8, records: &[Vec<u8>], tcp: bool) -> Vec<u8> {
    let length: usize = records.iter().map(Vec::len).sum();
    let cut = !tcp && 12 + question.len() + length > UDP_LIMIT;
    let records = if cut { &[] } else { records };
    // a response to a query with recursion, which is available
    let mut message = vec![id[0], id[1], if cut { 0x83 } else { 0x81 }, 0x80 | code, 0, 1];
    message.extend(u16::try_from(records.len()).unwrap_or(u16::MAX).to_be_bytes());
    message.extend([0, 0, 0, 0]);
    message.extend_from_slice(question);
    message.extend(records.iter().flatten());
    message
}

fn address_records(addresses: &[IpAddr], kind: u16, ttl: u32) -> Vec<Vec<u8>> {
    let of_kind = addresses.iter().filter_map(|address| match address {
        IpAddr::V4(v4) => (kind == A).then(|| v4.octets().to_vec()),
        IpAddr::V6(v6) => (kind == AAAA).then(|| v6.octets().to_vec()),
    });
    of_kind.map(|data| record(kind, ttl, &data)).collect()
}

/// A record about the name of the question.
fn record(kind: u16, ttl: u32, data: &[u8]) -> Vec<u8> {
    let mut record = vec![0xc0, 12];
    record.extend(kind.to_be_bytes());
    record.extend([0, 1]);
    record.extend(ttl.to_be_bytes());
    record.extend(u16::try_from(data.len()).unwrap_or(u16::MAX).to_be_bytes());
    record.extend_from_slice(data);
    record
}

fn encode(name: &str) -> Vec<u8> {
    let mut encoded = Vec::new();
    for label in name.split('.') {
        encoded.push(u8::try_from(label.len()).unwrap_or(63));
        encoded.extend_from_slice(label.as_bytes());
    }
    encoded.push(0);
    encoded
}
