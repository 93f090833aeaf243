//! An established byte stream to a peer, usable in both directions at once through a shared reference.

use bytes::{Buf, BytesMut};
use proxy_core::address::Address;
use rustix::net::{SendFlags, send};
use rustix::pipe::{SpliceFlags, splice};
use std::cell::{Cell, RefCell};
use std::future::{Future, poll_fn};
use std::io::{self, IoSlice};
use std::os::fd::OwnedFd;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, ready};
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::net::{TcpStream, UnixStream};

use super::gate::Guard;
use super::link::Link;
use super::outbox;
use super::secure::Secure;
use crate::local::buffers;

/// A number for a new connection, downstream or upstream, unique in the process.
pub fn next_id() -> u64 {
    static IDS: AtomicU64 = AtomicU64::new(0);
    IDS.fetch_add(1, Ordering::Relaxed)
}

/// What carries the bytes.
#[derive(Debug)]
pub enum Socket {
    /// TCP
    Tcp(TcpStream),
    /// A unix domain socket.
    Unix(UnixStream),
}

/// Bytes that a connection carried.
#[derive(Debug, Default)]
pub struct Traffic {
    /// Bytes received, replayed ones excepted.
    pub received: Cell<u64>,
    /// Bytes sent.
    pub sent: Cell<u64>,
}

/// A byte stream to a peer.
///
/// Reads and writes take `&self`, so one task can poll both directions; each direction has one waiter.
#[derive(Debug)]
pub struct Connection {
    link: Link,
    /// Bytes that were read while the connection was inspected, to be read again first.
    replay: RefCell<BytesMut>,
    /// Who wants to know how much was carried.
    traffic: Option<Rc<Traffic>>,
    /// The TLS session, if there is one.
    secure: Option<Box<Secure>>,
    /// Who sees what is read first, if anybody does.
    guard: Option<Box<Guard>>,
}

macro_rules! each_socket {
    ($self:expr, $socket:ident => $body:expr) => {
        match $self {
            Socket::Tcp($socket) => $body,
            Socket::Unix($socket) => $body,
        }
    };
}

macro_rules! each {
    ($self:expr, $socket:ident => $body:expr) => {
        each_socket!($self.link.socket(), $socket => $body)
    };
}

impl Socket {
    /// Ready when something may be received.
    pub fn poll_read_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        outbox::count_read();
        each_socket!(self, socket => socket.poll_read_ready(cx))
    }

    /// Reads by `read` if something may be received, which it is until that fails with `WouldBlock`.
    #[inline]
    pub fn try_read<T>(&self, read: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
        each_socket!(self, socket => socket.try_io(Interest::READABLE, read))
    }

    /// Whether the peer has ended its side of the connection, as far as is known without a system call, read or not what it sent before.
    pub fn is_hung_up(&self) -> bool {
        let mut nobody = Context::from_waker(std::task::Waker::noop());
        let ready = each_socket!(self, socket => pin!(socket.ready(Interest::READABLE)).poll(&mut nobody));
        matches!(ready, Poll::Ready(Ok(ready)) if ready.is_read_closed())
    }

    /// Whether the peer is gone altogether, as far as is known without a system call: it reset the connection, and hears nothing either.
    pub fn is_reset(&self) -> bool {
        let mut nobody = Context::from_waker(std::task::Waker::noop());
        let ready = each_socket!(self, socket => pin!(socket.ready(Interest::WRITABLE)).poll(&mut nobody));
        matches!(ready, Poll::Ready(Ok(ready)) if ready.is_write_closed())
    }

    /// Ready when something may be written.
    pub fn poll_write_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        each_socket!(self, socket => socket.poll_write_ready(cx))
    }

    /// Writes some of `slices`, or fails with `WouldBlock`.
    #[inline]
    pub fn try_write(&self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        match slices {
            [one] => each_socket!(self, socket => socket.try_io(Interest::WRITABLE, || {
                Ok(send(socket, one, SendFlags::NOSIGNAL)?)
            })),
            many => each_socket!(self, socket => socket.try_write_vectored(many)),
        }
    }

    /// Writes all of `bytes`. Has no deadline of its own; cancelled, some of them may have left.
    pub async fn write_all(&self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            match self.try_write(&[IoSlice::new(bytes)]) {
                Ok(count) => bytes = bytes.get(count..).unwrap_or_default(),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    poll_fn(|cx| self.poll_write_ready(cx)).await?;
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Address of this end.
    pub fn local_address(&self) -> io::Result<Address> {
        each_socket!(self, socket => super::socket::local_address(socket))
    }

    /// Address of the other end.
    pub fn peer_address(&self) -> io::Result<Address> {
        each_socket!(self, socket => super::socket::peer_address(socket))
    }

    /// Says that nothing more will be sent.
    pub fn shutdown_write(&self) -> io::Result<()> {
        each_socket!(self, socket => super::socket::shutdown_write(socket))
    }
}

impl Connection {
    /// A connection on `socket`.
    pub fn new(socket: Socket) -> Self {
        Self { link: Link::new(socket), replay: RefCell::default(), traffic: None, secure: None, guard: None }
    }

    /// Carries everything in a TLS session from now on, whose handshake is done.
    pub fn secure(&mut self, session: Secure) {
        self.secure = Some(Box::new(session));
    }

    /// Has everything read pass `guard` first, what is to be read again too.
    pub fn guard(&mut self, mut guard: Guard) {
        guard.begin_with(std::mem::take(self.replay.get_mut()));
        self.guard = Some(Box::new(guard));
    }

    /// Whether somebody still wants to see what is read first.
    pub fn is_guarded(&self) -> bool {
        self.guard.as_ref().is_some_and(|guard| !guard.is_open())
    }

    /// Bytes that were read in all, of which `moved` went where they were to go: who sees them first may have taken some.
    pub fn came(&self, moved: u64) -> u64 {
        self.guard.as_ref().map_or(moved, |guard| guard.came(moved))
    }

    /// Whether the socket carries the bytes as they are, so that the kernel may move them.
    pub fn is_plain(&self) -> bool {
        self.secure.is_none() && !self.is_guarded()
    }

    /// Counts what is carried from now on.
    pub fn count(&mut self) -> Rc<Traffic> {
        self.traffic.get_or_insert_default().clone()
    }

    fn received(&self, count: usize) {
        if let Some(traffic) = &self.traffic {
            traffic.received.set(traffic.received.get() + count as u64);
        }
    }

    fn sent(&self, count: usize) {
        if let Some(traffic) = &self.traffic {
            traffic.sent.set(traffic.sent.get() + count as u64);
        }
    }

    /// Has the connection end with RST when it is dropped: what is not sent yet is lost, and the peer knows.
    pub fn reset_on_drop(&self) {
        self.link.forget();
        if let Some(secure) = &self.secure {
            secure.say_nothing();
        }
        // A connection that is gone already needs no reset.
        let _ =
            each!(self, socket => socket2::SockRef::from(socket).set_linger(Some(std::time::Duration::ZERO)));
    }

    /// Has `bytes` read before anything from the socket.
    pub fn replay(&self, bytes: BytesMut) {
        *self.replay.borrow_mut() = bytes;
    }

    /// Address of this end.
    pub fn local_address(&self) -> io::Result<Address> {
        self.link.socket().local_address()
    }

    /// The socket beneath.
    pub fn socket(&self) -> &Socket {
        self.link.socket()
    }

    /// The way of what is written.
    pub fn link(&self) -> &Link {
        &self.link
    }

    /// Whether `poll_read` might return at once, as far as is known without a system call.
    ///
    /// On a connection that should be silent this means the peer closed it or spoke out of turn.
    pub fn is_readable(&self) -> bool {
        if self.is_guarded() {
            // What the peer says may be for those who see it first.
            return false;
        }
        if let Some(secure) = &self.secure {
            return secure.is_readable(&self.link);
        }
        let mut probe = [0_u8; 1];
        // It makes no system call unless the socket was reported readable.
        let peeked = self.link.try_read(|| each!(self, socket => super::socket::peek(socket, &mut probe)));
        !matches!(peeked, Err(error) if error.kind() == io::ErrorKind::WouldBlock)
    }

    /// Ready when `poll_read` would return something, as far as is known.
    pub fn poll_readable(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !self.replay.borrow().is_empty() {
            return Poll::Ready(Ok(()));
        }
        if let Some(guard) = &self.guard {
            // What passes is there to be read.
            let mut passed = BytesMut::new();
            let read =
                ready!(guard.poll_read(cx, &mut passed, |cx, buffer| self.poll_read_unguarded(cx, buffer)));
            self.replay(passed);
            return Poll::Ready(read.map(|_| ()));
        }
        match &self.secure {
            Some(secure) => secure.poll_readable(&self.link, cx),
            None => self.link.poll_read_ready(cx),
        }
    }

    /// Ready when the peer has ended its side of the connection, although what it sent before is not read yet. Takes the wake-ups of
    /// who reads.
    pub fn poll_hung_up(&self, cx: &mut Context<'_>) -> Poll<()> {
        self.link.poll_hung_up(cx)
    }

    /// Reads into the free room of `buffer`, or room of its own choice if there is none; 0 means the peer will send no more.
    ///
    /// Room is made only when there is something to read, so that who waits holds no memory for it.
    pub fn poll_read(&self, cx: &mut Context<'_>, buffer: &mut BytesMut) -> Poll<io::Result<usize>> {
        {
            let mut replay = self.replay.borrow_mut();
            if !replay.is_empty() {
                let take = replay.len();
                buffer.extend_from_slice(&replay);
                *replay = BytesMut::new();
                return Poll::Ready(Ok(take));
            }
        }
        match &self.guard {
            Some(guard) => guard.poll_read(cx, buffer, |cx, buffer| self.poll_read_unguarded(cx, buffer)),
            None => self.poll_read_unguarded(cx, buffer),
        }
    }

    #[inline]
    fn poll_read_unguarded(&self, cx: &mut Context<'_>, buffer: &mut BytesMut) -> Poll<io::Result<usize>> {
        if let Some(secure) = &self.secure {
            let read = ready!(secure.poll_read(&self.link, cx, buffer));
            self.received(*read.as_ref().unwrap_or(&0));
            return Poll::Ready(read);
        }
        loop {
            ready!(self.link.poll_read_ready(cx))?;
            if buffer.capacity() == buffer.len() {
                match buffer.is_empty() {
                    true => *buffer = buffers::take(),
                    false => buffer.reserve(buffers::BUFFER_SIZE),
                }
            }
            if let Some(received) = self.link.receive(buffer) {
                self.received(*received.as_ref().unwrap_or(&0));
                return Poll::Ready(received);
            }
        }
    }

    /// Takes `message`, which nothing follows for now, if it is small and may wait for the end of the turn; otherwise it must be
    /// written.
    #[inline]
    pub fn post(&self, message: &[u8]) -> bool {
        let is_posted = match &self.secure {
            Some(secure) => secure.post(&self.link, message),
            None => self.link.post(message),
        };
        if is_posted {
            self.sent(message.len());
        }
        is_posted
    }

    /// Writes some of `slices`.
    pub fn poll_write(&self, cx: &mut Context<'_>, slices: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        if let Some(secure) = &self.secure {
            let written = ready!(secure.poll_write(&self.link, cx, slices));
            self.sent(*written.as_ref().unwrap_or(&0));
            return Poll::Ready(written);
        }
        loop {
            match self.link.try_write(slices) {
                // Nearly never: whether there is room is asked only then. The reads that bring what is written take turns.
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    ready!(self.link.socket().poll_write_ready(cx))?;
                }
                other => {
                    self.sent(*other.as_ref().unwrap_or(&0));
                    return Poll::Ready(other);
                }
            }
        }
    }

    /// Writes all of `bytes`. Has no deadline of its own; cancelled, some of them may have left.
    pub async fn write_all(&self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            let count = poll_fn(|cx| self.poll_write(cx, &[IoSlice::new(bytes)])).await?;
            bytes = bytes.get(count..).unwrap_or_default();
        }
        Ok(())
    }

    /// Whether nothing waits to be read again.
    pub fn replay_is_empty(&self) -> bool {
        self.replay.borrow().is_empty()
    }

    /// Moves up to `length` bytes from the socket into a pipe; 0 means the peer will send no more.
    pub fn poll_splice_to(
        &self,
        cx: &mut Context<'_>,
        pipe: &OwnedFd,
        length: usize,
    ) -> Poll<io::Result<usize>> {
        loop {
            ready!(self.link.poll_read_ready(cx))?;
            let moved = self.link.try_read(|| {
                let (socket, flags) = (self.link.socket(), SpliceFlags::NONBLOCK | SpliceFlags::MOVE);
                each_socket!(socket, socket => Ok(splice(socket, None, pipe, None, length, flags)?))
            });
            match moved {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                other => {
                    self.received(*other.as_ref().unwrap_or(&0));
                    return Poll::Ready(other);
                }
            }
        }
    }

    /// Whether the kernel sends at a pace, as BBR does: of more than a segment handed over at once the rest waits for a timer.
    pub(super) fn is_paced(&self) -> bool {
        each!(self, socket => rustix::net::sockopt::tcp_congestion(socket))
            .is_ok_and(|name| name.starts_with("bbr"))
    }

    /// Moves up to `length` bytes from a pipe that holds as many into the socket.
    pub fn poll_splice_from(
        &self,
        cx: &mut Context<'_>,
        pipe: &OwnedFd,
        length: usize,
    ) -> Poll<io::Result<usize>> {
        ready!(self.link.poll_settled(cx))?;
        loop {
            each!(self, socket => ready!(socket.poll_write_ready(cx))?);
            let moved = each!(self, socket => socket.try_io(Interest::WRITABLE, || {
                Ok(splice(pipe, None, socket, None, length, SpliceFlags::NONBLOCK | SpliceFlags::MOVE)?)
            }));
            match moved {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                other => {
                    self.sent(*other.as_ref().unwrap_or(&0));
                    return Poll::Ready(other);
                }
            }
        }
    }

    /// Says that nothing more will be sent.
    pub fn shutdown_write(&self) -> io::Result<()> {
        match &self.secure {
            Some(secure) => secure.shutdown_write(&self.link),
            None => self.link.shutdown_write(),
        }
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        if let Some(secure) = &self.secure {
            secure.say_goodbye(&self.link);
        }
    }
}

impl AsyncRead for Connection {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let replay = this.replay.get_mut();
        if !replay.is_empty() {
            let take = replay.len().min(buf.remaining());
            buf.put_slice(&replay[..take]);
            replay.advance(take);
            if replay.is_empty() {
                *replay = BytesMut::new();
            }
            return Poll::Ready(Ok(()));
        }
        if this.secure.is_some() || this.guard.is_some() || this.link.is_unread() {
            let mut plain = BytesMut::new();
            ready!(Connection::poll_read(this, cx, &mut plain))?;
            let take = plain.len().min(buf.remaining());
            buf.put_slice(&plain[..take]);
            if take < plain.len() {
                plain.advance(take);
                *this.replay.get_mut() = plain;
            } else {
                buffers::give(plain);
            }
            return Poll::Ready(Ok(()));
        }
        let before = buf.filled().len();
        ready!(match this.link.socket_mut() {
            Socket::Tcp(tcp) => Pin::new(tcp).poll_read(cx, buf),
            Socket::Unix(unix) => Pin::new(unix).poll_read(cx, buf),
        })?;
        this.received(buf.filled().len() - before);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Connection {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Connection::poll_write(&self, cx, &[IoSlice::new(buf)])
    }
    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        // (HTTP/2 writes so: all that it has gathered.)
        if let [one] = slices
            && self.post(one)
        {
            return Poll::Ready(Ok(one.len()));
        }
        Connection::poll_write(&self, cx, slices)
    }
    fn is_write_vectored(&self) -> bool {
        true
    }
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.link.poll_settled(cx))?;
        Poll::Ready(self.shutdown_write())
    }
}
