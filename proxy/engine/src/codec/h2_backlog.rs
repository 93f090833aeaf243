//! Pieces of a response behind the one that waits for the client's HTTP/2 window.
//!
//! They let the end of a response be seen, and its upstream go, although the client takes nothing. All streams of a
//! connection together hold no more than `per_connection_buffer_limit_bytes` so, and the piece that passes the limit.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use bytes::Bytes;

/// What one connection may hold back.
#[derive(Clone, Debug)]
pub(crate) struct Allowance {
    shared: Rc<Shared>,
    limit: usize,
}

#[derive(Debug, Default)]
struct Shared {
    held: Cell<usize>,
    /// Streams so far.
    streams: Cell<u64>,
    /// Those that wait for room which another one has.
    waiting: RefCell<Vec<(u64, Waker)>>,
}

impl Allowance {
    /// An allowance of `limit` octets.
    pub(crate) fn new(limit: usize) -> Self {
        Self { shared: Rc::default(), limit }
    }
}

/// The pieces of one stream.
#[derive(Debug)]
pub(crate) struct Backlog {
    stream: u64,
    pieces: VecDeque<Bytes>,
    /// What they take together.
    held: usize,
    allowance: Allowance,
}

impl Backlog {
    /// Holds nothing yet.
    pub(crate) fn new(allowance: Allowance) -> Self {
        let stream = allowance.shared.streams.get();
        allowance.shared.streams.set(stream + 1);
        Self { stream, pieces: VecDeque::new(), held: 0, allowance }
    }

    /// Ready when another piece may be added.
    pub(crate) fn poll_room(&self, cx: &mut Context<'_>) -> Poll<()> {
        let shared = &self.allowance.shared;
        if shared.held.get() < self.allowance.limit {
            return Poll::Ready(());
        }
        let mut waiting = shared.waiting.borrow_mut();
        match waiting.iter_mut().find(|(stream, _)| *stream == self.stream) {
            Some((_, waker)) => waker.clone_from(cx.waker()),
            None => waiting.push((self.stream, cx.waker().clone())),
        }
        Poll::Pending
    }

    /// Whether it holds nothing.
    pub(crate) fn is_empty(&self) -> bool {
        self.pieces.is_empty()
    }

    /// What it holds, in octets.
    pub(crate) fn held(&self) -> usize {
        self.held
    }

    /// Adds a piece.
    pub(crate) fn push(&mut self, piece: Bytes) {
        let held = &self.allowance.shared.held;
        held.set(held.get() + cost(&piece));
        self.held += cost(&piece);
        self.pieces.push_back(piece);
    }

    /// The first piece.
    pub(crate) fn pop(&mut self) -> Option<Bytes> {
        let piece = self.pieces.pop_front()?;
        self.held -= cost(&piece);
        let Shared { held, waiting, .. } = &*self.allowance.shared;
        held.set(held.get() - cost(&piece));
        if held.get() < self.allowance.limit {
            // Whoever is woken may look here at once.
            waiting.take().into_iter().for_each(|(_, waker)| waker.wake());
        }
        Some(piece)
    }
}

/// What a piece takes: its host may send one octet at a time.
fn cost(piece: &Bytes) -> usize {
    size_of::<Bytes>() + piece.len()
}

impl Drop for Backlog {
    fn drop(&mut self) {
        while self.pop().is_some() {}
        self.allowance.shared.waiting.borrow_mut().retain(|(stream, _)| *stream != self.stream);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::task::Wake;

    #[derive(Default)]
    struct Wakes(AtomicUsize);

    impl Wake for Wakes {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[test]
    fn pieces_of_one_octet_are_limited_by_what_they_cost() {
        let mut backlog = Backlog::new(Allowance::new(1000));
        let mut cx = Context::from_waker(Waker::noop());
        let pieces = (0..1000).take_while(|_| {
            let has_room = backlog.poll_room(&mut cx).is_ready();
            backlog.push(Bytes::from_static(b"x"));
            has_room
        });
        assert_eq!(pieces.count(), 1000usize.div_ceil(size_of::<Bytes>() + 1));
    }

    #[test]
    fn streams_of_a_connection_share_its_allowance() {
        let allowance = Allowance::new(2 * size_of::<Bytes>() + 10);
        let (mut one, mut other) = (Backlog::new(allowance.clone()), Backlog::new(allowance));
        let wakes = Arc::new(Wakes::default());
        let waker = Waker::from(wakes.clone());
        let mut cx = Context::from_waker(&waker);
        let mut has_room = |backlog: &Backlog| backlog.poll_room(&mut cx).is_ready();
        one.push(Bytes::from_static(b"123456"));
        assert!(has_room(&one) && has_room(&other));
        other.push(Bytes::from_static(b"123456"));
        assert!(!has_room(&one) && !has_room(&other));
        assert_eq!(wakes.0.load(Ordering::Relaxed), 0);
        assert_eq!(one.pop().as_deref(), Some(&b"123456"[..]));
        assert_eq!(wakes.0.load(Ordering::Relaxed), 2, "room that is given back wakes who waits for it");
        assert!(one.is_empty() && one.pop().is_none());
        assert!(has_room(&other));
        other.push(Bytes::from_static(b"1234"));
        assert!(!has_room(&one) && !has_room(&one));
        let third = Backlog::new(one.allowance.clone());
        assert!(!has_room(&third));
        drop(third);
        assert_eq!(one.allowance.shared.waiting.borrow().len(), 1, "who is gone waits no more");
        drop(other);
        assert_eq!(wakes.0.load(Ordering::Relaxed), 3);
        assert!(has_room(&one));
    }
}
