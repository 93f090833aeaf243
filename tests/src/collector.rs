//! A service of gRPC that is told things: every message that arrives is kept, and a call that ends is answered with an empty message.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context, Result};
use bytes::{Bytes, BytesMut};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinHandle, JoinSet};

/// A message that arrived.
#[derive(Debug, Clone)]
pub struct Message {
    /// The method that was called.
    pub path: String,
    /// The fields of the call's head.
    pub fields: http::HeaderMap,
    pub bytes: Vec<u8>,
}

/// The service.
#[derive(Debug)]
pub struct Collector {
    addr: SocketAddr,
    messages: Arc<Mutex<Vec<Message>>>,
    accepting: JoinHandle<()>,
}

impl Collector {
    /// Starts to listen on loopback.
    ///
    /// # Errors
    /// If it cannot.
    pub async fn start() -> Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let addr = listener.local_addr()?;
        let messages = Arc::<Mutex<Vec<Message>>>::default();
        let kept = messages.clone();
        let accepting = tokio::spawn(async move {
            let mut connections = JoinSet::new();
            loop {
                let Ok((stream, _)) = listener.accept().await else { continue };
                let kept = kept.clone();
                connections.spawn(async move {
                    // what fails here shows at the other end
                    let _ = serve(stream, kept).await;
                });
            }
        });
        Ok(Self { addr, messages, accepting })
    }

    /// Where it listens.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// All messages so far.
    pub fn messages(&self) -> Vec<Message> {
        self.messages.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Drop for Collector {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

async fn serve(stream: TcpStream, kept: Arc<Mutex<Vec<Message>>>) -> Result<()> {
    let mut connection = h2::server::handshake(stream).await?;
    let mut calls = JoinSet::new();
    while let Some(accepted) = connection.accept().await {
        let (request, respond) = accepted?;
        let kept = kept.clone();
        calls.spawn(async move {
            let _ = answer(request, respond, kept).await;
        });
    }
    Ok(())
}

async fn answer(
    request: http::Request<h2::RecvStream>,
    mut respond: h2::server::SendResponse<Bytes>,
    kept: Arc<Mutex<Vec<Message>>>,
) -> Result<()> {
    let (head, mut body) = request.into_parts();
    let mut buffer = BytesMut::new();
    while let Some(data) = body.data().await {
        let data = data?;
        body.flow_control().release_capacity(data.len())?;
        buffer.extend_from_slice(&data);
        while let Some(bytes) = take_message(&mut buffer) {
            let message = Message { path: head.uri.path().to_owned(), fields: head.headers.clone(), bytes };
            kept.lock().unwrap_or_else(PoisonError::into_inner).push(message);
        }
    }
    let response = http::Response::builder().header("content-type", "application/grpc").body(())?;
    let mut sending = respond.send_response(response, false)?;
    sending.send_data(Bytes::from_static(&[0; 5]), false)?;
    let trailers = [(http::HeaderName::from_static("grpc-status"), http::HeaderValue::from_static("0"))];
    sending.send_trailers(trailers.into_iter().collect()).context("trailers")
}

pub(crate) fn take_message(buffer: &mut BytesMut) -> Option<Vec<u8>> {
    let length = u32::from_be_bytes(buffer.get(1..5)?.try_into().ok()?) as usize;
    buffer.get(5..5 + length)?;
    Some(buffer.split_to(5 + length)[5..].to_vec())
}
