//! When an HTTP/2 connection writes: one that carries many streams gathers what the loop has ready for them, and sends it as one.
//!
//! A write over loopback or a fast network is dear by itself, and wakes the peer; so many small ones cost both sides more than the
//! messages in them. Streams that are woken together leave together anyway, because the connection's task runs behind theirs. Who
//! gathers waits for one turn more: for what sockets have brought meanwhile, and for the streams that this wakes. Nothing waits
//! for time: where nothing has come, the turn ends at once. A connection with one stream at a time never waits.

use std::future::Future;
use std::pin::pin;
use std::task::Context;

/// So many heads of messages since the last write tell of many streams. (One message has two at most, with its trailers, and
/// informational ones are rare.)
const MANY: u64 = 4;
/// So many octets are worth a write by themselves: most of what the codec gathers.
const ENOUGH: usize = 12 * 1024;

/// What the writes of one connection wait for.
#[derive(Debug, Default)]
pub(crate) struct Gather {
    /// Heads that the peer had sent when something was written last.
    heads: u64,
    stage: Stage,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Stage {
    #[default]
    Open,
    /// Sockets are asked first.
    Sockets,
    /// The streams that these woke run first.
    Streams,
}

impl Gather {
    /// Whether a write of `length` octets waits, when the peer has sent so many `heads`; the task is polled again then.
    #[inline]
    pub(crate) fn waits(&mut self, heads: u64, length: usize, cx: &mut Context<'_>) -> bool {
        let is_busy = self.stage != Stage::Open || heads >= self.heads + MANY;
        if is_busy && length < ENOUGH && self.advance(cx) {
            return true;
        }
        *self = Self { heads, stage: Stage::Open };
        false
    }

    fn advance(&mut self, cx: &mut Context<'_>) -> bool {
        self.stage = match self.stage {
            Stage::Open => {
                // (Its task is woken when the sockets were looked at.)
                let _ = pin!(tokio::task::yield_now()).poll(cx);
                Stage::Sockets
            }
            Stage::Sockets => {
                // To the end of the queue.
                cx.waker().wake_by_ref();
                Stage::Streams
            }
            Stage::Streams => return false,
        };
        true
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::future::poll_fn;
    use std::rc::Rc;
    use std::task::Poll;

    use tokio::net::UnixStream;
    use tokio::runtime::LocalOptions;
    use tokio::task::spawn_local;

    use super::*;

    /// How often the task is polled until a write may leave.
    async fn turns(gather: &mut Gather, heads: u64, length: usize) -> usize {
        let mut turns = 0;
        poll_fn(|cx| {
            turns += 1;
            if gather.waits(heads, length, cx) { Poll::Pending } else { Poll::Ready(()) }
        })
        .await;
        turns
    }

    #[tokio::test]
    async fn many_streams_wait_for_a_turn_and_one_never() {
        let mut gather = Gather::default();
        assert_eq!(turns(&mut gather, 1, 100).await, 1);
        assert_eq!(turns(&mut gather, 3, 100).await, 1, "head and trailers of one");
        assert_eq!(turns(&mut gather, 7, 100).await, 3);
        assert_eq!(turns(&mut gather, 7, 100).await, 1, "nothing has come since");
        assert_eq!(turns(&mut gather, 100, ENOUGH).await, 1, "it is much already");
    }

    /// What a socket has brought by then leaves with the write: the task that waits for it runs first.
    #[test]
    fn who_is_woken_meanwhile_runs_before_the_write() {
        let mut builder = tokio::runtime::Builder::new_current_thread();
        let runtime = builder.enable_all().build_local(LocalOptions::default()).unwrap();
        runtime.block_on(async {
            let (far, near) = UnixStream::pair().unwrap();
            let queued = Rc::new(Cell::new(0));
            let stream = spawn_local({
                let queued = queued.clone();
                async move {
                    near.readable().await.unwrap();
                    queued.set(queued.get() + 1);
                }
            });
            // It waits; and nobody has asked the socket since the octet is there.
            tokio::task::yield_now().await;
            assert_eq!(far.try_write(b"x").unwrap(), 1);
            let write = |mut gather: Gather, heads| {
                let queued = queued.clone();
                spawn_local(async move {
                    turns(&mut gather, heads, 1).await;
                    queued.get()
                })
            };
            let (alone, gathered) = (write(Gather::default(), 1), write(Gather::default(), MANY));
            assert_eq!((alone.await.unwrap(), gathered.await.unwrap()), (0, 1));
            stream.await.unwrap();
        });
    }
}
