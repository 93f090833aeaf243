//! Responses: no panic, the same verdict however the bytes are cut, and a body that ends where its framing says.
#![no_main]

use bytes::BytesMut;
use libfuzzer_sys::fuzz_target;
use proxy_engine::codec::h1::{
    BodyFraming, HeadLimits, ParsedResponse, ResponseContext, ResponseError, ResponseOptions, ResponseParser,
};

fuzz_target!(|input: &[u8]| {
    // The first octet chooses the options, the rest is what the peer sends.
    let Some((&flags, bytes)) = input.split_first() else { return };
    let context = ResponseContext { head: flags & 1 != 0, connect: flags & 2 != 0, upgrade: flags & 4 != 0 };
    let options = ResponseOptions { allow_chunked_length: flags & 8 != 0, ..ResponseOptions::default() };
    let mut buf = BytesMut::from(bytes);
    let outcome = ResponseParser::new(limits(), options).parse(&mut buf, context);
    assert_eq!(describe(&outcome), describe(&dribble(bytes, options, context)));
    if let Ok(Some(parsed)) = outcome {
        assert!(parsed.size <= bytes.len() && bytes.ends_with(&buf));
        assert!(!parsed.keep_alive || parsed.framing != BodyFraming::UntilClose);
        assert!(!parsed.head.headers.contains_key("transfer-encoding"));
        assert!(parsed.head.headers.get_all("content-length").iter().count() <= 1);
    }
});

fn limits() -> HeadLimits {
    HeadLimits { max_bytes: 1024, max_headers: 16 }
}

fn dribble(
    bytes: &[u8],
    options: ResponseOptions,
    context: ResponseContext,
) -> Result<Option<ParsedResponse>, ResponseError> {
    let mut parser = ResponseParser::new(limits(), options);
    let mut buf = BytesMut::new();
    for byte in bytes {
        buf.extend_from_slice(&[*byte]);
        match parser.parse(&mut buf, context) {
            Ok(None) => {}
            done => return done,
        }
    }
    Ok(None)
}

fn describe(outcome: &Result<Option<ParsedResponse>, ResponseError>) -> String {
    match outcome {
        Ok(Some(parsed)) => format!("{parsed:?}"),
        other => format!("{:?}", other.as_ref().err()),
    }
}
