//! A token (the first line) and a set of keys (the rest): no panic, and what is signed is signed as it stands.
#![no_main]

use libfuzzer_sys::fuzz_target;
use proxy_extensions::http::jwt_authn::verify;

fuzz_target!(|input: &[u8]| {
    let end = input.iter().position(|byte| *byte == b'\n').unwrap_or(input.len());
    let (token, keys) = input.split_at(end);
    let Ok(token) = std::str::from_utf8(token) else { return };
    let verdict = verify(keys, token);
    assert_eq!(verify(keys, token), verdict, "the same again");
    if verdict.is_err() {
        return;
    }
    // Whatever is changed of what is signed, nobody has signed it.
    let signed = token.trim_end_matches('.').rfind('.').expect("has a signature");
    for at in (0..signed).filter(|at| token.as_bytes()[*at].is_ascii_alphanumeric()) {
        let mut other = token.as_bytes().to_vec();
        other[at] = if other[at] == b'A' { b'B' } else { b'A' };
        assert!(verify(keys, &String::from_utf8_lossy(&other)).is_err(), "{at} of {token} is not signed");
    }
});
