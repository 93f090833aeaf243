//! A health discovery service: proxies call it, are told which hosts to check, and tell what they found.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anyhow::{Context, Result};
use bytes::{Bytes, BytesMut};
use prost::Message as _;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::{JoinHandle, JoinSet};
use xds_api::envoy::service::health::v3::health_check_request_or_endpoint_health_response::RequestType;
use xds_api::envoy::service::health::v3::{
    EndpointHealthResponse, HealthCheckRequest, HealthCheckRequestOrEndpointHealthResponse,
    HealthCheckSpecifier,
};

/// One call of a proxy.
#[derive(Debug)]
struct Call {
    path: String,
    authority: String,
    fields: http::HeaderMap,
    said: Vec<Option<RequestType>>,
    tell: mpsc::UnboundedSender<Tell>,
}

/// What is sent back.
#[derive(Debug)]
enum Tell {
    Message(Bytes),
    /// This `grpc-status`, and the end.
    End(&'static str),
}

#[derive(Debug, Default)]
struct State {
    calls: Vec<Call>,
    connections: JoinSet<()>,
}

type Shared = Arc<Mutex<State>>;

fn lock(shared: &Shared) -> MutexGuard<'_, State> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The service.
#[derive(Debug)]
pub struct HealthService {
    addr: SocketAddr,
    shared: Shared,
    accepting: JoinHandle<()>,
}

impl HealthService {
    /// Starts to listen on loopback.
    ///
    /// # Errors
    /// If it cannot.
    pub async fn start() -> Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let addr = listener.local_addr()?;
        let shared = Shared::default();
        let kept = shared.clone();
        let accepting = tokio::spawn(async move {
            loop {
                let Ok((stream, _)) = listener.accept().await else { continue };
                let serving = serve(stream, kept.clone());
                lock(&kept).connections.spawn(async move {
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

    /// How many calls there were.
    pub fn calls(&self) -> usize {
        lock(&self.shared).calls.len()
    }

    /// Path, authority and content type of a call.
    pub fn head(&self, call: usize) -> Option<String> {
        let state = lock(&self.shared);
        let Call { path, authority, fields, .. } = state.calls.get(call)?;
        Some(format!("{path} {authority} {:?} {:?}", fields.get("content-type"), fields.get("te")))
    }

    /// A header of a call.
    pub fn field(&self, call: usize, name: &str) -> Option<String> {
        let state = lock(&self.shared);
        Some(String::from_utf8_lossy(state.calls.get(call)?.fields.get(name)?.as_bytes()).into_owned())
    }

    /// How a call introduced itself, if it did: that is its first message.
    pub fn introduction(&self, call: usize) -> Option<HealthCheckRequest> {
        match lock(&self.shared).calls.get(call)?.said.first()? {
            Some(RequestType::HealthCheckRequest(request)) => Some(request.clone()),
            Some(RequestType::EndpointHealthResponse(_)) | None => None,
        }
    }

    /// What a call reported so far; `None` where it said nothing.
    pub fn reports(&self, call: usize) -> Vec<Option<EndpointHealthResponse>> {
        let state = lock(&self.shared);
        let said = state.calls.get(call).into_iter().flat_map(|call| &call.said);
        let reports = said.filter_map(|said| match said {
            Some(RequestType::EndpointHealthResponse(report)) => Some(Some(report.clone())),
            Some(RequestType::HealthCheckRequest(_)) => None,
            None => Some(None),
        });
        reports.collect()
    }

    /// Tells the last call what to check.
    pub fn tell(&self, specifier: &HealthCheckSpecifier) {
        self.tell_bytes(&specifier.encode_to_vec());
    }

    /// The same, of bytes that may be no specifier.
    pub fn tell_bytes(&self, message: &[u8]) {
        let length = u32::try_from(message.len()).unwrap_or(u32::MAX);
        let framed = [&[0], &length.to_be_bytes()[..], message].concat();
        self.send(Tell::Message(framed.into()));
    }

    /// Ends the last call with this `grpc-status`.
    pub fn end(&self, status: &'static str) {
        self.send(Tell::End(status));
    }

    fn send(&self, tell: Tell) {
        if let Some(call) = lock(&self.shared).calls.last() {
            // a call that is over hears nothing
            let _ = call.tell.send(tell);
        }
    }

    /// Closes all connections.
    pub fn hang_up(&self) {
        // dropping the set aborts the tasks
        lock(&self.shared).connections = JoinSet::new();
    }
}

impl Drop for HealthService {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

async fn serve(stream: TcpStream, shared: Shared) -> Result<()> {
    let mut connection = h2::server::handshake(stream).await?;
    let mut calls = JoinSet::new();
    while let Some(accepted) = connection.accept().await {
        let (request, respond) = accepted?;
        let (head, body) = request.into_parts();
        let (tell, told) = mpsc::unbounded_channel();
        let number = {
            let mut state = lock(&shared);
            state.calls.push(Call {
                path: head.uri.path().to_owned(),
                authority: head.uri.authority().map(ToString::to_string).unwrap_or_default(),
                fields: head.headers,
                said: Vec::new(),
                tell,
            });
            state.calls.len() - 1
        };
        let shared = shared.clone();
        calls.spawn(async move {
            let _ = tokio::join!(hear(body, number, shared), answer(respond, told));
        });
    }
    Ok(())
}

/// Keeps what a call says.
async fn hear(mut body: h2::RecvStream, number: usize, shared: Shared) -> Result<()> {
    let mut buffer = BytesMut::new();
    while let Some(data) = body.data().await {
        let data = data?;
        body.flow_control().release_capacity(data.len())?;
        buffer.extend_from_slice(&data);
        while let Some(bytes) = take_message(&mut buffer) {
            let message = HealthCheckRequestOrEndpointHealthResponse::decode(&*bytes)?;
            if let Some(call) = lock(&shared).calls.get_mut(number) {
                call.said.push(message.request_type);
            }
        }
    }
    Ok(())
}

/// Says what a call is to be told. As with many servers, the head comes with the first of it.
async fn answer(
    mut respond: h2::server::SendResponse<Bytes>,
    mut told: mpsc::UnboundedReceiver<Tell>,
) -> Result<()> {
    let mut sending = None;
    while let Some(tell) = told.recv().await {
        let sending = match &mut sending {
            Some(sending) => sending,
            None => {
                let response =
                    http::Response::builder().header("content-type", "application/grpc").body(())?;
                sending.insert(respond.send_response(response, false)?)
            }
        };
        match tell {
            Tell::Message(bytes) => sending.send_data(bytes, false)?,
            Tell::End(status) => {
                let status = http::HeaderValue::from_static(status);
                let trailers = [(http::HeaderName::from_static("grpc-status"), status)];
                return sending.send_trailers(trailers.into_iter().collect()).context("trailers");
            }
        }
    }
    Ok(())
}

fn take_message(buffer: &mut BytesMut) -> Option<Vec<u8>> {
    let length = u32::from_be_bytes(buffer.get(1..5)?.try_into().ok()?) as usize;
    buffer.get(5..5 + length)?;
    Some(buffer.split_to(5 + length)[5..].to_vec())
}
