//! The body of a copy, which comes along with the request that is copied.
//!
//! Who has the request feeds it; the copy takes pieces as its host takes them, and nobody waits for it. A copy that is left behind too
//! far, or whose request ends before its time, is given up.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::future::poll_fn;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::HeaderMap;
use proxy_core::stream_error::UpstreamReset;

use crate::local::clock;
use crate::upstream::stream::Upstream;

/// How long a copy may take from the end of its request on, if its route has no timeout.
const LONGEST: Duration = Duration::from_secs(300);

/// What a piece takes besides its bytes: clients choose how small the pieces are.
const OF_PIECE: usize = 2 * size_of::<Bytes>();

/// Where the pieces wait.
#[derive(Default)]
struct Pipe {
    pieces: VecDeque<Bytes>,
    /// Bytes that they take.
    waiting: usize,
    /// The end, with trailers if there are any, that was not taken.
    end: Option<Option<HeaderMap>>,
    /// When the end came.
    ended: Option<Instant>,
    /// There will be no end.
    is_given_up: bool,
    /// Something was taken.
    is_begun: bool,
    waker: Option<Waker>,
}

impl Pipe {
    fn wake(&mut self) {
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }
}

/// Feeds a copy. Dropped before the end, it has the copy given up.
pub(crate) struct Feed(Rc<RefCell<Pipe>>);

/// What is fed.
pub(crate) struct CopyBody(Rc<RefCell<Pipe>>);

/// A body that is fed.
pub(crate) fn body() -> (Feed, CopyBody) {
    let pipe = Rc::<RefCell<Pipe>>::default();
    (Feed(pipe.clone()), CopyBody(pipe))
}

impl Feed {
    /// Adds a piece, unless what waits takes more than `most` bytes already.
    pub(crate) fn push(&self, data: Bytes, most: usize) -> Result<(), Unfed> {
        if Rc::strong_count(&self.0) == 1 {
            return Err(Unfed::Over);
        }
        let mut pipe = self.0.borrow_mut();
        if pipe.waiting > most {
            return Err(Unfed::Behind);
        }
        if !data.is_empty() {
            pipe.waiting += data.len() + OF_PIECE;
            pipe.pieces.push_back(data);
            pipe.wake();
        }
        Ok(())
    }

    /// Nothing more comes but these trailers.
    pub(crate) fn finish(self, trailers: Option<HeaderMap>) {
        let mut pipe = self.0.borrow_mut();
        pipe.end = Some(trailers);
        pipe.ended = Some(clock::now());
        pipe.wake();
    }
}

impl Drop for Feed {
    fn drop(&mut self) {
        let mut pipe = self.0.borrow_mut();
        if pipe.ended.is_none() {
            pipe.is_given_up = true;
            pipe.wake();
        }
    }
}

/// Why a copy is not fed any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unfed {
    /// It takes less than comes.
    Behind,
    /// It is over.
    Over,
}

impl CopyBody {
    /// Whether there is nothing but the head.
    pub(super) fn is_bare(&self) -> bool {
        let pipe = self.0.borrow();
        pipe.pieces.is_empty() && matches!(pipe.end, Some(None))
    }

    /// Whether nothing of it is gone.
    pub(super) fn is_whole(&self) -> bool {
        !self.0.borrow().is_begun
    }

    /// Another hand on it.
    pub(super) fn share(&self) -> Self {
        Self(self.0.clone())
    }

    /// Passes on what there is room for.
    pub(super) fn poll_pass(
        &self,
        up: &mut Upstream,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), UpstreamReset>> {
        loop {
            let has_more = {
                let pipe = self.0.borrow();
                !pipe.pieces.is_empty() || pipe.end.is_some()
            };
            if !has_more {
                return Poll::Pending;
            }
            if let Err(reset) = std::task::ready!(up.poll_room(cx)) {
                return Poll::Ready(Err(reset));
            }
            let mut pipe = self.0.borrow_mut();
            pipe.is_begun = true;
            if let Some(piece) = pipe.pieces.pop_front() {
                pipe.waiting -= piece.len() + OF_PIECE;
                up.data(piece);
            } else if let Some(trailers) = pipe.end.take() {
                up.finish(trailers);
                return Poll::Ready(Ok(()));
            }
        }
    }

    /// When a copy that may take `timeout` is to be over, once that is known. The task is told of whatever comes.
    pub(super) fn deadline(&self, timeout: Option<Duration>, cx: &mut Context<'_>) -> Option<Instant> {
        let mut pipe = self.0.borrow_mut();
        match &mut pipe.waker {
            Some(waker) => waker.clone_from(cx.waker()),
            none => *none = Some(cx.waker().clone()),
        }
        pipe.ended.map(|ended| ended + timeout.unwrap_or(LONGEST))
    }

    /// Ready when the copy is given up.
    pub(super) async fn given_up(&self) {
        // (Who sends has the task woken.)
        poll_fn(|_| match self.0.borrow().is_given_up {
            true => Poll::Ready(()),
            false => Poll::Pending,
        })
        .await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOST: usize = 64 * 1024;

    /// How many pieces of that many bytes wait at most.
    fn room_for(length: usize) -> usize {
        let (feed, _body) = body();
        let piece = Bytes::from(vec![0; length]);
        let count = (0..10 * MOST).take_while(|_| feed.push(piece.clone(), MOST).is_ok()).count();
        assert_eq!(feed.push(piece, MOST), Err(Unfed::Behind));
        count
    }

    #[test]
    fn small_pieces_are_not_free() {
        assert_eq!(room_for(MOST), 1);
        assert_eq!(room_for(16 * 1024), 4);
        assert_eq!(room_for(1), MOST / (1 + OF_PIECE) + 1);
    }

    #[test]
    fn who_is_gone_is_not_fed() {
        let (feed, body) = body();
        assert_eq!(feed.push(Bytes::from_static(b"a"), MOST), Ok(()));
        drop(body);
        assert_eq!(feed.push(Bytes::from_static(b"a"), MOST), Err(Unfed::Over));
    }
}
