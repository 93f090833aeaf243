//! A client of HTTP/2 that sends the frames it is told to, and shows each frame that comes.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use anyhow::{Context, Result, ensure};
use integration::client::{Client, End};
use integration::expect::SOON;
use integration::frames::{
    ACK, DATA, END_HEADERS, END_STREAM, Frame, GOAWAY, HEADERS, PING, RST_STREAM, block, frame, hello, parse,
};

/// The length of a frame's header.
const HEADER: usize = 9;

/// One connection. PINGs are kept back until [`Session::pong`].
pub(crate) struct Session {
    client: Client,
    buffer: Vec<u8>,
    pings: Vec<Vec<u8>>,
    /// The last stream and the code of each GOAWAY.
    pub(crate) goaways: Vec<(u32, u32)>,
    /// The first byte of the header block that each stream got.
    heads: BTreeMap<u32, u8>,
    /// Streams that the server ended.
    ended: BTreeSet<u32>,
    /// Streams that the server reset, with the code.
    pub(crate) resets: Vec<(u32, u32)>,
}

impl Session {
    pub(crate) async fn connect(addr: SocketAddr) -> Result<Self> {
        let mut client = Client::connect(addr).await?;
        client.send(&hello()).await?;
        Ok(Self {
            client,
            buffer: Vec::new(),
            pings: Vec::new(),
            goaways: Vec::new(),
            heads: BTreeMap::new(),
            ended: BTreeSet::new(),
            resets: Vec::new(),
        })
    }

    /// Begins a request; it ends here, or with [`Session::end`].
    pub(crate) async fn begin(&mut self, stream: u32, ends: bool) -> Result<()> {
        let path = format!("/{stream}");
        let method = if ends { "GET" } else { "POST" };
        let head =
            [(":method", method), (":scheme", "http"), (":authority", "test"), (":path", path.as_str())];
        let flags = END_HEADERS | if ends { END_STREAM } else { 0 };
        self.client.send(&frame(HEADERS, flags, stream, &block(&head))).await
    }

    /// Ends a request with a last piece of its body.
    pub(crate) async fn end(&mut self, stream: u32) -> Result<()> {
        self.client.send(&frame(DATA, END_STREAM, stream, b"end")).await
    }

    /// Answers the PINGs so far.
    pub(crate) async fn pong(&mut self) -> Result<()> {
        for payload in std::mem::take(&mut self.pings) {
            self.client.send(&frame(PING, ACK, 0, &payload)).await?;
        }
        Ok(())
    }

    fn take(&mut self, frame: Frame) -> Result<()> {
        match frame.kind {
            GOAWAY => {
                let last = frame.payload.first_chunk::<4>().context("a short GOAWAY")?;
                let last = u32::from_be_bytes(*last);
                self.goaways.push((last, frame.code().context("a short GOAWAY")?));
            }
            RST_STREAM => self.resets.push((frame.stream, frame.code().context("a short RST_STREAM")?)),
            PING if frame.flags & ACK == 0 => self.pings.push(frame.payload),
            HEADERS => {
                self.heads.insert(frame.stream, *frame.payload.first().context("an empty head")?);
            }
            _ => {}
        }
        if matches!(frame.kind, DATA | HEADERS) && frame.flags & END_STREAM != 0 {
            self.ended.insert(frame.stream);
        }
        Ok(())
    }

    /// Reads until `done` holds.
    pub(crate) async fn until(&mut self, what: &str, done: impl Fn(&Self) -> bool) -> Result<()> {
        while !done(self) {
            let seen = || format!("{what}: {:?}, heads {:?}", self.goaways, self.heads);
            let bytes = self.client.at_least(1, SOON).await.with_context(seen)?;
            self.buffer.extend_from_slice(&bytes);
            let frames = parse(&self.buffer);
            let taken: usize = frames.iter().map(|frame| HEADER + frame.payload.len()).sum();
            self.buffer.drain(..taken);
            for frame in frames {
                self.take(frame)?;
            }
        }
        Ok(())
    }

    /// Whether nothing more comes on a stream.
    pub(crate) fn is_settled(&self, stream: u32) -> bool {
        self.ended.contains(&stream) || self.resets.iter().any(|(reset, _)| *reset == stream)
    }

    /// Reads until a stream has its whole answer, which must be a 200.
    pub(crate) async fn answered(&mut self, stream: u32) -> Result<()> {
        self.until(&format!("the end of stream {stream}"), |session| session.ended.contains(&stream)).await?;
        // `:status: 200` of the static table (RFC 7541, appendix A)
        ensure!(self.heads.get(&stream) == Some(&0x88), "stream {stream}: {:?}", self.heads);
        Ok(())
    }

    /// Reads until the server closes, which it must do in good order.
    pub(crate) async fn closed(&mut self) -> Result<()> {
        let end = self.client.end_within(SOON).await;
        ensure!(end == End::Closed, "the connection is {end:?}");
        Ok(())
    }
}
