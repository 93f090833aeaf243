//! A socket, and what waits to leave through it at the end of the turn: whatever is written goes behind that.

use std::cell::Cell;
use std::io::{self, IoSlice};
use std::task::{Context, Poll, ready};

use bytes::BytesMut;
use rustix::net::{SendFlags, send};

use super::connection::Socket;
use super::outbox::{self, Receipt};
use super::sys;

/// The way to a peer.
#[derive(Debug)]
pub struct Link {
    socket: Socket,
    posted: Receipt,
    /// There may be something to read although the socket is not reported readable.
    unread: Cell<bool>,
}

impl Link {
    /// Nothing waits yet.
    pub fn new(socket: Socket) -> Self {
        Self { socket, posted: Receipt::default(), unread: Cell::new(false) }
    }

    /// The socket, to be read from.
    pub fn socket(&self) -> &Socket {
        &self.socket
    }

    /// The socket, to be read from.
    pub fn socket_mut(&mut self) -> &mut Socket {
        &mut self.socket
    }

    /// Whether there may be something to read although the socket does not say so.
    pub fn is_unread(&self) -> bool {
        self.unread.get()
    }

    /// Ready when something may be received.
    #[inline]
    pub fn poll_read_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.unread.get() {
            return Poll::Ready(Ok(()));
        }
        self.socket.poll_read_ready(cx)
    }

    /// Reads by `read` if something may be received, which it is until that fails with `WouldBlock`.
    #[inline]
    pub fn try_read<T>(&self, read: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
        if !self.unread.take() {
            return self.socket.try_read(read);
        }
        let done = read();
        let is_drained = matches!(&done, Err(error) if error.kind() == io::ErrorKind::WouldBlock);
        self.unread.set(!is_drained);
        done
    }

    /// Receives into the free room of `buffer`, of which there must be some; 0 is the end. Nothing if there is nothing to
    /// receive after all.
    #[inline]
    pub fn receive(&self, buffer: &mut BytesMut) -> Option<io::Result<usize>> {
        let room = buffer.capacity() - buffer.len();
        let mut received = None;
        let tried = self.try_read(|| {
            let count = match &self.socket {
                Socket::Tcp(tcp) => sys::receive(tcp, buffer)?,
                Socket::Unix(unix) => sys::receive(unix, buffer)?,
            };
            received = Some(count);
            // The socket is drained: saying so now saves the read that would find out. An edge that arrives later
            // sets it readable again; a close that was seen is not forgotten.
            if count > 0 && count < room { Err(io::ErrorKind::WouldBlock.into()) } else { Ok(()) }
        });
        match (received, tried) {
            (Some(count), _) => Some(Ok(count)),
            (None, Err(error)) if error.kind() != io::ErrorKind::WouldBlock => Some(Err(error)),
            (None, _) => None,
        }
    }

    /// Ready when the peer has ended its side, although what it sent before is not read yet.
    pub fn poll_hung_up(&self, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            if ready!(self.socket.poll_read_ready(cx)).is_err() || self.socket.is_hung_up() {
                return Poll::Ready(());
            }
            // Only what comes from now on is told of; who reads is not to wait for that.
            self.unread.set(true);
            let _ = self.socket.try_read(|| Err::<(), _>(io::ErrorKind::WouldBlock.into()));
        }
    }

    /// Takes a message that is small and may wait for the end of the turn; otherwise `false`: it must be written.
    #[inline]
    pub fn post(&self, message: &[u8]) -> bool {
        match &self.socket {
            Socket::Tcp(tcp) => outbox::post(&self.posted, tcp, message),
            Socket::Unix(unix) => outbox::post(&self.posted, unix, message),
        }
    }

    /// Writes some of `slices`, or fails with `WouldBlock`.
    #[inline]
    pub fn try_write(&self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        while let Some(sent) = self.settle() {
            sent?;
        }
        self.socket.try_write(slices)
    }

    /// Ready when nothing waits for the end of the turn any more.
    #[inline]
    pub fn poll_settled(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while let Some(sent) = self.settle() {
            match sent {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    ready!(self.socket.poll_write_ready(cx))?;
                }
                Err(error) => return Poll::Ready(Err(error)),
                Ok(_) => {}
            }
        }
        Poll::Ready(Ok(()))
    }

    #[inline]
    fn settle(&self) -> Option<io::Result<usize>> {
        outbox::settle(&self.posted, |bytes| self.socket.try_write(&[IoSlice::new(bytes)]))
    }

    /// Sends at once what waits, as far as the kernel has room.
    fn settle_now(&self) {
        // (Not by `try_write`: the runtime may not have been told yet of a new socket's room.)
        let settle = || {
            outbox::settle(&self.posted, |bytes| match &self.socket {
                Socket::Tcp(tcp) => Ok(send(tcp, bytes, SendFlags::NOSIGNAL)?),
                Socket::Unix(unix) => Ok(send(unix, bytes, SendFlags::NOSIGNAL)?),
            })
        };
        while let Some(Ok(_)) = settle() {}
    }

    /// What waits shall not leave any more.
    pub fn forget(&self) {
        outbox::forget(&self.posted);
    }

    /// Says that nothing more will be sent.
    pub fn shutdown_write(&self) -> io::Result<()> {
        self.settle_now();
        self.socket.shutdown_write()
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.settle_now();
        self.forget();
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::io::Write;
    use std::os::unix::net::UnixStream as Far;

    use tokio::net::UnixStream;
    use tokio::task::yield_now;

    use super::*;

    /// Whether the peer is known to have hung up, once the loop has looked at its sockets.
    async fn is_hung_up(near: &Link) -> bool {
        for _ in 0..100 {
            yield_now().await;
        }
        poll_fn(|cx| Poll::Ready(near.poll_hung_up(cx).is_ready())).await
    }

    async fn receive(near: &Link) -> Vec<u8> {
        let mut buffer = BytesMut::with_capacity(4);
        poll_fn(|cx| near.poll_read_ready(cx)).await.unwrap();
        near.receive(&mut buffer).map(Result::unwrap);
        buffer.to_vec()
    }

    #[tokio::test]
    async fn a_peer_that_hangs_up_is_seen_behind_what_is_not_read() {
        let (near, mut far) = Far::pair().unwrap();
        near.set_nonblocking(true).unwrap();
        let near = Link::new(Socket::Unix(UnixStream::from_std(near).unwrap()));
        assert!(!is_hung_up(&near).await);
        far.write_all(b"one two").unwrap();
        assert!(!is_hung_up(&near).await);
        assert_eq!(receive(&near).await, b"one ", "it is there, whatever the socket was asked before");
        assert!(!is_hung_up(&near).await);
        far.write_all(b" three").unwrap();
        assert!(!is_hung_up(&near).await);
        assert_eq!(receive(&near).await, b"two ");
        drop(far);
        assert!(is_hung_up(&near).await);
        assert_eq!(receive(&near).await, b"thre");
        assert_eq!(receive(&near).await, b"e");
        assert_eq!(receive(&near).await, b"");
    }

    #[tokio::test]
    async fn what_is_read_to_the_end_is_waited_for() {
        let (near, mut far) = Far::pair().unwrap();
        near.set_nonblocking(true).unwrap();
        let near = Link::new(Socket::Unix(UnixStream::from_std(near).unwrap()));
        far.write_all(b"four").unwrap();
        assert!(!is_hung_up(&near).await);
        assert_eq!(receive(&near).await, b"four");
        assert_eq!(receive(&near).await, b"", "there is nothing after all");
        let waits = poll_fn(|cx| Poll::Ready(near.poll_read_ready(cx).is_pending())).await;
        assert!(waits && !near.is_unread());
    }
}
