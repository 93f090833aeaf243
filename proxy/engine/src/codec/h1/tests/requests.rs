use super::*;
use proxy_core::head::{PreserveCase, Protocol, Scheme};
use proxy_core::matcher::StringMatcher;

/// Line, fields, and the error that answers them.
type Refusal = (&'static str, &'static str, RequestError);

fn check_refusals(rows: &[Refusal]) {
    for (line, fields, expected) in rows {
        let got = parse_request(&request(line, fields)).err();
        assert_eq!(got, Some(*expected), "{line} {fields:?}");
    }
}

#[test]
fn ordinary_requests_are_forwarded_as_envoy_does() {
    // Line, fields, and what goes out.
    let rows = [
        ("GET / HTTP/1.1", "Host: a\r\n", "GET / HTTP/1.1\r\nhost: a\r\n\r\n"),
        ("GET / HTTP/1.1", "Host: \r\n", "GET / HTTP/1.1\r\nhost: \r\n\r\n"),
        (
            "GET / HTTP/1.1",
            "X: 1\r\nHost: a\r\nX-B: 2\r\n",
            "GET / HTTP/1.1\r\nhost: a\r\nx: 1\r\nx-b: 2\r\n\r\n",
        ),
        ("POST / HTTP/1.1", "Host: a\r\n", "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 0\r\n\r\n"),
        ("DELETE / HTTP/1.1", "Host: a\r\n", "DELETE / HTTP/1.1\r\nhost: a\r\n\r\n"),
        ("OPTIONS / HTTP/1.1", "Host: a\r\n", "OPTIONS / HTTP/1.1\r\nhost: a\r\ncontent-length: 0\r\n\r\n"),
        ("TRACE / HTTP/1.1", "Host: a\r\n", "TRACE / HTTP/1.1\r\nhost: a\r\n\r\n"),
        ("PROPFIND / HTTP/1.1", "Host: a\r\n", "PROPFIND / HTTP/1.1\r\nhost: a\r\ncontent-length: 0\r\n\r\n"),
        ("GET http://b/x?y HTTP/1.1", "Host: a\r\n", "GET /x?y HTTP/1.1\r\nhost: b\r\n\r\n"),
        ("GET http://b HTTP/1.1", "Host: a\r\n", "GET / HTTP/1.1\r\nhost: b\r\n\r\n"),
        ("GET HTTP://b:81/x HTTP/1.1", "Host: a\r\n", "GET /x HTTP/1.1\r\nhost: b:81\r\n\r\n"),
        ("GET http://[::1]:80/ HTTP/1.1", "Host: a\r\n", "GET / HTTP/1.1\r\nhost: [::1]:80\r\n\r\n"),
        (
            "GET //a/../b/%2f%zz\\ HTTP/1.1",
            "Host: a\r\n",
            "GET //a/../b/%2f%zz\\ HTTP/1.1\r\nhost: a\r\n\r\n",
        ),
        ("GET /\"<>|{}`^ HTTP/1.1", "Host: a\r\n", "GET /\"<>|{}`^ HTTP/1.1\r\nhost: a\r\n\r\n"),
        ("GET / HTTP/1.1", "Host: a:99999\r\n", "GET / HTTP/1.1\r\nhost: a:99999\r\n\r\n"),
        ("GET / HTTP/1.1", "Host: a\r\nX: \t v \t\r\n", "GET / HTTP/1.1\r\nhost: a\r\nx: v\r\n\r\n"),
        ("GET / HTTP/1.1", "Host: a\r\nX: a\tb\r\n", "GET / HTTP/1.1\r\nhost: a\r\nx: a\tb\r\n\r\n"),
        ("GET / HTTP/1.1", "Host: a\r\nX:\r\n", "GET / HTTP/1.1\r\nhost: a\r\nx: \r\n\r\n"),
        ("GET / HTTP/1.1", "Host: a\nX: y\nZ: w\r\n", "GET / HTTP/1.1\r\nhost: a\r\nx: y\r\nz: w\r\n\r\n"),
        ("GET / HTTP/1.1", "Host: a\r\nX_Y: z\r\n", "GET / HTTP/1.1\r\nhost: a\r\nx_y: z\r\n\r\n"),
        (
            "POST / HTTP/1.1",
            "Host: a\r\nContent-Length: 005 \r\nZ: 1\r\n",
            "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 5\r\nz: 1\r\n\r\n",
        ),
        (
            "GET / HTTP/1.1",
            "Host: a\r\nTransfer-Encoding:\tChunked \r\nZ: 1\r\n",
            "GET / HTTP/1.1\r\nhost: a\r\nz: 1\r\ntransfer-encoding: chunked\r\n\r\n",
        ),
    ];
    for (line, fields, expected) in rows {
        assert_eq!(forwarded(&accept(&request(line, fields))), expected, "{line} {fields:?}");
    }
}

#[test]
fn empty_lines_before_a_request_and_bare_line_feeds_are_accepted() {
    for input in ["\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n", "\nGET / HTTP/1.1\nHost: a\n\n"] {
        assert_eq!(forwarded(&accept(input.as_bytes())), "GET / HTTP/1.1\r\nhost: a\r\n\r\n");
    }
    let flood = b"\r\n".repeat(100);
    assert_eq!(parse_request(&flood).err(), Some(RequestError::Malformed));
}

#[test]
fn bad_framing_is_refused() {
    use RequestError::*;
    check_refusals(&[
        (
            "POST / HTTP/1.1",
            "Host: a\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
            InvalidTransferEncoding,
        ),
        ("POST / HTTP/1.1", "Host: a\r\nTransfer-Encoding: identity\r\n", InvalidTransferEncoding),
        ("POST / HTTP/1.1", "Host: a\r\nTransfer-Encoding: xchunked\r\n", InvalidTransferEncoding),
        ("POST / HTTP/1.1", "Host: a\r\nTransfer-Encoding: gzip, chunked\r\n", InvalidTransferEncoding),
        ("POST / HTTP/1.1", "Host: a\r\nTransfer-Encoding: chunked, chunked\r\n", InvalidTransferEncoding),
        ("POST / HTTP/1.1", "Host: a\r\nTransfer-Encoding: chunked,\r\n", InvalidTransferEncoding),
        ("POST / HTTP/1.1", "Host: a\r\nTransfer-Encoding: \"chunked\"\r\n", InvalidTransferEncoding),
        ("POST / HTTP/1.1", "Host: a\r\nTransfer-Encoding: chunked;q=1\r\n", InvalidTransferEncoding),
        ("POST / HTTP/1.1", "Host: a\r\nTransfer-Encoding:\r\n", InvalidTransferEncoding),
        ("POST / HTTP/1.1", "Host: a\r\nTransfer-Encoding:\r\n chunked\r\n", Malformed),
        ("POST / HTTP/1.1", "Host: a\r\nContent-Length: 5\r\nContent-Length: 6\r\n", Malformed),
        ("POST / HTTP/1.1", "Host: a\r\nContent-Length: 5\r\nContent-Length: 5\r\n", Malformed),
        ("POST / HTTP/1.1", "Host: a\r\nContent-Length: 5, 5\r\n", Malformed),
        ("POST / HTTP/1.1", "Host: a\r\nContent-Length: +5\r\n", Malformed),
        ("POST / HTTP/1.1", "Host: a\r\nContent-Length: -5\r\n", Malformed),
        ("POST / HTTP/1.1", "Host: a\r\nContent-Length: 1e3\r\n", Malformed),
        ("POST / HTTP/1.1", "Host: a\r\nContent-Length: 5 5\r\n", Malformed),
        ("POST / HTTP/1.1", "Host: a\r\nContent-Length:\r\n", Malformed),
        ("POST / HTTP/1.1", "Host: a\r\nContent-Length: 18446744073709551616\r\n", Malformed),
        (
            "POST / HTTP/1.1",
            "Host: a\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n",
            ContentLengthAndChunked,
        ),
        (
            "POST / HTTP/1.1",
            "Host: a\r\nTransfer-Encoding: chunked\r\nContent-Length: 5\r\n",
            ContentLengthAndChunked,
        ),
        ("POST / HTTP/1.1", "Host: a\r\nTransfer-Encoding : chunked\r\n", Malformed),
        ("CONNECT a:80 HTTP/1.1", "Host: a\r\nContent-Length: 3\r\n", BodyDisallowed),
        ("CONNECT a:80 HTTP/1.1", "Host: a\r\nTransfer-Encoding: chunked\r\n", InvalidTransferEncoding),
    ]);
}

#[test]
fn framing_is_a_value() {
    let rows = [
        ("", BodyFraming::None),
        ("Content-Length: 0\r\n", BodyFraming::None),
        ("Content-Length: 5\r\n", BodyFraming::Length(5)),
        ("Content-Length: 18446744073709551615\r\n", BodyFraming::Length(u64::MAX)),
        ("Transfer-Encoding: chunked\r\n", BodyFraming::Chunked),
    ];
    for (fields, expected) in rows {
        assert_eq!(accept(&request("GET / HTTP/1.1", &format!("Host: a\r\n{fields}"))).framing, expected);
    }
    let connect = accept(&request("CONNECT a:80 HTTP/1.1", "Host: b\r\nContent-Length: 0\r\n"));
    assert_eq!(connect.framing, BodyFraming::UntilClose);
    assert_eq!((connect.head.authority.as_str(), connect.head.path.as_str()), ("a:80", ""));
}

#[test]
fn chunked_wins_over_length_only_when_allowed() {
    let options = RequestOptions { allow_chunked_length: true, ..RequestOptions::default() };
    let input = request("POST / HTTP/1.1", "Host: a\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n");
    let parsed = parse_request_with(options.clone(), &input).expect("allowed").expect("complete");
    assert_eq!(parsed.framing, BodyFraming::Chunked);
    assert!(!parsed.head.headers.contains_key("content-length"));
    let identity =
        request("POST / HTTP/1.1", "Host: a\r\nContent-Length: 5\r\nTransfer-Encoding: identity\r\n");
    assert_eq!(parse_request_with(options, &identity).err(), Some(RequestError::ContentLengthAndChunked));
}

#[test]
fn hosts_that_parsers_disagree_about_are_refused() {
    use RequestError::*;
    check_refusals(&[
        ("GET / HTTP/1.1", "Host: a\r\nHost: b\r\n", InvalidAuthority),
        ("GET / HTTP/1.1", "Host: a\r\nhost: a\r\n", InvalidAuthority),
        ("GET http://b/ HTTP/1.1", "Host: a\r\nhost: a\r\n", InvalidAuthority),
        ("GET / HTTP/1.1", "Host: u@a\r\n", InvalidAuthority),
        ("GET / HTTP/1.1", "Host: a/b\r\n", InvalidAuthority),
        ("GET / HTTP/1.1", "Host: a b\r\n", InvalidAuthority),
        ("GET / HTTP/1.1", "Host: a?b\r\n", InvalidAuthority),
        ("GET / HTTP/1.1", "Host: \u{e9}\r\n", InvalidAuthority),
    ]);
    for (fields, lacking) in [("", true), ("X: y\r\n", true), ("Host:\r\n", false), ("Host: a\r\n", false)] {
        assert_eq!(accept(&request("GET / HTTP/1.1", fields)).lacks_host, lacking, "{fields:?}");
    }
}

#[test]
fn bad_field_lines_are_refused() {
    use RequestError::*;
    check_refusals(&[
        ("GET / HTTP/1.1", "Host: a\r\n: v\r\n", Malformed),
        ("GET / HTTP/1.1", " a: b\r\nHost: a\r\n", Malformed),
        ("GET / HTTP/1.1", "Host: a\r\na : v\r\n", Malformed),
        ("GET / HTTP/1.1", "Host: a\r\n\u{e9}: v\r\n", Malformed),
        ("GET / HTTP/1.1", "Host: a\r\na: \x01\r\n", InvalidCharacters),
        ("GET / HTTP/1.1", "Host: a\r\na: \x7f\r\n", InvalidCharacters),
        ("GET / HTTP/1.1", "Host: a\r\na: \0\r\n", InvalidCharacters),
        ("GET / HTTP/1.1", "Host: a\r\nabc\r\n", Malformed),
        ("GET / HTTP/1.1", "Host: a\r\na\"b: c\r\n", Malformed),
        ("GET / HTTP/1.1", "Host: a\r\n:path: /evil\r\n", Malformed),
    ]);
    for bare_carriage_return in ["a: x\ry\r\n", "a: x\r\r\n", "a\r: x\r\n"] {
        let input = request("GET / HTTP/1.1", &format!("Host: a\r\n{bare_carriage_return}"));
        let refused = parse_request(&input).expect_err("refused");
        assert_eq!(refused.status(), 400, "{bare_carriage_return:?}");
    }
}

#[test]
fn bad_request_lines_are_refused() {
    use RequestError::*;
    let host = "Host: a\r\n";
    check_refusals(&[
        ("GET /", host, LowVersion),
        ("GET / HTTP/1.0", host, LowVersion),
        ("GET / HTTP/0.9", host, LowVersion),
        ("GET / HTTP/1.2", host, LowVersion),
        ("GET / HTTP/2.0", host, LowVersion),
        ("PRI * HTTP/2.0", host, Malformed),
        ("GET / http/1.1", host, Malformed),
        ("GET / HTTP/1.10", host, Malformed),
        ("GET / HTTP/11", host, Malformed),
        ("GET  / HTTP/1.1", host, Malformed),
        ("GET /  HTTP/1.1", host, Malformed),
        ("GET / HTTP/1.1 ", host, Malformed),
        ("GET\t/\tHTTP/1.1", host, Malformed),
        (" GET / HTTP/1.1", host, Malformed),
        ("GET /a b HTTP/1.1", host, Malformed),
        ("get / HTTP/1.1", host, Malformed),
        ("FOO / HTTP/1.1", host, Malformed),
        ("M-SEARCH / HTTP/1.1", host, Malformed),
        ("GET /\u{e9} HTTP/1.1", host, Malformed),
        ("GET /\x01 HTTP/1.1", host, InvalidCharacters),
        ("GET /\x7f HTTP/1.1", host, InvalidCharacters),
        ("GET /\ta HTTP/1.1", host, InvalidCharacters),
        ("GET * HTTP/1.1", host, InvalidUrl),
        ("GET foo HTTP/1.1", host, Malformed),
        ("GET ?x HTTP/1.1", host, Malformed),
        ("GET ftp://b/x HTTP/1.1", host, InvalidScheme),
        ("GET http://u@b/x HTTP/1.1", host, InvalidUrl),
        ("GET http://b:xx/ HTTP/1.1", host, InvalidUrl),
        ("GET http://b:65536/ HTTP/1.1", host, InvalidUrl),
        ("GET http:///x HTTP/1.1", host, InvalidUrl),
        ("CONNECT /foo HTTP/1.1", host, InvalidUrl),
        ("PROXY TCP4 1.2.3.4 5.6.7.8 1 2", host, Malformed),
    ]);
    let long_method = format!("{} / HTTP/1.1", "X".repeat(300));
    assert_eq!(parse_request(&request(&long_method, host)).err(), Some(Malformed));
}

#[test]
fn hopeless_input_is_refused_at_once() {
    for input in
        [&b"\x16\x03\x01\x00\x05hello"[..], b"\0\0\0", b"GET / HTTP/3.9\r\n", b"FOO / HTTP/1.1\r\nHost"]
    {
        assert!(parse_request(input).is_err(), "{input:?}");
    }
    assert!(parse_request(b"GET / HTTP/1.1\r\nHo").expect("fine so far").is_none());
}

#[test]
fn heads_are_limited() {
    let sized = |size: usize| {
        let empty = request("GET / HTTP/1.1", "Host: a\r\nx: \r\n").len();
        request("GET / HTTP/1.1", &format!("Host: a\r\nx: {}\r\n", "y".repeat(size - empty)))
    };
    assert_eq!(accept(&sized(61_440)).size, 61_440);
    assert_eq!(parse_request(&sized(61_441)).err(), Some(RequestError::HeadersTooLarge));
    let endless = [b"GET /".to_vec(), b"a".repeat(70_000)].concat();
    assert_eq!(parse_request(&endless).err(), Some(RequestError::HeadersTooLarge));
    let long_url = request(&format!("GET /{} HTTP/1.1", "a".repeat(70_000)), "Host: a\r\n");
    assert_eq!(parse_request(&long_url).err(), Some(RequestError::HeadersTooLarge));
    let many = |count: usize| {
        let lines: String = (1..count).map(|index| format!("x{index}: y\r\n")).collect();
        request("GET / HTTP/1.1", &format!("Host: a\r\n{lines}"))
    };
    assert_eq!(accept(&many(100)).head.headers.len(), 99);
    assert_eq!(parse_request(&many(101)).err(), Some(RequestError::TooManyHeaders));
}

#[test]
fn http_10_needs_permission() {
    let options = RequestOptions {
        allow_http_10: true,
        default_host_for_http_10: Some("dflt".into()),
        ..RequestOptions::default()
    };
    let parse = |input: &[u8]| parse_request_with(options.clone(), input);
    let old = parse(&request("GET / HTTP/1.0", "")).expect("allowed").expect("complete");
    assert_eq!(
        (old.protocol, old.keep_alive, old.head.authority.as_str()),
        (Protocol::Http10, false, "dflt")
    );
    let kept = parse(&request("GET / HTTP/1.0", "Host: a\r\nConnection: Keep-Alive\r\n")).expect("allowed");
    assert!(kept.is_some_and(|kept| kept.keep_alive && kept.head.authority == "a"));
    let proxy = parse(&request("GET / HTTP/1.0", "Proxy-Connection: keep-alive\r\n")).expect("allowed");
    assert!(proxy.is_some_and(|proxy| !proxy.keep_alive));
    let chunked = parse(&request("POST / HTTP/1.0", "Transfer-Encoding: chunked\r\n"));
    assert_eq!(chunked.err(), Some(RequestError::InvalidTransferEncoding));
    assert_eq!(parse(&request("GET /", "")).err(), Some(RequestError::LowVersion));
    let current = parse(&request("GET / HTTP/1.1", "")).expect("allowed").expect("complete");
    assert!(current.lacks_host);
}

#[test]
fn custom_methods_need_permission() {
    let options = RequestOptions { allow_custom_methods: true, ..RequestOptions::default() };
    let parsed =
        parse_request_with(options.clone(), &request("foo / HTTP/1.1", "Host: a\r\n")).expect("allowed");
    assert!(parsed.is_some_and(|parsed| parsed.head.method.as_str() == "foo"));
    let no_token = parse_request_with(options, &request("F\"O / HTTP/1.1", "Host: a\r\n"));
    assert_eq!(no_token.err(), Some(RequestError::Malformed));
}

#[test]
fn absolute_urls_carry_their_scheme_if_they_are_understood() {
    let parsed = accept(&request("GET https://b/x HTTP/1.1", "Host: a\r\n"));
    assert_eq!((parsed.head.scheme, parsed.head.authority.as_str()), (Scheme::Https, "b"));
    assert!(!parsed.lacks_scheme && accept(&request("GET /x HTTP/1.1", "Host: a\r\n")).lacks_scheme);
    for (scheme, taken) in [(Scheme::Http, false), (Scheme::Https, true)] {
        let options = RequestOptions { is_edge: true, scheme, ..RequestOptions::default() };
        let parsed = parse_request_with(options, &request("GET https://b/x HTTP/1.1", "Host: a\r\n"));
        assert_eq!(parsed.is_ok(), taken, "{scheme:?}");
    }
    let options = RequestOptions { allow_absolute_url: false, ..RequestOptions::default() };
    let raw =
        parse_request_with(options, &request("GET http://b/x HTTP/1.1", "Host: a\r\n")).expect("well formed");
    assert!(raw.is_some_and(|raw| raw.head.path == "http://b/x" && raw.head.authority == "a"));
}

#[test]
fn targets_are_handed_on_as_they_are() {
    for (line, path) in [
        ("OPTIONS * HTTP/1.1", "*"),
        ("GET /a?b#c HTTP/1.1", "/a?b#c"),
        ("GET http://b?z HTTP/1.1", "?z"),
        ("GET http://b/x#f HTTP/1.1", "/x#f"),
    ] {
        assert_eq!(accept(&request(line, "Host: a\r\n")).head.path.as_str(), path, "{line}");
    }
}

#[test]
fn folded_lines_are_joined_where_they_mean_nothing() {
    // Field lines, and what is forwarded of them (as Envoy does: the line end goes, the white space stays).
    for (fields, expected) in [
        ("a: b\r\n c\r\n", "a: b c\r\n"),
        ("a: b \r\n \t c\r\n", "a: b  \t c\r\n"),
        ("a: b\r\n\tc\r\n d \r\nx: y\r\n", "a: b\tc d\r\nx: y\r\n"),
        ("a:\r\n b\r\n", "a: b\r\n"),
        ("a: b\r\n \r\n c\r\n", "a: b  c\r\n"),
        ("a: b\n c\n", "a: b c\r\n"),
    ] {
        let parsed = accept(&request("GET / HTTP/1.1", &format!("Host: a\r\n{fields}")));
        assert_eq!(forwarded(&parsed), format!("GET / HTTP/1.1\r\nhost: a\r\n{expected}\r\n"), "{fields:?}");
    }
    for fields in [
        "Host:\r\n a\r\n",
        "Host: a\r\nContent-Length:\r\n 5\r\n",
        "Host: a\r\nTransfer-Encoding:\r\n chunked\r\n",
        "Host: a\r\nConnection:\r\n close\r\n",
        "Host: a\r\nx\r\n : y\r\n",
        "Host: a\r\nx: y\r\n z\r\nx y: z\r\n",
    ] {
        let refused = parse_request(&request("POST / HTTP/1.1", fields)).err();
        assert_eq!(refused, Some(RequestError::Malformed), "{fields:?}");
    }
}

#[test]
fn underscores_follow_the_policy() {
    let input = request("GET / HTTP/1.1", "Host: a\r\nx_y: 1\r\nz: 2\r\n");
    let with =
        |underscores| parse_request_with(RequestOptions { underscores, ..RequestOptions::default() }, &input);
    assert_eq!(with(Underscores::Reject).err(), Some(RequestError::UnexpectedUnderscore));
    let dropped = with(Underscores::Drop).expect("accepted").expect("complete");
    assert_eq!((dropped.dropped_underscores, dropped.head.headers.len()), (1, 1));
}

#[test]
fn hop_by_hop_fields_end_here() {
    // Fields, and what is left of them besides `host`.
    let rows = [
        ("Connection: te\r\nTE: trailers\r\n", "te: trailers\r\n"),
        ("Connection: te\r\nTE: gzip\r\n", ""),
        ("TE: gzip, trailers\r\n", "te: trailers\r\n"),
        ("TE: trailers;q=0.5\r\n", ""),
        ("TE: trailers\r\nTE: trailers\r\n", "te: trailers\r\n"),
        ("Connection: x-a, X-B\r\nx-a: 1\r\nx-b: 2\r\nx-c: 3\r\nx-d: 4\r\n", "x-c: 3\r\nx-d: 4\r\n"),
        ("Connection: keep-alive\r\nKeep-Alive: timeout=5\r\nProxy-Connection: keep-alive\r\n", ""),
        ("Connection: cookie, authorization\r\ncookie: a\r\nauthorization: b\r\nz: c\r\n", "z: c\r\n"),
        ("Connection: transfer-encoding\r\n", ""),
        ("Connection: ,\r\n", ""),
        ("Upgrade: websocket\r\n", ""),
        ("Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAM\r\n", ""),
        ("Connection: upgrade\r\n", ""),
        ("x-a: 1\r\nx-b: 2\r\nx-a: 3\r\nConnection: x-q\r\nx-q: 1\r\n", "x-a: 1\r\nx-a: 3\r\nx-b: 2\r\n"),
        ("Connection: a,b,c,d,e,f,g,h,i\r\n", ""),
    ];
    for (fields, left) in rows {
        let parsed = accept(&request("GET / HTTP/1.1", &format!("Host: a\r\n{fields}")));
        assert_eq!(forwarded(&parsed), format!("GET / HTTP/1.1\r\nhost: a\r\n{left}\r\n"), "{fields:?}");
        assert!(parsed.keep_alive);
    }
}

#[test]
fn nominations_that_change_the_message_are_refused() {
    let long_te = format!("Connection: te\r\nTE: trailers, {}\r\n", "a".repeat(300));
    let rows = [
        "Connection: host\r\n",
        "Connection: content-length\r\nContent-Length: 0\r\n",
        "Connection: x-forwarded-for\r\n",
        "Connection: close, X-Forwarded-Host\r\n",
        "Connection: x-forwarded-proto\r\n",
        "Connection: :path\r\n",
        "Connection: :authority\r\n",
        "Connection: a b\r\n",
        "Connection: a,b,c,d,e,f,g,h,i,j\r\n",
        long_te.as_str(),
    ];
    for fields in rows {
        let got = parse_request(&request("GET / HTTP/1.1", &format!("Host: a\r\n{fields}"))).err();
        assert_eq!(got, Some(RequestError::ConnectionHeaderRejected), "{fields:?}");
    }
}

#[test]
fn connections_close_when_asked() {
    for fields in ["Connection: close\r\n", "Connection: Foo, Close\r\n", "Proxy-Connection: close\r\n"] {
        assert!(
            !accept(&request("GET / HTTP/1.1", &format!("Host: a\r\n{fields}"))).keep_alive,
            "{fields:?}"
        );
    }
}

#[test]
fn upgrades_need_both_fields() {
    let parsed = accept(&request(
        "GET / HTTP/1.1",
        "Host: a\r\nConnection: keep-alive, Upgrade\r\nUpgrade: WebSocket\r\n",
    ));
    assert_eq!(parsed.head.upgrade.as_ref().map(|upgrade| upgrade.as_str()), Some("websocket"));
    assert_eq!(
        forwarded(&parsed),
        "GET / HTTP/1.1\r\nhost: a\r\nconnection: keep-alive, Upgrade\r\nupgrade: WebSocket\r\n\r\n"
    );
    let nominating = accept(&request(
        "GET / HTTP/1.1",
        "Host: a\r\nConnection: x-a\r\nConnection: Upgrade\r\nUpgrade: other\r\nx-a: 1\r\n",
    ));
    assert_eq!(
        forwarded(&nominating),
        "GET / HTTP/1.1\r\nhost: a\r\nx-a: 1\r\nconnection: x-a,Upgrade\r\nupgrade: other\r\n\r\n"
    );
    for fields in
        ["Upgrade: websocket\r\n", "Connection: upgrade\r\n", "Connection: upgrade\r\nUpgrade: H2C\r\n"]
    {
        assert!(accept(&request("GET / HTTP/1.1", &format!("Host: a\r\n{fields}"))).head.upgrade.is_none());
    }
}

#[test]
fn expect_continue_is_noted_and_stripped() {
    let fields = "Host: a\r\nExpect: 100-Continue\r\nContent-Length: 5\r\n";
    let parsed = accept(&request("POST / HTTP/1.1", fields));
    assert!(parsed.expect_continue && !parsed.head.headers.contains_key("expect"));
    let options = RequestOptions { proxy_100_continue: true, ..RequestOptions::default() };
    let kept = parse_request_with(options, &request("POST / HTTP/1.1", fields))
        .expect("accepted")
        .expect("complete");
    assert!(kept.expect_continue && kept.head.headers.contains_key("expect"));
    let other = accept(&request("POST / HTTP/1.1", "Host: a\r\nExpect: foo\r\n"));
    assert!(!other.expect_continue && other.head.headers.contains_key("expect"));
}

#[test]
fn repeated_inline_headers_are_joined_and_others_are_not() {
    let joined = [
        "x-forwarded-for",
        "accept",
        "accept-encoding",
        "authorization",
        "user-agent",
        "via",
        "content-type",
        "x-request-id",
        "referer",
        "origin",
        "x-forwarded-proto",
        "cache-control",
        "if-none-match",
        "grpc-timeout",
        "expect",
        "x-forwarded-host",
        "pragma",
        "content-encoding",
        "x-envoy-original-path",
    ];
    let separate = [
        "cookie",
        "x-foo",
        "forwarded",
        "range",
        "traceparent",
        "accept-language",
        "x-b3-traceid",
        "proxy-authorization",
        "date",
        "b3",
        "age",
        "etag",
    ];
    for (names, expected) in [(&joined[..], &["1,2"][..]), (&separate[..], &["1", "2"][..])] {
        for name in names {
            let parsed =
                accept(&request("GET / HTTP/1.1", &format!("Host: a\r\n{name}: 1\r\n{name}: 2\r\n")));
            let values: Vec<_> = parsed.head.headers.get_all(*name).iter().collect();
            assert_eq!(values, expected, "{name}");
        }
    }
}

#[test]
fn pipelined_heads_are_taken_one_at_a_time() {
    let mut parser = RequestParser::new(HeadLimits::REQUEST, RequestOptions::default());
    let mut buf =
        BytesMut::from(&b"GET /1 HTTP/1.1\r\nHost: a\r\n\r\nGET /2 HTTP/1.1\r\nHost: a\r\n\r\nGET /3"[..]);
    let mut next =
        || parser.parse(&mut buf).expect("accepted").map(|parsed| parsed.head.path.as_str().to_owned());
    assert_eq!((next(), next(), next()), (Some("/1".into()), Some("/2".into()), None));
    assert_eq!(&buf[..], b"GET /3");
}

#[test]
fn ignored_upgrades_are_taken_out() {
    let options = RequestOptions {
        ignored_upgrades: vec![StringMatcher::prefix("TLS"), StringMatcher::exact("a")],
        ..RequestOptions::default()
    };
    for (asked, kept, written) in [
        ("TLS/1.2", None, None),
        ("a , TLS", None, None),
        ("tls", Some("tls"), Some("tls")),
        ("A,WebSocket", Some("a,websocket"), Some("A,WebSocket")),
        ("TLS/1.2, WebSocket, a", Some("websocket"), Some("WebSocket")),
    ] {
        let fields = format!("Host: a\r\nConnection: Upgrade, x-b\r\nUpgrade: {asked}\r\nX-B: c\r\n");
        let input = request("GET / HTTP/1.1", &fields);
        let head = parse_request_with(options.clone(), &input).expect("accepted").expect("complete").head;
        assert_eq!(head.upgrade.as_deref(), kept, "{asked}");
        let field = head.headers.get("upgrade").map(|value| value.to_str().unwrap());
        assert_eq!(field, written, "{asked}");
        assert_eq!(head.headers.contains_key("connection"), kept.is_some(), "{asked}");
        // Only the peer of an upgrade gets what `connection` names.
        assert_eq!(head.headers.contains_key("x-b"), kept.is_some(), "{asked}");
    }
}

#[test]
fn spelling_is_kept_when_asked() {
    let options = RequestOptions { keep_case: Some(PreserveCase::default()), ..RequestOptions::default() };
    let input = request("GET / HTTP/1.1", "HOST: a\r\nX-MyHeader: 1\r\nplain: 2\r\n");
    let parsed = parse_request_with(options, &input).expect("accepted").expect("complete");
    let case = parsed.head.case.as_ref().expect("asked for");
    let mut out = BytesMut::new();
    RequestMessage {
        head: &parsed.head,
        framing: parsed.framing,
        keys: KeyFormat::Preserve(case),
        target: TargetForm::Origin,
    }
    .encode(&mut out)
    .expect("can be written");
    assert_eq!(out, "GET / HTTP/1.1\r\nHOST: a\r\nX-MyHeader: 1\r\nplain: 2\r\n\r\n");
}

#[test]
fn answers_are_envoys() {
    use RequestError::*;
    let rows = [
        (Malformed, 400, "http1.codec_error", "Bad Request"),
        (InvalidTransferEncoding, 501, "http1.invalid_transfer_encoding", "Not Implemented"),
        (LowVersion, 426, "low_version", "Upgrade Required"),
        (HeadersTooLarge, 431, "http1.headers_too_large", "Request Header Fields Too Large"),
        (TooManyHeaders, 431, "http1.too_many_headers", "Request Header Fields Too Large"),
    ];
    for (error, status, details, body) in rows {
        assert_eq!((error.status().as_u16(), error.details(), error.body()), (status, details, body));
    }
}
