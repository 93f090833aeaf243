//! Small messages that leave at the end of a turn of the worker's loop, one behind the other.
//!
//! A send over loopback or a fast network takes the segment to its peer, wakes it and may give way to it; between two requests
//! that costs the caches of both. So a message that is whole and small is left here, and all leave when what was ready has been
//! worked on: just before the loop waits. Nothing waits for time: a turn with nothing else to do ends at once, and one with much
//! sends when `FULL` messages have gathered, or after `READS` reads.
//!
//! Who leaves bytes here has written them, as if the kernel had taken them. A send that fails ends the connection, so its reader is
//! told. Where the kernel has no room, the rest waits here, and what the connection writes later waits behind it; no longer than
//! the connection is there.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::io;
use std::ops::Range;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::rc::Rc;
use std::task::{Poll, Waker};

use rustix::net::{SendFlags, send};
use tokio::task::AbortHandle;

use super::sys;

/// The longest message that waits, bytes: more are worth a send of their own.
pub const SMALL: usize = 2048;
/// So many leave although the turn goes on.
const FULL: usize = 32;
/// After so many reads of this worker they leave, too: a loop with much to do may never wait.
const READS: u32 = 256;

thread_local! {
    static OUTBOX: RefCell<Outbox> = RefCell::default();
    /// Reads until what waits must leave; 0 where nothing waits.
    static READS_LEFT: Cell<u32> = const { Cell::new(0) };
}

/// The number of what a connection left here last; 0 for nothing.
#[derive(Debug, Default)]
pub struct Receipt(Cell<u64>);

#[derive(Default)]
struct Outbox {
    /// Somebody sends at the end of each turn.
    is_open: bool,
    /// How many letters there were before those that wait.
    left: u64,
    letters: Vec<Letter>,
    /// The bytes of the letters.
    bytes: Vec<u8>,
    stuck: Vec<Stuck>,
    /// Who serves those that are stuck.
    waker: Option<Waker>,
}

/// The bytes of one connection that wait for the end of the turn.
struct Letter {
    socket: RawFd,
    /// Empty where they have left already, or shall not leave.
    bytes: Range<usize>,
}

/// Bytes for which the kernel had no room.
struct Stuck {
    number: u64,
    rest: Rc<RefCell<Vec<u8>>>,
    /// The socket by another descriptor, until somebody waits for its room: so it does not matter who polls the connection.
    socket: Option<OwnedFd>,
    /// Who waits for it then.
    task: Option<AbortHandle>,
}

/// Leaves a message that is whole and small for the end of the turn. Otherwise `false`: it must be written. (So it is where
/// the last message still waits, and where nobody sends at the end of turns.)
pub fn post(receipt: &Receipt, socket: &impl AsRawFd, message: &[u8]) -> bool {
    if message.len() > SMALL {
        return false;
    }
    OUTBOX.with_borrow_mut(|outbox| {
        if !outbox.is_open || outbox.waits(receipt.0.get()) {
            return false;
        }
        let start = outbox.bytes.len();
        outbox.bytes.extend_from_slice(message);
        outbox.letters.push(Letter { socket: socket.as_raw_fd(), bytes: start..outbox.bytes.len() });
        receipt.0.set(outbox.left + outbox.letters.len() as u64);
        if outbox.letters.len() >= FULL {
            outbox.send_all();
        } else if READS_LEFT.get() == 0 {
            READS_LEFT.set(READS);
        }
        true
    })
}

/// Something is read.
#[inline]
pub fn count_read() {
    let left = READS_LEFT.get();
    if left > 0 {
        READS_LEFT.set(left - 1);
        if left == 1 {
            end_turn();
        }
    }
}

/// Sends all that waits.
pub fn end_turn() {
    if READS_LEFT.get() > 0 || OUTBOX.with_borrow(|outbox| !outbox.letters.is_empty()) {
        OUTBOX.with_borrow_mut(Outbox::send_all);
    }
}

/// Sends, by `send`, what still waits of a connection that will write more; `None` if nothing does.
pub fn settle(receipt: &Receipt, send: impl FnOnce(&[u8]) -> io::Result<usize>) -> Option<io::Result<usize>> {
    if receipt.0.get() == 0 {
        return None;
    }
    // (A thread that ends sends nothing more.)
    OUTBOX.try_with(|outbox| outbox.borrow_mut().settle(receipt.0.get(), send)).ok()?
}

/// Forgets what still waits of a connection that ends.
pub fn forget(receipt: &Receipt) {
    let number = receipt.0.take();
    if number > 0 {
        let _ = OUTBOX.try_with(|outbox| outbox.borrow_mut().forget(number));
    }
}

impl Outbox {
    /// The place among the letters of this turn.
    fn place(&self, number: u64) -> Option<usize> {
        usize::try_from(number.checked_sub(self.left + 1)?).ok()
    }

    fn waits(&self, number: u64) -> bool {
        let letter = self.place(number).and_then(|place| self.letters.get(place));
        letter.is_some_and(|letter| !letter.bytes.is_empty())
            || self.stuck.iter().any(|stuck| stuck.number == number)
    }

    fn send_all(&mut self) {
        READS_LEFT.set(0);
        let Self { letters, bytes, stuck, left, .. } = self;
        let had = stuck.len();
        for letter in letters.drain(..) {
            *left += 1;
            let Some(message) = bytes.get(letter.bytes).filter(|message| !message.is_empty()) else {
                continue;
            };
            let sent = match sys::send(letter.socket, message) {
                Ok(sent) => sent,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => 0,
                Err(_) => {
                    sys::end(letter.socket);
                    continue;
                }
            };
            let Some(rest @ [_, ..]) = message.get(sent..) else { continue };
            match sys::duplicate(letter.socket) {
                Some(socket) => stuck.push(Stuck {
                    number: *left,
                    rest: Rc::new(RefCell::new(rest.to_vec())),
                    socket: Some(socket),
                    task: None,
                }),
                // (The process may have no more descriptors.)
                None => sys::end(letter.socket),
            }
        }
        bytes.clear();
        if stuck.len() > had
            && let Some(waker) = &self.waker
        {
            waker.wake_by_ref();
        }
    }

    fn settle(
        &mut self,
        number: u64,
        send: impl FnOnce(&[u8]) -> io::Result<usize>,
    ) -> Option<io::Result<usize>> {
        if let Some(place) = self.place(number) {
            let letter = self.letters.get_mut(place)?;
            let message = self.bytes.get(letter.bytes.clone()).filter(|message| !message.is_empty())?;
            let sent = send(message);
            if let Ok(sent) = sent {
                letter.bytes.start += sent;
            }
            return Some(sent);
        }
        let stuck = self.stuck.iter().find(|stuck| stuck.number == number)?;
        let mut rest = stuck.rest.borrow_mut();
        let sent = send(&rest);
        if let Ok(sent) = sent {
            let sent = sent.min(rest.len());
            rest.drain(..sent);
        }
        let is_empty = rest.is_empty();
        drop(rest);
        if is_empty {
            self.forget(number);
        }
        Some(sent)
    }

    fn forget(&mut self, number: u64) {
        if let Some(letter) = self.place(number).and_then(|place| self.letters.get_mut(place)) {
            letter.bytes = 0..0;
        }
        self.stuck.retain(|stuck| {
            // (The other descriptor would keep the connection.)
            stuck.number != number || {
                stuck.task.iter().for_each(AbortHandle::abort);
                false
            }
        });
    }
}

/// Opens the outbox of this thread: from now on its loop calls [`end_turn`] before it waits.
pub fn open() {
    OUTBOX.with_borrow_mut(|outbox| outbox.is_open = true);
}

/// Sends what is stuck, for as long as the loop runs.
pub async fn serve() {
    loop {
        let (number, rest, socket) = poll_fn(|cx| {
            OUTBOX.with_borrow_mut(|outbox| {
                let new = outbox
                    .stuck
                    .iter_mut()
                    .find_map(|stuck| Some((stuck.number, stuck.rest.clone(), stuck.socket.take()?)));
                if new.is_none() && !outbox.waker.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
                    outbox.waker = Some(cx.waker().clone());
                }
                new.map_or(Poll::Pending, Poll::Ready)
            })
        })
        .await;
        let task = tokio::task::spawn_local(async move {
            send_rest(&rest, socket).await;
            OUTBOX.with_borrow_mut(|outbox| outbox.stuck.retain(|stuck| stuck.number != number));
        });
        OUTBOX.with_borrow_mut(|outbox| {
            if let Some(stuck) = outbox.stuck.iter_mut().find(|stuck| stuck.number == number) {
                stuck.task = Some(task.abort_handle());
            }
        });
    }
}

/// Sends what is stuck as there is room for it, until nothing is left. What cannot be sent ends the connection.
async fn send_rest(rest: &RefCell<Vec<u8>>, socket: OwnedFd) {
    let socket = match sys::watch(socket) {
        Ok(socket) => socket,
        Err(socket) => return sys::end(socket.as_raw_fd()),
    };
    while !rest.borrow().is_empty() {
        let Ok(mut room) = socket.writable().await else { return };
        let mut rest = rest.borrow_mut();
        match room.try_io(|socket| Ok(send(socket, &rest, SendFlags::NOSIGNAL)?)) {
            Ok(Ok(sent)) => {
                let sent = sent.min(rest.len());
                rest.drain(..sent);
            }
            Ok(Err(_)) => {
                return sys::end(socket.as_raw_fd());
            }
            // There was no room after all.
            Err(_) => {}
        }
    }
}

#[cfg(test)]
mod tests;
