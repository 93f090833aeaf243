//! Requests: no panic, the same verdict however the bytes are cut, and what is forwarded means the same when parsed again.
#![no_main]

use bytes::BytesMut;
use libfuzzer_sys::fuzz_target;
use proxy_core::head::PreserveCase;
use proxy_core::text::Text;
use proxy_engine::codec::h1::{
    BodyEncoder, EncodeError, HeadLimits, KeyFormat, ParsedRequest, RequestError, RequestMessage,
    RequestOptions, RequestParser, TargetForm, Underscores,
};

fuzz_target!(|input: &[u8]| {
    // The first octet chooses the options, the rest is what the peer sends.
    let Some((&flags, bytes)) = input.split_first() else { return };
    let mut whole = RequestParser::new(limits(), options(flags));
    let mut buf = BytesMut::from(bytes);
    let outcome = whole.parse(&mut buf);
    let dribbled = dribble(bytes, flags);
    assert_eq!(describe(&outcome), describe(&dribbled));
    if let Ok(Some(parsed)) = outcome {
        assert!(parsed.size <= bytes.len() && bytes.ends_with(&buf));
        if is_forwarded(&parsed) {
            check_forwarded(&parsed);
        }
    }
});

fn limits() -> HeadLimits {
    HeadLimits { max_bytes: 1024, max_headers: 16 }
}

fn options(flags: u8) -> RequestOptions {
    RequestOptions {
        allow_http_10: flags & 1 != 0,
        default_host_for_http_10: (flags & 2 != 0).then(|| Text::from_static("default")),
        allow_absolute_url: flags & 4 == 0,
        allow_chunked_length: flags & 8 != 0,
        allow_custom_methods: flags & 16 != 0,
        underscores: if flags & 32 != 0 { Underscores::Drop } else { Underscores::Allow },
        keep_case: (flags & 64 != 0).then(PreserveCase::default),
        proxy_100_continue: true,
        ..RequestOptions::default()
    }
}

fn dribble(bytes: &[u8], flags: u8) -> Result<Option<ParsedRequest>, RequestError> {
    let mut parser = RequestParser::new(limits(), options(flags));
    let mut buf = BytesMut::new();
    for byte in bytes {
        buf.extend_from_slice(&[*byte]);
        match parser.parse(&mut buf) {
            Ok(None) => {}
            done => return done,
        }
    }
    Ok(None)
}

fn describe(outcome: &Result<Option<ParsedRequest>, RequestError>) -> String {
    match outcome {
        Ok(Some(parsed)) => format!("{parsed:?}"),
        other => format!("{:?}", other.as_ref().err()),
    }
}

/// The connection manager forwards no other target, and no upgrade to nothing.
fn is_forwarded(parsed: &ParsedRequest) -> bool {
    let path = parsed.head.path.as_str();
    let upgrades_to_nothing = parsed.head.upgrade.as_ref().is_some_and(|upgrade| upgrade.is_empty());
    !upgrades_to_nothing && (path.is_empty() || path.starts_with('/') || path == "*")
}

fn check_forwarded(parsed: &ParsedRequest) {
    let mut out = BytesMut::new();
    write(parsed, &mut out).expect("what was parsed can be written");
    let lenient = RequestOptions {
        allow_custom_methods: true,
        proxy_100_continue: true,
        keep_case: parsed.head.case.as_ref().map(|_| PreserveCase::default()),
        ..RequestOptions::default()
    };
    let sent = out.clone();
    let limits = HeadLimits { max_bytes: usize::MAX, max_headers: 1000 };
    let again = RequestParser::new(limits, lenient).parse(&mut out).expect("sound").expect("complete");
    assert!(out.is_empty());
    assert_eq!(again.framing, parsed.framing);
    assert_eq!(again.head.method, parsed.head.method);
    assert_eq!(again.head.authority, parsed.head.authority);
    assert_eq!(again.head.path, parsed.head.path);
    assert_eq!(again.head.upgrade, parsed.head.upgrade);
    let mut twice = BytesMut::new();
    write(&again, &mut twice).expect("what was parsed can be written");
    assert_eq!(twice, sent);
}

fn write(parsed: &ParsedRequest, out: &mut BytesMut) -> Result<BodyEncoder, EncodeError> {
    let message = RequestMessage {
        head: &parsed.head,
        framing: parsed.framing,
        keys: parsed.head.case.as_deref().map_or(KeyFormat::Lower, KeyFormat::Preserve),
        target: TargetForm::Origin,
    };
    message.encode(out)
}
