//! Pipes, through which the kernel moves bytes from one socket to another (`splice(2)`): they never enter this process.
//!
//! Measured on loopback with bodies of 1 MiB and eight connections, in turns: 345 us of CPU for each through a pipe of the
//! default size, 325 with four times that size, 525 through a buffer of 64 KiB, 610 through one of 16 KiB.
//!
//! All of these were with the congestion control BBR, which sends at a pace: of what is handed over at once all but the first segment waits for
//! a timer, and setting it took 37 % of the time (`perf`). With pieces of 32 KiB, and others' turns between them, it is seldom set: 150 to
//! 217 us where whole pipes took 286 to 395 in the same minutes, on a busy machine (nine runs each). Without a pace (`reno`) whole pipes are best: 86 to
//! 97 us, in pieces 104 to 110.

use std::cell::RefCell;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, ready};

use rustix::pipe::{PipeFlags, fcntl_setpipe_size, pipe_with};

use super::connection::Connection;

/// Bytes that a pipe holds at least: the kernel's default.
pub const CAPACITY: usize = 64 * 1024;
/// Bytes that a large one holds.
const LARGE: usize = 4 * CAPACITY;
/// Most large pipes of the process: a quarter of what the kernel lets a user have in pipes (`fs.pipe-user-pages-soft`) before
/// it makes new ones tiny.
const MOST_LARGE: usize = 64;

/// How many there are.
static LARGE_PIPES: AtomicUsize = AtomicUsize::new(0);
/// Bytes that leave at once where the kernel sends at a pace.
const PIECE: usize = 32 * 1024;
/// Most empty pipes that a worker keeps for the next response body.
const KEPT: usize = 16;

thread_local! {
    static FREE: RefCell<Vec<Pipe>> = const { RefCell::new(Vec::new()) };
}

/// A pipe, and how much is in it.
#[derive(Debug)]
pub struct Pipe {
    read: OwnedFd,
    write: OwnedFd,
    capacity: usize,
    limit: usize,
    filled: usize,
    /// Whether what it is drained to is sent at a pace, once that is known.
    paced: Option<bool>,
    /// A piece has left: others have their turn before the next one.
    rests: bool,
}

impl Drop for Pipe {
    fn drop(&mut self) {
        if self.capacity == LARGE {
            LARGE_PIPES.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

/// Makes the pipe behind `pipe` large, if there are not too many; how much it holds.
fn enlarge(pipe: &OwnedFd) -> usize {
    if LARGE_PIPES.fetch_add(1, Ordering::Relaxed) < MOST_LARGE && fcntl_setpipe_size(pipe, LARGE).is_ok() {
        return LARGE;
    }
    LARGE_PIPES.fetch_sub(1, Ordering::Relaxed);
    CAPACITY
}

impl Pipe {
    /// An empty pipe that never holds more than `limit` bytes; `None` if the kernel has none to give.
    pub fn take(limit: usize) -> Option<Self> {
        let pipe = FREE.with_borrow_mut(Vec::pop).or_else(|| {
            let (read, write) = pipe_with(PipeFlags::NONBLOCK | PipeFlags::CLOEXEC).ok()?;
            let capacity = enlarge(&write);
            Some(Self { read, write, capacity, limit, filled: 0, paced: None, rests: false })
        });
        pipe.map(|mut pipe| {
            (pipe.limit, pipe.paced, pipe.rests) = (limit, None, false);
            pipe
        })
    }

    /// Gives a pipe back; what is in it is lost.
    pub fn give(self) {
        FREE.with_borrow_mut(|free| {
            if self.filled == 0 && free.len() < KEPT {
                free.push(self);
            }
        });
    }

    /// Whether nothing is in it.
    pub fn is_empty(&self) -> bool {
        self.filled == 0
    }

    /// Moves up to `most` bytes into the empty pipe; 0 means that `from` will send no more.
    pub fn poll_fill(
        &mut self,
        from: &Connection,
        cx: &mut Context<'_>,
        most: usize,
    ) -> Poll<io::Result<usize>> {
        let filled = from.poll_splice_to(cx, &self.write, most.min(self.capacity).min(self.limit));
        // Who waits has given the others their turn.
        self.rests &= filled.is_ready();
        let count = ready!(filled)?;
        self.filled += count;
        Poll::Ready(Ok(count))
    }

    /// Moves some of what is in the pipe on. Always to the same connection.
    pub fn poll_drain(&mut self, to: &Connection, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let paced = *self.paced.get_or_insert_with(|| to.is_paced());
        if std::mem::take(&mut self.rests) {
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        let most = if paced { PIECE } else { self.filled };
        let count = ready!(to.poll_splice_from(cx, &self.read, self.filled.min(most)))?;
        self.filled -= count;
        self.rests = paced;
        Poll::Ready(Ok(count))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::task::Wake;

    use rustix::net::sockopt::set_tcp_congestion;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::{TcpListener, TcpStream};

    use super::*;
    use crate::net::connection::Socket;

    async fn pair() -> (Connection, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (near, far) = tokio::join!(TcpStream::connect(listener.local_addr().unwrap()), listener.accept());
        (Connection::new(Socket::Tcp(near.unwrap())), far.unwrap().0)
    }

    /// Counts how often it is woken.
    #[derive(Default)]
    struct Woken(AtomicUsize);

    impl Wake for Woken {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// What is sent at a pace leaves in pieces, with a turn of the others between them; the rest leaves at once.
    #[tokio::test]
    async fn pieces_leave_at_a_pace() {
        for paced in [false, true] {
            let (from, mut client) = pair().await;
            let (to, mut server) = pair().await;
            client.write_all(&[7; CAPACITY]).await.unwrap();
            let mut pipe = Pipe::take(usize::MAX).unwrap();
            pipe.paced = Some(paced);
            while pipe.filled < CAPACITY {
                std::future::poll_fn(|cx| pipe.poll_fill(&from, cx, CAPACITY)).await.unwrap();
            }
            let woken = Arc::new(Woken::default());
            let waker = woken.clone().into();
            let mut cx = Context::from_waker(&waker);
            let mut moved = Vec::new();
            while !pipe.is_empty() {
                match pipe.poll_drain(&to, &mut cx) {
                    Poll::Ready(count) => moved.push(count.unwrap()),
                    Poll::Pending => moved.push(0),
                }
                assert!(moved.len() < 100, "nothing moves: {moved:?}");
            }
            let expected = if paced { vec![PIECE, 0, PIECE] } else { vec![CAPACITY] };
            assert_eq!(moved, expected);
            assert_eq!(woken.0.load(Ordering::Relaxed), usize::from(paced));
            let mut received = vec![0; CAPACITY];
            server.read_exact(&mut received).await.unwrap();
            assert!(received.iter().all(|byte| *byte == 7));
            // who has nothing to move waits for that, and for nobody's turn
            assert!(pipe.poll_fill(&from, &mut cx, CAPACITY).is_pending());
            assert!(!pipe.rests);
        }
    }

    #[tokio::test]
    async fn bbr_sends_at_a_pace() {
        let (plain, _far) = pair().await;
        let (paced, _other) = pair().await;
        let Socket::Tcp(socket) = plain.socket() else { unreachable!("a TCP connection") };
        set_tcp_congestion(socket, "reno").unwrap();
        assert!(!plain.is_paced());
        // a kernel need not have it
        let Socket::Tcp(socket) = paced.socket() else { unreachable!("a TCP connection") };
        let has_bbr = set_tcp_congestion(socket, "bbr").is_ok();
        assert_eq!(
            paced.is_paced(),
            has_bbr
                || std::fs::read_to_string("/proc/sys/net/ipv4/tcp_congestion_control")
                    .unwrap()
                    .starts_with("bbr")
        );
    }

    #[test]
    fn few_pipes_are_large() {
        let pipes: Vec<Pipe> = (0..=MOST_LARGE).filter_map(|_| Pipe::take(usize::MAX)).collect();
        assert_eq!(pipes.len(), MOST_LARGE + 1);
        let large = pipes.iter().filter(|pipe| pipe.capacity == LARGE).count();
        assert!((1..=MOST_LARGE).contains(&large), "{large}");
        for pipe in pipes {
            assert_eq!(rustix::pipe::fcntl_getpipe_size(&pipe.read).unwrap(), pipe.capacity);
        }
    }
}
