//! Connections that are closed because there is too much to do (`envoy.load_shed_points.tcp_proxy_*`).

use std::task::{Context, Poll, Waker};

use bytes::BytesMut;

use super::copy::Direction;
use super::proxy::Down;
use crate::local::buffers;
use crate::local::overload::Point;
use crate::net::connection::Connection;

/// Most bytes that are read of a client that is shed: it may send on for as long as it likes.
const MOST_UNREAD: usize = 1024 * 1024;

impl Down {
    /// Whether `point` may shed the connection, and does.
    pub(super) fn is_shed(&self, point: Point) -> bool {
        self.overload.as_ref().is_some_and(|overload| overload.sheds(point, || fastrand::u64(..)))
    }
}

/// When what the client sends may have its connection shed: once for all that is there.
pub(super) struct Shedding<'d> {
    down: Option<&'d Down>,
    /// How much was on its way when it was looked at last.
    looked_at: Option<u64>,
}

impl<'d> Shedding<'d> {
    pub(super) fn new(down: &'d Down) -> Self {
        let is_watched = down.overload.as_ref().is_some_and(|overload| overload.watches(Point::TcpData));
        Self { down: is_watched.then_some(down), looked_at: None }
    }

    /// Whether the connection is to be closed for what is there, of which nothing was read yet.
    pub(super) fn sheds(&mut self, to_upstream: &Direction, cx: &mut Context<'_>) -> bool {
        let Some(down) = self.down else { return false };
        let (moved, client) = (Some(to_upstream.moved()), &down.connection);
        if self.looked_at == moved || to_upstream.is_done() || client.poll_readable(cx).is_pending() {
            return false;
        }
        // (A socket may be said to be readable although all was read; what inspectors gave back, or passed filters, is there.)
        if client.replay_is_empty() && !client.is_guarded() && !client.is_readable() {
            return false;
        }
        self.looked_at = moved;
        down.is_shed(Point::TcpData)
    }
}

/// Reads what is there of a client, and drops it, so that the client learns of an end and not of a reset: how many bytes that was.
pub(super) fn drop_unread(client: &Connection) -> usize {
    let mut nobody = Context::from_waker(Waker::noop());
    let (mut dropped, mut unread) = (0, BytesMut::new());
    while dropped < MOST_UNREAD
        && let Poll::Ready(Ok(count @ 1..)) = client.poll_read(&mut nobody, &mut unread)
    {
        dropped += count;
        // (What was given back comes in a buffer of its own, which may be as small as that.)
        buffers::give(std::mem::take(&mut unread));
    }
    buffers::give(unread);
    dropped
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::{TcpListener, TcpStream};

    use super::*;
    use crate::net::connection::Socket;

    async fn pair() -> (Connection, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (near, far) = tokio::join!(TcpStream::connect(listener.local_addr().unwrap()), listener.accept());
        (Connection::new(Socket::Tcp(near.unwrap())), far.unwrap().0)
    }

    #[tokio::test]
    async fn a_client_that_was_looked_at_and_sent_on_learns_of_an_end() {
        let (near, mut client) = pair().await;
        client.write_all(&[7; 30_000]).await.unwrap();
        poll_fn(|cx| near.poll_readable(cx)).await.unwrap();
        near.replay(BytesMut::from(&b"hello"[..]));
        assert_eq!(drop_unread(&near), 30_005);
        drop(near);
        assert_eq!(client.read(&mut [0; 1]).await.unwrap(), 0, "the end");
    }

    #[tokio::test]
    async fn a_client_that_never_stops_is_not_read_forever() {
        let (near, mut client) = pair().await;
        near.replay(BytesMut::zeroed(MOST_UNREAD));
        client.write_all(b"more").await.unwrap();
        poll_fn(|cx| near.poll_readable(cx)).await.unwrap();
        assert_eq!(drop_unread(&near), MOST_UNREAD);
        let mut rest = BytesMut::new();
        assert_eq!(poll_fn(|cx| near.poll_read(cx, &mut rest)).await.unwrap(), 4, "what it sent last");
    }
}
