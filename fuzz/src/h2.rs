//! HTTP/2 frames, well formed and not.

use arbitrary::Arbitrary;

/// How a client begins.
pub const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// The kind of METADATA frames.
pub const METADATA: u8 = 0x4d;

/// A frame; stream numbers are small, so that frames meet.
#[derive(Arbitrary, Debug)]
pub enum Frame {
    Data {
        stream: u8,
        length: u16,
        padding: Option<u8>,
        end: bool,
    },
    Headers {
        stream: u8,
        fields: Vec<Field>,
        padding: Option<u8>,
        end: bool,
        complete: bool,
    },
    Continuation {
        stream: u8,
        fields: Vec<Field>,
        complete: bool,
    },
    Priority {
        stream: u8,
        on: u8,
    },
    Reset {
        stream: u8,
        code: u8,
    },
    Settings {
        values: Vec<(u8, u32)>,
        ack: bool,
    },
    Ping {
        ack: bool,
    },
    GoAway {
        last: u8,
        code: u8,
    },
    WindowUpdate {
        stream: u8,
        increment: u32,
    },
    Raw {
        kind: u8,
        flags: u8,
        stream: u32,
        payload: Vec<u8>,
    },
    /// Not a frame: everything runs until nothing moves.
    Settle,
}

/// A field of a header block.
#[derive(Arbitrary, Debug)]
pub enum Field {
    /// One that belongs to every head.
    Known(u8),
    /// By its index in the tables.
    Indexed(u8),
    /// Spelled out, added to the table or not.
    Literal { name: String, value: String, keep: bool },
    /// A change of the table's size.
    Resize(u8),
    /// Anything.
    Raw(Vec<u8>),
}

/// Fields of requests, or of responses.
pub type Known = &'static [(&'static str, &'static str)];

/// Fields that requests have.
pub const REQUEST: Known = &[
    (":method", "GET"),
    (":scheme", "http"),
    (":authority", "a"),
    (":path", "/direct"),
    (":path", "/"),
    (":method", "POST"),
    (":method", "CONNECT"),
    (":protocol", "websocket"),
    ("content-length", "3"),
    ("te", "trailers"),
    ("cookie", "a=b"),
    ("transfer-encoding", "chunked"),
    ("expect", "100-continue"),
    ("x", "y"),
    ("host", "b"),
    ("grpc-timeout", "1S"),
];

/// Fields that responses have.
pub const RESPONSE: Known = &[
    (":status", "200"),
    (":status", "100"),
    (":status", "103"),
    (":status", "204"),
    (":status", "101"),
    (":status", "503"),
    ("content-length", "3"),
    ("content-type", "application/grpc"),
    ("connection", "close"),
    ("transfer-encoding", "chunked"),
    ("trailer", "x"),
    ("x", "y"),
    ("grpc-status", "0"),
    ("set-cookie", "a"),
];

/// Settings as a peer begins with.
pub fn settings() -> Vec<u8> {
    frame(4, 0, 0, &[])
}

/// A request for `path`.
pub fn get(stream: u32, path: &str, end: bool) -> Vec<u8> {
    let mut block = Vec::new();
    for (name, value) in [(":method", "GET"), (":scheme", "http"), (":authority", "a"), (":path", path)] {
        literal(&mut block, 0, name, value);
    }
    frame(1, 4 | u8::from(end), stream, &block)
}

impl Frame {
    /// On the wire; `known` are the fields that its peer knows.
    pub fn bytes(&self, known: Known) -> Vec<u8> {
        let flag = |set: &bool, bit: u8| if *set { bit } else { 0 };
        match self {
            Self::Data { stream, length, padding, end } => {
                let (payload, padded) = padded(vec![b'x'; usize::from(*length % 1024)], *padding);
                frame(0, padded | flag(end, 1), u32::from(*stream), &payload)
            }
            Self::Headers { stream, fields, padding, end, complete } => {
                let (payload, padded) = padded(block(fields, known), *padding);
                frame(1, padded | flag(end, 1) | flag(complete, 4), u32::from(*stream), &payload)
            }
            Self::Continuation { stream, fields, complete } => {
                frame(9, flag(complete, 4), u32::from(*stream), &block(fields, known))
            }
            Self::Priority { stream, on } => frame(2, 0, u32::from(*stream), &[0, 0, 0, *on, 1]),
            Self::Reset { stream, code } => frame(3, 0, u32::from(*stream), &[0, 0, 0, code % 16]),
            Self::Settings { values, ack } => {
                let mut payload = Vec::new();
                for (id, value) in values.iter().take(8) {
                    payload.extend_from_slice(&[0, id % 10]);
                    payload.extend_from_slice(&value.to_be_bytes());
                }
                frame(4, flag(ack, 1), 0, &payload)
            }
            Self::Ping { ack } => frame(6, flag(ack, 1), 0, &[0; 8]),
            Self::GoAway { last, code } => frame(7, 0, 0, &[0, 0, 0, *last, 0, 0, 0, code % 16]),
            Self::WindowUpdate { stream, increment } => {
                frame(8, 0, u32::from(*stream), &increment.to_be_bytes())
            }
            Self::Raw { kind, flags, stream, payload } => frame(*kind, *flags, *stream, payload),
            Self::Settle => Vec::new(),
        }
    }
}

/// A METADATA frame.
pub fn metadata(stream: u8, flags: u8, fields: &[Field]) -> Vec<u8> {
    frame(METADATA, flags, u32::from(stream), &block(fields, RESPONSE))
}

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap_or(0).to_be_bytes();
    let mut frame = vec![length[1], length[2], length[3], kind, flags];
    frame.extend_from_slice(&stream.to_be_bytes());
    frame.extend_from_slice(payload);
    frame
}

/// With padding, which may be more than there is room for.
fn padded(mut payload: Vec<u8>, padding: Option<u8>) -> (Vec<u8>, u8) {
    let Some(padding) = padding else { return (payload, 0) };
    payload.insert(0, padding);
    payload.resize(payload.len() + usize::from(padding % 64), 0);
    (payload, 8)
}

fn block(fields: &[Field], known: Known) -> Vec<u8> {
    let mut block = Vec::new();
    for field in fields.iter().take(24) {
        match field {
            Field::Known(number) => {
                let (name, value) = known[usize::from(*number) % known.len()];
                literal(&mut block, 0, name, value);
            }
            Field::Indexed(index) => block.push(0x80 | index),
            Field::Literal { name, value, keep } => {
                literal(&mut block, if *keep { 0x40 } else { 0 }, name, value);
            }
            Field::Resize(size) => block.push(0x20 | (size & 0x1f)),
            Field::Raw(raw) => block.extend_from_slice(raw),
        }
    }
    block
}

fn literal(block: &mut Vec<u8>, first: u8, name: &str, value: &str) {
    block.push(first);
    for text in [name, value] {
        let text = &text.as_bytes()[..text.len().min(126)];
        block.push(u8::try_from(text.len()).unwrap_or(0));
        block.extend_from_slice(text);
    }
}

/// The frames in `bytes`: kind, flags, stream, length; the last may be incomplete.
pub fn frames(mut bytes: &[u8]) -> Vec<(u8, u8, u32, usize)> {
    let mut frames = Vec::new();
    while let Some((head, rest)) = bytes.split_first_chunk::<9>() {
        let length = usize::from(head[0]) << 16 | usize::from(head[1]) << 8 | usize::from(head[2]);
        let stream = u32::from_be_bytes([head[5], head[6], head[7], head[8]]);
        frames.push((head[3], head[4], stream, length));
        bytes = rest.get(length..).unwrap_or_default();
    }
    frames
}
