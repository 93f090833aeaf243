//! Chunked bodies: no panic, the same body however the bytes are cut, and nothing behind the body consumed.
#![no_main]

use bytes::BytesMut;
use http::HeaderMap;
use libfuzzer_sys::fuzz_target;
use proxy_core::head::BodyEvent;
use proxy_engine::codec::h1::{BodyDecoder, BodyError, BodyFraming, HeadLimits, TrailerOptions, Trailers};

#[derive(Debug, Default, PartialEq, Eq)]
struct Outcome {
    data: Vec<u8>,
    trailers: Option<HeaderMap>,
    complete: bool,
    error: Option<BodyError>,
}

fuzz_target!(|input: &[u8]| {
    let whole = decode(std::iter::once(input));
    assert_eq!(decode(input.chunks(1)), whole);
    assert_eq!(decode(input.chunks(7)), whole);
    assert!(whole.data.len() <= input.len());
});

fn decode<'a>(pieces: impl Iterator<Item = &'a [u8]>) -> Outcome {
    let limits = HeadLimits { max_bytes: 512, max_headers: 8 };
    let options = TrailerOptions { trailers: Trailers::Keep, limits, ..TrailerOptions::default() };
    let mut decoder = BodyDecoder::new(BodyFraming::Chunked, options);
    let mut buf = BytesMut::new();
    let mut outcome = Outcome::default();
    for piece in pieces {
        buf.extend_from_slice(piece);
        loop {
            match decoder.decode(&mut buf) {
                Ok(None) => break,
                Ok(Some(BodyEvent::Data(data))) => outcome.data.extend_from_slice(&data),
                Ok(Some(BodyEvent::Trailers(trailers))) => {
                    outcome.trailers = Some(trailers);
                    outcome.complete = true;
                }
                Ok(Some(BodyEvent::End)) => outcome.complete = true,
                Err(error) => outcome.error = Some(error),
            }
            if outcome.complete || outcome.error.is_some() {
                return outcome;
            }
        }
    }
    outcome
}
