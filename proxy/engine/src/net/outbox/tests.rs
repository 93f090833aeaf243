use std::future::{Future, poll_fn};
use std::io::{IoSlice, Read, Write};
use std::os::unix::net::UnixStream as Far;
use std::task::Context;

use tokio::io::AsyncWriteExt;
use tokio::net::UnixStream;
use tokio::runtime::LocalOptions;
use tokio::task::{spawn_local, yield_now};

use super::*;
use crate::net::connection::{Connection, Socket};

/// Runs `test` on a worker's loop: with its outbox open, whose turns end with [`end_turn`].
fn on_a_worker<F: Future<Output = ()> + 'static>(test: impl FnOnce() -> F) {
    let mut builder = tokio::runtime::Builder::new_current_thread();
    builder.enable_all().on_thread_park(end_turn);
    let runtime = builder.build_local(LocalOptions::default()).unwrap();
    runtime.block_on(async {
        open();
        spawn_local(serve());
        yield_now().await;
        test().await;
    });
}

/// A connection, and its peer, which does not wait for what has not come.
fn pair() -> (Connection, Far) {
    let (near, far) = Far::pair().unwrap();
    near.set_nonblocking(true).unwrap();
    far.set_nonblocking(true).unwrap();
    (Connection::new(Socket::Unix(UnixStream::from_std(near).unwrap())), far)
}

/// What has come by now, and whether more may come.
fn arrived(far: &mut Far) -> (Vec<u8>, bool) {
    let mut all = Vec::new();
    let is_open = far.read_to_end(&mut all).is_err();
    (all, is_open)
}

async fn write(connection: &Connection, bytes: &[u8]) -> io::Result<usize> {
    poll_fn(|cx| connection.poll_write(cx, &[IoSlice::new(bytes)])).await
}

/// Ends a turn of the loop with nothing else to do: it waits until the runtime is asked for something.
async fn turn() {
    let (near, far) = Far::pair().unwrap();
    near.set_nonblocking(true).unwrap();
    let near = UnixStream::from_std(near).unwrap();
    let thread = std::thread::spawn(move || drop(far));
    near.readable().await.unwrap();
    thread.join().unwrap();
}

#[test]
fn what_is_posted_leaves_before_the_loop_waits() {
    on_a_worker(|| async {
        let (near, mut far) = pair();
        assert!(near.post(b"hello"));
        assert_eq!(arrived(&mut far).0, b"");
        turn().await;
        assert_eq!(arrived(&mut far).0, b"hello");
        assert!(near.post(b"again"), "what left waits no more");
    });
}

#[test]
fn without_a_worker_and_with_much_it_must_be_written() {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
        assert!(!pair().0.post(b"hello"), "nobody would send it");
    });
    on_a_worker(|| async { assert!(!pair().0.post(&[0; SMALL + 1])) });
}

#[test]
fn what_is_written_later_leaves_behind_it() {
    on_a_worker(|| async {
        let (near, mut far) = pair();
        assert!(near.post(b"one "));
        assert!(!near.post(b"two"), "one message at a time");
        assert_eq!(write(&near, b"two").await.unwrap(), 3);
        assert_eq!(arrived(&mut far).0, b"one two");
        turn().await;
        assert_eq!(arrived(&mut far).0, b"", "once");
    });
}

#[test]
fn the_end_comes_behind_it() {
    on_a_worker(|| async {
        let (near, mut far) = pair();
        assert!(near.post(b"last words"));
        near.shutdown_write().unwrap();
        assert_eq!(arrived(&mut far), (b"last words".to_vec(), false));

        let (near, mut far) = pair();
        assert!(near.post(b"last words"));
        drop(near);
        assert_eq!(arrived(&mut far), (b"last words".to_vec(), false));
        turn().await;
    });
}

#[test]
fn a_connection_that_is_reset_takes_it_along() {
    on_a_worker(|| async {
        let (near, mut far) = pair();
        assert!(near.post(b"never mind"));
        near.reset_on_drop();
        drop(near);
        turn().await;
        assert_eq!(arrived(&mut far).0, b"");
    });
}

#[test]
fn many_leave_though_the_turn_goes_on_and_so_they_do_after_many_reads() {
    on_a_worker(|| async {
        let mut pairs: Vec<_> = (0..FULL).map(|_| pair()).collect();
        let (last, others) = pairs.split_last_mut().unwrap();
        assert!(others.iter().all(|(near, _)| near.post(b"x")));
        assert_eq!(arrived(&mut others[0].1).0, b"");
        assert!(last.0.post(b"x"));
        assert!(others.iter_mut().all(|(_, far)| arrived(far).0 == b"x") && arrived(&mut last.1).0 == b"x");

        assert!(last.0.post(b"y"));
        let mut nobody = Context::from_waker(Waker::noop());
        for _ in 1..READS {
            assert!(others[0].0.socket().poll_read_ready(&mut nobody).is_pending());
        }
        assert_eq!(arrived(&mut last.1).0, b"");
        assert!(others[0].0.socket().poll_read_ready(&mut nobody).is_pending());
        assert_eq!(arrived(&mut last.1).0, b"y");
    });
}

#[test]
fn a_peer_that_is_gone_is_found_by_who_reads() {
    on_a_worker(|| async {
        let (near, far) = pair();
        assert!(near.post(b"hello"));
        drop(far);
        turn().await;
        let mut buffer = bytes::BytesMut::new();
        let read = poll_fn(|cx| near.poll_read(cx, &mut buffer)).await;
        assert_eq!(read.unwrap_or(0), 0);
        assert!(write(&near, b"more").await.is_err());
    });
}

/// Fills the kernel's buffer to the last byte; how much went in.
fn fill(near: &Connection) -> usize {
    let Socket::Unix(socket) = near.socket() else { unreachable!("a pair is one of unix sockets") };
    let piece = [0; 4096];
    let mut filled = 0;
    for size in [piece.len(), 1] {
        while let Ok(count) = send(socket, &piece[..size], SendFlags::NOSIGNAL) {
            filled += count;
        }
    }
    filled
}

/// Reads until so many bytes have come.
async fn drain(far: &mut Far, count: usize) -> Vec<u8> {
    let mut all = Vec::new();
    while all.len() < count {
        all.extend(arrived(far).0);
        yield_now().await;
    }
    all
}

#[test]
fn where_there_is_no_room_it_waits_and_so_does_what_follows() {
    on_a_worker(|| async {
        let (near, mut far) = pair();
        let filled = fill(&near);
        assert!(near.post(b"posted "));
        turn().await;
        assert!(!near.post(b"more"), "the first is stuck");
        poll_fn(|cx| {
            assert!(near.poll_write(cx, &[IoSlice::new(b"more")]).is_pending(), "behind the first");
            Poll::Ready(())
        })
        .await;
        let all = drain(&mut far, filled + 7).await;
        assert_eq!(&all[filled..], b"posted ");
        assert_eq!(write(&near, b"more").await.unwrap(), 4);
        assert_eq!(arrived(&mut far).0, b"more");
        assert!(near.post(b"as ever"));
        turn().await;
        assert_eq!(arrived(&mut far).0, b"as ever");
        OUTBOX.with_borrow(|outbox| assert!(outbox.stuck.is_empty() && outbox.letters.is_empty()));
    });
}

#[test]
fn who_is_stuck_and_ends_is_forgotten() {
    on_a_worker(|| async {
        let (near, mut far) = pair();
        let filled = fill(&near);
        assert!(near.post(b"posted"));
        turn().await;
        far.write_all(b"anybody there?").unwrap();
        drop(near);
        OUTBOX.with_borrow(|outbox| assert!(outbox.stuck.is_empty()));
        turn().await;
        // Though there was never any room.
        let gone = far.write_all(b"anybody there?").unwrap_err();
        assert_eq!(gone.kind(), io::ErrorKind::BrokenPipe);
        assert_eq!(drain(&mut far, filled).await.len(), filled);
    });
}

#[test]
fn the_end_waits_for_what_is_stuck() {
    on_a_worker(|| async {
        let (mut near, mut far) = pair();
        let filled = fill(&near);
        assert!(near.post(b"last words"));
        turn().await;
        let near = spawn_local(async move {
            near.shutdown().await.unwrap();
            near
        });
        let all = drain(&mut far, filled + 10).await;
        assert_eq!(&all[filled..], b"last words");
        let near = near.await.unwrap();
        assert_eq!(arrived(&mut far), (Vec::new(), false));
        drop(near);
    });
}

#[test]
fn what_cannot_be_sent_ends_the_connection() {
    on_a_worker(|| async {
        let (near, far) = pair();
        far.shutdown(std::net::Shutdown::Read).unwrap();
        assert!(near.post(b"posted"));
        turn().await;
        let mut buffer = bytes::BytesMut::new();
        let read = poll_fn(|cx| near.poll_read(cx, &mut buffer)).await;
        assert_eq!(read.unwrap_or(0), 0, "though the peer said nothing of an end");
        drop(far);
    });
}
