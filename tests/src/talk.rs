//! A service of gRPC whose streams last, and that says on them what a test wants: what it is told is kept by stream. Requests that are none
//! of gRPC are answered at once, and counted.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context, Result};
use bytes::{Bytes, BytesMut};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::{JoinHandle, JoinSet};

use crate::collector::take_message;

/// What the service does on a stream.
#[derive(Debug, Clone)]
pub enum Command {
    /// Says a message.
    Say(Vec<u8>),
    /// Sends what need be no message.
    Send(Vec<u8>),
    /// Ends the stream with this `grpc-status`.
    End(u32),
    /// Resets it.
    Reset,
}

/// A stream, as the service knows it.
#[derive(Debug, Clone)]
pub struct Stream {
    /// The method that was called.
    pub path: String,
    /// The fields of its head.
    pub fields: http::HeaderMap,
    /// The messages that were told, in order.
    pub messages: Vec<Vec<u8>>,
    /// Whether the other side has ended or reset it.
    pub is_over: bool,
    commands: mpsc::UnboundedSender<Command>,
}

#[derive(Debug, Default)]
struct Kept {
    streams: Vec<Stream>,
    others: usize,
}

type Streams = Arc<Mutex<Kept>>;

/// The service.
#[derive(Debug)]
pub struct TalkService {
    addr: SocketAddr,
    streams: Streams,
    accepting: JoinHandle<()>,
}

impl TalkService {
    /// Starts to listen on loopback.
    ///
    /// # Errors
    /// If it cannot.
    pub async fn start() -> Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let addr = listener.local_addr()?;
        let streams = Streams::default();
        let kept = streams.clone();
        let accepting = tokio::spawn(async move {
            let mut connections = JoinSet::new();
            loop {
                let Ok((socket, _)) = listener.accept().await else { continue };
                let kept = kept.clone();
                connections.spawn(async move {
                    // what fails here shows at the other end
                    let _ = serve(socket, kept).await;
                });
            }
        });
        Ok(Self { addr, streams, accepting })
    }

    /// Where it listens.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// All streams so far, the first of them first.
    pub fn streams(&self) -> Vec<Stream> {
        self.streams.lock().unwrap_or_else(PoisonError::into_inner).streams.clone()
    }

    /// How many requests there were that are none of gRPC.
    pub fn others(&self) -> usize {
        self.streams.lock().unwrap_or_else(PoisonError::into_inner).others
    }

    /// Does something on the last stream.
    ///
    /// # Errors
    /// If there is none that lasts.
    pub fn command(&self, command: Command) -> Result<()> {
        let streams = self.streams();
        let last = streams.last().context("no stream")?;
        last.commands.send(command).context("the stream is over")
    }
}

impl Drop for TalkService {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

async fn serve(socket: TcpStream, streams: Streams) -> Result<()> {
    let mut connection = h2::server::handshake(socket).await?;
    let mut tasks = JoinSet::new();
    while let Some(accepted) = connection.accept().await {
        let (request, mut respond) = accepted?;
        if !request.headers().contains_key("te") {
            streams.lock().unwrap_or_else(PoisonError::into_inner).others += 1;
            respond.send_response(http::Response::new(()), true)?;
            continue;
        }
        let (commands, orders) = mpsc::unbounded_channel();
        let number = {
            let mut kept = streams.lock().unwrap_or_else(PoisonError::into_inner);
            kept.streams.push(Stream {
                path: request.uri().path().to_owned(),
                fields: request.headers().clone(),
                messages: Vec::new(),
                is_over: false,
                commands,
            });
            kept.streams.len() - 1
        };
        let streams = streams.clone();
        tasks.spawn(async move {
            let _ = talk(request.into_body(), respond, orders, number, &streams).await;
            let mut kept = streams.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(stream) = kept.streams.get_mut(number) {
                stream.is_over = true;
            }
        });
    }
    Ok(())
}

/// Keeps what is told and does what is ordered, until the other side resets it or goes.
async fn talk(
    mut body: h2::RecvStream,
    mut respond: h2::server::SendResponse<Bytes>,
    mut orders: mpsc::UnboundedReceiver<Command>,
    number: usize,
    streams: &Streams,
) -> Result<()> {
    let response = http::Response::builder().header("content-type", "application/grpc").body(())?;
    let mut sending = respond.send_response(response, false)?;
    let mut buffer = BytesMut::new();
    let mut is_told = false;
    loop {
        tokio::select! {
            reset = std::future::poll_fn(|cx| sending.poll_reset(cx)) => {
                reset?;
                return Ok(());
            }
            data = body.data(), if !is_told => {
                let Some(data) = data else {
                    is_told = true;
                    continue;
                };
                let data = data?;
                body.flow_control().release_capacity(data.len())?;
                buffer.extend_from_slice(&data);
                while let Some(bytes) = take_message(&mut buffer) {
                    let mut kept = streams.lock().unwrap_or_else(PoisonError::into_inner);
                    kept.streams.get_mut(number).context("the stream is gone")?.messages.push(bytes);
                }
            }
            Some(order) = orders.recv() => match order {
                Command::Say(message) => sending.send_data(framed(&message)?, false)?,
                Command::Send(bytes) => sending.send_data(bytes.into(), false)?,
                Command::End(status) => {
                    let status = http::HeaderValue::from(status);
                    sending.send_trailers([(http::HeaderName::from_static("grpc-status"), status)].into_iter().collect())?;
                }
                Command::Reset => sending.send_reset(h2::Reason::INTERNAL_ERROR),
            },
        }
    }
}

fn framed(message: &[u8]) -> Result<Bytes> {
    let length = u32::try_from(message.len())?.to_be_bytes();
    Ok(Bytes::from([&[0], &length[..], message].concat()))
}
