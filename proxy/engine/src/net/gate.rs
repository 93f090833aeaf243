//! What the peer sends passes the network filters that want to see it first.
//!
//! A filter lets bytes pass, takes or holds them, or closes the connection; what it holds is read on up to the connection's buffer limit,
//! and each filter sees all of it from the first byte that was not passed on. Once no filter looks any more the gate is open
//! and costs nothing but the question. Source: Envoy `envoy/network/filter.h` (`ReadFilter::onData`); observed on 1.40.

#[cfg(test)]
mod tests;

use std::cell::RefCell;
use std::io;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes, BytesMut};
use proxy_core::extension::network_filter::{DataStep, NetworkFilter};
use proxy_core::stream_info::StreamInfo;

use crate::local::buffers;

/// The filters of one connection that see what it reads, and what they hold back.
pub struct Gate {
    filters: Vec<Box<dyn NetworkFilter>>,
    /// The first filter that has not let pass what is held.
    at: usize,
    held: BytesMut,
    /// Nothing was told to the filters that they have not answered.
    is_idle: bool,
    end: End,
    limit: usize,
    keeps_half: bool,
    /// Bytes that came, passed on or not.
    received: u64,
    /// Of those, the ones that a filter took.
    taken: u64,
}

/// The end of what the peer sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    NotYet,
    /// It came; the filters have not let it pass.
    Held,
    Passed,
    /// A filter closed the connection.
    Refused,
}

impl Gate {
    /// Of those among `filters` that see data; the others stay. No more than `limit` bytes are held (and one read more). With
    /// `keeps_half` a peer that only listens any more still is one, otherwise its end is that of the connection.
    pub fn of(filters: &mut Vec<Box<dyn NetworkFilter>>, limit: usize, keeps_half: bool) -> Option<Self> {
        let seeing: Vec<_> = filters.extract_if(.., |filter| filter.sees_data()).collect();
        (!seeing.is_empty()).then(|| Self {
            filters: seeing,
            at: 0,
            held: BytesMut::new(),
            is_idle: true,
            end: End::NotYet,
            limit: limit.max(1),
            keeps_half,
            received: 0,
            taken: 0,
        })
    }

    /// `bytes` came before all others.
    fn begin_with(&mut self, bytes: BytesMut) {
        self.received = bytes.len() as u64;
        self.is_idle = bytes.is_empty();
        self.held = bytes;
    }

    /// Nobody looks any more, and nothing is held.
    pub fn is_open(&self) -> bool {
        self.filters.is_empty() && self.end == End::NotYet
    }

    /// Bytes that came in all, `moved` of which went where they were to go.
    pub fn came(&self, moved: u64) -> u64 {
        self.received.max(self.taken + moved)
    }

    /// As `read`, with what passed the filters. An error says that one of them closed the connection, or that reading failed.
    pub fn poll_read(
        &mut self,
        cx: &mut Context<'_>,
        info: &mut StreamInfo,
        buffer: &mut BytesMut,
        mut read: impl FnMut(&mut Context<'_>, &mut BytesMut) -> Poll<io::Result<usize>>,
    ) -> Poll<io::Result<usize>> {
        loop {
            match self.end {
                End::Passed => return Poll::Ready(Ok(0)),
                End::Refused => return Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into())),
                End::NotYet | End::Held => {}
            }
            if !self.is_idle {
                match self.poll_filters(cx, info) {
                    Poll::Ready(true) => return Poll::Ready(Ok(self.pass(buffer))),
                    Poll::Ready(false) => {
                        self.end = End::Refused;
                        continue;
                    }
                    Poll::Pending => {}
                }
            }
            if self.end == End::Held || self.held.len() >= self.limit {
                return Poll::Pending;
            }
            if self.held.capacity() == 0 && self.limit < buffers::BUFFER_SIZE {
                self.held.reserve(self.limit);
            }
            let count = ready!(read(cx, &mut self.held))?;
            self.received += count as u64;
            match (count, self.keeps_half) {
                (0, false) => self.end = End::Passed,
                (0, true) => self.end = End::Held,
                (_, _) => {}
            }
            (self.at, self.is_idle) = (0, false);
        }
    }

    /// Whether the filters let pass what is held.
    fn poll_filters(&mut self, cx: &mut Context<'_>, info: &mut StreamInfo) -> Poll<bool> {
        while let Some(filter) = self.filters.get_mut(self.at) {
            match ready!(filter.poll_data(cx, &self.held, self.end == End::Held, info)) {
                DataStep::Continue => self.at += 1,
                DataStep::Done => drop(self.filters.remove(self.at)),
                DataStep::Take(count) => {
                    let count = count.min(self.held.len());
                    self.held.advance(count);
                    self.taken += count as u64;
                    match count {
                        // (Who takes nothing would be asked forever.)
                        0 => return Poll::Pending,
                        _ => continue,
                    }
                }
                DataStep::Close(details) => {
                    info.bytes_received = info.bytes_received.max(self.received);
                    info.local_close_reason.get_or_insert(details);
                    return Poll::Ready(false);
                }
            }
            if self.held.is_empty() && self.end == End::NotYet {
                // All was taken: there is nothing that the others could be asked about.
                self.is_idle = true;
                return Poll::Pending;
            }
        }
        Poll::Ready(true)
    }

    /// Moves what is held to `buffer`: how much that is. The filters let the end pass along with it.
    fn pass(&mut self, buffer: &mut BytesMut) -> usize {
        self.is_idle = true;
        if self.end == End::Held {
            self.end = End::Passed;
        }
        let count = self.held.len();
        let held = std::mem::take(&mut self.held);
        if buffer.is_empty() {
            buffers::give(std::mem::replace(buffer, held));
        } else {
            buffer.extend_from_slice(&held);
            buffers::give(held);
        }
        count
    }
}

/// What `filters` say before all others.
pub fn greeting(filters: &mut [Box<dyn NetworkFilter>]) -> Bytes {
    let mut whole = Bytes::new();
    for filter in filters {
        let own = filter.greeting();
        if whole.is_empty() {
            whole = own;
        } else if !own.is_empty() {
            whole = [whole, own].concat().into();
        }
    }
    whole
}

/// The gate of a connection that is read by who knows nothing of it.
pub struct Guard {
    gate: RefCell<Gate>,
    info: Rc<RefCell<StreamInfo>>,
}

impl std::fmt::Debug for Guard {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Guard")
    }
}

impl Guard {
    /// `gate` on the connection of `info`, which nobody borrows while the connection is read.
    pub fn new(gate: Gate, info: Rc<RefCell<StreamInfo>>) -> Self {
        Self { gate: RefCell::new(gate), info }
    }

    /// `bytes` came before all others.
    pub fn begin_with(&mut self, bytes: BytesMut) {
        self.gate.get_mut().begin_with(bytes);
    }

    /// As [`Gate::is_open`].
    pub fn is_open(&self) -> bool {
        self.gate.borrow().is_open()
    }

    /// As [`Gate::came`].
    pub fn came(&self, moved: u64) -> u64 {
        self.gate.borrow().came(moved)
    }

    /// As [`Gate::poll_read`].
    pub fn poll_read(
        &self,
        cx: &mut Context<'_>,
        buffer: &mut BytesMut,
        mut read: impl FnMut(&mut Context<'_>, &mut BytesMut) -> Poll<io::Result<usize>>,
    ) -> Poll<io::Result<usize>> {
        let mut gate = self.gate.borrow_mut();
        if gate.is_open() {
            return read(cx, buffer);
        }
        gate.poll_read(cx, &mut self.info.borrow_mut(), buffer, read)
    }
}
