//! Pieces of a response behind the one that waits for the client's HTTP/2 window.
//!
//! They let the end of a response be seen, and its upstream go, although the client takes nothing. All streams of a
//! connection together hold no more than `per_connection_buffer_limit_bytes` so, and the piece that passes the limit.

use std::cell::Cell;
use std::collections::VecDeque;
use std::rc::Rc;

use bytes::Bytes;

/// What one connection may hold back.
#[derive(Clone, Debug)]
pub(crate) struct Allowance {
    held: Rc<Cell<usize>>,
    limit: usize,
}

impl Allowance {
    /// An allowance of `limit` octets.
    pub(crate) fn new(limit: usize) -> Self {
        Self { held: Rc::default(), limit }
    }
}

/// The pieces of one stream.
#[derive(Debug)]
pub(crate) struct Backlog {
    pieces: VecDeque<Bytes>,
    allowance: Allowance,
}

impl Backlog {
    /// Holds nothing yet.
    pub(crate) fn new(allowance: Allowance) -> Self {
        Self { pieces: VecDeque::new(), allowance }
    }

    /// Whether another piece may be added.
    pub(crate) fn has_room(&self) -> bool {
        self.allowance.held.get() < self.allowance.limit
    }

    /// Whether it holds nothing.
    pub(crate) fn is_empty(&self) -> bool {
        self.pieces.is_empty()
    }

    /// Adds a piece.
    pub(crate) fn push(&mut self, piece: Bytes) {
        self.allowance.held.set(self.allowance.held.get() + cost(&piece));
        self.pieces.push_back(piece);
    }

    /// The first piece.
    pub(crate) fn pop(&mut self) -> Option<Bytes> {
        let piece = self.pieces.pop_front()?;
        self.allowance.held.set(self.allowance.held.get() - cost(&piece));
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
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_of_one_octet_are_limited_by_what_they_cost() {
        let mut backlog = Backlog::new(Allowance::new(1000));
        let pieces = (0..1000).take_while(|_| {
            let has_room = backlog.has_room();
            backlog.push(Bytes::from_static(b"x"));
            has_room
        });
        assert_eq!(pieces.count(), 1000usize.div_ceil(size_of::<Bytes>() + 1));
    }

    #[test]
    fn streams_of_a_connection_share_its_allowance() {
        let allowance = Allowance::new(2 * size_of::<Bytes>() + 10);
        let (mut one, mut other) = (Backlog::new(allowance.clone()), Backlog::new(allowance));
        one.push(Bytes::from_static(b"123456"));
        assert!(one.has_room() && other.has_room());
        other.push(Bytes::from_static(b"123456"));
        assert!(!one.has_room() && !other.has_room());
        assert_eq!(one.pop().as_deref(), Some(&b"123456"[..]));
        assert!(one.is_empty() && one.pop().is_none());
        assert!(other.has_room());
        other.push(Bytes::from_static(b"1234"));
        assert!(!one.has_room());
        drop(other);
        assert!(one.has_room());
    }
}
