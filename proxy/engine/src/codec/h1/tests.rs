//! Rows of behaviour: what was sent to Envoy 1.40 byte for byte, and what this codec does with it.

mod bodies;
mod encoding;
mod properties;
mod requests;
mod responses;

use bytes::BytesMut;
use proxy_core::head::BodyEvent;

use super::*;

/// A request head with these field lines.
fn request(line: &str, fields: &str) -> Vec<u8> {
    format!("{line}\r\n{fields}\r\n").into_bytes()
}

fn parse_request_with(options: RequestOptions, input: &[u8]) -> Result<Option<ParsedRequest>, RequestError> {
    RequestParser::new(HeadLimits::REQUEST, options).parse(&mut BytesMut::from(input))
}

fn parse_request(input: &[u8]) -> Result<Option<ParsedRequest>, RequestError> {
    parse_request_with(RequestOptions::default(), input)
}

fn accept(input: &[u8]) -> ParsedRequest {
    parse_request(input).expect("accepted").expect("complete")
}

/// The request as it would be sent on.
fn forwarded(parsed: &ParsedRequest) -> String {
    let mut out = BytesMut::new();
    RequestMessage {
        head: &parsed.head,
        framing: parsed.framing,
        keys: KeyFormat::Lower,
        target: TargetForm::Origin,
    }
    .encode(&mut out)
    .expect("can be written");
    String::from_utf8_lossy(&out).into_owned()
}

/// All of a body, and its trailers.
#[derive(Debug, Default, PartialEq, Eq)]
struct Body {
    data: Vec<u8>,
    trailers: Option<http::HeaderMap>,
    complete: bool,
}

/// Decodes what is in `buf`, appending to `body`.
fn drain(decoder: &mut BodyDecoder, buf: &mut BytesMut, body: &mut Body) -> Result<(), BodyError> {
    while let Some(event) = decoder.decode(buf)? {
        match event {
            BodyEvent::Data(data) => {
                assert!(!data.is_empty());
                body.data.extend_from_slice(&data);
            }
            BodyEvent::Trailers(trailers) => {
                body.trailers = Some(trailers);
                body.complete = true;
                return Ok(());
            }
            BodyEvent::End => {
                body.complete = true;
                return Ok(());
            }
        }
    }
    Ok(())
}
