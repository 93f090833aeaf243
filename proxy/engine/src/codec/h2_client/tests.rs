use std::future::poll_fn;

use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};

use super::*;

const SETTINGS: &[u8] = &[0, 0, 0, 4, 0, 0, 0, 0, 0];

/// A frame of stream 1, or of the connection for GOAWAY.
fn frame(kind: u8, payload: &[u8]) -> Vec<u8> {
    let length = u8::try_from(payload.len()).unwrap();
    let mut bytes = vec![0, 0, length, kind, 0, 0, 0, 0, u8::from(kind != 7)];
    bytes.extend_from_slice(payload);
    bytes
}

fn head(authority: &'static str) -> RequestHead {
    let mut headers = HeaderMap::new();
    headers.insert("connection", "close".parse().unwrap());
    headers.insert("te", "gzip, trailers".parse().unwrap());
    headers.insert("host", "other".parse().unwrap());
    RequestHead {
        method: Method::GET,
        scheme: Scheme::Http,
        authority: authority.into(),
        path: "/".into(),
        upgrade: None,
        case: None,
        headers,
    }
}

/// Sends a request to an upstream that answers with `answer` and then closes, and returns how the stream failed and whether
/// the connection takes another stream afterwards.
async fn failure(answer: Vec<u8>) -> (UpstreamReset, bool) {
    let (near, far) = tokio::io::duplex(65536);
    let (send, driver) = h2::client::Builder::new().handshake::<_, Bytes>(near).await.unwrap();
    let mut stream = ClientStream::new(send.clone(), 100, None);
    stream.request(&head("example.test"), true).unwrap();
    let upstream = answer_one(far, answer);
    let exchange = async {
        let failed = poll_fn(|cx| stream.poll_event(cx)).await.unwrap_err();
        let takes = poll_fn(|cx| send.clone().poll_ready(cx)).await.is_ok();
        (failed, takes)
    };
    let driver = async { drop(driver.await) };
    let ((failed, takes), (), ()) = tokio::join!(exchange, upstream, driver);
    (failed, takes)
}

/// Waits for the end of the request head, answers, and closes.
async fn answer_one(mut far: DuplexStream, answer: Vec<u8>) {
    far.write_all(SETTINGS).await.unwrap();
    let mut preface = [0; 24];
    far.read_exact(&mut preface).await.unwrap();
    loop {
        let mut header = [0; 9];
        far.read_exact(&mut header).await.unwrap();
        let mut payload = vec![0; usize::from(header[1]) << 8 | usize::from(header[2])];
        far.read_exact(&mut payload).await.unwrap();
        if header[3] == 1 {
            break;
        }
    }
    far.write_all(&answer).await.unwrap();
}

#[tokio::test]
async fn failures() {
    let reset = |reason: u8| frame(3, &[0, 0, 0, reason]);
    let goaway = |last: u8, reason: u8| frame(7, &[0, 0, 0, last, 0, 0, 0, reason]);
    let cases = [
        ("closed", vec![], UpstreamReset::ConnectionTermination),
        ("REFUSED_STREAM", reset(7), UpstreamReset::RemoteRefused),
        ("CANCEL", reset(8), UpstreamReset::RemoteReset),
        ("PROTOCOL_ERROR", reset(1), UpstreamReset::RemoteReset),
        ("GOAWAY that does not cover the stream", goaway(0, 0), UpstreamReset::RemoteRefused),
        ("the same with an error", goaway(0, 11), UpstreamReset::RemoteRefused),
        ("GOAWAY that covers it, then closed", goaway(1, 0), UpstreamReset::ConnectionTermination),
        ("HEADERS that are none", frame(1, &[0xff; 12]), UpstreamReset::ProtocolError),
    ];
    for (name, answer, expected) in cases {
        let is_goaway = answer.get(3) == Some(&7);
        let (failed, takes) = failure(answer).await;
        assert_eq!(failed, expected, "{name}");
        assert!(!(is_goaway && takes), "{name}: no stream after a GOAWAY");
    }
}

#[tokio::test]
async fn fields_of_http1_stay_behind() {
    let (near, far) = tokio::io::duplex(65536);
    let server = async {
        let mut connection = h2::server::handshake(far).await.unwrap();
        let (request, mut response) = connection.accept().await.unwrap().unwrap();
        response.send_response(http::Response::new(()), true).unwrap();
        drop(response);
        let _ = poll_fn(|cx| connection.poll_closed(cx)).await;
        request
    };
    let client = async {
        let (send, driver) = h2::client::Builder::new().handshake::<_, Bytes>(near).await.unwrap();
        let mut stream = ClientStream::new(send, 100, None);
        stream.request(&head("example.test"), true).unwrap();
        let exchange = async {
            let event = poll_fn(|cx| stream.poll_event(cx)).await;
            drop(stream);
            event
        };
        let (event, _) = tokio::join!(exchange, driver);
        assert!(matches!(event, Ok(UpstreamEvent::Head { end: true, .. })));
    };
    let (request, ()) = tokio::join!(server, client);
    assert_eq!(request.uri().authority().unwrap().as_str(), "example.test");
    assert_eq!(request.headers().get("te").unwrap(), "trailers");
    assert_eq!(request.headers().len(), 1);
}

/// What the stream hears of a response with `body`, and `trailers` if it has some.
async fn heard(body: &'static str, trailers: Option<HeaderMap>) -> Vec<&'static str> {
    let (near, far) = tokio::io::duplex(65536);
    let server = async {
        let mut connection = h2::server::handshake(far).await.unwrap();
        let (_, mut response) = connection.accept().await.unwrap().unwrap();
        let mut send = response.send_response(http::Response::new(()), false).unwrap();
        send.send_data(Bytes::from_static(body.as_bytes()), trailers.is_none()).unwrap();
        if let Some(trailers) = trailers {
            send.send_trailers(trailers).unwrap();
        }
        drop((response, send));
        let _ = poll_fn(|cx| connection.poll_closed(cx)).await;
    };
    let client = async {
        let (send, driver) = h2::client::Builder::new().handshake::<_, Bytes>(near).await.unwrap();
        let mut stream = ClientStream::new(send, 100, None);
        stream.request(&head("example.test"), true).unwrap();
        let exchange = async {
            let mut heard = Vec::new();
            loop {
                heard.push(match poll_fn(|cx| stream.poll_event(cx)).await.unwrap() {
                    UpstreamEvent::Informational(_) => "informational",
                    UpstreamEvent::Head { end: false, .. } => "head",
                    UpstreamEvent::Head { end: true, .. } => "end",
                    UpstreamEvent::Body(BodyEvent::Data(_)) => "data",
                    UpstreamEvent::Body(BodyEvent::Trailers(_)) => "trailers",
                    UpstreamEvent::Body(BodyEvent::End) => "end",
                    UpstreamEvent::Last(_) => "last",
                });
                if matches!(heard.last(), Some(&("last" | "trailers" | "end"))) {
                    drop(stream);
                    return heard;
                }
            }
        };
        tokio::join!(exchange, driver).0
    };
    tokio::join!(server, client).1
}

#[tokio::test]
async fn the_end_comes_with_the_last_piece() {
    assert_eq!(heard("x", None).await, ["head", "last"]);
    assert_eq!(heard("", None).await, ["head", "end"]);
    let trailers =
        HeaderMap::from_iter([(http::HeaderName::from_static("x-sum"), http::HeaderValue::from_static("1"))]);
    assert_eq!(heard("x", Some(trailers)).await, ["head", "data", "trailers"]);
}
