use super::*;
use ResponseError::*;

const GET: ResponseContext = ResponseContext { head: false, connect: false, upgrade: false };
const HEAD: ResponseContext = ResponseContext { head: true, connect: false, upgrade: false };
const CONNECT: ResponseContext = ResponseContext { head: false, connect: true, upgrade: false };
const UPGRADE: ResponseContext = ResponseContext { head: false, connect: false, upgrade: true };

fn parse_response(input: &[u8], context: ResponseContext) -> Result<Option<ParsedResponse>, ResponseError> {
    ResponseParser::new(HeadLimits::RESPONSE, ResponseOptions::default())
        .parse(&mut BytesMut::from(input), context)
}

fn accept_response(input: &str, context: ResponseContext) -> ParsedResponse {
    parse_response(input.as_bytes(), context).expect("accepted").expect("complete")
}

#[test]
fn status_lines_are_read_strictly() {
    let rows: [(&[u8], Result<u16, ResponseError>); 24] = [
        (b"HTTP/1.1 200 OK", Ok(200)),
        (b"HTTP/1.1 200", Ok(200)),
        (b"HTTP/1.1 200 ", Ok(200)),
        (b"HTTP/1.0 200 OK", Ok(200)),
        (b"HTTP/1.1 299 Foo Bar", Ok(299)),
        (b"HTTP/1.1 999 x", Ok(999)),
        (b"HTTP/1.1 200 O\tK\xe9", Ok(200)),
        (b"HTTP/1.1 99 x", Err(InvalidStatus)),
        (b"HTTP/1.1 1000 x", Err(InvalidStatus)),
        (b"HTTP/1.1 0200 OK", Err(InvalidStatus)),
        (b"HTTP/1.1 000 x", Err(InvalidStatus)),
        (b"HTTP/1.1 abc x", Err(InvalidStatus)),
        (b"HTTP/1.1 20 OK", Err(InvalidStatus)),
        (b"HTTP/1.1 200OK", Err(InvalidStatus)),
        (b"HTTP/1.1  200 OK", Err(InvalidStatus)),
        (b"HTTP/1.1 +20 OK", Err(InvalidStatus)),
        (b"HTTP/1.1 200 \x01", Err(InvalidCharacters)),
        (b"HTTP/2.0 200 OK", Err(Malformed)),
        (b"HTTP/1.2 200 OK", Err(Malformed)),
        (b"http/1.1 200 OK", Err(Malformed)),
        (b"ICY 200 OK", Err(Malformed)),
        (b"\r\nHTTP/1.1 200 OK", Err(Malformed)),
        (b" HTTP/1.1 200 OK", Err(Malformed)),
        (b"\x15\x03\x01", Err(Malformed)),
    ];
    for (line, expected) in rows {
        let input = [line, b"\r\ncontent-length: 2\r\n\r\nok"].concat();
        let got =
            parse_response(&input, GET).map(|parsed| parsed.map_or(0, |parsed| parsed.head.status.as_u16()));
        assert_eq!(got, expected, "{line:?}");
    }
    assert!(
        parse_response(b"HTTP/1.1 200 OK\ncontent-length: 2\n\nok", GET).expect("bare line feeds").is_some()
    );
}

#[test]
fn framing_follows_the_request_and_the_status() {
    use BodyFraming::{Chunked, Length, UntilClose};
    let none = BodyFraming::None;
    let rows = [
        ("200 OK", "content-length: 5\r\n", GET, Ok(Length(5))),
        ("200 OK", "content-length: 02 \r\n", GET, Ok(Length(2))),
        ("200 OK", "content-length: 0\r\n", GET, Ok(none)),
        ("200 OK", "Transfer-Encoding: Chunked\r\n", GET, Ok(Chunked)),
        ("200 OK", "", GET, Ok(UntilClose)),
        ("200 OK", "content-length: 2\r\ncontent-length: 2\r\n", GET, Err(Malformed)),
        ("200 OK", "content-length: 2, 2\r\n", GET, Err(Malformed)),
        ("200 OK", "content-length: +2\r\n", GET, Err(Malformed)),
        ("200 OK", "content-length: 2\r\ntransfer-encoding: chunked\r\n", GET, Err(ContentLengthAndChunked)),
        ("200 OK", "transfer-encoding: gzip, chunked\r\n", GET, Err(InvalidTransferEncoding)),
        ("200 OK", "transfer-encoding: identity\r\n", GET, Err(InvalidTransferEncoding)),
        (
            "200 OK",
            "transfer-encoding: chunked\r\ntransfer-encoding: chunked\r\n",
            GET,
            Err(InvalidTransferEncoding),
        ),
        ("204 No Content", "", GET, Ok(none)),
        ("204 No Content", "content-length: 0\r\n", GET, Ok(none)),
        ("204 No Content", "content-length: 2\r\n", GET, Err(ContentLengthNotAllowed)),
        ("204 No Content", "transfer-encoding: chunked\r\n", GET, Err(TransferEncodingNotAllowed)),
        ("304 Not Modified", "", GET, Ok(none)),
        ("304 Not Modified", "content-length: 5\r\n", GET, Ok(none)),
        ("304 Not Modified", "transfer-encoding: chunked\r\n", GET, Ok(none)),
        ("304 Not Modified", "content-length: x\r\n", GET, Err(Malformed)),
        ("200 OK", "content-length: 5\r\n", HEAD, Ok(none)),
        ("200 OK", "transfer-encoding: chunked\r\n", HEAD, Ok(none)),
        ("200 OK", "", HEAD, Ok(none)),
        ("200 OK", "content-length: 5\r\ntransfer-encoding: chunked\r\n", HEAD, Err(ContentLengthAndChunked)),
        ("100 Continue", "", GET, Ok(none)),
        ("100 Continue", "content-length: 2\r\n", GET, Err(ContentLengthNotAllowed)),
        ("103 Early Hints", "transfer-encoding: chunked\r\n", GET, Err(TransferEncodingNotAllowed)),
        ("200 OK", "content-length: 5\r\n", CONNECT, Ok(UntilClose)),
        ("403 Forbidden", "content-length: 5\r\n", CONNECT, Ok(Length(5))),
        ("101 Switching", "connection: upgrade\r\nupgrade: websocket\r\n", UPGRADE, Ok(UntilClose)),
        ("101 Switching", "connection: upgrade\r\nupgrade: websocket\r\n", GET, Err(UnsolicitedUpgrade)),
        ("101 Switching", "", UPGRADE, Err(UnsolicitedUpgrade)),
        (
            "101 S",
            "connection: upgrade\r\nupgrade: w\r\ncontent-length: 3\r\n",
            UPGRADE,
            Err(ContentLengthNotAllowed),
        ),
        (
            "101 S",
            "connection: upgrade\r\nupgrade: w\r\ntransfer-encoding: chunked\r\n",
            UPGRADE,
            Err(TransferEncodingNotAllowed),
        ),
    ];
    for (status, fields, context, expected) in rows {
        let input = format!("HTTP/1.1 {status}\r\n{fields}\r\n");
        let got = parse_response(input.as_bytes(), context).map(|parsed| parsed.expect("complete").framing);
        assert_eq!(got, expected, "{status} {fields:?} {context:?}");
    }
}

#[test]
fn connections_persist_only_behind_a_known_end() {
    let rows = [
        ("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n", true),
        ("HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: x, close\r\n\r\n", false),
        ("HTTP/1.1 200 OK\r\n\r\n", false),
        ("HTTP/1.0 200 OK\r\ncontent-length: 2\r\n\r\n", false),
        ("HTTP/1.0 200 OK\r\ncontent-length: 2\r\nconnection: keep-alive\r\n\r\n", true),
        ("HTTP/1.0 200 OK\r\ntransfer-encoding: chunked\r\nconnection: keep-alive\r\n\r\n", false),
    ];
    for (input, expected) in rows {
        assert_eq!(accept_response(input, GET).keep_alive, expected, "{input:?}");
    }
}

#[test]
fn bad_fields_are_refused_and_folds_are_undone() {
    let rows = [
        ("a: x\ry\r\n", "bare CR"),
        ("a : x\r\n", "space before colon"),
        ("a: \0\r\n", "NUL"),
        ("a: \x01\r\n", "control"),
        ("abc\r\n", "no colon"),
        (": x\r\n", "no name"),
        (" a: x\r\n", "fold without a line before it"),
    ];
    for (fields, what) in rows {
        let input = format!("HTTP/1.1 200 OK\r\n{fields}content-length: 2\r\n\r\nok");
        assert!(parse_response(input.as_bytes(), GET).is_err(), "{what}");
    }
    let folded = accept_response("HTTP/1.1 200 OK\r\na: x\r\n y\n\tz\r\ncontent-length: 2\r\n\r\n", GET);
    let value = folded.head.headers.get("a").expect("there").to_str().expect("text");
    assert_eq!(value.split_ascii_whitespace().collect::<Vec<_>>(), ["x", "y", "z"]);
    assert_eq!(folded.framing, BodyFraming::Length(2));
    let hidden = "HTTP/1.1 200 OK\r\na: x\r\n transfer-encoding: chunked\r\ncontent-length: 2\r\n\r\n";
    assert_eq!(accept_response(hidden, GET).framing, BodyFraming::Length(2));
}

#[test]
fn hop_by_hop_fields_end_here_but_nominated_ones_do_not() {
    let input = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: x-a, close\r\nx-a: 1\r\nkeep-alive: timeout=5\r\n\
                 proxy-connection: close\r\nte: trailers\r\nupgrade: foo\r\nproxy-authenticate: b\r\ntrailer: z\r\n\r\n";
    let parsed = accept_response(input, GET);
    let names: Vec<_> = parsed.head.headers.keys().map(http::HeaderName::as_str).collect();
    assert_eq!(names, ["content-length", "x-a", "te", "proxy-authenticate", "trailer"]);
}

#[test]
fn informational_heads_come_before_the_final_one() {
    let mut parser = ResponseParser::new(HeadLimits::RESPONSE, ResponseOptions::default());
    let mut buf = BytesMut::from("HTTP/1.1 102 P\r\n\r\n".repeat(500).as_bytes());
    buf.extend_from_slice(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\nrest");
    for _ in 0..500 {
        let parsed = parser.parse(&mut buf, GET).expect("accepted").expect("complete");
        assert_eq!((parsed.kind, parsed.framing), (ResponseKind::Informational, BodyFraming::None));
    }
    let last = parser.parse(&mut buf, GET).expect("accepted").expect("complete");
    assert_eq!((last.kind, &last.reason[..], &buf[..]), (ResponseKind::Final, &b"OK"[..], &b"rest"[..]));
}

#[test]
fn informational_heads_are_limited() {
    let mut parser = ResponseParser::new(HeadLimits::RESPONSE, ResponseOptions::default());
    let mut outcome = Ok(());
    for _ in 0..1001 {
        let mut buf = BytesMut::from(&b"HTTP/1.1 100 Continue\r\n\r\n"[..]);
        outcome = parser.parse(&mut buf, GET).map(|_| ());
    }
    assert_eq!(outcome, Err(TooManyInformational));
}

#[test]
fn heads_are_limited() {
    let with = |fields: &str| {
        let input = format!("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n{fields}\r\nok");
        parse_response(input.as_bytes(), GET).map(|_| ())
    };
    let lines = |count: usize| (0..count).map(|index| format!("x{index}: y\r\n")).collect::<String>();
    assert_eq!(with(&lines(99)), Ok(()));
    assert_eq!(with(&lines(100)), Err(TooManyHeaders));
    assert_eq!(with(&format!("x: {}\r\n", "y".repeat(81_000))), Ok(()));
    assert_eq!(with(&format!("x: {}\r\n", "y".repeat(82_000))), Err(HeadersTooLarge));
    let endless = [&b"HTTP/1.1 200 "[..], &[b'x'; 90_000]].concat();
    assert_eq!(parse_response(&endless, GET).err(), Some(HeadersTooLarge));
}

#[test]
fn repeated_inline_headers_are_joined() {
    let rows = [
        ("cache-control", &["1,2"][..]),
        ("via", &["1,2"]),
        ("date", &["1,2"]),
        ("grpc-status", &["1,2"]),
        ("vary", &["1,2"]),
        ("set-cookie", &["1", "2"]),
        ("accept", &["1", "2"]),
        ("www-authenticate", &["1", "2"]),
        ("x-envoy-overloaded", &["1", "2"]),
    ];
    for (name, expected) in rows {
        let parsed = accept_response(&format!("HTTP/1.1 200 OK\r\n{name}: 1\r\n{name}: 2\r\n\r\n"), GET);
        let values: Vec<_> = parsed.head.headers.get_all(name).iter().collect();
        assert_eq!(values, expected, "{name}");
    }
}
