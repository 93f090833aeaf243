//! Receive buffers of a worker: taken when a socket is readable, given back when the connection is idle, so that an
//! idle connection holds none.

use bytes::BytesMut;
use std::cell::RefCell;

/// Size of a receive buffer, bytes.
pub const BUFFER_SIZE: usize = 16 * 1024;
/// Most buffers kept for reuse by one worker.
const KEPT: usize = 128;

thread_local! {
    static FREE: RefCell<Vec<BytesMut>> = const { RefCell::new(Vec::new()) };
}

/// An empty buffer with room for [`BUFFER_SIZE`] bytes.
pub fn take() -> BytesMut {
    FREE.with_borrow_mut(Vec::pop).unwrap_or_else(|| BytesMut::with_capacity(BUFFER_SIZE))
}

/// Gives a buffer back; its content is dropped.
pub fn give(mut buffer: BytesMut) {
    buffer.clear();
    // A buffer that was split is kept only if its allocation is whole and ours alone again.
    if !buffer.try_reclaim(BUFFER_SIZE) || buffer.capacity() > 2 * BUFFER_SIZE {
        return;
    }
    FREE.with_borrow_mut(|free| {
        if free.len() < KEPT {
            free.push(buffer);
        }
    });
}
