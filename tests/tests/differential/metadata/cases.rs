//! What client and host do, turn by turn.

use integration::frames::{
    CONTINUATION, DATA, END_HEADERS, END_STREAM, HEADERS, RST_STREAM, SETTINGS, block, frame,
};

use super::Turn::{Client, ClientGets, Host, HostGets};
use super::{END_METADATA, Exchange, METADATA};

const WHOLE: u8 = END_STREAM | END_HEADERS;

/// All cases.
pub(crate) fn exchanges() -> Vec<Exchange> {
    [requests(), places(), waits(), encodings(), violations(), responses(), broken_responses(), one_sided()]
        .into_iter()
        .flatten()
        .collect()
}

fn raw(stream: u32, flags: u8, payload: &[u8]) -> Vec<u8> {
    frame(METADATA, flags, stream, payload)
}

fn metadata(stream: u32, fields: &[(&str, &str)]) -> Vec<u8> {
    let block = block(fields);
    let mut pieces: Vec<_> = block.chunks(16_384).collect();
    let last = pieces.pop().unwrap_or_default();
    [pieces.iter().flat_map(|piece| raw(stream, 0, piece)).collect(), raw(stream, END_METADATA, last)]
        .concat()
}

/// A block with a field of that name.
fn named(stream: u32, name: &str) -> Vec<u8> {
    metadata(stream, &[(name, "~")])
}

fn head(stream: u32, flags: u8, method: &str, path: &str) -> Vec<u8> {
    let fields = [(":method", method), (":scheme", "http"), (":authority", "test"), (":path", path)];
    frame(HEADERS, flags, stream, &block(&fields))
}

fn post(stream: u32) -> Vec<u8> {
    head(stream, END_HEADERS, "POST", "/")
}

fn get(stream: u32) -> Vec<u8> {
    head(stream, WHOLE, "GET", "/")
}

fn data(stream: u32, text: &str) -> Vec<u8> {
    frame(DATA, 0, stream, text.as_bytes())
}

fn end(stream: u32) -> Vec<u8> {
    frame(DATA, END_STREAM, stream, b"")
}

fn status(stream: u32, flags: u8, status: &str) -> Vec<u8> {
    frame(HEADERS, flags, stream, &block(&[(":status", status)]))
}

fn all<const N: usize>(frames: [Vec<u8>; N]) -> Vec<u8> {
    frames.concat()
}

/// A request whose head has reached the host, frames behind it that the host gets whole, and an empty response.
fn request(name: &'static str, frames: Vec<u8>) -> Exchange {
    let answer = Host(status(1, WHOLE, "200"));
    let turns = [
        Client(post(1)),
        HostGets("HEADERS 1"),
        Client(frames),
        HostGets(" end"),
        answer,
        ClientGets(" end"),
    ];
    Exchange::new(name, "both", turns)
}

/// A request that is broken off for frames behind its head.
fn violation(name: &'static str, listener: &'static str, frames: Vec<u8>) -> Exchange {
    Exchange::new(
        name,
        listener,
        [Client(post(1)), HostGets("HEADERS 1"), Client(frames), ClientGets("over")],
    )
}

/// A request, and what the host answers to it, with an end of the stream.
fn response(name: &'static str, listener: &'static str, frames: Vec<u8>) -> Exchange {
    Exchange::new(name, listener, [Client(get(1)), HostGets(" end"), Host(frames), ClientGets(" end")])
}

const NO_STREAM: &str = "Metadata on no stream is passed over, sound or not; Envoy reads it, and ends the connection where it is broken.";
const FLOOD: &str = "METADATA frames count among the control frames that a peer may send in a second (`max_outbound_control_frames`). \
                     Envoy passes on any number, until its peer has 10000 frames to read and is cut off for it.";

fn requests() -> Vec<Exchange> {
    let order = all([
        metadata(1, &[("a", "1"), ("b", "2")]),
        data(1, "one"),
        named(1, "c"),
        named(1, "d"),
        data(1, "two"),
        named(1, "e"),
        end(1),
    ]);
    vec![
        request("metadata of a request", order),
        request(
            "metadata before trailers",
            all([data(1, "one"), named(1, "a"), frame(HEADERS, WHOLE, 1, &block(&[("t", "1")]))]),
        ),
        request("a long block", all([metadata(1, &[("a", &"~".repeat(40_000))]), end(1)])),
        request("many blocks", all([named(1, "a").repeat(200), end(1)])),
        request(
            "a block in pieces",
            all([
                block(&[("ab", "cd")]).iter().flat_map(|octet| raw(1, 0, &[*octet])).collect(),
                data(1, "one"),
                raw(1, END_METADATA, b""),
                end(1),
            ]),
        ),
        request("a block without an end", all([raw(1, 0, &block(&[("a", "~")])), end(1)])),
        request("a broken block without an end", all([raw(1, 0, b"\x80"), end(1)])),
        request("an empty block", all([raw(1, END_METADATA, b""), raw(1, 0, b""), end(1)])),
        request(
            "flags beside that of the end",
            all([5, 1, 12, 255].map(|flags| raw(1, flags, &block(&[("a", "~")]))))
                .into_iter()
                .chain(end(1))
                .collect(),
        ),
        request(
            "streams that are not open",
            all([2, 3, 9].map(|stream| raw(stream, END_METADATA, b"\x80")))
                .into_iter()
                .chain(end(1))
                .collect(),
        ),
        request("no stream", all([named(0, "a"), end(1)])),
        Exchange::new(
            "a broken block on no stream",
            "both",
            [
                Client(post(1)),
                HostGets("HEADERS 1"),
                Client(all([raw(0, END_METADATA, b"\x80"), end(1)])),
                Host(status(1, WHOLE, "200")),
                ClientGets(" end"),
            ],
        )
        .differs("*", NO_STREAM),
    ]
}

/// Metadata around the beginning and the end of a request.
fn places() -> Vec<Exchange> {
    vec![
        Exchange::new(
            "metadata before its request",
            "both",
            [
                Client(all([named(1, "a"), post(1), end(1)])),
                HostGets(" end"),
                Host(status(1, WHOLE, "200")),
                ClientGets(" end"),
            ],
        ),
        Exchange::new(
            "metadata after a request without a body",
            "both",
            [
                Client(all([get(1), named(1, "a"), raw(1, END_METADATA, b"\x80")])),
                HostGets(" end"),
                Host(status(1, WHOLE, "200")),
                ClientGets(" end"),
                Client(get(3)),
                HostGets("HEADERS 3 end"),
                Host(status(3, WHOLE, "200")),
                ClientGets("HEADERS 3 end"),
            ],
        ),
        Exchange::new(
            "two streams in turns",
            "both",
            [
                Client(all([post(1), post(3)])),
                HostGets("HEADERS 3"),
                Client(all([
                    raw(1, 0, b"\x00\x01a"),
                    raw(3, 0, b"\x00\x01c"),
                    raw(1, END_METADATA, b"\x01b"),
                    raw(3, END_METADATA, b"\x01d"),
                ])),
                HostGets("METADATA 3: c=d"),
                Client(end(1)),
                HostGets("DATA 1:  end"),
                Client(end(3)),
                HostGets("DATA 3:  end"),
                Host(all([status(1, WHOLE, "200"), status(3, WHOLE, "200")])),
                ClientGets("HEADERS 3 end"),
            ],
        ),
        Exchange::new(
            "metadata after the response has begun",
            "both",
            [
                Client(post(1)),
                HostGets("HEADERS 1"),
                Host(status(1, END_HEADERS, "200")),
                ClientGets("HEADERS 1"),
                Client(all([named(1, "a"), end(1)])),
                HostGets(" end"),
                Host(all([named(1, "b"), end(1)])),
                ClientGets(" end"),
            ],
        ),
        Exchange::new(
            "metadata after the response",
            "both",
            [
                Client(post(1)),
                HostGets("HEADERS 1"),
                Host(status(1, WHOLE, "200")),
                ClientGets("HEADERS 1 end"),
                Client(all([named(1, "a"), raw(1, END_METADATA, b"\x80"), get(3)])),
                HostGets("HEADERS 3 end"),
                Host(status(3, WHOLE, "200")),
                ClientGets("HEADERS 3 end"),
            ],
        ),
    ]
}

/// Where something waits.
fn waits() -> Vec<Exchange> {
    let upgraded =
        frame(HEADERS, END_HEADERS, 1, &block(&[(":method", "CONNECT"), (":authority", "test:80")]));
    vec![
        Exchange::new(
            "metadata of CONNECT waits for the answer",
            "both",
            [
                Client(all([upgraded, named(1, "a"), data(1, "one")])),
                HostGets("HEADERS 1"),
                Host(status(1, END_HEADERS, "200")),
                HostGets("DATA 1: one"),
                Host(all([named(1, "b"), data(1, "two")])),
                ClientGets("DATA 1: two"),
                Client(all([named(1, "c"), data(1, "three")])),
                HostGets("three"),
                Client(end(1)),
                HostGets(" end"),
                Host(end(1)),
                ClientGets(" end"),
            ],
        ),
        Exchange::new(
            "metadata overtakes a body that waits for the window",
            "both",
            [
                Client(get(1)),
                HostGets(" end"),
                Host(all([frame(SETTINGS, 0, 0, &[0, 4, 0, 0, 0, 0]), status(1, WHOLE, "200")])),
                ClientGets(" end"),
                Client(all([post(3), data(3, "one"), named(3, "a"), data(3, "two"), end(3)])),
                HostGets("METADATA 3: a=~"),
                Host(frame(8, 0, 3, &[0, 0, 0, 100])),
                HostGets("onetwo end"),
                Host(status(3, WHOLE, "200")),
                ClientGets("HEADERS 3 end"),
            ],
        ),
        Exchange::new(
            "metadata of a request that is answered here",
            "both",
            [
                Client(all([head(1, END_HEADERS, "POST", "/direct"), named(1, "a"), end(1)])),
                ClientGets(" end"),
            ],
        ),
    ]
}

/// Blocks that are read, and what becomes of them.
fn encodings() -> Vec<Exchange> {
    let one = |name, block: &[u8]| request(name, all([raw(1, END_METADATA, block), end(1)]));
    vec![
        one("a field of the static table", b"\x82"),
        one("a name of the static table", b"\x04\x02/~"),
        one("a field that is never indexed", b"\x10\x01a\x01b"),
        one("the dynamic table", b"\x40\x01a\x01b\xbe\x0f\x2f\x01c\x00\x01d\x01e"),
        one("a size of the dynamic table", b"\x3f\xe1\x1f\x00\x01a\x01b"),
        one("a name that comes twice", b"\x00\x01a\x01b\x00\x01a\x01c"),
        one("Huffman's code", b"\x00\x83\xa0\x69\x2f\x04late"),
        one("names that are no names", b"\x00\x00\x01v\x00\x02A\xff\x00"),
    ]
}

/// What ends the connection of a client.
fn violations() -> Vec<Exchange> {
    let broken = |name, block: &[u8]| violation(name, "both", raw(1, END_METADATA, block));
    let small = |name, blocks: Vec<u8>| violation(name, "small", blocks);
    let field = |length: usize| metadata(1, &[("a", &"~".repeat(length))]);
    let fits = |name, blocks: Vec<u8>| {
        let mut exchange = request(name, all([blocks, end(1)]));
        exchange.case.listener = "small";
        exchange
    };
    let long = frame(METADATA, END_METADATA, 1, &[0; 16_385]);
    let inside = all([head(3, 0, "GET", "/"), named(3, "a"), frame(CONTINUATION, END_HEADERS, 3, b"")]);
    vec![
        broken("an index of nothing", b"\x80"),
        violation(
            "the dynamic table of another block",
            "both",
            all([raw(1, END_METADATA, b"\x40\x01a\x01b"), raw(1, END_METADATA, b"\xbe")]),
        ),
        broken("a string that is cut off", b"\x00\x01a\x05b"),
        broken("an integer that is too large", b"\x00\x7f\xff\xff\xff\xff\xff\xff\xff\x7f"),
        broken("a size of the table behind a field", b"\x00\x01a\x01b\x20"),
        broken("a size that is too large", b"\x3f\xff\xff\x7f\x00\x01a\x01b"),
        broken("no Huffman code", b"\x00\x84\xff\xff\xff\xff\x01b"),
        fits("as much as there may be", field(96)),
        small("one octet more", field(97)),
        fits("as much as there may be, in all", field(20).repeat(4)),
        small("more in all", field(20).repeat(5)),
        small("more without an end", raw(1, 0, &[0; 50]).repeat(3)),
        violation("a frame that is too long", "both", long),
        violation("a frame within a head", "both", inside),
        Exchange::new(
            "very many blocks",
            "both",
            [
                Client(post(1)),
                HostGets("HEADERS 1"),
                Client(named(1, "a").repeat(30_000)),
                ClientGets("HEADERS 1"),
                ClientGets("end"),
            ],
        )
        .differs("*", FLOOD),
    ]
}

fn responses() -> Vec<Exchange> {
    let ok = || status(1, END_HEADERS, "200");
    let early =
        all([named(1, "a"), status(1, END_HEADERS, "103"), named(1, "b"), ok(), named(1, "c"), end(1)]);
    vec![
        response(
            "metadata of a response",
            "both",
            all([
                named(1, "a"),
                ok(),
                named(1, "b"),
                data(1, "one"),
                named(1, "c"),
                data(1, "two"),
                named(1, "d"),
                end(1),
            ]),
        ),
        response("metadata around an interim response", "both", early),
        response(
            "metadata before the trailers of a response",
            "both",
            all([ok(), data(1, "one"), named(1, "a"), frame(HEADERS, WHOLE, 1, &block(&[("t", "1")]))]),
        ),
        response(
            "metadata before a response without a body",
            "both",
            all([named(1, "a"), status(1, WHOLE, "404")]),
        ),
        response(
            "an empty block of a response",
            "both",
            all([raw(1, END_METADATA, b""), status(1, WHOLE, "200")]),
        ),
        response(
            "a long block of a response",
            "both",
            all([metadata(1, &[("a", &"~".repeat(40_000))]), status(1, WHOLE, "200")]),
        ),
        response(
            "metadata after a response",
            "both",
            all([status(1, WHOLE, "200"), named(1, "a"), raw(1, END_METADATA, b"\x80")]),
        ),
        response(
            "metadata on streams of nobody",
            "both",
            all([2, 3, 7].map(|stream| raw(stream, END_METADATA, b"\x80")))
                .into_iter()
                .chain(status(1, WHOLE, "200"))
                .collect(),
        ),
        response("metadata on no stream", "both", all([named(0, "a"), status(1, WHOLE, "200")])),
        response(
            "a broken block of a host on no stream",
            "both",
            all([raw(0, END_METADATA, b"\x80"), status(1, WHOLE, "200")]),
        )
        .differs("*", NO_STREAM),
    ]
}

/// Responses that are broken off.
fn broken_responses() -> Vec<Exchange> {
    let ok = || status(1, END_HEADERS, "200");
    let bad = raw(1, END_METADATA, b"\x80");
    let reset = frame(RST_STREAM, 0, 1, &[0, 0, 0, 2]);
    vec![
        response("metadata before a reset", "both", all([named(1, "a"), reset])),
        response("a broken block of a response", "both", bad.clone()),
        response("too much metadata of a response", "small", metadata(1, &[("a", &"~".repeat(50))])),
        response("a frame of a response that is too long", "both", frame(METADATA, END_METADATA, 1, &[0; 16_385])),
        Exchange::new(
            "a broken block behind the head of a response",
            "both",
            [Client(get(1)), HostGets(" end"), Host(ok()), ClientGets("HEADERS 1"), Host(bad), HostGets("over")],
        ),
        Exchange::new(
            "metadata of the response to HEAD",
            "both",
            [Client(head(1, WHOLE, "HEAD", "/")), HostGets(" end"), Host(all([ok(), named(1, "a"), end(1)])), ClientGets(" end")],
        )
        .differs("client", "A response to HEAD ends with its head; Envoy waits for the end that the host says, and for metadata before it."),
        Exchange::new(
            "metadata overtakes a response that waits for the window",
            "both",
            [
                Client(all([frame(SETTINGS, 0, 0, &[0, 4, 0, 0, 0, 0]), get(1)])),
                HostGets(" end"),
                Host(all([ok(), data(1, "one")])),
                ClientGets("HEADERS 1"),
                Host(all([named(1, "a"), end(1)])),
                ClientGets("METADATA 1: a=~"),
                Client(frame(8, 0, 1, &[0, 0, 0, 100])),
                ClientGets(" end"),
            ],
        ),
        Exchange::new(
            "metadata of a response to an HTTP/1 client",
            "to-h1-client",
            [Client(b"GET / HTTP/1.1\r\nhost: test\r\n\r\n".to_vec()), HostGets(" end"), Host(all([named(1, "a"), status(1, WHOLE, "200")])), ClientGets("answered")],
        ),
    ]
}

/// Where it is not allowed on both sides.
fn one_sided() -> Vec<Exchange> {
    let both_ways = |name, listener| {
        let sent = all([named(1, "a"), data(1, "one"), named(1, "b"), end(1)]);
        let answered =
            all([named(1, "c"), status(1, END_HEADERS, "200"), named(1, "d"), data(1, "two"), end(1)]);
        let turns = [
            Client(post(1)),
            HostGets("HEADERS 1"),
            Client(sent),
            HostGets(" end"),
            Host(answered),
            ClientGets(" end"),
        ];
        Exchange::new(name, listener, turns)
    };
    let asked = frame(SETTINGS, 0, 0, &[0x4d, 0x44, 0, 0, 0, 1]);
    vec![
        both_ways("metadata that the client's side allows", "client"),
        both_ways("metadata that the host's side allows", "host"),
        both_ways("metadata that nobody allows", "neither"),
        Exchange::new(
            "a setting for metadata",
            "neither",
            [
                Client(all([asked.clone(), post(1)])),
                HostGets("HEADERS 1"),
                Host(asked),
                Client(all([named(1, "a"), end(1)])),
                HostGets(" end"),
                Host(all([named(1, "b"), status(1, WHOLE, "200")])),
                ClientGets(" end"),
            ],
        ),
        Exchange::new(
            "metadata of a request to an HTTP/1 host",
            "to-h1",
            [Client(all([post(1), named(1, "a"), end(1)])), ClientGets(" end")],
        ),
    ]
}
