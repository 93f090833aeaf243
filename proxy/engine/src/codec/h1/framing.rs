//! How long a body is: RFC 9112 section 6.3, decided once per message.

/// How the end of a body is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BodyFraming {
    /// There is no body.
    None,
    /// Exactly this many octets.
    Length(u64),
    /// Chunks, then an optional trailer section.
    Chunked,
    /// Everything until the connection ends: close-delimited responses, tunnels.
    UntilClose,
}

/// What `content-length` and `transfer-encoding` said, gathered field by field.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct FramingFields {
    content_length: Option<Result<u64, Invalid>>,
    transfer_encoding: Option<Result<(), Invalid>>,
}

/// A framing field that is repeated or not understood.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Invalid;

impl FramingFields {
    /// Notes one `content-length`. A second one makes both invalid, equal or not.
    pub(super) fn content_length(&mut self, value: &[u8]) {
        let parsed =
            if self.content_length.is_none() { parse_decimal(value).ok_or(Invalid) } else { Err(Invalid) };
        self.content_length = Some(parsed);
    }

    /// Notes one `transfer-encoding`. Only a single `chunked` is understood.
    pub(super) fn transfer_encoding(&mut self, value: &[u8]) {
        let chunked = self.transfer_encoding.is_none() && value.eq_ignore_ascii_case(b"chunked");
        self.transfer_encoding = Some(if chunked { Ok(()) } else { Err(Invalid) });
    }

    /// The one length, if there is any.
    pub(super) fn length(&self) -> Result<Option<u64>, Invalid> {
        self.content_length.transpose()
    }

    /// Whether the body is chunked.
    pub(super) fn chunked(&self) -> Result<bool, Invalid> {
        self.transfer_encoding.transpose().map(|coding| coding.is_some())
    }

    /// Whether any `content-length` was there.
    pub(super) fn has_length(&self) -> bool {
        self.content_length.is_some()
    }

    /// Whether any `transfer-encoding` was there.
    pub(super) fn has_coding(&self) -> bool {
        self.transfer_encoding.is_some()
    }
}

/// `1*DIGIT` that fits 64 bits; no sign, no white space, no list.
pub(super) fn parse_decimal(digits: &[u8]) -> Option<u64> {
    if digits.is_empty() {
        return None;
    }
    digits.iter().try_fold(0u64, |value, digit| {
        let digit = digit.is_ascii_digit().then(|| u64::from(digit - b'0'))?;
        value.checked_mul(10)?.checked_add(digit)
    })
}
