use super::*;
use BodyError::*;

fn decode(framing: BodyFraming, options: TrailerOptions, input: &[u8]) -> Result<(Body, Vec<u8>), BodyError> {
    let mut decoder = BodyDecoder::new(framing, options);
    let mut buf = BytesMut::from(input);
    let mut body = Body::default();
    drain(&mut decoder, &mut buf, &mut body)?;
    Ok((body, buf.to_vec()))
}

fn chunked(input: &[u8]) -> Result<(Body, Vec<u8>), BodyError> {
    decode(BodyFraming::Chunked, TrailerOptions::default(), input)
}

#[test]
fn chunks_are_read() {
    let long_zeros = [&[b'0'; 100][..], b"5\r\nhello\r\n0\r\n\r\n"].concat();
    let rows: [&[u8]; 10] = [
        b"5\r\nhello\r\n0\r\n\r\n",
        b"5;a=b\r\nhello\r\n0\r\n\r\n",
        b"5;a=\"b;c\"\r\nhello\r\n0;x\r\n\r\n",
        b"5 \r\nhello\r\n0\r\n\r\n",
        b"5\t;a=b\r\nhello\r\n0\r\n\r\n",
        b"5;a\x01\xe9\r\nhello\r\n0\r\n\r\n",
        b"2\r\nhe\r\n3\r\nllo\r\n00\r\n\r\n",
        b"5\r\nhello\r\n0\r\nx: y\r\n\r\n",
        b"5\r\nhello\r\n0\r\ncontent-length: 9\r\n\r\n",
        &long_zeros,
    ];
    for input in rows {
        let (body, rest) = chunked(&[input, b"GET /"].concat()).expect("accepted");
        assert_eq!(
            (&body.data[..], body.complete, &rest[..]),
            (&b"hello"[..], true, &b"GET /"[..]),
            "{input:?}"
        );
        assert_eq!(body.trailers, None);
    }
    let (body, _) = chunked(b"A\r\nhellohello\r\n0\r\n\r\n").expect("accepted");
    assert_eq!(body.data, b"hellohello");
}

#[test]
fn what_is_no_chunk_is_refused() {
    let long_extension = [&b"5;"[..], &[b'a'; 5000], b"\r\nhello\r\n0\r\n\r\n"].concat();
    let endless_zeros = [b'0'; 5000];
    let rows: [(&[u8], BodyError); 20] = [
        (b"fffffffffffffffff\r\nhello", InvalidChunk),
        (b"10000000000000000\r\nhello", InvalidChunk),
        (b"0x5\r\nhello\r\n0\r\n\r\n", InvalidChunk),
        (b"-5\r\nhello\r\n0\r\n\r\n", InvalidChunk),
        (b"+5\r\nhello\r\n0\r\n\r\n", InvalidChunk),
        (b" 5\r\nhello\r\n0\r\n\r\n", InvalidChunk),
        (b"5 5\r\nhello\r\n0\r\n\r\n", InvalidChunk),
        (b"\r\nhello\r\n0\r\n\r\n", InvalidChunk),
        (b";a\r\nhello\r\n0\r\n\r\n", InvalidChunk),
        (b"5\nhello\r\n0\r\n\r\n", InvalidChunk),
        (b"5;a\nhello\r\n0\r\n\r\n", InvalidChunk),
        (b"5;a\rb\r\nhello\r\n0\r\n\r\n", InvalidChunk),
        (b"5\r\nhelloXX0\r\n\r\n", InvalidChunk),
        (b"5\r\nhello\n0\r\n\r\n", InvalidChunk),
        (b"0\n\n", InvalidChunk),
        (b"0\r\n\n", InvalidTrailers),
        (b"0\r\n\rX", InvalidTrailers),
        (b"0\r\nx: y\n\r\n", InvalidTrailers),
        (&long_extension, InvalidChunk),
        (&endless_zeros, InvalidChunk),
    ];
    for (input, expected) in rows {
        assert_eq!(chunked(input).err(), Some(expected), "{:?}", &input[..input.len().min(40)]);
    }
}

#[test]
fn the_largest_chunk_size_is_no_overflow() {
    let (body, rest) = chunked(b"ffffffffffffffff\r\nhello").expect("accepted");
    assert_eq!((&body.data[..], body.complete, rest.len()), (&b"hello"[..], false, 0));
}

#[test]
fn trailers_are_delivered_when_enabled() {
    let options = TrailerOptions { trailers: Trailers::Keep, ..TrailerOptions::default() };
    let input = b"0\r\nGrpc-Status: 0\r\nX: y\r\nx: z\r\nContent-Length: 9\r\nTransfer-Encoding: chunked\r\nHost: evil\r\n\r\n";
    let (body, _) = decode(BodyFraming::Chunked, options, input).expect("accepted");
    let trailers = body.trailers.expect("delivered");
    assert_eq!(trailers.keys().map(http::HeaderName::as_str).collect::<Vec<_>>(), ["grpc-status", "x"]);
    assert_eq!(trailers.get_all("x").iter().count(), 2);
}

#[test]
fn trailers_are_checked_and_limited_even_if_dropped() {
    let many: String = (0..150).map(|index| format!("x{index}: y\r\n")).collect();
    let large = format!("x: {}", "y".repeat(70_000));
    let rows = [
        (format!("0\r\n{many}\r\n"), TooManyTrailers),
        (format!("0\r\n{large}\r\n\r\n"), TrailersTooLarge),
        (format!("0\r\n{large}"), TrailersTooLarge),
        ("0\r\nx y: z\r\n\r\n".to_owned(), InvalidTrailers),
        ("0\r\nx: \0\r\n\r\n".to_owned(), InvalidTrailers),
        ("0\r\n x: y\r\n\r\n".to_owned(), InvalidTrailers),
    ];
    for (input, expected) in rows {
        for trailers in [Trailers::Drop, Trailers::Keep] {
            let options = TrailerOptions { trailers, ..TrailerOptions::default() };
            assert_eq!(decode(BodyFraming::Chunked, options, input.as_bytes()).err(), Some(expected));
        }
    }
    assert_eq!(TrailersTooLarge.as_request_error().status(), 431);
    assert_eq!(InvalidChunk.as_request_error().details(), "http1.codec_error");
}

#[test]
fn underscores_in_trailers_follow_the_policy() {
    let with = |underscores| {
        let options = TrailerOptions { trailers: Trailers::Keep, underscores, ..TrailerOptions::default() };
        decode(BodyFraming::Chunked, options, b"0\r\nx_y: 1\r\nz: 2\r\n\r\n").map(|(body, _)| body.trailers)
    };
    assert_eq!(with(Underscores::Allow).expect("accepted").map(|trailers| trailers.len()), Some(2));
    assert_eq!(with(Underscores::Drop).expect("accepted").map(|trailers| trailers.len()), Some(1));
    assert_eq!(with(Underscores::Reject), Err(InvalidTrailers));
}

#[test]
fn lengths_are_exact() {
    let options = TrailerOptions::default();
    let (body, rest) = decode(BodyFraming::Length(5), options, b"helloGET /").expect("accepted");
    assert_eq!((&body.data[..], body.complete, &rest[..]), (&b"hello"[..], true, &b"GET /"[..]));
    let (body, rest) = decode(BodyFraming::None, options, b"GET /").expect("accepted");
    assert_eq!((body.data.len(), body.complete, &rest[..]), (0, true, &b"GET /"[..]));
    let (body, _) = decode(BodyFraming::Length(u64::MAX), options, b"hell").expect("accepted");
    assert!(!body.complete);
}

#[test]
fn the_end_of_the_connection_ends_only_some_bodies() {
    let options = TrailerOptions::default();
    for (framing, input, expected) in [
        (BodyFraming::UntilClose, &b"abc"[..], Ok(())),
        (BodyFraming::None, b"", Ok(())),
        (BodyFraming::Length(3), b"abc", Ok(())),
        (BodyFraming::Length(4), b"abc", Err(Truncated)),
        (BodyFraming::Chunked, b"3\r\nabc\r\n", Err(Truncated)),
        (BodyFraming::Chunked, b"3\r\nabc\r\n0\r\n", Err(Truncated)),
        (BodyFraming::Chunked, b"3\r\nabc\r\n0\r\n\r\n", Ok(())),
    ] {
        let mut decoder = BodyDecoder::new(framing, options);
        let mut body = Body::default();
        drain(&mut decoder, &mut BytesMut::from(input), &mut body).expect("accepted");
        assert_eq!(decoder.finish(), expected, "{framing:?} {input:?}");
        assert_eq!(decoder.is_done(), expected.is_ok());
    }
}

#[test]
fn data_are_slices_of_the_buffer() {
    let mut buf = BytesMut::from(&b"5\r\nhello\r\n"[..]);
    let start = buf.as_ptr() as usize;
    let mut decoder = BodyDecoder::new(BodyFraming::Chunked, TrailerOptions::default());
    let Ok(Some(BodyEvent::Data(data))) = decoder.decode(&mut buf) else { panic!("no data") };
    assert_eq!(data.as_ptr() as usize, start + 3);
}
