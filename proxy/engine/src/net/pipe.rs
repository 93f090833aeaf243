//! Pipes, through which the kernel moves bytes from one socket to another (`splice(2)`): they never enter this process.
//!
//! Measured on loopback with bodies of 1 MiB and eight connections, in turns: 345 us of CPU for each through a pipe of the
//! default size, 325 with four times that size, 525 through a buffer of 64 KiB, 610 through one of 16 KiB.

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
            Some(Self { read, write, capacity, limit, filled: 0 })
        });
        pipe.map(|mut pipe| {
            pipe.limit = limit;
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
        let count = ready!(from.poll_splice_to(cx, &self.write, most.min(self.capacity).min(self.limit)))?;
        self.filled += count;
        Poll::Ready(Ok(count))
    }

    /// Moves some of what is in the pipe on.
    pub fn poll_drain(&mut self, to: &Connection, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let count = ready!(to.poll_splice_from(cx, &self.read, self.filled))?;
        self.filled -= count;
        Poll::Ready(Ok(count))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
