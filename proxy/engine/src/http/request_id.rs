//! `x-request-id`: a version 4 UUID (RFC 9562), from the worker's own generator: no system call, no lock.

use http::HeaderValue;
use proxy_core::head::RequestHead;
use proxy_core::headers::X_REQUEST_ID;

use super::tracing::Reason;

const HEX: &[u8; 16] = b"0123456789abcdef";

/// What ids have to do with traces (`UuidRequestIdConfig`).
#[derive(Clone, Copy, Debug)]
pub(crate) struct Packing {
    /// They say why a request is sampled.
    pub(crate) packs: bool,
    /// They decide whether it is.
    pub(crate) decides: bool,
}

/// Length of a UUID as text, and where the digit is that says why a request is sampled.
const LENGTH: usize = 36;
const MARK: usize = 14;

/// The number that the first digits of the id are.
pub(crate) fn number(request: &RequestHead) -> Option<u64> {
    let id = request.headers.get(&X_REQUEST_ID)?.to_str().ok()?;
    u64::from_str_radix(id.get(..8)?, 16).ok()
}

/// Why the request is sampled, as its id says.
pub(crate) fn reason(request: &RequestHead) -> Reason {
    match request.headers.get(&X_REQUEST_ID).map(HeaderValue::as_bytes) {
        Some(id) if id.len() == LENGTH => match id.get(MARK) {
            Some(b'9') => Reason::Sampling,
            Some(b'a') => Reason::ServiceForced,
            Some(b'b') => Reason::ClientForced,
            _ => Reason::NotTraceable,
        },
        _ => Reason::NotTraceable,
    }
}

/// Has the id say why the request is sampled.
pub(crate) fn set_reason(request: &mut RequestHead, packing: Packing, reason: Reason) {
    let Some(id) = request.headers.get(&X_REQUEST_ID).filter(|_| packing.packs) else { return };
    let Ok(mut id) = <[u8; LENGTH]>::try_from(id.as_bytes()) else { return };
    id[MARK] = match reason {
        Reason::NotTraceable => b'4',
        Reason::Sampling => b'9',
        Reason::ServiceForced => b'a',
        Reason::ClientForced => b'b',
    };
    if let Ok(id) = HeaderValue::from_bytes(&id) {
        request.headers.insert(&X_REQUEST_ID, id);
    }
}

/// Whether `request` came with an id.
pub(crate) fn is_given(request: &RequestHead) -> bool {
    request.headers.get(&X_REQUEST_ID).is_some_and(|id| !id.is_empty())
}

/// Gives `request` a new id.
pub(crate) fn set(request: &mut RequestHead) {
    request.headers.insert(&X_REQUEST_ID, generate(fastrand::u128(..)));
}

fn generate(random: u128) -> HeaderValue {
    let mut bytes = random.to_be_bytes();
    bytes[6] = bytes[6] & 0x0f | 0x40;
    bytes[8] = bytes[8] & 0x3f | 0x80;
    let mut text = [b'-'; 36];
    let mut at = 0;
    for (index, byte) in bytes.iter().enumerate() {
        if matches!(index, 4 | 6 | 8 | 10) {
            at += 1;
        }
        text[at] = HEX[usize::from(byte >> 4)];
        text[at + 1] = HEX[usize::from(byte & 15)];
        at += 2;
    }
    HeaderValue::from_bytes(&text).unwrap_or_else(|_| HeaderValue::from_static(""))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(id: &'static str) -> RequestHead {
        RequestHead {
            method: http::Method::GET,
            scheme: proxy_core::head::Scheme::Http,
            authority: Default::default(),
            path: Default::default(),
            upgrade: None,
            case: None,
            headers: [(X_REQUEST_ID.clone(), HeaderValue::from_static(id))].into_iter().collect(),
        }
    }

    #[test]
    fn ids_say_why_a_request_is_sampled() {
        let packing = Packing { packs: true, decides: true };
        let mut request = request("0000002a-89ab-4def-8123-456789abcdef");
        assert_eq!((number(&request), reason(&request)), (Some(42), Reason::NotTraceable));
        for why in [Reason::Sampling, Reason::ServiceForced, Reason::ClientForced, Reason::NotTraceable] {
            set_reason(&mut request, packing, why);
            assert_eq!(reason(&request), why);
        }
        set_reason(&mut request, Packing { packs: false, ..packing }, Reason::Sampling);
        assert_eq!(reason(&request), Reason::NotTraceable);
    }

    #[test]
    fn other_ids_say_nothing() {
        for id in ["", "9", "0000002a", "zzzzzzzz-89ab-9def-8123-456789abcde", "é000002a-89ab-9def"] {
            let mut request = request("x");
            request.headers.insert(&X_REQUEST_ID, HeaderValue::from_bytes(id.as_bytes()).unwrap());
            set_reason(&mut request, Packing { packs: true, decides: true }, Reason::Sampling);
            assert_eq!(reason(&request), Reason::NotTraceable, "{id}");
        }
    }

    #[test]
    fn ids_are_version_4_uuids() {
        assert_eq!(generate(0), "00000000-0000-4000-8000-000000000000");
        assert_eq!(generate(u128::MAX), "ffffffff-ffff-4fff-bfff-ffffffffffff");
        assert_eq!(
            generate(0x0123_4567_89ab_cdef_0123_4567_89ab_cdef),
            "01234567-89ab-4def-8123-456789abcdef"
        );
    }
}
