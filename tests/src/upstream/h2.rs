//! A scripted HTTP/2 server (prior knowledge) on the `h2` crate. CONNECT, extended or not, gets its own bytes back.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anyhow::{Context, Result};
use bytes::Bytes;
use h2::Reason;
use h2::server::SendResponse;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinHandle, JoinSet};

use super::Received;
use crate::client::fields_of;

/// What to do with one request.
#[derive(Debug, Clone)]
pub struct H2Reply {
    /// Interim responses sent first.
    pub interim: Vec<u16>,
    pub status: u16,
    pub fields: Vec<(&'static str, &'static str)>,
    pub body: Vec<u8>,
    pub trailers: Vec<(&'static str, &'static str)>,
    /// Reset the stream with this reason: before a head if `status` is 0, else after the body.
    pub reset: Option<u32>,
    /// Say GOAWAY at once: the connection ends with the streams that are on it.
    pub goaway: bool,
}

impl H2Reply {
    /// A head with a body.
    pub fn new(status: u16, body: &str) -> Self {
        let body = body.as_bytes().to_vec();
        Self { interim: vec![], status, fields: vec![], body, trailers: vec![], reset: None, goaway: false }
    }

    /// Adds a header.
    #[must_use]
    pub fn field(mut self, name: &'static str, value: &'static str) -> Self {
        self.fields.push((name, value));
        self
    }

    /// Adds a trailer.
    #[must_use]
    pub fn trailer(mut self, name: &'static str, value: &'static str) -> Self {
        self.trailers.push((name, value));
        self
    }

    /// Nothing, until the client takes the request back.
    pub fn stall() -> Self {
        Self::new(0, "")
    }

    /// Only a RST_STREAM with that code.
    pub fn refuse(code: u32) -> Self {
        Self { reset: Some(code), ..Self::new(0, "") }
    }
}

#[derive(Debug, Default)]
struct State {
    script: VecDeque<H2Reply>,
    received: Vec<Received>,
    opened: usize,
    connections: JoinSet<()>,
}

type Shared = Arc<Mutex<State>>;

fn lock(shared: &Shared) -> MutexGuard<'_, State> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The server.
#[derive(Debug)]
pub struct H2Upstream {
    addr: SocketAddr,
    shared: Shared,
    accepting: JoinHandle<()>,
}

impl H2Upstream {
    /// Starts to listen on loopback.
    pub async fn start() -> Result<Self> {
        Self::start_with_streams(100).await
    }

    /// The same, allowing so many streams at once on a connection.
    pub async fn start_with_streams(streams: u32) -> Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let addr = listener.local_addr()?;
        let shared = Shared::default();
        let state = shared.clone();
        let accepting = tokio::spawn(async move {
            loop {
                let Ok((stream, _)) = listener.accept().await else { continue };
                let _ = stream.set_nodelay(true);
                let mut locked = lock(&state);
                let index = locked.opened;
                locked.opened += 1;
                let serving = serve(stream, state.clone(), index, streams);
                locked.connections.spawn(async move {
                    // what fails here shows at the other end
                    let _ = serving.await;
                });
            }
        });
        Ok(Self { addr, shared, accepting })
    }

    /// Where it listens.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Replaces the script.
    pub fn script(&self, replies: impl IntoIterator<Item = H2Reply>) {
        lock(&self.shared).script = replies.into_iter().collect();
    }

    /// What was received since the last [`H2Upstream::forget`].
    pub fn received(&self) -> Vec<Received> {
        lock(&self.shared).received.clone()
    }

    /// How many connections were opened since the last [`H2Upstream::forget`].
    pub fn opened(&self) -> usize {
        lock(&self.shared).opened
    }

    /// Closes every connection, and forgets script and records.
    pub fn forget(&self) {
        // dropping the set aborts the connections' tasks
        *lock(&self.shared) = State::default();
    }
}

impl Drop for H2Upstream {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

async fn serve(stream: TcpStream, shared: Shared, index: usize, limit: u32) -> Result<()> {
    let mut connection = h2::server::Builder::new()
        .enable_connect_protocol()
        .max_concurrent_streams(limit)
        .handshake::<_, Bytes>(stream)
        .await?;
    let mut streams = JoinSet::new();
    while let Some(accepted) = connection.accept().await {
        let (request, respond) = accepted?;
        if lock(&shared).script.front().is_some_and(|reply| reply.goaway) {
            connection.graceful_shutdown();
        }
        let shared = shared.clone();
        streams.spawn(async move {
            let _ = answer(request, respond, shared, index).await;
        });
    }
    Ok(())
}

async fn answer(
    request: http::Request<h2::RecvStream>,
    mut respond: SendResponse<Bytes>,
    shared: Shared,
    index: usize,
) -> Result<()> {
    let (head, mut body) = request.into_parts();
    let mut received = Received {
        line: format!("{} {}", head.method, head.uri),
        fields: fields_of(&head.headers),
        body: Vec::new(),
        trailers: Vec::new(),
        raw_head: Vec::new(),
        complete: true,
        connection: index,
    };
    if head.method == http::Method::CONNECT {
        received.complete = false;
        lock(&shared).received.push(received);
        return echo(body, respond).await;
    }
    while let Some(chunk) = body.data().await {
        let Ok(chunk) = chunk else {
            received.complete = false;
            break;
        };
        body.flow_control().release_capacity(chunk.len())?;
        received.body.extend_from_slice(&chunk);
    }
    if received.complete
        && let Ok(Some(trailers)) = body.trailers().await
    {
        received.trailers = fields_of(&trailers);
    }
    let reply = {
        let mut state = lock(&shared);
        state.received.push(received);
        state
            .script
            .pop_front()
            .unwrap_or_else(|| H2Reply::new(200, "hello").field("content-type", "text/plain"))
    };
    if reply.status == 0 && reply.reset.is_none() {
        poll_fn(|cx| respond.poll_reset(cx)).await?;
        return Ok(());
    }
    play(&reply, &mut respond)
}

/// A tunnel to itself.
async fn echo(mut body: h2::RecvStream, mut respond: SendResponse<Bytes>) -> Result<()> {
    let mut stream = respond.send_response(http::Response::new(()), false)?;
    while let Some(chunk) = body.data().await {
        let chunk = chunk?;
        body.flow_control().release_capacity(chunk.len())?;
        stream.send_data(chunk, false)?;
    }
    Ok(stream.send_data(Bytes::new(), true)?)
}

fn play(reply: &H2Reply, respond: &mut SendResponse<Bytes>) -> Result<()> {
    if let (Some(code), 0) = (reply.reset, reply.status) {
        respond.send_reset(Reason::from(code));
        return Ok(());
    }
    for status in &reply.interim {
        respond.send_informational(http::Response::builder().status(*status).body(())?)?;
    }
    let mut head = http::Response::builder().status(reply.status);
    for (name, value) in &reply.fields {
        head = head.header(*name, *value);
    }
    let ends = reply.body.is_empty() && reply.trailers.is_empty() && reply.reset.is_none();
    let mut stream = respond.send_response(head.body(())?, ends)?;
    if !reply.body.is_empty() {
        stream
            .send_data(Bytes::from(reply.body.clone()), reply.trailers.is_empty() && reply.reset.is_none())?;
    }
    if let Some(code) = reply.reset {
        stream.send_reset(Reason::from(code));
    } else if !reply.trailers.is_empty() {
        let mut trailers = http::HeaderMap::new();
        for (name, value) in &reply.trailers {
            trailers.append(
                http::HeaderName::from_bytes(name.as_bytes()).context("trailer name")?,
                value.parse()?,
            );
        }
        stream.send_trailers(trailers)?;
    }
    Ok(())
}
