//! Reads a TLS ClientHello: the record layer as far as a plain-text handshake needs it, then the message.
//!
//! Strict where Envoy's TLS library is: lengths must add up exactly, no extension comes twice, a server name is one host
//! name without NUL. Nothing is allocated unless the message is spread over several records.

/// What the first bytes of a connection are.
#[derive(Debug, PartialEq, Eq)]
pub enum Parsed<'a> {
    /// A complete ClientHello, and how many bytes of the stream it took.
    Hello(ClientHello<'a>, usize),
    /// Not TLS, or a ClientHello that no server would accept.
    Other,
    /// More bytes are needed.
    More,
}

/// What a client says at the beginning.
#[derive(Debug, PartialEq, Eq)]
pub struct ClientHello<'a> {
    /// `legacy_version`.
    pub version: u16,
    /// The host name of `server_name`.
    pub server_name: Option<&'a str>,
    /// The protocols of ALPN, the preferred one first; empty without a well-formed list.
    pub protocols: Vec<&'a [u8]>,
    /// It asks for an OCSP response beside the certificate.
    pub asks_for_status: bool,
}

impl ClientHello<'_> {
    /// Whether `legacy_version` is one that TLS has.
    pub fn has_known_version(&self) -> bool {
        (0x0301..=0x0304).contains(&self.version)
    }
}

const HANDSHAKE: u8 = 22;
const CLIENT_HELLO: u8 = 1;
const RECORD_LIMIT: usize = 16 << 10;
/// Empty records that may stand before and between others.
const EMPTY_RECORDS: usize = 32;

const SERVER_NAME: u16 = 0;
const STATUS_REQUEST: u16 = 5;
const ALPN: u16 = 16;
/// The one kind of status there is.
const OCSP: u8 = 1;

/// Reads the ClientHello at the beginning of `data`.
///
/// A message longer than `longest` is refused. `joined` holds the message when it is spread over several records.
pub fn parse<'a>(data: &'a [u8], longest: usize, joined: &'a mut Vec<u8>) -> Parsed<'a> {
    let mut rest = data;
    let mut empty = 0;
    joined.clear();
    loop {
        let fragment = match record(rest) {
            Record::Fragment(fragment, after) => {
                rest = after;
                fragment
            }
            // (As in Envoy, a record is judged when all of it is there.)
            Record::Partial => return Parsed::More,
            Record::Other => return Parsed::Other,
        };
        if fragment.is_empty() {
            empty += 1;
            if empty > EMPTY_RECORDS {
                return Parsed::Other;
            }
            continue;
        }
        let whole_at_once = joined.is_empty();
        let seen = data.len() - rest.len();
        let length = message_length(if whole_at_once { fragment } else { joined }, longest);
        match length {
            Length::Wrong => return Parsed::Other,
            Length::Of(length) if whole_at_once && fragment.len() >= length => {
                return finish(fragment, length, seen);
            }
            Length::Of(_) | Length::Unknown => {}
        }
        joined.extend_from_slice(fragment);
        match message_length(joined, longest) {
            Length::Wrong => return Parsed::Other,
            Length::Of(length) if joined.len() >= length => return finish(joined, length, seen),
            Length::Of(_) | Length::Unknown => {}
        }
    }
}

/// How long the message at the beginning of `data` says that it is, without its head: as soon as the records tell, of which each
/// is looked at when all of it is there.
pub fn claimed_length(mut data: &[u8]) -> Option<usize> {
    let (mut head, mut known) = ([0; 4], 0);
    while let Record::Fragment(fragment, rest) = record(data) {
        for (slot, octet) in head.iter_mut().skip(known).zip(fragment) {
            *slot = *octet;
            known += 1;
        }
        if known == head.len() {
            let [_, length @ ..] = head;
            return Some(length.iter().fold(0, |length, octet| length << 8 | usize::from(*octet)));
        }
        data = rest;
    }
    None
}

enum Record<'a> {
    Fragment(&'a [u8], &'a [u8]),
    Partial,
    Other,
}

/// The next record of `data`.
fn record(data: &[u8]) -> Record<'_> {
    let wrong = |index: usize, expected: u8| data.get(index).is_some_and(|byte| *byte != expected);
    if wrong(0, HANDSHAKE) || wrong(1, 3) {
        return Record::Other;
    }
    let Some((head, rest)) = data.split_first_chunk::<5>() else { return Record::Partial };
    let length = usize::from(u16::from_be_bytes([head[3], head[4]]));
    if length > RECORD_LIMIT {
        return Record::Other;
    }
    match rest.split_at_checked(length) {
        Some((fragment, rest)) => Record::Fragment(fragment, rest),
        None => Record::Partial,
    }
}

enum Length {
    /// Of the message, its header included.
    Of(usize),
    Unknown,
    Wrong,
}

fn message_length(message: &[u8], longest: usize) -> Length {
    if message.first().is_some_and(|kind| *kind != CLIENT_HELLO) {
        return Length::Wrong;
    }
    let Some([_, a, b, c]) = message.first_chunk::<4>() else { return Length::Unknown };
    let length = u32::from_be_bytes([0, *a, *b, *c]) as usize;
    if length > longest { Length::Wrong } else { Length::Of(4 + length) }
}

fn finish(message: &[u8], length: usize, seen: usize) -> Parsed<'_> {
    // Bytes after the message in its last record would be another message: a client sends none before the answer.
    match message.get(4..length).filter(|_| message.len() == length).and_then(client_hello) {
        Some(hello) => Parsed::Hello(hello, seen),
        None => Parsed::Other,
    }
}

/// A reader that only moves forward.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(taken)
    }

    fn u8(&mut self) -> Option<u8> {
        let (byte, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(*byte)
    }

    fn u16(&mut self) -> Option<u16> {
        let (bytes, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(u16::from_be_bytes(*bytes))
    }

    /// Bytes behind their length in one byte.
    fn short(&mut self) -> Option<&'a [u8]> {
        let length = self.u8()?;
        self.take(length.into())
    }

    /// Bytes behind their length in two bytes.
    fn long(&mut self) -> Option<&'a [u8]> {
        let length = self.u16()?;
        self.take(length.into())
    }
}

fn client_hello(body: &[u8]) -> Option<ClientHello<'_>> {
    let mut body = Reader(body);
    let version = body.u16()?;
    let _random = body.take(32)?;
    let _session_id = body.short().filter(|id| id.len() <= 32)?;
    let _cipher_suites = body.long().filter(|suites| suites.len() >= 2 && suites.len() % 2 == 0)?;
    let _compression_methods = body.short().filter(|methods| !methods.is_empty())?;
    let mut hello = ClientHello { version, server_name: None, protocols: Vec::new(), asks_for_status: false };
    if body.0.is_empty() {
        return Some(hello);
    }
    let mut extensions = Reader(body.long()?);
    if !body.0.is_empty() {
        return None;
    }
    let mut kinds = Vec::new();
    while !extensions.0.is_empty() {
        let (kind, content) = (extensions.u16()?, extensions.long()?);
        kinds.push(kind);
        match kind {
            SERVER_NAME => hello.server_name = Some(server_name(content)?),
            STATUS_REQUEST => hello.asks_for_status = content.first() == Some(&OCSP),
            ALPN => hello.protocols = protocols(content).unwrap_or_default(),
            _ => {}
        }
    }
    let count = kinds.len();
    kinds.sort_unstable();
    kinds.dedup();
    (kinds.len() == count).then_some(hello)
}

/// The one host name of a `server_name` extension.
fn server_name(content: &[u8]) -> Option<&str> {
    let mut outer = Reader(content);
    let mut list = Reader(outer.long()?);
    let (kind, name) = (list.u8()?, list.long()?);
    let fits = kind == 0 && (1..=255).contains(&name.len()) && !name.contains(&0);
    let name = std::str::from_utf8(name).ok()?;
    (fits && list.0.is_empty() && outer.0.is_empty()).then_some(name)
}

fn protocols(content: &[u8]) -> Option<Vec<&[u8]>> {
    let mut outer = Reader(content);
    let mut list = Reader(outer.long()?);
    if !outer.0.is_empty() {
        return None;
    }
    let mut names = Vec::new();
    while !list.0.is_empty() {
        names.push(list.short().filter(|name| !name.is_empty())?);
    }
    Some(names)
}
