//! A socket, and what waits to leave through it at the end of the turn: whatever is written goes behind that.

use std::io::{self, IoSlice};
use std::task::{Context, Poll, ready};

use rustix::net::{SendFlags, send};

use super::connection::Socket;
use super::outbox::{self, Receipt};

/// The way to a peer.
#[derive(Debug)]
pub struct Link {
    socket: Socket,
    posted: Receipt,
}

impl Link {
    /// Nothing waits yet.
    pub fn new(socket: Socket) -> Self {
        Self { socket, posted: Receipt::default() }
    }

    /// The socket, to be read from.
    pub fn socket(&self) -> &Socket {
        &self.socket
    }

    /// The socket, to be read from.
    pub fn socket_mut(&mut self) -> &mut Socket {
        &mut self.socket
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
