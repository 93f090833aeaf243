//! Upstreams that do what they are told, well-behaved or not, and record what they received byte by byte.
//!
//! [`Upstream`] speaks HTTP/1 from raw bytes, [`h2::H2Upstream`] HTTP/2, [`EchoServer`] plain TCP. Each request takes the
//! next [`Reply`] of the script; when the script is empty, the autonomous one is given ([`Reply::ok`], or what
//! [`Upstream::answer`] set).

pub mod h2;

use std::collections::{HashMap, VecDeque};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::{Notify, watch};
use tokio::task::{JoinHandle, JoinSet};

use crate::http1::{Body, Fields, Framing, Head, head_length, take_body};

const LOOPBACK: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0);

/// One thing that a scripted upstream does.
#[derive(Debug, Clone)]
pub enum Step {
    /// Sends bytes.
    Send(Vec<u8>),
    /// Sends bytes in pieces of `size`, with a pause after each.
    Dribble { bytes: Vec<u8>, size: usize, pause: Duration },
    /// Does nothing for a while.
    Pause(Duration),
    /// Reads the request body (a reply reads it first unless it is [`Reply::early`]).
    ReadBody,
    /// Sends FIN and goes on.
    HalfClose,
    /// Closes the connection.
    Close,
    /// Ends the connection with RST.
    Reset,
    /// Waits until it is open.
    Wait(Gate),
    /// Never does anything again, but holds the connection until the peer closes it.
    Stall,
    /// Sends back whatever comes until the peer half-closes, then closes.
    Echo,
}

/// What replies wait at until it is opened.
#[derive(Debug, Clone, Default)]
pub struct Gate(Arc<watch::Sender<Waiting>>);

#[derive(Debug, Default)]
struct Waiting {
    is_open: bool,
    /// How many have come.
    count: usize,
}

impl Gate {
    /// Lets those pass that wait, and those that come.
    pub fn open(&self) {
        self.0.send_modify(|waiting| waiting.is_open = true);
    }

    /// Ready when so many have come.
    pub async fn reached_by(&self, count: usize) {
        // (The other end is here.)
        let _ = self.0.subscribe().wait_for(|waiting| waiting.count >= count).await;
    }

    async fn pass(&self) {
        self.0.send_modify(|waiting| waiting.count += 1);
        let _ = self.0.subscribe().wait_for(|waiting| waiting.is_open).await;
    }
}

/// What to do with one request.
#[derive(Debug, Clone)]
pub struct Reply {
    early: bool,
    steps: Vec<Step>,
}

impl Reply {
    /// Reads the whole request, then takes the steps.
    pub fn steps(steps: impl IntoIterator<Item = Step>) -> Self {
        Self { early: false, steps: steps.into_iter().collect() }
    }

    /// Takes the steps as soon as the head is there, body or not.
    pub fn early(steps: impl IntoIterator<Item = Step>) -> Self {
        Self { early: true, steps: steps.into_iter().collect() }
    }

    /// Reads the whole request, then sends these bytes.
    pub fn raw(bytes: impl AsRef<[u8]>) -> Self {
        Self::steps([Step::Send(bytes.as_ref().to_vec())])
    }

    /// These bytes, then FIN.
    pub fn raw_then_close(bytes: impl AsRef<[u8]>) -> Self {
        Self::steps([Step::Send(bytes.as_ref().to_vec()), Step::Close])
    }

    /// Reads the whole request, then sends these bytes when the gate is open.
    pub fn behind(gate: &Gate, bytes: impl AsRef<[u8]>) -> Self {
        Self::steps([Step::Wait(gate.clone()), Step::Send(bytes.as_ref().to_vec())])
    }

    /// What an autonomous upstream answers: 200 with a small body.
    pub fn ok() -> Self {
        Self::raw("HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ncontent-length: 5\r\n\r\nhello")
    }
}

/// A request as an upstream received it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Received {
    /// The request line, or `METHOD scheme://authority/path` over HTTP/2.
    pub line: String,
    pub fields: Fields,
    pub body: Vec<u8>,
    pub trailers: Fields,
    /// The bytes of the head (empty over HTTP/2).
    pub raw_head: Vec<u8>,
    /// Whether its end was seen.
    pub complete: bool,
    /// On which connection, counted from 0.
    pub connection: usize,
}

#[derive(Debug, Default)]
struct State {
    script: VecDeque<Reply>,
    /// Set in an autonomous upstream, which records nothing.
    autonomous: Option<Reply>,
    /// What requests for these paths are answered with, none of which is recorded.
    by_path: HashMap<String, Reply>,
    received: Vec<Received>,
    malformed: Vec<String>,
    opened: usize,
    open: usize,
    /// Requests of which more may come.
    unfinished: usize,
    /// What the echo server and tunnels saw.
    bytes: Vec<u8>,
}

/// What all connections of one upstream share.
#[derive(Debug, Clone, Default)]
pub(crate) struct Shared {
    state: Arc<Mutex<State>>,
    close_all: Arc<Notify>,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts a request as unfinished until the guard is dropped.
    fn begin(&self) -> UnfinishedGuard {
        self.lock().unfinished += 1;
        UnfinishedGuard(self.clone())
    }

    fn enter(&self) -> (usize, OpenGuard) {
        let mut state = self.lock();
        state.opened += 1;
        state.open += 1;
        (state.opened - 1, OpenGuard(self.clone()))
    }
}

struct OpenGuard(Shared);

impl Drop for OpenGuard {
    fn drop(&mut self) {
        self.0.lock().open -= 1;
    }
}

struct UnfinishedGuard(Shared);

impl Drop for UnfinishedGuard {
    fn drop(&mut self) {
        let mut state = self.0.lock();
        // `forget` may have come in between
        state.unfinished = state.unfinished.saturating_sub(1);
    }
}

/// A scripted HTTP/1 server on a port that the kernel chose.
#[derive(Debug)]
pub struct Upstream {
    addr: SocketAddr,
    shared: Shared,
    accepting: JoinHandle<()>,
}

impl Upstream {
    /// Starts to listen on loopback.
    pub async fn start() -> Result<Self> {
        Self::serve(LOOPBACK, serve_http1).await
    }

    /// One for each of these addresses of this host, all on the same port.
    ///
    /// # Errors
    /// If there is no port that is free at all of them.
    pub async fn start_on_one_port(addresses: &[IpAddr]) -> Result<Vec<Self>> {
        for _ in 0..20 {
            let mut started: Vec<Self> = Vec::new();
            for address in addresses {
                let port = started.first().map_or(0, |first| first.addr().port());
                started.extend(Self::serve(SocketAddr::new(*address, port), serve_http1).await.ok());
            }
            if started.len() == addresses.len() {
                return Ok(started);
            }
        }
        anyhow::bail!("no port is free at {addresses:?}")
    }

    async fn serve<F, Fut>(address: SocketAddr, connection: F) -> Result<Self>
    where
        F: Fn(TcpStream, Shared, usize) -> Fut + Send + 'static,
        Fut: Future<Output = ()> + Send + 'static,
    {
        let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
        socket.set_reuseaddr(true)?;
        socket.bind(address)?;
        // whoever connects is not turned away because this thread has other things to do (the usual length is 128)
        let listener = socket.listen(4096)?;
        let addr = listener.local_addr()?;
        let shared = Shared::default();
        let accepting = tokio::spawn(accept(listener, shared.clone(), connection));
        Ok(Self { addr, shared, accepting })
    }

    /// Where it listens.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Puts a reply at the end of the script.
    pub fn push(&self, reply: Reply) {
        self.shared.lock().script.push_back(reply);
    }

    /// Replaces the script.
    pub fn script(&self, replies: impl IntoIterator<Item = Reply>) {
        self.shared.lock().script = replies.into_iter().collect();
    }

    /// From now on answers every request with this and records none.
    pub fn answer(&self, reply: Reply) {
        self.shared.lock().autonomous = Some(reply);
    }

    /// The same for requests for this path.
    pub fn answer_at(&self, path: &str, reply: Reply) {
        self.shared.lock().by_path.insert(path.to_owned(), reply);
    }

    /// What was received since the last [`Upstream::forget`].
    pub fn received(&self) -> Vec<Received> {
        self.shared.lock().received.clone()
    }

    /// What could not be read as a request.
    pub fn malformed(&self) -> Vec<String> {
        self.shared.lock().malformed.clone()
    }

    /// Whether all of each request was recorded, however it ended.
    pub fn is_settled(&self) -> bool {
        self.shared.lock().unfinished == 0
    }

    /// How many connections were opened since the last [`Upstream::forget`].
    pub fn opened(&self) -> usize {
        self.shared.lock().opened
    }

    /// How many connections are open now.
    pub fn open(&self) -> usize {
        self.shared.lock().open
    }

    /// Bytes that an [`Step::Echo`] or an echo server received.
    pub fn bytes(&self) -> Vec<u8> {
        self.shared.lock().bytes.clone()
    }

    /// Closes every connection, and forgets script and records.
    pub fn forget(&self) {
        self.shared.close_all.notify_waiters();
        let mut state = self.shared.lock();
        *state = State { open: state.open, ..State::default() };
    }
}

impl Drop for Upstream {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

async fn accept<F, Fut>(listener: TcpListener, shared: Shared, connection: F)
where
    F: Fn(TcpStream, Shared, usize) -> Fut,
    Fut: Future<Output = ()> + Send + 'static,
{
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                // an error here is of the connection that is gone already
                let Ok((stream, _)) = accepted else { continue };
                let _ = stream.set_nodelay(true);
                let (index, guard) = shared.enter();
                let close_all = shared.close_all.clone();
                let served = connection(stream, shared.clone(), index);
                connections.spawn(async move {
                    let _guard = guard;
                    tokio::select! {
                        () = served => {}
                        () = close_all.notified() => {}
                    }
                });
            }
            Some(_) = connections.join_next() => {}
        }
    }
}

async fn serve_http1(stream: TcpStream, shared: Shared, index: usize) {
    let mut connection = Connection { stream, buffer: Vec::new(), closed: false };
    if let Err(error) = connection.serve(&shared, index).await {
        shared.lock().malformed.push(format!("{error:#}"));
    }
}

struct Connection {
    stream: TcpStream,
    buffer: Vec<u8>,
    closed: bool,
}

/// Notes a request; its place in the records, and the reply to it.
fn record(shared: &Shared, head: Head, raw_head: Vec<u8>, connection: usize) -> (usize, Reply) {
    let mut state = shared.lock();
    let at_path = head.line.split(' ').nth(1).and_then(|path| state.by_path.get(path));
    if let Some(reply) = at_path.or(state.autonomous.as_ref()) {
        return (usize::MAX, reply.clone());
    }
    state.received.push(Received {
        line: head.line,
        fields: head.fields,
        body: Vec::new(),
        trailers: Vec::new(),
        raw_head,
        complete: false,
        connection,
    });
    let at = state.received.len() - 1;
    (at, state.script.pop_front().unwrap_or_else(Reply::ok))
}

/// Whether the connection goes on after a reply.
enum After {
    KeepAlive,
    End,
}

impl Connection {
    async fn serve(&mut self, shared: &Shared, index: usize) -> Result<()> {
        loop {
            let length = loop {
                if let Some(length) = head_length(&self.buffer) {
                    break length;
                }
                if !self.more().await {
                    anyhow::ensure!(
                        self.buffer.is_empty(),
                        "ended in a head: {:?}",
                        String::from_utf8_lossy(&self.buffer)
                    );
                    return Ok(());
                }
            };
            let raw_head: Vec<u8> = self.buffer.drain(..length).collect();
            let head = Head::parse(&raw_head)?;
            let framing =
                if head.method() == "CONNECT" { Framing::None } else { Framing::of_request(&head)? };
            let mut unfinished = Some(shared.begin());
            let (at, reply) = record(shared, head, raw_head, index);
            let mut unread = Some(framing);
            if !reply.early {
                self.read_body(&mut unread, shared, at).await?;
                unfinished = None;
            }
            match self.play(&reply, &mut unread, shared, at).await? {
                After::KeepAlive => self.read_body(&mut unread, shared, at).await?,
                After::End => return Ok(()),
            }
            drop(unfinished);
        }
    }

    async fn more(&mut self) -> bool {
        match self.stream.read_buf(&mut self.buffer).await {
            Ok(0) | Err(_) => {
                self.closed = true;
                false
            }
            Ok(_) => true,
        }
    }

    async fn read_body(&mut self, unread: &mut Option<Framing>, shared: &Shared, at: usize) -> Result<()> {
        let Some(framing) = unread.take() else { return Ok(()) };
        let body = loop {
            match take_body(&self.buffer, framing, self.closed).context("request body")? {
                Some(body) => break Some(body),
                None if self.more().await => {}
                None => break None,
            }
        };
        let complete = body.is_some();
        // of a body cut short, what came is recorded as it came
        let body = body.unwrap_or_else(|| Body {
            data: self.buffer.clone(),
            trailers: vec![],
            taken: self.buffer.len(),
        });
        self.buffer.drain(..body.taken);
        if let Some(received) = shared.lock().received.get_mut(at) {
            received.body = body.data;
            received.trailers = body.trailers;
            received.complete = complete;
        }
        Ok(())
    }

    async fn play(
        &mut self,
        reply: &Reply,
        unread: &mut Option<Framing>,
        shared: &Shared,
        at: usize,
    ) -> Result<After> {
        for step in &reply.steps {
            match step {
                Step::Send(bytes) => self.write(bytes).await,
                Step::Dribble { bytes, size, pause } => {
                    for piece in bytes.chunks((*size).max(1)) {
                        self.write(piece).await;
                        tokio::time::sleep(*pause).await;
                    }
                }
                Step::Pause(pause) => tokio::time::sleep(*pause).await,
                Step::ReadBody => self.read_body(unread, shared, at).await?,
                Step::HalfClose => {
                    let _ = self.stream.shutdown().await;
                }
                Step::Close => return Ok(After::End),
                Step::Reset => {
                    socket2::SockRef::from(&self.stream).set_linger(Some(Duration::ZERO))?;
                    return Ok(After::End);
                }
                Step::Wait(gate) => gate.pass().await,
                Step::Stall => {
                    while self.more().await {
                        self.buffer.clear();
                    }
                    return Ok(After::End);
                }
                Step::Echo => {
                    self.echo(shared).await;
                    return Ok(After::End);
                }
            }
        }
        Ok(After::KeepAlive)
    }

    /// A peer that has gone is no error: it shows in what the other side observes.
    async fn write(&mut self, bytes: &[u8]) {
        let _ = self.stream.write_all(bytes).await;
    }

    async fn echo(&mut self, shared: &Shared) {
        loop {
            let bytes = std::mem::take(&mut self.buffer);
            shared.lock().bytes.extend_from_slice(&bytes);
            self.write(&bytes).await;
            if !self.more().await {
                return;
            }
        }
    }
}

/// A TCP server that sends back what it receives, and half-closes when its peer does.
#[derive(Debug)]
pub struct EchoServer(Upstream);

impl EchoServer {
    /// Starts to listen on loopback.
    pub async fn start() -> Result<Self> {
        let serve = |stream, shared: Shared, _| async move {
            Connection { stream, buffer: Vec::new(), closed: false }.echo(&shared).await;
        };
        Ok(Self(Upstream::serve(LOOPBACK, serve).await?))
    }

    /// The server underneath: address, counts, bytes.
    pub fn server(&self) -> &Upstream {
        &self.0
    }
}
