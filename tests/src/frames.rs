//! HTTP/2 frames made by hand, and read back as they are: for what a well-behaved library refuses to send.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::Result;

use crate::client::{Client, End};

/// What a client sends first (RFC 9113, section 3.4).
pub const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

pub const DATA: u8 = 0;
pub const HEADERS: u8 = 1;
pub const PRIORITY: u8 = 2;
pub const RST_STREAM: u8 = 3;
pub const SETTINGS: u8 = 4;
pub const PUSH_PROMISE: u8 = 5;
pub const PING: u8 = 6;
pub const GOAWAY: u8 = 7;
pub const WINDOW_UPDATE: u8 = 8;
pub const CONTINUATION: u8 = 9;

pub const END_STREAM: u8 = 1;
pub const ACK: u8 = 1;
pub const END_HEADERS: u8 = 4;
pub const PADDED: u8 = 8;

/// The bytes of a frame; the length is that of the payload.
pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    frame_claiming(payload.len(), kind, flags, stream, payload)
}

/// The bytes of a frame that claims another length than it has.
pub fn frame_claiming(length: usize, kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(9 + payload.len());
    let length = u32::try_from(length).unwrap_or(u32::MAX).to_be_bytes();
    out.extend_from_slice(&length[1..]);
    out.push(kind);
    out.push(flags);
    out.extend_from_slice(&stream.to_be_bytes());
    out.extend_from_slice(payload);
    out
}

/// A header block of literals without indexing and without Huffman coding (RFC 7541, section 6.2.2).
pub fn block(fields: &[(&str, &str)]) -> Vec<u8> {
    let mut out = Vec::new();
    for (name, value) in fields {
        out.push(0);
        string(&mut out, name.as_bytes());
        string(&mut out, value.as_bytes());
    }
    out
}

fn string(out: &mut Vec<u8>, bytes: &[u8]) {
    integer(out, 7, 0, bytes.len());
    out.extend_from_slice(bytes);
}

/// An HPACK integer with an N-bit prefix under the pattern `first` (RFC 7541, section 5.1).
pub fn integer(out: &mut Vec<u8>, bits: u32, first: u8, value: usize) {
    let limit = (1usize << bits) - 1;
    let low = |value: usize| value.to_le_bytes()[0];
    if value < limit {
        out.push(first | low(value));
        return;
    }
    out.push(first | low(limit));
    let mut rest = value - limit;
    while rest >= 128 {
        out.push(low(rest % 128) | 128);
        rest /= 128;
    }
    out.push(low(rest));
}

/// The header block of a plain GET.
pub fn get_block(path: &str) -> Vec<u8> {
    block(&[(":method", "GET"), (":scheme", "http"), (":authority", "test"), (":path", path)])
}

/// Preface, empty SETTINGS and a SETTINGS acknowledgement.
pub fn hello() -> Vec<u8> {
    [PREFACE.to_vec(), frame(SETTINGS, 0, 0, &[]), frame(SETTINGS, ACK, 0, &[])].concat()
}

/// One frame as received.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    pub kind: u8,
    pub flags: u8,
    pub stream: u32,
    pub payload: Vec<u8>,
}

impl Frame {
    /// The error code of a RST_STREAM or GOAWAY.
    pub fn code(&self) -> Option<u32> {
        let at = match self.kind {
            RST_STREAM => 0,
            GOAWAY => 4,
            _ => return None,
        };
        let bytes: [u8; 4] = self.payload.get(at..at + 4)?.try_into().ok()?;
        Some(u32::from_be_bytes(bytes))
    }
}

/// The frames at the start of `bytes`; an incomplete one at the end is left out.
pub fn parse(mut bytes: &[u8]) -> Vec<Frame> {
    let mut frames = Vec::new();
    while let [a, b, c, kind, flags, s0, s1, s2, s3, rest @ ..] = bytes {
        let length = usize::from(*a) << 16 | usize::from(*b) << 8 | usize::from(*c);
        let Some(payload) = rest.get(..length) else { break };
        let stream = u32::from_be_bytes([s0 & 0x7f, *s1, *s2, *s3]);
        frames.push(Frame { kind: *kind, flags: *flags, stream, payload: payload.to_vec() });
        bytes = &rest[length..];
    }
    frames
}

/// What came back after bytes were sent.
#[derive(Debug, Clone)]
pub struct Exchange {
    pub frames: Vec<Frame>,
    /// Received bytes, for peers that answered something else than HTTP/2.
    pub bytes: Vec<u8>,
    pub end: End,
}

impl Exchange {
    /// Connects, sends `bytes`, and reads until the connection ends or `quiet` passes without a byte.
    pub async fn run(addr: SocketAddr, bytes: &[u8], quiet: Duration) -> Result<Self> {
        Self::run_until(addr, bytes, quiet, async |_| true).await
    }

    /// The same, but silence ends it only if `over` says so of the frames that came.
    pub async fn run_until(
        addr: SocketAddr,
        bytes: &[u8],
        quiet: Duration,
        mut over: impl AsyncFnMut(&[Frame]) -> bool,
    ) -> Result<Self> {
        let mut client = Client::connect(addr).await?;
        client.send(bytes).await?;
        let mut all = Vec::new();
        loop {
            let (bytes, end) = client.rest(quiet).await;
            all.extend(bytes);
            let frames = parse(&all);
            if end != End::Open || over(&frames).await {
                return Ok(Self { frames, bytes: all, end });
            }
        }
    }

    /// The code of the first GOAWAY.
    pub fn goaway(&self) -> Option<u32> {
        self.frames.iter().find(|frame| frame.kind == GOAWAY).and_then(Frame::code)
    }

    /// The codes of all RST_STREAM frames.
    pub fn resets(&self) -> Vec<u32> {
        self.frames.iter().filter(|frame| frame.kind == RST_STREAM).filter_map(Frame::code).collect()
    }

    /// How many streams got a HEADERS frame.
    pub fn heads(&self) -> usize {
        self.frames.iter().filter(|frame| frame.kind == HEADERS).count()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn integers_are_those_of_the_rfc() {
        let encode = |bits, value| {
            let mut out = vec![];
            integer(&mut out, bits, 0, value);
            out
        };
        assert_eq!(encode(5, 10), [10]);
        assert_eq!(encode(5, 1337), [31, 154, 10]);
        assert_eq!(encode(8, 42), [42]);
    }

    #[test]
    fn a_frame_is_read_back_as_written() {
        let bytes = [frame(PING, ACK, 0, &[7; 8]), frame(RST_STREAM, 0, 3, &[0, 0, 0, 8])].concat();
        let frames = parse(&bytes);
        assert_eq!(frames.len(), 2);
        assert_eq!(frames[1].code(), Some(8));
        assert_eq!(parse(&bytes[..bytes.len() - 1]).len(), 1);
    }
}
