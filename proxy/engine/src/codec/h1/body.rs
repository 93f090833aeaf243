//! Decoding bodies: RFC 9112 sections 6 and 7, strictly.
//!
//! Nothing is copied or kept: data are slices of the caller's buffer, the framing around them is consumed octet by octet. Only
//! a trailer section is waited for as a whole, within its limits.

use bytes::{Buf as _, BytesMut};
use http::HeaderMap;
use proxy_core::head::BodyEvent;

use super::error::BodyError;
use super::fields::{self, FieldError, Underscores};
use super::framing::BodyFraming;
use super::scan::{HeadLimits, HeadScanner};

/// Octets of one chunk header beyond which it is no longer taken seriously: leading zeros and extensions count.
const MAX_CHUNK_HEADER: u32 = 4096;

/// What becomes of trailers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Trailers {
    /// They are checked and dropped (Envoy's default).
    #[default]
    Drop,
    /// `enable_trailers`: they are delivered.
    Keep,
}

/// How trailers are read.
#[derive(Clone, Copy, Debug)]
pub struct TrailerOptions {
    /// Whether they are delivered.
    pub trailers: Trailers,
    /// Limits of the section.
    pub limits: HeadLimits,
    /// What happens to names with an underscore.
    pub underscores: Underscores,
}

impl Default for TrailerOptions {
    fn default() -> Self {
        Self { trailers: Trailers::Drop, limits: HeadLimits::REQUEST, underscores: Underscores::Allow }
    }
}

/// Decodes one body.
#[derive(Debug)]
pub struct BodyDecoder {
    state: State,
    options: TrailerOptions,
    scanner: HeadScanner,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Octets to come.
    Length(u64),
    UntilClose,
    /// In a chunk size; `digits` and `used` octets of the header so far.
    Size {
        value: u64,
        digits: u32,
        used: u32,
    },
    /// After the size: white space.
    SizeEnd {
        value: u64,
        used: u32,
    },
    /// In an extension.
    Extension {
        value: u64,
        used: u32,
    },
    /// Between CR and LF of a chunk header.
    HeaderLineFeed {
        value: u64,
    },
    /// In chunk data; never 0.
    Data(u64),
    DataCarriageReturn,
    DataLineFeed,
    Trailers,
    Done,
}

impl BodyDecoder {
    /// A decoder for a body with this framing.
    pub fn new(framing: BodyFraming, options: TrailerOptions) -> Self {
        let state = match framing {
            BodyFraming::None | BodyFraming::Length(0) => State::Done,
            BodyFraming::Length(length) => State::Length(length),
            BodyFraming::Chunked => State::Size { value: 0, digits: 0, used: 0 },
            BodyFraming::UntilClose => State::UntilClose,
        };
        Self { state, options, scanner: HeadScanner::default() }
    }

    /// Takes the next event from the front of `buf`; `None` means that more octets are needed.
    ///
    /// The body is over with [`BodyEvent::End`] or [`BodyEvent::Trailers`]; after that it is [`BodyEvent::End`] for ever and
    /// nothing is consumed: what is left in `buf` belongs to the next message.
    ///
    /// # Errors
    /// The framing is broken: the message must be reset and the connection closed.
    pub fn decode(&mut self, buf: &mut BytesMut) -> Result<Option<BodyEvent>, BodyError> {
        loop {
            match self.state {
                State::Done => return Ok(Some(BodyEvent::End)),
                State::Trailers => return self.decode_trailers(buf),
                _ if buf.is_empty() => return Ok(None),
                State::UntilClose => return Ok(Some(BodyEvent::Data(buf.split().freeze()))),
                State::Length(left) => return Ok(Some(self.take(buf, left, State::Length, State::Done))),
                State::Data(left) => {
                    return Ok(Some(self.take(buf, left, State::Data, State::DataCarriageReturn)));
                }
                State::Size { .. }
                | State::SizeEnd { .. }
                | State::Extension { .. }
                | State::HeaderLineFeed { .. }
                | State::DataCarriageReturn
                | State::DataLineFeed => self.state = frame_octet(self.state, buf.get_u8())?,
            }
        }
    }

    /// The connection ended.
    ///
    /// # Errors
    /// [`BodyError::Truncated`] unless the body is complete, or ends with the connection by its framing.
    pub fn finish(&mut self) -> Result<(), BodyError> {
        match self.state {
            State::Done => Ok(()),
            State::UntilClose => {
                self.state = State::Done;
                Ok(())
            }
            _ => Err(BodyError::Truncated),
        }
    }

    /// Octets of data that are known to come.
    pub fn expected(&self) -> u64 {
        match self.state {
            State::Length(left) | State::Data(left) => left,
            _ => 0,
        }
    }

    /// Octets of data that are known to come with no framing between or after them.
    pub fn unframed(&self) -> u64 {
        if let State::Length(left) = self.state { left } else { 0 }
    }

    /// `count` of the [`Self::unframed`] octets went another way.
    pub fn skip(&mut self, count: u64) {
        if let State::Length(left) = self.state {
            let rest = left.saturating_sub(count);
            self.state = if rest > 0 { State::Length(rest) } else { State::Done };
        }
    }

    /// Whether the body is complete.
    pub fn is_done(&self) -> bool {
        self.state == State::Done
    }

    /// Up to `left` octets of data, and the state after them.
    fn take(&mut self, buf: &mut BytesMut, left: u64, more: fn(u64) -> State, done: State) -> BodyEvent {
        let available = usize::try_from(left).map_or(buf.len(), |left| left.min(buf.len()));
        let rest = left - available as u64;
        self.state = if rest > 0 { more(rest) } else { done };
        BodyEvent::Data(buf.split_to(available).freeze())
    }

    fn decode_trailers(&mut self, buf: &mut BytesMut) -> Result<Option<BodyEvent>, BodyError> {
        match &buf[..] {
            [] | [b'\r'] => return Ok(None),
            [b'\r', b'\n', ..] => {
                buf.advance(2);
                self.state = State::Done;
                return Ok(Some(BodyEvent::End));
            }
            [b'\r' | b'\n', ..] => return Err(BodyError::InvalidTrailers),
            _ => {}
        }
        let span = self.scanner.find(buf);
        if span.map_or(buf.len(), |span| span.end) > self.options.limits.max_bytes {
            return Err(BodyError::TrailersTooLarge);
        }
        let Some(span) = span else { return Ok(None) };
        // The scanner takes the first line for a start line; here it is a field like the others.
        let count = span.fields + 1;
        if count > self.options.limits.max_headers {
            return Err(BodyError::TooManyTrailers);
        }
        let section = buf.split_to(span.end).freeze();
        if has_bare_line_feed(&section) {
            return Err(BodyError::InvalidTrailers);
        }
        let trailers = fields::parse_trailers(&section, count, self.options.underscores)?;
        self.state = State::Done;
        Ok(Some(self.deliver(trailers)))
    }

    fn deliver(&self, trailers: HeaderMap) -> BodyEvent {
        match self.options.trailers {
            Trailers::Keep if !trailers.is_empty() => BodyEvent::Trailers(trailers),
            Trailers::Keep | Trailers::Drop => BodyEvent::End,
        }
    }
}

/// The state after one octet of framing.
fn frame_octet(state: State, octet: u8) -> Result<State, BodyError> {
    let used = match state {
        State::Size { used, .. } | State::SizeEnd { used, .. } | State::Extension { used, .. } => used + 1,
        _ => 0,
    };
    if used > MAX_CHUNK_HEADER {
        return Err(BodyError::InvalidChunk);
    }
    match (state, octet) {
        (State::Size { value, digits, .. }, _) if octet.is_ascii_hexdigit() => {
            let digit = char::from(octet).to_digit(16).ok_or(BodyError::InvalidChunk)?;
            let value = value.checked_mul(16).ok_or(BodyError::InvalidChunk)? | u64::from(digit);
            Ok(State::Size { value, digits: digits + 1, used })
        }
        (State::Size { digits: 0, .. }, _) => Err(BodyError::InvalidChunk),
        (State::Size { value, .. } | State::SizeEnd { value, .. }, b' ' | b'\t') => {
            Ok(State::SizeEnd { value, used })
        }
        (State::Size { value, .. } | State::SizeEnd { value, .. }, b';') => {
            Ok(State::Extension { value, used })
        }
        (
            State::Size { value, .. } | State::SizeEnd { value, .. } | State::Extension { value, .. },
            b'\r',
        ) => Ok(State::HeaderLineFeed { value }),
        (State::Extension { value, .. }, _) if octet != b'\n' => Ok(State::Extension { value, used }),
        (State::HeaderLineFeed { value: 0 }, b'\n') => Ok(State::Trailers),
        (State::HeaderLineFeed { value }, b'\n') => Ok(State::Data(value)),
        (State::DataCarriageReturn, b'\r') => Ok(State::DataLineFeed),
        (State::DataLineFeed, b'\n') => Ok(State::Size { value: 0, digits: 0, used: 0 }),
        _ => Err(BodyError::InvalidChunk),
    }
}

fn has_bare_line_feed(section: &[u8]) -> bool {
    memchr::memchr_iter(b'\n', section)
        .any(|at| at.checked_sub(1).and_then(|before| section.get(before)) != Some(&b'\r'))
}

impl From<FieldError> for BodyError {
    fn from(error: FieldError) -> Self {
        match error {
            FieldError::Malformed | FieldError::InvalidCharacters | FieldError::Underscore => {
                Self::InvalidTrailers
            }
            FieldError::TooMany => Self::TooManyTrailers,
        }
    }
}
