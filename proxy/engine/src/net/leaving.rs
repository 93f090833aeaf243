//! Whether a peer is still there while nobody reads what it sends.

use std::future::{pending, poll_fn};

use super::connection::Connection;

/// What it means that a peer has ended its side of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EndOfPeer {
    /// It left: nothing can come of the connection any more.
    Left,
    /// It has said all, and may wait for an answer.
    Silent,
}

impl Connection {
    /// Ready when the peer left: it reset the connection, or ended its side where that means the same. Of one that is silent now it is not
    /// known when it leaves. Takes the wake-ups of who reads; cancel-safe.
    pub async fn left(&self, end: EndOfPeer) {
        poll_fn(|cx| self.poll_hung_up(cx)).await;
        if end == EndOfPeer::Silent && !self.socket().is_reset() {
            pending::<()>().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::net::{Shutdown, TcpListener, TcpStream as Far};
    use std::time::Duration;

    use tokio::net::TcpStream;
    use tokio::time::timeout;

    use super::*;
    use crate::net::connection::Socket;

    fn pair() -> (Connection, Far) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut far = Far::connect(listener.local_addr().unwrap()).unwrap();
        far.write_all(b"hello").unwrap();
        let near = listener.accept().unwrap().0;
        near.set_nonblocking(true).unwrap();
        (Connection::new(Socket::Tcp(TcpStream::from_std(near).unwrap())), far)
    }

    async fn has_left(near: &Connection, end: EndOfPeer) -> bool {
        timeout(Duration::from_secs(5), near.left(end)).await.is_ok()
    }

    async fn is_there(near: &Connection, end: EndOfPeer) -> bool {
        timeout(Duration::from_millis(50), near.left(end)).await.is_err()
    }

    #[tokio::test]
    async fn who_has_said_all_may_be_there() {
        let (near, far) = pair();
        assert!(is_there(&near, EndOfPeer::Left).await && is_there(&near, EndOfPeer::Silent).await);
        far.shutdown(Shutdown::Write).unwrap();
        assert!(has_left(&near, EndOfPeer::Left).await && is_there(&near, EndOfPeer::Silent).await);
    }

    #[tokio::test]
    async fn who_resets_a_connection_is_gone() {
        let (near, far) = pair();
        socket2::SockRef::from(&far).set_linger(Some(Duration::ZERO)).unwrap();
        drop(far);
        assert!(has_left(&near, EndOfPeer::Silent).await && has_left(&near, EndOfPeer::Left).await);
    }
}
