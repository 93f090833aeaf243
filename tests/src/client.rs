//! Clients that send exactly the bytes they are given.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use bytes::Bytes;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout, timeout_at};

use crate::expect::SOON;
use crate::http1::{Fields, Framing, Head, head_length, take_body};

/// How a connection stood when it was last looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    Open,
    Closed,
    Reset,
}

/// A response as it came over the wire.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Response {
    pub head: Head,
    /// Without chunk framing.
    pub body: Vec<u8>,
    pub trailers: Fields,
    /// False if the connection ended before the framing said so.
    pub complete: bool,
}

/// A raw TCP client with a buffer of what was received and not yet looked at.
#[derive(Debug)]
pub struct Client {
    stream: TcpStream,
    buffer: Vec<u8>,
    end: End,
}

impl Client {
    /// Connects.
    pub async fn connect(addr: SocketAddr) -> Result<Self> {
        let stream = timeout(SOON, TcpStream::connect(addr))
            .await
            .with_context(|| format!("connecting to {addr}"))?
            .with_context(|| format!("connecting to {addr}"))?;
        stream.set_nodelay(true)?;
        Ok(Self { stream, buffer: Vec::new(), end: End::Open })
    }

    /// Connects from an address of this machine, such as 127.0.0.2.
    pub async fn connect_from(local: std::net::IpAddr, addr: SocketAddr) -> Result<Self> {
        let socket = tokio::net::TcpSocket::new_v4()?;
        socket.bind((local, 0).into())?;
        let stream = timeout(SOON, socket.connect(addr)).await.context("connecting")??;
        stream.set_nodelay(true)?;
        Ok(Self { stream, buffer: Vec::new(), end: End::Open })
    }

    /// Its own address.
    pub fn local_addr(&self) -> Result<SocketAddr> {
        Ok(self.stream.local_addr()?)
    }

    /// Sends bytes. A peer that has closed already is not an error: it is seen when reading.
    pub async fn send(&mut self, bytes: &[u8]) -> Result<()> {
        match timeout(SOON, self.stream.write_all(bytes)).await.context("the peer does not read")? {
            Ok(()) => Ok(()),
            Err(error)
                if matches!(
                    error.kind(),
                    std::io::ErrorKind::BrokenPipe | std::io::ErrorKind::ConnectionReset
                ) =>
            {
                Ok(())
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Sends FIN and keeps reading.
    pub async fn half_close(&mut self) -> Result<()> {
        Ok(self.stream.shutdown().await?)
    }

    /// Ends the connection with RST.
    pub fn reset(self) -> Result<()> {
        socket2::SockRef::from(&self.stream).set_linger(Some(Duration::ZERO))?;
        Ok(())
    }

    /// Reads once more into the buffer; false at the end of the connection or at the deadline.
    async fn more(&mut self, deadline: Instant) -> bool {
        if self.end != End::Open {
            return false;
        }
        match timeout_at(deadline, self.stream.read_buf(&mut self.buffer)).await {
            Ok(Ok(0)) => self.end = End::Closed,
            Ok(Ok(_)) => return true,
            Ok(Err(_)) => self.end = End::Reset,
            Err(_) => {}
        }
        false
    }

    /// The next response, interim ones included, to a request with that method. A body cut short by the end of the
    /// connection gives a response that is not `complete`.
    ///
    /// # Errors
    /// If no head arrives, or a body neither ends nor fails within `limit`.
    pub async fn response(&mut self, method: &str, limit: Duration) -> Result<Response> {
        let deadline = Instant::now() + limit;
        let length = loop {
            if let Some(length) = head_length(&self.buffer) {
                break length;
            }
            if !self.more(deadline).await {
                bail!("no response head ({:?}), but {:?}", self.end, String::from_utf8_lossy(&self.buffer));
            }
        };
        let head = Head::parse(&self.buffer[..length])?;
        let framing = Framing::of_response(&head, method)?;
        self.buffer.drain(..length);
        loop {
            let closed = self.end != End::Open;
            if let Some(body) = take_body(&self.buffer, framing, closed)? {
                self.buffer.drain(..body.taken);
                return Ok(Response { head, body: body.data, trailers: body.trailers, complete: true });
            }
            if !self.more(deadline).await {
                match (self.end, framing) {
                    (End::Open, _) => bail!("the body of {head:?} did not end within {limit:?}"),
                    (_, Framing::UntilClose) => {}
                    (_, _) => {
                        let body = std::mem::take(&mut self.buffer);
                        return Ok(Response { head, body, trailers: vec![], complete: false });
                    }
                }
            }
        }
    }

    /// Reads until at least `count` bytes lie in the buffer; takes and returns all of it.
    pub async fn at_least(&mut self, count: usize, limit: Duration) -> Result<Vec<u8>> {
        let deadline = Instant::now() + limit;
        while self.buffer.len() < count {
            if !self.more(deadline).await {
                bail!(
                    "{count} bytes awaited, {:?} after {:?}",
                    self.end,
                    String::from_utf8_lossy(&self.buffer)
                );
            }
        }
        Ok(std::mem::take(&mut self.buffer))
    }

    /// Reads until the connection ends or nothing happened for `quiet`; what came, and how the connection stands.
    pub async fn rest(&mut self, quiet: Duration) -> (Vec<u8>, End) {
        while self.more(Instant::now() + quiet).await {}
        (std::mem::take(&mut self.buffer), self.end)
    }

    /// Looks whether the connection ends within `limit`, keeping what arrives in the buffer.
    pub async fn end_within(&mut self, limit: Duration) -> End {
        let deadline = Instant::now() + limit;
        while self.more(deadline).await {}
        self.end
    }

    /// What lies in the buffer.
    pub fn buffered(&self) -> &[u8] {
        &self.buffer
    }
}

/// A response received over HTTP/2, or the way its stream failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct H2Response {
    pub status: u16,
    pub fields: Fields,
    pub body: Vec<u8>,
    pub trailers: Fields,
    /// The error that cut the body or trailers short.
    pub cut: Option<String>,
}

/// A well-behaved HTTP/2 client with prior knowledge; for hand-made frames see [`crate::frames`].
#[derive(Debug)]
pub struct H2Client {
    send: h2::client::SendRequest<Bytes>,
    connection: JoinHandle<()>,
}

impl H2Client {
    /// Connects and exchanges prefaces.
    pub async fn connect(addr: SocketAddr) -> Result<Self> {
        let stream = timeout(SOON, TcpStream::connect(addr)).await??;
        stream.set_nodelay(true)?;
        let (send, connection) = h2::client::handshake(stream).await?;
        let connection = tokio::spawn(async move {
            // the error, if any, reaches the streams
            let _ = connection.await;
        });
        Ok(Self { send, connection })
    }

    /// Sends a request whole and reads the response whole.
    ///
    /// # Errors
    /// If the stream or the connection fails before a response head.
    pub async fn request(
        &self,
        request: http::Request<Bytes>,
        trailers: Option<http::HeaderMap>,
    ) -> Result<H2Response> {
        self.request_within(request, trailers, SOON).await
    }

    /// [`H2Client::request`] with patience of another length.
    ///
    /// # Errors
    /// As there.
    pub async fn request_within(
        &self,
        request: http::Request<Bytes>,
        trailers: Option<http::HeaderMap>,
        limit: Duration,
    ) -> Result<H2Response> {
        timeout(limit, self.exchange(request, trailers)).await.context("no response over HTTP/2")?
    }

    async fn exchange(
        &self,
        request: http::Request<Bytes>,
        trailers: Option<http::HeaderMap>,
    ) -> Result<H2Response> {
        let mut send = self.send.clone().ready().await?;
        let (head, body) = request.into_parts();
        // a tunnel has no end before its client has what it waits for: as much as it sent
        let tunnel = (head.method == http::Method::CONNECT).then_some(body.len());
        let end = body.is_empty() && trailers.is_none() && tunnel.is_none();
        let (response, mut stream) = send.send_request(http::Request::from_parts(head, ()), end)?;
        if !body.is_empty() {
            stream.send_data(body, trailers.is_none() && tunnel.is_none())?;
        }
        if let Some(trailers) = trailers {
            stream.send_trailers(trailers)?;
        }
        let (head, mut body) = response.await?.into_parts();
        let mut answer = H2Response {
            status: head.status.as_u16(),
            fields: fields_of(&head.headers),
            body: Vec::new(),
            trailers: Fields::new(),
            cut: None,
        };
        let tunnel = tunnel.filter(|_| head.status.is_success());
        loop {
            if tunnel.is_some_and(|length| answer.body.len() >= length) {
                return Ok(answer);
            }
            let Some(chunk) = body.data().await else { break };
            match chunk {
                Ok(chunk) => {
                    body.flow_control().release_capacity(chunk.len())?;
                    answer.body.extend_from_slice(&chunk);
                }
                Err(error) => {
                    answer.cut = Some(error.to_string());
                    return Ok(answer);
                }
            }
        }
        match body.trailers().await {
            Ok(trailers) => answer.trailers = trailers.as_ref().map(fields_of).unwrap_or_default(),
            Err(error) => answer.cut = Some(error.to_string()),
        }
        Ok(answer)
    }
}

impl Drop for H2Client {
    fn drop(&mut self) {
        self.connection.abort();
    }
}

/// A header map as fields; bytes that are not UTF-8 are shown as U+FFFD.
pub fn fields_of(map: &http::HeaderMap) -> Fields {
    map.iter()
        .map(|(name, value)| {
            (name.as_str().to_owned(), String::from_utf8_lossy(value.as_bytes()).into_owned())
        })
        .collect()
}
