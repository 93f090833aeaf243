//! The observer of HTTP/2 frame headers: whatever passes, and however it is cut, it sees the same and does not panic.
#![no_main]

use libfuzzer_sys::fuzz_target;
use proxy_engine::codec::h2_guard::{FrameGuard, FrameLimits, Side};

fuzz_target!(|input: (bool, u8, &[u8])| {
    let (is_server, cut, bytes) = input;
    let side = if is_server { Side::Server } else { Side::Client };
    let limits = FrameLimits {
        empty_frames: 1,
        priority_per_stream: 4,
        window_updates_per_data: 2,
        control_frames: 1_000_000,
    };
    let mut whole = FrameGuard::new(side, limits);
    let mut pieces = FrameGuard::new(side, limits);
    let expected = whole.received(bytes);
    let mut got = Ok(());
    for piece in bytes.chunks(usize::from(cut) + 1) {
        got = pieces.received(piece);
        if got.is_err() {
            break;
        }
    }
    assert_eq!(got, expected);
    assert_eq!(whole.counts(), pieces.counts());
    whole.sent(bytes);
});
