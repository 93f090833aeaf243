//! Field sections: from lines to a header map, with what the codec reads from them on the way.

use bytes::Bytes;
use http::header::{Entry, HeaderName};
use http::{HeaderMap, HeaderValue};
use proxy_core::head::{HeaderCase, PreserveCase};
use proxy_core::text::Text;

use super::Side;
use super::framing::FramingFields;
use super::hop::ConnectionFields;
use super::scan::{HeadLimits, HeadSpan, trim_line_end};
use crate::local::header_maps;
use proxy_core::field_names::{self as names, Join, Role};

/// What happens to field names with an underscore (`headers_with_underscores_action`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Underscores {
    /// They are ordinary names.
    #[default]
    Allow,
    /// The message is refused.
    Reject,
    /// The field is dropped and counted.
    Drop,
}

/// Space in a header map for what the proxy adds to a message.
const ROOM_FOR_ADDITIONS: usize = 8;

/// How a section is read.
#[derive(Clone, Copy, Debug)]
pub(super) struct FieldOptions {
    pub(super) side: Side,
    pub(super) underscores: Underscores,
    pub(super) keep_case: Option<PreserveCase>,
    pub(super) keep_expect: bool,
}

/// `host`, which a request has once.
#[derive(Clone, Debug, Default)]
pub(super) enum HostField {
    #[default]
    Absent,
    One(Bytes),
    Many,
}

/// A parsed section.
#[derive(Debug, Default)]
pub(super) struct FieldSection {
    /// End-to-end fields, `content-length` among them if it was valid; `host`, hop-by-hop and framing fields are not.
    pub(super) headers: HeaderMap,
    pub(super) framing: FramingFields,
    pub(super) connection: ConnectionFields,
    pub(super) host: HostField,
    pub(super) upgrade: Option<Text>,
    pub(super) expect_continue: bool,
    pub(super) dropped_underscores: u32,
    pub(super) case: Option<Box<HeaderCase>>,
}

/// Why a section was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum FieldError {
    Malformed,
    InvalidCharacters,
    TooMany,
    Underscore,
}

/// Reads the fields of a head. `head` is `span` exactly.
pub(super) fn parse(
    head: &Bytes,
    span: HeadSpan,
    limits: HeadLimits,
    options: FieldOptions,
) -> Result<FieldSection, FieldError> {
    if span.fields > limits.max_headers {
        return Err(FieldError::TooMany);
    }
    let block = head.get(span.first_line..).unwrap_or_default();
    with_lines(block, span.fields, |lines| {
        let mut section = FieldSection {
            headers: header_maps::take(lines.len() + ROOM_FOR_ADDITIONS).ok_or(FieldError::TooMany)?,
            case: options.keep_case.map(|rules| Box::new(HeaderCase::new(rules))),
            ..FieldSection::default()
        };
        for line in lines {
            section.add(head, line.name, line.value.trim_ascii(), options)?;
        }
        Ok(section)
    })
}

/// Like [`parse`], but folded lines (RFC 9112 section 5.2) are joined first, as Envoy does: the line end goes, the white space
/// stays. In a request only fields that mean nothing to the codec may be folded: whoever stands in front of this proxy and does
/// not unfold would see another framing, host or connection.
pub(super) fn parse_unfolding(
    head: &Bytes,
    span: HeadSpan,
    limits: HeadLimits,
    options: FieldOptions,
) -> Result<FieldSection, FieldError> {
    match parse(head, span, limits, options) {
        Err(FieldError::Malformed) => {
            let (unfolded, span) = unfold(head, span, options.side).ok_or(FieldError::Malformed)?;
            parse(&unfolded, span, limits, options)
        }
        other => other,
    }
}

/// A copy without folds and its measures; `None` if nothing is folded, or something that may not be.
fn unfold(head: &Bytes, span: HeadSpan, side: Side) -> Option<(Bytes, HeadSpan)> {
    let (first_line, block) = head.split_at_checked(span.first_line)?;
    let mut out = first_line.to_vec();
    let mut field = out.len();
    let mut lines = 0;
    let mut folds = 0;
    for line in block.split_inclusive(|byte| *byte == b'\n') {
        lines += 1;
        if matches!(line.first(), Some(b' ' | b'\t')) && out.len() > span.first_line {
            let name = out.get(field..).and_then(|field| field.split(|byte| *byte == b':').next());
            let role = names::lookup(name.unwrap_or_default()).map_or(Role::Plain, |known| known.role);
            if side == Side::Request && !matches!(role, Role::Plain | Role::Forwarded) {
                return None;
            }
            out.truncate(trim_line_end(&out).len());
            folds += 1;
        } else {
            field = out.len();
        }
        out.extend_from_slice(line);
    }
    // The last line is the empty one.
    let span = HeadSpan { end: out.len(), first_line: span.first_line, fields: lines - folds - 1 };
    (folds > 0).then(|| (Bytes::from(out), span))
}

/// Puts the `connection` and `upgrade` fields of an upgrade into `headers`, spelt as they came.
pub(super) fn keep_upgrade(head: &Bytes, span: HeadSpan, headers: &mut HeaderMap) -> Result<(), FieldError> {
    let block = head.get(span.first_line..).unwrap_or_default();
    let kept = with_lines(block, span.fields, |lines| {
        for line in lines {
            if let Some(known) = names::lookup(line.name.as_bytes())
                && matches!(known.role, Role::Connection | Role::Upgrade)
            {
                let value = field_value(head, line.value.trim_ascii())?;
                insert(headers, known.name.clone(), value, true)?;
            }
        }
        Ok(())
    });
    match kept {
        // Folded elsewhere: the encoder has its own words.
        Err(FieldError::Malformed) => Ok(()),
        other => other,
    }
}

/// Reads a trailer section: like [`parse`], but what has no place in trailers (framing, routing, hop by hop) is dropped.
pub(super) fn parse_trailers(
    block: &Bytes,
    count: usize,
    underscores: Underscores,
) -> Result<HeaderMap, FieldError> {
    with_lines(block, count, |lines| {
        let mut trailers = HeaderMap::new();
        for line in lines {
            let value = field_value(block, line.value.trim_ascii())?;
            if refuse_underscore(line.name, underscores)? {
                continue;
            }
            match names::lookup(line.name.as_bytes()) {
                Some(known) if known.role != Role::Plain || known.name == http::header::TRAILER => {}
                Some(known) => {
                    insert(&mut trailers, known.name.clone(), value, applies(known.join, Side::Response))?
                }
                None => insert(&mut trailers, custom_name(line.name)?, value, false)?,
            }
        }
        Ok(trailers)
    })
}

/// Tokenises `count` field lines and the empty line after them. Few lines need no allocation.
fn with_lines<T>(
    block: &[u8],
    count: usize,
    read: impl FnOnce(&[httparse::Header<'_>]) -> Result<T, FieldError>,
) -> Result<T, FieldError> {
    const FEW: usize = 24;
    if count <= FEW {
        tokenise(block, &mut [httparse::EMPTY_HEADER; FEW], read)
    } else {
        tokenise(block, &mut vec![httparse::EMPTY_HEADER; count], read)
    }
}

fn tokenise<'b, T>(
    block: &'b [u8],
    space: &mut [httparse::Header<'b>],
    read: impl FnOnce(&[httparse::Header<'_>]) -> Result<T, FieldError>,
) -> Result<T, FieldError> {
    match httparse::parse_headers(block, space) {
        Ok(httparse::Status::Complete((end, lines))) if end == block.len() => read(lines),
        // The end was found before: whatever disagrees with it is no field section.
        Ok(_) => Err(FieldError::Malformed),
        Err(httparse::Error::HeaderValue) => Err(FieldError::InvalidCharacters),
        Err(httparse::Error::TooManyHeaders) => Err(FieldError::TooMany),
        Err(_) => Err(FieldError::Malformed),
    }
}

impl FieldSection {
    fn add(
        &mut self,
        head: &Bytes,
        name: &str,
        value: &[u8],
        options: FieldOptions,
    ) -> Result<(), FieldError> {
        if refuse_underscore(name, options.underscores)? {
            self.dropped_underscores += 1;
            return Ok(());
        }
        if let Some(case) = &mut self.case {
            case.note(head.slice_ref(name.as_bytes()));
        }
        let Some(known) = names::lookup(name.as_bytes()) else {
            return insert(&mut self.headers, custom_name(name)?, field_value(head, value)?, false);
        };
        if !self.note(head, known.role, value, options)? {
            return Ok(());
        }
        let value = match known.role {
            Role::ContentLength => canonical_length(head, value)?,
            Role::Te if options.side == Side::Request => HeaderValue::from_static("trailers"),
            _ => field_value(head, value)?,
        };
        let join = match known.role {
            // One of each is enough: of `te` all that is kept is the same word, a repeated length is refused later.
            Role::Te | Role::ContentLength if self.headers.contains_key(&known.name) => return Ok(()),
            _ => applies(known.join, options.side),
        };
        insert(&mut self.headers, known.name.clone(), value, join)
    }

    /// Takes from a field what the codec wants to know. Returns whether it belongs into the header map.
    fn note(
        &mut self,
        head: &Bytes,
        role: Role,
        value: &[u8],
        options: FieldOptions,
    ) -> Result<bool, FieldError> {
        let request = options.side == Side::Request;
        match role {
            Role::Plain | Role::Forwarded => return Ok(true),
            Role::ContentLength => {
                self.framing.content_length(value);
                return Ok(true);
            }
            Role::TransferEncoding => self.framing.transfer_encoding(value),
            Role::Connection => self.connection.connection(head, value),
            Role::Hop => {}
            Role::ProxyConnection if request => self.connection.proxy_connection(value),
            Role::ProxyConnection => {}
            Role::Host if request => {
                self.host = match self.host {
                    HostField::Absent => HostField::One(head.slice_ref(value)),
                    HostField::One(_) | HostField::Many => HostField::Many,
                };
            }
            Role::Te if request => return Ok(self.connection.te(value)),
            Role::Expect if request => {
                let expects = value.eq_ignore_ascii_case(b"100-continue");
                self.expect_continue |= expects;
                return Ok(!expects || options.keep_expect);
            }
            Role::Host | Role::Te | Role::Expect => return Ok(true),
            Role::Upgrade => self.note_upgrade(value)?,
        }
        Ok(false)
    }

    fn note_upgrade(&mut self, value: &[u8]) -> Result<(), FieldError> {
        if !value.iter().all(|byte| byte.is_ascii_graphic() || *byte == b' ') {
            return Err(FieldError::InvalidCharacters);
        }
        let value = String::from_utf8_lossy(value).to_ascii_lowercase();
        let all = match &self.upgrade {
            Some(before) => format!("{before},{value}"),
            None => value,
        };
        self.upgrade = Some(Text::from(all));
        Ok(())
    }
}

/// Whether a field is to be dropped for the underscore in its name.
fn refuse_underscore(name: &str, policy: Underscores) -> Result<bool, FieldError> {
    match policy {
        Underscores::Allow => Ok(false),
        Underscores::Reject if name.contains('_') => Err(FieldError::Underscore),
        Underscores::Reject => Ok(false),
        Underscores::Drop => Ok(name.contains('_')),
    }
}

/// A slice of the head as a value: nothing is copied.
fn field_value(head: &Bytes, value: &[u8]) -> Result<HeaderValue, FieldError> {
    HeaderValue::from_maybe_shared(head.slice_ref(value)).map_err(|_| FieldError::InvalidCharacters)
}

/// `content-length` as it is re-emitted: without leading zeros. What is no number is refused when the framing is decided.
fn canonical_length(head: &Bytes, value: &[u8]) -> Result<HeaderValue, FieldError> {
    match value {
        [b'0', _, ..] => match super::framing::parse_decimal(value) {
            Some(length) => Ok(HeaderValue::from(length)),
            None => field_value(head, value),
        },
        _ => field_value(head, value),
    }
}

fn custom_name(name: &str) -> Result<HeaderName, FieldError> {
    HeaderName::from_bytes(name.as_bytes()).map_err(|_| FieldError::Malformed)
}

fn insert(
    headers: &mut HeaderMap,
    name: HeaderName,
    value: HeaderValue,
    join: bool,
) -> Result<(), FieldError> {
    match headers.try_entry(name).map_err(|_| FieldError::TooMany)? {
        Entry::Vacant(entry) => {
            entry.try_insert(value).map_err(|_| FieldError::TooMany)?;
        }
        Entry::Occupied(mut entry) if join => {
            if let Some(joined) = joined(entry.get(), &value) {
                entry.insert(joined);
            }
        }
        Entry::Occupied(mut entry) => entry.append(value),
    }
    Ok(())
}

/// `first,second` as Envoy joins repeated inline headers. Two valid values and a comma always make a valid one.
fn joined(first: &HeaderValue, second: &HeaderValue) -> Option<HeaderValue> {
    let mut all = Vec::with_capacity(first.len() + 1 + second.len());
    all.extend_from_slice(first.as_bytes());
    if !first.is_empty() {
        all.push(b',');
    }
    all.extend_from_slice(second.as_bytes());
    HeaderValue::from_maybe_shared(Bytes::from(all)).ok()
}

/// Whether values on that side become one.
fn applies(join: Join, side: Side) -> bool {
    match side {
        Side::Request => matches!(join, Join::Request | Join::Both),
        Side::Response => matches!(join, Join::Response | Join::Both),
    }
}
