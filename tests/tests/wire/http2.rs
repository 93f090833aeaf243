//! Frames that no well-behaved client sends.
//!
//! The rule for what is wrong: a stream error, GOAWAY, an error status or the end of the connection. It is never forwarded and
//! never ignored. Which of these is the proxy's choice.

use std::ops::RangeInclusive;

use anyhow::Result;
use integration::client::End;
use integration::frames::{
    ACK, CONTINUATION, DATA, END_HEADERS, END_STREAM, Exchange, HEADERS, PADDED, PING, PREFACE, PRIORITY,
    PUSH_PROMISE, RST_STREAM, SETTINGS, WINDOW_UPDATE, block, frame, frame_claiming, get_block, hello,
    integer,
};

use crate::rig::{QUIET, Rig, wanted};

/// What must come back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Expect {
    /// That many responses, and no error.
    Answers(usize),
    /// An error of any kind.
    Refused,
    /// Either; only the aftermath and the number of requests matter.
    Either,
}

struct Frames {
    name: &'static str,
    bytes: Vec<u8>,
    expect: Expect,
    /// How many requests may reach the upstream.
    requests: RangeInclusive<usize>,
}

fn refused(name: &'static str, parts: &[Vec<u8>]) -> Frames {
    Frames { name, bytes: [hello(), parts.concat()].concat(), expect: Expect::Refused, requests: 0..=0 }
}

/// For what is wrong only after a good request has begun.
fn refused_late(name: &'static str, parts: &[Vec<u8>]) -> Frames {
    Frames { requests: 0..=1, ..refused(name, parts) }
}

fn answered(name: &'static str, count: usize, parts: &[Vec<u8>]) -> Frames {
    Frames { expect: Expect::Answers(count), requests: count..=count, ..refused(name, parts) }
}

const WHOLE: u8 = END_STREAM | END_HEADERS;

fn get(stream: u32) -> Vec<u8> {
    frame(HEADERS, WHOLE, stream, &get_block("/"))
}

/// A request that ends with its head, of these fields.
fn request(fields: &[(&str, &str)]) -> Vec<u8> {
    frame(HEADERS, WHOLE, 1, &block(fields))
}

const BASE: [(&str, &str); 4] =
    [(":method", "GET"), (":scheme", "http"), (":authority", "test"), (":path", "/")];

/// A good request with further fields.
fn with(fields: &[(&str, &str)]) -> Vec<u8> {
    request(&[&BASE, fields].concat())
}

/// A good request in which one pseudo-header has another value (`None`: is absent).
fn but(name: &str, value: Option<&str>) -> Vec<u8> {
    let fields: Vec<_> = BASE
        .iter()
        .filter_map(|(n, v)| if *n == name { value.map(|value| (*n, value)) } else { Some((*n, *v)) })
        .collect();
    request(&fields)
}

fn post_head(stream: u32, fields: &[(&str, &str)]) -> Vec<u8> {
    let base = [(":method", "POST"), (":scheme", "http"), (":authority", "test"), (":path", "/")];
    frame(HEADERS, END_HEADERS, stream, &block(&[&base, fields].concat()))
}

fn settings(id: u16, value: u32) -> Vec<u8> {
    [id.to_be_bytes().to_vec(), value.to_be_bytes().to_vec()].concat()
}

fn framing() -> Vec<Frames> {
    let preface_only = |rest: Vec<u8>| [PREFACE.to_vec(), rest].concat();
    vec![
        answered("baseline", 1, &[get(1)]),
        Frames { bytes: b"PRI * HTTP/2.0\r\n\r\nXX\r\n\r\n".to_vec(), ..refused("bad_preface", &[]) },
        Frames { bytes: preface_only(get(1)), ..refused("no_settings_first", &[]) },
        refused("settings_ack_len", &[frame(SETTINGS, ACK, 0, &[0; 6])]),
        refused("settings_stream1", &[frame(SETTINGS, 0, 1, &[])]),
        refused("settings_length", &[frame(SETTINGS, 0, 0, &[0; 5])]),
        refused("settings_maxframe_small", &[frame(SETTINGS, 0, 0, &settings(5, 100))]),
        refused("settings_window_too_large", &[frame(SETTINGS, 0, 0, &settings(4, u32::MAX))]),
        answered("settings_unknown", 1, &[frame(SETTINGS, 0, 0, &settings(0x7777, 1)), get(1)]),
        refused_late("wu_zero_stream", &[post_head(1, &[]), frame(WINDOW_UPDATE, 0, 1, &[0; 4])]),
        refused("wu_zero_connection", &[frame(WINDOW_UPDATE, 0, 0, &[0; 4])]),
        refused_late(
            "wu_overflow_stream",
            &[post_head(1, &[]), frame(WINDOW_UPDATE, 0, 1, &0x7fff_ffff_u32.to_be_bytes())],
        ),
        refused("wu_overflow_connection", &[frame(WINDOW_UPDATE, 0, 0, &0x7fff_ffff_u32.to_be_bytes())]),
        refused("data_idle", &[frame(DATA, END_STREAM, 1, b"hello")]),
        refused("data_stream0", &[frame(DATA, END_STREAM, 0, b"hello")]),
        refused("hdr_stream0", &[get(0)]),
        refused("hdr_even_stream", &[get(2)]),
        // a connection error (RFC 9113, 5.1.1), whether or not the first request was worked on
        refused_late("hdr_decreasing", &[get(3), get(1)]),
        refused(
            "hdr_then_ping_before_cont",
            &[
                frame(HEADERS, END_STREAM, 1, &get_block("/")),
                frame(PING, 0, 0, &[0; 8]),
                frame(CONTINUATION, END_HEADERS, 1, &[]),
            ],
        ),
        refused("continuation_alone", &[frame(CONTINUATION, END_HEADERS, 1, &get_block("/"))]),
        refused(
            "push_promise_client",
            &[frame(PUSH_PROMISE, END_HEADERS, 1, &[[0, 0, 0, 2].to_vec(), get_block("/")].concat())],
        ),
        refused_late("priority_len4", &[post_head(1, &[]), frame(PRIORITY, 0, 1, &[0; 4])]),
        refused_late("rst_len3", &[post_head(1, &[]), frame(RST_STREAM, 0, 1, &[0; 3])]),
        refused("rst_idle", &[frame(RST_STREAM, 0, 1, &[0; 4])]),
        refused("ping_stream1", &[frame(PING, 0, 1, &[0; 8])]),
        refused("ping_length", &[frame(PING, 0, 0, &[0; 7])]),
        refused_late("frame_oversize_data", &[post_head(1, &[]), frame(DATA, END_STREAM, 1, &[0; 20_000])]),
        refused_late("pad_gt_len", &[post_head(1, &[]), frame(DATA, END_STREAM | PADDED, 1, &[200, 1, 2])]),
        refused_late(
            "trailers_no_es",
            &[post_head(1, &[]), frame(HEADERS, END_HEADERS, 1, &block(&[("x-t", "1")]))],
        ),
        refused_late("hdr_after_es", &[get(1), get(1)]),
        Frames {
            expect: Expect::Either,
            requests: 0..=0,
            ..refused("cut_frame", &[frame_claiming(100, HEADERS, WHOLE, 1, &[0; 10])])
        },
    ]
}

fn heads() -> Vec<Frames> {
    let mut overflowing = vec![0x0f];
    overflowing.extend([0xff; 12]);
    let mut table_size = Vec::new();
    integer(&mut table_size, 5, 0x20, 1 << 20);
    table_size.extend(get_block("/"));
    let large = "a".repeat(7_000);
    let crumbs: Vec<(&str, &str)> = std::iter::repeat_n(("cookie", "a=b"), 2_000).collect();
    let pseudo_late: Vec<(&str, &str)> = [("x-a", "b")].into_iter().chain(BASE).collect();
    // ten literals of 7,000 bytes: more than a head may have, in frames that are not too large
    let ten = block(&[("x-a", large.as_str()); 10]);
    let mut large_head = vec![frame(HEADERS, END_STREAM, 1, &get_block("/"))];
    large_head.extend(ten.chunks(16_000).map(|piece| frame(CONTINUATION, 0, 1, piece)));
    large_head.push(frame(CONTINUATION, END_HEADERS, 1, &[]));
    let crumb_block = block(&crumbs);
    let mut crumb_head = vec![frame(HEADERS, END_STREAM, 1, &get_block("/"))];
    crumb_head.extend(crumb_block.chunks(16_000).map(|piece| frame(CONTINUATION, 0, 1, piece)));
    crumb_head.push(frame(CONTINUATION, END_HEADERS, 1, &[]));
    vec![
        refused("hpack_index0", &[frame(HEADERS, WHOLE, 1, &[0x80])]),
        refused("hpack_index_beyond", &[frame(HEADERS, WHOLE, 1, &[0xfe])]),
        refused("hpack_int_overflow", &[frame(HEADERS, WHOLE, 1, &overflowing)]),
        refused("hpack_table_size_too_big", &[frame(HEADERS, WHOLE, 1, &table_size)]),
        refused("hpack_cut", &[frame(HEADERS, WHOLE, 1, &get_block("/")[..10])]),
        refused("uppercase_name", &[with(&[("X-A", "b")])]),
        refused("connection_field", &[with(&[("connection", "close")])]),
        refused("te_gzip", &[with(&[("te", "gzip")])]),
        refused("transfer_encoding", &[with(&[("transfer-encoding", "chunked")])]),
        refused("pseudo_after_regular", &[request(&pseudo_late)]),
        refused("missing_method", &[but(":method", None)]),
        refused("missing_path", &[but(":path", None)]),
        refused("missing_authority", &[but(":authority", None)]),
        refused("dup_method", &[request(&[BASE[0], BASE[0], BASE[1], BASE[2], BASE[3]])]),
        refused("status_pseudo", &[request(&[BASE[0], BASE[1], BASE[2], BASE[3], (":status", "200")])]),
        refused("unknown_pseudo", &[request(&[BASE[0], BASE[1], BASE[2], BASE[3], (":nonsense", "1")])]),
        refused("path_empty", &[but(":path", Some(""))]),
        refused("path_noslash", &[but(":path", Some("a"))]),
        refused("path_crlf", &[but(":path", Some("/a\r\nx: y"))]),
        refused("path_space", &[but(":path", Some("/a b"))]),
        refused("method_space", &[but(":method", Some("GET /x"))]),
        refused("value_crlf", &[with(&[("x-a", "b\r\nc: d")])]),
        refused("value_nul", &[with(&[("x-a", "b\0c")])]),
        refused("name_colon", &[with(&[("x:a", "b")])]),
        refused("name_empty", &[with(&[("", "b")])]),
        refused("name_space", &[with(&[("x a", "b")])]),
        Frames {
            expect: Expect::Either,
            requests: 0..=1,
            ..refused("authority_host_mismatch", &[with(&[("host", "other")])])
        },
        refused("authority_slash", &[but(":authority", Some("a/b"))]),
        refused("authority_userinfo_crlf", &[but(":authority", Some("a\r\nb"))]),
        refused_late(
            "cl_too_short",
            &[post_head(1, &[("content-length", "2")]), frame(DATA, END_STREAM, 1, b"hello")],
        ),
        refused_late(
            "cl_too_long",
            &[post_head(1, &[("content-length", "9")]), frame(DATA, END_STREAM, 1, b"hello")],
        ),
        refused("cl_with_endstream_hdr", &[with(&[("content-length", "5")])]),
        refused(
            "cl_plus",
            &[post_head(1, &[("content-length", "+5")]), frame(DATA, END_STREAM, 1, b"hello")],
        ),
        refused(
            "cl_twice",
            &[
                post_head(1, &[("content-length", "5"), ("content-length", "6")]),
                frame(DATA, END_STREAM, 1, b"hello"),
            ],
        ),
        Frames {
            expect: Expect::Either,
            ..refused("connect_plain", &[request(&[(":method", "CONNECT"), (":authority", "a:1")])])
        },
        refused("hdr_list_70k", &large_head),
        refused("cookie_crumbs_2000", &crumb_head),
    ]
}

fn floods() -> Vec<Frames> {
    let many = |count: u32, of: &dyn Fn(u32) -> Vec<u8>| (0..count).map(of).collect::<Vec<_>>().concat();
    let odd = |n: u32| 2 * n + 1;
    let made_reset = |n: u32| {
        [post_head(odd(n), &[]), frame(WINDOW_UPDATE, 0, odd(n), &0x7fff_ffff_u32.to_be_bytes())].concat()
    };
    let after_end = |n: u32| [get(odd(n)), frame(DATA, END_STREAM, odd(n), b"x")].concat();
    let to_itself = |n: u32| {
        [get(odd(n)), frame(PRIORITY, 0, odd(n), &[odd(n).to_be_bytes().to_vec(), vec![0]].concat())].concat()
    };
    let rapid = |n: u32| [get(odd(n)), frame(RST_STREAM, 0, odd(n), &8_u32.to_be_bytes())].concat();
    let several = |name, bytes, up: usize| Frames { requests: 0..=up, ..refused(name, &[bytes]) };
    let stalled = [frame(SETTINGS, 0, 0, &settings(4, 0)), many(50, &|n| get(odd(n)))].concat();
    vec![
        several("flood_settings", many(20_000, &|_| frame(SETTINGS, 0, 0, &settings(3, 100))), 0),
        several("flood_ping", many(20_000, &|_| frame(PING, 0, 0, &[0; 8])), 0),
        Frames {
            expect: Expect::Either,
            ..several("flood_priority", many(20_000, &|_| frame(PRIORITY, 0, 1, &[0, 0, 0, 3, 1])), 0)
        },
        several(
            "flood_continuation",
            [
                frame(HEADERS, END_STREAM, 1, &get_block("/")),
                many(20_000, &|_| frame(CONTINUATION, 0, 1, &[])),
            ]
            .concat(),
            0,
        ),
        several(
            "flood_empty_data",
            [post_head(1, &[]), many(20_000, &|_| frame(DATA, 0, 1, &[]))].concat(),
            1,
        ),
        Frames {
            expect: Expect::Either,
            ..several("flood_window_update", many(20_000, &|_| frame(WINDOW_UPDATE, 0, 0, &[0, 0, 0, 1])), 0)
        },
        several("rapid_reset_3000", many(3_000, &rapid), 1_000),
        several("madeyoureset_wuovf", many(2_000, &made_reset), 2_000),
        several("madeyoureset_hdr_after_es", many(1_000, &after_end), 1_000),
        Frames {
            expect: Expect::Either,
            ..several("madeyoureset_priority_self", many(1_000, &to_itself), 1_000)
        },
        Frames {
            expect: Expect::Answers(50),
            requests: 50..=50,
            ..several("zero_window_stall", stalled, 50)
        },
    ]
}

pub(crate) async fn run() -> Result<()> {
    let mut rig = Rig::start().await?;
    let cases: Vec<Frames> = [framing(), heads(), floods()].into_iter().flatten().collect();
    for case in cases.iter().filter(|case| wanted(case.name)) {
        rig.meter.connected(1);
        rig.meter.sent(case.bytes.len());
        let exchange = Exchange::run(rig.listener("plain")?, &case.bytes, QUIET * 3).await?;
        let errors = exchange.goaway().is_some_and(|code| code != 0) || !exchange.resets().is_empty();
        let refusal = errors || exchange.end != End::Open || !exchange.bytes.starts_with(&[0, 0]);
        let good = match case.expect {
            Expect::Answers(count) => exchange.heads() == count && !errors && exchange.end == End::Open,
            // an answer with an error status is a refusal too; 200 would need a request at the upstream
            Expect::Refused => refusal || exchange.heads() > 0 && rig.upstream.received().is_empty(),
            Expect::Either => true,
        };
        if !good {
            let kinds: Vec<u8> = exchange.frames.iter().map(|frame| frame.kind).collect();
            rig.fail(
                case.name,
                &format!("{:?} expected, got frames {kinds:?}, {:?}", case.expect, exchange.end),
            );
        }
        let requests = rig.upstream.received().len();
        if !case.requests.contains(&requests) {
            rig.fail(
                case.name,
                &format!("{requests} requests at the upstream, {:?} expected", case.requests),
            );
        }
        rig.aftermath(case.name).await?;
    }
    rig.verdict()
}
