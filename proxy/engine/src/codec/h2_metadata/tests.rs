use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::Wake;

use proptest::prelude::*;
use proxy_core::stats::Registry;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt, DuplexStream, ReadBuf};

use super::frames::MetadataFrames;
use super::*;
use crate::codec::h2_guard::{FrameLimits, Guarded, Traffic};

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const SETTINGS: u8 = 4;
const CONTINUATION: u8 = 9;
const METADATA: u8 = 0x4d;

const END_STREAM: u8 = 1;
/// Of METADATA, and of HEADERS.
const END: u8 = 4;
const PADDED: u8 = 8;

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let [_, n0, n1, n2] = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&[n0, n1, n2, kind, flags], &stream.to_be_bytes()[..], payload].concat()
}

/// A block with one field of that name, and a short value.
fn block(name: u8) -> Vec<u8> {
    vec![0, 1, name, 1, b'~']
}

fn metadata(stream: u32, name: u8) -> Vec<u8> {
    frame(METADATA, END, stream, &block(name))
}

fn guarded(io: DuplexStream, streams: &Rc<MetadataStreams>) -> Guarded<DuplexStream> {
    let limits = FrameLimits {
        empty_frames: 10,
        priority_per_stream: 100,
        window_updates_per_data: 10,
        control_frames: 100_000,
    };
    let registry = Registry::new(1);
    let traffic = Traffic::Downstream(registry.scope("http").cells());
    Guarded::new(io, streams.side, limits, registry.scope("http2").cells(), traffic)
        .with_metadata(Some(streams), None)
}

fn streams(side: Side) -> Rc<MetadataStreams> {
    MetadataStreams::new(side, 1000, 100)
}

fn next(stream: &MetadataStream) -> Option<Vec<u8>> {
    match stream.poll_next(&Context::from_waker(Waker::noop())) {
        Poll::Ready(MetadataBlock(block)) => Some(block),
        Poll::Pending => None,
    }
}

/// Everything that comes through, however little is taken at once.
async fn read_all(io: &mut (impl AsyncRead + Unpin), at_once: usize) -> io::Result<Vec<u8>> {
    let mut all = Vec::new();
    loop {
        let mut piece = vec![0; at_once];
        match io.read(&mut piece).await? {
            0 => return Ok(all),
            count => all.extend_from_slice(&piece[..count]),
        }
    }
}

/// What a client sends, and what of it is for the codec.
fn conversation() -> (Vec<u8>, Vec<u8>) {
    let head = frame(HEADERS, 0, 1, b"head");
    let rest = frame(CONTINUATION, END, 1, b"rest");
    let data = frame(DATA, PADDED, 1, b"\x02abc\0\0");
    let end = frame(DATA, END_STREAM, 1, b"");
    let own = [PREFACE.to_vec(), frame(SETTINGS, 0, 0, b""), head, rest, data.clone(), end.clone()].concat();
    let sent = [
        PREFACE,
        &frame(SETTINGS, 0, 0, b""),
        &metadata(1, b'n'),
        &frame(HEADERS, 0, 1, b"head"),
        &frame(CONTINUATION, END, 1, b"rest"),
        &frame(METADATA, 0, 1, &block(b'a')[..3]),
        &metadata(0, b'n'),
        &frame(METADATA, END, 1, &block(b'a')[3..]),
        &data,
        &frame(METADATA, 0, 1, b""),
        &metadata(1, b'b'),
        &frame(METADATA, END, 1, b""),
        &end,
        &metadata(1, b'n'),
    ];
    (sent.concat(), own)
}

/// Wherever the bytes are cut, the codec reads what is its own, and the stream its metadata.
#[tokio::test]
async fn metadata_is_cut_out_at_every_split() {
    let (sent, own) = conversation();
    let sizes = (1..40).map(|size| (size, 4096)).chain((1..12).map(|size| (4096, size)));
    for (written, read) in sizes.chain([(4096, 4096), (1, 1), (3, 2)]) {
        let streams = streams(Side::Server);
        let (near, mut far) = tokio::io::duplex(4096);
        let mut near = guarded(near, &streams);
        let (sending, received) = tokio::join!(
            async {
                for piece in sent.chunks(written) {
                    far.write_all(piece).await.unwrap();
                    tokio::task::yield_now().await;
                }
                drop(far);
            },
            read_all(&mut near, read)
        );
        let () = sending;
        assert_eq!(received.unwrap(), own, "{written} written at once, {read} read");
        let mut stream = streams.take(1);
        stream.final_head_read();
        assert_eq!(next(&stream), Some(block(b'a')));
        assert_eq!(next(&stream), None, "the body comes first");
        assert!(stream.has_next());
        stream.data_read(3);
        assert_eq!(next(&stream), Some(block(b'b')));
        assert!(!stream.has_next());
        assert_eq!(streams.inner.borrow().waiting, 0);
    }
}

/// At every place where a read may end.
#[test]
fn metadata_is_cut_out_in_two_pieces() {
    let (sent, own) = conversation();
    for at in 0..=sent.len() {
        let streams = streams(Side::Server);
        let mut frames = MetadataFrames::new(streams.clone(), (PREFACE.len(), 0), None);
        let mut kept = Vec::new();
        let (first, second) = sent.split_at(at);
        let mut rest = second;
        let mut piece = first.to_vec();
        loop {
            let count = frames.cut(&mut piece).unwrap();
            kept.extend_from_slice(&piece[..count]);
            let mut released = [0; 16];
            let mut released = ReadBuf::new(&mut released);
            frames.release(&mut released);
            kept.extend_from_slice(released.filled());
            if rest.is_empty() {
                break;
            }
            // While a header has begun no more is read than tells its kind.
            let (some, more) = rest.split_at(frames.wanted().min(rest.len()));
            (piece, rest) = (some.to_vec(), more);
        }
        assert_eq!(kept, own, "cut at {at}");
    }
}

async fn result_of(streams: &Rc<MetadataStreams>, bytes: &[u8]) -> Result<Vec<u8>, io::ErrorKind> {
    let (near, mut far) = tokio::io::duplex(1 << 20);
    far.write_all(bytes).await.unwrap();
    drop(far);
    read_all(&mut guarded(near, streams), 5000).await.map_err(|error| error.kind())
}

fn hello() -> Vec<u8> {
    [PREFACE, &frame(SETTINGS, 0, 0, b""), &frame(HEADERS, END, 1, b"head")].concat()
}

#[tokio::test]
async fn what_ends_a_connection() {
    let large = |size: usize| [&[0x10, 1, b'a', 0x7f][..], &vec![b'~'; size]].concat();
    let cases = [
        ("an index of nothing", frame(METADATA, END, 1, b"\x80"), true),
        ("a block that is cut off", frame(METADATA, END, 1, b"\0\x01a"), true),
        ("the same without its end", frame(METADATA, 0, 1, b"\0\x01a"), false),
        ("a stream that is not there", frame(METADATA, END, 3, b"\x80"), false),
        ("the connection", frame(METADATA, END, 0, b"\x80"), false),
        ("as much as there may be", frame(METADATA, 0, 1, &large(996)), false),
        ("more than that", frame(METADATA, 0, 1, &large(997)), true),
        ("as much as there may be, in pieces", metadata(1, b'a').repeat(200), false),
        ("more than that, in pieces", metadata(1, b'a').repeat(201), true),
        ("a flag too many", frame(METADATA, END | 1, 1, b"\x80"), false),
    ];
    for (name, bytes, ends) in cases {
        let streams = streams(Side::Server);
        let result = result_of(&streams, &[hello(), bytes].concat()).await;
        let expected = if ends { Err(io::ErrorKind::ArgumentListTooLong) } else { Ok(hello()) };
        assert_eq!(result, expected, "{name}");
    }
}

/// Frames that are refused in any case are left to the codec: those that are too long, and those between pieces of a head.
#[tokio::test]
async fn what_the_codec_refuses_it_gets() {
    let long = frame(METADATA, END, 1, &[0; 16_385]);
    let between = [frame(HEADERS, 0, 3, b"head"), metadata(3, b'a')].concat();
    for bytes in [long, between] {
        let bytes = [hello(), bytes].concat();
        assert_eq!(result_of(&streams(Side::Server), &bytes).await, Ok(bytes));
    }
}

/// Streams that nobody takes are not remembered beyond what the codec serves, and what waits is bounded.
#[tokio::test]
async fn memory_is_bounded() {
    let streams = MetadataStreams::new(Side::Server, MOST_WAITING, 100);
    let heads: Vec<u8> = (1..1000).flat_map(|n| frame(HEADERS, END, 2 * n + 1, b"head")).collect();
    result_of(&streams, &[hello(), heads].concat()).await.unwrap();
    assert_eq!(streams.inner.borrow().streams.len(), 100);
    let piece = vec![0; 16_384];
    let mut result = Ok(());
    for _ in 0..600 {
        for id in [3, 5] {
            result = result.and_then(|()| streams.on_piece(id, &piece));
        }
    }
    assert_eq!(result, Err(Violation::TooMuch));
    assert!(streams.inner.borrow().waiting <= MOST_WAITING);
    for id in 0..2000 {
        streams.on_reset(id);
    }
    assert_eq!((streams.inner.borrow().streams.len(), streams.inner.borrow().waiting), (0, 0));
}

/// A peer that does not read what it is sent loses its connection.
#[tokio::test]
async fn what_is_not_read_is_bounded() {
    let streams = streams(Side::Server);
    streams.on_head(1, false);
    let stream = streams.take(1);
    let (near, _far) = tokio::io::duplex(7);
    let mut near = guarded(near, &streams);
    let mut sent = 0;
    while !streams.is_flooded() {
        stream.send(MetadataBlock(vec![0; 10_000]));
        sent += 10_000;
        assert!(streams.inner.borrow().waiting <= MOST_WAITING);
    }
    assert!((MOST_WAITING - 100_000 - BLOCK * 1700..=MOST_WAITING).contains(&sent), "{sent}");
    assert_eq!(near.flush().await.map_err(|error| error.kind()), Err(io::ErrorKind::QuotaExceeded));
    // Short ones count more than they hold.
    let streams = self::streams(Side::Server);
    streams.on_head(1, false);
    let stream = streams.take(1);
    stream.send(MetadataBlock(vec![0]));
    assert_eq!(streams.inner.borrow().waiting, 1 + BLOCK);
}

/// Puts what is sent on a stream between the frames of a codec that writes so many octets at once; the kinds of what comes out.
async fn sent(
    side: Side,
    frames: &[Vec<u8>],
    at_once: usize,
    mut before: impl FnMut(usize, &mut MetadataStream),
) -> Vec<(u8, u32, Vec<u8>)> {
    let streams = streams(side);
    if side == Side::Server {
        streams.on_head(1, false);
    }
    let mut stream = streams.take(1);
    let (near, mut far) = tokio::io::duplex(7);
    let mut near = guarded(near, &streams);
    let preface: &[u8] = if side == Side::Client { PREFACE } else { b"" };
    let (writing, received) = tokio::join!(
        async {
            near.write_all(preface).await.unwrap();
            for (at, frame) in frames.iter().enumerate() {
                before(at, &mut stream);
                for piece in frame.chunks(at_once) {
                    near.write_all(piece).await.unwrap();
                }
                near.flush().await.unwrap();
            }
            before(frames.len(), &mut stream);
            near.flush().await.unwrap();
            drop(near);
        },
        async {
            let mut received = Vec::new();
            far.read_to_end(&mut received).await.map(|_| received)
        }
    );
    let () = writing;
    let received = received.unwrap();
    let mut rest = received.strip_prefix(preface).unwrap();
    let mut out = Vec::new();
    while let [n0, n1, n2, kind, _, s0, s1, s2, s3, payload @ ..] = rest {
        let length = u32::from_be_bytes([0, *n0, *n1, *n2]) as usize;
        let stream = u32::from_be_bytes([*s0, *s1, *s2, *s3]);
        out.push((*kind, stream, payload[..length].to_vec()));
        rest = &payload[length..];
    }
    assert!(rest.is_empty());
    drop(stream);
    assert_eq!(streams.inner.borrow().waiting, 0);
    out
}

/// A block goes between two frames, after what was handed over before it, not into a head, and not behind the end.
#[tokio::test]
async fn metadata_keeps_its_place() {
    let frames = [
        frame(SETTINGS, 0, 0, b""),
        frame(HEADERS, 0, 1, b"he"),
        frame(CONTINUATION, END, 1, b"ad"),
        frame(DATA, 0, 1, b"abc"),
        frame(DATA, 0, 3, b"other"),
        frame(DATA, END_STREAM, 1, b""),
        frame(DATA, 0, 3, b"more"),
    ];
    let own: Vec<_> = [SETTINGS, HEADERS, CONTINUATION, DATA, DATA, DATA, DATA].into();
    for at_once in [1, 2, 5, 9, 13, 100] {
        for (side, sent_before, handed, expected) in [
            // before the response head, which may come later
            (Side::Server, 1, (0, 0), Some(1)),
            // behind a head that is not written yet
            (Side::Server, 0, (1, 0), Some(3)),
            (Side::Client, 0, (1, 0), Some(3)),
            (Side::Client, 2, (1, 0), Some(3)),
            // behind data
            (Side::Client, 0, (1, 3), Some(4)),
            (Side::Server, 4, (1, 3), Some(4)),
            // at once, though nothing follows
            (Side::Server, 5, (1, 3), Some(5)),
            // too late
            (Side::Server, 6, (1, 3), None),
            (Side::Client, 7, (1, 3), None),
        ] {
            let out = sent(side, &frames, at_once, |at, stream| {
                if at == sent_before {
                    (stream.handed.heads, stream.handed.octets) = handed;
                    stream.send(MetadataBlock(block(b'a')));
                }
            })
            .await;
            let mut kinds = own.clone();
            if let Some(at) = expected {
                kinds.insert(at, METADATA);
            }
            let got: Vec<_> = out.iter().map(|(kind, ..)| *kind).collect();
            assert_eq!(got, kinds, "{side:?}, sent before {sent_before}, {handed:?}, {at_once} at once");
            if let Some(at) = expected {
                assert_eq!(out[at], (METADATA, 1, block(b'a')));
            }
        }
    }
}

#[tokio::test]
async fn a_long_block_takes_several_frames() {
    let long: Vec<u8> = (0..40_000_u32).map(|n| n.to_le_bytes()[0]).collect();
    let out = sent(Side::Server, &[frame(SETTINGS, 0, 0, b"")], 100, |at, stream| {
        if at == 1 {
            stream.send(MetadataBlock(long.clone()));
        }
    })
    .await;
    let lengths: Vec<_> = out.iter().map(|(kind, _, payload)| (*kind, payload.len())).collect();
    assert_eq!(lengths, [(SETTINGS, 0), (METADATA, 16_384), (METADATA, 16_384), (METADATA, 7232)]);
    let whole: Vec<u8> = out.into_iter().flat_map(|(_, _, payload)| payload).collect();
    assert_eq!(whole, long);
}

/// A stream that the codec never opened is forgotten with what was to be sent on it; one that was opened is sent all of it.
#[test]
fn what_is_over_is_forgotten() {
    let client = streams(Side::Client);
    let send = |id: u32| {
        let mut stream = client.take(id);
        stream.head_handed();
        stream.send(MetadataBlock(block(b'a')));
        stream
    };
    drop(send(1));
    assert!(client.inner.borrow().streams.is_empty());
    let stream = send(3);
    client.on_head_sent(3, false);
    drop(stream);
    assert_eq!(client.next_due(), Some((3, MetadataBlock(block(b'a')))));
    let inner = client.inner.borrow();
    assert_eq!((inner.streams.len(), inner.queued.len(), inner.waiting), (0, 0, 0));
}

struct Count(AtomicUsize);

impl Wake for Count {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

/// Who waits for metadata is woken by it, and the connection by what is to be sent.
#[test]
fn who_waits_is_woken() {
    let streams = streams(Side::Client);
    let mut stream = streams.take(1);
    let (reader, writer) = (Arc::new(Count(AtomicUsize::new(0))), Arc::new(Count(AtomicUsize::new(0))));
    let wakers = (Waker::from(reader.clone()), Waker::from(writer.clone()));
    streams.register(&Context::from_waker(&wakers.1));
    assert_eq!(stream.poll_next(&Context::from_waker(&wakers.0)), Poll::Pending);
    streams.on_piece(1, &block(b'a')).unwrap();
    assert_eq!(reader.0.load(Ordering::Relaxed), 0);
    streams.on_block(1).unwrap();
    assert_eq!(reader.0.load(Ordering::Relaxed), 1);
    stream.head_handed();
    assert_eq!(stream.poll_begun(&Context::from_waker(&wakers.0)), Poll::Pending);
    streams.on_head_sent(1, false);
    assert_eq!(reader.0.load(Ordering::Relaxed), 2);
    assert_eq!(stream.poll_begun(&Context::from_waker(&wakers.0)), Poll::Ready(()));
    stream.send(MetadataBlock(block(b'a')));
    assert_eq!(writer.0.load(Ordering::Relaxed), 1);
}

/// Metadata that came before a reset can be read, and nothing can be sent behind it.
#[test]
fn a_reset_ends_both_directions() {
    let streams = streams(Side::Client);
    let stream = streams.take(1);
    streams.on_piece(1, &block(b'a')).unwrap();
    streams.on_block(1).unwrap();
    streams.on_piece(1, &block(b'b')).unwrap();
    stream.send(MetadataBlock(block(b'c')));
    streams.on_reset(1);
    streams.on_block(1).unwrap();
    assert_eq!((next(&stream), next(&stream)), (Some(block(b'a')), None));
    assert_eq!(streams.next_due(), None);
    stream.send(MetadataBlock(block(b'c')));
    assert_eq!((streams.inner.borrow().waiting, streams.is_queued()), (0, false));
    drop(stream);
    assert!(streams.inner.borrow().streams.is_empty());
}

proptest! {
    /// Whatever comes, nothing is lost or doubled of what is not METADATA, and what is counted is what is there.
    #[test]
    fn any_frames(frames in proptest::collection::vec((0_u8..12, any::<u8>(), 0_u32..6, proptest::collection::vec(any::<u8>(), 0..40)), 0..40), cuts in proptest::collection::vec(1_usize..30, 1..20)) {
        let streams = MetadataStreams::new(Side::Server, 500, 3);
        let mut cutter = MetadataFrames::new(streams.clone(), (0, 0), None);
        let kind = |kind: u8| if kind > 9 { METADATA } else { kind };
        let bytes: Vec<u8> =
            frames.iter().flat_map(|(k, flags, stream, payload)| frame(kind(*k), *flags, *stream, payload)).collect();
        let mut owned = None;
        let (mut rest, mut cuts, mut kept) = (&bytes[..], cuts.iter().cycle(), Vec::new());
        let mut failed = false;
        while !rest.is_empty() && !failed {
            let count = (*cuts.next().unwrap()).min(rest.len()).min(cutter.wanted());
            let mut piece = rest[..count].to_vec();
            rest = &rest[count..];
            match cutter.cut(&mut piece) {
                Ok(count) => kept.extend_from_slice(&piece[..count]),
                Err(_) => failed = true,
            }
            let mut released = [0; 16];
            let mut released = ReadBuf::new(&mut released);
            cutter.release(&mut released);
            kept.extend_from_slice(released.filled());
            let is_there = streams.inner.borrow().streams.contains_key(&1);
            if owned.is_none() && is_there {
                owned = Some(streams.take(1));
            }
            let inner = streams.inner.borrow();
            let waiting: usize = inner.streams.values().map(|stream| stream.unfinished.len() + cost(&stream.inbound) + cost(&stream.outbound)).sum();
            prop_assert_eq!(inner.waiting, waiting);
            prop_assert!(inner.streams.len() <= 3);
        }
        let mut in_head = false;
        let mut own = Vec::new();
        for (k, flags, stream, payload) in &frames {
            let kind = kind(*k);
            if kind != METADATA || in_head {
                own.extend(frame(kind, *flags, *stream, payload));
            }
            if matches!(kind, HEADERS | CONTINUATION) {
                in_head = flags & END == 0;
            }
        }
        if failed { prop_assert!(own.starts_with(&kept)) } else { prop_assert_eq!(kept, own) }
        drop(owned);
        for id in 0..6 {
            streams.on_reset(id);
        }
        prop_assert_eq!(streams.inner.borrow().waiting, 0);
        prop_assert!(streams.inner.borrow().streams.is_empty());
    }
}
