//! `x-request-id`: a version 4 UUID (RFC 9562), from the worker's own generator: no system call, no lock.

use http::HeaderValue;
use proxy_core::head::RequestHead;
use proxy_core::headers::X_REQUEST_ID;

const HEX: &[u8; 16] = b"0123456789abcdef";

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
