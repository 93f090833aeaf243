//! Moving bytes between two connections, in both directions in one task.
//!
//! A direction starts with a buffer. Once it has moved enough for the two system calls per piece and the pipe to pay, it goes
//! on in the kernel (`splice(2)`): the bytes no longer pass through this process.

use std::io::{self, IoSlice};
use std::task::{Context, Poll, ready};

use bytes::{Buf, BytesMut};

use crate::local::buffers;
use crate::net::connection::Connection;
use crate::net::pipe::{self, Pipe};

/// Bytes after which a direction moves on in the kernel: below this a pipe costs more than it saves.
const SPLICE_AFTER: u64 = 256 * 1024;

/// What failed while bytes were moved.
#[derive(Debug)]
pub(super) enum Failed {
    /// The connection that the bytes come from.
    Source(io::Error),
    /// The connection that they go to.
    Sink(io::Error),
}

/// One direction of a connection.
pub(super) struct Direction {
    /// Most bytes that it holds.
    limit: usize,
    buffer: BytesMut,
    pipe: Option<Pipe>,
    no_pipe: bool,
    moved: u64,
    eof: bool,
    done: bool,
}

impl Direction {
    /// That holds no more than `limit` bytes at a time.
    pub(super) fn new(limit: usize) -> Self {
        Self {
            limit: limit.max(1),
            buffer: BytesMut::new(),
            pipe: None,
            no_pipe: limit < pipe::CAPACITY,
            moved: 0,
            eof: false,
            done: false,
        }
    }

    /// Bytes handed over so far.
    pub(super) fn moved(&self) -> u64 {
        self.moved
    }

    /// Whether the end was passed on.
    pub(super) fn is_done(&self) -> bool {
        self.done
    }

    /// Moves what can be moved. Ready when the end of `from` was passed on to `to`.
    pub(super) fn poll(
        &mut self,
        from: &Connection,
        to: &Connection,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), Failed>> {
        while !self.done {
            if self.pipe.is_some() {
                ready!(self.poll_pipe(from, to, cx))?;
            } else {
                ready!(self.poll_buffer(from, to, cx))?;
            }
        }
        Poll::Ready(Ok(()))
    }

    fn finish(&mut self, to: &Connection) -> Result<(), Failed> {
        self.done = true;
        self.pipe = None;
        match to.shutdown_write() {
            // The peer has gone already: there is nobody to tell.
            Err(error) if error.kind() == io::ErrorKind::NotConnected => Ok(()),
            other => other.map_err(Failed::Sink),
        }
    }

    fn poll_buffer(
        &mut self,
        from: &Connection,
        to: &Connection,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), Failed>> {
        while !self.buffer.is_empty() {
            let count = ready!(to.poll_write(cx, &[IoSlice::new(&self.buffer)])).map_err(Failed::Sink)?;
            self.buffer.advance(count);
            self.moved += count as u64;
        }
        if self.eof {
            self.rest();
            return Poll::Ready(self.finish(to));
        }
        if self.moved >= SPLICE_AFTER && !self.no_pipe && may_be_spliced(from, to) {
            self.rest();
            if !from.is_plain() || !to.is_plain() {
                self.no_pipe = true;
                return Poll::Ready(Ok(()));
            }
            self.pipe = Pipe::take(self.limit);
            self.no_pipe = self.pipe.is_none();
            return Poll::Ready(Ok(()));
        }
        if self.limit < buffers::BUFFER_SIZE && self.buffer.capacity() == 0 {
            ready!(from.poll_readable(cx)).map_err(Failed::Source)?;
            self.buffer = BytesMut::with_capacity(self.limit);
        }
        let Poll::Ready(read) = from.poll_read(cx, &mut self.buffer) else {
            // An idle connection holds no buffer.
            self.rest();
            return Poll::Pending;
        };
        self.eof = read.map_err(Failed::Source)? == 0;
        Poll::Ready(Ok(()))
    }

    fn rest(&mut self) {
        if self.buffer.capacity() > 0 {
            buffers::give(std::mem::take(&mut self.buffer));
        }
    }

    fn poll_pipe(
        &mut self,
        from: &Connection,
        to: &Connection,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), Failed>> {
        let Some(pipe) = &mut self.pipe else { return Poll::Ready(Ok(())) };
        while !pipe.is_empty() {
            let count = ready!(pipe.poll_drain(to, cx)).map_err(Failed::Sink)?;
            self.moved += count as u64;
        }
        if self.eof {
            return Poll::Ready(self.finish(to));
        }
        self.eof = ready!(pipe.poll_fill(from, cx, self.limit)).map_err(Failed::Source)? == 0;
        Poll::Ready(Ok(()))
    }
}

/// Whether nobody looks at the bytes of the connections any more that would not see those that the kernel moves.
fn may_be_spliced(from: &Connection, to: &Connection) -> bool {
    from.replay_is_empty() && !from.is_guarded() && !to.is_guarded()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::connection::Socket;
    use std::cell::Cell;
    use std::future::poll_fn;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::{TcpListener, TcpStream};

    async fn pair() -> (Connection, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (near, far) = tokio::join!(TcpStream::connect(listener.local_addr().unwrap()), listener.accept());
        (Connection::new(Socket::Tcp(near.unwrap())), far.unwrap().0)
    }

    /// Bytes arrive whole and in order, whether they went through the buffer, the pipe, or first one and then the other.
    #[tokio::test]
    async fn everything_arrives_and_the_end_is_passed_on() {
        for size in [0, 1, 100_000, 3_000_000] {
            let (from, mut client) = pair().await;
            let (to, mut server) = pair().await;
            let sent: Vec<u8> = (0..size).map(|index: usize| (index % 251) as u8).collect();
            let mut direction = Direction::new(usize::MAX);
            let mut received = Vec::new();
            let moving = poll_fn(|cx| direction.poll(&from, &to, cx));
            let writing = async {
                client.write_all(&sent).await.unwrap();
                client.shutdown().await.unwrap();
            };
            let (moved, (), read) = tokio::join!(moving, writing, server.read_to_end(&mut received));
            moved.unwrap();
            read.unwrap();
            assert!(received == sent, "{size} bytes");
            assert_eq!(direction.moved(), size as u64);
            assert!(!direction.no_pipe);
            assert!(direction.is_done());
        }
    }

    /// Whoever takes nothing makes a direction hold what it may, and no more; when that goes on, all of it arrives.
    #[tokio::test]
    async fn no_more_is_held_than_the_limit() {
        for limit in [1000, 4096, buffers::BUFFER_SIZE, usize::MAX] {
            let (from, mut client) = pair().await;
            let (to, mut server) = pair().await;
            let Socket::Tcp(sending) = to.socket() else { unreachable!("a TCP connection") };
            socket2::SockRef::from(sending).set_send_buffer_size(4096).unwrap();
            socket2::SockRef::from(&server).set_recv_buffer_size(64 * 1024).unwrap();
            let size = 250_000;
            let mut direction = Direction::new(limit);
            let most = Cell::new(0);
            let moving = poll_fn(|cx| {
                let polled = direction.poll(&from, &to, cx);
                most.set(most.get().max(direction.buffer.len()));
                polled
            });
            let writing = async {
                client.write_all(&vec![7; size]).await.unwrap();
                client.shutdown().await.unwrap();
            };
            let mut received = vec![0; size];
            let reading = async {
                while most.get() == 0 {
                    tokio::task::yield_now().await;
                }
                server.read_exact(&mut received).await.unwrap();
            };
            let (moved, (), ()) = tokio::join!(moving, writing, reading);
            moved.unwrap();
            assert_eq!(direction.no_pipe, limit < pipe::CAPACITY, "{limit}");
            assert!((1..=limit).contains(&most.get()), "{most:?} of {limit}");
            assert!(received.iter().all(|byte| *byte == 7), "{limit}");
        }
    }

    #[tokio::test]
    async fn bytes_to_be_read_again_come_first() {
        let (from, mut client) = pair().await;
        let (to, mut server) = pair().await;
        from.replay(BytesMut::from(&b"seen "[..]));
        client.write_all(b"and unseen").await.unwrap();
        client.shutdown().await.unwrap();
        let mut direction = Direction::new(usize::MAX);
        let mut received = Vec::new();
        let moving = poll_fn(|cx| direction.poll(&from, &to, cx));
        let (moved, read) = tokio::join!(moving, server.read_to_end(&mut received));
        moved.unwrap();
        read.unwrap();
        assert_eq!(received, b"seen and unseen");
    }
}
