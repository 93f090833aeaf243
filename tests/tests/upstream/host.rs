//! A host that speaks HTTP/2 in frames made by hand.

use anyhow::{Context, Result, ensure};
use integration::config::{H2_CLUSTER, cluster, fill, port};
use integration::expect::SOON;
use integration::frames::{END_HEADERS, END_STREAM, Frame, HEADERS, PREFACE, SETTINGS, frame, parse};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;

/// `:status: 200` of the static table (RFC 7541, appendix A).
pub(crate) const OK: &[u8] = &[0x88];

/// A host that sends the frames it is told to.
pub(crate) struct Host(TcpListener);

/// One of its connections.
pub(crate) struct Served {
    stream: TcpStream,
    buffer: Vec<u8>,
    frames: std::collections::VecDeque<Frame>,
}

impl Host {
    /// Listens on a port that the kernel chooses.
    pub(crate) async fn start() -> Result<Self> {
        Ok(Self(TcpListener::bind("127.0.0.1:0").await?))
    }

    /// A cluster `name` of this host, with these fields in `http2_protocol_options`.
    pub(crate) fn cluster(
        &self,
        name: &'static str,
        options: &str,
        extra: &str,
    ) -> Result<(&'static str, String)> {
        let http2 = H2_CLUSTER.replace("{}", &format!("{{{options}}}"));
        let yaml = cluster(name, name, &format!("{http2}{extra}"));
        Ok((name, fill(&yaml, [(name, port(self.0.local_addr()?))])))
    }

    /// The next connection, after its preface.
    pub(crate) async fn accept(&self) -> Result<Served> {
        let (mut stream, _) = timeout(SOON, self.0.accept()).await.context("nobody connects")??;
        let mut preface = [0; PREFACE.len()];
        timeout(SOON, stream.read_exact(&mut preface)).await.context("no preface")??;
        ensure!(preface == PREFACE);
        Ok(Served { stream, buffer: Vec::new(), frames: std::collections::VecDeque::new() })
    }
}

impl Served {
    /// Sends bytes.
    pub(crate) async fn send(&mut self, bytes: &[u8]) -> Result<()> {
        Ok(self.stream.write_all(bytes).await?)
    }

    /// The next frame.
    pub(crate) async fn next(&mut self) -> Result<Frame> {
        loop {
            if let Some(frame) = self.frames.pop_front() {
                return Ok(frame);
            }
            let count = timeout(SOON, self.stream.read_buf(&mut self.buffer)).await.context("no frame")??;
            ensure!(count > 0, "the proxy closed");
            let frames = parse(&self.buffer);
            let taken: usize = frames.iter().map(|frame| 9 + frame.payload.len()).sum();
            self.buffer.drain(..taken);
            self.frames.extend(frames);
        }
    }

    /// Reads up to such a frame.
    pub(crate) async fn until(&mut self, is_it: impl Fn(&Frame) -> bool) -> Result<()> {
        while !is_it(&self.next().await?) {}
        Ok(())
    }

    /// The streams of the next `count` requests.
    pub(crate) async fn requests(&mut self, count: usize) -> Result<Vec<u32>> {
        let mut streams = Vec::new();
        while streams.len() < count {
            let frame = self.next().await?;
            if frame.kind == HEADERS {
                streams.push(frame.stream);
            }
        }
        Ok(streams)
    }

    /// Answers a request with 200 and no body.
    pub(crate) async fn answer(&mut self, stream: u32) -> Result<()> {
        self.send(&frame(HEADERS, END_HEADERS | END_STREAM, stream, OK)).await
    }
}

/// A SETTINGS frame.
pub(crate) fn settings(parameters: &[(u16, u32)]) -> Vec<u8> {
    let payload: Vec<u8> = parameters
        .iter()
        .flat_map(|(id, value)| [id.to_be_bytes().to_vec(), value.to_be_bytes().to_vec()].concat())
        .collect();
    frame(SETTINGS, 0, 0, &payload)
}
