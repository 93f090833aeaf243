//! What waits to be written to a connection: small pieces are gathered, a large one is written from where it is.

use std::io::{self, IoSlice};
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes, BytesMut};

use crate::local::buffers;
use crate::net::connection::Connection;

/// Pieces up to this size are copied next to each other: a copy is cheaper than another vector of the write.
const COPY_LIMIT: usize = 4096;
/// Above this no further piece is taken before something was written.
const HIGH_WATER: usize = 32 * 1024;

/// Bytes waiting to be written, in order: `before`, `large`, `after`.
#[derive(Debug, Default)]
pub(crate) struct Output {
    before: BytesMut,
    large: Bytes,
    after: BytesMut,
    written: u64,
}

impl Output {
    /// Where the next small bytes go.
    pub(crate) fn small(&mut self) -> &mut BytesMut {
        let buffer = if self.large.is_empty() { &mut self.before } else { &mut self.after };
        if buffer.capacity() == 0 {
            *buffer = buffers::take();
        }
        buffer
    }

    /// Adds a piece of body.
    pub(crate) fn data(&mut self, data: Bytes) {
        if data.len() <= COPY_LIMIT || !self.large.is_empty() {
            self.small().extend_from_slice(&data);
        } else {
            self.large = data;
        }
    }

    /// Whether another piece may be added before something was written.
    pub(crate) fn has_room(&self) -> bool {
        self.has_room_within(HIGH_WATER)
    }

    /// The same where less than usual may wait.
    pub(crate) fn has_room_within(&self, limit: usize) -> bool {
        self.large.is_empty() && self.before.len() < HIGH_WATER.min(limit.max(1))
    }

    /// Whether everything was written.
    pub(crate) fn is_empty(&self) -> bool {
        self.before.is_empty() && self.large.is_empty() && self.after.is_empty()
    }

    /// Bytes written so far.
    pub(crate) fn written(&self) -> u64 {
        self.written
    }

    /// Counts bytes that went to the connection another way.
    pub(crate) fn count(&mut self, count: usize) {
        self.written += count as u64;
    }

    /// Leaves a small message that waits, which is whole, for the end of the turn: what is not taken must be flushed.
    pub(crate) fn post(&mut self, connection: &Connection) {
        if self.large.is_empty() && !self.before.is_empty() && connection.post(&self.before) {
            self.written += self.before.len() as u64;
            buffers::give(std::mem::take(&mut self.before));
        }
    }

    /// Writes until nothing is left; then holds no buffer.
    pub(crate) fn poll_flush(
        &mut self,
        connection: &Connection,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        while !self.is_empty() {
            let slices = [IoSlice::new(&self.before), IoSlice::new(&self.large), IoSlice::new(&self.after)];
            let waiting = match (self.before.is_empty(), self.large.is_empty(), self.after.is_empty()) {
                (_, true, _) => &slices[..1],
                (true, false, true) => &slices[1..2],
                (..) => &slices[..],
            };
            let count = ready!(connection.poll_write(cx, waiting))?;
            if count == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.advance(count);
        }
        if self.before.capacity() > 0 {
            buffers::give(std::mem::take(&mut self.before));
        }
        Poll::Ready(Ok(()))
    }

    fn advance(&mut self, mut count: usize) {
        self.written += count as u64;
        let first = count.min(self.before.len());
        self.before.advance(first);
        count -= first;
        let second = count.min(self.large.len());
        self.large.advance(second);
        count -= second;
        self.after.advance(count);
        if self.before.is_empty() && self.large.is_empty() {
            self.large = Bytes::new();
            if !self.after.is_empty() || self.after.capacity() > 0 {
                let spent = std::mem::replace(&mut self.before, std::mem::take(&mut self.after));
                buffers::give(spent);
            }
        }
    }
}
