use super::*;
use proptest::prelude::*;

/// What a client does to a connection: several heads with their bodies, cut into pieces.
fn pieces(input: &[u8], cuts: &[usize]) -> Vec<Vec<u8>> {
    let mut at: Vec<usize> = cuts.iter().map(|cut| cut % (input.len() + 1)).collect();
    at.push(input.len());
    at.sort_unstable();
    let mut start = 0;
    at.into_iter().map(|end| input[std::mem::replace(&mut start, end)..end].to_vec()).collect()
}

/// All that can be told about a stream of requests: their forwarded heads and bodies, and how it ended.
fn read_requests(parts: &[Vec<u8>]) -> (Vec<(String, Body)>, Option<String>) {
    let options = RequestOptions { proxy_100_continue: true, ..RequestOptions::default() };
    let mut parser = RequestParser::new(HeadLimits { max_bytes: 512, max_headers: 8 }, options);
    let trailers = TrailerOptions { trailers: Trailers::Keep, ..TrailerOptions::default() };
    let mut buf = BytesMut::new();
    let mut messages: Vec<(String, Body)> = Vec::new();
    let mut decoder: Option<BodyDecoder> = None;
    for part in parts {
        buf.extend_from_slice(part);
        loop {
            if let (Some(active), Some((_, body))) = (&mut decoder, messages.last_mut()) {
                if let Err(error) = drain(active, &mut buf, body) {
                    return (messages, Some(error.to_string()));
                }
                if !body.complete {
                    break;
                }
                decoder = None;
            }
            match parser.parse(&mut buf) {
                Ok(None) => break,
                Ok(Some(parsed)) => {
                    decoder = Some(BodyDecoder::new(parsed.framing, trailers));
                    messages.push((forwarded(&parsed), Body::default()));
                }
                Err(error) => return (messages, Some(error.to_string())),
            }
        }
    }
    (messages, None)
}

fn read_responses(parts: &[Vec<u8>], context: ResponseContext) -> (Vec<(String, Body)>, Option<String>) {
    let mut parser =
        ResponseParser::new(HeadLimits { max_bytes: 512, max_headers: 8 }, ResponseOptions::default());
    let trailers = TrailerOptions { trailers: Trailers::Keep, ..TrailerOptions::default() };
    let mut buf = BytesMut::new();
    let mut messages: Vec<(String, Body)> = Vec::new();
    let mut decoder: Option<BodyDecoder> = None;
    for part in parts {
        buf.extend_from_slice(part);
        loop {
            if let (Some(active), Some((_, body))) = (&mut decoder, messages.last_mut()) {
                if let Err(error) = drain(active, &mut buf, body) {
                    return (messages, Some(error.to_string()));
                }
                if !body.complete {
                    break;
                }
                decoder = None;
            }
            match parser.parse(&mut buf, context) {
                Ok(None) => break,
                Ok(Some(parsed)) => {
                    decoder = Some(BodyDecoder::new(parsed.framing, trailers));
                    messages.push((
                        format!("{:?} {:?} {:?}", parsed.head, parsed.kind, parsed.framing),
                        Body::default(),
                    ));
                }
                Err(error) => return (messages, Some(error.to_string())),
            }
        }
    }
    (messages, None)
}

/// A line of a request head: mostly sound, sometimes not.
fn field_line() -> impl Strategy<Value = String> {
    let known = proptest::sample::select(vec![
        "Content-Length: 3",
        "content-length: 03",
        "content-length: +3",
        "Transfer-Encoding: chunked",
        "transfer-encoding: gzip",
        "Connection: close",
        "connection: x-a, keep-alive",
        "Connection: upgrade",
        "Upgrade: websocket",
        "TE: trailers",
        "Expect: 100-continue",
        "cookie: a=b",
        "accept: 1",
        "accept: 2",
        "x-a: 1",
        "X-B:  v  ",
        "x_c: 1",
        "bad header: 1",
        " folded",
        "host: second",
        "x-forwarded-for: 1.2.3.4",
        "proxy-connection: close",
        "no colon",
        "nul: \0",
    ])
    .prop_map(str::to_owned);
    let any = ("[a-zA-Z-]{1,12}", "[ -~\u{e9}]{0,20}").prop_map(|(name, value)| format!("{name}: {value}"));
    prop_oneof![3 => known, 2 => any]
}

fn request_line() -> impl Strategy<Value = String> {
    let method =
        proptest::sample::select(vec!["GET", "POST", "HEAD", "OPTIONS", "CONNECT", "PUT", "get", "FOO"]);
    let target = prop_oneof![
        4 => "/[ -~]{0,12}",
        1 => proptest::sample::select(vec!["*", "http://b/x", "http://b", "b:80", "", "/a#b", "ftp://x/"]).prop_map(str::to_owned),
    ];
    let version = proptest::sample::select(vec![
        "HTTP/1.1", "HTTP/1.1", "HTTP/1.1", "HTTP/1.0", "HTTP/2.0", "http/1.1", "",
    ]);
    (method, target, version).prop_map(|(method, target, version)| format!("{method} {target} {version}"))
}

fn body() -> impl Strategy<Value = String> {
    proptest::sample::select(vec![
        "",
        "abc",
        "abcd",
        "3\r\nabc\r\n0\r\n\r\n",
        "3;x=y\r\nabc\r\n1 \r\nd\r\n0\r\nt: v\r\n\r\n",
        "3\nabc\r\n",
        "zz\r\n",
        "0\r\n\r\n",
        "0\r\nt: v\r\nbad\r\n\r\n",
        "ffffffffffffffffff\r\n",
    ])
    .prop_map(str::to_owned)
}

fn message() -> impl Strategy<Value = Vec<u8>> {
    let lines = proptest::collection::vec(field_line(), 0..6);
    let end = proptest::sample::select(vec!["\r\n", "\r\n", "\r\n", "\n"]);
    (request_line(), lines, body(), end).prop_map(|(line, fields, body, end)| {
        let mut text = format!("{line}{end}host: a{end}");
        for field in fields {
            text.push_str(&field);
            text.push_str(end);
        }
        text.push_str(end);
        text.push_str(&body);
        text.into_bytes()
    })
}

fn response_message() -> impl Strategy<Value = Vec<u8>> {
    let status = proptest::sample::select(vec![
        "HTTP/1.1 200 OK",
        "HTTP/1.1 200",
        "HTTP/1.0 200 OK",
        "HTTP/1.1 204 N",
        "HTTP/1.1 304 N",
        "HTTP/1.1 100 C",
        "HTTP/1.1 101 S",
        "HTTP/1.1 099 x",
        "HTTP/1.1 1000 x",
        "HTTP/2.0 200 OK",
        "ICY 200 OK",
    ]);
    (status, proptest::collection::vec(field_line(), 0..6), body()).prop_map(|(status, fields, body)| {
        let fields: String = fields.iter().map(|field| format!("{field}\r\n")).collect();
        format!("{status}\r\n{fields}\r\n{body}").into_bytes()
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1024, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn pieces_of_requests_make_the_same_requests(
        messages in proptest::collection::vec(message(), 1..4),
        cuts in proptest::collection::vec(any::<usize>(), 0..8),
    ) {
        let input = messages.concat();
        let whole = read_requests(std::slice::from_ref(&input));
        prop_assert_eq!(&read_requests(&pieces(&input, &cuts)), &whole);
        let octets: Vec<Vec<u8>> = input.iter().map(|octet| vec![*octet]).collect();
        prop_assert_eq!(&read_requests(&octets), &whole);
    }

    #[test]
    fn pieces_of_responses_make_the_same_responses(
        messages in proptest::collection::vec(response_message(), 1..4),
        upgrade in any::<bool>(),
    ) {
        let input = messages.concat();
        let context = ResponseContext { upgrade, ..ResponseContext::default() };
        let whole = read_responses(std::slice::from_ref(&input), context);
        let octets: Vec<Vec<u8>> = input.iter().map(|octet| vec![*octet]).collect();
        prop_assert_eq!(read_responses(&octets, context), whole);
    }

    /// What is forwarded is itself understood, as the same message with the same framing, and forwarding that changes nothing.
    #[test]
    fn forwarded_heads_are_stable(input in message()) {
        if let Ok(Some(parsed)) = parse_request(&input) {
            let once = forwarded(&parsed);
            let again = accept(once.as_bytes());
            prop_assert_eq!(again.size, once.len());
            // A body of no octets may be said in two ways.
            prop_assert_eq!(again.framing, parsed.framing);
            prop_assert_eq!(&again.head.method, &parsed.head.method);
            prop_assert_eq!(&again.head.authority, &parsed.head.authority);
            prop_assert_eq!(&again.head.path, &parsed.head.path);
            prop_assert_eq!(&again.head.upgrade, &parsed.head.upgrade);
            prop_assert_eq!(forwarded(&again), once);
        }
    }

    /// A body that goes through decoder and encoder comes out as it was, whatever its chunks were.
    #[test]
    fn bodies_survive(parts in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..40), 0..6)) {
        let head = proxy_core::head::ResponseHead::new(http::StatusCode::OK);
        let message = ResponseMessage {
            head: &head,
            framing: BodyFraming::Chunked,
            method: &http::Method::GET,
            protocol: proxy_core::head::Protocol::Http11,
            connection: ConnectionOption::Default,
            upgrade: None,
            keys: KeyFormat::Lower,
        };
        let mut out = BytesMut::new();
        let mut encoder = message.encode(&mut out).expect("can be written");
        for part in &parts {
            encoder.data(part, &mut out).expect("a chunk");
        }
        encoder.finish(None, &mut out).expect("the end");
        let mut parser = ResponseParser::new(HeadLimits::RESPONSE, ResponseOptions::default());
        let parsed = parser.parse(&mut out, ResponseContext::default()).expect("sound").expect("complete");
        let mut body = Body::default();
        drain(&mut BodyDecoder::new(parsed.framing, TrailerOptions::default()), &mut out, &mut body).expect("sound");
        prop_assert!(body.complete && out.is_empty());
        prop_assert_eq!(body.data, parts.concat());
    }

    #[test]
    fn nothing_panics(input in proptest::collection::vec(any::<u8>(), 0..200)) {
        let input = [&input[..], b"\r\n\r\n"].concat();
        let _ = read_requests(std::slice::from_ref(&input));
        for start in [&b""[..], b"HTTP/1.1 200 ", b"HTTP/1.1 200 OK\r\n"] {
            let _ = read_responses(&[[start, &input].concat()], ResponseContext::default());
        }
        let after_line = [b"GET / HTTP/1.1\r\nhost: a\r\n", &input[..]].concat();
        let _ = read_requests(&[after_line]);
        let chunked = [b"GET / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n", &input[..]].concat();
        let _ = read_requests(&[chunked]);
    }

    /// Nothing behind a message is touched, whatever it is.
    #[test]
    fn what_follows_a_message_stays(rest in proptest::collection::vec(any::<u8>(), 0..60)) {
        let message = b"POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nt: v\r\n\r\n";
        let mut buf = BytesMut::from(&[&message[..], &rest].concat()[..]);
        let mut parser = RequestParser::new(HeadLimits::REQUEST, RequestOptions::default());
        let parsed = parser.parse(&mut buf).expect("sound").expect("complete");
        let mut body = Body::default();
        let mut decoder = BodyDecoder::new(parsed.framing, TrailerOptions::default());
        drain(&mut decoder, &mut buf, &mut body).expect("sound");
        prop_assert!(body.complete);
        prop_assert_eq!(&buf[..], &rest[..]);
        prop_assert!(matches!(decoder.decode(&mut buf), Ok(Some(BodyEvent::End))));
        prop_assert_eq!(&buf[..], &rest[..]);
    }
}
