//! Hop-by-hop fields: what ends at this connection (RFC 9110 section 7.6.1, Envoy 1.40 behaviour).
//!
//! The parsers apply these rules while they build the header map; `apply_nominations` is for the rare request that nominates
//! fields of its own.

use bytes::Bytes;
use http::HeaderMap;
use smallvec::SmallVec;

use proxy_core::field_names::{self as names, Role};

/// More members than this in `connection` are refused (Envoy's limit).
const MAX_MEMBERS: usize = 9;
/// A nominated `te` longer than this is refused (Envoy's limit).
const MAX_TE: usize = 256;

/// What `connection` (and `proxy-connection`) said.
#[derive(Clone, Debug, Default)]
pub(super) struct ConnectionFields {
    pub(super) close: bool,
    pub(super) keep_alive: bool,
    pub(super) upgrade: bool,
    te_length: usize,
    members: usize,
    nominated: SmallVec<[Bytes; 2]>,
}

/// `connection` nominates what may not be removed, or is not a list of tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Rejected;

impl ConnectionFields {
    /// Notes one `connection` field. `value` is a slice of `head`.
    pub(super) fn connection(&mut self, head: &Bytes, value: &[u8]) {
        for member in members(value) {
            self.members += 1;
            if member.eq_ignore_ascii_case(b"close") {
                self.close = true;
            } else if member.eq_ignore_ascii_case(b"keep-alive") {
                self.keep_alive = true;
            } else if member.eq_ignore_ascii_case(b"upgrade") {
                self.upgrade = true;
            } else if self.members <= MAX_MEMBERS {
                self.nominated.push(head.slice_ref(member));
            }
        }
    }

    /// Notes one `proxy-connection` field: only `close` counts.
    pub(super) fn proxy_connection(&mut self, value: &[u8]) {
        self.close |= members(value).any(|member| member.eq_ignore_ascii_case(b"close"));
    }

    /// Notes one `te` field: whether it asks for trailers.
    pub(super) fn te(&mut self, value: &[u8]) -> bool {
        self.te_length += value.len();
        wants_trailers(value)
    }

    /// Whether the connection can carry another message: by default in 1.1, on request in 1.0.
    pub(super) fn persists(&self, http_11: bool) -> bool {
        !self.close && (http_11 || self.keep_alive)
    }

    /// Whether fields were nominated, i.e. [`apply_nominations`] has something to do.
    pub(super) fn nominates(&self) -> bool {
        self.members > MAX_MEMBERS || !self.nominated.is_empty()
    }
}

/// What becomes of the fields that `connection` nominates.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Nominated {
    /// They end here.
    Go,
    /// They are for the peer of an upgrade, together with `connection` itself.
    Stay,
}

/// Removes from a request what its `connection` field nominated.
///
/// Refused are, besides Envoy's own refusals (`x-forwarded-for`, `-host`, `-proto`, pseudo-headers, too many members), `host` and
/// `content-length`: removing either changes what the message means.
pub(super) fn apply_nominations(
    connection: &ConnectionFields,
    headers: &mut HeaderMap,
    nominated: Nominated,
) -> Result<(), Rejected> {
    if connection.members > MAX_MEMBERS {
        return Err(Rejected);
    }
    for name in &connection.nominated {
        match names::lookup(name).map(|known| known.role) {
            Some(Role::Host | Role::ContentLength | Role::Forwarded) => return Err(Rejected),
            Some(Role::Te) if connection.te_length > MAX_TE => return Err(Rejected),
            Some(_) | None => {}
        }
        if !name.iter().all(|&byte| is_token(byte)) {
            return Err(Rejected);
        }
    }
    if nominated == Nominated::Stay {
        return Ok(());
    }
    // `te: trailers` survives its nomination: this proxy relays trailers too.
    let goes = |name: &http::HeaderName| {
        *name != http::header::TE
            && connection.nominated.iter().any(|other| other.eq_ignore_ascii_case(name.as_ref()))
    };
    if headers.keys().any(goes) {
        // `HeaderMap::remove` swaps the last entry into the hole; rebuilding keeps the order.
        let mut kept = HeaderMap::with_capacity(headers.capacity());
        let mut current = None;
        for (name, value) in std::mem::take(headers) {
            current = name.or(current);
            let Some(name) = &current else { continue };
            if !goes(name) {
                kept.append(name.clone(), value);
            }
        }
        *headers = kept;
    }
    Ok(())
}

/// Whether a `connection` field names `upgrade`.
pub(super) fn names_upgrade(connection: &[u8]) -> bool {
    members(connection).any(|member| member.eq_ignore_ascii_case(b"upgrade"))
}

/// Whether `te` asks for trailers, the one thing in it that is passed on: exactly the member `trailers`, no weight.
pub fn wants_trailers(te: &[u8]) -> bool {
    members(te).any(|member| member.eq_ignore_ascii_case(b"trailers"))
}

/// The non-empty members of a comma-separated list, trimmed.
fn members(list: &[u8]) -> impl Iterator<Item = &[u8]> {
    list.split(|byte| *byte == b',').map(<[u8]>::trim_ascii).filter(|member| !member.is_empty())
}

/// `tchar` of RFC 9110 section 5.6.2.
pub(super) fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}
