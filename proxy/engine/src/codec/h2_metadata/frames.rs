//! Cuts METADATA frames out of the bytes that are read, and puts them into those that are written.

use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::{MetadataBlock, MetadataStreams, Violation};

/// Octets of a frame header (RFC 9113, 4.1).
const HEADER: usize = 9;
/// So many of them tell length and kind.
const KIND: usize = 4;
/// What everybody has to accept in a frame.
const MAX_PAYLOAD: usize = 16_384;

const DATA: u8 = 0x0;
const HEADERS: u8 = 0x1;
const RST_STREAM: u8 = 0x3;
const CONTINUATION: u8 = 0x9;
const METADATA: u8 = 0x4d;

const END_STREAM: u8 = 0x1;
const END_HEADERS: u8 = 0x4;
const PADDED: u8 = 0x8;
/// The only flag that a frame with the end of a block may have.
const END_METADATA: u8 = 0x4;

/// What is known of a frame once its header, and a pad length behind it, has passed.
#[derive(Clone, Copy, Debug)]
struct Frame {
    kind: u8,
    flags: u8,
    stream: u32,
    /// Of the payload, padding excepted.
    length: u32,
}

impl Frame {
    fn has(self, flag: u8) -> bool {
        self.flags & flag != 0
    }
}

/// Where a stream of bytes is.
#[derive(Clone, Debug)]
struct Position {
    /// Octets before the next header.
    left: usize,
    header: [u8; HEADER + 1],
    have: usize,
    /// A head has begun and not ended.
    in_head: bool,
}

impl Position {
    fn new(preface: usize) -> Self {
        Self { left: preface, header: [0; HEADER + 1], have: 0, in_head: false }
    }

    /// Between two frames that need not follow each other.
    fn is_between(&self) -> bool {
        self.left == 0 && self.have == 0 && !self.in_head
    }

    /// Length and kind of the frame whose header begins.
    fn kind(&self) -> (usize, u8) {
        let [l0, l1, l2, kind, ..] = self.header;
        (u32::from_be_bytes([0, l0, l1, l2]) as usize, kind)
    }

    /// Takes an octet of a header; the frame if that was the last.
    fn take(&mut self, octet: u8) -> Option<Frame> {
        if let Some(place) = self.header.get_mut(self.have) {
            *place = octet;
        }
        self.have += 1;
        if self.have < HEADER {
            return None;
        }
        let [l0, l1, l2, kind, flags, s0, s1, s2, s3, pad] = self.header;
        let mut length = u32::from_be_bytes([0, l0, l1, l2]);
        let is_padded = kind == DATA && flags & PADDED != 0 && length > 0;
        if is_padded && self.have == HEADER {
            return None;
        }
        self.left = length as usize - (self.have - HEADER);
        self.have = 0;
        if is_padded {
            length = length.saturating_sub(1 + u32::from(pad));
        }
        match kind {
            HEADERS | CONTINUATION => self.in_head = flags & END_HEADERS == 0,
            _ => {}
        }
        Some(Frame { kind, flags, stream: u32::from_be_bytes([s0 & 0x7f, s1, s2, s3]), length })
    }

    /// How many octets of `bytes` belong to the present frame.
    fn rest(&self, bytes: &[u8]) -> usize {
        let mut ahead = self.clone();
        let mut count = 0;
        while ahead.left == 0 {
            let Some(octet) = bytes.get(count) else { return count };
            count += 1;
            if ahead.take(*octet).is_some() {
                break;
            }
        }
        bytes.len().min(count + ahead.left)
    }
}

/// The METADATA frames of a connection.
#[derive(Debug)]
pub(crate) struct MetadataFrames {
    streams: Rc<MetadataStreams>,
    inbound: Position,
    /// The present frame of the peer is METADATA, and what it is.
    cut: bool,
    frame: Option<Frame>,
    /// Octets of a header that had to be looked at before the codec gets them.
    held: usize,
    /// The codec refuses frames that are longer.
    max_frame: usize,
    outbound: Position,
    /// Frames that are being written, and how far.
    writing: Vec<u8>,
    written: usize,
}

impl MetadataFrames {
    /// On a connection that begins with so many octets of a preface, in and out.
    pub(crate) fn new(
        streams: Rc<MetadataStreams>,
        (inbound, outbound): (usize, usize),
        max_frame: Option<u32>,
    ) -> Self {
        Self {
            streams,
            inbound: Position::new(inbound),
            cut: false,
            frame: None,
            held: 0,
            max_frame: max_frame.map_or(MAX_PAYLOAD, |size| size as usize),
            outbound: Position::new(outbound),
            writing: Vec::new(),
            written: 0,
        }
    }

    /// How many blocks without fields came since this was asked.
    pub(crate) fn take_empty(&self) -> u64 {
        self.streams.take_empty()
    }

    /// Reads some octets, METADATA among them, to be given to [`Self::cut`]. While the beginning of a header is held back no more is
    /// read than it takes to know its kind: there may be little place in `buf`.
    pub(crate) fn poll_read<T: AsyncRead + Unpin>(
        &self,
        io: &mut T,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.streams.register(cx);
        match self.wanted() {
            wanted @ ..KIND => {
                let mut octets = [0; KIND];
                let count = buf.remaining().min(wanted);
                let mut some = ReadBuf::new(octets.get_mut(..count).unwrap_or_default());
                ready!(Pin::new(io).poll_read(cx, &mut some))?;
                buf.put_slice(some.filled());
                Poll::Ready(Ok(()))
            }
            _ => Pin::new(io).poll_read(cx, buf),
        }
    }

    /// How many octets [`Self::cut`] takes at once.
    pub(super) fn wanted(&self) -> usize {
        match self.inbound.have {
            have @ 1..KIND => KIND - have,
            _ => usize::MAX,
        }
    }

    /// Moves on what was held back; whether there was something.
    pub(crate) fn release(&mut self, buf: &mut ReadBuf<'_>) -> bool {
        let known = self.inbound.header.get(KIND - self.held..KIND).unwrap_or_default();
        let count = known.len().min(buf.remaining());
        buf.put_slice(known.get(..count).unwrap_or_default());
        self.held -= count;
        count > 0
    }

    /// Takes METADATA out of `bytes`, and moves together what is left; how many octets that is. What is still to be
    /// [released](Self::release) goes before what is read next.
    pub(crate) fn cut(&mut self, bytes: &mut [u8]) -> Result<usize, Violation> {
        let (mut from, mut to) = (0, 0);
        while from < bytes.len() {
            if self.inbound.left > 0 {
                let end = bytes.len().min(from + self.inbound.left);
                if self.cut {
                    self.piece(bytes.get(from..end).unwrap_or_default())?;
                } else {
                    if from > to {
                        bytes.copy_within(from..end, to);
                    }
                    to += end - from;
                }
                self.inbound.left -= end - from;
                from = end;
                self.end_of_frame()?;
                continue;
            }
            let Some(octet) = bytes.get(from).copied() else { break };
            from += 1;
            let in_head = self.inbound.in_head;
            let frame = self.inbound.take(octet);
            if self.inbound.have == KIND {
                let (length, kind) = self.inbound.kind();
                // What the codec refuses, it refuses in its own way.
                self.cut = kind == METADATA && length <= self.max_frame && !in_head;
                self.held = if self.cut { 0 } else { KIND };
            }
            if !self.cut && (self.inbound.have == 0 || self.inbound.have >= KIND) {
                to += self.keep(bytes, from, to, octet);
            }
            if let Some(frame) = frame {
                self.on_frame(frame);
                self.end_of_frame()?;
            }
        }
        Ok(to)
    }

    /// Keeps an octet of a header, and what was held back before it, at `to`; how many octets that is.
    fn keep(&mut self, bytes: &mut [u8], from: usize, to: usize, octet: u8) -> usize {
        if self.inbound.have != KIND {
            if let Some(place) = bytes.get_mut(to) {
                *place = octet;
            }
            return 1;
        }
        if from - to < KIND {
            // Some of it came before: it is released.
            return 0;
        }
        if let (Some(place), Some(known)) = (bytes.get_mut(to..to + KIND), self.inbound.header.get(..KIND)) {
            place.copy_from_slice(known);
        }
        self.held = 0;
        KIND
    }

    fn on_frame(&mut self, frame: Frame) {
        self.frame = Some(frame);
        let is_end = frame.has(END_STREAM);
        match frame.kind {
            HEADERS => self.streams.on_head(frame.stream, is_end),
            DATA => self.streams.on_data(frame.stream, frame.length, is_end),
            RST_STREAM => self.streams.on_reset(frame.stream),
            _ => {}
        }
    }

    fn piece(&mut self, piece: &[u8]) -> Result<(), Violation> {
        self.frame.map_or(Ok(()), |frame| self.streams.on_piece(frame.stream, piece))
    }

    fn end_of_frame(&mut self) -> Result<(), Violation> {
        if self.inbound.left > 0 {
            return Ok(());
        }
        let frame = self.frame.take();
        match frame.filter(|frame| self.cut && frame.flags == END_METADATA) {
            Some(frame) => self.streams.on_block(frame.stream),
            None => Ok(()),
        }
    }

    /// Writes the blocks whose turn it is, if the last frame is complete; `note` is told how many octets.
    pub(crate) fn poll_insert<T: AsyncWrite + Unpin>(
        &mut self,
        io: &mut T,
        cx: &mut Context<'_>,
        mut note: impl FnMut(usize),
    ) -> Poll<io::Result<()>> {
        self.streams.register(cx);
        loop {
            while let Some(rest) = self.writing.get(self.written..).filter(|rest| !rest.is_empty()) {
                let count = ready!(Pin::new(&mut *io).poll_write(cx, rest))?;
                if count == 0 {
                    return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
                }
                note(count);
                self.written += count;
            }
            (self.writing, self.written) = (Vec::new(), 0);
            if !self.outbound.is_between() {
                return Poll::Ready(Ok(()));
            }
            let Some((stream, block)) = self.streams.next_due() else { return Poll::Ready(Ok(())) };
            self.writing = frames(stream, &block);
        }
    }

    /// How much of `bytes` may be written before [`Self::poll_insert`] is to be asked again.
    pub(crate) fn allowed(&self, bytes: &[u8]) -> usize {
        if self.streams.is_queued() { self.outbound.rest(bytes) } else { bytes.len() }
    }

    /// Whether more is to be inserted than may wait.
    pub(crate) fn is_flooded(&self) -> bool {
        self.streams.is_flooded()
    }

    /// Whether something is to be inserted, now or later.
    pub(crate) fn is_queued(&self) -> bool {
        self.streams.is_queued()
    }

    /// Takes note of what was written of the codec's frames.
    pub(crate) fn wrote(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            if self.outbound.left > 0 {
                let count = bytes.len().min(self.outbound.left);
                self.outbound.left -= count;
                bytes = bytes.get(count..).unwrap_or_default();
                continue;
            }
            let Some((octet, rest)) = bytes.split_first() else { return };
            bytes = rest;
            let Some(frame) = self.outbound.take(*octet) else { continue };
            let is_end = frame.has(END_STREAM);
            match frame.kind {
                HEADERS => self.streams.on_head_sent(frame.stream, is_end),
                DATA => self.streams.on_data_sent(frame.stream, frame.length, is_end),
                RST_STREAM => self.streams.on_reset(frame.stream),
                _ => {}
            }
        }
    }
}

/// The frames of a block.
fn frames(stream: u32, block: &MetadataBlock) -> Vec<u8> {
    let pieces = block.0.chunks(MAX_PAYLOAD);
    let last = pieces.len().saturating_sub(1);
    let mut out = Vec::with_capacity(block.0.len() + pieces.len() * HEADER);
    for (at, piece) in pieces.enumerate() {
        let length = u32::try_from(piece.len()).unwrap_or_default().to_be_bytes();
        out.extend_from_slice(length.get(1..).unwrap_or_default());
        out.extend_from_slice(&[METADATA, if at == last { END_METADATA } else { 0 }]);
        out.extend_from_slice(&stream.to_be_bytes());
        out.extend_from_slice(piece);
    }
    out
}
