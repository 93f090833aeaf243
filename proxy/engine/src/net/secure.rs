//! A TLS session on a socket: records in, records out, and the little that is kept between.
//!
//! What is decrypted is handed on at once, and what is encrypted is written before a write counts as done, so that neither
//! side of a session holds more than one read or one write. A session at rest holds no buffer of ours.
//!
//! A write that could not be finished is remembered: who wrote must come again with the same bytes, as all of the codecs do.

use std::cell::{Cell, RefCell};
use std::io::{self, IoSlice, Write};
use std::task::{Context, Poll, ready};

use bytes::BytesMut;
use proxy_core::stats::Cells;
use proxy_core::stats::groups::SslStats;
use rustls::Connection as Session;

use super::link::Link;
use super::outbox;
use crate::local::buffers;

/// Most bytes of one receive while the peer sends more than fits an ordinary one.
const LARGE_READ: usize = 2 * buffers::BUFFER_SIZE;

/// A record is at most so much longer than what is in it.
const OVERHEAD: usize = 64;

/// A session.
pub struct Secure {
    session: RefCell<Session>,
    /// Decrypted and not yet taken.
    plain: RefCell<BytesMut>,
    /// Bytes that are encrypted, but not all written.
    accepted: Cell<usize>,
    /// The last receive was full: more is to come.
    is_busy: Cell<bool>,
    end: Cell<End>,
    closing: Cell<Closing>,
    stats: Cells<SslStats>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum End {
    Open,
    /// The peer sends no more: it said so, or its side of the connection ended, which Envoy takes for the same.
    Ended,
    /// What came last was no record of this session.
    Failed,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Closing {
    Open,
    /// The last words wait to be written; the socket is shut down after them.
    Pending,
    Done,
}

impl std::fmt::Debug for Secure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Secure").finish_non_exhaustive()
    }
}

impl Secure {
    /// A session that begins, or goes on after what was read of it elsewhere.
    pub fn new(session: impl Into<Session>, stats: Cells<SslStats>) -> Self {
        Self {
            session: RefCell::new(session.into()),
            plain: RefCell::default(),
            accepted: Cell::default(),
            is_busy: Cell::default(),
            end: Cell::new(End::Open),
            closing: Cell::new(Closing::Open),
            stats,
        }
    }

    /// Looks at the session.
    pub fn with<T>(&self, look: impl FnOnce(&Session) -> T) -> T {
        look(&self.session.borrow())
    }

    /// Takes octets that were received already.
    pub fn feed(&self, received: &[u8]) -> Result<(), rustls::Error> {
        self.decrypt(&mut self.session.borrow_mut(), received)
    }

    /// Goes on with the handshake until it is done, and all that it said is written.
    ///
    /// An error of the peer's, or in what it sent, is one of `rustls` within the `io::Error`.
    pub fn poll_handshake(&self, link: &Link, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            let mut session = self.session.borrow_mut();
            ready!(poll_flush(&mut session, link, cx))?;
            if !session.is_handshaking() {
                return Poll::Ready(Ok(()));
            }
            match ready!(self.poll_fill(&mut session, link, cx)) {
                // (Who has little to say may say it and goodbye with the last words of the handshake.)
                Ok(()) if self.end.get() == End::Open || !session.is_handshaking() => {}
                Ok(()) => return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into())),
                Err(error) => {
                    try_flush(&mut session, link);
                    return Poll::Ready(Err(error));
                }
            }
        }
    }

    /// Ready when something is there to be taken, or the end.
    pub fn poll_readable(&self, link: &Link, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            if !self.plain.borrow().is_empty() {
                return Poll::Ready(Ok(()));
            }
            match self.end.get() {
                End::Open => {}
                End::Ended => return Poll::Ready(Ok(())),
                End::Failed => return Poll::Ready(Err(io::ErrorKind::InvalidData.into())),
            }
            let mut session = self.session.borrow_mut();
            let filled = self.poll_fill(&mut session, link, cx);
            let closes = self.closing.get() == Closing::Pending;
            if session.wants_write() && (closes || self.accepted.get() == 0) {
                // Of the session's own accord: an alert, an answer to a change of keys, the last words. Who reads is told of
                // room for them; what fails is found by who reads or writes.
                let _ = poll_flush(&mut session, link, cx);
                self.finish_closing(&session, link);
            }
            if let Err(error) = ready!(filled) {
                if error.kind() == io::ErrorKind::InvalidData {
                    self.stats.here().connection_error.inc();
                    // What came before that is whole.
                    continue;
                }
                return Poll::Ready(Err(error));
            }
        }
    }

    /// Takes what is decrypted; 0 means that the peer will send no more.
    pub fn poll_read(
        &self,
        link: &Link,
        cx: &mut Context<'_>,
        buffer: &mut BytesMut,
    ) -> Poll<io::Result<usize>> {
        ready!(self.poll_readable(link, cx))?;
        let plain = std::mem::take(&mut *self.plain.borrow_mut());
        let count = plain.len();
        if count == 0 {
            return Poll::Ready(Ok(0));
        }
        if buffer.is_empty() {
            buffers::give(std::mem::replace(buffer, plain));
        } else {
            buffer.extend_from_slice(&plain);
            buffers::give(plain);
        }
        Poll::Ready(Ok(count))
    }

    /// Whether a read might return at once; what has come is decrypted to know it.
    pub fn is_readable(&self, link: &Link) -> bool {
        let mut nobody = Context::from_waker(std::task::Waker::noop());
        self.poll_readable(link, &mut nobody).is_ready()
    }

    /// Encrypts some of `slices` and writes it.
    pub fn poll_write(
        &self,
        link: &Link,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let mut session = self.session.borrow_mut();
        if self.accepted.get() == 0 {
            self.accepted.set(session.writer().write_vectored(slices)?);
        }
        ready!(poll_flush(&mut session, link, cx))?;
        let offered = slices.iter().map(|slice| slice.len()).sum();
        Poll::Ready(Ok(self.accepted.take().min(offered)))
    }

    /// Encrypts a small message and leaves it for the end of the turn; otherwise `false`: it must be written.
    pub fn post(&self, link: &Link, message: &[u8]) -> bool {
        let mut session = self.session.borrow_mut();
        if message.len() + OVERHEAD > outbox::SMALL || self.accepted.get() > 0 || session.wants_write() {
            return false;
        }
        let Ok(accepted) = session.writer().write(message) else { return false };
        let is_posted = session.write_tls(&mut Post(link)).is_ok() && !session.wants_write();
        if !is_posted || accepted < message.len() {
            // Who must write it comes with the same bytes.
            self.accepted.set(accepted);
            return false;
        }
        true
    }

    /// Says that nothing more will be sent, and shuts the socket down when that is written.
    pub fn shutdown_write(&self, link: &Link) -> io::Result<()> {
        if self.closing.get() != Closing::Open {
            return Ok(());
        }
        let mut session = self.session.borrow_mut();
        session.send_close_notify();
        self.closing.set(Closing::Pending);
        try_flush(&mut session, link);
        self.finish_closing(&session, link);
        Ok(())
    }

    /// The connection is dropped: says so if that was not done, and if it can be done at once.
    pub fn say_goodbye(&self, link: &Link) {
        let Ok(mut session) = self.session.try_borrow_mut() else { return };
        if self.closing.get() == Closing::Open && !session.is_handshaking() {
            session.send_close_notify();
        }
        try_flush(&mut session, link);
    }

    /// The connection is to end without a word.
    pub fn say_nothing(&self) {
        self.closing.set(Closing::Done);
    }

    fn finish_closing(&self, session: &Session, link: &Link) {
        if self.closing.get() == Closing::Pending && !session.wants_write() {
            self.closing.set(Closing::Done);
            // Who has gone already needs not be told.
            let _ = link.shutdown_write();
        }
    }

    /// Receives once and decrypts what came.
    fn poll_fill(&self, session: &mut Session, link: &Link, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(link.poll_read_ready(cx))?;
        let mut received = buffers::take();
        if self.is_busy.get() {
            received.reserve(LARGE_READ);
        }
        let room = received.capacity();
        // Nothing after all: whoever asks again waits.
        let Some(count) = link.receive(&mut received) else {
            buffers::give(received);
            return Poll::Ready(Ok(()));
        };
        let filled = match count {
            Ok(0) => {
                if self.end.get() == End::Open {
                    self.end.set(End::Ended);
                }
                Ok(())
            }
            Ok(count) => {
                self.is_busy.set(count == room);
                let decrypted = self.decrypt(session, &received);
                decrypted.map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
            }
            Err(error) => Err(error),
        };
        buffers::give(received);
        Poll::Ready(filled)
    }

    fn decrypt(&self, session: &mut Session, mut received: &[u8]) -> Result<(), rustls::Error> {
        while !received.is_empty() && self.end.get() == End::Open {
            let before = received.len();
            session.read_tls(&mut received).map_err(|error| rustls::Error::General(error.to_string()))?;
            let state = match session.process_new_packets() {
                Ok(state) => state,
                Err(error) => {
                    self.take_plain(session)?;
                    self.end.set(End::Failed);
                    return Err(error);
                }
            };
            if state.plaintext_bytes_to_read() > 0 {
                self.take_plain(session)?;
            }
            if state.peer_has_closed() {
                self.end.set(End::Ended);
            } else if received.len() == before {
                return Err(rustls::Error::General("a record is too long".to_owned()));
            }
        }
        Ok(())
    }

    fn take_plain(&self, session: &mut Session) -> Result<(), rustls::Error> {
        use std::io::BufRead;
        let failed = |error: io::Error| rustls::Error::General(error.to_string());
        let mut plain = self.plain.borrow_mut();
        let mut reader = session.reader();
        loop {
            let count = match reader.fill_buf() {
                Ok([]) => return Ok(()),
                Ok(chunk) => {
                    if plain.capacity() == 0 {
                        // With the rest of a record that came before: growing would copy what is there.
                        *plain = match self.is_busy.get() {
                            true => BytesMut::with_capacity(LARGE_READ + buffers::BUFFER_SIZE),
                            false => buffers::take(),
                        };
                    }
                    plain.extend_from_slice(chunk);
                    chunk.len()
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(failed(error)),
            };
            reader.consume(count);
        }
    }
}

/// A link as `rustls` writes to it.
struct Sink<'l>(&'l Link);

impl Write for Sink<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.try_write(&[IoSlice::new(bytes)])
    }
    fn write_vectored(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        self.0.try_write(slices)
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The same where what is written may wait for the end of the turn; it fails where that is not so.
struct Post<'l>(&'l Link);

impl Write for Post<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.0.post(bytes) { Ok(bytes.len()) } else { Err(io::ErrorKind::WouldBlock.into()) }
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn poll_flush(session: &mut Session, link: &Link, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
    while session.wants_write() {
        match session.write_tls(&mut Sink(link)) {
            Ok(0) => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                ready!(link.socket().poll_write_ready(cx))?;
            }
            Err(error) => return Poll::Ready(Err(error)),
        }
    }
    Poll::Ready(Ok(()))
}

/// Writes what can be written at once.
fn try_flush(session: &mut Session, link: &Link) {
    while session.wants_write() {
        // What fails here fails again for who waits for it; the last words need not arrive.
        if !matches!(session.write_tls(&mut Sink(link)), Ok(1..)) {
            return;
        }
    }
}

#[cfg(test)]
mod tests;
