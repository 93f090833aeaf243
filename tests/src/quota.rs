//! A service that assigns quotas (`envoy.service.rate_limit_quota.v3.RateLimitQuotaService`) as a test says: what it is told is kept by stream.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context, Result};
use bytes::{Bytes, BytesMut};
use prost::Message as _;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::{JoinHandle, JoinSet};
use xds_api::envoy::service::rate_limit_quota::v3::{RateLimitQuotaResponse, RateLimitQuotaUsageReports};

use crate::collector::take_message;

/// What the service does on a stream.
#[derive(Debug, Clone)]
pub enum Command {
    /// Says something.
    Say(RateLimitQuotaResponse),
    /// Says what is no message of the service.
    SayBytes(Vec<u8>),
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
    /// What was told, in order.
    pub reports: Vec<RateLimitQuotaUsageReports>,
    /// Whether the other side has ended or reset it.
    pub is_over: bool,
    commands: mpsc::UnboundedSender<Command>,
}

type Streams = Arc<Mutex<Vec<Stream>>>;

/// The service.
#[derive(Debug)]
pub struct QuotaService {
    addr: SocketAddr,
    streams: Streams,
    accepting: JoinHandle<()>,
}

impl QuotaService {
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
        self.streams.lock().unwrap_or_else(PoisonError::into_inner).clone()
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

impl Drop for QuotaService {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

async fn serve(socket: TcpStream, streams: Streams) -> Result<()> {
    let mut connection = h2::server::handshake(socket).await?;
    let mut tasks = JoinSet::new();
    while let Some(accepted) = connection.accept().await {
        let (request, respond) = accepted?;
        let (commands, orders) = mpsc::unbounded_channel();
        let number = {
            let mut streams = streams.lock().unwrap_or_else(PoisonError::into_inner);
            streams.push(Stream {
                path: request.uri().path().to_owned(),
                fields: request.headers().clone(),
                reports: Vec::new(),
                is_over: false,
                commands,
            });
            streams.len() - 1
        };
        let streams = streams.clone();
        tasks.spawn(async move {
            let _ = talk(request.into_body(), respond, orders, number, &streams).await;
            if let Some(stream) = streams.lock().unwrap_or_else(PoisonError::into_inner).get_mut(number) {
                stream.is_over = true;
            }
        });
    }
    Ok(())
}

/// Keeps what is told and does what is ordered, until the other side ends.
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
    loop {
        tokio::select! {
            data = body.data() => {
                let Some(data) = data else { return Ok(()) };
                let data = data?;
                body.flow_control().release_capacity(data.len())?;
                buffer.extend_from_slice(&data);
                while let Some(bytes) = take_message(&mut buffer) {
                    let report = RateLimitQuotaUsageReports::decode(&bytes[..])?;
                    let mut streams = streams.lock().unwrap_or_else(PoisonError::into_inner);
                    streams.get_mut(number).context("the stream is gone")?.reports.push(report);
                }
            }
            Some(order) = orders.recv() => match order {
                Command::Say(response) => sending.send_data(framed(&response.encode_to_vec())?, false)?,
                Command::SayBytes(bytes) => sending.send_data(framed(&bytes)?, false)?,
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
