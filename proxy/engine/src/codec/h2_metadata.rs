//! METADATA frames: blocks of fields beside a message, an extension of HTTP/2 (`Http2ProtocolOptions.allow_metadata`).
//!
//! The `h2` crate drops frames that it does not know, so they never reach it: [`frames`] cuts them out of what is read, and puts them
//! between two frames of what is written. [`MetadataStreams`] is what a connection's bytes and its streams share: blocks wait there for
//! their stream to have come as far as its peer had when it sent them, and for the other side to have written what goes before them.
//! So they keep their place among heads and bodies, which `h2` hands over by another way.
//!
//! As with Envoy, nobody announces anything (the parameter 0x4d44 of SETTINGS means nothing here), and a stream's blocks may hold
//! `max_metadata_size` together. Blocks of streams that are not open are passed over.

use std::cell::RefCell;
use std::collections::{HashMap, VecDeque};
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use super::h2_guard::Side;
use super::hpack::{self, Malformed};

pub(crate) mod frames;

/// What the blocks of a connection may hold that wait for their streams, unless one alone may hold more. Streams are many; Envoy has no
/// limit here.
const MOST_WAITING: usize = 16 * 1024 * 1024;

/// What a block counts beside its octets: it takes that much, however short it is.
const BLOCK: usize = 64;

/// Why a connection ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Violation {
    #[error("the metadata of a stream is too large")]
    TooLarge,
    #[error("too much metadata waits for its streams")]
    TooMuch,
    #[error(transparent)]
    Malformed(#[from] Malformed),
}

/// A block of fields, checked and written anew.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct MetadataBlock(Vec<u8>);

impl MetadataBlock {
    fn cost(&self) -> usize {
        self.0.len() + BLOCK
    }
}

/// How far one direction of a stream has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Mark {
    /// HEADERS frames.
    heads: u32,
    /// Octets of the body.
    octets: u64,
}

impl Mark {
    fn has_reached(self, other: Self) -> bool {
        self.heads >= other.heads && self.octets >= other.octets
    }
}

/// Whether a stream has somebody to read and write it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Owner {
    /// Not yet: the codec has not handed it over.
    Awaited,
    Present,
    Gone,
}

#[derive(Debug)]
struct StreamState {
    owner: Owner,
    /// The peer may send metadata: there was a head, and no end.
    receives: bool,
    /// What the peer has sent.
    seen: Mark,
    /// Octets of metadata so far.
    received: usize,
    /// A block without an end.
    unfinished: Vec<u8>,
    /// Blocks for the owner.
    inbound: VecDeque<(Mark, MetadataBlock)>,
    waker: Option<Waker>,
    /// The peer may be sent metadata: there was no end.
    sends: bool,
    /// What was written.
    written: Mark,
    /// Blocks for the peer.
    outbound: VecDeque<(Mark, MetadataBlock)>,
}

impl StreamState {
    fn new(owner: Owner) -> Self {
        Self {
            owner,
            receives: owner == Owner::Awaited,
            seen: Mark::default(),
            received: 0,
            unfinished: Vec::new(),
            inbound: VecDeque::new(),
            waker: None,
            sends: true,
            written: Mark::default(),
            outbound: VecDeque::new(),
        }
    }

    fn is_over(&self) -> bool {
        match self.owner {
            Owner::Awaited => !self.sends,
            Owner::Present => false,
            Owner::Gone => !self.sends || self.outbound.is_empty(),
        }
    }

    fn register(&mut self, cx: &Context<'_>) {
        if !self.waker.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
            self.waker = Some(cx.waker().clone());
        }
    }
}

/// What blocks count.
fn cost(blocks: &VecDeque<(Mark, MetadataBlock)>) -> usize {
    blocks.iter().map(|(_, block)| block.cost()).sum()
}

#[derive(Debug, Default)]
struct Inner {
    streams: HashMap<u32, StreamState>,
    /// Streams with something in `outbound`.
    queued: Vec<u32>,
    /// What all blocks of all streams count, in both directions.
    waiting: usize,
    /// The peer does not read what it is sent.
    is_flooded: bool,
    /// The latest stream that the peer opened.
    latest: u32,
    /// Blocks without fields.
    empty: u64,
    /// The task of the connection.
    task: Option<Waker>,
}

impl Inner {
    /// Ends what is over of a stream after something happened to it.
    fn settle(&mut self, id: u32) {
        if self.streams.get(&id).is_some_and(StreamState::is_over)
            && let Some(stream) = self.streams.remove(&id)
        {
            self.waiting -= stream.unfinished.len() + cost(&stream.inbound) + cost(&stream.outbound);
            self.queued.retain(|queued| *queued != id);
        }
    }
}

/// The streams of a connection whose peer may send metadata and is sent such.
#[derive(Debug)]
pub(crate) struct MetadataStreams {
    side: Side,
    /// `max_metadata_size`
    max_size: usize,
    /// The codec serves no more streams at a time. What is beyond it ignores, after GOAWAY for example.
    max_streams: usize,
    inner: RefCell<Inner>,
}

impl MetadataStreams {
    pub(crate) fn new(side: Side, max_size: usize, max_streams: u32) -> Rc<Self> {
        let max_streams = usize::try_from(max_streams).unwrap_or(usize::MAX);
        Rc::new(Self { side, max_size, max_streams, inner: RefCell::default() })
    }

    /// The metadata of a stream that the codec handed over or opened.
    pub(crate) fn take(self: &Rc<Self>, id: u32) -> MetadataStream {
        let inner = &mut *self.inner.borrow_mut();
        match self.side {
            Side::Client => {
                inner.streams.insert(id, StreamState { receives: true, ..StreamState::new(Owner::Present) });
            }
            // (It may be over already.)
            Side::Server => {
                if let Some(stream) = inner.streams.get_mut(&id) {
                    stream.owner = Owner::Present;
                }
            }
        }
        MetadataStream { streams: self.clone(), id, read: Mark::default(), handed: Mark::default() }
    }

    /// A HEADERS frame came.
    fn on_head(&self, id: u32, is_end: bool) {
        let inner = &mut *self.inner.borrow_mut();
        let is_new = self.side == Side::Server && id % 2 == 1 && id > inner.latest;
        if is_new {
            inner.latest = id;
            if inner.streams.len() < self.max_streams {
                inner.streams.insert(id, StreamState::new(Owner::Awaited));
            }
        }
        if let Some(stream) = inner.streams.get_mut(&id) {
            stream.seen.heads += 1;
        }
        if is_end {
            Self::on_end(inner, id);
        }
    }

    /// A DATA frame came.
    fn on_data(&self, id: u32, octets: u32, is_end: bool) {
        let inner = &mut *self.inner.borrow_mut();
        if let Some(stream) = inner.streams.get_mut(&id) {
            stream.seen.octets += u64::from(octets);
        }
        if is_end {
            Self::on_end(inner, id);
        }
    }

    /// The peer sends nothing more.
    fn on_end(inner: &mut Inner, id: u32) {
        if let Some(stream) = inner.streams.get_mut(&id) {
            stream.receives = false;
            inner.waiting -= std::mem::take(&mut stream.unfinished).len();
        }
    }

    /// The stream was reset by either side. What came before it may still be read.
    fn on_reset(&self, id: u32) {
        let inner = &mut *self.inner.borrow_mut();
        Self::on_end(inner, id);
        Self::on_end_sent(inner, id);
    }

    /// A piece of a block came.
    fn on_piece(&self, id: u32, piece: &[u8]) -> Result<(), Violation> {
        let inner = &mut *self.inner.borrow_mut();
        let Some(stream) = inner.streams.get_mut(&id).filter(|stream| stream.receives) else {
            return Ok(());
        };
        stream.received += piece.len();
        if stream.received > self.max_size {
            return Err(Violation::TooLarge);
        }
        if inner.waiting + piece.len() > MOST_WAITING.max(self.max_size) {
            return Err(Violation::TooMuch);
        }
        inner.waiting += piece.len();
        stream.unfinished.extend_from_slice(piece);
        Ok(())
    }

    /// A block is complete.
    fn on_block(&self, id: u32) -> Result<(), Violation> {
        let inner = &mut *self.inner.borrow_mut();
        let Some(stream) = inner.streams.get_mut(&id).filter(|stream| stream.receives) else {
            return Ok(());
        };
        let block = std::mem::take(&mut stream.unfinished);
        inner.waiting -= block.len();
        match hpack::renew(&block)? {
            Some(block) => {
                let block = MetadataBlock(block);
                inner.waiting += block.cost();
                stream.inbound.push_back((stream.seen, block));
                if let Some(waker) = stream.waker.take() {
                    waker.wake();
                }
            }
            None => inner.empty += 1,
        }
        Ok(())
    }

    /// How many blocks without fields came since this was asked.
    fn take_empty(&self) -> u64 {
        std::mem::take(&mut self.inner.borrow_mut().empty)
    }

    /// A HEADERS frame leaves.
    fn on_head_sent(&self, id: u32, is_end: bool) {
        self.on_sent(id, is_end, |written| written.heads += 1);
    }

    /// A DATA frame leaves.
    fn on_data_sent(&self, id: u32, octets: u32, is_end: bool) {
        self.on_sent(id, is_end, |written| written.octets += u64::from(octets));
    }

    fn on_sent(&self, id: u32, is_end: bool, note: impl FnOnce(&mut Mark)) {
        let inner = &mut *self.inner.borrow_mut();
        let Some(stream) = inner.streams.get_mut(&id) else { return };
        note(&mut stream.written);
        if let Some(waker) = stream.waker.take() {
            waker.wake();
        }
        if is_end {
            Self::on_end_sent(inner, id);
        }
    }

    /// The peer is sent nothing more.
    fn on_end_sent(inner: &mut Inner, id: u32) {
        let Some(stream) = inner.streams.get_mut(&id) else { return };
        stream.sends = false;
        let dropped = std::mem::take(&mut stream.outbound);
        if !dropped.is_empty() {
            inner.waiting -= cost(&dropped);
            inner.queued.retain(|queued| *queued != id);
        }
        inner.settle(id);
    }

    /// Whether more is to be written than may wait. (Envoy closes a connection whose peer lets that many frames wait.)
    fn is_flooded(&self) -> bool {
        self.inner.borrow().is_flooded
    }

    /// Whether any block is to be written, now or later.
    fn is_queued(&self) -> bool {
        !self.inner.borrow().queued.is_empty()
    }

    /// A block whose turn it is now, between two frames, and its stream.
    fn next_due(&self) -> Option<(u32, MetadataBlock)> {
        let inner = &mut *self.inner.borrow_mut();
        let (at, id) = inner.queued.iter().copied().enumerate().find(|(_, id)| {
            let stream = inner.streams.get(id);
            let due = stream.and_then(|stream| Some(stream.written.has_reached(stream.outbound.front()?.0)));
            due.unwrap_or(true)
        })?;
        let stream = inner.streams.get_mut(&id);
        let block = stream.and_then(|stream| {
            let (_, block) = stream.outbound.pop_front()?;
            inner.waiting -= block.cost();
            Some((block, stream.outbound.is_empty()))
        });
        if block.as_ref().is_none_or(|(_, was_last)| *was_last) {
            inner.queued.swap_remove(at);
        }
        inner.settle(id);
        block.map(|(block, _)| (id, block))
    }

    /// Has blocks that are to be written wake the task of the connection.
    fn register(&self, cx: &Context<'_>) {
        let task = &mut self.inner.borrow_mut().task;
        if !task.as_ref().is_some_and(|task| task.will_wake(cx.waker())) {
            *task = Some(cx.waker().clone());
        }
    }
}

/// The metadata of one stream, in the hands of who reads and writes it, and says how far it is with that.
#[derive(Debug)]
pub(crate) struct MetadataStream {
    streams: Rc<MetadataStreams>,
    id: u32,
    read: Mark,
    handed: Mark,
}

impl MetadataStream {
    /// A head was read.
    pub(crate) fn head_read(&mut self) {
        self.read.heads += 1;
    }

    /// The last head before the body was read.
    pub(crate) fn final_head_read(&mut self) {
        self.read.heads = u32::MAX;
    }

    /// So many octets of the body were read.
    pub(crate) fn data_read(&mut self, octets: usize) {
        self.read.octets += octets as u64;
    }

    /// A head was handed to the codec.
    pub(crate) fn head_handed(&mut self) {
        self.handed.heads += 1;
    }

    /// So many octets of the body were handed to the codec.
    pub(crate) fn data_handed(&mut self, octets: usize) {
        self.handed.octets += octets as u64;
    }

    /// The next block, if everything that the peer sent before it was read.
    pub(crate) fn poll_next(&self, cx: &Context<'_>) -> Poll<MetadataBlock> {
        let inner = &mut *self.streams.inner.borrow_mut();
        let Some(stream) = inner.streams.get_mut(&self.id) else { return Poll::Pending };
        if stream.inbound.front().is_some_and(|(mark, _)| self.read.has_reached(*mark))
            && let Some((_, block)) = stream.inbound.pop_front()
        {
            inner.waiting -= block.cost();
            return Poll::Ready(block);
        }
        stream.register(cx);
        Poll::Pending
    }

    /// Ready when the heads that were handed to the codec have left. Until then it does not say what flow control lets pass.
    pub(crate) fn poll_begun(&self, cx: &Context<'_>) -> Poll<()> {
        let inner = &mut *self.streams.inner.borrow_mut();
        match inner.streams.get_mut(&self.id) {
            Some(stream) if stream.written.heads < self.handed.heads => {
                stream.register(cx);
                Poll::Pending
            }
            _ => Poll::Ready(()),
        }
    }

    /// Whether there are blocks that were not read.
    pub(crate) fn has_next(&self) -> bool {
        let inner = self.streams.inner.borrow();
        inner.streams.get(&self.id).is_some_and(|stream| !stream.inbound.is_empty())
    }

    /// Sends a block behind everything that was handed to the codec.
    pub(crate) fn send(&self, block: MetadataBlock) {
        let inner = &mut *self.streams.inner.borrow_mut();
        let Some(stream) = inner.streams.get_mut(&self.id).filter(|stream| stream.sends) else { return };
        if inner.waiting + block.cost() > MOST_WAITING.max(self.streams.max_size) {
            inner.is_flooded = true;
        } else {
            inner.waiting += block.cost();
            stream.outbound.push_back((self.handed, block));
            if stream.outbound.len() == 1 {
                inner.queued.push(self.id);
            }
        }
        if let Some(task) = &inner.task {
            task.wake_by_ref();
        }
    }
}

impl Drop for MetadataStream {
    fn drop(&mut self) {
        let inner = &mut *self.streams.inner.borrow_mut();
        let Some(stream) = inner.streams.get_mut(&self.id) else { return };
        stream.owner = Owner::Gone;
        stream.receives = false;
        stream.waker = None;
        inner.waiting -= cost(&std::mem::take(&mut stream.inbound));
        inner.waiting -= std::mem::take(&mut stream.unfinished).len();
        if self.streams.side == Side::Client && stream.written.heads == 0 {
            // The codec may never open it.
            stream.sends = false;
        }
        inner.settle(self.id);
    }
}

#[cfg(test)]
mod tests;
