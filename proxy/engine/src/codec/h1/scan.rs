//! Finding the end of a head in bytes that arrive in any pieces, without looking at a byte twice.

use memchr::memchr;

/// Limits on one head (or one trailer section).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HeadLimits {
    /// Octets, from the first of the start line to the last LF.
    pub max_bytes: usize,
    /// Field lines.
    pub max_headers: usize,
}

impl HeadLimits {
    /// Envoy's for requests: 60 KiB (`max_request_headers_kb`), 100 fields (`max_headers_count`).
    pub const REQUEST: Self = Self { max_bytes: 60 * 1024, max_headers: 100 };
    /// Envoy's for responses: 80 KiB as measured on 1.40, 100 fields.
    pub const RESPONSE: Self = Self { max_bytes: 80 * 1024, max_headers: 100 };
}

/// A complete head at the start of a buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct HeadSpan {
    /// Octets up to and including the empty line.
    pub(super) end: usize,
    /// Octets up to and including the LF of the start line.
    pub(super) first_line: usize,
    /// Lines between the start line and the empty line.
    pub(super) fields: usize,
}

impl HeadSpan {
    /// The size of the fields as Envoy counts what it receives: names and values and three octets for each.
    pub(super) fn header_bytes(&self) -> usize {
        (self.end - self.first_line).saturating_sub(2 + self.fields).max(3)
    }
}

/// Remembers how far a buffer was searched for the empty line. One per head: `reset` when the head is taken.
#[derive(Clone, Debug, Default)]
pub(super) struct HeadScanner {
    searched: usize,
    lines: usize,
    first_line: usize,
}

impl HeadScanner {
    /// The head, if `buf` holds all of it. `buf` must start where it started at the last call and only have grown.
    pub(super) fn find(&mut self, buf: &[u8]) -> Option<HeadSpan> {
        loop {
            let rest = buf.get(self.searched..).unwrap_or_default();
            let Some(offset) = memchr(b'\n', rest) else {
                self.searched = buf.len();
                return None;
            };
            let line_feed = self.searched + offset;
            if self.lines == 0 {
                self.first_line = line_feed + 1;
            }
            let empty_line = match rest.get(offset + 1..).unwrap_or_default() {
                [b'\n', ..] => 1,
                [b'\r', b'\n', ..] => 2,
                [] | [b'\r'] => {
                    // Undecided: come back to this LF when there is more.
                    self.searched = line_feed;
                    return None;
                }
                _ => {
                    self.lines += 1;
                    self.searched = line_feed + 1;
                    continue;
                }
            };
            let span =
                HeadSpan { end: line_feed + 1 + empty_line, first_line: self.first_line, fields: self.lines };
            return Some(span);
        }
    }

    /// Octets up to and including the LF of the start line, once that has been seen by `find`.
    pub(super) fn first_line(&self) -> Option<usize> {
        (self.first_line > 0).then_some(self.first_line)
    }

    /// Forgets: the next call is about another head.
    pub(super) fn reset(&mut self) {
        *self = Self::default();
    }
}

/// A line without its line ending (LF, or CR LF).
pub(super) fn trim_line_end(line: &[u8]) -> &[u8] {
    let line = line.strip_suffix(b"\n").unwrap_or(line);
    line.strip_suffix(b"\r").unwrap_or(line)
}
