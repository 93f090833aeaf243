//! HTTP/1 as targets speak it: an upstream that reads strictly what it gets, and a client that does.

use arbitrary::Arbitrary;
use bytes::BytesMut;
use http::Method;
use proxy_core::head::BodyEvent;
use proxy_engine::codec::h1::{
    BodyDecoder, BodyFraming, HeadLimits, RequestOptions, RequestParser, ResponseContext, ResponseOptions,
    ResponseParser, TrailerOptions,
};

/// A piece of what a peer sends: words of a dictionary, or anything.
#[derive(Arbitrary, Debug)]
pub enum Piece {
    /// A word.
    Word(u8),
    /// Anything.
    Raw(Vec<u8>),
}

/// The bytes of `pieces`, with words from `dictionary`.
pub fn bytes(pieces: &[Piece], dictionary: &[&str]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for piece in pieces.iter().take(64) {
        match piece {
            Piece::Word(number) => {
                bytes.extend_from_slice(dictionary[usize::from(*number) % dictionary.len()].as_bytes());
            }
            Piece::Raw(raw) => bytes.extend_from_slice(raw),
        }
    }
    bytes.truncate(8192);
    bytes
}

const LIMITS: HeadLimits = HeadLimits { max_bytes: usize::MAX, max_headers: 10_000 };

/// The upstream's end of a connection: answers each request when it is complete.
pub struct Answering {
    parser: RequestParser,
    body: Option<(BodyDecoder, Request)>,
    unread: BytesMut,
    taken: usize,
}

/// A request that arrived whole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// Method and path.
    pub line: String,
    /// The body.
    pub body: Vec<u8>,
    method: Method,
    upgrades: bool,
}

impl Default for Answering {
    fn default() -> Self {
        let options = RequestOptions { allow_custom_methods: true, ..RequestOptions::default() };
        Self { parser: RequestParser::new(LIMITS, options), body: None, unread: BytesMut::new(), taken: 0 }
    }
}

impl Answering {
    /// Takes what came since the last time (of `received`, which only grows): requests that are whole now, and what to answer.
    ///
    /// # Panics
    /// The proxy sent what is no request.
    pub fn take(&mut self, received: &[u8]) -> (Vec<Request>, Vec<u8>) {
        self.unread.extend_from_slice(&received[self.taken..]);
        self.taken = received.len();
        let (mut requests, mut answers) = (Vec::new(), Vec::new());
        while let Some(request) = self.next() {
            answers.extend_from_slice(match (&request.method, request.upgrades) {
                (&Method::CONNECT, _) | (_, true) => {
                    b"HTTP/1.1 403 Forbidden\r\ncontent-length: 0\r\n\r\n".as_slice()
                }
                (&Method::HEAD, _) => b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n",
                _ => b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok",
            });
            requests.push(request);
        }
        (requests, answers)
    }

    fn next(&mut self) -> Option<Request> {
        if self.body.is_none() {
            let parsed = self.parser.parse(&mut self.unread);
            let parsed = parsed.unwrap_or_else(|error| panic!("no request: {error:?} {:?}", self.unread))?;
            let line = format!("{} {} {}", parsed.head.method, parsed.head.authority, parsed.head.path);
            let upgrades = parsed.head.upgrade.is_some();
            let request = Request { line, body: Vec::new(), method: parsed.head.method, upgrades };
            if matches!(request.method, Method::CONNECT) || upgrades {
                return Some(request);
            }
            let options = TrailerOptions { limits: LIMITS, ..TrailerOptions::default() };
            self.body = Some((BodyDecoder::new(parsed.framing, options), request));
        }
        loop {
            let (decoder, request) = self.body.as_mut()?;
            let event = decoder.decode(&mut self.unread);
            match event.unwrap_or_else(|error| panic!("no body: {error:?}"))? {
                BodyEvent::Data(data) => request.body.extend_from_slice(&data),
                BodyEvent::Trailers(_) | BodyEvent::End => return Some(self.body.take()?.1),
            }
        }
    }
}

/// A response as a client reads it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Response {
    /// The status.
    pub status: u16,
    /// Its fields but those that tell time, sorted.
    pub fields: Vec<String>,
    /// The body, as far as it came.
    pub body: Vec<u8>,
    /// All of it came.
    pub complete: bool,
    /// Another may follow.
    pub keep_alive: bool,
}

/// Reads the answers to requests with these methods; interim responses are among them.
///
/// # Panics
/// The proxy sent what is no response.
pub fn responses(received: &[u8], methods: &[Method], closed: bool) -> Vec<Response> {
    let mut parser = ResponseParser::new(LIMITS, ResponseOptions::default());
    let mut buf = BytesMut::from(received);
    let mut responses = Vec::new();
    let mut methods = methods.iter();
    let mut method = methods.next();
    while !buf.is_empty() {
        let context = ResponseContext {
            head: method == Some(&Method::HEAD),
            connect: method == Some(&Method::CONNECT),
            upgrade: true,
        };
        let parsed = parser.parse(&mut buf, context);
        let parsed = parsed.unwrap_or_else(|error| panic!("no response: {error:?} {:?}", bstr(received)));
        let Some(parsed) = parsed else { break };
        let mut fields: Vec<String> = (parsed.head.headers.iter())
            .map(|(name, value)| format!("{name}: {}", bstr(value.as_bytes())))
            .filter(|field| {
                !field.starts_with("date:") && !field.starts_with("x-envoy-upstream-service-time:")
            })
            .collect();
        fields.sort();
        let status = parsed.head.status.as_u16();
        let mut response =
            Response { status, fields, body: Vec::new(), complete: false, keep_alive: parsed.keep_alive };
        let interim = matches!(status, 100..=199) && status != 101;
        if parsed.framing == BodyFraming::UntilClose || status == 101 {
            response.body = buf.to_vec();
            response.complete = closed;
            responses.push(response);
            return responses;
        }
        let mut decoder =
            BodyDecoder::new(parsed.framing, TrailerOptions { limits: LIMITS, ..TrailerOptions::default() });
        while !response.complete {
            let event = decoder.decode(&mut buf);
            match event.unwrap_or_else(|error| panic!("no body: {error:?} {:?}", bstr(received))) {
                None => break,
                Some(BodyEvent::Data(data)) => response.body.extend_from_slice(&data),
                Some(BodyEvent::Trailers(_) | BodyEvent::End) => response.complete = true,
            }
        }
        let ends = !response.complete;
        responses.push(response);
        if ends {
            break;
        }
        if !interim {
            method = methods.next();
        }
    }
    responses
}

fn bstr(bytes: &[u8]) -> String {
    bytes.escape_ascii().to_string()
}
