//! Query parameters in formats: `%QUERY_PARAM(x)%` and `%QUERY_PARAMS(DECODED)%`.
//!
//! As Envoy does: percent escapes are decoded, `+` is not a space, a fragment belongs to the last value.

use crate::matcher::query::decoded_parameter;

/// Appends the decoded value of the first parameter called `name`; `false` if there is none.
pub(super) fn param(query: &str, name: &str, out: &mut Vec<u8>) -> bool {
    let value = decoded_parameter(query, name);
    out.extend_from_slice(value.as_deref().unwrap_or_default());
    value.is_some()
}

/// Appends the query with every key and value decoded and escaped anew: what need not be escaped is plain.
pub(super) fn normalize(query: &str, out: &mut Vec<u8>) {
    for (index, pair) in query.split('&').filter(|pair| !pair.is_empty()).enumerate() {
        if index > 0 {
            out.push(b'&');
        }
        match pair.split_once('=') {
            Some((key, value)) => {
                escaped(key, out);
                out.push(b'=');
                escaped(value, out);
            }
            None => escaped(pair, out),
        }
    }
}

fn escaped(text: &str, out: &mut Vec<u8>) {
    for byte in percent_encoding::percent_decode_str(text) {
        if byte > b' ' && byte < b'~' && !matches!(byte, b'%' | b'&') {
            out.push(byte);
        } else {
            out.extend_from_slice(percent_encoding::percent_encode_byte(byte).as_bytes());
        }
    }
}
