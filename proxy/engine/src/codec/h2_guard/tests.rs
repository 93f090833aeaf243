use proptest::prelude::*;

use super::*;

const LIMITS: FrameLimits =
    FrameLimits { empty_frames: 1, priority_per_stream: 3, window_updates_per_data: 2, control_frames: 10 };

fn frame(kind: u8, flags: u8, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let mut bytes = vec![length[1], length[2], length[3], kind, flags, 0, 0, 0, 1];
    bytes.extend_from_slice(payload);
    bytes
}

fn server() -> FrameGuard {
    let mut guard = FrameGuard::new(Side::Server, LIMITS);
    guard.received(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").unwrap();
    guard.received(&frame(SETTINGS, 0, b"")).unwrap();
    guard
}

#[test]
fn settings_come_first() {
    for (first, expected) in [
        (frame(SETTINGS, 0, b""), Ok(())),
        (frame(SETTINGS, ACK, b""), Err(Flood::BeforeSettings)),
        (frame(HEADERS, 5, b"x"), Err(Flood::BeforeSettings)),
        (frame(6, 0, &[0; 8]), Err(Flood::BeforeSettings)),
    ] {
        assert_eq!(FrameGuard::new(Side::Client, LIMITS).received(&first), expected);
    }
}

/// How many of `frame` pass before the guard says no, at most 1000.
fn passes(guard: &mut FrameGuard, frame: &[u8]) -> (usize, Option<Flood>) {
    for count in 0..1000 {
        if let Err(flood) = guard.received(frame) {
            return (count, Some(flood));
        }
    }
    (1000, None)
}

#[test]
fn limits() {
    let cases = [
        ("empty DATA", frame(DATA, 0, b""), (1, Some(Flood::EmptyFrames))),
        ("DATA of padding only", frame(DATA, PADDED, b"\x02\0\0"), (1, Some(Flood::EmptyFrames))),
        ("padded DATA", frame(DATA, PADDED, b"\x01x\0"), (1000, None)),
        ("empty HEADERS", frame(HEADERS, 4, b""), (1, Some(Flood::EmptyFrames))),
        ("HEADERS of priority only", frame(HEADERS, WITH_PRIORITY, &[0; 5]), (1, Some(Flood::EmptyFrames))),
        ("empty CONTINUATION", frame(CONTINUATION, 0, b""), (1, Some(Flood::EmptyFrames))),
        ("a flag that CONTINUATION has not", frame(CONTINUATION, 1, b""), (1, Some(Flood::EmptyFrames))),
        ("empty DATA that ends the stream", frame(DATA, END_STREAM, b""), (1000, None)),
        ("PRIORITY", frame(PRIORITY, 0, &[0; 5]), (3, Some(Flood::Priority))),
        ("WINDOW_UPDATE", frame(WINDOW_UPDATE, 0, &[0; 4]), (5, Some(Flood::WindowUpdate))),
        ("PING", frame(6, 0, &[0; 8]), (10, Some(Flood::Control))),
        ("SETTINGS", frame(4, 0, b""), (10, Some(Flood::Control))),
        ("RST_STREAM", frame(RST_STREAM, 0, &[0; 4]), (10, Some(Flood::Control))),
        ("unknown", frame(77, 0, b"x"), (10, Some(Flood::Control))),
    ];
    for (name, frame, expected) in cases {
        assert_eq!(passes(&mut server(), &frame), expected, "{name}");
    }
}

#[test]
fn messages_earn_control_frames() {
    let mut guard = server();
    let request_and_reset = [frame(HEADERS, 5, b"x"), frame(RST_STREAM, 0, &[0; 4])].concat();
    assert_eq!(passes(&mut guard, &request_and_reset), (1000, None), "the premature reset rule is elsewhere");
    assert_eq!(guard.counts().resets_received, 1000);
    let mut guard = server();
    for _ in 0..5 {
        guard.sent(&frame(DATA, 0, b"x"));
    }
    assert_eq!(
        passes(&mut guard, &frame(WINDOW_UPDATE, 0, &[0; 4])),
        (5 + 2 * 2 * 5, Some(Flood::WindowUpdate))
    );
}

#[test]
fn a_slow_peer_is_no_flood() {
    let mut guard = server();
    let ping = frame(6, 0, &[0; 8]);
    for _ in 0..10 {
        guard.received(&ping).unwrap();
    }
    guard.window = guard.window.map(|window| window - WINDOW);
    assert_eq!(passes(&mut guard, &ping), (10, Some(Flood::Control)));
}

#[test]
fn a_client_sees_no_preface_but_sends_one() {
    let mut guard = FrameGuard::new(Side::Client, LIMITS);
    guard.sent(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n");
    guard.sent(&frame(GOAWAY, 0, &[0; 8]));
    guard.sent(&frame(RST_STREAM, 0, &[0; 4]));
    guard.received(&frame(SETTINGS, 0, b"")).unwrap();
    guard.received(&frame(RST_STREAM, 0, &[0; 4])).unwrap();
    assert_eq!(
        guard.counts(),
        FrameCounts { resets_received: 1, resets_sent: 1, goaways_sent: 1, ..FrameCounts::default() }
    );
}

proptest! {
    /// However the bytes are cut, the same frames are seen.
    #[test]
    fn cuts_do_not_matter(
        frames in proptest::collection::vec((0_u8..12, any::<u8>(), 0_usize..40), 0..60),
        cuts in proptest::collection::vec(1_usize..30, 1..20),
    ) {
        let bytes: Vec<u8> =
            frames.iter().flat_map(|(kind, flags, length)| frame(*kind, *flags, &vec![3; *length])).collect();
        let mut whole = server();
        let expected = whole.received(&bytes);
        let mut pieces = server();
        let mut rest = &bytes[..];
        let mut got = Ok(());
        for cut in cuts.iter().cycle() {
            if rest.is_empty() || got.is_err() {
                break;
            }
            let (piece, after) = rest.split_at((*cut).min(rest.len()));
            got = pieces.received(piece);
            rest = after;
        }
        prop_assert_eq!(got, expected);
        prop_assert_eq!(pieces.counts(), whole.counts());
    }

    /// Bytes that are no frames at all are counted as some; nothing panics.
    #[test]
    fn any_bytes(bytes in proptest::collection::vec(any::<u8>(), 0..2000)) {
        let _ = server().received(&bytes);
        FrameGuard::new(Side::Client, LIMITS).sent(&bytes);
    }
}
