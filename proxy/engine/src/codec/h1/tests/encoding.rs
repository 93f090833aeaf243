use super::*;
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use proxy_core::head::{Protocol, RequestHead, ResponseHead, Scheme};

fn headers(fields: &[(&'static str, &'static str)]) -> HeaderMap {
    let pairs =
        fields.iter().map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value)));
    let mut map = HeaderMap::new();
    for (name, value) in pairs {
        map.append(name, value);
    }
    map
}

fn head(method: Method, path: &str, fields: &[(&'static str, &'static str)]) -> RequestHead {
    RequestHead {
        method,
        scheme: Scheme::Http,
        authority: "a".into(),
        path: path.into(),
        upgrade: None,
        case: None,
        headers: headers(fields),
    }
}

fn encode_request(head: &RequestHead, framing: BodyFraming) -> Result<String, EncodeError> {
    let mut out = BytesMut::new();
    RequestMessage { head, framing, keys: KeyFormat::Lower, target: TargetForm::Origin }.encode(&mut out)?;
    Ok(String::from_utf8_lossy(&out).into_owned())
}

fn message(head: &ResponseHead, framing: BodyFraming) -> ResponseMessage<'_> {
    ResponseMessage {
        head,
        framing,
        method: &Method::GET,
        protocol: Protocol::Http11,
        connection: ConnectionOption::Default,
        upgrade: None,
        keys: KeyFormat::Lower,
    }
}

fn encode_response(message: &ResponseMessage<'_>) -> String {
    let mut out = BytesMut::new();
    message.encode(&mut out).expect("can be written");
    String::from_utf8_lossy(&out).into_owned()
}

fn response(status: u16, fields: &[(&'static str, &'static str)]) -> ResponseHead {
    ResponseHead {
        status: StatusCode::from_u16(status).expect("valid"),
        headers: headers(fields),
        case: None,
    }
}

/// Everything that a header map can say about framing and the connection, all of it lies.
const LIES: &[(&str, &str)] = &[
    ("content-length", "99"),
    ("transfer-encoding", "chunked"),
    ("content-length", "7"),
    ("connection", "close, x"),
    ("keep-alive", "1"),
    ("proxy-connection", "close"),
    ("upgrade", "h2c"),
    ("x", "y"),
];

#[test]
fn framing_comes_from_the_value_alone() {
    let rows = [
        (BodyFraming::None, "content-length: 0\r\n", "x: y\r\n"),
        (BodyFraming::Length(5), "content-length: 5\r\n", "x: y\r\n"),
        (BodyFraming::Chunked, "", "x: y\r\ntransfer-encoding: chunked\r\n"),
        // A request cannot end with the connection.
        (BodyFraming::UntilClose, "", "x: y\r\ntransfer-encoding: chunked\r\n"),
    ];
    for (framing, before, after) in rows {
        let sent = encode_request(&head(Method::POST, "/", LIES), framing).expect("can be written");
        assert_eq!(sent, format!("POST / HTTP/1.1\r\nhost: a\r\n{before}{after}\r\n"), "{framing:?}");
    }
    let liar = response(200, LIES);
    let rows = [
        (BodyFraming::None, "content-length: 0\r\n", "x: y\r\n"),
        (BodyFraming::Length(5), "content-length: 5\r\n", "x: y\r\n"),
        (BodyFraming::Chunked, "", "x: y\r\ntransfer-encoding: chunked\r\n"),
        (BodyFraming::UntilClose, "", "x: y\r\nconnection: close\r\n"),
    ];
    for (framing, before, after) in rows {
        let sent = encode_response(&message(&liar, framing));
        assert_eq!(sent, format!("HTTP/1.1 200 OK\r\n{before}{after}\r\n"), "{framing:?}");
    }
}

#[test]
fn a_host_in_the_map_is_not_a_second_host() {
    let sent = encode_request(&head(Method::GET, "/", &[("host", "evil")]), BodyFraming::None);
    assert_eq!(sent.as_deref(), Ok("GET / HTTP/1.1\r\nhost: a\r\n\r\n"));
}

#[test]
fn text_from_elsewhere_is_checked() {
    for path in ["", "/a b", "/a\r\nx: y", "/a\0", "/\u{e9}", "/a\tb"] {
        let refused = encode_request(&head(Method::GET, path, &[]), BodyFraming::None);
        assert_eq!(refused, Err(EncodeError::InvalidPath), "{path:?}");
    }
    for authority in ["a b", "a\r\nx: y", "a/b", "u@a", "a\0"] {
        let head = RequestHead { authority: authority.into(), ..head(Method::GET, "/", &[]) };
        assert_eq!(
            encode_request(&head, BodyFraming::None),
            Err(EncodeError::InvalidAuthority),
            "{authority:?}"
        );
    }
    for upgrade in ["", "a\r\nx: y"] {
        let head = RequestHead { upgrade: Some(upgrade.into()), ..head(Method::GET, "/", &[]) };
        assert_eq!(encode_request(&head, BodyFraming::None), Err(EncodeError::InvalidUpgrade), "{upgrade:?}");
    }
}

#[test]
fn tunnels_are_opened() {
    let connect =
        RequestHead { authority: "a:80".into(), ..head(Method::CONNECT, "", &[("content-length", "3")]) };
    let sent = encode_request(&connect, BodyFraming::UntilClose);
    assert_eq!(sent.as_deref(), Ok("CONNECT a:80 HTTP/1.1\r\nhost: a:80\r\n\r\n"));
    let upgrade =
        RequestHead { upgrade: Some("websocket".into()), ..head(Method::GET, "/", &[("upgrade", "x")]) };
    let sent = encode_request(&upgrade, BodyFraming::None);
    let expected = "GET / HTTP/1.1\r\nhost: a\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n";
    assert_eq!(sent.as_deref(), Ok(expected));
    let switching = response(101, &[("x", "y")]);
    let message =
        ResponseMessage { upgrade: Some("websocket"), ..self::message(&switching, BodyFraming::UntilClose) };
    let expected =
        "HTTP/1.1 101 Switching Protocols\r\nx: y\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n";
    assert_eq!(encode_response(&message), expected);
    let spelt = response(101, &[("connection", "Keep-Alive, Upgrade"), ("upgrade", "WebSocket")]);
    let message =
        ResponseMessage { upgrade: Some("websocket"), ..self::message(&spelt, BodyFraming::UntilClose) };
    let expected =
        "HTTP/1.1 101 Switching Protocols\r\nconnection: Keep-Alive, Upgrade\r\nupgrade: WebSocket\r\n\r\n";
    assert_eq!(encode_response(&message), expected);
    let established = response(200, &[("content-length", "5")]);
    let message =
        ResponseMessage { method: &Method::CONNECT, ..self::message(&established, BodyFraming::UntilClose) };
    assert_eq!(encode_response(&message), "HTTP/1.1 200 OK\r\n\r\n");
}

#[test]
fn bodies_that_are_not_sent_are_described() {
    let with_length = &[("content-length", "5")][..];
    let rows = [
        (204, with_length, Method::GET, BodyFraming::Length(5), ""),
        (100, with_length, Method::GET, BodyFraming::Length(5), ""),
        (304, with_length, Method::GET, BodyFraming::None, "content-length: 5\r\n"),
        (304, &[], Method::GET, BodyFraming::Chunked, ""),
        (200, with_length, Method::HEAD, BodyFraming::None, "content-length: 5\r\n"),
        (200, &[], Method::HEAD, BodyFraming::Length(7), "content-length: 7\r\n"),
        (200, &[], Method::HEAD, BodyFraming::None, "transfer-encoding: chunked\r\n"),
        (200, &[("content-length", "x")], Method::HEAD, BodyFraming::None, "transfer-encoding: chunked\r\n"),
    ];
    for (status, fields, method, framing, expected) in rows {
        let head = response(status, fields);
        let message = ResponseMessage { method: &method, ..message(&head, framing) };
        let mut out = BytesMut::new();
        let mut body = message.encode(&mut out).expect("can be written");
        let reason = head.status.canonical_reason().expect("known");
        assert_eq!(
            out,
            format!("HTTP/1.1 {status} {reason}\r\n{expected}\r\n"),
            "{status} {method} {framing:?}"
        );
        let length = out.len();
        body.data(b"hello", &mut out).expect("suppressed");
        body.finish(None, &mut out).expect("suppressed");
        assert!(!body.sends_body() && out.len() == length);
    }
}

#[test]
fn old_clients_get_old_answers() {
    let head = response(200, &[]);
    let old = ResponseMessage { protocol: Protocol::Http10, ..message(&head, BodyFraming::Chunked) };
    assert_eq!(encode_response(&old), "HTTP/1.0 200 OK\r\nconnection: close\r\n\r\n");
    let kept = ResponseMessage {
        protocol: Protocol::Http10,
        connection: ConnectionOption::KeepAlive,
        ..message(&head, BodyFraming::Length(2))
    };
    assert_eq!(
        encode_response(&kept),
        "HTTP/1.0 200 OK\r\nconnection: keep-alive\r\ncontent-length: 2\r\n\r\n"
    );
}

#[test]
fn reasons_are_envoys() {
    let rows = [
        (200, "OK"),
        (101, "Switching Protocols"),
        (103, "Unknown"),
        (208, "Already Reported"),
        (299, "Unknown"),
        (413, "Payload Too Large"),
        (416, "Range Not Satisfiable"),
        (418, "Unknown"),
        (422, "Unprocessable Entity"),
        (451, "Unknown"),
        (505, "HTTP Version Not Supported"),
        (599, "Last Unassigned Server Error Code"),
        (999, "Unknown"),
    ];
    for (status, reason) in rows {
        let head = response(status, &[]);
        let sent = encode_response(&message(&head, BodyFraming::Length(1)));
        assert!(sent.starts_with(&format!("HTTP/1.1 {status} {reason}\r\n")), "{sent}");
    }
}

#[test]
fn names_can_be_proper_words() {
    let head = response(200, &[("x-foo-bar", "1"), ("www-authenticate", "x"), ("x-a1b-c!d_e", "1")]);
    let message = ResponseMessage { keys: KeyFormat::ProperCase, ..message(&head, BodyFraming::Length(2)) };
    let expected = "HTTP/1.1 200 OK\r\nX-Foo-Bar: 1\r\nWww-Authenticate: x\r\nX-A1b-C!D_E: 1\r\nContent-Length: 2\r\n\r\n";
    assert_eq!(encode_response(&message), expected);
}

#[test]
fn bodies_are_held_to_their_length() {
    let head = response(200, &[]);
    let mut out = BytesMut::new();
    let mut body = message(&head, BodyFraming::Length(5)).encode(&mut out).expect("can be written");
    out.clear();
    body.data(b"hel", &mut out).expect("fits");
    assert_eq!(body.finish(None, &mut out), Err(EncodeError::BodyTooShort));
    assert_eq!(body.data(b"lo!", &mut out), Err(EncodeError::BodyTooLong));
    body.data(b"lo", &mut out).expect("fits");
    assert_eq!(body.finish(None, &mut out), Ok(()));
    assert_eq!(&out[..], b"hello");
}

#[test]
fn chunks_and_trailers_are_written() {
    let head = response(200, &[]);
    let mut out = BytesMut::new();
    let mut body = message(&head, BodyFraming::Chunked).encode(&mut out).expect("can be written");
    out.clear();
    body.data(b"", &mut out).expect("nothing");
    body.data(b"hello", &mut out).expect("a chunk");
    body.data(&[b'x'; 300], &mut out).expect("a chunk");
    let trailers =
        headers(&[("grpc-status", "0"), ("content-length", "3"), ("transfer-encoding", "chunked")]);
    body.finish(Some(&trailers), &mut out).expect("the end");
    let expected = format!("5\r\nhello\r\n12c\r\n{}\r\n0\r\ngrpc-status: 0\r\n\r\n", "x".repeat(300));
    assert_eq!(out, expected);
}
