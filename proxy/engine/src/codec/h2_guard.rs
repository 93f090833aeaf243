//! What a peer may do on an HTTP/2 connection besides sending messages.
//!
//! The `h2` crate bounds memory: header lists, CONTINUATION frames, resets and small DATA frames. It does not bound work:
//! a peer may send PINGs, SETTINGS, PRIORITY and WINDOW_UPDATE frames, or frames without payload, for ever. [`FrameGuard`]
//! sees the frame headers (RFC 9113, 4.1) in the bytes that pass in both directions and says when it is enough, with Envoy's
//! limits and statistics (`Http2ProtocolOptions`). It never looks into payloads, except at pad lengths, codes of RST_STREAM
//! and the last stream of GOAWAY, and keeps no bytes.
//! `Guarded` puts it on a connection, and METADATA frames beside it where they are allowed.

use std::cell::Cell;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use proxy_core::stats::Cells;
use proxy_core::stats::groups::{ClusterTrafficStats, Http2Stats, HttpStats};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::h2_gather::Gather;
use super::h2_metadata::frames::MetadataFrames;
use super::h2_metadata::{MetadataStreams, Violation};
use super::h2_settings::{CustomSettings, Opened, Opening};
use super::h2_shedding::Shedding;

/// Octets of the client's connection preface (RFC 9113, 3.4).
const PREFACE: usize = 24;
/// Octets of a frame header.
const HEADER: usize = 9;
/// The last stream of the GOAWAY that only announces the end (RFC 9113, 6.8).
const ANY_STREAM: u32 = 0x7fff_ffff;
/// Over this time control frames are counted.
const WINDOW: Duration = Duration::from_secs(1);
/// Control frames that a message frame earns.
const CONTROL_PER_MESSAGE: u64 = 4;

/// What a read fails with after a flood.
const FLOOD: io::ErrorKind = io::ErrorKind::QuotaExceeded;
/// What a read fails with where METADATA breaks the rules.
const BROKEN: io::ErrorKind = io::ErrorKind::ArgumentListTooLong;
/// How often in a row the socket is read where all of it was METADATA.
const READS: u32 = 16;

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const PRIORITY: u8 = 2;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const GOAWAY: u8 = 7;
const WINDOW_UPDATE: u8 = 8;
const CONTINUATION: u8 = 9;

const PROTOCOL_ERROR: u32 = 1;
const REFUSED_STREAM: u32 = 7;

const END_STREAM: u8 = 0x1;
/// Of SETTINGS.
const ACK: u8 = 0x1;
const PADDED: u8 = 0x8;
const WITH_PRIORITY: u8 = 0x20;

/// How much of what a peer may send (`Http2ProtocolOptions`).
#[derive(Clone, Copy, Debug)]
pub struct FrameLimits {
    /// `max_consecutive_inbound_frames_with_empty_payload`
    pub empty_frames: u32,
    /// `max_inbound_priority_frames_per_stream`
    pub priority_per_stream: u32,
    /// `max_inbound_window_update_frames_per_data_frame_sent`
    pub window_updates_per_data: u32,
    /// `max_outbound_control_frames`: PING, SETTINGS, RST_STREAM and unknown frames in a second, beyond four for each
    /// HEADERS or DATA frame. (Envoy counts the answers that it could not send yet; the `h2` crate keeps at most one.)
    pub control_frames: u32,
}

/// Which end of the connection this is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// The peer is a client, whose first bytes are the connection preface.
    Server,
    /// The peer is a server.
    Client,
}

/// What there was too much of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Flood {
    /// Frames without payload in a row.
    #[error("too many consecutive frames with an empty payload")]
    EmptyFrames,
    /// PRIORITY frames.
    #[error("too many PRIORITY frames")]
    Priority,
    /// WINDOW_UPDATE frames.
    #[error("too many WINDOW_UPDATE frames")]
    WindowUpdate,
    /// PING, SETTINGS, RST_STREAM and unknown frames.
    #[error("too many control frames")]
    Control,
    /// METADATA frames that the peer does not read.
    #[error("too many METADATA frames that are not read")]
    Metadata,
    /// Any frame before the SETTINGS that begin a connection (RFC 9113, 3.4), which the `h2` crate does not insist on.
    #[error("a frame before SETTINGS")]
    BeforeSettings,
}

/// Frames seen on a connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FrameCounts {
    /// RST_STREAM frames of the peer.
    pub resets_received: u64,
    /// RST_STREAM frames to the peer.
    pub resets_sent: u64,
    /// Those of them with PROTOCOL_ERROR: the peer's message broke the rules.
    pub malformed: u64,
    /// Those of them with REFUSED_STREAM: the peer opened too many streams.
    pub refused: u64,
    /// GOAWAY frames to the peer that named the last stream.
    pub goaways_sent: u64,
}

/// Counts frames as their bytes pass.
#[derive(Debug)]
pub struct FrameGuard {
    limits: FrameLimits,
    inbound: Scanner,
    outbound: Scanner,
    counts: FrameCounts,
    /// The peer's first frame was seen.
    begun: bool,
    header_frames: u64,
    /// HEADERS frames of the peer.
    heads: u64,
    /// Octets of the peer's HEADERS and CONTINUATION frames.
    head_octets: u64,
    data_sent: u64,
    priorities: u64,
    window_updates: u64,
    empty_in_a_row: u32,
    /// Control and message frames since `window`.
    control: u64,
    messages: u64,
    window: Option<Instant>,
}

impl FrameGuard {
    /// A connection at its start.
    pub fn new(side: Side, limits: FrameLimits) -> Self {
        let (inbound, outbound) = match side {
            Side::Server => (PREFACE, 0),
            Side::Client => (0, PREFACE),
        };
        Self {
            limits,
            inbound: Scanner::new(inbound),
            outbound: Scanner::new(outbound),
            counts: FrameCounts::default(),
            begun: false,
            header_frames: 0,
            heads: 0,
            head_octets: 0,
            data_sent: 0,
            priorities: 0,
            window_updates: 0,
            empty_in_a_row: 0,
            control: 0,
            messages: 0,
            window: None,
        }
    }

    /// Takes note of bytes from the peer, which may be cut anywhere; an error says that the connection should be closed.
    pub fn received(&mut self, mut bytes: &[u8]) -> Result<(), Flood> {
        while let Some(frame) = self.inbound.next(&mut bytes) {
            self.inbound_frame(frame)?;
        }
        Ok(())
    }

    /// Takes note of bytes sent to the peer.
    pub fn sent(&mut self, mut bytes: &[u8]) {
        while let Some(frame) = self.outbound.next(&mut bytes) {
            match frame.kind {
                DATA => {
                    self.data_sent += 1;
                    self.messages += 1;
                }
                HEADERS => {
                    self.header_frames += 1;
                    self.messages += 1;
                }
                RST_STREAM => {
                    self.counts.resets_sent += 1;
                    self.counts.malformed += u64::from(frame.word == PROTOCOL_ERROR);
                    self.counts.refused += u64::from(frame.word == REFUSED_STREAM);
                }
                GOAWAY => self.counts.goaways_sent += u64::from(frame.word != ANY_STREAM),
                _ => {}
            }
        }
    }

    /// The frames so far.
    pub fn counts(&self) -> FrameCounts {
        self.counts
    }

    fn inbound_frame(&mut self, frame: Frame) -> Result<(), Flood> {
        if !std::mem::replace(&mut self.begun, true) {
            let is_settings = frame.kind == SETTINGS && frame.flags & ACK == 0;
            return if is_settings { Ok(()) } else { Err(Flood::BeforeSettings) };
        }
        match frame.kind {
            DATA | HEADERS | CONTINUATION => self.message_frame(frame),
            PRIORITY => {
                self.priorities += 1;
                let limit = u64::from(self.limits.priority_per_stream) * (1 + self.header_frames);
                if self.priorities > limit { Err(Flood::Priority) } else { Ok(()) }
            }
            WINDOW_UPDATE => {
                self.window_updates += 1;
                let per_data = u64::from(self.limits.window_updates_per_data);
                let limit = 5 + 2 * (self.header_frames + per_data * self.data_sent);
                if self.window_updates > limit { Err(Flood::WindowUpdate) } else { Ok(()) }
            }
            kind => {
                self.counts.resets_received += u64::from(kind == RST_STREAM);
                self.control_frame()
            }
        }
    }

    fn message_frame(&mut self, frame: Frame) -> Result<(), Flood> {
        self.header_frames += u64::from(frame.kind == HEADERS);
        self.heads += u64::from(frame.kind == HEADERS);
        if frame.kind != DATA {
            self.head_octets += u64::from(frame.length) + HEADER as u64;
        }
        let ends = frame.kind != CONTINUATION && frame.flags & END_STREAM != 0;
        if frame.payload > 0 || ends {
            self.empty_in_a_row = 0;
            self.messages += u64::from(frame.kind != CONTINUATION);
            return Ok(());
        }
        self.empty_in_a_row += 1;
        if self.empty_in_a_row > self.limits.empty_frames { Err(Flood::EmptyFrames) } else { Ok(()) }
    }

    fn control_frame(&mut self) -> Result<(), Flood> {
        self.control += 1;
        let Some(window) = self.window else {
            self.window = Some(Instant::now());
            return Ok(());
        };
        let limit = u64::from(self.limits.control_frames) + CONTROL_PER_MESSAGE * self.messages;
        if self.control <= limit {
            return Ok(());
        }
        // Only now does the time matter, so only now is the clock read.
        if window.elapsed() < WINDOW {
            return Err(Flood::Control);
        }
        self.window = Some(Instant::now());
        (self.control, self.messages) = (1, 0);
        Ok(())
    }
}

/// A frame header; `payload` is without padding and priority, `word` the first of a RST_STREAM or GOAWAY.
#[derive(Clone, Copy)]
struct Frame {
    kind: u8,
    flags: u8,
    length: u32,
    payload: u32,
    word: u32,
}

impl Frame {
    /// The frame of a header and the four octets behind it, and how many octets of these it takes to know it.
    #[inline]
    fn read(header: &[u8; HEADER + 4]) -> (Self, usize) {
        let [l0, l1, l2, kind, flags, _, _, _, _, pad, c1, c2, c3] = *header;
        let length = u32::from_be_bytes([0, l0, l1, l2]);
        let is_padded = flags & PADDED != 0 && matches!(kind, DATA | HEADERS) && length > 0;
        let has_word = matches!(kind, RST_STREAM | GOAWAY) && length >= 4;
        let more = if has_word { 4 } else { usize::from(is_padded) };
        let mut payload = length;
        if is_padded {
            payload = payload.saturating_sub(1 + u32::from(pad));
        }
        if kind == HEADERS && flags & WITH_PRIORITY != 0 {
            payload = payload.saturating_sub(5);
        }
        let word = if has_word { u32::from_be_bytes([pad, c1, c2, c3]) } else { 0 };
        (Self { kind, flags, length, payload, word }, HEADER + more)
    }
}

/// Finds frame headers in a byte stream.
#[derive(Debug)]
struct Scanner {
    /// Octets to pass over before the next header.
    skip: usize,
    /// A header, and what is looked at of the payload.
    header: [u8; HEADER + 4],
    have: usize,
}

impl Scanner {
    fn new(skip: usize) -> Self {
        Self { skip, header: [0; HEADER + 4], have: 0 }
    }

    /// The next frame whose header ends in `bytes`, which shrinks by what was used.
    fn next(&mut self, bytes: &mut &[u8]) -> Option<Frame> {
        loop {
            let skipped = self.skip.min(bytes.len());
            *bytes = bytes.get(skipped..)?;
            self.skip -= skipped;
            // Most headers come whole; the others are put together.
            if self.have == 0
                && let Some(header) = bytes.first_chunk()
            {
                let (frame, used) = Frame::read(header);
                *bytes = bytes.get(used..)?;
                self.skip = frame.length as usize - (used - HEADER);
                return Some(frame);
            }
            let byte = bytes.first().copied()?;
            *bytes = bytes.get(1..)?;
            *self.header.get_mut(self.have)? = byte;
            self.have += 1;
            if self.have < HEADER {
                continue;
            }
            let (frame, used) = Frame::read(&self.header);
            if self.have < used {
                continue;
            }
            self.skip = frame.length as usize - (used - HEADER);
            self.have = 0;
            return Some(frame);
        }
    }
}

/// A connection with a [`FrameGuard`] on it: reads fail once the peer overdid it.
pub(crate) struct Guarded<T> {
    io: T,
    guard: FrameGuard,
    counted: FrameCounts,
    stats: Cells<Http2Stats>,
    traffic: Traffic,
    failed: bool,
    head_octets: Rc<Cell<u64>>,
    gather: Gather,
    /// SETTINGS are still to be sent, with parameters that are not the codec's.
    opening: Option<Box<Opening>>,
    /// METADATA frames, where they are allowed; the codec knows nothing of them.
    metadata: Option<Box<MetadataFrames>>,
    /// What may be shed of what comes, if anything may.
    shedding: Option<Rc<Shedding>>,
}

/// Where the bytes of a connection are counted.
pub(crate) enum Traffic {
    /// With a connection manager.
    Downstream(Cells<HttpStats>),
    /// With a cluster.
    Upstream(Cells<ClusterTrafficStats>),
    /// Nowhere.
    Uncounted,
}

impl Traffic {
    fn received(&self, count: usize) {
        match self {
            Self::Downstream(stats) => stats.here().downstream_cx_rx_bytes_total.add(count as u64),
            Self::Upstream(stats) => stats.here().upstream_cx_rx_bytes_total.add(count as u64),
            Self::Uncounted => {}
        }
    }

    fn sent(&self, count: usize) {
        match self {
            Self::Downstream(stats) => stats.here().downstream_cx_tx_bytes_total.add(count as u64),
            Self::Upstream(stats) => stats.here().upstream_cx_tx_bytes_total.add(count as u64),
            Self::Uncounted => {}
        }
    }
}

impl<T> Guarded<T> {
    /// Watches `io`, and counts in `stats`.
    pub(crate) fn new(
        io: T,
        side: Side,
        limits: FrameLimits,
        stats: Cells<Http2Stats>,
        traffic: Traffic,
    ) -> Self {
        let guard = FrameGuard::new(side, limits);
        Self {
            io,
            guard,
            counted: FrameCounts::default(),
            stats,
            traffic,
            failed: false,
            head_octets: Rc::default(),
            gather: Gather::default(),
            opening: None,
            metadata: None,
            shedding: None,
        }
    }

    /// Has what comes shed as `shedding` says.
    pub(crate) fn with_shedding(self, shedding: Option<&Rc<Shedding>>) -> Self {
        Self { shedding: shedding.cloned(), ..self }
    }

    /// Has the first SETTINGS name these parameters too.
    pub(crate) fn with_settings(mut self, settings: Option<&Arc<CustomSettings>>) -> Self {
        let preface = self.guard.outbound.skip;
        self.opening = settings.map(|settings| Box::new(Opening::new(settings.clone(), preface)));
        self
    }

    /// Has METADATA frames go between the peer and `streams`; `max_frame` is the length of frames that the codec takes, if it was told.
    pub(crate) fn with_metadata(
        mut self,
        streams: Option<&Rc<MetadataStreams>>,
        max_frame: Option<u32>,
    ) -> Self {
        let prefaces = (self.guard.inbound.skip, self.guard.outbound.skip);
        self.metadata =
            streams.map(|streams| Box::new(MetadataFrames::new(streams.clone(), prefaces, max_frame)));
        self
    }

    /// Octets that heads and trailers took on the wire, now and later.
    pub(crate) fn head_octets(&self) -> Rc<Cell<u64>> {
        self.head_octets.clone()
    }

    fn count(&mut self) {
        let (now, before) = (self.guard.counts(), self.counted);
        if now != before {
            let stats = self.stats.here();
            stats.rx_reset.add(now.resets_received - before.resets_received);
            stats.tx_reset.add(now.resets_sent - before.resets_sent);
            stats.rx_messaging_error.add(now.malformed - before.malformed);
            stats.stream_refused_errors.add(now.refused - before.refused);
            stats.goaway_sent.add(now.goaways_sent - before.goaways_sent);
            self.counted = now;
        }
    }

    fn fail(&mut self, flood: Flood) -> io::Error {
        if !self.failed {
            self.failed = true;
            let stats = self.stats.here();
            match flood {
                Flood::EmptyFrames => stats.inbound_empty_frames_flood.inc(),
                Flood::Priority => stats.inbound_priority_frames_flood.inc(),
                Flood::WindowUpdate => stats.inbound_window_update_frames_flood.inc(),
                Flood::Control => stats.outbound_control_flood.inc(),
                Flood::Metadata => stats.outbound_flood.inc(),
                Flood::BeforeSettings => stats.rx_messaging_error.inc(),
            }
        }
        io::Error::new(FLOOD, flood)
    }
}

/// Whether a connection ended because its peer overdid it.
///
/// Of an error of the connection beneath, `h2` keeps the kind only; no socket fails with this one.
pub(crate) fn is_flood(error: &h2::Error) -> bool {
    error.get_io().is_some_and(|io| io.kind() == FLOOD)
}

/// Whether a connection ended because METADATA of its peer broke the rules; no socket fails like this either.
pub(crate) fn is_broken(error: &h2::Error) -> bool {
    error.get_io().is_some_and(|io| io.kind() == BROKEN)
}

fn broken(violation: Violation) -> io::Error {
    io::Error::new(BROKEN, violation)
}

impl<T: AsyncWrite + Unpin> Guarded<T> {
    /// Writes the beginning of a connection; `None` once that is over.
    fn poll_open(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<Option<usize>>> {
        let Some(opening) = &mut self.opening else { return Poll::Ready(Ok(None)) };
        let opened = ready!(opening.poll_write(&mut self.io, cx, bytes))?;
        let (count, written) = match &opened {
            Opened::Preface(count) => (*count, bytes.get(..*count).unwrap_or_default()),
            Opened::Settings(count, frame) => (*count, frame.as_slice()),
            Opened::Neither => (0, &[][..]),
        };
        self.traffic.sent(written.len());
        self.guard.sent(written);
        if let Some(metadata) = &mut self.metadata {
            metadata.wrote(written);
        }
        if !matches!(opened, Opened::Preface(_)) {
            self.opening = None;
        }
        Poll::Ready(Ok((!matches!(opened, Opened::Neither)).then_some(count)))
    }

    /// Writes METADATA whose turn it is.
    fn poll_insert(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Some(metadata) = &mut self.metadata else { return Poll::Ready(Ok(())) };
        if metadata.is_flooded() {
            return Poll::Ready(Err(self.fail(Flood::Metadata)));
        }
        metadata.poll_insert(&mut self.io, cx, |count| self.traffic.sent(count))
    }

    /// Writes some of the first of `slices`, and of that nothing beyond a place where METADATA may be due.
    fn poll_write_some(
        &mut self,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<Option<usize>>> {
        ready!(self.poll_insert(cx))?;
        let Some(metadata) = self.metadata.as_ref().filter(|metadata| metadata.is_queued()) else {
            return Poll::Ready(Ok(None));
        };
        let Some(first) = slices.iter().find(|slice| !slice.is_empty()) else { return Poll::Ready(Ok(None)) };
        let bytes = first.get(..metadata.allowed(first)).unwrap_or_default();
        let written = ready!(Pin::new(&mut self.io).poll_write(cx, bytes))?;
        self.wrote(bytes.get(..written).unwrap_or_default());
        Poll::Ready(Ok(Some(written)))
    }
}

impl<T> Guarded<T> {
    /// Takes note of octets from the peer.
    fn received(&mut self, new: &[u8]) -> io::Result<()> {
        self.traffic.received(new.len());
        let seen = self.guard.received(new);
        self.head_octets.set(self.guard.head_octets);
        self.count();
        seen.map_err(|flood| self.fail(flood))
    }

    /// Takes note of octets to the peer that were no METADATA, but for the counters of frames.
    fn wrote(&mut self, bytes: &[u8]) {
        self.traffic.sent(bytes.len());
        self.guard.sent(bytes);
        if let Some(metadata) = &mut self.metadata {
            metadata.wrote(bytes);
        }
        self.count();
    }
}

impl<T: AsyncRead + Unpin> Guarded<T> {
    /// Reads what is no METADATA.
    fn poll_read_frames(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.metadata.is_some() {
            return self.poll_read_without(cx, buf);
        }
        let before = buf.filled().len();
        ready!(Pin::new(&mut self.io).poll_read(cx, buf))?;
        Poll::Ready(self.received(buf.filled().get(before..).unwrap_or_default()))
    }

    /// As [`Self::poll_read_frames`]; once something was shed nothing comes any more, and who serves the connection is to end it.
    fn poll_read_unless_shed(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let is_over = |this: &Self| this.shedding.as_ref().is_some_and(|shedding| shedding.is_closed());
        if is_over(self) {
            return Poll::Pending;
        }
        let before = buf.filled().len();
        let read = ready!(self.poll_read_frames(cx, buf));
        let came = buf.filled().len() > before;
        if came && self.shedding.as_ref().is_some_and(|shedding| shedding.sheds()) {
            buf.set_filled(before);
            return Poll::Pending;
        }
        Poll::Ready(read)
    }

    fn poll_read_without(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        for _ in 0..READS {
            let before = buf.filled().len();
            let Some(metadata) = &mut self.metadata else { break };
            if metadata.release(buf) {
                return Poll::Ready(Ok(()));
            }
            ready!(metadata.poll_read(&mut self.io, cx, buf))?;
            let new = buf.filled().get(before..).unwrap_or_default();
            let is_over = new.is_empty();
            self.received(new)?;
            let Some(metadata) = self.metadata.as_mut().filter(|_| !is_over) else {
                return Poll::Ready(Ok(()));
            };
            let kept = metadata.cut(buf.filled_mut().get_mut(before..).unwrap_or_default());
            self.stats.here().metadata_empty_frames.add(metadata.take_empty());
            let kept = kept.map_err(broken)?;
            buf.set_filled(before + kept);
            if kept > 0 {
                return Poll::Ready(Ok(()));
            }
        }
        // Others of this thread have their turn.
        cx.waker().wake_by_ref();
        Poll::Pending
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for Guarded<T> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.shedding.is_some() {
            return this.poll_read_unless_shed(cx, buf);
        }
        this.poll_read_frames(cx, buf)
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Guarded<T> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[IoSlice::new(buf)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let length = slices.iter().map(|slice| slice.len()).sum();
        if this.gather.waits(this.guard.heads, length, cx) {
            return Poll::Pending;
        }
        if this.opening.is_some()
            && let Some(first) = slices.iter().find(|slice| !slice.is_empty())
            && let Some(count) = ready!(this.poll_open(cx, first))?
        {
            return Poll::Ready(Ok(count));
        }
        if this.metadata.is_some()
            && let Some(count) = ready!(this.poll_write_some(cx, slices))?
        {
            return Poll::Ready(Ok(count));
        }
        let written = ready!(Pin::new(&mut this.io).poll_write_vectored(cx, slices))?;
        this.traffic.sent(written);
        let mut left = written;
        for slice in slices {
            let taken = left.min(slice.len());
            let bytes = slice.get(..taken).unwrap_or_default();
            this.guard.sent(bytes);
            if let Some(metadata) = &mut this.metadata {
                metadata.wrote(bytes);
            }
            left -= taken;
        }
        this.count();
        Poll::Ready(Ok(written))
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        ready!(this.poll_insert(cx))?;
        Pin::new(&mut this.io).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().io).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests;
