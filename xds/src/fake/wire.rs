//! The server's sockets: HTTP/2 by hyper, gRPC frames by hand, so that they can be wrong on purpose.

use std::convert::Infallible;
use std::io;
use std::sync::Arc;

use bytes::{Buf, Bytes, BytesMut};
use futures_util::StreamExt;
use http::{HeaderMap, HeaderValue, StatusCode};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody, combinators::UnsyncBoxBody};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use prost::Message;
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_stream::wrappers::UnboundedReceiverStream;
use xds_api::envoy::service::discovery::v3::{DeltaDiscoveryRequest, DiscoveryRequest};

use super::script::{Fault, Out, apply};
use super::session::Session;
use super::{Recorded, Shared};
use crate::client::grpc::Io;
use crate::client::service::Service;
use crate::protocol::{Request, Variant};

type Body = UnsyncBoxBody<Bytes, io::Error>;

const UNAVAILABLE: i32 = 14;
const UNIMPLEMENTED: i32 = 12;
/// The longest request; a client that sends more is told to stop.
const MAX_REQUEST: usize = 256 * 1024 * 1024;

/// Accepts until it is dropped, and its connections with it.
pub(super) async fn accept(listener: Listening, shared: Arc<Shared>) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok(stream) if !shared.state().refuse => {
                    connections.spawn(serve(stream, shared.clone()));
                }
                Ok(_) => {}
                Err(error) => {
                    tracing::warn!(%error, "the fake management server cannot accept");
                    return;
                }
            },
            Some(_) = connections.join_next() => {}
        }
    }
}

/// Where the server listens.
pub(super) enum Listening {
    Tcp(TcpListener),
    Unix(UnixListener),
}

impl Listening {
    /// Cancel-safe.
    async fn accept(&self) -> io::Result<Box<dyn Io>> {
        match self {
            Self::Tcp(listener) => {
                let (stream, _) = listener.accept().await?;
                stream.set_nodelay(true)?;
                Ok(Box::new(stream))
            }
            Self::Unix(listener) => Ok(Box::new(listener.accept().await?.0)),
        }
    }
}

async fn serve(stream: Box<dyn Io>, shared: Arc<Shared>) {
    let mut hanging_up = shared.hanging_up.subscribe();
    let service = service_fn(move |request| {
        let shared = shared.clone();
        async move { Ok::<_, Infallible>(answer(request, &shared).await) }
    });
    let connection = hyper::server::conn::http2::Builder::new(TokioExecutor::new())
        .adaptive_window(true)
        .serve_connection(TokioIo::new(stream), service);
    tokio::select! {
        ended = connection => if let Err(error) = ended {
            tracing::debug!(%error, "a connection to the fake management server ended");
        },
        _ = hanging_up.changed() => {}
    }
}

/// Starts a stream. As with many servers, the headers come with the first message.
async fn answer(request: http::Request<Incoming>, shared: &Arc<Shared>) -> http::Response<Body> {
    let Some((service, variant)) = Service::of_path(request.uri().path()) else {
        return refused(UNIMPLEMENTED, "no such method");
    };
    let number = match open(shared) {
        Ok(number) => number,
        Err((code, message)) => return refused(code, &message),
    };
    let (out, outgoing) = mpsc::unbounded_channel();
    let stream = Stream { shared: shared.clone(), number, service, variant, out };
    tokio::spawn(stream.run(request.into_body()));
    let mut outgoing = UnboundedReceiverStream::new(outgoing);
    let first = outgoing.next().await;
    let frames = futures_util::stream::iter(first).chain(outgoing).map(|out| match out {
        Out::Bytes(bytes) => Ok(Frame::data(bytes)),
        Out::Status(code, message) => Ok(Frame::trailers(status(code, &message))),
        Out::Reset => Err(io::ErrorKind::ConnectionReset.into()),
    });
    respond(HeaderMap::new(), StreamBody::new(frames).boxed_unsync())
}

/// Counts a stream and gives its number, or the status with which to refuse it.
fn open(shared: &Shared) -> Result<usize, (i32, String)> {
    let mut state = shared.state();
    state.streams += 1;
    let number = state.streams;
    let refusal = state.script.pop_front_if(|fault| matches!(fault, Fault::Refuse(..)));
    drop(state);
    shared.heard.send_modify(|count| *count += 1);
    match refusal {
        Some(Fault::Refuse(code, message)) => Err((code, message)),
        _ => Ok(number),
    }
}

fn respond(mut headers: HeaderMap, body: Body) -> http::Response<Body> {
    headers.insert(http::header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    let mut response = http::Response::new(body);
    *response.status_mut() = StatusCode::OK;
    *response.headers_mut() = headers;
    response
}

fn refused(code: i32, message: &str) -> http::Response<Body> {
    let empty = http_body_util::Empty::new().map_err(|never: Infallible| match never {}).boxed_unsync();
    respond(status(code, message), empty)
}

fn status(code: i32, message: &str) -> HeaderMap {
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", HeaderValue::from(code));
    if let Ok(message) = HeaderValue::try_from(message) {
        trailers.insert("grpc-message", message);
    }
    trailers
}

/// One stream's task.
struct Stream {
    shared: Arc<Shared>,
    number: usize,
    service: Service,
    variant: Variant,
    out: mpsc::UnboundedSender<Out>,
}

impl Stream {
    async fn run(self, mut body: Incoming) {
        let mut session = Session::new(self.variant);
        let mut changed = self.shared.changed.subscribe();
        let mut closing = self.shared.closing.subscribe();
        let mut buffer = BytesMut::new();
        loop {
            tokio::select! {
                frame = body.frame() => {
                    let Some(Ok(frame)) = frame else { return };
                    if let Ok(data) = frame.into_data() {
                        buffer.extend_from_slice(&data);
                    }
                    loop {
                        match self.decode(&mut buffer) {
                            Ok(Some(request)) => self.heard(&mut session, request),
                            Ok(None) => break,
                            Err(reason) => return self.end(13, &reason),
                        }
                    }
                }
                moved = changed.changed() => if moved.is_err() { return },
                _ = closing.changed() => return self.end(UNAVAILABLE, "closing"),
            }
            if self.push(&mut session).is_none() {
                return;
            }
        }
    }

    fn decode(&self, buffer: &mut BytesMut) -> Result<Option<Request>, String> {
        let Some((head, rest)) = buffer.split_first_chunk::<5>() else { return Ok(None) };
        let [compressed, length @ ..] = *head;
        let length = usize::try_from(u32::from_be_bytes(length)).map_err(|error| error.to_string())?;
        if compressed != 0 || length > MAX_REQUEST {
            return Err("compressed or too long".to_owned());
        }
        if rest.len() < length {
            return Ok(None);
        }
        buffer.advance(5);
        let message = buffer.split_to(length);
        let request = match self.variant {
            Variant::StateOfTheWorld => {
                DiscoveryRequest::decode(message).map(|request| Request::StateOfTheWorld(Box::new(request)))
            }
            Variant::Delta => {
                DeltaDiscoveryRequest::decode(message).map(|request| Request::Delta(Box::new(request)))
            }
        };
        request.map(Some).map_err(|error| error.to_string())
    }

    fn heard(&self, session: &mut Session, request: Request) {
        let mut state = self.shared.state();
        session.request(&state, &request);
        state.recorded.push(Recorded { stream: self.number, service: self.service.clone(), request });
        drop(state);
        self.shared.heard.send_modify(|count| *count += 1);
    }

    /// Sends what is due; `None` if the stream has ended.
    fn push(&self, session: &mut Session) -> Option<()> {
        let mut state = self.shared.state();
        let responses = session.due(&mut state);
        for response in responses {
            let fault = state.script.pop_front_if(|fault| !matches!(fault, Fault::Refuse(..)));
            let mut outs = apply(fault.unwrap_or(Fault::None), response);
            if state.close_after_response {
                outs.push(Out::Status(UNAVAILABLE, "closing after a response".to_owned()));
            }
            for out in outs {
                let last = !matches!(out, Out::Bytes(_));
                self.out.send(out).ok()?;
                if last {
                    return None;
                }
            }
        }
        Some(())
    }

    fn end(&self, code: i32, message: &str) {
        // A client that is gone does not need to be told.
        let _gone = self.out.send(Out::Status(code, message.to_owned()));
    }
}
